"""Index loops of tensors: unfolding, products, CP tensors, least squares."""

from collections.abc import Sequence
from typing import Any

from qcp_ref.loops.nested import Matrix, Nested, at, build, indices, shape_of

__all__ = [
    "als_sweep",
    "fold",
    "gram",
    "jacobi",
    "khatri_rao",
    "mttkrp",
    "reconstruct",
    "solve",
    "squared_error",
    "unfold",
]


def unfold(X: Nested, mode: int) -> Nested:
    """M[i_n, c] = X[i_0, ..., i_(d-1)], where c counts the other indices: :eq:`tensor-unfold`."""
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
    """X[i_0, ..., i_(d-1)] = M[i_n, c]: the inverse of :eq:`tensor-unfold`."""

    def entry(*index: int) -> Any:
        column = 0
        for n, side in enumerate(shape):
            if n != mode:
                column = column * side + index[n]
        return M[index[mode]][column]

    return build(shape, entry)


def khatri_rao(matrices: Sequence[Matrix]) -> Nested:
    """K[(i, ..., j), r] = A[i, r] ... C[j, r], the last index fastest: :eq:`tensor-khatri-rao`."""
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
    """G[r, s] = prod over n of sum over i of A_n[i, r] A_n[i, s]: :eq:`tensor-gram`."""
    rank = len(factors[0][0])

    def entry(r: int, s: int) -> Any:
        value = 1
        for n, A in enumerate(factors):
            if n != mode:
                value = value * sum(row[r] * row[s] for row in A)
        return value

    return build((rank, rank), entry)


def mttkrp(X: Nested, factors: Sequence[Matrix], mode: int) -> Nested:
    """F[i_n, r] = sum of X[i_0, ...] prod over m != n of A_m[i_m, r]: :eq:`tensor-mttkrp`."""
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


def reconstruct(factors: Sequence[Matrix], weights: Sequence[Any] | None = None) -> Nested:
    """X[i_0, ...] = sum over r of w[r] prod over n of A_n[i_n, r]: :eq:`cp-model`."""
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


def solve(G: Matrix, F: Matrix) -> Nested:
    """Solve :eq:`als-normal` for a regular ``G`` by elimination."""
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


def jacobi(X: Matrix) -> list[tuple[list[Any], list[Any]]]:
    """Singular value decomposition by one-sided Jacobi rotations, largest first.

    Pairs of columns whose outer products add up to the matrix; the second ones have length 1, and
    both kinds are orthogonal among themselves.
    """
    rows, columns = shape_of(X)
    left = [[X[i][j] for i in range(rows)] for j in range(columns)]
    right = [[1 if i == j else 0 for i in range(columns)] for j in range(columns)]
    for _ in range(60):
        turned = False
        for p in range(columns):
            for q in range(p + 1, columns):
                a = sum(x * x for x in left[p])
                b = sum(x * x for x in left[q])
                c = sum(x * y for x, y in zip(left[p], left[q], strict=True))
                if c * c <= 2**-104 * a * b:
                    continue
                turned = True
                z = (b - a) / (2 * c)
                t = (1 if z >= 0 else -1) / (abs(z) + (1 + z * z) ** 0.5)
                cosine = (1 + t * t) ** -0.5
                for side in (left, right):
                    pairs = list(zip(side[p], side[q], strict=True))
                    side[p] = [cosine * (x - t * y) for x, y in pairs]
                    side[q] = [cosine * (t * x + y) for x, y in pairs]
        if not turned:
            break
    both = list(zip(left, right, strict=True))
    return sorted(both, key=lambda pair: -sum(x * x for x in pair[0]))


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
