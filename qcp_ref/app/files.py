"""Files that are either whole or not there: written under a temporary name, then renamed."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from qcp_ref.grid import Grid
from qcp_ref.qcp import QuantizedCP

__all__ = ["load_compressed", "save_compressed", "write_atomically", "write_json"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file, then put it in its place; leave nothing on failure."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file; numbers that JSON does not know (NaN, infinity) are refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def save_compressed(path: Path, layers: Mapping[str, QuantizedCP]) -> Path:
    """Store codes, scales and grids of several layers in one npz archive.

    Entries are called ``<layer>.code<n>``, ``<layer>.scale<n>`` and ``<layer>.grid`` (the fields of
    the grid as text, in their order).
    """
    arrays: dict[str, Any] = {}
    for name, q in layers.items():
        for n, (k, s) in enumerate(zip(q.codes, q.scales, strict=True)):
            arrays[f"{name}.code{n}"], arrays[f"{name}.scale{n}"] = k, s
        arrays[f"{name}.grid"] = np.array([str(field) for field in astuple(q.grid)])
    return write_atomically(path, lambda part: np.savez_compressed(part, **arrays))


def load_compressed(path: Path) -> dict[str, QuantizedCP]:
    """Read what :func:`save_compressed` wrote; codes off the grid, scales below 0 are refused."""
    layers = {}
    with np.load(path, allow_pickle=False) as archive:
        for entry in archive.files:
            if not entry.endswith(".grid"):
                continue
            name = entry.removesuffix(".grid")
            bits, kind, *flags = (str(value) for value in archive[entry])
            signed, narrow, mid_rise = (flag == "True" for flag in flags)
            grid = Grid(int(bits), kind=kind, signed=signed, narrow=narrow, mid_rise=mid_rise)
            modes = sum(other.startswith(f"{name}.code") for other in archive.files)
            layers[name] = QuantizedCP(
                [archive[f"{name}.code{n}"] for n in range(modes)],
                [archive[f"{name}.scale{n}"] for n in range(modes)],
                grid,
            )
    return layers
