"""Packed rows: the samples of all tasks, packed and shuffled anew in every epoch.

epoch e    every sample of every task once (or as a mixture says), packed and shuffled by rng
           (seed, e)
row g      the rows of epoch 0, then those of epoch 1, ... without a gap: no row is repeated,
           dropped or padded at the end of an epoch
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mft_jax.data.mixture import Mixture
from mft_jax.data.packing import fill_row, pack
from mft_jax.data.rows import NumberedRows
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of all tasks under one index: sample i is sample `numbers[i]` of task
    `task_ids[i]`.
    """

    tasks: tuple[TokenizedTask, ...]
    task_ids: Int[np.ndarray, " n"]
    numbers: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]

    @functools.cached_property
    def starts(self) -> Int[np.ndarray, " T_plus_1"]:
        """The first index of each task: task t has `starts[t]` to `starts[t + 1] - 1`."""
        return np.searchsorted(self.task_ids, np.arange(len(self.tasks) + 1))


def join_tasks(tasks: Sequence[TokenizedTask]) -> Samples:
    """The samples of all tasks, one task after the other; a task's id is its place in `tasks`."""
    lengths = [np.diff(task.offsets) for task in tasks]
    return Samples(
        tasks=tuple(tasks),
        task_ids=np.repeat(np.arange(len(tasks)), [len(x) for x in lengths]),
        numbers=np.concatenate([np.arange(len(x)) for x in lengths]),
        lengths=np.concatenate(lengths),
    )


def build_row(samples: Samples, indices: Sequence[int] | np.ndarray, row_length: int) -> Batch:
    """One row `[L]` of the samples with these indices."""
    tokens, weights, task_ids = [], [], []
    for index in indices:
        task_id, number = int(samples.task_ids[index]), samples.numbers[index]
        task = samples.tasks[task_id]
        span = slice(task.offsets[number], task.offsets[number + 1])
        tokens.append(task.tokens[span])
        weights.append(task.loss_weights[span])
        task_ids.append(task_id)
    return fill_row(tokens, weights, task_ids, row_length)


def packed_rows(
    tasks: Sequence[TokenizedTask], row_length: int, seed: int, mixture: Mixture | None = None
) -> NumberedRows:
    """Rows of `row_length` positions, each filled with whole samples of any tasks."""
    samples = join_tasks(tasks)
    varies = mixture is not None and not mixture.is_proportional

    def epoch_samples(epoch: int) -> np.ndarray:
        assert mixture is not None
        firsts = samples.starts[:-1]
        return np.concatenate(
            [first + mixture.epoch_samples(i, epoch, seed) for i, first in enumerate(firsts)]
        )

    # A batch may cross the end of an epoch, so two epochs are kept.
    @functools.lru_cache(maxsize=2)
    def epoch_rows(epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        if not varies:
            return pack(samples.lengths, row_length, rng)
        indices = epoch_samples(epoch)
        return [indices[row] for row in pack(samples.lengths[indices], row_length, rng)]

    starts = [0]  # the first row of every epoch read so far, and of the next one

    def row(number: int) -> Batch:
        while starts[-1] <= number:
            starts.append(starts[-1] + num_rows(len(starts) - 1))
        epoch = bisect.bisect_right(starts, number) - 1
        return build_row(samples, epoch_rows(epoch)[number - starts[epoch]], row_length)

    def num_rows(epoch: int) -> int:
        return rows_per_epoch if not varies or epoch == 0 else len(epoch_rows(epoch))

    rows_per_epoch = len(epoch_rows(0))
    return NumberedRows(rows_per_epoch, row, rows_with_task(samples, epoch_rows(0)))


def rows_with_task(
    samples: Samples, rows: Sequence[Int[np.ndarray, " _"]]
) -> Int[np.ndarray, " T"]:
    """The number of rows that hold a sample of each task; rows are indices of samples."""
    num_tasks = len(samples.tasks)
    row_of_place = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    pairs = row_of_place * num_tasks + samples.task_ids[np.concatenate(rows)]
    return np.bincount(np.unique(pairs) % num_tasks, minlength=num_tasks)
