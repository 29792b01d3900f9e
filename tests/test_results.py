"""Results do not change: no array in them can be written, none shares memory with an argument."""

import copy
import inspect
import pickle
import sys
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import caught, refused

import qcp_ref
from qcp_ref import (
    CP,
    CPConv,
    CPLinear,
    Grid,
    Histogram,
    IntegerCP,
    QuantizedCP,
    Scale,
    _kernels,
    _results,
)
from qcp_ref._results import frozen, sealed

THIS = sys.modules[__name__]

CLASSES = [
    value
    for name in qcp_ref.__all__
    if inspect.isclass(value := getattr(qcp_ref, name))
    and (is_dataclass(value) or issubclass(value, tuple))
]
FUNCTIONS = sorted(set(qcp_ref.__all__) - {c.__name__ for c in CLASSES})
NUMBERS = {  # take and return no arrays
    *["gamma", "random_cp", "conv_costs", "equal_cost_bits", "rank_for_budget", "rank_for_rate"],
    "run_jobs",  # what jobs return is theirs
    "accumulator_bound",  # integers go through int64 first; what it returns is a sum
}


def arguments():
    """Arrays and objects to call every public function with, new ones each time."""
    rng = np.random.default_rng(5)
    X, W = rng.standard_normal((4, 3, 4)), rng.standard_normal((4, 3, 2, 2))
    x, factors = rng.standard_normal((2, 3, 5, 5)), [rng.standard_normal((n, 2)) for n in (4, 3, 4)]
    F, G = rng.standard_normal((4, 2)), np.array([[2.0, 0.5], [0.5, 1.0]])
    return {
        "X": X,
        "W": W,
        "x": x,
        "factors": factors,
        "F": F,
        "G": G,
        "S": np.eye(12),
        "M": rng.standard_normal((4, 12)),
        "bias": np.ones(4),
        "matrix": X[0],
        "T": W[:1, :, :1],
        "cp": CP(factors, [1.0, -2.0]),
        "grid": Grid(4),
        "codes": np.array([[1, -2], [3, 7]]),
        "bytes": np.ones((1, 2, 3), np.uint8),
        "kernel": np.ones((4, 2, 1), np.int8),
        "scale": np.array([[0.5, 0.25]]),
        "acc": np.ones((2, 3), np.int64),
    }


def integer_layer(a):
    cp = QuantizedCP([[[2], [-3]], [[1], [1]]], [0.5, 1.0], Grid(4))
    scales = [Scale(np.array(s), 0, "given") for s in (1.0, 2.0, 0.5)]
    return qcp_ref.integer_cp(cp, scales, Grid(8), bias=a["bias"][:2])


def rounded(a):
    return qcp_ref.quantize_cp(a["cp"], a["grid"])


def of_layer(a, name):
    """A call of a convolution of one, two or three spatial axes."""
    d, function = int(name[-2]), getattr(qcp_ref, name)
    if name.startswith("cp"):
        cp = CP([np.ones((4, 1)), np.ones((3, 1))])
        return function(a["x"].reshape(2, 3, *[25, 1, 1][:d]), cp, kernel_size=1, bias=a["bias"])
    kernel = a["W"].reshape(4, 3, *[4, 1, 1][:d])
    return function(a["x"].reshape(2, 3, *[25, 1, 1][:d]), kernel, bias=a["bias"])


