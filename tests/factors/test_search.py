"""Laws and bad input of factors.search; its planted faults stand at the end."""

import sys
from fractions import Fraction
from itertools import product
from math import erfc, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from quantized_draws import assert_on_grid, axes
from search_draws import differs, grids, problems, random_tensor, tied
from support import caught, exact, law, seeds

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    QuantizedCP,
    certify,
    cp_als,
    epc,
    loops,
    polish,
    quantize,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
)
from qcp_ref.factors import search

THIS = sys.modules[__name__]


# --- polish ---------------------------------------------------------------------------------------


@law("polish.falls", "polish.best", "polish.grid")
@given(problems(), seeds)
def test_without_noise_the_error_never_rises(problem, seed):
    X, q = problem
    fit = polish(X, q, rng=seed)
    first = relative_error(X, q.dequantize())
    errors = np.append(first, fit.history.error)
    assert fit.start_error == first
    assert (np.diff(errors) <= 1e-7).all()
    assert fit.error == relative_error(X, fit.cp.dequantize()) <= first + 1e-12
    assert fit.history.steps.shape == (len(fit.history.error), X.ndim)
    assert_on_grid(fit.cp)
    assert fit.cp.grid == q.grid and all(
        a.shape == b.shape for a, b in zip(fit.cp.scales, q.scales, strict=True)
    )


@law("polish.best", "polish.grid", "polish.seed")
@given(problems(), seeds, st.sampled_from([0.2, 1.0]), st.integers(1, 6))
def test_with_noise_the_best_iterate_is_returned(problem, seed, noise, sweeps):
    X, q = problem
    fit = polish(X, q, noise=noise, sweeps=sweeps, rng=seed)
    errors = np.append(fit.start_error, fit.history.error)
    assert abs(fit.error - errors.min()) <= 1e-7
    assert fit.error == relative_error(X, fit.cp.dequantize()) <= fit.start_error + 1e-12
    assert len(fit.history.error) > sweeps
    assert_on_grid(fit.cp)
    again = polish(X, q, noise=noise, sweeps=sweeps, rng=seed)
    assert all(np.array_equal(a, b) for a, b in zip(fit.cp.codes, again.cp.codes, strict=True))


@law("polish.one-opt", "certify.converged")
@settings(max_examples=60)
@given(problems(most=2), st.sampled_from([0.0, 1.0]), st.integers(1, 4))
def test_converged_means_that_no_single_code_can_be_better(problem, noise, sweeps):
    X, q = problem
    fit = polish(X, q, noise=noise, sweeps=sweeps, rng=5)
    if fit.stop_reason != "converged":
        return
    assert all(certify(X, fit.cp).one_opt)
    codes = quantize(q.grid.levels, q.grid, 1.0)
    for mode, k in enumerate(fit.cp.codes):
        for place in np.ndindex(k.shape):
            for code in codes:
                changed = [c.copy() for c in fit.cp.codes]
                changed[mode][place] = code
                other = QuantizedCP(changed, fit.cp.scales, q.grid)
                assert relative_error(X, other.dequantize()) >= fit.error - 1e-9


