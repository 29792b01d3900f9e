"""Laws and bad input of qcp_ref.factors.rows; its planted faults stand at the end."""

import sys
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support import arrays, caught, exact, law, seeds

import qcp_ref as right
from qcp_ref import Grid, dequantize, loops, quantize, refit_scale, solve_rows
from qcp_ref.factors import descent, proofs, rows
from qcp_ref.factors.descent import (
    descend_columns,
    descent_pass,
    in_codes,
    in_levels,
    in_steps,
    nearest_level,
)
from qcp_ref.factors.rows import _order, root_triangle

THIS = sys.modules[__name__]

GRIDS = [
    Grid(2),
    Grid(3),
    Grid(4, narrow=True),
    Grid(2, mid_rise=True),
    Grid(1, kind="binary"),
    Grid(2, kind="ternary"),
    Grid(2, signed=False),
]
grids = st.sampled_from(GRIDS)
axes = st.sampled_from([None, 0, 1])
methods = st.sampled_from(rows.METHODS)


@st.composite
def problems(draw, most=3, axis=axes):
    """F, G, a grid and a scale; small integers or normal numbers, G of any rank."""
    count, rank, seed = draw(st.integers(1, 3)), draw(st.integers(1, most)), draw(seeds)
    rng = np.random.default_rng([seed, 41])
    tall = draw(st.integers(1, 2 * most))
    if draw(st.booleans()):
        K, M = rng.integers(-3, 4, (tall, rank)), rng.integers(-9, 10, (count, tall))
    else:
        K, M = rng.standard_normal((tall, rank)), 3 * rng.standard_normal((count, tall))
    if draw(st.booleans()):
        M = rng.integers(-3, 4, (count, rank)) @ K.T  # a problem that some factor solves exactly
    F = M @ K
    shape = {None: (), 0: (count, 1), 1: (1, rank)}[draw(axis)]
    scale = 2.0 ** rng.integers(-2, 2, shape) * draw(st.sampled_from([1.0, 0.75]))
    return F.astype(float), (K.T @ K).astype(float), draw(grids), np.asarray(scale)


def values(codes, grid, scale):
    return dequantize(codes, scale, grid=grid)


def objective(F, G, A):
    """By the definition: one row after the other, in plain loops."""
    found = [
        loops.row_objective(f, G.tolist(), a) for f, a in zip(F.tolist(), A.tolist(), strict=True)
    ]
    return np.array(found, dtype=float)


def levels_of(scale, grid, shape, row):
    """The levels that each column of a row may take, exactly."""
    wide = np.broadcast_to(scale, shape)
    return [[Fraction(float(v)) * Fraction(float(s)) for v in grid.levels] for s in wide[row]]


def least(F, G, grid, scale, row):
    best = loops.best_row(exact(F[row]), exact(G), levels_of(scale, grid, F.shape, row))
    return loops.row_objective(exact(F[row]), exact(G), best)


def tolerance(F, G, A):
    return 1e-9 * (1 + np.abs(F).sum() * np.abs(A).sum() + np.abs(G).sum() * (A**2).sum())


@law("solve_rows.bound")
@settings(max_examples=150)
@given(problems(), methods)
def test_results_are_codes_with_their_objective_above_the_bound(problem, method):
    F, G, grid, scale = problem
    fit = solve_rows(F, G, grid, scale, method=method)
    A = values(fit.codes, grid, scale)  # refuses codes off the grid
    assert fit.codes.dtype == grid.dtype and fit.codes.shape == F.shape
    assert np.allclose(fit.objective, objective(F, G, A), rtol=1e-9, atol=tolerance(F, G, A))
    assert np.isfinite(fit.bound).all() and (fit.bound <= fit.objective).all()
    assert not fit.proved.any() or method == "sphere"
    for row in range(len(F)):
        assert fit.bound[row] <= float(least(F, G, grid, scale, row)) + tolerance(F, G, A)


@law("solve_rows.proved")
@settings(max_examples=100)
@given(problems(), st.sampled_from(["greedy", "natural"]))
def test_a_finished_search_is_that_of_all_rows(problem, order):
    F, G, grid, scale = problem
    fit = solve_rows(F, G, grid, scale, method="sphere", order=order)
    A = values(fit.codes, grid, scale)
    assert fit.proved.all()
    for row in range(len(F)):
        assert abs(fit.objective[row] - float(least(F, G, grid, scale, row))) <= tolerance(F, G, A)


STRAYED = (  # a search of two nodes ends one unit above the best row
    np.array([[5.0, 2.0, 0.0, -1.0]]),
    np.array([[13, 14, 19, 14], [14, 30, 31, 27], [19, 31, 40, 34], [14, 27, 34, 33.0]]),
    Grid(2),
    np.array(1.0),
)


@law("solve_rows.bound", "solve_rows.proved")
@given(problems(most=5), st.integers(0, 6))
@example(STRAYED, 2)
def test_a_search_out_of_budget_still_bounds_the_best(problem, budget):
    F, G, grid, scale = problem
    full = solve_rows(F, G, grid, scale, method="sphere", budget=10**6)
    fit = solve_rows(F, G, grid, scale, method="sphere", budget=budget)
    slack = tolerance(F, G, values(full.codes, grid, scale))
    assert full.proved.all()
    assert (fit.bound <= full.objective + slack).all()
    assert (full.objective <= fit.objective + slack).all()
    good = fit.objective <= full.objective + slack
    assert good[fit.proved].all()


