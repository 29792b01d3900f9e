"""Hypothesis strategies for your own property tests: inputs with guarantees.

Random floats rarely meet a tie, a collinear factor or a sum that is exact in every order. These
strategies draw such inputs on purpose, and each says what it guarantees; the guarantees are
themselves tested. All arrays are float64 with entries that are exact in float32 too, unless it is
said otherwise. Shrinking leads to small sizes, zeros and ones.

Checked by tests/conformance/test_strategies.py.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

__all__ = [
    "CodeRange",
    "ConvGeometry",
    "admm_states",
    "cancelling",
    "coded",
    "conv_geometries",
    "cp_factors",
    "dyadic",
    "exact_budget",
    "int_accumulators",
    "layouts",
    "near_ties",
    "planted_cp",
    "quant_params",
    "ranges",
    "rank_deficient_cp",
    "reciprocal_traps",
    "requant_params",
    "spd_grams",
    "swamp_cp",
]

Floats = NDArray[np.float64]
Shape = int | tuple[int, ...]


class CodeRange(NamedTuple):
    """A range of codes and a zero point inside it."""

    qmin: int
    qmax: int
    zero_point: int


class ConvGeometry(NamedTuple):
    """Sizes and options of a convolution that has at least one output pixel."""

    images: int
    inputs: int
    outputs: int
    size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]


def dyadic(shape: Shape, *, bits: int = 20, exponent: int = -10) -> st.SearchStrategy[Floats]:
    """Draw arrays of multiples of a power of two.

    Guarantee: entries are ``m * 2**exponent`` with ``|m| < 2**bits``.
    """
    low, high = 1 - 2**bits, 2**bits - 1
    whole = hnp.arrays(np.int64, shape, elements=st.integers(low, high))
    return whole.map(lambda m: np.ldexp(m.astype(float), exponent))


def exact_budget(shape: Shape, terms: int, *, factors: int = 2, bits: int = 24) -> Any:
    """Draw integers small enough for sums of products to be exact.

    Guarantee: any sum of ``terms`` products of ``factors`` entries, taken in any order, with any
    grouping, has partial sums below ``2**bits`` (24: float32, 53: float64); so every order of
    summation and every use of fused multiply-add gives the same bits.
    """
    largest = int((2.0**bits / terms) ** (1 / factors))
    while largest > 0 and terms * largest**factors >= 2**bits:
        largest -= 1
    if largest < 1:
        raise ValueError(f"terms: sums of {terms} products leave nothing but zeros at {bits} bits")
    elements = st.integers(-largest, largest)
    return hnp.arrays(np.int64, shape, elements=elements).map(lambda m: m.astype(float))


def coded(shape: Shape) -> st.SearchStrategy[Floats]:
    """Draw arrays whose entries tell their place.

    Guarantee: the absolute values of all entries are different positive integers, so no wrong axis
    order, flip or offset goes unseen.
    """
    count = prod([shape] if isinstance(shape, int) else shape)
    signs = st.lists(st.sampled_from([1, -1]), min_size=count, max_size=count)
    places = st.permutations(range(1, count + 1))
    pairs = st.tuples(places, signs)
    return pairs.map(lambda pair: np.multiply(*pair).astype(float).reshape(shape))


@st.composite
def conv_geometries(draw: st.DrawFn, *, largest: int = 7) -> ConvGeometry:
    """Draw sizes and options of two-dimensional convolutions.

    Guarantee: the dilated kernel fits into the padded image, on both axes. Axes are unequal more
    often than not; kernels of 1x1, even kernels, strides beyond the kernel and padding beyond the
    kernel all occur.
    """
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, dilation = draw(pair), draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    top, left, bottom, right = draw(st.tuples(*[st.integers(0, 3)] * 4))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    smallest = [
        max(1, span - pad) for span, pad in zip(spans, (top + bottom, left + right), strict=True)
    ]
    size = tuple(draw(st.integers(low, max(low, largest))) for low in smallest)
    channels = st.integers(1, 5)
    return ConvGeometry(
        images=draw(st.integers(1, 2)),
        inputs=draw(channels),
        outputs=draw(channels),
        size=(size[0], size[1]),
        kernel_size=kernel,
        stride=draw(pair),
        padding=(top, left, bottom, right),
        dilation=dilation,
    )


def cp_factors(shape: Sequence[int], rank: int) -> st.SearchStrategy[list[Floats]]:
    """Draw factors with small integers.

    Guarantee: entries are integers of at most 9 in size, so reconstructing, MTTKRP and Gram
    matrices of small sizes are exact.
    """
    elements = st.integers(-9, 9).map(float)
    return st.tuples(
        *(hnp.arrays(np.float64, (side, rank), elements=elements) for side in shape)
    ).map(list)


@st.composite
def planted_cp(draw: st.DrawFn, *, largest: int = 5) -> list[Floats]:
    """Draw factors that their tensor determines.

    Guarantee: three factors of rank at most their smallest side, each of full column rank, hence
    by Kruskal's condition the tensor has no other components (up to order, signs and scaling).
    """
    rank = draw(st.integers(2, 3))
    factors = []
    for side in [draw(st.integers(rank, largest)) for _ in range(3)]:
        # Unit lower triangle times a permutation of rows: independent columns whatever is drawn.
        A = draw(cp_factors((side,), rank))[0]
        A[:rank] = np.tril(A[:rank], -1) + np.eye(rank)
        factors.append(A[np.array(draw(st.permutations(range(side))))])
    return factors


@st.composite
def swamp_cp(draw: st.DrawFn, *, angle: float = 2.0**-7) -> list[Floats]:
    """Draw factors with almost parallel columns, where fitting is slow and solving is delicate.

    Guarantee: three factors with at least two columns; in every factor the cosine of any two of
    them is at least ``1 - angle``, and no two are equal.
    """
    rank, step = draw(st.integers(2, 3)), 2.0**-6
    factors = []
    for side in [draw(st.integers(rank + 1, 6)) for _ in range(3)]:
        common = np.ones((side, 1)) * draw(st.sampled_from([1.0, 2.0, -1.0]))
        spread = step * abs(common[0, 0]) * np.eye(side, rank)
        factors.append(common + spread)
    assume(angle >= 2 * step**2)
    return factors


@st.composite
def rank_deficient_cp(draw: st.DrawFn) -> list[Floats]:
    """Draw factors for which a mode's system is singular.

    Guarantee: the Hadamard product of the Gram matrices of the last two factors is singular,
    because two components agree in both of them or one is zero.
    """
    rank = draw(st.integers(2, 4))
    factors = draw(cp_factors([draw(st.integers(1, 5)) for _ in range(3)], rank))
    first, second = draw(st.permutations(range(rank)))[:2]
    zero = draw(st.booleans())
    for A in factors[1:]:
        A[:, first] = 0 if zero else A[:, second]
    return factors


@st.composite
def ranges(draw: st.DrawFn, *, bits: int | None = None) -> CodeRange:
    """Draw ranges of codes: signed, narrow or unsigned, of 2 to 16 bits.

    Guarantee: ``qmin <= zero_point <= qmax``; symmetric ranges have the zero point 0.
    """
    b = draw(st.sampled_from([2, 3, 4, 8, 16])) if bits is None else bits
    half = 2 ** (b - 1)
    kind = draw(st.sampled_from(["signed", "narrow", "unsigned"]))
    low, high = {
        "signed": (-half, half - 1),
        "narrow": (1 - half, half - 1),
        "unsigned": (0, 2 * half - 1),
    }[kind]
    zero = 0 if kind == "narrow" else draw(st.integers(low, high))
    return CodeRange(low, high, zero)


@st.composite
def near_ties(draw: st.DrawFn, codes: CodeRange, scale: float = 1.0, *, ulps: int = 2) -> Floats:
    """Draw numbers at and around the ties of a grid, its ends included.

    Guarantee: every entry is within ``ulps`` units in the last place of a tie of the grid with this
    scale, or of the first tie beyond an end; at least one is a tie if the scale is a power of two.
    """
    middle = st.integers(codes.qmin - 1 - codes.zero_point, codes.qmax - codes.zero_point)
    ties = np.array(draw(st.lists(middle, min_size=1, max_size=8))) + 0.5
    moved = [0, *draw(st.lists(st.integers(-ulps, ulps), min_size=len(ties), max_size=len(ties)))]
    x = ties * scale
    for i, steps in enumerate(moved[: len(ties)]):
        for _ in range(abs(steps)):
            x[i] = np.nextafter(x[i], np.sign(steps) * np.inf)
    return np.asarray(x)


@st.composite
def reciprocal_traps(draw: st.DrawFn) -> tuple[np.float32, np.float32]:
    """Draw a number and a scale in float32 for which dividing and multiplying disagree.

    Guarantee: ``x / scale`` is exactly a tie, and in float32 ``x * (1 / scale)`` is not.
    """
    scale = np.float32(draw(st.sampled_from([41, 47, 55, 61, 82, 83, 94, 97, 107, 109, 110, 115])))
    reciprocal = np.float32(1) / scale
    ties = [k + 0.5 for k in range(127)]
    traps = [t for t in ties if np.float32(t * scale) * reciprocal != np.float32(t)]
    assume(traps)
    tie = draw(st.sampled_from(traps)) * draw(st.sampled_from([1, -1]))
    return np.float32(tie * float(scale)), scale


@st.composite
def quant_params(draw: st.DrawFn, channels: int | None = None) -> tuple[Any, Any, CodeRange]:
    """Draw scales, zero points and a range of codes.

    Guarantee: scales are powers of two between 2**-8 and 2**8, one or one per channel; zero points
    lie in the range and have the shape of the scales.
    """
    codes = draw(ranges())
    count = () if channels is None else (channels,)
    scale = np.ldexp(1.0, draw(hnp.arrays(np.int64, count, elements=st.integers(-8, 8))))
    symmetric = codes.qmin == -codes.qmax
    zeros = st.just(0) if symmetric else st.integers(codes.qmin, codes.qmax)
    return scale, draw(hnp.arrays(np.int64, count, elements=zeros)), codes


def int_accumulators(shape: Shape) -> st.SearchStrategy[NDArray[np.int32]]:
    """Draw accumulators.

    Guarantee: int32; the ends of the type, powers of two and their neighbours are common.
    """
    edges = [-(2**31), 2**31 - 1, 2**24 + 1, -(2**24) - 1, 2**15, -(2**15) - 1, 0]
    elements = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from(edges))
    return hnp.arrays(np.int32, shape, elements=elements)


def requant_params() -> st.SearchStrategy[tuple[int, int]]:
    """Draw multipliers for requantization in fixed point.

    Guarantee: ``(multiplier, shift)`` with the multiplier in [2**30, 2**31) and the shift from -31
    to 7; the ends and the powers of two, where single and double rounding differ, are common.
    """
    edges = st.sampled_from([2**30, 2**31 - 1, 2**30 + 1, 3 * 2**29])
    return st.tuples(st.one_of(edges, st.integers(2**30, 2**31 - 1)), st.integers(-31, 7))


@st.composite
def spd_grams(draw: st.DrawFn, rank: int, *, exponent: int = 0) -> Floats:
    """Draw symmetric positive definite matrices.

    Guarantee: exactly symmetric, positive definite, with a condition number of at least
    ``2**exponent`` (and not much more for well-conditioned draws).
    """
    L = np.tril(draw(cp_factors((rank,), rank))[0], -1) / 16 + np.eye(rank)
    scale = np.ones(rank)
    if rank > 1:
        scale[-1] = 2.0 ** -(exponent + 3 * rank)
    G = (L * scale) @ L.T
    return np.asarray((G + G.T) / 2)


@st.composite
def admm_states(draw: st.DrawFn) -> tuple[Floats, Floats, Floats, Floats, float, float]:
    """Draw F, G, H, U, rho and a scale for one step of ADMM in which every number is exact.

    Guarantee: ``G + rho I`` is diagonal with powers of two, so the step can be computed without any
    rounding; H lies on the grid of the scale.
    """
    rows, rank = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rho = 2.0 ** draw(st.integers(-3, 3))
    G = np.diag([rho * (2.0 ** draw(st.integers(1, 3)) - 1) for _ in range(rank)])
    scale = 2.0 ** draw(st.integers(-3, 1))
    F = draw(dyadic((rows, rank), bits=8, exponent=-3))
    U = draw(dyadic((rows, rank), bits=6, exponent=-4))
    H = scale * draw(dyadic((rows, rank), bits=3, exponent=0))
    return F, G, H, U, rho, scale


@st.composite
def layouts(draw: st.DrawFn, array: NDArray[Any]) -> NDArray[Any]:
    """Draw other places in memory for the same array.

    Guarantee: equal entries, shape and type; C order, Fortran order, slices, negative strides and
    read-only arrays all occur.
    """
    layout = draw(st.sampled_from(["C", "F", "sliced", "negative", "read-only"]))
    if array.ndim and layout == "F":
        return np.asfortranarray(array)
    if array.ndim and layout == "sliced":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if array.ndim and layout == "negative":
        return array[..., ::-1].copy()[..., ::-1]
    copy = array.copy()
    copy.flags.writeable = layout != "read-only"
    return copy


@st.composite
def cancelling(draw: st.DrawFn, terms: int) -> tuple[Floats, Floats]:
    """Draw two vectors whose dot product cancels.

    Guarantee: ``terms`` entries each; in exact arithmetic the product is at most ``2**-20`` times
    the sum of the absolute products, unless there is one term only, or all of them are zero.
    """
    x = draw(dyadic((terms,), bits=12, exponent=0))
    y = draw(dyadic((terms,), bits=12, exponent=0))
    half = terms // 2
    x[half : 2 * half], y[half : 2 * half] = x[:half], -y[:half]
    if terms > 1:
        x[2 * half :] = 0
    return x, y
