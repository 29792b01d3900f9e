"""Each module has its tests; each chapter has its theory page and its API page."""

import ast
import re

import pytest
from planted import add
from sources import CHAPTERS, PARTS, modules
from tree import ROOMS, ROOT

# Chapters without equations of their own: they serve others, or share a page with one.
PAGES = {
    "factors.quantized": "factors/qcp",
    "factors.ao_admm": "factors/qcp",
    "factors.descent": "factors/rows",
    "factors.secular": "factors/epc",
    "factors.methods": "factors/search",
    "layers.geometry": "layers/conv",
    "layers.layer": "layers/conv",
    "networks.frontier": "networks/budget",
    "networks.jobs": "networks/budget",
    "networks.allocation": "networks/budget",
    "tensors.sweep": "tensors/als",
}


def check_companions(root):
    """Each module has its test file or names one; each chapter has its theory and API page."""
    complaints = []
    for name, source in modules(root).items():
        parts = name.split(".")
        inside = name == "__init__" or name in {*PARTS, *ROOMS, "app", "conformance", "loops"}
        if inside or parts[0] == "loops" or parts[-1].startswith("test_"):
            continue  # the loops are tested as one module
        own = "/".join(["tests", *parts[:-1], f"test_{parts[-1].strip('_')}.py"])
        needed = [] if "tests/" in (ast.get_docstring(ast.parse(source)) or "") else [own]
        if parts[0] == "conformance":
            # The kit is tested by what it does; each part is imported by some test.
            tests = "".join(path.read_text() for path in sorted((root / "tests").rglob("*.py")))
            if re.search(rf"conformance(\.\w+)*(\.| import [^)]*?\b){parts[-1]}\b", tests):
                needed = []
        if name in CHAPTERS:
            place = name.replace(".", "/")
            needed += [f"docs/api/{place}.rst", f"docs/theory/{PAGES.get(name, place)}.rst"]
        complaints += [
            f"{name}: {file} is missing" for file in needed if not (root / file).exists()
        ]
    return complaints


def test_this_project():
    complaints = check_companions(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_companions(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("grid", '"""New."""\n', "tests/grids/test_grid.py is missing"),
    ("grid", '"""New."""\n', "docs/theory/grids/grid.rst is missing"),
    ("app/extra", '"""New."""\n', "tests/app/test_extra.py is missing"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_companions(project))
