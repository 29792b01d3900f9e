"""Ground floor: loops that Numba compiles at their first call.

A kernel is plain Python over indices, so it can be read, traced and tested without a compiler
(``kernel.py_func``). The search for a scale, a pass of descent, the search of a tree and the
depthwise stage replace readable forms that are slower and stay in their chapters. No fast-math, no
threads, one order of summation: compiled and interpreted runs agree bit for bit.

Importing this module does not import Numba. The first call of a kernel does; later processes find
the compiled code on disk. Where no folder can be written to, or what lies there cannot be read, a
kernel is compiled anew in each process.

Where Numba cannot be imported, or ``NUMBA_DISABLE_JIT`` is set, no kernel runs: chapters ask
:func:`can_compile` and take their readable forms. That is said once, by a warning. Descent and the
depthwise stage then give the same bits. The searches add in another order, so that they agree up to
rounding: in what they prove, and elsewhere unless two choices are equally good.

Checked by tests/test_kernels.py; without a compiler or a cache by tests/test_without_numba.py.
"""

import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from types import FunctionType
from typing import Any, Generic, NamedTuple, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array

__all__: list[str] = []

P = ParamSpec("P")
R = TypeVar("R")

# Gains that differ by less than this, relatively, may be equal: some hundred roundings.
TIE = 2.0**-45

Integers: TypeAlias = NDArray[np.int64]
# float64, float32 or int64.
Floats: TypeAlias = NDArray[Any]

# One side of zero: the magnitudes there, ascending, and their sums as `tails` gives them.
Side: TypeAlias = tuple[Array, Array]


class Box(NamedTuple):
    """The levels of a grid in steps: lowest and highest code, and what is added to a code."""

    low: float
    high: float
    offset: float


class Slack(NamedTuple):
    """How far computed distances may be off, see :class:`qcp_ref.factors.proofs.Margin`.

    ``near`` is of roots, ``wide`` of two objectives, ``grown`` a factor for sums of squares. The
    first two are numbers of one row, or arrays with an entry per row.
    """

    near: Any
    wide: Any
    grown: float


class Interval(NamedTuple):
    """Scales between two ends, with S1 and S2 of :eq:`grid-gain` at both."""

    left: float
    left_s1: float
    left_s2: float
    right: float
    right_s1: float
    right_s2: float


class Cell(NamedTuple):
    """Scales with the same codes: S1 in two parts, S2, both ends, the levels' common divisor."""

    s1: float
    lost: float
    s2: float
    left: float
    right: float
    common: int


# --- compiling ------------------------------------------------------------------------------------


class NumbaMissingWarning(RuntimeWarning):
    """Numba cannot be used, so that slower forms of the same functions run."""


class _Numba:
    """What this process knows about Numba: was it asked for, what is missing, was that told."""

    lock = threading.RLock()
    asked, told, guarded, held = False, False, False, False
    missing = ""
    njit: Any = None
    config: Any = None
    compiling: Any = None  # Numba's own lock

    @classmethod
    def ask(cls) -> None:
        """Import it, whatever a broken installation raises."""
        import logging  # noqa: F401  # which Numba needs, and which is to be locked before us

        if hasattr(os, "register_at_fork") and not cls.guarded:
            cls.guarded = True
            after = cls.after_fork
            os.register_at_fork(before=cls.before_fork, after_in_parent=after, after_in_child=after)
        try:
            import numba
            from numba.core.compiler_lock import global_compiler_lock

            cls.njit, cls.config, cls.compiling = numba.njit, numba.config, global_compiler_lock
            cls.missing = "NUMBA_DISABLE_JIT is set" if cls.config.DISABLE_JIT else ""
        except Exception as error:
            cls.missing = f"{type(error).__name__}: {error}"
        cls.asked = True

    @classmethod
    def before_fork(cls) -> None:
        """Let no thread be inside Numba while the process is copied: the copy would wait for it."""
        cls.lock.acquire()
        if cls.compiling is not None:
            cls.compiling.acquire()
        cls.held = True

    @classmethod
    def after_fork(cls) -> None:
        """Release what was held, in both processes."""
        if cls.held:
            cls.held = False
            if cls.compiling is not None:
                cls.compiling.release()
            cls.lock.release()


