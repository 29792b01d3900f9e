"""The command line: output, exit codes, one line on trouble."""

import json

import pytest
from support import documented

from qcp_ref.app import cli, demo


@pytest.mark.usefixtures("small_demo")
def test_demo_prints_tables_writes_files_and_succeeds(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path), "--method", "als-round"]) == 0
    text = capsys.readouterr().out
    assert "block1.conv1" in text
    assert "of its proven bound" in " ".join(text.split())
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"results.json", "compressed.npz", "demo.png"}
    assert files == documented("Files in the folder ``--out``", "cli").keys()


@pytest.mark.parametrize("command", ["demo", "kit"])
def test_exit_codes_on_the_page_are_those_that_are_tested(command):
    codes = documented(f"Exit codes of the {command}", "cli").keys()
    assert codes == {"0", "1", "2", "130"}


def test_without_its_extra_the_demo_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "rich" else object())
    assert cli.main(["demo"]) == 1
    assert "needs rich: pip install 'qcp-ref[demo]'" in capsys.readouterr().err


def test_ctrl_c_leaves_one_line(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 130
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "interrupted" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "0"], "bits: expected 1 to 16"),
        (["--rate", "0"], "rate"),
        (["--rate", "5000"], "no component would be left"),
        (["--seed", "-1"], "rng: expected a seed"),
    ],
)
@pytest.mark.usefixtures("small_demo")
def test_bad_values_are_reported_in_one_line(arguments, message, tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("qcp-ref demo: ")
    assert message in error


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

    from qcp_ref.app import plots

    result, _ = demo_result
    broken = replace(result, checks={**result.checks, "weights_off_grid": 3})
    monkeypatch.setattr(demo, "run", lambda *a: broken)
    monkeypatch.setattr(plots, "draw_demo", lambda result, path: path)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1


@pytest.mark.usefixtures("small_demo")
def test_a_difference_beyond_its_bound_is_reported_whole(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "check_forward", lambda layer, x: float("inf"))
    assert cli.main(["demo", "--out", str(tmp_path), "--method", "als-round"]) == 1
    assert "FAILED" in capsys.readouterr().out
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["passed"] is False
    assert stored["checks"]["worst_share_of_rounding_bound"] is None
