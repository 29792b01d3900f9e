"""The runner: whatever an implementation does, it fails its case with one word, never the run."""

import ast
import json
import os
import re
import select
import sys
import threading
import time
from pathlib import Path

import kit_cases
import misbehaving
import pytest

from qcp_ref.conformance import Adapter
from qcp_ref.conformance import adapter as adapters
from qcp_ref.conformance.dyadic import canonical
from qcp_ref.conformance.running import process as processes
from qcp_ref.conformance.running import report as reports
from qcp_ref.conformance.running.report import Report, Result
from qcp_ref.conformance.running.session import Session

HERE = Path(misbehaving.__file__)


@pytest.fixture
def session():
    opened = []

    def start(implementation, **options):
        opened.append(Session(implementation, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(misbehaving.WORDS))
def test_every_misbehaviour_fails_its_case_with_its_word(session, name):
    limits = {"timeout": 0.2, "warmup": 0.2} if name == "hangs" else {}
    opened = session(f"{HERE}:{name}", **limits)
    for _ in range(2):  # the second case is run, too
        result = opened.run(kit_cases.ZERO)
        assert (result.outcome, result.word) == ("fail", misbehaving.WORDS[name])
        assert result.says
    assert opened.info["isolated"]


@pytest.mark.slow
def test_a_first_case_has_a_limit_of_its_own(session):
    opened = session(f"{HERE}:warms", timeout=0.5, warmup=30.0)
    assert [opened.run(kit_cases.PLAIN).outcome for _ in range(2)] == ["pass", "pass"]
    cold = session(f"{HERE}:hangs", timeout=0.2, warmup=0.4)
    found = [cold.run(kit_cases.PLAIN) for _ in range(4)]
    assert [one.word for one in found] == ["timeout"] * 4
    assert "within 0.4 s" in found[0].says and "--warmup" in found[0].says
    assert "within 0.2 s" in found[1].says and "--warmup" not in found[1].says
    assert "not tried" in found[3].says


def test_races_are_found_by_asking_often(session):
    assert session(misbehaving.races, isolate=False).run(kit_cases.PLAIN).outcome == "pass"
    for isolate in (False, None):
        often = session(f"{HERE}:races" if isolate is None else misbehaving.races, repeat=20,
                        isolate=isolate)  # fmt: skip
        assert often.run(kit_cases.PLAIN).word == "unrepeatable"
    with pytest.raises(ValueError, match="repeat: expected 1 or more"):
        session(misbehaving.good, repeat=0)


def test_answers_that_may_differ_are_held_to_the_bound_each(session):
    noisy = session(misbehaving.noisy, isolate=False)
    assert noisy.run(kit_cases.PLAIN).outcome == "pass"
    unsure = session(misbehaving.unsure, isolate=False)
    assert unsure.run(kit_cases.PLAIN).word == "wrong-value"
    noisy.info["nondeterministic"] = misbehaving.noisy.nondeterministic = False
    try:
        assert noisy.run(kit_cases.PLAIN).word == "unrepeatable"
    finally:
        misbehaving.noisy.nondeterministic = True


FORBIDDEN = re.compile(
    r"\b(select|selectors|fcntl|pty|termios|resource|pwd|grp)\b"
    r"|\bos\.(set_blocking|fork|forkpty|kill|killpg|setsid|setpgid|pread|waitpid|wait|getpgid|pipe2)\b"
    r"|\bsignal\.(?!Signals\b)\w+|preexec_fn|start_new_session|pass_fds|process_group|asyncio"
)


def test_sessions_ask_for_nothing_that_some_systems_lack():
    assert FORBIDDEN.search("import select") and FORBIDDEN.search("signal.SIGKILL")
    files = [*Path(processes.__file__).parent.glob("*.py"), Path(adapters.__file__)]
    assert len(files) > 6
    for file in files:
        tree = ast.unparse(ast.parse(file.read_text(encoding="utf-8")))
        code = re.sub(r"(?s)('{3}|\"{3}).*?\1", "", tree)
        assert not FORBIDDEN.search(code), (file.name, FORBIDDEN.search(code))


def test_sessions_run_where_pipes_cannot_be_waited_for(session, monkeypatch):
    def missing(*_, **__):
        raise AssertionError("not on every system")

    monkeypatch.setattr(select, "select", missing)
    monkeypatch.setattr(os, "set_blocking", missing, raising=False)
    for name in ("fork", "killpg", "pread"):
        monkeypatch.setattr(os, name, missing, raising=False)
    opened = session(Adapter.pipe([sys.executable, "-c", ECHO]))
    assert opened.run(kit_cases.PLAIN).word == "raises"
    assert opened.run(kit_cases.REFUSED).outcome == "pass"


def test_threads_end_with_their_process():
    before = threading.active_count()
    opened = Session(Adapter.pipe([sys.executable, "-c", ECHO]))
    opened.run(kit_cases.PLAIN)
    assert threading.active_count() == before + 3
    opened.close()
    assert threading.active_count() == before


def test_the_run_goes_on_after_a_crash(session):
    opened = session(f"{HERE}:crashes")
    first = opened.run(kit_cases.PLAIN)
    assert "SIGABRT: assertion failed in gemm" in first.says
    assert [opened.run(kit_cases.PLAIN).says[:9] for _ in range(3)][-1] == "not tried"


def test_what_it_prints_does_not_matter(session):
    assert session(f"{HERE}:chatty").run(kit_cases.PLAIN).outcome == "pass"


def test_an_adapter_is_found_again_from_another_process(session):
    opened = session(misbehaving.good)
    assert opened.info["isolated"]
    assert opened.run(kit_cases.PLAIN).outcome == "pass"


def test_an_adapter_that_cannot_be_found_runs_here(session):
    impl = Adapter("local")
    impl.ops["dequantize"] = misbehaving.right
    opened = session(impl)
    assert not opened.info["isolated"]
    assert opened.run(kit_cases.PLAIN).outcome == "pass"
    with pytest.raises(ValueError, match="isolate"):
        session(impl, isolate=True)


def test_outcomes_that_are_no_failures(session):
    partial = session(misbehaving.partial, isolate=False)
    assert partial.run(kit_cases.ZERO).outcome == "n/a"
    assert partial.run(kit_cases.PLAIN).outcome == "pass"
    other = {**kit_cases.PLAIN, "op": "quantize"}
    assert partial.run(other).outcome == "absent"
    double = {**kit_cases.PLAIN, "needs": ["float64"]}
    assert partial.run(double).outcome == "pass"
    impl = Adapter("short", arith="f32")
    impl.ops["dequantize"] = misbehaving.right
    impl.lacks("affine")
    short = session(impl, isolate=False)
    assert short.run(double).outcome == "n/a"
    lacking = short.run({**kit_cases.ZERO, "needs": ["affine"]})
    assert (lacking.outcome, "zero points" in lacking.says) == ("n/a", True)


def test_a_misspelt_capability_hides_nothing(session):
    assert session(misbehaving.typo, isolate=False).run(kit_cases.PLAIN).outcome == "adapter-error"


def test_refusing_is_right_where_it_is_asked_for(session):
    refuses = session(misbehaving.raises, isolate=False)
    assert refuses.run(kit_cases.REFUSED).outcome == "pass"
    accepts = session(misbehaving.careless, isolate=False)
    assert accepts.run(kit_cases.REFUSED).word == "accepted"
    crashes = session(f"{HERE}:crashes")
    assert crashes.run(kit_cases.REFUSED).word == "crash"


ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request.get("id"), "error": "no"}
    hello = {"name": "echo", "ops": ["dequantize"]}
    sys.stdout.write(json.dumps(hello if "hello" in request else answer) + chr(10))
    sys.stdout.flush()
