"""Each kernel of qcp_ref._kernels: compiled, interpreted, and against the form that it replaces."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import (
    assert_within,
    caught,
    exact,
    seeds,
    sides,
)

from qcp_ref import Grid, _kernels, loops, project
from qcp_ref._kernels import (
    Kernel,
    cell_at,
    descend,
    gain_bound,
    gather,
    moments,
    near_best,
    scan,
    sphere,
    tails,
)
from qcp_ref.factors.descent import descend_columns
from qcp_ref.grids.minimum import moments_of
from qcp_ref.layers.conv import depthwise_plain
from qcp_ref.layers.geometry import axis_sources, window_axes

THIS = sys.modules[__name__]
GRIDS = [
    Grid(1),
    Grid(1, mid_rise=True),
    Grid(2),
    Grid(3, narrow=True),
    Grid(4),
    Grid(4, mid_rise=True),
    Grid(1, signed=False),
    Grid(3, signed=False),
]


def both(kernel, *args):
    """The result of the compiled kernel, after the interpreted one gave the same bits."""
    compiled, plain = kernel(*args), kernel.py_func(*args)
    assert np.array_equal(np.array(compiled), np.array(plain), equal_nan=True)
    return compiled


@st.composite
def samples(draw, max_size=30):
    """Sorted numbers: small integers (ties, duplicates, zeros), decimals, or of a drawn law."""
    size = draw(st.integers(1, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    law = draw(st.sampled_from(["integers", "decimals", "normal", "cauchy", "constant"]))
    x = {
        "integers": lambda: rng.integers(-6, 7, size) + 0.0,
        "decimals": lambda: rng.choice([0.1, 0.3, -0.7, 0.7, 0.0], size),
        "normal": lambda: rng.standard_normal(size),
        "cauchy": lambda: rng.standard_cauchy(size),
        "constant": lambda: np.full(size, rng.standard_normal()),
    }[law]()
    return np.sort(x)


def numbers(grid):
    return float(grid.qmin), float(grid.qmax), grid.offset


def spec(grid):
    return {name: getattr(grid, name) for name in ("bits", "signed", "narrow", "mid_rise")}


def gain(x, grid, s):
    """Squared norm minus squared error, by rounding."""
    return x @ x - ((x - project(x, grid, scale=s)) ** 2).sum()


# --- compiling ------------------------------------------------------------------------------------


@Kernel
def double(x: float) -> float:
    """Return twice the argument."""
    return 2 * x


@Kernel
def quadruple(x: float) -> float:
    """Return four times the argument."""
    return double(double(x))


# Mutation testing runs this file without a compiler: the plain functions stand for the kernels.
INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
compiled = Kernel.compiled
# Compiled code says nothing when it overflows.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar multiply")


@pytest.fixture(scope="module", autouse=True)
def plain():
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            patch.setattr(Kernel, "compiled", lambda kernel: kernel.py_func)
        yield


class Lock:
    """Notes who asks for it."""

    def __init__(self, notes, name):
        self.notes, self.name = notes, name

    def acquire(self):
        self.notes.append(f"{self.name} taken")

    def release(self):
        self.notes.append(f"{self.name} free")

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()


@pytest.fixture
def numba(monkeypatch):
    """A stand-in for Numba that notes what it is asked for, in a process that has not met it."""
    notes = []

    class Fresh(_kernels._Numba):
        lock = Lock(notes, "ours")
        asked, told, guarded, held = False, False, False, False
        missing, njit, config, compiling = "", None, None, None

    def njit(**options):
        notes.append(options)
        return Dispatcher

    class Dispatcher:
        _cache = "numba's"

        def __init__(self, function):
            self.py_func = function
            self.__name__ = function.__name__

        def __call__(self, *args, **kwargs):
            return self.py_func(*args, **kwargs)

        def enable_caching(self):
            notes.append("cache")

    module, core = ModuleType("numba"), ModuleType("numba.core")
    module.njit, module.config = njit, SimpleNamespace(DISABLE_JIT=0, CACHE_DIR="")
    compiler_lock = ModuleType("numba.core.compiler_lock")
    compiler_lock.global_compiler_lock = Lock(notes, "numba's")
    module.core, core.compiler_lock = core, compiler_lock
    for one in (module, core, compiler_lock):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    monkeypatch.setattr(os, "register_at_fork", lambda **steps: notes.append(steps))
    monkeypatch.setattr(_kernels, "_Numba", Fresh)
    monkeypatch.setattr(Kernel, "compiled", compiled)
    module.notes, module.fresh, module.dispatcher = notes, Fresh, Dispatcher
    return module


def test_numba_is_asked_for_once_and_guarded_against_forks_once(numba):
    fresh, notes = numba.fresh, numba.notes
    assert _kernels.missing_numba() == _kernels.missing_numba() == ""
    assert fresh.asked and fresh.njit is numba.njit and fresh.config is numba.config
    assert fresh.compiling is numba.core.compiler_lock.global_compiler_lock
    before, after = fresh.before_fork, fresh.after_fork
    assert notes == [
        "ours taken",
        {"before": before, "after_in_parent": after, "after_in_child": after},
        "ours free",
    ]
    fresh.ask()
    assert len(notes) == 3


def test_of_two_threads_that_ask_at_once_the_second_finds_the_answer(numba, monkeypatch):
    class Slow(Lock):
        def acquire(self):
            numba.fresh.asked, numba.fresh.missing = True, "the other one found this"

        __enter__ = acquire

    monkeypatch.setattr(numba.fresh, "lock", Slow([], "ours"))
    assert _kernels.missing_numba() == "the other one found this"
    assert numba.fresh.njit is None

    class SlowToTell(Lock):
        def acquire(self):
            numba.fresh.told = True

        __enter__ = acquire

    monkeypatch.setattr(numba.fresh, "lock", SlowToTell([], "ours"))
    assert not _kernels.can_compile()  # a warning would be an error


def test_systems_that_cannot_fork_need_no_guard(numba, monkeypatch):
    monkeypatch.delattr(os, "register_at_fork")
    assert _kernels.missing_numba() == "" and not numba.fresh.guarded


@pytest.mark.parametrize("asked", [False, True])
def test_while_a_process_is_copied_nobody_else_compiles(numba, asked):
    fresh, notes = numba.fresh, numba.notes
    if asked:
        _kernels.missing_numba()
    taken = ["ours taken", "numba's taken"] if asked else ["ours taken"]
    free = ["numba's free", "ours free"] if asked else ["ours free"]
    notes.clear()
    fresh.after_fork()  # of a child that was guarded half-way
    assert notes == []
    fresh.before_fork()
    assert notes == taken and fresh.held
    fresh.after_fork()
    assert notes == taken + free and not fresh.held
    fresh.after_fork()
    assert notes == taken + free


def test_why_numba_is_missing_is_said_once_where_the_user_called(numba):
    numba.config.DISABLE_JIT = 1
    book = {"__name__": "qcp_ref.chapter", "can_compile": _kernels.can_compile}
    exec(
        compile("def f():\n    return g()\ndef g():\n    return can_compile()", "book", "exec"),
        book,
    )
    line = "qcp_ref runs without Numba (NUMBA_DISABLE_JIT is set): its readable NumPy forms take "
    with pytest.warns(_kernels.NumbaMissingWarning, match="^" + re.escape(line)) as said:
        assert book["f"]() is False
    assert said[0].filename == __file__ and len(said) == 1
    assert book["f"]() is False  # another warning would be an error


def test_warnings_of_direct_calls_and_of_the_bottom_of_the_stack(numba, monkeypatch):
    frame = SimpleNamespace(f_back=None, f_globals={"__name__": "qcp_ref.chapter"})
    for bottom, level in (("qcp_ref.chapter", 3), ("qcp_reference", 3), (None, 3), ("user", 3)):
        last = SimpleNamespace(f_back=None, f_globals={"__name__": bottom} if bottom else {})
        middle = SimpleNamespace(f_back=last, f_globals=frame.f_globals)
        first = SimpleNamespace(f_back=middle, f_globals=frame.f_globals)
        monkeypatch.setattr(sys, "_getframe", lambda depth, first=first: first)
        assert _kernels._callers() == level
    user = SimpleNamespace(f_back=frame, f_globals={"__name__": "__main__"})
    monkeypatch.setattr(sys, "_getframe", lambda depth: [None, user][depth])
    assert _kernels._callers() == 1


def test_where_nothing_is_missing_nothing_is_said(numba):
    assert _kernels.can_compile() is True and not numba.fresh.told


@pytest.mark.parametrize("error", [ImportError("no numba"), SystemError("broken")])
def test_whatever_the_import_raises_is_the_reason(numba, error, monkeypatch):
    class Raising(ModuleType):
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "numba.core.compiler_lock", Raising("lock"))
    assert _kernels.missing_numba() == f"{type(error).__name__}: {error}"
    with pytest.raises(ImportError, match=rf"^{_kernels.gap.__name__}: .*{error}.*install numba"):
        Kernel(_kernels.gap.py_func)(1)


def test_a_kernel_is_compiled_for_numba_with_its_kernels(numba, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = Kernel(double.py_func), None
    scope = {"one": one, "other": 3}
    exec("def f(x, *, y):\n    'Say twice.'\n    return one(x) + y * other", scope)
    two = Kernel(scope["f"])
    assert two(2, y=5) == 19 and two(1, y=1) == 5
    assert two.compiled() is two.compiled() and one.compiled() is one.compiled()
    found = two.compiled()
    assert isinstance(found, numba.dispatcher) and found.py_func is not scope["f"]
    assert found.py_func.__globals__["one"] is one.compiled()
    assert found.py_func.__globals__["other"] == 3 and scope["one"] is one
    assert (found.py_func.__name__, found.py_func.__doc__) == ("f", "Say twice.")
    assert not hasattr(found.py_func, "__wrapped__")
    assert (two.__name__, two.__doc__, two.py_func) == ("f", "Say twice.", scope["f"])
    options = [note for note in numba.notes if isinstance(note, dict) and "before" not in note]
    assert options == 2 * [{"nogil": True, "error_model": "numpy"}]
    assert isinstance(found._cache, _kernels._Cache) and found._cache._cache == "numba's"


@pytest.mark.parametrize(
    ("xdg", "home", "folder", "cached"),
    [
        (None, "/home/me", "", True),
        (None, "", "", False),
        ("relative", "/home/me", "", False),
        ("/cache", "", "", True),
        ("relative", "", "/numba", True),
    ],
)
def test_code_is_kept_where_there_is_a_place(numba, monkeypatch, xdg, home, folder, cached):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setattr(os.path, "expanduser", lambda path: home or path)
    numba.config.CACHE_DIR = folder
    found = Kernel(double.py_func).compiled()
    assert ("cache" in numba.notes) == cached
    assert isinstance(found._cache, _kernels._Cache) == cached


def test_a_cache_that_cannot_be_made_is_done_without(numba, monkeypatch):
    def fail(self):
        raise RuntimeError("no locator available")

    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setattr(numba.dispatcher, "enable_caching", fail)
    found = Kernel(double.py_func).compiled()
    assert found(2) == 4 and found._cache == "numba's"


class Store:
    """A cache of Numba: what it has, or the exception that it raises."""

    name = "of the store"

    def __init__(self, has=None, stuck=False):
        self.has, self.stuck, self.notes = has, stuck, []

    def load_overload(self, types, context):
        self.notes.append(("load", types, context))
        if isinstance(self.has, Exception):
            raise self.has
        return self.has

    def save_overload(self, types, code):
        self.notes.append(("save", types, code))
        if self.stuck:
            raise OSError("disk full")

    def flush(self):
        self.notes.append("flush")
        if self.stuck:
            raise OSError("read-only")


def test_a_cache_gives_what_was_made_for_these_types_only():
    types = SimpleNamespace(args=("float64",))
    code = SimpleNamespace(signature=SimpleNamespace(args=("float64",)))
    other = SimpleNamespace(signature=SimpleNamespace(args=("float32",)))
    for has, wanted, found in (
        (code, types, code),
        (code, ("float64",), code),
        (None, types, None),
        (other, types, None),
        (other, ("float64",), None),
        (OSError("cut off"), types, None),
    ):
        for stuck in (False, True):
            store = Store(has, stuck)
            cache = _kernels._Cache(store)
            assert cache.load_overload(wanted, "context") is found
            flushed = ["flush"] if has is not found else []
            assert store.notes == [("load", wanted, "context"), *flushed]
            cache.save_overload(types, code)
            assert store.notes[-1] == ("save", types, code)
            assert cache.name == "of the store"


@pytest.mark.skipif(INTERPRETED, reason="needs a compiler")
def test_kernels_are_compiled_once_and_may_call_each_other():
    assert quadruple(1.5) == quadruple.py_func(1.5) == 6
    assert quadruple.compiled() is quadruple.compiled()
    assert quadruple.compiled().py_func is not quadruple.py_func
    assert (quadruple.__name__, quadruple.__doc__) == (
        "quadruple",
        "Return four times the argument.",
    )


@pytest.mark.parametrize(
    "code",
    [
        "import qcp_ref",
        "import qcp_ref as q; q.project([3.0, 1.0, -2.0], q.Grid(4)); q.project([0.0], q.Grid(4))",
    ],
)
def test_neither_the_import_nor_small_inputs_load_the_compiler(code):
    check = f"{code}; import sys; assert not {{'numba', 'scipy'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.skipif(INTERPRETED, reason="needs a compiler")
def test_kernels_neither_reorder_sums_nor_start_threads():
    for kernel in vars(_kernels).values():
        if isinstance(kernel, Kernel):
            options = kernel.compiled().targetoptions
            assert not options.get("fastmath") and not options.get("parallel")


# --- grid -----------------------------------------------------------------------------------------


def two_sides(x, grid):
    """Both sides of zero by size with their sums, how many steps each has, and the offset."""
    zero = 0.0 if grid.mid_rise else np.nextafter(0.0, 1.0)
    numbers = [-x[x < 0][::-1], x[x >= zero].copy()]
    levels = [np.sort(-v[v <= 0]) + 0.0, v[v >= 0]] if (v := grid.levels).size else []
    steps = tuple(side.size - 1.0 for side in levels)
    return (*[(m, tails(m)) for m in numbers], steps, grid.offset), levels


@given(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100))
def test_what_a_rounding_loses_is_found_exactly(a, b):
    total, lost = both(_kernels.two_sum, a, b)
    assert Fraction(total) + Fraction(lost) == Fraction(a) + Fraction(b) and total == a + b
    assume(all(x == 0 or abs(x) > 1e-100 for x in (a, b)))  # nothing is below the range
    product, lost = both(_kernels.two_product, a, b)
    assert product == a * b and Fraction(product) + Fraction(lost) == Fraction(a) * Fraction(b)


@given(samples(60))
def test_sums_from_the_outside_are_good_to_many_roundings(x):
    m = np.append(np.sort(np.abs(x)), [1e16])  # plain summation would lose all that comes after
    sums = both(tails, m)
    truth = [sum(exact(m[n:]), Fraction(0)) for n in range(m.size + 1)]
    for rounded, lost, total in zip(*sums.tolist(), truth, strict=True):
        assert abs(Fraction(rounded) + Fraction(lost) - total) <= total * Fraction(1, 2**96)


@given(samples(12), st.sampled_from(GRIDS), st.floats(0.05, 3))
def test_a_cell_has_the_moments_of_its_codes_and_ends_where_they_change(x, grid, s):
    s *= 1.0000001 * max(abs(x).max(), 0.5) / 2 ** (grid.bits - 1)  # off the ties
    (negative, positive, steps, offset), _ = two_sides(x, grid)
    s1, rest, s2, left, right, _ = both(cell_at, negative, positive, s, steps, offset)
    seen = x if grid.signed else np.append(x[x > 0], 0.0)
    first, second = loops.grid_moments(exact(seen), spec(grid), Fraction(s))
    size = float(abs(x).sum()) * 2**grid.bits
    assert_within(s1 + rest, first, 1e-14 * size)
    assert s2 == second or left * (1 + 1e-15) >= s or right * (1 - 1e-15) <= s  # or s is a tie
    assert left <= s * (1 + 1e-15) and s <= right * (1 + 1e-15)

    def codes(scale):
        return loops.quantize(exact(seen), spec(grid), Fraction(scale))

    if right - left > 1e-9 * s:
        inside = [left + t * (min(right, 4 * s) - left) for t in (1e-10, 0.5, 1 - 1e-10)]
        assert codes(inside[0]) == codes(inside[1]) == codes(inside[2])
        assert right == np.inf or codes(right * (1 + 1e-10)) != codes(inside[2])
        assert left == 0 or codes(left * (1 - 1e-10)) != codes(inside[0])


@given(samples(), st.sampled_from(GRIDS), st.lists(st.floats(0.01, 3), min_size=1, max_size=5))
def test_moments_equal_the_readable_ones(x, grid, scales):
    scales = np.array(scales) * 1.0000001  # off the ties, where two codes are equally right
    (negative, positive, steps, offset), levels = two_sides(x, grid)
    fast = both(moments, negative, positive, scales, steps, offset)
    slow = moments_of((negative, positive), levels, scales)
    assert np.allclose(fast[0], slow[0], rtol=1e-13, atol=1e-13)
    assert np.array_equal(fast[1], slow[1])
    for t, scale in enumerate(scales.tolist()):
        found = [both(scan, m, scale, step, offset) for m, step in ((negative, steps[0]),
                 (positive, steps[1]))]  # fmt: skip
        assert np.isclose(sum(pair[0] for pair in found), slow[0][t], rtol=1e-13, atol=1e-13)
        assert sum(pair[1] for pair in found) == slow[1][t]


@given(samples(), st.sampled_from(GRIDS), st.lists(st.floats(1e-3, 4), min_size=2, max_size=2))
def test_the_bound_covers_every_gain_between_two_scales(x, grid, ends):
    assume(x.any())
    a, b = sorted(np.array(ends) * abs(x).max())
    assume(b > a)
    (negative, positive, steps, offset), _ = two_sides(x, grid)
    (a1, b1), (a2, b2) = moments(negative, positive, np.array([a, b]), steps, offset)
    bound = both(gain_bound, a, a1, a2, b, b1, b2)
    gains = [gain(x, grid, s) for s in np.linspace(a, b, 20)]
    assert max(gains) <= bound + 1e-12 * (x @ x)


def test_the_bound_is_tight_inside_a_cell():
    # One number, one code: the gain is the parabola s (2 - s), both ends know it.
    assert gain_bound(0.8, 1.0, 1.0, 1.2, 1.0, 1.0) == pytest.approx(1, rel=1e-14)
    assert gain_bound(0.5, 1.0, 1.0, 0.8, 1.0, 1.0) == pytest.approx(0.96, rel=1e-14)
    assert gain_bound(1.2, 1.0, 1.0, 1.5, 1.0, 1.0) == pytest.approx(0.96, rel=1e-14)
    assert gain_bound(2.0, 0.0, 0.0, 3.0, 0.0, 0.0) == 0


SPAN = (2.0**-1074, 1e308)


@given(samples(8), st.sampled_from(GRIDS))
def test_the_best_of_all_scales_is_among_those_of_the_search(x, grid):
    (negative, positive, steps, offset), _ = two_sides(x, grid)
    found = both(near_best, negative, positive, steps, offset, SPAN, 0.0)
    truth = loops.choose_scale(exact(x), spec(grid)) if x.any() else 0
    best = loops.gain(exact(x), spec(grid), truth) if truth else 0
    gains = [loops.gain(exact(x), spec(grid), Fraction(s)) for s in found.tolist()]
    assert max(gains, default=0) >= best - Fraction(1, 2**100) * Fraction(float(x @ x))


@pytest.mark.parametrize("law", ["normal", "uniform", "standard_cauchy"])
def test_the_search_looks_at_few_cells(law, rng, monkeypatch):
    looked = []

    def counted(*args):
        looked.append(args)
        return cell_at.py_func(*args)

    monkeypatch.setattr(_kernels, "cell_at", counted)
    x = np.sort(getattr(rng, law)(size=2000))
    (negative, positive, steps, offset), _ = two_sides(x, Grid(4))
    scales = near_best.py_func(negative, positive, steps, offset, SPAN, 0.0)
    assert np.array_equal(scales, near_best(negative, positive, steps, offset, SPAN, 0.0))
    assert len(looked) < 150  # of some 14,000 cells


def test_scales_whose_codes_have_a_common_divisor_are_left_out():
    for numbers, grid, scale in (
        ([6.0, 3.0], Grid(4), 3.0),
        ([-6.0, 2.0], Grid(4), 2.0),
        ([-6.0, -2.0], Grid(4), 2.0),
        ([6.0], Grid(4, mid_rise=True), 12.0),
        ([-1.0, 3.0], Grid(4, mid_rise=True), 2.0),
        ([5.0, 1e-9], Grid(5, signed=False), 5.0),
    ):
        (negative, positive, steps, offset), _ = two_sides(np.sort(numbers), grid)
        found = both(near_best, negative, positive, steps, offset, SPAN, 0.0)
        assert found.tolist() == [scale]
        common = cell_at(negative, positive, scale / 2, steps, offset)[-1]
        assert offset or common == 2


@pytest.mark.parametrize("bits", [12, 14])
def test_scales_that_are_surely_worse_are_left_out(bits, rng):
    grid = Grid(bits)
    for size in (3, 20):
        x = np.sort(rng.integers(grid.qmax - 300, grid.qmax, size) + rng.uniform(0, 1, size))
        (negative, positive, steps, offset), _ = two_sides(x, grid)
        found = both(near_best, negative, positive, steps, offset, SPAN, 0.0)
        gains = [loops.gain(exact(x), spec(grid), Fraction(s)) for s in found[:9].tolist()]
        # Of one refit all that rounding leaves open, and no other.
        assert 0 < found.size <= 3 and np.ptp(found) <= 4e-16 * found[0]
        assert max(gains) - min(gains) <= Fraction(1, 2**90) * max(gains)


@pytest.mark.parametrize("near", [[1.0, 1.4], [1.4, 1.0], [1.4, 1.0, 0.8]])
def test_only_the_refits_of_the_best_codes_are_kept(near):
    # 3 and 4 are their own codes at 1, with a gain of 25; 2 and 3 at 1.4 have 24.9.
    nothing, numbers = np.zeros(0), np.array([3.0, 4.0])
    sides_ = (nothing, tails(nothing)), (numbers, tails(numbers))
    found = both(_kernels.sharpest, *sides_, (0.0, 4.0), 0.0, SPAN, np.array(near))
    assert found.tolist() == [1.0]


def test_up_to_a_limit_the_limit_itself_may_be_the_best():
    (negative, positive, steps, offset), _ = two_sides(np.array([3.0, 6.0]), Grid(4))
    for limit, scale in ((3.0, 3.0), (2.9, 1.5), (1.4, 1.0), (0.9, 54 / 65), (0.5, 0.5)):
        found = both(near_best, negative, positive, steps, offset, (SPAN[0], limit), 0.0)
        assert (found <= limit).all() and scale in found


def test_the_quicker_way_is_taken_by_how_often_codes_change():
    def side(x):
        return x, tails(x)

    many, few = np.linspace(0.01, 1, 1000), np.linspace(0.01, 1, 20)
    for numbers, steps, offset, dense in (
        (many, 7.0, 0.0, False),
        (many, 7.0, 0.5, False),
        (many, 1000.0, 0.0, True),
        (few, 7.0, 0.0, True),
        (np.ones(32), 7.0, 0.0, False),
        (np.ones(31), 7.0, 0.0, True),
        (few, 0.0, 0.0, False),
        (np.zeros(20), 7.0, 0.0, False),
        (np.zeros(0), 7.0, 0.0, False),
    ):
        assert both(_kernels.is_dense, side(numbers), steps, offset) == dense
        assert _kernels.is_dense(side(numbers * 2.0**-90), steps, offset) == dense


def test_where_codes_change_often_few_cells_are_looked_at(rng, monkeypatch):
    counts = {"cell_at": 0, "scan": 0}

    def counted(name, plain):
        def call(*args):
            counts[name] += 1
            return plain(*args)

        return call

    for name in counts:
        monkeypatch.setattr(_kernels, name, counted(name, getattr(_kernels, name).py_func))
    x = np.sort(rng.standard_normal(60))
    (negative, positive, steps, offset), _ = two_sides(x, Grid(8))
    near_best.py_func(negative, positive, steps, offset, SPAN, 0.0)
    assert counts["scan"] > 2 * 10 * counts["cell_at"] > 0


# --- rows -----------------------------------------------------------------------------------------


def bits_equal(kernel, *args):
    """The result of the compiled kernel, after the interpreted one gave the same bits."""
    compiled, plain = kernel(*args), kernel.py_func(*args)
    parts = (
        zip(compiled, plain, strict=True) if isinstance(compiled, tuple) else [(compiled, plain)]
    )
    assert all(np.array_equal(a, b) for a, b in parts)
    return compiled


BOXES = [(-2.0, 1.0, 0.0), (-8.0, 7.0, 0.0), (-2.0, 1.0, 0.5), (0.0, 3.0, 0.0), (-1.0, 0.0, 0.5)]


@st.composite
def row_problems(draw):
    """Levels, F, G, noise and a box, in steps; a third of the columns may be dead."""
    rng = np.random.default_rng([draw(seeds), 61])
    rows, rank = draw(sides), draw(sides)
    K = rng.standard_normal((2 * rank, rank)) * (rng.random(rank) < draw(st.sampled_from([0.7, 1])))
    low, high, offset = box = draw(st.sampled_from(BOXES))
    V = rng.integers(int(low), int(high) + 1, (rows, rank)) + offset
    F = 3 * rng.standard_normal((rows, 2 * rank)) @ K
    dither = draw(st.sampled_from([0.0, 0.4])) * rng.standard_normal((rows, rank))
    return V, F, K.T @ K, dither, box


@st.composite
def depthwise_problems(draw):
    """Images with one to three spatial axes, filters and the axes of a convolution."""
    rng = np.random.default_rng([draw(seeds), 62])
    d = draw(st.integers(1, 3))
    n, channels, kernel = draw(sides), draw(sides), draw(st.lists(sides, min_size=d, max_size=d))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    size = [draw(st.integers(1, 3)) + dilation * (k - 1) for k in kernel]
    padding = draw(st.sampled_from([0, 1, "same"]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x = rng.standard_normal((n, channels, *size)).astype(dtype)
    C = rng.standard_normal((int(np.prod(kernel)), channels)).astype(dtype)
    return x, C, window_axes(size, kernel, stride, padding, dilation)


@settings(max_examples=60)
@given(depthwise_problems())
def test_one_pass_of_the_depthwise_stage_has_the_bits_of_a_pass_per_entry(problem):
    x, C, axes = problem
    wanted = depthwise_plain(x, C, axes)
    pixels = np.ascontiguousarray(x.reshape(*x.shape[:2], -1).transpose(0, 2, 1))
    for function in (gather, gather.py_func):
        y = np.zeros((len(x), wanted[0, 0].size, x.shape[1]), x.dtype)
        function(pixels, C, axis_sources(axes), y)
        assert np.array_equal(y.transpose(0, 2, 1).reshape(wanted.shape), wanted)


@given(row_problems())
def test_a_pass_of_descent_equals_the_one_by_columns(problem):
    V, F, G, dither, box = problem
    found = []
    for function in (descend, descend.py_func, descend_columns):
        state, residual = V.copy(), F - V @ G
        changed = function(state, residual, G, dither, box)
        assert changed == np.count_nonzero(state != V)
        found.append((state, residual))
    for state, residual in found[1:]:
        assert np.array_equal(state, found[0][0]) and np.array_equal(residual, found[0][1])
    assert np.allclose(found[0][1], F - found[0][0] @ G, atol=1e-9)


def limit(distance, slack):
    """What is within reach, by its definition."""
    near, wide, grown = slack
    return (np.sqrt((np.sqrt(distance) * grown + near) ** 2 + wide) * grown + near) ** 2 * grown


def within(target, L, rows, distance, slack):
    return int((((target - rows @ L) ** 2).sum(axis=1) < limit(distance, slack)).sum())


@given(
    row_problems(),
    st.integers(0, 40),
    st.sampled_from([(0.0, 0.0, 1.0), (0.25, 0.0, 1.0), (0.0, 2.0, 1.0), (0.125, 1.0, 1.5)]),
)
def test_the_search_of_the_tree_equals_all_rows(problem, budget, slack):
    V, F, G, _, box = problem
    assume(box[1] - box[0] < 4 or G.shape[0] < 4)
    L = np.linalg.cholesky(G + np.eye(len(G)))
    z = np.linalg.solve(L, F.T).T
    axes = [np.arange(box[0], box[1] + 1) + box[2]] * len(G)
    rows = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(G))
    for target, start in zip(z, V, strict=True):
        least = ((target - rows @ L) ** 2).sum(axis=1).min()
        best, distance, left, _, near = bits_equal(sphere, target, L, start, box, 10**6, slack)
        assert np.isclose(distance, least, rtol=1e-9) and left == np.inf
        assert (((target - near @ L) ** 2).sum(axis=1) <= limit(distance, slack) * (1 + 1e-9)).all()
        assert len(near) >= within(target, L, rows, distance * (1 - 1e-9), slack)
        assert np.isclose(((target - best @ L) ** 2).sum(), distance, rtol=1e-9)
        _, stopped, left, few, _ = bits_equal(sphere, target, L, start, box, budget, slack)
        assert few <= budget
        assert min(left, stopped) <= least * (1 + 1e-9) + 1e-12 and stopped >= least * (1 - 1e-9)


def test_the_tree_is_cut_where_it_cannot_be_better():
    """A diagonal metric: the first way down is the best one, one node per column."""
    target, start = np.array([0.2, 1.4, -0.8]), np.zeros(3)
    slack = 0.0, 0.0, 1.0
    found = bits_equal(sphere, target, np.eye(3), start, BOXES[1], 100, slack)
    best, distance, left, nodes, near = found
    assert best.tolist() == [0, 1, -1] and nodes == 3 and near.tolist() == [[0, 1, -1]]
    assert np.isclose(distance, 0.04 + 0.16 + 0.04) and left == np.inf


# --- planted faults -------------------------------------------------------------------------------


def like(kernel, wrong):
    """A wrong kernel whose compiled and interpreted forms agree."""
    fault = Kernel(kernel.py_func)
    fault.py_func = fault._compiled = wrong
    return fault


def plain_sums(m):
    """Sums without what is lost."""
    return np.array([np.append(np.cumsum(m[::-1])[::-1], 0.0), np.zeros(m.size + 1)])


def bound_at_ends(a, a1, a2, b, b1, b2):
    """Takes the larger of the two ends."""
    return max(a * (2 * a1 - a * a2), b * (2 * b1 - b * b2))


def cell_of_positive(negative, positive, s, steps, offset):
    """Looks for the next change among positive numbers only."""
    nothing = (np.zeros(0), np.zeros((2, 1)))
    found = _kernels.cell_at(negative, positive, s, steps, offset)
    return (*found[:3], *_kernels.cell_at(nothing, positive, s, steps, offset)[3:])


def narrow_search(negative, positive, steps, offset, span, floor):
    """Forgets the lowest code."""
    fewer = (min(steps), steps[1]) if offset == 0 and steps[0] > 1 else steps
    return _kernels.near_best(negative, positive, fewer, offset, span, floor)


def saturated_search(negative, positive, steps, offset, span, floor):
    """Lets nothing be clipped."""
    largest = max(side[0][-1] if side[0].size else 0.0 for side in (negative, positive))
    top = max(steps) + offset
    return np.array([largest / top]) if largest and top else np.zeros(0)


def scan_rounded_away(side, s, steps, offset):
    """Rounds ties away from zero, and all else to the wrong side."""
    first, second = _kernels.scan(side, s, steps, offset)
    return first, second + (first > 0)


def undithered(V, residual, G, dither, box):
    """Forgets the noise."""
    return _kernels.descend(V, residual, G, 0 * dither, box)


def edged(x, C, sources, y):
    """Takes the first pixel for padding."""
    _kernels.gather(x, C, np.maximum(sources, 0), y)


def stale(V, residual, G, dither, box):
    """Does not keep the residual up to date."""
    return _kernels.descend(V, residual.copy(), G, dither, box)


def greedy_tree(z, L, start, box, budget, slack):
    """Takes the first way down for the best one."""
    best, distance, _, nodes, near = _kernels.sphere(z, L, start, box, min(budget, z.size), slack)
    return best, distance, np.inf, nodes, near


def without_margin(z, L, start, box, budget, slack):
    """Keeps only what looks best."""
    return _kernels.sphere(z, L, start, box, budget, (0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("test", "name", "wrong"),
    [
        (test_sums_from_the_outside_are_good_to_many_roundings, "tails", plain_sums),
        (test_the_bound_covers_every_gain_between_two_scales, "gain_bound", bound_at_ends),
        (test_the_bound_is_tight_inside_a_cell, "gain_bound", bound_at_ends),
        (
            test_a_cell_has_the_moments_of_its_codes_and_ends_where_they_change,
            "cell_at",
            cell_of_positive,
        ),
        (test_moments_equal_the_readable_ones, "scan", scan_rounded_away),
        (test_the_best_of_all_scales_is_among_those_of_the_search, "near_best", narrow_search),
        (test_the_best_of_all_scales_is_among_those_of_the_search, "near_best", saturated_search),
        (
            test_one_pass_of_the_depthwise_stage_has_the_bits_of_a_pass_per_entry,
            "gather",
            edged,
        ),
        (test_a_pass_of_descent_equals_the_one_by_columns, "descend", undithered),
        (test_a_pass_of_descent_equals_the_one_by_columns, "descend", stale),
        (test_the_search_of_the_tree_equals_all_rows, "sphere", greedy_tree),
        (test_the_search_of_the_tree_equals_all_rows, "sphere", without_margin),
    ],
)
def test_planted_faults_are_caught(test, name, wrong):
    assert caught(THIS, test, **{name: like(getattr(_kernels, name), wrong)})
