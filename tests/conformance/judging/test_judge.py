"""The judge: exact, bounded, allowed codes; and that it can tell right from wrong."""

from fractions import Fraction

import kit_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcp_ref.conformance.adapter import Adapter
from qcp_ref.conformance.dyadic import encode, pack
from qcp_ref.conformance.judging.judge import expectation, judge

F32, F64 = Adapter("a", arith="f32").hello(), Adapter("a").hello()


def verdict(part, result, info=F64, **case):
    case = {"op": "conv2d", "in": {}, "out": {"y": part}, **case}
    return judge(case, {"y": result}, info)


def bounded(values, g, n, **more):
    return {"kind": "bound", **pack(values), "g": pack(g), "n": n, **more}


def test_exact_reals():
    part = {"kind": "exact", **pack([1, Fraction(1, 4)])}
    assert verdict(part, encode(np.array([1, 0.25]))).outcome == "pass"
    bad = verdict(part, encode(np.array([1, np.nextafter(0.25, 1)])))
    assert (bad.outcome, bad.word) == ("fail", "wrong-value")
    assert "1 of 2" in bad.says
    assert "entry 1" in bad.says
    assert verdict(part, encode(np.array([1, np.nan]))).word == "nan"
    assert verdict(part, encode(np.array([1, np.inf]))).word == "wrong-value"
    assert verdict(part, encode(np.array([[1, 0.25]]))).word == "wrong-shape"
    assert verdict(part, encode(np.float32([1, 0.25]))).word == "wrong-dtype"
    assert verdict(part, encode(np.float32([1, 0.25])), F32).outcome == "pass"
    assert verdict(part, encode(np.array([1, 0]))).word == "wrong-dtype"
    assert verdict(part, [encode(np.ones(1))]).word == "wrong-shape"
    assert verdict({"kind": "exact", **pack([0])}, encode(np.array([-0.0]))).outcome == "pass"


def test_exact_integers_of_any_width():
    part = {"kind": "exact", **pack([127, -128], "i8")}
    for dtype in ("i1", "i4", "i8"):
        assert verdict(part, encode(np.array([127, -128], dtype))).outcome == "pass"
    assert verdict(part, encode(np.array([127, -127]))).word == "wrong-value"
    assert verdict(part, encode(np.array([127.0, -128]))).word == "wrong-dtype"


def test_special_numbers_that_are_expected():
    part = {"kind": "exact", **pack(["inf", "nan", "-inf"])}
    assert verdict(part, encode(np.array([np.inf, np.nan, -np.inf]))).outcome == "pass"
    assert verdict(part, encode(np.array([np.inf, np.nan, np.inf]))).outcome == "fail"


def test_allowed_codes():
    part = {"kind": "set", "s": [2], "allowed": [[3], [3, 4]]}
    assert verdict(part, encode(np.array([3, 4]))).outcome == "pass"
    bad = verdict(part, encode(np.array([3, 5])))
    assert bad.word == "wrong-value"
    assert "3 or 4" in bad.says


def test_lists_are_judged_part_by_part():
    part = {"kind": "list", "parts": [{"kind": "exact", **pack([1])}, bounded([0], [1], 1)]}
    good = [encode(np.ones(1)), encode(np.array([2.0**-54]))]
    assert verdict(part, good).margin == pytest.approx(0.5)
    assert verdict(part, good[:1]).word == "wrong-shape"
    assert verdict(part, [good[1], good[1]]).word == "wrong-value"


@given(st.integers(1, 50), st.integers(-(2**20), 2**20), st.sampled_from([F32, F64]))
def test_bounds_are_where_they_are_proved_to_be(n, value, info):
    u = Fraction(1, 2**24 if info is F32 else 2**53)
    dtype = np.float32 if info is F32 else np.float64
    g = abs(value) + 1
    largest = g * n * u / (1 - n * u)

    def outcome(error):
        y = dtype(value + float(error))
        margin = abs(Fraction(float(y)) - value) / largest
        return margin, verdict(bounded([value], [g], n), encode(np.array([y])), info)

    for factor in (0, Fraction(1, 2), 1, 2, 3):
        margin, found = outcome(factor * largest)
        assert (found.outcome == "pass") == (margin <= 1)
        assert found.margin == pytest.approx(float(margin))


def test_nothing_passes_a_bound_of_zero_but_the_value():
    part = bounded([2, 0], [0, 0], 3)
    assert verdict(part, encode(np.array([2.0, 0.0]))).outcome == "pass"
    assert verdict(part, encode(np.array([2.0, 1e-300]))).outcome == "fail"
    assert verdict(part, encode(np.array([2.0, np.nan]))).word == "nan"
    assert verdict(part, encode(np.array([2.0, np.inf]))).outcome == "fail"


def test_shorter_inputs_widen_the_bound_by_what_they_declare():
    part = bounded([1], [1], 1, factors=2, stored=1)
    y = encode(np.float32([1 + 2.0**-10]))
    assert verdict(part, y, F32).outcome == "fail"
    short = Adapter("a", arith="tf32>f32").hello()
    assert verdict(part, y, short).outcome == "pass"
    assert verdict(part, encode(np.float32([1 + 2.0**-9])), short).outcome == "fail"


def test_fast_algorithms_are_judged_in_the_norm():
    part = bounded([0], [2.0**-20], 1)
    inputs = {"x": pack([[3], [4]]), "W": pack([2])}  # norms 5 and 2
    y = encode(np.array([8 * 2.0**-53]))
    fast = Adapter("a", fast=1.0).hello()
    assert verdict(part, y, F64, **{"in": inputs}).outcome == "fail"
    assert verdict(part, y, fast, **{"in": inputs}).margin == pytest.approx(0.8)
    assert verdict(part, y, fast, **{"in": inputs, "op": "depthwise"}).outcome == "fail"


def test_declared_choices_move_the_expectation():
    one, two = ({"y": {"kind": "exact", **pack([v])}} for v in (1, 2))
    case = {
        "op": "quantize",
        "in": {},
        "out": one,
        "when": [{"declared": {"rounding": "half-away"}, "out": two}],
    }
    away = Adapter("a", rounding="half-away").hello()
    assert expectation(case, F64["choices"]) is one
    assert expectation(case, away["choices"]) is two
    assert judge(case, {"y": encode(np.array([1.0]))}, F64).outcome == "pass"
    assert judge(case, {"y": encode(np.array([1.0]))}, away).outcome == "fail"
    assert judge(case, {"y": encode(np.array([2.0]))}, away).outcome == "pass"


def test_wrong_input_has_to_be_refused():
    found = judge(kit_cases.REFUSED, {"values": encode(np.zeros(2))}, F64)
    assert (found.outcome, found.word) == ("fail", "accepted")


def test_certificates_get_numbers_only():
    case = {"op": "cp_als", "in": {}, "out": {"kind": "cert", "name": "cp_als"}}
    found = judge(case, {"factors": [encode(np.array([[np.nan]]))]}, F64)
    assert (found.outcome, found.word) == ("fail", "nan")


def test_a_missing_result_is_a_failure():
    assert judge(kit_cases.PLAIN, {}, F64).word == "wrong-shape"
