"""The demo's picture."""

from pathlib import Path
from typing import Any

import numpy as np

from qcp_ref.app.demo.measure import BASELINES, DemoResult, LayerResult
from qcp_ref.app.files import write_atomically

__all__ = ["draw_demo"]

# Okabe and Ito's palette, distinguishable with colour-blind eyes; markers and lines differ as well.
_BLUE, _ORANGE, _PURPLE, _GREEN, _GREY = "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#666666"
_STYLES = {"als-round": (_ORANGE, "s"), "authors": (_PURPLE, "^"), "float": (_GREY, "d")}
_CHOSEN, _DENSE = (_BLUE, "*"), (_GREEN, "o")
_LEVELS = (-8, 7)  # of a finer grid, only those in the middle are drawn


def draw_demo(result: DemoResult, path: Path) -> Path:
    """Draw error histories, values of one factor on their levels, and accuracies with BOPs."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3)
        row = max(result.layers, key=lambda layer: layer.float_error)
        _history(axes[0], row)
        _levels(axes[1], row)
        _accuracy(axes[2], result)
        return write_atomically(path, lambda part: figure.savefig(part, dpi=150))


def _history(axes: Any, row: LayerResult) -> None:
    """Error of the factors on their grids by sweep, between the float fit and plain rounding."""
    axes.set_title(f"{row.name}: error while on the grid")
    for method, layer in row.methods.items():
        color, marker = _STYLES.get(method, _CHOSEN)
        error = layer.fit.history.error
        if not len(error):
            axes.axhline(layer.error, color=color, ls="--", label=f"{method}, rounded once")
            continue
        best, style = int(error.argmin()), {"color": color, "marker": marker}
        sweeps = np.arange(1, len(error) + 1)
        axes.plot(sweeps, error, markevery=[best], ms=9, label=method, **style)
    axes.axhline(row.float_error, color=_GREY, ls=":", label="least squares, not quantized")
    axes.set(xlabel="sweep (marker: returned)", ylabel="relative error", ylim=(0, None))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="best", edgecolor="none", framealpha=0.9)


def _levels(axes: Any, row: LayerResult) -> None:
    """Draw one factor in steps: floats before their rounding, and levels found by search."""
    axes.set_title(f"{row.name}: entries of the input factor")
    q, method = row.layer.cp, row.layer.method
    # an odd number of bins per step, so that each level is the middle of one
    low, high = max(q.grid.qmin, _LEVELS[0]), min(q.grid.qmax, _LEVELS[1])
    bins = np.arange(low - 1, high + 1.01, 1 / 9) + q.grid.offset - 1 / 18
    for name, label, kind in (
        ("authors", "authors: ADMM, before rounding", "stepfilled"),
        ("als-round", "least squares, before rounding", "step"),
    ):
        layer, color = row.methods[name], _STYLES[name][0]
        values = (layer.fit.relaxed.factors[1] / layer.cp.scales[1]).ravel()
        share = np.full(values.size, 100 / values.size)
        axes.hist(values, bins, weights=share, histtype=kind, color=color, label=label)
    if method not in BASELINES:  # its floats have been left behind: there is nothing to gather
        codes, counts = np.unique(q.codes[1], return_counts=True)
        share, style = 100 * counts / counts.sum(), {"color": _BLUE, "lw": 0.8}
        axes.plot(codes + q.grid.offset, share, "*-", label=f"{method}: final levels", **style)
    levels = "half-integers" if q.grid.mid_rise else "integers"
    axes.set(xlabel=f"value / step (the levels are {levels})", ylabel="% of the entries, per bin")
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)  # room for the legend
    axes.set_xticks(np.arange(low, high + 1, max(1, (high - low) // 7)))
    axes.set_xlim(bins[0], bins[-1])
    axes.legend(frameon=False, loc="upper right")


def _accuracy(axes: Any, result: DemoResult) -> None:
    """Accuracy of all variants, with the interval of its change and the share of BOPs."""
    axes.set_title("accuracy and 95 % interval of its change")
    base, total = result.accuracy["float"]["accuracy"], result.network_bops["float"]
    axes.axvline(100 * base, color=_GREY, ls=":")
    ticks = []
    for place, (label, row) in enumerate(result.accuracy.items()):
        default = _CHOSEN if label == result.settings.method else _DENSE
        color, marker = _STYLES.get(label, default)
        x = 100 * row["accuracy"]
        bars = [[abs(x - 100 * (base + row.get(side, 0.0)))] for side in ("low", "high")]
        axes.errorbar(x, place, xerr=bars, fmt=marker, color=color, ms=8, capsize=3)
        ticks.append(f"{label}\n{result.network_bops[label] / total:.2%} of BOPs")
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.set_xlabel("accuracy, %")
