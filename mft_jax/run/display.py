"""The terminal's view of a run: a live table on a terminal, plain lines elsewhere."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mft_jax.record.columns import RunRecord
from mft_jax.record.header import RunHeader, read_header
from mft_jax.record.outcome import final_ratios, mean_and_worst, task_outcomes
from mft_jax.record.schema import (
    COLUMNS,
    MEASURED_LOSS,
    MEASURED_RATIO,
    NOT_WHOLE,
    PackingFacts,
    TaskCounts,
    data_columns,
)
from mft_jax.run.console import read_progress, sayer
from mft_jax.run.data_view import show_data_notes
from mft_jax.types import TaskTable

LINE_TASKS = 12  # a plain line names at most so many
COMPARED_TASKS = 8  # with more, the columns of a comparison do not fit 80 characters
TABLE_FRAME_ROWS = 5  # the line of the step, the heads, "... and N more", two lines to spare
PerTask = Mapping[str, float | None]


class Display:
    """What a run shows to a person. Nothing else of a run knows the console.

    say(line)       print one line, as it is
    progress(name)  show a bar while the bytes of `name` are read
    """

    def __init__(self, console: Console):
        self.console = console
        self.say = sayer(console)
        self.progress = read_progress(console)

    def run_view(self, tasks: TaskTable, total_steps: int, log_every_steps: int) -> "RunView":
        """The view of the steps, to be closed."""
        return RunView(self.console, tasks, total_steps, log_every_steps)

    def final(self, record: RunRecord) -> None:
        """Show the table of a run that has ended."""
        self.console.print(final_table(record))


class RunView:
    """The view of the record while it is written.

    On a terminal it is a live table of tasks. Elsewhere it is one plain line every
    `log_every_steps` optimiser steps, and one after the last. A line also has the validation pass
    that was measured since the line before; it waits for the pass of its own step.
    """

    def __init__(self, console: Console, tasks: TaskTable, total_steps: int, log_every_steps: int):
        self.console = console
        self.say = sayer(console)
        self.tasks = tasks
        self.total_steps = total_steps
        self.log_every_steps = log_every_steps
        self.valid_loss: PerTask = {}
        self.valid_ratio: PerTask = {}
        self.unshown_pass: int | None = None  # the step of a validation pass
        self.waiting: dict[str, Any] | None = None  # the step of the next plain line
        self.recent: list[tuple[float, int]] = []
        self.rates: list[float] = []
        self.live = Live(console=console, refresh_per_second=2, transient=True)
        if console.is_terminal:
            self.live.start()

    def header(self, record: dict[str, Any]) -> None:
        """Show the run line: the data of every task, how it is packed, the model."""
        header = read_header("the run line", record)
        self.console.print(data_table(header.data))
        self.say(packing_line(header.packing))
        show_data_notes(self.console, header.read_as, header.findings)
        self.say(model_line(header))

    def train(self, record: dict[str, Any]) -> None:
        step = record["step"] + 1
        self.recent = [*self.recent[-20:], (time.monotonic(), step)]
        if self.console.is_terminal:
            self.live.update(self._table(record))
            return
        self._say_waiting()
        if step % self.log_every_steps == 0 or step == self.total_steps:
            self.waiting = record

    def valid(self, record: dict[str, Any]) -> None:
        """Keep the losses of a validation pass: the next table or line shows them."""
        self.valid_loss, self.valid_ratio = record["loss"], record["ratio"]
        self.unshown_pass = record["step"]
        if self.console.is_terminal:
            shown, hidden = worst_first(self.tasks.names, self.valid_ratio, {}, LINE_TASKS)
            losses = [f"{name} {_number(self.valid_loss[name])}" for name in shown]
            self.say(f"step {record['step']}: validation  {'  '.join(losses)}{_more(hidden)}")

    def close(self) -> None:
        self._say_waiting()
        self.live.stop()

    def _say_waiting(self) -> None:
        record, self.waiting = self.waiting, None
        if record is not None:
            self.say(self._line(record))

    def _remaining(self) -> str:
        (t0, s0), (t1, s1) = self.recent[0], self.recent[-1]
        if s1 == s0:
            return "-:--"
        secs = int((t1 - t0) / (s1 - s0) * (self.total_steps - s1))
        hours, minutes = secs // 3600, secs // 60 % 60
        return f"{hours}:{minutes:02}:{secs % 60:02}" if hours else f"{minutes}:{secs % 60:02}"

    def _rate(self, record: dict[str, Any]) -> float:
        """Median of tokens per second over the last steps: a single one may hold a compilation."""
        self.rates = [*self.rates[-9:], record["tokens_per_sec"]]
        return statistics.median(self.rates)

    def _head(self, record: dict[str, Any]) -> str:
        return (
            f"step {record['step'] + 1}/{self.total_steps}  loss {record['loss']:.3f}  "
            f"{self._rate(record):,.0f} tokens/s  ETA {self._remaining()}"
        )

    def _measured(self, record: dict[str, Any]) -> tuple[PerTask, PerTask]:
        """Validation losses and their ratios: those of the balancer where it measures them."""
        log = record.get("balancer", {})
        return (
            _either(self.tasks, log.get(MEASURED_LOSS, {}), self.valid_loss),
            _either(self.tasks, log.get(MEASURED_RATIO, {}), self.valid_ratio),
        )

    def _line(self, record: dict[str, Any]) -> str:
        train, weight = record["train_loss"], record["weight"]
        shown, hidden = worst_first(self.tasks.names, self.valid_ratio, train, LINE_TASKS)
        parts = [f"{name} {_number(train[name])} (w {_number(weight[name])})" for name in shown]
        line = f"{self._head(record)}  |  {'  '.join(parts)}{_more(hidden)}"
        if self.unshown_pass is not None:
            losses = "  ".join(f"{name} {_number(self.valid_loss[name])}" for name in shown)
            line += f"  |  validation at step {self.unshown_pass}  {losses}"
            self.unshown_pass = None
        return line

    def _table(self, record: dict[str, Any]) -> Group:
        valid, ratio = self._measured(record)
        train, weight = record["train_loss"], record["weight"]
        room = max(1, self.console.size.height - TABLE_FRAME_ROWS)
        shown, hidden = worst_first(self.tasks.names, ratio, train, room)
        table = Table(box=None, pad_edge=False)
        table.add_column("task", no_wrap=True)  # one line each, so that the rows fit
        for column in ("train loss", "valid loss", "ratio", "weight"):
            table.add_column(column, justify="right", no_wrap=True)
        for name in shown:
            cells = train[name], valid[name], ratio[name], weight[name]
            table.add_row(name, *map(_number, cells))
        if hidden:
            table.add_row(_more(hidden).strip())
        return Group(Text(self._head(record), no_wrap=True), table)


def worst_first(
    names: tuple[str, ...], ratio: PerTask, loss: PerTask, room: int
) -> tuple[list[str], int]:
    """The tasks to show, and the number of those that are not.

    All in the given order where there is room. Otherwise the `room` with the highest ratio; where
    no ratio is known, with the highest loss.
    """
    if len(names) <= room:
        return list(names), 0

    def badness(name: str) -> tuple[float, float]:
        known = (values.get(name) for values in (ratio, loss))
        first, second = (-math.inf if value is None else value for value in known)
        return first, second

    return sorted(names, key=badness, reverse=True)[:room], len(names) - room


def data_table(counts: Mapping[str, TaskCounts]) -> Table:
    """The samples and tokens of every task, and the samples not used or not used whole."""
    table = Table(title="data", title_justify="left")
    table.add_column("task", overflow="fold")
    keys = [key for key in data_columns(counts) if COLUMNS[key].title]
    for key in keys:
        table.add_column(COLUMNS[key].title, justify="right")
    table.add_column(NOT_WHOLE, justify="right")
    cut = [key for key, column in COLUMNS.items() if column.group == NOT_WHOLE]
    for name, row in counts.items():
        found = [
            f"{getattr(row, key):,.0f} {COLUMNS[key].head}" for key in cut if getattr(row, key)
        ]
        table.add_row(name, *(f"{getattr(row, key):,.0f}" for key in keys), ", ".join(found) or "-")
    return table


def packing_line(packing: PackingFacts) -> str:
    return (
        f"{packing.rows:,.0f} rows of {packing.row_length:,.0f} positions, {packing.packed:.2%} "
        f"of them real tokens (dynamic padding would give {packing.dynamic:.2%}, static "
        f"{packing.static:.2%})"
    )


def model_line(header: RunHeader) -> str:
    model = header.model
    share = model.trainable / model.parameters
    axes = " x ".join(f"{axis} {size}" for axis, size in header.mesh.items())
    return (
        f"{model.family}, {model.parameters:,.0f} parameters in "
        f"{model.stored_bytes / 2**20:,.1f} MiB ({_number(model.bits_per_weight, 2)} bits per "
        f"linear weight), {model.trainable:,.0f} trainable ({share:.2%}); {header.devices}, "
        f"mesh {axes}"
    )


def final_table(record: RunRecord) -> Table:
    """The run in one table: validation loss before and after, their ratio, final weight."""
    table = Table(title="validation loss per task", title_justify="left")
    table.add_column("task", overflow="fold")
    for column in ("before", "after", "ratio", "final weight"):
        table.add_column(column, justify="right")
    for row in task_outcomes(record):
        cells = row.before, row.last, row.ratio, row.weight
        table.add_row(row.task, *map(_number, cells))
    return table


def comparison_table(records: Mapping[str, RunRecord]) -> Table:
    """A row per run: mean and worst validation loss ratio, and the ratio of every task. Of many
    tasks only the worst one is named; the page has them all.
    """
    table = Table(title="validation loss ratio after training", title_justify="left")
    table.add_column("run", overflow="fold")
    tasks = next(iter(records.values())).header.tasks
    few = len(tasks) <= COMPARED_TASKS
    for column in ("mean", "worst", *(tasks if few else ("worst task",))):
        table.add_column(column, justify="right")
    for name, record in records.items():
        ratios = final_ratios(record)
        mean, worst = mean_and_worst(ratios)
        named = tasks[ratios.index(worst)] if worst in ratios else "-"
        rest = map(_number, ratios) if few else [named]
        table.add_row(name, _number(mean), _number(worst), *rest)
    return table


def _either(tasks: TaskTable, first: PerTask, second: PerTask) -> PerTask:
    """Per task the first value that is known."""
    values = {name: first.get(name) for name in tasks.names}
    return {name: second.get(name) if v is None else v for name, v in values.items()}


def _more(hidden: int) -> str:
    return f"  ... and {hidden} more" if hidden else ""


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{decimals}f}"
