"""Laws and bad input of qcp_ref.factors.admm; its planted faults stand at the end."""

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from support import arrays, caught, exact, law, seeds

import qcp_ref as right
from qcp_ref import admm, loops

THIS = sys.modules[__name__]


@st.composite
def problems(draw, max_rows=4, max_rank=4):
    """F = Y K and a positive definite G = K^T K of one mode, with the data they come from."""
    rows, rank = draw(st.integers(1, max_rows)), draw(st.integers(1, max_rank))
    rng = np.random.default_rng([draw(seeds), 7])
    K = rng.standard_normal((rank + draw(st.integers(2, 6)), rank))
    Y = rng.standard_normal((rows, len(K)))
    return Y, K, Y @ K, K.T @ K


def objective(H, F, G):
    return 0.5 * np.vdot(H @ G, H) - np.vdot(F, H)


@law("admm.last")
@given(problems(), st.integers(1, 6))
def test_factor_is_what_the_projection_returned_last(problem, steps):
    _, _, F, G = problem
    returned = []

    def project(V):
        returned.append(np.rint(V))
        return returned[-1]

    found = admm(F, G, project, start=np.zeros_like(F), max_steps=steps, tol=0)
    assert found.factor is returned[-1] or np.array_equal(found.factor, returned[-1])
    assert len(returned) == steps == len(found.primal)


@law("admm.identity")
@given(problems())
def test_identity_projection_gives_least_squares(problem):
    Y, K, F, G = problem
    found = admm(F, G, lambda V: V, start=np.zeros_like(F), max_steps=5000, tol=1e-30)
    expected = np.linalg.lstsq(K, Y.T, rcond=None)[0].T
    scale = np.linalg.cond(G) * (1 + np.abs(expected).max())
    assert np.abs(found.factor - expected).max() <= 1e-12 * scale


@law("admm.convex")
@given(problems())
def test_non_negative_projection_gives_nnls(problem):
    Y, K, F, G = problem
    found = admm(
        F, G, lambda V: np.maximum(V, 0), start=np.zeros_like(F), max_steps=5000, tol=1e-28
    )
    best = np.array([nnls(K, y)[0] for y in Y])
    gap = objective(found.factor, F, G) - objective(best, F, G)
    assert gap <= 1e-9 * (1 + abs(objective(best, F, G)))
    assert (found.factor >= 0).all()


@law("admm.fixed")
@given(problems(), st.integers(0, 3))
def test_least_squares_factor_on_the_set_is_a_fixed_point(problem, steps):
    _, K, _, G = problem
    on_grid = np.rint(3 * K[:2])
    found = admm(on_grid @ G, G, np.rint, start=on_grid, max_steps=steps + 1)
    assert np.array_equal(found.factor, on_grid)
    assert np.abs(found.dual).max() <= 1e-9 * (1 + np.abs(on_grid).max())
    assert found.stop_reason == "converged"


@law("admm.residuals", "admm.steps")
@given(problems(), st.integers(1, 5), st.booleans())
def test_steps_and_residuals_are_those_of_plain_loops(problem, steps, warm):
    _, _, F, G = problem
    # sixteenths keep the rational numbers short; rounding decisions stay far from ties
    F, G = np.rint(16 * F) / 16, np.rint(16 * G) / 16 + np.eye(len(G))
    start, dual = np.rint(F), np.rint(4 * F) / 4 if warm else np.zeros_like(F)

    nearest_tie = Fraction(1, 2)

    def rounded(V):
        nonlocal nearest_tie
        distances = (Fraction(1, 2) - abs(v - round(v)) for row in V for v in row)
        nearest_tie = min(nearest_tie, *distances)
        return [[Fraction(round(v)) for v in row] for row in V]

    truth = loops.admm(exact(F), exact(G), rounded, exact(start), exact(dual), steps)
    assume(nearest_tie > 1e-9)  # rounding may decide a tie either way
    before = loops.admm(exact(F), exact(G), rounded, exact(start), exact(dual), steps - 1)
    found = admm(F, G, np.rint, start=start, dual=dual, max_steps=steps, tol=0)
    H, T, U = (np.array(part, dtype=object).astype(float) for part in truth)
    scale = 1 + np.abs(U).max() + np.abs(T).max()
    for mine, true in ((found.factor, H), (found.least_squares, T), (found.dual, U)):
        assert np.abs(mine - true).max() <= 1e-10 * scale
    if H.any() and U.any():
        H0 = np.array(before[0], dtype=object).astype(float)
        assert np.isclose(found.primal[-1], np.sum((H - T) ** 2) / np.sum(H**2), atol=1e-12)
        assert np.isclose(found.change[-1], np.sum((H - H0) ** 2) / np.sum(U**2), atol=1e-9)


