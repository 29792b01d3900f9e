"""The suite itself: its files, its truth, and how much it sees."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcp_ref.conformance import spec
from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.cases import make, truth, vectors
from qcp_ref.conformance.cases.algebra import families as algebra_families
from qcp_ref.conformance.cases.grids import families as grid_families
from qcp_ref.conformance.cases.integer import families as integer_families
from qcp_ref.conformance.cases.layers import families as layer_families
from qcp_ref.conformance.dyadic import SplitMix64, canonical
from qcp_ref.conformance.faults import careless, catalogue, controls, matrix, plain, runs, solvers
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.reference import numpy_adapter, numpy_adapter_f32
from qcp_ref.conformance.running import worker
from qcp_ref.conformance.running.session import run

DATA = Path(spec.__file__).parent / "data" / "v0"
ROOT = Path(__file__).parents[2]
CASES = vectors.load()


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_are_written_again_byte_for_byte(tmp_path):
    # In another process, with another order of sets and dictionaries of text.
    code = "import sys; from qcp_ref.conformance.cases.vectors import write; write(sys.argv[1])"
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_bytes() for path in DATA.glob("*.json")}
    stored.pop("kills.json")
    assert written == stored


def test_sizes_and_ids():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_500_000
    assert max(path.stat().st_size for path in DATA.iterdir()) < 200_000
    ids = [case["id"] for case in CASES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9-]+)+", one) for one in ids)


def test_cases_use_known_words():
    for case in CASES:
        assert case["op"] in spec.OPS, case["id"]
        assert set(case["needs"]) <= set(spec.CAPABILITIES), case["id"]
        assert set(case["in"]) == set(spec.OPS[case["op"]].arrays), case["id"]
        assert set(case["options"]) == set(spec.OPS[case["op"]].options), case["id"]
        assert case["id"].startswith(case["op"] + ".")
        assert case["says"]
        for other in case.get("when", ()):
            assert other["out"] != case["out"]
            for key, value in other["declared"].items():
                assert value in spec.CHOICES[key]


def test_every_operation_has_cases():
    assert {case["op"] for case in CASES} == set(spec.OPS)


def test_operations_cite_equations_that_exist():
    labels = set()
    for page in sorted((ROOT / "docs" / "theory").rglob("*.rst")):
        labels |= set(re.findall(r":label: +(\S+)", page.read_text(encoding="utf-8")))
    assert {op.equation for op in spec.OPS.values()} <= labels
    assert {op.level for op in spec.OPS.values()} == set(spec.LEVELS)


def test_damaged_files_are_refused(monkeypatch):
    read = vectors._read
    monkeypatch.setattr(vectors, "_read", lambda name: read(name) + " " * (name == "conv.json"))
    vectors._families.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"conv\.json is damaged"):
            vectors.load()
    finally:
        vectors._families.cache_clear()


def test_versions():
    assert vectors.load("0.1") == CASES
    with pytest.raises(ValueError, match="suite"):
        vectors.load("7.0")


# --- truth ----------------------------------------------------------------------------------------


@given(st.fractions(), st.integers(-160, 140))
def test_rounding_to_float32_is_that_of_the_machine(x, e):
    x = x * Fraction(2) ** e
    if abs(x) < 2**120:
        with np.errstate(under="ignore"):
            # Through float64 it would be rounded twice: compare only where that is harmless.
            if Fraction(float(x)) == x:
                assert truth.float32(x) == Fraction(float(np.float32(float(x))))


@pytest.mark.slow
def test_the_book_passes_every_level():
    report = run(numpy_adapter, CASES, isolate=False)
    assert report.ok, [r for r in report.results if r.outcome == "fail"][:3]
    # Of each level all that is stored was asked; recipes take longer, and are sampled elsewhere.
    assert replace(report, whole={}).levels == list(spec.LEVELS)
    assert report.levels == ["L4"]


@pytest.mark.slow
def test_the_book_in_float32():
    report = run(numpy_adapter_f32, CASES, isolate=False)
    assert report.ok
    assert replace(report, whole={}).levels == ["L2"]


@pytest.mark.parametrize("op", ["conv2d", "quantize", "mttkrp", "gram", "cp_conv2d"])
def test_plain_implementations_are_right_on_other_numbers(op):
    assert op in plain.RIGHT
    adapter = Adapter("plain")
    adapter.ops[op] = plain.RIGHT[op]
    sizes = {"x": (1, 2, 4, 5), "W": (3, 2, 2, 3), "a_out": (3, 2), "a_in": (2, 2)}
    sizes |= {"a_kernel": (6, 2), "X": (2, 3, 4)}
    geometry = {"stride": [2, 1], "padding": [1, 0, 2, 1], "dilation": [1, 2]}
    for seed in range(20):
        rng = SplitMix64(seed)
        inputs = {key: rng.integers(sizes.get(key, (2, 3)), -9, 9) for key in spec.OPS[op].arrays}
        inputs |= {"scale": 2, "zero_point": 1} if op == "quantize" else {}
        if "bias" in inputs:
            inputs["bias"] = rng.integers((3,), -9, 9)
        if "factors" in inputs:
            inputs["factors"] = [rng.integers((side, 2), -9, 9) for side in (2, 3, 4)]
        options = {"kernel_size": [2, 3], "mode": 1, "qmin": -8, "qmax": 7, **geometry}
        options = {key: options[key] for key in spec.OPS[op].options}
        case = make.make(op, f"drawn-{seed}", "drawn", ["Sanity"], inputs, options)
        found = judge(case, execute(adapter, case)["out"], adapter.hello())
        assert found.outcome == "pass", (case["id"], found)


# --- strength -------------------------------------------------------------------------------------


def test_gates(found):
    assert matrix.gates(found) == []


def test_stored_strength_is_what_is_found(found):
    stored = {"kills": found.kills, "needs": found.needs, "smoke": matrix.smoke(found.kills)}
    assert (DATA / "kills.json").read_text() == canonical(stored) + "\n"
    assert vectors.kills() == found.kills
    assert vectors.smoke() == stored["smoke"]


def test_gates_see_what_they_are_for(found):
    fault = found.faults[0]
    weak = found._replace(
        kills={**found.kills, fault.id: found.kills[fault.id][:1]},
        twins=[("A", "B")],
        alarms=["control: case"],
        idle=["case"],
    )
    assert matrix.gates(weak) == [
        f"{fault.id}: killed by 1 cases, expected 2",
        "A, B: no case tells them apart",
        "control: case: a correct variant is accused",
        "case: kills nothing",
    ]


def test_catalogue(found):
    every = (*catalogue.FAULTS, *solvers.FAULTS, *runs.FAULTS, *careless.FAULTS)
    assert matrix.every_fault() == every
    ids = [fault.id for fault in every]
    assert len(set(ids)) == len(ids)
    assert {fault.op for fault in found.faults} <= set(spec.OPS)
    lines = matrix.table(found).splitlines()
    assert len(lines) == len(ids)
    assert not {one.op for one in controls.CONTROLS} - set(spec.OPS)


def test_a_twin_is_no_separation():
    own = [case for case in CASES if case["op"] == "gram"]
    one = next(fault for fault in catalogue.FAULTS if fault.op == "gram")
    twin = one._replace(id="twin")
    seen = matrix.matrix(own, [one, twin], [])
    assert seen.twins == [(one.id, "twin")]


def test_families_come_in_the_files(monkeypatch):
    monkeypatch.setattr(make, "outcomes", lambda *_: ({}, []))  # names do not depend on the truth
    every = (grid_families, algebra_families, layer_families, integer_families)
    names = [name for families in every for name, _ in families()]
    assert len(set(names)) == len(names)
    assert {f"{name}.json" for name in names} <= {path.name for path in DATA.iterdir()}


def test_worker_answers_lines():
    requests = [
        '{"qcp": 1, "hello": 1}',
        canonical({"id": 7, **{k: CASES[0][k] for k in ("op", "in", "options")}}),
    ]
    hello, answer = (json.loads(line) for line in worker.answers(numpy_adapter, requests))
    assert hello["name"] == numpy_adapter.name
    assert answer["id"] == 7
