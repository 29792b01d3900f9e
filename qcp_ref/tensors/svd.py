r"""What is the best CP tensor of a matrix? Its truncated SVD.

For matrices the problem that the other chapters solve step by step has a closed solution: the
leading singular values and vectors give the best approximation of a rank :eq:`svd-best`, and of all
ways to write a matrix within a bound as a sum of components the one with the least norms is known
as well :eq:`svd-shrink`, :eq:`svd-equal`. So linear layers and 1x1 convolutions take no iterations.

A tensor is a matrix in effect if at most two of its sides are longer than 1: the columns of the
other modes are single numbers.

Simplified: the whole SVD is formed, not its leading part alone.

Checked by tests/tensors/test_svd.py.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import Array, check_rank, check_tensor
from qcp_ref.tensors.cp import CP, cp_of

__all__ = ["svd_cp"]

_TIE = 1e-8  # entries closer to the largest one than this share count as equally large


def svd_cp(X: ArrayLike, rank: int) -> CP:
    """Return the best CP tensor of a matrix: its truncated SVD, balanced.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        A matrix, or a tensor with at most two sides longer than 1.
    rank : int
        Number of components, at least 1. Those beyond the rank of the matrix are zero.

    Returns
    -------
    CP
        Components by descending norm, with unit weights and columns of equal norms.

    Raises
    ------
    TypeError, ValueError
        For an unusable array or rank, or a tensor with three or more sides longer than 1.

    Notes
    -----
    Equation :eq:`svd-best` [source: Eckart and Young]. The two modes of the matrix are those with
    sides longer than 1, or the first ones where fewer are. In the factor of the first of them the
    entry of largest magnitude of each column (the first of those that are equal up to 1e-8) is
    positive; the other one carries the signs; all other factors are positive. Singular values at
    the rounding level of the largest one count as zero.

    **Laws**

    - *best*: no CP tensor of this rank has a smaller error, up to rounding
    - *orthogonal*: the components are orthogonal to each other, in each factor with a long side
    - *balanced*: the columns of a component have equal norms, and the norms descend
    - *signs*: they are fixed, so the negative matrix has the same factors but for the one that
      carries the signs
    - *scale*: ``2**d`` times the tensor has twice the factors, bit for bit
    - *padded*: a rank beyond that of the matrix adds zero components only
    - *jacobi*: it equals Jacobi rotations with plain loops

    Examples
    --------
    >>> from qcp_ref import svd_cp
    >>> [A.tolist() for A in svd_cp([[0.0, -4.0], [0.0, 0.0]], 1).factors]
    [[[2.0], [0.0]], [[0.0], [-2.0]]]
    """
    X, rank = check_tensor(X), check_rank(rank)
    if not is_matrix(X.shape):
        raise ValueError(
            f"X: expected at most two sides longer than 1, got shape {X.shape}; use cp_als"
        )
    U, values, V = singular(X)
    U, V = U[:, :rank], V[:, :rank]
    signs = column_signs(U)
    return matrix_cp(X.shape, U * signs, V * signs, values[:rank], rank)


def is_matrix(shape: Sequence[int]) -> bool:
    """Say whether a tensor of this shape is a matrix in effect."""
    return sum(side > 1 for side in shape) <= 2


def long_modes(shape: Sequence[int]) -> tuple[int, int]:
    """Return the two modes of the matrix; single rows fill up where fewer sides are longer."""
    ordered = sorted(range(len(shape)), key=lambda n: (shape[n] == 1, n))
    first, second = sorted(ordered[:2])
    return first, second


def singular(X: Array) -> tuple[Array, Array, Array]:
    """Return the singular vectors and values of a matrix in effect; those of value 0 are cut off.

    Values at the rounding level have vectors that mean nothing, and are left out.
    """
    rows, columns = (X.shape[n] for n in long_modes(X.shape))
    shift = np.frexp(np.abs(X).max())[1] // X.ndim * X.ndim  # a power of two changes no digit
    M = np.ldexp(X.reshape(rows, columns), -shift)
    U, values, Vt = np.linalg.svd(M, full_matrices=False)
    alive = values > max(rows, columns) * np.finfo(np.float64).eps * values[0]
    return U[:, alive], np.ldexp(values[alive], shift), Vt[alive].T


def column_signs(U: Array) -> Array:
    """Return the signs that make the entry of largest magnitude of each column positive."""
    size = np.abs(U)
    first = (size >= (1 - _TIE) * size.max(axis=0)).argmax(axis=0)
    return np.where(U[first, np.arange(U.shape[1])] < 0, -1.0, 1.0)


def matrix_cp(shape: Sequence[int], U: Array, V: Array, norms: Array, rank: int) -> CP:
    """Build the balanced tensor from unit columns and the norms of the components."""
    parts = np.ones((len(shape), 1, len(norms)))
    sides = dict(zip(long_modes(shape), (U, V), strict=True))
    # The root of a power of two that the number of modes divides is a power of two.
    exponent = np.frexp(norms.max(initial=0.0))[1] // len(shape)
    roots = np.ldexp(np.ldexp(norms, -exponent * len(shape)) ** (1 / len(shape)), exponent)
    factors = [sides.get(n, parts[n]) * roots for n in range(len(shape))]
    return cp_of([np.pad(A, ((0, 0), (0, rank - len(norms)))) + 0.0 for A in factors])


def least_components(X: Array, rank: int, bound: float) -> CP:
    """Return the tensor of a matrix within an error bound whose components have least norms.

    All components have the same norm :eq:`svd-equal`. A bound below reach counts as the least
    error.
    """
    U, values, V = singular(X)
    kept, tail = values[:rank], values[rank:]
    size = values.max(initial=1.0)
    room = (bound / size) ** 2 - float(((tail / size) ** 2).sum())
    shrunk = np.maximum(kept - size * _cut(kept / size, room), 0.0)
    count = int(np.count_nonzero(shrunk))
    roots = np.sqrt(shrunk[:count] / size)
    signs = column_signs(U[:, :count])
    mixed = _equal_lengths(roots**2, rank) * roots[:, None]
    A, B = (W[:, :count] * signs @ mixed for W in (U, V))
    lengths = [np.linalg.norm(W, axis=0) for W in (A, B)]
    A, B = (W / np.where(n > 0, n, 1.0) for W, n in zip((A, B), lengths, strict=True))
    return matrix_cp(X.shape, A, B, lengths[0] * lengths[1] * size, rank)


def _cut(values: Array, room: float) -> float:
    """Return the amount ``t`` that shrinking may take off the values :eq:`svd-shrink`."""
    ascending = values[::-1]
    gone = np.append(0.0, np.cumsum(ascending**2))  # squares of the smallest values, wholly cut
    for m, value in enumerate(ascending):
        t = np.sqrt(max(room - gone[m], 0.0) / (len(values) - m))
        if t <= value:
            return float(t)
    return float(values.max(initial=0.0))


def _equal_lengths(values: Array, rank: int) -> Array:
    """Return orthonormal rows ``Q`` such that ``Q.T @ diag(values) @ Q`` has one diagonal entry.

    Each rotation turns the longest and the shortest column until the longest has the mean, which is
    then left alone. No two of the others share a row: they stay orthogonal in ``diag(values)``.
    """
    Q = np.eye(rank)[: len(values)]
    mean, open_ = values.sum() / rank, np.ones(rank, dtype=bool)
    for _ in range(rank - 1):
        squares = values @ Q**2
        i = int(np.where(open_, squares, -np.inf).argmax())
        j = int(np.where(open_, squares, np.inf).argmin())
        if i == j:
            break
        half, middle = (squares[i] - squares[j]) / 2, (squares[i] + squares[j]) / 2 - mean
        turn = np.arccos(np.clip(-middle / half, -1.0, 1.0))
        c, s = np.cos(turn / 2), np.sin(turn / 2)
        Q[:, i], Q[:, j] = c * Q[:, i] + s * Q[:, j], c * Q[:, j] - s * Q[:, i]
        open_[i] = False
    return Q
