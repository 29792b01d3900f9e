"""Numbers as mantissa and exponent: qcp_ref._wide; its planted faults stand at the end."""

import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import arrays, assert_in_range, caught, exact, wild

from qcp_ref import _wide, loops
from qcp_ref._wide import (
    Wide,
    bilinear,
    finite,
    fits,
    narrow,
    over,
    plus,
    root,
    span,
    times,
    total,
    wide,
)

THIS = sys.modules[__name__]


def value(a):
    """The numbers as fractions, in a flat list."""
    pairs = zip(a.mantissa.ravel().tolist(), a.exponent.ravel().tolist(), strict=True)
    return [Fraction(m) * Fraction(2) ** e if m else Fraction(0) for m, e in pairs]


def normal(a):
    """Whether mantissas are 0 or from 1/2 to below 1."""
    size = np.abs(a.mantissa)
    return bool(((size == 0) | ((size >= 0.5) & (size < 1))).all())


def close(a, truth, roundings=1):
    """Within a number of roundings of fractions, however large or small."""
    return normal(a) and all(
        abs(found - true) <= abs(true) * roundings * Fraction(2) ** -53
        for found, true in zip(value(a), truth, strict=True)
    )


@given(wild((2, 3)))
def test_floats_come_apart_and_together(x):
    assert value(wide(x)) == loops.flat(exact(x))
    assert normal(wide(x))
    assert np.array_equal(narrow(wide(x), "x"), x)


def test_subnormal_numbers_and_the_largest_come_apart_and_together():
    x = np.array([5e-324, -2.5e-310, 1.7976931348623157e308, 0.0, -0.0])
    assert np.array_equal(narrow(wide(x), "x"), x)


@given(wild((4,)), wild((4,)))
def test_arithmetic_is_that_of_fractions_far_beyond_float64(x, y):
    a, b = times(times(wide(x), wide(x)), wide(x)), wide(y)
    p, q = [Fraction(t) ** 3 for t in x.tolist()], [Fraction(t) for t in y.tolist()]
    assert close(a, p, 2)
    assert close(times(a, b), [s * t for s, t in zip(p, q, strict=True)], 3)
    sums = zip(value(plus(a, b)), p, q, strict=True)
    assert all(abs(found - s - t) * 2**50 <= abs(s) + abs(t) for found, s, t in sums)
    assert abs(value(total(a))[0] - sum(p)) * 2**50 <= sum(map(abs, p))
    alive = y != 0
    if alive.any():
        quotient = over(a.of(lambda part: part[alive]), b.of(lambda part: part[alive]))
        pairs = [(s, t) for s, t in zip(p, q, strict=True) if t]
        assert close(quotient, [s / t for s, t in pairs], 3)


@given(wild((4,)), st.integers(2, 5))
def test_a_root_to_its_power_is_the_number(x, degree):
    a = times(wide(np.abs(x)), wide(np.abs(x)))
    found = [part**degree for part in value(root(a, degree))]
    for power, number in zip(found, value(a), strict=True):
        assert abs(power - number) <= number * 8 * degree * Fraction(2) ** -53


@given(st.integers(1, 4), st.data())
def test_products_of_matrices_keep_every_magnitude(inner, data):
    A, B = data.draw(wild((2, inner))), data.draw(wild((inner, 3)))
    truth = loops.matmul(exact(A), exact(B))
    size = loops.matmul(exact(abs(A)), exact(abs(B)))
    assert_in_range(
        lambda: narrow(bilinear(np.matmul, wide(A), wide(B)), "A, B"), truth, size, inner + 60
    )


@given(arrays((3, 3), st.integers(-9, 9)), st.integers(-900, 900))
def test_a_span_lies_between_powers_of_two(numbers, exponent):
    x = np.ldexp(numbers, exponent)
    low, high = span(x)
    sizes = np.abs(x[x != 0])
    if sizes.size:
        assert 2.0**low <= sizes.min() < 2.0 ** (low + 1)
        assert 2.0 ** (high - 1) <= sizes.max() < 2.0**high
    else:
        assert (low, high) == (0, 0)


