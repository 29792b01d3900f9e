"""What does the factorized layer compute? Three small convolutions in place of a large one.

Images have shape (N, C, H, W), kernels (Cout, Cin, kh, kw); a convolution is a cross-correlation
(:eq:`conv-dense`), as in every deep-learning framework. Read as a tensor (:eq:`conv-tensor`), a kernel that
is a CP tensor with factors ``a_out``, ``a_in``, ``a_kernel`` splits into a pointwise, a depthwise and another
pointwise convolution (:eq:`conv-cp`). In exact arithmetic the two layers are equal; how far rounding
can drive them apart is bounded by :eq:`conv-bound`.

The dense convolution gathers the patches under the kernel and multiplies them with the kernel as a matrix.
The factorized one keeps the R channels between its stages innermost in memory, where each depthwise step is one
long product, and works on as many images at a time as stay in the cache.

Simplified: two spatial axes, zero padding, no groups.

Checked by tests/test_conv.py.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import Array, check_array, check_int, check_option
from qcp_ref.bounds import rounding_bound
from qcp_ref.cp import CP, _check_cp
from qcp_ref.tensor import _khatri_rao

__all__ = [
    "conv2d",
    "cp_conv2d",
    "cp_conv_bound",
    "cp_linear",
    "depthwise",
    "kernel_to_tensor",
    "pointwise",
    "tensor_to_kernel",
]

# float32 if every array of a call is float32, else float64.
Floats: TypeAlias = NDArray[Any]
# One number for both axes, or (height, width).
Pair: TypeAlias = int | Sequence[int]
# One number, (height, width), (top, left, bottom, right), or "valid" or "same".
Padding: TypeAlias = int | Sequence[int] | str

_BLOCK_BYTES = 2**20  # of patches, or of channels between the stages: about what a core's cache holds


def conv2d(
    x: ArrayLike,
    W: ArrayLike,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve images with a dense kernel.

    Parameters
    ----------
    x : array_like, shape (N, Cin, H, W)
        Images.
    W : array_like, shape (Cout, Cin, kh, kw)
        Kernel; it is not flipped.
    stride : int or (int, int)
        Step between positions, (height, width) or one number for both.
    padding : int, (int, int), (int, int, int, int), 'valid' or 'same'
        Zeros around the images: on all sides, (height, width), or (top, left, bottom, right). 'valid'
        pads nothing; 'same' makes the output ``ceil(side / stride)`` long, an odd zero at the end.
    dilation : int or (int, int)
        Step between the kernel's entries.
    bias : array_like, shape (Cout,), optional
        Added to each output channel.

    Returns
    -------
    ndarray, shape (N, Cout, Hout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real, or the shapes, the kernel's size or the options do not fit.

    Notes
    -----
    Equation :eq:`conv-dense`; sizes :eq:`conv-size`, 'same' :eq:`conv-same` [source: ONNX, SAME_UPPER].
    Temporaries: the padded images and patches of one block, which is at least a row of one image.

    **Laws**

    - it equals the sum over the kernel's entries, exactly on integers, else within its rounding bound
    - it is linear in ``x`` and in ``W``, and each image is on its own
    - shifting an image shifts the output, away from the border
    - a stride picks from the output of stride 1, a dilation is a kernel with zeros in between
    - padding is zeros written around the image; a 1x1 kernel is a matrix product
    - it is adjoint to the scattering of its output; the blocks do not show

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import conv2d
    >>> x = np.arange(9).reshape(1, 1, 3, 3)
    >>> conv2d(x, [[[[0, 1], [0, 0]]]])
    array([[[[1., 2.],
             [4., 5.]]]])
    """
    images = _images(x)
    kernel = check_array(W, "W", ndim=4, keep_float32=True)
    _check_channels(images, kernel.shape[1], "W")
    b = _check_bias(bias, len(kernel))
    axes = _axes(images.shape[2:], kernel.shape[2:], stride, padding, dilation)
    dtype = _common_dtype(images, kernel, b)
    matrix = kernel.reshape(len(kernel), -1).astype(dtype, copy=False)
    height, width = axes[0].out, axes[1].out
    y = np.empty((len(images), len(kernel), height, width), dtype)
    row_bytes = matrix.shape[1] * width * dtype.itemsize
    for part in _blocks(len(images), row_bytes * height):
        # (n, Cin, Hout, Wout, kh, kw) -> (n, Cin, kh, kw, Hout, Wout): the copy of a slice is the matrix of patches
        windows = _windows(images[part].astype(dtype, copy=False), axes).transpose(0, 1, 4, 5, 2, 3)
        for rows in _blocks(height, row_bytes * len(windows)):
            patches = windows[..., rows, :].reshape(len(windows), matrix.shape[1], -1)
            y[part, :, rows] = (matrix @ patches).reshape(len(windows), len(kernel), -1, width)
    return _add_bias(y, b)


def pointwise(
    x: ArrayLike, A: ArrayLike, *, stride: Pair = 1, bias: ArrayLike | None = None
) -> Floats:
    """Convolve images with a 1x1 kernel: one matrix, applied to the channels of every pixel.

    Parameters
    ----------
    x : array_like, shape (N, Cin, H, W)
        Images.
    A : array_like, shape (Cout, Cin)
        The matrix.
    stride : int or (int, int)
        Step between the pixels that are used.
    bias : array_like, shape (Cout,), optional
        Added to each output channel.

    Returns
    -------
    ndarray, shape (N, Cout, Hout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real or the shapes do not fit.

    Notes
    -----
    Equation :eq:`conv-pointwise`.

    **Laws**

    - it is the dense convolution with the matrix as 1x1 kernel

    Examples
    --------
    >>> from qcp_ref import pointwise
    >>> pointwise([[[[1, 2]], [[3, 4]]]], [[1, 10]])
    array([[[[31., 42.]]]])
    """
    images = _images(x)
    matrix = check_array(A, "A", ndim=2, keep_float32=True)
    _check_channels(images, matrix.shape[1], "A")
    b = _check_bias(bias, len(matrix))
    dtype = _common_dtype(images, matrix, b)
    down, right = _numbers(stride, "stride", (1, 2), 1) * 2 if _is_one(stride) else stride
    picked = images[:, :, ::down, ::right].astype(dtype, copy=False)
    return _add_bias(_pointwise(picked, matrix.astype(dtype, copy=False)), b)


def depthwise(
    x: ArrayLike,
    C: ArrayLike,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> Floats:
    """Convolve every channel with a filter of its own.
