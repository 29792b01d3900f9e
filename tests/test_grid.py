"""Laws, exact vectors and bad input of qcp_ref.grid; its planted faults stand at the end."""

import sys
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import arrays, assert_same, assert_within, caught, exact, floats, shapes

from qcp_ref import Grid, choose_scale, dequantize, loops, project, quantize, rounding_bound
from qcp_ref import grid as right
from qcp_ref._kernels import TIE

THIS = sys.modules[__name__]
RULES = ["mse-exact", "mse-200", "max-abs", "max-abs-narrow", "max-abs-full", "max-abs-two-sided"]
KINDS = [{}, {"narrow": True}, {"mid_rise": True}]
ALL_GRIDS = [
    Grid(bits, **kind)
    for bits in (1, 2, 3, 4, 8, 16)
    for kind in KINDS
    if bits > 1 or "narrow" not in kind
]
AFFINE_RULES = ["min-max", "min-max-torch", "min-max-truncated", "mse-exact-affine"]
OTHER_GRIDS = [
    Grid(1, kind="binary"),
    Grid(2, kind="ternary"),
    *(Grid(bits, kind="log2") for bits in (2, 3, 4)),
    *(Grid(bits, signed=False) for bits in (1, 2, 4)),
]
ROUNDINGS = ["half-even", "half-away", "half-up", "dpu", "floor", "ceil", "to-zero", "stochastic"]
DIVISIONS = ["float64", "float32", "reciprocal"]


@st.composite
def grids(draw, max_bits=4):
    kind = draw(st.sampled_from(KINDS))
    return Grid(draw(st.integers(1 + kind.get("narrow", False), max_bits)), **kind)


def any_grids(max_bits=4):
    """Uniform signed grids, and all others."""
    return grids(max_bits) | st.sampled_from([g for g in OTHER_GRIDS if g.bits <= max_bits])


# Few distinct numbers make ties and duplicates likely; the decimal ones are no exact multiples.
ENTRIES = st.sampled_from([st.integers(-9, 9), floats, st.sampled_from([0.0, 0.1, 0.3, -0.7, 0.7])])
POWERS = st.integers(-30, 30).map(lambda e: 2.0**e)
SCALES = st.one_of(POWERS, st.integers(1, 99), st.floats(0.01, 100))


def some(shape):
    return ENTRIES.flatmap(lambda entries: arrays(shape, entries))


def lists(max_size=6):
    return st.integers(1, max_size).flatmap(some)


def rules(grid):
    """The rules that this grid has, without zero points of their own."""
    if grid.kind != "uniform" or not grid.signed:
        return ["mse-exact", "max-abs-two-sided"]
    return [rule for rule in RULES if rule != "max-abs-narrow" or grid.bits > 1]


def spec(grid):
    """The grid as loops.py takes it."""
    return {name: getattr(grid, name) for name in ("bits", "kind", "signed", "narrow", "mid_rise")}


def levels(grid):
    """All levels at scale 1, exactly."""
    return [Fraction(level) for level in loops.grid_levels(spec(grid)).values()]


def gain(x, grid, scale, zero_point=0):
    """By how much rounding at this scale is better than zero: |x|^2 - |x - rounded|^2, exactly."""
    values = exact(np.ravel(x))
    s = Fraction(float(scale)) if not isinstance(scale, Fraction) else scale
    nearest = [min(abs(v - s * (k - int(zero_point))) for k in levels(grid)) for v in values]
    return sum(v * v for v in values) - sum(d * d for d in nearest)


def energy(x):
    return sum(v * v for v in exact(np.ravel(x)))


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


@given(quantize_cases())
def test_quantize_follows_the_rule_step_by_step(case):
    x, grid, scale, zero_point = case
    # On floats Python divides and rounds as the rule says, so the codes agree without exception.
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in (scale, zero_point)]
    codes = quantize(x, grid, scale, zero_point)
    assert codes.tolist() == loops.quantize(x.tolist(), spec(grid), *plain)
    assert codes.dtype == grid.dtype


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


@given(lists(), any_grids(), SCALES)
def test_quantize_is_monotone(x, grid, scale):
    assert (np.diff(quantize(np.sort(x), grid, scale).astype(int)) >= 0).all()


@given(lists(), any_grids(), SCALES, POWERS)
def test_quantize_does_not_see_a_common_power_of_two(x, grid, scale, power):
    assert np.array_equal(quantize(x * power, grid, scale * power), quantize(x, grid, scale))


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


def test_the_zero_point_is_added_after_rounding_and_before_clipping():
    x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    assert quantize(x, Grid(4), 1, 1).tolist() == [-1, -1, 1, 1, 3, 3, 5]
    assert quantize([-20, 20, -9, 9], Grid(4), 1, 3).tolist() == [-8, 7, -6, 7]
    assert quantize([[5.0, 5.0]], Grid(4), 1, [[-8, 7]]).tolist() == [[-3, 7]]


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


