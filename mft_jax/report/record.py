"""metrics.jsonl, read and validated.

One JSON object per line; `kind` names what it records:

    run      opens a session; a second one means that the run was resumed
    train    one optimiser step; step s takes the state from s to s + 1. Under `balancer` stand the
             balancer's own numbers, the same names in every step
    conflicts  cosines between the gradients of tasks, and their norms, before step s
    valid    one full validation pass of state s (step 0: before training)
    end      the session's end; absent while it runs, or when it was killed

A value that is null (an absent task, a rate not yet known) becomes NaN.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mft_jax.report import fields
from mft_jax.report.fields import Json
from mft_jax.report.header import RunHeader, read_header
from mft_jax.types import MftError

TRAIN_SCALARS = ("loss", "grad_norm", "learning_rate", "tokens_per_sec", "padding")
TRAIN_PER_TASK = ("tokens", "train_loss", "weight")
VALID_PER_TASK = ("loss", "ratio", "tokens")
END_REASONS = ("finished", "early_stop", "interrupted")


@dataclasses.dataclass(frozen=True)
class Series:
    """Columns over recorded steps: `scalar[name]` is `[S]`, `task[name]` is `[S, T]`."""

    step: Int[np.ndarray, " S"]
    scalar: dict[str, Float[np.ndarray, " S"]]
    task: dict[str, Float[np.ndarray, "S T"]]

    def __len__(self) -> int:
        return len(self.step)


@dataclasses.dataclass(frozen=True)
class Conflicts:
    """NaN where a task was absent from the batch."""

    step: Int[np.ndarray, " S"]
    cosine: Float[np.ndarray, "S T T"]
    norm: Float[np.ndarray, "S T"]

    def __len__(self) -> int:
        return len(self.step)


@dataclasses.dataclass(frozen=True)
class RunEnd:
    step: int
    reason: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class RunRecord:
    header: RunHeader  # of the last session
    started: datetime  # of the first session
    resumes: int
    train: Series
    balancer: Series  # of no length where the balancer records nothing
    conflicts: Conflicts
    valid: Series
    end: RunEnd | None  # None: the last session is still running, or was killed
    cut_short: bool  # the last line was incomplete and has been left out


@dataclasses.dataclass
class _Session:
    """What one `run` line opened. Rows are flat float vectors, so a long run stays small."""

    header: RunHeader
    train_steps: list[int] = dataclasses.field(default_factory=list)
    train_rows: list[np.ndarray] = dataclasses.field(default_factory=list)
    valid_steps: list[int] = dataclasses.field(default_factory=list)
    valid_rows: list[np.ndarray] = dataclasses.field(default_factory=list)
    logs: list[tuple[int, dict[str, np.ndarray]]] = dataclasses.field(default_factory=list)
    conflicts: list[tuple[int, np.ndarray]] = dataclasses.field(default_factory=list)
    end: RunEnd | None = None


def read_record(path: Path) -> RunRecord:
    """Raises MftError, with file and line, for anything but one incomplete last line."""
    if not path.is_file():
        raise MftError(
            f"{path}: no such file; expected the record that `mft train` writes into its workdir; "
            "give that folder as --workdir"
        )
    sessions: list[_Session] = []
    cut_short = False
    for where, line in _lines(path):
        if line is None:
            cut_short = True
        elif line.get("kind") == "run":
            header = read_header(where, line)
            if sessions and sessions[-1].header.tasks != header.tasks:
                raise fields.malformed(
                    where, "other tasks than the session before it", "the same tasks"
                )
            sessions.append(_Session(header))
        elif not sessions:
            raise fields.malformed(
                where, f"kind {line.get('kind')!r} first", "a line of kind 'run'"
            )
        else:
            _add(where, line, sessions[-1])
    if not sessions:
        raise MftError(f"{path}: it holds no line of kind 'run'; start the run with `mft train`")
    return _merge(sessions, cut_short)


def _lines(path: Path) -> Iterator[tuple[str, Json | None]]:
    """`("file:line", object)`; None stands for a last line without its end that is not JSON."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                line = json.loads(raw)
            except ValueError as error:  # invalid JSON and invalid UTF-8 alike
                if not raw.endswith(b"\n"):
                    yield where, None
                    return
                raise fields.malformed(
                    where, f"no valid JSON ({error})", "one object per line"
                ) from error
            if not isinstance(line, dict):
                raise fields.malformed(where, f"a JSON {type(line).__name__}", "a JSON object")
            yield where, line


def _add(where: str, line: Json, session: _Session) -> None:
    kind = line.get("kind")
    tasks = session.header.tasks
    if kind == "train":
        _append_step(where, line, session.train_steps)
        session.train_rows.append(_train_row(where, line, tasks))
        if "balancer" in line:
            log = _balancer_log(where, line, tasks)
            if session.logs and session.logs[-1][1].keys() != log.keys():
                raise fields.malformed(
                    where, f"{sorted(log)} under 'balancer'", "the names of the step before"
                )
            session.logs.append((session.train_steps[-1], log))
    elif kind == "valid":
        _append_step(where, line, session.valid_steps)
        per_task = [fields.per_task(where, line, name, tasks) for name in VALID_PER_TASK]
        session.valid_rows.append(np.concatenate(per_task))
    elif kind == "conflicts":
        step = fields.step(where, line)
        session.conflicts.append((step, _conflict_row(where, line, tasks)))
    elif kind == "end":
        reason = line.get("reason")
        if reason not in END_REASONS:
            raise fields.malformed(where, f"reason {reason!r}", f"one of {', '.join(END_REASONS)}")
        session.end = RunEnd(
            fields.step(where, line), reason, fields.number(where, line, "seconds")
        )
    else:
        raise fields.malformed(where, f"kind {kind!r}", "kind run, train, valid, conflicts or end")


