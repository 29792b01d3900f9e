"""Mutation testing: change the library in small ways, see whether the chapter's own tests notice.

``python scripts/mutation.py --sample 150`` takes a seeded sample of each chapter, no option all
mutants. ``--chapter tensors.cp`` (again for more) restricts it, ``--jobs`` runs that many
processes.

What is judged goes into a session file at once; a run that is stopped goes on from there, and
judges again what was judged for other texts of package and tests. ``--survivors`` judges only those
that survived the last time, whatever has changed since: for writing tests.

tests/survivors.toml lists survivors that no test can kill, or none should, each with its reason.
They do not count; one that is listed and killed is an error. With ``--check`` the exit status is 1
if a chapter misses its goal.

See mutants.py for what a mutant is, and judge.py for what is run against it.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "docs" / "_ext"))

from judge import Place, Plan, Verdict, convene, judge, merge, survey
from mutants import Mutant, mutants
from sources import CHAPTERS, GROUND, PARTS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "qcp_ref"
LOOPS = ["nested", "tensors", "grids", "factors", "layers", "networks"]
JUDGED = [*CHAPTERS, *(f"loops.{name}" for name in LOOPS), *GROUND[:-1], "minimal"]
# Per cent of the mutants that have to be killed, of those that are not listed.
HIGH = ["tensors.tensor", "tensors.cp", "tensors.als", "factors.admm", "grids.grid", "layers.conv"]
GOALS = dict.fromkeys([*HIGH, *(f"loops.{name}" for name in LOOPS)], 95.0)
GOAL = 90.0
# Run as plain Python: compiling each mutant would take seconds. That both forms agree is tested.
UNCOMPILED = {"_kernels"}


def files_of_tests(chapter: str, root: Path = ROOT, package: str = PACKAGE) -> tuple[str, ...]:
    """Return the test files that judge a chapter: those that its docstring names, or its own.

    Loops are judged by their own tests and by those of the part that they are a mirror of.
    """
    *parts, last = chapter.split(".")
    if parts == ["loops"]:
        others = [f"{last}.{name}" for name in PARTS.get(last, ())]
        found = [file for other in others for file in files_of_tests(other, root, package)]
        return ("tests/loops/test_loops.py", *dict.fromkeys(found))
    text = place_of(chapter, root, package).read_text(encoding="utf-8")
    named = re.findall(r"tests/[\w/]*test_\w+\.py", ast.get_docstring(ast.parse(text)) or "")
    return tuple(named) or ("/".join(["tests", *parts, f"test_{last.strip('_')}.py"]),)


def place_of(chapter: str, root: Path = ROOT, package: str = PACKAGE) -> Path:
    """Return the file of a chapter."""
    return root / package / f"{chapter.replace('.', '/')}.py"


@dataclass(frozen=True)
class Row:
    """One line of the session file."""

    chapter: str
    key: str
    digest: str  # of package and tests
    state: str
    test: str
    seconds: float
    line: int
    where: str
    old: str
    new: str
    diff: str


class Session:
    """What has been judged; a file of JSON lines, of which the last one for a mutant counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    self._keep(Row(**json.loads(line)))
                except (ValueError, TypeError):
                    continue  # the line that was being written when a run was stopped
            if not path.read_bytes().endswith(b"\n"):
                with path.open("a") as stream:
                    stream.write("\n")

    def add(self, row: Row) -> None:
        """Write a line at once."""
        self._keep(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(vars(row)) + "\n")

    def _keep(self, row: Row) -> None:
        self.rows[row.chapter, row.key] = row


