"""Appendix: every operation as plain index loops.

The definitions, read literally: sums over index tuples, nothing else. Tensors are nested sequences
and numbers are whatever Python arithmetic accepts, so the same lines run on floats, where they are
an independent twin of the vectorised chapters, and on ``fractions.Fraction``, where they are exact
truth. Nothing here is shared with the chapters; only tests and the oracle import it.

Arguments are trusted: well-formed nested lists (``array.tolist()`` makes them). Each function cites
the equation that it spells out.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise, product
from math import floor, nextafter
from typing import Any

# A number of any type, a list of them, a list of lists...: mypy has no finite name for that.
Nested = Any
Matrix = Sequence[Sequence[Any]]

__all__ = [
    "accumulator_bound",
    "accumulators",
    "activation_scale",
    "admm",
    "allocate",
    "als_sweep",
    "at",
    "best_row",
    "build",
    "choose_affine",
    "choose_scale",
    "code_range",
    "conv",
    "cp_conv",
    "depthwise",
    "dequantize",
    "descend",
    "epc_tau",
    "factor_bytes",
    "fixed_point",
    "flat",
    "float32",
    "float64",
    "fold",
    "gain",
    "gram",
    "grid_levels",
    "grid_moments",
    "histogram",
    "histogram_error",
    "histogram_range",
    "indices",
    "int_conv",
    "integer_cp",
    "jacobi",
    "kernel_to_tensor",
    "khatri_rao",
    "lagrangian_bound",
    "matmul",
    "mttkrp",
    "nearest_plane",
    "number",
    "one",
    "output_normal",
    "output_part",
    "output_polish",
    "output_product",
    "output_row",
    "output_sweep",
    "pareto",
    "partial_error",
    "percentile",
    "place",
    "pointwise",
    "polish_sweep",
    "power_of_two",
    "quantize",
    "quotient",
    "rank_for_budget",
    "rank_for_rate",
    "reconstruct",
    "refit_scale",
    "requantize",
    "rescale",
    "ridge",
    "rounded",
    "row_objective",
    "second_moment",
    "sensitivity",
    "shape_of",
    "solve",
    "spread",
    "squared_error",
    "unfold",
    "window_starts",
]


# --- nested lists as tensors ----------------------------------------------------------------------


def shape_of(X: Nested) -> tuple[int, ...]:
    """Return the side lengths of a nested sequence."""
    sides = []
    while isinstance(X, (list, tuple)):
        sides.append(len(X))
        X = X[0]
    return tuple(sides)


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Run through all index tuples, the last index fastest."""
    return product(*(range(side) for side in shape))


def at(X: Nested, index: Sequence[int]) -> Any:
    """Return one entry of a nested sequence."""
    for i in index:
        X = X[i]
    return X


def build(shape: Sequence[int], entry: Callable[..., Any], index: tuple[int, ...] = ()) -> Nested:
    """Make a nested list from a function of the index tuple."""
    if len(index) == len(shape):
        return entry(*index)
    return [build(shape, entry, (*index, i)) for i in range(shape[len(index)])]


# --- tensor ---------------------------------------------------------------------------------------


def unfold(X: Nested, mode: int) -> Nested:
    """Spell out :eq:`tensor-unfold`: the column number counts the other indices in C order."""
    shape = shape_of(X)
    columns = 1
    for n, side in enumerate(shape):
        if n != mode:
            columns *= side
    M = [[None] * columns for _ in range(shape[mode])]
    for index in indices(shape):
        column = 0
        for n, side in enumerate(shape):
            if n != mode:
                column = column * side + index[n]
        M[index[mode]][column] = at(X, index)
    return M


def fold(M: Matrix, mode: int, shape: Sequence[int]) -> Nested:
    """Spell out the inverse of :eq:`tensor-unfold`."""

    def entry(*index: int) -> Any:
        column = 0
        for n, side in enumerate(shape):
            if n != mode:
                column = column * side + index[n]
        return M[index[mode]][column]

    return build(shape, entry)


def khatri_rao(matrices: Sequence[Matrix]) -> Nested:
    """Spell out :eq:`tensor-khatri-rao`: one row per index tuple, the last index fastest."""
    rank = len(matrices[0][0])
    rows = []
    for index in indices([len(A) for A in matrices]):
        row = []
        for r in range(rank):
            entry = 1
            for A, i in zip(matrices, index, strict=True):
                entry = entry * A[i][r]
            row.append(entry)
        rows.append(row)
    return rows


def gram(factors: Sequence[Matrix], mode: int | None = None) -> Nested:
    """Spell out :eq:`tensor-gram`: products over modes of sums over rows."""
    rank = len(factors[0][0])

    def entry(r: int, s: int) -> Any:
        value = 1
        for n, A in enumerate(factors):
            if n != mode:
                value = value * sum(row[r] * row[s] for row in A)
        return value

    return build((rank, rank), entry)


