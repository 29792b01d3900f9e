"""The cases of the solvers: what they claim about themselves is true."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import exact

from qcp_ref import loops
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.cases.solvers import families, minimiser
from qcp_ref.conformance.dyadic import SplitMix64, canonical, decode, fractions
from qcp_ref.conformance.judging.certificates import CERTIFICATES
from qcp_ref.conformance.judging.runs import RUNS
from qcp_ref.conformance.reference import numpy_adapter
from qcp_ref.conformance.spec import CAPABILITIES, OPS

FAMILIES = dict(families())
CASES = {case["id"]: case for cases in FAMILIES.values() for case in cases}


def inputs(case):
    return [
        [fractions(one) for one in part] if isinstance(part, list) else part and fractions(part)
        for part in (case["in"][name] for name in OPS[case["op"]].arrays)
    ]


def of(prefix):
    return [case for name, case in CASES.items() if name.startswith(prefix)]


def test_numbers_of_cases():
    counts = {name: len(cases) for name, cases in FAMILIES.items()}
    assert counts == {"best_scale": 10, "balance": 4, "als": 56, "admm": 22, "epc": 21}
    assert len(CASES) == sum(counts.values())  # no id twice
    assert sum(len(canonical(case)) for case in CASES.values()) < 60_000


def test_the_same_cases_each_time():
    again = {case["id"]: case for _, cases in families() for case in cases}
    assert canonical(again) == canonical(CASES)


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_complete(name):
    case = CASES[name]
    assert set(case["needs"]) <= set(CAPABILITIES)
    assert case["out"]["name"] in CERTIFICATES and case["flags"] and case["says"]
    assert set(case["options"]) == set(OPS[case["op"]].options)
    for part in case["in"].values():
        for array in part if isinstance(part, list) else [part]:
            if array is not None:
                decode(array, "f64" if "float64" in case["needs"] else "f32")  # exact, or it raises


def test_every_certificate_is_used():
    elsewhere = {"refit_scale", "closest_rows", *RUNS}  # cases of rows and runs
    assert {case["out"]["name"] for case in CASES.values()} == set(CERTIFICATES) - elsewhere


def is_float32(q):
    return Fraction(float(np.float32(float(q)))) == q


@pytest.mark.parametrize("case", of("admm_step.exact"), ids=lambda case: case["id"])
def test_exact_steps_are_exact(case):
    F, G, H, U, rho, scale = inputs(case)
    extreme = rho in (2**20, Fraction(1, 2**20))
    for r, row in enumerate(G):
        assert not any(g for s, g in enumerate(row) if s != r)
        assert extreme or (row[r] + rho).numerator & ((row[r] + rho).numerator - 1) == 0
        for f, h, u in ((f[r], h[r], u[r]) for f, h, u in zip(F, H, U, strict=True)):
            t = (f + rho * (h + u)) / (row[r] + rho)
            new = loops.dequantize(loops.quantize([t - u], {"bits": 8}, scale), scale)[0]
            assert extreme or all(map(is_float32, (t, t - u, (t - u) / scale, u + new - t)))


@pytest.mark.parametrize("name", ["ties", "ties-dual", "ties-quarter"])
def test_ties_are_ties(name):
    F, G, _, U, rho, scale = inputs(CASES[f"admm_step.{name}"])
    assert rho == 1 and G == [[3, 0], [0, 3]]
    codes = [(f - 3 * u) / 4 / scale for rows in zip(F, U, strict=True) for f, u in zip(*rows)]  # noqa: B905
    assert all(2 * k % 2 == 1 for k in codes)
    # Halves of both signs that round to even up and down.
    assert {(k > 0, round(k) > k) for k in codes} == {(a, b) for a in (0, 1) for b in (0, 1)}


def test_a_solution_on_the_grid_stays():
    case = CASES["admm_step.stays"]
    F, G, H, U, _, scale = inputs(case)
    assert loops.matmul(H, G) == F and not np.any(U)
    assert all((h / scale).denominator == 1 for row in H for h in row)
    out = execute(numpy_adapter, case)["out"]
    assert fractions(out["H"]) == H


@pytest.mark.parametrize("case", of("choose_scale"), ids=lambda case: case["id"])
def test_least_squared_errors(case):
    x = decode(case["in"]["x"]).ravel()
    low, high = case["options"]["qmin"], case["options"]["qmax"]
    least = float(Fraction(case["out"]["least"]))
    scales = np.linspace(1e-3, 1.5, 20_000) * (np.abs(x).max() or 1)
    codes = np.clip(np.rint(x / scales[:, None]), low, high)
    errors = ((x - scales[:, None] * codes) ** 2).sum(axis=1)
    assert least - 1e-9 <= errors.min() <= least + 1e-2 * (x @ x)


def epc_parts(case):
    X, factors, delta = inputs(case)
    mode = case["options"]["mode"]
    F, G = loops.mttkrp(X, factors, mode), loops.gram(factors, mode)
    square = sum(loops.at(X, index) ** 2 for index in loops.indices(loops.shape_of(X)))
    return F, G, square, factors[mode], delta


@pytest.mark.parametrize("case", of("epc_update"), ids=lambda case: case["id"])
def test_parameters_of_the_correction(case):
    F, G, square, present, delta = epc_parts(case)
    if case["out"]["tau"] is None:
        assert delta**2 >= square
        return
    tau = Fraction(case["out"]["tau"])
    shifted = [[g * (1 + tau * (r == s)) for s, g in enumerate(row)] for r, row in enumerate(G)]
    A = minimiser(exact(shifted), F)
    error = loops.partial_error(F, G, A, square)
    assert delta**2 * (1 - Fraction(1, 10**9)) <= error <= delta**2
    if case["id"].endswith("stays"):
        assert present == A


def test_swamps_are_nearly_singular_and_the_others_are_not():
    for case in of("als_update"):
        _, factors = inputs(case)
        G = np.array(loops.gram(factors, case["options"]["mode"]), dtype=float)
        condition = np.linalg.cond(G)
        if "swamp" in case["id"]:
            assert 1e5 < condition < 1e13
        else:
            assert condition < 1e5 or "rank-deficient" in case["needs"]


@given(st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=20)
def test_minimisers_solve_singular_systems(seed, rank):
    rng = SplitMix64(seed)
    K = rng.integers((2, rank), -3, 3)
    G, F = loops.gram([K]), loops.matmul(rng.integers((2, 2), -5, 5), K)
    assert loops.matmul(minimiser(G, F), G) == F


def test_orders_modes_and_degenerate_problems_are_all_there():
    for order, mode in ((d, n) for d in (2, 3, 4, 5) for n in range(d)):
        assert f"als_update.order-{order}.mode-{mode}" in CASES
        assert order == 5 or f"epc_update.order-{order}.mode-{mode}" in CASES
    for case in CASES.values():
        parts = case["in"].get("factors", [])
        if ".parallel." in case["id"] or ".zero-column." in case["id"]:
            parts = parts[1:] if case["op"] == "epc_update" else parts
            ranks = [np.linalg.matrix_rank(decode(part)) for part in parts]
            assert max(ranks) == 1, case["id"]
        if ".zero-tensor" in case["id"]:
            assert not decode(case["in"]["X"]).any()
