"""Ground floor: argument checks shared by all chapters.

Every public function validates once, at its boundary, through these helpers; inside the book arrays
are finite, real and of a known dtype. A message names the argument, what was expected, what was
received and what to do. Nothing is repaired silently and no input is changed.

Everything that becomes an array comes through one door, ``as_array`` of :mod:`qcp_ref._door`.

Checked by tests/test_checks.py.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from numbers import Real
from typing import Any, TypeAlias, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._door import DEEPEST, as_array, is_bool, part_of, refuse_foreign, shown

__all__: list[str] = []

Array: TypeAlias = NDArray[np.float64]
# What public functions accept as a random source: a seed or a generator, never global state.
Rng: TypeAlias = "int | np.random.Generator"
Kind = TypeVar("Kind")

_EXACT_INTEGERS = 2**53  # float64 represents every integer up to here
_SMALLEST = 2.0**-400  # beyond it and its inverse, squares leave the range of float64
# How far an entry of a Gram matrix may be off, relative to the lengths of its two columns.
_GRAM_ROUNDING = 2.0**-18  # 64 roundings of float32
_COUNTS = 10**6  # sweeps, steps and the like
_RANKS = 2**16  # components; their Gram matrix takes 32 GiB
_COMMON = 2**31  # strides, padding and dilation
_LONGEST = 100_000  # of a list of numbers that are no data


def check_integers(x: Any, name: str, *, ndim: int | None = None) -> NDArray[Any]:
    """Return a non-empty array of integers, in its own type, or say what is wrong."""
    array = as_array(x, name, "integers")
    if array.dtype.kind not in {"i", "u"} and array.size:
        raise TypeError(
            f"{name}: expected integers, got dtype {array.dtype}; round the numbers yourself"
        )
    check_array(array, name, ndim=ndim)
    return array


def check_array(
    x: ArrayLike,
    name: str,
    *,
    ndim: int | None = None,
    min_ndim: int = 0,
    keep_float32: bool = False,
) -> NDArray[Any]:
    """Return ``x`` as a finite float64 array (float32 is kept on request), or say what is wrong."""
    array = as_array(x, name)
    kind = array.dtype.kind
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
        if array.dtype.char == "g":  # long double
            with np.errstate(all="ignore"):
                exact = (array.astype(np.float64) == array).all()
            if not exact:
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


def check_tensor(X: ArrayLike, name: str = "X") -> Array:
    """Return a tensor of at least two modes whose squared norm float64 can hold."""
    array = check_array(X, name, min_ndim=2)
    largest = float(np.abs(array).max())
    if largest != 0 and not _SMALLEST <= largest <= 1 / _SMALLEST:
        raise ValueError(
            f"{name}: expected a largest magnitude of 0 or from {_SMALLEST:.0e} to "
            f"{1 / _SMALLEST:.0e}, got {largest:.0e}; rescale the data"
        )
    return array


def check_factors(
    factors: Iterable[ArrayLike],
    name: str = "factors",
    *,
    shape: Sequence[int] | None = None,
    keep_float32: bool = False,
) -> list[NDArray[Any]]:
    """Return the factor matrices as float arrays with one common number of columns."""
    given = check_sequence(factors, name, "matrices (one per mode)", most=DEEPEST)
    arrays = [
        check_array(A, f"{name}[{n}]", ndim=2, keep_float32=keep_float32)
        for n, A in enumerate(given)
    ]
    if len(arrays) < 2:
        raise ValueError(f"{name}: expected at least 2 matrices, got {len(arrays)}")
    ranks = [A.shape[1] for A in arrays]
    if len(set(ranks)) > 1:
        raise ValueError(
            f"{name}: expected the same number of columns (the rank) in all, got {ranks}"
        )
    rows = tuple(A.shape[0] for A in arrays)
    if shape is not None and rows != tuple(shape):
        raise ValueError(
            f"{name}: expected row counts {tuple(shape)} (the tensor's shape), got {rows}; "
            "one factor per mode, in mode order"
        )
    return arrays


def check_sequence(values: Any, name: str, what: str, *, most: int = _LONGEST) -> list[Any]:
    """Return the entries of a sequence or another iterable; text, mappings and sets are none.

    An array is one only where numbers are expected, which it then holds along its one axis.
    """
    one_axis = what in {"integers", "numbers"}
    wrong = isinstance(values, (str, bytes, bytearray, Mapping, set, frozenset))
    wrong |= hasattr(values, "__array__") and not (one_axis and _axes_of(values) == 1)
    try:
        if wrong:
            raise TypeError
        found = list(islice(iter(values), most + 1))
    except TypeError:
        raise TypeError(
            f"{name}: expected a sequence of {what}, got {shown(values)} of type "
            f"{type(values).__name__}; put it into a list"
        ) from None
    if len(found) > most:
        raise ValueError(f"{name}: expected at most {most} {what}, got more")
    return found


def check_ints(
    values: Any,
    name: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    cap: int | None = None,
) -> tuple[int, ...]:
    """Return a sequence of integers as a tuple."""
    given = check_sequence(values, name, "integers")
    limits = {"minimum": minimum, "maximum": maximum, "cap": cap}
    return tuple(check_int(value, name, **limits) for value in given)


def check_gram(G: ArrayLike, rank: int) -> Array:
    """Return a Gram matrix of the given rank's order, or say what is wrong.

    Entries may be off by 2**-18 times the lengths of their two columns, which is 64 roundings of
    float32. So at unit diagonal no eigenvalue may lie below -2**-18 times the rank. Of a matrix
    that is symmetric only up to this the symmetric part is taken: a quadratic form sees no other.
    Beside a zero on the diagonal all entries have to be zero; other diagonal entries have to lie
    between 2**-800 and 2**800, the squares of what the entries of a tensor may be.
    """
    array = check_array(G, "G")
    if array.shape != (rank, rank):
        raise ValueError(f"G: expected shape {(rank, rank)} (the rank of F), got {array.shape}")
    diagonal = np.diag(array)
    alive = diagonal[diagonal != 0]
    if (diagonal < 0).any():
        raise ValueError(f"G: expected a Gram matrix, got {diagonal.min():.3g} on the diagonal")
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
    root = np.sqrt(np.diag(unit) + dead)
    unit = unit / root / root[:, None]
    if (unit - unit.T > 2 * _GRAM_ROUNDING).any():  # each difference is there with both signs
        raise ValueError("G: expected a Gram matrix, which is symmetric, got another one")
    unit = (unit + unit.T) / 2
    allowed = rank * _GRAM_ROUNDING
    if not _is_definite(unit + allowed * np.eye(rank)):
        raise ValueError(
            "G: expected a Gram matrix, which is positive semidefinite, got an eigenvalue of "
            f"{np.linalg.eigvalsh(unit)[0]:.3g} at unit diagonal (at least {-allowed:.1e} is taken "
            "for rounding, of float32 too); form it from the factors, with all of its entries"
        )
    return array if (array == array.T).all() else np.asarray((array + array.T) / 2)


def unit_diagonal(G: Array) -> tuple[Array, Array]:
    """Divide rows and columns by powers of two, so that nothing is rounded: diagonal 1/2 to 2.

    Returns the matrix and the divisors. Beside a zero on the diagonal nothing is divided by.
    """
    half = np.frexp(np.diag(G))[1] // 2  # 0 of a zero
    return np.ldexp(G, -half[:, None] - half), np.ldexp(1.0, half)


def check_int_or_ints(
    value: Any, name: str, *, minimum: int | None = None, cap: int | None = None
) -> tuple[int, ...]:
    """Return one integer or several as a tuple."""
    if is_one_int(value):
        return (check_int(value, name, minimum=minimum, cap=cap),)
    return check_ints(value, name, minimum=minimum, cap=cap)


def is_one_int(value: Any) -> bool:
    """Say whether this stands for one integer and not for several."""
    axes = _axes_of(value)
    if axes is not None:
        return axes == 0
    return not isinstance(value, Iterable)


def check_int(
    value: Any,
    name: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    cap: int | None = None,
) -> int:
    """Return ``value`` as an int; bool and float are refused, NumPy integers are fine.

    The ``cap`` is what a computer can do, not what makes sense.
    """
    try:
        refuse_foreign(value, name)
        if isinstance(value, np.timedelta64) or is_bool(value):
            raise TypeError
        number = operator.index(value)
    except Exception as error:
        if isinstance(error, TypeError) and str(error).startswith(f"{name}: "):
            raise
        raise TypeError(
            f"{name}: expected an integer, got {shown(value)} of type {type(value).__name__}"
        ) from None
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{name}: expected {_range(minimum, maximum)}, got {shown(number)}")
    if cap is not None and number > cap:
        raise ValueError(f"{name}: expected at most {cap}, got {shown(number)}")
    return number


def check_count(value: Any, name: str, *, minimum: int = 1) -> int:
    """Return how often something is done, at most; a larger number would never end."""
    return check_int(value, name, minimum=minimum, cap=_COUNTS)


def check_rank(rank: Any) -> int:
    """Return a number of components; its square is the size of a Gram matrix."""
    return check_int(rank, "rank", minimum=1, cap=_RANKS)


def check_real(
    value: Any,
    name: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    positive: bool = False,
) -> float:
    """Return ``value`` as a finite float between the limits or strictly positive.

    Python's and NumPy's real numbers are taken, and arrays without axes that hold one.
    """
    if not isinstance(value, (Real, Decimal)) and hasattr(value, "__array__"):
        value = as_array(value, name)[()]  # a number, if it has no axes
    plain = isinstance(value, (Real, Decimal)) and not isinstance(value, np.timedelta64)
    if not plain or is_bool(value):
        raise TypeError(
            f"{name}: expected a real number, got {shown(value)} of type {type(value).__name__}"
        )
    try:
        number = float(value)
    except (OverflowError, ValueError):  # a signalling NaN
        number = float("inf")
    if not np.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {shown(value)}")
    if positive and number <= 0:
        raise ValueError(f"{name}: expected a number above 0, got {number}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: expected at most {maximum}, got {number}")
    return number


def check_flag(value: Any, name: str) -> bool:
    """Return ``value`` if it is True or False; numbers and texts are refused."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return value


