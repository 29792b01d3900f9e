"""The picture is a whole PNG with three panels that show the result's numbers."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from qcp_ref import Grid, compress_conv
from qcp_ref.app.demo import plots
from qcp_ref.factors.methods import METHODS


def test_picture_is_written_whole(demo_result, tmp_path):
    result, _ = demo_result
    path = plots.draw_demo(result, tmp_path / "demo.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["demo.png"]


def test_panels_show_the_history_the_values_and_the_accuracies(demo_result):
    result, _ = demo_result
    (row,) = result.layers
    axes = Figure().subplots(1, 3)
    plots._history(axes[0], row)
    curves = {line.get_label(): line for line in axes[0].lines}
    for method in ("authors", "best"):
        error = row.methods[method].fit.history.error
        assert np.array_equal(curves[method].get_ydata(), error)
        assert curves[method].get_markevery() == [error.argmin()]  # the iterate that is returned
    for label, level in (("als-round, rounded once", 0), ("least squares, not quantized", None)):
        expected = row.float_error if level is None else row.methods["als-round"].error
        assert set(curves[label].get_ydata()) == {expected}
    plots._levels(axes[1], row)
    assert len(axes[1].patches) == 2
    (levels,) = axes[1].lines
    assert dict(zip(*levels.get_data(), strict=True)) == pytest.approx(
        {k: 100 * (row.layer.cp.codes[1] == k).mean() for k in range(-8, 8)}
    )
    plots._accuracy(axes[2], result)
    assert [label.get_text().split("\n")[0] for label in axes[2].get_yticklabels()] == list(
        result.accuracy
    )
    points = [bar.lines[0].get_xdata()[0] for bar in axes[2].containers]
    assert points == [100 * numbers["accuracy"] for numbers in result.accuracy.values()]


def test_floats_gather_on_the_levels_for_admm_only(demo_result):
    result, _ = demo_result
    (row,) = result.layers
    axes = Figure().subplots()
    plots._levels(axes, row)
    labels = [patch.get_label() for patch in axes.patches]
    assert labels == ["authors: ADMM, before rounding", "least squares, before rounding"]
    shares = [np.diff(patch.get_path().vertices[:, 1]).max() for patch in axes.patches]
    assert shares[0] > 3 * shares[1]


def with_others(result, method, grid):
    """Return a result of another method, with a small kernel on another grid in it."""
    settings = replace(result.settings, method=method)
    W = np.random.default_rng(5).standard_normal((12, 8, 3, 3))
    layers = {m: compress_conv(W, rank=6, bits=grid, method=m) for m in settings.methods}
    row = replace(result.layers[0], layer=layers.pop(method), others=layers)
    labels = ["float", *settings.methods, "dense 1b", "dense 1b/ch"]
    accuracy = dict(zip(labels, [{"accuracy": 0.9}, *[result.accuracy["best"]] * 5], strict=False))
    bops = dict.fromkeys(labels, 7)
    return replace(result, settings=settings, layers=[row], accuracy=accuracy, network_bops=bops)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [Grid(2, mid_rise=True), Grid(8)])
def test_every_method_is_drawn_on_other_grids_too(demo_result, tmp_path, method, grid):
    result = with_others(demo_result[0], method, grid)
    assert plots.draw_demo(result, tmp_path / "demo.png").exists()
    axes = Figure().subplots()
    plots._levels(axes, result.layers[0])
    assert len(axes.lines) == (method in ("sequential", "best"))
    low, high = axes.get_xlim()
    assert -10 < low < 0 < high < 9  # of many levels the middle ones
    assert ("half-integers" in axes.get_xlabel()) == grid.mid_rise
    for line in axes.lines:
        assert {x % 1 for x in line.get_xdata()} == {0.5 if grid.mid_rise else 0.0}
