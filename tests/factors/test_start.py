"""Laws of qcp_ref.factors.start; its planted faults stand at the end."""

import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import caught, law, seeds

from qcp_ref import (
    CP,
    Grid,
    balance,
    choose_scale,
    cp_als,
    dequantize,
    epc,
    factorize,
    gram,
    mttkrp,
    normalize,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
    solve_rows,
    svd_cp,
    unfold,
)
from qcp_ref.factors import methods, start
from qcp_ref.factors.start import best_rounding, corrected, one_after_the_other, rounded_svd

THIS = sys.modules[__name__]
GRIDS = [Grid(2), Grid(4), Grid(3, mid_rise=True), Grid(4, signed=False), Grid(4, kind="log2")]


def rounding(grid, **options):
    return lambda cp: quantize_cp(cp, grid, **options)


def error_of(X, q):
    return relative_error(X, q.dequantize())


def svd_by_hand(X, rank, sign=1.0):
    """The balanced SVD as NumPy has it, or all its vectors negated, in the tensor's modes."""
    ordered = sorted(range(X.ndim), key=lambda n: (X.shape[n] == 1, n))
    one, two = sorted(ordered[:2])
    U, s, Vt = np.linalg.svd(X.reshape(X.shape[one], X.shape[two]), full_matrices=False)
    count = min(rank, len(s))
    factors = [np.ones((1, count)) for _ in X.shape]
    factors[one], factors[two] = sign * U[:, :count], sign * Vt[:count].T
    padded = [np.pad(A, ((0, 0), (0, rank - count))) for A in factors]
    return balance(CP(padded, np.pad(s[:count], (0, rank - count))))


@settings(max_examples=30)
@given(
    st.sampled_from([(4, 3), (2, 6), (5, 1, 3), (1, 4, 4), (1, 5), (3, 2, 1, 1)]),
    st.integers(1, 5),
    st.sampled_from(GRIDS),
    st.sampled_from([None, 0, 1]),
    seeds,
)
@example((4, 3), 3, Grid(2), None, 6)  # the negated vectors round best
def test_the_rounded_svd_is_no_worse_than_by_hand(shape, rank, grid, axis, seed):
    X = np.random.default_rng([seed, 81]).standard_normal(shape)
    rounded = rounding(grid, axis=axis)
    found = rounded_svd(X, rank, grid, rounded)
    assert found.shape == X.shape and found.rank == rank and found.grid == grid
    for sign in (1.0, -1.0):
        hand = rounded(svd_by_hand(X, rank, sign))
        assert error_of(X, found) <= error_of(X, hand) * (1 + 1e-9) + 1e-15
    assert error_of(X, found) <= error_of(X, rounded(svd_cp(X, rank)))
    # A mode of side 1 costs nothing: the matrix alone is not better.
    matrix = X.reshape([side for side in shape if side > 1] or [1, 1])
    if matrix.ndim == 2:
        alone = rounded_svd(matrix, rank, grid, rounded)
        assert error_of(X, found) <= error_of(matrix, alone) * (1 + 1e-9) + 1e-15


@settings(max_examples=30)
@given(st.lists(seeds, min_size=1, max_size=3), st.sampled_from(GRIDS))
def test_the_best_of_several_roundings_is_taken(numbers, grid):
    X = np.random.default_rng(82).standard_normal((4, 3, 2))
    cps, rounded = [random_cp(X.shape, 3, rng=n) for n in numbers], rounding(grid)
    found = best_rounding(X, cps, rounded)
    assert error_of(X, found) == min(error_of(X, rounded(cp)) for cp in cps)


def cancelling(seed, size=10.0):
    """A tensor of rank 2 written with 4 components, of which two cancel each other."""
    cp, more = random_cp((5, 6, 4), 2, rng=seed), random_cp((5, 6, 4), 1, rng=seed + 1)
    pairs = zip(cp.factors, more.factors, strict=True)
    factors = [np.hstack([A, size * B, size * B]) for A, B in pairs]
    return reconstruct(cp), CP(factors, [1.0, 1.0, 1.0, -1.0])


