"""Random small cases of the levels L0, L1, L2 and LI and of rows of codes, with their truth."""

from fractions import Fraction
from math import prod

import numpy as np

from qcp_ref import loops
from qcp_ref.conformance.cases.make import make
from qcp_ref.conformance.cases.rows import is_clear
from qcp_ref.conformance.cases.truth import expect
from qcp_ref.conformance.dyadic import nest
from qcp_ref.conformance.judging.certificates import CERTIFICATES
from qcp_ref.conformance.spec import OPS

RANGES = ((-128, 127), (0, 255), (-127, 127), (-8, 7), (0, 15), (-2, 1), (-32768, 32767))
LAYOUTS = (None, None, "fortran", "sliced", "negative", "read-only")


def numbers(rng, *shape):
    """Small integers, multiples of 1/8, full mantissas, or numbers of very different size."""
    kind = rng.integer(0, 3)
    count = prod(shape)
    if kind == 0:
        flat = [rng.integer(-9, 9) for _ in range(count)]
    elif kind == 1:
        flat = [Fraction(rng.integer(-999, 999), 8) for _ in range(count)]
    elif kind == 2:
        flat = [Fraction(rng.integer(-(2**24), 2**24), 2**20) for _ in range(count)]
    else:
        flat = [
            Fraction(rng.integer(-99, 99)) * 2 ** rng.integer(0, 30) / 2**15 for _ in range(count)
        ]
    return nest(flat, shape)


def window(rng):
    """Return options of a convolution, size of its kernel and of an image that is large enough."""
    kernel = [rng.integer(1, 3), rng.integer(1, 3)]
    options = {
        "stride": [rng.integer(1, 3), rng.integer(1, 3)],
        "padding": [rng.integer(0, 3) for _ in range(4)],
        "dilation": [rng.integer(1, 2), rng.integer(1, 2)],
    }
    if rng.integer(0, 3) == 0:  # what fast algorithms are made for
        kernel, options["stride"], options["dilation"] = [3, 3], [1, 1], [1, 1]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, options["dilation"], strict=True)]
    return options, kernel, [span + rng.integer(0, 3) for span in spans]


def spread(rng, shape, one):
    """One number for all, or one per index of an axis."""
    axis = rng.choice((None, *range(len(shape))))
    if axis is None:
        return one()
    sides = [side if n == axis else 1 for n, side in enumerate(shape)]
    return nest([one() for _ in range(shape[axis])], sides)


def near_codes(rng, shape, scale):
    """Numbers near levels and thresholds of a grid: on them, a little off, anywhere."""

    def one():
        half = Fraction(rng.integer(-40, 40), rng.choice((1, 2, 2, 4)))
        off = rng.choice((0, 0, Fraction(1, 2**12), -Fraction(1, 2**12), Fraction(1, 7)))
        x = (half + off) * scale
        m = round(x * 2**12)
        return x if (2**40 * x).denominator == 1 and abs(x * 2**40) < 2**24 else Fraction(m, 2**12)

    return nest([one() for _ in range(prod(shape))], shape)


def grid(rng, op):
    low, high = rng.choice(RANGES)
    shape = [rng.integer(1, 4) for _ in range(rng.integer(0, 3))]
    scale = rng.choice((1, 3, 15, Fraction(1, 4), Fraction(rng.integer(1, 2**20), 2**18)))
    options = {"qmin": low, "qmax": high}
    given = {
        "x": near_codes(rng, shape, Fraction(scale)),
        "scale": spread(rng, shape, lambda: scale * 2 ** rng.integer(0, 3)),
        "zero_point": spread(rng, shape, lambda: rng.integer(low, high)),
        "codes": rng.integers(shape, *rng.choice(((-128, 127), (0, 255)))),
    }
    if op == "project_kind":
        kind = rng.choice(("binary", "ternary", "log2"))
        bits = {"binary": 1, "ternary": 2, "log2": rng.integer(2, 5)}
        options = {"kind": kind, "bits": bits[kind]}
    if op == "choose_affine":  # a range that makes a scale with few bits
        unit, size = Fraction(1, 2 ** rng.integer(0, 8)), rng.integer(1, 9) * (high - low)
        least = rng.integer(0, size)
        given["x"] = [
            rng.integer(-least, size - least) * unit,
            -least * unit,
            (size - least) * unit,
        ]
    return given, options


def requantization(rng, op):
    low, high = rng.choice(RANGES[:5])
    shape = [rng.integer(1, 3), rng.integer(1, 3), rng.integer(1, 4)]
    top = 2 ** rng.integer(4, 31) - 1
    given = {"acc": rng.integers(shape, -top, top), "zero_point": rng.integer(low, high)}

    def each(one):
        return one() if rng.integer(0, 1) else [one() for _ in range(shape[1])]

    if op == "requantize":
        shift = rng.choice((0, 1, top.bit_length(), 20))
        given["multiplier"] = each(lambda: Fraction(rng.integer(1, 2**11), 2 ** (shift + 4)))
    else:
        given["multiplier"] = rng.integer(2**30, 2**31 - 1)
        given["shift"] = rng.integer(-20, 0)
    return given, {"qmin": low, "qmax": high}


