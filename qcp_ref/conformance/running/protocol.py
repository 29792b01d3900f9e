"""What may a program say? Its description and its answers, read strictly.

A misspelt key of a description would hide cases, and a number that is rounded or cut on the way
would be judged as another one; so what is not as the page says is refused, or no answer at all.
The keys are those of the page "Other languages" in the docs.

Checked by tests/conformance/running/test_protocol.py.
"""

import re
import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import isfinite, prod
from typing import Any

import numpy as np

from qcp_ref.conformance.dyadic import decode, encode
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, LISTS, OPS, Arithmetic

__all__ = ["CHECKS", "HELLO", "NUMBERS", "normal", "read_answer", "read_hello", "written"]

# What a program may let be checked of its conduct.
CHECKS = ("inputs", "results", "layouts")
NUMBERS = ("integers", "hex", "bits")

# Each key of a description: its type, and what it is if it is not there.
HELLO: dict[str, tuple[type | tuple[type, ...], Any]] = {
    "name": (str, None),
    "ops": (list, None),
    "version": (str, ""),
    "arith": (str, "f64"),
    "fast": ((int, float, type(None)), None),
    "nondeterministic": (bool, False),
    "choices": (dict, {}),
    "lacks": (list, []),
    "numbers": (str, "integers"),
    "checks": (list, []),
}

_WIDTHS = {"f32": ("I", "f", 8), "f64": ("Q", "d", 16)}  # as struct names them; digits
_INTEGERS = {f"{kind}{bits}" for kind in "iu" for bits in (8, 16, 32, 64)}
_SPECIALS = ("nan", "inf", "-inf")
_MOST = 5000  # binary digits before or behind the point; more than any type has
_HEX = re.compile(r"([+-]?)0[xX]([0-9a-fA-F]{1,40})(?:\.([0-9a-fA-F]{0,40}))?[pP]([+-]?\d{1,5})")


