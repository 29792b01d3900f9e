"""Wrong input: each case has one thing wrong, each careless implementation is right otherwise."""

import json
import re
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from kit_draws import KINDS, draw
from support import caught

import qcp_ref.conformance
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.cases import refused as wrong_input
from qcp_ref.conformance.cases.make import make
from qcp_ref.conformance.cases.refused import refused
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.dyadic import SplitMix64, decode, pack
from qcp_ref.conformance.faults import offences as meaning
from qcp_ref.conformance.faults.careless import FAULTS
from qcp_ref.conformance.faults.matrix import attempt
from qcp_ref.conformance.faults.offences import offences, refuse, sizes
from qcp_ref.conformance.faults.plain import RAW, RIGHT
from qcp_ref.conformance.faults.runs import RUNS
from qcp_ref.conformance.faults.solvers import SOLVERS
from qcp_ref.conformance.reference import numpy_adapter
from qcp_ref.conformance.spec import OPS

LIST = Path(qcp_ref.conformance.__file__).parent / "data" / "refusals.json"
ROWS = json.loads(LIST.read_text(encoding="ascii"))
CASES = {case["id"]: case for case in load()}
REFUSED = [case for case in CASES.values() if case["out"].get("kind") == "reject"]
MADE = [case for case in REFUSED if ".wrong." in case["id"]]  # of others, by kind of argument
WRONG = [case for case in REFUSED if ".wrong." not in case["id"]]
BY_OP = defaultdict(list)
for one in CASES.values():
    BY_OP[one["op"]].append(one)
CHECK = {
    (fault.id, fault.op): row["check"]
    for row in ROWS["faults"]
    for fault in FAULTS
    if fault.id[:3] == row["id"] and fault.op in row["ops"]
}


def arguments(case):
    """The arguments of a case as an implementation gets them."""

    def array(data):
        if isinstance(data, list):
            return [array(part) for part in data]
        return None if data is None else decode(data)

    return {name: array(data) for name, data in case["in"].items()} | case["options"]


# --- the list -------------------------------------------------------------------------------------


def test_the_list_is_well_formed():
    for row in ROWS["cases"]:
        assert set(row) == {"id", "like", "says", "with"}
        assert re.fullmatch(r"[a-z0-9_]+\.refuse(\.[a-z0-9-]+)+", row["id"])
        assert row["id"].split(".")[0] == row["like"].split(".")[0]
        assert row["says"].endswith(".") and len(row["with"]) <= 2
    for row in ROWS["faults"]:
        assert set(row) == {"id", "check", "ops", "title", "seen"}
        assert re.fullmatch(r"X\d\d", row["id"])
        assert 3 < len(row["title"]) < 50 and len(row["seen"]) < 50
        assert set(row["ops"]) <= set(OPS)
    lines = {
        part: ",\n".join(json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows)
        for part, rows in ROWS.items()
    }
    written = ",\n".join(f'"{part}":[\n{text}\n]' for part, text in lines.items())
    assert LIST.read_text(encoding="ascii") == f"{{{written}}}\n"


def test_every_row_is_a_case_and_every_refused_case_a_row():
    assert sorted(row["id"] for row in ROWS["cases"]) == sorted(case["id"] for case in WRONG)
    assert {row["like"] for row in ROWS["cases"]} <= {*CASES} - {case["id"] for case in WRONG}


def test_every_operation_has_cases_that_are_refused():
    assert {case["op"] for case in WRONG} == set(OPS)


# --- cases ----------------------------------------------------------------------------------------


def test_a_case_differs_from_a_right_one_in_what_is_listed():
    for row in ROWS["cases"]:
        right, wrong = CASES[row["like"]], CASES[row["id"]]
        assert wrong["says"] == row["says"] and wrong["flags"] == ["Refusal"]
        assert "refuses" in wrong["needs"]
        changed = {
            name
            for part in ("in", "options")
            for name in right[part]
            if wrong[part][name] != right[part][name]
        }
        assert changed == {place.split(".")[0] for place in row["with"]}, row["id"]


def test_one_thing_is_wrong_in_each_and_nothing_in_right_ones():
    for case in CASES.values():
        if ".wrong." not in case["id"]:
            found = [*offences(case["op"], arguments(case))]
            assert len(found) == (case["out"].get("kind") == "reject"), (case["id"], found)


def case_of(**given):
    options = {"qmin": -8, "qmax": 7}
    inputs = {"x": [1, 2, 3], "scale": Fraction(1, 2), "zero_point": 0, **given}
    return make("quantize", "by-hand", "A test.", ["Sanity"], inputs, options)


def changes_are_made():
    case = case_of(x=[[1, 2, 3], [4, 5, Fraction(1, 4)]])
    x, scale = case["in"]["x"], case["in"]["scale"]
    assert wrong_input._changed(scale, "nan") == pack("nan")
    assert decode(wrong_input._changed(x, {"cut": [2, 1]})).tolist() == [[1], [4]]
    assert decode(wrong_input._changed(x, {"last": -3})).tolist() == [[1, 2, 3], [4, 5, -3]]
    codes = pack([1, 2], "i8")
    assert wrong_input._changed(codes, {"last": 300, "t": "i32"}) == pack([1, 300], "i32")
    assert wrong_input._changed(codes, {"last": 0.5, "t": "real"}) == pack([1, 0.5])


