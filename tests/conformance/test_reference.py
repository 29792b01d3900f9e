"""The adapter of the book: every case, drawn cases, wrong input, planted faults."""

import subprocess
import sys
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import caught

from qcp_ref import IntegerCP
from qcp_ref.conformance import Adapter, Unsupported, judge
from qcp_ref.conformance.adapter import execute
from qcp_ref.conformance.cases.make import make
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.dyadic import SplitMix64, nest
from qcp_ref.conformance.reference import _grid, numpy_adapter, numpy_adapter_f32
from qcp_ref.conformance.spec import OPS

THIS = sys.modules[__name__]
EVERY = load()
SEEDS = st.integers(0, 2**64 - 1)
WINDOW = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}


def verdict(adapter, case):
    """The outcome of one case, '-' if it asks for what the adapter lacks."""
    short = adapter.arith == "f32" and "float64" in case["needs"]
    if set(case["needs"]) & adapter.lacking or short:
        return "-"
    answer = execute(adapter, case)
    if case["out"].get("kind") == "reject":
        return "pass" if answer.get("word") == "raises" else f"accepted {answer}"
    if "out" not in answer:
        return str(answer)
    found = judge(case, answer["out"], adapter.hello())
    return "pass" if found.outcome == "pass" else str(found)


def bad_ones(adapter, cases):
    verdicts = {case["id"]: verdict(adapter, case) for case in cases if case["op"] in adapter.ops}
    return {name: found for name, found in verdicts.items() if found not in ("pass", "-")}


def with_fault(adapter, op, function):
    """A copy of the adapter in which one operation is another function."""
    copy = Adapter(adapter.name, arith=adapter.arith, **adapter.choices)
    copy.ops.update({**adapter.ops, op: function})
    copy.lacks(*adapter.lacking)
    return copy


def double(adapter):
    """The adapter with requantization that rounds twice, as it then declares."""
    copy = Adapter(adapter.name, fixed_point="double")
    copy.ops["requantize_fixed"] = partial(adapter.ops["requantize_fixed"], mode="double")
    return copy


# --- cases of the suite ---------------------------------------------------------------------------


def test_the_adapter_has_all_operations():
    assert set(numpy_adapter.ops) == set(OPS)
    assert numpy_adapter.lacking == {"empty", "infinite"}


@pytest.mark.slow
def test_the_book_passes_every_case():
    assert not bad_ones(numpy_adapter, EVERY)
    assert not bad_ones(numpy_adapter_f32, EVERY)


def test_the_book_passes_when_it_declares_two_roundings():
    assert not bad_ones(double(numpy_adapter), EVERY)


# --- drawn cases ----------------------------------------------------------------------------------


def numbers(rng, *shape, top=20, bits=2):
    """Multiples of a power of two; with many bits their sums are rounded."""
    flat = [Fraction(rng.integer(-top, top), 2**bits) for _ in range(int(np.prod(shape)))]
    return nest(flat, shape)


def integers(rng, *shape, low=-128, high=127):
    return rng.integers(shape, low, high)


def drawn_algebra(rng, op):
    sides = [rng.integer(1, 4) for _ in range(rng.integer(2, 4))]
    rank, rough = rng.integer(1, 4), rng.choice((0, 1))
    some = partial(numbers, rng, top=2**20 if rough else 9, bits=17 if rough else 1)
    given = {"X": some(*sides), "factors": [some(side, rank) for side in sides]}
    given["weights"] = rng.choice((None, some(rank)))
    options = {"mode": rng.choice(range(len(sides)))}
    options["mode"] = rng.choice((None, options["mode"])) if op == "gram" else options["mode"]
    return given, options


def drawn_window(rng):
    kernel = [rng.integer(1, 3), rng.integer(1, 3)]
    window = {
        "stride": [rng.integer(1, 3), rng.integer(1, 3)],
        "padding": [rng.integer(0, 2) for _ in range(4)],
        "dilation": [rng.integer(1, 2), rng.integer(1, 2)],
    }
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, window["dilation"], strict=True)]
    return kernel, window, [span + rng.integer(0, 3) for span in spans]


