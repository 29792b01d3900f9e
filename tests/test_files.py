"""Files are whole or absent, and read back what was written."""

import json
import re

import numpy as np
import pytest
from support import documented

from qcp_ref import Grid, QuantizedCP, quantize_cp, random_cp
from qcp_ref.app.files import load_compressed, save_compressed, write_atomically, write_json


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": [1, 2.5], "y": "z"})
    assert json.loads(path.read_text()) == {"x": [1, 2.5], "y": "z"}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text())["y"] == "z"


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_json(tmp_path / "a.json", 1)

    def broken(part):
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, broken)
    assert path.read_text() == "1\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize(
    "grid",
    [
        Grid(4),
        Grid(9, narrow=True),
        Grid(2, mid_rise=True),
        Grid(3, kind="log2"),
        Grid(3, signed=False),
    ],
)
def test_compressed_layers_come_back_exactly(tmp_path, grid, axis):
    layers = {
        "block1.conv1": quantize_cp(random_cp((4, 3, 9), 2, rng=1), grid, axis=axis),
        "linear": quantize_cp(random_cp((5, 6), 3, rng=2), grid, axis=axis),
    }
    stored = load_compressed(save_compressed(tmp_path / "a.npz", layers))
    assert stored.keys() == layers.keys()
    for name, q in layers.items():
        other = stored[name]
        assert other.grid == q.grid
        for a, b in zip((*q.codes, *q.scales), (*other.codes, *other.scales), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


@pytest.mark.parametrize("grid", [Grid(4), Grid(9), Grid(4, signed=False), Grid(9, signed=False)])
def test_entries_are_as_documented(tmp_path, grid):
    said = documented("compressed.npz")
    q = quantize_cp(random_cp((4, 3, 9), 2, rng=1), grid, axis=1)
    found = {}
    with np.load(save_compressed(tmp_path / "a.npz", {"conv": q})) as archive:
        for name in archive.files:
            key = re.sub(r"\d$", "<n>", name.replace("conv.", "<layer>."))
            found.setdefault(key, set()).add(archive[name].dtype.name.rstrip("0123456789"))
            kind = archive[name].dtype
            assert ("str" if kind.kind == "U" else kind.name) in said[key].split(", ")
        assert archive["conv.code1"].shape == (3, 2)
        assert archive["conv.scale1"].shape == (1, 2)
        assert archive["conv.grid"].shape == (5,)
    assert found.keys() == said.keys()


def test_codes_off_the_grid_are_refused_on_reading(tmp_path):
    path = tmp_path / "a.npz"
    good = QuantizedCP([np.ones((2, 1), int), np.ones((3, 1), int)], [1.0, 1.0], Grid(3))
    save_compressed(path, {"a": good})
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["a.code0"] = arrays["a.code0"] * 9
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="codes from -4 to 3"):
        load_compressed(path)
