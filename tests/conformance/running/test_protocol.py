"""Programs in any language: read strictly, and asked for their conduct as adapters are."""

import sys
from pathlib import Path

import kit_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import caught, documented

from qcp_ref.conformance import Adapter
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.dyadic import decode, encode
from qcp_ref.conformance.running import process, protocol
from qcp_ref.conformance.running.protocol import (
    CHECKS,
    HELLO,
    NUMBERS,
    normal,
    read_answer,
    read_hello,
    written,
)
from qcp_ref.conformance.running.session import Session

PROGRAM = Path(kit_cases.__file__).with_name("pipe_program.py")
MINIMAL = {"name": "x", "ops": ["gram"]}
# All of its numbers differ, so that another order of them is other input.
CASE = kit_cases.dequantize([[-8, 0], [7, 3]], 0.5, 0, [[-4, 0], [3.5, 1.5]])


def program(numbers="integers", mistake="none", checks="", **limits):
    arguments = [sys.executable, "-S", str(PROGRAM), numbers, mistake, checks]
    return Session(Adapter.pipe(arguments), **limits)


def outcome(*arguments, case=CASE, **limits):
    session = program(*arguments, **limits)
    try:
        return session.run(case)
    finally:
        session.close()


# --- descriptions ---------------------------------------------------------------------------------


def test_every_key_of_a_description_is_on_its_page():
    said = documented("The description of a program")
    assert said.keys() == HELLO.keys()
    assert {key for key, kind in said.items() if "optional" not in kind} == {"name", "ops"}


def test_what_is_not_said_is_as_usual():
    assert Adapter("plain").hello().keys() <= HELLO.keys()
    info = read_hello({"name": "plain", "ops": []})
    ours = read_hello(Adapter("plain").hello())
    assert info == ours


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lack": ["refuses"]}, "unknown keys.*lack"),
        ({"ops": ["fly"]}, "ops: unknown: fly"),
        ({"ops": [["gram"]]}, "ops: unknown"),
        ({"ops": "gram"}, "ops: expected another type"),
        ({"lacks": ["luck"]}, "lacks: unknown: luck"),
        ({"choices": {"rounding": "up"}}, "rounding: expected one of"),
        ({"choices": {"colour": "red"}}, "choices: unknown: colour"),
        ({"arith": "f8"}, "arith: expected"),
        ({"fast": "yes"}, "fast: expected another type"),
        ({"fast": True}, "fast: expected another type"),
        ({"fast": -1}, "fast: expected a number above 0"),
        ({"nondeterministic": 1}, "nondeterministic: expected another type"),
        ({"numbers": "decimal"}, "numbers: expected one of"),
        ({"checks": ["luck"]}, "checks: unknown: luck"),
    ],
)
def test_wrong_descriptions_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        read_hello(MINIMAL | more)


# --- numbers --------------------------------------------------------------------------------------

ARRAYS = st.lists(st.floats(width=32), min_size=1, max_size=5).map(np.array)


@given(ARRAYS, st.sampled_from(NUMBERS), st.sampled_from(["f32", "f64"]))
def numbers_survive_each_form(array, numbers, real):
    data = {**encode(array), "t": "real"}
    sent = written({"x": data, "bias": None, "factors": [data]}, numbers, real)
    assert sent["bias"] is None and sent["factors"] == [sent["x"]]
    answer = {"id": 1, "out": {"values": {**sent["x"], "t": real}}}
    got = read_answer(answer, "dequantize")["out"]["values"]
    assert got == normal(data, real)
    back = decode(got)
    assert back.dtype == {"f32": np.float32, "f64": np.float64}[real]
    assert np.array_equal(back, array, equal_nan=True)
    assert np.array_equal(np.signbit(back), np.signbit(array) & ~np.isnan(array))


def test_numbers_survive_each_form():
    numbers_survive_each_form()


