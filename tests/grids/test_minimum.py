"""The search of grids.minimum against brute force on fractions; planted faults at the end."""

import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from grid_draws import ALL_GRIDS, any_grids, energy, gain, levels, lists, some, spec
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import caught, exact, wild

from qcp_ref import Grid, _kernels, loops
from qcp_ref.grids import minimum as right
from qcp_ref.grids.minimum import (
    Exact,
    _cells,
    gain_bound,
    moments_of,
    near_best,
    near_best_of,
    tails,
)

THIS = sys.modules[__name__]
SPAN = 2.0**-1074, np.finfo(float).max
UNIT = Fraction(1, 2**53)

# --- brute force ----------------------------------------------------------------------------------


@st.composite
def grids_with_zeros(draw, max_bits=4):
    """Any grid, and a zero point that it may have."""
    grid = draw(any_grids(max_bits))
    free = grid.kind == "uniform" and not grid.mid_rise
    return grid, draw(st.integers(grid.qmin, grid.qmax)) if free else 0


def tables_of(grid, zero=0):
    """The magnitudes of the levels of both sides of zero."""
    steps = [float(level) - zero for level in levels(grid)]
    return [np.array(sorted(abs(v) for v in steps if sign * v >= 0)) for sign in (-1, 1)]


def sides_of(x, grid):
    """The magnitudes of both sides of zero with their sums; zeros, where a zero costs, above it."""
    above = x >= 0 if grid.mid_rise or grid.kind == "binary" else x > 0
    parts = [np.sort(-x[x < 0]), np.sort(x[above] + 0.0)]
    return tuple((part, tails(part)) for part in parts)


def nearest(value, table, s):
    return min(table, key=lambda v: abs(value - s * v))


def moments(x, grid, s, zero=0):
    """S1 and S2, from the nearest levels of numbers whose side has any but zero."""
    table, s = [v - zero for v in levels(grid)], Fraction(s)
    v = [nearest(value, table, s) for value in exact(x)]
    S1 = sum((a * b for a, b in zip(exact(x), v, strict=True)), Fraction(0))
    return S1, sum((b * b for b in v), Fraction(0))


def squared_error(x, grid, s, zero=0):
    return energy(x) - gain(x, grid, Fraction(s), zero)


def breakpoints(x, grid, zero=0):
    table = sorted(v - zero for v in levels(grid))
    middles = [(a + b) / 2 for a, b in pairwise(table)]
    return sorted({v / t for v in exact(x) for t in middles if v * t > 0})


def best_up_to(x, grid, limit, zero=0):
    """The largest gain of all scales up to a limit: the best of each cell, and of its ends."""
    ends = [e for e in breakpoints(x, grid, zero) if e < limit]
    best = max(gain(x, grid, s, zero) for s in [*ends, limit])
    for left, end in pairwise([Fraction(0), *ends, limit]):
        S1, S2 = moments(x, grid, (left + end) / 2, zero)
        if S2 and left < S1 / S2 < end:
            best = max(best, S1 * S1 / S2)
    return best


def apart(size=6):
    """Numbers whose magnitudes lie up to 100 orders of magnitude from each other."""
    return st.integers(1, size).flatmap(lambda n: wild((n,), 300))


DATA = lists(6) | apart()
STEPS = st.integers(1, 40).map(lambda k: k / 8) | st.floats(0.05, 5)  # the former hit ties


# --- sums -----------------------------------------------------------------------------------------


@given(st.integers(1, 40).flatmap(some) | apart(20))
def test_sums_from_the_outside_are_good_to_two_roundings(x):
    m = np.sort(abs(np.append(x, [1e16, 1.0])))
    sums, truth = tails(m), [sum(exact(m[i:]), Fraction(0)) for i in range(m.size + 1)]
    for rounded, lost, true in zip(*exact(sums), truth, strict=True):
        assert abs(rounded - true) <= m.size * UNIT * true
        assert abs(rounded + lost - true) <= m.size**2 * UNIT**2 * true
    assert np.array_equal(_kernels.tails(m), sums)


