"""Wrong runs are what they are said to be; right ones pass every case."""

import pytest

from qcp_ref.conformance.cases.runs import families
from qcp_ref.conformance.faults.matrix import attempt
from qcp_ref.conformance.faults.runs import CONTROLS, FAULTS, RUNS

CASES = [case for _, cases in families() for case in cases]
SMALL = [
    next(case for case in CASES if case["id"] == name)
    for name in (
        "cp_als.exact.matrix-2",
        "cp_als.4x3x2",
        "cp_als_run.order-3.rank-2.sweeps-3",
        "ao_admm.drawn.order-2.bits-2",
        "ao_admm.on-grid.order-2.bits-3",
        "ao_admm_run.order-2.bits-4.steps-2",
        "ao_admm_run.best-2",
    )
]


def test_the_catalogue():
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
    assert {fault.op for fault in FAULTS} == {control.op for control in CONTROLS} == set(RUNS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_is_found(fault):
    words = {attempt(fault.function, case)[0] for case in SMALL if case["op"] == fault.op}
    assert words - {""}


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: f"{c.op}: {c.name}")
def test_controls_pass(control):
    for case in SMALL:
        if case["op"] == control.op:
            assert not attempt(control.function, case, **control.options)[0], case["id"]
