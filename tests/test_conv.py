"""Laws, exact vectors and bad input of qcp_ref.conv; its planted faults stand at the end."""

import sys
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same, assert_within, caught, exact, seeds, sides

from qcp_ref import (
    CP,
    conv,
    conv2d,
    cp_conv2d,
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

THIS = sys.modules[__name__]
DTYPES = st.sampled_from([np.float32, np.float64])


class Geometry(NamedTuple):
    """Sizes and options that fit each other; ``options`` are those of conv2d."""

    images: tuple[int, int]  # number, channels
    size: tuple[int, int]
    outputs: int
    kernel: tuple[int, int]
    options: dict
    seed: int

    @property
    def x_shape(self):
        return (*self.images, *self.size)

    @property
    def W_shape(self):
        return (self.outputs, self.images[1], *self.kernel)


def one_or_pair(numbers):
    return numbers | st.tuples(numbers, numbers)


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def spans(kernel, dilation):
    return [d * (k - 1) + 1 for k, d in zip(kernel, pair(dilation), strict=True)]


@st.composite
def geometries(draw, paddings=("numbers", "four numbers", "valid", "same")):
    """Draw distinct sizes, sides of 1, and every form that an option can take."""
    small = st.integers(1, 3)
    kernel = draw(st.tuples(small, small))
    stride, dilation = draw(one_or_pair(small)), draw(one_or_pair(st.integers(1, 2)))
    padding, given_zeros = draw(st.sampled_from(paddings)), (0, 0)
    if padding.endswith("numbers"):
        zeros = st.integers(0, 2)
        padding = draw(one_or_pair(zeros) if padding == "numbers" else st.tuples(*[zeros] * 4))
        top, left, bottom, right = padding if np.size(padding) == 4 else pair(padding) * 2
        given_zeros = (top + bottom, left + right)
    size = [
        draw(st.integers(1 if padding == "same" else max(1, span - zeros), span + 3))
        for span, zeros in zip(spans(kernel, dilation), given_zeros, strict=True)
    ]
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    images = draw(st.tuples(st.integers(1, 2), sides))
    return Geometry(images, tuple(size), draw(sides), kernel, options, draw(seeds))


class Layer(NamedTuple):
    """A factorized layer: CP tensor and bias."""

    cp: CP
    bias: np.ndarray


@st.composite
def layers(draw, g, values, modes=(2, 3, 4)):
    """Draw a CP tensor that fits a geometry: 2 modes (for 1x1 kernels), 3, or 4."""
    d = draw(st.sampled_from([m for m in modes if m > 2 or g.kernel == (1, 1)]))
    tail = {2: (), 3: (g.kernel[0] * g.kernel[1],), 4: g.kernel}[d]
    rank = draw(sides)
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


# --- dense --------------------------------------------------------------------------------------


@given(geometries())
def test_conv2d_is_the_sum_over_kernel_entries(g):
    values = integers(g.seed)
    x, W, b = values(g.x_shape), values(g.W_shape), values(g.outputs)
    truth = loops.conv2d(ints(x), ints(W), bias=ints(b), **g.options)
    assert_same(conv2d(x, W, bias=b, **g.options), truth)


@settings(max_examples=30)
@given(geometries(), DTYPES)
def test_conv2d_stays_within_its_rounding_bound(g, dtype):
    values = normals(g.seed, dtype)
    x, W, b = values(g.x_shape), values(g.W_shape), values(g.outputs)
    size = conv2d(*(abs(a).astype(float) for a in (x, W)), bias=abs(b), **g.options)
    truth = loops.conv2d(exact(x), exact(W), bias=exact(b), **g.options)
    actual = conv2d(x, W, bias=b, **g.options)
    assert actual.dtype == dtype
    assert_within(actual, truth, rounding_bound(W[0].size + 1, size, dtype=dtype))


@given(geometries())
def test_conv2d_is_linear_in_image_and_kernel(g):
    values = integers(g.seed)
    x, x2, W, W2 = (values(shape) for shape in [g.x_shape] * 2 + [g.W_shape] * 2)
    y = conv2d(x, W, **g.options)
    assert np.array_equal(conv2d(2 * x - x2, W, **g.options), 2 * y - conv2d(x2, W, **g.options))
    assert np.array_equal(conv2d(x, 2 * W - W2, **g.options), 2 * y - conv2d(x, W2, **g.options))


@given(geometries())
def test_each_image_and_each_output_channel_is_on_its_own(g):
    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    y = conv2d(x, W, **g.options)
    assert np.array_equal(conv2d(x[::-1], W, **g.options), y[::-1])
    assert np.array_equal(conv2d(x[-1:], W, **g.options), y[-1:])
    assert np.array_equal(conv2d(x, W[:1], **g.options), y[:, :1])


@given(geometries(paddings=("valid",)), st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_a_shifted_image_gives_a_shifted_output(g, shift):
    values = integers(g.seed)
    margins = [(s + 2, s + 2) for s in spans(g.kernel, g.options["dilation"])]
    x = np.pad(values(g.x_shape), [(0, 0), (0, 0), *margins])
    options = {"dilation": g.options["dilation"]}
    W = values(g.W_shape)
    shifted = conv2d(np.roll(x, shift, axis=(2, 3)), W, **options)
    assert np.array_equal(shifted, np.roll(conv2d(x, W, **options), shift, axis=(2, 3)))


@given(geometries(paddings=("numbers", "four numbers", "valid")))
def test_a_stride_picks_from_the_output_of_stride_one(g):
    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    down, right = pair(g.options["stride"])
    every = conv2d(x, W, **{**g.options, "stride": 1})
    assert np.array_equal(conv2d(x, W, **g.options), every[:, :, ::down, ::right])


@given(geometries())
def test_a_dilation_is_a_kernel_with_zeros_in_between(g):
    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    down, right = pair(g.options["dilation"])
    stuffed = np.zeros((*W.shape[:2], *spans(g.kernel, g.options["dilation"])))
    stuffed[:, :, ::down, ::right] = W
    plain = {**g.options, "dilation": (1, 1)}
    assert np.array_equal(conv2d(x, W, **g.options), conv2d(x, stuffed, **plain))


@given(geometries(), st.tuples(*[st.integers(0, 3)] * 4))
def test_padding_is_zeros_written_around_the_image(g, zeros):
    values = integers(g.seed)
    size = spans(g.kernel, g.options["dilation"])
    x, W = values((*g.images, *size)), values(g.W_shape)
    top, left, bottom, right = zeros
    written = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
    options = {**g.options, "padding": zeros}
    expected = conv2d(written, W, **{**options, "padding": "valid"})
    assert np.array_equal(conv2d(x, W, **options), expected)


@given(geometries(paddings=("same",)))
def test_same_padding_gives_one_output_per_step(g):
    y = conv2d(np.ones(g.x_shape), np.ones(g.W_shape), **g.options)
    steps = [len(range(0, n, s)) for n, s in zip(g.size, pair(g.options["stride"]), strict=True)]
    assert y.shape == (g.images[0], g.outputs, *steps)


def test_same_padding_puts_the_odd_zero_at_the_end():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
    y = conv2d(x, np.ones((1, 1, 1, 3)), padding="same", stride=2)
    assert y.tolist() == [[[[6.0, 7.0]]]]


@given(geometries())
def test_conv2d_is_adjoint_to_the_scattering_of_its_output(g):
    values = integers(g.seed)
    (down, right), dilation = pair(g.options["stride"]), g.options["dilation"]
    size = [span + 3 for span in spans(g.kernel, dilation)]
    x, W = values((*g.images, *size)), values(g.W_shape)
    y = conv2d(x, W, stride=(down, right), dilation=dilation)
    weights = values(y.shape)
    stuffed = np.zeros((*y.shape[:2], (y.shape[2] - 1) * down + 1, (y.shape[3] - 1) * right + 1))
    stuffed[:, :, ::down, ::right] = weights
    flipped = W.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    border = tuple(span - 1 for span in spans(g.kernel, dilation))
    scattered = conv2d(stuffed, flipped, padding=border, dilation=dilation)
    reached = x[:, :, : scattered.shape[2], : scattered.shape[3]]
    assert (y * weights).sum() == (reached * scattered).sum()


@given(geometries(paddings=("valid",)))
def test_conv2d_agrees_with_scipy(g):
    from scipy.signal import correlate

    values = integers(g.seed)
    x, W = values(g.x_shape), values(g.W_shape)
    if any(n < k for n, k in zip(g.size, g.kernel, strict=True)):
        return
    expected = [
        [correlate(image, kernel, mode="valid", method="direct")[0] for kernel in W] for image in x
    ]
    assert np.array_equal(conv2d(x, W), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 1, 1), ((2, 3), (2, 0), (1, 2)), (2, "valid", 2)]
)
def test_both_layers_agree_with_torch(stride, padding, dilation, dtype):
    torch = pytest.importorskip("torch")
    values = normals(20, dtype)
    x, b = values((3, 5, 11, 9)), values(7)
    cp = CP([values((side, 4)) for side in (7, 5, 6)])
    W = tensor_to_kernel(reconstruct(cp), (3, 2)).astype(dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    bound = cp_conv_bound(x, cp, kernel_size=(3, 2), bias=b, **options)
    theirs = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, W, b)), **options).numpy()
    for ours in (
        conv2d(x, W, bias=b, **options),
        cp_conv2d(x, cp, kernel_size=(3, 2), bias=b, **options),
    ):
        assert ours.dtype == theirs.dtype
        assert (abs(ours.astype(float) - theirs) <= bound).all()