def drawn_layer(rng, op):
    kernel, window, size = drawn_window(rng)
    images, inputs, outputs, rank = (rng.integer(1, 3) for _ in range(4))
    rough = rng.choice((0, 1))
    some = partial(numbers, rng, top=2**20 if rough else 9, bits=17 if rough else 1)
    channels = rank if op == "depthwise" else inputs
    given = {
        "x": some(images, channels, *size),
        "W": some(outputs, inputs, *kernel),
        "A": some(outputs, inputs),
        "C": some(kernel[0] * kernel[1], rank),
        "a_out": some(outputs, rank),
        "a_in": some(inputs, rank),
        "a_kernel": some(kernel[0] * kernel[1], rank),
        "bias": rng.choice((None, some(outputs))),
    }
    return given, {"kernel_size": kernel, **window}


def drawn_integers(rng, op, ends=None):
    kernel, window, size = drawn_window(rng)
    images, inputs, outputs, rank = (rng.integer(1, 3) for _ in range(4))
    low, high = ends or rng.choice(((-128, 127), (0, 255)))
    ranges = ((-128, 127), (0, 255), (-127, 127), (-8, 7), (0, 15))
    ends = [ends or rng.choice(ranges) for _ in range(3)]
    if op == "quantized_linear":
        kernel, size = [], []
    each = [Fraction(rng.integer(1, 99), 2 ** rng.integer(7, 14)) for _ in range(outputs)]
    many = [[Fraction(rng.integer(1, 99), 2**12) for _ in range(n)] for n in (rank, rank, outputs)]
    entries = int(np.prod(kernel))
    given = {
        "x": integers(rng, images, inputs, *size, low=low, high=high),
        "W": integers(rng, outputs, inputs, *kernel),
        "a_out": integers(rng, outputs, rank, low=-8, high=7),
        "a_in": integers(rng, inputs, rank),
        "a_kernel": integers(rng, entries, rank),
        "bias": rng.choice((None, integers(rng, outputs, low=-(2**12), high=2**12))),
        "multiplier": rng.choice((each, each[0])),
        "multipliers": rng.choice((many, [part[0] for part in many])),
    }
    zeros = [rng.integer(low, high), *(rng.integer(*pair) for pair in ends)]
    options = {"x_zero": zeros[0], "y_zero": zeros[1], "relu": rng.choice((False, True))}
    options |= {"qmin": ends[0][0], "qmax": ends[0][1], "zeros": zeros, "kernel_size": kernel}
    options |= {"qmins": [pair[0] for pair in ends], "qmaxs": [pair[1] for pair in ends]}
    return given, {**options, **window}


DRAWN = {"L1": drawn_algebra, "L2": drawn_layer, "LI": drawn_integers}
OPERATIONS = [op for op, spec in OPS.items() if spec.level in DRAWN and op != "balance"]


def drawn(op, seed, **more):
    given, options = DRAWN[OPS[op].level](SplitMix64(seed), op, **more)
    inputs = {name: given[name] for name in OPS[op].arrays}
    return make(op, "drawn", "", [], inputs, {name: options[name] for name in OPS[op].options})


@settings(max_examples=25)
@given(SEEDS)
@pytest.mark.parametrize("op", OPERATIONS)
def test_drawn_cases_are_passed(op, seed):
    case = drawn(op, seed)
    assert verdict(numpy_adapter, case) == "pass"
    if op in numpy_adapter_f32.ops:
        assert verdict(numpy_adapter_f32, case) == "pass"


def whole_layer(x, a_out, a_in, a_kernel, bias, multipliers, **options):
    """The book's layer, which has one grid for all activations."""
    weights = a_in.T, a_kernel, a_out
    channels = a_in.shape[1], a_kernel.shape[1], len(a_out)
    M = tuple(np.broadcast_to(m, n) for m, n in zip(multipliers, channels, strict=True))
    b = np.zeros(len(a_out), np.int64) if bias is None else bias.astype(np.int64)
    (qmin,), (qmax,) = (set(options.pop(name)) for name in ("qmins", "qmaxs"))
    zeros = tuple(options.pop("zeros"))
    return IntegerCP(weights, M, b, zeros, _grid(qmin, qmax), **options).forward(x)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([(-128, 127), (0, 255)]))
def test_the_layer_of_the_book_is_its_stages_one_by_one(seed, ends):
    case = drawn("quantized_cp_conv2d", seed, ends=ends)
    whole = with_fault(numpy_adapter, "quantized_cp_conv2d", whole_layer)
    assert verdict(whole, case) == verdict(numpy_adapter, case) == "pass"


# --- wrong input ----------------------------------------------------------------------------------

