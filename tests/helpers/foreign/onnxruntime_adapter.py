"""ONNX Runtime: QuantizeLinear, DequantizeLinear, ConvInteger and QLinearConv on the CPU.

Each call is a model of one node. What it does differently from the definitions is declared below,
and then tested exactly.
"""

from functools import cache

import numpy as np
import onnxruntime
from onnx import helper

from qcp_ref.conformance import Adapter, Unsupported

impl = Adapter(
    *("onnxruntime", onnxruntime.__version__),
    arith="f32",
    division="float32",  # divides in float32
    requant="float32",  # multiplies accumulators in float32
)
impl.lacks("refuses")  # what it takes is listed in test_foreign.py

CODES = {(-128, 127): np.int8, (0, 255): np.uint8, (-(2**15), 2**15 - 1): np.int16}
CODES[0, 2**16 - 1] = np.uint16


@cache
def session(op, inputs, output, attributes):
    """Return a model of one node; inputs are (name, dtype, order)."""
    kinds = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None] * order
        )
        for name, dtype, order in inputs
    ]
    node = helper.make_node(op, [kind.name for kind in kinds], ["y"], **dict(attributes))
    result = helper.make_tensor_value_info(
        "y", helper.np_dtype_to_tensor_dtype(np.dtype(output[0])), [None] * output[1]
    )
    graph = helper.make_graph([node], "one", kinds, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def call(op, arrays, output, **attributes):
    """Run one operator."""
    inputs = tuple((f"x{i}", a.dtype.str, a.ndim) for i, a in enumerate(arrays))
    key = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in attributes.items())
    one = session(op, inputs, output, key)
    return one.run(None, {f"x{i}": np.array(a, order="C") for i, a in enumerate(arrays)})[0]


@cache
def dynamic_session(order):
    """Return a model of DynamicQuantizeLinear, which has three outputs."""
    info, kinds = helper.make_tensor_value_info, (2, 1, 2)  # uint8, float32, uint8
    outputs = [info(n, k, None) for n, k in zip(("y", "scale", "zero"), kinds, strict=True)]
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    graph = helper.make_graph([node], "one", [info("x", 1, [None] * order)], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def dynamic(x):
    """Return scale and zero point as DynamicQuantizeLinear chooses them."""
    return tuple(dynamic_session(x.ndim).run(["scale", "zero"], {"x": np.array(x, order="C")}))


def codes_of(qmin, qmax):
    if (qmin, qmax) not in CODES:
        raise Unsupported("bits")
    return CODES[qmin, qmax]


def narrow(zero_point, dtype):
    """Return zero points in the type of the codes; a cast alone would wrap around."""
    cast = zero_point.astype(dtype)
    if (cast != zero_point).any():
        raise OverflowError(f"zero_point: {zero_point} out of bounds for {cast.dtype}")
    return cast


def along(scale, zero_point):
    """Return scale, zero point and axis as the operators want them."""
    if scale.ndim == 0:
        return scale, zero_point, {}
    if scale.size != max(scale.shape):
        raise Unsupported("per-channel")
    axis = scale.shape.index(scale.size)
    zero_point = np.broadcast_to(zero_point, scale.shape)
    return scale.reshape(-1), zero_point.reshape(-1), {"axis": axis}


@impl.op
def quantize(x, scale, zero_point, *, qmin, qmax):
    dtype = codes_of(qmin, qmax)
    scale, zero_point, axis = along(scale, narrow(zero_point, dtype))
    return call("QuantizeLinear", (x, scale, zero_point), (np.dtype(dtype).str, x.ndim), **axis)


@impl.op
def choose_affine(x, *, qmin, qmax):
    if (qmin, qmax) != (0, 255):
        raise Unsupported("bits" if qmin else "unsigned")
    return dynamic(x)


@impl.op
def dequantize(codes, scale, zero_point):
    if codes.dtype.name not in ("int8", "uint8", "int16", "uint16", "int32"):
        raise Unsupported("int16")
    scale, zero_point, axis = along(scale, narrow(zero_point, codes.dtype))
    return call("DequantizeLinear", (codes, scale, zero_point), ("<f4", codes.ndim), **axis)


@impl.op
def int_conv2d(x, W, bias, *, x_zero, stride, padding, dilation):
    if bias is not None:
        raise Unsupported("bias")
    options = {"strides": stride, "pads": padding, "dilations": dilation}
    return call("ConvInteger", (x, W, x.dtype.type(x_zero)), ("<i4", 4), **options)


@impl.op
def quantized_conv2d(
    x, W, bias, multiplier, *, x_zero, y_zero, qmin, qmax, relu, stride, padding, dilation
):
    if relu:
        raise Unsupported("relu")
    dtype = codes_of(qmin, qmax)
    if x.dtype.itemsize > 1 or np.dtype(dtype).itemsize > 1:
        raise Unsupported("int16")
    if np.dtype(dtype) != x.dtype:
        raise Unsupported("signed-input")
    one, scales = np.float32(1), multiplier.astype(np.float32).reshape(-1)
    w_zero = np.zeros(scales.size, np.int8)
    if scales.size == 1:
        scales, w_zero = scales[0], w_zero[0]
    arrays = [x, one, x.dtype.type(x_zero), W, scales, w_zero, one, dtype(y_zero)]
    if bias is not None:
        arrays.append(bias.astype(np.int32))
    arrays = [np.asarray(a) for a in arrays]
    options = {"strides": stride, "pads": padding, "dilations": dilation}
    return call("QLinearConv", tuple(arrays), (np.dtype(dtype).str, 4), **options)
