"""The demonstration: compress the bundled network, check the result, measure what it costs.

Nothing here prints; :mod:`qcp_ref.app.cli` shows what happens. One job per layer and method, run by
:mod:`qcp_ref.networks.jobs` with one BLAS thread each, so that the numbers do not depend on how
jobs were scheduled.

Checked by tests/app/demo/test_measure.py.
"""

import platform
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array, check_int, check_option
from qcp_ref.app.files import COMPRESSED, load_compressed, save_compressed, save_results, write_run
from qcp_ref.app.network import (
    KERNELS,
    Images,
    Layers,
    Network,
    accuracy_interval,
    load_images,
    load_manifest,
    load_network,
    predict,
    recalibrate,
)
from qcp_ref.factors.methods import METHODS
from qcp_ref.grids.grid import quantize
from qcp_ref.grids.scale import round_dense
from qcp_ref.layers.conv import conv2d, cp_conv_bound
from qcp_ref.layers.cost import Costs, conv_costs, equal_cost_bits
from qcp_ref.layers.layer import CPConv, compress_conv
from qcp_ref.networks.jobs import run_jobs

__all__ = ["DemoResult", "Settings", "check_forward", "check_grid", "highest_rate", "run"]

ACTIVATION_BITS = 8  # as the authors count; the demo itself leaves activations in float32
OTHER_BITS = 8  # first convolution, classifier, batch norm, as the authors count
STEM_SIDES = (28, 28)
THREADS = 2
BASELINES = ("als-round", "authors")  # run beside the chosen method
# Called with layer, method, stage, sweep, figure; a true result stops the stage.
Progress = Callable[[str, str, str, int, float], object]


@dataclass(frozen=True)
class Settings:
    """What the command line asks for; ValueError or TypeError names the field that is wrong."""

    rate: str = "2"
    bits: int = 4
    method: str = "best"
    seed: int = 0
    out: Path = Path("qcp-ref-out")

    def __post_init__(self) -> None:
        """Refuse what would fail later, or never end."""
        written = r"[0-9]{1,9}(\.[0-9]{0,9})?(e[+-]?[0-9]{1,2})?|[0-9]{1,9}/0*[1-9][0-9]{0,8}"
        most, rate = highest_rate(), str(self.rate)
        if not re.fullmatch(written, rate) or not 1 <= Fraction(rate) <= most:
            least = "1 to {:.4g}: beyond, no component is left of the smallest kernel"
            raise ValueError(f"rate: expected {least.format(float(most))}, got {rate:.30}")
        check_int(self.bits, "bits", minimum=1, maximum=16)
        check_option(self.method, "method", METHODS)
        check_int(self.seed, "seed", minimum=0)

    @property
    def equal_bits(self) -> Fraction:
        """Width of a dense kernel with as many bits in all as the factors, not a whole number."""
        return self.bits / Fraction(str(self.rate))

    @property
    def methods(self) -> list[str]:
        """All methods that run, each once, the chosen one last."""
        return [*(name for name in BASELINES if name != self.method), self.method]


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One layer: compressed by the chosen method and by others, and rounded densely."""

    name: str
    layer: CPConv
    others: dict[str, CPConv]
    dense: dict[str, Array]  # label of a dense quantizer -> its kernel
    dense_errors: dict[str, float]
    cost: Costs
    dense_cost: Costs
    rival_costs: dict[str, Costs]  # of the dense quantizers
    seconds: dict[str, float]  # of each method
    check: float

    @property
    def methods(self) -> dict[str, CPConv]:
        """The layer as each method compressed it, the chosen one last."""
        return {**self.others, self.layer.method: self.layer}

    @property
    def float_error(self) -> float:
        """Error of least squares at the same rank. Other methods' starts give some of it away."""
        return self.methods["als-round"].fit.start_error


