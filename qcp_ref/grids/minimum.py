r"""How is the scale of least squared error found?

In two steps. A search by branch and bound over intervals of scales finds those that come near the
least error :eq:`minimum-bound`, in float64: mostly a single one. Errors that lie far below the
numbers themselves it cannot tell apart, so between several scales the exact errors decide, in whole
numbers :eq:`minimum-exact`.

Numbers are taken apart into the two sides of zero, where levels and sums only grow outwards: sums
from the outside :eq:`grid-steps` have no term below zero, and nothing cancels. A side without
levels does not count.

The search is written twice: here by whole arrays, for any table of levels, and as a kernel for
levels in equal steps. Which of the two runs, the next chapter says.

Checked by tests/grids/test_minimum.py; the compiled search by tests/test_kernels.py.
"""

from collections.abc import Callable
from fractions import Fraction
from math import frexp, fsum, gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref import _kernels
from qcp_ref._checks import Array
from qcp_ref._kernels import TIE, Side
from qcp_ref.grids.grid import Grid

__all__: list[str] = []

Pair = tuple[float, float]  # a scale and its zero point, or one number for each side of zero
Sides = tuple[Side, Side]  # negative and positive numbers
Tables = list[Array]  # the magnitudes of the levels of each side, from the inside

_BLOCK = 2**20  # entries of a matrix that is formed at once
# Plain arithmetic, which does for whole arrays as well.
_two_sum: Callable[..., Any] = _kernels.two_sum.py_func
_two_product: Callable[..., Any] = _kernels.two_product.py_func


class Exact:
    """Squared errors of an array on a grid, in whole numbers: :eq:`minimum-exact`.

    ``x = X 2^e``, levels ``L / d``, ``s = S 2^f``. Equal numbers are counted, not repeated.
    """

    def __init__(self, x: Array, grid: Grid) -> None:
        self.x, self.counts = np.unique(x, return_counts=True)
        self.counts = self.counts.astype(object)
        mantissas, exponents = np.frexp(self.x)
        self.exponent = int(exponents.min()) - 53
        shifts = (exponents - exponents.min()).astype(object)
        self.X = np.ldexp(mantissas, 53).astype(np.int64).astype(object) * 2**shifts
        self.levels = grid.levels
        sizes = np.abs(self.levels[self.levels != 0])
        self.digits = max(1 - frexp(float(sizes.min()))[1], 0)  # of d, a power of two
        self.L = np.array([int(level * 2**self.digits) for level in self.levels], dtype=object)
        self.thresholds = (self.levels[1:] + self.levels[:-1]) / 2

    def _nearest(self, s: float, zero: float) -> tuple[Any, Any, int]:
        """Return the levels and the residuals of all numbers, and the exponent of the latter."""
        with np.errstate(over="ignore"):
            guess = np.searchsorted(self.thresholds, self.x / s + zero)  # off by 1 at the most
        mantissa, exponent = frexp(s)
        f = exponent - 53
        e = self.exponent + self.digits
        X, S = self.X * 2 ** max(e - f, 0), int(mantissa * 2**53) * 2 ** max(f - e, 0)
        at = [np.clip(guess + step, 0, self.L.size - 1) for step in (-1, 0, 1)]
        tried = [self.L[place] - int(zero) * 2**self.digits for place in at]
        residuals = [X - S * level for level in tried]
        best, residual = tried[0], residuals[0]
        for level, other in zip(tried[1:], residuals[1:], strict=True):
            nearer = np.abs(other) < np.abs(residual)
            best, residual = np.where(nearer, level, best), np.where(nearer, other, residual)
        return best, residual, min(e, f) - self.digits

    def error(self, s: float, zero: float) -> Fraction:
        """Return the squared error at a scale and a zero point."""
        _, residual, exponent = self._nearest(s, zero)
        # E(s) = sum_i (X_i 2^e - S 2^f L_i / d)^2  :eq:`minimum-exact`
        return Fraction((self.counts * residual * residual).sum()) * Fraction(2) ** (2 * exponent)

    def refit(self, s: float, zero: float) -> tuple[Fraction, Fraction]:
        """Return the gain that the levels of a scale have at their own best scale, and that scale.

        Fractions of a power of two are left out of the gain, the same for all scales.
        """
        level, _, _ = self._nearest(s, zero)
        # S1^2 / S2 = 2^(2e) (sum_i X_i L_i)^2 / sum_i L_i^2, at s = S1 / S2  :eq:`minimum-exact`
        S1, S2 = (self.counts * self.X * level).sum(), (self.counts * level * level).sum()
        if S1 <= 0:
            return Fraction(0), Fraction(0)
        refit = Fraction(S1, S2)
        return S1 * refit, refit * Fraction(2) ** (self.exponent + self.digits)


# --- the readable search --------------------------------------------------------------------------


def near_best(
    negative: Side,
    positive: Side,
    steps: Pair,
    offset: float,
    span: Pair,
    floor: float,
) -> Array:
    """Return a few scales, the best among them: the kernel of this name by whole arrays.

    Takes both sides of zero with their ``tails``, how many steps there are to the outermost
    levels, the offset of the innermost ones, the step and the largest one of the scales that there
    are, and a gain below which nothing is wanted.
    """
    tables = [np.arange(step + 1) + offset for step in steps]
    return near_best_of((negative, positive), tables, span, floor)


