r"""How far from optimal is one factor? Each of its rows is an integer least-squares problem.

With the other factors and the scale fixed, a factor on a grid falls apart into rows, and each row
asks for the point of a box of integers that is nearest in the metric of the Gram matrix
:eq:`rows-problem`. That is a closest vector problem: hard in the worst case, but with good
heuristics, and a search that proves its answer where it ends in time.

:func:`solve_rows` has them all by name: rounding, coordinate descent :eq:`rows-descent`, the
nearest plane :eq:`rows-babai` (what GPTQ computes), its best few branches at once, and the whole
tree :eq:`rows-tree`. None of the heuristics is always ahead: descent repairs a row that is nearly
right, the nearest plane copes with collinear components. Every result comes with a lower bound, so
it says how much there could be left to gain. :func:`refit_scale` solves for the scale in turn
:eq:`rows-scale`.

Simplified: levels in equal steps only, so no logarithmic grids; no lattice reduction, because it
turns the box into something that is no box.

Checked by tests/factors/test_rows.py; the compiled loops by tests/test_kernels.py.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    check_array,
    check_gram,
    check_int,
    check_integers,
    check_option,
    unit_diagonal,
)
from qcp_ref._kernels import Box, Slack
from qcp_ref._results import frozen
from qcp_ref.bounds import gamma_core
from qcp_ref.factors.descent import (
    best_scales,
    check_rows_grid,
    descended,
    in_codes,
    in_levels,
    in_steps,
    nearest_level,
    step_of,
)
from qcp_ref.factors.proofs import (
    Doubt,
    ExactRows,
    Margin,
    Steps,
    best_row,
    differences,
    lowered,
    margin,
    objectives,
    relaxed,
    search_rows,
)
from qcp_ref.grids.grid import Grid, check_scale, off_grid

__all__ = ["RowFit", "refit_scale", "solve_rows"]

METHODS = ("round", "descent", "babai", "k-best", "sphere")
ORDERS = ("greedy", "natural")
_EPS = float(np.finfo(np.float64).eps)
_REGULAR = 1e-6  # pivots at unit diagonal above it leave no doubt that a matrix is regular
_OUTSIDE = 1e-3  # share of F outside the range of G that the rounding of float32 may explain
_LARGEST = 2.0**400  # beyond it and its inverse, squares leave the range of float64


@frozen
class RowFit(NamedTuple):
    """Result of :func:`solve_rows`, row by row.

    ``codes`` has shape (I, R). ``objective`` is the squared error less ``||X||^2``, summed it is
    that of the factor; it differs from the exact number by at most ``gamma(2 R + 24)`` times the
    sum of the sizes of its terms. ``bound`` is a number below which no codes can get at this scale,
    exactly; ``proved`` says which rows are optimal, exactly.
    """

    codes: NDArray[np.integer[Any]]
    objective: Array
    bound: Array
    proved: NDArray[np.bool_]


class Search(NamedTuple):
    """Options of :func:`solve_rows`."""

    method: str = "sphere"
    order: str = "greedy"
    width: int = 16
    most_nodes: int = 10_000


def solve_rows(
    F: ArrayLike,
    G: ArrayLike,
    grid: Grid,
    scale: ArrayLike,
    *,
    method: str = "descent",
    start: ArrayLike | None = None,
    order: str = "greedy",
    width: int = 16,
    budget: int = 10_000,
) -> RowFit:
    """Find codes of one factor, the others and the scale being fixed.

    Parameters
    ----------
    F : array_like, shape (I, R)
        MTTKRP of the mode.
    G : array_like, shape (R, R)
        Gram matrix of the other modes.
    grid : Grid
        The codes; any grid but a logarithmic one.
    scale : array_like
        Positive; of shape (), (I, 1) or (1, R).
    method : {"round", "descent", "babai", "k-best", "sphere"}
        Round the least-squares factor; change single codes as long as that helps; decide one code
        after the other, the rest following as least squares; keep the ``width`` best of these
        decisions; or search them all, best first, up to ``budget`` decisions a row.
    start : array_like of int, shape (I, R), optional
        More codes from which 'descent' begins, besides the rounded ones; the best of what it finds
        and of where it began is taken. That is what 'sphere' has to beat, which lets descent begin
        from the codes of 'babai', too.
    order : {"greedy", "natural"}
        Which code is decided next by 'babai', 'k-best' and 'sphere': the one that is determined
        best, or from the last column to the first.
    width, budget : int
        Limits of 'k-best' and 'sphere'.

    Returns
    -------
    RowFit
        Codes, their objective, a lower bound, and which rows are proved optimal.

    Raises
    ------
    TypeError, ValueError
        If arrays are not finite and real or do not fit (``G`` has to be positive semidefinite up to
        the rounding of float32, 2**-18 per entry at unit diagonal, and the rows of ``F`` have to
        lie in its range), the scale is not positive or so large or small that squares leave
        float64, the grid is logarithmic, or options are unknown or belong to another method.

    Notes
    -----
    Problem :eq:`rows-problem`; :eq:`rows-descent`, :eq:`rows-babai`, :eq:`rows-tree`,
    :eq:`rows-bound` [beyond the paper; source: Babai 1986, Schnorr and Euchner 1994, and arXiv
    2507.18553 for GPTQ]. A Gram matrix that is singular at unit diagonal, up to rounding, gets a
    ridge of that level there, so that the heuristics have a triangle to work with. Proofs do not
    trust it: they hold for the matrix as given, with all rounding accounted for :eq:`proofs-reach`.
    A component whose diagonal entry of ``G`` is zero does not matter; it keeps its codes.

    **Laws**

    - *descent*: descent never raises an objective, and ends where no single code can be changed for
      the better, but for rounding
    - *gptq*: where ``G`` is regular, 'babai' is GPTQ run over the codes in the same order
    - *width-one*: 'k-best' of width 1 is 'babai'
    - *proved*: a proved row is optimal: no point of the box is better, in exact arithmetic
    - *bound*: no point of the box is below the bound, in exact arithmetic
    - *start*: a start never makes a result worse, and no result is worse than its start
    - *columns*: powers of two move between ``scale`` and the columns of ``F`` and ``G`` without
      changing the codes

    Examples
    --------
    >>> from qcp_ref import Grid, solve_rows
    >>> G = [[1.0, 0.9], [0.9, 1.0]]
    >>> F = [[0.86, 0.94]]
    >>> solve_rows(F, G, Grid(4), 1.0, method="round").codes
    array([[0, 1]], dtype=int8)
    >>> fit = solve_rows(F, G, Grid(4), 1.0, method="sphere")
    >>> fit.codes, fit.proved
    (array([[0, 1]], dtype=int8), array([ True]))
    """
    grid, F = check_rows_grid(grid), check_array(F, "F", ndim=2)
    G, scale = check_gram(G, F.shape[1]), check_scale(scale, F.shape)
    check_option(method, "method", METHODS)
    check_option(order, "order", ORDERS)
    width = check_int(width, "width", minimum=1, cap=2**16)
    budget = check_int(budget, "budget", minimum=0, cap=2**53)
    if start is not None and method not in ("descent", "sphere"):
        raise ValueError(f"start: expected None with method {method!r}, which starts from nothing")
    check_consistent(F, G)
    check_range(F, G, scale * step_of(grid))
    given = None
    if start is not None:
        given = in_levels(check_codes(start, F.shape, grid, "start"), grid)
    return fit_rows(F, G, grid, scale, Search(method, order, width, budget), given)


def fit_rows(
    F: Array,
    G: Array,
    grid: Grid,
    scale: Array,
    search: Search,
    given: Array | None,
    *,
    doubt: Doubt | None = None,
) -> RowFit:
    """Do what :func:`solve_rows` does, which has checked its arguments.

    With doubt about ``F`` and ``G``, in steps, what is proved holds for all that are meant.
    """
    steps = in_steps(F, G, grid, scale)
    doubt = Doubt(np.zeros_like(F), np.zeros_like(G)) if doubt is None else doubt
    exact = ExactRows(F, G, scale * step_of(grid))
    V = nearest_level(np.zeros_like(F), steps.box) if given is None else given.copy()
    bound, proved = np.zeros(len(F)), np.full(len(F), search.method == "sphere")
    # A component of zeros does not matter: it keeps its codes.
    alive = np.flatnonzero(np.diag(G))
    if alive.size:
        part = steps._replace(F=steps.F[:, alive], G=steps.G[np.ix_(alive, alive)])
        less = Doubt(doubt.F[:, alive], doubt.G[np.ix_(alive, alive)])
        begin = None if given is None else given[:, alive]
        V[:, alive], bound, proved = _Rows(part, exact.part(alive), less).solve(search, begin)
    objective = objectives(V, steps.F, steps.G, doubt)[0]
    low = bound * steps.weight
    low = np.nextafter(low - gamma_core(4) * np.abs(low), -np.inf)
    return RowFit(in_codes(V, grid), objective * steps.weight, low, proved)


def refit_scale(
    F: ArrayLike, G: ArrayLike, codes: ArrayLike, grid: Grid, scale: ArrayLike
) -> Array:
    """Choose the scale anew for given codes.

    Parameters
    ----------
    F, G
        As in :func:`solve_rows`.
    codes : array_like of int, shape (I, R)
        Codes of the factor.
    grid : Grid
        Their grid; any grid but a logarithmic one.
    scale : array_like
        The present scale, of shape (), (I, 1) or (1, R), which says how many there are.

    Returns
    -------
    ndarray
        The new scale, with the shape of the old one. The scales of rows and a single one are the
        best possible; those of columns are each the best when its turn comes, the others fixed.

    Raises
    ------
    TypeError, ValueError
        If arrays are not finite and real or do not fit, codes are not on the grid, the scale is not
        positive, or the grid is logarithmic.

    Notes
    -----
    Equation :eq:`rows-scale` [beyond the paper]. A scale that would not be positive, or does not
    matter because its codes are zero, meet a zero of ``G`` or cancel, is kept.

    **Laws**

    - *falls*: the objective never rises, but for rounding
    - *best*: for one scale, and for each row, no other positive scale has a smaller objective, but
      where the best one is not positive and the old one is kept
    - *rows*: the scale of a row is the one that the row alone would get

    Examples
    --------
    >>> from qcp_ref import Grid, refit_scale
    >>> refit_scale([[3.0, 6.0]], [[1.0, 0.0], [0.0, 1.0]], [[1, 2]], Grid(4), 1.0)
    array(3.)
    """
    grid, F = check_rows_grid(grid), check_array(F, "F", ndim=2)
    G, scale = check_gram(G, F.shape[1]), check_scale(scale, F.shape)
    V = in_levels(check_codes(codes, F.shape, grid), grid)
    return best_scales(F, G, V * step_of(grid), scale)


def check_consistent(F: Array, G: Array) -> None:
    """Refuse an ``F`` that no tensor can have with this ``G``: least squares would be unbounded."""
    dead = np.diag(G) == 0
    outside = np.abs(F[:, dead]).max(initial=0.0)
    if outside == 0:
        unit, lengths = unit_diagonal(G)
        if _is_regular(unit + np.diag(dead)):
            return
        scaled = F / lengths
        values, Q = np.linalg.eigh(unit)
        alive = Q[:, values > 10 * len(G) * _EPS * values[-1]]
        off = np.abs(scaled - (scaled @ alive) @ alive.T).max()
        outside = off if off > _OUTSIDE * np.abs(scaled).max() else 0.0
    if outside > 0:
        raise ValueError(
            f"F: expected rows in the range of G, got {outside:.2g} outside of it; "
            "take both from the same factors"
        )


def _is_regular(unit: Array) -> bool:
    """Whether a matrix of unit diagonal is clearly regular."""
    try:
        return bool((np.diag(np.linalg.cholesky(unit)) ** 2 > _REGULAR).all())
    except np.linalg.LinAlgError:
        return False


def check_range(F: Array, G: Array, step: Array) -> None:
    """Refuse a problem whose squares, in steps or in the data, leave the range of float64."""
    alive = np.diag(G) > 0
    lengths, steps = np.sqrt(np.diag(G)[alive]), np.broadcast_to(step, F.shape)[:, alive]
    sizes = np.append(step, lengths * steps)
    if sizes.min() < 1 / _LARGEST or sizes.max() > _LARGEST:
        raise ValueError(
            f"scale: expected numbers, and what G makes of them, from {1 / _LARGEST:.0e} to "
            f"{_LARGEST:.0e}, got {sizes.min():.3g} to {sizes.max():.3g}; rescale the data"
        )
    with np.errstate(over="ignore"):
        slopes = np.abs(F[:, alive]) / lengths
        largest = max(slopes.max(initial=0.0), (slopes / steps).max(initial=0.0))
    if largest > _LARGEST:
        most = f"at most {_LARGEST:.0e}"
        raise ValueError(f"scale: expected F {most} of its steps, got {largest:.3g}; rescale it")


def check_codes(
    codes: ArrayLike, shape: tuple[int, ...], grid: Grid, name: str = "codes"
) -> NDArray[Any]:
    """Return codes of this shape that lie on the grid."""
    k = check_integers(codes, name)
    if k.shape != shape or off_grid(k, grid):
        raise ValueError(
            f"{name}: expected shape {shape} with codes of {grid}, got shape {k.shape}"
            + (f" with codes from {k.min()} to {k.max()}" if k.size else "")
        )
    return k


class _Triangle(NamedTuple):
    """A problem as it is searched: ``||z - v L||^2``, columns reordered, with its margin."""

    z: Array
    L: Array
    last_first: NDArray[np.int64]  # the column that is decided first stands last
    space: Margin


class _Rows:
    """All rows of a problem without components of zeros, and what their methods share."""

    def __init__(self, steps: Steps, exact: ExactRows, doubt: Doubt) -> None:
        self.steps, self.exact, self.doubt = steps, exact, doubt

    def solve(self, search: Search, given: Array | None) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return levels, lower bounds in steps, and which rows are proved."""
        steps, method = self.steps, search.method
        # Only decisions ask for an order, and a good one takes longer than the rest.
        order = "natural" if method in ("round", "descent") else search.order
        L, last_first = root_triangle(steps.G, order)
        back = np.argsort(last_first)
        # v G v^T - 2 f v^T = ||z - v L||^2 - ||z||^2 with G = L L^T, z L^T = f
        z = np.asarray(np.linalg.solve(L, steps.F[:, last_first].T).T, dtype=np.float64)
        T = np.asarray(np.linalg.solve(L.T, z.T).T, dtype=np.float64)  # least squares
        space = self._margin(L, last_first, z)
        bound = relaxed(T, nearest_level(T, steps.box), z, L, space)
        rounded = nearest_level(T[:, back], steps.box)
        if method == "round":
            options = [rounded]
        elif method in ("babai", "k-best"):
            options = [_k_best(z, L, steps.box, search.width if method == "k-best" else 1)[:, back]]
        else:
            begins = [rounded] if given is None else [given, rounded]
            if method == "sphere":
                begins.append(_k_best(z, L, steps.box, 1)[:, back])
            options = [W for begin in begins for W in (descended(begin, steps), begin)]
        V = self._best(options)
        if method != "sphere":
            value, error = objectives(V, steps.F, steps.G, self.doubt)
            return V, np.minimum(bound, value - error), np.zeros(len(V), dtype=bool)
        return self._tree(V, bound, _Triangle(z, L, last_first, space), search.most_nodes)

    def _margin(self, L: Array, last_first: NDArray[np.int64], z: Array) -> Margin:
        (F, G, box, _), doubt = self.steps, self.doubt
        square = np.ix_(last_first, last_first)
        turned = Doubt(doubt.F[:, last_first], doubt.G[square])
        return margin(F[:, last_first], G[square], L, z, box, turned)

    def _best(self, options: list[Array]) -> Array:
        """Return the best option of each row; of equal ones the first."""
        (F, G, _, _), doubt, V = self.steps, self.doubt, options[0].copy()
        for W in options[1:]:
            other = np.flatnonzero((V != W).any(axis=1))
            less = Doubt(doubt.F[other], doubt.G)
            worse, better = differences(V[other], W[other], F[other], G, less)
            V[other[better]] = W[other[better]]
            for i in other[~worse & ~better].tolist():
                pair = np.stack([V[i], W[i]])
                V[i] = pair[self._better(pair, i)[0]]
        return V

    def _better(self, rows: Array, i: int) -> tuple[int, bool]:
        return best_row(rows, i, self.steps.F, self.steps.G, self.exact, self.doubt)

    def _tree(
        self, V: Array, bound: Array, triangle: "_Triangle", most_nodes: int
    ) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Search every row, from these levels on; decide among all that is within reach."""
        (z, L, last_first, space), back = triangle, np.argsort(triangle.last_first)
        (F, G, box, _), doubt, V = self.steps, self.doubt, V.copy()
        left, low = np.full((2, len(V)), np.inf)
        certain = np.ones(len(V), dtype=bool)
        slack = Slack(space.near, 2 * space.wide, space.grown)
        searches = search_rows(z, L, V.take(last_first, axis=1), box, most_nodes, slack)
        for i, search in enumerate(searches):
            left[i], found = search.left, search.rows[:, back]
            others = found[(found != V[i]).any(axis=1)]
            if len(others):
                rows = np.vstack([V[i], others])
                best, certain[i] = self._better(rows, i)
                V[i] = rows[best]
                value, error = objectives(rows, F[i], G, Doubt(doubt.F[i], doubt.G))
                low[i] = (value - error).min()
        value, error = objectives(V, F, G, doubt)
        proved = certain & (left == np.inf)
        low = np.where(proved, value - error, np.minimum(low, value - error))
        # Below what was looked at lies only what was left.
        ended = left == np.inf
        rest = np.where(ended, np.inf, lowered(np.where(ended, 0.0, left), space))
        tree = np.minimum(low, rest)
        return V, np.where(proved, low, np.minimum(low, np.maximum(bound, tree))), proved


def root_triangle(G: Array, order: str) -> tuple[Array, NDArray[np.int64]]:
    """Return the Cholesky factor of the reordered Gram matrix; its last row is decided first.

    At unit diagonal: where that is singular up to rounding, a ridge makes it regular.
    """
    unit, lengths = unit_diagonal(G)
    unit = unit + np.diag(np.diag(G) == 0)  # of a component of zeros: any pivot will do
    noise = 4 * len(G) * _EPS
    ridges = [noise * 8.0**n for n in range(40)]
    if _is_regular(unit) or (least := float(np.linalg.eigvalsh(unit)[0])) > noise:
        ridges = [0.0, *ridges]
    elif least < 0:
        ridges = [ridge - 2 * least for ridge in ridges]
    for ridge in ridges:
        system = unit + ridge * np.diag(np.diag(unit))
        last_first = np.arange(len(G))
        if order == "greedy":
            last_first = _order(system * np.outer(lengths, lengths))
        try:
            L = np.linalg.cholesky(system[np.ix_(last_first, last_first)])
        except np.linalg.LinAlgError:
            continue
        break
    return np.asarray(L * lengths[last_first, None], dtype=np.float64), last_first


def _order(G: Array) -> NDArray[np.int64]:
    """Return the columns so that each one, from the last, is the best determined of those left.

    The inverse's diagonal says how well; taking a column out is one step of elimination in it.
    """
    unit, lengths = unit_diagonal(G)
    lengths = lengths / lengths.min()
    P = np.linalg.pinv(unit, hermitian=True) / lengths / lengths[:, None]
    left, decided = np.ones(len(G), dtype=bool), []
    for _ in range(len(G)):
        r = int(np.argmin(np.where(left, np.diag(P), np.inf)))
        decided.append(r)
        left[r] = False
        if P[r, r] > 0:
            P = P - np.outer(P[:, r], P[r]) / P[r, r]
    return np.array(decided[::-1])


def _k_best(z: Array, L: Array, box: Box, width: int) -> Array:
    """Decide the last column first; keep the ``width`` best partial rows."""
    rows, rank = z.shape
    low, high, offset = box
    V, distance = np.zeros((rows, 1, rank)), np.zeros((rows, 1))
    for i in range(rank - 1, -1, -1):
        # v_i = P((z_i - sum over r > i of v_r L_ri) / L_ii)  :eq:`rows-babai`
        wanted = (z[:, None, i] - V[:, :, i + 1 :] @ L[i + 1 :, i]) / L[i, i]
        first = nearest_level(wanted, box)
        side = np.where(wanted >= first, 1.0, -1.0)
        # The nearest level and, with room for more than one row, its next two neighbours.
        choices = np.stack([first, first + side, first - side][: 1 if width == 1 else 3], axis=2)
        gap = L[i, i] * (wanted[:, :, None] - choices)
        inside = (low <= choices - offset) & (choices - offset <= high)
        total = np.where(inside, distance[:, :, None] + gap**2, np.inf).reshape(rows, -1)
        kept = np.argsort(total, axis=1, kind="stable")[:, :width]
        distance = np.take_along_axis(total, kept, axis=1)
        V = np.take_along_axis(V, (kept // choices.shape[2])[:, :, None], axis=1)
        V[:, :, i] = np.take_along_axis(choices.reshape(rows, -1), kept, axis=1)
    return V[:, 0]
