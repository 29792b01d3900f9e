"""What tests of the search and of the methods draw."""

import numpy as np
from hypothesis import strategies as st
from quantized_draws import axes
from support import seeds, shapes

from qcp_ref import Grid, QuantizedCP, quantize, quantize_cp, random_cp
from qcp_ref.factors import search

GRIDS = [
    Grid(2),
    Grid(4),
    Grid(3, narrow=True),
    Grid(3, mid_rise=True),
    Grid(1, kind="binary"),
    Grid(2, kind="ternary"),
]
grids = st.sampled_from(GRIDS)


def random_tensor(seed, shape):
    return np.random.default_rng([seed, 67]).standard_normal(shape)


@st.composite
def problems(draw, most=3):
    """A tensor and codes on a grid that fit it: rounded, or drawn."""
    shape, rank = draw(shapes(max_dims=3)), draw(st.integers(1, most))
    seed, grid, axis = draw(seeds), draw(grids), draw(axes)
    X = random_tensor(seed, shape)
    q = quantize_cp(random_cp(shape, rank, rng=seed), grid, axis=axis)
    if draw(st.booleans()):
        rng = np.random.default_rng([seed, 71])
        codes = [rng.choice(quantize(grid.levels, grid, 1.0), size=k.shape) for k in q.codes]
        q = QuantizedCP(codes, q.scales, grid)
    return X, q


def differs(X, Y, q):
    """Whether the codes after one sweep are not the same for both tensors."""
    states = [search._Codes(Z, q, np.random.default_rng(0)) for Z in (X, Y)]
    for state in states:
        state.sweep(0.0)
    pairs = zip(*(state.quantized().codes for state in states), strict=True)
    return any(not np.array_equal(*pair) for pair in pairs)


def tied(X, q):
    """Whether a tiny change of the tensor changes the codes after one sweep."""
    found = set()
    for shift in (-1e-9, 0.0, 1e-9):
        state = search._Codes(X * (1 + shift) + shift, q, np.random.default_rng(0))
        state.sweep(0.0)
        found.add(b"".join(k.tobytes() for k in state.quantized().codes))
    return len(found) > 1


def few(method):
    return {"sweeps": 20} if method == "best" else {}
