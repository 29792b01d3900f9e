"""Which correct implementations must the suite never accuse?

The counterpart of ``qcp_ref.conformance.faults.catalogue``: sums in other orders and precisions,
other arrangements of the same layer, fast convolutions in their declared class, and everything that
the definitions leave open, declared as such. Tests draw many thousands of cases; one accusation is
an error of the suite.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from qcp_ref.conformance.faults.catalogue import shorten, vary
from qcp_ref.conformance.faults.plain import (
    RAW,
    RIGHT,
    khatri_rao,
    round_twice,
    total,
    windows,
    with_bias,
)
from qcp_ref.conformance.spec import CHOICES

__all__ = ["CONTROLS", "Control", "winograd_class"]


class Control(NamedTuple):
    """A correct implementation of one operation, and what its adapter declares."""

    name: str
    op: str
    function: Callable[..., Any]
    options: Mapping[str, Any]


_SUMS = ("conv2d", "pointwise", "depthwise", "cp_conv2d", "reconstruct", "mttkrp", "gram")


# --- orders of summation --------------------------------------------------------------------------


def _forward(terms: Any) -> Any:
    sums = np.zeros_like(terms[..., 0])
    for k in range(terms.shape[-1]):
        sums = sums + terms[..., k]
    return sums


def _pairwise(terms: Any) -> Any:
    n = terms.shape[-1]
    if n < 3:
        return _forward(terms)
    return _pairwise(terms[..., : n // 2]) + _pairwise(terms[..., n // 2 :])


def _compensated(terms: Any) -> Any:
    """Add like Kahan."""
    sums, lost = np.zeros_like(terms[..., 0]), np.zeros_like(terms[..., 0])
    for k in range(terms.shape[-1]):
        term = terms[..., k] - lost
        new = sums + term
        sums, lost = new, (new - sums) - term
    return sums


def _fused(terms: Any) -> Any:
    """Add products that were not rounded; the sum is rounded each time."""
    sums = np.zeros(terms.shape[:-1])
    for k in range(terms.shape[-1]):
        sums = (sums + terms[..., k]).astype(np.float32).astype(float)
    return sums


def _in_lanes(terms: Any) -> Any:
    """Add every fourth term, as vector units do, then the four sums."""
    lanes = [_forward(terms[..., k::4]) for k in range(min(4, terms.shape[-1]))]
    return _forward(np.stack(lanes, axis=-1)) if lanes else total(terms)


_WIDE = {"each": lambda x: x.astype(float), "result": lambda y, _: y.astype(np.float32)}
_ORDERS: dict[str, Mapping[str, Any]] = {
    "forward sums": {"add": _forward},
    "reversed sums": {"add": lambda terms: _forward(terms[..., ::-1])},
    "pairwise sums": {"add": _pairwise},
    "sums in 4 lanes": {"add": _in_lanes},
    "compensated sums": {"add": _compensated},
    "sums in float64": {**_WIDE},
    "fused products": {**_WIDE, "add": _fused},
}


# --- other arrangements ---------------------------------------------------------------------------


def _im2col(x: Any, W: Any, bias: Any, **options: Any) -> Any:
    views = windows(x, W.shape[2:], **options).transpose(0, 2, 3, 1, 4, 5)
    y = views.reshape(*views.shape[:3], -1) @ W.reshape(len(W), -1).T
    return with_bias(np.moveaxis(y, -1, 1), bias)


def _direct(x: Any, W: Any, bias: Any, **options: Any) -> Any:
    """Go through the kernel's entries, one product of matrices for each."""
    views, y = windows(x, W.shape[2:], **options), x.dtype.type(0)
    for i, j in product(*map(range, W.shape[2:])):
        y = y + np.einsum("ncuv,oc->nouv", views[..., i, j], W[:, :, i, j])
    return with_bias(y, bias)


_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def winograd_class(channels: int) -> float:
    """Return what Winograd's algorithm may declare."""
    # (J + 19) / (1 - (J + 19) u) || |G| ||^2 || |B| ||^2  :eq:`conformance-winograd`
    # with 1.01 for 1 / (1 - (J + 19) u)
    size = np.prod([np.linalg.norm(np.abs(M), 2) ** 2 for M in (_B, _G)])
    return float(1.01 * (channels + 19) * size)