def test_changes():
    changes_are_made()


def test_only_rows_like_the_given_cases_become_cases():
    assert [*refused([case_of()])] == []
    ids = [case["id"] for case in refused([CASES["gram.plain.2"]])]
    assert ids == ["gram.refuse.mode", "gram.refuse.mode.negative"]


# --- who refuses ----------------------------------------------------------------------------------


def test_the_book_names_the_argument():
    for case in WRONG:
        answer = execute(numpy_adapter, case)
        assert answer.get("word") == "raises", (case["id"], answer)
        place, _, what = answer["error"].partition(": ")[2].partition(": ")
        assert answer["error"].startswith(("ValueError: ", "TypeError: ")), (case["id"], answer)
        assert "expected" in what, (case["id"], answer)
        known = {*OPS[case["op"]].arrays, *OPS[case["op"]].options}
        # Stages name the arguments that they are made of.
        known |= {"zero_point", "multiplier", "cp", "factors", "W"}
        assert {name.strip() for name in place.split(",")} <= known, (case["id"], answer)


def plain_ones_refuse():
    for case in WRONG:
        if case["op"] in RIGHT:
            found = execute_raw(RIGHT[case["op"]], case)
            assert found == "refused", case["id"]


def execute_raw(function, case):
    given = arguments(case)
    arrays = [given.pop(name) for name in OPS[case["op"]].arrays]
    try:
        with np.errstate(all="ignore"):
            function(*arrays, **given)
    except ValueError as error:
        return "refused" if "no meaning" in str(error) else "raised"
    return "accepted"


def test_plain_ones_refuse_before_they_compute():
    plain_ones_refuse()


@pytest.mark.parametrize("op", sorted(KINDS))
def test_drawn_cases_are_refused_by_nobody(op):
    for seed in range(25):
        case = draw(op, SplitMix64(seed))
        assert [*offences(op, arguments(case))] == [], case


def test_carelessness_is_about_one_thing():
    given = arguments(CASES["quantize.refuse.scale.zero"])
    refuse("quantize", given, careless=["sign"])
    with pytest.raises(ValueError, match="quantize: no meaning: sign"):
        refuse("quantize", given, careless=["nan"])
    given["qmin"], given["qmax"] = 5, -5
    with pytest.raises(ValueError, match="no meaning: range"):
        refuse("quantize", given, careless=["sign"])


def test_axes_of_one_name_have_one_size():
    A, B = np.ones((3, 2)), np.ones((4, 2))
    assert sizes({"factors": [A, B], "mode": 0, "weights": None}) == {0: {3}, 1: {4}, "r": {2}}
    given = {"X": np.ones((3, 5)), "factors": [A, B], "mode": 1}
    assert sizes(given)[1] == {4, 5}
    assert [*offences("mttkrp", given)] == ["size"]
    assert [*offences("mttkrp", {**given, "X": np.ones((3, 1))})] == ["one"]
    assert [*offences("mttkrp", {**given, "X": np.ones((3, 4))})] == []


# --- careless implementations ---------------------------------------------------------------------


def test_every_kind_of_offence_has_somebody_who_takes_it():
    kinds = {kind for case in WRONG for kind in offences(case["op"], arguments(case))}
    assert kinds == {row["check"] for row in ROWS["faults"]}
    assert len({fault.id for fault in FAULTS}) == len(FAULTS) == len(CHECK)
    assert {fault.op for fault in FAULTS} <= set(RAW) | set(SOLVERS) | set(RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.id}-{fault.op}")
def test_a_careless_implementation_takes_what_it_does_not_look_at(fault):
    """It is right on all right input, refuses all else, and returns something."""
    for case in BY_OP[fault.op]:
        if case in MADE:
            continue
        word, reply = attempt(fault.function, case)
        taken = CHECK[fault.id, fault.op] in offences(fault.op, arguments(case))
        assert word == ("accepted" if taken else ""), (case["id"], reply)


def test_only_careless_ones_are_found_by_wrong_input(found):
    wrong, careless = {case["id"] for case in REFUSED}, {fault.id for fault in FAULTS}
    listed = {case["id"] for case in WRONG}
    for name, by in found.kills.items():
        if name in careless:
            assert set(by) <= wrong and len(by) >= 2
        elif not name.startswith("Q20"):  # makes a code of NaN
            assert not listed & set(by), name


def test_planted_faults_are_caught():
    assert caught(meaning, plain_ones_refuse, _no_fit=lambda given: iter(()))
    assert caught(meaning, plain_ones_refuse, _no_codes=lambda op, given: iter(()))
    assert caught(meaning, plain_ones_refuse, _no_numbers=lambda op, given: iter(()))
    assert caught(wrong_input, changes_are_made, pack=lambda numbers, kind="real": pack(numbers))
    plain_ones_refuse()
    changes_are_made()
