import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mft_jax.data.loader import FullPass, train_loader
from mft_jax.data.mixture import make_mixture
from mft_jax.data.packed_rows import packed_rows
from mft_jax.data.rows import BatchRows
from mft_jax.data.settings import DataConfig
from mft_jax.types import Batch, MftError, TaskTable

ROW = 32


def loader(tasks, rows_per_batch=12, num_batches=6, seed=3, mixture=None, **batch_rows):
    rows = packed_rows(tasks, ROW, seed, mixture)
    return train_loader(rows, BatchRows(rows_per_batch, **batch_rows), num_batches)


def shares(rows, processes):
    """The places in a micro-batch of the rows of each of `processes` equal processes."""
    per_process = rows // processes
    return [tuple(range(p * per_process, (p + 1) * per_process)) for p in range(processes)]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_every_sample_exactly_once_per_epoch_for_any_process_count(
    corpus, processes, epoch, counts
):
    tasks = corpus.make_tasks(counts, seed=epoch)
    rows = packed_rows(tasks, ROW, seed=3).rows_per_epoch
    # As many steps of `processes` rows as make `processes` whole epochs.
    iterators = [
        loader(tasks, processes, rows * (epoch + 1), local_rows=local_rows)
        for local_rows in shares(processes, processes)
    ]
    stream = [batch for step in zip(*iterators, strict=True) for batch in step]
    last_epoch = stream[rows * epoch : rows * (epoch + 1)]
    assert sum(map(corpus.segments, last_epoch), Counter()) == corpus.all_samples(tasks)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_step_holds_the_same_rows_for_any_process_count(corpus, processes):
    tasks = corpus.make_tasks()
    whole = loader(tasks)
    parts = [loader(tasks, local_rows=local_rows) for local_rows in shares(12, processes)]
    for batch, *local in zip(whole, *parts, strict=True):
        assert local[0].tokens.shape == (1, 12 // processes, ROW)
        joined = Batch(*(np.concatenate(x, axis=1) for x in zip(*local, strict=True)))
        assert corpus.equal(batch, joined)


def test_micro_batches_cut_a_step_without_changing_it(corpus):
    tasks = corpus.make_tasks()
    whole, cut = next(loader(tasks)), next(loader(tasks, micro_batches=3))
    assert whole.tokens.shape == (1, 12, ROW) and cut.tokens.shape == (3, 4, ROW)
    assert corpus.equal(whole, Batch(*(leaf.reshape(1, 12, ROW) for leaf in cut)))


@pytest.mark.parametrize("step", [0, 1, 4, 6])
def test_resuming_at_a_step_equals_reading_up_to_it(corpus, step):
    tasks = corpus.make_tasks()
    through = loader(tasks)
    for _ in range(step):
        next(through)
    resumed = loader(tasks)
    resumed.restore(json.loads(json.dumps(through.state())))
    rest, expected = list(resumed), list(through)
    assert len(rest) == len(expected) == 6 - step
    assert all(map(corpus.equal, rest, expected))


def test_a_cursor_of_the_first_release_is_the_next_step(corpus):
    tasks = corpus.make_tasks()
    resumed = loader(tasks)
    resumed.restore({"next_index": 4})
    assert corpus.equal(next(resumed), list(loader(tasks))[4])


@pytest.mark.parametrize("cursor", [{}, {"next": 3}, None, 3, {"next_index": "late"}])
def test_a_cursor_that_no_loader_wrote_is_refused(corpus, cursor):
    with pytest.raises(MftError, match="the data cursor .* is not one that this loader writes"):
        loader(corpus.make_tasks()).restore(cursor)


def test_batches_are_those_that_were_recorded(corpus):
    """Checksums of an earlier version, in which the loader built its rows itself."""
    tasks = corpus.make_tasks()
    assert corpus.digest(loader(tasks)) == 964266485
    assert corpus.digest(loader(tasks, num_batches=20, micro_batches=3)) == 3821998492
    table = TaskTable(("a", "b", "c"))
    mixture = make_mixture([40, 13, 3], table, DataConfig(sampling="temperature"))
    assert corpus.digest(loader(tasks, num_batches=20, mixture=mixture)) == 3350463630
    assert corpus.digest(FullPass(packed_rows(tasks, ROW, seed=0), BatchRows(6))) == 2704168482


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("rows_per_batch", [6, 600])
def test_a_full_pass_holds_every_sample_once_in_batches_of_one_shape(
    corpus, processes, rows_per_batch
):
    tasks = corpus.make_tasks()
    rows = packed_rows(tasks, ROW, seed=0)
    passes = [
        FullPass(rows, BatchRows(rows_per_batch, 1, local_rows))
        for local_rows in shares(rows_per_batch, processes)
    ]
    batches = [batch for one in passes for batch in one]
    assert {batch.tokens.shape for batch in batches} == {(rows_per_batch // processes, ROW)}
    assert len({len(list(one)) for one in passes} | {len(one) for one in passes}) == 1
    assert sum(map(corpus.segments, batches), Counter()) == corpus.all_samples(tasks)
    assert sum(b.loss_weights.sum() for b in batches) == sum(t.loss_weights.sum() for t in tasks)


def test_a_full_pass_is_iterated_again_and_keeps_no_batch(corpus, monkeypatch):
    rows, asked = packed_rows(corpus.make_tasks(), ROW, seed=0), []
    numbered = type(rows)(rows.rows_per_epoch, lambda g: asked.append(g) or rows.row(g))
    full_pass = FullPass(numbered, BatchRows(6))
    assert len(full_pass) > 2 and not asked
    next(iter(full_pass))
    assert asked == list(range(6)), "only the rows of the first batch"
    first, second = list(full_pass), list(full_pass)
    assert all(map(corpus.equal, first, second))
    assert not np.shares_memory(first[0].tokens, second[0].tokens)
