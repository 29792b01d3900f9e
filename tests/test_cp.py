"""Laws, exact vectors and bad input of qcp_ref.cp; its planted faults stand at the end."""

import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import assert_within, caught, exact, floats, seeds, tensors_with_factors

import qcp_ref as right
from qcp_ref import (
    CP,
    align,
    balance,
    canonical,
    degeneracy,
    inner,
    khatri_rao,
    loops,
    norm,
    normalize,
    random_cp,
    reconstruct,
    relative_error,
    rounding_bound,
)

THIS = sys.modules[__name__]


@st.composite
def cps(draw, elements=floats, **options):
    """A CP tensor with signed weights; zero columns, zero weights and duplicates are likely."""
    _, factors = draw(tensors_with_factors(elements, **options))
    rank = factors[0].shape[1]
    weights = draw(st.lists(st.integers(-3, 3), min_size=rank, max_size=rank))
    return CP(factors, np.array(weights, float))


def magnitude(cp):
    return reconstruct(CP([abs(A) for A in cp.factors], abs(cp.weights)))


def assert_same_tensor(changed, cp, roundings=60):
    """Both CP tensors have the same dense tensor, up to a generous count of roundings per term."""
    bound = rounding_bound(roundings + 2 * cp.rank, magnitude(cp))
    assert_within(
        reconstruct(changed), loops.reconstruct(exact(cp.factors), exact(cp.weights)), bound
    )


@given(cps())
def test_reconstruct_is_the_sum_over_components(cp):
    truth = loops.reconstruct(exact(cp.factors), exact(cp.weights))
    assert_within(reconstruct(cp), truth, rounding_bound([len(cp.shape), cp.rank], magnitude(cp)))


@given(cps(elements=st.integers(-4, 4)), st.randoms(use_true_random=False))
def test_reconstruct_is_unchanged_by_permutation_and_rescaling(cp, random):
    order = random.sample(range(cp.rank), cp.rank)
    factors = [A[:, order] * 2.0**n for n, A in enumerate(cp.factors)]
    shift = sum(range(len(factors)))
    same = CP(factors, cp.weights[order] / 2.0**shift)
    assert np.array_equal(reconstruct(same), reconstruct(cp))


@given(cps(elements=st.integers(-4, 4)), st.data())
def test_inner_is_that_of_the_dense_tensors(left, data):
    rank = data.draw(st.integers(1, 3))
    factors = [np.arange(side * rank).reshape(side, rank) - 2.0 for side in left.shape]
    right = CP(factors)
    dense = (reconstruct(left) * reconstruct(right)).sum()
    assert inner(left, right) == dense == inner(right, left)


@given(cps())
def test_norm_is_that_of_the_dense_tensor(cp):
    dense = np.array(loops.reconstruct(exact(cp.factors), exact(cp.weights)), dtype=object)
    square = (dense * dense).sum()
    size = inner(*[CP([abs(A) for A in cp.factors], abs(cp.weights))] * 2)
    lengths = [*cp.shape, 2 * len(cp.shape) + 4, cp.rank**2]
    # norm() takes a root; squaring it again costs three more roundings
    assert_within(norm(cp) ** 2, square, 2 * rounding_bound(lengths, size))


@given(cps())
def test_normalize_gives_unit_columns_and_the_same_tensor(cp):
    unit = normalize(cp)
    for A in unit.factors:
        lengths = np.linalg.norm(A, axis=0)
        alive = unit.weights != 0
        assert np.allclose(lengths[alive], 1, rtol=1e-14, atol=0)
        assert (lengths[~alive] == 0).all()
    assert_same_tensor(unit, cp)


@given(cps())
def test_balance_gives_equal_columns_and_the_same_tensor(cp):
    even = balance(cp)
    lengths = np.array([np.linalg.norm(A, axis=0) for A in even.factors])
    assert np.allclose(lengths, lengths[0], rtol=1e-13, atol=0)
    assert (even.weights == 1).all()
    product = khatri_rao([A[:, :] for A in cp.factors]) * cp.weights
    assert np.allclose(lengths.prod(axis=0), np.linalg.norm(product, axis=0), rtol=1e-12, atol=0)
    assert_same_tensor(even, cp, roundings=120)


