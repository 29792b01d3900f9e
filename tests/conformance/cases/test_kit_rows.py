"""The cases of one factor in integer codes: their truth, what they are clear of, certificates."""

import sys
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_draws import draw
from support import caught

from qcp_ref import loops
from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases import truth
from qcp_ref.conformance.cases.rows import GAP, families, is_clear
from qcp_ref.conformance.cases.truth import targets
from qcp_ref.conformance.dyadic import SplitMix64, canonical, decode, encode, fractions
from qcp_ref.conformance.judging import certificates as certs
from qcp_ref.conformance.judging.certificates import CERTIFICATES
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.reference import numpy_adapter
from qcp_ref.conformance.spec import CAPABILITIES, OPS

THIS = sys.modules[__name__]
CASES = [case for _, cases in families() for case in cases]
OWN = ("descend_rows", "nearest_plane", "refit_scale", "closest_rows")
seeds = st.integers(0, 2**64 - 1)
U = Fraction(1, 2**24)


def of(*ops):
    return pytest.mark.parametrize(
        "case", [case for case in CASES if case["op"] in ops], ids=lambda case: case["id"]
    )


def read(case):
    return {name: fractions(part) for name, part in case["in"].items()}


def gamma(n):
    return n * U / (1 - n * U)


def of_loops(case):
    """The codes of the loops of the book."""
    inputs, options = read(case), case["options"]
    G, box = inputs["G"], (options["qmin"], options["qmax"], 0)
    rows = [[f / inputs["scale"] for f in row] for row in inputs["F"]]
    if case["op"] == "descend_rows":
        pairs = zip(rows, inputs["codes"], strict=True)
        return [loops.descend(f, G, v, [0] * len(G), box) for f, v in pairs]
    return [loops.nearest_plane(f, G, range(len(G))[::-1], box) for f in rows]


# --- what the cases claim about themselves --------------------------------------------------------


def test_numbers_of_cases():
    counts = {op: sum(case["op"] == op for case in CASES) for op in OWN}
    assert counts == {"descend_rows": 14, "nearest_plane": 10, "refit_scale": 6, "closest_rows": 12}
    assert len({case["id"] for case in CASES}) == len(CASES) == sum(counts.values())
    assert sum(len(canonical(case)) for case in CASES) < 25_000


@of(*OWN)
def test_every_case_is_complete(case):
    assert set(case["needs"]) <= set(CAPABILITIES)
    assert case["flags"] and case["says"].endswith(".")
    assert set(case["in"]) == set(OPS[case["op"]].arrays)
    assert set(case["options"]) == set(OPS[case["op"]].options)
    for part in case["in"].values():
        decode(part, "f32")  # exact, or it raises
    inputs = read(case)
    G, F = np.array(inputs["G"], float), np.array(inputs["F"], float)
    assert np.array_equal(G, G.T) and np.linalg.eigvalsh(G)[0] > -1e-9
    assert np.allclose(F @ np.linalg.pinv(G) @ G, F)  # there is a tensor with these
    if "codes" in inputs and case["options"]:
        low, high = case["options"]["qmin"], case["options"]["qmax"]
        assert all(low <= k <= high for row in inputs["codes"] for k in row)


def truth_is_that_of_the_loops(case):
    if "ties" not in case["id"]:
        assert is_clear(case["op"], read(case), case["options"])
    assert fractions(case["out"]["codes"]) == of_loops(case)


@of("descend_rows", "nearest_plane")
def test_codes_are_those_of_the_loops(case):
    truth_is_that_of_the_loops(case)


@pytest.mark.parametrize("op", ["descend_rows", "nearest_plane"])
@given(seeds)
def test_drawn_codes_are_those_of_the_loops(op, seed):
    truth_is_that_of_the_loops(draw(op, SplitMix64(seed)))


@of("descend_rows")
def test_descent_in_float32_cannot_reach_a_tie_or_nothing_is_rounded(case):
    """The bound :eq:`conformance-descent`, or numbers of few bits all along."""
    inputs, options = read(case), case["options"]
    G, rank, ties = inputs["G"], len(inputs["G"]), 0
    new = fractions(case["out"]["codes"])
    for row, old, now, aim in zip(
        inputs["F"], inputs["codes"], new, targets(case["op"], inputs, options), strict=True
    ):
        for r in range(rank):
            if G[r][r] == 0:
                assert now[r] == old[r]
                continue
            terms = [2 * (abs(old[q]) + abs(now[q])) * abs(G[q][r]) for q in range(rank)]
            size = (abs(row[r]) / inputs["scale"] + sum(terms)) / G[r][r] + abs(old[r])
            tie = (2 * aim[r]).denominator == 1 and (2 * aim[r]) % 2 == 1
            ties += tie
            if "ties" in case["id"]:
                whole = (4 * aim[r], G[r][r] / 4, row[r] / inputs["scale"])
                assert all(part.denominator == 1 for part in map(Fraction, whole))
                assert size < 2**20
            else:
                away = abs(aim[r] - floor(aim[r]) - Fraction(1, 2))
                assert gamma(2 * rank + 8) * size < GAP <= away
    assert (ties > 3) == ("ties" in case["id"])


