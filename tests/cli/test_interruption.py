"""Real processes, real signals: what a run loses when it is stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mft_jax import testing

STEPS = 150


@pytest.fixture(scope="module")
def config_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    config = testing.toy_config(folder, steps=STEPS)
    config.loop.eval_every_steps = 1000
    config.loop.save_every_steps = 20
    path = folder / "config.py"
    path.write_text(
        "import json\nimport ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    return path


def start(config_file: Path, workdir: Path) -> subprocess.Popen:
    cache = Path(__file__).resolve().parents[2] / ".pytest_cache" / "jax"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    command = [sys.executable, "-m", "mft_jax", "train"]
    flags = [f"--config={config_file}", f"--workdir={workdir}"]
    return subprocess.Popen(
        command + flags,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_step(workdir: Path, step: int) -> None:
    """Until the record holds this step, as a person who looks at it would."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if steps_of(workdir)[-1:] >= [step]:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} within five minutes")


def steps_of(workdir: Path) -> list[int]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row["step"] for row in rows if row["kind"] == "train"]


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(f.name) for f in (workdir / "checkpoints").iterdir() if f.name.isdecimal())


def trained(workdir: Path) -> dict:
    manager = ocp.CheckpointManager(workdir / "checkpoints", item_names=("trainable",))
    tree = manager.restore(STEPS, args=ocp.args.Composite(trainable=ocp.args.StandardRestore()))
    manager.close()
    return tree["trainable"]


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    process = start(config_file, workdir)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return workdir


def assert_same_as(whole: Path, workdir: Path) -> None:
    assert steps_of(workdir) == list(range(STEPS))
    left, right = trained(whole), trained(workdir)
    for path, ab in left.items():
        np.testing.assert_array_equal(ab["a"], right[path]["a"])
        np.testing.assert_array_equal(ab["b"], right[path]["b"])


@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_exits_cleanly_and_the_same_command_resumes(
    config_file, whole, tmp_path, number
):
    workdir = tmp_path / "run"
    process = start(config_file, workdir)
    wait_for_step(workdir, 7)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    taken = len(steps_of(workdir))
    assert saved_steps(workdir)[-1] == taken < STEPS
    assert f"interrupted and saved at step {taken}" in output
    assert (workdir / "report.html").exists()
    output, _ = start(config_file, workdir).communicate(timeout=600)
    assert f"resumed at step {taken}" in output
    assert_same_as(whole, workdir)


@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
def test_a_killed_run_loses_at_most_the_steps_since_the_last_checkpoint(
    config_file, whole, tmp_path
):
    workdir = tmp_path / "run"
    process = start(config_file, workdir)
    wait_for_step(workdir, 45 + random.randrange(20))
    process.kill()
    process.communicate()
    saved = saved_steps(workdir)[-1]
    # Saving is asynchronous: the newest due checkpoint may not have been complete yet.
    assert saved >= 20 and saved >= len(steps_of(workdir)) - 2 * 20
    output, _ = start(config_file, workdir).communicate(timeout=600)
    assert f"resumed at step {saved}" in output
    assert_same_as(whole, workdir)
