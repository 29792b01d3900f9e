"""The interval of a change of the accuracy; planted faults stand at the end."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from support import caught

from qcp_ref.app.network import accuracy_interval, interval


def answers(both, only_a, only_b, neither):
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return np.array(a), np.array(b)


def score_statistic(only_a, only_b, n, difference):
    """Paired score test of ``p_b - p_a = difference``, its likelihood maximized by search."""

    def loss(q):  # q: probability that only a is right
        counted = (
            (only_a, q),
            (only_b, q + difference),
            (n - only_a - only_b, 1 - 2 * q - difference),
        )
        return -sum(count * np.log(max(p, 1e-300)) for count, p in counted if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (only_b - only_a - n * difference) / np.sqrt(n * (2 * q + difference - difference**2))


counts = st.integers(0, 12)


@given(counts, counts, counts, counts.filter(bool))
@example(0, 3, 0, 9)
@example(5, 0, 0, 5)
def test_interval_ends_where_the_score_test_rejects(both, only_a, only_b, neither):
    n = both + only_a + only_b + neither
    result = accuracy_interval(*answers(both, only_a, only_b, neither))
    z = norm.ppf(0.975)
    assert result.difference == (only_b - only_a) / n
    assert -1 < result.low < result.difference < result.high < 1
    assert score_statistic(only_a, only_b, n, result.low) == pytest.approx(z, abs=1e-3)
    assert score_statistic(only_a, only_b, n, result.high) == pytest.approx(-z, abs=1e-3)


@given(counts, counts, counts, counts)
def test_swapping_the_two_flips_the_interval(both, only_a, only_b, neither):
    if both + only_a + only_b + neither == 0:
        return
    a, b = answers(both, only_a, only_b, neither)
    difference, low, high = accuracy_interval(a, b)
    assert accuracy_interval(b, a) == (-difference, -high, -low)
    assert -1 <= low <= difference <= high <= 1
    narrow = accuracy_interval(a, b, level=0.5)
    assert low <= narrow.low <= narrow.high <= high


def test_without_disagreement_the_interval_shrinks_with_the_number_of_images():
    # The test then rejects where n d^2 > z^2 d (1 - d), that is beyond d = z^2 / (n + z^2).
    for n in (1, 10, 2000):
        result = accuracy_interval(np.ones(n, bool), np.ones(n, bool))
        limit = norm.ppf(0.975) ** 2 / (n + norm.ppf(0.975) ** 2)
        assert result == pytest.approx((0, -limit, limit), abs=1e-9)


def test_complete_disagreement_reaches_the_end():
    result = accuracy_interval(np.zeros(9, bool), np.ones(9, bool))
    assert (result.difference, result.high) == (1, 1)
    assert 0 < result.low < 1


def test_bad_answers_are_refused():
    right = np.ones(3, bool)
    with pytest.raises(TypeError, match="expected bool arrays, got bool and int64"):
        accuracy_interval(right, right.astype(np.int64))
    for other in (right[:2], right[:0], right[None]):
        with pytest.raises(ValueError, match="correct_a, correct_b: expected one length"):
            accuracy_interval(right, other)
    with pytest.raises(ValueError, match="correct_a, correct_b: expected one length"):
        accuracy_interval(right[:0], right[:0])
    for level in (0, 1, np.nan, 95):
        with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
            accuracy_interval(right, right, level=level)


# --- planted faults ----------------------------------------------------------------------------


def one_sided_limit(b, c, n, z):
    return real_limit(b, c, n, norm.ppf(0.95))


def unpaired_limit(b, c, n, z):
    """Wald's interval, which is empty where nobody disagrees."""
    d = (b - c) / n
    return d + z * np.sqrt((b + c) / n - d * d) / np.sqrt(n)


real_limit = interval._score_limit
disagreement = test_without_disagreement_the_interval_shrinks_with_the_number_of_images


@pytest.mark.parametrize("fault", [one_sided_limit, unpaired_limit])
def test_planted_faults_are_caught(fault):
    assert caught(interval, disagreement, _score_limit=fault)
