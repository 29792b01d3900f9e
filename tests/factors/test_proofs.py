"""What is proved is true in exact arithmetic; its planted faults stand at the end.

The search for a false proof is in false_proofs.py; HYPOTHESIS_PROFILE=long makes it 40 times as
long, and ``pytest -s`` shows its table.
"""

import os
import sys
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from false_proofs import search, table
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import caught, exact, law, seeds

import qcp_ref as right
from qcp_ref import (
    Grid,
    QuantizedCP,
    _kernels,
    certify,
    dequantize,
    gamma,
    loops,
    polish,
    quantize,
    quantize_cp,
    random_cp,
    reconstruct,
    solve_rows,
)
from qcp_ref._kernels import sphere
from qcp_ref.factors import proofs, rows
from qcp_ref.factors.proofs import (
    Doubt,
    ExactRows,
    Margin,
    Steps,
    Trees,
    best_row,
    capacity,
    differences,
    exact_slopes,
    farthest_level,
    integers,
    least_eigenvalue,
    least_error,
    least_tail,
    lowered,
    margin,
    nearest_left,
    no_single_change,
    normal_doubt,
    objectives,
    relaxed,
    search_rows,
)
from qcp_ref.factors.rows import METHODS, root_triangle

THIS = sys.modules[__name__]
ROWS = 50_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 1_250


# --- rows -----------------------------------------------------------------------------------------


@law("solve_rows.proved", "solve_rows.bound", "solve_rows.start")
@settings(max_examples=1, deadline=None)
@given(st.just(1))
def test_no_proof_is_false(seed):
    counts = search(ROWS, seed, solve_rows)
    sys.stdout.write(f"\n{table(counts)}\n")
    assert not sum(n for (_, what), n in counts.items() if what == "false")
    assert sum(n for (_, what), n in counts.items() if what == "proved") > 0.9 * ROWS
    assert sum(n for (_, what), n in counts.items() if what == "ties") > 0.01 * ROWS


FLOAT32 = (
    [[2.5375800132751465, 2.322953462600708], [2.322953462600708, 2.1264796257019043]],
    [[-119.26481546754772, -109.17749880327]],
)


@law("solve_rows.proved")
def test_known_false_proofs_have_the_right_answer():
    short = solve_rows(
        [[3e-20, 2.0]], np.diag([1e-20, 1.0]), Grid(4), 1.0, method="sphere", start=[[3, 2]]
    )
    assert short.codes.tolist() == [[3, 2]] and short.proved.all()
    tiny = solve_rows([[3e-9, 0.0]], np.diag([1e-17, 1.0]), Grid(4), 1.0, method="sphere")
    assert tiny.codes.tolist() == [[7, 0]] and tiny.proved.all()
    G, F = FLOAT32
    fit = solve_rows(F, G, Grid(8), 1.0, method="sphere", budget=10**6)
    points = np.array(list(product(range(-128, 128), repeat=2)), dtype=float)
    values = (points * (points @ G - 2 * np.array(F[0]))).sum(axis=1)
    near = points[values <= values.min() + 1e-6].tolist()
    best = min(near, key=lambda v: loops.row_objective(exact(F[0]), exact(G), exact(v)))
    assert fit.codes.tolist() == [best] == [[61, -118]] and fit.proved.all()
    G = [[6.822998523712158, 6.822940826416016], [6.822940826416016, 6.822882652282715]]
    F = [[301.6189880371094, 301.6163635253906]]  # needs a ridge that matters for large codes
    fit = solve_rows(F, G, Grid(8), 1.0, method="sphere", budget=10**6)
    assert fit.codes.tolist() == [[127, -83]] and fit.proved.all()
    z = QuantizedCP([[[1, 0], [1, 0]], [[1, 0], [2, 1]]], [[[1e-6, 1.0]]] * 2, Grid(4))
    found = certify(reconstruct(z.dequantize()), z)
    assert found.bound == (0.0, 0.0)


@law("solve_rows.proved")
@settings(max_examples=50)
@given(seeds, st.floats(1, 1e6))
@example(0, 1.5e8)
def test_one_component_of_16_bits_is_decided_exactly(seed, size):
    rng = np.random.default_rng([seed, 63])
    G, F = rng.uniform(0.5, 2, (1, 1)), size * rng.standard_normal((3, 1))
    scale = rng.uniform(0.5, 2) * size / 2**14
    fit = solve_rows(F, G, Grid(16), scale, method="sphere")
    assert fit.proved.all()
    for f, k in zip(F[:, 0], fit.codes[:, 0].tolist(), strict=True):
        wanted = round(Fraction(f) / Fraction(G[0, 0]) / Fraction(scale))
        assert k == min(max(wanted, -(2**15)), 2**15 - 1)


@law("solve_rows.columns")
@settings(max_examples=60)
@given(seeds, st.integers(1, 4), st.sampled_from(METHODS), st.sampled_from([0.0, 1.0]))
def test_powers_of_two_in_columns_change_no_code(seed, rank, method, near):
    rng = np.random.default_rng([seed, 65])
    K = rng.standard_normal((rank + 1, rank)) * (1 - 0.99 * near)
    K += near * rng.standard_normal((rank + 1, 1))
    K[:, -1] = K[:, 0]  # singular, from two columns on
    F, G = 5 * rng.standard_normal((3, rank + 1)) @ K, K.T @ K
    two = 2.0 ** rng.integers(-40, 40, rank)
    scale = rng.uniform(0.3, 1, (1, rank))
    one = solve_rows(F, G, Grid(3), scale, method=method)
    other = solve_rows(F * two, G * np.outer(two, two), Grid(3), scale / two, method=method)
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.bound, other.bound) and np.array_equal(one.proved, other.proved)
    L, order = root_triangle(G, "natural")
    assert np.array_equal(root_triangle(G * np.outer(two, two), "natural")[0], L * two[order, None])


