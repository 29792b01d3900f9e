"""Where do windows stand? Kernels, strides, padding and dilation, for any number of axes.

One axis object per spatial axis says how long it is before and after padding, where the windows
begin and what a kernel reads from there :eq:`conv-size`. Convolutions, costs, second moments and
integer layers take their geometry from here, so that none of them counts pixels again.

Checked by tests/layers/test_conv.py.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import check_array, check_int_or_ints, check_integers, check_option
from qcp_ref._door import shown

__all__: list[str] = []

# float32 if every array of a call is float32, in any byte order, else float64.
Floats: TypeAlias = NDArray[Any]
# One number for all spatial axes, or one for each: (height, width).
Pair: TypeAlias = int | Sequence[int]
# One number, one for each axis, all begins and then all ends (top, left, bottom, right), or a name.
Padding: TypeAlias = int | Sequence[int] | str
# Index of all images and channels.
EVERYWHERE = (slice(None), slice(None))
# Patches, or channels between the stages, made at a time: about what the cache of a core holds.
_BLOCK_BYTES = 2**21
FARTHEST = 2**31  # of sides, strides, padding and dilation
INT32 = np.iinfo(np.int32)
_PIXELS = 2**28  # of a padded image


class Axis(NamedTuple):
    """One spatial axis of a convolution."""

    kernel: int
    stride: int
    dilation: int
    size: int
    before: int  # zeros in front of the image
    padded: int
    span: int  # of the kernel, dilation included
    out: int


def window_axes(
    sides: Sequence[int], size: Pair, stride: Pair, padding: Padding, dilation: Pair, at: str = "x"
) -> tuple[Axis, ...]:
    """Resolve the options for each spatial axis by :eq:`conv-size` and :eq:`conv-same`."""
    d = len(sides)
    kernel = axis_numbers(size, "kernel_size", (1, d), 1)
    step = axis_numbers(stride, "stride", (1, d), 1)
    spread = axis_numbers(dilation, "dilation", (1, d), 1)
    if isinstance(padding, str):
        check_option(padding, "padding", ("valid", "same"))
    pads = axis_numbers(0 if isinstance(padding, str) else padding, "padding", (1, d, 2 * d), 0)
    axes = []
    for i, name in enumerate(("depth", "height", "width")[-d:]):
        n, k, s = sides[i], kernel[i], step[i]
        span = spread[i] * (k - 1) + 1
        # p = max(0, (ceil(n / s) - 1) s + d (k - 1) + 1 - n), an odd zero last  :eq:`conv-same`
        total = max(0, (-(-n // s) - 1) * s + span - n)
        before, after = (total // 2, total - total // 2) if padding == "same" else pads[i::d]
        padded = before + n + after
        if padded < span:
            need = f"a padded {name} of at least {span} (the kernel's span)"
            raise ValueError(f"{at}: expected {need}, got {padded}; pad more or dilate less")
        out = (
            padded - span
        ) // s + 1  # floor((p0 + n + p1 - d (k - 1) - 1) / s) + 1  :eq:`conv-size`
        axes.append(Axis(k, s, spread[i], n, before, padded, span, out))
    if at == "x" and prod(a.padded for a in axes) > max(_PIXELS, 4 * prod(sides)):
        raise ValueError(f"padding: expected at most {_PIXELS} pixels with it, got {padding}")
    return tuple(axes)


def axis_windows(x: Floats, axes: Sequence[Axis]) -> Floats:
    """View the padded images under the kernel: axes image, channel, positions, kernel entries."""
    _, stride, dilation, size, before, padded, span, _ = zip(*axes, strict=True)
    if padded != x.shape[2:]:
        zeros = np.zeros_like(x, shape=(*x.shape[:2], *padded))
        zeros[(*EVERYWHERE, *[slice(a, a + n) for a, n in zip(before, size, strict=True)])] = x
        x = zeros
    windows = sliding_window_view(x, span, axis=tuple(range(2, x.ndim)))
    return windows[(*EVERYWHERE, *[slice(None, None, step) for step in stride + dilation])]


def window_patches(x: Floats, axes: Sequence[Axis]) -> Iterator[tuple[slice, slice, Floats]]:
    """Gather the patches under the kernel block by block: images, positions, patches as columns."""
    d, out, entries = len(axes), [a.out for a in axes], x.shape[1] * prod(a.kernel for a in axes)
    sizes = [entries * x.itemsize * prod(out[i:]) for i in range(d + 1)]
    # A single image that does not fit a block is cut along all axes but rows, which stay whole.
    cuts = [list(image_blocks(*cut)) for cut in zip(out[:-1] or out, sizes[1:], strict=False)]
    order = (0, 1, *range(2 + d, 2 + 2 * d), *range(2, 2 + d))
    for images in image_blocks(len(x), sizes[0]):
        windows, start = axis_windows(x[images], axes), 0
        for box in product(*cuts):
            # The copy that makes columns is that of the reshape.
            part = windows[(*EVERYWHERE, *box)].transpose(order)
            columns = part.reshape(len(part), entries, -1)
            stop = start + columns.shape[2]
            yield images, slice(start, stop), columns
            start = stop


@lru_cache(maxsize=64)
def axis_sources(axes: tuple[Axis, ...]) -> NDArray[np.int64]:
    """Return the pixel under each kernel entry at each position, -1 where there is padding."""
    sides = [a.size for a in axes]
    numbers = np.arange(1, prod(sides) + 1).reshape(1, 1, *sides)
    return np.asarray(axis_windows(numbers, axes).reshape(prod(a.out for a in axes), -1) - 1)


def image_blocks(count: int, bytes_each: int) -> Iterator[slice]:
    """Cut a batch into slices whose work arrays stay in the processor's cache."""
    step = max(1, _BLOCK_BYTES // bytes_each)
    return (slice(start, start + step) for start in range(0, count, step))


def padded_bytes(x: Floats, C: Floats, axes: Sequence[Axis]) -> int:
    """Return the bytes of one padded image with the channels of ``C``."""
    return int(x.itemsize * C.shape[1]) * prod(a.padded for a in axes)


def axis_numbers(value: Any, name: str, counts: Sequence[int], minimum: int) -> tuple[int, ...]:
    """Return as many integers as the longest of the allowed forms has."""
    text = isinstance(value, str)
    given = () if text else check_int_or_ints(value, name, minimum=minimum, cap=FARTHEST)
    if len(given) not in counts:
        allowed = " or ".join(map(str, dict.fromkeys(counts)))
        what = "integers" if counts[-1] > 1 else "integer"
        raise ValueError(f"{name}: expected {allowed} {what}, got {shown(value)}")
    return given * (counts[-1] // len(given))


def check_axes(x: ArrayLike, name: str) -> Floats:
    """Return an array with batch, channel and one to three spatial axes, or a kernel."""
    array = check_array(x, name, keep_float32=True)
    if not 3 <= array.ndim <= 5:
        got = f"got {array.ndim} (shape {array.shape})"
        raise ValueError(f"{name}: expected 3 to 5 axes, {got}; reshape it")
    return array


def check_whole(
    x: ArrayLike,
    name: str,
    lowest: int,
    highest: int,
    *,
    ndim: int | None = None,
    min_ndim: int = 0,
) -> NDArray[np.int64]:
    """Return integers within these ends, as int64."""
    array = check_integers(x, name)
    check_array(array, name, ndim=ndim, min_ndim=min_ndim)
    if array.min() < lowest or array.max() > highest:
        ends = f"{array.min()} to {array.max()}"
        raise ValueError(f"{name}: expected integers from {lowest} to {highest}, got {ends}")
    return array.astype(np.int64)


def check_bias(bias: ArrayLike | None, outputs: int, *, whole: bool = False) -> Floats:
    """Return one number per output; zeros where there is no bias.

    They are floats, in float32 if the bias is; or, if ``whole``, integers within int32, as int64.
    """
    if bias is None:
        return np.zeros(outputs, np.int64 if whole else np.float32)
    if whole:
        b: Floats = check_whole(bias, "bias", INT32.min, INT32.max, ndim=1)
    else:
        b = check_array(bias, "bias", ndim=1, keep_float32=True)
    if b.shape != (outputs,):
        raise ValueError(f"bias: expected shape {(outputs,)} (one per output), got {b.shape}")
    return b


def check_spatial(shape: tuple[int, ...], size: tuple[int, ...], name: str) -> None:
    """Refuse a tensor that is no kernel of this size: one mode, one per axis, or for 1x1 none."""
    if shape[2:] not in ((prod(size),), size) and (shape[2:] or prod(size) != 1):
        need = f"(Cout, Cin, {prod(size)}) for kernel_size {size}"
        raise ValueError(f"{name}: expected shape {need}, got {shape}")