def mttkrp(X: Nested, factors: Sequence[Matrix], mode: int) -> Nested:
    """Spell out :eq:`tensor-mttkrp`: a sum over all entries of the tensor."""
    shape, rank = shape_of(X), len(factors[0][0])
    F = [[0] * rank for _ in range(shape[mode])]
    for index in indices(shape):
        for r in range(rank):
            term = at(X, index)
            for n, A in enumerate(factors):
                if n != mode:
                    term = term * A[index[n]][r]
            F[index[mode]][r] = F[index[mode]][r] + term
    return F


# --- cp -------------------------------------------------------------------------------------------


def reconstruct(factors: Sequence[Matrix], weights: Sequence[Any] | None = None) -> Nested:
    """Spell out :eq:`cp-model`: each entry is a sum over the components."""
    rank = len(factors[0][0])

    def entry(*index: int) -> Any:
        value = 0
        for r in range(rank):
            term = 1 if weights is None else weights[r]
            for A, i in zip(factors, index, strict=True):
                term = term * A[i][r]
            value = value + term
        return value

    return build([len(A) for A in factors], entry)


# --- als ------------------------------------------------------------------------------------------


def solve(G: Matrix, F: Matrix) -> Nested:
    """Solve :eq:`als-normal` for a regular ``G`` by elimination."""
    n = len(G)
    # G is symmetric, so each row a of the factor solves G a = f.
    work = [[*G[i], *(f[i] for f in F)] for i in range(n)]
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(work[i][k]))
        work[k], work[pivot] = work[pivot], work[k]
        for i in range(n):
            if i != k:
                ratio = work[i][k] / work[k][k]
                work[i] = [a - ratio * b for a, b in zip(work[i], work[k], strict=True)]
    return [[work[k][n + i] / work[k][k] for k in range(n)] for i in range(len(F))]


def jacobi(X: Matrix) -> list[tuple[list[Any], list[Any]]]:
    """Singular value decomposition by one-sided Jacobi rotations, largest first.

    Pairs of columns whose outer products add up to the matrix; the second ones have length 1, and
    both kinds are orthogonal among themselves.
    """
    rows, columns = shape_of(X)
    left = [[X[i][j] for i in range(rows)] for j in range(columns)]
    right = [[1 if i == j else 0 for i in range(columns)] for j in range(columns)]
    for _ in range(60):
        turned = False
        for p in range(columns):
            for q in range(p + 1, columns):
                a = sum(x * x for x in left[p])
                b = sum(x * x for x in left[q])
                c = sum(x * y for x, y in zip(left[p], left[q], strict=True))
                if c * c <= 2**-104 * a * b:
                    continue
                turned = True
                z = (b - a) / (2 * c)
                t = (1 if z >= 0 else -1) / (abs(z) + (1 + z * z) ** 0.5)
                cosine = (1 + t * t) ** -0.5
                for side in (left, right):
                    pairs = list(zip(side[p], side[q], strict=True))
                    side[p] = [cosine * (x - t * y) for x, y in pairs]
                    side[q] = [cosine * (t * x + y) for x, y in pairs]
        if not turned:
            break
    both = list(zip(left, right, strict=True))
    return sorted(both, key=lambda pair: -sum(x * x for x in pair[0]))


def als_sweep(X: Nested, factors: Sequence[Matrix]) -> Nested:
    """Update every factor once, each with the ones before it already new."""
    factors = list(factors)
    for n in range(len(factors)):
        factors[n] = solve(gram(factors, n), mttkrp(X, factors, n))
    return factors


def squared_error(X: Nested, factors: Sequence[Matrix]) -> Any:
    """Sum the squared differences of all entries."""
    fitted = reconstruct(factors)
    return sum((at(X, index) - at(fitted, index)) ** 2 for index in indices(shape_of(X)))


# --- grid -----------------------------------------------------------------------------------------


def code_range(
    bits: int,
    narrow: bool = False,
    mid_rise: bool = False,
    kind: str = "uniform",
    signed: bool = True,
) -> tuple[int, int, Any]:
    """Spell out :eq:`grid-codes`: lowest code, highest code, distance of a level from its code."""
    if kind in ("binary", "ternary"):
        return -1, 1, 0
    if not signed:
        return 0, 2**bits - 1, 0
    half = 2 ** (bits - 1)
    symmetric = narrow or kind == "log2"
    return (1 - half if symmetric else -half), half - 1, (Fraction(1, 2) if mid_rise else 0)


def grid_levels(grid: dict[str, Any]) -> dict[int, Any]:
    """Spell out :eq:`grid-kinds`: the level of every code."""
    lowest, highest, offset = code_range(**grid)
    codes = range(lowest, highest + 1)
    if grid.get("kind") == "binary":
        return {-1: -1, 1: 1}
    if grid.get("kind") == "log2":
        power = {k: Fraction(1, 2 ** (highest - abs(k))) for k in codes}
        return {k: power[k] if k > 0 else -power[k] if k < 0 else 0 for k in codes}
    return {k: k + offset for k in codes}