def readable(z, L, start, box, budget, slack):
    """Search many rows by the readable form."""
    return list(Trees(z, L, start, box, budget, slack).search())


def readable_row(z, L, start, box, budget, slack):
    """Search one row by the readable form."""
    near, wide, grown = slack
    limits = np.array([near]), np.array([wide]), grown
    (found,) = readable(z[None], L, start[None], box, budget, limits)
    return found


def assert_found_as_by_the_kernel(z, L, start, box, budget, slack):
    """The same rows in the same order after as many nodes; distances differ by rounding."""
    near, wide, grown = slack
    found = readable(z, L, start, box, budget, slack)
    assert len(found) == len(z)
    for i, one in enumerate(found):
        other = sphere(z[i], L, start[i], box, budget, (near[i], wide[i], grown))
        assert np.array_equal(one.best, other[0]) and np.array_equal(one.rows, other[4])
        assert np.isclose(one.distance, other[1]) and np.isclose(one.left, other[2])
        assert one.nodes == other[3]


@st.composite
def trees(draw):
    """Rows that share a triangle, each with a reach of its own; some full of ties, exactly."""
    rng = np.random.default_rng([draw(seeds), 67])
    rank, count = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    L = np.tril(rng.standard_normal((rank, rank)), -1) + np.diag(rng.uniform(0.2, 3, rank))
    z = 3 * rng.standard_normal((count, rank))
    if draw(st.booleans()):
        L, z = np.rint(np.tril(L, -1)) + np.diag(2.0 ** rng.integers(-1, 2, rank)), np.rint(z) / 2
    low, high, offset = box = draw(
        st.sampled_from([(-3.0, 2.0, 0.5), (-4.0, 3.0, 0.0), (0.0, 7.0, 0.0), (-1.0, 0.0, 0.5)])
    )
    start = rng.integers(int(low), int(high) + 1, (count, rank)) + offset
    wide = draw(st.sampled_from([0.0, 0.5, 9.0])) * rng.random(count)
    slack = np.full(count, 1e-9), wide, 1 + 1e-9
    return z, L, start, box, slack


@given(trees(), st.integers(0, 60))
def test_the_readable_search_and_the_kernel_find_the_same(problem, budget):
    *tree, slack = problem
    for nodes in (budget, 10**5):
        assert_found_as_by_the_kernel(*tree, nodes, slack)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rows_are_searched_by_either_form_in_their_order(monkeypatch, count):
    rng = np.random.default_rng([count, 70])
    L, z = np.eye(3) + np.tril(rng.uniform(-1, 1, (3, 3)), -1), 2 * rng.standard_normal((count, 3))
    slack = np.full(count, 1e-9), rng.uniform(0, 2, count), 1 + 1e-9
    monkeypatch.setattr(proofs, "_TOGETHER", 2)
    results = []
    for form, other in (("sphere", "Trees"), ("Trees", "sphere")):
        with monkeypatch.context() as patch:
            patch.setattr(proofs, "can_compile", lambda form=form: form == "sphere")
            patch.setattr(proofs, other, None)
            problem = z, L, np.zeros((count, 3)), (-2.0, 1.0, 0.0), 30, slack
            results.append(list(search_rows(*problem)))
    assert [len(found) for found in results] == [count, count]
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one.rows, other.rows) and one.nodes == other.nodes
        assert np.isclose(one.distance, other.distance) and np.isclose(one.left, other.left)


def test_both_searches_end_alike_where_there_is_no_room_for_more_rows():
    """Long rows have room for 256; those that a better one puts out of reach free theirs."""
    rng, rank, few = np.random.default_rng(2), 1024, slice(7)
    L, z, start = 9 * np.eye(rank), np.zeros((3, rank)), np.zeros((3, rank))
    L[few, few] = np.tril(rng.uniform(-0.9, 0.9, (7, 7)), -1) + np.eye(7)
    z[:, few] = rng.uniform(-2, 2, (3, 7))
    slack, box = (np.full(3, 1e-9), np.array([2.0, 4.0, 6.0]), 1 + 1e-9), (-2.0, 1.0, 0.0)
    assert_found_as_by_the_kernel(z, L, start, box, 10**4, slack)
    found = readable(z, L, start, box, 10**4, slack)
    assert [len(one.rows) == capacity(rank) for one in found] == [False, True, True]
    assert all(one.nodes < 10**4 for one in found) and found[0].left == np.inf
    assert max(one.left for one in found[1:]) < np.inf


@given(st.integers(0, 7), st.sampled_from([0.0, 0.5]), st.floats(-12, 12))
def test_levels_are_taken_as_by_the_kernel(width, offset, centre):
    box = (-3.0, -3.0 + width, offset)
    for wanted in (centre, round(2 * centre) / 2):
        order = nearest_left(np.full(width + 1, wanted), np.arange(width + 1.0), box)
        assert order.tolist() == [
            _kernels.sibling(wanted, n, box) + offset for n in range(width + 1)
        ]
        assert sorted(order - offset) == list(range(-3, width - 2))
        assert (np.diff(np.abs(order - wanted)) >= -1e-12).all()


