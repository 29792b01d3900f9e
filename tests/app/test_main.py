"""``python -m qcp_ref`` is the command ``qcp-ref``."""

import subprocess
import sys

import pytest

import qcp_ref


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["demo", "--bits", "0"]])
def test_the_module_is_the_command(arguments):
    code = "from qcp_ref.app.cli import main; raise SystemExit(main())"
    ways = (["-m", "qcp_ref"], ["-c", code])
    first, second = (
        subprocess.run(
            [sys.executable, *way, *arguments], check=False, capture_output=True, text=True
        )
        for way in ways
    )
    assert first.stdout + first.stderr
    assert (first.returncode, first.stdout, first.stderr) == (
        second.returncode,
        second.stdout,
        second.stderr,
    )
    if arguments == ["--version"]:
        assert (first.returncode, first.stdout) == (0, f"qcp-ref {qcp_ref.__version__}\n")
