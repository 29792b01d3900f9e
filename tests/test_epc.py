"""Laws and bad input of qcp_ref.epc; its planted faults stand at the end."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from support import caught, exact, seeds

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    cp_als,
    epc,
    epc_update,
    loops,
    normalize,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
)

THIS = sys.modules[__name__]


@st.composite
def problems(draw, max_rank=4):
    """F, G, ||X||^2, a reachable bound and the share of the way to it."""
    rows, rank = draw(st.integers(1, 4)), draw(st.integers(1, max_rank))
    rng = np.random.default_rng([draw(seeds), 13])
    K = rng.standard_normal((rank + 3, rank))
    K /= np.linalg.norm(K, axis=0)
    Y = rng.standard_normal((rows, len(K)))
    F, G, square = Y @ K, K.T @ K, float((Y**2).sum())
    least = square - float((np.linalg.solve(G, F.T).T * F).sum())
    share = draw(st.sampled_from([1e-6, 0.01, 0.3, 0.9, 0.999]))
    return F, G, square, least + share * (square - least), share


def error_of(U, F, G, square):
    return square - 2 * np.vdot(F, U) + np.vdot(U @ G, U)


@given(problems())
def test_error_after_the_update_is_the_bound(problem):
    F, G, square, bound, _ = problem
    found = epc_update(F, G, square, bound)
    assert abs(error_of(found.factor, F, G, square) - bound) <= 1e-10 * square
    assert abs(found.squared_error - bound) <= 1e-10 * square


@given(problems(), seeds)
def test_no_feasible_factor_has_a_smaller_norm(problem, seed):
    F, G, square, bound, _ = problem
    U = epc_update(F, G, square, bound).factor
    rng = np.random.default_rng([seed, 17])
    least = np.linalg.solve(G, F.T).T
    for size in (1e-3, 0.1, 1.0):
        step = rng.standard_normal(U.shape) * size * np.linalg.norm(U)
        # walk back towards the least-squares factor until the bound holds
        for t in np.linspace(0, 1, 30):
            candidate = (1 - t) * (U + step) + t * least
            if error_of(candidate, F, G, square) <= bound:
                assert np.linalg.norm(candidate) >= np.linalg.norm(U) * (1 - 1e-9)
                break


@given(problems())
def test_tau_lies_in_its_bracket(problem):
    F, G, square, bound, share = problem
    tau = epc_update(F, G, square, bound).tau
    values = np.linalg.eigvalsh(G)
    ratio = np.sqrt(share) / (1 - np.sqrt(share))
    assert values[0] * ratio * (1 - 1e-6) <= tau <= values[-1] * ratio * (1 + 1e-6)


@given(st.integers(1, 5), seeds, st.floats(0.01, 0.99))
def test_rank_one_has_the_closed_form(rows, seed, share):
    rng = np.random.default_rng([seed, 19])
    F, G = rng.standard_normal((rows, 1)), np.array([[2.5]])
    reach = float((F**2).sum()) / 2.5
    square = reach + 1.0
    found = epc_update(F, G, square, 1.0 + share * reach)
    assert np.allclose(found.factor, (1 - np.sqrt(share)) * F / 2.5, rtol=1e-12)


@given(problems(max_rank=3))
def test_update_equals_bisection_on_rational_numbers(problem):
    F, G, square, bound, share = problem
    assume(share > 1e-3)
    tau = epc_update(F, G, square, bound).tau
    # 24 halvings of a bracket around the root find it to seven digits; exact arithmetic never errs
    bracket = Fraction(tau) * Fraction(1, 3), Fraction(tau) * 3
    root = loops.epc_tau(exact(F), exact(G), Fraction(square), Fraction(bound), bracket, 24)
    assert abs(float(root) - tau) <= 1e-6 * tau
    U = np.array(loops.ridge(exact(F), exact(G), Fraction(tau)), dtype=object).astype(float)
    assert np.abs(epc_update(F, G, square, bound).factor - U).max() <= 1e-10 * (
        1 + abs(U).max()
    ) * np.linalg.cond(G)


def test_update_equals_a_general_solver_on_a_5x6x7_tensor():
    X = reconstruct(random_cp((5, 6, 7), 4, rng=41)) + 0.3 * np.random.default_rng(
        42
    ).standard_normal((5, 6, 7))
    _, B, C = normalize(random_cp((5, 6, 7), 4, rng=43)).factors
    F = np.einsum("ijk,jr,kr->ir", X, B, C)
    G = (B.T @ B) * (C.T @ C)
    square = float((X**2).sum())
    least = square - np.vdot(np.linalg.solve(G, F.T).T, F)
    bound = least + 0.2 * (square - least)
    U = epc_update(F, G, square, bound).factor
    general = minimize(
        lambda u: u @ u,
        np.linalg.solve(G, F.T).T.ravel(),
        jac=lambda u: 2 * u,
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda u: bound - error_of(u.reshape(5, 4), F, G, square),
            "jac": lambda u: 2 * (F - u.reshape(5, 4) @ G).ravel(),
        },
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert general.success
    assert abs(general.fun - (U**2).sum()) <= 1e-6 * general.fun


def test_update_equals_the_published_spherical_form():
    # X = B + d Z with ||Z|| = 1; stationarity and a root search over mu, as in TensorBox
    rng = np.random.default_rng(23)
    for _ in range(50):
        rank = int(rng.integers(1, 6))
        K = rng.standard_normal((rank + 3, rank))
        K /= np.linalg.norm(K, axis=0)
        Y = rng.standard_normal((4, rank + 3))
        F, G, square = Y @ K, K.T @ K, float((Y**2).sum())
        sigma, V = np.linalg.eigh(G)
        B = F @ V / np.sqrt(sigma)
        d2 = float(rng.uniform(0.01, 0.95)) * (B**2).sum()
        d = np.sqrt(d2)
        c, a = B / sigma, d / sigma
        low, high = a.min() - np.linalg.norm(c) * 1.0, a.min() - np.linalg.norm(c[:, a.argmin()])
        for _ in range(200):
            mu = (low + high) / 2
            low, high = (mu, high) if ((c / (a - mu)) ** 2).sum() < 1 else (low, mu)
        Z = -c / (a - low)
        U = ((B + d * Z) / np.sqrt(sigma)) @ V.T
        found = epc_update(F, G, square, square - (B**2).sum() + d2).factor
        assert np.abs(found - U).max() <= 1e-9 * (1 + np.abs(U).max())


def test_a_bound_out_of_reach_keeps_the_error_of_the_current_factor():
    F, G = np.array([[2.0, 1.0]]), np.diag([1.0, 4.0])
    current = np.array([[1.5, 0.5]])
    square = 10.0
    kept = error_of(current, F, G, square)
    found = epc_update(F, G, square, 1.0, current=current)
    assert np.isclose(error_of(found.factor, F, G, square), kept, rtol=1e-12)
    assert np.linalg.norm(found.factor) <= np.linalg.norm(current)
    with pytest.raises(ValueError, match="squared_bound: expected at least"):
        epc_update(F, G, square, 1.0)
    assert not epc_update(F, G, square, 10.0).factor.any()
    assert epc_update(F, G, square, 10.0).tau == np.inf


def test_singular_gram_and_zero_mttkrp_are_defined():
    G = np.ones((2, 2))
    found = epc_update([[2.0, 2.0]], G, 8.0, 5.0)
    assert np.isclose(error_of(found.factor, np.array([[2.0, 2.0]]), G, 8.0), 5.0)
    assert np.isclose(*found.factor[0])
    assert not epc_update([[0.0, 0.0]], G, 8.0, 7.0, current=[[0.5, -0.5]]).factor.any()


@given(seeds, st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.5]))
def test_error_stays_within_the_bound_and_components_never_grow(seed, rank, slack):
    X = np.random.default_rng([seed, 29]).standard_normal((4, 3, 5))
    fit = cp_als(X, rank, rng=seed, max_sweeps=15, stop="none")
    start = (normalize(fit.cp).weights ** 2).sum() / (X**2).sum()
    assume(slack == 0 or (1 + slack) * fit.error < 1)
    found = epc(X, fit.cp, slack=slack, max_sweeps=15)
    assert (found.history.error <= (1 + slack) * fit.error * (1 + 1e-9) + 1e-12).all()
    ratios = np.concatenate([[start], found.history.norm_ratio])
    assert (np.diff(ratios) <= 1e-7 * ratios[:-1]).all()  # a root of the rounding level
    assert np.isclose(found.error, relative_error(X, found.cp), atol=1e-12)
    assert np.isclose((normalize(found.cp).weights ** 2).sum() / (X**2).sum(), ratios[-1])


def border_tensor():
    a, b = np.eye(2)
    return sum(np.einsum("i,j,k->ijk", *t) for t in ((a, a, b), (a, b, a), (b, a, a)))


def test_border_rank_example_shrinks_as_published():
    # [source: the numbers of our notes on error-preserving correction: 5.69, 64.8 -> 43.7]
    X = border_tensor()
    squares = []
    for seed in (1, 2):
        fit = cp_als(X, 2, max_sweeps=2000, stop="none", rng=seed)
        weights = normalize(fit.cp).weights
        assert abs(weights.max() - 5.69) < 0.005
        corrected = normalize(epc(X, fit.cp, slack=0.5, max_sweeps=5000, tol=1e-9).cp).weights
        squares.append([(weights**2).sum(), (corrected**2).sum()])
    assert np.allclose(squares, [64.8, 43.7], atol=0.05)


def collinear_cp(seed, side=4, rank=5, collinearity=0.99):
    """Unit columns whose pairwise cosines cluster around the given collinearity."""
    rng = np.random.default_rng([seed, 77])
    factors = []
    for _ in range(3):
        M, base = rng.standard_normal((side, rank)), rng.standard_normal(side)
        base /= np.linalg.norm(base)
        M -= np.outer(base, base @ M)
        M /= np.linalg.norm(M, axis=0)
        factors.append(np.sqrt(collinearity) * base[:, None] + np.sqrt(1 - collinearity) * M)
    return CP(factors)


def test_collinear_example_returns_to_the_size_of_the_truth():
    truth = collinear_cp(0)
    assert np.isclose((normalize(truth).weights ** 2).sum(), 5.0)
    X = reconstruct(truth)
    fit = cp_als(X, 5, max_sweeps=3000, stop="none", rng=0)
    found = epc(X, fit.cp, max_sweeps=5000, tol=1e-8)
    before, after = ((normalize(cp).weights ** 2).sum() for cp in (fit.cp, found.cp))
    assert before > 60 and 4.5 < after < 5.0
    assert abs(found.error - fit.error) <= 1e-6 * fit.error


@pytest.mark.parametrize(("bits", "gain"), [(4, 2.0), (6, 2.0)])
def test_smaller_components_survive_rounding_better(bits, gain):
    X = reconstruct(collinear_cp(0))
    fit = cp_als(X, 5, max_sweeps=3000, stop="none", rng=0)
    found = epc(X, fit.cp, max_sweeps=5000, tol=1e-8)
    rounded = [
        relative_error(X, quantize_cp(cp, Grid(bits), rule="max-abs").dequantize())
        for cp in (fit.cp, found.cp)
    ]
    assert rounded[0] >= gain * rounded[1]


def test_zero_tensor_exact_fits_and_the_callback():
    zero = epc(np.zeros((2, 3)), CP([np.zeros((2, 2)), np.zeros((3, 2))]))
    assert zero.stop_reason == "zero tensor" and zero.error == 0
    truth = random_cp((3, 4, 5), 2, rng=51)
    found = epc(reconstruct(truth), truth, max_sweeps=20)
    assert found.error < 1e-7
    assert found.stop_reason == "exact"
    seen = []
    noisy = reconstruct(truth) + 0.1 * np.random.default_rng(53).standard_normal((3, 4, 5))
    stopped = epc(noisy, truth, callback=lambda n, ratio: seen.append(ratio) or n == 2)
    assert stopped.stop_reason == "callback" and seen == list(stopped.history.norm_ratio)


def test_dead_components_stay_dead():
    cp = CP([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]])
    X = reconstruct(cp) + np.array([[0.1, 0.2], [0.0, 0.1]])
    found = epc(X, cp, max_sweeps=20)
    assert np.isfinite(found.cp.factors[0]).all() and found.error <= relative_error(X, cp) * (
        1 + 1e-9
    )


def test_bad_input_is_refused():
    cp = random_cp((2, 3), 2, rng=0)
    X = np.ones((2, 3))
    for options, message in (
        ({"slack": -0.1}, "slack: expected at least 0"),
        ({"slack": np.nan}, "slack: expected a finite"),
        ({"slack": 1e9}, "slack: expected less than"),
        ({"tol": -1.0}, "tol: expected at least 0"),
        ({"patience": 0}, "patience: expected at least 1"),
        ({"max_sweeps": 0}, "max_sweeps: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            epc(X, cp, **options)
    with pytest.raises(ValueError, match=r"X: expected shape \(2, 3\)"):
        epc(X.T, cp)
    with pytest.raises(TypeError, match="cp: expected a CP"):
        epc(X, X)
    with pytest.raises(ValueError, match=r"G: expected shape \(2, 2\)"):
        epc_update(np.ones((3, 2)), np.eye(3), 9.0, 5.0)
    with pytest.raises(ValueError, match=r"current: expected shape \(3, 2\)"):
        epc_update(np.ones((3, 2)), np.eye(2), 9.0, 5.0, current=np.ones((2, 2)))
    with pytest.raises(ValueError, match="squared_bound: expected at least 0"):
        epc_update(np.ones((3, 2)), np.eye(2), 9.0, -1.0)


# --- planted faults -------------------------------------------------------------------------------


def least_squares_update(F, G, square, bound, **options):
    """Ignores the slack: plain ALS."""
    found = right.epc_update(F, G, square, bound, **options)
    return found._replace(factor=np.linalg.lstsq(np.asarray(G), np.asarray(F).T, rcond=None)[0].T)


def unsquared_bound_update(F, G, square, bound, **options):
    """Takes delta for delta squared."""
    return right.epc_update(F, G, square, min(square * 0.999, np.sqrt(bound) + bound), **options)


def shrunk_update(F, G, square, bound, **options):
    """Shrinks the least-squares factor until it meets the bound: feasible, not smallest."""
    found = right.epc_update(F, G, square, bound, **options)
    least = np.linalg.solve(G, np.asarray(F).T).T
    rest = error_of(least, F, G, square)
    kappa = np.sqrt((bound - rest) / (square - rest))
    return found._replace(factor=(1 - kappa) * least)


def weightless_epc(X, cp, **options):
    """Returns the unit-norm factors and loses the weights."""
    found = right.epc(X, cp, **options)
    return found._replace(cp=CP(right.normalize(found.cp).factors))


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_error_after_the_update_is_the_bound, {"epc_update": least_squares_update}),
        (test_error_after_the_update_is_the_bound, {"epc_update": unsquared_bound_update}),
        (test_update_equals_a_general_solver_on_a_5x6x7_tensor, {"epc_update": shrunk_update}),
        (test_update_equals_bisection_on_rational_numbers, {"epc_update": shrunk_update}),
        (test_error_stays_within_the_bound_and_components_never_grow, {"epc": weightless_epc}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