@given(seeds, st.sampled_from([2, 5]), st.booleans(), st.integers(-300, 300))
def test_exact_objectives_are_those_of_loops(seed, rank, wide, power):
    rng = np.random.default_rng([seed, 69])
    F, G = rng.standard_normal((2, rank)), rng.standard_normal((rank, rank))
    G = (G + G.T) * 10.0 ** rng.integers(-12, 12, (rank, 1))  # not symmetric: neither is needed
    step = rng.uniform(0.1, 9, (2, rank)) if wide else np.array(0.75)
    V = rng.integers(-9, 9, (4, rank)) + 0.5
    found = ExactRows(F * 2.0**power, G * 2.0**power, step).values(1, V)
    steps = exact(np.broadcast_to(step, F.shape))[1]
    a = [[x * s for x, s in zip(v, steps, strict=True)] for v in exact(V)]
    wanted = [loops.row_objective(exact(F)[1], exact(G), v) for v in a]
    assert len({v / int(k) for v, k in zip(wanted, found, strict=True)}) == 1


@settings(max_examples=40)
@given(seeds, st.integers(1, 3), st.sampled_from([0.0, 1e-9, 1e-3]), st.sampled_from([0.0, 1e-6]))
def test_objectives_and_distances_differ_by_the_margin_at_most(seed, rank, ridge, doubt):
    rng = np.random.default_rng([seed, 75])
    K, box = rng.standard_normal((rank + 1, rank)) * 10.0 ** rng.integers(-6, 6, rank), (-2, 1, 0.5)
    G, F = K.T @ K, 3 * rng.standard_normal((1, rank + 1)) @ K
    L = np.linalg.cholesky(G + ridge * np.diag(np.diag(G)))
    z = np.linalg.solve(L, F.T).T
    unsure = Doubt(doubt * np.abs(F), doubt * np.abs(G))
    space = margin(F, G, L, z, box, unsure)
    meant_F, meant_G = F * (1 + doubt * rng.uniform(-1, 1)), G * (1 + doubt * rng.uniform(-1, 1))
    points = np.array(list(product([-1.5, -0.5, 0.5, 1.5], repeat=rank)))
    least = np.inf
    for v in points:
        gaps = [
            zi - sum(a * b for a, b in zip(exact(v), row, strict=True))
            for zi, row in zip(exact(z[0]), exact(L.T), strict=True)
        ]
        distance, computed = sum(g * g for g in gaps), float(((z[0] - v @ L) ** 2).sum())
        value = loops.row_objective(exact(meant_F[0]), exact(meant_G), exact(v))
        size = sum(x * x for x in exact(z[0]))
        assert abs(value - (distance - size)) <= Fraction(float(space.wide[0]))
        assert abs(float(distance) ** 0.5 - computed**0.5) <= space.near[0] + 1e-15 * computed**0.5
        least = min(least, value)
    bottom = ((z - points @ L) ** 2).sum(axis=1).min()
    assert Fraction(float(lowered(np.array([bottom]), space)[0])) <= least
    assert space.size[0] >= sum(x * x for x in exact(z[0]))


@given(seeds, st.integers(1, 4), st.booleans(), st.booleans())
def test_the_best_of_some_rows_is_that_of_fractions(seed, rank, whole, unsure):
    rng = np.random.default_rng([seed, 77])
    K = rng.integers(-2, 3, (2, rank)) if whole else rng.standard_normal((2, rank))
    G = (K.T @ K) * (1 + 2.0**-30)
    F = np.repeat(rng.integers(-9, 9, (1, 2)) @ K, 2, axis=0) * (1 + 2.0**-40)
    V = rng.integers(-3, 4, (8, rank)).astype(float)
    doubt = Doubt(1e-3 * unsure * np.abs(F), 0 * G)
    found, certain = best_row(V, 1, F, G, ExactRows(F, G, np.ones(())), doubt)
    values = [loops.row_objective(exact(F[1]), exact(G), exact(v)) for v in V]
    assert values[found] == min(values) and (certain or unsure)
    if unsure and certain:  # no problem within doubt has another answer
        for sign in (-1, 1):
            other = [
                loops.row_objective(exact(F[1] * (1 + sign * 1e-3)), exact(G), exact(v)) for v in V
            ]
            assert other[found] == min(other)


@settings(max_examples=50)
@given(seeds, st.integers(1, 6), st.sampled_from([0.0, 0.9, 0.999999]))
def test_no_eigenvalue_is_below_the_least(seed, rank, near):
    rng = np.random.default_rng([seed, 71])
    K = rng.standard_normal((rank + 2, rank)) * (1 - near) + near * rng.standard_normal((1, rank))
    unit = K.T @ K / np.outer(*2 * [np.linalg.norm(K, axis=0)])
    found = least_eigenvalue(unit)
    assert 0 <= found <= np.linalg.eigvalsh(unit)[0] + 1e-13
    assert found >= np.linalg.eigvalsh(unit)[0] - 1e-11
    shifted = [
        [x - Fraction(found) * (r == q) for q, x in enumerate(row)]
        for r, row in enumerate(exact((unit + unit.T) / 2))
    ]
    assert found == 0 or all(pivot >= 0 for pivot in pivots(shifted))


def pivots(A):
    """Of elimination without exchanges: all positive if the matrix is."""
    A = [list(row) for row in A]
    for n in range(len(A)):
        yield A[n][n]
        for i in range(n + 1, len(A)):
            factor = A[i][n] / A[n][n]
            A[i] = [x - factor * y for x, y in zip(A[i], A[n], strict=True)]


# --- small cases by hand --------------------------------------------------------------------------

U = 2.0**-53  # half of what float64 resolves at 1
SPARE = 1 + 2.0**-30


def no_doubt(F, G):
    return Doubt(np.zeros_like(F), np.zeros_like(G))


