"""Laws, exact vectors and bad input of qcp_ref.grids.scale; its planted faults stand at the end."""

import re
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from grid_draws import (
    AFFINE_RULES,
    ALL_GRIDS,
    OTHER_GRIDS,
    POWERS,
    RANGE_RULES,
    RULES,
    affine_rules,
    all_rules,
    any_grids,
    energy,
    gain,
    grids,
    levels,
    lists,
    range_rules,
    rules,
    some,
    spec,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import assert_within, caught, exact, law, refused, shapes, wild

from qcp_ref import (
    Grid,
    _kernels,
    choose_scale,
    dequantize,
    loops,
    project,
    quantize,
    rounding_bound,
)
from qcp_ref.grids import scale as right

THIS = sys.modules[__name__]
ROOT = Path(__file__).parents[2]
# What rounding the exact scale to float64 may add to the error, of the squared norm.
ROUNDING = Fraction(1, 2**106)

# --- choosing the scale ---------------------------------------------------------------------------


@law("choose_scale.least")
@given(lists(5), any_grids(3) | st.just(Grid(4)))
def test_exact_scale_has_the_gain_of_brute_force_on_fractions(x, grid):
    truth = loops.choose_scale(exact(x), spec(grid))
    scale = choose_scale(x, grid).scale
    if grid.mid_rise or grid.kind == "binary" or gain(x, grid, truth) > 0:
        assert gain(x, grid, truth) - gain(x, grid, scale) <= ROUNDING * energy(x)
    else:
        assert scale == 1


@law("choose_scale.least", "choose_scale.largest")
@given(st.lists(st.integers(-12, 12), min_size=1, max_size=5), any_grids(3) | st.just(Grid(4)))
def test_exact_scale_of_integers_is_that_of_brute_force(x, grid):
    # Small integers make equal gains common: the largest scale is meant. (Zeros: see below.)
    assume(any(x))
    truth = loops.choose_scale(exact(x), spec(grid))
    assert choose_scale(x, grid).scale == float(truth)


@law("project.nearest")
@given(some(4), any_grids(2))
def test_projection_is_the_nearest_of_all_code_assignments(x, grid):
    values = exact(x)
    best = Fraction(0)
    for v in product(levels(grid), repeat=len(values)):
        inner = sum(a * b for a, b in zip(values, v, strict=True))
        if inner > 0:  # only positive scales; the best one for these levels is inner / <v, v>
            best = max(best, inner * inner / sum(b * b for b in v))
    error = sum((a - b) ** 2 for a, b in zip(values, exact(project(x, grid)), strict=True))
    # project rounds each product once more: |error| by at most 2^-53 |x|.
    assert error <= energy(x) * (1 + Fraction(1, 2**51)) - best + Fraction(1, 2**200)


@law("choose_scale.least")
@given(lists(4), any_grids(3))
def test_no_rule_and_no_scan_beats_the_exact_scale(x, grid):
    best = gain(x, grid, choose_scale(x, grid).scale)
    allowed = ROUNDING * energy(x)
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


@law("choose_scale.least")
def test_negative_numbers_have_one_level_more_on_the_full_range():
    x = np.array([-8.0, -8.0, 5.0, 3.0, -1.0])
    assert choose_scale(x, Grid(4)).scale == 1
    assert choose_scale(x, Grid(4, narrow=True)).scale > 1
    assert choose_scale(-x, Grid(4)).scale > 1
    assert choose_scale([-2.0, -3.0, 9.0], Grid(1)).scale == 2.5


@law("choose_scale.refit")
@given(lists(40), any_grids())
def test_the_exact_scale_is_the_refit_of_its_own_codes(x, grid):
    scale = choose_scale(x, grid).scale
    first, second = loops.grid_moments(exact(x), spec(grid), Fraction(float(scale)))
    assume(first > 0)
    assert_within(scale, first / second, rounding_bound(2 * x.size + 20, scale))


@law("choose_scale.order")
@given(lists(30), any_grids(), POWERS, st.data())
def test_order_does_not_matter_and_powers_of_two_pass_through(x, grid, power, data):
    rule = data.draw(st.sampled_from(rules(grid)))
    scale = choose_scale(x, grid, rule=rule).scale
    order = data.draw(st.permutations(range(x.size)))
    assert choose_scale(x[order], grid, rule=rule).scale == scale
    if x.any() and scale != 1:  # one is also the scale where no level but zero fits
        assert choose_scale(x * power, grid, rule=rule).scale == scale * power


@law("choose_scale.axis")
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


@law("choose_scale.unclipped")
@given(lists(), any_grids().filter(lambda g: g.signed and (g.qmax > 0 or g.mid_rise)))
def test_the_two_sided_scale_is_the_least_without_clipping(x, grid):
    assume(x.any())
    scale = float(choose_scale(x, grid, rule="max-abs-two-sided").scale)
    low, high = (float(v) for v in (levels(grid)[0], levels(grid)[-1]))
    reached = np.array([x.min() / scale / low, x.max() / scale / high])
    assert reached.max() == pytest.approx(1, rel=1e-15)


@law("choose_scale.trials")
@given(lists(3), grids(2) | st.just(Grid(4)))
def test_the_authors_scale_is_the_best_of_their_200_trials(x, grid):
    assume(x.any())
    chosen = float(choose_scale(x, grid, rule="mse-200").scale)
    trials = loops.trial_scales(exact(x), spec(grid))
    gains = [loops.gain(exact(x), spec(grid), t) for t in trials]
    number = int(np.argmin([abs(t - Fraction(chosen)) for t in trials]))
    assert_within(chosen, trials[number], chosen * 2.0**-50)
    # Trials in float64 lie beside those on fractions.
    assert gains[number] >= max(gains) - Fraction(1, 2**46) * energy(x)


def test_of_equal_trials_the_first_wins():
    # No level but 0 is of use, so all trials are equal; the first is 0.2 of the maximum, times 2.
    assert choose_scale([5.0, 3.0], Grid(1), rule="mse-200").scale == pytest.approx(2, rel=1e-15)


# --- the table of rules ---------------------------------------------------------------------------

SOME_GRIDS = [
    *[Grid(1), Grid(2), Grid(4), Grid(2, narrow=True), Grid(3, narrow=True)],
    *[Grid(1, mid_rise=True), Grid(3, mid_rise=True), *OTHER_GRIDS],
]


@law("choose_scale.loops")
@given(st.lists(st.integers(-12, 12), min_size=1, max_size=3), st.data())
def test_each_rule_chooses_what_plain_loops_choose(x, data):
    rule = data.draw(st.sampled_from(list(right.RULES)))
    grid = data.draw(st.sampled_from([g for g in SOME_GRIDS if rule in all_rules(g)]))
    found = choose_scale(x, grid, rule=rule)
    scale, zero = loops.scale_by_rule(exact(x), spec(grid), rule)
    chosen = Fraction(float(found.scale))
    if abs(chosen - scale) > scale / 2**50:  # another trial, as good as the first up to rounding
        assert rule == "mse-200"
        trials = loops.trial_scales(exact(x), spec(grid))
        assert min(abs(chosen / t - 1) for t in trials) <= Fraction(1, 2**50)
        lost = gain(x, grid, scale) - gain(x, grid, chosen)
        assert abs(lost) <= Fraction(1, 2**46) * energy(x)
    if found.zero_point != zero:  # a quotient at a tie or an integer, with a scale that is rounded
        twice = 2 * Fraction(min([*x, 0])) / scale
        assert twice == round(twice) and chosen != scale
        assert rule in RANGE_RULES and abs(found.zero_point - zero) == 1


def test_page_and_docstring_list_the_rules_of_the_table():
    text = (ROOT / "docs/theory/grids/scale.rst").read_text(encoding="utf-8")
    row = r"   \* - '(.+)'\n     - [:]eq:`(.+)`\n     - (.+)\n     - (\d+) to (\d+)\n     - (.+)\n"
    assert re.findall(row, text) == [
        (name, r.label, r.grids, *map(str, r.bits), ", ".join(r.powers))
        for name, r in right.RULES.items()
    ]
    doc = choose_scale.__doc__
    listed = doc[doc.index("rule : str") : doc.index("axis : int")]
    assert re.findall(r"'([\w-]+)'", listed) == list(right.RULES)
    for label in {rule.label for rule in right.RULES.values()}:
        assert f"eq:`{label}`" in doc


# --- powers of two --------------------------------------------------------------------------------


@law("choose_scale.rounded")
@given(lists(), any_grids(), st.data())
def test_a_rounded_scale_is_the_power_of_two_of_plain_loops(x, grid, data):
    rule = data.draw(st.sampled_from([*rules(grid), *range_rules(grid)]))
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


@law("choose_scale.powers")
@given(lists(5), any_grids(3) | st.just(Grid(4)))
def test_no_power_of_two_beats_the_best_one(x, grid):
    scale = float(choose_scale(x, grid, po2="mse").scale)
    assert np.frexp(scale)[0] == 0.5
    best = gain(x, grid, scale)
    for power in range(-18, 25):
        assert gain(x, grid, Fraction(2) ** power) <= best


@pytest.mark.parametrize("grid", [Grid(3, kind="log2"), Grid(2), Grid(4, signed=False)], ids=str)
def test_of_equal_powers_the_largest_is_taken(grid):
    # Every power of two down to the least level's represents a single power of two exactly.
    assert choose_scale([4.0], grid, po2="mse").scale == 4 / grid.levels[grid.levels > 0].min()


# --- zero points ----------------------------------------------------------------------------------


UNIFORM = any_grids(3).filter(affine_rules) | st.sampled_from([Grid(8), Grid(8, signed=False)])


@law("choose_scale.range")
@given(lists(), UNIFORM, st.sampled_from(RANGE_RULES))
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


@law("choose_scale.zero")
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


@law("choose_scale.affine")
@given(lists(4), UNIFORM.filter(lambda g: g.bits < 4))
def test_exact_affine_scale_has_the_gain_of_brute_force_on_fractions(x, grid):
    truth = loops.choose_affine(exact(x), spec(grid))
    chosen = choose_scale(x, grid, rule="mse-exact-affine")
    best, found = gain(x, grid, *truth), gain(x, grid, chosen.scale, chosen.zero_point)
    assert abs(best - found) <= ROUNDING * energy(x)
    if best <= 0:
        assert (chosen.scale, chosen.zero_point) == (1, 0)


@law("choose_scale.affine")
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), UNIFORM.filter(lambda g: g.bits < 4))
def test_exact_affine_scale_of_integers_is_that_of_brute_force(x, grid):
    scale, zero = loops.choose_affine(exact(x), spec(grid))
    chosen = choose_scale(x, grid, rule="mse-exact-affine")
    assert Fraction(float(chosen.scale)) == Fraction(float(scale)) and chosen.zero_point == zero