def _train_row(where: str, line: Json, tasks: tuple[str, ...]) -> np.ndarray:
    """`[scalars | per-task values]`"""
    scalars = np.array([fields.number(where, line, name) for name in TRAIN_SCALARS])
    parts = [scalars, *(fields.per_task(where, line, name, tasks) for name in TRAIN_PER_TASK)]
    return np.concatenate(parts)


def _balancer_log(where: str, line: Json, tasks: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numbers `[]` and per-task values `[T]` by name."""
    log = fields.typed(where, line, "balancer", dict)
    return {
        name: fields.per_task(where, log, name, tasks)
        if isinstance(log[name], dict)
        else np.array(fields.number(where, log, name))
        for name in log
    }


def _conflict_row(where: str, line: Json, tasks: tuple[str, ...]) -> np.ndarray:
    """`[T + 1, T]`: the cosines, and below them the norms."""
    cosine = fields.typed(where, line, "cosine", list)
    if [len(row) if isinstance(row, list) else 0 for row in cosine] != [len(tasks)] * len(tasks):
        raise fields.malformed(where, "'cosine' of another shape", "a row and column for each task")
    rows = [[np.nan if x is None else float(x) for x in row] for row in cosine]
    return np.array([*rows, fields.per_task(where, line, "norm", tasks)])


def _merge(sessions: list[_Session], cut_short: bool) -> RunRecord:
    """One series over all sessions. Steps that a resumed session took again count once, its own.

    session 1   0 1 2 3 4 killed           kept: 0 1 2
    session 2         3 4 5 6              kept:       3 4 5 6
    """
    train_limit = valid_limit = math.inf
    logs: list[tuple[int, dict[str, np.ndarray]]] = []
    conflicts: list[tuple[int, np.ndarray]] = []
    train: list[tuple[int, np.ndarray]] = []
    valid: list[tuple[int, np.ndarray]] = []
    for session in reversed(sessions):
        pairs = zip(session.train_steps, session.train_rows, strict=True)
        train = [pair for pair in pairs if pair[0] < train_limit] + train
        logs = [pair for pair in session.logs if pair[0] < train_limit] + logs
        conflicts = [pair for pair in session.conflicts if pair[0] < train_limit] + conflicts
        pairs = zip(session.valid_steps, session.valid_rows, strict=True)
        valid = [pair for pair in pairs if pair[0] < valid_limit] + valid
        # A session that begins with training step s has seen no other state than s or later.
        start = min([*session.train_steps[:1], *session.valid_steps[:1]], default=math.inf)
        train_limit = min(train_limit, start)
        valid_limit = min([valid_limit, start + 1, *session.valid_steps[:1]])
    header = sessions[-1].header
    tasks = len(header.tasks)
    steps, rows = _stack(train, len(TRAIN_SCALARS) + len(TRAIN_PER_TASK) * tasks)
    conflict_steps = np.array([step for step, _ in conflicts], dtype=np.int64)
    angles = np.array([row for _, row in conflicts]).reshape(-1, tasks + 1, tasks)
    return RunRecord(
        header=header,
        started=sessions[0].header.time,
        resumes=len(sessions) - 1,
        train=_series(steps, rows, TRAIN_SCALARS, TRAIN_PER_TASK, tasks),
        balancer=_log_series(logs),
        conflicts=Conflicts(conflict_steps, angles[:, :tasks], angles[:, tasks]),
        valid=_series(*_stack(valid, len(VALID_PER_TASK) * tasks), (), VALID_PER_TASK, tasks),
        end=sessions[-1].end,
        cut_short=cut_short,
    )


def _stack(pairs: list[tuple[int, np.ndarray]], width: int) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([step for step, _ in pairs], dtype=np.int64)
    return steps, np.array([row for _, row in pairs]).reshape(len(pairs), width)


def _log_series(logs: list[tuple[int, dict[str, np.ndarray]]]) -> Series:
    columns = {name: np.array([log[name] for _, log in logs]) for name in (logs or [(0, {})])[0][1]}
    return Series(
        np.array([step for step, _ in logs], dtype=np.int64),
        {name: column for name, column in columns.items() if column.ndim == 1},
        {name: column for name, column in columns.items() if column.ndim == 2},
    )


def _series(
    steps: np.ndarray,
    rows: np.ndarray,
    scalars: tuple[str, ...],
    names: tuple[str, ...],
    tasks: int,
) -> Series:
    task_rows = rows[:, len(scalars) :].reshape(len(steps), len(names), tasks)
    return Series(
        steps,
        {name: rows[:, i] for i, name in enumerate(scalars)},
        {name: task_rows[:, i] for i, name in enumerate(names)},
    )


def _append_step(where: str, line: Json, steps: list[int]) -> None:
    step = fields.step(where, line)
    if steps and step <= steps[-1]:
        raise fields.malformed(where, f"step {step} after step {steps[-1]}", "steps that rise")
    steps.append(step)


def last_step(record: RunRecord) -> int:
    """Number of optimiser steps taken."""
    if record.end is not None:
        return record.end.step
    return int(max([0, *(record.train.step[-1:] + 1), *record.valid.step[-1:]]))