# --- stages -------------------------------------------------------------------------------------


@given(geometries(paddings=("valid",)))
def test_pointwise_is_a_matrix_product_at_each_pixel(g):
    values = integers(g.seed)
    x, A, b = values(g.x_shape), values((g.outputs, g.images[1])), values(g.outputs)
    stride = g.options["stride"]
    y = pointwise(x, A, stride=stride, bias=b)
    assert np.array_equal(y, conv2d(x, A[:, :, None, None], stride=stride, bias=b))
    assert_same(y, loops.pointwise(ints(x), ints(A), stride=stride, bias=ints(b)))
    down, right = pair(stride)
    assert np.array_equal(y[0, :, -1, 0], A @ x[0, :, ::down, ::right][:, -1, 0] + b)


@given(geometries())
def test_depthwise_is_a_kernel_that_keeps_channels_apart(g):
    values = integers(g.seed)
    channels = g.images[1]
    x, C = values(g.x_shape), values((g.kernel[0] * g.kernel[1], channels))
    W = np.zeros((channels, channels, *g.kernel))
    for r in range(channels):
        W[r, r] = C[:, r].reshape(g.kernel)
    y = depthwise(x, C, kernel_size=g.kernel, **g.options)
    assert np.array_equal(y, conv2d(x, W, **g.options))
    assert_same(y, loops.depthwise(ints(x), ints(C), kernel_size=g.kernel, **g.options))


