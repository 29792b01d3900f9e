r"""How are all factors put on grids? AO-ADMM, the recipe of the paper.

Alternating optimisation goes through the modes; each factor is put on its grid by ADMM while the
others are fixed :eq:`qcp-problem`. The grids are not given: their scales are chosen by the
projection itself, :func:`~qcp_ref.grids.scale.project_core`, anew at every step, once a sweep, or
never (the refit policy). Duals survive from sweep to sweep.

The method of the authors' code is least squares, error-preserving correction, AO-ADMM. Its error
is not monotone; the best iterate is what comes back.

On one page (``qcp_ref/minimal.py``) this is ``ao_admm``. What breaks there: the scale is chosen
anew in each step, whatever that costs, and a run that cycles goes on to its last sweep.

Simplified: one weight rule, no proximal term between sweeps.

Checked by tests/factors/test_ao_admm.py.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    Rng,
    check_callback,
    check_count,
    check_option,
    check_rank,
    check_real,
    check_rng,
    check_tensor,
)
from qcp_ref.factors.admm import admm_core
from qcp_ref.factors.epc import epc
from qcp_ref.factors.quantized import (
    QuantizedFit,
    history_of,
    quantize_cp,
    quantized_of,
    refuse_zero_points,
)
from qcp_ref.grids.grid import Grid, plain_zero
from qcp_ref.grids.scale import check_data, project_core
from qcp_ref.tensors.als import STARTS, float_fit, initial_factors
from qcp_ref.tensors.cp import CP, balance, check_start, cp_of, relative_error_core
from qcp_ref.tensors.sweep import Callback, fit_error, normal_sweep

__all__ = ["ao_admm"]

REFITS = ("step", "sweep", "frozen")
RECIPES = ("book", "authors")
_LONGEST_CYCLE = 8
# Give up when the error rose by this much against so many sweeps earlier.
_RISE, _RISE_SWEEPS = 1e-3, 4
# The authors' code does so once its history, the start's error first, has more than ten entries.
_LONG_HISTORY, _MATRIX_RISE_SWEEPS = 10, 9


def ao_admm(
    X: ArrayLike,
    rank: int,
    grid: Grid,
    *,
    start: str | CP = "epc",
    rng: Rng = 0,
    refit: str = "step",
    axis: int | None = None,
    rule: str = "mse-exact",
    max_sweeps: int = 25,
    max_steps: int = 30,
    tol: float = 1e-5,
    inner_tol: float = 1e-8,
    recipe: str = "book",
    callback: Callback | None = None,
) -> QuantizedFit:
    """Find CP factors on grids by alternating ADMM.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        Tensor with at least two modes.
    rank : int
        Number of components, at least 1.
    grid : Grid
        The grid of all factors.
    start : {"epc", "als", "random", "svd"} or CP
        Float factors to start from: a least-squares fit, with or without correction, one without
        any fitting, or a given CP tensor.
    rng : int or numpy.random.Generator
        Source of randomness of the start.
    refit : {"step", "sweep", "frozen"}
        When scales are chosen anew: at every projection, at the first of each sweep, or only for
        the start.
    axis : {None, 0, 1}
        One scale per factor, per row or per column.
    rule : str
        How scales are chosen, see :func:`qcp_ref.grids.scale.choose_scale`.
    max_sweeps, max_steps : int
        Upper limits of sweeps over all modes, and of ADMM steps per mode and sweep.
    tol : float
        Stop when the error changed by less than this in a sweep.
    inner_tol : float
        Threshold of the squared residuals of ADMM.
    recipe : {"book", "authors"}
        How the loop goes about it: a start is balanced, a run ends early where it rises or cycles,
        and its best sweep is returned; or as in the authors' code, see Notes.
    callback : callable, optional
        Called as ``callback(sweep, error)`` after each sweep; a true result stops the run.

    Returns
    -------
    QuantizedFit
        The best iterate, its error, the history, and the reason for stopping: besides the limits
        "rising" (the error rose against a few sweeps earlier) and "cycle" (the codes repeat).

    Raises
    ------
    TypeError, ValueError
        For unusable arrays, ranks, options or seeds, or a start of another shape or rank.

    Notes
    -----
    Problem :eq:`qcp-problem` by :eq:`admm-t` to :eq:`admm-u` per mode [authors' code; the cap on
    sweeps and steps, best iterate and cycle detection are ours].

    With ``recipe="authors"`` factors of the start are used as they are and their weights dropped;
    the history by which a run stops begins with the error of the start; a rise counts only
    when it has more than ten entries, and for matrices against nine sweeps earlier; cycles do not
    end a run; and the last sweep is returned, of a matrix after such a stop the one before it
    [authors' code; compared with a run of it, iterate by iterate].

    **Laws**

    - *grid*: the result lies on the grid that was asked for
    - *error*: its error is that of the dense difference
    - *best*: no sweep had a smaller error than the result, but for rounding; by the book's recipe
    - *loops*: the first sweep with frozen scales equals plain loops on rational numbers, code by
      code, up to ties that rounding decides
    - *seed*: the same seed gives the same codes

    Examples
    --------
    >>> from qcp_ref import Grid, ao_admm, random_cp, reconstruct
    >>> X = reconstruct(random_cp((6, 5, 4), 2, rng=1))
    >>> fit = ao_admm(X, 2, Grid(6), rng=2)
    >>> fit.error < 0.1, fit.cp.codes[0].dtype.name
    (True, 'int8')
    """
    X = check_tensor(X)
    rank, callback = check_rank(rank), check_callback(callback)
    check_option(refit, "refit", REFITS)
    check_rng(rng, "ao_admm")  # also where the start is given and nothing is drawn
    max_sweeps = check_count(max_sweeps, "max_sweeps")
    max_steps = check_count(max_steps, "max_steps")
    tol = check_real(tol, "tol", minimum=0.0)
    inner_tol = check_real(inner_tol, "inner_tol", minimum=0.0)
    check_option(recipe, "recipe", RECIPES)
    refuse_zero_points(rule)
    check_data(np.ones((1, 1)), grid, rule=rule, axis=axis)  # refuse bad options before fitting
    state = _State(X, _start(X, rank, start, rng), _Scaling(grid, axis, rule, refit), recipe)
    if not X.any():
        return state.fit("zero tensor")
    reason = "max_sweeps"
    for sweep in range(max_sweeps):
        error = state.sweep(max_steps, inner_tol)
        reason = state.stop(tol) or reason
        if callback is not None and callback(sweep, error):
            reason = "callback"
        if reason != "max_sweeps":
            break
    return state.fit(reason)


class _Scaling(NamedTuple):
    """The grid of all factors, and how and when their scales are chosen."""

    grid: Grid
    axis: int | None
    rule: str
    refit: str


class _Projection:
    """Projection on the grids of one factor; the refit policy decides which of them."""

    stale = False  # whether the scale has to be chosen anew; each sweep says so

    def __init__(self, codes: NDArray[Any], scale: Array, scaling: _Scaling) -> None:
        self.codes, self.scale, self.scaling = codes, scale, scaling

    def __call__(self, V: Array) -> Array:
        grid, axis, rule, refit = self.scaling
        chosen_anew = self.stale or refit == "step"
        known = None if chosen_anew else (self.scale, plain_zero(grid))
        found = project_core(V, grid, known, rule=rule, axis=axis)
        self.codes, self.scale, self.stale = found.codes, found.scale, False
        return found.values  # (I_n, R)


class _Iterate(NamedTuple):
    """The factors after a sweep: what is stored of ``H``, and ``T``."""

    codes: list[NDArray[Any]]
    scales: list[Array]
    relaxed: list[Array]


class _State:
    """What AO-ADMM carries from sweep to sweep."""

    def __init__(self, X: Array, start: CP, scaling: _Scaling, recipe: str) -> None:
        self.X, self.grid, self.recipe = X, scaling.grid, recipe
        self.start = balance(start) if recipe == "book" else CP(start.factors)
        self.start_error = relative_error_core(X, self.start)
        self.first = quantize_cp(self.start, self.grid, axis=scaling.axis, rule=scaling.rule)
        self.projections = [
            _Projection(k, s, scaling)
            for k, s in zip(self.first.codes, self.first.scales, strict=True)
        ]
        self.factors, self.relaxed = list(self.start.factors), list(self.start.factors)
        self.duals: list[Array | None] = [None] * len(self.factors)
        self.best: _Iterate | None = None
        self.latest: list[_Iterate] = []  # of the last two sweeps
        self.best_error, self.size = np.inf, float(np.linalg.norm(X))
        self.rows: list[tuple[float, list[float], list[int]]] = []
        self.signatures: list[bytes] = []

    def sweep(self, max_steps: int, tol: float) -> float:
        """Run ADMM on every mode once; return the relative error."""
        gaps, steps = [], []
        for mode, F, G in normal_sweep(self.X, self.factors):  # (I_n, R), (R, R)
            projection = self.projections[mode]
            projection.stale = projection.scaling.refit == "sweep"
            H, U = self.factors[mode], self.duals[mode]  # (I_n, R)
            U = np.zeros_like(F) if U is None else U
            # min |X_(n) - H K^T|^2 / 2 with H on its grid  :eq:`admm-problem`
            found = admm_core(F, G, projection, H, U, max_steps=max_steps, tol=tol)
            self.factors[mode], self.duals[mode] = found.factor, found.dual
            self.relaxed[mode] = found.least_squares
            gaps.append(float(found.primal[-1]))
            steps.append(len(found.primal))
        error = fit_error(self.X, self.size, self.factors, F, G)[0]
        self.rows.append((error, gaps, steps))
        from hashlib import sha256

        codes = [p.codes for p in self.projections]
        self.signatures.append(sha256(b"".join(k.tobytes() for k in codes)).digest())
        now = _Iterate(codes, [p.scale for p in self.projections], list(self.relaxed))
        self.latest = [*self.latest[-1:], now]
        if error < self.best_error:
            self.best, self.best_error = now, error
        return error

    def stop(self, tol: float) -> str | None:
        """Return the reason to stop after this sweep, by the recipe, if there is one."""
        errors = [row[0] for row in self.rows]
        if self.recipe == "authors":
            return _authors_stop([self.start_error, *errors], tol, self.X.ndim)
        return _stop(errors, self.signatures, tol)

    def fit(self, reason: str) -> QuantizedFit:
        """Return an iterate, by its recipe, with its error measured on the dense difference."""
        chosen = self.best
        if self.recipe == "authors" and self.latest:
            by_rule = self.X.ndim == 2 and reason in ("converged", "rising")
            chosen = self.latest[0 if by_rule else -1]
        cp, relaxed = self.first, self.start
        if chosen is not None:
            cp = quantized_of(chosen.codes, chosen.scales, self.grid)
            relaxed = cp_of(chosen.relaxed)
        error = relative_error_core(self.X, cp.dequantize())
        return QuantizedFit(cp, error, relaxed, self.start_error, history_of(self.rows), reason)


def _stop(errors: list[float], signatures: list[bytes], tol: float) -> str | None:
    """Return the reason to stop after this sweep, if there is one."""
    if len(errors) > 1 and abs(errors[-1] - errors[-2]) < tol:
        return "converged"
    if len(errors) > _RISE_SWEEPS and errors[-1] > errors[-1 - _RISE_SWEEPS] + _RISE:
        return "rising"
    for period in range(2, _LONGEST_CYCLE + 1):
        if signatures[-period:] == signatures[-2 * period : -period]:
            return "cycle"
    return None


def _authors_stop(history: list[float], tol: float, order: int) -> str | None:
    """Return the reason to stop of the authors' code; ``history`` begins with the start's error."""
    if abs(history[-1] - history[-2]) < tol:
        return "converged"
    sweeps = _MATRIX_RISE_SWEEPS if order == 2 else _RISE_SWEEPS
    if len(history) > _LONG_HISTORY and history[-1] > history[-1 - sweeps] + _RISE:
        return "rising"
    return None


def _start(X: Array, rank: int, start: str | CP, rng: Rng) -> CP:
    """Return the float factors that quantization starts from."""
    if isinstance(start, CP):
        if start.shape != X.shape or start.rank != rank:
            raise ValueError(
                f"start: expected shape {X.shape} and rank {rank}, "
                f"got {start.shape} and {start.rank}"
            )
        check_start(start, X, "start")
        return start
    check_option(start, "start", ("epc", "als", *STARTS))
    if start in STARTS:
        return initial_factors(X, rank, start, check_rng(rng, "ao_admm"))
    fit = float_fit(X, rank, rng=rng)
    if start == "als":
        return fit.cp
    return epc(X, fit.cp).cp
