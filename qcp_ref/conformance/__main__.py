"""The command: ``python -m qcp_ref.conformance my_adapter:impl``.

It runs the implementation through the suite and prints, level by level, what came of it; exit
status 0 if nothing failed, 1 if something did, 2 if the question could not be asked.
"""

import argparse
import shlex
import sys
from collections import Counter
from typing import Any

from qcp_ref.conformance.adapter import Adapter
from qcp_ref.conformance.cases.vectors import (
    SUITE,
    chosen_cases,
    counts,
    everything,
    kills,
    load,
    smoke,
)
from qcp_ref.conformance.running.report import Report
from qcp_ref.conformance.running.session import Session
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
    add("--smoke", action="store_true", help="run the few cases that find most faults; not with -c")
    add("--suite", help="take only cases that this version of the suite has")
    add("--xfails", help="TOML file of known failures")
    add("--write-xfails", help="write the failures to this file")
    add("--report", help="write a JSON report to this file")
    add("--timeout", type=float, default=10.0, help="seconds per case (default: %(default)g)")
    add("--list", action="store_true", help="list the cases and end")
    add("--trace", metavar="FILE", help="compare a run, iterate by iterate, with the stored one")
    add("--faults", action="store_true", help="show which case finds which catalogued fault")
    return parser


def _cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    cases = load(options.suite) if options.smoke else everything(options.suite)
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


def _show(report: Report) -> None:
    """Print failures, then a line per level, then the claim."""
    for result in report.results:
        if result.outcome in ("fail", "xpass", "adapter-error", "suspect"):
            word = result.word or result.outcome
            print(f"{result.outcome.upper():5} {result.id}  ({result.level}, {word})")
            print(f"      {result.says}")
    print(f"{report.info['name']} {report.info['version']}".strip())
    for level, title in LEVELS.items():
        found = Counter(r.outcome for r in report.results if r.level == level)
        if found:
            shown = ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())
            print(f"  {level}  {title}: {shown}")
    print(report.claim())


def _run(options: argparse.Namespace) -> int:
    implementation = options.implementation
    if options.pipe:
        implementation = Adapter.pipe(shlex.split(options.pipe))
    cases = _cases(options)
    entries = []
    if options.xfails:
        known = [case["id"] for case in everything(options.suite)]
        entries = read(options.xfails, SUITE, known)
    session = Session(implementation, timeout=options.timeout)
    try:
        results = [apply(session.run(case), entries) for case in cases]
    finally:
        session.close()
    report = Report(session.info, SUITE, results, kills(), counts(options.suite))
    _show(report)
    try:
        if options.write_xfails:
            write(options.write_xfails, SUITE, results)
        if options.report:
            report.write(options.report)
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0 if report.ok else 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.faults:
            from qcp_ref.conformance.faults.matrix import gates, matrix, table

            found = matrix()
            print(table(found))
            complaints = gates(found)
            print(*complaints, sep="\n")
            return 1 if complaints else 0
        if options.trace:
            from qcp_ref.conformance.running.traces import verdict

            right, says = verdict(options.trace)
            print(says)
            return 0 if right else 1
        if options.list:
            for case in _cases(options):
                print(f"{case['id']:40} {case.get('says', '')}")
            return 0
        if (options.implementation is None) == (options.pipe is None):
            parser.error("expected either an implementation or --pipe")
        return _run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
