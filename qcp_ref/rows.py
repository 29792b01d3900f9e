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

Checked by tests/test_rows.py; the compiled loops by tests/test_kernels.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import Array, check_array, check_gram, check_int, check_option
from qcp_ref._kernels import can_compile, descend, sphere
from qcp_ref.grid import Grid, _check_grid, _check_scale, _off_grid

__all__ = ["RowFit", "refit_scale", "solve_rows"]

METHODS = ("round", "descent", "babai", "k-best", "sphere")
ORDERS = ("greedy", "natural")
_EPS = float(np.finfo(np.float64).eps)
_NULL = 1e-13  # share of its upper bound below which a squared norm is the rounding of zero
_BLOCK = 64  # columns whose residual is formed by one product
_MOST_PASSES = 1000  # descent cannot cycle, so this is never the reason to stop in practice

_Found: TypeAlias = tuple[Array, float, float, int]  # row, its distance, a bound of all, nodes


class RowFit(NamedTuple):
    """Result of :func:`solve_rows`, row by row.

    ``codes`` has shape (I, R). ``objective`` is the squared error less ``||X||^2``, summed it is
    that of the factor; ``bound`` is a number below which no codes can get at this scale; ``proved``
    says for which rows the search was finished, so that their codes are optimal.
    """

    codes: NDArray[np.integer[Any]]
    objective: Array
    bound: Array
    proved: NDArray[np.bool_]


class _Steps(NamedTuple):
    """A problem in steps of the scale, where levels are integers plus an offset, in a box."""

    F: Array
    G: Array
    box: tuple[float, float, float]  # lowest code, highest code, offset
    weight: Array  # of each row: what turns an objective in steps into one of the data


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
        Codes from which 'descent' begins; by default the rounded ones. What it finds is what
        'sphere' has to beat; by default the better of that and of descent from those of 'babai'.
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
        If arrays are not finite and real or do not fit (the rows of ``F`` have to lie in the range
        of ``G``), the scale is not positive, the grid is logarithmic, or options are unknown or
        belong to another method.

    Notes
    -----
    Problem :eq:`rows-problem`; :eq:`rows-descent`, :eq:`rows-babai`, :eq:`rows-tree`,
    :eq:`rows-bound` [beyond the paper; source: Babai 1986, Schnorr and Euchner 1994, and arXiv
    2507.18553 for GPTQ]. For a Gram matrix that is singular up to rounding, a ridge of the rounding
    level decides among the codes that fit equally well. A component whose diagonal entry of ``G``
    is zero does not matter; descent keeps its codes.

    **Laws**

    - descent never raises an objective, and ends where no single code can be changed for the better
    - 'babai' is GPTQ run over the codes in the same order
    - 'k-best' of width 1 is 'babai'
    - a proved row is optimal: no point of the box is better
    - no point of the box is below the bound

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
    grid = _check_rows_grid(grid)
    F = check_array(F, "F", ndim=2)
    G, scale = check_gram(G, F.shape[1]), _check_scale(scale, F.shape)
    check_option(method, "method", METHODS)
    check_option(order, "order", ORDERS)
    width, budget = check_int(width, "width", minimum=1), check_int(budget, "budget", minimum=0)
    if start is not None and method not in ("descent", "sphere"):
        raise ValueError(f"start: expected None with method {method!r}, which starts from nothing")
    _check_consistent(F, G)
    steps, given = _in_steps(F, G, grid, scale), None
    if start is not None:
        given = _in_levels(_check_codes(start, F.shape, grid), grid)
    V, bound, proved = _solve(steps, method, given, order, width, budget)
    objective = _objective(V, steps)
    # Where the search ended its own result is the bound, up to rounding that must not show.
    bound = np.where(proved, objective, np.minimum(bound, objective))
    codes = _in_codes(V, grid)
    return RowFit(codes, objective * steps.weight, bound * steps.weight, proved)


