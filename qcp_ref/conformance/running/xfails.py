"""Known failures: a file of cases that are expected to fail, with the reason.

The file is TOML::

    suite = "0.1-draft"

    [[xfail]]
    id = "quantize.ties.*"      # an id, or a beginning of ids followed by .*
    word = "wrong-value"        # optional: any other failure is still a failure
    reason = "the hardware rounds half away from zero"
    until = 2027-01-01          # optional: afterwards the entry has no effect

The list is strict: an entry that matches no case is an error, and a case that is expected to fail
and passes is a failure (xpass), so that the file stays true.
"""

import datetime as dt
import json
import secrets
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qcp_ref.conformance.running.report import Result

__all__ = ["Xfail", "apply", "matches", "read", "write"]


class Xfail(NamedTuple):
    """One entry of the file."""

    id: str
    reason: str
    word: str = ""
    issue: str = ""
    until: dt.date | None = None


def matches(pattern: str, case_id: str) -> bool:
    """Whether an id names this case, or with ``.*`` at its end this case and all that begin so."""
    family = pattern.removesuffix(".*")
    return case_id == family or (family != pattern and case_id.startswith(family + "."))


def read(path: str | Path, suite: str, ids: Iterable[str]) -> list[Xfail]:
    """Read a file of known failures.

    Parameters
    ----------
    path : str or Path
        The file.
    suite : str
        The suite in use; the file has to be made for it.
    ids : iterable of str
        All ids of the suite.

    Returns
    -------
    list of Xfail
        The entries that have not expired.

    Raises
    ------
    ValueError
        If the file is no such file, is for another suite, or has an entry that matches no case.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"xfails: cannot read {path}: {error}") from None
    if data.get("suite") != suite:
        raise ValueError(f"xfails: {path} is for suite {data.get('suite')!r}, this is {suite!r}")
    unknown, known = set(data) - {"suite", "xfail"}, list(ids)
    entries = []
    listed = data.get("xfail", [])
    if not isinstance(listed, list):
        raise ValueError(f"xfails: expected tables [[xfail]], got {listed!r:.100}")
    for entry in listed:
        if not isinstance(entry, dict):
            raise ValueError(f"xfails: expected tables [[xfail]], got {entry!r:.100}")
        unknown |= set(entry) - set(Xfail._fields)
        wrong = [key for key, value in entry.items() if not _fits(key, value)]
        if unknown or wrong or not {"id", "reason"} <= set(entry):
            raise ValueError(f"xfails: expected id, reason and {Xfail._fields[2:]}, got {entry}")
        if not any(matches(entry["id"], one) for one in known):
            raise ValueError(f"xfails: {entry['id']!r} matches no case of the suite")
        entries.append(Xfail(**entry))
    if unknown:
        raise ValueError(f"xfails: unknown keys {sorted(unknown)}")
    today = dt.datetime.now(dt.UTC).date()
    return [entry for entry in entries if entry.until is None or today <= entry.until]


def _fits(key: str, value: Any) -> bool:
    """Return whether a value of an entry has its type: a date without time, or text."""
    return type(value) is (dt.date if key == "until" else str)


def apply(result: Result, entries: Sequence[Xfail]) -> Result:
    """Return the result as the known failures make it: xfail, xpass, or unchanged."""
    for entry in entries:
        if not matches(entry.id, result.id):
            continue
        if result.outcome == "fail" and entry.word in ("", result.word):
            return result._replace(outcome="xfail", says=f"{entry.reason} ({result.says})")
        if result.outcome in ("pass", "suspect"):
            says = f"expected to fail ({entry.reason}); take it out of the file"
            return result._replace(outcome="xpass", says=says)
    return result


def write(path: str | Path, suite: str, results: Iterable[Result]) -> None:
    """Write a file of known failures for all results that failed, with what was found as reason."""
    quote = json.dumps  # TOML's basic strings are JSON's
    blocks: list[Mapping[str, Any]] = [
        {"id": r.id, "word": r.word, "reason": r.says or r.word}
        for r in results
        if r.outcome in ("fail", "xfail")
    ]
    text = [f"suite = {quote(suite)}\n"]
    for block in blocks:
        text.append("\n[[xfail]]\n")
        text.extend(f"{key} = {quote(value)}\n" for key, value in block.items())
    target = Path(path)
    draft = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        draft.write_text("".join(text), encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
