"""Laws, exact vectors and bad input of qcp_ref.tensors.cp; its planted faults stand at the end."""

import sys
import tempfile
from fractions import Fraction
from functools import reduce
from itertools import permutations
from math import prod

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support import (
    arrays,
    assert_in_range,
    assert_within,
    caught,
    exact,
    floats,
    law,
    refused,
    seeds,
    tensors_with_factors,
    wild,
    wild_factors,
)

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
from qcp_ref.tensors import cp as cp_module

THIS = sys.modules[__name__]


@st.composite
def cps(draw, elements=floats, **options):
    """A CP tensor with signed weights; zero columns, zero weights and duplicates are likely."""
    _, factors = draw(tensors_with_factors(elements, **options))
    rank = factors[0].shape[1]
    weights = draw(st.lists(st.integers(-3, 3), min_size=rank, max_size=rank))
    return CP(factors, np.array(weights, float))


@st.composite
def cps_with_ties(draw):
    """Columns and weights from few values, so that many components have equal weights."""
    rank = draw(st.integers(2, 5))
    sides = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    few = st.sampled_from([-1, 0, 1])
    return CP([draw(arrays((side, rank), few)) for side in sides])


@st.composite
def wild_cps(draw, shape=None):
    """A CP tensor whose entries and weights have any magnitude."""
    rank, sides = draw(st.integers(1, 3)), shape or draw(wild_factors())
    sides = shape or tuple(map(len, sides))
    return CP([draw(wild((side, rank))) for side in sides], draw(wild((rank,))))


def parts(cp):
    return exact(cp.factors), exact(cp.weights)


def absolute(cp):
    return CP([abs(A) for A in cp.factors], abs(cp.weights))


def exact_inner(left, right):
    x, y = (np.array(loops.reconstruct(*parts(cp)), dtype=object) for cp in (left, right))
    return (x * y).sum()


def magnitude(cp):
    return reconstruct(CP([abs(A) for A in cp.factors], abs(cp.weights)))


def assert_same_tensor(changed, cp, roundings=60):
    """Both CP tensors have the same dense tensor, up to a generous count of roundings per term."""
    bound = rounding_bound(roundings + 2 * cp.rank, magnitude(cp))
    assert_within(
        reconstruct(changed), loops.reconstruct(exact(cp.factors), exact(cp.weights)), bound
    )


@law("reconstruct.sum")
@given(cps())
def test_reconstruct_is_the_sum_over_components(cp):
    truth = loops.reconstruct(exact(cp.factors), exact(cp.weights))
    assert_within(reconstruct(cp), truth, rounding_bound([len(cp.shape), cp.rank], magnitude(cp)))


@law("reconstruct.freedoms")
@given(cps(elements=st.integers(-4, 4)), st.randoms(use_true_random=False))
def test_reconstruct_is_unchanged_by_permutation_and_rescaling(cp, random):
    order = random.sample(range(cp.rank), cp.rank)
    factors = [A[:, order] * 2.0**n for n, A in enumerate(cp.factors)]
    shift = sum(range(len(factors)))
    same = CP(factors, cp.weights[order] / 2.0**shift)
    assert np.array_equal(reconstruct(same), reconstruct(cp))


@law("inner.dense", "inner.symmetric")
@given(cps(elements=st.integers(-4, 4)), st.data())
def test_inner_is_that_of_the_dense_tensors(left, data):
    rank = data.draw(st.integers(1, 3))
    factors = [np.arange(side * rank).reshape(side, rank) - 2.0 for side in left.shape]
    right = CP(factors)
    dense = (reconstruct(left) * reconstruct(right)).sum()
    assert inner(left, right) == dense == inner(right, left)


@law("norm.dense")
@given(cps())
def test_norm_is_that_of_the_dense_tensor(cp):
    dense = np.array(loops.reconstruct(exact(cp.factors), exact(cp.weights)), dtype=object)
    square = (dense * dense).sum()
    size = inner(*[CP([abs(A) for A in cp.factors], abs(cp.weights))] * 2)
    lengths = [*cp.shape, 2 * len(cp.shape) + 4, cp.rank**2]
    # norm() takes a root; squaring it again costs three more roundings
    assert_within(norm(cp) ** 2, square, 2 * rounding_bound(lengths, size))


