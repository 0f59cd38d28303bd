"""Packing of samples of any task into rows of one length, with little padding.

Best-fit decreasing: the longest sample first, each into the fullest row that still has room for it.
A sample is never split here, and one row may hold segments of several tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mft_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class PaddingReport:
    """The fraction of positions that hold a real token, for three ways to fill rows.

    packed   this module
    static   every sample in a row of `row_length` for it only
    dynamic  batches of `batch_rows` random samples, each padded to the longest of its batch
    """

    packed: float
    static: float
    dynamic: float


def pack(
    lengths: Int[np.ndarray, " n"], row_length: int, rng: np.random.Generator
) -> list[Int[np.ndarray, " _"]]:
    """Rows of sample indices; every sample is in exactly one row.

    `rng` decides which of the samples of equal length goes where, the order of the rows and the
    order within a row. The number of rows depends only on `lengths` and `row_length`.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.size == 0:
        return []
    if lengths.min() < 1 or lengths.max() > row_length:
        raise ValueError(f"sample lengths must be 1 to {row_length}, got {np.unique(lengths)}")
    order = np.lexsort((rng.random(lengths.size), -lengths))
    row_of_place, num_rows = _best_fit(lengths[order].tolist(), row_length)
    row_of_place = rng.permutation(num_rows)[row_of_place]
    places = np.lexsort((rng.random(lengths.size), row_of_place))
    ends = np.cumsum(np.bincount(row_of_place, minlength=num_rows))
    return np.split(order[places], ends[:-1])


def _best_fit(lengths: list[int], row_length: int) -> tuple[np.ndarray, int]:
    """The row of every length, for lengths in decreasing order, and the number of rows.

    Bit r of `rooms` is set while some row has room for exactly r more tokens, so the fullest row
    with room for `length` is the lowest bit that is left after a shift by `length`.
    """
    rows_by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    rooms, num_rows = 0, 0
    row_of_place = np.empty(len(lengths), np.int64)
    for place, length in enumerate(lengths):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            room, row, num_rows = row_length, num_rows, num_rows + 1
        row_of_place[place] = row
        rows_by_room[room - length].append(row)
        rooms |= 1 << (room - length)
    return row_of_place, num_rows


def fill_row(
    tokens: Sequence[Int[np.ndarray, " _"]],
    loss_weights: Sequence[Float[np.ndarray, " _"]],
    task_ids: Sequence[int],
    row_length: int,
) -> Batch:
    """A row `[L]` of the given segments, in that order; without segments, a row of padding.

    `loss_weights[i][j]` is the weight of the j-th token of segment i as a target, so it moves to
    the place before it (the weight of a first token is never used):

        tokens        a0 a1 a2 a3  b0 b1 b2  .
        weights given  .  1  1  0   .  0  1
        targets       a1 a2 a3  .  b1 b2  .  .
        loss_weights   1  1  0  0   0  1  0  0
    """
    row = empty_rows((row_length,))
    start = 0
    for segment, (sample, weights, task_id) in enumerate(
        zip(tokens, loss_weights, task_ids, strict=True), start=1
    ):
        end = start + len(sample)
        if end > row_length:
            raise ValueError(f"segments of {end} tokens do not fit a row of {row_length}")
        row.tokens[start:end] = sample
        row.targets[start : end - 1] = sample[1:]
        row.positions[start:end] = np.arange(len(sample))
        row.segment_ids[start:end] = segment
        row.task_ids[start:end] = task_id
        row.loss_weights[start : end - 1] = weights[1:]
        start = end
    return row


def empty_rows(shape: tuple[int, ...]) -> Batch:
    """Rows of padding: every leaf 0."""
    integers = [np.zeros(shape, np.int32) for _ in range(5)]
    return Batch(*integers, loss_weights=np.zeros(shape, np.float32))


def padding_report(
    lengths: Int[np.ndarray, " n"], row_length: int, batch_rows: int
) -> PaddingReport:
    lengths = np.asarray(lengths, np.int64)
    rng = np.random.default_rng(0)
    total = float(lengths.sum())
    shuffled = rng.permutation(lengths)
    batches = [shuffled[i : i + batch_rows] for i in range(0, len(shuffled), batch_rows)]
    return PaddingReport(
        packed=total / (len(pack(lengths, row_length, rng)) * row_length),
        static=total / (len(lengths) * row_length),
        dynamic=total / sum(int(batch.max()) * len(batch) for batch in batches),
    )
