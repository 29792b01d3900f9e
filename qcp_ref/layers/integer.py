r"""What does the layer compute in integers? Accumulators, requantization, zero points.

Activations are codes of 8 bits or fewer with a zero point, weights are codes of at most 8 bits that
are symmetric, with zero point 0, unless another one is given. A stage subtracts the zero points of
input and weights, multiplies and adds up in integers :eq:`integer-accumulator`, so that a padded
position, which holds the zero point, contributes nothing. How large an accumulator can become is
known from the weights alone :eq:`integer-bound`; a stage that might leave int32 is refused before
it runs.

Requantization takes the accumulators to the codes of the next stage: by a real multiplier, rounded
once :eq:`integer-exact`, by the same in float32 :eq:`integer-float32`, or by one of the two
fixed-point rules that devices use :eq:`integer-single`, :eq:`integer-double`. The three stages of
:eq:`conv-cp` with requantization in between are the whole layer :eq:`integer-layer`; its distance
to the layer in real numbers is bounded by :eq:`integer-error`.

The integer sums run through the convolutions of :mod:`qcp_ref.layers.conv` in float64. That is
exact: all partial sums are integers, and stay far below 2**53.

Simplified: one zero point and one scale per activation array, none per channel.

Checked by tests/layers/test_integer.py.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    check_array,
    check_flag,
    check_geometry,
    check_int,
    check_int_or_ints,
    check_integers,
    check_ints,
    check_option,
    check_sequence,
    is_one_int,
)
from qcp_ref._door import as_array, shown
from qcp_ref._results import frozen
from qcp_ref._wide import Wide, narrow, over, times, wide
from qcp_ref.factors.quantized import QuantizedCP
from qcp_ref.grids.grid import Grid, Scale, check_grid, check_spread, quantize
from qcp_ref.layers.conv import dense_conv, depthwise, pointwise
from qcp_ref.layers.geometry import INT32, Padding, Pair, check_axes, check_bias, check_whole

__all__ = [
    "IntegerCP",
    "accumulator_bound",
    "fixed_point",
    "int_conv",
    "int_linear",
    "integer_cp",
    "requantize",
]

# All integers in one wide type; what leaves a function has the type that a device would store.
Integers = NDArray[np.signedinteger[Any]]

MODES = ("exact", "float32", "single", "double")
_LARGEST_MULTIPLIER = 2.0**29  # its shift is 30, the largest one of the fixed-point rules


def accumulator_bound(
    W: ArrayLike,
    grid: Grid,
    *,
    zero_point: int = 0,
    bias: ArrayLike | None = None,
    weight_zero_point: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Bound the accumulators of a stage, over all inputs and all orders of summation.

    Parameters
    ----------
    W : array_like of int, shape (Cout, ...)
        Weight codes; all that belong to one output channel stand behind its index.
    grid : Grid
        The codes of the input.
    zero_point : int
        The input's code of zero.
    bias : array_like of int, shape (Cout,), optional
        Where the sum starts, or what is added to it.
    weight_zero_point : array_like of int, optional
        As in :func:`int_conv`.

    Returns
    -------
    ndarray of int64, shape (Cout,)
        The largest magnitude that any partial sum can have.

    Raises
    ------
    TypeError, ValueError
        If the weights are no integers of 8 bits, or grid, zero point and bias do not fit.

    Notes
    -----
    Equation :eq:`integer-bound` [derived].

    **Laws**

    - *attained*: no partial sum exceeds it, in any order; some input attains it
    - *simple*: it is at most the sum of ``|w|`` times the largest ``|x - z|``, plus ``|b|``

    Examples
    --------
    >>> from qcp_ref import Grid, accumulator_bound
    >>> accumulator_bound([[1, -1], [127, 127]], Grid(8), zero_point=-128).tolist()
    [255, 64770]
    """
    W = _centred(W, weight_zero_point)
    grid = _check_activations(grid)
    z = _check_one_zero(zero_point, grid)
    b = check_bias(bias, len(W), whole=True)
    # B[o] = max(max(b[o], 0) + sum_i max_q (W[o, i] - w[o]) (q - z),
    #            -min(b[o], 0) - sum_i min_q (W[o, i] - w[o]) (q - z))  :eq:`integer-bound`
    # The zero point lies in the range, so the ends have different signs and each term of these
    # sums is at least 0: leaving some out, as partial sums and padding do, makes no sum larger.
    ends = [(W * (q - z)).reshape(len(W), -1) for q in (grid.qmin, grid.qmax)]
    upper = np.maximum(*ends).sum(axis=1) + np.maximum(b, 0)
    lower = np.minimum(*ends).sum(axis=1) + np.minimum(b, 0)
    return np.asarray(np.maximum(upper, -lower))


