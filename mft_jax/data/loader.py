"""The loader: packed rows as batches, deterministic in (seed, step), shared out by process.

    epoch e    every sample of every task once (or as a mixture says), packed and shuffled by rng
               (seed, e)
    row g      the rows of epoch 0, then those of epoch 1, ...
    step s     the rows s * rows_per_batch to (s + 1) * rows_per_batch - 1, for any process count

Step s alone decides the rows, so the state of an iterator is its next step and nothing else:
`iterator.get_state() == {"next_index": s}`, which is plain JSON.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import grain
import numpy as np
from jaxtyping import Float, Int

from mft_jax.data.mixture import Mixture
from mft_jax.data.packing import empty_rows, fill_row, pack
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.types import Batch, MftError

PREFETCH_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of all tasks under one index: sample i is number `place[i]` of `task_ids[i]`."""

    tasks: tuple[TokenizedTask, ...]
    task_ids: Int[np.ndarray, " n"]
    places: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]


def join_tasks(tasks: Sequence[TokenizedTask]) -> Samples:
    """The id of a task is its place in `tasks`."""
    lengths = [np.diff(task.offsets) for task in tasks]
    return Samples(
        tasks=tuple(tasks),
        task_ids=np.repeat(np.arange(len(tasks)), [len(x) for x in lengths]),
        places=np.concatenate([np.arange(len(x)) for x in lengths]),
        lengths=np.concatenate(lengths),
    )


def build_row(samples: Samples, indices: Sequence[int] | np.ndarray, row_length: int) -> Batch:
    tokens, weights, task_ids = [], [], []
    for index in indices:
        task_id, place = int(samples.task_ids[index]), samples.places[index]
        task = samples.tasks[task_id]
        span = slice(task.offsets[place], task.offsets[place + 1])
        tokens.append(task.tokens[span])
        weights.append(task.loss_weights[span])
        task_ids.append(task_id)
    return fill_row(tokens, weights, task_ids, row_length)


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Row g of an endless sequence of epochs, see the top of this module.

    Under a mixture every epoch has other samples, so it may pack into another number of rows.
    """

    rows_per_epoch: int  # of the first epoch; of every one without a mixture
    row: Callable[[int], Batch]


def packed_rows(
    tasks: Sequence[TokenizedTask], row_length: int, seed: int, mixture: Mixture | None = None
) -> PackedRows:
    samples = join_tasks(tasks)
    firsts = np.searchsorted(samples.task_ids, np.arange(len(tasks)))
    varies = mixture is not None and not mixture.is_proportional

    def chosen(epoch: int) -> np.ndarray:
        assert mixture is not None
        drawn = [mixture.places(i, epoch, seed) + first for i, first in enumerate(firsts)]
        return np.concatenate(drawn)

    # A batch may reach over the end of an epoch, so two epochs are kept.
    @functools.lru_cache(maxsize=2)
    def epoch_rows(epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        if not varies:
            return pack(samples.lengths, row_length, rng)
        indices = chosen(epoch)
        return [indices[row] for row in pack(samples.lengths[indices], row_length, rng)]

    starts = [0]  # the first row of every epoch met so far, and of the one after

    def row(number: int) -> Batch:
        while starts[-1] <= number:
            starts.append(starts[-1] + num_rows(len(starts) - 1))
        epoch = bisect.bisect_right(starts, number) - 1
        return build_row(samples, epoch_rows(epoch)[number - starts[epoch]], row_length)

    def num_rows(epoch: int) -> int:
        return rows_per_epoch if not varies or epoch == 0 else len(epoch_rows(epoch))

    rows_per_epoch = len(epoch_rows(0))
    return PackedRows(rows_per_epoch, row)


def expected_counts(
    tasks: Sequence[TokenizedTask], mixture: Mixture, rows_per_epoch: int, rows_per_batch: int
) -> dict[str, Float[np.ndarray, " T"]]:
    """Valid tokens ("token") and samples with one ("sample") of each task in an average batch.

    A sample's first token is never a target, so its weight does not count. Under a mixture the rows
    of the first epoch stand for those of every epoch.
    """
    per_epoch = {"token": np.zeros(len(tasks)), "sample": np.zeros(len(tasks))}
    for i, task in enumerate(tasks):
        weights = np.asarray(task.loss_weights, np.float64).copy()
        weights[task.offsets[:-1]] = 0.0
        of_sample = np.add.reduceat(weights, task.offsets[:-1])
        repeats = mixture.counts[i] / mixture.sizes[i]
        per_epoch["token"][i] = of_sample.sum() * repeats
        per_epoch["sample"][i] = np.count_nonzero(of_sample) * repeats
    return {unit: total * rows_per_batch / rows_per_epoch for unit, total in per_epoch.items()}


@dataclasses.dataclass(frozen=True)
class _Steps:
    """What grain reads from: item s is the batch of step s."""

    num_batches: int
    batch: Callable[[int], Batch]

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        return self.batch(index)


def train_loader(
    tasks: Sequence[TokenizedTask],
    *,
    row_length: int,
    rows_per_batch: int,
    num_batches: int,
    seed: int,
    micro_batches: int = 1,
    mixture: Mixture | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Iterator over batches `[A, B, L]` of steps 0 to `num_batches - 1`.

    `rows_per_batch` counts the rows of one step over all micro-batches and processes:
    rows_per_batch = A * process_count * B, row by row in that order. An epoch's rows follow the
    last epoch's without a gap, so no row is repeated, dropped or padded at an epoch's end.
    `iterator.set_state({"next_index": s})` goes on at step s.
    """
    rows_B = rows_per_process(rows_per_batch, micro_batches, process_count)
    rows = packed_rows(tasks, row_length, seed, mixture)

    def batch(step: int) -> Batch:
        numbers = np.arange(step * rows_per_batch, (step + 1) * rows_per_batch)
        numbers_APB = numbers.reshape(micro_batches, process_count, rows_B)
        micro = [
            _stack([rows.row(int(g)) for g in row_B]) for row_B in numbers_APB[:, process_index]
        ]
        return _stack(micro)

    return _iterator(_Steps(num_batches, batch))


