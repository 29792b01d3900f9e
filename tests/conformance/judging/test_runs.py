"""Replays of runs: each part of the answer is looked at, and nothing right is refused."""

from fractions import Fraction

import numpy as np
import pytest
from support import caught

from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases.runs import families
from qcp_ref.conformance.dyadic import decode, encode, pack
from qcp_ref.conformance.faults.runs import RUNS
from qcp_ref.conformance.judging import runs
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.judging.runs import RUNS as CERTIFICATES_OF_RUNS
from qcp_ref.conformance.judging.steps import Sizes, Step, step_checks
from qcp_ref.conformance.reference import numpy_adapter
from qcp_ref.conformance.spec import OPS

CASES = {case["id"]: case for _, cases in families() for case in cases}
ADMM, ALS = CASES["ao_admm_run.order-3.bits-4.steps-2"], CASES["cp_als_run.order-3.rank-2.sweeps-3"]
F64 = Adapter("test").hello()
ENDS = {"qmin": -8, "qmax": 7}


def changed(case, name, change, place=None):
    """Judge the book's answer with one part changed: of a list, the array at a place."""
    out = execute(numpy_adapter, case)["out"]
    part = out[name] if place is None else out[name][place]
    new = encode(change(decode(part)))
    if place is None:
        out[name] = new
    else:
        out[name] = [new if k == place else one for k, one in enumerate(out[name])]
    return judge(case, out, F64)


def bump(place, size=1e-6):
    def change(A):
        A = A.copy()
        A.flat[place] *= 1 + size
        return A

    return change


@pytest.mark.parametrize(
    ("name", "place", "entry", "says"),
    [
        ("T", 3, 0, "sweep 0, mode 1: step 1: T: residual"),
        ("H", 10, 1, "sweep 1, mode 2: step 0: H:"),
        ("U", 0, 0, "sweep 0, mode 0: step 0: U:"),
        ("rhos", None, 5, "sweep 0, mode 2: step 1: rho:"),
        ("errors", None, 1, "sweep 1: error:"),
        ("error", None, 0, "error: not that of the factors"),
        ("best_scales", None, 0, "codes, best_scales: not those of the best sweep"),
    ],
)
def test_each_part_of_a_run_is_judged_and_its_place_named(name, place, entry, says):
    found = changed(ADMM, name, bump(entry), place)
    assert (found.outcome, found.word) == ("fail", "wrong-value") and found.says.startswith(says)


def test_a_scale_that_is_not_the_best_one_is_found_although_all_follows_from_it():
    case = ADMM

    def other(X, factors, **options):
        return RUNS["ao_admm_run"](X, factors, fault="max-abs", **options)

    adapter = Adapter("other")
    adapter.ops["ao_admm_run"] = other
    found = judge(case, execute(adapter, case)["out"], F64)
    assert found.says.startswith("sweep 0, mode 0: step 0: scale: not that of least squared error")


@pytest.mark.parametrize("place", [0, 4, 8])
def test_each_update_of_least_squares_is_judged(place):
    found = changed(ALS, "iterates", bump(0), place)
    says = f"sweep {place // 3}: gradient of mode {place % 3}"
    assert found.outcome == "fail" and found.says.startswith(says)


def test_all_iterates_have_to_be_there():
    out = execute(numpy_adapter, ALS)["out"]
    found = judge(ALS, {**out, "iterates": out["iterates"][:-1]}, F64)
    assert found.word == "wrong-shape"


def test_a_negated_dual_is_right_if_declared():
    adapter = Adapter("minus", dual="minus")

    def negated(*arrays, **options):
        T, H, U, *rest = numpy_adapter.ops["ao_admm_run"](*arrays, **options)
        return T, H, [-part for part in U], *rest

    adapter.ops["ao_admm_run"] = negated
    out = execute(adapter, ADMM)["out"]
    assert judge(ADMM, out, adapter.hello()).outcome == "pass"
    assert judge(ADMM, out, F64).outcome == "fail"


def test_every_whole_run_has_a_certificate():
    assert set(CERTIFICATES_OF_RUNS) == {name for name, op in OPS.items() if op.level == "L4"}


def test_a_step_has_one_check_of_the_solve_and_two_of_each_entry():
    F, G, H, U = [[3, 1]], [[2, 0], [0, 2]], [[1, 0]], [[0, 0]]
    step = Step(F, G, H, U, Fraction(2), Fraction(1))
    T = [[Fraction(5, 4), Fraction(1, 4)]]
    new, dual = [[1, 0]], [[Fraction(-1, 4), Fraction(-1, 4)]]
    checks = [*step_checks(step, (T, new, dual), Sizes(F, Fraction(3), Fraction(0)), ENDS, F64)]
    assert len(checks) == 5 and not any(check.error for check in checks)
    wrong = [*step_checks(step, (T, dual, new), Sizes(F, Fraction(3), Fraction(0)), ENDS, F64)]
    assert sum(check.margin > 1 for check in wrong) == 4


def test_planted_faults_are_caught():
    def no_check(*arrays):
        return runs.Check("", 0, 1)

    def best():
        judged = test_each_part_of_a_run_is_judged_and_its_place_named
        judged("rhos", None, 5, "sweep 0, mode 2: step 1: rho:")

    assert caught(runs, best, _weight=no_check)
    scale = test_a_scale_that_is_not_the_best_one_is_found_although_all_follows_from_it
    assert caught(runs, scale, _best_scale=no_check)
    assert caught(runs, scale, _gains=lambda V, low, high: iter([np.float64(0)]))


@pytest.mark.parametrize(
    ("error", "code", "wrong"),
    [(0.5, 1, ""), (0.25, 1, "error: not that"), (1.5, -1, "error: above that of zero")],
)
def test_an_error_is_that_of_the_factors_and_at_most_that_of_zero(error, code, wrong):
    case = CASES["ao_admm.4x5"] | {"in": {"X": pack([[1, 0], [0, 0]])}}
    case |= {"options": {"rank": 1, "seed": 0, "qmin": -2, "qmax": 1}}
    codes = [encode(np.array([[one], [0]])) for one in (code, 1)]
    out = {"codes": codes, "scales": encode(np.array([0.5, 1.0])), "error": encode(np.array(error))}
    found = runs.RUNS["ao_admm"](case, out, F64)
    assert found.says.startswith(wrong) and found.outcome == ("fail" if wrong else "pass")
