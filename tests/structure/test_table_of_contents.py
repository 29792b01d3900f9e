"""The table of contents exports what the chapters name in their ``__all__``."""

import ast

import pytest
from planted import FIRST, SECOND, add, replace
from sources import CHAPTERS, PARTS, imports, literal_all, modules
from tree import BOOK, ROOMS, ROOT, defined, ring


def check_names(root):
    """A literal ``__all__`` everywhere; the table of contents re-exports what the chapters name."""
    complaints, expected = [], {}
    sources = modules(root)
    for name, source in sources.items():
        tree = ast.parse(source)
        names = literal_all(tree)
        if name == "minimal":
            continue  # a page to be read whole
        if name in {*PARTS, *ROOMS}:
            if len(tree.body) > 1:
                complaints.append(f"{name}: a part's __init__ holds a docstring, got more")
            continue
        if names is None:
            complaints.append(f"{name}: no literal __all__")
            continue
        if len(set(names)) != len(names):
            complaints.append(f"{name}: __all__ repeats a name")
        if ring(name) == "book" and name != "__init__":
            inside = {imported for module, imported, _ in imports(tree) if name == "loops"}
            missing = sorted(set(names) - defined(tree) - inside)
            complaints += [
                f"{name}: __all__ names {m}, which is not defined there" for m in missing
            ]
        if name in CHAPTERS and names:
            expected[name] = names
        if name.startswith("_") and name != "__init__" and names:
            complaints.append(f"{name}: the ground floor has no public names")
    found, order = {}, []
    tree = ast.parse(sources["__init__"])
    for module, imported, _ in imports(tree):
        if module.startswith("qcp_ref."):
            found.setdefault(module.removeprefix("qcp_ref."), []).append(imported)
            order.append(module.removeprefix("qcp_ref."))
    for name in sorted(expected.keys() | found.keys()):
        if sorted(found.get(name, [])) != sorted(expected.get(name, [])):
            complaints.append(f"__init__: does not re-export the __all__ of {name}")
    reading = [name for name in BOOK if name in order]
    if list(dict.fromkeys(order)) != reading:
        complaints.append(f"__init__: chapters out of reading order, expected {', '.join(reading)}")
    everything = sorted(name for names in expected.values() for name in names)
    if sorted(literal_all(tree) or []) != everything:
        complaints.append("__init__: __all__ is not the union of the chapters' __all__")
    return complaints


def test_this_project():
    complaints = check_names(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_names(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("cp", '__all__ += ["b"]\nb = 1\n', "cp: no literal __all__"),
    ("extra", "__all__ = [x for x in 'ab']\n", "extra: no literal __all__"),
    ("grid", '__all__ = ["b"]\nb = 1\n', "does not re-export the __all__ of grid"),
    ("grid", '__all__ = ["b"]\n', "__all__ names b, which is not defined"),
    ("__init__", "from qcp_ref.tensors.cp import _late\n", "does not re-export"),
    ("tensors/__init__", "x = 1\n", "tensors: a part's __init__ holds a docstring"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_names(project))


# where, part of the text, what replaces it, what the complaint has to say
REPLACED = [
    ("__init__", '"norm", ', "", "__all__ is not the union"),
    ("__init__", FIRST + SECOND, FIRST, "the __all__ of tensors.cp"),
    ("__init__", FIRST + SECOND, SECOND + FIRST, "out of reading order"),
    ("cp", '["norm"]', '["norm", "norm"]', "repeats a name"),
]


@pytest.mark.parametrize(("place", "old", "new", "expected"), REPLACED)
def test_planted_change_is_caught(project, place, old, new, expected):
    replace(project, place, old, new)
    assert expected in "\n".join(check_names(project))
