"""metrics.jsonl in, RunRecord out."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mft_jax.record.columns import last_step
from mft_jax.record.reading import passed_over_note, read_record
from mft_jax.record.schema import COLUMNS, Quantity
from mft_jax.types import MftError

TASKS = ["completion", "comment"]
COUNTS = dict.fromkeys(COLUMNS, 10)
RUN = {
    "kind": "run",
    "time": "2026-11-20T10:00:00Z",
    "version": "0.1.0",
    "config": {"loop": {"steps": 7}},
    "tasks": TASKS,
    "model": {
        "family": "qwen2",
        "parameters": 100,
        "trainable": 4,
        "stored_bytes": 55,
        "bits_per_weight": None,
    },
    "data": {task: COUNTS for task in TASKS},
    "packing": {"row_length": 8, "rows": 3, "packed": 0.9, "static": 0.3, "dynamic": 0.6},
    "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
    "devices": "1 x cpu",
}


def both(a, b):
    return dict(zip(TASKS, (a, b), strict=True))


def train(step, loss=2.0, **more):
    return {
        "kind": "train",
        "step": step,
        "loss": loss,
        "grad_norm": 0.5,
        "learning_rate": 1e-3,
        "tokens_per_sec": None,
        "tokens": both(6, 2),
        "padding": 0.25,
        "train_loss": both(loss, None),
        "weight": both(0.5, 0.5),
        **more,
    }


def valid(step, loss=2.0):
    return {
        "kind": "valid",
        "step": step,
        "loss": both(loss, 3.0),
        "ratio": both(loss / 2, 1.0),
        "tokens": both(5, 5),
    }


def write(path, *lines, tail=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
    return path


def test_values_come_back_under_their_names_and_null_is_nan(tmp_path):
    coba = {name: both(0.1, 0.2) for name in ("valid_loss", "ratio", "slope", "rcs", "acs")}
    lines = [RUN, valid(0), train(1, 1.5), train(2, balancer={**coba, "df": 0.93}), valid(2, 1.0)]
    end = {"kind": "end", "step": 2, "reason": "finished", "seconds": 9.5}
    record = read_record(write(tmp_path / "metrics.jsonl", *lines, end))
    np.testing.assert_array_equal(record.train.step, [1, 2])
    np.testing.assert_array_equal(record.train.scalar["loss"], [1.5, 2.0])
    assert np.isnan(record.train.scalar["tokens_per_sec"]).all()
    np.testing.assert_array_equal(record.train.task["train_loss"], [[1.5, np.nan], [2, np.nan]])
    np.testing.assert_array_equal(record.train.task["tokens"], [[6, 2], [6, 2]])
    np.testing.assert_array_equal(record.balancer.step, [2])
    np.testing.assert_array_equal(record.balancer.scalar["df"], [0.93])
    np.testing.assert_array_equal(record.balancer.task["acs"], [[0.1, 0.2]])
    np.testing.assert_array_equal(record.valid.task["ratio"], [[1.0, 1.0], [0.5, 1.0]])
    assert record.end is not None and record.end.seconds == 9.5
    assert math.isnan(record.header.model.bits_per_weight)
    assert not record.cut_short and record.resumes == 0


def test_task_columns_follow_the_run_lines_order_not_the_objects(tmp_path):
    swapped = train(1, tokens={"comment": 2, "completion": 6})
    record = read_record(write(tmp_path / "metrics.jsonl", RUN, swapped))
    np.testing.assert_array_equal(record.train.task["tokens"], [[6, 2]])


def test_steps_taken_again_after_a_resume_count_once(tmp_path):
    def steps(loss, *numbers):
        return [train(step, loss) for step in numbers]

    first = [RUN, valid(0), *steps(1.0, 0, 1), valid(2, 1.0), *steps(1.0, 2, 3), valid(4, 1.0)]
    second = [{**RUN, "time": "2026-11-21T10:00:00Z"}, *steps(9.0, 2, 3)]
    path = tmp_path / "metrics.jsonl"
    record = read_record(write(path, *first, *second))
    np.testing.assert_array_equal(record.train.step, [0, 1, 2, 3])
    np.testing.assert_array_equal(record.train.scalar["loss"], [1, 1, 9, 9])
    np.testing.assert_array_equal(record.valid.step, [0, 2])  # state 4 of session 1 was lost
    record = read_record(write(path, *first, *second, valid(4, 9.0)))
    np.testing.assert_array_equal(record.valid.task["loss"][:, 0], [2, 1, 9])
    assert record.resumes == 1 and record.end is None and last_step(record) == 4
    assert record.started.day == 20 and record.header.time.day == 21


def test_a_resume_without_a_step_yet_keeps_everything(tmp_path):
    record = read_record(write(tmp_path / "metrics.jsonl", RUN, valid(0), train(0), RUN))
    assert len(record.train) == 1 and len(record.valid) == 1 and record.resumes == 1


def test_a_repeated_validation_pass_counts_once(tmp_path):
    lines = [RUN, valid(0, 1.0), train(0), valid(1, 1.0), RUN, valid(1, 9.0), train(1)]
    record = read_record(write(tmp_path / "metrics.jsonl", *lines))
    np.testing.assert_array_equal(record.train.step, [0, 1])
    np.testing.assert_array_equal(record.valid.task["loss"][:, 0], [1, 9])


@pytest.mark.parametrize("keep", [1, 20, -2])
def test_one_incomplete_last_line_is_left_out_and_said(tmp_path, keep):
    tail = json.dumps(train(2))[:keep]
    record = read_record(write(tmp_path / "metrics.jsonl", RUN, train(1), tail=tail))
    assert record.cut_short and len(record.train) == 1


def test_a_last_line_cut_inside_a_character_is_incomplete_too(tmp_path):
    path = write(tmp_path / "metrics.jsonl", RUN)
    path.write_bytes(path.read_bytes() + '{"kind": "é'.encode()[:-1])
    assert read_record(path).cut_short


def test_a_whole_last_line_without_line_end_counts(tmp_path):
    path = write(tmp_path / "metrics.jsonl", RUN, tail=json.dumps(train(1)))
    record = read_record(path)
    assert len(record.train) == 1 and not record.cut_short


def without(line, name):
    return {key: value for key, value in line.items() if key != name}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{broken", "no valid JSON"),
        ("[1]", "a JSON list"),
        ({"kind": 3}, "int under 'kind'"),
        ({"step": 3}, "nothing under 'kind'"),
        (without(train(3), "padding"), "no 'padding'"),
        (train(3, loss="high"), "'high' under 'loss'"),
        (train(3, loss=True), "True under 'loss'"),
        (train("3"), "str under 'step'"),
        (train(-3), "step -3"),
        (train(1), "step 1 after step 1"),
        (train(3, weight={"completion": 1.0}), "'comment'"),
        (train(3, weight=both(1, 0) | {"other": 1}), "'other'"),
        (train(3, balancer={"slope": {"comment": 1}}), "'completion'"),
        (train(3, balancer={"df": "high"}), "'high' under 'df'"),
        ({"kind": "conflicts", "step": 1, "cosine": [[1]], "norm": both(1, 1)}, "another shape"),
        ({"kind": "end", "step": 3, "reason": "bored", "seconds": 1}, "reason 'bored'"),
        ({**RUN, "tasks": ["completion"]}, "other tasks"),
        ({**RUN, "tasks": ["a", "a"]}, "tasks ['a', 'a']"),
        ({**RUN, "time": "yesterday"}, "time 'yesterday'"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, line, found):
    text = line if isinstance(line, str) else json.dumps(line)
    path = write(tmp_path / "metrics.jsonl", RUN, train(1), tail=text + "\n")
    with pytest.raises(MftError) as error:
        read_record(path)
    assert f"{path}:3: " in str(error.value) and found in str(error.value)


def test_a_record_must_open_with_a_run_line(tmp_path):
    with pytest.raises(MftError, match=r"metrics\.jsonl:1: found kind 'train' first"):
        read_record(write(tmp_path / "metrics.jsonl", train(1)))
    with pytest.raises(MftError, match="no line of kind 'run'"):
        read_record(write(tmp_path / "metrics.jsonl"))
    with pytest.raises(MftError, match="no such file"):
        read_record(tmp_path / "elsewhere.jsonl")


@pytest.mark.parametrize("name", sorted(RUN.keys() - {"kind"}))
def test_every_field_of_the_run_line_is_required(tmp_path, name):
    line = copy.deepcopy(RUN)
    del line[name]
    with pytest.raises(MftError, match=f"nothing under '{name}'"):
        read_record(write(tmp_path / "metrics.jsonl", line))


def test_a_record_of_version_0_1_is_read(tmp_path):
    path = Path(__file__).with_name("version_0_1.jsonl")
    record = read_record(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert record.passed_over == () and record.header.balancer_logs == {}
    assert record.header.planned_steps == 6 and last_step(record) == 6
    for name, counts in lines[0]["data"].items():
        assert dataclasses.asdict(record.header.data[name]) == counts
    assert record.header.data["rare"].untrainable == 3
    train = [line for line in lines if line["kind"] == "train"]
    for task, name in enumerate(record.header.tasks):
        slopes = [line["balancer"]["slope"][name] for line in train]
        np.testing.assert_array_equal(record.balancer.task["slope"][:, task], slopes)
    np.testing.assert_array_equal(record.conflicts.step, [0, 3])


def test_kinds_and_keys_of_a_newer_release_are_passed_over_and_named_once(tmp_path, run_line):
    lines = [
        {**run_line(*TASKS), "version": "9.0", "host": "a"},
        {**train(0), "flops": 1.0},
        {"kind": "scores", "step": 1, "pass@1": both(0.5, 0.25)},
        {**train(1), "flops": 2.0},
        {"kind": "scores", "step": 2},
        {**valid(2), "accuracy": both(0.5, 0.5)},
    ]
    lines[0]["packing"] = {**lines[0]["packing"], "streamed": 0.5}
    record = read_record(write(tmp_path / "metrics.jsonl", *lines))
    assert len(record.train) == 2 and len(record.valid) == 1
    assert record.passed_over == (
        "'host' in lines of kind 'run'",
        "'packing.streamed' in lines of kind 'run'",
        "'flops' in lines of kind 'train'",
        "lines of kind 'scores'",
        "'accuracy' in lines of kind 'valid'",
    )
    note = passed_over_note(record)
    assert note is not None and note.count("flops") == 1 and "mft_jax 9.0" in note


def test_a_known_record_has_no_such_note(tmp_path, run_line):
    record = read_record(write(tmp_path / "metrics.jsonl", run_line(*TASKS), train(0)))
    assert passed_over_note(record) is None


def test_the_titles_of_a_balancer_come_back(tmp_path, run_line):
    told = Quantity("Convergence slope", "per step", reference=0.0, shown=False)
    line = run_line(*TASKS, slope=dataclasses.asdict(told))
    record = read_record(write(tmp_path / "metrics.jsonl", line))
    assert record.header.balancer_logs == {"slope": told}
    line["balancer_logs"]["slope"]["shown"] = "yes"
    with pytest.raises(MftError, match="str under 'shown'"):
        read_record(write(tmp_path / "metrics.jsonl", line))


def test_the_planned_steps_are_required_where_the_configuration_keeps_them(tmp_path, run_line):
    line = {**run_line(*TASKS), "config": {"optim": {"steps": 7}}}
    with pytest.raises(MftError, match="nothing under 'loop'"):
        read_record(write(tmp_path / "metrics.jsonl", line))


def test_a_number_of_another_kind_is_refused_with_its_line(tmp_path):
    text = Path(__file__).with_name("version_0_1.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    train = next(n for n, line in enumerate(lines) if line["kind"] == "train")
    file = tmp_path / "metrics.jsonl"
    for place, key, value in [
        (0, "mesh", {"data": None}), (0, "time", "x"), (0, "config", {"loop": {"steps": "7"}}),
        (train, "step", 2**70), (train, "step", True), (train, "loss", [10**400]),
        (2, "cosine", [["a"] * 3] * 3), (2, "cosine", [[[]] * 3] * 3),
        (train + 2, "balancer", dict.fromkeys(lines[train]["balancer"], 1.0)),
    ]:  # fmt: skip
        changed = [dict(line) for line in lines]
        changed[place][key] = value
        file.write_text("\n".join(map(json.dumps, changed)) + "\n", "utf-8")
        with pytest.raises(MftError, match=f"metrics.jsonl:{place + 1}: "):
            read_record(file)


def test_a_number_that_no_float_holds_is_no_number(tmp_path):
    text = Path(__file__).with_name("version_0_1.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    train = next(n for n, line in enumerate(lines) if line["kind"] == "train")
    lines[train] |= {"loss": 10**400, "grad_norm": math.inf}
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    record = read_record(tmp_path / "metrics.jsonl")
    assert np.isnan([record.train.scalar[name][0] for name in ("loss", "grad_norm")]).all()