@pytest.mark.parametrize("rounding", TIED)
def test_each_rounding_on_ties_and_beside_them(rounding):
    ties = np.arange(-2.5, 3)
    assert quantize(ties, Grid(4), 1, rounding=rounding).tolist() == TIED[rounding]
    if rounding in ("half-even", "half-away", "half-up", "dpu"):  # the last digit decides
        for way, codes in ((-np.inf, [-3, -2, -1, 0, 1, 2]), (np.inf, [-2, -1, 0, 1, 2, 3])):
            x = np.nextafter(ties, way)
            assert quantize(x, Grid(4), 1, rounding=rounding).tolist() == codes
    assert quantize([0.0, 2.0, -3.0], Grid(4), 1, rounding=rounding).tolist() == [0, 2, -3]


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


def test_log2_codes_are_nearest_by_value_and_not_by_exponent():
    # 0.72 lies nearer to 1/2 than to 1, though its logarithm is nearer to 0 than to -1. Ties: 3/4
    # between codes 6 and 7, 3/8 between 5 and 6, 2**-7 between 0 and 1.
    x = np.array([0.72, -0.72, 0.76, 0.75, 0.375, 2.0**-7, np.nextafter(2.0**-7, 1)])
    assert quantize(x, Grid(4, kind="log2"), 1).tolist() == [6, -6, 7, 6, 6, 0, 1]
    assert quantize(x * 3, Grid(4, kind="log2"), 3)[:3].tolist() == [6, -6, 7]


def test_binary_codes_are_signs_and_that_of_zero_is_plus():
    codes = quantize([0.0, -0.0, 1e-300, -5e-324, -7.0], Grid(1, kind="binary"), 1e10)
    assert codes.tolist() == [1, 1, 1, -1, -1] and codes.dtype == np.int8


@given(lists(30))
def test_the_exact_binary_scale_is_the_mean_magnitude(x):
    assume(x.any())
    mean = sum(abs(v) for v in exact(x)) / x.size
    scale = choose_scale(x, Grid(1, kind="binary")).scale
    assert_within(scale, mean, rounding_bound(x.size + 2, scale))


@given(lists(30))
def test_ternary_is_the_narrow_uniform_grid_of_two_bits(x):
    ternary, narrow = Grid(2, kind="ternary"), Grid(2, narrow=True)
    assert choose_scale(x, ternary).scale == choose_scale(x, narrow).scale
    assert np.array_equal(project(x, ternary), project(x, narrow))


# --- choosing the scale ---------------------------------------------------------------------------


@given(lists(5), any_grids(3) | st.just(Grid(4)))
def test_exact_scale_has_the_gain_of_brute_force_on_fractions(x, grid):
    truth = loops.choose_scale(exact(x), spec(grid))
    scale = choose_scale(x, grid).scale
    if grid.mid_rise or grid.kind == "binary" or gain(x, grid, truth) > 0:
        assert gain(x, grid, truth) - gain(x, grid, scale) <= Fraction(8 * TIE) * energy(x)
    else:
        assert scale == 1


@given(st.lists(st.integers(-12, 12), min_size=1, max_size=5), any_grids(3) | st.just(Grid(4)))
def test_exact_scale_of_integers_is_that_of_brute_force(x, grid):
    # Small integers make equal gains common: the largest scale is meant. (Zeros: see below.)
    assume(any(x))
    truth = loops.choose_scale(exact(x), spec(grid))
    assert_within(choose_scale(x, grid).scale, truth, float(truth) * 2.0**-50)


@given(some(4), any_grids(2))
def test_projection_is_the_nearest_of_all_code_assignments(x, grid):
    values = exact(x)
    best = Fraction(0)
    for v in product(levels(grid), repeat=len(values)):
        inner = sum(a * b for a, b in zip(values, v, strict=True))
        if inner > 0:  # only positive scales; the best one for these levels is inner / <v, v>
            best = max(best, inner * inner / sum(b * b for b in v))
    error = sum((a - b) ** 2 for a, b in zip(values, exact(project(x, grid)), strict=True))
    assert error <= energy(x) * (1 + Fraction(8 * TIE)) - best + Fraction(1, 2**200)


@given(lists(4), any_grids(3))
def test_no_rule_and_no_scan_beats_the_exact_scale(x, grid):
    best = gain(x, grid, choose_scale(x, grid).scale)
    allowed = Fraction(8 * TIE) * energy(x) + Fraction(1, 2**200)
    others = [choose_scale(x, grid, rule=rule).scale for rule in rules(grid)]
    scan = np.linspace(0.01, 2.1, 25) * max(abs(x).max(), 1e-3)
    for scale in [*others, *scan]:
        assert gain(x, grid, scale) <= best + allowed


@pytest.mark.parametrize(
    "grid", [Grid(2), Grid(4), Grid(4, mid_rise=True), Grid(8), *OTHER_GRIDS], ids=str
)
@pytest.mark.parametrize("law", ["normal", "uniform", "standard_cauchy"])
def test_no_scan_beats_the_exact_scale_on_large_samples(grid, law, rng):
    x = getattr(rng, law)(size=3000)
    scale = choose_scale(x, grid).scale

    def error(s):
        return ((x - project(x, grid, scale=s)) ** 2).sum()

    near, far = scale * np.linspace(0.98, 1.02, 401), scale * np.geomspace(0.02, 50, 401)
    assert min(map(error, [*near, *far])) >= error(scale) * (1 - 1e-12)


