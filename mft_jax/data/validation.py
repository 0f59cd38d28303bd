"""Validation micro-batches of the balancer: a few random samples of every task, drawn by step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int

from mft_jax.data.packed_rows import Samples, build_row
from mft_jax.data.packing import empty_rows
from mft_jax.data.rows import BatchRows, stack
from mft_jax.types import Batch

# Sets of at most so many samples (of all tasks together) are shuffled whole for every draw, so that
# a seed draws the same samples as in earlier versions; of larger sets only a part is shuffled.
SHUFFLED_WHOLE = 16_384


@dataclasses.dataclass(frozen=True)
class ValidationDraws:
    """Random validation micro-batches `[B, L]`, each of which depends only on (seed, step).

    The tasks take turns to place a random sample, none twice in a batch, until nothing more fits.
    So the tasks get about equal numbers of samples. With at least as many rows as tasks, every task
    is in every batch; with fewer rows, a task is in it if a sample that was drawn, or else one of
    its shortest, still fits. A draw takes the same time for any number of samples.
    """

    samples: Samples
    row_length: int
    batch_rows: BatchRows
    seed: int

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        queues = task_queues(self.samples, rng, self.shortest)
        num_rows = self.batch_rows.rows_per_batch
        rows = random_rows(self.samples.lengths, queues, self.row_length, num_rows, rng)
        local_rows = (rows[place] for place in self.batch_rows.in_micro_batch)
        return stack([build_row(self.samples, row, self.row_length) for row in local_rows])

    def padding(self) -> Batch:
        """A batch of the same shape without a sample."""
        return empty_rows((len(self.batch_rows.in_micro_batch), self.row_length))

    @functools.cached_property
    def shortest(self) -> list[Int[np.ndarray, " _"]]:
        """The indices of the shortest samples of each task."""
        return shortest_samples(self.samples)


@dataclasses.dataclass
class TaskQueue:
    """The samples of one task in random order; `head` is the next one, if it was read already."""

    lengths: Int[np.ndarray, " n"]  # of the samples of all tasks
    order: Iterator[int]
    shortest: Callable[[], int]
    head: int | None = None

    def take(self, room: int, first_turn: bool) -> int | None:
        """The next sample if it fits in `room` positions, else in the first turn a shortest one."""
        if self.head is None:
            self.head = next(self.order, None)
        head = self.head
        if head is None:
            return None
        if self.lengths[head] <= room:
            self.head = None
            return head
        if not first_turn:
            return None
        stand_in, order = self.shortest(), self.order
        if self.lengths[stand_in] > room:
            return None
        self.order = (index for index in order if index != stand_in)
        return stand_in


def shortest_samples(samples: Samples) -> list[Int[np.ndarray, " _"]]:
    spans = zip(samples.starts[:-1], samples.starts[1:], strict=True)
    lengths = ((start, samples.lengths[start:end]) for start, end in spans)
    return [start + np.flatnonzero(x == x.min()) for start, x in lengths]


def task_queues(
    samples: Samples,
    rng: np.random.Generator,
    shortest: list[Int[np.ndarray, " _"]],
    shuffled_whole: int = SHUFFLED_WHOLE,
) -> list[TaskQueue]:
    """A queue of each task's samples; `shortest` is the result of `shortest_samples`."""
    lengths = samples.lengths
    spans = list(zip(samples.starts[:-1].tolist(), samples.starts[1:].tolist(), strict=True))
    if len(lengths) > shuffled_whole:
        orders = [random_order(start, end, rng) for start, end in spans]
        stand_ins = [functools.partial(_choice, rng, indices) for indices in shortest]
    else:
        shuffled = [rng.permutation(np.arange(start, end)) for start, end in spans]
        orders = [map(int, indices[::-1]) for indices in shuffled]
        stand_ins = [functools.partial(_first_shortest, lengths, indices) for indices in shuffled]
    pairs = zip(orders, stand_ins, strict=True)
    return [TaskQueue(lengths, order, stand_in) for order, stand_in in pairs]


def random_order(start: int, end: int, rng: np.random.Generator) -> Iterator[int]:
    """The numbers `start` to `end - 1` in random order, each drawn when it is read.

    It is the shuffle of Fisher and Yates from the end, with only the moved entries stored.
    """
    moved: dict[int, int] = {}
    for last in range(end - 1, start - 1, -1):
        place = int(rng.integers(start, last + 1))
        chosen, moved[place] = moved.get(place, place), moved.get(last, last)
        yield chosen


def random_rows(
    lengths: Int[np.ndarray, " n"],
    queues: list[TaskQueue],
    row_length: int,
    num_rows: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """The `num_rows` rows of sample indices: the tasks in turns, each into the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    rooms = np.full(num_rows, row_length)
    waiting = list(rng.permutation(len(queues)))
    first_turn = True
    while waiting:
        still_waiting = []
        for task_id in waiting:
            row = int(np.argmax(rooms))
            index = queues[task_id].take(int(rooms[row]), first_turn)
            if index is not None:
                rows[row].append(index)
                rooms[row] -= lengths[index]
                still_waiting.append(task_id)
        waiting, first_turn = still_waiting, False
    return rows


def _choice(rng: np.random.Generator, indices: np.ndarray) -> int:
    return int(indices[rng.integers(len(indices))])


def _first_shortest(lengths: np.ndarray, indices: np.ndarray) -> int:
    return int(indices[np.argmin(lengths[indices])])
