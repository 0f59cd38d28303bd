"""Settings of the data: the tasks, the length of a row, and how tasks share an epoch."""

import dataclasses
from typing import Literal

from mft_jax.types import MftError, TaskTable, at_least

Overlong = Literal["drop", "truncate", "split", "error"]
Sampling = Literal["proportional", "temperature", "rates"]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """One task. `path` is a file, a folder, a glob, `stdlib:<task>` or `packages:<names>:text`.

    Without `valid_path`, `valid_fraction` of the samples become the validation set (at least one).
    `max_samples` and `max_valid_samples` take a seeded random subset, not the head of the file.
    """

    name: str
    path: str
    valid_path: str | None = None
    valid_fraction: float = 0.05
    max_samples: int | None = None
    max_valid_samples: int | None = None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """All tasks. `overlong` says what happens to a sample of more than `row_length` tokens; for
    `sampling` see `mixture`; `rates` by task name, on any scale.
    """

    tasks: tuple[TaskConfig, ...] = ()
    row_length: int = 2048
    overlong: Overlong = "drop"
    sampling: Sampling = "proportional"
    temperature: float = 2.0
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("data", self, row_length=2, seed=0)
        if not self.temperature > 0:
            raise MftError(f"data.temperature={self.temperature}: expected more than 0")
        if self.rates and self.sampling != "rates":
            raise MftError(
                f"data.rates is read by data.sampling='rates', not by {self.sampling!r}; remove "
                "one of them"
            )
        if self.tasks and self.sampling == "rates":
            table = TaskTable(tuple(task.name for task in self.tasks))
            table.values("data.rates", self.rates)
