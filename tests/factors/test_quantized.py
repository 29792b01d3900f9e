"""Laws and bad input of factors.quantized; its planted faults stand at the end."""

import sys
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_draws import KINDS, assert_on_grid, axes, grids, random_tensor
from support import caught, law, seeds, shapes

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    QuantizedCP,
    balance,
    choose_scale,
    orient,
    predict_error,
    project,
    quantize,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
)

THIS = sys.modules[__name__]


@law("quantize_cp.projection", "QuantizedCP.codes")
@given(shapes(max_dims=3), st.integers(1, 4), seeds, grids, axes)
def test_rounding_is_the_projection_of_the_balanced_factors(shape, rank, seed, grid, axis):
    cp = random_cp(shape, rank, rng=seed)
    q = quantize_cp(cp, grid, axis=axis)
    assert_on_grid(q)
    for A, B in zip(balance(cp).factors, q.dequantize().factors, strict=True):
        assert np.allclose(project(A, grid, axis=axis), B, rtol=1e-15, atol=0)
        # no other scale near the chosen one is better
        best = ((A - B) ** 2).sum()
        for factor in (0.8, 0.97, 1.03, 1.25):
            scale = choose_scale(A, grid, axis=axis).scale * factor
            assert ((A - project(A, grid, scale=scale)) ** 2).sum() >= best - 1e-12


