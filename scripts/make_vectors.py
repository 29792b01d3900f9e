"""Write tests/vectors/*.json: small integer cases whose expectations come from loops.py on fractions.

Run it after adding a case: ``python scripts/make_vectors.py``. A test checks that the stored files are what this script
writes, and that the vectorised chapters give exactly the stored numbers. Expectations are [numerator, denominator] pairs where they
are not integers.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from qcp_ref import loops

FOLDER = Path(__file__).parent.parent / "tests" / "vectors"

A, B, C = [[1, -2], [3, 0]], [[2, 1], [0, -1], [4, 5]], [[1, 1], [-3, 2]]
X = [[[1, 2], [3, 4], [5, 6]], [[-1, 0], [7, -8], [2, 9]]]

# chapter -> operation, positional arguments, options
CASES: dict[str, list[tuple[str, list[Any], dict[str, Any]]]] = {
    "tensor": [
        *(("unfold", [X, mode], {}) for mode in range(3)),
        ("fold", [[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], 1, [2, 3, 2]], {}),
        ("khatri_rao", [[A, B]], {}),
        ("khatri_rao", [[A, B, C]], {}),
        ("gram", [[A, B, C]], {}),
        *(("gram", [[A, B, C], mode], {}) for mode in range(3)),
        *(("mttkrp", [X, [A, B, C], mode], {}) for mode in range(3)),
        ("mttkrp", [[[1, 2, 3], [4, 5, 6]], [A, B], 1], {}),
    ],
    "cp": [
        ("reconstruct", [[A, B]], {}),
        ("reconstruct", [[A, B, C]], {}),
        ("reconstruct", [[A, B, C], [2, -3]], {}),
    ],
}


def plain(value: Any) -> Any:
    """Turn exact numbers into JSON: integers stay, other fractions become pairs."""
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    number = Fraction(value)
    return int(number) if number.denominator == 1 else [number.numerator, number.denominator]


def lifted(value: Any) -> Any:
    """Integers as fractions; anything else (names, shapes inside options) as it is."""
    if isinstance(value, list):
        return [lifted(entry) for entry in value]
    return Fraction(value) if isinstance(value, int) and not isinstance(value, bool) else value


def text(chapter: str) -> str:
    """Return the file of one chapter."""
    cases = []
    for operation, arguments, options in CASES[chapter]:
        # Modes and shapes are indices, not numbers of the algebra: only nested lists are lifted.
        exact = [
            lifted(a) if isinstance(a, list) and isinstance(a[0], list) else a for a in arguments
        ]
        expected = plain(getattr(loops, operation)(*exact, **options))
        cases.append({"op": operation, "args": arguments, "options": options, "expected": expected})
    lines = ",\n".join(json.dumps(case) for case in cases)
    return f"[\n{lines}\n]\n"


def main() -> int:
    """Write every chapter's file."""
    FOLDER.mkdir(exist_ok=True)
    for chapter in CASES:
        (FOLDER / f"{chapter}.json").write_text(text(chapter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
