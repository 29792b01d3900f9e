"""What tests of quantized CP tensors draw."""

import numpy as np
from hypothesis import strategies as st

from qcp_ref import Grid, quantize

grids = st.builds(
    lambda bits, kind: Grid(bits, narrow=kind == "narrow", mid_rise=kind == "mid-rise"),
    st.integers(2, 8),
    st.sampled_from(["full", "narrow", "mid-rise"]),
)
axes = st.sampled_from([None, 0, 1])


def random_tensor(seed, shape):
    return np.random.default_rng([seed, 31]).standard_normal(shape)


def assert_on_grid(q):
    for k, s, A in zip(q.codes, q.scales, q.dequantize().factors, strict=True):
        assert k.min() >= q.grid.qmin and k.max() <= q.grid.qmax
        assert np.array_equal(quantize(A, q.grid, s), k)


KINDS = st.sampled_from(
    [
        *[Grid(2), Grid(8), Grid(16), Grid(5, narrow=True), Grid(16, mid_rise=True)],
        *[Grid(1, signed=False), Grid(7, signed=False), Grid(1, kind="binary")],
        *[Grid(2, kind="ternary"), Grid(3, kind="log2"), Grid(5, kind="log2")],
    ]
)
