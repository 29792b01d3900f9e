"""Which layers do real networks have, and which options meet in no network that we know?

Two families for every layer operation: the geometries of real networks, by name, and a pairwise
cover, in which every two values of any two options meet.

Checked by tests/conformance/cases/test_recipes.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from qcp_ref.conformance.cases.cover import cover
from qcp_ref.conformance.cases.sizes import Row

__all__ = ["NAMED", "OPTIONS", "RANGES", "rows"]

FLOAT = ("conv2d", "depthwise", "cp_conv2d")
INTEGER = ("int_conv2d", "quantized_conv2d", "quantized_cp_conv2d")

# name: kernel, stride, padding (top, left, bottom, right), dilation, sides of the image
NAMED: dict[str, tuple[Sequence[int], ...]] = {
    "3x3": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (8, 8)),
    "3x3-valid": ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1), (8, 7)),
    "3x3-stride-2-even": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (14, 14)),
    "3x3-stride-2-odd": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (15, 15)),
    "3x3-stride-2-even-odd": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (14, 15)),
    "3x3-stride-2-same": ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), (14, 14)),
    "3x3-stride-2-valid": ((3, 3), (2, 2), (0, 0, 0, 0), (1, 1), (14, 13)),
    "5x5": ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1), (9, 8)),
    "5x5-stride-2": ((5, 5), (2, 2), (2, 2, 2, 2), (1, 1), (14, 13)),
    "5x5-stride-2-same": ((5, 5), (2, 2), (1, 1, 2, 2), (1, 1), (14, 14)),
    "7x7-stride-2": ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1), (18, 18)),
    "7x7-stride-2-odd": ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1), (17, 19)),
    "7x7-stride-2-same": ((7, 7), (2, 2), (2, 2, 3, 3), (1, 1), (16, 16)),
    "7x7": ((7, 7), (1, 1), (3, 3, 3, 3), (1, 1), (9, 10)),
    "1x1": ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), (7, 6)),
    "1x1-stride-2": ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1), (8, 7)),
    "1x1-stride-2-1": ((1, 1), (2, 1), (0, 0, 0, 0), (1, 1), (7, 6)),
    "1x1-stride-1-2": ((1, 1), (1, 2), (0, 0, 0, 0), (1, 1), (7, 6)),
    "3x3-dilation-2": ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), (9, 8)),
    "3x3-dilation-2-stride-2": ((3, 3), (2, 2), (2, 2, 2, 2), (2, 2), (11, 12)),
    "3x3-dilation-4": ((3, 3), (1, 1), (4, 4, 4, 4), (4, 4), (10, 9)),
    "1x7": ((1, 7), (1, 1), (0, 3, 0, 3), (1, 1), (6, 9)),
    "7x1": ((7, 1), (1, 1), (3, 0, 3, 0), (1, 1), (9, 6)),
    "1x3": ((1, 3), (1, 1), (0, 1, 0, 1), (1, 1), (4, 7)),
    "3x1": ((3, 1), (1, 1), (1, 0, 1, 0), (1, 1), (7, 4)),
    "4x4-stride-4": ((4, 4), (4, 4), (0, 0, 0, 0), (1, 1), (16, 16)),
    "2x2-stride-2": ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (8, 9)),
    "image-57": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (57, 57)),
    "image-57-same": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (57, 57)),
    "image-113": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (113, 113)),
    "image-113-7x7": ((7, 7), (2, 2), (3, 3, 3, 3), (1, 1), (113, 113)),
}

_SIDES = range(1, 8)
_FEW = (1, 2, 3)
OPTIONS: dict[str, Sequence[Any]] = {
    "kernel_height": _SIDES, "kernel_width": _SIDES,
    "stride_height": _FEW, "stride_width": _FEW,
    "dilation_height": _FEW, "dilation_width": _FEW,
    "top": (0, 1, 2, 3), "left": (0, 1, 2, 3), "bottom": (0, 1, 2, 3), "right": (0, 1, 2, 3),
    "height": (0, 1, 2, 4), "width": (0, 1, 2, 4),  # more pixels than the kernel needs
    "images": _FEW, "inputs": (1, 2, 3, 5), "outputs": (1, 2, 3, 5), "bias": (None, 16),
}  # fmt: skip

# Ranges of codes: widths 2 to 8, signed, unsigned and symmetric; the last is for outputs alone.
RANGES = [(-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in range(2, 9)]
RANGES += [(0, 2**b - 1) for b in range(2, 9)] + [(-127, 127), (-7, 7)]
_WIDE = [*RANGES, (-(2**15), 2**15 - 1), (0, 2**16 - 1)]
_PLACES = (
    0,
    1,
    2,
    3,
)  # of a zero point in its range: the lowest, 0 or nearest, the highest, inside
_LAYER: dict[str, Sequence[Any]] = {
    **{k: v for k, v in OPTIONS.items() if k not in ("kernel_height", "kernel_width", "bias")},
    "kernel_height": (1, 2, 3, 5), "kernel_width": (1, 2, 3, 4),
    "bias": (None, 8, 17, 24, 32), "bits": range(2, 9), "signed": (False, True),
    "x_zero": _PLACES, "first": RANGES, "second": RANGES, "last": _WIDE,
    "first_zero": _PLACES, "second_zero": _PLACES, "y_zero": _PLACES, "relu": (False, True),
    "first_channels": (0, 1), "second_channels": (0, 1), "channels": (0, 1),
}  # fmt: skip


# One stage does not know of these.
_CHAIN = ("first", "second", "first_zero", "second_zero", "first_channels", "second_channels")


def rows() -> Iterator[Row]:
    """Yield the rows of both families for every layer operation."""
    yield from _named()
    yield from _covered()


def _named() -> Iterator[Row]:
    for k, (name, (kernel, stride, padding, dilation, sides)) in enumerate(NAMED.items()):
        window = {"stride": [*stride], "padding": [*padding], "dilation": [*dilation]}
        says = f"The geometry {name} of real networks."
        for channels in (2, 1) if max(sides) < 50 else (2,):
            z: dict[str, Any] = {
                "images": 2 if max(sides) < 50 else 1,
                "inputs": channels,
                "outputs": 3,
                "rank": 3,
            }
            z |= {"height": sides[0], "width": sides[1], "kernel": [*kernel]}
            title = f"net.{name}" + ".one-channel" * (channels == 1)
            yield from _float(title, says, {**z, "bias": k % 2}, window)
            yield from _integer(title, says, z, window, _plain_row(k))
        if kernel == (1, 1):
            yield "pointwise", f"net.{name}", says, {**z, "bias": 1}, {"stride": [*stride]}


def _plain_row(k: int) -> dict[str, Any]:
    """Return options of integer layers that are those of real networks, too."""
    signed = k % 2 == 1
    row: dict[str, Any] = {
        "signed": signed,
        "x_zero": 3,
        "bias": 17,
        "bits": 8,
        "relu": k % 3 == 0,
        "y_zero": 3,
    }
    row |= {"first": (-128, 127), "second": (-128, 127), "first_zero": 3, "second_zero": 3}
    row |= {"last": (0, 255), "first_channels": 1, "second_channels": 1, "channels": 1}
    return row


def _float(title: str, says: str, z: Mapping[str, Any], window: Mapping[str, Any]) -> Iterator[Row]:
    size = {"kernel_size": z["kernel"]}
    yield "conv2d", title, says, z, window
    yield "depthwise", title, says, z, {**size, **window}
    yield "cp_conv2d", title, says, z, {**size, **window}


def _integer(
    title: str, says: str, z: Mapping[str, Any], window: Mapping[str, Any], row: Mapping[str, Any]
) -> Iterator[Row]:
    x_range = (-128, 127) if row["signed"] else (0, 255)
    zeros = [_placed(row["x_zero"], x_range)]
    whole = {**z, **{key: row[key] for key in ("signed", "bias", "bits", "channels")}}
    if "relu" in row:
        ends = {"qmin": row["last"][0], "qmax": row["last"][1]}
        y_zero = _placed(row["y_zero"], row["last"])
        output = {"x_zero": zeros[0], "y_zero": y_zero, **ends, "relu": row["relu"]}
        yield "int_conv2d", title, says, whole, {"x_zero": zeros[0], **window}
        yield "quantized_conv2d", title, says, whole, {**output, **window}
        yield "quantized_linear", title, says, {**whole, "inputs": 4 * z["inputs"]}, output
    if "first" not in row:
        return
    zeros += [_placed(row[f"{n}_zero"], row[n]) for n in ("first", "second")]
    zeros += [_placed(row["y_zero"], row["last"])]
    ranges = [row["first"], row["second"], row["last"]]
    options = {"zeros": zeros, "qmins": [r[0] for r in ranges], "qmaxs": [r[1] for r in ranges]}
    options |= {"kernel_size": z["kernel"], **window}
    channels = [row["first_channels"], row["second_channels"], row["channels"]]
    yield "quantized_cp_conv2d", title, says, {**whole, "channels": channels}, options


def _placed(place: int, ends: Sequence[int]) -> int:
    low, high = ends
    return (low, max(low, 0), high, (low + 2 * high) // 3)[place]


@cache
def _rows(kind: str) -> tuple[dict[str, Any], ...]:
    left_out = {"layers": (), "integers": _CHAIN, "chains": ("relu",)}[kind]
    options = OPTIONS if kind == "layers" else _LAYER
    return tuple(cover(kind, {k: v for k, v in options.items() if k not in left_out}))


def _covered() -> Iterator[Row]:
    says = "Every two values of two options meet in some row of this table."
    for n, row in enumerate(_rows("layers")):
        z, window = _measured(row)
        yield from _float(f"pairs.{n + 1}", says, z, window)
        yield "pointwise", f"pairs.{n + 1}", says, z, {"stride": window["stride"]}
    for kind in ("integers", "chains"):
        for n, row in enumerate(_rows(kind)):
            z, window = _measured(row)
            yield from _integer(f"pairs.{n + 1}", says, z, window, row)


def _measured(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return sizes, with an image as small as the kernel and its padding allow, and the window."""
    kernel = [row["kernel_height"], row["kernel_width"]]
    dilation = [row["dilation_height"], row["dilation_width"]]
    sides = []
    for axis, (before, after) in enumerate((("top", "bottom"), ("left", "right"))):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        more = row[("height", "width")[axis]]
        sides.append(max(1, span - row[before] - row[after]) + more)
    z = {"kernel": kernel, "height": sides[0], "width": sides[1], "rank": 1 + row["images"]}
    z |= {name: row[name] for name in ("images", "inputs", "outputs", "bias")}
    window = {"stride": [row["stride_height"], row["stride_width"]], "dilation": dilation}
    return z, {**window, "padding": [row[name] for name in ("top", "left", "bottom", "right")]}
