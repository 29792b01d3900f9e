"""Laws, exact vectors and bad input of qcp_ref.grids.grid; its planted faults stand at the end."""

import sys
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from grid_draws import (
    ALL_GRIDS,
    DIVISIONS,
    KINDS,
    OTHER_GRIDS,
    POWERS,
    ROUNDINGS,
    SCALES,
    any_grids,
    grids,
    lists,
    some,
    spec,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import arrays, assert_same, assert_within, caught, exact, floats, law, seeds, shapes

from qcp_ref import Grid, choose_scale, dequantize, loops, project, quantize, rounding_bound
from qcp_ref.grids import grid as right

THIS = sys.modules[__name__]
# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("kind", KINDS)
def test_code_ranges(bits, kind):
    if bits == 1 and "narrow" in kind:
        return
    grid = Grid(bits, **kind)
    low, high, offset = loops.code_range(bits, **kind)
    assert (grid.qmin, grid.qmax, grid.offset) == (low, high, offset)
    assert high - low + 1 == 2**bits - grid.narrow
    assert np.iinfo(grid.dtype).min <= low and high <= np.iinfo(grid.dtype).max
    assert grid.dtype == (np.int8 if bits <= 8 else np.int16)
    if kind:
        assert -(low + offset) == high + offset


@pytest.mark.parametrize("grid", [*ALL_GRIDS[:-3], *OTHER_GRIDS, Grid(8, kind="log2")], ids=str)
def test_levels_are_those_of_the_code_table(grid):
    table = loops.grid_levels(spec(grid))
    assert (min(table), max(table)) == (grid.qmin, grid.qmax)
    assert_same(grid.levels, list(table.values()))
    assert_same(dequantize(list(table), 1, grid=grid), list(table.values()))
    assert list(table.values()) == sorted(table.values())
    assert len(table) == 2**grid.bits - (grid.narrow or grid.kind in ("ternary", "log2"))
    assert np.iinfo(grid.dtype).min <= grid.qmin and grid.qmax <= np.iinfo(grid.dtype).max
    if grid.narrow or grid.mid_rise or grid.kind != "uniform":
        assert [-v for v in reversed(table.values())] == list(table.values())


def test_unsigned_codes_are_stored_without_sign():
    assert (Grid(8, signed=False).qmin, Grid(8, signed=False).qmax) == (0, 255)
    assert Grid(8, signed=False).dtype == np.uint8 and Grid(9, signed=False).dtype == np.uint16
    codes = quantize([-3.0, 0.4, 254.5, 1e9], Grid(8, signed=False), 1)
    assert codes.tolist() == [0, 0, 254, 255] and codes.dtype == np.uint8


def test_levels_are_an_array_of_the_caller():
    for grid in (Grid(1, kind="binary"), Grid(3), Grid(3, kind="log2")):
        levels = grid.levels
        assert levels.dtype == np.float64 and levels.ndim == 1
        levels += 1  # belongs to the caller
        assert (grid.levels == levels - 1).all()


def test_grids_are_values():
    assert Grid(4) == Grid(np.int64(4)) != Grid(4, narrow=True)
    assert len({Grid(4), Grid(4), Grid(4, mid_rise=True)}) == 2
    with pytest.raises(AttributeError):
        Grid(4).bits = 5


# --- the rounding rule ----------------------------------------------------------------------------


@st.composite
def quantize_cases(draw):
    """Numbers, a grid, and scale and zero point in one of the shapes that fit."""
    grid = draw(any_grids(max_bits=8))
    x = draw(shapes(1, 3).flatmap(some))
    kept = [side if draw(st.booleans()) else 1 for side in x.shape]
    scale = draw(SCALES | arrays(kept, st.integers(1, 9).map(lambda m: m / 8)))
    free = grid.kind in ("uniform", "ternary") and not grid.mid_rise
    zeros = st.integers(grid.qmin, grid.qmax) if free else st.just(0)
    return x, grid, scale, draw(zeros | arrays(kept, zeros))


@law("quantize.loops")
@given(quantize_cases())
def test_quantize_follows_the_rule_step_by_step(case):
    x, grid, scale, zero_point = case
    # On floats Python divides and rounds as the rule says, so the codes agree without exception.
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in (scale, zero_point)]
    codes = quantize(x, grid, scale, zero_point)
    assert codes.tolist() == loops.quantize(x.tolist(), spec(grid), *plain)
    assert codes.dtype == grid.dtype


@law("quantize.nearest")
@given(lists(), any_grids(), POWERS)
def test_quantize_takes_the_nearest_level_and_the_even_code_of_two(x, grid, scale):
    # Halves of the least step: every tie is met, and all arithmetic is exact.
    x = np.round(x * 2) / 2 * scale * np.diff(grid.levels).min()
    for v, code in zip(exact(x), quantize(x, grid, scale).tolist(), strict=True):
        distance = {
            k: abs(v - Fraction(scale) * level)
            for k, level in loops.grid_levels(spec(grid)).items()
        }
        nearest = [k for k, d in distance.items() if d == min(distance.values())]
        assert code in nearest
        assert len(nearest) == 1 or code % 2 == 0 or (grid.kind == "binary" and code == 1)


