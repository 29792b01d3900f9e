"""Which wrong implementations does the suite have to catch?

A catalogue of what others really got wrong, or easily could: mutants. Each is an operation of
``qcp_ref.conformance.faults.plain`` with an argument, a hook or the result changed. A suite that
kills every mutant has been shown to look at each of these places. The list is data/faults.json, one
line per mutant: identifier, operations, what is wrong, where it was seen, and the name of the
change that makes it, for which see :data:`CHANGES`.

The letter of an identifier says what is wrong: Q rounding to codes, R ranges, I integer layers, F
layers, M and G tensor algebra, P precision, V rows of codes, X conduct. A mistake that can be made
in several operations has one number, and a letter at the end for each of them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from qcp_ref.conformance.faults.offences import refuse
from qcp_ref.conformance.faults.plain import RAW, khatri_rao, nearest_power, round_twice, total
from qcp_ref.conformance.spec import OPS

__all__ = ["CHANGES", "FAULTS", "NOT_APPLICABLE", "Fault", "lettered", "shorten", "vary"]


class Fault(NamedTuple):
    """A wrong implementation of one operation, with the arguments of that operation.

    The last field is the arithmetic in which it has to be found.
    """

    id: str
    op: str
    title: str
    function: Callable[..., Any]
    seen: str = ""
    arith: str = "f64"


_FILE = resources.files("qcp_ref.conformance") / "data" / "faults.json"
_KERNEL = {"depthwise": "C", "cp_conv2d": "a_kernel", "quantized_cp_conv2d": "a_kernel"}
_ENDING = ("rounding", "clamp", "before", "product")
_NAMES = {name for op in OPS.values() for name in (*op.arrays, *op.options)}


def vary(op: str, **changes: Any) -> Callable[..., Any]:
    """Return an operation with something changed.

    Parameters
    ----------
    op : str
        The operation.
    **changes
        For the name of an array or option: a function of all arguments that gives another value;
        those that the operation does not have are left out. 'kernel': a function of the kernel
        with its two axes last. 'each': a function of each real array. 'all': a function of all
        arguments that gives others. 'result': a function of the result and all arguments.
        'careless': which offences are not noticed. 'function': what to run instead. Others are
        hooks; a name with an underscore at its end is one that is computed from the arguments.

    Returns
    -------
    callable
        With the arguments of the operation.
    """
    spec, careless = OPS[op], changes.pop("careless", ())
    raw = changes.pop("function", RAW.get(op))
    inner: dict[str, Any] = {key: changes.pop(key) for key in _ENDING if key in changes}
    changes |= {"last": inner} if inner and op.startswith("quantized") else inner

    def varied(*arrays: Any, **options: Any) -> Any:
        given = dict(zip(spec.arrays, arrays, strict=True)) | options
        refuse(op, given, careless)
        a = SimpleNamespace(**given)
        for key, change in changes.items():
            if key in given:
                given[key] = change(a)
            elif key == "kernel":
                name = _KERNEL.get(op, "W")
                given[name] = _on_kernel(change, given[name], options.get("kernel_size"))
            elif key == "each":
                given |= {name: _each(change, given[name]) for name in spec.arrays}
            elif key == "all":
                given |= change(a)
            elif key != "result" and key not in _NAMES:
                given[key.removesuffix("_")] = change(a) if key.endswith("_") else change
        changed = [given.pop(name) for name in spec.arrays]
        # A careless implementation does not report warnings either.
        with np.errstate(all="ignore" if careless else None):
            y = raw(*changed, **given)
        return changes["result"](y, a) if "result" in changes else y

    return varied


def _on_kernel(change: Any, K: Any, size: Any) -> Any:
    return change(K) if size is None else change(K.T.reshape(-1, *size)).reshape(-1, len(K)).T


def _each(change: Any, part: Any) -> Any:
    if isinstance(part, list):
        return [_each(change, one) for one in part]
    return part if part is None or part.dtype.kind != "f" else change(part)


# --- how to go wrong ------------------------------------------------------------------------------


def shorten(x: Any, bits: int) -> Any:
    """Round to a significand of that many bits, ties to even; the type stays."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(x.dtype)