@law("choose_scale.affine")
@given(lists(5), UNIFORM.filter(lambda g: g.bits < 4), st.sampled_from(["mse-exact", "min-max"]))
def test_no_rule_beats_the_exact_affine_scale(x, grid, rule):
    best = choose_scale(x, grid, rule="mse-exact-affine")
    other = choose_scale(x, grid, rule=rule)
    allowed = ROUNDING * energy(x)
    best = gain(x, grid, best.scale, best.zero_point)
    assert gain(x, grid, other.scale, other.zero_point) <= best + allowed


@given(lists(4), UNIFORM.filter(lambda g: g.bits < 4))
def test_no_power_of_two_with_any_zero_point_beats_the_best_pair(x, grid):
    chosen = choose_scale(x, grid, rule="mse-exact-affine", po2="mse")
    best = gain(x, grid, chosen.scale, chosen.zero_point)
    assert np.frexp(chosen.scale)[0] == 0.5
    for zero in range(grid.qmin, grid.qmax + 1):
        for power in range(-14, 14):
            assert gain(x, grid, Fraction(2) ** power, zero) <= best


@law("choose_scale.axis")
@given(shapes(2, 2).flatmap(some), UNIFORM, st.sampled_from(RANGE_RULES))
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
    zeros = [choose_scale(x, Grid(8), rule=rule).zero_point for rule in RANGE_RULES]
    assert zeros == [127, 127, 126]


