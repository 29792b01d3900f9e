"""Laws and bad input of qcp_ref.tensors.als; its planted faults stand at the end."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from support import arrays, caught, exact, law, seeds, shapes, sides, tensors_with_factors

import qcp_ref as right
from qcp_ref import (
    CP,
    als_update,
    balance,
    cp_als,
    degeneracy,
    gram,
    loops,
    mttkrp,
    random_cp,
    reconstruct,
    relative_error,
)
from qcp_ref.tensors import als, sweep

THIS = sys.modules[__name__]
EPS = np.finfo(float).eps


def worst_condition(cp):
    """Largest condition number of the modes' Gram matrices at unit diagonal."""
    worst = 1.0
    for mode in range(len(cp.shape)):
        G = gram(cp.factors, mode)
        d = np.sqrt(np.diag(G))
        worst = max(worst, np.linalg.cond(G / np.outer(d, d)) if d.all() else np.inf)
    return worst


def as_floats(nested):
    return np.array(nested, dtype=object).astype(float)


@law("als_update.normal")
@given(tensors_with_factors())
def test_update_satisfies_the_normal_equations(case):
    X, factors = case
    F, G = mttkrp(X, factors, 0), gram(factors, 0)
    A = als_update(F, G).factor
    residual = np.abs(A @ G - F).max()
    # F lies in the range of G; what is cut off as noise stays below the root of the rounding level.
    scale = np.linalg.norm(X) * np.sqrt(np.trace(G)) + 1e-300
    assert residual <= 100 * np.sqrt(EPS) * scale


