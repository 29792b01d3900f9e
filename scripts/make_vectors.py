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
UNSIGNED = {"bits": 3, "signed": False}
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
# Signals and their kernel: the first rows of these.
SIGNALS, KERNEL_1D = ([[rows[0] for rows in outer] for outer in X] for X in (IMAGES, KERNEL))
# One volume of two channels, a 2x1x2 kernel, and a kernel factor of 2x2x2 entries.
VOLUME = [
    [
        [[[1, -2, 3], [4, 0, -1]], [[5, 7, -6], [2, 1, 8]]],
        [[[0, 3, 1], [-4, 2, 6]], [[9, -1, 0], [-3, 5, 2]]],
    ]
]
KERNEL_3D = [
    [[[[1, -2]], [[3, 0]]], [[[0, 4]], [[-1, 2]]]],
    [[[[2, 1]], [[0, -3]]], [[[5, 0]], [[1, -1]]]],
]
ENTRIES = [[1, 0], [-2, 3], [0, 1], [4, -1], [2, 2], [0, -3], [-1, 5], [6, 1]]
UNEVEN_3D = {"stride": [1, 2, 1], "padding": [1, 0, 2, 0, 1, 3], "dilation": [1, 1, 2]}
# Accumulators and multipliers for them, one per row; codes of signals of two channels, the three
# factors of a layer as codes, and their scales.
BYTES = {"bits": 8, "signed": False}
SUMS = [[-10, -6, -2, 2, 6], [10, 123457, -98765, 1431655765, -7]]
MULTIPLIERS = [[0.25], [0.00037]]
CODES = [[[9, -7, 3], [120, 0, -127]], [[-20, 5, 127], [4, -3, 1]]]
WEIGHTS = [[[3, -1], [-2, 4], [1, 1]], [[1, 2], [-3, 1]], [[1, -1], [2, 0], [0, 3]]]
INTEGER = [CODES, WEIGHTS, [0.25, 0.5, 0.75]]
# Lower edges and counts of a histogram whose errors are exact: the width is divisible by 3, counts
# add up to a power of two. Three batches of activations, and four levels for them.
BINS = [[6 * b - 24, n] for b, n in enumerate([3, 0, 8, 10, 19, 14, 6, 0, 2, 1, 0, 1])]
BATCHES = [[24, 3, 3, 2, -6, 1], [-1, 0, 8, -1, 0, -2], [1, 9, -1, 2, 9, 1]]
FOUR = {"bits": 2, "signed": False}

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
        ("quantize", [V, {"bits": 8, "signed": False}, 2, 10], {}),
        ("quantize", [V, {"bits": 1, "kind": "binary"}, 2], {}),
        ("quantize", [V, {"bits": 2, "kind": "ternary"}, 6], {}),
        ("quantize", [V, {"bits": 4, "kind": "log2"}, 16], {}),
        *(
            ("quantize", [V, FULL, [[2], [10]], 1], {"rounding": rounding})
            for rounding in ("half-away", "half-up", "dpu", "floor", "ceil", "to-zero")
        ),
        ("quantize", [V, {"bits": 4, "kind": "log2"}, 16], {"rounding": "half-away"}),
        *(  # ties in float64 and float32; the float32 reciprocals miss them
            ("quantize", [[[75, -75], [183, -183]], FULL, [[30], [122]]], {"division": division})
            for division in ("float64", "float32", "reciprocal")
        ),
        ("quantize", [[[16777217, 16777219]], FULL, 2**23], {"division": "float32"}),
        ("dequantize", [[[-1, 1]], 3], {"grid": {"bits": 1, "kind": "binary"}}),
        ("dequantize", [[[-7, -1, 0, 1, 2, 7]], 8], {"grid": {"bits": 4, "kind": "log2"}}),
        ("choose_scale", [[[3, -5], [0, 4]], {"bits": 1, "kind": "binary"}], {}),
        ("choose_scale", [[[9, -5], [1, 4]], {"bits": 2, "kind": "ternary"}], {}),
        ("choose_scale", [[[-5, 9, 0], [-4, 5, -5]], {"bits": 3, "kind": "log2"}], {}),
        ("choose_scale", [[[9, 2, 9], [9, 4, -4]], UNSIGNED], {}),
        *(
            ("choose_affine", [x, grid], {"rule": rule})
            for rule in ("min-max", "min-max-torch", "min-max-truncated")
            for x, grid in (([[-9, 3], [33, 9]], UNSIGNED), ([[-5, 23]], NARROW))
        ),
        ("choose_affine", [[[-3, 6, 1], [11, -4, 7]], UNSIGNED], {}),
        ("choose_affine", [[[-5, 3], [2, -11]], {"bits": 2}], {}),
        ("choose_affine", [[[0, 0]], UNSIGNED], {}),
    ],
    "ranges": [
        ("histogram", [BATCHES, 16], {}),
        ("histogram", [BATCHES, 31], {}),
        ("histogram", [[[5, 6]], 2], {}),
        ("histogram", [[[-5, -6, 0]], 7], {}),
        *(("histogram_error", [BINS, 0, 11, levels], {}) for levels in (1, 12, 24)),
        *(("histogram_error", [BINS, 2, 5, levels], {}) for levels in (1, 2, 4, 8)),
        ("histogram_error", [BINS, 3, 5, 2], {}),
        ("histogram_error", [BINS, 0, 0, 4], {}),
        ("histogram_error", [BINS, 11, 11, 1], {}),
        *(("histogram_range", [BINS, levels], {}) for levels in (1, 2, 3, 4, 8)),
        *(("histogram_range", [BINS, n], {"search": "all-pairs"}) for n in (1, 2, 3, 4, 8)),
        ("histogram_range", [BINS, 8], {"steps": 4}),
        ("activation_scale", [BATCHES, FULL], {}),
        ("activation_scale", [BATCHES, FULL], {"rule": "moving-average", "averaging": 0.5}),
        ("activation_scale", [BATCHES, FOUR], {"rule": "percentile", "percentile": 50}),
        ("activation_scale", [BATCHES, FOUR], {"rule": "percentile", "percentile": 100}),
        ("activation_scale", [BATCHES, FOUR], {"rule": "histogram", "bins": 32}),
        ("activation_scale", [BATCHES, FOUR], {"rule": "histogram-exact", "bins": 32}),
        ("activation_scale", [[[-4, 4], [3, 7, 2]], {"bits": 2}], {"rule": "mse-exact"}),
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
        ("conv1d", [SIGNALS, KERNEL_1D], {"padding": [2, 1], "stride": 2}),
        ("cp_conv1d", [SIGNALS, [B, A, C]], {"kernel_size": 2, "bias": [5, 6, 7], "dilation": 2}),
        ("depthwise", [SIGNALS, B], {"kernel_size": [3], "padding": "same", "stride": [3]}),
        ("conv3d", [VOLUME, KERNEL_3D], {"bias": [7, -8]}),
        ("conv3d", [VOLUME, KERNEL_3D], UNEVEN_3D),
        ("cp_conv3d", [VOLUME, [B, A, ENTRIES]], {"kernel_size": 2}),
        ("cp_conv3d", [VOLUME, [B, A, ENTRIES]], {"kernel_size": 2, **UNEVEN_3D}),
        ("pointwise", [VOLUME, B], {"stride": [1, 2, 1]}),
        ("kernel_to_tensor", [KERNEL_3D], {}),
    ],
    "integer": [
        ("accumulator_bound", [KERNEL, {"bits": 8}], {"zero_point": -7, "bias": [5, -9, 0]}),
        ("accumulator_bound", [A, BYTES], {"zero_point": 200}),
        ("int_conv", [IMAGES, KERNEL], {"zero_point": -3}),
        ("int_conv", [IMAGES, KERNEL], {"zero_point": 5, "bias": [100, -200, 3], **UNEVEN}),
        ("int_conv", [SIGNALS, KERNEL_1D], {"zero_point": -9, "padding": 2}),
        *(("fixed_point", [M], {}) for M in (0.25, 0.3, 1.75, 2.0**-31, 2.0**-33)),
        *(
            ("requantize", [SUMS, M, zero_point, grid], {"mode": mode})
            for mode in ("exact", "single", "double")
            for M, zero_point, grid in (
                (0.25, 0, {"bits": 8}),
                (MULTIPLIERS, 131, BYTES),
                (1.5, -3, FULL),
            )
        ),
        *(
            ("integer_cp", [*INTEGER, SCALES, grid], {"kernel_size": 3, "padding": 1, **more})
            for SCALES, grid in (
                ([[1, 3], [8, -20], [16, 5], [32, 10]], {"bits": 8}),
                ([[0.5, -9], [4, 0], [6, 100], [8, -50]], {"bits": 8, "narrow": True}),
            )
            for more in (
                {"mode": "exact", "bias": [40.0, -60.0, 0.0]},
                {"mode": "single", "relu": True},
                {"mode": "double", "stride": 2, "bias": [4.0, 6.0, -7.0]},
            )
        ),
        (
            "integer_cp",
            [CODES, WEIGHTS[:2], [[[0.5, 0.125]], 2], [[1, 1], [2, -1], [8, 4]], {"bits": 8}],
            {"stride": 2},
        ),
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
