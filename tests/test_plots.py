"""The picture is a whole PNG with three panels that show the result's numbers."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from qcp_ref.app import demo, plots


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
    curves = [line.get_ydata() for line in axes[0].lines]
    assert any(np.array_equal(y, row.layer.fit.history.error) for y in curves)
    plots._gathering(axes[1], row)
    assert len(axes[1].patches) == 2
    plots._tradeoff(axes[2], result)
    labels = axes[2].get_legend_handles_labels()[1]
    assert set(labels) == {"float network", *result.accuracy} - {"float"}


@pytest.mark.usefixtures("small_demo")
def test_a_method_without_history_is_drawn_too(tmp_path):
    settings = demo.Settings(method="als-round", out=tmp_path)
    result = demo.run(settings, lambda *a: None, lambda text: None)
    assert plots.draw_demo(result, tmp_path / "demo.png").exists()
