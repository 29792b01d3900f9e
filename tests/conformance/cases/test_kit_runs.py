"""The cases of whole runs: what they claim about themselves is true."""

from fractions import Fraction

import numpy as np
import pytest

from qcp_ref import loops
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.cases.runs import families
from qcp_ref.conformance.dyadic import canonical, decode, fractions
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.reference import numpy_adapter
from qcp_ref.conformance.spec import CAPABILITIES, OPS

FAMILIES = dict(families())
CASES = {case["id"]: case for cases in FAMILIES.values() for case in cases}
REPLAYS = [case for case in CASES.values() if case["op"].endswith("_run")]


def of(prefix):
    return [case for name, case in CASES.items() if name.startswith(prefix)]


def test_the_cases_are_few_small_and_complete():
    assert {name: len(cases) for name, cases in FAMILIES.items()} == {"runs": 27, "replays": 23}
    assert len(CASES) == 50  # no id twice
    assert sum(len(canonical(case)) for case in CASES.values()) < 40_000
    for case in CASES.values():
        assert set(case["needs"]) <= set(CAPABILITIES) and case["flags"] and case["says"]
        assert set(case["options"]) == set(OPS[case["op"]].options)


@pytest.mark.parametrize("op", ["cp_als_run", "ao_admm_run"])
def test_replays_have_two_to_four_modes(op):
    orders = {len(case["in"]["X"]["s"]) for case in REPLAYS if case["op"] == op}
    assert orders == {2, 3, 4}


@pytest.mark.parametrize("case", of("cp_als.exact"), ids=lambda case: case["id"])
def test_one_sweep_fits_what_is_said_to_be_fitted_by_one(case):
    X, rank = fractions(case["in"]["X"]), case["options"]["rank"]
    start = [
        [[Fraction((i + 2) * (r + 3) % 7 + (i == r)) for r in range(rank)] for i in range(side)]
        for side in loops.shape_of(X)
    ]
    assert loops.squared_error(X, start) > 0
    assert loops.squared_error(X, loops.als_sweep(X, start)) == 0


@pytest.mark.parametrize("case", of("ao_admm.on-grid"), ids=lambda case: case["id"])
def test_single_components_on_a_grid_use_all_of_it(case):
    X, top = decode(case["in"]["X"]), case["options"]["qmax"]
    assert np.abs(X).max() == top**X.ndim
    # What is asked is not much, but zeros are not enough.
    assert float(Fraction(case["out"]["most"])) < 0.5 * (X**2).sum()


@pytest.mark.parametrize("case", of("ao_admm_run.best"), ids=lambda case: case["id"])
def test_the_best_sweep_is_in_the_middle(case):
    errors = decode(execute(numpy_adapter, case)["out"]["errors"])
    assert 0 < errors.argmin() < errors.size - 1
    assert np.sort(errors)[1] > errors.min() + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("case", of("ao_admm_run.kept"), ids=lambda case: case["id"])
def test_a_fit_on_the_grid_is_kept(case):
    X, factors = fractions(case["in"]["X"]), [fractions(part) for part in case["in"]["factors"]]
    assert loops.reconstruct(factors) == X
    out = execute(numpy_adapter, case)["out"]
    kept = [decode(k) * s for k, s in zip(out["codes"], decode(out["best_scales"]), strict=True)]
    for A, B in zip(kept, case["in"]["factors"], strict=True):
        np.testing.assert_allclose(A, decode(B), rtol=1e-14)
    assert decode(out["error"]) < 1e-14


@pytest.mark.slow
def test_the_book_passes_every_case():
    for case in CASES.values():
        found = judge(case, execute(numpy_adapter, case)["out"], numpy_adapter.hello())
        assert found.outcome == "pass" and found.says.startswith("relative error "), case["id"]
