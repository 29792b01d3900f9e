"""The demo's parts, on one layer and few images: its numbers are those of the book's functions."""

import json
from fractions import Fraction

import numpy as np
import pytest
from support import differs

from qcp_ref import Grid, compress_conv, conv2d, conv_costs, project, rank_for_rate
from qcp_ref.app import network
from qcp_ref.app.demo import measure, plots
from qcp_ref.app.files import load_compressed, load_run
from qcp_ref.app.network import KERNELS, load_network
from qcp_ref.factors.methods import METHODS

RATES = ["0", "x", "", "-2", "0.99", "80.85", "1000", "nan", "inf", "1e999999999", "1/0", "9" * 400]
RATES += ["2\n", "1e-9", "0x10", "2 3", "1_0", "\u0662"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_once_and_the_chosen_one_last(method):
    methods = measure.Settings(method=method).methods
    assert methods[-1] == method
    assert sorted(methods) == sorted({"als-round", "authors", method})


def test_results_are_written_and_repeat_what_was_computed(demo_result):
    result, seen = demo_result
    assert result.folder == result.settings.out / "run-1"
    stored, layers = load_run(result.folder)
    assert set(stored.pop("files")) == {"compressed.npz", "demo.png"}
    assert stored == json.loads(json.dumps(result.as_json()))
    for row in result.layers:
        assert all(map(np.array_equal, layers[row.name].codes, row.layer.cp.codes))
    assert {row["name"] for row in stored["layers"]} == {"block1.conv1"}
    assert stored["accuracy"]["float"]["accuracy"] > 0.85
    stages = {(method, stage) for _, method, stage, _, _ in seen}
    assert stages == {
        *(("als-round", stage) for stage in ("als", "done")),
        *(("authors", stage) for stage in ("als", "epc", "admm", "done")),
        *(("best", stage) for stage in ("als", "epc", "polish", "done")),
    }
    methods = stored["layers"][0]["methods"]
    assert list(methods) == ["als-round", "authors", "best"]
    for method, row in methods.items():
        sweeps = sum(
            seen[1:3] == (method, "polish" if method == "best" else "admm") for seen in seen
        )
        assert len(row["history"]) == sweeps
        assert row["error"] == pytest.approx(min(row["history"], default=row["error"]), rel=1e-9)
        assert row["seconds"] > 0
    assert [row["stop_reason"] for row in methods.values()][::2] == ["rounded", "converged"]


def test_results_are_as_documented(demo_result):
    result, _ = demo_result
    stored = json.loads((result.folder / "results.json").read_text())
    methods, networks = "<method>", ["accuracy", "network_bops"]
    names = {"layers[].methods": methods, "layers[].dense_errors": "<dense>"}
    names |= {"layers[].rival_costs": "<dense>", "rival_costs": "<dense>", "files": "<file>"}
    names |= {"versions": "<package>", **dict.fromkeys(networks, "<network>")}
    assert not differs("results.json", stored, names)
    del stored["passed"], stored["layers"][0]["rank"]
    stored["extra"] = stored["settings"]["bits"] = "4"
    assert differs("results.json", stored, names) == [
        *["layers[].rank: not there", "passed: not there"],
        *["extra: string", "settings.bits: string"],
    ]


def test_layer_results_are_those_of_the_book(demo_result):
    result, _ = demo_result
    (row,) = result.layers
    W = load_network()["block1.conv1.weight"].astype(float)
    for method, layer in row.methods.items():
        again = compress_conv(W, rate=2, bits=4, method=method, rng=0, stride=2, padding=1)
        assert layer.error == again.error
        assert layer.method == method
        assert layer.rank == rank_for_rate((32, 16, 9), 2)
    rounded, authors = row.others.values()
    assert rounded.error > authors.error > row.layer.error > row.float_error
    assert row.float_error == rounded.fit.start_error
    for label, kernel in row.dense.items():
        levels = [len(np.unique(part)) for part in (kernel, *kernel)]
        assert max(levels[1:]) <= 4
        assert np.isclose(row.dense_errors[label], np.linalg.norm(W - kernel) / np.linalg.norm(W))
    one, per_channel = (row.dense_errors[label] for label in ("dense 2b", "dense 2b/ch"))
    assert per_channel <= one * (1 + 1e-12)
    expected = conv_costs(
        W.shape, (28, 28), rank=row.layer.rank, stride=2, padding=1, weight_bits=4
    )
    assert row.cost.macs == expected.macs


def test_self_checks_pass_and_can_fail(demo_result, tmp_path):
    result, _ = demo_result
    (row,) = result.layers
    assert result.passed
    assert 0 < result.checks["worst_share_of_rounding_bound"] < 1
    assert result.checks["weights_off_grid"] == 0
    x = np.random.default_rng(1).standard_normal((1, 16, 6, 6))
    other = compress_conv(load_network()["block1.conv1.weight"], rank=3, method="als-round")
    wrong = compress_conv(load_network()["block1.conv1.weight"], rank=3, method="als-round", bits=5)
    assert measure.check_forward(other, x) < 1
    with pytest.MonkeyPatch.context() as patch:
        kernel = wrong.kernel()
        patch.setattr(type(other), "kernel", lambda self: kernel)
        assert measure.check_forward(other, x) == np.inf
    path = result.folder / "compressed.npz"
    assert load_compressed(path).keys() == {"block1.conv1"}
    same_rank = compress_conv(
        load_network()["block1.conv1.weight"], rank=row.layer.rank, method="als-round"
    )
    assert measure.check_grid(path, {"block1.conv1": same_rank}) > 1000
    assert other.rank == 3


def test_accuracies_are_measured_after_recalibration(demo_result):
    result, _ = demo_result
    (row,) = result.layers
    images, floats = network.load_images(), load_network()
    for method, layer in row.methods.items():
        layers = {row.name: layer.forward}
        adapted = network.recalibrate(floats, images.calibration_images[::10], layers=layers)
        logits = network.predict(adapted, images.test_images[:200], layers=layers)
        correct = (logits.argmax(axis=1) == images.test_labels[:200]).mean()
        assert result.accuracy[method]["accuracy"] == correct
    unadapted = network.predict(floats, images.test_images[:200], layers=layers)
    assert not np.array_equal(unadapted, logits)


def test_dense_rivals_are_the_better_projection_of_the_kernel(demo_result):
    result, _ = demo_result
    (row,) = result.layers
    W = load_network()["block1.conv1.weight"].astype(float).reshape(32, -1)
    for label, axis in (("dense 2b", None), ("dense 2b/ch", 0)):
        errors = [
            np.linalg.norm(W - project(W, Grid(2, mid_rise=mid), axis=axis))
            for mid in (False, True)
        ]
        assert np.isclose(row.dense_errors[label], min(errors) / np.linalg.norm(W), rtol=1e-12)


def test_bops_follow_the_equal_cost_identity(demo_result):
    result, _ = demo_result
    bops = result.network_bops
    assert bops["best"] == bops["authors"] == bops["als-round"]
    kernel = result.layers[0]
    other = bops["authors"] - kernel.cost.bops
    for label in ("dense 2b", "dense 2b/ch"):
        rival = result.rival_costs[label]
        assert bops[label] - other == rival.bops
        scales = 32 if label.endswith("/ch") else 1
        assert rival.bytes == 32 * 16 * 9 * 2 // 8 + 8 * scales
    # 2-bit dense against 4-bit factors at rate 2: equal up to the stride and the floor in the rank
    assert 0.5 < (bops["dense 2b"] - other) / kernel.cost.bops < 2
    assert bops["float"] > 10 * bops["authors"]


def test_dense_bits_are_the_floor_and_ceiling_of_the_equal_cost():
    labels = measure.dense_labels(measure.Settings(rate="1.5", bits=4))
    assert {bits for bits, _ in labels.values()} == {2, 3}
    assert {axis for _, axis in labels.values()} == {None, 0}
    labels = measure.dense_labels(measure.Settings(rate="8", bits=4))
    assert {bits for bits, _ in labels.values()} == {1}
    assert measure.Settings(rate="8", bits=2).equal_bits == Fraction(1, 4)


@pytest.mark.parametrize("stage", ["als", "epc", "admm", "polish", "measuring"])
@pytest.mark.usefixtures("small_demo")
def test_an_interrupt_ends_the_run_and_leaves_no_half_file(tmp_path, stage):
    def progress(layer, method, at, sweep, figure):
        if at == stage:
            raise KeyboardInterrupt

    def announce(text):
        raise KeyboardInterrupt

    settings = measure.Settings(out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        measure.run(settings, progress, announce)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_demo")
def test_an_interrupt_while_files_are_written_leaves_none(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "draw_demo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.run(
            measure.Settings(out=tmp_path, method="als-round"), lambda *_: None, lambda _: None
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_demo")
def test_the_number_of_threads_does_not_show(demo_result, monkeypatch, tmp_path):
    result, _ = demo_result
    monkeypatch.setattr(measure, "THREADS", 1)
    alone = measure.run(measure.Settings(out=tmp_path), lambda *a: None, lambda text: None)
    assert alone.accuracy == result.accuracy
    for method, layer in alone.layers[0].methods.items():
        other = result.layers[0].methods[method]
        assert layer.error == other.error
        assert all(map(np.array_equal, layer.cp.codes, other.cp.codes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"bits": bits}, "bits: expected 1 to 16") for bits in (0, 17, -1, 10**400)],
        *[({"rate": rate}, "rate: expected 1 to 80.84") for rate in RATES],
        ({"seed": -1}, "seed: expected at least 0"),
        ({"method": "worst"}, "method: expected one of"),
    ],
)
def test_bad_settings_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        measure.Settings(**options)


