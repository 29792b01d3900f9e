"""What is read is what was written, or one error says what is wrong.

A file may be cut off, damaged, of another kind or made to hurt. Sizes are therefore checked before
anything is unpacked: those of the file, of the zip directory, and of the arrays as a description
(JSON, in the archive or beside it) announces them. Then each array has to have the announced type,
shape and SHA-256. JSON of our own carries a SHA-256 of itself. Nothing is unpickled, nothing is
unpacked to the disk.

Checked by tests/app/test_archive.py.
"""

import io
import json
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources.abc import Traversable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LIMIT",
    "MANIFEST",
    "Archive",
    "Entry",
    "FileError",
    "describe",
    "entry",
    "pack",
    "parse",
    "read_file",
    "record",
    "refusing",
    "seal",
    "unseal",
]

LIMIT = 2**26  # bytes of a file, and of all that it unpacks to
MANIFEST = "manifest.json"
_MANIFEST_LIMIT, _MEMBERS, _HEADER = 2**22, 10_000, 2**12
_TYPES = ("int8", "uint8", "int16", "uint16", "float32", "float64")
_END = 22  # bytes of a zip file's last record, which has no comment here


class FileError(ValueError):
    """A file is not what it should be: the message names it, and says what is wrong with it."""


class Entry(NamedTuple):
    """What a description says of an array."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def nbytes(self) -> int:
        """Size of the numbers in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@contextmanager
def refusing(where: object) -> Iterator[None]:
    """Turn whatever a library complains about into the one error."""
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Exception as problem:
        says = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise FileError(f"{where}: damaged ({says:.200}); get or write the file again") from problem


def read_file(where: Traversable, limit: int = LIMIT) -> bytes:
    """Return the bytes of a file that is none too large; OSError if it cannot be opened."""
    if isinstance(where, Path) and not stat.S_ISREG(where.stat().st_mode):
        what = "a folder" if where.is_dir() else "a device or a pipe"
        raise FileError(f"{where}: expected a file, got {what}; give the path of the file")
    with where.open("rb") as stream:
        raw: bytes = stream.read(limit + 1)
    if len(raw) > limit:
        raise FileError(f"{where}: expected at most {limit:,} bytes, got more; raise the limit")
    return raw


# --- JSON -----------------------------------------------------------------------------------------


def parse(raw: bytes, where: object) -> dict[str, Any]:
    """Return a JSON object without repeated keys, NaN or infinities."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FileError(f"{where}: a key is repeated; get or write the file again")
        return found

    with refusing(where):
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(document, allow_nan=False)
    if not isinstance(document, dict):
        raise FileError(f"{where}: expected a JSON object, got {type(document).__name__}")
    return document


def seal(kind: str, version: int, document: Mapping[str, Any]) -> dict[str, Any]:
    """Add kind, version, and the SHA-256 of everything but itself."""
    full = {"format": kind, "version": version, **document}
    return {**full, "sha256": _digest(full)}


def unseal(raw: bytes, kind: str, version: int, where: object) -> dict[str, Any]:
    """Return a document that :func:`seal` has sealed, without its seal."""
    document = parse(raw, where)
    found, number = document.get("format"), document.get("version")
    if found != kind:
        raise FileError(f"{where}: expected the format {kind!r}, got {found!r:.50}; write it again")
    if type(number) is not int or number != version:
        newer = type(number) is int and number > version
        advice = "install a newer qcp_ref" if newer else "write it again"
        raise FileError(f"{where}: expected version {version}, got {number!r:.50}; {advice}")
    said = document.pop("sha256", None)
    if said != _digest(document):
        raise FileError(
            f"{where}: its SHA-256 is not the one that it names; it is damaged or was changed by "
            "hand, write it again"
        )
    del document["format"], document["version"]
    return document


def record(value: Any, types: Mapping[str, type], where: object) -> dict[str, Any]:
    """Return a JSON object that has these keys with values of these types, and no others."""
    if not isinstance(value, dict) or value.keys() != types.keys():
        got = str(sorted(value)) if isinstance(value, dict) else type(value).__name__
        says = f"expected the keys {sorted(types)}, got {got:.200}"
        raise FileError(f"{where}: {says}; write it again")
    for key, wanted in types.items():
        if type(value[key]) is not wanted:
            got = type(value[key]).__name__
            raise FileError(f"{where}: {key}: expected {wanted.__name__}, got {got}")
    return value


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)  # in its order
    return sha256(text.encode("ascii")).hexdigest()


# --- arrays ---------------------------------------------------------------------------------------


def describe(array: NDArray[Any]) -> dict[str, Any]:
    """Return type, shape and SHA-256 of an array's bytes in C order, little-endian."""
    raw = _portable(array).tobytes()
    shape = list(array.shape)
    return {"dtype": array.dtype.name, "shape": shape, "sha256": sha256(raw).hexdigest()}