@law("normalize.tensor", "normalize.unit")
@given(cps())
def test_normalize_gives_unit_columns_and_the_same_tensor(cp):
    unit = normalize(cp)
    for A in unit.factors:
        lengths = np.linalg.norm(A, axis=0)
        alive = unit.weights != 0
        assert np.allclose(lengths[alive], 1, rtol=1e-14, atol=0)
        assert (lengths[~alive] == 0).all()
    assert_same_tensor(unit, cp)


@law("balance.tensor", "balance.equal")
@given(cps())
def test_balance_gives_equal_columns_and_the_same_tensor(cp):
    even = balance(cp)
    lengths = np.array([np.linalg.norm(A, axis=0) for A in even.factors])
    assert np.allclose(lengths, lengths[0], rtol=1e-13, atol=0)
    assert (even.weights == 1).all()
    product = khatri_rao([A[:, :] for A in cp.factors]) * cp.weights
    assert np.allclose(lengths.prod(axis=0), np.linalg.norm(product, axis=0), rtol=1e-12, atol=0)
    assert_same_tensor(even, cp, roundings=120)


@law("canonical.tensor", "canonical.freedoms")
@given(cps() | cps_with_ties(), st.data())
def test_canonical_form_forgets_order_signs_and_scale(cp, data):
    fixed = canonical(cp)
    assert (fixed.weights >= 0).all() and (np.diff(fixed.weights) <= 0).all()
    for A in fixed.factors[:-1]:
        assert (A[abs(A).argmax(axis=0), range(cp.rank)] >= 0).all()
    assert_same_tensor(fixed, cp)
    order = data.draw(st.permutations(range(cp.rank)))
    signs = np.array(
        data.draw(st.lists(st.sampled_from([-2.0, 0.5, 1.0]), min_size=cp.rank, max_size=cp.rank))
    )
    first, second, *rest = (A[:, order] for A in cp.factors)
    again = canonical(CP([first * signs, second / signs, *rest], cp.weights[order]))
    assert np.array_equal(again.weights, fixed.weights)
    for A, B in zip(again.factors, fixed.factors, strict=True):
        assert np.array_equal(A, B)
        assert np.array_equal(np.signbit(A), np.signbit(B))


def test_components_of_equal_weight_are_ordered_by_their_columns():
    A = np.array([[0.0, 1.0, 0.6], [1.0, 0.0, 0.8]])
    fixed = canonical(CP([A, A[:, ::-1], np.ones((1, 3))], [1.0, -4.0, 1.0]))
    assert fixed.factors[0].tolist() == [[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]]
    same = CP([np.ones((1, 2)), [[0.6, 0.8], [0.8, 0.6]]])  # the first factor leaves it open
    assert canonical(same).factors[1][0].tolist() == sorted(canonical(same).factors[1][0])[::-1]


@law("align.tensor", "align.copy")
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


@law("relative_error.ends", "relative_error.scale")
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


@law("degeneracy.orthonormal")
@given(st.integers(1, 4), st.integers(2, 4))
def test_orthonormal_components_are_not_degenerate(rank, modes):
    found = degeneracy(CP([np.eye(4)[:, :rank]] * modes))
    assert found == (0.0, 1.0, 1.0) and not found.suspected


@law("degeneracy.freedoms")
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


@given(seeds, st.data())
def test_align_finds_the_best_assignment_and_turns_columns_towards_the_reference(seed, data):
    sides = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    rank = data.draw(st.integers(1, 4))
    cp, reference = (random_cp(sides, rank, rng=seed + n) for n in range(2))
    found = align(cp, reference)
    assert_same_tensor(found.cp, cp)
    mine, theirs = normalize(cp), normalize(reference)

    def cosines(order):
        return [
            prod(abs(np.dot(A[:, k], B[:, r])) for A, B in zip(*factors, strict=True))
            for r, k in enumerate(order)
        ]

    factors = mine.factors, theirs.factors
    assert np.allclose(found.cosines, cosines(found.order), rtol=1e-12)
    best = max(sum(cosines(order)) for order in permutations(range(rank)))
    assert sum(found.cosines) >= best * (1 - 1e-12)
    for A, B in zip(found.cp.factors[:-1], theirs.factors[:-1], strict=True):
        assert ((A * B).sum(axis=0) >= 0).all()


