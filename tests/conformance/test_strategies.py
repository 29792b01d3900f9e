"""The public strategies keep what they promise, and reach what they are there for."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from qcp_ref import gram
from qcp_ref.conformance import strategies as qs

quick = settings(max_examples=10_000, database=None)


@given(qs.dyadic((2, 3), bits=5, exponent=-2))
def test_dyadic(x):
    m = x * 4
    assert x.shape == (2, 3)
    assert (m == np.rint(m)).all()
    assert abs(m).max() < 32


@given(st.integers(1, 40), st.integers(1, 3), st.sampled_from([8, 24, 53]), st.data())
def test_exact_budget(terms, factors, bits, data):
    if terms >= 2**bits:
        return
    x = data.draw(qs.exact_budget((terms, factors), terms, factors=factors, bits=bits))
    assert (x == np.rint(x)).all()
    assert sum(abs(np.prod(row.astype(object))) for row in x) < 2**bits
    if bits == 24:
        products = np.prod(x.astype(np.float32), axis=1, dtype=np.float32)
        one = np.float32(0)
        for p in products:
            one += p
        other = np.float32(0)
        for p in products[::-1]:
            other += p
        assert one == other == x.prod(axis=1).sum()


def test_exact_budget_says_when_there_is_none():
    with pytest.raises(ValueError, match="terms"):
        qs.exact_budget(3, 2**10, bits=8)


@given(qs.coded((2, 2, 3)))
def test_coded(x):
    assert sorted(abs(x).reshape(-1)) == list(range(1, 13))


@given(qs.conv_geometries())
def test_conv_geometries(g):
    pads = (g.padding[0] + g.padding[2], g.padding[1] + g.padding[3])
    for side, kernel, dilation, pad in zip(g.size, g.kernel_size, g.dilation, pads, strict=True):
        assert side >= 1
        assert dilation * (kernel - 1) + 1 <= side + pad


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [
        lambda g: g.kernel_size == (1, 1),
        lambda g: g.kernel_size[0] != g.kernel_size[1] and g.stride[0] != g.stride[1],
        lambda g: g.stride[0] > g.kernel_size[0],
        lambda g: g.padding[0] >= g.kernel_size[0],
        lambda g: len(set(g.padding)) == 4,
    ],
)
def test_conv_geometries_reach_the_corners(wanted):
    find(qs.conv_geometries(), wanted, settings=quick)


@given(qs.cp_factors((2, 3, 1), 4))
def test_cp_factors(factors):
    assert [A.shape for A in factors] == [(2, 4), (3, 4), (1, 4)]
    assert all((np.rint(A) == A).all() and abs(A).max() <= 9 for A in factors)


def exact_rank(A):
    """Rank by elimination on fractions."""
    rows = [[Fraction(a) for a in row] for row in A.tolist()]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for i in range(rank + 1, len(rows)):
            ratio = rows[i][column] / rows[rank][column]
            rows[i] = [a - ratio * b for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


@given(qs.planted_cp())
def test_planted_cp(factors):
    rank = factors[0].shape[1]
    # Kruskal: the k-ranks sum to at least 2 R + 2; full column rank makes each of them R >= 2.
    assert all(exact_rank(A) == rank for A in factors)
    assert 3 * rank >= 2 * rank + 2


@given(qs.swamp_cp())
def test_swamp_cp(factors):
    for A in factors:
        for a, b in combinations(A.T, 2):
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert cosine >= 1 - 2.0**-7
            assert (a != b).any()


@given(qs.rank_deficient_cp())
def test_rank_deficient_cp(factors):
    G = gram(factors, 0)
    assert exact_rank(G) < len(G)


@given(qs.ranges())
def test_ranges(codes):
    assert codes.qmin <= codes.zero_point <= codes.qmax
    assert codes.zero_point == 0 or codes.qmin != -codes.qmax


@given(qs.ranges(bits=4), st.data())
def test_near_ties(codes, data):
    x = data.draw(qs.near_ties(codes, 0.25))
    q = x / 0.25
    ties = np.floor(q) + 0.5
    nearest = np.where(abs(q - ties) < 0.25, ties, np.rint(q - 0.5) + 0.5)
    assert (abs(q - nearest) <= 2 * np.spacing(abs(nearest))).all()
    assert (q == nearest).any()
    low, high = codes.qmin - codes.zero_point, codes.qmax - codes.zero_point
    assert (nearest >= low - 0.5).all()
    assert (nearest <= high + 0.5).all()


@given(qs.reciprocal_traps())
def test_reciprocal_traps(trap):
    x, scale = trap
    quotient = Fraction(float(x)) / Fraction(float(scale))
    assert (quotient * 2).denominator == 1
    assert quotient.denominator == 2
    assert Fraction(float(x * (np.float32(1) / scale))) != quotient


@given(st.sampled_from([None, 1, 4]), st.data())
def test_quant_params(channels, data):
    scale, zero, codes = data.draw(qs.quant_params(channels))
    assert scale.shape == zero.shape == (() if channels is None else (channels,))
    assert (np.frexp(scale)[0] == 0.5).all()
    assert (zero >= codes.qmin).all()
    assert (zero <= codes.qmax).all()


@given(qs.int_accumulators((3,)))
def test_int_accumulators(acc):
    assert acc.dtype == np.int32


def test_int_accumulators_reach_the_ends():
    find(qs.int_accumulators((1,)), lambda acc: acc[0] == -(2**31), settings=quick)
    find(qs.int_accumulators((1,)), lambda acc: acc[0] == 2**31 - 1, settings=quick)


@given(qs.requant_params())
def test_requant_params(pair):
    multiplier, shift = pair
    assert 2**30 <= multiplier < 2**31
    assert -31 <= shift <= 7


@given(st.integers(1, 4), st.sampled_from([0, 10, 20]), st.data())
def test_spd_grams(rank, exponent, data):
    G = data.draw(qs.spd_grams(rank, exponent=exponent))
    assert (G.T == G).all()
    values = np.linalg.eigvalsh(G)
    assert values[0] > 0
    if rank > 1:
        assert values[-1] / values[0] >= 2.0**exponent


@given(qs.admm_states())
def test_admm_states(state):
    F, G, H, U, rho, scale = state
    system = G + rho * np.eye(len(G))
    assert (np.diag(np.diag(system)) == system).all()
    assert (np.frexp(np.diag(system))[0] == 0.5).all()
    assert (H / scale == np.rint(H / scale)).all()
    exact = [
        [
            (Fraction(f) + Fraction(rho) * (Fraction(h) + Fraction(u))) / Fraction(d)
            for f, h, u, d in zip(*rows, np.diag(system).tolist(), strict=True)
        ]
        for rows in zip(F.tolist(), H.tolist(), U.tolist(), strict=True)
    ]
    T = (F + rho * (H + U)) / np.diag(system)
    assert [[Fraction(t) for t in row] for row in T.tolist()] == exact


@given(st.sampled_from([np.arange(6.0).reshape(2, 3), np.array(3.0), np.arange(4)]), st.data())
def test_layouts(array, data):
    other = data.draw(qs.layouts(array))
    assert other.dtype == array.dtype
    assert other.shape == array.shape
    assert (other == array).all()


def test_layouts_reach_every_layout():
    array = np.arange(6.0).reshape(2, 3)
    for wanted in (
        lambda a: a.flags.f_contiguous,
        lambda a: a.strides[-1] < 0,
        lambda a: not a.flags.writeable,
        lambda a: a.strides[-1] == 16,
    ):
        find(qs.layouts(array), wanted, settings=quick)


@given(st.integers(1, 7), st.data())
def test_cancelling(terms, data):
    x, y = data.draw(qs.cancelling(terms))
    assert x.shape == y.shape == (terms,)
    products = [Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert terms == 1 or abs(sum(products)) * 2**20 <= sum(map(abs, products))
