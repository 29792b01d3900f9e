"""What is right at sizes where index loops on fractions are too slow?

The same definitions as in ``truth``, on whole arrays and still without any rounding: sums of small
integers in float64, which holds them in any order; quotients and products that are rounded to codes
as Python integers, so that each tie is decided exactly. Tests compare all of it with the index
loops on small sizes.

Checked by tests/conformance/cases/test_exact.py.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref.conformance.cases.truth import SUMS, expect, roundings
from qcp_ref.conformance.dyadic import decode, encode, fractions, pack, units
from qcp_ref.conformance.spec import OPS, seen_by

__all__ = [
    "accumulators",
    "arrays_of",
    "closest",
    "expected",
    "is_short",
    "khatri_rao",
    "rounded",
    "sums",
]

Array = NDArray[Any]
Given = Mapping[str, Any]
Choices = Mapping[str, str]

# --- sums of products -----------------------------------------------------------------------------


def khatri_rao(factors: Sequence[Array]) -> Array:
    """Return the Khatri-Rao product: one row per index tuple, the last index fastest."""
    product = factors[0]
    for A in factors[1:]:
        product = (product[:, None] * A).reshape(-1, A.shape[1])  # (I J, R)
    return product


def _reconstruct(factors: Sequence[Array], weights: Array | None) -> Array:
    # X[i1, ..., id] = sum_r w_r A1[i1, r] ... Ad[id, r]  :eq:`cp-model`
    last = factors[-1] if weights is None else factors[-1] * weights
    return (khatri_rao(factors[:-1]) @ last.T).reshape([len(A) for A in factors])


def _mttkrp(X: Array, factors: Sequence[Array], mode: int) -> Array:
    # F = X_(n) times the Khatri-Rao product of the other factors  :eq:`tensor-mttkrp`
    others = [A for n, A in enumerate(factors) if n != mode]
    return np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1) @ khatri_rao(others)


def _gram(factors: Sequence[Array], mode: int | None) -> Array:
    # G = Hadamard product of A_m^T A_m over the modes m != n  :eq:`tensor-gram`
    return prod(
        (A.T @ A for n, A in enumerate(factors) if n != mode),
        start=np.ones(2 * factors[0].shape[1:]),
    )


def _taps(x: Array, size: Sequence[int], window: Given, fill: int = 0) -> Any:
    """Yield each tap of a kernel with the pixels that it meets, for all positions of the window."""
    (top, left, bottom, right), steps = window["padding"], window["stride"]
    padded = np.pad(
        x, [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=fill
    )  # (N, S, H, W)
    apart = window["dilation"]
    ends = [side - d * (k - 1) for side, d, k in zip(padded.shape[2:], apart, size, strict=True)]
    for i in range(size[0]):
        for j in range(size[1]):
            y, z = i * apart[0], j * apart[1]
            part = padded[:, :, y : y + ends[0] : steps[0], z : z + ends[1] : steps[1]]
            yield (i, j), part


def _mixed(A: Array, x: Array) -> Array:
    """Apply a matrix to the channels."""
    flat = A @ x.reshape(*x.shape[:2], -1)  # (N, T, H W)
    return flat.reshape(len(x), len(A), *x.shape[2:])


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias[:, None, None]


def _conv2d(x: Array, W: Array, bias: Array | None, window: Given) -> Array:
    # y[n, t, p] = b[t] + sum_s sum_i W[t, s, i] x[n, s, p stride + i dilation - pad]
    parts = [_mixed(W[:, :, i, j], part) for (i, j), part in _taps(x, W.shape[2:], window)]
    return _biased(np.sum(parts, axis=0), bias)


def _depthwise(x: Array, C: Array, window: Given) -> Array:
    size = window["kernel_size"]
    parts = [C[i * size[1] + j][:, None, None] * part for (i, j), part in _taps(x, size, window)]
    return np.asarray(np.sum(parts, axis=0))


def sums(op: str, given: Given, options: Given) -> Array:
    """Return the result of an operation that sums products, in float64 without checks."""
    g, o = given, options
    run: dict[str, Callable[[], Array]] = {
        "reconstruct": lambda: _reconstruct(g["factors"], g["weights"]),
        "mttkrp": lambda: _mttkrp(g["X"], g["factors"], o["mode"]),
        "gram": lambda: _gram(g["factors"], o["mode"]),
        "conv2d": lambda: _conv2d(g["x"], g["W"], g["bias"], o),
        "pointwise": lambda: _biased(
            _mixed(g["A"], g["x"][:, :, :: o["stride"][0], :: o["stride"][1]]), g["bias"]
        ),
        "depthwise": lambda: _depthwise(g["x"], g["C"], o),
        "cp_conv2d": lambda: _biased(
            _mixed(g["a_out"], _depthwise(_mixed(g["a_in"].T, g["x"]), g["a_kernel"], o)),
            g["bias"],
        ),
    }
    return run[op]()


def _sum(op: str, given: Given, options: Given, short: bool) -> dict[str, Any]:
    """Expect whole numbers exactly; within a bound if inputs are rounded to a shorter type.

    Sums up to ``2**24`` are exact in float32 :eq:`conformance-exact`, up to ``2**53`` in float64.
    """
    sizes = {name: _map(np.abs, part) for name, part in given.items()}
    g = sums(op, sizes, options)
    whole = all(np.array_equal(part, np.rint(part)) for part in arrays_of(given))
    limit = 2**24 if all(map(is_short, arrays_of(given))) else 2**53
    if not whole or g.max(initial=0) > limit:
        raise ValueError(f"{op}: expected integers with sums up to {limit}")
    y = _real(sums(op, given, options) + 0.0)  # no negative zeros
    if not short:
        return {"kind": "exact", **y}
    lists = {name: _map(lambda part: part.tolist(), part) for name, part in given.items()}
    return {"kind": "bound", **y, "g": _real(g), **roundings(op, lists, options)}


# --- rounding to codes ----------------------------------------------------------------------------


def rounded(p: Any, q: Any, rounding: str) -> Array:
    """Round quotients ``p / q`` of Python integers, ``q`` above 0, to the nearest integers."""
    p, q = np.atleast_1d(*np.broadcast_arrays(np.asarray(p, object), np.asarray(q, object)))
    low = p // q
    twice = 2 * (p - low * q)
    at_tie = {"half-even": low % 2 == 1, "half-up": q > 0, "half-away": p > 0}[rounding]
    return np.asarray(low + (np.greater(twice, q) | (np.equal(twice, q) & at_tie)))


def _ratio(array: Array) -> tuple[Any, int]:
    """Return ``p`` and ``q`` of numbers ``p / q``: Python integers, one power of two for all."""
    m, e = units(array)
    return m << max(e, 0), 1 << max(-e, 0)


def closest(x: Array, scale: Array, zero: Any, ends: Sequence[int], choices: Choices) -> Array:
    """Return the codes of numbers on a grid, :eq:`grid-quantize`."""
    zero = np.asarray(zero, object)
    m, e = units(x)
    s, f = units(scale)
    p, q = m << max(e - f, 0), s << max(f - e, 0)  # x / scale = p / q
    if choices["division"] != "exact":
        t = _short_quotient(x, scale, choices["division"])
        first = choices["zero_point"] == "before-rounding"
        p, q = _ratio(t + zero.astype(np.float32) if first else t)  # each one in float32
        return _clipped(rounded(p, q, choices["rounding"]) + (0 if first else zero), ends)
    if choices["zero_point"] == "before-rounding":
        return _clipped(rounded(p + zero * q, q, choices["rounding"]), ends)
    return _clipped(rounded(p, q, choices["rounding"]) + zero, ends)


def _short_quotient(x: Array, scale: Array, division: str) -> Array:
    """Divide in float32, where each operation is rounded correctly."""
    x, scale = x.astype(np.float32), scale.astype(np.float32)
    return x / scale if division == "float32" else x * (np.float32(1) / scale)


def _clipped(codes: Any, ends: Sequence[int]) -> Array:
    low, high = ends
    return np.asarray(np.minimum(np.maximum(np.asarray(codes, object), low), high), np.int64)


def _per_channel(part: Array, like: Array) -> Array:
    """Let numbers per channel meet axis 1."""
    return part.reshape(1, -1, *[1] * (like.ndim - 2)) if part.ndim else part


def _requantize(acc: Array, M: Array, z: int, ends: Sequence[int], choices: Choices) -> Array:
    # clip(round(M acc) + z)  :eq:`integer-exact`
    M, first = _per_channel(M, acc), choices["zero_point"] == "before-rounding"
    if choices["requant"] == "float32":
        t = acc.astype(np.float32) * M.astype(np.float32)
        p, q = _ratio(t + np.float32(z) if first else t)
        return _clipped(rounded(p, q, choices["rounding"]) + (0 if first else z), ends)
    m, q = _ratio(M)
    p = acc.astype(object) * m
    if first:
        return _clipped(rounded(p + z * q, q, choices["rounding"]), ends)
    return _clipped(rounded(p, q, choices["rounding"]) + z, ends)


def _requantize_fixed(given: Given, options: Given, mode: str) -> Array:
    acc = given["acc"].astype(object)
    m, shift = (_per_channel(given[key], acc).astype(object) for key in ("multiplier", "shift"))
    if mode == "single":
        # floor(acc m 2^(shift - 31) + 1/2)  :eq:`integer-single`
        codes = rounded(acc * m, 2 ** (31 - shift), "half-up")
    else:
        # to 32 bits first, then to the result, away from zero  :eq:`integer-double`
        wide = np.clip(acc * 2 ** np.maximum(shift, 0), -(2**31), 2**31 - 1)
        codes = rounded(wide * m, 2**31, "half-up")
        codes = rounded(codes, 2 ** np.maximum(-shift, 0), "half-away")
    return _clipped(codes + int(given["zero_point"]), (options["qmin"], options["qmax"]))


def _levels(kind: str, bits: int | None) -> tuple[Array, Array]:
    """Return codes and levels in ascending order."""
    top = 2 ** (bits - 1) - 1 if kind == "log2" and bits else 1
    codes = np.array([k for k in range(-top, top + 1) if k or kind != "binary"])
    return codes, np.sign(codes) * np.ldexp(1.0, np.abs(codes) - top)


def _project_kind(x: Array, scale: Array, options: Given, rounding: str) -> Array:
    codes, levels = _levels(options["kind"], options["bits"])
    m, e = units(x)
    s, f = units(scale)
    # twice x and the sum of two neighbouring levels times the scale, as integers
    low = 2.0 ** -(len(codes) // 2)
    middles = [int((a + b) / low) for a, b in pairwise(levels)]
    common = min(e + 1, f - len(codes) // 2)
    twice = np.asarray(m << (e + 1 - common))
    place = np.zeros(np.broadcast_shapes(m.shape, s.shape), np.int64)
    for n, middle in enumerate(middles):
        there = (s * middle) << (f - len(codes) // 2 - common)
        up = {"half-up": True, "half-away": codes[n + 1] > 0}.get(rounding, codes[n + 1] % 2 == 0)
        tie = np.equal(twice, there) & bool(up or options["kind"] == "binary")
        place += np.asarray(np.greater(twice, there) | tie, bool)
    return levels[place] * scale


# --- layers in integers ---------------------------------------------------------------------------


def accumulators(x: Array, W: Array, bias: Array | None, zero: int, window: Given | None) -> Array:
    """Return the sums of a convolution in integers, or without a window of a linear layer."""
    # sum W (x - zero), padded with the zero point  :eq:`integer-accumulator`
    centred, wide = x.astype(np.float64) - zero, None if bias is None else bias.astype(float)
    if window is None:
        acc = centred @ W.T.astype(np.float64)
        return (acc if wide is None else acc + wide).astype(np.int64)
    return _conv2d(centred, W.astype(np.float64), wide, window).astype(np.int64)


def _layer(op: str, given: Given, options: Given, choices: Choices) -> Array:
    g, o = given, options
    if op == "quantized_cp_conv2d":
        x, plain = g["x"].astype(np.float64), {"stride": [1, 1]}
        a_in, kernel, a_out = (g[name].astype(np.float64) for name in ("a_in", "a_kernel", "a_out"))
        stages: list[Callable[[Array], Array]] = [
            lambda v: sums("pointwise", {"x": v, "A": a_in.T, "bias": None}, plain),
            lambda v: _depthwise(v, kernel, o),
            lambda v: sums("pointwise", {"x": v, "A": a_out, "bias": g["bias"]}, plain),
        ]
        for n, stage in enumerate(stages):
            acc, ends = stage(x - o["zeros"][n]).astype(np.int64), (o["qmins"][n], o["qmaxs"][n])
            x = _requantize(acc, g["multipliers"][n], o["zeros"][n + 1], ends, choices)
        return np.asarray(x)
    ends = o["y_zero"] if o["relu"] else o["qmin"], o["qmax"]
    if op == "quantized_linear":
        acc = accumulators(g["x"], g["W"], g["bias"], o["x_zero"], None)
    else:
        acc = accumulators(g["x"], g["W"], g["bias"], o["x_zero"], o)
    return _requantize(acc, g["multiplier"], o["y_zero"], ends, choices)


# --- one factor in codes --------------------------------------------------------------------------


def _descend(given: Given, options: Given, rounding: str) -> Array:
    # v_r <- clip(round(v_r + (f_r / s - v G_r) / G_rr))  :eq:`rows-descent`
    F, G = (given[name].astype(np.float64) for name in ("F", "G"))
    f, v, ends = F / given["scale"], given["codes"].astype(np.float64), _ends(options)
    for r in range(len(G)):
        if G[r, r]:
            p, e = units(v[:, r] * G[r, r] + f[:, r] - v @ G[:, r])
            q, b = units(G[r, r])
            aim = rounded(p << max(e - b, 0), q << max(b - e, 0), rounding)
            v[:, r] = _clipped(aim, ends)
    return np.asarray(v, np.int64)


# --- expectations ---------------------------------------------------------------------------------


def _ends(options: Given) -> tuple[int, int]:
    return options["qmin"], options["qmax"]


def _map(function: Callable[[Any], Any], part: Any) -> Any:
    if isinstance(part, list):
        return [_map(function, one) for one in part]
    return None if part is None else function(part)


def arrays_of(given: Given) -> list[Array]:
    """Return all arrays of the arguments, those in lists, too."""
    parts = [part if isinstance(part, list) else [part] for part in given.values()]
    return [np.asarray(array) for part in parts for array in part if array is not None]


def _real(array: Array) -> dict[str, Any]:
    return {**encode(np.asarray(array, np.float64)), "t": "real"}


def is_short(array: Array) -> bool:
    """Say whether float32 holds all numbers of an array."""
    return array.dtype.kind != "f" or np.array_equal(array, array.astype(np.float32))


def _codes(array: Array) -> dict[str, Any]:
    return {"kind": "exact", **encode(np.asarray(array, np.int32))}


def _values(steps: Array, scale: Array) -> dict[str, Any]:
    """Expect products with a scale: exactly if float32 holds them, else up to one rounding."""
    array = steps * scale
    if is_short(scale) and is_short(array):
        return {"kind": "exact", **_real(array)}
    k, (m, e) = steps.astype(object), units(scale)
    exact = {"t": "real", "s": list(array.shape), "e": e, "m": [*map(str, (k * m).ravel())]}
    gauge = {**exact, "m": [*map(str, abs(k * m).ravel())]}
    return {"kind": "bound", **exact, "g": gauge, "n": 1, "factors": 1, "stored": 0}


def expected(case: Given, choices: Choices, *, short: bool = False) -> dict[str, Any]:
    """Return what is right for a recipe, for one set of declared choices.

    Parameters
    ----------
    case : mapping
        The case with its inputs.
    choices : mapping
        All choices with what is declared.
    short : bool
        Inputs are rounded to a shorter type: sums of products get a bound.

    Returns
    -------
    dict
        Expectations by result.

    Raises
    ------
    ValueError
        If the numbers are such that no rounding cannot be promised.
    """
    op, options = case["op"], case["options"]
    given = {name: _map(decode, part) for name, part in case["in"].items()}
    name = OPS[op].results[0]
    if op in SUMS:
        return {name: _sum(op, given, options, short)}
    if op in ("choose_scale", "choose_affine"):
        ends = pack([Fraction(float(f(given["x"]))) for f in (np.min, np.max)])
        return expect(op, {"x": fractions(ends)}, options, choices)
    seen = seen_by(op, choices)
    plain = seen["division"] == seen["requant"] == "exact"
    if not plain and not all(map(is_short, arrays_of(given))):
        lists = {key: _map(_fractions, part) for key, part in case["in"].items()}
        return expect(op, lists, options, choices)
    return {name: _quantized(op, given, options, seen)}


def _fractions(part: Given) -> Any:
    return fractions(dict(part))


def _quantized(op: str, given: Given, options: Given, choices: Choices) -> dict[str, Any]:
    g, o = given, options
    if op == "dequantize":
        return _values(g["codes"].astype(np.int64) - g["zero_point"], g["scale"])
    if op == "project_kind":
        return {"kind": "exact", **_real(_project_kind(g["x"], g["scale"], o, choices["rounding"]))}
    if op in ("quantize", "project"):
        zero = g["zero_point"].astype(np.int64)
        codes = closest(g["x"], g["scale"], zero, _ends(o), choices).reshape(g["x"].shape)
        return _codes(codes) if op == "quantize" else _values(codes - zero, g["scale"])
    if op == "requantize":
        z = int(g["zero_point"])
        return _codes(_requantize(g["acc"], g["multiplier"], z, _ends(o), choices))
    if op == "requantize_fixed":
        return _codes(_requantize_fixed(g, o, choices["fixed_point"]))
    if op == "int_conv2d":
        return _codes(accumulators(g["x"], g["W"], g["bias"], o["x_zero"], o))
    if op == "descend_rows":
        return _codes(_descend(g, o, choices["rounding"]))
    return _codes(_layer(op, g, o, choices))