@dataclass(frozen=True, eq=False)
class DemoResult:
    """All layers, the accuracies and the folder with the files."""

    settings: Settings
    layers: list[LayerResult]
    accuracy: dict[str, dict[str, float]]
    network_bops: dict[str, int]
    images: dict[str, int]
    checks: dict[str, float]
    seconds: dict[str, float]
    folder: Path

    @property
    def rival_costs(self) -> dict[str, Costs]:
        """Cost of all kernels as each dense quantizer stores them."""
        labels = self.layers[0].rival_costs
        return {k: sum((row.rival_costs[k] for row in self.layers), Costs()) for k in labels}

    @property
    def cost(self) -> Costs:
        """Cost of all compressed kernels."""
        return _total(self.layers, "cost")

    @property
    def dense_cost(self) -> Costs:
        """Cost of all kernels in the float network."""
        return _total(self.layers, "dense_cost")

    @property
    def passed(self) -> bool:
        """Whether every layer computes what it should, within its bound."""
        share, wrong = self.checks["worst_share_of_rounding_bound"], self.checks["weights_off_grid"]
        return share <= 1 and wrong == 0

    def as_json(self) -> dict[str, Any]:
        """Return everything that can be written down, with versions."""
        return {
            "settings": {**vars(self.settings), "out": str(self.settings.out)},
            "layers": [_layer_json(row) for row in self.layers],
            "cost": asdict(self.cost),
            "dense_cost": asdict(self.dense_cost),
            "rival_costs": {label: asdict(cost) for label, cost in self.rival_costs.items()},
            "network_bops": self.network_bops,
            "images": self.images,
            "accuracy": self.accuracy,
            "passed": self.passed,
            # JSON has no infinity: null stands for a difference beyond its bound
            "checks": {k: v if np.isfinite(v) else None for k, v in self.checks.items()},
            "seconds": self.seconds,
            "threads": {"jobs": THREADS, "blas": 1},
            "versions": {
                "python": platform.python_version(),
                **{name: _version(name) for name in ("qcp_ref", "numpy", "scipy", "numba")},
            },
        }


def run(settings: Settings, progress: Progress, announce: Callable[[str], object]) -> DemoResult:
    """Compress, check, measure; put the results, the layers and a picture into a new folder."""
    from qcp_ref.app.demo.plots import draw_demo

    start = time.perf_counter()
    network, images = load_network(), load_images()
    layers = _compress_all(settings, network, progress)
    compressed = time.perf_counter()
    announce("accuracy")
    accuracy = _accuracies(network, images, layers)
    counts = {"test": len(images.test_images), "calibration": len(images.calibration_images)}
    bops = _network_bops(network, layers, settings)

    def write(folder: Path) -> DemoResult:
        path = save_compressed(folder / COMPRESSED, {row.name: row.layer.cp for row in layers})
        checks = {
            "worst_share_of_rounding_bound": max(row.check for row in layers),
            "weights_off_grid": check_grid(path, {row.name: row.layer for row in layers}),
        }
        end = time.perf_counter()
        seconds = {"compress": compressed - start, "accuracy": end - compressed, "all": end - start}
        result = DemoResult(
            settings=settings,
            layers=layers,
            accuracy=accuracy,
            network_bops=bops,
            images=counts,
            checks=checks,
            seconds=seconds,
            folder=folder,
        )
        draw_demo(result, folder / "demo.png")
        save_results(folder, result.as_json())
        return result

    folder, result = write_run(settings.out, write)
    return replace(result, folder=folder)


def highest_rate() -> Fraction:
    """Return the rate that leaves one component of the smallest kernel :eq:`cost-rank`."""
    arrays = load_manifest()["files"]["network.npz"]["arrays"]
    shapes = (arrays[f"{name}.weight"]["shape"] for name in KERNELS)
    return min(Fraction(prod(shape), sum(shape[:2]) + prod(shape[2:])) for shape in shapes)


