"""Recipes: always the same arrays, every axis at every size, real networks, and what they find."""

import re
from functools import cache

import numpy as np
import pytest

from qcp_ref import loops
from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases.draw import DRAWN
from qcp_ref.conformance.cases.geometries import NAMED, OPTIONS
from qcp_ref.conformance.cases.recipes import expand, recipes
from qcp_ref.conformance.cases.sizes import SIZES
from qcp_ref.conformance.cases.vectors import everything, flags, load
from qcp_ref.conformance.dyadic import canonical, decode
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.reference import numpy_adapter, numpy_adapter_f32
from qcp_ref.conformance.running.session import Session
from qcp_ref.conformance.spec import CAPABILITIES, OPS

LAYERS = ("conv2d", "depthwise", "cp_conv2d", "int_conv2d", "quantized_conv2d",
          "quantized_cp_conv2d")  # fmt: skip
BY_ID = {case["id"]: case for case in recipes()}
RUNS = {"cp_als", "cp_als_run", "ao_admm", "ao_admm_run"}  # by stored cases, from given starts


# --- form -----------------------------------------------------------------------------------------


def test_ids_are_new_and_words_are_known():
    ids = [case["id"] for case in everything()]
    assert len(set(ids)) == len(ids) == len(load()) + len(recipes())
    assert all(re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9-]+)+", one) for one in ids)
    for case in recipes():
        assert case["id"].startswith(f"{case['op']}.")
        assert set(case["options"]) == set(OPS[case["op"]].options), case["id"]
        assert set(case["flags"]) <= set(flags())
        assert "in" not in case and len(canonical(case)) < 900
    assert {case["op"] for case in recipes()} == set(OPS) - RUNS


def test_a_recipe_is_always_the_same_arrays():
    for case in recipes()[::97]:
        one, two = expand(case), expand(dict(case))
        assert canonical(one) == canonical(two)
        assert set(one["in"]) == set(OPS[case["op"]].arrays)
        assert set(one["needs"]) <= set(CAPABILITIES)
        assert expand(one)["in"] == one["in"]


def test_a_stored_case_is_itself():
    assert expand(load()[0]) == load()[0]


def test_needs_follow_from_what_was_drawn():
    assert "per-channel" in expand(BY_ID["quantize.width.i4.row"])["needs"]
    assert {"bits", "affine"} <= set(expand(BY_ID["quantize.width.i4.row"])["needs"])
    assert "float64" in expand(BY_ID["requantize.precise.40"])["needs"]
    assert "float64" not in expand(BY_ID["conv2d.net.image-113"])["needs"]
    assert "stride" in expand(BY_ID["depthwise.net.5x5-stride-2"])["needs"]


# --- what is asked --------------------------------------------------------------------------------


def axes_of(op):
    """Return the sides that the arguments of an operation have in some recipe."""
    sides = {}
    for case in recipes():
        if case["op"] == op and ".size." in case["id"] and "." not in case["id"].split("size.")[1]:
            for name, part in expand(case)["in"].items():
                for k, one in enumerate(part if isinstance(part, list) else [part]):
                    for axis, side in enumerate(one["s"] if one else ()):
                        sides.setdefault((name, k, axis), set()).add(side)
    return sides


@pytest.mark.parametrize(
    ("op", "largest"),
    [("pointwise", 513), ("reconstruct", 513), ("quantized_linear", 513)],
)
def test_every_axis_has_every_size(op, largest):
    wanted = {n for n in SIZES if n <= largest}
    for place, sides in axes_of(op).items():
        assert wanted <= sides, place


@pytest.mark.parametrize("op", LAYERS)
def test_every_layer_has_the_geometries_of_real_networks(op):
    for name in NAMED:
        case = BY_ID[f"{op}.net.{name}"]
        x, window = expand(case)["in"]["x"]["s"], case["options"]
        assert (window["stride"], window["dilation"]) == ([*NAMED[name][1]], [*NAMED[name][3]])
        assert x[2:] == [*NAMED[name][4]]
    assert any(x["recipe"]["sizes"]["inputs"] == 1 for x in recipes() if x["op"] == op)


def test_strides_and_kernels_meet():
    rows = [case for case in recipes() if case["id"].startswith("conv2d.pairs.")]
    seen = {(row["recipe"]["sizes"]["kernel"][0], row["options"]["stride"][1]) for row in rows}
    assert {(k, s) for k in OPTIONS["kernel_height"] for s in OPTIONS["stride_width"]} <= seen


