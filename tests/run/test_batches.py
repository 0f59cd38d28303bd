"""Batches of a run: when validation is drawn and placed, and the data's fingerprint."""

import io
import json
import zlib

import jax
import numpy as np
import pytest
from rich.console import Console

from mft_jax import testing
from mft_jax.balancers.base import Balancer
from mft_jax.config import resolve
from mft_jax.data.packed_rows import join_tasks
from mft_jax.data.rows import BatchRows
from mft_jax.data.tasks import TokenizedData
from mft_jax.data.tokenization import TaskStats, TokenizedTask
from mft_jax.data.validation import ValidationDraws
from mft_jax.run import batches, session
from mft_jax.run.batches import BalancerBatches, reads_validation
from mft_jax.run.display import Display
from mft_jax.run.folder import fingerprint
from mft_jax.sharding import MeshConfig, make_mesh
from mft_jax.types import Batch, TaskTable


def balancer(*needs, every_steps=1):
    def never(*_):
        raise AssertionError("no step is taken")

    return Balancer(never, never, never, frozenset(needs), every_steps)


@pytest.mark.parametrize(
    ("needs", "read"),
    [
        ((), []),
        (("train_losses", "task_gradients", "post_step_train_losses"), []),
        (("valid_losses",), [0, 3, 6]),
        (("valid_gradients", "task_gradients"), [0, 1, 2, 3, 4, 5, 6]),
        (("post_step_valid_losses",), [0, 3, 6]),
    ],
)
def test_a_step_reads_validation_where_the_balancer_looks(needs, read):
    looking = balancer(*needs, every_steps=3)
    assert [step for step in range(7) if reads_validation(looking, step)] == read


@pytest.fixture
def counted(monkeypatch):
    """Steps for which a validation micro-batch was drawn, and the shapes that were placed."""
    drawn, placed = [], []
    draw, place = ValidationDraws.batch, batches.place_batch

    def counting_draw(self, step):
        drawn.append(step)
        return draw(self, step)

    def counting_place(batch, mesh):
        placed.append(batch.tokens.shape)
        return place(batch, mesh)

    monkeypatch.setattr(ValidationDraws, "batch", counting_draw)
    monkeypatch.setattr(batches, "place_batch", counting_place)
    return drawn, placed


def test_micro_batches_are_drawn_and_placed_for_the_steps_that_read_them(counted):
    drawn, placed = counted
    draws = small_draws()
    of_balancer = BalancerBatches(
        draws, balancer("valid_losses", every_steps=3), make_mesh(MeshConfig())
    )
    given = [of_balancer.of_step(step) for step in range(7)]
    assert drawn == [0, 3, 6] and len(placed) == 3 + 1
    assert all(batch is given[1] for step, batch in enumerate(given) if step % 3)
    assert not any(np.asarray(leaf).any() for leaf in given[1])
    assert {(leaf.shape, leaf.dtype, leaf.sharding) for batch in given for leaf in batch[:5]} == {
        (leaf.shape, leaf.dtype, leaf.sharding) for leaf in given[0][:5]
    }
    for step in (0, 3, 6):
        for leaf, expected in zip(given[step], draws.batch(step), strict=True):
            np.testing.assert_array_equal(np.asarray(leaf), expected)


def small_draws(num_rows=8):
    lengths = np.full(20, 3)
    task = TokenizedTask(
        np.arange(60, dtype=np.int32), np.ones(60, np.float32), np.cumsum([0, *lengths])
    )
    return ValidationDraws(join_tasks([task]), row_length=8, batch_rows=BatchRows(num_rows), seed=0)


def test_a_run_of_a_balancer_that_never_looks_draws_nothing(tmp_path, counted, monkeypatch):
    first = jax.devices()[:1]  # programs for one device compile twice as fast
    monkeypatch.setattr(jax, "devices", lambda *backend: first)
    config = testing.toy_config(tmp_path, steps=4)
    config.balancer.name = "uniform"
    session.train(resolve(config), tmp_path / "run", Display(Console(file=io.StringIO())))
    drawn, placed = counted
    train, valid = (1, 8, 64), (8, 64)
    assert drawn == []
    assert placed.count(train) == 4 and placed.count(valid) == 1, "the padding, once"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("train") == 4


def test_placed_rows_are_those_of_the_process(tmp_path):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = np.arange(2 * 4 * 3, dtype=np.int32).reshape(2, 4, 3)
    placed = batches.place_batch(Batch(*[rows] * 6), mesh)
    np.testing.assert_array_equal(np.asarray(placed.tokens), rows)
    shards = {tuple(shard.data[0, :, 0].tolist()) for shard in placed.tokens.addressable_shards}
    assert shards == {(0,), (3,), (6,), (9,)} and len(jax.devices()) == 8


def make_tokenized():
    stats = TaskStats(1, 1, 0, 0, 0, 0, 1, 1)
    arrays = [np.arange(n, dtype=np.int32) for n in (60, 10)]
    train, valid = (
        TokenizedTask(tokens, np.ones(len(tokens), np.float32), np.array([0, 4, len(tokens)]))
        for tokens in arrays
    )
    return TokenizedData(TaskTable(("a",)), (train,), (valid,), (stats,), (stats,))


def test_the_fingerprint_of_data_is_the_checksum_of_its_bytes_and_copies_none(monkeypatch):
    data = make_tokenized()
    arrays = [array for task in (*data.train, *data.valid) for array in (task.tokens, task.offsets)]
    bytes_of_all = b"".join(array.tobytes() for array in arrays)
    seen = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda read, check: seen.append(read) or crc32(read, check))
    assert fingerprint(data) == {"a": crc32(bytes_of_all)}
    assert all(isinstance(read, memoryview) for read in seen)
    assert np.shares_memory(np.asarray(seen[0]), data.train[0].tokens)
