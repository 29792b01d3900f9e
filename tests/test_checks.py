"""The argument checks that every chapter relies on."""

import inspect
import sys
import tracemalloc
from collections import Counter
from decimal import Decimal
from functools import partial
from itertools import count, repeat
from types import FunctionType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import seeds

from qcp_ref import (
    CP,
    Grid,
    QuantizedCP,
    _checks,
    _door,
    admm,
    als_update,
    compress_conv,
    cp_als,
    epc_update,
    output_als,
    polish_output,
    quantize_cp,
    random_cp,
    refit_scale,
    solve_rows,
)
from qcp_ref._checks import (
    check_array,
    check_callback,
    check_class,
    check_count,
    check_factors,
    check_flag,
    check_geometry,
    check_gram,
    check_int,
    check_int_or_ints,
    check_integers,
    check_ints,
    check_mode,
    check_option,
    check_rank,
    check_real,
    check_rng,
    check_sequence,
    check_tensor,
    is_one_int,
    unit_diagonal,
)
from qcp_ref.factors.methods import METHODS


class Index:
    """An integer that is no int."""

    ndim = "text, not a number of axes"

    def __index__(self):
        return 3


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.ndim = self.array.ndim

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "int8", "uint16", "int64", ">f8", ">i4", "longdouble"],
)
def test_real_numbers_of_any_dtype_become_float64_exactly(dtype):
    x = np.array([[0, 1], [2, 100]], dtype=dtype)
    converted = check_array(x, "x")
    assert converted.dtype == np.float64 and np.array_equal(converted, x)
    assert check_array(x[1, 1], "x").shape == ()


