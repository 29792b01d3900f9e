"""What does the book answer? Its adapter, which has to pass every level.

``numpy_adapter`` names the book's function for each operation and translates arguments: ranges of
codes are grids there, multipliers per channel have all axes. Steps and stages that are no function
of the book are put together from its parts. Wrong input is refused by the checks of the book.
``numpy_adapter_f32`` has the convolutions, which the book computes in float32.

Another implementation of every operation, which shares no code with the book, is in
``qcp_ref.conformance.faults.plain`` and ``solvers``.

Checked by tests/conformance/test_reference.py.
"""

from typing import Any

import numpy as np

from qcp_ref import __version__, epc_update
from qcp_ref._checks import (
    check_array,
    check_count,
    check_factors,
    check_gram,
    check_mode,
    check_real,
)
from qcp_ref.conformance.adapter import Adapter, Unsupported
from qcp_ref.factors import ao_admm as qcp
from qcp_ref.factors import descent, rows
from qcp_ref.grids import grid
from qcp_ref.grids.scale import choose_scale, project
from qcp_ref.layers import conv, geometry, integer
from qcp_ref.tensors import als, cp, tensor

__all__ = ["numpy_adapter", "numpy_adapter_f32"]

_STILL = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}
_NODES = 10**6  # enough to end every search of the suite


# --- grids ----------------------------------------------------------------------------------------


def _quantize(x: Any, scale: Any, zero: Any, **ends: int) -> Any:
    return grid.quantize(x, _grid(**ends), scale, zero)


def _project(x: Any, scale: Any, zero: Any, **ends: int) -> Any:
    return project(x, _grid(**ends), scale=grid.Scale(scale, zero, ""))


def _project_kind(x: Any, scale: Any, *, kind: str, bits: Any) -> Any:
    bits = {"binary": 1, "ternary": 2}.get(kind, bits)
    return project(x, grid.Grid(bits, kind=kind), scale=scale)


def _choose_scale(x: Any, *, rule: str, **ends: int) -> Any:
    return choose_scale(x, _grid(**ends), rule="mse-exact" if rule == "mse" else rule).scale


def _choose_affine(x: Any, **ends: int) -> Any:
    scale, zero, _ = choose_scale(x, _grid(**ends), rule="min-max")
    return scale, np.int64(zero)


def _requantize(acc: Any, M: Any, zero: Any, **ends: int) -> Any:
    return integer.requantize(acc, _channelwise(M, acc), int(zero), _output_grid(**ends))


def _requantize_fixed(
    acc: Any, m: Any, shift: Any, zero: Any, *, mode: str = "single", **ends: int
) -> Any:
    m = geometry.check_whole(_channelwise(m, acc), "multiplier", 2**30, 2**31 - 1)
    n = geometry.check_whole(_channelwise(shift, acc), "shift", -31, 30)
    M, target = np.ldexp(m * 1.0, n - 31), _output_grid(**ends)
    return integer.requantize(acc, M, int(zero), target, mode=mode)


# --- tensors and layers ---------------------------------------------------------------------------


def _reconstruct(factors: Any, weights: Any) -> Any:
    return cp.reconstruct(cp.CP(factors, weights))


def _balance(factors: Any, weights: Any) -> Any:
    return list(cp.balance(cp.CP(factors, weights)).factors)


def _conv2d(x: Any, W: Any, bias: Any, **window: Any) -> Any:
    return conv.conv2d(x, W, bias=bias, **window)


def _pointwise(x: Any, A: Any, bias: Any, *, stride: Any) -> Any:
    return conv.pointwise(x, A, bias=bias, stride=stride)


def _cp_conv2d(x: Any, a_out: Any, a_in: Any, a_kernel: Any, bias: Any, **window: Any) -> Any:
    return conv.cp_conv2d(x, cp.CP([a_out, a_in, a_kernel]), bias=bias, **window)


def _int_conv2d(x: Any, W: Any, bias: Any, *, x_zero: int, **window: Any) -> Any:
    return integer.int_conv(x, W, bias=bias, zero_point=x_zero, **window)


def _quantized_conv2d(x: Any, W: Any, bias: Any, M: Any, **options: Any) -> Any:
    output = {name: options.pop(name) for name in ("y_zero", "qmin", "qmax", "relu")}
    return _output(_int_conv2d(x, W, bias, **options), M, **output)


def _quantized_linear(x: Any, W: Any, bias: Any, M: Any, *, x_zero: int, **output: Any) -> Any:
    return _output(integer.int_linear(x, W, bias=bias, zero_point=x_zero), M, **output)


def _output(acc: Any, M: Any, *, y_zero: int, relu: bool, **ends: int) -> Any:
    codes = _requantize(acc, M, y_zero, **ends)
    return np.maximum(codes, y_zero) if relu else codes