def check_callback(callback: Any, name: str = "callback") -> Any:
    """Return what can be called, or None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{name}: expected a function or None, got {shown(callback)}")
    return callback


def check_class(value: Any, name: str, kind: type[Kind]) -> Kind:
    """Return ``value`` if it is of the class that is meant."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}")
    return value


def check_option(value: Any, name: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of the named options."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {list(options)}, got {shown(value)}")
    if value not in options:
        raise ValueError(f"{name}: expected one of {list(options)}, got {shown(value)}")
    return value


def check_geometry(stride: Any, padding: Any, dilation: Any) -> tuple[Any, Any, Any]:
    """Return stride, padding and dilation as they are kept: one integer, or several in a tuple."""
    if isinstance(padding, str):
        check_option(padding, "padding", ("valid", "same"))
    else:
        padding = _one_or_more(padding, "padding", 0)
    return _one_or_more(stride, "stride", 1), padding, _one_or_more(dilation, "dilation", 1)


def _one_or_more(value: Any, name: str, minimum: int) -> int | tuple[int, ...]:
    given = check_int_or_ints(value, name, minimum=minimum, cap=_COMMON)
    return given[0] if is_one_int(value) else given


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
    try:
        seed = check_int(rng, "rng")
    except TypeError:
        raise TypeError(
            f"rng: expected an int or a numpy.random.Generator, got {shown(rng)}"
        ) from None
    if seed < 0:
        raise ValueError(f"rng: expected a seed of at least 0, got {shown(seed)}")
    return np.random.default_rng(np.random.SeedSequence([seed, crc32(function.encode())]))


def _axes_of(values: Any) -> int | None:
    axes = part_of(values, "ndim")
    return axes if isinstance(axes, int) else None


def _check_finite(array: NDArray[Any], name: str) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity; clean the data")


def _is_definite(matrix: Array) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _range(minimum: int | None, maximum: int | None) -> str:
    if maximum is None:
        return f"at least {minimum}"
    return f"{minimum} to {maximum}" if minimum is not None else f"at most {maximum}"
