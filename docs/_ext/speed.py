"""The tables of the page on speed, from what benchmarks/run.py has measured."""

import re
import tracemalloc
from itertools import pairwise
from math import exp, log, prod

import numpy as np

from qcp_ref import cp_als, random_cp

# Convolutions of a ResNet-50, without the first: (count, output channels, input channels, entries).
# The stages have 3, 4, 6 and 3 blocks of 1x1, 3x3 and 1x1; the first block of each also has a 1x1
# convolution on its shortcut.
STAGES = ((3, 64, 64, 256), (4, 128, 256, 512), (6, 256, 512, 1024), (3, 512, 1024, 2048))
PEERS = ("torch", "tensorly", "pyttb", "onnxruntime", "torch dense", "numpy")


def resnet50():
    """Return how often each shape of a kernel occurs."""
    shapes = {}
    for blocks, middle, before, after in STAGES:
        layers = [(middle, before), (middle, middle, 9), (after, middle), (after, before)]
        layers += [(middle, after), (middle, middle, 9), (after, middle)] * (blocks - 1)
        for shape in layers:
            shapes[shape] = shapes.get(shape, 0) + 1
    return shapes


def rank(shape):
    """Return the rank at rate 2."""
    return prod(shape) // (2 * sum(shape))


def flops(shape):
    """Return the operations of the large products of a sweep."""
    return 4 * prod(shape) * rank(shape)


def interpolated(measured, shape):
    """Return the seconds of a shape: measured, or from measured ones of as many modes.

    Between two of them and beyond, on a straight line through the logarithms.
    """
    points = sorted((flops(s), t) for s, t in measured.items() if len(s) == len(shape))
    x = log(flops(shape))
    pairs = list(pairwise(points))
    (a, s), (b, t) = next((pair for pair in pairs if x <= log(pair[1][0])), pairs[-1])
    return exp(log(s) + (x - log(a)) * log(t / s) / log(b / a))


def makespan(seconds, machines):
    """Return when the last machine is done if the longest job left always goes to the next free."""
    loads = [0.0] * machines
    for job in sorted(seconds, reverse=True):
        loads[loads.index(min(loads))] += job
    return max(loads)


def pages(result, grid):
    """Return the page's tables as reStructuredText; ``grid`` writes a table."""
    works = {name: parse(name) for name in result["works"]}
    facts = result["machine"] | result["versions"]
    listed = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "torch dense")
    missed = [name for name, target in result["targets"].items() if not target["met"]]
    return f"""
Measured by ``{result["command"]}`` in one run, on two threads ({listed}). {limits(works, result)}

Targets
-------

What the project asks of itself. {len(missed)} of {len(result["targets"])} targets are missed; what
holds them is :ref:`below <speed-missed>`.

{grid(target_rows(result))}

Side by side
------------

Milliseconds of one step, the least of several runs; in brackets how many times ours, so that
numbers below 1 are faster than we are. One sweep of least squares, in float64:

{grid(peer_rows(result, works, ["als"]))}

A step of ADMM with the exact scale, and one pass of descent over all rows, for a factor of 512
rows, beside the one matrix product that they cannot do without:

{grid(peer_rows(result, works, ["admm_step", "descent"]))}

The factorized convolution, beside the same three stages by others and beside the dense kernel by
PyTorch, in float32, with 3x3 entries, padding 1 and as many channels out as in. The images are
written as channels x height x width.

{grid(peer_rows(result, works, ["conv"]))}

Growth
------

One sweep of :func:`~qcp_ref.tensors.als.cp_als`. Memory is the peak of NumPy's arrays, beyond
tensor and start, as Python's tracemalloc counts it when this page is built.

{grid(sweep_rows(result, works))}

{growth(result, works)}

The exact scale of 584,192 numbers, and the best of 200 trial scales. Its bits matter little until
the grid has many levels:

{grid(scale_rows(result, works))}

One thread and two:

{grid(thread_rows(result, works))}

Whole layers
------------

Method 'best' at rate 2 and 4 bits, and the shares of least squares, correction and search. Other
numbers of bits were not timed.

{grid(best_rows(result, works))}

A whole ResNet-50
-----------------

{resnet_text(result, works, grid)}
"""


