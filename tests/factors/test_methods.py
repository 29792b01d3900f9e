"""Laws and bad input of factors.methods; its planted faults stand at the end."""

import sys
from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from quantized_draws import assert_on_grid, axes
from search_draws import GRIDS, few, grids, random_tensor
from support import caught, law, seeds

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    ao_admm,
    certify,
    choose_scale,
    choose_slack,
    cp_als,
    epc,
    factorize,
    orient,
    polish,
    predict_error,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
    svd_cp,
)
from qcp_ref.factors import methods, search
from qcp_ref.factors.start import one_after_the_other

THIS = sys.modules[__name__]


@pytest.fixture
def sweeps(monkeypatch):
    """Noise of each sweep, and whether it fits the scales anew."""
    seen, sweep = [], search._Codes.sweep

    def watched(self, noise, *, refit=True):
        seen.append((noise, refit))
        return sweep(self, noise, refit=refit)

    monkeypatch.setattr(search._Codes, "sweep", watched)
    return seen


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


@pytest.mark.slow
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
    for method in methods.METHODS:
        fit = factorize(X, rank, Grid(4), method=method, axis=axis, rng=seed, **few(method))
        assert fit.error == relative_error(X, fit.cp.dequantize())
        assert np.isfinite(fit.error)
        assert fit.error <= 1.01 * 2.0**power + 1e-12 or not exact_one


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
        start = orient(epc(X, cp, slack=slack, max_sweeps=methods._START["best"][1]).cp, grid)
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


# --- methods --------------------------------------------------------------------------------------


@law("factorize.grid", "factorize.error", "factorize.seed")
@settings(max_examples=8)
@given(seeds, st.sampled_from(methods.METHODS), axes)
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


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_method_is_what_its_stages_give_by_hand(method):
    X = random_tensor(3, (6, 7, 5))  # nearly all stages go on until their last sweep
    options = {"axis": 1, "rule": "max-abs"}
    rng = np.random.default_rng(3)
    fit = factorize(X, 8, Grid(4), method=method, rng=rng, **options, **few(method))
    hand = by_hand(X, method, np.random.default_rng(3), options)
    for a, b in zip((*fit.cp.codes, *fit.cp.scales), (*hand.codes, *hand.scales), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("method", methods.METHODS)
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
        for method in methods.METHODS
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


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_restarts_are_never_worse, {"factorize": one_run}),
        (test_results_lie_on_the_grid_and_come_again, {"factorize": error_of_the_start}),
        (test_the_slack_returned_is_the_best_of_those_tried, {"choose_slack": first_slack}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
