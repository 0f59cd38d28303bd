"""The view of the steps: at 80 columns, with many tasks, and in a log file."""

import io

import pytest
from rich.console import Console

from mft_jax.record import schema
from mft_jax.run.compiled import Announced
from mft_jax.run.view import RunView
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
    text = shown_rows(display)
    display.close()
    assert len(text) < 24 and max(map(len, text)) <= 80
    assert text[0].startswith("step 1/9  loss 2.000")
    assert ("... and 83 more" in text[-1].strip()) == (count == 100)
    assert text[3].split()[0] == ("task_000" if count == 5 else "task_099")


def shown_rows(display):
    lines = display.console.render_lines(display.live.renderable, display.console.options)
    return ["".join(piece.text for piece in line).rstrip() for line in lines]


def test_a_row_of_the_live_table_holds_the_numbers_of_one_pass_and_says_which():
    console, tasks = terminal(), ("add", "echo")
    display = RunView(console, TaskTable(tasks), total_steps=9, log_every_steps=1)
    display.valid(valid(tasks, 0))
    measured = {"valid_loss": {"add": 7.5, "echo": None}, "ratio": {"add": 0.75, "echo": None}}
    display.train(train(tasks, 4, balancer=measured))
    rows = shown_rows(display)
    display.close()
    assert rows[1] == "train loss, weight: step 5; valid loss, ratio: whole pass after step 0"
    assert [row.split() for row in rows[3:]] == [
        ["add", "1.000", "0.500", "1.000", "0.000"],
        ["echo", "2.000", "0.500", "2.000", "0.010"],
    ]


def test_a_long_wait_is_shown_with_its_time_and_then_said():
    console = terminal()
    display = RunView(console, TaskTable(("add",)), total_steps=9, log_every_steps=1)
    with display.phase("validation before the first step"):
        with display.phase("compiling the validation pass"):
            display.phases[-1].began -= 65
            assert shown_rows(display)[-1].endswith("compiling the validation pass  1:05")
        assert shown_rows(display)[-1].endswith("validation before the first step  0:00")
    assert shown_rows(display) == []
    display.close()
    assert "compiling the validation pass took 1 min 5 s" in written(console)


def test_a_log_file_says_before_and_after_what_takes_long():
    console = log_file()
    display = RunView(console, TaskTable(("add",)), total_steps=9, log_every_steps=1)
    with display.phase("compiling the training step"):
        pass
    with display.phase("validation after step 50", announced=False):
        pass
    display.close()
    assert written(console).splitlines() == [
        "compiling the training step ...",
        "compiling the training step took 0.0 s",
    ]


def test_only_the_first_call_is_announced():
    console = log_file()
    display = RunView(console, TaskTable(("add",)), total_steps=9, log_every_steps=1)
    step = Announced(lambda x: x + 1, "compiling the step", display.phase)
    assert [step(1), step(2)] == [2, 3]
    display.close()
    assert written(console).count("compiling the step took") == 1
