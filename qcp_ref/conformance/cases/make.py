"""How is a case put together? Encoded inputs, the expectation, and what the case needs.

Arguments are nested lists of integers and fractions. Their types, the capabilities that a case
needs and its expectation follow from them, so that a family states only what it is about.

Checked by tests/conformance/cases/test_make.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any
from zlib import crc32

from qcp_ref.conformance.cases.truth import outcomes
from qcp_ref.conformance.dyadic import SplitMix64, nest, pack
from qcp_ref.conformance.spec import OPS

__all__ = [
    "OTHER",
    "PLAIN",
    "UNEVEN",
    "Case",
    "coded",
    "geometry",
    "make",
    "mantissas",
    "needs_of",
    "scattered",
    "stream",
    "with_needs",
]

Case = dict[str, Any]

# Options of convolutions: nothing special; all sides different, twice.
PLAIN = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}
UNEVEN = {"stride": [2, 1], "padding": [1, 0, 2, 3], "dilation": [1, 2]}
OTHER = {"stride": [1, 3], "padding": [0, 2, 1, 0], "dilation": [2, 1]}

_INTEGERS = {"zero_point", "acc", "shift"}
_EIGHT_BITS = ((-128, 127), (-127, 127), (0, 255))


def stream(name: str) -> SplitMix64:
    """Return the random integers that belong to a name."""
    return SplitMix64(crc32(name.encode()))


def coded(name: str, *shape: int, top: int = 0) -> Any:
    """Return pairwise distinct integers of both signs in random order; up to ``top`` if given.

    With ``top`` they may repeat, but zero is never among them.
    """
    rng, count = stream(name), prod(shape)
    if top:
        flat = [rng.integer(1, top) * rng.choice((-1, 1)) for _ in range(count)]
    else:
        flat = [-(n // 2) - 1 if n % 2 else n // 2 + 1 for n in range(count)]
        for n in range(count - 1, 0, -1):
            k = rng.integer(0, n)
            flat[n], flat[k] = flat[k], flat[n]
    return nest(flat, shape)


def mantissas(name: str, *shape: int) -> Any:
    """Return numbers with full mantissas of float32, of both signs and of different size."""
    rng, count = stream(name), 1
    for side in shape:
        count *= side
    flat = [
        Fraction(
            (2**23 + rng.integer(0, 2**23 - 1)) * rng.choice((-1, 1)), 2 ** rng.integer(21, 26)
        )
        for _ in range(count)
    ]
    return nest(flat, shape)


def geometry(**more: Any) -> dict[str, Any]:
    """Return the options of a convolution, plain but for what is given."""
    return {**PLAIN, **more}


def make(
    op: str,
    name: str,
    says: str,
    flags: Sequence[str],
    inputs: Mapping[str, Any] | Sequence[Any],
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Case:
    """Put a case together.

    Parameters
    ----------
    op, name : str
        The operation, and what comes after it in the case's id.
    says : str
        Which mistake it hunts, in one sentence.
    flags : sequence of str
        Of :func:`qcp_ref.conformance.cases.vectors.flags`.
    inputs : mapping or sequence
        All arguments by name, or in their order: numbers, nested lists of them, encoded arrays,
        None.
    options : mapping, optional
        All options by name.
    **more
        'out' instead of the computed expectation, 'layout'.

    Returns
    -------
    dict
        The case as it is stored.
    """
    options, names = dict(options or {}), OPS[op].arrays
    inputs = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
    missing = {*names, *OPS[op].options} ^ {*inputs, *options}
    if missing:
        raise ValueError(f"{op}.{name}: expected the arguments of {op}, check {sorted(missing)}")
    given = {key: _encode(op, key, inputs, options) for key in names}
    case: Case = {
        "id": f"{op}.{name}",
        "since": "0.1",
        "op": op,
        "says": says,
        "flags": list(flags),
    }
    if "out" not in more:
        more["out"], when = outcomes(op, {key: inputs[key] for key in given}, options)
        more |= {"when": when} if when else {}
    return with_needs(case | {"in": given, "options": options, **more})


def with_needs(case: Case) -> Case:
    """Return a case with the capabilities that follow from what is given."""
    return case | {"needs": sorted({*needs_of(case), *_numbers_need(case)})}


def scattered(op: str, inputs: Sequence[Any], options: Mapping[str, Any]) -> Iterator[Case]:
    """Yield a case for each way in which its arrays may lie in memory."""
    says = "Arrays may lie in memory in any way."
    case = make(op, "layout", says, ["Layout"], inputs, options)
    for layout in ("fortran", "sliced", "negative", "read-only"):
        yield with_needs({**case, "id": f"{op}.layout.{layout}", "layout": layout})


def _encode(op: str, key: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    value = inputs[key]
    if value is None or isinstance(value, dict):
        return value
    if key in ("factors", "multipliers"):
        return [pack(part) for part in value]
    kind, integer = "real", OPS[op].level == "LI"
    if key in _INTEGERS or (op == "requantize_fixed" and key == "multiplier"):
        kind = "i32"
    elif key == "codes" or (integer and key == "x"):
        end = options.get("qmin", 0) if key == "codes" else options.get("x_zero", 0)
        numbers = [*pack(value, "i32")["m"], end]
        numbers += options.get("zeros", [])[:1]
        kinds = (("u8", range(256)), ("i8", range(-128, 128)))
        kind = next((name for name, codes in kinds if {*numbers} <= {*codes}), "i32")
    elif integer and key != "multiplier":
        kind = "i32" if key == "bias" else "i8"
    return pack(value, kind)


def needs_of(case: Case) -> Iterator[str]:
    """Yield the capabilities that show in options and in what is given."""
    given, options = case["in"], case["options"]
    stride, padding = options.get("stride", [1, 1]), options.get("padding", [0] * 4)
    ranges = [(options["qmin"], options["qmax"])] if "qmin" in options else []
    ranges += zip(options.get("qmins", ()), options.get("qmaxs", ()), strict=True)
    zeros = options.get("zeros", [options.get("x_zero", 0), options.get("y_zero", 0)])
    zero = given.get("zero_point", {"m": []})
    kinds = {array["t"] for array in given.values() if isinstance(array, dict)}
    spread = [given.get(name) for name in ("scale", "multiplier")]
    spread += given.get("multipliers", []) or []
    found = {
        "affine": any(zero["m"]) or zeros[0] or zeros[-1],
        "intermediate-zero": any(zeros[1:-1]),
        "asymmetric-padding": padding[:2] != padding[2:],
        "stride": stride != [1, 1],
        "uneven-stride": stride[0] != stride[1],
        "dilation": options.get("dilation", [1, 1]) != [1, 1],
        "bits": any(ends not in _EIGHT_BITS for ends in ranges),
        "int16": any(ends[0] < -128 or ends[1] > 255 for ends in ranges),
        "narrow-range": any(ends[0] == -ends[1] for ends in ranges),
        "full-range": any(ends[0] == -ends[1] - 1 for ends in ranges),
        "unsigned": any(ends[0] == 0 for ends in ranges) or "u8" in kinds,
        "signed-input": OPS[case["op"]].level == "LI" and given["x"]["t"] == "i8",
        "per-channel": any(array and array["s"] for array in spread),
        "bias": given.get("bias"),
        "weights": given.get("weights"),
        "relu": options.get("relu"),
        "rule-mse": options.get("rule") == "mse",
        "rule-max-abs": options.get("rule", "")[:7] == "max-abs",
        "refuses": case["out"].get("kind") == "reject",
    }
    yield from (name for name, needed in found.items() if needed)
    yield from (f"order-{n}" for n in (2, 4) if len(given.get("factors", ())) == n)
    yield from (f"layout-{case[key]}" for key in ("layout",) if case.get(key))
    yield from (f"kind-{options[key]}" for key in ("kind",) if key in options)


def _numbers_need(case: Case) -> Iterator[str]:
    """Yield the capabilities that show in the numbers."""
    arrays = [array for value in case["in"].values() for array in _arrays(value)]
    if any(0 in array["s"] for array in arrays):
        yield "empty"
    results = [out for out in case["out"].values() if isinstance(out, dict)]
    for array in arrays + [out for out in results if "m" in out]:
        if array["e"] < -126 and any(_is_subnormal(m, array["e"]) for m in array["m"]):
            yield "subnormal"
        if {"inf", "-inf"} & {*array["m"]}:
            yield "infinite"
    reals = (array for array in arrays if array["t"] == "real")
    if any(_is_double(m) for array in reals for m in array["m"]):
        yield "float64"


def _arrays(value: Any) -> list[dict[str, Any]]:
    return value if isinstance(value, list) else [value] if value else []


def _size(m: int | str) -> int:
    return abs(int(m)) if str(m).lstrip("-").isdigit() else 0


def _is_subnormal(m: int | str, e: int) -> bool:
    return 0 < _size(m) < Fraction(2) ** (-126 - e)


def _is_double(m: int | str) -> bool:
    """Whether an integer has more binary digits than float32 holds."""
    return _size(m) >= 2**24 * (_size(m) & -_size(m) or 1)
