r"""Why does the start matter? Error-preserving correction.

A least-squares fit of a trained kernel often consists of large components that cancel each other.
Rounding their factors destroys the fit, because each component is rounded relative to its own size.
Error-preserving correction (EPC) looks among all CP tensors with an error of at most ``delta`` for
the one with the smallest components :eq:`epc-problem`.

With the other factors of unit columns, one factor solves a ridge problem whose parameter ``tau`` is
the root of a secular equation in one unknown :eq:`epc-ridge`, :eq:`epc-secular`.
:func:`epc_update` solves it, :func:`epc` goes through the modes. After every update the error is
still at most ``delta`` and the sum of squared component norms has not risen.

What rounding does to the fit depends on the columns, not on the component norms alone:
:func:`sensitivity` :eq:`epc-sensitivity` measures it, and :func:`epc` can minimise it in place of
the norms, by the same update with weighted columns :eq:`epc-weighted`.

On one page (``qcp_ref/minimal.py``) this is ``epc_update`` and ``epc``. What breaks there: squared
norms cancel, so that exact fits lose eight of their sixteen digits, and columns of very different
length count as zero.

Simplified: the modes are visited in their own order, not sorted by size.

Checked by tests/factors/test_epc.py.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import (
    Array,
    check_array,
    check_callback,
    check_count,
    check_gram,
    check_option,
    check_real,
    check_tensor,
)
from qcp_ref._results import frozen
from qcp_ref._wide import narrow, plus, times, total, wide
from qcp_ref.factors.secular import secular_root, spectrum
from qcp_ref.tensors.cp import (
    CP,
    balance_core,
    check_cp,
    check_start,
    column_norms,
    cp_of,
    normalize_core,
    reconstruct_core,
    relative_difference,
    relative_error_core,
)
from qcp_ref.tensors.svd import is_matrix, least_components
from qcp_ref.tensors.sweep import Callback, fit_error, normal_sweep, summing_noise
from qcp_ref.tensors.tensor import khatri_rao_of_any, unfold_core

__all__ = ["EPCFit", "EPCHistory", "EPCUpdate", "epc", "epc_update", "sensitivity"]

OBJECTIVES = ("norm", "sensitivity")

_SHARP = 3e-7  # errors below it, relative to all that is summed, cancel in the normal equations
_SPREAD = 1e8  # of the weights: the share above has to tell their components from the null space


@frozen
class EPCUpdate(NamedTuple):
    """Result of :func:`epc_update`: the factor, the ridge parameter, the squared error left."""

    factor: Array
    tau: float
    squared_error: float


@frozen
class EPCHistory(NamedTuple):
    """After every sweep: relative error, squared component norms over ``||X||^2``, sensitivity.

    The sensitivity is that of the factors which would be returned.
    """

    error: Array
    norm_ratio: Array
    sensitivity: Array


@frozen
class EPCFit(NamedTuple):
    """Result of :func:`epc`: factors, their relative error, history, reason for stopping.

    ``stop_reason`` is one of "converged" and "max_sweeps" (of a single round), "round_tol",
    "ratio_tol" and "max_rounds" (of several), "callback", "zero tensor" and "closed form" (of a
    matrix in effect).
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
    weights: ArrayLike | None = None,
    current: ArrayLike | None = None,
) -> EPCUpdate:
    """Find the factor of least norm whose error stays within a bound.

    Parameters
    ----------
    F : array_like, shape (I_n, R)
        MTTKRP of the mode; for :eq:`epc-problem` the other factors have unit columns.
    G : array_like, shape (R, R)
        Gram matrix of the other modes.
    squared_norm : float
        ``||X||^2``.
    squared_bound : float
        ``delta^2``, the largest squared error allowed.
    weights : array_like, shape (R,), optional
        Weights of the squared column norms, ones by default; the largest at most 1e8 times the
        smallest.
    current : array_like, shape (I_n, R), optional
        The present factor. Where the bound lies below the error that least squares can reach, its
        error is kept instead.

    Returns
    -------
    EPCUpdate
        ``factor``; ``tau``, infinity if even the zero factor obeys the bound; ``squared_error``.
        Columns that neither ``F`` nor ``G`` says anything about are zero.

    Raises
    ------
    TypeError, ValueError
        For arrays or numbers that are not finite and real or do not fit, a ``G`` that is not
        positive semidefinite up to the rounding of float32 (2**-18 per entry at unit diagonal),
        weights that are not positive, a factor that leaves float64, and for a bound below reach
        when no current factor is given.

    Notes
    -----
    Equations :eq:`epc-weighted`, :eq:`epc-secular`, :eq:`epc-bracket` and :eq:`epc-newton` [source:
    error-preserving correction of Phan et al.; ridge form derived]. Eigenvalues of the Gram matrix
    that are at the rounding level at unit diagonal are treated as zero.

    **Laws**

    - *bound*: the squared error equals the bound; if even the zero factor obeys it, that is
      returned
    - *reach*: for a bound below reach it equals the error of the current factor instead
    - *least*: no factor within the bound has a smaller weighted norm
    - *bracket*: ``tau`` lies in its bracket
    - *rank-one*: for rank one it is the least-squares factor times a number known in closed form
    - *bisection*: it equals bisection on rational numbers with plain loops
    - *spherical*: it equals the solution in the published spherical form :eq:`epc-spherical`
    - *weights*: a common factor of all weights changes ``tau`` only, up to rounding

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
    if current is not None:
        current = check_array(current, "current", ndim=2)
        if current.shape != F.shape:
            raise ValueError(f"current: expected shape {F.shape} to fit F, got {current.shape}")
    w = np.ones(len(G)) if weights is None else _check_weights(weights, len(G))
    largest = float(w.max())
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        found = epc_update_core(
            F, G, squared_norm, squared_bound, weights=w / largest, current=current
        )
    if not np.isfinite(found.factor).all() or not np.isfinite(found.squared_error):
        raise ValueError("F: expected a factor within float64, got infinity; rescale the data")
    return found._replace(tau=found.tau / largest)


def epc_update_core(
    F: Array,
    G: Array,
    squared_norm: float,
    squared_bound: float,
    *,
    weights: Array,
    current: Array | None,
) -> EPCUpdate:
    """Do what :func:`epc_update` does, without checks; the largest weight is about 1."""
    # U = F (G + tau W)^-1, W = diag(weights)  :eq:`epc-weighted`: with U W^(1/2) for U the weights
    # are ones
    root = np.sqrt(weights)  # (R,)
    current = None if current is None else current * root
    found = _update(F / root, G / root / root[:, None], squared_norm, squared_bound, current)
    return found._replace(factor=found.factor / root)  # (I_n, R)


def _update(
    F: Array, G: Array, squared_norm: float, squared_bound: float, current: Array | None
) -> EPCUpdate:
    """Find the least factor within the bound, all weights being ones."""
    sigma, V = spectrum(G)  # G = V diag(sigma) V^T, (R,) and (R, R)
    B = (F @ V) / np.sqrt(sigma)  # the least-squares factor in the metric of G
    b = (B**2).sum(axis=0)
    least = float(squared_norm - b.sum())
    room = squared_bound - least  # s of :eq:`epc-secular`
    if squared_bound >= squared_norm:
        return EPCUpdate(np.zeros_like(F), np.inf, squared_norm)
    if room <= 0 and current is not None:
        # The bound may lie below reach by rounding alone: then the current error is the bound.
        room = float((((current @ V) * np.sqrt(sigma) - B) ** 2).sum())
    elif room < 0:
        raise ValueError(
            f"squared_bound: expected at least {least} (what least squares leaves), got "
            f"{squared_bound}; raise it or pass the current factor"
        )
    tau = secular_root(b, sigma, room)
    if tau == np.inf:
        return EPCUpdate(np.zeros_like(F), tau, squared_norm)
    # U = F V diag(1 / (sigma + tau)) V^T  :eq:`epc-ridge`
    factor = (B * np.sqrt(sigma) / (sigma + tau)) @ V.T
    return EPCUpdate(factor, tau, least + float((b * (tau / (sigma + tau)) ** 2).sum()))


def sensitivity(cp: CP) -> float:
    """Return how strongly noise in the factors shows in the tensor.

    Parameters
    ----------
    cp : CP
        Factors of shapes (I_n, R).

    Returns
    -------
    float
        The expected squared change of the tensor when independent noise is added to every entry of
        the factors, over the variance of the noise, as that becomes small.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or float64 cannot hold the result.

    Notes
    -----
    Equation :eq:`epc-sensitivity` [source: Phan et al.; here for any number of modes, and without
    their division by the rank]. It depends on how the lengths of a component are spread over its
    columns; :eq:`epc-scaling` says what is best.

    **Laws**

    - *entries*: it is the sum of the squared changes that a change by one of each single entry
      makes
    - *mean*: it is the mean over random noise, to first order
    - *range*: it is what exact sums give, up to rounding, for entries of any magnitude
    - *scaling*: no scaling of the columns that keeps the tensor has less than :eq:`epc-scaling`

    Examples
    --------
    >>> from qcp_ref import CP, sensitivity
    >>> sensitivity(CP([[[3.0], [4.0]], [[1.0], [0.0], [0.0]]]))  # 2 * 1 + 3 * 25
    77.0
    """
    check_cp(cp, "cp")
    lengths = [column_norms(A) for A in cp.factors]
    gains = []
    for n, side in enumerate(cp.shape):
        others = [wide(cp.weights), *lengths[:n], *lengths[n + 1 :]]
        gain = reduce(times, [times(a, a) for a in others])
        gains.append(times(gain, wide(float(side))))
    return float(narrow(total(reduce(plus, gains)), "cp"))


def epc(
    X: ArrayLike,
    cp: CP,
    *,
    objective: str = "norm",
    slack: float = 0.0,
    max_sweeps: int = 500,
    tol: float = 1e-5,
    patience: int = 10,
    allowance: float = 0.0,
    max_rounds: int = 1,
    round_tol: float = 1e-4,
    ratio_tol: float = 1e-3,
    callback: Callback | None = None,
) -> EPCFit:
    """Shrink the components of a CP tensor without giving up its error.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The tensor that ``cp`` approximates.
    cp : CP
        The start, usually from :func:`qcp_ref.tensors.als.cp_als`.
    objective : {"norm", "sensitivity"}
        Minimise the squared component norms, or the :func:`sensitivity` of the factors.
    slack : float
        The error may grow to ``1 + slack`` times that of ``cp``; 0 keeps it, as the authors do.
    max_sweeps : int
        Upper limit of sweeps over all modes in one round.
    tol : float
        End the round when the objective has changed by at most this share of itself ...
    patience : int
        ... in this many sweeps in a row.
    allowance : float
        A relative error, below 1, that is permitted in any case. A fit that is exact has no room
        without it.
    max_rounds : int
        Upper limit of rounds. Each one goes on where the last one ended, at the same bound, and
        counts its sweeps anew. The authors' code takes 50.
    round_tol : float
        With several rounds: stop when the root of the objective has changed by at most this share
        of itself in a round ...
    ratio_tol : float
        ... or the largest component norm over the smallest by at most this much, in ``patience``
        rounds in a row.
    callback
        As in :func:`qcp_ref.tensors.als.cp_als`, with the norm ratio in place of the error.

    Returns
    -------
    EPCFit
        The corrected tensor, its error, the history, the reason for stopping. Its factors are
        balanced for the objective "norm", and for "sensitivity" scaled by :eq:`epc-scaling`.

    Raises
    ------
    TypeError, ValueError
        For unusable arrays or options, shapes that do not fit, and a slack or allowance that is
        negative or so large that the zero tensor would obey the bound.

    Notes
    -----
    Problem :eq:`epc-problem` or :eq:`epc-sensitivity-problem` by sweeps of :func:`epc_update`, in
    rounds that end by :eq:`epc-rounds` [source: error-preserving correction of Phan et al.;
    authors' code for the defaults of tolerances and ``patience`` and for the rounds]. A slack above
    0 is [beyond the paper]. A start that fits no better than zero ends as the zero tensor.

    **Laws**

    - *bound*: after every sweep the error is at most ``1 + slack`` times that of the start, or the
      allowance, or the rounding of summing the start's components, up to rounding
    - *descent*: the objective never rises by more than the root of the rounding level
    - *rounds*: rounds that no rule ends are one long run, bit for bit
    - *rule*: the rule named by ``stop_reason`` holds for the last round, of a single round for its
      last sweep, and for none before
    - *matrix*: of a matrix in effect no tensor within the bound has a smaller objective
      :eq:`epc-matrix`
    - *near-exact*: components that cancel without need shrink, however small the error is

    Examples
    --------
    >>> from qcp_ref import cp_als, epc, random_cp, reconstruct
    >>> X = reconstruct(random_cp((5, 5, 5), 6, rng=1))
    >>> fit = cp_als(X, 5, rng=2, max_sweeps=50)
    >>> ratio = epc(X, fit.cp).history.norm_ratio
    >>> bool(ratio[-1] <= ratio[0])
    True
    """
    X, callback = check_tensor(X), check_callback(callback)
    check_option(objective, "objective", OBJECTIVES)
    slack = check_real(slack, "slack", minimum=0.0)
    stop = _StopRules(
        check_count(max_sweeps, "max_sweeps"),
        check_real(tol, "tol", minimum=0.0),
        check_count(patience, "patience"),
        check_count(max_rounds, "max_rounds"),
        check_real(round_tol, "round_tol", minimum=0.0),
        check_real(ratio_tol, "ratio_tol", minimum=0.0),
    )
    allowance = check_real(allowance, "allowance", minimum=0.0)
    check_start(cp, X)
    error, squared_norm = relative_error_core(X, cp), float((X**2).sum())
    if squared_norm == 0:
        nothing = cp_of([np.zeros_like(A) for A in cp.factors])
        return EPCFit(nothing, 0.0, EPCHistory(*np.zeros((3, 1))), "zero tensor")
    _check_room(slack, error, allowance)
    noise = summing_noise(balance_core(cp.factors, cp.weights)) / float(np.sqrt(squared_norm))
    bound = max((1 + slack) * min(error, 1.0), noise, allowance)
    run = _Correction(X, cp, objective, bound**2 * squared_norm)
    reason = run.at_once(callback) if is_matrix(X.shape) else run.rounds(stop, callback)
    corrected = cp_of(_scaled(run.factors, run.weights, objective))
    history = EPCHistory(*map(np.array, zip(*run.rows, strict=True)))
    return EPCFit(corrected, relative_error_core(X, corrected), history, reason)


def _check_room(slack: float, error: float, allowance: float) -> None:
    if allowance >= 1:
        raise ValueError(
            f"allowance: expected less than 1, got {allowance:.3g}; "
            f"at this bound the zero tensor would do"
        )
    if slack and (1 + slack) * error >= 1:
        raise ValueError(
            f"slack: expected less than {1 / error - 1:.3g} for a fit of error {error:.3g}, "
            f"got {slack:.3g}; at this bound the zero tensor would do"
        )


class _StopRules(NamedTuple):
    """When a round ends, and when the rounds do."""

    max_sweeps: int
    tol: float
    patience: int
    max_rounds: int
    round_tol: float
    ratio_tol: float


class _Correction:
    """The sweeps at one bound: where they stand and what the history says."""

    def __init__(self, X: Array, cp: CP, objective: str, squared_bound: float) -> None:
        self.X, self.objective = X, objective
        self.begin(cp.factors, cp.weights)
        self.squared_norm, self.squared_bound = float((X**2).sum()), squared_bound
        self.rows: list[tuple[float, float, float]] = []
        self.measure()

    def begin(self, factors: Sequence[Array], weights: Array) -> None:
        """Take these components: columns of length 1, or the lengths of least sensitivity."""
        if self.objective == "norm":
            self.factors, self.weights = normalize_core(factors, weights)
        else:
            self.factors = _scaled(factors, weights, self.objective)
            self.weights = np.ones(len(weights))

    def measure(self) -> None:
        """Note component norms, sensitivity and the objective."""
        if self.objective == "norm":
            self.norms = np.abs(self.weights)
            squares = np.tile(self.norms ** (2 / self.X.ndim), (self.X.ndim, 1))  # once balanced
        else:
            squares = np.array([(A**2).sum(axis=0) for A in self.factors])
            self.norms = np.sqrt(squares.prod(axis=0))
        self.norm_sum = float((self.norms**2).sum())
        self.sensitivity = float(_noise_gain(squares, self.X.shape).sum())
        self.total = self.norm_sum if self.objective == "norm" else self.sensitivity

    def rounds(self, stop: _StopRules, callback: Callback | None) -> str:
        """Go on for one or more rounds; return the reason why they ended."""
        calm, reason = 0, ""
        for _ in range(stop.max_rounds):
            root, ratio = np.sqrt(self.total), self.ratio()
            reason = self.round(stop, callback)
            if reason == "callback" or stop.max_rounds == 1:
                return reason
            if abs(root - np.sqrt(self.total)) <= stop.round_tol * root:
                return "round_tol"
            calm = calm + 1 if abs(ratio - self.ratio()) <= stop.ratio_tol else 0
            if calm >= stop.patience:
                return "ratio_tol"
        return "max_rounds"

    def round(self, stop: _StopRules, callback: Callback | None) -> str:
        """Sweep until one of the rules of a single round holds; return its name."""
        calm = 0
        for _ in range(stop.max_sweeps):
            before = self.total
            self.sweep()
            calm = calm + 1 if abs(before - self.total) <= stop.tol * before else 0
            if callback is not None and callback(len(self.rows) - 1, self.rows[-1][1]):
                return "callback"
            if calm >= stop.patience:
                return "converged"
        return "max_sweeps"

    def at_once(self, callback: Callback | None) -> str:
        """Take the solution for a matrix in effect; it counts as one sweep."""
        if self.squared_bound < self.squared_norm:
            bound = float(np.sqrt(self.squared_bound))
            factors = list(least_components(self.X, len(self.weights), bound).factors)
        else:
            factors = [np.zeros_like(A) for A in self.factors]
        self.begin(factors, np.ones(len(self.weights)))
        self.note(relative_difference(self.X, reconstruct_core(self.factors, self.weights)))
        if callback is not None and callback(0, self.rows[-1][1]):
            return "callback"
        return "closed form"

    def is_sharp(self) -> bool:
        """Say whether an error at the bound would drown in the rounding of the normal equations."""
        summed = np.sqrt(self.squared_norm) + self.norms.sum()
        return bool(np.sqrt(self.squared_bound) < _SHARP * summed)

    def sweep(self) -> None:
        """Update each mode once and add a row to the history."""
        step = self.shrink if self.objective == "norm" else self.desensitize
        if self.is_sharp():
            for mode in range(self.X.ndim):
                U = step(mode, None)
            dense = reconstruct_core([*self.factors[:-1], U])
            self.note(relative_difference(self.X, dense))
            return
        for mode, F, G in normal_sweep(self.X, self.factors):
            U = step(mode, (F, G))
        size = float(np.sqrt(self.squared_norm))
        self.note(fit_error(self.X, size, [*self.factors[:-1], U], F, G)[0])

    def note(self, error: float) -> None:
        """Spread the lengths, measure, and add a row to the history."""
        if self.objective == "sensitivity":
            self.factors = _scaled(self.factors, None, self.objective)
        self.measure()
        self.rows.append((error, self.norm_sum / self.squared_norm, self.sensitivity))

    def shrink(self, mode: int, normal: tuple[Array, Array] | None) -> Array:
        """Minimise the component norms; all columns stay of unit length."""
        current = self.factors[mode] * self.weights
        U = self.update(mode, current, np.ones(len(self.weights)), normal)
        self.weights = np.linalg.norm(U, axis=0)
        # A component that has vanished keeps its direction: unit columns keep G well defined.
        alive = self.weights > 0
        unit = U / np.where(alive, self.weights, 1.0)
        self.factors[mode] = np.where(alive, unit, self.factors[mode])
        return U

    def desensitize(self, mode: int, normal: tuple[Array, Array] | None) -> Array:
        """Minimise the sensitivity; the columns keep their lengths until the sweep is over."""
        others = [n for n in range(self.X.ndim) if n != mode]
        squares = np.array([(self.factors[n] ** 2).sum(axis=0) for n in others])
        omega = _noise_gain(squares, [self.X.shape[n] for n in others])
        omega = np.where(omega > 0, omega, 1.0)  # of a dead component: any will do
        self.factors[mode] = self.update(mode, self.factors[mode], omega, normal)
        return self.factors[mode]

    def update(
        self, mode: int, current: Array, omega: Array, normal: tuple[Array, Array] | None
    ) -> Array:
        """Update a factor by its normal equations, or without them; weigh columns by ``omega``."""
        if normal is None:
            others = khatri_rao_of_any([A for n, A in enumerate(self.factors) if n != mode])
            Y, root = unfold_core(self.X, mode), np.sqrt(omega)
            return _sharp_update(Y, others / root, current * root, self.squared_bound) / root
        bounds = self.squared_norm, self.squared_bound
        return epc_update_core(*normal, *bounds, weights=omega, current=current).factor

    def ratio(self) -> float:
        """Largest over smallest component norm, of those above the rounding level."""
        alive = self.norms[self.norms > np.finfo(np.float64).eps * self.norms.max()]
        return float(alive.max() / alive.min()) if alive.size else 1.0


def _scaled(factors: Sequence[Array], weights: Array | None, objective: str) -> list[Array]:
    """Balance, or spread the lengths so that the sensitivity is least."""
    balanced = balance_core(factors, weights)
    if objective == "norm":
        return balanced
    # ||A_n[:, r]||^2 = I_n / (product of I_m)^(1/d) times the balanced one  :eq:`epc-scaling`
    shape = [len(A) for A in factors]
    mean = float(np.prod(shape)) ** (1 / len(shape))
    return [A * np.sqrt(side / mean) for A, side in zip(balanced, shape, strict=True)]


def _noise_gain(squares: Array, sides: Sequence[int]) -> Array:
    """Sensitivity of each component, from the squared norms of its columns, one row per mode.

    Of the modes without one, it is the weight :eq:`epc-sensitivity-weights` of that mode's column.
    """
    # sum_n I_n product over m != n of ||A_m[:, r]||^2  :eq:`epc-sensitivity`
    others = [np.delete(squares, n, axis=0).prod(axis=0) for n in range(len(sides))]
    return np.asarray(np.asarray(sides, dtype=np.float64) @ np.array(others))


def _check_weights(weights: ArrayLike, rank: int) -> Array:
    array = check_array(weights, "weights", ndim=1)
    if array.shape != (rank,):
        raise ValueError(f"weights: expected shape {(rank,)} (the rank of F), got {array.shape}")
    low, high = float(array.min()), float(array.max())
    if low <= 0 or high > _SPREAD * low:
        raise ValueError(
            f"weights: expected positive numbers, the largest at most {_SPREAD:.0e} times the "
            f"smallest, got {low:.3g} to {high:.3g}"
        )
    return array


def _sharp_update(Y: Array, K: Array, U: Array, squared_bound: float) -> Array:
    """Update by the residual, so that nothing large is squared and cancels.

    ``Y`` is the unfolding that ``U @ K.T`` approximates.
    """
    Q, T = np.linalg.qr(K)
    W, roots, Vt = np.linalg.svd(T, full_matrices=False)
    alive = roots > len(roots) * np.finfo(np.float64).eps * roots[0]
    roots, V, P = roots[alive], Vt[alive].T, Q @ W[:, alive]
    # E = Y - U K^T, B = U V diag(rho) + E P, s = delta^2 - ||E - E P P^T||^2, K = P diag(rho) V^T
    # :eq:`epc-residual`
    residual = Y - U @ K.T
    part = residual @ P  # what least squares would take away
    room = squared_bound - float(((residual - part @ P.T) ** 2).sum())
    if room <= 0:  # the bound is below reach, by rounding: then the present error is kept
        room = float((part**2).sum())
    B = U @ V * roots + part
    tau = secular_root((B**2).sum(axis=0), roots**2, room)
    found = np.zeros_like(U) if tau == np.inf else (B * roots / (roots**2 + tau)) @ V.T
    # If U exceeds the bound by rounding alone and the way back costs norm, U stays.
    noise = len(K.T) * np.finfo(np.float64).eps * np.linalg.norm(np.abs(U) @ np.abs(K.T))
    near = np.linalg.norm(residual) <= np.sqrt(squared_bound) + noise
    return U if near and np.linalg.norm(found) > np.linalg.norm(U) else found
