"""What do our own implementations answer? Two adapters, which have to pass every level.

``numpy_adapter`` runs the vectorised functions of the book. ``numba_adapter`` runs plain loops,
compiled at their first call (:mod:`qcp_ref._kernels`): beside :mod:`qcp_ref.loops`, which says what
is right, and the chapters they are the third form of each operation; without Numba it does not
introduce itself. Both refuse wrong input by the checks of the book. ``numpy_adapter_f32`` has the
convolutions, which the book computes in float32.

Checked by tests/conformance/test_reference.py.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from qcp_ref import __version__, epc_update
from qcp_ref import _kernels as kernels
from qcp_ref._checks import check_array, check_factors, check_gram, check_mode, check_real
from qcp_ref.conformance.adapter import Adapter, Unsupported
from qcp_ref.conformance.spec import OPS
from qcp_ref.factors import ao_admm as qcp
from qcp_ref.factors import descent, rows
from qcp_ref.grids import grid
from qcp_ref.grids.scale import choose_scale, project
from qcp_ref.layers import conv, geometry, integer
from qcp_ref.tensors import als, cp, tensor

__all__ = ["numba_adapter", "numpy_adapter", "numpy_adapter_f32"]

_STILL = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}
_INT32 = (-(2**31), 2**31 - 1)
_PIVOT = 1e-4  # of the Cholesky triangle at unit diagonal: below, the book asks the eigenvalues
_SWEEPS = 30
_NODES = 10**6  # enough to end every search of the suite


# --- vectorised -----------------------------------------------------------------------------------


def _book_fixed(acc: Any, m: Any, shift: Any, z: Any, *, mode: str = "single", **ends: int) -> Any:
    m, n = _fixed(m, shift, acc)
    return integer.requantize(acc, np.ldexp(m * 1.0, n - 31), int(z), _grid(**ends), mode=mode)


def _affine(x: Any, **ends: int) -> Any:
    scale, zero, _ = choose_scale(x, _grid(**ends), rule="min-max")
    return scale, np.int64(zero)


def _book_cp_als(X: Any, *, rank: int, seed: int) -> Any:
    fit = als.cp_als(X, rank, rng=seed)
    return list(fit.cp.factors), np.float64(fit.error)


def _solved(F: Any, G: Any, scale: Any, *, qmin: int, qmax: int, **how: Any) -> Any:
    return rows.solve_rows(F, G, _grid(qmin, qmax), scale, **how).codes


def _book_ao_admm(X: Any, *, rank: int, seed: int, **ends: int) -> Any:
    fit = qcp.ao_admm(X, rank, _grid(**ends), rng=seed)
    return list(fit.cp.codes), np.array(fit.cp.scales), np.float64(fit.error)


_BOOK = SimpleNamespace(
    quantize=lambda x, s, z, **ends: grid.quantize(x, _grid(**ends), s, z),
    dequantize=grid.dequantize,
    project=lambda x, s, z, **ends: project(x, _grid(**ends), scale=grid.Scale(s, z, "")),
    project_kind=lambda x, s, **kind: project(x, _kind(**kind), scale=s),
    choose_scale=lambda x, *, rule, **ends: (
        choose_scale(x, _grid(**ends), rule="mse-exact" if rule == "mse" else rule).scale
    ),
    choose_affine=_affine,
    requantize=lambda acc, M, z, **ends: integer.requantize(
        acc, _channelwise(M, acc), int(z), _grid(**ends)
    ),
    requantize_fixed=_book_fixed,
    reconstruct=lambda factors, weights: cp.reconstruct(cp.CP(factors, weights)),
    mttkrp=tensor.mttkrp,
    gram=tensor.gram,
    balance=lambda factors, weights: list(cp.balance(cp.CP(factors, weights)).factors),
    conv2d=lambda x, W, b, **window: conv.conv2d(x, W, bias=b, **window),
    pointwise=lambda x, A, b, *, stride: conv.pointwise(x, A, bias=b, stride=stride),
    depthwise=conv.depthwise,
    cp_conv2d=lambda x, a, b, c, bias, **o: conv.cp_conv2d(x, cp.CP([a, b, c]), bias=bias, **o),
    int_conv2d=lambda x, W, b, *, x_zero, **window: integer.int_conv(
        x, W, bias=b, zero_point=x_zero, **window
    ),
    linear=lambda x, W, b, x_zero: integer.int_linear(x, W, bias=b, zero_point=x_zero),
    solve=lambda F, G: als.als_update(F, G).factor,
    shrink=lambda F, G, square, bound, now: epc_update(F, G, square, bound, current=now).factor,
    descend=descent.descend_columns,
    nearest_plane=lambda *arrays, **ends: _solved(*arrays, **ends, method="babai", order="natural"),
    closest_rows=lambda *arrays, **ends: _solved(*arrays, **ends, method="sphere", budget=_NODES),
    cp_als=_book_cp_als,
    ao_admm=_book_ao_admm,
)


# --- loops ----------------------------------------------------------------------------------------


class _Loops:
    """Each operation by compiled loops; formulas and singular systems are left to the book."""

    choose_affine, descend = staticmethod(_affine), kernels.descend

    def quantize(self, x: Any, scale: Any, zero: Any, *, qmin: int, qmax: int) -> Any:
        x = check_array(x, "x")
        zero = grid.check_zero(zero, _grid(qmin, qmax), x.shape)
        return _each(kernels.quantize, x, (grid.check_scale(scale, x.shape), zero), qmin, qmax)

    def dequantize(self, codes: Any, scale: Any, zero: Any) -> Any:
        k = geometry.check_whole(codes, "codes", *_INT32)
        zero = grid.check_spread(zero, "zero_point", k.shape)
        return _each(kernels.dequantize, k, (grid.check_scale(scale, k.shape), zero))

    def project(self, x: Any, scale: Any, zero: Any, **ends: int) -> Any:
        return self.dequantize(self.quantize(x, scale, zero, **ends), scale, zero)

    def project_kind(self, x: Any, scale: Any, **kind: Any) -> Any:
        x = check_array(x, "x")
        return _each(kernels.nearest, x, (grid.check_scale(scale, x.shape),), _kind(**kind).levels)

    def choose_scale(self, x: Any, *, rule: str, **ends: int) -> Any:
        if rule != "mse":
            return _BOOK.choose_scale(x, rule=rule, **ends)
        x, g = np.sort(check_array(x, "x"), axis=None), _grid(**ends)
        unit = 2.0 ** np.frexp(max(-x[0], x[-1]))[1]
        parts = -x[x < 0][::-1] / unit, x[x > 0] / unit
        below, above = ((part, kernels.tails(part)) for part in parts)
        steps = (float(-g.qmin), float(g.qmax))
        near = kernels.near_best(below, above, steps, 0.0, (0.0, np.inf), 0.0)
        return np.float64(unit * near.max() if near.size else 1.0)

    def requantize(self, acc: Any, M: Any, zero: Any, **ends: int) -> Any:
        a = geometry.check_whole(acc, "acc", *_INT32)
        M = integer.check_multiplier(_channelwise(M, a))
        codes = _each(kernels.requantize, a, (M,), _target(zero, **ends))
        return codes.astype(_grid(**ends).dtype)  # as a device stores them: the next stage asks

    def requantize_fixed(
        self, acc: Any, m: Any, shift: Any, zero: Any, *, mode: str = "single", **ends: int
    ) -> Any:
        a, target = geometry.check_whole(acc, "acc", *_INT32), _target(zero, **ends)
        return _each(kernels.requantize_fixed, a, _fixed(m, shift, a), target, mode == "double")

    def reconstruct(self, factors: Any, weights: Any) -> Any:
        stack, sides, w = _stack(factors, weights)
        return kernels.reconstruct(stack, sides, w).reshape(sides)

    def mttkrp(self, X: Any, factors: Any, mode: int) -> Any:
        X = check_array(X, "X", min_ndim=2)
        stack, sides, _ = _stack(check_factors(factors, shape=X.shape))
        return kernels.mttkrp(_flat(X), stack, sides, check_mode(mode, X.ndim))

    def gram(self, factors: Any, mode: int | None) -> Any:
        stack, sides, _ = _stack(factors)
        return kernels.gram(stack, sides, -1 if mode is None else check_mode(mode, sides.size))

    def balance(self, factors: Any, weights: Any) -> Any:
        stack, sides, w = _stack(factors, weights)
        return np.split(kernels.balance(stack, sides, w), np.cumsum(sides)[:-1])

    def conv2d(self, x: Any, W: Any, bias: Any, **window: Any) -> Any:
        x, W = (check_array(a, "x, W", ndim=4, keep_float32=True) for a in (x, W))
        return _convolve(x, W, geometry.check_bias(bias, len(W)), W.shape[1], **window)

    def pointwise(self, x: Any, A: Any, bias: Any, *, stride: Any) -> Any:
        return self.conv2d(x, A[:, :, None, None], bias, **{**_STILL, "stride": stride})

    def depthwise(self, x: Any, C: Any, *, kernel_size: Any, **window: Any) -> Any:
        x = check_array(x, "x", ndim=4, keep_float32=True)
        C = check_array(C, "C", ndim=2, keep_float32=True)
        W = _filters(C, kernel_size)[:, None]
        return _convolve(x, W, geometry.check_bias(None, len(W)), len(W), **window)

    def cp_conv2d(self, x: Any, *arrays: Any, **window: Any) -> Any:
        a_out, a_in, a_kernel, bias = arrays
        z = self.pointwise(x, a_in.T, None, stride=[1, 1])
        return self.pointwise(self.depthwise(z, a_kernel, **window), a_out, bias, stride=[1, 1])

    def int_conv2d(self, x: Any, W: Any, bias: Any, *, x_zero: int, **window: Any) -> Any:
        v, W, b = (part.astype(np.int64) for part in integer.int_operands(x, W, x_zero, bias))
        return _convolve(v, W, b, W.shape[1], **window).astype(np.int32)

    def linear(self, x: Any, W: Any, bias: Any, x_zero: int) -> Any:
        x, W = x[:, :, None, None], W[:, :, None, None]
        return self.int_conv2d(x, W, bias, x_zero=x_zero, **_STILL)[:, :, 0, 0]

    def solve(self, F: Any, G: Any) -> Any:
        A, regular = kernels.als_update(F, G, _PIVOT)
        return A if regular else _BOOK.solve(F, G)

    def shrink(self, F: Any, G: Any, square: float, bound: float, _: Any) -> Any:
        return kernels.epc_update(F, G, square, bound) if bound < square else np.zeros_like(F)

    def nearest_plane(self, F: Any, G: Any, scale: Any, **ends: int) -> Any:
        return self.closest_rows(F, G, scale, nodes=len(G), **ends)

    def closest_rows(self, *arrays: Any, nodes: int = _NODES, **ends: int) -> Any:
        """Search each row; with one node per column the search ends at its first leaf."""
        F, G, box, _ = _in_steps(*arrays, **ends)
        rows.check_consistent(F, G)
        L, _ = rows.root_triangle(G, "natural")
        z = np.ascontiguousarray(np.linalg.solve(L, F.T).T)
        far = np.full(len(G), 2.0**40)
        exact = 0.0, 0.0, 1.0  # no margin for rounding
        found = [kernels.sphere(row, L, far, box, nodes, exact)[0] for row in z]
        return np.array(found).astype(np.int64)

    def cp_als(self, X: Any, *, rank: int, seed: int) -> Any:
        factors = list(cp.random_cp(X.shape, rank, rng=seed).factors)
        for _ in range(_SWEEPS):
            factors = self.balance(_als_sweep(self, X, factors), None)
        return factors, self._error(X, factors)

    def ao_admm(self, X: Any, *, rank: int, seed: int, **ends: int) -> Any:
        factors, _ = self.cp_als(X, rank=rank, seed=seed)
        scales = [self.choose_scale(A, rule="mse", **ends) for A in factors]
        duals = [0 * A for A in factors]
        best = 1.0, [*duals]  # zero, which is on every grid
        for n in [*range(X.ndim)] * _SWEEPS:
            F, G = self.mttkrp(X, factors, n), self.gram(factors, n)
            state = F, G, factors[n], duals[n], np.trace(G) / rank or 1.0, scales[n]
            _, factors[n], duals[n] = _admm_step(self, *state, **ends)
            if n == X.ndim - 1 and self._error(X, factors) < best[0]:
                best = self._error(X, factors), [*factors]
        codes = [self.quantize(A, s, 0, **ends) for A, s in zip(best[1], scales, strict=True)]
        return codes, np.array(scales), self._error(X, best[1])

    def _error(self, X: Any, factors: Any) -> Any:
        return np.linalg.norm(X - self.reconstruct(factors, None)) / (np.linalg.norm(X) or 1.0)


# --- made of the parts of either ------------------------------------------------------------------


def _als_update(impl: Any, X: Any, factors: Any, mode: int) -> Any:
    return impl.solve(impl.mttkrp(X, factors, mode), impl.gram(factors, mode))


def _als_sweep(impl: Any, X: Any, factors: Any) -> Any:
    for mode in range(X.ndim):
        factors = [*factors[:mode], _als_update(impl, X, factors, mode), *factors[mode + 1 :]]
    return factors


def _admm_step(impl: Any, *arrays: Any, **ends: int) -> Any:
    F, G, H, U, rho, scale = arrays
    check_real(rho, "rho", positive=True)
    if not F.shape == H.shape == U.shape:
        raise ValueError(f"H, U: expected the shape {F.shape} of F, got {H.shape}, {U.shape}")
    G = check_gram(G, F.shape[1])
    T = impl.solve(F + rho * (H + U), G + rho * np.eye(len(G)))
    H = impl.project(T - U, scale, 0, **ends)
    return T, H, U + (H - T)


def _epc_update(impl: Any, X: Any, factors: Any, delta: Any, mode: int) -> Any:
    """Solve with the other factors at unit columns; a column of zeros stays one."""
    unit, square = check_factors(factors), float((X**2).sum())
    bound = check_real(delta, "delta", minimum=0.0) ** 2
    norms = np.array([np.linalg.norm(A, axis=0) for A in unit])
    norms[check_mode(mode, X.ndim)] = 1.0
    norms[norms == 0] = 1.0
    unit, lengths = [A / s for A, s in zip(unit, norms, strict=True)], norms.prod(axis=0)
    F, G = impl.mttkrp(X, unit, mode), impl.gram(unit, mode)
    return impl.shrink(F, G, square, bound, unit[mode] * lengths) / lengths


def _descend_rows(impl: Any, F: Any, G: Any, codes: Any, scale: Any, **ends: int) -> Any:
    F, G, box, _ = _in_steps(F, G, scale, **ends)
    V = rows.check_codes(codes, F.shape, _grid(**ends)).astype(float)
    impl.descend(V, F - V @ G, G, np.zeros_like(V), box)
    return V.astype(np.int64)


def _refit_scale(_: Any, F: Any, G: Any, codes: Any) -> Any:
    return rows.refit_scale(F, G, codes, grid.Grid(16), 1.0)


def _quantized_conv2d(impl: Any, x: Any, W: Any, bias: Any, M: Any, **options: Any) -> Any:
    output = {name: options.pop(name) for name in ("y_zero", "qmin", "qmax", "relu")}
    return _output(impl, impl.int_conv2d(x, W, bias, **options), M, **output)


def _quantized_linear(impl: Any, x: Any, W: Any, bias: Any, M: Any, **options: Any) -> Any:
    return _output(impl, impl.linear(x, W, bias, options.pop("x_zero")), M, **options)


def _output(impl: Any, acc: Any, M: Any, *, y_zero: int, relu: bool, **ends: int) -> Any:
    codes = impl.requantize(acc, M, y_zero, **ends)
    return np.maximum(codes, y_zero) if relu else codes


def _quantized_cp_conv2d(impl: Any, x: Any, *arrays: Any, **options: Any) -> Any:
    """Run the stages one by one, the depthwise one as a dense kernel with zeros."""
    a_out, a_in, a_kernel, bias, multipliers = arrays
    size, zeros, *ends = (options.pop(o) for o in ("kernel_size", "zeros", "qmins", "qmaxs"))
    rank = a_kernel.shape[1]
    filters = np.zeros((rank, rank, *size), np.int64)
    filters[np.diag_indices(rank)] = _filters(a_kernel, size)
    first, last = a_in.T[:, :, None, None], a_out[:, :, None, None]
    stages = [(first, None, _STILL), (filters, None, options), (last, bias, _STILL)]
    for n, (W, b, window) in enumerate(stages):
        acc = impl.int_conv2d(x, W, b, x_zero=zeros[n], **window)
        x = impl.requantize(acc, multipliers[n], zeros[n + 1], qmin=ends[0][n], qmax=ends[1][n])
    return x


# --- arguments ------------------------------------------------------------------------------------


def _grid(qmin: int, qmax: int) -> grid.Grid:
    """Return the grid with these codes: signed, narrow or unsigned."""
    if qmin >= qmax:
        raise ValueError(f"qmin, qmax: expected a range of codes, got {qmin} to {qmax}")
    kinds: dict[int, Any] = {0: {"signed": False}, -qmax: {"narrow": True}, -qmax - 1: {}}
    if qmin not in kinds or qmax & (qmax + 1):
        raise Unsupported("bits")
    return grid.Grid(qmax.bit_length() + (qmin < 0), **kinds[qmin])


def _in_steps(F: Any, G: Any, scale: Any, **ends: int) -> Any:
    F = check_array(F, "F", ndim=2)
    scale = grid.check_scale(scale, ())
    return descent.in_steps(F, check_gram(G, F.shape[1]), _grid(**ends), scale)


def _kind(kind: str, bits: Any) -> grid.Grid:
    return grid.Grid({"binary": 1, "ternary": 2}.get(kind, bits), kind=kind)


def _target(zero: Any, qmin: int, qmax: int) -> tuple[int, int, int]:
    return int(grid.check_zero(zero, _grid(qmin, qmax), ())), qmin, qmax


def _filters(C: Any, size: Any) -> Any:
    if len(C) != size[0] * size[1]:
        raise ValueError(f"kernel_size: expected sides of {len(C)} entries, got {size!r}")
    return C.T.reshape(C.shape[1], *size)


def _flat(array: Any) -> Any:
    return np.array(array).ravel()  # a copy: contiguous and writable, as kernels are compiled for


def _each(kernel: Any, x: Any, parts: Any, *options: Any) -> Any:
    """Run a kernel over all entries, each with its part of the other arrays."""
    spread = (_flat(np.broadcast_to(part, x.shape)) for part in parts)
    return kernel(_flat(x), *spread, *options).reshape(x.shape)


def _stack(factors: Any, weights: Any = None) -> Any:
    given = cp.CP(factors, weights)
    return np.vstack(given.factors), np.array(given.shape), given.weights


def _channelwise(values: Any, acc: Any) -> Any:
    """Let numbers per channel meet axis 1 of the accumulators."""
    return np.reshape(values, (1, -1, *[1] * (np.ndim(acc) - 2))) if np.ndim(values) else values


def _fixed(m: Any, shift: Any, acc: Any) -> Any:
    m = geometry.check_whole(_channelwise(m, acc), "multiplier", 2**30, 2**31 - 1)
    return m, geometry.check_whole(_channelwise(shift, acc), "shift", -31, 30)


def _convolve(x: Any, W: Any, b: Any, channels: int, **window: Any) -> Any:
    conv.check_channels(x, channels, "W")
    v, h = geometry.window_axes(x.shape[2:], W.shape[2:], *(window[name] for name in _STILL))
    x, W, b = (np.array(part, order="C") for part in conv.same_dtype(x, W, b))
    y = np.zeros((len(x), len(W), v.out, h.out), x.dtype) + b[:, None, None]
    kernels.conv(x, W, y, (v.stride, h.stride, v.before, h.before, v.dilation, h.dilation))
    return y


class _Compiled(Adapter):
    """An adapter that has nothing to say without Numba."""

    def hello(self) -> dict[str, Any]:
        if kernels.missing_numba():
            raise ValueError(
                "implementation: numba_adapter needs Numba, which cannot be used "
                f"({kernels.missing_numba()}); check numpy_adapter"
            )
        return super().hello()


def _adapter(kind: Any, name: str, impl: Any, ops: Any = OPS, **declared: Any) -> Adapter:
    adapter: Adapter = kind(f"qcp_ref {name}", __version__, **declared)
    for op in ops:
        adapter.ops[op] = getattr(impl, op, None) or partial(globals()[f"_{op}"], impl)
    adapter.lacks("empty", "infinite")
    return adapter


numpy_adapter = _adapter(Adapter, "NumPy", _BOOK)
numba_adapter = _adapter(_Compiled, "Numba", _Loops())
_CONV = ("conv2d", "pointwise", "depthwise", "cp_conv2d")
numpy_adapter_f32 = _adapter(Adapter, "NumPy", _BOOK, _CONV, arith="f32")
