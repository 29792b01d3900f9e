"""Each file of this folder is one rule, with faults that show that it sees something."""

import ast
from pathlib import Path

import pytest

RULES = sorted(set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)})


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_a_rule_is_asked_of_this_project_and_of_planted_faults(path):
    names = functions(path)
    assert len([name for name in names if name.startswith("check_")]) == 1
    assert {"test_this_project", "test_the_small_project_obeys"} <= set(names)
    assert any(name.startswith("test_planted_") for name in names)