def missing_numba() -> str:
    """Return why Numba cannot be used, or nothing; the first call in a process imports it."""
    if not _Numba.asked:
        with _Numba.lock:
            if not _Numba.asked:
                _Numba.ask()
    return _Numba.missing


def can_compile() -> bool:
    """Return whether kernels can run; warn at the first call in a process if they cannot."""
    missing = missing_numba()
    if missing and not _Numba.told:
        with _Numba.lock:
            first, _Numba.told = not _Numba.told, True
        if first:
            text = (
                f"qcp_ref runs without Numba ({missing}): its readable NumPy forms take longer "
                "and give the same results up to rounding; install numba, or ignore this warning"
            )
            warnings.warn(text, NumbaMissingWarning, stacklevel=_callers())
    return not missing


def _callers() -> int:
    """Return how many calls lie between a warning in :func:`can_compile` and the user's code."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("qcp_ref."):
        frame, level = frame.f_back, level + 1
    return level


class _Cache:
    """Numba's cache of one kernel. What cannot be read is not there, what cannot be stored is not.

    Two processes that compile at once may leave the code for other types under a name: the types
    are compared.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, types: Any, context: Any) -> Any:
        """Return the code for some types of arguments, or None."""
        with suppress(Exception):
            found = self._cache.load_overload(types, context)
            if found is None or found.signature.args == tuple(getattr(types, "args", types)):
                return found
        with suppress(Exception):
            self._cache.flush()  # so that the next process finds a good one
        return None

    def save_overload(self, types: Any, code: Any) -> None:
        """Store the code if that is possible."""
        with suppress(Exception):
            self._cache.save_overload(types, code)


def _compile(function: Any) -> Any:
    """Return Numba's function, with its cache on disk if there is a place for it."""
    compiled = _Numba.njit(nogil=True, error_model="numpy")(function)
    # Of an unknown home Numba would make a folder named ~ where the process stands.
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~"))  # noqa: PTH111  # may fail
    if _Numba.config.CACHE_DIR or os.path.isabs(home):  # noqa: PTH117
        with suppress(Exception):
            compiled.enable_caching()
            compiled._cache = _Cache(compiled._cache)
    return compiled


class Kernel(Generic[P, R]):
    """A function that Numba compiles when it is first called; ``py_func`` is the function itself.

    It may call other kernels of its module by their global names. Where Numba is missing, calling
    it raises ImportError: ask :func:`can_compile` first.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.py_func = function
        self._compiled: Callable[P, R] | None = None
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the compiled function."""
        return self.compiled()(*args, **kwargs)

    def compiled(self) -> Callable[P, R]:
        """Return Numba's function, made once."""
        if self._compiled is None:
            with _Numba.lock:
                if self._compiled is None:
                    self._compiled = _compile(self._twin())
        return self._compiled

    def _twin(self) -> Any:
        """Return a copy of the function that sees Numba's functions in place of kernels."""
        plain: Any = self.py_func
        if missing_numba():
            raise ImportError(
                f"{plain.__name__}: this kernel needs Numba, which cannot be used "
                f"({missing_numba()}); install numba, or run the readable form of the chapter"
            )
        scope = dict(plain.__globals__)
        for name in plain.__code__.co_names:
            if isinstance(scope.get(name), Kernel):
                scope[name] = scope[name].compiled()
        twin = update_wrapper(FunctionType(plain.__code__, scope), plain)
        del twin.__wrapped__  # Numba would look through it, at the scope that it cannot compile
        return twin


# --- grid -----------------------------------------------------------------------------------------


@Kernel
def two_sum(a: float, b: float) -> tuple[float, float]:
    """Return the rounded sum and what the rounding lost: together the exact sum (Knuth)."""
    total = a + b
    t = total - a
    return total, (a - (total - t)) + (b - t)


@Kernel
def two_product(a: float, b: float) -> tuple[float, float]:
    """Return the rounded product and what the rounding lost (Dekker)."""
    c, d = 134217729.0 * a, 134217729.0 * b  # 2**27 + 1 cuts a number in two halves
    a1, b1 = c - (c - a), d - (d - b)
    a2, b2 = a - a1, b - b1
    product = a * b
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


