"""The files of the suite beside the cases themselves: schemas, flags, errata, versions."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import caught, differs, documented

from qcp_ref.conformance import spec
from qcp_ref.conformance.cases import vectors
from qcp_ref.conformance.cases.conduct import conduct
from qcp_ref.conformance.cases.vectors import everything, flags, kills, load, smoke
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, governing

DATA = Path(spec.__file__).parent / "data" / "v0"
MANIFEST = json.loads((DATA / "manifest.json").read_text(encoding="ascii"))
FILES = {name: json.loads((DATA / f"{name}.json").read_text()) for name in MANIFEST["files"]}
CASES = load()


def schema(name):
    return json.loads((DATA / "schema" / f"{name}.json").read_text(encoding="ascii"))


def complaints(value, name):
    jsonschema = pytest.importorskip("jsonschema")
    rules = schema(name)
    jsonschema.Draft202012Validator.check_schema(rules)
    return [error.message for error in jsonschema.Draft202012Validator(rules).iter_errors(value)]


# --- manifest and flags ---------------------------------------------------------------------------


def test_manifest_lists_all_files_and_their_sizes():
    others = {"manifest", "kills"}
    assert {path.stem for path in DATA.glob("*.json")} == {*MANIFEST["files"], *others}
    for name, entry in MANIFEST["files"].items():
        assert entry["bytes"] == (DATA / f"{name}.json").stat().st_size
        assert entry["cases"] == len(FILES[name]["cases"])
        assert FILES[name]["family"] == name
        assert FILES[name]["suite"] == MANIFEST["suite"] == vectors.SUITE


def test_manifest_explains_the_words_of_the_cases():
    assert MANIFEST["capabilities"] == CAPABILITIES
    assert MANIFEST["choices"] == {name: list(options) for name, options in CHOICES.items()}
    assert MANIFEST["scopes"].keys() == MANIFEST["choices"].keys()
    for name, scope in MANIFEST["scopes"].items():
        assert all(name in governing(op) for op in scope["operations"])
    assert MANIFEST["flags"] == flags()


def test_the_page_on_files_lists_their_keys():
    family = schema("family")
    assert documented("Files of cases").keys() == family["$defs"]["case"]["properties"].keys()
    assert documented("Arrays of the suite").keys() == set(family["$defs"]["array"]["required"])
    said = documented("Expectations")
    for kind in family["$defs"]["result"]["oneOf"]:
        more = kind["properties"].keys() - {"kind", *family["$defs"]["array"]["required"]}
        assert set(said.pop(kind["properties"]["kind"]["const"]).split(", ")) == more or {"none"}
    assert said.keys() == set(family["$defs"]["out"]["then"]["properties"]["kind"]["enum"])
    names = {"files": "<family>", "choices": "<choice>", "scopes": "<choice>", "flags": "<flag>"}
    names |= {"capabilities": "<capability>", "kills": "<fault>", "needs": "<fault>"}
    manifest = {**MANIFEST, "errata": ["entry"]}  # there is none yet
    assert differs("Manifest of the suite", manifest, names) == ["errata[]: string"]
    assert not differs("kills.json", json.loads((DATA / "kills.json").read_text()), names)


def flags_are_explained(cases):
    used = {flag for case in cases for flag in case["flags"]}
    assert used == set(flags())


def test_every_flag_is_used_and_explained():
    flags_are_explained(everything())
    assert all(sentence.endswith(".") for sentence in flags().values())


def test_a_flag_without_a_note_is_seen():
    unknown = [*everything(), {**CASES[0], "flags": ["Typo"]}]
    with pytest.raises(AssertionError):
        flags_are_explained(unknown)


def test_withdrawn_cases_are_cases():
    known = {case["id"] for case in CASES}
    assert all(entry["id"] in known for entry in MANIFEST["errata"])


def test_strength_speaks_of_cases():
    ids = {case["id"] for case in CASES}
    assert {name for killers in kills().values() for name in killers} <= ids
    assert set(smoke()) <= ids
    assert len(smoke()) < len(ids) / 10


def test_order_is_that_of_the_files():
    stored = [case for name in MANIFEST["files"] for case in FILES[name]["cases"]]
    assert stored + conduct(stored) == CASES


def test_each_case_is_one_line():
    for name in MANIFEST["files"]:
        lines = (DATA / f"{name}.json").read_text(encoding="ascii").splitlines()
        assert [json.loads(line.rstrip(","))["id"] for line in lines[1:-1]] == [
            case["id"] for case in FILES[name]["cases"]
        ]


# --- reading damaged files ------------------------------------------------------------------------


def test_another_byte_is_damage():
    read = vectors._read
    vectors._families.cache_clear()
    try:
        for old, new in (("[-6,-4", "[-6,-5"), ("\n", "\r\n")):
            changed = lambda name, old=old, new=new: (
                read(name).replace(old, new) if name == "quantize.json" else read(name)
            )
            assert changed("quantize.json") != read("quantize.json")
            vectors._read = changed
            with pytest.raises(ValueError, match=r"quantize\.json is damaged"):
                load()
    finally:
        vectors._read = read
        vectors._families.cache_clear()


class Same(str):
    """A hash that is equal to every other."""

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


def test_a_reader_that_trusts_is_caught():
    trusting = lambda data: SimpleNamespace(hexdigest=Same)
    assert caught(vectors, damage_is_refused, sha256=trusting)
    damage_is_refused()


def damage_is_refused():
    read = vectors._read
    vectors._families.cache_clear()
    vectors._read = lambda name: read(name) + " "[: name == "conv.json"]
    try:
        load()
    except ValueError:
        return
    finally:
        vectors._read = read
        vectors._families.cache_clear()
    raise AssertionError("a damaged file was read")


# --- schemas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFEST["files"])
def test_files_fit_their_schema(name):
    assert complaints(FILES[name], "family") == []


def test_manifest_fits_its_schema():
    assert complaints(MANIFEST, "manifest") == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda case: case.pop("says"),
        lambda case: case.update(id="Quantize"),
        lambda case: case.update(extra=1),
        lambda case: case.update(layout="diagonal"),
        lambda case: case["in"]["x"].update(m=[0.5]),
        lambda case: case["in"]["x"].update(m=["nothing"]),
        lambda case: case["in"]["x"].update(m=[2**60]),
        lambda case: case["in"]["x"].pop("e"),
        lambda case: case["in"]["x"].update(t="f16"),
        lambda case: case["out"]["codes"].update(kind="near"),
        lambda case: case["out"]["codes"].update(tolerance=1),
        lambda case: case["out"].clear(),
        lambda case: case.update(out={"kind": "cert"}),
        lambda case: case.update(out={"kind": "maybe"}),
        lambda case: case["when"][0].pop("out"),
        lambda case: case["when"][0].update(declared={}),
        lambda case: case.update(when=[]),
    ],
)
def test_schema_refuses_what_is_no_case(spoil):
    case = copy.deepcopy(next(case for case in CASES if case["id"] == "quantize.ties"))
    file = {"suite": "0.1", "family": "quantize", "cases": [case]}
    assert complaints(file, "family") == []
    spoil(case)
    assert complaints(file, "family")


def test_schema_of_the_manifest_refuses_other_hashes():
    spoiled = copy.deepcopy(MANIFEST)
    spoiled["files"]["conv"]["sha256"] = "0" * 63
    assert len(complaints(spoiled, "manifest")) == 1
