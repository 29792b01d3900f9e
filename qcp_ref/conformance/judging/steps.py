"""Is a step of ADMM right? The solve, the projection and the dual, each judged by itself.

Checked by tests/conformance/judging/test_certificates.py and
tests/conformance/judging/test_runs.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

from qcp_ref import loops
from qcp_ref.conformance.dyadic import flat_numbers
from qcp_ref.conformance.judging.checks import (
    USUAL,
    Check,
    Info,
    Matrix,
    declared,
    each,
    growth,
    norm,
    plus_diagonal,
    solving,
)
from qcp_ref.conformance.spec import seen_by

__all__ = ["Sizes", "Step", "dual_sign", "step_checks"]


class Step(NamedTuple):
    """What a step starts from: its problem, the factor on the grid and the dual before it."""

    F: Matrix
    G: Matrix
    H: Matrix
    U: Matrix
    rho: Fraction
    scale: Fraction


class Sizes(NamedTuple):
    """How large the numbers are that F and G were summed from, and the rounding of these sums."""

    F: Matrix
    G: Fraction
    forming: Fraction


def dual_sign(info: Info) -> int:
    """Return -1 if the adapter declares the dual of the other sign."""
    return -1 if seen_by("admm_step", info["choices"])["dual"] == "minus" else 1


def step_checks(
    step: Step, out: Sequence[Matrix], sizes: Sizes, ends: Mapping[str, int], info: Info
) -> Iterator[Check]:
    """Yield the checks of the results ``T, H, U`` of a step."""
    # ||B - T S|| <= ((1 + gamma_4) (1 + s) - 1) (|| |B| || + ||T|| ||S||)  :eq:`conformance-step`
    # with B = F + rho (H + U), S = G + rho I; |U' - (U + H' - T)| <= gamma_2 (|U| + |H'| + |T|)
    F, G, H, U, rho, scale = step
    T, new, dual = out
    S = plus_diagonal(G, [rho] * len(G))
    residual = each(lambda f, h, u, ts: f + rho * (h + u) - ts, F, H, U, loops.matmul(T, S))
    parts = each(lambda f, h, u: f + rho * (abs(h) + abs(u)), sizes.F, H, U)
    size = norm(parts) + norm(T) * (norm(S) + sizes.G - norm(G))
    rate = (1 + sizes.forming) ** 2 * (1 + growth(4, info)) * (1 + solving(len(G), info)) - 1
    usual = None if sizes.forming else growth(USUAL * len(G), info) * size
    yield Check("T: residual of the solve", norm(residual), rate * size, usual)
    for t, u, h, v in zip(*map(flat_numbers, (T, U, new, dual)), strict=True):
        wrong = _misplaced((t, u, h), scale, ends, info)
        yield Check(wrong, Fraction(wrong != ""), Fraction(0))
        bound = growth(2, info) * (abs(u) + abs(h) + abs(t))
        yield Check("U: as the dual of the own T and H", abs(v - (u + h - t)), bound)


def _misplaced(
    entries: Sequence[Fraction], scale: Fraction, ends: Mapping[str, int], info: Info
) -> str:
    """Say what is wrong with ``h`` as the projection of ``t - u``, if anything."""
    (t, u, h), low, high = entries, ends["qmin"], ends["qmax"]
    code, unit = round(h / scale), max(declared(info)[:3])
    if not low <= code <= high or abs(h - code * scale) > 2 * unit * abs(code * scale):
        return f"H: {float(h):.9g} is not on the grid"
    first, last = (min(max(k, low), high) for k in _nearest(t, u, scale, info))
    near = f"(T - U) / scale = {float((t - u) / scale):.9g}"
    return "" if first <= code <= last else f"H: code {code} is not the nearest one to {near}"


def _nearest(t: Fraction, u: Fraction, scale: Fraction, info: Info) -> tuple[int, int]:
    """Return the lowest and the highest code for ``(t - u) / scale``."""
    inputs, _, unit, _ = declared(info)
    v, choices, power = (
        t - u,
        seen_by("admm_step", info["choices"]),
        scale.numerator & (scale.numerator - 1) == 0,
    )
    odd = v.numerator // (v.numerator & -v.numerator or 1)
    if abs(odd) * unit <= 1 and power and not inputs:  # nothing was rounded before
        return 2 * (loops.rounded(v / scale, choices["rounding"]),)
    unit = max(unit, Fraction(choices["division"] == "float32", 2**24))
    # |code - v / s| <= 1/2 + 5 u |v| / s + u' (|t| + |u|) / s  :eq:`conformance-nearest`
    band = (5 * unit * abs(v) + inputs * (abs(t) + abs(u))) / scale + Fraction(1, 2)
    return ceil(v / scale - band), floor(v / scale + band)