def test_degeneracy_looks_at_the_worst_pair_of_living_components():
    right_angles, opposite = [[1.0, 0, 1], [0, 1, 0]], [[1.0, 1, -1]]
    found = degeneracy(CP([right_angles, opposite]))
    assert found.cosine == -1 and found.suspected and found.condition == np.inf
    assert found.norm_ratio == 3  # what is left is one component
    alive = degeneracy(CP([np.eye(2)[:, [0, 1, 0]], [[2.0, 1.0, 0.0]]]))
    assert alive == degeneracy(CP([np.eye(2), [[2.0, 1.0]]])) == (0.0, 1.0, 1.0)
    assert degeneracy(CP([[[1.0, 1.0]], [[1.0, -1.0]]])).norm_ratio == np.inf  # all cancels
    assert degeneracy(CP([[[3.0]], [[1.0]]]), norm_X=0).norm_ratio == np.inf
    assert degeneracy(CP([[[3.0]], [[1.0]]]), norm_X=6).norm_ratio == 0.25
    assert degeneracy(CP([[[3.0]], [[1.0]]], [-2.0])) == (0.0, 1.0, 1.0)
    for cosine, suspected in ((-0.9, False), (-0.9000001, True), (-0.5, False)):
        assert right.Degeneracy(cosine, 1.0, 1.0).suspected is suspected


@pytest.mark.parametrize(("square", "singular"), [(1e-10, False), (1e-12, False), (2e-14, True)])
def test_condition_is_infinite_where_rounding_hides_the_smallest_eigenvalue(square, singular):
    # Unit columns, each with a part of its own of this squared length; the largest is 16.
    common, own = np.ones((1, 16)), np.eye(16) * np.sqrt(square)
    condition = degeneracy(CP([np.vstack([common, own]), common])).condition
    assert condition == np.inf if singular else condition == pytest.approx(16 / square, rel=0.1)


@given(seeds)
def test_norm_of_what_cancels_is_a_number(seed):
    A, B = (np.random.default_rng([seed, n]).standard_normal((5, 1)) for n in range(2))
    pairs = [np.hstack([A, A * 3]), np.hstack([B, B / 3])]
    for weights in ([1.0, -1.0], [1.0, -(1 + 2.0**-52)]):
        cp = CP(pairs, weights)
        assert 0 <= norm(cp) <= 1e-6 * norm(CP([A, B]))
        assert degeneracy(cp).norm_ratio > 1e12


def test_ordinary_numbers_are_not_taken_apart(monkeypatch):
    def unused(*_):
        raise AssertionError("the slow form")

    for name in ("wide_products", "wide_khatri_rao", "bilinear", "_inner"):
        monkeypatch.setattr(cp_module, name, unused)
    cp = CP([A * 1e9 for A in random_cp((3, 4, 5), 2, rng=0).factors])
    reconstruct(cp), inner(cp, cp), norm(cp), degeneracy(cp)
    over = cp_module.over
    monkeypatch.setattr(cp_module, "over", lambda a, b: unused() if a.mantissa.ndim else over(a, b))
    normalize(cp), balance(cp), relative_error(np.ones((3, 4, 5)), cp), degeneracy(cp)


@given(seeds, st.lists(st.tuples(*[st.integers(-1000, 1000)] * 2), min_size=3, max_size=3))
@example(3, [(-540, -540), (0, 0), (0, 0)])  # squares are rounded as subnormal numbers
@example(3, [(-1000, 0), (0, 1000), (1000, -1000)])
def test_powers_of_two_change_no_digit_of_a_unit_column(seed, powers):
    cp = random_cp((3, 2, 4), 2, rng=seed)
    moved = CP([np.ldexp(A, e) for A, e in zip(cp.factors, powers, strict=True)], [1.0, 1.0])
    for A, B in zip(cp.factors, moved.factors, strict=True):
        for C, D in ((A, B), (-abs(A), -abs(B))):
            lengths, others = cp_module.column_norms(C), cp_module.column_norms(D)
            assert np.array_equal(lengths.mantissa, others.mantissa)
    for exponent in (powers[0][0], -540, -1000):
        for A in (cp.factors[0], -abs(cp.factors[0])):
            size, other = cp_module.frobenius(A), cp_module.frobenius(np.ldexp(A, exponent))
            assert size.mantissa == other.mantissa
            assert size.exponent + exponent == other.exponent
    units, others = (cp_module._units(c.factors, c.weights)[0] for c in (cp, moved))
    for A, B in zip(units, others, strict=True):
        assert np.array_equal(A, B)


