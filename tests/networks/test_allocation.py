"""Laws, known answers and bad input of networks.allocation; its planted faults."""

import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from budget_cases import knapsacks, largest_step, layer_of, network_of, picks_of, same, weighted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from support import caught, law, seeds

import qcp_ref as right
from qcp_ref import allocate, frontier, loops, rank_for_budget
from qcp_ref.app.network import load_network
from qcp_ref.networks import allocation as budget

THIS = sys.modules[__name__]


# --- rank -----------------------------------------------------------------------------------------


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
