"""Index loops of grids: codes, rounding, the best scale, ranges of activations."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from math import floor, nextafter
from typing import Any

from qcp_ref.loops.nested import Matrix, Nested, at, build, flat, indices, shape_of, spread

__all__ = [
    "activation_scale",
    "choose_affine",
    "choose_scale",
    "code_range",
    "dequantize",
    "float32",
    "float64",
    "gain",
    "grid_levels",
    "grid_moments",
    "histogram",
    "histogram_error",
    "histogram_range",
    "largest_scale",
    "one",
    "percentile",
    "place",
    "power_of_two",
    "quantize",
    "quotient",
    "rounded",
    "scale_by_rule",
    "trial_scale",
    "trial_scales",
]


def code_range(
    bits: int,
    narrow: bool = False,
    mid_rise: bool = False,
    kind: str = "uniform",
    signed: bool = True,
) -> tuple[int, int, Any]:
    """Return lowest code, highest code, distance of a level from its code: :eq:`grid-codes`."""
    if kind in ("binary", "ternary"):
        return -1, 1, 0
    if not signed:
        return 0, 2**bits - 1, 0
    half = 2 ** (bits - 1)
    symmetric = narrow or kind == "log2"
    return (1 - half if symmetric else -half), half - 1, (Fraction(1, 2) if mid_rise else 0)


def grid_levels(grid: dict[str, Any]) -> dict[int, Any]:
    """Return the level of every code: :eq:`grid-kinds`."""
    lowest, highest, offset = code_range(**grid)
    codes = range(lowest, highest + 1)
    if grid.get("kind") == "binary":
        return {-1: -1, 1: 1}
    if grid.get("kind") == "log2":
        # l_0 = 0, l_k = sign(k) 2^(|k| - qmax)
        power = {k: Fraction(1, 2 ** (highest - abs(k))) for k in codes}
        return {k: power[k] if k > 0 else -power[k] if k < 0 else 0 for k in codes}
    return {k: k + offset for k in codes}


def float32(x: Any) -> Fraction:
    """Return the nearest of the numbers with 24 binary digits; ties to the even last digit."""
    number = Fraction(x)
    exponent = number.numerator.bit_length() - number.denominator.bit_length()
    if Fraction(2) ** exponent > abs(number):
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    return round(number / unit) * unit


def quotient(x: Any, scale: Any, division: str) -> Any:
    """Divide in one of three ways, fl being float32: :eq:`grid-division`."""
    if division == "float32":
        return float32(float32(x) / float32(scale))  # fl(fl(x) / fl(s))
    if division == "reciprocal":
        return float32(float32(x) * float32(1 / float32(scale)))  # fl(fl(x) fl(1 / fl(s)))
    return x / scale  # x / s


def rounded(t: Any, rounding: str = "half-even", draw: Any = 0) -> Any:
    """Return one of the two integers around ``t``: :eq:`grid-rounding`."""
    t = Fraction(t)
    low = floor(t)
    part = t - low
    if rounding == "floor":
        return low
    if rounding == "ceil":
        return low + (part > 0)
    if rounding == "to-zero":
        return low + (part > 0 and t < 0)
    if rounding == "stochastic":
        return low + (draw < part)
    if part != Fraction(1, 2):
        return low + (part > Fraction(1, 2))
    even = low + low % 2
    return {
        "half-even": even,
        "half-up": low + 1,
        "half-away": low + (t > 0),
        "dpu": low + 1 if t < 0 else even,
    }[rounding]


def place(t: Any, grid: dict[str, Any]) -> Any:
    """Return the number whose rounding is the code, before the zero point: :eq:`grid-place`."""
    if grid.get("kind") != "log2":
        return t - code_range(**grid)[2]
    table = grid_levels(grid)
    t = min(max(Fraction(t), -1), 1)
    low = max(k for k, level in table.items() if level <= t)
    if table[low] == t:
        return low
    # u = k + (t - l_k) / (l_(k+1) - l_k) where l_k <= t < l_(k+1)
    return low + (t - table[low]) / (table[low + 1] - table[low])


def quantize(
    x: Nested,
    grid: dict[str, Any],
    scale: Nested,
    zero_point: Nested = 0,
    *,
    rounding: str = "half-even",
    division: str = "float64",
    draws: Nested = 0,
) -> Nested:
    """Return the codes: :eq:`grid-quantize`."""
    lowest, highest, _ = code_range(**grid)

    def entry(*index: int) -> Any:
        if grid.get("kind") == "binary":
            return 1 if at(x, index) >= 0 else -1
        # The code is k = clip(round(x / s - o) + z, qmin, qmax).
        t = place(quotient(at(x, index), spread(scale, index), division), grid)
        code = rounded(t, rounding, spread(draws, index)) + spread(zero_point, index)
        return min(max(code, lowest), highest)

    return build(shape_of(x), entry)


def dequantize(
    codes: Nested, scale: Nested, zero_point: Nested = 0, *, grid: dict[str, Any] | None = None
) -> Nested:
    """Return the numbers of codes, of levels if a grid is given: :eq:`grid-dequantize`."""
    level = grid_levels(grid) if grid else {}

    def entry(*index: int) -> Any:
        code = at(codes, index)
        # x = s (k - z), or s times level where there is no zero point
        return spread(scale, index) * (level.get(code, code) - spread(zero_point, index))

    return build(shape_of(codes), entry)


def grid_moments(
    x: Nested, grid: dict[str, Any], scale: Any, zero_point: int = 0
) -> tuple[Any, Any]:
    """Return S1 = <x, v> and S2 = <v, v>, v the levels at a scale: :eq:`grid-gain`."""
    codes, level = quantize(x, grid, scale, zero_point), grid_levels(grid)
    places = list(indices(shape_of(x)))
    levels = [level[at(codes, index)] - zero_point for index in places]
    first = sum(at(x, index) * v for index, v in zip(places, levels, strict=True))
    return first, sum(v * v for v in levels)


def gain(x: Nested, grid: dict[str, Any], scale: Any, zero_point: int = 0) -> Any:
    """Return what rounding at a scale gains: g(s) = 2 s S1 - s^2 S2, :eq:`grid-gain`."""
    first, second = grid_moments(x, grid, scale, zero_point)
    return scale * (2 * first - scale * second)


def float64(x: Any) -> list[Fraction]:
    """Return the positive number of float64 that is nearest to a positive one; both, if two are."""
    least, most = Fraction(nextafter(0.0, 1.0)), Fraction(nextafter(float("inf"), 0.0))
    number = float(min(max(Fraction(x), least), most))
    around = [nextafter(number, 0.0), number, nextafter(number, float("inf"))]
    tried = [Fraction(n) for n in around if least <= n <= most]
    gap = min(abs(n - x) for n in tried)
    return [n for n in tried if abs(n - x) == gap]


def one(x: Any) -> list[Any]:
    """Return the number itself: every number is a scale."""
    return [x]


def choose_scale(
    x: Nested,
    grid: dict[str, Any],
    zero_point: int = 0,
    scales: Callable[[Any], Sequence[Any]] = one,
) -> Any:
    """Try every cell, and of equal gains take the largest scale: :eq:`grid-exact`.

    With :func:`float64` as ``scales`` it is :eq:`scale-choice`.
    """
    levels = sorted(v - zero_point for v in grid_levels(grid).values())
    breaks = {Fraction(0)}
    for index in indices(shape_of(x)):
        for low, high in pairwise(levels):
            step = Fraction(low + high) / 2
            if step * at(x, index) > 0:
                breaks.add(at(x, index) / step)
    ends = sorted(breaks)
    tried: list[Any] = []
    for left, right in zip(ends, [*ends[1:], 2 * ends[-1] + 2], strict=True):
        first, second = grid_moments(x, grid, (left + right) / 2, zero_point)
        if first > 0:  # in each cell the best scale is S1 / S2
            tried += [(gain(x, grid, s, zero_point), s) for s in scales(first / second)]
    return max(tried)[1] if tried else 1


def choose_affine(
    x: Nested,
    grid: dict[str, Any],
    rule: str = "mse-exact-affine",
    scales: Callable[[Any], Sequence[Any]] = one,
) -> list[Any]:
    """Return scale and zero point by :eq:`grid-affine` or :eq:`grid-min-max`."""
    lowest, highest, _ = code_range(**grid)
    values = [at(x, index) for index in indices(shape_of(x))]
    if rule == "mse-exact-affine":
        tried: list[Any] = [(0, 1, 0, 0)]
        for zero in range(lowest, highest + 1):
            scale = choose_scale(x, grid, zero, scales)
            tried.append((gain(x, grid, scale, zero), scale, -abs(zero), zero))
        _, scale, _, zero = max(tried)
        return [scale, zero]
    bottom, top = min([*values, 0]), max([*values, 0])
    if bottom == top:
        return [1, 0]
    scale = Fraction(top - bottom) / (highest - lowest)  # s = (b - a) / (qmax - qmin)
    zero = {
        "min-max": rounded(lowest - bottom / scale),
        "min-max-torch": lowest - rounded(bottom / scale),
        "min-max-truncated": lowest - rounded(bottom / scale, "to-zero"),
    }[rule]
    return [scale, min(max(zero, lowest), highest)]


def largest_scale(x: Nested, grid: dict[str, Any], rule: str) -> Any:
    """Return the scale of a rule in the largest number, 0 if that is 0: :eq:`grid-max-abs`."""
    values = flat(x)
    if rule == "max-abs-two-sided":
        levels = grid_levels(grid).values()
        below = [Fraction(v) / min(levels) for v in values if v < 0 and min(levels) < 0]
        above = [Fraction(v) / max(levels) for v in values if v > 0 and max(levels) > 0]
        return max([*below, *above, 0])
    half = Fraction(2) ** (grid["bits"] - 1)  # s = max |x_i| / steps
    steps = {"max-abs": half - Fraction(1, 2), "max-abs-narrow": half - 1, "max-abs-full": half}
    return max(abs(v) for v in values) / steps[rule]


def trial_scales(x: Nested, grid: dict[str, Any]) -> list[Any]:
    """Return the 200 scales of :eq:`grid-trials`, in their order."""
    # s_j = (0.2 + j/199) m / (2^(b-1) - 1/2), m = max |x_i|
    unclipped = largest_scale(x, grid, "max-abs")
    return [(Fraction(1, 5) + Fraction(j, 199)) * unclipped for j in range(200)]


def trial_scale(x: Nested, grid: dict[str, Any]) -> Any:
    """Return the first trial scale that no other one beats; 0 of zeros."""
    best: Any = None
    for scale in trial_scales(x, grid):
        if scale and (best is None or gain(x, grid, scale) > gain(x, grid, best)):
            best = scale
    return best or 0


def scale_by_rule(
    x: Nested, grid: dict[str, Any], rule: str, scales: Callable[[Any], Sequence[Any]] = one
) -> list[Any]:
    """Return scale and zero point of any rule; where no scale helps, that of :eq:`grid-exact`."""
    levels, zero = grid_levels(grid), -code_range(**grid)[2]
    if 0 not in levels.values() and not any(flat(x)):
        return [Fraction(1, 2**126), zero]
    if rule == "mse-exact":
        return [choose_scale(x, grid, 0, scales), zero]
    if rule == "mse-200":
        return [trial_scale(x, grid) or 1, zero]
    if rule in ("max-abs", "max-abs-narrow", "max-abs-full", "max-abs-two-sided"):
        return [largest_scale(x, grid, rule) or 1, zero]
    return choose_affine(x, grid, rule, scales)


def power_of_two(scale: Any, po2: str) -> Fraction:
    """Return a power of two for a scale that is chosen already: :eq:`grid-po2`."""
    power = Fraction(1)
    while power > scale:
        power /= 2
    while 2 * power <= scale:
        power *= 2
    up = {"floor": False, "ceil": scale > power, "round": scale * scale > 2 * power * power}[po2]
    return 2 * power if up else power


def histogram(x: Nested, bins: int) -> Nested:
    """Return lower edge and count of every bin: :eq:`ranges-bins`."""
    values = flat(x)
    low, high = min([*values, 0]), max([*values, 0])
    width = Fraction(1) if low < high else Fraction(1, 2**1022)
    while low < high and high // width - low // width < bins:
        width /= 2
    while high // width - low // width >= bins:
        width *= 2
    table = [[(low // width + b) * width, 0] for b in range(bins)]
    for value in values:
        table[int(value // width - low // width)][1] += 1
    return table


def histogram_error(table: Matrix, first: int, last: int, levels: int) -> Any:
    """Return the error of a range; each bin is cut between two levels: :eq:`ranges-error`."""
    width, start = table[1][0] - table[0][0], table[first][0]
    step = width * (last - first + 1) / levels
    total = 0
    for edge, count in table:
        for level in range(levels):
            begin = edge if level == 0 else max(edge, start + level * step)
            end = edge + width
            if level < levels - 1:
                end = min(end, start + (level + 1) * step)
            if begin < end:
                middle = start + level * step + step / 2
                total += count * ((end - middle) ** 3 - (begin - middle) ** 3) / 3 / width
    return total / sum(count for _, count in table)


def histogram_range(
    table: Matrix, levels: int, *, search: str = "greedy", steps: int = 100_000
) -> list[Any]:
    """Search the range of least error: :eq:`ranges-greedy`, :eq:`ranges-pairs`."""
    width, counts = table[1][0] - table[0][0], [count for _, count in table]
    used = [b for b, count in enumerate(counts) if count]
    first, last, best = used[0], used[-1], None
    if search == "all-pairs":
        pairs = [(p, q) for p in range(first, last + 1) for q in range(p, last + 1)]
        first, last = min(pairs, key=lambda pair: histogram_error(table, pair[0], pair[1], levels))
        return [table[first][0], table[last][0] + width]
    below = [sum(counts[: b + 1]) for b in range(len(counts))]
    alpha, beta = Fraction(0), Fraction(1)
    while alpha < beta:
        left, right = first, last
        while left < last and below[left] < (alpha + Fraction(1, steps)) * below[-1]:
            left += 1
        while right > first and below[right] > (beta - Fraction(1, steps)) * below[-1]:
            right -= 1
        if left - first > last - right:
            alpha, new = alpha + Fraction(1, steps), (left, last)
        else:
            beta, new = beta - Fraction(1, steps), (first, right)
        if new != (first, last):
            error = histogram_error(table, *new, levels)
            if best is not None and error > best:
                break
            best, (first, last) = error, new
    return [table[first][0], table[last][0] + width]


def percentile(x: Nested, share: Any) -> Any:
    """Return the number below which ``share`` of 100 parts lie: :eq:`ranges-percentile`."""
    values = sorted(flat(x))
    place = (len(values) - 1) * Fraction(share) / 100
    low = floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def activation_scale(
    batches: Sequence[Nested], grid: dict[str, Any], *, rule: str = "min-max", **options: Any
) -> list[Any]:
    """Return scale and zero point of activations by one of the rules for ranges."""
    values = [value for x in batches for value in flat(x)]
    if rule == "mse-exact":
        return choose_affine(values, grid)
    low, high = min(values), max(values)
    if rule == "moving-average":
        new = Fraction(options["averaging"])
        low, high = min(flat(batches[0])), max(flat(batches[0]))
        for x in batches[1:]:
            low = (1 - new) * low + new * min(flat(x))
            high = (1 - new) * high + new * max(flat(x))
    elif rule == "percentile":
        cut = (100 - Fraction(options["percentile"])) / 2
        low, high = percentile(values, cut), percentile(values, 100 - cut)
    elif rule != "min-max":
        lowest, highest, _ = code_range(**grid)
        search = "greedy" if rule == "histogram" else "all-pairs"
        table = histogram(values, options["bins"])
        ends = histogram_range(table, highest - lowest + 1, search=search)
        low, high = max(low, ends[0]), min(high, ends[1])
    return choose_affine([low, high], grid, "min-max")
