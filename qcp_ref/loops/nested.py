"""Nested lists as tensors: shapes, index tuples, entries."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

__all__ = ["at", "build", "flat", "indices", "matmul", "shape_of", "spread"]

# A number of any type, a list of them, a list of lists...: mypy has no finite name for that.
Nested = Any
Matrix = Sequence[Sequence[Any]]


def shape_of(X: Nested) -> tuple[int, ...]:
    """Return the side lengths of a nested sequence."""
    sides = []
    while isinstance(X, (list, tuple)):
        sides.append(len(X))
        X = X[0]
    return tuple(sides)


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Run through all index tuples, the last index fastest."""
    return product(*(range(side) for side in shape))


def at(X: Nested, index: Sequence[int]) -> Any:
    """Return one entry of a nested sequence."""
    for i in index:
        X = X[i]
    return X


def build(shape: Sequence[int], entry: Callable[..., Any], index: tuple[int, ...] = ()) -> Nested:
    """Make a nested list from a function of the index tuple."""
    if len(index) == len(shape):
        return entry(*index)
    return [build(shape, entry, (*index, i)) for i in range(shape[len(index)])]


def spread(value: Nested, index: Sequence[int]) -> Any:
    """Return the entry that belongs to ``index``: a single number, or sides of 1 stand for all."""
    if not isinstance(value, (list, tuple)):
        return value
    shape = shape_of(value)
    return at(value, [0 if side == 1 else i for side, i in zip(shape, index, strict=True)])


def flat(x: Nested) -> list[Any]:
    """Return all entries in one list."""
    return [at(x, index) for index in indices(shape_of(x))]


def matmul(A: Matrix, B: Matrix) -> Nested:
    """Multiply two matrices."""
    return [[sum(a * B[k][j] for k, a in enumerate(row)) for j in range(len(B[0]))] for row in A]