def check_forward(layer: CPConv, x: Array) -> float:
    """Compare the stages with the dense convolution; return the worst error over its bound.

    Both sides compute the same exact numbers, so their difference is bounded by :eq:`conv-bound`.
    Infinity stands for a difference that the bound does not cover.
    """
    cp = layer.cp.dequantize()
    options: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
    }
    bound = cp_conv_bound(x, cp, kernel_size=layer.kernel_size, **options)
    error = np.abs(layer.forward(x) - conv2d(x, layer.kernel(), **options))
    if not (error <= bound).all():  # catches NaN, too
        return float("inf")
    return float((error / np.where(bound > 0, bound, 1.0)).max())


def check_grid(path: Path, layers: dict[str, CPConv]) -> int:
    """Read the compressed file back; count weights that are not the layer's, or off their grid."""
    stored = load_compressed(path)
    wrong = 0
    for name, layer in layers.items():
        q = stored[name]
        factors = q.dequantize().factors
        for mine, k, s, A in zip(layer.cp.codes, q.codes, q.scales, factors, strict=True):
            wrong += int(((mine != k) | (quantize(A, q.grid, s) != k)).sum())
    return wrong


def dense_labels(settings: Settings) -> dict[str, tuple[int, int | None]]:
    """Return the dense quantizers of equal or nearest cost: label -> bits, scale axis.

    Axis 0 stands for a scale per channel. What they cost beside the factors is in the results:
    below one bit there is no kernel of equal cost.
    """
    return {
        f"dense {bits}b{'/ch' if axis == 0 else ''}": (bits, axis)
        for bits in sorted({max(1, bits) for bits in equal_cost_bits(settings.bits, settings.rate)})
        for axis in (None, 0)
    }


def _compress_all(settings: Settings, network: Network, progress: Progress) -> list[LayerResult]:
    cancelled = threading.Event()

    def job(key: tuple[str, str]) -> tuple[CPConv, float]:
        name, method = key

        def callback(stage: str, sweep: int, figure: float) -> object:
            return progress(name, method, stage, sweep, figure) or cancelled.is_set()

        start = time.perf_counter()
        W, kernel = network[f"{name}.weight"].astype(np.float64), KERNELS[name]
        options: dict[str, Any] = {"rate": settings.rate, "bits": settings.bits, "method": method}
        options |= {"rng": settings.seed, "stride": kernel.stride, "padding": kernel.padding}
        layer = compress_conv(W, callback=callback, **options)
        progress(name, method, "done", 0, layer.error)
        return layer, time.perf_counter() - start

    # Large layers first: the threads then end at about the same time.
    order = sorted(KERNELS, key=lambda name: -network[f"{name}.weight"].size)
    keys = list(product(order, settings.methods))
    names = [f"{name} by {method}" for name, method in keys]
    runs = run_jobs(job, keys, executor=THREADS, names=names, cancel=cancelled.set)
    done = dict(zip(keys, runs, strict=True))
    return [
        _layer_result(settings, network, name, {m: done[name, m] for m in settings.methods})
        for name in KERNELS
    ]


def _layer_result(
    settings: Settings, network: Network, name: str, runs: dict[str, tuple[CPConv, float]]
) -> LayerResult:
    """Add to what the methods made of a layer its rivals, its cost and its check."""
    W = network[f"{name}.weight"].astype(np.float64)
    stride, padding, side = KERNELS[name]
    place: dict[str, Any] = {"stride": stride, "padding": padding}
    layers = {method: layer for method, (layer, _) in runs.items()}
    layer = layers.pop(settings.method)
    dense = {label: round_dense(W, *choice) for label, choice in dense_labels(settings).items()}
    errors = {label: float(np.linalg.norm(W - Q) / np.linalg.norm(W)) for label, Q in dense.items()}
    dense_cost = conv_costs(W.shape, side, **place)
    place["activation_bits"] = ACTIVATION_BITS
    rivals = {
        label: conv_costs(
            W.shape, side, weight_bits=bits, scales=1 if axis is None else len(W), **place
        )
        for label, (bits, axis) in dense_labels(settings).items()
    }
    place |= {"rank": layer.rank, "scales": len(layer.cp.scales), "weight_bits": settings.bits}
    cost = conv_costs(W.shape, side, **place)
    x = np.random.default_rng([settings.seed, 1]).standard_normal((1, W.shape[1], *side))
    check = max(check_forward(one, x) for one in (layer, *layers.values()))
    seconds = {method: seconds for method, (_, seconds) in runs.items()}
    return LayerResult(
        name=name,
        layer=layer,
        others=layers,
        dense=dense,
        dense_errors=errors,
        cost=cost,
        dense_cost=dense_cost,
        rival_costs=rivals,
        seconds=seconds,
        check=check,
    )


