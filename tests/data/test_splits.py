import json

import pytest

from mft_jax.data.settings import TaskConfig
from mft_jax.data.splits import load_splits
from mft_jax.types import MftError


@pytest.fixture
def folder(tmp_path):
    for name, count in (("many", 200), ("some", 20), ("one", 1), ("none", 0)):
        lines = [json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def texts(samples):
    return [sample.text for sample in samples]


def load(folder, seed=0, path="many.jsonl", **options):
    valid_path = options.pop("valid_path", None)
    task = TaskConfig("t", str(folder / path), valid_path and str(folder / valid_path), **options)
    train, valid = load_splits(task, seed)
    return texts(train), texts(valid)


def test_a_split_shares_and_loses_nothing_and_follows_the_seed(folder):
    train, valid = load(folder, valid_fraction=0.1)
    assert (len(train), len(valid)) == (180, 20)
    assert sorted(train + valid) == sorted(f"many {i}" for i in range(200))
    assert load(folder, valid_fraction=0.1) == (train, valid)
    assert load(folder, valid_fraction=0.1, seed=1)[1] != valid


def test_a_small_task_keeps_a_sample_on_each_side(folder):
    assert [len(x) for x in load(folder, path="some.jsonl", valid_fraction=0.001)] == [19, 1]
    assert [len(x) for x in load(folder, path="some.jsonl", valid_fraction=0.999)] == [1, 19]


def test_a_valid_path_replaces_the_split(folder):
    train, valid = load(folder, valid_path="some.jsonl")
    assert (len(train), valid) == (200, [f"some {i}" for i in range(20)])


def test_max_samples_takes_a_seeded_subset_and_not_the_head(folder):
    limits = {"max_samples": 30, "max_valid_samples": 4, "valid_path": "some.jsonl"}
    train, valid = load(folder, **limits)
    assert (len(train), len(valid)) == (30, 4)
    assert train != [f"many {i}" for i in range(30)]
    assert load(folder, **limits) == (train, valid)
    assert load(folder, seed=1, **limits)[0] != train


def test_installed_code_has_its_own_split():
    train, valid = load_splits(
        TaskConfig("t", "packages:ml_collections:text", max_samples=5), seed=0
    )
    assert len(train) == 5
    assert valid and not set(texts(train)) & set(texts(valid))
    assert "packages:ml_collections:text (train) record" in train[0].where


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "none.jsonl"}, "'t' is empty"),
        ({"path": "one.jsonl"}, "'t' has one record .* cannot be split"),
        ({"valid_path": "none.jsonl"}, "'t' has no validation record in .*none.jsonl"),
        ({"valid_path": "nowhere.jsonl"}, "no file at .*nowhere.jsonl"),
        ({"valid_fraction": 1.0}, "valid_fraction=1.0"),
        ({"valid_fraction": 0.0}, "valid_fraction=0.0"),
        ({"max_samples": 0}, "max_samples=0"),
        ({"max_valid_samples": -1}, "max_valid_samples=-1"),
    ],
)
def test_a_task_that_cannot_be_trained_and_validated_is_an_error(folder, options, message):
    with pytest.raises(MftError, match=message):
        load(folder, **options)


def test_a_valid_path_for_a_source_with_a_split_is_an_error():
    with pytest.raises(MftError, match="has its own validation split; remove valid_path"):
        load_splits(TaskConfig("t", "stdlib:comment", "x.jsonl"), seed=0)
