"""Rows and batches: the rows of a step, and the interface of providers that fill rows.

row g     in one endless order, from one epoch to the next
step s    the rows s * rows_per_batch to (s + 1) * rows_per_batch - 1, on any mesh
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from mft_jax.types import Batch, MftError

PREFETCH_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class BatchRows:
    """The rows of a batch, and those that this process provides.

    `rows_per_batch` counts the rows of all micro-batches and processes; one micro-batch follows the
    other. `local_rows` are places in a micro-batch, in rising order (None: all places). They depend
    on the devices of a process, so processes with replicas of the same rows have equal ones.
    """

    rows_per_batch: int
    micro_batches: int = 1
    local_rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.rows_per_batch < 1 or self.rows_per_batch % self.micro_batches:
            raise MftError(
                f"a batch of {self.rows_per_batch} rows cannot be cut into {self.micro_batches} "
                f"equal micro-batch(es); expected a positive multiple of {self.micro_batches}; "
                "change the rows per batch or the number of micro-batches"
            )

    @property
    def in_micro_batch(self) -> Int[np.ndarray, " B"]:
        """The places in a micro-batch of this process's rows."""
        every = np.arange(self.rows_per_batch // self.micro_batches)
        return every if self.local_rows is None else every[list(self.local_rows)]

    def numbers(self, step: int) -> Int[np.ndarray, "A B"]:
        """The numbers of this process's rows in the batch of a step."""
        rows = self.rows_per_batch // self.micro_batches
        firsts = step * self.rows_per_batch + np.arange(self.micro_batches) * rows
        return firsts[:, None] + self.in_micro_batch


@runtime_checkable
class RowProvider(Protocol):
    """A provider of rows: the only interface through which a loader gets samples in rows.

    Packed rows are one provider. Another one, which pads each sample to the longest of its batch,
    or reads a stream of unknown size and keeps its position in its iterator's state, is one more
    file with these two members.
    """

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of the first epoch; None if they are not known before everything is read."""
        ...

    def batches(self, rows: BatchRows, num_batches: int) -> grain.IterDataset[Batch]:
        """The batches `[A, B, L]` of steps 0 to `num_batches - 1`, with rows `rows.numbers(step)`.

        L may differ from step to step, but is the same for all rows of a step on all processes.
        """
        ...


@dataclasses.dataclass(frozen=True)
class NumberedRows:
    """Rows that can be read in any order; `row(g)` `[L]` depends only on its number.

    `rows_per_epoch` is that of the first epoch: under a mixture every epoch has other samples, so
    it may have another number of rows.

    rows_with_task  rows of the first epoch that hold a sample of each task, where it is known
    """

    rows_per_epoch: int
    row: Callable[[int], Batch]
    rows_with_task: Int[np.ndarray, " T"] | None = None

    def batches(self, rows: BatchRows, num_batches: int) -> grain.IterDataset[Batch]:
        def batch(step: int) -> Batch:
            micro_batches = rows.numbers(step).tolist()
            return stack([stack([self.row(g) for g in numbers]) for numbers in micro_batches])

        # One thread: batches are cheap, and two threads would fill the epoch cache twice at once.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH_BATCHES)
        return grain.MapDataset.source(_Steps(num_batches, batch)).to_iter_dataset(options)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The source that grain reads: item s is the batch of step s."""

    num_batches: int
    batch: Callable[[int], Batch]

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        return self.batch(index)


def stack(rows: Sequence[Batch]) -> Batch:
    """Rows of one length stacked along a new leading axis."""
    return Batch(*map(np.stack, zip(*rows, strict=True)))
