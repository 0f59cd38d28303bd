"""The tasks of a run: their tokens, and the names and counts that the run is built from."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from mft_jax.data.kept_tokens import ReadTask, keep, read_kept, task_source
from mft_jax.data.mixture import Mixture
from mft_jax.data.progress import OnWork, TaskWork, task_sizes, unseen
from mft_jax.data.samples import read_as
from mft_jax.data.settings import DataConfig, TaskConfig
from mft_jax.data.splits import load_splits
from mft_jax.data.tokenization import TaskStats, TokenizedTask, tokenize
from mft_jax.kept import NOTHING_KEPT, Kept
from mft_jax.types import TaskTable


@dataclasses.dataclass(frozen=True)
class TokenizedData:
    """The tokens and statistics of all tasks. The place of a task in each tuple is its id.

    `read_as` says what the records of each task were taken for.
    """

    tasks: TaskTable
    train: tuple[TokenizedTask, ...]
    valid: tuple[TokenizedTask, ...]
    train_stats: tuple[TaskStats, ...]
    valid_stats: tuple[TaskStats, ...]
    read_as: tuple[str, ...] = ()

    @property
    def train_sizes(self) -> list[int]:
        """The number of samples of each task in the training set."""
        return [len(task.offsets) - 1 for task in self.train]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The names and counts of the tasks, from which the step and its balancer are built.

    mixture              samples of each task in an epoch
    rows_per_epoch       training rows of the first epoch
    expected_counts      tokens ("token") and samples ("sample") of each task in an average batch
    valid_micro_batches  batches of `loop.valid_rows` rows in a full validation pass
    """

    table: TaskTable
    mixture: Mixture
    rows_per_epoch: int
    expected_counts: dict[str, Float[np.ndarray, " T"]]
    valid_micro_batches: int


def load_tasks(
    data_config: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    on_work: OnWork = unseen,
    kept: Kept = NOTHING_KEPT,
) -> TokenizedData:
    """The tokens of every task, those that are `kept` without reading its records. Raises
    `MftError` for a bad record or an empty task or split."""
    table = TaskTable(tuple(task.name for task in data_config.tasks))
    sizes = task_sizes(data_config.tasks)
    every: list[ReadTask] = []
    found: list[ReadTask] = []
    for place, task in enumerate(data_config.tasks):
        work = TaskWork(data_config.tasks, place, sizes, on_work)
        source = task_source(task, data_config, tokenizer) if kept.folder else None
        read = read_kept(kept, source.key) if source else None
        if read is not None:
            found.append(read)
        else:
            read = read_task(task, data_config, tokenizer, work)
            if source:
                keep(kept, source, read)
        every.append(read)
    if found:
        total = sum(read.train[1].samples + read.valid[1].samples for read in found)
        kept.say(
            f"the tokens of {total:,} samples ({len(found)} of {len(every)} tasks) are those of an "
            f"earlier start, kept in {kept.folder}"
        )
    train_tasks, train_stats = zip(*(read.train for read in every), strict=True)
    valid_tasks, valid_stats = zip(*(read.valid for read in every), strict=True)
    told = tuple(read.read_as for read in every)
    return TokenizedData(table, train_tasks, valid_tasks, train_stats, valid_stats, told)


def read_task(
    task: TaskConfig, data_config: DataConfig, tokenizer: PreTrainedTokenizerFast, work: TaskWork
) -> ReadTask:
    """Read and tokenize the records of a task."""
    splits = load_splits(task, data_config.seed, work.read)
    told = read_as(sample for split in splits for sample in split)
    total, before = sum(map(len, splits)), 0
    results = []
    for split, samples in zip(("training", "validation"), splits, strict=True):
        where = f"{split} set of task {task.name!r}"
        on_samples = work.tokenized(total, before)
        before += len(samples)
        row_length, overlong = data_config.row_length, data_config.overlong
        results.append(tokenize(samples, tokenizer, row_length, overlong, where, on_samples))
    train, valid = results
    return ReadTask(train, valid, told)
