"""How good is the quantized factorization of a network's kernels, and what does it take?

Every convolution kernel of an npz file (but those of at most three input channels, and the bundled
network's if no file is given) is factorized by each method from several seeds. The table has, per
number of bits and method, the relative Frobenius error as mean over the layers (median and range
over the seeds) and the seconds that all layers took together on the given number of processes; then
dense quantizers of equal cost; then, for one layer, all numbers of bits at the size of the first
one, scales included. Everything is written to a JSON file as well.

    python benchmarks/quality.py --weights FILE.npz --seeds 5
"""

import argparse
import hashlib
import platform
import sys
import time
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np

import qcp_ref as qcp
from qcp_ref.app.files import write_json
from qcp_ref.app.network import KERNELS, load_network
from qcp_ref.factors.methods import METHODS
from qcp_ref.networks.jobs import processes

CURVE = (0, 25, 50, 100, 200, 500, 1000, 2000)  # sweeps of 'best'
SCALE_BITS = 64  # a float64 scale per factor counts


class Job(NamedTuple):
    """One factorization: of which layer, and how."""

    layer: str
    X: np.ndarray
    rank: int
    grid: qcp.Grid
    method: str
    seed: int
    options: dict[str, int]


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, help="npz with one array per layer")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 2])
    parser.add_argument("--rate", default="2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layer", help="the one for the curve and equal sizes; default: a largest")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/quality.json")
    options = parser.parse_args(arguments)
    kernels, origin = read_kernels(options.weights)
    layer = options.layer or max(kernels, key=lambda name: kernels[name].size)
    result = {
        "command": "python benchmarks/quality.py " + " ".join(hide_paths(sys.argv[1:])),
        "weights": origin,
        "machine": machine(),
        "rate": options.rate,
        "layers": {name: list(X.shape) for name, X in kernels.items()},
        "layer": layer,
    }
    with processes(options.processes, initializer=warm_up) as pool:
        qcp.run_jobs(str, range(options.processes), executor=pool)  # all are there, and warm
        result["float"] = {name: float_errors(X, options.rate) for name, X in kernels.items()}
        result["runs"] = [
            run_all(pool, kernels, options.rate, qcp.Grid(bits), method, options.seeds)
            for bits in options.bits
            for method in options.methods
        ]
        result["dense"] = {name: dense_errors(X) for name, X in kernels.items()}
        result["curve"] = curve(pool, kernels, options)
        result["equal_size"] = equal_size(pool, kernels[layer], options)
    report(result)
    write_json(options.out, result)
    print(f"wrote {options.out}")


