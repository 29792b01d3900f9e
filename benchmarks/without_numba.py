"""How much slower is the book without Numba?

The same work is done in two processes: one with ``NUMBA_DISABLE_JIT=1``, where the readable forms
run, one with the kernels, which are compiled before the clock starts. BLAS has one thread in
both. The table has the seconds of each and the factor between them. Run it on an otherwise idle
machine.

    python benchmarks/without_numba.py
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from quality import machine

from qcp_ref import (
    CP,
    Grid,
    choose_scale,
    cp_conv2d,
    factorize,
    polish,
    quantize_cp,
    random_cp,
    rank_for_rate,
    solve_rows,
)
from qcp_ref.app.files import write_json

RESULTS = Path(__file__).parent / "results"
MOST = 20  # times slower: what the project asks of itself
SIDE, RANK, LARGE = 64, 134, (512, 1141)  # a 64x64x9 kernel at rate 2; a factor of a 512x512x9 one


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", help="work whose name begins so; default: all of it")
    parser.add_argument("--out", type=Path, help="JSON file; default: results/without_numba.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(measured(options.only)))
        return
    compiled, readable = (child(off, options.only) for off in ("0", "1"))
    rows = {
        name: {"compiled": s, "readable": readable[name], "factor": readable[name] / s}
        for name, s in compiled.items()
    }
    for name, row in rows.items():
        seconds = f"{row['compiled']:9.5f} s  {row['readable']:9.5f} s"
        verdict = "" if row["factor"] <= MOST else f"  MISSED: more than {MOST}"
        print(f"{name:36} {seconds}  {row['factor']:7.1f} times{verdict}")
    out = options.out or (None if options.only else RESULTS / "without_numba.json")
    if out is not None:
        command = "python benchmarks/without_numba.py"
        write_json(out, {"command": command, "machine": machine(), "works": rows})
        print(f"wrote {out}")


def child(disabled: str, only: list[str] | None) -> dict[str, float]:
    """Return the seconds of all work in a process of its own."""
    threads = dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"], "1")
    command = [sys.executable, __file__, "--here", *(["--only", *only] if only else [])]
    environment = os.environ | threads | {"NUMBA_DISABLE_JIT": disabled}
    return json.loads(subprocess.run(command, check=True, env=environment, stdout=-1).stdout)


def measured(only: list[str] | None) -> dict[str, float]:
    """Return the least seconds of each work; the first call, which compiles, does not count."""
    warnings.filterwarnings("ignore", message="qcp_ref runs without Numba")
    seconds = {}
    for name, (work, rounds) in works().items():
        if only and not any(name.startswith(start) for start in only):
            continue
        times = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        seconds[name] = min(times[1:])
    return seconds


def works() -> dict[str, tuple[Callable[[], Any], int]]:
    """Return all work: name -> function, how often it is timed."""
    rng = np.random.default_rng(0)
    large, small = rng.standard_normal(LARGE), rng.standard_normal((SIDE, RANK))
    X, cp = rng.standard_normal((SIDE, SIDE, 9)), random_cp((SIDE, SIDE, 9), RANK, rng=1)
    start = quantize_cp(cp, Grid(4))
    image = rng.standard_normal((1, SIDE, 56, 56)).astype(np.float32)
    cp32 = CP([A.astype(np.float32) for A in cp.factors])
    K = rng.standard_normal((2 * RANK, RANK))
    F, G = 3 * rng.standard_normal((SIDE, 2 * RANK)) @ K, K.T @ K
    layer = rng.standard_normal((32, 32, 9))
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for bits in (4, 8):
        for x in (small, large):
            name = f"choose_scale {bits} bits {'x'.join(map(str, x.shape))}"
            found[name] = (lambda x=x, bits=bits: choose_scale(x, Grid(bits))), 3
    found["polish 64x64x9 rank 134"] = (lambda: polish(X, start, sweeps=5, rng=0)), 3
    found["cp_conv2d 64 channels 56x56"] = (
        (lambda: cp_conv2d(image, cp32, kernel_size=3, padding=1)),
        5,
    )
    for method in ("round", "descent", "babai", "k-best", "sphere"):
        found[f"solve_rows {method} 64x134"] = (
            (lambda method=method: solve_rows(F, G, Grid(4), 1.0, method=method)),
            3,
        )
    rank = rank_for_rate(layer.shape, 2)
    for method in ("als-round", "authors", "sequential", "best"):
        found[f"factorize {method} 32x32x9"] = (
            (lambda method=method: factorize(layer, rank, Grid(4), method=method, rng=0)),
            1,
        )
    return found


if __name__ == "__main__":
    main()
