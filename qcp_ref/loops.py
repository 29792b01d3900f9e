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
from itertools import product
from typing import Any

# A number of any type, a list of them, a list of lists...: mypy has no finite name for that.
Nested = Any
Matrix = Sequence[Sequence[Any]]

__all__ = [
    "admm",
    "als_sweep",
    "at",
    "build",
    "choose_scale",
    "code_range",
    "conv2d",
    "cp_conv2d",
    "depthwise",
    "dequantize",
    "epc_tau",
    "fold",
    "gram",
    "grid_moments",
    "indices",
    "kernel_to_tensor",
    "khatri_rao",
    "matmul",
    "mttkrp",
    "partial_error",
    "pointwise",
    "quantize",
    "rank_for_rate",
    "reconstruct",
    "ridge",
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


def code_range(bits: int, narrow: bool = False, mid_rise: bool = False) -> tuple[int, int, Any]:
    """Spell out :eq:`grid-codes`: lowest code, highest code, distance of a level from its code."""
    half = 2 ** (bits - 1)
    return (1 - half if narrow else -half), half - 1, (Fraction(1, 2) if mid_rise else 0)


def spread(value: Nested, index: Sequence[int]) -> Any:
    """Return the entry that belongs to ``index``: a single number, or sides of 1 stand for all."""
    if not isinstance(value, (list, tuple)):
        return value
    shape = shape_of(value)
    return at(value, [0 if side == 1 else i for side, i in zip(shape, index, strict=True)])


def quantize(x: Nested, grid: dict[str, Any], scale: Nested, zero_point: Nested = 0) -> Nested:
    """Spell out :eq:`grid-quantize`; Python's ``round`` takes ties to even."""
    lowest, highest, offset = code_range(**grid)

    def entry(*index: int) -> Any:
        code = round(at(x, index) / spread(scale, index) - offset) + spread(zero_point, index)
        return min(max(code, lowest), highest)

    return build(shape_of(x), entry)


def dequantize(codes: Nested, scale: Nested, zero_point: Nested = 0) -> Nested:
    """Spell out :eq:`grid-dequantize`."""
    return build(
        shape_of(codes),
        lambda *index: spread(scale, index) * (at(codes, index) - spread(zero_point, index)),
    )


def grid_moments(x: Nested, grid: dict[str, Any], scale: Any) -> tuple[Any, Any]:
    """Return S1 and S2 of :eq:`grid-gain`."""
    offset = code_range(**grid)[2]
    codes = quantize(x, grid, scale)
    places = list(indices(shape_of(x)))
    levels = [at(codes, index) + offset for index in places]
    first = sum(at(x, index) * level for index, level in zip(places, levels, strict=True))
    return first, sum(level * level for level in levels)


def choose_scale(x: Nested, grid: dict[str, Any]) -> Any:
    """Spell out :eq:`grid-exact`: try every cell, and of equal gains take the largest scale."""
    lowest, highest, offset = code_range(**grid)
    breaks = {0}
    for index in indices(shape_of(x)):
        for code in range(lowest + 1, highest + 1):
            step = code + offset - Fraction(1, 2)
            if step * at(x, index) > 0:
                breaks.add(at(x, index) / step)
    ends = sorted(breaks)
    best, chosen = 0, 1
    for left, right in zip(ends, [*ends[1:], 2 * ends[-1] + 2], strict=True):
        first, second = grid_moments(x, grid, (left + right) / 2)
        if first > 0 and (first * first / second, first / second) > (best, chosen):
            best, chosen = first * first / second, first / second
    return chosen


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


def ridge(F: Matrix, G: Matrix, tau: Any) -> Nested:
    """Spell out :eq:`epc-ridge`."""
    rank = len(G)
    system = [[G[r][s] + (tau if r == s else 0) for s in range(rank)] for r in range(rank)]
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
) -> Any:
    """Bisect for the ridge parameter whose error meets the bound; the error rises with it."""
    low, high = bracket
    for _ in range(steps):
        middle = (low + high) / 2
        if partial_error(F, G, ridge(F, G, middle), squared_norm) > squared_bound:
            high = middle
        else:
            low = middle
    return low


# --- conv -----------------------------------------------------------------------------------------


def window_starts(
    sides: Sequence[int], spans: Sequence[int], stride: Any, padding: Any
) -> list[range]:
    """List where windows start, per axis, from the image's first pixel; zeros lie outside."""
    steps = [stride, stride] if isinstance(stride, int) else stride
    starts = []
    for axis, (side, span, step) in enumerate(zip(sides, spans, steps, strict=True)):
        before = after = 0
        if padding == "same":
            # One window per step of the image; the last one decides how many zeros are missing.
            missing = max(0, range(0, side, step)[-1] + span - side)
            before, after = missing // 2, missing - missing // 2
        elif isinstance(padding, int):
            before = after = padding
        elif len(padding) == 2:
            before = after = padding[axis]
        elif padding != "valid":
            top, left, bottom, right = padding
            before, after = [(top, bottom), (left, right)][axis]
        starts.append(range(-before, side + after - span + 1, step))
    return starts


def conv2d(
    x: Nested, W: Nested, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, bias: Any = None
) -> Nested:
    """Spell out :eq:`conv-dense`; padding is a zero that is read outside the image."""
    images, channels, height, width = shape_of(x)
    outputs, _, kh, kw = shape_of(W)
    down, right = [dilation, dilation] if isinstance(dilation, int) else dilation
    spans = (down * (kh - 1) + 1, right * (kw - 1) + 1)
    rows, columns = window_starts((height, width), spans, stride, padding)

    def entry(n: int, o: int, u: int, v: int) -> Any:
        value = 0 if bias is None else bias[o]
        for c, i, j in indices((channels, kh, kw)):
            p, q = rows[u] + down * i, columns[v] + right * j
            inside = 0 <= p < height and 0 <= q < width
            value = value + W[o][c][i][j] * (x[n][c][p][q] if inside else 0)
        return value

    return build((images, outputs, len(rows), len(columns)), entry)


def pointwise(x: Nested, A: Matrix, **options: Any) -> Nested:
    """Spell out :eq:`conv-pointwise`: the matrix is a 1x1 kernel."""
    return conv2d(x, [[[[a]] for a in row] for row in A], **options)


def depthwise(x: Nested, C: Matrix, *, kernel_size: Any, **options: Any) -> Nested:
    """Spell out :eq:`conv-depthwise`: each channel by itself, with its column as the kernel."""
    kh, kw = [kernel_size, kernel_size] if isinstance(kernel_size, int) else kernel_size
    planes = []
    for r in range(len(C[0])):
        W = build((1, 1, kh, kw), lambda _o, _c, i, j: C[i * kw + j][r])  # noqa: B023
        planes.append(conv2d([[image[r]] for image in x], W, **options))
    return [[plane[n][0] for plane in planes] for n in range(len(x))]


def cp_conv2d(
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


def kernel_to_tensor(W: Nested) -> Nested:
    """Spell out :eq:`conv-tensor` for kernels larger than 1x1."""
    outputs, channels, kh, kw = shape_of(W)
    return build((outputs, channels, kh * kw), lambda o, c, k: W[o][c][k // kw][k % kw])


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