def overcomplete(seed):
    """A full tensor, fitted exactly by more components than are needed."""
    X = np.random.default_rng([seed, 83]).standard_normal((4, 4, 3))
    return X, cp_als(X, 12, rng=seed, max_sweeps=50)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grid", [Grid(3), Grid(4), Grid(8)])
def test_exact_fits_survive_rounding(grid, seed):
    X, fit = overcomplete(seed)
    assert fit.error < 1e-6
    options = {"max_sweeps": 100}
    found = corrected(X, fit, grid, rounding(grid), slack=None, usual=0.0, **options)
    plain = epc(X, fit.cp, **options).cp
    rounded = [error_of(X, quantize_cp(cp, grid)) for cp in (found, plain)]
    assert rounded[0] < rounded[1]
    assert relative_error(X, found) <= 1 / len(grid.levels)
    # a slack that is given is taken as it is
    given_slack = corrected(X, fit, grid, rounding(grid), slack=0.0, usual=0.3, **options)
    for A, B in zip(given_slack.factors, plain.factors, strict=True):
        assert np.array_equal(A, B)


@pytest.fixture
def runs(monkeypatch):
    """The options of each run of the correction."""
    seen = []

    def watched(X, cp, **options):
        seen.append(options)
        return epc(X, cp, **options)

    monkeypatch.setattr(start, "epc", watched)
    return seen


def a_fit():
    X = np.random.default_rng(84).standard_normal((4, 3, 5))
    return X, cp_als(X, 2, rng=1), Grid(4), rounding(Grid(4))


def test_a_slack_is_that_which_was_given_or_half_of_the_room(runs):
    X, fit, *rest = a_fit()
    given_slack = corrected(X, fit, *rest, slack=0.2, usual=0.3, max_sweeps=3)
    assert np.isclose(relative_error(X, given_slack), 1.2 * fit.error, rtol=1e-5)
    assert runs[-1]["max_sweeps"] == 3
    corrected(X, fit, *rest, slack=None, usual=99.0, max_sweeps=500)
    assert np.isclose(runs[-1]["slack"], (1 / fit.error - 1) / 2)


# The allowance of 16 levels is 1/64; a slack lifts the error before the two are compared.
@pytest.mark.parametrize(
    ("error", "usual", "count"),
    [(0.0, 0.3, 2), (1 / 1.4, 0.3, 2), (1 / 1.2, 0.3, 1), (1.0, 0.0, 1), (50.0, 0.3, 1)],
)
def test_fits_with_room_of_their_own_get_no_allowance(error, usual, count, runs):
    X, fit, *rest = a_fit()
    fit = fit._replace(error=error / 64)
    corrected(X, fit, *rest, slack=None, usual=usual, max_sweeps=3)
    assert [run.get("allowance", 0.0) for run in runs] == [0.0, 1 / 64][:count]
    assert all(run["max_sweeps"] == 3 for run in runs)


# One factor after the other.


def test_float_factors_make_up_for_those_that_are_rounded(monkeypatch):
    X, grid = np.random.default_rng(88).standard_normal((5, 3, 4)), Grid(2)
    cp, states, updates = cp_als(X, 2, rng=1).cp, [], []
    put, update = start._put_on_grid, start.als_update_core

    def watched(X, factors, mode, *options):
        states.append((mode, [*factors]))
        return put(X, factors, mode, *options)

    monkeypatch.setattr(start, "_put_on_grid", watched)
    monkeypatch.setattr(start, "als_update_core", lambda *a: updates.append(a) or update(*a))
    found = one_after_the_other(X, cp, grid, lambda A: choose_scale(A, grid).scale)
    assert all(k.any(axis=0).all() for k in found.codes)
    assert [mode for mode, _ in states] == [1, 2, 0]
    assert len(updates) == 10 * (2 + 1)  # ten sweeps over what is still float
    for count, (_, factors) in enumerate(states):
        fixed, free = ([n for n, _ in part] for part in (states[:count], states[count:]))
        for n in fixed:
            assert np.array_equal(factors[n], found.dequantize().factors[n])
        lengths = [np.linalg.norm(factors[n], axis=0) for n in free]
        assert np.allclose(lengths, lengths[0])
    rest = X - reconstruct(CP(factors))  # of least squares
    assert np.allclose(mttkrp(rest, factors, 0), 0, atol=1e-9)


