"""How few rows of options contain every pair of values?

A greedy pairwise cover: each new row is the best of several that are drawn, and a drawn row begins
with a pair that is not covered yet. Deterministic, by the integers of SplitMix64, and small: a few
dozen rows for a dozen options.

Checked by tests/conformance/cases/test_cover.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any
from zlib import crc32

from qcp_ref.conformance.dyadic import SplitMix64

__all__ = ["cover"]

_TRIES = 3  # rows that are drawn for one that is taken


def cover(name: str, options: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows of options, such that each two values of two options meet in some row.

    Parameters
    ----------
    name : str
        Seed of the random choices.
    options : mapping of str to sequence
        The values of each option; the first one is the plain one.

    Yields
    ------
    dict
        One value of each option.
    """
    rng, keys = SplitMix64(crc32(name.encode())), list(options)
    sizes = [len(options[key]) for key in keys]
    left = {
        (a, b, i, j)
        for a, b in combinations(range(len(keys)), 2)
        for i in range(sizes[a])
        for j in range(sizes[b])
    }
    while left:
        first = min(left)
        rows = [_filled(first, sizes, left, rng) for _ in range(_TRIES)]
        gains = [{(a, b, row[a], row[b]) for a, b in combinations(range(len(row)), 2)} & left
                 for row in rows]  # fmt: skip
        best = max(range(_TRIES), key=lambda n: len(gains[n]))
        left -= gains[best]
        yield {key: options[key][k] for key, k in zip(keys, rows[best], strict=True)}


def _filled(
    first: tuple[int, int, int, int], sizes: Sequence[int], left: set[Any], rng: SplitMix64
) -> list[int]:
    """Complete a pair to a row: each further value is one that makes many new pairs."""
    a, b, i, j = first
    row, taken = [0] * len(sizes), [a, b]
    row[a], row[b] = i, j
    while len(taken) < len(sizes):
        c = rng.choice([n for n in range(len(sizes)) if n not in taken])
        start, votes = rng.integer(0, sizes[c] - 1), list[int]()
        for k in range(sizes[c]):
            value = (start + k) % sizes[c]
            pairs = ((c, n, value, row[n]) if c < n else (n, c, row[n], value) for n in taken)
            votes.append(sum(pair in left for pair in pairs))
        row[c] = (start + votes.index(max(votes))) % sizes[c]
        taken.append(c)
    return row
