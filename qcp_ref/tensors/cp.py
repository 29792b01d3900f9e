r"""What is a CP tensor, which freedoms has it, when is it degenerate?

A CP tensor of rank ``R`` :eq:`cp-model` is a weighted sum of ``R`` components, each an outer
product of one column per factor. Three freedoms leave it unchanged: the components may be permuted,
their columns rescaled against each other and against the weight, and signs flipped in pairs.
:func:`normalize`, :func:`balance` and :func:`canonical` fix them in different ways, :func:`align`
fixes them so that two CP tensors can be compared. Inner products :eq:`cp-inner` need only Gram
matrices, never the dense tensor.

Fits can degenerate: components grow and cancel each other. The sum still fits, but its parts cannot
be rounded any more. :func:`degeneracy` measures it :eq:`cp-degeneracy`.

On one page (``qcp_ref/minimal.py``) this is ``reconstruct`` and ``balance``. What breaks there:
lengths of very short or long columns vanish or overflow, and nothing says that components cancel.

Simplified: real numbers only; no missing entries, no symmetric or constrained factors.

Checked by tests/tensors/test_cp.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    Rng,
    check_array,
    check_factors,
    check_ints,
    check_rank,
    check_real,
    check_rng,
    check_tensor,
)
from qcp_ref._door import shown
from qcp_ref._results import frozen
from qcp_ref._wide import Span, Wide, bilinear, fits, narrow, over, root, span, times, total, wide
from qcp_ref.tensors.tensor import gram_core, khatri_rao_core, wide_khatri_rao, wide_products

__all__ = [
    "CP",
    "Alignment",
    "Degeneracy",
    "align",
    "balance",
    "canonical",
    "degeneracy",
    "inner",
    "norm",
    "normalize",
    "random_cp",
    "reconstruct",
    "relative_error",
]

_DEGENERATE_COSINE = -0.9
_SIZE = 400  # binary exponent of the longest component of a start, as check_tensor has it
_MOST_DRAWN = 2**30  # numbers, 8 GiB
_FAR = 2.0**900  # squared norms up to here have lost nothing


@frozen
@dataclass(frozen=True, eq=False)
class CP:
    """A tensor given by its CP factors and weights.

    Parameters
    ----------
    factors : sequence of array_like, shapes (I_n, R)
        One matrix per mode, at least two. Kept in float32 if all arrays are float32, else in
        float64.
    weights : array_like, shape (R,), optional
        Weight of each component; ones by default.

    Attributes
    ----------
    factors : tuple of ndarray
        The factor matrices: copies in C order, which cannot be written.
    weights : ndarray, shape (R,)
        The weights, likewise.

    Raises
    ------
    TypeError, ValueError
        If the arrays are not finite and real, or do not agree on the rank.

    Notes
    -----
    Equation :eq:`cp-model`. For a convolution kernel the factors are ``a_out``, ``a_in``,
    ``a_kernel``.

    **Laws**

    - *shape*: rank and shape are those of the factors
    - *layout*: byte order, strides and origin of the arrays do not matter; it is float32 if all of
      them are

    Examples
    --------
    >>> from qcp_ref import CP
    >>> cp = CP([[[1], [2]], [[3], [4], [5]]])
    >>> cp.shape, cp.rank
    ((2, 3), 1)
    """

    factors: tuple[NDArray[Any], ...]
    weights: NDArray[Any]

    def __init__(self, factors: Iterable[ArrayLike], weights: ArrayLike | None = None) -> None:
        matrices = check_factors(factors, keep_float32=True)
        rank = matrices[0].shape[1]
        w: NDArray[Any] = np.ones(rank, dtype=matrices[0].dtype)
        if weights is not None:
            w = check_array(weights, "weights", ndim=1, keep_float32=True)
        if w.shape != (rank,):
            raise ValueError(f"weights: expected shape {(rank,)} (the rank), got {w.shape}")
        _keep(self, matrices, w)

    @property
    def rank(self) -> int:
        """Number of components ``R``."""
        return len(self.weights)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(A.shape[0] for A in self.factors)


def _keep(cp: CP, factors: Sequence[NDArray[Any]], weights: NDArray[Any]) -> None:
    """Keep copies: what happens to the arrays afterwards must not show in the tensor."""
    dtype = np.result_type(weights, *factors)
    copies = [np.array(A, dtype, order="C") for A in (*factors, weights)]
    for A in copies:
        A.setflags(write=False)
    object.__setattr__(cp, "factors", tuple(copies[:-1]))
    object.__setattr__(cp, "weights", copies[-1])


def cp_of(factors: Sequence[Array], weights: Array | None = None) -> CP:
    """Return what ``CP(factors, weights)`` returns, without checks: of what was just computed.

    The arrays are finite, of float64 and of one rank.
    """
    cp: CP = object.__new__(CP)
    _keep(cp, factors, np.ones(factors[0].shape[1]) if weights is None else weights)
    return cp


@frozen
class Alignment(NamedTuple):
    """Result of :func:`align`: the matched tensor, the order taken, the cosine of each match."""

    cp: CP
    order: NDArray[np.intp]
    cosines: Array


class Degeneracy(NamedTuple):
    """Result of :func:`degeneracy`: how far components cancel each other."""

    cosine: float
    norm_ratio: float
    condition: float

    @property
    def suspected(self) -> bool:
        """Whether two components point in nearly opposite directions (border rank is likely)."""
        return self.cosine < _DEGENERATE_COSINE


def reconstruct(cp: CP) -> Array:
    """Compute the dense tensor of a CP tensor.

    Parameters
    ----------
    cp : CP
        Factors of shapes (I_n, R).

    Returns
    -------
    ndarray, shape (I_0, ..., I_{d-1})
        The dense tensor in float64.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or float64 cannot hold the dense one.

    Notes
    -----
    Equation :eq:`cp-model`.

    **Laws**

    - *sum*: it equals the sum over components, entry by entry
    - *range*: the same holds for entries of any magnitude
    - *freedoms*: permuting components, or rescaling columns and the weights in return, changes it
      by rounding only

    Examples
    --------
    >>> from qcp_ref import CP, reconstruct
    >>> reconstruct(CP([[[1], [2]], [[3], [4], [5]]]))
    array([[ 3.,  4.,  5.],
           [ 6.,  8., 10.]])
    """
    check_cp(cp, "cp")
    return reconstruct_core(cp.factors, cp.weights)


def reconstruct_core(factors: Sequence[NDArray[Any]], weights: NDArray[Any] | None = None) -> Array:
    """Do what :func:`reconstruct` does, without checks; the weights are ones by default."""
    A, *rest = in_c_order(factors)
    w, shape = np.ones(A.shape[1]) if weights is None else weights, [len(B) for B in factors]
    # X[i, j, ...] = sum_r w_r A[i, r] B[j, r] ...  :eq:`cp-model`
    if fits(*map(span, (A, *rest, w))):
        rest[-1] = rest[-1] * w
        return (A @ khatri_rao_core(rest, len(w)).T).reshape(shape)
    first, *others = map(wide, (A, w[None], *rest))
    right = wide_khatri_rao(others).of(np.transpose)
    return narrow(bilinear(np.matmul, first, right), "cp").reshape(shape)


def in_c_order(factors: Sequence[NDArray[Any]]) -> list[Array]:
    """Return copies in float64 with the rows behind each other: so the bits are the same."""
    return [np.array(A, np.float64, order="C") for A in factors]


def relative_error(X: ArrayLike, cp: CP) -> float:
    """Return the Frobenius norm of the difference, relative to the tensor's.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The tensor.
    cp : CP
        Its approximation.

    Returns
    -------
    float
        ``||X - reconstruct(cp)|| / ||X||``; for a zero tensor 0 if the approximation is zero too,
        else infinity.

    Raises
    ------
    TypeError, ValueError
        If ``X`` is not finite and real or has another shape than ``cp``, or float64 cannot hold the
        dense tensor or the result.

    Notes
    -----
    Equation :eq:`cp-error`, computed directly, without cancellation.

    **Laws**

    - *ends*: it is 0 for the tensor itself and 1 for the zero approximation of another tensor
    - *scale*: scaling tensor and approximation by the same power of two leaves it unchanged, bit
      for bit
    - *range*: it is what exact sums give, up to rounding, for approximations of any magnitude

    Examples
    --------
    >>> from qcp_ref import CP, relative_error
    >>> relative_error([[3, 0], [0, 4]], CP([[[1], [0]], [[3], [0]]]))
    0.8
    """
    return relative_error_core(check_tensor(X), cp)


def relative_error_core(X: Array, cp: CP) -> float:
    """Do what :func:`relative_error` does, without looking at the array."""
    dense = reconstruct(cp)
    if X.shape != dense.shape:
        raise ValueError(f"X: expected shape {dense.shape} (that of cp), got {X.shape}")
    return relative_difference(X, dense)


def relative_difference(X: Array, dense: Array) -> float:
    """Return the relative error of a dense tensor of the same shape, without checks."""
    # ||X - X^|| / ||X||  :eq:`cp-error`
    size, difference = frobenius(X), frobenius(X - dense)
    if not size.mantissa:
        return 0.0 if not difference.mantissa else float("inf")
    return float(narrow(over(difference, size), "X, cp"))


def inner(left: CP, right: CP) -> float:
    """Return the inner product of two CP tensors without forming them.

    Parameters
    ----------
    left, right : CP
        Two CP tensors of the same shape; their ranks may differ.

    Returns
    -------
    float
        The sum of the entrywise product.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a CP tensor, the shapes differ, or float64 cannot hold the result.

    Notes
    -----
    Equation :eq:`cp-inner`.

    **Laws**

    - *range*: it is what exact sums give, up to rounding, for entries of any magnitude
    - *dense*: it equals the inner product of the dense tensors
    - *symmetric*: the order of the two does not matter
    - *linear*: it is linear in the weights of each, up to rounding

    Examples
    --------
    >>> from qcp_ref import CP, inner
    >>> cp = CP([[[1], [2]], [[3], [4], [5]]])
    >>> inner(cp, cp)
    250.0
    """
    check_cp(left, "left")
    check_cp(right, "right")
    if left.shape != right.shape:
        raise ValueError(f"right: expected shape {left.shape} (that of left), got {right.shape}")
    if not fits(*_spans(left), *_spans(right)):
        return float(narrow(_inner(left, right), "left, right"))
    # sum_rs w_r v_s product over n of (A_n^T B_n)[r, s]  :eq:`cp-inner`
    product = np.outer(left.weights.astype(np.float64), right.weights.astype(np.float64))  # (R, S)
    for A, B in zip(left.factors, right.factors, strict=True):
        product *= A.astype(np.float64).T @ B.astype(np.float64)
    return float(product.sum())


def norm(cp: CP) -> float:
    """Return the Frobenius norm of a CP tensor without forming it.

    Parameters
    ----------
    cp : CP
        The tensor.

    Returns
    -------
    float
        The norm. For strongly cancelling components it loses digits; the dense form does not.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or float64 cannot hold its norm; its square need not fit.

    Notes
    -----
    The square root of :eq:`cp-inner`; a sum that rounding has made negative counts as 0.

    **Laws**

    - *dense*: it equals the norm of the dense tensor, within its rounding bound
    - *range*: the same holds for entries of any magnitude

    Examples
    --------
    >>> from qcp_ref import CP, norm
    >>> norm(CP([[[3], [4]], [[1], [0]]], [2]))
    10.0
    """
    check_cp(cp, "cp")
    return float(narrow(root(_square(cp)), "cp"))


def normalize(cp: CP) -> CP:
    """Scale all columns to unit length and keep their lengths in the weights.

    Parameters
    ----------
    cp : CP
        The tensor.

    Returns
    -------
    CP
        The same tensor with unit columns. A component with a zero column becomes zero as a whole.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or float64 cannot hold a weight.

    Notes
    -----
    Uses the scale freedom :eq:`cp-freedom`; signs stay in the weights. A component whose norm is
    below the smallest float64 becomes zero, as does an entry that is so small beside its column.

    **Laws**

    - *tensor*: the dense tensor is unchanged, up to rounding
    - *unit*: every column has norm 1, or is zero and so is its weight
    - *range*: the same holds for entries of any magnitude

    Examples
    --------
    >>> from qcp_ref import CP, normalize
    >>> normalize(CP([[[3], [4]], [[0], [2]]])).weights
    array([10.])
    """
    check_cp(cp, "cp")
    return cp_of(*normalize_core(cp.factors, cp.weights))


def normalize_core(
    factors: Sequence[NDArray[Any]], weights: NDArray[Any]
) -> tuple[list[Array], Array]:
    """Do what :func:`normalize` does, without checks; return factors and weights."""
    units, norms = _units(factors, weights)
    lengths = narrow(norms, "cp")
    return [A * (lengths != 0) for A in units], lengths


def balance(cp: CP) -> CP:
    """Spread each component's weight evenly over its columns.

    Parameters
    ----------
    cp : CP
        The tensor.

    Returns
    -------
    CP
        The same tensor with unit weights; the columns of a component have equal norms.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or float64 cannot hold the balanced columns; the weights
        need not fit.

    Notes
    -----
    Uses the scale freedom :eq:`cp-freedom`. Factors that share one quantization scale should be
    balanced first, or one long column sets the step for all. The sign of a weight goes to the first
    factor.

    **Laws**

    - *tensor*: the dense tensor is unchanged, up to rounding
    - *equal*: the norms of a component's columns are equal, their product is its norm
    - *range*: the same holds for entries of any magnitude

    Examples
    --------
    >>> from qcp_ref import CP, balance
    >>> balance(CP([[[1]], [[1]], [[1]]], [-8])).factors[0]
    array([[-2.]])
    """
    check_cp(cp, "cp")
    return cp_of(balance_core(cp.factors, cp.weights))


def balance_core(
    factors: Sequence[NDArray[Any]], weights: NDArray[Any] | None = None
) -> list[Array]:
    """Do what :func:`balance` does, without checks; the weights are ones by default."""
    # a_nr = (w_r ||a_0r|| ... ||a_(d-1)r||)^(1/d) a_nr / ||a_nr||, one way to use :eq:`cp-freedom`
    ones = np.ones(factors[0].shape[1])
    (first, *rest), norms = _units(factors, ones if weights is None else weights)
    share = narrow(root(norms._replace(mantissa=np.abs(norms.mantissa)), len(factors)), "cp")
    return [first * np.copysign(share, norms.mantissa), *(A * share for A in rest)]


def canonical(cp: CP) -> CP:
    """Fix all freedoms: unit columns, positive descending weights, fixed signs.

    Parameters
    ----------
    cp : CP
        The tensor.

    Returns
    -------
    CP
        The same tensor; in every factor but the last, the entry of largest magnitude of each column
        (the first of equals) is positive.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or float64 cannot hold a weight.

    Notes
    -----
    Uses up :eq:`cp-freedom`: scale, sign and order. Components of equal weight are ordered by their
    columns, from the first factor to the last: at the first entry that differs, the larger one
    comes first. Equal means the same float64 number. Weights that differ by rounding alone, as
    after rescaling by other numbers than powers of two, are not equal, so such components may
    change places.

    **Laws**

    - *tensor*: the dense tensor is unchanged, up to rounding
    - *freedoms*: permuting components, flipping signs in pairs or rescaling by powers of two before
      does not matter, bit for bit, also with equal weights
    - *idempotent*: applied again it changes weights and components by rounding only; where weights,
      or the largest entries of a column, agree up to rounding, order or signs may change

    Examples
    --------
    >>> from qcp_ref import CP, canonical
    >>> canonical(CP([[[1, -2]], [[1, 3]]])).weights
    array([6., 1.])
    """
    unit = normalize(cp)
    *heads, last = unit.factors
    sign = np.where(unit.weights < 0, -1.0, 1.0)
    fixed = []
    for A in heads:
        peak = A[np.abs(A).argmax(axis=0), np.arange(A.shape[1])]
        flip = np.where(peak < 0, -1.0, 1.0)
        fixed.append(A * flip)
        sign = sign * flip
    fixed = [A + 0.0 for A in (*fixed, last * sign)]  # -0 becomes 0
    weights = np.abs(unit.weights)
    # The last key decides first; of the others, the entries of the first factor.
    order = np.lexsort([*-np.vstack(fixed)[::-1], -weights])
    return cp_of([A[:, order] for A in fixed], weights[order])


def align(cp: CP, reference: CP) -> Alignment:
    """Permute and sign-flip components so that they match those of another CP tensor.

    Parameters
    ----------
    cp, reference : CP
        Two CP tensors of equal shape and rank.

    Returns
    -------
    Alignment
        ``cp``: the same tensor as the argument, normalized, components in the order of
        ``reference``, column signs as there in all factors but the last; ``order``: which component
        went where; ``cosines``: product over the modes of the matched columns' cosines, in absolute
        value.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a CP tensor, shapes or ranks differ, or float64 cannot hold a weight.

    Notes
    -----
    The assignment maximises the sum of :eq:`cp-congruence` over all permutations
    [source: Tucker's congruence coefficient; assignment by scipy].

    **Laws**

    - *tensor*: the dense tensor is unchanged, up to rounding
    - *copy*: a permuted, rescaled, sign-flipped copy is matched with cosines 1

    Examples
    --------
    >>> from qcp_ref import CP, align
    >>> a = CP([[[1, 0], [0, 2]], [[1, 0], [0, 1]]])
    >>> b = CP([[[0, 1], [1, 0]], [[0, 1], [1, 0]]])
    >>> align(b, a).order
    array([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    check_cp(reference, "reference")
    mine, theirs = normalize(cp), normalize(reference)
    if mine.shape != theirs.shape or mine.rank != theirs.rank:
        raise ValueError(
            f"cp: expected shape {theirs.shape} and rank {theirs.rank} (those of reference), "
            f"got {mine.shape} and {mine.rank}"
        )
    similarity = np.ones((mine.rank, mine.rank))
    for A, B in zip(theirs.factors, mine.factors, strict=True):
        similarity *= np.abs(A.T @ B)
    rows, order = linear_sum_assignment(similarity, maximize=True)
    sign = np.ones(mine.rank)
    factors = []
    for A, B in zip(theirs.factors[:-1], mine.factors[:-1], strict=True):
        flip = np.where((A * B[:, order]).sum(axis=0) < 0, -1.0, 1.0)
        factors.append(B[:, order] * flip)
        sign *= flip
    factors.append(mine.factors[-1][:, order] * sign)
    return Alignment(cp_of(factors, mine.weights[order]), order, similarity[rows, order])


def degeneracy(cp: CP, *, norm_X: float | None = None) -> Degeneracy:
    """Measure how strongly the components cancel each other.

    Parameters
    ----------
    cp : CP
        The tensor.
    norm_X : float, optional
        Norm to compare with, usually that of the fitted tensor; by default that of ``cp`` itself.

    Returns
    -------
    Degeneracy
        ``cosine``: the smallest cosine between two components (near -1: they cancel);
        ``norm_ratio``: sum of the components' squared norms over the squared norm of the tensor,
        infinity if that norm is 0;
        ``condition``: condition number of the Gram matrix of the unit components, infinity if it is
        singular; ``suspected``: whether the cosine is close enough to -1 to suspect a border rank.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, ``norm_X`` not a finite number of at least 0, or float64
        cannot hold the ratio.

    Notes
    -----
    Equation :eq:`cp-degeneracy`. Zero components take no part.

    **Laws**

    - *range*: it does not depend on the scale of the tensor, whatever that is
    - *orthonormal*: orthonormal components have cosine 0, norm ratio 1 and condition 1
    - *freedoms*: rescaling columns and permuting components change nothing, up to rounding

    Examples
    --------
    >>> from qcp_ref import CP, degeneracy
    >>> degeneracy(CP([[[1, 0], [0, 1]], [[1, 0], [0, 1]]]))
    Degeneracy(cosine=0.0, norm_ratio=1.0, condition=1.0)
    """
    check_cp(cp, "cp")
    units, norms = _units(cp.factors, cp.weights)
    if norm_X is not None:
        norm_X = check_real(norm_X, "norm_X", minimum=0.0)
    alive = norms.mantissa != 0
    if not alive.any():
        return Degeneracy(0.0, 1.0, 1.0)
    G = gram_core([A[:, alive] for A in units])
    signs = np.sign(norms.mantissa[alive])
    G = G * np.outer(signs, signs)
    pairs = G[~np.eye(len(G), dtype=bool)]
    size = None if norm_X is None else wide(norm_X)
    square = _square(cp) if size is None else times(size, size)
    eigenvalues = np.linalg.eigvalsh(G)
    smallest = float(eigenvalues[0])
    singular = smallest <= len(G) * np.finfo(float).eps * eigenvalues[-1]
    return Degeneracy(
        cosine=float(pairs.min()) if pairs.size else 0.0,
        norm_ratio=_over_square(norms, square) if square.mantissa else float("inf"),
        condition=float("inf") if singular else float(eigenvalues[-1]) / smallest,
    )


def _over_square(norms: Wide, square: Wide) -> float:
    return float(narrow(over(total(times(norms, norms)), square), "cp, norm_X"))


def random_cp(shape: Iterable[int], rank: int, *, rng: Rng) -> CP:
    """Draw a CP tensor with independent standard normal factors.

    Parameters
    ----------
    shape : sequence of int
        Side lengths, at least two.
    rank : int
        Number of components, at least 1.
    rng : int or numpy.random.Generator
        Source of randomness. An int gives a stream of its own, which no solver shares.

    Returns
    -------
    CP
        The tensor, with unit weights.

    Raises
    ------
    TypeError, ValueError
        For a shape, rank or seed that is not usable.

    Notes
    -----
    Equation :eq:`cp-model` with factors drawn from the normal distribution.

    **Laws**

    - *seed*: the same seed gives the same tensor, bit for bit
    - *shape*: shape and rank are as asked for

    Examples
    --------
    >>> from qcp_ref import random_cp
    >>> random_cp((4, 3, 2), 5, rng=0).factors[1].shape
    (3, 5)
    """
    sides, rank = check_ints(shape, "shape", minimum=1), check_rank(rank)
    if not 2 <= len(sides) <= 64 or sum(sides) * rank > _MOST_DRAWN:
        raise ValueError(
            "shape: expected at least 2 sides, at most 64, and factors of at most 2**30 numbers, "
            f"got {shown(shape)}"
        )
    generator = check_rng(rng, "random_cp")
    return cp_of([generator.standard_normal((side, rank)) for side in sides])


def check_cp(cp: Any, name: str) -> None:
    """Refuse what is not a `CP`."""
    if not isinstance(cp, CP):
        raise TypeError(
            f"{name}: expected a CP, got {type(cp).__name__}; "
            "wrap factors as CP(factors), call .dequantize() on a quantized one"
        )


def weighted_factors(cp: CP) -> list[Array]:
    """Return the factors in float64, the weights multiplied into the last one."""
    factors = [A.astype(np.float64) for A in cp.factors]
    factors[-1] = factors[-1] * cp.weights
    return factors


def check_start(cp: CP, X: Array, name: str = "cp", *, as_it_is: bool = False) -> None:
    """Refuse a start so far from the data, or from 1, that a solver would leave the range.

    A solver that takes the columns ``as_it_is``, without balancing them, can take fewer.
    """
    check_cp(cp, "cp")
    norms, size = _units(cp.factors, cp.weights)[1], frobenius(X)
    if not norms.mantissa.any() or not size.mantissa:
        return
    top = int(norms.exponent.max())
    apart = abs(top - int(size.exponent))
    if max(abs(top), apart) > _SIZE:
        raise ValueError(
            f"{name}: expected a longest component of norm 2**-{_SIZE} to 2**{_SIZE}, also "
            f"relative to X, got about 2**{top}; rescale it"
        )
    if as_it_is and not fits(*_spans(cp) * 2, (-2 * apart, 2 * apart)):
        raise ValueError(
            f"{name}: expected factors whose squares float64 can multiply; let powers of two go "
            "from one scale to another, which changes nothing else"
        )


def _spans(cp: CP) -> list[Span]:
    """Return the spans of all that is multiplied in a component."""
    return [span(A) for A in (*cp.factors, cp.weights)]


def frobenius(X: Array) -> Wide:
    """Return the norm of an array, whose square float64 may not hold."""
    peak = float(np.abs(X).max())
    if _FAR**-0.5 < peak < _FAR**0.5:
        return wide(np.linalg.norm(X))
    unit = wide(peak)._replace(mantissa=np.array(0.5))  # a power of two changes no digit
    return times(wide(np.linalg.norm(narrow(over(wide(X), unit), "X"))), unit)


def column_norms(A: NDArray[Any]) -> Wide:
    """Return the norms of the columns of a factor."""
    with np.errstate(over="ignore"):
        squares = np.einsum("ir,ir->r", A, A, dtype=np.float64)
    if not ((squares > 1 / _FAR) & (squares < _FAR)).all():
        # Relative to the largest entry, so that squares stay in range.
        peak = wide(np.abs(A).max(axis=0))
        unit = peak._replace(mantissa=np.full(A.shape[1], 0.5))
        relative = narrow(over(wide(A), unit), "A")
        return times(wide(np.sqrt(np.einsum("ir,ir->r", relative, relative))), unit)
    return wide(np.sqrt(squares))


def _units(factors: Sequence[NDArray[Any]], weights: NDArray[Any]) -> tuple[list[Array], Wide]:
    """Return the factors with columns of length 1, or 0, and the components' norms with signs."""
    norms, units = wide(weights), []
    for A in (np.array(B, order="C") for B in factors):
        lengths = column_norms(A)
        norms = times(norms, lengths)
        dead = lengths.mantissa == 0
        divisor = Wide(np.where(dead, 1.0, lengths.mantissa), np.where(dead, 0, lengths.exponent))
        if np.abs(divisor.exponent).max() < 500:
            units.append(A / narrow(divisor, "cp"))
        else:
            units.append(narrow(over(wide(A), divisor), "cp"))
    return units, norms


def equalize(factors: list[Array], modes: list[int]) -> None:
    """Give the columns of each component the same length in these modes, in place."""
    if len(modes) > 1:
        lengths = np.array([np.linalg.norm(factors[n], axis=0) for n in modes])
        alive = lengths.min(axis=0) > 0
        ratio = np.where(alive, np.prod(lengths, axis=0) ** (1 / len(modes)), 1.0)
        for n, length in zip(modes, lengths, strict=True):
            factors[n] = factors[n] * (ratio / np.where(alive, length, 1.0))


def _inner(left: CP, right: CP) -> Wide:
    """Inner product with mantissas and exponents apart."""
    # sum_rs w_r v_s product over n of (A_n^T B_n)[r, s]  :eq:`cp-inner`
    w, v = wide(left.weights[:, None]), wide(right.weights)
    left_factors, right_factors = map(wide, left.factors), map(wide, right.factors)
    return total(times(times(w, v), wide_products([*left_factors], [*right_factors])))


def _square(cp: CP) -> Wide:
    """Return the squared norm of a CP tensor; one that rounding has made negative counts as 0."""
    square = wide(inner(cp, cp)) if fits(*_spans(cp) * 2) else _inner(cp, cp)
    return square if square.mantissa > 0 else wide(0.0)