def entry(value: Any, where: object) -> Entry:
    """Read what :func:`describe` wrote."""
    said = record(value, {"dtype": str, "shape": list, "sha256": str}, where)
    if said["dtype"] not in _TYPES:
        raise FileError(f"{where}: expected a type among {_TYPES}, got {said['dtype']!r:.50}")
    sides = said["shape"]
    if len(sides) > 8 or not all(type(side) is int and 0 < side <= 2**48 for side in sides):
        raise FileError(f"{where}: expected a shape of positive sides, got {sides!r:.100}")
    return Entry(said["dtype"], tuple(sides), said["sha256"])


def pack(arrays: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> bytes:
    """Return an npz archive with a manifest as its first member, the same bytes each time."""
    stream = io.BytesIO()
    members = {MANIFEST: json.dumps(manifest, indent=1, allow_nan=False).encode("ascii")}
    for name, array in arrays.items():
        part = io.BytesIO()
        np.lib.format.write_array(part, _portable(array), version=(1, 0), allow_pickle=False)
        members[f"{name}.npy"] = part.getvalue()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, raw in members.items():
            archive.writestr(zipfile.ZipInfo(name), raw, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


class Archive:
    """An npz archive in memory, of which the directory has been checked.

    Parameters
    ----------
    raw : bytes
        The file.
    where : object
        What messages call it.
    limit : int
        Bytes that all of its members may have together.

    Raises
    ------
    FileError
        If it is no archive from the first to the last byte, or is too large.
    """

    def __init__(self, raw: bytes, where: object, limit: int = LIMIT) -> None:
        end = raw[-_END:]
        count, size, start = (
            int.from_bytes(end[low:high], "little") for low, high in ((10, 12), (12, 16), (16, 20))
        )
        zip64 = raw[-_END - 20 : -_END].startswith(b"PK\x06\x07")
        whole = raw.startswith(b"PK\x03\x04") and end.startswith(b"PK\x05\x06") and not zip64
        if not whole or start + size != len(raw) - _END:
            found = "nothing" if not raw else "something else, a part of one, or one with additions"
            raise FileError(f"{where}: expected an npz archive, got {found}; get or write it again")
        if count > _MEMBERS:
            raise FileError(f"{where}: expected at most {_MEMBERS:,} members, got {count:,}")
        with refusing(where):
            self._archive = zipfile.ZipFile(io.BytesIO(raw))
            listed = self._archive.infolist()
        self._members = {info.filename: info for info in listed}
        self._where = where
        if len(self._members) != len(listed):
            raise FileError(f"{where}: a member is there twice; get or write the file again")
        total = sum(info.file_size for info in listed)
        if total > limit:
            raise FileError(
                f"{where}: expected at most {limit:,} bytes unpacked, got {total:,}; raise the "
                "limit if you trust the file"
            )

    def manifest(self) -> bytes:
        """Return the member with the description."""
        if MANIFEST not in self._members:
            raise FileError(
                f"{self._where}: has no {MANIFEST}; it is of another kind or of an earlier state "
                "of qcp_ref, write it again"
            )
        if self._members[MANIFEST].file_size > _MANIFEST_LIMIT:
            raise FileError(f"{self._where}: {MANIFEST} has more than {_MANIFEST_LIMIT:,} bytes")
        return self._read(MANIFEST)

    def arrays(self, entries: Mapping[str, Entry]) -> dict[str, NDArray[Any]]:
        """Return the arrays that are described; there may be no others."""
        said_names = {f"{name}.npy" for name in entries}
        stored = self._members.keys() - {MANIFEST}
        for names, what in ((said_names - stored, "missing"), (stored - said_names, "too many")):
            if names:
                raise self._wrong(min(names), f"is {what}")
        for name, said in entries.items():
            header = self._members[f"{name}.npy"].file_size - said.nbytes
            if not 0 < header <= _HEADER:
                raise self._wrong(name, f"expected {said.nbytes:,} bytes and a header")
        return {name: self._array(name, said) for name, said in entries.items()}

    def _array(self, name: str, said: Entry) -> NDArray[Any]:
        stream = io.BytesIO(self._read(f"{name}.npy"))
        with refusing(f"{self._where}: {name!r:.100}"):
            version = np.lib.format.read_magic(stream)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        little = np.dtype(said.dtype).newbyteorder("<")
        if version != (1, 0) or (shape, fortran, dtype) != (said.shape, False, little):
            raise self._wrong(name, f"expected {said.dtype} {said.shape}, got {dtype} {shape}")
        raw = stream.read()
        if len(raw) != said.nbytes or sha256(raw).hexdigest() != said.sha256:
            raise self._wrong(name, "its SHA-256 is not that of its description")
        return np.frombuffer(raw, little).reshape(shape).astype(said.dtype)

    def _read(self, member: str) -> bytes:
        info = self._members[member]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._wrong(member, "expected a stored or deflated member")
        with refusing(f"{self._where}: {member!r:.100}"), self._archive.open(info) as stream:
            raw = stream.read(info.file_size + 1)  # at the end zipfile compares the CRC
            if len(raw) != info.file_size:
                raise EOFError(f"expected {info.file_size} bytes, got {len(raw)}")
            return raw

    def _wrong(self, name: str, what: str) -> FileError:
        return FileError(f"{self._where}: {name!r:.100}: {what}; get or write the file again")


def _portable(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in C order and little-endian."""
    return np.require(array, array.dtype.newbyteorder("<"), "C")
