"""Ground floor: numbers that float64 cannot hold on the way to a result that it can.

A product of small and large numbers may leave the range of float64 half-way and come back. So may a
norm, whose square is formed first. Where that is possible (:func:`fits` says when it is not), the
chapters keep mantissa and exponent apart, as :class:`Wide` arrays, and put them together at the end
(:func:`narrow`). Sums of products stay the products of the chapters: :func:`bilinear` cuts both
arguments into bands of magnitudes, lets a chapter's own function work on each pair of bands, moved
to the middle of the range by a power of two, and adds up what comes back. Powers of two change no
digit, so this costs no accuracy; it is slower, but only for data of such a kind.

Checked by tests/test_wide.py.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from math import frexp
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from qcp_ref._checks import Array

__all__: list[str] = []

# Binary exponents of the smallest and the largest magnitude other than 0; (0, 0) if all are 0.
Span: TypeAlias = tuple[int, int]

_SAFE = {4: 100, 8: 960}  # bytes of a number: exponents that leave room for the longest sums
_BAND = 480  # exponents in a band: products of two bands stay safe
_NOTHING = -(2**40)  # exponent of 0, below all others
_BLOCK = 2**16  # entries that span looks at in one go


class Wide(NamedTuple):
    """Numbers ``mantissa * 2**exponent``; mantissas are 0, or from 1/2 to below 1 in magnitude."""

    mantissa: Array
    exponent: NDArray[np.int64]

    def of(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> "Wide":
        """Apply what only moves entries (an index, a transpose, a reshape) to both parts."""
        return Wide(change(self.mantissa), change(self.exponent))


def span(x: NDArray[Any]) -> Span:
    """Return between which powers of two the magnitudes of an array lie."""
    flat, least, most = x.reshape(-1), np.inf, 0.0
    for start in range(0, flat.size, _BLOCK):
        block = np.abs(flat[start : start + _BLOCK])
        most = max(most, float(block.max()))
        block[block == 0] = np.inf
        least = min(least, float(block.min()))
    return (frexp(least)[1] - 1, frexp(most)[1]) if most > 0 else (0, 0)


def fits(*spans: Span, dtype: DTypeLike = np.float64) -> bool:
    """Say whether no product of numbers from these spans, nor of some of them, leaves the range."""
    safe = _SAFE[np.dtype(dtype).itemsize]
    below, above = sum(min(low, 0) for low, _ in spans), sum(max(high, 0) for _, high in spans)
    return -safe < below and above < safe


def wide(x: ArrayLike) -> Wide:
    """Take floats apart."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    return Wide(mantissa, np.where(mantissa == 0, _NOTHING, exponent.astype(np.int64)))


def narrow(a: Wide, names: str, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Put numbers together; refuse those beyond the range, too small ones become 0 by rounding."""
    return finite(_shifted(a.mantissa, a.exponent), names, dtype)


def finite(y: NDArray[Any], names: str, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Return results as this type, or refuse the arguments whose result it cannot hold."""
    with np.errstate(over="ignore", under="ignore"):
        y = np.asarray(y).astype(dtype, copy=False)
    if not np.isfinite(y).all():
        raise ValueError(
            f"{names}: the result exceeds the range of {np.dtype(dtype)}; rescale the data"
        )
    return y


def times(a: Wide, b: Wide) -> Wide:
    """Multiply entry by entry."""
    return _normal(a.mantissa * b.mantissa, a.exponent + b.exponent)


def over(a: Wide, b: Wide) -> Wide:
    """Divide entry by entry; nothing in ``b`` is 0."""
    return _normal(a.mantissa / b.mantissa, a.exponent - b.exponent)


def plus(a: Wide, b: Wide) -> Wide:
    """Add entry by entry."""
    top = np.maximum(a.exponent, b.exponent)
    sums = _shifted(a.mantissa, a.exponent - top) + _shifted(b.mantissa, b.exponent - top)
    return _normal(sums, top)


def total(a: Wide, axis: int | None = None) -> Wide:
    """Add up along an axis, or everything."""
    top = a.exponent.max(axis=axis, keepdims=True)
    sums = _shifted(a.mantissa, a.exponent - top).sum(axis=axis)
    return _normal(np.asarray(sums), top.reshape(sums.shape))


def root(a: Wide, degree: int = 2) -> Wide:
    """Return the root of numbers of at least 0."""
    whole, rest = a.exponent // degree, a.exponent % degree
    if degree == 2:  # which is rounded correctly
        return _normal(np.sqrt(_shifted(a.mantissa, rest)), whole)
    return _normal(a.mantissa ** (1 / degree) * 2.0 ** (rest / degree), whole)


def bilinear(core: Callable[[Array, Array], NDArray[Any]], a: Wide, b: Wide) -> Wide:
    """Apply a function that is linear in both arguments, on bands that it can take."""
    parts = []
    for x, shift in _bands(a):
        for y, other in _bands(b):
            parts.append(_normal(core(x, y), np.asarray(shift + other)))
    return reduce(plus, parts)


def _bands(a: Wide) -> Iterator[tuple[Array, int]]:
    """Yield floats, each array with the exponent that it lacks; together they are the numbers."""
    alive = a.mantissa != 0
    if not alive.any():
        yield a.mantissa, 0
        return
    top = int(a.exponent[alive].max())
    band = (top - a.exponent) // _BAND
    for number in np.unique(band[alive]):
        base = top - int(number) * _BAND
        own = alive & (band == number)
        yield np.where(own, _shifted(a.mantissa, a.exponent - base), 0.0), base


def _normal(mantissa: Array, exponent: NDArray[np.int64]) -> Wide:
    part = wide(mantissa)
    return Wide(part.mantissa, np.where(part.mantissa == 0, _NOTHING, part.exponent + exponent))


def _shifted(mantissa: Array, exponent: NDArray[np.int64]) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        # No float64 needs more; NumPy takes exponents of 32 bits.
        return np.asarray(np.ldexp(mantissa, np.clip(exponent, -4000, 4000)))