"""
PROGRAM = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if "hello" in request:
        print('{"name": "program", "ops": ["dequantize"], "arith": "f64"}', flush=True)
        continue
    answer = {ANSWER}
    print(answer if isinstance(answer, str) else json.dumps(answer), flush=True)
"""


VALUES = {k: v for k, v in kit_cases.PLAIN["out"]["values"].items() if k != "kind"} | {"t": "f64"}


@pytest.mark.parametrize(
    ("answer", "outcome", "word"),
    [
        ('{"id": request["id"], "out": VALUES}', "pass", ""),
        ('{"id": request["id"], "error": "no"}', "fail", "raises"),
        ('{"id": request["id"], "unsupported": "affine"}', "n/a", ""),
        ('{"id": 0, "out": VALUES}', "fail", "garbage"),
        ('{"id": request["id"], "out": {"values": {"t": "f64", "s": [2], "m": 1}}}', "fail", ""),
        ('{"id": request["id"], "out": {"values": 3}}', "fail", "garbage"),
        ('{"id": request["id"]}', "fail", "garbage"),
        ('"hello?"', "fail", "garbage"),
        ("sys.exit(3)", "fail", "crash"),
    ],
)
def test_programs_in_any_language(session, answer, outcome, word):
    values = canonical({"values": VALUES})
    code = PROGRAM.replace("{ANSWER}", answer.replace("VALUES", values))
    opened = session(Adapter.pipe([sys.executable, "-c", code]))
    assert opened.info["name"] == "program"
    result = opened.run(kit_cases.PLAIN)
    assert result.outcome == outcome
    assert word in result.word


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (f"{HERE}:nobody", "has no nobody"),
        ("nowhere.py:x", "no such file"),
        ("no_such_module:x", "no_such_module"),
        (f"{HERE}:WORDS", "functions named like operations"),
        (Adapter.pipe(["/no/such/program"]), "could not be started"),
        (Adapter.pipe([sys.executable, "-c", "print('{}')"]), "no name or no ops"),
    ],
)
def test_what_cannot_be_loaded_is_said(place, message):
    with pytest.raises(ValueError, match=message):
        Session(place)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('"ops": ["fly"]', "ops: unknown: fly"),
        ('"ops": [], "lacks": ["luck"]', "lacks: unknown: luck"),
        ('"ops": [], "choices": {"rounding": "up"}', "rounding"),
        ('"ops": [], "arith": "f8"', "arith"),
    ],
)
def test_wrong_descriptions_are_refused(more, message):
    code = f'print(\'{{"name": "x", {more}}}\', flush=True); input()'
    with pytest.raises(ValueError, match=message):
        Session(Adapter.pipe([sys.executable, "-c", code]))


