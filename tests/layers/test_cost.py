"""Laws, known answers and bad input of qcp_ref.layers.cost; its planted faults stand at the end."""

import sys
from decimal import Decimal
from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import caught, law, sides
from test_conv import geometries

from qcp_ref import Costs, conv_costs, equal_cost_bits, loops, rank_for_rate
from qcp_ref.layers import cost

THIS = sys.modules[__name__]

shapes = st.lists(st.integers(1, 40), min_size=2, max_size=4)
rates = st.fractions(1, 8, max_denominator=20)
bit_widths = st.integers(1, 32)


# --- rank -----------------------------------------------------------------------------------------


@law("rank_for_rate.largest")
@given(shapes, rates)
def test_rank_is_the_largest_within_the_budget(shape, rate):
    expected = loops.rank_for_rate(shape, rate)
    if expected:
        assert rank_for_rate(shape, rate) == expected
    else:
        with pytest.raises(ValueError, match="no component would be left"):
            rank_for_rate(shape, rate)


@law("rank_for_rate.largest")
@given(st.integers(1, 10**6), st.sampled_from(["1.1", "1.2", "1.5", "2.3", "2.7", "2"]))
def test_a_rate_is_the_decimal_number_that_is_written(multiple, rate):
    # The quotient is a whole number, so that the slightest error of the rate would show.
    side = 2 * multiple * Fraction(rate).numerator
    expected = multiple * Fraction(rate).denominator
    for form in (
        rate,
        float(rate),
        Decimal(rate),
        Fraction(rate),
        np.float64(rate),
        np.float32(rate),
    ):
        assert rank_for_rate((side, side), form) == expected


@law("rank_for_rate.largest")
@given(
    st.lists(st.integers(1, 10**9), min_size=2, max_size=6),
    st.fractions(1, 10**6) | rates,
)
def test_one_component_more_would_not_fit(shape, rate):
    entries, component = prod(shape), sum(shape)
    if component * rate > entries:
        with pytest.raises(ValueError, match="no component would be left"):
            rank_for_rate(shape, rate)
        return
    rank = rank_for_rate(shape, rate)
    assert rank * component * rate <= entries < (rank + 1) * component * rate


def test_dividing_in_floating_point_would_lose_a_component():
    assert rank_for_rate((66, 66), 1.1) == 30
    assert int(66 * 66 / (66 + 66) / 1.1) == 29


@pytest.mark.parametrize(
    ("shape", "rate", "rank"),
    [((64, 64, 9), 2, 134), ((128, 64, 9), 2, 183), ((128, 128, 9), 2, 278)],
)
def test_known_ranks(shape, rate, rank):
    assert rank_for_rate(shape, rate) == rank


# --- counts ---------------------------------------------------------------------------------------


class Counted:
    """A number without a value that counts its multiplications."""

    multiplications = 0

    def __mul__(self, other):
        Counted.multiplications += 1
        return self

    def __add__(self, other):
        return self

    __rmul__, __radd__ = __mul__, __add__


def counted(shape):
    return loops.build(shape, lambda *index: Counted())


@law("conv_costs.macs")
@given(geometries(), st.none() | sides)
def test_macs_and_parameters_are_those_of_the_index_loops(g, rank):
    one_image = counted((1, *g.x_shape[1:]))
    area = prod(g.kernel)
    Counted.multiplications = 0
    if rank is None:
        weights = [counted(g.W_shape)]
        loops.conv(one_image, weights[0], **g.options)
    else:
        tail = () if area == 1 else (area,)
        weights = [counted((side, rank)) for side in (*g.W_shape[:2], *tail)]
        loops.cp_conv(one_image, weights, kernel_size=g.kernel, **g.options)
    costs = conv_costs(g.W_shape, g.size, rank=rank, **g.options)
    assert costs.macs == Counted.multiplications
    assert costs.parameters == sum(prod(loops.shape_of(A)) for A in weights)


@law("conv_costs.bops")
@given(geometries(), st.none() | sides, bit_widths, bit_widths)
def test_bops_and_bytes_are_linear_in_the_bits(g, rank, weight_bits, activation_bits):
    def bops(**bits):
        return conv_costs(g.W_shape, g.size, rank=rank, **bits, **g.options).bops

    costs = conv_costs(g.W_shape, g.size, rank=rank, **g.options)
    single = bops(weight_bits=1, activation_bits=1)
    assert single == costs.macs
    mixed = bops(weight_bits=weight_bits, activation_bits=activation_bits)
    assert mixed == sum([single] * weight_bits * activation_bits)
    assert costs.bops == bops(weight_bits=32, activation_bits=32)  # the defaults are a float layer


