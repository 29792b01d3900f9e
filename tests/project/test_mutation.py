"""Mutation testing itself: what counts as a mutant, samples, verdicts, resuming, the report.

It is run here on a package of two small modules with one test file each.
"""

import ast
import importlib
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="makes the mutants, in the dev extra")

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
try:
    mutants, judge, mutation = map(importlib.import_module, ["mutants", "judge", "mutation"])
finally:
    sys.path.remove(str(SCRIPTS))

MODULE = '''"""Words: 1 + 1."""

from typing import TypeAlias, TypeVar

__all__ = ["clip", "forever"]

Number: TypeAlias = "int | float"
T = TypeVar("T", bound=int)
LIMIT = 10


def clip(x: "int | None" = 3, *, low: int = 0) -> Number:
    """Return 1 + 1."""
    if x < low:
        raise ValueError(f"x: expected at least {low + 1}, got {x}" + "!")
    return min(x, LIMIT)


def forever(n):
    """Count down."""
    total = 0
    while n > 0:
        total += n
        n -= 1
    return total


def unused(x):
    return x + 1
'''
TESTS = """import pytest
from tiny.words import clip, forever


@pytest.fixture(scope="module")
def shared():
    return forever(3)


def test_clip():
    assert clip(5) == 5
    assert clip(11) == 10
    with pytest.raises(ValueError, match="x: "):
        clip(-1)


def test_forever():
    assert forever(2) == 3


def test_shared(shared):
    assert shared == 6


def test_planted_fault_is_not_asked():
    raise AssertionError


def test_that_fails_anyway():
    assert clip(5) == 6
"""


MANY = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def everything(source, **options):
    return list(mutants.mutants(source, **options))


def changes(source):
    return {(mutant.old, mutant.new) for mutant in everything(source)}


@pytest.fixture
def project(tmp_path):
    """Return the folder of a small package with a test file."""
    files = {
        "tiny/__init__.py": "",
        "tiny/words.py": MODULE,
        "tests/test_words.py": TESTS,
        "tests/helpers/support.py": "",
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(project, *arguments):
    """Run the command on the small package; return its exit status and what it printed."""
    out = io.StringIO()
    place = ["--root", str(project), "--package", "tiny", "--chapter", "words", "--patience", "0.5"]
    return mutation.main([*place, *arguments], out), out.getvalue()


def rows(project):
    lines = (project / ".mutation" / "session.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


# --- what a mutant is -----------------------------------------------------------------------------


def test_every_mutant_is_another_program_and_has_a_name_of_its_own():
    found = everything(MODULE)
    trees = {ast.dump(ast.parse(mutant.source)) for mutant in found}
    assert len(trees) == len(found) == len({mutant.key for mutant in found})
    assert ast.dump(ast.parse(MODULE)) not in trees


def test_only_behaviour_is_changed():
    text = "\n".join(mutant.diff(MODULE, "words.py") for mutant in everything(MODULE))
    removed = "\n".join(re.findall("^-(.*)", text, re.MULTILINE))
    for word in ("Words", "TypeAlias", "TypeVar", "__all__", "Return", "raise", "import"):
        assert word not in removed, word
    assert not any('"int | None"' not in m.source for m in everything(MODULE))
    assert "LIMIT = 11" in text and "low: int = 1" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y = f(a, b)", "y = f(b)"),  # mutmut's
        ("y = a + b", "y = a - b"),
        ("y = a < b", "y = a <= b"),
        ("y = a if b else c", "y = a if (b) or True else c"),
        ("y = f('left')", "y = f('XXleftXX')"),
        ("y = max(a, b)", "y = min(a, b)"),  # ours, from here on
        ("y = np.floor(a)", "y = np.ceil(a)"),
        ("y = x.any()", "y = x.all()"),
        ("y = x.copy()", "y = x"),
        ("y = np.tril(x) + z", "y = (x) + z"),
        ("y = abs(a - b)", "y = (a - b)"),
        ("y = A.T", "y = A"),
        ("y = 3", "y = 2"),
        ("y = 1e-9", "y = 0.0"),
        ("y = [x for x in z if x > 0]", "y = [x for x in z if True]"),
        ("x[0] = y", "pass"),
        ("x += y", "pass"),
        ("f(x)", "pass"),
        ("if a: f()", "if True: f()"),
        ("if a: f()", "if False: f()"),
        ("while a: f()", "while False: f()"),
        ("@dataclass(frozen=True)", "@dataclass(frozen=False)"),
    ],
)
def test_faults_that_are_made(old, new):
    source = f"{old}\nclass C: pass\n" if old.startswith("@") else f"{old}\n"
    assert (old, new) in changes(source)