def row_errors(X, factors, mode, A):
    parts = [*factors]
    parts[mode] = A
    return np.linalg.norm(unfold(X - reconstruct(CP(parts)), mode), axis=1)


@settings(max_examples=20)
@given(
    st.integers(0, 2),
    st.integers(2, 8),
    st.sampled_from([*GRIDS[:4], Grid(1, kind="binary")]),
    seeds,
)
def test_a_factor_is_put_on_its_grid_no_worse_than_by_k_best(mode, rank, grid, seed):
    rng = np.random.default_rng([seed, 89])
    X, factors = rng.standard_normal((6, 4, 5)), list(random_cp((6, 4, 5), rank, rng=rng).factors)
    scale = choose_scale(factors[mode], grid).scale
    codes, last = start._put_on_grid(X, factors, mode, grid, scale)
    other = solve_rows(
        mttkrp(X, factors, mode), gram(factors, mode), grid, scale, method="k-best"
    ).codes
    found, best = (
        row_errors(X, factors, mode, dequantize(k, scale, grid=grid)) for k in (codes, other)
    )
    assert (found <= best * (1 + 1e-9)).all()
    refit = row_errors(X, factors, mode, dequantize(codes, last, grid=grid))
    assert np.linalg.norm(refit) <= np.linalg.norm(found) * (1 + 1e-9)


@given(st.sampled_from(GRIDS[:3]), seeds)
def test_codes_that_fit_exactly_are_kept(grid, seed):
    """With more columns than the other factors tell apart only the start leads to them."""
    rng = np.random.default_rng([seed, 90])
    A = rng.choice(grid.levels, (4, 7))
    factors = [A, *(rng.standard_normal((2, 7)) for _ in "bc")]
    X = reconstruct(CP(factors))
    codes, scale = start._put_on_grid(X, factors, 0, grid, np.array(1.0))
    assert relative_error(X, CP([dequantize(codes, scale, grid=grid), *factors[1:]])) < 1e-7


# The issue of matrices, for all methods at once.
KINDS = ["exact", "cancelling", "equal", "scales", "plain"]


def a_matrix(kind, shape, seed):
    rng = np.random.default_rng([seed, 85])
    X = rng.standard_normal(shape)
    long = [side for side in shape if side > 1]
    rows, columns = long
    if kind == "exact":
        X = rng.integers(-4, 5, (rows, 2)) @ rng.integers(-4, 5, (2, columns)) + 0.0
    elif kind == "cancelling":
        a, b = rng.standard_normal(rows), rng.standard_normal(columns)
        near = np.outer(a + 1e-3 * rng.standard_normal(rows), b)
        X = 1e3 * (np.outer(a, b) - near)
    elif kind == "equal":
        X = np.linalg.qr(rng.standard_normal((rows, rows)))[0] @ np.eye(rows, columns)
    elif kind == "scales":
        X = rng.standard_normal((rows, columns)) * 10.0 ** rng.uniform(-4, 4, columns)
    return X.reshape(shape)


def methods_of(grid):
    return ["als-round", "authors"] + (["sequential", "best"] if grid.kind != "log2" else [])