@given(geometries(), st.data())
def test_stages_are_the_dense_convolution_exactly(g, data):
    values = integers(g.seed)
    cp, bias = data.draw(layers(g, values))
    x = values(g.x_shape)
    stages = cp_conv2d(x, cp, kernel_size=g.kernel, bias=bias, **g.options)
    assert np.array_equal(stages, conv2d(x, kernel_of(cp, g), bias=bias, **g.options))


@given(geometries(), DTYPES, st.data())
def test_stages_are_the_dense_convolution_within_the_bound(g, dtype, data):
    values = normals(g.seed, dtype)
    cp, bias = data.draw(layers(g, values))
    x = values(g.x_shape)
    options = {"kernel_size": g.kernel, "bias": bias, **g.options}
    stages = cp_conv2d(x, cp, **options)
    dense = conv2d(x, kernel_of(cp, g), bias=bias, **g.options)
    assert stages.dtype == dense.dtype == dtype
    bound = cp_conv_bound(x, cp, **options)
    assert (abs(stages.astype(float) - dense.astype(float)) <= bound).all()


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


@settings(max_examples=30)
@given(geometries(), DTYPES, st.data())
def test_stages_equal_the_index_loops(g, dtype, data):
    for values in (integers(g.seed), normals(g.seed, dtype)):
        cp, bias = data.draw(layers(g, values, modes=(2, 3)))
        x, cp = values(g.x_shape), CP(cp.factors)
        stages = cp_conv2d(x, cp, kernel_size=g.kernel, bias=bias, **g.options)
        bound = cp_conv_bound(x, cp, kernel_size=g.kernel, bias=bias, **g.options)
        lists = map(exact, (x, cp.factors))
        truth = loops.cp_conv2d(*lists, kernel_size=g.kernel, bias=exact(bias), **g.options)
        assert_within(stages, truth, bound)


