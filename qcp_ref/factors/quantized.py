r"""What is a quantized CP tensor? Integer codes, scales, a grid; and what rounding costs.

:class:`QuantizedCP` is the result of every method. The simplest of them is rounding,
:func:`quantize_cp`; :func:`orient` chooses signs for that, and :func:`predict_error` says before
any rounding what it will cost.

Simplified: one grid for all factors; activations are not quantized here.

Checked by tests/factors/test_quantized.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    check_array,
    check_class,
    check_integers,
    check_sequence,
    check_tensor,
)
from qcp_ref._door import shown
from qcp_ref._results import frozen, sealed
from qcp_ref._wide import finite
from qcp_ref.grids.grid import (
    Grid,
    check_grid,
    check_product,
    dequantize_core,
    off_grid,
    plain_zero,
    quantize_core,
)
from qcp_ref.grids.scale import AFFINE, check_data, choose_core
from qcp_ref.tensors.cp import CP, balance_core, check_cp, cp_of, relative_error_core

__all__ = [
    "Prediction",
    "QuantizedCP",
    "QuantizedFit",
    "QuantizedHistory",
    "orient",
    "predict_error",
    "quantize_cp",
]


@frozen
@dataclass(frozen=True, eq=False)
class QuantizedCP:
    """A CP tensor whose factors are integer codes times scales.

    Parameters
    ----------
    codes : sequence of integer arrays, shapes (I_n, R)
        The codes, within the range of the grid.
    scales : sequence of array_like
        One positive scale per factor, or one per row or column, broadcastable to the codes.
    grid : Grid
        The grid of all factors.

    Attributes
    ----------
    codes : tuple of integer ndarray
        The codes in the grid's smallest integer type: copies, which cannot be written.
    scales : tuple of ndarray of float64
        The scales, likewise.
    grid : Grid
        The grid.

    Raises
    ------
    TypeError, ValueError
        For codes that are not integers or leave the grid, or scales that are not positive or do not
        fit.

    Notes
    -----
    Equation :eq:`qcp-problem`. Nothing else is stored: a result lies on its grid by construction.

    A component of which some factor's column is zero is *dead*: it adds nothing to the tensor.

    **Laws**

    - *codes*: quantizing the dequantized factors with the same scales gives the same codes, as long
      as float64 holds the factors with all their digits
    - *pruned*: without its dead components the tensor is the same, up to rounding

    Examples
    --------
    >>> from qcp_ref import Grid, QuantizedCP
    >>> q = QuantizedCP([[[1], [-8]], [[7]]], [0.5, 2.0], Grid(4))
    >>> q.dequantize().factors[0]
    array([[ 0.5],
           [-4. ]])
    """

    codes: tuple[NDArray[Any], ...]
    scales: tuple[Array, ...]
    grid: Grid

    def __init__(self, codes: Iterable[ArrayLike], scales: Iterable[ArrayLike], grid: Grid) -> None:
        grid = check_grid(grid)
        integers = []
        for n, given in enumerate(check_sequence(codes, "codes", "matrices", most=64)):
            k = check_integers(given, f"codes[{n}]")
            if k.ndim != 2 or k.size == 0 or off_grid(k, grid):
                raise ValueError(
                    f"codes[{n}]: expected a matrix of codes from {grid.qmin} to {grid.qmax}, "
                    f"got shape {k.shape}"
                    + (f" with codes from {k.min()} to {k.max()}" if k.size else "")
                )
            integers.append(k)
        each = check_sequence(scales, "scales", "scales (one per factor)", most=64)
        steps = [check_array(s, f"scales[{n}]") for n, s in enumerate(each)]
        if (
            len(steps) != len(integers)
            or len({k.shape[1] for k in integers}) != 1
            or len(steps) < 2
        ):
            raise ValueError(
                "codes, scales: expected two factors or more, one scale per factor and one rank, "
                f"got {len(integers)} "
                f"factors of ranks {[k.shape[1] for k in integers]} and {len(steps)} scales"
            )
        for n, (k, s) in enumerate(zip(integers, steps, strict=True)):
            if s.shape not in ((), (k.shape[0], 1), (1, k.shape[1])) or (s <= 0).any():
                raise ValueError(
                    f"scales[{n}]: expected positive numbers of shape (), {(k.shape[0], 1)} or "
                    f"{(1, k.shape[1])}, got shape {s.shape}"
                )
        _keep(self, integers, steps, grid)

    @property
    def rank(self) -> int:
        """Number of components ``R``."""
        return int(self.codes[0].shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(k.shape[0] for k in self.codes)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Which components are zero, shape (R,)."""
        zero = [~A.any(axis=0) for A in self.dequantize().factors]
        return np.asarray(np.any(zero, axis=0))

    def pruned(self) -> "QuantizedCP":
        """Return the tensor without its dead components; if all are, the first one stays."""
        alive = ~self.dead
        alive[0] |= not alive.any()
        scales = [s[:, alive] if s.shape == (1, self.rank) else s for s in self.scales]
        return quantized_of([k[:, alive] for k in self.codes], scales, self.grid)

    def dequantize(self) -> CP:
        """Return the CP tensor with float64 factors that the codes stand for."""
        pairs = zip(self.codes, self.scales, strict=True)
        return cp_of([values_of(k, s, self.grid) for k, s in pairs])


