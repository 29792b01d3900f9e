"""No path of one machine and no package index is written into the project."""

import re

import pytest
from planted import add
from tree import ROOT


def check_machine_paths(root):
    """No path of somebody's machine and no package index is written into the project."""
    # In pieces, so that this file passes its own rule.
    places = r"work|root|opt|home/\w+|Users/\w+|tmp/venv"
    indexes = "--(?:extra-)?index-" + "url|python" + "hosted"
    pattern = re.compile(rf"(?<![\w./~-])/(?:{places})/|{indexes}")
    suffixes = {".py", ".rst", ".md", ".toml", ".yaml", ".cff", ".ipynb", ".json", ".bib", ""}
    skipped = {".git", "build", "_build", "_generated", "__pycache__", "venv", ".venv"}
    complaints = []
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root)
        hidden = any(p.startswith(".") and p not in {".ci", ".gitignore"} for p in place.parts)
        if (
            not path.is_file()
            or path.suffix not in suffixes
            or hidden
            or skipped & set(place.parts)
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                complaints.append(f"{place}:{number}: a path of one machine, or a package index")
    return complaints


def test_this_project():
    complaints = check_machine_paths(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_machine_paths(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("docs/index.rst", "see /wo" + "rk/main\n", "docs/index.rst:1: a path"),
    (".ci/run", "pip install --index" + "-url x\n", "package index"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_machine_paths(project))
