"""The loops themselves: hand-computed numbers, exact arithmetic in, exact arithmetic out.

Everything else about them is in the chapters' tests, where each loop is compared with its
vectorised twin.
"""

import ast
import sys
from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from qcp_ref import loops


def test_nested_lists_as_tensors():
    X = loops.build((2, 1, 3), lambda i, j, k: 100 * i + 10 * j + k)
    assert X == [[[0, 1, 2]], [[100, 101, 102]]]
    assert loops.shape_of(X) == (2, 1, 3)
    assert loops.at(X, (1, 0, 2)) == 102
    assert list(loops.indices((1, 2))) == [(0, 0), (0, 1)]


def test_hand_computed_products():
    A, B = [[1, 2], [3, 4]], [[5, 6]]
    assert loops.khatri_rao([A, B]) == [[5, 12], [15, 24]]
    assert loops.gram([A, B]) == [[10 * 25, 14 * 30], [14 * 30, 20 * 36]]
    assert loops.gram([A, B], 0) == [[25, 30], [30, 36]]
    assert loops.reconstruct([A, B]) == [[17], [39]]
    assert loops.reconstruct([A, B], [1, 0]) == [[5], [15]]
    assert loops.mttkrp([[1], [2]], [A, B], 0) == [[5, 6], [10, 12]]
    assert loops.mttkrp([[1], [2]], [A, B], 1) == [[7, 10]]
    assert loops.squared_error([[17], [40]], [A, B]) == 1
    assert loops.matmul(A, A) == [[7, 10], [15, 22]]


@given(st.lists(st.integers(-5, 5), min_size=9, max_size=9), st.integers(1, 3))
def test_elimination_solves_exactly(entries, rows):
    K = [[Fraction(entries[3 * i + j]) + (7 if i == j else 0) for j in range(3)] for i in range(3)]
    G = [[sum(K[k][i] * K[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    G = [[G[i][j] + (1 if i == j else 0) for j in range(3)] for i in range(3)]
    F = [[Fraction(r + c, 3) for c in range(3)] for r in range(rows)]
    assert loops.matmul(loops.solve(G, F), G) == F


def test_fractions_stay_fractions():
    third = Fraction(1, 3)
    H, T, U = loops.admm([[third]], [[Fraction(1)]], lambda V: V, [[third]], [[third]], 1)
    assert [[Fraction(1, 2)]] == T  # (1/3 + 1 (1/3 + 1/3)) / (1 + 1)
    assert [[Fraction(1, 6)]] == H  # T - U
    assert U == [[0]]  # U + H - T
    assert loops.ridge([[third]], [[Fraction(1)]], 2) == [[Fraction(1, 9)]]


def test_nothing_but_the_standard_library_is_imported():
    tree = ast.parse(Path(loops.__file__).read_text(encoding="utf-8"))
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert {name.split(".")[0] for name in modules} <= sys.stdlib_module_names