def spread(value: Nested, index: Sequence[int]) -> Any:
    """Return the entry that belongs to ``index``: a single number, or sides of 1 stand for all."""
    if not isinstance(value, (list, tuple)):
        return value
    shape = shape_of(value)
    return at(value, [0 if side == 1 else i for side, i in zip(shape, index, strict=True)])


def float32(x: Any) -> Fraction:
    """Return the nearest of the numbers with 24 binary digits; ties to the even last digit."""
    number = Fraction(x)
    exponent = number.numerator.bit_length() - number.denominator.bit_length()
    if Fraction(2) ** exponent > abs(number):
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    return round(number / unit) * unit


def quotient(x: Any, scale: Any, division: str) -> Any:
    """Spell out :eq:`grid-division`."""
    if division == "float32":
        return float32(float32(x) / float32(scale))
    if division == "reciprocal":
        return float32(float32(x) * float32(1 / float32(scale)))
    return x / scale


def rounded(t: Any, rounding: str = "half-even", draw: Any = 0) -> Any:
    """Spell out :eq:`grid-rounding`: one of the two integers around ``t``."""
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
    """Spell out :eq:`grid-place`: the number whose rounding is the code, before the zero point."""
    if grid.get("kind") != "log2":
        return t - code_range(**grid)[2]
    table = grid_levels(grid)
    t = min(max(Fraction(t), -1), 1)
    low = max(k for k, level in table.items() if level <= t)
    if table[low] == t:
        return low
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
    """Spell out :eq:`grid-quantize`."""
    lowest, highest, _ = code_range(**grid)

    def entry(*index: int) -> Any:
        if grid.get("kind") == "binary":
            return 1 if at(x, index) >= 0 else -1
        t = place(quotient(at(x, index), spread(scale, index), division), grid)
        code = rounded(t, rounding, spread(draws, index)) + spread(zero_point, index)
        return min(max(code, lowest), highest)

    return build(shape_of(x), entry)


def dequantize(
    codes: Nested, scale: Nested, zero_point: Nested = 0, *, grid: dict[str, Any] | None = None
) -> Nested:
    """Spell out :eq:`grid-dequantize`; levels of a grid without zero point if one is given."""
    level = grid_levels(grid) if grid else {}

    def entry(*index: int) -> Any:
        code = at(codes, index)
        return spread(scale, index) * (level.get(code, code) - spread(zero_point, index))

    return build(shape_of(codes), entry)


def grid_moments(
    x: Nested, grid: dict[str, Any], scale: Any, zero_point: int = 0
) -> tuple[Any, Any]:
    """Return S1 and S2 of :eq:`grid-gain`."""
    codes, level = quantize(x, grid, scale, zero_point), grid_levels(grid)
    places = list(indices(shape_of(x)))
    levels = [level[at(codes, index)] - zero_point for index in places]
    first = sum(at(x, index) * v for index, v in zip(places, levels, strict=True))
    return first, sum(v * v for v in levels)


