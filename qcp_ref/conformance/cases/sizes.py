"""Which sizes are asked? Every axis of every operation, one large at a time, then two at once.

The thresholds are those at which implementations change what they do: one beyond a power of two,
where a block, a tile, a register or a thread group ends.

Checked by tests/conformance/cases/test_recipes.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from qcp_ref.conformance.cases.make import PLAIN

__all__ = ["SIZES", "TWO", "Row", "rows"]

Row = tuple[str, str, str, Mapping[str, Any], Mapping[str, Any]]  # op, name, says, sizes, options

SIZES = (1, 5, 9, 17, 33, 65, 129, 257, 513)
TWO = ((17, 33), (33, 9), (65, 65))
_FLAT = (1025, 1141, 2049)
_I8, _U8, _I4 = ({"qmin": a, "qmax": b} for a, b in ((-128, 127), (0, 255), (-8, 7)))
_SAYS = "Nothing is left out, repeated or mixed up where {} is {}."


def rows() -> Iterator[Row]:
    """Yield all rows of the table."""
    for family in (_grids, _choices, _accumulators, _tensors, _layers, _integers, _solvers, _codes):
        yield from family()


def _axes(base: Mapping[str, int], rank: int = 513) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield names and sizes: one axis large at a time, then two neighbours at once.

    The largest rank may be less than the largest side.
    """
    for axis in base:
        for n in SIZES:
            if axis != "rank" or n <= rank:
                yield f"{axis}-{n}", {**base, axis: n}
    names = list(base)
    for k, pair in enumerate(TWO):
        if len(names) > 1:
            two = names[k % len(names)], names[(k + 1) % len(names)]
            yield f"{two[0]}-{pair[0]}.{two[1]}-{pair[1]}", {**base, **dict(zip(two, pair))}  # noqa: B905


def _says(name: str) -> str:
    what = " and ".join(f"{axis} {n}" for axis, n in (p.rsplit("-", 1) for p in name.split(".")))
    return f"Nothing is left out, repeated or mixed up at {what}."


# --- grids ----------------------------------------------------------------------------------------


def _grids() -> Iterator[Row]:
    """Ask entries along three axes; scale and zero point single, of one axis, or of several."""
    ends = (_I8, _U8, _I4)
    for n, (name, z) in enumerate(_axes({"rows": 3, "columns": 2, "depth": 3})):
        shape = list(z.values())
        own = max(range(3), key=lambda axis: shape[axis])
        for spread, part in _spreads(shape, own):
            zeros = part if n % 2 else [1] * 3
            both = {"shape": shape, "scale": part, "zero": zeros}
            title, says = f"size.{name}.{spread}", _says(name)
            yield "quantize", title, says, both, ends[n % 3]
            yield "project", title, says, both, ends[(n + 1) % 3]
            yield "dequantize", title, says, {**both, "range": [-128, 127]}, {}
            kind = (("log2", 4), ("ternary", 2), ("binary", 1), ("log2", 3))[n % 4]
            options = dict(zip(("kind", "bits"), kind, strict=True))
            yield "project_kind", title, says, {"shape": shape, "scale": part}, options
    for n in _FLAT:
        both = {"shape": [n], "scale": [], "zero": []}
        says = f"Ties at all positions of {n} entries."
        yield "quantize", f"size.flat-{n}", says, both, _I8
        yield "project", f"size.flat-{n}", says, both, _U8
        yield "dequantize", f"size.flat-{n}", says, {**both, "range": [0, 255]}, {}
        options = {"kind": "log2", "bits": 5}
        yield "project_kind", f"size.flat-{n}", says, {"shape": [n], "scale": []}, options
    yield from _widths()


def _spreads(shape: Sequence[int], own: int) -> Iterator[tuple[str, list[int]]]:
    other = (own + 1) % 3
    yield "own", [side if axis == own else 1 for axis, side in enumerate(shape)]
    yield "other", [side if axis == other else 1 for axis, side in enumerate(shape)]
    yield "one", [1] * 3
    yield "two", [1 if axis == other else side for axis, side in enumerate(shape)]