def _quantized_cp_conv2d(x: Any, *arrays: Any, **options: Any) -> Any:
    """Run the stages one by one, the depthwise one as a dense kernel with zeros."""
    a_out, a_in, a_kernel, bias, multipliers = arrays
    size, zeros, *ends = (options.pop(o) for o in ("kernel_size", "zeros", "qmins", "qmaxs"))
    if len(a_kernel) != size[0] * size[1]:
        raise ValueError(f"kernel_size: expected sides of {len(a_kernel)} entries, got {size!r}")
    rank = a_kernel.shape[1]
    filters = np.zeros((rank, rank, *size), a_kernel.dtype)
    filters[np.diag_indices(rank)] = a_kernel.T.reshape(rank, *size)
    first, last = a_in.T[:, :, None, None], a_out[:, :, None, None]
    stages = [(first, None, _STILL), (filters, None, options), (last, bias, _STILL)]
    for n, (W, b, window) in enumerate(stages):
        acc = _int_conv2d(x, W, b, x_zero=zeros[n], **window)
        x = _requantize(acc, multipliers[n], zeros[n + 1], qmin=ends[0][n], qmax=ends[1][n])
    return x


# --- solvers --------------------------------------------------------------------------------------


def _als_update(X: Any, factors: Any, mode: int) -> Any:
    return als.als_update(tensor.mttkrp(X, factors, mode), tensor.gram(factors, mode)).factor


def _als_sweep(X: Any, factors: Any) -> Any:
    for mode in range(X.ndim):
        factors = [*factors[:mode], _als_update(X, factors, mode), *factors[mode + 1 :]]
    return factors


def _admm_step(F: Any, G: Any, H: Any, U: Any, rho: Any, scale: Any, **ends: int) -> Any:
    check_real(rho, "rho", positive=True)
    if not F.shape == H.shape == U.shape:
        raise ValueError(f"H, U: expected the shape {F.shape} of F, got {H.shape}, {U.shape}")
    G = check_gram(G, F.shape[1])
    # T = (F + rho (H + U)) (G + rho I)^-1  :eq:`admm-t`
    T = als.als_update(F + rho * (H + U), G + rho * np.eye(len(G))).factor
    H = _project(T - U, scale, 0, **ends)  # H = P_S(T - U)  :eq:`admm-h`
    return T, H, U + (H - T)  # U + H - T  :eq:`admm-u`


def _epc_update(X: Any, factors: Any, delta: Any, mode: int) -> Any:
    """Solve with the other factors at unit columns; a column of zeros stays one."""
    unit, square = check_factors(factors), float((X**2).sum())
    bound = check_real(delta, "delta", minimum=0.0) ** 2
    norms = np.array([np.linalg.norm(A, axis=0) for A in unit])
    norms[check_mode(mode, X.ndim)] = 1.0
    norms[norms == 0] = 1.0
    unit, lengths = [A / s for A, s in zip(unit, norms, strict=True)], norms.prod(axis=0)
    F, G = tensor.mttkrp(X, unit, mode), tensor.gram(unit, mode)
    return epc_update(F, G, square, bound, current=unit[mode] * lengths).factor / lengths


def _descend_rows(F: Any, G: Any, codes: Any, scale: Any, **ends: int) -> Any:
    F, own = check_array(F, "F", ndim=2), _grid(**ends)
    G, scale = check_gram(G, F.shape[1]), grid.check_scale(scale, ())
    F, G, box, _ = descent.in_steps(F, G, own, scale)
    V = rows.check_codes(codes, F.shape, own).astype(float)
    descent.descend_columns(V, F - V @ G, G, np.zeros_like(V), box)
    return V.astype(np.int64)


def _nearest_plane(F: Any, G: Any, scale: Any, **ends: int) -> Any:
    return rows.solve_rows(F, G, _grid(**ends), scale, method="babai", order="natural").codes


def _closest_rows(F: Any, G: Any, scale: Any, **ends: int) -> Any:
    return rows.solve_rows(F, G, _grid(**ends), scale, method="sphere", budget=_NODES).codes


def _refit_scale(F: Any, G: Any, codes: Any) -> Any:
    return rows.refit_scale(F, G, codes, grid.Grid(16), 1.0)


def _cp_als(X: Any, *, rank: int, seed: int) -> Any:
    fit = als.cp_als(X, rank, rng=seed)
    return list(fit.cp.factors), np.float64(fit.error)


def _ao_admm(X: Any, *, rank: int, seed: int, **ends: int) -> Any:
    fit = qcp.ao_admm(X, rank, _grid(**ends), rng=seed)
    return list(fit.cp.codes), np.array(fit.cp.scales), np.float64(fit.error)


def _cp_als_run(X: Any, factors: Any, sweeps: int) -> Any:
    """Update factor by factor, and keep each."""
    now, iterates = list(check_factors(factors, shape=np.shape(X))), list[Any]()
    errors, sweeps = list[float](), check_count(sweeps, "sweeps")
    for n in [*range(len(now))] * sweeps:
        now[n] = _als_update(X, now, n)
        iterates.append(now[n])
        if n == len(now) - 1:
            errors.append(cp.relative_error(X, cp.CP(now)))
    return iterates, np.array(errors)