@pytest.mark.slow
@law("factorize.matrix")
@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([(4, 3), (3, 5), (6, 1, 4)]),
    st.integers(1, 5),
    st.sampled_from([*GRIDS, Grid(8)]),
    st.sampled_from([(None, "mse-exact"), (0, "mse-exact"), (1, "max-abs"), (None, "max-abs")]),
    seeds,
)
def test_no_method_is_worse_than_the_rounded_svd(kind, shape, rank, grid, options, seed):
    X, (axis, rule) = a_matrix(kind, shape, seed), options
    if not X.any():
        return
    if grid.kind == "log2" or not grid.signed:
        rule = "mse-exact"
    # 'max-abs' puts the largest entry half-way between two codes: the last bit decides.
    cp = svd_by_hand(X, rank) if rule == "mse-exact" else svd_cp(X, rank)
    hand = quantize_cp(cp, grid, axis=axis, rule=rule)
    for method in methods_of(grid):
        more = {"sweeps": 5} if method == "best" else {}
        fit = factorize(X, rank, grid, method=method, rng=seed, axis=axis, rule=rule, **more)
        assert fit.error <= error_of(X, hand) * (1 + 1e-9) + 1e-15
        assert fit.error == error_of(X, fit.cp)


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_result_that_was_replaced_is_whole(method):
    """Where the rounded SVD is taken, all of the result tells of it, not of what it replaced."""
    replaced = 0
    for seed in range(30):
        X = np.random.default_rng([seed, 87]).standard_normal((4, 5))
        more = {"sweeps": 20} if method == "best" else {}
        fit = factorize(X, 3, Grid(2), method=method, rng=seed, **more)
        assert (fit.stop_reason == "rounded") == (fit.history.error.size == 0)
        assert fit.error <= fit.history.error.min(initial=1.0) * (1 + 1e-9)
        pairs = zip(fit.relaxed.factors, svd_cp(X, 3).factors, strict=True)
        if all(np.array_equal(A, B) for A, B in pairs):
            replaced += 1
            assert fit.start_error == relative_error(X, fit.relaxed)
            rounded = error_of(X, rounded_svd(X, 3, Grid(2), rounding(Grid(2))))
            assert fit.error == rounded if fit.stop_reason == "rounded" else fit.error <= rounded
    assert replaced > 0


def test_seeds_do_not_matter_where_nothing_is_drawn():
    X = np.random.default_rng(86).standard_normal((5, 4))
    for method in ("als-round", "authors", "sequential"):
        one, two = (factorize(X, 3, Grid(4), method=method, rng=n) for n in (1, 2))
        assert one.error == two.error
        assert all(np.array_equal(a, b) for a, b in zip(one.cp.codes, two.cp.codes, strict=True))
    with pytest.raises(TypeError, match="rng: expected"):
        factorize(X, 3, Grid(4), method="als-round", rng="1")


def test_cancelling_components_are_gone():
    X, cp = cancelling(7, size=100.0)
    found = epc(X, cp)
    before, after = ((normalize(c).weights ** 2).sum() / (X**2).sum() for c in (cp, found.cp))
    assert before > 1e6 and after < 2 and found.error < 1e-8  # rounding of the sum of the start


# --- planted faults -------------------------------------------------------------------------------


def first_signs(X, rank, grid, rounded):
    """Rounds with one choice of signs only."""
    return rounded(svd_cp(X, rank))


def all_rounded_alike(X, rank, grid, rounded):
    """Rounds in steps of one number for all factors, whatever the options."""
    return quantize_cp(svd_cp(X, rank), grid, rule="max-abs")


def the_last(X, cps, rounded):
    """Takes the last rounding, not the best."""
    return rounded(cps[-1])


def no_allowance(X, fit, grid, rounded, *, slack, usual, **options):
    """Leaves exact fits as they are."""
    slack = usual if slack is None else slack
    return start.corrected(X, fit, grid, rounded, slack=slack, usual=usual, **options)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_the_rounded_svd_is_no_worse_than_by_hand, {"rounded_svd": first_signs}),
        (test_the_rounded_svd_is_no_worse_than_by_hand, {"rounded_svd": all_rounded_alike}),
        (test_the_best_of_several_roundings_is_taken, {"best_rounding": the_last}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)


def test_a_missing_allowance_is_caught(monkeypatch):
    monkeypatch.setattr(THIS, "corrected", no_allowance)
    with pytest.raises(AssertionError):
        test_exact_fits_survive_rounding(Grid(4), 0)
