"""Laws, known answers and bad input of qcp_ref.budget; its planted faults stand at the end."""

import pickle
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from support import caught, law, seeds, sides

import qcp_ref as right
from qcp_ref import (
    Choice,
    Grid,
    allocate,
    budget,
    conv_costs,
    factorize,
    frontier,
    kernel_to_tensor,
    loops,
    project,
    rank_for_budget,
    relative_error,
)
from qcp_ref.app.network import load_network

THIS = sys.modules[__name__]

axes = st.sampled_from([None, 0, 1])
bit_widths = st.integers(1, 16)
kernels = st.one_of(
    st.tuples(sides, sides),
    st.tuples(sides, sides, *[st.integers(1, 3)] * 2),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
    st.tuples(sides, sides, *[st.integers(1, 2)] * 3),
)


def modes(shape):
    """Sides of the factors of a kernel."""
    area = prod(shape[2:])
    return shape[:2] if area == 1 else (*shape[:2], area)


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


# --- frontier -------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """A small kernel, budgets that pay for something, and options of a quick solver."""
    shape = draw(st.sampled_from([(4, 3), (3, 2, 1, 1), (4, 2, 3), (3, 4, 2, 2), (2, 2, 1, 2, 2)]))
    W = np.random.default_rng([draw(seeds), 29]).standard_normal(shape)
    axis, scale_bytes = draw(axes), draw(st.sampled_from([4, 8]))
    options = {
        "bits": draw(st.lists(st.integers(1, 5), min_size=1, max_size=2)),
        "dense": draw(st.lists(st.integers(1, 9), max_size=2)),
        "axis": axis,
        "scale_bytes": scale_bytes,
        "rng": draw(st.integers(0, 9)),
        "method": "als-round",
    }
    least = loops.factor_bytes(modes(shape), 1, max(options["bits"]), axis, scale_bytes)
    budgets = st.lists(st.integers(-9, 25), min_size=1, max_size=2)
    return W, [least, *(max(0, least + more) for more in draw(budgets))], options


def stored_bytes(choice, W, scale_bytes):
    """Pack what a choice stores."""
    if choice.fit is None:
        weights, scales = W.size, len(W)
    else:
        weights = sum(k.size for k in choice.fit.cp.codes)
        scales = sum(s.size for s in choice.fit.cp.scales)
    packed = np.packbits(np.ones(choice.bits * weights, np.uint8))
    return packed.nbytes + np.ones(scales, f"f{scale_bytes}").nbytes


def dense_error(W, bits):
    """Round channel after channel, on each of the two grids."""
    flat = W.reshape(len(W), -1)
    sums = [
        sum(((row - project(row, Grid(bits, mid_rise=mid))) ** 2).sum() for row in flat)
        for mid in (False, True)
    ]
    return float(np.sqrt(min(sums)) / np.linalg.norm(W))


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


class Elsewhere(Executor):
    """Like a pool of processes: pickles all that goes in and out; and runs the last job first."""

    def map(self, job, *inputs):
        jobs = [pickle.dumps((job, row)) for row in zip(*inputs, strict=True)]
        done = []
        for text in reversed(jobs):
            work, row = pickle.loads(text)
            done.append(pickle.dumps(work(*row)))
        return map(pickle.loads, reversed(done))


def same(left, right):
    return left == right and all(
        (a.fit is None and b.fit is None)
        or all((k == m).all() for k, m in zip(a.fit.cp.codes, b.fit.cp.codes, strict=True))
        for a, b in zip(left, right, strict=True)
    )


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


def test_the_callback_sees_each_run_and_may_stop():
    W, seen = np.random.default_rng(3).standard_normal((4, 3, 2)), []
    options = {"budgets": [40, 60], "bits": (2, 3), "method": "als-round"}
    everything = frontier(W, callback=lambda n, c: seen.append((n, c)), **options)
    assert [n for n, _ in seen] == list(range(len(everything)))
    assert [(c.rank, c.bits) for _, c in seen] == [(7, 2), (16, 2), (4, 3), (10, 3)]
    for executor in (None, Elsewhere()):
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


# --- allocation -----------------------------------------------------------------------------------


def layer_of(pairs):
    """Choices with these costs and damages."""
    return [
        Choice(rank=n + 1, bits=4, axis=None, cost=cost, error=0.5, squared_error=damage)
        for n, (cost, damage) in enumerate(pairs)
    ]