CALLS = {
    "activation_scale": lambda q, a: q([a["x"]], a["grid"]),
    "admm": lambda q, a: q(a["F"], a["G"], lambda V: V, start=a["F"]),
    "align": lambda q, a: q(a["cp"], a["cp"]),
    "allocate": lambda q, a: q([frontier(a)], 10**6),
    "als_update": lambda q, a: q(a["F"], a["G"]),
    "ao_admm": lambda q, a: q(a["X"], 2, a["grid"], max_sweeps=2),
    "balance": lambda q, a: q(a["cp"]),
    "canonical": lambda q, a: q(a["cp"]),
    "certify": lambda q, a: q(a["X"], rounded(a), budget=10),
    "choose_scale": lambda q, a: q(a["X"], a["grid"]),
    "choose_slack": lambda q, a: q(a["X"], a["cp"], a["grid"], slacks=(0.0,), sweeps=2),
    "compress_conv": lambda q, a: q(a["W"], rank=2, bias=a["bias"], method="als-round"),
    "compress_linear": lambda q, a: q(a["matrix"], rank=2, bias=a["bias"][:3], method="als-round"),
    "cp_als": lambda q, a: q(a["X"], 2, init=a["cp"], max_sweeps=2),
    "cp_conv_bound": lambda q, a: q(a["x"][:, :, :2, :2], a["cp"], kernel_size=2, bias=a["bias"]),
    "cp_linear": lambda q, a: q(a["F"], CP([np.eye(2), np.eye(2)])),
    "svd_cp": lambda q, a: q(a["M"], 2),
    "degeneracy": lambda q, a: q(a["cp"]),
    "depthwise": lambda q, a: q(a["x"], a["M"][:1, :3], kernel_size=1),
    "dequantize": lambda q, a: q(a["codes"], a["scale"], grid=a["grid"]),
    "epc": lambda q, a: q(a["X"], a["cp"], max_sweeps=2),
    "epc_update": lambda q, a: q(a["F"], a["G"], 100.0, 99.0),
    "factorize": lambda q, a: q(a["X"], 2, a["grid"], method="als-round"),
    "fixed_point": lambda q, a: q(np.abs(a["F"])),
    "fold": lambda q, a: q(a["M"], 0, (4, 3, 4)),
    "frontier": lambda q, a: q(a["X"], bits=[4], budgets=[100], method="als-round"),
    "gram": lambda q, a: q(a["factors"]),
    "histogram_error": lambda q, a: q(Histogram.of(a["x"], 8), 0, 7, 4),
    "histogram_range": lambda q, a: q(Histogram.of(a["x"], 8), 4),
    "inner": lambda q, a: q(a["cp"], a["cp"]),
    "int_conv": lambda q, a: q(a["bytes"], a["kernel"]),
    "int_linear": lambda q, a: q(a["bytes"], np.ones((2, 3), np.int8)),
    "integer_cp": lambda q, a: integer_layer(a),
    "kernel_to_tensor": lambda q, a: q(a["W"]),
    "khatri_rao": lambda q, a: q(a["factors"]),
    "mttkrp": lambda q, a: q(a["X"], a["factors"], 1),
    "mttkrp_sweep": lambda q, a: list(q(a["X"], a["factors"])),
    "norm": lambda q, a: q(a["cp"]),
    "normalize": lambda q, a: q(a["cp"]),
    "orient": lambda q, a: q(a["cp"], a["grid"]),
    "output_als": lambda q, a: q(a["X"], a["cp"], a["S"], max_sweeps=2),
    "output_error": lambda q, a: q(a["X"], a["cp"], a["S"]),
    "output_normal": lambda q, a: q(a["X"], a["factors"], a["S"]),
    "pointwise": lambda q, a: q(a["x"], a["M"][:, :3], bias=a["bias"]),
    "polish": lambda q, a: q(a["X"], rounded(a)),
    "polish_output": lambda q, a: q(a["X"], rounded(a), a["S"], max_sweeps=2),
    "predict_error": lambda q, a: q(a["X"], a["cp"], a["grid"]),
    "project": lambda q, a: q(a["F"], a["grid"]),
    "quantize": lambda q, a: q(a["codes"] * 1.0, a["grid"], a["scale"]),
    "quantize_cp": lambda q, a: q(a["cp"], a["grid"]),
    "reconstruct": lambda q, a: q(a["cp"]),
    "refit_scale": lambda q, a: q(a["F"], a["G"], np.ones((4, 2), np.int8), a["grid"], a["scale"]),
    "relative_error": lambda q, a: q(a["X"], a["cp"]),
    "requantize": lambda q, a: q(a["acc"], np.array(0.5), 0, Grid(8)),
    "rounding_bound": lambda q, a: q(3, np.abs(a["F"])),
    "second_moment": lambda q, a: q(a["x"], 1),
    "sensitivity": lambda q, a: q(a["cp"]),
    "solve_rows": lambda q, a: q(a["F"], a["G"], a["grid"], a["scale"]),
    "tensor_to_kernel": lambda q, a: q(a["X"], (2, 2)),
    "unfold": lambda q, a: q(a["X"], 0),
    **{f"conv{d}d": lambda q, a: of_layer(a, q.__name__) for d in (1, 2, 3)},
    **{f"cp_conv{d}d": lambda q, a: of_layer(a, q.__name__) for d in (1, 2, 3)},
}


