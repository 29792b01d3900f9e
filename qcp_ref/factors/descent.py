r"""How are codes improved one at a time? Coordinate descent on the rows of a factor.

Levels are counted in steps of the grid, and ``F`` and ``G`` are scaled to match, so that all rows
are integer problems of one kind :eq:`rows-problem`. A pass visits the columns and moves each code
to its best level while all others stay :eq:`rows-descent`; in turn the scale that suits the codes
best is :eq:`rows-scale`. The chapters on rows, on the search and on the output of a layer stand on
this one.

Nothing is checked here but the grid: callers check what they are given at their door.

Checked by tests/factors/test_rows.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcp_ref._checks import Array
from qcp_ref._kernels import Box, can_compile, descend
from qcp_ref.factors.proofs import Steps
from qcp_ref.grids.grid import Grid, check_grid

__all__: list[str] = []

NULL_SHARE = 1e-13  # share of its upper bound below which a squared norm is the rounding of zero
_BLOCK = 64  # columns whose residual is formed by one product
_MOST_PASSES = 1000  # descent cannot cycle, so this is never the reason to stop in practice


def best_scales(F: Array, G: Array, levels: Array, scale: Array) -> Array:
    """Return the scales that suit these levels, which are those at scale 1, best."""
    if scale.shape == (1, F.shape[1]):
        return _refit_columns(F, G, levels, scale)
    # s = <F, V> / <V G, V>, or s_i = (F V^T)_ii / (V G V^T)_ii  :eq:`rows-scale`
    upper, lower = (np.einsum("ir,ir->i", M, levels) for M in (F, levels @ G))
    # Components may cancel; what is then left of what Cauchy-Schwarz allows is noise.
    most = (np.abs(levels) @ np.sqrt(np.diag(G))) ** 2
    top, bottom, most = (
        sums[:, None] if scale.ndim else sums.sum() for sums in (upper, lower, most)
    )
    good = (bottom > NULL_SHARE * most) & (top > 0)
    return np.asarray(np.where(good, top / np.where(good, bottom, 1.0), scale)).reshape(scale.shape)


def _refit_columns(F: Array, G: Array, levels: Array, scale: Array) -> Array:
    """Go through the columns once; each takes its best scale, if that is positive."""
    scale = scale.copy()
    residual = F - (levels * scale) @ G
    curvature = (levels**2).sum(axis=0) * np.diag(G)
    for r in np.flatnonzero(curvature > 0):
        # s_r <- s_r + (V^T (F - V diag(s) G))_rr / ((V^T V)_rr G_rr)  :eq:`rows-scale`
        change = levels[:, r] @ residual[:, r] / curvature[r]
        if scale[0, r] + change > 0:
            scale[0, r] += change
            residual -= np.outer(change * levels[:, r], G[r])
    return scale


def check_rows_grid(grid: Any, name: str = "grid") -> Grid:
    """Refuse a grid whose levels are not equally far apart."""
    checked = check_grid(grid)
    if checked.kind == "log2":
        raise ValueError(f"{name}: expected levels in equal steps, got a log2 grid; use 'authors'")
    return checked


def step_of(grid: Grid) -> float:
    """Return the distance of two levels at scale 1: the binary ones are -1 and 1."""
    return 2.0 if grid.kind == "binary" else 1.0


def in_levels(codes: NDArray[Any], grid: Grid) -> Array:
    """Return the levels of codes, in steps."""
    return codes / 2.0 if grid.kind == "binary" else codes + grid.offset


def in_codes(V: Array, grid: Grid) -> NDArray[np.integer[Any]]:
    """Return the codes of levels: the inverse of `in_levels`."""
    codes = 2.0 * V if grid.kind == "binary" else V - grid.offset
    return codes.astype(grid.dtype)


def in_steps(F: Array, G: Array, grid: Grid, scale: Array) -> Steps:
    """Measure a factor in steps."""
    step, rows = scale * step_of(grid), len(F)
    box = Box(float(grid.qmin), float(grid.qmax), grid.offset)
    if grid.kind == "binary":
        box = Box(-1.0, 0.0, 0.5)  # one step from -1/2 to 1/2
    if step.shape == (1, F.shape[1]):
        # f_r <- s_r f_r, G_rq <- s_r G_rq s_q  :eq:`rows-steps`
        # The product of two steps may leave the range of float64 where its product with G does not.
        mantissa, exponent = np.frexp(step)
        products = np.ldexp(G * np.outer(mantissa, mantissa), exponent + exponent.T)
        return Steps(F * step, products, box, np.ones(rows))
    # f <- f / s, G <- G  :eq:`rows-steps`
    return Steps(F / step, G, box, np.broadcast_to(step**2, (rows, 1))[:, 0])


def nearest_level(T: Array, box: Box) -> Array:
    """Return the nearest levels, in steps."""
    low, high, offset = box
    return np.asarray(np.clip(np.rint(T - offset), low, high) + offset)


def descended(V: Array, steps: Steps) -> Array:
    """Change single codes until none can be changed for the better."""
    V, still = V.copy(), np.zeros_like(V)
    for _ in range(_MOST_PASSES):
        if descent_pass(V, steps, still) == 0:
            break
    return V


def descent_pass(V: Array, steps: Steps, dither: Array) -> int:
    """Let all rows descend once, in place, by blocks of columns; return how many codes changed.

    The residual of a block is formed when its turn comes, by one product with the levels as they
    are then. So changes need not be carried into all later columns one by one.
    """
    changed = 0
    round_once: Callable[..., int] = descend if can_compile() else descend_columns
    for start in range(0, V.shape[1], _BLOCK):
        own = slice(start, start + _BLOCK)
        residual = steps.F[:, own] - V @ steps.G[:, own]
        part, noise = V[:, own].copy(), dither[:, own].copy()
        changed += round_once(part, residual, steps.G[own, own].copy(), noise, steps.box)
        V[:, own] = part
    return changed


def descend_columns(V: Array, residual: Array, G: Array, dither: Array, box: Box) -> int:
    """Round each entry to its own best level once, all rows together, in place.

    The kernel of the same name is faster, and gives the same bits.
    """
    changed = 0
    for r in np.flatnonzero(np.diag(G) > 0):
        # v_r <- P(v_r + (f - v G)_r / G_rr + d_r)  :eq:`rows-descent`
        wanted = V[:, r] + residual[:, r] / G[r, r] + dither[:, r]
        move = nearest_level(wanted, box) - V[:, r]
        V[:, r] += move
        residual -= np.outer(move, G[r])
        changed += int(np.count_nonzero(move))
    return changed
