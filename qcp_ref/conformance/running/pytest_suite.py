"""The cases of an implementation as tests of pytest, in a test suite of one's own or from here.

The hooks are in the module ``qcp_ref_pytest`` beside the package. pytest imports it at the start of
every run, so it imports nothing until a test asks for cases. What it needs from then on is here.

Checked by tests/conformance/test_plugin.py.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from qcp_ref.conformance.adapter import REPEAT, Adapter
from qcp_ref.conformance.cases.vectors import (
    SUITE,
    chosen_cases,
    counts,
    everything,
    kills,
    needs,
)
from qcp_ref.conformance.running.report import Report, Result
from qcp_ref.conformance.running.session import TIMEOUT, WARMUP, Session
from qcp_ref.conformance.running.xfails import apply, read, write

if TYPE_CHECKING:
    import pytest

__all__ = ["Run", "open_runs", "parametrize", "report_of", "suite", "summarize"]

_LIMITS = ("timeout", "warmup", "repeat")


class Run:
    """One implementation in one pytest run: its session is opened once, before the first case."""

    def __init__(self, implementation: Adapter | str, options: Mapping[str, Any]) -> None:
        """Choose the cases and read the known failures."""
        self.implementation, self.options = implementation, options
        cases = everything(options.get("suite"))
        self.xfails = []
        if options.get("xfails"):
            self.xfails = read(options["xfails"], SUITE, [case["id"] for case in cases])
        self.cases = chosen_cases(cases, options.get("levels"))
        self.session: Session | None = None
        self.refusal: ValueError | None = None
        self.results: list[Result] = []

    def open(self) -> Session:
        """Return the session; if it cannot be opened, that is tried once."""
        if self.refusal is not None:
            raise self.refusal
        if self.session is None:
            limits = {key: self.options[key] for key in _LIMITS if key in self.options}
            try:
                self.session = Session(self.implementation, **limits)
            except ValueError as error:
                self.refusal = error
                raise
        return self.session

    def run(self, case: Mapping[str, Any]) -> Result:
        """Run one case."""
        self.results.append(apply(self.open().run(case), self.xfails))
        return self.results[-1]

    def close(self) -> None:
        """End the session, if there is one."""
        if self.session is not None:
            self.session.close()

    def report(self) -> Report | None:
        """End the session and return its report; nothing if no case was run."""
        if self.session is None or not self.results:
            self.close()
            return None
        self.close()
        whole = counts(self.options.get("suite"))
        return Report(self.session.info, SUITE, self.results, kills(), whole, needs())


def suite(
    implementation: Adapter | str,
    *,
    levels: str | None = None,
    xfails: str | None = None,
    timeout: float = TIMEOUT,
    warmup: float = WARMUP,
    repeat: int = REPEAT,
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
    timeout, warmup : float
        Seconds per case, and for the first case of each operation.
    repeat : int
        How often each call is made.

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
    limits = {"timeout": timeout, "warmup": warmup, "repeat": repeat}
    options = {"levels": levels, "xfails": xfails, **limits}

    def test_case(self: Any, qcp_run: Run, qcp_case: Mapping[str, Any]) -> None:
        del self
        report_of(qcp_run.run(qcp_case))

    return type("TestConformance", (), {"qcp": (implementation, options), "test_case": test_case})


def report_of(result: Result) -> None:
    """Turn a result into pytest's."""
    import pytest

    if result.outcome in ("absent", "n/a"):
        pytest.skip(result.says)
    if result.outcome == "xfail":
        pytest.xfail(result.says)
    if result.outcome not in ("pass", "suspect"):
        word = f"{result.word}: " if result.word else ""
        pytest.fail(f"{result.id} [{result.outcome}] {word}{result.says}", pytrace=False)


def parametrize(metafunc: "pytest.Metafunc", runs: dict[Any, Run]) -> None:
    """Give the test of an implementation its cases; one that is new is added to the runs."""
    import pytest

    own = getattr(metafunc.cls, "qcp", None)
    key = id(own[0]) if own else "command line"
    if key not in runs:
        option = metafunc.config.getoption
        names = ("levels", "xfails", "suite", *_LIMITS)
        options = own[1] if own else {name: option(f"qcp_{name}") for name in names}
        implementation = own[0] if own else option("qcp_impl")
        if implementation is None:
            metafunc.parametrize(("qcp_run", "qcp_case"), [])
            return
        try:
            runs[key] = Run(implementation, options)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
    run = runs[key]
    metafunc.parametrize(
        ("qcp_run", "qcp_case"), [pytest.param(run, case, id=case["id"]) for case in run.cases]
    )


def open_runs(items: Iterable[Any]) -> None:
    """Open the sessions of the cases that are going to be run.

    An implementation that cannot be loaded is one wrong question, not as many failures as there
    are cases.
    """
    import pytest

    try:
        for item in items:
            run = getattr(getattr(item, "callspec", None), "params", {}).get("qcp_run")
            if isinstance(run, Run):
                run.open()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def summarize(terminalreporter: Any, config: "pytest.Config", runs: Mapping[Any, Run]) -> None:
    """Write the files that were asked for, then print each implementation's claim line."""
    for report in filter(None, (run.report() for run in runs.values())):
        failures, lost = partial(write, suite=report.suite, results=report.results), []
        for option, save in (("qcp_report", report.write), ("qcp_write_xfails", failures)):
            path = config.getoption(option)
            try:
                if path:
                    save(path)
            except OSError as error:
                lost.append(f"cannot write {path}: {error.strerror}")
        name = f"{report.info['name']} {report.info['version']}".strip()
        terminalreporter.write_line(f"{name}: {report.claim()}")
        for line in lost:
            terminalreporter.write_line(line, red=True)