def _keep(cp: QuantizedCP, codes: Sequence[Any], scales: Sequence[Array], grid: Grid) -> None:
    """Keep copies, the codes in the smallest type that holds them."""
    object.__setattr__(cp, "codes", tuple(sealed(k.astype(grid.dtype)) for k in codes))
    object.__setattr__(cp, "scales", tuple(sealed(np.array(s, np.float64)) for s in scales))
    object.__setattr__(cp, "grid", grid)


def quantized_of(codes: Sequence[NDArray[Any]], scales: Sequence[Array], grid: Grid) -> QuantizedCP:
    """Return what ``QuantizedCP(codes, scales, grid)`` returns, without checks.

    Of codes and scales that were just computed: codes on the grid, scales in float64 that fit them.
    """
    cp: QuantizedCP = object.__new__(QuantizedCP)
    _keep(cp, codes, scales, grid)
    return cp


def codes_of(A: Array, grid: Grid, scale: Array) -> NDArray[Any]:
    """Return the codes of a factor at its scale, as ``quantize``, without checks."""
    return quantize_core(A, grid, scale, plain_zero(grid))  # there is no zero point


def values_of(codes: NDArray[Any], scale: Array, grid: Grid) -> Array:
    """Return the factor that codes on the grid stand for, as ``dequantize``, without checks."""
    return check_product(dequantize_core(codes, scale, plain_zero(grid), grid))


def check_quantized(cp: Any, shape: tuple[int, ...]) -> QuantizedCP:
    """Return a quantized CP tensor that fits a tensor of this shape, or say what is wrong."""
    if not isinstance(cp, QuantizedCP):
        raise TypeError(f"cp: expected a QuantizedCP, got {type(cp).__name__}; use quantize_cp")
    if cp.shape != shape:
        raise ValueError(f"cp: expected shape {shape} to fit X, got {cp.shape}")
    return cp


@frozen
class QuantizedHistory(NamedTuple):
    """What happened, sweep by sweep.

    ``error`` is the relative error of the feasible factors, ``gap`` the squared relative distance
    between ``H`` and ``T`` per mode when its ADMM run ended, ``steps`` the number of ADMM steps per
    mode.
    """

    error: Array
    gap: Array
    steps: NDArray[np.int64]


@frozen
class QuantizedFit(NamedTuple):
    """Result of :func:`qcp_ref.factors.ao_admm.ao_admm`, and of all methods by name.

    ``cp`` is the best iterate, ``error`` its relative error, ``relaxed`` the float factors that it
    was rounded from (the last ``T`` of ADMM, gathered around the levels), ``start_error`` the
    relative error of the float start. ``stop_reason`` is one of "converged", "rising", "cycle",
    "max_sweeps", "callback", "zero tensor", and "rounded" for a method without iteration.
    """

    cp: QuantizedCP
    error: float
    relaxed: CP
    start_error: float
    history: QuantizedHistory
    stop_reason: str


@frozen
class Prediction(NamedTuple):
    """Result of :func:`predict_error`.

    ``expected`` is the root of the mean squared relative error if rounding errors were random,
    ``bound`` a relative error that rounding cannot exceed.
    """

    expected: float
    bound: float


