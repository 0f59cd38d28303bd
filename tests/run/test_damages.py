"""Every file of a checkpoint deleted, cut, emptied, and with a flipped bit at three places: the run
continues from what is right, and nothing is lost."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.run.checkpoints import Checkpoints, EvalProgress, placed_shapes
from mft_jax.run.saved import note_newest
from mft_jax.run.start import find_start
from mft_jax.train_state import TrainState

OLDER, NEWEST = 5, 10
BALANCER = {"name": "uniform", "version": 1, "tasks": ["add"]}

pytestmark = pytest.mark.slow


def state_of(step: int) -> TrainState:
    keys = iter(jax.random.split(jax.random.key(step), 3))
    trainable = {"q/kernel": {name: jax.random.normal(next(keys), (8, 64)) for name in "ab"}}
    opt_state = optax.adam(1e-3).init(trainable)
    losses = {"losses": jax.random.normal(next(keys), (7,))}
    return TrainState(jnp.asarray(step, jnp.int32), trainable, opt_state, losses)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole")
    checkpoints = Checkpoints(workdir)
    for step in (OLDER, NEWEST):
        progress = EvalProgress({"add": 2.0}, best_step=OLDER, balancer=BALANCER)
        checkpoints.save(step, state_of(step), {"next_index": step}, progress)
    checkpoints.close()
    note_newest(workdir, NEWEST)
    (workdir / "metrics.jsonl").write_text('{"kind": "run"}\n')
    return workdir


def flipped(random_: random.Random) -> Callable[[Path], object]:
    def flip(file: Path) -> None:
        written = bytearray(file.read_bytes())
        written[random_.randrange(len(written))] ^= 1 << random_.randrange(8)
        file.write_bytes(written)

    return flip


def damages(seed: int) -> dict[str, Callable[[Path], object]]:
    return {
        "deleted": Path.unlink,
        "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "emptied": lambda file: file.write_bytes(b""),
        **{f"flip {n}": flipped(random.Random(f"{seed} {n}")) for n in range(3)},
    }


def test_a_run_continues_from_what_is_right_after_any_damage(whole, tmp_path):
    newest = whole / "checkpoints" / str(NEWEST)
    names = [f.relative_to(newest) for f in sorted(newest.rglob("*")) if f.is_file()]
    tried, passed_over = 0, 0
    for seed, name in enumerate(names):
        for how, damage in damages(seed).items():
            workdir = shutil.copytree(whole, tmp_path / f"{seed} {how}")
            file = workdir / "checkpoints" / str(NEWEST) / name
            damage(file)
            hurt = file.read_bytes() if file.exists() else None
            start = find_start(workdir, "")
            start.make_way()
            assert_restored(workdir, start.step)
            if start.step == OLDER:  # what is damaged is kept as it is
                (kept,) = (workdir / "set_aside").glob("*/*_checkpoint_10")
                file, passed_over = kept / name, passed_over + 1
                assert start.notes and kept.name in start.notes[0]
            assert (file.read_bytes() if file.exists() else None) == hurt
            tried += 1
            shutil.rmtree(workdir)
    assert tried == 6 * len(names) >= 150
    assert passed_over >= tried - 12  # the two notes of orbax carry nothing of a run


def assert_restored(workdir: Path, step: int | None) -> None:
    assert step in (OLDER, NEWEST)
    checkpoints = Checkpoints(workdir, read_only=True)
    like = placed_shapes(state_of(0), jax.tree.map(lambda leaf: leaf.sharding, state_of(0)))
    state, cursor, progress = checkpoints.restore(step, like, BALANCER)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    assert cursor == {"next_index": step} and progress.best_step == OLDER
