"""PyTorch: convolutions, fake quantization and quantized convolutions on the CPU.

What it does differently from the definitions is declared below, and then tested exactly.
"""

import torch
from torch.ao.quantization import MinMaxObserver
from torch.nn import functional

from qcp_ref.conformance import Adapter, Unsupported

impl = Adapter(
    *("torch", torch.__version__.split("+")[0]),
    arith="f32",
    to=torch.from_numpy,
    division="reciprocal",  # multiplies with the float32 reciprocal of the scale
    requant="float32",  # multiplies accumulators in float32
    affine="pytorch",  # rounds the quotient apart, and has a least scale
)
# Its quantized convolutions take uint8 and give uint8. The wrong input that it takes is listed in
# test_foreign.py.
impl.lacks("signed-input", "layout-negative", "layout-read-only", "refuses", "int16")
impl.lacks("rank-deficient")


def _padded(x, padding, value=0):
    top, left, bottom, right = padding
    return functional.pad(x, (left, right, top, bottom), value=value)


@impl.op
def conv2d(x, W, bias, *, stride, padding, dilation):
    return functional.conv2d(_padded(x, padding), W, bias, tuple(stride), dilation=tuple(dilation))


@impl.op
def pointwise(x, A, bias, *, stride):
    return functional.conv2d(x, A[:, :, None, None], bias, tuple(stride))


@impl.op
def depthwise(x, C, *, kernel_size, stride, padding, dilation):
    W = C.T.reshape(-1, 1, *kernel_size)
    options = {"stride": tuple(stride), "dilation": tuple(dilation), "groups": len(W)}
    return functional.conv2d(_padded(x, padding), W, **options)


@impl.op
def cp_conv2d(x, a_out, a_in, a_kernel, bias, **options):
    z = pointwise(x, a_in.T, None, stride=(1, 1))
    return pointwise(depthwise(z, a_kernel, **options), a_out, bias, stride=(1, 1))


@impl.op
def project(x, scale, zero_point, *, qmin, qmax):
    zero = zero_point.to(torch.int32)
    if scale.ndim == 0:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, qmin, qmax)
    if scale.numel() != max(scale.shape):
        raise Unsupported("per-channel")
    axis = scale.shape.index(scale.numel())
    return torch.fake_quantize_per_channel_affine(
        x, scale.reshape(-1), zero.reshape(-1), axis, qmin, qmax
    )


@impl.op
def choose_affine(x, *, qmin, qmax):
    dtype = torch.quint8 if qmin >= 0 else torch.qint8
    observer = MinMaxObserver(
        dtype=dtype, qscheme=torch.per_tensor_affine, quant_min=qmin, quant_max=qmax
    )
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    return scale.reshape(()), zero_point.reshape(())


# The quantizer itself adds the zero point before it rounds; fake quantization does so afterwards.
quantizer = Adapter(
    *("torch.quantize", torch.__version__.split("+")[0]),
    arith="f32",
    to=torch.from_numpy,
    division="reciprocal",
    zero_point="before-rounding",
)
quantizer.lacks("layout-negative", "layout-read-only", "refuses", "int16")


@quantizer.op
def quantize(x, scale, zero_point, *, qmin, qmax):
    dtype = {(-128, 127): torch.qint8, (0, 255): torch.quint8}.get((qmin, qmax))
    if dtype is None:
        raise Unsupported("bits")
    if scale.ndim == 0:
        return torch.quantize_per_tensor(x, float(scale), int(zero_point), dtype).int_repr()
    axis = scale.shape.index(scale.numel())
    return torch.quantize_per_channel(
        x, scale.reshape(-1), zero_point.reshape(-1).long(), axis, dtype
    ).int_repr()


@impl.op
def reconstruct(factors, weights):
    weights = torch.ones(factors[0].shape[1]) if weights is None else weights
    operands = [part for n, A in enumerate(factors) for part in (A, [n, 25])]
    return torch.einsum(*operands, weights, [25], list(range(len(factors))))


@impl.op
def mttkrp(X, factors, *, mode):
    d = X.ndim
    others = [part for n, A in enumerate(factors) if n != mode for part in (A, [n, 25])]
    return torch.einsum(X, list(range(d)), *others, [mode, 25])


@impl.op
def gram(factors, *, mode):
    if mode is not None and not 0 <= mode < len(factors):
        raise ValueError(f"mode: expected 0 to {len(factors) - 1}, got {mode}")
    G = torch.ones(1, 1)
    for n, A in enumerate(factors):
        G = G if n == mode else G * (A.T @ A)
    return G


@impl.op
def als_update(X, factors, *, mode):
    # Not lstsq: asked twice, it may give results that differ in the last bits.
    return torch.linalg.solve(gram(factors, mode=mode), mttkrp(X, factors, mode=mode).T).T


@impl.op
def quantized_conv2d(
    x, W, bias, multiplier, *, x_zero, y_zero, qmin, qmax, relu, stride, padding, dilation
):
    if x.dtype != torch.uint8:
        raise Unsupported("signed-input")
    if (qmin, qmax) != (0, 255):
        raise Unsupported("bits")
    # The multiplier is the scale of the weights if those of input and output are 1.
    scales = multiplier.double().reshape(-1)
    image = torch._make_per_tensor_quantized_tensor(_padded(x, padding, x_zero), 1.0, x_zero)
    if len(scales) == 1:
        kernel = torch._make_per_tensor_quantized_tensor(W, float(scales[0]), 0)
    else:
        zeros = torch.zeros(len(scales), dtype=torch.long)
        kernel = torch._make_per_channel_quantized_tensor(W, scales, zeros, 0)
    if bias is not None and abs(bias).max() > 2**24:
        raise Unsupported("bias")  # it is a float32 number there
    bias = None if bias is None else (bias * scales).float()
    convolution = torch.ops.quantized.conv2d_relu if relu else torch.ops.quantized.conv2d
    packed = torch.ops.quantized.conv2d_prepack(
        kernel, bias, list(stride), [0, 0], list(dilation), 1
    )
    return convolution(image, packed, 1.0, y_zero).int_repr()
