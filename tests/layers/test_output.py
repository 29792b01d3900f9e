"""Laws, exact cases and bad input of qcp_ref.layers.output; its planted faults stand at the end."""

import sys
import tracemalloc
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support import assert_same, caught, exact, law, seeds
from test_conv import Geometry, dense, geometries

import qcp_ref as right
from qcp_ref import (
    CP,
    Grid,
    QuantizedCP,
    als_update,
    choose_scale,
    cp_als,
    dequantize,
    gram,
    kernel_to_tensor,
    loops,
    mttkrp,
    output_als,
    output_error,
    output_normal,
    polish,
    polish_output,
    quantize,
    quantize_cp,
    random_cp,
    reconstruct,
    refit_scale,
    relative_error,
    second_moment,
    solve_rows,
    unfold,
)
from qcp_ref.layers import geometry, output

THIS = sys.modules[__name__]

# Distinct sides, sides of 1, two modes (a linear layer) and four (one mode per kernel axis).
shapes = st.sampled_from(
    [(3, 2, 4), (2, 4, 3), (1, 3, 2), (4, 1, 3), (3, 2, 1), (2, 5), (4, 1), (2, 3, 2, 2), (1, 1, 1)]
)
grids = st.sampled_from(
    [Grid(2), Grid(3, narrow=True), Grid(2, mid_rise=True), Grid(3), Grid(1, kind="binary")]
)
axes = st.sampled_from([None, 0, 1])
kinds = st.sampled_from(["regular", "few samples", "dead inputs", "equal inputs"])


def moment(rng, size, kind="regular", most=3):
    """Return a second moment of small integers: products with it stay exact."""
    samples = size + 3 if kind != "few samples" else 1 + size // 3
    inputs = rng.integers(-most, most + 1, (samples, size))
    if kind == "dead inputs":
        inputs[:, rng.random(size) < 0.5] = 0
    if kind == "equal inputs":
        inputs[:] = inputs[:, :1]
    return (inputs.T @ inputs).astype(float) + np.eye(size) * (kind == "regular")


def integer_case(seed, shape, rank, kind):
    """Return a tensor, factors and a second moment of small integers."""
    rng = np.random.default_rng([seed, 61])
    X = rng.integers(-9, 10, shape).astype(float)
    factors = [rng.integers(-3, 4, (side, rank)).astype(float) for side in shape]
    return X, factors, moment(rng, prod(shape[1:]), kind)


def real_case(seed, shape, kind="regular"):
    """Return a tensor and a second moment of so many digits that there are no ties."""
    rng = np.random.default_rng([seed, 67])
    X = rng.integers(-(2**20), 2**20, shape) / 2**18
    return X, moment(rng, prod(shape[1:]), kind, most=2**10)


def squared(D, S):
    """Return the squared output error of a change, from the definition by loops."""
    return float(loops.output_product(D.tolist(), S.tolist(), D.tolist()))


def rounding_level(X, S, *approximations):
    """Return what rounding may do to a squared relative error; inputs may hide large changes."""
    M = X.reshape(len(X), -1)
    sizes = (M**2).sum() + sum((reconstruct(cp) ** 2).sum() for cp in approximations)
    return 1e-13 * sizes * np.trace(S) / (M @ S * M).sum()


def assert_falls(history, level):
    """The squared errors never rise by more than the rounding of the forms that they are."""
    assert (np.diff(history**2) <= level * (1 + history[:-1] ** 2)).all(), history


# --- second moment --------------------------------------------------------------------------------


@law("second_moment.outputs")
@given(geometries(), st.sampled_from([np.float32, np.float64]))
def test_mean_squared_output_of_any_kernel_is_its_form_in_the_second_moment(g, dtype):
    rng = np.random.default_rng(g.seed)
    x = rng.integers(-9, 10, g.x_shape).astype(dtype)
    W = rng.integers(-9, 10, g.W_shape).astype(float)
    y = dense(x, W, **g.options)
    S = second_moment(x, g.kernel, **g.options)
    M = unfold(kernel_to_tensor(W), 0)
    mean = (y**2).sum() / (y.size / y.shape[1])
    assert np.isclose(np.trace(M @ S @ M.T), mean, rtol=1e-12, atol=1e-12 * (abs(M) @ abs(S)).sum())


@law("second_moment.loops")
@settings(max_examples=30)
@given(geometries())
def test_second_moment_is_the_average_over_all_patches(g):
    x = np.random.default_rng(g.seed).integers(-9, 10, g.x_shape).astype(float)
    S = second_moment(x, g.kernel, **g.options)
    truth = loops.second_moment(x.astype(int).tolist(), g.kernel, **g.options)
    assert_same(S, truth)  # the sums are integers, and their quotients are rounded correctly
    assert np.array_equal(S, S.T)


@law("second_moment.order", "second_moment.blocks")
@settings(max_examples=30)
@given(geometries(), st.integers(1, 400))
def test_neither_the_order_of_images_nor_the_blocks_show(g, size):
    x = np.random.default_rng(g.seed).integers(-9, 10, g.x_shape).astype(float)
    S = second_moment(x, g.kernel, **g.options)
    assert np.array_equal(second_moment(x[::-1], g.kernel, **g.options), S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "_BLOCK_BYTES", size)
        assert np.array_equal(second_moment(x, g.kernel, **g.options), S)


@law("second_moment.loops")
@settings(max_examples=20)
@given(geometries(paddings=("numbers", "valid"), axes=(2,)))
def test_second_moment_agrees_with_the_patches_of_pytorch(g):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(g.seed).integers(-9, 10, g.x_shape).astype(float)
    options = g.options if g.options["padding"] != "valid" else {**g.options, "padding": 0}
    patches = torch.nn.functional.unfold(torch.tensor(x), g.kernel, **options).numpy()
    S = np.einsum("npl,nql->pq", patches, patches) / (len(x) * patches.shape[2])
    assert np.array_equal(second_moment(x, g.kernel, **g.options), S)


