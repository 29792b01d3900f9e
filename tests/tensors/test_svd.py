"""Laws and bad input of qcp_ref.tensors.svd; its planted faults stand at the end."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import arrays, caught, law, seeds, sides

import qcp_ref as right
from qcp_ref import (
    CP,
    balance,
    canonical,
    loops,
    normalize,
    random_cp,
    reconstruct,
    relative_error,
    svd_cp,
)
from qcp_ref.tensors import svd

THIS = sys.modules[__name__]


@st.composite
def matrices(draw):
    """Matrices in effect: plain, of exact low rank, cancelling, with equal or far singular values.

    Some have modes of side 1 between the long ones.
    """
    rows, columns, rank = draw(sides), draw(sides), draw(sides)
    rng = np.random.default_rng([draw(seeds), 71])
    kind = draw(st.sampled_from(["plain", "low rank", "cancelling", "equal", "scales", "integers"]))
    U, V = (np.linalg.qr(rng.standard_normal((side, 5)))[0] for side in (rows + 5, columns + 5))
    count = min(rows, columns)
    X = rng.standard_normal((rows, columns))
    if kind == "low rank":
        X = rng.standard_normal((rows, 1)) @ rng.standard_normal((1, columns))
    elif kind == "cancelling":
        X = 1e6 * np.outer(U[:rows, 0], V[:columns, 0])
        X = X + X[::-1] * -(1 + 1e-6) + rng.standard_normal((rows, columns))
    elif kind == "equal":
        A, B = (np.linalg.qr(rng.standard_normal((n, n)))[0][:, :count] for n in (rows, columns))
        X = A * (1 + 1e-9 * np.arange(count)) @ B.T
    elif kind == "scales":
        X = X * 10.0 ** rng.uniform(-8, 8, columns)
    elif kind == "integers":
        X = draw(arrays((rows, columns)))
    shape = [rows, columns]
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return X.reshape(shape), rank


def flat(X):
    """The matrix itself."""
    long = [side for side in X.shape if side > 1]
    return X.reshape(long if len(long) == 2 else (-1, 1))


@law("svd_cp.best")
@settings(max_examples=60)
@given(matrices(), seeds)
def test_no_tensor_of_the_rank_is_nearer(drawn, seed):
    X, rank = drawn
    cp, size = svd_cp(X, rank), np.linalg.norm(X)
    error = np.linalg.norm(X - reconstruct(cp))
    assert cp.shape == X.shape and cp.rank == rank
    # Eckart and Young: the singular values that are left out.
    tail = np.linalg.svd(flat(X), compute_uv=False)[rank:]
    assert abs(error - np.sqrt((tail**2).sum())) <= 1e-13 * size
    # and least squares from its factors, or from others, gain nothing
    for start in (cp, random_cp(X.shape, rank, rng=seed)):
        if size > 0:
            fit = right.cp_als(X, rank, init=start, max_sweeps=5, stop="none")
            assert error <= (relative_error(X, fit.cp) + 1e-13) * size


@law("svd_cp.orthogonal")
@given(matrices())
def test_components_are_orthogonal(drawn):
    X, rank = drawn
    cp = normalize(svd_cp(X, rank))
    alive = cp.weights != 0
    for A in cp.factors:
        if A.shape[0] > 1:
            assert np.allclose(A[:, alive].T @ A[:, alive], np.eye(alive.sum()), atol=1e-13)


@law("svd_cp.balanced")
@given(matrices())
def test_columns_have_equal_norms_that_descend(drawn):
    X, rank = drawn
    cp = svd_cp(X, rank)
    lengths = np.array([np.linalg.norm(A, axis=0) for A in cp.factors])
    assert (cp.weights == 1).all()
    assert np.allclose(lengths, lengths[0], rtol=1e-13, atol=0)
    assert (np.diff(lengths[0]) <= 1e-13 * lengths[0][:-1]).all()


@law("svd_cp.signs")
@settings(max_examples=60)
@given(matrices())
def test_signs_are_fixed(drawn):
    X, rank = drawn
    cp, other = svd_cp(X, rank), svd_cp(-X, rank)
    one, two = svd.long_modes(X.shape)
    for column in cp.factors[one].T:
        size = np.abs(column)
        assert column[size >= size.max() * (1 - 1e-9)][0] >= 0
    # the negative matrix has the same factors; all that changes is the sign of the second one
    for n, (A, B) in enumerate(zip(cp.factors, other.factors, strict=True)):
        assert np.array_equal(A, -B if n == two else B)
        assert n in (one, two) or (A >= 0).all()


@pytest.mark.parametrize(
    ("shape", "modes"),
    [((2, 3), (0, 1)), ((1, 1, 4, 5), (2, 3)), ((4, 1, 5), (0, 2)), ((1, 4, 1), (0, 1))],
)
def test_the_modes_of_the_matrix_are_the_long_ones(shape, modes):
    assert svd.long_modes(shape) == modes and svd.is_matrix(shape)
    assert not svd.is_matrix((*shape, 2, 2))


def test_the_larger_of_two_equal_entries_is_not_decided_by_rounding():
    for eps in (-1e-15, 0.0, 1e-15):
        cp = svd_cp(np.outer([-1.0, 1.0 + eps], [1.0, 2.0]), 1)
        assert cp.factors[0][0, 0] > 0 and (cp.factors[1] < 0).all()


@law("svd_cp.scale")
@settings(max_examples=60)
@given(matrices(), st.integers(-60, 60))
def test_powers_of_two_change_no_digit(drawn, power):
    X, rank = drawn
    cp, other = svd_cp(X, rank), svd_cp(X * 2.0 ** (power * X.ndim), rank)
    for A, B in zip(cp.factors, other.factors, strict=True):
        assert np.array_equal(A * 2.0**power, B)


@law("svd_cp.padded")
@given(matrices(), st.integers(1, 4))
def test_a_rank_beyond_that_of_the_matrix_adds_zeros(drawn, more):
    X, _ = drawn
    full = min(flat(X).shape)
    cp, larger = svd_cp(X, full), svd_cp(X, full + more)
    for A, B in zip(cp.factors, larger.factors, strict=True):
        assert np.array_equal(A, B[:, :full]) and not B[:, full:].any()
    low = svd_cp(np.outer([1.0, 3.0, 7.0], [0.1, 0.7]), 2)  # what is left is rounding
    assert not any(A[:, 1].any() for A in low.factors)


@law("svd_cp.jacobi")
@settings(max_examples=60)
@given(matrices())
def test_it_equals_jacobi_rotations_in_plain_loops(drawn):
    X, rank = drawn
    M = flat(X)
    pairs = loops.jacobi(M.tolist())
    norms = np.array([np.linalg.norm(left) for left, _ in pairs])
    cp = svd_cp(X, rank)
    own = np.zeros(max(rank, len(norms)))
    own[:rank] = normalize(cp).weights
    size = norms.max(initial=0.0)
    assert np.allclose(own[: min(rank, len(norms))], norms[:rank], rtol=0, atol=1e-13 * size)
    if rank >= len(norms) or norms[rank - 1] - norms[rank] > 1e-3 * size:
        kept = sum(np.outer(left, right) for left, right in pairs[:rank])
        assert np.allclose(flat(reconstruct(cp)), kept, rtol=0, atol=1e-9 * size)


@given(matrices(), st.sampled_from([0.0, 1e-9, 0.1, 0.5, 0.9]))
def test_least_components_are_equal_and_within_the_bound(drawn, share):
    X, rank = drawn
    size = np.linalg.norm(X)
    values = np.linalg.svd(flat(X), compute_uv=False)
    tail = float((values[rank:] ** 2).sum())
    bound = np.sqrt(tail + share * (size**2 - tail))
    found = svd.least_components(X, rank, bound)
    error = np.linalg.norm(X - reconstruct(found))
    assert abs(error - bound) <= 1e-7 * size and error <= bound + 1e-12 * size
    norms = normalize(found).weights
    assert np.allclose(norms, norms[0], rtol=1e-9, atol=0)
    assert np.allclose(canonical(balance(found)).weights, norms[0], rtol=1e-9)
    # the nuclear norm of what is left is spread over the components, none of it is lost
    left = np.linalg.svd(flat(reconstruct(found)), compute_uv=False)
    assert np.isclose(norms.sum(), left.sum(), rtol=1e-9)


def test_no_other_matrix_within_the_bound_has_a_smaller_nuclear_norm():
    rng = np.random.default_rng(72)
    X = rng.standard_normal((5, 4))
    size = np.linalg.norm(X)
    for rank in (2, 4, 6):
        tail = np.sqrt((np.linalg.svd(X, compute_uv=False)[rank:] ** 2).sum())
        bound = 0.5 * (tail + size)
        least = normalize(svd.least_components(X, rank, bound)).weights.sum()
        base = svd.least_components(X, rank, bound)
        for step in 10.0 ** rng.uniform(-4, 0, 200):
            other = [A + step * rng.standard_normal(A.shape) for A in base.factors]
            dense = reconstruct(CP(other))
            # the nearest multiple to the tensor on the way to the bound
            for shrink in (0.8, 0.9, 1.0):
                if np.linalg.norm(X - shrink * dense) <= bound:
                    nuclear = np.linalg.svd(shrink * dense, compute_uv=False).sum()
                    assert nuclear >= least * (1 - 1e-9)


def test_bounds_beyond_reach_and_beyond_the_tensor():
    X = np.diag([3.0, 2.0, 1.0])
    assert np.isclose(relative_error(X, svd.least_components(X, 2, 0.0)), 1 / np.sqrt(14))
    assert not reconstruct(svd.least_components(X, 2, 99.0)).any()
    assert not reconstruct(svd.least_components(0 * X, 2, 0.0)).any()


@given(
    st.lists(st.integers(1, 3).map(float) | st.floats(1 - 1e-15, 1 + 1e-15), max_size=6),
    st.integers(1, 9),
)
def test_rotations_give_columns_one_length(values, rank):
    values = np.array(sorted(values, reverse=True)[:rank])
    Q = svd._equal_lengths(values, rank)
    assert np.allclose(Q @ Q.T, np.eye(len(values)), rtol=0, atol=1e-14)
    assert np.allclose(values @ Q**2, values.sum() / rank, rtol=1e-13, atol=0)


def test_of_a_value_at_rounding_level_no_vectors_are_left():
    for X, count in ((np.zeros((2, 3)), 0), (np.outer([1.0, 3.0, 7.0], [0.1, 0.7]), 1)):
        U, values, V = svd.singular(X)
        assert (U.shape, V.shape) == ((len(X), count), (X.shape[1], count))
        assert len(values) == count


def test_zero_and_tiny_and_huge():
    zero = svd_cp(np.zeros((2, 1, 3)), 2)
    assert zero.shape == (2, 1, 3) and zero.rank == 2 and not reconstruct(zero).any()
    for size in (1e-120, 1e120):
        X = size * np.random.default_rng(73).standard_normal((4, 3))
        assert relative_error(X, svd_cp(X, 3)) < 1e-14
        assert relative_error(X, svd.least_components(X, 5, 0.0)) < 1e-14
    for sign in (-1.0, 1.0):
        X = sign * np.array([[1e120, -1e-220], [-1e-220, 0.0]])
        assert relative_error(X, svd_cp(X, 1)) < 1e-14


def test_no_input_is_changed():
    X = np.arange(6.0).reshape(2, 3)
    before = X.copy()
    svd_cp(X, 2)
    svd.least_components(X, 3, 0.1)
    assert np.array_equal(X, before)


def test_bad_input_is_refused():
    for X, rank, message in (
        (np.ones((2, 3, 2)), 1, r"^X: expected at most two sides longer than 1, got shape"),
        (np.ones(3), 1, "^X: expected at least 2 axes"),
        (np.ones((2, 2)), 0, "^rank: expected at least 1"),
        (np.full((2, 2), np.nan), 1, "^X: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            svd_cp(X, rank)
    with pytest.raises(TypeError, match=r"^rank: expected"):
        svd_cp(np.ones((2, 2)), 1.5)


# --- planted faults -------------------------------------------------------------------------------


def smallest_first(X, rank):
    """Keeps the smallest singular values."""
    cp = right.svd_cp(X, max(X.shape))
    return CP([A[:, ::-1][:, :rank] for A in cp.factors])


def unbalanced(X, rank):
    """Leaves the singular values in the first factor."""
    cp = right.normalize(right.svd_cp(X, rank))
    return CP([cp.factors[0] * cp.weights, *cp.factors[1:]])


def repeated(X, rank):
    """Fills up with the last component, halved, instead of zeros."""
    cp = right.svd_cp(X, rank)
    last = np.flatnonzero(np.abs(cp.factors[0]).max(axis=0))[-1:]
    order = np.where(np.arange(rank) > last.max(initial=0), last.max(initial=0), np.arange(rank))
    return CP([A[:, order] for A in cp.factors])


def free_signs(X, rank):
    """Leaves the signs to chance."""
    cp = right.svd_cp(X, rank)
    sign = np.sign(X.sum()) or 1.0
    return CP([cp.factors[0] * sign, cp.factors[1] * sign, *cp.factors[2:]])


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_no_tensor_of_the_rank_is_nearer, {"svd_cp": smallest_first}),
        (test_it_equals_jacobi_rotations_in_plain_loops, {"svd_cp": smallest_first}),
        (test_columns_have_equal_norms_that_descend, {"svd_cp": unbalanced}),
        (test_a_rank_beyond_that_of_the_matrix_adds_zeros, {"svd_cp": repeated}),
        (test_components_are_orthogonal, {"svd_cp": repeated}),
        (test_signs_are_fixed, {"svd_cp": free_signs}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
