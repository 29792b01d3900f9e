"""The command: ``python -m qcp_ref.conformance my_adapter:impl``.

It runs the implementation through the suite and prints, level by level, what came of it; exit
status 0 if nothing failed, 1 if something did, 2 if the question could not be asked or the answer
not be printed. Files that were asked for are written before anything is printed.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

from qcp_ref.conformance.adapter import REPEAT, Adapter
from qcp_ref.conformance.cases.vectors import (
    SUITE,
    chosen_cases,
    counts,
    everything,
    kills,
    load,
    needs,
    smoke,
    stored,
)
from qcp_ref.conformance.running.report import Report
from qcp_ref.conformance.running.session import TIMEOUT, WARMUP, Session
from qcp_ref.conformance.running.xfails import apply, matches, read, write
from qcp_ref.conformance.spec import LEVELS

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qcp_ref.conformance",
        description="Check an implementation of quantization-aware CP factorization.",
    )
    add = parser.add_argument
    add("implementation", nargs="?", help="the adapter: module:name or file.py:name")
    add("--pipe", metavar="COMMAND", help="instead: a program that speaks the protocol of the docs")
    add("--levels", help='levels to run, such as "L0 L2" (default: all)')
    add("-c", "--case", action="append", help="run this case; with .* also ids that begin so")
    add("--stored", action="store_true", help="ask the cases in files alone: in seconds")
    add("--smoke", action="store_true", help="run the few cases that find most faults; not with -c")
    add("--suite", help="take only cases that this version of the suite has")
    add("--xfails", help="TOML file of known failures")
    add("--write-xfails", help="write the failures to this file")
    add("--report", help="write a JSON report to this file")
    add("--timeout", type=float, default=TIMEOUT, help="seconds per case (default: %(default)g)")
    first = "seconds for the first case of each operation (default: %(default)g)"
    add("--warmup", type=float, default=WARMUP, help=first)
    add("--repeat", type=int, default=REPEAT, help="make each call so often (default: %(default)d)")
    add("--list", action="store_true", help="list the cases and end")
    add("--trace", metavar="FILE", help="compare a run, iterate by iterate, with the stored one")
    add("--faults", action="store_true", help="show which case finds which catalogued fault")
    return parser


def _cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    cases = load(options.suite) if options.smoke else everything(options.suite)
    if options.stored:
        files = {case["id"] for case in stored()}
        cases = [case for case in cases if case["id"] in files]
    if options.case and options.smoke:
        raise ValueError("smoke: expected without -c, which chooses cases too")
    wanted = options.case or (smoke() if options.smoke else None)
    for pattern in wanted or ():
        if not any(matches(pattern, case["id"]) for case in cases):
            raise ValueError(f"case: {pattern!r} matches no case; see --list")
    cases = chosen_cases(cases, options.levels)
    if wanted is None:
        return cases
    return [case for case in cases if any(matches(pattern, case["id"]) for pattern in wanted)]


def _text(report: Report) -> str:
    """Write failures, then a line per level, then the claim."""
    lines = []
    for result in report.results:
        if result.outcome in ("fail", "xpass", "adapter-error", "suspect"):
            word = result.word or result.outcome
            lines.append(f"{result.outcome.upper():5} {result.id}  ({result.level}, {word})")
            lines.append(f"      {result.says}")
    lines.append(f"{report.info['name']} {report.info['version']}".strip())
    for level, title in LEVELS.items():
        found = Counter(r.outcome for r in report.results if r.level == level)
        if found:
            shown = ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())
            lines.append(f"  {level}  {title}: {shown}")
    return "\n".join([*lines, report.claim()])


def _run(options: argparse.Namespace) -> tuple[int, str]:
    implementation = options.implementation
    if options.pipe:
        implementation = Adapter.pipe(shlex.split(options.pipe))
    cases = _cases(options)
    entries = []
    if options.xfails:
        known = [case["id"] for case in everything(options.suite)]
        entries = read(options.xfails, SUITE, known)
    limits = {"timeout": options.timeout, "warmup": options.warmup}
    session = Session(implementation, **limits, repeat=options.repeat)
    try:
        results = [apply(session.run(case), entries) for case in cases]
    finally:
        session.close()
    report = Report(session.info, SUITE, results, kills(), counts(options.suite), needs())
    status = 0 if report.ok else 1
    failures = partial(write, suite=SUITE, results=results)
    for path, save in ((options.write_xfails, failures), (options.report, report.write)):
        try:
            if path:
                save(path)
        except OSError as error:
            status = 2
            _complain(f"cannot write {path}: {error.strerror}")
    return status, _text(report)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.faults:
            from qcp_ref.conformance.faults.matrix import gates, matrix, table

            found = matrix()
            complaints = gates(found)
            status, text = int(bool(complaints)), "\n".join([table(found), *complaints])
        elif options.trace:
            from qcp_ref.conformance.running.traces import verdict

            right, text = verdict(options.trace)
            status = 0 if right else 1
        elif options.list:
            lines = [f"{case['id']:40} {case.get('says', '')}" for case in _cases(options)]
            status, text = 0, "\n".join(lines)
        elif (options.implementation is None) == (options.pipe is None):
            parser.error("expected either an implementation or --pipe")
        else:
            status, text = _run(options)
    except ValueError as error:
        _complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return status if _printed(text) else 2


def _complain(text: str) -> None:
    """Print to standard error, if there is one."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr)


def _printed(text: str) -> bool:
    """Print to standard output; return whether that could be done."""
    if sys.stdout is None:
        _complain("cannot write to standard output: it is closed")
        return False
    try:
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except (OSError, ValueError) as error:
        _complain(f"cannot write to standard output: {error}")
        # What is left goes nowhere, or Python would try to write it once more at its end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
