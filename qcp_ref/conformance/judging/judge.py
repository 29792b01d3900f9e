"""Is a result right? Judged against what the case says, without any tolerance chosen by hand.

Exact expectations are compared as rational numbers, bounds are the proven ones of
:eq:`conformance-bound` for the declared arithmetic, sets list the codes that are allowed near a
tie, and certificates are recomputed from the result (``qcp_ref.conformance.judging.certificates``).
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from qcp_ref.conformance.cases.exact import expected as exactly
from qcp_ref.conformance.cases.truth import SUMS, bounded
from qcp_ref.conformance.judging.certificates import CERTIFICATES
from qcp_ref.conformance.judging.large import LARGE
from qcp_ref.conformance.judging.verdict import Judgement
from qcp_ref.conformance.spec import Arithmetic

__all__ = ["expectation", "judge"]

_SPECIAL = ("nan", "inf", "-inf")


def expectation(case: Mapping[str, Any], choices: Mapping[str, str]) -> Any:
    """Return what a case expects of an implementation with these declared choices.

    For a recipe that is only ``{"kind": "recipe"}``: :func:`judge` computes the rest.
    """
    for other in case.get("when", ()):
        if all(choices[key] == value for key, value in other["declared"].items()):
            return other["out"]
    return case["out"]


def judge(case: Mapping[str, Any], out: Mapping[str, Any], info: Mapping[str, Any]) -> Judgement:
    """Judge the results of one case.

    Parameters
    ----------
    case : mapping
        A case of the suite.
    out : mapping
        Encoded results by name, as ``qcp_ref.conformance.adapter.execute`` returns them.
    info : mapping
        What the adapter declares: 'arith', 'choices', 'fast'.

    Returns
    -------
    Judgement
        The worst one of all results.
    """
    expected = expectation(case, info["choices"])
    if expected.get("kind") == "reject":
        return Judgement("fail", "accepted", says="wrong input has to be refused by an exception")
    if expected.get("kind") == "cert":
        # Certificates compute with the numbers, so what is not a number ends here.
        for name, result in out.items():
            if _has_special(result):
                return Judgement("fail", "nan", says=f"{name}: NaN or infinity")
        known = LARGE if "recipe" in case and expected["name"] in LARGE else CERTIFICATES
        return known[expected["name"]](case, out, info)
    short = bool(Arithmetic.of(info["arith"]).inputs)
    if expected.get("kind") == "recipe":
        expected = exactly(case, info["choices"], short=short)
    elif short:
        # Rounded inputs make exact sums inexact.
        exact = any(part["kind"] == "exact" and part["m"] for part in expected.values())
        expected = bounded(case) if exact and case["op"] in SUMS else expected
    worst = Judgement("pass")
    for name, part in expected.items():
        if name not in out:
            return Judgement("fail", "wrong-shape", says=f"{name}: missing")
        found = _compare(name, part, out[name], case, info)
        if found.outcome == "fail":
            return found
        worst = max(worst, found, key=lambda one: one.margin)
    return worst


def _has_special(result: Any) -> bool:
    if isinstance(result, list):
        return any(_has_special(part) for part in result)
    return any(m in _SPECIAL for m in result["m"])


def _compare(
    name: str,
    part: Mapping[str, Any],
    result: Any,
    case: Mapping[str, Any],
    info: Mapping[str, Any],
) -> Judgement:
    """Judge one result against its expectation."""
    if part["kind"] == "list":
        if not isinstance(result, list) or len(result) != len(part["parts"]):
            return Judgement("fail", "wrong-shape", says=f"{name}: expected a list of arrays")
        each = [
            _compare(f"{name}[{i}]", *pair, case, info)
            for i, pair in enumerate(zip(part["parts"], result, strict=True))
        ]
        return next((one for one in each if one.outcome == "fail"), max(each, key=_margin))
    arithmetic = Arithmetic.of(info["arith"])
    word, says = _form(part, result, arithmetic.real)
    if word:
        return Judgement("fail", word, says=f"{name}: {says}")
    if result["m"] == part.get("m") and result["e"] == part["e"]:
        return Judgement("pass")  # the truth, written alike
    entries = _values(result)
    if part["kind"] == "set":
        margins = [2 * (y not in v) for y, v in zip(entries, part["allowed"], strict=True)]
        return _entrywise(name, entries, part["allowed"], margins)
    truth = _values(part)
    if "nan" in entries and "nan" not in truth:
        return Judgement("fail", "nan", says=f"{name}: NaN at entry {entries.index('nan')}")
    if part["kind"] == "exact" and not _is_fast(case, info):
        margins = [2 * (y != v) for y, v in zip(entries, truth, strict=True)]
    else:
        bounds = _bounds(part, case, info, arithmetic)
        margins = [_ratio(*triple) for triple in zip(entries, truth, bounds, strict=True)]
    return _entrywise(name, entries, truth, margins)


def _form(part: Mapping[str, Any], result: Any, real: str) -> tuple[str, str]:
    """Return a word and a sentence if the result is no array, or has another type or shape."""
    if isinstance(result, list):
        return "wrong-shape", "expected one array, got a list"
    exact = part.get("t", "i") not in ("real", "f32", "f64")
    if result["t"][0] not in "iu" if exact else result["t"] != real:
        return "wrong-dtype", f"{result['t']}, expected {'an integer type' if exact else real}"
    if result["s"] != part["s"]:
        return "wrong-shape", f"shape {result['s']}, expected {part['s']}"
    return "", ""


def _ratio(y: Any, v: Fraction, bound: Fraction) -> Any:
    if isinstance(y, str) or not bound:
        return 2 * (y != v)
    return abs(y - v) / bound


def _margin(one: Judgement) -> float:
    return one.margin


def _values(array: Mapping[str, Any]) -> list[Any]:
    """Return entries as fractions; NaN and infinities stay strings, a negative zero is zero."""
    step = Fraction(2) ** array["e"]
    return [m if m in _SPECIAL else 0 if m == "-0" else int(m) * step for m in array["m"]]


def _bounds(
    part: Mapping[str, Any],
    case: Mapping[str, Any],
    info: Mapping[str, Any],
    arithmetic: Arithmetic,
) -> list[Fraction]:
    """Return how far each entry may be from the truth ``y``."""
    u = arithmetic.accumulator
    if _is_fast(case, info):
        # (1 + u) c u ||x|| ||W|| + u |y|  :eq:`conformance-fast`
        squares = [sum(v * v for v in _values(case["in"][key])) for key in ("x", "W")]
        size = Fraction(float(squares[0]) ** 0.5 * float(squares[1]) ** 0.5)
        least = (1 + u) * Fraction(info["fast"]) * u * size
        return [least + u * abs(v) for v in _values(part)]
    # ((1 + u')^d (1 + gamma_n) (1 + u'')^k - 1) g  :eq:`conformance-bound`
    # gamma_n = n u / (1 - n u)
    n = part["n"]
    growth = 1 + n * u / (1 - n * u)
    if arithmetic.inputs:
        growth *= (1 + arithmetic.inputs) ** part.get("factors", 2)
        growth *= (1 + arithmetic.result) ** part.get("stored", 1)
    return [(growth - 1) * g for g in _values(part["g"])]


def _is_fast(case: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    return bool(info.get("fast")) and case["op"] == "conv2d"


def _entrywise(name: str, entries: list[Any], truth: list[Any], margins: list[Any]) -> Judgement:
    """Pass if no entry's error exceeds its bound; else say how many do, and show the first."""
    bad = [i for i, margin in enumerate(margins) if margin > 1]
    worst = float(min(max(margins, default=0), Fraction(10**9)))
    if not bad:
        return Judgement("pass", margin=worst)
    first = bad[0]
    says = (
        f"{name}: {len(bad)} of {len(entries)} entries are wrong; the first is entry {first}: "
        f"expected {_show(truth[first])}, got {_show(entries[first])}"
    )
    return Judgement("fail", "wrong-value", worst, says)


def _show(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(map(str, value))
    return value if isinstance(value, str) else f"{float(value):.9g}"
