"""Certificates of whole matrices say what those of nested lists say."""

from functools import partial

import numpy as np
import pytest
from support import caught

from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases.recipes import expand, recipes
from qcp_ref.conformance.dyadic import decode, encode
from qcp_ref.conformance.judging import large
from qcp_ref.conformance.judging.certificates import CERTIFICATES
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.reference import numpy_adapter

INFO = Adapter("any").hello()
# The first ones are of few entries.
CASES = {op: [case for case in recipes() if case["op"] == op][:3] for op in large.LARGE}


def moved(part, step):
    """Return a result whose last entry is off by a part of it."""
    if isinstance(part, list):
        return [*part[:-1], moved(part[-1], step)]
    array = decode(part)
    array.flat[-1] *= 1 + step
    return encode(array)


def compare(op, step):
    for case in map(expand, CASES[op]):
        right = execute(numpy_adapter, case)["out"]
        out = {name: moved(part, step) for name, part in right.items()}
        one, two = large.LARGE[op](case, out, INFO), CERTIFICATES[op](case, out, INFO)
        assert (one.outcome, one.word) == (two.outcome, two.word)
        # A row is never judged more mildly than the whole matrix.
        assert one.margin >= 0.9 * two.margin
        if one.outcome == "pass" and not op.startswith("als"):
            assert one.margin == pytest.approx(two.margin, rel=1e-9)


@pytest.mark.parametrize("op", large.LARGE)
@pytest.mark.parametrize("step", [0, 1e-6, 0.5])
def test_both_forms_agree(op, step):
    compare(op, step)


@pytest.mark.parametrize("op", ["als_update", "als_sweep"])
def test_a_wrong_problem_is_seen(op):
    product = large._khatri_rao
    assert caught(large, partial(compare, op, 0), _khatri_rao=lambda A: product(A[::-1]))


def test_no_row_hides_among_many():
    case = expand(next(c for c in recipes() if c["id"] == "als_update.size.first-129.mode-0"))
    A = decode(execute(numpy_adapter, case)["out"]["A"])
    A[128] *= 1 + 1e-4
    single = Adapter("single", arith="f32").hello()
    out = {"A": encode(A.astype(np.float32))}
    assert judge(case, out, single).outcome == "fail"
    assert CERTIFICATES["als_update"](case, out, single).outcome != "fail"


@pytest.mark.parametrize(
    ("out", "word"),
    [
        (encode(np.ones((2, 2))), "wrong-shape"),
        ([encode(np.ones((3, 3)))], "wrong-shape"),
        (encode(np.ones((3, 2), np.float32)), "wrong-dtype"),
        (encode(np.full((3, 2), np.nan)), "nan"),
    ],
)
def test_results_of_another_form_are_refused(out, word):
    case = expand(next(c for c in recipes() if c["id"] == "als_update.size.second-5.mode-0"))
    assert judge(case, {"A": out}, INFO).word == word


def test_lists_of_another_length_are_refused():
    case = expand(CASES["als_sweep"][0])
    assert judge(case, {"factors": []}, INFO).word == "wrong-shape"