def frontier(a):
    return qcp_ref.frontier(a["X"], bits=[4], budgets=[100], method="als-round")


def run(name, a):
    return CALLS[name](getattr(qcp_ref, name), a)


def inside(value):
    """All arrays within a result, with the objects that hold them; and the parts by type."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from inside(part)
    elif is_dataclass(value):
        for part in vars(value).values():
            yield from inside(part)


def objects(value):
    """All result objects within a result, itself included."""
    if type(value) in CLASSES:
        yield value
    parts = value if isinstance(value, (tuple, list)) else ()
    for part in vars(value).values() if is_dataclass(value) else parts:
        yield from objects(part)


@cache
def examples():
    """For each class an object that some public function has made."""
    found = {Costs: Costs() for Costs in [qcp_ref.Costs]}
    found[Histogram] = Histogram(np.array([1, 2]), 0.0, 1.0)
    for name in CALLS:
        for each in objects(run(name, arguments())):
            found.setdefault(type(each), each)
    return found


def test_every_public_function_has_a_call_here():
    assert set(FUNCTIONS) == NUMBERS | CALLS.keys()
    assert not NUMBERS & CALLS.keys()


def copies(value):
    yield value
    yield pickle.loads(pickle.dumps(value))
    yield copy.copy(value)
    yield copy.deepcopy(value)
    if isinstance(value, tuple):
        yield value._replace(**value._asdict())
    else:
        yield replace(value) if type(value) not in (CP, QuantizedCP) else value


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_array_in_a_result_can_be_written(kind):
    for value in copies(examples()[kind]):
        assert type(value) is kind
        for array in inside(value):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


def test_what_is_given_to_a_result_stays_writable_and_does_not_show_in_it():
    for a, held in [
        (a := np.ones((2, 1)), lambda a: CP([a, a]).factors[0]),
        (a := np.ones(1), lambda a: CP([np.ones((2, 1))] * 2, a).weights),
        (a := np.ones((2, 1), np.int8), lambda a: QuantizedCP([a, a], [1, 1], Grid(4)).codes[1]),
        (
            a := np.ones(()),
            lambda a: QuantizedCP([np.eye(2, 1, dtype=int)] * 2, [a, a], Grid(4)).scales[0],
        ),
        (a := np.ones(()), lambda a: Scale(a, 0.0, "given").scale),
        (a := np.ones(()), lambda a: Scale(1.0, 0.0, "given")._replace(scale=a).scale),
        (a := np.ones(2, int), lambda a: Histogram(a, 0.0, 1.0).counts),
        (a := np.ones(2), lambda a: replace(layer(CPLinear), bias=a).bias),
        (a := np.ones(2), lambda a: replace(layer(CPConv), bias=a).bias),
        (a := np.ones(2, int), lambda a: replace(layer(IntegerCP), bias=a).bias),
    ]:
        array = held(a)
        assert a.flags.writeable
        assert not np.shares_memory(a, array)
        before = array.copy()
        a[...] = 7
        assert np.array_equal(array, before)


def layer(kind):
    return examples()[kind]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("locked", [False, True])
def test_no_result_shares_memory_with_an_argument(name, locked):
    given = arguments()
    mine = list(inside([*given.values()]))
    for array in mine:
        array.setflags(write=array.flags.writeable and not locked)
    before = [array.copy() for array in mine]
    flags = [array.flags.writeable for array in mine]
    result = run(name, given)
    assert flags == [array.flags.writeable for array in mine]
    for array in inside(result):
        assert not any(np.shares_memory(array, other) for other in mine)
    for array, copied in zip(mine, before, strict=True):
        assert np.array_equal(array, copied)
    if isinstance(result, np.ndarray):  # it belongs to the caller
        result[...] = 0


# What belongs together is scaled together. The steps of solvers have tests of their own.
SCALED = ["X", "cp", "factors", "x", "W", "F", "S", "M", "bias", "matrix", "scale"]
STEPS = {"admm", "als_update", "epc_update", "refit_scale", "solve_rows"}
FACTORS = [1e-320, 1e-300, 1e-170, 1e-100, 1e60, 1e100, 1e170, 1e300]


def stretched(arrays, factor, form):
    """All arrays times the factor, or by turns times and over it, or one entry of each."""
    arrays = [A.copy() for A in arrays]
    for n, A in enumerate(arrays):
        if form == "entry":
            A[(0,) * A.ndim] *= factor
        else:
            A[...] *= factor if form == "all" or n % 2 == 0 else min(1 / factor, 1e300)
    return arrays


def hostile(names, factor, form):
    """Arguments of which some are very large or small."""
    given = arguments()
    for name in names:
        value = given[name]
        if name == "cp":
            given[name] = CP(stretched(value.factors, factor, form), value.weights)
        elif name == "factors":
            given[name] = stretched(value, factor, form)
        else:
            given[name] = stretched([value], factor, form)[0]
    return given


class Asked(dict):
    """Arguments that note which of them are used."""

    def __init__(self, given):
        super().__init__(given)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - STEPS))
def test_every_answer_is_finite_or_a_refusal_at_any_magnitude(name):
    """Warnings are errors in this suite, so none escapes either."""
    answered, asked = 0, Asked(arguments())
    run(name, asked)
    groups = [[n] for n in SCALED] + [["X", "cp"], ["x", "W"], ["factors", "X"], ["x", "M"]]
    groups = [names for names in groups if asked.names.intersection(names)]
    for names in groups:
        for factor in FACTORS:
            for form in ("all", "turns", "entry"):
                result, message = refused(lambda: run(name, hostile(names, factor, form)))  # noqa: B023
                if message:
                    assert ":" in message
                    continue
                answered += 1
                for array in inside(result):
                    assert np.isfinite(array).all()
                assert not isinstance(result, float) or np.isfinite(result)
    assert answered >= 4 * len(groups)


def test_kernels_are_given_arrays_that_can_be_written_only(monkeypatch):
    """Arrays of results never go into one as they are: that would compile it a second time."""
    called = set()

    def call(kernel, *args):
        called.add(kernel.py_func.__name__)
        for array in inside(args):
            assert array.flags.writeable, kernel.py_func.__name__
        return kernel.compiled()(*args)

    monkeypatch.setattr(_kernels.Kernel, "__call__", call)
    for name in CALLS:
        run(name, arguments())
    assert called >= {"descend", "gather", "sphere"}


# --- the decorator --------------------------------------------------------------------------------


@frozen
class Pair(NamedTuple):
    """Two things."""

    first: Any
    second: Any = None


@frozen
@dataclass(frozen=True)
class Record:
    """Two things, and their number."""

    first: Any
    second: Any = None

    def __post_init__(self):
        object.__setattr__(self, "count", 2)


def test_an_array_is_sealed_by_a_copy_in_its_own_order():
    for order in ("C", "F"):
        a = np.asarray(np.arange(6.0).reshape(2, 3), order=order)
        found = sealed(a)
        assert found is not a and np.array_equal(found, a) and a.flags.writeable
        assert not found.flags.writeable and found.base is None
        assert found.flags.f_contiguous == (order == "F")
        assert sealed(found) is found
        view = found[:1]  # cannot be written, but belongs to somebody else
        copied = sealed(view)
        assert copied is not view and copied.base is None and not copied.flags.writeable
        assert np.array_equal(copied, view)


def test_tuples_are_sealed_within_and_all_else_stays():
    a, many = np.ones(2), [np.ones(2)]
    inner, (deep, text) = sealed((a, (a, "text")))
    assert not inner.flags.writeable and not deep.flags.writeable and text == "text"
    assert sealed(many) is many and many[0].flags.writeable
    for value in (None, 1.5, "text", {"a": 1}):
        assert sealed(value) is value
    pair = Pair(a)
    assert sealed(pair) is pair


@pytest.mark.parametrize("kind", [Pair, Record])
def test_however_a_result_is_made_its_arrays_are_sealed(kind):
    a = np.arange(3.0)
    made = [
        kind(a, a),
        kind(first=a, second=(a, a)),
        kind(a, second=a),
        kind(a),
        pickle.loads(pickle.dumps(kind(a, (a,)))),
        copy.copy(kind(a, a)),
        copy.deepcopy(kind((a, (a,)), a)),
    ]
    if kind is Pair:
        made += [Pair._make([a, a]), Pair(1, 2)._replace(first=a, second=a)]
        assert Pair._make((1, 2)) == (1, 2) and type(Pair._make([1, 2])) is Pair
    else:
        made += [replace(Record(1), first=a, second=(a,))]
        assert made[0].count == pickle.loads(pickle.dumps(made[0])).count == 2
    for value in made:
        assert type(value) is kind
        arrays = list(inside(value))
        assert arrays and all(np.array_equal(array, a) for array in arrays)
        assert not any(array.flags.writeable or np.shares_memory(array, a) for array in arrays)
    assert made[3].second is None and a.flags.writeable
    assert kind(1, [2]).second == [2] and kind(first=1).first == 1


def test_the_decorator_keeps_the_class_and_its_names():
    assert Pair.__name__ == "Pair" and Pair.__doc__ == "Two things."
    assert Pair.__new__.__name__ == "__new__" and Pair._fields == ("first", "second")
    assert Record.__init__.__name__ == "__init__" and Record(1, 2) == Record(1, 2)
    assert Pair.__new__.__wrapped__ is not None and Record.__init__.__wrapped__ is not None
    with pytest.raises(TypeError):
        Record()
    with pytest.raises(AttributeError):
        Pair(1).first = 2


# --- planted faults -------------------------------------------------------------------------------


def check_all():
    for name in ("unfold", "fold", "kernel_to_tensor", "tensor_to_kernel", "mttkrp"):
        test_no_result_shares_memory_with_an_argument(name, locked=False)


VIEWS = {
    "unfold": lambda X, mode: X.reshape(len(X), -1),
    "fold": lambda M, mode, shape: M.reshape(shape),
    "kernel_to_tensor": lambda W: W.reshape(*W.shape[:2], -1),
    "tensor_to_kernel": lambda X, size: X.reshape(*X.shape[:2], *size),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_caught(name, monkeypatch):
    monkeypatch.setattr(qcp_ref, name, VIEWS[name])
    assert caught(THIS, check_all)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda value: value,
        lambda value: np.asarray(value) if isinstance(value, np.ndarray) else value,
    ],
)
def test_a_copy_that_can_be_written_is_caught(wrong, monkeypatch):
    value = examples()[qcp_ref.ALSUpdate]
    monkeypatch.setattr(_results, "sealed", wrong)
    monkeypatch.setattr(
        THIS, "examples", lambda: {qcp_ref.ALSUpdate: pickle.loads(pickle.dumps(value))}
    )
    with pytest.raises(AssertionError):
        test_no_array_in_a_result_can_be_written(qcp_ref.ALSUpdate)
