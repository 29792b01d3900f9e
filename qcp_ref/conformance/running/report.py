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

from qcp_ref.conformance.adapter import MISCONDUCT
from qcp_ref.conformance.spec import LEVELS, NOT_JUDGED

__all__ = ["CONDUCT", "Report", "Result"]

# What an implementation may not do, whatever it computes: change its inputs, answer the same call
# in two ways, return memory that a later call overwrites, read memory in one layout only.
CONDUCT = ("inputs", "repeats", "results", "layouts")
_BAD = ("fail", "xpass", "adapter-error")


class Result(NamedTuple):
    """What came of one case.

    The outcome is 'pass', 'suspect', 'fail', 'absent' (no such operation), 'n/a' (a capability is
    missing), 'xfail', 'xpass' or 'adapter-error'; a failure has one word and a sentence. The
    checks of conduct that were made are some of ``CONDUCT``, with blanks between.
    """

    id: str
    op: str
    level: str
    outcome: str
    word: str
    margin: float
    says: str
    seconds: float
    checks: str = ""


@dataclass(frozen=True)
class Report:
    """All results, and what they amount to."""

    info: Mapping[str, Any]
    suite: str
    results: Sequence[Result]
    kills: Mapping[str, Sequence[str]] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)  # cases of each level; none: those here
    needs: Mapping[str, str] = field(default_factory=dict)  # checks that faults are found by

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
        """How many catalogued faults the passed cases would have found, and of how many.

        What only a check of conduct finds counts where that check was made.
        """
        passed = {r.id: r.checks.split() for r in self.results if r.outcome in ("pass", "suspect")}
        tried = {r.id for r in self.results}
        within = {name: by for name, by in self.kills.items() if tried & set(by)}
        found = [
            any(c in passed and self.needs.get(name, "") in ("", *passed[c]) for c in by)
            for name, by in within.items()
        ]
        return sum(found), len(within)

    @property
    def conduct(self) -> tuple[int, int]:
        """How many checks of conduct were made and passed, and of how many: one per operation.

        Counted from what was done: a program that does not let a check be made does not have it.
        """
        run = [r for r in self.results if r.outcome not in ("absent", "n/a")]
        right = [r for r in run if r.outcome in ("pass", "suspect")]
        wrong = [r for r in run if r.outcome not in ("pass", "suspect")]
        made = {(r.op, check) for r in right for check in r.checks.split()}
        made -= {(r.op, MISCONDUCT.get(r.word, "")) for r in wrong}
        made -= {(r.op, "layouts") for r in wrong if "layouts" in r.checks.split()}
        return len(made), len(CONDUCT) * len({r.op for r in run})

    def claim(self) -> str:
        """Return the line for a README: suite, levels, arithmetic, passed, strength, conduct."""
        passed = self.counts["pass"] + self.counts["suspect"]
        killed, faults = self.strength
        kept, conduct = self.conduct
        margin = max((r.margin for r in self.results if r.outcome == "pass"), default=0.0)
        part = " ".join(["part of", *(name for name in self._clean if name not in self.levels)])
        shown = [" ".join(self.levels), part.removesuffix("part of")]
        left = "; ".join(NOT_JUDGED[level] for level in self.levels if level in NOT_JUDGED)
        return (
            f"qcp-conformance {self.suite}  {', '.join(filter(None, shown)) or 'no level'}  "
            f"{self.info['arith']}  {passed}/{len(self.results)}  "
            f"faults killed {killed}/{faults}  conduct {kept}/{conduct}  max margin {margin:.2f}"
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