@st.composite
def grid_tensors(draw):
    """A balanced tensor on a grid, one scale per factor or per column, and that choice.

    The columns of a component are permutations of each other, up to signs.
    """
    kind, bits = draw(st.sampled_from(["full", "narrow", "mid-rise"])), draw(st.integers(2, 16))
    grid = Grid(bits, narrow=kind == "narrow", mid_rise=kind == "mid-rise")
    modes, rank, side = draw(st.integers(2, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    axis, rng = draw(st.sampled_from([None, 1])), np.random.default_rng(draw(seeds))
    magnitudes = rng.integers(0, grid.qmax + 1, (side, rank))
    # One among them, in each column: there is no common divisor. At full range or far from it.
    magnitudes //= draw(st.sampled_from([1, 1, 2, 100]))
    magnitudes[0] = kind != "mid-rise"
    codes = []
    for _ in range(modes):
        k = np.stack([rng.permutation(column) for column in magnitudes.T], axis=1)
        codes.append(np.where(rng.random(k.shape) < 0.5, k, -k - (kind == "mid-rise")))
    scale = np.ldexp(rng.uniform(1, 2, rank if axis else ()), draw(st.integers(-200, 200)))
    return QuantizedCP(codes, [scale[None] if axis else scale] * modes, grid), axis


@law("quantize_cp.on-grid")
@given(grid_tensors())
def test_a_tensor_on_a_grid_keeps_its_codes(case):
    q, axis = case
    found = quantize_cp(q.dequantize(), q.grid, axis=axis)
    for k, s, kept, scale in zip(q.codes, q.scales, found.codes, found.scales, strict=True):
        assert np.array_equal(k, kept)
        assert np.allclose(s, scale, rtol=1e-14, atol=0)


@law("quantize_cp.on-grid")
@given(grid_tensors(), st.sampled_from(["max-abs", "max-abs-narrow", "mse-200"]))
def test_a_tensor_on_the_grid_of_its_rule_keeps_its_values(case, rule):
    q, axis = case
    if rule != "max-abs" and q.grid.mid_rise:
        return
    cp = quantize_cp(q.dequantize(), q.grid, axis=axis, rule=rule).dequantize()
    for A in balance(cp).factors:  # is it on the grid that the rule chooses for it?
        scale = choose_scale(A, q.grid, rule=rule, axis=axis).scale
        if not np.allclose(project(A, q.grid, scale=scale), A, rtol=1e-9, atol=0):
            return
    again = quantize_cp(cp, q.grid, axis=axis, rule=rule).dequantize()
    for A, B in zip(balance(cp).factors, again.factors, strict=True):
        assert np.allclose(A, B, rtol=1e-9, atol=0)


@law("QuantizedCP.codes")
@given(KINDS, st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(1, 3), seeds, axes)
def test_codes_survive_the_way_to_numbers_and_back(grid, sides, rank, seed, axis):
    rng = np.random.default_rng(seed)
    codes, scales = [], []
    for side in sides:
        values = np.arange(grid.qmin, grid.qmax + 1)
        values = values[values != 0] if grid.kind == "binary" else values
        codes.append(rng.choice(values, (side, rank)))
        shape = {None: (), 0: (side, 1), 1: (1, rank)}[axis]
        scales.append(np.ldexp(rng.uniform(1, 2, shape), rng.integers(-900, 900, shape)))
    q = QuantizedCP(codes, scales, grid)
    assert_on_grid(q)
    for k, kept, s, A in zip(codes, q.codes, q.scales, q.dequantize().factors, strict=True):
        assert np.array_equal(k, kept) and np.array_equal(quantize(A, grid, s), k)


def test_a_scale_that_becomes_writable_later_does_not_change_the_result():
    scale = np.array(0.5)
    scale.setflags(write=False)
    q = QuantizedCP([[[1]], [[2]]], [scale, 1.0], Grid(4))
    scale.setflags(write=True)
    scale[...] = 7.0
    assert q.scales[0] == 0.5


def test_two_results_are_equal_only_if_they_are_one():
    one, other = (quantize_cp(random_cp((3, 4), 2, rng=3), Grid(4)) for _ in range(2))
    assert one != other and len({one, one, other}) == 2


def test_codes_are_stored_in_the_smallest_integers():
    cp = random_cp((3, 4), 2, rng=3)
    assert quantize_cp(cp, Grid(8)).codes[0].dtype == np.int8
    assert quantize_cp(cp, Grid(9)).codes[0].dtype == np.int16


@law("QuantizedCP.pruned")
@given(shapes(max_dims=3), st.integers(1, 4), seeds, axes)
def test_dead_components_are_reported_and_may_be_left_out(shape, rank, seed, axis):
    rng = np.random.default_rng([seed, 41])
    q = quantize_cp(random_cp(shape, rank, rng=seed), Grid(3), axis=axis)
    codes = [k * (rng.random(rank) < 0.7).astype(k.dtype) for k in q.codes]
    q = QuantizedCP(codes, q.scales, q.grid)
    norms = np.prod([np.linalg.norm(k.astype(float), axis=0) for k in codes], axis=0)
    assert np.array_equal(q.dead, norms == 0)
    less = q.pruned()
    assert less.rank == max(1, int((norms > 0).sum()))
    assert np.allclose(reconstruct(less.dequantize()), reconstruct(q.dequantize()), atol=1e-12)
    assert not less.dead.any() or less.rank == 1


def test_nothing_is_dead_without_a_level_at_zero():
    q = QuantizedCP([np.zeros((2, 3), int)] * 2, [1.0, 2.0], Grid(2, mid_rise=True))
    assert not q.dead.any() and q.pruned().rank == 3
    binary = quantize_cp(random_cp((3, 4), 2, rng=1), Grid(1, kind="binary"))
    assert not binary.dead.any()


# --- prediction and signs -------------------------------------------------------------------------


@law("predict_error.bound")
@given(shapes(max_dims=3), st.integers(1, 4), seeds, st.integers(2, 6), axes, st.booleans())
def test_rounding_stays_below_its_guarantee(shape, rank, seed, bits, axis, mid_rise):
    X, cp, grid = (
        random_tensor(seed, shape),
        random_cp(shape, rank, rng=seed),
        Grid(bits, mid_rise=mid_rise),
    )
    prediction = predict_error(X, cp, grid, axis=axis)
    error = relative_error(X, quantize_cp(cp, grid, axis=axis).dequantize())
    assert error <= prediction.bound * (1 + 1e-9)
    assert 0 < prediction.expected <= prediction.bound * (1 + 1e-9)


@given(shapes(max_dims=3), st.integers(1, 4), seeds, st.integers(5, 9))
def test_more_bits_lower_the_prediction_in_proportion(shape, rank, seed, bits):
    cp = random_cp(shape, rank, rng=seed)
    X, rule = reconstruct(cp), "max-abs"
    coarse, fine = (np.array(predict_error(X, cp, Grid(b), rule=rule)) for b in (bits, bits + 3))
    assert (fine < coarse / 6).all() and (fine > coarse / 16).all()


@law("predict_error.expected")
def test_errors_are_as_expected_on_average():
    for shape, rank, bits in (((20, 24, 9), 16, 4), ((30, 40), 20, 5), ((24, 20, 9), 12, 8)):
        ratios = []
        for seed in range(8):
            cp = random_cp(shape, rank, rng=seed)
            X = reconstruct(cp)
            expected = predict_error(X, cp, Grid(bits)).expected
            ratios.append(relative_error(X, quantize_cp(cp, Grid(bits)).dequantize()) / expected)
        assert abs(np.mean(ratios) - 1) < 0.1, (shape, bits, ratios)


@law("predict_error.expected")
@settings(max_examples=15)
@given(
    st.sampled_from([((20, 24, 9), 16), ((30, 40), 20), ((9, 24, 20), 12), ((100, 40), 5)]),
    st.integers(3, 8),
    seeds,
    st.sampled_from(["mse-exact", "max-abs", "max-abs-narrow"]),
)
def test_errors_of_larger_tensors_are_as_expected(size, bits, seed, rule):
    shape, rank = size
    cp, grid = random_cp(shape, rank, rng=seed), Grid(bits)
    X = reconstruct(cp)
    error = relative_error(X, quantize_cp(cp, grid, rule=rule).dequantize())
    assert 0.8 < error / predict_error(X, cp, grid, rule=rule).expected < 1.2


@law("predict_error.balanced")
@settings(max_examples=20)
@given(
    st.sampled_from([((20, 24, 9), 16), ((30, 40), 20), ((9, 24, 20), 12), ((100, 40), 5)]),
    st.integers(5, 8),
    st.sampled_from([0.1, 0.5, 2.0]),
    seeds,
)
def test_columns_of_other_lengths_are_rounded_worse(size, bits, strength, seed):
    (shape, rank), rng = size, np.random.default_rng([seed, 101])
    cp, grid = balance(random_cp(shape, rank, rng=seed)), Grid(bits)
    X, stretch = reconstruct(cp), np.exp(strength * rng.standard_normal((len(shape), rank)))
    stretch[-1] = 1 / np.prod(stretch[:-1], axis=0)
    other = [A * t for A, t in zip(cp.factors, stretch, strict=True)]
    rounded = CP([project(A, grid) for A in other])
    assert relative_error(X, rounded) > 0.8 * predict_error(X, cp, grid).expected


@law("predict_error.lengths")
@settings(max_examples=40)
@given(shapes(max_dims=3), st.integers(1, 3), seeds, st.integers(2, 6), axes)
def test_the_lengths_of_the_columns_do_not_matter(shape, rank, seed, bits, axis):
    rng = np.random.default_rng([seed, 97])
    cp, X = random_cp(shape, rank, rng=seed), random_tensor(seed, shape)
    stretch = 10.0 ** rng.uniform(-30, 30, (len(shape), rank))
    stretch[-1] = rng.choice([-1.0, 1.0], rank) / np.prod(stretch[:-1], axis=0)
    other = CP([A * t for A, t in zip(cp.factors, stretch, strict=True)], cp.weights)
    other = CP(other.factors, other.weights * np.sign(stretch[-1]))
    found = predict_error(X, other, Grid(bits, narrow=True), axis=axis)
    assert np.allclose(found, predict_error(X, cp, Grid(bits, narrow=True), axis=axis), rtol=1e-6)


@pytest.mark.parametrize(("grid", "outlier"), [(Grid(3), 1), (Grid(2, kind="ternary"), 4)], ids=str)
def test_the_expectation_is_that_of_random_noise(grid, outlier):
    """The formula on factors of which rounding is replaced by noise of the same variance."""
    rng = np.random.default_rng(83)
    cp = random_cp((5, 4, 3), 2, rng=3)
    cp = balance(CP([np.vstack([outlier * A[:1], A[1:]]) for A in cp.factors]))
    X, size = reconstruct(cp), np.linalg.norm(reconstruct(cp))
    expected = predict_error(X, cp, grid).expected
    total, parts = 0.0, []
    for A in cp.factors:
        s = right.choose_scale(A, grid).scale
        beyond = np.maximum(A - s * grid.levels[-1], s * grid.levels[0] - A)
        parts.append(np.where(beyond > 0, beyond, s / np.sqrt(12)))
    for _ in range(4000):
        noisy = [
            A + p * rng.choice([-1.0, 1.0], A.shape) for A, p in zip(cp.factors, parts, strict=True)
        ]
        total += ((X - reconstruct(CP(noisy))) ** 2).sum() / 4000
    assert abs(sqrt(total) / size / expected - 1) < 0.05


@law("orient.same", "orient.one-short")
@given(
    shapes(max_dims=4), st.integers(1, 4), seeds, st.sampled_from([Grid(4), Grid(3, signed=False)])
)
def test_signs_are_turned_in_pairs_to_the_longer_side(shape, rank, seed, grid):
    cp = random_cp(shape, rank, rng=seed)
    turned = orient(cp, grid)
    assert np.array_equal(reconstruct(turned), reconstruct(cp))
    sign = 1.0 if grid.signed else -1.0
    short = [(sign * A).max(axis=0) > (-sign * A).max(axis=0) for A in turned.factors]
    assert (np.sum(short, axis=0) <= 1).all()
    for A, B in zip(cp.factors, turned.factors, strict=True):
        assert np.array_equal(abs(A), abs(B))


@law("orient.same", "orient.one-short")
@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=5),
    st.integers(1, 6),
    seeds,
    st.sampled_from([Grid(4), Grid(2), Grid(3, signed=False), Grid(2, kind="ternary")]),
    st.sampled_from(["normal", "integers", "one sign", "far apart"]),
)
def test_signs_of_hostile_columns_are_turned_in_pairs(sides, rank, seed, grid, kind):
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal((side, rank)) for side in sides]
    if kind == "integers":  # ties between the sides, and columns of zeros
        factors = [rng.integers(-1, 2, A.shape).astype(float) for A in factors]
    if kind == "one sign":
        factors = [abs(A) * rng.choice([-1, 1], rank) for A in factors]
    if kind == "far apart":
        factors = [np.ldexp(A, rng.integers(-200, 200, rank)) for A in factors]
    cp = CP(factors, rng.integers(-3, 4, rank))
    turned = orient(cp, grid)
    assert np.array_equal(turned.weights, cp.weights)
    powers = [rng.integers(-100, 100, rank) for _ in sides]  # lengths of columns do not matter
    longer = orient(CP([np.ldexp(A, p) for A, p in zip(factors, powers, strict=True)]), grid)
    for A, B, again, p in zip(
        turned.factors, longer.factors, orient(turned, grid).factors, powers, strict=True
    ):
        assert np.array_equal(np.ldexp(A, p), B)
        assert np.array_equal(A, again)  # nothing is left to turn
    before, after = (reconstruct(CP([A[:, :1] for A in c.factors])) for c in (cp, turned))
    assert before.tobytes() == after.tobytes()
    assert reconstruct(cp).tobytes() == reconstruct(turned).tobytes()
    if -grid.levels[0] == grid.levels[-1]:
        return
    sign = 1.0 if grid.levels[0] < -grid.levels[-1] else -1.0
    short = [(sign * A).max(axis=0) > (-sign * A).max(axis=0) for A in turned.factors]
    assert (np.sum(short, axis=0) <= 1).all()


