"""The last words of a run: verdict, time, memory, and what to do next."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mft_jax.record.columns import RunEnd
from mft_jax.record.reading import read_record
from mft_jax.run.ending import ending, what_is_handed_out

FILE = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"


@pytest.fixture
def record():
    end = RunEnd(6, "finished", 130.0, 1.6e9, 7.5e9)
    return dataclasses.replace(read_record(FILE), end=end)


def flat(record):
    """The record of a run that has changed nothing."""
    task = {**record.valid.task, "ratio": np.ones_like(record.valid.task["ratio"])}
    return dataclasses.replace(record, valid=dataclasses.replace(record.valid, task=task))


def test_a_run_ends_with_its_verdict_its_cost_and_the_next_command(record, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = ending(record, tmp_path / "runs" / "a b", ["report      r.html"], 6, 200.0)
    assert text.splitlines() == [
        "verdict     improved: validation loss 6.2% below the base, on average over tasks",
        "time        3 min 20 s since the start; 2 min 10 s of steps and validation",
        "memory      host 1.6 GB, device 7.5 GB at most",
        "report      r.html",
        "next        mft export --workdir='runs/a b' --format=merged \\",
        "              --output='runs/a b/merged'",
    ]


def test_an_adapter_that_is_no_better_is_named_as_such(record, tmp_path):
    text = ending(flat(record), tmp_path, [], 6, 1.0)
    assert text.startswith("verdict     no better than the base: validation loss as that of the")
    assert "note        the adapter is no improvement: step 6 is no better" in text
    assert "advice      look at the data" in text and "mft export" not in text


def test_a_host_alone_has_no_device_memory_and_an_interrupted_run_no_next_step(record, tmp_path):
    end = RunEnd(6, "interrupted", 1.0, 1.6e9, float("nan"))
    text = ending(dataclasses.replace(record, end=end), tmp_path, [], None, 1.0)
    assert "memory      host 1.6 GB at most" in text and "next" not in text
    assert text.startswith("verdict     so far improved")


def test_an_export_without_a_record_says_that_nothing_is_known(tmp_path):
    assert "is unknown" in what_is_handed_out(tmp_path, 3)
    (tmp_path / "metrics.jsonl").write_bytes(FILE.read_bytes())
    assert what_is_handed_out(tmp_path, 6) is None