def refit_scale(
    F: ArrayLike, G: ArrayLike, codes: ArrayLike, grid: Grid, scale: ArrayLike
) -> Array:
    """Choose the scale anew for given codes.

    Parameters
    ----------
    F : array_like, shape (I, R)
        MTTKRP of the mode.
    G : array_like, shape (R, R)
        Gram matrix of the other modes.
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

    - the objective never rises
    - for one scale, and for rows, no other scale has a smaller one

    Examples
    --------
    >>> from qcp_ref import Grid, refit_scale
    >>> refit_scale([[3.0, 6.0]], [[1.0, 0.0], [0.0, 1.0]], [[1, 2]], Grid(4), 1.0)
    array(3.)
    """
    grid = _check_rows_grid(grid)
    F = check_array(F, "F", ndim=2)
    G, scale = check_gram(G, F.shape[1]), _check_scale(scale, F.shape)
    V = _in_levels(_check_codes(codes, F.shape, grid), grid)
    return _refit(F, G, V * _step(grid), scale)


def _refit(F: Array, G: Array, levels: Array, scale: Array) -> Array:
    """Spell out :eq:`rows-scale`; the levels are those at scale 1."""
    if scale.shape == (1, F.shape[1]):
        return _refit_columns(F, G, levels, scale)
    upper, lower = (np.einsum("ir,ir->i", M, levels) for M in (F, levels @ G))
    # Components may cancel; what is then left of what Cauchy-Schwarz allows is noise.
    most = (np.abs(levels) @ np.sqrt(np.diag(G))) ** 2
    top, bottom, most = (
        sums[:, None] if scale.ndim else sums.sum() for sums in (upper, lower, most)
    )
    good = (bottom > _NULL * most) & (top > 0)
    return np.asarray(np.where(good, top / np.where(good, bottom, 1.0), scale)).reshape(scale.shape)


def _refit_columns(F: Array, G: Array, levels: Array, scale: Array) -> Array:
    """Go through the columns once; each takes its best scale, if that is positive."""
    scale = scale.copy()
    residual = F - (levels * scale) @ G
    curvature = (levels**2).sum(axis=0) * np.diag(G)
    for r in np.flatnonzero(curvature > 0):
        change = levels[:, r] @ residual[:, r] / curvature[r]
        if scale[0, r] + change > 0:
            scale[0, r] += change
            residual -= np.outer(change * levels[:, r], G[r])
    return scale


def _check_rows_grid(grid: Any) -> Grid:
    checked = _check_grid(grid)
    if checked.kind == "log2":
        raise ValueError("grid: expected levels in equal steps, got a log2 grid; use 'authors'")
    return checked


def _check_consistent(F: Array, G: Array) -> None:
    """Refuse an ``F`` that no tensor can have with this ``G``: least squares would be unbounded."""
    values, Q = np.linalg.eigh(G)
    alive = Q[:, values > 10 * len(G) * _EPS * values[-1]]
    outside = np.abs(F - (F @ alive) @ alive.T).max()
    if outside > 1e-6 * np.abs(F).max():
        raise ValueError(
            f"F: expected rows in the range of G, got {outside:.2g} outside of it; "
            "take both from the same factors"
        )


def _check_codes(codes: ArrayLike, shape: tuple[int, ...], grid: Grid) -> NDArray[Any]:
    k = np.asarray(codes)
    if k.dtype.kind not in "iu":
        raise TypeError(f"codes: expected integers, got dtype {k.dtype}")
    if k.shape != shape or _off_grid(k, grid):
        raise ValueError(
            f"codes: expected shape {shape} with codes of {grid}, got shape {k.shape}"
            + (f" with codes from {k.min()} to {k.max()}" if k.size else "")
        )
    return k


def _step(grid: Grid) -> float:
    """Return the distance of two levels at scale 1: the binary ones are -1 and 1."""
    return 2.0 if grid.kind == "binary" else 1.0


def _in_levels(codes: NDArray[Any], grid: Grid) -> Array:
    """Return the levels of codes, in steps."""
    return codes / 2.0 if grid.kind == "binary" else codes + grid.offset


def _in_codes(V: Array, grid: Grid) -> NDArray[np.integer[Any]]:
    codes = 2.0 * V if grid.kind == "binary" else V - grid.offset
    return codes.astype(grid.dtype)


def _in_steps(F: Array, G: Array, grid: Grid, scale: Array) -> _Steps:
    """Measure a factor in steps: :eq:`rows-steps`."""
    step, rows = scale * _step(grid), len(F)
    box = (-1.0, 0.0, 0.5)  # binary: one step from -1/2 to 1/2
    if grid.kind != "binary":
        box = (float(grid.qmin), float(grid.qmax), grid.offset)
    if step.shape == (1, F.shape[1]):
        return _Steps(F * step, G * np.outer(step, step), box, np.ones(rows))
    return _Steps(F / step, G, box, np.broadcast_to(step**2, (rows, 1))[:, 0])


