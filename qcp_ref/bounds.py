"""How large may a rounding error be?

A-priori bounds: proved before anything is run, so a test, the demo or another implementation can be
held to them without a hand-tuned tolerance. The one idea is :eq:`bounds-gamma`: a chain of ``n``
roundings multiplies the exact result by a factor within ``gamma(n)`` of one, in whatever order the
sums were taken and with or without fused multiply-add. Applied to a sum of products it gives
:eq:`bounds-sum`, applied to sums nested in sums (the three stages of a factorized convolution)
:eq:`bounds-chain`.

Simplified: overflow and underflow are assumed not to occur, which is true when every non-zero
product lies between the smallest normal number and the largest finite one.

Checked by tests/test_bounds.py against exact rational arithmetic.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from qcp_ref._checks import Array, check_array, check_int, check_int_or_ints
from qcp_ref._door import shown
from qcp_ref._wide import finite

__all__ = ["gamma", "rounding_bound"]

_MOST_TERMS = 2**52  # of a sum in float64; gamma is 1 there


def gamma(n: int, dtype: DTypeLike = np.float64) -> float:
    """Return the relative error bound of ``n`` roundings in a row.

    Parameters
    ----------
    n : int
        Number of roundings, at least 0.
    dtype : dtype
        Either float32 or float64; fixes the unit roundoff ``u``.

    Returns
    -------
    float
        ``n u / (1 - n u)``, rounded up.

    Raises
    ------
    ValueError
        If ``n u`` reaches 1 (no bound exists) or the dtype is another one.

    Notes
    -----
    Equation :eq:`bounds-gamma` [source: Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1].

    **Laws**

    - *covers*: any product of ``n`` factors ``(1 + d)`` or ``1 / (1 + d)`` with ``|d| <= u`` lies
      within ``gamma(n)`` of 1
    - *increases*: ``gamma(0)`` is 0 and ``gamma`` increases with ``n``, as long as there is a bound

    Examples
    --------
    >>> from qcp_ref import gamma
    >>> 2**-53 < gamma(1) < 2**-52
    True
    """
    n, precision = check_int(n, "n", minimum=0), _check_dtype(dtype)
    most = round(2 / float(np.finfo(precision).eps))  # n u reaches 1 there
    if n >= most:
        raise ValueError(
            f"n: expected fewer than {most} roundings of {precision}, got {shown(n)}, which "
            "exceed any bound"
        )
    return gamma_core(n, most)


def gamma_core(n: int, most: int = 2**53) -> float:
    """Do what :func:`gamma` does, without checks; ``most`` is ``1 / u``, by default of float64."""
    # gamma_n = n u / (1 - n u)  :eq:`bounds-gamma`
    nu = n / most
    # Three roundings happen in evaluating this very formula; two units in the last place cover
    # them.
    return float(np.nextafter(np.nextafter(nu / (1 - nu), np.inf), np.inf)) if n else 0.0


def rounding_bound(
    lengths: int | Sequence[int], magnitude: ArrayLike, *, dtype: DTypeLike = np.float64
) -> Array:
    """Bound the rounding error of a sum of products, or of sums nested in each other.

    Parameters
    ----------
    lengths : int or sequence of int
        Number of terms of each nested sum, innermost first. Count an added bias as one more term.
    magnitude : array_like
        The same operation computed in float64 on the absolute values of all its inputs.
    dtype : dtype
        Precision in which the operation under test runs.

    Returns
    -------
    ndarray of float64
        Bound on ``|computed - exact|``, with the shape of ``magnitude``.

    Raises
    ------
    ValueError
        For negative magnitudes or lengths, for sums too long for any bound to exist, and for a
        bound that float64 cannot hold.

    Notes
    -----
    Equations :eq:`bounds-sum` and :eq:`bounds-chain` [source: Higham, sections 3.1 and 3.5; the
    chain is derived]. The bound also covers the rounding of ``magnitude`` itself.

    **Laws**

    - *any-order*: the computed result of any summation order lies within the bound of the exact
      result, as long as no product or sum leaves the normal numbers
    - *chain*: a chain of stages is covered by the sum of the stages' lengths
    - *positive*: it is 0 only where the magnitude is, and finite

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import rounding_bound
    >>> x, y = np.array([1e16, 1.0, -1e16]), np.ones(3)
    >>> bool(abs((x * y).sum() - 1.0) <= rounding_bound(3, np.abs(x) @ np.abs(y)))
    True
    """
    n = sum(check_int_or_ints(lengths, "lengths", minimum=1))
    precision = _check_dtype(dtype)
    if n >= _MOST_TERMS:
        raise ValueError(
            f"lengths: expected fewer than 2**52 roundings in all, got {shown(n)}; so many "
            "roundings leave no bound; split the sum"
        )
    size = check_array(magnitude, "magnitude")
    if (size < 0).any():
        raise ValueError(
            "magnitude: expected the operation on absolute values, got a negative number"
        )
    evaluated = gamma(n)  # relative error of `magnitude`, which was itself computed
    with np.errstate(over="ignore"):
        bound = size * (gamma(n, precision) * (1 + 8 * 2.0**-53) / (1 - evaluated))
    # Below the normal numbers the product itself may be rounded down, by less than this.
    lost = (size > 0) & (bound < np.finfo(np.float64).tiny)
    return finite(bound + np.where(lost, 2.0**-1074, 0.0), "magnitude")


def _check_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] | None = np.dtype(dtype) if dtype is not None else None
    except Exception:  # NumPy has several for what is no dtype
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {shown(dtype)}")
    return found
