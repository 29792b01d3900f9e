r"""How does ADMM put one factor on a grid?

One factor ``H`` shall minimise the fit error and lie in a set that is easy to project on, here the
multiples of a step. ADMM splits the two wishes: ``T`` is the least-squares factor pulled towards
the set, ``H`` the projection of ``T - U``, and the scaled dual ``U`` adds up by how much the two
disagree (:eq:`admm-t` to :eq:`admm-u`, in the letters and signs of the authors' code). The set
enters only through a callable ``project``: nothing here knows what a grid is.

What goes in is formed elsewhere. The MTTKRP ``F`` and the Gram matrix ``G`` of a mode come from
``normal_sweep`` of :mod:`qcp_ref.tensors.sweep`. The projection on a grid, P_S, is
:func:`~qcp_ref.grids.scale.project_core`, which also chooses the scale of the grid. The next
chapter, :mod:`qcp_ref.factors.ao_admm`, hands them to :func:`admm_core` and says when a scale is
kept.

For a convex set this converges to the constrained optimum. A grid is not convex: the iteration need
not converge, may cycle, and its error goes up and down. What is certain is that ``H`` always lies
in the set.

On one page (``qcp_ref/minimal.py``) this is ``admm_step``. What breaks there: each step solves from
the start, and nothing says when to stop.

Simplified: the weight ``rho`` is fixed by :eq:`admm-rho`; no over-relaxation, no adaptive weight.

Checked by tests/factors/test_admm.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import Array, check_array, check_callback, check_count, check_gram, check_real
from qcp_ref._door import as_array
from qcp_ref._results import frozen

__all__ = ["ADMMResult", "admm"]


@frozen
class ADMMResult(NamedTuple):
    """Result of :func:`admm`.

    ``factor`` is the feasible iterate ``H``, ``least_squares`` the iterate ``T``, ``dual`` the
    scaled dual ``U`` for a warm start; ``primal`` and ``change`` hold the two squared relative
    residuals of every step, ``stop_reason`` is "converged" or "max_steps".
    """

    factor: Array
    least_squares: Array
    dual: Array
    primal: Array
    change: Array
    stop_reason: str


def admm(
    F: ArrayLike,
    G: ArrayLike,
    project: Callable[[Array], Array],
    *,
    start: ArrayLike,
    dual: ArrayLike | None = None,
    max_steps: int = 30,
    tol: float = 1e-8,
) -> ADMMResult:
    """Minimise the fit error of one factor over a set given by its projection.

    Parameters
    ----------
    F : array_like, shape (I_n, R)
        MTTKRP of the mode.
    G : array_like, shape (R, R)
        Gram matrix of the other modes, positive semidefinite up to the rounding of float32.
    project : callable
        Maps an (I_n, R) array to the nearest point of the set; called once a step.
    start : array_like, shape (I_n, R)
        First ``H``; need not lie in the set.
    dual : array_like, shape (I_n, R), optional
        First ``U``, from an earlier run; zeros by default.
    max_steps : int
        Upper limit of steps.
    tol : float
        Both squared relative residuals have to fall below it.

    Returns
    -------
    ADMMResult
        The feasible factor, the other iterates, the residuals and the reason for stopping.

    Raises
    ------
    TypeError, ValueError
        For arrays that are not finite and real or do not fit, unusable limits, or a projection that
        returns another shape or numbers that are not finite.

    Notes
    -----
    Problem :eq:`admm-problem`, equations :eq:`admm-rho` to :eq:`admm-stop` [authors' code; source:
    Huang, Sidiropoulos and Liavas 2016]. With this ``rho`` the system's condition number is at most
    ``R + 1``, so it is inverted once.

    **Laws**

    - *last*: the factor is always what the projection returned last
    - *identity*: with the identity as projection it converges to the least-squares factor
    - *convex*: with a convex set it converges to the constrained optimum
    - *fixed*: a least-squares factor that lies in the set is a fixed point, with a dual of zero
    - *residuals*: the residuals are those of the iterates
    - *steps*: it makes the same steps as plain loops on rational numbers

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import admm
    >>> found = admm([[2.2, -0.7]], np.eye(2), np.rint, start=[[0, 0]])
    >>> found.factor
    array([[ 2., -1.]])
    """
    F, H = check_array(F, "F", ndim=2), check_array(start, "start")
    U = np.zeros_like(F) if dual is None else check_array(dual, "dual")
    rank = F.shape[1]
    G = check_gram(G, rank)
    for name, array in (("start", H), ("dual", U)):
        if array.shape != F.shape:
            raise ValueError(f"{name}: expected shape {F.shape} to fit F, got {array.shape}")
    max_steps = check_count(max_steps, "max_steps")
    tol = check_real(tol, "tol", minimum=0.0)

    if check_callback(project, "project") is None:
        raise TypeError("project: expected a function, got None; it rounds to the grid")
    nearest = _checked(project, F.shape)
    found = admm_core(F, G, nearest, H, U, max_steps=max_steps, tol=tol)
    if any(np.isnan(part).any() for part in found[:5]):
        raise ValueError(
            "F, start, dual: expected magnitudes whose squares float64 can hold, got larger ones; "
            "rescale the data"
        )
    return found


def admm_core(
    F: Array,
    G: Array,
    project: Callable[[Array], Array],
    H: Array,
    U: Array,
    *,
    max_steps: int,
    tol: float,
) -> ADMMResult:
    """Make the steps of :func:`admm`, without checks; ``project`` returns finite float64.

    ``F``, ``H`` and ``U`` have shape (I_n, R), ``G`` has shape (R, R).
    """
    rank = len(G)
    # rho = tr(G) / R  :eq:`admm-rho`; without other factors any weight gives the projection
    rho = float(np.trace(G)) / rank or 1.0
    inverse = _inverse(G + rho * np.eye(rank))  # (R, R)
    primal, change = [], []
    reason = "max_steps"
    for _ in range(max_steps):
        # T = (F + rho (H + U)) (G + rho I)^-1  :eq:`admm-t`
        T = (F + rho * (H + U)) @ inverse  # (I_n, R)
        # H = P_S(T - U)  :eq:`admm-h`
        previous, H = H, project(T - U)  # (I_n, R)
        # U <- U + H - T  :eq:`admm-u`
        gap = H - T
        U = U + gap  # (I_n, R)
        # |H - T|^2 / |H|^2 < tol and |H - H_0|^2 / |U|^2 < tol  :eq:`admm-stop`
        primal.append(_ratio(gap, H))
        change.append(_ratio(H - previous, U))
        if primal[-1] < tol and change[-1] < tol:
            reason = "converged"
            break
    return ADMMResult(H, T, U, np.array(primal), np.array(change), reason)


def _inverse(system: Array) -> Array:
    """Invert the system G + rho I, which is symmetric.

    With the weight of :eq:`admm-rho` its diagonal entries differ by a factor of at most R + 1,
    however different the columns are, and if ``G`` is semidefinite it is regular. What float32
    leaves of a semidefinite matrix of hundreds of columns need not be: then without a null space.
    """
    try:
        return np.asarray(np.linalg.inv(system), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(system, hermitian=True))


def _checked(project: Callable[[Array], Any], shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Return the projection of a user, whose results are refused unless they are usable."""

    def checked(V: Array) -> Array:
        H = project(V)
        if type(H) is not np.ndarray or H.dtype != np.float64:
            H = as_array(H, "project").astype(np.float64, copy=False)
        if H.shape != shape or not np.isfinite(H).all():
            raise ValueError(
                f"project: expected a finite array of shape {shape}, got shape {H.shape}; "
                "check the callable"
            )
        return np.asarray(H)

    return checked


def _ratio(numerator: Array, denominator: Array) -> float:
    """Squared norms' ratio; 0/0 is 0."""
    top, bottom = (float(np.vdot(A, A)) for A in (numerator, denominator))
    if bottom == 0:
        return 0.0 if top == 0 else float("inf")
    return top / bottom
