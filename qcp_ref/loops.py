"""Appendix: every operation as plain index loops.

The definitions, read literally: sums over index tuples, nothing else. Tensors are nested sequences and numbers are
whatever Python arithmetic accepts, so the same lines run on floats, where they are an independent twin of the
vectorised chapters, and on ``fractions.Fraction``, where they are exact truth. Nothing here is shared with the
chapters; only tests and the oracle import it.

Arguments are trusted: well-formed nested lists (``array.tolist()`` makes them). Each function cites the equation that
it spells out.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

# A number of any type, a list of them, a list of lists...: mypy has no finite name for that.
Nested = Any
Matrix = Sequence[Sequence[Any]]

__all__ = [
    "admm",
    "als_sweep",
    "at",
    "build",
    "choose_scale",
    "code_range",
    "dequantize",
    "epc_tau",
    "fold",
    "gram",
    "grid_moments",
    "indices",
    "khatri_rao",
    "matmul",
    "mttkrp",
    "partial_error",
    "quantize",
    "reconstruct",
    "ridge",
    "shape_of",
    "solve",
    "spread",
    "squared_error",
    "unfold",
]


# --- nested lists as tensors ------------------------------------------------------------------------------


def shape_of(X: Nested) -> tuple[int, ...]:
    """Return the side lengths of a nested sequence."""
    sides = []
    while isinstance(X, (list, tuple)):
        sides.append(len(X))
        X = X[0]
    return tuple(sides)


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Run through all index tuples, the last index fastest."""
    return product(*(range(side) for side in shape))


def at(X: Nested, index: Sequence[int]) -> Any:
    """Return one entry of a nested sequence."""
    for i in index:
        X = X[i]
    return X


def build(shape: Sequence[int], entry: Callable[..., Any], index: tuple[int, ...] = ()) -> Nested:
    """Make a nested list from a function of the index tuple."""
    if len(index) == len(shape):
        return entry(*index)
    return [build(shape, entry, (*index, i)) for i in range(shape[len(index)])]


# --- tensor -----------------------------------------------------------------------------------------------


def unfold(X: Nested, mode: int) -> Nested:
    """Spell out :eq:`tensor-unfold`: the column number counts the other indices in C order."""
    shape = shape_of(X)
    columns = 1
    for n, side in enumerate(shape):
        if n != mode:
            columns *= side
    M = [[None] * columns for _ in range(shape[mode])]
    for index in indices(shape):
        column = 0
        for n, side in enumerate(shape):
            if n != mode:
                column = column * side + index[n]
        M[index[mode]][column] = at(X, index)
    return M


def fold(M: Matrix, mode: int, shape: Sequence[int]) -> Nested:
    """Spell out the inverse of :eq:`tensor-unfold`."""

    def entry(*index: int) -> Any:
        column = 0
        for n, side in enumerate(shape):
            if n != mode:
                column = column * side + index[n]
        return M[index[mode]][column]

    return build(shape, entry)


def khatri_rao(matrices: Sequence[Matrix]) -> Nested:
    """Spell out :eq:`tensor-khatri-rao`: one row per index tuple, the last index fastest."""
    rank = len(matrices[0][0])
    rows = []
    for index in indices([len(A) for A in matrices]):
        row = []
        for r in range(rank):
            entry = 1
            for A, i in zip(matrices, index, strict=True):
                entry = entry * A[i][r]
            row.append(entry)
        rows.append(row)
    return rows


def gram(factors: Sequence[Matrix], mode: int | None = None) -> Nested:
    """Spell out :eq:`tensor-gram`: products over modes of sums over rows."""
    rank = len(factors[0][0])

    def entry(r: int, s: int) -> Any:
        value = 1
        for n, A in enumerate(factors):
            if n != mode:
                value = value * sum(row[r] * row[s] for row in A)
        return value

    return build((rank, rank), entry)


def mttkrp(X: Nested, factors: Sequence[Matrix], mode: int) -> Nested:
    """Spell out :eq:`tensor-mttkrp`: a sum over all entries of the tensor."""
    shape, rank = shape_of(X), len(factors[0][0])
    F = [[0] * rank for _ in range(shape[mode])]
    for index in indices(shape):
        for r in range(rank):
            term = at(X, index)
            for n, A in enumerate(factors):
                if n != mode:
                    term = term * A[index[n]][r]
            F[index[mode]][r] = F[index[mode]][r] + term
    return F


# --- cp ---------------------------------------------------------------------------------------------------


def reconstruct(factors: Sequence[Matrix], weights: Sequence[Any] | None = None) -> Nested:
    """Spell out :eq:`cp-model`: each entry is a sum over the components."""
    rank = len(factors[0][0])

    def entry(*index: int) -> Any:
        value = 0
        for r in range(rank):
            term = 1 if weights is None else weights[r]
            for A, i in zip(factors, index, strict=True):
                term = term * A[i][r]
            value = value + term
        return value

    return build([len(A) for A in factors], entry)


# --- als --------------------------------------------------------------------------------------------------


