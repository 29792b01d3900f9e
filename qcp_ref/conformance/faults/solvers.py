"""Which wrong solvers does the suite have to catch, and which right ones must it never accuse?

As in ``qcp_ref.conformance.faults.plain`` and ``catalogue``: each operation is written once more,
plainly, and a mutant is that with one thing changed. The letter of an identifier says what is
wrong: S scales, A least squares, D ADMM, E error-preserving correction.

Checked by tests/conformance/faults/test_faults_solvers.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qcp_ref.conformance.faults.catalogue import CHANGES, Fault, vary
from qcp_ref.conformance.faults.controls import Control
from qcp_ref.conformance.faults.plain import RAW, khatri_rao

__all__ = ["CONTROLS", "FAULTS", "SOLVERS", "STEPS"]


# --- the operations, with hooks -------------------------------------------------------------------


def _choose_scale(x: Any, *, qmin: int, qmax: int, rule: str = "mse") -> Any:
    """Try one scale between any two at which a code changes, or use a rule's formula."""
    if rule == "max-abs-two-sided":
        return np.asarray(max(x.min() / qmin, x.max() / qmax) or 1, x.dtype)
    if rule != "mse":
        top = qmax + {"max-abs": 0.5, "max-abs-narrow": 0, "max-abs-full": 1}[rule]
        return np.asarray(np.abs(x).max() / top or 1, x.dtype)
    breaks = np.ravel(x)[:, None] / (np.arange(qmin + 1, qmax + 1) - 0.5)
    ends = np.append(0, np.unique(breaks[breaks > 0]))
    middles = (ends + np.append(ends[1:], 2 * ends[-1] + 2)) / 2
    codes = np.clip(np.rint(np.ravel(x) / middles[:, None]), qmin, qmax)
    first, second = codes @ np.ravel(x), np.maximum((codes * codes).sum(axis=1), 1)
    best = int(np.argmax(np.where(first > 0, first * first / second, 0)))
    return np.asarray(first[best] / second[best] if first[best] > 0 else 1, x.dtype)


def _fixed_point(x: Any, *, qmin: int, qmax: int, **_: Any) -> Any:
    """Round, refit the scale to the codes, and again: the squared error never rises."""
    scale = np.abs(x).max() / qmax
    for _k in range(100):
        codes = np.clip(np.rint(x / (scale or 1)), qmin, qmax)
        scale = (x * codes).sum() / ((codes * codes).sum() or 1)
    return scale


def _solve(G: Any, F: Any) -> Any:
    """Solve ``A G = F``; of several solutions the shortest. NaN goes through."""
    if np.isnan(G).any():
        return np.full_like(F, np.nan)
    return np.linalg.lstsq(G, F.T, rcond=None)[0].T


def _inverse(G: Any, F: Any) -> Any:
    return F @ np.linalg.inv(G)


def _turned(G: Any, F: Any) -> Any:
    L = np.linalg.inv(np.linalg.cholesky(G))
    return F @ L @ L.T


def _operands(X: Any, factors: Any, mode: int) -> tuple[Any, Any]:
    M = np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1)
    return M, khatri_rao([A for n, A in enumerate(factors) if n != mode])


def _als_update(X: Any, factors: Any, *, mode: int, solve: Any = _solve) -> Any:
    M, K = _operands(X, factors, mode)
    return solve(K.T @ K, M @ K)


def _by_qr(X: Any, factors: Any, *, mode: int) -> Any:
    M, K = _operands(X, factors, mode)
    return np.linalg.lstsq(K, M.T, rcond=None)[0].T


def _longer(X: Any, factors: Any, *, mode: int) -> Any:
    """Add something that the other factors map to zero."""
    A, K = _als_update(X, factors, mode=mode), _operands(X, factors, mode)[1]
    V = np.linalg.svd(K)[2][np.linalg.matrix_rank(K) :]
    return (A + V.sum(axis=0)).astype(A.dtype)


def _als_sweep(X: Any, factors: Any, *, update: Any = _als_update, after: Any = np.asarray) -> Any:
    new = list(factors)
    for mode in range(X.ndim):
        new[mode] = after(update(X, new, mode=mode))
    return new


def _permuted(X: Any, factors: Any) -> Any:
    return [A[:, ::-1] for A in _als_sweep(X, [A[:, ::-1] for A in factors])]


