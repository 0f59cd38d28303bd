"""The loader: batches of rows, one step after the other, and full passes over a set.

A step's batch follows from the data, the seed and the step, for any number of processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import grain

from mft_jax.data.packing import empty_rows
from mft_jax.data.rows import BatchRows, NumberedRows, RowProvider, stack
from mft_jax.types import Batch, MftError


class BatchStream(Iterator[Batch]):
    """Iterator over the batches of a run, whose position can be saved.

    What `state` returns is plain JSON and opaque: only `restore` of an equal stream reads it.
    """

    def __init__(self, dataset: grain.IterDataset[Batch]):
        self._batches = iter(dataset)

    def __next__(self) -> Batch:
        return next(self._batches)

    def state(self) -> Any:
        """The cursor: the position of the stream, to be saved with what was trained so far."""
        return self._batches.get_state()

    def restore(self, cursor: Any) -> None:
        """Continue at the position where `state` returned `cursor`.

        Raises `MftError` where it is not the cursor of such a stream.
        """
        try:
            self._batches.set_state(cursor)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MftError(
                f"the data cursor {cursor!r} is not one that this loader writes; delete the folder "
                "of that checkpoint to continue from the one before it"
            ) from error


def train_loader(rows: RowProvider, batch_rows: BatchRows, num_batches: int) -> BatchStream:
    """The batches `[A, B, L]` of steps 0 to `num_batches - 1`, with the rows of this process."""
    return BatchStream(rows.batches(batch_rows, num_batches))


@dataclasses.dataclass(frozen=True)
class FullPass:
    """Batches `[B, L]` that hold every row of one epoch once, and at the end rows of padding.

    They can be iterated any number of times; each iteration makes its batches anew, so only one of
    them is in memory.
    """

    rows: NumberedRows
    batch_rows: BatchRows

    def __len__(self) -> int:
        return -(-self.rows.rows_per_epoch // self.batch_rows.rows_per_batch)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            yield self._batch(number)

    def _batch(self, number: int) -> Batch:
        end, rows_per_batch = self.rows.rows_per_epoch, self.batch_rows.rows_per_batch
        [numbers] = self.batch_rows.numbers(number).tolist()
        if numbers[-1] < end:
            return stack([self.rows.row(g) for g in numbers])
        # The first row of a batch is never padding; padding has its length.
        padding = empty_rows(self.rows.row(number * rows_per_batch).tokens.shape)
        return stack([self.rows.row(g) if g < end else padding for g in numbers])
