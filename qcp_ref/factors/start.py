r"""From which float tensor do the methods start, and what is it worth once rounded?

From a least-squares fit, or the SVD of a matrix, after error-preserving correction. A fit that is
exact leaves the correction no room, however large its components are; but errors far below those of
rounding are not worth keeping. So the correction is run a second time with an allowance that
depends on the grid :eq:`start-allowance`, and the start that rounds better is taken.

For matrices there is something to compare with: the truncated SVD, rounded. :func:`rounded_svd` is
what no method may fall behind :eq:`start-matrix`.

Simplified: one allowance per grid, no search for the best.

Checked by tests/factors/test_start.py.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array
from qcp_ref.factors.descent import best_scales, in_levels, step_of
from qcp_ref.factors.epc import epc
from qcp_ref.factors.quantized import QuantizedCP, codes_of, orient, quantized_of, values_of
from qcp_ref.factors.rows import Search, check_consistent, check_range, fit_rows
from qcp_ref.grids.grid import Grid
from qcp_ref.tensors.als import CPFit, als_update_core
from qcp_ref.tensors.cp import CP, balance_core, cp_of, equalize, relative_error_core
from qcp_ref.tensors.svd import column_signs, is_matrix, long_modes, matrix_cp, singular
from qcp_ref.tensors.sweep import Callback
from qcp_ref.tensors.tensor import gram_core, mttkrp_core

__all__: list[str] = []

_REFIT_SWEEPS = 10  # of the factors that are still float, after each that is rounded
_ALLOWANCE = 0.25  # of the number of levels' inverse: an error that rounding hides

DUST = 2.0**-200  # of the largest entry of a factor: what is below has squares beyond float64

Rounded = Callable[[CP], QuantizedCP]


def without_dust(cp: CP) -> CP:
    """Return a tensor, vanishing entries zero: rows that a fit gives up decay without end."""
    factors = [_no_dust(A) for A in cp.factors]
    same = all(A is B for A, B in zip(factors, cp.factors, strict=True))
    return cp if same else cp_of(factors, cp.weights)


def _no_dust(A: Array) -> Array:
    dust = (A != 0) & (np.abs(A) < DUST * np.abs(A).max())
    return np.where(dust, 0.0, A) if dust.any() else A


def corrected(
    X: Array,
    fit: CPFit,
    grid: Grid,
    rounded: Rounded,
    *,
    slack: float | None,
    usual: float,
    max_sweeps: int,
    callback: Callback | None = None,
) -> CP:
    """Correct a fit before quantization; where the slack is not given, by the usual one.

    Of the usual slack at most half of what would let the zero tensor in is taken. Then a fit that
    is too good for the grid gets an allowance, if it rounds better with it.
    """
    correct = partial(epc, X, fit.cp, max_sweeps=max_sweeps, callback=callback)
    if slack is not None:
        return correct(slack=slack).cp
    # slack = min(usual, (1 / e - 1) / 2)  :eq:`start-slack`
    room = 1 / fit.error - 1 if fit.error > 0 else np.inf
    slack = min(usual, max(room / 2, 0.0))
    # delta' = max((1 + slack) e, 1 / (4 L)) ||X||, L levels  :eq:`start-allowance`
    allowance = _ALLOWANCE / len(grid.levels)
    first = correct(slack=slack).cp
    if (1 + slack) * fit.error >= allowance:
        return first
    second = correct(slack=slack, allowance=allowance).cp
    return min((first, second), key=partial(_loss, X, lambda cp: rounded(orient(cp, grid))))


def _loss(X: Array, rounded: Rounded, cp: CP) -> float:
    return relative_error_core(X, rounded(cp).dequantize())


def rounded_svd(X: Array, rank: int, grid: Grid, rounded: Rounded) -> QuantizedCP:
    """Round the SVD of a matrix in effect, with signs as they come or as the grid likes them."""
    U, values, V = (part[..., :rank] for part in singular(X))
    signs = column_signs(U), 1.0, -1.0  # the first ones are those of svd_cp
    cp, *raw = (matrix_cp(X.shape, U * s, V * s, values, rank) for s in signs)
    return best_rounding(X, [cp, orient(cp, grid), *raw], rounded)


def best_rounding(X: Array, cps: Sequence[CP], rounded: Rounded) -> QuantizedCP:
    """Round these tensors, single rows also as ones; return what has the least error."""
    found = [q for cp in cps for q in _roundings(cp, rounded)]
    return min(found, key=lambda q: relative_error_core(X, q.dequantize()))


def _roundings(cp: CP, rounded: Rounded) -> Iterator[QuantizedCP]:
    """Yield a tensor rounded; of a matrix in effect, too, with its single rows all ones."""
    yield (whole := rounded(cp))
    if not is_matrix(cp.shape) or len(cp.shape) == 2:
        return
    long = long_modes(cp.shape)
    single = [n for n in range(len(cp.shape)) if n not in long]
    weights = cp.weights * np.prod([cp.factors[n][0] for n in single], axis=0)
    flat = cp_of([cp.factors[n] for n in long], weights)
    levels = whole.grid.levels
    one = levels[np.frexp(levels)[0] == 0.5].max()  # exactly 1, once scaled
    for matrix in (flat, orient(flat, whole.grid)):
        pair, codes, scales = rounded(matrix), list(whole.codes), list(whole.scales)
        for n, k, s in zip(long, pair.codes, pair.scales, strict=True):
            codes[n], scales[n] = k, s
        for n in single:
            scales[n] = np.full_like(scales[n], 1 / one)
            codes[n] = codes_of(np.ones((1, cp.rank)), whole.grid, scales[n])
        yield quantized_of(codes, scales, whole.grid)


def one_after_the_other(
    X: Array, start: CP, grid: Grid, scale_of: Callable[[Array], Array]
) -> QuantizedCP:
    """Put the shortest factor on its grid, fit the float ones again, and so on."""
    factors = balance_core(start.factors, start.weights)
    parts: list[Any] = [None] * X.ndim  # codes and scale of each
    free = sorted(range(X.ndim), key=lambda n: (X.shape[n], n))
    while free:
        mode = free.pop(0)
        factors[mode] = _no_dust(factors[mode])
        parts[mode] = _put_on_grid(X, factors, mode, grid, scale_of(factors[mode]))
        codes, scale = parts[mode]
        factors[mode] = values_of(codes, scale, grid)
        for _ in range(_REFIT_SWEEPS):
            for n in free:
                F, G = mttkrp_core(X, factors, n), gram_core(factors, n)
                factors[n], _ = als_update_core(F, G)
        equalize(factors, free)
    each, scales = zip(*parts, strict=True)
    return quantized_of(each, scales, grid)


def _put_on_grid(
    X: Array, factors: list[Array], mode: int, grid: Grid, scale: Array
) -> tuple[NDArray[Any], Array]:
    """Return codes and scale of one factor: of descent and k-best the better one, row by row."""
    F, G = mttkrp_core(X, factors, mode), gram_core(factors, mode)
    check_consistent(F, G)
    check_range(F, G, scale * step_of(grid))
    begin = in_levels(codes_of(factors[mode], grid, scale), grid)
    descent = fit_rows(F, G, grid, scale, Search("descent"), begin)
    k_best = fit_rows(F, G, grid, scale, Search("k-best"), None)
    codes = np.where((k_best.objective < descent.objective)[:, None], k_best.codes, descent.codes)
    return codes, best_scales(F, G, in_levels(codes, grid) * step_of(grid), scale)