def _ao_admm_run(X: Any, factors: Any, sweeps: int, steps: int, **ends: int) -> Any:
    """Make the steps of AO-ADMM one by one, and keep each."""
    now = list(check_factors(factors, shape=np.shape(X)))
    sweeps, steps = check_count(sweeps, "sweeps"), check_count(steps, "steps")
    duals, scales, seen = [0 * A for A in now], [1.0] * len(now), list[Any]()
    errors, best = list[float](), (np.inf, now, scales)
    for n in [*range(len(now))] * sweeps:
        F, G = tensor.mttkrp(X, now, n), tensor.gram(now, n)
        rho = np.trace(G) / len(G) or 1.0  # :eq:`admm-rho`
        for _ in range(steps):
            T = als.als_update(F + rho * (now[n] + duals[n]), G + rho * np.eye(len(G))).factor
            scales[n] = _choose_scale(T - duals[n], rule="mse", **ends)
            now[n] = _project(T - duals[n], scales[n], 0, **ends)
            duals[n] = duals[n] + (now[n] - T)
            seen.append((T, now[n], duals[n], rho, scales[n]))
        if n == len(now) - 1:
            errors.append(cp.relative_error(X, cp.CP(now)))
            best = min(best, (errors[-1], [*now], [*scales]), key=lambda one: one[0])
    codes = [_quantize(A, s, 0, **ends) for A, s in zip(best[1], best[2], strict=True)]
    *lists, rhos, used = zip(*seen, strict=True)
    ending = np.array(errors), codes, np.array(best[2]), np.float64(best[0])
    return *map(list, lists), np.array(rhos), np.array(used), *ending


# --- arguments ------------------------------------------------------------------------------------


def _grid(qmin: int, qmax: int) -> grid.Grid:
    """Return the grid with these codes: signed, narrow or unsigned."""
    if qmin >= qmax:
        raise ValueError(f"qmin, qmax: expected a range of codes, got {qmin} to {qmax}")
    kinds: dict[int, Any] = {0: {"signed": False}, -qmax: {"narrow": True}, -qmax - 1: {}}
    if qmin not in kinds or qmax & (qmax + 1):
        raise Unsupported("bits")
    return grid.Grid(qmax.bit_length() + (qmin < 0), **kinds[qmin])


def _output_grid(**ends: int) -> grid.Grid:
    """Return the grid of a layer's output, of which the book has those up to 8 bits."""
    if ends["qmax"] - ends["qmin"] > 255:
        raise Unsupported("int16")
    return _grid(**ends)


def _channelwise(values: Any, acc: Any) -> Any:
    """Let numbers per channel meet axis 1 of the accumulators."""
    if np.ndim(values) == 1 and len(values) != np.shape(acc)[1]:
        raise ValueError(f"multiplier: expected one for each of {np.shape(acc)[1]} channels")
    return np.reshape(values, (1, -1, *[1] * (np.ndim(acc) - 2))) if np.ndim(values) else values


_CONVOLUTIONS = {
    "conv2d": _conv2d,
    "pointwise": _pointwise,
    "depthwise": conv.depthwise,
    "cp_conv2d": _cp_conv2d,
}
_OPERATIONS = {
    "quantize": _quantize,
    "dequantize": grid.dequantize,
    "project": _project,
    "project_kind": _project_kind,
    "choose_scale": _choose_scale,
    "choose_affine": _choose_affine,
    "requantize": _requantize,
    "requantize_fixed": _requantize_fixed,
    "reconstruct": _reconstruct,
    "mttkrp": tensor.mttkrp,
    "gram": tensor.gram,
    "balance": _balance,
    **_CONVOLUTIONS,
    "int_conv2d": _int_conv2d,
    "quantized_conv2d": _quantized_conv2d,
    "quantized_linear": _quantized_linear,
    "quantized_cp_conv2d": _quantized_cp_conv2d,
    "als_update": _als_update,
    "als_sweep": _als_sweep,
    "admm_step": _admm_step,
    "epc_update": _epc_update,
    "descend_rows": _descend_rows,
    "nearest_plane": _nearest_plane,
    "refit_scale": _refit_scale,
    "closest_rows": _closest_rows,
    "cp_als": _cp_als,
    "ao_admm": _ao_admm,
    "cp_als_run": _cp_als_run,
    "ao_admm_run": _ao_admm_run,
}


def _adapter(operations: dict[str, Any], arith: str) -> Adapter:
    adapter = Adapter("qcp_ref NumPy", __version__, arith=arith)
    adapter.ops.update(operations)
    adapter.lacks("empty", "infinite")
    return adapter


numpy_adapter = _adapter(_OPERATIONS, "f64")
numpy_adapter_f32 = _adapter(_CONVOLUTIONS, "f32")
