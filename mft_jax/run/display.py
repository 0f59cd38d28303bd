"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

import statistics
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mft_jax.report.record import RunRecord
from mft_jax.types import TaskTable


class Display:
    """Shows the record as it is written. `log_every_steps` paces the plain lines."""

    def __init__(self, console: Console, tasks: TaskTable, total_steps: int, log_every_steps: int):
        self.console = console
        self.tasks = tasks
        self.total_steps = total_steps
        self.log_every_steps = log_every_steps
        self.valid_loss: dict[str, float | None] = {}
        self.recent: list[tuple[float, int]] = []
        self.rates: list[float] = []
        self.live = Live(console=console, refresh_per_second=2, transient=True)
        if console.is_terminal:
            self.live.start()

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def header(self, record: dict[str, Any]) -> None:
        self.console.print(data_table(record["data"]))
        self.note(packing_line(record["packing"]))
        self.note(model_line(record["model"], record["mesh"], record["devices"]))

    def train(self, record: dict[str, Any]) -> None:
        step = record["step"] + 1
        self.recent = [*self.recent[-20:], (time.monotonic(), step)]
        if self.console.is_terminal:
            self.live.update(self._table(record))
        elif step % self.log_every_steps == 0 or step == self.total_steps:
            self.note(self._line(record))

    def valid(self, record: dict[str, Any]) -> None:
        self.valid_loss = record["loss"]
        losses = "  ".join(f"{name} {_number(value)}" for name, value in self.valid_loss.items())
        self.note(f"step {record['step']}: validation  {losses}")

    def close(self) -> None:
        self.live.stop()

    def _remaining(self) -> str:
        (t0, s0), (t1, s1) = self.recent[0], self.recent[-1]
        if s1 == s0:
            return "-:--"
        secs = int((t1 - t0) / (s1 - s0) * (self.total_steps - s1))
        hours, minutes = secs // 3600, secs // 60 % 60
        return f"{hours}:{minutes:02}:{secs % 60:02}" if hours else f"{minutes}:{secs % 60:02}"

    def _rate(self, record: dict[str, Any]) -> float:
        """Tokens per second over the last steps; one alone may hold a compilation or a save."""
        self.rates = [*self.rates[-9:], record["tokens_per_sec"]]
        return statistics.median(self.rates)

    def _head(self, record: dict[str, Any]) -> str:
        return (
            f"step {record['step'] + 1}/{self.total_steps}  loss {record['loss']:.3f}  "
            f"{self._rate(record):,.0f} tokens/s  ETA {self._remaining()}"
        )

    def _line(self, record: dict[str, Any]) -> str:
        parts = [
            f"{name} {_number(record['train_loss'][name])} (w {_number(record['weight'][name])})"
            for name in self.tasks.names
        ]
        return self._head(record) + "  |  " + "  ".join(parts)

    def _table(self, record: dict[str, Any]) -> Table:
        table = Table(title=self._head(record), title_justify="left", box=None, pad_edge=False)
        table.add_column("task", overflow="fold")
        for column in ("train loss", "valid loss", "ratio", "weight"):
            table.add_column(column, justify="right")
        coba = record.get("balancer", {})
        for name in self.tasks.names:
            valid = coba.get("valid_loss", {}).get(name) or self.valid_loss.get(name)
            cells = record["train_loss"][name], valid, coba.get("ratio", {}).get(name)
            table.add_row(name, *map(_number, cells), _number(record["weight"][name]))
        return table


def data_table(counts: dict[str, dict[str, int]]) -> Table:
    """Training samples, their tokens, those with a loss, validation samples; and which samples
    could not be used whole.
    """
    table = Table(title="data", title_justify="left")
    table.add_column("task", overflow="fold")
    columns = {
        "samples": "train_samples",
        "drawn": "epoch_samples",
        "tokens": "train_tokens",
        "trained on": "trained_tokens",
        "valid": "valid_samples",
    }
    if all(row["epoch_samples"] == row["train_samples"] for row in counts.values()):
        del columns["drawn"]  # every sample once
    for column in (*columns, "not whole"):
        table.add_column(column, justify="right")
    for name, row in counts.items():
        fates = ("dropped", "truncated", "split", "untrainable")
        not_whole = ", ".join(f"{row[fate]:,} {fate}" for fate in fates if row[fate])
        counted = (f"{row[key]:,}" for key in columns.values())
        table.add_row(name, *counted, not_whole or "-")
    return table


def packing_line(packing: dict[str, Any]) -> str:
    return (
        f"{packing['rows']:,} rows of {packing['row_length']:,} positions, {packing['packed']:.2%} "
        f"of them real tokens (dynamic padding would give {packing['dynamic']:.2%}, static "
        f"{packing['static']:.2%})"
    )


def model_line(model: dict[str, Any], mesh: dict[str, int], devices: str) -> str:
    share = model["trainable"] / model["parameters"]
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.items())
    mebibytes = model["stored_bytes"] / 2**20
    return (
        f"{model['family']}, {model['parameters']:,} parameters in {mebibytes:,.1f} MiB "
        f"({model['bits_per_weight']:.2f} bits per linear weight), {model['trainable']:,} "
        f"trainable ({share:.2%}); {devices}, mesh {axes}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def final_table(record: RunRecord) -> Table:
    """The run in one table: valid loss before -> after, ratio, final weight."""
    table = Table(title="validation loss per task", title_justify="left")
    table.add_column("task", overflow="fold")
    for column in ("before", "after", "ratio", "final weight"):
        table.add_column(column, justify="right")
    losses, ratios = record.valid.task["loss"], record.valid.task["ratio"]
    weights = record.train.task["weight"]
    for task, name in enumerate(record.header.tasks):
        weight = float(weights[-1, task]) if len(weights) else None
        cells = float(losses[0, task]), float(losses[-1, task]), float(ratios[-1, task]), weight
        table.add_row(name, *map(_number, cells))
    return table