def test_float32_is_kept_only_on_request():
    x = np.ones(2, dtype=np.float32)
    assert check_array(x, "x", keep_float32=True).dtype == np.float32
    assert check_array(np.ones(2, np.float16), "x", keep_float32=True).dtype == np.float64
    for keep in (False, True):
        kept = check_factors([x[:, None], x[:, None]], keep_float32=keep)
        assert {A.dtype for A in kept} == {np.dtype(np.float32 if keep else np.float64)}
    assert check_factors([x[:, None], x[:, None]])[1].dtype == np.float64
    with pytest.raises(ValueError, match=r"^x: expected finite numbers"):
        check_array(np.float32([1, np.inf]), "x", keep_float32=True)
    assert check_array(x.astype(">f4"), "x", keep_float32=True).dtype.isnative


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_the_right_type_is_not_copied_and_never_changed(dtype):
    x = np.ones((100, 1000), dtype)
    tracemalloc.start()
    assert check_array(x, "x", keep_float32=True) is x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.size * 1.5  # one truth value per entry
    x.setflags(write=False)
    assert check_array(x[::-1], "x", keep_float32=True).base is x


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0, np.nan], ValueError, "x: expected finite numbers"),
        ([1.0, -np.inf], ValueError, "x: expected finite numbers"),
        ([1j], TypeError, "x: expected an array of real numbers, got dtype complex128"),
        ([[True]], TypeError, "dtype bool"),
        ([None], TypeError, "dtype object"),
        (["1"], TypeError, "dtype <U1"),
        ([], ValueError, r"x: expected a non-empty array, got shape \(0,\)"),
        ([2**53 + 1, 0], ValueError, r"x: integers above 2\*\*53"),
        ([-(2**53) - 1, 0], ValueError, r"x: integers above 2\*\*53"),
        (np.array([2**64 - 1], dtype=np.uint64), ValueError, r"integers above 2\*\*53"),
        (
            np.array([np.longdouble(1) + np.finfo(np.longdouble).eps, 1]),
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
    with pytest.raises(TypeError, match=r"^n: expected an array of real numbers, got a masked"):
        check_int(np.ma.array(3), "n")


def test_reals():
    assert check_real(np.float32(-0.5), "t") == -0.5
    for wrong in (True, "0.5", None, 1j, [1.0, 2.0]):
        with pytest.raises(TypeError, match="t: expected a real number"):
            check_real(wrong, "t")
    for wrong in (np.nan, np.inf, 10**400, Decimal("sNaN")):
        with pytest.raises(ValueError, match="t: expected a finite number"):
            check_real(wrong, "t")


# --- limits ---------------------------------------------------------------------------------------


def columns(number):
    return check_factors([np.ones((1, 1))] * number)


# What checks a value, the last one that is taken, the first one that is not, and what is said.
LIMITS = [
    (check_rank, 1, 0, "rank: expected at least 1, got 0"),
    (check_rank, 65536, 65537, "rank: expected at most 65536, got 65537"),
    (lambda n: check_count(n, "n"), 1, 0, "n: expected at least 1, got 0"),
    (lambda n: check_count(n, "n"), 1000000, 1000001, "n: expected at most 1000000, got 1000001"),
    (lambda n: check_count(n, "n", minimum=0), 0, -1, "n: expected at least 0, got -1"),
    (lambda n: check_mode(n, 3), 0, -1, "mode: expected 0 to 2, got -1"),
    (lambda n: check_mode(n, 3), 2, 3, "mode: expected 0 to 2, got 3"),
    (lambda n: check_int(n, "n", minimum=1, maximum=16), 16, 17, "n: expected 1 to 16, got 17"),
    (lambda n: check_int(n, "n", minimum=1, maximum=16), 1, 0, "n: expected 1 to 16, got 0"),
    (lambda n: check_int(n, "n", maximum=3), 3, 4, "n: expected at most 3, got 4"),
    (lambda n: check_int(n, "n", cap=3), 3, 4, "n: expected at most 3, got 4"),
    (lambda n: check_ints([7, n], "n", minimum=5)[1], 5, 4, "n: expected at least 5, got 4"),
    (lambda n: check_ints([7, n], "n", maximum=9)[1], 9, 10, "n: expected at most 9, got 10"),
    (lambda n: check_ints([7, n], "n", cap=9)[1], 9, 10, "n: expected at most 9, got 10"),
    (lambda n: check_int_or_ints(n, "n", minimum=5)[0], 5, 4, "n: expected at least 5, got 4"),
    (lambda n: check_int_or_ints(n, "n", cap=9)[0], 9, 10, "n: expected at most 9, got 10"),
    (lambda n: check_int_or_ints([n], "n", minimum=5)[0], 5, 4, "n: expected at least 5, got 4"),
    (lambda n: check_int_or_ints([n], "n", cap=9)[0], 9, 10, "n: expected at most 9, got 10"),
    (lambda n: check_geometry(n, 0, 1)[0], 1, 0, "stride: expected at least 1, got 0"),
    (lambda n: check_geometry(1, n, 1)[1], 0, -1, "padding: expected at least 0, got -1"),
    (lambda n: check_geometry(1, 0, n)[2], 1, 0, "dilation: expected at least 1, got 0"),
    (
        lambda n: check_geometry((1, n), 0, 1)[0][1],
        *(2147483648, 2147483649, "stride: expected at most 2147483648, got 2147483649"),
    ),
    (lambda t: check_real(t, "t", positive=True), 5e-324, 0.0, "t: expected a number above 0, got"),
    (lambda t: check_real(t, "t", minimum=0.5), 0.5, 0.25, "t: expected at least 0.5, got 0.25"),
    (lambda t: check_real(t, "t", maximum=0.5), 0.5, 0.75, "t: expected at most 0.5, got 0.75"),
    (lambda x: check_array([x], "x")[0], 2**53, 2**53 + 1, r"x: integers above 2\*\*53"),
    (lambda x: check_array([x], "x")[0], -(2**53), -(2**53) - 1, r"x: integers above 2\*\*53"),
    (lambda x: check_tensor([[0, x]])[0, 1], 2.0**400, 2.001**400, "X: expected a largest magnit"),
    (lambda x: check_tensor([[1, -x]])[0, 1], -(2.0**400), 2.001**400, "X: expected a largest ma"),
    (lambda x: check_tensor([[0, x]])[0, 1], 2.0**-400, 2.001**-400, "X: expected a largest magn"),
    (lambda x: check_gram([[x]], 1)[0, 0], 2.0**800, 2.001**800, "G: expected a diagonal of 0 or"),
    (lambda x: check_gram([[x]], 1)[0, 0], 2.0**-800, 2.001**-800, "G: expected a diagonal of 0"),
    (lambda n: len(columns(n)), 64, 65, r"factors: expected at most 64 matrices .*, got more"),
    (lambda n: len(columns(n)), 2, 1, "factors: expected at least 2 matrices, got 1"),
    (
        lambda n: len(check_sequence(repeat(1, n), "s", "parts")),
        *(100000, 100001, "s: expected at most 100000 parts, got more"),
    ),
    (
        lambda n: check_array(np.ones((2,) * n), "x", min_ndim=2).ndim,
        2,
        1,
        "x: expected at least 2",
    ),
    (lambda n: check_tensor(np.ones((2,) * n), "Y").ndim, 2, 1, "Y: expected at least 2 axes, got"),
]


@pytest.mark.parametrize(("check", "last", "beyond", "message"), LIMITS)
def test_a_limit_is_taken_and_what_lies_beyond_is_refused(check, last, beyond, message):
    assert abs(check(last)) == abs(last)
    with pytest.raises(ValueError, match=f"^{message}"):
        check(beyond)


def test_a_tensor_of_zeros_has_no_smallest_magnitude():
    assert not check_tensor(np.zeros((2, 2))).any()


# --- one or several -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), Foreign(3), Index()])
def test_one_integer_stands_for_itself(value):
    assert is_one_int(value)
    if not isinstance(value, Foreign):  # it says no integer
        assert check_int_or_ints(value, "n") == (3,)
        assert check_geometry(value, value, value) == (3, 3, 3)


@pytest.mark.parametrize("value", [[3], (3,), range(3, 4), np.array([3]), np.int8([3])])
def test_several_integers_become_a_tuple(value):
    assert not is_one_int(value)
    assert check_int_or_ints(value, "n") == check_ints(value, "n") == (3,)
    assert check_geometry(value, value, value) == ((3,), (3,), (3,))


def test_what_is_neither_is_refused_as_one_or_as_a_sequence():
    with pytest.raises(TypeError, match=r"^n: expected an integer, got 2.5 of type float$"):
        check_int_or_ints(2.5, "n")
    with pytest.raises(TypeError, match=r"^n: expected an integer, got 2.5 of type float$"):
        check_int_or_ints([1, 2.5], "n")
    with pytest.raises(
        TypeError, match=r"^n: expected a sequence of integers, got '12' of type st"
    ):
        check_int_or_ints("12", "n")
    with pytest.raises(TypeError, match=r"^n: expected a sequence of integers, got 12 of type int"):
        check_ints(12, "n")


def test_padding_may_be_a_word():
    for word in ("valid", "same"):
        assert check_geometry(1, word, 2) == (1, word, 2)
    with pytest.raises(
        ValueError, match=r"^padding: expected one of \['valid', 'same'\], got 'no'"
    ):
        check_geometry(1, "no", 1)


@pytest.mark.parametrize(
    "value", ["ab", b"ab", bytearray(b"ab"), {1: 2}, {1}, frozenset({1}), 3, None, np.ones((2, 2))]
)
def test_what_is_no_sequence_is_refused(value):
    kind = type(value).__name__
    with pytest.raises(
        TypeError, match=rf"^s: expected a sequence of numbers, got .* of type {kind}"
    ):
        check_sequence(value, "s", "numbers")


def test_an_array_is_a_sequence_of_its_numbers_only():
    for x in ([1, 2], (1, 2), np.array([1, 2]), iter([1, 2])):
        assert check_sequence(x, "s", "numbers") == [1, 2]
    with pytest.raises(TypeError, match=r"^s: expected a sequence of arrays, got array"):
        check_sequence(np.array([1, 2]), "s", "arrays")


def test_what_never_ends_is_left_after_one_entry_too_many():
    endless = count()
    with pytest.raises(ValueError, match=r"^s: expected at most 5 parts, got more$"):
        check_sequence(endless, "s", "parts", most=5)
    assert next(endless) == 6


# --- once, at the door ----------------------------------------------------------------------------

CHECKS = {
    function.__code__: function.__name__
    for module in (_checks, _door)
    for function in vars(module).values()
    if isinstance(function, FunctionType) and function.__module__ == module.__name__
}
CONSTRUCTORS = {inspect.unwrap(kind.__init__).__code__: kind.__name__ for kind in (CP, QuantizedCP)}


def counted(run):
    """How often each check and each constructor that checks is called."""
    names, found = CHECKS | CONSTRUCTORS, Counter()

    def note(frame, event, _):
        if event == "call" and frame.f_code in names:
            found[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def a_layer(method, sweeps):
    """Each stage ends after this many sweeps."""
    W = np.random.default_rng(5).standard_normal((5, 4, 2, 2))
    stop = lambda stage, sweep, figure: sweep + 1 >= sweeps
    return compress_conv(W, rank=3, method=method, second_moment=np.eye(16), callback=stop)


X, S = np.random.default_rng(5).standard_normal((5, 4, 3)), np.eye(12)
START, ROUNDED = random_cp(X.shape, 3, rng=1), quantize_cp(random_cp(X.shape, 3, rng=1), Grid(4))
SOLVERS = {
    "cp_als": lambda n: cp_als(X, 3, max_sweeps=n, stop="none"),
    "output_als": lambda n: output_als(X, START, S, max_sweeps=n, tol=0.0),
    "polish_output": lambda n: polish_output(X, ROUNDED, S, max_sweeps=n),
    **{method: partial(a_layer, method) for method in METHODS},
}


@pytest.mark.parametrize("caller", SOLVERS)
def test_checks_run_at_the_door(caller):
    SOLVERS[caller](1)  # kernels are compiled, if they have to be
    few, many = (counted(partial(SOLVERS[caller], sweeps)) for sweeps in (2, 6))
    assert few == many
    assert 0 < max(few.values()) <= 60


def test_calls_of_checks_and_constructors_are_counted():
    found = counted(lambda: [CP([[[1.0]], [[2.0]]]) for _ in "ab"])
    assert (found["CP"], found["check_factors"], found["check_array"]) == (2, 2, 4)
    assert counted(lambda: cp_als(X, 1, max_sweeps=1))["CP"] == 0


# --- other arguments ------------------------------------------------------------------------------


def test_arrays_of_integers_keep_their_type():
    for dtype in (np.int8, np.uint16, np.int64):
        x = np.array([[1, 2]], dtype)
        assert check_integers(x, "k", ndim=2) is x
    for wrong, error, message in [
        ([1.0], TypeError, "expected integers, got dtype float64; round"),
        ([True], TypeError, "expected integers, got dtype bool"),
        ([], ValueError, r"expected a non-empty array, got shape \(0,\)"),
        ([1], ValueError, "expected 2 axes, got 1"),
        ([[2**60]], ValueError, r"integers above 2\*\*53"),
    ]:
        with pytest.raises(error, match=f"^k: {message}"):
            check_integers(wrong, "k", ndim=2)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), Decimal("0.5"), np.array(0.5), Foreign(0.5)]
)
def test_a_real_number_may_be_of_any_kind(value):
    found = check_real(value, "t", positive=True)
    assert type(found) is float
    assert found == 0.5