@given(st.lists(sides, max_size=3), sides, sides, sides, seeds)
def test_cp_linear_is_the_layer_of_one_pixel(lead, outputs, inputs, rank, seed):
    values = integers(seed)
    cp = CP([values((outputs, rank)), values((inputs, rank))], values(rank))
    x, b = values((*lead, inputs)), values(outputs)
    y = cp_linear(x, cp, bias=b)
    assert np.array_equal(y, x @ reconstruct(cp).T + b)
    pixels = cp_conv2d(x.reshape(-1, inputs, 1, 1), cp, kernel_size=1, bias=b)
    assert np.array_equal(y.reshape(-1, outputs), pixels[:, :, 0, 0])


@given(geometries())
def test_kernel_and_tensor_are_views_of_each_other(g):
    W = integers(g.seed)(g.W_shape)
    X = kernel_to_tensor(W)
    if g.kernel == (1, 1):
        assert np.array_equal(X, W[:, :, 0, 0])
    else:
        assert_same(X, loops.kernel_to_tensor(ints(W)))
    assert np.array_equal(tensor_to_kernel(X, g.kernel), W)
    assert np.array_equal(tensor_to_kernel(W, g.kernel), W)
    assert tensor_to_kernel(X.astype(np.float32), g.kernel).dtype == np.float32


# --- memory and precision -------------------------------------------------------------------------


@given(geometries(), st.sampled_from([1, 300, 2000]), st.data())
def test_blocks_do_not_show(g, block, data):
    values = integers(g.seed)
    cp, _ = data.draw(layers(g, values))
    x, C = values(g.x_shape), values((g.kernel[0] * g.kernel[1], g.images[1]))
    W = kernel_of(cp, g)
    whole = conv2d(x, W, **g.options), depthwise(x, C, kernel_size=g.kernel, **g.options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "_BLOCK_BYTES", block)
        assert np.array_equal(conv2d(x, W, **g.options), whole[0])
        assert np.array_equal(cp_conv2d(x, cp, kernel_size=g.kernel, **g.options), whole[0])
        assert np.array_equal(depthwise(x, C, kernel_size=g.kernel, **g.options), whole[1])


def test_temporaries_stay_small():
    # All patches together would take 170 MB, all channels between the stages 75 MB.
    x, W = np.ones((60, 16, 56, 44), np.float32), np.ones((4, 16, 3, 3), np.float32)
    cp = CP([np.ones((side, 128), np.float32) for side in (4, 16, 9)])
    for run in (
        lambda: conv2d(x, W, padding=1),
        lambda: cp_conv2d(x, cp, kernel_size=3, padding=1),
        lambda: depthwise(x, W[0].reshape(16, 9).T, kernel_size=3, padding=1),
    ):
        tracemalloc.start()
        y = run()
        peak = tracemalloc.get_traced_memory()[1] - y.nbytes
        tracemalloc.stop()
        assert peak < 16 * 2**20


