r"""What is a quantization grid, and which scale is the best one?

A grid of ``b`` bits is a set of integer codes :eq:`grid-codes`; with a scale ``s`` and a zero
point ``z`` a code ``k`` stands for the number ``s (k - z)`` :eq:`grid-dequantize`. There is one
rounding rule in the whole book, :func:`quantize` :eq:`grid-quantize`: divide in float64, round
half to even, add the zero point, clip, cast. Scales are chosen for symmetric grids: the zero point
is 0, or -1/2 on a mid-rise grid, whose levels are half-integers. One scale serves a whole array, a
row or a column; it keeps all axes, so its shape is ``()``, ``(I, 1)`` or ``(1, R)`` for an array of
shape ``(I, R)``.

The scale decides the error. The published rules are formulas in the largest value, or a search over
trial scales; the squared error is piecewise quadratic in ``s`` :eq:`grid-gain`, so its global
minimum can be computed :eq:`grid-exact`, and rounding at that scale is the Euclidean
projection onto all grids of the family at once :eq:`grid-project`.

Simplified: no affine, logarithmic or learned grids; and the exact search is made for few bits, its
time grows faster than the number of levels.

Checked by tests/test_grid.py; the compiled search by tests/test_kernels.py.
"""

from dataclasses import KW_ONLY, dataclass
from math import frexp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import Array, check_array, check_int, check_option
from qcp_ref._kernels import TIE, exact_scale, moments

__all__ = ["Grid", "Scale", "choose_scale", "dequantize", "project", "quantize"]

_RULES = (
    "mse-exact",
    "mse-200",
    "max-abs",
    "max-abs-narrow",
    "max-abs-full",
    "max-abs-two-sided",
)
_FEW_BREAKPOINTS = 128  # below, the readable search is quick enough and Numba need not be loaded
_LEAST, _MOST = float(np.finfo(float).smallest_subnormal), float(np.finfo(float).max)