@Kernel
def tails(m: Array) -> Array:
    """Return the sums of the last n, n - 1, ..., 0 entries, each in two parts: rounded, and lost.

    The numbers are not negative, and the large ones come first, so nothing cancels.
    """
    sums = np.zeros((2, m.size + 1))
    total, lost = 0.0, 0.0
    for i in range(m.size - 1, -1, -1):
        total, new = two_sum(total, m[i])
        lost += new
        sums[0, i], sums[1, i] = total, lost
    return sums


@Kernel
def walk(side: Side, s: float, steps: float, offset: float) -> Cell:
    """Return what one side adds to S1 and S2 of :eq:`grid-gain` at scale ``s``, and its cell.

    The common divisor is that of the levels, in units of the smallest one. Takes one run of equal
    codes after the other: a binary search per run.
    """
    # S1 = sum_i |x_i| v_i, S2 = sum_i v_i^2, v_i the level of x_i at scale s
    m, tail = side
    s1, rest, s2, left, right, common = 0.0, 0.0, 0.0, 0.0, np.inf, 0
    i, before = 0, 0.0
    if steps == 0.0 and offset == 0.0:
        i = m.size
    while i < m.size:
        code = min(max(np.rint(m[i] / s - offset), 0.0), steps)
        level = code + offset
        edge = (level + 0.5) * s if code < steps else np.inf
        j, end = i + 1, m.size
        while j < end:
            middle = (j + end) // 2
            if m[middle] > edge:
                end = middle
            else:
                j = middle + 1
        # Every step outwards adds all that lies beyond it, :eq:`grid-steps`.
        product, lost = two_product(level - before, tail[0, i])
        s1, new = two_sum(s1, product)
        rest += new + lost + (level - before) * tail[1, i]
        s2 += level * level * (j - i)
        # A larger scale moves codes inwards, a smaller one outwards; an end of the run is first.
        if code > 0.0:
            right = min(right, m[i] / (level - 0.5))
        if code < steps and m[j - 1] > 0.0:
            left = max(left, m[j - 1] / (level + 0.5))
        unit = int(2.0 * level) if offset > 0.0 else int(level)
        while common != 1 and unit != 0:
            common, unit = unit, common % unit
        i, before = j, level
    return Cell(s1, rest, s2, left, right, common)


@Kernel
def scan(side: Side, s: float, steps: float, offset: float) -> tuple[float, float]:
    """Return what one side adds to S1 and S2, entry by entry: for more levels than numbers.

    Eight sums side by side, which a compiler can form at once, in blocks of 256 numbers.
    """
    m = side[0]
    if steps + offset == 0.0:
        return 0.0, 0.0
    first, second, s1, s2 = np.zeros(8), np.zeros(8), 0.0, 0.0
    top = steps + offset
    inverse = 1.0 / s
    full = m.size - m.size % 8
    for begin in range(0, full, 256):
        first[:] = 0.0
        second[:] = 0.0
        for i in range(begin, min(begin + 256, full), 8):
            for lane in range(8):
                x = m[i + lane]
                v = min(max(np.rint(x * inverse - offset), 0.0) + offset, top)
                first[lane] += x * v
                second[lane] += v * v
        for lane in range(8):  # one order of summation, compiled or not
            s1 += first[lane]
            s2 += second[lane]
    for i in range(full, m.size):
        v = min(max(np.rint(m[i] * inverse - offset), 0.0) + offset, top)
        s1 += m[i] * v
        s2 += v * v
    return s1, s2


@Kernel
def gain_bound(a: float, a1: float, a2: float, b: float, b1: float, b2: float) -> float:
    """Bound the gain between two scales with known S1 and S2 from above, :eq:`minimum-bound`."""
    width = b - a
    at_a, at_b = a * (2.0 * a1 - a * a2), b * (2.0 * b1 - b * b2)
    bend = (4.0 * (a1 - b1) - 2.0 * (a * a2 - b * b2)) / width - b2
    slack = 2.0**-49 * (width * (a1 + a * a2 + b * b2) + abs(at_a) + abs(at_b))  # for roundings
    # The chord, and above it a parabola that is 0 at both ends.
    if bend * width * width <= abs(at_b - at_a):
        return max(at_a, at_b) + slack
    t = 0.5 * width + 0.5 * (at_b - at_a) / (width * bend)
    return at_a + (at_b - at_a) * (t / width) + t * (width - t) * bend + slack


