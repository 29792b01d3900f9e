"""Runs an implementation through the cases: asks, judges, and notes the result of each.

Checked by tests/conformance/running/test_session.py.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from qcp_ref.conformance.adapter import Adapter
from qcp_ref.conformance.cases.recipes import expand
from qcp_ref.conformance.cases.vectors import SUITE, counts, kills
from qcp_ref.conformance.judging.judge import expectation, judge
from qcp_ref.conformance.running.process import START, Here, Process
from qcp_ref.conformance.running.report import Report, Result
from qcp_ref.conformance.spec import CAPABILITIES, CHOICES, OPS, Arithmetic

__all__ = ["Session", "run"]

_DEATHS = 3  # of one operation in a row; then its other cases are not tried any more


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
        self.peer: Here | Process
        if command is None and isolate is not False and place:
            command = [sys.executable, "-m", "qcp_ref.conformance.running.worker", place]
        if command is not None:
            self.peer = Process(command)
        elif isinstance(implementation, Adapter) and not isolate:
            self.peer = Here(implementation)
        else:
            raise ValueError("isolate: expected an adapter that is a variable of a module")
        try:
            self.info = _described(self.peer.ask({"qcp": 1, "hello": 1}, START))
        except BaseException:
            self.close()
            raise
        self.info["isolated"] = isinstance(self.peer, Process)
        self.lacks = set(self.info["lacks"])
        if Arithmetic.of(self.info["arith"]).real != "f64":
            self.lacks.add("float64")

    def run(self, case: Mapping[str, Any]) -> Result:
        """Run and judge one case."""
        start, op = monotonic(), case["op"]
        case = expand(case) if op in self.info["ops"] else case
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
        Cases of the suite, as ``qcp_ref.conformance.cases.vectors.load`` returns them.
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
    session = Session(implementation, timeout=timeout, isolate=isolate)
    try:
        results = [session.run(case) for case in cases]
    finally:
        session.close()
    return Report(session.info, SUITE, results, kills(), counts())