@pytest.mark.parametrize(
    ("box", "most"),
    [
        ((-8.0, 7.0, 0.0), 8),
        ((0.0, 3.0, 0.0), 3),
        ((-2.0, 1.0, 0.5), 1.5),
        ((-1.0, 0.0, 0.5), 0.5),
        ((-2.0, 9.0, 0.5), 9.5),
        ((-9.0, -1.0, -2.0), 11),
    ],
)
def test_the_farthest_level_of_a_box(box, most):
    assert farthest_level(box) == most


def test_the_margin_of_two_columns():
    L, z = np.array([[2.0, 0.0], [3.0, 1.0]]), np.array([[1.0, -2.0], [0.0, 0.0]])
    G, F, g = L @ L.T, z @ L.T, gamma(24)
    space = margin(F, G, L, z, (-2.0, 1.0, 0.5), no_doubt(F, G))
    assert space.grown == 1 + g
    assert space.size == pytest.approx([5 * (1 + g), 0], rel=1e-15)
    assert space.near == pytest.approx([np.hypot(8.5, 3.5) * g * SPARE, 0], rel=1e-3, abs=8 * g)
    assert space.near[0] == pytest.approx(np.hypot(8.5, 3.5) * g * SPARE, rel=1e-13)
    # |G| adds up to 26, the lengths 2 and sqrt(10) to (2 + sqrt(10))**2, |F| to 3 and |z||L| to 7.
    whole = 26 + (2 + 10**0.5) ** 2
    assert space.wide[0] == pytest.approx(
        (2.25 * whole + 3 * (2 + 1 + 2 + 5)) * g * SPARE, rel=1e-6
    )
    unsure = Doubt(np.array([[0.5, 0.25], [0.0, 0.0]]), np.array([[1.0, 2.0], [2.0, 3.0]]))
    more = margin(F, G, L, z, (-2.0, 1.0, 0.5), unsure)
    assert more.wide == pytest.approx(SPARE * np.array([18 + 2.25, 18]), rel=1e-12)
    assert np.array_equal(more.near, space.near) and np.array_equal(more.size, space.size)


def test_the_margin_contains_what_the_triangle_is_off():
    L, z = np.diag([2.0, 2.0]), np.array([[3.0, -1.0]])
    F, G = np.array([[6.0, -1.0]]), np.diag([4.0, 1.0])
    space = margin(F, G, L, z, (-2.0, 1.0, 0.5), no_doubt(F, G))
    assert space.wide == pytest.approx([(2.25 * 3 + 3 * 1) * SPARE], rel=1e-12)
    longer = margin(F, 4 * G, L, z, (-2.0, 1.0, 0.5), no_doubt(F, G))  # 16 and 4, found: 4 and 4
    assert longer.wide == pytest.approx([(2.25 * 12 + 3 * 1) * SPARE], rel=1e-12)


def test_lower_bounds_of_distances():
    space = Margin(*(np.array([v, v]) for v in (1.0, 2.0, 3.0)), 2.0)
    # 4 / 2 - 1 is 1; nothing is below 0.
    assert lowered(np.array([16.0, 1.0]), space).tolist() == [
        1.0 - 3 - 2 - 6 * 2.0**-50,
        0.0 - 3 - 2 - 5 * 2.0**-50,
    ]


def test_the_curvature_bound_of_one_column():
    L, z, T = np.array([[2.0]]), np.array([[0.5], [0.5]]), np.array([[0.25], [0.25]])
    space = Margin(*(np.array([v, v]) for v in (5.0, 0.0, 0.0)), 1.0)
    found = relaxed(T, np.array([[1.0], [0.25]]), z, L, space)
    # The way to the level is 3/2; 9 g from the curvature, 2 g / 3 from the least squares.
    off = (2.25 * (1 - 2.0**-30) - found[0]) / (2.25 * gamma(22))
    assert off == pytest.approx(9 + 4 / 3 + 2.0**-50 / gamma(22), abs=0.3)
    assert found[1] == 0
    wrong = relaxed(T + 0.125, np.array([[1.125], [0.25]]), z, L, space)
    assert wrong == pytest.approx([(1.5 - 0.25) ** 2, 0], rel=1e-8)
    rows = relaxed(np.zeros((1, 2)), np.array([[1.0, 2.0]]), np.zeros((1, 2)), np.eye(2) * 3, space)
    assert rows[0] == pytest.approx(45, rel=1e-8)


def test_the_least_eigenvalue_leaves_room_for_rounding():
    for n in (1, 2, 5):
        assert (1 - least_eigenvalue(np.eye(n))) / U == pytest.approx(
            8 * n * (2 * n + 20), rel=0.01
        )
    assert least_eigenvalue(np.ones((2, 2))) == 0
    for least, found in ((1e-14, 0.0), (4.1e-14, 0.0), (1e-13, 1e-13 - 16 * gamma(24))):
        unit = np.array([[1.0, 1 - least], [1 - least, 1.0]])
        assert least_eigenvalue(unit) == pytest.approx(found, abs=1e-15)
    assert least_eigenvalue(np.array([[1.0, 2.0], [2.0, 1.0]])) == 0


def test_an_eigenvalue_that_a_factorization_denies_is_none(monkeypatch):
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda unit: np.array([0.5, 1.5]))
    assert least_eigenvalue(np.array([[1.0, 0.9], [0.9, 1.0]])) == 0


