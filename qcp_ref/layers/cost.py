"""What is gained? Parameters, operations and bytes, and the rank that a reduction rate buys.

A rate ``q`` asks for ``q`` times fewer parameters and fixes the rank :eq:`cost-rank`. A layer is
counted in parameters :eq:`cost-parameters`, multiply-accumulates for one image :eq:`cost-macs`,
bit operations :eq:`cost-bops` and bytes :eq:`cost-bytes`, all of them exact whole numbers.
Honest comparisons rest on :eq:`cost-equal`: factors of ``b`` bits at rate ``q`` cost what the dense
kernel costs at ``b / q`` bits.

Simplified: biases, which both forms share, and additions outside the accumulators are not counted.

Checked by tests/layers/test_cost.py.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, prod
from numbers import Real
from typing import TypeAlias

from qcp_ref._checks import check_int, check_ints, check_real
from qcp_ref._door import shown
from qcp_ref.layers.geometry import Padding, Pair, axis_numbers, window_axes

__all__ = ["Costs", "conv_costs", "equal_cost_bits", "rank_for_rate"]

# A reduction rate: read as the decimal number that is printed, so that 1.2 is 6/5.
Rate: TypeAlias = int | float | str | Decimal | Fraction
_MOST = 2**31  # of sides, bits and bytes
_DIGITS = 400  # of a rate, before or after the point


@dataclass(frozen=True)
class Costs:
    """What a layer, or a network, costs for one image.

    Parameters
    ----------
    parameters : int
        Weights that are stored.
    macs : int
        Multiply-accumulates.
    bops : int
        Multiply-accumulates times the bits of both operands.
    bytes : int
        Size of the packed weights and their scales.

    Notes
    -----
    Equations :eq:`cost-parameters` to :eq:`cost-bytes`. Costs add up with ``+``, those of a list
    with ``sum(costs, Costs())``.

    **Laws**

    - *sum*: a sum of costs is the sum of each figure

    Examples
    --------
    >>> from qcp_ref import Costs
    >>> sum([Costs(1, 2, 3, 4), Costs(10, 20, 30, 40)], Costs())
    Costs(parameters=11, macs=22, bops=33, bytes=44)
    """

    parameters: int = 0
    macs: int = 0
    bops: int = 0
    bytes: int = 0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def rank_for_rate(shape: Sequence[int], rate: Rate) -> int:
    """Return the largest rank whose factors have at most ``1 / rate`` of the tensor's entries.

    Parameters
    ----------
    shape : sequence of int
        Shape of the tensor that is factorized, such as (Cout, Cin, kh kw).
    rate : int, float, str, Decimal or Fraction
        Reduction rate, at least 1; a float counts as the decimal number that it prints as.

    Returns
    -------
    int
        The rank, at least 1.

    Raises
    ------
    TypeError, ValueError
        If the shape is not one, the rate is not a number of at least 1, or no component is left.

    Notes
    -----
    Equation :eq:`cost-rank` [authors' code].

    **Laws**

    - *largest*: it is the largest rank with so few entries, in exact arithmetic

    Examples
    --------
    >>> from qcp_ref import rank_for_rate
    >>> rank_for_rate((64, 64, 9), 2)
    134
    """
    sides = check_ints(shape, "shape", minimum=1, cap=_MOST)
    if len(sides) < 2:
        raise ValueError(f"shape: expected at least 2 sides, got {tuple(sides)}")
    most = Fraction(prod(sides), sum(sides))
    rank = floor(most / _check_rate(rate))  # R = floor(prod_n I_n / (q sum_n I_n))  :eq:`cost-rank`
    if rank < 1:
        limit = f"at most {float(most):.4g} for shape {tuple(sides)}"
        raise ValueError(f"rate: expected {limit}, got {shown(rate)}; no component would be left")
    return rank


def conv_costs(
    shape: Sequence[int],
    input_size: Pair,
    *,
    rank: int | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    weight_bits: int = 32,
    activation_bits: int = 32,
    scales: int = 0,
    scale_bytes: int = 8,
) -> Costs:
    """Count what a dense or a factorized convolution costs.

    Parameters
    ----------
    shape : sequence of int
        Kernel shape (Cout, Cin, kh, kw), or with one or three spatial sides. A linear layer is a
        1x1 kernel on an image of one pixel.
    input_size : int or one per spatial axis
        Sides of the input: (height, width).
    rank : int, optional
        Number of components; None stands for the dense layer.
    stride, padding, dilation
        As in :func:`qcp_ref.layers.conv.conv2d`.
    weight_bits, activation_bits : int
        Bits of a weight, and of an activation in every stage.
    scales : int
        Number of scales that are stored with the weights.
    scale_bytes : int
        Bytes of a scale: 4 in float32, 8 in float64.

    Returns
    -------
    Costs
        The counts for one image.

    Raises
    ------
    TypeError, ValueError
        If a number is not an integer in its range or the kernel does not fit the input.

    Notes
    -----
    Equations :eq:`cost-parameters` to :eq:`cost-bytes`. A factorized 1x1 kernel has two stages, and
    the stride belongs to the first.

    **Laws**

    - *macs*: the multiply-accumulates are the multiplications that the index loops carry out, the
      parameters the numbers that they read
    - *rate*: at the rank of a rate, parameters are at most ``1 / rate`` of the dense ones, and less
      than one component below; so are multiply-accumulates per pixel where input and output have as
      many pixels
    - *bops*: bit operations are linear in both numbers of bits; at one bit each they are the
      multiply-accumulates
    - *bytes*: bytes are those of the packed bits of all weights, and of the scales

    Examples
    --------
    >>> from qcp_ref import conv_costs
    >>> conv_costs((64, 64, 3, 3), 56, rank=134, padding=1, weight_bits=4, activation_bits=8)
    Costs(parameters=18358, macs=57570688, bops=1842262016, bytes=9179)
    """
    O, I, *kernel = axis_numbers(shape, "shape", (3, 4, 5), 1)
    size = axis_numbers(input_size, "input_size", (1, len(kernel)), 1)
    axes = window_axes(size, kernel, stride, padding, dilation, "input_size")
    before, after, entries = prod(size), prod(a.out for a in axes), prod(kernel)
    if rank is None:
        parameters = O * I * entries  # I J K  :eq:`cost-parameters`
        macs = parameters * after  # I J K P'  :eq:`cost-macs`
    else:
        R = check_int(rank, "rank", minimum=1, cap=2**60)
        spatial = entries if entries > 1 else 0  # a 1x1 kernel has no depthwise stage
        parameters = R * (O + I + spatial)  # R (I + J + K), without K for a 1x1 kernel
        # R (J P + K P' + I P'), for a 1x1 kernel R (J P' + I P'); P pixels before, P' after
        macs = R * (I * (before if spatial else after) + (spatial + O) * after)
    # BOPs = MACs b_w b_a  :eq:`cost-bops`
    bits = check_int(weight_bits, "weight_bits", minimum=1, cap=_MOST)
    bops = macs * bits * check_int(activation_bits, "activation_bits", minimum=1, cap=_MOST)
    packed = -(-bits * parameters // 8)  # ceil(b_w parameters / 8) + n_s B_s  :eq:`cost-bytes`
    count = check_int(scales, "scales", minimum=0, cap=2**53)
    packed += count * check_int(scale_bytes, "scale_bytes", minimum=1, cap=_MOST)
    return Costs(parameters, macs, bops, packed)


def equal_cost_bits(bits: int, rate: Rate) -> tuple[int, int]:
    """Return the bit widths of the dense kernels that cost about as much as the factors do.

    Parameters
    ----------
    bits : int
        Bits of a factor's entry.
    rate : int, float, str, Decimal or Fraction
        Reduction rate, as in :func:`rank_for_rate`.

    Returns
    -------
    tuple of int
        ``bits / rate`` rounded down and up. Rounded down it may be 0, which no kernel has.

    Raises
    ------
    TypeError, ValueError
        If the bits are not a positive integer or the rate is not a number of at least 1.

    Notes
    -----
    Equation :eq:`cost-equal` [derived].

    **Laws**

    - *around*: a dense kernel of these widths has at most, and at least, ``1 / rate`` of the bits
      that it has at ``bits``; no other whole width is between them

    Examples
    --------
    >>> from qcp_ref import equal_cost_bits
    >>> equal_cost_bits(4, 2), equal_cost_bits(4, 1.5)
    ((2, 2), (2, 3))
    """
    exact = check_int(bits, "bits", minimum=1, cap=_MOST) / _check_rate(rate)
    return floor(exact), ceil(exact)


def _check_rate(rate: Rate) -> Fraction:
    if not isinstance(rate, str):
        number = check_real(rate, "rate")
        rate = rate if isinstance(rate, (Real, Decimal)) else number
    try:
        text = str(rate)
        if "/" not in text and abs(Decimal(text).adjusted()) > _DIGITS:
            raise ValueError  # its exact value would fill the memory
        exact = Fraction(text)
    except (ValueError, ArithmeticError):
        raise ValueError(f"rate: expected a finite number, got {shown(rate)}") from None
    if exact <= 0:
        raise ValueError(f"rate: expected a number above 0, got {shown(rate)}; 2 leaves half")
    if exact < 1:
        raise ValueError(
            f"rate: expected at least 1, got {shown(rate)}; the layer has to become rate times "
            "smaller, and such a rate would enlarge it. Elsewhere 0.5 means 'keep half': for that "
            "write rate=2"
        )
    return exact
