"""What does the factorized layer compute? Three small convolutions in place of a large one.

Images have shape (N, C, H, W), kernels (Cout, Cin, kh, kw). Signals have one spatial axis,
(N, C, W) and (Cout, Cin, kw), volumes three, (N, C, D, H, W) and (Cout, Cin, kd, kh, kw), and the
same code serves them all. A convolution is a cross-correlation :eq:`conv-dense`, as in every
deep-learning framework. Read as a tensor :eq:`conv-tensor`, a kernel that is a CP tensor with
factors ``a_out``, ``a_in``, ``a_kernel`` splits into a pointwise, a depthwise and another pointwise
convolution :eq:`conv-cp`. In exact arithmetic the two layers are equal; how far rounding can drive
them apart is bounded by :eq:`conv-bound`.

The dense convolution gathers the patches under the kernel and multiplies them with the kernel as a
matrix. The factorized one keeps the channels between its stages innermost in memory, where the
depthwise stage is one pass of long products. Both take as many images at a time as fit a cache.

Where products of float32 numbers might leave the range of that type half-way, sums are taken in
float64; where those of float64 numbers might, mantissas and exponents are kept apart. A result that
its type cannot hold is refused.

On one page (``qcp_ref/minimal.py``) this is ``cp_conv2d``. What breaks there: memory, for the
windows of all images are laid out at once, and there is one kind of padding only.

Simplified: one to three spatial axes, zero padding, no groups.

Checked by tests/layers/test_conv.py.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import Array, check_array, check_int_or_ints, is_one_int
from qcp_ref._door import shown
from qcp_ref._kernels import can_compile, gather
from qcp_ref._wide import Wide, bilinear, finite, fits, narrow, plus, span, times, wide
from qcp_ref.bounds import rounding_bound
from qcp_ref.layers.geometry import (
    FARTHEST,
    Axis,
    Floats,
    Padding,
    Pair,
    axis_sources,
    axis_windows,
    check_axes,
    check_bias,
    check_spatial,
    image_blocks,
    padded_bytes,
    window_axes,
    window_patches,
)
from qcp_ref.tensors.cp import CP, check_cp
from qcp_ref.tensors.tensor import khatri_rao_core, wide_khatri_rao

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "cp_conv1d",
    "cp_conv2d",
    "cp_conv3d",
    "cp_conv_bound",
    "cp_linear",
    "depthwise",
    "kernel_to_tensor",
    "pointwise",
    "tensor_to_kernel",
]

# Smaller images share one matrix product, whatever it costs to put their pixels side by side.
_FEW_PIXELS = 512


def conv1d(
    x: ArrayLike,
    W: ArrayLike,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve signals, with one spatial axis, with a dense kernel.

    Parameters
    ----------
    x : array_like, shape (N, Cin, W)
        Signals.
    W : array_like, shape (Cout, Cin, kw)
        Kernel; it is not flipped.
    stride, padding, dilation, bias
        As in :func:`conv2d`, with one number per axis; two numbers of padding are (left, right).

    Returns
    -------
    ndarray, shape (N, Cout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        As in :func:`conv2d`.

    Notes
    -----
    Equation :eq:`conv-dense` with one spatial axis.

    **Laws**

    - *height-one*: it is :func:`conv2d` of images and kernels of height 1, and keeps its laws

    Examples
    --------
    >>> from qcp_ref import conv1d
    >>> conv1d([[[1, 2, 3]]], [[[10, 1]]], padding=(1, 0))
    array([[[ 1., 12., 23.]]])
    """
    return dense_conv(x, W, 1, stride=stride, padding=padding, dilation=dilation, bias=bias)


