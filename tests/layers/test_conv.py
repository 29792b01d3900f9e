"""Laws, exact vectors and bad input of qcp_ref.layers.conv; its planted faults stand at the end.

The laws are drawn for one, two and three spatial axes.
"""

import sys
import tracemalloc
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from support import (
    assert_in_range,
    assert_same,
    assert_within,
    caught,
    exact,
    law,
    seeds,
    sides,
    wild,
)

import qcp_ref as book
from qcp_ref import (
    CP,
    conv1d,
    conv2d,
    conv3d,
    cp_conv1d,
    cp_conv2d,
    cp_conv3d,
    cp_conv_bound,
    cp_linear,
    depthwise,
    kernel_to_tensor,
    loops,
    pointwise,
    reconstruct,
    rounding_bound,
    tensor_to_kernel,
)
from qcp_ref.layers import conv, geometry

THIS = sys.modules[__name__]
DTYPES = st.sampled_from([np.float32, np.float64])


def dense(x, W, **options):
    """Call the function for images with this many axes."""
    return (conv1d, conv2d, conv3d)[x.ndim - 3](x, W, **options)


def stages(x, cp, **options):
    """Call the function for images with this many axes."""
    return (cp_conv1d, cp_conv2d, cp_conv3d)[x.ndim - 3](x, cp, **options)


class Geometry(NamedTuple):
    """Sizes and options that fit each other; ``options`` are those of conv2d."""

    images: tuple[int, int]  # number, channels
    size: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...]
    options: dict
    seed: int

    @property
    def x_shape(self):
        return (*self.images, *self.size)

    @property
    def W_shape(self):
        return (self.outputs, self.images[1], *self.kernel)


def one_or_each(numbers, d):
    return numbers | st.tuples(*[numbers] * d)


def each(value, d):
    return (value,) * d if isinstance(value, int) else tuple(value)


def steps(step, d):
    """Index that picks every so many pixels of all images and channels."""
    return (..., *(slice(None, None, s) for s in each(step, d)))


def first(shape):
    """Index of as many first pixels."""
    return (..., *(slice(n) for n in shape))


def before_and_after(padding, d):
    """All begins and all ends of a padding in numbers."""
    zeros = each(padding, d)
    return (zeros[:d], zeros[d:]) if len(zeros) == 2 * d else (zeros, zeros)


def spans(kernel, dilation):
    return [s * (k - 1) + 1 for k, s in zip(kernel, each(dilation, len(kernel)), strict=True)]


@st.composite
def geometries(draw, paddings=("numbers", "begins and ends", "valid", "same"), axes=(1, 2, 3)):
    """Draw distinct sizes, sides of 1, and every form that an option can take."""
    d = draw(st.sampled_from(axes))
    small = st.integers(1, 3)
    # Volumes are small: the index loops meet each pixel with each kernel entry and channel.
    channels, slack = (sides, 3) if d < 3 else (small, 1)
    kernel = draw(st.tuples(*[small] * d))
    stride, dilation = draw(one_or_each(small, d)), draw(one_or_each(st.integers(1, 2), d))
    padding, given_zeros = draw(st.sampled_from(paddings)), (0,) * d
    if padding not in ("valid", "same"):
        zeros = st.integers(0, 2)
        padding = draw(
            one_or_each(zeros, d) if padding == "numbers" else st.tuples(*[zeros] * 2 * d)
        )
        given_zeros = map(sum, zip(*before_and_after(padding, d), strict=True))
    size = [
        draw(st.integers(1 if padding == "same" else max(1, span - zeros), span + slack))
        for span, zeros in zip(spans(kernel, dilation), given_zeros, strict=True)
    ]
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    images = draw(st.tuples(st.integers(1, 2), channels))
    return Geometry(images, tuple(size), draw(channels), kernel, options, draw(seeds))


class Layer(NamedTuple):
    """A factorized layer: CP tensor and bias."""

    cp: CP
    bias: np.ndarray


@st.composite
def layers(draw, g, values, per_axis=True):
    """Draw a CP tensor that fits a geometry: its kernel is one mode, one per axis, or none."""
    tails = [(prod(g.kernel),), *[g.kernel] * per_axis, *[()] * (prod(g.kernel) == 1)]
    tail, rank = draw(st.sampled_from(tails)), draw(sides)
    factors = [values((side, rank)) for side in (g.outputs, g.images[1], *tail)]
    return Layer(CP(factors, values(rank)), values(g.outputs))


def integers(seed):
    """Return a source of small integers, of which every sum and product here is exact."""
    rng = np.random.default_rng(seed)
    return lambda shape: rng.integers(-9, 10, shape).astype(float)


def normals(seed, dtype=np.float64):
    """Return a source of numbers with all their digits in use."""
    rng = np.random.default_rng(seed)
    return lambda shape: rng.standard_normal(shape).astype(dtype)


def ints(x):
    return np.asarray(x).astype(int).tolist()


def kernel_of(cp, g):
    """Kernel that a CP tensor stands for, in its precision."""
    return tensor_to_kernel(reconstruct(cp), g.kernel).astype(cp.weights.dtype)


def as_kernel(A, d):
    """Matrix as a kernel of one entry."""
    return A.reshape(*A.shape, *[1] * d)


# --- dense --------------------------------------------------------------------------------------


@law("conv2d.sum", "conv2d.same")
@given(geometries())
def test_dense_is_the_sum_over_kernel_entries(g):
    values = integers(g.seed)
    x, W, b = values(g.x_shape), values(g.W_shape), values(g.outputs)
    truth = loops.conv(ints(x), ints(W), bias=ints(b), **g.options)
    assert_same(dense(x, W, bias=b, **g.options), truth)


@law("conv2d.sum")
@settings(max_examples=30)
@given(geometries(), DTYPES)
def test_dense_stays_within_its_rounding_bound(g, dtype):
    values = normals(g.seed, dtype)
    x, W, b = values(g.x_shape), values(g.W_shape), values(g.outputs)
    size = dense(*(abs(a).astype(float) for a in (x, W)), bias=abs(b), **g.options)
    truth = loops.conv(exact(x), exact(W), bias=exact(b), **g.options)
    actual = dense(x, W, bias=b, **g.options)
    assert actual.dtype == dtype
    assert_within(actual, truth, rounding_bound(W[0].size + 1, size, dtype=dtype))


@law("conv2d.linear")
@given(geometries())
def test_dense_is_linear_in_image_and_kernel(g):
    values = integers(g.seed)
    x, x2, W, W2 = (values(shape) for shape in [g.x_shape] * 2 + [g.W_shape] * 2)
    y = dense(x, W, **g.options)
    assert np.array_equal(dense(2 * x - x2, W, **g.options), 2 * y - dense(x2, W, **g.options))
    assert np.array_equal(dense(x, 2 * W - W2, **g.options), 2 * y - dense(x, W2, **g.options))


@law("conv2d.apart")
@given(geometries())
def test_each_image_and_each_output_channel_is_on_its_own(g):
    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    y = dense(x, W, **g.options)
    assert np.array_equal(dense(x[::-1], W, **g.options), y[::-1])
    assert np.array_equal(dense(x[-1:], W, **g.options), y[-1:])
    assert np.array_equal(dense(x, W[:1], **g.options), y[:, :1])


@law("conv2d.shift")
@given(geometries(paddings=("valid",)), st.tuples(*[st.integers(0, 2)] * 3))
def test_a_shifted_image_gives_a_shifted_output(g, shift):
    values = integers(g.seed)
    margins = [(s + 2, s + 2) for s in spans(g.kernel, g.options["dilation"])]
    x = np.pad(values(g.x_shape), [(0, 0), (0, 0), *margins])
    options = {"dilation": g.options["dilation"]}
    W, axes = values(g.W_shape), tuple(range(2, x.ndim))
    shift = shift[: len(axes)]
    shifted = dense(np.roll(x, shift, axes), W, **options)
    assert np.array_equal(shifted, np.roll(dense(x, W, **options), shift, axes))