@given(problems(max_rows=1, max_rank=3))
def test_on_a_grid_it_is_never_better_than_exhaustive_search(problem):
    _, _, F, G = problem
    grid = range(-2, 3)
    best = min(
        objective(np.array([codes], float), F, G)
        for codes in itertools.product(grid, repeat=len(G))
    )
    found = admm(F, G, lambda V: np.clip(np.rint(V), -2, 2), start=np.zeros_like(F))
    assert objective(found.factor, F, G) >= best - 1e-9
    assert np.array_equal(found.factor, np.clip(np.rint(found.factor), -2, 2))


@given(problems(max_rows=1, max_rank=3))
def test_fixed_points_and_optima_on_a_grid(problem):
    """An optimum is one of the projected gradient step; such a point is optimal up to a bound."""
    _, _, F, G = problem
    points = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=len(G))))
    values = np.array([objective(v[None], F, G) for v in points])
    best = points[values.argmin()]

    def rests(v, rho):
        away = np.sum((points - v + (v @ G - F[0]) / rho) ** 2, axis=1)
        return away[(points == v).all(axis=1)] <= away.min() * (1 + 1e-12) + 1e-12

    assert rests(best, np.linalg.eigvalsh(G)[-1])
    rho = np.trace(G) / len(G)
    for v, value in zip(points, values, strict=True):
        if rests(v, rho):
            D = points - v
            most = 0.5 * np.sum((D @ (rho * np.eye(len(G)) - G)) * D, axis=1)
            assert (value - values <= most + 1e-9 * (1 + abs(value))).all()


def test_a_warm_start_continues_where_the_run_stopped():
    rng = np.random.default_rng(11)
    K = rng.standard_normal((9, 3))
    F, G = rng.standard_normal((4, 9)) @ K, K.T @ K
    whole = admm(F, G, np.rint, start=np.zeros_like(F), max_steps=7, tol=0)
    half = admm(F, G, np.rint, start=np.zeros_like(F), max_steps=3, tol=0)
    rest = admm(F, G, np.rint, start=half.factor, dual=half.dual, max_steps=4, tol=0)
    assert np.array_equal(rest.factor, whole.factor) and np.array_equal(rest.dual, whole.dual)


def test_zero_system_is_the_projection_of_the_start():
    found = admm(np.zeros((2, 3)), np.zeros((3, 3)), np.rint, start=np.full((2, 3), 1.2))
    assert (found.factor == 1).all()
    nothing = admm(np.zeros((2, 3)), np.zeros((3, 3)), np.rint, start=np.zeros((2, 3)))
    assert nothing.stop_reason == "converged" and nothing.primal[0] == nothing.change[0] == 0


@given(st.integers(1, 5), st.data())
def test_the_system_is_as_well_conditioned_as_promised(rank, data):
    K = data.draw(arrays((data.draw(st.integers(1, 3)), rank)))
    systems = []

    def recording(matrix):
        systems.append(matrix)
        return np.linalg.pinv(matrix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.linalg, "inv", recording)
        right.admm(np.ones((2, rank)), K.T @ K, np.rint, start=np.zeros((2, rank)), max_steps=2)
    (system,) = systems  # inverted once, whatever the number of steps
    assert np.linalg.cond(system) <= (rank + 1) * (1 + 1e-10)


def slow_problem():
    """Where ADMM takes many steps, and stays away from its limit for long."""
    rng = np.random.default_rng(3)
    K = rng.standard_normal((9, 3)) * [1.0, 0.7, 0.4]
    return rng.standard_normal((4, 9)) @ K, K.T @ K


