"""Silent trouble is found, each kind by data that has it, and sound data has none."""

import dataclasses
import json

import numpy as np
import pytest

from mft_jax.balancers.registry import BalancerConfig
from mft_jax.config import LoopConfig, TrainConfig
from mft_jax.data.mixture import Mixture
from mft_jax.data.settings import DataConfig, TaskConfig
from mft_jax.data.tasks import TokenizedData
from mft_jax.data.tokenization import TaskStats, TokenizedTask
from mft_jax.run.epochs import EpochPlan
from mft_jax.run.findings import _percent, find, shared_files
from mft_jax.types import TaskTable

STATS = TaskStats(100, 100, 0, 0, 0, 0, 300, 200)


def samples(*numbers, length=3):
    """One sample of `length` equal tokens for each number."""
    tokens = np.repeat(np.array(numbers, np.int32), length)
    offsets = np.arange(0, len(tokens) + 1, length)
    return TokenizedTask(tokens, np.ones(len(tokens), np.float32), offsets)


SOUND = samples(*range(100)), samples(*range(100, 120))
TASK = TaskConfig("a", "a.jsonl")


def noticed(
    train=SOUND[0], valid=SOUND[1], *, steps=10, with_task=(30, 40), train_stats=STATS,
    max_positions=64, task=TASK, balancer="coba",
):  # fmt: skip
    """What is found where the first of two tasks is as given; the second one is sound."""
    other = samples(*range(200, 300)), samples(*range(300, 320))
    valid_stats = [
        dataclasses.replace(STATS, kept=len(split.offsets) - 1) for split in (valid, other[1])
    ]
    data = TokenizedData(
        TaskTable(("a", "b")), (train, other[0]), (valid, other[1]), (train_stats, STATS),
        tuple(valid_stats),
    )  # fmt: skip
    sizes = np.array([len(train.offsets) - 1, 100])
    plan = EpochPlan(steps, 4, 40, Mixture(sizes, sizes), np.array(with_task))
    tasks = (task, TaskConfig("b", "b.jsonl"))
    config = TrainConfig(
        data=DataConfig(tasks, row_length=32),
        loop=LoopConfig(steps=steps),
        balancer=BalancerConfig(name=balancer),
    )
    return [(found.kind, found.sentence) for found in find(config, data, plan, max_positions)]


def test_sound_data_has_nothing_to_say():
    assert noticed() == []


@pytest.mark.parametrize(
    ("trouble", "kind", "words"),
    [
        (
            {"valid": samples(0, 0, *range(250, 255), *range(100, 113))},
            "shared",
            r"a: 7 of 20 validation samples (35 %) are also among the training samples (5 of them "
            "of other tasks)",
        ),
        ({"train": samples(*range(98), 0, 1)}, "copies", "a: 2 of 100 training samples (2.0 %)"),
        (
            {"valid": samples(*range(100, 109))},
            "few_valid",
            "a: 9 validation samples: a loss",
        ),
        (
            {"train_stats": dataclasses.replace(STATS, dropped=3, untrainable=1)},
            "not_whole",
            "a: 2.0 % of 200 samples are dropped or cut (3 dropped, 1 untrainable); raise "
            "data.row_length (now 32) or set data.overlong=split or look at",
        ),
        ({"max_positions": 16}, "positions", "beyond the 16 positions that the model was trained"),
        (
            {"train": samples(*range(20)), "steps": 1000},
            "epochs",
            "a: 1,000 steps are 100 epochs of its 20 samples, which will be learnt by heart",
        ),
        (
            {"with_task": (3, 40)},
            "absent",
            "a: absent from 72 % of the steps: 3 of the 40 rows of an epoch hold it",
        ),
        (
            {"task": TaskConfig("a", "a.jsonl", "a.jsonl")},
            "valid_is_train",
            "a: valid_path names what path names (a.jsonl): its validation loss is that of",
        ),
    ],
)
def test_each_kind_of_trouble_is_found_once(trouble, kind, words):
    found = [sentence for found, sentence in noticed(**trouble) if found == kind]
    assert [words in sentence for sentence in found].count(True) == 1, noticed(**trouble)
    assert len(found) == (2 if kind == "epochs" else 1)


@pytest.mark.parametrize(
    ("balancer", "reads"), [("coba", True), ("metaweighting", True), ("uniform", False)]
)
def test_few_validation_samples_balance_only_where_the_balancer_reads_them(balancer, reads):
    [(_, sentence)] = noticed(valid=samples(*range(100, 109)), balancer=balancer)
    assert ("noise, and the tasks are balanced by it;" in sentence) == reads
    assert ("mostly noise; raise" in sentence) != reads


def test_one_task_is_not_balanced():
    train, valid = SOUND[0], samples(*range(100, 109))
    stats = dataclasses.replace(STATS, kept=9)
    data = TokenizedData(TaskTable(("a",)), (train,), (valid,), (STATS,), (stats,))
    plan = EpochPlan(10, 4, 40, Mixture(np.array([100]), np.array([100])), np.array([40]))
    config = TrainConfig(data=DataConfig((TASK,), row_length=32), loop=LoopConfig(steps=10))
    [found] = find(config, data, plan, 64)
    assert found.kind == "few_valid" and "balanced" not in found.sentence


def test_samples_beyond_the_positions_are_counted():
    [(_, sentence)] = noticed(samples(*range(100), length=17), max_positions=16)
    assert "100 of 240 samples reach beyond them (the longest has 17 tokens); lower it" in sentence


def test_files_named_in_two_ways_are_the_same(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "b.jsonl")

    def shared(path, valid_path):
        return shared_files(TaskConfig("t", str(tmp_path / path), str(tmp_path / valid_path)))

    assert shared("a.jsonl", "../" + tmp_path.name + "/a.jsonl") == ["a.jsonl"]
    assert shared("[a-b].jsonl", "link.jsonl") == ["b.jsonl"]
    assert shared("a.jsonl", "b.jsonl") == []
    assert shared_files(TaskConfig("t", "datasets:x?split=train", "datasets:x?split=test")) == []


def test_shares_keep_the_digits_that_matter():
    assert [_percent(x) for x in (0.034, 0.1, 0.5, 0.9999, 1.0)] == [
        "3.4 %", "10 %", "50 %", "99.99 %", "100 %",
    ]  # fmt: skip
