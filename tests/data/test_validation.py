"""Validation micro-batches: fair to the tasks, the same for a step, and cheap for any set."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mft_jax.data.packed_rows import join_tasks
from mft_jax.data.rows import BatchRows
from mft_jax.data.validation import (
    SHUFFLED_WHOLE,
    ValidationDraws,
    random_order,
    random_rows,
    shortest_samples,
    task_queues,
)
from mft_jax.types import Batch

ROW = 32


def draws(tasks, rows_per_batch=3, local_rows=None):
    return ValidationDraws(join_tasks(tasks), ROW, BatchRows(rows_per_batch, 1, local_rows), seed=0)


def rows_of(samples, num_rows, rng, shuffled_whole=SHUFFLED_WHOLE):
    queues = task_queues(samples, rng, shortest_samples(samples), shuffled_whole)
    return random_rows(samples.lengths, queues, ROW, num_rows, rng)


# Draws of a set that is shuffled whole, and of one of which only a part is shuffled.
either_way = pytest.mark.parametrize("shuffled_whole", [SHUFFLED_WHOLE, 0])


@either_way
def test_with_enough_rows_every_task_is_in_every_micro_batch(corpus, shuffled_whole):
    samples = join_tasks(corpus.make_tasks())
    for step in range(20):
        rows = rows_of(samples, 3, np.random.default_rng([0, step]), shuffled_whole)
        taken = [index for row in rows for index in row]
        assert len(set(taken)) == len(taken), "a sample occurs twice"
        assert {int(samples.task_ids[i]) for i in taken} == {0, 1, 2}
        assert max(sum(samples.lengths[i] for i in row) for row in rows) <= ROW


def test_a_micro_batch_holds_whole_samples_of_their_tasks(corpus):
    tasks = corpus.make_tasks()
    batch = draws(tasks).batch(0)
    assert batch.tokens.shape == (3, ROW)
    assert set(corpus.segments(batch).values()) == {1}
    assert corpus.segments(batch).keys() <= corpus.all_samples(tasks).keys()


@either_way
def test_with_few_rows_a_shortest_sample_of_a_task_stands_in(corpus, shuffled_whole):
    samples = join_tasks([corpus.make_task(t, [3, 30, 3]) for t in range(8)])
    stood_in = set()
    for seed in range(40):
        rows = rows_of(samples, 2, np.random.default_rng(seed), shuffled_whole)
        lengths = [sum(samples.lengths[i] for i in row) for row in rows]
        taken = [i for row in rows for i in row]
        assert max(lengths) <= ROW and len(set(taken)) == len(taken)
        missing = set(range(8)) - {int(samples.task_ids[i]) for i in taken}
        assert not missing or ROW - min(lengths) < 3, "there was room for a shortest sample"
        stood_in |= {int(samples.numbers[i]) for i in taken}
    assert stood_in == {0, 1, 2}


@either_way
def test_a_set_that_fits_is_used_whole(corpus, shuffled_whole):
    samples = join_tasks(corpus.make_tasks((1, 2)))
    rows = rows_of(samples, 4, np.random.default_rng(0), shuffled_whole)
    assert sorted(index for row in rows for index in row) == [0, 1, 2]


def test_micro_batches_depend_on_the_step_and_are_shared_by_rows(corpus):
    tasks = corpus.make_tasks()
    whole, again = draws(tasks), draws(tasks)
    parts = [draws(tasks, local_rows=(row,)) for row in range(3)]
    for step in (7, 0, 3):
        batch = whole.batch(step)
        assert corpus.equal(batch, again.batch(step))
        shares = [part.batch(step) for part in parts]
        assert corpus.equal(batch, Batch(*map(np.concatenate, zip(*shares, strict=True))))
    assert not corpus.equal(whole.batch(0), whole.batch(1))


def test_padding_has_the_shape_of_a_micro_batch_and_no_sample(corpus):
    part = draws(corpus.make_tasks(), rows_per_batch=4, local_rows=(2, 3))
    padding, batch = part.padding(), part.batch(0)
    for empty, leaf in zip(padding, batch, strict=True):
        assert (empty.shape, empty.dtype) == (leaf.shape, leaf.dtype) and not empty.any()


def test_draws_are_those_that_were_recorded(corpus):
    """Checksums of the draws of the first release, which shuffled every set whole."""
    few, stand_in = corpus.make_tasks(), [corpus.make_task(t, [3, 30]) for t in range(8)]
    many = corpus.make_tasks((3000, 900, 100), seed=1)
    recorded = [(few, 3, 20, 4023387413), (stand_in, 2, 20, 3481055048), (many, 8, 4, 4252922296)]
    for tasks, num_rows, steps, check in recorded:
        drawn = draws(tasks, num_rows)
        assert corpus.digest(drawn.batch(step) for step in range(steps)) == check


@given(st.integers(0, 40), st.integers(0, 30), st.integers(0, 5))
def test_a_random_order_holds_every_number_once(start, size, seed):
    order = random_order(start, start + size, np.random.default_rng(seed))
    assert sorted(order) == list(range(start, start + size))


def test_every_random_order_is_equally_likely():
    rng, rounds = np.random.default_rng(0), 24_000
    found = collections.Counter(tuple(random_order(5, 9, rng)) for _ in range(rounds))
    assert found.keys() == set(itertools.permutations(range(5, 9)))
    # 1,000 of each are expected, with a standard deviation of 31.
    assert max(abs(count - rounds / 24) for count in found.values()) < 150


class CountingRng(np.random.Generator):
    """A generator that counts the numbers drawn."""

    drawn = 0

    def permutation(self, x, axis=0):
        self.drawn += x if isinstance(x, int) else len(x)
        return super().permutation(x, axis)

    def integers(self, *args, **kwargs):
        self.drawn += 1
        return super().integers(*args, **kwargs)


class CountingLengths(np.ndarray):
    """An array that counts the lengths read."""

    read = 0

    def __getitem__(self, index):
        type(self).read += 1 if np.ndim(index) == 0 else len(index)
        return super().__getitem__(index)


def test_a_draw_costs_the_same_for_any_number_of_samples(corpus):
    costs = {}
    for size in (4_000, 200_000, 400_000):
        rng = np.random.default_rng(0)
        task = corpus.make_task(0, rng.integers(2, ROW, size // 2).tolist())
        samples = join_tasks([task, task])
        shortest = shortest_samples(samples)
        counting = CountingRng(np.random.PCG64(0))
        lengths = samples.lengths.view(CountingLengths)
        CountingLengths.read = 0
        queues = [
            type(queue)(lengths, queue.order, queue.shortest)
            for queue in task_queues(samples, counting, shortest)
        ]
        random_rows(lengths, queues, ROW, 8, counting)
        costs[size] = counting.drawn + CountingLengths.read
    assert costs[200_000] < costs[4_000] and costs[400_000] < 2 * costs[200_000] < 1_000
