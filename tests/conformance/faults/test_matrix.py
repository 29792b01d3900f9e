"""Each fault is killed by two cases, each two are told apart, and the stored table says so."""

import json
from importlib import resources

import numpy as np
import pytest
from kit_cases import PLAIN, REFUSED, ZERO

from qcp_ref.conformance.cases import vectors
from qcp_ref.conformance.dyadic import canonical, pack
from qcp_ref.conformance.faults import careless, runs, solvers
from qcp_ref.conformance.faults.catalogue import FAULTS, Fault
from qcp_ref.conformance.faults.controls import Control
from qcp_ref.conformance.faults.matrix import (
    Matrix,
    attempt,
    every_fault,
    gates,
    matrix,
    smoke,
    table,
)
from qcp_ref.conformance.faults.plain import RAW, RIGHT


def test_all_gates_are_passed(found):
    assert gates(found) == []


def test_the_whole_catalogue_was_tried(found):
    assert [fault.id for fault in found.faults] == [fault.id for fault in every_fault()]
    known = {fault.id for fault in (*FAULTS, *solvers.FAULTS, *runs.FAULTS, *careless.FAULTS)}
    assert len(found.faults) == len(known) and {fault.id for fault in found.faults} == known
    assert set(found.kills) == {fault.id for fault in found.faults}
    ids = {case["id"]: case["op"] for case in vectors.load()}
    for fault in found.faults:
        assert {ids[name] for name in found.kills[fault.id]} == {fault.op}


def test_the_stored_table_is_what_is_found(found):
    stored = (resources.files("qcp_ref.conformance") / "data/v0/kills.json").read_text("ascii")
    what = {"kills": found.kills, "needs": found.needs, "smoke": smoke(found.kills)}
    assert stored == canonical(what) + "\n"
    assert json.loads(stored)["needs"] == vectors.needs()
    assert {(name[:3], check) for name, check in found.needs.items()} == {
        *(("X01", "inputs"), ("X03", "repeats"))
    }
    assert json.loads(stored)["kills"] == vectors.kills()
    assert json.loads(stored)["smoke"] == vectors.smoke()


def test_faults_are_found_by_their_results(found):
    """A fault that cannot run would be killed by anything and prove nothing."""
    cases = {case["id"]: case for case in vectors.load()}
    silent = {"raises"}
    for fault in FAULTS:
        by = found.kills[fault.id]
        words = (attempt(fault.function, cases[name], arith=fault.arith)[0] for name in by)
        assert any(word not in silent for word in words), fault.id


@pytest.mark.slow
def test_the_faults_show_in_float32_too():
    single = [fault._replace(arith="f32") for fault in (*FAULTS, *careless.FAULTS)]
    complaints = gates(matrix(faults=single, controls=[]))
    assert not [text for text in complaints if "kills nothing" not in text]


def test_a_few_cases_find_most_faults(found):
    kills = found.kills
    few = smoke(kills)
    assert len(few) == len(set(few)) == 26
    assert few == smoke(dict(reversed(kills.items())))

    def count(chosen):
        return sum(bool(set(chosen) & set(by)) for by in kills.values())

    assert count(few) > 0.6 * len(kills)
    assert [count(few[: n + 1]) > count(few[:n]) for n in range(26)] == [True] * 26
    assert count(smoke(kills, 1000)) == len(kills)
    levels = {case["id"].split(".")[0] for case in vectors.load() if case["id"] in few}
    assert len(levels) > 8


def test_the_table_has_a_line_per_fault(found):
    lines = table(found).splitlines()
    assert len(lines) == len(found.faults)
    for line, fault in zip(lines, found.faults, strict=True):
        assert line.startswith(f"{fault.id} ") and fault.title in line
        by = found.kills[fault.id]
        assert by[0].removeprefix(f"{fault.op}.") in line and f" {len(by)} " in line


# --- the gates see what they are for --------------------------------------------------------------


def right(codes, scale, zero_point):
    return RIGHT["dequantize"](codes, scale, zero_point)


def no_zero(codes, scale, zero_point):
    return scale * codes


def other_sign(codes, scale, zero_point):
    return scale * (codes + zero_point.astype(np.int64))


