"""Index loops of layers: convolutions, outputs, integer arithmetic, costs."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor
from typing import Any

from qcp_ref.loops.grids import code_range, dequantize, float32, grid_levels
from qcp_ref.loops.nested import Matrix, Nested, at, build, indices, shape_of, spread
from qcp_ref.loops.tensors import reconstruct, solve, unfold

__all__ = [
    "accumulator_bound",
    "accumulators",
    "conv",
    "cp_conv",
    "depthwise",
    "fixed_point",
    "int_conv",
    "integer_cp",
    "kernel_to_tensor",
    "number",
    "output_normal",
    "output_part",
    "output_polish",
    "output_product",
    "output_row",
    "output_sweep",
    "pointwise",
    "rank_for_rate",
    "requantize",
    "rescale",
    "second_moment",
    "window_starts",
]


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


def int_conv(
    x: Nested, W: Nested, *, zero_point: int = 0, weight_zero_point: Any = 0, **options: Any
) -> Nested:
    """Spell out :eq:`integer-accumulator` for a dense kernel."""
    zeros = weight_zero_point
    W = build(
        shape_of(W),
        lambda o, *i: at(W[o], i) - (zeros[o] if isinstance(zeros, list) else zeros),
    )
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
    """Round one number by :eq:`integer-exact`, its float32 form, or one of the fixed-point rules.

    These are :eq:`integer-float32`, :eq:`integer-single` and :eq:`integer-double`.
    """
    if mode in ("exact", "float32"):
        product = acc * multiplier
        if mode == "float32":  # fl32(fl32(M) fl32(a))
            product = float32(float32(acc) * float32(multiplier))
        code: int = round(product)
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