def test_the_three_zero_points_of_a_range():
    x, grid = [-2.5, 12.5], Grid(4, signed=False)
    zeros = [choose_scale(x, grid, rule=rule).zero_point for rule in RANGE_RULES]
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
    affine = affine_rules(grid) if grid.bits <= 4 else range_rules(grid)
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


@law("project.on-grid", "project.idempotent")
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


# --- ends of the range ----------------------------------------------------------------------------

LEAST = 2.0**-1074  # the only scales down there are its multiples
SMALL_GRIDS = [
    *[Grid(1), Grid(2), Grid(3), Grid(2, mid_rise=True), Grid(2, signed=False)],
    *[Grid(1, kind="binary"), Grid(2, kind="ternary"), Grid(3, kind="log2")],
]


def best_of(x, grid, scales, zeros=(0,)):
    """The pair of least error, by fractions; of equal ones the largest scale."""
    errors = {(s, z): energy(x) - gain(x, grid, Fraction(s), z) for s in scales for z in zeros}
    return min(errors, key=lambda p: (errors[p], -p[0], abs(p[1]), -p[1]))


@settings(max_examples=30)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=4), st.sampled_from(SMALL_GRIDS))
def test_among_the_smallest_numbers_the_scale_is_the_best_that_there_is(whole, grid):
    x = np.array(whole) * LEAST
    scales = [LEAST * k for k in range(1, 125)]
    truth, _ = best_of(x, grid, scales)
    if gain(x, grid, Fraction(truth)) > 0:
        assert choose_scale(x, grid).scale == truth
        powers = [LEAST * 2.0**k for k in range(9)]
        assert choose_scale(x, grid, po2="mse").scale == best_of(x, grid, powers)[0]