def gain(x: Nested, grid: dict[str, Any], scale: Any, zero_point: int = 0) -> Any:
    """Return :eq:`grid-gain`."""
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
    """Spell out :eq:`grid-exact`: try every cell, and of equal gains take the largest scale.

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
        if first > 0:
            tried += [(gain(x, grid, s, zero_point), s) for s in scales(first / second)]
    return max(tried)[1] if tried else 1


def choose_affine(
    x: Nested,
    grid: dict[str, Any],
    rule: str = "mse-exact-affine",
    scales: Callable[[Any], Sequence[Any]] = one,
) -> list[Any]:
    """Spell out :eq:`grid-affine` and :eq:`grid-min-max`: scale and zero point."""
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
    scale = Fraction(top - bottom) / (highest - lowest)
    zero = {
        "min-max": rounded(lowest - bottom / scale),
        "min-max-torch": lowest - rounded(bottom / scale),
        "min-max-truncated": lowest - rounded(bottom / scale, "to-zero"),
    }[rule]
    return [scale, min(max(zero, lowest), highest)]


def power_of_two(scale: Any, po2: str) -> Fraction:
    """Spell out :eq:`grid-po2` for a scale that is chosen already."""
    power = Fraction(1)
    while power > scale:
        power /= 2
    while 2 * power <= scale:
        power *= 2
    up = {"floor": False, "ceil": scale > power, "round": scale * scale > 2 * power * power}[po2]
    return 2 * power if up else power


# --- ranges ---------------------------------------------------------------------------------------


def flat(x: Nested) -> list[Any]:
    """Return all entries in one list."""
    return [at(x, index) for index in indices(shape_of(x))]


def histogram(x: Nested, bins: int) -> Nested:
    """Spell out :eq:`ranges-bins`: lower edge and count of every bin."""
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
    """Spell out :eq:`ranges-error`: each bin is cut where one level takes over from another."""
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
    """Spell out :eq:`ranges-greedy` and :eq:`ranges-pairs`."""
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
    """Spell out the rules of the chapter: scale and zero point."""
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


# --- admm -----------------------------------------------------------------------------------------


def matmul(A: Matrix, B: Matrix) -> Nested:
    """Multiply two matrices."""
    return [[sum(a * B[k][j] for k, a in enumerate(row)) for j in range(len(B[0]))] for row in A]


def admm(
    F: Matrix,
    G: Matrix,
    project: Callable[[Nested], Nested],
    start: Matrix,
    dual: Matrix,
    steps: int,
) -> tuple[Nested, Nested, Nested]:
    """Make a given number of steps :eq:`admm-t` to :eq:`admm-u`; return H, T and U."""
    rows, rank = len(F), len(G)
    rho = sum(G[r][r] for r in range(rank)) / rank or 1
    system = [[G[r][s] + (rho if r == s else 0) for s in range(rank)] for r in range(rank)]
    H, T, U = start, start, dual
    for _ in range(steps):
        right = build((rows, rank), lambda i, r: F[i][r] + rho * (H[i][r] + U[i][r]))  # noqa: B023
        T = solve(system, right)
        H = project(build((rows, rank), lambda i, r: T[i][r] - U[i][r]))  # noqa: B023
        U = build((rows, rank), lambda i, r: U[i][r] + H[i][r] - T[i][r])  # noqa: B023
    return H, T, U


# --- epc ------------------------------------------------------------------------------------------


def ridge(F: Matrix, G: Matrix, tau: Any, weights: Sequence[Any] | None = None) -> Nested:
    """Spell out :eq:`epc-weighted`, with equal weights :eq:`epc-ridge`."""
    rank = len(G)
    omega = [1] * rank if weights is None else weights
    system = build((rank, rank), lambda r, s: G[r][s] + (tau * omega[r] if r == s else 0))
    return solve(system, F)


def partial_error(F: Matrix, G: Matrix, U: Matrix, squared_norm: Any) -> Any:
    """Spell out :eq:`als-error`: the squared error in terms of one factor."""
    linear = sum(
        f * u for f_row, u_row in zip(F, U, strict=True) for f, u in zip(f_row, u_row, strict=True)
    )
    UG = matmul(U, G)
    quadratic = sum(
        a * u for a_row, u_row in zip(UG, U, strict=True) for a, u in zip(a_row, u_row, strict=True)
    )
    return squared_norm - 2 * linear + quadratic


def epc_tau(
    F: Matrix,
    G: Matrix,
    squared_norm: Any,
    squared_bound: Any,
    bracket: tuple[Any, Any],
    steps: int,
    *,
    weights: Sequence[Any] | None = None,
) -> Any:
    """Bisect for the ridge parameter whose error meets the bound; the error rises with it."""
    low, high = bracket
    for _ in range(steps):
        middle = (low + high) / 2
        if partial_error(F, G, ridge(F, G, middle, weights), squared_norm) > squared_bound:
            high = middle
        else:
            low = middle
    return low


def sensitivity(factors: Sequence[Matrix], weights: Sequence[Any] | None = None) -> Any:
    """Spell out :eq:`epc-sensitivity`: add up what a change by one of each entry alone does."""
    before, total = reconstruct(factors, weights), 0
    for n, A in enumerate(factors):
        for entry in indices(shape_of(A)):
            moved = build(shape_of(A), lambda *place: at(A, place) + (place == entry))  # noqa: B023
            after = reconstruct([*factors[:n], moved, *factors[n + 1 :]], weights)
            changes = (at(after, index) - at(before, index) for index in indices(shape_of(before)))
            total = total + sum(change**2 for change in changes)
    return total


# --- rows -----------------------------------------------------------------------------------------


def row_objective(f: Sequence[Any], G: Matrix, v: Sequence[Any]) -> Any:
    """Spell out :eq:`rows-problem` for one row of levels."""
    places = range(len(v))
    square = sum(v[r] * G[r][q] * v[q] for r in places for q in places)
    return square - 2 * sum(f[r] * v[r] for r in places)


def best_row(f: Sequence[Any], G: Matrix, levels: Sequence[Sequence[Any]]) -> list[Any]:
    """Try all rows of levels, given for each column; of equally good ones the first is returned."""
    rows: list[list[Any]] = [[]]
    for column in levels:
        rows = [[*row, level] for row in rows for level in column]
    return min(rows, key=lambda v: row_objective(f, G, v))


def descend(
    f: Sequence[Any], G: Matrix, v: Sequence[Any], dither: Sequence[Any], box: tuple[Any, Any, Any]
) -> list[Any]:
    """Spell out :eq:`rows-descent` for one row, in steps."""
    low, high, offset = box
    v = list(v)
    for r in range(len(v)):
        if G[r][r] != 0:
            others = sum(v[q] * G[q][r] for q in range(len(v)) if q != r)
            vertex = (f[r] - others) / G[r][r]
            v[r] = min(max(round(vertex + dither[r] - offset), low), high) + offset
    return v


def nearest_plane(
    f: Sequence[Any], G: Matrix, decided: Sequence[int], box: tuple[Any, Any, Any]
) -> list[Any]:
    """Decide the levels of one row in this order; the others follow by least squares each time."""
    low, high, offset = box
    known: dict[int, Any] = {}
    for r in decided:
        left = [q for q in range(len(f)) if q not in known]
        right = [f[q] - sum(v * G[p][q] for p, v in known.items()) for q in left]
        wanted = solve([[G[p][q] for q in left] for p in left], [right])[0][left.index(r)]
        known[r] = min(max(round(wanted - offset), low), high) + offset
    return [known[r] for r in range(len(f))]


def refit_scale(F: Matrix, G: Matrix, V: Matrix) -> Any:
    """Spell out :eq:`rows-scale` for one scale."""
    VG = matmul(V, G)
    places = list(indices(shape_of(V)))
    top = sum(at(F, index) * at(V, index) for index in places)
    return top / sum(at(VG, index) * at(V, index) for index in places)


# --- search ---------------------------------------------------------------------------------------


def polish_sweep(
    X: Nested, levels: Sequence[Matrix], scales: Sequence[Any], box: tuple[Any, Any, Any]
) -> tuple[Nested, Nested]:
    """Spell out :eq:`search-sweep` for one scale per factor; return levels and scales."""
    levels, scales = list(levels), list(scales)
    for n in range(len(levels)):
        factors = [[[s * v for v in row] for row in V] for V, s in zip(levels, scales, strict=True)]
        F, G, s = mttkrp(X, factors, n), gram(factors, n), scales[n]
        still = [0] * len(G)
        levels[n] = [
            descend([f / s for f in row], G, v, still, box)
            for row, v in zip(F, levels[n], strict=True)
        ]
        scales[n] = refit_scale(F, G, levels[n])
    return levels, scales


# --- conv -----------------------------------------------------------------------------------------


def window_starts(
    sides: Sequence[int], spans: Sequence[int], stride: Any, padding: Any
) -> list[range]:
    """List where windows start, per axis, from the image's first pixel; zeros lie outside."""
    d = len(sides)
    steps = [stride] * d if isinstance(stride, int) else stride
    if padding == "valid":
        padding = 0
    zeros = [padding] * d if isinstance(padding, int) else padding
    starts = []
    for axis, (side, span, step) in enumerate(zip(sides, spans, steps, strict=True)):
        if padding == "same":
            # One window per step of the image; the last one decides how many zeros are missing.
            missing = max(0, range(0, side, step)[-1] + span - side)
            before, after = missing // 2, missing - missing // 2
        elif len(zeros) == 2 * d:
            before, after = zeros[axis], zeros[d + axis]
        else:
            before = after = zeros[axis]
        starts.append(range(-before, side + after - span + 1, step))
    return starts