def test_arrays_with_axes_are_no_real_numbers():
    for one, message in (
        (Foreign([0.5]), "expected a real number, got array"),
        (Foreign(1j), "expected an array of real numbers, got dtype complex128"),
    ):
        with pytest.raises(TypeError, match=f"^t: {message}"):
            check_real(one, "t")


def test_what_is_right_is_returned():
    grid = Grid(4)
    assert check_flag(True, "f") is True
    assert check_flag(False, "f") is False
    assert check_callback(None) is None
    assert check_callback(len) is len
    assert check_class(grid, "g", Grid) is grid
    assert check_option("a", "o", ("a", "b")) == "a"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_flag(np.True_, "f"), TypeError, "f: expected True or False, got"),
        (lambda: check_callback(3), TypeError, "callback: expected a function or None, got 3"),
        (lambda: check_class(4, "g", Grid), TypeError, "g: expected a Grid, got int"),
        (
            lambda: check_option("c", "o", ("a", "b")),
            *(ValueError, r"o: expected one of \['a', 'b'\], got 'c'"),
        ),
        (
            lambda: check_option(None, "o", ("a",)),
            TypeError,
            r"o: expected one of \['a'\], got None",
        ),
    ],
)
def test_what_is_wrong_is_named(call, error, message):
    with pytest.raises(error, match=f"^{message}$" if error is ValueError else f"^{message}"):
        call()


