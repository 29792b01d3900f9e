"""No underscore name crosses a file."""

import ast
import re

import pytest
from planted import add
from tree import ROOT, modules


def check_underscores(root):
    """No underscore name crosses a file: neither by an import nor as a module's attribute."""
    complaints, sources = [], modules(root)
    for name, source in sources.items():
        tree, inside = ast.parse(source), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qcp_ref"):
                for alias in node.names:
                    place = f"{node.module}.{alias.name}".removeprefix("qcp_ref.")
                    if place in sources:
                        inside.add(alias.asname or alias.name)
                    elif re.match(r"_(?!_)", alias.name):
                        complaints.append(f"{name}: {alias.name} of {node.module} is its own")
        complaints += [
            f"{name}: {node.attr} of {node.value.id} is its own"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in inside and re.match(r"_(?!_)", node.attr)
        ]
    return complaints


def test_this_project():
    complaints = check_underscores(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_underscores(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    (
        "cp",
        "def _f():\n    from qcp_ref.tensors.tensor import _x\n",
        "cp: _x of qcp_ref.tensors",
    ),
    ("cp", "from qcp_ref.tensors import tensor\ntensor._x()\n", "cp: _x of tensor is its own"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_underscores(project))