def ignorant(codes, scale, zero_point):
    return no_zero(codes, scale, zero_point)


CASES = [{**case, "says": "x"} for case in (PLAIN, ZERO)]
GOOD = Control("good", "dequantize", right, {})


def fault(name, function, arith="f64"):
    return Fault(name, "dequantize", "title", function, "", arith)


def test_a_fault_that_nothing_kills_is_reported():
    found = matrix(CASES, [fault("Z1", right)], [GOOD])
    assert found.kills == {"Z1": []}
    assert "Z1: killed by 0 cases, expected 2" in gates(found)
    assert "dequantize.plain: kills nothing" in gates(found)


def test_one_case_is_not_enough():
    found = matrix(CASES, [fault("Z1", no_zero)], [GOOD])
    assert found.kills == {"Z1": ["dequantize.zero"]}
    assert gates(found) == [
        "Z1: killed by 1 cases, expected 2",
        "dequantize.plain: kills nothing",
    ]


def test_a_fault_of_which_nothing_is_known_is_reported():
    found = Matrix([fault("Z1", no_zero)], {}, [], [], [], {})
    assert gates(found) == ["Z1: killed by 0 cases, expected 2"]
    assert table(found).split()[-1] == "0"


def test_sanity_is_a_reason_to_kill_nothing():
    sane = [{**CASES[0], "flags": ["Sanity"]}, CASES[1]]
    assert matrix(sane, [fault("Z1", no_zero)], []).idle == []


@pytest.mark.parametrize("arith", ["f64", "f32"])
def test_two_faults_with_the_same_results_are_reported(arith):
    faults = [fault("Z1", no_zero), fault("Z2", other_sign), fault("Z3", ignorant, arith)]
    found = matrix(CASES, faults, [])
    assert found.twins == [("Z1", "Z3")]
    assert "Z1, Z3: no case tells them apart" in gates(found)


def test_results_within_the_bound_are_not_told_apart():
    bound = {"kind": "bound", **pack(3.0), "g": pack(3.0), "n": 4}
    case = {
        **CASES[0],
        "in": {**CASES[0]["in"], "codes": pack(3, "i8")},
        "out": {"values": bound},
        "options": {},
    }
    case["in"]["scale"] = pack(1)

    def off(by):
        return lambda codes, scale, zero_point: np.asarray(codes * 1.0 + by)

    names = ["near", "nearer", "far"]
    faults = [fault(n, off(by)) for n, by in zip(names, (2.0**-40, 2.0**-41, 1.0), strict=True)]
    found = matrix([case], faults, [])
    assert found.twins == []  # both are wrong, by amounts that rounding does not explain
    faults = [fault("near", off(1.0)), fault("nearer", off(1.0 + 2.0**-51))]
    assert matrix([case], faults, []).twins == [("near", "nearer")]


def test_words_tell_faults_apart():
    def raising(*_):
        raise ZeroDivisionError

    def writing(codes, scale, zero_point):
        codes[...] = 0
        return no_zero(codes, scale, zero_point)

    found = matrix(CASES, [fault("Z1", raising), fault("Z2", writing), fault("Z3", raising)], [])
    assert found.twins == [("Z1", "Z3")]


def test_an_accused_control_is_reported():
    found = matrix(CASES, [], [GOOD, Control("wrong", "dequantize", no_zero, {})])
    assert found.alarms == ["wrong: dequantize.zero"]
    assert "wrong: dequantize.zero: a correct variant is accused" in gates(found)


def test_wrong_input_may_be_refused_and_must_be():
    def refusing(*_):
        raise ValueError("no")

    assert attempt(refusing, REFUSED)[0] == ""
    assert attempt(right, REFUSED)[0] == ""
    assert attempt(RAW["dequantize"], REFUSED)[0] == "accepted"
    assert attempt(refusing, PLAIN)[0] == "raises"


def test_what_needs_float64_is_left_out_of_float32():
    case = {**ZERO, "needs": ["float64"]}
    assert attempt(no_zero, case, arith="f32") == ("", {})
    assert attempt(no_zero, case)[0] == "wrong-value"
