"""What is the bundled network? Its files: weights, images and a manifest that describes them.

A stem of 16 channels, three residual blocks of two 3x3 convolutions, a classifier of 10 outputs,
for images of Fashion-MNIST. scripts/train_network.py trained it and wrote the files in
qcp_ref/app/data.

Checked by tests/app/network/test_bundled.py.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array
from qcp_ref.app.archive import Archive, FileError, entry, parse, read_file, refusing

__all__ = ["KERNELS", "Images", "Kernel", "Network", "load_images", "load_manifest", "load_network"]

Floats: TypeAlias = NDArray[Any]
Bytes: TypeAlias = NDArray[np.uint8]
# Weights and batch-norm numbers by name, as in PyTorch's state_dict. Inference runs in their dtype.
Network: TypeAlias = Mapping[str, Floats]


class Kernel(NamedTuple):
    """Where a convolution stands: what its cost depends on besides its weights."""

    stride: int
    padding: int
    input_size: tuple[int, int]


#: The convolutions that are compressed. The stem stays dense.
KERNELS: Mapping[str, Kernel] = {
    "block1.conv1": Kernel(2, 1, (28, 28)),
    "block1.conv2": Kernel(1, 1, (14, 14)),
    "block2.conv1": Kernel(2, 1, (14, 14)),
    "block2.conv2": Kernel(1, 1, (7, 7)),
    "block3.conv1": Kernel(1, 1, (7, 7)),
    "block3.conv2": Kernel(1, 1, (7, 7)),
}
CONVOLUTIONS = {"stem.conv": Kernel(1, 1, (28, 28)), **KERNELS}


@dataclass(frozen=True, eq=False)
class Images:
    """The bundled Fashion-MNIST images, and PyTorch's logits of the first test images."""

    calibration_images: Bytes
    calibration_labels: Bytes
    test_images: Bytes
    test_labels: Bytes
    logits: NDArray[np.float32]
    logits64: Array


def load_manifest(path: str | Path | None = None) -> dict[str, Any]:
    """Return hashes, accuracies, provenance and licences from the manifest in a folder.

    Parameters
    ----------
    path : path, optional
        A folder written by scripts/train_network.py; by default the one in the package.

    Returns
    -------
    dict
        The contents of manifest.json.

    Raises
    ------
    FileError, OSError
        If it is no JSON object, or cannot be opened.
    """
    where = _folder(path).joinpath("manifest.json")
    return parse(read_file(where), where)


def load_network(path: str | Path | None = None) -> dict[str, Floats]:
    """Return the weights in float32.

    Parameters
    ----------
    path : path, optional
        A folder written by scripts/train_network.py; by default the one in the package.

    Returns
    -------
    dict of str to ndarray
        ``<layer>.weight``, ``<layer>.bias``, ``<layer>.running_mean``, ``<layer>.running_var``.

    Raises
    ------
    FileError, OSError
        If the file is not the one that the manifest describes, or cannot be opened.
    """
    return _read("network.npz", path)


def load_images(path: str | Path | None = None) -> Images:
    """Return calibration and test images with their labels.

    Parameters
    ----------
    path : path, optional
        A folder written by scripts/train_network.py; by default the one in the package.

    Returns
    -------
    Images
        1,000 calibration images (training set), 2,000 test images.

    Raises
    ------
    FileError, OSError
        If the file is not the one that the manifest describes, or cannot be opened.
    """
    return Images(**_read("images.npz", path))


def _folder(path: str | Path | None) -> Traversable:
    return resources.files("qcp_ref").joinpath("app", "data") if path is None else Path(path)


def _read(name: str, path: str | Path | None) -> dict[str, Floats]:
    """Read an archive whose hash is the manifest's."""
    where = _folder(path).joinpath(name)
    raw, manifest = read_file(where), load_manifest(path)
    with refusing(_folder(path).joinpath("manifest.json")):
        said = manifest["files"][name]
        entries = {key: entry(array, where) for key, array in said["arrays"].items()}
        expected = said["sha256"]
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise FileError(
            f"{where}: expected the SHA-256 {expected} of manifest.json, got {found}; the file is "
            "damaged or belongs to another manifest, install the package again"
        )
    return Archive(raw, where).arrays(entries)
