"""Ground floor: the loops that are too slow for NumPy, compiled by Numba at their first call.

A kernel is plain Python over indices, so it can be read, traced and tested without a compiler
(``kernel.py_func``). It replaces a readable form that stays in the chapter it serves, has the
signature of that form and is tested against it. No fast-math and no threads: compiled and
interpreted runs agree bit for bit.

Importing this module does not import Numba. The first call of a kernel does; later processes find
the compiled code on disk.

Checked by tests/test_kernels.py.
"""

from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

import numpy as np

from qcp_ref._checks import Array

__all__: list[str] = []

P = ParamSpec("P")
R = TypeVar("R")

# Gains that differ by less than this, relatively, count as equal: a few dozen roundings.
TIE = 2.0**-46

# Left end, S1 and S2 there; right end, S1 and S2 there.
Interval: TypeAlias = tuple[float, float, float, float, float, float]


class Kernel(Generic[P, R]):
    """A function that Numba compiles when it is first called; ``py_func`` is the function itself.

    It may call other kernels of its module by their global names.
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
            from numba import njit

            plain: Any = self.py_func
            scope = dict(plain.__globals__)
            for name in plain.__code__.co_names:
                if isinstance(scope.get(name), Kernel):
                    scope[name] = scope[name].compiled()
            twin = update_wrapper(FunctionType(plain.__code__, scope), plain)
            del twin.__wrapped__  # Numba would look through it, at the scope that it cannot compile
            self._compiled = njit(cache=True, nogil=True, error_model="numpy")(twin)
        return self._compiled


# --- grid -----------------------------------------------------------------------------------------


@Kernel
def prefix_sums(x: Array) -> Array:
    """Return the sums of the first 0, 1, ... entries, each good to a rounding or two (Neumaier)."""
    sums = np.zeros(x.size + 1)
    total, lost = 0.0, 0.0
    for i in range(x.size):
        longer = total + x[i]
        if abs(total) >= abs(x[i]):
            lost += (total - longer) + x[i]
        else:
            lost += (x[i] - longer) + total
        total = longer
        sums[i + 1] = total + lost
    return sums


@Kernel
def cell_at(
    x: Array, sums: Array, s: float, qmin: float, qmax: float, offset: float
) -> tuple[float, float, float, float]:
    """Return S1 and S2 of :eq:`grid-gain` at scale ``s``, and the two ends of its cell.

    Takes one run of equal codes in the sorted ``x`` after the other: a binary search per run.
    """
    s1, s2, left, right = 0.0, 0.0, 0.0, np.inf
    i = 0
    while i < x.size:
        level = min(max(np.rint(x[i] / s - offset), qmin), qmax) + offset
        edge = (level + 0.5) * s if level < qmax + offset else np.inf
        j, end = i + 1, x.size
        while j < end:
            middle = (j + end) // 2
            if x[middle] > edge:
                end = middle
            else:
                j = middle + 1
        s1 += level * (sums[j] - sums[i])
        s2 += level * level * (j - i)
        # A larger scale moves codes inwards, a smaller one outwards; an end of the run is first.
        first, last = x[i], x[j - 1]
        if level > 0.5:
            right = min(right, first / (level - 0.5))
        if level < -0.5:
            right = min(right, last / (level + 0.5))
        if -0.5 < level < qmax + offset and last > 0:
            left = max(left, last / (level + 0.5))
        if 0.5 > level > qmin + offset and first < 0:
            left = max(left, first / (level - 0.5))
        i = j
    return s1, s2, left, right


@Kernel
def moments(
    x: Array, scales: Array, qmin: float, qmax: float, offset: float
) -> tuple[Array, Array]:
    """Return S1 and S2 of :eq:`grid-gain` for each scale, for sorted ``x``."""
    sums = prefix_sums(x)
    S1, S2 = np.empty(scales.size), np.empty(scales.size)
    for t in range(scales.size):
        S1[t], S2[t], _, _ = cell_at(x, sums, scales[t], qmin, qmax, offset)
    return S1, S2


@Kernel
def gain_bound(a: float, a1: float, a2: float, b: float, b1: float, b2: float) -> float:
    """Bound the gain between two scales with known S1 and S2 from above, :eq:`grid-bound`."""
    width, jumps = b - a, 2.0 * (a1 - b1)
    at_a, at_b = a * (2.0 * a1 - a * a2), b * (2.0 * b1 - b * b2)
    rise = 2.0 * (a1 - a * a2) + jumps  # gain(a + t) <= at_a + t (rise - b2 t)
    fall = 2.0 * (b * b2 - b1) + jumps  # gain(b - u) <= at_b + u (fall - b2 u)
    # The first parabola counts up to where they meet, the second one beyond.
    slope = rise + fall - 2.0 * b2 * width
    t = width
    if slope > 0:
        t = min(max((at_b - at_a + (fall - b2 * width) * width) / slope, 0.0), width)
    u = width - t
    if b2 > 0:
        t, u = min(t, max(rise / (2.0 * b2), 0.0)), min(u, max(fall / (2.0 * b2), 0.0))
    else:
        t, u = t if rise > 0 else 0.0, u if fall > 0 else 0.0
    return max(at_a + t * (rise - b2 * t), at_b + u * (fall - b2 * u))


@Kernel
def exact_scale(x: Array, qmin: float, qmax: float, offset: float) -> float:
    """Return the scale of least squared error, :eq:`grid-exact`, for sorted ``x``; 0 if none helps.

    Branch and bound over intervals of scales: one evaluation settles the whole cell around it, and
    :eq:`grid-bound` drops the intervals that cannot hold the best gain.
    """
    low, high = qmin + offset, qmax + offset
    sums = prefix_sums(x)
    negative = np.searchsorted(x, 0.0)
    positive = x.size - negative
    below, above = -sums[negative], sums[x.size] - sums[negative]
    # As s goes to 0 all codes saturate; at the top all levels are the innermost (0 or 1/2).
    saturated = (high * above - low * below, high * high * positive + low * low * negative)
    innermost = (offset * (above + below), offset * offset * x.size)
    top = 4.0 * max(-x[0], x[-1])
    queue: list[Interval] = [(0.0, saturated[0], saturated[1], top, innermost[0], innermost[1])]
    best = 0.0
    seen: list[tuple[float, float]] = [(0.0, 0.0)]
    head = 0
    while head < len(queue):
        a, a1, a2, b, b1, b2 = queue[head]
        head += 1
        s = a + 0.5 * (b - a)
        if gain_bound(a, a1, a2, b, b1, b2) < best * (1.0 - 2.0 * TIE) or not a < s < b:
            continue
        s1, s2, left, right = cell_at(x, sums, s, qmin, qmax, offset)
        if s2 > 0:
            reach = min(max(s1 / s2, left), right)
            gain = reach * (2.0 * s1 - reach * s2)  # the best inside the cell
            best = max(best, s1 * s1 / s2)  # its codes at their own best scale: the same or more
            if gain >= best * (1.0 - TIE):
                seen.append((gain, s1 / s2))
        if left > a:
            queue.append((a, a1, a2, left, s1, s2))
        if right < b:
            queue.append((right, s1, s2, b, b1, b2))
    scale = 0.0
    for gain, s in seen:
        if gain >= best * (1.0 - TIE):
            scale = max(scale, s)
    return scale
