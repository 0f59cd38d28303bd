"""The view of a run's steps: a live table on a terminal, plain lines elsewhere."""

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from mft_jax.record.header import read_header
from mft_jax.run.console import clock, duration, sayer
from mft_jax.run.data_view import show_data_notes
from mft_jax.run.layout import Column, Layout, WholeTable
from mft_jax.run.task_tables import (
    data_table,
    model_line,
    more_words,
    packing_line,
    short_number,
    worst_first,
)
from mft_jax.run.words import GLUE
from mft_jax.types import TaskTable

LINE_TASKS = 12  # a plain line names at most so many
TABLE_FRAME_ROWS = 7  # head, what is waited for, passes, heads, "... and N more", two to spare
PerTask = Mapping[str, float | None]


class RunView:
    """The view of the record while it is written.

    On a terminal it is a live table of tasks: training loss and weight of the newest step, and the
    losses of the newest pass over the whole validation set; both are named by their step. Elsewhere
    it is one plain line every `log_every_steps` optimiser steps, and one after the last. A line
    also has the validation pass that was measured since the line before; it waits for the pass of
    its own step.
    """

    def __init__(self, console: Console, tasks: TaskTable, total_steps: int, log_every_steps: int):
        self.console = console
        self.say = sayer(console)
        self.tasks = tasks
        self.total_steps = total_steps
        self.log_every_steps = log_every_steps
        self.valid_loss: PerTask = {}
        self.valid_ratio: PerTask = {}
        self.valid_step: int | None = None  # of the newest validation pass
        self.unshown_pass: int | None = None  # of a validation pass that no plain line has shown
        self.unsaid: dict[str, Any] | None = None  # the step of the next plain line
        self.newest: dict[str, Any] | None = None
        self.recent: list[tuple[float, int]] = []
        self.rates: list[float] = []
        self.phases: list[_Phase] = []  # one inside another
        self.live = Live(
            console=console, refresh_per_second=2, transient=True, get_renderable=self._shown
        )
        if console.is_terminal:
            self.live.start()

    def header(self, record: dict[str, Any]) -> None:
        """Show the run line: the data of every task, how it is packed, the model."""
        header = read_header("the run line", record)
        self.console.print(data_table(header.data, limit=LINE_TASKS))
        self.say(packing_line(header.packing))
        show_data_notes(self.console, header.read_as, header.findings)
        self.say(model_line(header))

    @contextlib.contextmanager
    def phase(self, what: str, announced: bool = True) -> Iterator[None]:
        """Show `what`, and how long it has taken so far; where it is announced, a line before it
        (where there is no terminal) and a line after it say so."""
        if announced and not self.console.is_terminal:
            self.say(f"{what} ...")
        self.phases.append(_Phase(what))
        try:
            yield
        finally:
            ended = self.phases.pop()
        if announced:
            self.say(f"{what} took {duration(ended.seconds)}")

    def train(self, record: dict[str, Any]) -> None:
        self.newest = record
        step = record["step"] + 1
        self.recent = [*self.recent[-20:], (time.monotonic(), step)]
        if self.console.is_terminal:
            return
        self._say_unsaid()
        if step % self.log_every_steps == 0 or step == self.total_steps:
            self.unsaid = record

    def valid(self, record: dict[str, Any]) -> None:
        """Keep the losses of a validation pass: the next table or line shows them."""
        self.valid_loss, self.valid_ratio = record["loss"], record["ratio"]
        self.valid_step = self.unshown_pass = record["step"]
        if self.console.is_terminal:
            shown, hidden = worst_first(self.tasks.names, self.valid_ratio, {}, LINE_TASKS)
            losses = [f"{name}{GLUE}{short_number(self.valid_loss[name])}" for name in shown]
            self.say(f"step {record['step']}: validation  {'  '.join(losses)}{more_words(hidden)}")

    def close(self) -> None:
        self._say_unsaid()
        self.live.stop()

    def _say_unsaid(self) -> None:
        record, self.unsaid = self.unsaid, None
        if record is not None:
            self.say(self._line(record))

    def _remaining(self) -> str:
        (t0, s0), (t1, s1) = self.recent[0], self.recent[-1]
        if s1 == s0:
            return "-:--"
        return clock((t1 - t0) / (s1 - s0) * (self.total_steps - s1))

    def _rate(self, record: dict[str, Any]) -> float:
        """Median of tokens per second over the last steps: a single one may hold a compilation."""
        self.rates = [*self.rates[-9:], record["tokens_per_sec"]]
        return statistics.median(self.rates)

    def _head(self, record: dict[str, Any]) -> str:
        return (
            f"step {record['step'] + 1}/{self.total_steps}  loss {record['loss']:.3f}  "
            f"{self._rate(record):,.0f} tokens/s  ETA {self._remaining()}"
        )

    def _line(self, record: dict[str, Any]) -> str:
        train, weight = record["train_loss"], record["weight"]
        shown, hidden = worst_first(self.tasks.names, self.valid_ratio, train, LINE_TASKS)
        parts = [
            f"{name} {short_number(train[name])} (w {short_number(weight[name])})" for name in shown
        ]
        line = f"{self._head(record)}  |  {'  '.join(parts)}{more_words(hidden)}"
        if self.unshown_pass is not None:
            losses = "  ".join(f"{name} {short_number(self.valid_loss[name])}" for name in shown)
            line += f"  |  validation at step {self.unshown_pass}  {losses}"
            self.unshown_pass = None
        return line

    def _shown(self) -> RenderableType:
        """What the terminal shows now; it is asked for again and again."""
        parts: list[RenderableType] = []
        if self.newest is not None:
            parts.append(Text(self._head(self.newest), no_wrap=True))
            parts += self._table(self.newest)
        if self.phases:
            phase = self.phases[-1]
            parts.append(Spinner("line", Text(f"{phase.what}  {clock(phase.seconds)}")))
        return Group(*parts)

    def _table(self, record: dict[str, Any]) -> list[RenderableType]:
        train, weight = record["train_loss"], record["weight"]
        room = max(1, self.console.size.height - TABLE_FRAME_ROWS)
        shown, hidden = worst_first(self.tasks.names, self.valid_ratio, train, room)
        heads = ("train loss", "weight", "valid loss", "ratio")
        columns = (Column("task", "name"), *map(Column, heads))
        rows = []
        for name in shown:
            cells = train[name], weight[name], self.valid_loss.get(name), self.valid_ratio.get(name)
            rows.append((name, *map(short_number, cells)))
        table = WholeTable([Layout(columns, rows, more_words(hidden).strip())], plain=True)
        passes = f"train loss, weight: step {record['step'] + 1}"
        if self.valid_step is not None:
            passes += f"; valid loss, ratio: whole pass after step {self.valid_step}"
        return [Text(passes), table]


class _Phase:
    """Something that takes its time."""

    def __init__(self, what: str):
        self.what, self.began = what, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began
