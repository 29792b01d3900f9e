"""Numbers on their way: nothing is lost, the stream of random integers is the published one."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcp_ref.conformance import dyadic
from qcp_ref.conformance.dyadic import SplitMix64, canonical, decode, encode, fractions, pack

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
DTYPES = st.sampled_from(["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])


def same(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    # Every bit, except that there is only one NaN.
    kept = ~np.isnan(a)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and np.array_equal(
        np.signbit(a[kept]), np.signbit(b[kept])
    )


@given(DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_arrays_come_back_as_they_went(array):
    text = canonical(encode(array))
    assert same(decode(json.loads(text)), array)


@given(hnp.arrays("f8", SHAPES, elements=st.floats(-1e6, 1e6)))
def test_fractions_are_the_numbers_themselves(array):
    expected = np.array([Fraction(x) for x in array.reshape(-1).tolist()], object)
    assert np.array(fractions(encode(array)), object).reshape(-1).tolist() == expected.tolist()
    packed = pack(fractions(encode(array)), "f64", array.shape)
    assert np.array_equal(decode(packed), array)


def test_integers_beyond_two_to_the_53_travel_as_text():
    assert encode(np.array([2**53, 2**53 + 1]))["m"] == [2**53, str(2**53 + 1)]
    assert encode(np.float32([0.75, -3.0])) == {"t": "f32", "s": [2], "e": -2, "m": [3, -12]}
    assert encode(np.array([-0.0, np.inf, -np.inf, np.nan]))["m"] == ["-0", "inf", "-inf", "nan"]


def test_reals_take_the_declared_type_and_must_fit_it():
    data = pack([1, Fraction(1, 2)])
    assert decode(data, "f32").dtype == np.float32
    assert decode(data, "f64").dtype == np.float64
    with pytest.raises(ValueError, match="exact in float32"):
        decode(pack([2**24 + 1]), "f32")


@pytest.mark.parametrize(("value", "kind"), [(Fraction(1, 3), "real"), (Fraction(1, 2), "i8")])
def test_what_is_not_dyadic_is_refused(value, kind):
    with pytest.raises(ValueError, match="nested"):
        pack(value, kind)


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="array"):
        encode(np.array(["one"]))


def test_published_values_of_splitmix64():
    # The first outputs for the seed 1234567, as given with the generator's C code.
    rng = SplitMix64(1234567)
    assert [rng.word() for _ in range(5)] == [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]


@given(st.integers(0, 2**64 - 1), st.integers(-5, 5), st.integers(0, 9))
def test_integers_stay_in_their_range(seed, low, width):
    rng = SplitMix64(seed)
    drawn = rng.integers((3, 4), low, low + width)
    assert np.shape(drawn) == (3, 4)
    assert all(low <= n <= low + width for row in drawn for n in row)
    assert rng.choice("ab") in "ab"


def test_no_integer_is_preferred():
    # With 2**64 modulo 3 = 1, the largest word is rejected; a stub shows that it is.
    rng = SplitMix64(0)
    words = iter([2**64 - 1, 5])
    rng.word = lambda: next(words)
    assert rng.integer(0, 2) == 2


def test_canonical_text_has_one_form():
    assert canonical({"b": [1, 2], "a": "é"}) == '{"a":"\\u00e9","b":[1,2]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})
    assert dyadic.nest([1, 2, 3, 4], (2, 2)) == [[1, 2], [3, 4]]