@law("conv2d.stride")
@given(geometries(paddings=("numbers", "begins and ends", "valid")))
def test_a_stride_picks_from_the_output_of_stride_one(g):
    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    every = dense(x, W, **{**g.options, "stride": 1})
    picked = every[steps(g.options["stride"], len(g.size))]
    assert np.array_equal(dense(x, W, **g.options), picked)


@law("conv2d.dilation")
@given(geometries())
def test_a_dilation_is_a_kernel_with_zeros_in_between(g):
    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    stuffed = np.zeros((*W.shape[:2], *spans(g.kernel, g.options["dilation"])))
    stuffed[steps(g.options["dilation"], len(g.size))] = W
    plain = {**g.options, "dilation": 1}
    assert np.array_equal(dense(x, W, **g.options), dense(x, stuffed, **plain))


@law("conv2d.padding")
@given(geometries(), st.tuples(*[st.integers(0, 3)] * 6))
def test_padding_is_zeros_written_around_the_image(g, zeros):
    values = integers(g.seed)
    size, d = spans(g.kernel, g.options["dilation"]), len(g.size)
    x, W, zeros = values((*g.images, *size)), values(g.W_shape), zeros[: 2 * d]
    ends = zip(zeros[:d], zeros[d:], strict=True)
    written = np.pad(x, [(0, 0), (0, 0), *ends])
    options = {**g.options, "padding": zeros}
    expected = dense(written, W, **{**options, "padding": "valid"})
    assert np.array_equal(dense(x, W, **options), expected)


@law("conv2d.same")
@given(geometries(paddings=("same",)))
def test_same_padding_gives_one_output_per_step(g):
    y = dense(np.ones(g.x_shape), np.ones(g.W_shape), **g.options)
    stride = each(g.options["stride"], len(g.size))
    counts = [len(range(0, n, s)) for n, s in zip(g.size, stride, strict=True)]
    assert y.shape == (g.images[0], g.outputs, *counts)