@settings(max_examples=25)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=3))
def test_among_the_smallest_numbers_scale_and_zero_point_are_the_best(whole):
    assume(any(whole))
    x, grid = np.array(whole) * LEAST, Grid(2)
    found = choose_scale(x, grid, rule="mse-exact-affine")
    truth = best_of(x, grid, [LEAST * k for k in range(1, 20)], range(-2, 2))
    assert (float(found.scale), found.zero_point) == truth


@settings(max_examples=25)
@given(st.lists(st.integers(-15, 15), min_size=1, max_size=3).filter(any))
def test_among_the_smallest_numbers_the_trials_are_rounded_to_them(whole):
    x = np.array(whole) * LEAST
    largest = max(abs(w) for w in whole)
    # Trials lie from a fifth to six fifths of the largest number over 3.5 steps; none is 0.
    scale = float(choose_scale(x, Grid(3), rule="mse-200").scale)
    assert scale >= LEAST and scale <= 1.2 * largest / 3.5 * LEAST + LEAST
    low, high = 0.2 * largest / 3.5, 1.2 * largest / 3.5
    tried = [LEAST * k for k in range(max(round(low), 1), max(round(high), 1) + 1)]
    errors = [energy(x) - gain(x, Grid(3), Fraction(s)) for s in tried]
    assert energy(x) - gain(x, Grid(3), Fraction(scale)) == min(errors)
    assert scale == tried[errors.index(min(errors))]


def test_where_float64_has_no_larger_number_the_largest_is_the_scale():
    most = float(np.finfo(float).max)
    # Twice, or four times, the number would do as well; the next levels are 3/2 and 1.
    middle = choose_scale([most], Grid(4, mid_rise=True)).scale
    assert middle == pytest.approx(most / 1.5, rel=1e-15)
    assert choose_scale([most], Grid(3, kind="log2")).scale == most
    assert choose_scale([most], Grid(1, mid_rise=True)).scale == most
    assert choose_scale([most], Grid(1, mid_rise=True), po2="mse").scale == 2.0**1023
    for po2, power in (("ceil", 1023), ("round", 1023), ("floor", 1023)):
        rule = {"rule": "max-abs-two-sided", "po2": po2}
        assert choose_scale([most], Grid(1, mid_rise=True), **rule).scale == 2.0**power
    assert choose_scale([most], Grid(1, mid_rise=True), rule="max-abs-two-sided").scale == most
    assert choose_scale([LEAST], Grid(4), rule="max-abs-full").scale == LEAST
    for x in ([LEAST], [LEAST, -LEAST, 0.0]):
        assert choose_scale(x, Grid(3), po2="mse").scale == choose_scale(x, Grid(3)).scale == LEAST