# --- right implementations pass -------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [numpy_adapter, numpy_adapter_f32], ids=["f64", "f32"])
def test_the_book_passes_a_sample(adapter):
    session = Session(adapter, isolate=False)
    cases = [case for case in recipes() if case["op"] in adapter.ops]
    found = [session.run(case) for case in cases[:: len(cases) // 60]]
    wrong = [(r.id, r.says) for r in found if r.outcome not in ("pass", "n/a")]
    assert not wrong


def test_planted_codes_are_the_best_of_all_rows():
    for seed in ("one", "two", "three"):
        ends = {"qmin": -2, "qmax": 1}
        given, out = DRAWN["closest_rows"](seed, {"rows": 3, "rank": 4}, ends)
        for f, v in zip(given["F"] / given["scale"], decode(out["codes"]), strict=True):
            assert list(v) == loops.best_row(list(f), given["G"].tolist(), [range(-2, 2)] * 4)


@pytest.mark.parametrize("name", ["rank-5", "rank-129", "rows-65.rank-65"])
def test_planted_codes_are_clear_in_float32(name):
    """What is rounded is off by 1/8, and by no more than 3/8 of :eq:`conformance-plane`."""
    case = expand(BY_ID[f"nearest_plane.size.{name}"])
    F, G, scale = (decode(case["in"][key]) for key in ("F", "G", "scale"))
    V, f, rank = decode(case["out"]["codes"]), F / scale, len(G)
    least, most = np.linalg.eigvalsh(G)[[0, -1]]
    solving, adding = rank * (3 * rank + 1) / 2**24, (rank + 1) / 2**24
    for r in range(rank):
        left, later = slice(r + 1), slice(r + 1, None)
        a = np.linalg.solve(G[left, left], (f[:, left] - V[:, later] @ G[later, left]).T).T
        size = np.abs(f[:, left]) + np.abs(V[:, later]) @ np.abs(G[later, left])
        away = adding * np.linalg.norm(size, axis=1) + solving * most * np.linalg.norm(a, axis=1)
        assert abs(a[:, -1] - V[:, r]).max() < 1 / 8 + 2.0**-40
        room = least - solving * most  # a divisor of no sign would make any bound hold
        assert room > 0 and away.max() > 0
        assert 1.1 * away.max() / room < 3 / 8


# --- wrong ones do not ----------------------------------------------------------------------------


@cache
def right(name):
    """Return a case with its results, by the book."""
    case = expand(BY_ID[name])
    return case, execute(numpy_adapter, case)["out"]


def spoiled(out, axis, beyond):
    """Return results in which nothing is computed beyond an index of one axis."""
    name, part = next(iter(out.items()))
    if isinstance(part, list):
        return {**out, name: [spoiled({"": part[0]}, axis, beyond)[""], *part[1:]]}
    m = np.array(part["m"], object).reshape(part["s"])
    m[(slice(None),) * axis + (slice(beyond, None),)] = 0
    return {**out, name: {**part, "m": m.ravel().tolist()}}


BEYOND = [
    ("quantize.size.rows-{}.own", 0), ("dequantize.size.columns-{}.one", 1),
    ("project.size.depth-{}.two", 2), ("project_kind.size.rows-{}.other", 0),
    ("requantize.size.channels-{}.channels", 1), ("requantize_fixed.size.width-{}.one", 3),
    ("reconstruct.size.third-{}", 2), ("mttkrp.size.rank-{}.mode-1", 1),
    ("gram.size.rank-{}.all", 1), ("balance.size.first-{}", 0),
    ("conv2d.size.outputs-{}", 1), ("pointwise.size.images-{}", 0),
    ("depthwise.size.inputs-{}", 1), ("cp_conv2d.size.outputs-{}", 1),
    ("int_conv2d.size.width-{}", 3), ("quantized_conv2d.size.height-{}", 2),
    ("quantized_linear.size.outputs-{}", 1), ("quantized_cp_conv2d.size.images-{}", 0),
    ("als_update.size.first-{}.mode-0", 0), ("als_sweep.size.first-{}", 0),
    ("epc_update.size.second-{}.mode-1", 0), ("admm_step.size.rows-{}", 0),
    ("descend_rows.size.rows-{}", 0), ("nearest_plane.size.rank-{}", 1),
    ("closest_rows.size.rows-{}", 0),
]  # fmt: skip


@pytest.mark.parametrize("size", [5, 129])
@pytest.mark.parametrize(("name", "axis"), BEYOND)
def test_what_ends_before_an_axis_does_is_found(name, axis, size):
    name = name.format(size)
    case, out = right(name)
    info = Adapter("any").hello()
    assert judge(case, out, info).outcome == "pass"
    assert judge(case, spoiled(out, axis, 4 if size == 5 else 128), info).word == "wrong-value"


def shortened(name):
    """Return the verdict on the book's result if its first real argument loses half its digits."""
    case = expand(BY_ID[name])
    adapter = Adapter("short")

    def function(*arrays, **options):
        short = [a if isinstance(a, list) or a is None or a.dtype.kind != "f"
                 else a.astype(np.float32).astype(np.float64) for a in arrays]  # fmt: skip
        return numpy_adapter.ops[case["op"]](*short, **options)

    adapter.ops[case["op"]] = function
    return judge(case, execute(adapter, case)["out"], adapter.hello()).outcome


@pytest.mark.parametrize(
    "name",
    ["quantize.precise.30.row", "project.precise.34.one", "dequantize.precise.one",
     "requantize.precise.40", "quantized_conv2d.precise.30", "conv2d.precise",
     "cp_conv2d.precise", "mttkrp.precise.3x4x2.mode-1", "als_update.precise.60.mode-2"],
)  # fmt: skip
def test_float32_on_the_way_is_found(name):
    assert shortened(name) == "fail"
    assert judge(*right(name), Adapter("any").hello()).outcome == "pass"


def test_a_constant_that_is_added_is_found():
    case, _ = right("als_update.units.0.mode-0")
    adapter = Adapter("ridge")

    def ridge(X, factors, *, mode):
        F = numpy_adapter.ops["mttkrp"](X, factors, mode=mode)
        G = numpy_adapter.ops["gram"](factors, mode=mode)
        return np.linalg.solve(G + 1e-12 * np.eye(len(G)), F.T).T

    adapter.ops["als_update"] = ridge
    assert judge(case, execute(adapter, case)["out"], adapter.hello()).word == "wrong-value"