def test_the_exact_scale_is_the_global_minimum_where_local_ones_abound():
    # Refitting from the largest value stops at once: 7, 7 and 1 are their own best codes there.
    x = np.array([7.0, 7.0, 1.4, 1.4, 1.4, 1.4, 1.4])
    local = x.max() / 7
    for _ in range(50):
        codes = quantize(x, Grid(4), local)
        local = x @ codes / (codes @ codes.astype(float))
    assert gain(x, Grid(4), choose_scale(x, Grid(4)).scale) - gain(x, Grid(4), local) > Fraction(
        1, 2
    )
    assert_within(choose_scale(x, Grid(4)).scale, Fraction(7, 5), 1e-15)


def test_negative_numbers_have_one_level_more_on_the_full_range():
    x = np.array([-8.0, -8.0, 5.0, 3.0, -1.0])
    assert choose_scale(x, Grid(4)).scale == 1
    assert choose_scale(x, Grid(4, narrow=True)).scale > 1
    assert choose_scale(-x, Grid(4)).scale > 1
    assert choose_scale([-2.0, -3.0, 9.0], Grid(1)).scale == 2.5


@given(lists(40), any_grids())
def test_the_exact_scale_is_the_refit_of_its_own_codes(x, grid):
    scale = choose_scale(x, grid).scale
    first, second = loops.grid_moments(exact(x), spec(grid), Fraction(float(scale)))
    assume(first > 0)
    assert_within(scale, first / second, rounding_bound(2 * x.size + 20, scale))


@given(lists(30), any_grids(), POWERS, st.data())
def test_order_does_not_matter_and_powers_of_two_pass_through(x, grid, power, data):
    rule = data.draw(st.sampled_from(rules(grid)))
    scale = choose_scale(x, grid, rule=rule).scale
    order = data.draw(st.permutations(range(x.size)))
    assert choose_scale(x[order], grid, rule=rule).scale == scale
    if x.any() and scale != 1:  # one is also the scale where no level but zero fits
        assert choose_scale(x * power, grid, rule=rule).scale == scale * power


@given(shapes(2, 2).flatmap(some), any_grids(), st.data())
def test_each_row_and_column_gets_the_scale_that_it_has_alone(x, grid, data):
    rule = data.draw(st.sampled_from(rules(grid)))
    rows, columns = (choose_scale(x, grid, rule=rule, axis=axis) for axis in (0, 1))
    assert rows.scale.shape == (x.shape[0], 1) and columns.scale.shape == (1, x.shape[1])
    assert rows.scale[:, 0].tolist() == [choose_scale(row, grid, rule=rule).scale for row in x]
    assert columns.scale[0].tolist() == [choose_scale(col, grid, rule=rule).scale for col in x.T]
    assert rows.rule == rule and rows.zero_point == -grid.offset
    assert np.array_equal(project(x, grid, axis=0, rule=rule)[0], project(x[0], grid, rule=rule))
    assert choose_scale(x, grid, rule=rule).scale.shape == ()


def test_the_four_formulas_in_the_largest_value():
    x = [0.25, -1.0, 0.5]
    scale = {rule: float(choose_scale(x, Grid(4), rule=rule).scale) for rule in RULES}
    assert scale["max-abs"] == pytest.approx(0.133333333333, rel=1e-11)
    assert scale["max-abs-narrow"] == pytest.approx(0.142857142857, rel=1e-11)
    assert scale["max-abs-full"] == 0.125
    assert scale["max-abs-two-sided"] == 0.125
    assert choose_scale(np.negative(x), Grid(4), rule="max-abs-two-sided").scale == 1 / 7


@given(lists(), any_grids().filter(lambda g: g.signed and (g.qmax > 0 or g.mid_rise)))
def test_the_two_sided_scale_is_the_least_without_clipping(x, grid):
    assume(x.any())
    scale = float(choose_scale(x, grid, rule="max-abs-two-sided").scale)
    low, high = (float(v) for v in (levels(grid)[0], levels(grid)[-1]))
    reached = np.array([x.min() / scale / low, x.max() / scale / high])
    assert reached.max() == pytest.approx(1, rel=1e-15)


@given(lists(3), grids(2) | st.just(Grid(4)))
def test_the_authors_scale_is_the_best_of_their_200_trials(x, grid):
    assume(x.any())
    chosen = float(choose_scale(x, grid, rule="mse-200").scale)
    largest = max(abs(v) for v in exact(x))
    unit = largest / Fraction(199) / (2**grid.bits - 1) * 2
    trials = [unit * (Fraction(199, 5) + j) for j in range(200)]  # 0.2 m, ..., 1.2 m in equal steps
    moments = [loops.grid_moments(exact(x), spec(grid), t) for t in trials]
    gains = [
        t * (2 * first - t * second) for t, (first, second) in zip(trials, moments, strict=True)
    ]
    number = round(Fraction(chosen) / unit - Fraction(199, 5))
    assert 0 <= number < 200
    assert_within(chosen, trials[number], chosen * 2.0**-50)
    assert gains[number] >= max(gains) - Fraction(2 * TIE) * energy(x)