def test_any_memory_layout_gives_the_same_and_nothing_is_changed():
    values = integers(1)
    x, W = values((2, 3, 5, 4)), values((4, 3, 2, 3))
    C, cp = values((6, 3)), CP([values((side, 2)) for side in (4, 3, 6)])
    stages = cp_conv2d(x, cp, kernel_size=(2, 3))
    expected = conv2d(x, W, padding=1), depthwise(x, C, kernel_size=(2, 3), padding=1)
    frozen, backwards = np.asfortranarray(x), x[:, ::-1, ::-1].copy()[:, ::-1, ::-1]
    frozen.setflags(write=False)
    for same in (frozen, backwards, x.astype(np.float16), x.astype(np.int8), x.tolist()):
        assert np.array_equal(conv2d(same, np.asfortranarray(W), padding=1), expected[0])
        assert np.array_equal(
            depthwise(same, C[::-1].copy()[::-1], kernel_size=(2, 3), padding=1), expected[1]
        )
        assert np.array_equal(cp_conv2d(same, cp, kernel_size=(2, 3)), stages)
    y = conv2d(x, W)
    y += 1
    assert np.array_equal(x, integers(1)((2, 3, 5, 4)))


def test_float32_needs_every_array_in_float32():
    single, double = np.float32, np.float64
    for dtypes in (
        [single] * 3,
        [double, single, single],
        [single, double, single],
        [single, single, double],
    ):
        x, A, b = (np.ones(s, t) for s, t in zip([(1, 2, 3, 3), (2, 2), 2], dtypes, strict=True))
        cp = CP([A, A])
        expected = np.result_type(*dtypes)
        assert conv2d(x, A[:, :, None, None], bias=b).dtype == expected
        assert pointwise(x, A, bias=b).dtype == expected
        assert cp_conv2d(x, cp, kernel_size=1, bias=b).dtype == expected
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
    ({"dilation": 3}, ValueError, r"padded height of at least 7 \(the kernel's span\), got 5"),
    ({"dilation": (1, 2)}, ValueError, "padded width of at least 5"),
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
    with pytest.raises(error, match=message):
        conv2d(X, KERNEL, **options)
    with pytest.raises(error, match=message):
        depthwise(X, np.ones((9, 3)), kernel_size=3, **options)
    with pytest.raises(error, match=message):
        cp_conv2d(X, cp, kernel_size=3, **options)
    with pytest.raises(error, match=message):
        cp_conv_bound(X, cp, kernel_size=3, **options)
    if "stride" in options:
        with pytest.raises(error, match=message):
            pointwise(X, np.ones((2, 3)), **options)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.full((2, 3, 5, 4), np.nan), ValueError, "expected finite"),
        (np.full((2, 3, 5, 4), -np.inf), ValueError, "expected finite"),
        (np.ones((2, 3, 5, 4), complex), TypeError, "expected an array of real"),
        (np.ones((2, 3, 5, 4), bool), TypeError, "expected an array of real"),
        (np.ones((2, 3, 5, 4), object), TypeError, "expected an array of real"),
        (np.ones((2, 3, 0, 4)), ValueError, "expected a non-empty"),
        (np.ones((3, 5, 4)), ValueError, "expected 4 axes, got 3"),
        (np.float64(1), ValueError, "expected 4 axes, got 0"),
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
        with pytest.raises(error, match=f"x: {message}"):
            run()
    with pytest.raises(error, match=f"W: {message}"):
        conv2d(X, bad)
    with pytest.raises(error, match=f"W: {message}"):
        kernel_to_tensor(bad)


