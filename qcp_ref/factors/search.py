r"""How close do integers come to the float error? Search on the codes, and what it proves.

A factorization on a grid is an integer problem in all factors at once. With all modes but one fixed
it falls apart into rows (:mod:`qcp_ref.factors.rows`), so codes can be improved mode after mode
without ever raising the error :eq:`search-sweep`. That alone gets stuck in the nearest local
minimum. What helps is old and simple, simulated annealing: add noise before rounding, much at
first, none at the end :eq:`search-noise`. :func:`polish` does both; it is all that stands between
the authors' recipe and the default method of this project, and what it gains is measured in the
documentation.

:func:`certify` says what has been proved about a result: which is little, because only the optimum
of one factor with all others fixed can be bounded well.

Simplified: the noise falls on a straight line; no moves of several codes at once.

Checked by tests/factors/test_search.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import (
    Array,
    Rng,
    check_callback,
    check_count,
    check_int,
    check_real,
    check_rng,
    check_tensor,
)
from qcp_ref._results import frozen
from qcp_ref.bounds import gamma_core
from qcp_ref.factors.descent import (
    best_scales,
    check_rows_grid,
    descent_pass,
    in_codes,
    in_levels,
    in_steps,
    step_of,
)
from qcp_ref.factors.proofs import (
    Doubt,
    exact_slopes,
    least_error,
    least_tail,
    no_single_change,
    normal_doubt,
    objectives,
)
from qcp_ref.factors.quantized import (
    QuantizedCP,
    QuantizedFit,
    check_quantized,
    history_of,
    quantized_of,
)
from qcp_ref.factors.rows import Search, check_range, fit_rows
from qcp_ref.factors.start import DUST
from qcp_ref.tensors.cp import check_start, relative_error_core
from qcp_ref.tensors.sweep import Callback, fit_error, normal_sweep
from qcp_ref.tensors.tensor import gram_core, mttkrp_core, unfold_core

__all__ = ["Certificate", "certify", "polish"]

SWEEPS = 500  # of 'best'; see the documentation for what more of them gain
_REFIT_EVERY = 8  # sweeps with noise: scales settle long before codes do
NOISE = 0.35  # in steps, at the beginning
_SETTLED = 1e-9  # a smaller relative gain in a sweep is not worth another one for the scales
_FAR = 2.0**64  # no scale changes by more in one sweep; the next one goes on
_QUIET_SWEEPS = 300  # upper limit of the sweeps without noise


@frozen
class Certificate(NamedTuple):
    """Result of :func:`certify`, one entry per mode where not said otherwise.

    ``one_opt``: no single code of the factor can be changed for the better; ``scale_stationary``:
    the best scale is the present one, up to 1e-7 of it; ``bound``: the relative error that no other
    codes of this factor can undercut, all else fixed; ``proved``: share of its rows that are
    optimal, all else fixed. For the whole: ``floor``, the relative error that no CP tensor of this
    rank can undercut, quantized or not. All of it holds exactly, the rounding of its own
    arithmetic included.
    """

    one_opt: tuple[bool, ...]
    scale_stationary: tuple[bool, ...]
    bound: tuple[float, ...]
    proved: tuple[float, ...]
    floor: float


def polish(
    X: ArrayLike,
    cp: QuantizedCP,
    *,
    noise: float = 0.0,
    sweeps: int = SWEEPS,
    rng: Rng = 0,
    callback: Callback | None = None,
) -> QuantizedFit:
    """Improve the codes and scales of a quantized CP tensor, mode after mode.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The tensor that ``cp`` approximates.
    cp : QuantizedCP
        The start, on any grid with equal steps.
    noise : float
        Standard deviation, in steps, of what is added before rounding in the first sweep; it falls
        to zero on a straight line. With 0 the error falls from the first sweep on.
    sweeps : int
        Number of sweeps with noise.
    rng : int or numpy.random.Generator
        Source of the noise.
    callback
        As in :func:`qcp_ref.tensors.als.cp_als`.

    Returns
    -------
    QuantizedFit
        The best iterate, the start included. The history counts changed codes in ``steps`` and has
        no ``gap``. ``stop_reason`` is "converged" (no single code can be changed for the better,
        and scales gain next to nothing), "max_sweeps", "callback" or "zero tensor".

    Raises
    ------
    TypeError, ValueError
        For unusable arrays or options, shapes that do not fit, or a logarithmic grid.

    Notes
    -----
    Equations :eq:`search-sweep` and :eq:`search-noise` [beyond the paper]. After the sweeps with
    noise follow, from the best iterate, as many without as it takes.

    **Laws**

    - *falls*: without noise the error never rises, but for rounding (1e-7 next to an exact fit)
    - *best*: the result is no worse than the start or any sweep, but for the same rounding
    - *grid*: the result lies on the grid of the start, with scales of the same shape
    - *one-opt*: where it says "converged" no single code can be changed for the better
    - *sweep*: a sweep without noise equals plain loops on rational numbers, code by code, up to
      ties that rounding decides
    - *seed*: the same seed gives the same codes

    Examples
    --------
    >>> from qcp_ref import Grid, polish, quantize_cp, random_cp, reconstruct, relative_error
    >>> cp = random_cp((6, 5, 4), 2, rng=1)
    >>> X, rounded = reconstruct(cp), quantize_cp(cp, Grid(4))
    >>> found = polish(X, rounded, noise=0.3, sweeps=100, rng=2)
    >>> found.error < relative_error(X, rounded.dequantize()), found.stop_reason
    (True, 'converged')
    """
    X = _check_start(X, cp)
    noise, callback = check_real(noise, "noise", minimum=0.0, maximum=1e5), check_callback(callback)
    sweeps = check_count(sweeps, "sweeps", minimum=0) * (noise > 0)
    state = _Codes(X, cp, check_rng(rng, "polish"))
    reason = "max_sweeps"
    if not X.any():
        return state.fit("zero tensor")
    before, settled = np.inf, False
    for sweep in range(sweeps + _QUIET_SWEEPS):
        # d ~ N(0, eta_t^2), eta_t = eta (1 - t / N)  :eq:`search-noise`
        deviation = noise * (1 - sweep / sweeps) if sweep < sweeps else 0.0
        if sweep == sweeps:  # what follows improves the best iterate, seldom another than the last
            state.resume()
        # Once the scales have settled they are left alone, so that codes can be final.
        refit = not settled and (sweep >= sweeps or sweep % _REFIT_EVERY == 0)
        error, changes = state.sweep(deviation, refit=refit)
        if callback is not None and callback(sweep, error):
            reason = "callback"
        elif settled and changes == 0:
            reason = "converged"
        if reason != "max_sweeps":
            break
        quiet = sweep >= sweeps and changes == 0
        settled = settled or (quiet and before - error <= _SETTLED * error)
        before = error
    return state.fit(reason)


def _check_start(X: ArrayLike, cp: Any) -> Array:
    """Return the tensor, if codes on a grid with equal steps fit it."""
    array = check_tensor(X)
    check_rows_grid(check_quantized(cp, array.shape).grid)
    check_start(cp.dequantize(), array, as_it_is=True)
    return array


class _Codes:
    """The state of :func:`polish`: levels in steps, scales, the best iterate, the history."""

    def __init__(self, X: Array, start: QuantizedCP, rng: "np.random.Generator") -> None:
        self.X, self.grid, self.rng = X, start.grid, rng
        self.levels = [in_levels(k, self.grid) for k in start.codes]
        self.scales = list(start.scales)
        self.keep()
        self.start, self.size = start, float(np.linalg.norm(X))
        self.start_error = self.best_error = relative_error_core(X, start.dequantize())
        self.rows: list[tuple[float, list[float], list[int]]] = []

    def keep(self) -> None:
        """Keep the present levels and scales as the best ones."""
        self.best = [V.copy(order="K") for V in self.levels], list(self.scales)

    def resume(self) -> None:
        """Go on from the best levels and scales."""
        levels, scales = self.best
        self.levels, self.scales = [V.copy(order="K") for V in levels], list(scales)

    def values(self, mode: int) -> Array:
        """Return a factor as numbers."""
        return self.levels[mode] * step_of(self.grid) * self.scales[mode]

    def sweep(self, noise: float, *, refit: bool = True) -> tuple[float, int]:
        """Visit every mode once; return the relative error and how many codes have changed."""
        # Noise can leave next to nothing of the tensor: no factor takes all of what is left.
        self.scales = _even([self.values(n) for n in range(self.X.ndim)], self.scales, _FAR)
        factors, changes = [self.values(n) for n in range(self.X.ndim)], []
        # V_n <- descent(V_n; F_n, G_n, s_n), s_n <- refit(V_n; F_n, G_n)  :eq:`search-sweep`
        for mode, F, G in normal_sweep(self.X, factors):
            V = self.levels[mode]
            steps = in_steps(F, G, self.grid, self.scales[mode])
            dither = self.rng.standard_normal(V.shape) if noise else np.zeros_like(V)
            dither *= noise
            changes.append(descent_pass(V, steps, dither))
            if refit:
                scale = self.scales[mode]
                best = best_scales(F, G, V * step_of(self.grid), scale)
                least = np.maximum(scale / _FAR, DUST * scale.max())
                self.scales[mode] = np.clip(best, least, np.maximum(least, scale * _FAR))
            factors[mode] = self.values(mode)
        error = fit_error(self.X, self.size, factors, F, G)[0]
        self.rows.append((error, [], changes))
        if error < self.best_error:
            self.best_error = error
            self.keep()
        return error, sum(changes)

    def quantized(self) -> QuantizedCP:
        """Return the present state."""
        return quantized_of([in_codes(V, self.grid) for V in self.levels], self.scales, self.grid)

    def fit(self, reason: str) -> QuantizedFit:
        """Return the best iterate with its error measured on the dense difference."""
        self.resume()
        best = _share_lengths(self.quantized())
        error = relative_error_core(self.X, best.dequantize())
        history, relaxed = history_of(self.rows), self.start.dequantize()
        return QuantizedFit(best, error, relaxed, self.start_error, history, reason)


def _share_lengths(cp: QuantizedCP) -> QuantizedCP:
    """Make the factors about equally long by powers of two, which changes no bit of the tensor.

    Only the product of the scales matters for the error, so that they drift apart in a long search.
    """
    return quantized_of(cp.codes, _even(cp.dequantize().factors, cp.scales), cp.grid)


def _even(factors: Sequence[Array], scales: Sequence[Array], apart: float = 1.0) -> list[Array]:
    """Let powers of two, of product 1, go between the scales of factors far apart in length."""
    sizes = np.array([np.linalg.norm(A) for A in factors])
    if (sizes == 0).any():
        return list(scales)
    shifts = np.rint(np.log2(sizes).mean() - np.log2(sizes))
    shifts[np.argmax(sizes)] -= shifts.sum()
    shifts *= np.abs(shifts).max() > np.log2(apart)
    return [s * 2.0**n for s, n in zip(scales, shifts, strict=True)]


def certify(X: ArrayLike, cp: QuantizedCP, *, budget: int = 1000) -> Certificate:
    """Say what is known of how good a quantized CP tensor is.

    Parameters
    ----------
    X, cp
        As in :func:`polish`.
    budget : int
        Limit of the search in each row, see :func:`qcp_ref.factors.rows.solve_rows`; 0 searches
        nothing.

    Returns
    -------
    Certificate
        One entry per mode, and the floor of all CP tensors of this rank. Of a zero tensor, which
        has no relative errors, the bounds are those of the absolute one.

    Raises
    ------
    TypeError, ValueError
        For unusable arrays or options, shapes that do not fit, or a logarithmic grid.

    Notes
    -----
    Equations :eq:`rows-bound` and :eq:`search-floor` [source: Eckart and Young for the floor;
    beyond the paper], with all rounding accounted for :eq:`proofs-normal`, :eq:`proofs-error`,
    :eq:`proofs-single`, :eq:`proofs-floor`. Nothing here says that the codes of all factors
    together are optimal: that can be proved for tiny tensors only, by trying all.

    **Laws**

    - *bound*: no codes of one factor, all else fixed, have an error below its bound
    - *floor*: no CP tensor of this rank has an error below the floor
    - *one-opt*: no single code of a factor that is called 1-opt can be changed for the better
    - *converged*: what :func:`polish` calls converged is 1-opt, but for ties that rounding decides

    Examples
    --------
    >>> from qcp_ref import Grid, certify, polish, quantize_cp, random_cp, reconstruct
    >>> cp = random_cp((6, 5, 4), 2, rng=1)
    >>> X = reconstruct(cp)
    >>> certify(X, polish(X, quantize_cp(cp, Grid(4))).cp).one_opt
    (True, True, True)
    """
    X, budget = _check_start(X, cp), check_int(budget, "budget", minimum=0, cap=2**53)
    cp = _share_lengths(cp)
    size = float(np.linalg.norm(X)) * (1 + gamma_core(X.size + 2)) or 1.0
    rows = [_certify_mode(X, cp, mode, budget) for mode in range(X.ndim)]
    one_opt, stationary, gains, proved = zip(*rows, strict=True)
    least = least_error(X, list(cp.dequantize().factors)) ** 2 * (1 - 2.0**-50)
    bounds = tuple(float(np.sqrt(max(least - gain, 0.0)) / size) for gain in gains)
    floor = max(least_tail(unfold_core(X, mode), cp.rank) for mode in range(X.ndim)) / size
    return Certificate(one_opt, stationary, bounds, proved, floor)


def _certify_mode(
    X: Array, cp: QuantizedCP, mode: int, most_nodes: int
) -> tuple[bool, bool, float, float]:
    """Return 1-opt, stationary, how much other codes of this factor may gain, and its proved share.

    All of it holds for the exact normal equations: :eq:`proofs-normal`.
    """
    factors, grid, scale = list(cp.dequantize().factors), cp.grid, cp.scales[mode]
    F, G = mttkrp_core(X, factors, mode), gram_core(factors, mode)
    doubt = normal_doubt(X, factors, mode)
    V, step = in_levels(cp.codes[mode], grid), scale * step_of(grid)
    lost = np.abs(F).max(axis=0) * (np.diag(G) == 0)
    try:
        check_range(F, G, step)
    except ValueError as refusal:
        raise ValueError(f"cp: {refusal}") from None
    if lost.any():
        raise ValueError("cp: expected columns whose squares float64 can hold; rescale the data")
    steps = in_steps(F, G, grid, scale)
    doubt = Doubt(*in_steps(doubt.F, doubt.G, grid, scale)[:2])
    found = fit_rows(F, G, grid, scale, Search(most_nodes=most_nodes), V, doubt=doubt)
    value, error = objectives(V, steps.F, steps.G, doubt)
    present = (value + error) * steps.weight
    gain = present + 2.0**-50 * np.abs(present) - found.bound
    best = found.proved & (found.codes == cp.codes[mode]).all(axis=1)
    gain = np.where(best, 0.0, np.maximum(gain, 0.0)).sum() * (1 + gamma_core(len(F) + 2))
    after = best_scales(F, G, V * step_of(grid), scale)
    levels = [in_levels(k, grid) for k in cp.codes]
    slope = exact_slopes(X, levels, [s * step_of(grid) for s in cp.scales], mode)
    return (
        no_single_change(V, steps, doubt, slope),
        bool(np.allclose(after, scale, rtol=1e-7, atol=0)),
        float(gain),
        float(found.proved.mean()),
    )