def test_scales_of_few_digits_are_refused_at_many_bits_and_many_numbers():
    codes = np.arange(-550.0, 550.0) * 2.0**-1065
    text = r"^x: expected numbers whose scale float64 holds .* near 3e-318; multiply by a power"
    with pytest.raises(ValueError, match=text):
        choose_scale(codes, Grid(10))
    assert choose_scale(codes[:3], Grid(10)).scale > 0
    assert choose_scale(codes, Grid(4)).scale > 0
    assert choose_scale(codes * 2.0**60, Grid(10)).scale > 0


@pytest.mark.parametrize("power", [-1060, -990, -950, 900])
def test_powers_of_two_far_out_pass_through(power):
    x = np.array([5.0, -3.0, 2.5, 0.25, -7.0])
    for rule in (*RULES, "mse-exact-affine", "min-max"):
        near, far = (choose_scale(v, Grid(3), rule=rule) for v in (x, np.ldexp(x, power)))
        if power > -1000:
            assert far.scale == np.ldexp(near.scale, power) and far.zero_point == near.zero_point
        assert far.scale == pytest.approx(float(np.ldexp(near.scale, power)), rel=2.0**-10)


# --- which way is taken ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["mse-exact", "mse-200", "mse-exact-affine"])
@pytest.mark.parametrize(("count", "fast"), [(8, False), (9, True)])
def test_kernels_run_where_there_are_many_breakpoints_only(rule, count, fast, monkeypatch):
    asked, x = [], np.linspace(-3.3, 2.9, count)
    wanted = choose_scale(x, Grid(4), rule=rule)
    for name in ("near_best", "moments", "tails"):
        kernel = getattr(_kernels, name)
        monkeypatch.setattr(
            _kernels, name, lambda *a, name=name, kernel=kernel: asked.append(name) or kernel(*a)
        )
    for name in ("near_best_of", "moments_of", "tails"):
        slow = getattr(right, name)
        monkeypatch.setattr(
            right, name, lambda *a, name=name, slow=slow: asked.append(f"slow {name}") or slow(*a)
        )
    found = choose_scale(x, Grid(4), rule=rule)
    assert found == wanted and asked
    assert all(name.startswith("slow") != fast for name in asked)
    asked.clear()
    choose_scale(np.repeat(x, 100), Grid(4, kind="log2"))  # of unequal steps there is no kernel
    assert all(name.startswith("slow") for name in asked)
    ternary = choose_scale(np.repeat(x, 100), Grid(2, kind="ternary"))
    assert "near_best" in asked
    assert ternary.scale == choose_scale(np.repeat(x, 100), Grid(2, narrow=True)).scale


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("how", [{"rule": "mse-200"}, {"po2": "mse"}, {"rule": "mse-exact-affine"}])
def test_both_forms_choose_the_same_where_much_is_clipped(sign, how, rng, monkeypatch):
    x = sign * np.append(np.abs(rng.standard_cauchy(40)), [-0.3, -0.7])
    fast = [choose_scale(x, grid, **how) for grid in (Grid(2), Grid(3), Grid(4))]
    monkeypatch.setattr(_kernels, "can_compile", lambda: False)
    slow = [choose_scale(x, grid, **how) for grid in (Grid(2), Grid(3), Grid(4))]
    assert fast == slow


# --- ties -----------------------------------------------------------------------------------------