def test_symmetric_grids_leave_signs_alone_and_the_odd_one_costs_least():
    cp = CP([[[3.0], [-1.0]], [[2.0], [-1.9]], [[-1.0], [0.0]]])
    assert orient(cp, Grid(4, narrow=True)).factors[0].tolist() == [[3.0], [-1.0]]
    signs = [float(np.sign(A[0, 0])) for A in orient(cp, Grid(4)).factors]
    assert signs == [-1.0, -1.0, -1.0]
    cp = CP([[[3.0], [-1.0]], [[-2.0], [1.9]], [[-1.0], [0.0]]])
    signs = [float(np.sign(A[0, 0])) for A in orient(cp, Grid(4)).factors]
    assert signs == [-1.0, 1.0, -1.0]  # 2 and 1.9 differ least, so that column is turned


@law("predict_error.scale")
@given(seeds, st.integers(-120, 120), st.integers(2, 6))
def test_a_prediction_does_not_depend_on_the_unit_of_the_data(seed, power, bits):
    cp = random_cp((3, 4, 2), 2, rng=seed)
    X = reconstruct(cp) + 0.01
    moved = CP([np.ldexp(A, power) for A in cp.factors])
    plain = predict_error(X, cp, Grid(bits))
    assert np.allclose(predict_error(np.ldexp(X, 3 * power), moved, Grid(bits)), plain, rtol=1e-9)


