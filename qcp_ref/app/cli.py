"""The command ``qcp-ref``."""

import argparse
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast

from qcp_ref import __version__
from qcp_ref.factors.methods import METHODS

__all__ = ["main"]

_EXTRAS = {"demo": ("rich", "matplotlib"), "notebooks": ("jupyterlab", "matplotlib")}
_USAGE = 2  # what argparse ends with
_INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    _prepare_streams()
    command, screen = "qcp-ref", _Watched(sys.stdout)
    try:
        with contextlib.redirect_stdout(cast("Any", screen)):
            try:
                parsed = vars(_parser().parse_args(arguments))
                command = f"qcp-ref {parsed['command']}"
                return _run(**parsed)
            finally:
                screen.check()
    except (KeyboardInterrupt, ValueError, OSError) as problem:
        stopped = isinstance(problem, KeyboardInterrupt)
        says = "interrupted" if stopped else " ".join(str(problem).split())
        if screen.problem and not stopped:
            says = f"cannot write to standard output: {screen.problem}"
        _complain("; ".join([f"{command}: {says}", *getattr(problem, "__notes__", [])]))
        return _INTERRUPTED if stopped else 1


class _Watched:
    """Standard output that remembers what went wrong with it: not everybody lets errors pass."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.problem = stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._watch():
            return self.stream.write(text)

    def flush(self) -> None:
        with self._watch():
            self.stream.flush()

    def check(self) -> None:
        """Raise OSError if output was lost."""
        self.flush()
        if self.problem:
            raise OSError(self.problem)

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            self.problem = str(problem)
            with contextlib.suppress(OSError):  # so that nothing is left to fail at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
            raise


def _run(command: str, **options: Any) -> int:
    missing = [name for name in _EXTRAS[command] if find_spec(name) is None]
    if missing and not options.get("copy_only"):
        _complain(
            f"qcp-ref {command} needs {' and '.join(missing)}: pip install 'qcp-ref[{command}]' "
            f"(in a checkout: pip install '.[{command}]')"
        )
        return 1
    return _demo(**options) if command == "demo" else _notebooks(**options)


def _parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    parser = argparse.ArgumentParser(
        prog="qcp-ref", description="Quantization-aware CP factorization, the reference."
    )
    parser.add_argument("--version", action="version", version=f"qcp-ref {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    demo = commands.add_parser(
        "demo",
        help="compress the bundled network and check the result",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = demo.add_argument
    option("--rate", default="2", help="parameter reduction of each kernel, 1 or more")
    option("--bits", type=int, default=4, help="bits of each weight, 1 to 16; slow above 10")
    option("--method", choices=METHODS, default="best", help="shown beside als-round and authors")
    option("--seed", type=int, default=0, help="seed of the solver, 0 or more")
    where = "folder for the results; each run makes a folder run-<n> in it"
    option("--out", type=Path, default=Path("qcp-ref-out"), help=where)
    notebooks = commands.add_parser(
        "notebooks",
        help="copy the tutorials into a folder and open them in JupyterLab",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = notebooks.add_argument
    where = "folder for the copies; files that are there already are kept"
    option(
        "out", metavar="DIR", nargs="?", type=Path, default=Path("qcp-ref-notebooks"), help=where
    )
    option("--copy-only", action="store_true", help="do not open them")
    return parser


def _notebooks(out: Path, copy_only: bool) -> int:
    """Copy the tutorials, say where they are, and open them."""
    from qcp_ref.app.notebooks import copy_notebooks, open_notebooks

    copies = copy_notebooks(out)
    print(f"{len(copies)} notebooks in {out}, to be read in order from {copies[0].name}")
    sys.stdout.flush()
    return 0 if copy_only else open_notebooks(out)


def _demo(**options: Any) -> int:
    """Run the demo with a live display, then print its tables."""
    from qcp_ref.app.archive import FileError
    from qcp_ref.app.demo.measure import DemoResult, Settings, run
    from qcp_ref.app.demo.tables import Screen, shown, tables

    try:
        settings = Settings(**options)
    except FileError:
        raise
    except ValueError as problem:
        _complain(f"qcp-ref demo: argument --{problem}")
        return _USAGE
    console = Screen()
    with _folder(settings.out), shown(console, settings) as display:
        result: DemoResult = run(settings, display.progress, display.announce)
    try:
        for table in tables(result):
            console.print(table)
        _summarize(console, result)
    except (KeyboardInterrupt, OSError) as problem:
        problem.add_note(f"the results are in {result.folder}")
        raise
    return 0 if result.passed else 1


def _summarize(console: Any, result: Any) -> None:
    """Print what the check found, and where the files are."""
    console.print(
        f"self-check: worst error of the stages against the dense convolution is "
        f"{result.checks['worst_share_of_rounding_bound']:.1%} of its proven bound; "
        f"{result.checks['weights_off_grid']} of {result.cost.parameters:,} stored weights lie off "
        f"their grids: {'passed' if result.passed else 'FAILED'}"
    )
    files = f"results.json, compressed.npz and demo.png in {result.folder}"
    line = f"{result.seconds['all']:.1f} s; wrote {files}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder that can be written to before anything is computed; leave no empty one."""
    try:
        there = path.exists()
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as problem:
        says = f"argument --out: cannot write to {path}: {problem.strerror}"
        raise ValueError(says) from problem
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it holds files, or somebody else is in it
            if not there:
                path.rmdir()


def _prepare_streams() -> None:
    """Let output work where it is closed or where its encoding lacks a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(text: str) -> None:
    """Print a line on standard error, if there is one."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
