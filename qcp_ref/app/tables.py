"""What the demo shows in a terminal: a live display while it works, tables when it is done."""

from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from qcp_ref.app.demo import DemoResult, Settings
from qcp_ref.app.network import KERNELS
from qcp_ref.cost import Costs

__all__ = ["Display", "tables"]

# Share of a layer's bar at which each stage begins and ends, and how many sweeps it may take.
_STAGES = {"als": (0, 10, 200), "epc": (10, 70, 500), "admm": (70, 100, 25)}
_FIGURES = {"als": "error", "epc": "norm ratio", "admm": "error"}


class Display:
    """One bar per layer; in a terminal it moves, elsewhere only its last state is printed."""

    def __init__(self, console: Console, settings: Settings) -> None:
        console.print(
            f"compressing {len(KERNELS)} kernels at rate {settings.rate}, {settings.bits} bits, "
            f"method {settings.method}, seed {settings.seed}"
        )
        self.bars = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {
            name: self.bars.add_task(name, total=100, state="waiting", start=False)
            for name in KERNELS
        }

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def progress(self, layer: str, stage: str, sweep: int, figure: float) -> None:
        """Move one layer's bar; called from the threads that work."""
        task = self.tasks[layer]
        if stage == "done":
            self.bars.update(task, completed=100, state=f"done, error {figure:.3f}")
            self.bars.stop_task(task)
            return
        if stage == "als" and sweep == 0:
            self.bars.start_task(task)
        low, high, sweeps = _STAGES[stage]
        done = low + (high - low) * min(1.0, (sweep + 1) / sweeps)
        self.bars.update(
            task, completed=done, state=f"{stage} {sweep + 1:3d}, {_FIGURES[stage]} {figure:.3f}"
        )

    def announce(self, text: str) -> None:
        """Add a line for work that has no layers."""
        self.bars.add_task(text, total=None, state="")


def tables(result: DemoResult) -> list[Table]:
    """Return the tables of errors, costs and accuracies, each narrow enough for 80 columns."""
    drawn = (_error_table, _dense_table, _cost_table, _accuracy_table)
    return [draw(result) for draw in drawn]


def _table(title: str, caption: str, first: str, *headings: str) -> Table:
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _error_table(result: DemoResult) -> Table:
    settings = result.settings
    table = _table(
        f"relative error of each kernel, factors of {settings.bits} bits",
        "float CP: least squares, the same rank without quantization",
        "layer",
        *("kernel", "rank", "float CP", "als-round", settings.method),
    )
    for row in result.layers:
        table.add_row(
            row.name,
            "x".join(map(str, row.layer.kernel().shape)),
            str(row.layer.rank),
            f"{row.layer.fit.start_error:.3f}",
            f"{row.rounded.error:.3f}",
            f"{row.layer.error:.3f}",
        )
    return table


def _dense_table(result: DemoResult) -> Table:
    table = _table(
        "the same for the kernel itself, rounded to bits / rate bits",
        "as many weight bits, and at stride 1 as many BOPs; the better of full and\n"
        "mid-rise grid; /ch: one scale per output channel",
        "layer",
        *result.layers[0].dense_errors,
    )
    for row in result.layers:
        table.add_row(row.name, *(f"{error:.3f}" for error in row.dense_errors.values()))
    return table


def _cost_table(result: DemoResult) -> Table:
    table = _table(
        "cost of each kernel, factorized / float",
        "seconds: both methods and the dense quantizers, two layers at a time",
        "layer",
        *("parameters", "MACs", "BOPs", "bytes", "s"),
    )
    for row in result.layers:
        table.add_row(row.name, *_costs(row.cost, row.dense_cost), f"{row.seconds:.1f}")
    table.add_section()
    seconds = sum(row.seconds for row in result.layers)
    table.add_row("all", *_costs(result.cost, result.dense_cost), f"{seconds:.1f}")
    return table


def _costs(cost: Costs, dense: Costs) -> list[str]:
    figures = ("parameters", "macs", "bops", "bytes")
    return [f"{_short(getattr(cost, f))} / {_short(getattr(dense, f))}" for f in figures]


def _accuracy_table(result: DemoResult) -> Table:
    table = _table(
        "accuracy on 2,000 test images, batch norm recalibrated on 1,000",
        "BOPs as the authors count them, at 8-bit activations;\naccuracy with float32 activations",
        "network",
        *("accuracy", "change", "95 % interval", "BOPs", "of float"),
    )
    for label, row in result.accuracy.items():
        bops = result.network_bops[label]
        table.add_row(
            label,
            f"{row['accuracy']:.2%}",
            *_interval(row),
            _short(bops),
            f"{bops / result.network_bops['float']:.2%}",
        )
    return table


def _interval(row: dict[str, Any]) -> tuple[str, str]:
    if "difference" not in row:
        return "", ""
    return f"{row['difference']:+.2%}", f"{row['low']:+.2%} to {row['high']:+.2%}"


def _short(number: float) -> str:
    """Write a count with three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