@law("solve_rows.descent", "solve_rows.start")
@given(problems(most=5), seeds)
def test_descent_never_rises_and_ends_at_a_row_no_code_improves(problem, seed):
    F, G, grid, scale = problem
    start = np.random.default_rng([seed, 43]).choice(quantize(grid.levels, grid, 1.0), size=F.shape)
    before = objective(F, G, values(start, grid, scale))
    fit = solve_rows(F, G, grid, scale, method="descent", start=start)
    slack = tolerance(F, G, values(fit.codes, grid, scale))
    assert (fit.objective <= before + slack).all()
    codes = quantize(grid.levels, grid, 1.0)
    for r, code in product(range(F.shape[1]), codes):
        other = fit.codes.copy()
        other[:, r] = code
        assert (objective(F, G, values(other, grid, scale)) >= fit.objective - slack).all()


def gptq(F, G, decided, grid, scale):
    """Round one column after the other; push its error to those that are left (in steps)."""
    steps = in_steps(F, G, grid, scale)
    H = np.linalg.inv(steps.G)
    T, left = steps.F @ H, list(range(len(G)))
    V = np.zeros_like(T)
    for r in decided:
        V[:, r] = nearest_level(T[:, r], steps.box)
        error = (T[:, r] - V[:, r]) / H[r, r]
        T -= np.outer(error, H[r])
        H = H - np.outer(H[:, r], H[r]) / H[r, r]
        left.remove(r)
    return in_codes(V, grid)


@st.composite
def regular_problems(draw, most=6):
    F, G, grid, scale = draw(problems(most=most))
    return F, G + np.eye(len(G)), grid, scale


@law("solve_rows.gptq", "solve_rows.width-one")
@given(regular_problems(), st.sampled_from(["greedy", "natural"]))
def test_the_nearest_plane_is_gptq_and_exact_conditional_rounding(problem, order):
    F, G, grid, scale = problem
    steps = in_steps(F, G, grid, scale)
    decided = root_triangle(steps.G, order)[1][::-1]
    fit = solve_rows(F, G, grid, scale, method="babai", order=order)
    box = tuple(Fraction(b) for b in steps.box)
    for row, f in enumerate(exact(steps.F)):
        wanted = loops.nearest_plane(f, exact(steps.G), decided.tolist(), box)
        # a tie that rounding may decide either way is no disagreement
        assume(all(nearly_no_tie(f, exact(steps.G), decided.tolist(), wanted, box)))
        assert exact(in_levels(fit.codes[row], grid)) == wanted
    assert np.array_equal(gptq(F, G, decided, grid, scale), fit.codes)
    assert np.array_equal(
        solve_rows(F, G, grid, scale, method="k-best", order=order, width=1).codes, fit.codes
    )


def nearly_no_tie(f, G, decided, v, box):
    """Yield whether each decision was clear."""
    for n, r in enumerate(decided):
        known = decided[:n]
        left = [q for q in range(len(f)) if q not in known]
        right_side = [f[q] - sum(v[p] * G[p][q] for p in known) for q in left]
        part = [[G[p][q] for q in left] for p in left]
        wanted = loops.solve(part, [right_side])[0][left.index(r)] - box[2]
        yield abs(abs(wanted - round(wanted)) - Fraction(1, 2)) > Fraction(1, 10**9)


@given(regular_problems(), st.integers(2, 30))
def test_more_branches_and_the_whole_tree(problem, width):
    F, G, grid, scale = problem
    wide = solve_rows(F, G, grid, scale, method="k-best", width=width)
    tree = solve_rows(F, G, grid, scale, method="sphere", budget=10**6)
    slack = tolerance(F, G, values(tree.codes, grid, scale))
    assert (tree.objective <= wide.objective + slack).all()
    if F.shape[1] == 1:  # one column: all methods round
        assert (wide.objective <= tree.objective + slack).all()


def test_the_greedy_order_decides_the_best_determined_column_first():
    G = np.diag([1.0, 9.0, 4.0])
    assert _order(G).tolist() == [0, 2, 1]
    K = np.array([[1.0, 0.98, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.7]])
    G = K.T @ K
    # Taking any other column first would give a smaller last pivot.
    last = [1 / np.linalg.inv(G)[r, r] for r in range(3)]
    assert _order(G)[-1] == int(np.argmax(last))
    assert sorted(_order(np.ones((4, 4))).tolist()) == [0, 1, 2, 3]


@given(problems(most=4), seeds, st.integers(1, 4))
def test_one_pass_equals_plain_loops(problem, seed, width):
    F, G, grid, scale = problem
    rng = np.random.default_rng([seed, 47])
    steps = in_steps(F, G, grid, scale)
    codes = rng.choice(quantize(grid.levels, grid, 1.0), size=F.shape)
    V = in_levels(codes, grid)
    dither = np.round(rng.standard_normal(F.shape), 2)
    wanted = [
        loops.descend(*map(exact, (f, steps.G, v, d)), tuple(map(Fraction, steps.box)))
        for f, v, d in zip(steps.F, V, dither, strict=True)
    ]
    found = V.copy()
    changed = descend_columns(found, steps.F - V @ steps.G, steps.G, dither, steps.box)
    for row, v in enumerate(wanted):
        assume(clear(exact(steps.F[row]), exact(steps.G), exact(V[row]), v, exact(dither[row])))
        assert exact(found[row]) == v
    assert changed == np.count_nonzero(found != V)
    by_blocks = V.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descent, "_BLOCK", width)
        assert descent_pass(by_blocks, steps, dither) == changed
    assert np.array_equal(by_blocks, found)