@pytest.mark.parametrize("entry", [5e-324, 1e-160, 1e-155, 1e155, 1.7e308])
def test_columns_at_the_ends_of_the_range_become_unit_columns(entry):
    columns = np.array([[entry, 1.0], [entry, 1.0]])
    unit = normalize(CP([columns, [[1.0, 1.0]]], [0.5, 1.0]))
    assert unit.factors[0].ravel() == pytest.approx([0.5**0.5] * 4, rel=1e-15)
    # The smallest number of all is rounded.
    assert unit.weights[0] / entry == pytest.approx(1 if entry < 1e-300 else 0.5**0.5, rel=1e-15)


def start_of(*exponents, weight=1.0):
    """A CP tensor of one component with factors that are powers of two."""
    return CP([[[2.0**e]] for e in exponents], [weight])


@pytest.mark.parametrize(
    ("exponents", "data", "fits", "as_it_is"),
    [
        ((0, 0), 0, True, True),
        ((300, 0), 150, True, True),
        ((399, 0), 200, True, False),
        ((399, 0), 0, True, False),  # also squares of the fit error are formed
        ((400, 0), 200, False, False),
        ((-401, 0), -200, True, False),
        ((-402, 0), -200, False, False),
        ((200, 0), -200, True, False),
        ((201, 0), -200, False, False),
        ((-201, 0), 200, False, False),
        ((900, -900), 0, True, False),
        ((440, -440), 0, True, True),
        ((500, -500), 0, True, False),
        ((300, -150), 0, True, True),
        ((350, -150), 0, True, False),
        ((300, -450), 0, True, False),  # too small, not too large
        ((200, -330), 0, True, True),
    ],
)
def test_starts_that_solvers_can_take(exponents, data, fits, as_it_is):
    X = np.array([[2.0**data]])
    for cp in (start_of(*exponents), start_of(*exponents, weight=-1.0)):
        for allowed, option in ((fits, False), (as_it_is, True)):
            _, message = refused(lambda: cp_module.check_start(cp, X, "start", as_it_is=option))  # noqa: B023
            assert not message if allowed else message.startswith("start: expected")
    assert not refused(lambda: cp_module.check_start(start_of(*exponents), 0 * X))[1]
    # The longest component counts, whatever the others are.
    several = CP([[[0.0, 2.0**e, 2.0**-e * (e != 0)]] for e in exponents], [1.0, 1.0, 1e-300])
    assert (not refused(lambda: cp_module.check_start(several, X))[1]) is fits
    dead = start_of(*exponents, weight=0.0)
    assert not refused(lambda: cp_module.check_start(dead, X, as_it_is=True))[1]
    if not fits:
        with pytest.raises(ValueError, match=r"^cp: expected a longest component"):
            cp_module.check_start(start_of(*exponents), X)


