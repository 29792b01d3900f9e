"""Write the stored runs of the book, iterate by iterate: ``python scripts/make_traces.py``.

A tiny tensor and a kernel of the bundled network go through least squares, error-preserving
correction, AO-ADMM and polish, by public functions of the book, one step at a time. Each quantity
has a bound: how far it goes when the tensor is changed in its last digits, with room, see
:func:`bounds`. Codes and counts have the bound 0, and a run is used only if no change moves one.
"""

from pathlib import Path

import numpy as np

import qcp_ref
import qcp_ref.conformance
from qcp_ref import CP, Grid, QuantizedCP, als_update, gram, kernel_to_tensor, mttkrp
from qcp_ref.app.network import load_network

FOLDER = Path(qcp_ref.conformance.__file__).parent / "data" / "traces"
CHANGE = 2.0**-46  # relative change of each entry: 64 units in the last place
ROOM = 64  # a bound is so many times the largest change seen
CHANGES = 8


def trace(X, rank, grid, seed):
    """Yield names and numbers of a run, in the order in which they arise."""
    yield "X", X
    start = qcp_ref.random_cp(X.shape, rank, rng=seed)
    factors = list(start.factors)
    yield from ((f"start/{n}", A) for n, A in enumerate(factors))
    yield from _least_squares(X, factors)
    fit = qcp_ref.cp_als(X, rank, init=CP(factors), max_sweeps=3)
    corrected = None
    for sweeps in (1, 2):
        corrected = qcp_ref.epc(X, fit.cp, max_sweeps=sweeps).cp
        yield from ((f"epc/{sweeps - 1}/factor-{n}", A) for n, A in enumerate(corrected.factors))
        yield f"epc/{sweeps - 1}/error", qcp_ref.relative_error(X, corrected)
    balanced = list(qcp_ref.balance(corrected).factors)
    yield from ((f"admm/start/{n}", A) for n, A in enumerate(balanced))
    yield from _alternating(X, balanced, grid)
    rounded = qcp_ref.quantize_cp(corrected, grid)
    for sweeps in (1, 2):
        found = qcp_ref.polish(X, rounded, sweeps=sweeps)
        yield from _rounded(f"polish/{sweeps - 1}", found.cp)
        yield f"polish/{sweeps - 1}/error", found.error


def _least_squares(X, factors, sweeps=2):
    for sweep in range(sweeps):
        for n in range(X.ndim):
            F, G = mttkrp(X, factors, n), gram(factors, n)
            factors[n] = als_update(F, G).factor
            place = f"als/{sweep}/{n}"
            yield from ((f"{place}/F", F), (f"{place}/G", G), (f"{place}/factor", factors[n]))
        yield f"als/{sweep}/error", qcp_ref.relative_error(X, CP(factors))


def _alternating(X, factors, grid, sweeps=2, steps=2):
    duals = [np.zeros_like(A) for A in factors]
    for sweep in range(sweeps):
        for n in range(X.ndim):
            F, G = mttkrp(X, factors, n), gram(factors, n)
            place = f"admm/{sweep}/{n}"
            yield from ((f"{place}/F", F), (f"{place}/G", G))
            yield f"{place}/rho", np.trace(G) / len(G)
            for step in range(steps):
                yield from _step(f"{place}/{step}", (F, G), (factors, duals, n), grid)
        yield f"admm/{sweep}/error", qcp_ref.relative_error(X, CP(factors))


def _step(place, problem, state, grid):
    (F, G), (factors, duals, n) = problem, state
    seen = {}

    def project(V):
        seen["scale"] = qcp_ref.choose_scale(V, grid).scale
        seen["codes"] = qcp_ref.quantize(V, grid, seen["scale"])
        return qcp_ref.dequantize(seen["codes"], seen["scale"])

    found = qcp_ref.admm(F, G, project, start=factors[n], dual=duals[n], max_steps=1)
    factors[n], duals[n] = found.factor, found.dual
    yield f"{place}/T", found.least_squares
    yield f"{place}/scale", seen["scale"]
    yield f"{place}/codes", seen["codes"]
    yield f"{place}/H", found.factor
    yield f"{place}/U", found.dual


def _rounded(place, cp: QuantizedCP):
    for n, (codes, scale) in enumerate(zip(cp.codes, cp.scales, strict=True)):
        yield f"{place}/codes-{n}", codes
        yield f"{place}/scale-{n}", np.asarray(scale)


def bounds(X, rank, grid, seed):
    """Return a run and the bound of each of its quantities: a norm; 0 for codes."""
    run = {name: np.asarray(value) for name, value in trace(X, rank, grid, seed)}
    largest = dict.fromkeys(run, 0.0)
    for k in range(CHANGES):
        rng = np.random.default_rng(k)
        near = X * (1 + CHANGE * rng.uniform(-1, 1, X.shape))
        for name, value in trace(near, rank, grid, seed):
            gap = float(np.linalg.norm(np.asarray(value) - run[name]))
            if run[name].dtype.kind == "i" and gap:
                raise ValueError(f"{name}: a code is next to a tie; take another seed")
            largest[name] = max(largest[name], gap)
    for name, value in run.items():
        if value.dtype.kind == "f":
            floor = CHANGE * float(np.linalg.norm(value))
            largest[name] = ROOM * max(largest[name], floor)
    largest["X"] = 0.0
    return run, largest


def cases():
    """Yield name, tensor, rank, grid and seed of each stored run."""
    rng = np.random.default_rng(20)
    yield "tiny", rng.integers(-9, 10, (4, 3, 2)).astype(float), 2, Grid(4), 1
    W = load_network()["block1.conv1.weight"]
    yield "kernel", kernel_to_tensor(W).astype(float), 12, Grid(4), 0


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, *problem in cases():
        run, largest = bounds(*problem)
        limits = np.array([largest[key] for key in run])
        # np.savez dates its members 1980-01-01: the same numbers make the same file.
        np.savez(FOLDER / f"{name}.npz", **run, bounds=limits)
        print(name, len(run), (FOLDER / f"{name}.npz").stat().st_size)
