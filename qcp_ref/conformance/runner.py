"""Runs an implementation through the cases and says what came of it, whatever it does.

An implementation that hangs, crashes, prints garbage or changes its inputs fails the case in which
it does so, with that word, and never the run: it works in a process of its own, which is killed and
started again (``qcp_ref.conformance.worker``).
"""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from qcp_ref.conformance.adapter import Adapter, Arithmetic, execute
from qcp_ref.conformance.dyadic import canonical
from qcp_ref.conformance.judge import expectation, judge
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, LEVELS, OPS

__all__ = ["Report", "Result", "Session", "run"]

_START = 60.0  # seconds that loading an implementation may take
_DEATHS = 3  # of one operation in a row; then its other cases are not tried any more
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
        return (
            f"qcp-conformance {self.suite}  {', '.join(filter(None, shown)) or 'no level'}  "
            f"{self.info['arith']}  {passed}/{len(self.results)}  "
            f"faults killed {killed}/{faults}  max margin {margin:.2f}"
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


class _Here:
    """An implementation in this process: quick, but a hang or a crash is everybody's."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        del timeout
        return self.adapter.hello() if "hello" in request else execute(self.adapter, request)

    def stop(self) -> None:
        pass


class _Process:
    """An implementation in a process of its own, started again after its death."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.complaints: Any = None

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer, or one word for why there is none."""
        if self.process is None and "hello" not in request:
            self.ask({"qcp": 1, "hello": 1}, _START)
        try:
            if self.process is None:
                self._start()
            line = self._exchange((canonical(request) + "\n").encode(), monotonic() + timeout)
        except TimeoutError:
            self.stop()
            return {"word": "timeout", "error": f"no answer within {timeout:g} s"}
        except EOFError:
            return {"word": "crash", "error": self._epitaph()}
        try:
            answer = json.loads(line)
            if "hello" not in request and answer["id"] != request["id"]:
                raise ValueError
        except (ValueError, TypeError, KeyError):
            self.stop()
            shown = line[:60].decode(errors="replace")
            return {"word": "garbage", "error": f"the answer is not one: {shown!r}"}
        return dict(answer)

    def _start(self) -> None:
        # Standard error goes to a file, so that a process that complains a lot never blocks.
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.complaints,
                bufsize=0,
            )
        except OSError as error:
            self.complaints.write(str(error).encode())
            raise EOFError from None
        assert self.process.stdin and self.process.stdout  # noqa: S101  # for the type checker
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        """Write one line and read one, without ever blocking past the deadline."""
        assert self.process and self.process.stdin and self.process.stdout  # noqa: S101
        write, read = self.process.stdin.fileno(), self.process.stdout.fileno()
        received = bytearray()
        while not received.endswith(b"\n"):
            left = deadline - monotonic()
            ready = select.select([read], [write] if request else [], [], max(left, 0))
            if left <= 0:
                raise TimeoutError
            try:
                if ready[1]:
                    request = request[os.write(write, request[:65536]) :]
                if ready[0]:
                    chunk = os.read(read, 1 << 20)
                    received += chunk
                    if not chunk:
                        raise EOFError
            except (BrokenPipeError, ConnectionResetError):
                raise EOFError from None
        return bytes(received)

    def _epitaph(self) -> str:
        """Say how the process ended, with the last thing that it complained about."""
        status = None
        if self.process is not None:
            try:
                status = self.process.wait(1.0)
            except subprocess.TimeoutExpired:
                status = 0  # it closed its output and lives on
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").strip().splitlines()
        self.stop()
        how = "could not be started" if status is None else f"ended with exit status {status}"
        if status is not None and status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        return f"the process {how}" + (f": {lines[-1]}" if lines else "")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process = None
        if self.complaints is not None:
            self.complaints.close()
            self.complaints = None


class Session:
    """One implementation, case after case.

    Parameters
    ----------
    implementation : Adapter or str
        An adapter, or where to find one: 'module:name' or 'file.py:name'.
    timeout : float
        Seconds for one case.
    isolate : bool, optional
        Run it in a process of its own. None: yes, if it can be found again from there, which means
        that it is a variable of a module that is not the program itself.

    Raises
    ------
    ValueError
        If the implementation cannot be loaded, or its description is wrong.
    """

    def __init__(
        self, implementation: Adapter | str, *, timeout: float = 10.0, isolate: bool | None = None
    ) -> None:
        self.timeout, self.deaths, self.latest = timeout, Counter[str](), 0
        command = implementation.command if isinstance(implementation, Adapter) else None
        self.foreign = command is not None
        place = implementation if isinstance(implementation, str) else _place(implementation)
        self.peer: _Here | _Process
        if command is None and isolate is not False and place:
            command = [sys.executable, "-m", "qcp_ref.conformance.worker", place]
        if command is not None:
            self.peer = _Process(command)
        elif isinstance(implementation, Adapter) and not isolate:
            self.peer = _Here(implementation)
        else:
            raise ValueError("isolate: expected an adapter that is a variable of a module")
        try:
            self.info = _described(self.peer.ask({"qcp": 1, "hello": 1}, _START))
        except BaseException:
            self.close()
            raise
        self.info["isolated"] = isinstance(self.peer, _Process)
        self.lacks = set(self.info["lacks"])
        if Arithmetic.of(self.info["arith"]).real != "f64":
            self.lacks.add("float64")

    def run(self, case: Mapping[str, Any]) -> Result:
        """Run and judge one case."""
        start, op = monotonic(), case["op"]
        missing = sorted(self.lacks & set(case["needs"]))
        if op not in self.info["ops"]:
            verdict: tuple[str, str, float, str] = ("absent", "", 0.0, f"no operation {op}")
        elif missing:
            says = f"lacks {missing[0]}: {CAPABILITIES[missing[0]]}"
            verdict = ("n/a", "", 0.0, says)
        elif self.deaths[op] >= _DEATHS:
            verdict = ("fail", "crash", 0.0, f"not tried: {op} ended its process {_DEATHS} times")
        else:
            verdict = self._verdict(case)
        return Result(case["id"], op, OPS[op].level, *verdict, monotonic() - start)

    def _verdict(self, case: Mapping[str, Any]) -> tuple[str, str, float, str]:
        self.latest += 1
        request = {key: case[key] for key in ("op", "in", "options", "layout") if key in case}
        reply = self.peer.ask({"id": self.latest, **request}, self.timeout)
        word = reply.get("word") or ("raises" if "error" in reply else "")
        died = word in ("crash", "timeout", "garbage")
        self.deaths[case["op"]] = self.deaths[case["op"]] + 1 if died else 0
        expected = expectation(case, self.info["choices"])
        if word == "raises" and expected.get("kind") == "reject":
            return "pass", "", 0.0, ""
        if word:
            return "fail", word, 0.0, str(reply["error"])[:500]
        if "unsupported" in reply:
            known = reply["unsupported"] in CAPABILITIES
            says = f"lacks {reply['unsupported']}"
            return ("n/a" if known else "adapter-error"), "", 0.0, says
        try:
            return judge(case, reply["out"], self.info)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if not self.foreign:
                raise  # our own worker writes what can be read
            return "fail", "garbage", 0.0, f"results that cannot be read: {error!r}"

    def close(self) -> None:
        """End the implementation's process."""
        self.peer.stop()


def _described(hello: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a description, and refuse unknown words: they would silently exclude cases."""
    if "ops" not in hello or "name" not in hello:
        raise ValueError(f"implementation: {hello.get('error', 'no name or no ops')}")
    info = {"version": "", "arith": "f64", "fast": None, "lacks": [], **hello}
    info["choices"] = {k: v[0] for k, v in CHOICES.items()} | hello.get("choices", {})
    Arithmetic.of(info["arith"])
    for key, known in (("ops", OPS), ("lacks", CAPABILITIES), ("choices", CHOICES)):
        unknown = set(info[key]) - set(known)
        if unknown:
            raise ValueError(f"{key}: unknown: {', '.join(sorted(unknown))}")
    for key, value in info["choices"].items():
        if value not in CHOICES[key]:
            raise ValueError(f"{key}: expected one of {CHOICES[key]}, got {value!r}")
    return info


def _place(adapter: Adapter) -> str:
    """Return where an adapter can be found from another process, or nothing."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name == "__main__" or not path:
            continue
        for key, value in list(vars(module).items()):
            if value is adapter:
                inside = bool(getattr(module, "__package__", None))
                return f"{name if inside else Path(path).resolve()}:{key}"
    return ""


def run(
    implementation: Adapter | str,
    cases: Iterable[Mapping[str, Any]],
    *,
    timeout: float = 10.0,
    isolate: bool | None = None,
) -> Report:
    """Run an implementation through cases.

    Parameters
    ----------
    implementation : Adapter or str
        As for ``Session``.
    cases : iterable of mapping
        Cases of the suite, as ``qcp_ref.conformance.vectors.load`` returns them.
    timeout, isolate
        As for ``Session``.

    Returns
    -------
    Report
        One result per case.

    Raises
    ------
    ValueError
        If the implementation cannot be loaded.
    """
    from qcp_ref.conformance.vectors import SUITE, counts, kills

    session = Session(implementation, timeout=timeout, isolate=isolate)
    try:
        results = [session.run(case) for case in cases]
    finally:
        session.close()
    return Report(session.info, SUITE, results, kills(), counts())
