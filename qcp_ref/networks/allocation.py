r"""Which choice for each layer, when bytes or operations are limited?

For a network :func:`allocate` takes one choice per layer (of :mod:`qcp_ref.networks.frontier`), so
that the whole stays within the budget and does the least damage :eq:`budget-problem`: bit
allocation, a knapsack. Lagrangian relaxation solves it nearly and says how nearly
:eq:`budget-bound`; what that leaves open is small enough to be searched :eq:`budget-keep`.

Damages are compared without rounding.

Simplified: damages of layers add up, which is exact for the squared error of the weights and a
model for anything that the network makes of it.

Checked by tests/networks/test_allocation.py.
"""

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from math import inf, nextafter
from typing import Any, NamedTuple

import numpy as np

from qcp_ref._checks import check_int, check_option, check_real, check_sequence
from qcp_ref._door import shown
from qcp_ref._results import frozen
from qcp_ref.networks.frontier import Choice

__all__ = ["Allocation", "allocate"]

METHODS = ("exact", "lagrangian")
_STATES = 100_000  # partial allocations that the exact method carries from layer to layer


@frozen
class Allocation(NamedTuple):
    """Result of :func:`allocate`: one choice per layer, what they cost, the damage they do.

    No allocation within the budget does less damage than ``bound``.
    """

    choices: tuple[Choice, ...]
    cost: int
    damage: float
    bound: float

    @property
    def gap(self) -> float:
        """How much less damage some other allocation may do, at most."""
        return self.damage - self.bound


class _Point(NamedTuple):
    """A choice as the knapsack sees it; damages are integers in a common unit."""

    cost: int
    damage: int
    place: int


class _Relaxed(NamedTuple):
    """The multiplier, points that fit, and the bound that the multiplier proves."""

    multiplier: Fraction
    points: list[_Point]
    bound: Fraction


def allocate(
    frontiers: Iterable[Iterable[Choice]],
    budget: int,
    *,
    weights: Iterable[float] | None = None,
    method: str = "exact",
) -> Allocation:
    """Take one choice per layer, so that together they fit the budget and do the least damage.

    Parameters
    ----------
    frontiers : iterable of iterables of Choice
        The choices of each layer.
    budget : int
        Limit of the sum of costs.
    weights : iterable of float, optional
        What a squared error of 1 in each layer counts, such as its effect on the network's output;
        by default 1, which makes the damage the squared error of all weights of the network.
    method : {"exact", "lagrangian"}
        The optimum; or what steps along the convex hulls of the layers reach, with the bound.

    Returns
    -------
    Allocation
        The choices in the order of the layers, their cost and damage, and the bound.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, the budget does not pay for the cheapest choices, or
        'exact' has more to try than it will.

    Notes
    -----
    Problem :eq:`budget-problem`; 'lagrangian' by :eq:`budget-bound` [source: Sinha and Zoltners,
    for the multiple-choice knapsack], 'exact' by merging layer after layer with :eq:`budget-keep`
    [derived; beyond the paper]. Of equal damages the least cost is taken, of those the cheaper
    choice in the first layer where they differ, and of equal choices of one layer the first.

    **Laws**

    - *within*: it is within the budget
    - *all*: 'exact' equals trying all, ties included; so nothing uniform is better
    - *more*: 'exact' with a larger budget is never worse
    - *bound*: no allocation within the budget does less damage than the bound, and no multiplier
      proves more
    - *gap*: the gap of 'lagrangian' is at most the gain of one step on a hull
    - *order*: 'exact' gives the same cost and damage whatever the order of the layers

    Examples
    --------
    >>> from qcp_ref import Choice, allocate
    >>> layer = [Choice(r, 4, None, 100 * r, 1 / r, 1 / r**2) for r in (1, 2, 4)]
    >>> found = allocate([layer, layer, layer], 700, weights=[1, 1, 9])
    >>> [choice.rank for choice in found.choices], found.cost, found.damage
    ([1, 2, 4], 700, 1.8125)
    """
    given = check_sequence(frontiers, "frontiers", "frontiers (one per layer)")
    layers = [_listed(choices, n) for n, choices in enumerate(given)]
    budget = check_int(budget, "budget", minimum=0)
    check_option(method, "method", METHODS)
    damages, unit = _damages(layers, weights)
    points = [_pareto(choices, ds) for choices, ds in zip(layers, damages, strict=True)]
    least = sum(options[0].cost for options in points)
    if least > budget:
        raise ValueError(
            f"budget: expected at least {shown(least)} (the cheapest choice of every layer), got "
            f"{shown(budget)}"
        )
    relaxed = _relax(points, budget)
    taken = _merge(points, budget, relaxed) if method == "exact" else relaxed.points
    damage = float(Fraction(sum(point.damage for point in taken), unit))
    bound = damage if method == "exact" else _rounded_down(relaxed.bound / unit)
    picked = tuple(choices[p.place] for choices, p in zip(layers, taken, strict=True))
    return Allocation(picked, sum(point.cost for point in taken), damage, bound)


