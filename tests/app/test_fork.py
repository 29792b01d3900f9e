"""A process forked while another thread compresses has all threads of BLAS, and no hang."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forking import CASES

SCRIPT = Path(__file__).parents[1] / "helpers" / "forking.py"
# Replaced text of _threads.py, and the case that fails then.
FAULTS = [
    ("os.register_at_fork(", "(lambda **_: None)(", "another_thread_holds"),
    ('min(held, max(0, getattr(cls.mine, "count", 0)))', "0", "the_thread_that_forks_holds"),
    ("_Pin.holders -= 1", "_Pin.holders = 0", "the_first_one_in_is_the_first_one_out"),
]
CHANGED = """
import runpy, sys
from importlib.machinery import SourceFileLoader as Loader

def get_code(self, name):
    text, path = self.get_data(self.get_filename(name)).decode(), self.get_filename(name)
    if name == "qcp_ref._threads":
        assert {old!r} in text
        text = text.replace({old!r}, {new!r})
    return self.source_to_code(text, path)

Loader.get_code = get_code
sys.argv[1:] = [{case!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def run(command):
    """Run a case on at least two threads, whatever the machine has."""
    count = str(max(2, os.cpu_count() or 1))
    threads = {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count}
    done = subprocess.run(
        [sys.executable, *command],
        check=False,
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode == 77:
        pytest.skip("this BLAS has one thread only")
    return done


@pytest.mark.parametrize("case", CASES)
def test_a_forked_process_has_only_the_holders_that_live_in_it(case):
    done = run([str(SCRIPT), case])
    assert done.returncode == 0, done.stderr


# --- planted faults -------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "case"), FAULTS)
def test_planted_faults_are_caught(old, new, case):
    done = run(["-c", CHANGED.format(old=old, new=new, case=case, script=str(SCRIPT))])
    assert done.returncode == 1
    assert "AssertionError" in done.stderr or "AttributeError" in done.stderr
