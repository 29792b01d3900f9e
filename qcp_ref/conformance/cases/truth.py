"""What is right? Expectations in exact arithmetic, from :mod:`qcp_ref.loops` and nothing else.

Numbers come in as integers and fractions in nested lists and are never rounded. A sum of products
is computed on integers. If no partial sum can leave the 24 bits of float32, in whatever order, the
result has to be met exactly :eq:`conformance-exact`; otherwise it travels with the same operation
on absolute values and the number of roundings, from which the judge makes the bound. Quantizers are
decided entry by entry, for each combination of the choices that govern the operation; they stand
here under their role, as ``qcp_ref.conformance.spec.seen_by`` returns them. The choices 'float32'
and 'reciprocal' mean that every single operation before the rounding is one in float32.

Checked by tests/conformance/cases/test_truth.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

from qcp_ref import loops
from qcp_ref.conformance.dyadic import fractions, nest, pack
from qcp_ref.conformance.spec import CHOICES, OPS, governing, seen_by
from qcp_ref.loops import float32, rounded

__all__ = ["SUMS", "band", "bounded", "expect", "float32", "outcomes", "roundings", "targets"]

Numbers = Any  # a number, or a nested list of them
Given = Mapping[str, Any]  # arguments or options by name
Choices = Mapping[str, str]
Expectation = dict[str, Any]

SUMS = ("reconstruct", "mttkrp", "gram", "conv2d", "pointwise", "depthwise", "cp_conv2d")
_OURS = seen_by("", {})  # each role with our option


def _map(function: Callable[[Any], Any], numbers: Numbers) -> Numbers:
    if isinstance(numbers, (list, tuple)):
        return [_map(function, entry) for entry in numbers]
    return function(numbers)


# --- sums of products -----------------------------------------------------------------------------


def _run(op: str, given: Given, options: Given) -> Numbers:
    arrays = [given[name] for name in OPS[op].arrays if name != "bias"]
    if op == "cp_conv2d":
        arrays = [arrays[0], arrays[1:]]
    bias = {"bias": given["bias"]} if "bias" in given else {}
    return getattr(loops, op)(*arrays, **options, **bias)


def _operands(op: str, given: Given, options: Given) -> list[Any]:
    """List what each product is made of; a mode's own factor takes no part."""
    names = [name for name in OPS[op].arrays if name not in ("bias", "factors")]
    factors = [A for n, A in enumerate(given.get("factors", ())) if n != options.get("mode")]
    own = [given[name] for name in names if given[name] is not None]
    return own + (2 * factors if op == "gram" else factors)