def _winograd(x: Any, W: Any, bias: Any, **options: Any) -> Any:
    """Make tiles of 2x2 outputs from 16 products instead of 36."""
    if W.shape[2:] != (3, 3) or {*options["stride"], *options["dilation"]} != {1}:
        return _im2col(x, W, bias, **options)
    top, left, bottom, right = options["padding"]
    rows, columns = x.shape[2] + top + bottom - 2, x.shape[3] + left + right - 2
    even = (top, left, bottom + rows % 2, right + columns % 2)
    tiles = windows(x, (4, 4), stride=(2, 2), padding=even, dilation=(1, 1))
    B, G, A = (M.astype(x.dtype) for M in (_B, _G, _A))
    d, g = np.einsum("ai,ncuvij,bj->ncuvab", B, tiles, B), np.einsum("ai,ocij,bj->ocab", G, W, G)
    y = np.einsum("ia,nouvab,jb->nouivj", A, np.einsum("ncuvab,ocab->nouvab", d, g), A)
    y = y.reshape(*y.shape[:2], 2 * y.shape[2], -1)[:, :, :rows, :columns]
    return with_bias(y, bias)


def _feedback(F: Any, G: Any, scale: Any, *, qmin: int, qmax: int) -> Any:
    """Round a column and move those that are left by its error, as GPTQ does."""
    W = np.linalg.solve(G, (F / scale).T).T
    for r in reversed(range(len(G))):
        P = np.linalg.inv(G[: r + 1, : r + 1])[r]
        W[:, : r + 1] += np.outer((np.clip(np.rint(W[:, r]), qmin, qmax) - W[:, r]) / P[r], P)
    return np.rint(W).astype(np.int64)


def _turned(names: tuple[str, ...]) -> dict[str, Any]:
    """Take the components in reverse order."""

    def turn(part: Any) -> Any:
        return None if part is None else [*map(turn, part)] if isinstance(part, list) else part[
            ..., ::-1]  # fmt: skip

    return {name: (lambda a, name=name: turn(getattr(a, name))) for name in names}


_STAGES = ("a_out", "a_in", "a_kernel")
_EQUAL: list[tuple[str, tuple[str, ...], Mapping[str, Any]]] = [
    ("stride in the last stage", ("cp_conv2d", "quantized_cp_conv2d"), {
        "stride": lambda _: (1, 1),
        "result": lambda y, a: y[:, :, :: a.stride[0], :: a.stride[1]]}),
    ("padding before the first stage", ("cp_conv2d", "quantized_cp_conv2d"), {
        "padding": lambda _: (0, 0, 0, 0), "first_": lambda a: {"padding": a.padding}}),
    ("components in another order", ("cp_conv2d",), _turned(_STAGES)),
    ("components in another order", ("reconstruct",), _turned(("factors", "weights"))),
    ("components in another order", ("mttkrp",),
     {**_turned(("factors",)), "result": lambda y, _: y[:, ::-1]}),
    ("factors of other sizes", ("cp_conv2d",), {
        "a_out": lambda a: a.a_out * a.a_out.dtype.type(-4),
        "a_in": lambda a: a.a_in * a.a_in.dtype.type(-0.25)}),
    ("first index fastest throughout", ("mttkrp",),
     {"order": "F", "join": lambda factors: khatri_rao(factors[::-1])}),
    ("the last of equal rows", ("closest_rows",), {"turn": -1}),
    ("feedback of errors", ("nearest_plane",), {"function": _feedback}),
    ("products of matrices", ("refit_scale",), {"function": lambda F, G, codes: np.asarray(
        np.trace(codes.T.astype(F.dtype) @ F) / ((codes.T.astype(F.dtype) @ codes) * G).sum())}),
    ("signs in pairs", ("balance",), {"result": lambda y, _: [-y[0], -y[1], *y[2:]]}),
]  # fmt: skip


# --- declared -------------------------------------------------------------------------------------


def _tie(up: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda t: np.where(np.abs(t) - np.floor(np.abs(t)) == 0.5, up(t), np.rint(t))


_ROUNDINGS = {
    "half-even": np.rint,
    "half-away": _tie(lambda t: np.sign(t) * np.ceil(np.abs(t))),
    "half-up": _tie(np.ceil),
}
_DIVISIONS: dict[str, Callable[[Any, Any], Any]] = {
    "exact": lambda x, s: x.astype(float) / s,
    "float32": lambda x, s: np.float32(x) / np.float32(s),
    "reciprocal": lambda x, s: np.float32(x) * (1 / np.float32(s)),
}
_PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "exact": lambda acc, M: acc * M.astype(float),
    "float32": lambda acc, M: np.float32(acc) * np.float32(M),
}


def _least(x: Any) -> tuple[Any, Any]:
    return min(x.min(), x.dtype.type(0)), max(x.max(), x.dtype.type(0))


