"""`--config.key=value`: what a command line means, and what it is answered with."""

import pytest
from absl import flags

from mft_jax import config as configs
from mft_jax.cli import arguments as args
from mft_jax.testing import write_config
from mft_jax.types import MftError

TASKS = ("math", "a.b", "docs")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    config = configs.default()
    config.data.tasks = tuple({"name": name, "path": f"{name}.jsonl"} for name in TASKS)
    return write_config(tmp_path_factory.mktemp("overrides"), config)


@pytest.fixture
def resolved(file):
    """`resolved(*arguments)`: the configuration that a command gets."""

    def resolve(*arguments):
        values, words = flags.FlagValues(), [f"--config={file}", *arguments]
        args.config_flag(values, words)
        flags.DEFINE_bool("dry", False, "", values)
        flags.DEFINE_integer("repeats", 8, "", flag_values=values)
        args.parse("config", words, values)
        return args.resolved(values)

    return resolve


def test_a_task_is_changed_by_its_name_and_the_others_are_not(resolved):
    tasks = resolved(
        "--config.data.tasks.math.path=other.jsonl",
        "--config.data.tasks.math.max_samples=7",
        "--config.data.tasks.a.b.valid_path=v.jsonl",
        "--config.data.tasks.docs.valid_fraction=0.5",
        "--config.data.tasks.math.max_samples=9",
    ).data.tasks
    assert [task.name for task in tasks] == list(TASKS)
    assert [task.path for task in tasks] == ["other.jsonl", "a.b.jsonl", "docs.jsonl"]
    assert [task.max_samples for task in tasks] == [9, None, None]
    assert [task.valid_path for task in tasks] == [None, "v.jsonl", None]
    assert [task.valid_fraction for task in tasks] == [0.05, 0.05, 0.5]


def test_values_by_name_are_set_one_by_one(resolved):
    config = resolved(
        "--config.objective.name=focal_task",
        "--config.objective.alpha.math=2",
        "--config.objective.alpha.docs",
        "0.5",
    )
    assert config.objective.alpha == {"math": 2.0, "docs": 0.5}


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("loop.steps=7", "loop.steps", 7),
        ("optim.learning_rate=1e-4", "optim.learning_rate", 1e-4),
        ("optim.learning_rate=1", "optim.learning_rate", 1.0),
        ("optim.clip_norm=inf", "optim.clip_norm", float("inf")),
        ("finetune.rslora=True", "finetune.rslora", True),
        ("model.remat=none", "model.remat", "none"),
        ("model.remat=False", "model.remat", "none"),  # as in earlier versions
        ("finetune.dora", "finetune.dora", True),
        ("model.path=a=b:c", "model.path", "a=b:c"),
        ("balancer.coba.history_updates=9", "balancer.coba.history_updates", 9),
        ("balancer.coba.history_updates=none", "balancer.coba.history_updates", None),
        ("finetune.targets=attention/*,head", "finetune.targets", ("attention/*", "head")),
        ("finetune.targets=head", "finetune.targets", ("head",)),
        ("finetune.targets=('head',)", "finetune.targets", ("head",)),
        ('finetune.targets=["head", "mlp/up"]', "finetune.targets", ("head", "mlp/up")),
    ],
)
def test_a_value_is_read_as_its_setting_says(resolved, argument, key, value):
    found = resolved(f"--config.{argument}")
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.loop.steps=1.5"], "--config.loop.steps=1.5: expected a whole number"),
        (["--config.optim.beta1=high"], "--config.optim.beta1=high: expected a number"),
        (["--config.finetune.dora=maybe"], "--config.finetune.dora=maybe: expected true or false"),
        (["--config.loop.steps"], "--config.loop.steps has no value"),
        (["--config.loop.steps", "--dry"], "--config.loop.steps has no value"),
        (["--noconfig.finetune.dora"], "expected --config.finetune.dora=false"),
        (["--config.finetune.targets=['a'"], "cannot be read; expected --config.finetune.targets="),
        (["--config.data.rates=2"], "data.rates=2: expected values by name"),
        (["--config.data.rates={'math'"], "expected --config.data.rates.NAME=VALUE"),
        (["--config.data.rates.math=x"], "--config.data.rates.math=x: expected a number"),
        (["--config.data.rates.a.b=1"], "a name with a dot cannot be set"),
        (["--config.data.rates.math=1"], "expected data.sampling='rates'"),
        (["--config.data.tasks.maths.path=x"], "none called 'maths'; did you mean 'math'?"),
        (["--config.data.tasks.math.max_samples=x"], "max_samples=x: expected a whole number"),
        (["--config.data.tasks.math.path=gs://b/x"], "data.tasks.math.path=gs://b/x is a URL"),
        (["--dri"], "unknown flag --dri; did you mean '--dry'?"),
        (["--dry=perhaps"], "--dry=perhaps: expected true or false"),
        (["--repeats=x"], "--repeats=x: expected a whole number"),
        (["--repeats"], "--repeats has no value"),
    ],
)
def test_a_mistake_is_answered_in_our_words(resolved, arguments, message):
    with pytest.raises(MftError) as raised:
        resolved(*arguments)
    assert message in str(raised.value)


def test_a_value_that_follows_its_flag_is_no_flag(resolved):
    assert resolved("--repeats", "3", "--nodry", "--config.loop.steps", "4").loop.steps == 4
