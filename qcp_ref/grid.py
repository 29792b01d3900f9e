r"""What is a quantization grid, and which scale is the best one?

A grid of ``b`` bits is a set of integer codes :eq:`grid-codes`; with a scale ``s`` and a zero
point ``z`` a code ``k`` stands for the number ``s (k - z)`` :eq:`grid-dequantize`. There is one
rounding rule in the whole book, :func:`quantize` :eq:`grid-quantize`: divide in float64, round
half to even, add the zero point, clip, cast; what others do differently in these steps has a name
and is an option. Binary, ternary and logarithmic grids have tables of levels :eq:`grid-kinds`. One
scale serves a whole array, a row or a column; it keeps all axes, so its shape is ``()``, ``(I, 1)``
or ``(1, R)`` for an array of shape ``(I, R)``, and so does a zero point that comes with it.

The scale decides the error. The published rules are formulas in the largest value, or a search over
trial scales; the squared error is piecewise quadratic in ``s`` :eq:`grid-gain`, so its global
minimum can be computed :eq:`grid-exact`, for each zero point too :eq:`grid-affine`, and rounding at
that scale is the Euclidean projection onto all grids of the family at once :eq:`grid-project`.

Simplified: no learned or free tables of levels, no groups smaller than a row or column; all scale
rules assume the default rounding. The exact search is made for few bits: its time grows faster than
the number of levels, and on logarithmic grids it visits every cell.

Checked by tests/test_grid.py; the compiled search by tests/test_kernels.py.
"""

from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from math import ceil, frexp, log2, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import Array, Rng, check_array, check_int, check_option, check_rng
from qcp_ref._kernels import TIE, can_compile, exact_scale, moments
from qcp_ref._results import frozen

__all__ = ["Grid", "Scale", "choose_scale", "dequantize", "project", "quantize"]

_CENTRED = ("mse-200", "max-abs", "max-abs-narrow", "max-abs-full")
_AFFINE = ("min-max", "min-max-torch", "min-max-truncated", "mse-exact-affine")
_RULES = ("mse-exact", *_CENTRED, "max-abs-two-sided", *_AFFINE)
_POWERS = ("ceil", "round", "floor", "mse")
_ROUNDINGS = (
    *("half-even", "half-away", "half-up", "dpu"),
    *("floor", "ceil", "to-zero", "stochastic"),
)
_DIVISIONS = ("float64", "float32", "reciprocal")
_BITS = {"uniform": (1, 16), "binary": (1, 1), "ternary": (2, 2), "log2": (2, 8)}
_FAR = 2.0**20  # beyond all codes: saturates on every grid, whatever the zero point
_FEW_BREAKPOINTS = 128  # below, the readable search is quick enough and Numba need not be loaded
_USUAL = 2.0**200  # numbers below it, and above its inverse, can be squared as they are
_LEAST, _MOST = float(np.finfo(float).smallest_subnormal), float(np.finfo(float).max)


