"""The same samples as packed rows for our step and as padded batches for peft's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mft_jax.data import packed_rows
from mft_jax.data.rows import stack
from mft_jax.data.tasks import TokenizedData
from mft_jax.types import Batch, MftError

IGNORED = -100  # label of a token that is not trained on, as in transformers
MEGABATCH = 50  # batches that are sorted together, as in transformers' sampler by length


class Sample(NamedTuple):
    """Tokens, and the weight of each as a target."""

    tokens: Int[np.ndarray, " L"]
    weights: Float[np.ndarray, " L"]


class Padded(NamedTuple):
    """A batch as transformers takes it, padded on the right to its longest sample."""

    tokens: Int[np.ndarray, "B L"]
    labels: Int[np.ndarray, "B L"]
    mask: Int[np.ndarray, "B L"]


@dataclasses.dataclass(frozen=True)
class Samples:
    """The tokenised training samples of all tasks, in a vocabulary of this size."""

    data: TokenizedData
    vocab_size: int

    @functools.cached_property
    def joined(self) -> packed_rows.Samples:
        return packed_rows.join_tasks(self.data.train)

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        return self.joined.lengths

    def take(self, index: int) -> Sample:
        task = self.data.train[int(self.joined.task_ids[index])]
        number = self.joined.numbers[index]
        span = slice(task.offsets[number], task.offsets[number + 1])
        return Sample(task.tokens[span], task.loss_weights[span])


def full_rows(rows: int, length: int, vocab_size: int) -> Batch:
    """Rows `[1, B, L]` of one random sample each, every token of it trained on."""
    shape = (1, rows, length)
    tokens = np.random.default_rng(0).integers(0, vocab_size, shape).astype(np.int32)
    weights = np.ones(shape, np.float32)
    weights[..., -1] = 0.0
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape).copy()
    ones = np.ones(shape, np.int32)
    return Batch(tokens, np.roll(tokens, -1, axis=-1), positions, ones, 0 * ones, weights)


def packed(samples: Samples, rows: int, length: int, count: int) -> list[Batch]:
    """The first batches `[1, B, L]` of an epoch, as a run packs them."""
    if samples.lengths.max() > length:
        raise MftError(
            f"the config has samples of up to {samples.lengths.max()} tokens, and rows of {length} "
            f"are timed; set --config.data.row_length={length}"
        )
    packing = packed_rows.packed_rows(samples.data.train, length, seed=0)
    return [
        stack([stack([packing.row(batch * rows + row) for row in range(rows)])])
        for batch in range(count)
    ]


def samples_of(batch: Batch) -> list[Sample]:
    """The samples of packed rows `[1, B, L]`, in the form that they had before.

    >>> [sample.weights.tolist() for sample in samples_of(full_rows(1, 3, vocab_size=9))]
    [[0.0, 1.0, 1.0]]
    """
    found = []
    for row in zip(*(leaf.reshape(-1, leaf.shape[-1]) for leaf in batch), strict=True):
        tokens, _, _, segment_ids, _, weights = row
        for segment in range(1, int(segment_ids.max()) + 1):
            (places,) = np.nonzero(segment_ids == segment)
            as_targets = np.concatenate([np.zeros(1, np.float32), weights[places[:-1]]])
            found.append(Sample(tokens[places], as_targets))
    return found


def join(samples: Samples, indices: Int[np.ndarray, " _"]) -> list[Sample]:
    return [samples.take(int(index)) for index in indices]


def padded(samples: Sequence[Sample]) -> Padded:
    """
    >>> pair = [Sample(np.array([5, 6, 7]), np.array([0, 1, 0])), Sample(np.array([8]), np.ones(1))]
    >>> batch = padded(pair)
    >>> batch.labels.tolist(), batch.mask.tolist()
    ([[-100, 6, -100], [8, -100, -100]], [[1, 1, 1], [1, 0, 0]])
    """
    shape = len(samples), max(len(sample.tokens) for sample in samples)
    batch = Padded(np.zeros(shape, int), np.full(shape, IGNORED), np.zeros(shape, int))
    for row, (tokens, weights) in enumerate(samples):
        batch.tokens[row, : len(tokens)] = tokens
        batch.labels[row, : len(tokens)] = np.where(weights > 0, tokens, IGNORED)
        batch.mask[row, : len(tokens)] = 1
    return batch


def in_batches(items: Any, size: int) -> list[Any]:
    """The items in order, `size` at a time; the last may be fewer."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def grouped_by_length(
    samples: Samples, order: Int[np.ndarray, " n"], size: int
) -> Int[np.ndarray, " whole"]:
    """The order with every 50 batches sorted by length, and then the whole batches shuffled."""
    width = MEGABATCH * size
    groups = [np.asarray(part) for part in in_batches(order, width)]
    by_length = [part[np.argsort(-samples.lengths[part], kind="stable")] for part in groups]
    of_batches = in_batches(np.concatenate(by_length), size)
    shuffled = np.random.default_rng(0).permutation(len(order) // size)
    return np.concatenate([of_batches[index] for index in shuffled])
