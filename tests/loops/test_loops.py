"""The loops themselves: hand-computed numbers, exact arithmetic in, exact arithmetic out.

Everything else about them is in the chapters' tests, where each loop is compared with its
vectorised twin.
"""

import ast
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcp_ref import loops


def test_nested_lists_as_tensors():
    X = loops.build((2, 1, 3), lambda i, j, k: 100 * i + 10 * j + k)
    assert X == [[[0, 1, 2]], [[100, 101, 102]]]
    assert loops.shape_of(X) == (2, 1, 3)
    assert loops.at(X, (1, 0, 2)) == 102
    assert list(loops.indices((1, 2))) == [(0, 0), (0, 1)]


def test_hand_computed_products():
    A, B = [[1, 2], [3, 4]], [[5, 6]]
    assert loops.khatri_rao([A, B]) == [[5, 12], [15, 24]]
    assert loops.gram([A, B]) == [[10 * 25, 14 * 30], [14 * 30, 20 * 36]]
    assert loops.gram([A, B], 0) == [[25, 30], [30, 36]]
    assert loops.reconstruct([A, B]) == [[17], [39]]
    assert loops.reconstruct([A, B], [1, 0]) == [[5], [15]]
    assert loops.mttkrp([[1], [2]], [A, B], 0) == [[5, 6], [10, 12]]
    assert loops.mttkrp([[1], [2]], [A, B], 1) == [[7, 10]]
    assert loops.squared_error([[17], [40]], [A, B]) == 1
    assert loops.matmul(A, A) == [[7, 10], [15, 22]]


