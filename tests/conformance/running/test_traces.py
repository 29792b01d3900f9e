"""Stored runs are the book's; a port that leaves them is told where."""

import sys
from pathlib import Path

import numpy as np
import pytest

from qcp_ref.conformance.__main__ import main
from qcp_ref.conformance.running.traces import RUNS, compare, load_trace, stored_bounds, verdict

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
import make_traces


def test_the_stored_runs_are_those_of_the_script():
    for name, *problem in make_traces.cases():
        trace = dict(make_traces.trace(*problem))
        stored, _ = stored_bounds(name)
        assert list(trace) == list(stored)
        run, compared, departure = compare(trace)
        assert (run, departure) == (name, None) and len(compared) == len(stored) - 1


def test_together_they_are_small():
    folder = make_traces.FOLDER
    assert {path.stem for path in folder.iterdir()} == set(RUNS)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000


def test_bounds_are_small_and_codes_are_exact():
    for run in RUNS:
        stored, limits = stored_bounds(run)
        for name, value in stored.items():
            if value.dtype.kind == "i":
                assert limits[name] == 0
            elif name != "X":
                assert 0 < limits[name] < 1e-8 * np.linalg.norm(value) + 1e-8, name


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("quantity", ["als/1/2/factor", "epc/1/error", "admm/0/1/1/T",
                                      "admm/1/2/0/codes", "polish/1/codes-0"])  # fmt: skip
def test_the_first_departure_is_named(tmp_path, run, quantity, capsys):
    stored, _ = stored_bounds(run)
    place = [*stored].index(quantity)
    changed = dict(stored)
    for name in [*stored][place:]:  # all that follows is wrong, too
        changed[name] = stored[name] + (1 if stored[name].dtype.kind == "i" else 1e-6)
    assert compare(changed)[2].name == quantity
    np.savez(tmp_path / "port.npz", **changed)
    assert main(["--trace", str(tmp_path / "port.npz")]) == 1
    shown = capsys.readouterr().out
    assert quantity in shown and [*stored][place - 1] in shown


def test_parts_of_a_run_and_wrong_ones(tmp_path):
    stored, _ = stored_bounds("tiny")
    part = {name: stored[name] for name in ("X", "admm/0/0/rho", "admm/0/0/0/T")}
    assert compare(part) == ("tiny", ["admm/0/0/rho", "admm/0/0/0/T"], None)
    shape = compare({**part, "admm/0/0/0/T": np.zeros(3)})[2]
    assert shape.distance == np.inf and "shape (3,)" in shape.says
    nan = compare({**part, "admm/0/0/rho": np.array(np.nan)})[2]
    assert nan.says == "NaN or infinity"
    with pytest.raises(ValueError, match="tensor 'X'"):
        compare({"admm/0/0/rho": 1.0})
    with pytest.raises(ValueError, match="none of its names"):
        compare({"X": stored["X"], "other": 1.0})
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=r"expected a \.npz file"):
        load_trace(tmp_path / "text.npz")
    assert main(["--trace", str(tmp_path / "none.npz")]) == 2


def test_a_right_trace_is_said_to_be_right():
    assert verdict(make_traces.FOLDER / "tiny.npz")[1].startswith("trace of run 'tiny': all 128")
