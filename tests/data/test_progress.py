"""How far reading and tokenizing has come: every task is named, and the share of all work rises."""

import json

from mft_jax.data.progress import task_sizes
from mft_jax.data.settings import DataConfig, TaskConfig
from mft_jax.data.tasks import load_tasks


def task(folder, name, count):
    path = folder / f"{name}.jsonl"
    rows = [json.dumps({"prompt": f"{n}", "answer": "x"}) + "\n" for n in range(count)]
    path.write_text("".join(rows))
    return TaskConfig(name, str(path))


def test_the_work_on_every_task_is_told_with_counts_and_a_rising_share(tmp_path, byte_tokenizer):
    tasks = (task(tmp_path, "small", 20), task(tmp_path, "large", 2200))
    told = []
    load_tasks(DataConfig(tasks, row_length=64), byte_tokenizer, told.append)
    assert [work.fraction for work in told] == sorted(work.fraction for work in told)
    assert {(work.name, work.place, work.tasks) for work in told} == {
        ("small", 1, 2),
        ("large", 2, 2),
    }
    reading = [work.done for work in told if work.name == "large" and work.doing == "reading"]
    assert reading == [0, 1024, 2048]
    tokenizing = [work for work in told if work.name == "large" and work.doing == "tokenizing"]
    assert [work.done for work in tokenizing] == [0, 1024, 2048, 2090]
    assert all(work.total == 2200 for work in tokenizing)
    assert told[-1].fraction > 0.9  # by the bytes of the files


def test_a_task_without_files_counts_as_the_others_do(tmp_path):
    known = task(tmp_path, "known", 3)
    size = (tmp_path / "known.jsonl").stat().st_size
    assert task_sizes([known, TaskConfig("made", "stdlib:comment")]) == [size, size]
    assert task_sizes([TaskConfig("made", "stdlib:comment")]) == [1.0]