@given(st.lists(st.integers(-5, 5), min_size=9, max_size=9), st.integers(1, 3))
def test_elimination_solves_exactly(entries, rows):
    K = [[Fraction(entries[3 * i + j]) + (7 if i == j else 0) for j in range(3)] for i in range(3)]
    G = [[sum(K[k][i] * K[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    G = [[G[i][j] + (1 if i == j else 0) for j in range(3)] for i in range(3)]
    F = [[Fraction(r + c, 3) for c in range(3)] for r in range(rows)]
    assert loops.matmul(loops.solve(G, F), G) == F


def test_fractions_stay_fractions():
    third = Fraction(1, 3)
    H, T, U = loops.admm([[third]], [[Fraction(1)]], lambda V: V, [[third]], [[third]], 1)
    assert [[Fraction(1, 2)]] == T  # (1/3 + 1 (1/3 + 1/3)) / (1 + 1)
    assert [[Fraction(1, 6)]] == H  # T - U
    assert U == [[0]]  # U + H - T
    assert loops.ridge([[third]], [[Fraction(1)]], 2) == [[Fraction(1, 9)]]


HALF, QUARTER, THIRD = Fraction(1, 2), Fraction(1, 4), Fraction(1, 3)


# --- tensors, CP, ALS -----------------------------------------------------------------------------


def test_unfolding_and_folding_by_hand():
    X = loops.build((2, 2, 3), lambda i, j, k: 100 * i + 10 * j + k)
    unfolded = [
        [[0, 1, 2, 10, 11, 12], [100, 101, 102, 110, 111, 112]],
        [[0, 1, 2, 100, 101, 102], [10, 11, 12, 110, 111, 112]],
        [[0, 10, 100, 110], [1, 11, 101, 111], [2, 12, 102, 112]],
    ]
    for mode, M in enumerate(unfolded):
        assert loops.unfold(X, mode) == M
        assert loops.fold(M, mode, (2, 2, 3)) == X
    assert loops.shape_of(((1, 2), (3, 4), (5, 6))) == (3, 2)
    assert loops.flat(X) == [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]


def test_three_modes_by_hand():
    X, factors = [[[1, 2], [3, 4]]], [[[2]], [[1], [10]], [[1], [100]]]
    assert loops.mttkrp(X, factors, 0) == [[1 + 200 + 30 + 4000]]
    assert loops.mttkrp(X, factors, 1) == [[2 * 201], [2 * 403]]
    assert loops.mttkrp(X, factors, 2) == [[2 * 31], [2 * 42]]
    assert loops.khatri_rao(factors) == [[2], [200], [20], [2000]]
    assert loops.gram(factors) == [[4 * 101 * 10001]]
    assert loops.gram(factors, 1) == [[4 * 10001]]
    assert loops.reconstruct(factors, [3]) == [[[6, 600], [60, 6000]]]
    assert loops.squared_error([[5, 7]], [[[1]], [[3], [8]]]) == 2**2 + 1
    assert loops.sensitivity([[[1], [2]], [[3]]]) == 9 + 9 + (1 + 4)
    assert loops.sensitivity([[[1], [2]], [[3]]], [2]) == 4 * 23


def test_least_squares_by_hand():
    assert loops.solve([[0, 1], [1, 0]], [[2, 3], [4, 5]]) == [[3, 2], [5, 4]]  # it exchanges rows
    assert loops.solve([[0, -1], [-1, 0]], [[2, 3]]) == [[-3, -2]]
    X = [[Fraction(2), Fraction(4)], [Fraction(1), Fraction(2)]]
    first, second = loops.als_sweep(X, [[[0], [0]], [[1], [1]]])
    assert first == [[3], [3 * HALF]]  # (2 + 4) / 2, (1 + 2) / 2
    assert second == [[2 * THIRD], [4 * THIRD]]  # 7.5 / 11.25, 15 / 11.25


# --- grids ----------------------------------------------------------------------------------------


def test_grids_by_hand():
    ranges = {
        (3,): (-4, 3, 0),
        (3, True): (-3, 3, 0),
        (3, False, True): (-4, 3, HALF),
        (3, False, False, "log2"): (-3, 3, 0),
        (1, False, False, "binary"): (-1, 1, 0),
        (2, False, False, "ternary"): (-1, 1, 0),
        (3, False, False, "uniform", False): (0, 7, 0),
    }
    for options, expected in ranges.items():
        assert loops.code_range(*options) == expected
    assert loops.grid_levels({"bits": 2}) == {-2: -2, -1: -1, 0: 0, 1: 1}
    assert loops.grid_levels({"bits": 1, "mid_rise": True}) == {-1: -HALF, 0: HALF}
    assert loops.grid_levels({"bits": 1, "kind": "binary"}) == {-1: -1, 1: 1}
    powers = {-3: -1, -2: -HALF, -1: -QUARTER, 0: 0, 1: QUARTER, 2: HALF, 3: 1}
    assert loops.grid_levels({"bits": 3, "kind": "log2"}) == powers
    assert [loops.spread(5, (1, 2)), loops.spread([[1], [2]], (1, 3))] == [5, 2]
    assert [loops.spread([[1, 2]], (4, 1)), loops.spread([[1, 2], [3, 4]], (1, 0))] == [2, 3]


def test_float32_and_float64_by_hand():
    unit = Fraction(1, 2**24)
    for x, nearest in [
        (THIRD, Fraction(11184811, 2**25)),
        (-THIRD, -Fraction(11184811, 2**25)),
        (1 + unit, 1),  # ties go to the even last digit
        (1 + 3 * unit, 1 + 4 * unit),
        (1 - unit, 1 - unit),
        (Fraction(1, 2**149), Fraction(1, 2**149)),
        (Fraction(3, 2**150), Fraction(1, 2**148)),
        (Fraction(1, 2**150), 0),
        (0, 0),
        (2**24 + 1, 2**24),
        (-1 - unit, -1),
        (3 * QUARTER + unit / 2, 3 * QUARTER),
    ]:
        assert loops.float32(x) == nearest
    assert loops.float64(1) == [1]
    assert loops.float64(1 + Fraction(1, 2**53)) == [1, 1 + Fraction(1, 2**52)]
    assert loops.float64(THIRD) == [Fraction(1 / 3)]
    assert loops.float64(Fraction(1, 2**1080)) == [Fraction(1, 2**1074)]
    assert loops.float64(2**1030) == [2**1024 - 2**971]
    assert loops.one(7) == [7]
    assert loops.quotient(3, Fraction(2), "float64") == 3 * HALF
    assert loops.quotient(183, 122, "float32") == 3 * HALF > loops.quotient(183, 122, "reciprocal")
    assert loops.quotient(75, 30, "float32") == 5 * HALF < loops.quotient(75, 30, "reciprocal")
    assert loops.quotient(1, Fraction(3), "float64") == THIRD
    assert loops.quotient(1, 3, "float32") == loops.float32(THIRD)


@pytest.mark.parametrize(
    ("rounding", "ties", "quarters"),
    # Of -2.5, -1.5, ... 2.5, and of -1.25, -0.75, -0.25, 0.25, 0.75, 1.25.
    [
        ("half-even", [-2, -2, 0, 0, 2, 2], [-1, -1, 0, 0, 1, 1]),
        ("half-away", [-3, -2, -1, 1, 2, 3], [-1, -1, 0, 0, 1, 1]),
        ("half-up", [-2, -1, 0, 1, 2, 3], [-1, -1, 0, 0, 1, 1]),
        ("dpu", [-2, -1, 0, 0, 2, 2], [-1, -1, 0, 0, 1, 1]),
        ("floor", [-3, -2, -1, 0, 1, 2], [-2, -1, -1, 0, 0, 1]),
        ("ceil", [-2, -1, 0, 1, 2, 3], [-1, 0, 0, 1, 1, 2]),
        ("to-zero", [-2, -1, 0, 0, 1, 2], [-1, 0, 0, 0, 0, 1]),
    ],
)
def test_roundings_by_hand(rounding, ties, quarters):
    assert [loops.rounded(Fraction(n, 2), rounding) for n in range(-5, 6, 2)] == ties
    assert [loops.rounded(Fraction(n, 4), rounding) for n in (-5, -3, -1, 1, 3, 5)] == quarters
    assert [loops.rounded(n, rounding) for n in (-3, 0, 2)] == [-3, 0, 2]
    fifths = [loops.rounded(Fraction(n, 5), rounding) for n in (-3, -2, 2, 3)]
    assert fifths == {
        "floor": [-1, -1, 0, 0],
        "ceil": [0, 0, 1, 1],
        "to-zero": [0, 0, 0, 0],
    }.get(rounding, [-1, 0, 0, 1])


def test_drawn_roundings_and_places_by_hand():
    for t, draw, expected in [(9, 0, 3), (9, 1, 2), (8, 0, 2), (-9, 2, -2), (-9, 3, -3)]:
        assert loops.rounded(Fraction(t, 4), "stochastic", Fraction(draw, 4)) == expected
    assert loops.rounded(5 * HALF) == 2
    assert loops.place(3 * HALF, {"bits": 3}) == 3 * HALF
    assert loops.place(3 * HALF, {"bits": 3, "mid_rise": True}) == 1
    grid = {"bits": 3, "kind": "log2"}
    for t, place in [(3, 3 * HALF), (-3, -3 * HALF), (4, 2), (1, HALF), (8, 3), (0, 0), (-8, -3)]:
        assert loops.place(Fraction(t, 8), grid) == place
    assert [loops.place(5, grid), loops.place(-5, grid)] == [3, -3]


def test_codes_by_hand():
    grid = {"bits": 3}
    x = [[3, 20], [3, -20]]
    assert loops.quantize(x, grid, [[1], [Fraction(2)]], [[0, 1]]) == [[3, 3], [2, -4]]
    assert loops.quantize([0, -1, 2], {"bits": 1, "kind": "binary"}, 1) == [1, -1, 1]
    assert loops.quantize([HALF], grid, Fraction(1)) == [0]
    assert loops.quantize([HALF], grid, Fraction(1), rounding="half-up") == [1]
    drawn = {"rounding": "stochastic", "draws": [QUARTER, 3 * QUARTER]}
    assert loops.quantize([HALF, HALF], grid, Fraction(1), 1, **drawn) == [2, 1]
    assert loops.quantize([75], grid, 30, division="reciprocal") == [3]
    assert loops.dequantize([[2, 3]], [[HALF, 2]], 1) == [[HALF, 4]]
    levels = loops.dequantize([-3, 0, 1], 8, grid={"bits": 3, "kind": "log2"})
    assert levels == [-8, 0, 2]
    assert loops.grid_moments([1, 2, -3], grid, Fraction(2)) == (2 + 6, 1 + 4)
    assert loops.gain([1, 2, -3], grid, Fraction(2)) == 14 - (1 + 0 + 1)
    assert loops.gain([1, 2, -3], grid, Fraction(1)) == 14
    assert loops.gain([3], grid, Fraction(1)) == 9
    assert loops.grid_moments([3], grid, Fraction(1)) == (9, 9)
    assert loops.gain([1, -2], {"bits": 2}, Fraction(1), 1) == 5 - 1  # levels -3 to 0


def test_scales_by_hand():
    three, two, positive = {"bits": 3}, {"bits": 2}, {"bits": 2, "signed": False}
    assert loops.choose_scale([1, 2, -3], three) == 1
    assert loops.choose_scale([-5], two) == 5  # exact with -1 and with -2: the larger scale
    assert loops.choose_scale([0, 0], two) == loops.choose_scale([3], two, 1) == 1
    assert loops.choose_scale([-3], two, 1) == 3
    assert loops.choose_scale([Fraction(5)], two) == 5
    assert loops.choose_scale([Fraction(1)], two, scales=lambda s: [s / 2, s]) == 1
    assert loops.choose_scale([Fraction(1)], two, scales=lambda s: [s, 2 * s]) == 1
    assert loops.choose_affine([-1, 2], positive) == [1, 1]
    assert loops.choose_affine([1], positive) == loops.choose_affine([1], two) == [1, 0]
    assert loops.choose_affine([0], two) == [1, 0]
    assert loops.choose_affine([1, 2, 3], two) == [1, -2]
    narrow = {"bits": 2, "narrow": True}
    for x, grid, zeros in [
        ([-1, 2], positive, [1, 1, 1]),
        ([1, 3], positive, [0, 0, 0]),
        ([-HALF, 3 * HALF], narrow, [0, -1, -1]),
        ([-7 * QUARTER, 5 * QUARTER], positive, [2, 2, 1]),
        ([-3, -1], positive, [3, 3, 3]),
    ]:
        for rule, zero in zip(
            ("min-max", "min-max-torch", "min-max-truncated"), zeros, strict=True
        ):
            assert loops.choose_affine(x, grid, rule) == [1, zero]
            assert loops.choose_affine([4 * v for v in x], grid, rule) == [4, zero]
    assert loops.choose_affine([0, 0], positive, "min-max") == [1, 0]
    assert loops.choose_affine([0, 9], positive, "min-max") == [3, 0]
    assert loops.largest_scale([1, -7], three, "max-abs") == 2
    assert loops.largest_scale([1, -6], three, "max-abs-narrow") == 2
    assert loops.largest_scale([1, -8], three, "max-abs-full") == 2
    assert loops.largest_scale([3, -8], three, "max-abs-two-sided") == 2
    assert loops.largest_scale([6, -4], three, "max-abs-two-sided") == 2
    assert loops.largest_scale([6, -9], positive, "max-abs-two-sided") == 2
    assert loops.largest_scale([-9], positive, "max-abs-two-sided") == 0
    trials = loops.trial_scales([-3, 1], two)
    assert (trials[0], trials[-1], len(set(trials))) == (Fraction(2, 5), Fraction(12, 5), 200)
    assert loops.trial_scale([1], {"bits": 1}) == Fraction(2, 5)  # all are equal
    assert loops.trial_scale([0], two) == 0
    assert abs(loops.trial_scale([-3], two) - Fraction(3, 2)) < Fraction(1, 199)
    rising = {"bits": 1, "mid_rise": True}
    assert loops.scale_by_rule([3, -3], rising, "mse-exact") == [6, -HALF]
    assert loops.scale_by_rule([0], rising, "max-abs") == [Fraction(1, 2**126), -HALF]
    assert loops.scale_by_rule([0], two, "mse-200") == [1, 0]
    assert loops.scale_by_rule([0], two, "max-abs") == [1, 0]
    assert loops.scale_by_rule([1], {"bits": 1}, "mse-200") == [Fraction(2, 5), 0]
    assert loops.scale_by_rule([1, -7], three, "max-abs") == [2, 0]
    assert loops.scale_by_rule([-3, -1], positive, "min-max") == [1, 3]
    for scale, powers in [
        (Fraction(3), (2, 4, 4)),
        (Fraction(11, 4), (2, 4, 2)),
        (Fraction(4), (4, 4, 4)),
        (Fraction(3, 8), (QUARTER, HALF, HALF)),
        (Fraction(5, 16), (QUARTER, HALF, QUARTER)),
    ]:
        assert tuple(loops.power_of_two(scale, r) for r in ("floor", "ceil", "round")) == powers


# --- ranges ---------------------------------------------------------------------------------------


def test_histograms_by_hand():
    assert loops.histogram([0, 1, 2, 3, 3], 4) == [[0, 1], [1, 1], [2, 1], [3, 2]]
    assert loops.histogram([-1, 2], 4) == [[-1, 1], [0, 0], [1, 0], [2, 1]]
    assert loops.histogram([5, 100], 4) == [[0, 1], [32, 0], [64, 0], [96, 1]]
    assert loops.histogram([HALF, 7 * Fraction(1, 8)], 4) == [
        [0, 0],
        [QUARTER, 0],
        [HALF, 1],
        [3 * QUARTER, 1],
    ]
    assert loops.histogram([0, 0], 2) == [[0, 2], [Fraction(1, 2**1022), 0]]
    even, wide = [[Fraction(0), 1], [Fraction(1), 1]], [[Fraction(0), 1], [Fraction(2), 3]]
    for table, first, last, levels, error in [
        (even, 0, 1, 1, THIRD),
        (even, 0, 1, 2, Fraction(1, 12)),
        (even, 1, 1, 1, Fraction(13 + 1, 24)),
        (even, 1, 1, 2, THIRD),  # 31/48 and 1/48
        (even, 0, 0, 2, THIRD),
        (wide, 0, 1, 1, Fraction(4, 3)),
        (wide, 0, 1, 2, THIRD),
    ]:
        assert loops.histogram_error(table, first, last, levels) == error


def test_searched_ranges_by_hand():
    def table(*counts):
        return [[Fraction(b), count] for b, count in enumerate(counts)]

    for counts, levels, best in [
        ((0, 9, 9, 0), 2, [1, 3]),
        ((1, 0, 0, 0), 2, [0, 1]),
        ((9, 9, 0, 0, 0, 0, 0, 1), 2, [0, 3]),
    ]:
        found = loops.histogram_range(table(*counts), levels, search="all-pairs")
        assert found[0] == best[0] and found[1] >= best[1]
    # The upper end gives way while as many counts as a step lie beyond it, the lower one if more.
    assert loops.histogram_range(table(9, 9), 2, steps=4) == [0, 1]
    assert loops.histogram_range(table(1, 8, 8, 1), 4, steps=10) == [1, 2]
    # Exactly as many counts as a step are left, equal errors go on, of equal ways the upper end.
    for counts, ends in [
        ((1, 2, 1), [0, 2]),
        ((1, 0, 3), [0, 2]),
        ((1, 0, 2), [0, 2]),
        ((1, 0, 3, 2), [2, 3]),
        ((0, 1, 0, 0), [1, 2]),
    ]:
        assert loops.histogram_range(table(*counts), 2, steps=4) == ends
    assert [loops.percentile([4, 1, 3, 2], share) for share in (0, 25, 50, 100)] == [
        1,
        7 * QUARTER,
        5 * HALF,
        4,
    ]
    positive = {"bits": 2, "signed": False}
    for batches, options in [
        ([[-1, 1], [0, 2]], {}),
        ([[0, 1], [-2, 3]], {"rule": "moving-average", "averaging": HALF}),
        ([[-1, 2], [-9, 10]], {"rule": "moving-average", "averaging": 0}),
        ([[-5, 6, 0, -1, 2]], {"rule": "percentile", "percentile": 50}),
        ([[-1, 2]], {"rule": "mse-exact"}),
        ([[-1], [2]], {"rule": "histogram-all-pairs", "bins": 4}),
    ]:
        assert loops.activation_scale(batches, positive, **options) == [1, 1]
    options = {"rule": "histogram-all-pairs", "bins": 8}
    scale, zero = loops.activation_scale([[0, 1] * 99, [7]], positive, **options)
    assert zero == 0 and scale < Fraction(7, 3)  # the single 7 is cut off


# --- constrained factors and rows -----------------------------------------------------------------


def test_ridges_by_hand():
    assert loops.ridge([[1]], [[Fraction(1)]], 2, [3]) == [[Fraction(1, 7)]]
    identity = [[Fraction(1), 0], [0, Fraction(1)]]
    assert loops.ridge([[1, 1]], identity, 1) == [[HALF, HALF]]
    assert loops.partial_error([[2, 1]], [[3, 1], [1, 2]], [[5, -1]], 100) == 100 - 2 * 9 + 67
    one = [[Fraction(1)]]
    for bracket, steps, options, tau in [
        ((0, Fraction(4)), 1, {}, 0),
        ((0, Fraction(4)), 3, {}, 1),  # (tau / (1 + tau))**2 = 1/4
        ((0, Fraction(2)), 2, {"weights": [2]}, HALF),
    ]:
        assert loops.epc_tau(one, one, 1, QUARTER, bracket, steps, **options) == tau


def test_rows_by_hand():
    f, G = [Fraction(3), Fraction(1)], [[2, 1], [1, 1]]
    assert loops.row_objective([1, 2], [[2, 1], [1, 3]], [1, -1]) == 3 + 2
    assert loops.best_row([HALF], [[1]], [[0, 1]]) == [0]  # of equally good ones the first
    assert loops.best_row(f, G, [range(-4, 4)] * 2) == [2, -1]
    box, middle = (-4, 3, 0), (-2, 1, HALF)
    assert loops.descend(f, G, [0, 0], [0, 0], box) == [2, -1]
    assert loops.descend(f, G, [0, 0], [-QUARTER, 0], box) == [1, 0]
    assert loops.descend(f, G, [0, 0], [0, 0], middle) == [3 * HALF, -HALF]
    assert loops.descend([9, -9], [[1, 0], [0, 1]], [0, 0], [0, 0], box) == [3, -4]
    assert loops.descend([0, 2], [[0, 0], [0, 1]], [1, 0], [0, 0], box) == [1, 2]
    assert loops.nearest_plane(f, G, [1, 0], box) == [2, -1]
    assert loops.nearest_plane(f, G, [1, 0], (0, 3, 0)) == [2, 0]
    assert loops.nearest_plane(f, G, [0, 1], (-4, 1, 0)) == [1, 0]
    assert loops.nearest_plane(f, G, [1, 0], middle) == [3 * HALF, -3 * HALF]
    G = [[4, 2], [2, Fraction(3)]]
    assert loops.nearest_plane([20, -9], G, [1, 0], (-4, 9, 0)) == [7, -4]
    V = [[1, 0], [1, 1]]
    assert loops.refit_scale([[Fraction(1), 2], [3, 4]], [[1, 1], [1, 2]], V) == 4 * THIRD
    sweep = loops.polish_sweep([[Fraction(5)]], [[[1]], [[1]]], [Fraction(2), Fraction(1)], box)
    assert sweep == ([[[2]], [[1]]], [5 * HALF, 1])
    sweep = loops.polish_sweep([[Fraction(5)]], [[[1]], [[1]]], [Fraction(1), Fraction(1)], box)
    assert sweep == ([[[3]], [[1]]], [5 * THIRD, 1])


# --- convolutions ---------------------------------------------------------------------------------


def test_windows_by_hand():
    for arguments, starts in [
        (([5], [3], 1, 0), [range(3)]),
        (([5], [3], 1, "valid"), [range(3)]),
        (([5], [3], 2, 1), [range(-1, 4, 2)]),
        (([5], [3], 1, (1, 0)), [range(-1, 3)]),
        (([5], [3], 2, "same"), [range(-1, 4, 2)]),
        (([4], [2], 1, "same"), [range(4)]),
        (([4], [1], 3, "same"), [range(0, 4, 3)]),
        (([5, 6], [2, 3], (1, 2), (1, 2)), [range(-1, 5), range(-2, 6, 2)]),
        (([5, 6], [2, 3], 1, (1, 2, 0, 3)), [range(-1, 4), range(-2, 7)]),
    ]:
        assert loops.window_starts(*arguments) == starts


def test_convolutions_by_hand():
    x, W = [[[1, 2, 3]]], [[[10, 1]]]
    assert loops.conv(x, W) == [[[12, 23]]]
    assert loops.conv(x, W, padding=(1, 0), bias=[100]) == [[[101, 112, 123]]]
    assert loops.conv(x, W, dilation=2) == [[[13]]]
    assert loops.conv(x, W, stride=2, padding=1) == [[[1, 23]]]
    two = [[[1, 2, 3], [4, 5, 6]]]
    assert loops.conv(two, [[[1, 0], [0, 1]], [[0, 1], [0, 0]]]) == [[[6, 8], [2, 3]]]
    assert loops.pointwise(two, [[1, 10], [0, 1]], stride=2) == [[[41, 63], [4, 6]]]
    assert loops.depthwise(two, [[1, 0], [1, 2]], kernel_size=2) == [[[3, 5], [10, 12]]]
    assert loops.conv([[[[5]]]], [[[[1]]]], padding=1) == [[[[0, 0, 0], [0, 5, 0], [0, 0, 0]]]]
    square = [[[[1, 2], [3, 4]]]]
    assert loops.depthwise(square, [[1], [10], [100], [1000]], kernel_size=(2, 2)) == [[[[4321]]]]
    factors = [[[1], [2]], [[1], [10]], [[1], [1]]]
    assert loops.cp_conv(two, factors, kernel_size=2, bias=[1, 0]) == [[[94, 116], [186, 230]]]
    assert loops.cp_conv(two, factors[:2], kernel_size=1, stride=2) == [[[41, 63], [82, 126]]]
    assert loops.number((1, 0, 2), (2, 3, 4)) == 14
    assert loops.kernel_to_tensor(square) == [[[1, 2, 3, 4]]]
    assert loops.kernel_to_tensor([[[[1, 2], [3, 4], [5, 6]]]]) == [[[1, 2, 3, 4, 5, 6]]]


def test_errors_of_outputs_by_hand():
    x = [[[Fraction(1), Fraction(2)]]]
    assert loops.second_moment(x, 1) == [[5 * HALF]]
    assert loops.second_moment(x, 2) == [[1, 2], [2, 4]]
    assert loops.second_moment(x, (1,), stride=2) == [[1]]
    S = [[1, 1], [1, 2]]
    assert loops.output_product([[1, 2]], S, [[3, 4]]) == 29
    X, factors = [[Fraction(4), Fraction(6)]], [[[Fraction(1)]], [[Fraction(1)], [Fraction(1)]]]
    assert loops.output_row(X, factors, S, 0, 0) == ([10 + 16 - 0], [[5]])
    identity = [[1, 0], [0, 1]]
    assert loops.output_sweep(X, factors, identity) == [
        [[5]],
        [[4 / Fraction(5)], [6 / Fraction(5)]],
    ]
    assert loops.output_row(X, factors, S, 1, 1) == ([(4 - 1) + 2 * 6], [[2]])
    part = loops.output_part(X, factors, identity, 1, [[2], [3]], [(1, 0)])
    assert part == (18, 9)
    grid = {"bits": 3}
    codes, levels = loops.output_polish(X, [[[1]], [[1], [1]]], [Fraction(1)] * 2, identity, grid)
    # 5 is out of reach for the first, which takes 3 and the scale 5/3; 4/5 and 6/5 become 1.
    assert codes == [[[3]], [[1], [1]]] and levels == [[[5]], [[1], [1]]]
    for present in (0, 1):  # both are equally good: the present code stays
        arguments = [[HALF]], [[[present]], [[1]]], [Fraction(1)] * 2, [[1]], grid
        assert loops.output_polish(*arguments)[0] == [[[present]], [[1]]]
    one_each = [[[Fraction(1)]], [[Fraction(1)], [Fraction(2)]]]
    codes, levels = loops.output_polish(X, [[[3]], [[1], [1]]], one_each, identity, grid)
    assert levels == [[[Fraction(16, 5)]], [[5 * QUARTER], [15 * Fraction(1, 8)]]]
    assert codes == [[[3]], [[1], [1]]]


# --- integers and costs ---------------------------------------------------------------------------


def test_integer_arithmetic_by_hand():
    x, W = [[[3, 5]]], [[[2, 1]]]
    assert loops.int_conv(x, W, zero_point=1) == [[[8]]]
    assert loops.int_conv(x, W, zero_point=1, padding=1, bias=[10]) == [[[12, 18, 18]]]
    grid, W = {"bits": 2}, [[[2, -1]]]
    assert loops.accumulator_bound(W, grid) == [5]
    assert loops.accumulator_bound([[[-2, 1]]], grid) == [5]
    assert loops.accumulator_bound(W, grid, bias=[3]) == [7]
    assert loops.accumulator_bound(W, grid, bias=[-3]) == [8]
    assert loops.accumulator_bound(W, grid, zero_point=1) == [6]
    for multiplier, expected in [
        (HALF, (2**30, 0)),
        (1, (2**30, 1)),
        (3 * QUARTER, (3 * 2**29, 0)),
        (3, (3 * 2**29, 2)),
        (QUARTER, (2**30, -1)),
        (1 - Fraction(1, 2**33), (2**30, 1)),
        (Fraction(1, 2**32), (2**30, -31)),
        (Fraction(1, 2**33), (0, 0)),
        (HALF + Fraction(1, 2**32), (2**30 + 1, 0)),
    ]:
        assert loops.fixed_point(multiplier) == expected
    for acc, multiplier, results in [
        (5, HALF, (2, 3, 3)),
        (-5, HALF, (-2, -2, -2)),
        (5, QUARTER, (1, 1, 2)),
        (-5, QUARTER, (-1, -1, -1)),
        (-7, QUARTER, (-2, -2, -2)),
        (2**31 - 1, 1, (2**31 - 1, 2**31 - 1, 2**30)),
        (5, 3, (15, 15, 15)),
        (2**30, 3, (3 * 2**30, 3 * 2**30, 1610612735)),
        (-(2**30), 3, (-3 * 2**30, -3 * 2**30, -1610612736)),
    ]:
        modes = ("exact", "single", "double")
        assert tuple(loops.rescale(acc, multiplier, mode) for mode in modes) == results
    assert loops.requantize([[4, 5]], [[HALF, 1]], 1, {"bits": 3}) == [[3, 3]]
    assert loops.requantize([[5, -50]], HALF, -1, {"bits": 3}, mode="single") == [[2, -4]]


def test_an_integer_layer_by_hand():
    grid, x = {"bits": 8}, [[[3, 5]]]
    two, one = Fraction(2), Fraction(1)
    plain = {"factors": [[[3]], [[2]]], "steps": [one, one], "grid": grid}
    # (3, 5) less 1, times 2, over 2; times 3, over 1; the zero points 1, 4 and -2 come and go.
    scales = [(one, 1), (two, 4), (one, -2)]
    assert loops.integer_cp(x, scales=scales, **plain) == [[[2 * 2 * 3 - 2, 4 * 2 * 3 - 2]]]
    assert loops.integer_cp(x, scales=scales, bias=[10], **plain) == [[[20, 32]]]
    assert loops.integer_cp([[[0, 5]]], scales=scales, **plain) == [[[-8, 22]]]
    assert loops.integer_cp([[[0, 5]]], scales=scales, relu=True, **plain) == [[[-2, 22]]]
    assert loops.integer_cp(x, scales=scales, stride=2, **plain) == [[[10]]]
    three = {"factors": [[[3]], [[2]], [[1], [4]]], "steps": [one, one, one], "grid": grid}
    scales = [(one, 1), (two, 4), (two, 0), (one, -2)]
    kernel = {"kernel_size": 2}
    assert loops.integer_cp(x, scales=scales, **three, **kernel) == [[[3 * 2 * 18 - 2]]]
    # Steps per column: the largest is that of the last stage, the others enter one stage before.
    columns = {"factors": [[[1, 1]], [[1, 1]]], "steps": [[[two, one]], one], "grid": grid}
    scales = [(one, 0), (one, 0), (one, 0)]
    assert loops.integer_cp([[[4]]], scales=scales, **columns) == [[[2 * (4 + 2)]]]
    rounded = {"factors": [[[1]], [[1]]], "steps": [one, one], "grid": grid}
    scales = [(one, 0), (two, 0), (two, 0)]
    assert loops.integer_cp([[[5]]], scales=scales, **rounded) == [[[2]]]
    assert loops.integer_cp([[[5]]], scales=scales, mode="single", **rounded) == [[[3]]]


def test_costs_by_hand():
    assert loops.factor_bytes([3, 4], 2, 4, None, 4) == 7 + 2 * 4
    assert loops.factor_bytes([3, 4], 2, 4, 0, 4) == 7 + 7 * 4
    assert loops.factor_bytes([3, 4], 2, 4, 1, 2) == 7 + 4 * 2
    assert loops.factor_bytes([1, 2], 1, 3, None, 0) == 2  # nine bits
    ranks = [loops.rank_for_rate((4, 4), rate) for rate in (1, 2, 5, 0.4, "1.9")]
    assert ranks == [2, 1, 0, 5, 1]
    assert loops.rank_for_rate((2, 3, 5), 1) == 3
    assert [loops.rank_for_budget(lambda r: 3 * r, budget) for budget in (2, 9, 10)] == [0, 3, 3]
    points = [(1, 2), (2, 1), (2, 2), (1, 2), (3, 0)]
    assert loops.pareto(points) == [True, True, False, False, True]
    layers = [[(1, 5), (2, 1)], [(1, 3), (3, 0)]]
    choices = {1: None, 2: [0, 0], 3: [1, 0], 4: [1, 0], 5: [1, 1]}
    for budget, picks in choices.items():
        assert loops.allocate(layers, budget) == picks
    assert loops.allocate([[(2, 1), (1, 1)], [(1, 0), (2, 0)]], 9) == [1, 0]  # equal: the cheaper
    assert loops.allocate([[(1, 1), (2, 0)], [(2, 0), (1, 1)]], 3) == [0, 0]
    assert loops.lagrangian_bound([[(0, 4), (2, 0)]], 1) == 2
    assert loops.lagrangian_bound([[(0, 4), (2, 0)], [(1, 1)]], 1) == 1 + 4
    assert loops.lagrangian_bound([[(0, 4), (2, 0)]], 9) == 0


def test_nothing_but_the_standard_library_is_imported():
    for path in sorted(Path(loops.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith("qcp_ref.loops.")
                assert own or name.split(".")[0] in sys.stdlib_module_names, (path, name)