def test_of_equal_trials_the_first_wins():
    # No level but 0 is of use, so all trials are equal; the first is 0.2 of the maximum, times 2.
    assert choose_scale([5.0, 3.0], Grid(1), rule="mse-200").scale == pytest.approx(2, rel=1e-15)


# --- powers of two --------------------------------------------------------------------------------


@given(lists(), any_grids(), st.data())
def test_a_rounded_scale_is_the_power_of_two_of_plain_loops(x, grid, data):
    rule = data.draw(st.sampled_from([*rules(grid), *affine_rules(grid)[:3]]))
    po2 = data.draw(st.sampled_from(["ceil", "round", "floor"]))
    chosen, free = choose_scale(x, grid, rule=rule, po2=po2), choose_scale(x, grid, rule=rule)
    assert Fraction(float(chosen.scale)) == loops.power_of_two(exact(free.scale), po2)
    assert chosen.rule == f"{rule}, po2={po2}" and free.rule == rule
    assert np.array_equal(project(x, grid, rule=rule, po2=po2), project(x, grid, scale=chosen))


def test_rounded_powers_follow_the_logarithm():
    def scales(m):
        return [
            choose_scale(m, Grid(4), rule="max-abs-full", po2=p).scale
            for p in ("floor", "round", "ceil")
        ]

    assert scales(8 * 1.414) == [1, 1, 2] and scales(8 * 1.4143) == [1, 2, 2]
    assert scales(8.0) == [1, 1, 1] and scales(8 * 1.999) == [1, 2, 2]
    assert scales(1.7e308) == [2.0**1020, 2.0**1021, 2.0**1021]


@given(lists(5), any_grids(3) | st.just(Grid(4)))
def test_no_power_of_two_beats_the_best_one(x, grid):
    scale = float(choose_scale(x, grid, po2="mse").scale)
    assert np.frexp(scale)[0] == 0.5
    best = gain(x, grid, scale)
    allowed = Fraction(8 * TIE) * energy(x) + Fraction(1, 2**200)
    for power in range(-18, 25):
        assert gain(x, grid, Fraction(2) ** power) <= best + allowed


@pytest.mark.parametrize("grid", [Grid(3, kind="log2"), Grid(2), Grid(4, signed=False)], ids=str)
def test_of_equal_powers_the_largest_is_taken(grid):
    # Every power of two down to the least level's represents a single power of two exactly.
    assert choose_scale([4.0], grid, po2="mse").scale == 4 / grid.levels[grid.levels > 0].min()


# --- zero points ----------------------------------------------------------------------------------


def affine_rules(grid):
    free = grid.kind == "uniform" and not grid.mid_rise
    return AFFINE_RULES if free else []


UNIFORM = any_grids(3).filter(affine_rules) | st.sampled_from([Grid(8), Grid(8, signed=False)])


@given(lists(), UNIFORM, st.sampled_from(AFFINE_RULES[:3]))
def test_scale_and_zero_point_of_the_range_are_those_of_plain_loops(x, grid, rule):
    chosen = choose_scale(x, grid, rule=rule)
    scale, zero = loops.choose_affine(exact(x), spec(grid), rule)
    assert_within(chosen.scale, scale, rounding_bound(2, chosen.scale))
    # The floating-point quotient may fall on the other side of a tie, or of an integer; onto it
    # only together with a scale that is exact.
    place = min([*exact(x), 0]) / scale
    close = min(abs(place * 2 - round(place * 2)), Fraction(1))
    rounded = close > 0 or Fraction(float(chosen.scale)) != scale
    assert chosen.zero_point == zero or (close < 1e-12 and rounded)
    assert chosen.rule == rule


@given(lists(), UNIFORM, st.sampled_from(AFFINE_RULES))
def test_zero_keeps_a_code_and_nothing_of_the_range_is_far_away(x, grid, rule):
    chosen = choose_scale(x, grid, rule=rule)
    assert chosen.zero_point == int(chosen.zero_point)
    assert grid.qmin <= chosen.zero_point <= grid.qmax
    assert quantize(0.0, grid, chosen.scale, chosen.zero_point) == chosen.zero_point
    assert project(0.0, grid, scale=chosen) == 0
    if rule != "mse-exact-affine":
        assert (abs(project(x, grid, rule=rule) - x) <= chosen.scale * (1 + 1e-9)).all()
        assert np.array_equal(project(x, grid, rule=rule), project(x, grid, scale=chosen))


@given(lists(4), UNIFORM.filter(lambda g: g.bits < 4))
def test_exact_affine_scale_has_the_gain_of_brute_force_on_fractions(x, grid):
    truth = loops.choose_affine(exact(x), spec(grid))
    chosen = choose_scale(x, grid, rule="mse-exact-affine")
    best, found = gain(x, grid, *truth), gain(x, grid, chosen.scale, chosen.zero_point)
    assert abs(best - found) <= Fraction(8 * TIE) * energy(x)
    if best <= 0:
        assert (chosen.scale, chosen.zero_point) == (1, 0)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), UNIFORM.filter(lambda g: g.bits < 4))