def test_a_span_sees_all_blocks_and_strides(monkeypatch):
    monkeypatch.setattr(_wide, "_BLOCK", 2)
    x = np.array([[0.0, 4.0, 1.0], [0.0, 0.0, 0.25]])
    assert span(x) == span(x.T) == span(x[::-1, ::-1]) == (-2, 3)


@given(st.lists(wild((2,)), min_size=1, max_size=3))
def test_where_it_fits_no_product_leaves_the_range(factors):
    if not fits(*map(span, factors)):
        return
    for number in (0, 1):
        product = Fraction(1)
        for x in factors:
            product *= Fraction(float(x[number]))
            assert product == 0 or Fraction(2) ** -1020 < abs(product) < Fraction(2) ** 1000


def test_what_a_type_cannot_hold_is_refused_in_words():
    with pytest.raises(ValueError, match=r"^A, B: the result exceeds the range of float64; resc"):
        narrow(times(wide(1e300), wide(1e300)), "A, B")
    with pytest.raises(ValueError, match=r"^x: the result exceeds the range of float32; rescale"):
        narrow(wide(1e39), "x", np.float32)
    with pytest.raises(ValueError, match=r"^x: the result exceeds"):
        finite(np.array([np.nan]), "x")
    assert narrow(times(wide(1e-300), wide(1e-300)), "A, B") == 0
    assert narrow(wide(1e-40), "x", np.float32) == np.float32(1e-40) > 0


def test_a_span_looks_once_at_each_of_many_numbers_and_takes_little_memory():
    x = np.ones(2**20)
    x[-1], x[2**16] = 3.0, 0.25
    tracemalloc.start()
    assert span(x) == (-2, 2)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5 * 2**18


def test_what_fits_has_room_for_sums_of_products_on_either_side():
    assert fits((-959, 959)) and not fits((-960, 0)) and not fits((0, 960))
    # Each array may be left out of a product: only large numbers can make it larger.
    assert fits((-959, -3), (5, 959))
    assert not fits((-960, -3), (5, 9)) and not fits((-9, -3), (5, 960))
    assert fits((-500, 400), (-459, 559)) and not fits((-500, 400), (-460, 1))
    assert not fits((-1, 400), (-1, 560)) and fits((0, 0), (0, 0))
    single = np.float32
    assert fits((-99, 99), dtype=single)
    assert not fits((-100, 0), dtype=single) and not fits((0, 100), dtype=single)
    # 2**26 products of float32, or 2**60 of float64, still have a finite sum.
    assert np.isfinite(single(2.0) ** 99 * single(2.0) ** 26) and np.isfinite(2.0**959 * 2.0**60)


def test_numbers_of_any_type_come_apart_as_float64():
    for x in ([3, -5], np.array([3, -5], np.float32), np.array([3, -5], np.int8)):
        found = wide(x)
        assert found.mantissa.dtype == np.float64 and found.exponent.dtype == np.int64
        assert found.mantissa.tolist() == [0.75, -0.625] and found.exponent.tolist() == [2, 3]


def test_a_result_that_has_its_type_is_not_copied():
    x = np.array([1.0, -2.0])
    assert finite(x, "x") is x
    assert finite(x, "x", np.float32).dtype == np.float32


@given(wild((2, 3)), wild((2, 1)), st.sampled_from([None, 0, 1]))
def test_sums_along_an_axis_keep_the_digits_of_each(x, far, axis):
    a = times(times(wide(x), wide(x)), wide(np.broadcast_to(far, (2, 3))))
    numbers = np.array(value(a), dtype=object).reshape(2, 3)
    found, truth = total(a, axis), np.atleast_1d(numbers.sum(axis=axis)).tolist()
    assert found.mantissa.shape == np.shape(numbers.sum(axis=axis))
    size = np.atleast_1d(abs(numbers).sum(axis=axis)).tolist()
    assert normal(found) and len(value(found)) == len(truth)
    for number, true, most in zip(value(found), truth, size, strict=True):
        assert abs(number - true) * 2**50 <= most


