"""Cases of level L1: the tensor algebra.

Entries are small and different, sides are different where a wrong mode would be a wrong shape anyway
and equal where it would not.

Checked by tests/conformance/test_kit_suite.py.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from qcp_ref.conformance.cases.make import Case, coded, make, mantissas, scattered

__all__ = ["families"]


def _factor_sets() -> list[tuple[str, str, Any]]:
    """Return name, what it is for, and the factors."""
    A, B, C, D = (coded(f"factor{n}", side, 2, top=9) for n, side in enumerate((3, 4, 2, 3)))
    cube = [coded(f"cube{n}", 3, 3, top=7) for n in range(3)]
    single = [coded(f"one{n}", side, 1) for n, side in enumerate((2, 3, 4))]
    zero = [[2, 0], [1, 0], [-3, 0]]
    short = [mantissas(f"short{n}", side, 2) for n, side in enumerate((2, 3, 2))]
    return [
        ("plain", "Three modes of different sizes.", [A, B, C]),
        ("cube", "Equal sides, so that a wrong mode is no wrong shape.", cube),
        ("matrix", "Two modes.", [A, B]),
        ("four", "Four modes.", [A, B, C, D]),
        ("rank-one", "One component.", single),
        ("zero-column", "A component that is zero in one mode.", [zero, B, C]),
        ("rounding", "Full mantissas, few terms: shorter types show.", short),
    ]


def _algebra() -> Iterator[Case]:
    sets = _factor_sets()
    A, B, C = sets[0][2]
    flags = ["AxisOrder", "Rounding"]
    for name, says, factors in sets:
        sane = ["Sanity"] if name == "zero-column" else flags
        yield make("reconstruct", name, says, sane, (factors, None))
        shape, rank = [len(A) for A in factors], len(factors[0][0])
        X = (mantissas if name == "rounding" else coded)(f"X{name}", *shape)
        for mode in range(len(shape)):
            yield make("mttkrp", f"{name}.{mode}", says, flags, (X, factors), {"mode": mode})
        for every in (None, len(shape) - 1):
            end = "all" if every is None else str(every)
            yield make("gram", f"{name}.{end}", says, flags, [factors], {"mode": every})
        if rank > 1:
            weights = [Fraction(3), Fraction(-1, 2), Fraction(5)][:rank]
            why = "The weights count once."
            yield make("reconstruct", f"{name}.weights", why, flags, (factors, weights))
    more = coded("ranks", 2, 5, top=5), coded("ranks2", 3, 5, top=5)
    says = "More components than rows."
    yield make("gram", "ranks", says, flags, [more], {"mode": 0})
    yield make("reconstruct", "ranks", says, flags, (more, None))
    yield from scattered("mttkrp", (coded("X", 3, 4, 2), [A, B, C]), {"mode": 1})


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the family of the level with its cases."""
    yield "algebra", [*_algebra()]
