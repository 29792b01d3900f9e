"""The page on speed: what its tables count, extrapolate and leave out."""

import json
from math import prod
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def speed():
    import speed

    return speed


@pytest.fixture(scope="module")
def result():
    return json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text("utf-8"))


def test_a_resnet50_has_53_convolutions_of_which_the_first_is_left_out(speed):
    counts = speed.resnet50()
    assert sum(counts.values()) == 52
    assert sum(n for shape, n in counts.items() if len(shape) == 3) == 3 + 4 + 6 + 3
    shortcuts = [(after, before) for _, _, before, after in speed.STAGES]
    assert len(shortcuts) == 4
    assert set(shortcuts) <= set(counts)
    # What is known of the network: 25,557,032 parameters, with the first convolution, two numbers
    # for each channel that is normalized, and the last layer.
    outputs = 64 + sum(n * shape[0] for shape, n in counts.items())
    weights = 64 * 3 * 49 + sum(n * prod(shape) for shape, n in counts.items())
    assert weights + 2 * outputs + 1000 * 2049 == 25_557_032


@pytest.mark.parametrize("machines", [1, 2, 3, 8, 100])
def test_machines_are_never_faster_than_the_sum_nor_than_the_longest_job(speed, machines):
    jobs = [5.0, 4.0, 3.0, 3.0, 2.0, 1.0, 1.0]
    end = speed.makespan(jobs, machines)
    least = max(*jobs, sum(jobs) / machines)
    assert least <= end <= sum(jobs) / machines + (1 - 1 / machines) * max(jobs)
    assert machines > 1 or end == sum(jobs)
    assert machines < len(jobs) or end == max(jobs)


def test_interpolation_keeps_what_was_measured_and_is_straight_in_logarithms(speed):
    measured = {
        (64, 64, 9): 1.0,
        (128, 128, 9): 8.0,
        (512, 512, 9): 100.0,
        (64, 64): 3.0,
        (9, 9): 2,
    }
    for shape, seconds in measured.items():
        assert speed.interpolated(measured, shape) == pytest.approx(seconds)
    assert 8 < speed.interpolated(measured, (256, 256, 9)) < 100
    assert speed.interpolated(measured, (1024, 512, 9)) > 100
    assert speed.interpolated(measured, (32, 32, 9)) < 1
    assert speed.interpolated({(9, 9): 2.0, (64, 64): 2.0}, (30, 30)) == pytest.approx(2)


def test_names_of_works_are_read(speed):
    name = "als(shape=(256, 256, 9), rank=566) on 1 thread"
    assert speed.parse(name) == ("als", {"shape": "(256, 256, 9)", "rank": "566"}, 1)
    kind, values, threads = speed.parse("scale(size=584192, bits=4, rule=mse-200)")
    assert (kind, values["rule"], threads) == ("scale", "mse-200", 2)
    assert speed.sides("(256, 256, 9)") == (256, 256, 9)


def test_every_target_is_listed_and_judged(speed, result):
    rows = speed.target_rows(result)[1:]
    assert [row[0] for row in rows] == list(result["targets"])
    for row, target in zip(rows, result["targets"].values(), strict=True):
        low, high = target.get("at least", 0), target.get("at most", float("inf"))
        assert (row[-1] == "met") == (low <= target["measured"] <= high)


def test_first_columns_are_short(speed, result):
    works = {name: speed.parse(name) for name in result["works"]}
    for kinds in (["als"], ["admm_step", "descent"], ["conv"]):
        rows = speed.peer_rows(result, works, kinds)
        assert len(rows) > 1
        assert max(len(row) for row in rows) <= 5
        assert max(len(row[0]) for row in rows) <= 45


def test_a_sweep_needs_its_second_product_and_half_a_dozen_matrices(speed):
    rank = 400
    product, matrix = 8 * rank * 96 * 9, 8 * rank**2
    assert 4 < (speed.peak((96, 96, 9), rank) - product) / matrix < 8
