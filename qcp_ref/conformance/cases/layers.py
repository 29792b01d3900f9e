"""Cases of level L2: layers in floating point.

Entries are small and different, sides are different where a wrong axis would be a wrong shape anyway
and equal where it would not, so that exchanged, reversed, shifted and forgotten axes all show.
Integers keep all sums exact in float32, in every order; the cases called 'rounding' have full
mantissas and few terms, where a shorter type shows.

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
    coded,
    geometry,
    make,
    mantissas,
    scattered,
)

__all__ = ["families"]


def _layers() -> Iterator[Case]:
    x, W = coded("x", 2, 3, 5, 6, top=9), coded("W", 4, 3, 2, 3, top=9)
    square, Q = coded("sq", 1, 3, 6, 6, top=9), coded("Q", 3, 3, 3, 3, top=9)
    flags, rounding = ["KernelFlip", "AxisSwap", "PadOrder"], ["Rounding"]
    rows: list[tuple[str, str, Any, Any, Any, Mapping[str, Any]]] = [
        ("plain", "A kernel of 2 by 3.", x, W, None, PLAIN),
        ("bias", "A bias per output channel.", x, W, [100, -200, 300, 7], PLAIN),
        ("uneven", "Stride, padding and dilation differ on all sides.", x, W, None, UNEVEN),
        ("uneven.bias", "The same with a bias.", x, W, [1, -2, 3, 50], UNEVEN),
        ("square", "Equal sides everywhere, so that exchanged axes keep the shape.", square, Q, None,
         geometry(padding=[1, 1, 1, 1])),
        ("square.stride", "The same with a stride.", square, Q, [5, 6, 7], geometry(stride=[2, 2], padding=[1, 1, 1, 1])),
        ("stride", "Strides that differ.", square, Q, None, geometry(stride=[1, 3])),
        ("stride.far", "A stride beyond the kernel.", square, Q, None, geometry(stride=[4, 5], padding=[0, 2, 1, 1])),
        ("padding", "Padding beyond the kernel, on one side.", x, W, None, geometry(padding=[3, 0, 0, 4])),
        ("padding.sides", "The sides of an axis differ.", square, Q, None, geometry(padding=[2, 0, 0, 1])),
        ("dilation", "Dilations that differ.", square, Q, None, geometry(dilation=[2, 1])),
        ("even", "A kernel with even sides.", square, coded("E", 2, 3, 2, 4, top=9), None, geometry(padding=[1, 2, 0, 1])),
        ("whole", "A kernel as large as the image.", coded("w", 1, 2, 3, 2, top=9), coded("ww", 2, 2, 3, 2, top=9), None, PLAIN),
        ("pixel", "One pixel, one channel.", [[[[3]]]], [[[[-5]]]], [2], PLAIN),
        ("tail.31", "31 channels, one less than a power of two.", coded("t", 1, 31, 1, 2, top=9), coded("u", 2, 31, 1, 1, top=9), None, PLAIN),
        ("tail.33", "33 channels, one more.", coded("t3", 1, 33, 2, 1, top=9), coded("u3", 1, 33, 2, 1, top=9), None, PLAIN),
        ("rounding", "Full mantissas, few terms: shorter types show.", mantissas("rx", 1, 2, 2, 3), mantissas("rw", 2, 2, 1, 2), None, PLAIN),
        ("rounding.bias", "The same with a bias.", mantissas("ry", 1, 1, 2, 3), mantissas("rv", 1, 1, 2, 2), mantissas("rb", 1), PLAIN),
    ]  # fmt: skip
    for name, says, image, kernel, bias, options in rows:
        chosen = rounding if name.startswith("rounding") else flags
        yield make("conv2d", name, says, chosen, (image, kernel, bias), options)
    yield from _other_layers(x, W)
    yield from _stages(x)


def _other_layers(x: Any, W: Any) -> Iterator[Case]:
    """Yield a long sum, and layouts."""
    n = coded("long", 1, 512, 3, 3, top=8), coded("longer", 1, 512, 3, 3, top=8)
    says = "A sum of 4608 terms that is exact in every order."
    yield make("conv2d", "long", says, ["Rounding"], (*n, None), PLAIN)
    yield from scattered("conv2d", (x, W, None), PLAIN)


def _stages(x: Any) -> Iterator[Case]:
    A, square = coded("A", 4, 3), coded("S", 3, 3)
    for name, says, matrix, bias, stride in (
        ("plain", "A matrix for each pixel.", A, None, [1, 1]),
        ("bias", "With a bias.", A, [100, 200, -300, 400], [1, 1]),
        ("square", "A square matrix, so that its transpose fits, too.", square, None, [1, 1]),
        ("square.stride", "With strides that differ.", square, [9, 8, 7], [2, 3]),
    ):
        yield make("pointwise", name, says, ["AxisSwap"], (x, matrix, bias), {"stride": stride})
    C, nine, cube = (coded(f"C{n}", side, 3, top=9) for n, side in (("", 6), (9, 9), (4, 3)))
    for name, says, filters, kernel, options in (
        ("plain", "Filters of 2 by 3, the width running fastest.", C, [2, 3], PLAIN),
        ("tall", "The same numbers as filters of 3 by 2.", C, [3, 2], PLAIN),
        ("uneven", "Stride, padding and dilation differ.", C, [2, 3], UNEVEN),
        ("square", "Filters of 3 by 3.", nine, [3, 3], geometry(padding=[1, 1, 1, 1])),
        ("cube", "As many channels as entries of a filter.", cube, [1, 3], PLAIN),
        ("other", "Other strides, padding and dilation.", nine, [3, 3], OTHER),
        ("steps", "A size that the stride does not divide.", C, [2, 3], geometry(stride=[2, 2])),
    ):
        chosen = {"kernel_size": kernel, **options}
        yield make("depthwise", name, says, ["KernelFlip", "AxisSwap"], (x, filters), chosen)
    yield from _tails()
    yield from _factorized(x)


def _tails() -> Iterator[Case]:
    """Yield square images, channels beyond a multiple of 4, full mantissas and tiny numbers."""
    says = "Channels beyond a multiple of four, and a square image."
    for n in (5, 7):
        square, options = coded(f"s{n}", 1, n, 4, 4, top=9), {"kernel_size": [2, 2]}
        flat, filters = (square, coded(f"A{n}", 2, n, top=9), None), coded(f"C{n}", 4, n, top=9)
        yield make("pointwise", f"tail.{n}", says, ["AxisSwap"], flat, {"stride": [1, n - 4]})
        thin = {**options, **PLAIN}
        yield make("depthwise", f"tail.{n}", says, ["AxisSwap"], (square, filters), thin)
        stages = [coded(f"{n}{end}", side, 3, top=5) for end, side in enumerate((2, n, 4))]
        given, window = (square, *stages, None), geometry(stride=[2, 2], padding=[1, 0, 0, 0])
        yield make("cp_conv2d", f"tail.{n}", says, ["RankTail"], given, {**options, **window})
    says = "Full mantissas, few terms: shorter types show."
    for n in (2, 3):
        x, options = mantissas(f"px{n}", 1, n, 2, 3), {"kernel_size": [1, n], **PLAIN}
        flat, filters = (x, mantissas(f"pa{n}", 2, n), None), mantissas(f"pc{n}", n, n)
        yield make("pointwise", f"rounding.{n}", says, ["Rounding"], flat, {"stride": [1, 1]})
        yield make("depthwise", f"rounding.{n}", says, ["Rounding"], (x, filters), options)
    yield from _tiny()


def _tiny() -> Iterator[Case]:
    says = "Results below the normal range of float32."

    def tiny(name: str, *shape: int, e: int) -> Any:
        return _times(coded(name, *shape, top=5), Fraction(1, 2**e))

    for n in (1, 2, 3):
        name, flags, size = f"tiny.{n}", ["Subnormal"], {"kernel_size": [1, 2], **PLAIN}
        x, W = tiny(f"zx{n}", 1, 2, 2, 3, e=60 + n), tiny(f"zw{n}", 2, 2, 1, 2, e=70)
        A, C = (tiny(f"z{kind}{n}", 2, 2, e=70) for kind in "ac")
        yield make("conv2d", name, says, flags, (x, W, None), PLAIN)
        yield make("pointwise", name, says, flags, (x, A, None), {"stride": [1, 1]})
        yield make("depthwise", name, says, flags, (x, C), size)
        stages = coded(f"zo{n}", 2, 2, top=5), coded(f"zi{n}", 2, 2, top=5), C
        yield make("cp_conv2d", name, says, flags, (x, *stages, None), size)
        factors = [tiny(f"zf{n}{m}", side, 2, e=65 + n) for m, side in enumerate((3, 2))]
        X, options = tiny(f"zX{n}", 3, 2, e=66), {"mode": n % 2}
        yield make("reconstruct", name, says, flags, (factors, None))
        yield make("gram", name, says, flags, [factors], options)
        yield make("mttkrp", name, says, flags, (X, factors), options)


def _times(value: Any, c: Fraction) -> Any:
    return [_times(part, c) for part in value] if isinstance(value, list) else value * c


def _factorized(x: Any) -> Iterator[Case]:
    stages = coded("out", 4, 5, top=5), coded("in", 3, 5, top=5), coded("kernel", 6, 5, top=5)
    # As many outputs, inputs, components and pixels of the kernel: nothing has a telling shape.
    same = [coded(f"same{n}", 4, 4, top=5) for n in range(3)]
    four = coded("four", 2, 4, 5, 5, top=5)
    short = mantissas("so", 2, 2), mantissas("si", 1, 2), mantissas("sk", 2, 2)
    border = geometry(padding=[1, 1, 1, 1])
    rows: list[tuple[str, str, Any, Any, Any, list[int], Mapping[str, Any]]] = [
        ("plain", "Three stages.", x, stages, None, [2, 3], PLAIN),
        ("bias", "The bias belongs to the last stage.", x, stages, [100, -70, 30, 9], [2, 3], PLAIN),
        ("tall", "The same numbers as a kernel of 3 by 2.", x, stages, None, [3, 2], PLAIN),
        ("uneven", "Stride, padding and dilation differ on all sides.", x, stages, None, [2, 3], UNEVEN),
        ("uneven.bias", "The same with a bias.", x, stages, [1, 2, 3, 4], [2, 3], UNEVEN),
        ("same", "Equal sides everywhere.", four, same, None, [2, 2], border),
        ("same.bias", "The same with a bias and a stride.", four, same, [9, 7, 5, 3], [2, 2], geometry(stride=[2, 2])),
        ("same.stride", "Strides that differ.", four, same, None, [2, 2], geometry(stride=[1, 2], padding=[1, 0, 0, 1])),
        ("rank-one", "One component.", x, [coded(f"r{n}", side, 1, top=5) for n, side in enumerate((2, 3, 4))], None, [2, 2], PLAIN),
        ("pixel", "A kernel of 1 by 1.", x, [coded("po", 2, 3, top=5), coded("pi", 3, 3, top=5), coded("pk", 1, 3, top=5)], None, [1, 1], PLAIN),
        ("tail", "Nine components.", x, [coded("to", 2, 9, top=3), coded("ti", 3, 9, top=3), coded("tk", 4, 9, top=3)], None, [2, 2], border),
        ("rounding", "Full mantissas, few terms: shorter types show.", mantissas("sx", 1, 1, 2, 3), short, None, [1, 2], PLAIN),
        ("rounding.bias", "The same with a bias.", mantissas("sy", 1, 1, 2, 2), short, mantissas("sb", 2), [1, 2], PLAIN),
    ]  # fmt: skip
    for name, says, image, factors, bias, kernel, options in rows:
        given, chosen = (image, *factors, bias), {"kernel_size": kernel, **options}
        yield make("cp_conv2d", name, says, ["KernelFlip", "AxisSwap", "RankTail"], given, chosen)
        if name == "same":
            yield from scattered("cp_conv2d", given, chosen)


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the families of the level with their cases."""
    layers = [*_layers()]
    yield "conv", [case for case in layers if case["op"] != "cp_conv2d"]
    yield "cp_conv", [case for case in layers if case["op"] == "cp_conv2d"]