def quantize_cp(
    cp: CP, grid: Grid, *, axis: int | None = None, rule: str = "mse-exact"
) -> QuantizedCP:
    """Round the balanced factors of a CP tensor to a grid, each with its own scale.

    Parameters
    ----------
    cp : CP
        The tensor.
    grid : Grid
        The grid.
    axis : {None, 0, 1}
        One scale per factor, per row or per column.
    rule : str
        How scales are chosen, see :func:`qcp_ref.grids.scale.choose_scale`.

    Returns
    -------
    QuantizedCP
        The rounded tensor.

    Raises
    ------
    TypeError, ValueError
        If ``cp`` is not a CP tensor, or for an unknown axis or rule.

    Notes
    -----
    The projection :eq:`grid-project` of every factor, after :eq:`cp-freedom` has made the columns
    of each component equally long.

    **Laws**

    - *projection*: every factor is the projection of the balanced one
    - *on-grid*: a balanced tensor on the grid of the scales that the rule finds for it is returned
      with its values, up to roundings; 'mse-exact' finds such scales if there are any, and returns
      the codes, if those of each scale have no common divisor

    Examples
    --------
    >>> from qcp_ref import CP, Grid, quantize_cp
    >>> quantize_cp(CP([[[1.0], [3.0]], [[1.0], [-3.0]]]), Grid(3)).codes[1].tolist()
    [[1], [-3]]
    """
    refuse_zero_points(rule)
    check_cp(cp, "cp")
    check_data(np.ones((1, 1)), grid, rule=rule, axis=axis)
    codes, scales = [], []
    # s* and the codes of the nearest levels at it, factor by factor  :eq:`grid-project`
    for A in balance_core(cp.factors, cp.weights):
        scale, _ = choose_core(A, grid, rule=rule, axis=axis)
        codes.append(codes_of(A, grid, scale))
        scales.append(scale)
    return quantized_of(codes, scales, grid)


