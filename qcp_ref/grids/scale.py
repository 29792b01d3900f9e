r"""Which scale of a grid is the best one?

The scale decides the error. The published rules are formulas in the largest value
:eq:`grid-max-abs`, or a search over trial scales :eq:`grid-trials`; the squared error is piecewise
quadratic in ``s`` :eq:`grid-gain`, so its global minimum can be computed :eq:`grid-exact`, for each
zero point too :eq:`grid-affine`, and rounding at that scale is the Euclidean projection onto all
grids of the family at once :eq:`grid-project`.

How the minimum is found is the chapter before; which scale is meant if several have the same error,
and what the law of the rule says in floating point, is :eq:`scale-choice`.

On one page (``qcp_ref/minimal.py``) this is ``choose_scale``, which is exact, too. What breaks
there: memory, for it sorts all numbers times all codes at once.

Simplified: all scale rules assume the default rounding. With many bits the time of the exact search
grows with the numbers, and with the number of levels: about a second for 20,000 numbers at 16 bits.

Checked by tests/grids/test_scale.py; the compiled search by tests/test_kernels.py.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial
from math import ceil, frexp, ldexp, log2, nextafter, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref import _kernels
from qcp_ref._checks import Array, check_array, check_int, check_option
from qcp_ref._door import as_array
from qcp_ref._kernels import TIE
from qcp_ref.grids.grid import (
    Grid,
    Scale,
    check_grid,
    check_product,
    check_scale,
    check_zero,
    dequantize_core,
    plain_zero,
    quantize_core,
    round_to_integers,
)
from qcp_ref.grids.minimum import Exact, Pair, Sides, Tables, moments_of, near_best_of, tails

__all__ = ["choose_scale", "project"]

_POWERS = ("ceil", "round", "floor", "mse")
_FEW_BREAKPOINTS = 128  # below, the readable search is quick enough and Numba need not be loaded
_LEAST, _MOST = float(np.finfo(float).smallest_subnormal), float(np.finfo(float).max)
_TINY = -960  # exponent below which float64 may not hold a scale to all its digits
_FEW_TINY = 2**18  # numbers times scales


def choose_scale(
    x: ArrayLike,
    grid: Grid,
    *,
    rule: str = "mse-exact",
    axis: int | None = None,
    po2: str | None = None,
) -> Scale:
    """Choose the scale at which an array is quantized.

    Parameters
    ----------
    x : array_like
        Numbers; with an axis, a matrix of shape (I, R).
    grid : Grid
        The codes.
    rule : str
        'mse-exact' for the least squared error of all scales, 'mse-200' for the authors' trial
        scales, or one of four formulas in the largest absolute value: 'max-abs' (the authors'),
        'max-abs-narrow', 'max-abs-full', 'max-abs-two-sided'. With a zero point: 'min-max' for the
        range of the numbers and zero, its variants 'min-max-torch' and 'min-max-truncated', and
        'mse-exact-affine' for the least squared error of all scales and zero points.
    axis : int or None
        None for one scale, 0 for one per row, 1 for one per column.
    po2 : {None, "ceil", "round", "floor", "mse"}
        Make the scale a power of two: the next one above, the nearest by its logarithm, the next
        one below, or the one of least squared error.

    Returns
    -------
    Scale
        The scale, of shape () without axis, else (I, 1) or (1, R); always positive and finite. The
        zero point is a number; an array of that shape if an axis comes with one of the rules that
        choose it.

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not finite and real, or rule, axis, shape and grid do not fit; at more than 8
        bits for many numbers below some 1e-312, whose scale would have few digits. The trials and
        the first three formulas need a signed uniform grid, zero points a uniform one that is not
        mid-rise, and their exact search at most 8 bits. The po2 option 'mse' belongs to the exact
        rules, and 'mse-exact-affine' takes no other.

    Notes
    -----
    Equations :eq:`grid-max-abs`, :eq:`grid-trials` [authors' code], :eq:`grid-exact`,
    :eq:`grid-affine` [beyond the paper], :eq:`grid-min-max` [source: ONNX Runtime; PyTorch;
    authors' code for the truncation] and :eq:`grid-po2` [source: brevitas]. Errors are compared
    exactly, as real numbers; of scales with equal error the largest is taken, of trial scales the
    first, :eq:`scale-choice`. Where no scale helps, as for zeros, the scale is 1 and the zero point
    0; on mid-rise and binary grids, which cannot represent zero, it is the smallest normal number
    of float32.

    **Laws**

    - *loops*: each rule chooses what plain loops on rational numbers choose, up to rounding, which
      decides between zero points at a tie and between trials that are equally good
    - *least*: 'mse-exact' has the least error: no rule, no scan of scales, no code assignment beats
      it, by more than rounding the scale to float64 costs, :eq:`scale-law`
    - *largest*: of scales with exactly the same error the largest is taken
    - *one-sided*: numbers on a side without levels, however large, do not change the scale
    - *refit*: with ``v`` the levels of the codes at that scale, ``scale = <x, v> / <v, v>``
    - *order*: the order of the entries does not matter; a power of two times ``x`` multiplies the
      scale
    - *axis*: with an axis, each slice gets the scale that it has alone
    - *zero*: zero has a code: zero points are integers on the grid
    - *affine*: 'mse-exact-affine' is no worse than any scale with any zero point of the grid
    - *trials*: 'mse-200' has the least error of its trial scales; of equal ones it is the first
    - *powers*: with po2 'mse' no power of two beats the scale; of equal ones it is the largest
    - *rounded*: with another po2 it is the power of two that plain loops find for the free scale
    - *range*: the 'min-max' rules give scale and zero point of plain loops, up to rounding
    - *unclipped*: 'max-abs-two-sided' is the least scale at which nothing is clipped, up to
      rounding

    Examples
    --------
    >>> from qcp_ref import Grid, choose_scale
    >>> choose_scale([-3.0, 0.0, 6.0, 12.0], Grid(4))
    Scale(scale=array(3.), zero_point=0.0, rule='mse-exact')
    >>> choose_scale([[-1.0, 0.5], [2.0, 8.0]], Grid(4), rule="max-abs-full", axis=0).scale
    array([[0.125],
           [1.   ]])
    >>> choose_scale([-1.0, 4.1], Grid(8, signed=False), rule="min-max")
    Scale(scale=array(0.02), zero_point=50.0, rule='min-max')
    """
    x = check_data(x, grid, rule=rule, axis=axis, po2=po2)
    scale, zero = choose_core(x, grid, rule=rule, axis=axis, po2=po2)
    return Scale(scale, zero, rule if po2 is None else f"{rule}, po2={po2}")


def choose_core(
    x: Array, grid: Grid, *, rule: str, axis: int | None, po2: str | None = None
) -> tuple[Array, float | Array]:
    """Return scale and zero point: :func:`choose_scale` without checks, for what is in order."""
    if axis is None:
        scale, zero = _one_scale(x.ravel(), grid, rule, po2)
        return np.array(scale), zero
    pairs = np.array([_one_scale(part, grid, rule, po2) for part in (x if axis == 0 else x.T)])
    scales, zeros = (np.expand_dims(column.copy(), 1 - axis) for column in pairs.T)
    return scales, zeros if rule in AFFINE else plain_zero(grid)


def project(
    x: ArrayLike,
    grid: Grid,
    *,
    axis: int | None = None,
    scale: ArrayLike | Scale | None = None,
    rule: str = "mse-exact",
    po2: str | None = None,
) -> Array:
    """Replace numbers by the nearest ones on a grid, of given or of chosen scale.

    Parameters
    ----------
    x : array_like
        Numbers; with an axis, a matrix.
    grid : Grid
        The codes.
    axis : int or None
        As in :func:`choose_scale`.
    scale : array_like, Scale or None
        Use this scale instead of choosing one, with the zero point if it is a ``Scale``; then axis,
        rule and po2 may not be given.
    rule, po2
        As in :func:`choose_scale`.

    Returns
    -------
    ndarray of float64
        Numbers on the grid, with the shape of ``x``.

    Raises
    ------
    TypeError, ValueError
        As :func:`choose_scale`, :func:`~qcp_ref.grids.grid.quantize` and
        :func:`~qcp_ref.grids.grid.dequantize`, or if ``scale`` comes with axis, rule or po2.

    Notes
    -----
    Equation :eq:`grid-project` [beyond the paper]. With rule 'mse-exact' it is the Euclidean
    projection on the union of the grids of all scales, and with 'mse-exact-affine' of all zero
    points. That set is not convex: close points may have projections that are far apart.

    **Laws**

    - *on-grid*: every entry is scale times a level; with a zero point, times a code minus it
    - *idempotent*: the projection at a given scale is its own projection
    - *nearest*: no code assignment with any scale is nearer at 'mse-exact', but for roundings
    - *finite*: the result is finite, or it is refused

    Examples
    --------
    >>> from qcp_ref import Grid, project
    >>> project([0.9, 2.1, -9.0], Grid(4), scale=1.0)
    array([ 1.,  2., -8.])
    >>> project([0.5, 2.0, -3.0], Grid(2))
    array([ 0. ,  1.6, -3.2])
    """
    if scale is None:
        x, known = check_data(x, grid, rule=rule, axis=axis, po2=po2), None
    elif _not_default(axis, rule, po2):
        raise ValueError(
            "scale: expected None together with axis or rule or po2; it overrides them"
        )
    else:
        given = scale if isinstance(scale, Scale) else (as_array(scale, "scale"), 0.0)
        x, grid = check_array(x, "x"), check_grid(grid)
        known = check_scale(given[0], x.shape), check_zero(given[1], grid, x.shape)
    return check_product(project_core(x, grid, known, rule=rule, axis=axis, po2=po2).values)


class Projected(NamedTuple):
    """Numbers on a grid, their codes, and the scale and zero point at which these stand for them.

    The zero point is the one that dequantization subtracts.
    """

    values: Array
    codes: NDArray[Any]
    scale: Array
    zero_point: float | Array


def project_core(
    x: Array,
    grid: Grid,
    known: tuple[Array, float | Array] | None,
    *,
    rule: str,
    axis: int | None,
    po2: str | None = None,
) -> Projected:
    """Project on the grid of a known scale and zero point, or of those that the rule chooses.

    This is :func:`project` without checks; values may be infinite,
    see :func:`~qcp_ref.grids.grid.check_product`.
    """
    # s* = argmin_s |x - s v(s)|, v the nearest levels  :eq:`scale-choice`
    scale, zero = known or choose_core(x, grid, rule=rule, axis=axis, po2=po2)
    codes = quantize_core(x, grid, scale, zero)
    # P(x) = s* v(s*)  :eq:`grid-project`
    return Projected(dequantize_core(codes, scale, zero, grid), codes, scale, zero)


def round_dense(W: Array, bits: int, axis: int | None = 0) -> Array:
    """Round the kernel to the better of the full and the mid-rise grid, at the exact scale."""
    flat = W.reshape(W.shape[0], -1)
    tries = [project(flat, Grid(bits, mid_rise=mid), axis=axis) for mid in (False, True)]
    return min(tries, key=lambda Q: float(((flat - Q) ** 2).sum())).reshape(W.shape)


# --- options and units ----------------------------------------------------------------------------


def check_data(x: Any, grid: Any, *, rule: Any, axis: Any, po2: Any = None) -> Array:
    """Return the numbers as an array, if a scale can be chosen for them in this way."""
    array = check_array(x, "x")
    _check_rule(check_grid(grid), rule, po2)
    if axis is not None:
        check_int(axis, "axis", minimum=0, maximum=1)
        if array.ndim != 2:
            raise ValueError(f"x: expected 2 axes when axis is given, got shape {array.shape}")
    return array


def _not_default(axis: Any, rule: Any, po2: Any) -> bool:
    """Say whether one of the options of a scale is not the default, if all are of their kind."""
    if axis is not None:
        check_int(axis, "axis", minimum=0, maximum=1)
    if po2 is not None:
        check_option(po2, "po2", _POWERS)
    rule = check_option(rule, "rule", list(RULES))
    return axis is not None or rule != "mse-exact" or po2 is not None


def _check_rule(grid: Grid, rule: str, po2: str | None) -> None:
    entry = RULES[check_option(rule, "rule", list(RULES))]
    if po2 is not None:
        check_option(po2, "po2", _POWERS)
    if grid.bits < entry.bits[0]:
        raise ValueError(f"rule: {rule!r} divides by 0 at {grid.bits} bit; use another rule")
    uniform = grid.kind == "uniform"
    if entry.grids == "centred" and not (uniform and grid.signed):
        raise ValueError(f"rule: {rule!r} needs a signed uniform grid, got {grid}; use 'mse-exact'")
    if entry.grids == "affine" and (not uniform or grid.mid_rise):
        raise ValueError(f"rule: {rule!r} needs a uniform grid with a level at zero, got {grid}")
    if grid.bits > entry.bits[1]:
        raise ValueError(
            f"rule: {rule!r} tries all zero points, at most {entry.bits[1]} bits; got {grid.bits}"
        )
    if po2 is not None and po2 not in entry.powers:
        raise ValueError(f"po2: {po2!r} does not go with rule {rule!r}; use rule 'mse-exact'")


def _one_scale(x: Array, grid: Grid, rule: str, po2: str | None) -> Pair:
    """Choose scale and zero point of a flat array."""
    entry = RULES[rule]
    scale, zero = entry.find(x, grid, po2)
    if scale <= 0:
        nothing = grid.mid_rise or grid.kind == "binary"
        return float(np.finfo(np.float32).smallest_normal) if nothing else 1.0, zero
    if po2 is not None and po2 != "mse":
        scale = _power_of_two(scale, po2)
    if entry.zero is not None:
        zero = entry.zero(min(float(x.min()), 0.0) / scale, grid)
    return scale, zero


def _power_of_two(scale: float, po2: str) -> float:
    """Round a scale to a power of two."""
    # 2^ceil(log2 s), 2^round(log2 s) or 2^floor(log2 s)  :eq:`grid-po2`
    mantissa, exponent = frexp(scale)  # from 1/2 to 1
    up = {"ceil": mantissa > 0.5, "round": mantissa >= sqrt(0.5), "floor": False}[po2]
    return float(2.0 ** min(exponent - 1 + up, 1023))


def _unit(x: Array) -> int:
    """Return the exponent of a power of two in whose units squares stay in range."""
    return frexp(max(-float(x.min()), float(x.max())))[1]


def _times(x: Any, exponent: int) -> Any:
    """Multiply by a power of two that may itself be out of range."""
    with np.errstate(all="ignore"):
        return np.ldexp(x, exponent)


def _scale(s: float, unit: int) -> float:
    """Return a scale in the units of the data, one of the numbers above 0 of float64."""
    try:
        return max(ldexp(s, unit), _LEAST)
    except OverflowError:
        return _MOST


# --- formulas -------------------------------------------------------------------------------------


def _formula(
    x: Array, grid: Grid, _: str | None, *, scale: Callable[[float, float, Grid], float]
) -> Pair:
    """Return a scale that the least and the greatest number decide."""
    unit = _unit(x)
    lowest, highest = (float(_times(end, -unit)) for end in (x.min(), x.max()))
    s = scale(lowest, highest, grid)
    return _scale(s, unit) if s > 0 else 0.0, plain_zero(grid)


def _max_abs(lowest: float, highest: float, grid: Grid, *, less: float) -> float:
    """Divide the largest magnitude by a number of steps."""
    # s = max |x_i| / (2^(b-1) - less), less = 1/2, 1 or 0  :eq:`grid-max-abs`
    return max(-lowest, highest) / (2.0 ** (grid.bits - 1) - less)


def _two_sided(lowest: float, highest: float, grid: Grid) -> float:
    """Return the least scale that clips nothing; a side without levels does not count."""
    # s = max(min x_i / (qmin + o), max x_i / (qmax + o))  :eq:`grid-max-abs`
    bottom, top = float(grid.levels[0]), float(grid.levels[-1])
    return max(lowest / bottom if bottom < 0 else 0.0, highest / top if top > 0 else 0.0)


def _min_max(lowest: float, highest: float, grid: Grid) -> float:
    """Spread the codes over the range of the numbers and zero."""
    # s = (b - a) / (qmax - qmin), a = min(0, x_i), b = max(0, x_i)  :eq:`grid-min-max`
    return (max(highest, 0.0) - min(lowest, 0.0)) / (grid.qmax - grid.qmin)


def _zero_point(steps: float, grid: Grid, *, rounding: str, late: bool = False) -> float:
    """Return the code of zero, from the least number in steps: a / s."""
    # z = clip(round(qmin - a/s)) if late, else clip(qmin - round(a/s))  :eq:`grid-min-max`
    if late:
        zero = round_to_integers(np.array(grid.qmin - steps), rounding)
    else:
        zero = grid.qmin - round_to_integers(np.array(steps), rounding)
    return float(np.clip(zero, grid.qmin, grid.qmax))


# --- searches -------------------------------------------------------------------------------------


def _trial_scale(x: Array, grid: Grid, _: str | None) -> Pair:
    """Return the first trial scale of least squared error."""
    zero, unit = plain_zero(grid), _unit(x)
    if not x.any():
        return 0.0, zero
    largest = float(_times(np.abs(x).max(), -unit))
    # s_j = (0.2 + j/199) m / (2^(b-1) - 1/2), j = 0, ..., 199, m = max |x_i|  :eq:`grid-trials`
    trials = np.linspace(0.2, 1.2, 200) * largest / (2.0 ** (grid.bits - 1) - 0.5)
    if unit > _TINY:
        trials = trials[_near(_sides(x, grid, unit), grid, 0, trials)]
    scales = [_scale(float(s), unit) for s in trials]
    if len(scales) > 1:
        exact = Exact(x, grid)
        return min(scales, key=lambda s: (exact.error(s, 0), s)), zero
    return scales[0], zero


def _best_scale(x: Array, grid: Grid, po2: str | None) -> Pair:
    """Return the scale of least squared error."""
    # max_s g(s) = max over cells of S1^2 / S2, at s = S1 / S2  :eq:`grid-exact`
    low, high = _tables(grid, 0)
    x = np.clip(x, None if low[-1] > 0 else 0.0, None if high[-1] > 0 else 0.0)
    if not x.any():  # numbers on a side without levels have the same error at all scales
        return 0.0, plain_zero(grid)
    unit = _unit(x)
    scales = _candidates(_sides(x, grid, unit), grid, 0, unit, 0.0, po2)
    return _decide(x, grid, [(s, 0.0) for s in scales], po2)[0], plain_zero(grid)


def _best_pair(x: Array, grid: Grid, po2: str | None) -> Pair:
    """Return the scale and the zero point of least squared error."""
    # max_z max_s g_z(s), z = qmin, ..., qmax  :eq:`grid-affine`
    if not x.any():
        return 0.0, 0.0
    unit = _unit(x)
    sides, found, best = _sides(x, grid, unit), [], 0.0
    likely = grid.qmin - min(float(x.min()), 0.0) / _formula(x, grid, None, scale=_min_max)[0]
    for zero in sorted(range(grid.qmin, grid.qmax + 1), key=lambda z: abs(z - likely)):
        scales = np.array(_candidates(sides, grid, zero, unit, best, po2))
        gains = np.full(scales.size, np.inf)  # of tiny numbers all pairs are compared exactly
        if scales.size and unit > _TINY:
            gains = _gains(sides, grid, zero, _times(scales, -unit))[0]
            best = max(best, float(gains.max()))
        found += [(gain, s, zero) for gain, s in zip(gains.tolist(), scales.tolist(), strict=True)]
    pairs = [(s, float(zero)) for gain, s, zero in found if gain >= best * (1 - 8 * TIE)]
    return _decide(x, grid, pairs, po2)


def _candidates(
    sides: Sides, grid: Grid, zero: int, unit: int, floor: float, po2: str | None
) -> list[float]:
    """Return scales, among them the best one; none, if it has less gain than the floor."""
    if po2 == "mse":
        return [_scale(s, unit) for s in _powers(sides, grid, zero, unit)]
    negative, positive = sides
    tables = _tables(grid, zero)
    span = float(_times(_LEAST, -unit)), float(_times(_MOST, -unit))
    if unit < _TINY:
        tiny = _tiny_scales(sides, grid, unit)
        if tiny.size:
            return [_scale(s, unit) for s in tiny[_near(sides, grid, zero, tiny)].tolist()]
    if _by_kernels(sides, grid):
        steps = tables[0].size - 1.0, tables[1].size - 1.0
        near = _kernels.near_best(negative, positive, steps, grid.offset, span, floor)
    else:
        near = near_best_of(sides, tables, span, floor)
    scales = {_scale(float(s), unit) for s in near}
    if unit < _TINY:  # rounding to the units of the data may have been the second rounding
        scales |= {nextafter(s, to) for s in scales for to in (0.0, _MOST)} - {0.0}
    return sorted(scales)


def _tiny_scales(sides: Sides, grid: Grid, unit: int) -> Array:
    """Return all scales that float64 has for numbers near its smallest ones, or none: search then.

    Between the two, where scales have only a few digits and there are many cells, it is refused.
    """
    size, digits = sum(side[0].size for side in sides), unit + 1074
    more = digits + 2 - frexp(float(np.abs(grid.levels[grid.levels != 0]).min()))[1]
    if size << (more + 1) <= _FEW_TINY:
        return np.asarray(_times(np.arange(1.0, 2.0 ** (more + 1)), -digits))
    if digits < 2 * grid.bits + 5 and grid.bits > 8 and size << grid.bits > 4 * _FEW_TINY:
        raise ValueError(
            f"x: expected numbers whose scale float64 holds with all digits, got a largest "
            f"magnitude near {2.0 ** max(unit, -1074):.0e}; multiply by a power of two"
        )
    return np.zeros(0)


def _powers(sides: Sides, grid: Grid, zero: int, unit: int) -> Array:
    """Return the best power of two, or several; outside of the range tried none can be."""
    tables = _tables(grid, zero)
    ends = [
        float(side[0][-1]) / float(table[-1])
        for side, table in zip(sides, tables, strict=True)
        if side[0].size and table[-1] > 0
    ]
    if not ends or max(ends) <= 0:
        return np.zeros(0)
    sizes = np.concatenate(tables)
    largest, smallest = sizes.max(), sizes[sizes > 0].min()
    count = sum(side[0].size for side in sides)
    middle = frexp(max(ends))[1]
    first = max(middle - ceil(log2(largest * count)) - 4, -1074 - unit)
    last = min(middle + ceil(log2(largest / smallest)) + 3, 1023 - unit)
    scales = np.ldexp(1.0, np.arange(first, last + 1))
    return np.asarray(scales[_near(sides, grid, zero, scales)])


def _gains(sides: Sides, grid: Grid, zero: int, scales: Array) -> tuple[Array, float]:
    """Return the gain of each scale, and a bound on its roundings."""
    tables = _tables(grid, zero)
    if _by_kernels(sides, grid):
        steps = tables[0].size - 1.0, tables[1].size - 1.0
        S1, S2 = _kernels.moments(*sides, scales, steps, grid.offset)
    else:
        S1, S2 = moments_of(sides, tables, scales)
    gains = scales * (2 * S1 - scales * S2)  # g(s) = 2 s S1 - s^2 S2  :eq:`grid-gain`
    return gains, float((scales * (2 * S1 + scales * S2)).max()) * TIE


def _near(sides: Sides, grid: Grid, zero: int, scales: Array) -> NDArray[np.bool_]:
    """Say which scales may have the largest gain of all of them."""
    gains, slack = _gains(sides, grid, zero, scales)
    return np.asarray(gains >= gains.max() - slack)


def _by_kernels(sides: Sides, grid: Grid) -> bool:
    count = sides[0][0].size + sides[1][0].size
    return _many(count, grid) and _kernels.can_compile()


def _many(count: int, grid: Grid) -> bool:
    return grid.kind in ("uniform", "ternary") and count * 2**grid.bits > _FEW_BREAKPOINTS


def _sides(x: Array, grid: Grid, unit: int) -> Sides:
    """Sort the numbers on both sides of zero by size, and sum them from the outside."""
    x = np.sort(_times(x, -unit), axis=None)
    has_zero = grid.kind != "binary" and not grid.mid_rise
    below, above = np.searchsorted(x, 0.0), np.searchsorted(x, 0.0, "right" if has_zero else "left")
    parts = np.negative(x[:below][::-1]), x[above:].copy()
    count = parts[0].size + parts[1].size
    sums = _kernels.tails if _many(count, grid) and _kernels.can_compile() else tails
    return (parts[0], sums(parts[0])), (parts[1], sums(parts[1]))


@lru_cache(maxsize=256)
def _tables(grid: Grid, zero: int) -> Tables:
    """Return the magnitudes of the levels on both sides of zero, from the inside."""
    levels = grid.levels - zero
    return [np.negative(levels[levels <= 0][::-1]) + 0.0, levels[levels >= 0]]


# --- exact errors ---------------------------------------------------------------------------------


def _decide(x: Array, grid: Grid, pairs: list[Pair], po2: str | None) -> Pair:
    """Return the best pair: of equal errors the largest scale, then the zero point nearest to 0."""
    # max {s : (s, z) in argmin E(s, z)}, with the z of least |z|  :eq:`scale-choice`
    if len(pairs) == 1 and 2.0**_TINY < pairs[0][0] < _MOST:
        return pairs[0]
    exact = Exact(x, grid)
    if po2 is None and _unit(x) >= _TINY and max(pairs)[0] < _MOST:
        gains = ((*exact.refit(s, zero), -abs(zero), zero) for s, zero in pairs)
        _, scale, _, zero = max(gains)
        return float(scale), zero
    if po2 is None:  # float64 has few scales here, or none as large: its own scales are compared
        pairs = [*pairs, *((n, z) for s, z in pairs for n in _around(exact.refit(s, z)[1]))]
    return min(set(pairs), key=lambda p: (exact.error(*p), -p[0], abs(p[1]), -p[1]))


def _around(scale: Fraction) -> list[float]:
    """Return the positive numbers of float64 around a scale."""
    number = float(min(max(scale, Fraction(_LEAST)), Fraction(_MOST)))
    return [n for n in (nextafter(number, 0.0), number, nextafter(number, _MOST)) if n > 0]


# --- the table ------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """How a scale is chosen, by which equation, and for what.

    ``find`` returns scale and zero point of flat numbers, for a grid and a kind of power of two; a
    scale of 0 says that none helps. ``label`` is the label of its equation. ``grids`` is "all",
    "centred" for signed uniform grids, or "affine" for uniform ones with a level at zero: such a
    rule chooses a zero point too. ``bits`` are the fewest and the most that the grid may have,
    ``powers`` the options po2 that go with the rule. ``zero`` finds the zero point, from the least
    number in steps, where ``find`` does not.
    """

    find: Callable[[Array, Grid, str | None], Pair]
    label: str
    grids: str = "all"
    bits: tuple[int, int] = (1, 16)
    powers: tuple[str, ...] = _POWERS[:3]
    zero: Callable[[float, Grid], float] | None = None


def _range_rule(rounding: str, *, late: bool = False) -> Rule:
    zero = partial(_zero_point, rounding=rounding, late=late)
    return Rule(partial(_formula, scale=_min_max), "grid-min-max", "affine", zero=zero)


def _largest_rule(less: float, fewest: int = 1) -> Rule:
    find = partial(_formula, scale=partial(_max_abs, less=less))
    return Rule(find, "grid-max-abs", "centred", (fewest, 16))


# Adding a rule: a function, a row here, its equation with a label, a twin in the loops.
RULES = {
    "mse-exact": Rule(_best_scale, "grid-exact", powers=_POWERS),
    "mse-200": Rule(_trial_scale, "grid-trials", "centred"),
    "max-abs": _largest_rule(0.5),
    "max-abs-narrow": _largest_rule(1.0, fewest=2),
    "max-abs-full": _largest_rule(0.0),
    "max-abs-two-sided": Rule(partial(_formula, scale=_two_sided), "grid-max-abs"),
    "min-max": _range_rule("half-even", late=True),
    "min-max-torch": _range_rule("half-even"),
    "min-max-truncated": _range_rule("to-zero"),
    "mse-exact-affine": Rule(_best_pair, "grid-affine", "affine", (1, 8), ("mse",)),
}
AFFINE = tuple(name for name, rule in RULES.items() if rule.grids == "affine")
