"""Laws, exact vectors and bad input of tensors.tensor; its planted faults stand at the end."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    arrays,
    assert_in_range,
    assert_same,
    assert_within,
    caught,
    exact,
    floats,
    law,
    refused,
    seeds,
    shapes,
    tensors_with_factors,
    wild,
    wild_factors,
)

import qcp_ref as right
from qcp_ref import (
    _wide,
    fold,
    gram,
    khatri_rao,
    loops,
    mttkrp,
    mttkrp_sweep,
    rounding_bound,
    unfold,
)
from qcp_ref.tensors import sweep, tensor

THIS = sys.modules[__name__]


@law("unfold.index")
@given(shapes().flatmap(arrays), st.data())
def test_unfold_equals_its_index_formula(X, data):
    mode = data.draw(st.integers(0, X.ndim - 1))
    assert_same(unfold(X, mode), loops.unfold(exact(X), mode))


@law("unfold.inverse", "fold.inverse")
@given(shapes(), st.data())
def test_fold_inverts_unfold_both_ways(shape, data):
    mode = data.draw(st.integers(0, len(shape) - 1))
    X = np.arange(np.prod(shape)).reshape(shape)
    M = unfold(X, mode)
    assert np.array_equal(fold(M, mode, shape), X)
    assert np.array_equal(unfold(fold(M, mode, shape), mode), M)
    assert_same(fold(M, mode, shape), loops.fold(exact(M), mode, shape))


@law("khatri_rao.index")
@given(tensors_with_factors())
def test_khatri_rao_equals_its_index_formula(case):
    _, factors = case
    assert_same(khatri_rao(factors), loops.khatri_rao(exact(factors)))


@law("khatri_rao.associative")
@given(tensors_with_factors())
def test_khatri_rao_is_associative(case):
    _, (A, B, *_) = case
    assert np.array_equal(khatri_rao([khatri_rao([A, B]), A]), khatri_rao([A, B, A]))


@law("gram.explicit", "khatri_rao.gram")
@given(tensors_with_factors(), st.data())
def test_gram_is_that_of_the_explicit_khatri_rao_product(case, data):
    _, factors = case
    mode = data.draw(st.none() | st.integers(0, len(factors) - 1))
    rest = [A for n, A in enumerate(factors) if n != mode]
    K = khatri_rao(rest) if len(rest) > 1 else rest[0]
    assert np.array_equal(gram(factors, mode), K.T @ K)
    assert_same(gram(factors, mode), loops.gram(exact(factors), mode))


@law("gram.symmetric", "gram.norm")
@given(tensors_with_factors(floats))
def test_gram_is_symmetric_and_sums_to_the_squared_norm(case):
    _, factors = case
    G = gram(factors)
    assert np.array_equal(G, G.T)
    X = np.array(loops.reconstruct(exact(factors)), dtype=object)
    size = gram([abs(A) for A in factors]).sum()
    lengths = [G.size, *(2 * len(A) for A in factors)]
    assert_within(G.sum(), (X * X).sum(), rounding_bound(lengths, size))


@law("mttkrp.sum")
@given(tensors_with_factors(floats), st.data())
def test_mttkrp_is_the_sum_over_all_entries(case, data):
    X, factors = case
    mode = data.draw(st.integers(0, X.ndim - 1))
    magnitude = mttkrp(abs(X), [abs(A) for A in factors], mode)
    bound = rounding_bound([X.size, X.ndim], magnitude)
    assert_within(mttkrp(X, factors, mode), loops.mttkrp(exact(X), exact(factors), mode), bound)


@law("mttkrp.adjoint")
@given(tensors_with_factors(), st.data())
def test_mttkrp_is_adjoint_to_the_reconstruction(case, data):
    X, factors = case
    mode = data.draw(st.integers(0, X.ndim - 1))
    dense = np.array(loops.reconstruct(exact(factors)), dtype=float)
    assert (X * dense).sum() == (factors[mode] * mttkrp(X, factors, mode)).sum()


@law("mttkrp.blocks")
@given(tensors_with_factors(), st.data())
def test_blocks_of_mttkrp_do_not_show(case, data):
    X, factors = case
    mode = data.draw(st.integers(0, X.ndim - 1))
    whole = mttkrp(X, factors, mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor, "_BLOCK_BYTES", data.draw(st.sampled_from([1, 100, 1000])))
        assert np.array_equal(mttkrp(X, factors, mode), whole)


@law("mttkrp_sweep.updated")
@given(tensors_with_factors())
def test_sweep_yields_the_mttkrp_with_the_factors_updated_so_far(case):
    X, factors = case
    modes = []
    for mode, F in mttkrp_sweep(X, factors):
        assert_same(F, loops.mttkrp(exact(X), exact(factors), mode))
        factors[mode] = factors[mode][::-1] + 1.0
        modes.append(mode)
    assert modes == list(range(X.ndim))


@law("mttkrp_sweep.reads")
@given(tensors_with_factors())
def test_sweep_reads_the_tensor_only_twice(case):
    X, factors = case
    expected = [mttkrp(X, factors, mode) for mode in range(X.ndim)]
    for mode, F in mttkrp_sweep(X, factors):
        assert np.array_equal(F, expected[mode])
        if mode == 1:  # both large products are done: whatever happens to the tensor is not seen
            X.fill(np.nan)


@law("khatri_rao.range")
@given(wild_factors())
def test_khatri_rao_takes_entries_of_any_magnitude(factors):
    truth = loops.khatri_rao(exact(factors))
    size = loops.khatri_rao(exact([abs(A) for A in factors]))
    assert_in_range(lambda: khatri_rao(factors), truth, size, len(factors))


@law("gram.range")
@given(wild_factors(), st.data())
def test_gram_takes_entries_of_any_magnitude(factors, data):
    mode = data.draw(st.none() | st.integers(0, len(factors) - 1))
    truth = loops.gram(exact(factors), mode)
    size = loops.gram(exact([abs(A) for A in factors]), mode)
    assert_in_range(lambda: gram(factors, mode), truth, size, 60 * len(factors))


def magnitude(X, factors, mode):
    return loops.mttkrp(exact(abs(X)), exact([abs(A) for A in factors]), mode)


@law("mttkrp.range")
@given(wild_factors(), st.data())
def test_mttkrp_takes_entries_of_any_magnitude(factors, data):
    X = data.draw(wild(tuple(map(len, factors))))
    mode = data.draw(st.integers(0, X.ndim - 1))
    truth = loops.mttkrp(exact(X), exact(factors), mode)
    size = magnitude(X, factors, mode)
    assert_in_range(lambda: mttkrp(X, factors, mode), truth, size, X.size + 60)


@law("mttkrp_sweep.range")
@given(wild_factors(), st.data())
def test_a_sweep_takes_entries_of_any_magnitude(factors, data):
    X = data.draw(wild(tuple(map(len, factors)), 200))
    sweep = mttkrp_sweep(X, factors)
    for mode, A in enumerate(factors):
        truth = loops.mttkrp(exact(X), exact(factors), mode)
        size = magnitude(X, factors, mode)
        yielded = []
        assert_in_range(lambda: yielded.append(next(sweep)) or yielded[0][1], truth, size, 99)  # noqa: B023
        if not yielded:  # refused
            return
        assert yielded[0][0] == mode
        factors[mode] = data.draw(wild(A.shape, 400))


@given(tensors_with_factors(), st.data())
def test_tensorly_agrees(case, data):
    tl = pytest.importorskip("tensorly", reason="third opinion, in the dev extra")
    X, factors = case
    mode = data.draw(st.integers(0, X.ndim - 1))
    assert np.array_equal(unfold(X, mode), tl.unfold(X, mode))
    assert np.array_equal(khatri_rao(factors), tl.tenalg.khatri_rao(factors))
    theirs = tl.tenalg.unfolding_dot_khatri_rao(X, (None, factors), mode)
    assert np.array_equal(mttkrp(X, factors, mode), theirs)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_temporaries_of_mttkrp_stay_below_the_promised_bound(mode):
    X = np.ones((96, 96, 96))
    factors = [np.ones((96, 700))] * 3
    mttkrp(X, factors, mode)  # anything allocated once
    tracemalloc.start()
    F = mttkrp(X, factors, mode)
    peak = tracemalloc.get_traced_memory()[1] - F.nbytes
    tracemalloc.stop()
    assert peak <= max(X.nbytes, 32 * 2**20)
    assert (F == 96.0**2).all()


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_any_memory_layout_and_dtype_gives_the_same(mode):
    X = np.arange(60, dtype=np.int32).reshape(3, 4, 5)
    factors = [np.arange(2.0 * side).reshape(side, 2) for side in X.shape]
    expected = mttkrp(X, factors, mode)
    frozen = np.asfortranarray(X).astype(np.float16)
    frozen.setflags(write=False)
    assert np.array_equal(mttkrp(frozen, factors, mode), expected)
    flipped = X[::-1, :, ::-1].copy()[::-1, :, ::-1]
    assert np.array_equal(mttkrp(flipped, [np.asfortranarray(A) for A in factors], mode), expected)
    assert frozen.flags.f_contiguous and not frozen.flags.writeable


@given(tensors_with_factors())
def test_solvers_get_mttkrp_and_gram_of_the_factors_updated_so_far(case):
    X, factors = case
    modes = []
    for mode, F, G in sweep.normal_sweep(np.asfortranarray(X), factors):
        assert_same(F, loops.mttkrp(exact(X), exact(factors), mode))
        assert_same(G, loops.gram(exact(factors), mode))
        np.multiply(G, 3.0, out=G)  # belongs to the caller
        factors[mode] = factors[mode][::-1] - 2.0
        modes.append(mode)
    assert modes == list(range(X.ndim))


def test_results_are_in_c_order():
    X = np.asfortranarray(np.arange(60.0).reshape(3, 4, 5))
    for mode in range(3):
        M = unfold(X, mode)
        assert M.flags.c_contiguous
        for layout in (M, np.asfortranarray(M)):
            assert fold(layout, mode, X.shape).flags.c_contiguous


def test_ordinary_numbers_are_not_taken_apart(monkeypatch):
    def unused(*_):
        raise AssertionError("the slow form")

    monkeypatch.setattr(tensor, "wide", unused)
    factors = [np.arange(2.0 * side).reshape(side, 2) for side in (3, 4, 5)]
    X = np.arange(60.0).reshape(3, 4, 5)
    gram(factors), khatri_rao(factors), mttkrp(X, factors, 1), list(mttkrp_sweep(X, factors))


def test_what_is_out_of_range_is_named():
    huge = [np.full((2, 1), 1e300)] * 3
    for call, names in [
        (lambda: gram(huge), "factors"),
        (lambda: khatri_rao(huge), "matrices"),
        (lambda: mttkrp(np.ones((2, 2, 2)), huge, 0), "X, factors"),
        (lambda: list(mttkrp_sweep(np.ones((2, 2, 2)), huge)), "X, factors"),
    ]:
        with pytest.raises(ValueError, match=f"^{names}: the result exceeds the range of float64"):
            call()


BAD_TENSORS = [
    (np.array([[1.0, np.nan]]), ValueError, "X: expected finite"),
    (np.array([[1.0, np.inf]]), ValueError, "X: expected finite"),
    (np.array([[1j, 0]]), TypeError, "X: expected an array of real"),
    (np.array([[True, False]]), TypeError, "X: expected an array of real"),
    (np.array([[None, 1]]), TypeError, "X: expected an array of real"),
    (np.zeros((2, 0)), ValueError, "X: expected a non-empty"),
    (np.float64(3.0), ValueError, "X: expected at least 2 axes"),
    (np.zeros(3), ValueError, "X: expected at least 2 axes"),
    (np.array([[2**60, 1]]), ValueError, "X: integers above"),
]


@pytest.mark.parametrize(("X", "error", "message"), BAD_TENSORS)
def test_bad_tensors_are_refused(X, error, message):
    factors = [np.ones((side, 2)) for side in np.shape(X)]
    message = f"^{message}"
    with pytest.raises(error, match=message):
        unfold(X, 0)
    with pytest.raises(error, match=message):
        mttkrp(X, factors, 0)
    with pytest.raises(error, match=message):
        next(mttkrp_sweep(X, factors))


def test_bad_factors_modes_and_shapes_are_refused():
    X = np.ones((2, 3))
    A, B = np.ones((2, 4)), np.ones((3, 4))
    with pytest.raises(ValueError, match="same number of columns"):
        mttkrp(X, [A, B[:, :3]], 0)
    with pytest.raises(ValueError, match=r"row counts \(2, 3\)"):
        mttkrp(X, [B, A], 0)
    with pytest.raises(ValueError, match="at least 2 matrices"):
        khatri_rao([A])
    with pytest.raises(TypeError, match="sequence of matrices"):
        gram(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match=r"factors\[1\]: expected 2 axes"):
        gram([A, np.ones(3)])
    for mode in (-1, 2):
        with pytest.raises(ValueError, match="mode: expected 0 to 1"):
            mttkrp(X, [A, B], mode)
    with pytest.raises(TypeError, match="mode: expected an integer"):
        unfold(X, 1.0)
    with pytest.raises(ValueError, match=r"^M: expected shape \(3, 2\)"):
        fold(X, 1, (2, 3))
    with pytest.raises(ValueError, match=r"^M: expected 2 axes"):
        fold(np.ones(6), 1, (2, 3))
    with pytest.raises(ValueError, match=r"^shape: expected at least 2 sides"):
        fold(X, 0, (2,))
    with pytest.raises(ValueError, match=r"^shape: expected at least 1, got 0"):
        fold(X, 0, (2, 0))
    with pytest.raises(ValueError, match=r"row counts \(2, 3\)"):
        next(mttkrp_sweep(X, [B, A]))


@law("gram.symmetric")
@given(wild_factors() | tensors_with_factors(floats).map(lambda case: case[1]), st.data())
def test_gram_without_any_mode_is_symmetric_bit_for_bit(factors, data):
    mode = data.draw(st.none() | st.integers(0, len(factors) - 1))
    G, message = refused(lambda: gram(factors, mode))
    assert message or np.array_equal(G, G.T)


@law("unfold.index", "unfold.inverse", "mttkrp.sum", "mttkrp_sweep.updated")
@settings(max_examples=10)
@given(st.lists(st.integers(17, 40), min_size=2, max_size=3), st.integers(30, 70), st.data())
def test_laws_hold_for_larger_sides_and_ranks(shape, rank, data):
    rng = np.random.default_rng(data.draw(seeds))
    X = rng.integers(-9, 10, shape).astype(float)
    factors = [rng.integers(-3, 4, (side, rank)).astype(float) for side in shape]
    for mode, F in mttkrp_sweep(X, factors):
        M = unfold(X, mode)
        index = data.draw(st.tuples(*[st.integers(0, side - 1) for side in shape]))
        column = 0  # the last of the other modes runs fastest
        for n, i in enumerate(index):
            column = column * shape[n] + i if n != mode else column
        assert M[index[mode], column] == X[index] and np.array_equal(fold(M, mode, X.shape), X)
        letters = "ijk"[: len(shape)]
        others = [n for n in range(len(shape)) if n != mode]
        terms = ",".join([letters, *(letters[n] + "r" for n in others)])
        truth = np.einsum(f"{terms}->{letters[mode]}r", X, *(factors[n] for n in others))
        assert np.array_equal(F, truth) and np.array_equal(mttkrp(X, factors, mode), truth)
        factors[mode] = factors[mode][::-1].copy()


# --- planted faults -------------------------------------------------------------------------------


def fortran_unfold(X, mode):
    """The other convention of the literature."""
    return np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1, order="F")


def swapped_khatri_rao(matrices):
    return right.khatri_rao(matrices[::-1])


def full_gram(factors, mode=None):
    """Forgets to leave the mode out."""
    return right.gram(factors)


def unordered_mttkrp(X, factors, mode):
    """Pairs the C-order unfolding with the reversed Khatri-Rao product."""
    rest = [A for n, A in enumerate(factors) if n != mode][::-1]
    return right.unfold(X, mode) @ (right.khatri_rao(rest) if len(rest) > 1 else rest[0])


def stale_sweep(X, factors):
    """Uses the factors as they were at the start, a Jacobi sweep."""
    start = list(factors)
    for mode in range(np.ndim(X)):
        yield mode, right.mttkrp(X, start, mode)


def unscaled(name):
    """The plain formula, which leaves the range half-way."""
    plain = {
        "khatri_rao": lambda A: tensor.khatri_rao_core(A, A[0].shape[1]),
        "mttkrp": tensor._mttkrp,
        "gram": lambda A, mode=None: np.prod([B.T @ B for n, B in enumerate(A) if n != mode], 0),
    }[name]

    def wrong(*args):
        with np.errstate(all="ignore"):
            return plain(*args)

    return wrong


def unscaled_sweep(X, factors):
    sweep = tensor.sweep_core(X, factors)
    for _ in factors:
        with np.errstate(all="ignore"):
            found = next(sweep)
        yield found


def scaled_mttkrp(X, factors, mode):
    """Moves each array as a whole, so that what is far below its largest entry is lost."""
    shifts = [np.frexp(abs(A).max())[1] for A in (X, *factors)]
    moved = [np.ldexp(A, -e) for A, e in zip((X, *factors), shifts, strict=True)]
    with np.errstate(all="ignore"):
        F = tensor._mttkrp(moved[0], moved[1:], mode)
        return _wide.finite(np.ldexp(F, sum(shifts) - shifts[mode + 1]), "X, factors")


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (
            test_khatri_rao_takes_entries_of_any_magnitude,
            {"khatri_rao": unscaled("khatri_rao")},
        ),
        (test_gram_takes_entries_of_any_magnitude, {"gram": unscaled("gram")}),
        (test_mttkrp_takes_entries_of_any_magnitude, {"mttkrp": unscaled("mttkrp")}),
        (test_mttkrp_takes_entries_of_any_magnitude, {"mttkrp": scaled_mttkrp}),
        (
            test_a_sweep_takes_entries_of_any_magnitude,
            {"mttkrp_sweep": unscaled_sweep},
        ),
        (test_unfold_equals_its_index_formula, {"unfold": fortran_unfold}),
        (test_khatri_rao_equals_its_index_formula, {"khatri_rao": swapped_khatri_rao}),
        (test_gram_is_that_of_the_explicit_khatri_rao_product, {"gram": full_gram}),
        (test_mttkrp_is_the_sum_over_all_entries, {"mttkrp": unordered_mttkrp}),
        (test_mttkrp_is_adjoint_to_the_reconstruction, {"mttkrp": unordered_mttkrp}),
        (
            test_sweep_yields_the_mttkrp_with_the_factors_updated_so_far,
            {"mttkrp_sweep": stale_sweep},
        ),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