def clear(f, G, before, after, dither):
    """No decision of the pass was near a tie."""
    v = list(before)
    for r in range(len(v)):
        if G[r][r]:
            t = (f[r] - sum(v[q] * G[q][r] for q in range(len(v)) if q != r)) / G[r][r] + dither[r]
            for half in (Fraction(0), Fraction(1, 2)):
                if abs(t - half - round(t - half)) > Fraction(1, 2) - Fraction(1, 10**9):
                    return False
        v[r] = after[r]
    return True


@law("refit_scale.falls", "refit_scale.best")
@given(problems(most=4), seeds)
def test_a_new_scale_never_raises_the_objective_and_one_is_the_best(problem, seed):
    F, G, grid, scale = problem
    rng = np.random.default_rng([seed, 53])
    codes = rng.choice(quantize(grid.levels, grid, 1.0), size=F.shape)
    new = refit_scale(F, G, codes, grid, scale)
    assert new.shape == scale.shape and (new > 0).all()
    A = values(codes, grid, new)
    before, after = objective(F, G, values(codes, grid, scale)), objective(F, G, A)
    slack = tolerance(F, G, A) + tolerance(F, G, values(codes, grid, scale))
    assert after.sum() <= before.sum() + slack
    V = values(codes, grid, np.ones_like(scale))
    kept = ((F * V).sum(axis=1) <= 0).any() if scale.ndim else (F * V).sum() <= 0
    if scale.shape != (1, F.shape[1]) and not kept:
        for factor in (0.5, 0.9, 1.1, 2.0, 40.0):
            other = objective(F, G, values(codes, grid, new * factor))
            each = other if scale.ndim else other.sum()
            assert (each >= (after if scale.ndim else after.sum()) - slack).all()


@law("refit_scale.rows", "refit_scale.falls", "refit_scale.best")
@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 12), st.integers(-150, 150), seeds)
def test_each_row_of_a_large_factor_has_the_scale_it_has_alone(count, rank, tall, power, seed):
    rng, grid = np.random.default_rng([seed, 61]), Grid(4)
    # Integers in any unit: columns that cancel leave no rounding behind.
    K = np.ldexp(rng.integers(-9, 10, (tall, rank)).astype(float), power)
    F, G = np.ldexp(rng.integers(-9, 10, (count, tall)).astype(float), power) @ K, K.T @ K
    codes = rng.integers(-8, 8, F.shape)
    codes[rng.random(count) < 0.2] = 0  # rows without a best scale
    scale = np.ldexp(rng.uniform(1, 2, (count, 1)), rng.integers(-20, 20, (count, 1)))
    new = refit_scale(F, G, codes, grid, scale)
    M = np.ldexp(1.0, -2 * power)  # objectives in a unit where rounding is that of numbers near 1
    for row in range(count):
        f, k, s = F[row : row + 1], codes[row : row + 1], scale[row, 0]
        alone = float(refit_scale(f, G, k, grid, s))
        assert np.isclose(alone, new[row, 0], rtol=1e-8)
        if alone == s:
            continue
        found, *others = (objective(f * M, G * M, k * t)[0] for t in (alone, s, alone * 1.01))
        size = abs(f * M * k * alone).sum() + ((abs(k) * alone) @ abs(G * M) * abs(k) * alone).sum()
        assert all(found <= other + 1e-9 * size for other in others)


@law("refit_scale.best")
@given(arrays((2, 3)), arrays((4, 3)), arrays((2, 3), st.integers(-8, 7)))
def test_the_scale_equals_plain_loops(F, K, V):
    G = K.T @ K
    if (V @ G * V).sum() > 0 and (F * V).sum() > 0:
        found = refit_scale(F, G, V.astype(int), Grid(4), 1.0)
        wanted = loops.refit_scale(exact(F), exact(G), exact(V))
        assert abs(Fraction(float(found)) - wanted) <= wanted * Fraction(1, 2**50)


def test_scales_that_cannot_be_are_kept():
    F, G = np.array([[1.0, -1.0]]), np.eye(2)
    assert refit_scale(F, G, [[-1, 1]], Grid(4), 3.0) == 3.0
    assert refit_scale(F, G, [[0, 0]], Grid(4), 3.0) == 3.0
    assert refit_scale(F, G, [[1, 1]], Grid(4), [[3.0, 5.0]]).tolist() == [[1.0, 5.0]]
    assert refit_scale(F, G * 0, [[1, 1]], Grid(4), [[3.0]]).tolist() == [[3.0]]


def test_known_rows():
    G = np.array([[4.0, 2.0], [2.0, 4.0]])
    F = np.array([[2.75, 2.75]])
    # least squares is (11, 11) / 24: rounding takes (0, 0), the best are (1, 0) and (0, 1)
    rounded = solve_rows(F, G, Grid(3), 1.0, method="round")
    assert rounded.codes.tolist() == [[0, 0]] and rounded.objective.tolist() == [0.0]
    best = solve_rows(F, G, Grid(3), 1.0, method="sphere")
    assert best.objective.tolist() == [-1.5] and best.proved.tolist() == [True]
    assert sorted(best.codes[0].tolist()) == [0, 1]


