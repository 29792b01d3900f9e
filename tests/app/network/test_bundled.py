"""The files of the bundled network: what they hold, and that damaged ones are refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import differs, documented
from training import training_script

from qcp_ref.app.archive import FileError
from qcp_ref.app.network import inference, load_images, load_manifest, load_network

ROOT = Path(__file__).parents[3]
DATA = ROOT / "qcp_ref" / "app" / "data"
NETWORK, IMAGES, MANIFEST = load_network(), load_images(), load_manifest()


def test_manifest_describes_the_arrays():
    for name, stored in (("network.npz", NETWORK), ("images.npz", vars(IMAGES))):
        described = MANIFEST["files"][name]
        assert described["bytes"] == (DATA / name).stat().st_size
        assert list(described["arrays"]) == list(stored)
        for entry, array in stored.items():
            row = described["arrays"][entry]
            assert (
                row["sha256"] == hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            )
            assert (tuple(row["shape"]), row["dtype"]) == (array.shape, str(array.dtype))
    assert MANIFEST["normalization"] == {"mean": inference.MEAN, "std": inference.STD}
    assert (DATA / "network.npz").stat().st_size <= 1.5e6
    assert "Copyright (c) 2017 Zalando SE" in (DATA / "LICENSE-fashion-mnist.txt").read_text()


def test_the_files_are_as_documented():
    said = documented("network.npz")
    names = {re.sub(r"^.*\b(conv|bn)\d?\.", r"<\1>.", name) for name in NETWORK}
    assert names == said.keys()
    assert set(said.values()) == {str(array.dtype) for array in NETWORK.values()}
    shapes = {name: f"{array.dtype} {array.shape}" for name, array in vars(IMAGES).items()}
    assert shapes == documented("images.npz")
    names = {"files": "<file>", "files.<file>.arrays": "<array>", "correct": "<images>"}
    facts = ["training", "provenance.images", "provenance.weights"]
    assert not differs("manifest.json", MANIFEST, names | dict.fromkeys(facts, "<fact>"))


def test_images_are_what_they_should_be():
    assert IMAGES.calibration_images.shape == (1000, 28, 28)
    assert IMAGES.test_images.shape == (2000, 28, 28)
    assert (np.bincount(IMAGES.calibration_labels) == 100).all()
    assert all(value.dtype == np.float32 for value in NETWORK.values())
    seen = {image.tobytes() for image in IMAGES.calibration_images}
    assert not any(image.tobytes() in seen for image in IMAGES.test_images)


@pytest.mark.parametrize(
    ("name", "load"), [("network.npz", load_network), ("images.npz", load_images)]
)
def test_another_hash_is_reported(tmp_path, name, load):
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    load(tmp_path)
    raw = bytearray((tmp_path / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=rf"{name}: expected the SHA-256 .* of manifest.json, got"):
        load(tmp_path)


def drop(*path):
    """Return a change that takes one key out of a manifest."""

    def change(document):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def put(value, *path):
    """Return a change that puts a value into a manifest."""

    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


ARRAYS = ("files", "network.npz", "arrays")
BIAS = (*ARRAYS, "linear.bias")


@pytest.mark.parametrize(
    "change",
    [
        *(drop(*path) for path in (ARRAYS[:1], ARRAYS[:2], ARRAYS, BIAS, (*BIAS, "shape"))),
        *(put(3, *path) for path in (ARRAYS[:1], ARRAYS[:2], ARRAYS, BIAS, (*BIAS, "sha256"))),
        *(put(value, *BIAS, "shape") for value in ([11], [10, 1], [-10], ["10"], 10**5, [2**60])),
        *(put(value, *BIAS, "dtype") for value in ("int32", "float64", "object", "banana", 3)),
        put("0" * 64, *BIAS, "sha256"),
        put({"dtype": "int8", "shape": [1], "sha256": ""}, *ARRAYS, "one more"),
    ],
)
def test_a_manifest_that_describes_something_else_is_refused(tmp_path, change):
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    document = json.loads((DATA / "manifest.json").read_text())
    change(document)
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(FileError, match=str(tmp_path)):
        load_network(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": NaN}', '{"files": {}, "files": {}}'])
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.json").write_text(text)
    for load in (load_manifest, load_network, load_images):
        with pytest.raises(FileError, match=r"manifest\.json"):
            load(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "network.npz"])
def test_a_file_that_is_not_there_or_is_a_folder(tmp_path, name):
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_network(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(FileError, match=f"{name}: expected a file, got a folder"):
        load_network(tmp_path)


def test_archives_are_reproducible(tmp_path):
    script = training_script()
    for name in ("a.npz", "b.npz"):
        described = script.write_npz(tmp_path / name, {"x": np.arange(5), "y": np.eye(2)})
        assert described["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_json_keeps_the_manifest_readable():
    assert json.loads((DATA / "manifest.json").read_text()) == load_manifest(str(DATA))