@pytest.mark.parametrize("rate", ["1", "2.", "5/2", "1e1", "80.84", 1.5, 3])
def test_rates_within_the_limits_leave_a_component_of_every_kernel(rate):
    settings, network = measure.Settings(rate=rate), load_network()
    for name in KERNELS:
        out, inputs, *sides = network[f"{name}.weight"].shape
        assert rank_for_rate((out, inputs, np.prod(sides)), settings.rate) >= 1
    assert settings.equal_bits * Fraction(str(rate)) == 4


def test_the_highest_rate_leaves_one_component_of_the_smallest_kernel():
    assert measure.highest_rate() == Fraction(32 * 16 * 9, 32 + 16 + 9)
    assert rank_for_rate((32, 16, 9), measure.highest_rate()) == 1
    with pytest.raises(ValueError, match="no component would be left"):
        rank_for_rate((32, 16, 9), measure.highest_rate() + Fraction(1, 1000))


def test_replaced_dense_layers_compute_the_dense_convolution(demo_result):
    result, _ = demo_result
    (row,) = result.layers
    x = np.random.default_rng(2).standard_normal((1, 16, 6, 6)).astype(np.float32)
    label = next(iter(row.dense))
    W = row.dense[label].astype(np.float32)
    assert np.array_equal(measure._dense_layer(row, label)(x), conv2d(x, W, stride=2, padding=1))
