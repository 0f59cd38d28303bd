"""What a person sees of a run: at 80 columns, with many tasks, and in a log file."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mft_jax.record import schema
from mft_jax.record.reading import read_record
from mft_jax.record.schema import TaskCounts
from mft_jax.run.display import RunView, comparison_table, data_table, final_table, worst_first
from mft_jax.types import TaskTable


def terminal(height=24):
    return Console(
        file=io.StringIO(), force_terminal=True, width=80, height=height, color_system=None
    )


def log_file():
    return Console(file=io.StringIO(), width=80)


def written(console):
    return console.file.getvalue()


def names(count):
    return tuple(f"task_{n:03}" for n in range(count))


def train(tasks, step, **more):
    by_task = {name: 1.0 + n for n, name in enumerate(tasks)}
    return schema.line(
        schema.TRAIN, step=step, loss=2.0, grad_norm=1.0, learning_rate=1e-3, tokens_per_sec=100.0,
        padding=0.1, tokens=by_task, train_loss=by_task, weight=dict.fromkeys(tasks, 0.5), **more,
    )  # fmt: skip


def valid(tasks, step):
    by_task = {name: 1.0 + n for n, name in enumerate(tasks)}
    ratio = {name: n / 100 for n, name in enumerate(tasks)}
    return schema.line(schema.VALID, step=step, loss=by_task, ratio=ratio, tokens=by_task)


def test_a_log_file_gets_one_plain_line_every_so_many_steps_and_nothing_else():
    console, tasks = log_file(), ("add", "echo")
    display = RunView(console, TaskTable(tasks), total_steps=7, log_every_steps=3)
    display.valid(valid(tasks, 0))
    for step in range(7):
        display.train(train(tasks, step))
    display.valid(valid(tasks, 7))
    display.close()
    lines = written(console).splitlines()
    assert [line.split()[1] for line in lines] == ["3/7", "6/7", "7/7"]
    assert all("  |  add 1.000 (w 0.500)  echo 2.000 (w 0.500)" in line for line in lines)
    passes = [line.partition("validation at ")[2] for line in lines]
    losses = "add 1.000  echo 2.000"
    assert passes == [f"step 0  {losses}", "", f"step 7  {losses}"]
    assert "\x1b" not in written(console) and "\r" not in written(console)


def test_a_plain_line_names_the_worst_of_many_tasks():
    console, tasks = log_file(), names(100)
    display = RunView(console, TaskTable(tasks), total_steps=1, log_every_steps=1)
    display.valid(valid(tasks, 0))
    display.train(train(tasks, 0))
    display.close()
    (line,) = written(console).splitlines()
    assert "... and 88 more" in line and "task_099" in line and "task_087" not in line


@pytest.mark.parametrize("count", [5, 100])
def test_the_live_table_fits_the_terminal(count):
    console, tasks = terminal(height=24), names(count)
    display = RunView(console, TaskTable(tasks), total_steps=9, log_every_steps=1)
    display.valid(valid(tasks, 0))
    display.train(train(tasks, 0))
    shown = console.render_lines(display.live.renderable, console.options)
    display.close()
    text = ["".join(piece.text for piece in line).rstrip() for line in shown]
    assert len(text) < 24 and max(map(len, text)) <= 80
    assert text[0].startswith("step 1/9  loss 2.000")
    assert ("... and 81 more" in text[-1].strip()) == (count == 100)
    assert text[2].split()[0] == ("task_000" if count == 5 else "task_099")


def test_the_live_table_prefers_what_the_balancer_measured():
    console, tasks = terminal(), ("add", "echo")
    display = RunView(console, TaskTable(tasks), total_steps=9, log_every_steps=1)
    display.valid(valid(tasks, 0))
    measured = {"valid_loss": {"add": 7.5, "echo": None}, "ratio": {"add": 0.75, "echo": None}}
    display.train(train(tasks, 0, balancer=measured))
    shown = console.render_lines(display.live.renderable, console.options)
    display.close()
    rows = ["".join(piece.text for piece in line).split() for line in shown][2:]
    assert rows == [
        ["add", "1.000", "7.500", "0.750", "0.500"],
        ["echo", "2.000", "2.000", "0.010", "0.500"],
    ]


def test_the_worst_have_the_highest_ratio_or_else_the_highest_loss():
    ratio, loss = (
        {"a": 0.5, "b": None, "c": 0.9, "d": None},
        {"a": 9.0, "b": 1.0, "c": 1.0, "d": 2.0},
    )
    assert worst_first(("a", "b", "c", "d"), ratio, loss, 4) == (["a", "b", "c", "d"], 0)
    assert worst_first(("a", "b", "c", "d"), ratio, loss, 3) == (["c", "a", "d"], 1)


def test_the_data_table_counts_all_that_is_dropped_or_cut_in_80_columns():
    counts = {
        "a_rather_long_name": TaskCounts(2500, 2600, 30, 471043, 228471, 6093, 53, 1, 2, 3),
        "whole": TaskCounts(10, 10, 2, 50, 20, 8, 0, 0, 0, 0),
    }
    console = log_file()
    console.print(data_table(counts))
    lines = written(console).splitlines()
    assert max(map(len, lines)) <= 80
    text = re.sub(r"[\s│]+", " ", " ".join(lines))
    for words in ("dropped or", "drawn", "2,600", "471,043", "53 dropped", "3 untrainable"):
        assert words in text, text


def test_final_and_comparison_tables_say_the_same_of_a_run(tmp_path):
    path = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"
    record = read_record(path)
    console = log_file()
    console.print(final_table(record))
    console.print(comparison_table({"first": record}))
    text = written(console)
    ratios = [
        float(re.search(rf"{task} .*", text)[0].split("│")[3]) for task in record.header.tasks
    ]
    row = [cell.strip() for cell in re.search("first .*", text)[0].split("│")]
    assert row[3:6] == [f"{ratio:.3f}" for ratio in ratios]
    assert row[2] == f"{max(ratios):.3f}"


def test_a_comparison_of_many_tasks_names_the_worst(tmp_path):
    path = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"
    record = read_record(path)
    many = dataclasses.replace(record.header, tasks=record.header.tasks * 33)
    valid = {key: np.tile(value, (1, 33)) for key, value in record.valid.task.items()}
    train = {key: np.tile(value, (1, 33)) for key, value in record.train.task.items()}
    wide = dataclasses.replace(
        record,
        header=many,
        valid=dataclasses.replace(record.valid, task=valid),
        train=dataclasses.replace(record.train, task=train),
    )
    console = log_file()
    console.print(comparison_table({"first": wide}))
    worst = record.header.tasks[int(record.valid.task["ratio"][-1].argmax())]
    assert worst in written(console) and max(map(len, written(console).splitlines())) <= 80
