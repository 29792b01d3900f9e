"""Laws and bad input of qcp_ref.search; its planted faults stand at the end."""

import sys
from fractions import Fraction
from itertools import product
from math import erfc, sqrt

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support import caught, exact, law, seeds, shapes

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    QuantizedCP,
    ao_admm,
    certify,
    choose_scale,
    choose_slack,
    cp_als,
    epc,
    factorize,
    loops,
    orient,
    polish,
    predict_error,
    quantize,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
    search,
    svd_cp,
)
from qcp_ref.start import one_after_the_other

THIS = sys.modules[__name__]
GRIDS = [
    Grid(2),
    Grid(4),
    Grid(3, narrow=True),
    Grid(3, mid_rise=True),
    Grid(1, kind="binary"),
    Grid(2, kind="ternary"),
]
grids = st.sampled_from(GRIDS)
axes = st.sampled_from([None, 0, 1])


def random_tensor(seed, shape):
    return np.random.default_rng([seed, 67]).standard_normal(shape)


@st.composite
def problems(draw, most=3):
    """A tensor and codes on a grid that fit it: rounded, or drawn."""
    shape, rank = draw(shapes(max_dims=3)), draw(st.integers(1, most))
    seed, grid, axis = draw(seeds), draw(grids), draw(axes)
    X = random_tensor(seed, shape)
    q = quantize_cp(random_cp(shape, rank, rng=seed), grid, axis=axis)
    if draw(st.booleans()):
        rng = np.random.default_rng([seed, 71])
        codes = [rng.choice(quantize(grid.levels, grid, 1.0), size=k.shape) for k in q.codes]
        q = QuantizedCP(codes, q.scales, grid)
    return X, q


def assert_on_grid(q):
    for k, s, A in zip(q.codes, q.scales, q.dequantize().factors, strict=True):
        assert np.array_equal(quantize(A, q.grid, s), k)


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


def differs(X, Y, q):
    """Whether the codes after one sweep are not the same for both tensors."""
    states = [search._Codes(Z, q, np.random.default_rng(0)) for Z in (X, Y)]
    for state in states:
        state.sweep(0.0)
    pairs = zip(*(state.quantized().codes for state in states), strict=True)
    return any(not np.array_equal(*pair) for pair in pairs)


def tied(X, q):
    """Whether a tiny change of the tensor changes the codes after one sweep."""
    found = set()
    for shift in (-1e-9, 0.0, 1e-9):
        state = search._Codes(X * (1 + shift) + shift, q, np.random.default_rng(0))
        state.sweep(0.0)
        found.add(b"".join(k.tobytes() for k in state.quantized().codes))
    return len(found) > 1


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
    share = erfc(0.5 / search._NOISE / sqrt(2))
    assert 0.15 < share < 0.16
    draws = search._NOISE * np.random.default_rng(79).standard_normal(100_000)
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


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_hostile_tensors_have_results(grid):
    for X in (np.zeros((2, 3, 4)), np.full((3, 3), 5.0), np.array([[2.0]]), np.eye(3) * 1e-90):
        for method in ("best", "sequential"):
            fit = factorize(X, 2, grid, method=method, rng=1, **few(method))
            assert not np.isnan(fit.error) and (np.isfinite(fit.error) or not X.any())
            assert fit.error == relative_error(X, fit.cp.dequantize())
            assert (fit.stop_reason == "zero tensor") == (not X.any())
    dead = CP([np.ones((3, 2)), np.ones((4, 2)), [[1.0, 0.0], [2.0, 0.0]]])
    X = reconstruct(dead)
    fit = polish(X, quantize_cp(dead, grid), noise=0.3, sweeps=20)
    assert np.isfinite(fit.error) and fit.error < 0.7


@settings(max_examples=20)
@given(
    st.integers(-600, 0),
    st.integers(1, 2),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([(2, 2), (2, 1, 2), (2, 3, 2)]),
    seeds,
)
@example(-532, 1, None, (2, 2), 0)
def test_entries_far_apart_leave_every_method_in_range(power, rank, axis, shape, seed):
    """Noise may leave a tensor next to nothing of what it approximates; scales then come back."""
    X = np.zeros(shape)
    X[0, ..., 0], X[-1, ..., -1] = 1.0, 2.0**power
    exact_one = rank == 1 and shape != (2, 3, 2)  # one number to keep, which every grid does
    for method in search.METHODS:
        fit = factorize(X, rank, Grid(4), method=method, axis=axis, rng=seed, **few(method))
        assert fit.error == relative_error(X, fit.cp.dequantize())
        assert np.isfinite(fit.error)
        assert fit.error <= 1.01 * 2.0**power + 1e-12 or not exact_one


