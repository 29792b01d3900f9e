"""Each law has a name, a property test that cites it, and planted faults that need it."""

import laws
import pytest
from planted import CITED, LAWS_TEXT, TEST, add, replace
from tree import ROOT


def check_laws(root):
    """Each law has a name, a property test that cites it, and planted faults that need it."""
    return laws.complaints(laws.read(root))


def test_this_project():
    complaints = check_laws(ROOT)
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_small_project_obeys(project):
    assert check_laws(project) == []


# where, text added at the end, what the complaint has to say
ADDED = [
    ("cp", LAWS_TEXT, "cp.Both: expected '- *slug*: law', got 'without name, as before'"),
    ("cp", LAWS_TEXT, "cp: no property test cites Both.add.sum"),
    ("cp", LAWS_TEXT, "cp.Both.none: expected '- *slug*: law', got ''"),
    (TEST, CITED.format('"norm.same", "norm.size"'), "cites norm.size, which is no law"),
    (TEST, CITED.format('"norm.same"'), "cites norm.same, but does not use norm"),
    (TEST, CITED.format("NAME"), "test_cp.py: test_more cites NAME, which is no law"),
    (TEST, CITED.format('"norm.same"').replace("test_", ""), "more cites laws, but is no test"),
    ("grid", LAWS_TEXT, "grid: 0 planted faults"),
]


@pytest.mark.parametrize(("place", "text", "expected"), ADDED)
def test_planted_fault_is_caught(project, place, text, expected):
    add(project, place, text)
    assert expected in "\n".join(check_laws(project))


# where, part of the text, what replaces it, what the complaint has to say
REPLACED = [
    ("cp", "*same*: ", "", "cp.norm: expected '- *slug*: law', got 'it is itself'"),
    ("cp", "*same*: ", "*same* ", "got '*same* it is itself'"),
    ("cp", "*same*: ", "*The same*: ", "got '*The same*: it is itself'"),
    ("cp", "itself\n", "itself\n    - *same*: again\n", "norm.same: 2 laws have this name"),
    ("cp", "itself\n", "itself\n\n    - *more*: it\n", "no property test cites norm.more"),
    (TEST, '@law("norm.same")\n', "", "cp: no property test cites norm.same"),
    (TEST, '@law("norm.same")\n', "", "cp: 0 planted faults are caught by tests that cite"),
    (TEST, "@given(numbers)\n", "", "cp: no property test cites norm.same"),
    (TEST, "LAST = test_same", "LAST = test_other", "cp: 2 planted faults"),
    (TEST, "(test_same, 1), ", "", "cp: 2 planted faults"),
    (TEST, "assert caught(", "assert run(", "cp: 0 planted faults"),
    ("cp", "tests/tensors/test_cp.py", "tests/tensors/test_tensor.py", "cp: 0 planted faults"),
]


@pytest.mark.parametrize(("place", "old", "new", "expected"), REPLACED)
def test_planted_change_is_caught(project, place, old, new, expected):
    replace(project, place, old, new)
    assert expected in "\n".join(check_laws(project))


@pytest.mark.parametrize(
    "last",
    [
        "def test_fault():\n    assert caught(LAST, norm=len)\n",
        "def test_fault():\n    test = test_same\n    assert caught(test, norm=len)\n",
        "@pytest.mark.parametrize('x', [1])\ndef test_fault(x):\n    assert caught(test_same)\n",
    ],
)
def test_faults_without_a_table_are_counted_by_calls(project, last):
    path = project / TEST
    path.write_text(path.read_text().replace("(test_same, 1), ", "") + "\n\n" + last)
    assert check_laws(project) == []


def test_laws_and_their_tests_are_listed(project):
    text = laws.page(laws.read(project))
    assert text.startswith("2 laws, cited by 2 tests.\n")
    row = "   * - :py:obj:`norm <qcp_ref.tensors.cp.norm>` *same*\n     - it is itself\n"
    assert row in text and ":doc:`/api/tensors/tensor`" in text
