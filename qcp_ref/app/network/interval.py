"""Is a change of the accuracy more than chance? The paired score interval.

Checked by tests/app/network/test_interval.py.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AccuracyChange", "accuracy_interval"]


class AccuracyChange(NamedTuple):
    """A difference of two accuracies with its confidence interval."""

    difference: float
    low: float
    high: float


def accuracy_interval(
    correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_], *, level: float = 0.95
) -> AccuracyChange:
    """Return accuracy of b minus accuracy of a, with the paired score interval.

    Parameters
    ----------
    correct_a, correct_b : ndarray of bool, shape (N,)
        Which images each of the two got right; the same images in the same order.
    level : float
        Confidence level, between 0 and 1.

    Returns
    -------
    AccuracyChange
        The difference and the ends of its interval.

    Raises
    ------
    ValueError, TypeError
        For arrays that are empty, not boolean, or of different shapes.

    Notes
    -----
    [source: T. Tango, Statistics in Medicine 17 (1998) 891-908]. The interval holds all
    differences that the score test for paired proportions does not reject. Only images on which
    the two disagree move it; without any, it is not empty but shrinks like ``1 / N``.
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.dtype != np.bool_ or b.dtype != np.bool_:
        raise TypeError(f"correct_a, correct_b: expected bool arrays, got {a.dtype} and {b.dtype}")
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"correct_a, correct_b: expected one length, got {a.shape}, {b.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    gained, lost, n = int((b & ~a).sum()), int((a & ~b).sum()), a.size
    low, high = -_score_limit(lost, gained, n, z), _score_limit(gained, lost, n, z)
    return AccuracyChange((gained - lost) / n, low, high)


def _score_limit(b: int, c: int, n: int, z: float) -> float:
    """Return Tango's upper limit for the difference whose estimate is ``(b - c) / n``."""
    from scipy.optimize import brentq

    def excess(d: float) -> float:
        """Test statistic plus z, times the standard error: falls through 0 at the limit."""
        B = (2 * n - b + c) * d - b - c
        q = (np.sqrt(B * B + 8 * n * c * d * (1 - d)) - B) / (4 * n)  # most likely c / n, given d
        return float(b - c - n * d + z * np.sqrt(n * max(2 * q + d * (1 - d), 0.0)))

    # At the estimate itself a variance of 0 would be a root that is none, hence the step.
    return 1.0 if b == n else float(brentq(excess, (b - c) / n + 1e-12, 1.0))
