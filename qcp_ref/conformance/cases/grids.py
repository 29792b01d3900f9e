"""Cases of level L0: grids, scales and requantization.

Most numbers lie where implementations differ: on ties, next to them, at the ends of the range, and
on the few quotients that float32 cannot tell from a tie. Those are found by search, in exact
arithmetic, each time the cases are made.

Checked by tests/conformance/cases/test_make.py.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from qcp_ref import loops
from qcp_ref.conformance.cases.make import Case, coded, make, scattered, stream
from qcp_ref.conformance.cases.truth import band, float32

__all__ = ["families", "near_ties", "traps"]

_HALF, _TINY = Fraction(1, 2), Fraction(1, 2**140)
ENDS = {
    "i8": (-128, 127),
    "n8": (-127, 127),
    "u8": (0, 255),
    "i4": (-8, 7),
    "n4": (-7, 7),
    "u4": (0, 15),
    "i2": (-2, 1),
    "n2": (-1, 1),
    "u1": (0, 1),
    "i16": (-32768, 32767),
    "u16": (0, 65535),
}
_TIES = [k + _HALF for k in range(-6, 6)]
_EIGHTHS = [Fraction(k, 8) for k in (*range(-19, -3), *range(3, 20))]


def traps(scale: Fraction | int, count: int, last: int = 120) -> list[Fraction]:
    """Return ties of a scale that are missed by the product with its float32 reciprocal."""
    inverse = float32(1 / Fraction(scale))
    ties = [sign * (k + _HALF) * scale for k in range(last) for sign in (1, -1)]
    found = [x for x in ties if float32(x) == x and float32(x * inverse) != x / scale]
    return [found[n * len(found) // count] for n in range(min(count, len(found)))]


def near_ties(scale: Fraction, count: int) -> list[Fraction]:
    """Return numbers that are no ties, but whose quotients round to ties in float32."""
    near = [float32(sign * (k + _HALF) * scale) for k in range(1, 126) for sign in (1, -1)]
    exact = [(x, 2 * x / scale, 2 * float32(x / scale)) for x in near]
    found = [x for x, twice, short in exact if twice.denominator > 1 and short.denominator == 1]
    return [found[n * len(found) // count] for n in range(count)]


def _around(ends: tuple[int, int], scale: Any, zero: int) -> list[Fraction]:
    """Return the ends of a range with half a step and a little more and less beyond."""
    small = Fraction(1, 64)
    off = (-1, -_HALF - small, -_HALF, small - _HALF, 0, _HALF - small, _HALF, _HALF + small, 1)
    return [(end - zero + step) * scale for end in ends for step in off]


def _next_to_half(digits: int) -> list[Fraction]:
    """Return one half and what is next below it in that many binary digits, of both signs."""
    return [s * x for x in (_HALF - Fraction(1, 2 ** (digits + 1)), _HALF) for s in (1, -1)]


# name, says, flags, x, scale, zero point, range; with a star: for `project`, too
_TIE, _CUT, _ENDS = ["TieRounding"], ["Truncation", "DoubleRounding"], ["RangeEnds", "Clamp"]
_S24 = Fraction(12582917, 2**23)  # a scale that needs all 24 bits
_ROWS: list[tuple[Any, ...]] = [
    ("ties*", "Ties go to the even code, of both signs.", _TIE, _TIES, 1, 0, "i8"),
    ("ties.odd-zero*", "The zero point is added after rounding, so the parity of a tie is its own.",
     ["TieRounding", "ZeroPointOrder"], _TIES, 1, 3, "i8"),
    ("ties.negative-zero", "Ties at half the scale, with an odd negative zero point.",
     ["TieRounding", "ZeroPointOrder"], [x / 2 for x in _TIES], _HALF, -5, "i8"),
    ("ties.unsigned*", "Ties on a range that starts at 0.", ["TieRounding", "ZeroPointOrder"],
     [x * 4 for x in _TIES], 4, 129, "u8"),
    ("ties.scale-3", "Ties of a scale that is no power of two.", _TIE, [x * 3 for x in _TIES], 3, 0, "i8"),
    ("eighths*", "Fractions are rounded once and to nearest, not cut off.", _CUT, _EIGHTHS, 1, 0, "i8"),
    ("eighths.odd-zero", "The same with a zero point and a scale.", _CUT,
     [x / 8 for x in _EIGHTHS], Fraction(1, 8), 7, "i8"),
    ("sevenths*", "Quotients that no binary number holds.", _CUT, range(-24, 25, 2), 7, 1, "i8"),
    ("zero.positive", "The zero point is added, once, and not subtracted.", ["ZeroPoint"],
     range(-9, 10, 3), 1, 10, "i8"),
    ("zero.lowest", "The zero point at the lower end.", ["ZeroPoint", "Clamp"], range(-3, 300, 40), 1, -128, "i8"),
    ("zero.highest", "The zero point at the upper end.", ["ZeroPoint", "Clamp"], range(-300, 9, 40), 1, 127, "i8"),
    ("ends*", "Both ends of the range, half a step beyond and a little more and less.",
     _ENDS, _around(ENDS["i8"], 1, 0), 1, 0, "i8"),
    ("ends.zero*", "Clipping comes after the zero point.", _ENDS, _around(ENDS["i8"], 2, 10), 2, 10, "i8"),
    ("ends.unsigned*", "Both ends of an unsigned range.", _ENDS, _around(ENDS["u8"], 1, 128), 1, 128, "u8"),
    ("ends.unsigned.no-zero", "Negative numbers become 0.", _ENDS, _around(ENDS["u8"], 1, 0), 1, 0, "u8"),
    ("ends.narrow*", "A symmetric range leaves out the lowest code.", _ENDS, _around(ENDS["n8"], 1, 0), 1, 0, "n8"),
    ("ends.i4*", "The ends of 4 bits.", _ENDS, _around(ENDS["i4"], 1, 0), 1, 0, "i4"),
    ("ends.n4", "The ends of 4 bits, symmetric.", _ENDS, _around(ENDS["n4"], 3, 0), 3, 0, "n4"),
    ("ends.u4", "The ends of 4 bits, unsigned.", _ENDS, _around(ENDS["u4"], 1, 5), 1, 5, "u4"),
    ("ends.i2*", "The ends of 2 bits.", _ENDS, _around(ENDS["i2"], 1, 0), 1, 0, "i2"),
    ("ends.i16", "The ends of 16 bits.", _ENDS, _around(ENDS["i16"], 1, 3), 1, 3, "i16"),
    ("ends.u16", "The ends of 16 bits, unsigned; off by a little is wrong.", _ENDS,
     _around(ENDS["u16"], 1, 32767), 1, 32767, "u16"),
    ("beyond*", "Numbers far outside saturate, and do not wrap around.", ["Overflow"],
     [200, 255, 256, 300, 65536, 2**31, 2**32 + 512, -129, -200, -257, -(2**31) - 256], 1, 0, "i8"),
    ("beyond.unsigned", "The same for an unsigned range.", ["Overflow"],
     [256, 300, 513, 65540, -1, -5, -256, -300, 2**33], 1, 2, "u8"),
    ("huge", "Quotients beyond all integer types saturate.", ["Overflow"],
     [2**100, -(2**100), 2**64, -(2**63), 5], Fraction(1, 2**20), 4, "i8"),
    ("infinite*", "Infinities saturate.", ["Special"], ["inf", "-inf", 1, -1], 1, 3, "i8"),
    ("infinite.unsigned*", "Infinities saturate.", ["Special"], ["-inf", "inf", 7], _HALF, 0, "u8"),
    ("negative-zero", "The negative zero is zero.", ["Special"], ["-0", 0, "-0", 1], 3, 5, "i8"),
    ("subnormal", "Numbers below the normal range over a small normal scale.", ["Subnormal"],
     [m * Fraction(1, 2**128) for m in (-7, -3, 1, 2, 3, 5, 6, 7)], Fraction(1, 2**126), 0, "i8"),
    ("traps.15*", "The product with 1/15 in float32 misses ties.", ["Reciprocal"], traps(15, 12), 15, 0, "i8"),
    ("traps.41", "The product with 1/41 in float32 misses ties.", ["Reciprocal"], traps(41, 12), 41, 1, "i8"),
    ("traps.61", "The product with 1/61 in float32 misses ties.", ["Reciprocal"], traps(61, 12), 61, 0, "i8"),
    ("traps.63*", "The product with 1/63 in float32 misses ties.", ["Reciprocal"], traps(63, 12), 63, 9, "i8"),
    ("near-ties*", "Quotients that float32 cannot tell from ties.", ["QuotientRounding"],
     near_ties(_S24, 12), _S24, 0, "i8"),
    ("near-ties.zero", "The same with an odd zero point.", ["QuotientRounding", "ZeroPointOrder"],
     near_ties(_S24 / 64, 12), _S24 / 64, 5, "i8"),
    ("axis-0*", "One scale and zero point per row of a square matrix.", ["PerChannel"], coded("axis-0", 4, 4),
     [[1], [3], [_HALF], [5]], [[0], [3], [-2], [9]], "i8"),
    ("axis-1*", "One scale and zero point per column of a square matrix.", ["PerChannel"], coded("axis-1", 4, 4),
     [[1, 3, _HALF, 5]], [[1, -3, 2, 8]], "i8"),
    ("axis-0.kernel*", "One scale per output channel of a kernel.", ["PerChannel"], coded("kernel", 3, 3, 2, 2),
     [[[[1]]], [[[3]]], [[[_HALF]]]], [[[[0]]]] * 3, "i8"),
    ("axis-1.kernel*", "One scale per input channel of a kernel.", ["PerChannel"], coded("kernel-1", 3, 3, 1, 2),
     [[[[5]], [[1]], [[3]]]], [[[[0]], [[1]], [[2]]]], "u8"),
    ("below-half", "Adding one half before cutting off rounds what is next below one half up, in float32.",
     _TIE, _next_to_half(24), 1, 0, "i8"),
    ("below-half.double", "The same in float64.", _TIE, _next_to_half(53), 1, 0, "i8"),
    ("no-axis", "An array without axes.", ["Shape"], Fraction(-7, 2), 1, 0, "i8"),
    ("powers", "A tiny and exact scale.", ["Truncation"], [k * Fraction(1, 2**32) for k in range(-9, 10, 2)],
     Fraction(1, 2**30), 0, "i8"),
]  # fmt: skip


def _ends(name: str) -> dict[str, int]:
    return dict(zip(("qmin", "qmax"), ENDS[name], strict=True))


def _grids() -> Iterator[Case]:
    for row in _ROWS:
        name, says, flags, x, scale, zero, ends = row
        inputs, options = (list(x) if isinstance(x, range) else x, scale, zero), _ends(ends)
        yield make("quantize", name.rstrip("*"), says, flags, inputs, options)
        if name.endswith("*"):
            yield make("project", name.rstrip("*"), says, flags, inputs, options)
    nothing = {"t": "real", "s": [0, 3], "e": 0, "m": []}
    empty = {"codes": {"kind": "exact", **nothing, "t": "i32"}}
    says = "An array without entries."
    yield make("quantize", "empty", says, ["Sanity"], (nothing, 1, 0), _ends("i4"), out=empty)
    for name, scale, zero in (("band", _S24 / 32, 0), ("band.zero", Fraction(9437189, 2**25), 77)):
        rng, limits = stream(name), _ends("i8")
        x = near_ties(scale, 10) + [
            float32(scale * rng.integer(-(2**20), 2**20) / 2**13) for _ in range(14)
        ]
        near = {"x": x, "scale": scale, "zero_point": zero}
        says = "Numbers next to ties: both codes are right, a third one is not."
        yield make("quantize", name, says, ["TieBand"], near, limits, out=band(near, limits))


_LEVELS: list[Any] = [-3, -2, Fraction(-7, 4), -1, Fraction(-3, 4), Fraction(-5, 8), -_HALF, Fraction(-3, 8),
           Fraction(-1, 4), Fraction(-3, 16), -Fraction(1, 8), Fraction(-1, 16), -Fraction(1, 32), 0]  # fmt: skip
_LEVELS += [-x for x in _LEVELS[-2::-1]] + [Fraction(5, 16), Fraction(11, 16)]
# name, says, codes, scale, zero point
_CODES: list[tuple[Any, ...]] = [
    ("zero", "The zero point is subtracted, before the product.", [-128, -9, 0, 5, 10, 127], _HALF, 10),
    ("wide", "The difference of two codes of 8 bits needs 9.", [-128, -127, 126, 127], 4, 127),
    ("unsigned", "Unsigned codes below the zero point.", [0, 1, 127, 128, 129, 255], 2, 128),
    ("axis-0", "One scale and zero point per row of a square matrix.", coded("deq-0", 3, 3),
     [[1], [3], [_HALF]], [[0], [4], [-7]]),
    ("axis-1", "One scale and zero point per column of a square matrix.", coded("deq-1", 3, 3),
     [[5, _HALF, 3]], [[1, -2, 9]]),
    ("axis-0.kernel", "One scale per output channel of a kernel.", coded("deq-k", 2, 2, 1, 3), [[[[3]]], [[[7]]]], 0),
    ("rounded", "One rounding of the product, not more.", [-128, -77, -3, 1, 5, 99, 127], _S24 / 64, 0),
    ("rounded.zero", "The same with a zero point.", [0, 3, 100, 201, 255], _S24 / 2**9, 131),
]  # fmt: skip


def _values() -> Iterator[Case]:
    for name, says, codes, scale, zero in _CODES:
        flags = ["PerChannel"] if "axis" in name else ["ZeroPoint"]
        yield make("dequantize", name, says, flags, (codes, scale, zero))
    for kind, bits, scale in (("binary", 1, 1), ("binary", 1, 4), ("ternary", 2, 1), ("ternary", 2, 4),
                              ("log2", 3, 1), ("log2", 3, 2), ("log2", 4, 4), ("log2", 2, 1)):  # fmt: skip
        x = [level * scale for level in _LEVELS]
        says = (
            "The nearest level; of two equally near ones that with the even code, zero goes to +1."
        )
        name, options = f"{kind}{bits}.scale-{scale}", {"kind": kind, "bits": bits}
        yield make("project_kind", name, says, ["Levels"], (x, scale), options)


# name, rule or None for choose_affine, numbers, range
_SCALES: list[tuple[Any, ...]] = [
    ("max-abs", [3, -255, 17, 100], "i8"),
    ("max-abs", [30, -1, 7, 5], "i4"),
    ("max-abs-narrow", [-127, 4, 31, 88], "i8"),
    ("max-abs-narrow", [21, -3, 14], "n4"),
    ("max-abs-full", [-12, 100, -60, 3], "i8"),
    ("max-abs-full", [-5, 2, 4], "i4"),
    ("max-abs-two-sided", [-128, 381, 5], "i8"),
    ("max-abs-two-sided", [-40, 14, 3], "i4"),
    ("max-abs", [0, 0, 0], "i8"),
    (None, [-51, 204, 13], "i8"),
    (None, [-51, 204, 13], "u8"),
    (None, [60, 30, 45], "u4"),
    (None, [-30, -15, -27], "i4"),
    (None, [-1, 509, 3, 100], "i8"),
    (None, [-3, 507, 8], "u8"),
    (None, [0, 0], "u8"),
    (None, [-7, 1013], "u8"),
    (None, [-5, 1015, 5], "i8"),
    # Ties, where all divisions are by powers of two; two of them from an odd lowest code.
    (None, [-1, 1], "u1"),
    (None, [-5, 5, 2], "u1"),
    (None, [-1, 3], "n2"),
    (None, [-6, 2, 1], "n2"),
    # No range, and nearly none: the rules of others differ here.
    (None, [0, 0, 0], "i8"),
    (None, [Fraction(-1, 2**26), Fraction(3, 2**26)], "n2"),
    (None, [Fraction(-51, 2**26), Fraction(204, 2**26)], "u8"),
]


def _scales() -> Iterator[Case]:
    says = "The rule's own divisor, and the side of the range that it looks at."
    affine = "The range always holds zero, and the zero point is rounded and clipped."
    for number, (rule, x, ends) in enumerate(_SCALES):
        name, options = f"{ends}.{number}", _ends(ends)
        if rule is None:
            flags = ["AffineRange"] if any(x) else ["Sanity"]
            yield make("choose_affine", name, affine, flags, [x], options)
        else:
            chosen = {**options, "rule": rule}
            yield make("choose_scale", f"{rule}.{name}", says, ["MaxAbs"], [x], chosen)


def _near_products(name: str, count: int) -> tuple[list[int], list[Fraction]]:
    """Return accumulators and multipliers whose products only float32 takes for ties."""
    rng, acc, multipliers = stream(name), list[int](), list[Fraction]()
    while len(acc) < count:
        a, k = rng.integer(2**12, 2**20) * rng.choice((-1, 1)), rng.integer(0, 100)
        M = float32((k + _HALF) / abs(a))
        if (2 * a * M).denominator > 1 and (2 * float32(a * M)).denominator == 1:
            acc, multipliers = [*acc, a], [*multipliers, M]
    return acc, multipliers


def _differ(name: str, count: int, shift: int) -> tuple[int, list[int]]:
    """Return a multiplier and accumulators at which one and two roundings differ."""
    rng, found = stream(name), list[int]()
    m = 2**30 + stream(name).integer(1, 2**30 - 1)
    real = m * Fraction(2) ** (shift - 31)
    while len(found) < count:
        acc = int((rng.integer(-99, 99) + _HALF) / real) + rng.integer(-2, 2)
        if loops.rescale(acc, real, "single") != loops.rescale(acc, real, "double"):
            found.append(acc)
    return m, found


def _requantized() -> Iterator[Case]:
    ties = [*range(-11, 12, 2)]
    big = [int((k + _HALF) * 2**18) + d for k in (64, 65, 100) for d in (-1, 1)]
    near, factors = _near_products("near-products", 8)
    ones, each = [[a, a + 2, -a] for a in (7, 90, 33)], [_HALF, Fraction(3, 8), Fraction(5, 16)]
    rows: list[tuple[Any, ...]] = [
        ("ties", "Ties go to the even code.", ["TieRounding"], ties, _HALF, 0, "i8"),
        ("ties.odd-zero", "The zero point is added after rounding.", ["TieRounding", "ZeroPointOrder"], ties, _HALF, 5, "i8"),
        ("ties.unsigned", "Ties on an unsigned range.", ["TieRounding"], [2 * a for a in ties], Fraction(1, 4), 131, "u8"),
        ("eighths", "Rounded once and to nearest, not cut off.", _CUT, [*range(-19, 20, 3)], Fraction(1, 8), 0, "i8"),
        ("thirds", "A multiplier with 24 bits.", _CUT, [*range(-100, 101, 17)], float32(Fraction(1, 3)), 1, "i8"),
        ("ends", "Clipping comes after the zero point.", _ENDS, [*range(-300, 301, 25)], _HALF, 3, "i8"),
        ("ends.unsigned", "Clipping comes after the zero point.", _ENDS, [*range(-300, 301, 25)], _HALF, 100, "u8"),
        ("ends.i4", "The ends of 4 bits.", _ENDS, [*range(-12, 13)], 1, 1, "i4"),
        ("beyond", "Numbers far outside saturate.", ["Overflow"], [2**31 - 1, -(2**31), 513, -700, 2**24, 70000], 1, 0, "i8"),
        ("beyond.unsigned", "Numbers far outside saturate.", ["Overflow"], [2**31 - 1, -(2**31), 513, -700, 70000], 1, 7, "u8"),
        ("extremes", "The ends of int32.", ["AccumulatorWidth"], [2**31 - 1, -(2**31), 2**30 + 1, -(2**30)],
         Fraction(1, 2**25), 0, "i8"),
        ("wide", "Accumulators beyond 24 bits next to ties.", ["AccumulatorWidth"], big, Fraction(1, 2**18), 0, "i8"),
        ("wide.negative", "The same below zero, with a zero point.", ["AccumulatorWidth"], [-a for a in big], Fraction(1, 2**18), 9, "i8"),
        ("near-ties", "Products that float32 cannot tell from ties.", ["Multiplier"], [near], factors, 0, "i8"),
        ("channels", "A multiplier per channel, which is axis 1.", ["PerChannel"], ones, each, 0, "i8"),
        ("channels.image", "A multiplier per channel of an image.", ["PerChannel"],
         [[[[7, 8], [-9, 20]], [[7, 8], [-9, 20]]], [[[11, 12], [1, 5]], [[11, 12], [1, 5]]]], each[:2], -3, "i8"),
        ("above-one", "A multiplier larger than 1.", ["Multiplier"], [-30, -3, 0, 5, 20], Fraction(5, 2), 0, "i8"),
    ]  # fmt: skip
    for name, says, flags, acc, multiplier, zero, ends in rows:
        yield make("requantize", name, says, flags, (acc, multiplier, zero), _ends(ends))


def _fixed() -> Iterator[Case]:
    both = "One rounding and two roundings give different codes."
    rows: list[tuple[Any, ...]] = [
        ("ties", "Ties go up in one rounding, and away from zero in two.", [*range(-11, 12, 2)], 2**30, 0, 0, "i8"),
        ("ties.shift", "The same with a shift.", [*range(-40, 41, 4)], 2**30, -2, 5, "i8"),
        ("fractions", "Rounded to nearest, not cut off, of both signs.", [*range(-99, 100, 7)], 1518500250, -3, 0, "i8"),
        ("largest", "The largest multiplier.", [-100, -7, -1, 0, 1, 7, 100], 2**31 - 1, 0, 0, "i8"),
        ("left", "A shift to the left.", [-30, -7, -1, 0, 1, 9, 31], 1431655765, 3, 0, "i8"),
        ("farthest", "The longest shift.", [2**31 - 1, -(2**31), 2**30, 5, -(2**30) - 1], 2**30, -31, 1, "i8"),
        ("extremes", "The ends of int32 need a product of 64 bits.", [2**31 - 1, -(2**31), 2**30 + 7], 1999999999, -25, 0, "i8"),
        ("ends.unsigned", "Clipping comes after the zero point.", [*range(-900, 901, 150)], 1234567890, -1, 128, "u8"),
        ("ends.i4", "The ends of 4 bits.", [*range(-40, 41, 5)], 2**30, 0, 2, "i4"),
        ("channels", "A multiplier and a shift per channel.", [[7, 70, 700], [9, 90, 900], [-5, -50, -500]],
         [2**30, 1717986918, 1288490189], [0, -2, -5], 0, "i8"),
        ("channels.image", "The same for an image.", [[[[9, -8]], [[9, -8]]], [[[50, 31]], [[50, 31]]]],
         [1073741825, 2147483646], [-1, 1], 4, "i8"),
    ]  # fmt: skip
    for shift, zero, ends in ((-1, 0, "i8"), (-4, 7, "i8"), (-9, 128, "u8")):
        m, acc = _differ(f"fixed{shift}", 8, shift)
        rows.append((f"differ{shift}", both, acc, m, shift, zero, ends))
    for name, says, acc, multiplier, shift, zero, ends in rows:
        inputs = acc, multiplier, shift, zero
        yield make("requantize_fixed", name, says, ["FixedPoint"], inputs, _ends(ends))


def _clipped() -> Iterator[Case]:
    """Yield zero points per channel that show where codes are clipped, layouts, negative zeros."""
    for op in ("quantize", "project"):
        yield from scattered(op, (coded("layout", 3, 4), 2, 1), _ends("i8"))
    zeros: list[list[list[int]]] = [[[0], [50], [-50]], [[0, -60, 60]]]
    for axis, zero in enumerate(zeros):
        x = [[40 * m for m in row] for row in coded(f"clipped{axis}", 3, 3)]
        given, says = (x, [[1] * len(row) for row in zero], zero), "One zero point per channel."
        yield make("project", f"clipped.{axis}", says, ["PerChannel", "Clamp"], given, _ends("i8"))
    for one in (1, 2):
        signs, kind = (["-0", 0, 3, -3], one), {"kind": "binary", "bits": 1}
        says = "The negative zero is zero, and zero counts as positive."
        yield make("project_kind", f"binary.zero.{one}", says, ["Special"], signs, kind)


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the families of level L0 with their cases."""
    grids = [*_grids(), *_clipped()]
    yield "quantize", [case for case in grids if case["op"] == "quantize"]
    yield "project", [*(case for case in grids if case["op"] != "quantize"), *_values()]
    yield "scale", [*_scales()]
    yield "requantize", [*_requantized(), *_fixed()]