@given(cps(), st.data())
def test_canonical_form_forgets_order_signs_and_scale(cp, data):
    fixed = canonical(cp)
    assert (fixed.weights >= 0).all() and (np.diff(fixed.weights) <= 0).all()
    for A in fixed.factors[:-1]:
        assert (A[abs(A).argmax(axis=0), range(cp.rank)] >= 0).all()
    assert_same_tensor(fixed, cp)
    weights = np.abs(normalize(cp).weights)
    assume(len(set(weights)) == cp.rank)  # equal weights keep their order, so order would matter
    order = data.draw(st.permutations(range(cp.rank)))
    signs = np.array(
        data.draw(st.lists(st.sampled_from([-2.0, 0.5, 1.0]), min_size=cp.rank, max_size=cp.rank))
    )
    first, second, *rest = (A[:, order] for A in cp.factors)
    again = canonical(CP([first * signs, second / signs, *rest], cp.weights[order]))
    assert np.array_equal(again.weights, fixed.weights)
    for A, B in zip(again.factors, fixed.factors, strict=True):
        assert np.array_equal(A, B)


@given(seeds, st.data())
def test_align_undoes_permutation_signs_and_scale(seed, data):
    reference = random_cp((5, 4, 6), data.draw(st.integers(1, 4)), rng=seed)
    order = data.draw(st.permutations(range(reference.rank)))
    signs = np.array([(-1.0) ** r for r in range(reference.rank)])
    A, B, C = (F[:, order] for F in reference.factors)
    moved = CP([A * signs, B * 2, C * signs / 2])
    found = align(moved, reference)
    assert np.array_equal(np.array(order)[found.order], np.arange(reference.rank))
    assert np.allclose(found.cosines, 1, rtol=1e-13, atol=0)
    for F, expected in zip(found.cp.factors, normalize(reference).factors, strict=True):
        assert np.allclose(F, expected, rtol=0, atol=1e-14)
    assert_same_tensor(found.cp, reference)


@given(cps())
def test_relative_error_is_zero_for_itself_one_for_nothing_and_scale_free(cp):
    dense = reconstruct(cp)
    nothing = CP([A * 0 for A in cp.factors])
    assert relative_error(dense, cp) == 0
    expected = 1.0 if dense.any() else 0.0
    assert relative_error(dense, nothing) == expected
    shifted = dense + np.arange(dense.size).reshape(dense.shape) + 1.0
    scaled = CP(cp.factors, cp.weights * 8)
    assert relative_error(shifted * 8, scaled) == relative_error(shifted, cp)


def test_relative_error_of_a_zero_tensor_is_infinite_unless_met():
    assert relative_error(np.zeros((2, 2)), CP([[[1], [0]], [[1], [0]]])) == np.inf


@given(st.integers(1, 4), st.integers(2, 4))
def test_orthonormal_components_are_not_degenerate(rank, modes):
    found = degeneracy(CP([np.eye(4)[:, :rank]] * modes))
    assert found == (0.0, 1.0, 1.0) and not found.suspected


@given(seeds)
def test_degeneracy_ignores_scale_and_order(seed):
    cp = random_cp((3, 4, 5), 3, rng=seed)
    moved = CP([A[:, [2, 0, 1]] * s for A, s in zip(cp.factors, (2.0, 4.0, 0.5), strict=True)])
    assert np.allclose(degeneracy(cp), degeneracy(moved), rtol=1e-9)


def test_cancelling_components_are_suspected():
    # a a b + a b a + b a a as the limit of n (a + b/n)^3 - n a^3, which has border rank 2
    n = 50.0
    shifted, a = np.array([1.0, 1 / n]), np.array([1.0, 0.0])
    found = degeneracy(CP([np.stack([shifted, a], axis=1)] * 3, [n, -n]))
    assert found.suspected and found.norm_ratio > 500 and found.condition > 1000
    duplicate = degeneracy(CP([np.ones((2, 2))] * 3))
    assert duplicate.condition == np.inf and not duplicate.suspected
    assert degeneracy(CP([np.zeros((2, 2))] * 3)) == (0.0, 1.0, 1.0)


