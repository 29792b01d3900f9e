"""The terminal tables say what the result holds."""

import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from qcp_ref import compress_conv, conv_costs, rank_for_rate
from qcp_ref.app.demo import tables
from qcp_ref.app.demo.measure import Settings, dense_labels
from qcp_ref.app.network import KERNELS
from qcp_ref.factors.methods import METHODS

DENSE = ["dense 2b", "dense 2b/ch", "dense 3b", "dense 3b/ch"]


def printed(*things, width=200):
    console = Console(file=StringIO(), width=width)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def test_tables_show_every_layer_and_every_variant(demo_result):
    result, _ = demo_result
    text = printed(*tables.tables(result))
    (row,) = result.layers
    for expected in (row.name, "32x16x3x3", str(row.layer.rank), *row.methods):
        assert expected in text
    for label, numbers in result.accuracy.items():
        assert label in text
        assert f"{numbers['accuracy']:.2%}" in text


def test_columns_hold_what_their_headings_say_within_80_characters(demo_result):
    result, _ = demo_result
    text = printed(*tables.tables(result), width=80)
    assert "…" not in text
    (row,) = result.layers
    errors = [line.split() for line in text.splitlines() if line.split()[:1] == [row.name]]
    fits = row.float_error, *(layer.error for layer in row.methods.values())
    assert errors[0][3:] == [f"{error:.3f}" for error in fits]
    assert errors[1][1:] == [f"{error:.3f}" for error in row.dense_errors.values()]
    assert errors[2][-1] == f"{row.seconds['best']:.1f}"
    assert f"authors took {row.seconds['authors']:.1f}" in " ".join(text.split())
    for method in row.methods:
        (line,) = (line for line in text.splitlines() if line.startswith(f" {method} "))
        numbers = result.accuracy[method]
        shown = [f"{numbers[key]:+.2%}" for key in ("difference", "low", "high")]
        assert [word for word in line.split() if word[0] in "+-"] == shown


def test_the_longest_names_fit_too(demo_result):
    def renamed(numbers):
        return {"sequential" if key == "best" else key: value for key, value in numbers.items()}

    result, _ = demo_result
    (row,) = result.layers
    layer, errors = replace(row.layer, method="sequential"), dict.fromkeys(DENSE, 0.5)
    row = replace(row, layer=layer, seconds=renamed(row.seconds), dense_errors=errors)
    settings = replace(result.settings, method="sequential")
    accuracy, bops = renamed(result.accuracy), renamed(result.network_bops)
    accuracy |= dict.fromkeys(DENSE, accuracy["als-round"])
    bops |= dict.fromkeys(DENSE, 1)
    longest = replace(result, settings=settings, layers=[row], accuracy=accuracy, network_bops=bops)
    text = printed(*tables.tables(longest), width=80)
    assert "…" not in text
    for label in ("sequential", *DENSE):
        assert text.count(label) >= 2


REPORTS = {
    "als-round": ("als", "done"),
    "authors": ("als", "epc", "admm", "done"),
    "best": ("als", "epc", "polish", "done"),
}


def report(display):
    for method, stages in REPORTS.items():
        for stage in stages:
            display.progress("block1.conv1", method, stage, 0, 0.25 if method == "best" else 1)
    display.progress("block1.conv2", "best", "polish", 11, 0.5)
    display.announce("accuracy")


@pytest.mark.parametrize("kind", ["terminal", "pipe", "dumb"])
def test_a_terminal_gets_bars_and_anything_else_lines(kind):
    terminal, environment = kind != "pipe", {"TERM": "dumb" if kind == "dumb" else "xterm"}
    console = Console(
        file=StringIO(), width=120, force_terminal=terminal, _environ=environment, color_system=None
    )
    with tables.shown(console, Settings()) as display:
        assert type(display) is (tables.Display if kind == "terminal" else tables.Lines)
        report(display)
    text = console.file.getvalue()
    assert "by als-round, authors, best" in text
    assert "done, error 0.250 by best" in text
    assert "accuracy" in text
    if kind == "terminal":
        assert "best polish 12, error 0.500" in text
        assert text.count("waiting") >= len(KERNELS) - 2
    else:
        first, layer, accuracy, end = text.split("\n")
        assert first.startswith("compressing 6 kernels") and end == ""
        assert re.fullmatch(r"block1.conv1 done, error 0.250 by best, after \d+\.\d s", layer)
        assert re.fullmatch(r"accuracy     begins, after \d+\.\d s", accuracy)


def test_a_line_is_there_as_soon_as_its_layer_is_done():
    console = tables.Screen(file=StringIO())
    display = tables.Lines(console, Settings(method="authors"))
    for name in KERNELS:
        display.progress(name, "als-round", "done", 0, 1.0)
    assert console.file.getvalue() == ""
    for count, name in enumerate(KERNELS, start=1):
        display.progress(name, "authors", "admm", 3, 0.5)
        display.progress(name, "authors", "done", 0, 0.5)
        lines = console.file.getvalue().splitlines()
        assert len(lines) == count and lines[-1].startswith(f"{name} done, error 0.500 by authors")


