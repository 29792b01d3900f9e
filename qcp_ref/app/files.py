"""Files that are either whole or not there: written under a temporary name, then renamed.

Those of one run of the demo lie in a folder of their own, which is renamed as a whole; and
results.json names the SHA-256 of the files beside it. So they belong together, whenever the process
is killed and however many run at a time.

Checked by tests/app/test_files.py.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from numpy.typing import NDArray

from qcp_ref.app.archive import (
    LIMIT,
    Archive,
    FileError,
    describe,
    entry,
    pack,
    read_file,
    record,
    refusing,
    seal,
    unseal,
)
from qcp_ref.factors.quantized import QuantizedCP
from qcp_ref.grids.grid import Grid

__all__ = [
    "FileError",
    "Run",
    "load_compressed",
    "load_run",
    "save_compressed",
    "save_results",
    "write_atomically",
    "write_json",
    "write_run",
]

T = TypeVar("T")
RESULTS, COMPRESSED = "results.json", "compressed.npz"
_FORMATS = {RESULTS: ("qcp_ref demo results", 1), COMPRESSED: ("qcp_ref compressed layers", 1)}
_GRID = {"bits": int, "kind": str, "signed": bool, "narrow": bool, "mid_rise": bool}
_LAYER = {"name": str, "grid": dict, "codes": dict, "scales": dict}
_NAME = 200  # characters of a layer's name


class Run(NamedTuple):
    """What one run of the demo left behind: the contents of results.json, and its layers."""

    results: dict[str, Any]
    layers: dict[str, QuantizedCP]


# --- writing --------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file, then put it in its place; leave nothing on failure.

    A link of that name is replaced; what it points to stays.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)
    return path


def write_run(parent: Path, write: Callable[[Path], T]) -> tuple[Path, T]:
    """Let ``write`` fill a new folder, and call it ``run-<n>``, one more than those that are there.

    One renaming makes it visible with all of its files. Whoever is killed before leaves at most a
    hidden folder ``.unfinished-...``, and never touches another run.
    """
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".unfinished-{secrets.token_hex(8)}"
    try:
        temporary.mkdir()
        result = write(temporary)
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        folder = _renamed(temporary, parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(parent)
    return folder, result


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file; numbers that JSON does not know (NaN, infinity) are refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    return write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def _renamed(temporary: Path, parent: Path) -> Path:
    """Rename a folder to the next free number; another process may be as fast."""
    found = (re.fullmatch(r"run-([1-9]\d{0,8})", path.name) for path in parent.iterdir())
    number = 1 + max((int(match[1]) for match in found if match), default=0)
    while True:
        folder = parent / f"run-{number}"
        try:
            return temporary.rename(folder)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        number += 1


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # some file systems cannot do it for folders
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- compressed layers ----------------------------------------------------------------------------


def save_compressed(
    path: str | Path, layers: Mapping[str, QuantizedCP], *, limit: int = LIMIT
) -> Path:
    """Store codes, scales and grids of several layers in one npz archive.

    Arrays are called ``<layer>.code<n>`` and ``<layer>.scale<n>``, with ``%xx`` for characters of
    the layer's name other than letters, digits and ``_.-~``. Raises ValueError for a name that is
    empty or longer than 200 characters, and for layers that :func:`load_compressed` would refuse.
    """
    arrays: dict[str, NDArray[Any]] = {}
    rows = []
    for name, q in layers.items():
        row: dict[str, Any] = {"name": name, "grid": asdict(q.grid), "codes": {}, "scales": {}}
        for kind, parts in (("code", q.codes), ("scale", q.scales)):
            for n, part in enumerate(parts):
                key = f"{_escaped(name)}.{kind}{n}"
                arrays[key], row[f"{kind}s"][key] = part, describe(part)
        rows.append(row)
    raw = pack(arrays, seal(*_FORMATS[COMPRESSED], {"layers": rows}))
    _layers(raw, path, limit)  # what cannot be read is not written
    return write_atomically(Path(path), lambda part: part.write_bytes(raw))


def load_compressed(path: str | Path, *, limit: int = LIMIT) -> dict[str, QuantizedCP]:
    """Read what :func:`save_compressed` wrote.

    Raises :class:`FileError` for everything else that can be opened, and OSError for what cannot.
    A file of more than ``limit`` bytes, packed or unpacked, is refused before it is unpacked.
    """
    return _layers(read_file(Path(path), limit), path, limit)


def _layers(raw: bytes, where: object, limit: int) -> dict[str, QuantizedCP]:
    archive = Archive(raw, where, limit)
    document = unseal(archive.manifest(), *_FORMATS[COMPRESSED], f"{where}: manifest.json")
    rows = [
        record(row, _LAYER, where) for row in record(document, {"layers": list}, where)["layers"]
    ]
    arrays = archive.arrays(
        {
            key: entry(said, where)
            for row in rows
            for key, said in (row["codes"] | row["scales"]).items()
        }
    )
    layers = {}
    for row in rows:
        grid = record(row["grid"], _GRID, where)
        with refusing(where):
            codes, scales = ([arrays[key] for key in _keys(row, k)] for k in ("code", "scale"))
            layers[row["name"]] = QuantizedCP(codes, scales, Grid(grid.pop("bits"), **grid))
    if len(layers) != len(rows):
        raise FileError(f"{where}: a layer is there twice; get or write the file again")
    return layers


def _keys(row: Mapping[str, Any], kind: str) -> list[str]:
    """Return the names of a layer's arrays, which are those that its own name makes."""
    keys = [f"{_escaped(row['name'])}.{kind}{n}" for n in range(len(row[f"{kind}s"]))]
    if keys != [*row[f"{kind}s"]]:
        raise ValueError(f"expected the arrays {keys}, got {[*row[f'{kind}s']]}")
    return keys


def _escaped(name: str) -> str:
    """Return a layer's name as a part of a member's name."""
    if not isinstance(name, str):
        raise TypeError(f"layers: expected names, got {name!r:.50}")
    with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair
        if 0 < len(name) <= _NAME:
            return quote(name, safe="")
    raise ValueError(
        f"layers: expected names of 1 to {_NAME} characters that UTF-8 has, got {name!r:.50}; "
        "rename the layer"
    )


# --- a run of the demo ----------------------------------------------------------------------------


def save_results(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write results.json into a folder, with the SHA-256 of the files that are there already."""
    files = {
        file.name: {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
        for file in sorted(folder.iterdir())
        for raw in [file.read_bytes()]
    }
    path = folder / RESULTS
    return write_json(path, seal(*_FORMATS[RESULTS], {**results, "files": files}))


def load_run(folder: str | Path, *, limit: int = LIMIT) -> Run:
    """Read results.json and compressed.npz of one run.

    Raises :class:`FileError` if one of them is damaged or they are of different runs, and OSError
    if one is not there.
    """
    where, path = Path(folder) / RESULTS, Path(folder) / COMPRESSED
    results = unseal(read_file(where, limit), *_FORMATS[RESULTS], where)
    raw = read_file(path, limit)
    layers = _layers(raw, path, limit)
    with refusing(where):
        said = results["files"][COMPRESSED]["sha256"]
    if said != sha256(raw).hexdigest():
        raise FileError(
            f"{path}: is not of the same run as {RESULTS} beside it, which names another SHA-256; "
            "take both from one folder, or run the demo again"
        )
    return Run(results, layers)