@dataclass(frozen=True)
class Grid:
    """A set of integer codes around zero.

    Parameters
    ----------
    bits : int
        Number of bits of a code, 1 to 16.
    narrow : bool
        Drop the lowest code, which has no positive counterpart; needs 2 bits.
    mid_rise : bool
        Let code ``k`` stand for ``(k + 1/2) s``: no level at zero, all levels in pairs.

    Raises
    ------
    TypeError, ValueError
        For other numbers of bits, flags that are not bool, or a combination that has no meaning.

    Notes
    -----
    Equation :eq:`grid-codes`; the full range is the default [authors' code].

    **Laws**

    - a full grid has ``2**bits`` codes, a narrow one has one less
    - the levels of narrow and mid-rise grids are symmetric about zero

    Examples
    --------
    >>> from qcp_ref import Grid
    >>> Grid(4).qmin, Grid(4).qmax, Grid(4, narrow=True).qmin
    (-8, 7, -7)
    """

    bits: int
    _: KW_ONLY
    narrow: bool = False
    mid_rise: bool = False

    def __post_init__(self) -> None:
        """Check the description."""
        object.__setattr__(self, "bits", check_int(self.bits, "bits", minimum=1, maximum=16))
        for name in ("narrow", "mid_rise"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if self.narrow and self.mid_rise:
            raise ValueError("narrow: a mid-rise grid is symmetric already; drop one of the two")
        if self.narrow and self.bits == 1:
            raise ValueError("narrow: with 1 bit only the code 0 would be left; use 2 bits or more")

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return self.narrow - (1 << (self.bits - 1))

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def offset(self) -> float:
        """What is added to a code to make its level at scale 1."""
        return 0.5 if self.mid_rise else 0.0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type that stores codes."""
        return np.dtype(np.int8 if self.bits <= 8 else np.int16)


class Scale(NamedTuple):
    """Scale and zero point of an array, and the rule that chose the scale."""

    scale: Array
    zero_point: float
    rule: str


def quantize(
    x: ArrayLike, grid: Grid, scale: ArrayLike, zero_point: ArrayLike = 0
) -> NDArray[np.signedinteger[Any]]:
    """Round numbers to codes: the one rounding rule of the book.

    Parameters
    ----------
    x : array_like
        Numbers, of any shape.
    grid : Grid
        The codes.
    scale : array_like
        Positive; one number, or an array with all axes of ``x``, each side that of ``x`` or 1.
    zero_point : array_like
        The code of zero, with a shape as for ``scale``. On a mid-rise grid it is always -1/2, and
        the default stands for that.

    Returns
    -------
    ndarray of int8 or int16
        Codes, with the shape of ``x``.

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not finite and real, or scale or zero point have no meaning.

    Notes
    -----
    Equation :eq:`grid-quantize` [authors' code for the order; zero points as in ONNX]. The order
    matters: divide in float64 (a product with the reciprocal may end on the other side of a tie),
    round half to even, add the zero point, clip while still a float, cast.

    **Laws**

    - the code is that of the nearest level; ties go to the even code
    - monotone in ``x``; unchanged if ``x`` and ``scale`` are multiplied by one power of two
    - quantizing the dequantized codes gives the codes back
    - ``-x`` has the negated code on narrow grids, and on mid-rise grids off ties ``-1 - code``

    Examples
    --------
    >>> from qcp_ref import Grid, quantize
    >>> quantize([-9.0, -0.5, 0.5, 1.5, 2.2], Grid(4), 1.0)
    array([-8,  0,  0,  2,  2], dtype=int8)
    """
    x, grid = check_array(x, "x"), _check_grid(grid)
    scale = _check_scale(scale, x.shape)
    zero = _check_spread(zero_point, "zero_point", x.shape)
    if grid.mid_rise:
        possible, known = (zero == 0) | (zero == -grid.offset), "-1/2 on a mid-rise grid"
        zero = np.zeros(())
    else:
        possible = (zero == np.rint(zero)) & (grid.qmin <= zero) & (zero <= grid.qmax)
        known = f"an integer from {grid.qmin} to {grid.qmax}"
    if not possible.all():
        raise ValueError(f"zero_point: expected {known}, got {zero_point!r}")
    with np.errstate(over="ignore"):  # an infinite quotient is clipped like a large one
        codes = np.rint(x / scale - grid.offset) + zero
    return np.asarray(np.clip(codes, grid.qmin, grid.qmax)).astype(grid.dtype)


def dequantize(codes: ArrayLike, scale: ArrayLike, zero_point: ArrayLike = 0) -> Array:
    """Return the numbers that codes stand for.

    Parameters
    ----------
    codes : array_like of int
        Codes, of any shape.
    scale : array_like
        Positive; one number, or an array with all axes of ``codes``, each side theirs or 1.
    zero_point : array_like
        The code of zero; -1/2 for a mid-rise grid, as ``Scale`` records it.

    Returns
    -------
    ndarray of float64
        ``scale * (codes - zero_point)``.

    Raises
    ------
    TypeError, ValueError
        If the codes are not integers, scale or zero point have no meaning, or the result overflows.

    Notes
    -----
    Equation :eq:`grid-dequantize` [source: ONNX DequantizeLinear].

    **Laws**

    - one rounding: exact if the scale is a power of two

    Examples
    --------
    >>> from qcp_ref import dequantize
    >>> dequantize([-8, 0, 7], 0.5)
    array([-4. ,  0. ,  3.5])
    >>> dequantize([-2, -1, 0, 1], 2.0, -0.5)
    array([-3., -1.,  1.,  3.])
    """
    if np.asarray(codes).dtype.kind not in "iu":
        raise TypeError(f"codes: expected integers, got dtype {np.asarray(codes).dtype}")
    k = check_array(codes, "codes")
    s = _check_scale(scale, k.shape)
    with np.errstate(over="ignore"):
        values = np.asarray(s * (k - _check_spread(zero_point, "zero_point", k.shape)))
    if not np.isfinite(values).all():
        raise ValueError("scale: scale times code exceeds the float64 range; rescale the data")
    return values


def choose_scale(
    x: ArrayLike, grid: Grid, *, rule: str = "mse-exact", axis: int | None = None
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
        'max-abs-narrow', 'max-abs-full', 'max-abs-two-sided'.
    axis : int or None
        None for one scale, 0 for one per row, 1 for one per column.

    Returns
    -------
    Scale
        The scale, of shape () without axis, else (I, 1) or (1, R); always positive and finite.

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not finite and real, or rule, axis and shape do not fit.

    Notes
    -----
    Equations :eq:`grid-max-abs`, :eq:`grid-trials` [authors' code] and :eq:`grid-exact` [beyond the
    paper]. Of scales with equal error (up to rounding) the largest is taken, of trial scales the
    first. Where no scale helps, as for zeros, the scale is 1; on a mid-rise grid, which cannot
    represent zero, it is the smallest normal number of float32.

    **Laws**

    - 'mse-exact' has the least error: no rule, no scan of scales, no code assignment beats it
    - with ``v`` the levels of the codes at that scale, ``scale = <x, v> / <v, v>``
    - the order of the entries does not matter; a power of two times ``x`` multiplies the scale
    - with an axis, each slice gets the scale that it has alone

    Examples
    --------
    >>> from qcp_ref import Grid, choose_scale
    >>> choose_scale([-3.0, 0.0, 6.0, 12.0], Grid(4))
    Scale(scale=array(3.), zero_point=0.0, rule='mse-exact')
    >>> choose_scale([[-1.0, 0.5], [2.0, 8.0]], Grid(4), rule="max-abs-full", axis=0).scale
    array([[0.125],
           [1.   ]])
    """
    x, grid = check_array(x, "x"), _check_grid(grid)
    check_option(rule, "rule", _RULES)
    if rule == "max-abs-narrow" and grid.bits == 1:
        raise ValueError("rule: 'max-abs-narrow' divides by 0 at 1 bit; use another rule")
    zero_point = 0.0 - grid.offset
    if axis is None:
        return Scale(np.array(_one_scale(x, grid, rule)), zero_point, rule)
    axis = check_int(axis, "axis", minimum=0, maximum=1)
    if x.ndim != 2:
        raise ValueError(f"x: expected 2 axes when axis is given, got shape {x.shape}")
    slices = x if axis == 0 else x.T
    scale = np.array([_one_scale(part, grid, rule) for part in slices])
    return Scale(np.expand_dims(scale, 1 - axis), zero_point, rule)


def project(
    x: ArrayLike,
    grid: Grid,
    *,
    axis: int | None = None,
    scale: ArrayLike | None = None,
    rule: str = "mse-exact",
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
    scale : array_like or None
        Use this scale instead of choosing one; then neither axis nor rule may be given.
    rule : str
        As in :func:`choose_scale`.

    Returns
    -------
    ndarray of float64
        Numbers on the grid, with the shape of ``x``.

    Raises
    ------
    TypeError, ValueError
        As :func:`choose_scale` and :func:`quantize`, or if ``scale`` comes with axis or rule.

    Notes
    -----
    Equation :eq:`grid-project` [beyond the paper]. With rule 'mse-exact' it is the Euclidean
    projection on the union of the grids of all scales. That set is not convex: close points may
    have projections that are far apart.

    **Laws**

    - every entry is scale times a level
    - idempotent for a given scale; no code assignment with any scale is nearer at 'mse-exact'

    Examples
    --------
    >>> from qcp_ref import Grid, project
    >>> project([0.9, 2.1, -9.0], Grid(4), scale=1.0)
    array([ 1.,  2., -8.])
    >>> project([0.5, 2.0, -3.0], Grid(2))
    array([ 0. ,  1.6, -3.2])
    """
    if scale is None:
        scale = choose_scale(x, grid, rule=rule, axis=axis).scale
    elif axis is not None or rule != "mse-exact":
        raise ValueError("scale: expected None together with axis or rule; it would override them")
    return dequantize(quantize(x, grid, scale), scale, 0.0 - grid.offset)


def _check_grid(grid: Any) -> Grid:
    if not isinstance(grid, Grid):
        raise TypeError(f"grid: expected a Grid, got {type(grid).__name__}")
    return grid


def _check_spread(value: ArrayLike, name: str, shape: tuple[int, ...]) -> Array:
    """Return a number, or an array that meets an array of ``shape`` with all its axes kept."""
    array = check_array(value, name)
    fits = len(shape) == array.ndim and all(
        side in (1, full) for side, full in zip(array.shape, shape, strict=True)
    )
    if array.ndim and not fits:
        raise ValueError(
            f"{name}: expected one number or a shape like {shape} with some sides 1, "
            f"got {array.shape}; keep all axes"
        )
    return array


def _check_scale(scale: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = _check_spread(scale, "scale", shape)
    if (array <= 0).any():
        raise ValueError(f"scale: expected numbers above 0, got {array.min()}")
    return array


def _one_scale(x: Array, grid: Grid, rule: str) -> float:
    """Choose one scale for all of ``x``, in units that keep squares from overflow and underflow."""
    lowest, highest = float(x.min()), float(x.max())
    unit = 2.0 ** min(max(frexp(max(-lowest, highest))[1], -1000), 1000)
    if rule == "mse-exact":  # dividing by a power of two is exact
        scale = _exact_scale(x / unit, grid)
    elif rule == "mse-200":
        scale = _trial_scale(x / unit, grid)
    else:
        scale = _max_abs_scale(lowest / unit, highest / unit, grid, rule)
    if scale <= 0:
        return float(np.finfo(np.float32).smallest_normal) if grid.mid_rise else 1.0
    return min(max(scale * unit, _LEAST), _MOST)


def _max_abs_scale(lowest: float, highest: float, grid: Grid, rule: str) -> float:
    """Spell out :eq:`grid-max-abs`."""
    half = 2.0 ** (grid.bits - 1)
    if rule == "max-abs-two-sided":
        top = grid.qmax + grid.offset
        return max(lowest / (grid.qmin + grid.offset), highest / top if top > 0 else 0.0)
    divisor = {"max-abs": half - 0.5, "max-abs-narrow": half - 1, "max-abs-full": half}[rule]
    return max(-lowest, highest) / divisor


def _trial_scale(x: Array, grid: Grid) -> float:
    """Return the first of the trial scales :eq:`grid-trials` with the least squared error."""
    if not x.any():
        return 0.0
    scales = np.linspace(0.2, 1.2, 200) * np.abs(x).max() / (2.0 ** (grid.bits - 1) - 0.5)
    S1, S2 = moments(np.sort(x, axis=None), scales, float(grid.qmin), float(grid.qmax), grid.offset)
    return float(scales[np.argmax(scales * (2 * S1 - scales * S2))])


def _exact_scale(x: Array, grid: Grid) -> float:
    """Return the largest scale of least squared error, or 0 if none beats all zeros."""
    search = _search_cells if x.size * 2**grid.bits <= _FEW_BREAKPOINTS else exact_scale
    return search(np.sort(x, axis=None), float(grid.qmin), float(grid.qmax), grid.offset)


def _search_cells(x: Array, qmin: float, qmax: float, offset: float) -> float:
    """Spell out :eq:`grid-exact`, cell by cell; the kernel ``exact_scale`` does the same faster."""
    breaks = np.divide.outer(x, _steps(qmin, qmax, offset))
    left = np.unique(np.append(breaks[breaks > 0], 0.0))
    right = np.append(left[1:], np.inf)
    inside = np.append((left[:-1] + left[1:]) / 2, 2 * left[-1] + 1)
    S1, S2 = _moments(x, inside, qmin, qmax, offset)
    refit = np.divide(S1, S2, out=np.zeros_like(S1), where=S2 > 0)
    reach = np.clip(refit, left, right)
    gain = reach * (2 * S1 - reach * S2)
    return float(refit[gain >= gain.max() * (1 - TIE)].max())


def _moments(
    x: Array, scales: Array, qmin: float, qmax: float, offset: float
) -> tuple[Array, Array]:
    """Spell out :eq:`grid-steps`; the kernel ``moments`` does the same faster.

    The innermost levels first; then each step outwards adds what lies beyond it in sorted ``x``.
    """
    sums = np.append(0.0, np.cumsum(x))
    S1 = np.full(scales.shape, offset * np.abs(x).sum())
    S2 = np.full(scales.shape, offset**2 * x.size)
    for step in _steps(qmin, qmax, offset):
        below = np.searchsorted(x, scales * step)
        S1 += sums[-1] - sums[below] if step > 0 else -sums[below]
        S2 += 2 * step * (x.size - below if step > 0 else -below)
    return S1, S2


def _steps(qmin: float, qmax: float, offset: float) -> Array:
    """Return where codes change at scale 1; not 0, the step between two levels of one size."""
    steps = np.arange(qmin + 1, qmax + 1) + (offset - 0.5)
    return np.asarray(steps[steps != 0])
