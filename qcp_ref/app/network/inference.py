"""Does the compressed network still classify? Inference in NumPy, on the book's convolutions.

The bundled network: images (N, 28, 28) of bytes, a stem of 16 channels, three residual blocks of
two 3x3 convolutions (32, 64, 64 channels; shortcuts take every second pixel and pad with zero
channels), the mean over all positions, 10 logits. Batch norm follows every convolution. The way
through the network is written down once, in ``_walk``, and read three times: on arrays
(:func:`predict`), on lists of batches (:func:`recalibrate`) and on arrays with error bounds
(:func:`logit_bound`, which rests on :eq:`bounds-sum`).

Simplified: inference only, for this one architecture. scripts/train_network.py trains it.

Checked by tests/app/network/test_inference.py, against PyTorch too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from qcp_ref._checks import Array, check_int
from qcp_ref._threads import one_blas_thread
from qcp_ref.app.network.bundled import CONVOLUTIONS, KERNELS, Bytes, Floats, Network
from qcp_ref.bounds import gamma
from qcp_ref.layers.conv import conv2d

__all__ = ["Layers", "logit_bound", "predict", "recalibrate"]

# What runs instead of a dense convolution, by the convolution's name.
Layers: TypeAlias = Mapping[str, Callable[[Floats], Floats]]
T = TypeVar("T")
# A float64 array, and how far the exact numbers may be from it.
Bounded: TypeAlias = tuple[Array, Array]

MEAN, STD = 0.2860, 0.3530  # of the training pixels, as fractions of 255
EPS = 1e-5  # added to batch-norm variances


def predict(
    network: Network, images: Bytes, *, layers: Layers | None = None, batch: int = 250
) -> Floats:
    """Return the logits.

    Parameters
    ----------
    network : mapping of str to ndarray
        As :func:`qcp_ref.app.network.bundled.load_network` returns it; cast it to float64 to run
        in float64.
    images : ndarray of uint8, shape (N, 28, 28)
        Images.
    layers : mapping of str to callable, optional
        Replacements of dense convolutions: a name of ``KERNELS`` to a function of the layer's
        input, such as the ``forward`` of a compressed layer.
    batch : int
        Images per pass; bounds the memory.

    Returns
    -------
    ndarray, shape (N, 10)
        Logits in the network's dtype.

    Raises
    ------
    ValueError, TypeError
        For other images, unknown layer names, or a replacement whose output has another shape.
    """
    check_int(batch, "batch", minimum=1)
    _check(images, layers)

    def step(x: Floats, conv: str, norm: str) -> Floats:
        return _normalized(network, norm, _convolved(network, layers, conv, x))

    def logits(part: Bytes) -> Floats:
        x = _walk(_inputs(network, part), step, _relu, _join).mean(axis=(2, 3))
        return np.asarray(x @ network["linear.weight"].T + network["linear.bias"])

    with one_blas_thread():
        return np.concatenate([logits(part) for part in _batches(images, batch)])


def recalibrate(
    network: Network, images: Bytes, *, layers: Layers | None = None, batch: int = 250
) -> dict[str, Floats]:
    """Return the network with batch-norm statistics measured anew.

    Replacing a layer shifts what the following layers see. Each batch norm, in the order of the
    network, gets the mean and the population variance of its input over all images and positions;
    the next ones already see its new output.

    Parameters
    ----------
    network : mapping of str to ndarray
        As :func:`qcp_ref.app.network.bundled.load_network` returns it; not changed.
    images : ndarray of uint8, shape (N, 28, 28)
        Calibration images. One layer's output is kept for all of them: below 0.2 MB per image.
    layers : mapping of str to callable, optional
        As in :func:`predict`.
    batch : int
        Images per pass.

    Returns
    -------
    dict of str to ndarray
        A copy with other ``running_mean`` and ``running_var``.

    Raises
    ------
    ValueError, TypeError
        As in :func:`predict`.

    Notes
    -----
    Sums run in float64 and in two passes, first the mean, then squared deviations from it, so that
    nothing cancels.
    """
    check_int(batch, "batch", minimum=1)
    _check(images, layers)
    new = dict(network)

    def step(parts: list[Floats], conv: str, norm: str) -> list[Floats]:
        parts = [_convolved(new, layers, conv, x) for x in parts]
        count = sum(x.size // x.shape[1] for x in parts)
        mean = sum(x.sum(axis=(0, 2, 3), dtype=np.float64) for x in parts) / count
        center = mean[:, None, None]
        var = sum(np.square(x - center).sum(axis=(0, 2, 3)) for x in parts) / count
        for name, value in ((f"{norm}.running_mean", mean), (f"{norm}.running_var", var)):
            new[name] = value.astype(network[name].dtype)
        return [_normalized(new, norm, x) for x in parts]

    parts = [_inputs(network, part) for part in _batches(images, batch)]
    with one_blas_thread():
        _walk(parts, step, lambda xs: [*map(_relu, xs)], lambda ys, xs: [*map(_join, ys, xs)])
    return new


def logit_bound(network: Network, images: Bytes, dtype: DTypeLike) -> Array:
    """Bound the rounding error of each logit, whoever computed it.

    Parameters
    ----------
    network : mapping of str to ndarray
        As :func:`qcp_ref.app.network.bundled.load_network` returns it. Its numbers are taken as
        exact.
    images : ndarray of uint8, shape (N, 28, 28)
        Images.
    dtype : dtype
        Either float32 or float64: the precision of the computation in question.

    Returns
    -------
    ndarray of float64, shape (N, 10)
        Bound on ``|computed - exact|``.

    Raises
    ------
    ValueError, TypeError
        For other images or dtypes.

    Notes
    -----
    [derived] from :eq:`bounds-gamma` and :eq:`bounds-sum`. A pair ``(x, e)`` goes through the
    network: ``x`` computed in float64, and ``e`` such that the exact value (of the network with
    the float64 constants of this module) is within ``e`` of ``x``, and the value computed in
    ``dtype`` within ``e`` of the exact one. Hence the computed one is at most ``|x| + 2 e``, and
    a convolution with ``n`` products per output turns ``e`` into ``gamma(n) |W| * (|x| + 2 e) +
    |W| * e``. The bound holds for any order of the sums, with fused multiply-add, and for both
    usual ways of writing batch norm, ``(x - mean) / sqrt(var + eps) * weight + bias`` and one
    multiplication and addition with constants computed before; not for Winograd or FFT
    convolutions. ReLU does not enlarge an error.

    This worst case grows several times with each layer. In float64 it stays far below any logit. In
    float32 it is proved as well, but as large as the logits: compare single layers instead.
    """
    _check(images, None)
    double = {name: value.astype(np.float64) for name, value in network.items()}
    W = np.abs(double["linear.weight"]).T

    step = partial(_step_bound, double, dtype)

    def join(block: Bounded, state: Bounded) -> Bounded:
        y, x = block[0], _shortcut(state[0], block[0])
        spread = _spread(1, dtype, x, _shortcut(state[1], y)) + _spread(1, dtype, *block)
        return y + x, spread

    def bound(part: Bytes) -> Array:
        # Three constants and three operations, with division by way of the reciprocal: 6 roundings.
        start = _spread(6, dtype, (part[:, None] / 255 + MEAN) / STD, np.zeros(1))
        x, e = _walk((_inputs(double, part), start), step, _relu_bound, join)
        e = _spread(x[0, 0].size + 1, dtype, x, e).mean(axis=(2, 3))
        e = _spread(len(W) + 1, dtype, x.mean(axis=(2, 3)), e) @ W
        return np.asarray(e + gamma(2, dtype) * np.abs(double["linear.bias"]))

    with one_blas_thread():
        return np.concatenate([bound(part) for part in _batches(images, 100)])


def _check(images: Any, layers: Layers | None) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images: expected a uint8 array of bytes 0 to 255, got {found}")
    if images.ndim != 3 or images.shape[1:] != (28, 28) or len(images) == 0:
        raise ValueError(f"images: expected shape (N, 28, 28), got {images.shape}")
    unknown = sorted(set(layers or {}) - set(KERNELS))
    if unknown:
        raise ValueError(f"layers: expected names among {list(KERNELS)}, got {unknown}")


def _batches(images: Bytes, batch: int) -> list[Bytes]:
    return [images[i : i + batch] for i in range(0, len(images), batch)]


def _inputs(network: Network, images: Bytes) -> Floats:
    x = images[:, None].astype(network["linear.weight"].dtype)
    return np.asarray((x / 255 - MEAN) / STD)


def _walk(
    x: T, step: Callable[[T, str, str], T], relu: Callable[[T], T], join: Callable[[T, T], T]
) -> T:
    """Go through the network up to its last block; a step is a convolution with its batch norm."""
    x = relu(step(x, "stem.conv", "stem.bn"))
    for block in ("block1", "block2", "block3"):
        y = relu(step(x, f"{block}.conv1", f"{block}.bn1"))
        x = relu(join(step(y, f"{block}.conv2", f"{block}.bn2"), x))
    return x


def _convolved(network: Network, layers: Layers | None, name: str, x: Floats) -> Floats:
    W, place = network[f"{name}.weight"], CONVOLUTIONS[name]
    if layers is None or name not in layers:
        return conv2d(x, W, stride=place.stride, padding=place.padding)
    y = np.asarray(layers[name](x), dtype=x.dtype)
    sides = (-(-side // place.stride) for side in x.shape[2:])
    if y.shape != (expected := (len(x), len(W), *sides)):
        raise ValueError(f"layers[{name!r}]: expected an output of shape {expected}, got {y.shape}")
    return y


def _affine(network: Network, norm: str) -> tuple[Floats, Floats]:
    """Return what batch norm multiplies by and adds."""
    scale = network[f"{norm}.weight"] / np.sqrt(network[f"{norm}.running_var"] + EPS)
    shift = network[f"{norm}.bias"] - network[f"{norm}.running_mean"] * scale
    return scale[:, None, None], shift[:, None, None]


def _normalized(network: Network, norm: str, x: Floats) -> Floats:
    scale, shift = _affine(network, norm)
    y: Floats = x * scale
    y += shift
    return y


def _relu(x: Floats) -> Floats:
    return np.asarray(np.maximum(x, 0))


def _shortcut(x: Floats, y: Floats) -> Floats:
    """Bring a block's input to its output's shape: every second pixel, zero channels around."""
    stride, extra = x.shape[2] // y.shape[2], (y.shape[1] - x.shape[1]) // 2
    return np.pad(x[:, :, ::stride, ::stride], ((0, 0), (extra, extra), (0, 0), (0, 0)))


def _join(y: Floats, x: Floats) -> Floats:
    return np.asarray(y + _shortcut(x, y))


def _spread(n: int, dtype: DTypeLike, x: Array, e: Array) -> Array:
    """Return what each term of a sum adds to its error, after ``n`` roundings.

    The last factor covers the roundings of this evaluation, and of a sum over its result.
    """
    return np.asarray((gamma(n, dtype) * (np.abs(x) + 2 * e) + e) * (1 + gamma(2 * n + 64)))


def _step_bound(
    network: Network, dtype: DTypeLike, state: Bounded, conv: str, norm: str
) -> Bounded:
    W = network[f"{conv}.weight"]
    y = _convolved(network, None, conv, state[0])
    e = _convolved({f"{conv}.weight": np.abs(W)}, None, conv, _spread(W[0].size, dtype, *state))
    # The constants of batch norm take 5 roundings, what they meet at most 3 more; one to spare.
    scale, shift = _affine(network, norm)
    constants = np.abs(network[f"{norm}.running_mean"][:, None, None] * scale)
    constants += np.abs(network[f"{norm}.bias"][:, None, None])
    return y * scale + shift, _spread(8, dtype, y, e) * np.abs(scale) + gamma(9, dtype) * constants


def _relu_bound(state: Bounded) -> Bounded:
    x, e = state
    return _relu(x), np.where(x + 2 * e < 0, 0.0, e)  # surely negative: both sides are 0