def near_best_of(sides: Sides, tables: Tables, span: Pair, floor: float) -> Array:
    """Search for the largest gain by branch and bound, all intervals of one size together.

    For levels in unit steps the kernel ``near_best`` does the same faster.
    """
    best, seen = floor, []
    a, a1, a2, b, b1, b2 = intervals = _outset(sides, tables, span[1])
    while a.size:
        s = a + 0.5 * (b - a)
        open_ = (a < s) & (s < b) & (gain_bound(*intervals) >= best * (1 - 2 * TIE))
        s, (a, a1, a2, b, b1, b2) = s[open_], (part[open_] for part in intervals)
        if not s.size:
            break
        s1, s2 = moments_of(sides, tables, s)
        # max_s g(s) = max over cells of S1^2 / S2, at s = S1 / S2  :eq:`grid-exact`
        gain, kept = _value(s1, s2, span)
        best = max(best, float(kept.max()))
        left, right = s.copy(), s.copy()
        near = (gain > 0) & (gain >= best * (1 - 4 * TIE))
        # At a tie the codes may be others than before, so that all is taken from the same ones.
        s1[near], s2[near], left[near], right[near] = _cells(sides, tables, s[near])
        seen.append((_value(s1[near], s2[near], span)[0], s[near]))
        inner, outer = left > a, right < b
        parts = ((a, right), (a1, s1), (a2, s2), (left, b), (s1, b1), (s2, b2))
        intervals = [np.append(x[inner], y[outer]) for x, y in parts]
        a, a1, a2, b, b1, b2 = intervals
    gain, s = (np.concatenate([part[i] for part in seen] or [np.zeros(0)]) for i in (0, 1))
    return _sharpest(sides, tables, span, s[gain >= best * (1 - TIE)])


def _outset(sides: Sides, tables: Tables, limit: float) -> list[Array]:
    """Return the interval from 0, where all codes saturate, to the innermost codes."""
    s1, top = 0.0, 0.0
    for (m, sums), levels in zip(sides, tables, strict=True):
        if m.size and levels[-1] > 0:
            s1 += float(levels[-1] * sums[0, 0])
            top = max(top, 4 * float(m[-1] / levels[levels > 0][0]))
    top = min(top, limit)
    ends = moments_of(sides, tables, np.array([top or 1.0]))
    # At scale 0 the gain does not depend on S2.
    return [*(np.array([value]) for value in (0.0, s1, 0.0, top)), *ends]


def gain_bound(a: Array, a1: Array, a2: Array, b: Array, b1: Array, b2: Array) -> Array:
    """Bound the gain over intervals from a to b, with an allowance for roundings.

    Takes both ends, each with its S1 and S2.
    """
    # g(a + t) <= (u g(a) + t g(b)) / w + t u ((g'(a) - g'(b) + J) / w - S2(b)), w = b - a,
    # u = w - t, g' = 2 (S1 - s S2), J = 2 (S1(a) - S1(b))  :eq:`minimum-bound`
    width, at_a, at_b = b - a, a * (2 * a1 - a * a2), b * (2 * b1 - b * b2)
    with np.errstate(all="ignore"):
        bend = (4 * (a1 - b1) - 2 * (a * a2 - b * b2)) / width - b2
        t = width / 2 + (at_b - at_a) / (2 * width * bend)
        middle = at_a + (at_b - at_a) * (t / width) + t * (width - t) * bend
    slack = 2.0**-49 * (width * (a1 + a * a2 + b * b2) + np.abs(at_a) + np.abs(at_b))
    inside = bend * width * width > np.abs(at_b - at_a)
    return np.asarray(np.where(inside, middle, np.maximum(at_a, at_b)) + slack)


def _value(s1: Array, s2: Array, span: Pair) -> tuple[Array, Array]:
    """Return the best gains of codes, and what is left of them when their scale is rounded."""
    scale = np.minimum(np.divide(s1, s2, out=np.zeros_like(s1), where=s2 > 0), span[1])
    gain = scale * (2 * s1 - scale * s2)
    return gain, gain - 0.25 * span[0] * s2 * span[0]


def _is_uniform(levels: Array) -> bool:
    return bool(levels[-1] - levels[0] == levels.size - 1)


def _codes(t: Array, levels: Array) -> NDArray[np.intp]:
    """Return the places of the nearest levels of a table."""
    if not _is_uniform(levels):
        return np.asarray(np.searchsorted((levels[1:] + levels[:-1]) / 2, t))
    return np.asarray(np.clip(np.rint(t - levels[0]), 0, levels.size - 1)).astype(np.intp)


