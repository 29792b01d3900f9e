"""What the page on reproduction says of its measured tables is true of the numbers in them."""

import json
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "reproduction.json").read_text())


def test_the_page_reads_the_table_right():
    for runs in MEASURED["runs"].values():
        error = {key: median(errors) for key, errors in runs.items()}
        assert len(runs["all"]) == 3
        assert error["rounded"] > 1.8 * error["default"]
        for key in ("trials", "limits", "start", "all"):
            assert abs(error[key] / error["default"] - 1) < 0.02
        assert error["all"] < error["default"]
        assert error["last"] >= error["all"]
        assert error["best"] < 0.97 * error["all"]


def test_the_recipe_of_the_authors_costs_what_the_page_says():
    first, second = MEASURED["runs"].values()
    for runs in (first, second):
        for error, ours in zip(runs["recipe"], runs["default"], strict=True):
            assert abs(error / ours - 1) < 0.01
        for again, once in zip(runs["requantized"], runs["authors"], strict=True):
            assert abs(again / once - 1) < 5e-5
    gains = [1 - unit / error for unit, error in zip(first["unit"], first["authors"], strict=True)]
    assert min(gains) > 0.006 and max(gains) < 0.017
    for unit, error in zip(second["unit"], second["authors"], strict=True):
        assert abs(unit / error - 1) < 0.01


def test_the_longer_correction_has_smaller_components_at_the_same_error():
    ours, theirs = MEASURED["starts"]["ours"], MEASURED["starts"]["theirs"]
    for name in MEASURED["runs"]:
        for (e, s), (error, norms) in zip(ours[name], theirs[name], strict=True):
            assert abs(error / e - 1) < 1e-6
            assert 0.9 < norms / s < 1


def test_exact_scales_gain_little_on_kernels():
    assert (MEASURED["rate"], MEASURED["bits"]) == (2, 4)
    for excess in MEASURED["scales"].values():
        assert len(excess) == 6
        assert min(excess) >= -1e-12 and median(excess) < 0.001 and max(excess) < 0.02