@law("conv_costs.bytes")
@given(geometries(), st.none() | sides, bit_widths, bit_widths, sides, st.sampled_from([4, 8]))
def test_bytes_are_those_of_packed_bits(g, rank, weight_bits, activation_bits, scales, scale_bytes):
    options = {"weight_bits": weight_bits, "activation_bits": activation_bits, **g.options}
    costs = conv_costs(
        g.W_shape, g.size, rank=rank, scales=scales, scale_bytes=scale_bytes, **options
    )
    packed = np.packbits(np.ones(weight_bits * costs.parameters, np.uint8))
    assert costs.bytes == packed.nbytes + np.ones(scales, f"f{scale_bytes}").nbytes
    assert conv_costs(g.W_shape, g.size, rank=rank, **options).bytes == packed.nbytes


@law("Costs.sum")
@given(st.lists(st.tuples(*[st.integers(0, 99)] * 4)))
def test_costs_add_up_figure_by_figure(rows):
    total = sum((Costs(*row) for row in rows), Costs())
    figures = (total.parameters, total.macs, total.bops, total.bytes)
    assert figures == tuple(np.array(rows, int).reshape(-1, 4).sum(axis=0))


@law("conv_costs.macs")
def test_a_linear_layer_is_a_convolution_of_one_pixel():
    dense, small = conv_costs((10, 64, 1, 1), 1), conv_costs((10, 64, 1, 1), 1, rank=3)
    assert (dense.parameters, dense.macs) == (640, 640)
    assert (small.parameters, small.macs) == (222, 222)


# --- equal cost -----------------------------------------------------------------------------------


@law("conv_costs.rate", "equal_cost_bits.around")
@given(
    st.tuples(*[st.integers(1, 300)] * 2, *[st.integers(1, 5)] * 3),
    st.integers(1, 3),
    st.integers(5, 30),
    rates,
    bit_widths,
)
def test_rate_and_bits_cost_what_the_dense_kernel_costs_at_fewer_bits(shape, d, size, rate, bits):
    shape = shape[: 2 + d]
    area = prod(shape[2:])
    tensor = shape[:2] if area == 1 else (*shape[:2], area)
    if not loops.rank_for_rate(tensor, rate):
        return
    options = {"padding": "same", "weight_bits": bits, "activation_bits": 8}
    rank = rank_for_rate(tensor, rate)
    small = conv_costs(shape, size, rank=rank, **options)
    dense = conv_costs(shape, size, **{**options, "weight_bits": 1})
    component = sum(tensor)
    pixels = size**d
    assert 0 <= dense.parameters / rate - small.parameters < component
    assert 0 <= dense.macs / rate - small.macs < component * pixels
    assert 0 <= dense.bops * bits / rate - small.bops < component * pixels * 8 * bits
    low, high = equal_cost_bits(bits, rate)
    assert low * dense.bops <= dense.bops * bits / rate <= high * dense.bops
    assert high - low == (0 if (bits / rate).denominator == 1 else 1)


@law("equal_cost_bits.around")
@given(st.integers(1, 10**9), st.fractions(1, 10**6) | rates)
def test_equal_cost_bits_are_neighbours_around_the_quotient(bits, rate):
    low, high = equal_cost_bits(bits, rate)
    assert low * rate <= bits <= high * rate
    assert high - low == (low * rate != bits)


def test_equal_cost_bits_of_the_headline():
    assert equal_cost_bits(4, 2) == (2, 2)
    assert equal_cost_bits(4, "1.5") == equal_cost_bits(4, 1.5) == (2, 3)
    assert equal_cost_bits(4, 5) == (0, 1)


# --- ResNet-18 at 224 x 224 -----------------------------------------------------------------------
# The authors count batch norm as two operations per element and keep the first convolution, the
# shortcuts, the classifier and batch norm at 8 bits.