@pytest.mark.parametrize("method", rows.METHODS)
def test_degenerate_problems_have_results(method):
    ones = np.ones((2, 3))
    for F, G in (
        (0 * ones, np.zeros((3, 3))),
        (ones, np.ones((3, 3))),
        (0 * ones, np.eye(3)),
        (ones * [1.0, 0.0, 1.0], np.diag([1.0, 0.0, 2.0])),
        (ones * 1e-200, np.eye(3) * 1e-200),
        (ones * 1e140, np.eye(3) * 1e140),
    ):
        fit = solve_rows(F, G, Grid(3), 1.0, method=method)
        assert np.isfinite(fit.objective).all() and np.isfinite(fit.bound).all()
    nothing = solve_rows(ones, np.eye(3), Grid(3), 1.0, method="sphere", budget=0)
    assert not nothing.proved.any() or (nothing.objective <= -3).all()


def test_no_heuristic_is_always_ahead():
    rng = np.random.default_rng(59)
    wins = {"descent": 0, "babai": 0}
    for near in (0.0, 0.98):
        for _ in range(30):
            K = rng.standard_normal((12, 8)) * (1 - near) + near * rng.standard_normal((12, 1))
            F, G = rng.standard_normal((6, 12)) @ K, K.T @ K
            found = {m: solve_rows(F, G, Grid(4), 0.3, method=m).objective for m in wins}
            wins["descent"] += int((found["descent"] < found["babai"] - 1e-9).sum())
            wins["babai"] += int((found["babai"] < found["descent"] - 1e-9).sum())
    assert min(wins.values()) > 20


def test_defaults_are_those_that_the_text_names(monkeypatch):
    asked = []

    def k_best(z, L, box, width):
        asked.append(width)
        return descent.nearest_level(np.zeros_like(z), box)

    def search(z, L, start, box, budget, slack):
        asked.append(budget)
        return (proofs.Found(v, 0.0, np.inf, 0, v[None]) for v in start)

    F, G = np.ones((1, 2)), np.eye(2)
    solved = solve_rows(F * 2.75, G + 0.9, Grid(4), 1.0)
    same = solve_rows(F * 2.75, G + 0.9, Grid(4), 1.0, method="descent", order="greedy")
    assert solved.codes.tolist() == same.codes.tolist()
    monkeypatch.setattr(rows, "_k_best", k_best)
    monkeypatch.setattr(rows, "search_rows", search)
    for method, width in (("k-best", 16), ("babai", 1)):
        solve_rows(F, G, Grid(4), 1.0, method=method)
        assert asked.pop() == width
    solve_rows(F, G, Grid(4), 1.0, method="sphere")
    assert asked == [1, 10_000]
    assert rows.Search() == ("sphere", "greedy", 16, 10_000)


@given(problems(), methods)
def test_arguments_are_left_as_they_were(problem, method):
    F, G, grid, scale = problem
    start = np.broadcast_to(quantize(grid.levels, grid, 1.0)[0], F.shape).copy()
    given = F, G, scale, start
    before = [x.copy() for x in given]
    options = {"start": start} if method in ("descent", "sphere") else {}
    solve_rows(F, G, grid, scale, method=method, **options)
    refit_scale(F, G, start, grid, scale)
    assert all(np.array_equal(x, y) for x, y in zip(given, before, strict=True))


@pytest.mark.parametrize("first", [[0, 1], [1, 0]])
@pytest.mark.parametrize("method", ["descent", "sphere"])
def test_of_equally_good_rows_the_start_is_kept(first, method):
    G, F = np.array([[4.0, 2.0], [2.0, 4.0]]), np.array([[2.75, 2.75]])
    fit = solve_rows(F, G, Grid(3), 1.0, method=method, start=[first])
    assert fit.codes.tolist() == [first] and fit.objective.tolist() == [-1.5]


def test_kernels_are_taken_where_there_is_a_compiler(monkeypatch):
    problem = [[2.75, 2.75]], [[4.0, 2.0], [2.0, 4.0]], Grid(3), 1.0
    wanted = solve_rows(*problem, method="sphere")
    compiles = proofs.can_compile()

    def fail(*_):
        raise AssertionError("the other form")

    slow, fast = (
        ((descent, "descend_columns"), (proofs, "Trees")),
        ((descent, "descend"), (proofs, "sphere")),
    )
    for chapter, name in slow if compiles else fast:
        monkeypatch.setattr(chapter, name, fail)
    assert np.array_equal(solve_rows(*problem, method="sphere").codes, wanted.codes)
    monkeypatch.undo()
    for chapter, name in fast:
        monkeypatch.setattr(chapter, "can_compile", lambda: False)
        monkeypatch.setattr(chapter, name, fail)
    assert solve_rows(*problem, method="sphere").objective == wanted.objective


