"""Which cases ask how an implementation behaves, whatever it computes?

They are made of other cases when the suite is read, for every operation alike, and are stored
nowhere. A layout is another place in memory for the same numbers. Wrong input is right input with
one argument spoiled in one of the ways that its kind of argument can be wrong in: the family is
operation x argument x way. The list of ``qcp_ref.conformance.cases.refused`` has what cannot be
made in this manner.

Checked by tests/conformance/cases/test_conduct.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from qcp_ref.conformance.cases.make import Case, with_needs
from qcp_ref.conformance.dyadic import fractions, nest, pack
from qcp_ref.conformance.spec import OPS

__all__ = ["LAYOUTS", "conduct", "layouts", "wrong"]

LAYOUTS = ("fortran", "sliced", "negative", "read-only")

# Axes of one name have one size in all arguments of a call; a name for each axis there is.
_AXES = {"x": "ncvh", "W": "ocij", "A": "oc", "C": "kc", "a_out": "or", "a_in": "cr",
         "a_kernel": "kr", "bias": "o", "weights": "r", "F": "mr", "H": "mr", "U": "mr",
         "codes": "mr", "G": "rr"}  # fmt: skip
_LISTS = ("factors", "multipliers")
_COUNTS = ("rank", "sweeps", "steps")
_POSITIVE = ("scale", "multiplier", "multipliers", "rho")
_INTEGER = ("x", "W", "a_out", "a_in", "a_kernel", "bias", "codes", "acc")  # of integer operations
_ORDER = {"zero": "of zero", "negative": "below zero", "nan": "that is no number",
          "infinite": "that is infinite"}  # fmt: skip


def conduct(cases: Sequence[Case]) -> list[Case]:
    """Return all cases that are made of these."""
    return [*layouts(cases), *wrong(cases)]


def layouts(cases: Sequence[Case]) -> Iterator[Case]:
    """Yield cases with other layouts for each operation that has none.

    The numbers are those of the case with the most arrays whose entries stand in another order, if
    memory is read in Fortran order.
    """
    there = {case["op"] for case in cases if "layout" in case}
    for op in OPS:
        own = [c for c in cases if c["op"] == op and c["out"].get("kind") != "reject"]
        if op in there or not own:
            continue
        base = max(own, key=lambda case: (_told_apart(case), -len(case["needs"])))
        for layout in LAYOUTS:
            says = "Arrays may lie in memory in any way."
            yield with_needs(
                {**base, "id": f"{op}.layout.{layout}", "says": says, "flags": ["Layout", "Sanity"]}
                | {"layout": layout}
            )


def _told_apart(case: Case) -> int:
    """Return how many arrays have another order of entries in Fortran order."""
    arrays = [np.array(a["m"], object).reshape(a["s"]) for a in _arrays(case["in"])]
    return sum(a.ravel().tolist() != a.ravel("F").tolist() for a in arrays)


def _arrays(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for part in given.values():
        yield from part if isinstance(part, list) else [part] if part else []


# --- wrong input ----------------------------------------------------------------------------------


def wrong(cases: Sequence[Case]) -> Iterator[Case]:
    """Yield, for each operation and argument, a case for each way in which it can be wrong."""
    for op in OPS:
        own = [c for c in cases if c["op"] == op and c["out"].get("kind") != "reject"]
        if not own:
            continue
        seen = set[str]()
        single = [case for case in own if _is_single(case)]
        for base in (max(own, key=_suits), max(single, key=_suits)):
            for name, says, given, options in _ways(base):
                if name not in seen:
                    seen.add(name)
                    yield _refused(base, f"{op}.wrong.{name}", says, given, options)


def _suits(case: Case) -> Any:
    """Prefer cases with everything in them, sides above 2, several channels; then small ones."""
    given, sizes = case["in"], [side for a in _arrays(case["in"]) for side in a["s"]]
    entries = [m for a in _arrays(given) for m in a["m"]]
    return (
        not any(isinstance(m, str) for m in entries),
        _told_apart(case) > 0,
        0 not in sizes,
        all(part is not None for part in given.values()),
        not any(case["options"].get("padding", ())),
        -sum(side < 3 for side in sizes),
        -len(case["needs"]),
        -len(entries),
    )


def _is_single(case: Case) -> bool:
    """Whether there is one scale or multiplier for all."""
    named = [array for name, array in case["in"].items() if name in ("scale", "multiplier")]
    return all(array["s"] == [] for array in named + (case["in"].get("multipliers") or []))


def _refused(base: Case, name: str, says: str, given: Any, options: Any) -> Case:
    case = {"id": name, "since": base["since"], "op": base["op"], "says": says}
    case |= {"flags": ["Refusal", "Sanity"], "out": {"kind": "reject"}}
    case |= {"in": base["in"] | given, "options": base["options"] | options}
    case = with_needs(case)
    # Who lacks these refuses them, too.
    return case | {"needs": [need for need in case["needs"] if need not in ("empty", "infinite")]}


Way = tuple[str, str, dict[str, Any], dict[str, Any]]


def _ways(case: Case) -> Iterator[Way]:
    """Yield name, sentence, other arrays and other options."""
    op, given = case["op"], case["in"]
    for name in OPS[op].arrays:
        part = given[name]
        if isinstance(part, list):
            for n, array in enumerate(part):
                for way, says, other in _spoiled(case, name, array, n):
                    yield f"{_word(name)}-{n}.{way}", says, {name: _with(part, n, other)}, {}
        elif part is not None:
            for way, says, other in _spoiled(case, name, part, None):
                yield f"{_word(name)}.{way}", says, {name: other}, {}
    for name, value in case["options"].items():
        for way, says, other in _spoiled_option(case, name, value):
            yield f"{_word(name)}.{way}", says, {}, {name: other}
    yield from _wide(case)
    yield from _spread(case)


def _word(name: str) -> str:
    """Return a name as ids have it: lower case, and no two alike."""
    return name.replace("_", "-").lower() + ("-matrix" if name in ("W", "A", "C") else "")


def _with(parts: Sequence[Any], n: int, other: Any) -> list[Any]:
    return [*parts[:n], other, *parts[n + 1 :]]


def _spoiled(case: Case, name: str, array: Any, n: int | None) -> Iterator[tuple[str, str, Any]]:
    """Yield the ways in which an array can be wrong."""
    yield from _numbers(case, name, array)
    yield from _sizes(case, name, array, n)
    axes = _axes(case["op"], name, array, n)
    if axes and "rank" not in case["options"]:  # else any tensor will do
        yield "axis", f"{name} has an axis too many.", {**array, "s": [1, *array["s"]]}
    if len(axes) > 1:
        yield "flat", f"{name} has too few axes.", {**array, "s": [prod(array["s"])]}


def _numbers(case: Case, name: str, array: Any) -> Iterator[tuple[str, str, Any]]:
    op, real = case["op"], array["t"] == "real"
    level = OPS[op].level
    wanted = name in _POSITIVE and real
    if wanted:
        for way, number in (("zero", 0), ("negative", -1), ("nan", "nan"), ("infinite", "inf")):
            yield way, f"{name} {_ORDER[way]}.", _last(array, number)
    if name == "x" and level == "L0":
        yield "nan", "NaN has no code.", _last(array, "nan")
    if (op == "admm_step" and name in ("F", "G", "H", "U")) or (op == "ao_admm" and name == "X"):
        yield "nan", "A scale or a code is wanted, which NaN has not.", _last(array, "nan")
    if name == "delta":
        yield "negative", "A bound below zero.", _last(array, -1)
        yield "nan", "A bound that is no number.", _last(array, "nan")
    if (level == "LI" and name in _INTEGER) or name in ("codes", "acc"):
        yield "fraction", f"{name} is of integers.", _last(array, 0.5, "real")


def _last(array: Any, number: Any, kind: str | None = None) -> Any:
    """Return an array with another last entry."""
    entries = np.ravel(np.array(fractions(array), object)).tolist()
    return pack(nest([*entries[:-1], number], array["s"]), kind or array["t"])


def _axes(op: str, name: str, array: Any, n: int | None) -> str:
    """Name the axes of an argument; none if it may have any number of them."""
    level = OPS[op].level
    if name == "factors":
        return f"{n}r"
    if name == "X":
        return "".join(map(str, range(len(array["s"]))))
    if level == "L0" or name not in _AXES:
        return ""
    return _AXES[name][: len(array["s"])]


def _sizes(case: Case, name: str, array: Any, n: int | None) -> Iterator[tuple[str, str, Any]]:
    """Yield arrays that are too short or too long along an axis that others have, too."""
    counts = dict[str, int]()
    for other in OPS[case["op"]].arrays:
        part = case["in"][other]
        for k, one in enumerate(part if isinstance(part, list) else [part] if part else []):
            for axis in _axes(case["op"], other, one, k if isinstance(part, list) else None):
                counts[axis] = counts.get(axis, 0) + 1
    counts["k"] = 2 if "kernel_size" in case["options"] else 0
    entries = np.array(array["m"], object).reshape(array["s"])
    for place, letter in enumerate(_axes(case["op"], name, array, n)):
        side = array["s"][place]
        ways = {
            "one": [0],
            "short": [*range(side - 1)],
            "long": [*range(side), side - 1],
            "none": [],
        }
        for way, index in ways.items() if counts[letter] > 1 else ():
            if len(index) == side or (way == "short" and len(index) < 2):
                continue
            cut = entries.take(index, place)
            says = f"{name} has {len(index)} entries along axis {place}; others have {side}."
            changed = {**array, "s": [*cut.shape], "m": cut.ravel().tolist()}
            yield f"{way}-{place}", says, changed


def _spoiled_option(case: Case, name: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the ways in which an option can be wrong."""
    least = {
        "stride": 1,
        "dilation": 1,
        "padding": 0,
        "kernel_size": 1,
        **dict.fromkeys(_COUNTS, 1),
    }
    if name in least:
        places = range(1 if name in _COUNTS else len(value))
        for axis, off in product(places, (1,) if name == "padding" else (1, 2)):
            bad, says = least[name] - off, f"{name} of {least[name] - off}, place {axis}."
            yield f"below-{axis}.{off}", says, bad if name in _COUNTS else _with(value, axis, bad)
    if name in ("kernel_size", "dilation"):
        # Beyond every image of these cases; or filters of another size.
        for axis in range(2):
            says = f"{name} beyond what there is, place {axis}."
            far = value[axis] + (1 if name == "kernel_size" else 1000)
            if name == "kernel_size" or _kernel(case)[axis] > 1:
                yield f"beyond-{axis}", says, _with(value, axis, far)
    if name == "mode":
        order = len(case["in"]["factors"])
        for way, mode in (("negative", -1), ("first", -order), ("last", order), ("far", order + 9)):
            yield way, f"There is no mode {mode}.", mode
    if name in ("x_zero", "y_zero", "zeros"):
        yield from _zeros(case, name, value)
    if name in ("qmins", "qmaxs"):
        for n in range(3):
            low, high = case["options"]["qmins"][n], case["options"]["qmaxs"][n]
            beyond = high + 1 if name == "qmins" else low - 1
            yield (
                f"beyond-{n}",
                f"The range of stage {n} is from high to low.",
                _with(value, n, beyond),
            )
    if name == "qmax":
        yield "below", "A range from high to low.", case["options"]["qmin"] - 1


