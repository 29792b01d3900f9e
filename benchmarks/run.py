"""How fast are the hot paths, beside peers and beside the machine?

Every contestant runs in a process of its own and waits while another one works; they take turns, in
alternating order, so that all of them meet the same moods of the machine. The table has minimum and
median of the seconds per step, the ratio to ours and the peak of memory above what the data take;
the limits of the machine, matrix product and copy, are measured in the same run. Then follow the
times of whole runs and of processes, the targets of the project, and how time and memory grow.
Everything is written to a JSON file and drawn as one picture. Run it on an otherwise idle machine.

    pip install -e '.[bench]' && python benchmarks/run.py
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from math import log, prod
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from contestants import CONTESTANTS
from quality import machine

from qcp_ref import rank_for_rate
from qcp_ref.app.files import write_json

RESULTS = Path(__file__).parent / "results"
PAUSE = 0.3  # idle threads of some libraries spin on for 0.2 s, and would take turns with the next
STEPWISE = {"als", "admm_step"}  # whose first call also prepares
CONV_SHAPES = ((64, 56, 134), (128, 28, 278), (256, 14, 566), (512, 7, 1141))
PROGRAM = """
import numpy as np, qcp_ref as q
rng = np.random.default_rng(0)
W, x = rng.standard_normal((64, 48, 3, 3)), rng.standard_normal((2, 48, 9, 9))
for method in ("als-round", "authors", "best"):
    fast = {"sweeps": 2} if method == "best" else {}
    layer = q.compress_conv(W, rank=20, padding=1, method=method, rng=1, **fast)
    layer.forward(x), layer.forward(x.astype(np.float32))