@pytest.mark.parametrize("method", ["descent", "sphere"])
def test_differences_that_rounding_hides_count(method):
    G, little = np.array([[4.0, 2.0], [2.0, 4.0]]), 2.0**-50
    for F, start, best in (
        ([[2.75 + little, 2.75]], [[0, 1]], [[1, 0]]),
        ([[2.75, 2.75 + little]], [[0, 1]], [[0, 1]]),
        ([[2.75 - little, 2.75]], [[1, 0]], [[0, 1]]),
    ):
        fit = solve_rows(F, G, Grid(3), 1.0, method="sphere", start=start)
        assert fit.codes.tolist() == best and fit.proved.all()
    fit = solve_rows([[2.75 + little, 2.75]], G, Grid(3), 1.0, method=method, start=[[0, 1]])
    assert fit.codes.tolist() == [[1, 0]]
    # Rows that agree in some columns are compared, too.
    G = np.block([[G, np.zeros((2, 1))], [np.zeros((1, 2)), np.eye(1)]])
    for rest in (little, 0.125):
        F = [[2.75 + rest, 2.75, 0.0]]
        fit = solve_rows(F, G, Grid(3), 1.0, method=method, start=[[0, 1, 0]])
        assert fit.codes.tolist() == [[1, 0, 0]]


@given(problems(), st.sampled_from(["descent", "sphere"]), seeds)
def test_no_result_is_worse_than_its_start_in_exact_numbers(problem, method, seed):
    F, G, grid, scale = problem
    codes = quantize(grid.levels, grid, 1.0)
    start = np.random.default_rng([seed, 44]).choice(codes, size=F.shape)
    fit = solve_rows(F, G, grid, scale, method=method, start=start, budget=0)
    for i, row in enumerate(exact(F)):
        wide = exact(np.broadcast_to(scale, F.shape))[i]
        found, begun = (
            [
                Fraction(v) * s
                for v, s in zip(dequantize(k[i], 1.0, grid=grid).tolist(), wide, strict=True)
            ]
            for k in (fit.codes, start.astype(grid.dtype))
        )
        assert loops.row_objective(row, exact(G), found) <= loops.row_objective(
            row, exact(G), begun
        )


@given(problems(), st.sampled_from(["greedy", "natural"]))
def test_where_a_row_is_proved_the_bound_is_its_objective(problem, order):
    F, G, grid, scale = problem
    fit = solve_rows(F, G, grid, scale, method="sphere", order=order)
    slack = tolerance(F, G, values(fit.codes, grid, scale))
    assert fit.proved.all() and (fit.bound >= fit.objective - slack).all()


def test_bounds_grow_with_the_budget():
    rng = np.random.default_rng(61)
    K = rng.standard_normal((8, 6)) + 2 * rng.standard_normal((8, 1))
    F, G = rng.standard_normal((4, 8)) @ K, K.T @ K
    fits = [solve_rows(F, G, Grid(4), 0.3, method="sphere", budget=n) for n in (0, 20, 100, 10**5)]
    alone = solve_rows(F, G, Grid(4), 0.3, method="descent").bound
    for less, more in pairwise(fits):
        assert (more.bound >= less.bound - 1e-9).all()
        assert (more.objective <= less.objective + 1e-9).all()
    assert (fits[0].bound >= alone - 1e-9).all() and (fits[2].bound > alone + 1e-3).any()
    assert fits[3].proved.all() and not fits[0].proved.any()
    # Curvature keeps the bound of least squares away from that without a box.
    free = -(F * np.linalg.solve(G, F.T).T).sum(axis=1)
    assert (alone > free + 1e-6).any() and (alone >= free - 1e-9).all()


# --- what is refused, and where it begins ---------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1, 2), (2, 1)])
def test_the_range_of_steps_is_that_of_the_text(shape):
    F, G, grid = np.zeros((2, 2)), np.eye(2), Grid(4)
    for scale in (2.0**-400, 2.0**400):
        fit = solve_rows(F, G, grid, np.full(shape, scale))
        assert (fit.codes == 0).all() and np.isfinite(fit.bound).all()
    for scale in (2.0**-401, 2.0**401):
        with pytest.raises(ValueError, match=r"^scale: expected numbers, and what G makes of them"):
            solve_rows(F, G, grid, np.full(shape, scale))
    binary = Grid(1, kind="binary")  # whose steps are twice the scale
    solve_rows(F, G, binary, np.full(shape, 2.0**-401))
    with pytest.raises(ValueError, match=r"^scale: expected numbers"):
        solve_rows(F, G, binary, np.full(shape, 2.0**400))


def test_what_the_gram_matrix_makes_of_the_steps_has_the_same_range():
    for power in (-400, 400):
        G = np.diag([1.0, 2.0 ** (2 * power)])
        assert solve_rows([[0.0, 0.0]], G, Grid(4), 1.0).objective == 0
        beyond = [[1.0, 2.0 ** np.sign(power)]]
        with pytest.raises(ValueError, match=r"^scale: expected numbers, and what G makes of them"):
            solve_rows([[0.0, 0.0]], G, Grid(4), beyond)
    # What does not matter may be anything: a component of zeros, and a step that balances G.
    G = np.diag([2.0**-700, 0.0])
    assert solve_rows([[0.0, 0.0]], G, Grid(4), 1.0).objective == 0
    with pytest.raises(ValueError, match=r"^scale: expected numbers"):
        solve_rows([[0.0]], [[2.0**-700]], Grid(4), 2.0**-51)