def read_hello(hello: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a description, and refuse unknown words: they would silently exclude cases.

    Raises
    ------
    ValueError
        If it is none, has a key that is not known, or one whose value is not right.
    """
    if "ops" not in hello or "name" not in hello:
        raise ValueError(f"implementation: {hello.get('error', 'no name or no ops')}")
    unknown = sorted(set(hello) - set(HELLO))
    if unknown:
        raise ValueError(f"hello: unknown keys {unknown}, expected some of {list(HELLO)}")
    for key, value in hello.items():
        kind = HELLO[key][0]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{key}: expected another type, got {value!r:.80}")
    info = {key: default for key, (_, default) in HELLO.items()} | dict(hello)
    info["choices"] = {k: v[0] for k, v in CHOICES.items()} | info["choices"]
    Arithmetic.of(info["arith"])
    words = (("ops", OPS), ("lacks", CAPABILITIES), ("choices", CHOICES), ("checks", CHECKS))
    for key, known in words:
        strange = [str(word) for word in info[key] if word not in tuple(known)]
        if strange:
            raise ValueError(f"{key}: unknown: {', '.join(sorted(strange))}")
    for key, value in info["choices"].items():
        if value not in CHOICES[key]:
            raise ValueError(f"{key}: expected one of {CHOICES[key]}, got {value!r}")
    if info["numbers"] not in NUMBERS:
        raise ValueError(f"numbers: expected one of {NUMBERS}, got {info['numbers']!r}")
    if info["fast"] is not None and not (isfinite(info["fast"]) and info["fast"] > 0):
        raise ValueError(f"fast: expected a number above 0, got {info['fast']!r}")
    return info


# --- numbers --------------------------------------------------------------------------------------


def _of_integers(data: Mapping[str, Any], kind: str) -> Any:
    """Read entries ``m * 2**e``; nothing is rounded."""
    e, entries = data["e"], data["m"]
    if type(e) is not int or abs(e) > _MOST or not isinstance(entries, list):
        raise ValueError("expected e, an integer, and m, a list")
    if kind in _INTEGERS and not 0 <= e < 64:
        raise ValueError(f"expected e from 0 to 63 for the type {kind}, got {e}")
    special = (*_SPECIALS, "-0") if kind in _WIDTHS else ()
    for m in entries:
        if not _is_integer(m) and m not in special:
            raise ValueError(f"expected integers as m, got {m!r:.40}")
    if kind in _INTEGERS:
        ends = np.iinfo(decode({"t": kind, "s": [0], "e": 0, "m": []}).dtype)
        if any(not ends.min <= int(m) << e <= ends.max for m in entries):
            raise ValueError(f"a number that {kind} cannot hold")
    return decode({"t": kind, "s": [len(entries)], "e": e, "m": entries})


def _is_integer(m: Any) -> bool:
    return type(m) is int or (isinstance(m, str) and bool(re.fullmatch(r"-?[0-9]{1,2000}", m)))


def _of_hex(data: Mapping[str, Any], kind: str) -> Any:
    """Read hexadecimal floats, such as '0x1.8p+1'."""
    return _floats([_hex(entry) for entry in _texts(data["hex"], kind)], kind)


def _hex(entry: str) -> float:
    if entry in _SPECIALS:
        return float(entry)
    found = _HEX.fullmatch(entry)
    if not found:
        raise ValueError(f"expected a number such as 0x1.8p+1, got {entry!r:.40}")
    sign, whole, part, power = found.groups(default="")
    e = int(power) - 4 * len(part)
    if abs(e) > _MOST:
        raise ValueError(f"an exponent beyond {_MOST}: {entry!r:.40}")
    exact = int(whole + part, 16) * Fraction(2) ** e
    if Fraction(float(exact)) != exact:
        raise ValueError(f"a number that f64 cannot hold: {entry!r:.40}")
    return -float(exact) if sign == "-" else float(exact)


def _of_bits(data: Mapping[str, Any], kind: str) -> Any:
    """Read bit patterns, the sign in the first hexadecimal digit."""
    texts, (word, real, digits) = _texts(data["bits"], kind), _WIDTHS[kind]
    for entry in texts:
        if not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", entry):
            raise ValueError(f"expected {digits} hexadecimal digits, got {entry!r:.40}")
    words = [struct.unpack(real, struct.pack(word, int(entry, 16)))[0] for entry in texts]
    return _floats(words, kind)


def _texts(entries: Any, kind: str) -> list[str]:
    if kind not in _WIDTHS:
        raise ValueError(f"expected e and m for the type {kind}")
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("expected a list of strings")
    return entries


def _floats(numbers: list[float], kind: str) -> Any:
    with np.errstate(over="ignore"):
        array = np.array(numbers, {"f32": np.float32, "f64": np.float64}[kind])
    if not np.array_equal(array, np.array(numbers, np.float64), equal_nan=True):
        raise ValueError(f"a number that {kind} cannot hold")
    return array


_FORMS: dict[frozenset[str], Callable[[Mapping[str, Any], str], Any]] = {
    frozenset({"e", "m"}): _of_integers,
    frozenset({"hex"}): _of_hex,
    frozenset({"bits"}): _of_bits,
}


def _array(data: Any, real: str) -> dict[str, Any]:
    """Return an array in the form of the vectors, written as this package would."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an array, got {data!r:.40}")
    form = _FORMS.get(frozenset(data) - {"t", "s"})
    if form is None or not {"t", "s"} <= set(data):
        raise ValueError(f"expected t, s, and e and m, or hex, or bits; got {sorted(data)}")
    kind, shape = (real or "real") if data["t"] == "real" else data["t"], data["s"]
    if not isinstance(kind, str) or kind not in {*_WIDTHS, *_INTEGERS}:
        raise ValueError(f"expected a type as t, got {kind!r:.40}")
    sides = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
    if not sides or len(shape) > 32:
        raise ValueError(f"expected sizes as s, got {shape!r:.40}")
    entries = form(data, kind)
    if len(entries) != prod(shape):
        raise ValueError(f"expected {prod(shape)} entries for the shape {shape}")
    return encode(entries.reshape(shape))


