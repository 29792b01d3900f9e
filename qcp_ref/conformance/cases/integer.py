"""Cases of level LI: layers in integers.

The truth is exact, so nothing is allowed but equality. Numbers are chosen to reach the ends of the
accumulators of others, ties of the requantization, and zero points that padding has to use.

Checked by tests/conformance/test_kit_suite.py.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from qcp_ref.conformance.cases.make import (
    OTHER,
    PLAIN,
    UNEVEN,
    Case,
    geometry,
    make,
    scattered,
    stream,
)

__all__ = ["families"]

_I8, _U8 = {"qmin": -128, "qmax": 127}, {"qmin": 0, "qmax": 255}


def _codes(name: str, *shape: int, low: int = 0, high: int = 255) -> Any:
    return stream(name).integers(shape, low, high)


def _integers() -> Iterator[Case]:
    u, s = _codes("u8", 2, 3, 4, 5), _codes("i8", 2, 3, 4, 5, low=-128, high=127)
    W = _codes("w8", 2, 3, 2, 3, low=-128, high=127)
    same = _codes("w33", 3, 3, 3, 3, low=-128, high=127)
    border, flags = geometry(padding=[1, 1, 1, 1]), ["ZeroPointPadding", "Accumulator"]
    loud, quiet = [[[[255] * 3] * 3] * 32], [[[[127] * 3] * 3] * 32]
    rows: list[tuple[str, str, Any, Any, Any, int, Mapping[str, Any]]] = [
        ("plain", "uint8 without a zero point.", u, W, None, 0, PLAIN),
        ("zero", "uint8 with a zero point.", u, W, None, 131, PLAIN),
        ("zero.padding", "Padding is with the zero point.", u, same, None, 7, border),
        ("signed", "int8 with a zero point.", s, W, None, -77, border),
        ("signed.lowest", "The lowest zero point.", s, same, [5, -6, 7], -128, border),
        ("uneven", "Stride, padding and dilation differ.", u, W, [1000, -2000], 200, UNEVEN),
        ("other", "Other strides, padding and dilation, a square image.", _codes("o", 1, 5, 6, 6), _codes("ow", 3, 5, 3, 3, low=-128, high=127), [7, 8, 9], 50, OTHER),
        ("loud", "Pairs of products beyond int16, sums beyond 2**16.", loud, quiet, None, 0, border),
        ("extreme", "All weights at the lowest code.", _codes("e", 1, 8, 3, 3), [[[[-128] * 3] * 3] * 8] * 2, [1, 2], 255, border),
        ("long", "Sums beyond 2**24, where float32 has no odd numbers.", [[[[255 - k % 2]] for k in range(600)]],
         [[[[127 - k % 3 % 2]] for k in range(600)]], None, 0, PLAIN),
        ("long.odd", "The same with a bias.", [[[[255 - k % 5 % 2]] for k in range(601)]], [[[[127]]] * 601] * 2, [3, -4], 1, PLAIN),
    ]  # fmt: skip
    for name, says, x, kernel, bias, zero, window in rows:
        yield make("int_conv2d", name, says, flags, (x, kernel, bias), {"x_zero": zero, **window})
    yield from _quantized(u, s, W, same)


def _quantized_rows(u: Any, s: Any, W: Any, same: Any) -> list[tuple[Any, ...]]:
    """Return name, purpose, input, weights, bias, multiplier, zero points, ReLU, range, options."""
    half, uneven = Fraction(1, 2**10), [Fraction(5, 2**12), Fraction(11, 2**14)]
    three = [Fraction(3, 2**11), Fraction(1, 2**12), Fraction(7, 2**13)]
    border = geometry(padding=[1, 1, 1, 1])
    tiny = _codes("tiny", 1, 2, 3, 3, low=-3, high=3), _codes("tw", 2, 2, 2, 2, low=-2, high=2)
    loud = [[[[255] * 3] * 3] * 32], [[[[127] * 3] * 3] * 32] * 2
    near = [[[[1]]], [[[-1]]]]
    return [
        ("plain", "uint8 to uint8.", u, W, None, half, [131, 120], False, _U8, PLAIN),
        ("padding", "Padding is with the zero point.", u, same, [900, -900, 50], half, [9, 77], False, _U8, border),
        ("channels", "A multiplier per channel.", u, W, [400, 300], uneven, [131, 128], False, _U8, UNEVEN),
        ("channels.same", "As many channels as sides of the kernel.", s, same, None, three, [5, -3], False, _I8, border),
        ("ties", "Ties go to the even code, before the zero point.", *tiny, None, Fraction(1, 2), [0, 3], False, _I8, PLAIN),
        ("ties.bias", "The bias is added before.", *tiny, [7, -8], Fraction(1, 2), [1, -5], False, _I8, border),
        ("quarters", "Fractions are rounded to nearest.", *tiny, [1, 2], Fraction(1, 4), [2, 1], False, _I8, PLAIN),
        ("relu", "A ReLU ends at the zero point.", u, same, None, half, [130, 60], True, _U8, border),
        ("relu.signed", "The same for int8.", s, W, [100, -300], half, [3, -20], True, _I8, PLAIN),
        ("loud", "Pairs of products beyond int16.", *loud, [1, -1], Fraction(1, 2**13), [0, 0], False, _U8, border),
        ("other", "Other strides, padding and dilation, a square image.", _codes("q", 1, 5, 6, 6), _codes("qw", 3, 5, 3, 3, low=-128, high=127), [7, 8, 9], half, [50, 130], False, _U8, OTHER),
        ("tail", "Seven channels.", _codes("q7", 1, 7, 4, 4), _codes("qw7", 2, 7, 2, 2, low=-128, high=127), None, half, [50, 130], False, _U8, PLAIN),
        ("long.odd", "An odd sum beyond 2**24.", [[[[255]]] * 601], [[[[127]]] * 601] * 2, [-19463380, -19463377], Fraction(1), [0, 0], False, _U8, PLAIN),
        ("long.odder", "Another one.", [[[[255]]] * 603], [[[[127]]] * 603] * 2, [-19528150, -19528151], Fraction(1), [0, 0], False, _U8, PLAIN),
        ("near-tie", "A product that is no tie, unless it is rounded to float32.", near, [[[[1]]], [[[-1]]]], [2**25, 3 * 2**25], Fraction(1, 2**26), [0, 3], False, _I8, PLAIN),
        ("near-tie.below", "The same from below.", near, [[[[-1]]], [[[1]]]], [3 * 2**25, 5 * 2**25], Fraction(1, 2**26), [0, 4], False, _I8, PLAIN),
        ("long", "Sums beyond 2**24.", [[[[255 - k % 2]] for k in range(600)]], [[[[127 - k % 3 % 2]] for k in range(600)]] * 2,
         [-19000000, -19100001], Fraction(1, 2**10), [0, 1], False, _U8, PLAIN),
        ("long.half", "The same, next to a tie.", [[[[255]]] * 520], [[[[127]]] * 520] * 2, [-16840520, -16840519], Fraction(1, 2), [0, 0], False, _U8, PLAIN),
    ]  # fmt: skip


def _quantized(u: Any, s: Any, W: Any, same: Any) -> Iterator[Case]:
    flags = ["ZeroPointPadding", "Accumulator", "TieRounding"]
    for name, says, x, kernel, bias, M, zeros, relu, ends, window in _quantized_rows(u, s, W, same):
        options = {"x_zero": zeros[0], "y_zero": zeros[1], **ends, "relu": relu}
        given, whole = (x, kernel, bias, M), {**options, **window}
        yield make("quantized_conv2d", name, says, flags, given, whole)
        if name == "padding":
            yield from scattered("quantized_conv2d", given, whole)
        if not any(window["padding"]) and window["stride"] == [1, 1]:
            flat = [[entry for plane in image for row in plane for entry in row] for image in x]
            rows_of = [[entry for plane in k for row in plane for entry in row] for k in kernel]
            width = min(len(flat[0]), len(rows_of[0]))
            given = [r[:width] for r in flat], [r[:width] for r in rows_of], bias, M
            yield make("quantized_linear", name, says, flags, given, options)
    yield from _linear()
    yield from _chains(u)


def _linear() -> Iterator[Case]:
    """Yield square matrices, multipliers per channel, ties and ReLU."""
    three, flags = [Fraction(3, 2**10), Fraction(1, 2**9), Fraction(7, 2**11)], ["TieRounding"]
    for n in (1, 2):
        x, W = _codes(f"lx{n}", 2, 3), _codes(f"lw{n}", 3, 3, low=-128, high=127)
        given, says = (x, W, [5, -6, 7 * n]), "A square matrix, and a multiplier per channel."
        options = {"x_zero": 30 * n, "y_zero": 128, **_U8, "relu": n == 1}
        yield make("quantized_linear", f"square.{n}", says, flags, (*given, three), options)
        x, W = (_codes(f"l{kind}{n}", k, 3, low=-3, high=3) for kind, k in (("y", 4), ("v", 3)))
        small, says = (x, W, None, Fraction(1, 2)), "Ties go to the even code."
        options = {"x_zero": n, "y_zero": -3 * n, **_I8, "relu": False}
        yield make("quantized_linear", f"ties.{n}", says, flags, small, options)
        x, W = [[255] * 8, [254] * 8], [[127] * 8, [126 + n - 2] * 8]
        loud, says = (x, W, None, Fraction(1, 2**11)), "Pairs of products beyond int16."
        options = {"x_zero": 0, "y_zero": 0, **_U8, "relu": False}
        yield make("quantized_linear", f"loud.{n}", says, ["Accumulator"], loud, options)


def _chains(u: Any) -> Iterator[Case]:
    stages = [_codes(f"c{n}", side, 4, low=-8, high=7) for n, side in enumerate((2, 3, 6))]
    same = [_codes(f"s{n}", 4, 4, low=-8, high=7) for n in range(3)]
    square = _codes("sx", 1, 4, 4, 4)
    per = [[Fraction(k, 2**7) for k in ks] for ks in ((3, 5, 2, 7), (9, 4, 11, 6), (5, 3, 8, 1))]
    one = [Fraction(1, 2**5), Fraction(1, 2**4), Fraction(1, 2**4)]
    border = geometry(padding=[1, 1, 1, 1])
    rows: list[tuple[str, str, Any, Any, Any, Any, list[int], list[int], Mapping[str, Any]]] = [
        ("plain", "Three stages in integers.", u, stages, None, one, [128, 0, 0, 128], [2, 3], PLAIN),
        ("zeros", "Zero points between the stages; the second one pads.", u, stages, [40, -50], one, [128, -7, 9, 100], [2, 3], UNEVEN),
        ("same", "Equal sides everywhere.", square, same, [1, 2, 3, 4], one, [99, 5, -6, 120], [2, 2], border),
        ("other", "Other strides, padding and dilation, a square image.", _codes("cx", 1, 5, 6, 6),
         [_codes(f"d{n}", side, 5, low=-8, high=7) for n, side in enumerate((3, 5, 4))], [9, 8, -7], one, [100, 6, -5, 110], [2, 2], OTHER),
        ("far", "Codes beyond both ends.", square, same, [500, -400, 300, -200], [Fraction(1, 2**3), Fraction(1), Fraction(1)], [99, 5, -6, 120], [2, 2], border),
        ("far.other", "Codes beyond both ends, other zero points.", square, same[::-1], [-500, 400, -300, 200],
         [Fraction(1, 2**3), Fraction(1), Fraction(1)], [77, -9, 11, 100], [2, 2], PLAIN),
        ("far.zero", "A large zero point, and small ones.", square, same, None, [Fraction(1, 2**3), Fraction(1, 2**2), Fraction(1, 2**2)], [200, 1, -1, 128], [2, 2], PLAIN),
        ("far.first", "Only the first zero point.", square, same[::-1], None, [Fraction(1, 2**4), Fraction(1, 2**2), Fraction(1, 2**2)], [255, 0, 0, 128], [2, 2], border),
        ("tail", "Seven channels, a size that the stride does not divide.", _codes("c7", 1, 7, 6, 6),
         [_codes(f"t{n}", side, 3, low=-8, high=7) for n, side in enumerate((2, 7, 9))], None, one, [50, 1, 2, 128], [3, 3], geometry(stride=[2, 2])),
        ("near-tie", "A product that is no tie, unless it is rounded to float32.", square, same, [2**25, 3 * 2**25, -(2**25), 5 * 2**25],
         [Fraction(1, 2**8), Fraction(1, 2**5), Fraction(1, 2**26)], [99, 5, -6, 0], [2, 2], border),
        ("near-tie.bias", "The same with other codes.", square, same[::-1], [7 * 2**25, -3 * 2**25, 2**25, 2**25],
         [Fraction(1, 2**8), Fraction(1, 2**5), Fraction(1, 2**26)], [99, 5, -6, 0], [2, 2], PLAIN),
        ("square", "Equal sides, other numbers.", square, same[::-1], None, one, [60, -5, 6, 130], [2, 2], PLAIN),
        ("channels.other", "The same with other numbers.", square, same[::-1], [9, 8, 7, 6], per[::-1], [99, -3, 4, 120], [2, 2], border),
        ("channels", "Multipliers per channel in every stage.", square, same, None, per, [120, 3, 4, 128], [2, 2], geometry(padding=[1, 0, 0, 1])),
    ]  # fmt: skip
    for name, says, x, factors, bias, M, zeros, kernel, window in rows:
        options = {"zeros": zeros, "qmins": [-128, -128, 0], "qmaxs": [127, 127, 255]}
        options |= {"kernel_size": kernel, **window}
        given, flags = (x, *factors, bias, M), ["ZeroPointPadding", "TieRounding"]
        yield make("quantized_cp_conv2d", name, says, flags, given, options)


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the family of the level with its cases."""
    yield "integer", [*_integers()]
