"""How do numbers travel? As integers times a power of two, so nothing is rounded on the way.

An array is written as ``{"t": type, "s": shape, "e": e, "m": [m...]}``: entry ``i`` in C order is
``m[i] * 2**e``. Integers beyond 2**53 are decimal strings, and NaN, infinities and the negative
zero are the strings ``nan``, ``inf``, ``-inf``, ``-0``; any language with an integer parser and
``ldexp`` can read them. The type ``real`` stands for the arithmetic that the implementation under
test declares. Random integers come from SplitMix64 [source: Steele, Lea and Flood, Fast splittable
pseudorandom number generators, 2014], which is a few lines in any language too.
"""

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import copysign, isfinite, ldexp, prod
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SplitMix64",
    "canonical",
    "decode",
    "encode",
    "fractions",
    "nest",
    "pack",
    "uniform",
    "units",
]

_MASK = 2**64 - 1
_SAFE = 2**53
_SPECIALS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "-0": -0.0}
_DTYPES = {"f32": "float32", "f64": "float64"} | {
    f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


class SplitMix64:
    """Pseudorandom integers that every language can reproduce.

    Examples
    --------
    >>> from qcp_ref.conformance.dyadic import SplitMix64
    >>> rng = SplitMix64(0)
    >>> [hex(rng.word()) for _ in range(3)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4', '0x6c45d188009454f']
    """

    def __init__(self, seed: int) -> None:
        """Start the stream of one seed."""
        self.state = seed & _MASK

    def word(self) -> int:
        """Return the next 64 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included, all equally likely."""
        count = high - low + 1
        while True:
            word = self.word()
            if word < 2**64 - 2**64 % count:
                return low + word % count

    def choice(self, options: Sequence[Any]) -> Any:
        """Return one of several things."""
        return options[self.integer(0, len(options) - 1)]

    def integers(self, shape: Iterable[int], low: int, high: int) -> Any:
        """Return a nested list of integers."""
        shape = tuple(shape)
        return nest([self.integer(low, high) for _ in range(prod(shape))], shape)


def uniform(name: str, shape: Iterable[int], low: int, high: int) -> NDArray[np.int64]:
    """Return the integers that ``SplitMix64(crc32(name)).integers`` returns, as an array at once.

    A word that the loop would reject, one in more than ``2**32``, is an error.
    """
    shape, count = tuple(shape), high - low + 1
    steps = np.arange(1, prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = steps + np.uint64(crc32(name.encode()))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    if (z > np.uint64(2**64 - 2**64 % count - 1)).any():
        raise ValueError(f"name: {name!r} draws a word that is rejected; take another one")
    return (low + (z % np.uint64(count)).astype(np.int64)).reshape(shape)


def units(array: NDArray[Any]) -> tuple[NDArray[np.object_], int]:
    """Write finite floats as Python integers in steps of one power of two: numbers, exponent."""
    m, e = np.frexp(np.asarray(array, np.float64))
    whole = np.ldexp(m, 53).astype(np.int64)
    low = int(e[whole != 0].min(initial=2000))
    shift = np.where(whole != 0, e - low, 0)
    return np.asarray(whole.astype(object) << shift.astype(object), object), low - 53


def nest(flat: Sequence[Any], shape: Sequence[int]) -> Any:
    """Arrange a flat sequence as nested lists, the last index fastest."""
    if not shape:
        return flat[0]
    step = prod(shape[1:])
    return [nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def flat_numbers(nested: Any) -> list[Any]:
    """Return the numbers of nested lists, in row-major order."""
    if isinstance(nested, (list, tuple)):
        return [entry for part in nested for entry in flat_numbers(part)]
    return [nested]


def _shape(nested: Any) -> list[int]:
    if not isinstance(nested, (list, tuple)):
        return []
    return [len(nested), *(_shape(nested[0]) if nested else [])]


def pack(nested: Any, kind: str = "real", shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Write exact numbers, or the strings of special ones, as an array of the given type.

    Parameters
    ----------
    nested : number, str or nested list of them
        Integers, fractions whose denominators are powers of two, or floats.
    kind : str
        'real', 'f32', 'f64' or an integer type such as 'i8'.
    shape : sequence of int, optional
        Needed only for an empty array.

    Returns
    -------
    dict
        The array as described in the module's first lines.
    """
    entries = [
        entry if isinstance(entry, str) else Fraction(entry) for entry in flat_numbers(nested)
    ]
    exponents = [
        _exponent(n.numerator, n.denominator) for n in entries if not isinstance(n, str) and n
    ]
    for n in entries:
        if not isinstance(n, str) and n.denominator & (n.denominator - 1):
            raise ValueError(f"nested: expected multiples of powers of two, got {n}")
    e = min([*exponents, 0]) if kind not in _DTYPES or kind[0] == "f" else 0
    scaled = [n if isinstance(n, str) else n / Fraction(2) ** e for n in entries]
    if any(not isinstance(n, str) and n.denominator != 1 for n in scaled):
        raise ValueError(f"nested: expected integers for the type {kind}")
    m = [n if isinstance(n, str) else int(n) for n in scaled]
    m = [str(n) if not isinstance(n, str) and abs(n) > _SAFE else n for n in m]
    return {"t": kind, "s": list(_shape(nested) if shape is None else shape), "e": e, "m": m}


def encode(array: Any) -> dict[str, Any]:
    """Write a NumPy array; its type is kept."""
    array = np.asarray(array)
    kinds = {np.dtype(name): kind for kind, name in _DTYPES.items()}
    if array.dtype not in kinds:
        raise TypeError(f"array: expected a real or integer array, got dtype {array.dtype}")
    kind, e = kinds[array.dtype], 0
    entries = _whole(array) or array.reshape(-1).tolist()
    if kind[0] == "f" and not (entries and isinstance(entries[0], int)):
        # All entries as integers, in steps of the smallest one that any of them needs.
        ratios = [x.as_integer_ratio() if isfinite(x) else (0, 1) for x in entries]
        e = min((_exponent(n, d) for n, d in ratios if n), default=0)
        e = min(e, 0)
        whole = [n << (-e - d.bit_length() + 1) for n, d in ratios]
        pairs = zip(entries, whole, strict=True)
        entries = [n or _special(x) for x, n in pairs]
    m = [n if isinstance(n, str) or abs(n) <= _SAFE else str(n) for n in entries]
    return {"t": kind, "s": list(array.shape), "e": e, "m": m}


def _whole(array: NDArray[Any]) -> list[int]:
    """Return the entries of a float array as integers if they are small ones, without a -0."""
    small = array.dtype.kind == "f" and bool((np.abs(array) < _SAFE).all())
    if not small or (array != np.rint(array)).any() or np.signbit(array[array == 0]).any():
        return []
    return list(array.reshape(-1).astype(np.int64).tolist())


def _exponent(n: int, d: int) -> int:
    """Return the power of two in the ratio of an integer and a power of two."""
    return (n & -n).bit_length() - d.bit_length()


def _special(x: float) -> int | str:
    if isfinite(x):
        return "-0" if copysign(1, x) < 0 else 0
    return "nan" if x != x else "inf" if x > 0 else "-inf"  # noqa: PLR0124


def decode(data: dict[str, Any], real: str = "f64") -> NDArray[Any]:
    """Read an array; numbers of the type 'real' get the type ``real``.

    Raises
    ------
    ValueError
        If an entry has no exact value in that type.
    """
    kind, e = real if data["t"] == "real" else data["t"], data["e"]
    if kind[0] != "f":
        whole = [int(m) << e for m in data["m"]]
        return np.array(whole, _DTYPES[kind]).reshape(data["s"])
    entries: Any
    if -900 < e < 900 and all(type(m) is int and -_SAFE <= m <= _SAFE for m in data["m"]):
        entries = np.ldexp(np.array(data["m"], np.float64), e)
    else:
        entries = [_SPECIALS[m] if m in _SPECIALS else _float(int(m), e) for m in data["m"]]
    array = np.array(entries, _DTYPES[kind])
    if not np.array_equal(array, entries, equal_nan=True):
        raise ValueError(f"data: expected numbers that are exact in {_DTYPES[kind]}")
    return array.reshape(data["s"])


def _float(m: int, e: int) -> float:
    """Return ``m * 2**e``, or fail where float64 cannot hold it."""
    if abs(m) <= _SAFE and e > -1000:
        return ldexp(m, e)
    exact = m * Fraction(2) ** e
    if Fraction(float(exact)) != exact:
        raise ValueError("data: expected numbers that are exact in float64")
    return float(exact)


def fractions(data: dict[str, Any]) -> Any:
    """Read an array without special numbers as nested lists of fractions."""
    step = Fraction(2) ** data["e"]
    return nest([int(m) * step for m in data["m"]], data["s"])


def canonical(value: Any) -> str:
    """Write JSON in the one form whose bytes are compared: keys sorted, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
