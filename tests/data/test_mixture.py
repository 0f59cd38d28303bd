"""Shares and samples of the tasks in an epoch, and their average number in a batch."""

import numpy as np
import pytest

from mft_jax.data.loader import train_loader
from mft_jax.data.mixture import Mixture, expected_counts, largest_remainders, make_mixture
from mft_jax.data.packed_rows import packed_rows
from mft_jax.data.rows import BatchRows
from mft_jax.data.settings import DataConfig
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.types import MftError, TaskTable

TABLE = TaskTable(("big", "small", "rare"))
SIZES = [60, 30, 10]


def tokenized(size: int, seed: int) -> TokenizedTask:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weights = (rng.random(offsets[-1]) < 0.6).astype(np.float32)
    # Every token names its task and its sample, so that rows can be read back.
    tokens = np.repeat(1000 * seed + np.arange(size), lengths).astype(np.int32)
    return TokenizedTask(tokens=tokens, loss_weights=weights, offsets=offsets)


DATA = [tokenized(size, seed) for seed, size in enumerate(SIZES)]


def mixture(sampling, temperature=2.0, **rates) -> Mixture:
    settings = DataConfig(sampling=sampling, temperature=temperature, rates=rates)
    return make_mixture(SIZES, TABLE, settings)


def test_proportional_takes_every_sample_once():
    assert mixture("proportional").is_proportional


def test_temperature_and_rates_give_their_shares_of_as_many_samples():
    roots = np.sqrt(SIZES)
    np.testing.assert_allclose(mixture("temperature").counts, 100 * roots / roots.sum(), atol=1)
    np.testing.assert_array_equal(mixture("temperature", 1.0).counts, SIZES)
    made = mixture("rates", big=2, small=1, rare=1)
    np.testing.assert_array_equal(made.counts, [50, 25, 25])


def test_largest_remainders_add_up_and_miss_their_share_by_less_than_one():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares = rng.dirichlet(np.ones(7))
        counts = largest_remainders(shares, 101)
        assert counts.sum() == 101 and np.all(np.abs(counts - 101 * shares) < 1)


def test_epochs_continue_and_repeat_no_sample_before_all_were_drawn():
    made = mixture("rates", big=1, small=1, rare=2)
    for task, (size, count) in enumerate(zip(made.sizes, made.counts, strict=True)):
        drawn = np.concatenate([made.epoch_samples(task, epoch, 5) for epoch in range(12)])
        assert len(drawn) == 12 * count
        for start in range(0, len(drawn) - size, size):
            assert set(drawn[start : start + size]) == set(range(size))


def test_an_epoch_can_be_read_directly():
    made = mixture("temperature")
    for task in range(3):
        np.testing.assert_array_equal(
            made.epoch_samples(task, 7, 1), made.epoch_samples(task, 7, 1)
        )
        assert not np.array_equal(made.epoch_samples(task, 7, 1), made.epoch_samples(task, 7, 2))


def batches(made, num_batches, local_rows=None):
    rows = packed_rows(DATA, 32, 3, made)
    return list(train_loader(rows, BatchRows(4, 1, local_rows), num_batches))


def test_batches_depend_only_on_the_step_for_any_process_count():
    made = mixture("rates", big=1, small=1, rare=2)
    whole, loader = (
        batches(made, 40),
        train_loader(packed_rows(DATA, 32, 3, made), BatchRows(4), 40),
    )
    loader.restore({"next_index": 33})
    for left, right in zip(whole[33:], loader, strict=True):
        np.testing.assert_array_equal(left.tokens, right.tokens)
    halves = [batches(made, 40, local_rows) for local_rows in ((0, 1), (2, 3))]
    for step in (0, 17, 39):
        joined = np.concatenate([half[step].tokens for half in halves], axis=1)
        np.testing.assert_array_equal(joined, whole[step].tokens)


@pytest.mark.parametrize("sampling", ["proportional", "temperature", "rates"])
def test_expected_counts_are_the_mean_of_what_the_loader_delivers(sampling):
    rates = dict(big=1, small=2, rare=2) if sampling == "rates" else {}
    made = mixture(sampling, **rates)
    rows = packed_rows(DATA, 32, 3, made).rows_per_epoch
    expected = expected_counts(DATA, made, rows, 4)
    seen = batches(made, 300)
    tokens, samples = np.zeros(3), np.zeros(3)
    for batch in seen:
        for task in range(3):
            tokens[task] += batch.loss_weights[batch.task_ids == task].sum()
        for row in range(4):
            for segment in range(1, batch.segment_ids[0, row].max() + 1):
                mine = batch.segment_ids[0, row] == segment
                if batch.loss_weights[0, row][mine].any():
                    samples[batch.task_ids[0, row][mine][0]] += 1
    np.testing.assert_allclose(tokens / len(seen), expected["token"], rtol=0.03)
    np.testing.assert_allclose(samples / len(seen), expected["sample"], rtol=0.03)


def test_a_rate_that_leaves_a_task_without_a_sample_is_refused():
    with pytest.raises(MftError, match="leaves 'rare' without a sample in an epoch"):
        mixture("rates", big=1, small=1, rare=1e-6)
