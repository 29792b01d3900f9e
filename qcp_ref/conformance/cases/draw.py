"""How does a recipe become numbers? One function per operation, from a seed, sizes and options.

All numbers are integers, or integers times powers of two, drawn from SplitMix64 by the name of the
argument. They are chosen so that what is right needs no rounding: sums stay below ``2**24``,
quotients are multiples of a power of two, and solvers are given problems whose solution was there
first.

Checked by tests/conformance/cases/test_recipes.py.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref.conformance.cases.exact import accumulators, sums
from qcp_ref.conformance.cases.make import PLAIN
from qcp_ref.conformance.dyadic import encode, uniform

__all__ = ["DRAWN", "Drawn"]

Array = NDArray[Any]
Given = Mapping[str, Any]
# inputs by argument, and what a certificate has to know; nothing if the truth is computed
Drawn = tuple[dict[str, Any], dict[str, Any]]

_TYPES = (np.int8, np.uint8, np.int32)


def _signed(name: str, shape: Any, top: int, bits: int = 0) -> Array:
    """Draw numbers of both signs, none of them zero; up to ``top``, or with so many bits."""
    low, high = (2 ** (bits - 1), 2**bits - 1) if bits else (1, top)
    size, sign = uniform(name, shape, low, high), uniform(f"{name}.sign", shape, 0, 1)
    return (size * (1 - 2 * sign)).astype(np.float64)


def _scales(name: str, shape: Any, top: int = 7) -> Array:
    """Draw small odd numbers times powers of two."""
    odd = 2 * uniform(name, shape, 0, top // 2) + 1
    return np.asarray(np.ldexp(odd.astype(np.float64), uniform(f"{name}.power", shape, -4, 3)))


def _stored(codes: Array, low: int, high: int) -> Array:
    """Keep codes in the shortest type that a range fits."""
    kinds = (kind for kind in _TYPES if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return codes.astype(next(kinds))


# --- grids ----------------------------------------------------------------------------------------


def _quantize(seed: str, z: Given, o: Given) -> Drawn:
    """Half of the quotients are ties of both parities, some are close to one, some are beyond."""
    low, high = o["qmin"], o["qmax"]
    scale = _scales(f"{seed}.scale", z["scale"])
    zero = uniform(f"{seed}.zero", z["zero"], low, high)
    halves = uniform(f"{seed}.halves", z["shape"], 2 * low - 9, 2 * high + 9)
    near = uniform(f"{seed}.near", z["shape"], -3, 3)
    t = halves / 2 - zero + np.where(abs(near) == 1, near / 2**6, 0) * z.get("near", 1)
    if "close" in z:
        scale = scale * (1 + uniform(f"{seed}.digits", scale.shape, 1, 2**52 - 1) / 2.0**52)
        return {"x": _beside(seed, t * scale, z["close"]), "scale": scale,
                "zero_point": zero.astype(np.int32)}, {}  # fmt: skip
    return {"x": t * scale, "scale": scale, "zero_point": zero.astype(np.int32)}, {}


def _beside(seed: str, numbers: Array, close: int) -> Array:
    """Move numbers by about one part in ``2**close``, up or down: farther than they were rounded."""
    steps = uniform(f"{seed}.steps", numbers.shape, 4, 7)
    sign = 1 - 2 * uniform(f"{seed}.side", numbers.shape, 0, 1)
    return np.asarray(numbers * (1 + steps * sign * 2.0 ** -(close + 2)))


def _dequantize(seed: str, z: Given, _: Given) -> Drawn:
    low, high = z["range"]
    codes = uniform(f"{seed}.codes", z["shape"], low, high)
    zero = uniform(f"{seed}.zero", z["zero"], low, high).astype(np.int32)
    scale = _scales(f"{seed}.scale", z["scale"])
    if z.get("digits"):
        scale = scale * (1 + uniform(f"{seed}.digits", scale.shape, 1, 2**52 - 1) / 2.0**52)
    return {"codes": _stored(codes, low, high), "scale": scale, "zero_point": zero}, {}


def _project_kind(seed: str, z: Given, o: Given) -> Drawn:
    """Draw numbers at, above and below the middles between levels, and beyond them."""
    top = 2 ** (o["bits"] - 1) - 1 if o["kind"] == "log2" else 1
    part, sign = (uniform(f"{seed}.{name}", z["shape"], 0, 1) for name in ("part", "sign"))
    power = uniform(f"{seed}.power", z["shape"], -top - 1, 1)
    middle = np.where(part == 1, 3.0, 2.0) * 2.0**power / 4
    t = middle * (1 + uniform(f"{seed}.near", z["shape"], -1, 1) / 2**6) * (1 - 2 * sign)
    scale = _scales(f"{seed}.scale", z["scale"])
    return {"x": t * scale, "scale": scale}, {}


def _choose_scale(seed: str, z: Given, o: Given) -> Drawn:
    """Draw numbers of which one is the largest, one the smallest, anywhere among them."""
    x = _signed(f"{seed}.x", z["shape"], 40)
    flat = x.reshape(-1)
    first, step = uniform(f"{seed}.places", (2,), 0, max(flat.size - 2, 0))
    alone = flat.size == 1 or bool(z.get("same"))
    flat[(first + 1 + step) % flat.size], flat[first] = _extremes(o, z, alone)
    if alone:
        flat[:] = flat[first]
    if o.get("rule") != "mse":
        return {"x": x}, {}
    least = str(_least(flat, o["qmin"], o["qmax"]))
    return {"x": x}, {"kind": "cert", "name": "choose_scale", "least": least}


def _extremes(o: Given, z: Given, alone: bool) -> tuple[float, float]:
    """Return two extremes, the deciding one last, of which the scale is 9 or 9/16."""
    low, high, largest = o["qmin"], o["qmax"], z["largest"]
    if z.get("tie"):  # -low / scale is 1/2 or 3/2
        below = 64.0 if low == 0 else (192.0, 64.0)[largest > 0]
        return -below, (1 if low == 0 else 2) * 128 - below
    unit, rule = (9 if high - low < 16 else 9 / 16), o.get("rule", "affine")
    if rule == "affine":
        return -50.0 * largest, largest * (unit * (high - low) - (0 if alone else 50))
    if rule == "max-abs-two-sided":
        ends = 7 / 9 * unit * (low if largest > 0 else high), unit * (high if largest > 0 else low)
        return round(ends[0]), ends[1]
    more = {"max-abs": 0.5, "max-abs-full": 1}.get(rule, 0)
    return -50.0 * largest, largest * unit * (high + more)


def _least(x: Array, low: int, high: int) -> Fraction:
    """Return the least squared error of any scale, by all breakpoints of :eq:`grid-exact`.

    Codes of a sum ``S1 = sum |x| |k|`` and ``S2 = sum k^2`` leave ``sum x^2 - S1^2 / S2``.
    """
    size, ends = np.abs(x).astype(np.int64), np.where(x > 0, high, -low)
    steps = [(v, k) for v, end in zip(size, ends, strict=True) for k in range(1, int(end) + 1)]
    v, k = np.array(steps).T
    order = np.argsort(-v / (2 * k - 1), kind="stable")  # the scale at which |x| rounds up to k
    S1, S2 = np.cumsum(v[order]), np.cumsum(2 * k[order] - 1)
    gain = S1**2 / S2
    best = np.flatnonzero(gain >= gain.max() * (1 - 2.0**-40))
    most = max(Fraction(int(S1[n]) ** 2, int(S2[n])) for n in best)
    return Fraction(int((size**2).sum())) - most


def _requantize(seed: str, z: Given, o: Given) -> Drawn:
    """Draw accumulators of all sizes; a third of the products are ties, as many next to one."""
    if "close" in z:
        return _next_to_ties(seed, z, o)
    channels = [z["shape"][1]] if z["channels"] else []
    power = uniform(f"{seed}.power", channels, 1, z.get("power", 20))
    odd = np.where(power % 2 == 1, 1, 2 * uniform(f"{seed}.odd", channels, 1, 500) + 1)
    spread = (lambda part: part.reshape(1, -1, *[1] * (len(z["shape"]) - 2))) if channels else int
    p, m = spread(power), spread(odd)
    low, high = 2 * o["qmin"] - 9, 2 * o["qmax"] + 9
    halves = uniform(f"{seed}.halves", z["shape"], low, high) - 2 * z["zero"]
    acc = halves * 2 ** (np.asarray(p) - 1) // m + uniform(f"{seed}.near", z["shape"], -1, 1)
    M = np.asarray(np.ldexp(odd.astype(np.float64), -power))
    return {"acc": acc.astype(np.int32), "multiplier": M, "zero_point": np.int32(z["zero"])}, {}


def _next_to_ties(seed: str, z: Given, o: Given) -> Drawn:
    """Draw accumulators, then multipliers of 53 bits whose products are next to ties."""
    acc = _signed(f"{seed}.acc", z["shape"], 0, 30).astype(np.int32)
    halves = 2 * uniform(f"{seed}.halves", z["shape"][1:], o["qmin"], o["qmax"] - 1) + 1
    M = _beside(seed, np.abs((halves / 2 - z["zero"]) / acc[0]), z["close"])
    return {"acc": acc, "multiplier": M, "zero_point": np.int32(z["zero"])}, {}


def _requantize_fixed(seed: str, z: Given, o: Given) -> Drawn:
    channels = [z["shape"][1]] if z["channels"] else []
    shift = uniform(f"{seed}.shift", channels, *z.get("shifts", (-24, 8)))
    m = uniform(f"{seed}.multiplier", channels, 2**30, 2**31 - 1)
    m = np.where(uniform(f"{seed}.plain", channels, 0, 2) == 0, 2**30, m)  # ties are possible
    spread = (lambda part: part.reshape(1, -1, *[1] * (len(z["shape"]) - 2))) if channels else int
    halves = uniform(f"{seed}.halves", z["shape"], 2 * o["qmin"] - 9, 2 * o["qmax"] + 9)
    size = np.ldexp((halves / 2 - z["zero"]) / np.asarray(spread(m)), 31 - spread(shift))
    acc = np.clip(np.rint(size), -(2**31), 2**31 - 1)
    far = uniform(f"{seed}.far", z["shape"], -(2**31), 2**31 - 1)
    acc = np.where(far % 6 == 0, far, acc).astype(np.int32)
    given = {"acc": acc, "multiplier": m.astype(np.int32), "shift": shift.astype(np.int32)}
    return {**given, "zero_point": np.int32(z["zero"])}, {}


# --- tensors --------------------------------------------------------------------------------------


def _factors(seed: str, z: Given, top: int) -> list[Array]:
    factors = [_signed(f"{seed}.{n}", (side, z["rank"]), top) for n, side in enumerate(z["sides"])]
    if z.get("long"):
        factors[0] = _signed(f"{seed}.0", factors[0].shape, 0, z["long"])
    if z.get("near"):
        # the second component is parallel to the first one, but for a small step
        for n, A in enumerate(factors):
            A[:, 1] = A[:, 0] + A[:, 1] * 2.0 ** -z["near"] * (n > 0)
    return [A * 2.0**power for A, power in zip(factors, z.get("powers", [0] * 9), strict=False)]


def _reconstruct(seed: str, z: Given, _: Given) -> Drawn:
    weights = _signed(f"{seed}.weights", (z["rank"],), 3) if z.get("weights") else None
    return {"factors": _factors(seed, z, 3), "weights": weights}, {}


def _mttkrp(seed: str, z: Given, _: Given) -> Drawn:
    X = _signed(f"{seed}.X", z["sides"], 9, z.get("bits", 0)) * 2.0 ** z.get("power", 0)
    return {"X": X, "factors": _factors(seed, z, 3)}, {}


def _gram(seed: str, z: Given, _: Given) -> Drawn:
    return {"factors": _factors(seed, z, 3)}, {}


def _balance(seed: str, z: Given, o: Given) -> Drawn:
    given, _ = _reconstruct(seed, z, o)
    return given, {"kind": "cert", "name": "balance"}


# --- layers ---------------------------------------------------------------------------------------


def _image(z: Given) -> list[int]:
    return [z["images"], z["inputs"], z["height"], z["width"]]


def _bias(seed: str, z: Given, top: int = 9) -> Array | None:
    return _signed(f"{seed}.bias", (z["outputs"],), top) if z.get("bias") else None


def _conv2d(seed: str, z: Given, _: Given) -> Drawn:
    W = _signed(f"{seed}.W", (z["outputs"], z["inputs"], *z["kernel"]), 3)
    return {
        "x": _signed(f"{seed}.x", _image(z), 3, z.get("bits", 0)),
        "W": W,
        "bias": _bias(seed, z),
    }, {}


def _pointwise(seed: str, z: Given, _: Given) -> Drawn:
    A = _signed(f"{seed}.A", (z["outputs"], z["inputs"]), 3)
    return {
        "x": _signed(f"{seed}.x", _image(z), 3, z.get("bits", 0)),
        "A": A,
        "bias": _bias(seed, z),
    }, {}


def _depthwise(seed: str, z: Given, o: Given) -> Drawn:
    C = _signed(f"{seed}.C", (prod(o["kernel_size"]), z["inputs"]), 3)
    return {"x": _signed(f"{seed}.x", _image(z), 3, z.get("bits", 0)), "C": C}, {}


def _stages(seed: str, z: Given, o: Given, top: int) -> dict[str, Array]:
    rows = {"a_out": z["outputs"], "a_in": z["inputs"], "a_kernel": prod(o["kernel_size"])}
    return {k: _signed(f"{seed}.{k}", (n, z["rank"]), top) for k, n in rows.items()}


def _cp_conv2d(seed: str, z: Given, o: Given) -> Drawn:
    stages = _stages(seed, z, o, 2)
    return {
        "x": _signed(f"{seed}.x", _image(z), 3, z.get("bits", 0)),
        **stages,
        "bias": _bias(seed, z),
    }, {}


# --- layers in integers ---------------------------------------------------------------------------


def _codes(seed: str, shape: Any, signed: bool) -> Array:
    low = -128 if signed else 0
    return _stored(uniform(seed, shape, low, low + 255), low, low + 255)


def _weights(seed: str, shape: Any, bits: int = 8) -> Array:
    end = 2 ** (bits - 1)
    return uniform(seed, shape, -end, end - 1).astype(np.int8)


def _far(seed: str, kind: Any, W: Array, terms: int) -> Array | None:
    """Draw a bias of so many bits, or (32) as large as an accumulator of 32 bits allows."""
    if not kind:
        return None
    room = 2**31 - 1 - 255 * np.abs(W.astype(np.int64)).reshape(len(W), -1).sum(axis=1)
    if kind != 32:
        room = np.minimum(room, 2 ** (kind - 1) - 1)
    least = max(int(room.min()) - 1000 * terms, 1) if kind == 32 else 1
    size = np.minimum(uniform(f"{seed}.bias", (len(W),), least, int(room.max())), room)
    sign = 1 - 2 * uniform(f"{seed}.sign", (len(W),), 0, 1)
    return np.asarray(size * sign, np.int32)


def _multiplier(seed: str, size: float, width: int, channels: int) -> Array:
    """Draw multipliers that spread accumulators of this size over twice a range of codes."""
    power = int(np.ceil(np.log2(max(size, 1) / width * 500)))
    odd = 2 * uniform(seed, [channels] if channels else [], 128, 400) + 1
    return np.asarray(np.ldexp(odd.astype(np.float64), -power))


def _int_conv2d(seed: str, z: Given, _: Given) -> Drawn:
    W = _weights(f"{seed}.W", (z["outputs"], z["inputs"], *z["kernel"]), z.get("bits", 8))
    x = _codes(f"{seed}.x", _image(z), z.get("signed", False))
    return {"x": x, "W": W, "bias": _far(seed, z.get("bias"), W, 1)}, {}


def _quantized(seed: str, given: dict[str, Any], z: Given, o: Given) -> Drawn:
    W, bias = given["W"], given["bias"]
    terms = W[0].size
    size = 60.0 * float(np.abs(W.astype(float)).mean() + 1) * terms**0.5
    if bias is not None:
        size = max(size, float(np.abs(bias.astype(float)).mean()))
    if "close" in z:
        op = {**PLAIN, **o} if W.ndim == 4 else None
        acc = accumulators(given["x"], W, bias, o["x_zero"], op)
        first = np.moveaxis(acc, 1, 0).reshape(len(W), -1)[:, 0]  # one of each channel
        halves = 2 * uniform(f"{seed}.halves", (len(W),), o["qmin"], o["qmax"] - 1) + 1
        ratio = np.abs((halves / 2 - o["y_zero"]) / np.where(first == 0, 1, first))
        return {**given, "multiplier": _beside(seed, ratio, z["close"])}, {}
    channels = len(W) if z.get("channels") else 0
    M = _multiplier(f"{seed}.M", size, o["qmax"] - o["qmin"] + 1, channels)
    return {**given, "multiplier": M}, {}


def _quantized_conv2d(seed: str, z: Given, o: Given) -> Drawn:
    given, _ = _int_conv2d(seed, z, o)
    return _quantized(seed, given, z, o)


def _quantized_linear(seed: str, z: Given, o: Given) -> Drawn:
    W = _weights(f"{seed}.W", (z["outputs"], z["inputs"]), z.get("bits", 8))
    x = _codes(f"{seed}.x", (z["images"], z["inputs"]), z.get("signed", False))
    return _quantized(seed, {"x": x, "W": W, "bias": _far(seed, z.get("bias"), W, 1)}, z, o)


def _quantized_cp_conv2d(seed: str, z: Given, o: Given) -> Drawn:
    rows = {"a_out": z["outputs"], "a_in": z["inputs"], "a_kernel": prod(o["kernel_size"])}
    stages = {k: _weights(f"{seed}.{k}", (n, z["rank"]), z.get("bits", 8)) for k, n in rows.items()}
    multipliers = []
    weights = (stages["a_in"].T, stages["a_kernel"].T, stages["a_out"])
    spans = (128, *(high - low + 1 for low, high in zip(o["qmins"], o["qmaxs"], strict=True)))
    bias = _far(seed, z.get("bias"), stages["a_out"], 1)
    for n, A in enumerate(weights):
        size = spans[n] / 3 * float(np.abs(A.astype(float)).mean() + 1) * A.shape[1] ** 0.5
        if n == 2 and bias is not None:
            size = max(size, float(np.abs(bias.astype(float)).mean()))
        channels = len(A) if z.get("channels", [0, 0, 0])[n] else 0
        multipliers.append(_multiplier(f"{seed}.M{n}", size, spans[n + 1], channels))
    x = _codes(f"{seed}.x", _image(z), z.get("signed", False))
    return {"x": x, **stages, "bias": bias, "multipliers": multipliers}, {}


# --- solvers --------------------------------------------------------------------------------------


def _als(op: str) -> Callable[[str, Given, Given], Drawn]:
    def drawn(seed: str, z: Given, o: Given) -> Drawn:
        return _mttkrp(seed, z, o)[0], {"kind": "cert", "name": op}

    return drawn


def _admm_step(seed: str, z: Given, _: Given) -> Drawn:
    rows, rank = z["rows"], z["rank"]
    K = _signed(f"{seed}.K", (rank + 1, rank), 3)
    given = {"F": _signed(f"{seed}.F", (rows, rank), 60), "G": K.T @ K}
    given |= {"H": _signed(f"{seed}.H", (rows, rank), 6) / 2}
    given |= {"U": _signed(f"{seed}.U", (rows, rank), 9) / 16, "rho": np.array(4.0 * rank)}
    given["scale"] = np.array(0.125)
    return _resized(given, z), {"kind": "cert", "name": "admm_step"}


def _resized(given: dict[str, Any], z: Given) -> dict[str, Any]:
    """Measure a problem in other units: F and the scale in one, G, rho and F in another."""
    units = {"F": ("power", "square"), "G": ("square",), "rho": ("square",)}
    units |= dict.fromkeys(("H", "U", "scale"), ("power",))
    for name in units.keys() & given.keys():
        given[name] = given[name] * 2.0 ** sum(z.get(unit, 0) for unit in units[name])
    return given


def _orthogonal(seed: str, side: int, rank: int) -> Array:
    """Return a matrix with orthogonal columns of different lengths: pairs mixed by (1, 1; 1, -1)."""
    Q = np.eye(side, rank)
    for r in range(0, rank - 1, 2):
        Q[r : r + 2, r : r + 2] = [[1, 1], [1, -1]]
    return Q * uniform(f"{seed}.lengths", (rank,), 1, 3)


def _epc_update(seed: str, z: Given, o: Given) -> Drawn:
    """Plant a factor: with orthogonal components the right one is a part of it, in one ratio."""
    given: dict[str, Any] = {"factors": _factors(seed, z, 3)}
    mode = o["mode"]
    other = (mode + 1) % len(z["sides"])
    given["factors"][other] = _orthogonal(seed, z["sides"][other], z["rank"])
    planted = list(given["factors"])
    planted[mode] = _signed(f"{seed}.planted", planted[mode].shape, 3)
    X = sums("reconstruct", {"factors": planted, "weights": None}, {})
    square = int((X**2).sum())
    # A / (1 + tau) leaves the error tau / (1 + tau) norm(X), a share of 1/4 here, from below
    delta = Fraction(isqrt(square * 2**20), 2**12)
    tau = Fraction(isqrt(int(delta**2 * 2**100)), isqrt(square * 2**100) + 1)
    unit = 2.0 ** z.get("power", 0)
    given |= {"X": X * unit, "delta": np.array(float(delta) * unit)}
    return given, {"kind": "cert", "name": "epc_update", "tau": str(tau / (1 - tau))}


def _pairs(seed: str, rank: int) -> tuple[Array, Array]:
    """Return a lower triangle with ones on the diagonal, columns paired, and a diagonal."""
    L, half = np.eye(rank), rank // 2
    for r in range(half):
        L[rank - half + r, r] = 1 - 2 * int(uniform(f"{seed}.{r}", (1,), 0, 1)[0])
    return L, np.full(rank, 4.0)


def _planted_codes(seed: str, z: Given, o: Given) -> Drawn:
    """Plant the right codes: the numbers that are rounded to them are off by an eighth at most.

    With ``G = L D L^T`` the objective is ``sum_k D_k ((a - v) L)_k^2``, and ``(a - v) L`` moves by
    integers: whatever is off by less than a half is the least, :eq:`conformance-planted`.
    """
    L, D = _pairs(seed, z["rank"])
    V = uniform(f"{seed}.V", (z["rows"], z["rank"]), o["qmin"], o["qmax"])
    off = uniform(f"{seed}.off", V.shape, -1, 1) / 8
    F = V @ (L * D) @ L.T + (off * D) @ L.T  # s a G for s = 1, with (a - V) L = off
    given = _resized({"F": F / 2, "G": (L * D) @ L.T, "scale": np.array(0.5)}, z)
    return given, {"codes": {"kind": "exact", **encode(V.astype(np.int32))}}


def _descend_rows(seed: str, z: Given, o: Given) -> Drawn:
    """Draw a band of even numbers beside fours: steps are multiples of 1/4."""
    rank, shape, ends = z["rank"], (z["rows"], z["rank"]), (o["qmin"], o["qmax"])
    off = uniform(f"{seed}.off", (rank,), -1, 1) * 2.0
    G = 4 * np.eye(rank) + np.diag(off[1:], 1) + np.diag(off[1:], -1)
    codes = uniform(f"{seed}.codes", shape, *ends)
    F = uniform(f"{seed}.F", shape, 6 * ends[0], 6 * ends[1]) / 2.0
    given = {"F": F, "G": G, "codes": _stored(codes, *ends), "scale": np.array(0.5)}
    return _resized(given, z), {}


def _refit_scale(seed: str, z: Given, _: Given) -> Drawn:
    """Draw codes of 8 bits, and the numbers that three quarters of them would make exactly."""
    V = uniform(f"{seed}.codes", (z["rows"], z["rank"]), -128, 127)
    L, D = _pairs(seed, z["rank"])
    G = (L * D) @ L.T
    F = 0.75 * V @ G + _signed(f"{seed}.F", V.shape, 9)
    given = _resized({"F": F, "G": G, "codes": V.astype(np.int8)}, z)
    return given, {"kind": "cert", "name": "refit_scale"}


DRAWN: dict[str, Callable[[str, Given, Given], Drawn]] = {
    "quantize": _quantize, "project": _quantize, "dequantize": _dequantize,
    "project_kind": _project_kind, "choose_scale": _choose_scale, "choose_affine": _choose_scale,
    "requantize": _requantize, "requantize_fixed": _requantize_fixed,
    "reconstruct": _reconstruct, "mttkrp": _mttkrp, "gram": _gram, "balance": _balance,
    "conv2d": _conv2d, "pointwise": _pointwise, "depthwise": _depthwise, "cp_conv2d": _cp_conv2d,
    "int_conv2d": _int_conv2d, "quantized_conv2d": _quantized_conv2d,
    "quantized_linear": _quantized_linear, "quantized_cp_conv2d": _quantized_cp_conv2d,
    "als_update": _als("als_update"), "als_sweep": _als("als_sweep"), "admm_step": _admm_step,
    "epc_update": _epc_update, "descend_rows": _descend_rows,
    "nearest_plane": _planted_codes, "closest_rows": _planted_codes,
    "refit_scale": _refit_scale,
}  # fmt: skip
