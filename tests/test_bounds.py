"""Laws and bad input of qcp_ref.bounds; its planted faults stand at the end."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import arrays, caught, exact, floats, law

import qcp_ref as right
from qcp_ref import gamma, rounding_bound

THIS = sys.modules[__name__]
dtypes = st.sampled_from([np.float32, np.float64])


@law("gamma.covers")
@given(st.integers(0, 10**5), dtypes)
def test_gamma_covers_products_of_rounding_factors(n, dtype):
    u = Fraction(float(np.finfo(dtype).eps)) / 2
    # the worst case is n divisions by 1 - u; 1 / (1 - u)^n <= 1 / (1 - n u) by Bernoulli
    k = min(n, 200)
    worst = 1 / (1 - u) ** k - 1
    assert worst <= Fraction(gamma(k, dtype))
    assert (1 + u) ** k - 1 <= Fraction(gamma(k, dtype))
    assert Fraction(gamma(n, dtype)) >= n * u / (1 - n * u)
    assert Fraction(gamma(n, dtype)) <= n * u / (1 - n * u) * (1 + Fraction(1, 2**50))


@law("gamma.increases")
@given(st.integers(0, 1000), dtypes)
def test_gamma_starts_at_zero_and_increases(n, dtype):
    assert gamma(0, dtype) == 0
    assert gamma(n + 1, dtype) > gamma(n, dtype)


@law("gamma.increases")
@given(st.integers(0, 2**53 - 2), st.integers(1, 2**40), st.integers(0, 2**24 - 2))
def test_gamma_increases_up_to_the_last_length_that_has_a_bound(n, more, single):
    assert gamma(n) < gamma(n + 1) <= gamma(min(n + more, 2**53 - 1))
    assert gamma(single, np.float32) < gamma(single + 1, np.float32)
    for last, dtype in ((2**53 - 1, np.float64), (2**24 - 1, np.float32)):
        assert np.isfinite(gamma(last, dtype))
        with pytest.raises(ValueError, match="exceed any bound"):
            gamma(last + 1, dtype)


@law("rounding_bound.any-order")
@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(*[arrays((n,), floats)] * 2)),
    dtypes,
    st.randoms(use_true_random=False),
)
def test_any_order_of_summation_lies_within_the_bound(case, dtype, random):
    x, y = (v.astype(dtype) for v in case)
    truth = sum(a * b for a, b in zip(exact(x.astype(float)), exact(y.astype(float)), strict=True))
    magnitude = np.abs(x.astype(float)) @ np.abs(y.astype(float))
    allowed = Fraction(float(rounding_bound(len(x), magnitude, dtype=dtype)))
    terms = [a * b for a, b in zip(x, y, strict=True)]
    while len(terms) > 1:  # a random tree of additions
        a, b = terms.pop(random.randrange(len(terms))), terms.pop(random.randrange(len(terms)))
        terms.append(a + b)
    for result in (terms[0], x @ y, np.add.reduce(x * y), np.cumsum(x * y)[-1]):
        assert abs(Fraction(float(result)) - truth) <= allowed


@law("rounding_bound.any-order")
@given(
    st.integers(1, 4000),
    st.sampled_from([(0, 0), (-20, 20), (-60, 60)]),
    dtypes,
    st.integers(0, 2**31),
    st.booleans(),
)
def test_long_sums_of_numbers_far_apart_lie_within_the_bound(n, powers, dtype, seed, cancel):
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.uniform(1, 2, n), rng.integers(powers[0] // 2, powers[1] // 2 + 1, n))
    x = (x * rng.choice([-1, 1], n)).astype(dtype)
    y = np.where(rng.random(n) < 0.5, 1, rng.uniform(1, 2, n)).astype(dtype)
    if cancel:  # all but the last term add up to 0
        x, y = np.r_[x, -x[::-1], x[:1]], np.r_[y, y[::-1], y[:1]]
    truth = sum(a * b for a, b in zip(exact(x.astype(float)), exact(y.astype(float)), strict=True))
    magnitude = np.abs(x.astype(float)) @ np.abs(y.astype(float))
    allowed = Fraction(float(rounding_bound(len(x), magnitude, dtype=dtype)))
    products = x * y
    orders = (np.sort(products), products[np.argsort(-abs(products))], rng.permutation(products))
    for result in (x @ y, products.sum(), *(np.cumsum(terms)[-1] for terms in orders)):
        assert abs(Fraction(float(result)) - truth) <= allowed


@law("rounding_bound.chain")
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), dtypes, st.data())
def test_a_chain_is_covered_by_the_sum_of_its_lengths(i, j, k, dtype, data):
    A, B = (data.draw(arrays(shape, floats)).astype(dtype) for shape in ((i, j), (j, k)))
    x = data.draw(arrays((k,), floats)).astype(dtype)
    EA, EB, ex = (np.array(exact(m.astype(float)), dtype=object) for m in (A, B, x))
    truth = EA @ (EB @ ex)
    magnitude = abs(A).astype(float) @ (abs(B).astype(float) @ abs(x).astype(float))
    bound = rounding_bound([k, j], magnitude, dtype=dtype)
    for value, true, allowed in zip(A @ (B @ x), truth, bound, strict=True):
        assert abs(Fraction(float(value)) - true) <= Fraction(float(allowed))


def test_the_bound_is_nearly_reached_somewhere():
    # adding many terms just below half a unit in the last place loses all of them
    n = 1000
    x = np.concatenate([[1.0], np.full(n, 2.0**-53)])
    error = abs(float(np.cumsum(x)[-1]) - (1 + n * 2.0**-53))
    assert error >= 0.4 * float(rounding_bound(n + 1, x.sum()))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"^n: expected at least 0"):
        gamma(-1)
    with pytest.raises(TypeError, match=r"^n: expected an integer"):
        gamma(1.5)
    with pytest.raises(ValueError, match=r"^dtype: expected float32 or float64"):
        gamma(1, np.float16)
    with pytest.raises(ValueError, match="exceed any bound"):
        gamma(2**24, np.float32)
    with pytest.raises(ValueError, match="negative"):
        rounding_bound(3, -1.0)
    with pytest.raises(ValueError, match=r"^lengths: expected at least 1"):
        rounding_bound([3, 0], 1.0)
    with pytest.raises(ValueError, match="finite"):
        rounding_bound(3, np.nan)


@law("rounding_bound.positive")
@given(st.integers(-1074, 1023), st.integers(1, 100), st.sampled_from([np.float32, np.float64]))
def test_a_bound_is_never_zero_by_underflow_nor_infinite(power, length, dtype):
    magnitude = np.array([2.0**power, 0.0])
    bound = rounding_bound(length, magnitude, dtype=dtype)
    assert np.isfinite(bound).all() and bound[1] == 0
    assert Fraction(float(bound[0])) >= Fraction(magnitude[0]) * Fraction(gamma(length, dtype))


def test_bounds_beyond_float64_are_refused():
    with pytest.raises(ValueError, match=r"^magnitude: the result exceeds the range of float64"):
        rounding_bound(2**24 - 1, 1e308, dtype=np.float32)
    with pytest.raises(ValueError, match=r"roundings"):
        rounding_bound(2**52 + 2, 1.0)


@given(st.integers(1, 3000), st.floats(2.0**-1074, 1e300), dtypes)
@example(1, 2.0**-1074, np.float64)
@example(1, 1 / 3, np.float64)
@example(3, 2.0**-1060, np.float32)
def test_the_bound_covers_the_rounding_of_the_magnitude_and_hardly_more(length, size, dtype):
    bound = Fraction(float(rounding_bound(length, size, dtype=dtype)))
    smallest = Fraction(2) ** -1074
    # What was computed as `size` may come from a number that is larger by its own roundings.
    need = Fraction(gamma(length, dtype)) * Fraction(size) / (1 - Fraction(gamma(length)))
    assert need <= bound or 0 < need < smallest == bound
    assert bound <= need * (1 + Fraction(12, 2**53)) + smallest * Fraction(3, 2)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), dtypes)
def test_lengths_of_stages_add_up(lengths, dtype):
    total = rounding_bound(sum(lengths), [[0.1, 3.0]], dtype=dtype)
    assert np.array_equal(rounding_bound(lengths, [[0.1, 3.0]], dtype=dtype), total)
    assert np.array_equal(rounding_bound(np.int64(sum(lengths)), [[0.1, 3.0]], dtype=dtype), total)
    assert total.shape == (1, 2) and total.dtype == np.float64


def test_the_last_number_of_roundings_with_a_bound():
    assert gamma(2**24 - 1, np.float32) >= 2**24 - 1
    assert gamma(2**53 - 1) >= 2**53 - 1
    for n, dtype in ((2**24, np.float32), (2**53, np.float64), (2**54, np.float64)):
        with pytest.raises(
            ValueError,
            match=rf"^n: expected fewer than \d+ roundings of {np.dtype(dtype)}, got {n}",
        ):
            gamma(n, dtype)
    assert rounding_bound(2**52 - 2, 1.0) > 2**50
    for n in (2**52, 2**53 - 1):
        with pytest.raises(
            ValueError, match=rf"^lengths: expected fewer than 2\*\*52 roundings in all, got {n}"
        ):
            rounding_bound(n, 1.0)
    for size in ([1.0, -1.0], -(2.0**-1074)):
        with pytest.raises(ValueError, match=r"^magnitude: expected the operation on absolute"):
            rounding_bound(1, size)
    with pytest.raises(ValueError, match=r"^magnitude: expected finite"):
        rounding_bound(1, np.inf)
    with pytest.raises(TypeError, match=r"^lengths: expected an integer"):
        rounding_bound([1.5], 1.0)
    with pytest.raises(ValueError, match=r"^dtype: expected float32 or float64"):
        rounding_bound(1, 1.0, dtype=np.int32)


# --- planted faults -------------------------------------------------------------------------------


def flushed_bound(lengths, magnitude, *, dtype=np.float64):
    """Lets a bound become 0."""
    return gamma(lengths, dtype) * np.asarray(magnitude)


def test_a_bound_of_zero_is_caught():
    test = test_a_bound_is_never_zero_by_underflow_nor_infinite
    assert caught(sys.modules[__name__], test, rounding_bound=flushed_bound)


def half_bound(lengths, magnitude, **options):
    """Takes a small part of the unit roundoff for it."""
    return right.rounding_bound(lengths, magnitude, **options) / 64


def sequential_only(lengths, magnitude, **options):
    """Believes in pairwise summation: the logarithm of the length."""
    return right.rounding_bound(int(np.ceil(np.log2(lengths + 1))), magnitude, **options)


def float64_always(lengths, magnitude, dtype=np.float64):
    return right.rounding_bound(lengths, magnitude)


def even_gamma(n, dtype=np.float64):
    """Counts roundings in pairs."""
    return right.gamma(n - n % 2, dtype)


def linear_gamma(n, dtype=np.float64):
    """Forgets the denominator."""
    return n * float(np.finfo(dtype).eps) / 2


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_any_order_of_summation_lies_within_the_bound, {"rounding_bound": float64_always}),
        (
            test_long_sums_of_numbers_far_apart_lie_within_the_bound,
            {"rounding_bound": float64_always},
        ),
        (test_gamma_increases_up_to_the_last_length_that_has_a_bound, {"gamma": even_gamma}),
        (test_a_chain_is_covered_by_the_sum_of_its_lengths, {"rounding_bound": half_bound}),
        (test_gamma_covers_products_of_rounding_factors, {"gamma": linear_gamma}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)


def test_a_logarithmic_bound_is_refuted_by_sequential_summation():
    x = np.concatenate([[1.0], np.full(1000, 2.0**-53)])
    error = abs(float(np.cumsum(x)[-1]) - (1 + 1000 * 2.0**-53))
    assert error > float(sequential_only(1001, x.sum()))
