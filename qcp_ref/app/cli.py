"""The command ``qcp-ref``."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qcp_ref.search import METHODS

if TYPE_CHECKING:
    from qcp_ref.app.demo import Settings

__all__ = ["main"]

_EXTRA = ("rich", "matplotlib")
_INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="qcp-ref", description="Quantization-aware CP factorization, the reference."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
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
    parsed = parser.parse_args(arguments)
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        print(
            f"qcp-ref demo needs {' and '.join(missing)}: pip install 'qcp-ref[demo]' "
            "(in a checkout: pip install '.[demo]')",
            file=sys.stderr,
        )
        return 1
    from qcp_ref.app.demo import Settings

    settings = Settings(**vars(parsed))
    try:
        return _demo(settings)
    except KeyboardInterrupt:
        print(f"interrupted; files in {settings.out} are whole", file=sys.stderr)
        return _INTERRUPTED
    except (ValueError, OSError) as problem:
        print(f"qcp-ref demo: {problem}", file=sys.stderr)
        return 1


def _demo(settings: "Settings") -> int:
    """Run the demo with a live display, then print its tables."""
    from rich.console import Console

    from qcp_ref.app.demo import run
    from qcp_ref.app.plots import draw_demo
    from qcp_ref.app.tables import Display, tables

    console = Console()
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