def test_exact_affine_scale_of_integers_is_that_of_brute_force(x, grid):
    scale, zero = loops.choose_affine(exact(x), spec(grid))
    chosen = choose_scale(x, grid, rule="mse-exact-affine")
    assert_within(chosen.scale, scale, float(scale) * 2.0**-50)
    assert gain(x, grid, chosen.scale, chosen.zero_point) >= gain(x, grid, scale, zero) * (
        1 - Fraction(8 * TIE)
    )


@given(lists(5), UNIFORM.filter(lambda g: g.bits < 4), st.sampled_from(["mse-exact", "min-max"]))
def test_no_rule_beats_the_exact_affine_scale(x, grid, rule):
    best = choose_scale(x, grid, rule="mse-exact-affine")
    other = choose_scale(x, grid, rule=rule)
    allowed = Fraction(8 * TIE) * energy(x) + Fraction(1, 2**200)
    best = gain(x, grid, best.scale, best.zero_point)
    assert gain(x, grid, other.scale, other.zero_point) <= best + allowed


@given(lists(4), UNIFORM.filter(lambda g: g.bits < 4))
def test_no_power_of_two_with_any_zero_point_beats_the_best_pair(x, grid):
    chosen = choose_scale(x, grid, rule="mse-exact-affine", po2="mse")
    best = gain(x, grid, chosen.scale, chosen.zero_point)
    assert np.frexp(chosen.scale)[0] == 0.5
    for zero in range(grid.qmin, grid.qmax + 1):
        for power in range(-14, 14):
            allowed = Fraction(8 * TIE) * energy(x)
            assert gain(x, grid, Fraction(2) ** power, zero) <= best + allowed


@given(shapes(2, 2).flatmap(some), UNIFORM, st.sampled_from(AFFINE_RULES[:3]))
def test_each_row_and_column_gets_the_zero_point_that_it_has_alone(x, grid, rule):
    for axis, slices in ((0, x), (1, x.T)):
        chosen = choose_scale(x, grid, rule=rule, axis=axis)
        alone = [choose_scale(part, grid, rule=rule) for part in slices]
        assert chosen.scale.shape == chosen.zero_point.shape
        assert chosen.scale.ravel().tolist() == [a.scale for a in alone]
        assert chosen.zero_point.ravel().tolist() == [a.zero_point for a in alone]
        projected = project(x, grid, rule=rule, axis=axis)
        assert np.array_equal(projected, project(x, grid, scale=chosen))
        assert np.array_equal(
            projected if axis == 0 else projected.T,
            [project(part, grid, scale=a) for part, a in zip(slices, alone, strict=True)],
        )


def test_truncation_may_lose_a_step_to_floating_point():
    x = [0.0, -39.6064453125]  # 255 steps below zero, but the quotient is a little less
    zeros = [choose_scale(x, Grid(8), rule=rule).zero_point for rule in AFFINE_RULES[:3]]
    assert zeros == [127, 127, 126]


def test_the_three_zero_points_of_a_range():
    x, grid = [-2.5, 12.5], Grid(4, signed=False)
    zeros = [choose_scale(x, grid, rule=rule).zero_point for rule in AFFINE_RULES[:3]]
    assert zeros == [2, 2, 2]
    assert choose_scale([-2.5, 11.5], Grid(4, narrow=True), rule="min-max").zero_point == -4
    assert choose_scale([-2.5, 11.5], Grid(4, narrow=True), rule="min-max-torch").zero_point == -5
    assert choose_scale([-2.75, 12.25], grid, rule="min-max").zero_point == 3
    assert choose_scale([-2.75, 12.25], grid, rule="min-max-truncated").zero_point == 2


@pytest.mark.parametrize("rule", AFFINE_RULES)
def test_far_from_zero_the_range_still_holds_zero(rule):
    grid = Grid(8, signed=False)
    x = np.linspace(5, 6, 11)
    chosen = choose_scale(x, grid, rule=rule)
    assert chosen.zero_point == 0
    assert abs(project(x, grid, rule=rule) - x).max() < 0.0125
    if rule != "mse-exact-affine":  # here steps of 0.1 fit without error, many zeros with them
        assert choose_scale(-x, grid, rule=rule).zero_point == 255
    for zeros in ([0.0], [0.0, -0.0]):
        assert choose_scale(zeros, grid, rule=rule)[:2] == (1, 0)


DEGENERATE = [
    [3.7], [-3.7], [0.1] * 7, [-0.3] * 9, [0.0, 1.0], [0.0, -0.0, -1.0], [1e300, 1e-300, -1e-300],
    [5e-324], [-1e-310, 3e-315], [1.7e308], [-1.7e308, 1.0],
]  # fmt: skip


@pytest.mark.parametrize("grid", [*ALL_GRIDS, *OTHER_GRIDS], ids=str)
def test_degenerate_data_have_a_finite_positive_scale(grid):
    affine = affine_rules(grid)[: 4 if grid.bits <= 4 else 3]
    for x, rule in product(DEGENERATE, [*rules(grid), *affine]):
        scale = float(choose_scale(x, grid, rule=rule).scale)
        assert 0 < scale < np.inf
        if max(np.abs(x)) < 1e300:  # else the outermost level may leave the range of floats
            assert np.isfinite(project(x, grid, rule=rule)).all()


