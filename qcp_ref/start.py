r"""From which float tensor do the methods start, and what is it worth once rounded?

From a least-squares fit, or the SVD of a matrix, after error-preserving correction. A fit that is
exact leaves the correction no room, however large its components are; but errors far below those of
rounding are not worth keeping. So the correction is run a second time with an allowance that
depends on the grid :eq:`start-allowance`, and the start that rounds better is taken.

For matrices there is something to compare with: the truncated SVD, rounded. :func:`rounded_svd` is
what no method may fall behind :eq:`start-matrix`.

Simplified: one allowance per grid, no search for the best.

Checked by tests/test_start.py.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from qcp_ref._checks import Array
from qcp_ref.als import CPFit
from qcp_ref.cp import CP, relative_error
from qcp_ref.epc import epc
from qcp_ref.grid import Grid, quantize
from qcp_ref.qcp import QuantizedCP, orient
from qcp_ref.svd import is_matrix, long_modes, matrix_cp, singular, svd_cp

__all__: list[str] = []

_ALLOWANCE = 0.25  # of the number of levels' inverse: an error that rounding hides

Rounded = Callable[[CP], QuantizedCP]


def corrected(
    X: Array,
    fit: CPFit,
    slack: float | None,
    usual: float,
    rounding: tuple[Grid, Rounded],
    options: dict[str, Any],
) -> CP:
    """Correct a fit before quantization; where the slack is not given, by the usual one.

    Of the usual slack at most half of what would let the zero tensor in is taken. Then a fit that
    is too good for the grid gets an allowance, if it rounds better with it.
    """
    grid, rounded = rounding
    if slack is not None:
        return epc(X, fit.cp, slack=slack, **options).cp
    room = 1 / fit.error - 1 if fit.error > 0 else np.inf
    slack = min(usual, max(room / 2, 0.0))
    allowance = _ALLOWANCE / len(grid.levels)
    first = epc(X, fit.cp, slack=slack, **options).cp
    if (1 + slack) * fit.error >= allowance:
        return first
    second = epc(X, fit.cp, slack=slack, allowance=allowance, **options).cp
    return min((first, second), key=partial(_loss, X, lambda cp: rounded(orient(cp, grid))))


def _loss(X: Array, rounded: Rounded, cp: CP) -> float:
    return relative_error(X, rounded(cp).dequantize())


def rounded_svd(X: Array, rank: int, grid: Grid, rounded: Rounded) -> QuantizedCP:
    """Round the SVD of a matrix in effect, with signs as they come or as the grid likes them."""
    cp, (U, values, V) = svd_cp(X, rank), singular(X)
    plain = matrix_cp(X.shape, U[:, :rank], V[:, :rank], values[:rank], rank)
    return best_rounding(X, [cp, orient(cp, grid), plain], rounded)


def best_rounding(X: Array, cps: Sequence[CP], rounded: Rounded) -> QuantizedCP:
    """Round these tensors, single rows also as ones; return what has the least error."""
    found = [q for cp in cps for q in _roundings(cp, rounded)]
    return min(found, key=lambda q: relative_error(X, q.dequantize()))


def _roundings(cp: CP, rounded: Rounded) -> Iterator[QuantizedCP]:
    """Yield a tensor rounded; of a matrix in effect, too, with its single rows all ones."""
    yield (whole := rounded(cp))
    if not is_matrix(cp.shape) or len(cp.shape) == 2:
        return
    long = long_modes(cp.shape)
    single = [n for n in range(len(cp.shape)) if n not in long]
    weights = cp.weights * np.prod([cp.factors[n][0] for n in single], axis=0)
    flat = CP([cp.factors[n] for n in long], weights)
    levels = whole.grid.levels
    one = levels[(levels > 0) & (np.frexp(levels)[0] == 0.5)].max()  # exactly 1, once scaled
    for matrix in (flat, orient(flat, whole.grid)):
        pair, codes, scales = rounded(matrix), list(whole.codes), list(whole.scales)
        for n, k, s in zip(long, pair.codes, pair.scales, strict=True):
            codes[n], scales[n] = k, s
        for n in single:
            scales[n] = np.full_like(scales[n], 1 / one)
            codes[n] = quantize(np.ones((1, cp.rank)), whole.grid, scales[n])
        yield QuantizedCP(codes, scales, whole.grid)