def test_random_cp_repeats_and_differs_by_seed():
    first, again, other = (random_cp((2, 3), 4, rng=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.factors[1], again.factors[1])
    assert not np.array_equal(first.factors[1], other.factors[1])


def test_factors_and_weights_are_copies_that_cannot_be_written():
    A, B, w = np.ones((2, 1)), np.ones((3, 1)), np.ones(1)
    for cp in (CP([A, B], w), CP((M for M in (A, B)), w)):
        for mine, given_array in zip((*cp.factors, cp.weights), (A, B, w), strict=True):
            assert not np.shares_memory(mine, given_array)
            assert given_array.flags.writeable and not mine.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                mine[:] = 2
        with pytest.raises(AttributeError):
            cp.weights = w
        assert cp != CP([A, B], w) and len({cp, cp}) == 1  # compared by identity


def test_float32_is_kept_where_all_is_float32_and_norms_are_taken_in_float64():
    single = np.array([[1 / 3], [2 / 3]], np.float32)
    assert CP([single, single], np.ones(1, np.float32)).factors[0].dtype == np.float32
    assert CP([single, single], np.ones(1, np.float32)).weights.dtype == np.float32
    double = single.astype(np.float64)
    for use in (normalize, balance):
        found, expected = (use(CP([A, A])) for A in (single, double))
        for F, G in zip(found.factors, expected.factors, strict=True):
            assert F.dtype == np.float64 and np.array_equal(F, G)
    assert norm(CP([single, single])) == norm(CP([double, double]))


def test_float32_factors_stay_float32_and_mixtures_become_float64():
    ones = np.ones((2, 1), dtype=np.float32)
    assert CP([ones, ones]).factors[0].dtype == CP([ones, ones]).weights.dtype == np.float32
    assert CP([ones, np.ones((2, 1))]).factors[0].dtype == np.float64
    assert reconstruct(CP([ones, ones])).dtype == np.float64


@law("reconstruct.range")
@given(wild_cps())
def test_reconstruct_takes_entries_of_any_magnitude(cp):
    truth, size = loops.reconstruct(*parts(cp)), loops.reconstruct(*parts(absolute(cp)))
    assert_in_range(lambda: reconstruct(cp), truth, size, 99)


@law("inner.range")
@given(wild_cps(), st.data())
def test_inner_takes_entries_of_any_magnitude(left, data):
    right = data.draw(wild_cps(left.shape))
    size = exact_inner(absolute(left), absolute(right))
    assert_in_range(lambda: inner(left, right), exact_inner(left, right), size, 200)


@law("norm.range")
@given(wild_cps())
def test_norm_takes_entries_of_any_magnitude(cp):
    square, size = exact_inner(cp, cp), exact_inner(absolute(cp), absolute(cp))
    found, message = refused(lambda: Fraction(norm(cp)))
    if message:
        assert message == "cp: the result exceeds the range of float64; rescale the data"
        assert square + size / 2**40 > Fraction(2) ** 2047
    else:
        # Where nothing cancels it is right to a few digits; else its square is, as far as it goes.
        tiny = Fraction(2) ** -1074
        assert abs(found**2 - square) <= size / 2**40 + tiny * (2 * found + tiny)


@law("normalize.range")
@law("balance.range")
@given(wild_cps())
def test_normal_and_balanced_forms_of_entries_of_any_magnitude(cp):
    truth, size = loops.reconstruct(*parts(cp)), loops.reconstruct(*parts(absolute(cp)))
    norms = [
        abs(Fraction(w)) ** 2
        * prod(sum(Fraction(t) ** 2 for t in A[:, r].tolist()) for A in cp.factors)
        for r, w in enumerate(cp.weights.tolist())
    ]
    bounds = [
        abs(Fraction(w)) * prod(sum(abs(Fraction(t)) for t in A[:, r].tolist()) for A in cp.factors)
        for r, w in enumerate(cp.weights.tolist())
    ]
    most, d = max(norms), len(cp.shape)
    for change, limit in ((normalize, Fraction(2) ** 2047), (balance, Fraction(2) ** (2047 * d))):
        changed, message = refused(lambda: change(cp))  # noqa: B023
        if message:
            assert message.startswith("cp: the result exceeds")
            assert most > limit
            continue
        for A in changed.factors:
            lengths = np.linalg.norm(A, axis=0) if change is normalize else A
            assert np.isfinite(lengths).all()
        found = loops.reconstruct(*parts(changed))
        # What is this small beside its column, or altogether, loses digits.
        lost = Fraction(2) ** -900 * (1 + sum(bounds))
        for value, true, scale in zip(*map(loops.flat, (found, truth, size)), strict=True):
            assert abs(value - true) <= scale / 2**40 + lost


@law("relative_error.range")
@given(wild_factors(max_dims=3), st.data())
def test_relative_error_takes_approximations_of_any_magnitude(factors, data):
    X = data.draw(wild(tuple(map(len, factors)), 300))
    top = np.abs(X).max()
    assume(top == 0 or 2.0**-399 < top < 2.0**399)
    cp = data.draw(wild_cps(X.shape))
    dense = np.array(loops.reconstruct(*parts(cp)), dtype=object)
    square = ((np.array(exact(X), dtype=object) - dense) ** 2).sum()
    size = sum(Fraction(t) ** 2 for t in X.ravel().tolist())
    if size == 0:
        return
    whole = np.array(loops.reconstruct(*parts(absolute(cp))), dtype=object)
    noise = ((np.array(exact(abs(X)), dtype=object) + whole) ** 2).sum()
    found, message = refused(lambda: Fraction(relative_error(X, cp)))
    if message:
        assert "exceeds the range" in message
        assert whole.max() >= 2**1023 or square / size > Fraction(2) ** 2040
    else:
        assert abs(found**2 - square / size) <= noise / size / 2**40 + Fraction(2) ** -1000


@law("degeneracy.range")
@given(seeds, st.lists(st.integers(-900, 900), min_size=3, max_size=3))
def test_degeneracy_does_not_depend_on_the_scale(seed, powers):
    cp = random_cp((3, 2, 4), 2, rng=seed)
    moved = CP([np.ldexp(A, e) for A, e in zip(cp.factors, powers, strict=True)])
    assert np.allclose(degeneracy(moved), degeneracy(cp), rtol=1e-9)
    if abs(sum(powers)) < 900:
        other = degeneracy(moved, norm_X=2.0 ** sum(powers)).norm_ratio
        assert np.isclose(other, degeneracy(cp, norm_X=1.0).norm_ratio, rtol=1e-12)


def test_what_float64_cannot_hold_is_refused_and_what_it_can_is_right():
    tiny = CP([np.full((2, 1), 1e-170)] * 2)
    assert norm(tiny) == 0  # 2e-340
    assert norm(CP([np.full((2, 1), 1e-170), np.ones((2, 1))])) == pytest.approx(2e-170)
    huge = CP([np.full((2, 1), 1e170)] * 2)
    assert inner(tiny, huge) == pytest.approx(4.0)
    assert norm(CP([[[1e-170], [0.0]], [[1e170], [0.0]]])) == pytest.approx(1.0)
    assert norm(CP([[[1e200]], [[1e100]]])) == pytest.approx(1e300)
    for call in (norm, reconstruct, normalize, canonical, lambda cp: align(cp, cp)):
        with pytest.raises(ValueError, match=r"^cp: the result exceeds the range of float64"):
            call(huge)
    assert balance(huge).factors[0].max() == pytest.approx(1e170)
    with pytest.raises(ValueError, match=r"^cp: the result exceeds the range of float64"):
        balance(CP([[[1e300]], [[1e300]]], [1e300]))
    with pytest.raises(ValueError, match=r"^left, right: the result exceeds"):
        inner(huge, huge)
    with pytest.raises(ValueError, match=r"^cp: the result exceeds"):
        relative_error(np.ones((2, 2)), huge)
    with pytest.raises(ValueError, match=r"^X, cp: the result exceeds"):
        relative_error(np.full((1, 1), 1e-100), CP([[[1e150]], [[1e100]]]))
    with pytest.raises(ValueError, match=r"^cp, norm_X: the result exceeds"):
        degeneracy(huge, norm_X=1e-300)
    assert degeneracy(CP([[[1.0]], [[1.0]]]), norm_X=1e200).norm_ratio == 0


@law("CP.layout")
@given(wild_factors(exponent=30), st.data())
def test_layout_and_origin_of_arrays_do_not_matter(factors, data):
    kind = data.draw(st.sampled_from(["f8", "f4"]))
    plain = CP([A.astype(kind) for A in factors])
    forms = [
        np.asfortranarray,
        lambda A: A.astype(">" + kind),
        lambda A: np.repeat(A.astype(kind), 2, axis=1)[:, ::2],
        lambda A: A.astype(kind)[::-1][::-1],
        memmapped,
        locked,
        Wrapped,
    ]
    form = data.draw(st.sampled_from(forms))
    other = CP([form(A.astype(kind)) for A in factors])
    for A, B in zip(plain.factors, other.factors, strict=True):
        assert A.dtype == B.dtype == np.dtype(kind)
        assert B.flags.c_contiguous
        assert np.array_equal(A, B)
    assert norm(plain) == norm(other)


def memmapped(A):
    with tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(A).tobytes())
        file.flush()
        return np.memmap(file, A.dtype, "r", 0, A.shape)