@pytest.mark.parametrize(
    "grid", [Grid(4), Grid(4, narrow=True), Grid(1), *OTHER_GRIDS[1:]], ids=str
)
def test_zeros_have_scale_one_and_codes_zero(grid):
    for rule in rules(grid):
        assert choose_scale(np.zeros((2, 3)), grid, rule=rule).scale == 1
        assert (project(np.zeros((2, 3)), grid, rule=rule, axis=1) == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_zeros_on_a_mid_rise_grid_have_the_least_scale_that_float32_holds(rule):
    scale = choose_scale([0.0, 0.0], Grid(4, mid_rise=True), rule=rule).scale
    assert np.float32(scale) == scale == 2.0**-126
    assert (project([0.0, 0.0], Grid(4, mid_rise=True), rule=rule) == 2.0**-127).all()
    assert choose_scale([0.0, 0.0], Grid(1, kind="binary")).scale == scale


@given(st.integers(1, 9), st.floats(1e-3, 1e3), st.sampled_from([1, -1]), any_grids(8))
def test_a_constant_is_represented_by_its_innermost_level(count, value, sign, grid):
    x = np.full(count, sign * value)
    scale = choose_scale(x, grid).scale
    inner = [abs(v) for v in levels(grid) if v * sign > 0]
    if not inner:
        assert scale == 1 and (project(x, grid) == 0).all()
    else:
        assert scale == pytest.approx(value / float(min(inner)), rel=1e-14)
        assert project(x, grid) == pytest.approx(x, rel=1e-14)


# --- projecting -----------------------------------------------------------------------------------


@given(
    shapes(2, 2).flatmap(some), grids(), st.sampled_from([None, 0, 1]), st.sampled_from(RULES[:3])
)
def test_projections_lie_on_the_grid_and_stay(x, grid, axis, rule):
    scale = choose_scale(x, grid, axis=axis, rule=rule).scale
    projected = project(x, grid, axis=axis, rule=rule)
    codes = np.rint(projected / scale - grid.offset)
    assert codes.min() >= grid.qmin and codes.max() <= grid.qmax
    assert np.array_equal(projected, scale * (codes + grid.offset))
    assert np.array_equal(project(projected, grid, scale=scale), projected)
    assert np.array_equal(project(x, grid, scale=scale), projected)


def test_any_memory_layout_and_dtype_gives_the_same():
    x = np.arange(-30, 30, dtype=np.int32).reshape(4, 15)
    expected = project(x.astype(float), Grid(4), axis=0)
    frozen = np.asfortranarray(x).astype(np.float16)
    frozen.setflags(write=False)
    assert np.array_equal(project(frozen, Grid(4), axis=0), expected)
    assert np.array_equal(project(x[::-1, ::-1].copy()[::-1, ::-1], Grid(4), axis=0), expected)
    assert frozen.flags.f_contiguous and not frozen.flags.writeable
    assert project(x.tolist(), Grid(4)).shape == x.shape
    assert project(2.5, Grid(4)).shape == ()


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
        with pytest.raises(error, match=message):
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
    with pytest.raises(error, match="bits: expected"):
        Grid(bits)


def test_bad_flags_are_refused():
    with pytest.raises(TypeError, match="narrow: expected True or False, got 1"):
        Grid(4, narrow=1)
    with pytest.raises(TypeError, match="mid_rise: expected True or False"):
        Grid(4, mid_rise=None)
    with pytest.raises(ValueError, match="narrow: a mid-rise grid"):
        Grid(4, narrow=True, mid_rise=True)
    with pytest.raises(ValueError, match="narrow: with 1 bit"):
        Grid(1, narrow=True)
    with pytest.raises(TypeError, match="positional"):
        Grid(4, True)
    with pytest.raises(TypeError, match="grid: expected a Grid, got int"):
        quantize([1.0], 4, 1)
    with pytest.raises(TypeError, match="grid: expected a Grid, got dict"):
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
    with pytest.raises(error, match=message):
        quantize(np.ones((2, 3)), Grid(4), scale)
    with pytest.raises(error, match=message):
        dequantize(np.ones((2, 3), int), scale)
    if scale is not None:
        with pytest.raises(error, match=message):
            project(np.ones((2, 3)), Grid(4), scale=scale)


def test_bad_zero_points_and_codes_are_refused():
    for zero_point in (0.5, -9, 8):
        with pytest.raises(ValueError, match="zero_point: expected an integer from -8 to 7"):
            quantize([1.0], Grid(4), 1, zero_point)
    middle = Grid(4, mid_rise=True)
    with pytest.raises(ValueError, match="zero_point: expected -1/2 on a mid-rise grid"):
        quantize([1.0], middle, 1, 1)
    assert quantize([1.0], middle, 1, -0.5) == quantize([1.0], middle, 1)
    with pytest.raises(ValueError, match="zero_point: expected one number or a shape"):
        quantize([1.0, 2.0], Grid(4), 1, [0, 0, 0])
    for codes in ([1.0], [True], [None]):
        with pytest.raises(TypeError, match="codes: expected integers"):
            dequantize(codes, 1)
    with pytest.raises(ValueError, match="scale: scale times code exceeds"):
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
    with pytest.raises(error, match=message):
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
        ({"grid": Grid(1, kind="binary"), "rounding": "floor"}, ValueError, "takes signs"),
        ({"grid": Grid(1, kind="binary"), "division": "float32"}, ValueError, "takes signs"),
        ({"grid": Grid(4, kind="log2"), "zero_point": 1}, ValueError, "expected 0 on a log2 grid"),
        ({"grid": Grid(4, signed=False), "zero_point": 16}, ValueError, "integer from 0 to 15"),
        ({"scale": 1e-60, "division": "float32"}, ValueError, "numbers that float32 can hold"),
        ({"scale": 1e60, "division": "reciprocal"}, ValueError, "numbers that float32 can hold"),
        ({"scale": 1e-39, "division": "reciprocal"}, ValueError, "numbers that float32 can hold"),
    ],
)
def test_bad_roundings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        quantize([1.0], **{"grid": Grid(4), "scale": 1.0, **options})