@pytest.mark.parametrize(
    ("source", "left_out"),
    [
        ("y = f(a, b)", "None"),  # crashes at once
        ("y = f() + 1", "None"),
        ("y = f('Left')", "LEFT"),
        ("y = f('Left')", "left"),
        ("y = x.reshape(3, -1)", "-2"),  # the same to NumPy
        ("y = x.reshape(3, -1)", "-0"),
        ("y = zip(a, b, strict=True)", "False"),
        ("y = zip(a, b, strict=True)", "(a, b, )"),
        ("assert a, f'{b + 1}'", "None"),
    ],
)
def test_changes_that_say_nothing_are_left_out(source, left_out):
    assert changes(source + "\n")
    assert not [new for _, new in changes(source + "\n") if left_out in new]


def test_a_name_survives_edits_elsewhere():
    before = {mutant.key for mutant in everything(MODULE)}
    after = {mutant.key for mutant in everything('"""New."""\n\nX = f"a"\n\n' + MODULE)}
    assert before <= after


def test_equal_lines_have_names_of_their_own():
    source = "def f(x):\n    x = g(x, 1)\n    x = g(x, 1)\n    return x\n"
    found = everything(source)
    assert len({mutant.key for mutant in found}) == len(found)
    twins = [mutant for mutant in found if mutant.new == "x = g(x, 2)"]
    assert [(mutant.line, mutant.number) for mutant in twins] == [(2, 0), (3, 1)]


def test_samples_are_drawn_by_seed_and_nested():
    small, large = everything(MODULE, sample=5, seed=1), everything(MODULE, sample=12, seed=1)
    assert len(large) == 12 and small == large[:5]
    assert everything(MODULE, sample=12, seed=2) != large
    complete = everything(MODULE)
    assert {m.key for m in everything(MODULE, sample=10**6)} == {m.key for m in complete}
    assert [m.line for m in complete] == sorted(m.line for m in complete)


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verdicts_are_true_and_the_session_is_resumed(project, monkeypatch):
    monkeypatch.setattr(mutation, "GOALS", {"words": 100.0})
    status, text = run(project)
    found = {(row["old"], row["new"]): row for row in rows(project)}
    assert status == 0  # no --check
    states = {change: row["state"] for change, row in found.items()}
    assert states["return min(x, LIMIT)", "return max(x, LIMIT)"] == "killed"
    assert states["LIMIT = 10", "LIMIT = 11"] == "killed"
    assert states["n -= 1", "n += 1"] == "timeout"
    assert states["n -= 1", "pass"] == "timeout"
    assert states["if x < low:", "if x <= low:"] == "survived"
    assert states["return x + 1", "return x - 1"] == "survived"
    assert found["return x + 1", "return x - 1"]["test"] == "no test reaches it"
    assert states["total = 0", "total = 1"] == "killed"
    # A default is judged by those who call the function.
    assert (
        states[
            'def clip(x: "int | None" = 3, *, low: int = 0) -> Number:',
            'def clip(x: "int | None" = 3, *, low: int = 1) -> Number:',
        ]
        == "survived"
    )
    killers = {row["test"] for row in found.values() if row["state"] == "killed"}
    assert killers <= {
        f"tests/test_words.py::test_{name}" for name in ("clip", "forever", "shared")
    }
    assert "left out, failed without a change: tests/test_words.py::test_that_fails_anyway" in text

    survivors = [row for row in found.values() if row["state"] == "survived"]
    judged = len(found)
    late = sum(row["state"] == "timeout" for row in found.values())
    percent = 100 * (judged - len(survivors)) / judged
    line = f"words{judged:23}{judged - late - len(survivors):8}{late:8}{0:8}{len(survivors):6}"
    assert f"{line}  {percent:5.1f} % (goal 100)" in text
    assert "tiny/words.py:14 clip: survived\n" in text
    assert "-    if x < low:\n+    if x <= low:\n" in text
    assert (project / "tiny" / "words.py").read_text() == MODULE

    # Nothing is judged twice, and a line cut short is judged again.
    assert "0 to judge" in run(project)[1]
    session = project / ".mutation" / "session.jsonl"
    lines = session.read_text().splitlines()
    session.write_text("\n".join([*lines[:-2], lines[-2], lines[-1][:40]]))
    assert "1 to judge" in run(project)[1]
    assert run(project, "--check")[0] == 1

    # A better test kills a survivor; a reason takes others out of the count.
    tests = project / "tests" / "test_words.py"
    tests.write_text(TESTS + "\n\ndef test_edge():\n    assert clip(0) == 0\n")
    _, text = run(project, "--survivors")
    assert f"{len(survivors)} to judge" in text and "x <= low" not in text
    listed = [row for row in rows(project)[-len(survivors) :] if row["state"] == "survived"]
    assert listed
    reasons(project, [*listed])
    status, text = run(project, "--survivors", "--check")
    assert status == 0 and "100.0 %" in text
    killed = next(row for row in rows(project) if row["new"] == "return max(x, LIMIT)")
    reasons(project, [*listed, killed])
    status, text = run(project, "--survivors", "--check")
    assert status == 1 and "listed in tests/survivors.toml, but tests/test_words.py::" in text


