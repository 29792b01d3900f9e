"""The expectations: against the loops read directly, against the book, and against themselves."""

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_draws import KINDS, draw
from support import assert_same, caught, exact

import qcp_ref
from qcp_ref import Grid, Scale, loops
from qcp_ref.conformance.adapter import Adapter
from qcp_ref.conformance.cases import truth
from qcp_ref.conformance.cases.truth import band, expect, float32, outcomes
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.dyadic import SplitMix64, fractions
from qcp_ref.conformance.judging.judge import expectation, judge
from qcp_ref.conformance.spec import CHOICES, OPS, SCOPES, governing

CASES = load()
RELEVANT = {
    "quantize": ("rounding", "division", "zero_point"),
    "project": ("rounding", "division", "zero_point"),
    "project_kind": ("rounding",),
    "choose_affine": ("zero_rounding", "affine"),
    "requantize": ("requant_rounding", "requant_zero_point", "requant"),
    "requantize_fixed": ("fixed_point",),
    "quantized_conv2d": ("requant_rounding", "requant_zero_point", "requant"),
    "quantized_linear": ("requant_rounding", "requant_zero_point", "requant"),
    "quantized_cp_conv2d": ("requant_rounding", "requant_zero_point", "requant"),
    "descend_rows": ("weight_rounding",),
}
CERTIFIED = ("balance", "refit_scale", "closest_rows")
SUMS = ("reconstruct", "mttkrp", "gram", "conv2d", "pointwise", "depthwise", "cp_conv2d")
draws = st.integers(0, 2**32)
# Layers take a while in fractions.
few = settings(max_examples=max(8, settings.default.max_examples // 12))


def arguments(op, seed):
    """Random arguments and options of an operation."""
    given, options = KINDS[op](SplitMix64(seed), op)
    inputs = {name: given[name] for name in OPS[op].arrays}
    return inputs, {name: options[name] for name in OPS[op].options}


def every_choice(op):
    names = RELEVANT.get(op, ())
    for chosen in product(*(CHOICES[name] for name in names)):
        yield dict(zip(names, chosen, strict=True))


def numbers(part):
    return fractions({**part, "m": [int(m) for m in part["m"]]})


# --- choices --------------------------------------------------------------------------------------


def test_each_operation_is_governed_by_its_choices_and_no_others():
    found = {op: governing(op) for op in OPS if governing(op)}
    for op in ("admm_step", "ao_admm_run"):
        assert found.pop(op) == ("weight_rounding", "division", "dual")
    assert found == RELEVANT
    for name, scope in SCOPES.items():
        assert CHOICES[name] == scope.options and scope.governs and {*scope.ops} <= {*OPS}
    for op in OPS:  # no role is governed twice
        assert len({SCOPES[name].role for name in governing(op)}) == len(governing(op))


def test_one_adapter_rounds_weights_to_even_and_requantizes_away_from_zero():
    adapter = Adapter("mixed", requant_rounding="half-away")
    ends = {"qmin": -128, "qmax": 127}
    ties = {"x": [0.5, -2.5], "scale": 1, "zero_point": 0}
    codes = expect("quantize", ties, ends, adapter.choices)["codes"]
    assert numbers(codes) == [0, -2]
    acc = {"acc": [[1, -5]], "multiplier": Fraction(1, 2), "zero_point": 3}
    codes = expect("requantize", acc, ends, adapter.choices)["codes"]
    assert numbers(codes) == [[4, 0]]


@pytest.mark.parametrize("op", RELEVANT)
@few
@given(draws)
def test_each_declaration_finds_its_expectation(op, seed):
    inputs, options = arguments(op, seed)
    out, when = outcomes(op, inputs, options)
    case = {"out": out, "when": when}
    ours = {name: options[0] for name, options in CHOICES.items()}
    for choices in every_choice(op):
        assert expectation(case, ours | choices) == expect(op, inputs, options, choices)


@pytest.mark.parametrize("op", [op for op in KINDS if op not in (*RELEVANT, *CERTIFIED)])
@few
@given(draws)
def test_other_operations_leave_no_choice(op, seed):
    inputs, options = arguments(op, seed)
    out, when = outcomes(op, inputs, options)
    assert when == []
    others = {name: options_[-1] for name, options_ in CHOICES.items()}
    assert expect(op, inputs, options, others) == out


def test_every_choice_makes_a_difference_somewhere():
    told = {
        (case["op"], name, option)
        for case in CASES
        for entry in case.get("when", ())
        for name, option in entry["declared"].items()
    }
    for op, names in RELEVANT.items():
        for name in names:
            options = {option for other, n, option in told if (other, n) == (op, name)}
            assert options >= {*CHOICES[name][1:]}, (op, name, options)


# --- sums of products -----------------------------------------------------------------------------


def magnitudes(part):
    if isinstance(part, (list, tuple)):
        return [magnitudes(one) for one in part]
    return None if part is None else abs(part)


def read_directly(op, inputs, options):
    """The loops on the numbers as they are, without units."""
    if op == "cp_conv2d":
        stages = [inputs[name] for name in ("a_out", "a_in", "a_kernel")]
        return loops.cp_conv2d(inputs["x"], stages, bias=inputs["bias"], **options)
    more = {"bias": inputs["bias"]} if "bias" in inputs else {}
    arrays = [inputs[name] for name in OPS[op].arrays if name != "bias"]
    return getattr(loops, op)(*arrays, **options, **more)


@pytest.mark.parametrize("op", SUMS)
@few
@given(draws)
def test_sums_are_the_loops_and_travel_with_their_magnitudes(op, seed):
    inputs, options = arguments(op, seed)
    (part,) = expect(op, inputs, options).values()
    assert numbers(part) == exact(read_directly(op, inputs, options))
    if part["kind"] == "bound":
        sizes = {name: magnitudes(array) for name, array in inputs.items()}
        assert numbers(part["g"]) == exact(read_directly(op, sizes, options))


def in_any_order(part, seed):
    """An entry of mttkrp by float32 sums of float32 products, in a random order."""
    inputs, options = part
    rng, mode = random.Random(seed), options["mode"]
    shape = loops.shape_of(inputs["X"])
    y = np.zeros((shape[mode], len(inputs["factors"][0][0])), np.float32)
    for r in range(y.shape[1]):
        places = list(loops.indices(shape))
        rng.shuffle(places)
        for index in places:
            terms = [loops.at(inputs["X"], index)]
            terms += [A[index[n]][r] for n, A in enumerate(inputs["factors"]) if n != mode]
            rng.shuffle(terms)
            product_ = np.float32(1)
            for term in terms:
                product_ = product_ * np.float32(float(term))
            y[index[mode], r] += product_
    return y


@given(draws)
def test_any_order_of_float32_is_accepted(seed):
    inputs, options = arguments("mttkrp", seed)
    y = in_any_order((inputs, options), seed)
    case = {"op": "mttkrp", "out": expect("mttkrp", inputs, options)}
    info = Adapter("any", arith="f32").hello()
    found = judge(case, {"F": qcp_ref.conformance.dyadic.encode(y)}, info)
    assert found.outcome == "pass", found


@pytest.mark.parametrize("op", ["conv2d", "mttkrp", "reconstruct"])
def test_both_tiers_are_drawn(op):
    kinds = {draw(op, SplitMix64(seed))["out"][OPS[op].results[0]]["kind"] for seed in range(40)}
    assert kinds == {"exact", "bound"}


def test_exact_sums_end_at_24_bits():
    def kind(x, w, bias=None):
        inputs = {"x": [[[[x]]]], "A": [[w]], "bias": bias}
        return expect("pointwise", inputs, {"stride": [1, 1]})["y"]["kind"]

    assert kind(2**12, 2**12) == "exact"
    assert kind(2**12, 2**12 + 1) == "bound"
    assert kind(2**12, 2**12, [1]) == "bound"
    assert kind(2**11, 2**12, [2**23]) == "exact"
    assert kind(1, 1, [Fraction(1, 2**23)]) == "exact"
    assert kind(1, 1, [Fraction(1, 2**24)]) == "bound"
    assert kind(Fraction(1, 2**75), Fraction(1, 2**74)) == "exact"
    assert kind(Fraction(1, 2**75), Fraction(1, 2**75)) == "bound"


def test_roundings_are_counted():
    X, factors = [[[Fraction(1, 3 * k + 1)] * 2] * 3 for k in range(4)], None
    X = [[[Fraction(2**24 - k) for k in range(2)]] * 3] * 4
    factors = [[[Fraction(2**24 - 1)] * 5] * side for side in (4, 3, 2)]
    weights = [Fraction(2**24 - 1)] * 5
    counts = [
        ("mttkrp", {"X": X, "factors": factors}, {"mode": 0}, 3 * 2 + 1, 4, 1),
        ("reconstruct", {"factors": factors, "weights": None}, {}, 5 + 1, 4, 1),
        ("reconstruct", {"factors": factors, "weights": weights}, {}, 5 + 2, 6, 2),
        ("gram", {"factors": factors}, {"mode": 0}, 3 + 2 + 1, 6, 2),
        ("gram", {"factors": factors}, {"mode": None}, 4 + 3 + 2 + 2, 10, 4),
    ]
    for op, inputs, options, n, factors_, stored in counts:
        (part,) = expect(op, inputs, options).values()
        assert (part["n"], part["factors"], part["stored"]) == (n, factors_, stored), op


# --- quantizers -----------------------------------------------------------------------------------

GRIDS = {
    (-128, 127): Grid(8),
    (-127, 127): Grid(8, narrow=True),
    (0, 255): Grid(8, signed=False),
    (-8, 7): Grid(4),
    (0, 15): Grid(4, signed=False),
    (-2, 1): Grid(2),
    (-32768, 32767): Grid(16),
}


def floats(value):
    return np.asarray(value, dtype=object).astype(float)


@given(draws)
def test_quantizers_are_those_of_the_book(seed):
    inputs, options = arguments("quantize", seed)
    x, s, z = (floats(inputs[name]) for name in ("x", "scale", "zero_point"))
    grid = GRIDS[options["qmin"], options["qmax"]]
    divisions = {"exact": "float64", "float32": "float32", "reciprocal": "reciprocal"}
    for rounding, (ours, theirs) in product(CHOICES["rounding"], divisions.items()):
        choices = {"rounding": rounding, "division": ours}
        found = expect("quantize", inputs, options, choices)["codes"]
        codes = qcp_ref.quantize(x, grid, s, z, rounding=rounding, division=theirs)
        assert_same(codes, numbers(found))
    values = expect("project", inputs, options)["values"]
    assert_same(qcp_ref.dequantize(qcp_ref.quantize(x, grid, s, z), s, z), numbers(values))


@given(draws)
def test_quantizing_is_that_of_the_loops(seed):
    inputs, options = arguments("quantize", seed)
    grid = GRIDS[options["qmin"], options["qmax"]]
    # The loops know signed grids only; the zero point shifts any range onto one.
    if grid.signed:
        known = {"bits": grid.bits, "narrow": grid.narrow}
        codes = loops.quantize(exact(inputs["x"]), known, inputs["scale"], inputs["zero_point"])
        assert numbers(expect("quantize", inputs, options)["codes"]) == codes


@given(draws, st.booleans())
def test_dividing_in_float64_finds_the_exact_code(seed, odd):
    """Quotients of short mantissas: what rounds to a tie in float64 is one."""
    rng = SplitMix64(seed)
    s = Fraction(rng.integer(2**23, 2**24), 2 ** rng.integer(18, 28))
    tie = (Fraction(rng.integer(-127, 127)) + Fraction(1, 2)) * s
    x = float32(tie) + (odd * Fraction(rng.integer(-2, 2), 2**22))
    if float32(x) == x:
        t = float(x) / float(s)
        assert round(Fraction(t)) == round(x / s)
        assert (Fraction(2 * t).denominator == 1) == ((2 * x / s).denominator == 1)


def test_stored_quotients_are_short_enough_for_float64():
    for case in CASES:
        if case["op"] == "quantize" and "refuses" not in case["needs"]:
            x, s = (case["in"][name] for name in ("x", "scale"))
            if any(isinstance(m, str) for m in (*x["m"], *s["m"])):
                continue
            x, s = (floats(numbers(part)) if part["m"] else np.ones(0) for part in (x, s))
            for a, b in np.broadcast(x, s) if x.size else ():
                assert round(Fraction(a / b)) == round(Fraction(a) / Fraction(b)), case["id"]


def test_before_rounding_moves_ties_of_odd_zero_points():
    inputs, options = {"x": [0.5, 1.5], "scale": 1, "zero_point": 3}, {"qmin": -8, "qmax": 7}
    before = expect("quantize", inputs, options, {"zero_point": "before-rounding"})
    assert numbers(expect("quantize", inputs, options)["codes"]) == [3, 5]
    assert numbers(before["codes"]) == [4, 4]


@given(draws)
def test_bands_hold_the_codes_of_every_division(seed):
    rng = SplitMix64(seed)
    s, z = Fraction(rng.integer(2**23, 2**24), 2**22), rng.integer(-9, 9)
    x = [float32((k + Fraction(1, 2)) * s) for k in rng.integers((6,), -90, 90)]
    inputs, options = {"x": x, "scale": s, "zero_point": z}, {"qmin": -128, "qmax": 127}
    allowed = band(inputs, options)["codes"]["allowed"]
    for division, order in product(CHOICES["division"], CHOICES["zero_point"]):
        choices = {"division": division, "zero_point": order}
        codes = numbers(expect("quantize", inputs, options, choices)["codes"])
        for code, fine, exact_x in zip(codes, allowed, x, strict=True):
            # An exact tie is left to the choice of rounding, and is no matter of a band.
            assert code in fine or (2 * exact_x / s).denominator == 1
    assert all(len(fine) <= 2 for fine in allowed)


# --- requantization and layers in integers --------------------------------------------------------


@given(draws)
def test_requantization_is_that_of_the_book(seed):
    inputs, options = arguments("requantize", seed)
    grid = GRIDS[options["qmin"], options["qmax"]]
    M = floats(inputs["multiplier"])
    M = M[None, :, None] if M.ndim else M
    codes = qcp_ref.requantize(inputs["acc"], M, inputs["zero_point"], grid)
    assert_same(codes, numbers(expect("requantize", inputs, options)["codes"]))


@given(draws)
def test_fixed_point_is_that_of_the_book(seed):
    inputs, options = arguments("requantize_fixed", seed)
    grid = GRIDS[options["qmin"], options["qmax"]]
    real = float(inputs["multiplier"] * Fraction(2) ** (inputs["shift"] - 31))
    for mode in CHOICES["fixed_point"]:
        codes = qcp_ref.requantize(inputs["acc"], real, inputs["zero_point"], grid, mode=mode)
        found = expect("requantize_fixed", inputs, options, {"fixed_point": mode})["codes"]
        assert_same(codes, numbers(found))


@given(draws)
def test_float32_requantization_is_that_of_the_machine(seed):
    inputs, options = arguments("requantize", seed)
    M = np.asarray(floats(inputs["multiplier"]), np.float32)
    M = M[None, :, None] if M.ndim else M
    t = np.asarray(inputs["acc"], np.float32) * M
    codes = np.clip(np.rint(t) + inputs["zero_point"], options["qmin"], options["qmax"])
    found = expect("requantize", inputs, options, {"requant": "float32"})["codes"]
    assert_same(codes, numbers(found))


@few
@given(draws)
def test_three_stages_are_those_of_the_book(seed):
    inputs, options = arguments("quantized_cp_conv2d", seed)
    ends = options["qmins"][0], options["qmaxs"][0]
    options["qmins"], options["qmaxs"] = [ends[0]] * 3, [ends[1]] * 3
    options["zeros"] = [min(max(z, ends[0]), ends[1]) for z in options["zeros"]]
    codes = np.clip(np.array(inputs["x"]), *ends)
    inputs["x"] = codes.tolist()
    stages = [np.array(inputs[name]) for name in ("a_in", "a_kernel", "a_out")]
    widths = (stages[0].shape[1],) * 2 + (len(stages[2]),)
    layer = qcp_ref.IntegerCP(
        (stages[0].T, stages[1], stages[2]),
        tuple(
            np.broadcast_to(floats(M), n)
            for M, n in zip(inputs["multipliers"], widths, strict=True)
        ),
        np.array(inputs["bias"] or [0] * len(stages[2])),
        tuple(options["zeros"]),
        GRIDS[ends],
        **{name: tuple(options[name]) for name in ("kernel_size", "stride", "padding", "dilation")},
    )
    found = expect("quantized_cp_conv2d", inputs, options)["codes"]
    assert_same(layer.forward(codes), numbers(found))


@few
@given(draws)
def test_one_stage_is_accumulators_and_requantization(seed):
    inputs, options = arguments("quantized_conv2d", seed)
    window = {name: options[name] for name in ("stride", "padding", "dilation")}
    given = {name: inputs[name] for name in ("x", "W", "bias")}
    acc = numbers(expect("int_conv2d", given, {"x_zero": options["x_zero"], **window})["acc"])
    low = max(options["qmin"], options["y_zero"]) if options["relu"] else options["qmin"]
    given = {"acc": acc, "multiplier": inputs["multiplier"], "zero_point": options["y_zero"]}
    for choices in every_choice("requantize"):
        ends = {"qmin": low, "qmax": options["qmax"]}
        one = expect("requantize", given, ends, choices)["codes"]
        assert expect("quantized_conv2d", inputs, options, choices)["codes"] == one


# --- other grids, and scales ----------------------------------------------------------------------


@given(draws)
def test_kinds_are_those_of_the_book(seed):
    inputs, options = arguments("project_kind", seed)
    inputs["scale"] = 2 ** (seed % 5)
    grid = Grid(options["bits"], kind=options["kind"])
    x = floats(inputs["x"])
    codes = qcp_ref.quantize(x, grid, inputs["scale"])
    values = qcp_ref.dequantize(codes, inputs["scale"], grid=grid)
    assert_same(values, numbers(expect("project_kind", inputs, options)["values"]))


@pytest.mark.parametrize("rule", ["max-abs", "max-abs-narrow", "max-abs-full", "max-abs-two-sided"])
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_largest_values_give_the_scales_of_the_book(rule, numbers_, bits):
    # Multiples of all divisors, so that the scale is a whole number.
    grid = Grid(2 * bits)
    x = [m * grid.qmax * (grid.qmax + 1) * (2 * grid.qmax + 1) for m in numbers_]
    options = {"qmin": grid.qmin, "qmax": grid.qmax, "rule": rule}
    part = expect("choose_scale", {"x": x}, options)["scale"]
    assert_same(qcp_ref.choose_scale(np.array(x), grid, rule=rule).scale, numbers(part))


@given(draws)
def test_affine_ranges_are_those_of_the_book(seed):
    inputs, options = arguments("choose_affine", seed)
    grid = GRIDS[options["qmin"], options["qmax"]]
    chosen = qcp_ref.choose_scale(floats(inputs["x"]), grid, rule="min-max")
    assert isinstance(chosen, Scale)
    found = expect("choose_affine", inputs, options)
    assert_same(chosen.scale, numbers(found["scale"]))
    zero = found["zero_point"]
    allowed = zero["allowed"][0] if zero["kind"] == "set" else [numbers(zero)]
    assert chosen.zero_point in allowed
    assert len(allowed) <= 2


# --- rounding to float32 --------------------------------------------------------------------------


@given(st.integers(-(2**53), 2**53), st.integers(-170, 70))
def test_float32_is_that_of_the_machine(m, e):
    x = m * Fraction(2) ** e
    with np.errstate(under="ignore"):
        assert float32(x) == Fraction(float(np.float32(float(x))))


def test_float32_rounds_once():
    # Through float64 this would become a tie, and then go to the even neighbour.
    assert float32(1 + Fraction(1, 2**24) + Fraction(1, 2**80)) == 1 + Fraction(1, 2**23)


# --- planted faults -------------------------------------------------------------------------------


def test_planted_faults_are_caught():
    def through_float64(q):
        return Fraction(float(np.float32(float(q))))

    def always_even(q, rule):
        return round(q)

    counts = truth._counts
    code = truth._code

    def wraps(q, z, ends, choices, short):
        return (code(q, z, (-(2**40), 2**40), choices, short) - ends[0]) % 256 + ends[0]

    def one_less(op, given_, options):
        terms, steps = counts(op, given_, options)
        return terms, steps - 1

    assert caught(truth, quantizers_on_one_seed, rounded=always_even)
    assert caught(truth, quantizers_on_one_seed, _code=wraps)
    assert caught(truth, test_roundings_are_counted, _counts=one_less)
    assert caught(truth, float32_from_truth, float32=through_float64)


def quantizers_on_one_seed():
    inputs = {"x": [0.5, -0.5, 1.5, 999.0], "scale": 1, "zero_point": 0}
    options = {"qmin": -128, "qmax": 127}
    for rounding in CHOICES["rounding"]:
        codes = expect("quantize", inputs, options, {"rounding": rounding})["codes"]
        wanted = qcp_ref.quantize(inputs["x"], Grid(8), 1, rounding=rounding)
        assert_same(wanted, numbers(codes))


def float32_from_truth():
    assert truth.float32(1 + Fraction(1, 2**24) + Fraction(1, 2**80)) > 1