def test_random_cp_repeats_and_differs_by_seed():
    first, again, other = (random_cp((2, 3), 4, rng=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.factors[1], again.factors[1])
    assert not np.array_equal(first.factors[1], other.factors[1])


def test_float32_factors_stay_float32_and_mixtures_become_float64():
    ones = np.ones((2, 1), dtype=np.float32)
    assert CP([ones, ones]).factors[0].dtype == CP([ones, ones]).weights.dtype == np.float32
    assert CP([ones, np.ones((2, 1))]).factors[0].dtype == np.float64
    assert reconstruct(CP([ones, ones])).dtype == np.float64


def test_tiny_and_huge_columns_keep_their_length():
    unit = normalize(CP([[[3e-200], [4e-200]], [[3e200], [4e200]]]))
    assert np.allclose(unit.weights, 25.0, rtol=1e-14)


def test_bad_input_is_refused():
    A, B = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match=r"weights: expected shape \(3,\)"):
        CP([A, B], [1.0, 2.0])
    with pytest.raises(ValueError, match="expected finite"):
        CP([A, B * np.nan])
    with pytest.raises(TypeError, match="real numbers"):
        CP([A, B], [1j, 1, 1])
    with pytest.raises(ValueError, match="same number of columns"):
        CP([A, B[:, :2]])
    with pytest.raises(TypeError, match="cp: expected a CP"):
        reconstruct([A, B])
    with pytest.raises(TypeError, match="right: expected a CP"):
        inner(CP([A, B]), [A, B])
    with pytest.raises(ValueError, match=r"right: expected shape \(2, 4\)"):
        inner(CP([A, B]), CP([B, A]))
    with pytest.raises(ValueError, match="rank 3"):
        align(CP([A[:, :2], B[:, :2]]), CP([A, B]))
    with pytest.raises(ValueError, match=r"X: expected shape \(2, 4\)"):
        relative_error(np.ones((2, 3)), CP([A, B]))
    for rank, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="rank: expected"):
            random_cp((2, 3), rank, rng=0)
    with pytest.raises(ValueError, match="at least 2 sides"):
        random_cp((2,), 1, rng=0)
    for rng, error in ((None, TypeError), (0.5, TypeError), (True, TypeError), (-1, ValueError)):
        with pytest.raises(error, match="rng: expected"):
            random_cp((2, 3), 1, rng=rng)


# --- planted faults -------------------------------------------------------------------------------


def unweighted(cp):
    """Forgets the weights."""
    return right.reconstruct(CP(cp.factors))


def signless_balance(cp):
    """Loses the sign of negative weights."""
    return right.balance(CP(cp.factors, abs(cp.weights)))


def unsorted_canonical(cp):
    return right.normalize(cp)


def unpaired_canonical(cp):
    """Makes peaks positive without flipping another factor in return."""
    fixed = right.canonical(cp)
    return CP([*fixed.factors[:-1], abs(fixed.factors[-1])], fixed.weights)


def greedy_free_align(cp, reference):
    """Matches by the first factor only, without signs."""
    found = right.align(cp, reference)
    return found._replace(cp=CP([abs(A) for A in found.cp.factors], found.cp.weights))


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_reconstruct_is_the_sum_over_components, {"reconstruct": unweighted}),
        (test_balance_gives_equal_columns_and_the_same_tensor, {"balance": signless_balance}),
        (test_balance_gives_equal_columns_and_the_same_tensor, {"balance": normalize}),
        (test_canonical_form_forgets_order_signs_and_scale, {"canonical": unsorted_canonical}),
        (test_canonical_form_forgets_order_signs_and_scale, {"canonical": unpaired_canonical}),
        (test_align_undoes_permutation_signs_and_scale, {"align": greedy_free_align}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