@given(wild((4,)))
def test_a_square_root_is_rounded_once(x):
    a = times(times(wide(abs(x)), wide(abs(x))), wide(abs(x)))
    half = Fraction(1, 2**53)
    for found, number in zip(value(root(a)), value(a), strict=True):
        assert (found * (1 - half)) ** 2 <= number <= (found * (1 + half)) ** 2


def test_what_cancels_is_zero_and_below_all_others():
    large, small = (times(wide(x), wide(x)) for x in (1e300, 1e-300))
    minus = Wide(-large.mantissa, large.exponent)
    nothing = plus(large, minus)
    assert nothing.exponent == wide(0.0).exponent
    assert value(plus(nothing, small)) == value(plus(small, nothing)) == value(small)
    assert value(total(Wide(*map(np.array, zip(nothing, small, strict=True))))) == value(small)


@pytest.mark.parametrize(("apart", "bands"), [(0, 1), (479, 1), (480, 2), (959, 2), (960, 3)])
def test_numbers_within_a_band_are_worked_on_at_once(apart, bands):
    a = Wide(np.array([0.5, 0.75, 0.0, 0.5]), np.array([7, 7 - apart // 2, -(2**40), 7 - apart]))
    given, seen = [float(v) for v in (1, 2, 3, 4)], []

    def core(x, y):
        assert not ((x != 0) & (abs(x) < 2.0**-480)).any() and (abs(x) < 1).all()
        seen.append(x)
        return np.asarray(x @ y)

    found = bilinear(core, a, wide(given))
    assert len(seen) == bands
    exact_sum = sum(v * Fraction(g) for v, g in zip(value(a), given, strict=True))
    assert close(found, [exact_sum], 4)


def test_zeros_are_a_band_of_their_own_only_if_there_is_nothing_else():
    seen = []

    def core(x, y):
        seen.append((x, y))
        return x * y

    for x, y, calls in (([0.0, 0.0], [1.0, 1e300], 2), ([0.0, 3.0], [0.0, 2.0], 1)):
        seen.clear()
        found = bilinear(core, wide(x), wide(y))
        assert len(seen) == calls
        assert narrow(found, "x").tolist() == [a * b for a, b in zip(x, y, strict=True)]
        zero = found.mantissa == 0
        assert (found.exponent[zero] == wide(0.0).exponent).all()


def test_callers_who_raise_floating_point_errors_see_none():
    with np.errstate(all="raise"):
        far = times(times(wide(1e-300), wide(1e-300)), wide(1e-300))
        assert narrow(plus(wide(1.0), far), "x") == 1
        assert narrow(far, "x") == 0 and narrow(wide(1e-300), "x", np.float32) == 0
        with pytest.raises(ValueError, match=r"^x: the result exceeds the range of float64"):
            narrow(over(wide(1.0), far), "x")
        with pytest.raises(ValueError, match=r"^x: the result exceeds the range of float32"):
            narrow(wide(1e300), "x", np.float32)


# --- planted faults -------------------------------------------------------------------------------


def naive_times(a, b):
    """Leaves the range as floats do."""
    with np.errstate(over="ignore"):
        return wide(np.ldexp(a.mantissa, a.exponent) * np.ldexp(b.mantissa, b.exponent))


def one_band(core, a, b):
    """Measures all relative to the largest: what is far below becomes 0."""
    x, y = (np.ldexp(c.mantissa, np.maximum(c.exponent - c.exponent.max(), -4000)) for c in (a, b))
    part = wide(core(x, y))
    return Wide(part.mantissa, part.exponent + a.exponent.max() + b.exponent.max())


def peak_only(x):
    """Does not look for the smallest number."""
    high = _wide.span(x)[1]
    return (high - 1, high)


def truncated_root(a, degree=2):
    """Forgets the rest of the exponent."""
    return Wide(a.mantissa ** (1 / degree), a.exponent // degree)


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (
            test_arithmetic_is_that_of_fractions_far_beyond_float64,
            {"times": naive_times},
        ),
        (test_products_of_matrices_keep_every_magnitude, {"bilinear": one_band}),
        (test_a_span_lies_between_powers_of_two, {"span": peak_only}),
        (test_where_it_fits_no_product_leaves_the_range, {"span": peak_only}),
        (test_a_root_to_its_power_is_the_number, {"root": truncated_root}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