def test_of_equally_good_zero_points_the_one_nearest_to_zero_is_taken():
    for grid in (Grid(2), Grid(3, narrow=True), Grid(4)):
        for x in ([1.0], [-1.0], [1.0, -1.0], [5.0, 0.0]):
            found = choose_scale(x, grid, rule="mse-exact-affine")
            assert (found.scale, found.zero_point) == (abs(x[0]), 0)
            if x[0] < 5:
                power = choose_scale([4 * v for v in x], grid, rule="mse-exact-affine", po2="mse")
                assert (power.scale, power.zero_point) == (4, 0)
    unsigned = choose_scale([-3.0, 1.5], Grid(2, signed=False), rule="mse-exact-affine")
    assert (unsigned.scale, unsigned.zero_point) == (1.5, 2)


def test_of_equal_scales_the_largest_is_taken_for_powers_too():
    assert choose_scale([6.0, 3.0], Grid(4)).scale == 3
    assert choose_scale([4.0, 2.0], Grid(4), po2="mse").scale == 2
    assert choose_scale([4.0, 2.0], Grid(3, kind="log2")).scale == 8
    assert choose_scale([-4.0], Grid(1)).scale == 4 and choose_scale([4.0], Grid(1)).scale == 1


def test_a_side_without_levels_does_not_count_for_the_two_sided_scale():
    how = {"rule": "max-abs-two-sided"}
    for unit in (1.0, 2.0**-30, 2.0**30):
        x = np.array([3.0, -9.0]) * unit
        assert choose_scale(x, Grid(2, signed=False), **how).scale == unit
        assert choose_scale(x, Grid(1), **how).scale == 9 * unit
        assert choose_scale(x, Grid(4, signed=False), **how).scale == pytest.approx(unit / 5)
    assert choose_scale([-9.0], Grid(2, signed=False), **how).scale == 1


def test_roots_of_two_decide_what_the_nearest_power_is():
    for factor, power in ((1.41421356, 1.0), (1.41421357, 2.0)):
        how = {"rule": "max-abs-full", "po2": "round"}
        assert choose_scale([8 * factor], Grid(4), **how).scale == power
        assert choose_scale([8 * factor * 2.0**-40], Grid(4), **how).scale == power * 2.0**-40


def test_arrays_are_left_as_they_were():
    x = np.array([[3.0, -1.0, 0.5], [0.0, 8.0, -2.5]])
    before = x.copy()
    for rule, axis in product([*RULES, *AFFINE_RULES], (None, 0, 1)):
        choose_scale(x, Grid(4), rule=rule, axis=axis)
        project(x, Grid(4), rule=rule, axis=axis)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("rule", [*RULES, *AFFINE_RULES])
def test_without_anything_to_round_the_scale_is_one_and_the_zero_point_zero(rule):
    for x in ([0.0], [0.0, -0.0]):
        found = choose_scale(x, Grid(4), rule=rule)
        assert (found.scale, found.zero_point) == (1, 0)
        both = choose_scale([x, x], Grid(4), rule=rule, axis=0)
        assert both.scale.tolist() == [[1.0], [1.0]] and not np.any(both.zero_point)
    nothing = choose_scale([-5.0, -1.0], Grid(4, signed=False))
    assert (nothing.scale, nothing.zero_point) == (1, 0)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (
            Grid(4, signed=False),
            {"rule": "max-abs"},
            r"^rule: 'max-abs' needs a signed uniform grid",
        ),
        (
            Grid(4, kind="log2"),
            {"rule": "mse-200"},
            r"^rule: 'mse-200' needs a signed uniform grid",
        ),
        (
            Grid(4, mid_rise=True),
            {"rule": "min-max"},
            r"^rule: 'min-max' needs a uniform grid with",
        ),
        (
            Grid(1, kind="binary"),
            {"rule": "mse-exact-affine"},
            r"^rule: 'mse-exact-affine' needs a uniform grid with",
        ),
        (
            Grid(9),
            {"rule": "mse-exact-affine"},
            r"^rule: 'mse-exact-affine' tries all zero points, at most 8 bits; got 9",
        ),
        (Grid(4), {"po2": "up"}, r"^po2: expected one of"),
        (
            Grid(4),
            {"po2": "mse", "rule": "max-abs"},
            r"^po2: 'mse' does not go with rule 'max-abs'",
        ),
        (
            Grid(4),
            {"po2": "mse", "rule": "min-max"},
            r"^po2: 'mse' does not go with rule 'min-max'",
        ),
        (Grid(4), {"po2": "ceil", "rule": "mse-exact-affine"}, r"^po2: 'ceil' does not go with"),
    ],
)
def test_rules_that_do_not_fit_the_grid_are_refused(grid, options, message):
    with pytest.raises(ValueError, match=message):
        choose_scale([1.0, 2.0], grid, **options)