def conv2d(
    x: ArrayLike,
    W: ArrayLike,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve images, with two spatial axes, with a dense kernel.

    Parameters
    ----------
    x : array_like, shape (N, Cin, H, W)
        Images.
    W : array_like, shape (Cout, Cin, kh, kw)
        Kernel; it is not flipped.
    stride : int or (int, int)
        Step between positions, (height, width) or one number for both.
    padding : int, (int, int), (int, int, int, int), 'valid' or 'same'
        Zeros around the images: on all sides, (height, width), or (top, left, bottom, right).
        'valid' pads nothing; 'same' makes the output ``ceil(side / stride)`` long and puts the odd
        zero at the end.
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
        If an array is not finite and real, shapes, kernel size or options do not fit, or the type
        of the output cannot hold it.

    Notes
    -----
    Equation :eq:`conv-dense`; sizes :eq:`conv-size`, 'same' is :eq:`conv-same` [source: ONNX,
    SAME_UPPER]. Temporaries: the padded images and the patches of one block, at least those of one
    image and of one output row (with a single spatial axis: of one pixel).

    **Laws**

    - *sum*: it equals the sum over the kernel's entries, exactly where floats hold all sums (as of
      small integers), else within its rounding bound
    - *range*: the same holds for entries of any magnitude, in float32 and in float64
    - *dtype*: it is float32 if and only if all arrays hold float32 data, whatever made them
    - *linear*: up to rounding, like all that follows, it is linear in ``x`` and in ``W``
    - *apart*: no image depends on the other images, no output channel on the kernels of others
    - *shift*: shifting an image shifts the output, away from the border
    - *stride*: a stride picks from the output of stride 1
    - *dilation*: a dilation is a kernel with zeros in between
    - *padding*: padding is zeros written around the image
    - *same*: 'same' gives ``ceil(side / stride)`` outputs per axis, the odd zero at the end
    - *pointwise*: a 1x1 kernel is a matrix product at each pixel
    - *axes*: with the spatial axes of all arguments in another order, those of the output are, too
    - *adjoint*: it is adjoint to the scattering of its output
    - *blocks*: the size of the blocks does not show

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import conv2d
    >>> x = np.arange(9).reshape(1, 1, 3, 3)
    >>> conv2d(x, [[[[0, 1], [0, 0]]]])
    array([[[[1., 2.],
             [4., 5.]]]])
    """
    return dense_conv(x, W, 2, stride=stride, padding=padding, dilation=dilation, bias=bias)


def conv3d(
    x: ArrayLike,
    W: ArrayLike,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve volumes, with three spatial axes, with a dense kernel.

    Parameters
    ----------
    x : array_like, shape (N, Cin, D, H, W)
        Volumes.
    W : array_like, shape (Cout, Cin, kd, kh, kw)
        Kernel; it is not flipped.
    stride, padding, dilation, bias
        As in :func:`conv2d`, with three numbers, (depth, height, width), for two; six numbers of
        padding are (front, top, left, back, bottom, right).

    Returns
    -------
    ndarray, shape (N, Cout, Dout, Hout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        As in :func:`conv2d`.

    Notes
    -----
    Equation :eq:`conv-dense` with three spatial axes.

    **Laws**

    - *depth-one*: with volumes and kernels of depth 1 it is :func:`conv2d`, and keeps its laws

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import conv3d
    >>> conv3d(np.ones((1, 2, 3, 5, 4)), np.ones((6, 2, 3, 3, 3)), padding=(0, 1, 1)).shape
    (1, 6, 1, 5, 4)
    """
    return dense_conv(x, W, 3, stride=stride, padding=padding, dilation=dilation, bias=bias)


