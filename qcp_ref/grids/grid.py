r"""What is a quantization grid?

A grid of ``b`` bits is a set of integer codes :eq:`grid-codes`; with a scale ``s`` and a zero
point ``z`` a code ``k`` stands for the number ``s (k - z)`` :eq:`grid-dequantize`. There is one
rounding rule in the whole book, :func:`quantize` :eq:`grid-quantize`: divide in float64, round
half to even, add the zero point, clip, cast; what others do differently in these steps has a name
and is an option. Binary, ternary and logarithmic grids have tables of levels :eq:`grid-kinds`. One
scale serves a whole array, a row or a column; it keeps all axes, so its shape is ``()``, ``(I, 1)``
or ``(1, R)`` for an array of shape ``(I, R)``, and so does a zero point that comes with it. How a
scale is chosen is the next chapter.

On one page (``qcp_ref/minimal.py``) this is ``project``. What breaks there: nothing is said of zero
points, of scales per row or column, or of grids without equal steps.

Simplified: no learned or free tables of levels, no groups smaller than a row or column.

Checked by tests/grids/test_grid.py.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    Rng,
    check_array,
    check_class,
    check_flag,
    check_int,
    check_integers,
    check_option,
    check_rng,
)
from qcp_ref._door import shown
from qcp_ref._results import frozen

__all__ = ["Grid", "Scale", "dequantize", "quantize"]

_ROUNDINGS = (
    *("half-even", "half-away", "half-up", "dpu"),
    *("floor", "ceil", "to-zero", "stochastic"),
)
_DIVISIONS = ("float64", "float32", "reciprocal")
_BITS = {"uniform": (1, 16), "binary": (1, 1), "ternary": (2, 2), "log2": (2, 8)}
_FAR = 2.0**20  # beyond all codes: saturates on every grid, whatever the zero point


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

    - *codes*: a full grid has ``2**bits`` codes, a narrow, ternary or log2 one has one less
    - *symmetric*: the levels of narrow, mid-rise, binary, ternary and log2 grids are symmetric
      about zero

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
            check_flag(getattr(self, name), name)
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

    - *nearest*: with 'half-even' and no zero point it is the code of the level nearest to the
      quotient; of two nearest it is the even code, on a binary grid that of +1
    - *loops*: each rounding is that of plain loops on rational numbers, and so is each division
    - *stochastic*: stochastic rounding takes one of the two neighbours, and is right on average
      inside the grid
    - *monotone*: it never falls where ``x`` grows, but for stochastic rounding
    - *power*: it is unchanged if ``x`` and ``scale`` are multiplied by one power of two that leaves
      all of them normal floats
    - *inverse*: quantizing the dequantized codes gives the codes back, unless these are subnormal
    - *odd*: ``-x`` has the negated code on narrow, ternary and log2 grids, off zero on binary ones;
      off ties it is ``-1 - code`` on mid-rise grids

    Examples
    --------
    >>> from qcp_ref import Grid, quantize
    >>> quantize([-9.0, -0.5, 0.5, 1.5, 2.2], Grid(4), 1.0)
    array([-8,  0,  0,  2,  2], dtype=int8)
    """
    x, grid = check_array(x, "x"), check_grid(grid)
    scale = check_scale(scale, x.shape)
    zero = check_zero(zero_point, grid, x.shape)
    check_option(rounding, "rounding", _ROUNDINGS)
    check_option(division, "division", _DIVISIONS)
    if (rounding == "stochastic") != (rng is not None):
        raise ValueError(
            f"rng: belongs to rounding 'stochastic', got rng={shown(rng)} with {rounding!r}"
        )
    if grid.kind == "binary" and (rounding, division) != ("half-even", "float64"):
        raise ValueError("rounding, division: a binary grid takes signs; leave them out")
    if division != "float64":
        _check_single(scale)
    draws = None if rng is None else check_rng(rng, "quantize").random(x.shape)
    return quantize_core(x, grid, scale, zero, rounding=rounding, division=division, draws=draws)


def quantize_core(
    x: Array,
    grid: Grid,
    scale: Array,
    zero_point: float | Array,
    *,
    rounding: str = "half-even",
    division: str = "float64",
    draws: Array | None = None,
) -> NDArray[np.integer[Any]]:
    """Round finite numbers to codes: :func:`quantize` without checks, for what is in order.

    The zero point is the one that dequantization subtracts, -1/2 on a mid-rise grid; ``draws`` are
    the uniform numbers of stochastic rounding.
    """
    if grid.kind == "binary":  # k = sign(x), that of zero is +1
        return np.where(x >= 0, 1, -1).astype(grid.dtype)
    # k = clip(round(x / s - o) + z, qmin, qmax)  :eq:`grid-quantize`
    # where zero_point + o is z: on a mid-rise grid, whose zero_point is -o, it is 0
    t, base = _quotient(x, scale, division) - grid.offset, np.zeros(())
    if grid.kind == "log2":
        t, base = _place(t, grid.qmax)
    codes = round_to_integers(t, rounding, draws) + (base + zero_point + grid.offset)
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

    - *rounding*: one rounding of the exact product, so exact if the scale is a power of two

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
    k = check_array(check_integers(codes, "codes"), "codes")
    s, zero = check_scale(scale, k.shape), check_spread(zero_point, "zero_point", k.shape)
    if grid is not None:
        zero = check_zero(zero_point, check_grid(grid), k.shape)
        if off_grid(k, grid):
            raise ValueError(f"codes: expected codes of {grid}, got {k.min():g} to {k.max():g}")
    return check_product(dequantize_core(k, s, zero, grid))


