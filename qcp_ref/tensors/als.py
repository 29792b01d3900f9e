r"""How is a CP tensor fitted? Alternating least squares.

With all factors but one fixed, the best remaining factor solves a linear least-squares problem
whose normal equations :eq:`als-normal` contain only the MTTKRP ``F`` and the Gram matrix ``G``.
:func:`als_update` solves one of them exactly, :func:`cp_als` goes through the modes again and
again. The error is known after each sweep without forming the fitted tensor :eq:`als-error`, down
to a floor :eq:`als-floor` that is reported with it; below it the difference itself is formed.

ALS never raises the error, and that is all it promises: it finds different fits from different
starts, may need many sweeps for next to nothing (a swamp), and its components grow without end
where no best approximation exists. The result says so (``stop_reason``, ``degeneracy``, how often
the Gram matrix was singular).

On one page (``qcp_ref/minimal.py``) this is ``als_update`` and ``cp_als``. What breaks there: a
singular Gram matrix, which comes as soon as the rank exceeds what the other factors span, ends the
run.

Simplified: no line search or other acceleration, no regularisation, no missing entries.

Checked by tests/tensors/test_als.py.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import (
    Array,
    Rng,
    check_array,
    check_callback,
    check_count,
    check_gram,
    check_option,
    check_rank,
    check_real,
    check_rng,
    check_tensor,
)
from qcp_ref._results import frozen
from qcp_ref.tensors.cp import (
    CP,
    Degeneracy,
    balance,
    balance_core,
    check_start,
    cp_of,
    degeneracy,
    random_cp,
)
from qcp_ref.tensors.svd import is_matrix, svd_cp
from qcp_ref.tensors.sweep import Callback, dense_error, fit_error, normal_sweep
from qcp_ref.tensors.tensor import unfold_core

__all__ = ["ALSUpdate", "CPFit", "FitHistory", "als_update", "cp_als"]

STOP_RULES = ("error-change", "relative-change", "error-below", "none")
STARTS = ("random", "svd")
_SAFE_PIVOT = 1e-4  # of the Cholesky factor: below, eigenvalues decide whether G is singular
_BLOCK = 48  # columns that one step of a substitution solves


@frozen
class ALSUpdate(NamedTuple):
    """Result of :func:`als_update`: the factor, and whether the Gram matrix was singular."""

    factor: Array
    singular: bool


@frozen
class FitHistory(NamedTuple):
    """What happened, sweep by sweep.

    ``error`` is the relative error after each sweep, ``floor`` the size below which its digits mean
    nothing, ``singular`` the number of mode updates with a singular Gram matrix.
    """

    error: Array
    floor: Array
    singular: Array


@frozen
class CPFit(NamedTuple):
    """Result of :func:`cp_als`.

    ``cp`` is the fit with balanced factors, ``error`` its relative error, ``stop_reason`` one of
    "converged", "max_sweeps", "callback" and "zero tensor"; where a method takes the truncated SVD
    of a matrix instead, "svd".
    """

    cp: CP
    error: float
    history: FitHistory
    stop_reason: str
    degeneracy: Degeneracy


def als_update(F: ArrayLike, G: ArrayLike) -> ALSUpdate:
    """Solve the normal equations of one factor.

    Parameters
    ----------
    F : array_like, shape (I_n, R)
        MTTKRP of the mode.
    G : array_like, shape (R, R)
        Gram matrix of the other modes.

    Returns
    -------
    ALSUpdate
        ``factor``, shape (I_n, R): the least-squares factor; where it is not unique, the one whose
        components have the least norms; ``singular``: whether that was the case.

    Raises
    ------
    TypeError, ValueError
        If the matrices are not finite and real, their shapes do not fit, ``G`` is not positive
        semidefinite up to the rounding of float32 (2**-18 per entry at unit diagonal), or numbers
        are so large or small that the factor leaves float64.

    Notes
    -----
    Equations :eq:`als-normal` and :eq:`als-minimum`. ``G``, scaled to unit diagonal, counts as
    singular when an eigenvalue falls to the rounding level; such eigenvalues are treated as zero.

    **Laws**

    - *normal*: the factor satisfies the normal equations
    - *elimination*: for a regular ``G`` it equals exact elimination on rational numbers, within
      the condition's bound
    - *least*: for a singular ``G`` no other solution has a smaller sum of squared component norms

    Examples
    --------
    >>> from qcp_ref import als_update
    >>> als_update([[2, 6]], [[2, 0], [0, 3]]).factor
    array([[1., 2.]])
    >>> als_update([[2, 2]], [[1, 1], [1, 1]])
    ALSUpdate(factor=array([[1., 1.]]), singular=True)
    """
    F = check_array(F, "F", ndim=2)
    factor, singular = als_update_core(F, check_gram(G, F.shape[1]))
    if not np.isfinite(factor).all():
        raise ValueError("F: expected a factor within float64, got infinity; rescale the data")
    return ALSUpdate(factor, singular)


def als_update_core(F: Array, G: Array) -> tuple[Array, bool]:
    """Do what :func:`als_update` does, without checks; return factor and ``singular``.

    By Cholesky, or, where that is not safe, by eigenvalues at unit diagonal.
    """
    # Columns of very different length are no singularity: pivots are judged at unit diagonal.
    d = np.sqrt(np.diag(G))
    try:
        # A G = F with G = L L^T  :eq:`als-normal`
        L = np.asarray(np.linalg.cholesky(G), dtype=np.float64)
        if (np.diag(L) > _SAFE_PIVOT * d).all():
            return _substitute(L, F), False  # (I_n, R)
    except np.linalg.LinAlgError:
        pass
    # A = F D^-1 (D^-1 G D^-1)^+ D^-1 with D^2 = diag(G)  :eq:`als-minimum`
    D = np.where(d > 0, d, 1.0)
    values, V = np.linalg.eigh(G / D / D[:, None])
    alive = values > 10 * len(G) * np.finfo(np.float64).eps * values[-1]
    factor = (F / D @ V[:, alive]) / values[alive] @ V[:, alive].T / D
    return factor * (d > 0), not alive.all()


# Not np.linalg.solve: its pivots depend on the lengths of the columns, which costs it one or two
# digits where they are 2**100 apart. At unit diagonal it is as accurate, but no shorter beside the
# Cholesky factor that judges G, and its other last digits become other codes in all methods.
def _substitute(L: Array, F: Array) -> Array:
    """Solve ``Y L L.T = F`` by blocks of columns, so that nearly all of it is large products."""
    Y = np.empty_like(F)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(L), _BLOCK)]
    inverses = [np.linalg.inv(L[own, own].T) for own in blocks]
    for own, inverse in zip(blocks, inverses, strict=True):
        done = slice(0, own.start)
        Y[:, own] = (F[:, own] - Y[:, done] @ L[own, done].T) @ inverse
    for own, inverse in zip(blocks[::-1], inverses[::-1], strict=True):
        done = slice(own.stop, None)
        Y[:, own] = (Y[:, own] - Y[:, done] @ L[done, own]) @ inverse.T
    return Y


def cp_als(
    X: ArrayLike,
    rank: int,
    *,
    init: str | CP = "random",
    rng: Rng = 0,
    max_sweeps: int = 200,
    stop: str = "error-change",
    tol: float = 1e-8,
    callback: Callback | None = None,
) -> CPFit:
    """Fit a CP tensor by alternating least squares.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        Tensor with at least two modes.
    rank : int
        Number of components, at least 1; it may exceed the sides of the tensor.
    init : {"random", "svd"} or CP
        Start: normal factors, leading singular vectors of the unfoldings (filled up with normal
        columns where the rank exceeds them), or a given CP tensor. Of a matrix in effect "svd" is
        the best fit already, :func:`qcp_ref.tensors.svd.svd_cp`.
    rng : int or numpy.random.Generator
        Source of randomness of the start.
    max_sweeps : int
        Upper limit of sweeps over all modes.
    stop : {"error-change", "relative-change", "error-below", "none"}
        Stop when the relative error changed by less than ``tol`` in a sweep, or by less than
        ``tol`` times itself, or is below ``tol``, or never before ``max_sweeps``.
    tol : float
        Threshold of the stop rule, at least 0.
    callback : callable, optional
        Called as ``callback(sweep, error)`` after each sweep; a true result stops the run.

    Returns
    -------
    CPFit
        The fit, its error, the history and the reason for stopping. A zero tensor gives zero
        factors.

    Raises
    ------
    TypeError, ValueError
        For unusable arrays, ranks, options or seeds, or a start of another shape or rank or far
        from the tensor in magnitude.

    Notes
    -----
    Equations :eq:`als-normal` and :eq:`als-error`; one sweep takes two large products
    :eq:`tensor-sweep`. Factors are balanced after each sweep, which changes no fitted tensor.

    **Laws**

    - *descent*: the error never rises by more than some ten times its floor, or the root of the
      rounding level where Gram matrices are ill-conditioned
    - *dense*: the reported error is that of the dense difference, up to its floor
    - *loops*: where no Gram matrix is singular, the same sweep written with plain loops gives the
      same tensor
    - *fixed*: a tensor of exactly that rank stays fitted when started at its factors, up to the
      root of the rounding level
    - *seed*: the same seed gives the same fit, bit for bit

    Examples
    --------
    >>> from qcp_ref import cp_als, random_cp, reconstruct
    >>> X = reconstruct(random_cp((6, 5, 4), 2, rng=1))
    >>> min(cp_als(X, 2, rng=seed).error for seed in range(3)) < 1e-6
    True
    """
    X = check_tensor(X)
    rank, callback = check_rank(rank), check_callback(callback)
    max_sweeps = check_count(max_sweeps, "max_sweeps")
    check_option(stop, "stop", STOP_RULES)
    tol = check_real(tol, "tol", minimum=0.0)
    factors = list(initial_factors(X, rank, init, check_rng(rng, "cp_als")).factors)
    size = float(np.linalg.norm(X))
    if size == 0:
        nothing = cp_of([np.zeros_like(A) for A in factors])
        return CPFit(nothing, 0.0, _history([(0.0, 0.0, 0)]), "zero tensor", degeneracy(nothing))
    rows: list[tuple[float, ...]] = []
    reason = "max_sweeps"
    for sweep in range(max_sweeps):
        factors, row = _sweep(X, factors, size)
        rows.append(row)
        previous = rows[-2][0] if sweep else np.inf
        if callback is not None and callback(sweep, row[0]):
            reason = "callback"
        elif _converged(stop, tol, previous, row[0]):
            reason = "converged"
        if reason != "max_sweeps":
            break
    cp = cp_of(factors)
    return CPFit(cp, rows[-1][0], _history(rows), reason, degeneracy(cp, norm_X=size))


def float_fit(
    X: Array, rank: int, *, rng: Rng, max_sweeps: int = 200, callback: Callback | None = None
) -> CPFit:
    """Fit before quantization: a matrix in effect by its SVD, other tensors by :func:`cp_als`.

    The SVD is one sweep to the callback. It takes no randomness, so all seeds give the same fit.
    """
    if not is_matrix(X.shape) or not X.any():
        return cp_als(X, rank, rng=rng, max_sweeps=max_sweeps, callback=callback)
    check_rng(rng, "cp_als")
    cp, size = svd_cp(X, rank), float(np.linalg.norm(X))
    error, floor = dense_error(X, size, cp.factors)
    if callback is not None:
        callback(0, error)
    return CPFit(cp, error, _history([(error, floor, 0)]), "svd", degeneracy(cp, norm_X=size))


def _sweep(X: Array, factors: list[Array], size: float) -> tuple[list[Array], tuple[float, ...]]:
    """Update every mode once; return the balanced factors and the history row."""
    factors, singular = list(factors), 0
    for mode, F, G in normal_sweep(X, factors):
        factors[mode], flat = als_update_core(F, G)
        singular += flat
    error, floor = fit_error(X, size, factors, F, G)
    return balance_core(factors), (error, floor, singular)


def _converged(stop: str, tol: float, previous: float, error: float) -> bool:
    change = abs(previous - error)
    if stop == "error-change":
        return change < tol
    if stop == "relative-change":
        return change < tol * error or error == 0
    return stop == "error-below" and error < tol


def _history(rows: list[tuple[float, ...]]) -> FitHistory:
    error, floor, singular = zip(*rows, strict=True)
    return FitHistory(np.array(error), np.array(floor), np.array(singular))


def initial_factors(X: Array, rank: int, init: str | CP, rng: "np.random.Generator") -> CP:
    """Return the start as a balanced CP tensor in float64."""
    if isinstance(init, CP):
        if init.shape != X.shape or init.rank != rank:
            raise ValueError(
                f"init: expected shape {X.shape} and rank {rank}, got {init.shape} and {init.rank}"
            )
        check_start(init, X, "init")
        return balance(init)
    if check_option(init, "init", STARTS) == "random":
        return balance(random_cp(X.shape, rank, rng=rng))
    if is_matrix(X.shape):
        return svd_cp(X, rank)
    factors = []
    for mode, side in enumerate(X.shape):
        U = _left_singular_vectors(unfold_core(X, mode), rank)
        filler = rng.standard_normal((side, rank - U.shape[1])) / np.sqrt(side)
        factors.append(np.hstack([U, filler]))
    return cp_of(factors)


def _left_singular_vectors(M: Array, count: int) -> Array:
    """Leading left singular vectors by the smaller of the two Gram matrices.

    A start needs no accuracy beyond the leading directions, and the wide factor of a thin SVD of a
    large kernel's unfolding would take more memory than the kernel.
    """
    rows, columns = M.shape
    if rows <= columns:
        return np.asarray(np.linalg.eigh(M @ M.T)[1][:, ::-1][:, :count])
    V = np.linalg.eigh(M.T @ M)[1][:, ::-1][:, :count]
    U = M @ V
    lengths = np.linalg.norm(U, axis=0)
    return np.asarray(U / np.where(lengths > 0, lengths, 1.0))