def test_linear_terms_have_a_range_too():
    for step, most in ((1.0, 2.0**400), (2.0**100, 2.0**400), (2.0**-100, 2.0**300)):
        fit = solve_rows([[most]], [[1.0]], Grid(4), step)
        assert np.isfinite(fit.objective).all() and fit.codes.tolist() == [[7]]
        with pytest.raises(ValueError, match=r"^scale: expected F at most 3e.120 of its steps"):
            solve_rows([[most * 2]], [[1.0]], Grid(4), step)


def test_how_far_rows_may_lie_outside_of_the_range_of_a_singular_matrix():
    G = np.ones((2, 2))
    solve_rows([[1.0, 1.0019]], G, Grid(4), 1.0)  # half of the difference lies outside
    solve_rows([[1.0, 1.5]], G + 1e-3 * np.eye(2), Grid(4), 1.0)  # regular: all has a solution
    barely = G + np.diag([0.0, 2.0**-52])  # a factorization runs to its end, by rounding
    with pytest.raises(ValueError, match=r"^F: expected rows in the range of G, got 0\.25 outside"):
        solve_rows([[1.0, 1.5]], barely, Grid(4), 1.0)
    for scale in (1.0, 1e-30, 1e30):
        with pytest.raises(ValueError, match=r"^F: expected rows in the range of G, got 0\.001"):
            solve_rows(
                np.array([[1.0, 1.0021]]) * [scale, 1],
                G * np.outer([scale, 1], [scale, 1]),
                Grid(4),
                [[1 / scale, 1.0]],
            )
    with pytest.raises(ValueError, match=r"^F: expected rows in the range of G, got 1e-09 outside"):
        solve_rows([[1.0, -1e-9]], np.diag([1.0, 0.0]), Grid(4), 1.0)


def test_codes_of_a_binary_grid_are_minus_one_and_one():
    F, G, grid = np.array([[0.5, -3.0]]), np.eye(2), Grid(1, kind="binary")
    fit = solve_rows(F, G, grid, 1.0, start=np.array([[1, 1]], np.int16))
    assert fit.codes.tolist() == [[1, -1]]
    with pytest.raises(ValueError, match=r"^start: expected shape .* with codes from -1 to 0"):
        solve_rows(F, G, grid, 1.0, start=[[-1, 0]])
    unsigned = np.array([[1, 1]], np.uint8)
    assert refit_scale(np.abs(F), G, unsigned, grid, 1.0) == 1.75


# --- the triangle ---------------------------------------------------------------------------------


@given(regular_problems(), st.sampled_from(["greedy", "natural"]))
def test_the_triangle_of_a_regular_matrix_is_its_cholesky_factor(problem, order):
    G = problem[1]
    L, last_first = root_triangle(G, order)
    assert (np.triu(L, 1) == 0).all() and (np.diag(L) > 0).all()
    assert np.allclose(L @ L.T, G[np.ix_(last_first, last_first)], rtol=1e-13, atol=1e-13)
    assert sorted(last_first.tolist()) == list(range(len(G)))
    chosen = list(range(len(G))) if order == "natural" else _order(G).tolist()
    assert last_first.tolist() == chosen


@pytest.mark.parametrize("order", ["greedy", "natural"])
def test_a_singular_matrix_gets_the_least_ridge_at_unit_diagonal(order):
    lengths = np.array([1.0, 2.0**-30, 2.0**40, 3.0])
    pair = np.kron(np.eye(2), np.ones((2, 2)))
    for unit in (np.ones((4, 4)), (4 * np.eye(4) - 1) / 3, pair):
        G = unit * np.outer(lengths, lengths)
        L, order_of = root_triangle(G, order)
        back = (L @ L.T)[np.ix_(np.argsort(order_of), np.argsort(order_of))]
        off = (back - G) / np.outer(lengths, lengths)
        assert abs(off).max() < 1e-12 and np.diag(off).min() > -1e-14
        assert (np.diag(L) > 0).all()


def test_a_slightly_indefinite_matrix_gets_a_ridge_of_about_that_size():
    for least in (-1e-6, -1e-9):
        G = np.array([[1.0, 1.0 - least], [1.0 - least, 1.0]])
        L, _ = root_triangle(G, "natural")
        off = (L @ L.T - G)[[0, 1], [0, 1]]
        assert (off > -1.5 * least).all() and (off < -2.5 * least).all()


def test_a_component_of_zeros_has_any_pivot():
    L, order = root_triangle(np.diag([4.0, 0.0, 9.0]), "natural")
    assert L[0, 0] == 2 and L[2, 2] == 3 and L[1, 1] > 0 and order.tolist() == [0, 1, 2]


@given(regular_problems(most=5), seeds)
def test_the_greedy_order_takes_the_best_determined_of_those_left(problem, seed):
    G = problem[1]
    scales = 2.0 ** np.random.default_rng([seed, 45]).integers(-9, 10, len(G))
    G = G * np.outer(scales, scales)
    left = list(range(len(G)))
    for r in _order(G)[::-1].tolist():
        variance = {}
        for n, q in enumerate(left):
            unit = [[Fraction(int(n == m)) for m in range(len(left))]]
            part = [[Fraction(float(G[p, t])) for t in left] for p in left]
            variance[q] = loops.solve(part, unit)[0][n]
        assert variance[r] <= min(variance.values()) * (1 + Fraction(1, 10**9))
        left.remove(r)