def few(method):
    return {"sweeps": 20} if method == "best" else {}


# --- the slack ------------------------------------------------------------------------------------


@law("choose_slack.best", "choose_slack.trials")
@settings(max_examples=10)
@given(seeds, grids, axes)
def test_the_slack_returned_is_the_best_of_those_tried(seed, grid, axis):
    X = random_tensor(seed, (4, 3, 5))
    cp = cp_als(X, 3, rng=seed, max_sweeps=30).cp
    found = choose_slack(X, cp, grid, slacks=(0.0, 0.1, 0.4), axis=axis, sweeps=5, rng=seed)
    assert found.error == min(found.errors) == found.errors[found.slacks.index(found.slack)]
    for slack, error in zip(found.slacks, found.errors, strict=True):
        start = orient(epc(X, cp, slack=slack, max_sweeps=search._START["best"][1]).cp, grid)
        rounded = quantize_cp(start, grid, axis=axis)
        assert polish(X, rounded, noise=0.35, sweeps=5, rng=seed).error == error
    grown = 1 + found.slack
    assert relative_error(X, found.start) <= grown * relative_error(X, cp) * (1 + 1e-6)


def test_a_slack_with_room_for_the_zero_tensor_is_passed_over():
    X = random_tensor(7, (4, 4, 4))
    cp = cp_als(X, 1, rng=1).cp  # its error is above one half
    assert choose_slack(X, cp, Grid(4), slacks=(0.0, 50.0), sweeps=0).slacks == (0.0,)
    with pytest.raises(ValueError, match="slacks: expected one that fits"):
        choose_slack(X, cp, Grid(4), slacks=(50.0,))
    with pytest.raises(ValueError, match="slacks: expected at least 0"):
        choose_slack(X, cp, Grid(4), slacks=(-0.1,))


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


def test_a_tiny_problem_is_solved_to_the_proved_optimum():
    """All codes of all factors, each with its best scale: search finds the least error of all."""
    grid, hits = Grid(2), 0
    for seed in range(6):
        X = random_tensor(seed, (2, 2, 2))
        best = np.inf
        columns = [np.array(k) for k in product(range(-2, 2), repeat=2)]
        for a, b, c in product(columns, repeat=3):
            T = np.einsum("i,j,k->ijk", a, b, c).astype(float)
            if (T * X).sum() > 0:
                best = min(best, ((X - T * (T * X).sum() / (T**2).sum()) ** 2).sum())
        least = sqrt(best) / np.linalg.norm(X)
        error = factorize(X, 1, grid, rng=seed, sweeps=100, restarts=3).error
        assert error >= least - 1e-9
        hits += error <= least + 1e-9
    assert hits >= 5


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


# --- methods --------------------------------------------------------------------------------------


@law("factorize.grid", "factorize.error", "factorize.seed")
@settings(max_examples=8)
@given(seeds, st.sampled_from(search.METHODS), axes)
def test_results_lie_on_the_grid_and_come_again(seed, method, axis):
    X = random_tensor(seed, (4, 3, 5))
    a, b = (
        factorize(X, 3, Grid(4), rng=seed, method=method, axis=axis, **few(method)) for _ in "ab"
    )
    assert all(np.array_equal(p, q) for p, q in zip(a.cp.codes, b.cp.codes, strict=True))
    assert a.error == relative_error(X, a.cp.dequantize())
    assert np.isclose(a.start_error, relative_error(X, a.relaxed), rtol=1e-9) or method == "authors"
    assert_on_grid(a.cp)


# Sweeps of least squares and of the correction, and its slack.
STAGES = {
    "als-round": (50, 0, 0.0),
    "authors": (50, 500, 0.0),
    "sequential": (100, 100, 0.1),
    "best": (25, 50, 0.3),
}


