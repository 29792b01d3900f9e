r"""Which range do activations have? Calibration.

Weights are known when they are quantized; activations are not. Their range is measured on batches
of calibration data, of any shapes, and becomes scale and zero point of an affine grid. A wide range
rounds coarsely, a narrow one clips. The rules: the least and the greatest number, their moving
average over batches :eq:`ranges-moving`, percentiles :eq:`ranges-percentile`, and the range for
which a histogram predicts the least squared error :eq:`ranges-error`, searched greedily
:eq:`ranges-greedy` or among all ranges :eq:`ranges-pairs`. The last rule, 'mse-exact', is no range:
it takes the affine grid of least squared error on the data themselves.

The bins of a :class:`Histogram` have a power of two as width, and multiples of it as edges
:eq:`ranges-bins`. So histograms of batches merge without loss: whatever the order, the result is
the histogram of all batches together.

Simplified: one range for all channels; the batches are held in memory (histograms can be merged as
batches come); no entropy rule.

Checked by tests/layers/test_ranges.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from math import floor, frexp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    check_array,
    check_class,
    check_int,
    check_integers,
    check_option,
    check_real,
    check_sequence,
)
from qcp_ref._kernels import TIE
from qcp_ref._results import frozen
from qcp_ref.grids.grid import Grid, Scale, check_grid
from qcp_ref.grids.scale import choose_scale

__all__ = ["Histogram", "activation_scale", "histogram_error", "histogram_range"]

_Counts = NDArray[np.int64]


class _Option(NamedTuple):
    """The one option that a rule has: its name, its default and its greatest value."""

    name: str
    default: float
    most: float


_NONE = _Option("", 1, 1)
_RULES = {
    "min-max": _NONE,
    "moving-average": _Option("averaging", 0.01, 1),
    "percentile": _Option("percentile", 99.99, 100),
    "histogram": _Option("bins", 2048, 2**20),
    "histogram-exact": _Option("bins", 256, 2**20),
    "mse-exact": _NONE,
}
_MOST = 2.0**400  # beyond it squares leave the range of float64
_FEW = 512  # bins; the pairs of twice as many take four times eight as long


@frozen
@dataclass(frozen=True, eq=False)
class Histogram:
    """How many numbers lie in each of many equally wide bins.

    Parameters
    ----------
    counts : array_like of int, shape (B,)
        Numbers per bin; at least two bins and one number. Kept as a read-only copy.
    lo, hi : float
        Lower edge of the first bin and upper edge of the last one.

    Raises
    ------
    TypeError, ValueError
        If the counts are not integers of at least 0, or ``lo`` is not below ``hi``.

    Notes
    -----
    Bins of :meth:`of` and :meth:`merge` follow :eq:`ranges-bins` [derived]. PyTorch's
    HistogramObserver divides the way from the least to the greatest number instead; when it merges
    it has to guess, and counts become fractions.

    **Laws**

    - *total*: counts add up to the number of numbers
    - *merge*: merging commutes, is associative, and gives the histogram of the concatenation,
      exactly

    Examples
    --------
    >>> from qcp_ref import Histogram
    >>> h = Histogram.of([0.0, 0.5, 1.75], bins=4)
    >>> h.counts, h.lo, h.hi
    (array([1, 1, 0, 1]), 0.0, 2.0)
    >>> h.merge(Histogram.of([-1.0, 5.0], bins=4)).counts
    array([1, 3, 0, 1])
    """

    counts: NDArray[np.int64]
    lo: float
    hi: float

    def __post_init__(self) -> None:
        """Check the parts."""
        counts = check_array(check_integers(self.counts, "counts"), "counts", ndim=1)
        counts = counts.astype(np.int64)
        if counts.size < 2 or not counts.any() or (counts < 0).any():
            raise ValueError("counts: expected two or more whole numbers from 0, not all of them 0")
        lo, hi = check_real(self.lo, "lo"), check_real(self.hi, "hi")
        most = 4 * _MOST  # the bins of the largest numbers may end so far out
        if not -most <= lo < hi <= most:
            raise ValueError(f"lo, hi: expected lo < hi within 2**402, got {lo} and {hi}")
        if (hi - lo) / counts.size == 0:
            raise ValueError("lo, hi: expected bins of a width that float64 can hold; rescale them")
        for name, value in (("counts", counts), ("lo", lo), ("hi", hi)):  # `frozen` seals them
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, x: ArrayLike, bins: int = 2048) -> "Histogram":
        """Count the entries of an array, of any shape, in the finest bins that cover it and 0."""
        x = check_array(x, "x").ravel()
        bins = check_int(bins, "bins", minimum=2, maximum=2**20)
        top = float(np.abs(x).max())
        if top > _MOST:
            raise ValueError(
                f"x: expected magnitudes up to 2**400, got {top:.0e}; rescale the data"
            )
        exponent = frexp(top)[1] - bins.bit_length() - 1 if top else -1022  # surely too fine
        return _count(x, np.ones(1, np.int64), 2.0 ** max(exponent, -1022), bins)

    def merge(self, other: "Histogram") -> "Histogram":
        """Return the histogram of both samples together; both have the same number of bins."""
        check_class(other, "other", Histogram)
        aligned = all(frexp(h.width)[0] == 0.5 and h.lo % h.width == 0 for h in (self, other))
        if not aligned or self.counts.size != other.counts.size:
            raise ValueError("other: expected two histograms made by `of` with the same bins")
        edges = [h.lo + h.width * np.flatnonzero(h.counts) for h in (self, other)]
        counts = [h.counts[h.counts > 0] for h in (self, other)]
        width = max(self.width, other.width)
        return _count(np.concatenate(edges), np.concatenate(counts), width, self.counts.size)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.hi - self.lo) / len(self.counts)


def histogram_error(histogram: Histogram, first: int, last: int, levels: int) -> float:
    """Predict the squared error of rounding to levels spread over some of the bins.

    Parameters
    ----------
    histogram : Histogram
        The data, taken to be spread evenly within each of the B bins.
    first, last : int
        The bins that are kept, both included; numbers outside go to the outermost levels.
    levels : int
        How many; each is the middle of its share of the kept range.

    Returns
    -------
    float
        The mean squared error.

    Raises
    ------
    TypeError, ValueError
        If the bins are not ``0 <= first <= last < B``, or there is no level.

    Notes
    -----
    Equation :eq:`ranges-error` [authors' code, as in PyTorch].

    **Laws**

    - *even*: it is the measured error of data that are spread evenly over each bin
    - *bound*: the measured error of any data differs by no more than :eq:`ranges-bound`

    Examples
    --------
    >>> from qcp_ref import Histogram, histogram_error
    >>> h = Histogram([1, 1, 1, 1], 0.0, 4.0)
    >>> histogram_error(h, 0, 3, 4) == 1 / 12, histogram_error(h, 0, 3, 2) == 1 / 3
    (True, True)
    """
    levels = _check(histogram, levels)
    first = check_int(first, "first", minimum=0, maximum=histogram.counts.size - 1)
    last = check_int(last, "last", minimum=first, maximum=histogram.counts.size - 1)
    error = _error(histogram.counts, first, last, levels) * histogram.width  # no square too small
    return error * histogram.width / 3


def histogram_range(
    histogram: Histogram, levels: int, *, search: str = "greedy", steps: int = 100_000
) -> tuple[float, float]:
    """Choose the bins to be kept, by the predicted squared error.

    Parameters
    ----------
    histogram : Histogram
        The data.
    levels : int
        Number of levels that will represent the range.
    search : str
        'greedy' drops bins from either end while the predicted error falls. 'all-pairs' finds the
        least predicted error of all ranges; for histograms of few bins.
    steps : int
        The quantiles of the greedy search move by ``1 / steps``.

    Returns
    -------
    lo : float
        Lower edge of the first bin kept.
    hi : float
        Upper edge of the last one.

    Raises
    ------
    TypeError, ValueError
        For a search that is not known, no levels or steps, or too many bins for all pairs.

    Notes
    -----
    Equations :eq:`ranges-greedy` [authors' code, as in PyTorch] and :eq:`ranges-pairs` [derived].

    **Laws**

    - *edges*: both ends are edges of bins, between the first and the last bin that is not empty
    - *all-pairs*: no range between these has a smaller predicted error than that of 'all-pairs',
      but for rounding
    - *scale*: a power of two times the data multiplies the range

    Examples
    --------
    >>> from qcp_ref import Histogram, histogram_range
    >>> h = Histogram([0, 8, 9, 8, 0, 0, 1, 0], 0.0, 8.0)
    >>> histogram_range(h, 2), histogram_range(h, 2, search="all-pairs")
    ((1.0, 6.0), (1.0, 5.0))
    """
    levels, counts = _check(histogram, levels), histogram.counts
    steps = check_int(steps, "steps", minimum=1, maximum=10**6)
    greedy = check_option(search, "search", ["greedy", "all-pairs"]) == "greedy"
    used = np.flatnonzero(counts)[[0, -1]].tolist()
    first, last = _greedy(counts, levels, steps, *used) if greedy else _best(counts, levels, *used)
    return histogram.lo + histogram.width * first, histogram.lo + histogram.width * (last + 1)


def activation_scale(
    batches: Iterable[ArrayLike],
    grid: Grid,
    *,
    rule: str = "min-max",
    averaging: float | None = None,
    percentile: float | None = None,
    bins: int | None = None,
) -> Scale:
    """Choose scale and zero point of an affine grid from batches of calibration data.

    Parameters
    ----------
    batches : iterable of array_like
        At least one batch, of any shapes; put a single one into a list.
    grid : Grid
        The codes, with a level at zero.
    rule : str
        'min-max', 'moving-average', 'percentile', 'histogram' (the authors'), 'histogram-exact' or
        'mse-exact'.
    averaging : float, optional
        For 'moving-average': what share a new batch has in the average, above 0 and at most 1; 0.01
        by default.
    percentile : float, optional
        For 'percentile': the share of numbers kept, in percent, half of the others is cut at each
        end; 99.99 by default.
    bins : int, optional
        For the two histogram rules: how many; 2048 for 'histogram', 256 for 'histogram-exact' by
        default.

    Returns
    -------
    Scale
        Scale and integer zero point, both of shape (), and the rule.

    Raises
    ------
    TypeError, ValueError
        For no batches, numbers that are not finite and real, or that exceed 2**400 with a rule that
        has an option, and options that do not fit the rule.

    Notes
    -----
    Equations :eq:`ranges-moving`, :eq:`ranges-percentile` and :eq:`ranges-zero`. Percentiles are
    exact, with linear interpolation between neighbours (NumPy's 'linear').

    **Laws**

    - *zero*: zero is a level
    - *range*: but for 'mse-exact', the range is no wider than that of the numbers and zero, and
      goes beyond it by half a step at most, which makes room for a level at zero
    - *order*: but for 'moving-average', neither the order of batches nor how data are split matters
    - *loops*: 'moving-average' and 'percentile' are what plain loops give, up to rounding
    - *least*: 'mse-exact' has no more squared error on the data than any other rule, but for
      rounding

    Examples
    --------
    >>> from qcp_ref import Grid, activation_scale
    >>> activation_scale([[0.0, 0.5], [2.0, 0.25], [1.0]], Grid(2, signed=False))
    Scale(scale=array(0.66666667), zero_point=0.0, rule='min-max')
    """
    option = _RULES[check_option(rule, "rule", list(_RULES))]
    given_options = {"averaging": averaging, "percentile": percentile, "bins": bins}
    grid, value = check_grid(grid), _check_option(rule, option, given_options)
    given = check_sequence(batches, "batches", "arrays")
    arrays = [check_array(x, f"batches[{n}]").ravel() for n, x in enumerate(given)]
    if not arrays:
        raise ValueError("batches: expected at least one array, got none")
    for n, x in enumerate(arrays):
        if option.name and np.abs(x).max() > _MOST:
            raise ValueError(f"batches[{n}]: expected magnitudes up to 2**400; rescale the data")
    x = np.concatenate(arrays)
    if rule == "mse-exact":
        return choose_scale(x, grid, rule="mse-exact-affine")._replace(rule=rule)
    ends = np.array([x.min(), x.max()])
    if rule == "moving-average":
        each = [np.array([x.min(), x.max()]) for x in arrays]
        # a <- a + eta (min x - a), b <- b + eta (max x - b)  :eq:`ranges-moving`
        ends = reduce(lambda average, new: average + value * (new - average), each)
    elif rule == "percentile":
        ends = np.percentile(x, [50 - value / 2, 50 + value / 2])  # :eq:`ranges-percentile`
    elif option.name == "bins":
        search = "greedy" if rule == "histogram" else "all-pairs"
        histogram = Histogram.of(x, value)
        edges = histogram_range(histogram, len(grid.levels), search=search)
        ends = np.clip(edges, *ends)
    return choose_scale(ends, grid, rule="min-max")._replace(rule=rule)


def _check_option(rule: str, option: _Option, given: dict[str, Any]) -> Any:
    """Return the option of a rule, in the type that it has; refuse those of other rules."""
    name, default, most = option
    for other, value in given.items():
        if value is not None and other != name:
            need = f"{name or 'no option'} with rule {rule!r}"
            raise TypeError(f"{other}: expected {need}; leave it out")
    value = default if given.get(name) is None else given[name]
    if name == "bins":
        return check_int(value, name, minimum=2, maximum=int(most))
    number = check_real(value, name)
    if not 0 < number <= most:
        raise ValueError(f"{name}: expected a number above 0 and at most {most}, got {number}")
    return number


def _check(histogram: Histogram, levels: int) -> int:
    check_class(histogram, "histogram", Histogram)
    return check_int(levels, "levels", minimum=1, maximum=2**16)


def _count(values: Array, times: _Counts, width: float, bins: int) -> Histogram:
    """Count values, each so many times, in the narrowest bins, from ``width`` on, that cover them.

    w = min { 2^e : floor(max(x, 0) / 2^e) - floor(min(x, 0) / 2^e) < B }  :eq:`ranges-bins`
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    while floor(high / width) - floor(low / width) >= bins:
        width *= 2
    first = floor(low / width)
    counts = np.zeros(bins, np.int64)
    np.add.at(counts, np.floor(values / width).astype(np.int64) - first, times)
    return Histogram(counts, first * width, (first + bins) * width)


def _error(counts: _Counts, first: int, last: int, levels: int) -> float:
    """Return three times the predicted error in bins of width 1, by an antiderivative.

    E(p, q) = sum_k c[k] (integral over bin k of (t - m(t))^2 dt) / sum_k c[k]  :eq:`ranges-error`
    """
    step = (last - first + 1) / levels
    edges = np.arange(counts.size + 1.0) - first
    level = np.clip(np.floor(edges / step), 0, levels - 1)
    offset = edges - (level + 0.5) * step
    cubes = np.diff(offset * offset * offset + level * (step * step * step / 4))
    return float(cubes @ counts) / int(counts.sum())


def _greedy(counts: _Counts, levels: int, steps: int, first: int, last: int) -> tuple[int, int]:
    """Drop bins at one of the ends while the predicted error falls; quantiles in whole numbers."""
    # l = min {k : C[k] >= (alpha + eps) C},
    # r = max {k : C[k] <= (beta - eps) C}  :eq:`ranges-greedy`
    mass, targets = np.cumsum(counts) * steps, int(counts.sum()) * np.arange(1, steps + 1)
    lefts = np.searchsorted(mass, targets).tolist()
    rights = (np.searchsorted(mass, targets[-1] - targets, "right") - 1).tolist()
    low, high, best = 0, 0, np.inf
    while low + high < steps:
        left, right = min(max(lefts[low], first), last), max(min(rights[high], last), first)
        upwards = left - first > last - right
        low, high = low + upwards, high + (not upwards)
        move = (left, last) if upwards else (first, right)
        error = best if move == (first, last) else _error(counts, move[0], move[1], levels)
        if error > best * (1 + TIE):
            break
        best, (first, last) = error, move
    return first, last


def _best(counts: _Counts, levels: int, first: int, last: int) -> tuple[int, int]:
    """Try all ranges: the least E(p, q) with p <= q  :eq:`ranges-pairs`."""
    if last - first >= _FEW:
        raise ValueError(f"histogram: all pairs need at most {_FEW} bins; got {last - first + 1}")
    pairs = [(p, q) for p in range(first, last + 1) for q in range(p, last + 1)]
    return min(pairs, key=lambda pair: _error(counts, pair[0], pair[1], levels))
