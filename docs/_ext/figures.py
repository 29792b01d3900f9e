"""The figures of the theory pages, drawn at each build, for light and for dark pages.

Each figure is a function of its own that draws on a transparent background, from results of the
public names of qcp_ref; its docstring's second paragraph is the text for those who do not see it.
``write`` makes two SVG files of each, and the lines of reStructuredText that show the right one.
"""

from functools import cache
from inspect import cleandoc
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

import qcp_ref as qcp
from qcp_ref.app.network import load_network

# Okabe and Ito's colours, lighter where the page is dark; lines and markers differ as well.
LIGHT = {"ink": "#333333", "soft": "#999999", "page": "#ffffff", "fill": "#e4edf5"}
LIGHT |= {"blue": "#0072B2", "orange": "#D55E00", "green": "#007a5a", "purple": "#a8487f"}
DARK = {"ink": "#d8d8d8", "soft": "#7d7d7d", "page": "#131416", "fill": "#22313d"}
DARK |= {"blue": "#56B4E9", "orange": "#E69F00", "green": "#2fc79a", "purple": "#e08fba"}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",  # looks the same without any fonts
    "svg.hashsalt": "qcp_ref",  # names inside the file do not change from build to build
}


def write(folder: Path) -> list[str]:
    """Draw everything; return the names of the files that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for draw in (stages, grid_scale, swamp, admm_path, gathering):
        name = draw.__name__
        for mode, colors in (("light", LIGHT), ("dark", DARK)):
            lines = dict.fromkeys(("text.color", "axes.labelcolor"), colors["ink"])
            lines |= {f"{axis}tick.color": colors["ink"] for axis in "xy"}
            lines |= {"axes.edgecolor": colors["soft"]}
            with mpl.rc_context({**STYLE, **lines}):
                figure = Figure(layout="constrained")
                FigureCanvasSVG(figure)
                draw(figure, colors)
                file = folder / f"{name}-{mode}.svg"
                figure.savefig(file, transparent=True, metadata={"Date": None})
                written.append(file.name)
        alt = " ".join(cleandoc(draw.__doc__).split("\n\n")[1].split())
        shown = "".join(
            f".. image:: /_generated/figures/{name}-{mode}.svg\n"
            f"   :class: only-{mode}\n   :align: center\n   :alt: {alt}\n\n"
            for mode in ("light", "dark")
        )
        file = folder / f"{name}.rst"
        file.write_text(shown, encoding="utf-8")
        written.append(file.name)
    return written


def stages(figure, c):
    """Draw a kernel as a sum of products of three vectors, and what it becomes.

    Above, a box with the sides out, in and kernel equals a sum of R products of three thin bars.
    Below, the input with its channels passes a pointwise stage to R channels, a depthwise stage
    that treats each of them apart, and a pointwise stage to the output channels.
    """
    figure.set_size_inches(7.2, 3.9)
    axes = figure.subplots()
    axes.set(xlim=(0, 72), ylim=(0, 39), aspect="equal")
    axes.set_axis_off()
    shade = {"facecolor": c["fill"], "edgecolor": c["ink"], "lw": 1}

    def text(x, y, words, color="ink", **options):
        options = {"ha": "center", "va": "center", **options}
        axes.text(x, y, words, color=c[color], **options)

    def box(x, y, width, height, depth, **style):
        style = {**shade, **style}
        d = 0.5 * depth
        axes.add_patch(Rectangle((x, y), width, height, **style))
        top = [(x, y + height), (x + d, y + height + d)]
        top += [(x + width + d, y + height + d), (x + width, y + height)]
        side = [(x + width, y), (x + width + d, y + d)]
        side += [(x + width + d, y + height + d), (x + width, y + height)]
        axes.add_patch(Polygon(top, **style))
        axes.add_patch(Polygon(side, **style))

    box(7, 25, 8, 9, 5)
    text(4.8, 29.5, "out", rotation=90)
    text(11, 23.3, "in")
    text(18.6, 25.2, "kernel", ha="left")
    text(23, 31, "=", fontsize=14)
    for x in (27, 45):
        axes.add_patch(Rectangle((x, 24.5), 1, 9, **{**shade, "facecolor": c["blue"]}))
        axes.add_patch(Rectangle((x + 2, 33.5), 8, 1, **{**shade, "facecolor": c["orange"]}))
        bar = [(x + 1.2, 35), (x + 2.2, 35), (x + 4.7, 37.5), (x + 3.7, 37.5)]
        axes.add_patch(Polygon(bar, **{**shade, "facecolor": c["green"]}))
    text(30, 28.5, "a_out", "blue", ha="left")
    text(36.9, 32, "a_in", "orange", ha="right")
    text(32.5, 36.8, "a_kernel", "green", ha="left")
    text(41, 30, "+", fontsize=12)
    text(58, 30, "+ …   (R of them)", ha="left")

    places = [(3, 8, 6, 4), (23, 9.5, 4, 2), (42, 9.5, 4, 2), (61, 7.5, 6, 5)]
    names = ["in", "R", "R", "out"]
    for (x, y, side, channels), name in zip(places, names, strict=True):
        for n in reversed(range(channels)):
            axes.add_patch(Rectangle((x + 0.8 * n, y + 0.8 * n), side, side, **shade))
        text(x + side / 2, y - 1.8, f"{name} channels")
    arrows = [(12.5, 22), (30, 41), (49, 60)]
    words = [("pointwise", "a_in", "orange"), ("depthwise", "a_kernel", "green")]
    words.append(("pointwise", "a_out", "blue"))
    for (start, end), (stage, factor, color) in zip(arrows, words, strict=True):
        arrow = {"arrowstyle": "-|>", "color": c["ink"], "lw": 1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (end, 12), (start, 12), arrowprops=arrow)
        text((start + end) / 2, 13.7, stage)
        text((start + end) / 2, 10.3, factor, color)
    text(35.5, 4.4, "with stride, padding, dilation", fontsize=8)


def grid_scale(figure, c):
    """Draw the staircase of a quantizer, and its error as a function of the scale.

    Left, a staircase with eight levels that follows the diagonal and is flat beyond both ends.
    Right, the squared error over the scale: a chain of parabolas with kinks at the breakpoints,
    several local minima, and a mark at the lowest one.
    """
    figure.set_size_inches(7.2, 3.0)
    left, right = figure.subplots(1, 2)
    grid, x = qcp.Grid(3), np.linspace(-6, 6, 1201)
    left.plot(x, x, color=c["soft"], lw=1, ls=":")
    left.plot(x, qcp.project(x, grid, scale=1.0), color=c["blue"], lw=1.6)
    left.plot(grid.levels, grid.levels, "o", color=c["orange"], ms=4)
    left.annotate("clipped", (5.0, 3.0), (3.2, 0.4), color=c["ink"], ha="left")
    left.annotate("clipped", (-5.2, -4.0), (-5.8, -2.6), color=c["ink"], ha="left")
    left.set(xlabel="x / s", ylabel="level", title="3 bits, full range")
    left.set_xticks(range(-6, 7, 2))

    numbers = np.array([1.0, -1.7, 0.45, 2.6, -3.1])
    scales = np.linspace(0.5, 2.6, 2000)
    errors = [((numbers - qcp.project(numbers, grid, scale=s)) ** 2).sum() for s in scales]
    best = qcp.choose_scale(numbers, grid).scale
    least = ((numbers - qcp.project(numbers, grid, scale=best)) ** 2).sum()
    thresholds = grid.levels[:-1] + 0.5
    points = [v / t for v in numbers for t in thresholds if v / t > 0]
    right.plot(scales, errors, color=c["blue"], lw=1.6)
    right.plot(points, np.full(len(points), -0.08), "|", color=c["soft"], ms=7, label="breakpoints")
    right.plot(best, least, "*", color=c["orange"], ms=11, label="the best scale")
    right.set(xlim=(0.5, 2.6), ylim=(-0.15, 2.3), xlabel="scale s", ylabel="squared error")
    right.set_title("five numbers on this grid")
    right.legend(loc="upper left")


def swamp(figure, c):
    """Draw errors of alternating least squares by sweep, and components that grow.

    Left, the relative errors of five starts over the sweeps, on logarithmic axes: they fall, stay
    on a plateau for hundreds of sweeps and fall again, at different times. Right, for a tensor
    without a best fit the error falls without end while the norm of the components rises.
    """
    figure.set_size_inches(7.2, 3.0)
    left, right = figure.subplots(1, 2)
    runs, growth = swamps()
    styles = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
    for errors, style in zip(runs, styles, strict=True):
        left.loglog(np.arange(1, len(errors) + 1), errors, color=c["blue"], lw=1.3, ls=style)
    left.set(xlabel="sweep", ylabel="relative error", title="five starts, one tensor")
    sweeps, errors, norms = growth
    right.loglog(sweeps, errors, "o-", color=c["blue"], ms=4, label="relative error")
    right.loglog(sweeps, norms, "s--", color=c["orange"], ms=4, label="largest component")
    right.set(xlabel="sweeps", title="a tensor without a best fit")
    right.legend(loc="center left")


@cache
def swamps():
    """Return error curves from five starts, and error and norms at several lengths of one run."""
    rng = np.random.default_rng(101)
    factors = []
    for _ in range(3):
        base, own = rng.standard_normal((6, 1)), rng.standard_normal((6, 4))
        factors.append(base / np.linalg.norm(base) + 0.45 * own / np.linalg.norm(own, axis=0))
    X = qcp.reconstruct(qcp.CP(factors))
    options = {"max_sweeps": 2000, "stop": "error-below", "tol": 1e-4}
    runs = [qcp.cp_als(X, 4, rng=seed, **options).history.error for seed in range(5)]
    a, b = np.eye(2)
    W = sum(np.einsum("i,j,k->ijk", *t) for t in ((a, a, b), (a, b, a), (b, a, a)))
    sweeps, errors, norms = (10, 30, 100, 300, 1000, 3000), [], []
    for n in sweeps:
        fit = qcp.cp_als(W, 2, max_sweeps=n, stop="none", rng=1)
        errors.append(fit.error)
        norms.append(qcp.normalize(fit.cp).weights.max())
    return runs, (sweeps, errors, norms)


def admm_path(figure, c):
    """Draw the set of a row of two entries of two bits, and two ways that ADMM takes.

    Two panels with rays from the origin, one for each direction of a pair of codes, and the
    ellipses of the objective. Left, H leaves the ray of the rounded point for the best one and
    rests there, where T meets it. Right, H goes back and forth between two rays and never rests.
    """
    figure.set_size_inches(7.2, 3.5)
    left, right = figure.subplots(1, 2, sharey=True)
    settles, cycles = one_row(-1.4, (-2.33, -0.58)), one_row(-1.6, (-1.94, -1.41))
    show_path(left, c, settles, "it settles")
    show_path(right, c, cycles, "it cycles")
    left.set_ylabel("second entry")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def show_path(axes, c, problem, title):
    """Draw one problem: rays, objective, iterates, and the best point of the set."""
    center, G, path = problem
    for direction in rays():
        axes.plot(*np.outer(direction, [0, 9]), color=c["soft"], lw=1, zorder=1)
    side = np.linspace(-3, 1, 201)
    d = np.stack(np.meshgrid(side - center[0], side - center[1]), axis=-1)
    value = np.einsum("yxi,ij,yxj->yx", d, G, d)
    rings = 0.35 * np.arange(1, 6) ** 2 / 4
    axes.contour(side, side, value, rings, colors=c["green"], linewidths=0.7, alpha=0.7)
    T, H = (np.array(points) for points in zip(*path, strict=True))
    axes.plot(*T.T, "o--", color=c["blue"], ms=3.5, lw=0.8, label="T")
    axes.plot(*H.T, "s-", color=c["orange"], ms=3.5, lw=0.8, label="H, on the set")
    axes.plot(*center, "+", color=c["ink"], ms=11, mew=1.6, label="best of all")
    rounded = qcp.project(center[None], qcp.Grid(2))[0]
    axes.plot(*rounded, "X", color=c["purple"], ms=8, label="that, rounded")
    axes.plot(*best_on_rays(center, G), "*", mfc=c["orange"], mec=c["page"], ms=14, zorder=4)
    axes.plot([], [], "*", color=c["orange"], ms=11, label="best of the set")
    axes.set(xlim=(-2.75, 0.2), ylim=(-2.05, 0.2), aspect="equal")
    axes.set(xlabel="first entry", title=title)


def rays():
    """Return the directions of all pairs of codes of two bits."""
    pairs = np.array(np.meshgrid(*[qcp.Grid(2).levels] * 2)).reshape(2, -1).T
    pairs = pairs[pairs.any(axis=1)]
    return np.unique((pairs / np.linalg.norm(pairs, axis=1)[:, None]).round(12), axis=0)


def best_on_rays(center, G):
    """Return the point of the set where the objective is least, by trying every ray."""
    D = rays()
    lengths = np.maximum(D @ G @ center / np.einsum("di,ij,dj->d", D, G, D), 0)
    d = D * lengths[:, None] - center
    return center + d[np.einsum("di,ij,dj->d", d, G, d).argmin()]


@cache
def one_row(coupling, center):
    """Return a small problem and the iterates (T, H) of its run."""
    center, G = np.array(center), np.array([[2.0, coupling], [coupling, 2.0]])
    path, dual = [], np.zeros((1, 2))

    def project(V):
        H = qcp.project(V, qcp.Grid(2))
        path.append(((V + dual)[0], H[0]))  # what is projected is T minus the dual
        dual[:] = H - V
        return H

    start = qcp.project(center[None], qcp.Grid(2))
    qcp.admm((center @ G)[None], G, project, start=start)
    return center, G, path


def gathering(figure, c):
    """Draw how the entries of a factor gather on the levels of their grid.

    Two histograms over the codes. Before, the entries of the float factor are spread without regard
    to the levels. After, those of the relaxed iterate stand in narrow peaks at the integers.
    """
    figure.set_size_inches(7.2, 2.7)
    left, right = figure.subplots(1, 2, sharey=True)
    before, after = entries()
    edges = np.arange(-8.5, 7.6, 0.2)
    for axes, values, title in (
        (left, before, "before: corrected float factor"),
        (right, after, "after: what ADMM rounds last"),
    ):
        axes.vlines(
            range(-8, 8), 0, 1, transform=axes.get_xaxis_transform(), color=c["soft"], lw=0.5
        )
        axes.hist(values, edges, color=c["blue"])
        axes.set(xlim=(-8.6, 7.6), xlabel="entry / scale", title=title)
        axes.set_xticks(range(-8, 8, 2))
    left.set_ylabel("entries")


@cache
def entries():
    """Return the entries of a_in in steps, before and after AO-ADMM."""
    X = qcp.kernel_to_tensor(load_network()["block1.conv1.weight"])
    grid, rank = qcp.Grid(4), qcp.rank_for_rate(X.shape, 2)
    start = qcp.balance(qcp.epc(X, qcp.cp_als(X, rank, rng=0).cp, max_sweeps=200).cp)
    fit = qcp.ao_admm(X, rank, grid, start=start)
    first = qcp.choose_scale(start.factors[1], grid).scale
    return (start.factors[1] / first).ravel(), (fit.relaxed.factors[1] / fit.cp.scales[1]).ravel()
