"""Where the book runs: without Numba, without a folder for compiled code, in threads and forks.

Processes of their own meet the obstacles as users do: a broken or absent Numba, homes and caches
that cannot be written to, files that cannot be read. The results are compared with those of this
process, which compiles.
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from main_functions import work
from support import caught, seeds, sides

import qcp_ref
from qcp_ref import Grid, _kernels
from qcp_ref._kernels import Kernel, can_compile, missing_numba
from qcp_ref.app.demo import measure

THIS = sys.modules[__name__]
ROOT = Path(__file__).parent.parent
BROKEN = {
    "of another NumPy": "raise ImportError('Numba needs NumPy 2.0 or less')",
    "broken": "raise SystemError('initialization failed')",
    "shadowed": "njit = None",
}


# For processes that may not write: coverage, too, would leave a file behind.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": None, "COVERAGE_PROCESS_START": None}


def process(code, *, folder=ROOT, limit=120, **environment):
    """Run code in an interpreter; a variable that is None is not set. Return what it printed."""
    clean = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    changed = clean | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={k: str(v) for k, v in changed.items() if v is not None},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def without_numba():
    """Let this process believe that Numba is missing, and that this was said."""
    before = _kernels._Numba.missing
    missing_numba()
    _kernels._Numba.missing = "blocked by a test"
    told, _kernels._Numba.told = _kernels._Numba.told, True
    try:
        yield
    finally:
        _kernels._Numba.missing, _kernels._Numba.told = before, told


# --- results --------------------------------------------------------------------------------------


PROGRAM = """
import sys, warnings
with warnings.catch_warnings(record=True) as early:
    warnings.simplefilter("always")
    import numpy as np, qcp_ref
assert not early, early
assert not {{"numba", "scipy", "logging"}} & {{name for name, m in sys.modules.items() if m}}
sys.path.append({tests!r})
from main_functions import work
warnings.simplefilter("always")
np.savez({out!r}, **work())
"""


def assert_agrees(found, wanted):
    """Equal bits where sums have one order, else numbers up to rounding, errors nearly."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.startswith("bits"):
            assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name
        elif name.startswith("error"):  # rounding may lead a search elsewhere
            assert np.allclose(found[name], value, rtol=0.1), name
        else:
            assert np.allclose(found[name], value, rtol=1e-12), name


@pytest.mark.parametrize("case", ["absent", "switched off"])
def test_public_functions_run_without_numba_and_agree(tmp_path, case):
    out = tmp_path / "found.npz"
    block = "import sys; sys.modules['numba'] = None\n" if case == "absent" else ""
    switch = "1" if case == "switched off" else None
    code = block + PROGRAM.format(out=str(out), tests=str(ROOT / "tests" / "helpers"))
    done = process(code, NUMBA_DISABLE_JIT=switch)
    assert done.stderr.count("NumbaMissingWarning") == 1, done.stderr
    assert "qcp_ref runs without Numba (" in done.stderr and "install numba" in done.stderr
    with np.load(out) as found:
        assert_agrees(dict(found), work())


@pytest.mark.parametrize("case", BROKEN)
def test_whatever_the_import_of_numba_raises_is_said_and_survived(tmp_path, case):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(BROKEN[case])
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np, qcp_ref as q
print(q.choose_scale(np.arange(-9.0, 99.0), q.Grid(4)).scale)
"""
    done = process(code)
    wanted = qcp_ref.choose_scale(np.arange(-9.0, 99.0), Grid(4)).scale
    assert np.isclose(float(done.stdout), wanted, rtol=1e-12)
    assert done.stderr.count("NumbaMissingWarning") == 1 and "Error: " in done.stderr


def test_the_warning_comes_once_at_first_use_and_points_to_the_caller():
    code = """