def test_a_prediction_far_from_the_tensor_is_right_or_refused():
    X = np.ones((2, 2))
    far = predict_error(1e-110 * X, CP([np.full((2, 1), 1e15)] * 2), Grid(4))
    assert np.isfinite(far).all() and far.bound > 1e139
    with pytest.raises(ValueError, match="X, cp: the result exceeds the range"):
        predict_error(1e-110 * X, CP([np.full((2, 1), 1e80)] * 2), Grid(4))


@pytest.mark.parametrize(
    "grid", [Grid(1), Grid(2), Grid(2, kind="ternary"), Grid(2, mid_rise=True)], ids=str
)
@pytest.mark.parametrize("size", [0.0, 2.0**-300, 1.0])
def test_what_is_predicted_of_a_zero_tensor_is_what_happens(grid, size):
    """Zero only if all codes stand for zero; terms that cancel are not zero once rounded."""
    X, cp = np.zeros((2, 1)), CP([np.full((2, 3), -size), [[-size, -2 * size, 3 * size]]])
    assert relative_error(X, cp) == 0
    happens = relative_error(X, quantize_cp(cp, grid).dequantize())
    assert happens == (0 if size == 0 and not grid.mid_rise else np.inf)
    assert predict_error(X, cp, grid) == (happens, happens)