def _counts(op: str, given: Given, options: Given) -> tuple[int, int]:
    """Return the terms of a sum, and how many roundings one of them goes through at most.

    The table at :eq:`conformance-sum`; for the three stages :eq:`conformance-chain`.
    """
    operands, size = _operands(op, given, options), prod(options.get("kernel_size", (1, 1)))
    if op == "gram":
        rows = [len(A) for A in operands[: len(operands) // 2]]
        return prod(rows), sum(rows) + len(rows) - 1
    if op == "cp_conv2d":
        inputs, rank = loops.shape_of(given["a_in"])
        return inputs * size * rank, inputs + size + rank
    if op == "mttkrp":
        terms = prod(len(A) for A in operands[1:])
        return terms, terms + len(operands) - 2
    if op == "reconstruct":
        rank = len(given["factors"][0][0])
        return rank, rank + len(operands) - 2
    terms = size if op == "depthwise" else prod(loops.shape_of(operands[1])[1:])
    return terms, terms


def _parts(given: Given) -> Iterator[dict[str, Any]]:
    """Yield the integers of each array, the exponents of their units, and their sizes."""

    def part(numbers: Numbers) -> Any:
        data = pack(numbers)
        m = [int(entry) for entry in data["m"]]
        return nest(m, data["s"]), data["e"], max(1, *map(abs, m))

    parts = {
        name: [part(A) for A in array] if name == "factors" else array and part(array)
        for name, array in given.items()
    }
    for k in range(3):
        yield {
            name: [one[k] for one in found] if name == "factors" else found and found[k]
            for name, found in parts.items()
        }


def _sum(op: str, given: Given, options: Given, *, exact: bool = True) -> Expectation:
    """Expect a sum of products, exactly where all its partial sums fit float32."""
    # sum |x_k| |y_k| <= 2^24 2^e: every order of summation is exact  :eq:`conformance-exact`
    whole, exponents, sizes = _parts(given)
    operands = _operands(op, exponents, options)
    (terms, _), unit = _counts(op, given, options), sum(operands)
    largest = terms * prod(_operands(op, sizes, options))
    if given.get("bias") is not None:
        # One unit for both: the coarser numbers become multiples of the finer one.
        fine = min(unit, exponents["bias"])
        up, down, unit = 2 ** (unit - fine), 2 ** (exponents["bias"] - fine), fine
        largest = largest * up + sizes["bias"] * down
        whole["x"] = _map(lambda m: m * up, whole["x"])
        whole["bias"] = _map(lambda m: m * down, whole["bias"])

    def scaled(arrays: Given) -> dict[str, Any]:
        return pack(_map(lambda m: m * Fraction(2) ** unit, _run(op, arrays, options)))

    if exact and largest <= 2**24 and unit >= -149:
        return {"kind": "exact", **scaled(whole)}
    gauge = {name: array and _map(abs, array) for name, array in whole.items()}
    counts = roundings(op, given, options)
    return {"kind": "bound", **scaled(whole), "g": scaled(gauge), **counts}


def roundings(op: str, given: Given, options: Given) -> dict[str, int]:
    """Count what a bound needs to know of a sum of products, :eq:`conformance-bound`."""
    operands = _operands(op, given, options)
    steps = _counts(op, given, options)[1] + (given.get("bias") is not None)
    # Every product reads two numbers, and all but the first one read a result stored before.
    return {"n": steps, "factors": 2 * (len(operands) - 1), "stored": len(operands) - 2}


def bounded(case: Given) -> dict[str, Expectation]:
    """Expect a sum of products within its bound, even if float32 holds it.

    For implementations that round what they multiply to a shorter type first.
    """

    def exact(value: Any) -> Any:
        if isinstance(value, list):
            return [fractions(part) for part in value]
        return None if value is None else fractions(value)

    given = {name: exact(value) for name, value in case["in"].items()}
    op = case["op"]
    return {OPS[op].results[0]: _sum(op, given, case["options"], exact=False)}


# --- quantizers -----------------------------------------------------------------------------------


def _code(q: Fraction, z: int, ends: Sequence[int], choices: Choices, short: bool) -> int:
    """Round a quotient, add the zero point, clip; ``short``: the sum in between is a float32."""
    if choices["zero_point"] == "before-rounding":
        code = rounded(float32(q + z) if short else q + z, choices["rounding"])
    else:
        code = rounded(q, choices["rounding"]) + z
    return int(min(max(code, ends[0]), ends[1]))


def _quantize(given: Given, options: Given, choices: Choices) -> Numbers:
    ends, division = _ends(options), choices["division"]

    def entry(*index: int) -> int:
        x, s, z = (loops.spread(given[name], index) for name in ("x", "scale", "zero_point"))
        if x in ("inf", "-inf"):
            return ends[x == "inf"]
        x = Fraction(0 if x == "-0" else x)
        q = x * float32(1 / Fraction(s)) if division == "reciprocal" else x / s
        return _code(
            q if division == "exact" else float32(q), z, ends, choices, division != "exact"
        )

    return loops.build(loops.shape_of(given["x"]), entry)


def _ends(options: Given) -> tuple[int, int]:
    return options["qmin"], options["qmax"]


def _requantize(acc: Numbers, multiplier: Numbers, z: int, ends: Any, choices: Choices) -> Numbers:
    """Requantize by one number, or one for each index of axis 1."""
    short = choices["requant"] == "float32"

    def entry(*index: int) -> int:
        M = Fraction(multiplier[index[1]] if isinstance(multiplier, list) else multiplier)
        a = loops.at(acc, index)
        return _code(float32(float32(a) * float32(M)) if short else a * M, z, ends, choices, short)

    return loops.build(loops.shape_of(acc), entry)


def _requantize_fixed(given: Given, options: Given, mode: str) -> Numbers:
    lowest, highest = _ends(options)

    def entry(*index: int) -> int:
        m, shift = (
            value[index[1]] if isinstance(value, list) else value
            for value in (given["multiplier"], given["shift"])
        )
        code = loops.rescale(loops.at(given["acc"], index), m * Fraction(2) ** (shift - 31), mode)
        return min(max(code + int(given["zero_point"]), lowest), highest)

    return loops.build(loops.shape_of(given["acc"]), entry)


def _stages(op: str, given: Given, options: Given) -> Iterator[tuple[Any, Numbers, Given]]:
    """List operation, weights and options of each stage of a layer in integers."""
    names = ("kernel_size", "stride", "padding", "dilation")
    window = {name: options[name] for name in names if name in options}
    if op == "quantized_cp_conv2d":
        yield loops.pointwise, [list(column) for column in zip(*given["a_in"], strict=True)], {}
        yield loops.depthwise, given["a_kernel"], window
        yield loops.pointwise, given["a_out"], {"bias": given["bias"]}
    else:
        run = loops.pointwise if op == "quantized_linear" else loops.conv2d
        yield run, given["W"], {"bias": given["bias"], **window}


def _layer(op: str, given: Given, options: Given) -> Callable[[Choices], Numbers]:
    """Return a layer in integers as a function of the choices."""
    stages, o = list(_stages(op, given, options)), options
    done: dict[str, Numbers] = {}  # accumulators, which most choices share
    if op == "quantized_cp_conv2d":
        zeros, ends, multipliers = o["zeros"], [*zip(o["qmins"], o["qmaxs"], strict=True)], given
    else:
        zeros, lowest = (o["x_zero"], o["y_zero"]), o["y_zero"] if o["relu"] else o["qmin"]
        ends, multipliers = [(lowest, o["qmax"])], {"multipliers": [given["multiplier"]]}

    def run(choices: Choices) -> Numbers:
        x = given["x"]
        for n, (stage, weights, more) in enumerate(stages):
            key = f"{n} {x}"
            if key not in done:
                done[key] = loops.accumulators(stage, x, weights, zeros[n], **more)
            M = multipliers["multipliers"][n]
            x = _requantize(done[key], M, zeros[n + 1], ends[n], choices)
        return x

    return run


# --- the other grids, and scales ------------------------------------------------------------------


def _project_kind(given: Given, options: Given, rounding: str) -> Numbers:
    """Take the nearest level; of two equally near ones the rounding decides, binary the larger."""
    top = 2 ** (options["bits"] - 1) - 1 if options["kind"] == "log2" else 1
    codes = [k for k in range(-top, top + 1) if k or options["kind"] != "binary"]
    level = {k: Fraction((k > 0) - (k < 0)) * Fraction(2) ** (abs(k) - top) for k in codes}
    if options["kind"] == "binary" or rounding == "half-up":
        codes.reverse()
    elif rounding == "half-away":
        codes.sort(key=lambda k: -abs(k))
    else:
        codes.sort(key=lambda k: k % 2)

    def entry(*index: int) -> Fraction:
        x, s = (Fraction(loops.spread(given[name], index)) for name in ("x", "scale"))
        return s * level[min(codes, key=lambda k: abs(x - s * level[k]))]  # the first of equals

    return loops.build(loops.shape_of(given["x"]), entry)


def _range(x: Numbers) -> tuple[Fraction, Fraction]:
    flat = [Fraction(loops.at(x, index)) for index in loops.indices(loops.shape_of(x))]
    return min(flat), max(flat)


def _max_abs(given: Given, options: Given) -> Fraction:
    low, high = _range(given["x"])
    if options["rule"] == "max-abs-two-sided":
        return max(low / options["qmin"], high / options["qmax"]) or Fraction(1)
    more = {"max-abs": Fraction(1, 2), "max-abs-narrow": 0, "max-abs-full": 1}[options["rule"]]
    return max(-low, high) / (options["qmax"] + more) or Fraction(1)


def _affine(given: Given, options: Given, choices: Choices) -> dict[str, Expectation]:
    """Decide scale and zero point of a range.

    The rule of ONNX Runtime is ours. PyTorch's observers round only the quotient, and have a least
    scale. TFLite's goes from the end of the range whose numbers are smaller.
    """
    low, high = (f(Fraction(0), end) for f, end in zip((min, max), _range(given["x"]), strict=True))
    (lowest, highest), rule = _ends(options), choices["affine"]
    width, scale = highest - lowest, (high - low) / (highest - lowest)
    if rule == "pytorch":
        scale = max(scale, Fraction(1, 2**23))  # the distance of 1 to the next float32
    elif not scale:
        # No range: the scale is free, TFLite's is 0.
        return {"scale": _near(Fraction(rule != "tflite"), 3), "zero_point": _codes(0)}
    steps = low / scale
    # Three roundings make the scale, two the quotient, one the difference; none if all divisions
    # are by powers of two.
    exact = not any(n & (n - 1) for n in (width, scale.numerator, scale.denominator))
    far = Fraction(0) if exact else 6 * (abs(lowest) - steps) / (2**24 - 6)
    if rule == "tflite":  # from either end, the sizes of which are equal up to rounding
        far = 7 * far / 6

    def zero_point(moved: Fraction) -> int:
        if rule == "pytorch":
            return int(lowest - rounded(steps - moved, choices["rounding"]))
        return int(rounded(lowest - steps + moved, choices["rounding"]))

    zeros = sorted({min(max(zero_point(end), lowest), highest) for end in (-far, far)})
    several = {"kind": "set", "s": [], "allowed": [zeros]}
    return {"scale": _near(scale, 3), "zero_point": several if zeros[1:] else _codes(zeros[0])}


def targets(op: str, given: Given, options: Given, choices: Choices = _OURS) -> Numbers:
    """Return what is rounded to each code by ``descend_rows`` and ``nearest_plane``.

    Either solves for some columns while the others are fixed: for one, :eq:`rows-descent`, or for
    all that are not decided yet, :eq:`rows-babai`.
    """
    G, rank, aims = given["G"], len(given["G"]), []
    for n, row in enumerate(given["F"]):
        v = list(given["codes"][n]) if op == "descend_rows" else [0] * rank
        aims.append([Fraction(k) for k in v])
        for r in range(rank) if op == "descend_rows" else reversed(range(rank)):
            free = [r] if op == "descend_rows" else [*range(r + 1)]
            fixed = [(p, v[p]) for p in range(rank) if p not in free]
            rest = [row[q] / given["scale"] - sum(k * G[p][q] for p, k in fixed) for q in free]
            if G[r][r]:
                system = [[Fraction(G[p][q]) for q in free] for p in free]
                aims[n][r] = loops.solve(system, [rest])[0][-1]
            v[r] = _code(aims[n][r], 0, _ends(options), choices, False)
    return aims


def _decided(op: str, given: Given, options: Given, choices: Choices) -> Numbers:
    aims = targets(op, given, options, choices)
    return _map(lambda t: _code(t, 0, _ends(options), choices, False), aims)


# --- expectations ---------------------------------------------------------------------------------


def _values(numbers: Numbers) -> Expectation:
    """Expect products of two numbers: exactly if float32 holds them, else up to one rounding."""
    places = loops.indices(loops.shape_of(numbers))
    short = all(float32(loops.at(numbers, index)) == loops.at(numbers, index) for index in places)
    return {"kind": "exact", **pack(numbers)} if short else _near(numbers, 1)


def _near(numbers: Numbers, steps: int) -> Expectation:
    gauge = pack(_map(abs, numbers))
    return {"kind": "bound", **pack(numbers), "g": gauge, "n": steps, "factors": 1, "stored": 0}


def _codes(numbers: Numbers) -> Expectation:
    return {"kind": "exact", **pack(numbers, "i32")}


def _results(op: str, given: Given, options: Given) -> Callable[[Choices], dict[str, Expectation]]:
    """Return the expectations of an operation as a function of the choices."""
    g, o = given, options
    s, z, name = g.get("scale"), g.get("zero_point"), OPS[op].results[0]
    if op in SUMS:
        return lambda _: {name: _sum(op, g, o)}
    if op == "dequantize":
        return lambda _: {name: _values(loops.dequantize(g["codes"], s, z))}
    if op == "project":
        return lambda c: {name: _values(loops.dequantize(_quantize(g, o, c), s, z))}
    if op == "project_kind":
        return lambda c: {name: _values(_project_kind(g, o, c["rounding"]))}
    if op == "choose_scale":
        return lambda _: {name: _near(_max_abs(g, o), 2)}  # a reciprocal and a product
    if op == "choose_affine":
        return lambda c: _affine(g, o, c)
    codes: dict[str, Callable[[Choices], Numbers]] = {
        "quantize": lambda c: _quantize(g, o, c),
        "requantize": lambda c: _requantize(
            g["acc"], g["multiplier"], g["zero_point"], _ends(o), c
        ),
        "requantize_fixed": lambda c: _requantize_fixed(g, o, c["fixed_point"]),
        "int_conv2d": lambda _: _accumulators(g, o),
        "descend_rows": lambda c: _decided(op, g, o, c),
        "nearest_plane": lambda c: _decided(op, g, o, c),
    }
    run = codes[op] if op in codes else _layer(op, g, o)
    return lambda c: {name: _codes(run(c))}


def _accumulators(given: Given, options: Given) -> Numbers:
    window = {name: value for name, value in options.items() if name != "x_zero"}
    x, W, bias = given["x"], given["W"], given["bias"]
    return loops.int_conv(x, W, zero_point=options["x_zero"], bias=bias, **window)


def expect(
    op: str, inputs: Given, options: Given, choices: Choices | None = None
) -> dict[str, Expectation]:
    """Expect the results of an operation for declared choices, our own by default."""
    return _results(op, inputs, options)(seen_by(op, choices or {}))


def outcomes(
    op: str, inputs: Given, options: Given
) -> tuple[dict[str, Expectation], list[dict[str, Any]]]:
    """Expect the results of an operation for our choices, and for all that make a difference.

    Parameters
    ----------
    op : str
        Of ``qcp_ref.conformance.spec.OPS``, of the levels L0, L1, L2 and LI, and
        ``descend_rows`` and ``nearest_plane``.
    inputs : mapping of str to nested list
        Integers and fractions by argument; for ``x`` of quantizers 'inf', '-inf' and '-0', too.
    options : mapping
        The operation's options.

    Returns
    -------
    out : dict
        Expectations by result for the first option of each choice.
    when : list of dict
        'declared' choices with their 'out'. No entry says more than it has to; what no entry
        matches expects ``out``.
    """
    results, names = _results(op, inputs, options), governing(op)
    parts = [
        {name: option for name, option in zip(names, chosen, strict=True) if option}
        for chosen in product(*(("", *CHOICES[name]) for name in names))
    ]
    every = [part for part in parts if len(part) == len(names)]
    found = [results(seen_by(op, choices)) for choices in every]
    missing, when = {n for n, out in enumerate(found) if out != found[0]}, []
    for part in sorted(parts, key=len):
        matched = {n for n, choices in enumerate(every) if part.items() <= choices.items()}
        outs = [found[n] for n in sorted(matched)]
        if missing & matched and all(out == outs[0] for out in outs):
            when.append({"declared": part, "out": outs[0]})
            missing -= matched
    return found[0], when


def band(inputs: Given, options: Given) -> dict[str, Expectation]:
    """Expect the codes of ``quantize``, or what rounding makes of them near ties."""
    # round(q - b) + z to round(q + b) + z, b = gamma_3 (|q| + |z|)  :eq:`conformance-ties`
    # Three roundings: scale, quotient or product with a reciprocal, and the sum if the zero point comes first.
    shape, (lowest, highest), allowed = loops.shape_of(inputs["x"]), _ends(options), []
    for index in loops.indices(shape):
        x, s, z = (loops.spread(inputs[name], index) for name in ("x", "scale", "zero_point"))
        q = Fraction(x) / s
        far = 3 * (abs(q) + abs(z)) / (2**24 - 3)
        ends = [round(end) + z for end in (q - far, q + far)]
        allowed.append(sorted({min(max(code, lowest), highest) for code in ends}))
    return {"codes": {"kind": "set", "s": list(shape), "allowed": allowed}}
