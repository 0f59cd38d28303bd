from mft_jax.data.loader import train_loader
from mft_jax.data.packed_rows import packed_rows
from mft_jax.data.rows import BatchRows


def test_rows_depend_on_the_seed_and_differ_from_epoch_to_epoch(corpus):
    tasks = corpus.make_tasks()
    same, again, other = (packed_rows(tasks, 32, seed) for seed in (3, 3, 4))
    assert corpus.equal(same.row(0), again.row(0)) and not corpus.equal(same.row(0), other.row(0))
    epochs = [[same.row(g + e * same.rows_per_epoch) for g in range(3)] for e in range(2)]
    assert not all(map(corpus.equal, *epochs))


def test_rows_with_a_task_are_those_of_the_first_epoch_that_hold_it(corpus):
    tasks = corpus.make_tasks()
    rows = packed_rows(tasks, 32, seed=3)
    held = [set(batch.task_ids[batch.segment_ids > 0].tolist()) for batch in
            map(rows.row, range(rows.rows_per_epoch))]  # fmt: skip
    expected = [sum(task in tasks_of_row for tasks_of_row in held) for task in range(3)]
    assert rows.rows_with_task.tolist() == expected


def test_rows_can_be_asked_for_in_any_order(corpus):
    tasks = corpus.make_tasks()
    late, early = packed_rows(tasks, 32, seed=3), packed_rows(tasks, 32, seed=3)
    assert corpus.equal(late.row(500), [early.row(g) for g in range(501)][-1])
    assert corpus.equal(late.row(0), early.row(0))


def test_a_row_mixes_tasks(corpus):
    rows = packed_rows(corpus.make_tasks((200, 200)), 32, seed=3)
    batch = next(train_loader(rows, BatchRows(12), 1))
    tasks_of_rows = [
        set(t[s > 0]) for t, s in zip(batch.task_ids[0], batch.segment_ids[0], strict=True)
    ]
    assert {0, 1} in tasks_of_rows
