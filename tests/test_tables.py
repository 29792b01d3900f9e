"""The terminal tables say what the result holds."""

from io import StringIO

import pytest
from rich.console import Console

from qcp_ref.app import tables
from qcp_ref.app.demo import Settings


def printed(*things):
    console = Console(file=StringIO(), width=200)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def test_tables_show_every_layer_and_every_variant(demo_result):
    result, _ = demo_result
    text = printed(*tables.tables(result))
    (row,) = result.layers
    for expected in (row.name, "32x16x3x3", str(row.layer.rank), f"{row.layer.error:.3f}"):
        assert expected in text
    for label, numbers in result.accuracy.items():
        assert label in text
        assert f"{numbers['accuracy']:.2%}" in text


def test_columns_hold_what_their_headings_say_within_80_characters(demo_result):
    result, _ = demo_result
    console = Console(file=StringIO(), width=80)
    for table in tables.tables(result):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    (row,) = result.layers
    errors = [line.split() for line in text.splitlines() if line.split()[:1] == [row.name]]
    fit = row.layer.fit.start_error, row.rounded.error, row.layer.error
    assert errors[0][3:] == [f"{error:.3f}" for error in fit]
    assert errors[1][1:] == [f"{error:.3f}" for error in row.dense_errors.values()]
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["authors"])
    numbers = result.accuracy["authors"]
    shown = [f"{numbers[key]:+.2%}" for key in ("difference", "low", "high")]
    assert [word for word in line.split() if word[0] in "+-"] == shown


def test_display_follows_the_stages_and_survives_a_pipe():
    console = Console(file=StringIO(), width=120)
    with tables.Display(console, Settings()) as display:
        for stage, sweep in (("als", 0), ("als", 5), ("epc", 499), ("admm", 24), ("done", 0)):
            display.progress("block1.conv1", stage, sweep, 0.25)
        display.announce("measuring accuracy")
    text = console.file.getvalue()
    assert "done, error 0.250" in text
    assert "measuring accuracy" in text


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (1500, "1.5k"), (2_340_000, "2.34M"), (5e9, "5G")]
)
def test_counts_are_written_short(number, text):
    assert tables._short(number) == text