def _nearest(T: Array, box: tuple[float, float, float]) -> Array:
    """Return the nearest levels, in steps."""
    low, high, offset = box
    return np.asarray(np.clip(np.rint(T - offset), low, high) + offset)


def _objective(V: Array, steps: _Steps) -> Array:
    return np.asarray((V * (V @ steps.G - 2 * steps.F)).sum(axis=1))


def _solve(
    steps: _Steps, method: str, given: Array | None, order: str, width: int, budget: int
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return levels, lower bounds, and which rows are proved."""
    # Only decisions ask for an order, and a good one takes longer than the rest.
    L, last_first = _triangle(steps.G, "natural" if method in ("round", "descent") else order)
    back = np.argsort(last_first)
    z = np.asarray(np.linalg.solve(L, steps.F[:, last_first].T).T, dtype=np.float64)
    least_squares = np.asarray(np.linalg.solve(L.T, z.T).T[:, back], dtype=np.float64)
    bound, proved = _relaxed_bound(least_squares, z, steps), np.zeros(len(z), dtype=bool)
    if method in ("babai", "k-best"):
        V = _k_best(z, L, steps.box, width if method == "k-best" else 1)[:, back]
    elif given is not None:
        V = given
    else:
        V = _nearest(least_squares, steps.box)
    if method in ("descent", "sphere"):
        V = _descended(V, steps)
    if method == "sphere" and given is None:
        other = _descended(_k_best(z, L, steps.box, 1)[:, back], steps)
        V = np.where((_objective(other, steps) < _objective(V, steps))[:, None], other, V)
    if method == "sphere":
        search: Callable[..., _Found] = sphere if can_compile() else _search
        for i, row in enumerate(V[:, last_first]):
            best, distance, farthest, _ = search(z[i], L, row, steps.box, budget)
            V[i], proved[i] = best[back], farthest == distance
            bound[i] = max(bound[i], farthest - (z[i] ** 2).sum())
    return V, bound, proved


def _triangle(G: Array, order: str) -> tuple[Array, NDArray[np.int64]]:
    """Return the Cholesky factor of the reordered Gram matrix; its last row is decided first."""
    rank = len(G)
    size = float(np.trace(G)) / rank or 1.0
    for ridge in (0.0, 4 * rank * _EPS * size, 2.0**-20 * size):
        system = G + ridge * np.eye(rank)
        last_first = _order(system / size) if order == "greedy" else np.arange(rank)
        try:
            part = system[np.ix_(last_first, last_first)]
            L = np.asarray(np.linalg.cholesky(part), dtype=np.float64)
        except np.linalg.LinAlgError:
            continue
        if np.diag(L).min() ** 2 > rank * _EPS * size or ridge:
            break
    return L, last_first


def _order(G: Array) -> NDArray[np.int64]:
    """Return the columns so that each one, from the last, is the best determined of those left.

    The inverse's diagonal says how well; taking a column out is one step of elimination in it.
    """
    P = np.linalg.pinv(G, hermitian=True)
    left, decided = np.ones(len(G), dtype=bool), []
    for _ in range(len(G)):
        r = int(np.argmin(np.where(left, np.diag(P), np.inf)))
        decided.append(r)
        left[r] = False
        if P[r, r] > 0:
            P = P - np.outer(P[:, r], P[r]) / P[r, r]
    return np.array(decided[::-1])


def _relaxed_bound(least_squares: Array, z: Array, steps: _Steps) -> Array:
    """Bound the objective by its smallest curvature times the distance of the grid.

    Spells out :eq:`rows-bound`, less an allowance for rounding.
    """
    curvature = max(float(np.linalg.eigvalsh(steps.G)[0]), 0.0)
    away = ((least_squares - _nearest(least_squares, steps.box)) ** 2).sum(axis=1)
    size = (z**2).sum(axis=1)
    return np.asarray(curvature * away - size * (1 + 100 * len(steps.G) * _EPS))


def _descended(V: Array, steps: _Steps) -> Array:
    """Change single codes until none can be changed for the better."""
    V, still = V.copy(), np.zeros_like(V)
    for _ in range(_MOST_PASSES):
        if _pass(V, steps, still) == 0:
            break
    return V


def _pass(V: Array, steps: _Steps, dither: Array) -> int:
    """Let all rows descend once, in place, by blocks of columns; return how many codes changed.

    The residual of a block is formed when its turn comes, by one product with the levels as they
    are then. So changes need not be carried into all later columns one by one.
    """
    changed = 0
    round_once: Callable[..., int] = descend if can_compile() else _descend
    for start in range(0, V.shape[1], _BLOCK):
        own = slice(start, start + _BLOCK)
        residual = steps.F[:, own] - V @ steps.G[:, own]
        part, noise = V[:, own].copy(), dither[:, own].copy()
        changed += round_once(part, residual, steps.G[own, own].copy(), noise, steps.box)
        V[:, own] = part
    return changed


def _descend(
    V: Array, residual: Array, G: Array, dither: Array, box: tuple[float, float, float]
) -> int:
    """Spell out :eq:`rows-descent` for all rows at once, column by column, in place.

    The kernel of the same name is faster, and gives the same bits.
    """
    changed = 0
    for r in np.flatnonzero(np.diag(G) > 0):
        wanted = V[:, r] + residual[:, r] / G[r, r] + dither[:, r]
        move = _nearest(wanted, box) - V[:, r]
        V[:, r] += move
        residual -= np.outer(move, G[r])
        changed += int(np.count_nonzero(move))
    return changed


def _k_best(z: Array, L: Array, box: tuple[float, float, float], width: int) -> Array:
    """Decide the last column first; keep the ``width`` best partial rows, :eq:`rows-babai`."""
    rows, rank = z.shape
    low, high, offset = box
    V, distance = np.zeros((rows, 1, rank)), np.zeros((rows, 1))
    for i in range(rank - 1, -1, -1):
        wanted = (z[:, None, i] - V[:, :, i + 1 :] @ L[i + 1 :, i]) / L[i, i]
        first = _nearest(wanted, box)
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


def _search(
    z: Array, L: Array, start: Array, box: tuple[float, float, float], budget: int
) -> _Found:
    """Spell out :eq:`rows-tree` for one row, depth first; the kernel ``sphere`` is faster.

    One code after the other is decided, the last one first, and where the rest of the row cannot
    repair what it costs, the next one is tried: the nearest, then further ones on both sides.
    """
    rank, v, low, high, offset = len(z), np.zeros(len(z)), int(box[0]), int(box[1]), box[2]
    targets, sizes = (z - offset * L.sum(axis=0)).tolist(), np.diag(L).tolist()
    decided = [v[i + 1 :].dot for i in range(rank)]  # products with the codes that are decided
    columns = [column[i + 1 :] for i, column in enumerate(np.ascontiguousarray(L.T))]
    best, radius, bound, nodes = start, float(((z - start @ L) ** 2).sum()), np.inf, 0
    centre, spent, code, step = [0.0] * rank, [0.0] * (rank + 1), [0] * rank, [0] * rank
    i, entered = rank - 1, True
    while i < rank:
        if entered:
            centre[i] = (targets[i] - float(decided[i](columns[i]))) / sizes[i]
            k = round(centre[i])
            k = k if low <= k <= high else low if k < low else high
            step[i] = 1 if centre[i] >= k else -1
        else:
            k = code[i] + step[i]
            step[i] = -step[i] - 1 if step[i] > 0 else -step[i] + 1
            if not low <= k <= high:  # this side of the box is used up, not yet the other one
                k += step[i]
                step[i] = -step[i] - 1 if step[i] > 0 else -step[i] + 1
        code[i], entered = k, False
        gap = (centre[i] - k) * sizes[i]
        distance = spent[i + 1] + gap * gap
        if distance >= radius or not low <= k <= high:
            i += 1
        elif nodes >= budget:  # what is left here and above is at least this far away
            bound = min(bound, distance)
            i += 1
        else:
            nodes, v[i] = nodes + 1, k
            if i == 0:
                best, radius = v + offset, distance
            else:
                spent[i], i, entered = distance, i - 1, True
    return best, radius, min(bound, radius), nodes
