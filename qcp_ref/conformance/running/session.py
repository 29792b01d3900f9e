"""Runs an implementation through the cases: asks, judges, and notes the result of each.

Checked by tests/conformance/running/test_session.py.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from qcp_ref.conformance.adapter import REPEAT, Adapter, flipped
from qcp_ref.conformance.cases.recipes import expand
from qcp_ref.conformance.cases.vectors import SUITE, counts, kills, needs
from qcp_ref.conformance.judging.judge import expectation, judge
from qcp_ref.conformance.judging.verdict import Judgement
from qcp_ref.conformance.running.process import DEATHS, Here, Process
from qcp_ref.conformance.running.protocol import (
    CHECKS,
    normal,
    read_answer,
    read_hello,
    written,
)
from qcp_ref.conformance.running.report import Report, Result
from qcp_ref.conformance.spec import CAPABILITIES, OPS, Arithmetic

__all__ = ["TIMEOUT", "WARMUP", "Session", "run"]

TIMEOUT = 10.0  # seconds for one case
START = 60.0  # seconds for loading an adapter
WARMUP = 60.0  # seconds for the first case of an operation, in which compilers may be at work
_DEATHS = 3  # of one operation in a row; then its other cases are not tried any more


class Session:
    """One implementation, case after case.

    Parameters
    ----------
    implementation : Adapter or str
        An adapter, or where to find one: 'module:name' or 'file.py:name'.
    timeout : float
        Seconds for one case, and for the hello of a program.
    warmup : float
        Seconds for the first case of each operation in a process; the timeout if that is longer.
        An operation that uses them up has no others.
    repeat : int
        How often each call is made.
    isolate : bool, optional
        Run it in a process of its own. None: yes, if it can be found again from there, which means
        that it is a variable of a module that is not the program itself.

    Raises
    ------
    ValueError
        If the implementation cannot be loaded, or its description is wrong.
    """

    def __init__(
        self,
        implementation: Adapter | str,
        *,
        timeout: float = TIMEOUT,
        warmup: float = WARMUP,
        repeat: int = REPEAT,
        isolate: bool | None = None,
    ) -> None:
        if repeat < 1:
            raise ValueError(f"repeat: expected 1 or more, got {repeat}")
        self.timeout, self.warmup, self.repeat = timeout, max(timeout, warmup), repeat
        self.deaths, self.died, self.latest = Counter[str](), dict[str, str](), 0
        self.warm, self.cold = set[str](), set[str]()
        command = implementation.command if isinstance(implementation, Adapter) else None
        self.foreign = command is not None
        start = timeout if self.foreign else max(START, self.warmup)
        place = implementation if isinstance(implementation, str) else _place(implementation)
        self.peer: Here | Process
        if command is None and isolate is not False and place:
            command = [sys.executable, "-m", "qcp_ref.conformance.running.worker", place]
        if command is not None:
            self.peer = Process(command, start)
        elif isinstance(implementation, Adapter) and not isolate:
            self.peer = Here(implementation)
        else:
            raise ValueError("isolate: expected an adapter that is a variable of a module")
        try:
            self.info = read_hello(self.peer.ask({"qcp": 1, "hello": 1}, start))
        except BaseException:
            self.close()
            raise
        self.info["isolated"] = isinstance(self.peer, Process)
        if not self.foreign:
            self.info["checks"] = list(CHECKS)
        self.lacks = set(self.info["lacks"])
        if Arithmetic.of(self.info["arith"]).real != "f64":
            self.lacks.add("float64")

    def run(self, case: Mapping[str, Any]) -> Result:
        """Run and judge one case."""
        start, op = monotonic(), case["op"]
        case = expand(case) if op in self.info["ops"] else case
        missing = sorted(self.lacks & set(case["needs"]))
        checks: list[str] = []
        if op not in self.info["ops"]:
            verdict = Judgement("absent", says=f"no operation {op}")
        elif missing:
            verdict = Judgement("n/a", says=f"lacks {missing[0]}: {CAPABILITIES[missing[0]]}")
        elif "layout" in case and self.foreign and "layouts" not in self.info["checks"]:
            verdict = Judgement("n/a", says="numbers in a pipe have no layout")
        elif self.deaths[op] >= _DEATHS:
            says = f"not tried: {op} ended its process {_DEATHS} times"
            verdict = Judgement("fail", self.died[op], says=says)
        else:
            reply = self._foreign(case) if self.foreign else self._own(case)
            verdict = self._verdict(case, reply)
            checks = [*reply.get("checks", ()), *(["layouts"] if "layout" in case else [])]
        seconds = monotonic() - start
        return Result(case["id"], op, OPS[op].level, *verdict, seconds, " ".join(checks))

    def _verdict(self, case: Mapping[str, Any], reply: Mapping[str, Any]) -> Judgement:
        word = reply.get("word") or ("raises" if "error" in reply else "")
        expected = expectation(case, self.info["choices"])
        if word == "raises" and expected.get("kind") == "reject":
            return Judgement("pass")
        if word:
            return Judgement("fail", word, says=self._with_complaint(str(reply["error"])[:500]))
        if "unsupported" in reply:
            known = reply["unsupported"] in CAPABILITIES
            says = f"lacks {reply['unsupported']}"
            return Judgement("n/a" if known else "adapter-error", says=says)
        found = Judgement("pass")
        for out in (reply["out"], *reply.get("others", ())):
            one = self._judged(case, out)
            if one.outcome == "fail":
                says = self._with_complaint(one.says) if self.foreign else one.says
                return one._replace(says=says)
            found = max(found, one, key=lambda judgement: judgement.margin)
        return found

    def _judged(self, case: Mapping[str, Any], out: Mapping[str, Any]) -> Judgement:
        try:
            return judge(case, out, self.info)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if not self.foreign:
                raise  # our own worker writes what can be read
            return Judgement("fail", "garbage", says=f"results that cannot be read: {error!r}")

    def _with_complaint(self, says: str) -> str:
        """Add what the process wrote to its standard error, if it still runs."""
        complaint = self.peer.complaint()
        return f"{says}; standard error: {complaint}" if complaint else says

    # --- asking -----------------------------------------------------------------------------------

    def _ask(self, op: str, request: Mapping[str, Any], calls: int) -> dict[str, Any]:
        """Ask, within the limit of a first case or of later ones."""
        self.latest += 1
        first = op not in self.warm | self.cold
        limit = (self.warmup if first else self.timeout) * max(1.0, calls / REPEAT)
        reply = self.peer.ask({"id": self.latest, **request}, limit)
        if _died(reply):
            self._count_death(op, reply["word"])
            self.warm.clear()
            if first and reply["word"] == "timeout":
                self.cold.add(op)
                reply["error"] += ", the limit of the first case of an operation (--warmup)"
        else:
            self.warm.add(op)
        return reply

    def _count_death(self, op: str, word: str) -> None:
        self.deaths[op] += 1
        self.died[op] = word

    def _own(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a process of this package, which looks at the conduct itself."""
        request = {key: case[key] for key in ("op", "in", "options", "layout") if key in case}
        reply = self._ask(case["op"], request | {"repeat": self.repeat}, self.repeat)
        if not _died(reply):
            self.deaths[case["op"]] = 0
        return reply

    def _foreign(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a program for the case, for other input, for the first result, and again."""
        first = self._answer(case, case["in"])
        if "out" not in first:
            return first
        checks = ["inputs"] if "inputs" in self.info["checks"] else []
        if "results" in self.info["checks"] and self.repeat > 1:
            asked = self.latest
            between = self._answer(case, flipped(case["op"], case["in"]))
            kept = between if _died(between) else self._answer(case, None, again=asked)
            if "out" not in kept:
                return {"word": "garbage", "error": "no first result after a later call", **kept}
            if kept["out"] != first["out"]:
                says = "a later call changed the result of this one"
                return {"word": "overwritten", "error": says}
            checks += ["results"] if between.get("out") not in (None, first["out"]) else []
        others = []
        for _ in range(1, self.repeat):
            again = self._answer(case, case["in"])
            if _died(again):
                return again
            others += [again] if again != first else []
        outs = [other["out"] for other in others if "out" in other]
        if len(outs) < len(others) or (outs and not self.info["nondeterministic"]):
            return {"word": "unrepeatable", "error": "the same call gave another answer"}
        checks += ["repeats"] if self.repeat > 1 else []
        return {**first, "others": outs, "checks": checks}

    def _answer(self, case: Mapping[str, Any], given: Any, **again: int) -> dict[str, Any]:
        """Ask a program once, or for an earlier result once more; read its answer strictly."""
        op, real = case["op"], Arithmetic.of(self.info["arith"]).real
        echo = real if "inputs" in self.info["checks"] and not again else ""
        request: dict[str, Any] = dict(again)
        if not again:
            request = {key: case[key] for key in ("op", "options", "layout") if key in case}
            request["in"] = written(given, self.info["numbers"], real)
        reply = self._ask(op, request | ({"echo": True} if echo else {}), 1)
        if _died(reply):
            return reply
        try:
            found = read_answer(reply, op, echo=echo)
        except ValueError as error:
            self._count_death(op, "garbage")
            return {"word": "garbage", "error": f"an answer that cannot be read: {error}"}
        self.deaths[op] = 0
        if "in" in found and found.pop("in") != normal(given, real):
            return {"word": "mutates", "error": "the inputs were changed"}
        return found

    def close(self) -> None:
        """End the implementation's process."""
        self.peer.stop()


def _died(reply: Mapping[str, Any]) -> bool:
    """Whether there is no answer; what a program itself says has an id."""
    return reply.get("word") in DEATHS and "id" not in reply


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
    timeout: float = TIMEOUT,
    warmup: float = WARMUP,
    repeat: int = REPEAT,
    isolate: bool | None = None,
) -> Report:
    """Run an implementation through cases.

    Parameters
    ----------
    implementation : Adapter or str
        As for ``Session``.
    cases : iterable of mapping
        Cases of the suite, as ``qcp_ref.conformance.cases.vectors.load`` returns them.
    timeout, warmup, repeat, isolate
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
    limits: dict[str, Any] = {"timeout": timeout, "warmup": warmup, "repeat": repeat}
    session = Session(implementation, isolate=isolate, **limits)
    try:
        results = [session.run(case) for case in cases]
    finally:
        session.close()
    return Report(session.info, SUITE, results, kills(), counts(), needs())
