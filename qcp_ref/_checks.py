"""Ground floor: argument checks shared by all chapters.

Every public function validates once, at its boundary, through these helpers; inside the book arrays
are finite, real and of a known dtype. A message names the argument, what was expected, what was
received and what to do. Nothing is repaired silently and no input is changed.

Everything that becomes an array comes through one door, :func:`as_array`. What NumPy would read
without what it means (a mask, a unit, a gradient) is refused there, as is what it cannot read.

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

__all__: list[str] = []

Array: TypeAlias = NDArray[np.float64]
# What public functions accept as a random source: a seed or a generator, never global state.
Rng: TypeAlias = "int | np.random.Generator"
Kind = TypeVar("Kind")

_EXACT_INTEGERS = 2**53  # float64 represents every integer up to here
_SMALLEST = 2.0**-400  # beyond it and its inverse, squares leave the range of float64
# How far an entry of a Gram matrix may be off, relative to the lengths of its two columns.
_GRAM_ROUNDING = 2.0**-18  # 64 roundings of float32
_DEEPEST = 64  # axes of an array, and so factors of a tensor
_COUNTS = 10**6  # sweeps, steps and the like
_RANKS = 2**16  # components; their Gram matrix takes 32 GiB
_COMMON = 2**31  # strides, padding and dilation
_LONGEST = 100_000  # of a list of numbers that are no data
_PLAIN = (int, float, np.float64, np.float32, np.int64)  # what most lists consist of


def as_array(x: Any, name: str, what: str = "an array of real numbers") -> NDArray[Any]:
    """Return what was given as an array of integers or floats: the one door for all arrays.

    Sizes, axes and values are not looked at. A plain array is returned as it is.
    """
    mixed = type(x) is not np.ndarray and _refuse_foreign(x, name)
    try:
        array = np.asanyarray(x)
    except Exception as error:
        kind = ValueError if isinstance(x, (list, tuple)) else TypeError
        raise kind(
            f"{name}: expected an array of real numbers, got a {type(x).__name__} that NumPy "
            f"cannot read ({_first_line(error)}); pass one array, or nested lists of equal lengths"
        ) from None
    if type(array) is not np.ndarray:  # what an object makes of itself may have a mask, too
        _refuse_foreign(array, name)
        array = np.asarray(array)
    if mixed or array.dtype.kind not in "iuf":
        got = "True or False among numbers" if mixed else f"dtype {array.dtype}"
        raise TypeError(
            f"{name}: expected {what}, got {got}; "
            + _ADVICE.get(array.dtype.kind, "convert it to floating point explicitly")
        )
    return array


def check_integers(x: Any, name: str, *, ndim: int | None = None) -> NDArray[Any]:
    """Return a non-empty array of integers, in its own type, or say what is wrong."""
    array = as_array(x, name, "integers")
    if array.dtype.kind not in "iu" and array.size:
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
        if array.dtype.itemsize > 8:
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
    given = check_sequence(factors, name, "matrices (one per mode)", most=_DEEPEST)
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


def check_int_or_ints(
    value: Any, name: str, *, minimum: int | None = None, cap: int | None = None
) -> tuple[int, ...]:
    """Return one integer or several as a tuple."""
    if is_one_int(value):
        return (check_int(value, name, minimum=minimum, cap=cap),)
    return check_ints(value, name, minimum=minimum, cap=cap)


def is_one_int(value: Any) -> bool:
    """Say whether this stands for one integer and not for several."""
    if isinstance(value, np.ndarray) or _axes_of(value) is not None:
        return _axes_of(value) == 0
    return _part(value, "__index__") is not None or not isinstance(value, Iterable)


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
        if not isinstance(value, (int, np.integer)):
            _refuse_foreign(value, name)
        if isinstance(value, np.timedelta64) or _is_bool(value):
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
        value = as_array(value, name)
        value = value[()] if value.ndim == 0 else value
    plain = isinstance(value, (Real, Decimal)) and not isinstance(value, np.timedelta64)
    if not plain or _is_bool(value):
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


def shown(value: Any) -> str:
    """Return what stands for a value in a message: short, and whatever the value is."""
    try:
        text = repr(value)
    except Exception:  # an integer of many thousand digits, say
        bits = f" of {value.bit_length()} bits" if isinstance(value, int) else ""
        return f"one of type {type(value).__name__}{bits}"
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:117]}..."


# What to do about arrays of a kind that is not numbers.
_ADVICE = {
    "c": "pass real and imaginary part apart, .real and .imag",
    "O": "NumPy sees objects and not numbers in it; convert it to floating point explicitly",
    "V": "convert it first, such as with .astype(np.float32)",
    "M": "subtract a date and divide by a unit, so that numbers remain",
    "m": "divide by a unit, so that numbers remain",
}


def _refuse_foreign(x: Any, name: str, depth: int = 0) -> bool:
    """Refuse what NumPy would read wrongly or not at all, also inside lists; find booleans there.

    A quantity, a masked or a sparse array is known by what it can do: its library need not be here.
    """
    if isinstance(x, (list, tuple)):
        kinds = set(map(type, x)).difference(_PLAIN)
        if depth >= _DEEPEST:
            raise ValueError(f"{name}: expected at most {_DEEPEST} axes, got lists in more lists")
        inner = (e for e in x if type(e) in kinds) if kinds else ()
        mixed = [_refuse_foreign(e, name, depth + 1) for e in inner]
        return any(mixed) or (bool(kinds & {bool, np.bool_}) and len(set(map(type, x))) > 1)
    found = _foreign(x)
    if found:
        raise TypeError(f"{name}: expected an array of real numbers, got {found[0]}; {found[1]}")
    return False


def _foreign(x: Any) -> tuple[str, str] | None:
    """Say what an object is that is not to be read as a plain array, and what to do about it."""
    if type(x) is np.ndarray or isinstance(x, (np.generic, str, int, float)):
        return None
    kind = type(x).__name__
    if isinstance(x, np.ma.MaskedArray) or (_part(x, "mask") is not None and _part(x, "filled")):
        return f"a masked array ({kind})", "say what stands behind the mask: .filled(value)"
    if _part(x, "unit") is not None or _part(x, "units") is not None:
        return f"a quantity with units ({kind})", "pass its number, .value or .magnitude"
    if _part(x, "is_sparse") is True or "sparse" in str(_part(x, "layout")):
        return f"a sparse tensor ({kind})", "make it dense: .to_dense()"
    if not isinstance(x, np.ndarray) and (_part(x, "toarray") or _part(x, "todense")):
        return f"a sparse array ({kind})", "make it dense: .toarray() or .todense()"
    if _part(x, "requires_grad") is True:
        return f"a {kind} that requires a gradient", "detach it: .detach().numpy()"
    dtype = str(_part(x, "dtype"))
    if "bfloat16" in dtype or "float8" in dtype:
        return f"a {kind} of {dtype}", "convert it: .float(), or .astype(np.float32) of an array"
    if _part(x, "is_cuda") is True:
        return f"a {kind} on another device", "move it: .cpu()"
    return None


def _part(x: Any, name: str) -> Any:
    """Return an attribute, or None if there is none or it cannot be read."""
    try:
        return getattr(x, name, None)
    except Exception:
        return None


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or str(_part(value, "dtype")).endswith("bool")


def _axes_of(values: Any) -> int | None:
    axes = _part(values, "ndim")
    return axes if isinstance(axes, int) else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


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