@law("quantize.monotone")
@given(lists(), any_grids(), SCALES)
def test_quantize_is_monotone(x, grid, scale):
    assert (np.diff(quantize(np.sort(x), grid, scale).astype(int)) >= 0).all()


@law("quantize.power")
@given(lists(), any_grids(), SCALES, POWERS)
def test_quantize_does_not_see_a_common_power_of_two(x, grid, scale, power):
    assert np.array_equal(quantize(x * power, grid, scale * power), quantize(x, grid, scale))


@law("quantize.odd")
@given(lists(), any_grids(), SCALES)
def test_quantize_is_odd_on_symmetric_grids(x, grid, scale):
    assume(grid.narrow or grid.mid_rise or grid.kind != "uniform")
    x = x[x != 0] if grid.kind == "binary" else x  # the sign of zero is +1
    assume(x.size)
    if grid.mid_rise:
        x = x[
            np.abs(x / scale - np.rint(x / scale)) > 1e-9
        ]  # ties: level k + 1/2 has no even mirror
        assume(x.size)
    codes = quantize(x, grid, scale).astype(int)
    assert np.array_equal(quantize(-x, grid, scale), -codes - grid.mid_rise)


@pytest.mark.parametrize("grid", [*ALL_GRIDS, *OTHER_GRIDS, Grid(8, kind="log2")], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.1, 2 / 3, 1e-30, 7e20])
def test_levels_come_back_as_their_codes(grid, scale):
    codes = np.array(list(loops.grid_levels(spec(grid))))
    assert np.array_equal(quantize(dequantize(codes, scale, grid=grid), grid, scale), codes)


@law("dequantize.rounding")
@given(quantize_cases())
def test_dequantize_is_one_rounding_of_scale_times_code_minus_zero_point(case):
    x, grid, scale, zero_point = case
    codes = quantize(x, grid, scale, zero_point)
    zero = -grid.offset if grid.mid_rise else zero_point
    values = dequantize(codes, scale, zero)
    truth = loops.dequantize(exact(codes), exact(scale), exact(zero))
    assert_within(values, truth, rounding_bound(1, abs(values)))
    truth = loops.dequantize(exact(codes), exact(scale), exact(zero_point), grid=spec(grid))
    values = dequantize(codes, scale, zero_point, grid=grid)
    assert_within(values, truth, rounding_bound(1, abs(values)))
    power = 2.0 ** np.frexp(scale)[1]
    assert_same(
        dequantize(codes, power, zero), loops.dequantize(exact(codes), exact(power), exact(zero))
    )


@law("quantize.loops")
def test_the_zero_point_is_added_after_rounding_and_before_clipping():
    x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    assert quantize(x, Grid(4), 1, 1).tolist() == [-1, -1, 1, 1, 3, 3, 5]
    assert quantize([-20, 20, -9, 9], Grid(4), 1, 3).tolist() == [-8, 7, -6, 7]
    assert quantize([[5.0, 5.0]], Grid(4), 1, [[-8, 7]]).tolist() == [[-3, 7]]


@law("quantize.nearest")
def test_ties_go_to_the_even_code():
    x = np.arange(-4.5, 5)
    assert quantize(x, Grid(4), 1).tolist() == [-4, -4, -2, -2, 0, 0, 2, 2, 4, 4]
    assert quantize(x + 0.5, Grid(4, mid_rise=True), 1).tolist() == [
        -4,
        -4,
        -2,
        -2,
        0,
        0,
        2,
        2,
        4,
        4,
    ]


@law("quantize.loops")
def test_division_is_not_a_product_with_the_reciprocal():
    # 73.5 / 49 is a tie; the rounded reciprocal of 49 is too small.
    assert 73.5 * (1 / 49) < 1.5
    assert quantize([73.5, -73.5], Grid(4), 49).tolist() == [2, -2]


def test_huge_quotients_saturate_and_tiny_ones_vanish():
    assert quantize([1e300, -1e300, 0.0], Grid(8), 1e-300).tolist() == [127, -128, 0]
    assert quantize([1e300, -1e300, 0.0], Grid(8, mid_rise=True), 5e-324).tolist() == [127, -128, 0]
    assert quantize([5e-324, -5e-324], Grid(8), 1e300).tolist() == [0, 0]
    assert quantize(2.0**40, Grid(16), 1).tolist() == 2**15 - 1


# --- roundings and divisions of others ------------------------------------------------------------


@law("quantize.loops")
@given(
    quantize_cases(),
    st.sampled_from(ROUNDINGS),
    st.sampled_from(DIVISIONS),
    st.integers(0, 2**32),
)
def test_named_roundings_and_divisions_are_those_of_plain_loops(case, rounding, division, seed):
    x, grid, scale, zero_point = case
    assume(grid.kind != "binary")
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in (scale, zero_point)]
    options = {"rounding": rounding, "division": division}
    rng = np.random.default_rng(seed) if rounding == "stochastic" else None
    codes = quantize(x, grid, scale, zero_point, **options, rng=rng)
    draws = np.random.default_rng(seed).random(x.shape).tolist()
    assert codes.tolist() == loops.quantize(x.tolist(), spec(grid), *plain, **options, draws=draws)


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=9), any_grids())
def test_roundings_differ_on_ties_alone_or_by_one_neighbour(numbers, grid):
    assume(grid.kind != "binary")
    x = np.array(numbers) / 8 * np.diff(grid.levels).min()
    codes = {r: quantize(x, grid, 1, rounding=r).astype(int) for r in ROUNDINGS[:-1]}
    for code in codes.values():
        assert (codes["floor"] <= code).all() and (code <= codes["ceil"]).all()
    assert (codes["ceil"] - codes["floor"] <= 1).all()
    distance = {r: abs(x - dequantize(k, 1, grid=grid)) for r, k in codes.items()}
    for r in ("half-away", "half-up", "dpu"):
        assert np.array_equal(distance[r], distance["half-even"])
    assert (codes["half-up"] >= codes["dpu"]).all() and (codes["dpu"] >= codes["half-even"]).all()