def network_of(layers):
    return [layer_of(pairs) for pairs in layers]


def weighted(layers, weights):
    """Costs and damages in exact numbers."""
    return [
        [(cost, Fraction(damage) * Fraction(weight)) for cost, damage in pairs]
        for pairs, weight in zip(layers, weights, strict=True)
    ]


@st.composite
def knapsacks(draw):
    """Layers of pairs with many ties, damages from tiny to huge, weights and a budget."""
    span = draw(st.sampled_from([5, 20]))
    small = st.integers(0, span).map(float)
    damages = draw(st.sampled_from([small, small, st.sampled_from([0.1, 0.3, 5e-324, 1e100])]))
    pair = st.tuples(st.integers(0, span), damages)
    sizes = draw(st.sampled_from([(1,), (4,), (1, 3), (4, 4), (3, 5, 2), (4, 4, 4), (2, 1, 3, 4)]))
    layers = [draw(st.lists(pair, min_size=size, max_size=size)) for size in sizes]
    if draw(st.booleans()):  # the more a choice costs, the less it spoils
        columns = [list(zip(*pairs, strict=True)) for pairs in layers]
        layers = [list(zip(sorted(c), sorted(d)[::-1], strict=True)) for c, d in columns]
    if draw(st.booleans()):
        layers[-1] = list(layers[0])
    weights = [1.0] * len(layers)
    if draw(st.booleans()):
        weights = [draw(st.sampled_from([1.0, 0.0, 0.1, 3.0, 1e150])) for _ in layers]
    least, most = (sum(end(cost for cost, _ in pairs) for pairs in layers) for end in (min, max))
    return layers, weights, draw(st.integers(least, most + 1))


def picks_of(found):
    return [choice.rank - 1 for choice in found.choices]


@law("allocate.all", "allocate.within")
@given(knapsacks())
def test_exact_equals_trying_all(problem):
    layers, weights, limit = problem
    found = allocate(network_of(layers), limit, weights=weights)
    exactly = weighted(layers, weights)
    assert picks_of(found) == loops.allocate(exactly, limit)
    assert found.cost == sum(c.cost for c in found.choices) <= limit
    damage = sum(pairs[n][1] for pairs, n in zip(exactly, picks_of(found), strict=True))
    assert found.damage == float(damage) and found.bound == found.damage and found.gap == 0


def largest_step(pairs):
    """The largest gain between two points that no third one lies below."""
    gains = [Fraction(0)]
    for c, d in pairs:
        for f, e in pairs:
            if c < f and d > e:
                below = [p for p in pairs if (p[1] - d) * (f - c) < (e - d) * (p[0] - c)]
                gains += [] if below else [d - e]
    return max(gains)


@law("allocate.bound", "allocate.gap", "allocate.within")
@given(knapsacks())
def test_relaxation_bounds_the_damage_and_stays_within_one_step(problem):
    layers, weights, limit = problem
    found = allocate(network_of(layers), limit, weights=weights, method="lagrangian")
    exactly = weighted(layers, weights)
    assert sum(c.cost for c in found.choices) == found.cost <= limit
    damage = sum(pairs[n][1] for pairs, n in zip(exactly, picks_of(found), strict=True))
    assert found.damage == float(damage)
    best = loops.allocate(exactly, limit)
    optimum = sum(pairs[n][1] for pairs, n in zip(exactly, best, strict=True))
    bound = loops.lagrangian_bound(exactly, limit)
    assert Fraction(found.bound) <= bound <= optimum <= damage
    assert found.bound == float(bound) or np.nextafter(found.bound, np.inf) == float(bound)
    assert damage - bound <= max(largest_step(pairs) for pairs in exactly)


@law("allocate.more")
@given(knapsacks(), st.integers(0, 10))
def test_a_larger_budget_is_never_worse(problem, more):
    layers, weights, limit = problem
    network = network_of(layers)
    small, large = (allocate(network, limit + m, weights=weights) for m in (0, more))
    assert large.damage <= small.damage


@law("allocate.order")
@given(knapsacks(), seeds)
def test_the_order_of_layers_does_not_matter(problem, seed):
    layers, weights, limit = problem
    order = np.random.default_rng([seed, 37]).permutation(len(layers))
    first = allocate(network_of(layers), limit, weights=weights)
    mixed = allocate(
        network_of([layers[n] for n in order]), limit, weights=[weights[n] for n in order]
    )
    assert (mixed.damage, mixed.cost) == (first.damage, first.cost)