X, A, B, C = np.ones((3, 4, 2)), np.ones((3, 2)), np.ones((4, 2)), np.ones((2, 2))
IMAGE, KERNEL = np.ones((1, 2, 5, 5)), np.ones((3, 2, 3, 3))
CODES = IMAGE.astype(np.int8)
ENDS, ACC = {"qmin": -128, "qmax": 127}, np.ones((1, 2), np.int32)
REFUSED = [
    ("quantize", (np.array([1.0, np.nan]), 1.0, 0), ENDS),
    ("quantize", (np.array([1.0, np.inf]), 1.0, 0), ENDS),
    ("quantize", (X, np.array(0.0), 0), ENDS),
    ("quantize", (X, np.array(-1.0), 0), ENDS),
    ("quantize", (X, np.array(np.nan), 0), ENDS),
    ("quantize", (X, np.ones((3, 1)), 0), ENDS),
    ("quantize", (X, 1.0, 128), ENDS),
    ("quantize", (X, 1.0, np.array(0.5)), ENDS),
    ("quantize", (X, 1.0, 0), {"qmin": 7, "qmax": -8}),
    ("quantize", (X, 1.0, 0), {"qmin": 0, "qmax": 0}),
    ("dequantize", (X, 1.0, 0), {}),
    ("dequantize", (CODES, -1.0, 0), {}),
    ("project", (X, 0.0, 0), ENDS),
    ("project_kind", (X, 1.0), {"kind": "octal", "bits": 3}),
    ("choose_scale", (np.array([np.nan]),), {**ENDS, "rule": "mse"}),
    ("choose_scale", (X,), {**ENDS, "rule": "guess"}),
    ("choose_affine", (X,), {"qmin": 7, "qmax": -8}),
    ("requantize", (ACC, 0.0, 0), ENDS),
    ("requantize", (ACC + 0.5, 0.5, 0), ENDS),
    ("requantize", (ACC.astype(np.int64) << 40, 0.5, 0), ENDS),
    ("requantize", (ACC, np.ones(3) / 2, 0), ENDS),
    ("requantize_fixed", (ACC, np.array(5), np.array(0), 0), ENDS),
    ("requantize_fixed", (ACC, np.array(2**30), np.array(-32), 0), ENDS),
    ("reconstruct", ([A, np.ones((4, 3)), C], None), {}),
    ("reconstruct", ([A, B, C], np.ones(3)), {}),
    ("mttkrp", (X, [A, B, np.ones((2, 3))]), {"mode": 0}),
    ("mttkrp", (X, [A, np.ones((1, 2)), C]), {"mode": 0}),
    ("mttkrp", (X, [A, B, C]), {"mode": 3}),
    ("mttkrp", (X, [A, B, C]), {"mode": -1}),
    ("mttkrp", (X * np.nan, [A, B, C]), {"mode": 1}),
    ("gram", ([A, B, C],), {"mode": 3}),
    ("gram", ([A, np.ones((4, 1)), C],), {"mode": None}),
    ("balance", ([A, B, np.ones((2, 1))], None), {}),
    ("conv2d", (IMAGE, np.ones((3, 1, 3, 3)), None), WINDOW),
    ("conv2d", (IMAGE, KERNEL, np.ones(1)), WINDOW),
    ("conv2d", (IMAGE, KERNEL, None), {**WINDOW, "padding": [-1, 0, 0, 0]}),
    ("conv2d", (IMAGE, KERNEL, None), {**WINDOW, "stride": [0, 1]}),
    ("conv2d", (IMAGE, KERNEL, None), {**WINDOW, "dilation": [1, 3]}),
    ("conv2d", (IMAGE * np.nan, KERNEL, None), WINDOW),
    ("pointwise", (IMAGE, np.ones((3, 1)), None), {"stride": [1, 1]}),
    ("depthwise", (IMAGE, np.ones((2, 9))), {"kernel_size": [3, 3], **WINDOW}),
    ("depthwise", (IMAGE, np.ones((9, 1))), {"kernel_size": [3, 3], **WINDOW}),
    ("depthwise", (IMAGE, np.ones((1, 2))), {"kernel_size": [3, 3], **WINDOW}),
    (
        "cp_conv2d",
        (IMAGE, np.ones((3, 1)), C, np.ones((9, 2)), None),
        {"kernel_size": [3, 3], **WINDOW},
    ),
    ("int_conv2d", (IMAGE, KERNEL.astype(np.int8), None), {"x_zero": 0, **WINDOW}),
    ("int_conv2d", (CODES, KERNEL.astype(np.int8), None), {"x_zero": 128, **WINDOW}),
    ("int_conv2d", (CODES, 200 * KERNEL.astype(np.int64), None), {"x_zero": 0, **WINDOW}),
    ("int_conv2d", (CODES, np.ones((3, 1, 3, 3), np.int8), None), {"x_zero": 0, **WINDOW}),
    (
        "quantized_linear",
        (CODES[:, :, 0, 0], KERNEL[:, :, 0, 0].astype(np.int8), None, np.array(-1.0)),
        {"x_zero": 0, "y_zero": 0, "relu": False, **ENDS},
    ),
    (
        "quantized_cp_conv2d",
        (CODES, *(M.astype(np.int8) for M in (A, C, np.ones((2, 9)))), None, [np.array(0.5)] * 3),
        {"zeros": [0] * 4, "qmins": [-8] * 3, "qmaxs": [7] * 3, "kernel_size": [3, 3], **WINDOW},
    ),
    ("als_update", (X, [A, B, C]), {"mode": 3}),
    ("als_sweep", (X, [A, np.ones((1, 2)), C]), {}),
    ("admm_step", (A, C, A[:1], A, np.array(1.0), np.array(1.0)), ENDS),
    ("admm_step", (A, C, A, A, np.array(0.0), np.array(1.0)), ENDS),
    ("admm_step", (A, C, A, A, np.array(1.0), np.array(-1.0)), ENDS),
    ("admm_step", (A, C[:1, :1], A, A, np.array(1.0), np.array(1.0)), ENDS),
    ("epc_update", (X, [A, B, C], np.array(np.nan)), {"mode": 0}),
    ("epc_update", (X, [A, B, C], np.array(-1.0)), {"mode": 0}),
    ("epc_update", (X, [A, B, C], np.array(1.0)), {"mode": 3}),
    ("epc_update", (X, [A, np.ones((1, 2)), C], np.array(1.0)), {"mode": 0}),
    ("cp_als", (X,), {"rank": 0, "seed": 0}),
    ("ao_admm", (X,), {"rank": 2, "seed": 0, "qmin": 7, "qmax": -8}),
]


