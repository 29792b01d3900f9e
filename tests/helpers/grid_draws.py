"""What the tests of grids and scales share: kinds of grids, numbers, exact gains."""

from fractions import Fraction
from functools import cache

import numpy as np
from hypothesis import strategies as st
from support import arrays, exact, floats, refused

from qcp_ref import Grid, choose_scale, loops
from qcp_ref.grids.scale import AFFINE as AFFINE_RULES
from qcp_ref.grids.scale import RULES as TABLE

RULES = [rule for rule in TABLE if rule not in AFFINE_RULES]
RANGE_RULES = [rule for rule in AFFINE_RULES if TABLE[rule].label == "grid-min-max"]
KINDS = [{}, {"narrow": True}, {"mid_rise": True}]
ALL_GRIDS = [
    Grid(bits, **kind)
    for bits in (1, 2, 3, 4, 8, 16)
    for kind in KINDS
    if bits > 1 or "narrow" not in kind
]
OTHER_GRIDS = [
    Grid(1, kind="binary"),
    Grid(2, kind="ternary"),
    *(Grid(bits, kind="log2") for bits in (2, 3, 4)),
    *(Grid(bits, signed=False) for bits in (1, 2, 4)),
]
ROUNDINGS = ["half-even", "half-away", "half-up", "dpu", "floor", "ceil", "to-zero", "stochastic"]
DIVISIONS = ["float64", "float32", "reciprocal"]


@st.composite
def grids(draw, max_bits=4):
    kind = draw(st.sampled_from(KINDS))
    return Grid(draw(st.integers(1 + kind.get("narrow", False), max_bits)), **kind)


def any_grids(max_bits=4):
    """Uniform signed grids, and all others."""
    return grids(max_bits) | st.sampled_from([g for g in OTHER_GRIDS if g.bits <= max_bits])


# Few distinct numbers make ties and duplicates likely; the decimal ones are no exact multiples.
ENTRIES = st.sampled_from([st.integers(-9, 9), floats, st.sampled_from([0.0, 0.1, 0.3, -0.7, 0.7])])
POWERS = st.integers(-30, 30).map(lambda e: 2.0**e)
SCALES = st.one_of(POWERS, st.integers(1, 99), st.floats(0.01, 100))


def some(shape):
    return ENTRIES.flatmap(lambda entries: arrays(shape, entries))


def lists(max_size=6):
    return st.integers(1, max_size).flatmap(some)


@cache
def all_rules(grid):
    """The rules that are not refused for this grid."""

    def accepted(rule):
        return not refused(lambda: choose_scale([1.0], grid, rule=rule))[1]

    return [rule for rule in TABLE if accepted(rule)]


def rules(grid):
    """Those of them that have no zero points of their own."""
    return [rule for rule in all_rules(grid) if rule in RULES]


def affine_rules(grid):
    """Those of them that choose a zero point."""
    return [rule for rule in all_rules(grid) if rule in AFFINE_RULES]


def range_rules(grid):
    """Those of them that take scale and zero point from the range."""
    return [rule for rule in all_rules(grid) if rule in RANGE_RULES]


def spec(grid):
    """The grid as the loops takes it."""
    return {name: getattr(grid, name) for name in ("bits", "kind", "signed", "narrow", "mid_rise")}


def levels(grid):
    """All levels at scale 1, exactly."""
    return [Fraction(level) for level in loops.grid_levels(spec(grid)).values()]


def gain(x, grid, scale, zero_point=0):
    """By how much rounding at this scale is better than zero: |x|^2 - |x - rounded|^2, exactly."""
    values = exact(np.ravel(x))
    s = Fraction(float(scale)) if not isinstance(scale, Fraction) else scale
    nearest = [min(abs(v - s * (k - int(zero_point))) for k in levels(grid)) for v in values]
    return sum(v * v for v in values) - sum(d * d for d in nearest)


def energy(x):
    return sum(v * v for v in exact(np.ravel(x)))