def test_ties_are_of_both_signs_and_parities():
    seen = set()
    for case in CASES:
        if "ties" in case["id"]:
            low, high = case["options"]["qmin"], case["options"]["qmax"]
            aims = targets(case["op"], read(case), case["options"])
            inner = [t for row in aims for t in row if low < t < high and t % 1]
            seen |= {(t > 0, round(t) > t) for t in inner}
            assert {*case["when"][0]["declared"]} == {"weight_rounding"} and len(case["when"]) == 2
    assert seen == {*product((False, True), repeat=2)}


@of("nearest_plane")
def test_solving_in_float32_cannot_reach_a_tie(case):
    """The bound :eq:`conformance-plane`, with the norms of float64."""
    inputs = read(case)
    G, rank = np.array(inputs["G"], float), len(inputs["G"])
    least, *_, most = np.append(np.linalg.eigvalsh(G), np.linalg.eigvalsh(G)[-1])
    growth = float(rank * gamma(3 * rank + 1) / (1 - rank * gamma(rank + 1)))
    scale = float(inputs["scale"])
    for row, codes in zip(inputs["F"], fractions(case["out"]["codes"]), strict=True):
        f, v = np.array(row, float) / scale, np.array(codes, float)
        for r in range(rank):
            later, left = slice(r + 1, None), slice(r + 1)
            a = np.linalg.solve(G[left, left], f[left] - v[later] @ G[later, left])
            size = np.abs(f[left]) + np.abs(v[later]) @ np.abs(G[later, left])
            away = float(gamma(rank + 1)) * np.linalg.norm(size)
            bound = away + growth * most * np.linalg.norm(a)
            assert bound / (least - growth * most) < GAP


@of("closest_rows")
def test_rows_that_are_not_the_best_are_worse_by_more_than_rounding(case):
    """The bound :eq:`conformance-closest` in float32."""
    inputs, options = read(case), case["options"]
    G, rank = inputs["G"], len(inputs["G"])
    levels = range(options["qmin"], options["qmax"] + 1)
    V = np.array([*product(levels, repeat=rank)], float)
    for row, least in zip(inputs["F"], case["out"]["least"], strict=True):
        f = [x / inputs["scale"] for x in row]
        best = loops.best_row(f, G, [[*levels]] * rank)
        assert loops.row_objective(f, G, best) == Fraction(least)
        values = ((V @ np.array(G, float)) * V).sum(axis=1) - 2 * V @ np.array(f, float)
        others = values[values > float(Fraction(least)) + 1e-6]
        size = np.abs(V) @ np.abs(np.array(G, float)) * np.abs(V)
        size = size.sum(axis=1) + 2 * np.abs(V) @ np.abs(np.array(f, float))
        noise = 2 * float(gamma(2 * rank + 4)) * size.max()
        assert others.min() - float(Fraction(least)) > 16 * noise


# --- implementations that differ ------------------------------------------------------------------


def row_by_row(F, G, codes, scale, *, qmin, qmax):
    """Keeps what is left of F up to date, in its own unit."""
    V, left = codes.astype(np.int64), F - scale * (codes.astype(F.dtype) @ G)
    for i, r in np.ndindex(V.shape):
        if G[r, r] > 0:
            wanted = V[i, r] + left[i, r] / (scale * G[r, r])
            old, V[i, r] = V[i, r], np.clip(np.rint(wanted), qmin, qmax)
            left[i] -= scale * (V[i, r] - old).astype(F.dtype) * G[r]
    return V


def triangle(F, G, scale, *, qmin, qmax):
    """Spells out the nearest plane by Cholesky's factor."""
    L = np.linalg.cholesky(G)
    z, V = np.linalg.solve(L, F.T / scale).T, np.zeros_like(F)
    for i in reversed(range(len(G))):
        wanted = (z[:, i] - V @ L[:, i]) / L[i, i]
        V[:, i] = np.clip(np.rint(wanted), qmin, qmax)
    return V.astype(int)


@pytest.mark.parametrize("arith", ["f32", "f64"])
@pytest.mark.parametrize(("op", "run"), [("descend_rows", row_by_row), ("nearest_plane", triangle)])
def test_other_orders_are_right(op, run, arith):
    adapter = Adapter("other", arith=arith)
    adapter.ops[op] = run
    drawn = [draw(op, SplitMix64(seed)) for seed in range(60)]
    for case in [*(case for case in CASES if case["op"] == op), *drawn]:
        found = judge(case, execute(adapter, case)["out"], adapter.hello())
        assert found.outcome == "pass", (case, found)