def _widths() -> Iterator[Row]:
    """Ask codes of all widths, signed, unsigned and symmetric; scales of shape (1, 1)."""
    for bits, kind in product((2, 3, 4, 5, 6, 7, 8, 16), ("i", "u", "n")):
        top = 2 ** (bits - (kind != "u")) - 1
        low = {"i": -top - 1, "u": 0, "n": -top}[kind]
        ends = {"qmin": low, "qmax": top}
        for spread, part in (("one", [1, 1]), ("row", [6, 1]), ("column", [1, 7]), ("all", [6, 7])):
            both: dict[str, Any] = {
                "shape": [6, 7],
                "scale": part,
                "zero": part[::-1] if spread == "one" else part,
            }
            both["near"] = int(bits < 16)
            says = f"Codes from {low} to {top}, the scale of shape {tuple(part)}."
            yield "quantize", f"width.{kind}{bits}.{spread}", says, both, ends
            yield "project", f"width.{kind}{bits}.{spread}", says, both, ends
            codes = {**both, "range": [low, top]}
            yield "dequantize", f"width.{kind}{bits}.{spread}", says, codes, {}
    for bits, spread in product((2, 3, 4, 5, 6, 7), ("one", "row", "column", "all")):
        part = {"one": [1, 1], "row": [6, 1], "column": [1, 7], "all": [6, 7]}[spread]
        says = f"Powers of two in {bits} bits, the scale of shape {tuple(part)}."
        options = {"kind": "log2", "bits": bits}
        yield (
            "project_kind",
            f"width.l{bits}.{spread}",
            says,
            {"shape": [6, 7], "scale": part},
            options,
        )


def _choices() -> Iterator[Row]:
    """Choose scales for many numbers, the largest and the smallest anywhere among them."""
    rules = ("max-abs", "max-abs-narrow", "max-abs-full", "max-abs-two-sided", "mse")
    shapes = [(str(n), [n]) for n in (*SIZES, *_FLAT)]
    shapes += [(f"{n}x3", [n, 3]) for n in SIZES] + [(f"2x{n}", [2, n]) for n in SIZES]
    for k, (name, shape) in enumerate(shapes):
        says = f"All of {name} numbers count."
        for largest, which in ((1, "above"), (-1, "below")):
            z = {"shape": shape, "largest": largest}
            for r, rule in enumerate(rules):
                options = {**(_I4 if rule == "mse" or (k + r) % 2 else _I8), "rule": rule}
                if rule != "mse" or (k % 2 == 0) == (largest > 0):
                    yield "choose_scale", f"size.{name}.{rule}.{which}", says, z, options
            yield "choose_affine", f"size.{name}.{which}", says, z, (_I8, _U8, _I4)[k % 3]
            same, equal = {**z, "same": True}, "Equal numbers have a range, zero included."
            yield "choose_affine", f"equal.{name}.{which}", equal, same, (_U8, _I4, _I8)[k % 3]


