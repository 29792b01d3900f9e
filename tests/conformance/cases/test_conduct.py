"""Cases of conduct: made for every operation; who is careless in a way is found by that way."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcp_ref.conformance import Adapter
from qcp_ref.conformance.adapter import REPEAT, execute, flipped
from qcp_ref.conformance.cases.conduct import LAYOUTS, conduct, layouts, wrong
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.dyadic import canonical, decode
from qcp_ref.conformance.faults.matrix import attempt
from qcp_ref.conformance.faults.offences import checked
from qcp_ref.conformance.faults.plain import RIGHT
from qcp_ref.conformance.faults.solvers import SOLVERS
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.reference import numpy_adapter
from qcp_ref.conformance.running.session import run
from qcp_ref.conformance.spec import LISTS, OPS

CASES = load()
BY_OP = defaultdict(list)
for one in CASES:
    BY_OP[one["op"]].append(one)
MADE = [case for case in CASES if ".wrong." in case["id"]]
PLAIN = Adapter("plain")
PLAIN.ops.update({op: checked(op, function) for op, function in SOLVERS.items()} | RIGHT)
QUICK = sorted(set(OPS) - {"cp_als", "ao_admm"})


# What has no wrong value of its own: the end of a range is wrong together with the other end.
ANY_VALUE = {
    "": {"qmin", "relu", "rule", "kind", "bits", "seed"},
    "dequantize": {"zero_point"},
    "requantize_fixed": {"qmin", "multiplier", "shift"},  # those of the list of refused cases
}


def right_case(op):
    """A small case of an operation whose arrays have several entries."""
    cases = [c for c in BY_OP[op] if "layout" in c and c["out"].get("kind") != "reject"]
    return {key: value for key, value in cases[0].items() if key != "layout"}


# --- what is made ---------------------------------------------------------------------------------


def test_every_operation_has_every_layout_and_wrong_arguments_of_each_name():
    for op, spec in OPS.items():
        assert {case["layout"] for case in BY_OP[op] if "layout" in case} == set(LAYOUTS)
        spoiled = {case["id"].split(".")[2] for case in BY_OP[op] if case in MADE}
        for name in {*spec.arrays, *spec.options} - ANY_VALUE.get(op, ANY_VALUE[""]):
            word = name.replace("_", "-").lower()
            assert any(part.startswith(word) for part in spoiled), (op, name, spoiled)


def test_wrong_input_is_right_input_with_one_argument_spoiled():
    stored = [c for c in CASES if ".wrong." not in c["id"] and c["out"].get("kind") != "reject"]
    known = {canonical([c["op"], c["in"], c["options"]]) for c in stored}
    for case in MADE:
        assert canonical([case["op"], case["in"], case["options"]]) not in known, case["id"]
        parts = [c["in"] | c["options"] for c in stored if c["op"] == case["op"]]
        given = case["in"] | case["options"]
        assert min(sum(given[k] != part[k] for k in given) for part in parts) == 1, case["id"]


def test_they_are_the_same_whoever_makes_them():
    stored = [case for case in CASES if case["id"] != "x" and ".wrong." not in case["id"]]
    again = [*wrong(stored)]
    assert canonical(again) == canonical(MADE)
    assert not [*layouts(stored)]  # all there already
    assert conduct([]) == []


# --- who refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [numpy_adapter, PLAIN], ids=lambda a: a.name)
def test_right_implementations_refuse_all_of_it(adapter):
    for case in MADE:
        answer = execute(adapter, case)
        assert answer.get("word") == "raises", (case["id"], answer)


@pytest.mark.parametrize(
    ("op", "careless", "way"),
    [
        ("conv2d", lambda a: {"bias": np.resize(a["bias"], len(a["W"]))}, "bias.single"),
        ("quantize", lambda a: {"scale": np.minimum(a["scale"], 1e30)}, "scale.infinite"),
        (
            "quantized_conv2d",
            lambda a: {"multiplier": np.resize(a["multiplier"], len(a["W"]))},
            "multiplier.vector",
        ),
        ("reconstruct", lambda a: {"factors": [f.reshape(-1, f.shape[-1]) for f in a["factors"]]},
         "factors-1.axis"),
        ("mttkrp", lambda a: {"mode": a["mode"] % 3}, "mode.negative"),
        ("depthwise", lambda a: {"padding": [abs(p) for p in a["padding"]]}, "padding.below-2.1"),
    ],
)  # fmt: skip
def test_the_careless_are_found(op, careless, way):
    """Each takes one kind of wrong input, by repeating, clipping, reshaping or counting on."""

    def function(*arrays, **options):
        given = dict(zip(OPS[op].arrays, arrays, strict=True)) | options
        given |= careless(given)
        return RIGHT[op](*[given.pop(name) for name in OPS[op].arrays], **given)

    found = {c["id"] for c in BY_OP[op] if c in MADE and attempt(function, c)[0] == "accepted"}
    assert f"{op}.wrong.{way}" in found
    assert len(found) < len([c for c in BY_OP[op] if c in MADE]) / 4


# --- other conduct --------------------------------------------------------------------------------


def wrapped(op, misconduct):
    impl = Adapter("bad")

    def function(*arrays, **options):
        return misconduct(numpy_adapter.ops[op], op, arrays, options)

    impl.ops[op] = function
    return impl


def changes_arrays(right, op, arrays, options):
    result = right(*[[*a] if isinstance(a, list) else a for a in arrays], **options)
    for part in arrays:
        for array in part if isinstance(part, list) else [part]:
            if array is not None and array.size:
                np.add(array, 1, out=array)
                return result
    return result


def changes_lists(right, op, arrays, options):
    result = right(*[[*a] if isinstance(a, list) else a for a in arrays], **options)
    for part in arrays:
        if isinstance(part, list):
            part[0] = part[0].copy()
    return result


def changes_options(right, op, arrays, options):
    result = right(*arrays, **{k: [*v] if isinstance(v, list) else v for k, v in options.items()})
    for value in options.values():
        if isinstance(value, list):
            value[0] += 1
    return result


BUFFERS = {}


def keeps_buffers(right, op, arrays, options):
    def kept(key, value):
        buffer = BUFFERS.setdefault((*key, np.shape(value)), np.array(value))
        buffer[...] = value
        return buffer

    result = right(*arrays, **options)
    parts = result if isinstance(result, tuple) else (result,)
    names = OPS[op].results
    held = tuple(
        [kept((op, name, n), entry) for n, entry in enumerate(part)]
        if (op, name) in LISTS
        else kept((op, name), part)
        for name, part in zip(names, parts, strict=True)
    )
    return held if len(names) > 1 else held[0]


LAST = {}


def depends_on_the_call_before(right, op, arrays, options):
    """Begin with what the last call was about, if the sizes are the same."""
    key = op, tuple(np.shape(a) for a in arrays if not isinstance(a, list))
    before = LAST.get(key)
    LAST[key] = arrays
    return right(*(before or arrays), **options)


@pytest.mark.slow
@pytest.mark.parametrize("op", QUICK)
def test_misconduct_is_found_in_every_operation(op):
    case = right_case(op)
    assert execute(wrapped(op, lambda f, op, a, o: f(*a, **o)), case).keys() == {"out", "checks"}
    assert execute(wrapped(op, changes_arrays), case)["word"] == "mutates"
    assert execute(wrapped(op, keeps_buffers), case)["word"] == "overwritten"
    assert execute(wrapped(op, depends_on_the_call_before), case)["word"] == "unrepeatable"
    if isinstance(case["in"].get("factors"), list):
        assert execute(wrapped(op, changes_lists), case)["word"] == "mutates"
    if "stride" in case["options"]:
        assert execute(wrapped(op, changes_options), case)["word"] == "mutates"


def reads_memory(right, op, arrays, options):
    def flat(array):
        if array is None or not array.ndim:
            return array
        base = array if array.base is None else array.base
        return np.resize(base.ravel("K"), array.shape).astype(array.dtype)

    return right(*[[*map(flat, a)] if isinstance(a, list) else flat(a) for a in arrays], **options)


@pytest.mark.slow
@pytest.mark.parametrize("op", QUICK)
def test_who_walks_through_memory_is_found_in_every_operation(op):
    cases = [case for case in BY_OP[op] if "layout" in case]
    plain = [{k: v for k, v in case.items() if k != "layout"} for case in cases[:1]]
    impl = wrapped(op, reads_memory)
    assert all(r.outcome == "pass" for r in run(impl, plain, isolate=False).results)
    assert any(r.outcome == "fail" for r in run(impl, cases, isolate=False).results)


@given(st.sampled_from([case for case in CASES if case["out"].get("kind") != "reject"]))
def test_other_input_means_as_much(case):
    """Reversed twice it is the same; right implementations take it."""
    other = flipped(case["op"], case["in"])
    twice = flipped(case["op"], other)
    for part in ("m", "s", "t"):
        assert [a[part] for a in each(twice)] == [a[part] for a in each(case["in"])]
    for array, turned in zip(each(case["in"]), each(other), strict=True):
        if array["e"] == turned["e"]:
            assert np.array_equal(np.flip(decode(array)), decode(turned), equal_nan=True)
    if case["op"] in QUICK and not set(case["needs"]) & numpy_adapter.lacking:
        reply = execute(numpy_adapter, {**case, "in": other, "repeat": 1})
        assert "out" in reply or reply["word"] == "raises", reply


def each(given):
    for part in given.values():
        yield from part if isinstance(part, list) else [part] if part else []


def test_what_was_checked_is_said():
    case = right_case("conv2d")
    assert set(execute(numpy_adapter, case)["checks"]) == {"inputs", "results", "repeats"}
    assert execute(numpy_adapter, {**case, "repeat": 1})["checks"] == ["inputs"]
    assert REPEAT == 2
    found = judge(case, execute(numpy_adapter, case)["out"], numpy_adapter.hello())
    assert found.outcome == "pass"
