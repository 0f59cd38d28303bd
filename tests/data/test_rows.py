"""Rows of a step, and the interface that packed, padded and streamed rows share."""

import grain
import numpy as np
import pytest

from mft_jax.data.loader import train_loader
from mft_jax.data.packing import fill_row
from mft_jax.data.rows import BatchRows, NumberedRows, stack
from mft_jax.types import MftError


def test_a_process_has_its_places_in_every_micro_batch():
    np.testing.assert_array_equal(BatchRows(6, 2).numbers(1), [[6, 7, 8], [9, 10, 11]])
    rows = BatchRows(8, 2, local_rows=(0, 1))
    np.testing.assert_array_equal(rows.numbers(1), [[8, 9], [12, 13]])
    np.testing.assert_array_equal(BatchRows(8, 2, (2, 3)).numbers(0), [[2, 3], [6, 7]])


@pytest.mark.parametrize(("rows", "micro_batches"), [(10, 3), (0, 1), (3, 6)])
def test_rows_that_micro_batches_do_not_divide_are_an_error(rows, micro_batches):
    with pytest.raises(MftError, match="cannot be cut into . equal micro-batch"):
        BatchRows(rows, micro_batches)


def sample_row(number, length, row_length):
    tokens, weights = np.full(length, number + 1), np.ones(length)
    return fill_row([tokens], [weights], [0], row_length)


def test_rows_may_be_as_long_as_the_longest_of_their_batch():
    """A provider of padded rows: one sample in each."""
    lengths, rows_per_batch = [3, 5, 2, 4, 8, 7], 2

    def row(number):
        first = number - number % rows_per_batch
        longest = max(lengths[first : first + rows_per_batch])
        return sample_row(number, lengths[number], longest)

    provider = NumberedRows(len(lengths), row)
    batches = list(train_loader(provider, BatchRows(rows_per_batch), 3))
    assert [batch.tokens.shape for batch in batches] == [(1, 2, 5), (1, 2, 4), (1, 2, 8)]
    assert [int((batch.segment_ids > 0).sum()) for batch in batches] == [8, 6, 15]


class Streamed(grain.DatasetIterator):
    """Rows of a text of unknown size that is read once; the cursor is a number of characters."""

    def __init__(self, text, rows, num_batches):
        super().__init__()
        self.text, self.rows, self.num_batches, self.at, self.step = text, rows, num_batches, 0, 0

    def __next__(self):
        if self.step == self.num_batches:
            raise StopIteration
        words = []
        while len(words) < self.rows.rows_per_batch:
            end = (self.text + " ").index(" ", self.at)
            words.append(self.text[self.at : end])
            self.at = end + 1
        mine = (self.rows.numbers(self.step) - self.step * self.rows.rows_per_batch).tolist()
        self.step += 1
        return stack([stack([sample_row(0, len(words[g]), 6) for g in row]) for row in mine])

    def get_state(self):
        return {"character": self.at, "step": self.step}

    def set_state(self, state):
        self.at, self.step = state["character"], state["step"]


class StreamedRows:
    rows_per_epoch = None

    def batches(self, rows, num_batches):
        class Dataset(grain.IterDataset):
            def __iter__(self):
                return Streamed("a bb ccc dddd eeeee ffffff", rows, num_batches)

        return Dataset()


def test_rows_may_be_a_stream_that_keeps_its_own_position():
    through = train_loader(StreamedRows(), BatchRows(2), 3)
    first = next(through)
    cursor = through.state()
    resumed = train_loader(StreamedRows(), BatchRows(2), 3)
    resumed.restore(cursor)
    rest = list(through)
    assert [(b.segment_ids > 0).sum(-1).tolist() for b in (first, *rest)] == [
        [[1, 2]], [[3, 4]], [[5, 6]],
    ]  # fmt: skip
    for left, right in zip(rest, resumed, strict=True):
        np.testing.assert_array_equal(left.tokens, right.tokens)
