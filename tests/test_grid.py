"""Laws, exact vectors and bad input of qcp_ref.grid; its planted faults stand at the end."""

import sys
from fractions import Fraction
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


@st.composite
def grids(draw, max_bits=4):
    kind = draw(st.sampled_from(KINDS))
    return Grid(draw(st.integers(1 + kind.get("narrow", False), max_bits)), **kind)


# Few distinct numbers make ties and duplicates likely; the decimal ones are no exact multiples.
ENTRIES = st.sampled_from([st.integers(-9, 9), floats, st.sampled_from([0.0, 0.1, 0.3, -0.7, 0.7])])
POWERS = st.integers(-30, 30).map(lambda e: 2.0**e)
SCALES = st.one_of(POWERS, st.integers(1, 99), st.floats(0.01, 100))


def some(shape):
    return ENTRIES.flatmap(lambda entries: arrays(shape, entries))


def lists(max_size=6):
    return st.integers(1, max_size).flatmap(some)


def rules(grid):
    """The rules that this grid has."""
    return [rule for rule in RULES if rule != "max-abs-narrow" or grid.bits > 1]


def spec(grid):
    """The grid as loops.py takes it."""
    return {"bits": grid.bits, "narrow": grid.narrow, "mid_rise": grid.mid_rise}


def levels(grid):
    """All levels at scale 1, exactly."""
    low, high, offset = loops.code_range(**spec(grid))
    return [k + Fraction(offset) for k in range(low, high + 1)]


def gain(x, grid, scale):
    """By how much rounding at this scale is better than zero: |x|^2 - |x - rounded|^2, exactly."""
    values = exact(np.ravel(x))
    s = Fraction(float(scale)) if not isinstance(scale, Fraction) else scale
    nearest = [min((abs(v - s * k), k) for k in levels(grid))[0] for v in values]
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


def test_grids_are_values():
    assert Grid(4) == Grid(np.int64(4)) != Grid(4, narrow=True)
    assert len({Grid(4), Grid(4), Grid(4, mid_rise=True)}) == 2
    with pytest.raises(AttributeError):
        Grid(4).bits = 5


# --- the rounding rule ----------------------------------------------------------------------------


@st.composite
def quantize_cases(draw):
    """Numbers, a grid, and scale and zero point in one of the shapes that fit."""
    grid = draw(grids(max_bits=8))
    x = draw(shapes(1, 3).flatmap(some))
    kept = [side if draw(st.booleans()) else 1 for side in x.shape]
    scale = draw(SCALES | arrays(kept, st.integers(1, 9).map(lambda m: m / 8)))
    zeros = st.integers(grid.qmin, grid.qmax) if not grid.mid_rise else st.just(0)
    return x, grid, scale, draw(zeros | arrays(kept, zeros))


@given(quantize_cases())
def test_quantize_follows_the_rule_step_by_step(case):
    x, grid, scale, zero_point = case
    # On floats Python divides and rounds as the rule says, so the codes agree without exception.
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in (scale, zero_point)]
    codes = quantize(x, grid, scale, zero_point)
    assert codes.tolist() == loops.quantize(x.tolist(), spec(grid), *plain)
    assert codes.dtype == grid.dtype


@given(lists(), grids(), POWERS)
def test_quantize_takes_the_nearest_level_and_the_even_code_of_two(x, grid, scale):
    x = np.round(x * 2) / 2 * scale  # halves: every tie is met, and all arithmetic is exact
    for v, code in zip(exact(x), quantize(x, grid, scale).tolist(), strict=True):
        distance = {
            k: abs(v - Fraction(scale) * level)
            for k, level in enumerate(levels(grid), start=grid.qmin)
        }
        nearest = [k for k, d in distance.items() if d == min(distance.values())]
        assert code in nearest
        assert len(nearest) == 1 or code % 2 == 0


@given(lists(), grids(), SCALES)
def test_quantize_is_monotone(x, grid, scale):
    assert (np.diff(quantize(np.sort(x), grid, scale).astype(int)) >= 0).all()


@given(lists(), grids(), SCALES, POWERS)
def test_quantize_does_not_see_a_common_power_of_two(x, grid, scale, power):
    assert np.array_equal(quantize(x * power, grid, scale * power), quantize(x, grid, scale))


@given(lists(), grids(), SCALES)
def test_quantize_is_odd_on_symmetric_grids(x, grid, scale):
    assume(grid.narrow or grid.mid_rise)
    if grid.mid_rise:
        x = x[
            np.abs(x / scale - np.rint(x / scale)) > 1e-9
        ]  # ties: level k + 1/2 has no even mirror
        assume(x.size)
    codes = quantize(x, grid, scale).astype(int)
    assert np.array_equal(quantize(-x, grid, scale), -codes - grid.mid_rise)


