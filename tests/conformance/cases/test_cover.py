"""The pairwise cover: every pair is there, in few rows, always the same ones."""

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcp_ref.conformance.cases.cover import cover

SIZES = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def named(sizes):
    return {f"option-{n}": range(size) for n, size in enumerate(sizes)}


def pairs_are_covered(options, rows):
    for one, two in combinations(options, 2):
        seen = {(row[one], row[two]) for row in rows}
        assert seen == set(product(options[one], options[two]))


@given(SIZES, st.text(max_size=3))
def test_every_pair_of_values_is_in_some_row(sizes, name):
    options = named(sizes)
    rows = list(cover(name, options))
    pairs_are_covered(options, rows)
    assert rows == list(cover(name, options))


def test_rows_are_few():
    options = named([7, 7, 3, 3, 3, 3, 4, 4])
    rows = list(cover("few", options))
    assert 49 <= len(rows) <= 60  # 49 is the least there can be, all rows are 63,504
    with pytest.raises(AssertionError):
        pairs_are_covered(options, rows[:-1])
