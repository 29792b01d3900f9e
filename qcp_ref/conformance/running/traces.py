"""At which step does a port leave the stored run? A run of another program, quantity by quantity.

A trace is a file of NumPy (``.npz``) with one array per quantity, in the order in which they arise:
``als/sweep/mode/quantity`` and ``admm/sweep/mode/step/quantity``, ``epc/sweep/quantity``,
``polish/sweep/quantity``. Two runs of the book are stored, a tiny one and one of a kernel, each
with the tensor ``X`` and what each part starts from. A port that makes the same steps from the same
numbers stays within the bound of each quantity: how far the book's own run goes when the tensor is
changed in its last digits, with room (``scripts/make_traces.py``). Codes have to be the same.

Checked by tests/conformance/running/test_traces.py.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["RUNS", "Departure", "compare", "load_trace", "stored_bounds", "verdict"]

RUNS = ("tiny", "kernel")


class Departure(NamedTuple):
    """Where a run first leaves its bound: the quantity, its distance, the bound, a sentence."""

    name: str
    distance: float
    bound: float
    says: str


def load_trace(path: str | Path) -> dict[str, NDArray[Any]]:
    """Return the quantities of a trace, in their order.

    Raises
    ------
    ValueError
        If it is no file of arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"trace: expected a .npz file of arrays, got {path}: {error}") from error


def stored_bounds(run: str) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Return a stored run of the book, and the bound of each of its quantities."""
    place = resources.files("qcp_ref.conformance") / "data" / "traces" / f"{run}.npz"
    with resources.as_file(place) as path:
        found = load_trace(path)
    limits = found.pop("bounds")
    return found, dict(zip(found, map(float, limits), strict=True))


def compare(
    trace: Mapping[str, Any], run: str | None = None
) -> tuple[str, list[str], Departure | None]:
    """Compare a trace with a stored run.

    Parameters
    ----------
    trace : mapping of str to array_like
        Quantities by name; some may be missing, 'X' only if the run is named.
    run : str, optional
        One of :data:`RUNS`; by default the one with this tensor.

    Returns
    -------
    run : str
        The stored run.
    compared : list of str
        Names that were compared, up to the departure.
    departure : Departure or None
        The first quantity that left its bound.

    Raises
    ------
    ValueError
        If the tensor is that of no stored run, or nothing can be compared.
    """
    run = _run_of(trace) if run is None else run
    stored, limits = stored_bounds(run)
    known = [name for name in stored if name in trace and name != "X"]
    if not known:
        raise ValueError(f"trace: none of its names is one of the run, such as {[*stored][-1]!r}")
    for k, name in enumerate(known):
        found = _departure(name, np.asarray(trace[name]), stored[name], limits[name])
        if found:
            return run, known[: k + 1], found
    return run, known, None


def _run_of(trace: Mapping[str, Any]) -> str:
    X = np.asarray(trace.get("X", ()))
    for run in RUNS:
        if np.array_equal(stored_bounds(run)[0]["X"], X):
            return run
    raise ValueError(f"trace: expected the tensor 'X' of one of the runs {RUNS}")


def _departure(name: str, value: Any, stored: Any, bound: float) -> Departure | None:
    if value.shape != stored.shape or value.dtype.kind not in "iuf":
        says = f"{value.dtype} of shape {value.shape}, expected numbers of shape {stored.shape}"
        return Departure(name, float("inf"), bound, says)
    if not np.isfinite(value).all():
        return Departure(name, float("inf"), bound, "NaN or infinity")
    distance = float(np.linalg.norm(value.astype(float) - stored))
    if distance <= bound:
        return None
    wrong = np.argwhere(value != stored)
    entry = tuple(map(int, wrong[0]))
    says = f"{len(wrong)} of {stored.size} entries differ, the first is {entry}"
    if bound:
        says = f"distance {distance:.3g}, bound {bound:.3g}; entry {entry} differs first"
    return Departure(name, distance, bound, says)


def verdict(path: str | Path) -> tuple[bool, str]:
    """Compare the trace in a file with the stored run of its tensor; say what came of it."""
    trace = load_trace(path)
    run, compared, found = compare(trace)
    total = len(stored_bounds(run)[0]) - 1
    if found is None:
        return True, f"trace of run {run!r}: all {len(compared)} of {total} quantities are right"
    before = compared[-2] if len(compared) > 1 else "nothing"
    return False, (
        f"trace of run {run!r}: leaves its bound at {found.name}\n  {found.says}\n"
        f"  right up to {before}, {len(compared) - 1} quantities"
    )
