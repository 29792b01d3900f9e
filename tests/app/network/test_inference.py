"""Logits of the bundled network, recalibration; planted faults stand at the end."""

import tracemalloc
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from support import caught
from training import training_script

from qcp_ref import conv2d
from qcp_ref._threads import one_blas_thread
from qcp_ref.app.network import (
    KERNELS,
    load_images,
    load_manifest,
    load_network,
    logit_bound,
    predict,
    recalibrate,
)
from qcp_ref.app.network import inference as app

ROOT = Path(__file__).parents[3]
DATA = ROOT / "qcp_ref" / "app" / "data"
NETWORK, IMAGES, MANIFEST = load_network(), load_images(), load_manifest()
FEW = IMAGES.test_images[:10]


def cast(network, dtype):
    return {name: value.astype(dtype) for name, value in network.items()}


def dense(name, W):
    """Return the convolution that the network has under this name, with a kernel of its own."""
    return lambda x: conv2d(x, W, stride=KERNELS[name].stride, padding=KERNELS[name].padding)


# --- logits ------------------------------------------------------------------------------------


def test_accuracy_is_the_recorded_count():
    correct = predict(NETWORK, IMAGES.test_images).argmax(axis=1) == IMAGES.test_labels
    assert correct.sum() == MANIFEST["correct"]["first 2000 test images"]
    assert MANIFEST["correct"]["all 10000 test images"] >= 9150


def test_kernels_are_those_that_run():
    seen = {}

    def recording(name):
        def layer(x):
            seen[name] = x.shape[2:]
            return dense(name, NETWORK[f"{name}.weight"])(x)

        return layer

    replaced = predict(NETWORK, FEW, layers={name: recording(name) for name in KERNELS})
    assert seen == {name: kernel.input_size for name, kernel in KERNELS.items()}
    assert all(NETWORK[f"{name}.weight"].shape[2:] == (3, 3) for name in KERNELS)
    # The same convolutions by another way: the same logits, bit for bit.
    assert np.array_equal(replaced, predict(NETWORK, FEW))


def test_logits_are_the_stored_ones_of_pytorch():
    for dtype, stored in ((np.float32, IMAGES.logits), (np.float64, IMAGES.logits64)):
        ours = predict(cast(NETWORK, dtype), FEW)
        assert ours.dtype == dtype
        bound = logit_bound(NETWORK, FEW, dtype)
        assert (np.abs(ours.astype(float) - stored[: len(FEW)]) <= 2 * bound).all()
    # In float64 the bound says something; the float32 logits are close to those of float64.
    assert bound.max() < 1e-6
    for single in (predict(NETWORK, FEW), IMAGES.logits[: len(FEW)]):
        assert np.abs(single - IMAGES.logits64[: len(FEW)]).max() < 1e-4


def tiny_network(rng):
    """Random numbers, few channels: small enough for exact arithmetic."""
    channels = {"stem.conv": (1, 2)}
    for block, (inputs, outputs) in {1: (2, 4), 2: (4, 4), 3: (4, 6)}.items():
        channels[f"block{block}.conv1"] = (inputs, outputs)
        channels[f"block{block}.conv2"] = (outputs, outputs)
    network = {
        "linear.weight": rng.standard_normal((10, 6)),
        "linear.bias": rng.standard_normal(10),
    }
    for name, (inputs, outputs) in channels.items():
        network[f"{name}.weight"] = rng.standard_normal((outputs, inputs, 3, 3))
        for part in ("weight", "bias", "running_mean"):
            network[f"{name.replace('conv', 'bn')}.{part}"] = rng.standard_normal(outputs)
        network[f"{name.replace('conv', 'bn')}.running_var"] = rng.uniform(0.5, 20, outputs)
    return cast(network, np.float32)


