"""Which questions are asked of whole runs? From a given start all iterates; else what is known.

Each family goes through the orders of tensors, so that what works for matrices only, or only for
the first or the last mode, is seen. Inputs are small integers, exact in any type.

Checked by tests/conformance/cases/test_kit_runs.py.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from qcp_ref import loops
from qcp_ref.conformance.cases.make import Case, coded, make

__all__ = ["families"]

_RANGES = {2: (-1, 1), 3: (-3, 3), 4: (-8, 7), 8: (-127, 127)}
# The number of modes, and a shape whose sides are unequal; one with a single row.
_SHAPES = {2: (5, 4), 3: (4, 3, 2), 4: (2, 3, 1, 2)}
_SINGLE = {"first": (1, 6, 5), "middle": (6, 1, 5), "last": (6, 5, 1)}


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the name and the cases of each family of runs."""
    yield "runs", [*_honest(), *_exact(), *_components()]
    yield "replays", [*_least_squares(), *_alternating(), *_kept()]


def _cert(name: str, says: str, flag: str, inputs: Any, options: Any, **data: Any) -> Case:
    """Make a case of the operation that the name begins with; ``data`` is for its certificate."""
    op, _, rest = name.partition(".")
    needs = data.pop("needs", [])
    case = make(op, rest, says, [flag], inputs, options, out={"kind": "cert", "name": op, **data})
    order = len(case["in"]["X"]["s"])
    needs = [*needs, *([f"order-{order}"] if order in (2, 4) else [])]
    return case | {"needs": sorted({*case["needs"], *needs})}


# --- runs that make their start -------------------------------------------------------------------


def _honest() -> Iterator[Case]:
    says = "right shapes, an honest error, no worse than zero"
    for seed, (shape, bits) in enumerate((((4, 3, 2), 4), ((3, 3, 3), 8), ((4, 5), 2))):
        X, name = coded("runs", *shape), "x".join(map(str, shape))
        options = {"rank": 2, "seed": seed}
        yield _cert(f"cp_als.{name}", says, "WholeRun", {"X": X}, options)
        options |= dict(zip(("qmin", "qmax"), _RANGES[bits], strict=True))
        yield _cert(f"ao_admm.{name}", says, "WholeRun", {"X": X}, options)


def _exact() -> Iterator[Case]:
    """Yield tensors that one sweep from a generic start fits exactly.

    One component, or a matrix, perhaps with modes of one row beside its two: after the first update
    the factor spans the columns of the matrix.
    """
    shapes: list[tuple[str, tuple[int, ...], int]]
    shapes = [(f"matrix-{rank}", (6, 5), rank) for rank in (1, 2, 3)]
    shapes += [(f"single-{where}", shape, 2) for where, shape in _SINGLE.items()]
    shapes += [("cube", (4, 4, 4), 1), ("oblong", (2, 5, 3), 1), ("four", (3, 2, 4, 2), 1)]
    for seed, (name, shape, rank) in enumerate(shapes):
        X = loops.reconstruct(_columns(f"exact.{name}", shape, rank))
        says, options = "a sweep makes the error vanish", {"rank": rank, "seed": seed}
        yield _cert(f"cp_als.exact.{name}", says, "WholeRun", {"X": X}, options, exact=True)


def _columns(name: str, shape: Sequence[int], rank: int, top: int = 5) -> list[Any]:
    return [coded(f"{name}.{n}", side, rank, top=top) for n, side in enumerate(shape)]


def _components() -> Iterator[Case]:
    """Yield single components: each entry of a factor then is rounded by itself."""
    for order, bits in product((2, 3), (2, 3, 4)):
        shape = {2: (12, 9), 3: (8, 7, 6)}[order]
        low, high = _RANGES[bits]
        for name, top in (("drawn", 9), ("on-grid", high)):
            factors = _columns(f"component.{name}.{order}.{bits}", shape, 1, top)
            says = "one component: no run is worse than rounding it"
            given, options = {"X": loops.reconstruct(factors)}, {"rank": 1, "seed": bits}
            options |= {"qmin": low, "qmax": high}
            most = str(_rounded(factors, low, high))
            where = f"ao_admm.{name}.order-{order}.bits-{bits}"
            yield _cert(where, says, "WholeRun", given, options, most=most)