def resnet18():
    """Return (shape, input side, options) of the 3x3 layers, and of all others."""
    other = [((64, 3, 7, 7), 224, {"stride": 2, "padding": 3})]
    blocks, side, channels = [], 56, 64
    for outputs in (64, 128, 256, 512):
        stride = 1 if outputs == channels else 2
        blocks.append(((outputs, channels, 3, 3), side, {"stride": stride, "padding": 1}))
        if stride == 2:
            other.append(((outputs, channels, 1, 1), side, {"stride": 2}))
        side, channels = side // stride, outputs
        blocks += [((outputs, outputs, 3, 3), side, {"padding": 1})] * 3
    return blocks, other, ((1000, 512, 1, 1), 1, {})


def norm_elements(convolutions):
    """Count the outputs of all convolutions: each is followed by batch norm."""
    return sum(
        conv_costs(shape, size, **options).macs // prod(shape[1:])
        for shape, size, options in convolutions
    )


def total(rate, weight_bits):
    """Cost of the network whose 3x3 layers are factorized; rate None leaves them dense."""
    blocks, other, classifier = resnet18()
    costs = Costs()
    for shape, size, options in blocks:
        rank = None if rate is None else rank_for_rate((*shape[:2], 9), rate)
        bits = {"weight_bits": weight_bits, "activation_bits": 8}
        costs += conv_costs(shape, size, rank=rank, **bits, **options)
    for shape, size, options in (*other, classifier):
        costs += conv_costs(shape, size, weight_bits=8, activation_bits=8, **options)
    norm = 2 * norm_elements(blocks + other)
    return costs + Costs(macs=norm, bops=norm * 8 * 8)


def test_resnet18_without_factorization():
    blocks, other, classifier = resnet18()
    assert len(blocks) == 16
    dense = sum((conv_costs(s, n, **o) for s, n, o in (*blocks, *other, classifier)), Costs())
    assert dense.macs == 1_814_073_344
    assert norm_elements(blocks + other) == 2_483_712
    assert total(None, 8).macs == 1_819_040_768
    assert total(None, 8).bops * 100 == Fraction("6.25") * total(None, 8).macs * 32 * 32
    for weights, activations, percent in (
        (8, 8, 6.25),
        (6, 8, 4.6875),
        (4, 8, 3.125),
        (4, 4, 1.5625),
    ):
        bits = {"weight_bits": weights, "activation_bits": activations}
        layer, whole = conv_costs((9, 5, 3, 3), 7, **bits), conv_costs((9, 5, 3, 3), 7)
        assert layer.bops / whole.bops * 100 == percent


@pytest.mark.parametrize(
    ("rate", "macs", "bops", "percent"),
    [
        (1.2, 1_679_071_974, 58_298_653_888, "3.13"),
        (1.5, 1_371_033_474, 48_441_421_888, "2.60"),
        (2.0, 1_063_924_602, 38_613_937_984, "2.07"),
        (2.5, 878_745_762, 32_688_215_104, "1.75"),
    ],
)
def test_resnet18_digit_for_digit(rate, macs, bops, percent):
    costs = total(rate, 4)
    assert (costs.macs, costs.bops) == (macs, bops)
    assert f"{100 * costs.bops / (1_819_040_768 * 32 * 32):.2f}" == percent


@law("conv_costs.bops")
def test_resnet18_bops_are_affine_in_the_weight_bits():
    bops = [total(2, bits).bops for bits in (4, 5, 6, 8)]
    assert bops[1] - bops[0] == bops[2] - bops[1] == (bops[3] - bops[2]) / 2
    assert f"{100 * bops[0] / (1_819_040_768 * 32 * 32):.6f}" == "2.073011"


# --- bad input ------------------------------------------------------------------------------------

BAD_RATES = [
    (0, ValueError, r"^rate: expected a number above 0"),
    (-2, ValueError, r"^rate: expected a number above 0"),
    ("-0.5", ValueError, r"^rate: expected a number above 0"),
    (float("nan"), ValueError, r"^rate: expected a finite number"),
    (float("inf"), ValueError, r"^rate: expected a finite number"),
    ("two", ValueError, r"^rate: expected a finite number"),
    ("1/0", ValueError, r"^rate: expected a finite number"),
    (1j, TypeError, r"^rate: expected a real number"),
    (True, TypeError, r"^rate: expected a real number"),
    (0.5, ValueError, r"^rate: expected at least 1, got 0.5; .* enlarge .* rate=2"),
    ("99/100", ValueError, r"^rate: expected at least 1"),
    ("1e999999999", ValueError, r"^rate: expected a finite number"),
    (np.True_, TypeError, r"^rate: expected "),
    (None, TypeError, r"^rate: expected a real number"),
]