@Kernel
def moments(
    negative: Side, positive: Side, scales: Array, steps: tuple[float, float], offset: float
) -> tuple[Array, Array]:
    """Return S1 and S2 of :eq:`grid-gain` for each scale, run by run of equal codes."""
    S1, S2 = np.empty(scales.size), np.empty(scales.size)
    for t in range(scales.size):
        s1, rest1, s2, _, _, _ = walk(negative, scales[t], steps[0], offset)
        z1, rest2, z2, _, _, _ = walk(positive, scales[t], steps[1], offset)
        S1[t], S2[t] = (s1 + z1) + (rest1 + rest2), s2 + z2
    return S1, S2


@Kernel
def is_dense(side: Side, steps: float, offset: float) -> bool:
    """Say whether codes change so often along the numbers that :func:`scan` is quicker."""
    m, runs, before = side[0], 1, -1.0
    if m.size == 0 or steps + offset == 0.0 or m[m.size - 1] == 0.0:
        return False
    for i in range(m.size):
        code = np.rint(m[i] * ((steps + offset) / m[m.size - 1]))
        runs += code != before
        before = code
    return m.size < 16 * runs


@Kernel
def cell_at(
    negative: Side, positive: Side, s: float, steps: tuple[float, float], offset: float
) -> Cell:
    """Return the cell of scale ``s``, both sides taken together."""
    s1, rest1, s2, left1, right1, common = walk(negative, s, steps[0], offset)
    z1, rest2, z2, left2, right2, other = walk(positive, s, steps[1], offset)
    s1, lost = two_sum(s1, z1)
    while other != 0:
        common, other = other, common % other
    return Cell(s1, rest1 + rest2 + lost, s2 + z2, max(left1, left2), min(right1, right2), common)


@Kernel
def value(s1: float, s2: float, span: tuple[float, float]) -> tuple[float, float]:
    """Return the best gain of some codes, and what is left of it when their scale is rounded.

    ``span`` says which scales there are: multiples of its first number, up to its second one.
    """
    if s2 <= 0.0 or s1 <= 0.0:
        return 0.0, 0.0
    gain = s1 * (s1 / s2)
    if s1 > span[1] * s2:
        gain = span[1] * (2.0 * s1 - span[1] * s2)
    return gain, gain - 0.25 * span[0] * s2 * span[0]


@Kernel
def outset(
    negative: Side, positive: Side, steps: tuple[float, float], offset: float, limit: float
) -> Interval:
    """Return the interval of all scales: from saturated codes to the innermost ones."""
    s1, top = 0.0, 0.0
    for side, step in ((negative, steps[0]), (positive, steps[1])):
        level = step + offset
        if level > 0.0 and side[0].size > 0:
            s1 += level * side[1][0, 0]
            top = max(top, 4.0 * side[0][-1])
    z1 = offset * (negative[1][0, 0] + positive[1][0, 0])
    z2 = offset * offset * (negative[0].size + positive[0].size)
    if top > limit:
        top = limit
        z1, rest, z2, _, _, _ = cell_at(negative, positive, top, steps, offset)
        z1 += rest
    return Interval(0.0, s1, 0.0, top, z1, z2)  # at scale 0 the gain does not depend on S2


@Kernel
def sharpest(
    negative: Side, positive: Side, steps: tuple[float, float], offset: float,
    span: tuple[float, float], near: Array,
) -> Array:  # fmt: skip
    """Return the refits of the codes at scales ``near``, without those that are surely worse.

    S1 is known to some 90 binary digits, and so is the gain. Where that does not tell which float64
    number a refit is nearest to, both are returned.
    """
    count = float(negative[0].size + positive[0].size)
    window = 2.0**-94 + count * count * 2.0**-104
    rows, best = np.empty((near.size, 4)), 0
    for t in range(near.size):
        s1, rest, s2, _, _, common = cell_at(negative, positive, near[t], steps, offset)
        scale = s1 / s2
        product, lost = two_product(scale, s2)
        scale, more = two_sum(scale, ((s1 - product) - lost + rest) / s2)
        p, q = two_product(s1, s1)
        gain = p / s2
        product, lost = two_product(gain, s2)
        rows[t] = gain, ((p - product) - lost + q + 2.0 * s1 * rest) / s2, scale, more
        coarse = span[0] > 2.0**-60 * scale or scale > span[1]
        if coarse:
            rows[t, 0], rows[t, 1] = value(s1, s2, span)[0], 0.0
        if coarse or s2 > 2.0**52:
            window = max(window, 1.0 if coarse else 2.0**-44)
        if common > 1 and not coarse and scale * common <= span[1]:
            rows[t, :2] = -1.0, 0.0  # the levels divided by it are as good, at a larger scale
        elif (rows[t, 0] - rows[best, 0]) + (rows[t, 1] - rows[best, 1]) >= 0.0:
            best = t
    found = [0.0]
    for t in range(near.size):
        gap = (rows[best, 0] - rows[t, 0]) + (rows[best, 1] - rows[t, 1])
        if gap <= window * rows[best, 0] and rows[t, 0] > 0.0:
            scale, more, slack = rows[t, 2], rows[t, 3], 0.0
            if window < 1.0:
                slack = window * scale
            for other in (scale, scale + (more + slack), scale + (more - slack)):
                if min(other, span[1]) != found[-1]:
                    found.append(min(other, span[1]))
    return np.array(found[1:])


