"""Implementations of others, held to the definitions; where they differ, exactly as declared."""

import sys
from pathlib import Path

import pytest

from qcp_ref.conformance import run
from qcp_ref.conformance.cases.vectors import load, smoke, stored
from qcp_ref.conformance.spec import OPS

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers" / "foreign"))

# The choices that each declares, and the cases in which it is known to differ beyond them.
KNOWN = {
    ("torch", "torch_adapter", "impl"): set(),
    # Product and zero point are fused into one rounding where the processor can do that.
    ("torch", "torch_adapter", "quantizer"): {"quantize.near-ties.zero"},
    ("onnxruntime", "onnxruntime_adapter", "impl"): set(),
    ("tensorly", "tensorly_adapter", "impl"): set(),
}

# Input without a meaning in our definitions that each takes. Broadcasting and cropping are features
# there, and an adapter does not look for what its library lets pass.
SCALES = [f"refuse.scale.{what}" for what in ("zero", "negative", "nan")]
SCALES += ["refuse.scale.zero.channel", "refuse.scale.nan.channel"]
NUMBERS = ["refuse.nan", "refuse.nan.zero", *SCALES]
TAKEN = {
    ("torch", "torch_adapter", "impl"): {
        # einsum and products of matrices repeat sides of 1, and see no factor that is left out
        "reconstruct": ["refuse.column", "refuse.weights"],
        "mttkrp": ["refuse.broadcast", "refuse.column"],
        "gram": ["refuse.column", "refuse.column.first", "refuse.rank.last"],
        "als_update": ["refuse.row", "refuse.column", "refuse.rank"],
        # observers do not look at the numbers
        "choose_affine": ["refuse.nan", "refuse.nan.unsigned"],
        # negative padding crops
        "conv2d": ["refuse.padding", "refuse.padding.right"],
        "depthwise": ["refuse.padding", "refuse.padding.right"],
        "cp_conv2d": ["refuse.padding", "refuse.padding.bottom"],
        # fake quantization looks at the range, but not at numbers, scales and zero points
        "project": [*NUMBERS, "refuse.zero-point.above", "refuse.zero-point.below"],
        "quantized_conv2d": [
            *("refuse.multiplier.zero", "refuse.multiplier.negative"),
            *(f"refuse.zero-point.{which}" for which in ("input", "output", "below")),
        ],
    },
    ("torch", "torch_adapter", "quantizer"): {"quantize": NUMBERS},
    ("onnxruntime", "onnxruntime_adapter", "impl"): {
        "quantize": NUMBERS,
        "choose_affine": ["refuse.nan.unsigned"],
        "dequantize": SCALES,
        "int_conv2d": ["refuse.padding", "refuse.padding.right"],
        "quantized_conv2d": ["refuse.multiplier.zero", "refuse.multiplier.negative"],
    },
    # A sweep begins with the first factor, and does not look at the one that is given.
    ("tensorly", "tensorly_adapter", "impl"): {"als_sweep": ["refuse.row"]},
}
PAGE = Path(__file__).parents[2] / "docs" / "conformance" / "others.rst"


@pytest.fixture(scope="module")
def adapter():
    def load_adapter(package, module, name):
        pytest.importorskip(package)
        if package == "onnxruntime":
            pytest.importorskip("onnx")
        return getattr(pytest.importorskip(module), name)

    return load_adapter


@pytest.mark.parametrize("place", KNOWN, ids=lambda place: f"{place[1]}.{place[2]}")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_differences_are_the_declared_ones(adapter, place):
    impl = adapter(*place)
    cases = [case for case in load() if case["op"] in impl.ops]
    report = run(impl, cases, isolate=False)
    wrong = {r.id: r.says for r in report.results if r.outcome not in ("pass", "n/a", "suspect")}
    assert wrong.keys() <= KNOWN[place], wrong
    for op in impl.ops:
        assert any(r.outcome == "pass" for r in report.results if r.op == op), op


@pytest.mark.parametrize("place", TAKEN, ids=lambda place: f"{place[1]}.{place[2]}")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_wrong_input_that_is_taken_is_the_listed_one(adapter, place, monkeypatch):
    impl = adapter(*place)
    assert "refuses" in impl.lacking
    monkeypatch.setattr(impl, "lacking", impl.lacking - {"refuses"})
    cases = [case for case in stored() if case["op"] in impl.ops and "refuses" in case["needs"]]
    results = run(impl, cases, isolate=False).results
    taken = {r.id for r in results if r.word == "accepted"}
    listed = {f"{op}.{name}" for op, names in TAKEN[place].items() for name in names}
    assert taken <= listed
    assert all(r.outcome in ("pass", "n/a") for r in results if r.id not in taken)
    # The page names the versions that were looked at; others may refuse more.
    assert taken == listed or f" {impl.version}" not in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("place", [p for p in KNOWN if p[2] == "impl"], ids=lambda place: place[1])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_declarations_are_needed(adapter, place, monkeypatch):
    impl = adapter(*place)
    ours = dict.fromkeys(("division", "requant"), "exact")
    if all(impl.choices[key] == value for key, value in ours.items()):
        return
    monkeypatch.setattr(impl, "choices", {**impl.choices, **ours})
    ops = {"quantize", "project", "quantized_conv2d"} & impl.ops.keys()
    report = run(impl, [case for case in load() if case["op"] in ops], isolate=False)
    failed = {r.op for r in report.results if r.outcome == "fail"}
    assert ops & {"quantize", "project"} <= failed <= ops


def test_smoke_asks_every_level():
    cases = {case["id"]: case for case in load()}
    assert {"L0", "L1", "L2", "LI"} <= {OPS[cases[one]["op"]].level for one in smoke()}