def valid_loader(
    tasks: Sequence[TokenizedTask],
    *,
    row_length: int,
    rows_per_batch: int,
    num_batches: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Iterator over validation micro-batches `[B, L]` for the balancer, one for each step.

    Each is drawn afresh from (seed, step): the tasks take turns to place a random sample, none
    twice in a batch, until nothing more fits. So the tasks get about equal numbers of samples, and
    every task is in every batch if `rows_per_batch` is at least the number of tasks; with fewer
    rows, if a sample of it that was drawn, or else its shortest one, still finds room.
    """
    rows_B = rows_per_process(rows_per_batch, 1, process_count)
    samples = join_tasks(tasks)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        rows = draw_rows(samples, row_length, rows_per_batch, rng)
        mine = rows[process_index * rows_B : (process_index + 1) * rows_B]
        return _stack([build_row(samples, indices, row_length) for indices in mine])

    return _iterator(_Steps(num_batches, batch))


def draw_rows(
    samples: Samples, row_length: int, num_rows: int, rng: np.random.Generator
) -> list[list[int]]:
    """`num_rows` rows of sample indices, the tasks in turns; see `valid_loader`."""
    starts = np.searchsorted(samples.task_ids, np.arange(len(samples.tasks) + 1))
    queues = [list(rng.permutation(np.arange(a, b))) for a, b in itertools.pairwise(starts)]
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    rooms = np.full(num_rows, row_length)
    waiting = list(rng.permutation(len(samples.tasks)))
    first_turn = True
    while waiting:
        still_waiting = []
        for task_id in waiting:
            queue = queues[task_id]
            if first_turn and queue and samples.lengths[queue[-1]] > rooms.max():
                queue.append(queue.pop(int(np.argmin(samples.lengths[queue]))))
            if queue and samples.lengths[queue[-1]] <= rooms.max():
                index, row = int(queue.pop()), int(np.argmax(rooms))
                rows[row].append(index)
                rooms[row] -= samples.lengths[index]
                still_waiting.append(task_id)
        waiting, first_turn = still_waiting, False
    return rows


def valid_batches(
    tasks: Sequence[TokenizedTask],
    *,
    row_length: int,
    rows_per_batch: int,
    process_index: int = 0,
    process_count: int = 1,
) -> list[Batch]:
    """One full pass as batches `[B, L]`: every sample once, empty rows at the end of the last."""
    rows_B = rows_per_process(rows_per_batch, 1, process_count)
    rows = packed_rows(tasks, row_length, seed=0)
    num_batches = -(-rows.rows_per_epoch // rows_per_batch)

    def share(batch: int) -> Batch:
        first = batch * rows_per_batch + process_index * rows_B
        numbers = range(first, first + rows_B)
        empty = empty_rows((row_length,))
        return _stack([rows.row(g) if g < rows.rows_per_epoch else empty for g in numbers])

    return [share(batch) for batch in range(num_batches)]


def rows_per_process(rows_per_batch: int, micro_batches: int, process_count: int) -> int:
    """Rows of one micro-batch on one process."""
    parts = micro_batches * process_count
    if rows_per_batch < 1 or rows_per_batch % parts:
        raise MftError(
            f"a batch of {rows_per_batch} rows cannot be shared out evenly to {micro_batches} "
            f"micro-batch(es) on {process_count} process(es); expected a positive multiple of "
            f"{micro_batches} x {process_count} = {parts}; change the rows per batch or the "
            "number of micro-batches"
        )
    return rows_per_batch // parts


def _stack(rows: Sequence[Batch]) -> Batch:
    return Batch(*map(np.stack, zip(*rows, strict=True)))


def _iterator(steps: _Steps) -> grain.DatasetIterator[Batch]:
    # One thread: batches are cheap, and the epoch cache is not to be filled twice at once.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH_BATCHES)
    return iter(grain.MapDataset.source(steps).to_iter_dataset(options))
