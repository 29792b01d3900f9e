"""What becomes of every value in every argument: the table of docs/conventions.rst, tried out.

The registry in argument_calls.py has a right call of every public function. Each trial puts one
value of the table into one argument. The long profile makes all trials, the others some of them.
"""

import csv
import inspect
import os
import random
import re
import signal
import tempfile
import time
import warnings
from collections import defaultdict
from copy import copy, deepcopy
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import count
from math import inf, nan

import numpy as np
import pytest
from argument_calls import (
    CHOICES,
    CODES,
    GRID,
    LAYER,
    LINEAR_CP,
    NEAR,
    RECORDS,
    REGISTRY,
    SCALES,
    THE_CP,
    F,
    G,
    X,
)
from scipy.sparse import csr_array
from support import REFERENCE

import qcp_ref
import qcp_ref as q
from qcp_ref import CP, Costs, Grid, Scale

TABLE = REFERENCE.parent / "conventions.rst"
VERDICTS = {"no", "same", "maybe", ""}
NO_SENSE = "makes no sense"
SECONDS = 1.0


def table():
    """Expression -> kind -> verdict."""
    text = TABLE.read_text(encoding="utf-8")
    _, _, rest = text.partition(".. csv-table:: Values and kinds of arguments\n   :header: ")
    head, _, body = rest.partition("\n\n")
    kinds = [name.strip() for name in head.split(",")][1:]
    rows = csv.reader(line[3:] for line in body.split("\n\n")[0].splitlines())
    return {
        cells[0].strip("`"): dict(zip(kinds, cells[1:], strict=True)) for cells in rows if cells
    }


# --- values ---------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    """An ordinary subclass."""


class Foreign:
    """An array of another library."""

    def __init__(self, array, **parts):
        self.array = np.asarray(array)
        vars(self).update(parts)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


class Unreadable(Foreign):
    """An object that does not let itself be made an array."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array can be made of this")


class Masks(Foreign):
    """An object that becomes a masked array."""

    def __array__(self, dtype=None, copy=None):
        return np.ma.array(self.array, mask=self.array > 0)


class Index:
    """An integer that is no int."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def read_only(v):
    v = v.copy()
    v.setflags(write=False)
    return v


def memory_map(v):
    with tempfile.TemporaryFile() as file:
        made = np.memmap(file, v.dtype, shape=v.shape or (1,))
        made[...] = v
        return made if v.shape else made[0]


def backwards(v):
    return np.ascontiguousarray(v[..., ::-1])[..., ::-1]


NAMES = {
    "np": np, "nan": nan, "inf": inf, "Fraction": Fraction, "Decimal": Decimal, "count": count,
    "copy": copy, "deepcopy": deepcopy, "csr_array": csr_array, "Grid": Grid, "CP": CP,
    "Scale": Scale, "Costs": Costs, "index": Index, "vars_of": lambda v: dict(vars(v)),
    "read_only": read_only, "memory_map": memory_map, "backwards": backwards,
    "subclass": lambda v: v.view(Subclass), "foreign": Foreign, "unreadable": Unreadable,
    "masks_itself": Masks, "quantity": lambda v: Foreign(v, units="m"),
    "gradient": lambda v: Unreadable(v, requires_grad=True),
    "bfloat": lambda v: Unreadable(v, dtype="torch.bfloat16"),
    "sparse": lambda v: Unreadable(v, toarray=lambda: v),
}  # fmt: skip