def read_kernels(path: Path | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the kernels as tensors, and where they come from."""
    if path is None:
        network = load_network()
        arrays = {name: network[f"{name}.weight"] for name in KERNELS}
        origin = {"file": "the bundled network"}
    else:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        origin = {"file": path.name, "sha256": digest}
    kernels = {
        name: qcp.kernel_to_tensor(W.astype(np.float64))
        for name, W in arrays.items()
        if W.ndim == 4 and W.shape[1] > 3
    }
    return kernels, origin


def hide_paths(words: list[str]) -> list[str]:
    """Keep only the names of files: folders are those of one machine."""
    return [Path(word).name if "/" in word else word for word in words]


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    packages = ("qcp_ref", "numpy", "scipy", "numba")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def warm_up() -> None:
    """Load what the first job would wait for: compiled kernels come from the disk."""
    qcp.factorize(np.eye(6), 2, qcp.Grid(4), sweeps=3)


def factorize(job: Job) -> tuple[str, float, float]:
    """Run one job; return the layer, its error and the seconds."""
    start = time.perf_counter()
    fit = qcp.factorize(job.X, job.rank, job.grid, method=job.method, rng=job.seed, **job.options)
    return job.layer, fit.error, time.perf_counter() - start


def factorize_all(pool: Executor, jobs: list[Job]) -> list[tuple[str, float, float]]:
    """Run jobs on the pool, each with one BLAS thread."""
    names = [f"{job.layer}, rank {job.rank}, {job.method}, seed {job.seed}" for job in jobs]
    return qcp.run_jobs(factorize, jobs, executor=pool, names=names)


def run_all(
    pool: Executor,
    kernels: dict[str, np.ndarray],
    rate: str,
    grid: qcp.Grid,
    method: str,
    seeds: int,
    **more: int,
) -> dict[str, object]:
    """Factorize all layers from each seed; largest layers first, so that processes end together."""
    order = sorted(kernels.items(), key=lambda item: -item[1].size)
    rows: list[dict[str, float]] = []
    seconds = []
    for seed in range(seeds):
        jobs = [
            Job(name, X, qcp.rank_for_rate(X.shape, rate), grid, method, seed, more)
            for name, X in order
        ]
        start = time.perf_counter()
        rows.append({name: error for name, error, _ in factorize_all(pool, jobs)})
        seconds.append(time.perf_counter() - start)
        print(f"{grid.bits} bits, {method}, seed {seed}: {mean(rows[-1].values()):.4f}", flush=True)
    errors = {name: [row[name] for row in rows] for name in kernels}
    return {"bits": grid.bits, "method": method, **more, "errors": errors, "seconds": seconds}


def float_errors(X: np.ndarray, rate: str) -> float:
    """Return the error of least squares without quantization."""
    return qcp.cp_als(X, qcp.rank_for_rate(X.shape, rate), rng=0).error


def dense_errors(X: np.ndarray) -> dict[str, float]:
    """Return the errors of dense quantizers of 2 bits."""
    flat = X.reshape(len(X), -1)
    found = {}
    for axis, name in ((None, ""), (0, ", one scale per output")):
        for mid_rise, kind in ((False, "full"), (True, "mid-rise")):
            Q = qcp.project(flat, qcp.Grid(2, mid_rise=mid_rise), axis=axis)
            found[f"2 bits, {kind}{name}"] = relative(flat, Q)
    found["4 free levels per output (Lloyd)"] = relative(
        flat, np.array([lloyd(row) for row in flat])
    )
    return found


def relative(X: np.ndarray, Q: np.ndarray) -> float:
    """Return the relative error."""
    return float(np.linalg.norm(X - Q) / np.linalg.norm(X))


def lloyd(x: np.ndarray, levels: int = 4) -> np.ndarray:
    """Return the numbers replaced by the nearest of a few levels, from quantiles as a start."""
    centres = np.quantile(x, (np.arange(levels) + 0.5) / levels)
    for _ in range(200):
        nearest = np.abs(x[:, None] - centres).argmin(axis=1)
        moved = np.array(
            [x[nearest == c].mean() if (nearest == c).any() else centres[c] for c in range(levels)]
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres[np.abs(x[:, None] - centres).argmin(axis=1)]


def curve(
    pool: Executor, kernels: dict[str, np.ndarray], options: argparse.Namespace
) -> list[dict[str, object]]:
    """Measure method 'best' with more and more sweeps."""
    grid = qcp.Grid(options.bits[0])
    return [
        run_all(pool, kernels, options.rate, grid, "best", min(options.seeds, 2), sweeps=sweeps)
        for sweeps in CURVE
    ]


def equal_size(
    pool: Executor, X: np.ndarray, options: argparse.Namespace
) -> list[dict[str, object]]:
    """Give each number of bits the rank at which it takes as much room as the first one."""
    sides = sum(X.shape)
    total = options.bits[0] * sides * qcp.rank_for_rate(X.shape, options.rate)
    rows = []
    for bits in range(2, 7):
        rank = (total - SCALE_BITS * X.ndim) // (bits * sides)
        for sweeps in (500, 2000):
            jobs = [
                Job(options.layer or "", X, rank, qcp.Grid(bits), "best", seed, {"sweeps": sweeps})
                for seed in range(options.seeds)
            ]
            found = factorize_all(pool, jobs)
            rows.append(
                {
                    "bits": bits,
                    "rank": rank,
                    "sweeps": sweeps,
                    "total_bits": bits * sides * rank + SCALE_BITS * X.ndim,
                    "errors": [error for _, error, _ in found],
                    "seconds": [seconds for _, _, seconds in found],
                }
            )
            print(f"{bits} bits, rank {rank}, {sweeps} sweeps: {median(rows[-1]['errors']):.4f}")
    return rows


def report(result: dict) -> None:
    """Print the tables."""
    layer = result["layer"]
    print(f"\nrelative error, rate {result['rate']}; seconds for all layers together")
    print(f"{'':34} {'mean of layers':^22} {layer:^26} {'seconds':>8}")
    float_mean = mean(result["float"].values())
    print(f"{'float, least squares':34} {float_mean:^22.4f} {result['float'][layer]:^26.4f}")
    for row in result["runs"]:
        print(f"{row['bits']} bits, {row['method']:26} {line(row, layer)}")
    for name in next(iter(result["dense"].values())):
        average = mean(errors[name] for errors in result["dense"].values())
        print(f"{'dense, ' + name:34} {average:^22.4f} {result['dense'][layer][name]:^26.4f}")
    print("\nmethod 'best' with more sweeps")
    for row in result["curve"]:
        print(f"{row['sweeps']:4} sweeps{'':23} {line(row, layer)}")
    print(f"\n{layer} at equal size, method 'best'")
    for row in result["equal_size"]:
        errors = sorted(row["errors"])
        print(
            f"{row['bits']} bits, rank {row['rank']:4}, {row['sweeps']:4} sweeps, "
            f"{row['total_bits']} bits in all: {median(errors):.4f} "
            f"({errors[0]:.4f} to {errors[-1]:.4f}), {median(row['seconds']):.1f} s"
        )


def line(row: dict, layer: str) -> str:
    """Write median and range over the seeds."""
    means = sorted(mean(column) for column in zip(*row["errors"].values(), strict=True))
    own = sorted(row["errors"][layer])
    spread = [f"{median(e):.4f} ({e[0]:.4f}-{e[-1]:.4f})" for e in (means, own)]
    return f"{spread[0]:^22} {spread[1]:^26} {median(row['seconds']):8.1f}"


if __name__ == "__main__":
    main()
