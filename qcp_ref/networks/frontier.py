r"""Which ranks and widths are worth their cost, for one kernel?

A budget, in bytes or in bit operations, leaves a choice: many components of few bits, or few
components of many.
:func:`rank_for_budget` gives the largest rank at each width :eq:`budget-rank`, and :func:`frontier`
solves all these cases and marks those that no other one undercuts in both cost and error
:eq:`budget-pareto`. The dense kernel, rounded, may compete.

Costs are those of :mod:`qcp_ref.layers.cost`, in whole numbers.

Simplified: one width for all factors of a layer.

Checked by tests/networks/test_frontier.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from math import inf, prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qcp_ref._checks import (
    Array,
    check_array,
    check_callback,
    check_int,
    check_ints,
    check_option,
    check_tensor,
)
from qcp_ref._door import shown
from qcp_ref._results import frozen
from qcp_ref.factors.methods import factorize
from qcp_ref.factors.quantized import QuantizedFit
from qcp_ref.grids.grid import Grid
from qcp_ref.grids.scale import round_dense
from qcp_ref.layers.conv import kernel_to_tensor
from qcp_ref.layers.cost import conv_costs
from qcp_ref.layers.geometry import Padding, Pair
from qcp_ref.layers.layer import Solver
from qcp_ref.networks.jobs import run_jobs

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Choice", "frontier", "rank_for_budget"]

COSTS = ("bytes", "bops")
_LARGEST = 2**53  # of a budget: more bytes than there are


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

    @property
    def modes(self) -> list[int]:
        """Return the sides of the tensor that is factorized."""
        area = prod(self.shape[2:])
        return [*self.shape[:2], *([area] if area > 1 else [])]

    def __call__(self, rank: int | None, bits: int) -> int:
        size, modes = self.input_size, self.modes
        if size is None:  # bytes are the same on any image that the kernel fits
            size = (2**20,) * (len(self.shape) - 2)
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
        As in :func:`qcp_ref.layers.cost.conv_costs`.
    input_size : int or one per spatial axis, optional
        Sides of the input. Bytes do not depend on it; bit operations need it, except those of a
        linear layer, which are counted for one position if it is not given.
    stride, padding, dilation
        As in :func:`qcp_ref.layers.conv.conv2d`.

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
    executor: "Executor | int | None" = None,
    callback: Callable[[int, Choice], object] | None = None,
    rule: str = "mse-exact",
    slack: float | None = None,
    sweeps: int | None = None,
    restarts: int | None = None,
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
        See :func:`qcp_ref.factors.methods.factorize`.
    rng : int
        Seed of each run. A generator is refused: its draws would depend on the order of the runs.
    executor : concurrent.futures.Executor or int, optional
        Where the runs take place, as in :func:`qcp_ref.networks.jobs.run_jobs`; by default here,
        one after the other.
    callback : callable, optional
        Called as ``callback(number, choice)`` after each run, in their order; a true result leaves
        out the rest.
    rule, slack, sweeps, restarts
        See :func:`qcp_ref.factors.methods.factorize`.

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
    - *again*: :func:`qcp_ref.factors.methods.factorize` with the same seed makes each fit again

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
    rng = check_int(rng, "rng", minimum=0)
    solver = Solver(method, rng, axis, rule, slack, sweeps, restarts)
    pairs = _pairs(count, budgets, bits, dense)
    check_callback(callback)
    size = float(np.linalg.norm(X))
    found: list[Choice] = []

    def add(number: int, result: tuple[float, QuantizedFit | None]) -> object:
        found.append(_choice(count, size, pairs[number], result))
        return callback is not None and callback(number, found[-1])

    names = [f"{f'rank {rank}' if rank else 'dense'}, {b} bits" for rank, b in pairs]
    run_jobs(partial(_solve, X, solver), pairs, executor=executor, names=names, callback=add)
    return _marked(found)


def _largest_rank(count: _Count, budget: int, bits: int) -> int:
    """Return the largest rank within the budget, 0 if there is none, by bisection.

    R(B) = max { R >= 0 : c(R, b) <= B }  :eq:`budget-rank`; a component costs at least one bit.
    """
    most = 8 * budget
    if count.axis == 1:  # a component has one scale per mode, of a byte or more, or as many BOPs
        most = budget // len(count.modes)
    return bisect_right(range(1, most + 1), budget, key=lambda rank: count(rank, bits))


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
    X: Array, solver: Solver, pair: tuple[int | None, int]
) -> tuple[float, QuantizedFit | None]:
    """Return error and fit at one rank and width."""
    rank, bits = pair
    if rank is None:
        return float(np.linalg.norm(X - round_dense(X, bits)) / (np.linalg.norm(X) or 1)), None
    fit = factorize(X, rank, Grid(bits), **solver._asdict())
    return fit.error, fit


def _choice(
    count: _Count,
    size: float,
    pair: tuple[int | None, int],
    result: tuple[float, QuantizedFit | None],
) -> Choice:
    """Write down what became of a rank and a width, for a kernel of this Frobenius norm."""
    (rank, bits), (error, fit) = pair, result
    axis = count.axis if rank else 0
    return Choice(rank, bits, axis, count(rank, bits), error, (error * size) ** 2, fit=fit)


def _marked(choices: list[Choice]) -> tuple[Choice, ...]:
    """Sort by cost, and mark what no other choice undercuts."""
    # (c, e) is optimal if no other (c', e') has c' <= c and e' <= e  :eq:`budget-pareto`
    choices = sorted(choices, key=lambda c: (c.cost, c.squared_error, c.bits, c.rank or inf))
    least = accumulate((c.squared_error for c in choices), min, initial=inf)
    better = [c.squared_error < before for c, before in zip(choices, least, strict=False)]
    return tuple(replace(c, optimal=mark) for c, mark in zip(choices, better, strict=True))
