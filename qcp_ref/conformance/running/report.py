"""What came of each case, and what do all results together allow to claim?

Checked by tests/conformance/running/test_session.py.
"""

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from qcp_ref.conformance.spec import LEVELS, NOT_JUDGED

__all__ = ["Report", "Result"]

_BAD = ("fail", "xpass", "adapter-error")


class Result(NamedTuple):
    """What came of one case.

    The outcome is 'pass', 'suspect', 'fail', 'absent' (no such operation), 'n/a' (a capability is
    missing), 'xfail', 'xpass' or 'adapter-error'; a failure has one word and a sentence.
    """

    id: str
    op: str
    level: str
    outcome: str
    word: str
    margin: float
    says: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """All results, and what they amount to."""

    info: Mapping[str, Any]
    suite: str
    results: Sequence[Result]
    kills: Mapping[str, Sequence[str]] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)  # cases of each level; none: those here

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not any(result.outcome in _BAD for result in self.results)

    @property
    def counts(self) -> Counter[str]:
        """How often each outcome occurred."""
        return Counter(result.outcome for result in self.results)

    @property
    def levels(self) -> list[str]:
        """The levels that may be claimed: all asked, something ran, nothing failed or absent."""
        asked = Counter(r.level for r in self.results)
        return [level for level in self._clean if asked[level] >= self.whole.get(level, 0)]

    @property
    def _clean(self) -> list[str]:
        """The levels in which something ran, and nothing that was asked failed or was absent."""
        hollow = {r.level for r in self.results if r.outcome in (*_BAD, "xfail", "absent")}
        run = {r.level for r in self.results if r.outcome in ("pass", "suspect")}
        return [level for level in LEVELS if level in run - hollow]

    @property
    def strength(self) -> tuple[int, int]:
        """How many catalogued faults the passed cases would have found, and of how many."""
        passed = {r.id for r in self.results if r.outcome in ("pass", "suspect")}
        tried = {r.id for r in self.results}
        within = [cases for cases in self.kills.values() if tried & set(cases)]
        return sum(bool(passed & set(cases)) for cases in within), len(within)

    def claim(self) -> str:
        """Return the line for a README: suite, levels, arithmetic, cases passed, strength."""
        passed = self.counts["pass"] + self.counts["suspect"]
        killed, faults = self.strength
        margin = max((r.margin for r in self.results if r.outcome == "pass"), default=0.0)
        part = " ".join(["part of", *(name for name in self._clean if name not in self.levels)])
        shown = [" ".join(self.levels), part.removesuffix("part of")]
        left = "; ".join(NOT_JUDGED[level] for level in self.levels if level in NOT_JUDGED)
        return (
            f"qcp-conformance {self.suite}  {', '.join(filter(None, shown)) or 'no level'}  "
            f"{self.info['arith']}  {passed}/{len(self.results)}  "
            f"faults killed {killed}/{faults}  max margin {margin:.2f}"
            f"{left and '  not judged: '}{left}"
        )

    def data(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "suite": self.suite,
            "implementation": dict(self.info),
            "claim": self.claim(),
            "ok": self.ok,
            "counts": dict(self.counts),
            "cases": [result._asdict() for result in self.results],
        }

    def write(self, path: str | Path) -> None:
        """Write the report as JSON, complete or not at all.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        path = Path(path)
        draft = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with draft.open("w", encoding="ascii") as stream:
                json.dump(self.data(), stream, indent=1)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