def test_objectives_of_a_small_row_and_their_errors():
    V, G, F = np.array([[1.5, -0.5]]), np.array([[4.0, 2.0], [2.0, 1.0]]), np.array([[3.0, -1.0]])
    value, error = objectives(V, F, G, no_doubt(F, G))
    assert value == [-3.75]
    assert error == pytest.approx([22.25 * gamma(24) * SPARE], rel=1e-13)
    unsure = Doubt(np.array([[0.25, 0.5]]), np.array([[1.0, 0.0], [0.0, 2.0]]))
    value, error = objectives(V, F, G, unsure)
    assert value == [-3.75] and error == pytest.approx([4 * SPARE], rel=1e-13)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_differences_are_sure_where_they_exceed_their_rounding(sign):
    V, W, G = np.zeros((1, 2)), np.array([[sign, 0.0]]), np.eye(2)
    for steps, sure in ((0.0, False), (23.5, False), (24.5, True)):
        F = np.array([[sign * (0.5 - steps * U), 0.0]])
        worse, better = differences(V, W, F, G, no_doubt(F, G))
        assert worse == [sure] and not better
        worse, better = differences(W, V, F, G, no_doubt(F, G))
        assert better == [sure] and not worse
    F = np.array([[sign * 0.25, 0.0]])  # 1/2 apart
    for off, sure in ((0.2, True), (0.3, False)):
        for doubt in (Doubt(off + 0 * F, 0 * G), Doubt(0 * F, 2 * off * np.eye(2))):
            worse, better = differences(V, W, F, G, doubt)
            assert worse == [sure] and not better


def test_of_equally_good_rows_the_first_is_taken_and_that_is_certain():
    F, G = np.array([[0.0, 0.0], [2.75, 2.75]]), np.array([[4.0, 2.0], [2.0, 4.0]])
    exact_rows = ExactRows(F, G, np.ones(()))
    for rows_ in ([[0, 0], [1, 0], [0, 1]], [[0, 1], [1, 0], [0, 0]], [[1, 1], [0, 1], [0, 1]]):
        V = np.array(rows_, dtype=float)
        found, certain = best_row(V, 1, F, G, exact_rows, no_doubt(F, G))
        assert found == next(n for n, v in enumerate(rows_) if sum(v) == 1) and certain
        assert best_row(V[[found]], 1, F, G, exact_rows, no_doubt(F, G)) == (0, True)
    # Doubt leaves a tie open, but not what lies farther apart.
    for doubt in (Doubt(1e-9 * F, 0 * G), Doubt(0 * F, 1e-9 * G)):
        assert best_row(np.eye(2), 1, F, G, exact_rows, doubt) == (0, False)
        assert best_row(np.array([[0.0, 0.0], [1.0, 0.0]]), 1, F, G, exact_rows, doubt) == (1, True)


@given(seeds, st.integers(2, 4))
def test_parts_of_an_exact_problem_are_problems_of_their_columns(seed, rank):
    rng = np.random.default_rng([seed, 87])
    F, G = rng.standard_normal((2, rank)), rng.standard_normal((rank, rank))
    step = rng.uniform(0.1, 9, (2, rank))
    columns = rng.permutation(rank)[: rank - 1]
    V = rng.integers(-9, 9, (4, rank - 1)) + 0.5
    part = ExactRows(F, G, step).part(columns).values(1, V)
    alone = ExactRows(F[:, columns], G[np.ix_(columns, columns)], step[:, columns]).values(1, V)
    assert [int(v) for v in part] == [int(v) for v in alone]


def test_whole_numbers_of_floats_are_exact():
    x = np.array([0.0, 1.5, -(2.0**-1074), 1e308, -0.0])
    whole, unit = integers(x)
    assert [Fraction(int(k)) * Fraction(2) ** unit for k in whole] == exact(x)
    assert integers(np.zeros((2, 1)))[0].tolist() == [[0], [0]]
    # Beyond 62 bits, too: 2**100 (m - 3)**2 but for a constant.
    big = ExactRows(np.array([[3 * 2.0**100]]), np.array([[2.0**100]]), np.ones(()))
    values = [int(v) for v in big.values(0, np.array([[3.0], [2.0], [4.0], [2.0**15]]))]
    unit = values[1] - values[0]
    assert [v - values[0] for v in values] == [0, unit, unit, unit * (2**15 - 3) ** 2] and unit > 0


def test_what_is_within_reach_by_hand():
    # (2 * 2 + 2)**2 + 13 is 49, and 7 * 2 + 2 is 16.
    for reach in (proofs.reach, _kernels.reach.py_func):
        assert reach(4.0, (2.0, 13.0, 2.0)) == 512
        assert reach(0.0, (0.0, 0.0, 1.0)) == 0


@pytest.mark.parametrize(("rank", "rows_"), [(1, 2**18), (3, 87381), (4096, 64), (10**4, 64)])
def test_both_searches_collect_as_many_rows(rank, rows_):
    assert capacity(rank) == rows_


def test_a_search_that_cannot_hold_more_rows_says_what_it_left(monkeypatch):
    monkeypatch.setattr(proofs, "capacity", lambda rank: 2)
    # Four rows are within reach: 0, 1, -1 and 2 from the middle of the first two.
    how = (np.array([0.4]), np.eye(1), np.array([0.0]), (-8.0, 7.0, 0.0), 100, (0.0, 3.0, 1.0))
    best, distance, left, nodes, found = readable_row(*how)
    assert best == [0] and distance == pytest.approx(0.16) and nodes == 2
    assert left == pytest.approx(1.96) and found.tolist() == [[0.0], [1.0]]


def test_the_readable_search_takes_ties_to_even_codes_first():
    z, L, box = np.array([0.5, 1.5, -0.5]), np.eye(3), (-8.0, 7.0, 0.0)
    slack = 0.0, 0.0, 1 + 1e-12
    best, distance, left, _, found = readable_row(z, L, np.zeros(3), box, 10**3, slack)
    assert best.tolist() == [0, 2, 0] and distance == 0.75 and left == np.inf
    assert len(found) == 8 and found[0].tolist() == [0, 2, 0]


