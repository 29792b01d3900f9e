"""What the demo shows in a terminal: a live display while it works, tables when it is done."""

import threading
import time
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from qcp_ref.app.demo.measure import ACTIVATION_BITS, BASELINES, THREADS, DemoResult, Settings
from qcp_ref.app.network import KERNELS
from qcp_ref.layers.cost import Costs

__all__ = ["Display", "Lines", "Screen", "shown", "tables"]

# Where each stage begins and ends on its method's share of a layer's bar (in tenths of a second for
# a large layer), and after how many sweeps.
_STAGES = {
    "als-round": {"als": (0, 7, 200)},
    "authors": {"als": (0, 7, 200), "epc": (7, 37, 500), "admm": (37, 42, 25)},
    "sequential": {"als": (0, 3, 100), "epc": (3, 9, 100), "polish": (9, 13, 40)},
    "best": {"als": (0, 3, 100), "epc": (3, 9, 100), "polish": (9, 22, 600)},
}
_NARROWEST = 40
_ENDS = {method: max(stages.values())[1] for method, stages in _STAGES.items()}


class Screen(Console):
    """A console that leaves it to the command what to do when nobody reads any more.

    It is never narrower than a table can be.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.width < _NARROWEST:  # noqa: PLR1730 - others may still change
            self.width = _NARROWEST

    def on_broken_pipe(self) -> None:
        """Let the error pass."""
        raise  # noqa: PLE0704 - called while the error is handled


class Display(Progress):
    """One moving bar per layer and one for all, in a terminal."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self.method, self.total = settings.method, sum(_ENDS[m] for m in settings.methods)
        name, state = TextColumn("{task.description:<12}"), TextColumn("{task.fields[state]}")
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(name, BarColumn(10), state, *times, console=console)
        self.bars = {
            name: self.add_task(name, total=self.total, state="waiting", start=False)
            for name in KERNELS
        }
        self.all = self.add_task("all", total=self.total * len(KERNELS), state="time, time left")
        self.done = {name: dict.fromkeys(settings.methods, 0) for name in KERNELS}
        self.errors: dict[str, dict[str, float]] = {name: {} for name in KERNELS}

    def progress(self, layer: str, method: str, stage: str, sweep: int, figure: float) -> None:
        """Move one layer's bar; called from the threads that work, maybe by both at once."""
        task, done, errors = self.bars[layer], self.done[layer], self.errors[layer]
        if stage == "done":
            place, state = _ENDS[method], f"{method} done, error {_figure(figure)}"
            errors[method] = figure
        else:
            low, high, sweeps = _STAGES[method][stage]
            place = low + (high - low) * min(sweep + 1, sweeps) // sweeps
            measured = "norm ratio" if stage == "epc" else "error"
            state = f"{method} {stage} {sweep + 1}, {measured} {_figure(figure)}"
        self.start_task(task)
        self.update(task, advance=place - done[method], state=state)
        self.update(self.all, advance=place - done[method])
        done[method] = place
        if len(errors) == len(done):
            state = f"done, error {_figure(errors[self.method])} by {self.method}"
            self.update(task, completed=self.total, state=state)
            self.stop_task(task)

    def announce(self, text: str) -> None:
        """Add a line for work that has no layers."""
        self.update(self.all, state="done")
        self.stop_task(self.all)
        self.add_task(text, total=None, state="")