def exact_logits(network, image):
    """Read the network's definition literally, with 60 digits."""
    decimals = np.vectorize(lambda v: Decimal(float(v)), otypes=[object])
    P = {name: decimals(value) for name, value in network.items()}

    def convolution(x, name, stride):
        W, side = P[f"{name}.weight"], -(-x.shape[1] // stride)
        padded = np.full((len(x), x.shape[1] + 2, x.shape[1] + 2), Decimal(0))
        padded[:, 1:-1, 1:-1] = x
        y = np.full((len(W), side, side), Decimal(0))
        for i, j in np.ndindex(3, 3):
            picked = padded[:, i : i + x.shape[1] : stride, j : j + x.shape[1] : stride]
            y = y + np.tensordot(W[:, :, i, j], picked, 1)
        w, b, mean, var = (
            P[f"{name.replace('conv', 'bn')}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        root = np.vectorize(Decimal.sqrt, otypes=[object])(var + Decimal(app.EPS))
        return (y - mean) / root * w + b

    zero = Decimal(0)  # of dead channels, too
    with localcontext(prec=60):
        x = (decimals(image) / 255 - Decimal(app.MEAN)) / Decimal(app.STD)
        x = np.maximum(convolution(x[None], "stem.conv", 1), zero)
        for block, stride in (("block1", 2), ("block2", 2), ("block3", 1)):
            y = np.maximum(convolution(x, f"{block}.conv1", stride), zero)
            y = convolution(y, f"{block}.conv2", 1)
            extra = (len(y) - len(x)) // 2
            y[extra : extra + len(x)] += x[:, ::stride, ::stride]
            x = np.maximum(y, zero)
        mean = x.sum(axis=(1, 2)) / (x.shape[1] * x.shape[2])
        return P["linear.weight"] @ mean + P["linear.bias"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_are_within_the_bound_of_the_exact_ones(rng, dtype):
    for image in FEW[:2]:
        network = tiny_network(rng)
        (ours,) = predict(cast(network, dtype), image[None])
        (bound,) = logit_bound(network, image[None], dtype)
        error = [
            abs(Decimal(float(y)) - t)
            for y, t in zip(ours, exact_logits(network, image), strict=True)
        ]
        assert all(e <= Decimal(float(b)) for e, b in zip(error, bound, strict=True))
        # Not so far above the error that a mistake would hide below it.
        assert max(bound) < 1e-2 * max(abs(ours)) if dtype == np.float32 else max(bound) < 1e-9


def torch_model(script, dtype):
    import torch

    model = script.SmallResNet().to(dtype).eval()
    state = {name: torch.from_numpy(value) for name, value in NETWORK.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model


def test_logits_are_those_of_live_pytorch():
    script = training_script()
    import torch

    assert (script.MEAN, script.STD) == (app.MEAN, app.STD)
    # NNPACK may choose Winograd or FFT convolutions, to which no such bound applies.
    with torch.no_grad(), torch.backends.nnpack.flags(enabled=False):
        for dtype in (np.float32, np.float64):
            number = torch.from_numpy(np.zeros(0, dtype)).dtype
            theirs = torch_model(script, number)(script.normalized(FEW, number)).numpy()
            difference = np.abs(predict(cast(NETWORK, dtype), FEW).astype(float) - theirs)
            assert (difference <= 2 * logit_bound(NETWORK, FEW, dtype)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_single_layers_are_those_of_live_pytorch(dtype):
    # From the same input on, one layer's bound is sharp in float32 too.
    script = training_script()
    import torch

    model = torch_model(script, torch.from_numpy(np.zeros(0, dtype)).dtype)
    ours, double = cast(NETWORK, dtype), cast(NETWORK, np.float64)

    def step(x, conv, bn):
        y = app._normalized(ours, bn, app._convolved(ours, None, conv, x))
        theirs = model.get_submodule(bn)(model.get_submodule(conv)(torch.from_numpy(x))).numpy()
        state = x.astype(float), np.zeros(x.shape)
        bound = app._step_bound(double, dtype, state, conv, bn)[1]
        assert (np.abs(y.astype(float) - theirs) <= 2 * bound).all()
        assert bound.max() < (1e-3 if dtype == np.float32 else 1e-11) * np.abs(y).max()
        return y

    with torch.no_grad(), torch.backends.nnpack.flags(enabled=False), one_blas_thread():
        app._walk(app._inputs(ours, FEW[:5]), step, app._relu, app._join)


def test_batches_do_not_show():
    double = cast(NETWORK, np.float64)
    whole, parts = predict(double, FEW), predict(double, FEW, batch=7)
    assert (np.abs(whole - parts) <= 2 * logit_bound(NETWORK, FEW, np.float64)).all()


def test_a_replacement_keeps_the_networks_dtype():
    W = NETWORK["block2.conv1.weight"].astype(np.float64)
    logits = predict(NETWORK, FEW, layers={"block2.conv1": dense("block2.conv1", W)})
    assert logits.dtype == np.float32
    assert np.abs(logits - predict(NETWORK, FEW)).max() < 1e-4


# --- recalibration -----------------------------------------------------------------------------


def statistics(network, images, layers=None):
    """Mean and variance of every batch norm's output over the images."""
    found = {}

    def step(x, conv, bn):
        y = app._normalized(network, bn, app._convolved(network, layers, conv, x))
        found[bn] = y.mean(axis=(0, 2, 3)), y.var(axis=(0, 2, 3))
        return y

    with one_blas_thread():
        app._walk(app._inputs(network, images), step, app._relu, app._join)
    return found


def test_after_recalibration_outputs_have_mean_bias_and_variance_weight_squared():
    network = cast(NETWORK, np.float64)
    images = IMAGES.calibration_images[::20]
    layers = {
        "block2.conv1": lambda x: 3 + 2 * dense("block2.conv1", network["block2.conv1.weight"])(x)
    }
    before = {name: value.copy() for name, value in network.items()}
    new = recalibrate(network, images, layers=layers, batch=11)
    assert all(np.array_equal(network[name], value) for name, value in before.items())
    found = statistics(new, images, layers)
    assert len(found) == 7
    for bn, (mean, var) in found.items():
        assert np.allclose(mean, new[f"{bn}.bias"], rtol=0, atol=1e-9)
        # eps takes a small part of the variance away
        share = new[f"{bn}.running_var"] / (new[f"{bn}.running_var"] + app.EPS)
        assert np.allclose(var, new[f"{bn}.weight"] ** 2 * share, rtol=1e-9, atol=1e-12)


def test_recalibration_undoes_a_changed_scale_and_offset():
    def changed(x):
        return 5 + 3 * dense("block1.conv2", NETWORK["block1.conv2.weight"])(x)

    images = IMAGES.calibration_images[::20]
    plain = recalibrate(NETWORK, images)
    layers = {"block1.conv2": changed}
    repaired = predict(recalibrate(NETWORK, images, layers=layers), FEW, layers=layers)
    assert np.abs(repaired - predict(plain, FEW)).max() < 0.01
    assert np.abs(predict(NETWORK, FEW, layers=layers) - predict(NETWORK, FEW)).max() > 1


def test_recalibration_keeps_to_its_memory():
    images = IMAGES.calibration_images[:300]
    tracemalloc.start()
    recalibrate(NETWORK, images, batch=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2e6 * len(images)


def test_recalibration_changes_statistics_only():
    new = recalibrate(NETWORK, IMAGES.calibration_images[:10])
    assert {name for name in new if not np.array_equal(new[name], NETWORK[name])} == {
        name for name in NETWORK if name.endswith(("running_mean", "running_var"))
    }
    assert {value.dtype for value in new.values()} == {np.dtype(np.float32)}


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (FEW / 255, TypeError, "images: expected a uint8 array"),
        (FEW.tolist(), TypeError, "images: expected a uint8 array of bytes 0 to 255, got list"),
        (FEW[0], ValueError, r"images: expected shape \(N, 28, 28\), got \(28, 28\)"),
        (FEW[:, :27], ValueError, r"images: expected shape"),
        (FEW[:0], ValueError, r"images: expected shape"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    for call in (predict, recalibrate, lambda n, x: logit_bound(n, x, np.float64)):
        with pytest.raises(error, match=message):
            call(NETWORK, images)


def test_bad_options_are_refused():
    for call in (predict, recalibrate):
        with pytest.raises(ValueError, match="batch: expected at least 1, got 0"):
            call(NETWORK, FEW, batch=0)
        with pytest.raises(
            ValueError, match=r"layers: expected names among .*, got \['stem.conv'\]"
        ):
            call(NETWORK, FEW, layers={"stem.conv": lambda x: x})
        with pytest.raises(
            ValueError, match=r"layers\['block1.conv1'\]: expected an output of shape"
        ):
            call(NETWORK, FEW, layers={"block1.conv1": lambda x: x})
    with pytest.raises(ValueError, match="dtype: expected float32 or float64"):
        logit_bound(NETWORK, FEW, np.float16)


# --- planted faults ----------------------------------------------------------------------------


def odd_pixels(x, y):
    """Takes the other half of the pixels."""
    stride, extra = x.shape[2] // y.shape[2], (y.shape[1] - x.shape[1]) // 2
    picked = x[:, :, stride - 1 :: stride, stride - 1 :: stride]
    return np.pad(picked, ((0, 0), (extra, extra), (0, 0), (0, 0)))


def channels_at_the_end(x, y):
    stride, extra = x.shape[2] // y.shape[2], y.shape[1] - x.shape[1]
    return np.pad(x[:, :, ::stride, ::stride], ((0, 0), (0, extra), (0, 0), (0, 0)))


def leaky_relu(x):
    return np.where(x < 0, 1e-6 * x, x)


def unscaled_shift(network, norm):
    scale = network[f"{norm}.weight"] / np.sqrt(network[f"{norm}.running_var"] + app.EPS)
    shift = network[f"{norm}.bias"] - network[f"{norm}.running_mean"]
    return scale[:, None, None], shift[:, None, None]


def optimistic_spread(n, dtype, x, e):
    """Forgets the rounding of sums, this one's and the earlier ones'."""
    return 0 * (x + e)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_logits_are_the_stored_ones_of_pytorch, {"EPS": 1.1e-5}),
        (test_logits_are_the_stored_ones_of_pytorch, {"STD": 0.3531}),
        (test_logits_are_the_stored_ones_of_pytorch, {"_shortcut": odd_pixels}),
        (test_logits_are_the_stored_ones_of_pytorch, {"_shortcut": channels_at_the_end}),
        (test_logits_are_the_stored_ones_of_pytorch, {"_relu": leaky_relu}),
        (test_logits_are_the_stored_ones_of_pytorch, {"_affine": unscaled_shift}),
        (test_logits_are_the_stored_ones_of_pytorch, {"_spread": optimistic_spread}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(app, test, **fault)
