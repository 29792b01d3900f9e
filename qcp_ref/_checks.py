"""Ground floor: argument checks shared by all chapters.

Every public function validates once, at its boundary, through these helpers; inside the book arrays
are finite, real and of a known dtype. A message names the argument, what was expected, what was
received and what to do. Nothing is repaired silently and no input is changed.

Checked by tests/test_checks.py.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__: list[str] = []

Array: TypeAlias = NDArray[np.float64]
# What public functions accept as a random source: a seed or a generator, never global state.
Rng: TypeAlias = "int | np.random.Generator"

_EXACT_INTEGERS = 2**53  # float64 represents every integer up to here
_SMALLEST = 2.0**-400  # beyond it and its inverse, squares leave the range of float64
# How far an entry of a Gram matrix may be off, relative to the lengths of its two columns.
_GRAM_ROUNDING = 2.0**-18  # 64 roundings of float32


def check_array(
    x: ArrayLike,
    name: str,
    *,
    ndim: int | None = None,
    min_ndim: int = 0,
    keep_float32: bool = False,
) -> NDArray[Any]:
    """Return ``x`` as a finite float64 array (float32 is kept on request), or say what is wrong."""
    array = np.asarray(x)
    kind = array.dtype.kind
    if kind not in "iuf":
        raise TypeError(
            f"{name}: expected an array of real numbers, got dtype {array.dtype}; "
            "convert it to floating point explicitly"
        )
    if array.size == 0:
        raise ValueError(f"{name}: expected a non-empty array, got shape {array.shape}")
    if array.ndim < min_ndim or (ndim is not None and array.ndim != ndim):
        wanted = f"at least {min_ndim}" if ndim is None else ndim
        raise ValueError(
            f"{name}: expected {wanted} axes, got {array.ndim} (shape {array.shape}); reshape it"
        )
    if keep_float32 and is_float32(array):
        _check_finite(array, name)
        return array.astype(np.float32, copy=False)
    if kind == "f":
        _check_finite(array, name)
        if array.dtype.itemsize > 8 and (array.astype(np.float64) != array).any():
            raise ValueError(
                f"{name}: {array.dtype} values do not fit float64 exactly; round them yourself"
            )
    elif int(array.max()) > _EXACT_INTEGERS or int(array.min()) < -_EXACT_INTEGERS:
        raise ValueError(
            f"{name}: integers above 2**53 have no exact float64 value; rescale the data"
        )
    return array.astype(np.float64, copy=False)


def is_float32(array: NDArray[Any]) -> bool:
    """Say whether these are float32 data, in any byte order: what is computed in float32.

    Asked of the array that was made of an argument, never of the argument, whose ``dtype`` may be
    that of another library.
    """
    return array.dtype.kind == "f" and array.dtype.itemsize == 4


def check_tensor(X: ArrayLike) -> Array:
    """Return a tensor of at least two modes whose squared norm float64 can hold."""
    array = check_array(X, "X", min_ndim=2)
    largest = float(np.abs(array).max())
    if largest != 0 and not _SMALLEST <= largest <= 1 / _SMALLEST:
        raise ValueError(
            f"X: expected a largest magnitude of 0 or from {_SMALLEST:.0e} to {1 / _SMALLEST:.0e}, "
            f"got {largest:.0e}; rescale the data"
        )
    return array


def check_factors(
    factors: Iterable[ArrayLike], *, shape: Sequence[int] | None = None, keep_float32: bool = False
) -> list[NDArray[Any]]:
    """Return the factor matrices as float arrays with one common number of columns."""
    if isinstance(factors, np.ndarray) or not isinstance(factors, Iterable):
        raise TypeError(
            f"factors: expected a sequence of matrices (one per mode), got {type(factors).__name__}"
        )
    arrays = [
        check_array(A, f"factors[{n}]", ndim=2, keep_float32=keep_float32)
        for n, A in enumerate(factors)
    ]
    if len(arrays) < 2:
        raise ValueError(f"factors: expected at least 2 matrices, got {len(arrays)}")
    ranks = [A.shape[1] for A in arrays]
    if len(set(ranks)) > 1:
        raise ValueError(
            f"factors: expected the same number of columns (the rank) in all, got {ranks}"
        )
    rows = tuple(A.shape[0] for A in arrays)
    if shape is not None and rows != tuple(shape):
        raise ValueError(
            f"factors: expected row counts {tuple(shape)} (the tensor's shape), got {rows}; "
            "one factor per mode, in mode order"
        )
    return arrays


def check_gram(G: ArrayLike, rank: int) -> Array:
    """Return a Gram matrix of the given rank's order, or say what is wrong.

    Entries may be off by 2**-18 times the lengths of their two columns, which is 64 roundings of
    float32. So at unit diagonal no eigenvalue may lie below -2**-18 times the rank. Of a matrix
    that is symmetric only up to this the symmetric part is taken: a quadratic form sees no other.
    Beside a zero on the diagonal all entries have to be zero; other diagonal entries have to lie
    between 2**-800 and 2**800, the squares of what the entries of a tensor may be.
    """
    array = check_array(G, "G", ndim=2)
    if array.shape != (rank, rank):
        raise ValueError(f"G: expected shape {(rank, rank)} (the rank of F), got {array.shape}")
    diagonal = np.diag(array)
    alive = diagonal[diagonal != 0]
    if (alive < 0).any():
        raise ValueError(f"G: expected a Gram matrix, got {alive.min():.3g} on the diagonal")
    if alive.size and not _SMALLEST**2 <= alive.min() <= alive.max() <= _SMALLEST**-2:
        raise ValueError(
            f"G: expected a diagonal of 0 or from {_SMALLEST**2:.0e} to {_SMALLEST**-2:.0e}, got "
            f"{alive.min():.3g} to {alive.max():.3g}; rescale the factors"
        )
    dead = diagonal == 0
    if array[dead].any() or array[:, dead].any():
        raise ValueError(
            "G: expected a Gram matrix, which is positive semidefinite, got a zero on the diagonal "
            "beside other entries; form it from the factors, with all of its entries"
        )
    unit = unit_diagonal(array)[0]  # first by powers of two, so that nothing leaves the range
    root = np.sqrt(np.where(dead, 1.0, np.diag(unit)))
    unit = unit / root / root[:, None]
    if (np.abs(unit - unit.T) > 2 * _GRAM_ROUNDING).any():
        raise ValueError("G: expected a Gram matrix, which is symmetric, got another one")
    unit = (unit + unit.T) / 2
    least = np.linalg.eigvalsh(unit)[0] if _has_null(unit) else 0.0
    if least < -rank * _GRAM_ROUNDING:
        raise ValueError(
            "G: expected a Gram matrix, which is positive semidefinite, got an eigenvalue of "
            f"{least:.3g} at unit diagonal (at least {-rank * _GRAM_ROUNDING:.1e} is taken for "
            "rounding, of float32 too); form it from the factors, with all of its entries"
        )
    return array if (array == array.T).all() else np.asarray((array + array.T) / 2)


def unit_diagonal(G: Array) -> tuple[Array, Array]:
    """Divide rows and columns by powers of two, so that nothing is rounded: diagonal 1/2 to 2.

    Returns the matrix and the divisors. Beside a zero on the diagonal nothing is divided by.
    """
    diagonal = np.diag(G)
    half = np.rint(np.log2(np.where(diagonal > 0, diagonal, 1.0)) / 2).astype(np.int64)
    return np.ldexp(G, -half[:, None] - half), np.ldexp(1.0, half)


def check_int(
    value: Any, name: str, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return ``value`` as an int; bool and float are refused, NumPy integers are fine."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer, got {value!r} of type {type(value).__name__}"
        ) from None
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{name}: expected {_range(minimum, maximum)}, got {number}")
    return number


def check_real(
    value: Any, name: str, *, minimum: float | None = None, positive: bool = False
) -> float:
    """Return ``value`` as a finite float, at least ``minimum`` or strictly positive."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        raise TypeError(f"{name}: expected a real number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: expected a real number, got {value!r} of type {type(value).__name__}"
        ) from None
    if not np.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    if positive and number <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {number}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    return number


