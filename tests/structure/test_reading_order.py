"""Only known modules; imports point upwards in the book, and from outer rings inwards."""

import ast

import pytest
from planted import add
from sources import CHAPTERS, PARTS, imports, modules, target
from tree import ALONE, BOOK, RINGS, ROOT, ring

FLOOR = {"tensors": 1, "grids": 1, "factors": 2, "layers": 3, "networks": 4}


def check_reading_order(root):
    """Only known modules; imports point upwards in the book, and from outer rings inwards."""
    complaints = []
    sources = modules(root)
    for name, source in sources.items():
        if not has_place(name):
            complaints.append(f"{name}: has no place in the reading order")
            continue
        for module, imported, _ in imports(ast.parse(source)):
            if module.startswith("."):
                complaints.append(f"{name}: relative import of {module}")
            wanted = target(module, imported, sources)
            if wanted is not None and not allowed(name, wanted or None):
                complaints.append(f"{name}: may not import {wanted or 'the whole package'}")
    return complaints


def has_place(name):
    """Is this module, or the ring or part that it belongs to, known?"""
    top = name.split(".")[0]
    return name in [*BOOK, *PARTS, "__init__", "__main__"] or top in [*RINGS[1:], *ALONE]


def allowed(importer, wanted):
    """May this module import that one (None: the package itself)?"""
    own, other = importer.split(".")[0], wanted and wanted.split(".")[0]
    if own == other and own not in PARTS:
        return True  # inside a ring, or inside the loops
    if importer == "__main__":
        return other == "app"
    if own in ALONE or other == "minimal":  # to be read and to be checked: nothing is built on it
        return False
    if importer == "__init__":
        return wanted in CHAPTERS
    if ring(importer) == "book":
        if wanted not in BOOK or importer not in BOOK:
            return False
        floors = FLOOR.get(other, 0), FLOOR.get(own, 0)
        return floors[0] < floors[1] or (
            other in {own, wanted} and BOOK.index(wanted) < BOOK.index(importer)
        )
    if other == "loops":
        return own == "conformance"
    return wanted is None or RINGS.index(ring(wanted)) < RINGS.index(ring(importer))


def test_this_project():
    complaints = check_reading_order(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_reading_order(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("tensor", "from qcp_ref.tensors.cp import norm\n", "tensor: may not import tensors.cp"),
    ("tensor", "def _f():\n    from qcp_ref.tensors import cp\n", "import tensors.cp"),
    ("tensor", "from qcp_ref import tensors\n", "may not import tensors"),
    ("grid", "from qcp_ref.tensors.cp import norm\n", "grids.grid: may not import tensors.cp"),
    ("_checks", "from qcp_ref.tensors.cp import norm\n", "_checks: may not import tensors.cp"),
    ("tensor", "def _f():\n    import qcp_ref\n", "the whole package"),
    ("tensor", "class _C:\n    from .cp import norm\n", "relative import"),
    ("cp", "from qcp_ref.app.cli import main\n", "cp: may not import app"),
    ("cp", "from qcp_ref import loops\n", "cp: may not import loops"),
    ("app/cli", "from qcp_ref.loops import product_of\n", "import loops"),
    ("loops", "from qcp_ref._checks import x\n", "loops: may not import"),
    ("minimal", "from qcp_ref.tensors.cp import norm\n", "minimal: may not import tensors.cp"),
    ("cp", "from qcp_ref.minimal import epc\n", "cp: may not import minimal"),
    ("extra", '"""New."""\n', "extra: has no place"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_reading_order(project))
