"""Index loops of factors: correction, ADMM, rows of integers, sweeps on the codes."""

from collections.abc import Callable, Sequence
from typing import Any

from qcp_ref.loops.nested import Matrix, Nested, at, build, indices, matmul, shape_of
from qcp_ref.loops.tensors import gram, mttkrp, reconstruct, solve

__all__ = [
    "admm",
    "best_row",
    "descend",
    "epc_tau",
    "nearest_plane",
    "partial_error",
    "polish_sweep",
    "refit_scale",
    "ridge",
    "row_objective",
    "sensitivity",
]


def admm(
    F: Matrix,
    G: Matrix,
    project: Callable[[Nested], Nested],
    start: Matrix,
    dual: Matrix,
    steps: int,
) -> tuple[Nested, Nested, Nested]:
    """Make a given number of steps :eq:`admm-t` to :eq:`admm-u`; return H, T and U."""
    rows, rank = len(F), len(G)
    rho = sum(G[r][r] for r in range(rank)) / rank or 1
    system = [[G[r][s] + (rho if r == s else 0) for s in range(rank)] for r in range(rank)]
    H, T, U = start, start, dual
    for _ in range(steps):
        right = build((rows, rank), lambda i, r: F[i][r] + rho * (H[i][r] + U[i][r]))  # noqa: B023
        T = solve(system, right)
        H = project(build((rows, rank), lambda i, r: T[i][r] - U[i][r]))  # noqa: B023
        U = build((rows, rank), lambda i, r: U[i][r] + H[i][r] - T[i][r])  # noqa: B023
    return H, T, U


def ridge(F: Matrix, G: Matrix, tau: Any, weights: Sequence[Any] | None = None) -> Nested:
    """U = F (G + tau diag(omega))^-1: :eq:`epc-weighted`, with equal weights :eq:`epc-ridge`."""
    rank = len(G)
    omega = [1] * rank if weights is None else weights
    system = build((rank, rank), lambda r, s: G[r][s] + (tau * omega[r] if r == s else 0))
    return solve(system, F)


def partial_error(F: Matrix, G: Matrix, U: Matrix, squared_norm: Any) -> Any:
    """Return ||X||^2 - 2 <F, U> + <U G, U>, the squared error by one factor: :eq:`als-error`."""
    linear = sum(
        f * u for f_row, u_row in zip(F, U, strict=True) for f, u in zip(f_row, u_row, strict=True)
    )
    UG = matmul(U, G)
    quadratic = sum(
        a * u for a_row, u_row in zip(UG, U, strict=True) for a, u in zip(a_row, u_row, strict=True)
    )
    return squared_norm - 2 * linear + quadratic


def epc_tau(
    F: Matrix,
    G: Matrix,
    squared_norm: Any,
    squared_bound: Any,
    bracket: tuple[Any, Any],
    steps: int,
    *,
    weights: Sequence[Any] | None = None,
) -> Any:
    """Bisect for the ridge parameter whose error meets the bound; the error rises with it."""
    low, high = bracket
    for _ in range(steps):
        middle = (low + high) / 2
        if partial_error(F, G, ridge(F, G, middle, weights), squared_norm) > squared_bound:
            high = middle
        else:
            low = middle
    return low


def sensitivity(factors: Sequence[Matrix], weights: Sequence[Any] | None = None) -> Any:
    """Add up what a change by one of each entry alone does, squared: :eq:`epc-sensitivity`."""
    before, total = reconstruct(factors, weights), 0
    for n, A in enumerate(factors):
        for entry in indices(shape_of(A)):
            moved = build(shape_of(A), lambda *place: at(A, place) + (place == entry))  # noqa: B023
            after = reconstruct([*factors[:n], moved, *factors[n + 1 :]], weights)
            changes = (at(after, index) - at(before, index) for index in indices(shape_of(before)))
            total = total + sum(change**2 for change in changes)
    return total


def row_objective(f: Sequence[Any], G: Matrix, v: Sequence[Any]) -> Any:
    """Return v G v^T - 2 f v^T for one row of levels: :eq:`rows-problem`."""
    places = range(len(v))
    square = sum(v[r] * G[r][q] * v[q] for r in places for q in places)
    return square - 2 * sum(f[r] * v[r] for r in places)


def best_row(f: Sequence[Any], G: Matrix, levels: Sequence[Sequence[Any]]) -> list[Any]:
    """Try all rows of levels, given for each column; of equally good ones the first is returned."""
    rows: list[list[Any]] = [[]]
    for column in levels:
        rows = [[*row, level] for row in rows for level in column]
    return min(rows, key=lambda v: row_objective(f, G, v))


def descend(
    f: Sequence[Any], G: Matrix, v: Sequence[Any], dither: Sequence[Any], box: tuple[Any, Any, Any]
) -> list[Any]:
    """Set v_r <- P(v_r + (f - v G)_r / G_rr + d_r), one by one, in steps: :eq:`rows-descent`."""
    low, high, offset = box
    v = list(v)
    for r in range(len(v)):
        if G[r][r] != 0:
            others = sum(v[q] * G[q][r] for q in range(len(v)) if q != r)
            vertex = (f[r] - others) / G[r][r]
            v[r] = min(max(round(vertex + dither[r] - offset), low), high) + offset
    return v


def nearest_plane(
    f: Sequence[Any], G: Matrix, decided: Sequence[int], box: tuple[Any, Any, Any]
) -> list[Any]:
    """Decide the levels of one row in this order; the others follow by least squares each time."""
    low, high, offset = box
    known: dict[int, Any] = {}
    for r in decided:
        left = [q for q in range(len(f)) if q not in known]
        right = [f[q] - sum(v * G[p][q] for p, v in known.items()) for q in left]
        wanted = solve([[G[p][q] for q in left] for p in left], [right])[0][left.index(r)]
        known[r] = min(max(round(wanted - offset), low), high) + offset
    return [known[r] for r in range(len(f))]


def refit_scale(F: Matrix, G: Matrix, V: Matrix) -> Any:
    """Return s = <F, V> / <V G, V>: :eq:`rows-scale` for one scale."""
    VG = matmul(V, G)
    places = list(indices(shape_of(V)))
    top = sum(at(F, index) * at(V, index) for index in places)
    return top / sum(at(VG, index) * at(V, index) for index in places)


def polish_sweep(
    X: Nested, levels: Sequence[Matrix], scales: Sequence[Any], box: tuple[Any, Any, Any]
) -> tuple[Nested, Nested]:
    """Set V_n <- descent(V_n), then s_n <- refit(V_n), mode by mode: :eq:`search-sweep`.

    With one scale per factor; returns levels and scales.
    """
    levels, scales = list(levels), list(scales)
    for n in range(len(levels)):
        factors = [[[s * v for v in row] for row in V] for V, s in zip(levels, scales, strict=True)]
        F, G, s = mttkrp(X, factors, n), gram(factors, n), scales[n]
        still = [0] * len(G)
        levels[n] = [
            descend([f / s for f in row], G, v, still, box)
            for row, v in zip(F, levels[n], strict=True)
        ]
        scales[n] = refit_scale(F, G, levels[n])
    return levels, scales