def made(expression, right):
    """Return the value, or an exception where the expression makes no sense for this argument."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            return eval(expression, dict(NAMES, v=right))
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        return error


class Stuck(BaseException):
    """A call has taken too long."""


def _stuck(number, frame):
    raise Stuck


# --- one trial ------------------------------------------------------------------------------------


def parts(value):
    """All numbers and texts of a result or an argument, as a flat list."""
    if isinstance(value, np.ndarray):
        return [
            value.dtype.str.lstrip("<>="),
            value.shape,
            *(np.ascontiguousarray(value).ravel().tolist() if value.dtype.kind != "V" else ()),
        ]
    if isinstance(value, (list, tuple)):
        return [part for one in value for part in parts(one)]
    if isinstance(value, dict):
        return [part for one in value.items() for part in parts(one)]
    if isinstance(value, (Foreign, Index)) or type(value).__module__.startswith("qcp_ref"):
        return parts(vars(value)) if hasattr(value, "__dict__") else [repr(value)]
    if isinstance(value, np.generic):
        return [value.item()]
    if isinstance(value, int) and value.bit_length() > 64:
        return [hex(value)]  # Python writes no decimal numbers of that size
    if isinstance(value, (int, float, complex, str, bytes)) or value is None:
        return [value]
    return []


def verdict(argument, expression, rows):
    """What the table says about a value in an argument; of two kinds the more lenient counts."""
    if expression in argument.takes:
        return "maybe"
    found = {rows[expression].get(kind, "maybe") for kind in argument.kinds}
    if argument.value is None and re.search(r"\bv\b", expression):
        return ""
    if len(found) > 1 and found != {"no"}:
        return "maybe" if found != {""} else ""
    return found.pop()


def heads(message):
    """The names with which a message begins."""
    return {name.split("[")[0].strip() for name in message.partition(": ")[0].split(",")}


def called(call, arguments):
    positional = list(arguments)[: call.positional]
    rest = {name: arguments[name] for name in arguments if name not in positional}
    return call.function(*(arguments[name] for name in positional), **rest)


def trial(name, argument, expression, right, said):
    """Put one value into one argument; return what is wrong with what happens, or None."""
    call = REGISTRY[name]
    arguments = {key: one.value for key, one in call.arguments.items()}
    if argument == "rate" and "rank" in arguments:
        arguments["rank"] = None
    value = made(expression, arguments[argument])
    if isinstance(value, Exception):
        return NO_SENSE
    arguments[argument] = value
    before = repr(parts(list(arguments.values())))
    start, result, error = time.process_time(), None, None
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)
    try:
        result = called(call, arguments)
    except (Exception, Stuck) as raised:
        error = raised
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.process_time() - start
    if repr(parts(list(arguments.values()))) != before:
        return "an input was changed"
    if seconds > SECONDS:
        return f"{seconds:.1f} seconds"
    if error is not None:
        known = {argument} if said == "no" else {*call.arguments, "rule"}
        return _wrong_refusal(error, said, known)
    found = parts(result)
    if any(isinstance(one, float) and one != one for one in found):
        return "NaN"
    if said == "no":
        return f"taken: {result!r:.60}"
    return "another result" if said == "same" and found != right else None


def _wrong_refusal(error, said, known):
    message = f"{type(error).__name__}: {error}"[:300]
    if said == "same":
        return f"refused: {message}"
    if type(error) not in (TypeError, ValueError):
        return message
    return None if heads(str(error)) & known else f"unnamed: {message}"


RIGHT = {}
signal.signal(signal.SIGVTALRM, _stuck)


def right(name):
    """The result of the right call; it has been made before anything is timed."""
    if name not in RIGHT:
        call = REGISTRY[name]
        RIGHT[name] = parts(called(call, {k: one.value for k, one in call.arguments.items()}))
    return RIGHT[name]


def trials(names=REGISTRY):
    """All that there is to try: function, argument, value, verdict."""
    rows = table()
    for name in names:
        for argument, one in REGISTRY[name].arguments.items():
            for expression in rows:
                said = verdict(one, expression, rows)
                if said:
                    yield name, argument, expression, said


def complaints(chosen):
    found = []
    for name, argument, expression, said in chosen:
        expected = right(name)
        wrong = trial(name, argument, expression, expected, said)
        if wrong is not None and wrong.endswith(" seconds"):  # it was the first call of its kind
            wrong = trial(name, argument, expression, expected, said)
        if wrong not in (None, NO_SENSE):
            found.append(f"{name}({argument}={expression}): {wrong}")
    return found


def few(chosen):
    """Some trials of every argument, in CI and for mutants always the same; all of them if long."""
    profile = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
    if profile == "long":
        return list(chosen)
    draws = random.Random(None if profile == "dev" else 0)
    groups = defaultdict(list)
    for one in chosen:
        groups[one[:2]].append(one)
    return [one for group in groups.values() for one in draws.sample(group, 3)]


# --- the registry and the table -------------------------------------------------------------------


def absent():
    """Public functions and arguments that no trial reaches."""
    functions = {name: getattr(qcp_ref, name) for name in qcp_ref.__all__ if name not in RECORDS}
    for name in qcp_ref.__all__:
        methods = vars(getattr(qcp_ref, name)) if inspect.isclass(getattr(qcp_ref, name)) else {}
        for method, what in methods.items():
            function = getattr(what, "__func__", what)
            if method.startswith("_") or not inspect.isfunction(function):
                continue
            if len(inspect.signature(function).parameters) > 1:
                functions[f"{name}.{method}"] = getattr(getattr(qcp_ref, name), method)
    for name, function in functions.items():
        calls = [call for key, call in REGISTRY.items() if key.split(" ")[0] == name]
        if not calls:
            yield name
            continue
        tried = {argument for call in calls for argument in call.arguments}
        for parameter in inspect.signature(function).parameters.values():
            named = parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "self"
            if named and parameter.name not in tried:
                yield f"{name}({parameter.name})"


def test_every_public_function_and_argument_is_tried():
    assert [*absent()] == []
    assert all(inspect.isclass(getattr(qcp_ref, name)) for name in RECORDS)
    options = {name for call in REGISTRY.values() for name in call.arguments}
    assert {"stride", "padding", "dilation", "kernel_size", "bins", "averaging"} <= options


def test_the_table_knows_every_kind_and_each_says_something():
    rows = table()
    assert len(rows) >= 120
    kinds = {
        kind for call in REGISTRY.values() for one in call.arguments.values() for kind in one.kinds
    }
    assert kinds == {*rows["None"], "dtype"}
    for kind in rows["None"]:
        said = [row[kind] for row in rows.values()]
        assert set(said) <= VERDICTS
        assert said.count("no") >= 50
        assert "same" in said
        assert rows["v"][kind] == "same"
        assert rows["None"][kind] == "no"


def test_right_calls_give_results_without_nan():
    for name in REGISTRY:
        found = right(name)
        assert found
        assert not any(isinstance(one, float) and one != one for one in found)


def test_most_values_make_sense():
    """An expression that fails for every argument would try nothing."""
    tried = defaultdict(set)
    for name, argument, expression, said in trials():
        value = made(expression, REGISTRY[name].arguments[argument].value)
        for kind in REGISTRY[name].arguments[argument].kinds:
            if not isinstance(value, Exception):
                tried[expression].add((kind, said))
    assert set(table()) <= set(tried)


# --- the trials -----------------------------------------------------------------------------------


def test_wrong_values_are_refused_by_name_and_right_ones_are_not():
    assert complaints(few(trials())) == []


CASES = [
    (lambda: q.degeneracy(THE_CP, norm_X=10**400), "norm_X: expected a finite number"),
    (lambda: q.choose_slack(X, NEAR, GRID, slacks=()), "slacks: expected one that fits"),
    (lambda: q.activation_scale([[1.0]], 5, rule="histogram"), "grid: expected a Grid"),
    (lambda: q.rank_for_budget([], 9, bits=4), "shape: expected 2 to 5 sides"),
    (lambda: q.integer_cp(LINEAR_CP, SCALES, q.Grid(8), kernel_size=[]), "kernel_size: expected"),
    (lambda: q.certify(X, CODES, budget=2**63), "budget: expected at most 9007199254740992"),
    (lambda: q.gamma(2**2000), "n: expected fewer than"),
    (lambda: q.cp_als(X, 2, tol=10**400), "tol: expected a finite number"),
    (lambda: q.cp_als(X, 2, tol=10**5000), "tol: expected a finite number, got one of type int"),
    (lambda: q.allocate([CHOICES], 10**400, weights=[10**400]), r"weights\[0\]: expected a finite"),
    (lambda: replace(LAYER, weights=()), "weights: expected"),
    (lambda: replace(LAYER, zero_points=(0,)), "zero_points: expected 3 of them, got 1"),
    (lambda: replace(LAYER, multipliers=LAYER.multipliers[:1]), "multipliers: expected 2 of them"),
    (
        lambda: replace(LAYER, multipliers=(0.5, [0.5] * 7)),
        r"multipliers\[1\]: expected one number",
    ),
    (lambda: replace(LAYER, bias=np.zeros(1, int)), "bias: expected shape"),
    (lambda: replace(LAYER, grid=5), "grid: expected a Grid"),
    (lambda: replace(LAYER, stride="2"), "stride: expected"),
    (lambda: replace(LAYER, relu=1), "relu: expected True or False"),
    (lambda: replace(LAYER, mode="floor"), "mode: expected one of"),
    (lambda: replace(LAYER, kernel_size=[]), "kernel_size: expected sides"),
    (lambda: q.rank_for_rate((8, 8, 3), 0.5), "rate: expected at least 1, .* enlarge .* rate=2"),
    (lambda: q.activation_scale([[1.0], [np.nan]], GRID), r"batches\[1\]: expected finite"),
    (
        lambda: q.activation_scale([[1.0], [2.0**401]], GRID, rule="percentile"),
        r"batches\[1\]: expected magnitudes",
    ),
    (lambda: q.activation_scale([[1.0]], GRID, rule="min-max", bins=8), "bins: expected no option"),
    (lambda: q.khatri_rao([[[1.0]], None]), r"matrices\[1\]: expected"),
    (lambda: q.admm(F, G, np.ma.array, start=np.zeros_like(F)), "project: .* masked"),
]


@pytest.mark.parametrize(("call", "message"), CASES)
def test_cases_that_were_found_by_users(call, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as raised:
        call()
    assert raised.type in (TypeError, ValueError)


# --- planted faults -------------------------------------------------------------------------------


def _overflow(cp, norm_X=None):
    """Refuse with the wrong type."""
    if norm_X is not None and not isinstance(norm_X, float):
        raise OverflowError("norm_X: expected a smaller number")
    return q.degeneracy(cp, norm_X=norm_X)


def _unnamed(cp, norm_X=None):
    """Refuse without a name."""
    try:
        return q.degeneracy(cp, norm_X=norm_X)
    except (TypeError, ValueError) as error:
        raise type(error)("expected something else") from None


def _nan(cp, norm_X=None):
    """Let NaN come out."""
    if norm_X == 2**53:
        return nan
    return q.degeneracy(cp, norm_X=norm_X)


def _takes(cp, norm_X=None):
    """Repair silently."""
    return q.degeneracy(cp, norm_X=float(norm_X) if isinstance(norm_X, str) else norm_X)


def _other(cp, norm_X=None):
    """Depend on the type of a number."""
    return q.degeneracy(cp, norm_X=2 * norm_X if isinstance(norm_X, np.float32) else norm_X)


def _slow(cp, norm_X=None):
    """Never end."""
    while norm_X == 1e200:
        pass
    return q.degeneracy(cp, norm_X=norm_X)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_overflow, "OverflowError"),
        (_unnamed, "unnamed"),
        (_nan, "NaN"),
        (_takes, "taken"),
        (_other, "another result"),
        (_slow, "seconds"),
    ],
)
def test_planted_faults_are_caught(monkeypatch, fault, message):
    monkeypatch.setitem(REGISTRY, "degeneracy", REGISTRY["degeneracy"]._replace(function=fault))
    values = ["2**53", '"2"', "10**400", "np.float32(v)", *["1e200"] * (fault is _slow)]
    chosen = [one for one in trials(["degeneracy"]) if one[1] == "norm_X" and one[2] in values]
    found = complaints(chosen)
    assert found
    assert any(message in one for one in found)


def test_a_changed_input_is_caught(monkeypatch):
    def careless(x, A, **options):
        found = q.pointwise(x, A, **options)
        if isinstance(x, np.ndarray) and x.flags.writeable:
            x[0] *= 2
        return found

    argument = REGISTRY["pointwise"].arguments["x"]._replace(value=np.ones((1, 2, 1)))
    arguments = {**REGISTRY["pointwise"].arguments, "x": argument}
    call = REGISTRY["pointwise"]._replace(function=careless, arguments=arguments)
    monkeypatch.setitem(REGISTRY, "pointwise", call)
    assert trial("pointwise", "x", "np.ones((1, 2, 3))", [], "maybe") == "an input was changed"


def test_a_missing_function_or_argument_is_caught(monkeypatch):
    call = REGISTRY["norm"]
    monkeypatch.delitem(REGISTRY, "gram")
    monkeypatch.setitem(REGISTRY, "norm", call._replace(arguments={}))
    assert set(absent()) == {"gram", "norm(cp)"}
