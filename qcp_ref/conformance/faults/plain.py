"""What does each operation compute? Once more, plainly, with hooks where implementations differ.

These functions take the arguments of ``qcp_ref.conformance.spec.OPS`` and share no code with
the book, so that neither the mutants (``qcp_ref.conformance.faults.catalogue``) nor the right
variants (``qcp_ref.conformance.faults.controls``) that are made of them share a mistake with it.
Without hooks they are right, which tests/conformance/faults/test_catalogue.py checks. Every sum is
taken over the last axis of an array of its terms, by the hook ``add``. They work in the type of
their arrays.
Input that has no meaning is refused before, by ``qcp_ref.conformance.faults.offences``.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from qcp_ref.conformance.faults.offences import checked
from qcp_ref.conformance.spec import OPS

__all__ = [
    "RAW",
    "RIGHT",
    "khatri_rao",
    "nearest_power",
    "round_twice",
    "total",
    "windows",
    "with_bias",
]


def total(terms: Any) -> Any:
    """Add up, in an order that NumPy chooses."""
    return terms.sum(axis=-1)


def _quantize(x: Any, scale: Any, zero_point: Any, *, qmin: int, qmax: int, **hooks: Any) -> Any:
    rounding, divide = hooks.get("rounding", np.rint), hooks.get("divide", np.divide)
    with np.errstate(all="ignore"):
        t = divide(x, scale)
        zero = np.asarray(zero_point, t.dtype)
        codes = rounding(t + zero) if "before" in hooks else rounding(t) + zero
        return hooks.get("clamp", np.clip)(codes, qmin, qmax).astype(np.int64)


def _dequantize(codes: Any, scale: Any, zero_point: Any) -> Any:
    return scale * (codes.astype(np.int64) - zero_point.astype(np.int64)).astype(scale.dtype)


def _project(x: Any, scale: Any, zero_point: Any, **options: Any) -> Any:
    return _dequantize(_quantize(x, scale, zero_point, **options), scale, zero_point)


def nearest_power(size: Any, levels: Any) -> Any:
    """Return the number of the nearest level; of two, the even number."""
    middles = (levels[1:] + levels[:-1]) / 2
    code = np.searchsorted(middles, size)
    tie = np.append(middles, np.inf)[code] == size
    return code + (tie & (code % 2 == 1))


def _project_kind(x: Any, scale: Any, *, kind: str, bits: int, **hooks: Any) -> Any:
    t = x / scale
    if kind == "binary":
        return scale * hooks.get("sign", lambda t: np.where(t >= 0, 1, -1))(t).astype(t.dtype)
    if kind == "ternary":
        return scale * np.sign(t) * hooks.get("inner", lambda size: size > 0.5)(np.abs(t))
    top = 2 ** (bits - 1) - 1
    levels = np.append(0, 2.0 ** np.arange(1 - top, 1)).astype(t.dtype)
    return scale * np.sign(t) * levels[hooks.get("nearest", nearest_power)(np.abs(t), levels)]


def _choose_affine(x: Any, *, qmin: int, qmax: int, **hooks: Any) -> Any:
    low, high = (min(x.min(), 0), max(x.max(), 0)) if "zero" not in hooks else (x.min(), x.max())
    scale = x.dtype.type((high - low) / (qmax - qmin + hooks.get("more", 0)))
    if not scale > 0:
        return x.dtype.type(1).reshape(()), np.asarray(0)
    zero = hooks.get("rounding", np.rint)(qmin - low / scale)
    return np.asarray(scale), np.asarray(hooks.get("clamp", np.clip)(zero, qmin, qmax), np.int64)


def _requantize(
    acc: Any, multiplier: Any, zero_point: Any, *, qmin: int, qmax: int, **hooks: Any
) -> Any:
    channels = (-1, *[1] * (acc.ndim - 2))
    M = np.reshape(multiplier, channels) if np.ndim(multiplier) == 1 else multiplier
    product = hooks.pop("product", lambda acc, M: acc * M.astype(float))(acc, M)
    return _quantize(product, np.ones(()), zero_point, qmin=qmin, qmax=qmax, **hooks)


def _fixed(a: Any, m: Any, shift: Any) -> Any:
    return (a * m + (np.int64(1) << (30 - shift))) >> (31 - shift)


def round_twice(a: Any, m: Any, shift: Any) -> Any:
    """Round twice: first to the high half of the product, then at the shift, away from zero."""
    high = ((a << np.maximum(shift, 0)) * m + 2**30) >> 31
    right = np.maximum(-shift, 0)
    return np.sign(high) * ((np.abs(high) + ((np.int64(1) << right) >> 1)) >> right)


def _requantize_fixed(
    acc: Any, multiplier: Any, shift: Any, zero_point: Any, *, qmin: int, qmax: int, **hooks: Any
) -> Any:
    a, m, s = (np.asarray(v).astype(np.int64) for v in (acc, multiplier, shift))
    m, s = (v.reshape(-1, *[1] * (a.ndim - 2)) if v.ndim == 1 else v for v in (m, s))
    codes = hooks.get("fixed", _fixed)(a, m, s) + zero_point
    return hooks.get("clamp", np.clip)(codes, qmin, qmax).astype(np.int64)


def _reconstruct(factors: Any, weights: Any, *, add: Any = total) -> Any:
    terms = np.ones(factors[0].shape[1], factors[0].dtype) if weights is None else weights
    for A in factors:
        terms = terms[..., None, :] * A
    return add(terms)


def _mttkrp(X: Any, factors: Any, *, mode: int, **hooks: Any) -> Any:
    rows = np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1, order=hooks.get("order", "C"))
    K = hooks.get("join", khatri_rao)([A for n, A in enumerate(factors) if n != mode])
    return hooks.get("add", total)(rows[:, None, :] * K.T)


def khatri_rao(factors: Any) -> Any:
    """Multiply columns, the last factor's rows fastest."""
    K = factors[0]
    for A in factors[1:]:
        K = (K[:, None] * A).reshape(-1, A.shape[1])
    return K


