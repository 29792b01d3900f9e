"""Functions, their parameters and modules are short. There is no cap on totals."""

import ast

import pytest
from planted import add
from sources import FUNCTIONS, code_lines, modules
from tree import ROOT, parameters

# No caps on totals: they were met by packing arguments, which is harder to read than a longer text.
MODULE, FUNCTION, PARAMETERS = 350, 40, 6
PAGE = 120  # lines of minimal.py, empty ones and comments included


def check_budgets(root):
    """Code lines per module and per function; parameters."""
    complaints = []
    for name, source in modules(root).items():
        lines = code_lines(source)
        if name not in {"loops", "_kernels"} and len(lines) > MODULE:
            complaints.append(f"{name}: {len(lines)} code lines, at most {MODULE}")
        if name == "minimal" and len(source.splitlines()) > PAGE:
            complaints.append(f"{name}: {len(source.splitlines())} lines, at most {PAGE}")
        tree = ast.parse(source)
        methods = {f for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for f in c.body}
        for node in ast.walk(tree):
            if not isinstance(node, FUNCTIONS):
                continue
            length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            if length > FUNCTION:
                complaints.append(f"{name}.{node.name}: {length} code lines, at most {FUNCTION}")
            static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
            count = len(parameters(node, method=node in methods and not static)[0])
            if count > PARAMETERS:
                complaints.append(f"{name}.{node.name}: {count} parameters, at most {PARAMETERS}")
    return complaints


def test_this_project():
    complaints = check_budgets(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_budgets(project) == []


def lines(count):
    return "".join(f"    x = {i}\n" for i in range(count))


# where, text added at the end, what the complaint has to say
ADDED = [
    ("cp", "def _f():\n" + lines(40), "cp._f: 41 code lines"),
    ("cp", "def _f():\n" + lines(39) + "    return (\n        1\n    )\n", "_f: 43"),
    ("cp", "def _f(a, b, c, d, e, f, g):\n    pass\n", "cp._f: 7 parameters"),
    ("cp", "class _C:\n    def f(self, a, b, c, d, e, f, *g):\n        pass\n", "f: 7"),
    ("cp", "x = 1\n" * 350, "cp: 357 code lines, at most 350"),
    ("minimal", "x = 1\n\n\n" * 40 + "x = 2\n", "minimal: 121 lines, at most 120"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_budgets(project))


def test_code_lines_are_counted_without_prose():
    source = '"""Doc.\n\nMore.\n"""\n\n# comment\nx = [  # open\n    1,\n\n]\ntext = """a\nb"""\n'
    assert sorted(code_lines(source)) == [7, 8, 10, 11, 12]