def conv(
    x: Nested, W: Nested, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, bias: Any = None
) -> Nested:
    """Spell out :eq:`conv-dense`; padding is a zero that is read outside the image."""
    images, channels, *sides = shape_of(x)
    outputs, _, *kernel = shape_of(W)
    apart = [dilation] * len(sides) if isinstance(dilation, int) else dilation
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, apart, strict=True)]
    starts = window_starts(sides, spans, stride, padding)

    def entry(n: int, o: int, *position: int) -> Any:
        value = 0 if bias is None else bias[o]
        for i in indices(kernel):
            pixel = [starts[a][position[a]] + apart[a] * i[a] for a in range(len(sides))]
            inside = all(0 <= p < side for p, side in zip(pixel, sides, strict=True))
            for c in range(channels):
                value = value + at(W[o][c], i) * (at(x[n][c], pixel) if inside else 0)
        return value

    return build((images, outputs, *map(len, starts)), entry)


def pointwise(x: Nested, A: Matrix, **options: Any) -> Nested:
    """Spell out :eq:`conv-pointwise`: the matrix is a 1x1 kernel."""
    ones = [1] * len(shape_of(x)[2:])
    return conv(x, build((*shape_of(A), *ones), lambda o, c, *_: A[o][c]), **options)


def number(index: Sequence[int], sides: Sequence[int]) -> int:
    """Count the entries before one of a kernel, in the order of :eq:`conv-tensor`."""
    k = 0
    for i, side in zip(index, sides, strict=True):
        k = k * side + i
    return k


def depthwise(x: Nested, C: Matrix, *, kernel_size: Any, **options: Any) -> Nested:
    """Spell out :eq:`conv-depthwise`: each channel by itself, with its column as the kernel."""
    d = len(shape_of(x)) - 2
    kernel = [kernel_size] * d if isinstance(kernel_size, int) else kernel_size
    planes = []
    for r in range(len(C[0])):
        W = build((1, 1, *kernel), lambda _o, _c, *i: C[number(i, kernel)][r])  # noqa: B023
        planes.append(conv([[image[r]] for image in x], W, **options))
    return [[plane[n][0] for plane in planes] for n in range(len(x))]