def reasons(project, listed):
    """Write the list of survivors with reasons."""
    parts = [
        "[[survivor]]\nchapter = 'words'\nwhere = '{where}'\nold = '{old}'\nnew = '{new}'\n"
        "reason = 'because'\n".format(**row)
        for row in listed
    ]
    (project / "tests" / "survivors.toml").write_text("\n".join(parts))


def test_a_change_of_any_text_makes_verdicts_old(project):
    files = ("tests/test_words.py",)
    before = mutation.digest(project, "tiny", "words", files)
    assert before == mutation.digest(project, "tiny", "words", files)
    for name in ("tiny/__init__.py", "tests/test_words.py", "tests/helpers/support.py"):
        with (project / name).open("a") as stream:
            stream.write("# more\n")
        now = mutation.digest(project, "tiny", "words", files)
        assert now != before, name
        before = now


def test_the_survey_knows_which_tests_reach_a_line(project):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    place = judge.Place(project, "tiny.words", ("tests/test_words.py",))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        plan = pool.submit(judge.survey, place).result()
    lines = MODULE.splitlines()
    clip, total = lines.index("    if x < low:") + 1, lines.index("    total = 0") + 1
    name = "tests/test_words.py::test_{}".format
    assert plan.tests([clip]) == [name("clip")]
    assert set(plan.tests([lines.index("LIMIT = 10") + 1])) == plan.seconds.keys()
    # The fixture of the module runs it, too: whoever uses its value may notice.
    assert set(plan.tests([total])) == {name("clip"), name("forever"), name("shared")}
    assert plan.tests([lines.index("    return x + 1") + 1]) == []
    assert plan.left_out == {name("that_fails_anyway"): "failed"}
    assert not [module for module in plan.modules if module.startswith("tiny")]


def test_plans_of_several_files_are_put_together():
    one = judge.Plan({"a": 1.0}, {1: {"a"}, 2: {"a"}}, {}, ["os"])
    two = judge.Plan({"b": 0.5}, {2: {"b"}}, {"c": "failed"}, ["sys"])
    both = judge.merge([one, two])
    assert both.tests([2]) == ["b", "a"] and both.tests([1]) == ["a"]
    assert both.left_out == {"c": "failed"} and both.modules == ["os", "sys"]


# --- this project ---------------------------------------------------------------------------------


def test_each_chapter_has_its_test_file_and_mutants():
    for chapter in mutation.JUDGED:
        for file in mutation.files_of_tests(chapter):
            assert (mutation.ROOT / file).exists(), file
    package = mutation.ROOT / "qcp_ref"
    places = [path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")]
    files = {".".join(parts) for parts in places if parts[-1] not in {"__init__", "__main__"}}
    chapters = {name for name in files if name.split(".")[0] not in {"app", "conformance"}}
    assert chapters == set(mutation.JUDGED)
    assert mutation.GOALS.keys() <= chapters


def test_listed_survivors_are_mutants_of_this_project():
    """Making all mutants takes a minute: in short runs those of few chapters."""
    listed = mutation.reasons(mutation.ROOT / "tests" / "survivors.toml")
    chapters = sorted({row[0] for row in listed})
    chapters = (
        chapters
        if MANY
        else [*set(chapters) & {"bounds", "layers.cost", "tensors.svd", "tensors.tensor"}]
    )
    known = {
        (chapter, mutant.where, mutant.old, mutant.new)
        for chapter in chapters
        for mutant in everything(mutation.place_of(chapter).read_text())
    }
    asked = {row for row in listed if row[0] in chapters}
    assert not asked - known, "no longer a mutant: take it off tests/survivors.toml"
    assert all(len(reason) > 10 for reason in listed.values())