# --- partial rows ---------------------------------------------------------------------------------


def test_wider_searches_find_what_narrow_ones_lose():
    rng = np.random.default_rng(67)
    K = rng.standard_normal((7, 6)) + 3 * rng.standard_normal((7, 1))
    F, G = rng.standard_normal((40, 7)) @ K, K.T @ K
    errors = [
        solve_rows(F, G, Grid(4), 0.2, method="k-best", width=n).objective.sum()
        for n in (1, 2, 4, 16, 64)
    ]
    assert errors[0] > errors[1] > errors[2] >= errors[3] >= errors[4]
    best = solve_rows(F, G, Grid(4), 0.2, method="sphere", budget=10**5)
    assert best.proved.all()
    assert errors[-1] <= best.objective.sum() + 0.4 * (errors[0] - best.objective.sum())


def test_of_equally_good_branches_the_first_is_kept():
    # Every half is a tie: 2**12 rows are equally good, and rounding to even takes zeros.
    F = np.full((1, 12), 0.5)
    for width in (1, 7, 16, 200):
        fit = solve_rows(F, np.eye(12), Grid(4), 1.0, method="k-best", width=width)
        assert fit.codes.tolist() == [[0] * 12]
        fit = solve_rows(F + 1, np.eye(12), Grid(4), 1.0, method="k-best", width=width)
        assert fit.codes.tolist() == [[2] * 12]


@given(regular_problems(most=3))
def test_branches_without_limit_are_the_neighbours_of_every_decision(problem):
    F, G, grid, scale = problem
    fit = solve_rows(F, G, grid, scale, method="k-best", width=27)
    steps = in_steps(F, G, grid, scale)
    L, last_first = root_triangle(steps.G, "greedy")
    z = np.linalg.solve(L, steps.F[:, last_first].T).T
    low, high, offset = steps.box
    for row in range(len(F)):
        branches = [((), 0.0)]
        for i in range(len(G) - 1, -1, -1):
            longer = []
            for taken, distance in branches:
                rest = sum(v * L[i + 1 + n, i] for n, v in enumerate(taken))
                wanted = (z[row, i] - rest) / L[i, i]
                near = sorted(
                    (k + offset for k in range(int(low) - 2, int(high) + 3)),
                    key=lambda v, wanted=wanted: abs(
                        v - np.clip(wanted, low + offset, high + offset)
                    ),
                )[:3]
                longer += [
                    ((v, *taken), distance + (L[i, i] * (wanted - v)) ** 2)
                    for v in near
                    if low <= v - offset <= high
                ]
            branches = longer
        least = min(distance for _, distance in branches)
        V = in_levels(fit.codes[row], grid)[last_first]
        assert ((z[row] - V @ L) ** 2).sum() <= least * (1 + 1e-9) + 1e-9


# --- scales ---------------------------------------------------------------------------------------


def test_a_scale_whose_components_cancel_is_kept():
    F, k = np.array([[5.0, 1.0]]), [[1, -1]]
    for rest, new in ((1e-12, 2.0 / 1e-12), (1e-14, 3.0)):
        G = np.array([[1.0, 1.0 - rest], [1.0 - rest, 1.0]])
        for scale in (3.0, [[3.0]]):
            for unit in (1.0, 2.0**40, 2.0**-40):
                found = refit_scale(F * unit, G * unit, k, Grid(4), scale)
                assert np.allclose(found, new, rtol=1e-3)
    both = refit_scale(np.repeat(F, 2, 0), np.eye(2), [[1, -1], [-1, 1]], Grid(4), [[3.0], [7.0]])
    assert both.tolist() == [[2.0], [7.0]]


def test_columns_take_their_scales_one_after_the_other():
    F, G = np.array([[4.0, 1.0]]), np.array([[1.0, 0.5], [0.5, 1.0]])
    # The first from 4 - 0.5 = 3.5, then the second from 1 - 1.75 < 0: kept.
    assert refit_scale(F, G, [[1, 1]], Grid(4), [[1.0, 1.0]]).tolist() == [[3.5, 1.0]]
    # The second from 1 + 1.75.
    assert refit_scale(F, G, [[-1, 1]], Grid(4), [[1.0, 1.0]]).tolist() == [[1.0, 1.5]]
    # A change that would make the scale zero is none.
    assert refit_scale([[0.0, 2.0]], np.eye(2), [[1, 1]], Grid(4), [[3.0, 1.0]]).tolist() == [
        [3.0, 2.0]
    ]
    given = np.array([[1.0, 1.0]])
    refit_scale(F, G, [[1, 1]], Grid(4), given)
    assert given.tolist() == [[1.0, 1.0]]


