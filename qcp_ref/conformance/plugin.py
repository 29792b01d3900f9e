"""The pytest plugin: an implementation's cases as tests of one's own suite, or from this package.

It comes as an entry point, so ``pytest --pyargs qcp_ref.conformance --qcp-impl my_adapter:impl``
knows its options. In a test suite of one's own, ``TestQCP = suite(impl)`` gives one test per case.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from qcp_ref.conformance.adapter import Adapter

__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_terminal_summary",
    "suite",
]

_SESSIONS = "qcp_sessions"


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


class _Run:
    """One implementation in one pytest run: its session is opened when the first case needs it."""

    def __init__(self, implementation: Any, options: Mapping[str, Any]) -> None:
        from qcp_ref.conformance.vectors import SUITE, load
        from qcp_ref.conformance.xfails import read

        self.implementation, self.options = implementation, options
        cases = load(options.get("suite"))
        self.xfails = []
        if options.get("xfails"):
            self.xfails = read(options["xfails"], SUITE, [case["id"] for case in cases])
        self.cases = chosen_cases(cases, options.get("levels"))
        self.session: Any = None
        self.results: list[Any] = []

    def run(self, case: Mapping[str, Any]) -> Any:
        """Run one case."""
        from qcp_ref.conformance.runner import Session
        from qcp_ref.conformance.xfails import apply

        if self.session is None:
            self.session = Session(self.implementation, timeout=self.options["timeout"])
        self.results.append(apply(self.session.run(case), self.xfails))
        return self.results[-1]


def chosen_cases(cases: list[Any], levels: str | None) -> list[Any]:
    """Return the cases of the levels that were asked for, or all of them."""
    from qcp_ref.conformance.spec import LEVELS, OPS

    wanted = levels.replace(",", " ").split() if levels else list(LEVELS)
    unknown = set(wanted) - set(LEVELS)
    if unknown:
        raise ValueError(f"levels: expected some of {list(LEVELS)}, got {sorted(unknown)}")
    return [case for case in cases if OPS[case["op"]].level in wanted]


def suite(
    implementation: "Adapter | str",
    *,
    levels: str | None = None,
    xfails: str | None = None,
    timeout: float = 10.0,
) -> type:
    """Make a test class with one test per case, for a test suite of one's own.

    Parameters
    ----------
    implementation : Adapter or str
        The adapter, or where to find it.
    levels : str, optional
        Levels to run, as in ``"L0 L2"``; default: all.
    xfails : str, optional
        A TOML file of known failures (``qcp_ref.conformance.xfails``).
    timeout : float
        Seconds per case.

    Returns
    -------
    type
        A class to be bound to a name that begins with ``Test``.

    Examples
    --------
    >>> from qcp_ref.conformance import suite
    >>> from qcp_ref.conformance.reference import numpy_adapter
    >>> TestNumPy = suite(numpy_adapter, levels="L0 L2")
    """
    options = {"levels": levels, "xfails": xfails, "timeout": timeout}

    def test_case(self: Any, qcp_run: _Run, qcp_case: Mapping[str, Any]) -> None:
        del self
        report_of(qcp_run.run(qcp_case))

    return type("TestConformance", (), {"qcp": (implementation, options), "test_case": test_case})


def report_of(result: Any) -> None:
    """Turn a result into pytest's."""
    import pytest

    if result.outcome in ("absent", "n/a"):
        pytest.skip(result.says)
    if result.outcome == "xfail":
        pytest.xfail(result.says)
    if result.outcome not in ("pass", "suspect"):
        word = f"{result.word}: " if result.word else ""
        pytest.fail(f"{result.id} [{result.outcome}] {word}{result.says}", pytrace=False)


def pytest_configure(config: "pytest.Config") -> None:
    """Make a place for the runs of this session."""
    setattr(config, _SESSIONS, {})


def pytest_generate_tests(metafunc: "pytest.Metafunc") -> None:
    """Give the test of each implementation its cases."""
    if not {"qcp_run", "qcp_case"} <= set(metafunc.fixturenames):
        return
    import pytest

    runs, own = getattr(metafunc.config, _SESSIONS), getattr(metafunc.cls, "qcp", None)
    key = id(own[0]) if own else "command line"
    if key not in runs:
        option = metafunc.config.getoption
        names = ("levels", "xfails", "timeout", "suite")
        options = own[1] if own else {name: option(f"qcp_{name}") for name in names}
        implementation = own[0] if own else option("qcp_impl")
        if implementation is None:
            metafunc.parametrize(("qcp_run", "qcp_case"), [])
            return
        try:
            runs[key] = _Run(implementation, options)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
    run = runs[key]
    metafunc.parametrize(
        ("qcp_run", "qcp_case"), [pytest.param(run, case, id=case["id"]) for case in run.cases]
    )


def _reports(config: "pytest.Config") -> Iterator[Any]:
    for run in getattr(config, _SESSIONS).values():
        if run.session is not None:
            from qcp_ref.conformance.runner import Report
            from qcp_ref.conformance.vectors import SUITE, counts, kills

            run.session.close()
            asked = run.session.info, SUITE, run.results
            yield Report(*asked, kills(), counts(run.options.get("suite")))


def pytest_terminal_summary(terminalreporter: Any, config: "pytest.Config") -> None:
    """Print each implementation's claim line, and write the files that were asked for."""
    from qcp_ref.conformance.xfails import write

    for report in _reports(config):
        name = f"{report.info['name']} {report.info['version']}".strip()
        terminalreporter.write_line(f"{name}: {report.claim()}")
        targets = [(config.getoption("qcp_report"), report.write)]
        targets.append(
            (
                config.getoption("qcp_write_xfails"),
                lambda path, report=report: write(path, report.suite, report.results),
            )
        )
        for path, writer in targets:
            try:
                if path:
                    writer(path)
            except OSError as error:
                terminalreporter.write_line(f"cannot write {path}: {error.strerror}", red=True)