def locked(A):
    A = A.copy()
    A.setflags(write=False)
    return A


class Wrapped:
    """An object of another library: its dtype means nothing to NumPy."""

    dtype = "single"

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_half_precision_and_lists_become_float64():
    ones = np.ones((2, 1), np.float16)
    assert CP([ones, ones]).factors[0].dtype == np.float64
    single = np.ones((2, 1), np.float32)
    assert CP([single, single.tolist()]).factors[0].dtype == np.float64
    assert CP([single, single], [1.0]).weights.dtype == np.float64


def test_tiny_and_huge_columns_keep_their_length():
    unit = normalize(CP([[[3e-200], [4e-200]], [[3e200], [4e200]]]))
    assert np.allclose(unit.weights, 25.0, rtol=1e-14)


def test_bad_input_is_refused():
    A, B = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match=r"^weights: expected shape \(3,\)"):
        CP([A, B], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"^factors\[1\]: expected finite"):
        CP([A, B * np.nan])
    with pytest.raises(TypeError, match=r"^weights: expected an array of real numbers"):
        CP([A, B], [1j, 1, 1])
    with pytest.raises(ValueError, match=r"^factors: expected the same number of columns"):
        CP([A, B[:, :2]])
    with pytest.raises(ValueError, match=r"^weights: expected 1 axes"):
        CP([A, B], [[1.0, 2.0, 3.0]])
    for use in (reconstruct, norm, normalize, balance, canonical, degeneracy):
        with pytest.raises(TypeError, match=r"^cp: expected a CP, got list"):
            use([A, B])
    with pytest.raises(TypeError, match=r"^cp: expected a CP"):
        relative_error(np.ones((2, 4)), [A, B])
    for use in (align, inner):
        for pair in ((CP([A, B]), [A, B]), ([A, B], CP([A, B]))):
            with pytest.raises(TypeError, match="expected a CP"):
                use(*pair)
    with pytest.raises(TypeError, match=r"^right: expected a CP"):
        inner(CP([A, B]), [A, B])
    with pytest.raises(TypeError, match=r"^left: expected a CP"):
        inner([A, B], CP([A, B]))
    for norm_X in (-1.0, -1e-300):
        with pytest.raises(ValueError, match=r"^norm_X: expected at least 0"):
            degeneracy(CP([A, B]), norm_X=norm_X)
    with pytest.raises(ValueError, match=r"^right: expected shape \(2, 4\)"):
        inner(CP([A, B]), CP([B, A]))
    for other in (CP([A, B]), CP([B[:, :2], B[:, :2]])):
        with pytest.raises(ValueError, match=rf"^cp: expected shape .* and rank {other.rank} "):
            align(CP([A[:, :2], B[:, :2]]), other)
    with pytest.raises(ValueError, match=r"^X: expected shape \(2, 4\)"):
        relative_error(np.ones((2, 3)), CP([A, B]))
    for rank, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^rank: expected"):
            random_cp((2, 3), rank, rng=0)
    with pytest.raises(ValueError, match=r"^shape: expected at least 2 sides"):
        random_cp((2,), 1, rng=0)
    with pytest.raises(ValueError, match=r"^shape: expected at least 1, got 0"):
        random_cp((2, 0), 1, rng=0)
    with pytest.raises(TypeError, match=r"^shape: expected an integer"):
        random_cp((2, 3.0), 1, rng=0)
    assert random_cp((1, 1), 1, rng=0).shape == (1, 1)
    for rng, error in ((None, TypeError), (0.5, TypeError), (True, TypeError), (-1, ValueError)):
        with pytest.raises(error, match=r"^rng: expected"):
            random_cp((2, 3), 1, rng=rng)


