"""The writer of `metrics.jsonl`: a line for each thing that happens, as `record.schema` says."""

import datetime
import json
import math
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mft_jax.record import schema
from mft_jax.record.cut_back import cut_back, untold_gap
from mft_jax.record.files import full_disk_named
from mft_jax.run.aside import set_aside, time_of_day
from mft_jax.run.blame import without_row_mates
from mft_jax.run.console import Say, quiet
from mft_jax.run.divergence import Diverged
from mft_jax.run.memory import peak_device_bytes, peak_host_bytes
from mft_jax.run.processes import is_first
from mft_jax.train_step import StepMetrics
from mft_jax.types import MftError, TaskSums, TaskTable

OwnNll = Callable[[int], jax.Array]


class MetricsLog:
    """The record's file, appended to once it is open. Only the first process writes it."""

    def __init__(self, workdir: Path):
        self.path = workdir / schema.METRICS_FILE
        self.file: FileIO | None = None

    def open(self, resume_step: int | None) -> list[str]:
        """Begin a new record (None), or remove what a run resumed at `resume_step` writes again.

        A record that is there already is set aside by a new one. Returns what a reader of the
        record must know of the lines that are left.
        """
        notes = []
        if resume_step is not None:
            notes = cut_back(self.path, resume_step)
        elif self.path.exists():
            set_aside(self.path.parent, time_of_day(), {self.path: self.path.name})
        self.file = FileIO(self.path, "a")
        return notes

    @property
    def is_ended(self) -> bool:
        """Whether the newest line says how the run ended."""
        return any(b'"kind": "end"' in line for line in self._lines()[-1:])

    def gap(self, step: int) -> str | None:
        """What the record does not say of training steps that are missing before `step`."""
        return untold_gap(self.path, step)

    def holds(self, event: dict[str, Any]) -> bool:
        """Whether the record has this event already."""
        text = json.dumps(event["text"]).encode()
        return any(b'"kind": "event"' in line and text in line for line in self._lines())

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.is_file() else []

    def write(self, record: dict[str, Any]) -> None:
        if not is_first():
            return
        assert self.file is not None, "open comes before write"
        stamped = {"kind": record["kind"], "time": time_stamp(), **record}
        line = (json.dumps(stamped, allow_nan=False) + "\n").encode()
        with full_disk_named(self.path):
            # Without a buffer: nothing waits that closing the file would try to write again.
            while line:
                line = line[self.file.write(line) :]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class Recorder:
    """The step metrics on their way to the record: each step's line is written when the next step
    has been dispatched, or at `flush`.

    The time of a step is that between two records; `restart_clock` leaves out other work.

    skips    how many steps of the run may be skipped, where the loss or the gradient was not finite
    skipped  how many were
    """

    def __init__(
        self,
        log: MetricsLog,
        show: Callable[[dict[str, Any]], None],
        tasks: TaskTable,
        say: Say = quiet,
        skips: int = 0,
    ):
        self.log, self.show, self.tasks, self.say = log, show, tasks, say
        self.skips, self.skipped = skips, 0
        self.pending: tuple[int, StepMetrics, int, OwnNll] | None = None
        self.since = time.monotonic()

    def push(self, step: int, metrics: StepMetrics, positions: int, own_nll: OwnNll) -> None:
        """`positions`: those of the step's global batch, padding included. `own_nll(task)`: the nll
        of that task's samples in it without their row-mates; called where a loss is not finite.
        """
        self.flush()
        self.pending = (step, metrics, positions, own_nll)

    def flush(self) -> None:
        if self.pending is None:
            return
        step, metrics, positions, own_nll = self.pending
        self.pending = None
        metrics = jax.device_get(metrics)
        metrics = metrics._replace(train=without_row_mates(metrics.train, own_nll))
        seconds = time.monotonic() - self.since
        self.restart_clock()
        skipped = self.skips > 0 and self._skip(step, metrics)
        record = train_record(step, metrics, self.tasks, positions, seconds, skipped)
        self.log.write(record)
        if not skipped:
            self.show(record)

    def _skip(self, step: int, metrics: StepMetrics) -> bool:
        """Whether the step was skipped; it is recorded. Raises `Diverged` beyond the bound."""
        try:
            check_finite(step, metrics, self.tasks)
        except Diverged as error:
            if self.skipped == self.skips:
                raise Diverged(
                    f"{error}; {self.skips} steps were skipped before (loop.max_skipped_steps)",
                    in_step=True,
                ) from error
            self.skipped += 1
            text = f"{error}; the step was skipped ({self.skipped} of {self.skips})"
            self.log.write(event_record(step, schema.SKIPPED, text))
            self.say(text)
            return True
        return False

    def restart_clock(self) -> None:
        self.since = time.monotonic()


