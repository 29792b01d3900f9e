"""The catalogue of wrong implementations: complete, well formed, and each one really wrong."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_draws import KINDS, draw

import qcp_ref.conformance
from qcp_ref.conformance.dyadic import SplitMix64
from qcp_ref.conformance.faults.catalogue import CHANGES, FAULTS, NOT_APPLICABLE, shorten, vary
from qcp_ref.conformance.faults.matrix import attempt
from qcp_ref.conformance.faults.plain import RIGHT, nearest_power, round_twice
from qcp_ref.conformance.spec import OPS

LIST = Path(qcp_ref.conformance.__file__).parent / "data" / "faults.json"
ROWS = json.loads(LIST.read_text(encoding="ascii"))["faults"]
LEVELS = ("L0", "L1", "L2", "LI")
# The mistakes that the suite promises to look for; what does not apply says why.
PROMISED = {"Q": 21, "F": 27, "P": 4, "M": 5, "G": 4, "I": 14, "V": 17, "X": 4}


def test_every_promised_mistake_is_in_the_catalogue_or_says_why_not():
    wanted = {f"{letter}{n:02}" for letter, last in PROMISED.items() for n in range(1, last + 1)}
    found = {row["id"] for row in ROWS}
    assert wanted == (found | NOT_APPLICABLE.keys()) & wanted
    assert not found & NOT_APPLICABLE.keys()
    assert all(len(reason) > 40 for reason in NOT_APPLICABLE.values())


def test_the_list_is_well_formed():
    for row in ROWS:
        assert set(row) == {"id", "change", "ops", "title", "seen"}
        assert re.fullmatch(r"[QRIFMGPVX]\d\d", row["id"])
        assert row["change"] in CHANGES
        assert len(set(row["ops"])) == len(row["ops"])
        rows = row["id"][0] == "V"  # of the solvers, only those in integer codes
        assert all(
            (OPS[op].level == "L3") if rows else (OPS[op].level in LEVELS) for op in row["ops"]
        )
        assert 3 < len(row["title"]) < 50 and len(row["seen"]) < 50
    assert {row["change"] for row in ROWS} == set(CHANGES)
    lines = LIST.read_text(encoding="ascii").splitlines()
    assert lines[1:-1] == [
        json.dumps(row, sort_keys=True, separators=(",", ":")) + end
        for row, end in zip(ROWS, [*[","] * (len(ROWS) - 1), ""], strict=True)
    ]


def test_every_fault_has_a_name_of_its_own():
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.op, fault.title) for fault in FAULTS}) == len(FAULTS)
    assert len(FAULTS) == sum(len(row["ops"]) for row in ROWS)
    shared = {row["id"] for row in ROWS if sum(other["id"] == row["id"] for other in ROWS) > 1}
    shared |= {row["id"] for row in ROWS if len(row["ops"]) > 1}
    assert {fault.id[:3] for fault in FAULTS if len(fault.id) > 3} == shared
    assert {fault.op for fault in FAULTS} == set(RIGHT) == set(KINDS)
    assert {fault.arith for fault in FAULTS if fault.id[0] == "P"} == {"f32"}


@pytest.mark.parametrize("op", sorted(RIGHT))
def test_without_hooks_an_operation_is_right(op):
    for seed in range(25):
        case = draw(op, SplitMix64(1000 + seed))
        assert attempt(RIGHT[op], case)[0] == ""
        assert attempt(vary(op), case)[0] == ""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.id}-{fault.op}")
def test_every_fault_runs(fault):
    """What cannot run proves nothing; that it is wrong is tested with the matrix."""
    words = {
        attempt(fault.function, draw(fault.op, SplitMix64(seed)), arith=fault.arith)[0]
        for seed in range(4)
    }
    assert words != {"raises"}


@given(st.floats(-(2.0**99), 2.0**99, width=32), st.sampled_from([8, 11]))
def test_shortened_numbers_are_the_nearest(x, bits):
    found = shorten(np.array([x], np.float32), bits)
    assert found.dtype == np.float32
    size = Fraction(2) ** (int(np.frexp(x)[1]) - bits)
    assert Fraction(float(found[0])) == round(Fraction(x) / size) * size


def test_eleven_bits_are_those_of_float16(rng):
    x = rng.normal(size=1000).astype(np.float32)
    assert np.array_equal(shorten(x, 11), x.astype(np.float16).astype(np.float32))


def test_a_change_leaves_the_arguments_alone():
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    W = np.arange(4.0).reshape(1, 1, 2, 2)
    before = x.copy(), W.copy()
    options = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    plain = RIGHT["conv2d"](x, W, None, **options)
    flipped = vary("conv2d", kernel=lambda K: K[..., ::-1, ::-1])(x, W, None, **options)
    assert np.array_equal(flipped, RIGHT["conv2d"](x, W[..., ::-1, ::-1], None, **options))
    assert not np.array_equal(flipped, plain)
    assert np.array_equal(x, before[0]) and np.array_equal(W, before[1])


def test_arguments_that_an_operation_lacks_are_left_out_and_hooks_are_not():
    factors = [np.ones((2, 2)), np.ones((3, 2))]
    assert vary("gram", stride=lambda _: 1)(factors, mode=None).tolist() == [[6, 6], [6, 6]]
    with pytest.raises(TypeError, match="no_such_hook"):
        vary("gram", no_such_hook=1)(factors, mode=None)


@given(st.floats(0, 2), st.integers(1, 5))
def test_the_nearest_power_is_the_nearest_level(size, top):
    levels = np.append(0, 2.0 ** np.arange(1 - top, 1))
    code = int(nearest_power(np.array(size), levels))
    assert abs(size - levels[code]) == abs(size - levels).min()


@given(st.integers(-(2**31), 2**31 - 1), st.integers(2**30, 2**31 - 1), st.integers(-31, 0))
def test_rounding_twice_is_that_of_the_devices(a, m, shift):
    """Saturating doubling high multiplication, then a rounding shift, ties away from zero."""
    high = Fraction(a * m, 2**31)
    once = (high + Fraction(1, 2)).__floor__()
    exact = Fraction(once, 2**-shift)
    twice = (abs(exact) + Fraction(1, 2)).__floor__() * (1 if exact >= 0 else -1)
    assert round_twice(*(np.array(v, np.int64) for v in (a, m, shift))) == twice