def moments_of(sides: Sides, tables: Tables, scales: Array) -> tuple[Array, Array]:
    """Return S1 and S2 of each scale: each step outwards adds all that lies beyond it.

    Where there are more levels than numbers, the sum over the numbers is shorter.
    """
    # S1(s) = o |x|_1 + sum over thresholds h and x_i / h > s of |x_i|
    # S2(s) = o^2 n + sum over the same of 2 |h|; steps of other tables likewise  :eq:`grid-steps`
    S1, S2 = np.zeros(scales.size), np.zeros(scales.size)
    for (m, sums), levels in zip(sides, tables, strict=True):
        if m.size == 0 or levels[-1] == 0:  # numbers on a side without levels do not count
            continue
        size = min(m.size, levels.size) + 1
        for part in np.array_split(np.arange(scales.size), scales.size * size // _BLOCK + 1):
            s = scales[part, None]
            if m.size <= levels.size:
                v = levels[_codes(m / s, levels)]
                S1[part] += (v * m).sum(axis=1)
                S2[part] += (v * v).sum(axis=1)
            else:
                inner = levels[0]
                beyond = np.searchsorted(m, s * ((levels[1:] + levels[:-1]) / 2), "right")
                S1[part] += inner * sums[0, 0] + (np.diff(levels) * sums.sum(0)[beyond]).sum(1)
                S2[part] += inner**2 * m.size + (np.diff(levels**2) * (m.size - beyond)).sum(1)
    return S1, S2


def _cells(sides: Sides, tables: Tables, scales: Array) -> tuple[Array, Array, Array, Array]:
    """Return S1 and S2 at the scales, and the ends of the cells in which these lie."""
    S1, S2 = np.zeros(scales.size), np.zeros(scales.size)
    left, right = np.zeros(scales.size), np.full(scales.size, np.inf)
    for (m, _), levels in zip(sides, tables, strict=True):
        if m.size == 0 or levels[-1] == 0:
            continue
        outer = np.append((levels[1:] + levels[:-1]) / 2, np.inf)  # the threshold beyond each level
        inner = np.append(0.0, outer[:-1])
        for part in np.array_split(np.arange(scales.size), scales.size * m.size // _BLOCK + 1):
            if part.size:
                k = _codes(m / scales[part, None], levels)
                S1[part] += (levels[k] * m).sum(axis=1)
                S2[part] += (levels[k] ** 2).sum(axis=1)
                with np.errstate(all="ignore"):
                    left[part] = np.maximum(left[part], (m / outer[k]).max(axis=1))
                    first = np.where(inner[k] > 0, m / inner[k], np.inf).min(axis=1)
                    right[part] = np.minimum(right[part], first)
    return S1, S2, left, right


def _sharpest(sides: Sides, tables: Tables, span: Pair, scales: Array) -> Array:
    """Return the refits of the codes at these scales, without those that are surely worse."""
    count = sum(side[0].size for side in sides)
    doubt, rows = Fraction(2.0**-94 + count**2 * 2.0**-104), []
    for s in scales:
        s1, s2, divisor = _sharp_moments(sides, tables, s)
        refit = s1 / s2
        coarse = refit * Fraction(2.0**-60) < span[0] or refit > span[1]
        if coarse or refit * divisor > span[1]:
            doubt = Fraction(1) if coarse else doubt
        elif divisor > 1:
            continue  # the levels divided by it are as good, at a larger scale
        rows.append((s1 * refit, refit))
    best = max((gain for gain, _ in rows), default=Fraction(0))
    near = [refit for gain, refit in rows if gain >= best * (1 - doubt)]
    wide = [refit * (1 + d) for refit in near for d in (0, doubt, -doubt)]
    return np.unique([min(float(refit), span[1]) for refit in wide])


def _sharp_moments(sides: Sides, tables: Tables, s: float) -> tuple[Fraction, Fraction, int]:
    """Return S1 to about twice the digits of float64, S2, and by what all levels can be divided."""
    parts, s2, used, uniform = [], Fraction(0), set(), True
    for (m, sums), levels in zip(sides, tables, strict=True):
        if m.size == 0 or levels[-1] == 0:
            continue
        v = levels[_codes(m / s, levels)]
        step = np.diff(v, prepend=0.0)
        first = np.flatnonzero(step)  # of each run of equal codes
        product, lost = _two_product(step[first], sums[0, first])
        parts += [product, lost, step[first] * sums[1, first]]
        runs = np.diff(np.append(first, m.size))
        for level, run in zip(v[first].tolist(), runs.tolist(), strict=True):
            s2 += Fraction(level) ** 2 * run
        used |= set(v[first].tolist())
        uniform &= _is_uniform(levels)
    terms = np.concatenate(parts).tolist()
    s1 = fsum(terms)
    smallest = min(float(levels[levels > 0][0]) for levels in tables if levels[-1] > 0)
    units = [int(level / smallest) for level in used]  # 0 begins no run
    divisor = gcd(*units) if uniform else 2 if min(units) > 1 else 1
    return Fraction(s1) + Fraction(fsum([*terms, -s1])), s2, divisor


def tails(m: Array) -> Array:
    """Return the sums of the last n, n - 1, ..., 0 entries, each rounded, and what was lost."""
    sums = np.append(0.0, np.cumsum(m[::-1]))
    _, lost = _two_sum(sums[:-1], m[::-1])
    return np.array([sums[::-1], np.append(0.0, np.cumsum(lost))[::-1]])