@law("polish.falls", "polish.best", "polish.grid", "polish.one-opt", "certify.converged")
@settings(max_examples=10)
@given(
    st.sampled_from([(12, 9, 8), (20, 15), (1, 16, 7), (5, 4, 6, 3)]),
    st.integers(1, 8),
    seeds,
    grids,
    axes,
    st.sampled_from([-250, 0, 250]),
)
def test_larger_tensors_in_any_unit_keep_the_laws(shape, rank, seed, grid, axis, power):
    X = np.ldexp(random_tensor(seed, shape), power)
    q = quantize_cp(random_cp(shape, rank, rng=seed), grid, axis=axis)
    q = QuantizedCP(q.codes, [np.ldexp(q.scales[0], power), *q.scales[1:]], grid)
    fit = polish(X, q)
    errors = np.append(relative_error(X, q.dequantize()), fit.history.error)
    assert (np.diff(errors) <= 1e-7).all()
    assert fit.error == relative_error(X, fit.cp.dequantize())
    assert fit.error <= errors.min() + 1e-7
    assert_on_grid(fit.cp)
    assert [s.shape for s in fit.cp.scales] == [s.shape for s in q.scales]
    if fit.stop_reason != "converged":
        return
    assert all(certify(X, fit.cp, budget=0).one_opt)
    rng, codes = np.random.default_rng(seed), quantize(grid.levels, grid, 1.0)
    for mode in rng.integers(0, len(shape), 20):
        changed = [c.copy() for c in fit.cp.codes]
        changed[mode][tuple(rng.integers(0, changed[mode].shape))] = rng.choice(codes)
        other = QuantizedCP(changed, fit.cp.scales, grid)
        assert relative_error(X, other.dequantize()) >= fit.error - 1e-9


@law("polish.one-opt", "certify.converged")
def test_converged_means_that_also_where_noise_made_it_worse():
    """From a good start a burst of noise loses more than descent wins back."""
    worse = 0
    for seed in range(6):
        X = random_tensor(seed, (6, 5, 4))
        start = quantize_cp(epc(X, cp_als(X, 6, rng=seed).cp, slack=0.1).cp, Grid(4))
        fit = polish(X, start, noise=2.0, sweeps=1, rng=seed + 50)
        worse += fit.history.error[0] > fit.start_error
        assert fit.stop_reason == "converged" and all(certify(X, fit.cp).one_opt)
        assert fit.error <= polish(X, start).error * (1 + 1e-9)
    assert worse == 6


@given(st.integers(2, 3), st.integers(1, 2), seeds)
def test_the_first_sweep_equals_plain_loops(modes, rank, seed):
    rng = np.random.default_rng([seed, 73])
    X = rng.integers(-6, 7, size=[2, 3, 2][:modes]).astype(float)
    grid = Grid(3)
    codes = [rng.integers(-4, 4, (side, rank)) for side in X.shape]
    q = QuantizedCP(codes, [1.0, 0.5, 2.0][:modes], grid)
    levels, scales = [exact(k) for k in q.codes], [Fraction(float(s)) for s in q.scales]
    try:
        levels, scales = loops.polish_sweep(exact(X), levels, scales, (-4, 3, 0))
    except ZeroDivisionError:  # a factor of zeros has no best scale
        return
    assume(all(s > 0 for s in scales))
    state = search._Codes(X, q, np.random.default_rng(0))
    state.sweep(0.0)
    found = state.quantized()
    # a tie that rounding may decide either way is no disagreement
    assume(not tied(X, q))
    for k, wanted in zip(found.codes, levels, strict=True):
        assert k.tolist() == [[int(v) for v in row] for row in wanted]
    for s, wanted in zip(found.scales, scales, strict=True):
        assert abs(Fraction(float(s)) - wanted) <= wanted * Fraction(1, 10**12)


@law("polish.sweep")
@settings(max_examples=40)
@given(st.integers(2, 3), st.integers(1, 2), seeds)
def test_a_run_of_one_sweep_is_that_of_plain_loops(modes, rank, seed):
    rng = np.random.default_rng([seed, 75])
    X = rng.integers(-6, 7, size=[2, 3, 2][:modes]).astype(float)
    codes = [rng.integers(-4, 4, (side, rank)) for side in X.shape]
    q = QuantizedCP(codes, [1.0, 0.5, 2.0][:modes], Grid(3))
    levels, scales = [exact(k) for k in q.codes], [Fraction(float(s)) for s in q.scales]
    try:
        levels, scales = loops.polish_sweep(exact(X), levels, scales, (-4, 3, 0))
    except ZeroDivisionError:  # a factor of zeros has no best scale
        return
    assume(X.any() and all(s > 0 for s in scales))
    # a tie that rounding may decide either way is no disagreement
    near = [1e-9 * rng.standard_normal(X.shape) for _ in range(6)]
    assume(not tied(X, q) and not any(differs(X, X + d, q) or differs(X, X - d, q) for d in near))
    wanted = CP([np.array(V, float) * float(s) for V, s in zip(levels, scales, strict=True)])
    fit, error = polish(X, q, callback=lambda *_: True), relative_error(X, wanted)
    assert abs(fit.history.error[0] - error) <= 1e-7
    if error < fit.start_error - 1e-6:  # else the start may be the best iterate
        assert [k.tolist() for k in fit.cp.codes] == [
            [list(map(int, v)) for v in V] for V in levels
        ]
        assert np.allclose(reconstruct(fit.cp.dequantize()), reconstruct(wanted), rtol=1e-9)