@Kernel
def near_best(
    negative: Side, positive: Side, steps: tuple[float, float], offset: float,
    span: tuple[float, float], floor: float,
) -> Array:  # fmt: skip
    """Return a few scales, among them that of least squared error, :eq:`grid-exact`.

    None, if no scale has a gain of ``floor`` or more. Branch and bound over intervals of scales:
    :eq:`minimum-bound` drops those that cannot hold a gain near the best. Where an evaluation comes
    near it the whole cell is settled at once, and everywhere, if there are few runs of equal codes.
    """
    dense = is_dense(negative, steps[0], offset) or is_dense(positive, steps[1], offset)
    queue: list[Interval] = [outset(negative, positive, steps, offset, span[1])]
    best, head = floor, 0
    seen: list[tuple[float, float]] = [(0.0, 0.0)]
    while head < len(queue):
        a, a1, a2, b, b1, b2 = queue[head]
        head += 1
        s = a + 0.5 * (b - a)
        if not a < s < b or gain_bound(a, a1, a2, b, b1, b2) < best * (1.0 - 2.0 * TIE):
            continue
        left, right = s, s
        if dense:
            s1, s2 = scan(negative, s, steps[0], offset)
            z1, z2 = scan(positive, s, steps[1], offset)
            s1, s2 = s1 + z1, s2 + z2
        if not dense or value(s1, s2, span)[0] >= best * (1.0 - 4.0 * TIE):
            s1, rest, s2, left, right, _ = cell_at(negative, positive, s, steps, offset)
            s1 += rest
            gain, kept = value(s1, s2, span)
            best = max(best, kept)
            if gain > 0.0 and gain >= best * (1.0 - TIE):
                seen.append((gain, s))
        if left > a:
            queue.append(Interval(a, a1, a2, left, s1, s2))
        if right < b:
            queue.append(Interval(right, s1, s2, b, b1, b2))
    near = np.array([s for gain, s in seen if gain > 0.0 and gain >= best * (1.0 - TIE)])
    return sharpest(negative, positive, steps, offset, span, near)


# --- rows -----------------------------------------------------------------------------------------


@Kernel
def descend(V: Array, residual: Array, G: Array, dither: Array, box: Box) -> int:
    """Round each entry to its own best level once: the twin of ``descend_columns``.

    In steps of the scale, row by row, where the readable form goes column by column. Returns how
    many entries have changed.
    """
    # v_r <- P(v_r + (f - v G)_r / G_rr + d_r)  :eq:`rows-descent`
    low, high, offset = box
    changed = 0
    for i in range(V.shape[0]):
        for r in range(V.shape[1]):
            if G[r, r] > 0:
                t = V[i, r] + residual[i, r] / G[r, r] + dither[i, r]
                move = min(max(np.rint(t - offset), low), high) + offset - V[i, r]
                if move != 0:
                    changed += 1
                    V[i, r] += move
                    for q in range(V.shape[1]):
                        residual[i, q] -= move * G[r, q]
    return changed


@Kernel
def gap(z: Array, L: Array, v: Array, depth: int) -> float:
    """Return what one column adds to the distance of ``v L``: rows from ``depth`` on take part."""
    rest = z[depth]
    for r in range(depth, z.size):
        rest -= v[r] * L[r, depth]
    return float(rest)


