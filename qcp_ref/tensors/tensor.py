r"""What are unfolding, Khatri-Rao product, MTTKRP and Gram matrix?

A tensor ``X`` with ``d >= 2`` modes has shape ``(I_0, ..., I_{d-1})``; a CP tensor of rank ``R``
has one factor ``A_n`` of shape ``(I_n, R)`` per mode. Everything here is an index formula first:
:eq:`tensor-unfold`, :eq:`tensor-khatri-rao`, :eq:`tensor-mttkrp` and :eq:`tensor-gram`. The one
choice is C order: of the modes that share a matrix side, the last runs fastest, in the unfolding
and in the Khatri-Rao product alike. Other libraries unfold in Fortran order; MTTKRP and Gram do not
depend on the choice.

The naive MTTKRP unfolds the tensor and multiplies it with the full Khatri-Rao matrix. Here the
products are blocked over columns, and a whole sweep over the modes shares its large products:
:func:`mttkrp_sweep` needs two of them for any number of modes :eq:`tensor-sweep`. Where products
might leave the range of float64 half-way, mantissas and exponents are kept apart: only a result
that float64 cannot hold is refused, and none becomes 0 on the way.

On one page (``qcp_ref/minimal.py``) this is ``khatri_rao`` and ``normal_equations``. What breaks
there: the Khatri-Rao product of a large layer is larger than its kernel, and squares of numbers far
from 1 leave float64.

Simplified: no sparse tensors, and modes are not reordered to save memory.

Checked by tests/tensors/test_tensor.py.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from math import prod

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import Array, check_array, check_factors, check_ints, check_mode
from qcp_ref._wide import Wide, bilinear, fits, narrow, span, times, wide

__all__ = ["fold", "gram", "khatri_rao", "mttkrp", "mttkrp_sweep", "unfold"]

_BLOCK_BYTES = 2**24  # temporaries of one block; well below the 32 MB that mttkrp promises


def unfold(X: ArrayLike, mode: int) -> Array:
    """Write a tensor as a matrix whose rows belong to one mode.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        Tensor with at least two modes.
    mode : int
        The mode ``n`` that becomes the rows.

    Returns
    -------
    ndarray, shape (I_n, I_0 ... I_{n-1} I_{n+1} ... I_{d-1})
        The unfolding; of the remaining modes the last one runs fastest. Always a copy.

    Raises
    ------
    TypeError, ValueError
        If ``X`` is not a finite real tensor or ``mode`` is not one of its modes.

    Notes
    -----
    Equation :eq:`tensor-unfold` [source: Kolda and Bader 2009, in C order].

    **Laws**

    - *index*: each entry sits where the index formula puts it
    - *inverse*: ``fold(unfold(X, n), n, X.shape)`` is ``X``

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import unfold
    >>> X = np.arange(24).reshape(2, 3, 4)
    >>> unfold(X, 1)[0]
    array([ 0.,  1.,  2.,  3., 12., 13., 14., 15.])
    """
    X = check_array(X, "X", min_ndim=2)
    return unfold_core(X, check_mode(mode, X.ndim))


def unfold_core(X: Array, mode: int) -> Array:
    """Do what :func:`unfold` does, without checks."""
    # X_(n)[i_n, (i_0, ..., i_{n-1}, i_{n+1}, ...)] = X[i_0, ..., i_{d-1}]  :eq:`tensor-unfold`
    return np.array(np.moveaxis(X, mode, 0), order="C").reshape(X.shape[mode], -1)


def fold(M: ArrayLike, mode: int, shape: Sequence[int]) -> Array:
    """Turn an unfolding back into a tensor.

    Parameters
    ----------
    M : array_like, shape (I_n, product of the other sides)
        Unfolding along ``mode``.
    mode : int
        The mode ``n`` of the rows.
    shape : sequence of int
        Shape ``(I_0, ..., I_{d-1})`` of the tensor.

    Returns
    -------
    ndarray, shape (I_0, ..., I_{d-1})
        The tensor. Always a copy.

    Raises
    ------
    TypeError, ValueError
        If the matrix does not have the shape that the unfolding of such a tensor has.

    Notes
    -----
    The inverse of :eq:`tensor-unfold`.

    **Laws**

    - *inverse*: ``unfold(fold(M, n, shape), n)`` is ``M``

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import fold, unfold
    >>> X = np.arange(24).reshape(2, 3, 4)
    >>> np.array_equal(fold(unfold(X, 2), 2, X.shape), X)
    True
    """
    M = check_array(M, "M", ndim=2)
    shape = check_ints(shape, "shape", minimum=1, cap=2**53)
    if len(shape) < 2:
        raise ValueError(f"shape: expected at least 2 sides, got {shape}")
    mode = check_mode(mode, len(shape))
    others = shape[:mode] + shape[mode + 1 :]
    if M.shape != (shape[mode], prod(others)):
        raise ValueError(
            f"M: expected shape {(shape[mode], prod(others))} for mode {mode} of {shape}, "
            f"got {M.shape}"
        )
    return np.array(np.moveaxis(M.reshape(shape[mode], *others), 0, mode), order="C")


def khatri_rao(matrices: Sequence[ArrayLike]) -> Array:
    """Return the column-wise Kronecker product of matrices.

    Parameters
    ----------
    matrices : sequence of array_like, shapes (I_n, R)
        At least two matrices with the same number of columns.

    Returns
    -------
    ndarray, shape (I_0 I_1 ..., R)
        Rows in C order: the row index of the last matrix runs fastest, which fits :func:`unfold`.

    Raises
    ------
    TypeError, ValueError
        If the matrices are not finite, real and of equal column count, or float64 cannot hold the
        product.

    Notes
    -----
    Equation :eq:`tensor-khatri-rao` [source: Kolda and Bader 2009, in C order].

    **Laws**

    - *index*: each entry is the product that the index formula names
    - *range*: the same holds for entries of any magnitude
    - *associative*: the product is associative, up to rounding
    - *gram*: its Gram matrix is the Hadamard product of the Gram matrices, up to rounding

    Examples
    --------
    >>> from qcp_ref import khatri_rao
    >>> khatri_rao([[[1, 2], [3, 4]], [[1, 10], [2, 20]]])
    array([[ 1., 20.],
           [ 2., 40.],
           [ 3., 40.],
           [ 6., 80.]])
    """
    return khatri_rao_of_any(check_factors(matrices, "matrices"))


def khatri_rao_of_any(matrices: Sequence[Array]) -> Array:
    """Do what :func:`khatri_rao` does, without checks: for entries of any magnitude."""
    if fits(*map(span, matrices)):
        return khatri_rao_core(matrices, matrices[0].shape[1])
    return narrow(wide_khatri_rao([wide(A) for A in matrices]), "matrices")


def khatri_rao_core(matrices: Sequence[Array], rank: int) -> Array:
    """Multiply what lies near 1, without checks; of no matrices, a row of ones."""
    # K[(i, j, ...), r] = A[i, r] B[j, r] ...  :eq:`tensor-khatri-rao`
    product = np.ones((1, rank))  # the empty product: mode 0 has nothing before it
    for A in matrices:
        product = (product[:, None, :] * A[None, :, :]).reshape(-1, rank)
    return product  # (I J ..., R)


def gram(factors: Sequence[ArrayLike], mode: int | None = None) -> Array:
    """Return the Gram matrix of the rank-one terms, seen from one mode.

    Parameters
    ----------
    factors : sequence of array_like, shapes (I_n, R)
        The factors, one per mode.
    mode : int or None
        The mode that is left out; None leaves none out.

    Returns
    -------
    ndarray, shape (R, R)
        The matrix ``G``; symmetric, positive semidefinite.

    Raises
    ------
    TypeError, ValueError
        If the factors are not finite, real and of equal column count, ``mode`` is not one of them,
        or float64 cannot hold the result.

    Notes
    -----
    Equation :eq:`tensor-gram`.

    **Laws**

    - *range*: it is what exact sums give, up to rounding, for entries of any magnitude
    - *explicit*: it is the Gram matrix of the explicit Khatri-Rao product of the remaining
      factors
    - *symmetric*: it is symmetric, bit for bit
    - *norm*: without ``mode`` its sum is the squared norm of the CP tensor

    Examples
    --------
    >>> from qcp_ref import gram
    >>> gram([[[1, 2]], [[3, 0], [0, 1]], [[1, 1]]], 0)
    array([[9., 0.],
           [0., 1.]])
    """
    matrices = check_factors(factors)
    return gram_core(matrices, None if mode is None else check_mode(mode, len(matrices)))


def gram_core(factors: Sequence[Array], mode: int | None = None) -> Array:
    """Do what :func:`gram` does, without checks."""
    rest = [A for n, A in enumerate(factors) if n != mode]
    if fits(*map(span, rest * 2)):
        # G = product over m != n of A_m^T A_m, entry by entry  :eq:`tensor-gram`
        G = np.ones((factors[0].shape[1],) * 2)
        for A in rest:
            G *= A.T @ A
    else:
        W = [wide(A) for A in rest]
        G = narrow(wide_products(W, W), "factors")
    # BLAS may round the two triangles differently; one triangle decides.
    return np.asarray(np.tril(G) + np.tril(G, -1).T)  # (R, R)


def mttkrp(X: ArrayLike, factors: Sequence[ArrayLike], mode: int) -> Array:
    """Multiply an unfolded tensor with the Khatri-Rao product of all other factors.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        Tensor with at least two modes.
    factors : sequence of array_like, shapes (I_n, R)
        One matrix per mode; the one of ``mode`` enters only by its shape.
    mode : int
        The mode ``n`` that remains.

    Returns
    -------
    ndarray, shape (I_n, R)
        The matrix ``F``.

    Raises
    ------
    TypeError, ValueError
        If ``X`` or the factors are not finite and real, their shapes do not fit, or float64 cannot
        hold the result.

    Notes
    -----
    Equation :eq:`tensor-mttkrp`. Columns are computed in blocks, so that the temporaries stay below
    the larger of the tensor's own size and 32 MB (a strided ``X`` is copied once besides). Where
    products might leave the range of float64 there is no such limit.

    **Laws**

    - *sum*: it equals the sum over all entries of the tensor
    - *range*: the same holds for entries of any magnitude
    - *adjoint*: it is adjoint to the reconstruction, ``<X, [[A_0, ..., A_{d-1}]]> = <A_n,
      mttkrp(X, factors, n)>``
    - *blocks*: the blocks do not show, any block size gives the same matrix up to rounding

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import mttkrp
    >>> X = np.arange(8).reshape(2, 2, 2)
    >>> mttkrp(X, [[[0], [0]], [[1], [1]], [[1], [-1]]], 0)
    array([[-2.],
           [-2.]])
    """
    X = check_array(X, "X", min_ndim=2)
    matrices = check_factors(factors, shape=X.shape)
    return mttkrp_core(X, matrices, check_mode(mode, X.ndim))


def mttkrp_core(X: Array, factors: Sequence[Array], mode: int) -> Array:
    """Do what :func:`mttkrp` does, without checks."""
    X = np.ascontiguousarray(X)
    # F = X_(n) K, K the Khatri-Rao product of all factors but A_n  :eq:`tensor-mttkrp`
    if fits(span(X), *_spans(factors, mode)):
        return _mttkrp(X, factors, mode)  # (I_n, R)
    return _wide_mttkrp(X, factors, mode)


def mttkrp_sweep(X: ArrayLike, factors: list[ArrayLike]) -> Iterator[tuple[int, Array]]:
    """Go through the modes once, sharing the large products between them.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        Tensor with at least two modes.
    factors : list of array_like, shapes (I_n, R)
        The caller replaces ``factors[n]`` before it asks for the next mode; the list is read, never
        changed.

    Yields
    ------
    mode : int
        0, 1, ..., d - 1.
    F : ndarray, shape (I_n, R)
        ``mttkrp(X, factors, mode)`` for the factors as they are at that moment.

    Raises
    ------
    TypeError, ValueError
        If ``X`` or the factors are not finite and real, their shapes do not fit, or float64 cannot
        hold a result. Factors are looked at again before each mode.

    Notes
    -----
    Equation :eq:`tensor-sweep` [derived]. Mode 0 costs one product with the tensor; the second
    contracts mode 0 away, and what is left (``R / I_0`` times the tensor's size) serves every other
    mode by small products. From the mode on where products might leave the range of float64, each
    mode is a :func:`mttkrp` of its own, which reads the tensor.

    **Laws**

    - *range*: it yields what :func:`mttkrp` gives for entries of any magnitude
    - *updated*: each yielded matrix is the MTTKRP with the factors updated so far
    - *reads*: from mode 1 on the tensor itself is not read any more, two large products per sweep

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import mttkrp, mttkrp_sweep
    >>> X = np.arange(24.0).reshape(2, 3, 4)
    >>> factors = [np.ones((side, 1)) for side in X.shape]
    >>> for mode, F in mttkrp_sweep(X, factors):
    ...     assert np.array_equal(F, mttkrp(X, factors, mode))
    ...     factors[mode] = F % 3
    """
    X = np.ascontiguousarray(check_array(X, "X", min_ndim=2))
    if isinstance(factors, Iterator):
        raise TypeError(
            f"factors: expected a list, which can be read again, got {type(factors).__name__}"
        )
    matrices = check_factors(factors, shape=X.shape)
    core, own, inside = sweep_core(X, matrices), span(X), True
    for mode in range(X.ndim):
        matrices[:] = check_factors(factors, shape=X.shape)
        inside = inside and fits(own, *_spans(matrices, mode))
        yield mode, next(core)[1] if inside else _wide_mttkrp(X, matrices, mode)


def sweep_core(X: Array, factors: list[Array]) -> Iterator[tuple[int, Array]]:
    """Do what :func:`mttkrp_sweep` does for a C-contiguous tensor, without checks."""
    yield 0, _mttkrp(X, factors, 0)
    # T[r, rest] = sum_i A_0[i, r] X[i, rest]; each updated factor then contracts one more mode
    # away, T[r, rest] = sum_i A_n[i, r] T[r, i, rest]  :eq:`tensor-sweep`
    T = factors[0].T @ X.reshape(X.shape[0], -1)  # (R, I_1 ... I_{d-1})
    rank = T.shape[0]
    for mode in range(1, X.ndim - 1):
        T = T.reshape(rank, X.shape[mode], -1)
        right = khatri_rao_core(factors[mode + 1 :], rank)
        yield mode, np.matmul(T, right.T[:, :, None])[:, :, 0].T  # (I_n, R)
        T = np.matmul(factors[mode].T[:, None, :], T)[:, 0, :]
    yield X.ndim - 1, T.T


def _spans(factors: Sequence[Array], mode: int) -> list[tuple[int, int]]:
    """Return the spans of the factors that enter a product; the one of the mode does not."""
    return [span(A) for n, A in enumerate(factors) if n != mode]


def wide_khatri_rao(matrices: Sequence[Wide]) -> Wide:
    """Khatri-Rao product with mantissas and exponents apart."""
    product, *rest = matrices
    for A in rest:
        pairs = times(product.of(lambda x: x[:, None, :]), A)
        product = pairs.of(lambda x: x.reshape(-1, x.shape[-1]))
    return product


def wide_products(left: Sequence[Wide], right: Sequence[Wide]) -> Wide:
    """Multiply, entry by entry, the matrices ``A.T @ B`` of each mode."""
    modes = zip(left, right, strict=True)
    return reduce(times, [bilinear(np.matmul, A.of(np.transpose), B) for A, B in modes])


def _wide_mttkrp(X: Array, factors: Sequence[Array], mode: int) -> Array:
    """MTTKRP with mantissas and exponents apart."""
    # F = X_(n) K  :eq:`tensor-mttkrp`
    unfolded = wide(np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1))
    others = wide_khatri_rao([wide(A) for n, A in enumerate(factors) if n != mode])
    return narrow(bilinear(np.matmul, unfolded, others), "X, factors")


def _mttkrp(X: Array, factors: Sequence[Array], mode: int) -> Array:
    """MTTKRP of a C-contiguous tensor, in column blocks whose temporaries fit ``_BLOCK_BYTES``."""
    before, after = prod(X.shape[:mode]), prod(X.shape[mode + 1 :])
    side, rank = factors[mode].shape
    width = max(1, _BLOCK_BYTES // (8 * (before + after + min(before, after) * side)))
    F = np.empty((side, rank))
    for start in range(0, rank, width):
        columns = slice(start, start + width)
        F[:, columns] = _mttkrp_block(X, [A[:, columns] for A in factors], mode)
    return F


def _mttkrp_block(X: Array, factors: Sequence[Array], mode: int) -> Array:
    """Contract the longer side by one matrix product, the shorter one component by component."""
    side, rank = factors[mode].shape
    left, right = khatri_rao_core(factors[:mode], rank), khatri_rao_core(factors[mode + 1 :], rank)
    before, after = len(left), len(right)
    if after >= before:
        T = (X.reshape(-1, after) @ right).reshape(before, side, rank)
        if mode == 0:
            return np.asarray(T[0])
        return np.asarray(np.einsum("pir,pr->ir", T, left))
    T = (left.T @ X.reshape(before, -1)).reshape(rank, side, after)
    return np.asarray(np.einsum("riq,qr->ir", T, right))