def test_shapes_that_do_not_fit_are_refused():
    cp = CP([np.ones((side, 2)) for side in (6, 3, 9)])
    with pytest.raises(
        ValueError, match=r"x: expected 2 channels .* \(as W has\), got 3; grouped kernels"
    ):
        conv2d(X, KERNEL[:, :2])
    with pytest.raises(ValueError, match="x: expected 4 channels"):
        pointwise(X, np.ones((2, 4)))
    with pytest.raises(ValueError, match="x: expected 3 channels"):
        cp_conv2d(X[:, :2], cp, kernel_size=3)
    with pytest.raises(ValueError, match=r"C: expected shape \(9, 3\)"):
        depthwise(X, np.ones((6, 3)), kernel_size=3)
    with pytest.raises(ValueError, match=r"C: expected shape \(9, 3\)"):
        depthwise(X, np.ones((9, 4)), kernel_size=3)
    for size in (2, (3, 1)):
        with pytest.raises(
            ValueError, match=r"cp: expected shape \(Cout, Cin, \d\) for kernel_size"
        ):
            cp_conv2d(X, cp, kernel_size=size)
    with pytest.raises(ValueError, match=r"for kernel_size \(2, 1\), got \(6, 3, 1, 2\)"):
        cp_conv2d(X, CP([np.ones((side, 2)) for side in (6, 3, 1, 2)]), kernel_size=(2, 1))
    with pytest.raises(ValueError, match=r"for kernel_size \(3, 3\), got \(6, 3\)"):
        cp_conv2d(X, CP(cp.factors[:2]), kernel_size=3)
    with pytest.raises(ValueError, match=r"X: expected shape \(Cout, Cin, 6\)"):
        tensor_to_kernel(np.ones((2, 3, 9)), (2, 3))
    with pytest.raises(ValueError, match=r"x, cp: .*got \(5,\) and \(6, 3\)"):
        cp_linear(np.ones(5), CP(cp.factors[:2]))
    with pytest.raises(ValueError, match=r"x, cp: .*got \(3,\) and \(6, 3, 9\)"):
        cp_linear(np.ones(3), cp)
    for bias in (np.ones(5), np.ones((1, 6)), [np.nan] * 6):
        for run in (
            lambda bias: conv2d(X, KERNEL, bias=bias),
            lambda bias: cp_conv2d(X, cp, kernel_size=3, bias=bias),
            lambda bias: cp_linear(np.ones(3), CP(cp.factors[:2]), bias=bias),
        ):
            with pytest.raises(ValueError, match="bias: expected"):
                run(bias)
    for call in (cp_conv2d, cp_conv_bound):
        with pytest.raises(TypeError, match="cp: expected a CP, got ndarray"):
            call(X, KERNEL, kernel_size=3)
    with pytest.raises(TypeError, match="cp: expected a CP, got list"):
        cp_linear(X, list(cp.factors))
    for size, error in ((0, ValueError), (3.0, TypeError), ((3, 3, 3), ValueError)):
        with pytest.raises(error, match="kernel_size: expected"):
            tensor_to_kernel(np.ones((2, 3, 9)), size)
        with pytest.raises(error, match="kernel_size: expected"):
            cp_conv2d(X, cp, kernel_size=size)


# --- planted faults -------------------------------------------------------------------------------
# Each calls the module's own function, not the global that it replaces.


def convolution(x, W, **options):
    """Flips the kernel, as mathematicians do."""
    return conv.conv2d(x, W[:, :, ::-1, ::-1], **options)


def torch_order(x, W, *, padding=0, **options):
    """Reads four numbers as (top, bottom, left, right)."""
    if np.ndim(padding) and len(padding) == 4:
        top, bottom, left, right = padding
        padding = (top, left, bottom, right)
    return conv.conv2d(x, W, padding=padding, **options)


def pads_of_other_axes(x, W, *, padding=0, stride=1, dilation=1, **options):
    """Takes the sides for 'same' from the axes of images and channels."""
    if padding == "same":
        axes = conv._axes(x.shape[:2], W.shape[2:], stride, "same", dilation)
        # More zeros at the end where the kernel would not fit otherwise.
        after = [
            max(a.padded - a.before - a.size, a.span - n)
            for a, n in zip(axes, x.shape[2:], strict=True)
        ]
        padding = (axes[0].before, axes[1].before, *after)
    return conv.conv2d(x, W, padding=padding, stride=stride, dilation=dilation, **options)


def same_lower(x, W, *, padding=0, **options):
    """Puts the odd zero of 'same' at the start."""
    if padding == "same":
        kernel, stride, dilation = W.shape[2:], options.get("stride", 1), options.get("dilation", 1)
        v, h = conv._axes(x.shape[2:], kernel, stride, "same", dilation)
        padding = (v.padded - v.before - v.size, h.padded - h.before - h.size, v.before, h.before)
    return conv.conv2d(x, W, padding=padding, **options)


