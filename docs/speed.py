"""The tables of the page on speed, from what benchmarks/run.py has measured."""

import re
from itertools import pairwise
from math import exp, log, prod

# Convolutions of a ResNet-50, without the first: (count, output channels, input channels, entries).
# The stages have 3, 4, 6 and 3 blocks of 1x1, 3x3 and 1x1; the first block of each also has a 1x1
# convolution on its shortcut.
STAGES = ((3, 64, 64, 256), (4, 128, 256, 512), (6, 256, 512, 1024), (3, 512, 1024, 2048))
FLOAT64 = 8


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
    listed = ", ".join(f"{name} {value}" for name, value in facts.items())
    return f"""
Measured by ``{result["command"]}`` in one run ({listed}).

Targets
-------

{grid(target_rows(result))}

Side by side
------------

Milliseconds of one step, the least of several runs; in brackets how many times ours. Sweeps and
steps in float64, convolutions in float32 with padding 1, on two threads.

{grid(peer_rows(result, works))}

Growth
------

One sweep of :func:`~qcp_ref.als.cp_als`. Memory is its peak, beyond tensor and factors.

{grid(sweep_rows(result, works))}

The exact scale of 584,192 numbers:

{grid(scale_rows(result, works))}

The factorized convolution, 64 channels and rank 134, one image:

{grid(conv_rows(result, works))}

One thread and two:

{grid(thread_rows(result, works))}

Whole layers
------------

Method 'best' at rate 2 and 4 bits, and the shares of least squares, correction and search:

{grid(best_rows(result, works))}

A whole ResNet-50
-----------------

{resnet_text(result, works, grid)}
"""


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


def peer_rows(result, works):
    """List the works that others do, too."""
    names = ["qcp_ref", "torch", "tensorly", "pyttb", "onnxruntime", "torch dense", "numpy"]
    rows = [["", *names]]
    for name, (kind, _, threads) in works.items():
        row = result["works"][name]
        if len(row) > 1 and threads == 2 and kind != "copy":
            ours = row["qcp_ref"]["min"]
            cells = [
                f"{ms(row[n])} ({row[n]['min'] / ours:.2f})" if n in row else "" for n in names
            ]
            rows.append([f"``{name}``", ms(row["qcp_ref"]), *cells[1:]])
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
        rows.append([side, str(r), ms(figures), f"{figures['peak'] / 1e6:.1f}"])
    return rows


def scale_rows(result, works):
    """List the searches for a scale by bits."""
    rows = [["rule", "bits", "ms"]]
    for name, (kind, values, _) in works.items():
        if kind == "scale":
            rule = values.get("rule", "mse-exact")
            rows.append([rule, values["bits"], ms(result["works"][name]["qcp_ref"])])
    return rows


def conv_rows(result, works):
    """List convolutions by the size of the image."""
    rows = [["side of the image", "ours, ms", "torch, ms", "onnxruntime, ms", "torch dense, ms"]]
    chosen = sorted(
        (int(v["side"]), result["works"][name])
        for name, (kind, v, threads) in works.items()
        if kind == "conv" and (v["channels"], v["batch"], threads) == ("64", "1", 2)
    )
    for side, row in chosen:
        names = ("qcp_ref", "torch", "onnxruntime", "torch dense")
        rows.append([str(side), *(ms(row[n]) for n in names)])
    return rows


def thread_rows(result, works):
    """List what was measured with one thread and with two."""
    rows = [["", "1 thread, ms", "2 threads, ms"]]
    for name, (_, _, threads) in works.items():
        if threads == 1:
            both = result["works"][name], result["works"][name.removesuffix(" on 1 thread")]
            rows.append(
                [f"``{name.removesuffix(' on 1 thread')}``", *(ms(row["qcp_ref"]) for row in both)]
            )
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
    rows = [["machines", "minutes", "bound by the longest layer, minutes"]]
    rows += [
        [str(n), f"{makespan(jobs, n) / 60:.1f}", f"{max(jobs) / 60:.1f}"] for n in (1, 2, 4, 8, 16)
    ]
    widest = max(counts, key=lambda shape: prod(shape[:2]) * rank(shape))
    memory = FLOAT64 * max(prod(s) + rank(s) * prod(s[1:]) for s in counts) / 1e9
    return f"""
Extrapolated, not measured: all {len(jobs)} convolutions but the first, at rate 2 and 4 bits by
'best'. {inside} of them have a shape that was measured above; the others lie on a straight line
through the logarithms of seconds and of the operations of a sweep, between measured shapes of as
many modes. Layers do not depend on each other: each of several machines like this one takes the
longest layer that is left.

{grid(rows)}

The widest layer has the sides {" x ".join(map(str, widest))}. The tensor and the largest
intermediate result of a sweep take at most {memory:.2f} GB."""