# brevitas' documentation shows dpu: -1.5, -0.5, 0.5, 1.5 become -1, 0, 0, 2.
TIED = {
    "half-even": [-2, -2, 0, 0, 2, 2],
    "half-away": [-3, -2, -1, 1, 2, 3],
    "half-up": [-2, -1, 0, 1, 2, 3],
    "dpu": [-2, -1, 0, 0, 2, 2],
    "floor": [-3, -2, -1, 0, 1, 2],
    "ceil": [-2, -1, 0, 1, 2, 3],
    "to-zero": [-2, -1, 0, 0, 1, 2],
}


@law("quantize.loops")
@pytest.mark.parametrize("rounding", TIED)
def test_each_rounding_on_ties_and_beside_them(rounding):
    ties = np.arange(-2.5, 3)
    assert quantize(ties, Grid(4), 1, rounding=rounding).tolist() == TIED[rounding]
    if rounding in ("half-even", "half-away", "half-up", "dpu"):  # the last digit decides
        for way, codes in ((-np.inf, [-3, -2, -1, 0, 1, 2]), (np.inf, [-2, -1, 0, 1, 2, 3])):
            x = np.nextafter(ties, way)
            assert quantize(x, Grid(4), 1, rounding=rounding).tolist() == codes
    assert quantize([0.0, 2.0, -3.0], Grid(4), 1, rounding=rounding).tolist() == [0, 2, -3]


@law("quantize.stochastic")
@pytest.mark.parametrize(("bits", "kind"), [(4, "uniform"), (4, "log2")])
def test_stochastic_rounding_is_right_on_average(bits, kind):
    grid = Grid(bits, kind=kind)
    values = [-0.8, -0.1, 0.003, 0.26, 0.75, 0.5]
    scale = 0.25 if kind == "uniform" else 1.0
    x = np.tile(values, (20000, 1))
    codes = quantize(x, grid, scale, rounding="stochastic", rng=1)
    rounded = dequantize(codes, scale, grid=grid)
    steps = np.ptp(rounded, axis=0)
    assert steps[-1] == 0 and (codes[:, 0] != codes[0, 0]).any()
    deviation = abs(rounded.mean(axis=0) - values)
    assert (deviation <= 5 * steps / 2 / np.sqrt(len(x))).all()
    again = quantize(x, grid, scale, rounding="stochastic", rng=1)
    assert np.array_equal(codes, again)
    assert not np.array_equal(codes, quantize(x, grid, scale, rounding="stochastic", rng=2))


@given(st.floats(-(2.0**120), 2.0**120) | floats | st.floats(-1e-37, 1e-37))
def test_the_loops_round_to_float32_like_numpy(value):
    assert loops.float32(value) == Fraction(float(np.float32(value)))


@law("quantize.loops")
def test_float32_and_reciprocal_move_single_codes():
    # 75 / 30 and 183 / 122 are ties; the float32 reciprocals are too large and too small.
    for x, scale, divided, multiplied in ((75, 30, 2, 3), (183, 122, 2, 1)):
        assert quantize(x, Grid(4), scale) == divided
        assert quantize(x, Grid(4), scale, division="float32") == divided
        assert quantize(x, Grid(4), scale, division="reciprocal") == multiplied
    # Beside a tie float32 sees the tie.
    beside = np.nextafter(2.5, 3)
    assert (
        quantize(beside, Grid(4), 1) == 3 and quantize(beside, Grid(4), 1, division="float32") == 2
    )


@pytest.mark.parametrize("division", ["float32", "reciprocal"])
def test_float32_quotients_saturate(division):
    x = [1e300, -1e300, 3e38, 1e-300]
    assert quantize(x, Grid(8), 1e-3, division=division).tolist() == [127, -128, 127, 0]
    assert quantize(x, Grid(3, kind="log2"), 1, division=division).tolist() == [3, -3, 3, 0]


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("kind", [{}, {"signed": False}])
def test_the_widest_grids_saturate_at_both_ends_whatever_the_zero_point(kind, division):
    grid, x = Grid(16, **kind), [-1e30, -65536.0, -3.0, 3.0, 65536.0, 1e30]
    for zero in (grid.qmin, 0, grid.qmax):
        codes = quantize(x, grid, 1, zero, division=division).tolist()
        assert codes[:2] == [grid.qmin] * 2 and codes[-2:] == [grid.qmax] * 2
        inner = [min(max(zero + step, grid.qmin), grid.qmax) for step in (-3, 3)]
        assert codes[2:4] == inner
        assert quantize([1e30, -1e30], grid, 1e-290, zero).tolist() == [grid.qmax, grid.qmin]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_log2_grids_saturate_beyond_their_ends(rounding):
    rng = 3 if rounding == "stochastic" else None
    for bits in (2, 3, 8):
        grid = Grid(bits, kind="log2")
        x = np.append(np.linspace(1, 9, 33), [1e5, 1e300])
        for sign in (1, -1):
            codes = quantize(sign * x, grid, 1, rounding=rounding, rng=rng)
            assert (codes == sign * grid.qmax).all()


