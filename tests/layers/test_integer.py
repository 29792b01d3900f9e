"""Laws, bad input and planted faults of layers.integer; opinions of ONNX Runtime and PyTorch."""

import sys
from fractions import Fraction
from math import ceil, floor, prod
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import caught, exact, law, seeds, sides

from qcp_ref import (
    Grid,
    QuantizedCP,
    Scale,
    accumulator_bound,
    choose_scale,
    conv2d,
    depthwise,
    dequantize,
    fixed_point,
    int_conv,
    int_linear,
    integer_cp,
    loops,
    pointwise,
    quantize,
    requantize,
)
from qcp_ref.layers import integer

THIS = sys.modules[__name__]
MODES = ["exact", "float32", "single", "double"]
TOP = 2**31 - 1
SIGNED, UNSIGNED = Grid(8), Grid(8, signed=False)
GRIDS = st.sampled_from([SIGNED, UNSIGNED, Grid(4), Grid(4, signed=False), Grid(8, narrow=True)])


def spec(grid):
    """The grid as the loops takes it."""
    names = ("bits", "signed", "narrow", "mid_rise")
    return {name: getattr(grid, name) for name in names}


def zero_points(grid):
    return st.integers(grid.qmin, grid.qmax)


class Geometry(NamedTuple):
    """Sizes of a convolution with one to three spatial axes, and options that fit them."""

    batch: int
    channels: int
    size: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...]
    options: dict
    seed: int


