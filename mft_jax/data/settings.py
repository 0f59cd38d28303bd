"""Settings of the data: the tasks, the length of a row, and how tasks share an epoch."""

import dataclasses
from typing import Literal

from mft_jax.types import MftError, TaskTable, at_least, check_local

Overlong = Literal["drop", "truncate", "split", "error"]
Sampling = Literal["proportional", "temperature", "rates"]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """One task.

    name               unique; its name in reports and in other settings
    path               a file, a folder or a glob of .jsonl, .json, .csv, .tsv (also .gz, .zst) or
                       .parquet, a saved dataset, datasets:<name>?subset=...&split=...&revision=...
                       of the hub, stdlib:<task> or packages:<names>:text
    valid_path         validation files; none: a part of `path` is split off
    valid_fraction     share of the samples that is split off, at least one sample
    max_samples        a seeded random subset of the training samples; none: all
    max_valid_samples  a seeded random subset of the validation samples; none: all
    columns            the fields of a record that are read, our name first, such as {"prompt":
                       "problem", "answer": "code"}; empty: those with a known name
    """

    name: str
    path: str
    valid_path: str | None = None
    valid_fraction: float = 0.05
    max_samples: int | None = None
    max_valid_samples: int | None = None
    columns: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_local(f"data.tasks.{self.name}.path", self.path)
        check_local(f"data.tasks.{self.name}.valid_path", self.valid_path or "")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The tasks, and how their samples become rows.

    tasks        the tasks, in the order of all tables
    row_length   positions of a packed row, in tokens
    overlong     what is done with a sample of more than row_length tokens; always counted
    sampling     share of each task in an epoch: every sample once, by size ** (1 / temperature), or
                 by `rates`
    temperature  of sampling=temperature; 1 is proportional, a large one gives equal shares
    rates        share of each task by name, on any scale, for sampling=rates
    seed         of the split and of the subsets of samples
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
            raise MftError(
                f"data.temperature={self.temperature} is too small; expected more than 0"
            )
        if self.rates and self.sampling != "rates":
            raise MftError(
                f"data.rates is set, but data.sampling={self.sampling!r} does not use it; expected "
                "data.sampling='rates'; change it or remove data.rates"
            )
        if self.tasks and self.sampling == "rates":
            table = TaskTable(tuple(task.name for task in self.tasks))
            table.values("data.rates", self.rates)