def _accumulators() -> Iterator[Row]:
    ends, zeros = (_I8, _U8, _I4), (-7, 131, 3)
    for n, (name, z) in enumerate(_axes({"images": 3, "channels": 4, "height": 2, "width": 3})):
        for channels in (False, True):
            measures = {"shape": list(z.values()), "channels": channels, "zero": zeros[n % 3]}
            title = f"size.{name}.{'channels' if channels else 'one'}"
            for op in ("requantize", "requantize_fixed"):
                yield op, title, _says(name), measures, ends[n % 3]
    for n in _FLAT:
        measures = {"shape": [n], "channels": False, "zero": 5}
        for op in ("requantize", "requantize_fixed"):
            yield op, f"size.flat-{n}", f"Ties at all positions of {n} entries.", measures, _I8
    for bits, kind in product((2, 3, 4, 5, 6, 7, 8, 16), "iu"):
        top = 2 ** (bits - (kind == "i")) - 1
        ends_ = {"qmin": -top - 1 if kind == "i" else 0, "qmax": top}
        measures = {"shape": [3, 20], "channels": True, "zero": top // 3, "power": 24 - bits}
        for op in ("requantize", "requantize_fixed"):
            says = f"Codes of {bits} bits."
            yield op, f"width.{kind}{bits}", says, measures, ends_
    for low in range(-31, 31, 4):
        measures = {
            "shape": [4, 16],
            "channels": True,
            "zero": 1,
            "shifts": [low, min(low + 3, 29)],
        }
        says = f"Shifts from {low}, accumulators of all 32 bits."
        yield "requantize_fixed", f"shift.{low + 31}", says, measures, _I8


# --- tensors --------------------------------------------------------------------------------------


def _shapes() -> Iterator[tuple[str, list[int], int]]:
    """Yield name, sides and rank: of order 3 along each axis, then orders 2, 4, 5, equal sides."""
    for name, z in _axes({"first": 3, "second": 4, "third": 2, "rank": 3}):
        yield f"size.{name}", [z["first"], z["second"], z["third"]], z["rank"]
    for sides in ([5, 7], [65, 9], [1, 6], [6, 1], [3, 2, 4, 3], [1, 3, 1, 4], [9, 2, 3, 5],
                  [5, 5, 5, 5], [7, 7, 7], [2, 3, 2, 3, 4], [3, 1, 4, 1, 5], [2, 2, 2, 2, 2],
                  [5, 4, 3, 2, 3]):  # fmt: skip
        for rank in (1, 3, 10):
            yield f"order.{'x'.join(map(str, sides))}.rank-{rank}", sides, rank


def _tensors() -> Iterator[Row]:
    for n, (name, sides, rank) in enumerate(_shapes()):
        z, says = {"sides": sides, "rank": rank}, f"Sides {sides}, {rank} components."
        yield "reconstruct", name, says, {**z, "weights": int(n % 2 or "size.rank" in name)}, {}
        yield "gram", f"{name}.all", says, z, {"mode": None}
        for mode in range(len(sides)):
            title = f"{name}.mode-{mode}"
            yield "mttkrp", title, says, z, {"mode": mode}
            if rank < 129:  # a Gram matrix has rank^2 entries
                yield "gram", title, says, z, {"mode": mode}
    for n, (name, sides, rank) in enumerate(_shapes()):
        z, says = {"sides": sides, "rank": rank}, f"Sides {sides}, {rank} components."
        if max(*sides, rank) <= 513:
            yield "balance", name, says, {**z, "weights": int(n % 2 or "size.rank" in name)}, {}


# --- layers ---------------------------------------------------------------------------------------

_IMAGE = {"images": 2, "inputs": 3, "outputs": 4, "height": 4, "width": 5}


def _layers() -> Iterator[Row]:
    window = {**PLAIN, "padding": [1, 0, 0, 1]}
    for n, (name, z) in enumerate(_axes(_IMAGE)):
        says, kernel = _says(name), [1 + (z["height"] > 1), 2 - (z["width"] < 2)]
        measures = {**z, "bias": int(n % 2 or "outputs" in name)}
        yield "conv2d", f"size.{name}", says, {**measures, "kernel": kernel}, window
        yield "pointwise", f"size.{name}", says, measures, {"stride": [1, 1]}
        if not name.startswith("outputs"):
            yield "depthwise", f"size.{name}", says, z, {"kernel_size": kernel, **window}
    for n, (name, z) in enumerate(_axes({"rank": 3, **_IMAGE})):
        kernel = [1 + (z["height"] > 1), 2 - (z["width"] < 2)]
        measures = {**z, "bias": int(n % 2 or "outputs" in name)}
        yield "cp_conv2d", f"size.{name}", _says(name), measures, {"kernel_size": kernel, **window}
    large = {**_IMAGE, "rank": 1141}
    options = {"kernel_size": [3, 3], **PLAIN, "padding": [1, 1, 1, 1]}
    yield "cp_conv2d", "size.rank-1141", _says("rank-1141"), large, options


def _integers() -> Iterator[Row]:
    window = {**PLAIN, "padding": [1, 0, 0, 1]}
    for n, (name, z) in enumerate(_axes({**_IMAGE, "rank": 3})):
        says, kernel = _says(name), [1 + (z["height"] > 1), 2 - (z["width"] < 2)]
        own, bias = "outputs" in name, (None, 16, 32)[n % 3]
        measures: dict[str, Any] = {**z, "signed": n % 3 == 1, "bias": (bias or 8) if own else bias}
        measures["channels"] = int(own or n % 2)
        x_zero = (7, -5, 200)[n % 3]
        output = {"x_zero": x_zero, "y_zero": 9, **_I8, "relu": n % 4 == 3}
        if not name.startswith("rank"):
            whole = {**measures, "kernel": kernel}
            yield "int_conv2d", f"size.{name}", says, whole, {"x_zero": x_zero, **window}
            yield "quantized_conv2d", f"size.{name}", says, whole, {**output, **window}
        if not name.startswith(("rank", "height", "width")):
            yield "quantized_linear", f"size.{name}", says, measures, output
        measures["channels"] = [1, 1, 0] if "rank" in name else [n % 2, (n + 1) % 2, 1]
        options = {"zeros": [x_zero, -3, 4, 100], "qmins": [-128, -8, 0], "qmaxs": [127, 7, 255]}
        options |= {"kernel_size": kernel, **window}
        yield "quantized_cp_conv2d", f"size.{name}", says, measures, options


# --- solvers --------------------------------------------------------------------------------------


def _solvers() -> Iterator[Row]:
    for n, (name, z) in enumerate(_axes({"first": 3, "second": 4, "third": 2, "rank": 2}, 257)):
        sides, says = [z["first"], z["second"], z["third"]], _says(name)
        for mode in range(3):
            measures = {"sides": sides, "rank": z["rank"]}
            if z["rank"] > 129 and mode != n % 3:
                continue
            yield "als_update", f"size.{name}.mode-{mode}", says, measures, {"mode": mode}
            if z["rank"] > 33:
                continue
            apart = list(sides)
            apart[(mode + 1) % 3] = max(apart[(mode + 1) % 3], z["rank"])
            measures = {"sides": apart, "rank": z["rank"]}
            yield "epc_update", f"size.{name}.mode-{mode}", says, measures, {"mode": mode}
        if z["rank"] < 129 and (n % 2 or "first" in name):
            yield "als_sweep", f"size.{name}", says, {"sides": sides, "rank": z["rank"]}, {}
    for sides in ([5, 7], [7, 5], [3, 2, 4, 3], [4, 4, 4, 4], [1, 3, 1, 4], [3, 2, 2, 3, 2]):
        for rank in (2, 5):
            title, both = f"{'x'.join(map(str, sides))}.rank-{rank}", {"sides": sides, "rank": rank}
            says = f"Sides {sides}, {rank} components."
            yield "als_sweep", f"order.{title}", says, both, {}
            for mode in range(len(sides)):
                yield "als_update", f"order.{title}.mode-{mode}", says, both, {"mode": mode}
    for name, z in _axes({"rows": 3, "rank": 3}, 129):
        if z["rank"] * z["rows"] < 65 * 65:
            yield "admm_step", f"size.{name}", _says(name), z, _I8


def _codes() -> Iterator[Row]:
    for name, z in _axes({"rows": 3, "rank": 3}, 129):
        says = _says(name)
        yield "descend_rows", f"size.{name}", says, z, _I4
        yield "refit_scale", f"size.{name}", says, z, {}
        yield "nearest_plane", f"size.{name}", says, z, {"qmin": -2, "qmax": 1}
    for name, z in (*_axes({"rows": 3, "rank": 3}), ("rank-7", {"rows": 5, "rank": 7})):
        # A right implementation may try all rows of codes.
        ends = {"qmin": -2, "qmax": 1} if z["rank"] < 8 else {"qmin": 0, "qmax": 1}
        if z["rank"] <= 17 and z["rows"] <= 257:
            yield "closest_rows", f"size.{name}", _says(name), z, ends
