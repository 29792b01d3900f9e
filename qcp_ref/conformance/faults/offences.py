"""In which ways can the arguments of an operation have no meaning?

The plain implementations refuse such input in one place for all operations, so that a mutant can
overlook one kind of offence.

Checked by tests/conformance/faults/test_refusals.py.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qcp_ref.conformance.spec import OPS

__all__ = ["axes", "checked", "offences", "refuse", "sizes"]

# Axes that have one name have one size; further axes fit whatever they are.
_AXES = {"x": "nc", "W": "oc", "A": "oc", "C": "kc", "a_out": "or", "a_in": "cr", "a_kernel": "kr",
         "bias": "o", "weights": "r", "F": "mr", "H": "mr", "U": "mr", "codes": "mr",
         "G": "rr"}  # fmt: skip


def axes(name: str, part: Any) -> Any:
    """Name the axes of an argument, or of each array in a list."""
    if name == "factors":
        return [(n, "r") for n in range(len(part))]
    return range(part.ndim) if name == "X" else _AXES.get(name, "")


def sizes(given: Mapping[str, Any]) -> dict[Any, set[int]]:
    """Return all sizes that the axes of one name have."""
    found = defaultdict[Any, set[int]](set)
    for name, part in given.items():
        names = () if part is None else axes(name, part)
        for array, own in zip(part, names, strict=True) if name == "factors" else [(part, names)]:
            for axis, side in zip(own, getattr(array, "shape", ()), strict=False):
                found[axis].add(side)
    return found


def offences(op: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in one word each, the ways in which the arguments of an operation have no meaning.

    data
        NaN among numbers for which a scale or a code is wanted.
    nan, sign, fixed
        What has to be above 0 is NaN or infinite, is not; a fixed-point multiplier or shift beyond
        its range.
    codes, range, zero
        No codes; a range of codes from high to low; a zero point that is not in it.
    size, one, kernel
        Sizes that do not fit; where one of them is 1; entries of filters.
    mode, padding, step, rank, sweeps, steps
        Options beyond their ends.
    """
    yield from _no_numbers(op, given)
    yield from _no_codes(op, given)
    yield from _no_fit(given)
    if given.get("mode") is not None and not 0 <= given["mode"] < len(given["factors"]):
        yield "mode"
    least = {"padding": min(given.get("padding", [0]))}
    least |= {name: given.get(name, 1) - 1 for name in ("rank", "sweeps", "steps")}
    least["step"] = min([*given.get("stride", [1]), *given.get("dilation", [1])]) - 1
    yield from (name for name, value in least.items() if value < 0)


def _no_numbers(op: str, given: Mapping[str, Any]) -> Iterator[str]:
    data = {"admm_step": "FGHU", "ao_admm": "X"}.get(op, "x" if OPS[op].level == "L0" else "")
    if any(np.isnan(given.get(name, 0)).any() for name in data):
        yield "data"
    above = [given[name] for name in ("scale", "multiplier", "rho") if name in given]
    above += given.get("multipliers", [])
    if op == "requantize_fixed" and (above.pop().min() < 2**30 or given["shift"].min() < -31):
        yield "fixed"
    bound = given.get("delta", 0)
    if np.isnan(bound) or not all(np.isfinite(part).all() for part in above):
        yield "nan"
    if bound < 0 or any((part <= 0).any() for part in above):
        yield "sign"


def _no_codes(op: str, given: Mapping[str, Any]) -> Iterator[str]:
    layer = OPS[op].level == "LI"
    names = ("x", "W", "a_out", "a_in", "a_kernel") if layer else ("codes", "acc")
    codes = [given[name] for name in names if name in given]
    zeros = [given[name] for name in ("zero_point", "x_zero", "y_zero") if name in given]
    zeros += given.get("zeros", [])
    ends = [(given["qmin"], given["qmax"])] if "qmin" in given else []
    ends += zip(given.get("qmins", ()), given.get("qmaxs", ()), strict=True)
    off = "codes" in given and ends and np.any(np.clip(codes[0], *ends[0]) != codes[0])
    bias = given.get("bias") if layer else None
    off = off or (bias is not None and bias.dtype.kind == "f")
    if off or any(part.dtype.kind == "f" or (layer and part.itemsize > 1) for part in codes):
        yield "codes"
    elif any(low > high for low, high in ends):
        yield "range"
    else:
        kinds = [np.iinfo(codes[0].dtype)] if layer else []
        pairs = zip(zeros, [*((one.min, one.max) for one in kinds), *ends], strict=False)
        if any(np.min(z) < low or np.max(z) > high for z, (low, high) in pairs):
            yield "zero"


def _no_fit(given: Mapping[str, Any]) -> Iterator[str]:
    found = sizes(given)
    height, width = given.get("kernel_size", (0, 0))
    if found.pop("k", set()) - {height * width}:
        yield "kernel"
    yield from ("one" if len(s - {1}) < 2 else "size" for s in found.values() if len(s) > 1)
    # Codes of any number of axes may be given back, but not those of a factor.
    fixed = {name: part for name, part in given.items() if name != "codes" or "F" in given}
    if not all(_has_axes(name, part) for name, part in fixed.items()):
        yield "size"
    if any(np.shape(part) == (1,) and channels != 1 for part, channels in _spread(given)):
        yield "one"


def _spread(given: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
    """Yield what is single or for each channel, and how many channels there are; 0: no such axis.

    A scale keeps all axes of what it is for, so to one axis a vector of one number fits.
    """
    if "multipliers" in given:
        rank = given["a_in"].shape[1]
        yield from zip(given["multipliers"], (rank, rank, len(given["a_out"])), strict=True)
    if "multiplier" in given:
        acc = given.get("acc")
        outputs = len(given["W"]) if acc is None else (*acc.shape, 0, 0)[1]
        yield given["multiplier"], outputs
    if "scale" in given:
        yield given["scale"], int(next(iter(given.values())).ndim == 1)


def _has_axes(name: str, part: Any) -> bool:
    """Whether an argument, or each array in a list, has its number of axes; images are not asked."""
    if name == "factors":
        return all(array.ndim == 2 for array in part)
    if name == "X":
        return bool(part.ndim > 1)
    return part is None or name == "x" or name not in _AXES or np.ndim(part) >= len(_AXES[name])


def refuse(op: str, given: Mapping[str, Any], careless: Iterable[str] = ()) -> None:
    """Raise an exception for input without a meaning, unless careless about it.

    Raises
    ------
    ValueError
        If there are offences of other kinds.
    """
    found = {*offences(op, given)} - {*careless}
    if found:
        raise ValueError(f"{op}: no meaning: {', '.join(sorted(found))}")


def checked(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of an operation's arguments that refuses what has no meaning."""

    def careful(*arrays: Any, **options: Any) -> Any:
        refuse(op, {**dict(zip(OPS[op].arrays, arrays, strict=True)), **options})
        return function(*arrays, **options)

    return careful
