"""The first process writes, all make the same calls; a run is the same on any number of them."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from mft_jax import testing
from mft_jax.run import processes
from mft_jax.types import MftError

PROCESS = """
import json, os, sys
index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import jax
if port != "0":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
import mft_jax
workdir = os.path.join(folder, "run" if port != "0" else "single")
try:
    run = mft_jax.train(json.load(open(os.path.join(folder, "config.json"))), workdir)
    print("ended:", run.reason)
except mft_jax.MftError as error:
    print("refused:", error)
"""


def start(folder, index: int, port: int, devices: int) -> subprocess.Popen:
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(index), str(port), str(folder)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def two_processes(folder) -> list[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [start(folder, index, port, devices=1) for index in range(2)]
    try:
        return [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:  # where one of them hangs
            process.kill()


def losses(workdir) -> list[float]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    config = testing.toy_config(tmp_path, steps=3)
    config.loop.eval_every_steps = config.loop.save_every_steps = 2
    (tmp_path / "config.json").write_text(config.to_json())
    first, second = two_processes(tmp_path)
    assert "ended: finished" in first and "ended: finished" in second, first + second
    assert "validation loss per task" in first and "validation" not in second
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    single, _ = start(tmp_path, 0, 0, devices=2).communicate(timeout=300)
    assert "ended: finished" in single, single
    expected = losses(tmp_path / "single")
    assert len(expected) == 3
    np.testing.assert_allclose(losses(tmp_path / "run"), expected, rtol=1e-5)


@pytest.mark.slow
def test_all_processes_end_where_the_first_cannot_take_the_folder(tmp_path):
    config = testing.toy_config(tmp_path, steps=3)
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")  # a folder that is something else
    first, second = two_processes(tmp_path)
    assert "is no run's folder" in first, first
    assert "refused: the first process could not use" in second, second


def test_an_error_of_the_first_process_is_raised_as_it_is():
    with pytest.raises(KeyError):
        processes.on_first("look", lambda: {}["absent"])
    assert processes.on_first("count", lambda: 3) == 3


def test_the_others_learn_that_the_first_process_failed(monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "_all_done", lambda done: False)
    with pytest.raises(MftError, match="the first process could not lock"):
        processes.on_first("lock", lambda: None)


def test_processes_that_were_started_with_something_else_are_named(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 3)
    gathered = np.asarray([5, 5, 7], np.uint32)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda _: gathered)
    with pytest.raises(MftError, match=r"the data differs .*\[2\] of 3"):
        processes.check_equal("the data", 5)