def test_stochastic_rounding_leaves_integers_and_goes_up_below_the_fraction():
    t, draws = np.array([2.0, -2.0, 2.25, 2.25, -2.25]), np.array([0.0, 0.0, 0.25, 0.125, 0.875])
    codes = right.round_to_integers(t, "stochastic", draws)
    assert codes.tolist() == [2, -2, 2, 3, -3]


@pytest.mark.parametrize("division", DIVISIONS)
def test_what_lies_just_below_zero_has_the_code_below_on_mid_rise_grids(division):
    x = [-1e-9, 1e-9]
    assert quantize(x, Grid(4, mid_rise=True), 1, division=division).tolist() == [-1, 0]


def test_scales_whose_reciprocal_float32_just_holds():
    for division in ("float32", "reciprocal"):  # twice the reciprocal is too large
        assert quantize([8e-39, -8e-39], Grid(4), 4e-39, division=division).tolist() == [2, -2]


@law("quantize.nearest")
def test_log2_codes_are_nearest_by_value_and_not_by_exponent():
    # 0.72 lies nearer to 1/2 than to 1, though its logarithm is nearer to 0 than to -1. Ties: 3/4
    # between codes 6 and 7, 3/8 between 5 and 6, 2**-7 between 0 and 1.
    x = np.array([0.72, -0.72, 0.76, 0.75, 0.375, 2.0**-7, np.nextafter(2.0**-7, 1)])
    assert quantize(x, Grid(4, kind="log2"), 1).tolist() == [6, -6, 7, 6, 6, 0, 1]
    assert quantize(x * 3, Grid(4, kind="log2"), 3)[:3].tolist() == [6, -6, 7]


@law("quantize.nearest")
def test_binary_codes_are_signs_and_that_of_zero_is_plus():
    codes = quantize([0.0, -0.0, 1e-300, -5e-324, -7.0], Grid(1, kind="binary"), 1e10)
    assert codes.tolist() == [1, 1, 1, -1, -1] and codes.dtype == np.int8


# --- bad input ------------------------------------------------------------------------------------

BAD_NUMBERS = [
    ([1.0, np.nan], ValueError, "x: expected finite"),
    ([np.inf], ValueError, "x: expected finite"),
    ([1j], TypeError, "x: expected an array of real"),
    ([True, False], TypeError, "x: expected an array of real"),
    ([None, 1.0], TypeError, "x: expected an array of real"),
    (np.zeros((0, 3)), ValueError, "x: expected a non-empty"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_NUMBERS)
def test_bad_numbers_are_refused(x, error, message):
    for use in (
        lambda: quantize(x, Grid(4), 1),
        lambda: choose_scale(x, Grid(4)),
        lambda: project(x, Grid(4)),
    ):
        with pytest.raises(error, match=f"^{message}"):
            use()


@pytest.mark.parametrize(
    ("bits", "error"),
    [
        (0, ValueError),
        (17, ValueError),
        (-1, ValueError),
        (4.0, TypeError),
        (True, TypeError),
        ("4", TypeError),
    ],
)
def test_bad_bits_are_refused(bits, error):
    with pytest.raises(error, match=r"^bits: expected"):
        Grid(bits)


def test_bad_flags_are_refused():
    with pytest.raises(TypeError, match=r"^narrow: expected True or False, got 1"):
        Grid(4, narrow=1)
    with pytest.raises(TypeError, match=r"^mid_rise: expected True or False"):
        Grid(4, mid_rise=None)
    with pytest.raises(ValueError, match=r"^narrow: a mid-rise grid"):
        Grid(4, narrow=True, mid_rise=True)
    with pytest.raises(ValueError, match=r"^narrow: with 1 bit"):
        Grid(1, narrow=True)
    with pytest.raises(TypeError, match=r"positional"):
        Grid(4, True)
    with pytest.raises(TypeError, match=r"^grid: expected a Grid, got int"):
        quantize([1.0], 4, 1)
    with pytest.raises(TypeError, match=r"^grid: expected a Grid, got dict"):
        choose_scale([1.0], {"bits": 4})


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (0, ValueError, "scale: expected numbers above 0, got 0"),
        (-1.0, ValueError, "scale: expected numbers above 0, got -1"),
        ([[1.0], [0.0]], ValueError, "scale: expected numbers above 0"),
        (np.nan, ValueError, "scale: expected finite"),
        (np.inf, ValueError, "scale: expected finite"),
        (None, TypeError, "scale: expected an array of real"),
        (np.ones(3), ValueError, r"scale: expected one number or a shape like \(2, 3\)"),
        (np.ones((3, 1)), ValueError, r"scale: expected one number or a shape like \(2, 3\)"),
        (np.ones((1, 2, 3)), ValueError, r"scale: .* got \(1, 2, 3\); keep all axes"),
    ],
)
def test_bad_scales_are_refused(scale, error, message):
    with pytest.raises(error, match=f"^{message}"):
        quantize(np.ones((2, 3)), Grid(4), scale)
    with pytest.raises(error, match=f"^{message}"):
        dequantize(np.ones((2, 3), int), scale)
    if scale is not None:
        with pytest.raises(error, match=f"^{message}"):
            project(np.ones((2, 3)), Grid(4), scale=scale)