def by_hand(X, method, rng, options):
    """A method put together from its stages."""
    grid, (als, correction, slack) = Grid(4), STAGES[method]
    fit = cp_als(X, 8, rng=rng, max_sweeps=als)
    if method == "als-round":
        return quantize_cp(fit.cp, grid, **options)
    start = epc(X, fit.cp, slack=slack, max_sweeps=correction).cp
    if method == "authors":
        return ao_admm(X, 8, grid, start=start, **options).cp
    start = orient(start, grid)
    if method == "best":
        return polish(X, quantize_cp(start, grid, **options), noise=0.35, sweeps=20, rng=rng).cp
    rounded = one_after_the_other(X, start, grid, lambda A: choose_scale(A, grid, **options).scale)
    return polish(X, rounded).cp


@pytest.mark.parametrize("method", search.METHODS)
def test_a_method_is_what_its_stages_give_by_hand(method):
    X = random_tensor(3, (6, 7, 5))  # nearly all stages go on until their last sweep
    options = {"axis": 1, "rule": "max-abs"}
    rng = np.random.default_rng(3)
    fit = factorize(X, 8, Grid(4), method=method, rng=rng, **options, **few(method))
    hand = by_hand(X, method, np.random.default_rng(3), options)
    for a, b in zip((*fit.cp.codes, *fit.cp.scales), (*hand.codes, *hand.scales), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("method", search.METHODS)
def test_a_matrix_gets_its_rounded_svd_where_that_is_better(method):
    replaced = 0
    for seed in (0, 5):
        X = random_tensor(seed, (3, 4))
        svd = svd_cp(X, 2)
        fit = factorize(X, 2, Grid(2), method=method, rng=seed, **few(method))
        assert fit.error <= relative_error(X, quantize_cp(svd, Grid(2)).dequantize())
        if all(map(np.array_equal, fit.relaxed.factors, svd.factors)):
            replaced += 1
            assert (fit.stop_reason == "rounded") == (method in ("als-round", "authors"))
            assert fit.start_error == relative_error(X, svd)
    assert replaced > 0


def test_options_left_out_are_the_documented_ones():
    X = random_tensor(9, (3, 2, 2))
    usual = {"method": "best", "rng": 0, "axis": None, "rule": "mse-exact"}
    logs = []
    for options in ({}, {**usual, "slack": None, "sweeps": 500, "restarts": 1}):
        logs.append([])
        factorize(X, 2, Grid(2), callback=lambda *row: logs[-1].append(row) and None, **options)
    assert logs[0] == logs[1]
    cp = cp_als(X, 2, rng=1).cp
    found, same = (
        choose_slack(X, cp, Grid(2), **options)
        for options in ({}, {"slacks": (0.0, 0.03, 0.1, 0.3, 1.0), "sweeps": 60, "rng": 0})
    )
    assert (found.slacks, found.errors) == (same.slacks, same.errors) and len(found.slacks) == 5


def test_methods_are_better_in_their_order():
    """Medians over starts of a tensor with cancelling components."""
    X = random_tensor(7, (8, 8, 9))
    errors = {
        method: np.median([factorize(X, 14, Grid(4), method=method, rng=s).error for s in range(5)])
        for method in search.METHODS
    }
    assert errors["best"] < errors["authors"] * 0.99
    assert errors["sequential"] < errors["als-round"] * 0.9
    assert errors["authors"] < errors["als-round"] * 0.9


@law("factorize.restarts")
@settings(max_examples=5)
@given(seeds)
def test_restarts_are_never_worse(seed):
    X = random_tensor(seed, (4, 3, 5))
    errors = [factorize(X, 3, Grid(3), rng=seed, sweeps=30, restarts=n).error for n in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)


def test_restarts_start_from_elsewhere():
    first = []

    def note(stage, sweep, figure):
        if (stage, sweep) == ("als", 0):
            first.append(figure)

    factorize(random_tensor(9, (4, 3, 5)), 3, Grid(3), sweeps=1, restarts=3, callback=note)
    assert len(set(first)) == 3


def test_slack_is_limited_by_the_room_there_is():
    X = random_tensor(8, (6, 7, 5))
    poor = factorize(X, 1, Grid(4), rng=1, sweeps=20)  # a fit whose error is near 1
    assert poor.start_error < 1
    starts = [factorize(X, 6, Grid(4), rng=1, slack=s, sweeps=1).start_error for s in (0.0, 0.2)]
    assert np.isclose(starts[1], 1.2 * starts[0], rtol=1e-5)


def test_stages_are_reported_and_may_be_stopped():
    X = random_tensor(2, (4, 3, 5))
    for method, stages in (
        ("best", ["als", "epc", "polish"]),
        ("sequential", ["als", "epc", "polish"]),
        ("authors", ["als", "epc", "admm"]),
        ("als-round", ["als"]),
    ):
        seen = []

        def note(*row, seen=seen):
            seen.append(row)

        fit = factorize(X, 3, Grid(4), method=method, callback=note, **few(method))
        assert list(dict.fromkeys(row[0] for row in seen)) == stages
        assert seen[-1][2] == (fit.history.error[-1] if len(stages) > 1 else fit.start_error)


def test_bad_input_is_refused():
    X, grid, seen = random_tensor(4, (4, 3, 5)), Grid(4), []
    q = quantize_cp(random_cp((4, 3, 5), 2, rng=0), grid)
    for options, message in (
        ({"method": "greedy"}, "method: expected one of"),
        ({"method": "authors", "sweeps": 5}, "sweeps: expected None with method 'authors'"),
        ({"method": "sequential", "restarts": 2}, "restarts: expected None"),
        ({"restarts": 0}, "restarts: expected at least 1"),
        ({"sweeps": -1}, "sweeps: expected at least 0"),
        ({"slack": -0.1}, "slack: expected at least 0"),
        ({"slack": 0.1, "method": "als-round"}, "slack: expected 0 with method 'als-round'"),
        ({"axis": 2}, "axis"),
        ({"axis": 2, "method": "als-round"}, "axis"),
        ({"rule": "min-max"}, "no zero points"),
    ):
        with pytest.raises(ValueError, match=message):
            factorize(X, 3, grid, callback=seen.append, **options)
    with pytest.raises(ValueError, match="log2"):
        factorize(X, 3, Grid(3, kind="log2"), callback=seen.append)
    assert not seen  # refused before anything is fitted
    assert factorize(X, 3, grid, method="als-round", slack=0.0).error < 1
    for options, message in (
        ({"noise": -1.0}, "noise: expected at least 0"),
        ({"noise": np.inf}, "noise: expected a finite"),
        ({"noise": np.nextafter(1e5, 1e6)}, "noise: expected at most 100000"),
        ({"noise": 0.1, "sweeps": -1}, "sweeps: expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            polish(X, q, **options)
    assert polish(X, q, noise=1e5, sweeps=1).error < 1
    for function in (polish, certify):
        with pytest.raises(TypeError, match="cp: expected a QuantizedCP"):
            function(X, q.dequantize())
        with pytest.raises(ValueError, match="cp: expected shape"):
            function(X[:3], q)
        with pytest.raises(ValueError, match="log2"):
            function(X, quantize_cp(q.dequantize(), Grid(3, kind="log2")))
    for budget, message in ((-1, "at least 0"), (2**53 + 1, f"at most {2**53}")):
        with pytest.raises(ValueError, match=f"budget: expected {message}"):
            certify(X, q, budget=budget)
    assert certify(X, q, budget=2**53).proved == (1.0, 1.0, 1.0)
    with pytest.raises(TypeError, match="cp: expected a CP"):
        orient(q, grid)
    with pytest.raises(ValueError, match="grid: expected levels in equal steps around zero"):
        predict_error(X, q.dequantize(), Grid(1, kind="binary"))


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


def one_run(X, rank, grid, *, rng, restarts=1, **options):
    """Takes the last restart, not the best one."""
    return right.factorize(X, rank, grid, rng=rng + restarts, **options)


def error_of_the_start(X, rank, grid, **options):
    """Returns the error of the float start as that of the codes."""
    found = right.factorize(X, rank, grid, **options)
    return found._replace(error=found.start_error)


def first_slack(X, cp, grid, **options):
    """Takes the first slack, not the best one."""
    found = right.choose_slack(X, cp, grid, **options)
    return found._replace(slack=found.slacks[0], error=found.errors[0])


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
        (test_restarts_are_never_worse, {"factorize": one_run}),
        (test_results_lie_on_the_grid_and_come_again, {"factorize": error_of_the_start}),
        (test_the_slack_returned_is_the_best_of_those_tried, {"choose_slack": first_slack}),
        (test_no_codes_of_one_factor_are_below_its_bound, {"certify": boastful}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
