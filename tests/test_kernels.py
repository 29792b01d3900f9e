"""Each kernel of qcp_ref._kernels: compiled, interpreted, and against the form that it replaces."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import assert_within, caught, exact

from qcp_ref import Grid, _kernels, loops, project
from qcp_ref._kernels import TIE, Kernel, cell_at, exact_scale, gain_bound, moments, prefix_sums
from qcp_ref.grid import _moments, _search_cells

THIS = sys.modules[__name__]
GRIDS = [
    Grid(1),
    Grid(1, mid_rise=True),
    Grid(2),
    Grid(3, narrow=True),
    Grid(4),
    Grid(4, mid_rise=True),
]


def both(kernel, *args):
    """The result of the compiled kernel, after the interpreted one gave the same bits."""
    compiled, plain = kernel(*args), kernel.py_func(*args)
    assert np.array_equal(np.array(compiled), np.array(plain), equal_nan=True)
    return compiled


@st.composite
def samples(draw, max_size=30):
    """Sorted numbers: small integers (ties, duplicates, zeros), decimals, or of a drawn law."""
    size = draw(st.integers(1, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    law = draw(st.sampled_from(["integers", "decimals", "normal", "cauchy", "constant"]))
    x = {
        "integers": lambda: rng.integers(-6, 7, size) + 0.0,
        "decimals": lambda: rng.choice([0.1, 0.3, -0.7, 0.7, 0.0], size),
        "normal": lambda: rng.standard_normal(size),
        "cauchy": lambda: rng.standard_cauchy(size),
        "constant": lambda: np.full(size, rng.standard_normal()),
    }[law]()
    return np.sort(x)


def numbers(grid):
    return float(grid.qmin), float(grid.qmax), grid.offset


def spec(grid):
    return {"bits": grid.bits, "narrow": grid.narrow, "mid_rise": grid.mid_rise}


def gain(x, grid, s):
    """Squared norm minus squared error, by rounding."""
    return x @ x - ((x - project(x, grid, scale=s)) ** 2).sum()


# --- compiling ------------------------------------------------------------------------------------


@Kernel
def double(x: float) -> float:
    """Return twice the argument."""
    return 2 * x


@Kernel
def quadruple(x: float) -> float:
    """Return four times the argument."""
    return double(double(x))


def test_kernels_are_compiled_once_and_may_call_each_other():
    assert quadruple(1.5) == quadruple.py_func(1.5) == 6
    assert quadruple.compiled() is quadruple.compiled()
    assert quadruple.compiled().py_func is not quadruple.py_func
    assert (quadruple.__name__, quadruple.__doc__) == (
        "quadruple",
        "Return four times the argument.",
    )


@pytest.mark.parametrize(
    "code",
    [
        "import qcp_ref",
        "import qcp_ref as q; q.project([3.0, 1.0, -2.0], q.Grid(4)); q.project([0.0], q.Grid(4))",
    ],
)
def test_neither_the_import_nor_small_inputs_load_the_compiler(code):
    check = f"{code}; import sys; assert not {{'numba', 'scipy'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_kernels_neither_reorder_sums_nor_start_threads():
    for kernel in vars(_kernels).values():
        if isinstance(kernel, Kernel):
            options = kernel.compiled().targetoptions
            assert not options.get("fastmath") and not options.get("parallel")


# --- grid -----------------------------------------------------------------------------------------


@given(samples(60))
def test_prefix_sums_are_good_to_two_roundings(x):
    x = np.append(x, [1e16, -1e16])  # plain summation would lose all that came before
    sums = both(prefix_sums, x)
    truth = [sum(exact(x[:n]), Fraction(0)) for n in range(x.size + 1)]
    # Neumaier: one rounding of the result, and terms of second order in the unit roundoff.
    bound = 2.0**-53 * np.abs(sums) + x.size**2 * 2.0**-105 * np.abs(x).sum()
    assert_within(sums, truth, bound)


@given(samples(12), st.sampled_from(GRIDS), st.floats(0.05, 3))
def test_a_cell_has_the_moments_of_its_codes_and_ends_where_they_change(x, grid, s):
    s *= max(abs(x).max(), 0.5) / 2 ** (grid.bits - 1)
    s1, s2, left, right = both(cell_at, x, prefix_sums(x), s, *numbers(grid))
    first, second = loops.grid_moments(exact(x), spec(grid), Fraction(s))
    size = float(abs(x).sum()) * 2**grid.bits
    assert_within(s1, first, 1e-14 * size)
    assert s2 == second or left * (1 + 1e-15) >= s or right * (1 - 1e-15) <= s  # or s is a tie
    assert left <= s * (1 + 1e-15) and s <= right * (1 + 1e-15)

    def codes(scale):
        return loops.quantize(exact(x), spec(grid), Fraction(scale))

    if right - left > 1e-9 * s:
        inside = [left + t * (min(right, 4 * s) - left) for t in (1e-10, 0.5, 1 - 1e-10)]
        assert codes(inside[0]) == codes(inside[1]) == codes(inside[2])
        assert right == np.inf or codes(right * (1 + 1e-10)) != codes(inside[2])
        assert left == 0 or codes(left * (1 - 1e-10)) != codes(inside[0])


@given(samples(), st.sampled_from(GRIDS), st.lists(st.floats(0.01, 3), min_size=1, max_size=5))
def test_moments_equal_the_readable_ones(x, grid, scales):
    scales = np.array(scales) * 1.0000001  # off the ties, where two codes are equally right
    fast, slow = both(moments, x, scales, *numbers(grid)), _moments(x, scales, *numbers(grid))
    assert np.allclose(fast[0], slow[0], rtol=1e-13, atol=1e-13)
    assert np.array_equal(fast[1], slow[1])


@given(samples(), st.sampled_from(GRIDS), st.lists(st.floats(1e-3, 4), min_size=2, max_size=2))
def test_the_bound_covers_every_gain_between_two_scales(x, grid, ends):
    assume(x.any())
    a, b = sorted(np.array(ends) * abs(x).max())
    assume(b > a)
    (a1, b1), (a2, b2) = moments(x, np.array([a, b]), *numbers(grid))
    bound = both(gain_bound, a, a1, a2, b, b1, b2)
    gains = [gain(x, grid, s) for s in np.linspace(a, b, 20)]
    assert max(gains) <= bound + 1e-12 * (x @ x)


def test_the_bound_is_tight_inside_a_cell():
    # One number, one code: the gain is the parabola s (2 - s), both ends know it.
    assert gain_bound(0.8, 1.0, 1.0, 1.2, 1.0, 1.0) == pytest.approx(1, rel=1e-15)
    assert gain_bound(0.5, 1.0, 1.0, 0.8, 1.0, 1.0) == pytest.approx(0.96, rel=1e-15)
    assert gain_bound(1.2, 1.0, 1.0, 1.5, 1.0, 1.0) == pytest.approx(0.96, rel=1e-15)
    assert gain_bound(2.0, 0.0, 0.0, 3.0, 0.0, 0.0) == 0


@given(samples(), st.sampled_from(GRIDS))
def test_the_search_equals_the_readable_one(x, grid):
    scale = both(exact_scale, x, *numbers(grid))
    assert scale == pytest.approx(_search_cells(x, *numbers(grid)), rel=4 * TIE)


@pytest.mark.parametrize(
    "grid", [Grid(4), Grid(6, mid_rise=True), Grid(8), Grid(8, narrow=True)], ids=str
)
@pytest.mark.parametrize("law", ["normal", "uniform", "standard_cauchy"])
def test_the_search_equals_the_readable_one_on_larger_samples(grid, law, rng):
    x = np.sort(getattr(rng, law)(size=300))
    scale = exact_scale(x, *numbers(grid))
    assert scale == pytest.approx(_search_cells(x, *numbers(grid)), rel=4 * TIE)


def test_the_search_looks_at_few_cells(rng, monkeypatch):
    looked = []

    def counted(*args):
        looked.append(args)
        return cell_at.py_func(*args)

    monkeypatch.setattr(_kernels, "cell_at", counted)
    x = np.sort(rng.standard_normal(2000))
    scale = exact_scale.py_func(x, *numbers(Grid(4)))
    assert scale == exact_scale(x, *numbers(Grid(4)))
    assert len(looked) < 150  # of some 14,000 cells


# --- planted faults -------------------------------------------------------------------------------


def like(kernel, wrong):
    """A wrong kernel whose compiled and interpreted forms agree."""
    fault = Kernel(kernel.py_func)
    fault.py_func = fault._compiled = wrong
    return fault


def plain_sums(x):
    return np.append(0.0, np.cumsum(x))


def bound_without_jumps(a, a1, a2, b, b1, b2):
    """Forgets that the slope rises wherever a code changes."""
    at_a, rise = a * (2 * a1 - a * a2), 2 * (a1 - a * a2)
    at_b, fall = b * (2 * b1 - b * b2), 2 * (b * b2 - b1)
    t, u = (min(max(slope / (2 * b2), 0), b - a) if b2 else 0 for slope in (rise, fall))
    return max(at_a + t * (rise - b2 * t), at_b + u * (fall - b2 * u))


def bound_at_ends(a, a1, a2, b, b1, b2):
    """Takes the larger of the two ends."""
    return max(a * (2 * a1 - a * a2), b * (2 * b1 - b * b2))


def cell_of_positive(x, sums, s, qmin, qmax, offset):
    """Looks for the next change among positive numbers only."""
    s1, s2, _, _ = _kernels.cell_at(x, sums, s, qmin, qmax, offset)
    rest = x[x > 0] if (x > 0).any() else np.zeros(1)
    _, _, left, right = _kernels.cell_at(rest, _kernels.prefix_sums(rest), s, qmin, qmax, offset)
    return s1, s2, left, right


def narrow_search(x, qmin, qmax, offset):
    """Forgets the lowest code."""
    return _kernels.exact_scale(x, qmin if offset or qmin == -1 else -qmax, qmax, offset)


def refitting_search(x, qmin, qmax, offset):
    """Alternates rounding and refitting from one start."""
    s = max(abs(x)) / qmax if qmax else 1.0
    for _ in range(100):
        v = np.clip(np.rint(x / s - offset), qmin, qmax) + offset if s > 0 else 0 * x
        s = x @ v / (v @ v) if x @ v > 0 else s
    return s


@pytest.mark.parametrize(
    ("test", "name", "wrong"),
    [
        (test_prefix_sums_are_good_to_two_roundings, "prefix_sums", plain_sums),
        (test_the_bound_covers_every_gain_between_two_scales, "gain_bound", bound_without_jumps),
        (test_the_bound_covers_every_gain_between_two_scales, "gain_bound", bound_at_ends),
        (test_the_bound_is_tight_inside_a_cell, "gain_bound", bound_at_ends),
        (
            test_a_cell_has_the_moments_of_its_codes_and_ends_where_they_change,
            "cell_at",
            cell_of_positive,
        ),
        (test_the_search_equals_the_readable_one, "exact_scale", narrow_search),
        (test_the_search_equals_the_readable_one, "exact_scale", refitting_search),
    ],
)
def test_planted_faults_are_caught(test, name, wrong):
    assert caught(THIS, test, **{name: like(getattr(_kernels, name), wrong)})
