"""The command line: output, exit codes, one line on trouble; in pipes, terminals and none."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import documented

import qcp_ref
from qcp_ref.app import cli
from qcp_ref.app.archive import FileError
from qcp_ref.app.demo import measure, tables
from qcp_ref.app.files import load_run

# The command on one layer and few images, as its users run it: in a process of its own.
SMALL = f"""
import os, signal, sys, time
import pytest
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
from small_demo import shrink
patch = pytest.MonkeyPatch()
shrink(patch)
if "HOLD" in os.environ:  # until somebody interrupts it
    patch.setattr("qcp_ref.app.demo.measure._accuracies", lambda *_: time.sleep(300))
from qcp_ref.app.cli import main
sys.exit(main())
"""
DEMO = [sys.executable, "-c", SMALL, "demo", "--method", "als-round"]
PLAIN = {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "", "PYTHONUNBUFFERED": ""}


def started(folder, *more, **options):
    """Start the demo with this folder for its results."""
    options["env"] = {**os.environ, **PLAIN, **options.get("env", {})}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*DEMO, "--out", str(folder), *more], **{"stdout": pipe, "stderr": pipe, **options}
    )


def ended(process):
    """Wait; return the exit code, and what is left of both outputs."""
    with process:
        out, error = process.communicate(timeout=300)
    return process.returncode, (out or b"").decode(), (error or b"").decode()


@pytest.mark.usefixtures("small_demo")
def test_demo_prints_tables_writes_files_and_succeeds(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path), "--method", "als-round"]) == 0
    text = capsys.readouterr().out
    assert "block1.conv1" in text
    assert "of its proven bound" in " ".join(text.split())
    (folder,) = tmp_path.iterdir()
    assert folder.name == "run-1"
    assert f"wrote results.json, compressed.npz and demo.png in {folder}\n" in text
    files = {file.name for file in folder.iterdir()}
    assert files == {"results.json", "compressed.npz", "demo.png"}
    assert files == documented("Files of a run", "cli").keys()


@pytest.mark.parametrize("command", ["demo", "kit"])
def test_exit_codes_on_the_page_are_those_that_are_tested(command):
    codes = documented(f"Exit codes of the {command}", "cli").keys()
    assert codes == {"0", "1", "2", "130"}


def test_without_its_extra_the_demo_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "rich" else object())
    assert cli.main(["demo"]) == 1
    assert "needs rich: pip install 'qcp-ref[demo]'" in capsys.readouterr().err


def test_ctrl_c_leaves_one_line_and_no_folder(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "run", interrupted)
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "qcp-ref demo: interrupted\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("problem", "code"), [(KeyboardInterrupt, 130), (OSError("no"), 1)])
def test_trouble_after_the_files_are_there_says_where(
    monkeypatch, tmp_path, capsys, demo_result, problem, code
):
    def failing(*_):
        raise problem

    monkeypatch.setattr(measure, "run", lambda *_: demo_result[0])
    monkeypatch.setattr(tables, "tables", failing)
    assert cli.main(["demo", "--out", str(tmp_path)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith(f"; the results are in {demo_result[0].folder}\n")


BAD = [
    *[(["--bits", text], "--bits: expected 1 to 16") for text in ("0", "17", "-3", "9" * 400)],
    *[(["--rate", text], "--rate: expected 1 to 80.84") for text in ("0", "81", "x", "nan", "1/0")],
    (["--seed", "-1"], "--seed: expected at least 0"),
    (["--bits", "four"], "--bits: invalid int value"),
    (["--method", "worst"], "--method: invalid choice"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_values_are_refused_before_anything_is_shown(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(measure, "run", lambda *_: pytest.fail("something is computed"))
    try:
        code = cli.main(["demo", "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as ended:  # argparse's own complaint, after the usage
        code = ended.code
    out, error = capsys.readouterr()
    assert (code, out) == (2, "")
    *usage, last = error.splitlines()
    assert f"argument {message}" in last and last.startswith("qcp-ref demo: ")
    assert not usage or usage[0].startswith("usage: qcp-ref demo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/x", "link", "x" * 300, "none\nsuch/" + "y" * 300])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_shown(place, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    assert cli.main(["demo", "--out", str(tmp_path / place)]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("qcp-ref demo: argument --out: cannot write to ")
    assert error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli.os, "access", lambda *_: False)  # who is root may write anywhere
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "argument --out: cannot write to" in capsys.readouterr().err


def test_a_damaged_network_is_no_complaint_about_an_option(monkeypatch, capsys):
    def damaged(path=None):
        raise FileError("manifest.json: damaged")

    monkeypatch.setattr(measure, "load_manifest", damaged)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "qcp-ref demo: manifest.json: damaged\n"


@pytest.mark.parametrize(
    "arguments", [[], ["demo", "--method", "worst"], ["demo", "--bits", "four"]]
)
def test_unknown_options_end_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: qcp-ref" in capsys.readouterr().err


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for default in ("default: 2", "default: 4", "default: best", "default: 0"):
        assert default in text


def test_a_failed_check_is_an_exit_code(monkeypatch, tmp_path, demo_result):
    from dataclasses import replace

    from qcp_ref.app.demo import plots

    result, _ = demo_result
    broken = replace(result, checks={**result.checks, "weights_off_grid": 3})
    monkeypatch.setattr(measure, "run", lambda *a: broken)
    monkeypatch.setattr(plots, "draw_demo", lambda result, path: path)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1


@pytest.mark.usefixtures("small_demo")
def test_a_difference_beyond_its_bound_is_reported_whole(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measure, "check_forward", lambda layer, x: float("inf"))
    assert cli.main(["demo", "--out", str(tmp_path), "--method", "als-round"]) == 1
    assert "FAILED" in capsys.readouterr().out
    stored = json.loads((tmp_path / "run-1" / "results.json").read_text())
    assert stored["passed"] is False
    assert stored["checks"]["worst_share_of_rounding_bound"] is None


# --- as users run it ---------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_pipe_each_line_comes_when_it_is_true(tmp_path):
    process = started(tmp_path)
    assert process.stdout.readline().startswith(b"compressing 1 kernels")
    line = process.stdout.readline()
    assert line.startswith(b"block1.conv1 done, error")
    assert process.poll() is None and not any(tmp_path.iterdir())  # it has come before the end
    code, rest, error = ended(process)
    assert (code, error) == (0, "")
    assert rest.startswith("accuracy")
    assert rest.endswith(f"wrote results.json, compressed.npz and demo.png in {tmp_path}/run-1\n")
    assert "\x1b" not in rest
    assert max(map(len, rest.splitlines()[:-1])) <= 80
    assert load_run(tmp_path / "run-1").results["passed"]


def test_a_reader_that_goes_away_ends_it_with_one_line(tmp_path):
    process = started(tmp_path / "out")
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    code, _, error = ended(process)
    assert code == 1
    assert error == "qcp-ref demo: cannot write to standard output: [Errno 32] Broken pipe\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["demo", "--help"], ["demo"]])
def test_a_full_disk_ends_it_with_one_line(arguments, unbuffered, tmp_path):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "qcp_ref", *arguments]
        options = {"env": {**os.environ, "PYTHONUNBUFFERED": unbuffered}, "cwd": tmp_path}
        process = subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, **options)
    code, _, error = ended(process)
    assert code == 1
    assert re.fullmatch(
        r"qcp-ref( demo)?: cannot write to standard output: .*No space left on device\n", error
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_without_any_output_it_works_all_the_same(tmp_path):
    command = ["bash", "-c", 'exec "$@" >&- 2>&-', "-", *DEMO, "--out", str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=300).returncode == 0
    assert load_run(tmp_path / "run-1").results["passed"]


def test_errors_of_errors_are_silent():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "qcp_ref", "demo", "--bits", "0"]
        assert subprocess.run(command, check=False, stdout=full, stderr=full).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_other_encodings_get_other_characters(environment, tmp_path):
    out = tmp_path / "Käse [bold]"
    code, text, error = ended(started(out, env=environment))
    assert (code, error) == (0, "")
    assert text.isascii()
    assert "[bold]/run-1" in text
    assert (out / "run-1" / "demo.png").exists()


@pytest.mark.parametrize("columns", ["1", "20", "79", "abc", "0", "1000"])
def test_any_width_works(columns, tmp_path, capsys, monkeypatch, demo_result):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(measure, "run", lambda *_: demo_result[0])
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    assert f"demo.png in {demo_result[0].folder}\n" in capsys.readouterr().out


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path):
    process = started(tmp_path / "out", "--bits", "8", env={"HOLD": "1"})
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, _, error = ended(process)
    assert (code, error) == (130, "qcp-ref demo: interrupted\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "bars", "colors"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
)
def test_in_a_terminal(environment, bars, colors, tmp_path):
    ours, theirs = pty.openpty()
    process = started(tmp_path, stdout=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            text += os.read(ours, 2**16)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert ended(process)[0] == 0
    assert (b"\x1b[2K" in text) == bars  # lines are written anew
    assert bool(re.search(rb"\x1b\[[\d;]*3\dm", text)) == colors
    plain = re.sub(rb"\x1b\[[\d;?]*[a-zA-Z]", b"", text).decode()
    lines = [part for line in plain.split("\n") for part in line.split("\r")]
    assert any(line.startswith("block1.conv1") and "done, error" in line for line in lines)
    assert max(len(line) for line in lines if "demo.png in" not in line) <= 80


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"qcp-ref {qcp_ref.__version__}\n"
