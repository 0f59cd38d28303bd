"""A checkpoint is restored whole or not at all."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.run.checkpoints import Checkpoints, EvalProgress, placed_shapes
from mft_jax.train_state import TrainState
from mft_jax.types import MftError

STEP, CURSOR = 5, {"next_index": 5}
BALANCER = {"name": "coba", "version": 1, "tasks": ["add", "echo"]}
PROGRESS = EvalProgress({"add": 2.0, "echo": None}, 0.9, 4, 1, 2.5, BALANCER)


def state_of(seed: int) -> TrainState:
    """One adapter, its moments, and a balancer that remembers two losses."""
    keys = iter(jax.random.split(jax.random.key(seed), 5))
    trainable = {
        "layers/attention/q/kernel": {
            "a": jax.random.normal(next(keys), (2, 64, 8)),
            "b": jax.random.normal(next(keys), (2, 8, 64)),
        }
    }
    gradients = jax.tree.map(lambda x: x + jax.random.normal(next(keys), x.shape), trainable)
    adam = optax.adam(1e-3)
    _, opt_state = adam.update(gradients, adam.init(trainable))
    balancer = {"losses": jax.random.normal(next(keys), (2, 7))}
    return TrainState(jnp.asarray(STEP, jnp.int32), trainable, opt_state, balancer)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("written")
    checkpoints = Checkpoints(workdir)
    checkpoints.save(STEP, state_of(0), CURSOR, PROGRESS)
    checkpoints.close()
    return workdir


@pytest.fixture
def saved(written, tmp_path) -> Path:
    """A copy: what this process wrote under a name it may read again from its own memory."""
    return shutil.copytree(written, tmp_path / "run")


def restore(workdir: Path, like: TrainState, balancer=BALANCER):
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        shapes = placed_shapes(like, jax.tree.map(lambda leaf: leaf.sharding, like))
        return checkpoints.restore(STEP, shapes, balancer)
    finally:
        checkpoints.close()


def test_what_was_saved_is_restored_bit_for_bit(saved):
    # `like` gives shapes, dtypes and shardings; its values are of another state.
    state, cursor, progress = restore(saved, state_of(1))
    jax.tree.map(np.testing.assert_array_equal, state, state_of(0))
    assert (cursor, progress) == (CURSOR, PROGRESS)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


# Orbax leaves the other reads of a failed restore to a closed event loop.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize("item", ["trainable", "training", "cursor", "progress"])
def test_a_checkpoint_cut_short_is_fatal_and_named(saved, item, damage):
    folder = saved / "checkpoints" / str(STEP) / item
    files = [f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(("_", "commit"))]
    size = max(file.stat().st_size for file in files)
    for file in files:  # the data may lie there twice, by process and merged
        if file.stat().st_size == size:
            damage(file)
    with pytest.raises(MftError, match=rf"checkpoints/{STEP} cannot be read"):
        restore(saved, state_of(0))


@pytest.mark.parametrize(
    "other", [{"name": "famo"}, {"version": 99}, {"tasks": ["echo", "add"]}], ids=str
)
def test_the_state_of_another_balancer_version_or_order_of_tasks_is_refused(saved, other):
    with pytest.raises(MftError, match="holds the balancer state"):
        restore(saved, state_of(0), BALANCER | other)