def solve(G: Matrix, F: Matrix) -> Nested:
    """Solve :eq:`als-normal` for a regular ``G`` by elimination, one row of ``F`` after the other."""
    n = len(G)
    # G is symmetric, so each row a of the factor solves G a = f.
    work = [[*G[i], *(f[i] for f in F)] for i in range(n)]
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(work[i][k]))
        work[k], work[pivot] = work[pivot], work[k]
        for i in range(n):
            if i != k:
                ratio = work[i][k] / work[k][k]
                work[i] = [a - ratio * b for a, b in zip(work[i], work[k], strict=True)]
    return [[work[k][n + i] / work[k][k] for k in range(n)] for i in range(len(F))]


def als_sweep(X: Nested, factors: Sequence[Matrix]) -> Nested:
    """Update every factor once, each with the ones before it already new."""
    factors = list(factors)
    for n in range(len(factors)):
        factors[n] = solve(gram(factors, n), mttkrp(X, factors, n))
    return factors


def squared_error(X: Nested, factors: Sequence[Matrix]) -> Any:
    """Sum the squared differences of all entries."""
    fitted = reconstruct(factors)
    return sum((at(X, index) - at(fitted, index)) ** 2 for index in indices(shape_of(X)))


# --- grid -------------------------------------------------------------------------------------------------


def code_range(bits: int, narrow: bool = False, mid_rise: bool = False) -> tuple[int, int, Any]:
    """Spell out :eq:`grid-codes`: lowest code, highest code, distance of a level from its code."""
    half = 2 ** (bits - 1)
    return (1 - half if narrow else -half), half - 1, (Fraction(1, 2) if mid_rise else 0)


def spread(value: Nested, index: Sequence[int]) -> Any:
    """Return the entry that belongs to ``index``: a single number, or sides of 1 stand for all."""
    if not isinstance(value, (list, tuple)):
        return value
    shape = shape_of(value)
    return at(value, [0 if side == 1 else i for side, i in zip(shape, index, strict=True)])


def quantize(x: Nested, grid: dict[str, Any], scale: Nested, zero_point: Nested = 0) -> Nested:
    """Spell out :eq:`grid-quantize`; Python's ``round`` takes ties to even."""
    lowest, highest, offset = code_range(**grid)

    def entry(*index: int) -> Any:
        code = round(at(x, index) / spread(scale, index) - offset) + spread(zero_point, index)
        return min(max(code, lowest), highest)

    return build(shape_of(x), entry)


def dequantize(codes: Nested, scale: Nested, zero_point: Nested = 0) -> Nested:
    """Spell out :eq:`grid-dequantize`."""
    return build(
        shape_of(codes),
        lambda *index: spread(scale, index) * (at(codes, index) - spread(zero_point, index)),
    )


def grid_moments(x: Nested, grid: dict[str, Any], scale: Any) -> tuple[Any, Any]:
    """Return S1 and S2 of :eq:`grid-gain`."""
    offset = code_range(**grid)[2]
    codes = quantize(x, grid, scale)
    places = list(indices(shape_of(x)))
    levels = [at(codes, index) + offset for index in places]
    first = sum(at(x, index) * level for index, level in zip(places, levels, strict=True))
    return first, sum(level * level for level in levels)


def choose_scale(x: Nested, grid: dict[str, Any]) -> Any:
    """Spell out :eq:`grid-exact`: try every cell, and of equal gains take the largest scale."""
    lowest, highest, offset = code_range(**grid)
    breaks = {0}
    for index in indices(shape_of(x)):
        for code in range(lowest + 1, highest + 1):
            step = code + offset - Fraction(1, 2)
            if step * at(x, index) > 0:
                breaks.add(at(x, index) / step)
    ends = sorted(breaks)
    best, chosen = 0, 1
    for left, right in zip(ends, [*ends[1:], 2 * ends[-1] + 2], strict=True):
        first, second = grid_moments(x, grid, (left + right) / 2)
        if first > 0 and (first * first / second, first / second) > (best, chosen):
            best, chosen = first * first / second, first / second
    return chosen


# --- admm -------------------------------------------------------------------------------------------------


def matmul(A: Matrix, B: Matrix) -> Nested:
    """Multiply two matrices."""
    return [[sum(a * B[k][j] for k, a in enumerate(row)) for j in range(len(B[0]))] for row in A]


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


# --- epc --------------------------------------------------------------------------------------------------


def ridge(F: Matrix, G: Matrix, tau: Any) -> Nested:
    """Spell out :eq:`epc-ridge`."""
    rank = len(G)
    system = [[G[r][s] + (tau if r == s else 0) for s in range(rank)] for r in range(rank)]
    return solve(system, F)


def partial_error(F: Matrix, G: Matrix, U: Matrix, squared_norm: Any) -> Any:
    """Spell out :eq:`als-error`: the squared error in terms of one factor."""
    linear = sum(
        f * u for f_row, u_row in zip(F, U, strict=True) for f, u in zip(f_row, u_row, strict=True)
    )
    UG = matmul(U, G)
    quadratic = sum(
        a * u for a_row, u_row in zip(UG, U, strict=True) for a, u in zip(a_row, u_row, strict=True)
    )
    return squared_norm - 2 * linear + quadratic


def epc_tau(
    F: Matrix, G: Matrix, squared_norm: Any, squared_bound: Any, low: Any, high: Any, steps: int
) -> Any:
    """Bisect for the ridge parameter whose error meets the bound; the error rises with it."""
    for _ in range(steps):
        middle = (low + high) / 2
        if partial_error(F, G, ridge(F, G, middle), squared_norm) > squared_bound:
            high = middle
        else:
            low = middle
    return low