def limits(works, result):
    """Say how fast the machine itself was in the run."""
    (double, single, copy) = (
        next(
            result["works"][name]["numpy"]["min"]
            for name, (found, values, _) in works.items()
            if found == kind and values.get("dtype", dtype) == dtype
        )
        for kind, dtype in (("gemm", "float64"), ("gemm", "float32"), ("copy", ""))
    )
    moved = next(int(v["n"]) for kind, v, _ in works.values() if kind == "copy") * 16
    return (
        f"The machine: {2 * 2048**3 / double / 1e9:.0f} GFLOP/s in a product of float64 matrices, "
        f"{2 * 2048**3 / single / 1e9:.0f} in float32, and {moved / copy / 1e9:.0f} GB/s in a copy."
    )


def label(kind, values):
    """Return a short name of a work, for the first column of a table."""
    if kind == "als":
        return f"{' x '.join(map(str, sides(values['shape'])))}, rank {values['rank']}"
    if kind == "conv":
        image = " x ".join(values[key] for key in ("channels", "side", "side"))
        return f"{image}, rank {values['rank']}, batch {values['batch']}"
    step = {"admm_step": "ADMM step", "descent": "descent"}[kind]
    return f"{step}, rank {values['rank']}, {values['bits']} bits"


def peak(shape, rank):
    """Return the bytes that one sweep needs at most, beyond tensor and start."""
    X = np.random.default_rng(1).standard_normal(shape)
    start = random_cp(shape, rank, rng=2)
    tracemalloc.start()
    try:
        cp_als(X, rank, init=start, max_sweeps=1, stop="none")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(result, works):
    """Say with which power time grows, between the ends of what was measured."""
    found = {
        (sides(v["shape"]), int(v["rank"])): result["works"][name]["qcp_ref"]["min"]
        for name, (kind, v, threads) in works.items()
        if kind == "als" and threads == 2
    }
    whole = {
        sides(v["shape"]): result["works"][name]["qcp_ref"]["min"]
        for name, (kind, v, _) in works.items()
        if kind == "best"
    }

    def power(a, b, ratio):
        return f"{log(b / a) / log(ratio):.1f}"

    def square(channels):
        return (channels, channels, 9)

    low, high = (found[square(128), r] for r in (128, 512))
    few, many = (found[(128, 128, k), 128] for k in (9, 49))
    small, large = (found[square(c), rank(square(c))] for c in (128, 512))
    return f"""
Time grew with these powers: with {power(low, high, 4)} of the rank (128 x 128 x 9, from 128 to
512), and with {power(few, many, 49 / 9)} of the entries of the kernel (128 x 128, from 9 to 49, at
rank 128). At rate 2 the rank grows with the channels C of a C x C x 9 kernel, and operations with
their cube; from 128 to 512 channels a sweep took the power {power(small, large, 4)}, and all of
'best' the power {power(whole[square(128)], whole[square(512)], 4)}. Small kernels do not reach the
rate of large products, so powers may lie below those of the operations."""


def parse(name):
    """Return kind, parameters and threads of a work from its name."""
    kind, inside, rest = re.fullmatch(r"(\w+)\((.*)\)(.*)", name).groups()
    values = dict(re.findall(r"(\w+)=(\([^)]*\)|[^,]+)", inside))
    return kind, values, 1 if rest else 2


def sides(text):
    """Return a shape that was printed."""
    return tuple(int(n) for n in re.findall(r"\d+", text))


def ms(figures):
    """Return the least milliseconds."""
    value = 1e3 * figures["min"]
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def target_rows(result):
    """Compare with what the project asks of itself."""
    rows = [["", "measured", "target", ""]]
    for name, t in result["targets"].items():
        bound = f"at least {t['at least']}" if "at least" in t else f"at most {t['at most']}"
        rows.append([name, f"{t['measured']:.3g}", bound, "met" if t["met"] else "**missed**"])
    return rows


