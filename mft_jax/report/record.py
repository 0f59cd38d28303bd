"""metrics.jsonl, read and validated.

One JSON object per line; `kind` names what it records:

    run      opens a session; a second one means that the run was resumed
    train    one optimiser step; step s takes the state from s to s + 1
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
from mft_jax.types import MftError

TRAIN_SCALARS = ("loss", "grad_norm", "learning_rate", "tokens_per_sec", "padding")
TRAIN_PER_TASK = ("tokens", "train_loss", "weight")
COBA_PER_TASK = ("valid_loss", "ratio", "slope", "rcs", "acs")
VALID_PER_TASK = ("loss", "ratio", "tokens")
DATA_COUNTS = (
    "train_samples", "valid_samples", "train_tokens", "trained_tokens", "valid_tokens",
    "dropped", "truncated", "split",
)  # fmt: skip
MODEL_NUMBERS = ("parameters", "trainable", "stored_bytes", "bits_per_weight")
PACKING_NUMBERS = ("row_length", "rows", "packed", "static", "dynamic")
END_REASONS = ("finished", "early_stop", "interrupted")


@dataclasses.dataclass(frozen=True)
class RunHeader:
    time: datetime
    version: str
    config: Json
    tasks: tuple[str, ...]
    family: str
    model: dict[str, float]
    data: dict[str, dict[str, float]]  # task -> count name -> count
    packing: dict[str, float]
    mesh: dict[str, int]
    devices: str


@dataclasses.dataclass(frozen=True)
class Series:
    """Columns over recorded steps: `scalar[name]` is `[S]`, `task[name]` is `[S, T]`."""

    step: Int[np.ndarray, " S"]
    scalar: dict[str, Float[np.ndarray, " S"]]
    task: dict[str, Float[np.ndarray, "S T"]]

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
    coba: Series | None  # None: the balancer keeps no such scores
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
    has_coba = False
    for where, line in _lines(path):
        if line is None:
            cut_short = True
        elif line.get("kind") == "run":
            header = _header(where, line)
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
            has_coba |= line.get("coba") is not None
            _add(where, line, sessions[-1])
    if not sessions:
        raise MftError(f"{path}: it holds no line of kind 'run'; start the run with `mft train`")
    return _merge(sessions, cut_short, has_coba)


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
    elif kind == "valid":
        _append_step(where, line, session.valid_steps)
        per_task = [fields.per_task(where, line, name, tasks) for name in VALID_PER_TASK]
        session.valid_rows.append(np.concatenate(per_task))
    elif kind == "end":
        reason = line.get("reason")
        if reason not in END_REASONS:
            raise fields.malformed(where, f"reason {reason!r}", f"one of {', '.join(END_REASONS)}")
        session.end = RunEnd(
            fields.step(where, line), reason, fields.number(where, line, "seconds")
        )
    else:
        raise fields.malformed(where, f"kind {kind!r}", "kind run, train, valid or end")


def _train_row(where: str, line: Json, tasks: tuple[str, ...]) -> np.ndarray:
    """`[scalars | per-task values | df | CoBa's per-task values]`, NaN where there are none."""
    scalars = np.array([fields.number(where, line, name) for name in TRAIN_SCALARS])
    parts = [scalars, *(fields.per_task(where, line, name, tasks) for name in TRAIN_PER_TASK)]
    coba = line.get("coba")
    if coba is None:
        parts.append(np.full(1 + len(COBA_PER_TASK) * len(tasks), np.nan))
    else:
        parts.append(np.array([fields.number(where, coba, "df")]))
        parts.extend(fields.per_task(where, coba, name, tasks) for name in COBA_PER_TASK)
    return np.concatenate(parts)


def _merge(sessions: list[_Session], cut_short: bool, has_coba: bool) -> RunRecord:
    """One series over all sessions. Steps that a resumed session took again count once, its own.

    session 1   0 1 2 3 4 killed           kept: 0 1 2
    session 2         3 4 5 6              kept:       3 4 5 6
    """
    train_limit = valid_limit = math.inf
    train: list[tuple[int, np.ndarray]] = []
    valid: list[tuple[int, np.ndarray]] = []
    for session in reversed(sessions):
        pairs = zip(session.train_steps, session.train_rows, strict=True)
        train = [pair for pair in pairs if pair[0] < train_limit] + train
        pairs = zip(session.valid_steps, session.valid_rows, strict=True)
        valid = [pair for pair in pairs if pair[0] < valid_limit] + valid
        # A session that begins with training step s has seen no other state than s or later.
        start = min([*session.train_steps[:1], *session.valid_steps[:1]], default=math.inf)
        train_limit = min(train_limit, start)
        valid_limit = min([valid_limit, start + 1, *session.valid_steps[:1]])
    header = sessions[-1].header
    tasks = len(header.tasks)
    base = len(TRAIN_SCALARS) + len(TRAIN_PER_TASK) * tasks
    steps, rows = _stack(train, base + 1 + len(COBA_PER_TASK) * tasks)
    return RunRecord(
        header=header,
        started=sessions[0].header.time,
        resumes=len(sessions) - 1,
        train=_series(steps, rows[:, :base], TRAIN_SCALARS, TRAIN_PER_TASK, tasks),
        coba=_series(steps, rows[:, base:], ("df",), COBA_PER_TASK, tasks) if has_coba else None,
        valid=_series(*_stack(valid, len(VALID_PER_TASK) * tasks), (), VALID_PER_TASK, tasks),
        end=sessions[-1].end,
        cut_short=cut_short,
    )


def _stack(pairs: list[tuple[int, np.ndarray]], width: int) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([step for step, _ in pairs], dtype=np.int64)
    return steps, np.array([row for _, row in pairs]).reshape(len(pairs), width)


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


def _header(where: str, line: Json) -> RunHeader:
    tasks = fields.typed(where, line, "tasks", list)
    if not tasks or len(set(map(str, tasks))) != len(tasks):
        raise fields.malformed(where, f"tasks {tasks!r}", "a list of different task names")
    stamp = fields.typed(where, line, "time", str)
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError as error:
        raise fields.malformed(where, f"time {stamp!r}", "an ISO 8601 time") from error
    model = fields.typed(where, line, "model", dict)
    data = fields.typed(where, line, "data", dict)
    packing = fields.typed(where, line, "packing", dict)
    mesh = fields.typed(where, line, "mesh", dict)
    counts = {task: fields.typed(where, data, task, dict) for task in map(str, tasks)}
    return RunHeader(
        time=time,
        version=fields.typed(where, line, "version", str),
        config=fields.typed(where, line, "config", dict),
        tasks=tuple(counts),
        family=fields.typed(where, model, "family", str),
        model={name: fields.number(where, model, name) for name in MODEL_NUMBERS},
        data={
            t: {name: fields.number(where, c, name) for name in DATA_COUNTS}
            for t, c in counts.items()
        },
        packing={name: fields.number(where, packing, name) for name in PACKING_NUMBERS},
        mesh={axis: int(fields.number(where, mesh, axis)) for axis in mesh},
        devices=fields.typed(where, line, "devices", str),
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