def test_planted_faults_of_reading_are_caught():
    module = sys.modules[__name__]

    def turned(part, numbers, real):
        x = {**part["x"], "m": part["x"]["m"][::-1]}
        return protocol.written({"x": x, "bias": None, "factors": [x]}, numbers, real)

    def unsigned(data, real):
        return encode(abs(decode(data, real)))

    assert caught(module, numbers_survive_each_form, written=turned)
    assert caught(module, numbers_survive_each_form, normal=unsigned)
    numbers_survive_each_form()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"hex": ["0x1p+99999"]}, "exponent beyond"),
        ({"hex": ["0x1p+2000"]}, "values: "),
        ({"hex": ["0x1.00000000000001p+0"]}, "f64 cannot hold"),
        ({"hex": [1.5]}, "list of strings"),
        ({"hex": "0x1p+0"}, "list of strings"),
        ({"bits": ["3ff000000000000g"]}, "16 hexadecimal digits"),
        ({"e": 0, "m": [2**53 + 1]}, "values: "),
        ({"e": 2000, "m": [1]}, "values: "),
        ({"e": True, "m": [1]}, "expected e, an integer"),
        ({"e": 0, "m": ["1"] * 2}, "expected 1 entries"),
        ({"e": 0}, "expected t, s, and e and m"),
    ],
)
def test_numbers_that_would_be_rounded_are_no_answer(form, message):
    answer = {"id": 1, "out": {"values": {"t": "f64", "s": [1], **form}}}
    with pytest.raises(ValueError, match=message):
        read_answer(answer, "dequantize")


def test_integers_beyond_their_type_are_no_answer():
    for m, e, right in ((127, 0, True), (128, 0, False), (1, 7, False), (1, -1, False)):
        answer = {"id": 1, "out": {"codes": {"t": "i8", "s": [], "e": e, "m": [m]}}}
        if right:
            assert read_answer(answer, "quantize")["out"]["codes"]["m"] == [m]
        else:
            with pytest.raises(ValueError, match="i8"):
                read_answer(answer, "quantize")


# --- programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_right_program_passes_in_each_form(numbers):
    found = outcome(numbers, "none", " ".join(CHECKS))
    assert (found.outcome, set(found.checks.split())) == ("pass", {"inputs", "results", "repeats"})


def test_only_checks_that_were_made_are_counted():
    assert outcome().checks == "repeats"
    assert outcome(repeat=1).checks == ""
    assert outcome("integers", "none", "inputs", repeat=1).checks == "inputs"
    layout = {**CASE, "layout": "fortran", "needs": ["layout-fortran"]}
    assert outcome(case=layout).outcome == "n/a"
    assert "layouts" in outcome("integers", "none", "layouts", case=layout).checks


@pytest.mark.parametrize(
    "mistake",
    ["float-m", "whole-float-m", "boolean-m", "text-m", "float-e", "huge-e", "float-s",
     "negative-s", "short", "long", "both-forms", "no-type", "strange-type", "strange-key",
     "decimal", "few-bits", "integer-hex", "wide-code", "too-fine", "other-name", "other-key",
     "two-kinds", "number-error", "number", "list"],
)  # fmt: skip
def test_an_answer_that_is_nearly_one_is_garbage(mistake):
    session = program("integers", mistake)
    try:
        found = [session.run(CASE) for _ in range(2)]
    finally:
        session.close()
    assert [(one.outcome, one.word) for one in found] == [("fail", "garbage")] * 2, found
    assert found[0].says


@pytest.mark.parametrize(
    ("mistake", "word"),
    [("forgets", "unrepeatable"), ("overwrites", "overwritten"), ("mutates", "mutates")],
)
def test_misconduct_is_seen_through_the_pipe(mistake, word):
    assert outcome("integers", mistake, " ".join(CHECKS)).word == word
    # Who does not let it be checked does not have it in the claim.
    found = outcome("integers", mistake)
    assert found.word == ("unrepeatable" if mistake == "forgets" else "")


def test_answers_may_differ_where_that_was_said():
    assert outcome("hex", "noisy").outcome == "pass"  # 0, and -0


def test_standard_error_is_shown_when_something_fails():
    other = {"values": {"kind": "exact", "t": "real", "s": [1], "e": 0, "m": [1]}}
    found = outcome("integers", "chatters", case={**CASE, "out": other})
    assert found.says.startswith("values: shape") and "| out of shared memory |" in found.says
    assert outcome("integers", "chatters").outcome == "pass"
    assert "standard error: warning: scale is old" in outcome("integers", "wrong").says


def test_an_endless_answer_is_cut(monkeypatch):
    monkeypatch.setattr(process, "LONGEST", 1_000_000)
    found = outcome("integers", "endless")
    assert (found.word, "more than 1000000 bytes" in found.says) == ("garbage", True)


def test_the_limit_holds_for_the_description():
    with pytest.raises(ValueError, match=r"no answer within 0\.5 s"):
        program("integers", "no-flush", timeout=0.5)


def test_an_adapter_answers_what_a_program_would():
    impl = Adapter("here")

    @impl.op
    def dequantize(codes, scale, zero_point):
        return (codes - zero_point) * scale

    reply = execute(impl, CASE)
    assert read_answer({"id": 1, "out": reply["out"]}, "dequantize")["out"] == reply["out"]