@pytest.mark.parametrize("grid", ALL_GRIDS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.1, 2 / 3, 1e-30, 7e20])
def test_levels_come_back_as_their_codes(grid, scale):
    codes = np.arange(grid.qmin, grid.qmax + 1)
    assert np.array_equal(quantize(dequantize(codes, scale, -grid.offset), grid, scale), codes)


@given(quantize_cases())
def test_dequantize_is_one_rounding_of_scale_times_code_minus_zero_point(case):
    x, grid, scale, zero_point = case
    codes = quantize(x, grid, scale, zero_point)
    zero = -grid.offset if grid.mid_rise else zero_point
    values = dequantize(codes, scale, zero)
    truth = loops.dequantize(exact(codes), exact(scale), exact(zero))
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


# --- choosing the scale ---------------------------------------------------------------------------


@given(lists(5), grids(3) | st.just(Grid(4)))
def test_exact_scale_has_the_gain_of_brute_force_on_fractions(x, grid):
    truth = loops.choose_scale(exact(x), spec(grid))
    scale = choose_scale(x, grid).scale
    if grid.mid_rise or gain(x, grid, truth) > 0:
        assert gain(x, grid, truth) - gain(x, grid, scale) <= Fraction(8 * TIE) * energy(x)
    else:
        assert scale == 1


@given(st.lists(st.integers(-12, 12), min_size=1, max_size=5), grids(3) | st.just(Grid(4)))
def test_exact_scale_of_integers_is_that_of_brute_force(x, grid):
    # Small integers make equal gains common: the largest scale is meant. (Zeros: see below.)
    assume(any(x))
    truth = loops.choose_scale(exact(x), spec(grid))
    assert_within(choose_scale(x, grid).scale, truth, float(truth) * 2.0**-50)


@given(some(4), grids(2))
def test_projection_is_the_nearest_of_all_code_assignments(x, grid):
    values = exact(x)
    best = Fraction(0)
    for v in product(levels(grid), repeat=len(values)):
        inner = sum(a * b for a, b in zip(values, v, strict=True))
        if inner > 0:  # only positive scales; the best one for these levels is inner / <v, v>
            best = max(best, inner * inner / sum(b * b for b in v))
    error = sum((a - b) ** 2 for a, b in zip(values, exact(project(x, grid)), strict=True))
    assert error <= energy(x) * (1 + Fraction(8 * TIE)) - best + Fraction(1, 2**200)


@given(lists(4), grids(3))
def test_no_rule_and_no_scan_beats_the_exact_scale(x, grid):
    best = gain(x, grid, choose_scale(x, grid).scale)
    allowed = Fraction(8 * TIE) * energy(x) + Fraction(1, 2**200)
    others = [choose_scale(x, grid, rule=rule).scale for rule in rules(grid)]
    scan = np.linspace(0.01, 2.1, 25) * max(abs(x).max(), 1e-3)
    for scale in [*others, *scan]:
        assert gain(x, grid, scale) <= best + allowed


@pytest.mark.parametrize("grid", [Grid(2), Grid(4), Grid(4, mid_rise=True), Grid(8)], ids=str)
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


@given(lists(40), grids())
def test_the_exact_scale_is_the_refit_of_its_own_codes(x, grid):
    scale = choose_scale(x, grid).scale
    first, second = loops.grid_moments(exact(x), spec(grid), Fraction(float(scale)))
    assume(first > 0)
    assert_within(scale, first / second, rounding_bound(2 * x.size + 20, scale))


@given(lists(30), grids().filter(lambda g: g.bits > 1), st.sampled_from(RULES), POWERS, st.data())
def test_order_does_not_matter_and_powers_of_two_pass_through(x, grid, rule, power, data):
    scale = choose_scale(x, grid, rule=rule).scale
    order = data.draw(st.permutations(range(x.size)))
    assert choose_scale(x[order], grid, rule=rule).scale == scale
    if x.any():
        assert choose_scale(x * power, grid, rule=rule).scale == scale * power


@given(shapes(2, 2).flatmap(some), grids().filter(lambda g: g.bits > 1), st.sampled_from(RULES))
def test_each_row_and_column_gets_the_scale_that_it_has_alone(x, grid, rule):
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


@given(lists(), grids().filter(lambda g: g.qmax > 0 or g.mid_rise))
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


DEGENERATE = [
    [3.7], [-3.7], [0.1] * 7, [-0.3] * 9, [0.0, 1.0], [0.0, -0.0, -1.0], [1e300, 1e-300, -1e-300],
    [5e-324], [-1e-310, 3e-315], [1.7e308], [-1.7e308, 1.0],
]  # fmt: skip