@law("conv2d.same")
@pytest.mark.parametrize(("d", "axis"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_same_padding_puts_the_odd_zero_at_the_end(d, axis):
    x, W = np.arange(1.0, 5), np.ones(3)
    x, W = (np.moveaxis(a.reshape(*[1] * (d + 1), -1), -1, 2 + axis) for a in (x, W))
    y = dense(x, W, padding="same", stride=2)
    assert y.ravel().tolist() == [6.0, 7.0]


@law("conv1d.height-one", "conv3d.depth-one", "cp_conv1d.height-one", "cp_conv3d.depth-one")
@given(geometries(axes=(1, 2)), st.integers(1, 3), st.data())
def test_an_axis_of_one_pixel_does_not_show(g, stride, data):
    values, d = integers(g.seed), len(g.size)
    x, W, b = values(g.x_shape), values(g.W_shape), values(g.outputs)
    longer = {"stride": (stride, *each(g.options["stride"], d))}
    longer["dilation"] = (1, *each(g.options["dilation"], d))
    longer["padding"] = padding = g.options["padding"]
    if not isinstance(padding, str):
        before, after = before_and_after(padding, d)
        longer["padding"] = (0, *before, 0, *after)
    y = dense(x, W, bias=b, **g.options)
    assert np.array_equal(dense(x[:, :, None], W[:, :, None], bias=b, **longer)[:, :, 0], y)
    cp, _ = data.draw(layers(g, values, per_axis=False))
    size = {"kernel_size": (1, *g.kernel)}
    y = stages(x, cp, kernel_size=g.kernel, bias=b, **g.options)
    assert np.array_equal(stages(x[:, :, None], cp, bias=b, **size, **longer)[:, :, 0], y)
    C = values((prod(g.kernel), g.images[1]))
    y = depthwise(x, C, kernel_size=g.kernel, **g.options)
    assert np.array_equal(depthwise(x[:, :, None], C, **size, **longer)[:, :, 0], y)


@law("conv2d.axes")
@given(geometries(axes=(2, 3)), st.data())
def test_no_spatial_axis_is_special(g, data):
    values, d = integers(g.seed), len(g.size)
    x, W = values(g.x_shape), values(g.W_shape)
    order = data.draw(st.permutations(range(d)))
    axes = (0, 1, *(2 + axis for axis in order))

    def moved(value):
        if isinstance(value, str):
            return value
        return [
            each(value, d)[n + axis] for n in range(0, len(each(value, d)), d) for axis in order
        ]

    options = {name: moved(value) for name, value in g.options.items()}
    y = dense(x.transpose(axes), W.transpose(axes), **options)
    assert np.array_equal(y, dense(x, W, **g.options).transpose(axes))


@law("conv2d.adjoint")
@given(geometries())
def test_dense_is_adjoint_to_the_scattering_of_its_output(g):
    values = integers(g.seed)
    d, stride, dilation = len(g.size), g.options["stride"], g.options["dilation"]
    size = [span + 3 for span in spans(g.kernel, dilation)]
    x, W = values((*g.images, *size)), values(g.W_shape)
    y = dense(x, W, stride=stride, dilation=dilation)
    weights = values(y.shape)
    apart = [(n - 1) * s + 1 for n, s in zip(y.shape[2:], each(stride, d), strict=True)]
    stuffed = np.zeros((*y.shape[:2], *apart))
    stuffed[steps(stride, d)] = weights
    flipped = W.swapaxes(0, 1)[steps(-1, d)]
    border = tuple(span - 1 for span in spans(g.kernel, dilation))
    scattered = dense(stuffed, flipped, padding=border, dilation=dilation)
    reached = x[first(scattered.shape[2:])]
    assert (y * weights).sum() == (reached * scattered).sum()


@law("conv2d.sum")
@given(geometries(paddings=("valid",)))
def test_dense_agrees_with_scipy(g):
    from scipy.signal import correlate

    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    if any(n < k for n, k in zip(g.size, g.kernel, strict=True)):
        return
    expected = [
        [correlate(image, kernel, mode="valid", method="direct")[0] for kernel in W] for image in x
    ]
    assert np.array_equal(dense(x, W), expected)


@law("conv2d.sum", "conv2d.stride", "pointwise.dense", "cp_conv2d.dense")
@settings(max_examples=25)
@given(
    st.tuples(*[st.sampled_from([1, 2, 7, 20])] * 3),  # images are few, all else up to 20 and 40
    st.tuples(*[st.sampled_from([1, 3, 23, 40])] * 2),
    st.tuples(*[st.integers(1, 5)] * 2),
    st.integers(1, 3),
    DTYPES,
    seeds,
)
def test_large_layers_agree_with_scipy(sides, size, kernel, stride, dtype, seed):
    from scipy.signal import correlate

    count, channels, outputs = sides
    values = integers(seed)
    kernel = tuple(map(min, kernel, size))
    x, bias = values((1 + count % 3, channels, *size)), values(outputs)
    cp = CP([np.sign(values((side, 3))) for side in (outputs, channels, prod(kernel))])
    W = kernel_of(cp, Geometry((1, channels), size, outputs, kernel, {}, 0))
    every = [[correlate(image, w, "valid", "direct")[0] for w in W] for image in x]
    truth = np.array(every)[steps(stride, 2)] + bias.reshape(-1, 1, 1)
    x, W, bias = (a.astype(dtype) for a in (x, W, bias))
    assert np.array_equal(conv2d(x, W, stride=stride, bias=bias), truth)
    single = CP([A.astype(dtype) for A in cp.factors])
    found = cp_conv2d(x, single, kernel_size=kernel, stride=stride, bias=bias)
    assert np.array_equal(found, truth)
    if kernel == (1, 1):
        assert np.array_equal(pointwise(x, W[:, :, 0, 0], stride=stride, bias=bias), truth)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"),
    [(1, 1, 1), ((2, 3, 1), (2, 0, 1), (1, 2, 1)), (2, "valid", 2), (1, "same", (2, 1, 2))],
)
def test_both_layers_agree_with_torch(d, stride, padding, dilation, dtype):
    torch = pytest.importorskip("torch")
    values = normals(20, dtype)
    kernel = (3, 1, 2)[:d]
    x, b = values((3, 5, *(11, 9, 7)[:d])), values(7)
    cp = CP([values((side, 4)) for side in (7, 5, prod(kernel))])
    W = tensor_to_kernel(reconstruct(cp), kernel).astype(dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    options = {k: v[:d] if isinstance(v, tuple) else v for k, v in options.items()}
    bound = cp_conv_bound(x, cp, kernel_size=kernel, bias=b, **options)
    function = getattr(torch.nn.functional, f"conv{d}d")
    theirs = function(*map(torch.from_numpy, (x, W, b)), **options).numpy()
    for ours in (
        dense(x, W, bias=b, **options),
        stages(x, cp, kernel_size=kernel, bias=b, **options),
    ):
        assert ours.dtype == theirs.dtype
        assert (abs(ours.astype(float) - theirs) <= bound).all()


# --- stages -------------------------------------------------------------------------------------


@law("pointwise.dense", "conv2d.pointwise")
@given(geometries(paddings=("valid",)))
def test_pointwise_is_a_matrix_product_at_each_pixel(g):
    values, d = integers(g.seed), len(g.size)
    x, A, b = values(g.x_shape), values((g.outputs, g.images[1])), values(g.outputs)
    stride = g.options["stride"]
    y = pointwise(x, A, stride=stride, bias=b)
    assert np.array_equal(y, dense(x, as_kernel(A, d), stride=stride, bias=b))
    assert_same(y, loops.pointwise(ints(x), ints(A), stride=stride, bias=ints(b)))
    last = x[steps(stride, d)][0].reshape(x.shape[1], -1)[:, -1]
    assert np.array_equal(y[0].reshape(len(A), -1)[:, -1], A @ last + b)


@law("depthwise.dense")
@given(geometries())
def test_depthwise_is_a_kernel_that_keeps_channels_apart(g):
    values = integers(g.seed)
    channels = g.images[1]
    x, C = values(g.x_shape), values((prod(g.kernel), channels))
    W = np.zeros((channels, channels, *g.kernel))
    for r in range(channels):
        W[r, r] = C[:, r].reshape(g.kernel)
    y = depthwise(x, C, kernel_size=g.kernel, **g.options)
    assert np.array_equal(y, dense(x, W, **g.options))
    assert_same(y, loops.depthwise(ints(x), ints(C), kernel_size=g.kernel, **g.options))


@law("cp_conv2d.dense")
@given(geometries(), st.data())
def test_stages_are_the_dense_convolution_exactly(g, data):
    values = integers(g.seed)
    cp, bias = data.draw(layers(g, values))
    x = values(g.x_shape)
    y = stages(x, cp, kernel_size=g.kernel, bias=bias, **g.options)
    assert np.array_equal(y, dense(x, kernel_of(cp, g), bias=bias, **g.options))


@law("cp_conv2d.dense", "cp_conv_bound.bound")
@given(geometries(), DTYPES, st.data())
def test_stages_are_the_dense_convolution_within_the_bound(g, dtype, data):
    values = normals(g.seed, dtype)
    cp, bias = data.draw(layers(g, values))
    x = values(g.x_shape)
    options = {"kernel_size": g.kernel, "bias": bias, **g.options}
    factorized = stages(x, cp, **options)
    whole = dense(x, kernel_of(cp, g), bias=bias, **g.options)
    assert factorized.dtype == whole.dtype == dtype
    bound = cp_conv_bound(x, cp, **options)
    assert (abs(factorized.astype(float) - whole.astype(float)) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("outputs", "channels", "rank"), [(64, 48, 90), (8, 96, 3), (96, 8, 3)])
def test_stages_are_the_dense_convolution_at_the_size_of_real_layers(
    outputs, channels, rank, dtype
):
    values = normals(outputs, dtype)
    g = Geometry((2, channels), (14, 13), outputs, (3, 3), {"stride": 2, "padding": 1}, 0)
    cp = CP([values((side, rank)) for side in (outputs, channels, 9)])
    x = values(g.x_shape)
    difference = cp_conv2d(x, cp, kernel_size=3, **g.options) - conv2d(
        x, kernel_of(cp, g), **g.options
    )
    share = abs(difference) / cp_conv_bound(x, cp, kernel_size=3, **g.options)
    assert 1e-4 < share.max() < 1  # a bound that nothing comes near would prove little


@law("cp_conv2d.loops")
@settings(max_examples=30)
@given(geometries(), DTYPES, st.data())
def test_stages_equal_the_index_loops(g, dtype, data):
    for values in (integers(g.seed), normals(g.seed, dtype)):
        cp, bias = data.draw(layers(g, values, per_axis=False))
        x, cp = values(g.x_shape), CP(cp.factors)
        options = {"kernel_size": g.kernel, **g.options}
        bound = cp_conv_bound(x, cp, bias=bias, **options)
        truth = loops.cp_conv(*map(exact, (x, cp.factors)), bias=exact(bias), **options)
        assert_within(stages(x, cp, bias=bias, **options), truth, bound)


@law("cp_linear.one-pixel")
@given(st.lists(sides, max_size=3), sides, sides, sides, seeds)
def test_cp_linear_is_the_layer_of_one_pixel(lead, outputs, inputs, rank, seed):
    values = integers(seed)
    cp = CP([values((outputs, rank)), values((inputs, rank))], values(rank))
    x, b = values((*lead, inputs)), values(outputs)
    y = cp_linear(x, cp, bias=b)
    assert np.array_equal(y, x @ reconstruct(cp).T + b)
    pixels = cp_conv2d(x.reshape(-1, inputs, 1, 1), cp, kernel_size=1, bias=b)
    assert np.array_equal(y.reshape(-1, outputs), pixels[:, :, 0, 0])


@law("kernel_to_tensor.place", "kernel_to_tensor.inverse", "tensor_to_kernel.inverse")
@given(geometries())
def test_kernel_and_tensor_are_views_of_each_other(g):
    W = integers(g.seed)(g.W_shape)
    X = kernel_to_tensor(W)
    if prod(g.kernel) == 1:
        assert np.array_equal(as_kernel(X, len(g.kernel)), W)
    else:
        assert_same(X, loops.kernel_to_tensor(ints(W)))
    assert np.array_equal(tensor_to_kernel(X, g.kernel), W)
    assert np.array_equal(tensor_to_kernel(W, g.kernel), W)
    assert tensor_to_kernel(X.astype(np.float32), g.kernel).dtype == np.float32
    square = W.reshape(*W.shape[:2], -1)[:, :, :1]
    assert tensor_to_kernel(square, 1).shape == (*W.shape[:2], 1, 1)


# --- memory and precision -------------------------------------------------------------------------


@law("conv2d.blocks", "cp_conv2d.blocks")
@given(geometries(), st.sampled_from([1, 300, 2000]), st.data())
def test_blocks_do_not_show(g, block, data):
    values = integers(g.seed)
    cp, _ = data.draw(layers(g, values))
    x, C = values(g.x_shape), values((prod(g.kernel), g.images[1]))
    W = kernel_of(cp, g)
    whole = dense(x, W, **g.options), depthwise(x, C, kernel_size=g.kernel, **g.options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "_BLOCK_BYTES", block)
        assert np.array_equal(dense(x, W, **g.options), whole[0])
        assert np.array_equal(stages(x, cp, kernel_size=g.kernel, **g.options), whole[0])
        assert np.array_equal(depthwise(x, C, kernel_size=g.kernel, **g.options), whole[1])


@pytest.mark.parametrize(
    ("shape", "kernel"),
    # All patches together would take 170 MB, 86 MB (of a signal 29), 83 MB (of a depth 21).
    [((60, 16, 56, 44), (3, 3)), ((3, 16, 50_000), (9,)), ((1, 16, 4, 120, 100), (3, 3, 3))],
)
def test_temporaries_stay_small(shape, kernel):
    x, W = np.ones(shape, np.float32), np.ones((4, shape[1], *kernel), np.float32)
    C = np.ones((prod(kernel), shape[1]), np.float32)
    runs = [
        lambda: dense(x, W, padding=1),
        lambda: depthwise(x, C, kernel_size=kernel, padding=1),
    ]
    if len(kernel) == 2:  # all channels between the stages would take 75 MB
        cp = CP([np.ones((side, 128), np.float32) for side in (4, shape[1], 9)])
        runs.append(lambda: cp_conv2d(x, cp, kernel_size=3, padding=1))
    for run in runs:
        tracemalloc.start()
        y = run()
        peak = tracemalloc.get_traced_memory()[1] - y.nbytes
        tracemalloc.stop()
        assert peak < 16 * 2**20


def all_layers(values, d, kernel=2):
    """Calls of all layers on one batch, by name."""
    x, sides = values((2, 3, *[5] * d)), (4, 3, kernel**d)
    cp = CP([values((side, 2)) for side in sides], values(2))
    b = values(4)
    return {
        "dense": lambda: dense(x, values((4, 3, *[kernel] * d)), bias=b),
        "pointwise": lambda: pointwise(x, values((4, 3)), bias=b),
        "depthwise": lambda: depthwise(x, values((kernel**d, 3)), kernel_size=kernel),
        "stages": lambda: stages(x, cp, kernel_size=kernel, bias=b),
        "linear": lambda: cp_linear(x.swapaxes(1, -1), CP(cp.factors[:2], cp.weights), bias=b),
    }


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ordinary_numbers_are_computed_in_their_type_and_not_taken_apart(d, dtype, monkeypatch):
    def unused(*_):
        raise AssertionError("the slow form")

    for name in ("wide", "finite", "bilinear"):
        monkeypatch.setattr(conv, name, unused)
    for run in all_layers(normals(d, dtype), d).values():
        assert run().dtype == dtype
    large = all_layers(lambda shape: 2.0**60 * normals(d, np.float32)(shape), d)
    if dtype == np.float32:  # leaves the range half-way: in float64, still not taken apart
        monkeypatch.setattr(conv, "finite", lambda y, *_: y)
        for run in large.values():
            assert run().dtype == np.float64


@pytest.mark.parametrize("channels", [1, 3])
def test_blocks_hold_as_much_as_fits(channels, monkeypatch):
    monkeypatch.setattr(geometry, "_BLOCK_BYTES", 8000)
    for shape, kernel in (((7, channels, 6, 8), (2, 3)), ((1, channels, 9, 40), (3, 3))):
        axes = geometry.window_axes(shape[2:], kernel, 1, 0, 1)
        blocks = [columns for *_, columns in geometry.window_patches(np.ones(shape), axes)]
        entries, pixels = channels * prod(kernel), prod(a.out for a in axes)
        assert all(columns.shape[1] == entries for columns in blocks)
        # Each holds as many images, or rows of one image, as the limit allows; one at least.
        pixels //= 1 if shape[0] == 7 else 7
        each = max(1, 8000 // (8 * entries * pixels))
        assert len(blocks) == -(-7 // each) > 1
        assert max(columns.nbytes for columns in blocks) <= max(8000, 8 * entries * pixels)
    sizes = []
    for name in ("_pointwise", "depthwise_plain"):
        inner = getattr(conv, name)
        monkeypatch.setattr(
            conv, name, lambda x, *a, f=inner, **o: (sizes.append(len(x)), f(x, *a, **o))[1]
        )
    x = np.ones((7, 3, 6, 8))
    cp = CP([np.ones((side, 5)) for side in (4, 3, 4)])
    cp_conv2d(x, cp, kernel_size=2)
    assert max(sizes) == 4  # 8 * 5 * 6 * 8 bytes an image
    sizes.clear()
    depthwise(x, np.ones((4, 3)), kernel_size=2, padding=1)
    assert sizes == [4, 3]  # 8 * 3 * 8 * 10 bytes an image


@pytest.mark.parametrize(
    ("sides", "roundings"),
    # Channels, kernel entries, components and factors are summed or multiplied in the stages,
    # components, factors and all entries under the kernel otherwise; each has a bias.
    [
        ((2, 3, 4), 3 + 4 + 5 + 3 + 1 + 5 + 3 + 12 + 1),
        ((2, 3, 1), 3 + 1 + 5 + 3 + 1 + 5 + 3 + 3 + 1),
    ],
)
def test_the_bound_counts_each_rounding_once(sides, roundings):
    cp = CP([np.ones((side, 5)) / side for side in sides], np.full(5, -0.2))
    size = (2, 2) if sides[2] == 4 else 1
    x = np.full((1, 3, 3, 3), -1.0)
    for kind, unit in ((np.float64, 2.0**-53), (np.float32, 2.0**-24)):
        single = CP([A.astype(kind) for A in cp.factors], cp.weights.astype(kind))
        bound = cp_conv_bound(x.astype(kind), single, kernel_size=size, bias=np.full(2, 0.5, kind))
        assert np.allclose(bound, roundings * unit, rtol=1e-4)  # of numbers of size 1


def test_the_kernel_is_a_copy_and_so_is_the_tensor():
    W = np.ones((2, 3, 1, 2), np.float32)
    for order in "CF":
        given_kernel = np.array(W, order=order)
        X = kernel_to_tensor(given_kernel)
        back = tensor_to_kernel(X, (1, 2))
        X[:] = back[:] = 7
        assert (given_kernel == 1).all()
        assert not np.shares_memory(X, back)
        assert X.flags.c_contiguous and back.flags.c_contiguous
        assert X.dtype == back.dtype == np.float32


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("pixels", [16, 600])
def test_few_and_many_pixels_give_the_same(images, pixels):
    values = integers(4)
    x, A = values((images, 3, pixels)), values((5, 3))
    for flag in (True, False):
        y = conv._pointwise(x, A, innermost=flag)
        assert np.array_equal(y, np.einsum("ncw,oc->now", x, A))
        if flag:
            assert y.transpose(0, 2, 1).flags.c_contiguous


@pytest.mark.parametrize(
    ("size", "kernel"), [((9,), (3,)), ((5, 4), (2, 3)), ((3, 5, 4), (2, 3, 1))]
)
def test_any_memory_layout_gives_the_same_and_nothing_is_changed(size, kernel):
    values, d = integers(1), len(size)
    x, W = values((2, 3, *size)), values((4, 3, *kernel))
    C, cp = values((prod(kernel), 3)), CP([values((side, 2)) for side in (4, 3, prod(kernel))])
    factorized = stages(x, cp, kernel_size=kernel)
    expected = dense(x, W, padding=1), depthwise(x, C, kernel_size=kernel, padding=1)
    backwards = (slice(None), *[slice(None, None, -1)] * (d + 1))
    frozen, reverse = np.asfortranarray(x), x[backwards].copy()[backwards]
    frozen.setflags(write=False)
    for same in (frozen, reverse, x.astype(np.float16), x.astype(np.int8)):
        assert np.array_equal(dense(same, np.asfortranarray(W), padding=1), expected[0])
        assert np.array_equal(
            depthwise(same, C[::-1].copy()[::-1], kernel_size=kernel, padding=1), expected[1]
        )
        assert np.array_equal(stages(same, cp, kernel_size=kernel), factorized)
    assert np.array_equal(depthwise(x.tolist(), C, kernel_size=kernel, padding=1), expected[1])
    y = dense(x, W)
    y += 1
    assert np.array_equal(x, integers(1)((2, 3, *size)))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_float32_needs_every_array_in_float32(d):
    single, double = np.float32, np.float64
    shapes = [(1, 2, *[3] * d), (2, 2), 2]
    for dtypes in (
        [single] * 3,
        [double, single, single],
        [single, double, single],
        [single, single, double],
    ):
        x, A, b = (np.ones(s, t) for s, t in zip(shapes, dtypes, strict=True))
        cp = CP([A, A])
        expected = np.result_type(*dtypes)
        assert dense(x, as_kernel(A, d), bias=b).dtype == expected
        assert pointwise(x, A, bias=b).dtype == expected
        assert stages(x, cp, kernel_size=1, bias=b).dtype == expected
        assert cp_linear(x, CP([A, np.ones((3, 2), A.dtype)]), bias=b).dtype == expected
        assert depthwise(x, A[:1], kernel_size=1).dtype == np.result_type(*dtypes[:2])
        assert cp_conv_bound(x, cp, kernel_size=1, bias=b).max() < (
            1e-5 if expected == single else 1e-14
        )


# --- bad input ------------------------------------------------------------------------------------

X, KERNEL = np.ones((2, 3, 5, 4)), np.ones((6, 3, 3, 3))

BAD_OPTIONS = [
    ({"stride": 0}, ValueError, "stride: expected at least 1"),
    ({"stride": (1, -1)}, ValueError, "stride: expected at least 1"),
    ({"stride": 1.0}, TypeError, "stride: expected an integer"),
    ({"stride": True}, TypeError, "stride: expected an integer"),
    ({"stride": None}, TypeError, "stride: expected an integer"),
    ({"stride": (1, 2, 3)}, ValueError, "stride: expected 1 or 2 integers"),
    ({"stride": "same"}, ValueError, "stride: expected 1 or 2 integers"),
    ({"dilation": 0}, ValueError, "dilation: expected at least 1"),
    (
        {"dilation": 3},
        ValueError,
        r"x: expected a padded height of at least 7 \(the kernel's span\), got 5",
    ),
    ({"dilation": (1, 2)}, ValueError, "x: expected a padded width of at least 5"),
    ({"padding": -1}, ValueError, "padding: expected at least 0"),
    ({"padding": (1, 0, 1, -1)}, ValueError, "padding: expected at least 0"),
    ({"padding": (1, 1, 1)}, ValueError, "padding: expected 1 or 2 or 4 integers"),
    ({"padding": 0.5}, TypeError, "padding: expected an integer"),
    ({"padding": ((1, 1), (1, 1))}, TypeError, "padding: expected an integer"),
    ({"padding": "SAME"}, ValueError, r"padding: expected one of \['valid', 'same'\]"),
    ({"padding": None}, TypeError, "padding: expected an integer"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_bad_options_are_refused(options, error, message):
    cp = CP([np.ones((side, 2)) for side in (6, 3, 9)])
    with pytest.raises(error, match=f"^{message}"):
        conv2d(X, KERNEL, **options)
    with pytest.raises(error, match=f"^{message}"):
        depthwise(X, np.ones((9, 3)), kernel_size=3, **options)
    with pytest.raises(error, match=f"^{message}"):
        cp_conv2d(X, cp, kernel_size=3, **options)
    with pytest.raises(error, match=f"^{message}"):
        cp_conv_bound(X, cp, kernel_size=3, **options)
    if "stride" in options:
        with pytest.raises(error, match=f"^{message}"):
            pointwise(X, np.ones((2, 3)), **options)


@pytest.mark.parametrize(
    ("d", "options", "message"),
    [
        (1, {"stride": (1, 2)}, "stride: expected 1 integer, got"),
        (1, {"dilation": (1, 2)}, "dilation: expected 1 integer, got"),
        (1, {"padding": (1, 2, 3)}, "padding: expected 1 or 2 integers"),
        (1, {"padding": "full"}, "padding: expected one of"),
        (1, {"dilation": 3}, "x: expected a padded width of at least 7"),
        (3, {"stride": (1, 2)}, "stride: expected 1 or 3 integers"),
        (3, {"dilation": (1, 2)}, "dilation: expected 1 or 3 integers"),
        (3, {"padding": (1, 2)}, "padding: expected 1 or 3 or 6 integers"),
        (3, {"padding": (1, 2, 3, 4)}, "padding: expected 1 or 3 or 6 integers"),
        (3, {"dilation": (3, 1, 1)}, "x: expected a padded depth of at least 7"),
        (3, {"dilation": (1, 3, 1)}, "x: expected a padded height of at least 7"),
    ],
)
def test_options_for_another_number_of_axes_are_refused(d, options, message):
    x, cp = np.ones((1, 3, *[5] * d)), CP([np.ones((side, 2)) for side in (2, 3, 3**d)])
    for run in (
        lambda: dense(x, np.ones((2, 3, *[3] * d)), **options),
        lambda: depthwise(x, np.ones((3**d, 3)), kernel_size=3, **options),
        lambda: stages(x, cp, kernel_size=3, **options),
        lambda: cp_conv_bound(x, cp, kernel_size=3, **options),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            run()


def test_images_and_kernels_with_another_number_of_axes_are_refused():
    for d, run in ((1, conv1d), (2, conv2d), (3, conv3d)):
        good, bad = np.ones([1] * (d + 2)), np.ones([1] * (d + 3))
        with pytest.raises(ValueError, match=f"^x: expected {d + 2} axes, got {d + 3}"):
            run(bad, good)
        with pytest.raises(ValueError, match=f"^W: expected {d + 2} axes, got {d + 3}"):
            run(good, bad)
    cp = CP([np.ones((1, 1))] * 3)
    for d, run in ((1, cp_conv1d), (2, cp_conv2d), (3, cp_conv3d)):
        with pytest.raises(ValueError, match=f"^x: expected {d + 2} axes, got {d + 1}"):
            run(np.ones([1] * (d + 1)), cp, kernel_size=1)
    for bad in (np.ones((1, 1)), np.ones([1] * 6)):
        for run in (
            lambda bad: pointwise(bad, [[1]]),
            lambda bad: depthwise(bad, [[1]], kernel_size=1),
            lambda bad: cp_conv_bound(bad, cp, kernel_size=1),
        ):
            with pytest.raises(ValueError, match=f"^x: expected 3 to 5 axes, got {bad.ndim}"):
                run(bad)
        with pytest.raises(ValueError, match=f"^W: expected 3 to 5 axes, got {bad.ndim}"):
            kernel_to_tensor(bad)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.full((2, 3, 5, 4), np.nan), ValueError, "expected finite"),
        (np.full((2, 3, 5, 4), -np.inf), ValueError, "expected finite"),
        (np.ones((2, 3, 5, 4), complex), TypeError, "expected an array of real"),
        (np.ones((2, 3, 5, 4), bool), TypeError, "expected an array of real"),
        (np.ones((2, 3, 5, 4), object), TypeError, "expected an array of real"),
        (np.ones((2, 3, 0, 4)), ValueError, "expected a non-empty"),
        (np.ones((3, 5)), ValueError, "expected (4|3 to 5) axes, got 2"),
        (np.float64(1), ValueError, "expected (4|3 to 5) axes, got 0"),
    ],
)
def test_bad_images_and_kernels_are_refused(bad, error, message):
    cp = CP([np.ones((side, 2)) for side in (6, 3, 9)])
    for run in (
        lambda: conv2d(bad, KERNEL),
        lambda: pointwise(bad, np.ones((2, 3))),
        lambda: depthwise(bad, np.ones((9, 3)), kernel_size=3),
        lambda: cp_conv2d(bad, cp, kernel_size=3),
        lambda: cp_conv_bound(bad, cp, kernel_size=3),
    ):
        with pytest.raises(error, match=f"^x: {message}"):
            run()
    with pytest.raises(error, match=f"^W: {message}"):
        conv2d(X, bad)
    with pytest.raises(error, match=f"^W: {message}"):
        kernel_to_tensor(bad)


def test_shapes_that_do_not_fit_are_refused():
    cp = CP([np.ones((side, 2)) for side in (6, 3, 9)])
    with pytest.raises(
        ValueError, match=r"^x: expected 2 channels .* \(as W has\), got 3; grouped kernels"
    ):
        conv2d(X, KERNEL[:, :2])
    with pytest.raises(ValueError, match=r"^x: expected 4 channels"):
        pointwise(X, np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"^x: expected 3 channels"):
        cp_conv2d(X[:, :2], cp, kernel_size=3)
    with pytest.raises(ValueError, match=r"^C: expected shape \(9, 3\)"):
        depthwise(X, np.ones((6, 3)), kernel_size=3)
    with pytest.raises(ValueError, match=r"^C: expected shape \(9, 3\)"):
        depthwise(X, np.ones((9, 4)), kernel_size=3)
    for size in (2, (3, 1)):
        with pytest.raises(
            ValueError, match=r"^cp: expected shape \(Cout, Cin, \d\) for kernel_size"
        ):
            cp_conv2d(X, cp, kernel_size=size)
    with pytest.raises(ValueError, match=r"^cp: .* for kernel_size \(2, 1\), got \(6, 3, 1, 2\)"):
        cp_conv2d(X, CP([np.ones((side, 2)) for side in (6, 3, 1, 2)]), kernel_size=(2, 1))
    with pytest.raises(ValueError, match=r"^cp: .* for kernel_size \(3, 3\), got \(6, 3\)"):
        cp_conv2d(X, CP(cp.factors[:2]), kernel_size=3)
    with pytest.raises(ValueError, match=r"^X: expected shape \(Cout, Cin, 6\)"):
        tensor_to_kernel(np.ones((2, 3, 9)), (2, 3))
    with pytest.raises(ValueError, match=r"^x, cp: .*got \(5,\) and \(6, 3\)"):
        cp_linear(np.ones(5), CP(cp.factors[:2]))
    with pytest.raises(ValueError, match=r"^x, cp: .*got \(3,\) and \(6, 3, 9\)"):
        cp_linear(np.ones(3), cp)
    for bias in (np.ones(5), np.ones((1, 6)), [np.nan] * 6):
        for run in (
            lambda bias: conv2d(X, KERNEL, bias=bias),
            lambda bias: cp_conv2d(X, cp, kernel_size=3, bias=bias),
            lambda bias: cp_linear(np.ones(3), CP(cp.factors[:2]), bias=bias),
        ):
            with pytest.raises(ValueError, match=r"^bias: expected"):
                run(bias)
    for call in (cp_conv2d, cp_conv_bound):
        with pytest.raises(TypeError, match=r"^cp: expected a CP, got ndarray"):
            call(X, KERNEL, kernel_size=3)
    with pytest.raises(TypeError, match=r"^cp: expected a CP, got list"):
        cp_linear(X, list(cp.factors))
    with pytest.raises(ValueError, match=r"^x: expected at least 1 axes, got 0"):
        cp_linear(1.0, CP(cp.factors[:2]))
    for name, run in (
        ("A", lambda A: pointwise(X, A)),
        ("C", lambda C: depthwise(X, C, kernel_size=3)),
        ("X", lambda tensor: tensor_to_kernel(tensor, 3)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected (at least )?2 axes, got 1"):
            run(np.ones(3))
        with pytest.raises(ValueError, match=f"^{name}: expected finite"):
            run(np.full((9, 3), np.nan))
    with pytest.raises(ValueError, match=r"^A: expected 2 axes"):
        pointwise(X, np.ones((2, 3, 1)))
    with pytest.raises(ValueError, match=r"^C: expected 2 axes"):
        depthwise(X, np.ones((9, 3, 1)), kernel_size=3)
    with pytest.raises(ValueError, match=r"^bias: expected 1 axes"):
        pointwise(X, np.ones((2, 3)), bias=[[1.0, 1.0]])
    with pytest.raises(ValueError, match=r"^X: expected shape \(Cout, Cin, 27\)"):
        tensor_to_kernel(np.ones((2, 3, 9)), (3, 3, 3))
    with pytest.raises(ValueError, match=r"^kernel_size: expected 1 or 2 integers"):
        cp_conv2d(X, cp, kernel_size=(3, 3, 3))
    for size, error in ((0, ValueError), (3.0, TypeError), ((3, 3, 3, 3), ValueError)):
        with pytest.raises(error, match=r"^kernel_size: expected"):
            tensor_to_kernel(np.ones((2, 3, 9)), size)
        with pytest.raises(error, match=r"^kernel_size: expected"):
            cp_conv2d(X, cp, kernel_size=size)


@st.composite
def wild_layers(draw, dtype):
    """Images and a factorized kernel whose entries have any magnitude of the type."""
    exponent = 1000 if dtype == np.float64 else 120
    rank, cin, cout, width, size = (draw(st.integers(1, 2)) for _ in range(5))

    def some(*shape):
        return draw(wild(shape, exponent, dtype))

    cp = CP([some(cout, rank), some(cin, rank), some(size, rank)], some(rank))
    return some(1, cin, 2, width + 1), cp, (1, size), some(cout)


def exact_layer(x, cp, size, bias):
    first, *rest = exact(cp.factors)
    weighted = [[a * w for a, w in zip(row, exact(cp.weights), strict=True)] for row in first]
    return loops.cp_conv(exact(x), [weighted, *rest], kernel_size=size, bias=exact(bias))


@law("cp_conv2d.range")
@given(st.sampled_from([np.float64, np.float32]), st.data())
def test_a_factorized_layer_takes_entries_of_any_magnitude(dtype, data):
    x, cp, size, bias = data.draw(wild_layers(dtype))
    truth = exact_layer(x, cp, size, bias)
    positive = CP([abs(A) for A in cp.factors], abs(cp.weights))
    most = exact_layer(abs(x), positive, size, abs(bias))
    assert_in_range(lambda: cp_conv2d(x, cp, kernel_size=size, bias=bias), truth, most, 250, dtype)


@law("cp_linear.range")
@given(st.sampled_from([np.float64, np.float32]), st.data())
def test_a_linear_layer_takes_entries_of_any_magnitude(dtype, data):
    x, cp, _, bias = data.draw(wild_layers(dtype))
    two = CP(cp.factors[:2], cp.weights)
    rows = x.transpose(0, 2, 3, 1)

    def result(rows, two, bias):
        images = np.asarray(rows).reshape(-1, rows.shape[-1], 1, 1)
        return exact_layer(images, two, (1, 1), bias)

    most = result(abs(rows), CP([abs(A) for A in two.factors], abs(two.weights)), abs(bias))
    call = partial(cp_linear, rows, two, bias=bias)
    assert_in_range(call, result(rows, two, bias), most, 250, dtype)


@law("conv2d.range")
@law("pointwise.range")
@law("depthwise.range")
@given(st.sampled_from([np.float64, np.float32]), st.data())
def test_convolutions_take_entries_of_any_magnitude(dtype, data):
    exponent = 1000 if dtype == np.float64 else 120
    x = data.draw(wild((1, 2, 2, 3), exponent, dtype))
    W = data.draw(wild((2, 2, 1, 2), exponent, dtype))
    bias = data.draw(wild((2,), exponent, dtype))
    truth = loops.conv(exact(x), exact(W), bias=exact(bias))
    most = loops.conv(exact(abs(x)), exact(abs(W)), bias=exact(abs(bias)))
    assert_in_range(lambda: conv2d(x, W, bias=bias), truth, most, 80, dtype)
    A, C = W[:, :, 0, 0], W[:, :, 0, 1].T
    truth, most = (loops.pointwise(exact(f(x)), exact(f(A))) for f in (np.array, np.abs))
    assert_in_range(lambda: pointwise(x, A), truth, most, 80, dtype)
    truth, most = (
        loops.depthwise(exact(f(x)), exact(f(C)), kernel_size=(1, 2)) for f in (np.array, np.abs)
    )
    assert_in_range(lambda: depthwise(x, C, kernel_size=(1, 2)), truth, most, 80, dtype)


def big_endian(x):
    return x.astype(x.dtype.newbyteorder(">"))


def spread_out(x):
    return np.repeat(x, 2, axis=-1)[..., ::2]


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


def as_torch(x):
    torch = pytest.importorskip("torch", reason="tensors of another library")
    return torch.from_numpy(x.copy())


class Foreign:
    """An object whose dtype means nothing to NumPy."""

    dtype = "some.float32"

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


FORMS = [big_endian, spread_out, read_only, as_torch, Foreign]


@law("conv2d.dtype")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_type_is_that_of_the_data_whatever_made_them(form, dtype, rng):
    x = rng.integers(-4, 5, (1, 2, 4, 4)).astype(dtype)
    W, bias = rng.integers(-4, 5, (3, 2, 2, 2)).astype(dtype), np.ones(3, dtype)
    cp = [rng.integers(-4, 5, (side, 2)).astype(dtype) for side in (3, 2, 4)]
    wanted = np.float32 if dtype == np.float32 else np.float64
    outputs = [
        (conv2d(form(x), form(W), bias=form(bias)), conv2d(x, W, bias=bias)),
        (pointwise(form(x), form(W[:, :, 0, 0])), pointwise(x, W[:, :, 0, 0])),
        (depthwise(form(x), form(cp[2]), kernel_size=2), depthwise(x, cp[2], kernel_size=2)),
        (
            cp_conv2d(form(x), CP([form(A) for A in cp]), kernel_size=2, bias=form(bias)),
            cp_conv2d(x, CP(cp), kernel_size=2, bias=bias),
        ),
        (
            cp_linear(form(x[0, :, 0, :].T.copy()), CP([form(A) for A in cp[:2]])),
            cp_linear(x[0, :, 0, :].T, CP(cp[:2])),
        ),
        (kernel_to_tensor(form(W)), kernel_to_tensor(W)),
    ]
    for found, expected in outputs:
        assert found.dtype == expected.dtype == wanted
        assert found.dtype.isnative
        assert np.array_equal(found, expected)


def as_list(x):
    return x.tolist()


def as_it_is(x):
    return x


@law("conv2d.dtype")
@given(
    st.tuples(*[st.sampled_from([np.float32] * 4 + [np.float64, np.float16, np.int8])] * 3),
    st.tuples(*[st.sampled_from([as_it_is, big_endian, spread_out, read_only, Foreign])] * 3),
    st.sampled_from([None, 0, 1, 2]),
    geometries(),
)
def test_float32_comes_out_if_and_only_if_all_arrays_hold_it(dtypes, forms, listed, g):
    values = integers(g.seed)
    arrays = [values(g.x_shape), values(g.W_shape), values(g.outputs)]
    given_arrays = [form(a.astype(t)) for a, t, form in zip(arrays, dtypes, forms, strict=True)]
    if listed is not None:  # a list holds numbers of Python, which are float64
        given_arrays[listed] = as_list(arrays[listed])
    all_single = listed is None and set(dtypes) == {np.float32}
    x, W, bias = given_arrays
    d = arrays[0].ndim - 3
    y = (conv1d, conv2d, conv3d)[d](x, W, bias=bias, **g.options)
    assert y.dtype == (np.float32 if all_single else np.float64)
    assert y.dtype.isnative
    assert np.array_equal(y, dense(*arrays[:2], bias=arrays[2], **g.options))


def test_what_a_type_cannot_hold_is_refused_without_a_warning():
    x = np.full((1, 1, 1, 1), 1e30, np.float32)
    with pytest.raises(ValueError, match=r"^x, W, bias: the result exceeds the range of float32"):
        conv2d(x, x)
    assert conv2d(x.astype(np.float64), x).dtype == np.float64
    assert conv2d(x, 1 / x)[0, 0, 0, 0] == pytest.approx(1, rel=1e-6)
    y = np.full((1, 1, 1, 1), 1e200)
    with pytest.raises(ValueError, match=r"^x, A, bias: the result exceeds the range of float64"):
        pointwise(y, y[0, :, :, 0])
    with pytest.raises(ValueError, match=r"^x, W, bias: the result exceeds"):
        conv2d(y * 1e108, y / 1e200, bias=[1.7e308])
    assert conv2d(y, y / 1e200, bias=[1.7e308]) == 1.7e308
    for z, kind in ((x, "float32"), (y, "float64")):
        cp = CP([z[0, :, :, 0]] * 3)
        with pytest.raises(ValueError, match=f"^x, cp, bias: the result exceeds .* of {kind}"):
            cp_conv2d(z, cp, kernel_size=1)
        with pytest.raises(ValueError, match=f"^x, cp, bias: the result exceeds .* of {kind}"):
            cp_linear(z[:, :, 0, 0], CP(cp.factors[:2]))
        with pytest.raises(ValueError, match=f"^x, C: the result exceeds the range of {kind}"):
            depthwise(z, z[0, :, :, 0], kernel_size=1)


# --- planted faults -------------------------------------------------------------------------------


def big_endian_float32():
    rng = np.random.default_rng(0)
    test_the_type_is_that_of_the_data_whatever_made_them(big_endian, np.float32, rng)


def plain_conv2d(x, W, *, bias):
    """Computes in the type of the data, wherever that leads."""
    with np.errstate(all="ignore"):
        columns = sliding_window_view(x, W.shape[2:], axis=(2, 3))
        y = np.einsum("nchwij,ocij->nohw", columns, W) + bias[:, None, None]
        return np.nan_to_num(y).astype(x.dtype)


def flushed_cp_conv2d(x, cp, *, kernel_size, bias):
    """Multiplies the weights into the kernel factor, as floats."""
    with np.errstate(all="ignore"):
        last = np.nan_to_num(cp.factors[-1] * cp.weights)
    last = last.astype(x.dtype)
    return book.cp_conv2d(x, CP([*cp.factors[:-1], last]), kernel_size=kernel_size, bias=bias)


def double_cp_linear(x, cp, *, bias):
    """Answers in float64."""
    return book.cp_linear(np.asarray(x, np.float64), cp, bias=bias)


def single_if_images_are(x, W, **options):
    """Answers in the type of the images, whatever that of the kernel is."""
    single = np.asarray(x).dtype == np.float32
    return book.conv2d(x, W, **options).astype(np.float32 if single else np.float64)


def attribute_conv2d(x, W, *, bias):
    """Asks the argument for its type, not the array."""
    y = book.conv2d(x, W, bias=bias)
    return y if getattr(x, "dtype", None) == np.float32 else y.astype(np.float64)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_convolutions_take_entries_of_any_magnitude, {"conv2d": plain_conv2d}),
        (test_a_factorized_layer_takes_entries_of_any_magnitude, {"cp_conv2d": flushed_cp_conv2d}),
        (test_a_linear_layer_takes_entries_of_any_magnitude, {"cp_linear": double_cp_linear}),
        (big_endian_float32, {"conv2d": attribute_conv2d}),
        (
            test_float32_comes_out_if_and_only_if_all_arrays_hold_it,
            {"conv2d": single_if_images_are},
        ),
    ],
)
def test_faults_of_range_and_type_are_caught(test, fault):
    assert caught(THIS, test, **fault)


# They call what stands behind the public functions, not the global that they replace.


def right(x, W, **options):
    return conv.dense_conv(x, W, x.ndim - 2, **options)


def right_stages(x, cp, *, kernel_size, **options):
    return conv.three_stages(x, cp, x.ndim - 2, kernel_size, **options)


def convolution(x, W, **options):
    """Flips the kernel, as mathematicians do."""
    return right(x, W[steps(-1, x.ndim - 2)], **options)


def _fault_of_padding(order):
    """Read begins and ends in another order."""

    def fault(x, W, *, padding=0, **options):
        d = x.ndim - 2
        if np.size(padding) == 2 * d:
            padding = np.array(padding)[order(d)].tolist()
        return right(x, W, padding=padding, **options)

    return fault


# Axis by axis, (top, bottom, left, right); the same, last axis first, as torch's pad does; ends
# first; begins of the axes in reverse.
axis_by_axis = _fault_of_padding(lambda d: np.arange(2 * d).reshape(d, 2).T.ravel())
last_axis_first = _fault_of_padding(lambda d: np.arange(2 * d).reshape(d, 2)[::-1].T.ravel())
ends_first = _fault_of_padding(lambda d: np.roll(np.arange(2 * d), d))
axes_reversed = _fault_of_padding(lambda d: np.arange(2 * d).reshape(2, d)[:, ::-1].ravel())


def pads_of_other_axes(x, W, *, padding=0, stride=1, dilation=1, **options):
    """Takes the sides for 'same' from the axes before: channels instead of rows, and so on."""
    if padding == "same":
        axes = geometry.window_axes(x.shape[1:-1], W.shape[2:], stride, "same", dilation)
        # More zeros at the end where the kernel would not fit otherwise.
        after = [
            max(a.padded - a.before - a.size, a.span - n)
            for a, n in zip(axes, x.shape[2:], strict=True)
        ]
        padding = (*(a.before for a in axes), *after)
    return right(x, W, padding=padding, stride=stride, dilation=dilation, **options)


def same_lower(x, W, *, padding=0, **options):
    """Puts the odd zero of 'same' at the start."""
    if padding == "same":
        stride, dilation = options.get("stride", 1), options.get("dilation", 1)
        axes = geometry.window_axes(x.shape[2:], W.shape[2:], stride, "same", dilation)
        after = (a.padded - a.before - a.size for a in axes)
        padding = (*after, *(a.before for a in axes))
    return right(x, W, padding=padding, **options)


def swapped_stride(x, W, *, stride=1, **options):
    """Gives each axis the stride of the one before."""
    return right(x, W, stride=np.roll(each(stride, x.ndim - 2), 1).tolist(), **options)


def last_stride(x, W, *, stride=1, **options):
    """Gives all axes the stride of the last."""
    return right(x, W, stride=each(stride, x.ndim - 2)[-1], **options)


def swapped_dilation(x, W, *, dilation=1, **options):
    """Gives each axis the dilation of the one before, where the kernel still fits."""
    turned = np.roll(each(dilation, x.ndim - 2), 1).tolist()
    try:
        return right(x, W, dilation=turned, **options)
    except ValueError:
        return right(x, W, dilation=dilation, **options)


def stride_in_first_stage(x, cp, *, kernel_size, stride=1, padding=0, dilation=1, bias=None):
    """Thins the image out before the kernel has seen it."""
    a_out, a_in, *a_kernel = cp.factors
    thin = conv.pointwise(x, a_in.T * cp.weights[:, None], stride=stride)
    if len(a_kernel) == 1:
        z = np.zeros((len(x), cp.rank, *x.shape[2:]))  # room for a kernel that would not fit
        z[first(thin.shape[2:])] = thin
        options = {"kernel_size": kernel_size, "padding": padding, "dilation": dilation}
        thin = conv.depthwise(z, a_kernel[0], **options)
    return conv.pointwise(thin, a_out, bias=bias)


def _fault_of_order(renumbered):
    """Number the entries of a kernel that is one mode in another order."""

    def fault(x, cp, *, kernel_size, **options):
        factors = list(cp.factors)
        if len(factors) == 3:
            order = renumbered(np.arange(len(factors[2])), each(kernel_size, x.ndim - 2)).ravel()
            factors[2] = factors[2][order]
        cp = CP(factors, cp.weights)
        return right_stages(x, cp, kernel_size=kernel_size, **options)

    return fault


def depth_first(k, sides):
    """Has height and width in order, but depth runs fastest: only volumes show it."""
    return np.moveaxis(k.reshape(*sides[-2:], *sides[:-2]), -1, 0) if len(sides) == 3 else k


def height_first(k, sides):
    """Has the width fastest, but then depth: only volumes show it."""
    return k.reshape(sides[1], sides[0], sides[2]).swapaxes(0, 1) if len(sides) == 3 else k


first_fastest = _fault_of_order(lambda k, sides: k.reshape(sides, order="F"))
depth_fastest, depth_next = _fault_of_order(depth_first), _fault_of_order(height_first)


def factors_swapped(x, cp, **options):
    """Takes the factors in the order in, out, and cuts or repeats rows to make them fit."""
    a_out, a_in, *rest = cp.factors
    swapped = [np.resize(a_in, a_out.shape), np.resize(a_out, a_in.shape)]
    return right_stages(x, CP([*swapped, *rest], cp.weights), **options)


def without_weights(x, cp, **options):
    return right_stages(x, CP(cp.factors), **options)


def bias_before_the_last_stage(x, cp, *, bias=None, **options):
    """Adds the bias once per component."""
    return right_stages(x, cp, bias=None if bias is None else cp.rank * bias, **options)


def fortran_tensor(W):
    return conv.kernel_to_tensor(W.transpose(0, 1, *range(W.ndim - 1, 1, -1)))


def half_fortran_tensor(W):
    """Has the width fastest, but of the others the first."""
    return conv.kernel_to_tensor(W.swapaxes(2, -2))


def double_bound(x, cp, **options):
    """Promises for float32 what only float64 can keep."""
    return conv.cp_conv_bound(x.astype(float), CP([A.astype(float) for A in cp.factors]), **options)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_dense_is_the_sum_over_kernel_entries, {"dense": convolution}),
        (test_dense_agrees_with_scipy, {"dense": convolution}),
        (test_large_layers_agree_with_scipy, {"conv2d": convolution}),
        (test_large_layers_agree_with_scipy, {"cp_conv2d": first_fastest}),
        (test_stages_are_the_dense_convolution_exactly, {"dense": convolution}),
        (test_padding_is_zeros_written_around_the_image, {"dense": axis_by_axis}),
        (test_padding_is_zeros_written_around_the_image, {"dense": last_axis_first}),
        (test_padding_is_zeros_written_around_the_image, {"dense": ends_first}),
        (test_padding_is_zeros_written_around_the_image, {"dense": axes_reversed}),
        (test_dense_is_the_sum_over_kernel_entries, {"dense": ends_first}),
        (test_same_padding_gives_one_output_per_step, {"dense": pads_of_other_axes}),
        (test_dense_is_the_sum_over_kernel_entries, {"dense": same_lower}),
        (test_dense_is_the_sum_over_kernel_entries, {"dense": swapped_stride}),
        (test_a_stride_picks_from_the_output_of_stride_one, {"dense": swapped_stride}),
        (test_an_axis_of_one_pixel_does_not_show, {"dense": swapped_stride}),
        (test_dense_is_the_sum_over_kernel_entries, {"dense": swapped_dilation}),
        (test_no_spatial_axis_is_special, {"dense": last_stride}),
        (test_stages_are_the_dense_convolution_exactly, {"stages": stride_in_first_stage}),
        (test_stages_are_the_dense_convolution_within_the_bound, {"stages": first_fastest}),
        (test_stages_equal_the_index_loops, {"stages": first_fastest}),
        (test_stages_are_the_dense_convolution_exactly, {"stages": factors_swapped}),
        (test_stages_are_the_dense_convolution_exactly, {"stages": without_weights}),
        (test_stages_equal_the_index_loops, {"stages": bias_before_the_last_stage}),
        (test_kernel_and_tensor_are_views_of_each_other, {"kernel_to_tensor": fortran_tensor}),
        (test_kernel_and_tensor_are_views_of_each_other, {"kernel_to_tensor": half_fortran_tensor}),
        (test_stages_are_the_dense_convolution_within_the_bound, {"cp_conv_bound": double_bound}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)


@pytest.mark.parametrize("fault", [depth_fastest, depth_next])
def test_kernel_orders_that_only_volumes_show_are_caught(fault):
    law = test_stages_are_the_dense_convolution_exactly.hypothesis.inner_test
    assert caught(THIS, given(geometries(axes=(3,)), st.data())(law), stages=fault)


@pytest.mark.parametrize(("d", "axis"), [(1, 0), (2, 1), (3, 2)])
def test_same_padding_with_the_odd_zero_at_the_start_is_caught(d, axis):
    def test():
        test_same_padding_puts_the_odd_zero_at_the_end(d, axis)

    assert caught(THIS, test, dense=same_lower)