def int_conv(
    x: ArrayLike,
    W: ArrayLike,
    *,
    zero_point: int = 0,
    bias: ArrayLike | None = None,
    weight_zero_point: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> NDArray[np.int32]:
    """Convolve codes with a dense kernel of codes; return the accumulators.

    Parameters
    ----------
    x : ndarray of uint8 or int8, shape (N, Cin, H, W)
        Codes of the images; with one or three spatial axes likewise.
    W : array_like of int, shape (Cout, Cin, kh, kw)
        Codes of the kernel, from -128 to 127, with zero point 0.
    zero_point : int
        The code of zero in ``x``; it is also what images are padded with.
    bias : array_like of int, shape (Cout,), optional
        Added to each output channel.
    weight_zero_point : array_like of int, optional
        The code of zero in ``W``, one number or one per output channel. With it, 0 included, codes
        of ``W`` may also be those of uint8: all of them and it from -128 to 127, or from 0 to 255.
    stride, padding, dilation
        As in :func:`qcp_ref.layers.conv.conv2d`.

    Returns
    -------
    ndarray of int32, shape (N, Cout, Hout, Wout)
        The accumulators.

    Raises
    ------
    TypeError, ValueError
        If types, ranges, shapes or options do not fit, or an accumulator might leave int32.

    Notes
    -----
    Equation :eq:`integer-accumulator` [source: ONNX ConvInteger].

    **Laws**

    - *dense*: it is the dense convolution of ``x - zero_point`` with zeros around it, exactly
    - *weights*: with a zero point of the weights it is what it is for ``W`` less that
    - *refusal*: it refuses if and only if the magnitude of some partial sum might exceed
      ``2**31 - 1``, for any codes that the type of ``x`` has

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import int_conv
    >>> x = np.array([[[[7, 9]]]], dtype=np.uint8)
    >>> int_conv(x, [[[[1, 10]]]], zero_point=7, padding=(0, 1))
    array([[[[ 0, 20,  2]]]], dtype=int32)
    """
    v, W, b = int_operands(x, W, zero_point, bias, weight_zero_point)
    check_axes(v, "x")
    acc = dense_conv(
        v, W, v.ndim - 2, stride=stride, padding=padding, dilation=dilation, bias=b
    )  # a[o] = b[o] + sum_i (W[o, i] - w[o]) (x[i] - z)  :eq:`integer-accumulator`
    return acc.astype(np.int32)


def int_linear(
    x: ArrayLike,
    W: ArrayLike,
    *,
    zero_point: int = 0,
    bias: ArrayLike | None = None,
    weight_zero_point: ArrayLike | None = None,
) -> NDArray[np.int32]:
    """Multiply codes by a matrix of codes; return the accumulators.

    Parameters
    ----------
    x : ndarray of uint8 or int8, shape (..., Cin)
        Codes of the inputs.
    W : array_like of int, shape (Cout, Cin)
        Codes of the matrix, from -128 to 127, with zero point 0.
    zero_point : int
        The code of zero in ``x``.
    bias : array_like of int, shape (Cout,), optional
        Added to each output.
    weight_zero_point : array_like of int, optional
        As in :func:`int_conv`.

    Returns
    -------
    ndarray of int32, shape (..., Cout)
        The accumulators.

    Raises
    ------
    TypeError, ValueError
        If types, ranges or shapes do not fit, or an accumulator might leave int32.

    Notes
    -----
    Equation :eq:`integer-accumulator` for images of one pixel [source: ONNX MatMulInteger].

    **Laws**

    - *one-pixel*: it is :func:`int_conv` with a 1x1 kernel on images of one pixel

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import int_linear
    >>> int_linear(np.array([3, 4], dtype=np.int8), [[1, 10]], zero_point=3, bias=[5])
    array([15], dtype=int32)
    """
    v, W, b = int_operands(x, W, zero_point, bias, weight_zero_point)
    if W.ndim != 2 or v.ndim == 0 or v.shape[-1] != W.shape[1]:
        raise ValueError(
            f"x, W: expected shapes (..., Cin) and (Cout, Cin), got {v.shape} and {W.shape}"
        )
    return np.asarray(v @ W.T + b).astype(np.int32)


def fixed_point(multiplier: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write multipliers as ``m * 2**(shift - 31)`` with integers ``m`` of 31 bits.

    Parameters
    ----------
    multiplier : array_like
        Positive numbers up to 2**29.

    Returns
    -------
    m : ndarray of int64
        From 2**30 to 2**31 - 1, with the shape of the multipliers; 0 where one is too small to
        matter.
    shift : ndarray of int64
        From -31 to 30, likewise.

    Raises
    ------
    TypeError, ValueError
        If the multipliers are no such numbers.

    Notes
    -----
    Equation :eq:`integer-fixed` [source: TFLite QuantizeMultiplier].

    **Laws**

    - *nearest*: where ``m`` is not 0, the relative error is at most 2**-31, and 0 for powers of two
    - *vanishing*: where ``m`` is 0, no 32-bit accumulator is requantized to anything but the zero
      point, in any mode

    Examples
    --------
    >>> from qcp_ref import fixed_point
    >>> [part.tolist() for part in fixed_point([0.25, 0.3])]
    [[1073741824, 1288490189], [-1, -1]]
    """
    M = check_multiplier(multiplier)
    fraction, shift = np.frexp(M)
    # m = floor(2^(31 - e) M + 1/2) with 2^(e - 1) <= M < 2^e  :eq:`integer-fixed`
    # Exact before the floor: fraction * 2**31 has 31 bits in front of the point and 22 behind it.
    m = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    carry = m == 2**31
    m, shift = np.where(carry, 2**30, m), shift.astype(np.int64) + carry
    vanishes = shift < -31
    return np.where(vanishes, 0, m), np.where(vanishes, 0, shift)


def requantize(
    acc: ArrayLike, multiplier: ArrayLike, zero_point: int, grid: Grid, *, mode: str = "exact"
) -> NDArray[np.integer[Any]]:
    """Take accumulators to codes.

    Parameters
    ----------
    acc : array_like of int
        Accumulators, within int32.
    multiplier : array_like
        Input scale times weight scale over output scale, up to 2**29; one number, or an array with
        all axes of ``acc``, each side that of ``acc`` or 1.
    zero_point : int
        The output's code of zero.
    grid : Grid
        The codes of the output.
    mode : {'exact', 'float32', 'single', 'double'}
        One rounding of the product with the real multiplier, to nearest, ties to even; the same of
        the product in float32; or the fixed-point multiplier with one rounding, ties upwards, or
        with two.

    Returns
    -------
    ndarray
        Codes of the grid, with the shape of ``acc``.

    Raises
    ------
    TypeError, ValueError
        If accumulators, multipliers, zero point or grid do not fit.

    Notes
    -----
    Equations :eq:`integer-exact`, :eq:`integer-float32` [source: ONNX Runtime, QLinearConv],
    :eq:`integer-single` [source: TFLite built for single rounding, CMSIS-NN, XNNPACK] and
    :eq:`integer-double` [source: gemmlowp, TFLite]. All modes end in
    :func:`qcp_ref.grids.grid.quantize`, which adds the zero point, clips and casts.

    **Laws**

    - *exact*: 'exact' is the correctly rounded product, clipped, unless that lies within a relative
      2**-53 of a tie
    - *float32*: 'float32' is 'exact' where accumulator, multiplier and product have at most 24
      significant bits; multipliers with the same float32 give the same codes
    - *one-code*: the other modes differ from 'exact' by at most one code; each pair differs
      somewhere
    - *monotone*: a larger ``acc`` never has a smaller code
    - *power-of-two*: with a power of two as multiplier 'exact' rounds ties to even and 'single'
      upwards; 'double' first rounds to a multiple of twice the multiplier, if that is at most 1,
      ties upwards, and then to an integer, ties away from zero

    Examples
    --------
    >>> from qcp_ref import Grid, requantize
    >>> [requantize([-6, -2, 2, 6], 0.25, 0, Grid(8), mode=m).tolist()
    ...  for m in ("exact", "single", "double")]
    [[-2, 0, 0, 2], [-1, 0, 1, 2], [-2, -1, 1, 2]]
    """
    a = check_whole(acc, "acc", INT32.min, INT32.max)
    M = check_spread(check_multiplier(multiplier), "multiplier", a.shape)
    z = _check_one_zero(zero_point, _check_activations(grid))
    if check_option(mode, "mode", MODES) == "exact":
        return quantize(a * M, grid, 1.0, z)  # k = round(fl(M a))  :eq:`integer-exact`
    if mode == "float32":
        # k = round(fl32(fl32(M) fl32(a)))  :eq:`integer-float32`
        with np.errstate(under="ignore"):  # what becomes 0 here has the code of zero anyway
            return quantize(a.astype(np.float32) * M.astype(np.float32), grid, 1.0, z)
    m, shift = fixed_point(M)
    rounded = _single(a, m, shift) if mode == "single" else _double(a, m, shift)
    return quantize(np.clip(rounded, INT32.min, INT32.max), grid, 1.0, z)


@frozen
@dataclass(frozen=True, eq=False)
class IntegerCP:
    """A factorized layer that runs in integers; :func:`integer_cp` makes it.

    Parameters
    ----------
    weights : tuple of integer ndarray
        Codes of the stages in the order in which they run: ``a_in`` transposed (R, Cin), for a
        kernel larger than 1x1 ``a_kernel`` (kh kw, R), and ``a_out`` (Cout, R).
    multipliers : tuple of ndarray of float64
        Per stage, one number or one for each of its output channels.
    bias : ndarray of int64, shape (Cout,)
        Added to the last accumulators.
    zero_points : tuple of int
        Of the input and of the output of every stage.
    grid : Grid
        The codes of all activations.
    kernel_size, stride, padding, dilation
        Of the depthwise stage, or of the first one if there are two.
    relu : bool
        Clamp the output at its zero point.
    mode : {'exact', 'float32', 'single', 'double'}
        How accumulators are requantized, see :func:`requantize`.

    Raises
    ------
    TypeError, ValueError
        If an accumulator of some stage might leave int32.

    Notes
    -----
    Equation :eq:`integer-layer`. The arrays are copies and cannot be written.
    """

    weights: tuple[Integers, ...]
    multipliers: tuple[Array, ...]
    bias: NDArray[np.int64]
    zero_points: tuple[int, ...]
    grid: Grid
    _: KW_ONLY
    kernel_size: Pair = 1
    stride: Pair = 1
    padding: Padding = 0
    dilation: Pair = 1
    relu: bool = False
    mode: str = "exact"

    def __post_init__(self) -> None:
        """Check the parts; prove that the accumulators of every stage fit."""
        for name, value in _checked_parts(self).items():
            object.__setattr__(self, name, value)
        last = len(self.weights) - 1
        for n, W in enumerate(self.weights):
            channels, bias = W.T if 0 < n < last else W, self.bias if n == last else None
            z = self.zero_points[n]
            _prove(
                accumulator_bound(channels, self.grid, zero_point=z, bias=bias),
                f"weights[{n}]: stage {n}, ",
            )

    def forward(self, x: ArrayLike) -> NDArray[np.integer[Any]]:
        """Run the layer on codes (N, Cin, H, W), or (N, Cin) if there are two plain stages."""
        codes = check_whole(x, "x", self.grid.qmin, self.grid.qmax)
        last = len(self.weights) - 1
        geometry: Any = {n: getattr(self, n) for n in ("stride", "padding", "dilation")}
        linear = codes.ndim == 2 and last == 1 and (*geometry.values(),) == (1, 0, 1)
        codes = codes[..., None] if linear else codes
        check_axes(codes, "x")
        for n, (W, M) in enumerate(zip(self.weights, self.multipliers, strict=True)):
            v = (codes - self.zero_points[n]).astype(np.float64)
            if 0 < n < last:
                acc = depthwise(v, W, kernel_size=self.kernel_size, **geometry)
            elif n < last == 1:
                acc = dense_conv(
                    v, W.reshape(*W.shape, *[1] * (v.ndim - 2)), v.ndim - 2, **geometry
                )
            else:
                acc = pointwise(v, W, bias=self.bias if n == last else None)
            acc, factor = acc.astype(np.int64), M.reshape(1, -1, *[1] * (acc.ndim - 2))
            k = requantize(acc, factor, self.zero_points[n + 1], self.grid, mode=self.mode)
            codes = k.astype(np.int64)
        codes = np.maximum(codes, self.zero_points[-1]) if self.relu else codes
        return (codes[..., 0] if linear else codes).astype(self.grid.dtype)


def integer_cp(
    cp: QuantizedCP,
    scales: Sequence[Scale],
    grid: Grid,
    *,
    bias: ArrayLike | None = None,
    relu: bool = False,
    mode: str = "exact",
    kernel_size: Pair = 1,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> IntegerCP:
    """Make the integer layer of a quantized CP tensor.

    Parameters
    ----------
    cp : QuantizedCP
        Codes of ``a_out``, ``a_in`` and, for a kernel larger than 1x1, ``a_kernel``.
    scales : sequence of Scale
        Scales and zero points of the input, of the output of each stage but the last one, and of
        the output. If ``a_out`` has a scale per column, the array before the last stage is the one
        whose channels are weighted as :eq:`integer-fold` says.
    grid : Grid
        The codes of all these activations, at most 8 bits.
    bias : array_like, shape (Cout,), optional
        Real numbers, added to the output channels.
    relu : bool
        Clamp the output at its zero point.
    mode : {'exact', 'float32', 'single', 'double'}
        How accumulators are requantized.
    kernel_size, stride, padding, dilation
        As in :func:`qcp_ref.layers.conv.cp_conv2d`.

    Returns
    -------
    IntegerCP
        The layer.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other, if ``a_in`` or ``a_kernel`` has a scale per row,
        which no multiplier can represent, or if an accumulator might leave int32.

    Notes
    -----
    Equations :eq:`integer-multiplier` and :eq:`integer-fold` [derived]. Codes of a mid-rise grid
    become the odd numbers ``2 k + 1`` at half the scale.

    **Laws**

    - *loops*: the layer equals plain loops over Python integers, code by code
    - *error*: its output stays within :eq:`integer-error` of the layer in real numbers
    - *columns*: powers of two per column of ``a_out`` move between its scale and that of the factor
      before it without changing the output
    - *range*: multipliers and bias are those of exact ratios, up to rounding, for scales of any
      magnitude; a power of two times all scales and the bias changes nothing

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import Grid, QuantizedCP, Scale, integer_cp
    >>> cp = QuantizedCP([[[2], [-3]], [[1], [1]]], [0.5, 1.0], Grid(4))
    >>> scales = [Scale(s, z, "given") for s, z in ((1.0, 3), (2.0, 0), (0.5, -1))]
    >>> layer = integer_cp(cp, scales, Grid(8), bias=[1.0, 0.0])
    >>> layer.forward([[3, 7], [5, 9]])  # 4 and 8 become 2 and 4 steps of 2
    array([[  9, -13],
           [ 17, -25]], dtype=int8)
    """
    codes, steps = _check_weights(cp)
    _check_kernel(kernel_size, codes)
    s, z = _check_scales(scales, _check_activations(grid), len(codes))
    sigma, share = _fold(steps[0])
    # Mantissas and exponents apart: products of scales may leave the range, multipliers need not.
    s_wide, stages = [wide(each) for each in s], [*map(wide, steps[1:]), sigma]
    # M[o] = s_x s_W[o] / s_y  :eq:`integer-multiplier`
    M = [over(times(s_wide[n], step), s_wide[n + 1]) for n, step in enumerate(stages)]
    M[-2] = times(M[-2], share)  # M[r] s[r] / sigma  :eq:`integer-fold`
    unit = times(s_wide[-2], sigma)
    b = check_bias(bias, cp.shape[0]).astype(np.float64)
    b = np.rint(narrow(over(wide(b), unit), "bias, cp, scales"))
    if (np.abs(b) > INT32.max).any():
        need = f"{cp.shape[:1]} numbers within int32 times {np.max(narrow(unit, 'cp, scales'))}"
        raise ValueError(f"bias: expected {need}, got {shown(bias)}")
    what = "cp, scales"
    return IntegerCP(
        (codes[1].T, *codes[2:], codes[0]),
        tuple(check_multiplier(np.ravel(narrow(m, what)), f"{what}: multiplier") for m in M),
        b.astype(np.int64),
        z,
        grid,
        relu=relu,
        mode=mode,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )


def _single(a: Integers, m: Integers, shift: Integers) -> Integers:
    """Round once, half upwards; the product has 62 bits, so that int64 holds everything."""
    n = 31 - shift
    # k = floor((a m + 2^(30 - e)) / 2^(31 - e))  :eq:`integer-single`
    return np.asarray((a * m + (np.int64(1) << (n - 1))) >> n)


def _double(a: Integers, m: Integers, shift: Integers) -> Integers:
    """Round twice, half upwards and half away from zero; what might wrap around saturates here."""
    shifted = np.clip(a << np.maximum(shift, 0), INT32.min, INT32.max)
    high = (shifted * m + 2**30) >> 31  # h = floor((2^l a m + 2^30) / 2^31)  :eq:`integer-double`
    right = np.maximum(-shift, 0)
    # k = sign(h) floor(|h| / 2^r + 1/2)
    return np.asarray(np.sign(high) * ((np.abs(high) + ((np.int64(1) << right) >> 1)) >> right))


def int_operands(
    x: ArrayLike,
    W: ArrayLike,
    zero_point: int,
    bias: ArrayLike | None,
    weight_zero_point: ArrayLike | None,
) -> tuple[Array, Array, Array]:
    """Return inputs and weights less their zero points, and bias, as floats, if sums fit int32."""
    x = as_array(x, "x")
    if x.dtype not in (np.uint8, np.int8):
        raise TypeError(f"x: expected uint8 or int8, whose range is known, got dtype {x.dtype}")
    grid = Grid(8, signed=x.dtype == np.int8)
    options: Any = {"bias": bias, "weight_zero_point": weight_zero_point}
    _prove(accumulator_bound(W, grid, zero_point=zero_point, **options))
    z, weights = _check_one_zero(zero_point, grid), _centred(W, weight_zero_point).astype(float)
    return (
        check_array(x, "x") - z,
        weights,
        check_bias(bias, len(weights), whole=True).astype(float),
    )


def _centred(W: ArrayLike, zero_point: ArrayLike | None) -> NDArray[np.int64]:
    """Return codes of weights less their zero point; the ends of int8 or uint8 bound both."""
    if zero_point is None:
        return check_whole(W, "W", -128, 127, min_ndim=2)
    codes = check_whole(W, "W", -128, 255, min_ndim=2)
    zero = check_whole(zero_point, "weight_zero_point", -128, 255)
    if zero.shape not in ((), (1,), codes.shape[:1]):
        need = f"one number or {len(codes)} (one per output channel)"
        raise ValueError(f"weight_zero_point: expected {need}, got shape {zero.shape}")
    if min(codes.min(), zero.min()) < 0 and max(codes.max(), zero.max()) > 127:
        need = "both from -128 to 127 or both from 0 to 255"
        ends = f"{codes.min()} to {codes.max()} and {zero.min()} to {zero.max()}"
        raise ValueError(f"W, weight_zero_point: expected integers {need}, got {ends}")
    return codes - zero.reshape(-1, *[1] * (codes.ndim - 1))  # W[o, i] - w[o]


def _prove(bounds: NDArray[np.int64], where: str = "W: ") -> None:
    """Refuse accumulators that int32 might not hold."""
    if bounds.max() > INT32.max:
        channel = int(bounds.argmax())
        raise ValueError(
            f"{where}output channel {channel} may reach {bounds[channel]}, beyond int32; "
            "use smaller weights or fewer bits, or split the sum"
        )


def _fold(step: Array) -> tuple[Wide, Wide]:
    """Split the scale of ``a_out`` into one per row and a share per column.

    A scale per column becomes sigma = max_r s[r], and s[r] / sigma is moved in front of the stage
    :eq:`integer-fold`.
    """
    columns = step.ndim == 2 and step.shape[0] == 1
    per_row = wide(step.max() if columns else np.ravel(step))
    return per_row, over(wide(step), per_row) if columns else wide(1.0)


def _checked_parts(layer: IntegerCP) -> dict[str, Any]:
    """Return the fields of a layer as they are kept, if they fit each other."""
    given = check_sequence(layer.weights, "weights", "matrices of codes", most=64)
    W = [check_whole(w, f"weights[{n}]", -128, 127, ndim=2) for n, w in enumerate(given)]
    chain = [w.shape[::-1] if 0 < n < len(W) - 1 else w.shape for n, w in enumerate(W)]
    if len(W) not in (2, 3) or {s[0] for s in chain[:-1]} != {chain[-1][1]}:
        raise ValueError(
            "weights: expected (R, Cin), for a kernel (entries, R), and (Cout, R), got shapes "
            f"{[w.shape for w in W]}"
        )
    sides = _check_kernel(layer.kernel_size, (W[-1], W[0].T, *W[1:-1]))
    geometry = check_geometry(layer.stride, layer.padding, layer.dilation)
    grid, factors = _check_activations(layer.grid), []
    given = check_sequence(layer.multipliers, "multipliers", "arrays (one per stage)", most=64)
    outputs = [W[0].shape[0], *(w.shape[1] for w in W[1:-1]), W[-1].shape[0]]
    for n, multiplier in enumerate(given):
        M = check_multiplier(multiplier, f"multipliers[{n}]")
        if n < len(W) and M.shape not in ((), (1,), (outputs[n],)):
            need = f"one number or {outputs[n]} (one per output channel)"
            raise ValueError(f"multipliers[{n}]: expected {need}, got shape {M.shape}")
        factors.append(M)
    zeros = check_ints(layer.zero_points, "zero_points")
    zeros = tuple(_check_one_zero(z, grid, "zero_points") for z in zeros)
    for name, found, more in (("multipliers", len(factors), 0), ("zero_points", len(zeros), 1)):
        if found != len(W) + more:
            raise ValueError(f"{name}: expected {len(W) + more} of them, got {found}")
    check_flag(layer.relu, "relu")
    check_option(layer.mode, "mode", MODES)
    bias = check_bias(check_integers(layer.bias, "bias"), outputs[-1], whole=True)
    parts: dict[str, Any] = {"weights": tuple(W), "multipliers": tuple(factors), "bias": bias}
    parts |= dict(zip(("stride", "padding", "dilation"), geometry, strict=True))
    return {**parts, "kernel_size": sides, "zero_points": zeros}


def _check_one_zero(zero_point: Any, grid: Grid, name: str = "zero_point") -> int:
    """Return the code of zero."""
    z = check_int(zero_point, name)
    if not grid.qmin <= z <= grid.qmax:
        need = f"an integer from {grid.qmin} to {grid.qmax}"
        raise ValueError(f"{name}: expected {need}, got {shown(z)}")
    return z


def _check_activations(grid: Grid) -> Grid:
    if check_grid(grid).bits > 8 or grid.mid_rise or grid.kind != "uniform":
        raise ValueError(f"grid: expected at most 8 bits in equal steps from zero, got {grid}")
    return grid


def check_multiplier(multiplier: ArrayLike, name: str = "multiplier") -> Array:
    """Return multipliers that 31 bits and a shift represent."""
    M = check_array(multiplier, name)
    if (M <= 0).any() or (M > _LARGEST_MULTIPLIER).any():
        ends = f"{M.min()} to {M.max()}"
        raise ValueError(f"{name}: expected numbers above 0 and up to 2**29, got {ends}")
    return M


def _check_weights(cp: Any) -> tuple[list[NDArray[np.int64]], list[Array]]:
    """Return codes with zero point 0 and their scales, as far as multipliers can represent them."""
    if not isinstance(cp, QuantizedCP) or len(cp.shape) not in (2, 3):
        raise TypeError(f"cp: expected a QuantizedCP of 2 or 3 factors, got {shown(cp)}")
    for n, name in enumerate(("a_in", "a_kernel")[: len(cp.shape) - 1], start=1):
        if cp.scales[n].ndim and cp.scales[n].shape[0] > 1:
            raise ValueError(
                f"cp: {name} has a scale per row, which no multiplier can represent; "
                "quantize it with one scale or one per column"
            )
    if cp.grid.kind == "log2":
        raise ValueError("cp: powers of two as weights are not supported; use a uniform grid")
    double = 2 if cp.grid.mid_rise else 1
    codes = [double * k.astype(np.int64) + (double - 1) for k in cp.codes]
    for n, k in enumerate(codes):
        check_whole(k, f"cp: codes[{n}]", -128, 127)
    return codes, [step / double for step in cp.scales]


def _check_kernel(kernel_size: Pair, codes: Sequence[Integers]) -> Pair:
    entries = len(codes[2]) if len(codes) == 3 else 1
    sides = check_int_or_ints(kernel_size, "kernel_size", minimum=1, cap=2**31)
    possible = [prod(sides)] if len(sides) > 1 else [k**d for k in sides for d in (1, 2, 3)]
    if entries not in possible or len(sides) > 3:
        raise ValueError(
            f"kernel_size: expected sides of {entries} entries, got {shown(kernel_size)}"
        )
    return sides[0] if is_one_int(kernel_size) else sides


def _check_scales(
    scales: Sequence[Scale], grid: Grid, stages: int
) -> tuple[list[Array], tuple[int, ...]]:
    given = check_sequence(scales, "scales", "Scale objects")
    if len(given) != stages + 1 or not all(isinstance(scale, Scale) for scale in given):
        raise ValueError(f"scales: expected {stages + 1} of type Scale, got {shown(scales)}")
    for n, scale in enumerate(given):
        try:
            quantize(0.0, grid, scale.scale, scale.zero_point)  # refuses what does not fit
        except (TypeError, ValueError) as refusal:
            raise type(refusal)(f"scales[{n}]: {refusal}") from None
    return [np.asarray(each.scale) for each in given], tuple(int(e.zero_point) for e in given)