def test_it_stops_when_both_residuals_have_fallen_below_the_limit_or_after_30_steps():
    F, G = slow_problem()
    found = admm(F, G, lambda V: np.maximum(V, 0), start=np.ones_like(F), max_steps=500)
    both = np.maximum(found.primal, found.change)
    assert found.stop_reason == "converged" and len(both) > 3
    assert both[-1] < 1e-8 <= both[:-1].min() and both[0] > 1e-4
    assert min(found.primal[0], found.change[0]) > 1e-8
    assert isinstance(found.primal, np.ndarray) and isinstance(found.change, np.ndarray)
    never = admm(F, G, np.rint, start=np.ones_like(F), tol=0)
    assert never.stop_reason == "max_steps" and len(never.primal) == len(never.change) == 30


def test_a_residual_at_the_limit_is_not_below_it():
    F, G = slow_problem()
    larger = set()
    for shift in (0.0, 1.0, 100.0):

        def run(steps, tol, start=shift + 0 * F):
            return admm(F, G, np.abs, start=start, max_steps=steps, tol=float(tol))

        found = run(30, 0)
        both = np.maximum(found.primal, found.change)
        # All steps whose larger residual is a new minimum: a run stops there at the earliest.
        for step in np.flatnonzero(both < np.minimum.accumulate(np.append(np.inf, both[:-1]))):
            larger.add(found.primal[step] > found.change[step])
            assert run(step + 1, both[step]).stop_reason == "max_steps"
            stopped = run(30, np.nextafter(both[step], 1e9))
            assert stopped.stop_reason == "converged" and len(stopped.primal) == step + 1
    assert larger == {True, False}
    rests = admm(0 * F, 0 * G, np.rint, start=0 * F, max_steps=3, tol=0)
    assert rests.stop_reason == "max_steps" and len(rests.primal) == 3


def test_a_system_that_cannot_be_inverted_is_solved_without_its_null_space(monkeypatch):
    F, G = slow_problem()
    expected = admm(F, G, lambda V: V, start=np.zeros_like(F), max_steps=9)

    def fails(matrix):
        raise np.linalg.LinAlgError

    monkeypatch.setattr(np.linalg, "inv", fails)
    found = admm(F, G, lambda V: V, start=np.zeros_like(F), max_steps=9)
    assert np.allclose(found.factor, expected.factor, rtol=1e-12)
    assert np.allclose(found.dual, expected.dual, rtol=0, atol=1e-12)


def test_projections_may_return_integers_and_lists_and_no_input_is_changed():
    F, G = slow_problem()
    start, dual = np.full(F.shape, 0.6), np.full(F.shape, 0.1)
    kept = [A.copy() for A in (F, G, start, dual)]

    def integers(V):
        return np.rint(V).astype(int).tolist()

    def careless(V):
        np.rint(V, out=V)
        return V

    runs = [
        admm(F, G, project, start=start, dual=dual, max_steps=4, tol=0)
        for project in (np.rint, integers, careless)
    ]
    for run in runs:
        assert run.factor.dtype == np.float64
        assert np.array_equal(run.factor, runs[0].factor) and np.array_equal(run.dual, runs[0].dual)
    for A, copy in zip((F, G, start, dual), kept, strict=True):
        assert np.array_equal(A, copy)


def test_bad_input_is_refused():
    F, G, start = np.ones((2, 3)), np.eye(3), np.zeros((2, 3))
    for wrong, message in (
        ({"G": np.eye(2)}, r"G: expected shape \(3, 3\)"),
        ({"start": np.zeros((3, 2))}, r"start: expected shape \(2, 3\)"),
        ({"dual": np.zeros(3)}, r"dual: expected shape \(2, 3\)"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"tol": -1}, "tol: expected at least 0"),
        ({"F": np.full((2, 3), np.inf)}, "F: expected finite"),
        ({"project": lambda V: V[:1]}, r"project: expected a finite array of shape \(2, 3\)"),
        ({"project": lambda V: V * np.nan}, "project: expected a finite array"),
        ({"project": lambda V: V * [[np.nan], [0]]}, "project: expected a finite array"),
        ({"F": np.ones(3)}, "F: expected 2 axes"),
        ({"dual": np.full((2, 3), np.nan)}, "dual: expected finite"),
        ({"start": np.full((2, 3), np.nan)}, "start: expected finite"),
    ):
        arguments = {"F": F, "G": G, "project": np.rint, "start": start, **wrong}
        with pytest.raises(ValueError, match=f"^{message}"):
            admm(arguments.pop("F"), arguments.pop("G"), arguments.pop("project"), **arguments)
    with pytest.raises(TypeError, match=r"^start: expected an array of real"):
        admm(F, G, np.rint, start=start.astype(complex))