@given(problems(), seeds)
def test_scales_do_not_drift_apart(problem, seed):
    X, q = problem
    fit = polish(X, q, noise=0.5, sweeps=3, rng=seed)
    sizes = [float(np.linalg.norm(A)) for A in fit.cp.dequantize().factors]
    if min(sizes) > 0 and X.any():
        assert max(sizes) <= min(sizes) * 2 ** len(sizes)


@given(problems(), st.lists(st.integers(-40, 40), min_size=3, max_size=3))
def test_sharing_lengths_changes_no_bit(problem, shifts):
    _, q = problem
    scales = [s * 2.0**n for s, n in zip(q.scales, shifts, strict=False)]
    apart = QuantizedCP(q.codes, scales, q.grid)
    near = search._share_lengths(apart)
    for A, B in zip(apart.codes, near.codes, strict=True):
        assert np.array_equal(A, B)
    assert np.array_equal(reconstruct(near.dequantize()), reconstruct(apart.dequantize()))


def test_factors_far_apart_in_length_come_together():
    X, q = a_problem()
    scales = [s * 2.0**n for s, n in zip(q.scales, (100, -100, 0), strict=True)]
    apart = QuantizedCP(q.codes, scales, q.grid)
    state = search._Codes(X, apart, np.random.default_rng(0))
    state.sweep(0.0)
    lengths = [np.linalg.norm(state.values(n)) for n in range(3)]
    assert max(lengths) < 2.0**64 * min(lengths)
    near, far = polish(X, q), polish(X, apart)
    assert near.error == far.error and np.array_equal(near.history.error, far.history.error)


def test_noise_moves_as_many_codes_as_the_theory_says():
    share = erfc(0.5 / search.NOISE / sqrt(2))
    assert 0.15 < share < 0.16
    draws = search.NOISE * np.random.default_rng(79).standard_normal(100_000)
    assert abs((np.abs(draws) > 0.5).mean() - share) < 0.005


def test_noise_helps_and_more_of_its_sweeps_help_more():
    errors = {sweeps: [] for sweeps in (0, 30, 300)}
    for seed in range(3):
        X = random_tensor(seed, (8, 8, 9))
        start = quantize_cp(epc(X, cp_als(X, 12, rng=seed).cp, slack=0.2).cp, Grid(4))
        for sweeps, found in errors.items():
            noise = 0.35 if sweeps else 0.0
            found.append(polish(X, start, noise=noise, sweeps=sweeps, rng=seed + 50).error)
    means = [np.mean(found) for found in errors.values()]
    assert means[0] > means[1] * 1.01
    assert means[1] > means[2] * 1.003


@pytest.fixture
def sweeps(monkeypatch):
    """Noise of each sweep, and whether it fits the scales anew."""
    seen, sweep = [], search._Codes.sweep

    def watched(self, noise, *, refit=True):
        seen.append((noise, refit))
        return sweep(self, noise, refit=refit)

    monkeypatch.setattr(search._Codes, "sweep", watched)
    return seen


def a_problem():
    return random_tensor(3, (4, 3, 5)), quantize_cp(random_cp((4, 3, 5), 3, rng=8), Grid(4))