def cp_conv(
    x: Nested, factors: Sequence[Matrix], *, kernel_size: Any, bias: Any = None, **options: Any
) -> Nested:
    """Spell out :eq:`conv-cp` for two or three factors with unit weights."""
    a_out, a_in, *a_kernel = factors
    transposed = [list(column) for column in zip(*a_in, strict=True)]
    if a_kernel:
        z = depthwise(pointwise(x, transposed), a_kernel[0], kernel_size=kernel_size, **options)
    else:
        z = pointwise(x, transposed, **options)
    return pointwise(z, a_out, bias=bias)


# Under the names of the public functions, which fix the number of axes.
conv1d = conv2d = conv3d = conv
cp_conv1d = cp_conv2d = cp_conv3d = cp_conv


def kernel_to_tensor(W: Nested) -> Nested:
    """Spell out :eq:`conv-tensor` for kernels of more than one entry."""
    outputs, channels, *kernel = shape_of(W)
    X = build((outputs, channels, len(list(indices(kernel)))), lambda *_: None)
    for o, c, *i in indices((outputs, channels, *kernel)):
        X[o][c][number(i, kernel)] = at(W[o][c], i)
    return X


# --- output ---------------------------------------------------------------------------------------


def second_moment(x: Nested, kernel_size: Any, **options: Any) -> Nested:
    """Spell out :eq:`output-moment`; kernels with a single one pick the entries of patches."""
    images, channels, *sides = shape_of(x)
    kernel = [kernel_size] * len(sides) if isinstance(kernel_size, int) else kernel_size
    shape = (channels, *kernel)
    size = len(list(indices(shape)))
    y = conv(x, build((size, *shape), lambda p, *i: int(number(i, shape) == p)), **options)
    places = list(indices((images, *shape_of(y)[2:])))

    def entry(p: int, q: int) -> Any:
        return sum(at(y[n][p], u) * at(y[n][q], u) for n, *u in places) / len(places)

    return build((size, size), entry)


def output_product(D: Nested, S: Matrix, E: Nested) -> Any:
    """Spell out :eq:`output-error` for two changes of a kernel, or one given twice."""
    left, right = unfold(D, 0), unfold(E, 0)
    total = 0
    for i, p, q in indices((len(left), len(S), len(S))):
        total = total + left[i][p] * S[p][q] * right[i][q]
    return total


def output_normal(
    X: Nested,
    factors: Sequence[Matrix],
    S: Matrix,
    mode: int,
    directions: Sequence[Matrix],
    rest: Matrix,
) -> tuple[list[Any], Nested]:
    """Return both terms of the problem of a factor that is ``rest`` and a sum of directions."""

    def tensor(A: Matrix) -> Nested:
        return reconstruct([A if n == mode else B for n, B in enumerate(factors)])

    parts, fixed = [tensor(E) for E in directions], tensor(rest)
    left = build(shape_of(X), lambda *index: at(X, index) - at(fixed, index))
    linear = [output_product(left, S, P) for P in parts]
    return linear, [[output_product(P, S, Q) for Q in parts] for P in parts]


def output_row(
    X: Nested, factors: Sequence[Matrix], S: Matrix, mode: int, row: int
) -> tuple[list[Any], Nested]:
    """Spell out :eq:`output-normal` and :eq:`output-row`: one direction per entry of the row."""
    A = factors[mode]
    shape = shape_of(A)
    units = [build(shape, lambda i, s: int((i, s) == (row, r))) for r in range(shape[1])]  # noqa: B023
    return output_normal(
        X, factors, S, mode, units, build(shape, lambda i, s: 0 if i == row else A[i][s])
    )


def output_sweep(X: Nested, factors: Sequence[Matrix], S: Matrix) -> Nested:
    """Solve for every row once, each with the ones before it already new."""
    new: list[Any] = [list(A) for A in factors]
    for mode, A in enumerate(new):
        for row in range(len(A)):
            linear, quadratic = output_row(X, new, S, mode, row)
            A[row] = solve(quadratic, [linear])[0]
    return new


def output_part(
    X: Nested, factors: Sequence[Matrix], S: Matrix, mode: int, V: Matrix, places: Nested
) -> tuple[Any, Any]:
    """Return both terms of the problem of the number that multiplies some entries of ``V``."""
    A = factors[mode]
    one = build(shape_of(A), lambda *index: at(V, index) if index in places else 0)
    rest = build(shape_of(A), lambda *index: 0 if index in places else at(A, index))
    (linear,), ((quadratic,),) = output_normal(X, factors, S, mode, [one], rest)
    return linear, quadratic


