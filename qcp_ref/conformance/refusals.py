"""Which input has no meaning, and who would take it all the same?

Not to refuse wrong input is a mistake that no right input shows: libraries broadcast, crop, count
from the end, compare with NaN, and return something. A refused case is a case of the suite with one
argument spoiled, so that nothing else can be the reason. A fault is a right implementation that is
careless about one kind of offence and goes on as real code does. Both are lists in
data/refusals.json, one line each.

Checked by tests/conformance/test_refusals.py.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np

from qcp_ref.conformance.cases import Case, with_needs
from qcp_ref.conformance.dyadic import fractions, nest, pack
from qcp_ref.conformance.faults import Fault, lettered, vary
from qcp_ref.conformance.faults_solvers import SOLVERS
from qcp_ref.conformance.plain import RAW, axes, sizes

__all__ = ["FAULTS", "ROWS", "refused"]

_FILE = resources.files("qcp_ref.conformance") / "data" / "refusals.json"
ROWS: dict[str, list[dict[str, Any]]] = json.loads(_FILE.read_text(encoding="ascii"))


# --- cases ----------------------------------------------------------------------------------------


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
    for row in ROWS["cases"]:
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


# --- faults ---------------------------------------------------------------------------------------


def _fitted(a: SimpleNamespace) -> dict[str, Any]:
    """Cut what is too long, repeat what is single."""
    least = {name: min(found - {1}, default=1) for name, found in sizes(vars(a)).items()}

    def fit(array: Any, names: Any) -> Any:
        shape = [
            *(least[name] for name, _ in zip(names, array.shape, strict=False)),
            *array.shape[len(names) :],
        ]
        return np.broadcast_to(array[tuple(map(slice, shape))], shape)

    found = {name: (part, axes(name, part)) for name, part in vars(a).items()}
    return {
        name: [*map(fit, part, names)] if isinstance(part, list) else fit(part, names)
        for name, (part, names) in found.items()
        if names and part is not None
    }


def _kernel(a: SimpleNamespace) -> dict[str, Any]:
    """Read the memory of the filters as that of filters of another size."""
    name = "C" if hasattr(a, "C") else "a_kernel"
    filters, entries = getattr(a, name).T, a.kernel_size[0] * a.kernel_size[1]
    return {name: np.resize(filters, (len(filters), entries)).T}


# What code does that does not look, where NumPy does not do it by itself.
_INSTEAD: dict[str, Mapping[str, Any]] = {
    "one": {"all": _fitted},
    "size": {"all": _fitted},
    "kernel": {"all": _kernel},
    "mode": {"mode": lambda a: a.mode and a.mode % len(a.factors)},
    "step": {
        "stride": lambda a: [s or 1 for s in a.stride],
        "dilation": lambda a: [d or 1 for d in a.dilation],
    },
}


def _careless(op: str, check: str) -> Callable[..., Any]:
    right = RAW.get(op) or SOLVERS[op]
    return vary(op, careless=(check,), function=right, **_INSTEAD.get(check, {}))


FAULTS = tuple(
    Fault(name, op, row["title"], _careless(op, row["check"]), row["seen"])
    for name, op, row in lettered(ROWS["faults"])
)