def large_network(seed, layers=20, choices=9):
    """Like real ones: costs of bit operations, errors that fall with them."""
    rng = np.random.default_rng([seed, 31])
    network = []
    for _ in range(layers):
        costs = np.sort(rng.integers(10**6, 10**9, choices))
        errors = np.exp(-costs / 3e8 + rng.normal(0, 0.3, choices)) * rng.uniform(1, 30)
        network.append([(int(c), float(e)) for c, e in zip(costs, errors, strict=True)])
    return network


@law("allocate.all", "allocate.bound", "allocate.within")
@settings(max_examples=10)
@given(seeds, st.floats(0.1, 0.9))
def test_nothing_uniform_is_better_in_a_large_network(seed, share):
    layers = large_network(seed)
    ends = [sum(pairs[n][0] for pairs in layers) for n in (0, -1)]
    limit = int(ends[0] + share * (ends[1] - ends[0]))
    found = allocate(network_of(layers), limit)
    near = allocate(network_of(layers), limit, method="lagrangian")
    assert found.cost <= limit and near.cost <= limit
    assert near.bound <= found.damage <= near.damage
    for column in zip(*layers, strict=True):
        if sum(cost for cost, _ in column) <= limit:
            assert found.damage <= float(sum(Fraction(d) for _, d in column))


@law("allocate.all")
def test_an_integer_programming_solver_finds_the_same():
    for seed in range(3):
        layers = large_network(seed, layers=8, choices=6)
        limit = sum(pairs[2][0] for pairs in layers)
        costs, damages = np.array(layers).transpose(2, 0, 1).reshape(2, -1)
        one_each = np.kron(np.eye(8), np.ones(6))
        other = milp(
            damages,
            integrality=np.ones(48),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(costs / limit, -np.inf, 1),
            ],
            options={"mip_rel_gap": 0},
        )
        assert np.isclose(allocate(network_of(layers), limit).damage, other.fun, rtol=1e-9)


@law("allocate.all")
def test_a_case_by_hand():
    # Hulls: 10 -> 4 for 4 (slope -3/2), 6 -> 1 for 5 (slope -1). With 8 the first step fits, the
    # second does not; the relaxation stops there. Two half-way choices off the hulls do better.
    layers = [[(1, 10.0), (4, 6.0), (5, 4.0)], [(1, 6.0), (3, 4.5), (6, 1.0)]]
    near = allocate(network_of(layers), 8, method="lagrangian")
    assert (picks_of(near), near.cost, near.damage, near.bound) == ([2, 0], 6, 10.0, 8.0)
    found = allocate(network_of(layers), 8)
    assert (picks_of(found), found.cost, found.damage, found.gap) == ([2, 1], 8, 8.5, 0.0)


@law("allocate.all")
def test_ties_take_the_least_cost_then_the_cheaper_choice_in_the_first_layer():
    twins = [(1, 5.0), (2, 3.0)]
    assert picks_of(allocate(network_of([twins, twins]), 3)) == [0, 1]
    assert picks_of(allocate(network_of([[(2, 3.0), (1, 3.0), (1, 3.0)]]), 5)) == [1]
    assert picks_of(allocate(network_of([twins, twins]), 9, weights=[0, 1])) == [0, 1]


def test_damages_are_compared_without_rounding():
    assert 1e16 + 1.0 == 1e16 + 0.5  # in floating point the second layer would not matter
    large = [[(0, 1e16)], [(0, 1.0), (1, 0.5)]]
    assert picks_of(allocate(network_of(large), 1)) == [0, 1]
    assert picks_of(allocate(network_of(large[::-1]), 1)) == [1, 0]


def test_the_exact_method_gives_up_where_there_is_too_much_to_try(monkeypatch):
    # Every choice lies on one line: no price decides anything.
    rng = np.random.default_rng(5)
    layers = [[(int(c), 10.0**6 - int(c)) for c in rng.integers(0, 10**6, 4)] for _ in range(5)]
    limit = sum(sorted(c for c, _ in pairs)[1] for pairs in layers) + 1
    monkeypatch.setattr(budget, "_STATES", 50)
    with pytest.raises(ValueError, match="more than 50 partial allocations"):
        allocate(network_of(layers), limit)
    near = allocate(network_of(layers), limit, method="lagrangian")
    monkeypatch.undo()
    assert near.bound <= allocate(network_of(layers), limit).damage <= near.damage


