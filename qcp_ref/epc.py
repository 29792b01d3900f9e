r"""Why does the start matter? Error-preserving correction.

A least-squares fit of a trained kernel often consists of large components that cancel each other.
Rounding their factors destroys the fit, because each component is rounded relative to its own size.
Error-preserving correction (EPC) looks among all CP tensors with an error of at most ``delta`` for
the one with the smallest components :eq:`epc-problem`.

With the other factors of unit columns, one factor solves a ridge problem whose parameter ``tau`` is
the root of a secular equation in one unknown :eq:`epc-ridge`, :eq:`epc-secular`.
:func:`epc_update` solves it, :func:`epc` goes through the modes. After every update the error is
still at most ``delta`` and the sum of squared component norms has not risen.

Simplified: the modes are visited in their own order, not sorted by size; outer rounds with further
stopping rules are left out.

Checked by tests/test_epc.py.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import Array, check_array, check_gram, check_int, check_real, check_tensor
from qcp_ref.als import Callback, _fit_error
from qcp_ref.cp import CP, balance, normalize, relative_error
from qcp_ref.tensor import gram, mttkrp_sweep

__all__ = ["EPCFit", "EPCHistory", "EPCUpdate", "epc", "epc_update"]

_FLOOR = 1e-7  # relative errors below it are noise in a squared error: there is nothing to preserve
_RELATIVE_NULL = 1e-14  # eigenvalues of the Gram matrix below this share count as zero


class EPCUpdate(NamedTuple):
    """Result of :func:`epc_update`: the factor, the ridge parameter, the squared error left."""

    factor: Array
    tau: float
    squared_error: float


class EPCHistory(NamedTuple):
    """After every sweep: relative error, and sum of squared component norms over ``||X||^2``."""

    error: Array
    norm_ratio: Array


class EPCFit(NamedTuple):
    """Result of :func:`epc`: balanced factors, their relative error, history, reason for stopping.

    ``stop_reason`` is one of "converged", "max_sweeps", "callback", "zero tensor" and "exact" (the
    fit is exact up to the noise of its error, and returned as it is).
    """

    cp: CP
    error: float
    history: EPCHistory
    stop_reason: str


def epc_update(
    F: ArrayLike,
    G: ArrayLike,
    squared_norm: float,
    squared_bound: float,
    *,
    current: ArrayLike | None = None,
) -> EPCUpdate:
    """Find the factor of least norm whose error stays within a bound.

    Parameters
    ----------
    F : array_like, shape (I_n, R)
        MTTKRP of the mode, the other factors having unit columns.
    G : array_like, shape (R, R)
        Gram matrix of the other modes.
    squared_norm : float
        ``||X||^2``.
    squared_bound : float
        ``delta^2``, the largest squared error allowed.
    current : array_like, shape (I_n, R), optional
        The present factor. Where the bound lies below the error that least squares can reach, its
        error is kept instead.

    Returns
    -------
    EPCUpdate
        ``factor``; ``tau``, infinity if even the zero factor obeys the bound; ``squared_error``.

    Raises
    ------
    TypeError, ValueError
        For arrays or numbers that are not finite and real or do not fit, and for a bound below
        reach when no current factor is given.

    Notes
    -----
    Equations :eq:`epc-ridge`, :eq:`epc-secular` and :eq:`epc-bracket` [source: error-preserving
    correction of Phan et al.; ridge form derived].

    **Laws**

    - the squared error equals the bound, unless even the zero factor obeys it
    - no factor within the bound has a smaller norm
    - ``tau`` lies in its bracket
    - for rank one it is the least-squares factor times a number known in closed form
    - it equals bisection on rational numbers with plain loops

    Examples
    --------
    >>> from qcp_ref import epc_update
    >>> found = epc_update([[2.0]], [[1.0]], 5.0, 2.0)
    >>> found.factor, found.tau
    (array([[1.]]), 1.0)
    """
    F = check_array(F, "F", ndim=2)
    G = check_gram(G, F.shape[1])
    squared_norm = check_real(squared_norm, "squared_norm", minimum=0.0)
    squared_bound = check_real(squared_bound, "squared_bound", minimum=0.0)
    values, V = np.linalg.eigh(G)
    alive = values > _RELATIVE_NULL * values[-1]
    sigma, V = values[alive], V[:, alive]
    B = (F @ V) / np.sqrt(sigma)  # the least-squares factor in the metric of G
    b = (B**2).sum(axis=0)
    least = squared_norm - b.sum()
    slack = squared_bound - least
    if squared_bound >= squared_norm:
        return EPCUpdate(np.zeros_like(F), np.inf, squared_norm)
    if current is not None:
        # The bound may lie below reach by rounding alone: then the current error is the bound.
        U = check_array(current, "current", ndim=2)
        if U.shape != F.shape:
            raise ValueError(f"current: expected shape {F.shape} to fit F, got {U.shape}")
        if slack <= 0:
            slack = float((((U @ V) * np.sqrt(sigma) - B) ** 2).sum())
    elif slack < 0:
        raise ValueError(
            f"squared_bound: expected at least {least} (what least squares leaves), got "
            f"{squared_bound}; raise it or pass the current factor"
        )
    tau = _secular_root(b, sigma, slack)
    if tau == np.inf:
        return EPCUpdate(np.zeros_like(F), tau, squared_norm)
    factor = (B * np.sqrt(sigma) / (sigma + tau)) @ V.T
    return EPCUpdate(factor, tau, least + _secular(b, sigma, tau))


def epc(
    X: ArrayLike,
    cp: CP,
    *,
    slack: float = 0.0,
    max_sweeps: int = 500,
    tol: float = 1e-5,
    patience: int = 10,
    callback: Callback | None = None,
) -> EPCFit:
    """Shrink the components of a CP tensor without giving up its error.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The tensor that ``cp`` approximates.
    cp : CP
        The start, usually from :func:`qcp_ref.als.cp_als`.
    slack : float
        The error may grow to ``1 + slack`` times that of ``cp``; 0 keeps it, as the authors do.
    max_sweeps : int
        Upper limit of sweeps over all modes.
    tol : float
        Stop when the sum of squared component norms has changed by less than this share of itself
        ...
    patience : int
        ... in this many sweeps in a row.
    callback : callable, optional
        Called as ``callback(sweep, norm_ratio)`` after each sweep; a true result stops the run.

    Returns
    -------
    EPCFit
        The corrected tensor with balanced factors, its error, the history, the reason for stopping.

    Raises
    ------
    TypeError, ValueError
        For unusable arrays or options, shapes that do not fit, and a slack that is negative or so
        large that the zero tensor would obey the bound.

    Notes
    -----
    Problem :eq:`epc-problem` by sweeps of :func:`epc_update` [source: error-preserving correction
    of Phan et al.; authors' code for the defaults of ``tol`` and ``patience``]. A slack above 0 is
    [beyond the paper].

    **Laws**

    - after every sweep the error is at most ``1 + slack`` times that of the start
    - the sum of squared component norms never rises by more than the root of the rounding level

    Examples
    --------
    >>> from qcp_ref import cp_als, epc, random_cp, reconstruct
    >>> X = reconstruct(random_cp((5, 5, 5), 6, rng=1))
    >>> fit = cp_als(X, 5, rng=2, max_sweeps=50)
    >>> ratio = epc(X, fit.cp).history.norm_ratio
    >>> bool(ratio[-1] <= ratio[0])
    True
    """
    X = check_tensor(X)
    slack = check_real(slack, "slack", minimum=0.0)
    tol = check_real(tol, "tol", minimum=0.0)
    max_sweeps = check_int(max_sweeps, "max_sweeps", minimum=1)
    patience = check_int(patience, "patience", minimum=1)
    error, squared_norm = relative_error(X, cp), float((X**2).sum())
    unit = normalize(cp)
    factors, weights = list(unit.factors), unit.weights
    if error < _FLOOR or squared_norm == 0:
        history = EPCHistory(np.array([error]), np.zeros(1))
        return EPCFit(balance(cp), error, history, "exact" if squared_norm else "zero tensor")
    _check_room(slack, error)
    squared_bound = (1 + slack) ** 2 * error**2 * squared_norm
    rows: list[tuple[float, float]] = []
    reason, hits, previous = "max_sweeps", 0, float((weights**2).sum())
    for sweep in range(max_sweeps):
        weights, error = _sweep(X, factors, weights, squared_norm, squared_bound)
        total = float((weights**2).sum())
        rows.append((error, total / squared_norm))
        hits = hits + 1 if abs(previous - total) <= tol * previous else 0
        previous = total
        if callback is not None and callback(sweep, rows[-1][1]):
            reason = "callback"
        elif hits >= patience:
            reason = "converged"
        if reason != "max_sweeps":
            break
    corrected = balance(CP(factors, weights))
    history = EPCHistory(*(np.array(column) for column in zip(*rows, strict=True)))
    return EPCFit(corrected, relative_error(X, corrected), history, reason)


def _check_room(slack: float, error: float) -> None:
    if slack and (1 + slack) * error >= 1:
        raise ValueError(
            f"slack: expected less than {1 / error - 1:.3g} for a fit of error {error:.3g}, "
            f"got {slack:.3g}; at this bound the zero tensor would do"
        )


def _sweep(
    X: Array, factors: list[Array], weights: Array, squared_norm: float, squared_bound: float
) -> tuple[Array, float]:
    """Update each mode once, in place, columns of unit length; return weights and error."""
    for mode, F in mttkrp_sweep(X, factors):
        G = gram(factors, mode)
        current = factors[mode] * weights
        U = epc_update(F, G, squared_norm, squared_bound, current=current).factor
        weights = np.linalg.norm(U, axis=0)
        # A component that has vanished keeps its direction: unit columns keep G well defined.
        alive = weights > 0
        factors[mode] = np.where(alive, U / np.where(alive, weights, 1.0), factors[mode])
    return weights, _fit_error(X, float(np.sqrt(squared_norm)), [*factors[:-1], U], F, G)[0]


def _secular(b: Array, sigma: Array, tau: float) -> float:
    """Squared error above least squares that the ridge ``tau`` leaves."""
    return float((b * (tau / (sigma + tau)) ** 2).sum())


def _secular_root(b: Array, sigma: Array, slack: float) -> float:
    """Solve the secular equation on a logarithmic scale inside its bracket."""
    from scipy.optimize import brentq

    total = float(b.sum())
    kappa = np.sqrt(slack / total) if total > 0 else 1.0
    if kappa == 0:
        return 0.0
    if kappa >= 1:
        return np.inf
    low, high = (float(np.log(s * kappa / (1 - kappa))) for s in (sigma[0], sigma[-1]))

    def gap(t: float) -> float:
        return float(np.sqrt(_secular(b, sigma, float(np.exp(t))) / slack)) - 1.0

    if gap(low) >= 0 or gap(high) <= 0:  # equal eigenvalues: the bracket is a point up to rounding
        return float(np.exp(low if gap(low) >= 0 else high))
    return float(np.exp(brentq(gap, low, high, xtol=1e-14, rtol=1e-14)))