def _jacobi(X: Any, factors: Any) -> Any:
    return [_als_update(X, factors, mode=mode) for mode in range(X.ndim)]


def _stale(X: Any, factors: Any) -> Any:
    """Take the Gram matrices from before the sweep."""
    new = list(factors)
    for mode in range(X.ndim):
        (_, old), (M, K) = _operands(X, factors, mode), _operands(X, new, mode)
        new[mode] = _solve(old.T @ old, M @ K)
    return new


def _unit(A: Any) -> Any:
    norms = np.sqrt((A * A).sum(axis=0))
    return A / np.where(norms > 0, norms, 1)


def _positive(A: Any) -> Any:
    """Flip columns so that the entry of largest magnitude is positive."""
    return A * np.where(np.take_along_axis(A, np.abs(A).argmax(axis=0)[None], 0) < 0, -1, 1)


def _normalised(solver: Callable[..., Any]) -> Callable[..., Any]:
    """Solve for a tensor of norm 1: there is none for zeros."""

    def solved(X: Any, factors: Any, *more: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            size = np.linalg.norm(X)
            found = solver(X / size, factors, *(part / size for part in more), **options)
            return [A * size for A in found] if isinstance(found, list) else found * size

    return solved


def _unguarded(A: Any) -> Any:
    """Take a factor apart into lengths and directions, and put it together again."""
    with np.errstate(all="ignore"):
        norms = np.sqrt((A * A).sum(axis=0))
        return A / norms * norms


def _few_modes(X: Any, factors: Any, *, mode: int) -> Any:
    """Know the four indices of a kernel, and no more."""
    return _als_update(X, factors, mode=mode) if mode < 3 else 0 * factors[mode]


def _balance(factors: Any, weights: Any, *, after: Callable[[Any], Any]) -> Any:
    first, *others = RAW["balance"](factors, weights)
    return [after(first).astype(first.dtype), *others]


def _admm_step(
    F: Any, G: Any, H: Any, U: Any, rho: Any, scale: Any, *, qmin: int, qmax: int,
    fault: str = "", solve: Any = _solve,
) -> Any:  # fmt: skip
    if fault == "minus":
        U = -U
    pull = {"D09": H - U, "D11": H}.get(fault, H + U) * (1 if fault == "D10" else rho)
    T = solve(G if fault == "D12" else G + rho * np.eye(len(G), dtype=G.dtype), F + pull)
    V = {"D05": T, "D06": T + U}.get(fault, T - U)
    codes = (CHANGES["half-away"]["rounding"] if fault == "D08" else np.rint)(V / scale)
    new = scale * (codes if fault == "D07" else np.clip(codes, qmin, qmax))
    new = V if fault == "D13" else new
    step = {"D01": T - new, "D02": H - T, "D04": rho * (new - T)}.get(fault, new - T)
    dual = step if fault == "D03" else U + step
    return T, new, -dual if fault == "minus" else dual


def _epc_update(X: Any, factors: Any, delta: Any, *, mode: int, fault: str = "") -> Any:
    """Bisect for the ridge parameter, on a logarithmic scale."""
    M, K = _operands(X, factors, mode)
    F, G, lengths = M @ K, K.T @ K, (K * K).sum(axis=0)
    if fault == "E03":
        others = [A for n, A in enumerate(factors) if n != mode]
        lengths = np.sum([np.linalg.norm(A, axis=0) for A in others], axis=0) ** 2
    bound = delta if fault == "E01" else delta * delta
    low, high = -60.0, 60.0
    for _ in range(100):
        tau = (low + high) / 2
        A = _solve(G + np.diag(lengths * X.dtype.type(np.exp(tau))), F)
        met = ((M - A @ K.T).astype(float) ** 2).sum() <= bound
        low, high = (tau, high) if met else (low, tau)
    return A / 2 if fault == "E02" else A * (low < 59)  # there, zero obeys the bound


# --- the catalogue --------------------------------------------------------------------------------

SOLVERS: dict[str, Callable[..., Any]] = {
    "choose_scale": _choose_scale, "balance": RAW["balance"], "als_update": _als_update,
    "als_sweep": _als_sweep, "admm_step": _admm_step, "epc_update": _epc_update,
}  # fmt: skip

STEPS = {
    "D01": "subtracts H - T from the dual",
    "D02": "updates the dual with the old H",
    "D03": "starts the dual anew in each step",
    "D04": "multiplies the dual's change by rho",
    "D05": "projects T instead of T - U",
    "D06": "projects T + U instead of T - U",
    "D07": "does not clip the codes",
    "D08": "rounds halves away from zero in the projection",
    "D09": "solves for F + rho (H - U)",
    "D10": "solves for F + H + U, without rho",
    "D11": "solves for F + rho H, without U",
    "D12": "solves with G, without rho",
    "D13": "returns T - U, not projected",
}
_OTHERS: tuple[tuple[str, str, str, Callable[..., Any]], ...] = (
    ("S01", "choose_scale", "takes the scale from the largest value over all levels",
     lambda x, *, qmin, qmax, **_: np.asarray(np.abs(x).max() / (qmax - qmin + 1))),
    ("S02", "choose_scale", "takes the scale from the range, as if there were a zero point",
     lambda x, *, qmin, qmax, **_: np.asarray((x.max() - x.min()) / (qmax - qmin))),
    ("S03", "choose_scale", "stops at a local minimum of the squared error", _fixed_point),
    ("A01", "als_sweep", "updates each factor from the old ones (Jacobi)", _jacobi),
    ("A02", "als_sweep", "uses the Gram matrices from before the sweep", _stale),
    ("A03", "als_update", "uses the explicit inverse", partial(_als_update, solve=_inverse)),
    ("A04", "als_update", "exchanges the triangles", partial(_als_update, solve=_turned)),
    ("A05", "als_sweep", "loses norms when it normalises", partial(_als_sweep, after=_unit)),
    ("A05b", "balance", "loses norms when it normalises", partial(_balance, after=_unit)),
    ("A06", "als_sweep", "flips a sign in one factor only", partial(_als_sweep, after=_positive)),
    ("A06b", "balance", "flips a sign in one factor only", partial(_balance, after=np.negative)),
    ("A07a", "als_update", "divides by the size of the tensor", _normalised(_als_update)),
    ("A07b", "als_sweep", "divides by the size of the tensor",
     partial(_als_sweep, update=_normalised(_als_update))),
    ("A08", "als_sweep", "divides by the lengths of columns",
     partial(_als_sweep, after=_unguarded)),
    ("A09", "als_update", "forgets the last of many modes", _few_modes),
    ("E04", "epc_update", "divides by the size of the tensor", _normalised(_epc_update)),
    ("E01", "epc_update", "takes delta for its square", partial(_epc_update, fault="E01")),
    ("E02", "epc_update", "exceeds delta", partial(_epc_update, fault="E02")),
    ("E03", "epc_update", "adds norms of columns instead of multiplying them",
     partial(_epc_update, fault="E03")),
)  # fmt: skip

_EVERY: tuple[tuple[str, str, str, Callable[..., Any]], ...] = (
    *_OTHERS,
    *((n, "admm_step", title, partial(_admm_step, fault=n)) for n, title in STEPS.items()),
)
FAULTS = tuple(Fault(n, op, title, vary(op, function=wrong)) for n, op, title, wrong in _EVERY)

_RIGHT: tuple[tuple[str, str, Callable[..., Any], dict[str, Any]], ...] = (
    *(("written plainly", op, function, {}) for op, function in SOLVERS.items()),
    *(("in float32", op, function, {"arith": "f32"}) for op, function in SOLVERS.items()),
    ("orthogonal factors", "als_update", _by_qr, {}),
    ("orthogonal factors", "als_sweep", partial(_als_sweep, update=_by_qr), {}),
    ("another minimiser where there are several", "als_update", _longer, {}),
    ("components in another order", "als_sweep", _permuted, {}),
    ("inverse of G + rho I", "admm_step", partial(_admm_step, solve=_inverse), {}),
    ("negated dual", "admm_step", partial(_admm_step, fault="minus"), {"dual": "minus"}),
    (
        "halves away",
        "admm_step",
        partial(_admm_step, fault="D08"),
        {"weight_rounding": "half-away"},
    ),
)
CONTROLS = tuple(Control(n, op, vary(op, function=run), more) for n, op, run, more in _RIGHT)
