"""The command, run as its users run it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import differs
from test_plugin import ADAPTER, GRAMS, WRONG

from qcp_ref.conformance.__main__ import main
from qcp_ref.conformance.cases import vectors
from qcp_ref.conformance.cases.recipes import recipes
from qcp_ref.conformance.cases.vectors import everything, load

pytestmark = pytest.mark.slow  # whole sessions, some of them in processes of their own


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Return a function that runs the command in a folder with an adapter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vectors, "recipes", lambda: recipes()[::80])  # all of them take minutes

    def run(*arguments, text=ADAPTER):
        (tmp_path / "mine.py").write_text(text)
        status = main(list(arguments))
        return status, *capsys.readouterr()

    return run


def test_a_right_implementation(command):
    status, out, _ = command("mine.py:impl", "-c", "gram.*", "--report", "report.json")
    assert status == 0
    assert out.splitlines()[-1].startswith("qcp-conformance 0.1-draft  part of L1  f64  ")
    report = json.loads(Path("report.json").read_text())
    assert report["ok"]
    names = {"implementation.choices": "<choice>", "counts": "<outcome>"}
    assert not differs("The report", report, names)


def test_a_wrong_implementation(command):
    status, out, _ = command("mine.py:impl", "-c", "gram.*", text=WRONG)
    assert status == 1
    assert f"FAIL  {GRAMS[0]}  (L1, wrong-value)" in out
    assert "no level" in out


@pytest.mark.parametrize("output", ["closed", "full", "gone"])
def test_output_that_cannot_be_written_costs_no_report(tmp_path, output):
    (tmp_path / "mine.py").write_text(ADAPTER)
    code = "import os, sys\n"
    code += {
        "closed": "os.close(1)",
        "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
        "gone": "r, w = os.pipe(); os.dup2(w, 1); os.close(w); os.close(r)",
    }[output]
    code += "\nos.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
    arguments = ["qcp_ref.conformance", "mine.py:impl", "-c", "gram.*", "--report", "report.json"]
    arguments += ["--write-xfails", "x.toml"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write to standard output" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert json.loads((tmp_path / "report.json").read_text())["cases"]
    assert (tmp_path / "x.toml").read_text().startswith("suite")


def test_files_are_written_before_anything_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(ADAPTER)

    class Stream(io.StringIO):
        def write(self, text):
            assert {"report.json", "x.toml"} <= {path.name for path in tmp_path.iterdir()}
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Stream())
    files = ["--report", "report.json", "--write-xfails", "x.toml"]
    assert main(["mine.py:impl", "-c", "gram.plain.*", *files]) in (0, 1)
    assert "qcp-conformance" in sys.stdout.getvalue()


def test_it_runs_as_a_program(tmp_path):
    (tmp_path / "mine.py").write_text(ADAPTER)
    arguments = [sys.executable, "-m", "qcp_ref.conformance", "mine:impl", "--levels", "L1"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "mylib 1.2" in done.stdout, done.stderr


def test_known_failures(command):
    assert command("mine.py:impl", "-c", "gram.*", "--write-xfails", "x.toml", text=WRONG)[0] == 1
    assert command("mine.py:impl", "-c", "gram.*", "--xfails", "x.toml", text=WRONG)[0] == 0
    status, out, _ = command("mine.py:impl", "-c", "gram.*", "--xfails", "x.toml")
    assert status == 1
    assert "XPASS" in out


def test_list_shows_every_case(command):
    status, out, _ = command("--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [case["id"] for case in everything()]


def test_a_family_has_its_first_case(command):
    status, out, _ = command("--list", "-c", "quantize.ties.*")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0
    assert names == [
        case["id"]
        for case in load()
        if case["id"] == "quantize.ties" or case["id"].startswith("quantize.ties.")
    ]
    assert "quantize.ties" in names and len(names) > 3


def test_a_level_is_claimed_only_if_all_of_it_was_asked(command):
    text = ADAPTER.split("@impl.op")[0] + (
        "from qcp_ref.conformance.reference import numpy_adapter\n"
        "impl.ops.update(numpy_adapter.ops)\n"
    )
    claims = {
        options: command("mine.py:impl", *options, text=text)[1].splitlines()[-1].split("  ")[1]
        for options in (
            ("--levels", "L1"),
            ("--levels", "L1", "-c", "gram.*", "-c", "conv2d.*"),
            ("--levels", "L1", "--smoke"),
            ("-c", "gram.*", "-c", "balance.*", "-c", "pointwise.*"),
            ("-c", "gram.*", "-c", "balance.*", "-c", "mttkrp.*", "-c", "reconstruct.*"),
            tuple(part for op in ("gram", "balance", "mttkrp", "reconstruct", "pointwise")
                  for part in ("-c", f"{op}.*")),
        )
    }  # fmt: skip
    assert [*claims.values()] == [
        "L1",
        "part of L1",
        "part of L1",
        "part of L1 L2",
        "L1",
        "L1, part of L2",
    ]


def test_stored_cases_are_those_of_the_files(command):
    status, out, _ = command("--list", "--stored")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0 and names == [case["id"] for case in vectors.stored()]
    assert not [name for name in names if ".wrong." in name or ".size." in name]


def test_smoke_is_a_few_cases(command):
    status, out, _ = command("--list", "--smoke")
    assert status == 0
    assert 5 < len(out.splitlines()) < 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py:impl"], "no such file"),
        (["mine.py:impl", "-c", "grammar.*"], "matches no case"),
        (["mine.py:impl", "--levels", "L8"], "L8"),
        (["mine.py:impl", "--smoke", "-c", "gram.*"], "smoke: expected without -c"),
        (["--list", "--smoke", "-c", "gram.*"], "smoke: expected without -c"),
        (["mine.py:impl", "--xfails", "none.toml"], "cannot read"),
        (["mine.py:impl", "--suite", "9.9"], "9.9"),
        (["--pipe", "/no/such/program"], "could not be started"),
        (["mine.py:impl", "-c", "gram.*", "--report", "no/such/folder.json"], "cannot write"),
    ],
)
def test_wrong_questions_end_with_status_2(command, arguments, says):
    status, _, err = command(*arguments)
    assert status == 2
    assert says in err


def test_nothing_to_run_is_an_error(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 2
    assert "implementation" in capsys.readouterr().err