def predict_error(
    X: ArrayLike, cp: CP, grid: Grid, *, axis: int | None = None, rule: str = "mse-exact"
) -> Prediction:
    """Predict the relative error of a CP tensor after its balanced factors are rounded.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The tensor that ``cp`` approximates.
    cp : CP
        The float tensor.
    grid : Grid
        The grid; a uniform one.
    axis, rule
        As in :func:`quantize_cp`.

    Returns
    -------
    Prediction
        What is to be expected, and what is guaranteed.

    Raises
    ------
    TypeError, ValueError
        If arguments are not of their kind, the grid is not uniform, or ``cp`` is so far from ``X``
        that float64 cannot hold the squared figures.

    Notes
    -----
    Equations :eq:`qcp-expected` and :eq:`qcp-guarantee` [derived]. What lies beyond the ends
    of the grid counts with its true error in both.

    **Laws**

    - *bound*: the error of ``quantize_cp`` is not above the bound, up to rounding
    - *expected*: for normal factors of a hundred entries and more, of order 2 and 3, it is what is
      expected, within 20 %
    - *lengths*: how the length of a component is spread over its columns does not matter, up to
      rounding
    - *balanced*: of such factors at 5 bits and more, rounding columns of other lengths leaves no
      smaller error, within the same 20 %
    - *scale*: with a power of two in all factors and in ``X`` alike it stays the same

    Examples
    --------
    >>> from qcp_ref import Grid, predict_error, quantize_cp, random_cp, reconstruct, relative_error
    >>> cp = random_cp((32, 32, 9), 32, rng=1)
    >>> X = reconstruct(cp)
    >>> prediction = predict_error(X, cp, Grid(6))
    >>> error = relative_error(X, quantize_cp(cp, Grid(6)).dequantize())
    >>> error < prediction.bound, round(error / prediction.expected, 1)
    (True, 1.0)
    """
    X = check_tensor(X)
    if check_grid(grid).kind not in ("uniform", "ternary"):
        raise ValueError(f"grid: expected levels in equal steps around zero, got {grid}")
    refuse_zero_points(rule)
    error, size = relative_error_core(X, cp), float(np.linalg.norm(X))
    check_data(np.ones((1, 1)), grid, rule=rule, axis=axis)
    # Measured in a power of two per factor, so that products of squares stay near those of X.
    unit = 2.0 ** -round(np.log2(size or 1.0) / X.ndim)
    factors, squares, noisy, longer = balance_core(cp.factors, cp.weights), [], [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for factor in factors:
            scale = choose_core(factor, grid, rule=rule, axis=axis)[0] * unit
            A = factor * unit
            beyond = np.maximum(A - scale * grid.levels[-1], scale * grid.levels[0] - A)
            variance = np.where(beyond > 0, beyond**2, scale**2 / 12)
            most = np.maximum(beyond, scale / 2)
            squares.append((A**2).sum(axis=0))
            noisy.append(squares[-1] + variance.sum(axis=0))
            longer.append(np.sqrt(squares[-1]) + np.sqrt((most**2).sum(axis=0)))
        # sum_r (prod_n (||a_nr||^2 + I_n sigma_n^2) - prod_n ||a_nr||^2)  :eq:`qcp-expected`
        noise = (np.prod(noisy, axis=0) - np.prod(squares, axis=0)).sum()
        # sum_r (prod_n (||a_nr|| + ||delta_nr||) - prod_n ||a_nr||)  :eq:`qcp-guarantee`
        shift = (np.prod(longer, axis=0) - np.sqrt(np.prod(squares, axis=0))).sum()
        if size == 0:  # as :func:`relative_error` says
            stays = 0 in grid.levels and not any(factor.any() for factor in factors)
            return Prediction(*[0.0 if stays else np.inf] * 2)
        size *= unit**X.ndim
        figures = np.array([np.sqrt(np.square(error) + noise / size**2), error + shift / size])
    return Prediction(*finite(figures, "X, cp").tolist())


def orient(cp: CP, grid: Grid) -> CP:
    """Choose the signs of the columns so that the longer side of the grid is used.

    Parameters
    ----------
    cp : CP
        The tensor.
    grid : Grid
        The grid of its factors.

    Returns
    -------
    CP
        The same tensor, with columns negated in pairs of modes.

    Raises
    ------
    TypeError
        If the arguments are no CP tensor and no grid.

    Notes
    -----
    Equation :eq:`qcp-signs` [beyond the paper]. A full signed grid has one code more below zero
    than above, so the entry of largest magnitude of a column is better negative. An even number of
    columns of a component can be negated; where an odd number wants to be, the one with the least
    difference between its two ends is left as it is.

    **Laws**

    - *same*: the tensor is the same, bit for bit
    - *one-short*: where the grid has a longer side, at most one column of each component has its
      largest magnitude on the short one

    Examples
    --------
    >>> from qcp_ref import CP, Grid, orient
    >>> [A.ravel().tolist() for A in orient(CP([[[3.0], [1.0]], [[2.0], [1.0]]]), Grid(4)).factors]
    [[-3.0, -1.0], [-2.0, -1.0]]
    """
    check_grid(grid)
    check_class(cp, "cp", CP)
    # max_i (-A_n)_ir >= max_i (A_n)_ir, but for one mode of each component  :eq:`qcp-signs`
    longer = -1.0 if -grid.levels[0] >= grid.levels[-1] else 1.0
    # By how much the magnitude on the short side exceeds that on the long one, relatively.
    excess = np.array([_excess(longer * A) for A in cp.factors])
    flip = excess > 0
    odd = flip.sum(axis=0) % 2 == 1
    cheapest = np.abs(excess).argmin(axis=0)[odd]
    flip[cheapest, np.flatnonzero(odd)] ^= True
    if -grid.levels[0] == grid.levels[-1]:
        flip[:] = False
    signs = np.where(flip, -1.0, 1.0)
    return cp_of([A * sign for A, sign in zip(cp.factors, signs, strict=True)], cp.weights)


def _excess(A: Array) -> Array:
    long, short = np.maximum(A.max(axis=0), 0), np.maximum(-A.min(axis=0), 0)
    size = np.maximum(long, short)
    return np.asarray((short - long) / np.where(size > 0, size, 1.0))


def refuse_zero_points(rule: Any) -> None:
    """Refuse a scale rule that also chooses a zero point."""
    if isinstance(rule, str) and rule in AFFINE:
        raise ValueError(f"rule: factors have no zero points, got {shown(rule)}; use 'mse-exact'")


def history_of(rows: list[tuple[float, list[float], list[int]]]) -> QuantizedHistory:
    """Collect error, gap and changed codes of each step, one row a step."""
    error, gap, steps = zip(*rows, strict=True) if rows else ((), (), ())
    return QuantizedHistory(np.array(error), np.array(gap), np.array(steps, dtype=np.int64))