def digest(root: Path, package: str, chapter: str, tests: Sequence[str]) -> str:
    """Return a hash of all texts that can change a verdict on a chapter."""
    texts = sorted({*(root / package).rglob("*.py"), *(root / name for name in tests)})
    shared = [root / "tests" / "conftest.py", *sorted((root / "tests" / "helpers").glob("*.py"))]
    total = hashlib.sha256(chapter.encode())
    for path in [*texts, *shared]:
        if path.exists():
            total.update(path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def run_chapter(
    place: Place, todo: Sequence[Mutant], jobs: int
) -> Iterator[tuple[Mutant, Verdict] | Plan]:
    """Survey the tests, yield the plan; then yield each mutant with its verdict as it comes."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        plan = merge(list(pool.map(survey, (replace(place, tests=(t,)) for t in place.tests))))
    yield plan
    with ProcessPoolExecutor(
        jobs, mp_context=spawn, initializer=convene, initargs=(place, plan)
    ) as pool:
        waiting: dict[Future[Verdict], Mutant] = {
            pool.submit(judge, m.source, range(m.first, m.last + 1)): m for m in todo
        }
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


# --- the report -----------------------------------------------------------------------------------


def reasons(path: Path) -> dict[tuple[str, str, str, str], str]:
    """Read the listed survivors: chapter, function, line before, line after -> the reason."""
    if not path.exists():
        return {}
    listed = tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", [])
    return {(row["chapter"], row["where"], row["old"], row["new"]): row["reason"] for row in listed}


@dataclass(frozen=True)
class Score:
    """The count of one chapter."""

    chapter: str
    killed: int
    late: int
    open: list[Row]
    listed: list[Row]
    wrongly_listed: list[Row]

    @property
    def judged(self) -> int:
        """Return how many were judged."""
        return self.killed + self.late + len(self.open) + len(self.listed)

    @property
    def percent(self) -> float:
        """Return how many per cent of those not listed were noticed."""
        counted = self.judged - len(self.listed)
        return 100.0 * (self.killed + self.late) / counted if counted else 100.0


def score(chapter: str, rows: Sequence[Row], listed: dict[tuple[str, str, str, str], str]) -> Score:
    """Count what became of the mutants of a chapter."""

    def is_listed(row: Row) -> bool:
        return (chapter, row.where, row.old, row.new) in listed

    alive = [row for row in rows if row.state == "survived"]
    return Score(
        chapter,
        sum(row.state == "killed" for row in rows),
        sum(row.state == "timeout" for row in rows),
        [row for row in alive if not is_listed(row)],
        [row for row in alive if is_listed(row)],
        [row for row in rows if row.state != "survived" and is_listed(row)],
    )


def details(result: Score, file: str) -> str:
    """Describe the open survivors, and the listed ones that a test kills."""
    parts = []
    for row in sorted(result.open, key=lambda row: row.line):
        note = f"  ({row.test})" if row.test else ""
        parts.append(f"{file}:{row.line} {row.where}: survived{note}\n{row.diff}\n")
    parts += [
        f"{file}:{row.line} {row.where}: listed in tests/survivors.toml, but {row.test} kills it\n"
        f"{row.diff}\n"
        for row in result.wrongly_listed
    ]
    return "\n".join(parts)


def table(results: Sequence[Score]) -> str:
    """Return the scores, a line per chapter."""
    lines = [
        f"{'chapter':20}{'mutants':>8}{'killed':>8}{'timeout':>8}{'listed':>8}{'open':>6}  score"
    ]
    for r in results:
        counts = f"{r.judged:8}{r.killed:8}{r.late:8}{len(r.listed):8}{len(r.open):6}"
        goal = GOALS.get(r.chapter, GOAL)
        lines.append(f"{r.chapter:20}{counts}  {r.percent:5.1f} % (goal {goal:.0f})")
    return "\n".join(lines)


# --- the command ----------------------------------------------------------------------------------


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--chapter", action="append", help="only this one; may be repeated")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants of each chapter")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes")
    parser.add_argument("--session", type=Path, help="default: .mutation/session.jsonl")
    parser.add_argument("--survivors", action="store_true", help="judge survivors again")
    parser.add_argument("--check", action="store_true", help="fail if a goal is missed")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write survivors to DIR/CHAPTER.txt"
    )
    parser.add_argument("--patience", type=float, default=5.0, help="seconds before a time-out")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--package", default=PACKAGE, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def chapter_score(args: argparse.Namespace, session: Session, chapter: str, out: TextIO) -> Score:
    """Judge what has to be judged of one chapter."""
    place = Place(
        args.root,
        f"{args.package}.{chapter}",
        files_of_tests(chapter, args.root, args.package),
        chapter in UNCOMPILED,
        args.patience,
    )
    source = place.path.read_text(encoding="utf-8")
    file = str(place.path.relative_to(args.root))
    mark = digest(args.root, args.package, chapter, place.tests)
    drawn = list(mutants(source, args.sample, args.seed))

    def is_settled(mutant: Mutant) -> bool:
        row = session.rows.get((chapter, mutant.key))
        if args.survivors:
            return row is None or row.state != "survived"
        return row is not None and row.digest == mark

    todo = [mutant for mutant in drawn if not is_settled(mutant)]
    start = time.perf_counter()
    print(f"{chapter}: {len(drawn)} mutants, {len(todo)} to judge", file=out, flush=True)
    if todo:
        for event in run_chapter(place, todo, args.jobs):
            if isinstance(event, Plan):
                began = time.perf_counter()
                for test, why in event.left_out.items():
                    if why != "skipped":
                        print(f"  left out, {why} without a change: {test}", file=out, flush=True)
                continue
            m, v = event
            session.add(
                Row(
                    *(chapter, m.key, mark, v.state, v.test, round(v.seconds, 2)),
                    *(m.line, m.where, m.old, m.new, m.diff(source, file)),
                )
            )
        now = time.perf_counter()
        each = (now - began) * args.jobs / len(todo)
        print(f"  {now - start:.0f} s, {each:.2f} s per mutant and process", file=out, flush=True)
    rows = [session.rows[chapter, m.key] for m in drawn if (chapter, m.key) in session.rows]
    return score(chapter, rows, reasons(args.root / "tests" / "survivors.toml"))


def main(argv: Sequence[str] | None = None, out: Any = None) -> int:
    """Judge, report; return the exit status."""
    args, out = options(argv), out or sys.stdout
    args.root = args.root.resolve()
    session = Session(args.session or args.root / ".mutation" / "session.jsonl")
    results = []
    for chapter in args.chapter or JUDGED:
        result = chapter_score(args, session, chapter, out)
        results.append(result)
        file = str(place_of(chapter, args.root, args.package).relative_to(args.root))
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            text = f"{table([result])}\n\n{details(result, file)}"
            (args.out / f"{chapter}.txt").write_text(text, encoding="utf-8")
        else:
            print(details(result, file), file=out, flush=True)
    print(table(results), file=out)
    missed = [r for r in results if r.percent < GOALS.get(r.chapter, GOAL) or r.wrongly_listed]
    return int(args.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
