"""Third-party packages belong to their ring; SciPy and Numba load late."""

import ast
import sys

import pytest
from planted import add
from sources import imports, modules
from tree import ALONE, ROOT, ring

PACKAGES = {
    "book": {"numpy", "scipy", "numba", "threadpoolctl"},
    "conformance": {"numpy", "scipy", "threadpoolctl", "hypothesis", "pytest"},
    "app": {"numpy", "scipy", "threadpoolctl", "rich", "matplotlib"},
}
LAZY = {"scipy", "numba"}  # in the book: importing qcp_ref has to stay cheap
LOADERS = {"conformance.running.worker"}  # import what a user names


def check_packages(root):
    """Third-party packages belong to their ring; scipy and numba load late, numba in one module."""
    complaints = []
    for name, source in modules(root).items():
        tree = ast.parse(source)
        for module, _, eager in imports(tree):
            package = module.split(".")[0]
            if package in sys.stdlib_module_names or package in {"qcp_ref", ""}:
                continue
            if package not in ALONE.get(name.split(".")[0], PACKAGES[ring(name)]):
                complaints.append(f"{name}: may not import {package}")
            elif package == "numba" and name != "_kernels":
                complaints.append(f"{name}: numba is imported in _kernels only")
            elif ring(name) == "book" and package in LAZY and eager:
                complaints.append(f"{name}: {package} has to be imported inside a function")
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            hides = called.split(".")[-1] in {"__import__", "import_module"}
            if hides and name not in LOADERS:
                complaints.append(
                    f"{name}:{node.lineno}: imports by {called}, which hides the import"
                )
    return complaints


def test_this_project():
    complaints = check_packages(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_packages(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("loops", "import numpy\n", "loops: may not import numpy"),
    ("minimal", "import scipy\n", "minimal: may not import scipy"),
    ("cp", "import torch\n", "cp: may not import torch"),
    ("cp", "from scipy import optimize\n", "scipy has to be imported inside"),
    ("_kernels", "import numba\n", "numba has to be imported inside"),
    ("cp", "def _f():\n    from numba import njit\n", "in _kernels only"),
    ("cp", "__import__('torch')\n", "hides the import"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_packages(project))
