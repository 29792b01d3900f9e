"""Run tests against a mutant, in a process forked from one that has everything imported.

Of the packages only the project's own is imported anew, with one module changed; the files on disk
stay as they are. Tests run until the first one fails, those first that have killed a mutant before.

What is run: the tests of the given files that reach the changed statement in a run without a change
(all tests, if it runs at import or in a fixture that tests share), with the examples that
hypothesis draws in CI, all of them; only shrinking is off. Tests of planted faults
(``test_planted_...``) are left out: they check the tests.
"""

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# One thread each for the numerical libraries, one order of tests and examples.
ENVIRONMENT = {
    **dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1"),
    "CI": "true",
    "HYPOTHESIS_PROFILE": "mutants",
    "MPLBACKEND": "Agg",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
MEMORY = 6 * 2**30  # bytes that a mutant may take
SHARED = "shared"  # the context of lines that run at import or in shared fixtures


@dataclass(frozen=True)
class Plan:
    """What a run without a change tells about a chapter and its test files."""

    seconds: dict[str, float]  # of each test that passed
    reached: dict[int, set[str]]  # line -> tests
    left_out: dict[str, str]  # test -> why
    modules: list[str]  # imported on the way, from elsewhere

    def tests(self, lines: Iterable[int]) -> list[str]:
        """Return the tests that reach some of the lines, quick ones first."""
        found: set[str] = set()
        for line in lines:
            found |= self.reached.get(line, set())
        chosen = self.seconds.keys() if SHARED in found else found & self.seconds.keys()
        return sorted(chosen, key=lambda test: (self.seconds[test], test))


def merge(plans: Sequence[Plan]) -> Plan:
    """Put the plans of several test files together."""
    reached: dict[int, set[str]] = defaultdict(set)
    for plan in plans:
        for line, tests in plan.reached.items():
            reached[line] |= tests
    return Plan(
        {test: seconds for plan in plans for test, seconds in plan.seconds.items()},
        dict(reached),
        {test: why for plan in plans for test, why in plan.left_out.items()},
        sorted({name for plan in plans for name in plan.modules}),
    )


@dataclass(frozen=True)
class Place:
    """The project's folder, the module to change, the test files."""

    root: Path
    module: str  # package.name
    tests: tuple[str, ...]  # relative to root
    uncompiled: bool = False  # whether Numba stays off
    patience: float = 5.0  # seconds; a test may take this and five times its usual time

    @property
    def path(self) -> Path:
        """Return the module's file."""
        return self.root.joinpath(*self.module.split(".")).with_suffix(".py")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: killed, timeout or survived; by which test; how many it met."""

    state: str
    test: str
    met: int
    seconds: float


def survey(place: Place) -> Plan:
    """Run the tests once, unchanged, and watch which lines of the module each one reaches."""
    import coverage

    _enter(place)
    path = str(place.path)
    watch = coverage.Coverage(data_file=None, include=[path], config_file=False)
    watch.start()
    watch.switch_context(SHARED)
    plugin = Watching(watch)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = _pytest(place, place.tests, plugin)
    watch.stop()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(
            f"{' '.join(place.tests)}: pytest ended with {code!r}\n{said.getvalue()}"
        )
    with warnings.catch_warnings(action="ignore"):  # a file of tests may not reach the module
        lines = watch.get_data().contexts_by_lineno(path)
    return Plan(
        plugin.seconds,
        {line: set(contexts) - {""} for line, contexts in lines.items()},
        plugin.left_out,
        sorted(_foreign_modules(place.root)),
    )


class Watching:
    """A pytest plugin: names the running test to the tracer, notes seconds and what failed."""

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self.seconds: dict[str, float] = {}
        self.left_out: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the tests that check tests."""
        items[:] = [item for item in items if not item.name.startswith("test_planted_")]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Let lines count for a test while it runs."""
        self.watch.switch_context(item.nodeid)
        start = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - start
        self.watch.switch_context(SHARED)
        if item.nodeid in self.left_out:
            del self.seconds[item.nodeid]
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """Let lines that a shared fixture runs count for all tests."""
        if fixturedef.scope != "function":
            self.watch.switch_context(SHARED)
        result = yield
        self.watch.switch_context(request.node.nodeid or SHARED)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Only a test that passes can judge."""
        if report.outcome != "passed":
            self.left_out[report.nodeid] = report.outcome


# --- the process from which mutants are forked ----------------------------------------------------


@dataclass
class Court:
    """State of a worker process."""

    place: Place
    plan: Plan
    kills: dict[str, int] = field(default_factory=lambda: defaultdict(int))


_court: Court | None = None


def convene(place: Place, plan: Plan) -> None:
    """Make this process the one to fork from: import all but the project's own modules."""
    global _court  # noqa: PLW0603 -- a worker of a pool keeps its state in its module
    _enter(place)
    for name in plan.modules:
        with contextlib.suppress(Exception):  # then the mutant will import what it needs
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a mutant's collector need not look at all this, nor copy the pages
    _court = Court(place, plan)


def judge(source: str, lines: Sequence[int]) -> Verdict:
    """Fork, run the tests against the changed source, tell what became of it."""
    assert _court is not None, "convene() comes first"
    place, plan, kills = _court.place, _court.plan, _court.kills
    tests = plan.tests(lines)
    tests.sort(key=lambda test: plan.seconds[test] / (1 + 9 * kills[test]))
    if not tests:
        return Verdict("survived", "no test reaches it", 0, 0.0)
    start = time.perf_counter()
    here, there = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(here)
        _be_the_mutant(place, plan, source, tests, there)
    os.close(there)
    with os.fdopen(here) as stream:
        words = stream.read()
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what its tests left running
    seconds = time.perf_counter() - start
    *begun, last = words.splitlines() or [""]
    met = len(begun)
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return Verdict("timeout" if late else "killed", last or "import", met, seconds)
    result = json.loads(last)
    if result["killer"]:
        kills[result["killer"]] += 1
    return Verdict(result["state"], result["killer"], met, seconds)


def _be_the_mutant(place: Place, plan: Plan, source: str, tests: list[str], pipe: int) -> None:
    """Run the tests with the changed module; write each one's name, then the result; exit."""
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        sys.meta_path.insert(0, Changed(place, source))
        plugin = Judging(plan, tests, pipe, place.patience)
        plugin.limit(10.0)  # for the imports
        files = tuple(dict.fromkeys(test.split("::")[0] for test in tests))
        code = _pytest(place, files, plugin, "-x")
        state = "survived" if code == pytest.ExitCode.OK else "killed"
        result = {"state": state, "killer": plugin.killer or ("" if code == 0 else "import")}
        os.write(pipe, json.dumps(result).encode())
    finally:
        os._exit(0)


class Judging:
    """A pytest plugin: runs chosen tests in a given order, each within a limit of time."""

    def __init__(self, plan: Plan, tests: list[str], pipe: int, patience: float) -> None:
        self.plan, self.tests, self.pipe, self.patience = plan, tests, pipe, patience
        self.killer = ""

    def limit(self, seconds: float) -> None:
        """Let the operating system end the process after so much work, or much longer idle."""
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 120.0 + 10.0 * seconds)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose and sort."""
        found = {item.nodeid: item for item in items}
        items[:] = [found[test] for test in self.tests if test in found]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Say which test begins, and start its clock."""
        os.write(self.pipe, f"{item.nodeid}\n".encode())
        self.limit(self.patience + 5.0 * self.plan.seconds[item.nodeid])
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first test that fails."""
        if report.failed and not self.killer:
            self.killer = report.nodeid


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, under its usual path, with another text."""

    def __init__(self, place: Place, source: str) -> None:
        self.place, self.source = place, source

    def find_spec(self, name: str, *_: Any) -> Any:
        """Answer for the one module."""
        if name != self.place.module:
            return None
        return importlib.util.spec_from_file_location(name, self.place.path, loader=self)

    def exec_module(self, module: Any) -> None:
        """Run the changed text."""
        exec(compile(self.source, str(self.place.path), "exec"), module.__dict__)


def _enter(place: Place) -> None:
    """Set a new process up, before it imports anything numerical."""
    os.environ.update(ENVIRONMENT)
    if place.uncompiled:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    os.chdir(place.root)
    # Other modules are compiled once, whatever the environment says about bytecode.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(place.root / ".mutation" / "bytecode")
    sys.path.insert(0, str(place.root))


def _pytest(place: Place, files: Sequence[str], plugin: Any, *options: str) -> int:
    plugins = ["-p", "no:cacheprovider"]
    if importlib.util.find_spec("_hypothesis_pytestplugin"):
        plugins += ["-p", "_hypothesis_pytestplugin"]
    root = ["--rootdir", str(place.root), "--assert=plain"]
    every = ("-m", "")  # the slow ones, too
    return pytest.main([*files, "-q", *every, *plugins, *root, *options], plugins=[plugin])


def _foreign_modules(root: Path) -> Iterator[str]:
    """Names of imported modules that do not belong to the project."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and not name.startswith("__"):
            path = Path(file).resolve()
            if not path.is_relative_to(root) or "site-packages" in path.parts:
                yield name
