"""One schema, two views: mutable for a config file, frozen for a run."""

import dataclasses
import json

import ml_collections
import pytest

from mft_jax import config as configs
from mft_jax.config import TrainConfig, differences, resolve, to_dict
from mft_jax.types import MftError


def test_the_mirror_of_the_defaults_resolves_to_the_defaults():
    assert resolve(configs.default()) == TrainConfig()


def test_a_resolved_configuration_survives_json():
    config = configs.default()
    config.data.tasks = ({"name": "a", "path": "a.jsonl", "max_samples": 3},)
    config.balancer.coba.warmup_updates = 7
    resolved = resolve(config)
    assert resolve(json.loads(json.dumps(to_dict(resolved)))) == resolved
    assert resolved.data.tasks[0].max_samples == 3


def test_frozen_dataclasses_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(configs.default()).seed = 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optm": {}}, r"unknown setting 'optm'; did you mean 'optim'\?"),
        ({"optim": {"learning_rat": 1.0}}, r"'optim\.learning_rat'; did you mean 'learning_rate'"),
        ({"objective": {"vocab_chunk": 9}}, r"'objective\.vocab_chunk'; set objective\.loss_chunk"),
        ({"zzz": 1}, r"unknown setting 'zzz'; expected balancer, data"),
        ({"finetune": {"method": "qlore"}}, r"finetune\.method='qlore'.*did you mean 'qlora'\?"),
        ({"loop": {"steps": "ten"}}, r"loop\.steps='ten': expected int, got str"),
        ({"loop": {"steps": 1.5}}, r"loop\.steps=1\.5: expected int, got float"),
        ({"loop": {"epochs": 0}}, r"loop\.epochs=0\.0 is too small; expected a number above 0"),
        ({"seed": -1}, r"config\.seed=-1 is too small"),
        ({"data": {"row_length": 0}}, r"data\.row_length=0 is too small"),
        ({"loop": 3}, r"loop is 3; expected settings by name"),
        ({"finetune": {"dora": 1}}, r"finetune\.dora=1: expected bool"),
        ({"model": {"remat": "blok"}}, r"model\.remat='blok': did you mean 'block'"),
        ({"data": {"tasks": "a.jsonl"}}, r"data\.tasks='a\.jsonl': expected a list"),
        ({"data": {"tasks": [{"name": "a"}]}}, r"data\.tasks\[0\] has no 'path'"),
        ({"data": {"tasks": [{"name": "a", "paht": "x"}]}}, r"data\.tasks\[0\]\.paht"),
    ],
)
def test_what_the_schema_does_not_know_is_refused_with_a_remedy(values, message):
    with pytest.raises(MftError, match=message):
        resolve(values)


TASKS = [{"name": "add", "path": "a.jsonl"}, {"name": "echo", "path": "b.jsonl"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"balancer": {"name": "gradnrom"}}, r"balancer\.name='gradnrom'.*did you mean 'gradnorm'"),
        ({"objective": {"name": "focal_tsk"}}, r"did you mean 'focal_task'\?"),
        ({"objective": {"name": "focal_task", "alpha": {"ad": 1}}}, r"'ad'.*did you mean 'add'\?"),
        ({"objective": {"name": "focal_task", "alpha": {"add": "1"}}}, r"alpha\.add='1': expected"),
        ({"objective": {"name": "focal_task", "alpha": 3}}, r"alpha=3: expected values by name"),
        ({"objective": {"alpha": {"add": 1.0}}}, r"alpha is read by focal_sample and focal_task"),
        (
            {"balancer": {"name": "static", "static": {"weights": {"add": 0, "echo": 0}}}},
            r"weights=.*not all zero",
        ),
        ({"balancer": {"static": {"weights": {"add": 2}}}}, r"read by 'static', not by 'coba'"),
        ({"balancer": {"min_weight": 0.6}}, r"min_weight=0\.6 is too large for 2 tasks"),
        ({"balancer": {"signal": "valid"}}, r"read by famo, gradnorm, lbtw, not by 'coba'"),
        (
            {"balancer": {"ema_decay": 1.0}},
            r"ema_decay=1\.0 is too large; expected a number below 1",
        ),
        (
            {"balancer": {"dwa": {"temperature": 0.0}}},
            r"dwa\.temperature=0\.0 is too small; expected a number above 0",
        ),
        (
            {"balancer": {"gradvac": {"beta": 2.0}}},
            r"gradvac\.beta=2\.0 is out of range; expected 0 to 1",
        ),
        ({"balancer": {"fairgrad": {"alpha": 0.0}}}, r"fairgrad\.alpha=0\.0"),
        (
            {"balancer": {"name": "mgda"}, "objective": {"normalization": "microbatch"}},
            r"no loss of a task over the whole batch",
        ),
        (
            {"data": {"sampling": "rates", "rates": {"add": 1}}},
            r"data\.rates has no value for 'echo'",
        ),
        (
            {"data": {"rates": {"add": 1, "echo": 1}}},
            r"data\.rates is set, but data\.sampling='proportional' does not use it; expected",
        ),
        ({"data": {"sampling": "temperature", "temperature": 0}}, r"temperature=0\.0"),
    ],
)
def test_what_does_not_fit_the_tasks_or_another_room_is_refused(values, message):
    values = {**values, "data": {"tasks": TASKS} | values.get("data", {})}
    with pytest.raises(MftError, match=message):
        resolve(values)


def test_values_by_task_can_be_set_whole_or_one_by_one():
    config = configs.default()
    config.data.tasks = TASKS
    config.objective.name = "focal_task"
    config.objective.alpha = {"add": 2}
    config.objective.alpha.echo = 0.5
    resolved = resolve(config)
    assert resolved.objective.alpha == {"add": 2.0, "echo": 0.5}
    assert resolve(json.loads(json.dumps(to_dict(resolved)))) == resolved


def test_an_integer_is_a_number_where_a_float_is_expected():
    assert resolve({"optim": {"learning_rate": 1}}).optim.learning_rate == 1.0


def test_optional_settings_can_be_set_on_the_mirror():
    config = configs.default()
    assert isinstance(config, ml_collections.ConfigDict)
    config.balancer.coba.history_updates = 9
    assert resolve(config).balancer.coba.history_updates == 9
    assert resolve(configs.default()).balancer.coba.history_updates is None


def test_differences_name_what_decides_the_numbers_and_nothing_else():
    old = to_dict(TrainConfig())
    new = json.loads(json.dumps(old))
    new["loop"]["save_every_steps"] = 1
    new["mesh"]["tensor"] = 2
    new["model"]["remat"] = "block"
    new["model"]["attention"] = "reference"
    assert differences(old, new) == []
    del old["model"]["attention"]  # as 0.1 wrote it
    assert differences(to_dict(resolve(old)), new) == []
    new["model"]["path"] = new["finetune"]["adapter"] = "elsewhere"  # compared by content
    assert differences(old, new) == []
    old["optim"]["warmup_steps"] = 20  # as an older release wrote what none stands for now
    assert differences(old, new) == []
    new["finetune"]["rank"] = 8
    assert differences(old, new) == ["finetune.rank: 16 -> 8"]


def test_values_of_earlier_versions_are_read_as_the_words_of_today():
    for old, word in ((True, "block"), (False, "none")):
        assert resolve({"model": {"remat": old}}).model.remat == word


def test_a_default_warmup_that_follows_the_steps_is_no_difference_of_its_own():
    old, new = (to_dict(resolve(configs.default())) for _ in range(2))
    old["loop"]["steps"], new["loop"]["steps"] = 8, 10
    assert differences(old, new) == ["loop.steps: 8 -> 10"]
