"""Laws, known answers and bad input of networks.frontier; its planted faults."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from budget_cases import (
    Elsewhere,
    axes,
    bit_widths,
    dense_error,
    kernels,
    modes,
    problems,
    same,
    stored_bytes,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import caught, law

import qcp_ref as right
from qcp_ref import (
    Grid,
    conv_costs,
    factorize,
    frontier,
    kernel_to_tensor,
    loops,
    rank_for_budget,
    relative_error,
)

THIS = sys.modules[__name__]


# --- rank -----------------------------------------------------------------------------------------


def agrees(expected, price, shape, limit, **options):
    """The rank is the expected one; where there is none, the message says what one costs."""
    try:
        found, message = rank_for_budget(shape, limit, **options), ""
    except ValueError as refused:
        found, message = 0, str(refused)
    assert found == expected and (found or f"expected at least {price(1)} " in message)


@law("rank_for_budget.largest", "rank_for_budget.bytes")
@given(kernels, bit_widths, axes, st.sampled_from([1, 2, 4, 8]), st.integers(0, 300))
def test_rank_fits_the_bytes_and_the_next_does_not(shape, bits, axis, scale_bytes, limit):
    def cost(rank):
        return loops.factor_bytes(modes(shape), rank, bits, axis, scale_bytes)

    options = {"bits": bits, "axis": axis, "scale_bytes": scale_bytes}
    expected = loops.rank_for_budget(cost, limit)
    agrees(expected, cost, shape, limit, **options)
    if expected:  # where the formula of the theory page may be used
        fixed = {None: len(modes(shape)), 0: sum(modes(shape)), 1: 0}[axis]
        each = len(modes(shape)) if axis == 1 else 0
        bits_each = bits * sum(modes(shape)) + 8 * each * scale_bytes
        assert expected == 8 * (limit - fixed * scale_bytes) // bits_each


@law("rank_for_budget.largest")
@given(kernels, bit_widths, st.integers(1, 8), st.integers(1, 3), st.data())
def test_rank_fits_the_bit_operations_and_the_next_does_not(shape, bits, width, stride, data):
    place = {"stride": stride, "padding": data.draw(st.sampled_from([1, "same"]))}
    size = data.draw(st.integers(3, 9))
    options = {"activation_bits": width, **place}
    kernel = shape if len(shape) > 2 else (*shape, 1)

    def cost(rank):
        return conv_costs(kernel, size, rank=rank, weight_bits=bits, **options).bops

    # a wide range, and both sides of the point where one more component fits
    exactly = cost(data.draw(st.integers(1, 30)))
    limit = data.draw(st.sampled_from([0, exactly - 1, exactly, exactly + 1]))
    expected = loops.rank_for_budget(cost, limit)
    agrees(expected, cost, shape, limit, bits=bits, cost="bops", input_size=size, **options)


@law("rank_for_budget.largest", "rank_for_budget.bytes")
@given(
    st.lists(st.sampled_from([1, 2, 3, 7, 64, 1000, 10**5]), min_size=2, max_size=5),
    bit_widths,
    axes,
    st.sampled_from([1, 4, 8]),
    st.integers(1, 10**6),
    st.sampled_from([-1, 0, 1]),
)
@example([1, 1, 10**5, 10**5], 1, 1, 1, 600480, -1)
def test_budgets_of_large_layers_are_spent_to_the_byte(shape, bits, axis, scale_bytes, rank, off):
    """Bits and scales of a tensor that is never made."""
    sides = modes(tuple(shape))

    def stored(rank):
        scales = {None: len(sides), 0: sum(sides), 1: len(sides) * rank}[axis]
        return -(-bits * rank * sum(sides) // 8) + scales * scale_bytes

    limit = stored(rank) + off
    if limit < stored(1) or limit > 2**53:
        return
    found = rank_for_budget(shape, limit, bits=bits, axis=axis, scale_bytes=scale_bytes)
    assert stored(found) <= limit < stored(found + 1)


def test_a_linear_layer_counts_for_one_position_unless_more_are_given():
    options = {"bits": 4, "cost": "bops", "activation_bits": 8}
    assert rank_for_budget((10, 20), 4 * 8 * 30 * 7, **options) == 7
    assert rank_for_budget((10, 20), 4 * 8 * 30 * 7 * 5, input_size=5, **options) == 7


def test_ranks_of_large_budgets_are_exact():
    # 2**50 bytes less three scales of 8, at 3 bits and 16 weights a component
    assert rank_for_budget((5, 3, 2, 4), 2**50, bits=3) == (2**53 - 192) // 48


def test_scales_per_row_and_column_are_paid_for():
    ranks = [rank_for_budget((64, 64, 3, 3), 9216, bits=2, axis=a) for a in (None, 0, 1)]
    assert ranks == [268, 237, 158]


@law("frontier.stored", "rank_for_budget.bytes")
@settings(max_examples=8)
@given(problems())
def test_choices_are_what_fits_and_cost_what_is_stored(problem):
    W, budgets, options = problem
    scale_bytes, axis = options["scale_bytes"], options["axis"]
    found = frontier(W, budgets=budgets, **options)
    ranks = {
        (loops.rank_for_budget(cost, limit), b)
        for b in options["bits"]
        for cost in [lambda R, b=b: loops.factor_bytes(modes(W.shape), R, b, axis, scale_bytes)]
        for limit in budgets
    }
    size = len(modes(W.shape))
    expected = {pair for pair in ranks if pair[0] > 0}
    dense = {
        (None, b)
        for b in options["dense"]
        if len(range(0, b * W.size, 8)) + len(W) * scale_bytes <= max(budgets)
    }
    assert sorted(map(str, ((c.rank, c.bits) for c in found))) == sorted(map(str, expected | dense))
    for c in found:
        assert c.cost == stored_bytes(c, W, scale_bytes) and type(c.cost) is int
        assert c.axis == (axis if c.rank else 0)
        assert c.fit is None or (c.fit.cp.grid, len(c.fit.cp.codes)) == (Grid(c.bits), size)
    assert [c.cost for c in found] == sorted(c.cost for c in found)


@law("frontier.errors", "frontier.again")
@settings(max_examples=8)
@given(problems())
def test_errors_are_those_of_the_kernel_and_fits_can_be_made_again(problem):
    W, budgets, options = problem
    X = W if W.ndim == 2 else kernel_to_tensor(W)
    solver = {name: options[name] for name in ("axis", "rng", "method")}
    for c in frontier(W, budgets=budgets, **options):
        assert np.isclose(c.squared_error, c.error**2 * (W**2).sum(), rtol=1e-12)
        if c.rank is None:
            assert np.isclose(c.error, dense_error(W, c.bits), rtol=1e-12)
            continue
        assert c.error == relative_error(X, c.fit.cp.dequantize())
        again = factorize(X, c.rank, Grid(c.bits), **solver)
        for mine, other in zip(c.fit.cp.codes, again.cp.codes, strict=True):
            assert (mine == other).all()


@law("frontier.optimal")
@settings(max_examples=8)
@given(problems())
def test_optimal_choices_are_those_that_no_other_undercuts(problem):
    W, budgets, options = problem
    found = frontier(W, budgets=budgets, **options)
    marks = loops.pareto([(c.cost, c.squared_error) for c in found])
    assert [c.optimal for c in found] == marks


@law("frontier.executor")
@settings(max_examples=4)
@given(problems())
def test_an_executor_changes_nothing(problem):
    W, budgets, options = problem
    options |= {"method": "best", "sweeps": 5}
    here = frontier(W, budgets=budgets, **options)
    assert same(here, frontier(W, budgets=budgets, executor=Elsewhere(), **options))
    with ThreadPoolExecutor(2) as pool:
        assert same(here, frontier(W, budgets=budgets, executor=pool, **options))
    assert same(here, frontier(W, budgets=budgets, executor=3, **options))


def test_the_callback_sees_each_run_and_may_stop():
    W, seen = np.random.default_rng(3).standard_normal((4, 3, 2)), []
    options = {"budgets": [40, 60], "bits": (2, 3), "method": "als-round"}
    everything = frontier(W, callback=lambda n, c: seen.append((n, c)), **options)
    assert [n for n, _ in seen] == list(range(len(everything)))
    assert [(c.rank, c.bits) for _, c in seen] == [(7, 2), (16, 2), (4, 3), (10, 3)]
    for executor in (None, 2, Elsewhere()):
        part = frontier(W, callback=lambda n, c: n == 1, executor=executor, **options)
        assert [(c.rank, c.bits) for c in part] == [(7, 2), (16, 2)]


def test_bit_operations_are_the_cost_if_they_are_limited():
    W = np.random.default_rng(3).standard_normal((4, 3, 3, 3))
    place = {"input_size": (6, 8), "padding": 1, "stride": 2, "activation_bits": 8}
    limit = conv_costs(W.shape, **place, weight_bits=2).bops
    found = frontier(
        W, budgets=[limit], cost="bops", bits=(2, 3), dense=(1, 2), method="als-round", **place
    )
    for c in found:
        assert c.cost == conv_costs(W.shape, **place, rank=c.rank, weight_bits=c.bits).bops <= limit
    assert {(c.rank, c.bits) for c in found} >= {(None, 1), (None, 2)}


def test_a_zero_kernel_and_single_precision_are_fine():
    options = {"budgets": [60], "bits": (2,), "dense": (2,), "sweeps": 2}
    zero = frontier(np.zeros((3, 2, 2, 2)), **options)
    assert [(c.error, c.squared_error, c.optimal) for c in zero] == [(0, 0, True), (0, 0, False)]
    W = np.random.default_rng(4).standard_normal((3, 2, 2, 2)).astype(np.float32)
    assert same(frontier(W, **options), frontier(W.astype(float), **options))


# --- limits and defaults --------------------------------------------------------------------------


def test_budgets_and_bits_at_their_limits_are_taken_and_the_next_ones_refused():
    shape = (4, 3, 3)
    assert rank_for_budget(shape, 2**53, bits=16) < rank_for_budget(shape, 2**53, bits=1)
    for limit in (-1, 2**53 + 1):
        with pytest.raises(ValueError, match=r"^budget: expected 0 to 9007199254740992"):
            rank_for_budget(shape, limit, bits=4)
    with pytest.raises(ValueError, match=r"^budget: expected at least 29 bytes \(one component of"):
        rank_for_budget(shape, 0, bits=4)
    assert rank_for_budget(shape, 29, bits=4) == 1
    W, options = np.random.default_rng(9).standard_normal(shape), {"method": "als-round"}
    found = frontier(W, budgets=[2, 60, 200], bits=(1, 16), dense=(1, 16), **options)
    assert {(c.rank is None, c.bits) for c in found} == {(d, b) for d in (0, 1) for b in (1, 16)}
    for name, wrong in (("bits", 0), ("bits", 17), ("dense", 0), ("dense", 17)):
        with pytest.raises(ValueError, match=rf"^{name}: expected 1 to 16, got {wrong}"):
            frontier(W, budgets=[60], **{name: (wrong,)}, **options)
    for name in ("budgets", "bits", "dense"):
        with pytest.raises(TypeError, match=rf"^{name}: expected an integer"):
            frontier(W, **{"budgets": [60], name: [2.5]}, **options)
    with pytest.raises(ValueError, match=r"^budgets: expected one of at least 27, got 26 at most"):
        frontier(W, budgets=[3, 26], bits=(2, 3), dense=(2,), **options)
    with pytest.raises(ValueError, match=r"^budgets: expected one of at least 37, got 36 at most"):
        frontier(W, budgets=[36], bits=(), dense=(2, 1), **options)


def test_choices_are_equal_whatever_their_fits_and_equal_ones_stand_in_order():
    zero = frontier(np.zeros((2, 2)), budgets=[18], bits=(4,), dense=(4,), method="als-round")
    assert [(c.rank, c.cost, c.error, c.optimal) for c in zero] == [
        *[(1, 18, 0, True), (None, 18, 0, False)]
    ]
    assert zero[0] == replace(zero[0], fit=None) and zero[0] != replace(zero[0], optimal=False)
    assert "fit" not in repr(zero[0])
    with pytest.raises(AttributeError, match="cost"):
        zero[0].cost = 3


# --- bad input ------------------------------------------------------------------------------------


def test_bad_ranks_are_refused():
    for shape, limit, options, message in (
        ((4,), 99, {}, r"^shape: expected"),
        ((4, 0, 3), 99, {}, r"^shape: expected at least 1"),
        ((4, 3, 3), -1, {}, r"^budget: expected 0 to"),
        ((4, 3, 3), 2**60, {}, r"^budget: expected 0 to"),
        ((4, 3, 3), 99, {"bits": 0}, r"^bits: expected 1 to 16"),
        ((4, 3, 3), 99, {"bits": 17}, r"^bits: expected 1 to 16"),
        ((4, 3, 3), 99, {"cost": "macs"}, r"^cost: expected one of"),
        ((4, 3, 3), 99, {"cost": "bops"}, r"^input_size: expected the sides"),
        ((4, 3), 99, {"cost": "bops", "input_size": 0}, r"^input_size: expected at least 1"),
        ((4, 3, 3), 99, {"axis": 2}, r"^axis: expected 0 to 1"),
        ((4, 3, 3), 99, {"scale_bytes": 0}, r"^scale_bytes: expected at least 1"),
        ((4, 3, 3), 99, {"stride": 0}, r"^stride: expected at least 1"),
        ((4, 3, 3, 3), 99, {"cost": "bops", "input_size": 2}, "padded height of at least 3"),
    ):
        with pytest.raises(ValueError, match=message):
            rank_for_budget(shape, limit, **{"bits": 4, **options})
    for limit in (99.0, None, True):
        with pytest.raises(TypeError, match=r"^budget: expected an integer"):
            rank_for_budget((4, 3, 3), limit, bits=4)


def test_bad_frontiers_are_refused():
    W = np.random.default_rng(6).standard_normal((4, 3, 2))
    for options, message in (
        ({"budgets": []}, r"^budgets, bits: expected at least one budget"),
        ({"bits": ()}, r"^budgets, bits: expected at least one budget and one number of bits"),
        ({"budgets": [3]}, r"^budgets: expected one of at least 27, got 3 at most"),
        ({"budgets": [-1]}, r"^budgets: expected 0 to"),
        ({"bits": (2, 0)}, r"^bits: expected 1 to 16"),
        ({"dense": (17,)}, r"^dense: expected 1 to 16"),
        ({"method": "magic"}, r"^method: expected one of"),
        ({"method": "authors", "sweeps": 3}, r"^sweeps: expected None"),
        ({"rng": -1}, r"^rng: expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            frontier(W, **{"budgets": [60], **options})
    for options, message in (
        ({"rng": np.random.default_rng(1)}, r"^rng: expected an integer"),
        ({"executor": "two"}, r"^executor: expected an Executor"),
        ({"budgets": [60.5]}, r"^budgets: expected an integer"),
        ({"groups": 2}, "unexpected keyword"),
    ):
        with pytest.raises(TypeError, match=message):
            frontier(W, **{"budgets": [60], **options})
    with pytest.raises(ValueError, match=r"^W: expected at least 2 axes"):
        frontier(W[0, 0], budgets=[60])
    with pytest.raises(ValueError, match=r"^W: expected finite"):
        frontier(W * np.nan, budgets=[60])


# --- planted faults -------------------------------------------------------------------------------


def scaleless_rank(shape, limit, **options):
    """Forgets that scales take bytes: the same budget and a little more."""
    return right.rank_for_budget(shape, limit + 3 * options.get("scale_bytes", 8), **options)


def rounded_rank(shape, limit, **options):
    """Takes the nearest rank, which may lie above the budget."""
    rank = right.rank_for_budget(shape, limit, **options)
    try:
        return right.rank_for_budget(shape, limit + limit // (2 * rank), **options)
    except ValueError:
        return rank


def all_optimal(W, **options):
    return tuple(replace(c, optimal=True) for c in right.frontier(W, **options))


def float_errors(W, **options):
    """Reports the error before rounding."""
    found = right.frontier(W, **options)
    return tuple(replace(c, error=c.fit.start_error) if c.fit else c for c in found)


def seed_by_place(W, *, executor=None, rng=0, **options):
    """Lets the seed depend on where the run takes place."""
    seed = rng + (executor is not None)
    return right.frontier(W, executor=executor, rng=seed, **options)


def all_dense(W, **options):
    """Lets dense kernels in that no budget pays for."""
    found = right.frontier(W, **options)
    much = {**options, "budgets": [10**4], "bits": ()}
    more = right.frontier(W, **much) if options["dense"] else ()
    return tuple(sorted({*found, *more}, key=lambda c: c.cost))


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_rank_fits_the_bytes_and_the_next_does_not, {"rank_for_budget": scaleless_rank}),
        (
            test_budgets_of_large_layers_are_spent_to_the_byte,
            {"rank_for_budget": scaleless_rank},
        ),
        (test_rank_fits_the_bytes_and_the_next_does_not, {"rank_for_budget": rounded_rank}),
        (
            test_rank_fits_the_bit_operations_and_the_next_does_not,
            {"rank_for_budget": rounded_rank},
        ),
        (test_choices_are_what_fits_and_cost_what_is_stored, {"frontier": all_dense}),
        (
            test_errors_are_those_of_the_kernel_and_fits_can_be_made_again,
            {"frontier": float_errors},
        ),
        (test_optimal_choices_are_those_that_no_other_undercuts, {"frontier": all_optimal}),
        (test_an_executor_changes_nothing, {"frontier": seed_by_place}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