def _short_sums(bits: int) -> Callable[[Any], Any]:
    def add(terms: Any) -> Any:
        sums = np.zeros_like(terms[..., 0])
        for k in range(terms.shape[-1]):
            sums = shorten(sums + terms[..., k], bits)
        return sums

    return add


def _flush(x: Any) -> Any:
    return np.where(np.abs(x) < 2.0**-126, 0, x).astype(x.dtype)


def _half_away(t: Any) -> Any:
    return np.sign(t) * np.floor(np.abs(t) + 0.5)


def _wrap(codes: Any, low: Any, high: Any) -> Any:
    return low + np.mod(codes - low, high - low + 1)


def _first(array: Any) -> Any:
    return array[(slice(1),) * array.ndim]


def _turned(a: Any) -> Any:
    shape = (a.x if hasattr(a, "x") else a.codes).shape
    return a.scale.swapaxes(0, 1) if a.scale.ndim > 1 and shape[0] == shape[1] else a.scale


def _by_log(rounding: Any) -> Callable[..., Any]:
    def nearest(size: Any, levels: Any) -> Any:
        top = len(levels) - 1
        with np.errstate(divide="ignore"):
            return np.clip(top + rounding(np.log2(size)), 0, top).astype(int)

    return nearest


def _exchanged(W: Any) -> Any:
    return W.swapaxes(0, 1) if W.shape[0] == W.shape[1] else W


def _zeroed(A: Any, axis: int, start: int) -> Any:
    """Zero what stands behind an index."""
    return np.where(np.arange(A.shape[axis]).reshape(-1, *[1] * (A.ndim - 1 - axis)) < start, A, 0)


def _cut(A: Any, axis: int) -> Any:
    side = A.shape[axis]
    return _zeroed(A, axis, side - side % 4 if side >= 4 else side)


def _pairs(terms: Any) -> Any:
    """Add pairs in 16 bits, as the vector instruction for uint8 times int8 does."""
    even = np.pad(terms, [(0, 0)] * (terms.ndim - 1) + [(0, terms.shape[-1] % 2)])
    return np.clip(even[..., ::2] + even[..., 1::2], -(2**15), 2**15 - 1).sum(axis=-1)


def _late(a: Any) -> Any:
    i, j = (1 - k % 2 for k in (a.W.shape[2:] if hasattr(a, "W") else a.kernel_size))
    top, left, bottom, right = a.padding
    return top - i, left - j, bottom + i, right + j


def _ceil(a: Any) -> Any:
    top, left, bottom, right = a.padding
    return top, left, bottom + a.stride[0] - 1, right + a.stride[1] - 1


def _kronecker(factors: Any) -> Any:
    K = factors[0]
    for A in factors[1:]:
        K = np.kron(K, A)
    return K[:, : factors[0].shape[1]]


def _lopsided(factors: Any, _: Any) -> Any:
    norms = [np.sqrt((A**2).sum(axis=0)) for A in factors]
    first = factors[0] * np.prod(norms[1:], axis=0).astype(factors[0].dtype)
    return [first, *(A / np.where(s, s, 1) for A, s in zip(factors[1:], norms[1:], strict=True))]


def _apart(y: Any, a: Any) -> Any:
    return y[0], np.asarray(a.qmin - np.rint(min(a.x.min(), 0) / y[0])).astype(np.int64)


def _bias_after(y: Any, a: Any) -> Any:
    b = 0 if a.bias is None else a.bias.astype(np.int64).reshape(-1, *[1] * (y.ndim - 2))
    ends = (a.qmin, a.qmax) if hasattr(a, "qmin") else (a.qmins[2], a.qmaxs[2])
    return np.clip(y + b, *ends)


def _image(a: Any) -> Any:
    return a.x if hasattr(a, "x") else a.X


def _erase(y: Any, a: Any) -> Any:
    _image(a)[...] = 0
    return y


def _memory(a: Any) -> Any:
    """Read an array as if it were contiguous."""
    x = root = _image(a)
    while isinstance(root.base, np.ndarray):
        root = root.base
    place = (x.__array_interface__["data"][0] - root.__array_interface__["data"][0]) // x.itemsize
    return root.ravel(order="K").take(place + np.arange(x.size), mode="wrap").reshape(x.shape)