def test_noise_falls_to_zero_on_a_straight_line(sweeps):
    X, q = a_problem()
    polish(X, q, noise=0.4, sweeps=20, rng=1)
    noise = [level for level, _ in sweeps[:21]]
    assert noise[0] == 0.4 and noise[20] == 0 and np.allclose(np.diff(noise), -0.02)
    assert not any(level for level, _ in sweeps[20:])
    # Every eighth sweep fits the scales, and without noise each one until they have settled.
    assert [n for n, (_, refit) in enumerate(sweeps[:20]) if refit] == [0, 8, 16]
    assert sweeps[20][1] and not sweeps[-1][1]


def test_what_has_converged_says_so_at_once(sweeps):
    X, q = a_problem()
    done = polish(X, q).cp
    sweeps.clear()
    fit = polish(X, done, noise=1e-9, sweeps=1)
    assert fit.stop_reason == "converged" and len(sweeps) == 3
    # The scales have to settle as well: that codes do not change is not enough.
    scales = [3 * done.scales[0], *done.scales[1:]]
    fit = polish(X, QuantizedCP(done.codes, scales, done.grid), noise=1e-9, sweeps=1)
    assert fit.stop_reason == "converged" and all(certify(X, fit.cp).scale_stationary)


def test_without_noise_nothing_is_drawn():
    X, q = a_problem()
    rng = np.random.default_rng(5)
    polish(X, q, rng=rng)
    assert rng.random() == np.random.default_rng(5).random()
    polish(X, q, noise=0.1, sweeps=1, rng=rng)
    assert rng.bit_generator.state != np.random.default_rng(5).bit_generator.state


@pytest.mark.parametrize(("power", "first"), [(128, 0.0), (129, 0.5), (131, 0.875)])
def test_scales_too_far_away_are_reached_by_more_sweeps(power, first):
    """Two modes come 2**128 nearer in a sweep."""
    near = QuantizedCP([[[7], [7]], [[7], [7]]], [1.0, 1.0], Grid(4))
    fit = polish(np.full((2, 2), 49 * 2.0**power), near)
    assert fit.history.error[0] == first and fit.history.error[1] == fit.error == 0


def test_callbacks_see_each_sweep_and_may_stop():
    (X, q), seen = a_problem(), []
    fit = polish(X, q, noise=0.3, sweeps=9, callback=lambda *row: seen.append(row) or row[0] == 4)
    assert fit.stop_reason == "callback" and [n for n, _ in seen] == [0, 1, 2, 3, 4]
    assert np.array_equal([e for _, e in seen], fit.history.error)


# --- certificates ---------------------------------------------------------------------------------


@law("certify.bound", "certify.floor")
@settings(max_examples=40)
@given(problems(most=2), st.integers(0, 200))
def test_no_codes_of_one_factor_are_below_its_bound(problem, budget):
    X, q = problem
    found, error = certify(X, q, budget=budget), relative_error(X, q.dequantize())
    assert found.floor <= error + 1e-9
    codes = quantize(q.grid.levels, q.grid, 1.0)
    rng = np.random.default_rng(97)
    for mode, k in enumerate(q.codes):
        assert 0 <= found.bound[mode] <= error + 1e-7 and 0 <= found.proved[mode] <= 1
        everything = (
            product(codes, repeat=k.size)
            if len(codes) ** k.size < 300
            else (rng.choice(codes, k.size) for _ in range(30))
        )
        best = np.inf
        for choice in everything:
            changed = [*q.codes]
            changed[mode] = np.reshape(choice, k.shape)
            other = QuantizedCP(changed, q.scales, q.grid).dequantize()
            best = min(best, relative_error(X, other))
        assert found.bound[mode] <= best + 1e-7
        if found.proved[mode] == 1 and len(codes) ** k.size < 300:
            assert abs(found.bound[mode] - best) <= 1e-6