def test_codes_off_the_grid_are_refused():
    for codes, grid in (
        ([8], Grid(4)),
        ([-8], Grid(4, narrow=True)),
        ([-1], Grid(4, signed=False)),
        ([1, 0], Grid(1, kind="binary")),
        ([4], Grid(3, kind="log2")),
    ):
        with pytest.raises(ValueError, match=r"codes: expected codes of Grid\("):
            dequantize(codes, 1, grid=grid)
    with pytest.raises(TypeError, match="grid: expected a Grid"):
        dequantize([1], 1, grid=4)


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (Grid(4, signed=False), {"rule": "max-abs"}, "'max-abs' needs a signed uniform grid"),
        (Grid(4, kind="log2"), {"rule": "mse-200"}, "'mse-200' needs a signed uniform grid"),
        (Grid(4, mid_rise=True), {"rule": "min-max"}, "'min-max' needs a uniform grid with"),
        (Grid(1, kind="binary"), {"rule": "mse-exact-affine"}, "needs a uniform grid with"),
        (Grid(9), {"rule": "mse-exact-affine"}, "at most 8 bits; got 9"),
        (Grid(4), {"po2": "up"}, "po2: expected one of"),
        (Grid(4), {"po2": "mse", "rule": "max-abs"}, "po2: 'mse' does not go with rule 'max-abs'"),
        (Grid(4), {"po2": "mse", "rule": "min-max"}, "po2: 'mse' does not go with rule 'min-max'"),
        (Grid(4), {"po2": "ceil", "rule": "mse-exact-affine"}, "po2: 'ceil' does not go with"),
    ],
)
def test_rules_that_do_not_fit_the_grid_are_refused(grid, options, message):
    with pytest.raises(ValueError, match=message):
        choose_scale([1.0, 2.0], grid, **options)


def test_bad_rules_and_axes_are_refused():
    x = np.ones((2, 3))
    for rule in ("mse", "MSE-EXACT", ""):
        with pytest.raises(ValueError, match="rule: expected one of"):
            choose_scale(x, Grid(4), rule=rule)
    with pytest.raises(TypeError, match="rule: expected one of"):
        choose_scale(x, Grid(4), rule=None)
    for axis in (2, -1):
        with pytest.raises(ValueError, match="axis: expected 0 to 1"):
            choose_scale(x, Grid(4), axis=axis)
    for axis in (0.0, True, "rows"):
        with pytest.raises(TypeError, match="axis: expected an integer"):
            project(x, Grid(4), axis=axis)
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(ValueError, match="x: expected 2 axes when axis is given"):
            choose_scale(np.ones(shape), Grid(4), axis=0)
    with pytest.raises(ValueError, match="'max-abs-narrow' divides by 0 at 1 bit"):
        choose_scale(x, Grid(1), rule="max-abs-narrow")
    for options in ({"axis": 0}, {"rule": "max-abs"}, {"po2": "ceil"}):
        with pytest.raises(ValueError, match="scale: expected None together with axis or rule"):
            project(x, Grid(4), scale=1.0, **options)


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


def local_scale(x, grid, *, rule="mse-exact", axis=None):
    """Alternates rounding and refitting from the max-abs scale, which stops at a local minimum."""
    chosen = right.choose_scale(x, grid, rule="max-abs-two-sided", axis=axis)
    scale = float(chosen.scale)
    for _ in range(100):
        v = right.dequantize(right.quantize(x, grid, scale), 1.0, grid=grid)
        if (v * x).sum() > 0:
            scale = (v * x).sum() / (v * v).sum()
    return chosen._replace(scale=np.array(scale))


def unclipped_scale(x, grid, *, rule="mse-exact", axis=None):
    """Takes the least scale without clipping for the best one."""
    rule = "max-abs-two-sided" if rule == "mse-exact" else rule
    return right.choose_scale(x, grid, rule=rule, axis=axis)