def test_factors_are_matrices_of_one_rank():
    A, B = np.ones((2, 3)), np.ones((4, 3))
    for given_ in ([A, B], (A, B), iter([A, B])):
        first, second = check_factors(given_, shape=[2, 4])
        assert first is A
        assert second is B
    for wrong, error, message in [
        (3, TypeError, r"expected a sequence of matrices \(one per mode\), got 3"),
        (A, TypeError, "expected a sequence of matrices"),
        ([A, B[:, :2]], ValueError, r"expected the same number of columns .*, got \[3, 2\]"),
        ([B, A], ValueError, r"expected row counts \(2, 4\) .*, got \(4, 2\)"),
    ]:
        with pytest.raises(error, match=f"^F: {message}"):
            check_factors(wrong, "F", shape=(2, 4))
    with pytest.raises(ValueError, match=r"^F\[1\]: expected 2 axes, got 3"):
        check_factors([A, np.ones((4, 3, 1))], "F")


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
    ([[0.0, 1.0], [0.0, 1.0]], "a zero on the diagonal"),
    ([[0.0, 0.0], [1.0, 1.0]], "a zero on the diagonal"),
    ([[0.0, 1e-30], [1e-30, 1.0]], "a zero on the diagonal"),
    ([[1.0, 1.1], [1.1, 1.0]], "semidefinite, got an eigenvalue of -0.1 "),
    ([[1e-20, 1.001e-10], [1.001e-10, 1.0]], "semidefinite, got an eigenvalue of -0.00"),
    ([[1.0, 0.5], [0.4, 1.0]], "symmetric"),
    ([[0.0, 0.0], [0.0, -1.0]], "got -1 on the diagonal"),
    ([[1e-320]], "rescale"),
    ([[1e300]], "rescale"),
    ([[1e-320, 0.0], [0.0, 1.0]], "rescale"),
    ([[1.0, 0.0], [0.0, 1e300]], "rescale"),
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