def test_a_program_that_does_not_read_cannot_block_the_run():
    code = 'import time; print(\'{"name": "x", "ops": ["dequantize"]}\', flush=True)'
    command = [sys.executable, "-S", "-c", code + "; time.sleep(60)"]
    opened = Session(Adapter.pipe(command), timeout=5.0, warmup=0.2)
    opened.warmup = 0.2  # the timeout is for the start of the program
    case = kit_cases.dequantize([0], 1, 0, [0])
    case["in"]["codes"] |= {"s": [200_000], "m": [0] * 200_000}  # more than a pipe holds
    start = time.monotonic()
    assert opened.run(case).word == "timeout"
    assert time.monotonic() - start < 10
    opened.close()


# --- reports --------------------------------------------------------------------------------------

INFO = {"name": "mine", "version": "1", "arith": "f32"}


def result(case_id, outcome="pass", level="L0", margin=0.0):
    return Result(case_id, "quantize", level, outcome, "", margin, "", 0.1)


def test_claim_shows_how_strong_the_run_was():
    kills = {"Q01": ["a", "b"], "Q02": ["b"], "Q03": ["c"], "F01": ["not run"]}
    results = [result("a", margin=0.25), result("b", "n/a"), result("c"), result("d", level="L1")]
    report = Report(INFO, "0.1-draft", results, kills)
    assert report.ok
    assert report.strength == (2, 3)
    assert report.claim() == (
        "qcp-conformance 0.1-draft  L0 L1  f32  3/4  faults killed 2/3  conduct 0/4  "
        "max margin 0.25"
    )


def test_a_fault_of_conduct_counts_where_its_check_was_made():
    kills = {"X01": ["a", "b"], "Q01": ["a"]}
    for checks, killed in (("inputs", 2), ("repeats", 1), ("", 1)):
        results = [result("a")._replace(checks=checks), result("b")]
        assert Report(INFO, "0.1", results, kills, {}, {"X01": "inputs"}).strength == (killed, 2)


def test_conduct_is_counted_from_the_checks_that_were_made():
    """Per operation, of the four; what failed is not counted."""
    seen = {"a": "inputs repeats", "b": "inputs results", "c": "layouts", "d": "layouts"}
    results = [result(name)._replace(checks=checks) for name, checks in seen.items()]
    other = result("e", "absent")._replace(op="conv2d")
    assert Report(INFO, "0.1", [*results, other]).conduct == (4, 4)
    assert Report(INFO, "0.1", results[:2]).conduct == (3, 4)
    for outcome in ("fail", "xfail"):
        bad = result("f", outcome)
        for word, left in (("mutates", 3), ("unrepeatable", 3), ("overwritten", 3), ("raises", 4)):
            assert Report(INFO, "0.1", [*results, bad._replace(word=word)]).conduct == (left, 4)
        lost = bad._replace(word="wrong-value", checks="layouts repeats")
        assert Report(INFO, "0.1", [*results, lost]).conduct == (3, 4)


@pytest.mark.parametrize("outcome", ["pass", "n/a"])
def test_a_part_of_a_level_looks_like_one(outcome):
    results = [result("a"), result("b", outcome), result("c", level="L2")]
    for whole, claimed, shown in (
        ({"L0": 2, "L2": 1, "L3": 9}, ["L0", "L2"], "L0 L2"),
        ({"L0": 3, "L2": 1}, ["L2"], "L2, part of L0"),
        ({"L0": 3, "L2": 2}, [], "part of L0 L2"),
    ):
        report = Report(INFO, "0.1", results, {}, whole)
        assert report.levels == claimed
        assert report.claim().split("  ")[1] == shown
    results[0] = result("a", "fail")
    assert "no level" in Report(INFO, "0.1", results[:2], {}, {"L0": 3}).claim()


@pytest.mark.parametrize("outcome", ["fail", "xpass", "adapter-error", "xfail", "absent"])
def test_a_level_with_a_hole_is_not_claimed(outcome):
    report = Report(INFO, "0.1-draft", [result("a"), result("b", outcome), result("c", level="L2")])
    assert report.levels == ["L2"]
    assert report.ok == (outcome in ("xfail", "absent"))
    assert "no level" in Report(INFO, "0.1", [result("a", outcome)]).claim()


def test_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    report = Report(INFO, "0.1-draft", [result("a")])
    path = tmp_path / "report.json"
    report.write(path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(report.data()))
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    before = path.read_bytes()
    monkeypatch.setattr(reports.json, "dump", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(path)
    assert path.read_bytes() == before