@law("CP.shape")
@given(tensors_with_factors(max_dims=5), st.booleans())
def test_rank_and_shape_are_those_of_the_factors(case, weighted):
    X, factors = case
    rank = len(factors[0][0])
    cp = CP(factors, np.arange(rank) - 1.0 if weighted else None)
    assert cp.shape == X.shape == reconstruct(cp).shape and cp.rank == rank == len(cp.weights)


@law("reconstruct.freedoms")
@given(cps(), st.data())
def test_reconstruct_does_not_see_scales_and_order(cp, data):
    order = data.draw(st.permutations(range(cp.rank)))
    numbers = st.sampled_from([-3.0, 0.1, 1.0, 7e5, -1e-9])
    scales = [data.draw(arrays((cp.rank,), numbers)) for _ in cp.factors]
    factors = [(A * s)[:, order] for A, s in zip(cp.factors, scales, strict=True)]
    assert_same_tensor(CP(factors, (cp.weights / np.prod(scales, axis=0))[order]), cp)


@law("relative_error.scale")
@given(cps(), seeds, st.integers(-300, 300))
def test_relative_error_does_not_see_powers_of_two(cp, seed, power):
    X = np.random.default_rng(seed).standard_normal(cp.shape)
    moved = CP(cp.factors, np.ldexp(cp.weights, power))
    assert relative_error(np.ldexp(X, power), moved) == relative_error(X, cp)


@law("inner.linear")
@given(cps(st.integers(-9, 9)), st.data())
def test_inner_is_linear_in_the_weights_of_each(cp, data):
    other = CP([A[:, ::-1] + 1.0 for A in cp.factors], data.draw(arrays((cp.rank,))))
    a, b = data.draw(st.integers(-5, 5)), data.draw(st.integers(-5, 5))
    w, v = data.draw(arrays((cp.rank,))), data.draw(arrays((cp.rank,)))
    both, one, two = (CP(cp.factors, weights) for weights in (a * w + b * v, w, v))
    assert inner(both, other) == a * inner(one, other) + b * inner(two, other)
    assert inner(other, both) == a * inner(other, one) + b * inner(other, two)