def one_ended_scale(x, grid, *, rule="mse-exact", axis=None):
    """Takes every grid for a narrow one: forgets that negative numbers have one level more."""
    if grid.kind != "uniform" or not grid.signed:
        return right.choose_scale(x, grid, rule=rule, axis=axis)
    symmetric = Grid(grid.bits, narrow=grid.bits > 1 and not grid.mid_rise, mid_rise=grid.mid_rise)
    return right.choose_scale(x, symmetric, rule=rule, axis=axis)


def not_refitted_scale(x, grid, *, rule="mse-exact", axis=None):
    """Takes the authors' trials for the exact minimum."""
    if rule == "mse-exact":
        rule = "mse-200" if grid.kind == "uniform" and grid.signed else "max-abs-two-sided"
    return right.choose_scale(x, grid, rule=rule, axis=axis)


def smallest_scale(x, grid, *, rule="mse-exact", axis=None):
    """Of equal gains takes another one than the largest scale."""
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis)
    half = gain(x, grid, chosen.scale / 2) == gain(x, grid, chosen.scale)
    return chosen._replace(scale=chosen.scale / 2) if half else chosen


def swapped_axes(x, grid, *, rule="mse-exact", axis=None):
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis if axis is None else 1 - axis)
    return chosen._replace(scale=chosen.scale.T)


def unclipped_project(x, grid, *, axis=None, scale=None, rule="mse-exact", po2=None):
    """Takes the least scale without clipping for the best one."""
    return right.project(x, grid, rule="max-abs-two-sided")


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


def changed_scale(change):
    def wrong(x, grid, *, rule="mse-exact", axis=None, po2=None):
        chosen = right.choose_scale(x, grid, rule=rule, axis=axis, po2=po2)
        if rule in AFFINE_RULES or po2 is not None:
            return change(np.asarray(x, float), grid, chosen, po2)
        return chosen

    return wrong


def truncated_zero(x, grid, chosen, po2):
    zero = grid.qmin - np.trunc(min(x.min(), 0) / chosen.scale)
    return chosen._replace(zero_point=float(np.clip(zero, grid.qmin, grid.qmax)))


def range_without_zero(x, grid, chosen, po2):
    span = x.max() - x.min()
    return chosen._replace(scale=span / (grid.qmax - grid.qmin)) if span else chosen


def range_for_the_best(x, grid, chosen, po2):
    return right.choose_scale(x, grid, rule="min-max")


def always_floor(x, grid, chosen, po2):
    if po2 in (None, "mse"):
        return chosen
    free = right.choose_scale(x, grid, rule=chosen.rule.split(",")[0])
    return chosen._replace(scale=np.ldexp(0.5, np.frexp(free.scale)[1]))


def rounded_for_the_best(x, grid, chosen, po2):
    return right.choose_scale(x, grid, po2="round") if po2 == "mse" else chosen


STEPS = test_quantize_follows_the_rule_step_by_step
NEAREST = test_quantize_takes_the_nearest_level_and_the_even_code_of_two
TIES = test_ties_go_to_the_even_code
EXACT = test_exact_scale_has_the_gain_of_brute_force_on_fractions
DEQUANTIZED = test_dequantize_is_one_rounding_of_scale_times_code_minus_zero_point
TIED_ROUNDING = test_each_rounding_on_ties_and_beside_them
AVERAGE = test_stochastic_rounding_is_right_on_average
RANGE = test_scale_and_zero_point_of_the_range_are_those_of_plain_loops

ZERO_POINT = test_the_zero_point_is_added_after_rounding_and_before_clipping


@pytest.mark.parametrize(
    ("test", "fault"),
    [
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
        (EXACT, {"choose_scale": local_scale}),
        (
            test_negative_numbers_have_one_level_more_on_the_full_range,
            {"choose_scale": one_ended_scale},
        ),
        (EXACT, {"choose_scale": not_refitted_scale}),
        (test_exact_scale_of_integers_is_that_of_brute_force, {"choose_scale": smallest_scale}),
        (test_no_rule_and_no_scan_beats_the_exact_scale, {"choose_scale": unclipped_scale}),
        (test_the_exact_scale_is_the_refit_of_its_own_codes, {"choose_scale": not_refitted_scale}),
        (test_each_row_and_column_gets_the_scale_that_it_has_alone, {"choose_scale": swapped_axes}),
        (test_projection_is_the_nearest_of_all_code_assignments, {"project": unclipped_project}),
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
        (RANGE, {"choose_scale": changed_scale(truncated_zero)}),
        (RANGE, {"choose_scale": changed_scale(range_without_zero)}),
        (
            test_exact_affine_scale_has_the_gain_of_brute_force_on_fractions,
            {"choose_scale": changed_scale(range_for_the_best)},
        ),
        (
            test_a_rounded_scale_is_the_power_of_two_of_plain_loops,
            {"choose_scale": changed_scale(always_floor)},
        ),
        (
            test_no_power_of_two_beats_the_best_one,
            {"choose_scale": changed_scale(rounded_for_the_best)},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