class Lines:
    """One line per layer, as soon as it is done: for pipes, files and terminals that are dumb."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self.console, self.settings = console, settings
        self.start, self.lock = time.perf_counter(), threading.Lock()
        self.errors: dict[str, dict[str, float]] = {name: {} for name in KERNELS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, layer: str, method: str, stage: str, sweep: int, figure: float) -> None:
        """Print a line when the last method is done with a layer."""
        del sweep
        if stage != "done":
            return
        with self.lock:
            errors = self.errors[layer]
            errors[method] = figure
            if len(errors) == len(self.settings.methods):
                chosen = self.settings.method
                self._print(layer, f"done, error {_figure(errors[chosen])} by {chosen},")

    def announce(self, text: str) -> None:
        """Print a line for work that has no layers."""
        self._print(text, "begins,")

    def _print(self, name: str, state: str) -> None:
        seconds = time.perf_counter() - self.start
        line = f"{name:<12} {state} after {seconds:.1f} s"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def shown(console: Console, settings: Settings) -> Display | Lines:
    """Say what begins, and return what shows how far it is."""
    console.print(
        f"compressing {len(KERNELS)} kernels at rate {settings.rate}, {settings.bits} bits, "
        f"seed {settings.seed}, by {', '.join(settings.methods)}",
        markup=False,
    )
    return (Display if console.is_interactive else Lines)(console, settings)


def tables(result: DemoResult) -> list[Table]:
    """Return the tables of errors, costs and accuracies, each narrow enough for 80 columns."""
    drawn = (_error_table, _dense_table, _cost_table, _accuracy_table)
    return [draw(result) for draw in drawn]


def _table(title: str, caption: str, first: str, *headings: str) -> Table:
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0, min_width=64)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _error_table(result: DemoResult) -> Table:
    methods, chosen = result.settings.methods, result.settings.method
    other = "" if chosen in BASELINES else f"; {chosen}: beyond the paper"
    table = _table(
        f"relative error of each kernel, factors of {result.settings.bits} bits",
        "float CP: least squares, not quantized; als-round: the same, rounded; "
        f"authors: as their code does it{other}",
        "layer",
        *("kernel", "rank", "float CP", *methods),
    )
    for row in result.layers:
        table.add_row(
            row.name,
            "x".join(map(str, row.layer.kernel().shape)),
            str(row.layer.rank),
            f"{row.float_error:.3f}",
            *(f"{row.methods[method].error:.3f}" for method in methods),
        )
    return table


def _dense_table(result: DemoResult) -> Table:
    settings = result.settings
    table = _table(
        f"the same for the kernel itself, rounded: {settings.bits} bits / rate {settings.rate} "
        f"= {float(settings.equal_bits):.3g} bits",
        f"beside the factors, {_relations(result)}; "
        "the better of full and mid-rise grid; /ch: one scale per output channel",
        "layer",
        *result.layers[0].dense_errors,
    )
    for row in result.layers:
        table.add_row(row.name, *(f"{error:.3f}" for error in row.dense_errors.values()))
    return table


def _relations(result: DemoResult) -> str:
    """Say how many times the bytes and the bit operations of the factors a dense kernel takes."""
    return "; ".join(
        f"{label}: {rival.bytes / result.cost.bytes:.2f} times the bytes, "
        f"{rival.bops / result.cost.bops:.2f} times the BOPs"
        for label, rival in result.rival_costs.items()
        if not label.endswith("/ch")
    )


def _cost_table(result: DemoResult) -> Table:
    *others, chosen = result.settings.methods
    seconds = {m: sum(row.seconds[m] for row in result.layers) for m in (*others, chosen)}
    table = _table(
        "cost of each kernel, factorized / float, the same for all methods",
        f"s: seconds of {chosen}, {THREADS} jobs at a time; "
        f"in all, {', '.join(f'{m} took {seconds[m]:.1f}' for m in others)}",
        "layer",
        *("parameters", "MACs", "BOPs", "bytes", "s"),
    )
    for row in result.layers:
        figures = _costs(row.cost, row.dense_cost)
        table.add_row(row.name, *figures, f"{row.seconds[chosen]:.1f}")
    table.add_section()
    table.add_row("all", *_costs(result.cost, result.dense_cost), f"{seconds[chosen]:.1f}")
    return table


def _costs(cost: Costs, dense: Costs) -> list[str]:
    figures = ("parameters", "macs", "bops", "bytes")
    return [f"{_short(getattr(cost, f))} / {_short(getattr(dense, f))}" for f in figures]


def _accuracy_table(result: DemoResult) -> Table:
    table = _table(
        f"accuracy on {result.images['test']:,} test images, batch norm recalibrated on "
        f"{result.images['calibration']:,}",
        "intervals that hold 0 show no difference; BOPs as the authors count "
        f"them, with {ACTIVATION_BITS}-bit activations; accuracy with float32 ones",
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


def _figure(number: float) -> str:
    """Write an error or a ratio in few characters."""
    return f"{number:.3f}" if number < 100 else f"{number:.1e}"


def _short(number: float) -> str:
    """Write a count with three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