@given(DATA, grids_with_zeros(), STEPS)
def test_gains_of_moments_are_those_of_the_nearest_levels(x, drawn, step):
    # At a tie two codes are right: S1 and S2 may differ, the gain may not.
    grid, zero = drawn
    s = step * (abs(x).max() or 1.0) / 2 ** (grid.bits - 1)
    sides, tables = sides_of(x, grid), tables_of(grid, zero)
    (S1,), (S2,) = (exact(part) for part in moments_of(sides, tables, np.array([s])))
    scale = Fraction(s)
    first, second = moments(x, grid, s, zero)
    size = scale * (2 * first + scale * second)
    found = scale * (2 * S1 - scale * S2)
    assert abs(found - scale * (2 * first - scale * second)) <= 60 * UNIT * size
    if all(abs(scale / end - 1) > 1e-12 for end in breakpoints(x, grid, zero)):
        assert second == S2
        assert abs(S1 - first) <= 20 * UNIT * first


@given(DATA, any_grids(), st.lists(STEPS, min_size=1, max_size=5))
def test_several_scales_at_once_are_as_good_as_one_by_one(x, grid, steps):
    sides, tables, scales = sides_of(x, grid), tables_of(grid), np.array(steps)
    together = moments_of(sides, tables, scales)
    alone = [moments_of(sides, tables, scales[i : i + 1]) for i in range(scales.size)]
    assert np.allclose(together, np.concatenate(alone, axis=1), rtol=1e-14, atol=0)


@given(lists(5), st.integers(0, 300))
def test_numbers_on_a_side_without_levels_do_not_count(x, power):
    grid = Grid(3, signed=False)
    far = np.append(x, -(2.0**power))
    found = [moments_of(sides_of(y, grid), tables_of(grid), np.array([0.7])) for y in (x, far)]
    assert np.array_equal(*found)


# --- the bound ------------------------------------------------------------------------------------


@given(DATA, grids_with_zeros(), STEPS, STEPS, st.lists(st.floats(0, 1), max_size=6))
def test_the_bound_covers_every_gain_between_two_scales(x, drawn, one, other, inside):
    grid, zero = drawn
    assume(one != other and x.any())
    a, b = (s * abs(x).max() / 2 ** (grid.bits - 1) for s in sorted((one, other)))
    sides, tables = sides_of(x, grid), tables_of(grid, zero)
    (a1, b1), (a2, b2) = moments_of(sides, tables, np.array([a, b]))
    bound = gain_bound(*(np.array([v]) for v in (a, a1, a2, b, b1, b2)))
    assert bound[0] == pytest.approx(_kernels.gain_bound(a, a1, a2, b, b1, b2), rel=1e-12)
    A, B = Fraction(a), Fraction(b)
    ends = [end for end in breakpoints(x, grid, zero) if A < end < B][:8]
    for s in [A, B, (A + B) / 2, *ends, *(A + Fraction(t) * (B - A) for t in inside)]:
        assert gain(x, grid, s, zero) <= Fraction(float(bound[0]))


@given(st.floats(0.1, 9), st.integers(1, 7), st.floats(0.51, 0.99), st.floats(1.01, 1.49))
def test_inside_a_cell_the_bound_is_the_largest_gain(value, code, low, high):
    # One number, one code: the gain is a parabola, and both ends know it.
    top = value / code
    a, b = top * (1 - (1 - low) / (2 * code)), top * (1 + (high - 1) / (2 * code))
    ends = [np.array([v]) for v in (a, value * code, code**2, b, value * code, code**2)]
    assert gain_bound(*ends)[0] == pytest.approx(value**2, rel=1e-12)
    right_of_it = [
        np.array([v]) for v in (b, value * code, code**2, b * 1.1, value * code, code**2)
    ]
    expected = b * (2 * value * code - b * code**2)
    assert gain_bound(*right_of_it)[0] == pytest.approx(expected, rel=1e-12)


# --- exact errors ---------------------------------------------------------------------------------


@given(DATA, grids_with_zeros(), STEPS, st.integers(-60, 60))
def test_errors_in_whole_numbers_are_those_of_fractions(x, drawn, s, power):
    grid, zero = drawn
    s *= 2.0**power
    assert Exact(x, grid).error(s, zero) == squared_error(x, grid, s, zero)


