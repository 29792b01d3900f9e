"""What is read is what was written, or the one error; damage of every kind, planted faults."""

import io
import json
import os
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import caught

from qcp_ref import Grid, QuantizedCP
from qcp_ref.app import archive, files
from qcp_ref.app.archive import MANIFEST, FileError, parse, seal, unseal
from qcp_ref.app.files import load_compressed, save_compressed

THIS = sys.modules[__name__]
GRIDS = [
    *(Grid(bits) for bits in (1, 2, 4, 8, 9, 16)),
    *(Grid(bits, narrow=True) for bits in (2, 8, 9)),
    *(Grid(bits, mid_rise=True) for bits in (1, 2, 16)),
    *(Grid(bits, signed=False) for bits in (1, 8, 9, 16)),
    *(Grid(bits, kind="log2") for bits in (2, 3, 8)),
    *(Grid(1, kind="binary"), Grid(2, kind="ternary")),
]
# Hostile as part of a file's name, of a path, of an entry's name.
NAMES = ["conv.code_book", "a.code0", "a.grid", "../../etc/passwd", "/", "a/b", "..", ".", "%2F"]
NAMES += ["manifest.json", "Gewicht é", "e\u0301", "層", "\0", "a\nb", " ", "x" * 200]


def layer(shape=(4, 3, 9), rank=2, grid=GRIDS[2], axis=None, seed=1):
    """Quantized factors; of binary grids, too, which no scale rule serves."""
    rng = np.random.default_rng(seed)
    low, high = grid.qmin, grid.qmax
    codes = [rng.integers(low, high + 1, (side, rank)) for side in shape]
    if grid.kind == "binary":
        codes = [np.where(k <= 0, -1, 1) for k in codes]
    scales = {None: (), 0: None, 1: (1, rank)}[axis]
    shapes = [(side, 1) if scales is None else scales for side in shape]
    return QuantizedCP(codes, [rng.random(s) + 2.0**-40 for s in shapes], grid)


def same(a, b):
    """Whether two sets of layers are the same, in their order, bit for bit."""
    return list(a) == list(b) and all(
        p.grid == q.grid
        and len(p.codes) == len(q.codes)
        and all(
            x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
            for x, y in zip((*p.codes, *p.scales), (*q.codes, *q.scales), strict=True)
        )
        for p, q in zip(a.values(), b.values(), strict=True)
    )


def packed(layers):
    with tempfile.TemporaryDirectory() as folder:
        return save_compressed(Path(folder, "a.npz"), layers).read_bytes()


