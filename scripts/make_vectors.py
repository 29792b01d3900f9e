"""Write tests/vectors/*.json: small cases whose expectations come from loops.py on fractions.

Run it after adding a case: ``python scripts/make_vectors.py``. A test checks that the stored files
are what this script writes, and that the vectorised chapters give exactly the stored numbers.
Expectations are [numerator, denominator] pairs where they are not integers.
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
V = [[-300, -21, -20, -7, -5, -3], [-1, 0, 1, 3, 5, 300]]  # ties at scale 2, and both ends
FULL, NARROW, MID_RISE = {"bits": 4}, {"bits": 4, "narrow": True}, {"bits": 4, "mid_rise": True}

# Two images of two channels, a 2x3 kernel, and the three factors of another one.
IMAGES = [
    [[[1, -2, 3, 0], [4, 5, -6, 7], [0, 8, -9, 2]], [[2, 0, -1, 3], [-4, 6, 1, 0], [5, -7, 2, 1]]],
    [[[0, 1, 0, -3], [2, -1, 4, 1], [9, 0, 1, -5]], [[-8, 1, 0, 2], [3, 3, -2, 6], [0, 4, 1, -1]]],
]
KERNEL = [
    [[[1, 0, -2], [3, 1, 0]], [[2, -1, 1], [0, 4, -3]]],
    [[[-1, 2, 0], [0, -2, 5]], [[1, 1, 0], [-3, 0, 2]]],
    [[[0, 3, 1], [-4, 0, 1]], [[2, 0, -1], [1, -1, 6]]],
]
STAGES = [B, A, [[1, 0], [-2, 3], [0, 1], [4, -1], [2, 2], [0, -3]]]
UNEVEN = {"stride": [2, 1], "padding": [1, 0, 2, 3], "dilation": [1, 2]}

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
    "grid": [
        *(("quantize", [V, grid, 2], {}) for grid in (FULL, NARROW, MID_RISE, {"bits": 9})),
        ("quantize", [V, FULL, 2, 3], {}),
        ("quantize", [V, FULL, [[2], [4]], [[-2], [3]]], {}),
        ("quantize", [V, {"bits": 1}, [[1, 2, 4, 8, 10, 16]]], {}),
        ("quantize", [[[147, -147, 49]], FULL, 98], {}),  # the reciprocal of 98 misses two ties
        ("dequantize", [[[-8, 0, 7], [1, 2, 3]], 0.5], {}),
        ("dequantize", [[[-8, 0, 7], [1, 2, 3]], [[2], [4]], [[-3], [5]]], {}),
        ("dequantize", [[[-8, -1, 0, 7]], 4, -0.5], {}),
        ("choose_scale", [[[8, -3, 4], [-8, 6, 2]], {"bits": 2}], {}),
        ("choose_scale", [[[-7, 5, -7], [9, 1, -2]], {"bits": 3, "narrow": True}], {}),
        ("choose_scale", [[[7, -3], [0, 0]], {"bits": 2, "mid_rise": True}], {}),
        ("choose_scale", [[[-4, -9, -5], [-1, -2, 9]], FULL], {}),
        ("choose_scale", [[[-8, 8, 7], [-5, 4, -1]], {"bits": 1}], {}),
        ("choose_scale", [[[1, -4], [-4, 9]], {"bits": 1, "mid_rise": True}], {}),
        ("choose_scale", [[[6, -12], [0, 18]], FULL], {}),  # 3 and 6 fit: the larger is taken
        ("choose_scale", [[[0, 5]], {"bits": 1}], {}),  # nothing but 0 fits: 1 by definition
    ],
    "conv": [
        ("conv2d", [IMAGES, KERNEL], {}),
        ("conv2d", [IMAGES, KERNEL], {"padding": "same", "stride": 2, "bias": [10, -20, 30]}),
        ("conv2d", [IMAGES, KERNEL], UNEVEN),
        ("pointwise", [IMAGES, B], {"stride": [1, 3], "bias": [1, 2, 3]}),
        ("depthwise", [IMAGES, STAGES[2]], {"kernel_size": [2, 3], **UNEVEN}),
        ("cp_conv2d", [IMAGES, STAGES], {"kernel_size": [2, 3], "bias": [10, -20, 30]}),
        ("cp_conv2d", [IMAGES, STAGES], {"kernel_size": [2, 3], **UNEVEN}),
        ("cp_conv2d", [IMAGES, STAGES[:2]], {"kernel_size": 1, "stride": [2, 3], "padding": 1}),
        ("kernel_to_tensor", [KERNEL], {}),
    ],
    "cost": [
        ("rank_for_rate", [[64, 64, 9], 2], {}),
        ("rank_for_rate", [[128, 64, 9], "2.5"], {}),
        ("rank_for_rate", [[512, 1000], "1.2"], {}),
        ("rank_for_rate", [[66, 66], "1.1"], {}),  # division in floating point gives 29
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
