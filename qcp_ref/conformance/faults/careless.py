"""Which mutants take input that has no meaning?

A mutant is a right implementation that overlooks one kind of offence and goes on as real code does:
it broadcasts, crops, counts from the end, or compares with NaN. The list is in data/refusals.json,
one line per mutant; the cases that kill them are those of ``qcp_ref.conformance.cases.refused``.

Checked by tests/conformance/faults/test_refusals.py.
"""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np

from qcp_ref.conformance.faults.catalogue import Fault, lettered, vary
from qcp_ref.conformance.faults.offences import axes, sizes
from qcp_ref.conformance.faults.plain import RAW
from qcp_ref.conformance.faults.runs import RUNS
from qcp_ref.conformance.faults.solvers import SOLVERS

__all__ = ["FAULTS"]

_FILE = resources.files("qcp_ref.conformance") / "data" / "refusals.json"
_ROWS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="ascii"))["faults"]


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


# What code does without the check, where NumPy does not do it by itself.
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
    right = RAW.get(op) or {**SOLVERS, **RUNS}[op]
    return vary(op, careless=(check,), function=right, **_INSTEAD.get(check, {}))


FAULTS = tuple(
    Fault(name, op, row["title"], _careless(op, row["check"]), row["seen"])
    for name, op, row in lettered(_ROWS)
)