def test_bad_zero_points_and_codes_are_refused():
    for zero_point in (0.5, -9, 8):
        with pytest.raises(ValueError, match=r"^zero_point: expected an integer from -8 to 7"):
            quantize([1.0], Grid(4), 1, zero_point)
    with pytest.raises(ValueError, match=r"^zero_point: expected an integer from -8 to 7"):
        quantize([[1.0, 2.0]], Grid(4), 1, [[3, 9]])
    middle = Grid(4, mid_rise=True)
    with pytest.raises(ValueError, match=r"^zero_point: expected -1/2 on a mid-rise grid"):
        quantize([1.0], middle, 1, 1)
    assert quantize([1.0], middle, 1, -0.5) == quantize([1.0], middle, 1)
    with pytest.raises(ValueError, match=r"^zero_point: expected one number or a shape"):
        quantize([1.0, 2.0], Grid(4), 1, [0, 0, 0])
    with pytest.raises(ValueError, match=r"^codes: expected a non-empty"):
        dequantize(np.zeros((0, 2), int), 1)
    with pytest.raises(ValueError, match=r"^zero_point: expected one number or a shape"):
        dequantize([1, 2], 1, [0, 0, 0])
    for codes in ([1.0], [True], [None]):
        with pytest.raises(TypeError, match=r"^codes: expected integers"):
            dequantize(codes, 1)
    with pytest.raises(ValueError, match=r"^scale: scale times code exceeds"):
        dequantize([-8, 7], 1e308)