def pointwise(
    x: ArrayLike, A: ArrayLike, *, stride: Pair = 1, bias: ArrayLike | None = None
) -> Floats:
    """Convolve images with a 1x1 kernel: one matrix, applied to the channels of every pixel.

    Parameters
    ----------
    x : array_like, shape (N, Cin, H, W)
        Images; signals (N, Cin, W) and volumes (N, Cin, D, H, W) likewise.
    A : array_like, shape (Cout, Cin)
        The matrix.
    stride : int or one per spatial axis
        Step between the pixels that are used.
    bias : array_like, shape (Cout,), optional
        Added to each output channel.

    Returns
    -------
    ndarray, shape (N, Cout, Hout, Wout)
        With the axes of ``x``; in float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real, the shapes do not fit, or the type of the output cannot
        hold it.

    Notes
    -----
    Equation :eq:`conv-pointwise`.

    **Laws**

    - *dense*: it is the dense convolution with the matrix as 1x1 kernel
    - *range*: the same holds for entries of any magnitude

    Examples
    --------
    >>> from qcp_ref import pointwise
    >>> pointwise([[[[1, 2]], [[3, 4]]]], [[1, 10]])
    array([[[[31., 42.]]]])
    """
    x = check_axes(x, "x")
    A = check_array(A, "A", ndim=2, keep_float32=True)
    check_channels(x, A.shape[1], "A")
    x, A, b = same_dtype(x, A, check_bias(bias, len(A)))
    pixels = _pixels(x, window_axes(x.shape[2:], 1, stride, 0, 1))
    return _bilinear(_pointwise, pixels, A, b, "x, A, bias")


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

    Parameters
    ----------
    x : array_like, shape (N, R, H, W)
        Images; signals (N, R, W) and volumes (N, R, D, H, W) likewise.
    C : array_like, shape (kh kw, R)
        One filter per column, the width index running fastest: a factor ``a_kernel``.
    kernel_size : int or one per spatial axis
        Height and width (kh, kw) of the filters.
    stride, padding, dilation
        As in :func:`conv2d`.

    Returns
    -------
    ndarray, shape (N, R, Hout, Wout)
        With the axes of ``x``; in float32 if both arrays are float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real, shapes, filter size or options do not fit, or the type
        of the output cannot hold it.

    Notes
    -----
    Equation :eq:`conv-depthwise`.

    **Laws**

    - *dense*: it is the dense convolution with a kernel that is zero between different channels
    - *range*: the same holds for entries of any magnitude

    Examples
    --------
    >>> from qcp_ref import depthwise
    >>> depthwise([[[[1, 2, 3]], [[4, 5, 6]]]], [[1, 0], [1, 1]], kernel_size=(1, 2))
    array([[[[3., 5.]],
    <BLANKLINE>
            [[5., 6.]]]])
    """
    x = check_axes(x, "x")
    C = check_array(C, "C", ndim=2, keep_float32=True)
    axes = window_axes(x.shape[2:], kernel_size, stride, padding, dilation)
    expected = (prod(a.kernel for a in axes), x.shape[1])
    if C.shape != expected:
        need = f"{expected} (kernel entries, channels of x)"
        raise ValueError(f"C: expected shape {need}, got {C.shape}")
    x, C = same_dtype(x, C)

    def core(x: Floats, C: Floats) -> Floats:
        y = np.empty((*x.shape[:2], *(a.out for a in axes)), x.dtype)
        for images in image_blocks(len(x), padded_bytes(x, C, axes)):
            y[images] = depthwise_plain(x[images], C, axes)
        return y

    return _bilinear(core, x, C, np.zeros(x.shape[1], x.dtype), "x, C")


def cp_conv1d(
    x: ArrayLike,
    cp: CP,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve signals, with one spatial axis, with a kernel that is a CP tensor.

    Parameters
    ----------
    x : array_like, shape (N, Cin, W)
        Signals.
    cp : CP
        Factors ``a_out`` (Cout, R), ``a_in`` (Cin, R), ``a_kernel`` (kw, R); the last one may be
        left out for a kernel of one entry.
    kernel_size : int or (int,)
        Width kw of the kernel.
    stride, padding, dilation, bias
        As in :func:`conv1d`.

    Returns
    -------
    ndarray, shape (N, Cout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        As in :func:`cp_conv2d`.

    Notes
    -----
    Equation :eq:`conv-cp` with one spatial axis; all else as in :func:`cp_conv2d`.

    **Laws**

    - *height-one*: it is :func:`cp_conv2d` of images and kernels of height 1, and keeps its laws

    Examples
    --------
    >>> from qcp_ref import CP, cp_conv1d
    >>> cp_conv1d([[[1, 2, 3]]], CP([[[2]], [[5]], [[1], [-1]]]), kernel_size=2)
    array([[[-10., -10.]]])
    """
    return three_stages(
        x, cp, 1, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=bias
    )


