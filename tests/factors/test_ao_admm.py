"""Laws and bad input of factors.ao_admm; its planted faults stand at the end."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_draws import assert_on_grid, axes, grids, random_tensor
from support import caught, exact, law, seeds, shapes

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    QuantizedCP,
    ao_admm,
    balance,
    choose_scale,
    factorize,
    loops,
    orient,
    polish,
    predict_error,
    project,
    quantize,
    quantize_cp,
    random_cp,
    reconstruct,
    relative_error,
)
from qcp_ref.factors import ao_admm as ao_admm_chapter
from qcp_ref.grids import scale as scale_chapter

THIS = sys.modules[__name__]


@law("ao_admm.grid", "ao_admm.error", "ao_admm.best")
@given(
    shapes(max_dims=3),
    st.integers(1, 4),
    seeds,
    grids,
    axes,
    st.sampled_from(["step", "sweep", "frozen"]),
)
def test_result_is_on_its_grid_and_is_the_best_sweep(shape, rank, seed, grid, axis, refit):
    X = random_tensor(seed, shape)
    fit = ao_admm(
        X, rank, grid, start="als", rng=seed, axis=axis, refit=refit, max_sweeps=4, max_steps=5
    )
    assert_on_grid(fit.cp)
    assert fit.cp.grid == grid
    for s, side in zip(fit.cp.scales, shape, strict=True):
        assert s.shape == {None: (), 0: (side, 1), 1: (1, rank)}[axis]
    assert fit.error == relative_error(X, fit.cp.dequantize())
    assert abs(fit.error - fit.history.error.min()) <= 1e-7
    assert len(fit.history.error) == len(fit.history.gap) == len(fit.history.steps) <= 4
    assert fit.history.steps.shape[1] == len(shape) and fit.history.steps.max() <= 5


@law("ao_admm.loops")
@given(st.integers(2, 3), st.integers(1, 2), seeds, st.integers(1, 4))
def test_first_sweep_with_frozen_scales_equals_plain_loops(modes, rank, seed, steps):
    rng = np.random.default_rng([seed, 37])
    X = rng.integers(-6, 7, size=[2, 3, 2][:modes]).astype(float)
    if not X.any():
        return
    grid = Grid(3)
    # a start of dyadic numbers, balanced by hand: all columns of squared norm 5
    column = {2: [1.0, 2.0], 3: [0.0, 2.0, 1.0]}
    start = CP(
        [np.stack([np.roll(column[side], r) for r in range(rank)], axis=1) for side in X.shape]
    )
    factors = [exact(A) for A in balance(start).factors]
    scales = [Fraction(float(choose_scale(A, grid).scale)) for A in balance(start).factors]
    fit = ao_admm(
        X, rank, grid, start=start, refit="frozen", max_sweeps=1, max_steps=steps, inner_tol=0.0
    )
    margin = Fraction(1, 2)
    for n, scale in enumerate(scales):
        F, G = loops.mttkrp(exact(X), factors, n), loops.gram(factors, n)

        def nearest(V, scale=scale):
            nonlocal margin
            codes = [[min(max(round(v / scale), grid.qmin), grid.qmax) for v in row] for row in V]
            for v in (v / scale for row in V for v in row):
                margin = min(
                    margin, abs(v - round(v) - Fraction(1, 2)), abs(v - round(v) + Fraction(1, 2))
                )
            return [[scale * k for k in row] for row in codes]

        dual = [[Fraction(0)] * rank for _ in F]
        factors[n], _, _ = loops.admm(F, G, nearest, factors[n], dual, steps)
    if margin < 1e-9:  # a tie that rounding may decide either way
        return
    for k, H, scale in zip(fit.cp.codes, factors, scales, strict=True):
        assert [[int(h / scale) for h in row] for row in H] == k.tolist()


@law("ao_admm.seed")
@settings(max_examples=10)
@given(shapes(max_dims=3), seeds, st.integers(1, 3), st.sampled_from(["epc", "als", "random"]))
def test_the_seed_of_the_start_decides_all_codes(shape, seed, rank, start):
    X = random_tensor(seed, shape)
    options = {"start": start, "max_sweeps": 2, "max_steps": 4}
    for source in (int, np.random.default_rng):
        first, second = (ao_admm(X, rank, Grid(3), rng=source(seed), **options) for _ in range(2))
        for one, other in ((first.cp.codes, second.cp.codes), (first.cp.scales, second.cp.scales)):
            assert all(np.array_equal(p, q) for p, q in zip(one, other, strict=True))
        assert np.array_equal(first.history.error, second.history.error)


@law("factorize.seed")
@settings(max_examples=10)
@given(seeds)
def test_same_seed_same_codes_and_both_methods_share_the_fit(seed):
    X = random_tensor(seed, (4, 3, 5))
    a, b = (factorize(X, 3, Grid(4), rng=seed, method="authors") for _ in range(2))
    assert all(np.array_equal(p, q) for p, q in zip(a.cp.codes, b.cp.codes, strict=True))
    rounded = factorize(X, 3, Grid(4), rng=seed, method="als-round")
    assert rounded.stop_reason == "rounded"
    assert a.start_error <= rounded.start_error * (1 + 1e-9) + 1e-12
    assert rounded.error == relative_error(X, rounded.cp.dequantize())
    assert_on_grid(rounded.cp)


def test_the_authors_recipe_beats_rounding_on_cancelling_fits():
    X = random_tensor(5, (8, 8, 9))
    gains = []
    for seed in range(3):
        errors = [
            factorize(X, 14, Grid(4), method=m, rng=seed).error for m in ("als-round", "authors")
        ]
        gains.append(errors[0] / errors[1])
    assert np.median(gains) > 1.05


def test_more_bits_approach_the_float_error():
    X = random_tensor(9, (6, 5, 4))
    options = {"rng": 1, "method": "authors"}
    errors = [factorize(X, 4, Grid(bits), **options).error for bits in (2, 4, 8, 12)]
    start = factorize(X, 4, Grid(12), **options).start_error
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= start * 1.01


@pytest.mark.parametrize(("refit", "per_sweep"), [("step", 7), ("sweep", 1), ("frozen", 0)])
def test_refit_policies_choose_scales_as_often_as_they_say(monkeypatch, refit, per_sweep):
    calls, choose = [], scale_chapter.choose_core

    def counting(x, *args, **options):
        calls.append(x.shape)
        return choose(x, *args, **options)

    X = random_tensor(3, (4, 3, 5))
    start = random_cp((4, 3, 5), 3, rng=8)
    options = {"start": start, "refit": refit, "max_steps": 7, "inner_tol": 0.0, "tol": 0.0}
    monkeypatch.setattr(scale_chapter, "choose_core", counting)
    counts = []
    for sweeps in (1, 2, 3):
        calls.clear()
        ao_admm(X, 3, Grid(3), max_sweeps=sweeps, **options)
        counts.append(len(calls))
    assert np.diff(counts).tolist() == [3 * per_sweep] * 2  # the start is the same in all runs
    last = [shape for shape in ((4, 3), (3, 3), (5, 3)) for _ in range(per_sweep)]
    assert calls[len(calls) - len(last) :] == last


def test_duals_and_codes_are_carried_from_sweep_to_sweep():
    X = random_tensor(3, (4, 3, 5))
    start = balance(random_cp((4, 3, 5), 3, rng=8))
    grid = Grid(3)
    scales = [choose_scale(A, grid).scale for A in start.factors]
    factors, duals, errors = list(start.factors), [None] * 3, []
    for _ in range(3):
        for n in range(3):
            F, G = right.mttkrp(X, factors, n), right.gram(factors, n)
            done = right.admm(
                F,
                G,
                lambda V, s=scales[n]: project(V, grid, scale=s),
                start=factors[n],
                dual=duals[n],
                max_steps=4,
                tol=0.0,
            )
            factors[n], duals[n] = done.factor, done.dual
        errors.append(relative_error(X, CP(factors)))
    options = {"start": start, "refit": "frozen", "inner_tol": 0.0, "tol": 0.0}
    fit = ao_admm(X, 3, grid, max_sweeps=3, max_steps=4, **options)
    assert np.allclose(fit.history.error, errors, atol=1e-9)
    assert np.isclose(fit.history.gap[-1, 2], done.primal[-1])
    if fit.history.error.argmin() == 2:
        assert np.allclose(fit.relaxed.factors[2], done.least_squares)


def test_the_authors_method_corrects_its_start_and_slack_loosens_it():
    X = random_tensor(5, (6, 5, 4))
    options = {"rng": 1, "method": "authors"}
    fits = [factorize(X, 6, Grid(4), slack=slack, **options) for slack in (0.0, 0.3)]
    plain = ao_admm(X, 6, Grid(4), start=right.cp_als(X, 6, rng=1, max_sweeps=50).cp)
    assert np.isclose(fits[0].start_error, plain.start_error, rtol=1e-6)
    assert np.isclose(fits[1].start_error, 1.3 * plain.start_error, rtol=1e-6)
    assert fits[0].error != plain.error
    rules = [factorize(X, 6, Grid(4), rule=r, **options).error for r in ("mse-exact", "max-abs")]
    assert rules[0] != rules[1]


def test_defaults_are_those_of_the_reference(monkeypatch):
    X = random_tensor(0, (4, 3, 5))
    said = {"start": "epc", "rng": 0, "refit": "step", "axis": None, "rule": "mse-exact"}
    said |= {"max_sweeps": 25, "max_steps": 30, "tol": 1e-5, "inner_tol": 1e-8}
    fits = ao_admm(X, 3, Grid(4)), ao_admm(X, 3, Grid(4), **said)
    assert np.array_equal(*(fit.history.error for fit in fits))
    assert np.array_equal(*(fit.history.steps for fit in fits))
    tolerances = []  # and without any other reason to stop
    monkeypatch.setattr(
        ao_admm_chapter, "_stop", lambda errors, signatures, tol: tolerances.append(tol)
    )
    fit = ao_admm(X, 3, Grid(4), inner_tol=0.0)
    assert fit.stop_reason == "max_sweeps" and (fit.history.steps == 30).all()
    assert tolerances == [1e-5] * 25 and len(fit.history.error) == 25


@settings(max_examples=15)
@given(seeds, st.integers(1, 3), st.sampled_from(["frozen", "step"]))
def test_more_sweeps_return_another_iterate_only_if_it_is_better(seed, rank, refit):
    options = {"start": "als", "refit": refit, "tol": 0.0, "inner_tol": 0.0, "max_steps": 4}
    X = random_tensor(seed, (4, 3, 2))
    fit = ao_admm(X, rank, Grid(2), max_sweeps=6, **options)
    first = int(fit.history.error.argmin())
    short = ao_admm(X, rank, Grid(2), max_sweeps=first + 1, **options)
    for one, other in zip(fit.relaxed.factors, short.relaxed.factors, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("rule", ["max-abs", "mse-exact"])
def test_frozen_scales_are_those_that_the_rule_chose_for_the_start(rule, axis):
    X, start = random_tensor(3, (4, 3, 5)), random_cp((4, 3, 5), 3, rng=8)
    options = {"rule": rule, "axis": axis}
    fit = ao_admm(X, 3, Grid(3), start=start, refit="frozen", max_sweeps=2, **options)
    chosen = quantize_cp(start, Grid(3), **options).scales
    for s, t in zip(fit.cp.scales, chosen, strict=True):
        assert np.allclose(s, t, rtol=1e-14, atol=0)


@pytest.mark.parametrize("X", [np.zeros((2, 3, 4)), np.full((3, 3), 5.0), np.array([[2.0]])])
def test_zero_constant_and_single_element_tensors(X):
    fit = factorize(X, 2, Grid(4), rng=1, method="authors")
    assert np.isfinite(fit.error) and fit.error <= 0.2
    if not X.any():
        assert fit.stop_reason == "zero tensor" and not any(k.any() for k in fit.cp.codes)


def test_dead_and_duplicate_components_are_survived():
    cp = CP([np.ones((3, 2)), np.ones((4, 2)), [[1.0, 0.0], [2.0, 0.0]]])
    X = reconstruct(cp)
    fit = ao_admm(X, 2, Grid(4), start=cp, max_sweeps=5)
    assert np.isfinite(fit.error) and fit.error < 0.2
    twice = CP([np.hstack([A[:, :1], A[:, :1]]) for A in cp.factors])
    assert np.isfinite(ao_admm(X, 2, Grid(4), start=twice, max_sweeps=5).error)


def test_stop_rules():
    assert ao_admm_chapter._stop([0.5, 0.5 + 1e-6], [b"a", b"b"], 1e-5) == "converged"
    assert (
        ao_admm_chapter._stop([0.5, 0.6, 0.7, 0.8, 0.5011], [b"a", b"b", b"c", b"d", b"e"], 1e-5)
        == "rising"
    )
    assert (
        ao_admm_chapter._stop([0.5, 0.6, 0.7, 0.8, 0.5009], [b"a", b"b", b"c", b"d", b"e"], 1e-5)
        is None
    )
    assert ao_admm_chapter._stop([0.5, 0.6, 0.5, 0.6], [b"a", b"b", b"a", b"b"], 1e-5) == "cycle"
    assert ao_admm_chapter._stop([0.5, 0.6, 0.5, 0.6], [b"a", b"b", b"b", b"a"], 1e-5) is None
    assert ao_admm_chapter._stop([0.5], [b"a"], 1.0) is None  # nothing to compare with
    assert (
        ao_admm_chapter._stop([0.5, 0.25], [b"a", b"b"], 0.25) is None
    )  # as much as the tolerance
    assert ao_admm_chapter._stop([0.5, 0.6, 0.7, 0.8], [b"a", b"b", b"c", b"d"], 1e-5) is None


def test_stop_rules_of_the_authors():
    stop = ao_admm_chapter._authors_stop
    assert stop([0.5, 0.5 + 1e-6], 1e-5, 3) == "converged"  # the start counts
    rising = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.3, 0.6, 0.7, 0.8]
    assert stop([*rising, 0.3011], 1e-5, 3) == "rising"
    assert stop([*rising, 0.3009], 1e-5, 3) is None
    assert stop([*rising[1:], 0.3011], 1e-5, 3) is None  # ten entries are not enough
    assert stop([*rising, 0.7011], 1e-5, 2) is None  # a matrix: nine sweeps back, to 0.8
    assert stop([*rising, 0.8011], 1e-5, 2) == "rising"


@pytest.mark.parametrize(("shape", "rank"), [((4, 3, 2), 2), ((5, 4), 3), ((3, 2, 2, 3), 2)])
@pytest.mark.parametrize("seed", range(3))
def test_the_authors_recipe_is_admm_mode_by_mode_from_the_start_as_it_is(shape, rank, seed):
    X, grid = random_tensor(seed, shape), Grid(4)
    rng = np.random.default_rng(seed)
    start = CP([rng.normal(size=(side, rank)) for side in shape], rng.uniform(1, 9, rank))
    fit = ao_admm(
        X, rank, grid, start=start, recipe="authors", max_sweeps=2, max_steps=3, tol=0, inner_tol=0
    )
    factors, duals = list(start.factors), [np.zeros_like(A) for A in start.factors]
    for n in [*range(X.ndim)] * 2:
        F, G = right.mttkrp(X, factors, n), right.gram(factors, n)
        found = right.admm(
            F, G, lambda V: project(V, grid), start=factors[n], dual=duals[n], max_steps=3, tol=0
        )
        factors[n], duals[n] = found.factor, found.dual
    for A, B in zip(fit.cp.dequantize().factors, factors, strict=True):
        np.testing.assert_allclose(A, B, rtol=1e-9, atol=1e-12)


def test_of_a_matrix_that_converged_the_authors_keep_the_sweep_before_the_last():
    X = random_tensor(4, (8, 6))
    options = {"start": "als", "rng": 1, "recipe": "authors"}
    fit = ao_admm(X, 3, Grid(3), tol=0.003, **options)
    assert fit.stop_reason == "converged" and len(fit.history.error) > 1
    assert abs(fit.error - fit.history.error[-2]) < 1e-12 < abs(fit.error - fit.history.error[-1])
    one = ao_admm(X, 3, Grid(3), max_sweeps=2, tol=0, **options)
    assert abs(one.error - one.history.error[-1]) < 1e-12
    with pytest.raises(ValueError, match="recipe: expected"):
        ao_admm(X, 3, Grid(4), recipe="ours")


@given(st.integers(2, 12), st.integers(0, 5))
def test_codes_that_repeat_within_eight_sweeps_are_a_cycle(period, lead):
    signatures = [b"%d" % n for n in [*range(-lead, 0), *range(period), *range(period)]]
    falling = [1.0 - 0.01 * n for n in range(len(signatures))]
    reasons = [
        ao_admm_chapter._stop(falling[:n], signatures[:n], 1e-5) for n in range(1, len(falling) + 1)
    ]
    assert reasons == [None] * (len(falling) - 1) + ["cycle" if period <= 8 else None]


def test_callbacks_see_their_stages_and_may_stop():
    X = random_tensor(2, (4, 3, 5))
    seen = []
    options = {"rng": 1, "method": "authors"}
    fit = factorize(
        X, 3, Grid(4), callback=lambda *row: seen.append(row) or row[:2] == ("admm", 1), **options
    )
    assert list(dict.fromkeys(row[0] for row in seen)) == ["als", "epc", "admm"]
    assert fit.stop_reason == "callback" and seen[-1][:2] == ("admm", 1)
    assert seen[-1][2] == fit.history.error[-1] and len(fit.history.error) == 2


def test_starts_by_name_and_by_value():
    X = random_tensor(4, (4, 3, 5))
    fit = right.cp_als(X, 3, rng=2).cp
    for name, start in (("als", fit), ("epc", right.epc(X, fit).cp)):
        runs = [ao_admm(X, 3, Grid(6), start=s, rng=2, max_sweeps=3) for s in (name, start)]
        assert np.array_equal(*(run.history.error for run in runs))
    for name in ("random", "svd"):  # without any fitting
        unfit = ao_admm(X, 3, Grid(6), start=name, rng=2, max_sweeps=3)
        assert unfit.start_error > 2 * relative_error(X, fit) and np.isfinite(unfit.error)
    given_start = random_cp((4, 3, 5), 3, rng=8)
    fit = ao_admm(X, 3, Grid(6), start=given_start, max_sweeps=1)
    assert np.isclose(fit.start_error, relative_error(X, given_start), rtol=1e-14)


@pytest.mark.parametrize(
    "grid",
    [Grid(1, kind="binary"), Grid(2, kind="ternary"), Grid(3, kind="log2"), Grid(4, signed=False)],
    ids=str,
)
def test_other_kinds_of_grids_hold_factors_too(grid):
    X = abs(random_tensor(4, (4, 3, 5)))
    fit = ao_admm(X, 2, grid, rng=2, max_sweeps=3)
    assert np.isclose(fit.error, relative_error(X, fit.cp.dequantize()), rtol=1e-14)
    assert fit.error < 1 and all(k.dtype == grid.dtype for k in fit.cp.codes)
    for A, k, s in zip(fit.cp.dequantize().factors, fit.cp.codes, fit.cp.scales, strict=True):
        assert np.array_equal(quantize(A, grid, s), k)
        assert np.isin(A, s * grid.levels).all()
    again = quantize_cp(fit.cp.dequantize(), grid)
    assert relative_error(X, again.dequantize()) < 1


@pytest.mark.parametrize(
    "options", [{"rule": "min-max"}, {"rule": "best"}, {"axis": 2}, {"inner_tol": -1.0}], ids=str
)
def test_bad_options_are_refused_before_anything_is_fitted(monkeypatch, options):
    monkeypatch.setattr(
        ao_admm_chapter, "float_fit", lambda *_, **__: pytest.fail("a fit has begun")
    )
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        ao_admm(random_tensor(4, (4, 3, 5)), 3, Grid(4), **options)


def test_bad_input_is_refused():
    X = random_tensor(4, (4, 3, 5))
    grid = Grid(4)
    for options, message in (
        ({"refit": "always"}, "refit: expected one of"),
        ({"start": "zeros"}, "start: expected one of"),
        ({"start": random_cp((4, 3, 5), 2, rng=0)}, "start: expected shape"),
        ({"axis": 2}, "axis"),
        ({"rule": "best"}, "rule: expected one of"),
        ({"rule": "min-max"}, "rule: factors have no zero points"),
        ({"max_sweeps": 0}, "max_sweeps: expected at least 1"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"tol": -1.0}, "tol: expected at least 0"),
        ({"inner_tol": np.nan}, "^inner_tol: expected a finite"),
        ({"rng": -1, "start": random_cp((4, 3, 5), 3, rng=0)}, "^rng: expected a seed"),
    ):
        with pytest.raises(ValueError, match=message):
            ao_admm(X, 3, grid, **{"start": "random", **options})
    for options, message in (
        ({"slack": -0.5}, "slack: expected at least 0"),
        ({"slack": 0.5, "method": "als-round"}, "slack: expected 0 with method"),
        ({"rule": "best"}, "rule: expected one of"),
        ({"rule": "min-max"}, "rule: factors have no zero points"),
        ({"axis": 5}, "axis: expected 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            factorize(X, 3, grid, **options)
    for rank, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="rank: expected"):
            factorize(X, rank, grid)
    for bits, error in ((0, ValueError), (17, ValueError), (-1, ValueError), (4.0, TypeError)):
        with pytest.raises(error, match="bits: expected"):
            Grid(bits)
    for cp, error, message in (
        (random_cp((4, 3, 5), 2, rng=0), TypeError, "got CP; use quantize_cp"),
        (quantize_cp(random_cp((4, 3), 2, rng=0), grid), ValueError, "to fit X, got"),
    ):
        with pytest.raises(error, match=f"^cp: expected .* {message}"):
            polish(X, cp)
    cp = random_cp((4, 3), 2, rng=0)
    with pytest.raises(TypeError, match=r"^cp: expected a CP"):
        orient(3, grid)
    for call in (orient, quantize_cp, lambda *args: predict_error(np.ones((4, 3)), *args)):
        with pytest.raises(TypeError, match=r"^grid: expected a Grid"):
            call(cp, 4)
    k = np.zeros((2, 1), dtype=int)
    for codes, scales, name in ((3, [1.0, 1.0], "codes"), ([k, k], 3, "scales")):
        with pytest.raises(TypeError, match=f"^{name}: expected a sequence"):
            QuantizedCP(codes, scales, grid)
    with pytest.raises(TypeError, match="expected integers"):
        QuantizedCP([k * 1.0, k], [1.0, 1.0], grid)
    with pytest.raises(ValueError, match="codes from -8 to 7"):
        QuantizedCP([k + 8, k], [1.0, 1.0], grid)
    with pytest.raises(ValueError, match="codes from -1 to 1"):
        QuantizedCP([k, k], [1.0, 1.0], Grid(1, kind="binary"))
    with pytest.raises(ValueError, match="rule: factors have no zero points, got 'min-max'"):
        quantize_cp(random_cp((4, 3), 2, rng=8), grid, rule="min-max")
    for scale in (0.0, -1.0, np.nan, [[1.0, 1.0, 1.0]]):
        with pytest.raises(ValueError, match=r"scales\[0\]: expected"):
            QuantizedCP([k, k], [scale, 1.0], grid)
    with pytest.raises(ValueError, match=r"^scales\[1\]: expected positive"):
        QuantizedCP([k, k], [1.0, [[1.0], [-1.0]]], grid)
    with pytest.raises(ValueError, match="one scale per factor"):
        QuantizedCP([k, k], [1.0], grid)
    with pytest.raises(ValueError, match="one rank"):
        QuantizedCP([k, np.zeros((2, 2), dtype=int)], [1.0, 1.0], grid)


@given(shapes(min_dims=2, max_dims=3), st.integers(1, 3), seeds)
def test_balanced_columns_are_the_ones_to_round(shape, rank, seed):
    """To first order: no other lengths make the expected noise smaller, at scales in proportion."""
    rng = np.random.default_rng([seed, 89])
    cp = balance(random_cp(shape, rank, rng=seed))

    def noise(factors):
        rms = [np.sqrt((A**2).mean()) for A in factors]
        squares = [(A**2).sum(axis=0) for A in factors]
        return sum(
            sum(
                len(A) * s**2 * np.prod([q for m, q in enumerate(squares) if m != n], axis=0)
                for n, (A, s) in enumerate(zip(factors, rms, strict=True))
            )
        )

    stretch = np.exp(rng.standard_normal((len(shape), rank)))
    stretch[-1] = 1 / np.prod(stretch[:-1], axis=0)
    other = [A * t for A, t in zip(cp.factors, stretch, strict=True)]
    assert noise(cp.factors) <= noise(other) * (1 + 1e-9)


def last_iterate(X, rank, grid, **options):
    """Returns codes that are not those of the best sweep: shifted by one where possible."""
    fit = right.ao_admm(X, rank, grid, **options)
    codes = [np.clip(k + 1, grid.qmin, grid.qmax) for k in fit.cp.codes]
    return fit._replace(cp=QuantizedCP(codes, fit.cp.scales, grid))


def forgetful_refit(X, rank, grid, **options):
    """Re-chooses scales although they should be frozen."""
    return right.ao_admm(X, rank, grid, **{**options, "refit": "step"})


def squared_report(X, rank, grid, **options):
    fit = right.ao_admm(X, rank, grid, **options)
    return fit._replace(error=fit.error**2)


def unseeded(X, rank, grid, **options):
    return right.ao_admm(X, rank, grid, **{**options, "rng": np.random.default_rng()})


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_the_seed_of_the_start_decides_all_codes, {"ao_admm": unseeded}),
        (test_result_is_on_its_grid_and_is_the_best_sweep, {"ao_admm": last_iterate}),
        (test_result_is_on_its_grid_and_is_the_best_sweep, {"ao_admm": squared_report}),
        (test_first_sweep_with_frozen_scales_equals_plain_loops, {"ao_admm": forgetful_refit}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
