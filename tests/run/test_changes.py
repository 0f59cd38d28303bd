"""Settings that change on the way: what is allowed, and what is refused before anything runs."""

import json

import numpy as np
import pytest

from mft_jax import config as configs
from mft_jax.config import resolve, to_dict
from mft_jax.data.mixture import Mixture
from mft_jax.data.rows import NumberedRows
from mft_jax.run.changes import continuation, parse
from mft_jax.run.epochs import epoch_plan
from mft_jax.types import MftError


@pytest.fixture
def started(tmp_path):
    """(config, folder) of a run of ten steps that has a checkpoint."""
    config = configs.default()
    config.loop.steps, config.optim.warmup_steps = 10, 2
    config = resolve(config)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    begun = {"config": to_dict(config), "finetune": {}, "base": {}, "data": {}}
    (tmp_path / "config.json").write_text(json.dumps(begun))
    return config, tmp_path


def plan_of(config):
    """Epochs of 40 rows, which are 5 steps."""
    rows = NumberedRows(40, lambda number: pytest.fail("no row is read"), np.array([40]))
    return epoch_plan(config.loop, rows, Mixture(np.array([40]), np.array([40])))


@pytest.mark.parametrize("text", ["optim.learning_rate", "=3", "a=1,,b=2", "loop.steps="])
def test_what_is_no_setting_with_a_value_is_refused(text):
    with pytest.raises(MftError, match="expected settings such as --resume_with="):
        parse(text)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"finetune.rank": 8}, "finetune.rank decides what the state of the run means"),
        ({"seed": 1}, "any setting of mesh or optim, or one of loop.diagnose.*; everything else"),
        ({"optim.learning_rates": 1}, "unknown setting.*did you mean"),
        ({"optim.lr": 1e-4}, "unknown setting 'optim.lr'; did you mean 'optim.learning_rate'?"),
        ({"loop.steps": 2.5}, "loop.steps=2.5: expected int"),
        ({"loop.on_nonfinite": "go"}, "loop.on_nonfinite='go'"),
    ],
)
def test_a_change_of_what_the_state_means_is_refused(started, wanted, message):
    config, workdir = started
    with pytest.raises(MftError, match=message):
        continuation(workdir, config, wanted)


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(started, tmp_path):
    config, _ = started
    assert continuation(tmp_path / "new", config, {}).config == config
    with pytest.raises(MftError, match="no checkpoint in .* to go on from"):
        continuation(tmp_path / "new", config, {"loop.steps": 20})


def test_new_settings_for_a_run_with_nothing_left_to_do_are_refused(started):
    config, workdir = started
    continued = continuation(workdir, config, parse("optim.learning_rate=1e-4"))
    assert [change.key for change in continued.changes] == ["optim.learning_rate"]
    with pytest.raises(MftError, match="is at step 10 of 10.*loop.steps=20"):
        continued.check(10, plan_of(config))
    continued.check(9, plan_of(config))
    continued = continuation(workdir, config, parse("loop.steps=4"))
    with pytest.raises(MftError, match="already taken 8 steps, and 4 are asked for.*loop.steps=16"):
        continued.check(8, plan_of(config))


def test_epochs_may_change_and_then_the_steps_follow(started):
    config, workdir = started
    continued = continuation(workdir, config, parse("loop.epochs=3,loop.steps=20"))
    with pytest.raises(MftError, match="loop.epochs=3 decides.*change loop.epochs"):
        continued.check(5, plan_of(config))
    continued = continuation(workdir, config, parse("loop.epochs=3"))
    assert continued.resized
    continued.check(14, plan_of(config))
    assert "cosine decay over 15 steps" in continued.told(5, plan_of(config))
    with pytest.raises(MftError, match="is at step 15 of 15.*loop.epochs=6"):
        continued.check(15, plan_of(config))


def test_a_run_of_an_earlier_version_says_what_layers_keep_as_true_or_false(started):
    config, workdir = started
    file = workdir / "config.json"
    saved = json.loads(file.read_text())
    saved["config"]["model"]["remat"] = True
    file.write_text(json.dumps(saved))
    assert continuation(workdir, config, {}).config == config
    change = continuation(workdir, config, parse("model.remat=inputs")).changes[0]
    assert (change.key, change.before, change.after) == ("model.remat", "block", "inputs")


def test_what_is_the_same_already_is_no_change(started):
    config, workdir = started
    rate = config.optim.learning_rate
    assert continuation(workdir, config, {"optim.learning_rate": rate}).changes == ()


def test_a_change_that_no_step_was_taken_under_is_told_again(started):
    config, workdir = started
    file = workdir / "config.json"
    saved = json.loads(file.read_text())
    after = configs.default()
    after.loop.steps, after.optim.warmup_steps, after.optim.learning_rate = 10, 2, 1e-4
    change = {"key": "optim.learning_rate", "before": 1e-3, "after": 1e-4}
    saved |= {"config": to_dict(resolve(after)), "changes": [{"step": 5, **change}]}
    file.write_text(json.dumps(saved))
    continued = continuation(workdir, config, {})  # the first command again
    assert continued.config.optim.learning_rate == 1e-4 and continued.changes == ()
    assert "optim.learning_rate 0.001 -> 0.0001" in continued.told(5, plan_of(config))
    assert continued.at(5) and not continued.at(7)


def test_to_begin_anew_and_to_change_a_run_exclude_each_other(started):
    config, workdir = started
    with pytest.raises(MftError, match="--checkpoint=none begins anew.*give one of them"):
        continuation(workdir, config, {"loop.steps": 20}, anew=True)