def test_bad_rules_and_axes_are_refused():
    x = np.ones((2, 3))
    for rule in ("mse", "MSE-EXACT", ""):
        with pytest.raises(ValueError, match=r"^rule: expected one of"):
            choose_scale(x, Grid(4), rule=rule)
    with pytest.raises(TypeError, match=r"^rule: expected one of"):
        choose_scale(x, Grid(4), rule=None)
    for axis in (2, -1):
        with pytest.raises(ValueError, match=r"^axis: expected 0 to 1"):
            choose_scale(x, Grid(4), axis=axis)
    for axis in (0.0, True, "rows"):
        with pytest.raises(TypeError, match=r"^axis: expected an integer"):
            project(x, Grid(4), axis=axis)
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"^x: expected 2 axes when axis is given"):
            choose_scale(np.ones(shape), Grid(4), axis=0)
    with pytest.raises(ValueError, match=r"^rule: 'max-abs-narrow' divides by 0 at 1 bit"):
        choose_scale(x, Grid(1), rule="max-abs-narrow")
    for options in ({"axis": 0}, {"rule": "max-abs"}, {"po2": "ceil"}):
        with pytest.raises(ValueError, match=r"^scale: expected None together with axis or rule"):
            project(x, Grid(4), scale=1.0, **options)


@law("choose_scale.one-sided")
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(1, 5),
    st.lists(st.sampled_from([0.0, 0.1, 3.0, 1e9, 1e300]), min_size=1, max_size=5),
    st.data(),
)
def test_numbers_on_a_side_without_levels_do_not_matter(x, bits, far, data):
    for grid, sign in ((Grid(bits, signed=False), 1), (Grid(1), -1)):
        alone = choose_scale(sign * np.array(x), grid).scale
        mixed = data.draw(st.permutations([*(sign * np.array(x)), *(-sign * np.array(far))]))
        assert choose_scale(mixed, grid).scale == alone
        assert choose_scale(-sign * np.array(far), grid).scale == 1  # nothing that helps


@law("choose_scale.trials")
@settings(max_examples=30)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4))
def test_of_trials_that_are_all_equal_the_first_wins(x):
    # Positive numbers on the levels -1 and 0: all trials give zeros.
    scale = float(choose_scale(x, Grid(1), rule="mse-200").scale)
    assert scale == pytest.approx(0.2 * 2 * max(x), rel=1e-14)


@law("choose_scale.powers")
@given(lists(5), any_grids(3) | st.just(Grid(4)))
def test_larger_powers_of_two_are_worse_than_the_best_one(x, grid):
    scale = Fraction(float(choose_scale(x, grid, po2="mse").scale))
    best = gain(x, grid, scale)
    assume(x.any() and best > 0)  # else no scale helps
    assert all(gain(x, grid, scale * 2**power) < best for power in range(1, 12))
    assert all(gain(x, grid, scale / 2**power) <= best for power in range(1, 12))


@law("project.on-grid", "project.idempotent")
@given(shapes(2, 2).flatmap(some), any_grids(), st.sampled_from([None, 0, 1]), st.data())
def test_projections_on_all_grids_are_levels_and_stay(x, grid, axis, data):
    rule = data.draw(st.sampled_from([*rules(grid), *range_rules(grid)]))
    chosen = choose_scale(x, grid, axis=axis, rule=rule)
    projected = project(x, grid, axis=axis, rule=rule)
    scale, zero = np.broadcast_arrays(chosen.scale, chosen.zero_point)
    scale, zero = (np.broadcast_to(a, x.shape) for a in (scale, zero))
    for value, s, z in zip(projected.flat, scale.flat, zero.flat, strict=True):
        # The zero point of a mid-rise grid is its half step, which the levels have already.
        known = grid.levels - (0 if grid.mid_rise else z)
        assert value in s * known
    assert np.array_equal(project(projected, grid, scale=chosen), projected)


