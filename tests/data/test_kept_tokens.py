"""A second reading gives equal arrays and equal words, without reading a record; whatever tokens
follow from is part of their key."""

import dataclasses
import json
import os

import numpy as np
import pytest

from mft_jax.data import kept_tokens, tasks
from mft_jax.data.kept_tokens import task_source, tokenizer_text
from mft_jax.data.settings import DataConfig, TaskConfig
from mft_jax.data.tasks import load_tasks
from mft_jax.kept import Kept
from mft_jax.types import MftError

CLOCK = "{{ strftime_now('%d %b %Y') if strftime_now is defined }}"


@pytest.fixture
def task(tmp_path) -> TaskConfig:
    lines = [json.dumps({"prompt": f"{i}", "answer": "a" * 2 * i, "id": i}) for i in range(1, 41)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return TaskConfig("a", str(tmp_path / "a.jsonl"), valid_fraction=0.2)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path, said) -> Kept:
    return Kept(tmp_path / "cache", 1 << 20, said.append)


def forbid_reading(monkeypatch):
    def fail(*_):
        raise AssertionError("a record is read")

    monkeypatch.setattr(tasks, "load_splits", fail)


def assert_equal(first, second):
    for name in ("tasks", "train_stats", "valid_stats", "read_as"):
        assert getattr(first, name) == getattr(second, name)
    for split in ("train", "valid"):
        for one, other in zip(getattr(first, split), getattr(second, split), strict=True):
            for field in dataclasses.fields(one):
                arrays = getattr(one, field.name), getattr(other, field.name)
                np.testing.assert_array_equal(*arrays, strict=True)


def test_a_second_reading_is_equal_and_reads_no_record(
    task, kept, said, byte_tokenizer, monkeypatch
):
    config = DataConfig((task, dataclasses.replace(task, name="b")), row_length=64)
    first_told, second_told = [], []
    plain = load_tasks(config, byte_tokenizer)
    first = load_tasks(config, byte_tokenizer, first_told.append, kept)
    assert not said and sum(stats.dropped for stats in first.train_stats) > 0
    forbid_reading(monkeypatch)
    second = load_tasks(config, byte_tokenizer, second_told.append, kept)
    assert_equal(plain, first)
    assert_equal(plain, second)
    assert first_told and not second_told
    assert len(said) == 1 and said[0].startswith("the tokens of 80 samples (2 of 2 tasks) are")


def test_what_is_wrong_is_told_at_every_start(task, kept, byte_tokenizer):
    config = DataConfig((task,), row_length=64, overlong="error")
    for _ in range(2):
        with pytest.raises(MftError, match=r"a\.jsonl:\d+: the sample has \d+ tokens"):
            load_tasks(config, byte_tokenizer, kept=kept)


def test_a_damaged_entry_is_read_anew_and_mended(
    task, kept, said, byte_tokenizer, tmp_path, monkeypatch
):
    config = DataConfig((task,), row_length=64)
    first = load_tasks(config, byte_tokenizer, kept=kept)
    [file] = (tmp_path / "cache" / "tokens").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert_equal(first, load_tasks(config, byte_tokenizer, kept=kept))
    assert len(said) == 1 and "is damaged" in said[0]
    forbid_reading(monkeypatch)
    assert_equal(first, load_tasks(config, byte_tokenizer, kept=kept))


def key(task, config, tokenizer) -> str:
    source = task_source(task, config, tokenizer)
    assert source is not None
    return source.key


def test_whatever_tokens_follow_from_is_in_the_key(task, make_tokenizer, tmp_path):
    config, plain = DataConfig((task,), row_length=64), make_tokenizer()
    file = tmp_path / "a.jsonl"
    before = key(task, config, plain)
    assert key(task, config, make_tokenizer()) == before
    (tmp_path / "same.jsonl").write_bytes(file.read_bytes())
    keys = [
        before,
        key(task, config, make_tokenizer(chat_template="{{ messages }}")),
        key(task, config, make_tokenizer(merges=[("a", "a")])),
        key(task, dataclasses.replace(config, row_length=65), plain),
        key(task, dataclasses.replace(config, overlong="split"), plain),
        key(task, dataclasses.replace(config, seed=1), plain),
    ]
    changes = {"name": "b", "valid_fraction": 0.3, "max_samples": 3, "columns": {"prompt": "id"}}
    changes |= {"valid_path": task.path}
    keys += [key(dataclasses.replace(task, **{k: v}), config, plain) for k, v in changes.items()]
    both = dataclasses.replace(task, path=str(tmp_path / "*.jsonl"))
    keys.append(key(both, config, plain))
    file.write_text(file.read_text().replace("a", "b", 1))
    keys.append(key(task, config, plain))
    assert len(set(keys)) == len(keys)


def test_files_of_training_and_validation_are_told_apart(task, byte_tokenizer, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes())
    splits = [("[ab]", "c"), ("a", "[bc]")]
    paths = [[str(tmp_path / f"{name}.jsonl") for name in split] for split in splits]
    keys = {key(TaskConfig("a", *pair), DataConfig(), byte_tokenizer) for pair in paths}
    assert len(keys) == 2


def test_a_change_of_the_code_is_a_change_of_the_key(task, byte_tokenizer, monkeypatch):
    before = key(task, DataConfig(), byte_tokenizer)
    monkeypatch.setattr(kept_tokens, "code_version", lambda: "another")
    assert key(task, DataConfig(), byte_tokenizer) != before


def test_a_template_with_a_date_is_kept_for_the_day(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer(chat_template=CLOCK)
    first = tokenizer_text(tokenizer)

    class Later(kept_tokens.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2001, 2, 3)

    monkeypatch.setattr(kept_tokens.datetime, "datetime", Later)
    second = tokenizer_text(tokenizer)
    assert first and second and first != second and "03 Feb 2001" in second
    for unknown in ("{{ strftime_now(form) }}", "{{ [1, 2] | random }}"):
        assert tokenizer_text(make_tokenizer(chat_template=unknown)) is None


def test_what_cannot_be_known_in_advance_is_not_kept(task, kept, byte_tokenizer, tmp_path):
    for path in ("datasets:someone/some", str(tmp_path / "missing.jsonl")):
        assert task_source(TaskConfig("a", path), DataConfig(), byte_tokenizer) is None


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    task, kept, byte_tokenizer, tmp_path, monkeypatch
):
    load = tasks.load_splits

    def load_and_touch(*arguments):
        os.utime(tmp_path / "a.jsonl", (1, 1))
        return load(*arguments)

    monkeypatch.setattr(tasks, "load_splits", load_and_touch)
    load_tasks(DataConfig((task,), row_length=64), byte_tokenizer, kept=kept)
    assert not (tmp_path / "cache").exists()


def test_a_saved_dataset_and_the_standard_library_have_keys(byte_tokenizer, tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    arrow = tmp_path / "data.arrow"
    keys = []
    for content in ("x", "y"):
        arrow.write_text(content)
        keys.append(key(TaskConfig("a", str(tmp_path)), DataConfig(), byte_tokenizer))
    for task in ("completion", "comment", "completion"):
        keys.append(key(TaskConfig("a", f"stdlib:{task}"), DataConfig(), byte_tokenizer))
    assert len(set(keys)) == 4 and keys[-1] == keys[-3]