def cp_conv2d(
    x: ArrayLike,
    cp: CP,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve images, with two spatial axes, with a kernel that is a CP tensor, in three stages.

    Parameters
    ----------
    x : array_like, shape (N, Cin, H, W)
        Images.
    cp : CP
        Factors ``a_out`` (Cout, R), ``a_in`` (Cin, R), ``a_kernel`` (kh kw, R); the last one may be
        given as two, (kh, R) and (kw, R), and left out for a 1x1 kernel.
    kernel_size : int or (int, int)
        Height and width (kh, kw) of the kernel.
    stride, padding, dilation, bias
        As in :func:`conv2d`.

    Returns
    -------
    ndarray, shape (N, Cout, Hout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real, shapes, kernel size or options do not fit, or the type
        of the output cannot hold it.

    Notes
    -----
    Equation :eq:`conv-cp`; the weights of the components enter with the depthwise stage. Stride,
    padding and dilation belong to that stage, too; with two factors there is none, and the first
    takes its place.
    Temporaries: a few times the R channels of one block, at least those of one image.

    **Laws**

    - *dense*: it is the dense convolution with the reconstructed kernel, exactly where floats hold
      all sums (as of small integers), else within :func:`cp_conv_bound`
    - *loops*: it equals the three stages as index loops, within its rounding bound
    - *range*: the same holds for entries of any magnitude, in float32 and in float64
    - *blocks*: up to rounding, the size of the blocks does not show

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import conv2d, cp_conv2d, random_cp, reconstruct, tensor_to_kernel
    >>> cp = random_cp((5, 4, 9), 3, rng=0)
    >>> W = tensor_to_kernel(reconstruct(cp), (3, 3))
    >>> x = np.ones((1, 4, 6, 7))
    >>> np.allclose(cp_conv2d(x, cp, kernel_size=3, stride=2), conv2d(x, W, stride=2))
    True
    """
    return three_stages(
        x, cp, 2, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=bias
    )


def cp_conv3d(
    x: ArrayLike,
    cp: CP,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve volumes, with three spatial axes, with a kernel that is a CP tensor.

    Parameters
    ----------
    x : array_like, shape (N, Cin, D, H, W)
        Volumes.
    cp : CP
        Factors ``a_out`` (Cout, R), ``a_in`` (Cin, R), ``a_kernel`` (kd kh kw, R); the last one may
        be given as three, (kd, R), (kh, R) and (kw, R), and left out for a kernel of one entry.
    kernel_size : int or (int, int, int)
        Depth, height and width (kd, kh, kw) of the kernel.
    stride, padding, dilation, bias
        As in :func:`conv3d`.

    Returns
    -------
    ndarray, shape (N, Cout, Dout, Hout, Wout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        As in :func:`cp_conv2d`.

    Notes
    -----
    Equation :eq:`conv-cp` with three spatial axes; all else as in :func:`cp_conv2d`.

    **Laws**

    - *depth-one*: with volumes and kernels of depth 1 it is :func:`cp_conv2d`, and keeps its laws

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import conv3d, cp_conv3d, random_cp, reconstruct
    >>> cp = random_cp((5, 4, 3, 2, 2), 3, rng=0)
    >>> x = np.ones((1, 4, 6, 7, 5))
    >>> np.allclose(cp_conv3d(x, cp, kernel_size=(3, 2, 2)), conv3d(x, reconstruct(cp)))
    True
    """
    return three_stages(
        x, cp, 3, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=bias
    )


def cp_conv_bound(
    x: ArrayLike,
    cp: CP,
    *,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Array:
    """Bound how far rounding separates the factorized layer from the dense one.

    Parameters
    ----------
    x, cp, kernel_size, stride, padding, dilation, bias
        As in :func:`cp_conv1d`, :func:`cp_conv2d` or :func:`cp_conv3d`, by the axes of ``x``.

    Returns
    -------
    ndarray of float64, shape (N, Cout, Hout, Wout)
        With the axes of ``x``; bound on the difference between :func:`cp_conv2d` and :func:`conv2d`
        (or those of other axes) with the reconstructed kernel, if both run in the precision of
        these arrays.

    Raises
    ------
    TypeError, ValueError
        As in :func:`cp_conv2d`, and for sums too long for any bound to exist.

    Notes
    -----
    Equation :eq:`conv-bound` [derived].

    **Laws**

    - *bound*: the two layers differ by no more, in float32 and in float64

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import CP, cp_conv_bound
    >>> cp = CP([[[1.0]], [[1.0]], [[1.0]]])
    >>> bool(cp_conv_bound(np.ones((1, 1, 2, 2)), cp, kernel_size=1).max() < 1e-14)
    True
    """
    x = check_axes(x, "x")
    check_cp(cp, "cp")
    b = check_bias(bias, cp.shape[0])
    dtype = same_dtype(x, cp.weights, b)[0].dtype
    absolute = CP([np.abs(A, dtype=np.float64) for A in cp.factors], np.abs(cp.weights))
    magnitude = three_stages(
        np.abs(x),
        absolute,
        x.ndim - 2,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=np.abs(b),
    )
    d, entries = len(cp.shape), prod(cp.shape[2:])
    stages = [cp.shape[1], entries, cp.rank, d, 1]
    dense = [cp.rank, d, cp.shape[1] * entries, 1]
    # |stages - dense| <= gamma_m M, m the sum of these lengths  :eq:`conv-bound`
    return rounding_bound([*stages, *dense], magnitude, dtype=dtype)


def cp_linear(x: ArrayLike, cp: CP, *, bias: ArrayLike | None = None) -> Floats:
    """Apply a linear layer whose matrix is a CP tensor with two factors.

    Parameters
    ----------
    x : array_like, shape (..., Cin)
        Inputs, one per row.
    cp : CP
        Factors ``a_out`` (Cout, R) and ``a_in`` (Cin, R); the weights of the components enter with
        ``a_in``.
    bias : array_like, shape (Cout,), optional
        Added to each output.

    Returns
    -------
    ndarray, shape (..., Cout)
        In float32 if every array is float32, else in float64.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real, the shapes do not fit, or the type of the output cannot
        hold it.

    Notes
    -----
    Equation :eq:`conv-cp` for images of one pixel.

    **Laws**

    - *one-pixel*: it is :func:`cp_conv2d` with a 1x1 kernel on images of one pixel
    - *range*: the same holds for entries of any magnitude

    Examples
    --------
    >>> from qcp_ref import CP, cp_linear
    >>> cp_linear([1, 2], CP([[[1], [10]], [[3], [4]]]), bias=[0.5, 0])
    array([ 11.5, 110. ])
    """
    x = check_array(x, "x", min_ndim=1, keep_float32=True)
    check_cp(cp, "cp")
    if len(cp.shape) != 2 or x.shape[-1] != cp.shape[1]:
        shapes = f"{x.shape} and {cp.shape}"
        raise ValueError(f"x, cp: expected shapes (..., Cin) and (Cout, Cin), got {shapes}")
    b = check_bias(bias, cp.shape[0])
    x, a_out, a_in, w, b = arrays = same_dtype(x, *cp.factors, cp.weights, b)
    spans = [*map(span, arrays[:-1]), (0, span(b)[1])]
    if fits(*spans, dtype=x.dtype):
        return np.asarray(x @ (a_in * w) @ a_out.T + b)
    pixels = [x.reshape(-1, x.shape[-1], 1), *arrays[1:]]  # images of one pixel
    y = _cp_layer(pixels, window_axes((1,), 1, 1, 0, 1))
    return y.reshape(*x.shape[:-1], len(a_out))


def kernel_to_tensor(W: ArrayLike) -> Floats:
    """Write a kernel as the tensor that is factorized.

    Parameters
    ----------
    W : array_like, shape (Cout, Cin, kh, kw)
        Kernel; those of signals (Cout, Cin, kw) and of volumes (Cout, Cin, kd, kh, kw) likewise.

    Returns
    -------
    ndarray, shape (Cout, Cin, kh kw) or, for a 1x1 kernel, (Cout, Cin)
        The tensor; the width index runs fastest. float32 is kept. Always a copy.

    Raises
    ------
    TypeError, ValueError
        If ``W`` is not a finite real array with three to five axes.

    Notes
    -----
    Equation :eq:`conv-tensor` [authors' code].

    **Laws**

    - *place*: each entry sits where the index formula puts it
    - *inverse*: :func:`tensor_to_kernel` with the sides of the kernel inverts it

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import kernel_to_tensor
    >>> kernel_to_tensor(np.arange(12).reshape(2, 1, 3, 2))[1]
    array([[ 6.,  7.,  8.,  9., 10., 11.]])
    """
    W = check_axes(W, "W")
    # X[o, c, k] = W[o, c, i, j] with k = i kw + j  :eq:`conv-tensor`
    return np.array(W, order="C").reshape(*W.shape[:2], *([-1] if prod(W.shape[2:]) > 1 else []))


def tensor_to_kernel(X: ArrayLike, kernel_size: Pair) -> Floats:
    """Write a tensor as the kernel that it stands for.

    Parameters
    ----------
    X : array_like, shape (Cout, Cin, kh kw), (Cout, Cin, kh, kw) or, for a 1x1 kernel, (Cout, Cin)
        Tensor.
    kernel_size : int or one to three ints
        Sides of the kernel: (kw,), (kh, kw) or (kd, kh, kw). One number is that of a square.

    Returns
    -------
    ndarray, shape (Cout, Cin) and the sides of the kernel
        The kernel. float32 is kept. Always a copy.

    Raises
    ------
    TypeError, ValueError
        If ``X`` is not a finite real array or the size does not fit it.

    Notes
    -----
    The inverse of :eq:`conv-tensor`.

    **Laws**

    - *inverse*: of the tensor of a kernel it makes this kernel, whatever the tensor's modes

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import tensor_to_kernel
    >>> tensor_to_kernel(np.arange(12).reshape(2, 1, 6), (3, 2)).shape
    (2, 1, 3, 2)
    """
    X = check_array(X, "X", min_ndim=2, keep_float32=True)
    size = check_int_or_ints(kernel_size, "kernel_size", minimum=1, cap=FARTHEST)
    size = size * 2 if is_one_int(kernel_size) else size
    if not 1 <= len(size) <= 3:
        raise ValueError(f"kernel_size: expected 1 to 3 integers, got {shown(kernel_size)}")
    check_spatial(X.shape, size, "X")
    return np.array(X, order="C").reshape(*X.shape[:2], *size)


def dense_conv(
    x: ArrayLike,
    W: ArrayLike,
    d: int,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve with a dense kernel over ``d`` spatial axes."""
    x = check_array(x, "x", ndim=d + 2, keep_float32=True)
    W = check_array(W, "W", ndim=d + 2, keep_float32=True)
    check_channels(x, W.shape[1], "W")
    axes = window_axes(x.shape[2:], W.shape[2:], stride, padding, dilation)
    x, W, b = same_dtype(x, W, check_bias(bias, len(W)))
    return _bilinear(lambda x, W: _dense(x, W, axes), x, W, b, "x, W, bias")


def _dense(x: Floats, W: Floats, axes: Sequence["Axis"]) -> Floats:
    """Multiply the kernel, as a matrix, by the patches under it."""
    # y[n, o, u] = sum_{c, i} W[o, c, i] x[n, c, u s + i d - t]  :eq:`conv-dense`
    matrix = W.reshape(len(W), -1)  # (Cout, Cin kh kw)
    out = tuple(a.out for a in axes)
    y = np.empty((len(x), len(W), prod(out)), x.dtype)
    for images, positions, columns in window_patches(x, axes):
        np.matmul(
            matrix, columns, out=y[images, :, positions]
        )  # columns: (n, Cin kh kw, positions)
    return y.reshape(len(x), len(W), *out)


def _bilinear(
    core: Callable[[Floats, Floats], Floats], x: Floats, A: Floats, b: Floats, names: str
) -> Floats:
    """Apply a function that is linear in both arguments, and add a bias, in range."""
    spans, offset = (span(x), span(A)), (0, span(b)[1])
    if fits(*spans, offset, dtype=x.dtype):
        return _add_bias(core(x, A), b)
    if x.dtype == np.float32:  # whose products float64 holds
        x64, A64, b64 = (a.astype(np.float64) for a in (x, A, b))
        return finite(_add_bias(core(x64, A64), b64), names, x.dtype)
    y = bilinear(core, wide(x), wide(A))
    return narrow(plus(y, _wide_channels(wide(b), y)), names, x.dtype)


def _wide_channels(a: Wide, y: Wide) -> Wide:
    """Shape numbers so that there is one per channel."""
    return a.of(lambda values: _per_channel(values, y.mantissa))


def three_stages(
    x: ArrayLike,
    cp: CP,
    d: int,
    kernel_size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
) -> Floats:
    """Convolve with a kernel that is a CP tensor over ``d`` spatial axes."""
    x = check_array(x, "x", ndim=d + 2, keep_float32=True)
    check_cp(cp, "cp")
    axes = window_axes(x.shape[2:], kernel_size, stride, padding, dilation)
    check_spatial(cp.shape, tuple(a.kernel for a in axes), "cp")
    check_channels(x, cp.shape[1], "cp")
    b = check_bias(bias, cp.shape[0])
    return _cp_layer(same_dtype(x, *cp.factors, cp.weights, b), axes)


def _cp_layer(arrays: Sequence[Floats], axes: Sequence["Axis"]) -> Floats:
    """Run the stages on images, factors, weights and bias, in range."""
    dtype, names = arrays[0].dtype, "x, cp, bias"
    spans = [*map(span, arrays[:-1]), (0, span(arrays[-1])[1])]
    if fits(*spans, dtype=dtype):
        return _stages(arrays, axes)
    if fits(*spans):  # float32 data
        return finite(_stages([a.astype(np.float64) for a in arrays], axes), names, dtype)
    return narrow(_wide_stages([wide(a) for a in arrays], axes), names, dtype)


def _stages(arrays: Sequence[Floats], axes: Sequence["Axis"]) -> Floats:
    """Run the three stages :eq:`conv-cp` on images, factors, component weights and bias."""
    x, a_out, a_in, *rest, w, b = arrays
    a_kernel = (khatri_rao_core(rest, len(w)) * w).astype(x.dtype)  # w[r] C[k, r], (kh kw, R)
    y = np.empty((len(x), len(a_out), *(a.out for a in axes)), x.dtype)
    for images in image_blocks(len(x), x.itemsize * len(w) * prod(x.shape[2:])):
        if rest:
            # z[n, r, p] = sum_c B[c, r] x[n, c, p]
            z = _pointwise(x[images], a_in.T, innermost=True)  # (n, R, H, W)
            # z'[n, r, u] = sum_i w[r] C[k(i), r] z[n, r, u s + i d - t]
            z = _depthwise_innermost(z, a_kernel, axes)  # (n, R, Hout, Wout)
        else:
            z = _pointwise(_pixels(x[images], axes), (a_in * a_kernel).T, innermost=True)
        y[images] = _pointwise(z, a_out)  # y[n, o, u] = b[o] + sum_r A[o, r] z'[n, r, u]
    return _add_bias(y, b)


def _wide_stages(arrays: Sequence[Wide], axes: Sequence["Axis"]) -> Wide:
    """Do the same with mantissas and exponents apart."""
    x, a_out, a_in, *rest, w, b = arrays
    a_kernel = wide_khatri_rao([w.of(lambda x: x[None]), *rest])
    if rest:
        z = bilinear(_pointwise, x, a_in.of(np.transpose))
        z = bilinear(lambda z, C: depthwise_plain(z, C, axes), z, a_kernel)
    else:
        z = bilinear(_pointwise, x.of(lambda x: _pixels(x, axes)), times(a_in, w).of(np.transpose))
    y = bilinear(_pointwise, z, a_out)
    return plus(y, _wide_channels(b, y))


def _pixels(x: Floats, axes: Sequence[Axis]) -> Floats:
    """View the pixels of the padded images that a 1x1 kernel meets."""
    windows = axis_windows(x, axes)
    return windows.reshape(windows.shape[: x.ndim])


def _pointwise(x: Floats, A: Floats, *, innermost: bool = False) -> Floats:
    """Multiply the channels by a matrix; on request they come out ``innermost`` in memory.

    y[n, o, u] = sum_c A[o, c] x[n, c, u]  :eq:`conv-pointwise`
    """
    pixels = x.reshape(*x.shape[:2], -1)
    rows = pixels.transpose(0, 2, 1)
    if len(x) > 1 and rows.shape[1] < _FEW_PIXELS:  # one product for all images
        y = np.ascontiguousarray(rows).reshape(-1, x.shape[1]) @ A.T
        y = y.reshape(len(x), -1, len(A)).transpose(0, 2, 1)
    else:
        y = np.matmul(rows, A.T).transpose(0, 2, 1) if innermost else A @ pixels
    return y.reshape(len(x), len(A), *x.shape[2:])


def depthwise_plain(x: Floats, C: Floats, axes: Sequence[Axis]) -> Floats:
    """Add up one entry of all filters after the other, in the memory order of ``x``.

    y[n, r, u] = sum_i C[k(i), r] x[n, r, u s + i d - t]  :eq:`conv-depthwise`
    """
    windows = axis_windows(x, axes)
    y = np.zeros_like(x, shape=windows.shape[: x.ndim])
    term = np.empty_like(y)
    for entry, index in zip(C, np.ndindex(windows.shape[x.ndim :]), strict=True):
        y += np.multiply(windows[(..., *index)], _per_channel(entry, y), out=term)
    return y


def _depthwise_innermost(x: Floats, C: Floats, axes: Sequence[Axis]) -> Floats:
    """Do the same for channels that are innermost in memory, with all entries in one pass.

    The bits are the same, so that the pass per entry takes its place where no kernel runs.
    """
    if not can_compile():
        return depthwise_plain(x, C, axes)
    pixels = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    out = tuple(a.out for a in axes)
    y = np.zeros((len(x), prod(out), x.shape[1]), x.dtype)
    gather(pixels, C, axis_sources(tuple(axes)), y)
    return y.transpose(0, 2, 1).reshape(*x.shape[:2], *out)


def _per_channel(values: Floats, y: Floats) -> Floats:
    return values.reshape(-1, *[1] * (y.ndim - 2))


def _add_bias(y: Floats, bias: Floats) -> Floats:
    if bias.any():
        y += _per_channel(bias, y)
    return y


def same_dtype(*arrays: Floats) -> list[Floats]:
    """Return the arrays in the type that holds all of them: float32 or float64."""
    dtype = np.result_type(*arrays)
    return [array.astype(dtype, copy=False) for array in arrays]


def check_channels(x: Floats, channels: int, name: str) -> None:
    """Refuse images whose channels the kernel does not have."""
    if x.shape[1] != channels:
        raise ValueError(
            f"x: expected {channels} channels on axis 1 (as {name} has), got {x.shape[1]}; "
            "grouped kernels are not supported, write them as a dense kernel with zeros"
        )
