"""The pytest plug-in of qcp_ref: its options, and tests of an implementation under test.

It comes as an entry point, so ``pytest --pyargs qcp_ref.conformance --qcp-impl my_adapter:impl``
knows its options. In a test suite of one's own, ``TestQCP = suite(impl)`` gives one test per case:
see :func:`qcp_ref.conformance.suite`.

pytest imports this file in every run, also of projects that never use it. So it stands outside the
package, whose import loads NumPy and the whole book; the kit is imported when a test asks for it.

Checked by tests/conformance/test_plugin.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

__all__ = [
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_terminal_summary",
]

_RUNS = "qcp_runs"


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Add the options."""
    group = parser.getgroup("qcp", "conformance with qcp_ref")
    group.addoption("--qcp-impl", help="the implementation: module:name or file.py:name")
    group.addoption("--qcp-levels", help='levels to run, such as "L0 L2" (default: all)')
    group.addoption("--qcp-xfails", help="TOML file of known failures")
    group.addoption("--qcp-write-xfails", help="write the failures to this file")
    group.addoption("--qcp-report", help="write a JSON report to this file")
    group.addoption("--qcp-suite", help="take only cases that this version of the suite has")
    group.addoption("--qcp-timeout", type=float, default=10.0, help="seconds per case")
    first = "seconds for the first case of each operation"
    group.addoption("--qcp-warmup", type=float, default=60.0, help=first)
    group.addoption("--qcp-repeat", type=int, default=2, help="make each call so often")


def pytest_configure(config: "pytest.Config") -> None:
    """Make a place for the implementations of this pytest run."""
    setattr(config, _RUNS, {})


def pytest_generate_tests(metafunc: "pytest.Metafunc") -> None:
    """Give the test of each implementation its cases."""
    if {"qcp_run", "qcp_case"} <= set(metafunc.fixturenames):
        from qcp_ref.conformance.running.pytest_suite import parametrize

        parametrize(metafunc, getattr(metafunc.config, _RUNS))


def pytest_collection_finish(session: "pytest.Session") -> None:
    """Open the implementations whose cases were chosen, once, before the first case."""
    if getattr(session.config, _RUNS) and not session.config.option.collectonly:
        from qcp_ref.conformance.running.pytest_suite import open_runs

        open_runs(session.items)


def pytest_terminal_summary(terminalreporter: Any, config: "pytest.Config") -> None:
    """Print each implementation's claim line, and write the files that were asked for."""
    if runs := getattr(config, _RUNS):
        from qcp_ref.conformance.running.pytest_suite import summarize

        summarize(terminalreporter, config, runs)
