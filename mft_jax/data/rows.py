"""Rows and batches: which rows a step takes, and the interface of what fills rows with samples.

row g     of an order without end, from one epoch to the next
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
    """Rows of a batch, and those of them that this process provides.

    `rows_per_batch` counts the rows of all micro-batches and processes; micro-batches follow one
    another in it. `local_rows` are places in a micro-batch, rising (None: all of them). They follow
    from the devices of a process, so processes with replicas of the same rows have equal ones.
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
        """Places in a micro-batch of the rows of this process."""
        every = np.arange(self.rows_per_batch // self.micro_batches)
        return every if self.local_rows is None else every[list(self.local_rows)]

    def numbers(self, step: int) -> Int[np.ndarray, "A B"]:
        """Numbers of this process's rows in the batch of a step."""
        rows = self.rows_per_batch // self.micro_batches
        firsts = step * self.rows_per_batch + np.arange(self.micro_batches) * rows
        return firsts[:, None] + self.in_micro_batch


@runtime_checkable
class RowProvider(Protocol):
    """Provider of rows: the one interface through which a loader gets samples in rows.

    Packed rows are one provider; one that gives each sample a row as long as the longest of its
    batch, or that reads a stream of unknown size and keeps its place in its iterator's state, is
    one more file with these two members.
    """

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of the first epoch; None where only reading to the end would tell."""
        ...

    def batches(self, rows: BatchRows, num_batches: int) -> grain.IterDataset[Batch]:
        """Batches `[A, B, L]` of steps 0 to `num_batches - 1`: the rows `rows.numbers(step)`.

        L may differ from step to step, but is the same for all rows of a step on all processes.
        """
        ...


@dataclasses.dataclass(frozen=True)
class NumberedRows:
    """Rows that can be asked for in any order; `row(g)` `[L]` follows from its number only.

    `rows_per_epoch` is that of the first epoch: under a mixture every epoch has other samples, so
    it may pack into another number of rows.
    """

    rows_per_epoch: int
    row: Callable[[int], Batch]

    def batches(self, rows: BatchRows, num_batches: int) -> grain.IterDataset[Batch]:
        def batch(step: int) -> Batch:
            micro_batches = rows.numbers(step).tolist()
            return stack([stack([self.row(g) for g in numbers]) for numbers in micro_batches])

        # One thread: batches are cheap, and the epoch cache is not to be filled twice at once.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH_BATCHES)
        return grain.MapDataset.source(_Steps(num_batches, batch)).to_iter_dataset(options)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Source that grain reads: item s is the batch of step s."""

    num_batches: int
    batch: Callable[[int], Batch]

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        return self.batch(index)


def stack(rows: Sequence[Batch]) -> Batch:
    """Rows of one length under a new leading axis."""
    return Batch(*map(np.stack, zip(*rows, strict=True)))
