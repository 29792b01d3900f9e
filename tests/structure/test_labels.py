"""Each equation is labelled once, in the theory page of its chapter."""

import re
from collections import Counter
from pathlib import Path

import pytest
from planted import MATH, add, replace
from sources import modules
from tree import ROOT


def check_labels(root):
    """Each equation is labelled once, in the theory page of its chapter; each citation resolves."""
    complaints, labels = [], Counter()
    texts = {f"qcp_ref/{name}": source for name, source in modules(root).items()}
    for folder, suffix in (("docs", "rst"), ("notebooks", "ipynb"), ("tests", "py")):
        for path in sorted((root / folder).rglob(f"*.{suffix}")):
            place = path.relative_to(root)
            if "_build" not in place.parts and path.name != Path(__file__).name:
                texts[place.as_posix()] = path.read_text(encoding="utf-8")
    for place, text in texts.items():
        for label in re.findall(r"^ +:label: +(\S+)", text, re.MULTILINE):
            labels[label] += 1
            if not place.startswith("docs/theory/"):
                complaints.append(f"{place}: label {label} stands outside docs/theory")
            elif not label.startswith(Path(place).stem + "-"):
                complaints.append(f"{place}: label {label} does not begin with the chapter's name")
    complaints += [f"label {label} stands {n} times" for label, n in labels.items() if n > 1]
    for place, text in texts.items():
        for cited in re.findall(r":eq:`([^`]*)`", text):
            if re.sub(r".*<(.*)>", r"\1", cited) not in labels:
                complaints.append(f"{place}: cites the unknown equation {cited}")
    return complaints


def test_this_project():
    complaints = check_labels(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_labels(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("cp", "# see :eq:`cp-missing`\n", "cites the unknown equation cp-missing"),
    ("docs/index.rst", ":eq:`text <cp-missing>`\n", "unknown equation text <cp-missing>"),
    ("docs/theory/tensors/cp.rst", MATH.format("cp-word"), "label cp-word stands 2 times"),
    ("docs/theory/tensors/cp.rst", MATH.format("word"), "does not begin with the chapter"),
    ("docs/index.rst", MATH.format("cp-other"), "stands outside docs/theory"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_labels(project))


# where, part of the text, what replaces it, what the complaint has to say
REPLACED = [
    ("docs/theory/tensors/cp.rst", "   :label: cp-word\n", "", "unknown equation cp-word"),
]


@pytest.mark.parametrize(("place", "old", "new", "expected"), REPLACED)
def test_planted_change_is_caught(project, place, old, new, expected):
    replace(project, place, old, new)
    assert expected in "\n".join(check_labels(project))