def algebra(rng, _):
    sides = [rng.integer(1, 4) for _ in range(rng.integer(2, 4))]
    rank = rng.integer(1, 4)
    mode = rng.choice(range(len(sides)))
    given = {"X": numbers(rng, *sides), "factors": [numbers(rng, side, rank) for side in sides]}
    given["weights"] = rng.choice((None, numbers(rng, rank)))
    return given, {"mode": mode}


def layer(rng, _):
    options, kernel, size = window(rng)
    images, rank, outputs = rng.integer(1, 2), rng.integer(1, 4), rng.integer(1, 4)
    inputs = rng.integer(1, 6)
    entries = kernel[0] * kernel[1]
    given = {
        "x": numbers(rng, images, inputs, *size),
        "W": numbers(rng, outputs, inputs, *kernel),
        "A": numbers(rng, outputs, inputs),
        "C": numbers(rng, entries, inputs),
        "a_out": numbers(rng, outputs, rank),
        "a_in": numbers(rng, inputs, rank),
        "a_kernel": numbers(rng, entries, rank),
        "bias": rng.choice((None, numbers(rng, outputs))),
    }
    return given, {"kernel_size": kernel, **options}


def integers(rng, op):
    options, kernel, size = window(rng)
    if op == "quantized_linear":
        kernel, size = [], []
    images, inputs, rank, outputs = (rng.integer(1, 4) for _ in range(4))
    low, high = rng.choice(((-128, 127), (0, 255)))
    ends = [rng.choice(RANGES[:5]) for _ in range(3)]

    def each(count):
        one = [Fraction(rng.integer(1, 99), 2 ** rng.integer(6, 14)) for _ in range(count)]
        return rng.choice((one, one[0]))

    given = {
        "x": rng.integers([images, inputs, *size], low, high),
        "W": rng.integers([outputs, inputs, *kernel], -128, 127),
        "a_out": rng.integers([outputs, rank], -8, 7),
        "a_in": rng.integers([inputs, rank], -128, 127),
        "a_kernel": rng.integers([prod(kernel), rank], -8, 7),
        "bias": rng.choice((None, rng.integers([outputs], -(2**12), 2**12))),
        "multiplier": each(outputs),
        "multipliers": [each(rank), each(rank), each(outputs)],
    }
    zeros = [rng.integer(low, high), *(rng.integer(*pair) for pair in ends)]
    options |= {"x_zero": zeros[0], "y_zero": zeros[1], "zeros": zeros, "kernel_size": kernel}
    options |= {"qmin": ends[0][0], "qmax": ends[0][1], "relu": rng.choice((False, True))}
    options |= {"qmins": [pair[0] for pair in ends], "qmaxs": [pair[1] for pair in ends]}
    return given, options


def rows(rng, op):
    """One factor in codes, no number of which is decided near a tie."""
    low, high = rng.choice(((-8, 7), (-7, 7), (-2, 1), (0, 3)))
    rank, count, scale = rng.integer(1, 3), rng.integer(1, 4), Fraction(rng.integer(1, 8), 4)
    if op == "closest_rows":
        low, high = max(low, -3), min(high, 3)
    options = {"qmin": low, "qmax": high}
    while True:
        K, X = rng.integers((rank + 2, rank), -5, 5), rng.integers((count, rank + 2), -9, 9)
        codes = rng.integers((count, rank), low, high)
        given = {"F": loops.matmul(X, K), "G": loops.gram([K]), "codes": codes, "scale": scale}
        if op == "refit_scale":  # the codes are about right
            near = [[2 * k + rng.integer(-1, 1) for k in row] for row in codes]
            given["F"] = loops.matmul(near, given["G"])
        regular = op == "descend_rows" or np.linalg.matrix_rank(np.array(K)) == rank
        if regular and is_clear(op, given, options):
            return given, options


KINDS = {
    **dict.fromkeys(("quantize", "dequantize", "project", "project_kind", "choose_affine"), grid),
    **dict.fromkeys(("requantize", "requantize_fixed"), requantization),
    **dict.fromkeys(("reconstruct", "mttkrp", "gram", "balance"), algebra),
    **dict.fromkeys(("conv2d", "pointwise", "depthwise", "cp_conv2d"), layer),
    **{op: integers for op, spec in OPS.items() if spec.level == "LI"},
    **dict.fromkeys(("descend_rows", "nearest_plane", "refit_scale", "closest_rows"), rows),
}


def draw(op, rng, **choices):
    """Return a random case of an operation, with what adapters of some choices have to return."""
    given, options = KINDS[op](rng, op)
    if op == "gram":
        options["mode"] = rng.choice((None, options["mode"]))
    inputs = {name: given[name] for name in OPS[op].arrays}
    options = {name: options[name] for name in OPS[op].options}
    cert = {"kind": "cert", "name": op}
    if op == "closest_rows":
        levels = [[*range(options["qmin"], options["qmax"] + 1)]] * len(inputs["G"])
        steps = [[f / inputs["scale"] for f in row] for row in inputs["F"]]
        best = [loops.best_row(f, inputs["G"], levels) for f in steps]
        pairs = zip(steps, best, strict=True)
        cert["least"] = [str(loops.row_objective(f, inputs["G"], v)) for f, v in pairs]
    more = {"out": cert if op in CERTIFICATES else expect(op, inputs, options, choices)}
    layout = rng.choice(LAYOUTS)
    more |= {"layout": layout} if layout else {}
    return make(op, "drawn", "", [], inputs, options, **more)