def _listed(choices: Any, n: int) -> list[Choice]:
    found = check_sequence(choices, f"frontiers[{n}]", "choices of one layer")
    if not found:
        raise ValueError(f"frontiers[{n}]: expected at least one Choice, got none")
    return found


def _damages(
    layers: list[list[Choice]], weights: Iterable[float] | None
) -> tuple[list[list[int]], int]:
    """Return damages as integers, and how many of their unit make a damage of 1."""
    if not layers:
        raise ValueError("frontiers: expected the choices of at least one layer, got none")
    factors = (
        [1.0] * len(layers) if weights is None else check_sequence(weights, "weights", "numbers")
    )
    if len(factors) != len(layers):
        raise ValueError(f"weights: expected {len(layers)} (one per layer), got {len(factors)}")
    exact = []
    for n, (choices, weight) in enumerate(zip(layers, factors, strict=True)):
        factor = Fraction(check_real(weight, f"weights[{n}]", minimum=0.0))
        exact.append([factor * _squared_error(c, f"frontiers[{n}]") for c in choices])
    if sum(max(row) for row in exact) > Fraction(np.finfo(float).max):
        raise ValueError("weights: the damage exceeds the float64 range; rescale them")
    unit = max(d.denominator for row in exact for d in row)  # all of them are powers of two
    return [[int(d * unit) for d in row] for row in exact], unit


def _squared_error(choice: Choice, name: str) -> Fraction:
    if not isinstance(choice, Choice):
        raise TypeError(f"{name}: expected Choices, got {type(choice).__name__}")
    check_int(choice.cost, f"{name}: cost", minimum=0)
    return Fraction(check_real(choice.squared_error, f"{name}: squared_error", minimum=0.0))


def _pareto(choices: list[Choice], damages: list[int]) -> list[_Point]:
    """Keep what no other choice undercuts: costs rise, damages fall."""
    rows = zip(choices, damages, strict=True)
    points = sorted(_Point(int(c.cost), damage, n) for n, (c, damage) in enumerate(rows))
    kept = points[:1]
    for point in points:
        if point.damage < kept[-1].damage:
            kept.append(point)
    return kept


def _hull(points: list[_Point]) -> list[_Point]:
    """Keep the corners of the lower convex hull, and what lies on its sides."""
    kept: list[_Point] = []
    for point in points:
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) > _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(a: _Point, b: _Point) -> Fraction:
    return Fraction(b.damage - a.damage, b.cost - a.cost)


def _relax(layers: list[list[_Point]], budget: int) -> _Relaxed:
    """Walk along the hulls, steepest step first; the first that does not fit is the multiplier."""
    steps = [
        (_slope(a, b), n, b) for n, points in enumerate(layers) for a, b in pairwise(_hull(points))
    ]
    taken = [points[0] for points in layers]
    spent, multiplier = sum(point.cost for point in taken), Fraction(0)
    for slope, n, point in sorted(steps, key=lambda step: step[0]):
        after = spent + point.cost - taken[n].cost
        if after <= budget:
            taken[n], spent = point, after
        elif not multiplier:  # what lies behind this step costs still more and will not fit either
            multiplier = -slope
    # damage >= sum_l m_l - lambda B, m_l = min_j (w_l e_lj + lambda c_lj)  :eq:`budget-bound`
    least = sum(min(p.damage + multiplier * p.cost for p in points) for points in layers)
    return _Relaxed(multiplier, taken, least - multiplier * budget)


def _merge(layers: list[list[_Point]], budget: int, relaxed: _Relaxed) -> tuple[_Point, ...]:
    """Add layer after layer to all partial allocations that can still become the best one.

    One is dropped if the budget does not pay for the other layers, by :eq:`budget-keep`, or if
    another one undercuts it.
    """
    # kept: sum_{i <= l} (w_i e_i + lambda c_i) + sum_{i > l} m_i <= D + lambda B  :eq:`budget-keep`
    unit, price = relaxed.multiplier.denominator, relaxed.multiplier.numerator
    most = unit * sum(point.damage for point in relaxed.points) + price * budget
    floors = [min(unit * a.damage + price * a.cost for a in points) for points in layers]
    states: list[tuple[int, int, tuple[_Point, ...]]] = [(0, 0, ())]
    for n, points in enumerate(layers):
        affordable = budget - sum(others[0].cost for others in layers[n + 1 :])
        worth = most - sum(floors[n + 1 :])
        grown = sorted(
            (cost + a.cost, damage + a.damage, (*taken, a))
            for cost, damage, taken in states
            for a in points
            if cost + a.cost <= affordable
            and unit * (damage + a.damage) + price * (cost + a.cost) <= worth
        )
        states = grown[:1]
        for state in grown:
            if state[1] < states[-1][1]:
                states.append(state)
        if len(states) > _STATES:
            raise ValueError(
                f"method: 'exact' has more than {_STATES} partial allocations to carry on; "
                "use 'lagrangian', or count the cost in larger units"
            )
    return states[-1][2]


def _rounded_down(x: Fraction) -> float:
    nearest = float(x)
    return nearest if Fraction(nearest) <= x else nextafter(nearest, -inf)
