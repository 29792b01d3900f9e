"""What is asked of an implementation: operations, levels, capabilities, choices, arithmetic.

Each operation is a function of arrays, given by position in the order below, and of options, given
by keyword. Where several arrays belong together (``factors``) they are one list. Arrays that are
not there (no bias, no weights) are None. Options come in one form only, so that an adapter has
nothing to guess: stride, dilation and kernel size are pairs (height, width), padding is (top, left,
bottom, right). The equations are those of the chapters; see the page of the kit in the docs.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

__all__ = [
    "CAPABILITIES",
    "CHOICES",
    "LEVELS",
    "LISTS",
    "NOT_JUDGED",
    "OPS",
    "SCOPES",
    "Arithmetic",
    "Op",
    "Scope",
    "governing",
    "seen_by",
]

LEVELS = {
    "L0": "grids: rounding, scales, requantization",
    "L1": "tensor algebra",
    "L2": "layers in floating point",
    "LI": "layers in integers",
    "L3": "single steps of the solvers",
    "L4": "whole runs of the solvers, replayed step by step from given starts",
}


# What a level does not look at, as the claim says it.
NOT_JUDGED = {"L4": "starts, stopping, and how good a run is beyond its steps"}


class Op(NamedTuple):
    """One operation: its level, arguments by position, options, results and equation."""

    level: str
    arrays: tuple[str, ...]
    options: tuple[str, ...]
    results: tuple[str, ...]
    equation: str


_RANGE = ("qmin", "qmax")
_WINDOW = ("stride", "padding", "dilation")
_LAYER, _OUTPUT = ("x", "W", "bias", "multiplier"), ("x_zero", "y_zero", *_RANGE, "relu")
_STAGES = ("a_out", "a_in", "a_kernel")

OPS = {
    # codes = clip(round(x / scale) + zero_point, qmin, qmax); scale and zero_point are single
    # numbers (shape ()) or keep all axes of x with sides of 1.
    "quantize": Op("L0", ("x", "scale", "zero_point"), _RANGE, ("codes",), "grid-quantize"),
    "dequantize": Op("L0", ("codes", "scale", "zero_point"), (), ("values",), "grid-dequantize"),
    # The number on the grid that is nearest: dequantize(quantize(x)).
    "project": Op("L0", ("x", "scale", "zero_point"), _RANGE, ("values",), "grid-quantize"),
    # kind: 'binary', 'ternary' or 'log2' (then with bits).
    "project_kind": Op("L0", ("x", "scale"), ("kind", "bits"), ("values",), "grid-project"),
    # rule: 'mse' (least squared error) or 'max-abs', 'max-abs-narrow', 'max-abs-full',
    # 'max-abs-two-sided'; zero point 0.
    "choose_scale": Op("L0", ("x",), (*_RANGE, "rule"), ("scale",), "grid-exact"),
    # Scale and zero point of an affine grid for the range of x, zero included.
    "choose_affine": Op("L0", ("x",), _RANGE, ("scale", "zero_point"), "grid-min-max"),
    # acc int32; multiplier a real per output channel (axis 1 of acc) or single.
    "requantize": Op(
        "L0", ("acc", "multiplier", "zero_point"), _RANGE, ("codes",), "integer-exact"
    ),
    # multiplier an int32 in [2**30, 2**31), shift >= -31: acc * multiplier * 2**(shift - 31).
    "requantize_fixed": Op(
        *("L0", ("acc", "multiplier", "shift", "zero_point"), _RANGE, ("codes",)),
        "integer-fixed",
    ),
    "reconstruct": Op("L1", ("factors", "weights"), (), ("X",), "cp-model"),
    "mttkrp": Op("L1", ("X", "factors"), ("mode",), ("F",), "tensor-mttkrp"),
    # mode None: the product over all modes.
    "gram": Op("L1", ("factors",), ("mode",), ("G",), "tensor-gram"),
    # Same tensor, and the columns of a component have equal norms in all modes.
    "balance": Op("L1", ("factors", "weights"), (), ("factors",), "cp-freedom"),
    "conv2d": Op("L2", ("x", "W", "bias"), _WINDOW, ("y",), "conv-dense"),
    "pointwise": Op("L2", ("x", "A", "bias"), ("stride",), ("y",), "conv-pointwise"),
    "depthwise": Op("L2", ("x", "C"), ("kernel_size", *_WINDOW), ("y",), "conv-depthwise"),
    "cp_conv2d": Op("L2", ("x", *_STAGES, "bias"), ("kernel_size", *_WINDOW), ("y",), "conv-cp"),
    # x int8 or uint8 with its zero point, W int8; the accumulators, an int32 array.
    "int_conv2d": Op(
        "LI", ("x", "W", "bias"), ("x_zero", *_WINDOW), ("acc",), "integer-accumulator"
    ),
    # The same followed by requantization; multiplier real, single or one per output channel.
    "quantized_conv2d": Op("LI", _LAYER, (*_OUTPUT, *_WINDOW), ("codes",), "integer-layer"),
    "quantized_linear": Op("LI", _LAYER, _OUTPUT, ("codes",), "integer-layer"),
    # Three stages. zeros: zero points of input, both intermediates and output; qmins and qmaxs:
    # ranges of the three outputs; multipliers: one array per stage.
    "quantized_cp_conv2d": Op(
        "LI",
        ("x", *_STAGES, "bias", "multipliers"),
        ("zeros", "qmins", "qmaxs", "kernel_size", *_WINDOW),
        ("codes",),
        "integer-layer",
    ),
    # The factor of one mode that minimises the error, the others fixed.
    "als_update": Op("L3", ("X", "factors"), ("mode",), ("A",), "als-normal"),
    # All modes once, in ascending order, each with the new ones before it.
    "als_sweep": Op("L3", ("X", "factors"), (), ("factors",), "als-normal"),
    # One step of admm-t, admm-h, admm-u; rho and scale given.
    "admm_step": Op("L3", ("F", "G", "H", "U", "rho", "scale"), _RANGE, ("T", "H", "U"), "admm-u"),
    # The new factor of one mode: error at most delta, least sum of squared component norms.
    "epc_update": Op("L3", ("X", "factors", "delta"), ("mode",), ("A",), "epc-ridge"),
    # The four below are about one factor in integer codes, and treat its rows apart. One pass over
    # the columns in ascending order: each code in turn is the best one, the others being fixed.
    "descend_rows": Op("L3", ("F", "G", "codes", "scale"), _RANGE, ("codes",), "rows-descent"),
    # Babai's codes, the last column decided first.
    "nearest_plane": Op("L3", ("F", "G", "scale"), _RANGE, ("codes",), "rows-babai"),
    # The one scale that suits the codes best.
    "refit_scale": Op("L3", ("F", "G", "codes"), (), ("scale",), "rows-scale"),
    # In each row codes than which none are better, proved so.
    "closest_rows": Op("L3", ("F", "G", "scale"), _RANGE, ("codes",), "rows-problem"),
    "cp_als": Op("L4", ("X",), ("rank", "seed"), ("factors", "error"), "als-error"),
    # codes: one integer array per mode; scales: one number per mode.
    "ao_admm": Op(
        "L4", ("X",), ("rank", "seed", *_RANGE), ("codes", "scales", "error"), "cp-error"
    ),
    # The same from given factors, which are used as they are, for a fixed number of sweeps over the
    # modes in ascending order; every iterate is returned. Least squares: the factor of each update,
    # and the relative error after each sweep. Nothing is normalised in between.
    "cp_als_run": Op("L4", ("X", "factors"), ("sweeps",), ("iterates", "errors"), "als-normal"),
    # AO-ADMM: ``steps`` steps for each mode. Their weight is the mean of the diagonal of G, 1 if
    # that is zero; their scale is that of least squared error for T - U. Duals begin with zero and
    # stay from sweep to sweep. T, H, U, rhos and scales have one entry per step, errors one per
    # sweep; codes, best_scales and error are those of the sweep with the least error.
    "ao_admm_run": Op(
        *("L4", ("X", "factors"), ("sweeps", "steps", *_RANGE)),
        (*"THU", "rhos", "scales", "errors", "codes", "best_scales", "error"),
        "admm-u",
    ),
}

# Results that are lists of arrays, one per mode.
LISTS = {("balance", "factors"), ("als_sweep", "factors"), ("cp_als", "factors")}
LISTS |= {("ao_admm", "codes"), ("cp_als_run", "iterates"), ("ao_admm_run", "codes")}
LISTS |= {("ao_admm_run", name) for name in "THU"}

CAPABILITIES = {
    "affine": "zero points other than 0",
    "asymmetric-padding": "different padding at the two sides of an axis",
    "bias": "a bias is added",
    "bits": "ranges of codes other than those of 8 bits",
    "dilation": "dilated kernels",
    "empty": "arrays without entries",
    "float64": "computing in float64",
    "full-range": "the lowest code, which has no positive counterpart",
    "infinite": "infinities saturate to the end of the range",
    "int16": "codes of 16 bits",
    "intermediate-zero": "zero points of the activations between the three stages",
    "layout-fortran": "arrays in Fortran order",
    "layout-negative": "arrays with negative strides",
    "layout-read-only": "arrays that may not be written to",
    "layout-sliced": "arrays that are slices of larger ones",
    "narrow-range": "symmetric ranges of codes",
    "order-2": "matrices, that is tensors with two modes",
    "order-4": "tensors with four modes",
    "per-channel": "one scale or multiplier per channel",
    "rank-deficient": "solving with a singular Gram matrix",
    "refuses": "wrong input is refused by an exception",
    "relu": "a fused ReLU",
    "signed-input": "int8 activations",
    "stride": "strides other than 1",
    "subnormal": "numbers below the normal range",
    "uneven-stride": "different strides of the two axes",
    "unsigned": "codes that start at 0",
    "weights": "weights of the components apart from the factors",
    "rule-mse": "the scale of least squared error",
    "rule-max-abs": "the four scales from the largest value",
    "kind-binary": "grids with the two codes -1 and 1",
    "kind-ternary": "grids with the three codes -1, 0 and 1",
    "kind-log2": "grids of powers of two",
}


class Scope(NamedTuple):
    """What a choice is about: options, ours first; what it governs, in which operations.

    ``role`` is the name under which these operations ask for it; two choices with one role govern
    different operations.
    """

    options: tuple[str, ...]
    role: str
    ops: tuple[str, ...]
    governs: str


_ROUNDINGS, _ORDERS = ("half-even", "half-away", "half-up"), ("after-rounding", "before-rounding")
_QUANTIZERS, _STEPS = ("quantize", "project"), ("admm_step", "ao_admm_run")
_REQUANTIZERS = ("requantize", "quantized_conv2d", "quantized_linear", "quantized_cp_conv2d")

# What the definitions of others leave open: declared by the adapter, then tested exactly. The first
# option is ours and the default.
SCOPES = {
    "rounding": Scope(
        *(_ROUNDINGS, "rounding", (*_QUANTIZERS, "project_kind")),
        "ties of numbers over their scale, of weights and activations",
    ),
    "weight_rounding": Scope(
        *(_ROUNDINGS, "rounding", (*_STEPS, "descend_rows")),
        "ties of weights inside of solvers",
    ),
    "zero_rounding": Scope(
        *(_ROUNDINGS, "rounding", ("choose_affine",)),
        "ties of zero points",
    ),
    "requant_rounding": Scope(
        *(_ROUNDINGS, "rounding", _REQUANTIZERS),
        "ties of accumulators times their multiplier",
    ),
    "division": Scope(
        *(("exact", "float32", "reciprocal"), "division", (*_QUANTIZERS, *_STEPS)),
        "how numbers are divided by their scale",
    ),
    "zero_point": Scope(
        *(_ORDERS, "zero_point", _QUANTIZERS),
        "when numbers over their scale get the zero point",
    ),
    "requant_zero_point": Scope(
        *(_ORDERS, "zero_point", _REQUANTIZERS),
        "when accumulators times their multiplier get the zero point",
    ),
    "affine": Scope(
        *(("from-min", "pytorch", "tflite"), "affine", ("choose_affine",)),
        "which rule makes scale and zero point of a range",
    ),
    "requant": Scope(
        *(("exact", "float32"), "requant", _REQUANTIZERS),
        "how accumulators are multiplied by a real multiplier",
    ),
    "fixed_point": Scope(
        *(("single", "double"), "fixed_point", ("requantize_fixed",)),
        "how often accumulators times a fixed-point multiplier are rounded",
    ),
    "dual": Scope(
        *(("plus", "minus"), "dual", _STEPS),
        "the sign of the dual",
    ),
}
CHOICES = {name: scope.options for name, scope in SCOPES.items()}


def governing(op: str) -> tuple[str, ...]:
    """Return the names of the choices that govern an operation."""
    return tuple(name for name, scope in SCOPES.items() if op in scope.ops)


def seen_by(op: str, choices: Mapping[str, str]) -> dict[str, str]:
    """Return choices as an operation asks for them, by role; what is not declared is ours."""
    seen = {scope.role: scope.options[0] for scope in SCOPES.values()}
    declared = {SCOPES[name].role: choices.get(name) for name in governing(op)}
    return seen | {role: option for role, option in declared.items() if option}


_ROUNDOFF = {name: Fraction(1, 2**bits) for name, bits in
             (("f64", 53), ("f32", 24), ("tf32", 11), ("f16", 11), ("bf16", 8))}  # fmt: skip


class Arithmetic(NamedTuple):
    """Unit roundoffs of the numbers read, of the accumulator, and of the result; its type."""

    inputs: Fraction
    accumulator: Fraction
    result: Fraction
    real: str

    @classmethod
    def of(cls, text: str) -> "Arithmetic":
        """Read 'f32', 'f64', or inputs and accumulator apart, as in 'tf32>f32'."""
        inputs, found, accumulator = text.partition(">")
        real = accumulator if found else inputs
        if real not in ("f32", "f64") or inputs not in _ROUNDOFF:
            raise ValueError(
                f"arith: expected 'f32', 'f64', or one of {sorted(_ROUNDOFF)} before '>f32' or "
                f"'>f64', got {text!r}"
            )
        u = _ROUNDOFF[real]
        return cls(_ROUNDOFF[inputs] if found else Fraction(0), u, u, real)
