"""Every equation says where it comes from, is cited by code, and that code is tested."""

import code_map
import pytest

from qcp_ref.conformance.spec import OPS

MATHS = ".. math::\n   :label: {}\n\n   x = x\n\n   y = y\n\n"
THEORY = f"Maths\n=====\n\nThe sum is [derived]\n\n{MATHS.format('als-sum')}"
CHAPTER = '''"""Sums. Checked by tests/test_als.py."""

__all__ = ["add"]


def add(x):
    """Add up.

    Equation @`als-sum`.
    """
    return _sum(x)


def _sum(x):
    return sum(x)
'''
TESTS = """from qcp_ref import add

CASES = [add([1])]


def helper():
    return CASES


def test_sum():
    assert helper() == [1]


def test_nothing():
    pass
"""


@pytest.fixture
def project(tmp_path):
    """Return the files of a small project, and a function that reads what they say."""
    files = {
        "docs/theory/index.rst": ".. toctree::\n\n   als\n",
        "docs/theory/als.rst": THEORY,
        "docs/api/als.rst": "als\n===\n",
        "qcp_ref/als.py": CHAPTER,
        "tests/test_als.py": TESTS,
    }

    def read():
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text.replace("@", ":eq:"))  # the role, for no other check
        return code_map.read(tmp_path)

    return files, read


@pytest.fixture(scope="module")
def ours():
    return code_map.read()


def test_this_project(ours):
    complaints = code_map.complaints(ours)
    assert not complaints, "\n" + "\n".join(complaints)


def test_what_the_kit_asks_is_an_equation(ours):
    assert {op.equation for op in OPS.values()} <= ours.equations.keys()


def test_a_known_row_of_the_table(ours):
    text = code_map.page(ours, {"requantize": "integer-exact"})
    (found,) = text.split("   * - :eq:`integer-exact` ")[1:]
    found = found.split("   * - ")[0]
    assert ":py:obj:`requantize <qcp_ref.layers.integer.requantize>`" in found
    assert ":py:obj:`loops.rescale <qcp_ref.loops.rescale>`" in found
    assert "``test_integer.py`` " in found
    assert "kit: ``requantize``" in found
    assert text.count(":eq:") == len(ours.equations)


def test_a_right_project_passes_and_only_its_users_count(project):
    found = project[1]()
    assert code_map.complaints(found) == []
    assert found.equations["als-sum"].tags == ("derived",)
    assert found.places == {"als-sum": [code_map.Place("als", "add")]}
    assert found.tests == {"als-sum": {"tests/test_als.py": ["test_sum"]}}


def test_private_code_is_tested_through_what_uses_it(project):
    files, read = project
    files["qcp_ref/als.py"] = CHAPTER.replace("Equation @`als-sum`.", "Words.").replace(
        "return sum(x)", "return sum(x)  # @`als-sum`"
    )
    found = read()
    assert found.places == {"als-sum": [code_map.Place("als", "_sum")]}
    assert found.tests == {"als-sum": {"tests/test_als.py": ["test_sum"]}}


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("docs/theory/als.rst", " [derived]", "", "als-sum: nothing says where it comes from"),
        ("docs/theory/als.rst", "[derived]", "[invented]", "als-sum: nothing says where"),
        ("qcp_ref/als.py", "als-sum", "als-product", "cites als-product, which is no equation"),
        ("qcp_ref/als.py", "@`als-sum`", "sum", "als-sum: no function and no module cites it"),
        ("tests/test_als.py", "add([1])", "1", "als.add: cites an equation, but no test file"),
        ("tests/test_als.py", "add([1])", "1", "als-sum: no test uses what cites it"),
        ("tests/test_als.py", "from qcp_ref import", "from numpy import", "als.add: cites"),
    ],
)
def test_faults_are_found(project, name, old, new, complaint):
    files, read = project
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    assert any(complaint in said for said in code_map.complaints(read()))


def test_ranges_of_labels(project):
    files, read = project
    files["docs/theory/als.rst"] = THEORY + MATHS.format("als-b") + MATHS.format("als-c")
    files["qcp_ref/als.py"] = CHAPTER.replace("`als-sum`.", "`als-sum` to\n    @`als-b`; @`als-c`")
    found = read()
    assert [len(places) for places in found.places.values()] == [1, 1, 1]
    files["qcp_ref/als.py"] = CHAPTER.replace("`als-sum`.", "`als-c` to @`als-sum`.")
    assert any("cites als-c to als-sum" in said for said in code_map.complaints(read()))


@pytest.mark.parametrize(
    ("before", "after", "tags"),
    [
        ("A thing [source: Somebody 1999], then", "", ["source: Somebody 1999"]),
        ("It was so [derived]. A sum", "", ["derived"]),
        ("It was so [abstract]. A sum [derived]", "", ["derived"]),
        ("A sum", "[derived]. More", ["derived"]),
        ("A sum", "with x as above [derived]. More is [abstract]", ["derived"]),
        ("A sum", "More is said [derived].", []),
    ],
)
def test_tags_around_an_equation(before, after, tags):
    text = f"Title\n=====\n\nOpening.\n\n{before}\n\n{MATHS.format('als-sum')}{after}\n"
    (equation,) = code_map.read_page("als", text)
    assert equation.tags == tuple(tags)


def test_a_sentence_that_goes_on_has_one_origin():
    text = f"T\n=\n\nA sum [derived]\n\n{MATHS.format('als-a')}and another\n\n"
    text += f"{MATHS.format('als-b')}where it ends. A new one\n\n{MATHS.format('als-c')}"
    assert [e.tags for e in code_map.read_page("als", text)] == [("derived",), ("derived",), ()]


def test_tags_of_docstring_and_chapter_stand_in(project):
    files, read = project
    bare = THEORY.replace(" [derived]", "")
    files["docs/theory/als.rst"] = bare.replace(
        "The sum is", "This chapter is [abstract].\n\nA sum"
    )
    assert read().equations["als-sum"].tags == ("abstract",)
    files["qcp_ref/als.py"] = CHAPTER.replace("`als-sum`.", "`als-sum` [beyond the paper].")
    assert read().equations["als-sum"].tags == ("beyond the paper",)
    files["qcp_ref/als.py"] = CHAPTER.replace("`als-sum`.", "`als-sum`; others [derived].")
    assert read().equations["als-sum"].tags == ("abstract",)