def test_the_readable_search_takes_nearest_levels_first_and_the_ends_of_its_reach():
    box, z = (-60.0, 60.0, 0.0), np.array([0.5])
    *_, found = readable_row(z, np.eye(1), np.zeros(1), box, 10**3, (0.0, 900.0, 1.0))
    assert found[:, 0].tolist() == sorted(range(-29, 31), key=lambda k: (abs(k - 0.5), k))
    # The square root of 0.25 + 6 is 2.5, exactly.
    *_, found = readable_row(z, np.eye(1), np.zeros(1), box, 10**3, (0.0, 6.0, 1.0))
    assert sorted(found[:, 0].tolist()) == [-2, -1, 0, 1, 2, 3]
    # What a row of distance 1/4 makes of others before it, and of itself: exactly within reach.
    *_, found = readable_row(z, np.eye(1), np.full(1, 3.0), box, 10**3, (0.0, 0.0, 1.0))
    assert found[:, 0].tolist() == [0, 1]


def test_doubt_about_normal_equations_of_a_small_tensor():
    X = np.array([[1.0, -2.0], [3.0, 4.0], [0.0, 1.0]])
    factors = [np.array([[1.0], [1.0], [-1.0]]), np.array([[1.0], [-1.0]])]
    doubt = normal_doubt(X, factors, 0)
    assert pytest.approx(gamma(23) * SPARE * np.array([[3.0], [7.0], [1.0]]), rel=1e-12) == doubt.F
    assert pytest.approx(gamma(23) * SPARE * np.array([[2.0]]), rel=1e-12) == doubt.G
    doubt = normal_doubt(X, factors, 1)
    assert pytest.approx(gamma(24) * SPARE * np.array([[4.0], [7.0]]), rel=1e-12) == doubt.F
    assert pytest.approx(gamma(24) * SPARE * np.array([[3.0]]), rel=1e-12) == doubt.G


@pytest.mark.parametrize("way", [1, -1])
def test_single_changes_are_decided_by_floats_and_near_ties_exactly(way):
    G, asked = np.eye(2), []

    def told(residual, bend=1):
        def slope(i, r):
            asked.append((i, r))
            return Fraction(way) * residual, Fraction(bend)

        return slope

    def check(f, slope, V=(0.0, 0.0), box=(-8.0, 7.0, 0.0), doubt=0.0):
        asked.clear()
        F = np.array([[0.0, way * f]])
        steps = Steps(F, G, box, np.ones(1))
        return no_single_change(np.array([V]) * way, steps, Doubt(doubt + 0 * F, 0 * G), slope)

    half = Fraction(1, 2)
    assert check(0.4, told(half)) and not asked
    assert not check(0.6, told(half)) and not asked
    # An exact tie is no gain; what float64 does not see of it the exact slope says.
    assert check(0.5, told(half)) and asked == [(0, 1)]
    assert not check(0.5, told(half + Fraction(1, 10**40))) and asked
    assert check(0.5, told(half, 2)) and not check(0.5, told(half, Fraction(1, 2)))
    # Rounding is 24 U of |f| twice and of the curvature once: of 1 + 1, at a gain of twice f.
    for steps, sure in ((23, False), (25, True)):
        assert not check(0.5 + steps * U, told(half + 1)) and bool(asked) != sure
        assert check(0.5 - steps * U, told(half)) and bool(asked) != sure
    for doubt, unsure in ((0.09, False), (0.11, True)):
        assert check(0.4, told(half), doubt=doubt) and bool(asked) == unsure
    # At the end of the box there is nothing beyond.
    ends = (0.0, 7.0) if way > 0 else (0.0, 8.0)
    assert check(100.0, told(half), V=ends) and not asked
    inner = (0.0, ends[1] - 1)
    assert not check(100.0, told(half), V=inner)


def test_at_the_end_of_a_box_with_an_offset_no_change_is_free():
    G = np.eye(1)
    for sign in (1.0, -1.0):
        F, V = np.array([[sign * 100.0]]), np.array([[sign * 1.5]])
        steps = Steps(F, G, (-2.0, 1.0, 0.5), np.ones(1))
        assert no_single_change(V, steps, no_doubt(F, G), lambda i, r: (Fraction(0), Fraction(1)))
        assert not no_single_change(
            V - sign, steps, no_doubt(F, G), lambda i, r: (Fraction(0), Fraction(1))
        )


@given(seeds, st.integers(0, 2), st.booleans())
def test_exact_slopes_are_those_of_plain_loops(seed, mode, wide):
    rng = np.random.default_rng([seed, 89])
    shape, rank = (2, 3, 2), 2
    X = rng.standard_normal(shape) * (rng.random(shape) < 0.8)
    levels = [rng.integers(-3, 4, (n, rank)) + 0.5 * wide for n in shape]
    steps = [rng.uniform(0.1, 9, (1, rank)) if wide else np.array(0.3 + n) for n in range(3)]
    values = [
        [[a * b for a, b in zip(*two, strict=True)] for two in zip(V, s, strict=True)]
        for V, s in zip(
            exact(levels),
            (exact(np.broadcast_to(s, (n, rank))) for s, n in zip(steps, shape, strict=True)),
            strict=True,
        )
    ]
    F, G = loops.mttkrp(exact(X), values, mode), loops.gram(values, mode)
    slope = exact_slopes(X, levels, steps, mode)
    own = np.broadcast_to(steps[mode], levels[mode].shape)
    for i, r in product(range(shape[mode]), range(rank)):
        residual, bend = slope(i, r)
        fitted = loops.matmul([values[mode][i]], G)[0][r]
        assert residual == F[i][r] - fitted
        assert bend == Fraction(float(own[i, r])) * G[r][r]


