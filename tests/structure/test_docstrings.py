"""Public functions document parameters, result, laws and an example."""

import ast
import re

import pytest
from planted import CLASS_TEXT, add, replace
from sources import CHAPTERS, FUNCTIONS, literal_all, modules
from tree import BOOK, ROOT, parameters


def check_docstrings(root):
    """Public functions document parameters, result, laws and an example."""
    complaints = []
    for name, source in modules(root).items():
        tree = ast.parse(source)
        if not ast.get_docstring(tree):
            complaints.append(f"{name}: no module docstring")
        tests = re.findall(r"tests/[\w/]*test_\w+\.py", ast.get_docstring(tree) or "")
        if name in BOOK and not tests:
            complaints.append(
                f"{name}: the module docstring does not say which test file checks it"
            )
        complaints += [f"{name}: {file} is missing" for file in tests if not (root / file).exists()]
        public = literal_all(tree) or []
        for node in tree.body:
            if getattr(node, "name", None) not in public:
                continue
            where, doc = f"{name}.{node.name}", ast.get_docstring(node) or ""
            if not doc:
                complaints.append(f"{where}: no docstring")
            if isinstance(node, FUNCTIONS) and name in CHAPTERS:
                complaints += [f"{where}: {what}" for what in docstring_faults(node, doc)]
            elif isinstance(node, ast.ClassDef):
                if section(doc, "Parameters") and documented(doc) != fields(node):
                    complaints.append(f"{where}: lists {documented(doc)}, takes {fields(node)}")
                complaints += [
                    f"{where}.{method.name}: no docstring"
                    for method in node.body
                    if isinstance(method, FUNCTIONS)
                    and not method.name.startswith("_")
                    and not ast.get_docstring(method)
                ]
    return complaints


def documented(doc):
    """Names in the Parameters section."""
    groups = re.findall(
        r"^(\*{0,2}\w[\w, *]*?) ?(?::|$)", section(doc, "Parameters") or "", re.MULTILINE
    )
    return [n.strip("* ") for group in groups for n in group.split(",")]


def fields(node):
    """Names that a class is made with."""
    made = [f for f in node.body if isinstance(f, FUNCTIONS) and f.name == "__init__"]
    names = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
    return parameters(made[0], method=True)[1] if made else [n for n in names if n != "_"]


def docstring_faults(function, doc):
    names = parameters(function)[1]
    if documented(doc) != names:
        yield f"the Parameters section lists {documented(doc)}, the signature has {names}"
    if section(doc, "Returns") is None and section(doc, "Yields") is None:
        yield "no Returns or Yields section"
    if not re.search(r"^\*\*Laws\*\*\n\n- ", section(doc, "Notes") or "", re.MULTILINE):
        yield "no list headed **Laws** in Notes"
    if ">>>" not in (section(doc, "Examples") or ""):
        yield "no doctest in Examples"


def section(doc, title):
    """Body of one numpydoc section, None where there is no such section."""
    found = re.search(
        rf"^{title}\n-+\n(.*?)(?=^[^\n]+\n-{{3,}}\n|\Z)", doc, re.MULTILINE | re.DOTALL
    )
    return found[1] if found else None


def test_this_project():
    complaints = check_docstrings(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_docstrings(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("grid", "x = 1\n", "grid: no module docstring"),
    ("grid", '"""Why?"""\n', "which test file checks it"),
    ("grid", '"""Why? By tests/test_none.py."""\n', "grid: tests/test_none.py is missing"),
    ("grid", CLASS_TEXT, "grid.Both: lists ['a', 'b'], takes ['a', 'c']"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_docstrings(project))


# where, part of the text, what replaces it, what the complaint has to say
REPLACED = [
    ("cp", "    mode : int\n        Mode.\n", "", "the signature has"),
    ("cp", "    mode : int", "    axis : int", "lists ['X', 'axis']"),
    ("cp", "Returns\n    -------", "Result\n    ------", "no Returns or Yields"),
    ("cp", "**Laws**", "Laws", "no list headed **Laws**"),
    ("cp", "- *same*: it", "It", "no list headed **Laws**"),
    ("cp", ">>> 1\n", "", "no doctest"),
    ("loops", '"""Return it."""', "pass", "loops.product_of: no docstring"),
]


@pytest.mark.parametrize(("place", "old", "new", "expected"), REPLACED)
def test_planted_change_is_caught(project, place, old, new, expected):
    replace(project, place, old, new)
    assert expected in "\n".join(check_docstrings(project))
