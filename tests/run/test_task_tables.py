"""Tables of tasks and runs: whole words and numbers at 80 columns, the worst of many tasks."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mft_jax.record.reading import read_record
from mft_jax.record.schema import TaskCounts
from mft_jax.record.verdict import verdict
from mft_jax.run.task_tables import comparison_table, data_table, final_table, worst_first

RECORD = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"


def console_of(width=80):
    return Console(file=io.StringIO(), width=width)


def written(console):
    return console.file.getvalue()


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
    console = console_of()
    console.print(data_table(counts))
    lines = written(console).splitlines()
    assert max(map(len, lines)) <= 80
    text = re.sub(r"[\s│]+", " ", " ".join(lines))
    for words in ("dropped or", "drawn", "2,600", "471,043", "53 dropped", "3 untrainable"):
        assert words in text, text


def test_final_and_comparison_tables_say_the_same_of_a_run(tmp_path):
    record = read_record(RECORD)
    console = console_of()
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
    record = read_record(RECORD)
    many = dataclasses.replace(record.header, tasks=record.header.tasks * 33)
    valid = {key: np.tile(value, (1, 33)) for key, value in record.valid.task.items()}
    train = {key: np.tile(value, (1, 33)) for key, value in record.train.task.items()}
    wide = dataclasses.replace(
        record,
        header=many,
        valid=dataclasses.replace(record.valid, task=valid),
        train=dataclasses.replace(record.train, task=train),
    )
    console = console_of()
    console.print(comparison_table({"first": wide}))
    worst = record.header.tasks[int(record.valid.task["ratio"][-1].argmax())]
    assert worst in written(console) and max(map(len, written(console).splitlines())) <= 80


def many_tasks(record, count):
    """The record as if each of its tasks had been many, with names of their own."""
    names = tuple(f"{name}_{n:03}" for n in range(count) for name in record.header.tasks)
    every = [record.header.data[name.rpartition("_")[0]] for name in names]
    header = dataclasses.replace(
        record.header, tasks=names, data=dict(zip(names, every, strict=True))
    )
    valid = {key: np.tile(value, (1, count)) for key, value in record.valid.task.items()}
    valid["ratio"] = valid["ratio"] + np.arange(len(names)) / 1e3
    train = {key: np.tile(value, (1, count)) for key, value in record.train.task.items()}
    return dataclasses.replace(
        record,
        header=header,
        valid=dataclasses.replace(record.valid, task=valid),
        train=dataclasses.replace(record.train, task=train),
    )


def test_the_last_table_of_many_tasks_has_the_worst_and_a_count():
    record = many_tasks(read_record(RECORD), 34)
    console = console_of()
    console.print(final_table(record))
    lines = written(console).splitlines()
    assert len(lines) < 40 and max(map(len, lines)) <= 80
    assert "rare_033" in written(console) and "rare_001" not in written(console)
    assert lines[-1] == "... and 78 tasks more with a lower ratio; the report has all"


def test_the_data_of_many_tasks_are_the_least_whole_and_the_sums():
    counts = {f"task_{n:03}": TaskCounts(10, 10, 2, 50 + n, 20, 8, n == 70, 0, 0, 0) for n in
              range(100)}  # fmt: skip
    console = console_of()
    console.print(data_table(counts, limit=12))
    text = written(console)
    assert text.index("task_070") < text.index("task_000") and "task_050" not in text
    assert re.search(r"all 100 +│ +1,000 │ +200 │ +9,950", text)
    assert "... and 88 tasks more" in text
    console.print(data_table(counts))
    assert "task_050" in written(console)


@pytest.mark.parametrize("width", [80, 100])
def test_the_verdict_of_every_task_stands_in_the_last_table(width):
    record = read_record(RECORD)
    console = console_of(width)
    console.print(final_table(record))
    for name, judged in verdict(record).tasks.items():
        assert re.search(rf"{name} .*{judged.short}", written(console))