def test_parts_of_trained_layers_gain_from_sharing_a_budget():
    network = load_network()
    names = ("block1.conv1", "block3.conv1")
    parts = [network[f"{name}.weight"].astype(np.float64)[:16, :8] for name in names]
    found = [
        frontier(V, budgets=[170, 270, 370], bits=(4,), sweeps=5, scale_bytes=4) for V in parts
    ]
    uniform = [choices[1] for choices in found]
    spent = sum(c.cost for c in uniform)
    plain, best = sum(c.squared_error for c in uniform), allocate(found, spent)
    assert best.cost <= spent and best.damage < plain
    relative = [1 / (V**2).sum() for V in parts]
    fair = allocate(found, spent, weights=relative)
    mean = [sum(c.error**2 for c in a.choices) for a in (fair, best)]
    assert mean[0] <= mean[1] * (1 + 1e-12) and np.isclose(fair.damage, mean[0])


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


def test_what_is_not_given_has_the_default_of_the_signature():
    count = {"cost": "bytes", "axis": None, "scale_bytes": 8, "activation_bits": 32}
    place = {"input_size": None, "stride": 1, "padding": 0, "dilation": 1}
    assert rank_for_budget((6, 5, 3), 99, bits=4) == rank_for_budget(
        (6, 5, 3), 99, bits=4, **count, **place
    )
    bops = {"bits": 4, "cost": "bops", "input_size": 5}
    for limit in (20_000, 20_001, 100_000):
        plain = rank_for_budget((6, 5, 3), limit, **bops)
        assert plain == rank_for_budget((6, 5, 3), limit, **{**count, **place, **bops})
    W = np.random.default_rng(10).standard_normal((3, 2, 2))
    rest = {"bits": (2, 3, 4), "dense": (), "method": "best", "rng": 0, "executor": None}
    found = frontier(W, budgets=[50], sweeps=3)
    assert same(found, frontier(W, budgets=[50], sweeps=3, **count, **place, **rest))
    assert [c.bits for c in sorted(found, key=lambda c: c.bits)] == [2, 3, 4]
    assert not same(found, frontier(W, budgets=[50], sweeps=3, rng=1))
    options = {"budgets": [60_000], "cost": "bops", "input_size": 4, "method": "als-round"}
    costs = [c.cost for c in frontier(W, **options)]
    assert costs == [c.cost for c in frontier(W, **{**count, **place, **rest, **options})]
    layers = network_of([[(1, 10.0), (4, 6.0), (5, 4.0)], [(1, 6.0), (3, 4.5), (6, 1.0)]])
    assert allocate(layers, 8) == allocate(layers, 8, method="exact", weights=[1.0, 1.0])


def test_choices_are_equal_whatever_their_fits_and_equal_ones_stand_in_order():
    zero = frontier(np.zeros((2, 2)), budgets=[18], bits=(4,), dense=(4,), method="als-round")
    assert [(c.rank, c.cost, c.error, c.optimal) for c in zero] == [
        *[(1, 18, 0, True), (None, 18, 0, False)]
    ]
    assert zero[0] == replace(zero[0], fit=None) and zero[0] != replace(zero[0], optimal=False)
    assert "fit" not in repr(zero[0])
    with pytest.raises(AttributeError, match="cost"):
        zero[0].cost = 3


def test_budgets_of_zero_and_the_largest_damage_are_fine(monkeypatch):
    most = float(np.finfo(float).max)
    for method in ("exact", "lagrangian"):
        free = allocate([layer_of([(0, most)])], 0, method=method)
        assert (free.cost, free.damage, free.bound) == (0, most, most)
        with pytest.raises(ValueError, match=r"^weights: the damage exceeds the float64 range"):
            allocate(network_of([[(1, 1e300), (2, 1.0)]]), 9, weights=[1e300], method=method)
    # Everything fits, so the last choice is the only partial allocation to carry on.
    monkeypatch.setattr(budget, "_STATES", 1)
    assert picks_of(allocate([layer_of([(0, 2.0), (1, 1.0)])], 1)) == [1]


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
        ({"executor": 2}, r"^executor: expected an Executor"),
        ({"budgets": [60.5]}, r"^budgets: expected an integer"),
        ({"groups": 2}, "unexpected keyword"),
    ):
        with pytest.raises(TypeError, match=message):
            frontier(W, **{"budgets": [60], **options})
    with pytest.raises(ValueError, match=r"^W: expected at least 2 axes"):
        frontier(W[0, 0], budgets=[60])
    with pytest.raises(ValueError, match=r"^W: expected finite"):
        frontier(W * np.nan, budgets=[60])


