"""Known failures: strict, tied to what was known, and written with the reason."""

import datetime as dt

import pytest
from support import documented

from qcp_ref.conformance.running.report import Result
from qcp_ref.conformance.running.xfails import Xfail, apply, matches, read, write

IDS = ["quantize.ties.even", "quantize.ties.odd", "quantize.tiesx", "mttkrp.cube"]
ENTRY = '[[xfail]]\nid = "quantize.ties.*"\nreason = "half away"\n'


def result(case_id="quantize.ties.odd", outcome="fail", word="wrong-value"):
    return Result(case_id, "quantize", "L0", outcome, word, 0.0, "3, not 4", 0.0)


@pytest.fixture
def file(tmp_path):
    def write_text(text, suite='suite = "0.1"\n'):
        path = tmp_path / "xfails.toml"
        path.write_text(suite + text)
        return path

    return write_text


def test_the_keys_of_the_page_are_those_of_an_entry():
    said = documented("Known failures")
    assert said.keys() == {"suite", *(f"xfail[].{name}" for name in Xfail._fields)}
    optional = {key.partition(".")[2] for key, kind in said.items() if "optional" in kind}
    assert optional == Xfail._field_defaults.keys()


def test_patterns():
    assert [one for one in IDS if matches("quantize.ties.*", one)] == IDS[:2]
    assert [one for one in IDS if matches("quantize.tiesx", one)] == IDS[2:3]
    # A family is called by the name of its first case.
    named = ["quantize.ties", "quantize.ties.zero", "quantize.ties-2", "quantize"]
    assert [one for one in named if matches("quantize.ties.*", one)] == named[:2]
    assert [one for one in named if matches("quantize.ties", one)] == named[:1]
    assert not any(matches(pattern, IDS[0]) for pattern in ("ties", "quantize*", ".*ties.*"))


def test_failures_that_were_expected_and_passes_that_were_not(file):
    entries = read(file(ENTRY), "0.1", IDS)
    assert apply(result(), entries).outcome == "xfail"
    assert "half away" in apply(result(), entries).says
    assert apply(result(outcome="pass", word=""), entries).outcome == "xpass"
    assert apply(result("mttkrp.cube"), entries) == result("mttkrp.cube")
    assert apply(result(outcome="n/a", word=""), entries).outcome == "n/a"


def test_another_failure_than_the_known_one_is_a_failure(file):
    entries = read(file(ENTRY + 'word = "wrong-value"\n'), "0.1", IDS)
    assert apply(result(), entries).outcome == "xfail"
    assert apply(result(word="crash"), entries).outcome == "fail"


def test_entries_expire(file):
    today = dt.datetime.now(dt.UTC).date()
    for days, count in ((-1, 0), (0, 1), (1, 1)):
        until = today + dt.timedelta(days)
        assert len(read(file(ENTRY + f"until = {until}\n"), "0.1", IDS)) == count


@pytest.mark.parametrize(
    ("text", "suite", "message"),
    [
        (ENTRY, 'suite = "9"\n', "is for suite '9'"),
        (ENTRY, "", "is for suite None"),
        (ENTRY.replace("ties", "tie"), 'suite = "0.1"\n', "matches no case"),
        (ENTRY + "why = 1\n", 'suite = "0.1"\n', "expected id, reason"),
        ('[[xfail]]\nid = "mttkrp.cube"\n', 'suite = "0.1"\n', "expected id, reason"),
        ("[[xfial]]\n", 'suite = "0.1"\n', "unknown keys"),
        ("[[", 'suite = "0.1"\n', "cannot read"),
        ("x = " + "[" * 5000, 'suite = "0.1"\n', "cannot read"),
        ("xfail = 3\n", 'suite = "0.1"\n', r"expected tables \[\[xfail"),
        ("xfail = [3]\n", 'suite = "0.1"\n', r"expected tables \[\[xfail"),
        (ENTRY + 'until = "tomorrow"\n', 'suite = "0.1"\n', "expected id, reason"),
        (ENTRY + "until = 2027-01-01T00:00:00\n", 'suite = "0.1"\n', "expected id, reason"),
        (ENTRY + "word = 3\n", 'suite = "0.1"\n', "expected id, reason"),
        (ENTRY.replace('"quantize.ties.*"', "3"), 'suite = "0.1"\n', "expected id, reason"),
    ],
)
def test_files_that_would_hide_something_are_refused(file, text, suite, message):
    with pytest.raises(ValueError, match=message):
        read(file(text, suite), "0.1", IDS)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        read(tmp_path / "none.toml", "0.1", IDS)


def test_a_file_that_is_no_text_is_said(tmp_path):
    path = tmp_path / "xfails.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"xfails: cannot read .*xfails\.toml"):
        read(path, "0.1", IDS)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "new.toml"
    path.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "0.1", [result()])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_written_files_make_the_next_run_pass(tmp_path):
    path = tmp_path / "new.toml"
    odd = result("mttkrp.cube", word="crash")._replace(says='ended with "SIGSEGV"\nat \\x00')
    write(path, "0.1", [result(), odd, result("quantize.tiesx", "pass", "")])
    entries = read(path, "0.1", IDS)
    assert [entry.id for entry in entries] == ["quantize.ties.odd", "mttkrp.cube"]
    assert apply(odd, entries).outcome == "xfail"
    assert apply(odd._replace(word="timeout"), entries).outcome == "fail"
    assert list(tmp_path.iterdir()) == [path]
