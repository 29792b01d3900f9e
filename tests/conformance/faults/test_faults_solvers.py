"""Wrong solvers are caught by several cases and told apart; right ones are never accused."""

from fractions import Fraction
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from qcp_ref import loops
from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases.make import make
from qcp_ref.conformance.cases.solvers import families
from qcp_ref.conformance.dyadic import SplitMix64, decode
from qcp_ref.conformance.faults.solvers import CONTROLS, FAULTS, SOLVERS
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.spec import OPS

CASES = [case for _, cases in families() for case in cases]
# How many problems each control of an operation is given.
DRAWN = dict(als_update=40, als_sweep=20, admm_step=40, balance=20)  # noqa: C408


def answers(function, op, **declared):
    """Results and verdicts by case."""
    adapter = Adapter("one", **declared)
    adapter.ops[op] = function
    for case in CASES:
        lacking = {"float64"} if declared.get("arith") == "f32" else set()
        if case["op"] == op and not lacking & set(case["needs"]):
            with np.errstate(all="ignore"):
                reply = execute(adapter, case)
            out = reply.get("out")
            yield case["id"], out, judge(case, out, adapter.hello()) if out else None


@cache
def answers_of_fault(fault):
    return list(answers(fault.function, fault.op))


def test_the_catalogue():
    ids = [fault.id for fault in FAULTS]
    wanted = [f"S0{n}" for n in (1, 2, 3)] + [f"A0{n}" for n in range(1, 7)]
    wanted += [f"D{n:02}" for n in range(1, 14)] + [f"E0{n}" for n in (1, 2, 3)]
    assert set(wanted) <= set(ids) and len(set(ids)) == len(ids)
    assert {fault.op for fault in FAULTS} == set(SOLVERS)
    assert {c.op for c in CONTROLS} == set(SOLVERS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_every_fault_is_killed_twice(fault):
    killed = [one for one, _, j in answers_of_fault(fault) if j is None or j.outcome == "fail"]
    assert len(killed) >= 2


def numbers(out):
    if out is None:
        return np.zeros(0)
    parts = [part if isinstance(part, list) else [part] for part in out.values()]
    return np.concatenate([decode(array).ravel() for part in parts for array in part])


def differ(one, other):
    a, b = numbers(one), numbers(other)
    if a.size != b.size or (np.isnan(a) != np.isnan(b)).any():
        return True
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    return bool(np.abs(a - b).max(initial=0) > 1e-3 * np.abs(np.concatenate([a, b])).max(initial=0))


@pytest.mark.parametrize("op", SOLVERS)
def test_all_pairs_of_an_operation_are_told_apart(op):
    for one, other in combinations([fault for fault in FAULTS if fault.op == op], 2):
        pairs = zip(answers_of_fault(one), answers_of_fault(other), strict=True)
        assert any(differ(a[1], b[1]) for a, b in pairs), (one.id, other.id)


def test_killed_by_their_numbers_and_not_by_their_form():
    words = {j.word for fault in FAULTS for _, _, j in answers_of_fault(fault) if j}
    assert words == {"", "nan", "wrong-value"}


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: f"{c.op}: {c.name}")
def test_controls_pass_every_case(control):
    for name, _, found in answers(control.function, control.op, **control.options):
        assert found is not None and found.outcome == "pass", (name, found)


def drawn(op, rng):
    """Draw a problem of a solver, of tiny size."""
    rank, options = rng.integer(1, 3), {}
    if op == "admm_step":
        F, H, U = (rng.integers((2, rank), -50, 50) for _ in "FHU")
        given = {"F": F, "G": loops.gram([rng.integers((4, rank), -5, 5)]), "H": H, "U": U}
        given |= {"rho": Fraction(rng.integer(1, 64), 8), "scale": Fraction(rng.integer(1, 16), 8)}
        options = {"qmin": -8, "qmax": 7}
    else:
        rank = 2 if op == "als_sweep" else rank  # one of the controls exchanges two components
        shape = [rng.integer(1, 4) for _ in range(rng.integer(2, 4))]
        given = {"factors": [rng.integers((side, rank), -5, 5) for side in shape]}
        if op == "balance":
            given["weights"] = rng.choice((None, rng.integers((rank,), -9, 9)))
        else:
            given["X"] = rng.integers(shape, -9, 9)
        if op == "als_update":
            options = {"mode": rng.integer(0, len(shape) - 1)}
    return make(op, "drawn", "", [], given, options, out={"kind": "cert", "name": op})


@pytest.mark.parametrize("op", DRAWN)
def test_no_control_is_accused_of_a_drawn_case(op):
    rng = SplitMix64(len(op))
    cases = [drawn(op, rng) for _ in range(DRAWN[op])]
    for control in CONTROLS:
        if control.op == op:
            adapter = Adapter("one", **control.options)
            adapter.ops[op] = control.function
            for case in cases:
                found = judge(case, execute(adapter, case)["out"], adapter.hello())
                assert found.outcome == "pass", (control.name, case, found)


def test_arguments_are_those_of_the_operations():
    for op in SOLVERS:
        case = next(case for case in CASES if case["op"] == op)
        adapter = Adapter("one")
        adapter.ops[op] = SOLVERS[op]
        assert set(execute(adapter, case)["out"]) == set(OPS[op].results)
