"""What the demo shows in a terminal: a live display while it works, tables when it is done."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from qcp_ref.app.demo import DemoResult, LayerResult, Settings
from qcp_ref.app.network import KERNELS

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
            name: self.bars.add_task(name, total=100, state="waiting", start=False) for name in KERNELS
        }

    def __enter__(self) -> "Display":
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
    """Return the tables of layers and of accuracies."""
    return [_layer_table(result), _accuracy_table(result)]


def _layer_table(result: DemoResult) -> Table:
    method, bits = result.settings.method, result.settings.bits
    table = Table(
        title=f"relative Frobenius error of each kernel, {bits}-bit factors",
        caption="dense: the kernel itself rounded at equal cost, on the better of the full and the mid-rise grid",
    )
    table.add_column("layer")
    labels = list(result.layers[0].dense_errors)
    for heading in (
        "kernel", "rank", "float CP", "als-round", method, *labels,
        "parameters", "MACs", "BOPs", "s",
    ):
        table.add_column(heading, justify="right")
    for row in result.layers:
        table.add_row(*_layer_cells(row))
    dense, cp = result.totals["kernel_parameters_float"], result.totals["kernel_parameters"]
    table.add_section()
    table.add_row(
        "all six", *[""] * (5 + len(labels)), f"{cp:,} of {dense:,}",
        _short(result.totals["kernel_macs"]), _short(result.totals["kernel_bops"]),
        f"{sum(row.seconds for row in result.layers):.1f}",
    )
    return table


def _layer_cells(row: LayerResult) -> list[str]:
    out, into, height, width = row.layer.kernel().shape
    return [
        row.name, f"{out}x{into}x{height}x{width}", str(row.layer.rank),
        f"{row.layer.fit.start_error:.3f}", f"{row.rounded.error:.3f}", f"{row.layer.error:.3f}",
        *(f"{error:.3f}" for error in row.dense_errors.values()),
        f"{row.cost.parameters:,}", _short(row.cost.macs), _short(row.cost.bops), f"{row.seconds:.1f}",
    ]


def _accuracy_table(result: DemoResult) -> Table:
    table = Table(
        title="accuracy on 2,000 test images, batch norm recalibrated on 1,000",
        caption="BOPs as the authors count them, at 8-bit activations; accuracy with float32 activations",
    )
    table.add_column("network")
    for heading in ("accuracy", "against float", "95 % interval", "BOPs", "of float"):
        table.add_column(heading, justify="right")
    for label, row in result.accuracy.items():
        bops = result.network_bops[label]
        table.add_row(
            label, f"{row['accuracy']:.2%}", *_interval(row), _short(bops),
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
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