def output_polish(
    X: Nested, codes: Sequence[Matrix], scales: Sequence[Nested], S: Matrix, grid: dict[str, Any]
) -> tuple[Nested, Nested]:
    """Try every level in every place once, and give each factor the scales of :eq:`output-scale`.

    Returns codes and factors.
    """
    level = grid_levels(grid)
    new: list[Any] = [[list(row) for row in k] for k in codes]
    factors: list[Any] = [dequantize(k, s, grid=grid) for k, s in zip(new, scales, strict=True)]
    for mode, (k, scale, A) in enumerate(zip(new, scales, factors, strict=True)):
        rows, rank = shape_of(k)
        steps = build((rows, rank), lambda *index: spread(scale, index))  # noqa: B023
        every = list(indices((rows, rank)))
        groups, by_row = [every], shape_of(scale) == (rows, 1)  # of entries with one scale
        if by_row:
            groups = [[index for index in every if index[0] == i] for i in range(rows)]
        elif shape_of(scale) == (1, rank):
            groups = [[index for index in every if index[1] == r] for r in range(rank)]
        for i, r in every:
            linear, quadratic = output_part(X, factors, S, mode, steps, [(i, r)])
            cost = {c: v * (v * quadratic - 2 * linear) for c, v in level.items()}
            present = k[i][r]
            k[i][r] = min(cost, key=lambda c: (cost[c], c != present))
            A[i][r] = steps[i][r] * level[k[i][r]]
            # The scale of a row is chosen before the next row, any other one after all rows.
            due = groups[i : i + 1] if by_row else groups
            for group in due if (i, r) == due[-1][-1] else []:
                levels = dequantize(k, 1, grid=grid)
                linear, quadratic = output_part(X, factors, S, mode, levels, group)
                for j, s in group if linear > 0 and quadratic > 0 else []:
                    A[j][s] = linear / quadratic * levels[j][s]
    return new, factors


# --- integer --------------------------------------------------------------------------------------


def accumulators(
    operation: Callable[..., Nested], x: Nested, weights: Nested, zero_point: int, **options: Any
) -> Nested:
    """Spell out :eq:`integer-accumulator`: codes times weights, less zero point times weights.

    Both sums leave out the positions outside the image, where the two would cancel.
    """
    codes = operation(x, weights, **options)
    options.pop("bias", None)
    ones = operation(build(shape_of(x), lambda *_: 1), weights, **options)
    return build(shape_of(codes), lambda *index: at(codes, index) - zero_point * at(ones, index))


def int_conv(x: Nested, W: Nested, *, zero_point: int = 0, **options: Any) -> Nested:
    """Spell out :eq:`integer-accumulator` for a dense kernel."""
    return accumulators(conv, x, W, zero_point, **options)


def accumulator_bound(
    W: Nested, grid: dict[str, Any], *, zero_point: int = 0, bias: Any = None
) -> list[Any]:
    """Spell out :eq:`integer-bound`: each weight meets the code that is worst for it."""
    lowest, highest, _ = code_range(**grid)
    shape, bounds = shape_of(W), []
    for o in range(shape[0]):
        start = 0 if bias is None else bias[o]
        upper, lower = max(start, 0), min(start, 0)
        for index in indices(shape[1:]):
            terms = [at(W[o], index) * (q - zero_point) for q in range(lowest, highest + 1)]
            upper, lower = upper + max(terms), lower + min(terms)
        bounds.append(max(upper, -lower))
    return bounds


def fixed_point(multiplier: Any) -> tuple[int, int]:
    """Spell out :eq:`integer-fixed`: double or halve until the number is in [1/2, 1)."""
    value, shift = Fraction(multiplier), 0
    while value >= 1:
        value, shift = value / 2, shift + 1
    while value < Fraction(1, 2):
        value, shift = value * 2, shift - 1
    m = floor(value * 2**31 + Fraction(1, 2))
    if m == 2**31:
        m, shift = 2**30, shift + 1
    return (m, shift) if shift >= -31 else (0, 0)


def rescale(acc: Any, multiplier: Any, mode: str) -> int:
    """Round one number by :eq:`integer-exact`, :eq:`integer-single` or :eq:`integer-double`."""
    if mode == "exact":
        code: int = round(acc * multiplier)
        return code
    half = Fraction(1, 2)
    m, shift = fixed_point(multiplier)
    if mode == "single":
        return floor(Fraction(acc * m, 2 ** (31 - shift)) + half)
    wide = min(max(acc * 2 ** max(shift, 0), -(2**31)), 2**31 - 1)
    high = floor(Fraction(wide * m, 2**31) + half)
    size = floor(Fraction(abs(high), 2 ** max(-shift, 0)) + half)
    return size if high >= 0 else -size


def requantize(
    acc: Nested, multiplier: Nested, zero_point: int, grid: dict[str, Any], *, mode: str = "exact"
) -> Nested:
    """Round, add the zero point, clip."""
    lowest, highest, _ = code_range(**grid)

    def entry(*index: int) -> int:
        code = rescale(at(acc, index), spread(multiplier, index), mode) + zero_point
        return min(max(code, lowest), highest)

    return build(shape_of(acc), entry)