def test_bad_allocations_are_refused():
    layer = layer_of([(3, 1.0), (5, 0.5)])
    for frontiers, limit, options, message in (
        ([layer, layer], 5, {}, r"^budget: expected at least 6 \(the cheapest choice of every"),
        ([], 5, {}, r"^frontiers: expected the choices of at least one layer"),
        ([layer, []], 9, {}, r"^frontiers\[1\]: expected at least one Choice"),
        ([layer], -1, {}, r"^budget: expected at least 0"),
        ([layer], 9, {"weights": [1, 2]}, r"^weights: expected 1 \(one per layer\), got 2"),
        ([layer], 9, {"weights": [-1]}, r"^weights\[0\]: expected at least 0"),
        ([layer], 9, {"weights": [np.inf]}, r"^weights\[0\]: expected a finite"),
        ([layer], 9, {"method": "greedy"}, r"^method: expected one of"),
        ([layer_of([(-1, 1.0)])], 9, {}, r"^frontiers\[0\]: cost: expected at least 0"),
        ([layer_of([(1, np.nan)])], 9, {}, r"^frontiers\[0\]: squared_error: expected a finite"),
        ([layer_of([(1, -0.1)])], 9, {}, r"^frontiers\[0\]: squared_error: expected at least 0"),
        ([layer_of([(1, 1e300)])], 9, {"weights": [1e300]}, "exceeds the float64 range"),
    ):
        with pytest.raises(ValueError, match=message):
            allocate(frontiers, limit, **options)
    with pytest.raises(TypeError, match=r"^frontiers\[0\]: expected Choices, got tuple"):
        allocate([[(3, 1.0)]], 9)
    for frontiers, name in ((layer, r"frontiers\[0\]"), ({"conv1": layer}, "frontiers")):
        with pytest.raises(TypeError, match=rf"^{name}: expected a sequence of"):
            allocate(frontiers, 9)
    with pytest.raises(TypeError, match=r"^frontiers\[0\]: cost: expected an integer"):
        allocate([[replace(layer[0], cost=2.5)]], 9)
    with pytest.raises(TypeError, match=r"^budget: expected an integer"):
        allocate([layer], 9.5)


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


def walk_only(frontiers, limit, **options):
    """Takes the relaxation for the optimum."""
    found = right.allocate(frontiers, limit, **{**options, "method": "lagrangian"})
    return found._replace(bound=found.damage)


def unweighted(frontiers, limit, *, weights=None, **options):
    found = right.allocate(frontiers, limit, **options)
    damage = sum(w * c.squared_error for w, c in zip(weights, found.choices, strict=True))
    return found._replace(damage=float(damage), bound=float(damage))


def one_too_many(frontiers, limit, **options):
    return right.allocate(frontiers, limit + 1, **options)


def proud(frontiers, limit, **options):
    """Claims that what the relaxation found is optimal."""
    found = right.allocate(frontiers, limit, **options)
    return found._replace(bound=found.damage)


def humble(frontiers, limit, **options):
    """Proves less than it could."""
    found = right.allocate(frontiers, limit, **options)
    return found._replace(bound=found.bound / 2)


def last_first(frontiers, limit, *, weights=None, **options):
    """Breaks ties from the last layer on."""
    turned = None if weights is None else weights[::-1]
    found = right.allocate(frontiers[::-1], limit, weights=turned, **options)
    return found._replace(choices=found.choices[::-1])


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
        (test_a_case_by_hand, {"allocate": walk_only}),
        (test_exact_equals_trying_all, {"allocate": unweighted}),
        (
            test_ties_take_the_least_cost_then_the_cheaper_choice_in_the_first_layer,
            {"allocate": last_first},
        ),
        (test_exact_equals_trying_all, {"allocate": one_too_many}),
        (test_relaxation_bounds_the_damage_and_stays_within_one_step, {"allocate": one_too_many}),
        (test_relaxation_bounds_the_damage_and_stays_within_one_step, {"allocate": proud}),
        (test_relaxation_bounds_the_damage_and_stays_within_one_step, {"allocate": humble}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