@Kernel
def sibling(centre: float, taken: int, box: Box) -> float:
    """Return the code that is nearest to ``centre`` after a number of others have been taken.

    They alternate around the first one until one side of the box is used up.
    """
    low, high, offset = box
    first = min(max(np.rint(centre - offset), low), high)
    above = centre - offset >= first
    lower, upper, code = first, first, first
    for _ in range(taken):
        turn = upper - first <= first - lower if above else upper - first < first - lower
        if (turn and upper < high) or lower <= low:
            upper += 1
            code = upper
        else:
            lower -= 1
            code = lower
    return float(code)


@Kernel
def reach(radius: float, slack: Slack) -> float:
    """Return the largest computed distance that a row no worse may have: :eq:`proofs-reach`."""
    near, wide, grown = slack
    most = np.sqrt(radius) * grown + near
    return float((np.sqrt(most * most + wide) * grown + near) ** 2 * grown)


@Kernel
def sphere(
    z: Array, L: Array, start: Array, box: Box, most_nodes: int, slack: Slack
) -> tuple[Array, float, float, int, Array]:
    """Search one row for its best levels, depth first: the tree of :eq:`rows-tree`.

    Minimises ``||z - v L||^2`` for lower triangular ``L``, the last entry first, nearest levels
    first, and leaves a branch that is out of reach of what is known. Returns the best row, its
    distance, the least distance of a branch that was left for want of nodes (infinity if there was
    none), the number of nodes, and all rows within reach. The twin of
    :class:`qcp_ref.factors.proofs.Trees`, which searches many rows at once.
    """
    low, high, offset = box
    n, left, nodes, radius, count = z.size, np.inf, 0, 0.0, 0
    best, v = start.copy(), np.zeros(z.size)
    for i in range(n):
        off = gap(z, L, best, i)
        radius += off * off  # a power differs in the last digit where this is not compiled
    limit = reach(radius, slack)
    found = np.empty((max(2**18 // n, 64), n))
    distances, centre, taken = np.empty(len(found)), np.zeros(n), np.zeros(n, np.int64)
    decided = np.zeros(n + 1)  # distance of the entries that were decided before, by depth
    depth, entered = n - 1, True
    while depth < n:
        if entered:  # a new branch: which level would be best for its entry?
            v[depth], entered = 0.0, False
            centre[depth], taken[depth] = gap(z, L, v, depth) / L[depth, depth], 0
        level = sibling(centre[depth], taken[depth], box) + offset
        off = (centre[depth] - level) * L[depth, depth]
        distance = decided[depth + 1] + off * off
        if taken[depth] > high - low or distance > limit:
            depth += 1
        elif nodes >= most_nodes or (depth == 0 and count == len(found)):
            left = min(left, distance)  # what is left here and above is at least this far away
            depth += 1
        else:
            taken[depth] += 1
            nodes, v[depth] = nodes + 1, level
            if depth > 0:
                decided[depth] = distance
                depth, entered = depth - 1, True
            else:
                found[count], distances[count] = v, distance
                count += 1
                if distance < radius:
                    best, radius = v.copy(), distance
                    limit = reach(radius, slack)
                    count = keep(found, distances, count, limit)
    return best, radius, left, nodes, found[:count].copy()


@Kernel
def keep(found: Array, distances: Array, count: int, limit: float) -> int:
    """Move the rows within a limit to the front, in their order; return how many there are."""
    kept = 0
    for i in range(count):
        if distances[i] <= limit:
            found[kept], distances[kept] = found[i], distances[i]
            kept += 1
    return kept


# --- convolution ----------------------------------------------------------------------------------


@Kernel
def gather(x: Floats, C: Floats, sources: Integers, y: Floats) -> None:
    """Add up what a depthwise convolution takes from each source: replaces a pass per entry.

    Pixels are rows, in ``x`` and in ``y``, which begins with zeros. Every sum has the order of
    :func:`qcp_ref.layers.conv._depthwise`, so the bits are the same.
    """
    for n in range(x.shape[0]):
        for p in range(sources.shape[0]):
            for t in range(sources.shape[1]):
                q = sources[p, t]
                if q >= 0:
                    for r in range(C.shape[1]):
                        y[n, p, r] += x[n, q, r] * C[t, r]
