"""Index loops of networks: ranks and choices under a budget."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from qcp_ref.loops.nested import indices

__all__ = ["allocate", "factor_bytes", "lagrangian_bound", "pareto", "rank_for_budget"]


def factor_bytes(
    sides: Sequence[int], rank: int, bits: int, axis: int | None, scale_bytes: int
) -> int:
    """Count codes and scales of :eq:`cost-bytes`, factor after factor, and fill bytes with bits."""
    filled, scales = 0, 0
    for side in sides:
        filled += sum(bits for _ in indices((side, rank)))
        scales += {None: 1, 0: side, 1: rank}[axis]
    return len(range(0, filled, 8)) + scales * scale_bytes


def rank_for_budget(cost: Callable[[int], Any], budget: Any) -> int:
    """Count up to the largest rank that :eq:`budget-rank` allows."""
    rank = 0
    while cost(rank + 1) <= budget:
        rank += 1
    return rank


def pareto(points: Sequence[tuple[Any, Any]]) -> list[bool]:
    """Say of each pair (cost, damage) whether no other is at most as large in both.

    :eq:`budget-pareto`; of equal pairs the first.
    """

    def undercut(n: int) -> bool:
        cost, damage = points[n]
        return any(
            c <= cost and d <= damage and ((c, d) != (cost, damage) or m < n)
            for m, (c, d) in enumerate(points)
        )

    return [not undercut(n) for n in range(len(points))]


def allocate(layers: Sequence[Sequence[tuple[Any, Any]]], budget: Any) -> list[int] | None:
    """Try all of :eq:`budget-problem`, for pairs of cost and damage; None if nothing fits."""
    best = None
    for picks in indices([len(points) for points in layers]):
        taken = [points[n] for points, n in zip(layers, picks, strict=True)]
        cost, damage = (sum(column) for column in zip(*taken, strict=True))
        order = (damage, cost, [c for c, _ in taken], list(picks))
        if cost <= budget and (best is None or order < best):
            best = order
    return best and best[-1]


def lagrangian_bound(layers: Sequence[Sequence[tuple[Any, Any]]], budget: Any) -> Any:
    """Maximise sum_l min_j (d_lj + m c_lj) - m B over multipliers m: :eq:`budget-bound`.

    A concave function bends only where two points are level.
    """
    slopes = [
        Fraction(d - e) / (f - c)
        for points in layers
        for (c, d), (f, e) in product(points, points)
        if c < f and d > e
    ]
    bounds = []
    for multiplier in [Fraction(0), *slopes]:
        least = sum(min(d + multiplier * c for c, d in points) for points in layers)
        bounds.append(least - multiplier * budget)
    return max(bounds)