def dequantize_core(
    codes: NDArray[Any], scale: Array, zero_point: float | Array, grid: Grid | None = None
) -> Array:
    """Return the numbers that codes stand for: :func:`dequantize` without checks.

    Infinite where the product leaves the range of float64.
    """
    k = codes.astype(np.float64, copy=False)
    if grid is not None:
        k = _level(k, grid) - grid.offset
    with np.errstate(over="ignore"):
        # x = s (k - z)  :eq:`grid-dequantize`
        return np.asarray(scale * (k - zero_point))


def check_grid(grid: Any) -> Grid:
    """Return the grid, or refuse what is none."""
    return check_class(grid, "grid", Grid)


def check_spread(value: ArrayLike, name: str, shape: tuple[int, ...]) -> Array:
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


def check_scale(scale: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return scales above 0 that meet an array of this shape."""
    array = check_spread(scale, "scale", shape)
    if (array <= 0).any():
        raise ValueError(f"scale: expected numbers above 0, got {array.min()}")
    return array


def plain_zero(grid: Grid) -> float:
    """Return what dequantization subtracts if no zero point is chosen: -1/2 on mid-rise grids."""
    return 0.0 - grid.offset


def check_zero(zero_point: ArrayLike, grid: Grid, shape: tuple[int, ...]) -> Array:
    """Return the zero point that dequantization subtracts."""
    zero = check_spread(zero_point, "zero_point", shape)
    if grid.mid_rise:
        possible, known = (zero == 0) | (zero == -grid.offset), "-1/2 on a mid-rise grid"
        zero = np.array(-grid.offset)
    elif grid.kind in ("binary", "log2"):
        possible, known = zero == 0, f"0 on a {grid.kind} grid"
    else:
        possible = (zero == np.rint(zero)) & (grid.qmin <= zero) & (zero <= grid.qmax)
        known = f"an integer from {grid.qmin} to {grid.qmax}"
    if not possible.all():
        raise ValueError(f"zero_point: expected {known}, got {shown(zero_point)}")
    return zero


def check_product(values: Array) -> Array:
    """Return products of scale and level, unless one of them left the range of float64."""
    if not np.isfinite(values).all():
        raise ValueError("scale: scale times code exceeds the float64 range; rescale the data")
    return values


def _check_single(scale: Array) -> None:
    """Refuse scales that division in float32 cannot use."""
    with np.errstate(all="ignore"):
        b = scale.astype(np.float32)
        held = np.isfinite(b) & np.isfinite(1 / b)
    if not held.all():
        raise ValueError(
            f"scale: expected numbers that float32 can hold and invert, got {scale.min()} "
            f"to {scale.max()}; use division 'float64'"
        )


def off_grid(codes: NDArray[Any], grid: Grid) -> bool:
    """Say whether a code lies outside the grid."""
    inside = grid.qmin <= codes.min() and codes.max() <= grid.qmax
    return not inside or (grid.kind == "binary" and not codes.all())


def _level(codes: Array, grid: Grid) -> Array:
    """Return the levels of codes at scale 1."""
    if grid.kind == "log2":
        # l_k = sign(k) 2^(|k| - qmax)  :eq:`grid-kinds`
        return np.asarray(np.sign(codes) * 2.0 ** (np.abs(codes) - grid.qmax))
    return codes + grid.offset  # l_k = k + o


def _quotient(x: Array, scale: Array, division: str) -> Array:
    """Divide by the scale; very large quotients become one large number."""
    # x / s, or fl(fl(x) / fl(s)), or fl(fl(x) fl(1 / fl(s))), fl in float32  :eq:`grid-division`
    with np.errstate(all="ignore"):
        if division == "float64":
            t = x / scale
        else:
            a, b = x.astype(np.float32), scale.astype(np.float32)
            t = np.asarray(a / b if division == "float32" else a * (1 / b), dtype=float)
    return np.asarray(np.clip(t, -_FAR, _FAR))


def _place(t: Array, qmax: int) -> tuple[Array, Array]:
    """Return the place of numbers among log2 codes, in two parts of which one is an even integer.

    The place less an even integer on the same side of zero is exact and rounds like the whole.
    Places beyond the last code are left to the clip.
    """
    # u = k + (t - l_k) / (l_(k+1) - l_k) where l_k <= t < l_(k+1)  :eq:`grid-place`
    size = np.abs(t)
    mantissa, exponent = np.frexp(size)
    inner = size < 2.0 ** (1 - qmax)
    code = np.where(inner, 0, qmax - 1 + exponent)
    part = np.where(inner, np.ldexp(size, qmax - 1), 2 * mantissa - 1)
    return np.copysign(part + code % 2, t), np.sign(t) * (code - code % 2)


def round_to_integers(t: Array, rounding: str, draws: Array | None = None) -> Array:
    """Round: the only place of the book where numbers become integers, :eq:`grid-rounding`."""
    # floor(t), ceil(t), sign(t) floor(|t|); half-even is that of IEEE 754
    ready = {"half-even": np.rint, "floor": np.floor, "ceil": np.ceil, "to-zero": np.trunc}
    if rounding in ready:
        return np.asarray(ready[rounding](t))
    low, size = np.floor(t), np.abs(t)
    if draws is not None:
        return np.asarray(low + (draws < t - low))  # floor(t) + [w < t - floor(t)]
    # A tie goes to floor(t + 1/2) in half-up, to sign(t) floor(|t| + 1/2) in half-away, and to
    # ceil(t) in dpu if t < 0; all else is half-even.
    tie = size - np.floor(size) == 0.5  # exact, unlike t - low
    if rounding == "dpu":
        tie &= t < 0
    return np.asarray(np.where(tie, low + ((t > 0) | (rounding != "half-away")), np.rint(t)))
