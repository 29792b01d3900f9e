"""How cases are put together, and what the numbers in them are made for."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import caught

from qcp_ref.conformance import Adapter, judge
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.cases import grids
from qcp_ref.conformance.cases import make as making
from qcp_ref.conformance.cases.grids import near_ties, traps
from qcp_ref.conformance.cases.make import coded, geometry, make, mantissas, stream
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.dyadic import decode
from qcp_ref.conformance.spec import CAPABILITIES, OPS

CASES = load()
NO_CHANGE = {"qmin": -128, "qmax": 127}


def case(op, options=None, **inputs):
    plain = {"bias": None, "weights": None, "scale": 1, "zero_point": 0}
    given_ = {name: inputs.get(name, plain.get(name)) for name in OPS[op].arrays}
    more = {key: inputs[key] for key in ("out", "layout") if key in inputs}
    return make(op, "test", "A test.", ["Sanity"], given_, options, **more)


def conv(**changes):
    options = geometry(**{key: changes.pop(key) for key in list(changes) if key in geometry()})
    given_ = {"x": coded("x", 1, 2, 5, 5), "W": coded("W", 2, 2, 2, 2), **changes}
    return case("conv2d", options, **given_)


def quantize(x, **changes):
    options = NO_CHANGE | {key: changes.pop(key) for key in list(changes) if key in NO_CHANGE}
    return case("quantize", options, x=x, **changes)


# --- needs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "made"),
    [
        ([], conv),
        (["bias"], lambda: conv(bias=[1, 2])),
        (["asymmetric-padding"], lambda: conv(padding=[1, 0, 0, 0])),
        ([], lambda: conv(padding=[1, 2, 1, 2])),
        (["stride"], lambda: conv(stride=[2, 2])),
        (["stride", "uneven-stride"], lambda: conv(stride=[1, 2])),
        (["dilation"], lambda: conv(dilation=[1, 2])),
        (["layout-sliced"], lambda: conv(layout="sliced")),
        (["refuses"], lambda: conv(padding=[-1, 0, -1, 0], out={"kind": "reject"})),
        (["subnormal"], lambda: conv(x=[[[[Fraction(1, 2**130)] * 2] * 2] * 2])),
        (["full-range"], lambda: quantize([1, 2])),
        (["narrow-range"], lambda: quantize([1, 2], qmin=-127)),
        (["unsigned"], lambda: quantize([1, 2], qmin=0, qmax=255)),
        (["bits", "full-range"], lambda: quantize([1, 2], qmin=-8, qmax=7)),
        (["bits", "int16", "unsigned"], lambda: quantize([1], qmin=0, qmax=65535)),
        (["affine", "full-range"], lambda: quantize([1, 2], zero_point=1)),
        (["full-range", "per-channel"], lambda: quantize([[1, 2]], scale=[[1, 2]])),
        (["full-range", "infinite"], lambda: quantize(["inf", 2])),
        (["order-2"], lambda: case("reconstruct", factors=[[[1]], [[2]]])),
        (["order-4"], lambda: case("gram", {"mode": 0}, factors=[[[1]]] * 4)),
        (["order-2", "weights"], lambda: case("reconstruct", factors=[[[1]]] * 2, weights=[3])),
        (
            ["full-range", "rule-max-abs"],
            lambda: case("choose_scale", NO_CHANGE | {"rule": "max-abs"}, x=[255]),
        ),
        (["kind-log2"], lambda: case("project_kind", {"kind": "log2", "bits": 3}, x=[1])),
        (
            ["affine", "signed-input"],
            lambda: case("int_conv2d", geometry(x_zero=3), x=[[[[-1, 0]]]], W=[[[[1]]]], bias=None),
        ),
    ],
)
def test_needs_follow_from_what_is_given(needs, made):
    assert made()["needs"] == needs


def test_the_largest_codes_of_uint8_are_no_int8():
    window = geometry(x_zero=0)
    x = case("int_conv2d", window, x=[[[[255, 0]]]], W=[[[[1]]]], bias=None)["in"]["x"]
    assert x["t"] == "u8"
    assert case("dequantize", codes=[-128, 127])["in"]["codes"]["t"] == "i8"
    assert case("dequantize", codes=[-1, 255])["in"]["codes"]["t"] == "i32"


def test_every_capability_is_needed_by_some_case():
    needed = {name for one in CASES for name in one["needs"]}
    assert needed == set(CAPABILITIES)


def needs_are_found():
    assert conv(stride=[1, 2])["needs"] == ["stride", "uneven-stride"]
    assert conv(x=[[[[Fraction(1, 2**130)] * 2] * 2] * 2])["needs"] == ["subnormal"]


def test_planted_faults_are_caught():
    assert caught(making, needs_are_found, needs_of=lambda case: iter(()))
    assert caught(making, needs_are_found, _is_subnormal=lambda m, e: None)
    assert caught(grids, traps_are_missed, float32=Fraction)
    needs_are_found()
    traps_are_missed()


# --- putting together -----------------------------------------------------------------------------


def test_forgotten_and_unknown_arguments_are_refused():
    with pytest.raises(ValueError, match=r"gram\.x: .*mode"):
        make("gram", "x", "", [], {"factors": [[[1]]]})
    with pytest.raises(ValueError, match="strides"):
        make("pointwise", "x", "", [], {"x": 0, "A": 0, "bias": None}, {"strides": [1, 1]})


def test_cases_are_exact_in_the_type_they_ask_for():
    def arrays(value):
        if isinstance(value, list):
            return value
        return [] if value is None else [value]

    for one in CASES:
        real = "f64" if "float64" in one["needs"] else "f32"
        for value in one["in"].values():
            for array in arrays(value):
                assert list(decode(array, real).shape) == array["s"], one["id"]


@given(st.lists(st.integers(1, 4), max_size=4), st.text(max_size=5))
def test_coded_entries_are_distinct_and_named(shape, name):
    X = np.array(coded(name, *shape), dtype=int)
    assert X.shape == tuple(shape)
    assert np.unique(X).size == X.size
    assert np.all(X != 0)
    assert np.array_equal(X, np.array(coded(name, *shape)))


@given(st.integers(1, 9), st.text(max_size=5))
def test_coded_entries_end_at_the_top(top, name):
    X = np.abs(coded(name, 4, 5, top=top))
    assert X.min() >= 1
    assert X.max() <= top


def test_streams_of_two_names_differ():
    assert [stream("a").word() for _ in range(2)] == [stream("a").word()] * 2
    assert stream("a").word() != stream("b").word()


def test_mantissas_are_full():
    X = np.array(mantissas("full", 5, 7), dtype=object)
    assert all(x == Fraction(float(np.float32(float(x)))) for x in X.flat)
    # Eleven bits lose something of nearly all of them.
    odd = [x for x in X.flat if abs(x.numerator).bit_length() > 11]
    assert len(odd) > 0.9 * X.size


# --- numbers found by search ----------------------------------------------------------------------


def traps_are_missed():
    for scale in (15, 41, 61, 63):
        found = traps(scale, 12)
        assert len(found) == len(set(found)) == 12
        inverse = np.float32(1) / np.float32(scale)
        for x in found:
            assert (2 * x / scale).denominator == 1  # a tie
            assert np.float32(float(x)) * inverse != float(x / scale)


def test_traps_are_ties_that_reciprocals_miss():
    traps_are_missed()
    assert traps(16, 12) == []


def test_near_ties_are_ties_in_float32_only():
    scale = grids._S24
    for x in near_ties(scale, 12):
        t = np.float32(float(x)) / np.float32(float(scale))
        assert Fraction(float(2 * t)).denominator == 1
        assert (2 * x / scale).denominator > 1


@pytest.mark.parametrize(("real", "name"), [("f32", "below-half"), ("f64", "below-half.double")])
def test_one_half_added_to_what_is_below_it_is_no_way_to_round(real, name):
    one = next(one for one in CASES if one["id"] == f"quantize.{name}")
    x = decode(one["in"]["x"], real)
    below = np.nextafter(x[2], x.dtype.type(0))
    assert ("float64" in one["needs"]) == (real == "f64")
    assert np.array_equal(x, [below, -below, 0.5, -0.5])
    adapter = Adapter("cuts off", arith=real, rounding="half-away")
    ways = {
        "careless": lambda t: np.trunc(t + np.copysign(t.dtype.type(0.5), t)),
        "careful": lambda t: np.sign(t) * (np.floor(np.abs(t)) + (np.abs(t) % 1 >= 0.5)),
    }
    for way, outcome in (("careless", "fail"), ("careful", "pass")):
        adapter.ops["quantize"] = lambda x, s, z, way=way, **ends: np.clip(
            ways[way](x / s) + z, ends["qmin"], ends["qmax"]
        ).astype(int)
        found = judge(one, execute(adapter, one)["out"], adapter.hello())
        assert found.outcome == outcome, (way, found)


def test_one_and_two_roundings_differ_where_it_is_said():
    found = [one for one in CASES if one["id"].startswith("requantize_fixed.differ")]
    assert len(found) >= 2
    for one in found:
        (other,) = one["when"]
        pairs = zip(one["out"]["codes"]["m"], other["out"]["codes"]["m"], strict=True)
        assert all(a != b for a, b in pairs)
        assert other["declared"] == {"fixed_point": "double"}


def test_long_sums_are_exact_in_every_order():
    (long,) = (one for one in CASES if one["id"] == "conv2d.long")
    x, W = (np.array(long["in"][name]["m"]) for name in ("x", "W"))
    assert x.size == W.size == 4608
    assert np.abs(x * W).sum() < 2**24
    assert long["out"]["y"]["kind"] == "exact"


def test_bounds_are_kept_for_short_sums():
    for one in CASES:
        for part in one["out"].values() if "kind" not in one["out"] else ():
            assert part["kind"] != "bound" or part["n"] <= 16, one["id"]


def test_integer_sums_pass_where_others_end():
    sums = {
        one["id"]: one["out"]["acc"]["m"]
        for one in CASES
        if one["op"] == "int_conv2d" and "refuses" not in one["needs"]
    }
    assert max(map(abs, sums["int_conv2d.loud"])) > 2**16
    assert any(abs(a) > 2**24 and a % 2 for a in sums["int_conv2d.long.odd"])