def _accuracies(
    network: Network, images: Images, layers: list[LayerResult]
) -> dict[str, dict[str, float]]:
    """Measure every variant on the test images, batch norm recalibrated after each change."""
    variants: dict[str, Layers] = {
        method: {row.name: row.methods[method].forward for row in layers}
        for method in layers[0].methods
    }
    for label in layers[0].dense:
        variants[label] = {row.name: _dense_layer(row, label) for row in layers}

    def correct(replaced: Layers) -> NDArray[np.bool_]:
        adapted = network
        if replaced:
            adapted = recalibrate(network, images.calibration_images, layers=replaced)
        logits = predict(adapted, images.test_images, layers=replaced)
        return np.asarray(logits.argmax(axis=1) == images.test_labels)

    names = [*variants, "float"]
    *answers, base = run_jobs(correct, [*variants.values(), {}], executor=THREADS, names=names)
    table = {"float": {"accuracy": float(base.mean())}}
    for label, answer in zip(variants, answers, strict=True):
        change = accuracy_interval(base, answer)
        table[label] = {"accuracy": float(answer.mean()), **change._asdict()}
    return table


def _dense_layer(row: LayerResult, label: str) -> Callable[[Any], Any]:
    W = row.dense[label].astype(np.float32)
    return lambda x: conv2d(x, W, stride=row.layer.stride, padding=row.layer.padding)


def _total(layers: list[LayerResult], which: str) -> Costs:
    return sum((getattr(row, which) for row in layers), Costs())


def _network_bops(
    network: Network, layers: list[LayerResult], settings: Settings
) -> dict[str, int]:
    """Return each variant's BOPs over the whole network.

    What is not compressed (stem, classifier, two operations per batch-norm element) is counted at 8
    bits, in the float network at 32, as the authors do.
    """
    kernels, dense = _total(layers, "cost"), _total(layers, "dense_cost")
    stem = conv_costs(network["stem.conv.weight"].shape, STEM_SIDES, padding=1)
    outputs = network["stem.conv.weight"].shape[0] * STEM_SIDES[0] * STEM_SIDES[1]
    for row in layers:
        stride, _, (height, width) = KERNELS[row.name]
        outputs += row.layer.cp.shape[0] * -(-height // stride) * -(-width // stride)
    other = stem.macs + network["linear.weight"].size + 2 * outputs
    rest = other * OTHER_BITS**2
    bops = {"float": dense.bops + other * 32**2}
    bops |= dict.fromkeys(settings.methods, kernels.bops + rest)
    for label in dense_labels(settings):
        bops[label] = sum(row.rival_costs[label].bops for row in layers) + rest
    return bops


def _version(package: str) -> str:
    """Return the version of a package; Numba may be absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _layer_json(row: LayerResult) -> dict[str, Any]:
    return {
        "name": row.name,
        "kernel": list(row.layer.kernel().shape),
        "rank": row.layer.rank,
        "float_cp_error": row.float_error,
        "methods": {
            method: {
                "error": layer.error,
                "start_error": layer.fit.start_error,
                "stop_reason": layer.fit.stop_reason,
                "history": layer.fit.history.error.tolist(),
                "seconds": row.seconds[method],
            }
            for method, layer in row.methods.items()
        },
        "dense_errors": row.dense_errors,
        "cost": asdict(row.cost),
        "dense_cost": asdict(row.dense_cost),
        "rival_costs": {label: asdict(cost) for label, cost in row.rival_costs.items()},
        "worst_share_of_rounding_bound": row.check if np.isfinite(row.check) else None,
    }