@law("project.finite")
@given(st.integers(1, 4).flatmap(lambda n: wild((n,), 1020)), any_grids(), st.data())
def test_projections_are_finite_or_refused(x, grid, data):
    rule = data.draw(st.sampled_from([*rules(grid), *affine_rules(grid)]))
    projected, message = refused(lambda: project(x, grid, rule=rule))
    if message:
        assert abs(x).max() > 1e300, message
    else:
        assert np.isfinite(projected).all() and projected.shape == x.shape


# --- planted faults -------------------------------------------------------------------------------


def local_scale(x, grid, *, rule="mse-exact", axis=None):
    """Alternates rounding and refitting from the max-abs scale, which stops at a local minimum."""
    chosen = right.choose_scale(x, grid, rule="max-abs-two-sided", axis=axis)
    scale = float(chosen.scale)
    for _ in range(100):
        v = dequantize(quantize(x, grid, scale), 1.0, grid=grid)
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


def confused_rules(x, grid, *, rule):
    """Takes the steps of the full grid for those of the narrow one."""
    wrong = "max-abs-full" if rule == "max-abs-narrow" else rule
    return right.choose_scale(x, grid, rule=wrong)


def last_trial(x, grid, *, rule):
    """Tries fewer scales than the authors."""
    chosen = right.choose_scale(x, grid, rule=rule)
    beyond = rule == "mse-200" and chosen.scale > right.choose_scale(x, grid, rule="max-abs").scale
    return right.choose_scale(x, grid, rule="max-abs") if beyond else chosen


def swapped_axes(x, grid, *, rule="mse-exact", axis=None):
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis if axis is None else 1 - axis)
    return chosen._replace(scale=chosen.scale.T)


def unclipped_project(x, grid, *, axis=None, scale=None, rule="mse-exact", po2=None):
    """Takes the least scale without clipping for the best one."""
    return right.project(x, grid, rule="max-abs-two-sided")


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


EXACT = test_exact_scale_has_the_gain_of_brute_force_on_fractions
RANGE = test_scale_and_zero_point_of_the_range_are_those_of_plain_loops


def two_sided_scale(x, grid, *, rule="mse-exact", axis=None, po2=None):
    """Lets numbers on a side without levels take part."""
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis, po2=po2)
    low, high = grid.levels[0], grid.levels[-1]
    return chosen._replace(scale=np.abs(x).max() / 9) if low == 0 or high == 0 else chosen


def half_power(x, grid, *, rule="mse-exact", axis=None, po2=None):
    """Of equal powers takes the smaller one."""
    chosen = right.choose_scale(x, grid, rule=rule, axis=axis, po2=po2)
    same = po2 and gain(x, grid, chosen.scale / 2) == gain(x, grid, chosen.scale)
    return chosen._replace(scale=chosen.scale / 2) if same else chosen


def overflowing_project(x, grid, **options):
    """Lets what is out of range become infinite."""
    chosen = choose_scale(x, grid, rule=options.get("rule", "mse-exact"))
    codes = quantize(x, grid, chosen.scale, 0 if grid.mid_rise else chosen.zero_point)
    with np.errstate(over="ignore"):
        return chosen.scale * (codes - np.asarray(chosen.zero_point, float))


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_numbers_on_a_side_without_levels_do_not_matter, {"choose_scale": two_sided_scale}),
        (test_larger_powers_of_two_are_worse_than_the_best_one, {"choose_scale": half_power}),
        (test_projections_are_finite_or_refused, {"project": overflowing_project}),
        (EXACT, {"choose_scale": local_scale}),
        (test_each_rule_chooses_what_plain_loops_choose, {"choose_scale": confused_rules}),
        (test_each_rule_chooses_what_plain_loops_choose, {"choose_scale": last_trial}),
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
