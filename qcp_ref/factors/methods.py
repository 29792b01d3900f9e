r"""Which methods are there, by name? From least squares and rounding to the default.

:func:`factorize` is the front door to all methods. Each is a float start, a way to put its factors
on grids, and a search or none :eq:`qcp-problem`. The default, 'best', goes beyond the paper: least
squares, correction with some slack :eq:`epc-problem`, rounding, and the search on the codes with
noise :eq:`search-noise`. :func:`choose_slack` finds the slack that suits a tensor.

Simplified: the numbers of sweeps are fixed for each method, whatever the tensor.

Checked by tests/factors/test_methods.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import (
    Array,
    Rng,
    check_callback,
    check_count,
    check_option,
    check_rank,
    check_real,
    check_rng,
    check_sequence,
    check_tensor,
)
from qcp_ref._door import shown
from qcp_ref._results import frozen
from qcp_ref.factors.ao_admm import ao_admm
from qcp_ref.factors.descent import check_rows_grid
from qcp_ref.factors.epc import epc
from qcp_ref.factors.quantized import (
    QuantizedCP,
    QuantizedFit,
    history_of,
    orient,
    quantize_cp,
    refuse_zero_points,
)
from qcp_ref.factors.search import NOISE, SWEEPS, polish
from qcp_ref.factors.start import (
    best_rounding,
    corrected,
    one_after_the_other,
    rounded_svd,
    without_dust,
)
from qcp_ref.grids.grid import Grid
from qcp_ref.grids.scale import check_data, choose_core
from qcp_ref.tensors.als import CPFit, float_fit
from qcp_ref.tensors.cp import CP, relative_error_core
from qcp_ref.tensors.svd import is_matrix, svd_cp
from qcp_ref.tensors.sweep import StageCallback, stage_callback

__all__ = ["SlackSearch", "choose_slack", "factorize"]

METHODS = ("als-round", "authors", "sequential", "best")
_SLACK = {"als-round": 0.0, "authors": 0.0, "sequential": 0.1, "best": 0.3}
# Sweeps of ALS and of EPC in each method. For 'best' more of them gain nothing; 50 is the authors'
# number, and one round of 500 stands for their up to 50 rounds of 50.
_START = {"als-round": (50, 0), "authors": (50, 500), "sequential": (100, 100), "best": (25, 50)}


@frozen
class SlackSearch(NamedTuple):
    """Result of :func:`choose_slack`.

    ``slack`` is the best of ``slacks``, ``error`` the relative error found from it and ``start``
    the corrected tensor; ``errors`` are those of all slacks.
    """

    slack: float
    error: float
    start: CP
    slacks: tuple[float, ...]
    errors: tuple[float, ...]


def choose_slack(
    X: ArrayLike,
    cp: CP,
    grid: Grid,
    *,
    slacks: Sequence[float] = (0.0, 0.03, 0.1, 0.3, 1.0),
    axis: int | None = None,
    sweeps: int = 60,
    rng: Rng = 0,
) -> SlackSearch:
    """Find the slack of error-preserving correction after which quantization leaves least error.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The tensor that ``cp`` approximates.
    cp : CP
        A float fit, usually from :func:`qcp_ref.tensors.als.cp_als`.
    grid : Grid
        The grid; any with equal steps.
    slacks : sequence of float
        What is tried; those that would let the zero tensor in are passed over.
    axis
        As in :func:`qcp_ref.factors.quantized.quantize_cp`.
    sweeps : int
        Sweeps with noise by which each start is judged; with 0 only descent follows.
    rng : int or numpy.random.Generator
        Source of the noise; an int gives each trial the same.

    Returns
    -------
    SlackSearch
        The best slack (the first of equally good ones), the corrected tensor that belongs to it,
        and the slacks tried with their errors.

    Raises
    ------
    TypeError, ValueError
        For unusable arrays or options, and if no slack is left to be tried.

    Notes
    -----
    Problem :eq:`epc-problem`, judged by :eq:`search-noise` [beyond the paper].

    **Laws**

    - *best*: none of the slacks tried has a smaller error than the one returned
    - *trials*: each trial is what correction, signs, rounding and a short search give by hand

    Examples
    --------
    >>> from qcp_ref import Grid, choose_slack, cp_als, random_cp, reconstruct
    >>> X = reconstruct(random_cp((6, 6, 6), 8, rng=1))
    >>> found = choose_slack(X, cp_als(X, 6, rng=2).cp, Grid(4), slacks=(0.0, 0.2))
    >>> found.slack in (0.0, 0.2), found.error == min(found.errors)
    (True, True)
    """
    X = check_tensor(X)
    error = relative_error_core(X, cp)
    given = check_sequence(slacks, "slacks", "numbers")
    given = [check_real(slack, "slacks", minimum=0.0) for slack in given]
    tried = [slack for slack in given if slack == 0 or (1 + slack) * error < 1]
    if not tried:
        raise ValueError(f"slacks: expected one that fits the error {error:.3g}, got {given}")
    starts, errors = [], []
    for slack in tried:
        start = orient(epc(X, cp, slack=slack, max_sweeps=_START["best"][1]).cp, grid)
        fit = polish(X, quantize_cp(start, grid, axis=axis), noise=NOISE, sweeps=sweeps, rng=rng)
        starts.append(start)
        errors.append(fit.error)
    best = int(np.argmin(errors))
    return SlackSearch(tried[best], errors[best], starts[best], tuple(tried), tuple(errors))


def factorize(
    X: ArrayLike,
    rank: int,
    grid: Grid,
    *,
    method: str = "best",
    rng: Rng = 0,
    axis: int | None = None,
    rule: str = "mse-exact",
    slack: float | None = None,
    sweeps: int | None = None,
    restarts: int | None = None,
    callback: StageCallback | None = None,
) -> QuantizedFit:
    """Find CP factors on grids by a named method.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        Tensor with at least two modes.
    rank : int
        Number of components, at least 1.
    grid : Grid
        The grid of all factors.
    method : {"best", "sequential", "authors", "als-round"}
        Least squares, error-preserving correction, rounding and search on the codes with noise;
        the same start, but one factor after the other put on its grid and the float ones fitted
        again, then search without noise; the authors' recipe: the start without slack, then
        AO-ADMM; or least squares and rounding.
    rng : int or numpy.random.Generator
        Source of randomness of the start and of the noise.
    axis, rule
        Of the first scales, as in :func:`qcp_ref.factors.quantized.quantize_cp`.
    slack : float, optional
        Slack of the correction, see :func:`choose_slack`: by default 0.3 for 'best' and 0.1 for
        'sequential', or half of what there is room for, and 0 for 'authors'.
    sweeps, restarts : int, optional
        Of 'best' only: sweeps with noise (default 500), and runs from different starts, of which
        the best one is returned (default 1).
    callback : callable, optional
        Called as ``callback(stage, sweep, figure)`` after each sweep of the stages "als", "admm"
        and "polish" (with the relative error) and "epc" (with the norm ratio); a true result stops
        that stage.

    Returns
    -------
    QuantizedFit
        The quantized tensor, its error and that of the float start.

    Raises
    ------
    TypeError, ValueError
        For unusable arrays, ranks, options or seeds, or options of another method.

    Notes
    -----
    Problem :eq:`qcp-problem` [authors' code for the order of the stages of 'authors'; 'sequential'
    and 'best' are beyond the paper]. A matrix in effect (a linear layer, a 1x1 convolution, all
    sides but two of length 1) starts from its SVD :eq:`svd-best`, whatever the seed: its restarts
    differ by their noise only; where its rounding is better than what the method found, the result
    is that rounding, with the SVD as its float start (searched again without noise, if the method
    searches). With the usual slack, a fit that is too good for the grid is
    corrected once more, with an allowance :eq:`start-allowance`.

    **Laws**

    - *grid*: the result lies on the grid that was asked for
    - *error*: its error is that of the dense difference
    - *seed*: the same seed gives the same codes
    - *restarts*: with the same seed more restarts are never worse
    - *matrix*: no method is worse than the rounded SVD of a matrix in effect :eq:`start-matrix`

    Examples
    --------
    >>> from qcp_ref import Grid, factorize, random_cp, reconstruct
    >>> X = reconstruct(random_cp((6, 5, 4), 4, rng=1))
    >>> methods = ("als-round", "authors", "best")
    >>> errors = [factorize(X, 4, Grid(3), method=m, rng=2).error for m in methods]
    >>> errors == sorted(errors, reverse=True)
    True
    """
    X, rank, callback = check_tensor(X), check_rank(rank), check_callback(callback)
    slack = _check_method(method, slack, sweeps, restarts)
    options = _Options(grid, axis, rule, callback)
    options.check()
    source = check_rng(rng, "factorize")
    if method == "als-round":
        found = [_rounded(X, _fitted(X, rank, rng, callback, method), options)]
    elif method == "authors":
        start = _float_start(X, rank, rng, slack, options, method)
        stage = stage_callback(callback, "admm")
        found = [ao_admm(X, rank, grid, start=start, axis=axis, rule=rule, callback=stage)]
    else:
        check_rows_grid(grid)
        sweeps = check_count(SWEEPS if sweeps is None else sweeps, "sweeps", minimum=0)
        restarts = check_count(1 if restarts is None else restarts, "restarts")
        found = []
        for run in range(restarts):
            start = _float_start(X, rank, source if run else rng, slack, options, method)
            found.append(_searched(X, start, options, method, sweeps=sweeps, rng=source))
    return _no_worse_than_svd(X, min(found, key=lambda fit: fit.error), rank, options, method)


def _searched(
    X: Array,
    start: CP,
    options: "_Options",
    method: str,
    *,
    sweeps: int,
    rng: "np.random.Generator",
) -> QuantizedFit:
    """Round a start and search from there."""
    oriented = orient(start, options.grid)
    if method == "best":
        noise, rounded = NOISE, best_rounding(X, [oriented], options.rounded)
    else:
        noise = 0.0
        rounded = one_after_the_other(X, oriented, options.grid, options.scale)
    stage = stage_callback(options.callback, "polish")
    last = polish(X, rounded, noise=noise, sweeps=sweeps, rng=rng, callback=stage)
    return last._replace(relaxed=start, start_error=relative_error_core(X, start))


def _no_worse_than_svd(
    X: Array, fit: QuantizedFit, rank: int, options: "_Options", method: str
) -> QuantizedFit:
    """Take the rounded SVD of a matrix where it is better :eq:`start-matrix`."""
    if not is_matrix(X.shape):
        return fit
    rounded = rounded_svd(X, rank, options.grid, options.rounded)
    error = relative_error_core(X, rounded.dequantize())
    if fit.error <= error:
        return fit
    svd = svd_cp(X, rank)
    before = relative_error_core(X, svd)
    if method in ("als-round", "authors"):
        return QuantizedFit(rounded, error, svd, before, history_of([]), "rounded")
    return polish(X, rounded)._replace(relaxed=svd, start_error=before)


def _check_method(
    method: str, slack: float | None, sweeps: int | None, restarts: int | None
) -> float | None:
    """Refuse options that belong to another method; return the slack."""
    check_option(method, "method", METHODS)
    for name, value in (("sweeps", sweeps), ("restarts", restarts)):
        if value is not None and method != "best":
            raise ValueError(f"{name}: expected None with method {method!r}, got {shown(value)}")
    slack = None if slack is None else check_real(slack, "slack", minimum=0.0)
    if slack and method == "als-round":
        raise ValueError(f"slack: expected 0 with method 'als-round', got {slack}; it has no EPC")
    return slack


class _Options(NamedTuple):
    """How factors are rounded, and who is told of it."""

    grid: Grid
    axis: int | None
    rule: str
    callback: StageCallback | None

    def check(self) -> None:
        """Refuse bad options before fitting."""
        refuse_zero_points(self.rule)
        check_data(np.ones((1, 1)), self.grid, rule=self.rule, axis=self.axis)

    def rounded(self, cp: CP) -> QuantizedCP:
        """Round all factors."""
        return quantize_cp(without_dust(cp), self.grid, axis=self.axis, rule=self.rule)

    def scale(self, A: Array) -> Array:
        """Choose the scale of a factor."""
        return choose_core(A, self.grid, axis=self.axis, rule=self.rule)[0]


def _rounded(X: Array, fit: CPFit, options: _Options) -> QuantizedFit:
    rounded = options.rounded(fit.cp)
    error = relative_error_core(X, rounded.dequantize())
    return QuantizedFit(rounded, error, fit.cp, fit.error, history_of([]), "rounded")


def _fitted(X: Array, rank: int, rng: Rng, callback: StageCallback | None, method: str) -> CPFit:
    """Fit by least squares before a method."""
    stage = stage_callback(callback, "als")
    return float_fit(X, rank, rng=rng, max_sweeps=_START[method][0], callback=stage)


def _float_start(
    X: Array, rank: int, rng: Rng, slack: float | None, options: _Options, method: str
) -> CP:
    """Fit and correct before a method."""
    fit = _fitted(X, rank, rng, options.callback, method)
    return corrected(
        X,
        fit,
        options.grid,
        options.rounded,
        slack=slack,
        usual=_SLACK[method],
        max_sweeps=_START[method][1],
        callback=stage_callback(options.callback, "epc"),
    )
