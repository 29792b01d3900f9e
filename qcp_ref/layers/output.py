r"""What if the layer's output matters more than its kernel? Least squares in the inputs' metric.

A kernel change ``D`` of shape (I, J, K) shows at the output only as far as the inputs let it. With
``S``, the second moment of the patches that the kernel meets :eq:`output-moment`, the mean squared
output error is ``tr(D_(0) S D_(0)^T)`` :eq:`output-error`. Inputs of trained networks are far from
white, so kernels that are equally near in the Frobenius norm differ much in what they compute.

In this metric the factor of the output channels is still a least-squares problem with rows of its
own :eq:`output-normal`. The rows of the other factors meet in ``S``; but a single one, all else
fixed, is again a small least-squares problem :eq:`output-row`, so they are visited one after
another. :func:`output_normal` states these problems, :func:`output_als` solves them for float
factors, :func:`polish_output` for integer codes, where the scales have closed forms
:eq:`output-scale`. With ``S`` the identity all this is what the chapters before it do.

Simplified: the inputs are those of the float network, so errors of earlier layers do not count; a
bias that follows the change is not considered.

Checked by tests/layers/test_output.py.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    check_array,
    check_callback,
    check_count,
    check_factors,
    check_int,
    check_mode,
    check_real,
    check_tensor,
)
from qcp_ref._results import frozen
from qcp_ref._wide import Wide, finite, fits, narrow, over, span, times, wide
from qcp_ref.factors.descent import (
    NULL_SHARE,
    best_scales,
    check_rows_grid,
    descent_pass,
    in_codes,
    in_levels,
    in_steps,
    step_of,
)
from qcp_ref.factors.quantized import QuantizedCP, check_quantized, quantized_of
from qcp_ref.layers.geometry import Padding, Pair, check_axes, window_axes, window_patches
from qcp_ref.tensors.als import als_update_core
from qcp_ref.tensors.cp import (
    CP,
    balance_core,
    check_cp,
    check_start,
    cp_of,
    reconstruct_core,
    relative_error_core,
    weighted_factors,
)
from qcp_ref.tensors.sweep import Callback
from qcp_ref.tensors.tensor import khatri_rao_core

__all__ = [
    "OutputFit",
    "output_als",
    "output_error",
    "output_normal",
    "polish_output",
    "second_moment",
]

_LARGEST = 2.0**150  # of an entry of S: products with two kernels stay in the range of float64
_ROUNDING = 1e-10  # of the trace of S: what asymmetry and negative eigenvalues may come to
_STILL = 1e-12  # a sweep that changes no code and gains less than this is the last one

Tensor = TypeVar("Tensor", CP, QuantizedCP)


@frozen
class OutputFit(NamedTuple, Generic[Tensor]):
    """Result of :func:`output_als` and :func:`polish_output`.

    ``cp`` is the tensor, ``error`` its relative Frobenius error, ``output_error`` that of the
    output, ``history`` the output error of the start and after every sweep. ``stop_reason`` is one
    of "converged", "max_sweeps", "callback" and "zero output" (that of ``X`` is zero).
    """

    cp: Tensor
    error: float
    output_error: float
    history: Array
    stop_reason: str


def second_moment(
    x: ArrayLike,
    kernel_size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> Array:
    """Average the products of all pairs of numbers that a kernel meets at one position.

    Parameters
    ----------
    x : array_like, shape (N, J, H, W)
        Inputs of the layer; signals (N, J, W) and volumes (N, J, D, H, W) likewise. Those of a
        linear layer are signals of length 1.
    kernel_size : int or one per spatial axis
        Height and width (kh, kw) of the kernel, ``K`` entries.
    stride, padding, dilation
        Those of the layer, as in :func:`qcp_ref.layers.conv.conv2d`.

    Returns
    -------
    ndarray of float64, shape (J K, J K)
        The matrix ``S``: symmetric, positive semidefinite up to rounding. Its rows are in the order
        of the columns of the kernel tensor's unfolding ``X_(0)``.

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not finite and real or too large or small to be squared, or shapes, kernel size
        or options do not fit.

    Notes
    -----
    Equation :eq:`output-moment` [source: GPTQ and its predecessors; derived]. Positions where the
    kernel meets the padding count like all others. Temporaries: a few times the patches of one
    block, and a copy of ``S``. Moments of batches of equal size average to that of all.

    **Laws**

    - *outputs*: for any kernel the mean over images and positions of the squared outputs, summed
      over the output channels, is ``tr(X_(0) S X_(0)^T)``, up to rounding
    - *loops*: it equals plain loops over images, positions and pairs, on integers but for the
      rounding of the division
    - *order*: up to rounding, the order of the images does not matter
    - *blocks*: up to rounding, the size of the blocks does not show

    Examples
    --------
    >>> from qcp_ref import second_moment
    >>> second_moment([[[1, 2, 4]]], 2)
    array([[ 2.5,  5. ],
           [ 5. , 10. ]])
    """
    x = check_axes(x, "x")
    _check_magnitude(x, "x", np.sqrt(_LARGEST))
    axes = window_axes(x.shape[2:], kernel_size, stride, padding, dilation)
    entries = x.shape[1] * prod(a.kernel for a in axes)
    S = np.zeros((entries, entries))
    for _, _, columns in window_patches(x, axes):
        patches = columns.transpose(1, 0, 2).reshape(entries, -1).astype(np.float64, copy=False)
        S += patches @ patches.T
    # S = sum over images n and positions u of v_nu v_nu^T / (N P')  :eq:`output-moment`
    S /= len(x) * prod(a.out for a in axes)
    # BLAS may round the two triangles differently; one triangle decides.
    return np.asarray(np.tril(S) + np.tril(S, -1).T)


def output_error(X: ArrayLike, cp: CP, S: ArrayLike) -> float:
    """Return the root mean square of the output's change, relative to the output's.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The kernel as a tensor, output channels first.
    cp : CP
        Its approximation.
    S : array_like, shape (I_1 ... I_{d-1}, I_1 ... I_{d-1})
        Second moment of the inputs.

    Returns
    -------
    float
        The relative error; if the output of ``X`` is zero up to rounding, 0 if that of ``cp`` is,
        else infinity.

    Raises
    ------
    TypeError, ValueError
        If an array is not finite and real, shapes do not fit, ``S`` is not symmetric and positive
        semidefinite, or float64 cannot hold the result.

    Notes
    -----
    Equation :eq:`output-error`, computed from the difference, without cancellation.

    **Laws**

    - *outputs*: it is what the two layers' outputs on those inputs give, up to rounding
    - *identity*: with the identity for ``S`` it is the relative Frobenius error, up to rounding
    - *scale*: a power of four times ``S`` leaves it unchanged, any other factor up to rounding
    - *range*: it is what exact sums give, up to rounding, for approximations of any magnitude

    Examples
    --------
    >>> from qcp_ref import CP, output_error
    >>> output_error([[3, 4]], CP([[[1]], [[3], [0]]]), [[1, 0], [0, 0]])
    0.0
    """
    X = check_tensor(X)
    _check_approximation(X, cp)
    return _output_error(X, _even(cp), check_moment(S, X.shape))


def output_normal(
    X: ArrayLike,
    factors: Sequence[ArrayLike],
    S: ArrayLike,
    mode: int = 0,
    *,
    row: int | None = None,
) -> tuple[Array, Array]:
    """State the least-squares problem of a factor, or of one of its rows, at the output.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The kernel as a tensor, output channels first.
    factors : sequence of array_like, shapes (I_n, R)
        One matrix per mode; what is solved for enters only by its shape.
    S : array_like, shape (I_1 ... I_{d-1}, I_1 ... I_{d-1})
        Second moment of the inputs.
    mode : int
        The mode ``n`` to solve for.
    row : int, optional
        Which row of its factor. The first mode has one problem for all rows, and needs none.

    Returns
    -------
    F : ndarray, shape (I_0, R) or (1, R)
        The linear term.
    G : ndarray, shape (R, R)
        The quadratic term; symmetric. What is zero up to rounding is zero.

    Raises
    ------
    TypeError, ValueError
        As in :func:`output_error`, for factors that do not fit, and for a row that is missing, out
        of range, or given with the first mode.

    Notes
    -----
    Equations :eq:`output-normal` and :eq:`output-row` [derived]. Entries below 2**-900 of the
    largest one of their column may count as 0. Both terms go into
    :func:`qcp_ref.tensors.als.als_update` for the best float factor or row, and into
    :func:`qcp_ref.factors.rows.solve_rows` for codes with a lower bound, as ``F`` and ``G`` of the
    plain problem do. A kernel matrix that is not factorized is the case of ``R`` columns of an
    identity, and 'babai' on that is GPTQ, :eq:`output-gptq`.

    **Laws**

    - *form*: up to a constant ``a G a - 2 F a`` is the squared output error, whatever the rows
      ``a`` are
    - *loops*: it equals plain loops over the definition, exactly on integers
    - *identity*: with the identity for ``S`` it is MTTKRP and Gram matrix
    - *scale*: a power of two in a column of another mode appears in ``F`` once and in ``G`` once
      per row and column, whatever it is

    Examples
    --------
    >>> from qcp_ref import als_update, output_normal
    >>> F, G = output_normal([[1, 2]], [[[0]], [[1], [1]]], [[1, 0], [0, 3]])
    >>> F, G, als_update(F, G).factor
    (array([[7.]]), array([[4.]]), array([[1.75]]))
    """
    X = check_tensor(X)
    matrices = check_factors(factors, shape=X.shape)
    mode = check_mode(mode, X.ndim)
    if (row is None) != (mode == 0):
        raise ValueError(
            f"row: expected a row for mode {mode}, where rows depend on each other, got None"
            if mode
            else f"row: expected None for mode 0, whose rows have one problem in common, got {row}"
        )
    S = check_moment(S, X.shape)
    if row is not None:
        row = check_int(row, "row", minimum=0, maximum=X.shape[mode] - 1)
    matrices, shift = _moved(matrices, mode)
    _, F, G = next(_problems(X, matrices, S, mode, first=row or 0))
    with np.errstate(over="ignore"):
        F, G = np.ldexp(F, shift), np.ldexp(G, shift + shift[:, None])
    return finite(F, "X, factors, S"), finite(G, "X, factors, S")


def output_als(
    X: ArrayLike,
    cp: CP,
    S: ArrayLike,
    *,
    max_sweeps: int = 200,
    tol: float = 1e-8,
    callback: Callback | None = None,
) -> OutputFit[CP]:
    """Fit a CP tensor to a kernel's output by alternating least squares.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The kernel as a tensor, output channels first.
    cp : CP
        The start, usually from :func:`qcp_ref.tensors.als.cp_als`.
    S : array_like, shape (I_1 ... I_{d-1}, I_1 ... I_{d-1})
        Second moment of the inputs.
    max_sweeps : int
        Upper limit of sweeps over all modes.
    tol : float
        Stop when the output error fell by no more than this in a sweep.
    callback
        As in :func:`qcp_ref.tensors.als.cp_als`, with the output error in place of the error.

    Returns
    -------
    OutputFit
        The fit with balanced factors, both its errors, the history, the reason for stopping.

    Raises
    ------
    TypeError, ValueError
        As in :func:`output_error`, and for unusable options.

    Notes
    -----
    Equations :eq:`output-normal` and :eq:`output-row` [beyond the paper]. Where ``S`` is singular,
    as with dead inputs or fewer positions than its order, rows are not unique; they are moved as
    little as it takes, so that those of dead inputs are kept.

    **Laws**

    - *falls*: the squared output error never rises by more than its own rounding
    - *sweep*: where rows are unique, the first sweep equals plain loops on rational numbers
    - *identity*: with the identity for ``S``, where rows are unique, the sweeps are those of
      :func:`qcp_ref.tensors.als.cp_als`
    - *fitted*: a tensor of exactly that rank stays fitted when started at its factors

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import cp_als, output_als, random_cp, reconstruct
    >>> X = reconstruct(random_cp((6, 5, 4), 4, rng=1))
    >>> fit = output_als(X, cp_als(X, 2, rng=2).cp, np.diag(np.arange(20.0) ** 2))
    >>> bool(fit.output_error < fit.history[0])
    True
    """
    X = check_tensor(X)
    _check_approximation(X, cp)
    S = check_moment(S, X.shape)
    tol = check_real(tol, "tol", minimum=0.0)
    check_start(cp, X)
    callback, max_sweeps = check_callback(callback), check_count(max_sweeps, "max_sweeps")
    factors = _even(cp)

    def sweep() -> int:
        for mode, A in enumerate(factors):
            for rows, F, G in _problems(X, factors, S, mode):
                # A <- A + (F - A G) G^+  :eq:`als-normal`: rows are moved as little as it takes
                A[rows] += als_update_core(F - A[rows] @ G, G)[0]
        return 0

    history, reason = _iterate(
        X, factors, S, sweep, max_sweeps=max_sweeps, tol=tol, callback=callback
    )
    fitted = cp_of(balance_core(factors))
    errors = relative_error_core(X, fitted), _output_error(X, fitted.factors, S)
    return OutputFit(fitted, *errors, np.array(history), reason)


def polish_output(
    X: ArrayLike,
    cp: QuantizedCP,
    S: ArrayLike,
    *,
    max_sweeps: int = 200,
    callback: Callback | None = None,
) -> OutputFit[QuantizedCP]:
    """Improve the codes and scales of a quantized CP tensor for a kernel's output.

    Parameters
    ----------
    X : array_like, shape (I_0, ..., I_{d-1})
        The kernel as a tensor, output channels first.
    cp : QuantizedCP
        The start, on any grid with equal steps.
    S, max_sweeps, callback
        As in :func:`output_als`.

    Returns
    -------
    OutputFit
        The quantized tensor, both its errors, the history, and the reason for stopping: with
        "converged" no single code can be changed for the better.

    Raises
    ------
    TypeError, ValueError
        As in :func:`output_error`, for unusable options and for a logarithmic grid.

    Notes
    -----
    :eq:`rows-descent` on :eq:`output-normal` and :eq:`output-row`, then :eq:`output-scale`, mode
    after mode [beyond the paper]. Codes that do not matter, as those of dead inputs, are kept.

    **Laws**

    - *falls*: the squared output error never rises by more than its own rounding
    - *grid*: the result lies on the grid of the start, with scales of the same shape
    - *one-opt*: where it says "converged" no single code can be changed for the better, but for
      what rounding hides
    - *sweep*: the first sweep equals plain loops on rational numbers that try every code
    - *identity*: with the identity for ``S`` it sweeps as :func:`qcp_ref.factors.search.polish`
      does without noise, up to ties that rounding decides

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import Grid, polish_output, quantize_cp, random_cp, reconstruct
    >>> cp = random_cp((6, 5, 4), 2, rng=1)
    >>> S = np.diag(np.arange(20.0) ** 2)
    >>> fit = polish_output(reconstruct(cp), quantize_cp(cp, Grid(4)), S)
    >>> bool(fit.output_error < fit.history[0]), fit.stop_reason
    (True, 'converged')
    """
    X = check_tensor(X)
    check_rows_grid(check_quantized(cp, X.shape).grid)
    S = check_moment(S, X.shape)
    check_start(cp.dequantize(), X, as_it_is=True)
    callback, max_sweeps = check_callback(callback), check_count(max_sweeps, "max_sweeps")
    state = _Codes(X, cp, S)
    history, reason = _iterate(
        X, state.factors, state.S, state.sweep, max_sweeps=max_sweeps, tol=_STILL, callback=callback
    )
    codes = [in_codes(V, cp.grid) for V in state.levels]
    best = quantized_of(codes, state.scales, cp.grid)
    fitted = best.dequantize()
    errors = relative_error_core(X, fitted), _output_error(X, fitted.factors, state.S)
    return OutputFit(best, *errors, np.array(history), reason)


class _Codes:
    """The state of :func:`polish_output`: levels in steps, scales, and the factors they make."""

    def __init__(self, X: Array, cp: QuantizedCP, S: Array) -> None:
        self.X, self.S, self.grid = X, S, cp.grid
        self.levels = [np.ascontiguousarray(in_levels(k, cp.grid)) for k in cp.codes]
        self.scales = [s.copy() for s in cp.scales]
        self.factors = [A.copy() for A in cp.dequantize().factors]

    def sweep(self) -> int:
        """Visit every mode once; return how many codes have changed."""
        return sum(self.visit(mode) for mode in range(self.X.ndim))

    def visit(self, mode: int) -> int:
        """Change codes row by row, then the scales."""
        V, A, scale, changes = self.levels[mode], self.factors[mode], self.scales[mode], 0
        by_row, unit = scale.shape == (len(V), 1), step_of(self.grid)
        for rows, F, G in _problems(self.X, self.factors, self.S, mode):
            v, own = V[rows], scale[rows] if by_row else scale
            steps = in_steps(F, G, self.grid, own)
            changes += descent_pass(v, steps, np.zeros_like(v))
            if by_row:  # with all else fixed, as the codes of this row have been
                own = scale[rows] = best_scales(F, G, v * unit, own)
            A[rows] = v * unit * own
        # t = <F, A_0> / <A_0 G, A_0>  :eq:`output-scale`
        if not by_row:  # to scale a factor, or a column of it, is to scale the first one
            if mode:
                _, F, G = next(_problems(self.X, self.factors, self.S, 0))
            ratio = best_scales(F, G, self.factors[0], np.ones_like(scale))
            self.scales[mode] = scale * ratio
            A *= ratio
        return changes


def _iterate(
    X: Array,
    factors: list[Array],
    S: Array,
    sweep: Callable[[], int],
    *,
    max_sweeps: int,
    tol: float,
    callback: Callback | None,
) -> tuple[list[float], str]:
    """Sweep until nothing changes; return the output errors, that of the start first, and why."""
    errors = [_output_error(X, factors, S)]
    if not _output_size(X, S).mantissa:
        return errors, "zero output"
    for number in range(max_sweeps):
        changes = sweep()
        errors.append(_output_error(X, factors, S))
        if callback is not None and callback(number, errors[-1]):
            return errors, "callback"
        if changes == 0 and errors[-2] - errors[-1] <= tol:
            return errors, "converged"
    return errors, "max_sweeps"


def _problems(
    X: Array, factors: Sequence[Array], S: Array, mode: int, first: int = 0
) -> Iterator[tuple[slice, Array, Array]]:
    """Yield the problems of a mode: rows, ``F`` and ``G``. The core of :func:`output_normal`.

    The caller replaces these rows of the factor, in place, before it asks for the next problem.
    """
    A = factors[0]
    C = khatri_rao_core([B for n, B in enumerate(factors) if n not in (0, mode)], A.shape[1])
    if mode == 0:
        # F = X_(0) S K, G = K^T S K  :eq:`output-normal`
        yield slice(None), X.reshape(len(X), -1) @ (S @ C), _gram(C, S)
        return
    # The rows' mode beside the first one, and all others in one: D[i, j, k] and S[j, k, j', k'].
    side, rest, d = X.shape[mode], len(C), X.ndim - 1
    D = np.moveaxis(X - reconstruct_core(factors), mode, 1).reshape(len(X), side, rest).copy()
    blocks = S.reshape(*X.shape[1:], *X.shape[1:])
    blocks = np.moveaxis(blocks, (mode - 1, d + mode - 1), (0, d)).reshape(side, rest, side, rest)
    # F_j = g_j + b_j G_j, g_j = diag(A^T (D S)_j C), G_j = (A^T A) * (C^T S_jj C)
    # :eq:`output-row`
    for j in range(first, side):
        row = factors[mode][j].copy()
        G = _gram(C, blocks[j, :, j], A)
        moved = D.reshape(len(X), -1) @ blocks[:, :, j].reshape(-1, rest)
        yield slice(j, j + 1), (((A.T @ moved) * C.T).sum(axis=1) + row @ G)[None], G
        D[:, j] -= (A * (factors[mode][j] - row)) @ C.T


def _gram(C: Array, S: Array, A: Array | None = None) -> Array:
    """Return ``(A^T A) * (C^T S C)``, or without the first part; noise on its diagonal is zero."""
    G, most = C.T @ S @ C, (C**2).sum(axis=0) * np.trace(S)
    dead = np.diag(G) <= NULL_SHARE * most
    if A is not None:
        G = G * (A.T @ A)
    G[dead], G[:, dead] = 0, 0
    return np.asarray((G + G.T) / 2)


def _output_error(X: Array, factors: Sequence[Array], S: Array) -> float:
    size, change = _output_size(X, S), _output_size(X - reconstruct_core(factors), S)
    if not size.mantissa:
        return 0.0 if not change.mantissa else float("inf")
    return float(narrow(over(change, size), "X, cp, S"))


def _output_size(D: Array, S: Array) -> Wide:
    """Return the root mean square of an output, whose square float64 may not hold."""
    # tr(D_(0) S D_(0)^T)^(1/2)  :eq:`output-error`
    unit = wide(np.abs(D).max())._replace(mantissa=np.array(0.5))  # a power of two
    if unit.exponent < -(2**20):  # no difference at all
        return wide(0.0)
    M = narrow(over(wide(D), unit), "X, cp").reshape(len(D), -1)
    square = float(((M @ S) * M).sum())
    # Inputs may cancel; what is then left of what Cauchy-Schwarz allows is the rounding of zero.
    most = float(((np.abs(M) @ np.sqrt(np.maximum(np.diag(S), 0.0))) ** 2).sum())
    return times(wide(np.sqrt(square) if square > NULL_SHARE * most else 0.0), unit)


def _even(cp: CP) -> list[Array]:
    """Return factors that can be changed, weights included, balanced if float64 needs it."""
    spans = [span(A) for A in (*cp.factors, cp.weights)]
    return weighted_factors(cp) if fits(*spans * 2) else balance_core(cp.factors, cp.weights)


def _moved(factors: Sequence[Array], mode: int) -> tuple[list[Array], NDArray[np.int64]]:
    """Move columns to a magnitude of 1 by powers of two, but for one mode, which takes them all.

    So the components stay what they are, and no product of columns leaves the range of float64.
    """
    peaks = [np.frexp(np.abs(A).max(axis=0))[1].astype(np.int64) for A in factors]
    shift = np.sum([peak for n, peak in enumerate(peaks) if n != mode], axis=0)
    with np.errstate(over="ignore"):
        moved = [np.ldexp(A, -peak) for A, peak in zip(factors, peaks, strict=True)]
        moved[mode] = np.ldexp(factors[mode], np.clip(shift, -4000, 4000))
    finite(moved[mode], "factors")
    return moved, shift


def _check_approximation(X: Array, cp: Any) -> None:
    check_cp(cp, "cp")
    if cp.shape != X.shape:
        raise ValueError(f"cp: expected shape {X.shape} to fit X, got {cp.shape}")


def check_moment(S: ArrayLike, shape: tuple[int, ...], name: str = "S") -> Array:
    """Return a second moment that fits a tensor, or say what is wrong with it."""
    matrix, entries = check_array(S, name, ndim=2), prod(shape[1:])
    if matrix.shape != (entries, entries):
        need = f"{(entries, entries)} (the entries of the kernel for one output channel)"
        raise ValueError(f"{name}: expected shape {need}, got {matrix.shape}")
    _check_magnitude(matrix, name, _LARGEST)
    noise = _ROUNDING * float(np.abs(np.diag(matrix)).sum())
    wrong = "" if np.abs(matrix - matrix.T).max() <= noise else "one that is not symmetric"
    if not wrong and np.diag(matrix).min() < 0:
        wrong = "a negative diagonal entry"
    if not wrong and matrix.any():
        try:
            np.linalg.cholesky(matrix + noise * np.eye(entries))
        except np.linalg.LinAlgError:
            wrong = "a negative eigenvalue"
    if wrong:
        raise ValueError(
            f"{name}: expected a second moment, symmetric and positive semidefinite, got {wrong}; "
            "use second_moment, or sum it in float64"
        )
    return np.ascontiguousarray(matrix)  # the same bits, whatever the strides


def _check_magnitude(x: NDArray[Any], name: str, most: float) -> None:
    largest = max(float(x.max()), -float(x.min()))
    if largest and not 1 / most <= largest <= most:
        raise ValueError(
            f"{name}: expected a largest magnitude of 0 or from {1 / most:.0e} to {most:.0e}, "
            f"got {largest:.0e}; rescale the data"
        )