@st.composite
def geometries(draw, axes=(1, 2, 3), flat=False):
    d = draw(st.sampled_from(axes))
    kernel = (1,) * d if flat else tuple(draw(st.integers(1, 3)) for _ in range(d))
    stride = tuple(draw(st.integers(1, 2)) for _ in range(d))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(d))
    padding = draw(
        st.sampled_from(["same", 1, (0,) * d, (2, 1, 0)[:d], (1, 0, 2, 0, 1, 0)[: 2 * d]])
    )
    size = tuple(
        draw(st.integers(b * (k - 1) + 1, b * (k - 1) + 3))
        for k, b in zip(kernel, dilation, strict=True)
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return Geometry(
        draw(st.integers(1, 2)), draw(sides), size, draw(sides), kernel, options, draw(seeds)
    )


def codes(rng, shape, grid):
    return rng.integers(grid.qmin, grid.qmax + 1, shape).astype(grid.dtype)


# --- accumulators ---------------------------------------------------------------------------------


@law("int_conv.dense")
@given(geometries(), st.sampled_from([SIGNED, UNSIGNED]), st.integers(2, 8), st.data())
def test_accumulators_are_those_of_plain_loops(g, grid, bits, data):
    z, rng = data.draw(zero_points(grid)), np.random.default_rng(g.seed)
    x = codes(rng, (g.batch, g.channels, *g.size), grid)
    W, b = (
        codes(rng, (g.outputs, g.channels, *g.kernel), Grid(bits)),
        rng.integers(-999, 999, g.outputs),
    )
    truth = loops.int_conv(x.tolist(), W.tolist(), zero_point=z, bias=b.tolist(), **g.options)
    acc = int_conv(x, W, zero_point=z, bias=b, **g.options)
    assert acc.dtype == np.int32 and acc.tolist() == truth


@law("int_conv.weights")
@given(geometries(), st.sampled_from([SIGNED, UNSIGNED]), st.booleans(), st.data())
def test_a_zero_point_of_the_weights_is_taken_off_them(g, weights, single, data):
    z, rng = data.draw(zero_points(UNSIGNED)), np.random.default_rng(g.seed)
    x = codes(rng, (g.batch, g.channels, *g.size), UNSIGNED)
    W = codes(rng, (g.outputs, g.channels, *g.kernel), weights)
    w = codes(rng, () if single else (g.outputs,), weights)
    zeros = {"zero_point": z, "weight_zero_point": w}
    acc = int_conv(x, W, **zeros, **g.options)
    assert acc.tolist() == loops.int_conv(
        x.tolist(), W.tolist(), zero_point=z, weight_zero_point=w.tolist(), **g.options
    )
    assert acc.dtype == np.int32
    # Weights that are 0 add nothing, and the bound knows it.
    still = np.broadcast_to(w.reshape(-1, *[1] * (W.ndim - 1)), W.shape)
    assert not int_conv(x, still, **zeros, **g.options).any()
    assert not accumulator_bound(still, UNSIGNED, **zeros).any()
    assert (accumulator_bound(W, UNSIGNED, **zeros) >= np.abs(acc).max(axis=0).reshape(
        g.outputs, -1).max(axis=1)).all()  # fmt: skip
    one, zeros["weight_zero_point"] = W.reshape(-1, 1)[:1], w.reshape(-1)[:1]
    pixels = int_linear(x.reshape(-1, 1), one, **zeros)
    alone = int_conv(x.reshape(-1, 1, 1), one[..., None], **zeros)
    assert np.array_equal(pixels, alone[..., 0])


def test_weights_and_their_zero_point_are_of_one_type():
    x, wide = np.full((1, 1), 255, np.uint8), [[255], [0]]
    assert int_linear(x, wide, weight_zero_point=0).tolist() == [[255 * 255, 0]]
    assert int_linear(x, wide, weight_zero_point=[255, 255]).tolist() == [[0, -255 * 255]]
    assert int_linear(x, [[-128]], weight_zero_point=127).tolist() == [[-255 * 255]]
    assert accumulator_bound(wide, UNSIGNED, weight_zero_point=[255, 1]).tolist() == [0, 255]
    for W, w in (([[255]], -1), ([[-1]], 128), ([[-1, 128]], 0)):
        with pytest.raises(ValueError, match=r"^W, weight_zero_point: expected integers both from"):
            int_linear(np.zeros((1, len(W[0])), np.uint8), W, weight_zero_point=w)
    with pytest.raises(ValueError, match=r"^W: expected integers from -128 to 127, got 0 to 255"):
        int_linear(x, wide)
    for w in ([1, 2, 3], [[1], [2]]):
        need = r"^weight_zero_point: expected one number or 2 \(one per output channel\), got shape"
        with pytest.raises(ValueError, match=need):
            int_linear(x, wide, weight_zero_point=w)
    for w, error in (([0.5, 1.0], TypeError), ([256, 0], ValueError), ([-129, 0], ValueError)):
        with pytest.raises(error, match=r"^weight_zero_point: expected integers"):
            int_linear(x, wide, weight_zero_point=w)
    n = TOP // (255 * 255)
    rest = TOP - 255 * 255 * n
    long = np.full(n, 255, np.uint8)
    options = {"weight_zero_point": 0, "bias": [rest]}
    assert int_linear(long, np.full((1, n), 255), **options).tolist() == [TOP]
    options["bias"] = [rest + 1]
    with pytest.raises(ValueError, match=rf"may reach {TOP + 1}, beyond int32"):
        int_linear(long, np.full((1, n), 255), **options)


@law("int_conv.dense")
@given(geometries((2,)), st.sampled_from([SIGNED, UNSIGNED]), st.data())
def test_padding_is_the_zero_point_and_so_a_zero_in_real_numbers(g, grid, data):
    z, rng = data.draw(zero_points(grid)), np.random.default_rng(g.seed)
    x, W = (
        codes(rng, (g.batch, g.channels, *g.size), grid),
        codes(rng, (3, g.channels, *g.kernel), SIGNED),
    )
    around = ((0, 0), (0, 0), (1, 2), (0, 3))
    by_hand = np.pad(x, around, constant_values=z)
    options = {"stride": g.options["stride"], "dilation": g.options["dilation"]}
    acc = int_conv(x, W, zero_point=z, padding=(1, 0, 2, 3), **options)
    assert np.array_equal(acc, int_conv(by_hand, W, zero_point=z, **options))
    real = conv2d(dequantize(x, 0.25, z), dequantize(W, 0.5), padding=(1, 0, 2, 3), **options)
    assert np.array_equal(dequantize(acc, 0.125), real)


@law("int_linear.one-pixel")
@given(sides, sides, sides, st.sampled_from([SIGNED, UNSIGNED]), seeds, st.data())
def test_a_linear_layer_is_a_convolution_of_one_pixel(n, inputs, outputs, grid, seed, data):
    z, rng = data.draw(zero_points(grid)), np.random.default_rng(seed)
    x, W = codes(rng, (2, n, inputs), grid), codes(rng, (outputs, inputs), SIGNED)
    b = rng.integers(-99, 99, outputs)
    acc = int_linear(x, W, zero_point=z, bias=b)
    assert acc.dtype == np.int32
    pixels = int_conv(x[0][..., None], W[..., None], zero_point=z, bias=b)
    assert np.array_equal(acc[0], pixels[..., 0])


@st.composite
def weights(draw):
    shape = (draw(sides), draw(sides), draw(st.integers(1, 3)))
    rng = np.random.default_rng(draw(seeds))
    bias = draw(st.sampled_from([None, rng.integers(-5000, 5000, shape[0])]))
    return codes(rng, shape, Grid(draw(st.integers(2, 8)))), bias


@law("accumulator_bound.attained", "accumulator_bound.simple")
@given(weights(), GRIDS, st.data())
def test_the_accumulator_bound_is_attained_and_never_exceeded(case, grid, data):
    (W, bias), z = case, data.draw(zero_points(grid))
    bound = accumulator_bound(W, grid, zero_point=z, bias=bias)
    plain = None if bias is None else bias.tolist()
    assert bound.tolist() == loops.accumulator_bound(
        W.tolist(), spec(grid), zero_point=z, bias=plain
    )
    start = np.zeros(len(W), int) if bias is None else bias
    order = data.draw(st.permutations(range(W[0].size + 1)))
    for w, b, largest in zip(W.reshape(len(W), -1).astype(int), start, bound, strict=True):
        worst = [np.where(w * sign > 0, grid.qmax, grid.qmin) - z for sign in (1, -1)]
        ends = [
            (w * x).sum() + max(b * sign, 0) * sign for x, sign in zip(worst, (1, -1), strict=True)
        ]
        assert largest == max(ends[0], -ends[1])  # attained: the bias may come first or last
        assert largest <= np.abs(w).sum() * max(grid.qmax - z, z - grid.qmin) + abs(b)
        for x in worst:
            assert np.abs(np.cumsum(np.append(w * x, b)[order])).max() <= largest


@law("accumulator_bound.attained")
def test_a_bias_of_the_other_sign_makes_no_room():
    assert accumulator_bound([[-1], [-1], [1]], UNSIGNED, bias=[3, -3, -300]).tolist() == [
        255,
        258,
        300,
    ]


@law("int_conv.refusal")
@pytest.mark.parametrize(("grid", "zero_point", "code"), [(UNSIGNED, 0, 255), (SIGNED, 127, -128)])
def test_the_last_accumulator_that_fits_is_computed_and_the_next_one_refused(
    grid, zero_point, code
):
    n = TOP // (127 * 255)
    x, W = np.full(n, code, grid.dtype), np.full((2, n), 127, np.int8)
    W[0] = 1
    sign = 1 if code > 0 else -1
    rest = sign * (TOP - 127 * 255 * n)
    acc = int_linear(x, W, zero_point=zero_point, bias=[0, rest])
    assert acc.tolist() == [sign * 255 * n, sign * TOP]
    image = x.reshape(1, n, 1)
    pixel = int_conv(image, W[:, :, None], zero_point=zero_point, bias=[0, rest])
    assert pixel[0, :, 0].tolist() == acc.tolist()
    too_much = f"W: output channel 1 may reach {TOP + 1}, beyond int32"
    with pytest.raises(ValueError, match=too_much):
        int_linear(x, W, zero_point=zero_point, bias=[0, rest + sign])
    with pytest.raises(ValueError, match=too_much):
        int_conv(image, W[:, :, None], zero_point=zero_point, bias=[0, rest + sign])


@law("int_conv.refusal")
@given(
    weights(),
    st.sampled_from([SIGNED, UNSIGNED]),
    st.sampled_from([1, -1]),
    st.integers(-2, 2) | st.integers(-(2**30), 2**20),
    st.data(),
)
def test_a_sum_is_refused_if_and_only_if_some_codes_might_leave_int32(case, grid, sign, over, data):
    W, z = case[0][:, :, 0], data.draw(zero_points(grid))
    codes_of_x = range(grid.qmin, grid.qmax + 1)
    worst = [
        sum(max(0, *(sign * w * (q - z) for q in codes_of_x)) for w in row) for row in W.tolist()
    ]
    last = max(range(len(worst)), key=worst.__getitem__)
    bias = np.zeros(len(W), int)
    bias[last] = sign * (TOP - worst[last] + over)
    if abs(bias[last]) > TOP:
        return
    x = np.random.default_rng(0).integers(grid.qmin, grid.qmax + 1, (3, W.shape[1]))
    x = x.astype(grid.dtype)
    options = {"zero_point": z, "bias": bias}
    if over > 0:
        with pytest.raises(ValueError, match=f"output channel {last} may reach {TOP + over}, bey"):
            int_linear(x, W, **options)
        with pytest.raises(ValueError, match=f"output channel {last} may reach {TOP + over}, bey"):
            int_conv(x[..., None], W[..., None], **options)
        return
    truth = (x.astype(int) - z) @ W.T.astype(int) + bias
    assert np.array_equal(int_linear(x, W, **options), truth)
    assert np.array_equal(int_conv(x[..., None], W[..., None], **options)[..., 0], truth)


@law("int_conv.dense", "int_linear.one-pixel")
@settings(max_examples=25)
@given(
    st.sampled_from([1, 3, 64, 500]),
    st.sampled_from([1, 2, 33]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([SIGNED, UNSIGNED]),
    seeds,
)
def test_large_layers_of_codes_are_convolutions_of_numbers(
    channels, outputs, k, stride, grid, seed
):
    rng = np.random.default_rng(seed)
    z = int(rng.integers(grid.qmin, grid.qmax + 1))
    x, W = codes(rng, (2, channels, 7, 5), grid), codes(rng, (outputs, channels, k, k), SIGNED)
    options = {"stride": stride, "padding": k // 2}
    # 500 * 9 * 128 * 255 is below 2**31, and far below 2**53
    real = conv2d(x.astype(float) - z, W.astype(float), **options)
    acc = int_conv(x, W, zero_point=z, **options)
    assert acc.dtype == np.int32
    assert np.array_equal(acc, real)
    rows, A = x[:, :, 0].transpose(0, 2, 1), W[:, :, 0, 0]
    pixels = int_conv(rows.reshape(-1, channels, 1), A[:, :, None], zero_point=z)
    assert np.array_equal(int_linear(rows, A, zero_point=z).reshape(-1, outputs), pixels[..., 0])


# --- requantization -------------------------------------------------------------------------------

ACCUMULATORS = st.integers(-(2**31), TOP) | st.integers(-300, 300)
DYADIC = st.integers(1, 63).flatmap(lambda k: st.integers(0, 9).map(lambda e: k * 2.0**-e))
MULTIPLIERS = (
    DYADIC
    | st.floats(2.0**-40, 2.0**29)
    | st.integers(-40, 29).map(lambda e: 2.0**e)
    | st.floats(2.0**-12, 2.0)
    | st.integers(1, 2**30).map(lambda k: k * 2.0**-31)
)


@law("fixed_point.nearest")
@given(st.lists(MULTIPLIERS, min_size=1, max_size=5))
def test_fixed_point_is_the_nearest_number_of_31_bits(multipliers):
    m, shift = fixed_point(multipliers)
    assert list(zip(m.tolist(), shift.tolist(), strict=True)) == [
        loops.fixed_point(M) for M in multipliers
    ]
    for M, digits, power in zip(exact(multipliers), m.tolist(), shift.tolist(), strict=True):
        if digits == 0:
            assert power == 0 and Fraction(1, 2) > M * 2**31  # every accumulator becomes zero
            continue
        assert 2**30 <= digits < 2**31 and -31 <= power <= 30
        assert abs(Fraction(digits) * Fraction(2) ** (power - 31) - M) <= M / 2**31


@law("fixed_point.nearest")
@given(st.integers(-1000, 29))
def test_powers_of_two_are_exact_or_vanish(power):
    m, shift = fixed_point(2.0**power)
    if power >= -32:
        assert Fraction(int(m)) * Fraction(2) ** (int(shift) - 31) == Fraction(2) ** power
    else:
        assert m == shift == 0


@law("fixed_point.vanishing")
@given(
    st.floats(2.0**-1000, 2.0**-29) | st.floats(2.0**-36, 2.0**-29) | st.just(2.0**-32),
    st.lists(st.integers(-(2**31), TOP), min_size=1, max_size=4),
    GRIDS,
    st.data(),
)
def test_multipliers_without_a_mantissa_give_the_zero_point_only(multiplier, acc, grid, data):
    m, shift = fixed_point([multiplier, np.nextafter(2.0**-32, 0)])
    assert m[1] == 2**30 and shift[1] == -31  # the last one that is rounded up to 2**-32
    for M in [multiplier] if m[0] == 0 else [multiplier * 2.0**-4]:
        assert fixed_point(M) == (0, 0)
        for mode in MODES:
            z = data.draw(zero_points(grid))
            found = requantize([*acc, TOP, -(2**31)], M, z, grid, mode=mode)
            assert (found == z).all()


@law("fixed_point.nearest", "fixed_point.vanishing")
def test_fixed_point_at_its_ends():
    almost = np.nextafter(1.0, 0)
    pairs = [fixed_point(M) for M in (2.0**29, almost, 0.5, 2.0**-32, almost * 2.0**-32, 2.0**-33)]
    assert [(int(m), int(s)) for m, s in pairs] == [
        *[(2**30, 30), (2**30, 1), (2**30, 0), (2**30, -31), (2**30, -31), (0, 0)]
    ]


@law("requantize.exact", "requantize.one-code")
@given(st.lists(ACCUMULATORS, min_size=1, max_size=6), MULTIPLIERS, GRIDS, st.data())
def test_requantization_is_that_of_plain_loops(acc, multiplier, grid, data):
    z = data.draw(zero_points(grid))
    for mode in MODES:
        found = requantize(acc, multiplier, z, grid, mode=mode)
        assert found.dtype == grid.dtype
        assert found.tolist() == loops.requantize(acc, multiplier, z, spec(grid), mode=mode)


@law("requantize.exact")
@given(st.lists(ACCUMULATORS, min_size=1, max_size=6), MULTIPLIERS)
def test_exact_requantization_is_correctly_rounded_but_next_to_ties(acc, multiplier):
    found = requantize(acc, multiplier, 0, SIGNED)
    for a, code in zip(acc, found.tolist(), strict=True):
        product = a * Fraction(multiplier)
        tie = abs(abs(product - floor(product)) - Fraction(1, 2))
        near = [floor(product), ceil(product)] if tie <= abs(product) / 2**53 else [round(product)]
        assert code in [min(max(k, -128), 127) for k in near]


@law("requantize.one-code", "requantize.monotone")
@given(st.lists(ACCUMULATORS, min_size=1, max_size=6), MULTIPLIERS, GRIDS, st.data())
def test_fixed_point_modes_stay_within_one_code_and_all_modes_are_monotone(acc, M, grid, data):
    z = data.draw(zero_points(grid))
    a = np.sort(acc)
    found = {mode: requantize(a, M, z, grid, mode=mode).astype(int) for mode in MODES}
    for mode in MODES:
        assert (np.diff(found[mode]) >= 0).all()
        assert np.abs(found[mode] - found["exact"]).max() <= 1


def device_double(a, m, shift):
    """The published rule in its own steps: nudge, truncate, mask, threshold."""
    product = a * 2 ** max(shift, 0) * m
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    mask = 2 ** max(-shift, 0) - 1
    return (high >> max(-shift, 0)) + ((high & mask) > (mask >> 1) + (high < 0))


def device_single(a, m, shift):
    return (a * m + (1 << (30 - shift))) >> (31 - shift)


@law("requantize.one-code")
@settings(max_examples=300)
@given(st.integers(-(2**23), 2**23) | st.integers(-300, 300), st.floats(2.0**-30, 100.0) | DYADIC)
def test_fixed_point_modes_are_those_that_devices_publish(a, multiplier):
    m, shift = (int(part) for part in fixed_point(multiplier))
    for mode, rule in (("single", device_single), ("double", device_double)):
        code = min(max(rule(a, m, shift), -128), 127)
        assert requantize(a, multiplier, 0, SIGNED, mode=mode) == code


@law("requantize.power-of-two")
def test_ties_in_the_three_modes():
    quarters = np.arange(-10, 11, 4)  # times 1/4: -2.5, -1.5, ..., 2.5
    found = {mode: requantize(quarters, 0.25, 0, SIGNED, mode=mode).tolist() for mode in MODES}
    assert found["exact"] == [-2, -2, 0, 0, 2, 2]  # to even
    assert found["single"] == [-2, -1, 0, 1, 2, 3]  # upwards
    assert found["double"] == [-3, -2, -1, 1, 2, 3]  # away from zero
    # Without a right shift there is one rounding, upwards.
    odd = np.array([-3, -1, 1, 3])
    assert requantize(odd, 0.5, 0, SIGNED, mode="double").tolist() == [-1, 0, 1, 2]
    # A zero point is added afterwards and moves no tie.
    for mode in MODES:
        moved = requantize(quarters, 0.25, 3, SIGNED, mode=mode)
        assert moved.tolist() == [code + 3 for code in found[mode]]


@law("requantize.power-of-two")
@given(st.lists(ACCUMULATORS, min_size=1, max_size=6), st.integers(-33, 3), st.integers(-300, 300))
def test_powers_of_two_leave_ties_and_the_first_rounding_of_double(acc, power, near):
    M = Fraction(2) ** power
    acc += [int(max(-(2**31), min(TOP, round(near / 2 / M))))]  # at a tie or at an integer
    found = {mode: requantize(acc, float(M), 0, SIGNED, mode=mode).tolist() for mode in MODES}
    for n, a in enumerate(acc):
        product, half = a * M, Fraction(1, 2)
        first = product
        if 2 * M <= 1 and power >= -32:
            first = floor(product / (2 * M) + half) * 2 * M
        away = floor(abs(first) + half) * (1 if first > 0 else -1)
        truth = {"exact": round(product), "single": floor(product + half), "double": away}
        for mode, code in truth.items():
            assert found[mode][n] == min(max(code, -128), 127), (mode, a)


@law("requantize.float32")
@given(
    st.lists(st.integers(-(2**12), 2**12), min_size=1, max_size=6),
    st.integers(1, 2**12),
    st.integers(-20, 0),
    st.integers(2**10, TOP),
    st.integers(0, 120),
)
def test_float32_is_exact_on_few_bits_and_sees_no_more_of_a_multiplier(acc, k, power, a, code):
    few = k * 2.0**power
    assert np.array_equal(
        requantize(acc, few, 3, SIGNED, mode="float32"), requantize(acc, few, 3, SIGNED)
    )
    long, M = [a, -a, a // 2], (code + 0.5) / a  # next to a tie
    short = requantize(long, float(np.float32(M)), 3, SIGNED, mode="float32")
    assert np.array_equal(short, requantize(long, M, 3, SIGNED, mode="float32"))


@law("requantize.float32")
def test_float32_takes_products_next_to_a_tie_for_one():
    M, above, below = 0.01462148129940033, [10977, -10977], [-10977, 10977]
    assert 160.5 < 10977 * Fraction(M) < 160.5 + 2.0**-22
    assert requantize(above, M, 0, Grid(8, signed=False)).tolist() == [161, 0]
    assert requantize(above, M, 0, UNSIGNED, mode="float32").tolist() == [160, 0]
    assert requantize(below, M, 255, UNSIGNED, mode="float32").tolist() == [95, 255]
    # The accumulator is rounded, too: 2^24 + 1 becomes 2^24.
    odd = [2**24 + 1, 2**24 + 3]
    assert requantize(odd, 2.0**-18, 0, SIGNED, mode="float32").tolist() == [64, 64]
    assert requantize([2**31 - 1], 2.0**-25, 0, SIGNED, mode="float32").tolist() == [64]
    halves = [3 * 2**24 + 2, 3 * 2**24 - 2]  # next to 1.5, above and below, and then at it
    assert requantize(halves, 2.0**-25, 0, SIGNED).tolist() == [2, 1]
    assert requantize(halves, 2.0**-25, 0, SIGNED, mode="float32").tolist() == [2, 2]


@law("requantize.one-code")
def test_each_pair_of_modes_differs_off_ties():
    rng, seen = np.random.default_rng(5), set()
    for _ in range(2000):
        target = int(rng.integers(-100, 100)) + 0.5
        a = int(rng.integers(2**20, TOP)) * int(np.sign(target))
        M = target / a * (1 + float(rng.normal()) * 2.0**-32)
        assert (a * Fraction(M)).denominator != 2
        found = {mode: int(requantize(a, M, 0, SIGNED, mode=mode)) for mode in MODES}
        seen |= {(p, q) for p in MODES for q in MODES if found[p] != found[q]}
    assert seen == {(p, q) for p in MODES for q in MODES if p != q}


@law("requantize.exact")
@given(st.lists(ACCUMULATORS, min_size=2, max_size=5), st.data())
def test_multipliers_belong_to_their_channels(acc, data):
    M = data.draw(st.lists(MULTIPLIERS, min_size=len(acc), max_size=len(acc)))
    for mode in MODES:
        found = requantize([acc, acc[::-1]], [M], 5, UNSIGNED, mode=mode)
        alone = [
            requantize([a, b], m, 5, UNSIGNED, mode=mode)
            for a, b, m in zip(acc, acc[::-1], M, strict=True)
        ]
        assert np.array_equal(found, np.stack(alone, axis=1))


def test_accumulators_beyond_all_codes_saturate():
    for mode in MODES:
        for M in (2.0**29, 1.0, 3.7):
            ends = requantize([-(2**31), TOP], M, 0, SIGNED, mode=mode)
            assert ends.tolist() == [-128, 127]
        nothing = requantize([-(2**31), TOP], 2.0**-34, 7, SIGNED, mode=mode)
        assert nothing.tolist() == [7, 7]


# --- layers ---------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A factorized layer, its input and what is needed to make it an integer layer."""

    cp: QuantizedCP
    scales: list[Scale]
    grid: Grid
    options: dict
    x: np.ndarray


@st.composite
def cases(draw, flat=None, dyadic=False, axes=(1, 2)):
    """Draw layers of two or three stages; few are degenerate, because scales fit the data."""
    flat = draw(st.booleans()) if flat is None else flat
    g, grid = draw(geometries(axes, flat)), draw(GRIDS)
    rank, rng = draw(st.integers(1, 4)), np.random.default_rng(g.seed)
    bits = draw(st.integers(2, 7))
    weights = Grid(bits, mid_rise=draw(st.booleans()))
    rows = [g.outputs, g.channels, *([] if flat else [prod(g.kernel)])]
    factors = [codes(rng, (n, rank), weights) for n in rows]

    def numbers(shape):
        return 2.0 ** rng.integers(-3, 2, shape) if dyadic else rng.uniform(0.05, 2.0, shape)

    shapes = [[(), (1, rank), (rows[0], 1)], *[[(), (1, rank)]] * (len(rows) - 1)]
    steps = [numbers(draw(st.sampled_from(some))) for some in shapes]
    cp = QuantizedCP(factors, steps, weights)
    x = codes(rng, (g.batch, g.channels, *g.size), grid)
    bias = draw(st.sampled_from([None, rng.normal(size=g.outputs) * 50]))
    zero = rng.integers(grid.qmin, grid.qmax + 1, len(rows) + 1)
    # Each stage widens the numbers about so much: most codes are used, few saturate.
    widen = [
        1.0,
        *(
            2.0**bits * np.mean(s) * np.sqrt(n) / 2
            for s, n in zip([*steps[1:], steps[0]], [g.channels, *rows[2:], rank], strict=True)
        ),
    ]
    size = np.cumprod(widen) * (2.0 ** np.rint(np.log2(rng.uniform(0.5, 2))) if dyadic else 1)
    size = 2.0 ** np.rint(np.log2(size)) if dyadic else size
    scales = [Scale(np.asarray(s), float(z), "given") for s, z in zip(size, zero, strict=True)]
    options = {"kernel_size": 1 if flat else g.kernel, "relu": draw(st.booleans()), "bias": bias}
    return Case(cp, scales, grid, {**g.options, **options}, x)


def doubled(cp):
    """Codes and scales as integer layers use them."""
    twice = 2 if cp.grid.mid_rise else 1
    return (
        [(k.astype(int) * twice + twice - 1).tolist() for k in cp.codes],
        [(s / twice).tolist() for s in cp.scales],
    )


def by_loops(case, mode):
    factors, steps = doubled(case.cp)
    scales = [(float(s.scale), int(s.zero_point)) for s in case.scales]
    options = dict(case.options)
    options["bias"] = None if options["bias"] is None else options["bias"].tolist()
    return loops.integer_cp(
        case.x.tolist(), factors, steps, scales, spec(case.grid), mode=mode, **options
    )


@law("integer_cp.loops")
@given(cases(), st.sampled_from(MODES))
def test_the_layer_is_that_of_plain_loops(case, mode):
    layer = integer_cp(case.cp, case.scales, case.grid, mode=mode, **case.options)
    y = layer.forward(case.x)
    assert y.dtype == case.grid.dtype and y.tolist() == by_loops(case, mode)


@law("integer_cp.loops")
def test_a_layer_full_of_ties_is_that_of_plain_loops():
    # Every code comes in, every multiplier is a few quarters, eighths or sixteenths.
    factors = [[[1, 2, -1], [0, -3, 1]], [[1, 2, -3], [-2, 1, 1]], [[1, -1, 0], [2, 1, 3]]]
    steps = [np.array(0.25), np.array([[0.25, 0.125, 0.0625]]), np.array([[0.5, 0.25, 0.75]])]
    scales = [Scale(np.array(1.0), z, "given") for z in (100.0, 130.0, 120.0, 90.0)]
    x = np.stack([np.arange(256), np.arange(255, -1, -1)])[None].astype(np.uint8)
    options = {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 1}
    options |= {"bias": np.array([3.0, -8.0]), "relu": True}
    case = Case(QuantizedCP(factors, steps, Grid(4)), scales, UNSIGNED, options, x)
    for mode in MODES:
        layer = integer_cp(case.cp, scales, UNSIGNED, mode=mode, **options)
        assert layer.forward(x).tolist() == by_loops(case, mode)


HALF = {"exact": 0.5, "float32": 0.5 + 2.0**-14, "single": 0.5, "double": 0.75}


def real_layer(case):
    """The layer on dequantized numbers, and the bound on what integers add, for each mode."""
    cp, (first, *middle, _) = case.cp, case.scales
    a_out, a_in, *a_kernel = cp.dequantize().factors
    options = {n: case.options[n] for n in ("stride", "padding", "dilation")}
    share, sigma = np.ones(cp.rank), cp.scales[0]
    if sigma.shape == (1, cp.rank):
        sigma = sigma.max()
        share = cp.scales[0][0] / sigma
    h = dequantize(case.x, first.scale, first.zero_point)
    stages = [(lambda v, A: pointwise(v, A.T), a_in)]
    if a_kernel:
        size = case.options["kernel_size"]
        stages.append((lambda v, C: depthwise(v, C, kernel_size=size, **options), a_kernel[0]))
    else:  # the first stage reads the pixels that the stride keeps
        stages = [(lambda v, A: by_pixel(v, A, options), a_in)]
    stages.append((lambda v, A: pointwise(v, (A / share), bias=case.options["bias"]), a_out))
    sizes = [*stages[:-1], (lambda v, A: pointwise(v, A / share), a_out)]
    error = dict.fromkeys(MODES, np.zeros_like(h))
    for n, ((run, A), (bare, _)) in enumerate(zip(stages, sizes, strict=True)):
        weighted = A * share if n == len(stages) - 2 else A
        scale, z = case.scales[n + 1][:2]
        h = run(h, weighted)
        ends = [scale * (q - z) for q in (case.grid.qmin, case.grid.qmax)]
        beyond = np.abs(h - np.clip(h, *ends))
        bias = np.zeros(())
        if n == len(stages) - 1:
            bias = np.ravel(middle[-1].scale * sigma) / 2
            bias = bias.reshape(1, -1, *[1] * (h.ndim - 2))
        error = {
            m: bare(e, np.abs(weighted)) + HALF[m] * scale * (1 + 1e-6) + beyond + bias
            for m, e in error.items()
        }
    return (np.maximum(h, 0) if case.options["relu"] else h), error


def by_pixel(v, A, options):
    """A 1x1 convolution with padding, one matrix for all pixels."""
    return np.stack(
        [depthwise(v, np.tile(a, (1, 1)), kernel_size=1, **options).sum(axis=1) for a in A.T],
        axis=1,
    )


@law("integer_cp.error")
@settings(max_examples=60)
@given(cases())
def test_the_layer_stays_within_its_bound_of_the_layer_in_real_numbers(case):
    real, allowed = real_layer(case)
    for mode in MODES:
        layer = integer_cp(case.cp, case.scales, case.grid, mode=mode, **case.options)
        y = dequantize(layer.forward(case.x), *case.scales[-1][:2])
        assert (np.abs(y - real) <= allowed[mode] * (1 + 1e-9)).all()


@law("integer_cp.error")
def test_typical_errors_are_a_few_steps():
    # The bound is not vacuous: with calibrated ranges the errors are small against the range.
    rng = np.random.default_rng(3)
    share = np.array([[1, 0.1, 0.5, 0.3, 1, 0.2]])
    factors = [codes(rng, (n, 6), Grid(4)) for n in (8, 5, 9)]
    cp = QuantizedCP(factors, [0.1 * share, 0.2, 0.05], Grid(4))
    real = rng.normal(size=(2, 5, 9, 9))
    a_out, a_in, a_kernel = cp.dequantize().factors
    h = [real, pointwise(real, a_in.T)]
    h.append(depthwise(h[1], a_kernel * share, kernel_size=3, padding=1))
    h.append(pointwise(h[2], a_out / share))
    scales = [choose_scale(v, UNSIGNED, rule="min-max") for v in h]
    layer = integer_cp(cp, scales, UNSIGNED, kernel_size=3, padding=1)
    y = layer.forward(quantize(real, UNSIGNED, *scales[0][:2]))
    error = dequantize(y, *scales[-1][:2]) - h[-1]
    assert np.sqrt(np.mean(error**2)) < 2 * scales[-1].scale


@law("integer_cp.columns")
@given(cases(dyadic=True), st.sampled_from(MODES))
def test_a_scale_per_column_of_a_out_moves_to_the_stage_before(case, mode):
    cp = case.cp
    rng = np.random.default_rng(1)
    share = 2.0 ** rng.integers(-2, 1, (1, cp.rank))
    share[0, rng.integers(cp.rank)] = 1
    moved = [np.array(0.5), *cp.scales[1:]]
    moved[-1] = moved[-1] * share
    folded = QuantizedCP(cp.codes, [0.5 * share, *cp.scales[1:]], cp.grid)
    plain = QuantizedCP(cp.codes, moved, cp.grid)
    layers = [
        integer_cp(q, case.scales, case.grid, mode=mode, **case.options) for q in (folded, plain)
    ]
    assert np.array_equal(*(layer.forward(case.x) for layer in layers))


@given(cases(), st.sampled_from(MODES))
def test_each_output_channel_is_on_its_own(case, mode):
    layer = integer_cp(case.cp, case.scales, case.grid, mode=mode, **case.options)
    y = layer.forward(case.x)
    for o in range(case.cp.shape[0]):
        step = case.cp.scales[0]
        step = step[o, 0] if step.shape == (case.cp.shape[0], 1) and step.size > 1 else step
        one = QuantizedCP(
            [case.cp.codes[0][o : o + 1], *case.cp.codes[1:]],
            [step, *case.cp.scales[1:]],
            case.cp.grid,
        )
        bias = case.options["bias"]
        options = {**case.options, "bias": None if bias is None else bias[o : o + 1]}
        alone = integer_cp(one, case.scales, case.grid, mode=mode, **options).forward(case.x)
        assert np.array_equal(alone[:, 0], y[:, o])


@given(cases(flat=True, axes=(1,)), st.sampled_from(MODES))
def test_a_linear_layer_is_a_layer_of_one_pixel(case, mode):
    options = {"bias": case.options["bias"], "relu": case.options["relu"], "mode": mode}
    layer = integer_cp(case.cp, case.scales, case.grid, **options)
    rows = case.x[..., 0]
    assert np.array_equal(layer.forward(rows), layer.forward(rows[..., None])[..., 0])


@law("integer_cp.loops")
def test_relu_clamps_at_the_zero_point_and_padding_is_that_of_the_stage():
    cp = QuantizedCP([[[1]], [[1]], [[1]] * 3], [1.0, 1.0, 1.0], Grid(4))
    scales = [Scale(np.array(1.0), z, "given") for z in (7.0, 20.0, 0.0, -5.0)]
    x = np.array([[[6, 9, 4]]], dtype=np.int8)  # -1, 2, -3
    options = {"kernel_size": 3, "padding": 1}
    plain = integer_cp(cp, scales, Grid(8), **options).forward(x)
    assert plain.tolist() == [[[1 - 5, -2 - 5, -1 - 5]]]
    relu = integer_cp(cp, scales, Grid(8), relu=True, **options).forward(x)
    assert relu.tolist() == [[[1 - 5, -5, -5]]]


def test_a_layer_whose_accumulators_might_overflow_is_refused():
    rank = 2**16
    cp = QuantizedCP([np.full((2, rank), 127), np.ones((1, rank), int)], [1.0, 1.0], Grid(8))
    scales = [Scale(np.array(1.0), z, "given") for z in (0.0, -128.0, 0.0)]
    room = TOP - 127 * 255 * rank  # what the sum of the last stage leaves for the bias
    layer = integer_cp(cp, scales, SIGNED, bias=[0.0, room])
    assert layer.forward([[127]]).tolist() == [[127, 127]]
    with pytest.raises(ValueError, match=f"stage 1, output channel 1 may reach {TOP + 1}, beyond"):
        integer_cp(cp, scales, SIGNED, bias=[0.0, room + 1])
    # Had the codes a zero point in the middle, there would be room for twice as many.
    scales[1] = Scale(np.array(1.0), 0.0, "given")
    integer_cp(cp, scales, SIGNED, bias=[0.0, room + 1])


# --- bad input ------------------------------------------------------------------------------------

X = np.zeros((1, 2, 4, 4), np.uint8)
KERNEL = np.ones((3, 2, 3, 3), int)


def test_bad_codes_are_refused():
    for x in (X.astype(int), X.astype(float), X.astype(np.int16), X.tolist()):
        with pytest.raises(TypeError, match=r"^x: expected uint8 or int8, whose range is known"):
            int_conv(x, KERNEL)
    for wide in (128, -129):
        with pytest.raises(
            ValueError, match=rf"^W: expected integers from -128 to 127, got {wide}"
        ):
            int_conv(X, np.full_like(KERNEL, wide))
        with pytest.raises(ValueError, match=r"^W: expected integers from -128 to 127"):
            accumulator_bound([[wide]], SIGNED)
    for W in (KERNEL * 1.0, KERNEL > 0):
        with pytest.raises(TypeError, match=r"^W: expected integers, got dtype"):
            int_conv(X, W)
    for z in (-1, 256):
        with pytest.raises(ValueError, match=r"^zero_point: expected an integer from 0 to 255"):
            int_conv(X, KERNEL, zero_point=z)
    with pytest.raises(TypeError, match=r"^zero_point: expected an integer, got 0\.5"):
        int_conv(X, KERNEL, zero_point=0.5)
    for bias, error in ((np.zeros(2, int), ValueError), (np.zeros(3), TypeError)):
        with pytest.raises(error, match=r"^bias: expected"):
            int_conv(X, KERNEL, bias=bias)
    with pytest.raises(ValueError, match=r"^x: expected 2 channels on axis 1"):
        int_conv(X[:, :1], KERNEL)
    with pytest.raises(ValueError, match=r"^x: expected 3 to 5 axes"):
        int_conv(X[0, 0], KERNEL)
    with pytest.raises(ValueError, match=r"^x, W: expected shapes .* got \(4,\) and \(3, 5\)"):
        int_linear(np.zeros(4, np.uint8), np.ones((3, 5), int))
    with pytest.raises(ValueError, match=r"^W: expected at least 2 axes"):
        int_linear(np.zeros(4, np.uint8), np.ones(4, int))


def test_bad_requantization_is_refused():
    for acc in ([1.0], [True]):
        with pytest.raises(TypeError, match=r"^acc: expected integers"):
            requantize(acc, 0.5, 0, SIGNED)
    with pytest.raises(ValueError, match=r"^acc: expected integers from -2147483648 to 2147483647"):
        requantize([2**31], 0.5, 0, SIGNED)
    for M in (0.0, -1.0, 2.0**29 + 1, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"^multiplier: expected"):
            requantize([1], M, 0, SIGNED)
        with pytest.raises(ValueError, match=r"^multiplier: expected"):
            fixed_point([1.0, M])
    with pytest.raises(ValueError, match=r"^multiplier: expected one number or a shape like"):
        requantize([[1, 2]], [0.5, 0.5], 0, SIGNED)
    with pytest.raises(ValueError, match=r"^zero_point: expected an integer from -128 to 127"):
        requantize([1], 0.5, 128, SIGNED)
    with pytest.raises(TypeError, match=r"^zero_point: expected an integer, got 0\.5"):
        requantize([1], 0.5, 0.5, SIGNED)
    for grid in (Grid(9), Grid(4, mid_rise=True), Grid(2, kind="ternary"), Grid(4, kind="log2")):
        with pytest.raises(ValueError, match=r"^grid: expected at most 8 bits in equal steps"):
            requantize([1], 0.5, 0, grid)
        with pytest.raises(ValueError, match=r"^grid: expected at most 8 bits in equal steps"):
            accumulator_bound([[1]], grid)
    with pytest.raises(ValueError, match=r"^mode: expected one of"):
        requantize([1], 0.5, 0, SIGNED, mode="triple")


def test_bad_layers_are_refused():
    good = [Scale(np.array(1.0), 0.0, "given")] * 4
    parts = [np.ones((n, 2), int) for n in (3, 4, 9)]
    cp = QuantizedCP(parts, [1.0] * 3, Grid(4))
    options = {"kernel_size": 3}
    integer_cp(cp, good, SIGNED, **options)
    for axis, name in ((1, "a_in"), (2, "a_kernel")):
        steps = [np.array(1.0)] * 3
        steps[axis] = np.ones((len(parts[axis]), 1))
        with pytest.raises(ValueError, match=rf"^cp: {name} has a scale per row"):
            integer_cp(QuantizedCP(parts, steps, Grid(4)), good, SIGNED, **options)
    for grid, most in ((Grid(8, mid_rise=True), 127), (Grid(9), 255)):
        with pytest.raises(
            ValueError, match=r"^cp: codes\[0\]: expected integers from -128 to 127"
        ):
            integer_cp(
                QuantizedCP([k * most for k in parts], [1.0] * 3, grid), good, SIGNED, **options
            )
    with pytest.raises(ValueError, match=r"^cp: powers of two as weights"):
        integer_cp(QuantizedCP(parts, [1.0] * 3, Grid(4, kind="log2")), good, SIGNED, **options)
    for wrong in (cp.dequantize(), QuantizedCP([*parts, parts[0]], [1.0] * 4, Grid(4))):
        with pytest.raises(TypeError, match=r"^cp: expected a QuantizedCP of 2 or 3 factors"):
            integer_cp(wrong, good, SIGNED, **options)
    for scales in (good[:3], [1.0] * 4):
        with pytest.raises(ValueError, match=r"^scales: expected 4 of type Scale"):
            integer_cp(cp, scales, SIGNED, **options)
    for scale, message in (
        (Scale(np.array(1.0), 0.5, ""), r"^scales\[3\]: zero_point: expected an integer"),
        (Scale(np.array(1.0), 200.0, ""), r"^scales\[3\]: zero_point: expected an integer"),
        (Scale(np.array(0.0), 0.0, ""), r"^scales\[3\]: scale: expected numbers above 0"),
        (Scale(np.ones((1, 3)), 0.0, ""), r"^scales\[3\]: scale: expected one number"),
    ):
        with pytest.raises(ValueError, match=message):
            integer_cp(cp, [*good[:3], scale], SIGNED, **options)
    for size in (1, 2, (3, 2), (9, 2)):
        with pytest.raises(ValueError, match=r"^kernel_size: expected sides of 9 entries"):
            integer_cp(cp, good, SIGNED, kernel_size=size)
    for bias in (np.ones(4), np.full(3, 1e10), [np.nan] * 3):
        with pytest.raises(ValueError, match=r"^bias: expected"):
            integer_cp(cp, good, SIGNED, bias=bias, **options)
    with pytest.raises(ValueError, match=r"^mode: expected one of"):
        integer_cp(cp, good, SIGNED, mode="none", **options)
    with pytest.raises(TypeError, match="groups"):
        integer_cp(cp, good, SIGNED, groups=2, **options)
    with pytest.raises(ValueError, match=r"^cp, scales: multiplier: expected numbers above 0"):
        integer_cp(cp, [*good[:3], Scale(np.array(1e-30), 0.0, "")], SIGNED, **options)
    layer = integer_cp(cp, good, Grid(4), **options)
    for x, message in ((np.full((1, 4, 3, 3), 8), r"^x: expected integers from -8 to 7"),):
        with pytest.raises(ValueError, match=message):
            layer.forward(x)
    with pytest.raises(ValueError, match=r"^x: expected 3 to 5 axes"):
        layer.forward(np.zeros((1, 4), int))


def test_inputs_are_not_changed_and_may_have_any_strides():
    rng = np.random.default_rng(0)
    x = codes(rng, (4, 4, 2, 3), UNSIGNED).transpose(3, 2, 1, 0)[:, :, ::-1]
    x.flags.writeable = False
    W = codes(rng, (3, 2, 3, 3), SIGNED)[:, ::-1]
    W.flags.writeable = False
    acc = int_conv(x, W, zero_point=3)
    assert np.array_equal(acc, int_conv(x.copy(), W.copy(), zero_point=3))
    acc.flags.writeable = False
    assert requantize(acc, 0.01, 3, UNSIGNED).flags.writeable
    assert acc.tolist() == int_conv(x, W, zero_point=3).tolist()


# --- limits, defaults and names -------------------------------------------------------------------


def test_codes_at_the_ends_of_their_range_are_taken_and_the_next_ones_refused():
    assert accumulator_bound([[-128], [127]], SIGNED).tolist() == [128 * 128, 127 * 128]
    for wrong, ends in (([[-129, 5]], "-129 to 5"), ([[0, 128]], "0 to 128")):
        with pytest.raises(
            ValueError, match=rf"^W: expected integers from -128 to 127, got {ends}"
        ):
            accumulator_bound(wrong, SIGNED)
    scales = [Scale(np.array(1.0), 0.0, "given")] * 3
    for grid, most, least in ((Grid(9), 127, -128), (Grid(8, mid_rise=True), 63, -64)):
        for code in (most, least):
            integer_cp(QuantizedCP([[[code]], [[1]]], [1.0, 1.0], grid), scales, SIGNED)
        for code in (most + 1, least - 1):
            for n in range(2):
                codes = [[[1]], [[1]]]
                codes[n] = [[code]]
                need = rf"^cp: codes\[{n}\]: expected integers from -128 to 127"
                with pytest.raises(ValueError, match=need):
                    integer_cp(QuantizedCP(codes, [1.0, 1.0], grid), scales, SIGNED)


def test_without_a_zero_point_it_is_zero():
    x, W = np.array([[3, 5], [250, 0]], np.uint8), np.array([[1, -2], [7, 7]])
    assert np.array_equal(int_linear(x, W), x.astype(int) @ W.T)
    assert np.array_equal(int_linear(x, W), int_linear(x, W, zero_point=0, bias=[0, 0]))
    pixels = int_conv(x[..., None], W[..., None])
    assert np.array_equal(pixels[..., 0], int_linear(x, W))
    for grid in (SIGNED, UNSIGNED):
        bound = accumulator_bound(W, grid, zero_point=0, bias=[0, 0])
        assert np.array_equal(accumulator_bound(W, grid), bound)
    acc = [[-500, 77, 3]]
    for grid in (SIGNED, UNSIGNED):
        plain, exactly = requantize(acc, 0.3, 0, grid), requantize(acc, 0.3, 0, grid, mode="exact")
        assert np.array_equal(plain, exactly)


def test_an_integer_layer_is_an_object_of_its_own_with_plain_defaults():
    cp = QuantizedCP([[[2], [-3]], [[1], [1]]], [0.5, 1.0], Grid(4))
    scales = [Scale(s, z, "given") for s, z in ((1.0, 3), (2.0, 0), (0.5, -1))]
    made = integer_cp(cp, scales, SIGNED, bias=[1.0, 0.0])
    parts = (made.weights, made.multipliers, made.bias, made.zero_points, made.grid)
    layer = integer.IntegerCP(*parts)
    assert (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == (1, 1, 0, 1)
    assert (layer.relu, layer.mode) == (False, "exact") == (made.relu, made.mode)
    assert made != layer and len({made, layer, made}) == 2
    x = np.array([[3, 7], [5, 9]])
    assert layer.forward(x).tolist() == made.forward(x).tolist()
    assert layer.forward(x[..., None]).shape == (2, 2, 1)
    assert integer_cp(cp, scales, SIGNED, bias=[1.0, 0.0], relu=True).relu is True
    with pytest.raises(AttributeError, match="relu"):
        layer.relu = True
    with pytest.raises(ValueError, match="read-only"):
        layer.weights[0][0, 0] = 5
    for options in ({"stride": 2}, {"padding": 1}, {"dilation": 2}):
        with pytest.raises(ValueError, match=r"^x: expected 3 to 5 axes"):
            integer_cp(cp, scales, SIGNED, **options).forward(x)
    for code in (SIGNED.qmin - 1, SIGNED.qmax + 1):
        with pytest.raises(ValueError, match=r"^x: expected integers from -128 to 127"):
            layer.forward([[0, code]])


def test_messages_about_layers_say_what_would_fit():
    parts = [np.ones((n, 2), int) for n in (3, 4, 9)]
    parts[0][0] = 0  # leaves the whole range to the bias
    rows = QuantizedCP(parts, [np.array([[0.5], [2.0], [1.0]]), 1.0, 1.0], Grid(4))
    scales = [Scale(np.array(s), 0.0, "given") for s in (1.0, 1.0, 0.25, 1.0)]
    layer = integer_cp(rows, scales, SIGNED, kernel_size=(3, 3), bias=[TOP / 8, 0, -100.3])
    assert layer.bias.tolist() == [TOP, 0, -401]  # in steps of 1/8, 1/2 and 1/4
    with pytest.raises(ValueError, match=r"^bias: expected shape \(3,\) \(one per output\)"):
        integer_cp(rows, scales, SIGNED, kernel_size=3, bias=[0.0, 0.0])
    for bias in ([0, 0, (TOP + 1) / 4], [0, (-TOP - 1) / 2, 0]):
        need = r"^bias: expected \(3,\) numbers within int32 times 0\.5"
        with pytest.raises(ValueError, match=need):
            integer_cp(rows, scales, SIGNED, kernel_size=3, bias=bias)
    with pytest.raises(ValueError, match=r"^bias: expected 1 ax"):
        integer_cp(rows, scales, SIGNED, kernel_size=3, bias=np.zeros((3, 1)))
    for bias, need in (
        (np.zeros(3, int), r"shape \(2,\) \(one per output\), got \(3,\)"),
        (np.zeros((2, 1), int), "1 axes"),
        (0, "1 axes"),
    ):
        with pytest.raises(ValueError, match=f"^bias: expected {need}"):
            accumulator_bound([[1], [2]], SIGNED, bias=bias)
    for bias in ([0, 2**31], [-(2**31) - 1, 0]):
        with pytest.raises(ValueError, match=r"^bias: expected integers from -2147483648 to"):
            accumulator_bound([[1], [2]], SIGNED, bias=bias)
    for M in ([[1.0, 2.0**30]], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match=r"^multiplier: expected numbers above 0 and up to"):
            requantize([[1, 2]], M, 0, SIGNED)
    W = np.array([[1], [127], [100]])
    with pytest.raises(ValueError, match=rf"^W: output channel 1 may reach {TOP + 127 * 255}"):
        int_linear(np.zeros(1, np.int8), W, zero_point=127, bias=[0, -TOP, 0])


# --- third opinions -------------------------------------------------------------------------------


def run_onnx(operator, inputs, **attributes):
    """Run one operator in ONNX Runtime on arrays."""
    why = "third opinion: ONNX Runtime's integer convolutions (extra: dev)"
    onnx = pytest.importorskip("onnx", reason=why)
    runtime = pytest.importorskip("onnxruntime", reason=why)
    arrays = {f"i{n}": np.asarray(value) for n, value in enumerate(inputs)}

    def info(name, dtype):
        return onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(dtype), None
        )

    result = np.dtype(np.int32) if operator.endswith("Integer") else arrays["i7"].dtype
    node = onnx.helper.make_node(operator, list(arrays), ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node], "one", [info(n, a.dtype) for n, a in arrays.items()], [info("y", result)]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, arrays)[0]


GEOMETRY = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
AS_ONNX = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}


@pytest.mark.parametrize("zero_point", [0, 7, 255])
def test_onnx_runtime_has_the_same_accumulators(zero_point):
    rng = np.random.default_rng(zero_point)
    x, W = codes(rng, (2, 5, 8, 9), UNSIGNED), codes(rng, (4, 5, 3, 2), SIGNED)
    theirs = run_onnx("ConvInteger", [x, W, np.uint8(zero_point), np.int8(0)], **AS_ONNX)
    assert np.array_equal(theirs, int_conv(x, W, zero_point=zero_point, **GEOMETRY))
    matrix = W[:, :, 0, 0].T.copy()
    theirs = run_onnx(
        "MatMulInteger", [x[0, :, 0, :].T.copy(), matrix, np.uint8(zero_point), np.int8(0)]
    )
    assert np.array_equal(theirs, int_linear(x[0, :, 0, :].T, matrix.T, zero_point=zero_point))


@pytest.mark.parametrize("zero_point", [0, 7, 255])
def test_onnx_runtime_takes_the_zero_point_off_uint8_weights_too(zero_point):
    rng = np.random.default_rng(zero_point)
    x, W = codes(rng, (2, 5, 8, 9), UNSIGNED), codes(rng, (4, 5, 3, 2), UNSIGNED)
    theirs = run_onnx("ConvInteger", [x, W, np.uint8(9), np.uint8(zero_point)], **AS_ONNX)
    ours = int_conv(x, W, zero_point=9, weight_zero_point=zero_point, **GEOMETRY)
    assert np.array_equal(theirs, ours)
    rows, matrix = x[0, :, 0, :].T.copy(), W[:, :, 0, 0].T.copy()
    zeros = np.array([zero_point, 1, 2, 255], np.uint8)
    theirs = run_onnx("MatMulInteger", [rows, matrix, np.uint8(9), zeros])
    ours = int_linear(rows, matrix.T, zero_point=9, weight_zero_point=zeros)
    assert np.array_equal(theirs, ours)


def qlinear_conv(x, W, b, scales, zeros, grid):
    """QLinearConv, with one weight scale per output channel."""
    sx, sw, sy = (np.asarray(s, np.float32) for s in scales)
    zx, zy = (grid.dtype.type(z) for z in zeros)
    inputs = [x, sx, zx, W, sw, np.zeros(len(W), np.int8), sy, zy, b.astype(np.int32)]
    return run_onnx("QLinearConv", inputs, **AS_ONNX)


@pytest.mark.parametrize("grid", [UNSIGNED, SIGNED], ids=["uint8", "int8"])
def test_onnx_runtime_requantizes_alike_if_multipliers_are_powers_of_two(grid):
    rng = np.random.default_rng(11)
    x, W = codes(rng, (2, 5, 8, 9), grid), codes(rng, (6, 5, 3, 2), Grid(6))
    b, sw = rng.integers(-4000, 4000, 6), 2.0 ** rng.integers(-5, -2, 6)
    theirs = qlinear_conv(x, W, b, (0.5, sw, 2.0), (90, 100), grid)
    acc = int_conv(x, W, zero_point=90, bias=b, **GEOMETRY)
    M = (0.5 * sw / 2.0).reshape(1, -1, 1, 1)
    assert ((acc * M) % 1 == 0.5).any() and np.unique(theirs).size > 50
    assert np.array_equal(theirs, requantize(acc, M, 100, grid))


def test_onnx_runtime_multiplies_in_float32_and_differs_next_to_ties_only():
    rng = np.random.default_rng(12)
    x, W = codes(rng, (8, 5, 20, 20), UNSIGNED), codes(rng, (6, 5, 3, 2), SIGNED)
    b, sw = np.zeros(6, int), rng.uniform(0.001, 0.003, 6).astype(np.float32)
    sx, sy = np.float32(0.37), np.float32(1.3)
    theirs = qlinear_conv(x, W, b, (sx, sw, sy), (5, 100), UNSIGNED).astype(int)
    acc = int_conv(x, W, zero_point=5, bias=b, **GEOMETRY)
    M = (float(sx) * sw.astype(float) / float(sy)).reshape(1, -1, 1, 1)
    different = theirs != requantize(acc, M, 100, UNSIGNED)
    product = (acc * M)[different]
    # Three roundings make the multiplier, one converts the accumulator, one is that of the product.
    assert (np.abs(product % 1 - 0.5) <= 5.01 * 2.0**-24 * np.abs(product)).all()
    assert np.abs(theirs - requantize(acc, M, 100, UNSIGNED))[different].max(initial=0) <= 1
    # Told to do the same, with their multiplier, the book gives their codes.
    M = (sx * sw / sy).reshape(1, -1, 1, 1)
    assert np.array_equal(theirs, requantize(acc, M, 100, UNSIGNED, mode="float32"))


def test_onnx_runtime_takes_a_product_next_to_a_tie_for_one():
    M, ones = np.float32(0.01462148129940033), np.ones((1, 1, 1, 1), np.int8)
    for z, sign, exactly, theirs in ((0, 1, 161, 160), (255, -1, 94, 95)):
        bias, x = np.array([sign * 10977 - 1]), np.ones((1, 1, 1, 1), np.uint8)
        inputs = [x, np.float32(1), np.uint8(0), ones, np.array([M]), np.zeros(1, np.int8)]
        inputs += [np.float32(1), np.uint8(z), bias.astype(np.int32)]
        assert run_onnx("QLinearConv", inputs).item() == theirs
        acc = int_conv(x, ones, bias=bias)
        assert requantize(acc, M, z, UNSIGNED, mode="float32").item() == theirs
        assert requantize(acc, M, z, UNSIGNED).item() == exactly


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_pytorch_convolves_quantized_images_alike():
    torch = pytest.importorskip("torch", reason="third opinion: PyTorch's quantized convolution")
    if not torch.backends.quantized.supported_engines or not hasattr(torch.ops, "quantized"):
        pytest.skip("this PyTorch has no quantized engine")
    rng = np.random.default_rng(13)
    x, W = codes(rng, (2, 5, 8, 9), UNSIGNED), codes(rng, (6, 5, 3, 2), Grid(6))
    images = torch._make_per_tensor_quantized_tensor(torch.tensor(x), 0.5, 5)
    kernel = torch._make_per_tensor_quantized_tensor(torch.tensor(W), 2.0**-6, 0)
    strides, zeros, spread = [2, 1], [1, 2], [1, 2]
    packed = torch.ops.quantized.conv2d_prepack(kernel, torch.zeros(6), strides, zeros, spread, 1)
    theirs = torch.ops.quantized.conv2d(images, packed, 2.0, 100).int_repr().numpy()
    acc = int_conv(x, W, zero_point=5, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    assert np.array_equal(theirs, requantize(acc, 0.5 * 2.0**-6 / 2.0, 100, UNSIGNED))


@law("integer_cp.range")
@given(
    st.sampled_from([-1000, -500, 0, 500, 990]),
    st.lists(st.integers(-25, 100), min_size=2, max_size=2),
    st.booleans(),
)
def test_scales_of_any_magnitude_give_exact_multipliers(power, shifts, columns):
    shape = (1, 2) if columns else ()
    s = [2.0 ** (power // 3), 2.0 ** (power // 2), 2.0**power]
    steps = []  # of a_in and a_out: the multipliers are 3/4 2^-shift
    for n, shift in enumerate(shifts):
        exponent = int(np.log2(s[n + 1]) - np.log2(s[n])) - shift
        steps.append(np.full(shape, np.ldexp(0.75, exponent)))
    unit = Fraction(s[1]) * Fraction(steps[1].max())  # of the bias
    bias = [float(7 * unit), float(-unit)]
    if not all(Fraction(2) ** -1000 < abs(Fraction(b)) for b in bias):
        bias = [0.0, 0.0]
    scales = [Scale(np.array(each), 3, "given") for each in s]
    cp = QuantizedCP([[[3, -2], [1, 5]], [[7, 1], [-4, 2]]], steps[::-1], Grid(4))
    layer = integer_cp(cp, scales, SIGNED, bias=bias)
    for M, shift in zip(layer.multipliers, shifts, strict=True):
        assert (np.ldexp(0.75, -shift) == M).all()
    assert layer.bias.tolist() == ([7, -1] if any(bias) else [0, 0])


def test_multipliers_whose_parts_leave_the_range_are_right_or_refused():
    codes = [[[2], [-3]], [[1], [1]]]

    def made(*s, step=1.0, bias=None):
        scales = [Scale(np.array(each), 0, "given") for each in s]
        return integer_cp(QuantizedCP(codes, [1.0, step], Grid(4)), scales, SIGNED, bias=bias)

    layer = made(1e-200, 1e-300, 1e-300, step=1e-105)
    assert layer.multipliers[0] == pytest.approx(1e-5, rel=1e-12)
    with pytest.raises(ValueError, match=r"^cp, scales: the result exceeds the range of float64"):
        made(1e200, 1e-200, 1e-200)
    with pytest.raises(ValueError, match=r"^cp, scales: multiplier: expected numbers above 0"):
        made(1e-200, 1e200, 1e200)
    with pytest.raises(ValueError, match="bias"):
        made(1.0, 1e-300, 1e-300, step=1e-300, bias=[1e300, 0.0])


# --- planted faults -------------------------------------------------------------------------------


def plain_integer_cp(cp, scales, grid, *, bias):
    """Multiplies scales before it divides, in float64."""
    layer = right_integer_cp(cp, scales, grid, bias=bias)
    s, steps = [np.asarray(each.scale) for each in scales], cp.scales
    with np.errstate(all="ignore"):
        M = [np.ravel(s[0] * steps[1] / s[1]), np.ravel(s[1] * steps[0].max() / s[2])]
        b = np.nan_to_num(np.rint(bias / (s[1] * steps[0].max())))
    return SimpleNamespace(multipliers=M, bias=b, forward=layer.forward)


right_integer_cp = integer_cp


def test_multipliers_formed_in_float64_are_caught():
    test = test_scales_of_any_magnitude_give_exact_multipliers
    assert caught(THIS, test, integer_cp=plain_integer_cp)


# Each calls the module's own function, not the global that it replaces.

right_requantize, right_conv, right_linear = (
    integer.requantize,
    integer.int_conv,
    integer.int_linear,
)
right_cp, right_bound, right_fixed = integer.integer_cp, integer.accumulator_bound, fixed_point


def pads_with_raw_zero(x, W, *, zero_point=0, bias=None, **options):
    """I01: subtracts the zero point everywhere, from padding too."""
    acc = right_conv(x, W, zero_point=max(0, np.iinfo(x.dtype).min), bias=bias, **options)
    total = np.asarray(W, int).reshape(len(W), -1).sum(axis=1)
    return acc - zero_point * total.reshape(1, -1, *[1] * (acc.ndim - 2))


def without_zero_point(x, W, *, zero_point=0, **options):
    """I02."""
    return right_conv(x, W, **options)


def stored_as(dtype, run):
    """I04, I05: the sums pass through a type that cannot hold them."""

    def wrong(x, W, **options):
        return run(x, W, **options).astype(dtype).astype(np.int64).astype(np.int32)

    return wrong


def rounded_by(rounding):
    """Rounds the real product in another way."""

    def wrong(acc, multiplier, zero_point, grid, *, mode="exact"):
        k = rounding(np.asarray(acc) * np.asarray(multiplier)) + zero_point
        return np.clip(k, grid.qmin, grid.qmax).astype(grid.dtype)

    return wrong


def half_away(t):
    return np.sign(t) * np.floor(np.abs(t) + 0.5)


def off_by_one_shift(multiplier):
    """I06."""
    m, shift = right_fixed(multiplier)
    return m, shift + (m > 0)


def shifted_requantize(acc, multiplier, zero_point, grid, *, mode="exact"):
    """I06 in the fixed-point modes."""
    half = np.asarray(multiplier) / (1 if mode == "exact" else 2)
    return right_requantize(acc, half, zero_point, grid, mode=mode)


def swapped_modes(acc, multiplier, zero_point, grid, *, mode="exact"):
    """I09: rounds twice where once is meant, and the other way round."""
    other = {"single": "double", "double": "single", "exact": "float32", "float32": "exact"}[mode]
    return right_requantize(acc, multiplier, zero_point, grid, mode=other)


def fixed_half_away(acc, multiplier, zero_point, grid, *, mode="exact"):
    """I10: ties of the single rounding go away from zero."""
    if mode != "single":
        return right_requantize(acc, multiplier, zero_point, grid, mode=mode)
    m, shift = right_fixed(multiplier)
    return rounded_by(half_away)(acc, m * 2.0 ** (shift - 31), zero_point, grid)


def fixed_half_even(acc, multiplier, zero_point, grid, *, mode="exact"):
    """Rounds the product with the fixed-point multiplier to even."""
    m, shift = right_fixed(multiplier)
    M = np.maximum(m * 2.0 ** (shift - 31), 2.0**-40)
    M = np.asarray(multiplier) if mode == "exact" else M
    return right_requantize(acc, M, zero_point, grid)


def first_multiplier(acc, multiplier, zero_point, grid, *, mode="exact"):
    """I11."""
    M = np.asarray(multiplier)
    first = M[:, :1] if M.ndim > 1 else M
    return right_requantize(acc, first, zero_point, grid, mode=mode)


def next_zero_point(acc, multiplier, zero_point, grid, *, mode="exact"):
    """I12."""
    k = right_requantize(acc, multiplier, zero_point, grid, mode=mode).astype(int) + 1
    return np.minimum(k, grid.qmax).astype(grid.dtype)


def zero_point_before_rounding(acc, multiplier, zero_point, grid, *, mode="exact"):
    if mode != "exact":
        return right_requantize(acc, multiplier, zero_point, grid, mode=mode)
    k = np.rint(np.asarray(acc) * np.asarray(multiplier) + zero_point)
    return np.clip(k, grid.qmin, grid.qmax).astype(grid.dtype)


def wrapping(acc, multiplier, zero_point, grid, *, mode="exact"):
    k = np.rint(np.asarray(acc) * np.asarray(multiplier)) + zero_point
    return (k.astype(np.int64) % 256).astype(np.uint8).astype(grid.dtype)


def relu_at_zero(cp, scales, grid, *, relu=False, **options):
    """I13."""
    layer = right_cp(cp, scales, grid, **options)
    run = (lambda x: np.maximum(layer.forward(x), 0)) if relu else layer.forward
    return SimpleNamespace(forward=run)


def bias_after_requantization(cp, scales, grid, *, bias=None, relu=False, **options):
    """I14."""
    layer = right_cp(cp, scales, grid, **options)
    s, z = scales[-1][:2]
    b = np.zeros(cp.shape[0]) if bias is None else np.rint(np.asarray(bias) / s)

    def run(x):
        y = layer.forward(x).astype(float)
        y = np.clip(y + b.reshape(1, -1, *[1] * (y.ndim - 2)), grid.qmin, grid.qmax)
        return np.maximum(y, z if relu else grid.qmin).astype(grid.dtype)

    return SimpleNamespace(forward=run)


def unfolded(cp, scales, grid, **options):
    """Takes the largest scale of the columns of a_out for all of them."""
    step = cp.scales[0]
    step = step.max() if step.shape == (1, cp.rank) else step
    return right_cp(QuantizedCP(cp.codes, [step, *cp.scales[1:]], cp.grid), scales, grid, **options)


def padded_with_raw_zero(v, W, *, padding=0, **options):
    """I01 in the depthwise stage: code 0 stands for -20 there."""
    around = [(0, 0), (0, 0), (padding, padding)]
    return depthwise(np.pad(v, around, constant_values=-20), W, **options)


def padded_before_the_first_stage(cp, scales, grid, *, padding=0, **options):
    """Pads the input, and with a code next to that of zero."""
    around = [(0, 0), (0, 0), *[(padding, padding)] * (2 if len(cp.codes[2]) == 9 else 1)]
    layer, z = right_cp(cp, scales, grid, **options), int(scales[0].zero_point)
    return SimpleNamespace(
        forward=lambda x: layer.forward(np.pad(x, around, constant_values=z + 1))
    )


def bound_of_final_sums(W, grid, *, zero_point=0, bias=None):
    """Lets a bias of the other sign make room that partial sums do not have."""
    W = np.asarray(W, int).reshape(len(W), -1)
    b = 0 if bias is None else np.asarray(bias)
    ends = [W * (q - zero_point) for q in (grid.qmin, grid.qmax)]
    upper, lower = np.maximum(*ends).sum(axis=1) + b, np.minimum(*ends).sum(axis=1) + b
    return np.maximum(upper, -lower)


def bound_without_zero_point(W, grid, *, zero_point=0, bias=None):
    return right_bound(W, grid, zero_point=grid.qmin + (grid.qmax - grid.qmin + 1) // 2, bias=bias)


ACCUMULATE = test_accumulators_are_those_of_plain_loops
PADDED = test_padding_is_the_zero_point_and_so_a_zero_in_real_numbers
LIMIT = test_the_last_accumulator_that_fits_is_computed_and_the_next_one_refused
BOUND = test_the_accumulator_bound_is_attained_and_never_exceeded
ROOM = test_a_bias_of_the_other_sign_makes_no_room
REFUSAL = test_a_sum_is_refused_if_and_only_if_some_codes_might_leave_int32
LARGE = test_large_layers_of_codes_are_convolutions_of_numbers
POWERS = test_powers_of_two_are_exact_or_vanish
VANISHING = test_multipliers_without_a_mantissa_give_the_zero_point_only
DOUBLE = test_powers_of_two_leave_ties_and_the_first_rounding_of_double
PLAIN = test_requantization_is_that_of_plain_loops
TIES = test_ties_in_the_three_modes
NEAREST = test_exact_requantization_is_correctly_rounded_but_next_to_ties
WITHIN = test_fixed_point_modes_stay_within_one_code_and_all_modes_are_monotone
DEVICES = test_fixed_point_modes_are_those_that_devices_publish
CHANNELS = test_multipliers_belong_to_their_channels
FULL = test_a_layer_full_of_ties_is_that_of_plain_loops
TYPICAL = test_typical_errors_are_a_few_steps
RELU = test_relu_clamps_at_the_zero_point_and_padding_is_that_of_the_stage
FOLD = test_a_scale_per_column_of_a_out_moves_to_the_stage_before


def limit():
    LIMIT(UNSIGNED, 0, 255)


def operands_in_float32(acc, multiplier, zero_point, grid, *, mode="exact"):
    """Rounds what is multiplied to float32, but not the product."""
    if mode != "float32":
        return right_requantize(acc, multiplier, zero_point, grid, mode=mode)
    t = np.float32(acc).astype(float) * np.float32(multiplier)
    return np.clip(np.rint(t) + zero_point, grid.qmin, grid.qmax).astype(grid.dtype)


def without_weight_zero_point(x, W, *, weight_zero_point=None, **options):
    """Takes the codes of weights for what they stand for."""
    return right_conv(x, W, weight_zero_point=0, **options)


def first_weight_zero_point(x, W, *, weight_zero_point=None, **options):
    """Channel 0's zero point for all."""
    return right_conv(x, W, weight_zero_point=np.ravel(weight_zero_point)[0], **options)


WEIGHTS = test_a_zero_point_of_the_weights_is_taken_off_them
SHORT = test_float32_is_exact_on_few_bits_and_sees_no_more_of_a_multiplier
NEAR_TIE = test_float32_takes_products_next_to_a_tie_for_one


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (WEIGHTS, {"int_conv": without_weight_zero_point}),
        (WEIGHTS, {"int_conv": first_weight_zero_point}),
        (SHORT, {"requantize": swapped_modes}),
        (NEAR_TIE, {"requantize": swapped_modes}),
        (NEAR_TIE, {"requantize": operands_in_float32}),
        (ACCUMULATE, {"int_conv": pads_with_raw_zero}),
        (PADDED, {"int_conv": pads_with_raw_zero}),
        (ACCUMULATE, {"int_conv": without_zero_point}),
        (PADDED, {"int_conv": without_zero_point}),
        (limit, {"int_conv": stored_as(np.int16, right_conv)}),
        (limit, {"int_conv": stored_as(np.float32, right_conv)}),
        (limit, {"int_linear": stored_as(np.int16, right_linear)}),
        (limit, {"int_linear": stored_as(np.float32, right_linear)}),
        (REFUSAL, {"int_conv": stored_as(np.int16, right_conv)}),
        (REFUSAL, {"int_conv": stored_as(np.float32, right_conv)}),
        (REFUSAL, {"int_linear": stored_as(np.int16, right_linear)}),
        (REFUSAL, {"int_linear": stored_as(np.float32, right_linear)}),
        (LARGE, {"int_conv": without_zero_point}),
        (POWERS, {"fixed_point": off_by_one_shift}),
        (VANISHING, {"requantize": next_zero_point}),
        (DOUBLE, {"requantize": swapped_modes}),
        (DOUBLE, {"requantize": fixed_half_away}),
        (ROOM, {"accumulator_bound": bound_of_final_sums}),
        (BOUND, {"accumulator_bound": bound_without_zero_point}),
        (test_fixed_point_is_the_nearest_number_of_31_bits, {"fixed_point": off_by_one_shift}),
        (test_fixed_point_at_its_ends, {"fixed_point": off_by_one_shift}),
        (PLAIN, {"requantize": shifted_requantize}),
        (WITHIN, {"requantize": shifted_requantize}),
        (PLAIN, {"requantize": rounded_by(np.trunc)}),
        (NEAREST, {"requantize": rounded_by(np.trunc)}),
        (PLAIN, {"requantize": rounded_by(np.floor)}),
        (NEAREST, {"requantize": rounded_by(np.floor)}),
        (TIES, {"requantize": swapped_modes}),
        (DEVICES, {"requantize": swapped_modes}),
        (TIES, {"requantize": fixed_half_away}),
        (TIES, {"requantize": fixed_half_even}),
        (DEVICES, {"requantize": fixed_half_even}),
        (CHANNELS, {"requantize": first_multiplier}),
        (PLAIN, {"requantize": next_zero_point}),
        (TIES, {"requantize": next_zero_point}),
        (TIES, {"requantize": zero_point_before_rounding}),
        (NEAREST, {"requantize": wrapping}),
        (FULL, {"integer_cp": relu_at_zero}),
        (RELU, {"integer_cp": relu_at_zero}),
        (FULL, {"integer_cp": bias_after_requantization}),
        (FOLD, {"integer_cp": unfolded}),
        (TYPICAL, {"integer_cp": unfolded}),
        (FULL, {"integer_cp": padded_before_the_first_stage}),
        (RELU, {"integer_cp": padded_before_the_first_stage}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)


def test_raw_zeros_around_the_depthwise_stage_are_caught():
    assert caught(integer, RELU, depthwise=padded_with_raw_zero)


@pytest.mark.parametrize(
    "fault",
    [
        *[first_multiplier, next_zero_point, rounded_by(np.trunc), rounded_by(np.floor)],
        *[shifted_requantize, swapped_modes, fixed_half_away],
    ],
)
def test_faults_of_requantization_show_in_the_layer(fault):
    assert caught(integer, FULL, requantize=fault)