@law("second_moment.outputs", "second_moment.order", "output_error.outputs")
@settings(max_examples=15)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 8)),
    st.tuples(*[st.sampled_from([1, 5, 17, 30])] * 2),
    st.integers(1, 3),
    st.integers(1, 3),
    seeds,
)
def test_moments_of_large_layers_give_the_size_of_their_outputs(images, size, side, stride, seed):
    rng = np.random.default_rng(seed)
    options = {"stride": stride, "padding": side // 2}
    x = rng.integers(-9, 10, (*images, *size)).astype(float)
    W = rng.integers(-9, 10, (11, images[1], side, side)).astype(float)
    S, X = second_moment(x, side, **options), kernel_to_tensor(W)
    assert np.array_equal(S, second_moment(rng.permutation(x), side, **options))
    y = dense(x, W, **options)
    mean = (y**2).sum(axis=1).mean()
    M = unfold(X, 0)
    assert np.isclose(np.trace(M @ S @ M.T), mean, rtol=1e-12)
    half = CP([X.reshape(len(X), -1) / 2, np.eye(X[0].size)])  # half of the kernel, as a matrix
    if y.any():
        assert np.isclose(output_error(X.reshape(len(X), -1), half, S), 0.5, rtol=1e-12)


def test_second_moment_takes_little_memory_beside_its_result():
    x = np.ones((40, 8, 64, 64), np.float32)  # patches take 45 MB
    tracemalloc.start()
    S = second_moment(x, 3, padding=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert S.dtype == np.float64


# --- output error ---------------------------------------------------------------------------------


@law("output_error.outputs")
@given(geometries(), st.integers(1, 3))
@example(  # the filters cancel all that they see, and the moment, a mean of three, is rounded
    Geometry(
        images=(1, 3),
        size=(1, 1),
        outputs=1,
        kernel=(1, 3),
        options={"stride": 1, "padding": (0, 2, 2, 0), "dilation": 1},
        seed=731203,
    ),
    1,
)
def test_output_error_is_that_of_the_layers_outputs(g, rank):
    rng = np.random.default_rng(g.seed)
    x, W = (rng.integers(-9, 10, shape).astype(float) for shape in (g.x_shape, g.W_shape))
    X = kernel_to_tensor(W)
    cp = CP([rng.integers(-3, 4, (side, rank)) for side in X.shape], rng.integers(1, 4, rank))
    y = dense(x, W, **g.options)
    change = y - dense(x, reconstruct(cp).reshape(W.shape), **g.options)
    found = output_error(X, cp, second_moment(x, g.kernel, **g.options))
    size = np.linalg.norm(y)
    if size > 0:
        assert np.isclose(found, np.linalg.norm(change) / size, rtol=1e-9, atol=1e-9)
    else:
        assert found == (np.inf if change.any() else 0)


@law("output_error.outputs", "output_error.identity", "output_error.scale")
@given(shapes, seeds, st.integers(1, 3), kinds)
def test_output_error_is_exact_on_integers_and_free_of_scale(shape, seed, rank, kind):
    X, factors, S = integer_case(seed, shape, rank, kind)
    cp, total = CP(factors), squared(X, S)
    found = output_error(X, cp, S)
    if total > 0:
        change = squared(X - reconstruct(cp), S)
        assert np.isclose(found, np.sqrt(change / total), rtol=1e-15, atol=0)
    assert output_error(X, cp, S * 2.0**-40) == found
    plain, error = output_error(X, cp, np.eye(len(S))), relative_error(X, cp)
    assert plain == error or np.isclose(plain, error, rtol=1e-14, atol=0)


@law("output_error.scale")
@given(shapes, seeds, kinds, st.integers(-48, 48), st.integers(3, 99))
def test_only_the_shape_of_the_moment_matters(shape, seed, kind, power, factor):
    X, S = real_case(seed, shape, kind)
    cp = random_cp(shape, 2, rng=seed)
    found = output_error(X, cp, S)
    assert output_error(X, cp, S * 4.0**power) == found
    for other in (2 * 4.0**power, factor / 7):  # roots of these are rounded in another place
        same = output_error(X, cp, S * other)
        assert found == same or np.isclose(found, same, rtol=1e-9, atol=1e-12)


def test_zero_outputs_are_defined():
    one, zero = CP([[[1.0]], [[1.0], [1.0]]]), CP([[[0.0]], [[1.0], [1.0]]])
    dead = np.diag([1.0, 0.0])
    assert output_error([[0.0, 3.0]], zero, dead) == 0
    assert output_error([[0.0, 3.0]], one, dead) == np.inf
    assert output_error([[1.0, 3.0]], one, dead) == 0
    assert output_error([[1.0, 3.0]], one, np.zeros((2, 2))) == 0


# --- the problems ---------------------------------------------------------------------------------


@law("output_normal.loops")
@settings(max_examples=40)
@given(shapes, seeds, st.integers(1, 3), kinds, st.data())
def test_problems_equal_loops_over_the_definition(shape, seed, rank, kind, data):
    X, factors, S = integer_case(seed, shape, rank, kind)
    mode = data.draw(st.integers(0, len(shape) - 1))
    row = data.draw(st.integers(0, shape[mode] - 1))
    F, G = output_normal(X, factors, S, mode, row=row if mode else None)
    lists = [A.tolist() for A in factors]
    linear, quadratic = loops.output_row(X.tolist(), lists, S.tolist(), mode, row)
    assert_same(F[0 if mode else row], linear)
    assert_same(G, quadratic)


@law("output_normal.form")
@given(shapes, seeds, st.integers(1, 3), kinds, st.data())
def test_the_form_is_the_squared_output_error_up_to_a_constant(shape, seed, rank, kind, data):
    X, factors, S = integer_case(seed, shape, rank, kind)
    mode = data.draw(st.integers(0, len(shape) - 1))
    row = data.draw(st.integers(0, shape[mode] - 1)) if mode else None
    F, G = output_normal(X, factors, S, mode, row=row)
    constants = set()
    for values in np.random.default_rng([seed, 71]).integers(-4, 5, (3, *F.shape)):
        changed = [A.copy() for A in factors]
        changed[mode][slice(None) if row is None else [row]] = values
        D = (X - reconstruct(CP(changed))).reshape(len(X), -1)
        constants.add((D @ S * D).sum() - (values @ G * values).sum() + 2 * (values * F).sum())
    assert len(constants) == 1


@law("output_normal.identity")
@given(shapes, seeds, st.integers(1, 4), st.data())
def test_with_the_identity_they_are_mttkrp_and_gram(shape, seed, rank, data):
    X, factors, S = integer_case(seed, shape, rank, "regular")
    mode = data.draw(st.integers(0, len(shape) - 1))
    row = data.draw(st.integers(0, shape[mode] - 1)) if mode else None
    F, G = output_normal(X, factors, np.eye(len(S)), mode, row=row)
    assert np.array_equal(F, mttkrp(X, factors, mode)[slice(None) if row is None else [row]])
    assert np.array_equal(G, gram(factors, mode))


def test_no_codes_of_the_first_factor_are_below_the_bound():
    grid = Grid(2)
    for seed in range(5):
        X, S = real_case(seed, (2, 3, 2))
        cp = polish_output(X, quantize_cp(random_cp(X.shape, 2, rng=seed), grid), S).cp
        F, G = output_normal(X, cp.dequantize().factors, S)
        found = solve_rows(F, G, grid, cp.scales[0], method="sphere", start=cp.codes[0])
        assert found.proved.all()
        levels = cp.scales[0] * np.arange(grid.qmin, grid.qmax + 1)
        for i, bound in enumerate(found.bound):
            forms = [v @ G @ v - 2 * F[i] @ v for v in map(np.array, product(levels, repeat=2))]
            assert np.isclose(min(forms), bound, rtol=1e-9, atol=1e-9)


def gptq(W, S, scale, low, high):
    """Return the codes of GPTQ as published: one input after the other, the rest compensating."""
    W, codes = W.copy(), np.zeros(W.shape)
    U = np.linalg.cholesky(np.linalg.inv(S)).T
    for p in range(len(S)):
        codes[:, p] = np.clip(np.rint(W[:, p] / scale[:, 0]), low, high)
        error = (W[:, p] - codes[:, p] * scale[:, 0]) / U[p, p]
        W[:, p:] -= np.outer(error, U[p, p:])
    return codes


def test_gptq_is_the_nearest_plane_on_a_kernel_that_is_not_factorized():
    grid = Grid(2)
    for seed in range(20):
        rng = np.random.default_rng([seed, 73])
        W, S = rng.standard_normal((4, 6)), moment(rng, 6)
        scale = choose_scale(W, grid, axis=0).scale
        back = slice(None, None, -1)  # the last input is decided first
        F, G = output_normal(W[:, back], [W[:, back], np.eye(6)], S[back, back])
        found = solve_rows(F, G, grid, scale, method="babai", order="natural")
        assert np.array_equal(found.codes[:, back], gptq(W, S, scale, grid.qmin, grid.qmax))
        # its objective and the error of the kernel that it makes are the same thing
        Q = CP([dequantize(found.codes, scale, grid=grid), np.eye(6)])
        total = np.trace(W @ S @ W.T)
        error = output_error(W[:, back], Q, S[back, back])
        assert np.isclose(error**2, 1 + found.objective.sum() / total, rtol=1e-9)


# --- float factors --------------------------------------------------------------------------------


@law("output_als.falls")
@given(shapes, seeds, st.integers(1, 4), kinds)
def test_float_fits_never_lose_output_error(shape, seed, rank, kind):
    X, S = real_case(seed, shape, kind)
    fit = output_als(X, random_cp(shape, rank, rng=seed), S, max_sweeps=6, tol=0.0)
    if fit.stop_reason != "zero output":
        assert_falls(fit.history, 10 * rounding_level(X, S, fit.cp))
    assert fit.output_error == output_error(X, fit.cp, S)
    assert fit.error == relative_error(X, fit.cp)


@law("output_als.sweep")
@settings(max_examples=15)
@given(st.sampled_from([(3, 2, 2), (2, 3), (1, 2, 3), (2, 1, 2)]), seeds, st.integers(1, 2))
def test_first_float_sweep_equals_plain_loops_on_rational_numbers(shape, seed, rank):
    X, S = real_case(seed, shape)
    start = CP([np.round(8 * A) / 8 + 1 for A in random_cp(shape, rank, rng=seed).factors])
    normals = [output_normal(X, start.factors, S)[1]]
    fit = output_als(X, start, S, max_sweeps=1)
    normals += [output_normal(X, fit.cp.factors, S, 1, row=j)[1] for j in range(shape[1])]
    assume(max(map(np.linalg.cond, normals)) < 1e6)  # exact elimination needs regular matrices
    truth = loops.output_sweep(exact(X), [exact(A) for A in start.factors], exact(S))
    dense_truth = np.array(loops.reconstruct(truth), dtype=float)
    assert np.allclose(reconstruct(fit.cp), dense_truth, rtol=1e-7, atol=1e-7 * abs(X).max())


@law("output_als.identity")
@settings(max_examples=40)
@given(shapes, seeds, st.integers(1, 3), st.integers(1, 3))
def test_with_the_identity_float_sweeps_are_those_of_als(shape, seed, rank, sweeps):
    X, S = real_case(seed, shape)
    start = random_cp(shape, rank, rng=seed)
    fit = output_als(X, start, np.eye(len(S)), max_sweeps=sweeps, tol=0.0)
    plain = cp_als(X, rank, init=start, max_sweeps=len(fit.history) - 1, stop="none")
    if fit.stop_reason != "zero output" and not plain.history.singular.any():
        assert np.allclose(reconstruct(fit.cp), reconstruct(plain.cp), atol=1e-6 * abs(X).max())


@law("output_als.fitted")
@given(shapes, seeds, kinds)
def test_a_tensor_of_that_rank_stays_fitted(shape, seed, kind):
    truth = random_cp(shape, 2, rng=seed)
    _, S = real_case(seed, shape, kind)
    X = reconstruct(truth)
    fit = output_als(X, truth, S, max_sweeps=3)
    assert fit.stop_reason == "zero output" or fit.output_error**2 <= rounding_level(X, S)


def test_the_rows_of_dead_inputs_stay_and_so_do_their_codes():
    start = random_cp((4, 3, 2), 2, rng=4)
    S = np.kron(np.diag([1.0, 0.0, 2.0]), np.eye(2))  # the second input channel is dead
    assert output_als(reconstruct(start), start, S, max_sweeps=3).error < 1e-12
    q = quantize_cp(start, Grid(3))
    fit = polish_output(np.random.default_rng(3).standard_normal(q.shape), q, S)
    assert np.array_equal(fit.cp.codes[1][1], q.codes[1][1])
    assert fit.stop_reason == "converged"


# --- codes ----------------------------------------------------------------------------------------


def quantized(seed, shape, rank, grid, axis):
    return quantize_cp(random_cp(shape, rank, rng=seed), grid, axis=axis)


@law("polish_output.falls", "polish_output.grid")
@settings(max_examples=50)
@given(shapes, seeds, st.integers(1, 3), grids, axes, kinds)
def test_codes_never_lose_output_error_and_stay_on_their_grid(shape, seed, rank, grid, axis, kind):
    X, S = real_case(seed, shape, kind)
    start = quantized(seed, shape, rank, grid, axis)
    fit = polish_output(X, start, S)
    assert fit.cp.grid == grid
    assert [s.shape for s in fit.cp.scales] == [s.shape for s in start.scales]
    cp = fit.cp.dequantize()
    for k, s, A in zip(fit.cp.codes, fit.cp.scales, cp.factors, strict=True):
        assert np.array_equal(quantize(A, grid, s), k)
    if fit.stop_reason != "zero output":
        assert_falls(fit.history, rounding_level(X, S, cp))
    assert fit.history[0] == output_error(X, start.dequantize(), S)
    assert fit.output_error == output_error(X, cp, S)
    assert fit.error == relative_error(X, cp)


@law("polish_output.one-opt")
@settings(max_examples=20)
@given(shapes, seeds, st.integers(1, 2), grids, axes, kinds)
def test_where_it_converged_no_single_code_can_be_changed(shape, seed, rank, grid, axis, kind):
    X, S = real_case(seed, shape, kind)
    fit = polish_output(X, quantized(seed, shape, rank, grid, axis), S)
    if fit.stop_reason != "converged":
        return
    q = fit.cp
    codes = [k for k in range(grid.qmin, grid.qmax + 1) if grid.kind != "binary" or k]
    for mode, k in enumerate(q.codes):
        for index in np.ndindex(k.shape):
            for code in set(codes) - {k[index]}:
                other = [c.copy() for c in q.codes]
                other[mode][index] = code
                changed = QuantizedCP(other, q.scales, grid).dequantize()
                errors = np.array([output_error(X, changed, S), fit.output_error])
                assert_falls(errors, rounding_level(X, S, changed))


@law("polish_output.falls", "polish_output.grid", "polish_output.one-opt", "output_als.falls")
@settings(max_examples=10)
@given(
    st.sampled_from([(7, 5, 6), (16, 5, 4), (1, 9, 5), (12, 20), (6, 5, 3, 2)]),
    seeds,
    st.integers(1, 5),
    grids,
    axes,
    kinds,
)
def test_larger_layers_keep_the_laws_of_small_ones(shape, seed, rank, grid, axis, kind):
    X, S = real_case(seed, shape, kind)
    plain = output_als(X, random_cp(shape, rank, rng=seed), S, max_sweeps=3)
    fit = polish_output(X, quantize_cp(plain.cp, grid, axis=axis), S, max_sweeps=20)
    q = fit.cp
    if fit.stop_reason == "zero output":
        return
    assert_falls(plain.history, 10 * rounding_level(X, S, plain.cp))
    assert_falls(fit.history, rounding_level(X, S, q.dequantize()))
    for k, s, A in zip(q.codes, q.scales, q.dequantize().factors, strict=True):
        assert np.array_equal(quantize(A, grid, s), k)
    rng = np.random.default_rng(seed)
    for mode in rng.integers(0, len(shape), 20 * (fit.stop_reason == "converged")):
        other = [c.copy() for c in q.codes]
        index = tuple(rng.integers(0, other[mode].shape))
        other[mode][index] = rng.choice([grid.qmin, grid.qmax])
        changed = QuantizedCP(other, q.scales, grid).dequantize()
        errors = np.array([output_error(X, changed, S), fit.output_error])
        assert_falls(errors, rounding_level(X, S, changed))


@law("polish_output.sweep")
@settings(max_examples=25)
@given(
    st.sampled_from([(2, 2, 2), (3, 2), (1, 2, 3), (2, 1, 2)]),
    seeds,
    st.integers(1, 2),
    st.sampled_from([Grid(2), Grid(2, mid_rise=True), Grid(1, kind="binary")]),
    axes,
    kinds,
)
def test_first_sweep_of_codes_equals_loops_that_try_every_code(shape, seed, rank, grid, axis, kind):
    X, S = real_case(seed, shape, kind)
    start = quantized(seed, shape, rank, grid, axis)
    fit = polish_output(X, start, S, max_sweeps=1)
    if fit.stop_reason == "zero output":
        return
    options = {"bits": grid.bits, "mid_rise": grid.mid_rise, "kind": grid.kind}
    codes, factors = loops.output_polish(
        exact(X),
        [k.tolist() for k in start.codes],
        [exact(s) for s in start.scales],
        exact(S),
        options,
    )
    for found, truth in zip(fit.cp.codes, codes, strict=True):
        assert found.tolist() == truth
    for found, truth in zip(fit.cp.dequantize().factors, factors, strict=True):
        assert np.allclose(found, np.array(truth, dtype=float), rtol=1e-8, atol=1e-12)


@law("polish_output.identity")
@settings(max_examples=30)
@given(shapes, seeds, st.integers(1, 3), grids, axes)
def test_with_the_identity_it_is_the_plain_descent(shape, seed, rank, grid, axis):
    X, S = real_case(seed, shape)
    start = quantized(seed, shape, rank, grid, axis)
    fit, plain = polish_output(X, start, np.eye(len(S))), polish(X, start)
    if X.any():  # the two stop by different rules, so one of them may go on for longer
        other = polish(X * (1 + 1e-9) + 1e-9, start).history.error
        both = min(len(fit.history) - 1, len(plain.history.error), len(other))
        # a tie that rounding may decide either way is no disagreement
        assume(np.allclose(other[:both], plain.history.error[:both], rtol=1e-6, atol=1e-8))
        history = fit.history[1 : both + 1], plain.history.error[:both]
        assert np.allclose(*history, rtol=1e-6, atol=1e-9)
        assert abs(fit.error - plain.error) <= 1e-3 * plain.error + 1e-6


def colored(seed, shape=(8, 6, 9), decay=0.7):
    """Return a random tensor and the second moment of strongly correlated inputs."""
    rng = np.random.default_rng([seed, 79])
    size = prod(shape[1:])
    S = decay ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return rng.standard_normal(shape), S


def test_the_output_gains_what_the_kernel_pays():
    for seed in range(3):
        X, S = colored(seed, decay=0.95)
        plain = polish(X, quantize_cp(cp_als(X, 6, rng=seed).cp, Grid(4))).cp
        fit = polish_output(X, plain, S)
        assert fit.output_error < 0.8 * fit.history[0]
        assert fit.error > relative_error(X, plain.dequantize())


def test_the_scale_of_components_that_cancel_is_kept():
    # Two equal components whose Gram matrix differs by one rounding, with opposite codes.
    G = np.ones((2, 2)) - (1 - np.eye(2)) * 2.0**-53
    for scale in (np.array(0.5), np.array([[0.5]])):
        kept = refit_scale([[2.0**-50, 0.0]], G, [[1, -1]], Grid(3), scale)
        assert np.array_equal(kept, scale) and kept.shape == scale.shape


def test_fortran_ordered_and_wide_codes_are_fine():
    X, S = colored(1, (4, 3, 2))
    start = quantized(2, X.shape, 2, Grid(10), None)
    turned = QuantizedCP([np.asfortranarray(k) for k in start.codes], start.scales, start.grid)
    one, two = polish_output(X, start, S), polish_output(X, turned, S)
    assert all(np.array_equal(p, q) for p, q in zip(one.cp.codes, two.cp.codes, strict=True))
    assert one.cp.codes[0].dtype == np.int16


def test_reasons_for_stopping():
    X, S = colored(3, (4, 3, 2))
    start = quantized(4, X.shape, 2, Grid(4), None)
    seen = []
    stopped = polish_output(X, start, S, callback=lambda n, e: seen.append((n, e)))
    assert stopped.stop_reason == "converged"
    assert [e for _, e in seen] == list(stopped.history[1:])
    assert polish_output(X, start, S, max_sweeps=1).stop_reason == "max_sweeps"
    assert polish_output(X, start, S, callback=lambda n, e: True).stop_reason == "callback"
    assert output_als(X, start.dequantize(), S, tol=1.0).stop_reason == "converged"
    zero = polish_output(np.zeros(X.shape), start, S)
    assert (zero.stop_reason, zero.output_error) == ("zero output", np.inf)
    silent = polish_output(X, start, np.zeros_like(S))
    assert (silent.stop_reason, silent.output_error) == ("zero output", 0.0)
    assert silent.error == relative_error(X, start.dequantize())


# --- bad input ------------------------------------------------------------------------------------


def test_bad_second_moments_are_refused():
    X, cp = np.ones((2, 3)), CP([np.ones((2, 1)), np.ones((3, 1))])
    for S, message in (
        (np.eye(2), r"^S: expected shape \(3, 3\)"),
        (np.ones(3), r"^S: expected 2 axes"),
        (np.triu(np.ones((3, 3))), r"^S: .* not symmetric"),
        (-np.eye(3), r"^S: .* a negative diagonal"),
        (np.eye(3) - 0.5, r"^S: .* a negative eigenvalue"),
        (1.0 - np.eye(3), r"^S: .* a negative eigenvalue"),
        (np.eye(3) * np.nan, r"^S: expected finite"),
        (np.eye(3) * 1e60, r"^S: expected a largest magnitude"),
    ):
        for call in (
            lambda S: output_error(X, cp, S),
            lambda S: output_normal(X, cp.factors, S),
            lambda S: output_als(X, cp, S),
            lambda S: polish_output(X, quantize_cp(cp, Grid(4)), S),
        ):
            with pytest.raises(ValueError, match=message):
                call(S)
    for x, options, message in (
        (np.ones((2, 3)), {}, r"^x: expected 3 to 5 axes"),
        (np.ones((1, 1, 2)), {"kernel_size": 3}, r"^x: expected a padded width"),
        (np.ones((1, 1, 2)), {"stride": 0}, r"^stride: expected at least 1"),
        (np.full((1, 1, 2), np.inf), {}, r"^x: expected finite"),
        (np.full((1, 1, 2), 1e100), {}, r"^x: expected a largest magnitude"),
    ):
        with pytest.raises(ValueError, match=message):
            second_moment(x, options.pop("kernel_size", 1), **options)


def test_other_bad_input_is_refused():
    X, cp, S = np.ones((2, 3)), CP([np.ones((2, 1)), np.ones((3, 1))]), np.eye(3)
    q = quantize_cp(cp, Grid(4))
    for call, error, message in (
        (lambda: output_error(X, q, S), TypeError, r"^cp: expected a CP"),
        (lambda: output_error(X.T, cp, np.eye(2)), ValueError, r"^cp: expected shape \(3, 2\)"),
        (lambda: output_als(X, X, S), TypeError, r"^cp: expected a CP"),
        (lambda: output_als(X, cp, S, tol=-1.0), ValueError, r"^tol: expected at least 0"),
        (
            lambda: output_als(X, cp, S, max_sweeps=0),
            ValueError,
            r"^max_sweeps: expected at least 1",
        ),
        (lambda: polish_output(X, cp, S), TypeError, r"^cp: expected a QuantizedCP"),
        (
            lambda: polish_output(X, q, S, max_sweeps=0),
            ValueError,
            r"^max_sweeps: expected at least",
        ),
        (lambda: polish_output(X.T, q, np.eye(2)), ValueError, r"^cp: expected shape \(3, 2\)"),
        (
            lambda: polish_output(X, quantize_cp(cp, Grid(4, kind="log2")), S),
            ValueError,
            r"^grid: expected levels in equal steps",
        ),
        (
            lambda: output_normal(X, cp.factors, S, 1),
            ValueError,
            r"^row: expected a row for mode 1",
        ),
        (lambda: output_normal(X, cp.factors, S, row=0), ValueError, r"^row: expected None"),
        (lambda: output_normal(X, cp.factors, S, 1, row=3), ValueError, r"^row: expected 0 to 2"),
        (lambda: output_normal(X, cp.factors, S, 2, row=0), ValueError, r"^mode: expected 0 to 1"),
        (lambda: output_normal(X, cp.factors[:1], S), ValueError, r"^factors: expected at least 2"),
    ):
        with pytest.raises(error, match=message):
            call()


@law("output_error.range")
@given(seeds, st.lists(st.integers(-900, 900), min_size=3, max_size=3))
def test_output_error_takes_approximations_of_any_magnitude(seed, powers):
    cp, rng = random_cp((2, 3, 2), 2, rng=seed), np.random.default_rng(seed)
    X, S = rng.standard_normal((2, 3, 2)), moment(rng, 6)
    moved = CP([np.ldexp(A, e) for A, e in zip(cp.factors, powers, strict=True)])
    total = sum(powers)
    if total <= 300:  # all of it in one factor instead, where nothing leaves the range
        first, *rest = cp.factors
        other = CP([np.ldexp(first, max(total, -1000)), *rest])
        assert np.isclose(output_error(X, moved, S), output_error(X, other, S), rtol=1e-12)
    elif total > 1100:
        with pytest.raises(ValueError, match="exceeds the range"):
            output_error(X, moved, S)


@law("output_normal.scale")
@given(seeds, st.integers(-500, 500), st.integers(-480, 480), st.integers(0, 2))
@example(0, 500, 480, 0)
@example(0, 500, -480, 1)
def test_output_normal_takes_columns_of_any_length(seed, first, both, mode):
    rng = np.random.default_rng(seed)
    X, S = rng.standard_normal((2, 3, 2)), moment(rng, 6)
    factors = [rng.standard_normal((side, 2)) for side in X.shape]
    others = [n for n in range(3) if n != mode]
    moved = list(factors)
    for n, power in zip(others, (first, both - first), strict=True):
        moved[n] = np.ldexp(factors[n], power)
    moved[mode] = np.ldexp(factors[mode], -both)  # the tensor stays the same
    row = None if mode == 0 else 1
    F, G = output_normal(X, factors, S, mode, row=row)
    F_moved, G_moved = output_normal(X, moved, S, mode, row=row)
    assert np.array_equal(F_moved, np.ldexp(F, both))
    assert np.array_equal(G_moved, np.ldexp(G, 2 * both))


def test_output_functions_take_or_refuse_factors_far_from_one():
    rng = np.random.default_rng(3)
    cp, S = random_cp((3, 2, 2), 2, rng=1), np.eye(4)
    X = reconstruct(cp) + 0.1 * rng.standard_normal((3, 2, 2))
    moved = CP([np.ldexp(A, e) for A, e in zip(cp.factors, (900, -1000, 100), strict=True)])
    same, plain = output_als(X, moved, S, max_sweeps=5), output_als(X, cp, S, max_sweeps=5)
    assert np.allclose(same.history, plain.history, rtol=1e-6)
    codes = quantize_cp(cp, Grid(4)).codes
    with pytest.raises(ValueError, match=r"^cp: expected factors whose squares float64"):
        polish_output(X, QuantizedCP(codes, [1e200, 1e-200, 1.0], Grid(4)), S)
    with pytest.raises(ValueError, match=r"^factors: the result exceeds"):
        output_normal(
            X, [A * s for A, s in zip(cp.factors, (1, 1e200, 1e200), strict=True)], S, 1, row=0
        )


# --- limits, stops and what is zero up to rounding ------------------------------------------------


def test_second_moments_may_be_off_by_their_rounding_and_no_more():
    X, cp = np.ones((2, 3)), CP([np.ones((2, 1)), np.ones((3, 1))])
    off = np.array([[0, 1.0, 0], [0, 0, 0], [0, 0, 0]])
    for size in (1.0, 2.0**30, 2.0**-30):
        S = size * np.eye(3)
        allowed = 1e-10 * np.trace(S)
        assert output_error(X, cp, S + 0.5 * allowed * off) == 0
        with pytest.raises(
            ValueError, match=r"^S: expected .*, got one that is not symmetric; use"
        ):
            output_error(X, cp, S + 2 * allowed * off)
        flat = size * np.ones((3, 3))
        assert output_error(X, cp, flat - 0.5 * allowed * np.eye(3)) == 0
        with pytest.raises(ValueError, match=r"^S: expected .*, got a negative eigenvalue; use"):
            output_error(X, cp, flat - 2 * allowed * np.eye(3))
        with pytest.raises(
            ValueError, match=r"^S: expected .*, got a negative diagonal entry; use"
        ):
            output_error(X, cp, size * np.diag([1.0, -1.0, 1.0]))
    for end, beyond in ((2.0**150, 1.001), (2.0**-150, 0.999)):
        assert output_error(X, cp, end * np.eye(3)) == 0
        with pytest.raises(ValueError, match=r"^S: expected a largest magnitude"):
            output_error(X, cp, end * beyond * np.eye(3))
        x = np.array([[[0.0, -np.sqrt(end)]]])
        assert second_moment(x, 1) == end / 2
        with pytest.raises(ValueError, match=r"^x: expected a largest magnitude"):
            second_moment(x * beyond, 1)
    assert second_moment(np.zeros((1, 1, 2)), 1) == 0


@given(seeds, st.integers(-60, 60), st.integers(-40, 40), st.sampled_from([1, -1]))
def test_inputs_that_cancel_count_as_zero_at_any_scale(seed, power, length, sign):
    rng = np.random.default_rng([seed, 83])
    v, w = rng.standard_normal((2, 6))
    w -= v * (v @ w) / (v @ v)  # what these inputs cancel, up to rounding
    w *= sign * 2.0**length
    S = np.outer(v, v) * 2.0**power
    silent, loud = CP([[[1.0]], w[:, None]]), CP([[[1.0]], (w + 0.01 * abs(w).max() * v)[:, None]])
    assert output_error(w[None], loud, S) == np.inf
    assert output_error(2 * w[None], silent, S) == 0
    assert 0 < output_error(reconstruct(loud), silent, S) < np.inf
    columns = np.stack([w, w + 0.01 * abs(w).max() * v], axis=1)
    _, G = output_normal(v[None], [[[1.0, 1.0]], columns], S)
    assert G[0].tolist() == G[:, 0].tolist() == [0, 0] and G[1, 1] > 0


@given(shapes, seeds, st.integers(1, 3), kinds)
def test_signs_and_powers_of_two_do_not_change_the_error(shape, seed, rank, kind):
    X, factors, S = integer_case(seed, shape, rank, kind)
    first, *rest = factors
    found = output_error(X, CP(factors), S)
    for share in (-1.0, 2.0**-40, -(2.0**40)):
        assert output_error(share * X, CP([share * first, *rest]), S) == found


@pytest.mark.parametrize("mode", [0, 1])
def test_a_sweep_that_changed_a_code_is_never_the_last_one(mode):
    # The first row of a factor is so small that its codes hardly show in the error.
    cp, S, tiny = random_cp((3, 3), 2, rng=3), np.diag([1.0, 2.0, 3.0]), 2.0**-40
    small = [A.copy() for A in cp.factors]
    small[mode][0] *= tiny
    start = quantize_cp(CP(small), Grid(4), axis=0)
    X = reconstruct(CP(small))
    done = polish_output(X, start, S).cp
    codes = [k.copy() for k in done.codes]
    codes[mode][0] = np.clip(-codes[mode][0], -8, 7)
    fit = polish_output(X, QuantizedCP(codes, done.scales, done.grid), S)
    assert not np.array_equal(fit.cp.codes[mode][0], codes[mode][0])
    assert abs(fit.history[0] - fit.history[1]) < 1e-12  # and yet it goes on
    assert fit.stop_reason == "converged" and len(fit.history) >= 3


def test_a_sweep_that_gained_by_scales_alone_is_not_the_last_one():
    X, S = colored(5, (4, 3, 2))
    done = polish_output(X, quantized(6, X.shape, 2, Grid(4), None), S).cp
    apart = QuantizedCP(done.codes, [done.scales[0] * 1.001, *done.scales[1:]], done.grid)
    fit = polish_output(X, apart, S)
    assert all(np.array_equal(p, q) for p, q in zip(fit.cp.codes, done.codes, strict=True))
    assert fit.history[1] < fit.history[0] * (1 - 1e-9)
    assert fit.stop_reason == "converged" and len(fit.history) == 3


def test_defaults_and_limits_of_sweeps():
    X, S = colored(7, (4, 3, 2))
    start = random_cp(X.shape, 2, rng=8)
    plain = output_als(X, start, S)
    same = output_als(X, start, S, max_sweeps=200, tol=1e-8, callback=None)
    assert np.array_equal(plain.history, same.history) and len(plain.history) > 4
    assert plain.history[-2] - plain.history[-1] <= 1e-8 < plain.history[-3] - plain.history[-2]
    one = output_als(X, start, S, max_sweeps=1, tol=0.0)
    assert (one.stop_reason, len(one.history)) == ("max_sweeps", 2)
    q = quantize_cp(start, Grid(2))
    both = polish_output(X, q, S), polish_output(X, q, S, max_sweeps=200)
    assert np.array_equal(both[0].history, both[1].history)
    for call in (
        lambda **options: output_als(X, start, S, **options),
        lambda **options: polish_output(X, q, S, **options),
    ):
        seen = []
        fit = call(callback=lambda n, e, seen=seen: seen.append((n, e)) or n == 1)
        assert fit.stop_reason == "callback" and [n for n, _ in seen] == [0, 1]
        assert [e for _, e in seen] == fit.history[1:].tolist()
        with pytest.raises(ValueError, match=r"^max_sweeps: expected at least 1"):
            call(max_sweeps=0)
    with pytest.raises(ValueError, match=r"^tol: expected at least 0"):
        output_als(X, start, S, tol=-1e-9)


def test_results_that_are_too_large_are_refused_by_name():
    huge = [np.zeros((2, 1)), np.full((3, 1), 2.0**600), np.full((2, 1), 2.0**600)]
    S = np.eye(6)
    for X in (np.ones((2, 3, 2)), np.zeros((2, 3, 2))):  # of F and G, and of G alone
        with pytest.raises(ValueError, match=r"^X, factors, S: the result exceeds the range"):
            output_normal(X, huge, S)
    with pytest.raises(ValueError, match=r"^X, cp, S: the result exceeds the range"):
        output_error(np.full((1, 2), 2.0**-390), CP([[[2.0**900]], [[1.0], [1.0]]]), np.eye(2))
    for cp in (CP([np.ones((2, 1)), np.ones((2, 1))]), CP([np.ones((3, 1)), np.ones((3, 1))])):
        for call in (output_error, output_als):
            with pytest.raises(ValueError, match=r"^cp: expected shape \(2, 3\) to fit X, got"):
                call(np.ones((2, 3)), cp, np.eye(3))
        with pytest.raises(ValueError, match=r"^factors(\[\d\])?: expected"):
            output_normal(np.ones((2, 3)), cp.factors, np.eye(3))


# --- planted faults -------------------------------------------------------------------------------


def plain_output_normal(X, factors, S, mode=0, *, row=None):
    """Forms products of columns in float64."""
    with np.errstate(all="ignore"):
        _, F, G = next(output._problems(X, factors, S, mode, first=row or 0))
    return np.nan_to_num(F), np.nan_to_num(G)


def test_products_of_columns_in_float64_are_caught():
    test = test_output_normal_takes_columns_of_any_length
    assert caught(THIS, test, output_normal=plain_output_normal)


def summed_moment(x, kernel_size, **options):
    """Forgets to divide by the number of images."""
    return right.second_moment(x, kernel_size, **options) * len(x)


def entries_first(S, channels):
    """Order kernel entries before channels."""
    order = np.arange(len(S)).reshape(channels, -1).T.ravel()
    return S[np.ix_(order, order)]


def swapped_moment(x, kernel_size, **options):
    return entries_first(right.second_moment(x, kernel_size, **options), np.shape(x)[1])


def unpadded_moment(x, kernel_size, **options):
    """Leaves out the positions at the border."""
    try:
        return right.second_moment(x, kernel_size, **{**options, "padding": 0})
    except ValueError:
        return right.second_moment(x, kernel_size, **options)


def squared_error(X, cp, S):
    return right.output_error(X, cp, S) ** 2


def ridged_error(X, cp, S):
    """Adds the same to any moment."""
    return right.output_error(X, cp, S + np.eye(len(S)))


def uncoupled_normal(X, factors, S, mode=0, *, row=None):
    """Takes the rows of all factors for independent, as they are in the plain problem."""
    alone = [np.array(A) for A in factors]
    if mode:
        alone[mode][np.arange(len(alone[mode])) != row] = 0
    return right.output_normal(X, alone, S, mode, row=row)


def forgetful_normal(X, factors, S, mode=0, *, row=None):
    """Takes the gradient at the present row for the linear term."""
    F, G = right.output_normal(X, factors, S, mode, row=row)
    return (F - factors[mode][[row]] @ G if mode else F), G


def plain_als(X, cp, S, **options):
    """Fits the kernel and reports the output."""
    return right.output_als(X, cp, np.eye(len(S)), **options)


def jacobi_als(X, cp, S, *, max_sweeps, **options):
    """Solves for all rows of a factor from the same residual."""
    fit, factors = right.output_als(X, cp, S, max_sweeps=max_sweeps), list(cp.factors)
    errors = [fit.history[0]]
    for _ in range(max_sweeps):
        for mode, A in enumerate(factors):
            rows = range(len(A)) if mode else [None]
            problems = [right.output_normal(X, factors, S, mode, row=j) for j in rows]
            factors[mode] = np.vstack([als_update(F, G).factor for F, G in problems])
        errors.append(right.output_error(X, CP(factors), S))
    return fit._replace(cp=CP(factors), history=np.array(errors), output_error=errors[-1])


def plain_polish(X, cp, S, **options):
    """Improves the kernel instead of the output."""
    fit = right.polish_output(X, cp, S, **options)
    plain = right.polish(X, cp)
    error = right.output_error(X, plain.cp.dequantize(), S)
    return fit._replace(cp=plain.cp, error=plain.error, output_error=error)


def frozen_polish(X, cp, S, **options):
    """Keeps the scales."""
    fit = right.polish_output(X, cp, S, **options)
    kept = QuantizedCP(fit.cp.codes, cp.scales, cp.grid)
    return fit._replace(cp=kept, output_error=right.output_error(X, kept.dequantize(), S))


def stale_polish(X, cp, S, **options):
    """Says that the first sweep was the last one needed."""
    fit = right.polish_output(X, cp, S, max_sweeps=1)
    return fit._replace(stop_reason="converged")


def swapped_polish(X, cp, S, **options):
    return right.polish_output(X, cp, entries_first(S, np.shape(X)[1]), **options)


MEAN = test_mean_squared_output_of_any_kernel_is_its_form_in_the_second_moment


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (MEAN, {"second_moment": summed_moment}),
        (MEAN, {"second_moment": swapped_moment}),
        (MEAN, {"second_moment": unpadded_moment}),
        (
            test_second_moment_is_the_average_over_all_patches,
            {"second_moment": swapped_moment},
        ),
        (test_output_error_is_that_of_the_layers_outputs, {"output_error": squared_error}),
        (test_only_the_shape_of_the_moment_matters, {"output_error": ridged_error}),
        (
            test_moments_of_large_layers_give_the_size_of_their_outputs,
            {"second_moment": summed_moment},
        ),
        (test_larger_layers_keep_the_laws_of_small_ones, {"polish_output": stale_polish}),
        (test_problems_equal_loops_over_the_definition, {"output_normal": uncoupled_normal}),
        (
            test_the_form_is_the_squared_output_error_up_to_a_constant,
            {"output_normal": forgetful_normal},
        ),
        (test_with_the_identity_they_are_mttkrp_and_gram, {"output_normal": forgetful_normal}),
        (
            test_first_float_sweep_equals_plain_loops_on_rational_numbers,
            {"output_als": plain_als},
        ),
        (test_float_fits_never_lose_output_error, {"output_als": jacobi_als}),
        (
            test_first_sweep_of_codes_equals_loops_that_try_every_code,
            {"polish_output": frozen_polish},
        ),
        (
            test_first_sweep_of_codes_equals_loops_that_try_every_code,
            {"polish_output": swapped_polish},
        ),
        (test_where_it_converged_no_single_code_can_be_changed, {"polish_output": plain_polish}),
        (test_where_it_converged_no_single_code_can_be_changed, {"polish_output": stale_polish}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
