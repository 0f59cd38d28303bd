import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mft_jax.data.loader import (
    draw_rows,
    join_tasks,
    packed_rows,
    train_loader,
    valid_batches,
    valid_loader,
)
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.types import Batch, MftError

ROW = 32


def make_task(task_id, lengths):
    """Token `1000 * (task + 1) + sample` throughout a sample, so a token tells whose it is."""
    tokens = np.repeat(1000 * (task_id + 1) + np.arange(len(lengths)), lengths).astype(np.int32)
    offsets = np.cumsum([0, *lengths])
    weights = np.ones(len(tokens), np.float32)
    weights[offsets[:-1]] = 0
    return TokenizedTask(tokens, weights, offsets)


def make_tasks(counts=(40, 13, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [make_task(t, rng.integers(2, ROW, n).tolist()) for t, n in enumerate(counts)]


def segments(batch):
    """Counter of (token of the sample, length) over the segments of a batch."""
    found = Counter()
    rows = zip(*(leaf.reshape(-1, leaf.shape[-1]) for leaf in batch), strict=True)
    for tokens, _, _, segment_ids, task_ids, _ in rows:
        for segment in set(segment_ids[segment_ids > 0].tolist()):
            [token], [task] = (
                set(tokens[segment_ids == segment]),
                set(task_ids[segment_ids == segment]),
            )
            assert token // 1000 - 1 == task
            found[int(token), int((segment_ids == segment).sum())] += 1
    return found


def all_samples(tasks):
    return Counter(
        (int(task.tokens[a]), int(b - a))
        for task in tasks
        for a, b in zip(task.offsets[:-1], task.offsets[1:], strict=True)
    )


def loader(tasks, **options):
    defaults = {"row_length": ROW, "rows_per_batch": 12, "num_batches": 6, "seed": 3}
    return train_loader(tasks, **{**defaults, **options})


def equal(a, b):
    return all(map(np.array_equal, a, b))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_every_sample_exactly_once_per_epoch_for_any_process_count(processes, epoch, counts):
    tasks = make_tasks(counts, seed=epoch)
    rows = packed_rows(tasks, ROW, seed=3).rows_per_epoch
    # As many steps of `processes` rows as make `processes` whole epochs.
    iterators = [
        loader(
            tasks, rows_per_batch=processes, num_batches=rows * (epoch + 1),
            process_index=p, process_count=processes,
        )
        for p in range(processes)
    ]  # fmt: skip
    stream = [batch for step in zip(*iterators, strict=True) for batch in step]
    last_epoch = stream[rows * epoch : rows * (epoch + 1)]
    assert sum(map(segments, last_epoch), Counter()) == all_samples(tasks)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_step_holds_the_same_rows_for_any_process_count(processes):
    tasks = make_tasks()
    whole = loader(tasks)
    parts = [loader(tasks, process_index=p, process_count=processes) for p in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert shares[0].tokens.shape == (1, 12 // processes, ROW)
        assert equal(batch, Batch(*(np.concatenate(x, axis=1) for x in zip(*shares, strict=True))))


def test_micro_batches_cut_a_step_without_changing_it():
    whole, cut = next(loader(make_tasks())), next(loader(make_tasks(), micro_batches=3))
    assert whole.tokens.shape == (1, 12, ROW) and cut.tokens.shape == (3, 4, ROW)
    assert equal(whole, Batch(*(leaf.reshape(1, 12, ROW) for leaf in cut)))


@pytest.mark.parametrize("step", [0, 1, 4, 6])
def test_resuming_at_a_step_equals_going_through(step):
    tasks = make_tasks()
    through = loader(tasks)
    for _ in range(step):
        next(through)
    state = json.loads(json.dumps(through.get_state()))
    assert state == {"next_index": step}
    resumed = loader(tasks)
    resumed.set_state(state)
    rest, expected = list(resumed), list(through)
    assert len(rest) == len(expected) == 6 - step
    assert all(map(equal, rest, expected))


def test_batches_depend_on_the_seed_and_differ_from_epoch_to_epoch():
    tasks = make_tasks()
    same, again, other = (next(loader(tasks, seed=seed)) for seed in (3, 3, 4))
    assert equal(same, again) and not equal(same, other)
    rows = packed_rows(tasks, ROW, seed=3)
    epochs = [[rows.row(g + e * rows.rows_per_epoch) for g in range(3)] for e in range(2)]
    assert not all(map(equal, *epochs))


def test_a_row_mixes_tasks():
    batch = next(loader(make_tasks((200, 200))))
    tasks_of_rows = [
        set(t[s > 0]) for t, s in zip(batch.task_ids[0], batch.segment_ids[0], strict=True)
    ]
    assert {0, 1} in tasks_of_rows


@pytest.mark.parametrize(
    "options",
    [
        {"rows_per_batch": 10, "micro_batches": 3},
        {"rows_per_batch": 4, "process_count": 3},
        {"rows_per_batch": 6, "micro_batches": 2, "process_count": 2},
        {"rows_per_batch": 0},
    ],
)
def test_rows_that_cannot_be_shared_out_evenly_are_an_error(options):
    with pytest.raises(MftError, match="cannot be shared out evenly"):
        loader(make_tasks(), **options)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("rows_per_batch", [6, 600])
def test_a_validation_pass_holds_every_sample_once_in_batches_of_one_shape(
    processes, rows_per_batch
):
    tasks = make_tasks()
    passes = [
        valid_batches(
            tasks, row_length=ROW, rows_per_batch=rows_per_batch,
            process_index=p, process_count=processes,
        )
        for p in range(processes)
    ]  # fmt: skip
    batches = [batch for one in passes for batch in one]
    assert {batch.tokens.shape for batch in batches} == {(rows_per_batch // processes, ROW)}
    assert len({len(one) for one in passes}) == 1
    assert sum(map(segments, batches), Counter()) == all_samples(tasks)
    assert sum(b.loss_weights.sum() for b in batches) == sum(t.loss_weights.sum() for t in tasks)


def valid(tasks, **options):
    defaults = {"row_length": ROW, "rows_per_batch": 3, "num_batches": 20, "seed": 0}
    return valid_loader(tasks, **{**defaults, **options})


def test_every_task_is_in_every_validation_micro_batch_if_there_are_rows_for_it():
    tasks = make_tasks()
    for batch in valid(tasks):
        assert batch.tokens.shape == (3, ROW)
        found = segments(batch)
        assert set(found.values()) == {1}, "a sample occurs twice"
        assert {token // 1000 - 1 for token, _ in found} == {0, 1, 2}


def test_with_few_rows_the_shortest_sample_of_a_task_stands_in():
    tasks = [make_task(t, [3, 30]) for t in range(8)]
    drawn = join_tasks(tasks)
    for seed in range(20):
        rows = draw_rows(drawn, ROW, 2, np.random.default_rng(seed))
        lengths = [sum(drawn.lengths[i] for i in row) for row in rows]
        assert max(lengths) <= ROW
        missing = set(range(8)) - {int(drawn.task_ids[i]) for row in rows for i in row}
        assert not missing or ROW - min(lengths) < 3, "there was room for a shortest sample"


def test_validation_micro_batches_are_shared_out_and_resumed_like_steps():
    tasks = make_tasks()
    whole = list(valid(tasks))
    shares = zip(*(valid(tasks, process_index=p, process_count=3) for p in range(3)), strict=True)
    for batch, parts in zip(whole, shares, strict=True):
        assert equal(batch, Batch(*map(np.concatenate, zip(*parts, strict=True))))
    resumed = valid(tasks)
    resumed.set_state({"next_index": 7})
    assert equal(next(resumed), whole[7])
    assert not equal(whole[0], whole[1])


def test_a_small_validation_set_is_used_whole():
    tasks = make_tasks((1, 1))
    batch = next(valid(tasks, rows_per_batch=4))
    assert segments(batch) == all_samples(tasks)