def _rounded(factors: Sequence[Any], low: int, high: int) -> Fraction:
    """Return the largest squared error of rounding one component by its largest entries.

    The coarsest of the usual rules; of the two signs of each factor the worse one.
    """
    choices = []
    for A in factors:
        largest = max(abs(a) for (a,) in A)
        scale = Fraction(2 * largest, 2 * high + 1)
        both = [
            [[sign * scale * min(max(round(sign * a / scale), low), high)] for (a,) in A]
            for sign in (1, -1)
        ]
        choices.append(both)
    X = loops.reconstruct(factors)
    return max(Fraction(loops.squared_error(X, one)) for one in product(*choices))


# --- runs from a given start ----------------------------------------------------------------------


def _start(name: str, shape: Sequence[int], rank: int) -> dict[str, Any]:
    return {"X": coded(name, *shape, top=9), "factors": _columns(name, shape, rank, 4)}


def _least_squares() -> Iterator[Case]:
    says = "each update uses the new factors before it, in each sweep"
    for (order, shape), (rank, sweeps) in product(_SHAPES.items(), ((1, 1), (2, 3))):
        name = f"order-{order}.rank-{rank}.sweeps-{sweeps}"
        given = _start(f"als.{name}", shape, rank)
        yield _cert(f"cp_als_run.{name}", says, "Replay", given, {"sweeps": sweeps})
    for name, change in (
        ("zero-column", lambda A: [[0, row[1]] for row in A]),
        ("parallel", lambda A: [[row[0], 2 * row[0]] for row in A]),
    ):
        given = _start(f"als.{name}", (4, 3, 2), 2)
        given["factors"][1:] = map(change, given["factors"][1:])
        says = "singular Gram matrices: any minimiser, sweep after sweep"
        more = {"needs": ["rank-deficient"]}
        yield _cert(f"cp_als_run.{name}", says, "Replay", given, {"sweeps": 2}, **more)
    given = _start("als.zero-tensor", (4, 3, 2), 2)
    given["X"] = [[[0] * 2] * 3] * 4
    says, more = "a zero tensor: zero factors", {"needs": ["rank-deficient"]}
    yield _cert("cp_als_run.zero-tensor", says, "Replay", given, {"sweeps": 1}, **more)


def _alternating() -> Iterator[Case]:
    """Yield runs whose last sweep is not the best one, for some of them."""
    says = "every step of every mode; duals stay from sweep to sweep"
    for (order, shape), (bits, steps) in product(_SHAPES.items(), ((2, 1), (4, 2))):
        name = f"order-{order}.bits-{bits}.steps-{steps}"
        yield _replay(name, says, _start(f"admm.{name}", shape, 2), bits, (2, steps))
    says = "the best sweep is returned, which is neither the first nor the last"
    for seed in _MIDDLE:
        name = f"best-{seed}"
        yield _replay(name, says, _start(f"admm.{name}", (4, 3, 2), 2), 2, (3, 3))
    given = _start("admm.zero-column", (4, 3, 2), 2)
    given["factors"] = [[[row[0], 0] for row in A] for A in given["factors"]]
    yield _replay("zero-column", "a component that is zero at the start", given, 4, (2, 1))
    says = "one component and codes of 8 bits"
    yield _replay("eight-bits", says, _start("admm.eight-bits", (3, 2, 2), 1), 8, (1, 2))


_MIDDLE = (2, 24, 32)  # found by search


def _replay(name: str, says: str, given: Any, bits: int, counts: tuple[int, int]) -> Case:
    options = dict(zip(("sweeps", "steps"), counts, strict=True))
    options |= dict(zip(("qmin", "qmax"), _RANGES[bits], strict=True))
    return _cert(f"ao_admm_run.{name}", says, "Replay", given, options)


def _kept() -> Iterator[Case]:
    """Yield tensors on their grids, with the factors as the start: they are kept."""
    for order, shape in _SHAPES.items():
        high = _RANGES[4][1]
        factors = [
            [
                [high - 1 if i == r else k % high for r, k in enumerate(row)]
                for i, row in enumerate(A)
            ]
            for A in _columns(f"kept.{order}", shape, 2)
        ]
        given = {"X": loops.reconstruct(factors), "factors": factors}
        yield _replay(f"kept.order-{order}", "a fit on the grid is kept", given, 4, (2, 2))