def _kernel(case: Case) -> Sequence[int]:
    size: Sequence[int] = case["options"].get("kernel_size") or case["in"]["W"]["s"][2:]
    return size


def _zeros(case: Case, name: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield zero points outside of the codes that they belong to."""
    options = case["options"]
    kinds = {"i8": (-128, 127), "u8": (0, 255)}
    ends = [kinds[case["in"]["x"]["t"]]] if name != "y_zero" else []
    ends += [(options["qmin"], options["qmax"])] if name == "y_zero" else []
    ends += zip(options["qmins"], options["qmaxs"], strict=True) if name == "zeros" else []
    for n, (low, high) in enumerate(ends):
        for way, zero in (("below", low - 1), ("above", high + 1)):
            says = f"A zero point of {zero} for codes from {low} to {high}."
            yield f"{way}-{n}", says, _with(value, n, zero) if name == "zeros" else zero


def _wide(case: Case) -> Iterator[Way]:
    """Yield images that are smaller than the window that moves over them."""
    given, options = case["in"], case["options"]
    if "dilation" in options:
        for axis, side in enumerate(_kernel(case)):
            span, pad = options["dilation"][axis] * (side - 1) + 1, options["padding"]
            left = span - 1 - pad[axis] - pad[axis + 2]
            if left > 0:
                kept = np.array(given["x"]["m"], object).reshape(given["x"]["s"])
                kept = kept.take(range(left), axis + 2)
                says = f"The kernel is larger than the padded image along axis {axis + 2}."
                x = {**given["x"], "s": [*kept.shape], "m": kept.ravel().tolist()}
                yield f"window-{axis}", says, {"x": x}, {}


def _spread(case: Case) -> Iterator[Way]:
    """Yield numbers for all channels, and zero points of a grid, that have another form."""
    given, options = case["in"], case["options"]
    for name, n, array in _single(case):
        says = f"{name} is a vector of one number, but not for one channel."
        vector = {**array, "s": [1]}
        other = vector if n is None else _with(given[name], n, vector)
        yield f"{name}{'' if n is None else f'-{n}'}.vector", says, {name: other}, {}
    if given.get("bias"):
        says = "A bias of one number is not one for each channel."
        bias = {**given["bias"], "s": [], "m": given["bias"]["m"][:1]}
        yield "bias.single", says, {"bias": bias}, {}
    if "zero_point" in given and "qmin" in options:
        for way, zero in (("below", options["qmin"] - 1), ("above", options["qmax"] + 1)):
            says = f"A zero point of {zero}, outside of the range."
            yield f"zero-point.{way}", says, {"zero_point": _last(given["zero_point"], zero)}, {}


def _single(case: Case) -> Iterator[tuple[str, int | None, Any]]:
    """Yield scales and multipliers for everything to which a vector of one number does not fit."""
    given, level = case["in"], OPS[case["op"]].level
    first = given[OPS[case["op"]].arrays[0]]["s"] if level in ("L0", "LI") else [1]
    channels = given["W"]["s"][0] if "W" in given else (first[1:] or [1])[0]
    if "multiplier" in given and given["multiplier"]["s"] == [] and channels > 1:
        yield "multiplier", None, given["multiplier"]
    if "scale" in given and given["scale"]["s"] == [] and len(first) > 1:
        yield "scale", None, given["scale"]
    for n, array in enumerate(given.get("multipliers", ())):
        outputs = given["a_out"]["s"] if n == 2 else given["a_in"]["s"][1:]
        if array["s"] == [] and outputs[0] > 1:
            yield "multipliers", n, array