"""  # calls every kernel that the demo calls, on the same types


class Work(NamedTuple):
    """One thing that several contestants do: its parameters, how often, on how many threads."""

    kind: str
    params: dict[str, Any]
    contestants: tuple[str, ...]
    steps: int = 1
    rounds: int = 5
    threads: int = 2

    @property
    def name(self) -> str:
        """Return a name that is unique in a run."""
        values = ", ".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.kind}({values}){'' if self.threads == 2 else ' on 1 thread'}"


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--only", nargs="+", help="kinds of work; default: all of them")
    parser.add_argument("--out", type=Path, help="JSON file; default: results/speed.json")
    options = parser.parse_args(arguments)
    out = options.out or (None if options.quick or options.only else RESULTS / "speed.json")
    works = [w for w in (quick() if options.quick else full()) if wanted(w.kind, options.only)]
    result: dict[str, Any] = {
        "command": "python benchmarks/run.py",
        "machine": machine(),
        "load before": os.getloadavg()[0],
        "versions": {},
        "works": {},
    }
    for work in works:
        result["works"][work.name] = row = measure(work, result["versions"])
        print(describe(work, row), flush=True)
    if wanted("process", options.only) and not options.quick:
        result["processes"] = processes()
        print(f"processes: {result['processes']}")
    if not options.quick and not options.only:
        result["targets"] = targets(result)
        for name, target in result["targets"].items():
            print(f"{'met   ' if target['met'] else 'MISSED'}  {name}: {target['measured']:.3g}")
    if out is not None:
        write_json(out, result)
        if "targets" in result:
            draw(result, out.with_suffix(".png"))
        print(f"wrote {out}")


def wanted(kind: str, only: list[str] | None) -> bool:
    """Return whether a kind of work is asked for."""
    return only is None or kind in only


def als(shape: tuple[int, ...], rank: int, *names: str, **how: int) -> Work:
    """Return a sweep; without names it is ours alone."""
    return Work("als", {"shape": shape, "rank": rank}, names or ("qcp_ref",), **how)


def rate_2(*shape: int) -> int:
    """Return the rank at rate 2."""
    return rank_for_rate(shape, 2)


def limits(rounds: int) -> list[Work]:
    """Return what says how fast the machine is."""
    works = [
        Work("gemm", {"n": 2048, "dtype": dtype}, ("numpy",), rounds=rounds)
        for dtype in ("float64", "float32")
    ]
    return [*works, Work("copy", {"n": 2**25}, ("numpy",), rounds=rounds)]


def quick() -> list[Work]:
    """Return small work of every kind, for a first look."""
    everyone = ("qcp_ref", "torch", "tensorly", "pyttb")
    factor = {"side": 128, "rank": 278, "bits": 4}
    return [
        *limits(3),
        als((64, 64, 9), 134, *everyone, steps=10, rounds=3),
        Work("admm_step", factor, ("qcp_ref", "numpy"), steps=10, rounds=3),
        Work("scale", {"size": 2**16, "bits": 4}, ("qcp_ref",), steps=10, rounds=3),
        Work("descent", factor, ("qcp_ref", "numpy"), steps=10, rounds=3),
        conv(64, 56, 134, 1, rounds=3),
    ]


def conv(channels: int, side: int, rank: int, batch: int, **how: int) -> Work:
    """Return a factorized convolution, beside the dense one."""
    params = {"channels": channels, "side": side, "rank": rank, "batch": batch}
    names = ("qcp_ref", "torch", "onnxruntime", "torch dense")
    return Work("conv", params, names, steps=10 if batch == 1 else 2, **how)


def full() -> list[Work]:
    """Return all work: that of the targets, and the curves of how it grows."""
    large = {"side": 512, "rank": 1141, "bits": 4}
    everyone = ("qcp_ref", "torch", "tensorly", "pyttb")
    works = [
        *limits(9),
        als((64, 64, 9), 134, *everyone, steps=20, rounds=9),
        als((512, 512, 9), 1141, *everyone, steps=2, rounds=3),
        Work("admm_step", large, ("qcp_ref", "numpy"), steps=10, rounds=9),
        *(
            Work("scale", {"size": 512 * 1141, "bits": bits}, ("qcp_ref",), steps=5, rounds=9)
            for bits in (2, 3, 4, 6, 8)
        ),
        Work("scale", {"size": 512 * 1141, "bits": 4, "rule": "mse-200"}, ("qcp_ref",), rounds=5),
        Work("descent", large, ("qcp_ref", "numpy"), rounds=15),
        *(conv(*shape, batch, rounds=7) for batch in (1, 32) for shape in CONV_SHAPES),
    ]
    works += [als((128, 128, 9), rank, steps=5) for rank in (32, 128, 512)]
    works += [als((c, c, 9), rate_2(c, c, 9), steps=5) for c in (128, 256)]
    works += [als((128, 128, k), 128, steps=5) for k in (25, 49)]
    works += [als((256, 256, 9), rate_2(256, 256, 9), steps=5, threads=1)]
    works += [conv(64, side, 134, 1) for side in (14, 28, 112)]
    works += [conv(128, 28, 278, 1, threads=1)]
    return (
        works
        + [best(c, c, 9) for c in (64, 128, 256, 512)]
        + [best(*shape) for shape in ((256, 64), (1024, 256), (2048, 512))]
    )


def best(*shape: int) -> Work:
    """Return a whole run of 'best' on a layer at rate 2."""
    params = {"shape": shape, "rank": rate_2(*shape), "bits": 4, "sweeps": 500}
    return Work("best", params, ("qcp_ref",), rounds=1)


# --- measuring ------------------------------------------------------------------------------------


def serve(pipe: Connection, name: str, work: Work) -> None:
    """Be a contestant: answer numbers of steps with seconds, and 'peak' with bytes."""
    contestant = CONTESTANTS[name]()
    contestant.start(work.threads)
    timed = getattr(contestant, work.kind)(**work.params)
    peak = 0
    if work.kind != "best":
        timed(1)  # compiles
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        timed(1)
        peak = memory("VmHWM") - before
    # The allocator keeps memory for itself once a large array has come and gone, as in any process
    # that has loaded a network; until then it gives all back, and gets it again page by page.
    bytearray(2**25 - 2**15)
    pipe.send(contestant.version())
    while (question := pipe.recv()) is not None:
        if question == "split":
            pipe.send(getattr(contestant, "split", {}))
        elif question == "peak":
            pipe.send(peak)
        else:
            began = time.perf_counter()
            timed(question)
            pipe.send(time.perf_counter() - began)


def memory(field: str) -> int:
    """Return one of the kernel's figures about this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(work: Work, versions: dict[str, str]) -> dict[str, Any]:
    """Let the contestants take turns; return what each of them needs for one step."""
    os.environ.update(dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"], str(work.threads)))
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in work.contestants:
        pipes[name], end = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(end, name, work), daemon=True))
        processes[-1].start()
        end.close()  # so that the end of a process is noticed
        versions[name] = pipes[name].recv()

    def ask(name: str, question: Any) -> Any:
        pipes[name].send(question)
        return pipes[name].recv()

    once = work.kind in STEPWISE
    times = {name: ([], []) for name in pipes}
    for turn in range(work.rounds):
        for name in list(pipes)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(PAUSE)
            one, many = times[name]
            one.append(ask(name, 1) if once else 0.0)
            many.append(ask(name, work.steps + once))
    row: dict[str, Any] = {}
    for name, (one, many) in times.items():
        row[name] = {
            "min": (min(many) - min(one)) / work.steps,
            "median": (median(many) - median(one)) / work.steps,
        }
        if work.kind == "best":
            row[name]["split"] = ask(name, "split")
        else:
            row[name]["peak"] = ask(name, "peak")
        pipes[name].send(None)
    for process in processes:
        process.join()
    return row