@pytest.mark.parametrize("swapped", [False, True])
def test_two_entries_may_differ_by_as_much_as_both_may_be_off(swapped):
    for off, refused in ((2.0, False), (2.1, True)):
        G = np.array([[4.0, 0.0], [16 * off * 2.0**-18, 64.0]])  # columns of length 2 and 8
        G = G.T if swapped else G
        if refused:
            with pytest.raises(ValueError, match=r"^G: expected a Gram matrix, which is symmetric"):
                check_gram(G, 2)
        else:
            assert np.array_equal(check_gram(G, 2), (G + G.T) / 2)


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_entries_that_differ_the_mean_is_judged(swapped):
    """The larger one alone would be too large, at an allowance of 2**-17 for rank 2."""
    G = np.array([[1.0, 1 + 2.9 * 2.0**-18], [1 + 1.0 * 2.0**-18, 1.0]])
    G = G.T if swapped else G
    assert np.array_equal(check_gram(G, 2), (G + G.T) / 2)


def test_a_symmetric_gram_matrix_is_taken_as_it_is():
    for G in (np.eye(2), np.diag([0.0, 4.0]), np.zeros((2, 2))):
        assert check_gram(G, 2) is G
    for wrong in (np.eye(3), np.ones((2, 3)), np.ones((3, 2))):
        with pytest.raises(
            ValueError, match=r"^G: expected shape \(2, 2\) \(the rank of F\), got \("
        ):
            check_gram(wrong, 2)
    with pytest.raises(ValueError, match=r"^G: expected finite"):
        check_gram([[np.nan]], 1)


@given(seeds, st.integers(1, 5))
def test_unit_diagonals_are_made_by_powers_of_two(seed, rank):
    """Times the divisors it is the matrix again, to the last bit; zeros are divided by 1."""
    rng = np.random.default_rng([seed, 22])
    lengths = np.ldexp(rng.uniform(1, 2, rank), rng.integers(-300, 300, rank))
    dead = rng.random(rank) < 0.3
    G = np.where(dead | dead[:, None], 0.0, rng.uniform(-1, 1, (rank, rank)))
    np.fill_diagonal(G, np.where(dead, 0.0, lengths**2))
    unit, divisors = unit_diagonal(G)
    assert np.array_equal(np.frexp(divisors)[0], np.full(rank, 0.5))
    assert np.array_equal(unit * divisors * divisors[:, None], G)
    assert np.array_equal(divisors[dead], np.ones(dead.sum()))
    assert ((np.diag(unit)[~dead] >= 0.5) & (np.diag(unit)[~dead] <= 2)).all()