def peer_rows(result, works, kinds):
    """List the works of some kinds that others do, too."""
    chosen = {
        name: (kind, values)
        for name, (kind, values, threads) in works.items()
        if kind in kinds and threads == 2 and len(result["works"][name]) > 1
    }
    names = [n for n in PEERS if any(n in result["works"][name] for name in chosen)]
    titles = ["matrix product" if n == "numpy" else n for n in names]
    rows = [["", "qcp_ref", *titles]]
    for name, (kind, values) in chosen.items():
        row = result["works"][name]
        ours = row["qcp_ref"]["min"]
        cells = [f"{ms(row[n])} ({row[n]['min'] / ours:.2f})" if n in row else "" for n in names]
        rows.append([label(kind, values), ms(row["qcp_ref"]), *cells])
    return rows


def sweep_rows(result, works):
    """List the sweeps of ours by shape and rank."""
    rows = [["sides", "rank", "ms", "memory, MB"]]
    found = {
        (sides(v["shape"]), int(v["rank"])): result["works"][name]["qcp_ref"]
        for name, (kind, v, threads) in works.items()
        if kind == "als" and threads == 2
    }
    for (shape, r), figures in sorted(found.items(), key=lambda item: (item[0][0], item[0][1])):
        side = " x ".join(map(str, shape))
        rows.append([side, str(r), ms(figures), f"{peak(shape, r) / 1e6:.1f}"])
    return rows


def scale_rows(result, works):
    """List the searches for a scale by bits."""
    rows = [["rule", "bits", "ms"]]
    for name, (kind, values, _) in works.items():
        if kind == "scale":
            rule = values.get("rule", "mse-exact")
            rows.append([rule, values["bits"], ms(result["works"][name]["qcp_ref"])])
    return rows


def thread_rows(result, works):
    """List what was measured with one thread and with two."""
    rows = [["", "1 thread, ms", "2 threads, ms"]]
    for name, (kind, values, threads) in works.items():
        if threads == 1:
            both = result["works"][name], result["works"][name.removesuffix(" on 1 thread")]
            what = {"als": "sweep", "conv": "convolution"}[kind]
            cells = [ms(row["qcp_ref"]) for row in both]
            rows.append([f"{what}, {label(kind, values)}", *cells])
    return rows


def best_rows(result, works):
    """List whole runs of 'best'."""
    rows = [["sides", "rank", "seconds", "als", "epc", "search"]]
    for name, (kind, values, _) in works.items():
        if kind == "best":
            figures = result["works"][name]["qcp_ref"]
            split, total = figures["split"], sum(figures["split"].values())
            shares = [f"{split.get(s, 0) / total:.0%}" for s in ("als", "epc", "polish")]
            side = " x ".join(map(str, sides(values["shape"])))
            rows.append([side, values["rank"], f"{figures['min']:.1f}", *shares])
    return rows


def resnet_text(result, works, grid):
    """Estimate a ResNet-50 from the layers measured."""
    measured = {
        sides(values["shape"]): result["works"][name]["qcp_ref"]["min"]
        for name, (kind, values, _) in works.items()
        if kind == "best"
    }
    counts = resnet50()
    times = {shape: interpolated(measured, shape) for shape in counts}
    jobs = [times[shape] for shape, count in counts.items() for _ in range(count)]
    inside = sum(count for shape, count in counts.items() if shape in measured)
    rows = [["machines", "minutes"]]
    rows += [[str(n), f"{makespan(jobs, n) / 60:.1f}"] for n in (1, 2, 4, 8, 16)]
    longest = max(times, key=times.get)
    return f"""
Extrapolated, not measured: {len(jobs)} convolutions, all but the first, four of them on shortcuts,
at rate 2 and 4 bits by 'best'. {inside} of them have a shape that was measured above; the others
lie on straight lines through the logarithms of seconds and of the operations of a sweep, through
the nearest measured shapes of as many modes, and a few beyond their ends. Layers do not
depend on each other: whichever machine is free takes the longest layer that is left, and all
machines are like this one.

{grid(rows)}

No number of machines goes below the {times[longest] / 60:.1f} minutes of the longest layer,
{" x ".join(map(str, longest))} at rank {rank(longest)}; a sweep of it also needs the most memory,
and stands in the table of growth."""
