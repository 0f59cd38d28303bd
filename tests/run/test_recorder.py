"""metrics.jsonl: absent is null, a resumed run writes nothing twice, nothing is not-finite."""

import errno
import json

import numpy as np
import pytest

from mft_jax.run.recorder import (
    MetricsLog,
    Recorder,
    check_valid,
    mean_by_name,
    mean_ratio,
    train_record,
)
from mft_jax.train_step import StepMetrics
from mft_jax.types import MftError, TaskSums, TaskTable

TASKS = TaskTable(("a", "b"))


def step_metrics(total=(2.0, 0.0), count=(4.0, 0.0), loss=0.5, grad_norm=1.0) -> StepMetrics:
    pair = [np.asarray(values, np.float32) for values in (total, count)]
    weight = np.asarray([0.5, 0.5], np.float32)
    tokens = np.asarray([6.0, 0.0], np.float32)
    scalars = [np.float32(value) for value in (loss, grad_norm, 1e-3)]
    return StepMetrics(*scalars, TaskSums(*pair), weight, tokens, {})


def test_an_absent_task_has_null_not_zero():
    record = train_record(3, step_metrics(), TASKS, positions=8, seconds=2.0)
    assert record["train_loss"] == {"a": 0.5, "b": None}
    assert record["padding"] == pytest.approx(0.25)
    assert record["tokens_per_sec"] == pytest.approx(3.0)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (step_metrics(total=(2.0, np.nan), loss=np.nan), "step 3: the loss is not finite.*'b'"),
        (step_metrics(grad_norm=np.inf), "step 3: the gradient is not finite.*no single task"),
    ],
)
def test_a_non_finite_step_is_an_error_that_names_step_and_task(metrics, message):
    with pytest.raises(MftError, match=message):
        train_record(3, metrics, TASKS, positions=8, seconds=1.0)


def test_padding_is_measured_on_the_positions_of_each_step(tmp_path):
    shown = []
    log = MetricsLog(tmp_path)
    log.open(None)
    recorder = Recorder(log, shown.append, TASKS)
    for step, positions in enumerate((8, 24)):  # six tokens each
        recorder.push(step, step_metrics(), positions)
    recorder.flush()
    log.close()
    assert [row["padding"] for row in shown] == [0.25, 0.75]


def test_a_task_missing_from_validation_is_an_error():
    sums = TaskSums(np.asarray([1.0, 0.0]), np.asarray([2.0, 0.0]))
    with pytest.raises(MftError, match="task 'b' has no trained token in its validation set"):
        check_valid(0, sums, TASKS)
    with pytest.raises(MftError, match="step 7: the validation loss of task 'a'"):
        check_valid(7, TaskSums(np.asarray([np.nan, 1.0]), np.asarray([2.0, 1.0])), TASKS)


def test_the_mean_ratio_is_over_tasks():
    sums = TaskSums(np.asarray([2.0, 9.0]), np.asarray([4.0, 3.0]))
    losses = mean_by_name(sums, TASKS)
    assert losses == {"a": 0.5, "b": 3.0}
    assert mean_ratio(losses, {"a": 1.0, "b": 2.0}) == pytest.approx((0.5 + 1.5) / 2)


def test_a_resumed_record_keeps_only_what_will_not_be_repeated(tmp_path):
    log = MetricsLog(tmp_path)
    log.open(None)
    rows = [{"kind": "run"}, {"kind": "valid", "step": 0}]
    rows += [{"kind": "train", "step": step} for step in range(8)]
    rows += [{"kind": "valid", "step": 5}, {"kind": "valid", "step": 8}, {"kind": "end", "step": 8}]
    for row in rows:
        log.write(row)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    resumed = MetricsLog(tmp_path)
    resumed.open(5)
    resumed.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    kept = [(row["kind"], row.get("step")) for row in map(json.loads, lines)]
    steps = [("train", step) for step in range(5)]
    assert kept == [("run", None), ("valid", 0), *steps, ("valid", 5)]


def test_a_new_run_starts_a_new_record(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "run"}\n')
    log = MetricsLog(tmp_path)
    log.open(None)
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("text", [None, "{\n", "3\n"])
def test_a_record_that_is_lost_or_damaged_is_named_on_resumption(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(MftError, match=r"metrics\.jsonl"):
        MetricsLog(tmp_path).open(5)


def test_a_full_disk_names_the_record_and_the_space(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path)
    log.open(None)

    def full(line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log.file, "write", full)
    with pytest.raises(MftError, match=r"metrics\.jsonl could not be written: the disk is full"):
        log.write({"kind": "run"})
    log.close()  # nothing waits to be written again