def integer_cp(
    x: Nested,
    factors: Sequence[Matrix],
    steps: Sequence[Any],
    scales: Sequence[tuple[Any, int]],
    grid: dict[str, Any],
    *,
    kernel_size: Any = 1,
    bias: Any = None,
    relu: bool = False,
    mode: str = "exact",
    **options: Any,
) -> Nested:
    """Spell out :eq:`integer-layer`; ``steps`` are the scales of the factors.

    On floats the multipliers are made in the order of :eq:`integer-multiplier`.
    """
    a_out, a_in, *a_kernel = factors
    transposed = [list(column) for column in zip(*a_in, strict=True)]
    by_column = shape_of(steps[0])[:1] == (1,)
    sigma = max(steps[0][0]) if by_column else steps[0]
    widths = [[spread(step, (0, r)) for r in range(len(transposed))] for step in steps[1:]]
    widths.append([spread(sigma, (o, 0)) for o in range(len(a_out))])
    unit, zeros = scales[-2][0], [0] * len(a_out)
    start = [round(b / (unit * w)) for b, w in zip(bias or zeros, widths[-1], strict=True)]
    stages: list[Any] = [(pointwise, transposed, {} if a_kernel else options)]
    stages += [(depthwise, C, {"kernel_size": kernel_size, **options}) for C in a_kernel]
    stages += [(pointwise, a_out, {"bias": start})]
    for n, (operation, weights, more) in enumerate(stages):
        (s, z), (s_next, z_next) = scales[n], scales[n + 1]
        M = [s * w / s_next for w in widths[n]]
        if by_column and n == len(stages) - 2:
            M = [m * (spread(steps[0], (0, r)) / sigma) for r, m in enumerate(M)]
        acc = accumulators(operation, x, weights, z, **more)
        spatial = [1] * (len(shape_of(acc)) - 2)
        each = build((1, len(M), *spatial), lambda _, c, *__: M[c])  # noqa: B023
        x = requantize(acc, each, z_next, grid, mode=mode)
    lowest = scales[-1][1] if relu else code_range(**grid)[0]
    return build(shape_of(x), lambda *index: max(at(x, index), lowest))


# --- cost -----------------------------------------------------------------------------------------


def rank_for_rate(shape: Sequence[int], rate: Any) -> int:
    """Count up to the largest rank that :eq:`cost-rank` allows."""
    q = Fraction(str(rate))
    entries = 1
    for side in shape:
        entries = entries * side
    rank = 0
    while (rank + 1) * sum(shape) * q <= entries:
        rank += 1
    return rank


# --- budget ---------------------------------------------------------------------------------------


def factor_bytes(
    sides: Sequence[int], rank: int, bits: int, axis: int | None, scale_bytes: int
) -> int:
    """Count codes and scales of :eq:`cost-bytes`, factor after factor, and fill bytes with bits."""
    filled, scales = 0, 0
    for side in sides:
        filled += sum(bits for _ in indices((side, rank)))
        scales += {None: 1, 0: side, 1: rank}[axis]
    return len(range(0, filled, 8)) + scales * scale_bytes


def rank_for_budget(cost: Callable[[int], Any], budget: Any) -> int:
    """Count up to the largest rank that :eq:`budget-rank` allows."""
    rank = 0
    while cost(rank + 1) <= budget:
        rank += 1
    return rank


def pareto(points: Sequence[tuple[Any, Any]]) -> list[bool]:
    """Spell out :eq:`budget-pareto` for pairs of cost and damage; of equals the first."""

    def undercut(n: int) -> bool:
        cost, damage = points[n]
        return any(
            c <= cost and d <= damage and ((c, d) != (cost, damage) or m < n)
            for m, (c, d) in enumerate(points)
        )

    return [not undercut(n) for n in range(len(points))]


def allocate(layers: Sequence[Sequence[tuple[Any, Any]]], budget: Any) -> list[int] | None:
    """Try all of :eq:`budget-problem`, for pairs of cost and damage; None if nothing fits."""
    best = None
    for picks in indices([len(points) for points in layers]):
        taken = [points[n] for points, n in zip(layers, picks, strict=True)]
        cost, damage = (sum(column) for column in zip(*taken, strict=True))
        order = (damage, cost, [c for c, _ in taken], list(picks))
        if cost <= budget and (best is None or order < best):
            best = order
    return best and best[-1]


def lagrangian_bound(layers: Sequence[Sequence[tuple[Any, Any]]], budget: Any) -> Any:
    """Spell out :eq:`budget-bound`; a concave function bends only where two points are level."""
    slopes = [
        Fraction(d - e) / (f - c)
        for points in layers
        for (c, d), (f, e) in product(points, points)
        if c < f and d > e
    ]
    bounds = []
    for multiplier in [Fraction(0), *slopes]:
        least = sum(min(d + multiplier * c for c, d in points) for points in layers)
        bounds.append(least - multiplier * budget)
    return max(bounds)
