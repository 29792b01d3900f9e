"""Measure what each difference from the authors' code is worth, on kernels of the bundled network.

    python benchmarks/reproduction.py

writes ``benchmarks/results/reproduction.json``, which the page on reproduction shows. One seed is
one start; all variants of a seed begin at the same random factors.
"""

import json
import platform
from pathlib import Path

import numpy as np
import scipy

from qcp_ref import (
    CP,
    Grid,
    ao_admm,
    choose_scale,
    cp_als,
    epc,
    factorize,
    kernel_to_tensor,
    normalize,
    project,
    rank_for_rate,
    relative_error,
)
from qcp_ref._threads import one_blas_thread
from qcp_ref.app.network import KERNELS, load_network

RATE, BITS, SEEDS = 2, 4, range(3)
LAYERS = ("block1.conv1", "block1.conv2")
SCALE_BITS = (2, 3, 4, 6, 8)
OUT = Path(__file__).parent / "results" / "reproduction.json"

# The limits of the authors' code: its loop over ADMM steps runs once less than it says.
LONG = {"max_sweeps": 5000, "max_steps": 999}


def authors_start(X, rank, seed):
    """Least squares and correction as in the authors' code, where ADMM starts."""
    fit = cp_als(X, rank, max_sweeps=50, tol=1e-5, rng=seed)
    return epc(X, fit.cp, max_sweeps=50, max_rounds=50).cp


def our_start(X, rank, seed):
    """Least squares and correction as in method 'authors'."""
    return epc(X, cp_als(X, rank, rng=seed, max_sweeps=50).cp).cp


def size(X, cp):
    """Relative error of a start, and the sum of its squared component norms over that of X."""
    return relative_error(X, cp), float((normalize(cp).weights ** 2).sum() / (X**2).sum())


def variants(X, rank, seed):
    """Errors by name, from 'authors' as it is here to the authors' settings, and back."""
    grid, source = Grid(BITS), {"rng": seed}
    errors = {}
    ours = our_start(X, rank, seed)
    theirs = authors_start(X, rank, seed)
    errors["rounded"] = factorize(X, rank, grid, method="als-round", **source).error
    errors["default"] = ao_admm(X, rank, grid, start=ours).error
    errors["trials"] = ao_admm(X, rank, grid, start=ours, rule="mse-200").error
    errors["start"] = ao_admm(X, rank, grid, start=theirs).error
    long = ao_admm(X, rank, grid, start=ours, **LONG)
    errors["limits"] = long.error
    full = ao_admm(X, rank, grid, start=theirs, rule="mse-200", **LONG)
    errors["all"] = full.error
    errors["last"] = float(full.history.error[-1])
    errors["recipe"] = ao_admm(X, rank, grid, start=ours, recipe="authors").error
    # Where codes cycle their recipe goes on to its last sweep.
    options = {"start": theirs, "rule": "mse-200", "recipe": "authors"}
    options |= {"max_sweeps": 60, "max_steps": LONG["max_steps"]}
    theirs_whole = ao_admm(X, rank, grid, **options)
    errors["authors"] = theirs_whole.error
    errors["requantized"] = relative_error(X, requantized(theirs_whole.cp.dequantize(), grid))
    unit = CP(normalize(theirs).factors)  # without its weights
    errors["unit"] = ao_admm(X, rank, grid, **{**options, "start": unit}).error
    for refit in ("sweep", "frozen"):
        errors[refit] = ao_admm(X, rank, grid, start=ours, refit=refit).error
    errors["best"] = factorize(X, rank, grid, **source).error
    return errors


def requantized(cp, grid, count=1000):
    """Round factors once more, at the best of many trial scales, as the authors' benchmark does."""
    factors = []
    for A in cp.factors:
        largest = np.abs(A).max() / (2.0 ** (grid.bits - 1) - 0.5)
        near = [project(A, grid, scale=s * largest) for s in np.linspace(0.2, 1.2, count)]
        factors.append(min(near, key=lambda B, A=A: float(((B - A) ** 2).sum())))
    return CP(factors)


def trials(kernel, bits):
    """By how much the best of 200 trial scales has more squared error than the best of all."""
    x = kernel.astype(float)
    grid = Grid(bits)
    losses = [
        ((x - project(x, grid, scale=choose_scale(x, grid, rule=rule).scale)) ** 2).sum()
        for rule in ("mse-200", "mse-exact")
    ]
    return float(losses[0] / losses[1] - 1)


def main():
    """Measure everything and write it down."""
    network = load_network()
    kernels = {name: network[f"{name}.weight"] for name in KERNELS}
    runs, starts = {}, {}
    for name in LAYERS:
        X = kernel_to_tensor(kernels[name])
        rank = rank_for_rate(X.shape, RATE)
        with one_blas_thread():
            found = [variants(X, rank, seed) for seed in SEEDS]
            for key, start in (("ours", our_start), ("theirs", authors_start)):
                starts.setdefault(key, {})[name] = [size(X, start(X, rank, s)) for s in SEEDS]
        runs[name] = {key: [errors[key] for errors in found] for key in found[0]}
        print(name, {key: float(np.median(errors)) for key, errors in runs[name].items()})
    excess = {bits: [trials(kernel, bits) for kernel in kernels.values()] for bits in SCALE_BITS}
    measured = {
        "command": "python benchmarks/reproduction.py",
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "rate": RATE,
        "bits": BITS,
        "runs": runs,
        "starts": starts,
        "scales": excess,
    }
    OUT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