@pytest.mark.parametrize("grid", [g for g in ALL_GRIDS if g.bits <= 8], ids=str)
@pytest.mark.parametrize("s", [5e-324, 1e-310, 1e-160, 3.3, 1e300, np.finfo(float).max])
def test_errors_in_whole_numbers_have_no_range(grid, s):
    x = np.array([1.7e308, -1.7e308, 5e-324, -3e-310, 0.0, 1.0])
    assert Exact(x, grid).error(s, 0) == squared_error(x, grid, s)


@given(DATA, grids_with_zeros(), STEPS, STEPS)
def test_refits_are_the_best_scales_of_the_nearest_levels(x, drawn, one, other):
    grid, zero = drawn
    found, truth = [], []
    for s in (one, other):
        assume(all(Fraction(s) != end for end in breakpoints(x, grid, zero)))
        S1, S2 = moments(x, grid, s, zero)
        found.append(Exact(x, grid).refit(s, zero))
        truth.append((S1 * S1 / S2, S1 / S2) if S1 > 0 else (Fraction(0), Fraction(0)))
    assert [scale for _, scale in found] == [scale for _, scale in truth]
    # The gains are those of the levels, but for one factor that all of them share.
    assert found[0][0] * truth[1][0] == found[1][0] * truth[0][0]
    assert [gain > 0 for gain, _ in found] == [gain > 0 for gain, _ in truth]


def test_equal_numbers_are_counted():
    x = np.repeat([0.5, -3.0, 7.25], [4000, 1, 300])
    assert Exact(x, Grid(4)).x.size == 3
    assert Exact(x, Grid(4)).error(1.0, 0) == 4000 * Fraction(1, 4) + 300 * Fraction(1, 16)


# --- the search -----------------------------------------------------------------------------------


@given(lists(6), any_grids(3) | st.just(Grid(4)))
def test_the_best_scale_is_among_those_found(x, grid):
    truth = loops.choose_scale(exact(x), spec(grid))
    found = near_best_of(sides_of(x, grid), tables_of(grid), SPAN, 0.0)
    if gain(x, grid, truth) > 0:
        assert float(truth) in found
    assert found.size <= 3 * (1 + len(breakpoints(x, grid)))


@given(apart(5), grids_with_zeros(3))
def test_none_is_better_however_far_apart_the_numbers_are(x, drawn):
    grid, zero = drawn
    x = x / (2.0 ** np.frexp(abs(x).max())[1] if x.any() else 1.0)
    found = near_best_of(sides_of(x, grid), tables_of(grid, zero), SPAN, 0.0)
    best = best_up_to(x, grid, Fraction(2) ** 400, zero)
    reached = max((gain(x, grid, s, zero) for s in found), default=Fraction(0))
    assert reached >= best - UNIT**2 * energy(x)


@given(lists(5), grids_with_zeros(3), st.floats(0.01, 3))
def test_no_scale_up_to_a_limit_beats_the_best_one_found(x, drawn, limit):
    grid, zero = drawn
    limit *= (abs(x).max() or 1.0) / 2 ** (grid.bits - 1)
    found = near_best_of(sides_of(x, grid), tables_of(grid, zero), (SPAN[0], limit), 0.0)
    assert (found <= limit).all()
    best = best_up_to(x, grid, Fraction(limit), zero)
    reached = max((gain(x, grid, s, zero) for s in found), default=Fraction(0))
    # Where the limit is no refit its gain is the float's; the neighbours of it are as good.
    assert reached >= best - UNIT * energy(x)


@given(lists(5), any_grids(3))
def test_a_floor_above_the_best_gain_leaves_none_and_one_below_it_all(x, grid):
    sides, tables = sides_of(x, grid), tables_of(grid)
    truth = gain(x, grid, loops.choose_scale(exact(x), spec(grid)))
    assume(truth > 0)
    assert near_best_of(sides, tables, SPAN, float(truth) * (1 + 1e-9)).size == 0
    below = near_best_of(sides, tables, SPAN, float(truth) * (1 - 1e-9))
    assert np.array_equal(below, near_best_of(sides, tables, SPAN, 0.0))


