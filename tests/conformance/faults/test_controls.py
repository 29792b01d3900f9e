"""Correct implementations that do things differently are never accused."""

import os
from collections import defaultdict

import numpy as np
import pytest
from kit_draws import KINDS, draw

from qcp_ref.conformance.dyadic import SplitMix64
from qcp_ref.conformance.faults.catalogue import FAULTS
from qcp_ref.conformance.faults.controls import CONTROLS, winograd_class
from qcp_ref.conformance.faults.matrix import attempt
from qcp_ref.conformance.faults.plain import RIGHT

MANY = os.environ.get("HYPOTHESIS_PROFILE") == "long"
DRAWS, PARTS = (100_000 if MANY else 2000), 8
BY_OP = defaultdict(list)
for control in CONTROLS:
    BY_OP[control.op].append(control)
OPTIONS = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}


def alarms(seeds, implementations):
    """Cases drawn for the seeds at which one of the implementations is accused."""
    found = []
    for seed in seeds:
        rng = SplitMix64(seed)
        op = rng.choice(sorted(KINDS))
        one = rng.choice(implementations[op])
        choices = {k: v for k, v in one.options.items() if k not in ("arith", "fast")}
        word, reply = attempt(one.function, draw(op, rng, **choices), **one.options)
        if word:
            found.append((seed, one.name, op, word, reply.get("error", "")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_correct_variant_is_accused(part):
    assert not alarms(range(part, DRAWS, PARTS), BY_OP)


def test_wrong_variants_are():
    """The draws are no easy ones: of faults in place of controls every fourth draw accuses."""
    wrong = defaultdict(list)
    for fault in FAULTS:
        control = BY_OP[fault.op][0]._replace(name=fault.id, function=fault.function)
        wrong[fault.op].append(control._replace(options={"arith": fault.arith}))
    assert len(alarms(range(400), wrong)) > 100


def test_every_operation_has_controls_in_both_precisions():
    for op in RIGHT:
        assert {"f32", "f64"} <= {one.options.get("arith", "f64") for one in BY_OP[op]}
    names = [(one.name, one.op, *sorted(one.options.items())) for one in CONTROLS]
    assert len(set(names)) == len(names)


def test_every_way_to_divide_round_and_add_is_declared_once():
    seen = {tuple(sorted(one.options.items())) for one in BY_OP["quantize"] if len(one.options) > 1}
    assert len(seen) == 2 * 3 * 3 * 2
    seen = {
        tuple(sorted(one.options.items())) for one in BY_OP["requantize"] if len(one.options) > 1
    }
    assert len(seen) == 2 * 3 * 2 * 2


def of_conv(name):
    return next(one for one in BY_OP["conv2d"] if one.name == name)


def test_orders_of_summation_differ_in_the_last_bits(rng):
    x = rng.normal(size=(1, 8, 6, 6)).astype(np.float32)
    W = rng.normal(size=(4, 8, 3, 3)).astype(np.float32)
    names = ["forward sums", "reversed sums", "pairwise sums", "sums in 4 lanes"]
    names += ["sums in float64", "fused products", "inputs in tf32", "im2col", "Winograd"]
    results = {of_conv(name).function(x, W, None, **OPTIONS).tobytes() for name in names}
    assert len(results) == len(names)
    exact = RIGHT["conv2d"](x.astype(float), W.astype(float), None, **OPTIONS)
    for one in BY_OP["conv2d"]:
        assert np.allclose(one.function(x, W, None, **OPTIONS), exact, rtol=0.2, atol=0.2)


def test_compensated_sums_lose_less():
    terms = np.full(3000, 0.1, np.float32)
    W = np.ones((1, 3000, 1, 1), np.float32)
    x = terms.reshape(1, -1, 1, 1)
    exact = 3000 * float(np.float32(0.1))
    plain = of_conv("forward sums").function(x, W, None, **OPTIONS).item()
    better = of_conv("compensated sums").function(x, W, None, **OPTIONS).item()
    assert abs(better - exact) < 2**-15 < abs(plain - exact)


def test_winograd_stays_in_its_class_and_leaves_the_entrywise_bound(rng):
    """Numbers of very different size: the sums of a tile do not belong to one output alone."""
    run, u, ratios, beyond = of_conv("Winograd").function, 2.0**-24, [], 0
    for _ in range(50):
        size = 2.0 ** rng.integers(-12, 13, size=(1, 1, 4, 4))
        x = (rng.normal(size=(1, 1, 4, 4)) * size).astype(np.float32)
        W = rng.normal(size=(1, 1, 3, 3)).astype(np.float32)
        error = np.abs(
            run(x, W, None, **OPTIONS)
            - RIGHT["conv2d"](x.astype(float), W.astype(float), None, **OPTIONS)
        )
        ratios.append(error.max() / (u * np.linalg.norm(x) * np.linalg.norm(W)))
        gauge = RIGHT["conv2d"](np.abs(x, dtype=float), np.abs(W, dtype=float), None, **OPTIONS)
        beyond += bool((error > 9 * u / (1 - 9 * u) * gauge).any())
    assert max(ratios) <= winograd_class(1)
    assert beyond > 0
    assert winograd_class(1) < winograd_class(64) < 1100


@pytest.mark.parametrize("sides", [(3, 3), (4, 5), (6, 7)])
def test_winograd_on_multiples_of_four_is_exact(sides, rng):
    x = rng.integers(-9, 10, size=(2, 3, *sides)).astype(np.float32)
    W = 4.0 * rng.integers(-9, 10, size=(2, 3, 3, 3)).astype(np.float32)
    options = {**OPTIONS, "padding": (1, 0, 2, 1)}
    assert np.array_equal(
        of_conv("Winograd").function(x, W, np.ones(2, np.float32), **options),
        RIGHT["conv2d"](x, W, np.ones(2, np.float32), **options),
    )
