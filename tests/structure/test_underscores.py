"""No underscore name crosses a file."""

import pytest
from planted import add
from sources import crossing, modules
from tree import ROOT


def check_underscores(root):
    """No underscore name crosses a file: neither by an import nor as a module's attribute."""
    found = crossing(modules(root))
    return [f"{module}: {name} of {owner} is its own" for module, name, owner in found]


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