import os, sys, threading, warnings
sys.modules["numba"] = None
import numpy as np, qcp_ref as q
from qcp_ref._kernels import NumbaMissingWarning
x = np.random.default_rng(0).standard_normal(500)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    q.project(x, q.Grid(4), scale=1.0), q.choose_scale(x[:4], q.Grid(4))  # need no kernel
    assert not caught
    ready = threading.Barrier(4)
    def first():
        ready.wait()
        q.choose_scale(x, q.Grid(4))
    threads = [threading.Thread(target=first) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    q.choose_scale(x, q.Grid(4))
    found, = caught
assert found.category is NumbaMissingWarning and issubclass(found.category, RuntimeWarning)
assert found.filename == "<string>", found.filename
assert "ModuleNotFoundError" in str(found.message)
"""
    process(code)


def test_the_warning_can_be_made_an_error_which_comes_once_too():
    code = """
import sys, warnings
sys.modules["numba"] = None
import numpy as np, qcp_ref as q
warnings.simplefilter("error")
x = np.arange(500.0)
try:
    q.choose_scale(x, q.Grid(4))
except RuntimeWarning as warning:
    print(q.choose_scale(x, q.Grid(4)).scale > 0, type(warning).__name__)
"""
    assert process(code).stdout == "True NumbaMissingWarning\n"


def test_kernels_say_what_they_need():
    one, (x, y) = Kernel(_kernels.gap.py_func), np.ones((2, 1))
    with without_numba():
        assert not can_compile() and missing_numba() == "blocked by a test"
        with pytest.raises(ImportError, match=r"gap: .* needs Numba, .*blocked by a test"):
            one(x, np.eye(1), y, 0)
    assert can_compile() and one(x, np.eye(1), y, 0) == 0


def test_the_kit_runs_without_numba():
    code = """
from qcp_ref.conformance.__main__ import main
print(main(["qcp_ref.conformance.reference:numpy_adapter", "--smoke"]))
"""
    good = process(code, NUMBA_DISABLE_JIT="1")
    assert good.stdout.endswith("\n0\n") and " fail" not in good.stdout


def test_the_demo_says_that_a_package_is_not_there():
    assert measure._version("numpy") == np.__version__
    assert measure._version("no-such-package-here") == "not installed"


# --- the readable forms ---------------------------------------------------------------------------


@st.composite
def row_problems(draw):
    """F, G, grid: some columns dead, of scales far apart, or parallel; ties among the codes."""
    rng = np.random.default_rng([draw(seeds), 81])
    count, rank = draw(sides), draw(st.integers(1, 7))
    K = rng.integers(-2, 3, (rank + 3, rank)) + draw(st.sampled_from([0.0, 0.3])) * (
        rng.standard_normal((rank + 3, rank))
    )
    K = K * (rng.random(rank) < 0.8) * 2.0 ** rng.integers(-3, 4, rank)
    F = draw(st.sampled_from([0.5, 2.0, 50.0])) * rng.standard_normal((count, rank + 3)) @ K
    grids = [Grid(1), Grid(2), Grid(3, mid_rise=True), Grid(4), Grid(3, signed=False)]
    return F, K.T @ K, draw(st.sampled_from([*grids, Grid(1, kind="binary")]))


def readable_rows(F, G, grid, **how):
    """Solve rows by the readable forms."""
    with without_numba():
        return qcp_ref.solve_rows(F, G, grid, 1.0, **how)


@settings(max_examples=60)
@given(row_problems(), st.sampled_from(["descent", "sphere"]), st.sampled_from([0, 3, 30, 10**5]))
def test_rows_are_solved_equally_well_by_either_form(problem, method, budget):
    F, G, grid = problem
    how = {"method": method, "budget": budget}
    fast, slow = qcp_ref.solve_rows(F, G, grid, 1.0, **how), readable_rows(F, G, grid, **how)
    if method == "descent":
        assert np.array_equal(fast.codes, slow.codes)
    # ties may fall otherwise, so objectives are compared; they are of the size of F G^-1 F
    size = 1e-9 * (1 + np.abs(fast.objective) + np.abs(F).max() ** 2)
    both = fast.proved & slow.proved
    assert (np.abs(fast.objective - slow.objective) <= size)[both].all()
    for one, other in ((fast, slow), (slow, fast)):
        assert (one.bound <= other.objective + size).all()
    if budget == 10**5:
        assert np.array_equal(fast.proved, slow.proved)


def readable_conv(x, cp, **how):
    """Convolve by the readable form."""
    with without_numba():
        return qcp_ref.cp_conv2d(x, cp, **how)


@settings(max_examples=40)
@given(seeds, sides, sides, st.integers(1, 3), st.integers(1, 2), st.sampled_from(["same", 0, 2]))
def test_convolutions_have_the_same_bits(seed, channels, rank, side, stride, padding):
    rng = np.random.default_rng([seed, 82])
    for dtype in (np.float32, np.float64):
        x = rng.standard_normal((2, channels, 5, 6)).astype(dtype)
        shapes = ((3, rank), (channels, rank), (side * side, rank))
        cp = qcp_ref.CP([rng.standard_normal(shape).astype(dtype) for shape in shapes])
        how = {"kernel_size": side, "stride": stride, "padding": padding, "dilation": 1}
        fast, slow = qcp_ref.cp_conv2d(x, cp, **how), readable_conv(x, cp, **how)
        assert fast.dtype == slow.dtype and np.array_equal(fast, slow)


def readable_scale(x, grid, **how):
    """Choose a scale by the readable form."""
    with without_numba():
        return qcp_ref.choose_scale(x, grid, **how)


@settings(max_examples=60)
@given(seeds, st.integers(1, 300), st.sampled_from(["normal", "cauchy", "ties", "tiny"]))
def test_scales_are_equally_good(seed, size, law):
    rng = np.random.default_rng([seed, 83])
    x = {
        "normal": lambda: rng.standard_normal(size),
        "cauchy": lambda: rng.standard_cauchy(size),
        "ties": lambda: rng.integers(-9, 10, size) / 4.0,
        "tiny": lambda: 1e-200 * rng.standard_normal(size),
    }[law]()
    for grid in (Grid(2), Grid(4), Grid(3, mid_rise=True), Grid(6, signed=False)):
        fast, slow = qcp_ref.choose_scale(x, grid).scale, readable_scale(x, grid).scale
        errors = [np.linalg.norm(x - qcp_ref.project(x, grid, scale=s)) for s in (fast, slow)]
        assert abs(errors[0] - errors[1]) <= 1e-12 * np.linalg.norm(x)
    how = {"rule": "mse-200"}
    fast, slow = qcp_ref.choose_scale(x, Grid(4), **how), readable_scale(x, Grid(4), **how)
    errors = [np.linalg.norm(x - qcp_ref.project(x, Grid(4), scale=s)) for s in (fast, slow)]
    assert abs(errors[0] - errors[1]) <= 1e-12 * np.linalg.norm(x)


# --- no folder for compiled code ------------------------------------------------------------------

# The depthwise stage is the kernel that compiles fastest.
CONVOLVE = """
import numpy as np, sys
import qcp_ref as q
from qcp_ref._kernels import gather
def convolve(dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (1, 2, 4, 4)).astype(dtype)
    factors = [rng.integers(-9, 10, shape).astype(dtype) for shape in ((3, 2), (2, 2), (9, 2))]
    y = q.cp_conv2d(x, q.CP(factors), kernel_size=3)
    assert y.dtype == dtype
    return int(y.sum())
def cached():
    return sum(gather.compiled().stats.cache_hits.values())
"""


def answer():
    found = {}
    exec(CONVOLVE, found)
    return found["convolve"]()


def made(folder):
    folder.mkdir()
    return folder


def obstructed(folder):
    """Copy the package into a folder where nothing can be cached beside it, even by root."""
    left_out = ignore_patterns("__pycache__", "app", "conformance")
    copytree(ROOT / "qcp_ref", folder / "qcp_ref", ignore=left_out)
    (folder / "qcp_ref" / "__pycache__").write_text("a file, not a folder")
    (folder / "file").write_text("")
    return folder


@pytest.mark.parametrize(
    "places",
    [
        {"HOME": "{0}/file"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "{0}/file/cache"},
        {"NUMBA_CACHE_DIR": "{0}/file/cache", "HOME": "{0}/file"},
        {"XDG_CACHE_HOME": "relative", "HOME": ""},
    ],
)
def test_where_no_folder_can_be_written_to_kernels_are_compiled_all_the_same(tmp_path, places):
    folder = obstructed(tmp_path)
    places = {name: place.format(folder) for name, place in places.items()}
    code = f"{CONVOLVE}print(q.__file__, convolve())"
    done = process(code, folder=folder, **places)
    assert done.stdout == f"{folder}/qcp_ref/__init__.py {answer()}\n"
    assert done.stderr == ""
    assert {path.name for path in folder.iterdir()} == {"qcp_ref", "file"}


def test_where_numba_finds_no_place_at_all_it_compiles():
    """The very error that was seen: RuntimeError, no locator available."""
    code = """
import numba.core.caching as caching
getattr(caching, "CacheImpl", getattr(caching, "_CacheImpl", None))._locator_classes = []
def cannot(function):
    return function + 1
try:
    numba.njit(cache=True)(cannot)
except RuntimeError as error:
    assert "no locator available" in str(error)
    print(convolve())
"""
    done = process(f"{CONVOLVE}import numba{code}")
    assert (done.stdout, done.stderr) == (f"{answer()}\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_user_without_name_and_home_leaves_nothing_behind(tmp_path):
    folder = obstructed(made(tmp_path / "site"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    tmp_path.chmod(0o755)
    code = f"""
import os, numba
x = np.ones((1, 1, 1))
numba.njit(gather.py_func)(x, x[0], np.zeros((1, 1), int), x.copy())  # imports all that it needs
os.chdir({str(tmp_path / "open")!r})
os.setgid(54321); os.setuid(54321)
assert os.path.expanduser("~") == "~"
print(convolve())
"""
    done = process(CONVOLVE + code, folder=folder, HOME=None, **UNMEASURED)
    assert (done.stdout, done.stderr) == (f"{answer()}\n", "")
    assert not list((tmp_path / "open").iterdir())


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path):
    full = """
import resource, numba
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(convolve(), cached())
"""
    done = process(CONVOLVE + full, NUMBA_CACHE_DIR=tmp_path, **UNMEASURED)
    assert (done.stdout, done.stderr) == (f"{answer()} 0\n", "")
    assert process(f"{CONVOLVE}print(convolve(), cached())", NUMBA_CACHE_DIR=tmp_path).stdout
    again = process(f"{CONVOLVE}print(convolve(), cached())", NUMBA_CACHE_DIR=tmp_path)
    assert again.stdout == f"{answer()} 1\n"


def garbage(index, data):
    index.write_bytes(b"no index")


def cut(index, data):
    data[0].write_bytes(data[0].read_bytes()[:100])


def emptied(index, data):
    index.write_bytes(b"")


def lost(index, data):
    data[0].unlink()


def swapped(index, data):
    """Leave the code for other types under a name, as two processes at once may do."""
    one, other = (path.read_bytes() for path in data)
    data[0].write_bytes(other)
    data[1].write_bytes(one)


@pytest.mark.parametrize("damage", [garbage, cut, emptied, lost, swapped])
def test_what_cannot_be_read_is_compiled_and_stored_anew(tmp_path, monkeypatch, damage):
    missing_numba()
    monkeypatch.setattr(_kernels._Numba.config, "CACHE_DIR", str(tmp_path))
    exact, rough = np.array([5.0, 3.0]), np.array([4.0, 2.0], np.float32)

    def run():
        kernel = Kernel(_kernels.gap.py_func)  # as a new process has it
        found = [kernel(x, np.eye(2, dtype=x.dtype), np.ones_like(x), 0) for x in (exact, rough)]
        assert found == [4.0, 3.0]
        return sum(kernel.compiled().stats.cache_hits.values())

    assert run() == 0
    (index,), data = tmp_path.rglob("*.nbi"), sorted(tmp_path.rglob("*.nbc"))
    assert len(data) == 2
    damage(index, data)
    assert run() < 2
    assert run() == 2


# --- at once --------------------------------------------------------------------------------------


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path):
    commands = [f"{CONVOLVE}print(convolve(np.{t}))" for t in ("float32", "float64")]
    found = []
    threads = [
        threading.Thread(
            target=lambda code=code: found.append(process(code, NUMBA_CACHE_DIR=tmp_path).stdout)
        )
        for code in commands
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"{answer()}\n"] * 2


def fresh():
    """A kernel that nobody has called."""

    def triple(x):
        return 3 * x

    return Kernel(triple)


def test_threads_that_call_a_kernel_first_share_one_compilation(monkeypatch):
    made, compile_one = [], _kernels._compile

    def slowly(function):
        time.sleep(0.05)
        made.append(compile_one(function))
        return made[-1]

    monkeypatch.setattr(_kernels, "_compile", slowly)
    kernel, ready, found = fresh(), threading.Barrier(8), []

    def call():
        ready.wait()
        found.append((kernel.compiled(), kernel(2.0)))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and found == [(made[0], 6.0)] * 8


def test_a_process_forked_while_a_thread_compiles_can_compile():
    code = """
import os, signal, threading, time
from numba.core.compiler_lock import global_compiler_lock
q.choose_scale(np.arange(9.0), q.Grid(4))
from qcp_ref._kernels import missing_numba
assert not missing_numba()
inside, since = threading.Event(), time.monotonic()
def compile_something():
    with global_compiler_lock:
        inside.set()
        time.sleep(0.5)
thread = threading.Thread(target=compile_something)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # without the guard it would wait for a thread that it does not have
    os._exit(convolve() % 256)
assert time.monotonic() - since >= 0.5
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
assert convolve() is not None  # and the parent's lock is free again
"""
    done = process(CONVOLVE + code, NUMBA_CACHE_DIR="/proc/nothing")
    assert done.stdout == f"{answer() % 256}\n"


def test_a_fork_during_the_import_of_numba_waits_for_it():
    code = """
import os, signal, sys, threading, time
def first():
    convolve()
thread = threading.Thread(target=first)
thread.start()
while "numba" not in sys.modules:
    time.sleep(0.001)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(convolve() % 256)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""
    assert process(CONVOLVE + code).stdout == f"{answer() % 256}\n"


# --- planted faults -------------------------------------------------------------------------------


def greedy_rows(F, G, grid, **how):
    """Takes the nearest plane for the optimum."""
    with without_numba():
        fit = qcp_ref.solve_rows(F, G, grid, 1.0, method="babai")
    return fit._replace(bound=fit.objective, proved=np.ones(len(F), dtype=bool))


def overlooked_budget(F, G, grid, **how):
    """Claims a proof when the budget has ended the search."""
    with without_numba():
        fit = qcp_ref.solve_rows(F, G, grid, 1.0, **how)
    return fit._replace(bound=fit.objective, proved=np.ones(len(F), dtype=bool))


def float64_conv(x, cp, **how):
    """Adds in float64 and rounds once."""
    wide = qcp_ref.CP([A.astype(np.float64) for A in cp.factors])
    return qcp_ref.cp_conv2d(x.astype(np.float64), wide, **how).astype(x.dtype)


def max_abs_scale(x, grid, **how):
    """Covers the range, whatever the error."""
    return qcp_ref.choose_scale(x, grid, rule="max-abs-two-sided" if grid.bits < 5 else "min-max")


@pytest.mark.parametrize(
    ("test", "name", "wrong"),
    [
        (test_rows_are_solved_equally_well_by_either_form, "readable_rows", greedy_rows),
        (test_rows_are_solved_equally_well_by_either_form, "readable_rows", overlooked_budget),
        (test_convolutions_have_the_same_bits, "readable_conv", float64_conv),
        (test_scales_are_equally_good, "readable_scale", max_abs_scale),
    ],
)
def test_planted_faults_are_caught(test, name, wrong):
    assert caught(THIS, test, **{name: wrong})
