"""Nothing in the book or the kit prints, except a command."""

import ast

import pytest
from planted import add
from sources import modules
from tree import ROOT, ring

COMMANDS = {"conformance.__main__"}  # outside the app, what may print


def check_silence(root):
    """Nothing in the book or the oracle prints, except a command."""
    complaints = []
    for name, source in modules(root).items():
        if ring(name) == "app" or name in COMMANDS:
            continue
        for node in ast.walk(ast.parse(source)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {"print", "pprint", "sys.stdout.write", "sys.stderr.write"}:
                complaints.append(f"{name}:{node.lineno}: {called} in a ring that does not print")
    return complaints


def test_this_project():
    complaints = check_silence(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_silence(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("cp", "def _f(x):\n    print(x)\n", "print in a ring"),
    ("cp", "import sys\nsys.stderr.write('x')\n", "sys.stderr.write in a ring"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_silence(project))
