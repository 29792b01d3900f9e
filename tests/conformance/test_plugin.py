"""The pytest plug-in, used as other projects use it: in a folder of theirs, by its options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qcp_ref.conformance import suite
from qcp_ref.conformance.cases.vectors import SUITE, chosen_cases, everything, load
from qcp_ref.conformance.spec import OPS

pytestmark = pytest.mark.slow  # whole sessions, some of them in processes of their own

ADAPTER = """
import numpy as np
from qcp_ref.conformance import Adapter

impl = Adapter("mylib", "1.2")
impl.lacks("refuses")


@impl.op
def gram(factors, *, mode):
    G = np.ones((1, 1))
    for n, A in enumerate(factors):
        G = G if n == mode else G * (A.T @ A)
    return G
"""
WRONG = ADAPTER.replace("G * (A.T @ A)", "G + A.T @ A")
GRAMS = [
    case["id"] for case in everything() if case["op"] == "gram" and "refuses" not in case["needs"]
]


@pytest.fixture
def project(tmp_path):
    """Return a function that runs pytest in a project with these files.

    By default only our plugin is loaded: what else is installed takes seconds to import.
    """

    def run(*arguments, alone=True, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        environment.pop("PYTEST_ADDOPTS", None)
        if alone:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            arguments = ("-p", "qcp", *arguments)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    run.folder = tmp_path
    return run


def outcome(finished):
    return finished.stdout.strip().splitlines()[-1]


def test_cases_become_tests_of_the_package(project):
    done = project(
        *("--pyargs", "qcp_ref.conformance", "--qcp-impl", "mine.py:impl", "--qcp-levels", "L1"),
        *("--qcp-report", "report.json", "-k", "gram"),
        alone=False,  # the plugin is found like every other one
        mine=ADAPTER,
    )
    assert "mylib 1.2: qcp-conformance" in done.stdout
    report = json.loads((project.folder / "report.json").read_text())
    assert set(GRAMS) <= {case["id"] for case in report["cases"] if case["outcome"] == "pass"}
    assert report["implementation"]["isolated"]


def test_cases_become_tests_of_a_project_of_ones_own(project):
    text = "from mine import impl\nfrom qcp_ref.conformance import suite\n\n"
    text += 'TestMine = suite(impl, levels="L1")\n'
    done = project("-k", "gram and not refuse", mine=ADAPTER, test_mine=text)
    assert done.returncode == 0, done.stdout
    assert f"{len(GRAMS)} passed" in outcome(done)


def test_failures_are_explained_and_can_be_written_down(project):
    arguments = ["--pyargs", "qcp_ref.conformance", "--qcp-impl", "mine.py:impl", "-k", "gram"]
    done = project(*arguments, "--qcp-write-xfails", "known.toml", mine=WRONG)
    assert done.returncode == 1
    assert "[fail] wrong-value: G: " in done.stdout
    again = project(*arguments, "--qcp-xfails", "known.toml", "-k", "gram and not refuse")
    assert again.returncode == 0, again.stdout
    assert "xfailed" in outcome(again)
    mended = project(*arguments, "--qcp-xfails", "known.toml", mine=ADAPTER)
    assert mended.returncode == 1
    assert "[xpass]" in mended.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--qcp-impl", "nowhere.py:impl"], "no such file"),
        (["--qcp-impl", "mine.py:impl", "--qcp-levels", "L9"], "L9"),
        (["--qcp-impl", "mine.py:impl", "--qcp-xfails", "none.toml"], "cannot read none.toml"),
        (["--qcp-impl", "mine.py:impl", "--qcp-suite", "9.9"], "9.9"),
    ],
)
def test_wrong_questions_are_refused(project, arguments, says):
    done = project("--pyargs", "qcp_ref.conformance", *arguments, "-x", mine=ADAPTER)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr


@pytest.mark.parametrize("own", [False, True])
def test_an_implementation_that_cannot_be_loaded_is_one_wrong_question(project, own):
    if own:
        text = "from qcp_ref.conformance import suite\n\nTestMine = suite('mine.py:nobody')\n"
        done = project(mine=ADAPTER, test_mine=text)
    else:
        done = project("--pyargs", "qcp_ref.conformance", "--qcp-impl", "mine.py:nobody",
                       mine=ADAPTER)  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    said = done.stdout + done.stderr
    assert said.count("has no nobody") == 1 and "failed" not in said


def test_an_implementation_is_opened_once_and_only_if_its_cases_are_run(project):
    noted = ADAPTER + "\nopen('opened', 'a').write('once ')\n"
    chosen = ("--pyargs", "qcp_ref.conformance", "--qcp-impl", "mine.py:impl")
    project(*chosen, "-k", "gram.plain", "--collect-only", mine=noted)
    project(*chosen, "-k", "nothing", mine=noted)
    assert not (project.folder / "opened").exists()
    project(*chosen, "-k", "gram.plain", "--qcp-repeat", "3", "--qcp-warmup", "30", mine=noted)
    assert (project.folder / "opened").read_text() == "once "


def test_a_report_that_cannot_be_written_does_not_cost_the_results(project):
    done = project(
        *("--pyargs", "qcp_ref.conformance", "--qcp-impl", "mine.py:impl"),
        *("-k", "gram and not refuse", "--qcp-report", "missing/report.json"),
        mine=ADAPTER,
    )
    assert "cannot write missing/report.json" in done.stdout
    assert f"{len(GRAMS)} passed" in outcome(done)


def test_a_run_that_does_not_use_it_imports_nothing():
    heavy = {"numpy", "numba", "scipy", "qcp_ref"}
    code = f"import qcp_ref_pytest, sys; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_a_project_without_cases_is_not_told_of_them(project):
    text = "import sys\n\n\ndef test_mine():\n    assert 'qcp_ref' not in sys.modules\n"
    done = project(test_mine=text)
    assert done.returncode == 0, done.stdout
    assert "qcp-conformance" not in done.stdout


def test_levels_choose_cases():
    cases = load()
    assert chosen_cases(cases, None) == cases
    assert {OPS[case["op"]].level for case in chosen_cases(cases, "L0, L2")} == {"L0", "L2"}
    with pytest.raises(ValueError, match="L7"):
        chosen_cases(cases, "L7")


def test_a_suite_is_a_class_of_tests():
    assert suite("mine.py:impl").__name__ == "TestConformance"
    assert SUITE.endswith("draft")
