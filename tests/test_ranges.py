"""Activation ranges: histograms that merge, the error model, the rules."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import caught, exact

import qcp_ref as right
from qcp_ref import (
    Grid,
    Histogram,
    activation_scale,
    dequantize,
    histogram_error,
    histogram_range,
    loops,
    quantize,
)

U8, U4 = Grid(8, signed=False), Grid(4, signed=False)
RULES = ["min-max", "moving-average", "percentile", "histogram", "histogram-exact", "mse-exact"]
numbers = st.integers(-200, 200).map(lambda m: m / 8)
samples = st.lists(numbers, min_size=1, max_size=12)
batches = st.lists(samples, min_size=1, max_size=4)
counts = st.lists(st.integers(0, 9), min_size=2, max_size=9).filter(any)


def same(a, b):
    return a.lo == b.lo and a.hi == b.hi and (a.counts == b.counts).all()


def table(h):
    """Return a histogram as the loops have it."""
    edges = [Fraction(h.lo) + Fraction(h.width) * b for b in range(len(h.counts))]
    return [[edge, count] for edge, count in zip(edges, h.counts.tolist(), strict=True)]


def error(x, scale, grid):
    codes = quantize(x, grid, scale.scale, scale.zero_point)
    return ((np.asarray(x) - dequantize(codes, scale.scale, scale.zero_point)) ** 2).sum()


# --- histograms -----------------------------------------------------------------------------------


@given(samples, st.integers(2, 12))
def test_counts_are_those_of_the_loops(x, bins):
    assert table(Histogram.of(x, bins)) == loops.histogram(exact(x), bins)


@given(samples, samples, samples, st.integers(2, 40))
def test_merging_loses_nothing(x, y, z, bins):
    a, b, c = (Histogram.of(part, bins) for part in (x, y, z))
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(a.merge(b).merge(c), Histogram.of([*x, *y, *z], bins))
    assert a.merge(b).counts.sum() == len(x) + len(y)


@given(counts, st.integers(1, 6), st.data())
def test_error_model_is_that_of_the_loops(c, levels, data):
    h = Histogram(c, -1.0, len(c) / 4 - 1)
    first = data.draw(st.integers(0, len(c) - 1))
    last = data.draw(st.integers(first, len(c) - 1))
    expected = loops.histogram_error(table(h), first, last, levels)
    assert histogram_error(h, first, last, levels) == pytest.approx(float(expected), abs=1e-12)


def test_error_model_is_the_measured_error_of_evenly_spread_numbers():
    c, fine = np.array([3, 0, 5, 1]), 2000
    h = Histogram(c, 0.0, 4.0)
    x = np.concatenate(
        [(b + (np.arange(n * fine) + 0.5) / (n * fine)) for b, n in enumerate(c) if n]
    )
    middles = 1 + (np.arange(3) + 0.5) * (2 / 3)  # three levels over the bins 1 and 2
    measured = (abs(x[:, None] - middles).min(1) ** 2).mean()
    assert histogram_error(h, 1, 2, 3) == pytest.approx(measured, rel=1e-6)


@given(samples, st.integers(2, 8), st.integers(1, 5))
def test_error_of_any_data_stays_within_the_bound(x, bins, levels):
    h = Histogram.of(x, bins)
    first, last = np.flatnonzero(h.counts)[[0, -1]].tolist()
    step = h.width * (last - first + 1) / levels
    middles = h.lo + h.width * first + (np.arange(levels) + 0.5) * step
    distance = lambda t: abs(np.asarray(t)[..., None] - middles).min(-1)
    measured = (distance(x) ** 2).mean()
    edges = h.lo + h.width * np.arange(bins)
    # The largest distance in a bin is at one of its ends or half-way between two levels.
    places = [np.r_[e, e + h.width, middles[:-1] + step / 2] for e in edges]
    inside = [p[(p >= e) & (p <= e + h.width)] for p, e in zip(places, edges, strict=True)]
    far = np.array([distance(p).max() for p in inside])
    slack = (h.counts * (far**2 - np.maximum(far - h.width, 0) ** 2)).sum() / h.counts.sum()
    assert abs(measured - histogram_error(h, first, last, levels)) <= slack * (1 + 1e-9) + 1e-12


@given(counts, st.integers(1, 5))
def test_ranges_are_those_of_the_loops(c, levels):
    h = Histogram(c, -2.0, len(c) / 2 - 2)
    greedy = histogram_range(h, levels, steps=20)
    expected = loops.histogram_range(table(h), levels, steps=20)
    t = table(h)
    place = lambda pair: [round((Fraction(e) - t[0][0]) / Fraction(h.width)) for e in pair]
    score = lambda pair: float(loops.histogram_error(t, place(pair)[0], place(pair)[1] - 1, levels))
    # Equal errors may be told apart by rounding only.
    assert list(greedy) == expected or score(greedy) == pytest.approx(score(expected), rel=1e-9)
    best = histogram_range(h, levels, search="all-pairs")
    least = loops.histogram_range(t, levels, search="all-pairs")
    assert score(best) == pytest.approx(score(least), rel=1e-9, abs=1e-15)
    assert score(best) <= score(greedy) * (1 + 1e-9) + 1e-15
    doubled = Histogram(c, 2 * h.lo, 2 * h.hi)
    assert histogram_range(doubled, levels, steps=20) == tuple(2 * e for e in greedy)


# --- rules ----------------------------------------------------------------------------------------


@given(batches, st.sampled_from(RULES))
def test_zero_is_a_level_and_the_range_is_that_of_the_data(parts, rule):
    s = activation_scale(parts, U4, rule=rule)
    assert U4.qmin <= s.zero_point <= U4.qmax
    assert s.zero_point == int(s.zero_point)
    assert s.rule == rule
    if rule != "mse-exact":
        flat = np.concatenate([np.ravel(x) for x in parts])
        width = max(flat.max(), 0) - min(flat.min(), 0)
        assert s.scale * 15 <= width * (1 + 1e-12) or width == 0


@given(batches, st.sampled_from(["min-max", "percentile", "histogram", "mse-exact"]))
def test_order_and_division_of_the_data_do_not_matter(parts, rule):
    one = activation_scale(parts, U4, rule=rule)
    other = activation_scale([np.concatenate([np.ravel(x) for x in parts[::-1]])], U4, rule=rule)
    assert one.scale == pytest.approx(other.scale, rel=1e-12)
    assert one.zero_point == other.zero_point


@given(batches, st.sampled_from([0.25, 0.5, 1.0]))
def test_moving_average_is_that_of_the_loops(parts, share):
    s = activation_scale(parts, U8, rule="moving-average", averaging=share)
    options = {"rule": "moving-average", "averaging": share}
    expected = loops.activation_scale(exact(parts), {"bits": 8, "signed": False}, **options)
    assert s.scale == pytest.approx(float(expected[0]), rel=1e-12)
    assert abs(s.zero_point - float(expected[1])) <= 1


@given(samples, st.sampled_from([50.0, 90.0, 100.0]))
def test_percentiles_are_those_of_the_loops(x, share):
    s = activation_scale([x], U8, rule="percentile", percentile=share)
    options = {"rule": "percentile", "percentile": share}
    expected = loops.activation_scale([exact(x)], {"bits": 8, "signed": False}, **options)
    assert s.scale == pytest.approx(float(expected[0]), rel=1e-9)


@given(st.lists(numbers, min_size=2, max_size=8), st.sampled_from(RULES[:-1]))
def test_exact_least_squares_beats_every_rule(x, rule):
    grid = Grid(2, signed=False)
    best = error(x, activation_scale([x], grid, rule="mse-exact"), grid)
    assert best <= error(x, activation_scale([x], grid, rule=rule), grid) * (1 + 1e-9) + 1e-12


def test_known_answer_of_the_histogram_observer():
    rng = np.random.default_rng(20)
    x = np.append(rng.standard_normal(100_000), [12.0, -9.0])
    h = Histogram.of(x)
    lo, hi = histogram_range(h, 16)
    # The published search gives [-3.72, 2.70] with error .0159 on such numbers, min-max .143.
    assert -4.5 < lo < -2
    assert 2 < hi < 4.5
    step = (hi - lo) / 16
    levels = lo + (np.arange(16) + 0.5) * step
    measured = (abs(x[:, None] - levels).min(1) ** 2).mean()
    first, last = round((lo - h.lo) / h.width), round((hi - h.lo) / h.width) - 1
    assert histogram_error(h, first, last, 16) == pytest.approx(measured, rel=0.01)
    full = ((12.0 + 9.0) / 15) ** 2 / 12
    assert 0.012 < measured < 0.02 < 0.1 < full
    by_rule = {r: error(x, activation_scale([x], U4, rule=r), U4) for r in ("min-max", "histogram")}
    assert by_rule["histogram"] < by_rule["min-max"] / 5


def test_evenly_spread_numbers_keep_almost_the_whole_range():
    lo, hi = histogram_range(Histogram.of(np.linspace(-1, 1, 20_001)), 16)
    assert hi - lo > 1.9


def test_torch_agrees_on_ranges():
    observer = pytest.importorskip("torch.ao.quantization.observer")
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(21).standard_normal((4, 50)).astype(np.float32)
    minmax, moving = observer.MinMaxObserver(), observer.MovingAverageMinMaxObserver(0.25)
    for part in x:
        minmax(torch.from_numpy(part))
        moving(torch.from_numpy(part))
    for theirs, rule, options in (
        (minmax, "min-max", {}),
        (moving, "moving-average", {"averaging": 0.25}),
    ):
        scale, zero = theirs.calculate_qparams()
        s = activation_scale(list(x), U8, rule=rule, **options)
        assert s.scale == pytest.approx(float(scale), rel=1e-5)
        assert abs(s.zero_point - int(zero)) <= 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: activation_scale([], U8), ValueError, "batches"),
        (lambda: activation_scale([[np.nan]], U8), ValueError, r"batches\[0\]"),
        (lambda: activation_scale([[1], ["a"]], U8), TypeError, r"batches\[1\]"),
        (lambda: activation_scale([[1]], U8, rule="kl"), ValueError, "rule"),
        (lambda: activation_scale([[1]], U8, bins=3), TypeError, "expected no option"),
        (lambda: activation_scale([[1]], U8, rule="percentile", percentile=0), ValueError, "perc"),
        (lambda: Histogram.of([1.0], bins=1), ValueError, "bins"),
        (lambda: Histogram.of([]), ValueError, "x"),
        (lambda: Histogram([1, -1], 0.0, 1.0), ValueError, "counts"),
        (lambda: Histogram([0, 0], 0.0, 1.0), ValueError, "counts"),
        (lambda: Histogram([1, 1], 1.0, 1.0), ValueError, "lo, hi"),
        (lambda: Histogram.of([1], 4).merge(Histogram.of([1], 8)), ValueError, "other"),
        (lambda: Histogram.of([1], 4).merge(3), TypeError, "Histogram"),
        (lambda: histogram_error(Histogram([1, 1], 0.0, 1.0), 1, 0, 2), ValueError, "last"),
        (lambda: histogram_error(Histogram([1, 1], 0.0, 1.0), 0, 1, 0), ValueError, "levels"),
        (lambda: histogram_range(Histogram([1, 1], 0.0, 1.0), 2, search="x"), ValueError, "search"),
        (
            lambda: histogram_range(Histogram(np.ones(600, int), 0.0, 1.0), 2, search="all-pairs"),
            *(ValueError, "512"),
        ),
    ],
)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_numbers_too_far_from_one_are_refused_by_name():
    for rule in ("moving-average", "percentile", "histogram", "histogram-exact"):
        with pytest.raises(ValueError, match=r"batches\[0\]: expected magnitudes up to 2\*\*400"):
            activation_scale([[1e308, -1e308]], Grid(8), rule=rule)
    with pytest.raises(ValueError, match="lo, hi: expected bins of a width"):
        Histogram([1, 1, 1], 0.0, 5e-324)
    narrow = Histogram([1, 1], 0.0, 2.0**-500)
    assert histogram_error(narrow, 0, 1, 1) == pytest.approx(2.0**-1000 / 12, rel=1e-12)


# --- planted faults -------------------------------------------------------------------------------


def edge_levels(h, first, last, levels):
    """Measure from the lower edge of each level's share, not from its middle."""
    step = h.width * (last - first + 1) / levels
    edges = h.lo + h.width * np.arange(len(h.counts))
    t = edges[:, None] + h.width * (np.arange(200) + 0.5) / 200
    level = np.clip(np.floor((t - edges[first]) / step), 0, levels - 1)
    squares = ((t - edges[first] - level * step) ** 2).mean(1)
    return float(squares @ h.counts / h.counts.sum())


def no_average(parts, grid, **options):
    rule = {k: v for k, v in options.items() if k not in ("rule", "averaging")}
    return right.activation_scale(parts[-1:], grid, **rule)


def no_outer(h, first, last, levels):
    kept = np.zeros_like(h.counts)
    kept[first : last + 1] = h.counts[first : last + 1]
    if not kept.any():
        return 0.0
    return right.histogram_error(Histogram(kept, h.lo, h.hi), first, last, levels)


def one_end(parts, grid, **options):
    wrong = {**options, "percentile": max(options.get("percentile", 100) * 2 - 100, 1)}
    return right.activation_scale(parts, grid, **wrong)


@pytest.mark.parametrize(
    ("test", "name", "fault"),
    [
        (test_error_model_is_that_of_the_loops, "histogram_error", edge_levels),
        (test_error_model_is_that_of_the_loops, "histogram_error", no_outer),
        (test_moving_average_is_that_of_the_loops, "activation_scale", no_average),
        (test_percentiles_are_those_of_the_loops, "activation_scale", one_end),
    ],
)
def test_planted_fault_is_caught(test, name, fault):
    assert caught(sys.modules[__name__], test, **{name: fault})
