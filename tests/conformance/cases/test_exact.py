"""What is right on whole arrays is what the index loops say."""

from fractions import Fraction
from functools import partial
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import caught

from qcp_ref.conformance.cases import exact, truth
from qcp_ref.conformance.cases.recipes import expand, recipes
from qcp_ref.conformance.dyadic import fractions
from qcp_ref.conformance.spec import CHOICES, OPS, governing
from qcp_ref.loops import rounded

DEFAULT = {name: options[0] for name, options in CHOICES.items()}
SMALL = 150  # entries of all arguments together: loops take milliseconds


def entries(part):
    if isinstance(part, list):
        return sum(map(entries, part))
    return 0 if part is None else prod(part["s"])


def small(op):
    """Return a few small recipes of an operation, of all of its tables."""
    cases = [expand(case) for case in recipes() if case["op"] == op and is_tiny(case)]
    cases = [case for case in cases if sum(map(entries, case["in"].values())) <= SMALL]
    return cases[:: max(len(cases) // 6, 1)]


def is_tiny(case):
    sizes = case["recipe"]["sizes"]
    flat = [n for n in sizes.values() if type(n) is int]
    flat += [n for part in sizes.values() if isinstance(part, list) for n in part]
    return max(flat, default=0) <= 12 or prod(sizes.get("shape", [999])) < 60


def loops_say(case, choices):
    given = {
        name: [fractions(one) for one in part]
        if isinstance(part, list)
        else part and fractions(part)
        for name, part in case["in"].items()
    }
    return truth.expect(case["op"], given, case["options"], choices)


COMPUTED = [op for op in OPS if governing(op) or op in (*truth.SUMS, "dequantize", "int_conv2d")]
COMPUTED = [op for op in COMPUTED if op not in ("admm_step", "ao_admm_run")]  # certificates


def agree(op):
    relevant = governing(op)
    every = [dict(zip(relevant, some, strict=True))
             for some in product(*(CHOICES[name] for name in relevant))]  # fmt: skip
    for n, case in enumerate(small(op)):
        for some in (every[n % len(every)], every[-1 - n % len(every)], {}):
            found = exact.expected(case, DEFAULT | some)
            for name, part in loops_say(case, DEFAULT | some).items():
                values = [np.ravel(np.array(fractions(one), object)).tolist()
                          for one in (part, found[name])]  # fmt: skip
                assert values[0] == values[1], case["id"]
                assert part["s"] == found[name]["s"]


@pytest.mark.parametrize("op", COMPUTED)
def test_arrays_and_loops_agree(op):
    assert small(op), op
    agree(op)


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("quantize", {"rounded": lambda p, q, _: rounded_arrays(p, q, "half-up")}),
        ("requantize", {"rounded": lambda p, q, _: rounded_arrays(p, q, "half-away")}),
        (
            "conv2d",
            {"_taps": lambda x, size, window: taps(x, size, {**window, "dilation": [1, 1]})},
        ),
        ("mttkrp", {"khatri_rao": lambda factors: exact_khatri_rao(factors[::-1])}),
    ],
)
def test_wrong_arrays_are_caught(op, wrong):
    assert caught(exact, partial(agree, op), **wrong)


rounded_arrays, taps, exact_khatri_rao = exact.rounded, exact._taps, exact.khatri_rao


@given(
    st.lists(st.integers(-(2**80), 2**80), min_size=1, max_size=5),
    st.integers(1, 2**70) | st.integers(1, 8),
    st.sampled_from(CHOICES["rounding"]),
)
def test_rounding_of_quotients_is_that_of_the_loops(p, q, rounding):
    found = exact.rounded(p, q, rounding)
    assert found.tolist() == [rounded(Fraction(n, q), rounding) for n in p]


def test_sums_that_a_type_does_not_hold_are_refused():
    case = expand(next(case for case in recipes() if case["id"] == "conv2d.net.3x3"))
    case["in"]["x"] = {**case["in"]["x"], "e": 21}
    with pytest.raises(ValueError, match=r"sums up to 16777216"):
        exact.expected(case, DEFAULT)


@pytest.mark.parametrize("op", ["conv2d", "cp_conv2d", "mttkrp"])
def test_shorter_inputs_get_the_bound_of_the_loops(op):
    for case in small(op):
        found = exact.expected(case, DEFAULT, short=True)
        stored = {**case, "out": loops_say(case, DEFAULT)}
        for name, part in truth.bounded(stored).items():
            assert {key: part[key] for key in ("kind", "n", "factors", "stored")} == {
                key: found[name][key] for key in ("kind", "n", "factors", "stored")
            }
            assert fractions(part["g"]) == fractions(found[name]["g"])