@pytest.mark.parametrize(("op", "arrays", "options"), REFUSED)
def test_wrong_input_is_refused(op, arrays, options):
    arrays = [np.asarray(a) if isinstance(a, (int, float)) else a for a in arrays]
    with pytest.raises(Exception) as refusal:  # noqa: PT011 - any exception will do, but one
        numpy_adapter.ops[op](*arrays, **options)
    assert refusal.type is not Unsupported


def test_ranges_are_those_of_grids_or_not_supported():
    for ends in ((-128, 127), (-7, 7), (0, 15), (-1, 0), (0, 65535), (-32768, 32767)):
        grid = _grid(*ends)
        assert (grid.qmin, grid.qmax) == ends
    for ends in ((-3, 5), (1, 4), (0, 5), (-5, 4), (-9, -2)):
        with pytest.raises(Unsupported, match="bits"):
            _grid(*ends)


# --- laziness -------------------------------------------------------------------------------------


def test_importing_the_adapter_does_not_load_the_compiler():
    code = (
        "from qcp_ref.conformance.reference import numpy_adapter as a; a.hello(); import sys;"
        "assert not {'numba', 'scipy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- planted faults -------------------------------------------------------------------------------

RIGHT = {op: numpy_adapter.ops[op] for op in ("als_update", "conv2d")}


def half_away(x, scale, zero_point, *, qmin, qmax):
    """Rounds ties away from zero."""
    t = x / scale
    return np.clip(np.sign(t) * np.floor(abs(t) + 0.5) + zero_point, qmin, qmax).astype(int)


def jacobi(X, factors):
    """Updates all factors from the old ones."""
    return [RIGHT["als_update"](X, factors, mode=n) for n in range(X.ndim)]


def unbiased(x, W, bias, **window):
    """Forgets the bias."""
    del bias
    return RIGHT["conv2d"](x, W, None, **window)


def test_drawn_convolutions_are_passed():
    assert not bad_ones(numpy_adapter, [drawn("conv2d", seed) for seed in range(10)])


@pytest.mark.parametrize(
    ("test", "op", "wrong"),
    [
        (test_the_book_passes_every_case, "quantize", half_away),
        (test_the_book_passes_every_case, "als_sweep", jacobi),
        (test_drawn_convolutions_are_passed, "conv2d", unbiased),
    ],
)
def test_planted_faults_are_caught(test, op, wrong):
    faulty, own = with_fault(numpy_adapter, op, wrong), [case for case in EVERY if case["op"] == op]
    assert caught(THIS, test, EVERY=own, numpy_adapter=faulty)