@pytest.mark.slow
@settings(max_examples=5)  # seconds each
@given(st.integers(13, 16), st.data(), st.sampled_from([1.0, 3.0, 0.1, 1e-5]))
def test_codes_of_many_bits_are_found_again(bits, data, s):
    # The other scales of these codes err by 1e-10 of the numbers: float64 sees no difference.
    grid = Grid(bits)
    close = st.integers(grid.qmax - 300, grid.qmax)
    codes = np.array([*data.draw(st.lists(close, min_size=1, max_size=3)), grid.qmax])
    codes[0] = grid.qmax - 1
    x = codes * 1.0
    found = near_best_of(sides_of(x, grid), tables_of(grid), SPAN, 0.0)
    assert gain(x, grid, 1.0) == energy(x) and 1.0 in found
    scaled = codes * s  # rounded: the codes of the best scale need not be these, its error is least
    scales = near_best_of(sides_of(scaled, grid), tables_of(grid), SPAN, 0.0)
    least = min(Exact(scaled, grid).error(float(t), 0) for t in scales)
    assert least <= Exact(scaled, grid).error(s, 0)


@given(lists(20), any_grids().filter(lambda grid: grid.kind == "uniform"))
def test_the_kernel_and_both_readable_forms_find_the_same_best_scale(x, grid):
    sides, tables = sides_of(x, grid), tables_of(grid)
    steps = (tables[0].size - 1.0, tables[1].size - 1.0)
    options = (*sides, steps, grid.offset, SPAN, 0.0)
    forms = (
        near_best_of(sides, tables, SPAN, 0.0),
        near_best(*options),
        _kernels.near_best(*options),
    )
    best = {max((Exact(x, grid).refit(s, 0) for s in found), default=(0, 0)) for found in forms}
    assert len(best) == 1


def test_scales_whose_codes_have_a_common_divisor_are_left_out():
    # 6 and 3 are 2 and 1, or 4 and 2, or 6 and 3: the largest scale stands for all of them.
    for numbers, grid, scale in (
        ([6.0, 3.0], Grid(4), 3.0),
        ([-6.0, 2.0], Grid(4), 2.0),
        ([6.0], Grid(4, mid_rise=True), 12.0),
        ([4.0, 2.0], Grid(3, kind="log2"), 8.0),
        ([4.0, 1e-9], Grid(3, kind="log2"), 16.0),
        ([5.0, 1e-9], Grid(5, signed=False), 5.0),
    ):
        sides, tables = sides_of(np.array(numbers), grid), tables_of(grid)
        assert near_best_of(sides, tables, SPAN, 0.0).tolist() == [scale]


def test_scales_that_are_surely_worse_are_left_out():
    rng = np.random.default_rng(71)
    grid = Grid(12)
    x = rng.integers(grid.qmax - 300, grid.qmax, 20) + rng.uniform(0, 1, 20)
    found = near_best_of(sides_of(x, grid), tables_of(grid), SPAN, 0.0)
    # Of one refit all that rounding leaves open, and no other.
    assert 0 < found.size <= 3 and np.ptp(found) <= 4e-16 * found[0]
    # 3 and 4 are their own codes at 1, with a gain of 25; 2 and 3 at 1.4 have 24.9.
    levels, numbers = np.arange(5.0), np.array([3.0, 4.0])
    found = right._sharpest(
        ((np.zeros(0), np.zeros((2, 1))), (numbers, tails(numbers))),
        [levels[:1], levels],
        SPAN,
        np.array([1.0, 1.4]),
    )
    assert found.tolist() == [1.0]


def test_up_to_a_limit_codes_with_a_common_divisor_count():
    sides, tables = sides_of(np.array([6.0, 3.0]), Grid(4)), tables_of(Grid(4))
    for limit, scale in ((3.0, 3.0), (2.9, 1.5), (1.4, 1.0), (0.9, 54 / 65)):
        assert scale in near_best_of(sides, tables, (SPAN[0], limit), 0.0)


