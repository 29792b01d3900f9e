"""The terminal tables say what the result holds."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from qcp_ref import compress_conv
from qcp_ref.app import tables
from qcp_ref.app.demo import Settings
from qcp_ref.app.network import KERNELS
from qcp_ref.search import METHODS

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


def test_display_follows_the_stages_and_survives_a_pipe():
    console = Console(file=StringIO(), width=120)
    with tables.Display(console, Settings()) as display:
        for method, stages in (
            ("als-round", ("als", "done")),
            ("authors", ("als", "epc", "admm", "done")),
            ("best", ("als", "epc", "polish", "done")),
        ):
            for stage in stages:
                display.progress("block1.conv1", method, stage, 0, 0.25 if method == "best" else 1)
        display.progress("block1.conv2", "best", "polish", 11, 0.5)
        display.announce("accuracy")
    text = console.file.getvalue()
    assert "by als-round, authors, best" in text
    assert "done, error 0.250 by best" in text
    assert "best polish 12, error 0.500" in text
    assert text.count("waiting") == len(KERNELS) - 2
    assert "accuracy" in text


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