def test_errors_and_tails_of_one_number_by_hand():
    for rank in (1, 2):
        nothing = [np.zeros((1, rank))] * 2
        assert (1 - least_error(np.array([[1.0]]), nothing)) / U == pytest.approx(
            2 * (17 + rank), abs=1
        )
    three = [np.zeros((1, 1))] * 3
    assert (1 - least_error(np.array([[[1.0]]]), three)) / U == pytest.approx(2 * 22, abs=1)
    assert least_error(np.array([[1.0]]), [np.ones((1, 1))] * 2) == 0
    # Sizes add up, whatever cancels: 1 + 3 are the noise of an error of 2.
    found = least_error(np.array([[-1.0]]), [np.array([[1.0]]), np.array([[-3.0]])])
    assert (2 - found) / U == pytest.approx((2 + 4) * 18, abs=2)


def test_the_tail_of_a_diagonal_matrix():
    M = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    size = 13**0.5
    off = 13 * (2 * (2 + 1) + 4 * (size + 2 * size))
    assert (2 - least_tail(M, 1)) / U == pytest.approx(off, rel=0.01)
    assert least_tail(M, 2) == 0
    assert least_tail(M, 0) == pytest.approx(size, rel=1e-12)


# --- certificates ---------------------------------------------------------------------------------


@st.composite
def tensors(draw):
    """A tensor and codes: at random, near an exact fit, or exact; with one scale or several."""
    seed, rank = draw(seeds), draw(st.integers(1, 2))
    rng = np.random.default_rng([seed, 73])
    shape, grid = (2, 3, 2), draw(st.sampled_from([Grid(2), Grid(2, mid_rise=True), Grid(3)]))
    q = quantize_cp(random_cp(shape, rank, rng=seed), grid, axis=draw(st.sampled_from([None, 1])))
    if draw(st.booleans()):
        powers = [2.0 ** rng.integers(-20, 20, (1, rank)) for _ in shape]
        q = QuantizedCP(q.codes, powers, grid)
    X, kind = reconstruct(q.dequantize()), draw(st.sampled_from(["exact", "near", "any"]))
    if kind == "near":
        X = X * (1 + 2.0**-45 * rng.integers(-9, 9, shape))
    if kind == "any" or not X.any():
        X = rng.integers(-4, 5, shape) / 4.0
        X[0, 0, 0] = 1.0
        q = polish(X, q).cp
    return X, q


def squared_error(X, q, mode, row, codes):
    """Of one row of the unfolding, exactly; the scales are exact factors, too."""
    levels = [dequantize(k, 1.0, grid=q.grid) for k in q.codes]
    values = [
        [
            [Fraction(v) * Fraction(s) for v, s in zip(*pair, strict=True)]
            for pair in zip(V.tolist(), np.broadcast_to(s, V.shape).tolist(), strict=True)
        ]
        for V, s in zip(levels, q.scales, strict=True)
    ]
    new = dequantize(np.asarray(codes, q.grid.dtype), 1.0, grid=q.grid).tolist()
    steps = np.broadcast_to(q.scales[mode], q.codes[mode].shape)[row].tolist()
    values[mode] = [[Fraction(v) * Fraction(s) for v, s in zip(new, steps, strict=True)]]
    part = np.take(X, [row], axis=mode)
    return loops.squared_error(exact(part), values)


@law("certify.bound", "certify.one-opt", "certify.floor")
@settings(max_examples=25, deadline=None)
@given(tensors(), st.sampled_from([0, 10, 1000]))
def test_certificates_are_true_in_exact_arithmetic(problem, budget):
    X, q = problem
    found = certify(X, q, budget=budget)
    square = sum(x * x for x in exact(X.ravel()))
    codes = quantize(q.grid.levels, q.grid, 1.0)
    for mode, k in enumerate(q.codes):
        choices = list(product(codes.tolist(), repeat=k.shape[1]))
        errors = [{c: squared_error(X, q, mode, i, c) for c in choices} for i in range(len(k))]
        least = sum(min(row.values()) for row in errors)
        assert Fraction(found.bound[mode]) ** 2 * square <= least
        here = [row[tuple(c)] for row, c in zip(errors, k.tolist(), strict=True)]
        if found.proved[mode] == 1 and found.bound[mode] > 1e-5:
            assert least >= sum(here) * (1 - Fraction(1, 10**5)) or found.bound[mode] ** 2 < float(
                sum(here) / square
            )
        if found.one_opt[mode]:
            for row, own, error in zip(errors, k.tolist(), here, strict=True):
                for choice, other in row.items():
                    if sum(a != b for a, b in zip(choice, own, strict=True)) == 1:
                        assert other >= error
        assert Fraction(found.floor) ** 2 * square <= least


@given(seeds, st.integers(2, 5), st.sampled_from([1.0, 1e-7, 1e-15, 0.0]))
def test_no_matrix_of_rank_one_is_nearer_than_the_tail(seed, width, noise):
    rng = np.random.default_rng([seed, 79])
    M = np.outer(rng.standard_normal(2), rng.standard_normal(width))
    M = M + noise * rng.standard_normal(M.shape)
    found = least_tail(M, 1)
    trace, det = gram_of_two(M)
    x = Fraction(found) ** 2  # at most the smaller root of x**2 - trace x + det
    assert x * x - trace * x + det >= 0 and 2 * x <= trace
    assert found >= np.linalg.svd(M)[1][1] - 1e-13 * np.linalg.norm(M)


