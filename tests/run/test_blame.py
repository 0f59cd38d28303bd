"""A validation sample that is not finite is blamed on its own task, not on those of its row."""

from types import SimpleNamespace

import numpy as np
import pytest

from mft_jax.run import parts
from mft_jax.run.blame import without_row_mates
from mft_jax.run.recorder import check_valid
from mft_jax.types import MftError, TaskSums, TaskTable

TASKS = TaskTable(("a", "b", "c"))
OWN = np.array([[1.0, 2.0, 3.0], [4.0, np.inf, 6.0]])  # the nll by itself, of two batches


def row_mates(number: int) -> TaskSums:
    """The sums of a batch: one sample that is not finite makes all tasks so."""
    whole = OWN[number] if np.isfinite(OWN[number]).all() else np.full(3, np.nan)
    return TaskSums(whole.astype(np.float32), np.ones(3, np.float32))


def test_only_suspects_are_computed_by_themselves():
    asked = []

    def own_nll(task):
        asked.append(task)
        return OWN[1, task]

    sums = TaskSums(np.array([np.nan, np.nan, 6.0]), np.ones(3))
    np.testing.assert_array_equal(without_row_mates(sums, own_nll).sum, [4.0, np.inf, 6.0])
    assert asked == [0, 1]


def test_a_full_pass_blames_the_task_whose_own_sample_is_not_finite(monkeypatch):
    monkeypatch.setattr(parts, "place_batch", lambda batch, mesh: batch)
    functions = SimpleNamespace(
        evaluate=lambda trainable, frozen, number: row_mates(number),
        single_task_nll=lambda trainable, frozen, number, task: OWN[number, task],
    )
    data = SimpleNamespace(tasks=SimpleNamespace(table=TASKS), valid_pass=[0, 1])
    sums = parts.full_pass(functions, {}, {}, data, None)
    np.testing.assert_array_equal(sums.sum, [5.0, np.inf, 9.0])
    np.testing.assert_array_equal(sums.count, 2.0)
    with pytest.raises(MftError, match="validation loss of task 'b' is not finite"):
        check_valid(4, sums, TASKS)
