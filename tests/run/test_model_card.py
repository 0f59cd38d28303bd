"""The model card: true of the step that was written, and safe to publish."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from mft_jax import config as configs
from mft_jax.config import resolve
from mft_jax.data.templates import chat_tokenizer
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.models.families import FAMILIES
from mft_jax.optim import OptimConfig, warmup_steps
from mft_jax.record.reading import read_record
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.model_card import CardFacts, model_card

RECORD = Path(__file__).parents[1] / "record" / "version_0_1.jsonl"
TASKS = ("add", "echo", "rare")


@pytest.fixture(scope="module")
def chat():
    return chat_tokenizer(load_tokenizer(model_folder("builtin:tiny"), 4096))


@pytest.fixture
def card(chat):
    """`card(**changes of the facts)`; `path` and `tuning` are those of the model."""

    def make(path="org/base-1B", tuning=None, tasks=TASKS, family="llama", epochs=None, **changes):
        settings = configs.default()
        settings.loop.epochs = epochs
        settings.model.path = path
        settings.optim.learning_rate = 0.25
        settings.data.tasks = [{"name": name, "path": f"secret/{name}"} for name in tasks]
        kind = FAMILIES[family]
        model_config = kind.read_config(kind.tiny_config())
        tuning = tuning or FinetuneConfig("qlora", rank=12)
        folder = Path("home/someone/base-1B")
        base = BaseModelInfo(folder, kind, model_config, tuning, None, path, {})
        record = read_record(RECORD)
        facts = CardFacts(resolve(settings), base, 5, "peft", chat, (0,), record)
        return model_card(dataclasses.replace(facts, **changes))

    return make


def losses(card):
    """{task: (before, now, ratio)} and the step, of the printed table."""
    rows = re.findall(r"^\| (.+?) \| [\d,]+ \| (\S+) \| (\S+) \| (\S+) \|$", card, re.M)
    step = int(re.search(r"loss at step (\d+)", card)[1])
    return {name: tuple(map(float, numbers)) for name, *numbers in rows}, step


@pytest.mark.parametrize("step", [0, 1, 5, 6, 9, 10, 999])
def test_losses_are_of_the_step_or_of_the_last_evaluation_before_it(card, step):
    valid = read_record(RECORD).valid
    at = max(s for s in valid.step.tolist() if s <= step)
    place = valid.step.tolist().index(at)
    shown, named = losses(card(step=step))
    assert named == at and set(shown) == set(TASKS)
    for column, task in enumerate(TASKS):
        now, ratio = (valid.task[key][place, column] for key in ("loss", "ratio"))
        expected = (valid.task["loss"][0, column], now, ratio)
        np.testing.assert_allclose(shown[task], expected, atol=6e-4)


def test_a_model_that_is_no_better_is_not_handed_out_without_saying_so(card):
    assert "it is no better than the base model" in card(step=0)
    assert "no better" not in card(step=999)


def test_what_is_known_of_the_base_is_said_and_folders_of_the_user_are_not(card, tmp_path):
    text = card()
    assert re.match(r"---\n(?s:.*)\nbase_model: org/base-1B\n(?s:.*?)---\n", text)
    assert "quantised to nf4" in text and "finetune.rank = 12" in text
    assert "optim.learning_rate = 0.25" in text and "secret" not in text
    (folder := tmp_path / "someone" / "base-1B").mkdir(parents=True)
    local = card(path=str(folder))
    before_use = local.partition("## Use")[0]  # the code must find the base
    assert "base-1B (a local folder)" in before_use and "someone" not in before_use
    assert "base_model:" not in local
    folder.rmdir()
    assert "base_model:" not in card(path=str(folder))  # a folder that has gone is no hub name


def test_the_length_of_a_run_is_told_in_the_unit_it_was_set_in(card):
    assert "the model after step 5 of 1,000." in card()
    assert "the model after step 5 of a run of 2.5 epochs." in card(epochs=2.5)


def test_the_warm_up_that_was_used_and_every_change_on_the_way_are_shown(card):
    text = card()
    steps = configs.default().loop.steps
    assert f"optim.warmup_steps = {warmup_steps(OptimConfig(), steps)}\n" in text
    assert "null" not in text.partition("## Training")[2].partition("##")[0]
    assert "Changed on the way" not in text
    lower = {"step": 1200, "key": "optim.learning_rate", "before": 0.5, "after": 0.25}
    longer = {"step": 1300, "key": "loop.on_nonfinite", "before": "stop", "after": "skip"}
    text = card(changes=(lower, longer))
    assert "    from step 1,200 on: optim.learning_rate 0.5 -> 0.25\n" in text
    assert '    from step 1,300 on: loop.on_nonfinite "stop" -> "skip"\n' in text


def test_a_run_without_a_record_has_a_card(card):
    text = card(record=None)
    assert "- add\n- echo\n- rare\n" in text and "left no record of its losses" in text


def test_names_of_tasks_are_text_not_markup(card):
    text = card(record=None, tasks=("a|b", "<script>x</script>", "[x](y)\n# z"))
    assert "- a\\|b\n" in text and "<script" not in text
    assert "- \\[x\\](y) \\# z\n" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "vllm serve org/base-1B \\\n    --enable-lora --max-lora-rank 16 "),
        ({"tuning": FinetuneConfig("lora", rank=8, init="pissa")}, "--max-lora-rank 16 "),
        ({"tuning": FinetuneConfig("lora", rank=2)}, "--max-lora-rank 8 "),
        ({"tuning": FinetuneConfig("lora", dora=True)}, "export the run as `merged` for it"),
        ({"format": "merged"}, "vllm serve .\n"),
        ({"format": "merged", "family": "baichuan"}, "vllm serve . --trust-remote-code\n"),
        ({"family": "deepseek_v2"}, "Note: peft does not load the adapters of mlp/"),
    ],
)
def test_what_is_to_be_typed_fits_the_adapter(card, changes, expected):
    assert expected in card(**changes)