# --- answers --------------------------------------------------------------------------------------


def read_answer(answer: Mapping[str, Any], op: str, *, echo: str = "") -> dict[str, Any]:
    """Return an answer with its arrays in the form of the vectors.

    Parameters
    ----------
    answer : mapping
        What came, as JSON.
    op : str
        The operation that was asked for.
    echo : str
        If the arguments were to be sent back, too: what stands for the type 'real' in them.

    Returns
    -------
    dict
        With 'out', 'unsupported' or 'error', as ``qcp_ref.conformance.adapter.execute`` has them;
        with 'in' where it was asked for.

    Raises
    ------
    ValueError
        If it is no answer: other keys, other names of results, arrays that cannot be read.
    """
    kinds = [key for key in ("out", "unsupported", "error") if key in answer]
    wanted = {"id", *kinds, *(("in",) if echo and kinds == ["out"] else ())}
    if len(kinds) != 1 or set(answer) != wanted:
        raise ValueError(f"expected id and one of out, unsupported, error; got {sorted(answer)}")
    if kinds != ["out"]:
        if not isinstance(answer[kinds[0]], str):
            raise ValueError(f"{kinds[0]}: expected text")
        return {kinds[0]: answer[kinds[0]]}
    lists = {name for one, name in LISTS if one == op}
    found = {"out": _named(answer["out"], OPS[op].results, lists)}
    if echo:
        given = {"factors", "multipliers"}
        found["in"] = _named(answer["in"], OPS[op].arrays, given, echo)
    return found


def _named(data: Any, names: tuple[str, ...], lists: set[str], real: str = "") -> Any:
    """Read several arrays by name; of arguments, ``real`` is said, and some are not there."""
    if not isinstance(data, dict) or set(data) != set(names):
        raise ValueError(f"expected {', '.join(names)}; got {data!r:.40}")
    found = dict[str, Any]()
    for name, part in data.items():
        try:
            if part is None and real:
                found[name] = None
            elif name in lists and isinstance(part, list):
                found[name] = [_array(entry, real) for entry in part]
            else:
                found[name] = _array(part, real)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from None
    return found


# --- requests -------------------------------------------------------------------------------------


def written(part: Any, numbers: str, real: str) -> Any:
    """Return encoded arguments with their numbers in the form that a program asks for.

    Parameters
    ----------
    part : mapping, list or None
        Encoded arrays.
    numbers : str
        One of ``NUMBERS``. Integers are written in the same form always.
    real : str
        What stands for the type 'real'.
    """
    if isinstance(part, list):
        return [written(entry, numbers, real) for entry in part]
    if not isinstance(part, dict) or numbers == "integers":
        return part
    if "t" not in part:
        return {name: written(entry, numbers, real) for name, entry in part.items()}
    kind = real if part["t"] == "real" else part["t"]
    if kind not in _WIDTHS:
        return part
    word, code, digits = _WIDTHS[kind]
    entries = decode(part, real).reshape(-1).tolist()
    if numbers == "hex":
        texts = [float(entry).hex() for entry in entries]
    else:
        words = [struct.unpack(word, struct.pack(code, entry))[0] for entry in entries]
        texts = [f"{entry:0{digits}x}" for entry in words]
    return {"t": kind, "s": part["s"], numbers: texts}


def normal(part: Any, real: str) -> Any:
    """Return encoded arguments as answers are read: each array in the one form of ``encode``."""
    if isinstance(part, list):
        return [normal(entry, real) for entry in part]
    if isinstance(part, dict) and "t" not in part:
        return {name: normal(entry, real) for name, entry in part.items()}
    return None if part is None else encode(decode(part, real))
