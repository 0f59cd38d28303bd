"""What the tables say of a run: a row per task, mean and worst ratio over tasks."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mft_jax.record.columns import RunRecord


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """One task's validation losses (nats per token) and its weight. NaN: not recorded."""

    task: str
    before: float  # before the first step
    last: float
    best: float
    best_step: int | None
    ratio: float  # last over before
    weight: float  # of the last step in which the task was present


def task_outcomes(record: RunRecord) -> list[TaskOutcome]:
    """The row of every task, in the order of the tasks."""
    return [_task_outcome(record, place, name) for place, name in enumerate(record.header.tasks)]


def _task_outcome(record: RunRecord, place: int, name: str) -> TaskOutcome:
    step, loss = record.valid.step, record.valid.task["loss"][:, place]
    known = np.flatnonzero(np.isfinite(loss))
    best = known[loss[known].argmin()] if len(known) else None
    return TaskOutcome(
        task=name,
        before=float(loss[0]) if len(loss) and step[0] == 0 else math.nan,
        last=_last_known(loss),
        best=math.nan if best is None else float(loss[best]),
        best_step=None if best is None else int(step[best]),
        ratio=_last_known(record.valid.task["ratio"][:, place]),
        weight=_last_known(record.train.task["weight"][:, place]),
    )


def final_ratios(record: RunRecord) -> list[float]:
    """Per task the last known validation loss over that before training."""
    return [row.ratio for row in task_outcomes(record)]


def mean_and_worst(ratios: Sequence[float]) -> tuple[float, float]:
    """Over the tasks whose ratio is known; NaN where there is none.

    >>> mean_and_worst([0.5, float("nan"), 1.0])
    (0.75, 1.0)
    """
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return (float(np.mean(known)), max(known)) if known else (math.nan, math.nan)


def _last_known(values: Float[np.ndarray, " steps"]) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else math.nan