def swapped_stride(x, W, *, stride=1, **options):
    """Reads a pair as (width, height)."""
    return conv.conv2d(x, W, stride=pair(stride)[::-1], **options)


def stride_in_first_stage(x, cp, *, kernel_size, stride=1, padding=0, dilation=1, bias=None):
    """Thins the image out before the kernel has seen it."""
    a_out, a_in, *a_kernel = cp.factors
    thin = conv.pointwise(x, a_in.T * cp.weights[:, None], stride=stride)
    if len(a_kernel) == 1:
        z = np.zeros((len(x), cp.rank, *x.shape[2:]))  # room for a kernel that would not fit
        z[:, :, : thin.shape[2], : thin.shape[3]] = thin
        options = {"kernel_size": kernel_size, "padding": padding, "dilation": dilation}
        thin = conv.depthwise(z, a_kernel[0], **options)
    return conv.pointwise(thin, a_out, bias=bias)


def height_fastest(x, cp, *, kernel_size, **options):
    """Numbers the kernel entries in Fortran order."""
    factors = list(cp.factors)
    if len(factors) == 3:
        order = np.arange(len(factors[2])).reshape(kernel_size).ravel(order="F")
        factors[2] = factors[2][order]
    return conv.cp_conv2d(x, CP(factors, cp.weights), kernel_size=kernel_size, **options)


def factors_swapped(x, cp, **options):
    """Takes the factors in the order in, out, and cuts or repeats rows to make them fit."""
    a_out, a_in, *rest = cp.factors
    swapped = [np.resize(a_in, a_out.shape), np.resize(a_out, a_in.shape)]
    return conv.cp_conv2d(x, CP([*swapped, *rest], cp.weights), **options)


def without_weights(x, cp, **options):
    return conv.cp_conv2d(x, CP(cp.factors), **options)


def bias_before_the_last_stage(x, cp, *, bias=None, **options):
    """Adds the bias once per component."""
    return conv.cp_conv2d(x, cp, bias=None if bias is None else cp.rank * bias, **options)


def fortran_tensor(W):
    return conv.kernel_to_tensor(W.transpose(0, 1, 3, 2))


def double_bound(x, cp, **options):
    """Promises for float32 what only float64 can keep."""
    return conv.cp_conv_bound(x.astype(float), CP([A.astype(float) for A in cp.factors]), **options)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_conv2d_is_the_sum_over_kernel_entries, {"conv2d": convolution}),
        (test_conv2d_agrees_with_scipy, {"conv2d": convolution}),
        (test_stages_are_the_dense_convolution_exactly, {"conv2d": convolution}),
        (test_padding_is_zeros_written_around_the_image, {"conv2d": torch_order}),
        (test_same_padding_gives_one_output_per_step, {"conv2d": pads_of_other_axes}),
        (test_same_padding_puts_the_odd_zero_at_the_end, {"conv2d": same_lower}),
        (test_conv2d_is_the_sum_over_kernel_entries, {"conv2d": swapped_stride}),
        (test_a_stride_picks_from_the_output_of_stride_one, {"conv2d": swapped_stride}),
        (test_stages_are_the_dense_convolution_exactly, {"cp_conv2d": stride_in_first_stage}),
        (test_stages_are_the_dense_convolution_within_the_bound, {"cp_conv2d": height_fastest}),
        (test_stages_equal_the_index_loops, {"cp_conv2d": height_fastest}),
        (test_stages_are_the_dense_convolution_exactly, {"cp_conv2d": factors_swapped}),
        (test_stages_are_the_dense_convolution_exactly, {"cp_conv2d": without_weights}),
        (test_stages_equal_the_index_loops, {"cp_conv2d": bias_before_the_last_stage}),
        (test_kernel_and_tensor_are_views_of_each_other, {"kernel_to_tensor": fortran_tensor}),
        (test_stages_are_the_dense_convolution_within_the_bound, {"cp_conv_bound": double_bound}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