@pytest.mark.parametrize(
    ("bits", "options", "error", "message"),
    [
        (2, {"kind": "binary"}, ValueError, "bits: expected 1 to 1, got 2"),
        (3, {"kind": "ternary"}, ValueError, "bits: expected 2 to 2, got 3"),
        (1, {"kind": "log2"}, ValueError, "bits: expected 2 to 8, got 1"),
        (9, {"kind": "log2"}, ValueError, "bits: expected 2 to 8, got 9"),
        (4, {"kind": "float"}, ValueError, "kind: expected one of"),
        (4, {"kind": None}, TypeError, "kind: expected one of"),
        (4, {"signed": 0}, TypeError, "signed: expected True or False, got 0"),
        (1, {"kind": "binary", "signed": False}, ValueError, "signed: a binary grid has both"),
        (4, {"kind": "log2", "signed": False}, ValueError, "signed: a log2 grid has both"),
        (4, {"kind": "log2", "narrow": True}, ValueError, "narrow, mid_rise: only signed uniform"),
        (2, {"kind": "ternary", "mid_rise": True}, ValueError, "narrow, mid_rise: only signed"),
        (4, {"signed": False, "narrow": True}, ValueError, "narrow, mid_rise: only signed"),
        (4, {"signed": False, "mid_rise": True}, ValueError, "narrow, mid_rise: only signed"),
    ],
)
def test_meaningless_grids_are_refused(bits, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Grid(bits, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rounding": "even"}, ValueError, "rounding: expected one of"),
        ({"rounding": None}, TypeError, "rounding: expected one of"),
        ({"division": "float16"}, ValueError, "division: expected one of"),
        ({"rounding": "stochastic"}, ValueError, "rng: belongs to rounding 'stochastic'"),
        ({"rng": 3}, ValueError, "rng: belongs to rounding 'stochastic', got rng=3 with"),
        ({"rounding": "stochastic", "rng": 1.5}, TypeError, "rng: expected an int"),
        (
            {"grid": Grid(1, kind="binary"), "rounding": "floor"},
            ValueError,
            "rounding, division: .* takes signs",
        ),
        (
            {"grid": Grid(1, kind="binary"), "division": "float32"},
            ValueError,
            "rounding, division: .* takes signs",
        ),
        (
            {"grid": Grid(4, kind="log2"), "zero_point": 1},
            ValueError,
            "zero_point: expected 0 on a log2 grid",
        ),
        (
            {"grid": Grid(4, signed=False), "zero_point": 16},
            ValueError,
            "zero_point: expected an integer from 0 to 15",
        ),
        (
            {"scale": 1e-60, "division": "float32"},
            ValueError,
            "scale: expected numbers that float32 can hold",
        ),
        (
            {"scale": 1e60, "division": "reciprocal"},
            ValueError,
            "scale: expected numbers that float32 can hold",
        ),
        (
            {"scale": 1e-39, "division": "reciprocal"},
            ValueError,
            "scale: expected numbers that float32 can hold",
        ),
    ],
)
def test_bad_roundings_are_refused(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        quantize(**{"x": [1.0], "grid": Grid(4), "scale": 1.0, **options})


def test_codes_off_the_grid_are_refused():
    for codes, grid in (
        ([8], Grid(4)),
        ([-9, 7], Grid(4)),
        ([-8, 8], Grid(4)),
        ([-8], Grid(4, narrow=True)),
        ([-1], Grid(4, signed=False)),
        ([1, 0], Grid(1, kind="binary")),
        ([4], Grid(3, kind="log2")),
    ):
        with pytest.raises(ValueError, match=r"^codes: expected codes of Grid\("):
            dequantize(codes, 1, grid=grid)
    with pytest.raises(TypeError, match=r"^grid: expected a Grid"):
        dequantize([1], 1, grid=4)


# --- a third opinion ------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_point", [0, 3, -7])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_pytorch_fake_quantization_agrees(zero_point, bits, rng):
    torch = pytest.importorskip(
        "torch", reason="third opinion: PyTorch's fake quantization (extra: dev)"
    )
    grid = Grid(bits)
    zero_point = max(zero_point, grid.qmin) if bits > 2 else 0
    x = np.append(rng.normal(size=2000), np.arange(-40, 40) / 8).astype(np.float32)
    for scale in (0.25, 0.0625, 0.3):
        if scale == 0.3:  # it multiplies by the reciprocal, in float32: ties are another matter
            x = x[np.abs(np.abs(x / 0.3) % 1 - 0.5) > 1e-4]
        theirs = torch.fake_quantize_per_tensor_affine(
            torch.tensor(x), scale, zero_point, grid.qmin, grid.qmax
        ).numpy()
        ours = dequantize(quantize(x, grid, scale, zero_point), scale, zero_point)
        assert np.allclose(theirs, ours, rtol=1e-6, atol=0)


@pytest.mark.parametrize("zero_point", [0, 3, -7])
@pytest.mark.parametrize("scale", [0.3, 0.1, 49.0, 122.0, 1e-3])
def test_pytorch_multiplies_by_the_reciprocal(scale, zero_point, rng):
    torch = pytest.importorskip("torch", reason="third opinion: PyTorch's fake quantization")
    x = (rng.integers(-250, 250, 5000) / 2 * scale).astype(np.float32)  # ties, before rounding
    theirs = torch.fake_quantize_per_tensor_affine(
        torch.tensor(x), scale, zero_point, -128, 127
    ).numpy()
    theirs = np.rint(theirs / np.float32(scale)) + zero_point
    ours = quantize(x, Grid(8), scale, zero_point, division="reciprocal")
    assert np.array_equal(theirs, ours)
    if scale in (0.3, 0.1, 122):
        assert (theirs != quantize(x, Grid(8), scale, zero_point, division="float32")).any()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize("scale", [0.3, 49.0, 122.0])
def test_pytorch_codes_are_those_of_the_reciprocal(scale, zero_point, rng):
    torch = pytest.importorskip("torch", reason="third opinion: PyTorch's quantized tensors")
    x = np.append(rng.integers(-250, 250, 3000) / 2, rng.normal(0, 50, 3000)).astype(np.float32)
    x *= np.float32(scale)
    theirs = torch.quantize_per_tensor(torch.tensor(x), scale, zero_point, torch.qint8)
    theirs = theirs.int_repr().numpy()
    ours = quantize(x, Grid(8), scale, zero_point, division="reciprocal")
    if zero_point:  # some back ends add it before rounding: ties are another matter
        clear = np.abs(np.abs(x / scale) % 1 - 0.5) > 1e-3
        theirs, ours = theirs[clear], ours[clear]
    assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("signed", [True, False])
def test_pytorch_observers_agree_on_scale_and_zero_point(signed, rng):
    torch = pytest.importorskip("torch", reason="third opinion: PyTorch's min-max observer")
    observers = pytest.importorskip("torch.ao.quantization.observer")
    for _ in range(100):
        x = rng.normal(rng.normal(0, 2), 1, 20).astype(np.float32)
        observer = observers.MinMaxObserver(dtype=torch.qint8 if signed else torch.quint8)
        observer(torch.tensor(x))
        scale, zero = (float(value) for value in observer.calculate_qparams())
        chosen = choose_scale(x, Grid(8, signed=signed), rule="min-max-torch")
        assert chosen.scale == pytest.approx(scale, rel=1e-6)
        place = min(x.min(), 0) / chosen.scale
        assert chosen.zero_point == zero or abs(place % 1 - 0.5) < 1e-4


def run_onnx(x, scale, zero_point, dtype):
    """Codes by ONNX Runtime's QuantizeLinear."""
    onnx = pytest.importorskip("onnx", reason="third opinion: ONNX Runtime")
    runtime = pytest.importorskip("onnxruntime", reason="third opinion: ONNX Runtime")
    helper, kinds = onnx.helper, onnx.TensorProto
    code = {"int8": kinds.INT8, "uint8": kinds.UINT8}[dtype]
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        "quantize",
        [helper.make_tensor_value_info("x", kinds.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", code, x.shape)],
        [
            helper.make_tensor("s", kinds.FLOAT, [], [scale]),
            helper.make_tensor("z", code, [], [zero_point]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("zero_point", [0, 3, 128])
@pytest.mark.parametrize("scale", [0.3, 0.1, 122.0])
def test_onnx_runtime_divides_in_float32(scale, zero_point, rng):
    x = (rng.integers(-250, 500, 5000) / 2 * scale).astype(np.float32)
    theirs = run_onnx(x, scale, zero_point, "uint8")
    grid = Grid(8, signed=False)
    assert np.array_equal(theirs, quantize(x, grid, scale, zero_point, division="float32"))


@st.composite
def wide_grids(draw):
    """All grids, up to the most bits."""
    kind = draw(st.sampled_from(["uniform", "unsigned", "log2", "binary", "ternary"]))
    if kind in ("binary", "ternary"):
        return Grid(1 + (kind == "ternary"), kind=kind)
    if kind == "log2":
        return Grid(draw(st.integers(2, 8)), kind=kind)
    if kind == "unsigned":
        return Grid(draw(st.integers(1, 16)), signed=False)
    return draw(grids(16))


@law("Grid.codes", "Grid.symmetric")
@given(wide_grids())
def test_codes_are_counted_and_levels_mirrored(grid):
    fewer = grid.narrow or grid.kind in ("ternary", "log2")
    found = grid.levels
    assert len(found) == 2**grid.bits - fewer and (np.diff(found) > 0).all()
    codes = np.arange(grid.qmin, grid.qmax + 1)
    codes = codes[codes != 0] if grid.kind == "binary" else codes
    assert np.array_equal(dequantize(codes, 1.0, grid=grid), found)
    symmetric = grid.narrow or grid.mid_rise or grid.kind != "uniform"
    assert np.array_equal(-found[::-1], found) == symmetric


@law("quantize.inverse")
@given(wide_grids(), st.floats(1e-260, 1e290), st.data())
def test_codes_come_back_from_what_they_stand_for(grid, scale, data):
    codes = np.arange(grid.qmin, grid.qmax + 1)
    codes = codes[codes != 0] if grid.kind == "binary" else codes
    zero = 0
    if grid.kind == "uniform" and not grid.mid_rise:
        zero = data.draw(st.integers(grid.qmin, grid.qmax))
    values = dequantize(codes, scale, zero, grid=grid)
    assert np.array_equal(quantize(values, grid, scale, zero), codes)
    assert quantize(values, grid, scale, zero).dtype == grid.dtype


@law("quantize.monotone")
@given(lists(12), any_grids(), SCALES, st.sampled_from(ROUNDINGS[:-1]), st.sampled_from(DIVISIONS))
def test_every_fixed_rounding_is_monotone(x, grid, scale, rounding, division):
    assume(grid.kind != "binary")
    near = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
    codes = quantize(np.sort(near), grid, scale, rounding=rounding, division=division)
    assert (np.diff(codes.astype(int)) >= 0).all()


@law("quantize.stochastic")
@settings(max_examples=40)
@given(wide_grids(), st.lists(st.floats(0, 1), min_size=1, max_size=4), POWERS, seeds)
def test_stochastic_rounding_of_any_numbers_is_right_on_average(grid, places, scale, seed):
    assume(grid.kind != "binary")
    low, high = grid.levels[0] * scale, grid.levels[-1] * scale
    x = np.tile(low + np.array(places) * (high - low), (2000, 1)).clip(low, high)
    codes = quantize(x, grid, scale, rounding="stochastic", rng=seed)
    down, up = (quantize(x, grid, scale, rounding=name) for name in ("floor", "ceil"))
    assert ((codes == down) | (codes == up)).all()
    rounded = dequantize(codes, scale, grid=grid)
    step = dequantize(up[0], scale, grid=grid) - dequantize(down[0], scale, grid=grid)
    allowed = 7 * step / 2 / np.sqrt(len(x)) + 1e-12 * (high - low)
    assert (abs(rounded.mean(axis=0) - x[0]) <= allowed).all()


# --- planted faults -------------------------------------------------------------------------------


# A fault calls the right function by its module, because it stands in for the name in this one.


def by_rounding(rounding, after=lambda k, z: k + z, before=lambda t, z: t, divide=np.divide):
    """quantize with parts replaced."""

    def wrong(x, grid, scale, zero_point=0):
        zero = 0 if grid.mid_rise else np.asarray(zero_point)
        with np.errstate(over="ignore"):
            t = before(divide(np.asarray(x, float), scale) - grid.offset, zero)
        codes = after(rounding(t), zero)
        return np.clip(codes, grid.qmin, grid.qmax).astype(grid.dtype)

    return wrong


def half_away(t):
    return np.sign(t) * np.floor(np.abs(t) + 0.5)


def clip_before_zero_point(x, grid, scale, zero_point=0):
    return (right.quantize(x, grid, scale) + np.asarray(0 if grid.mid_rise else zero_point)).astype(
        grid.dtype
    )


def wrapping(x, grid, scale, zero_point=0):
    """Casts without clipping."""
    zero = 0 if grid.mid_rise else np.asarray(zero_point)
    codes = np.rint(np.asarray(x) / scale - grid.offset) + zero
    return codes.astype(np.int64).astype(grid.dtype)


def without_offset(x, grid, scale, zero_point=0):
    """Takes a mid-rise grid for a plain one."""
    return right.quantize(x, Grid(grid.bits, narrow=grid.narrow), scale, zero_point)


def added_zero_point(codes, scale, zero_point=0, *, grid=None):
    return right.dequantize(codes, scale, -np.asarray(zero_point))


def named(**other):
    """quantize with some names standing for others; the rest as it is."""

    def wrong(x, grid, scale, zero_point=0, *, rounding="half-even", division="float64", rng=None):
        rounding, division = other.get(rounding, rounding), other.get(division, division)
        rng = rng if rounding == "stochastic" else None
        return right.quantize(
            x, grid, scale, zero_point, rounding=rounding, division=division, rng=rng
        )

    return wrong


def always_up(x, grid, scale, zero_point=0, *, rounding="half-even", division="float64", rng=None):
    """Takes the upper neighbour half of the time, whatever the fraction."""
    low = right.quantize(x, grid, scale, rounding="floor").astype(int)
    high = right.quantize(x, grid, scale, rounding="ceil").astype(int)
    return np.where(np.random.default_rng(rng).random(low.shape) < 0.5, low, high)


def in_logarithms(x, grid, scale, zero_point=0):
    """Rounds the logarithm, not the number, on log2 grids."""
    if grid.kind != "log2":
        return right.quantize(x, grid, scale, zero_point)
    with np.errstate(divide="ignore"):
        code = grid.qmax + np.rint(np.log2(np.abs(x) / scale))
    return (np.sign(x) * np.clip(code, 0, grid.qmax)).astype(grid.dtype)


def no_sign_of_zero(x, grid, scale, zero_point=0):
    if grid.kind != "binary":
        return right.quantize(x, grid, scale, zero_point)
    return np.sign(x).astype(np.int8)


STEPS = test_quantize_follows_the_rule_step_by_step
NEAREST = test_quantize_takes_the_nearest_level_and_the_even_code_of_two
TIES = test_ties_go_to_the_even_code
DEQUANTIZED = test_dequantize_is_one_rounding_of_scale_times_code_minus_zero_point
TIED_ROUNDING = test_each_rounding_on_ties_and_beside_them
AVERAGE = test_stochastic_rounding_is_right_on_average

ZERO_POINT = test_the_zero_point_is_added_after_rounding_and_before_clipping


def capped(x, grid, scale, zero_point=0, **options):
    """Never gives the highest code."""
    codes = right.quantize(x, grid, scale, zero_point, **options)
    return np.where(codes == grid.qmax, codes - 1, codes).astype(grid.dtype)


def rounded_to_even(x, grid, scale, zero_point=0, *, rng=None, rounding="half-even", **options):
    """Takes the nearest level for a draw."""
    rounding = "half-even" if rounding == "stochastic" else rounding
    return right.quantize(x, grid, scale, zero_point, rounding=rounding, **options)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_codes_come_back_from_what_they_stand_for, {"quantize": capped}),
        (
            test_stochastic_rounding_of_any_numbers_is_right_on_average,
            {"quantize": rounded_to_even},
        ),
        (STEPS, {"quantize": by_rounding(np.floor)}),
        (NEAREST, {"quantize": by_rounding(np.floor)}),
        (NEAREST, {"quantize": by_rounding(half_away)}),
        (TIES, {"quantize": by_rounding(half_away)}),
        (NEAREST, {"quantize": by_rounding(lambda t: np.floor(t + 0.5))}),
        (TIES, {"quantize": by_rounding(lambda t: np.floor(t + 0.5))}),
        (STEPS, {"quantize": wrapping}),
        (NEAREST, {"quantize": wrapping}),
        (
            test_division_is_not_a_product_with_the_reciprocal,
            {"quantize": by_rounding(np.rint, divide=lambda x, s: x * (1 / np.asarray(s, float)))},
        ),
        (STEPS, {"quantize": clip_before_zero_point}),
        (ZERO_POINT, {"quantize": clip_before_zero_point}),
        (
            ZERO_POINT,
            {"quantize": by_rounding(np.rint, after=lambda k, z: k, before=lambda t, z: t + z)},
        ),
        (STEPS, {"quantize": without_offset}),
        (DEQUANTIZED, {"dequantize": added_zero_point}),
        (partial(TIED_ROUNDING, "half-up"), {"quantize": named(**{"half-up": "half-away"})}),
        (partial(TIED_ROUNDING, "half-away"), {"quantize": named(**{"half-away": "half-up"})}),
        (partial(TIED_ROUNDING, "dpu"), {"quantize": named(dpu="half-even")}),
        (partial(TIED_ROUNDING, "to-zero"), {"quantize": named(**{"to-zero": "floor"})}),
        (partial(AVERAGE, 4, "uniform"), {"quantize": named(stochastic="half-even")}),
        (
            test_float32_and_reciprocal_move_single_codes,
            {"quantize": named(reciprocal="float32")},
        ),
        (
            test_float32_and_reciprocal_move_single_codes,
            {"quantize": named(float32="float64")},
        ),
        (
            partial(AVERAGE, 4, "log2"),
            {"quantize": always_up},
        ),
        (
            test_log2_codes_are_nearest_by_value_and_not_by_exponent,
            {"quantize": in_logarithms},
        ),
        (test_binary_codes_are_signs_and_that_of_zero_is_plus, {"quantize": no_sign_of_zero}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
