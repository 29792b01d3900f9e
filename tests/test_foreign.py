"""Implementations of others, held to the definitions; where they differ, exactly as declared."""

import sys
from pathlib import Path

import pytest

from qcp_ref.conformance import run
from qcp_ref.conformance.spec import OPS
from qcp_ref.conformance.vectors import load, smoke

sys.path.insert(0, str(Path(__file__).parent / "foreign"))

# The choices that each declares, and the cases in which it is known to differ beyond them.
KNOWN = {
    ("torch", "torch_adapter", "impl"): set(),
    # Product and zero point are fused into one rounding where the processor can do that.
    ("torch", "torch_adapter", "quantizer"): {"quantize.near-ties.zero"},
    ("onnxruntime", "onnxruntime_adapter", "impl"): set(),
    ("tensorly", "tensorly_adapter", "impl"): set(),
}


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