@pytest.mark.parametrize("grid", ALL_GRIDS, ids=str)
def test_degenerate_data_have_a_finite_positive_scale(grid):
    for x, rule in product(DEGENERATE, rules(grid)):
        scale = float(choose_scale(x, grid, rule=rule).scale)
        assert 0 < scale < np.inf
        if max(np.abs(x)) < 1e300:  # else the outermost level may leave the range of floats
            assert np.isfinite(project(x, grid, rule=rule)).all()


@pytest.mark.parametrize("grid", [Grid(4), Grid(4, narrow=True), Grid(1)], ids=str)
def test_zeros_have_scale_one_and_codes_zero(grid):
    for rule in rules(grid):
        assert choose_scale(np.zeros((2, 3)), grid, rule=rule).scale == 1
        assert (project(np.zeros((2, 3)), grid, rule=rule, axis=1) == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_zeros_on_a_mid_rise_grid_have_the_least_scale_that_float32_holds(rule):
    scale = choose_scale([0.0, 0.0], Grid(4, mid_rise=True), rule=rule).scale
    assert np.float32(scale) == scale == 2.0**-126
    assert (project([0.0, 0.0], Grid(4, mid_rise=True), rule=rule) == 2.0**-127).all()


@given(st.integers(1, 9), st.floats(1e-3, 1e3), st.sampled_from([1, -1]), grids(8))
def test_a_constant_is_represented_by_its_innermost_level(count, value, sign, grid):
    x = np.full(count, sign * value)
    scale = choose_scale(x, grid).scale
    if grid == Grid(1) and sign > 0:
        assert scale == 1 and (project(x, grid) == 0).all()
    else:
        assert scale == pytest.approx(value * (1 + grid.mid_rise), rel=1e-14)
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
    for options in ({"axis": 0}, {"rule": "max-abs"}):
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


def added_zero_point(codes, scale, zero_point=0):
    return right.dequantize(codes, scale, -np.asarray(zero_point))


def local_scale(x, grid, *, rule="mse-exact", axis=None):
    """Alternates rounding and refitting from the max-abs scale, which stops at a local minimum."""
    chosen = right.choose_scale(x, grid, rule="max-abs", axis=axis)
    scale = float(chosen.scale)
    for _ in range(100):
        v = right.quantize(x, grid, scale) + grid.offset
        if (v * x).sum() > 0:
            scale = (v * x).sum() / (v * v).sum()
    return chosen._replace(scale=np.array(scale))


def one_ended_scale(x, grid, *, rule="mse-exact", axis=None):
    """Takes every grid for a narrow one: forgets that negative numbers have one level more."""
    symmetric = Grid(grid.bits, narrow=grid.bits > 1 and not grid.mid_rise, mid_rise=grid.mid_rise)
    return right.choose_scale(x, symmetric, rule=rule, axis=axis)


def not_refitted_scale(x, grid, *, rule="mse-exact", axis=None):
    """Takes the authors' trials for the exact minimum."""
    return right.choose_scale(x, grid, rule="mse-200" if rule == "mse-exact" else rule, axis=axis)


def smallest_scale(x, grid, *, rule="mse-exact", axis=None):
    """Of equal gains takes another one than the largest scale."""
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis)
    half = gain(x, grid, chosen.scale / 2) == gain(x, grid, chosen.scale)
    return chosen._replace(scale=chosen.scale / 2) if half else chosen


def swapped_axes(x, grid, *, rule="mse-exact", axis=None):
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis if axis is None else 1 - axis)
    return chosen._replace(scale=chosen.scale.T)


def local_project(x, grid, *, axis=None, scale=None, rule="mse-exact"):
    return right.project(x, grid, scale=local_scale(x, grid).scale)


STEPS = test_quantize_follows_the_rule_step_by_step
NEAREST = test_quantize_takes_the_nearest_level_and_the_even_code_of_two
TIES = test_ties_go_to_the_even_code
EXACT = test_exact_scale_has_the_gain_of_brute_force_on_fractions
DEQUANTIZED = test_dequantize_is_one_rounding_of_scale_times_code_minus_zero_point
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
        (test_no_rule_and_no_scan_beats_the_exact_scale, {"choose_scale": local_scale}),
        (test_the_exact_scale_is_the_refit_of_its_own_codes, {"choose_scale": not_refitted_scale}),
        (test_each_row_and_column_gets_the_scale_that_it_has_alone, {"choose_scale": swapped_axes}),
        (test_projection_is_the_nearest_of_all_code_assignments, {"project": local_project}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
