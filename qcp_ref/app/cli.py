"""The command ``qcp-ref``."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qcp_ref.search import METHODS

__all__ = ["main"]

_EXTRAS = {"demo": ("rich", "matplotlib"), "notebooks": ("jupyterlab", "matplotlib")}
_INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parsed = vars(_parser().parse_args(arguments))
    command = parsed.pop("command")
    missing = [name for name in _EXTRAS[command] if find_spec(name) is None]
    if missing and not parsed.get("copy_only"):
        print(
            f"qcp-ref {command} needs {' and '.join(missing)}: pip install 'qcp-ref[{command}]' "
            f"(in a checkout: pip install '.[{command}]')",
            file=sys.stderr,
        )
        return 1
    try:
        return _demo(**parsed) if command == "demo" else _notebooks(**parsed)
    except KeyboardInterrupt:
        print(f"interrupted; files in {parsed['out']} are whole", file=sys.stderr)
        return _INTERRUPTED
    except (ValueError, OSError) as problem:
        print(f"qcp-ref {command}: {problem}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    parser = argparse.ArgumentParser(
        prog="qcp-ref", description="Quantization-aware CP factorization, the reference."
    )
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    demo = commands.add_parser(
        "demo",
        help="compress the bundled network and check the result",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = demo.add_argument
    option("--rate", default="2", help="parameter reduction of each kernel")
    option("--bits", type=int, default=4, help="bits of each weight, 1 to 16; slow above 10")
    option("--method", choices=METHODS, default="best", help="shown beside als-round and authors")
    option("--seed", type=int, default=0, help="seed of the solver")
    option("--out", type=Path, default=Path("qcp-ref-out"), help="folder for the results")
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
    return 0 if copy_only else open_notebooks(out)


def _demo(**options: Any) -> int:
    """Run the demo with a live display, then print its tables."""
    from rich.console import Console

    from qcp_ref.app.demo import Settings, run
    from qcp_ref.app.plots import draw_demo
    from qcp_ref.app.tables import Display, tables

    console, settings = Console(), Settings(**options)
    with Display(console, settings) as display:
        result = run(settings, display.progress, display.announce)
    picture = draw_demo(result, settings.out / "demo.png")
    for table in tables(result):
        console.print(table)
    console.print(
        f"self-check: worst error of the stages against the dense convolution is "
        f"{result.checks['worst_share_of_rounding_bound']:.1%} of its proven bound; "
        f"{result.checks['weights_off_grid']} of {result.cost.parameters:,} stored weights lie off "
        f"their grids: {'passed' if result.passed else 'FAILED'}"
    )
    console.print(
        f"{result.seconds['all']:.1f} s; wrote results.json, compressed.npz and {picture.name} "
        f"in {settings.out}"
    )
    return 0 if result.passed else 1