def check_option(value: Any, name: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of the named options."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {list(options)}, got {value!r}")
    if value not in options:
        raise ValueError(f"{name}: expected one of {list(options)}, got {value!r}")
    return value


def check_mode(mode: Any, ndim: int) -> int:
    """Return ``mode`` as an axis number in ``range(ndim)``; negative numbers are refused."""
    return check_int(mode, "mode", minimum=0, maximum=ndim - 1)


def check_rng(rng: Any, function: str) -> "np.random.Generator":
    """Return a generator; an int becomes the stream of that seed which belongs to ``function``.

    The function's name enters the seed, so that equal ints in two functions never share a stream (a
    solver started with the data's seed would otherwise start at the answer).
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng: expected an int or a numpy.random.Generator, got {rng!r}")
    if rng < 0:
        raise ValueError(f"rng: expected a seed of at least 0, got {rng}")
    return np.random.default_rng(np.random.SeedSequence([int(rng), crc32(function.encode())]))


def _check_finite(array: NDArray[Any], name: str) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity; clean the data")


def _has_null(unit: Array) -> bool:
    """Whether a matrix of unit diagonal may have an eigenvalue below zero, up to rounding."""
    try:
        np.linalg.cholesky(unit + np.diag((np.diag(unit) == 0) + 1e-12))
    except np.linalg.LinAlgError:
        return True
    return False


def _range(minimum: int | None, maximum: int | None) -> str:
    if maximum is None:
        return f"at least {minimum}"
    return f"{minimum} to {maximum}" if minimum is not None else f"at most {maximum}"