def describe(work: Work, row: dict[str, Any]) -> str:
    """Return a few lines for the terminal."""
    lines = [work.name]
    ours = row.get("qcp_ref")
    for name, figures in row.items():
        low, middle = (1e3 * figures[key] for key in ("min", "median"))
        line = f"  {name:12} min {low:9.3f} ms  median {middle:9.3f} ms"
        if "peak" in figures:
            line += f"  peak {figures['peak'] / 2**20:7.1f} MB"
        if ours and name != "qcp_ref":
            line += f"  {figures['min'] / ours['min']:6.2f} times ours"
        lines.append(line + (f"  {figures['split']}" if "split" in figures else ""))
    return "\n".join(lines)


def processes() -> dict[str, float]:
    """Return the seconds of imports, of a first call of all kernels, and of the demo."""
    with tempfile.TemporaryDirectory() as folder:
        code = "from qcp_ref.app.cli import main; raise SystemExit(main())"
        demo = ["-c", code, "demo", "--out", folder]
        cold = run("-c", PROGRAM, NUMBA_CACHE_DIR=folder)
        warm = run("-c", PROGRAM, NUMBA_CACHE_DIR=folder)
        nothing = best_of(15, "-c", "pass")
        run(*demo)
        return {
            "import numpy": best_of(15, "-c", "import numpy") - nothing,
            "import qcp_ref": best_of(15, "-c", "import qcp_ref") - nothing,
            "first call of all kernels": cold - warm,
            "demo": min(run(*demo) for _ in range(2)),
        }


def best_of(rounds: int, *arguments: str) -> float:
    """Return the least seconds of a process."""
    return min(run(*arguments) for _ in range(rounds))


def run(*arguments: str, **environment: str) -> float:
    """Return the seconds of one process of this interpreter."""
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    began = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, env=clean | environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


# --- what it means --------------------------------------------------------------------------------