def train_record(
    step: int,
    metrics: StepMetrics,
    tasks: TaskTable,
    positions: int,
    seconds: float,
    skipped: bool = False,
) -> dict[str, Any]:
    """`step` is the number of the step taken (0-based); `positions` those of the global batch.

    Raises `Diverged` where the loss or the gradient is not finite, unless the step was `skipped`.
    """
    if not skipped:
        check_finite(step, metrics, tasks)
    num_tokens = float(np.sum(metrics.tokens))
    values: dict[str, Any] = {
        "step": step,
        "loss": _finite(metrics.loss),
        "grad_norm": _finite(metrics.grad_norm),
        "learning_rate": float(metrics.learning_rate),
        "tokens_per_sec": num_tokens / seconds,
        "tokens": tasks.by_name(metrics.tokens),
        "padding": 1.0 - num_tokens / positions,
        "train_loss": mean_by_name(metrics.train, tasks),
        "weight": tasks.by_name(metrics.weight),
    }
    if metrics.balancer:
        values["balancer"] = {
            name: float(value) if np.ndim(value) == 0 else tasks.by_name(value)
            for name, value in metrics.balancer.items()
        }
    return schema.line(schema.TRAIN, **values)


def conflicts_record(
    step: int, gramian: Float[np.ndarray, "T T"], tasks: TaskTable
) -> dict[str, Any]:
    """Cosines are None in the row and column of a task that is absent from the batch."""
    norms = np.sqrt(np.maximum(np.diagonal(gramian), 0.0).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.clip(gramian / np.outer(norms, norms), -1.0, 1.0)
    rows = [[float(x) if np.isfinite(x) else None for x in row] for row in cosines]
    by_name = tasks.by_name(np.where(norms > 0, norms, np.nan))
    return schema.line(schema.CONFLICTS, step=step, cosine=rows, norm=by_name)


def valid_record(
    step: int, sums: TaskSums, initial: dict[str, float | None], tasks: TaskTable
) -> dict[str, Any]:
    losses = mean_by_name(sums, tasks)
    ratios = ratios_to(losses, initial)
    tokens = tasks.by_name(sums.count)
    return schema.line(schema.VALID, step=step, loss=losses, ratio=ratios, tokens=tokens)


def event_record(step: int, what: str, text: str) -> dict[str, Any]:
    """`what`: one word, such as "gap"; `text`: a sentence, which the report shows."""
    return schema.line(schema.EVENT, step=step, what=what, text=text)


def end_record(step: int, reason: str, seconds: float) -> dict[str, Any]:
    peaks = {"peak_host_bytes": peak_host_bytes(), "peak_device_bytes": peak_device_bytes()}
    return schema.line(schema.END, step=step, reason=reason, seconds=seconds, **peaks)


def time_stamp() -> str:
    """Now, in UTC, to the millisecond."""
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mean_by_name(sums: TaskSums, tasks: TaskTable) -> dict[str, float | None]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return tasks.by_name(TaskSums(*map(np.asarray, sums)).mean())


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def check_finite(step: int, metrics: StepMetrics, tasks: TaskTable) -> None:
    if math.isfinite(metrics.loss) and math.isfinite(metrics.grad_norm):
        return
    bad = [
        n for n, total in zip(tasks.names, metrics.train.sum, strict=True) if not np.isfinite(total)
    ]
    what = "loss" if not math.isfinite(metrics.loss) else "gradient"
    where = f"task {', '.join(map(repr, bad))}" if bad else "no single task"
    raise Diverged(f"step {step}: the {what} is not finite (from {where})", in_step=True)


def check_valid(step: int, sums: TaskSums, tasks: TaskTable) -> None:
    """Raise `MftError` unless every task is present in a full validation pass, and `Diverged`
    unless its loss is finite."""
    for name, total, count in zip(tasks.names, sums.sum, sums.count, strict=True):
        if not count > 0:
            raise MftError(
                f"task {name!r} has no trained token in its validation set; expected at least one: "
                "tasks are balanced by it; mend its `valid_path` or raise `valid_fraction`"
            )
        if not np.isfinite(total):
            raise Diverged(f"step {step}: the validation loss of task {name!r} is not finite")


def mean_ratio(losses: dict[str, float | None], initial: dict[str, float | None]) -> float:
    """Mean over tasks of the validation loss over that before training: early stopping and the
    best checkpoint follow it.
    """
    ratios = ratios_to(losses, initial)
    return float(np.mean([ratio for ratio in ratios.values() if ratio is not None]))


def ratios_to(
    losses: dict[str, float | None], initial: dict[str, float | None]
) -> dict[str, float | None]:
    return {
        name: loss / start if loss is not None and (start := initial[name]) else None
        for name, loss in losses.items()
    }
