"""The argument checks that every chapter relies on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import seeds

from qcp_ref import Grid, admm, als_update, epc_update, refit_scale, solve_rows
from qcp_ref._checks import (
    check_array,
    check_factors,
    check_gram,
    check_int,
    check_mode,
    check_option,
    check_real,
    check_rng,
)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint16", "int64", ">f8", ">i4"]
)
def test_real_numbers_of_any_dtype_become_float64_exactly(dtype):
    x = np.array([[0, 1], [2, 100]], dtype=dtype)
    converted = check_array(x, "x")
    assert converted.dtype == np.float64 and np.array_equal(converted, x)


def test_float32_is_kept_only_on_request():
    x = np.ones(2, dtype=np.float32)
    assert check_array(x, "x", keep_float32=True).dtype == np.float32
    assert check_array(np.ones(2, np.float16), "x", keep_float32=True).dtype == np.float64


def test_float64_input_is_not_copied_and_never_changed():
    x = np.ones((2, 3))
    assert check_array(x, "x") is x
    x.setflags(write=False)
    assert check_array(x[::-1], "x").base is x


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0, np.nan], ValueError, "x: expected finite numbers"),
        ([1.0, -np.inf], ValueError, "x: expected finite numbers"),
        ([1j], TypeError, "x: expected an array of real numbers, got dtype complex128"),
        ([True], TypeError, "dtype bool"),
        ([None], TypeError, "dtype object"),
        (["1"], TypeError, "dtype <U1"),
        ([], ValueError, r"x: expected a non-empty array, got shape \(0,\)"),
        ([2**53 + 1], ValueError, r"x: integers above 2\*\*53"),
        (np.array([2**64 - 1], dtype=np.uint64), ValueError, r"integers above 2\*\*53"),
        (
            np.array([np.longdouble(1) + np.finfo(np.longdouble).eps]),
            ValueError,
            "do not fit float64",
        ),
    ],
)
def test_bad_arrays_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        check_array(value, "x")


def test_axes_are_counted():
    with pytest.raises(ValueError, match=r"x: expected 3 axes, got 2 \(shape \(1, 1\)\)"):
        check_array([[1]], "x", ndim=3)
    with pytest.raises(ValueError, match="x: expected at least 2 axes, got 1"):
        check_array([1], "x", min_ndim=2)


def test_integers():
    assert check_int(np.int8(3), "n") == 3
    for wrong in (True, np.True_, 2.0, "2", None):
        with pytest.raises(TypeError, match="n: expected an integer"):
            check_int(wrong, "n")
    with pytest.raises(ValueError, match="n: expected 1 to 16, got 17"):
        check_int(17, "n", minimum=1, maximum=16)
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        check_int(0, "n", minimum=1)
    with pytest.raises(ValueError, match="n: expected at most 3, got 4"):
        check_int(4, "n", maximum=3)


def test_reals():
    assert check_real(np.float32(0.5), "t") == 0.5
    for wrong in (True, "0.5", None, 1j, [1.0, 2.0]):
        with pytest.raises(TypeError, match="t: expected a real number"):
            check_real(wrong, "t")
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="t: expected a finite number"):
            check_real(wrong, "t")
    with pytest.raises(ValueError, match="t: expected a number above 0"):
        check_real(0, "t", positive=True)
    with pytest.raises(ValueError, match=r"t: expected at least 0.0, got -1.0"):
        check_real(-1, "t", minimum=0.0)


def test_options_modes_and_factors():
    assert check_option("a", "o", ("a", "b")) == "a"
    with pytest.raises(ValueError, match=r"o: expected one of \['a', 'b'\], got 'c'"):
        check_option("c", "o", ("a", "b"))
    with pytest.raises(TypeError, match="o: expected one of"):
        check_option(None, "o", ("a",))
    with pytest.raises(ValueError, match="mode: expected 0 to 2, got 3"):
        check_mode(3, 3)
    with pytest.raises(TypeError, match="factors: expected a sequence of matrices"):
        check_factors(3)
    assert len(check_factors(np.ones((2, k)) for k in (3, 3))) == 2


@given(st.integers(0, 2**40))
def test_equal_seeds_in_two_functions_never_share_a_stream(seed):
    a, again, b = (
        check_rng(seed, name).integers(2**60) for name in ("random_cp", "random_cp", "cp_als")
    )
    assert a == again != b


def test_generators_pass_through_and_global_state_is_refused():
    generator = np.random.default_rng(0)
    assert check_rng(generator, "f") is generator
    for wrong in (None, True, 1.0, np.random.RandomState(0)):
        with pytest.raises(TypeError, match="rng: expected an int or"):
            check_rng(wrong, "f")
    with pytest.raises(ValueError, match="rng: expected a seed of at least 0"):
        check_rng(-1, "f")


# --- Gram matrices ------------------------------------------------------------------------------

GRAMS = [
    ([[0.0, 1.0], [1.0, 0.0]], "a zero on the diagonal"),
    ([[0.0, 1e-30], [1e-30, 1.0]], "a zero on the diagonal"),
    ([[1.0, 1.1], [1.1, 1.0]], "semidefinite, got an eigenvalue of -0.1 "),
    ([[1e-20, 1.001e-10], [1.001e-10, 1.0]], "semidefinite, got an eigenvalue of -0.00"),
    ([[1.0, 0.5], [0.4, 1.0]], "symmetric"),
    ([[-1.0, 0.0], [0.0, 1.0]], "got -1 on the diagonal"),
    ([[1e-320]], "rescale"),
    ([[1e300]], "rescale"),
    ([[1.0, 0.0]], "expected shape"),
]
DOORS = [
    als_update,
    lambda F, G: admm(F, G, np.rint, start=np.zeros_like(F)),
    lambda F, G: epc_update(F, G, 1e9, 1.0),
    lambda F, G: solve_rows(F, G, Grid(4), 1.0),
    lambda F, G: refit_scale(F, G, np.zeros(F.shape, int), Grid(4), 1.0),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("G", "message"), GRAMS)
def test_what_is_no_gram_matrix_is_refused_everywhere(door, G, message):
    with pytest.raises(ValueError, match=f"^G: .*{message}"):
        door(np.ones((2, len(G[0]))), G)


@given(seeds, st.integers(1, 40), st.integers(1, 2000), st.sampled_from([0.0, 1e-8, 1e-4, 1.0]))
def test_gram_matrices_formed_in_float32_are_taken(seed, rank, rows, spread):
    rng = np.random.default_rng([seed, 21])
    K = rng.standard_normal((rows, 1)) + spread * rng.standard_normal((rows, rank))
    K = (K * 10.0 ** rng.uniform(-6, 6, rank)).astype(np.float32)
    for G in (K.T @ K, np.einsum("ir,iq->rq", K, K)):
        found = check_gram(G, rank)
        assert np.array_equal(found, found.T) and np.allclose(found, G, rtol=1e-5)


@given(seeds, st.integers(1, 5), st.sampled_from([0.5, 0.9, 0.999, 1.001, 1.1, 3.0, 1e3]))
def test_semidefinite_is_judged_at_unit_diagonal(seed, rank, share):
    """Below the allowance an eigenvalue is refused, above it not, in columns of any length."""
    rng = np.random.default_rng([seed, 23])
    Q = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    d = np.sqrt(1 - Q[:, 0] ** 2)
    if (d < 0.1).any():
        return
    unit = Q[:, 1:] @ Q[:, 1:].T / d / d[:, None]  # singular
    v = np.linalg.eigh(unit)[1][:, 0]
    unit = unit - share * 2.0**-18 * rank * np.outer(v, v)
    d = np.sqrt(np.diag(unit))
    least = np.linalg.eigvalsh(unit / d / d[:, None])[0]
    lengths = 10.0 ** rng.uniform(-20, 20, rank)
    G = unit * np.outer(lengths, lengths)
    allowed = -(2.0**-18) * rank
    if least < allowed * 1.0001:
        with pytest.raises(ValueError, match="G: "):
            check_gram(G, rank)
    if least > allowed * 0.9999:
        assert np.array_equal(check_gram(G, rank), (G + G.T) / 2)


def test_of_a_nearly_symmetric_matrix_the_symmetric_part_is_taken():
    G = np.array([[1.0, 0.5], [0.5 + 2.0**-20, 1.0]])
    assert check_gram(G, 2).tolist() == [[1.0, 0.5 + 2.0**-21], [0.5 + 2.0**-21, 1.0]]
    assert G[0, 1] == 0.5
