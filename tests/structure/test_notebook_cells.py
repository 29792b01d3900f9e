"""Notebooks have no outputs, use public names and end with an assert."""

import json
import re

import pytest
from planted import replace
from tree import ROOT


def check_notebooks(root):
    """Notebooks have no outputs, use public names only and end in a cell that asserts."""
    complaints = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = [
            cell
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"
        ]
        if any(cell["outputs"] or cell["execution_count"] for cell in cells):
            complaints.append(f"{path.name}: stored outputs; run nbstripout")
        code = ["".join(cell["source"]) for cell in cells]
        if not code or "assert " not in code[-1]:
            complaints.append(f"{path.name}: the last code cell asserts nothing")
        if re.search(r"qcp_ref\._|import +_|qcp_ref\.loops", "\n".join(code)):
            complaints.append(f"{path.name}: uses names that are not public")
    return complaints


def test_this_project():
    complaints = check_notebooks(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_notebooks(project) == []


# where, part of the text, what replaces it, what the complaint has to say
REPLACED = [
    ("notebooks/01.ipynb", '"outputs": []', '"outputs": ["x"]', "stored outputs"),
    ("notebooks/01.ipynb", "assert 1 < 2", "x = 1", "asserts nothing"),
    ("notebooks/01.ipynb", "assert 1", "import qcp_ref._checks; assert 1", "not public"),
]


@pytest.mark.parametrize(("place", "old", "new", "expected"), REPLACED)
def test_planted_change_is_caught(project, place, old, new, expected):
    replace(project, place, old, new)
    assert expected in "\n".join(check_notebooks(project))
