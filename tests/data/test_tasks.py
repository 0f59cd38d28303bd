import json

import numpy as np
import pytest

from mft_jax.data.packing import padding_report
from mft_jax.data.settings import DataConfig, TaskConfig
from mft_jax.data.tasks import load_tasks
from mft_jax.types import MftError


def write_tasks(folder, *names):
    tasks = []
    for name in names:
        lines = [json.dumps({"prompt": f"{name} {i}", "answer": f"{i}"}) for i in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        tasks.append(TaskConfig(name, str(folder / f"{name}.jsonl"), valid_fraction=0.2))
    return tuple(tasks)


def test_tasks_keep_the_order_of_the_configuration(tmp_path, byte_tokenizer):
    tasks = write_tasks(tmp_path, "b", "a")
    data = load_tasks(DataConfig(tasks, row_length=64), byte_tokenizer)
    assert data.tasks.names == ("b", "a")
    assert byte_tokenizer.decode(data.train[0].tokens[: data.train[0].offsets[1]]).startswith(
        "<s>human\nb "
    )
    assert [stats.samples for stats in (*data.train_stats, *data.valid_stats)] == [16, 16, 4, 4]


def test_duplicate_names_and_no_task_at_all_are_errors(tmp_path, byte_tokenizer):
    [task] = write_tasks(tmp_path, "a")
    with pytest.raises(MftError, match="'a' occurs more than once"):
        load_tasks(DataConfig((task, task)), byte_tokenizer)
    with pytest.raises(MftError, match="no task is configured"):
        load_tasks(DataConfig(), byte_tokenizer)


def test_a_task_missing_from_validation_is_named(tmp_path, byte_tokenizer):
    [task] = write_tasks(tmp_path, "a")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a" * 99, "answer": "b"}))
    task = TaskConfig("a", task.path, str(tmp_path / "long.jsonl"))
    with pytest.raises(MftError, match="the validation set of task 'a' has no token to train on"):
        load_tasks(DataConfig((task,), row_length=64), byte_tokenizer)


def test_packing_a_real_corpus_leaves_less_than_three_percent_padding(shared_data):
    from transformers import AutoTokenizer

    import mft_jax

    tokenizer = AutoTokenizer.from_pretrained(f"{mft_jax.__path__[0]}/builtin/tiny")
    folders = sorted((shared_data / "mft-mini").iterdir())
    tasks = tuple(TaskConfig(f.name, str(f / "valid.jsonl.gz"), max_samples=200) for f in folders)
    data = load_tasks(DataConfig(tasks, row_length=2048), tokenizer)
    lengths = np.concatenate([np.diff(task.offsets) for task in data.train])
    report = padding_report(lengths, 2048, batch_rows=8)
    assert report.packed >= 0.97
    assert report.static < report.dynamic < report.packed
    assert sum(stats.dropped for stats in data.train_stats) == 0
