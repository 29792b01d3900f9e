"""Which questions are asked about one factor in integer codes?

Numbers are small integers, found by search: no code is decided near a tie, unless the case is about
ties, and then nothing is rounded before. So codes are the same in float32.

Checked by tests/conformance/cases/test_kit_rows.py.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import count
from math import floor
from typing import Any

from qcp_ref import loops
from qcp_ref.conformance.cases.make import Case, coded, make, stream
from qcp_ref.conformance.cases.truth import targets
from qcp_ref.conformance.spec import OPS

__all__ = ["GAP", "families", "is_clear"]

GAP = Fraction(1, 16)  # at least, from the next tie to what is rounded
_FLAGS = {"descend_rows": "Descent", "nearest_plane": "NearestPlane",
          "refit_scale": "ScaleRefit", "closest_rows": "ClosestRow"}  # fmt: skip
_I4, _I8, _HALF = (-8, 7), (-128, 127), Fraction(1, 2)
# first letters of the operations, name, says, rows, columns of the other factors (None: zeros),
# size of the numbers, scale, range
_PROBLEMS: list[tuple[Any, ...]] = [
    ("dnrc", "plain", "Three columns that are not orthogonal.", 4, (0, 1, 2), 9, _HALF, _I4),
    ("dnc", "odd-scale", "A scale unlike a power of two.", 5, (0, 1, 2), 9, Fraction(3, 4), _I4),
    ("dnc", "ends", "What follows answers to codes that were clipped.", 5, (0, 1, 2), 20, _HALF, _I4),
    ("dnc", "close", "Columns that are nearly parallel.", 6, (0, 1, 2), 7, _HALF, _I4),
    ("dnc", "narrow", "No lowest code.", 3, (0, 1), 30, _HALF, (-7, 7)),
    ("dnc", "two-bits", "Four levels.", 5, (0, 1, 2), 9, 2, (-2, 1)),
    ("dnc", "unsigned", "No negative codes.", 3, (0, 1), 30, 1, (0, 15)),
    ("dnr", "eight-bits", "Codes of 8 bits, whose products leave 16 bits.", 6, (0, 1, 2), 90, _HALF, _I8),
    ("c", "eight-bits", "Codes of 8 bits.", 2, (0,), 90, _HALF, _I8),
    ("dnrc", "row", "One row.", 1, (0, 1, 2), 9, _HALF, _I4),
    ("dnrc", "column", "One column.", 3, (0,), 9, _HALF, _I4),
    ("drc", "zero-column", "A component that does not matter.", 3, (0, None, 1), 9, _HALF, _I4),
    ("drc", "singular", "Two components in one direction.", 3, (0, 0, 1), 9, _HALF, (-4, 3)),
]  # fmt: skip


def is_clear(op: str, given: Any, options: Any) -> bool:
    """Whether all that is rounded is far from ties, or the best scale above one half.

    So one right answer is left by :eq:`conformance-descent` and :eq:`conformance-plane`. No system
    that float32 might have trouble with is solved by ``nearest_plane``.
    """
    if op == "refit_scale":
        rows = zip(given["F"], given["codes"], strict=True)
        return bool(sum(loops.row_objective(f, given["G"], v) for f, v in rows) < 0)
    G = [[Fraction(g) for g in row] for row in given["G"]]
    if op == "nearest_plane":
        inverse = loops.solve(G, [[Fraction(r == q) for q in range(len(G))] for r in range(len(G))])
        sizes = [sum(x * x for x in loops.flat(part)) for part in (G, inverse)]
        if sizes[0] * sizes[1] > 2**11:
            return False
    aims = [] if op == "closest_rows" else targets(op, given, options)
    return all(abs(t - floor(t) - _HALF) >= GAP for row in aims for t in row)


def _made(op: str, row: tuple[Any, ...]) -> Case:
    """Draw a problem with these columns until it is clear."""
    _, name, says, rows, columns, top, scale, ends = row
    ends = (-4, 3) if op == "closest_rows" and ends == _I4 else ends  # all rows are tried
    options, rank = dict(zip(OPS[op].options, ends, strict=False)), len(columns)
    for seed in (f"{op}.{name}.{n}" for n in count()):
        K, X = coded(seed, rank + 1, rank, top=4), coded(f"{seed}.X", rows, rank + 1, top=top)
        K = [[0 if c is None else one[c] + 4 * (name == "close") for c in columns] for one in K]
        codes, F, G = (
            stream(seed).integers((rows, rank), *ends),
            loops.matmul(X, K),
            loops.gram([K]),
        )
        if op == "refit_scale" and ends == _I8:  # what codes of this size are right for
            F = [
                [f + g for f, g in zip(*pair, strict=True)]
                for pair in zip(F, loops.matmul(codes, G), strict=True)
            ]
        given: dict[str, Any] = {"F": F, "G": G, "codes": codes, "scale": scale}
        given = {key: given[key] for key in OPS[op].arrays}
        if is_clear(op, given, options):
            break
    more: dict[str, Any] = {"out": {"kind": "cert", "name": op}} if op[0] in "rc" else {}
    if op == "closest_rows":
        levels = [[*range(ends[0], ends[1] + 1)]] * rank
        steps = [[Fraction(f) / scale for f in one] for one in F]
        best = [loops.row_objective(f, G, loops.best_row(f, G, levels)) for f in steps]
        more["out"]["least"] = [*map(str, best)]
    case = make(op, name, says, [_FLAGS[op]], given, options, **more)
    deficient = ["rank-deficient"] * (op == "closest_rows" and "n" not in row[0])
    return case | {"needs": sorted({*case["needs"], *deficient})}


def _ties() -> Iterator[Case]:
    """Yield cases whose steps are multiples of one half, with no number rounded before."""
    G, says = [[4, 2, 0], [2, 4, 2], [0, 2, 4]], "Halves of both signs and parities go to even."
    for name, top, scale, ends in (("ties", 20, _HALF, _I4), ("ties.narrow", 9, 2, (-3, 3))):
        codes, options = stream(name).integers((6, 3), *ends), {"qmin": ends[0], "qmax": ends[1]}
        F = [[2 * scale * f for f in row] for row in coded(name, 6, 3, top=top)]
        yield make("descend_rows", name, says, ["TieRounding"], (F, G, codes, scale), options)


def families() -> Iterator[tuple[str, list[Case]]]:
    """Yield the family of rows."""
    yield (
        "rows",
        [*(_made(op, row) for op in _FLAGS for row in _PROBLEMS if op[0] in row[0]), *_ties()],
    )