def _affine_pytorch(x: Any, *, qmin: int, qmax: int, rounding: Any) -> Any:
    """Observers: no scale is below the float32 epsilon, and only the quotient is rounded."""
    low, high = _least(x)
    scale = max((high - low) / x.dtype.type(qmax - qmin), x.dtype.type(2.0**-23))
    zero = qmin - rounding(low / scale)
    return np.asarray(scale), np.asarray(np.clip(zero, qmin, qmax), np.int64)


def _affine_tflite(x: Any, *, qmin: int, qmax: int, rounding: Any) -> Any:
    """ChooseQuantizationParams: from the end whose numbers are smaller; zeros have the scale 0."""
    low, high = _least(x)
    scale = (high - low) / x.dtype.type(qmax - qmin)
    if not scale:
        return np.asarray(scale), np.asarray(0)
    near = abs(qmin) + abs(low / scale) < abs(qmax) + abs(high / scale)
    zero = rounding(qmin - low / scale if near else qmax - high / scale)
    return np.asarray(scale), np.asarray(np.clip(zero, qmin, qmax), np.int64)


_AFFINE: dict[str, Callable[..., Any]] = {
    "from-min": RAW["choose_affine"],
    "pytorch": _affine_pytorch,
    "tflite": _affine_tflite,
}
_LAYERS = ("quantized_conv2d", "quantized_linear", "quantized_cp_conv2d")


def _declared() -> Iterator[Control]:
    """Yield quantizers that differ in what the definitions leave open, and say so."""
    by = (("divide", "division", "", _DIVISIONS, ("quantize", "project")),
          ("product", "requant", "requant_", _PRODUCTS, ("requantize", *_LAYERS)))  # fmt: skip
    for hook, choice, scope, ways, ops in by:
        for rounding, way, order in product(_ROUNDINGS, ways, CHOICES[f"{scope}zero_point"]):
            change = {"rounding": _ROUNDINGS[rounding], hook: ways[way]}
            change |= {"before": True} if order == "before-rounding" else {}
            chosen = {f"{scope}rounding": rounding, choice: way, f"{scope}zero_point": order}
            for op, arith in product(ops, ("f32", "f64")):
                yield Control(", ".join(chosen.values()), op, vary(op, **change),
                              {"arith": arith, **chosen})  # fmt: skip
    away = {"inner": lambda size: size >= 0.5, "nearest": lambda size, v: np.searchsorted(
        (v[1:] + v[:-1]) / 2, size, side="right")}  # fmt: skip
    yield Control("half-away", "project_kind", vary("project_kind", **away),
                  {"rounding": "half-away"})  # fmt: skip
    for rounding in ("half-away", "half-up"):
        yield Control(rounding, "descend_rows", vary("descend_rows", rounding=_ROUNDINGS[rounding]),
                      {"weight_rounding": rounding})  # fmt: skip
    for (rule, own), rounding, arith in product(_AFFINE.items(), _ROUNDINGS, ("f32", "f64")):
        chosen = {"affine": rule, "zero_rounding": rounding}
        change = {"function": own, "rounding": _ROUNDINGS[rounding]}
        yield Control(", ".join(chosen.values()), "choose_affine", vary("choose_affine", **change),
                      {"arith": arith, **chosen})  # fmt: skip
    yield Control("double", "requantize_fixed", vary("requantize_fixed", fixed=round_twice),
                  {"fixed_point": "double"})  # fmt: skip


def _controls() -> Iterator[Control]:
    yield from (
        Control("plain", op, right, {"arith": arith})
        for (op, right), arith in product(RIGHT.items(), ("f32", "f64"))
        if arith == "f64" or op not in ("quantize", "project")  # they declare their division
    )
    for (name, changes), op in product(_ORDERS.items(), _SUMS):
        yield Control(name, op, vary(op, **changes), {"arith": "f32"})
    for name, ops, changes in _EQUAL:
        yield from (Control(name, op, vary(op, **changes), {"arith": "f32"}) for op in ops)
    for (kind, bits), op in product({"tf32": 11, "f16": 11, "bf16": 8}.items(), _SUMS):
        yield Control(
            f"inputs in {kind}", op, vary(op, **_short(op, bits)), {"arith": f"{kind}>f32"}
        )
    for name, function in (("im2col", _im2col), ("direct", _direct)):
        yield Control(name, "conv2d", vary("conv2d", function=function), {"arith": "f32"})
    fast = {"arith": "f32", "fast": winograd_class(64)}
    yield Control("Winograd", "conv2d", vary("conv2d", function=_winograd), fast)
    yield from _declared()


def _short(op: str, bits: int) -> dict[str, Any]:
    """Round whatever is multiplied, results of earlier stages too."""
    each = {"each": lambda x: shorten(x, bits)}
    return each | ({"read": each["each"]} if op == "cp_conv2d" else {})


CONTROLS = tuple(_controls())
