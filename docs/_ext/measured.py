"""The tables of measured errors, for the pages on search and on reproduction."""

from statistics import fmean, median

REPRODUCTION = {  # names of benchmarks/reproduction.py
    "rounded": "least squares, rounded",
    "default": "``method='authors'`` as it is here",
    "trials": "... with their 200 trial scales",
    "limits": "... with their limits of sweeps and steps",
    "start": "... from their start",
    "all": "... with all three",
    "last": "... all three, error of the last sweep",
    "recipe": "... with ``recipe='authors'``",
    "authors": "their scales, steps, start and recipe, at most 60 sweeps",
    "requantized": "... quantized once more, 1,000 trials",
    "unit": "... from unit columns, the weights dropped",
    "sweep": "... with ``refit='sweep'``",
    "frozen": "... with ``refit='frozen'``",
    "best": "``method='best'``",
}


def grid(rows):
    """Write a table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(row)]
    return "\n".join(lines)


def quality(measured):
    """Return the tables of the search page, from what benchmarks/quality.py has measured."""
    layer, machine = measured["layer"], measured["machine"]

    def spread(errors):
        return f"{median(errors):.4f}", f"{min(errors):.4f} to {max(errors):.4f}"

    def row(first, run):
        means = [fmean(column) for column in zip(*run["errors"].values(), strict=True)]
        own = run["errors"][layer]
        return [first, *spread(means), spread(own)[0], f"{median(run['seconds']):.1f}"]

    header = ["", "mean of the layers", "range", f"``{layer}``", "seconds"]
    floats, dense = measured["float"], measured["dense"]
    rows = [
        header,
        ["float, least squares", f"{fmean(floats.values()):.4f}", "", f"{floats[layer]:.4f}", ""],
    ]
    rows += [row(f"{run['bits']} bits, {run['method']}", run) for run in measured["runs"]]
    for name in dense[layer]:
        average = fmean(errors[name] for errors in dense.values())
        rows.append([f"dense, {name}", f"{average:.4f}", "", f"{dense[layer][name]:.4f}", ""])
    sweeps = [["sweeps", *header[1:]]]
    sweeps += [row(f"{run['sweeps']}", run) for run in measured["curve"]]
    sizes = [["bits", "rank", "sweeps", "bits in all", "error", "range"]]
    sizes += [
        [f"{run[key]}" for key in ("bits", "rank", "sweeps", "total_bits")]
        + [*spread(run["errors"])]
        for run in measured["equal_size"]
    ]
    origin = measured["weights"]["file"]
    if "sha256" in measured["weights"]:
        origin = f"``{origin}`` (SHA-256 {measured['weights']['sha256'][:12]}...)"
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    return f"""
Measured on the {len(floats)} kernels of {origin}, rate {measured["rate"]}, by
``{measured["command"]}`` ({facts}): relative Frobenius errors, medians over seeds; seconds are
those of all layers together on two processes. Dense quantizers of 2 bits take as much room as
4 bits at rate 2 :eq:`cost-equal`.

{grid(rows)}

Method 'best' with more and more sweeps of noise:

{grid(sweeps)}

Fewer bits and more components: ``{layer}`` at one size, scales included:

{grid(sizes)}
"""


def reproduction(measured):
    """Return the table of runs and that of scales, from benchmarks/reproduction.py."""
    rows = [["", *(f"``{name}``" for name in measured["runs"])]]
    for key, says in REPRODUCTION.items():
        runs = [errors[key] for errors in measured["runs"].values()]
        rows.append([says, *(f"{median(e):.4f} ({min(e):.4f} to {max(e):.4f})" for e in runs)])
    scales = [["bits", "largest excess", "median"]]
    scales += [
        [bits, f"{100 * max(found):.2f} %", f"{100 * median(found):.2f} %"]
        for bits, found in measured["scales"].items()
    ]
    facts = ", ".join(f"{name} {value}" for name, value in measured["machine"].items())
    origin = f"By ``{measured['command']}`` ({facts})."
    return f"{grid(rows)}\n\n{origin}\n", grid(scales)