def test_the_floor_is_that_of_matrices():
    X = random_tensor(5, (6, 5))
    U, s, Vt = np.linalg.svd(X)
    q = quantize_cp(random_cp((6, 5), 2, rng=1), Grid(4))
    best = CP([U[:, :2] * s[:2], Vt[:2].T])
    assert np.isclose(certify(X, q).floor, relative_error(X, best), rtol=1e-10)
    X = random_tensor(5, (2, 3, 2))
    assert certify(X, quantize_cp(random_cp(X.shape, 3, rng=1), Grid(4))).floor == 0
    # One unfolding is enough: two of these have no more rows than the rank.
    X = random_tensor(5, (2, 2, 6))
    q = quantize_cp(random_cp(X.shape, 2, rng=1), Grid(4))
    values = np.linalg.svd(X.reshape(4, 6))[1]
    least = np.linalg.norm(values[2:]) / np.linalg.norm(values)
    assert np.isclose(certify(X, q).floor, least, rtol=1e-10)


def test_certificates_see_what_is_left_to_do():
    X = random_tensor(6, (4, 3, 5))
    q = quantize_cp(random_cp((4, 3, 5), 3, rng=8), Grid(4))
    found = certify(X, q)
    assert not all(found.one_opt) and not any(found.scale_stationary)
    done = certify(X, polish(X, q).cp, budget=10**5)
    assert all(done.one_opt) and all(done.scale_stationary) and done.proved == (1.0, 1.0, 1.0)


def test_a_zero_tensor_has_absolute_bounds():
    cp = QuantizedCP([[[1], [1]], [[2], [0]]], [0.5, 1.0], Grid(4))
    found = certify(np.zeros((2, 2)), cp)
    assert max(found.bound) < 1e-7 and found.floor == 0.0 and found.proved == (1.0, 1.0)
    far = QuantizedCP(cp.codes, [1e160, 1.0], Grid(4))
    with pytest.raises(ValueError, match="cp: expected a longest component of norm"):
        certify(np.ones((2, 2)), far)


def test_columns_whose_squares_are_lost_are_refused():
    """A factor of zeros leaves the others as they are; what float64 makes of them is no proof."""
    X = np.ones((3, 2, 2))
    X[0] = 0
    near, far = (
        QuantizedCP([np.zeros((3, 1), int), *np.ones((2, 2, 1), int)], [1.0, s, s], Grid(4))
        for s in (2.0**-200, 2.0**-300)
    )
    assert certify(X, near).one_opt == (False, True, True)
    assert certify(0 * X, far).one_opt == (True, True, True)
    with pytest.raises(ValueError, match="cp: expected columns whose squares float64 can hold"):
        certify(X, far)


# --- planted faults -------------------------------------------------------------------------------


def last_iterate(X, q, **options):
    """Returns codes that are not those of the best sweep."""
    fit = right.polish(X, q, **options)
    codes = [np.roll(k, 1) for k in fit.cp.codes]
    other = QuantizedCP(codes, fit.cp.scales, q.grid)
    return fit._replace(cp=other, error=relative_error(X, other.dequantize()))


def impatient(X, q, **options):
    """Says converged after one sweep."""
    fit = right.polish(X, q, callback=lambda *_: True, **options)
    return fit._replace(stop_reason="converged")


def boastful(X, q, **options):
    found = right.certify(X, q, **options)
    error = relative_error(X, q.dequantize())
    return found._replace(bound=(error,) * X.ndim, proved=(1.0,) * X.ndim)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_without_noise_the_error_never_rises, {"polish": last_iterate}),
        (test_with_noise_the_best_iterate_is_returned, {"polish": last_iterate}),
        (test_a_run_of_one_sweep_is_that_of_plain_loops, {"polish": last_iterate}),
        (test_larger_tensors_in_any_unit_keep_the_laws, {"polish": impatient}),
        (test_converged_means_that_no_single_code_can_be_better, {"polish": impatient}),
        (test_no_codes_of_one_factor_are_below_its_bound, {"certify": boastful}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