def test_a_broken_pipe_is_left_to_the_command():
    class Closed(StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        tables.Screen(file=Closed()).print("text")


@pytest.mark.parametrize("figure", [0.1234, 99.5, 123456.0, 1e300])
def test_bars_and_both_times_fit_80_characters(figure, monkeypatch):
    console = Console(file=StringIO(), width=80, force_terminal=True)
    display = tables.Display(console, Settings(method="sequential"))
    for name, stages in (
        ("als-round", ("als",)),
        ("authors", ("epc", "admm")),
        ("sequential", ("epc", "polish")),
    ):
        for stage in stages:
            display.progress("block1.conv1", name, stage, 599, figure)
            (bar,) = (task for task in display.tasks if task.description == "block1.conv1")
            now = display.get_time()
            bar.start_time = now - 35_999
            text = printed(display.get_renderable(), width=80)
            assert "…" not in text and bar.fields["state"] in text
            assert "9:59:59" in text
            assert re.search(r"9:59:59 +[-\d]+:[-\d]+:[-\d]+", text)
            assert max(map(len, text.splitlines())) <= 80


def test_the_bar_of_all_layers_is_full_at_the_end():
    display = tables.Display(Console(file=StringIO()), Settings(method="authors"))
    for name in KERNELS:
        for method in ("als-round", "authors"):
            display.progress(name, method, "als", 10, 0.5)
            display.progress(name, method, "done", 0, 0.5)
    (bar,) = (task for task in display.tasks if task.description == "all")
    assert bar.completed == bar.total


@pytest.mark.parametrize(
    ("rate", "bits", "title"),
    [
        ("2", 4, "4 bits / rate 2 = 2 bits"),
        ("8", 2, "2 bits / rate 8 = 0.25 bits"),
        ("3", 4, "4 bits / rate 3 = 1.33 bits"),
        ("5/2", 16, "16 bits / rate 5/2 = 6.4 bits"),
        ("1", 1, "1 bits / rate 1 = 1 bits"),
    ],
)
def test_captions_say_what_the_dense_kernels_cost_beside_the_factors(
    demo_result, rate, bits, title
):
    result, _ = demo_result
    (row,) = result.layers
    settings = Settings(rate=rate, bits=bits)
    place = {"stride": 2, "padding": 1, "activation_bits": 8}
    rank = rank_for_rate((32, 16, 9), rate)
    cost = conv_costs((32, 16, 3, 3), 28, rank=rank, weight_bits=bits, scales=3, **place)
    rivals = {
        label: conv_costs((32, 16, 3, 3), 28, weight_bits=width, scales=1, **place)
        for label, (width, _) in dense_labels(settings).items()
    }
    row = replace(row, cost=cost, rival_costs=rivals, dense_errors=dict.fromkeys(rivals, 0.5))
    text = printed(tables.tables(replace(result, settings=settings, layers=[row]))[1], width=80)
    text = " ".join(text.split())
    assert title in text
    for label, rival in rivals.items():
        width = float(re.search(r"\d+", label)[0])
        if label.endswith("/ch"):
            continue
        found = re.search(rf"{label}: ([\d.]+) times the bytes, ([\d.]+) times the BOPs", text)
        assert abs(float(found[1]) - rival.bytes / cost.bytes) <= 0.005
        assert abs(float(found[2]) - rival.bops / cost.bops) <= 0.005
        # the equal-cost identity, up to the floor in the rank and the scales
        assert abs(float(found[1]) / (width / settings.equal_bits) - 1) < 0.35
    assert "as many weight bits" not in text


def test_counts_of_images_are_those_of_the_run(demo_result):
    result, _ = demo_result
    text = printed(*tables.tables(result))
    assert "accuracy on 200 test images, batch norm recalibrated on 100" in text
    images = {"test": 2000, "calibration": 1000}
    text = printed(*tables.tables(replace(result, images=images)))
    assert "accuracy on 2,000 test images, batch norm recalibrated on 1,000" in text


@pytest.mark.parametrize("method", METHODS)
def test_bars_move_through_all_methods_without_jumping_back(method):
    # What the solvers report, the methods' reports mixed as two threads would mix them.
    W, reports = np.random.default_rng(3).standard_normal((6, 5, 3, 3)), []
    for name in Settings(method=method).methods:
        seen = []
        layer = compress_conv(W, rank=4, method=name, callback=lambda *row, s=seen: s.append(row))
        place = (np.arange(len(seen) + 1) + 0.5) / (len(seen) + 1)
        reports += zip(place, [name] * len(place), [*seen, ("done", 0, layer.error)], strict=True)
    display = tables.Display(Console(file=StringIO()), Settings(method=method))
    (bar,) = (task for task in display.tasks if task.description == "block2.conv1")
    before, longest = 0, ""
    for _, name, (stage, sweep, figure) in sorted(reports, key=lambda row: row[0]):
        display.progress("block2.conv1", name, stage, sweep, figure)
        assert before <= bar.completed <= bar.total
        before, longest = bar.completed, max(longest, bar.fields["state"], key=len)
        if not bar.finished:
            assert bar.fields["state"].startswith(f"{name} {stage}")
    assert bar.completed == bar.total
    assert bar.stop_time is not None
    display.update(bar.id, state=longest)
    assert longest in printed(display.get_renderable(), width=80)


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (1500, "1.5k"), (2_340_000, "2.34M"), (5e9, "5G")]
)
def test_counts_are_written_short(number, text):
    assert tables._short(number) == text