@pytest.mark.slow
@pytest.mark.parametrize("op", OWN)
def test_the_book_on_drawn_cases(op):
    for seed in range(40):
        case = draw(op, SplitMix64(seed))
        answer = execute(numpy_adapter, case)
        if answer.get("unsupported") != "bits":  # no such grid
            found = judge(case, answer["out"], numpy_adapter.hello())
            assert found.outcome == "pass", (case, found)


# --- certificates ---------------------------------------------------------------------------------


def verdict(case, value, arith="f64"):
    out = {OPS[case["op"]].results[0]: encode(value)}
    return judge(case, out, Adapter("any", arith=arith).hello())


def best_scale(case):
    inputs = read(case)
    return loops.refit_scale(inputs["F"], inputs["G"], inputs["codes"])


def scales_are_told_apart(case):
    scale = np.float64(best_scale(case))
    assert verdict(case, scale).outcome == "pass"
    for factor in (1 + 1e-9, 1 - 1e-9, 2, 0, -1):
        assert verdict(case, scale * factor).word == "wrong-value"


@of("refit_scale")
def test_the_best_scale_and_no_other_is_accepted(case):
    scales_are_told_apart(case)
    scale = np.float32(best_scale(case))
    assert verdict(case, scale, "f32").outcome == "pass"
    assert verdict(case, scale * np.float32(1.001), "f32").outcome == "fail"
    assert verdict(case, scale).word == "wrong-dtype"
    assert verdict(case, np.full(1, scale, float)).word == "wrong-shape"


@given(seeds)
def test_the_best_scale_of_drawn_problems(seed):
    scales_are_told_apart(draw("refit_scale", SplitMix64(seed)))


def minimisers_are_accepted(case):
    """Of all rows of codes those with the least objective, and no others."""
    inputs, options = read(case), case["options"]
    G, levels = inputs["G"], range(options["qmin"], options["qmax"] + 1)
    f = [x / inputs["scale"] for x in inputs["F"][0]]
    rows = [*product(levels, repeat=len(G))]
    values = [loops.row_objective(f, G, v) for v in rows[:: max(len(rows) // 60, 1)]]
    best = [loops.best_row([x / inputs["scale"] for x in row], G, [[*levels]] * len(G))
            for row in inputs["F"]]  # fmt: skip
    assert verdict(case, np.array(best)).outcome == "pass"
    for v, value in zip(rows[:: max(len(rows) // 60, 1)], values, strict=True):
        right = value == Fraction(case["out"]["least"][0])
        found = verdict(case, np.array([v, *best[1:]]))
        assert found.outcome == ("pass" if right else "fail"), (v, found)
        assert right or found.says.startswith("row 0: ")


@of("closest_rows")
def test_every_minimiser_and_nothing_else_is_accepted(case):
    minimisers_are_accepted(case)


@pytest.mark.slow
def test_there_are_cases_with_several_minimisers():
    singular = next(case for case in CASES if case["id"] == "closest_rows.zero-column")
    V = np.array(execute(numpy_adapter, singular)["out"]["codes"]["m"]).reshape(3, 3)
    for code in (-4, 0, 3):
        V[:, 1] = code
        assert verdict(singular, V).outcome == "pass"
    V[0, 1] = 4
    assert verdict(singular, V).says == "codes: outside -4 to 3"
    assert verdict(singular, V[:, :2]).word == "wrong-shape"
    assert verdict(singular, V.astype(float)).word == "wrong-dtype"


# --- planted faults -------------------------------------------------------------------------------


def one_of(op):
    return next(case for case in CASES if case["op"] == op)


def expectations_on_one_case():
    for op in ("descend_rows", "nearest_plane"):
        case = one_of(op)
        out = truth.expect(op, read(case), case["options"])
        assert fractions(out["codes"]) == of_loops(case)


def one_scale():
    scales_are_told_apart(one_of("refit_scale"))


def one_closest():
    minimisers_are_accepted(next(case for case in CASES if case["id"] == "closest_rows.two-bits"))


def test_planted_faults_are_caught():
    def lazy(op, given_, options, choices=None):
        return [[Fraction(f) / given_["scale"] for f in row] for row in given_["F"]]

    def plain_norm(F, G, V):
        return along(F, [[int(r == q) for q in range(len(G))] for r in range(len(G))], V)

    along = certs._along
    for test in (expectations_on_one_case, one_scale, one_closest):
        test()
    assert caught(truth, expectations_on_one_case, targets=lazy)
    assert caught(certs, one_scale, _along=plain_norm)
    assert caught(certs, one_scale, growth=lambda n, info: Fraction(1, 1000))
    assert caught(certs, one_closest, verdict=lambda checks: certs.Judgement("pass"))
    assert set(CERTIFICATES) >= {"refit_scale", "closest_rows"}