def sweep_flops(shape: Iterable[int], rank: int) -> int:
    """Count a sweep: two products with the tensor; per mode a symmetric one, Cholesky, two solves.

    Small contractions, of lower order, are left out.
    """
    sides = tuple(shape)
    modes = sum(rank**2 * side + 2 * rank**2 * side + rank**3 // 3 for side in sides)
    return 2 * 2 * prod(sides) * rank + modes


def rate(result: dict[str, Any]) -> float:
    """Return the operations per second of the matrix product in this run."""
    return 2 * 2048**3 / result["works"]["gemm(n=2048, dtype=float64)"]["numpy"]["min"]


def targets(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Compare with what the project asks of itself."""
    works, seconds = result["works"], result["processes"]

    def of(name: str, who: str = "qcp_ref") -> float:
        return works[name][who]["min"]

    large, small = "als(shape=(512, 512, 9), rank=1141)", "als(shape=(64, 64, 9), rank=134)"
    size, factor = 512 * 1141, "(side=512, rank=1141, bits=4)"
    convs = [works[conv(*shape, batch).name] for batch in (1, 32) for shape in CONV_SHAPES]
    ratios = sorted(row["qcp_ref"]["min"] / row["torch"]["min"] for row in convs)
    slower = [
        ("sweep 512x512x9, rank 1141: tensorly / ours", of(large, "tensorly") / of(large), 12),
        ("sweep 512x512x9, rank 1141: pyttb / ours", of(large, "pyttb") / of(large), 25),
        ("sweep 512x512x9, rank 1141: torch / ours", of(large, "torch") / of(large), 1),
        (
            "sweep 512x512x9, rank 1141: share of the rate of the matrix product",
            sweep_flops((512, 512, 9), 1141) / of(large) / rate(result),
            0.65,
        ),
        ("sweep 64x64x9, rank 134: tensorly / ours", of(small, "tensorly") / of(small), 6),
        ("sweep 64x64x9, rank 134: pyttb / ours", of(small, "pyttb") / of(small), 8),
    ]
    faster = [
        ("sweep 512x512x9, rank 1141: peak, GB", works[large]["qcp_ref"]["peak"] / 1e9, 0.3),
        (
            "ADMM step 512x1141 / its product",
            of("admm_step" + factor) / of("admm_step" + factor, "numpy"),
            1.4,
        ),
        ("exact scale of 584,192 values, 4 bits, ms", 1e3 * of(f"scale(size={size}, bits=4)"), 5),
        ("exact scale of 584,192 values, 8 bits, ms", 1e3 * of(f"scale(size={size}, bits=8)"), 200),
        (
            "descent 512x1141 / its operations at the rate of the matrix product",
            of("descent" + factor) * rate(result) / (2 * 512 * 1141**2),
            2,
        ),
        ("'best', 512x512x9, rank 1141, 4 bits, s", of(best(512, 512, 9).name), 150),
        ("convolutions / torch, the slowest of eight", ratios[-1], 1.5),
        ("convolutions / torch, the second best of eight", ratios[1], 1),
        ("demo, s", seconds["demo"], 30),
        ("import qcp_ref / import numpy", seconds["import qcp_ref"] / seconds["import numpy"], 2),
        ("first call of all kernels, s", seconds["first call of all kernels"], 10),
    ]
    table = {n: {"measured": m, "at least": b, "met": m >= b} for n, m, b in slower}
    return table | {n: {"measured": m, "at most": b, "met": m <= b} for n, m, b in faster}


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw ratios to the peers and how a sweep and 'best' grow."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    colours = {"torch": "#0072B2", "tensorly": "#E69F00", "pyttb": "#009E73"}
    colours |= {"onnxruntime": "#CC79A7", "torch dense": "#999999"}
    peers = {n: row for n, row in result["works"].items() if set(row) & set(colours)}
    labels = [n for n in peers if "thread" not in n][::-1]
    for who, colour in colours.items():
        points = [
            (peers[name][who]["min"] / peers[name]["qcp_ref"]["min"], y)
            for y, name in enumerate(labels)
            if who in peers[name]
        ]
        left.plot(*zip(*points, strict=True), "o", color=colour, label=who)
    short = [
        n.replace("shape=", "").replace("channels=", "").replace("rank=", "R=") for n in labels
    ]
    left.set_yticks(range(len(labels)), short, fontsize=7)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="time of the other / ours (right of the line: we are faster)")
    left.legend(fontsize=7)
    for kind, marker in (("als", "o"), ("best", "s")):
        points = []
        for c in (64, 128, 256, 512):
            work = als((c, c, 9), rate_2(c, c, 9)) if kind == "als" else best(c, c, 9)
            points.append((c, result["works"][work.name]["qcp_ref"]["min"]))
        slope = log(points[-1][1] / points[1][1]) / log(points[-1][0] / points[1][0])
        label = {"als": "one sweep", "best": "'best', 4 bits"}[kind]
        right.loglog(*zip(*points, strict=True), marker=marker, label=f"{label}: power {slope:.1f}")
    right.set(xlabel="channels C of a C x C x 9 kernel at rate 2", ylabel="seconds")
    right.set_xticks([64, 128, 256, 512], ["64", "128", "256", "512"])
    right.minorticks_off()
    right.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