@dataclass(frozen=True)
class Grid:
    """A set of integer codes, and the levels that they stand for.

    Parameters
    ----------
    bits : int
        Number of bits of a code: 1 to 16, for a logarithmic grid 2 to 8; 1 if binary, 2 if ternary.
    kind : {"uniform", "binary", "ternary", "log2"}
        Levels in equal steps, -1 and 1, -1 to 1, or zero and powers of two.
    signed : bool
        Have codes on both sides of zero; else they start at 0.
    narrow : bool
        Drop the lowest code, which has no positive counterpart; needs 2 bits.
    mid_rise : bool
        Let code ``k`` stand for ``(k + 1/2) s``: no level at zero, all levels in pairs.

    Raises
    ------
    TypeError, ValueError
        For other numbers of bits, flags that are not bool, or a combination that has no meaning:
        only signed uniform grids can be narrow or mid-rise, only uniform ones unsigned.

    Notes
    -----
    Equations :eq:`grid-codes` and :eq:`grid-kinds`; the full range is the default [authors' code].

    **Laws**

    - a full grid has ``2**bits`` codes, a narrow, ternary or log2 one has one less
    - the levels of narrow, mid-rise, binary, ternary and log2 grids are symmetric about zero

    Examples
    --------
    >>> from qcp_ref import Grid
    >>> Grid(4).qmin, Grid(4).qmax, Grid(4, narrow=True).qmin, Grid(8, signed=False).qmax
    (-8, 7, -7, 255)
    >>> Grid(3, kind="log2").levels
    array([-1.  , -0.5 , -0.25,  0.  ,  0.25,  0.5 ,  1.  ])
    """

    bits: int
    _: KW_ONLY
    kind: str = "uniform"
    signed: bool = True
    narrow: bool = False
    mid_rise: bool = False

    def __post_init__(self) -> None:
        """Check the description."""
        least, most = _BITS[check_option(self.kind, "kind", tuple(_BITS))]
        object.__setattr__(self, "bits", check_int(self.bits, "bits", minimum=least, maximum=most))
        for name in ("signed", "narrow", "mid_rise"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if self.narrow and self.mid_rise:
            raise ValueError("narrow: a mid-rise grid is symmetric already; drop one of the two")
        if not self.signed and self.kind != "uniform":
            raise ValueError(f"signed: a {self.kind} grid has both signs; leave the option out")
        if (self.narrow or self.mid_rise) and not (self.signed and self.kind == "uniform"):
            raise ValueError(
                "narrow, mid_rise: only signed uniform grids have them; leave them out"
            )
        if self.narrow and self.bits == 1:
            raise ValueError("narrow: with 1 bit only the code 0 would be left; use 2 bits or more")

    @property
    def qmin(self) -> int:
        """The lowest code."""
        if not self.signed:
            return 0
        return self.narrow - (1 << (self.bits - 1)) if self.kind == "uniform" else -self.qmax

    @property
    def qmax(self) -> int:
        """The highest code."""
        return 1 if self.kind == "binary" else (1 << (self.bits - self.signed)) - 1

    @property
    def offset(self) -> float:
        """What is added to a code to make its level at scale 1, on uniform grids."""
        return 0.5 if self.mid_rise else 0.0

    @property
    def levels(self) -> Array:
        """All levels at scale 1, ascending."""
        if self.kind == "binary":
            return np.array([-1.0, 1.0])
        return _level(np.arange(self.qmin, self.qmax + 1.0), self)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type that stores codes."""
        return np.dtype(f"{'int' if self.signed else 'uint'}{8 if self.bits <= 8 else 16}")


@frozen
class Scale(NamedTuple):
    """Scale and zero point of an array, and the rule that chose the scale.

    Both may be one number or an array that keeps all axes.
    """

    scale: Array
    zero_point: float | Array
    rule: str


def quantize(
    x: ArrayLike,
    grid: Grid,
    scale: ArrayLike,
    zero_point: ArrayLike = 0,
    *,
    rounding: str = "half-even",
    division: str = "float64",
    rng: "Rng | None" = None,
) -> NDArray[np.integer[Any]]:
    """Round numbers to codes: the one rounding rule of the book, and the rules of others by name.

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
        the default stands for that; on other grids without equal steps it is 0.
    rounding : str
        'half-even', 'half-away' (ties away from zero), 'half-up', 'dpu' (negative ties up, others
        to even), 'floor', 'ceil', 'to-zero', or 'stochastic' (up with a probability that is the
        fraction).
    division : {"float64", "float32", "reciprocal"}
        How the quotient is formed: in float64, of float32 numbers in float32, or as the float32
        product with the float32 reciprocal of the scale.
    rng : int or numpy.random.Generator, optional
        Source of randomness of 'stochastic'; refused with any other rounding.

    Returns
    -------
    ndarray of int8, int16, uint8 or uint16
        Codes, with the shape of ``x``.

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not finite and real, scale or zero point have no meaning, options are unknown,
        float32 cannot hold the scale, or a binary grid comes with a rounding or division.

    Notes
    -----
    Equation :eq:`grid-quantize` [authors' code for the order; zero points as in ONNX]. The order
    matters: divide in float64 (a product with the reciprocal may end on the other side of a tie),
    round half to even, add the zero point, clip while still a float, cast. Other roundings
    :eq:`grid-rounding` and divisions :eq:`grid-division` are those of other programs [source:
    AIMET, brevitas, PyTorch, ONNX; authors' code for half-up activations]. Between the levels of a
    log2 grid the place of a number is interpolated :eq:`grid-place` and then rounded; on a binary
    grid the code is the sign, that of zero being +1.

    **Laws**

    - the code is that of the nearest level; ties go to the even code
    - each rounding is that of plain loops on rational numbers, and so is each division
    - stochastic rounding takes one of the two neighbours, and is right on average
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
    zero = _check_zero(zero_point, grid, x.shape)
    check_option(rounding, "rounding", _ROUNDINGS)
    check_option(division, "division", _DIVISIONS)
    if (rounding == "stochastic") != (rng is not None):
        raise ValueError(f"rng: belongs to rounding 'stochastic', got rng={rng} with {rounding!r}")
    if grid.kind == "binary":
        if (rounding, division) != ("half-even", "float64"):
            raise ValueError("rounding, division: a binary grid takes signs; leave them out")
        return np.where(x >= 0, 1, -1).astype(grid.dtype)
    t, base = _quotient(x, scale, division) - grid.offset, np.zeros(())
    if grid.kind == "log2":
        t, base = _place(t, grid.qmax)
    draws = None if rng is None else check_rng(rng, "quantize").random(x.shape)
    codes = _round(t, rounding, draws) + (base + zero + grid.offset)
    return np.asarray(np.clip(codes, grid.qmin, grid.qmax)).astype(grid.dtype)


def dequantize(
    codes: ArrayLike, scale: ArrayLike, zero_point: ArrayLike = 0, *, grid: Grid | None = None
) -> Array:
    """Return the numbers that codes stand for.

    Parameters
    ----------
    codes : array_like of int
        Codes, of any shape.
    scale : array_like
        Positive; one number, or an array with all axes of ``codes``, each side theirs or 1.
    zero_point : array_like
        The code of zero; -1/2 for a mid-rise grid, as ``Scale`` records it.
    grid : Grid, optional
        The grid of the codes; needed for log2. With it zero points are read as in
        :func:`quantize`.

    Returns
    -------
    ndarray of float64
        ``scale * (codes - zero_point)``, or scale times level.

    Raises
    ------
    TypeError, ValueError
        If the codes are not integers or off the grid, scale or zero point have no meaning, or the
        result overflows.

    Notes
    -----
    Equation :eq:`grid-dequantize` [source: ONNX DequantizeLinear].

    **Laws**

    - one rounding: exact if the scale is a power of two

    Examples
    --------
    >>> from qcp_ref import Grid, dequantize
    >>> dequantize([-8, 0, 7], 0.5)
    array([-4. ,  0. ,  3.5])
    >>> dequantize([-2, -1, 0, 1], 2.0, -0.5)
    array([-3., -1.,  1.,  3.])
    >>> dequantize([-3, 0, 1, 2], 8.0, grid=Grid(3, kind="log2"))
    array([-8.,  0.,  2.,  4.])
    """
    if np.asarray(codes).dtype.kind not in "iu":
        raise TypeError(f"codes: expected integers, got dtype {np.asarray(codes).dtype}")
    k = check_array(codes, "codes")
    s, zero = _check_scale(scale, k.shape), _check_spread(zero_point, "zero_point", k.shape)
    if grid is not None:
        zero = _check_zero(zero_point, _check_grid(grid), k.shape)
        if _off_grid(k, grid):
            raise ValueError(f"codes: expected codes of {grid}, got {k.min():g} to {k.max():g}")
        k = _level(k, grid) - grid.offset
    with np.errstate(over="ignore"):
        values = np.asarray(s * (k - zero))
    if not np.isfinite(values).all():
        raise ValueError("scale: scale times code exceeds the float64 range; rescale the data")
    return values


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
        If ``x`` is not finite and real, or rule, axis, shape and grid do not fit. The trials and
        the first three formulas need a signed uniform grid, zero points a uniform one that is not
        mid-rise, and their exact search at most 8 bits. The po2 option 'mse' belongs to the exact
        rules, and 'mse-exact-affine' takes no other.

    Notes
    -----
    Equations :eq:`grid-max-abs`, :eq:`grid-trials` [authors' code], :eq:`grid-exact`,
    :eq:`grid-affine` [beyond the paper], :eq:`grid-min-max` [source: ONNX Runtime; PyTorch;
    authors' code for the truncation] and :eq:`grid-po2` [source: brevitas]. Of scales with equal
    error (up to rounding) the largest is taken, of trial scales the first. Where no scale helps, as
    for zeros, the scale is 1 and the zero point 0; on mid-rise and binary grids, which cannot
    represent zero, it is the smallest normal number of float32.

    **Laws**

    - 'mse-exact' has the least error: no rule, no scan of scales, no code assignment beats it
    - with ``v`` the levels of the codes at that scale, ``scale = <x, v> / <v, v>``
    - the order of the entries does not matter; a power of two times ``x`` multiplies the scale
    - with an axis, each slice gets the scale that it has alone
    - zero has a code: zero points are integers on the grid
    - 'mse-exact-affine' is no worse than any scale with any zero point of the grid

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
    x, grid = check_array(x, "x"), _check_grid(grid)
    _check_rule(grid, rule, po2)
    name = rule if po2 is None else f"{rule}, po2={po2}"
    if axis is None:
        scale, zero = _one_scale(x, grid, rule, po2)
        return Scale(np.array(scale), zero, name)
    axis = check_int(axis, "axis", minimum=0, maximum=1)
    if x.ndim != 2:
        raise ValueError(f"x: expected 2 axes when axis is given, got shape {x.shape}")
    pairs = np.array([_one_scale(part, grid, rule, po2) for part in (x if axis == 0 else x.T)])
    scales, zeros = (np.expand_dims(column, 1 - axis) for column in pairs.T)
    return Scale(scales, zeros if rule in _AFFINE else 0.0 - grid.offset, name)


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
        As :func:`choose_scale` and :func:`quantize`, or if ``scale`` comes with axis, rule or po2.

    Notes
    -----
    Equation :eq:`grid-project` [beyond the paper]. With rule 'mse-exact' it is the Euclidean
    projection on the union of the grids of all scales, and with 'mse-exact-affine' of all zero
    points. That set is not convex: close points may have projections that are far apart.

    **Laws**

    - every entry is scale times a level; with a zero point, times a code minus it
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
        chosen = choose_scale(x, grid, rule=rule, axis=axis, po2=po2)
    elif axis is not None or rule != "mse-exact" or po2 is not None:
        raise ValueError(
            "scale: expected None together with axis or rule or po2; it overrides them"
        )
    else:
        chosen = scale if isinstance(scale, Scale) else Scale(np.asarray(scale), 0.0, "given")
    codes = quantize(x, grid, chosen.scale, chosen.zero_point)
    return dequantize(codes, chosen.scale, chosen.zero_point, grid=grid)


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


def _check_zero(zero_point: ArrayLike, grid: Grid, shape: tuple[int, ...]) -> Array:
    """Return the zero point that dequantization subtracts."""
    zero = _check_spread(zero_point, "zero_point", shape)
    if grid.mid_rise:
        possible, known = (zero == 0) | (zero == -grid.offset), "-1/2 on a mid-rise grid"
        zero = np.array(-grid.offset)
    elif grid.kind in ("binary", "log2"):
        possible, known = zero == 0, f"0 on a {grid.kind} grid"
    else:
        possible = (zero == np.rint(zero)) & (grid.qmin <= zero) & (zero <= grid.qmax)
        known = f"an integer from {grid.qmin} to {grid.qmax}"
    if not possible.all():
        raise ValueError(f"zero_point: expected {known}, got {zero_point!r}")
    return zero


def _check_rule(grid: Grid, rule: str, po2: str | None) -> None:
    check_option(rule, "rule", _RULES)
    if po2 is not None:
        check_option(po2, "po2", _POWERS)
    if rule == "max-abs-narrow" and grid.bits == 1:
        raise ValueError("rule: 'max-abs-narrow' divides by 0 at 1 bit; use another rule")
    uniform = grid.kind == "uniform"
    if rule in _CENTRED and not (uniform and grid.signed):
        raise ValueError(f"rule: {rule!r} needs a signed uniform grid, got {grid}; use 'mse-exact'")
    if rule in _AFFINE and (not uniform or grid.mid_rise):
        raise ValueError(f"rule: {rule!r} needs a uniform grid with a level at zero, got {grid}")
    if rule == "mse-exact-affine" and grid.bits > 8:
        raise ValueError(f"rule: {rule!r} tries all zero points, at most 8 bits; got {grid.bits}")
    if po2 is not None and (po2 == "mse") != (rule == "mse-exact-affine") and rule != "mse-exact":
        raise ValueError(f"po2: {po2!r} does not go with rule {rule!r}; use rule 'mse-exact'")


def _off_grid(codes: NDArray[Any], grid: Grid) -> bool:
    inside = grid.qmin <= codes.min() and codes.max() <= grid.qmax
    return not inside or (grid.kind == "binary" and not codes.all())


def _level(codes: Array, grid: Grid) -> Array:
    """Return the levels of codes at scale 1: :eq:`grid-kinds`."""
    if grid.kind == "log2":
        return np.asarray(np.sign(codes) * 2.0 ** (np.abs(codes) - grid.qmax))
    return codes + grid.offset


def _quotient(x: Array, scale: Array, division: str) -> Array:
    """Spell out :eq:`grid-division`; very large quotients become one large number."""
    with np.errstate(all="ignore"):
        if division == "float64":
            t = x / scale
        else:
            a, b = x.astype(np.float32), scale.astype(np.float32)
            if not ((b > 0) & np.isfinite(b) & np.isfinite(1 / b)).all():
                raise ValueError(
                    f"scale: expected numbers that float32 can hold and invert, got {scale.min()} "
                    f"to {scale.max()}; use division 'float64'"
                )
            t = np.asarray(a / b if division == "float32" else a * (1 / b), dtype=float)
    return np.asarray(np.clip(t, -_FAR, _FAR))


def _place(t: Array, qmax: int) -> tuple[Array, Array]:
    """Return the place of numbers among log2 codes, :eq:`grid-place`, without an even integer.

    The place less an even integer on the same side of zero is exact and rounds like the whole.
    """
    size = np.minimum(np.abs(t), 1.0)
    mantissa, exponent = np.frexp(size)
    inner = size < 2.0 ** (1 - qmax)
    code = np.where(inner, 0, qmax - 1 + exponent)
    part = np.where(inner, np.ldexp(size, qmax - 1), 2 * mantissa - 1)
    return np.copysign(part + code % 2, t), np.sign(t) * (code - code % 2)


def _round(t: Array, rounding: str, draws: Array | None = None) -> Array:
    """Spell out :eq:`grid-rounding`: the only place of the book where numbers become integers."""
    ready = {"half-even": np.rint, "floor": np.floor, "ceil": np.ceil, "to-zero": np.trunc}
    if rounding in ready:
        return np.asarray(ready[rounding](t))
    low, size = np.floor(t), np.abs(t)
    if draws is not None:
        return np.asarray(low + (draws < t - low))
    tie = size - np.floor(size) == 0.5  # exact, unlike t - low
    if rounding == "dpu":
        tie &= t < 0
    return np.asarray(np.where(tie, low + ((t > 0) | (rounding != "half-away")), np.rint(t)))


def _one_scale(x: Array, grid: Grid, rule: str, po2: str | None) -> tuple[float, float]:
    """Choose scale and zero point, in units that keep squares from overflow and underflow."""
    if rule.startswith("mse"):
        x = np.sort(x, axis=None)
        lowest, highest = float(x[0]), float(x[-1])
    else:
        lowest, highest = float(x.min()), float(x.max())
    unit = 2.0 ** min(max(frexp(max(-lowest, highest))[1], -1000), 1000)
    if 1 / _USUAL < unit < _USUAL:
        unit = 1.0
    else:  # dividing by a power of two is exact
        x = x / unit
    zero = 0.0 - grid.offset
    if rule == "mse-exact":
        scale = _best_scale(x, grid, 0, po2)
    elif rule == "mse-exact-affine":
        scale, zero = _best_pair(x, grid, po2)
    elif rule == "mse-200":
        scale = _trial_scale(x, grid)
    elif rule in _AFFINE:
        scale = (max(highest, 0.0) / unit - min(lowest, 0.0) / unit) / (grid.qmax - grid.qmin)
    else:
        scale = _max_abs_scale(lowest / unit, highest / unit, grid, rule)
    if scale <= 0:
        nothing = grid.mid_rise or grid.kind == "binary"
        return float(np.finfo(np.float32).smallest_normal) if nothing else 1.0, zero
    scale = min(max(scale * unit, _LEAST), _MOST)
    if po2 is not None:
        scale = _power_of_two(scale, po2)
    if rule.startswith("min-max"):
        zero = _zero_point(min(lowest, 0.0) / scale, grid, rule)
    return scale, zero


def _power_of_two(scale: float, po2: str) -> float:
    """Spell out :eq:`grid-po2`; with 'mse' the scale is one already."""
    mantissa, exponent = frexp(scale)  # from 1/2 to 1
    up = {"ceil": mantissa > 0.5, "round": mantissa >= sqrt(0.5)}.get(po2, False)
    return float(2.0 ** min(exponent - 1 + up, 1023))


def _zero_point(lowest: float, grid: Grid, rule: str) -> float:
    """Spell out :eq:`grid-min-max` for the smallest number in steps of the scale."""
    steps = np.array(lowest)
    if rule == "min-max":
        zero = _round(grid.qmin - steps, "half-even")
    else:
        zero = grid.qmin - _round(steps, "half-even" if rule == "min-max-torch" else "to-zero")
    return float(np.clip(zero, grid.qmin, grid.qmax))


def _max_abs_scale(lowest: float, highest: float, grid: Grid, rule: str) -> float:
    """Spell out :eq:`grid-max-abs`."""
    half = 2.0 ** (grid.bits - 1)
    if rule == "max-abs-two-sided":
        return _two_sided(lowest, highest, grid.levels)
    divisor = {"max-abs": half - 0.5, "max-abs-narrow": half - 1, "max-abs-full": half}[rule]
    return max(-lowest, highest) / divisor


def _two_sided(lowest: float, highest: float, levels: Array) -> float:
    """Return the least scale without clipping; a side without levels does not count."""
    bottom, top = float(levels[0]), float(levels[-1])
    return max(lowest / bottom if bottom < 0 else 0.0, highest / top if top > 0 else 0.0)


def _trial_scale(x: Array, grid: Grid) -> float:
    """Return the first trial scale :eq:`grid-trials` of least squared error, for sorted ``x``."""
    if not x.any():
        return 0.0
    scales = np.linspace(0.2, 1.2, 200) * max(-x[0], x[-1]) / (2.0 ** (grid.bits - 1) - 0.5)
    ends = float(grid.qmin), float(grid.qmax), grid.offset
    S1, S2 = moments(x, scales, *ends) if can_compile() else _moments(x, scales, grid.levels)
    return float(scales[np.argmax(scales * (2 * S1 - scales * S2))])


def _best_scale(x: Array, grid: Grid, zero: int, po2: str | None) -> float:
    """Return the largest scale of least squared error, or 0 if none helps, for sorted ``x``."""
    if po2 == "mse":
        return _search_powers(x, grid.levels - zero)
    few = x.size * 2**grid.bits <= _FEW_BREAKPOINTS
    if few or grid.kind in ("binary", "log2") or not can_compile():
        return _search_cells(x, grid.levels - zero)
    return exact_scale(x, float(grid.qmin - zero), float(grid.qmax - zero), grid.offset)


def _best_pair(x: Array, grid: Grid, po2: str | None) -> tuple[float, float]:
    """Spell out :eq:`grid-affine`: of equal errors the largest scale, then the zero nearest 0."""
    found = [(0.0, 0.0, 0.0, 0.0)]
    for zero in range(grid.qmin, grid.qmax + 1):
        scale = _best_scale(x, grid, zero, po2)
        if scale > 0:
            v = quantize(x, grid, scale, zero) - float(zero)
            gain = scale * (2 * (x * v).sum() - scale * (v * v).sum())
            found.append((float(gain), scale, -abs(zero), zero))
    best = max(found)[0]
    _, scale, _, z = max((f for f in found if f[0] >= best * (1 - TIE)), key=lambda f: f[1:])
    return scale, float(z)


def _search_powers(x: Array, levels: Array) -> float:
    """Return the best power of two; outside of the range tried none can be."""
    top = _two_sided(float(x[0]), float(x[-1]), levels)
    if top <= 0:
        return 0.0
    sizes = np.abs(levels[levels != 0])
    first = frexp(top)[1] - ceil(log2(sizes.max() * x.size)) - 4
    last = frexp(top)[1] + ceil(log2(sizes.max() / sizes.min())) + 3
    scales = np.ldexp(1.0, np.arange(first, last + 1))
    S1, S2 = _moments(x, scales, levels)
    gain = scales * (2 * S1 - scales * S2)
    return float(scales[gain >= gain.max() * (1 - TIE)].max()) if gain.max() > 0 else 0.0


def _search_cells(x: Array, levels: Array) -> float:
    """Spell out :eq:`grid-exact`, cell by cell, for sorted ``x``.

    For levels in unit steps the kernel ``exact_scale`` does the same faster.
    """
    steps = (levels[1:] + levels[:-1]) / 2
    breaks = np.divide.outer(x, steps[steps != 0])
    left = np.unique(np.append(breaks[breaks > 0], 0.0))
    right = np.append(left[1:], np.inf)
    inside = np.append((left[:-1] + left[1:]) / 2, 2 * left[-1] + 1)
    S1, S2 = _moments(x, inside, levels)
    refit = np.divide(S1, S2, out=np.zeros_like(S1), where=S2 > 0)
    reach = np.clip(refit, left, right)
    gain = reach * (2 * S1 - reach * S2)
    return float(refit[gain >= gain.max() * (1 - TIE)].max())


def _moments(x: Array, scales: Array, levels: Array) -> tuple[Array, Array]:
    """Spell out :eq:`grid-steps` for sorted ``x``; the kernel ``moments`` does the same faster.

    The innermost levels first; then each step outwards adds what lies beyond it in sorted ``x``.
    """
    sums = np.append(0.0, np.cumsum(x))
    inner = np.abs(levels).min()
    S1 = np.full(scales.shape, inner * np.abs(x).sum())
    S2 = np.full(scales.shape, inner**2 * x.size)
    for low, high in pairwise(levels):
        step, width = (low + high) / 2, high - low
        if step != 0:  # between two levels of one size nothing changes
            below = np.searchsorted(x, scales * step)
            S1 += width * (sums[-1] - sums[below] if step > 0 else -sums[below])
            S2 += width * 2 * step * (x.size - below if step > 0 else -below)
    return S1, S2