def _gram(factors: Any, *, mode: Any, add: Any = total, combine: Any = np.multiply) -> Any:
    G = None
    for n, A in enumerate(factors):
        if n != mode:
            one = add((A[:, :, None] * A[:, None, :]).transpose(1, 2, 0))
            G = one if G is None else combine(G, one)
    return G


def _balance(factors: Any, weights: Any, *, power: Any = lambda d: 1 / d) -> Any:
    w = np.ones(factors[0].shape[1]) if weights is None else weights
    norms = [np.sqrt((A.astype(float) ** 2).sum(axis=0)) for A in factors]
    share = np.prod([np.abs(w), *norms], axis=0) ** power(len(factors))
    parts = [A * share / np.where(norm, norm, 1) for A, norm in zip(factors, norms, strict=True)]
    parts[0] = parts[0] * np.where(w < 0, -1, 1)
    return [part.astype(A.dtype) for part, A in zip(parts, factors, strict=True)]


def windows(x: Any, size: Any, *, stride: Any, padding: Any, dilation: Any, **hooks: Any) -> Any:
    """Return all windows of an image: axes n, c, row, column, i, j. Negative padding crops."""
    top, left, bottom, right = padding
    pad = [(0, 0), (0, 0), *((max(p, 0), max(q, 0)) for p, q in ((top, bottom), (left, right)))]
    how = {"mode": "edge"} if "edge" in hooks else {"constant_values": hooks.get("fill", 0)}
    x = np.pad(x, pad, **how)[:, :, max(-top, 0) :, max(-left, 0) :]
    x = x[:, :, : x.shape[2] + min(bottom, 0), : x.shape[3] + min(right, 0)]
    spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    views = sliding_window_view(x, spans, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    return views[..., :: dilation[0], :: dilation[1]]


def with_bias(y: Any, bias: Any) -> Any:
    """Add a number to each channel, axis 1."""
    return y if bias is None else y + bias[:, None, None]


def _conv2d(x: Any, W: Any, bias: Any, *, add: Any = total, **options: Any) -> Any:
    views = windows(x, W.shape[2:], **options).transpose(0, 2, 3, 1, 4, 5)
    n, u, v = views.shape[:3]
    terms = views.reshape(n, 1, u, v, W[0].size) * W.reshape(len(W), 1, 1, W[0].size)
    return with_bias(add(terms), bias)


def _pointwise(x: Any, A: Any, bias: Any, *, stride: Any, **options: Any) -> Any:
    still = {"padding": (0, 0, 0, 0), "dilation": (1, 1)}
    return _conv2d(x, A[:, :, None, None], bias, stride=stride, **(still | options))


def _depthwise(x: Any, C: Any, *, kernel_size: Any, add: Any = total, **options: Any) -> Any:
    views = windows(x, kernel_size, **options)
    terms = views.reshape(*views.shape[:4], len(C)) * C.T[:, None, None, :]
    return add(terms)


def _cp_conv2d(
    x: Any, a_out: Any, a_in: Any, a_kernel: Any, bias: Any, *, inner_bias: Any = None,
    first: Any = None, add: Any = total, read: Any = lambda z: z, **options: Any,
) -> Any:  # fmt: skip
    """Run the three stages; ``first`` holds the options that only the first of them has."""
    one = {"stride": (1, 1)} | (first or {})
    z = read(_pointwise(x, a_in.T, None, add=add, **one))
    z = read(with_bias(_depthwise(z, a_kernel, add=add, **options), inner_bias))
    return _pointwise(z, a_out, bias, stride=(1, 1), add=add)


def _wide(*arrays: Any) -> Any:
    return [None if a is None else a.astype(np.int64) for a in arrays]


def _int_conv2d(x: Any, W: Any, bias: Any, *, x_zero: int, **options: Any) -> Any:
    x, W, bias = _wide(x, W, bias)
    return _conv2d(x - x_zero, W, bias, **options).astype(np.int32)


def _finish(
    acc: Any, multiplier: Any, *, y_zero: int, qmin: int, qmax: int, relu: bool, **hooks: Any
) -> Any:
    codes = _requantize(acc, multiplier, y_zero, qmin=qmin, qmax=qmax, **hooks.get("last", {}))
    return np.maximum(codes, hooks.get("floor", y_zero)) if relu else codes


_FINISH = ("y_zero", "qmin", "qmax", "relu", "last", "floor")


def _quantized_conv2d(x: Any, W: Any, bias: Any, multiplier: Any, **options: Any) -> Any:
    ending = {key: options.pop(key) for key in _FINISH if key in options}
    return _finish(_int_conv2d(x, W, bias, **options), multiplier, **ending)


def _quantized_linear(x: Any, W: Any, bias: Any, multiplier: Any, **options: Any) -> Any:
    still = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    x, W = x[..., None, None], W[..., None, None]
    return _quantized_conv2d(x, W, bias, multiplier, **still, **options)[..., 0, 0]


def _quantized_cp_conv2d(
    x: Any, a_out: Any, a_in: Any, a_kernel: Any, bias: Any, multipliers: Any, *,
    zeros: Any, qmins: Any, qmaxs: Any, first: Any = None, last: Any = None, **options: Any,
) -> Any:  # fmt: skip
    x, a_out, a_in, a_kernel, bias = _wide(x, a_out, a_in, a_kernel, bias)
    ends = [(multipliers[n], zeros[n + 1], qmins[n], qmaxs[n]) for n in range(3)]

    def codes(acc: Any, M: Any, zero: int, qmin: int, qmax: int) -> Any:
        return _requantize(acc, M, zero, qmin=qmin, qmax=qmax, **(last or {})) - zero

    one = {"stride": (1, 1)} | (first or {})
    z = codes(_pointwise(x - zeros[0], a_in.T, None, **one), *ends[0])
    z = codes(_depthwise(z, a_kernel, **options), *ends[1])
    return codes(_pointwise(z, a_out, bias, stride=(1, 1)), *ends[2]) + zeros[3]


def _descend_rows(F: Any, G: Any, codes: Any, scale: Any, **hooks: Any) -> Any:
    V, f = codes.astype(F.dtype), F / scale
    for r in np.flatnonzero(np.diag(G) > 0)[:: hooks.get("turn", 1)]:
        now = codes if "stale" in hooks else V
        step = (f[:, r] - now @ G[:, r]) / G[r, r]
        V[:, r] = _near(step if "step" in hooks else step + now[:, r], **hooks)
    return V.astype(np.int64)


def _near(t: Any, *, qmin: int, qmax: int, **hooks: Any) -> Any:
    return hooks.get("clamp", np.clip)(hooks.get("rounding", np.rint)(t), qmin, qmax)


def _leading(rest: Any, G: Any, r: int) -> Any:
    """Solve for the first columns, and return the last one of them."""
    return np.linalg.solve(G[: r + 1, : r + 1], rest[:, : r + 1].T)[-1]


def _nearest_plane(F: Any, G: Any, scale: Any, **hooks: Any) -> Any:
    V, f = np.zeros_like(F), F / scale
    for r in range(len(G))[:: -hooks.get("turn", 1)]:
        rest = f if "apart" in hooks else f - V @ G
        V[:, r] = _near(hooks.get("solve", _leading)(rest, G, r), **hooks)
    return V.astype(np.int64)


def _refit_scale(F: Any, G: Any, codes: Any) -> Any:
    V = codes.astype(F.dtype)
    return np.asarray((F * V).sum() / (V @ G * V).sum())


def _closest_rows(F: Any, G: Any, scale: Any, *, qmin: int, qmax: int, turn: int = 1) -> Any:
    """Try all; of equally good rows take the first, or the last if turned."""
    V = np.array([*product(range(qmin, qmax + 1), repeat=len(G))])[::turn].astype(F.dtype)
    objective = (V @ G * V).sum(axis=1) - 2 * (F / scale) @ V.T
    return V[objective.argmin(axis=1)].astype(np.int64)


RAW: dict[str, Callable[..., Any]] = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name.removeprefix("_") in OPS
}
RIGHT = {op: checked(op, function) for op, function in RAW.items()}