def gram_of_two(M):
    a, b = exact(M)
    aa, ab, bb = (sum(x * y for x, y in zip(*two, strict=True)) for two in ((a, a), (a, b), (b, b)))
    return aa + bb, aa * bb - ab**2


@given(seeds, st.sampled_from([0.0, 1e-15, 1e-8, 1.0]))
def test_the_least_error_is_below_the_exact_one(seed, noise):
    rng = np.random.default_rng([seed, 83])
    cp = random_cp((3, 2, 4), 3, rng=seed)
    X = reconstruct(cp) + noise * rng.standard_normal((3, 2, 4))
    found = least_error(X, list(cp.factors))
    true = loops.squared_error(exact(X), [exact(A) for A in cp.factors])
    assert Fraction(found) ** 2 <= true
    assert found >= float(true) ** 0.5 - 1e-12


def test_a_zero_tensor_has_a_certificate():
    q = quantize_cp(random_cp((2, 3, 2), 1, rng=0), Grid(2))
    found = certify(np.zeros((2, 3, 2)), q)
    assert found.bound == (0.0, 0.0, 0.0) and found.floor == 0.0


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e200, 1e308, 1e-310, 1e-200])
def test_steps_whose_squares_leave_float64_are_refused(value):
    for scale in (value, [[value, 1.0]], [[value]]):
        with pytest.raises(ValueError, match=r"^scale: expected"):
            solve_rows([[1.0, 2.0]], np.eye(2), Grid(4), scale)


def test_problems_beyond_the_range_are_refused():
    with pytest.raises(ValueError, match=r"^scale: expected numbers, and what G makes"):
        solve_rows([[1.0]], [[1e200]], Grid(4), 1e100)
    with pytest.raises(ValueError, match=r"^scale: expected F at most"):
        solve_rows([[1e200]], [[1.0]], Grid(4), 1.0)
    q = QuantizedCP([[[1]], [[1]]], [1e-200, 1e-200], Grid(4))
    with pytest.raises(ValueError, match=r"^cp: "):
        certify([[1.0]], q)
    column = QuantizedCP([[[1, 1]], [[1, 1]]], [[[1.0, 1e-200]], [[1.0, 1e-200]]], Grid(4))
    with pytest.raises(ValueError, match=r"^cp: "):
        certify([[1.0]], column)


# --- planted faults -------------------------------------------------------------------------------


def patched(**changes):
    """The right search with a wrong part."""

    def fault(*arrays, **options):
        with pytest.MonkeyPatch.context() as patch:
            for name, wrong in changes.items():
                patch.setattr(rows, name, wrong)
            return right.solve_rows(*arrays, **options)

    return fault


def no_margin(F, G, L, z, box, doubt):
    """Trusts the search as if nothing was rounded and nothing added to the diagonal."""
    space = rows_margin(F, G, L, z, box, doubt)
    return space._replace(near=0 * space.near, wide=0 * space.wide, grown=1.0)


def no_ridge(F, G, L, z, box, doubt):
    """Forgets that the triangle is that of another matrix."""
    return rows_margin(F, L @ L.T, L, z, box, doubt)


def rounded_objectives(V, F, G, doubt):
    """Takes the computed objective for the bound."""
    value, error = rows_objectives(V, F, G, doubt)
    return value, 0 * error


def float_decision(candidates, i, F, G, exact, doubt):
    """Decides among the last few by floats."""
    return int(np.argmin((candidates * (candidates @ G - 2 * F[i])).sum(axis=1))), True


def absolute_ridge(G, order):
    """Judges all columns by the longest one."""
    system = G + 4 * len(G) * 2.0**-52 * np.trace(G) * np.eye(len(G))
    last_first = rows._order(system) if order == "greedy" else np.arange(len(G))
    return np.linalg.cholesky(system[np.ix_(last_first, last_first)]), last_first


def cancelled_error(X, factors):
    """By the norms, which cancel."""
    return float(np.linalg.norm(X - reconstruct(right.CP(factors)))) + 1e-9 * np.linalg.norm(X)


def ties_from_below(centre, taken, box):
    """Takes the lower of two levels that are equally near."""
    low, high, offset = box
    levels = np.arange(low, high + 1) + offset
    order = [
        np.argsort(np.abs(c - levels), kind="stable")[int(n)]
        for c, n in zip(centre, taken, strict=True)
    ]
    return levels[order]


class NarrowTrees(Trees):
    """Takes half of what is within reach."""

    def improve(self, i):
        super().improve(i)
        self.limit[i] = (self.radius[i] + self.limit[i]) / 2


rows_margin, rows_objectives = rows.margin, rows.objectives


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_no_proof_is_false, {"solve_rows": patched(margin=no_margin)}),
        (test_known_false_proofs_have_the_right_answer, {"solve_rows": patched(margin=no_ridge)}),
        (test_no_proof_is_false, {"solve_rows": patched(objectives=rounded_objectives)}),
        (test_no_proof_is_false, {"solve_rows": patched(best_row=float_decision)}),
        (
            test_powers_of_two_in_columns_change_no_code,
            {"root_triangle": absolute_ridge},
        ),
        (test_levels_are_taken_as_by_the_kernel, {"nearest_left": ties_from_below}),
        (test_the_readable_search_and_the_kernel_find_the_same, {"Trees": NarrowTrees}),
        (test_the_least_error_is_below_the_exact_one, {"least_error": cancelled_error}),
        (
            test_no_matrix_of_rank_one_is_nearer_than_the_tail,
            {"least_tail": lambda M, rank: float(np.linalg.norm(np.linalg.svd(M)[1][rank:]))},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
