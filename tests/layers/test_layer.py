"""Laws and bad input of qcp_ref.layers.layer; its planted faults stand at the end."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import current_thread, main_thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import caught, law, seeds
from threadpoolctl import threadpool_info, threadpool_limits

import qcp_ref as right
from qcp_ref import (
    Grid,
    QuantizedCP,
    compress_conv,
    compress_linear,
    conv1d,
    conv2d,
    conv3d,
    cp_conv_bound,
    rank_for_rate,
    rounding_bound,
    second_moment,
)
from qcp_ref._threads import one_blas_thread

THIS = sys.modules[__name__]
methods = st.sampled_from(["als-round", "authors"])


def kernel(seed, shape=(4, 3, 3, 2)):
    return np.random.default_rng([seed, 41]).standard_normal(shape)


@law("CPConv.dense")
@settings(max_examples=25)
@given(
    seeds,
    st.tuples(st.integers(1, 5), st.integers(1, 4), *[st.integers(1, 3)] * 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    methods,
)
def test_forward_equals_the_dense_convolution_with_its_kernel(seed, shape, d, rank, stride, method):
    shape = shape[: 2 + d]
    W = kernel(seed, shape)
    bias = np.arange(float(shape[0]))
    layer = compress_conv(
        W, rank=rank, method=method, rng=seed, stride=stride, padding=1, bias=bias
    )
    x = np.random.default_rng([seed, 43]).standard_normal((2, shape[1], *(5, 4, 3)[:d]))
    conv = (conv1d, conv2d, conv3d)[d - 1]
    dense = conv(x, layer.kernel(), stride=stride, padding=1, bias=bias)
    options = {"kernel_size": shape[2:], "stride": stride, "padding": 1, "bias": bias}
    bound = cp_conv_bound(x, layer.cp.dequantize(), **options)
    assert (abs(layer.forward(x) - dense) <= bound).all()


@law("compress_conv.error", "compress_linear.error")
@settings(max_examples=25)
@given(seeds, st.integers(1, 4), methods)
def test_error_is_that_of_the_dense_kernel(seed, rank, method):
    W = kernel(seed)
    layer = compress_conv(W, rank=rank, method=method, rng=seed)
    assert np.isclose(
        layer.error, np.linalg.norm(W - layer.kernel()) / np.linalg.norm(W), rtol=1e-12
    )
    assert layer.error == layer.fit.error
    M = W[:, :, 0, 0]
    linear = compress_linear(M, rank=rank, method=method, rng=seed)
    expected = np.linalg.norm(M - linear.matrix()) / np.linalg.norm(M)
    assert np.isclose(linear.error, expected, rtol=1e-12)


@law("CPLinear.dense")
@settings(max_examples=25)
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_linear_forward_is_the_product_with_its_matrix(seed, rank, outputs):
    M = kernel(seed, (outputs, 5))
    bias = np.arange(float(outputs))
    layer = compress_linear(M, rank=rank, rng=seed, bias=bias)
    x = np.random.default_rng([seed, 47]).standard_normal((2, 3, 5))
    magnitude = abs(x) @ np.abs(layer.cp.dequantize().factors[1]) @ np.abs(
        layer.cp.dequantize().factors[0]
    ).T + abs(bias)
    bound = 2 * rounding_bound([5, rank + 3], magnitude)
    assert (abs(layer.forward(x) - (x @ layer.matrix().T + bias)) <= bound).all()


@law("CPConv.dense", "CPLinear.dense", "compress_conv.error", "compress_linear.error")
@settings(max_examples=15)
@given(
    st.sampled_from([(24, 16, 3, 3), (1, 30, 5, 1), (30, 1, 1, 1), (9, 8, 7), (6, 5, 3, 2, 3)]),
    st.sampled_from(["normal", "constant", "zero", "channels far apart", "sparse"]),
    st.sampled_from([-200, 0, 200]),
    st.integers(1, 8),
    st.sampled_from([1, 2, 3]),
    seeds,
)
def test_larger_and_hostile_kernels_make_layers_that_keep_the_laws(
    shape, kind, power, rank, stride, seed
):
    rng, W = np.random.default_rng(seed), kernel(seed, shape)
    if kind in ("constant", "zero"):
        W[:] = float(kind == "constant")
    if kind == "channels far apart":
        W *= 10.0 ** rng.integers(-8, 9, (shape[0], *[1] * (len(shape) - 1)))
    if kind == "sparse":
        W[rng.random(shape) < 0.9] = 0
    W, d = np.ldexp(W, power), len(shape) - 2
    options = {"rank": rank, "method": "als-round", "rng": seed}
    place = {"stride": stride, "padding": 2}
    layer = compress_conv(W, **options, **place)
    size = np.linalg.norm(W)
    if size:
        left = np.linalg.norm(W - layer.kernel()) / size
        assert np.isclose(layer.error, left, rtol=1e-9)
    else:
        assert layer.error == 0 and not layer.kernel().any()
    x = rng.standard_normal((2, shape[1], *(17, 12, 9)[:d]))
    dense = (conv1d, conv2d, conv3d)[d - 1](x, layer.kernel(), **place)
    bound = cp_conv_bound(x, layer.cp.dequantize(), kernel_size=shape[2:], **place)
    assert (abs(layer.forward(x) - dense) <= bound).all()
    M = W.reshape(len(W), -1)
    linear, rows = compress_linear(M, **options), rng.standard_normal((3, M.shape[1]))
    if size:
        left = np.linalg.norm(M - linear.matrix()) / size
        assert np.isclose(linear.error, left, rtol=1e-9)
    a_out, a_in = map(np.abs, linear.cp.dequantize().factors)
    allowed = 2 * rounding_bound([M.shape[1], rank + 3], abs(rows) @ a_in @ a_out.T)
    assert (abs(linear.forward(rows) - rows @ linear.matrix().T) <= allowed).all()


@law("compress_conv.threads")
@settings(max_examples=4)
@given(
    st.lists(st.tuples(seeds, st.integers(1, 4)), min_size=2, max_size=4),
    st.integers(2, 4),
    st.sampled_from(["als-round", "authors", "best", "sequential"]),
)
def test_any_number_of_threads_outside_gives_the_same_codes(jobs, threads, method):
    options = {"method": method, **({"sweeps": 5} if method == "best" else {})}

    def run(job):
        seed, rank = job
        return compress_conv(kernel(seed, (7, 6, 3, 2)), rank=rank, rng=seed, **options)

    serial = [run(job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        for a, b in zip(serial, pool.map(run, jobs), strict=True):
            assert all(np.array_equal(p, q) for p, q in zip(a.cp.codes, b.cp.codes, strict=True))
            assert all(np.array_equal(p, q) for p, q in zip(a.cp.scales, b.cp.scales, strict=True))
            assert a.error == b.error


@law("compress_conv.threads")
def test_same_codes_whatever_the_threads_outside():
    kernels = [kernel(seed, (12, 10, 3, 3)) for seed in range(3)]
    serial = [compress_conv(W, rate=2, rng=1) for W in kernels]
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(lambda W: compress_conv(W, rate=2, rng=1), kernels))
    for a, b in zip(serial, threaded, strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(a.cp.codes, b.cp.codes, strict=True))
        assert a.error == b.error


def test_overlapping_calls_share_one_blas_thread_and_give_it_back():
    def threads():
        # NumPy's own BLAS; SciPy brings another one, which the solvers do not use
        pools = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
        return {pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]}

    seen, W, before = [], kernel(1, (12, 10, 3, 3)), threads()

    def job(rank):
        compress_conv(W, rank=rank, callback=lambda *_: seen.append(threads()) or len(seen) > 99)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(job, (2, 3, 4)))
    assert threads() == before
    assert all(count <= {1} for count in seen)
    assert seen


def test_dilation_and_strides_per_axis_reach_the_convolution():
    W = kernel(9, (4, 3, 3, 2))
    options = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)}
    layer = compress_conv(W, rank=3, method="als-round", **options)
    x = np.random.default_rng(10).standard_normal((2, 3, 7, 6))
    assert np.allclose(layer.forward(x), conv2d(x, layer.kernel(), **options), rtol=0, atol=1e-12)


@law("compress_conv.moment")
@settings(max_examples=15)
@given(seeds, st.integers(1, 4), st.sampled_from([None, 0, 1]))
def test_a_second_moment_never_makes_the_error_of_the_output_larger(seed, rank, axis):
    W, place = kernel(seed), {"stride": (1, 2), "padding": 1}
    x = np.random.default_rng([seed, 49]).random((3, 3, 6, 5))
    S = second_moment(x, W.shape[2:], **place)
    options = {"rank": rank, "rng": seed, "axis": axis, "method": "als-round", **place}
    plain, stages = compress_conv(W, **options), set()
    layer = compress_conv(
        W, second_moment=S, callback=lambda stage, *_: stages.add(stage), **options
    )
    y = conv2d(x, W, **place)
    errors = [np.linalg.norm(each.forward(x) - y) / np.linalg.norm(y) for each in (layer, plain)]
    assert np.isclose(layer.output_error, errors[0], rtol=1e-9)
    assert errors[0] <= errors[1] * (1 + 1e-9)
    assert layer.fit.error == plain.error and plain.output_error is None
    assert np.isclose(layer.error, np.linalg.norm(W - layer.kernel()) / np.linalg.norm(W))
    assert stages == {"als", "output"}


def test_a_second_moment_improves_linear_layers_and_is_checked_first():
    M, x = kernel(4)[:, :, 0, 0], np.random.default_rng(5).random((50, 3))
    S = second_moment(x[:, :, None], 1)
    assert np.allclose(S, x.T @ x / 50, rtol=1e-13)
    layer = compress_linear(M, rank=2, method="als-round", second_moment=S)
    error = np.linalg.norm(layer.forward(x) - x @ M.T) / np.linalg.norm(x @ M.T)
    assert np.isclose(layer.output_error, error, rtol=1e-9)
    for moment, bits, message in (
        (np.eye(4), 4, r"^second_moment: expected shape \(3, 3\)"),
        (-np.eye(3), 4, r"^second_moment: .* a negative diagonal"),
        (S, Grid(4, kind="log2"), r"^bits: expected levels in equal steps"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_linear(M, rank=2, bits=bits, second_moment=moment, callback=lambda *_: 1 / 0)


def test_later_changes_of_the_callers_arrays_do_not_show():
    bias = np.zeros(4)
    layer = compress_conv(kernel(1), rank=2, method="als-round", bias=bias)
    before = layer.forward(np.ones((1, 3, 4, 4)))
    bias += 5
    assert np.array_equal(layer.forward(np.ones((1, 3, 4, 4))), before)


def test_rate_fixes_the_rank_and_one_by_one_kernels_have_two_factors():
    W = kernel(1, (16, 8, 3, 3))
    assert compress_conv(W, rate=2, method="als-round").rank == rank_for_rate((16, 8, 9), 2)
    pointwise = compress_conv(W[:, :, :1, :1], rate="1.5", method="als-round", stride=2)
    assert pointwise.cp.shape == (16, 8)
    assert pointwise.rank == rank_for_rate((16, 8), "1.5")
    x = np.random.default_rng(2).standard_normal((1, 8, 5, 7))
    assert np.allclose(pointwise.forward(x), conv2d(x, pointwise.kernel(), stride=2), rtol=1e-12)


def test_float32_input_gives_float32_output_and_float64_stays():
    layer = compress_conv(kernel(3), rank=2, method="als-round", bias=np.ones(4))
    x = np.random.default_rng(3).standard_normal((1, 3, 5, 5))
    single = layer.forward(x.astype(np.float32))
    assert single.dtype == np.float32
    assert layer.forward(x).dtype == np.float64
    assert np.allclose(single, layer.forward(x), atol=1e-4)
    linear = compress_linear(kernel(3)[:, :, 0, 0], rank=2, method="als-round")
    assert linear.forward(x[0, :, :, 0].T.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, ["als", "epc", "polish"]),
        ({"method": "best", "sweeps": 20, "restarts": 2}, ["als", "epc", "polish"]),
        ({"method": "sequential"}, ["als", "epc", "polish"]),
        ({"method": "authors"}, ["als", "epc", "admm"]),
        ({"method": "als-round"}, ["als"]),
    ],
)
def test_grid_axis_and_callback_reach_the_solver(options, stages):
    W, calls = kernel(5, (6, 5, 3, 3)), []
    layer = compress_conv(
        W,
        rank=4,
        bits=Grid(3, mid_rise=True),
        axis=1,
        callback=lambda stage, sweep, figure: calls.append((stage, sweep)),
        **options,
    )
    assert list(dict.fromkeys(stage for stage, _ in calls)) == stages
    assert sum(call == ("als", 0) for call in calls) == options.get("restarts", 1)
    assert layer.method == options.get("method", "best")
    assert layer.cp.grid == Grid(3, mid_rise=True)
    assert layer.cp.scales[0].shape == (1, 4)


def test_slack_and_sweeps_reach_the_solver():
    W = kernel(5, (6, 5, 3, 3))
    plain = compress_conv(W, rank=4, method="authors")
    assert compress_conv(W, rank=4, method="authors", slack=0.3).error != plain.error
    few, many = (compress_conv(W, rank=4, sweeps=sweeps).fit.history for sweeps in (3, 30))
    assert len(few.error) < len(many.error)


def test_zero_and_constant_kernels_are_defined():
    zero = compress_conv(np.zeros((2, 3, 3, 3)), rank=2)
    assert zero.error == 0
    assert not zero.forward(np.ones((1, 3, 4, 4))).any()
    assert compress_conv(np.ones((2, 3, 3, 3)), rank=1, bits=8).error < 0.05


def test_any_layout_and_dtype_gives_the_same_layer():
    W = np.round(kernel(7) * 8)
    expected = compress_conv(W, rank=3, rng=2)
    for same in (np.asfortranarray(W), W.astype(np.float16), W.astype(np.int32), W[::-1][::-1]):
        same.setflags(write=False)
        layer = compress_conv(same, rank=3, rng=2)
        assert all(
            np.array_equal(p, q) for p, q in zip(layer.cp.codes, expected.cp.codes, strict=True)
        )


def test_bad_input_is_refused():
    W = kernel(1)
    for options, message in (
        ({}, r"^rate, rank: expected exactly one"),
        ({"rate": 2, "rank": 3}, r"^rate, rank: expected exactly one"),
        ({"rank": 2, "method": "worst"}, r"^method: expected one of"),
        (
            {"rank": 2, "method": "authors", "sweeps": 9},
            r"^sweeps: expected None with method 'auth",
        ),
        ({"rank": 0}, r"^rank: expected at least 1"),
        ({"rank": 2, "bits": 17}, r"^bits: expected 1 to 16"),
        ({"rank": 2, "slack": -1}, r"^slack: expected at least 0"),
        ({"rank": 2, "rule": "best"}, r"^rule: expected one of"),
        ({"rank": 2, "axis": 2}, r"^axis: expected 0 to 1"),
        ({"rank": 2, "bias": np.ones(3)}, r"^bias: expected shape \(4,\)"),
        ({"rate": 1000}, "no component would be left"),
        ({"rate": 0}, "rate"),
        ({"rate": -2}, "rate"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_conv(W, **options)
        with pytest.raises(ValueError, match=message):
            compress_linear(W[:, :, 0, 0], **options)
    for options, message in (
        ({"stride": 0}, r"^stride: expected at least 1"),
        ({"padding": "reflect"}, r"^padding: expected one of"),
        ({"dilation": -1}, r"^dilation: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_conv(W, rank=2, **options)
    with pytest.raises(ValueError, match=r"^W: expected 3 to 5 axes"):
        compress_conv(W[0, 0], rank=2)
    with pytest.raises(ValueError, match=r"^padding: expected 1 or 2 integers"):
        compress_conv(W[0], rank=2, padding=(1, 2, 3))
    with pytest.raises(ValueError, match=r"^W: expected 2 axes"):
        compress_linear(W, rank=2)
    with pytest.raises(ValueError, match=r"^W: expected finite"):
        compress_conv(W * np.nan, rank=2)
    with pytest.raises(TypeError, match="unexpected keyword"):
        compress_conv(W, rank=2, groups=2)


@law("CPConv.dtype")
@law("CPLinear.dtype")
@settings(max_examples=10)
@given(seeds, st.sampled_from(["f4", "f8", "f2"]), st.integers(0, 3))
def test_forward_computes_in_the_type_of_the_data_whatever_made_them(seed, kind, form):
    x = np.random.default_rng(seed).integers(-3, 4, (2, 3, 4, 4)).astype(kind)
    forms = [
        lambda a: a.astype(">" + kind),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        np.asfortranarray,
        as_torch,
    ]
    layer = compress_conv(kernel(seed), rank=2, method="als-round", bias=np.ones(4), padding=1)
    linear = compress_linear(kernel(seed, (4, 3)), rank=2, method="als-round", bias=np.ones(4))
    rows = np.ascontiguousarray(x.reshape(-1, 3))
    wanted = np.float32 if kind == "f4" else np.float64
    for each, data in ((layer, x), (linear, rows)):
        expected, found = each.forward(data), each.forward(forms[form](data))
        assert found.dtype == expected.dtype == wanted
        assert np.array_equal(found, expected)


def as_torch(a):
    torch = pytest.importorskip("torch", reason="tensors of another library")
    return torch.from_numpy(a.copy())


@given(st.integers(-300, 300))
def test_float32_data_meet_factors_that_float32_cannot_hold(power):
    layer = compress_linear(np.eye(3), rank=3, bits=8, method="als-round")
    cp = layer.cp
    apart = QuantizedCP(cp.codes, [cp.scales[0] * 2.0**power, cp.scales[1] * 2.0**-power], cp.grid)
    x = np.array([[1.0, -2.0, 0.5]], np.float32)
    found, expected = replace(layer, cp=apart).forward(x), layer.forward(x)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_the_type_of_the_data_cannot_hold_is_refused():
    layer = compress_linear(1e10 * np.eye(3), rank=3, method="als-round")
    with pytest.raises(ValueError, match="the result exceeds the range of float32"):
        layer.forward(np.full((1, 3), 1e35, np.float32))
    assert layer.forward(np.full((1, 3), 1e35)).max() > 1e44


# --- threads of BLAS, defaults and names ----------------------------------------------------------


def blas_threads():
    """How many threads NumPy's BLAS uses; SciPy's is another one."""
    pools = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
    return max(pool["num_threads"] for pool in pools if "numpy" in pool["filepath"])


@pytest.fixture
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != 2:
            pytest.skip("this BLAS has one thread only")
        yield


@pytest.mark.usefixtures("two_threads")
def test_the_last_holder_gives_blas_its_threads_back():
    first, second = ExitStack(), ExitStack()
    for _ in range(2):  # and the next round is as the first one
        first.enter_context(one_blas_thread())
        second.enter_context(one_blas_thread())
        assert blas_threads() == 1
        first.close()
        assert blas_threads() == 1
        second.close()
        assert blas_threads() == 2
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        blas_threads() / 0
    assert blas_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        pool.submit(first.enter_context, one_blas_thread()).result()
        assert blas_threads() == 1
        pool.submit(first.close).result()
    assert blas_threads() == 2


def in_child(look):
    """What a forked process finds."""
    child = os.fork()
    if child == 0:
        found = 99
        try:
            found = look()
        finally:
            os._exit(found)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_has_the_holders_of_its_own_thread():
    def leave(stack):
        stack.close()
        return blas_threads()

    def hold_once():
        with one_blas_thread():
            inside = blas_threads()
        return 10 * inside + blas_threads()

    assert in_child(blas_threads) == 2 and in_child(hold_once) == 12
    with ExitStack() as mine, ExitStack() as others, ThreadPoolExecutor(1) as pool:
        mine.enter_context(one_blas_thread())
        assert in_child(blas_threads) == 1 and in_child(lambda: leave(mine)) == 2
        pool.submit(others.enter_context, one_blas_thread()).result()
        assert in_child(blas_threads) == 1 and in_child(lambda: leave(mine)) == 2
        mine.close()
        assert blas_threads() == 1  # the other one still holds
        assert in_child(blas_threads) == 2 and in_child(hold_once) == 12
        pool.submit(others.close).result()
    assert blas_threads() == 2


class Limits:
    """Stands for the limits of threadpoolctl; says whether they were restored."""

    restored = False

    def restore_original_limits(self):
        self.restored = True


@pytest.mark.parametrize(
    ("held", "mine", "kept"), [(0, 0, 0), (1, 0, 0), (1, 1, 1), (3, 1, 1), (3, 0, 0), (2, 2, 2)]
)
@pytest.mark.parametrize("fresh", [True, False])
def test_after_a_fork_only_the_holders_of_that_thread_are_left(
    held, mine, kept, fresh, monkeypatch
):
    # What a child process does, done here, where it can be watched.
    pin, limits = sys.modules[one_blas_thread.__module__]._Pin, Limits()
    own = threading.local()
    if mine or not fresh:  # a thread that never held anything has no count
        own.count = mine
    for name, value in (("holders", held), ("mine", own), ("limits", limits)):
        monkeypatch.setattr(pin, name, value)
    pin.lock.acquire()
    pin.after_fork()
    assert pin.holders == kept
    assert limits.restored == (held > 0 and kept == 0)
    assert (pin.limits is None) == limits.restored
    with ThreadPoolExecutor(1) as pool:  # the lock is free again
        assert pool.submit(pin.lock.acquire, blocking=False).result()
        pool.submit(pin.lock.release).result()


def test_a_bias_that_float32_cannot_hold_keeps_the_layer_in_float64():
    layer = compress_linear(16 * np.eye(2), rank=2, method="als-round", bias=[1e39, 1.0])
    x = np.array([[-1e39 / layer.matrix()[0, 0], 0.0]], np.float32)
    assert layer.forward(x).dtype == np.float32
    assert np.allclose(layer.forward(x), layer.forward(x.astype(float)), rtol=1e-6)


def test_results_of_factors_far_apart_are_refused_by_the_name_of_the_input():
    for layer, x in (
        (compress_conv(kernel(2), rank=2, method="als-round"), np.ones((1, 3, 4, 4), np.float32)),
        (compress_linear(kernel(2, (4, 3)), rank=2, method="als-round"), np.ones(3, np.float32)),
    ):
        scales = [s * 1e-10 for s in layer.cp.scales]
        scales[0] = layer.cp.scales[0] * 1e70
        large = replace(layer, cp=QuantizedCP(layer.cp.codes, scales, layer.cp.grid))
        assert np.isfinite(large.forward(x.astype(float))).all()
        with pytest.raises(ValueError, match=r"^x: the result exceeds the range of float32"):
            large.forward(x)
        with pytest.raises(ValueError, match=r"^x: expected (at least 1|4) ax"):
            layer.forward(1.0)


def test_float32_data_meet_factors_rounded_to_float32():
    layer = compress_linear(kernel(12, (5, 4)), rank=3, method="als-round", bias=np.full(5, 0.1))
    x = np.random.default_rng(13).standard_normal((50, 4)).astype(np.float32)
    a_out, a_in = (A.astype(np.float32) for A in layer.cp.dequantize().factors)
    by_hand = (x @ a_in) @ a_out.T + np.float32(0.1)
    found, exactly = layer.forward(x), layer.forward(x.astype(float))
    assert found.dtype == by_hand.dtype == np.float32
    assert not np.array_equal(found, exactly.astype(np.float32))  # it is no rounded result
    assert np.allclose(found, by_hand, rtol=1e-6, atol=1e-6)


def test_long_kernels_are_no_larger_than_the_image_that_options_are_tried_on():
    W = np.random.default_rng(14).standard_normal((2, 2, 50))
    assert compress_conv(W, rank=1, method="als-round").kernel().shape == W.shape


def same_codes(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a.cp.codes, b.cp.codes, strict=True))


def test_options_that_are_not_given_have_the_defaults_of_the_signature():
    W = kernel(11, (6, 5, 3, 3))
    usual = {"bits": 4, "method": "best", "rng": 0, "axis": None, "rule": "mse-exact"}
    place = {"stride": 1, "padding": 0, "dilation": 1, "bias": None, "second_moment": None}
    plain = compress_conv(W, rank=4, sweeps=4)
    assert same_codes(plain, compress_conv(W, rank=4, sweeps=4, **usual, **place))
    assert not same_codes(plain, compress_conv(W, rank=4, sweeps=4, rng=1))
    M = W.reshape(6, -1)
    line = compress_linear(M, rank=4, sweeps=4)
    assert same_codes(line, compress_linear(M, rank=4, sweeps=4, **usual, bias=None))
    assert not same_codes(line, compress_linear(M, rank=4, sweeps=4, rng=1))
    for layer in (plain, line):
        assert layer.method == "best" and layer.cp.grid == Grid(4)
        assert layer.bias is None and layer.output_error is None
        assert layer.rank == layer.cp.rank == 4
        with pytest.raises(AttributeError, match="method"):
            layer.method = "authors"
        assert layer != replace(layer) and len({layer, replace(layer)}) == 2
    again = right.CPConv(plain.cp, plain.error, plain.fit, "best", (3, 3))
    assert (again.stride, again.padding, again.dilation) == (1, 0, 1)
    assert again.bias is None and again.output_error is None
    assert right.CPLinear(line.cp, line.error, line.fit, "best").bias is None
    assert "fit" not in repr(again) and "bias" not in repr(again)


def test_a_bias_keeps_its_type_and_is_a_copy_that_cannot_be_written():
    for dtype in (np.float32, np.float64):
        b = np.ones(4, dtype)
        for layer in (
            compress_conv(kernel(1), rank=2, method="als-round", bias=b),
            compress_linear(kernel(1)[:, :, 0, 0], rank=2, method="als-round", bias=b),
        ):
            assert layer.bias.dtype == dtype and layer.bias is not b
            with pytest.raises(ValueError, match="read-only"):
                layer.bias[0] = 2
    for bias, message in (
        (np.ones((4, 1)), r"^bias: expected 1 ax"),
        (1.0, r"^bias: expected 1 ax"),
        (np.ones(5), r"^bias: expected shape \(4,\) \(one per output\), got \(5,\)"),
        ([1, 2, np.nan, 4], r"^bias: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_conv(kernel(1), rank=2, bias=bias)
        with pytest.raises(ValueError, match=message):
            compress_linear(kernel(1)[:, :, 0, 0], rank=2, bias=bias)


def test_inputs_that_do_not_fit_a_layer_are_refused_by_name():
    conv = compress_conv(1e10 * kernel(2), rank=2, method="als-round")
    linear = compress_linear(1e10 * kernel(2)[:, :, 0, 0], rank=2, method="als-round")
    assert linear.forward(np.ones(3)).shape == (4,)
    for layer, x in (
        (linear, 1.0),
        (linear, np.ones((2, 4))),
        (linear, [np.nan] * 3),
        (conv, np.ones((3, 5, 5))),
        (conv, np.ones((1, 4, 5, 5))),
        (conv, np.ones((1, 3, 2, 2))),
        (conv, np.full((1, 3, 5, 5), np.inf)),
    ):
        with pytest.raises(ValueError, match=r"^x(, cp)?: expected"):
            layer.forward(x)
    for layer, shape in ((linear, (2, 3)), (conv, (1, 3, 5, 5))):
        with pytest.raises(
            ValueError, match=r"^x(, cp, bias)?: the result exceeds the range of float32"
        ):
            layer.forward(np.full(shape, 1e35, np.float32))
        assert np.isfinite(layer.forward(np.full(shape, 1e35))).all()
        with pytest.raises(
            ValueError, match=r"^x(, cp, bias)?: the result exceeds the range of float64"
        ):
            layer.forward(np.full(shape, 1e305))


# --- planted faults -------------------------------------------------------------------------------


def attribute_linear(M, **options):
    """A layer that asks the argument for its type, not the array."""
    layer = right.compress_linear(M, **options)

    class Careless:
        cp = layer.cp

        def forward(self, x):
            single = getattr(x, "dtype", None) == np.float32
            return layer.forward(np.asarray(x, np.float32 if single else np.float64))

    return Careless()


def test_a_type_read_off_the_argument_is_caught():
    fault = {"compress_linear": attribute_linear}
    test = test_forward_computes_in_the_type_of_the_data_whatever_made_them
    assert caught(THIS, test, **fault)


def flipped(W, **options):
    """Convolution instead of correlation in forward."""
    layer = right.compress_conv(W, **options)
    wrong = right.compress_conv(W[:, :, ::-1, ::-1].copy(), **options)
    object.__setattr__(layer, "cp", wrong.cp)
    return layer


def biasless(W, **options):
    return right.compress_conv(W, **{**options, "bias": None})


def float_error(W, **options):
    """Reports the error of the float fit."""
    layer = right.compress_conv(W, **options)
    object.__setattr__(layer, "error", layer.fit.start_error)
    return layer


def seed_by_thread(W, *, rng, **options):
    """Lets the seed depend on where the work is done."""
    return right.compress_conv(W, rng=rng + (current_thread() is not main_thread()), **options)


def transposed(M, **options):
    """Takes inputs for outputs when reporting the matrix."""
    layer = right.compress_linear(M, **options)
    codes = tuple(k[::-1] for k in layer.cp.codes)
    object.__setattr__(layer.cp, "codes", codes)
    return layer


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_forward_equals_the_dense_convolution_with_its_kernel, {"compress_conv": biasless}),
        (test_error_is_that_of_the_dense_kernel, {"compress_conv": flipped}),
        (
            test_larger_and_hostile_kernels_make_layers_that_keep_the_laws,
            {"compress_conv": float_error},
        ),
        (
            test_any_number_of_threads_outside_gives_the_same_codes,
            {"compress_conv": seed_by_thread},
        ),
        (test_error_is_that_of_the_dense_kernel, {"compress_conv": float_error}),
        (test_error_is_that_of_the_dense_kernel, {"compress_linear": transposed}),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, **fault)