def _stale() -> Callable[[Any, Any], Any]:
    last: list[Any] = [None]

    def result(y: Any, _: Any) -> Any:
        old, last[0] = last[0], y
        return y if old is None or old.shape != y.shape else y + old

    return result


def _unwritten(y: Any, _: Any) -> Any:
    y = np.array(y)
    y.flat[-1:] = np.nan if y.dtype.kind == "f" else 113
    return y


def _relaxed(F: Any, G: Any, scale: Any, *, qmin: int, qmax: int) -> Any:
    V = np.linalg.lstsq(G, (F / scale).T, rcond=None)[0].T
    return np.clip(np.rint(V), qmin, qmax).astype(np.int64)


def _one_opt(*arrays: Any, **ends: int) -> Any:
    """Change single codes of the rounded least squares solution while that helps."""
    V = _relaxed(*arrays, **ends)
    for _ in range(9):
        V = RAW["descend_rows"](*arrays[:2], V, arrays[2], **ends)
    return V


# --- the changes ----------------------------------------------------------------------------------

# fmt: off
CHANGES: dict[str, Mapping[str, Any]] = {
    "half-away": {"rounding": _half_away},
    "half-up": {"rounding": lambda t: np.floor(t + 0.5)},
    "half-down": {"rounding": lambda t: np.ceil(t - 0.5)},
    "truncate": {"rounding": np.trunc},
    "floor": {"rounding": np.floor},
    "before": {"before": True},
    "reciprocal": {"divide": lambda x, s: np.float32(x) * (1 / np.float32(s))},
    "twice": {"rounding": lambda t: np.rint(np.rint(2 * t) / 2)},
    "zero-0": {"zero_point": lambda a: np.zeros_like(a.zero_point)},
    "zero-sign": {"zero_point": lambda a: -a.zero_point},
    "zero-1": {"zero_point": lambda a: a.zero_point + 1, "y_zero": lambda a: a.y_zero + 1,
               "zeros": lambda a: [*a.zeros[:3], a.zeros[3] + 1]},
    "clamp-first": {"zero_point": lambda a: np.zeros_like(a.zero_point),
                    "result": lambda y, a: y + a.zero_point},
    "unsigned": {"qmin": lambda a: max(a.qmin, 0), "qmax": lambda a: a.qmax - min(a.qmin, 0)},
    "signed": {"qmin": lambda a: a.qmin or -(a.qmax + 1) // 2,
               "qmax": lambda a: a.qmax if a.qmin else a.qmax // 2},
    "narrow": {"qmin": lambda a: a.qmin + 1},
    "low-top": {"qmax": lambda a: a.qmax - 1},
    "wrap": {"clamp": _wrap},
    "scale-axis": {"scale": _turned},
    "scale-0": {"scale": lambda a: _first(a.scale)},
    "zero-channel": {"zero_point": lambda a: _first(a.zero_point)},
    "nan": {"careless": ("data",), "x": lambda a: np.where(np.isnan(a.x), 0, a.x).astype(a.x.dtype)},
    "inf": {"x": lambda a: np.where(a.x == np.inf, -np.inf, a.x).astype(a.x.dtype)},
    "sign-bit": {"sign": lambda t: np.copysign(1, t)},
    "sign": {"sign": np.sign},
    "inner-half": {"inner": lambda size: size >= 0.5},
    "inner-more": {"inner": lambda size: size > 0.7},
    "log-round": {"nearest": _by_log(np.rint)},
    "log-floor": {"nearest": _by_log(np.floor)},
    "log-ties": {"nearest": lambda size, v: np.searchsorted((v[1:] + v[:-1]) / 2, size)},
    "log-no-zero": {"nearest": lambda size, v: np.maximum(nearest_power(size, v), 1)},
    "range-open": {"zero": True},
    "range-codes": {"more": 1},
    "range-apart": {"result": _apart},
    "flip": {"kernel": lambda K: K[..., ::-1, ::-1]},
    "flip-width": {"kernel": lambda K: K[..., ::-1]},
    "columns": {"kernel": lambda K: K.reshape(*K.shape[:-2], *K.shape[:-3:-1]).swapaxes(-1, -2)},
    "kernel-size": {"kernel_size": lambda a: a.kernel_size[::-1]},
    "by-channel": {"C": lambda a: a.C.reshape(a.C.shape[::-1]).T,
                   "a_kernel": lambda a: a.a_kernel.reshape(a.a_kernel.shape[::-1]).T},
    "exchange": {"W": lambda a: _exchanged(a.W), "A": lambda a: _exchanged(a.A),
                 "a_out": lambda a: a.a_in if a.a_in.shape == a.a_out.shape else a.a_out,
                 "a_in": lambda a: a.a_out if a.a_in.shape == a.a_out.shape else a.a_in},
    "stride-swap": {"stride": lambda a: a.stride[::-1]},
    "padding-axes": {"padding": lambda a: [a.padding[i] for i in (1, 0, 3, 2)]},
    "padding-order": {"padding": lambda a: [a.padding[i] for i in (0, 2, 1, 3)]},
    "padding-ends": {"padding": lambda a: [a.padding[i] for i in (2, 3, 0, 1)]},
    "stride-1": {"stride": lambda _: (1, 1)},
    "stride-first": {"stride": lambda _: (1, 1), "first_": lambda a: {"stride": a.stride}},
    "dilation-1": {"dilation": lambda _: (1, 1)},
    "dilation-swap": {"dilation": lambda a: a.dilation[::-1]},
    "edge": {"edge": True},
    "ones": {"fill": 1},
    "rank-tail": {"a_in": lambda a: _zeroed(a.a_in, 1, a.a_in.shape[1] - 1),
                  "factors": lambda a: [_zeroed(a.factors[0], 1, len(a.factors[0].T) - 1),
                                        *a.factors[1:]]},
    "tail": {"W": lambda a: _cut(a.W, 1), "A": lambda a: _cut(a.A, 1),
             "C": lambda a: _cut(a.C, 1), "a_in": lambda a: _cut(a.a_in, 0)},
    "weights-none": {"weights": lambda _: None},
    "weights-twice": {"weights": lambda a:
                      None if a.weights is None else a.weights * np.abs(a.weights)},
    "weights-abs": {"weights": lambda a: None if a.weights is None else np.abs(a.weights)},
    "bias-none": {"bias": lambda _: None},
    "bias-early": {"bias": lambda _: None, "inner_bias_": lambda a:
                   None if a.bias is None else np.resize(a.bias, a.a_out.shape[1])},
    "bias-twice": {"bias": lambda a: None if a.bias is None else 2 * a.bias},
    "bias-after": {"bias": lambda _: None, "result": _bias_after},
    "batch": {"x": lambda a: a.x[[0] * len(a.x)]},
    "turn": {"x": lambda a: a.x.swapaxes(2, 3) if a.x.shape[2] == a.x.shape[3] else a.x},
    "relu": {"result": lambda y, _: np.maximum(y, 0)},
    "minus": {"result": lambda y, _: -y},
    "size": {"padding": _ceil},
    "even": {"padding": _late},
    "tf32": {"each": lambda x: shorten(x, 11)},
    "f16-sums": {"add": _short_sums(11)},
    "bf16-sums": {"add": _short_sums(8)},
    "flush": {"each": _flush, "result": lambda y, _: _flush(y)},
    "mode": {"mode": lambda a: None if a.mode is None else (a.mode + 1) % len(a.factors)},
    "fortran": {"order": "F"},
    "axes": {"result": lambda y, _: y.T if len(set(y.shape)) == 1 else y},
    "join-order": {"join": lambda factors: khatri_rao(factors[::-1])},
    "kronecker": {"join": _kronecker},
    "one-less": {"join": lambda factors: khatri_rao([*factors[:-1], np.ones_like(factors[-1])])},
    "square-root": {"power": lambda _: 0.5},
    "lopsided": {"result": _lopsided},
    "all-modes": {"mode": lambda _: None},
    "matmul": {"combine": np.matmul},
    "sum": {"combine": np.add},
    "ridge": {"result": lambda y, _: y + np.eye(len(y), dtype=y.dtype) / 1024},
    "pad-0": {"fill_": lambda a: -(a.zeros[1] if hasattr(a, "zeros") else a.x_zero)},
    "input-0": {"x_zero": lambda _: 0, "zeros": lambda a: [0, *a.zeros[1:]]},
    "first-0": {"zeros": lambda a: [a.zeros[0], 0, *a.zeros[2:]]},
    "second-0": {"zeros": lambda a: [*a.zeros[:2], 0, a.zeros[3]]},
    "output-0": {"zeros": lambda a: [*a.zeros[:3], 0], "y_zero": lambda _: 0},
    "pairs": {"add": _pairs},
    "int16": {"add": lambda terms: _wrap(total(terms), -(2**15), 2**15 - 1)},
    "float32": {"add": lambda terms: terms.astype(np.float32).cumsum(axis=-1)[..., -1]},
    "shift": {"shift": lambda a: a.shift - 1},
    "fixed-cut": {"fixed": lambda a, m, s: np.sign(a) * ((np.abs(a) * m) >> (31 - s))},
    "fixed-floor": {"fixed": lambda a, m, s: (a * m) >> (31 - s)},
    "fixed-twice": {"fixed": round_twice},
    "fixed-away": {"fixed": lambda a, m, s:
                   np.sign(a) * ((np.abs(a) * m + (1 << (30 - s))) >> (31 - s))},
    "fixed-int32": {"fixed": lambda a, m, s: _wrap(a * m, -(2**31), 2**31 - 1) >> (31 - s)},
    "multiplier-0": {"multiplier": lambda a: np.ravel(a.multiplier)[:1],
                     "multipliers": lambda a: [np.ravel(M)[:1] for M in a.multipliers]},
    "relu-0": {"floor": 0},
    "product": {"product": lambda acc, M: np.float32(acc) * np.float32(M)},
    "jacobi": {"stale": True},
    "backwards": {"turn": -1, "solve": lambda rest, G, r:
                  np.linalg.solve(G[r:, r:], rest[:, r:].T)[0]},
    "no-clamp": {"clamp": lambda k, *_: k},
    "late-clamp": {"clamp": lambda k, *_: k, "result": lambda y, a: np.clip(y, a.qmin, a.qmax)},
    "scale-1": {"scale": lambda a: np.ones_like(a.scale)},
    "scale-2": {"scale": lambda a: a.scale * a.scale},
    "triangle": {"G": lambda a: np.tril(a.G)},
    "step": {"step": True},
    "cold": {"codes": lambda a: 0 * a.codes},
    "relaxed": {"function": _relaxed},
    "pivot": {"solve": lambda rest, G, r: rest[:, r] / G[r, r]},
    "apart": {"apart": True},
    "metric-1": {"G": lambda a: np.eye(len(a.G), dtype=a.G.dtype)},
    "metric-diagonal": {"G": lambda a: np.diag(np.diag(a.G))},
    "first-leaf": {"function": RAW["nearest_plane"]},
    "one-opt": {"function": _one_opt},
    "erase": {"result": _erase},
    "memory": {"x": _memory, "X": _memory},
    "stale": {},
    "unwritten": {"result": _unwritten},
}
# fmt: on


def lettered(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the identifier, the operation and the row of each fault in a list."""
    entries = [(row, op) for row in rows for op in row["ops"]]
    for n, (row, op) in enumerate(entries):
        same = [m for m, (other, _) in enumerate(entries) if other["id"] == row["id"]]
        yield row["id"] + (ascii_lowercase[same.index(n)] if len(same) > 1 else ""), op, row


def _catalogue() -> Iterator[Fault]:
    rows = json.loads(_FILE.read_text(encoding="utf-8"))["faults"]
    for name, op, row in lettered(rows):
        # Each mutant that keeps an old result has its own memory for it.
        change = {"result": _stale()} if row["change"] == "stale" else CHANGES[row["change"]]
        arith = "f32" if row["id"][0] == "P" else "f64"
        yield Fault(name, op, row["title"], vary(op, **change), row["seen"], arith)


FAULTS = tuple(_catalogue())

NOT_APPLICABLE = {
    "F12": "padding before the first stage is wrong only if that stage has a bias; by definition "
    "it has none, and then it is one of the controls",
}
