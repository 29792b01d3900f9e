"""Ground floor: the one door through which everything becomes an array.

What NumPy would read without what it means (a mask, a unit, a gradient) is refused here, and so is
what it cannot read, by a message that says what to do. Libraries are known by what their objects
can do, so none of them has to be here.

Checked by tests/test_door.py.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []

DEEPEST = 64  # axes of an array, and so factors of a tensor
_PLAIN = (int, float, np.float64, np.float32, np.int64)  # what most lists consist of


def as_array(x: Any, name: str, what: str = "an array of real numbers") -> NDArray[Any]:
    """Return what was given as an array of integers or floats: the one door for all arrays.

    Sizes, axes and values are not looked at. A plain array is returned as it is.
    """
    mixed = refuse_foreign(x, name)
    try:
        array: NDArray[Any] = np.asanyarray(x)
    except Exception as error:
        kind = ValueError if isinstance(x, (list, tuple)) else TypeError
        raise kind(
            f"{name}: expected an array of real numbers, got {type(x).__name__} that NumPy "
            f"cannot read ({_first_line(error)}); pass one array, or nested lists of equal lengths"
        ) from None
    if array is not x:
        refuse_foreign(array, name)  # what an object makes of itself may have a mask, too
    array = np.asarray(array)
    if mixed or array.dtype.kind not in {"i", "u", "f"}:
        got = "True or False among numbers" if mixed else f"dtype {array.dtype}"
        raise TypeError(
            f"{name}: expected {what}, got {got}; "
            + _ADVICE.get(array.dtype.kind, "convert it to floating point explicitly")
        )
    return array


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


def refuse_foreign(x: Any, name: str, depth: int = 0) -> bool:
    """Refuse what NumPy would read wrongly or not at all, also inside lists; find booleans there.

    A quantity, a masked or a sparse array is known by what it can do: its library need not be here.
    """
    if isinstance(x, (list, tuple)):
        kinds = set(map(type, x)).difference(_PLAIN)
        if depth >= DEEPEST:
            raise ValueError(f"{name}: expected at most {DEEPEST} axes, got lists in more lists")
        inner = (e for e in x if type(e) in kinds) if kinds else ()
        mixed = [refuse_foreign(e, name, depth + 1) for e in inner]
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
    if isinstance(x, np.ma.MaskedArray) or (
        part_of(x, "mask") is not None and part_of(x, "filled")
    ):
        return f"a masked array ({kind})", "say what stands behind the mask: .filled(value)"
    if part_of(x, "unit") is not None or part_of(x, "units") is not None:
        return f"a quantity with units ({kind})", "pass its number, .value or .magnitude"
    if part_of(x, "is_sparse") is True or "sparse" in str(part_of(x, "layout")):
        return f"a sparse tensor ({kind})", "make it dense: .to_dense()"
    if not isinstance(x, np.ndarray) and (part_of(x, "toarray") or part_of(x, "todense")):
        return f"a sparse array ({kind})", "make it dense: .toarray() or .todense()"
    if part_of(x, "requires_grad") is True:
        return f"a {kind} that requires a gradient", "detach it: .detach().numpy()"
    dtype = str(part_of(x, "dtype"))
    if "bfloat16" in dtype or "float8" in dtype:
        return f"a {kind} of {dtype}", "convert it: .float(), or .astype(np.float32) of an array"
    if part_of(x, "is_cuda") is True:
        return f"a {kind} on another device", "move it: .cpu()"
    return None


def part_of(x: Any, name: str) -> Any:
    """Return an attribute, or None if there is none or it cannot be read."""
    try:
        return getattr(x, name)
    except Exception:
        return None


def is_bool(value: Any) -> bool:
    """Say whether this is True, False, or an array of them, of whatever library."""
    return isinstance(value, (bool, np.bool_)) or str(part_of(value, "dtype")).endswith("bool")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].removesuffix(".")