@law("admm.convex")
@given(problems(), st.floats(0.01, 2.0))
def test_projection_onto_a_box_gives_the_optimum_of_the_box(problem, half):
    _, _, F, G = problem
    found = admm(
        F, G, lambda V: np.clip(V, -half, half), start=np.zeros_like(F), max_steps=5000, tol=1e-28
    )
    H, slope = found.factor, found.factor @ G - F
    # Optimal: no entry can be moved against its slope without leaving the box.
    assert (abs(H) <= half).all()
    blocked = np.where(slope > 0, -half == H, half == H)
    assert (abs(slope)[~blocked] <= 1e-6 * (1 + abs(F).max())).all()


@law("admm.fixed", "admm.last", "admm.steps")
@settings(max_examples=10)
@given(seeds, st.integers(20, 60), st.integers(10, 30))
def test_laws_hold_for_larger_factors(seed, rows, rank):
    rng = np.random.default_rng([seed, 8])
    K = rng.standard_normal((rank + 20, rank))
    on_grid, G = rng.integers(-3, 4, (rows, rank)).astype(float), K.T @ K
    rest = admm(on_grid @ G, G, np.rint, start=on_grid, max_steps=4)
    assert np.array_equal(rest.factor, on_grid) and rest.stop_reason == "converged"
    F = rng.standard_normal((rows, rank)) @ G
    both = admm(F, G, np.rint, start=on_grid, max_steps=4, tol=0)
    # Rows do not see each other: each alone makes the same steps.
    for row in (0, rows - 1):
        alone = admm(F[row : row + 1], G, np.rint, start=on_grid[row : row + 1], max_steps=4, tol=0)
        assert np.allclose(alone.least_squares, both.least_squares[row], rtol=1e-9, atol=1e-9)
        assert np.array_equal(alone.factor[0], both.factor[row])


# --- planted faults -------------------------------------------------------------------------------


def admm_with(
    t=lambda F, rho, H, U: F + rho * (H + U), u=lambda U, H, T: U + H - T, rho_factor=1.0, last="H"
):
    """A compact wrong ADMM with one ingredient exchanged."""

    def wrong(F, G, project, *, start, dual=None, max_steps=30, tol=1e-8):
        genuine = right.admm(F, G, project, start=start, dual=dual, max_steps=1, tol=tol)
        H, U = np.array(start, float), np.zeros_like(F) if dual is None else np.array(dual, float)
        rho = rho_factor * np.trace(G) / len(G) or 1.0
        for _ in range(max_steps):
            T = t(F, rho, H, U) @ np.linalg.inv(G + rho * np.eye(len(G)))
            H = project(T - U)
            U = u(U, H, T)
        ratios = np.full(max_steps, genuine.primal[0])
        return genuine._replace(
            factor={"H": H, "T": T}[last], least_squares=T, dual=U, primal=ratios, change=ratios
        )

    return wrong


@pytest.mark.parametrize(
    "fault",
    [
        admm_with(t=lambda F, rho, H, U: F + rho * (H - U)),  # dual with the other sign in T only
        admm_with(u=lambda U, H, T: U + T - H),  # dual updated backwards
        admm_with(u=lambda U, H, T: H - T),  # dual forgotten between steps
        admm_with(rho_factor=2.0),  # another weight
        admm_with(last="T"),  # returns the infeasible iterate
    ],
)
def test_planted_faults_are_caught(fault):
    laws = (
        test_factor_is_what_the_projection_returned_last,
        test_steps_and_residuals_are_those_of_plain_loops,
    )
    assert any(caught(THIS, law, admm=fault) for law in laws)
