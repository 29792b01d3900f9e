"""Which input has no meaning?

Not to refuse wrong input is a mistake that no right input shows: libraries broadcast, crop, count
from the end, compare with NaN, and return something. A refused case is a case of the suite with one
argument spoiled, so that nothing else can be the reason. The list is in data/refusals.json, one
line per case.

Checked by tests/conformance/faults/test_refusals.py.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from qcp_ref.conformance.cases.make import Case, with_needs
from qcp_ref.conformance.dyadic import fractions, nest, pack

__all__ = ["ROWS", "refused"]

_FILE = resources.files("qcp_ref.conformance") / "data" / "refusals.json"
ROWS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="ascii"))["cases"]


def refused(cases: Sequence[Case]) -> Iterator[Case]:
    """Yield the cases that are to be refused and like one of these.

    Parameters
    ----------
    cases : sequence of dict
        Cases with right input.

    Yields
    ------
    dict
        One of them with other arguments, and an exception as what is expected.
    """
    known = {case["id"]: case for case in cases}
    for row in ROWS:
        if row["like"] in known:
            yield _spoiled(known[row["like"]], row)


def _spoiled(case: Case, row: Mapping[str, Any]) -> Case:
    given, options = dict(case["in"]), dict(case["options"])
    for place, wrong in row["with"].items():
        name, _, part = place.partition(".")
        if name in options:
            options[name] = wrong
        elif part:
            given[name] = [*given[name]]
            given[name][int(part)] = _changed(given[name][int(part)], wrong)
        else:
            given[name] = _changed(given[name], wrong)
    spoiled = {"id": row["id"], "since": case["since"], "op": case["op"], "says": row["says"]}
    spoiled |= {"flags": ["Refusal"], "in": given, "options": options, "out": {"kind": "reject"}}
    return with_needs(spoiled)


def _changed(array: dict[str, Any], wrong: Any) -> dict[str, Any]:
    """Return the number in place of an array, its leading part, or the array with another end."""
    if not isinstance(wrong, dict):
        return pack(wrong, array["t"])
    if "cut" in wrong:
        kept = np.array(array["m"], object).reshape(array["s"])[tuple(map(slice, wrong["cut"]))]
        return {**array, "s": wrong["cut"], "m": kept.ravel().tolist()}
    entries = np.ravel(np.array(fractions(array), object)).tolist()
    return pack(nest([*entries[:-1], wrong["last"]], array["s"]), wrong.get("t", array["t"]))
