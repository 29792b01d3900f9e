"""Right calls of every public function and class: what test_arguments.py puts wrong values into.

One entry per function: its arguments, of which kinds each is, and a right value. Values are small
and dyadic, so that a right value in another form gives the same bits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import qcp_ref as q

GRID = q.Grid(4)


class Argument(NamedTuple):
    """Kinds of an argument, its right value, values that it takes beside those of its kinds."""

    kinds: tuple[str, ...]
    value: Any
    takes: tuple[str, ...] = ()


class Call(NamedTuple):
    """A function and its arguments; those by position come first."""

    function: Callable[..., Any]
    arguments: dict[str, Argument]
    positional: int


class Everything(tuple[str, ...]):
    """What an argument takes whose entries are not looked at; some values may be refused."""

    __slots__ = ()

    def __contains__(self, expression: object) -> bool:
        return True


REGISTRY: dict[str, Call] = {}


def register(name: str, function: Callable[..., Any], positional: int, **arguments: Any) -> None:
    """Add a call; an argument is written (kinds, value) or (kinds, value, takes)."""
    made = {key: Argument(tuple(k.split()), *rest) for key, (k, *rest) in arguments.items()}
    REGISTRY[name] = Call(function, made, positional)


def numbers(*shape: int, seed: int = 0) -> Any:
    """Multiples of 1/8 from -2 to 2, never 0."""
    drawn = np.random.default_rng([seed, 5]).integers(1, 17, shape)
    return np.where(drawn > 8, drawn - 17, drawn) / 8


X = numbers(3, 2, 2)
FACTORS = [numbers(3, 2, seed=1), numbers(2, 2, seed=2), numbers(2, 2, seed=3)]
THE_CP = q.CP(FACTORS)
NEAR = q.cp_als(X, 2).cp
CODES = q.quantize_cp(THE_CP, GRID)
W = numbers(3, 2, 1, 2, seed=4)
KERNEL_CP = q.CP([numbers(3, 2, seed=5), numbers(2, 2, seed=6), numbers(2, 2, seed=7)])
F, B = numbers(3, 2, seed=8), numbers(4, 2, seed=9)
G = B.T @ B
S = np.eye(4) + np.ones((4, 4)) / 4
IMAGE = numbers(1, 2, 3, 4, seed=10)
HISTOGRAM = q.Histogram([1, 4, 3, 0, 2, 1, 1, 1], 0.0, 8.0)
BYTES = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
SMALL = np.array([[1, -2], [3, 0], [2, 1]])
LINEAR_CP = q.quantize_cp(q.CP(FACTORS[:2]), GRID)
SCALES = [q.Scale(np.array(0.5), 0.0, "given")] * 3
LAYER = q.integer_cp(LINEAR_CP, SCALES, q.Grid(8))
CHOICES = [q.Choice(r, 4, None, 100 * r, 1 / r, 1 / r**2) for r in (1, 2, 4)]
LINEAR = q.compress_linear(F, rank=1, sweeps=1)
CONV = q.compress_conv(W, rank=1, sweeps=1)

NONE = ("None",)
# What is read as some arrays without axes.
LISTS = ("[-1]", "[0]", "[2, 2]", "[2] * 9", "[1.5]", "[-0.5, 2.0]", "range(2, 4)", "[[1], [1, 2]]")
WIDE = ("v.tolist()", "v.astype(np.int64)")  # bytes only
AXIS = ("integer", None, NONE)
STRIDE = {"stride": ("integers", 1), "dilation": ("integers", 1)}
PADDING = {"padding": ("integers option", 0, ("[0]",))}
GEOMETRY = STRIDE | PADDING
TENSOR = {"X": ("array", X)}
RATE_TAKES = ('"2"', 'np.str_("2")', "str(v)")
CALLBACK = ("callback", None, NONE)
COUNTED = {
    "cost": ("option", "bytes"),
    "axis": AXIS,
    "scale_bytes": ("integer", 8),
    "activation_bits": ("integer", 32),
    "input_size": ("integers", (3, 4), NONE),
    **GEOMETRY,
}
METHOD = {
    "method": ("option", "best"),
    "rng": ("seed", 0),
    "axis": AXIS,
    "rule": ("option", "mse-exact"),
    "slack": ("real", None, NONE),
    "sweeps": ("integer", 1, NONE),
    "restarts": ("integer", 1, NONE),
}
COMPRESS = {
    "rate": ("real", None, (*NONE, *RATE_TAKES)),
    "rank": ("integer", 1, NONE),
    "bits": ("integer object", 4),
    **METHOD,
}

register("gamma", q.gamma, 2, n=("integer", 3), dtype=("dtype", np.float64))
register(
    "rounding_bound",
    q.rounding_bound,
    2,
    lengths=("integers", 3),
    magnitude=("array", abs(F)),
    dtype=("dtype", np.float64),
)
register("unfold", q.unfold, 2, **TENSOR, mode=("integer", 1))
register(
    "fold", q.fold, 3, M=("array", q.unfold(X, 1)), mode=("integer", 1), shape=("integers", X.shape)
)
register("khatri_rao", q.khatri_rao, 1, matrices=("arrays", FACTORS))
register("gram", q.gram, 2, factors=("arrays", FACTORS), mode=("integer", 1, NONE))
register("mttkrp", q.mttkrp, 3, **TENSOR, factors=("arrays", FACTORS), mode=("integer", 1))
register(
    "mttkrp_sweep",
    lambda X, factors: list(q.mttkrp_sweep(X, factors)),
    2,
    **TENSOR,
    factors=("arrays", FACTORS, ("iter(v)", "(x for x in v)")),
)
register("CP", q.CP, 2, factors=("arrays", FACTORS), weights=("array", np.array([1.0, 2.0]), NONE))
for one in ("reconstruct", "norm", "normalize", "balance", "canonical", "sensitivity"):
    register(one, getattr(q, one), 1, cp=("object", THE_CP))
register("relative_error", q.relative_error, 2, **TENSOR, cp=("object", THE_CP))
register("inner", q.inner, 2, left=("object", THE_CP), right=("object", NEAR))
register("align", q.align, 2, cp=("object", THE_CP), reference=("object", NEAR))
register("degeneracy", q.degeneracy, 1, cp=("object", THE_CP), norm_X=("real", 2.0, NONE))
register(
    "random_cp", q.random_cp, 2, shape=("integers", (3, 2)), rank=("integer", 2), rng=("seed", 1)
)
register("als_update", q.als_update, 2, F=("array", F), G=("array", G))
register("svd_cp", q.svd_cp, 2, X=("array", X[..., :1]), rank=("integer", 2))
register(
    "cp_als",
    q.cp_als,
    2,
    **TENSOR,
    rank=("integer", 2),
    init=("option object", "random"),
    rng=("seed", 0),
    max_sweeps=("integer", 5),
    stop=("option", "error-change"),
    tol=("real", 0.5),
    callback=CALLBACK,
)
register(
    "Grid",
    q.Grid,
    1,
    bits=("integer", 4),
    kind=("option", "uniform"),
    signed=("flag", True),
    narrow=("flag", False),
    mid_rise=("flag", False),
)
register(
    "quantize",
    q.quantize,
    4,
    x=("array", F),
    grid=("object", GRID),
    scale=("array", np.array(0.5)),
    zero_point=("array", np.array(1)),
    rounding=("option", "half-even"),
    division=("option", "float64"),
    rng=("seed", None, NONE),
)
register(
    "dequantize",
    q.dequantize,
    3,
    codes=("codes", SMALL),
    scale=("array", np.array(0.5)),
    zero_point=("array", np.array(1)),
    grid=("object", GRID, NONE),
)
register(
    "choose_scale",
    q.choose_scale,
    2,
    x=("array", F),
    grid=("object", GRID),
    rule=("option", "mse-exact"),
    axis=AXIS,
    po2=("option", None, NONE),
)
register(
    "project",
    q.project,
    2,
    x=("array", F),
    grid=("object", GRID),
    axis=AXIS,
    scale=("array object", np.array(0.5), NONE),
    rule=("option", "mse-exact"),
    po2=("option", None, NONE),
)
register(
    "Histogram",
    q.Histogram,
    3,
    counts=("codes", HISTOGRAM.counts),
    lo=("real", 0.0),
    hi=("real", 8.0),
)
register("Histogram.of", q.Histogram.of, 2, x=("array", F), bins=("integer", 8))
register("Histogram.merge", q.Histogram.of(F, 8).merge, 1, other=("object", q.Histogram.of(F, 8)))
register(
    "histogram_error",
    q.histogram_error,
    4,
    histogram=("object", HISTOGRAM),
    first=("integer", 1),
    last=("integer", 4),
    levels=("integer", 3),
)
register(
    "histogram_range",
    q.histogram_range,
    2,
    histogram=("object", HISTOGRAM),
    levels=("integer", 3),
    search=("option", "greedy"),
    steps=("integer", 100),
)
register(
    "activation_scale",
    q.activation_scale,
    2,
    batches=("arrays", [F, B], LISTS),
    grid=("object", GRID),
    rule=("option", "min-max"),
)
for rule, option, value in (
    ("moving-average", "averaging", ("real", 0.5)),
    ("percentile", "percentile", ("real", 50.0)),
    ("histogram", "bins", ("integer", 8)),
    ("histogram-exact", "bins", ("integer", 8)),
):
    register(
        f"activation_scale {rule}",
        partial(q.activation_scale, rule=rule),
        2,
        batches=("arrays", [F, B], LISTS),
        grid=("object", GRID),
        **{option: value},
    )
register(
    "admm",
    q.admm,
    3,
    F=("array", F),
    G=("array", G),
    project=("callback", np.rint, ("np.rint",)),
    start=("array", np.zeros_like(F)),
    dual=("array", F / 8, NONE),
    max_steps=("integer", 3),
    tol=("real", 0.5),
)
register(
    "epc",
    q.epc,
    2,
    **TENSOR,
    cp=("object", NEAR),
    objective=("option", "norm"),
    slack=("real", 0.25),
    max_sweeps=("integer", 2),
    tol=("real", 0.5),
    patience=("integer", 1),
    max_rounds=("integer", 1),
    round_tol=("real", 0.5),
    ratio_tol=("real", 0.5),
    allowance=("real", 0.25),
    callback=CALLBACK,
)
register(
    "epc_update",
    q.epc_update,
    4,
    F=("array", F),
    G=("array", G),
    squared_norm=("real", 64.0),
    squared_bound=("real", 64.0),
    weights=("array", np.ones(2), NONE),
    current=("array", F, NONE),
)
register(
    "solve_rows",
    q.solve_rows,
    4,
    F=("array", F),
    G=("array", G),
    grid=("object", GRID),
    scale=("array", np.array(0.5)),
    method=("option", "descent"),
    start=("codes", SMALL, NONE),
    order=("option", "greedy"),
    width=("integer", 2),
    budget=("integer", 10),
)
register(
    "refit_scale",
    q.refit_scale,
    5,
    F=("array", F),
    G=("array", G),
    codes=("codes", SMALL),
    grid=("object", GRID),
    scale=("array", np.array(0.5)),
)
register(
    "QuantizedCP",
    q.QuantizedCP,
    3,
    codes=("arrays", list(CODES.codes)),
    scales=("arrays", [np.array(0.5)] * 3, LISTS),
    grid=("object", GRID),
)
register(
    "quantize_cp",
    q.quantize_cp,
    2,
    cp=("object", THE_CP),
    grid=("object", GRID),
    axis=AXIS,
    rule=("option", "mse-exact"),
)
register("orient", q.orient, 2, cp=("object", THE_CP), grid=("object", GRID))
register(
    "predict_error",
    q.predict_error,
    3,
    **TENSOR,
    cp=("object", THE_CP),
    grid=("object", GRID),
    axis=AXIS,
    rule=("option", "mse-exact"),
)
register(
    "ao_admm",
    q.ao_admm,
    3,
    **TENSOR,
    rank=("integer", 2),
    grid=("object", GRID),
    start=("option object", NEAR),
    rng=("seed", 0),
    refit=("option", "step"),
    recipe=("option", "book"),
    axis=AXIS,
    rule=("option", "mse-exact"),
    max_sweeps=("integer", 2),
    max_steps=("integer", 2),
    tol=("real", 0.5),
    inner_tol=("real", 0.5),
    callback=CALLBACK,
)
register("certify", q.certify, 2, **TENSOR, cp=("object", CODES), budget=("integer", 5))
register(
    "choose_slack",
    q.choose_slack,
    3,
    **TENSOR,
    cp=("object", NEAR),
    grid=("object", GRID),
    slacks=("reals", (0.0, 0.25)),
    axis=AXIS,
    sweeps=("integer", 2),
    rng=("seed", 0),
)
register(
    "factorize",
    q.factorize,
    3,
    **TENSOR,
    rank=("integer", 2),
    grid=("object", GRID),
    **METHOD,
    callback=CALLBACK,
)
register(
    "polish",
    q.polish,
    2,
    **TENSOR,
    cp=("object", CODES),
    noise=("real", 0.25),
    sweeps=("integer", 2),
    rng=("seed", 0),
    callback=CALLBACK,
)
for d, image, kernel in (
    (1, IMAGE[:, :, 0], W[:, :, 0]),
    (2, IMAGE, W),
    (3, IMAGE[:, :, None], W[:, :, None]),
):
    register(
        f"conv{d}d",
        getattr(q, f"conv{d}d"),
        2,
        x=("array", image),
        W=("array", kernel),
        **GEOMETRY,
        bias=("array", np.ones(3), NONE),
    )
    register(
        f"cp_conv{d}d",
        getattr(q, f"cp_conv{d}d"),
        2,
        x=("array", image),
        cp=("object", KERNEL_CP),
        kernel_size=("integers", kernel.shape[2:]),
        **GEOMETRY,
        bias=("array", np.ones(3), NONE),
    )
register(
    "cp_conv_bound",
    q.cp_conv_bound,
    2,
    x=("array", IMAGE),
    cp=("object", KERNEL_CP),
    bias=("array", np.ones(3), NONE),
    kernel_size=("integers", (1, 2)),
    **GEOMETRY,
)
register(
    "cp_linear",
    q.cp_linear,
    2,
    x=("array", F),
    cp=("object", q.CP(FACTORS[:2])),
    bias=("array", np.ones(3), NONE),
)
register(
    "depthwise",
    q.depthwise,
    2,
    x=("array", IMAGE),
    C=("array", numbers(2, 2)),
    kernel_size=("integers", (1, 2)),
    **GEOMETRY,
)
register(
    "pointwise",
    q.pointwise,
    2,
    x=("array", IMAGE),
    A=("array", F),
    stride=("integers", 1),
    bias=("array", np.ones(3), NONE),
)
register("kernel_to_tensor", q.kernel_to_tensor, 1, W=("array", W))
register("tensor_to_kernel", q.tensor_to_kernel, 2, **TENSOR, kernel_size=("integers", (1, 2)))
register(
    "output_als",
    q.output_als,
    3,
    **TENSOR,
    cp=("object", NEAR),
    S=("array", S),
    max_sweeps=("integer", 2),
    tol=("real", 0.5),
    callback=CALLBACK,
)
register("output_error", q.output_error, 3, **TENSOR, cp=("object", THE_CP), S=("array", S))
register(
    "output_normal",
    q.output_normal,
    4,
    **TENSOR,
    factors=("arrays", FACTORS),
    S=("array", S),
    mode=("integer", 1),
    row=("integer", 1),
)
register(
    "polish_output",
    q.polish_output,
    3,
    **TENSOR,
    cp=("object", CODES),
    S=("array", S),
    max_sweeps=("integer", 2),
    callback=CALLBACK,
)
register(
    "second_moment",
    q.second_moment,
    2,
    x=("array", IMAGE),
    kernel_size=("integers", (1, 2)),
    **GEOMETRY,
)
register(
    "accumulator_bound",
    q.accumulator_bound,
    2,
    W=("codes", SMALL),
    grid=("object", GRID),
    zero_point=("integer", 1),
    bias=("codes", np.array([1, 2, 3]), NONE),
    weight_zero_point=("codes", np.array([1, 2, 3]), NONE),
)
register("fixed_point", q.fixed_point, 1, multiplier=("array", abs(F)))
register(
    "int_conv",
    q.int_conv,
    2,
    x=("codes", BYTES, WIDE),
    W=("codes", SMALL.reshape(3, 2, 1, 1)),
    zero_point=("integer", 1),
    bias=("codes", np.array([1, 2, 3]), NONE),
    weight_zero_point=("codes", np.array([1, 2, 3]), NONE),
    **GEOMETRY,
)
register(
    "int_linear",
    q.int_linear,
    2,
    x=("codes", BYTES[0, :, 0, :2], WIDE),
    W=("codes", SMALL),
    zero_point=("integer", 1),
    bias=("codes", np.array([1, 2, 3]), NONE),
    weight_zero_point=("codes", np.array([1, 2, 3]), NONE),
)
register(
    "integer_cp",
    q.integer_cp,
    3,
    cp=("object", LINEAR_CP),
    scales=("objects", SCALES),
    grid=("object", q.Grid(8)),
    bias=("array", np.ones(3), NONE),
    relu=("flag", False),
    mode=("option", "exact"),
    kernel_size=("integers", 1),
    **GEOMETRY,
)
register(
    "requantize",
    q.requantize,
    4,
    acc=("codes", SMALL),
    multiplier=("array", np.array(0.5)),
    zero_point=("integer", 1),
    grid=("object", q.Grid(8)),
    mode=("option", "single"),
)
register(
    "IntegerCP",
    q.IntegerCP,
    5,
    weights=("arrays", list(LAYER.weights)),
    multipliers=("arrays", list(LAYER.multipliers), LISTS),
    bias=("codes", LAYER.bias),
    zero_points=("integers", LAYER.zero_points),
    grid=("object", LAYER.grid),
    kernel_size=("integers", 1),
    **GEOMETRY,
    relu=("flag", False),
    mode=("option", "exact"),
)
register("IntegerCP.forward", LAYER.forward, 1, x=("codes", np.array([[3, 7], [5, 9]])))
register("CPLinear.forward", LINEAR.forward, 1, x=("array", F))
register("CPConv.forward", CONV.forward, 1, x=("array", IMAGE))
register(
    "conv_costs",
    q.conv_costs,
    2,
    shape=("integers", (3, 2, 1, 2)),
    input_size=("integers", (3, 4)),
    rank=("integer", 2, NONE),
    **GEOMETRY,
    weight_bits=("integer", 4),
    activation_bits=("integer", 8),
    scales=("integer", 1),
    scale_bytes=("integer", 8),
)
register(
    "equal_cost_bits", q.equal_cost_bits, 2, bits=("integer", 4), rate=("real", 2.0, RATE_TAKES)
)
register(
    "rank_for_rate",
    q.rank_for_rate,
    2,
    shape=("integers", (8, 8, 3)),
    rate=("real", 2.0, RATE_TAKES),
)
register(
    "compress_conv",
    q.compress_conv,
    1,
    W=("array", W),
    **COMPRESS,
    **GEOMETRY,
    bias=("array", np.ones(3), NONE),
    second_moment=("array", S, NONE),
    callback=CALLBACK,
)
register(
    "compress_linear",
    q.compress_linear,
    1,
    W=("array", F),
    **COMPRESS,
    bias=("array", np.ones(3), NONE),
    callback=CALLBACK,
    second_moment=("array", S[:2, :2], NONE),
)
register(
    "rank_for_budget",
    q.rank_for_budget,
    2,
    shape=("integers", (3, 2, 1, 2)),
    budget=("integer", 60),
    bits=("integer", 4),
    **COUNTED,
)
register(
    "run_jobs",
    q.run_jobs,
    2,
    job=("callback", str, ("np.rint",)),
    items=("object", [1.0, 2.5], Everything()),
    executor=("object integer", 2, NONE),
    names=("object", ["a", "b"], Everything()),
    callback=CALLBACK,
    cancel=CALLBACK,
)
register(
    "frontier",
    q.frontier,
    1,
    W=("array", W),
    budgets=("integers", [40]),
    bits=("integers", (4,)),
    dense=("integers", ()),
    **COUNTED,
    method=("option", "best"),
    rng=("integer", 0),
    executor=("object integer", 2, NONE),
    callback=CALLBACK,
    rule=("option", "mse-exact"),
    slack=("real", None, NONE),
    sweeps=("integer", 1, NONE),
    restarts=("integer", 1, NONE),
)
register(
    "allocate",
    q.allocate,
    2,
    frontiers=("objects", [CHOICES, CHOICES]),
    budget=("integer", 500),
    weights=("reals", (1.0, 2.0), NONE),
    method=("option", "exact"),
)

# Classes that only hold what a function returns: their makers check, they do not.
RECORDS = {
    *("ADMMResult", "ALSUpdate", "Alignment", "Allocation", "CPFit", "Certificate", "Degeneracy"),
    *("EPCFit", "EPCHistory", "EPCUpdate", "FitHistory", "OutputFit", "Prediction"),
    *("QuantizedFit", "QuantizedHistory", "RowFit", "Scale", "SlackSearch", "CPConv", "CPLinear"),
    *("Choice", "Costs"),
}