@law("inner.symmetric")
@given(cps(), st.data())
def test_the_order_of_an_inner_product_does_not_matter(left, data):
    right = CP([A + data.draw(st.integers(-2, 2)) / 3 for A in left.factors])
    size = inner(absolute(left), absolute(right))
    gap = abs(Fraction(inner(left, right)) - Fraction(inner(right, left)))
    assert gap <= Fraction(float(rounding_bound(60 + 2 * sum(left.shape), size)))


@law("canonical.idempotent")
@given(cps() | cps_with_ties() | wild_cps())
def test_canonical_form_stays_but_for_rounding(cp):
    once, message = refused(lambda: canonical(cp))
    if message:
        return
    again = canonical(once)
    assert np.allclose(again.weights, once.weights, rtol=1e-14, atol=0)
    gaps = np.abs(np.diff(once.weights)) <= 1e-13 * once.weights[:-1]
    tied = np.append(gaps, False) | np.append(False, gaps)
    for r in np.flatnonzero(~tied):
        columns = [[A[:, r] for A in form.factors] for form in (once, again)]
        products = [reduce(np.multiply.outer, form) for form in columns]
        assert np.allclose(*products, rtol=0, atol=1e-13)
        peaks = [np.sort(abs(a))[-2:] for a in columns[0][:-1]]
        if all(len(p) == 1 or p[1] > p[0] * (1 + 1e-13) for p in peaks):
            for a, b in zip(*columns, strict=True):
                assert np.allclose(a, b, rtol=1e-13, atol=1e-300)


@law("align.tensor")
@given(cps(), seeds)
def test_align_keeps_the_tensor_whatever_the_reference(cp, seed):
    found = align(cp, random_cp(cp.shape, cp.rank, rng=seed))
    assert_same_tensor(found.cp, cp)
    assert sorted(found.order) == list(range(cp.rank))
    assert (found.cosines >= 0).all() and (found.cosines <= 1 + 1e-14).all()


@law("random_cp.seed", "random_cp.shape")
@given(seeds, st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(1, 7))
def test_a_random_tensor_is_as_asked_and_comes_again(seed, shape, rank):
    first, again, other = (random_cp(shape, rank, rng=s) for s in (seed, seed, seed + 1))
    assert first.shape == tuple(shape) and first.rank == rank
    for A, B in zip(first.factors, again.factors, strict=True):
        assert np.array_equal(A, B)
    assert np.array_equal(first.weights, again.weights)
    assert not np.array_equal(first.factors[0], other.factors[0])


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


def plain_norm(cp):
    """Forms the square, which leaves the range."""
    with np.errstate(all="ignore"):
        G = np.outer(cp.weights, cp.weights) * np.prod([A.T @ A for A in cp.factors], axis=0)
        return float(np.nan_to_num(np.sqrt(max(G.sum(), 0.0)), posinf=0.0))


def plain_inner(left, right):
    """Forms a Gram matrix per mode in float64."""
    with np.errstate(all="ignore"):
        modes = zip(left.factors, right.factors, strict=True)
        G = np.outer(left.weights, right.weights) * np.prod([A.T @ B for A, B in modes], axis=0)
        return float(np.nan_to_num(G.sum()))


def vanishing_balance(cp):
    """Takes the root of a weight that float64 cannot hold."""
    unit = right.normalize(cp)
    share = np.abs(unit.weights) ** (1 / len(cp.shape))
    first, *rest = (A * share for A in unit.factors)
    return CP([first * np.sign(unit.weights), *rest])


def stable_canonical(cp):
    """Leaves components of equal weight in their order."""
    fixed, unit = right.canonical(cp), right.normalize(cp)
    order = np.argsort(-np.abs(unit.weights), kind="stable")
    weights = np.abs(unit.weights[order])
    return (
        CP([A[:, order] for A in unit.factors], weights) if len(set(weights)) < cp.rank else fixed
    )


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_norm_takes_entries_of_any_magnitude, {"norm": plain_norm}),
        (test_inner_takes_entries_of_any_magnitude, {"inner": plain_inner}),
        (
            test_normal_and_balanced_forms_of_entries_of_any_magnitude,
            {"balance": vanishing_balance},
        ),
        (test_canonical_form_forgets_order_signs_and_scale, {"canonical": stable_canonical}),
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
