r"""How is one layer compressed? Kernel in, three quantized stages out.

The chapters before this one put together: a rate becomes a rank, the kernel a tensor, the tensor a
quantized CP tensor, and that a layer which runs :eq:`conv-cp`. What comes back carries its
settings, its error and the reason why the solver stopped, so that a stored layer explains itself.
With the second moment of its inputs (calibration data) the codes are then improved for the layer's
output.

Simplified: weights only, activations stay in floating point; grouped kernels are refused.

Checked by tests/layers/test_layer.py.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcp_ref._checks import (
    Array,
    Rng,
    check_array,
    check_geometry,
    check_option,
    check_tensor,
    is_float32,
)
from qcp_ref._results import frozen
from qcp_ref._threads import one_blas_thread
from qcp_ref._wide import finite, fits, span
from qcp_ref.factors.descent import check_rows_grid
from qcp_ref.factors.methods import METHODS, factorize
from qcp_ref.factors.quantized import QuantizedCP, QuantizedFit
from qcp_ref.grids.grid import Grid
from qcp_ref.layers.conv import cp_linear, kernel_to_tensor, tensor_to_kernel, three_stages
from qcp_ref.layers.cost import rank_for_rate
from qcp_ref.layers.geometry import Padding, Pair, check_axes, check_bias, window_axes
from qcp_ref.layers.output import check_moment, polish_output
from qcp_ref.tensors.cp import CP, reconstruct
from qcp_ref.tensors.sweep import StageCallback, stage_callback

__all__ = ["CPConv", "CPLinear", "compress_conv", "compress_linear"]


class Solver(NamedTuple):
    """How a tensor is factorized: the options of :func:`qcp_ref.factors.methods.factorize`."""

    method: str
    rng: Rng
    axis: int | None
    rule: str
    slack: float | None
    sweeps: int | None
    restarts: int | None
    callback: StageCallback | None = None


@frozen
@dataclass(frozen=True, eq=False)
class CPLinear:
    """A linear layer as two quantized stages; made by :func:`compress_linear`.

    Parameters
    ----------
    cp : QuantizedCP
        Factors ``a_out`` (outputs, R) and ``a_in`` (inputs, R).
    error : float
        Relative Frobenius error of the dequantized reconstruction.
    fit : QuantizedFit
        What the method found: history, float error, reason for stopping.
    method : str
        Name of the method.
    bias : ndarray or None
        Added to the output. Cannot be written.
    output_error : float or None
        Relative error of the output, for a layer that was improved for it.

    Notes
    -----
    Equation :eq:`conv-cp` for a single position.

    **Laws**

    - *dense*: of float64 data ``forward`` equals the product with ``matrix()`` within the rounding
      bound of both
    - *dtype*: ``forward`` answers in float32 if and only if ``x`` holds float32 data, whatever made
      it

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import compress_linear
    >>> layer = compress_linear(np.eye(4), rank=4, bits=8)
    >>> layer.forward(np.ones((2, 4))).shape
    (2, 4)
    """

    cp: QuantizedCP
    error: float
    fit: QuantizedFit = field(repr=False)
    method: str
    bias: NDArray[Any] | None = field(default=None, repr=False)
    output_error: float | None = None

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.cp.rank

    def matrix(self) -> Array:
        """Return the dense matrix that the stages stand for, in float64."""
        return reconstruct(self.cp.dequantize())

    def forward(self, x: ArrayLike) -> NDArray[Any]:
        """Apply the two stages to ``x`` of shape (..., inputs); float32 stays float32."""
        x = check_array(x, "x", min_ndim=1, keep_float32=True)
        factors, bias = _parts_like(self.cp, self.bias, x)
        return finite(cp_linear(x, factors, bias=bias), "x", x.dtype)


@frozen
@dataclass(frozen=True, eq=False)
class CPConv:
    """A convolution as quantized stages; made by :func:`compress_conv`.

    Parameters
    ----------
    cp : QuantizedCP
        Factors ``a_out`` (Cout, R), ``a_in`` (Cin, R) and, unless the kernel is 1x1, ``a_kernel``
        (kh kw, R), or that of another number of spatial axes.
    error : float
        Relative Frobenius error of the dequantized reconstruction.
    fit : QuantizedFit
        What the method found: history, float error, reason for stopping.
    method : str
        Name of the method.
    kernel_size : tuple of int
        Sides of the kernel, such as (height, width): one to three.
    stride, padding, dilation
        As in :func:`qcp_ref.layers.conv.conv2d`.
    bias : ndarray or None
        Added to the output, one number per output channel. Cannot be written.
    output_error : float or None
        Relative error of the output, for a layer that was improved for it.

    Notes
    -----
    Equation :eq:`conv-cp`.

    **Laws**

    - *dense*: of float64 data ``forward`` equals the dense convolution with ``kernel()`` within
      :func:`qcp_ref.layers.conv.cp_conv_bound`
    - *dtype*: ``forward`` answers in float32 if and only if ``x`` holds float32 data, whatever made
      it

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import compress_conv
    >>> W = np.random.default_rng(1).standard_normal((8, 4, 3, 3))
    >>> layer = compress_conv(W, rate=2, bits=4, padding=1)
    >>> layer.rank, layer.forward(np.ones((1, 4, 5, 5))).shape
    (6, (1, 8, 5, 5))
    """

    cp: QuantizedCP
    error: float
    fit: QuantizedFit = field(repr=False)
    method: str
    kernel_size: tuple[int, ...]
    stride: Pair = 1
    padding: Padding = 0
    dilation: Pair = 1
    bias: NDArray[Any] | None = field(default=None, repr=False)
    output_error: float | None = None

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.cp.rank

    def kernel(self) -> Array:
        """Return the dense kernel, such as (Cout, Cin, kh, kw), of the stages, in float64."""
        return tensor_to_kernel(reconstruct(self.cp.dequantize()), self.kernel_size)

    def forward(self, x: ArrayLike) -> NDArray[Any]:
        """Apply the stages to ``x``, such as (N, Cin, H, W); float32 stays float32."""
        x = check_array(x, "x", ndim=len(self.kernel_size) + 2, keep_float32=True)
        factors, bias = _parts_like(self.cp, self.bias, x)
        y = three_stages(
            x,
            factors,
            len(self.kernel_size),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            bias=bias,
        )
        return finite(y, "x", x.dtype)


def compress_conv(
    W: ArrayLike,
    *,
    rate: float | str | None = None,
    rank: int | None = None,
    bits: int | Grid = 4,
    method: str = "best",
    rng: Rng = 0,
    axis: int | None = None,
    rule: str = "mse-exact",
    slack: float | None = None,
    sweeps: int | None = None,
    restarts: int | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    bias: ArrayLike | None = None,
    second_moment: ArrayLike | None = None,
    callback: StageCallback | None = None,
) -> CPConv:
    """Compress a convolution kernel to quantized CP stages.

    Parameters
    ----------
    W : array_like, shape (Cout, Cin, kh, kw)
        The kernel, of an ungrouped convolution; those of signals (Cout, Cin, kw) and of volumes
        (Cout, Cin, kd, kh, kw) likewise.
    rate : number or str
        Parameter reduction; fixes the rank. Give either a rate or a rank.
    rank : int
        Number of components.
    bits : int or Grid
        Bits of the full grid of the factors, or another grid.
    method : {"best", "sequential", "authors", "als-round"}
        See :func:`qcp_ref.factors.methods.factorize`.
    rng : int or numpy.random.Generator
        Source of randomness of the solver's start.
    axis : {None, 0, 1}
        One scale per factor, per row or per column.
    rule : str
        How scales are chosen, see :func:`qcp_ref.grids.scale.choose_scale`.
    slack, sweeps, restarts
        Of the method, see :func:`qcp_ref.factors.methods.factorize`.
    stride, padding, dilation, bias
        Kept for ``forward``; as in :func:`qcp_ref.layers.conv.conv2d`.
    second_moment : array_like, shape (Cin kh kw, Cin kh kw), optional
        That of the layer's inputs, see :func:`qcp_ref.layers.output.second_moment`. What the method
        found is then improved for the output by :func:`qcp_ref.layers.output.polish_output`.
    callback : callable, optional
        Called as ``callback(stage, sweep, figure)``, see :func:`qcp_ref.factors.methods.factorize`;
        in the stage "output" with the relative error of the output.

    Returns
    -------
    CPConv
        The layer, with ``error``, ``rank``, ``cp``, ``forward(x)`` and ``kernel()``; with a second
        moment also ``output_error``.

    Raises
    ------
    TypeError, ValueError
        For unusable kernels or options, for both a rate and a rank or neither, and for a rate that
        leaves no rank.

    Notes
    -----
    Equation :eq:`cost-rank` for the rank, :eq:`qcp-problem` for the factors [beyond the paper
    for the default method]. BLAS
    runs on one thread inside, so that serial and parallel runs give the same bits.

    **Laws**

    - *error*: ``error`` is that of the dense kernel
    - *moment*: a second moment never makes the error of the output larger, but for rounding
    - *threads*: the same seed gives the same codes whatever the number of threads outside

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import compress_conv
    >>> W = np.random.default_rng(1).standard_normal((8, 4, 3, 3))
    >>> compress_conv(W, rank=5, bits=4).cp.shape
    (8, 4, 9)
    """
    W = check_axes(W, "W")
    check_tensor(W, "W")
    b = None if bias is None else check_bias(bias, W.shape[0]).copy()
    kernel_size = W.shape[2:]
    # Refuse bad options before fitting; on an image this large only they can be wrong.
    stride, padding, dilation = check_geometry(stride, padding, dilation)
    sides = (2**20,) * len(kernel_size)
    window_axes(sides, kernel_size, stride, padding, dilation, "dilation")
    solver = Solver(method, rng, axis, rule, slack, sweeps, restarts, callback)
    found = _fit(kernel_to_tensor(W), _Size(rate, rank, bits), solver, second_moment)
    place = (kernel_size, stride, padding, dilation)
    return CPConv(found.cp, found.error, found.fit, method, *place, b, found.output_error)


def compress_linear(
    W: ArrayLike,
    *,
    rate: float | str | None = None,
    rank: int | None = None,
    bits: int | Grid = 4,
    method: str = "best",
    rng: Rng = 0,
    axis: int | None = None,
    rule: str = "mse-exact",
    slack: float | None = None,
    sweeps: int | None = None,
    restarts: int | None = None,
    bias: ArrayLike | None = None,
    callback: StageCallback | None = None,
    second_moment: ArrayLike | None = None,
) -> CPLinear:
    """Compress the matrix of a linear layer to two quantized stages.

    Parameters
    ----------
    W : array_like, shape (outputs, inputs)
        The matrix.
    rate, rank, bits, method, rng, axis, rule, slack, sweeps, restarts, bias, callback
        As in :func:`compress_conv`.
    second_moment : array_like, shape (inputs, inputs), optional
        As in :func:`compress_conv`.

    Returns
    -------
    CPLinear
        The layer, with ``error``, ``rank``, ``cp``, ``forward(x)`` and ``matrix()``.

    Raises
    ------
    TypeError, ValueError
        As in :func:`compress_conv`.

    Notes
    -----
    Equation :eq:`cost-rank` for the rank, :eq:`qcp-problem` for the factors [beyond the paper
    for the default method].

    **Laws**

    - *error*: ``error`` is that of the dense matrix

    Examples
    --------
    >>> import numpy as np
    >>> from qcp_ref import compress_linear
    >>> compress_linear(np.random.default_rng(1).standard_normal((10, 20)), rate=2).rank
    3
    """
    X = np.ascontiguousarray(check_tensor(check_array(W, "W", ndim=2), "W"))
    b = None if bias is None else check_bias(bias, X.shape[0]).copy()
    solver = Solver(method, rng, axis, rule, slack, sweeps, restarts, callback)
    found = _fit(X, _Size(rate, rank, bits), solver, second_moment)
    return CPLinear(found.cp, found.error, found.fit, method, b, found.output_error)


class _Size(NamedTuple):
    """How large a layer may be: a rate or a rank, and bits."""

    rate: float | str | None
    rank: int | None
    bits: int | Grid


class _Found(NamedTuple):
    """What the method found, the tensor for the layer, and its errors."""

    fit: QuantizedFit
    cp: QuantizedCP
    error: float
    output_error: float | None


def _fit(X: Array, size: _Size, solver: Solver, second_moment: ArrayLike | None) -> _Found:
    """Factorize; with a second moment, improve the codes for the output."""
    rate, rank, bits = size
    if (rate is None) == (rank is None):
        raise ValueError("rate, rank: expected exactly one of them; the rate fixes the rank")
    if rank is None:
        rank = rank_for_rate(X.shape, cast("float | str", rate))
    grid, S = bits if isinstance(bits, Grid) else Grid(bits), second_moment
    if check_option(solver.method, "method", METHODS) in ("best", "sequential"):
        check_rows_grid(grid, "bits")
    if S is not None:  # refuse it before fitting
        S, grid = check_moment(S, X.shape, "second_moment"), check_rows_grid(grid, "bits")
    with one_blas_thread():
        fit = factorize(X, rank, grid, **solver._asdict())
        if S is None:
            return _Found(fit, fit.cp, fit.error, None)
        found = polish_output(X, fit.cp, S, callback=stage_callback(solver.callback, "output"))
    return _Found(fit, found.cp, found.error, found.output_error)


def _parts_like(
    cp: QuantizedCP, bias: NDArray[Any] | None, x: NDArray[Any]
) -> tuple[CP, NDArray[Any] | None]:
    """Return factors and bias, rounded to float32 if the input is of that kind and they fit."""
    exact = cp.dequantize()
    parts = [*exact.factors, *([] if bias is None else [bias])]
    if not is_float32(x) or not fits(*map(span, parts), dtype=np.float32):
        return exact, bias
    return CP([A.astype(np.float32) for A in exact.factors]), (
        None if bias is None else bias.astype(np.float32)
    )