@given(DATA, any_grids(), st.lists(STEPS, min_size=3, max_size=9), st.integers(1, 20))
def test_blocks_of_any_size_give_the_same(x, grid, steps, block):
    sides, tables, scales = sides_of(x, grid), tables_of(grid), np.array(steps)
    whole = [*moments_of(sides, tables, scales), *_cells(sides, tables, scales)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(right, "_BLOCK", block)
        parts = [*moments_of(sides, tables, scales), *_cells(sides, tables, scales)]
    assert all(np.allclose(a, b, rtol=1e-14, atol=0) for a, b in zip(whole, parts, strict=True))


@given(DATA, grids_with_zeros(), STEPS)
def test_a_cell_reaches_to_where_the_next_code_changes(x, drawn, step):
    grid, zero = drawn
    s = step * (abs(x).max() or 1.0) / 2 ** (grid.bits - 1)
    ends = breakpoints(x, grid, zero)
    assume(all(abs(Fraction(s) / end - 1) > 1e-9 for end in ends))
    sides, tables = sides_of(x, grid), tables_of(grid, zero)
    S1, S2, left, inner = _cells(sides, tables, np.array([s]))
    below, above = [e for e in ends if e < s], [e for e in ends if e > s]
    assert left[0] == pytest.approx(float(max(below, default=0)), rel=1e-12)
    assert inner[0] == (pytest.approx(float(min(above)), rel=1e-12) if above else np.inf)
    first, second = moments(x, grid, s, zero)
    assert Fraction(float(S2[0])) == second
    assert abs(Fraction(float(S1[0])) - first) <= 20 * UNIT * first


@given(DATA, grids_with_zeros(3))
def test_beyond_the_outset_all_codes_are_innermost(x, drawn):
    grid, zero = drawn
    sides, tables = sides_of(x, grid), tables_of(grid, zero)
    a, a1, _, b, b1, b2 = (part[0] for part in right._outset(sides, tables, SPAN[1]))
    assert a == 0 and all(end <= b for end in breakpoints(x, grid, zero))
    # At 0 all levels are outermost: no gain at a scale near 0 rises faster.
    outer = sum(
        (Fraction(float(levels[-1])) * sum(exact(m), Fraction(0)) for (m, _), levels in
         zip(sides, tables, strict=True)), Fraction(0)
    )  # fmt: skip
    assert abs(Fraction(float(a1)) - outer) <= 20 * UNIT * outer
    if b:
        first, second = moments(x, grid, b, zero)
        assert abs(Fraction(float(b1)) - first) <= 20 * UNIT * first
        assert Fraction(float(b2)) == second
    small = right._outset(sides, tables, b / 2)
    assert small[3][0] == b / 2


def test_what_is_left_of_a_gain_when_its_scale_is_rounded():
    S1, S2 = np.array([6.0, 6.0, 0.0, 8.0]), np.array([4.0, 0.0, 4.0, 2.0])
    gain, kept = right._value(S1, S2, (2.0, 3.0))
    # 6 / 4 is within the limit; 8 / 2 is not, and 3 gains 3 (16 - 6). Half a step costs S2.
    assert gain.tolist() == [9.0, 0.0, 0.0, 30.0] and kept.tolist() == [5.0, 0.0, -4.0, 28.0]


# --- planted faults -------------------------------------------------------------------------------


def sums_from_the_inside(m):
    """Takes differences of prefix sums, which cancel."""
    total = np.append(0.0, np.cumsum(m))
    return np.array([total[-1] - total, 0 * total])


def without_what_was_lost(m):
    sums = right.tails(m)
    sums[1] = 0.0
    return sums


def both_sides_alike(sides, tables, scales):
    """Gives the negative side the levels of the positive one."""
    return right.moments_of(sides, [tables[1], tables[1]], scales)


def without_innermost(sides, tables, scales):
    """Lets each side start at zero."""
    return right.moments_of(sides, [table - table[0] for table in tables], scales)


def all_numbers_count(sides, tables, scales):
    """Adds numbers that have no level."""
    S1, S2 = right.moments_of(sides, tables, scales)
    none = [m.sum() for (m, _), table in zip(sides, tables, strict=True) if table[-1] == 0]
    return S1 - sum(none), S2


def bound_at_ends(a, a1, a2, b, b1, b2):
    """Takes the larger of the two ends."""
    return np.maximum(a * (2 * a1 - a * a2), b * (2 * b1 - b * b2))


def bound_without_jumps(a, a1, a2, b, b1, b2):
    """Forgets that the slope rises wherever a code changes."""
    return right.gain_bound(a, a1, a2, b, a1, b2)


class Floating(Exact):
    """Takes the nearest level by a quotient that is rounded."""

    def error(self, s, zero):
        near = np.rint(self.x / s)
        near = np.clip(near + zero, self.levels[0], self.levels[-1]) - zero
        return Fraction(float((self.counts * (self.x - s * near) ** 2).sum()))


class Uncounted(Exact):
    """Takes equal numbers once."""

    def __init__(self, x, grid):
        super().__init__(x, grid)
        self.counts = self.counts * 0 + 1


class Shrunk(Exact):
    """Refits to the mean ratio of numbers and levels."""

    def refit(self, s, zero):
        value, scale = super().refit(s, zero)
        return value, scale * Fraction(99, 100)


def refitting(sides, tables, span, floor):
    """Alternates rounding and refitting, which stops at a local minimum."""
    ends = [m[-1] / t[-1] for (m, _), t in zip(sides, tables, strict=True) if m.size and t[-1] > 0]
    s = max([*ends, 1e-3])
    for _ in range(60):
        S1, S2 = right.moments_of(sides, tables, np.array([s]))
        s = float(S1[0] / S2[0]) if S1[0] > 0 else s
    return np.array([min(s, span[1])])


def best_in_float64(sides, tables, span, floor):
    """Takes the first scale whose gain looks best in float64."""
    s = right.near_best_of(sides, tables, span, floor)
    coarse = np.concatenate([s[:1] * (1 - 2.0**-15), s])
    S1, S2 = right.moments_of(sides, tables, coarse)
    gains = coarse * (2 * S1 - coarse * S2)
    return coarse[gains >= gains.max() * (1 - 1e-9)][:1]


def without_limit(sides, tables, span, floor):
    return right.near_best_of(sides, tables, SPAN, floor)


def without_floor(sides, tables, span, floor):
    return right.near_best_of(sides, tables, span, 0.0)


AMONG = test_the_best_scale_is_among_those_found
COVERS = test_the_bound_covers_every_gain_between_two_scales
GAINS = test_gains_of_moments_are_those_of_the_nearest_levels


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_sums_from_the_outside_are_good_to_two_roundings, {"tails": sums_from_the_inside}),
        (test_sums_from_the_outside_are_good_to_two_roundings, {"tails": without_what_was_lost}),
        (GAINS, {"moments_of": both_sides_alike}),
        (GAINS, {"moments_of": without_innermost}),
        (test_numbers_on_a_side_without_levels_do_not_count, {"moments_of": all_numbers_count}),
        (COVERS, {"gain_bound": bound_at_ends}),
        (COVERS, {"gain_bound": bound_without_jumps}),
        (test_inside_a_cell_the_bound_is_the_largest_gain, {"gain_bound": bound_at_ends}),
        (test_errors_in_whole_numbers_are_those_of_fractions, {"Exact": Floating}),
        (test_equal_numbers_are_counted, {"Exact": Uncounted}),
        (test_refits_are_the_best_scales_of_the_nearest_levels, {"Exact": Shrunk}),
        (AMONG, {"near_best_of": refitting}),
        (
            test_none_is_better_however_far_apart_the_numbers_are,
            {"near_best_of": refitting},
        ),
        (test_codes_of_many_bits_are_found_again, {"near_best_of": best_in_float64}),
        (test_no_scale_up_to_a_limit_beats_the_best_one_found, {"near_best_of": without_limit}),
        (
            test_a_floor_above_the_best_gain_leaves_none_and_one_below_it_all,
            {"near_best_of": without_floor},
        ),
        (
            test_the_kernel_and_both_readable_forms_find_the_same_best_scale,
            {"near_best": lambda *options: np.array([1.0])},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