# --- planted faults -------------------------------------------------------------------------------


def unbalanced_rounding(cp, grid, **options):
    """Rounds the columns as they come."""
    scales = [choose_scale(A, grid, **options).scale for A in cp.factors]
    return QuantizedCP(
        [quantize(A, grid, s) for A, s in zip(cp.factors, scales, strict=True)], scales, grid
    )


def optimist(X, cp, grid, **options):
    found = right.predict_error(X, cp, grid, **options)
    return found._replace(bound=found.expected)


def forgets_ends(X, cp, grid, **options):
    """Predicts twice the noise."""
    found = right.predict_error(X, cp, grid, **options)
    return found._replace(expected=found.expected * sqrt(2))


def pessimist(X, cp, grid, **options):
    found = right.predict_error(X, cp, grid, **options)
    return found._replace(expected=4 * found.expected, bound=4 * found.bound)


def as_it_comes(X, cp, grid, **options):
    """Lets the length of the first columns count."""
    found = right.predict_error(X, cp, grid, **options)
    return found._replace(expected=found.expected * float(np.linalg.norm(cp.factors[0])))


def by_maximum(cp, grid, *, rule="mse-exact", **options):
    """Chooses scales by another rule."""
    return right.quantize_cp(cp, grid, rule="max-abs", **options)


def too_small(cp, grid, **options):
    """Cuts off the largest numbers."""
    q = right.quantize_cp(cp, grid, **options)
    scales = [0.75 * s for s in q.scales]
    factors = zip(balance(cp).factors, scales, strict=True)
    return QuantizedCP([quantize(A, grid, s) for A, s in factors], scales, grid)


def cut_off(x, grid, scale, *_):
    """Cuts digits off instead of rounding."""
    return np.trunc(x / scale).astype(grid.dtype)


def single_flips(cp, grid):
    return CP([A * np.where(A.max(axis=0) > -A.min(axis=0), -1, 1) for A in cp.factors])


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_rounding_stays_below_its_guarantee, {"predict_error": optimist}),
        (test_errors_are_as_expected_on_average, {"predict_error": forgets_ends}),
        (test_signs_are_turned_in_pairs_to_the_longer_side, {"orient": single_flips}),
        (test_signs_of_hostile_columns_are_turned_in_pairs, {"orient": single_flips}),
        (test_errors_of_larger_tensors_are_as_expected, {"predict_error": forgets_ends}),
        (test_columns_of_other_lengths_are_rounded_worse, {"predict_error": pessimist}),
        (test_the_lengths_of_the_columns_do_not_matter, {"predict_error": as_it_comes}),
        (test_a_tensor_on_a_grid_keeps_its_codes, {"quantize_cp": by_maximum}),
        (test_a_tensor_on_the_grid_of_its_rule_keeps_its_values, {"quantize_cp": too_small}),
        (test_codes_survive_the_way_to_numbers_and_back, {"quantize": cut_off}),
        (
            test_rounding_is_the_projection_of_the_balanced_factors,
            {"quantize_cp": unbalanced_rounding},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