def test_bad_input_is_refused():
    F, G, grid = np.ones((2, 3)), np.eye(3), Grid(4)
    for change, message in (
        ({"method": "best"}, "^method: expected one of"),
        ({"order": "random"}, "^order: expected one of"),
        ({"width": 0}, "^width: expected at least 1"),
        ({"budget": -1}, "^budget: expected at least 0"),
        ({"start": np.zeros((2, 3), int), "method": "babai"}, "^start: expected None with method"),
        ({"start": np.zeros((3, 2), int)}, "^start: expected shape"),
        ({"start": np.full((2, 3), 8)}, "^start: expected shape .* from 8 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            solve_rows(F, G, grid, 1.0, **change)
    with pytest.raises(TypeError, match=r"^start: expected integers"):
        solve_rows(F, G, grid, 1.0, start=np.zeros((2, 3)))
    for scale, message in ((0.0, "above 0"), (-1.0, "above 0"), ([1.0, 1.0, 1.0], "scale: exp")):
        with pytest.raises(ValueError, match=message):
            solve_rows(F, G, grid, scale)
        with pytest.raises(ValueError, match=message):
            refit_scale(F, G, np.zeros((2, 3), int), grid, scale)
    with pytest.raises(ValueError, match="log2 grid"):
        solve_rows(F, G, Grid(3, kind="log2"), 1.0)
    with pytest.raises(ValueError, match="log2 grid"):
        refit_scale(F, G, np.zeros((2, 3), int), Grid(3, kind="log2"), 1.0)
    with pytest.raises(ValueError, match=r"^G: expected shape"):
        solve_rows(F, np.eye(2), grid, 1.0)
    with pytest.raises(ValueError, match=r"^F: expected rows in the range of G"):
        solve_rows(F, np.diag([1.0, 0.0, 1.0]), grid, 1.0)
    with pytest.raises(ValueError, match="finite"):
        solve_rows(F * np.nan, G, grid, 1.0)
    for call in (solve_rows, lambda F, G, grid, s: refit_scale(F, G, [[1, 1, 1]], grid, s)):
        with pytest.raises(ValueError, match=r"^F: "):
            call(np.ones(3), G, grid, 1.0)
    with pytest.raises(TypeError, match=r"^grid: expected a Grid"):
        solve_rows(F, G, 4, 1.0)


# --- planted faults -------------------------------------------------------------------------------


def with_fit(change):
    """Make a fault from what it does to the result."""

    def fault(F, G, grid, scale, **options):
        return change(right.solve_rows(F, G, grid, scale, **options), F, G, grid, scale, options)

    return fault


def replaced(**other):
    return with_fit(
        lambda fit, F, G, grid, scale, options: right.solve_rows(
            F, G, grid, scale, **options | other
        )
    )


def stops_early(fit, F, G, grid, scale, options):
    """Descent that forgets to look again."""
    if options.get("method") != "descent" or options.get("start") is None:
        return fit
    steps = in_steps(F, G, grid, np.asarray(scale))
    V = in_levels(options["start"], grid)
    descend_columns(V, steps.F - V @ steps.G, steps.G, np.zeros_like(V), steps.box)
    codes = in_codes(V, grid)
    return fit._replace(codes=codes, objective=objective(F, G, values(codes, grid, scale)))


def boasts(fit, *_):
    return fit._replace(bound=fit.objective, proved=np.ones_like(fit.proved))


def at_once(V, steps, dither):
    """All columns by the residual of the beginning."""
    before, curvature = V.copy(), np.maximum(np.diag(steps.G), 1e-9)
    V[:] = nearest_level(V + (steps.F - V @ steps.G) / curvature + dither, steps.box)
    return int(np.count_nonzero(before != V))


def unscaled(fit, F, G, grid, scale, options):
    """The objective in steps."""
    return fit._replace(objective=fit.objective / np.max(scale) ** 2)


def other_order(fit, F, G, grid, scale, options):
    order = {"greedy": "natural", "natural": "greedy"}[options.get("order", "greedy")]
    return right.solve_rows(F, G, grid, scale, **options | {"order": order})


def half_refit(F, G, codes, grid, scale):
    new = right.refit_scale(F, G, codes, grid, scale)
    return (new + scale) / 2


def shared_refit(F, G, codes, grid, scale):
    """One scale where there should be one per row."""
    one = right.refit_scale(F, G, codes, grid, 1.0)
    return np.broadcast_to(one, np.shape(scale)).copy()


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (
            test_descent_never_rises_and_ends_at_a_row_no_code_improves,
            {"solve_rows": with_fit(stops_early)},
        ),
        (
            test_results_are_codes_with_their_objective_above_the_bound,
            {"solve_rows": with_fit(boasts)},
        ),
        (
            test_results_are_codes_with_their_objective_above_the_bound,
            {"solve_rows": with_fit(unscaled)},
        ),
        (test_a_finished_search_is_that_of_all_rows, {"solve_rows": replaced(method="babai")}),
        (
            test_a_search_out_of_budget_still_bounds_the_best,
            {"solve_rows": with_fit(boasts)},
        ),
        (
            test_the_nearest_plane_is_gptq_and_exact_conditional_rounding,
            {"solve_rows": with_fit(other_order)},
        ),
        (
            test_the_nearest_plane_is_gptq_and_exact_conditional_rounding,
            {"solve_rows": replaced(method="round")},
        ),
        (test_one_pass_equals_plain_loops, {"descent_pass": at_once}),
        (
            test_a_new_scale_never_raises_the_objective_and_one_is_the_best,
            {"refit_scale": half_refit},
        ),
        (
            test_a_new_scale_never_raises_the_objective_and_one_is_the_best,
            {"refit_scale": shared_refit},
        ),
        (
            test_each_row_of_a_large_factor_has_the_scale_it_has_alone,
            {"refit_scale": shared_refit},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
