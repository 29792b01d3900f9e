r"""Which rank and how many bits for each layer, when bytes or operations are limited?

A budget leaves a choice: many components of few bits, or few components of many. For one kernel
:func:`rank_for_budget` gives the largest rank at each width :eq:`budget-rank`, and :func:`frontier`
solves all these cases and marks those that no other one undercuts in both cost and error
:eq:`budget-pareto`. The dense kernel, rounded, may compete. For a network :func:`allocate` takes
one choice per layer, so that the whole stays within the budget and does the least damage
:eq:`budget-problem`: a knapsack. Lagrangian relaxation solves it nearly and says how nearly
:eq:`budget-bound`; what that leaves open is small enough to be searched :eq:`budget-keep`.

Costs are those of :mod:`qcp_ref.cost`, in whole numbers; damages are compared without rounding.

Simplified: one width per layer, for all of its factors; damages of layers add up, which is exact
for the squared error of the weights and a model for anything that the network makes of it.

Checked by tests/test_budget.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from math import inf, nextafter, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import (
    Array,
    check_array,
    check_callback,
    check_int,
    check_ints,
    check_option,
    check_real,
    check_sequence,
    check_tensor,
)
from qcp_ref._door import shown
from qcp_ref._results import frozen
from qcp_ref.conv import Padding, Pair, kernel_to_tensor
from qcp_ref.cost import conv_costs
from qcp_ref.grid import Grid
from qcp_ref.layer import one_blas_thread
from qcp_ref.qcp import QuantizedFit
from qcp_ref.scale import project
from qcp_ref.search import factorize

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Allocation", "Choice", "allocate", "frontier", "rank_for_budget"]

COSTS = ("bytes", "bops")
METHODS = ("exact", "lagrangian")
_LARGEST = 2**53  # of a budget: more bytes than there are
_STATES = 100_000  # partial allocations that the exact method carries from layer to layer


@frozen
@dataclass(frozen=True)
class Choice:
    """One way to store one layer: what it costs and what it spoils.

    Parameters
    ----------
    rank : int or None
        Number of components; None stands for the dense kernel, rounded.
    bits : int
        Bits of a weight.
    axis : {None, 0, 1}
        One scale per factor, per row or per column; a dense kernel has one per output channel.
    cost : int
        Bytes or bit operations.
    error : float
        Relative Frobenius error of the kernel.
    squared_error : float
        Its squared absolute error.
    optimal : bool
        No other choice of the same frontier costs no more and errs no more.
    fit : QuantizedFit or None
        The solver's result; None for a dense kernel.

    Examples
    --------
    >>> from qcp_ref import Choice
    >>> Choice(rank=5, bits=4, axis=None, cost=77, error=0.1, squared_error=0.3).optimal
    True
    """

    rank: int | None
    bits: int
    axis: int | None
    cost: int
    error: float
    squared_error: float
    optimal: bool = True
    fit: QuantizedFit | None = field(default=None, repr=False, compare=False)


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


class _Count(NamedTuple):
    """What a layer costs at a rank (None: dense) and a number of bits."""

    shape: Sequence[int]
    cost: str
    axis: int | None
    input_size: Pair | None
    scale_bytes: int
    activation_bits: int
    stride: Pair
    padding: Padding
    dilation: Pair

    def checked(self) -> "_Count":
        """Refuse what no count would refuse; make a matrix a kernel of one entry."""
        sides, size = list(check_ints(self.shape, "shape", minimum=1)), self.input_size
        check_option(self.cost, "cost", COSTS)
        if not 2 <= len(sides) <= 5:
            raise ValueError(f"shape: expected 2 to 5 sides, got {shown(self.shape)}")
        if self.axis is not None:
            check_int(self.axis, "axis", minimum=0, maximum=1)
        if len(sides) == 2:
            sides, size = [*sides, 1], 1 if size is None else size
        if size is None and self.cost == "bops":
            raise ValueError("input_size: expected the sides of the input to count bops, got None")
        return self._replace(shape=sides, input_size=size)

    def __call__(self, rank: int | None, bits: int) -> int:
        size, area = self.input_size, prod(self.shape[2:])
        if size is None:  # bytes are the same on any image that the kernel fits
            size = (2**20,) * (len(self.shape) - 2)
        modes = [*self.shape[:2], *([area] if area > 1 else [])]
        scales = {None: len(modes), 0: sum(modes), 1: len(modes) * (rank or 0)}[self.axis]
        costs = conv_costs(
            self.shape,
            size,
            rank=rank,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            weight_bits=bits,
            activation_bits=self.activation_bits,
            scales=self.shape[0] if rank is None else scales,
            scale_bytes=self.scale_bytes,
        )
        return int(getattr(costs, self.cost))


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


def rank_for_budget(
    shape: Sequence[int],
    budget: int,
    *,
    bits: int,
    cost: str = "bytes",
    axis: int | None = None,
    scale_bytes: int = 8,
    activation_bits: int = 32,
    input_size: Pair | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> int:
    """Return the largest rank whose factors cost no more than the budget.

    Parameters
    ----------
    shape : sequence of int
        Kernel shape (Cout, Cin, kh, kw), or with one or three spatial sides, or (outputs, inputs)
        of a linear layer.
    budget : int
        Bytes or bit operations.
    bits : int
        Bits of a factor's entry.
    cost : {"bytes", "bops"}
        What is limited: packed weights and their scales, or bit operations for one image.
    axis : {None, 0, 1}
        One scale per factor, per row or per column.
    scale_bytes, activation_bits : int
        As in :func:`qcp_ref.cost.conv_costs`.
    input_size : int or one per spatial axis, optional
        Sides of the input. Bytes do not depend on it; bit operations need it, except those of a
        linear layer, which are counted for one position if it is not given.
    stride, padding, dilation
        As in :func:`qcp_ref.conv.conv2d`.

    Returns
    -------
    int
        The rank, at least 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or the budget does not pay for one component.

    Notes
    -----
    Equation :eq:`budget-rank` [derived]; for bytes it has the closed form :eq:`budget-rank-bytes`.

    **Laws**

    - *largest*: this rank fits, the next does not
    - *bytes*: the bytes are those of the codes, packed, and of the scales

    Examples
    --------
    Two bits for each of 36,864 weights pay for these ranks, scales in float32 included:

    >>> from qcp_ref import rank_for_budget
    >>> [rank_for_budget((64, 64, 3, 3), 9216, bits=b, scale_bytes=4) for b in (4, 3, 2)]
    [134, 179, 268]
    """
    count = _Count(
        shape, cost, axis, input_size, scale_bytes, activation_bits, stride, padding, dilation
    ).checked()
    budget = check_int(budget, "budget", minimum=0, maximum=_LARGEST)
    bits = check_int(bits, "bits", minimum=1, maximum=16)
    rank = _largest_rank(count, budget, bits)
    if rank < 1:
        need = f"at least {count(1, bits)} {cost} (one component of {bits} bits)"
        raise ValueError(f"budget: expected {need}, got {budget}")
    return rank


def frontier(
    W: ArrayLike,
    *,
    budgets: Iterable[int],
    bits: Iterable[int] = (2, 3, 4),
    dense: Iterable[int] = (),
    cost: str = "bytes",
    axis: int | None = None,
    scale_bytes: int = 8,
    activation_bits: int = 32,
    input_size: Pair | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    method: str = "best",
    rng: int = 0,
    executor: "Executor | None" = None,
    callback: Callable[[int, Choice], object] | None = None,
    **solver: Any,
) -> tuple[Choice, ...]:
    """Find out what one kernel's error is at each number of bits, for each of several budgets.

    Parameters
    ----------
    W : array_like, shape (Cout, Cin, kh, kw)
        The kernel, with one to three spatial axes, or the matrix (outputs, inputs) of a linear
        layer.
    budgets : iterable of int
        Bytes or bit operations; each is spent on the largest rank, for each number of bits.
    bits : iterable of int
        Bits of the full grids of the factors.
    dense : iterable of int
        Bits of dense kernels that compete, where they fit the largest budget: rounded to the better
        of the full and the mid-rise grid, one scale per output channel.
    cost, axis, scale_bytes, activation_bits, input_size, stride, padding, dilation
        What is counted, see :func:`rank_for_budget`.
    method : str
        See :func:`qcp_ref.search.factorize`.
    rng : int
        Seed of each run. A generator is refused: its draws would depend on the order of the runs.
    executor : concurrent.futures.Executor, optional
        Where the runs take place; by default here, one after the other.
    callback : callable, optional
        Called as ``callback(number, choice)`` after each run, in their order; a true result leaves
        out the rest.
    **solver
        Further options of :func:`qcp_ref.search.factorize`: ``rule``, ``slack``, ``sweeps``,
        ``restarts``.

    Returns
    -------
    tuple of Choice
        All that were tried, cheapest first. Filter by ``optimal``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or no budget pays for anything.

    Notes
    -----
    Equations :eq:`budget-rank` and :eq:`budget-pareto` [beyond the paper]. Combinations without a
    component, and repeated ones, are left out.

    **Laws**

    - *stored*: each choice fits a budget, and its cost is that of what is stored
    - *errors*: its errors are those of the kernel that it stores
    - *optimal*: those marked optimal are the ones that no other choice undercuts; of equals, one is
      marked
    - *executor*: an executor changes nothing
    - *again*: :func:`qcp_ref.search.factorize` with the same seed makes each fit again

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import frontier
    >>> W = np.random.default_rng(1).standard_normal((8, 4, 3, 3))
    >>> choices = frontier(W, budgets=[90], bits=(2, 3, 4), sweeps=50)
    >>> sorted((c.bits, c.rank, c.cost) for c in choices)
    [(2, 12, 87), (3, 8, 87), (4, 6, 87)]
    """
    W = check_array(W, "W", min_ndim=2)
    X = check_tensor(W if W.ndim == 2 else kernel_to_tensor(W), "W")
    count = _Count(
        W.shape, cost, axis, input_size, scale_bytes, activation_bits, stride, padding, dilation
    ).checked()
    solver |= {"axis": axis, "method": method, "rng": check_int(rng, "rng", minimum=0)}
    pairs = _pairs(count, budgets, bits, dense)
    check_callback(callback)
    if executor is not None and not callable(getattr(executor, "map", None)):
        raise TypeError(
            f"executor: expected an Executor of concurrent.futures, got {shown(executor)}"
        )
    size, found = float(np.linalg.norm(X)), []
    results = (executor.map if executor else map)(partial(_solve, X, solver), pairs)
    for number, ((rank, b), (error, fit)) in enumerate(zip(pairs, results, strict=False)):
        place = axis if rank else 0
        found.append(Choice(rank, b, place, count(rank, b), error, (error * size) ** 2, fit=fit))
        if callback is not None and callback(number, found[-1]):
            break
    return _marked(found)


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


def _largest_rank(count: _Count, budget: int, bits: int) -> int:
    """Spell out :eq:`budget-rank`; 0 if there is none. A component costs at least one bit."""
    return bisect_right(range(1, 8 * budget + 1), budget, key=lambda rank: count(rank, bits))


def _pairs(
    count: _Count, budgets: Iterable[int], bits: Iterable[int], dense: Iterable[int]
) -> list[tuple[int | None, int]]:
    """List the ranks and bits to be tried, each pair once."""
    budgets = check_ints(budgets, "budgets", minimum=0, maximum=_LARGEST)
    bits = check_ints(bits, "bits", minimum=1, maximum=16)
    dense = check_ints(dense, "dense", minimum=1, maximum=16)
    if not budgets or not (bits or dense):
        raise ValueError("budgets, bits: expected at least one budget and one number of bits")
    tried = [(_largest_rank(count, budget, b), b) for b in bits for budget in budgets]
    pairs: list[tuple[int | None, int]] = [(rank, b) for rank, b in tried if rank > 0]
    pairs += [(None, b) for b in dense if count(None, b) <= max(budgets)]
    if not pairs:
        least = min([count(1, b) for b in bits] + [count(None, b) for b in dense])
        raise ValueError(f"budgets: expected one of at least {least}, got {max(budgets)} at most")
    return list(dict.fromkeys(pairs))


def _solve(
    X: Array, solver: dict[str, Any], pair: tuple[int | None, int]
) -> tuple[float, QuantizedFit | None]:
    """Do one job, in whatever thread or process; return error and fit."""
    rank, bits = pair
    with one_blas_thread():
        if rank is None:
            return float(np.linalg.norm(X - _round_dense(X, bits)) / (np.linalg.norm(X) or 1)), None
        fit = factorize(X, rank, Grid(bits), **solver)
    return fit.error, fit


def _round_dense(W: Array, bits: int, axis: int | None = 0) -> Array:
    """Round the kernel to the better of the full and the mid-rise grid, at the exact scale."""
    flat = W.reshape(W.shape[0], -1)
    tries = [project(flat, Grid(bits, mid_rise=mid), axis=axis) for mid in (False, True)]
    return min(tries, key=lambda Q: float(((flat - Q) ** 2).sum())).reshape(W.shape)


def _marked(choices: list[Choice]) -> tuple[Choice, ...]:
    """Sort by cost and mark by :eq:`budget-pareto`."""
    choices = sorted(choices, key=lambda c: (c.cost, c.squared_error, c.bits, c.rank or inf))
    least = accumulate((c.squared_error for c in choices), min, initial=inf)
    better = [c.squared_error < before for c, before in zip(choices, least, strict=False)]
    return tuple(replace(c, optimal=mark) for c, mark in zip(choices, better, strict=True))


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
    least = sum(min(p.damage + multiplier * p.cost for p in points) for points in layers)
    return _Relaxed(multiplier, taken, least - multiplier * budget)


def _merge(layers: list[list[_Point]], budget: int, relaxed: _Relaxed) -> tuple[_Point, ...]:
    """Add layer after layer to all partial allocations that can still become the best one.

    One is dropped if the budget does not pay for the other layers, by :eq:`budget-keep`, or if
    another one undercuts it.
    """
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
