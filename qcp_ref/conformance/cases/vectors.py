"""The files of the suite: written from the families, read with their hashes checked.

Each family is one file of canonical JSON, one case per line; the manifest has their hashes, what
each flag and capability means, and the list of cases found to be wrong. Schemas are beside them.
The generator uses integers and fractions only, so the bytes are the same on every machine; a test
writes them again.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from qcp_ref.conformance.cases import algebra, grids, integer, layers, rows, runs, solvers
from qcp_ref.conformance.cases.conduct import conduct
from qcp_ref.conformance.cases.recipes import recipes
from qcp_ref.conformance.cases.refused import refused
from qcp_ref.conformance.dyadic import canonical
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, LEVELS, OPS, SCOPES

__all__ = [
    "SUITE", "chosen_cases", "counts", "everything", "flags", "kills", "load", "needs", "smoke", "stored", "text",
    "texts", "write",
]  # fmt: skip

SUITE = "0.1-draft"
_FOLDER = "data/v0"


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every file of vectors, the manifest last."""
    entries, families = {}, dict[str, list[Any]]()
    for module in (grids, algebra, layers, integer, solvers, rows, runs):
        for family, cases in module.families():
            families.setdefault(family, []).extend(cases)
    right = [case for cases in families.values() for case in cases]
    families["refused"] = [*refused(right)]
    for family, cases in families.items():
        written = text(family, cases)
        entries[family] = {
            "sha256": sha256(written.encode()).hexdigest(),
            "bytes": len(written),
            "cases": len(cases),
        }
        yield f"{family}.json", written
    manifest = {
        "suite": SUITE,
        "files": entries,
        "flags": flags(),
        "capabilities": CAPABILITIES,
        "choices": CHOICES,
        "scopes": {
            name: {"operations": scope.ops, "governs": scope.governs}
            for name, scope in SCOPES.items()
        },
        "errata": [],
    }
    yield "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def text(family: str, cases: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of one family's file."""
    head = canonical({"family": family, "suite": SUITE})[:-1]
    return head + ',"cases":[\n' + ",\n".join(canonical(case) for case in cases) + "\n]}\n"


def write(folder: str | Path) -> None:
    """Write all files of vectors to a folder."""
    for name, written in texts():
        Path(folder, name).write_text(written, encoding="ascii", newline="\n")


def load(suite: str | None = None) -> list[dict[str, Any]]:
    """Return the cases of the suite that are stored in files.

    Parameters
    ----------
    suite : str, optional
        A version such as '0.1': only cases that it has.

    Returns
    -------
    list of dict
        The cases, in the order of the files; after them those that are made of them.

    Raises
    ------
    ValueError
        If a file is not the one that the manifest knows, or the version is not known.
    """
    cases = stored()
    cases += json.loads(_made())
    known = {case["since"] for case in cases} | {SUITE}
    if suite is None:
        return cases
    if suite not in known:
        raise ValueError(f"suite: expected one of {sorted(known)}, got {suite!r}")
    wanted = _version(suite)
    return [case for case in cases if _version(case["since"]) <= wanted]


def stored() -> list[dict[str, Any]]:
    """Return the cases of the files alone, without those that are made of them."""
    cases: list[dict[str, Any]] = []
    for family in _families():
        cases += json.loads(family)["cases"]
    return cases


def everything(suite: str | None = None) -> list[dict[str, Any]]:
    """Return all cases: those of the files, as ``load`` does, and those that are recipes."""
    cases = load(suite)
    wanted = _version(suite or SUITE)
    return cases + [case for case in recipes() if _version(case["since"]) <= wanted]


def counts(suite: str | None = None) -> Counter[str]:
    """Return how many cases each level of the suite, or of a version of it, has."""
    return Counter(OPS[case["op"]].level for case in everything(suite))


def chosen_cases(cases: Sequence[dict[str, Any]], levels: str | None) -> list[dict[str, Any]]:
    """Return the cases of the levels that were asked for, or all of them."""
    wanted = levels.replace(",", " ").split() if levels else list(LEVELS)
    unknown = set(wanted) - set(LEVELS)
    if unknown:
        raise ValueError(f"levels: expected some of {list(LEVELS)}, got {sorted(unknown)}")
    return [case for case in cases if OPS[case["op"]].level in wanted]


def _version(suite: str) -> tuple[int, ...]:
    return tuple(int(part) for part in suite.split("-", maxsplit=1)[0].split("."))


def flags() -> dict[str, str]:
    """Return what breaks in the cases of each flag, and how that usually gets in."""
    return dict(json.loads(_read("flags.json", "data"))["flags"])


def _read(name: str, folder: str = _FOLDER) -> str:
    place = resources.files("qcp_ref.conformance") / folder / name
    return place.read_text(encoding="ascii")


@cache
def _made() -> str:
    """Return the text of the cases that are made of the stored ones."""
    cases = [case for family in _families() for case in json.loads(family)["cases"]]
    return canonical(conduct(cases))


@cache
def _families() -> tuple[str, ...]:
    """Return the texts of all families, checked against the manifest."""
    found = []
    for family, entry in json.loads(_read("manifest.json"))["files"].items():
        found.append(_read(f"{family}.json"))
        if sha256(found[-1].encode()).hexdigest() != entry["sha256"]:
            raise ValueError(f"suite: {family}.json is damaged; install the package again")
    return tuple(found)


def kills() -> dict[str, list[str]]:
    """Return, for each catalogued fault, the cases that kill it."""
    return dict(json.loads(_read("kills.json"))["kills"])


def needs() -> dict[str, str]:
    """Return the faults that only a check of conduct finds, with that check."""
    return dict(json.loads(_read("kills.json"))["needs"])


def smoke() -> list[str]:
    """Return the few cases that together kill as many faults as possible."""
    return list(json.loads(_read("kills.json"))["smoke"])
