"""The demo's picture."""

from pathlib import Path
from typing import Any

import numpy as np

from qcp_ref.app.demo import DemoResult
from qcp_ref.app.files import write_atomically

__all__ = ["draw_demo"]

# Okabe and Ito's palette, distinguishable with colour-blind eyes; markers and lines differ as well.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def draw_demo(result: DemoResult, path: Path) -> Path:
    """Draw error history, factor values on their levels, and accuracy against BOPs."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3)
        row = max(result.layers, key=lambda layer: layer.layer.fit.start_error)
        _history(axes[0], row)
        _gathering(axes[1], row)
        _tradeoff(axes[2], result)
        return write_atomically(path, lambda part: figure.savefig(part, dpi=150))


def _history(axes: Any, row: Any) -> None:
    """Error of the feasible factors by sweep, between the float fit and plain rounding."""
    error = row.layer.fit.history.error
    axes.set_title(f"{row.name}: error while on the grid")
    axes.axhline(row.rounded.error, color=_ORANGE, ls="--", label="least squares, then rounded")
    if len(error):
        axes.plot(
            np.arange(1, len(error) + 1),
            error,
            "o-",
            ms=3,
            color=_BLUE,
            label="ADMM, after each sweep",
        )
        best = int(error.argmin())
        axes.plot(best + 1, error[best], "*", ms=12, color=_BLUE, label="best iterate, returned")
    axes.axhline(row.layer.fit.start_error, color=_GREY, ls=":", label="float factors, same rank")
    axes.set(xlabel="sweep", ylabel="relative error", ylim=(0, None))
    axes.legend(frameon=False, loc="best")


def _gathering(axes: Any, row: Any) -> None:
    """Distribution of one factor, in units of its step, for rounding and for ADMM."""
    q, relaxed = row.layer.cp, row.layer.fit.relaxed
    rounded = row.rounded.fit
    axes.set_title(f"{row.name}: input factor before the last rounding")
    # an odd number of bins per step, so that each level is the middle of one
    bins = np.arange(q.grid.qmin - 1, q.grid.qmax + 1.01, 1 / 9) + q.grid.offset - 1 / 18
    for cp, codes, color, label, filled in (
        (rounded.relaxed, rounded.cp, _ORANGE, "least squares", False),
        (relaxed, q, _BLUE, "ADMM", True),
    ):
        values = (cp.factors[1] / codes.scales[1]).ravel()
        axes.hist(
            values,
            bins=bins,
            density=True,
            color=color,
            label=label,
            histtype="stepfilled" if filled else "step",
            alpha=0.85 if filled else 1.0,
        )
    levels = "half-integers" if q.grid.mid_rise else "integers"
    axes.set(xlabel=f"value / step (the levels are {levels})", ylabel="density")
    axes.set_xticks(
        np.arange(q.grid.qmin, q.grid.qmax + 1, max(1, (q.grid.qmax - q.grid.qmin) // 7))
    )
    axes.legend(frameon=False)


def _tradeoff(axes: Any, result: DemoResult) -> None:
    """Accuracy of all variants against the share of the float network's BOPs."""
    axes.set_title("accuracy against bit operations")
    total = result.network_bops["float"]
    base = result.accuracy["float"]["accuracy"]
    axes.axhline(100 * base, color=_GREY, ls=":", label="float network")
    colors = {"als-round": (_ORANGE, "s"), result.settings.method: (_BLUE, "*")}
    shapes = iter("ovD^")
    for label, row in result.accuracy.items():
        if label == "float":
            continue
        color, marker = colors.get(label) or (_GREEN, next(shapes))
        x, y = 100 * result.network_bops[label] / total, 100 * row["accuracy"]
        low, high = (100 * (base + row[side]) for side in ("low", "high"))
        axes.errorbar(
            x,
            y,
            yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
            fmt=marker,
            color=color,
            ms=9 if marker == "*" else 6,
            capsize=3,
            label=label,
        )
    axes.set(xlabel="BOPs, % of the float network", ylabel="accuracy, %")
    axes.set_xlim(0, 1.15 * axes.dataLim.x1)
    axes.legend(frameon=False, loc="best")