@law("als_update.elimination")
@given(tensors_with_factors(), st.sampled_from([1, 2, 48]))
def test_regular_update_equals_exact_elimination(case, width):
    X, factors = case
    F, G = mttkrp(X, factors, 0), gram(factors, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(als, "_BLOCK", width)
        found = als_update(F, G)
    d = np.sqrt(np.diag(G))
    condition = np.linalg.cond(G / np.outer(d, d)) if d.all() else np.inf
    if not found.singular:
        try:
            truth = as_floats(loops.solve(exact(G), exact(F)))
        except ZeroDivisionError:
            raise AssertionError("a singular system was called regular") from None
        error = np.linalg.norm((found.factor - truth) * d)
        assert error <= 100 * len(G) ** 2 * EPS * condition * np.linalg.norm(truth * d)
    else:
        assert condition > 1e12


@law("als_update.least", "als_update.normal")
@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_singular_update_has_the_smallest_components(rows, rank, data):
    # G = K^T K with a duplicated and possibly a zero column: not regular
    K = data.draw(arrays((3, rank)))
    K = np.hstack([K, K[:, :1]])
    A_true = data.draw(arrays((rows, rank + 1)))
    F, G = A_true @ K.T @ K, K.T @ K
    found = als_update(F, G)
    assert found.singular
    assert np.abs(found.factor @ G - F).max() <= 1e-9 * (1 + np.abs(F).max())
    # Optimal: at right angles, in the metric of component lengths, to all that changes nothing.
    _, sizes, V = np.linalg.svd(K)
    null = V[int((sizes > 1e-10 * max(sizes.max(), 1)).sum()) :]
    slopes = (found.factor * np.diag(G)) @ null.T
    assert np.abs(slopes).max() <= 1e-7 * (1 + np.abs(found.factor).max()) * (1 + G.max())
    assert not found.factor[:, np.diag(G) == 0].any()


@law("cp_als.descent", "cp_als.dense")
@given(seeds, shapes(max_dims=3), sides)
def test_error_never_rises_and_is_that_of_the_dense_difference(seed, shape, rank):
    X = np.random.default_rng([seed, 99]).standard_normal(shape)
    fit = cp_als(X, rank, rng=seed, max_sweeps=12, stop="none")
    error, floor = fit.history.error, fit.history.floor
    noise = min(1e-13 + EPS * worst_condition(fit.cp), np.sqrt(EPS))
    assert (np.diff(error) <= 10 * (floor[1:] + noise)).all()
    assert abs(fit.error - relative_error(X, fit.cp)) <= 10 * floor[-1] + 1e-13
    assert error[0] <= 1 + 1e-12


@law("cp_als.loops")
@settings(max_examples=40)
@given(st.integers(2, 3), st.integers(1, 2), st.data())
def test_sweep_equals_the_plain_loops(modes, rank, data):
    shape = data.draw(st.lists(st.integers(2, 3), min_size=modes, max_size=modes))
    X = data.draw(arrays(tuple(shape)))
    start = CP(
        [
            data.draw(arrays((side, rank), st.integers(1, 3))) + np.eye(side, rank) * 5
            for side in shape
        ]
    )
    fit = cp_als(X, rank, init=start, max_sweeps=1)
    if fit.history.singular[0] or not X.any():
        return
    try:
        truth = loops.als_sweep(exact(X), exact(balance(start).factors))
    except ZeroDivisionError:  # exactly singular, although rounding hides it: no unique sweep
        reject()
    expected = reconstruct(CP([as_floats(A) for A in truth]))
    condition = max(np.linalg.cond(gram([as_floats(A) for A in truth], n)) for n in range(modes))
    tolerance = 1e4 * EPS * min(condition, 1e10) * (1 + np.linalg.norm(expected))
    assert np.linalg.norm(reconstruct(fit.cp) - expected) <= tolerance


@law("cp_als.fixed")
@given(seeds, shapes(max_dims=4), st.integers(1, 3))
def test_an_exact_fit_stays_fitted(seed, shape, rank):
    truth = random_cp(shape, rank, rng=seed)
    X = reconstruct(truth)
    fit = cp_als(X, rank, init=truth, max_sweeps=3, stop="none")
    assert fit.error <= 1e-6  # singular Gram matrices leave the square root of the rounding level
    if not fit.history.singular.any():
        assert fit.error <= 1e-9


@pytest.mark.parametrize("shape", [(7, 6, 5), (5, 4, 3, 4), (8, 9)])
@pytest.mark.parametrize("init", ["random", "svd"])
def test_recovers_tensors_of_known_rank_from_most_starts(shape, init):
    X = reconstruct(random_cp(shape, 3, rng=12345))
    errors = [
        cp_als(X, 3, init=init, rng=seed, max_sweeps=500, stop="none").error for seed in range(4)
    ]
    assert np.median(errors) < 1e-6
    first = cp_als(X, 3, init=init, rng=0, max_sweeps=1).error
    assert first > 1e-3 or len(shape) == 2, "the start must not know the answer"


@given(seeds)
def test_tensorly_makes_the_same_sweeps(seed):
    pytest.importorskip("tensorly", reason="third opinion, in the dev extra")
    from tensorly.cp_tensor import cp_to_tensor
    from tensorly.decomposition import parafac

    X = np.random.default_rng([seed, 3]).standard_normal((5, 4, 3))
    start = random_cp((5, 4, 3), 2, rng=seed)
    mine = cp_als(X, 2, init=start, max_sweeps=3, stop="none")
    given_factors = (np.ones(2), [A.copy() for A in start.factors])
    theirs = cp_to_tensor(parafac(X, 2, init=given_factors, n_iter_max=3, tol=0))
    assert np.abs(reconstruct(mine.cp) - theirs).max() <= 1e-9 * np.abs(X).max()


def test_two_modes_reach_the_truncated_svd():
    X = np.random.default_rng(5).standard_normal((9, 7))
    best = np.sqrt((np.linalg.svd(X)[1][3:] ** 2).sum()) / np.linalg.norm(X)
    fit = cp_als(X, 3, rng=0, max_sweeps=2000, tol=1e-14)
    assert abs(fit.error - best) < 1e-9


@law("cp_als.seed")
def test_same_seed_same_bits_other_seed_other_fit():
    X = np.random.default_rng(1).standard_normal((5, 4, 3))
    a, b, c = (cp_als(X, 3, rng=seed, max_sweeps=5) for seed in (3, 3, 4))
    assert all(np.array_equal(A, B) for A, B in zip(a.cp.factors, b.cp.factors, strict=True))
    assert not np.array_equal(a.cp.factors[0], c.cp.factors[0])
    generator = np.random.default_rng(3)
    assert (
        cp_als(X, 3, rng=generator, max_sweeps=5).error
        != cp_als(X, 3, rng=generator, max_sweeps=5).error
    )


def test_stop_rules_do_what_their_names_say():
    X = np.random.default_rng(2).standard_normal((6, 5, 4))
    exact_rank = reconstruct(random_cp((6, 5, 4), 2, rng=31))
    whole = cp_als(X, 3, stop="none", max_sweeps=30)
    assert whole.stop_reason == "max_sweeps" and len(whole.history.error) == 30
    changed = cp_als(X, 3, tol=1e-3)
    assert changed.stop_reason == "converged"
    assert (
        abs(np.diff(changed.history.error))[-1]
        < 1e-3
        <= abs(np.diff(changed.history.error))[:-1].min()
    )
    relative = cp_als(X, 3, tol=1e-3, stop="relative-change")
    ratio = abs(np.diff(relative.history.error)) / relative.history.error[1:]
    assert ratio[-1] < 1e-3 <= ratio[:-1].min()
    below = cp_als(exact_rank, 2, tol=1e-4, stop="error-below", rng=1, max_sweeps=500)
    assert below.error < 1e-4 <= below.history.error[-2]


def test_callback_sees_every_sweep_and_may_stop():
    X = np.random.default_rng(2).standard_normal((6, 5, 4))
    seen = []
    fit = cp_als(X, 3, callback=lambda sweep, error: seen.append((sweep, error)) or sweep == 4)
    assert fit.stop_reason == "callback"
    assert seen == list(enumerate(fit.history.error)) and len(seen) == 5


@law("als_update.elimination")
@settings(max_examples=60)
@given(seeds, st.integers(1, 5), st.sampled_from([1.0, 1e-3]))
def test_columns_of_very_different_length_are_no_singularity(seed, rank, spread):
    """Lengths from 1e-12 to 1e12: the factor is that of elimination, column by column."""
    rng = np.random.default_rng([seed, 23])
    K = rng.standard_normal((rank + 2, 1)) + spread * rng.standard_normal((rank + 2, rank))
    K = K * 10.0 ** rng.uniform(-12, 12, rank)
    F, G = rng.standard_normal((2, rank + 2)) @ K, K.T @ K
    found = als_update(F, G)
    d = np.sqrt(np.diag(G))
    condition = np.linalg.cond(G / np.outer(d, d))
    truth = as_floats(loops.solve(exact(G), exact(F)))
    error = np.abs((found.factor - truth) * d).max() / np.abs(truth * d).max()
    assert not found.singular and error <= 20 * rank * EPS * condition


@pytest.mark.parametrize("size", [2.0**-780, 1e-200, 1e200, 2.0**780])
def test_gram_matrices_far_from_one(size):
    found = als_update([[size, size]], size * np.array([[1.0, 0.5], [0.5, 1.0]]))
    assert np.allclose(found.factor, 2 / 3, rtol=1e-15) and not found.singular


def test_singular_gram_is_recorded_and_border_rank_reported():
    X = np.random.default_rng(3).standard_normal((2, 2, 2))
    fit = cp_als(
        X, 5, max_sweeps=3, rng=0, stop="none"
    )  # rank 5 in a 2x2x2 tensor: singular always
    assert (fit.history.singular == 3).all() and fit.error < 1e-6
    a, b = np.eye(2)
    border = sum(np.einsum("i,j,k->ijk", *t) for t in ((a, a, b), (a, b, a), (b, a, a)))
    fit = cp_als(border, 2, max_sweeps=1000, stop="none", rng=1)
    assert fit.degeneracy.suspected and fit.degeneracy.norm_ratio > 10
    assert 0 < fit.error < 0.02


def test_zero_tensor_gives_zero_factors():
    fit = cp_als(np.zeros((3, 4, 5)), 2)
    assert fit.stop_reason == "zero tensor" and fit.error == 0
    assert not any(A.any() for A in fit.cp.factors)


@pytest.mark.parametrize(
    "X", [np.full((3, 3, 3), 2.0), np.array([[7.0]]), np.full((1, 1, 1), -3.0)]
)
def test_constant_and_single_element_tensors_are_fitted(X):
    for init in ("random", "svd"):
        fit = cp_als(X, 2, init=init, rng=1)
        assert fit.error < 1e-7


def test_svd_start_of_a_large_kernel_needs_little_memory():
    X = np.random.default_rng(0).standard_normal((256, 256, 9))
    tracemalloc.start()
    cp_als(X, 20, init="svd", max_sweeps=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        peak < 8 * X.nbytes
    )  # a full SVD of one unfolding would hold a 2304 x 2304 matrix and more


def test_tensors_far_from_unit_scale_are_fitted_alike():
    X = np.random.default_rng(4).standard_normal((5, 4, 3))
    fits = [
        cp_als(X * s, 2, init="svd", max_sweeps=20, stop="none") for s in (1.0, 2.0**120, 2.0**-120)
    ]
    assert np.ptp([fit.error for fit in fits]) < 1e-9


@pytest.mark.parametrize("exponent", [-390, 390])
def test_the_whole_supported_range_is_fitted(exponent):
    X = np.random.default_rng(4).standard_normal((5, 4, 3))
    usual = cp_als(X, 2, init="svd", max_sweeps=20, stop="none")
    fit = cp_als(X * 2.0**exponent, 2, init="svd", max_sweeps=20, stop="none")
    assert abs(fit.error - usual.error) < 1e-9
    with pytest.raises(ValueError, match="X: expected a largest magnitude"):
        cp_als(X * 2.0 ** (exponent * 1.2), 2)
    with pytest.raises(ValueError, match="X: expected a largest magnitude"):
        relative_error(X * 2.0 ** (exponent * 1.2), usual.cp)


def test_svd_start_takes_the_leading_directions():
    rng = np.random.default_rng(6)
    U, V = (np.linalg.qr(rng.standard_normal((side, 6)))[0] for side in (9, 8))
    X = U @ np.diag([8.0, 4, 2, 1, 0.5, 0.25]) @ V.T
    best = np.linalg.norm([1, 0.5, 0.25]) / np.linalg.norm(X)
    assert abs(cp_als(X, 3, init="svd", max_sweeps=1).error - best) < 1e-9


def test_factors_come_back_balanced():
    X = np.random.default_rng(7).standard_normal((5, 4, 3))
    fit = cp_als(X, 3, rng=2, max_sweeps=4)
    lengths = np.array([np.linalg.norm(A, axis=0) for A in fit.cp.factors])
    assert np.allclose(lengths, lengths[0], rtol=1e-12)


def test_defaults_are_seed_0_and_200_sweeps():
    X = np.random.default_rng(8).standard_normal((4, 3, 5))
    fit, same = cp_als(X, 2, stop="none"), cp_als(X, 2, stop="none", rng=0)
    assert len(fit.history.error) == 200
    assert np.array_equal(fit.history.error, same.history.error)


def test_the_zero_tensor_has_a_history():
    (error,), (floor,), (singular,) = cp_als(np.zeros((2, 3)), 2).history
    assert error == floor == singular == 0


@given(seeds, shapes(max_dims=3), sides)
def test_degeneracy_is_relative_to_the_tensor(seed, shape, rank):
    X = np.random.default_rng([seed, 98]).standard_normal(shape)
    fit = cp_als(X, rank, rng=seed, max_sweeps=2)
    assert fit.degeneracy == degeneracy(fit.cp, norm_X=np.linalg.norm(X))


def test_the_floor_counts_all_terms_by_magnitude():
    # 2 beside 3 - 2: terms 2**2, twice 6 and 4, and 9, 6, 6, 4: together 49, of which 1 is left.
    factors = [np.array([[1.0, 1.0]]), np.array([[3.0, -2.0]])]
    X = np.array([[2.0]])
    error, floor = sweep.fit_error(X, 2.0, factors, mttkrp(X, factors, 1), gram(factors, 1))
    assert error == 0.5 and abs(floor / np.sqrt(EPS) - 7) < 1e-12


@given(seeds, shapes(max_dims=3), st.integers(1, 3))
def test_the_floor_of_what_does_not_cancel_is_that_of_the_sum(seed, shape, rank):
    rng = np.random.default_rng([seed, 97])
    X, factors = rng.uniform(1, 2, shape), [rng.uniform(0, 1, (side, rank)) for side in shape]
    last, size = len(shape) - 1, np.linalg.norm(X)
    F, G = mttkrp(X, factors, last), gram(factors, last)
    error, floor = sweep.fit_error(X, size, factors, F, G)
    both = np.linalg.norm(X + reconstruct(CP(factors))) / size
    if error > 1e-6:
        assert abs(floor - 2 * np.sqrt(EPS) * both) <= 1e-12 * floor
    _, scaled = sweep.fit_error(4 * X, 4 * size, [*factors[:-1], 4 * factors[-1]], 4 * F, G)
    assert scaled == floor


def test_an_error_of_zero_is_a_relative_change_below_any():
    start = CP([[[1.0]], [[1.0]]])
    fit = cp_als([[2.0]], 1, init=start, stop="relative-change", tol=0.0)
    assert fit.error == 0 and fit.stop_reason == "converged" and len(fit.history.error) == 1


def test_an_error_equal_to_the_tolerance_is_not_below_it():
    X = np.random.default_rng(9).standard_normal((4, 3, 5))
    first, second = cp_als(X, 2, stop="none", max_sweeps=2).history.error
    fit = cp_als(X, 2, stop="error-below", tol=first)
    assert fit.history.error.tolist() == [first, second]


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_leading_singular_vectors(shape):
    M = 0.01 * np.random.default_rng(10).standard_normal(shape)
    U = als._left_singular_vectors(M, 3)
    assert np.allclose(U.T @ U, np.eye(3), atol=1e-10)
    leading = np.linalg.svd(M)[0][:, :3]
    assert np.allclose(np.abs(U.T @ leading), np.eye(3), atol=1e-8)


def test_a_tall_matrix_of_low_rank_has_zero_columns_beyond_it():
    M = np.zeros((4, 2))
    M[0, 0] = 3.0
    assert als._left_singular_vectors(M, 2).T.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_columns_beyond_the_side_are_about_as_long():
    X = np.random.default_rng(11).standard_normal((300, 2, 1, 2))
    start = als.initial_factors(X, 40, "svd", np.random.default_rng(12))
    lengths = np.linalg.norm(start.factors[0], axis=0)
    assert np.allclose(lengths[:4], 1) and 0.9 < lengths[4:].mean() < 1.1


def test_bad_input_is_refused():
    X = np.ones((3, 4, 5))
    with pytest.raises(ValueError, match=r"^rank: expected at least 1"):
        cp_als(X, 0, init="svd")
    with pytest.raises(ValueError, match=r"^F: expected 2 axes"):
        als_update(np.ones((1, 3, 2)), np.eye(2))
    with pytest.raises(ValueError, match=r"^init: expected a longest component"):
        cp_als(X, 1, init=CP([np.full((side, 1), 2.0**200) for side in X.shape]))
    for rank, error in ((0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^rank: expected"):
            cp_als(X, rank)
    for options, message in (
        ({"init": "hosvd"}, r"init: expected one of \['random', 'svd'\]"),
        ({"stop": "never"}, "stop: expected one of"),
        ({"tol": -1e-3}, "tol: expected at least 0"),
        ({"max_sweeps": 0}, "max_sweeps: expected at least 1"),
        ({"init": random_cp((3, 4, 5), 3, rng=0)}, "init: expected shape"),
        ({"rng": -1}, "rng: expected a seed"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            cp_als(X, 2, **options)
    for options in ({"init": 3}, {"rng": None}, {"tol": "small"}, {"stop": None}):
        with pytest.raises(TypeError, match="expected"):
            cp_als(X, 2, **options)
    with pytest.raises(ValueError, match="X: expected at least 2 axes"):
        cp_als(np.ones(3), 2)
    with pytest.raises(ValueError, match="X: expected finite"):
        cp_als(X * np.nan, 2)
    with pytest.raises(ValueError, match=r"G: expected shape \(2, 2\)"):
        als_update(np.ones((3, 2)), np.ones((3, 3)))


@law("cp_als.seed")
@settings(max_examples=25)
@given(seeds, shapes(max_dims=4), st.integers(1, 6), st.sampled_from(["random", "svd"]))
def test_fits_of_one_seed_are_the_same_bit_for_bit(seed, shape, rank, init):
    X = np.random.default_rng([seed, 96]).standard_normal(shape)
    options = {"init": init, "max_sweeps": 3, "stop": "none"}
    one, same = (cp_als(X, rank, rng=seed, **options) for _ in range(2))
    for A, B in zip(one.cp.factors, same.cp.factors, strict=True):
        assert np.array_equal(A, B)
    assert np.array_equal(one.history, same.history)
    generators = [np.random.default_rng(seed) for _ in range(2)]
    one, same, later = (cp_als(X, rank, rng=generators[n], **options).cp.factors for n in (0, 1, 0))
    assert all(map(np.array_equal, one, same))
    # A generator goes on: with few sweeps another start is seen.
    assert init == "svd" or min(shape) == 1 or not np.array_equal(one[0], later[0])


@law("cp_als.fixed", "cp_als.dense", "cp_als.descent")
@settings(max_examples=10)
@given(seeds, st.integers(10, 25), st.integers(4, 12))
def test_laws_hold_for_larger_tensors(seed, side, rank):
    truth = random_cp((side, side + 3, side - 2), rank, rng=seed)
    X = reconstruct(truth)
    assert cp_als(X, rank, init=truth, max_sweeps=2, stop="none").error <= 1e-9
    noisy = X + np.random.default_rng([seed, 95]).standard_normal(X.shape)
    fit = cp_als(noisy, rank, rng=seed, max_sweeps=8, stop="none")
    assert (np.diff(fit.history.error) <= 1e-9).all()
    assert (
        abs(fit.error - np.linalg.norm(noisy - reconstruct(fit.cp)) / np.linalg.norm(noisy)) < 1e-9
    )


# --- planted faults -------------------------------------------------------------------------------


def ridge_update(F, G):
    """A small ridge: stable, plausible, wrong."""
    return right.als_update(F, G + 1e-3 * np.trace(G) * np.eye(len(G)))


def least_entry_update(F, G):
    """Solves a singular system with extra null-space content instead of the minimum norm."""
    found = right.als_update(F, G)
    null = np.eye(len(G)) - np.linalg.pinv(G, rcond=1e-10, hermitian=True) @ G
    return found._replace(factor=found.factor + null.sum(axis=0))


def unsquared_error(X, rank, **options):
    """Reports the squared relative error."""
    fit = right.cp_als(X, rank, **options)
    return fit._replace(error=fit.error**2)


def jacobi_als(X, rank, *, init, **options):
    """Updates all modes from the old factors."""
    old = right.balance(init).factors
    new = [
        right.als_update(right.mttkrp(X, old, n), right.gram(old, n)).factor
        for n in range(len(old))
    ]
    return right.cp_als(X, rank, init=init, **options)._replace(cp=CP(new))


def seedless_als(X, rank, **options):
    return right.cp_als(X, rank, **{**options, "rng": 0})


def unseeded_als(X, rank, **options):
    """Draws its start from nowhere."""
    return right.cp_als(X, rank, **{**options, "rng": np.random.default_rng()})


def drifting_als(X, rank, **options):
    """Leaves a fit although there is nothing to gain."""
    fit = right.cp_als(X, rank, **options)
    cp = CP([A * (1 + 1e-4) for A in fit.cp.factors])
    return fit._replace(cp=cp, error=relative_error(X, cp))


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_fits_of_one_seed_are_the_same_bit_for_bit, {"cp_als": unseeded_als}),
        (test_an_exact_fit_stays_fitted, {"cp_als": drifting_als}),
        (test_update_satisfies_the_normal_equations, {"als_update": ridge_update}),
        (test_regular_update_equals_exact_elimination, {"als_update": ridge_update}),
        (test_singular_update_has_the_smallest_components, {"als_update": least_entry_update}),
        (test_error_never_rises_and_is_that_of_the_dense_difference, {"cp_als": unsquared_error}),
        (test_sweep_equals_the_plain_loops, {"cp_als": jacobi_als}),
        (test_same_seed_same_bits_other_seed_other_fit, {"cp_als": seedless_als}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