def read(raw, **options):
    """What a file of these bytes holds; None if it is refused by the one error, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "layers.npz")
        path.write_bytes(raw)
        try:
            return load_compressed(path, **options)
        except FileError as refusal:
            said = str(refusal)
            assert said.startswith(str(path)) and "\n" not in said and len(said) < 600
            return None


def members(raw):
    with zipfile.ZipFile(io.BytesIO(raw)) as found:
        return [(info.filename, found.read(info)) for info in found.infolist()]


def zipped(entries, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as target:
        for name, content in entries:
            target.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


SMALL = {"a": layer((2, 3), 1), "b.code0": layer((1, 2, 2), 2, Grid(9, signed=False), 1)}
RAW = packed(SMALL)


def resealed(change, raw=RAW):
    """An archive whose manifest was changed by somebody who knows how it is sealed."""
    entries = dict(members(raw))
    document = json.loads(entries[MANIFEST])
    del document["sha256"]
    change(document)
    kind, version = document.pop("format"), document.pop("version")
    entries[MANIFEST] = json.dumps(seal(kind, version, document)).encode()
    return zipped(entries.items())


def test_what_is_written_comes_back():
    assert same(read(RAW), SMALL)
    assert packed(SMALL) == RAW  # no dates, nothing drawn


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=20)),
        st.tuples(
            st.lists(st.integers(1, 6), min_size=2, max_size=5),
            st.integers(1, 4),
            st.sampled_from(GRIDS),
            st.sampled_from([None, 0, 1]),
        ),
        max_size=4,
    )
)
@example({name: ((2, 1), 1, Grid(4), None) for name in NAMES})
@example({})
@settings(max_examples=60)
def test_all_grids_ranks_axes_and_names_come_back(described):
    try:
        for name in described:
            name.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="rename the layer"):
            packed({name: layer() for name in described})
        return
    layers = {name: layer(*rest) for name, rest in described.items()}
    assert same(read(packed(layers)), layers)


@pytest.mark.parametrize("name", ["", "x" * 201, "\ud800", 3])
def test_names_that_no_file_can_hold_are_refused(name, tmp_path):
    with pytest.raises((ValueError, TypeError), match="layers: expected names"):
        save_compressed(tmp_path / "a.npz", {name: layer()})
    assert list(tmp_path.iterdir()) == []


def test_layers_in_fortran_order_or_read_only_come_back():
    q = layer()
    other = QuantizedCP([np.asfortranarray(k) for k in q.codes], q.scales, q.grid)
    assert same(read(packed({"a": other})), {"a": q})


# --- damage -----------------------------------------------------------------------------------


def test_every_flipped_bit_is_found_or_harmless():
    seen = {"refused": 0, "same": 0}
    for at in range(len(RAW)):
        raw = bytearray(RAW)
        raw[at] ^= 1 << at % 8
        found = read(bytes(raw))
        assert found is None or same(found, SMALL), at
        seen["refused" if found is None else "same"] += 1
    assert seen["refused"] > 4 * seen["same"]  # dates and attributes of the entries do not matter


@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1))
@settings(max_examples=200)
def test_changed_bytes_are_found_or_harmless(changes):
    raw = bytearray(RAW)
    for at, value in changes:
        raw[at] = value
    found = read(bytes(raw))
    assert found is None or same(found, SMALL)


def test_every_truncation_and_every_addition_is_refused():
    for length in range(len(RAW)):
        assert read(RAW[:length]) is None
    for more in (b"\0", b"x" * 100, RAW):
        assert read(RAW + more) is None
        assert read(more + RAW) is None
    commented = bytearray(RAW)
    commented[-2:] = (3).to_bytes(2, "little")
    assert read(bytes(commented) + b"abc") is None


@given(st.data())
def test_entries_that_are_dropped_renamed_swapped_or_added_are_refused(data):
    entries = members(RAW)
    names = st.sampled_from([*(name for name, _ in entries), "x.npy", "../x", "/x", "", "a\0b"])
    at, other = (data.draw(st.integers(0, len(entries) - 1)) for _ in range(2))
    kind = data.draw(st.sampled_from(["drop", "rename", "swap", "double", "add", "order"]))
    (name, content), new = entries[at], data.draw(names)
    if kind == "drop":
        del entries[at]
    elif kind == "rename":
        entries[at] = new, content
    elif kind == "swap":
        entries[at], entries[other] = (name, entries[other][1]), (entries[other][0], content)
    elif kind == "double":
        entries.append(entries[at])
    elif kind == "add":
        entries.append((new, content))
    else:
        entries = data.draw(st.permutations(entries))
    with (
        pytest.warns(UserWarning, match="Duplicate name")
        if double(entries)
        else tempfile.TemporaryDirectory()
    ):
        raw = zipped(
            entries, data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        )
    found = read(raw)
    if dict(entries) == dict(members(RAW)) and not double(entries):
        assert same(found, SMALL)
    else:
        assert found is None


def double(entries):
    return len({name for name, _ in entries}) < len(entries)


OTHERS = {
    "empty": b"",
    "text": b"not an archive",
    "npy": b"\x93NUMPY\x01\x00",
    "an empty zip": zipped([]),
    "numpy's own": None,
    "pickles": None,
    "bzip2": zipped(members(RAW), zipfile.ZIP_BZIP2),
    "lzma": zipped(members(RAW), zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_kinds_are_refused(kind):
    raw, stream = OTHERS[kind], io.BytesIO()
    if kind == "numpy's own":
        np.savez(stream, a=np.ones(3), grid=np.array(["4", "uniform", "banana"]))
    if kind == "pickles":
        np.savez(stream, a=np.array([object], dtype=object))
    assert read(stream.getvalue() if raw is None else raw) is None


CHANGES = {
    "flag": lambda d: d["layers"][0]["grid"].update(signed="banana"),
    "flag as number": lambda d: d["layers"][0]["grid"].update(signed=1),
    "bits": lambda d: d["layers"][0]["grid"].update(bits=99),
    "bits as bool": lambda d: d["layers"][0]["grid"].update(bits=True),
    "kind": lambda d: d["layers"][0]["grid"].update(kind="octal"),
    "finer grid": lambda d: d["layers"][0]["grid"].update(bits=1),
    "no grid": lambda d: d["layers"][0].pop("grid"),
    "another key": lambda d: d["layers"][0].update(x=1),
    "key outside": lambda d: d.update(x=1),
    "name": lambda d: d["layers"][0].update(name="c"),
    "no name": lambda d: d["layers"][0].update(name=""),
    "number as name": lambda d: d["layers"][0].update(name=1),
    "order of factors": lambda d: d["layers"][0].update(
        codes=dict(reversed(d["layers"][0]["codes"].items()))
    ),
    "codes as scales": lambda d: d["layers"][0].update(scales=d["layers"][0]["codes"]),
    "twice": lambda d: d["layers"].append(d["layers"][0]),
    "list of others": lambda d: d.update(layers=[1]),
    "layers as object": lambda d: d.update(layers={}),
    "dtype": lambda d: d["layers"][0]["codes"]["a.code0"].update(dtype="uint8"),
    "object dtype": lambda d: d["layers"][0]["codes"]["a.code0"].update(dtype="object"),
    "shape": lambda d: d["layers"][0]["codes"]["a.code0"].update(shape=[1, 2]),
    "huge shape": lambda d: d["layers"][0]["codes"]["a.code0"].update(shape=[2**40, 2**40]),
    "negative shape": lambda d: d["layers"][0]["codes"]["a.code0"].update(shape=[-2, -1]),
    "float shape": lambda d: d["layers"][0]["codes"]["a.code0"].update(shape=[2.0, 1]),
    "hash": lambda d: d["layers"][0]["codes"]["a.code0"].update(sha256="0" * 64),
    "older": lambda d: d.update(version=0),
    "newer": lambda d: d.update(version=2),
    "true as version": lambda d: d.update(version=True),
    "format": lambda d: d.update(format="qcp_ref demo results"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_descriptions_that_are_wrong_though_sealed_are_refused(change):
    assert read(resealed(CHANGES[change])) is None


def test_what_to_do_with_a_newer_file_is_said(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(resealed(CHANGES["newer"]))
    with pytest.raises(FileError, match=r"a\.npz: .*expected version 1, got 2; install a newer"):
        load_compressed(path)


@pytest.mark.parametrize(
    "text",
    [
        *[
            b"",
            b"[",
            b"[]",
            b"1",
            b'{"a": NaN}',
            b'{"a": 1e999}',
            b'{"a": 1, "a": 1}',
            b"\xff\xfe{}",
        ],
        *[b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1} x', b"\xef\xbb\xbf{}"],
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(FileError, match=r"^here: "):
        parse(text, "here")


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.floats(-1e9, 1e9), st.integers())))
def test_sealed_documents_come_back_and_changed_ones_do_not(document):
    text = json.dumps(seal("kind", 1, {"content": document})).encode()
    assert unseal(text, "kind", 1, "here") == {"content": document}
    for kind, version in (("kin", 1), ("kind", 2)):
        with pytest.raises(FileError, match="expected"):
            unseal(text, kind, version, "here")
    other = json.loads(text)
    other["content"]["one more"] = 1
    changed = json.dumps(other).encode()
    assert refusal(lambda: unseal(changed, "kind", 1, "here")).startswith("here: its SHA-256")


def refusal(act):
    """What the one error says; nothing if there is none."""
    try:
        act()
    except FileError as problem:
        return str(problem)
    return ""


# --- sizes --------------------------------------------------------------------------------------


def bomb(size=200_000_000):
    """An archive that is described rightly and unpacks to so many zeros."""
    said = {"dtype": "int8", "shape": [size, 1], "sha256": "0" * 64}
    raw = resealed(lambda d: d["layers"][0]["codes"].update({"a.code0": said}))
    entries = dict(members(raw))
    header = io.BytesIO()
    described = {"descr": "|i1", "fortran_order": False, "shape": (size, 1)}
    np.lib.format.write_array_header_1_0(header, described)
    entries["a.code0.npy"] = header.getvalue() + bytes(size)
    return zipped(entries.items())


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_does():
    raw = bomb()
    assert len(raw) < 250_000
    began = time.process_time()
    assert read(raw) is None
    assert time.process_time() - began < 0.1  # unpacking alone takes more


def test_sizes_that_the_directory_belies_are_found():
    raw = bytearray(bomb(3_000_000))
    place = raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"a.code0.npy"))
    for size in (100, 3_000_000 - 1, 2**32 - 2):
        raw[place + 24 : place + 28] = struct.pack("<I", size)
        assert read(bytes(raw)) is None


def test_the_limit_counts_for_the_file_and_for_what_it_unpacks_to():
    layers = {"a": layer((3000, 2000), 1, Grid(1, signed=False))}
    raw = packed(layers)
    total = sum(len(content) for _, content in members(raw))
    assert len(raw) < total
    assert same(read(raw, limit=total), layers)
    assert read(raw, limit=total - 1) is None
    assert read(raw, limit=len(raw) - 1) is None


def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(FileError, match="expected at most 500 bytes unpacked"):
        save_compressed(tmp_path / "a.npz", {"a": layer()}, limit=500)
    assert list(tmp_path.iterdir()) == []


def test_too_many_members_are_refused():
    assert read(zipped([(str(n), b"") for n in range(10_001)])) is None
    many = bytearray(RAW)
    many[-14:-10] = b"\xff\xff\xff\xff"  # as in zip64
    assert read(bytes(many)) is None


# --- what is no file --------------------------------------------------------------------------


def test_what_cannot_be_opened_says_so_as_ever(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_compressed(tmp_path / "none.npz")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        load_compressed(loop)


def test_folders_and_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path, "a folder"), (tmp_path / "pipe", "a device or a pipe")):
        with pytest.raises(FileError, match=f"{path}: expected a file, got {what}"):
            load_compressed(path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(FileError, match="a device"):
        load_compressed(str(tmp_path / "zero"))


# --- planted faults -------------------------------------------------------------------------------


def never(*_):
    """A digest that everything has."""
    return "0" * 64


class Same:
    """A hash function that ignores what it is given."""

    def __init__(self, *_):
        pass

    def hexdigest(self):
        return "0" * 64


def without(check):
    """Let an archive skip one of its checks."""

    class Careless(archive.Archive):
        def __init__(self, raw, where, limit=2**62):
            super().__init__(raw, where, 2**62 if check == "limit" else limit)

        def arrays(self, entries):
            if check == "names":
                have = self._members.keys()
                entries = {k: v for k, v in entries.items() if f"{k}.npy" in have}
                names = {f"{k}.npy" for k in entries} | {MANIFEST}
                self._members = {k: v for k, v in self._members.items() if k in names}
            return super().arrays(entries)

    return Careless


UNPACKS = test_a_small_file_that_unpacks_to_much_is_refused_before_it_does
ENTRIES = test_entries_that_are_dropped_renamed_swapped_or_added_are_refused
SEALS = test_sealed_documents_come_back_and_changed_ones_do_not
RETURNS = test_all_grids_ranks_axes_and_names_come_back


@pytest.mark.parametrize(
    ("test", "place", "name", "wrong"),
    [
        (UNPACKS, files, "Archive", without("limit")),
        (ENTRIES, files, "Archive", without("names")),
        (SEALS, archive, "_digest", never),
        (RETURNS, files, "asdict", lambda grid: {**vars(grid), "narrow": False}),
    ],
)
def test_planted_faults_are_caught(test, place, name, wrong, monkeypatch):
    monkeypatch.setattr(place, name, wrong)
    assert caught(THIS, test)


def test_numbers_are_compared_with_their_hashes(monkeypatch):
    entries = dict(members(RAW))
    entries["a.code0.npy"] = entries["a.code0.npy"][:-2] + b"\1\1"
    other = zipped(entries.items())
    assert read(other) is None
    monkeypatch.setattr(archive, "sha256", Same)  # a fault: everything has the same hash

    def forget(document):
        for row in document["layers"]:
            for part in (*row["codes"].values(), *row["scales"].values()):
                part["sha256"] = Same().hexdigest()

    assert read(resealed(forget, other)) is not None  # so it is the hash that found it
