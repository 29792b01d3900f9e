"""What test modules share: exact truth, strategies, the check that a planted fault is caught.

And what the reference pages say about files, to be compared with the files.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcp_ref import gamma

# Names the laws that a test checks: @law("unfold.place") for the bullet *place* of unfold.
law = pytest.mark.law

# Integers of this size keep every product and sum of the small cases exact in float64.
small_integers = st.integers(-9, 9)
# Distinct magnitudes without overflow or underflow, so that the a-priori bounds apply.
floats = st.integers(-(2**20), 2**20).map(lambda m: m * 2.0**-10)
sides = st.integers(1, 5)
seeds = st.integers(0, 2**31)


def shapes(min_dims: int = 2, max_dims: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)


def arrays(shape: Any, elements: st.SearchStrategy[Any] = small_integers) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.float64, shape, elements=elements)


@st.composite
def tensors_with_factors(draw: Any, elements: Any = small_integers, max_dims: int = 4) -> Any:
    """A tensor of any order, and factors of one drawn rank that fit it."""
    shape = draw(shapes(max_dims=max_dims))
    rank = draw(sides)
    X = draw(arrays(shape, elements))
    return X, [draw(arrays((side, rank), elements)) for side in shape]


@st.composite
def wild(draw: Any, shape: Any, exponent: int = 1000, dtype: Any = np.float64) -> Any:
    """Small integers times powers of two: one for the array, one per column, or one per entry."""
    numbers = draw(arrays(shape))
    sides = draw(st.sampled_from([(1,) * numbers.ndim, numbers.shape[-1:], numbers.shape]))
    # Few exponents again and again, so that products often come back into the range.
    some = st.sampled_from([-exponent, -exponent // 2, 0, exponent // 2, exponent])
    powers = hnp.arrays(np.int64, sides, elements=some | st.integers(-exponent, exponent))
    return np.ldexp(numbers, draw(powers)).astype(dtype)


@st.composite
def wild_factors(draw: Any, max_dims: int = 3, **options: Any) -> Any:
    """Factors of one rank whose magnitudes lie far apart."""
    rank = draw(st.integers(1, 3))
    sides = draw(st.lists(st.integers(1, 3), min_size=2, max_size=max_dims))
    return [draw(wild((side, rank), **options)) for side in sides]


def assert_in_range(
    call: Callable[[], Any], truth: Any, size: Any, roundings: int, dtype: Any = np.float64
) -> None:
    """The result lies within its bound, down to the smallest number, or no type can hold it.

    ``size`` is the same operation on absolute values; both come from fractions. A refusal has to
    say so, and is right only where the result is too large.
    """
    info = np.finfo(dtype)
    share = Fraction(gamma(roundings, dtype))
    true, most = (np.array(exact(x), dtype=object).reshape(-1) for x in (truth, size))
    limit = Fraction(2) ** info.maxexp
    found, message = refused(call)
    if message:
        assert "exceeds the range" in message, message
        assert (abs(true) + share * most >= limit * (1 - share)).any(), "it would fit"
        return
    found = np.asarray(found)
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    assert found.size == true.size
    for value, t, m in zip(found.reshape(-1), true, most, strict=True):
        allowed = share * m + Fraction(float(info.smallest_subnormal))
        assert abs(Fraction(float(value)) - t) <= allowed, value


def refused(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, or the message of its ValueError."""
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def exact(x: Any) -> Any:
    """Floats as fractions, in nested lists: the input of the loops for exact truth."""
    if isinstance(x, np.ndarray):
        x = x.tolist()
    if isinstance(x, (list, tuple)):
        return [exact(entry) for entry in x]
    return Fraction(x)


def assert_same(actual: Any, truth: Any) -> None:
    """Every entry of ``actual`` is exactly the number in the nested list ``truth``."""
    assert exact(np.asarray(actual)) == exact(truth)


def assert_within(actual: Any, truth: Any, bound: Any) -> None:
    """Every entry lies within its bound of the exact value."""
    actual, bound = np.asarray(actual), np.asarray(bound)
    flat_truth = np.array(exact(truth), dtype=object).reshape(-1)
    assert flat_truth.size == actual.size, (flat_truth.size, actual.shape)
    bounds = np.broadcast_to(bound, actual.shape).reshape(-1)
    for value, true, allowed in zip(actual.reshape(-1), flat_truth, bounds, strict=True):
        error = abs(Fraction(float(value)) - true)
        assert error <= Fraction(float(allowed)), (value, float(true), float(error), allowed)


def caught(module: ModuleType, test: Callable[..., Any], **faults: Any) -> bool:
    """Run one test with wrong implementations in its module's globals; True if an assert fails.

    Any other exception propagates: a fault that cannot run proves nothing. Shrinking is switched
    off; that a fault is found matters here, not its smallest example. Up to ten times as many
    examples are drawn, so that it is not a matter of luck.
    """
    saved = {name: getattr(module, name) for name in faults}
    plain = getattr(test, "_hypothesis_internal_use_settings", None)
    try:
        for name, wrong in faults.items():
            setattr(module, name, wrong)
        if plain is not None:
            many, phases = 10 * plain.max_examples, [Phase.explicit, Phase.generate]
            quick = settings(plain, phases=phases, max_examples=many, database=None)
            test._hypothesis_internal_use_settings = quick  # type: ignore[attr-defined]
        test()
    except AssertionError:
        return True
    except BaseExceptionGroup as several:  # hypothesis found more than one way to fail
        others = several.split(AssertionError)[1]
        if others is not None:
            raise
        return True
    finally:
        for name, right in saved.items():
            setattr(module, name, right)
        if plain is not None:
            test._hypothesis_internal_use_settings = plain  # type: ignore[attr-defined]
    return False


REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
JSON = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def documented(title: str, page: str = "files") -> dict[str, str]:
    """Two columns of the table below a heading, or with a title, of a reference page."""
    text = (REFERENCE / f"{page}.rst").read_text(encoding="utf-8")
    found = re.search(rf"^(?:\.\. list-table:: )?{re.escape(title)}$", text, re.MULTILINE)
    assert found, f"{page}.rst has no {title}"
    rows = text[found.end() :].split("   :header-rows: 1", 2)[1].split("   * - ")[2:]
    cells = [re.split(r"\n     -(?: |$)", row, flags=re.MULTILINE) for row in rows]
    return {key.strip("`"): second.strip() for key, second, *_ in cells}


def keys(
    value: Any, names: Mapping[str, str] | None = None, path: str = ""
) -> Iterator[tuple[str, str]]:
    """Path and type of everything in JSON; names: what stands for the keys of some objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            step = (names or {}).get(path, key)
            yield from keys(inner, names, f"{path}.{step}" if path else step)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, names, f"{path}[]")
    else:
        yield path, JSON[type(value)]


def differs(title: str, value: Any, names: Mapping[str, str]) -> list[str]:
    """Say where a JSON value is not what the page says."""
    said, found = documented(title), list(keys(value, names))
    absent = sorted(said.keys() - {path for path, _ in found})
    wrong = {(p, t) for p, t in found if t not in said.get(p, "").split(" or ")}
    return [f"{path}: not there" for path in absent] + [f"{p}: {t}" for p, t in sorted(wrong)]