@pytest.mark.parametrize(("rate", "error", "message"), BAD_RATES)
def test_bad_rates_are_refused(rate, error, message):
    with pytest.raises(error, match=message):
        rank_for_rate((64, 64, 9), rate)
    with pytest.raises(error, match=message):
        equal_cost_bits(4, rate)


def test_bad_shapes_and_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^rate: expected at most 4\.5 for shape \(9, 9\), got 5"):
        rank_for_rate((9, 9), 5)
    with pytest.raises(ValueError, match=r"^shape: expected at least 2 sides"):
        rank_for_rate((64,), 2)
    with pytest.raises(ValueError, match=r"^shape: expected at least 1"):
        rank_for_rate((64, 0), 2)
    with pytest.raises(TypeError, match=r"^shape: expected an integer"):
        rank_for_rate((64, 64.0), 2)
    for bits in (0, -1):
        with pytest.raises(ValueError, match=r"^bits: expected at least 1"):
            equal_cost_bits(bits, 2)
    shape = (6, 3, 3, 3)
    for options, error, message in (
        ({"rank": 0}, ValueError, r"^rank: expected at least 1"),
        ({"rank": -1}, ValueError, r"^rank: expected at least 1"),
        ({"rank": 2.0}, TypeError, r"^rank: expected an integer"),
        ({"weight_bits": 0}, ValueError, r"^weight_bits: expected at least 1"),
        ({"activation_bits": True}, TypeError, r"^activation_bits: expected an integer"),
        ({"scales": -1}, ValueError, r"^scales: expected at least 0"),
        ({"scale_bytes": 0}, ValueError, r"^scale_bytes: expected at least 1"),
        ({"stride": 0}, ValueError, r"^stride: expected at least 1"),
        ({"padding": "full"}, ValueError, r"^padding: expected one of"),
        ({"dilation": 4}, ValueError, "padded height of at least 9"),
    ):
        with pytest.raises(error, match=message):
            conv_costs(shape, 5, **options)
    for bad in ((64, 64), (1, 1, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"^shape: expected 3 or 4 or 5 integers"):
            conv_costs(bad, 5)
    with pytest.raises(ValueError, match=r"^input_size: expected 1 or 3 integers"):
        conv_costs((6, 3, 3, 3, 3), (5, 5))
    with pytest.raises(ValueError, match=r"^input_size: expected at least 1"):
        conv_costs(shape, (5, 0))


def test_what_is_not_given_is_that_of_a_float_layer_without_options():
    given_all = {"stride": 1, "padding": 0, "dilation": 1, "scales": 0, "scale_bytes": 8}
    bits = {"weight_bits": 32, "activation_bits": 32}
    for rank in (None, 2):
        plain = conv_costs((5, 4, 3, 2), (7, 6), rank=rank)
        assert plain == conv_costs((5, 4, 3, 2), (7, 6), rank=rank, **given_all, **bits)
        assert plain.bytes == 4 * plain.parameters
        scaled = conv_costs((5, 4, 3, 2), (7, 6), rank=rank, scales=3)
        assert scaled.bytes == plain.bytes + np.ones(3).nbytes
    assert Costs() == Costs(0, 0, 0, 0)
    with pytest.raises(AttributeError, match="macs"):
        plain.macs = 0


def test_the_smallest_numbers_are_taken_and_the_next_ones_refused_by_name():
    least = {"stride": 1, "dilation": 1, "weight_bits": 1, "activation_bits": 1, "scale_bytes": 1}
    for shape in ((1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1)):
        assert conv_costs(shape, 1, **least) == Costs(1, 1, 1, 1)
        assert conv_costs(shape, 1, rank=1, **least) == Costs(2, 2, 2, 1)
        assert conv_costs(shape, 1, scales=1, **least).bytes == 2
    assert conv_costs((1, 1, 2), 2, rank=1) == conv_costs((1, 1, 2), (2,), rank=1)
    assert (
        conv_costs((1, 1, 2), 2, rank=1).parameters == 4
    )  # a stage of its own from two entries on
    for name in (*least, "rank"):
        with pytest.raises(ValueError, match=rf"^{name}: expected at least 1, got 0"):
            conv_costs((1, 1, 1), 1, **{**least, "rank": 1, name: 0})
        with pytest.raises(TypeError, match=rf"^{name}: expected"):
            conv_costs((1, 1, 1), 1, **{**least, "rank": 1, name: 1.5})
    for name, wrong in (("scales", -1), ("padding", -1)):
        with pytest.raises(ValueError, match=rf"^{name}: expected"):
            conv_costs((1, 1, 1), 1, **{name: wrong})
    for place in range(3):
        sides = [1, 1, 1]
        sides[place] = 0
        with pytest.raises(ValueError, match=r"^shape: expected at least 1, got 0"):
            conv_costs(sides, 1)
    assert rank_for_rate((2, 2), 1) == 1
    assert equal_cost_bits(1, 1) == (1, 1)
    for bits in (0, 1.5):
        with pytest.raises((ValueError, TypeError), match=r"^bits: expected"):
            equal_cost_bits(bits, 1)
    with pytest.raises(TypeError, match=r"^shape: expected an integer"):
        rank_for_rate((2, 1.5), 1)


# --- planted faults -------------------------------------------------------------------------------
# Each calls the module's own function, not the global that it replaces.


def floored_twice(shape, rate):
    """Rounds the rank of rate 1 down before it divides."""
    rank = int(prod(shape) // sum(shape) / Fraction(rate))
    if rank < 1:
        raise ValueError("no component would be left")
    return rank


def floating_rank(shape, rate):
    """Divides in floating point."""
    return int(prod(shape) / sum(shape) / float(rate))


def rounded_up(shape, rate):
    """Keeps at least the parameters that the rate asks for."""
    return cost.rank_for_rate(shape, rate) + 1


def always_two(bits, rate):
    """Names two widths where one is exact."""
    low, _ = cost.equal_cost_bits(bits, rate)
    return low, low + 1


def swapped_bits(*arguments, weight_bits=32, activation_bits=32, **options):
    bits = {"weight_bits": activation_bits, "activation_bits": weight_bits}
    return cost.conv_costs(*arguments, **bits, **options)


def _with(changed):
    """Make a fault that changes one figure of every factorized layer."""

    def fault(shape, size, *, rank=None, **options):
        right = cost.conv_costs(shape, size, rank=rank, **options)
        return right if rank is None else changed(right, shape, size, rank, options)

    return fault


def _pixels(shape, size, options):
    geometry = {k: v for k, v in options.items() if k in {"stride", "padding", "dilation"}}
    return cost.conv_costs((1, 1, *shape[2:]), size, **geometry).macs // prod(shape[2:])


def _all_at_output(right, shape, size, rank, options):
    """Counts the first stage at the resolution of the output."""
    macs = right.parameters * _pixels(shape, size, options)
    return Costs(right.parameters, macs, right.bops, right.bytes)


def _three_stages(right, shape, size, rank, options):
    """Gives a 1x1 kernel a depthwise stage of its own."""
    return right + Costs(parameters=rank) if prod(shape[2:]) == 1 else right


def _rounded_down(right, shape, size, rank, options):
    return Costs(right.parameters, right.macs, right.bops, right.bytes - 1)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_rank_is_the_largest_within_the_budget, {"rank_for_rate": floored_twice}),
        (test_a_rate_is_the_decimal_number_that_is_written, {"rank_for_rate": floating_rank}),
        (test_one_component_more_would_not_fit, {"rank_for_rate": rounded_up}),
        (
            test_equal_cost_bits_are_neighbours_around_the_quotient,
            {"equal_cost_bits": always_two},
        ),
        (test_resnet18_bops_are_affine_in_the_weight_bits, {"rank_for_rate": rounded_up}),
        (
            test_rate_and_bits_cost_what_the_dense_kernel_costs_at_fewer_bits,
            {"rank_for_rate": rounded_up},
        ),
        (test_bytes_are_those_of_packed_bits, {"conv_costs": swapped_bits}),
        (test_bytes_are_those_of_packed_bits, {"conv_costs": _with(_rounded_down)}),
        (
            test_macs_and_parameters_are_those_of_the_index_loops,
            {"conv_costs": _with(_all_at_output)},
        ),
        (
            test_a_linear_layer_is_a_convolution_of_one_pixel,
            {"conv_costs": _with(_three_stages)},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
