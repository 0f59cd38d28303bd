"""The verdict: every rule on both sides of its bounds, and the same words for a whole record."""

import json
import re

import numpy as np
import pytest

from mft_jax.config import TrainConfig
from mft_jax.record import schema
from mft_jax.record import verdict as rules
from mft_jax.record.reading import read_record
from mft_jax.record.verdict import ADVICE, WARY_ADVICE, Course, judge, no_better_note, verdict
from mft_jax.settings import settings

NAN = float("nan")


def course(*ratio, every=10, trend=NAN, presence=1.0, weight=1.0):
    """A pass every so many steps, the first before training."""
    step = every * np.arange(len(ratio))
    return Course(step, np.array(ratio, float), trend, presence, weight)


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (course(1.0), "unknown"),
        (course(1.0, 0.93), "improved"),
        (course(1.0, 0.996, 0.9951), "no better than the base"),
        (course(1.0, 1.02), "no better than the base"),
        (course(1.0, 0.995), "improved"),
        (course(1.0, 1.2), "diverged since step 0"),
        (course(1.0, 1.2, trend=0.9), "no better than the base"),
        (course(1.0, 0.7, 0.78, trend=1.0), "diverged since step 10"),
        (course(1.0, 0.7, 0.78, trend=0.9), "overfitting since step 10"),
        (course(1.0, 0.8, trend=1.6), "diverged"),
        (course(1.0, trend=1.6), "diverged"),
        (course(1.0, 0.8, trend=1.4), "improved"),
        (course(1.0, 0.8, 0.81, 0.82, trend=0.9), "overfitting since step 10"),
        (course(1.0, 0.8, 0.82, trend=0.9), "improved"),  # one pass alone may be noise
        (course(1.0, 0.8, 0.81, 0.82, trend=1.01), "improved"),
        (course(1.0, 0.8, 0.81, 0.815, trend=0.9), "improved"),  # 1.9 % above
        (course(1.0, 0.8, 0.799, 0.798, 0.797), "stalled since step 10"),
        (course(1.0, 0.8, 0.799, 0.798, 0.795), "improved"),  # 0.6 % better than step 10
        (course(1.0, 0.99, 0.98, 0.9, 0.8, 0.8, 0.8, 0.8), "improved"),  # three of seven intervals
        (course(1.0, 0.9, 0.8, 0.8, 0.8, 0.8), "stalled since step 20"),
    ],
)
def test_a_course_of_ratios_has_the_word_that_its_rule_says(passes, expected):
    assert judge(passes).short == expected


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"presence": 0.09}, "starved"),
        ({"presence": 0.1}, "improved"),
        ({"weight": 0.09}, "starved"),
        ({"weight": 0.1}, "improved"),
        ({}, "improved"),
    ],
)
def test_a_task_is_starved_where_it_gets_little_and_gains_less_than_half_of_the_others(
    shares, expected
):
    assert judge(course(1.0, 0.98, **shares), mean_gain=0.05).word == expected
    assert judge(course(1.0, 0.97, **shares), mean_gain=0.05).word == "improved"


def record_of(path, run_line, ratios, losses=(), end=None, tokens=1.0):
    """Two tasks: `ratios[a][n]` after 10 n steps; `losses` of both in every step."""
    lines = [run_line("a", "b")]
    for place, (a, b) in enumerate(zip(*ratios, strict=True)):
        both = {"a": a, "b": b}
        lines.append(schema.line(schema.VALID, step=10 * place, loss=both, ratio=both, tokens=both))
    for step, loss in enumerate(losses):
        both = {"a": loss, "b": loss}
        lines.append(
            schema.line(
                schema.TRAIN, step=step, loss=loss, grad_norm=1, learning_rate=1, tokens_per_sec=1,
                padding=0, tokens={"a": 1, "b": tokens * (step == 0)}, train_loss=both,
                weight={"a": 0.5, "b": 0.5},
            )
        )  # fmt: skip
    if end:
        lines.append(schema.line(schema.END, step=10, reason=end, seconds=1))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_record(path)


def test_the_run_is_judged_by_its_mean_and_names_the_tasks_that_differ(tmp_path, run_line):
    ratios = [(1, 0.7, 0.6), (1, 1.01, 1.02)]
    judged = verdict(record_of(tmp_path / "r.jsonl", run_line, ratios, end="finished"))
    assert judged.word == "improved" and judged.better_than_base and judged.finished
    assert judged.tasks["b"].word == "no better than the base"
    assert str(judged) == (
        "improved: validation loss 19.0% below the base, on average over tasks; "
        "1 task no better than the base (b)"
    )
    assert judged.advice == f"no better than the base: {ADVICE['no better than the base']}"


@pytest.mark.parametrize("end", [None, "interrupted"])
def test_a_run_that_has_not_ended_has_a_verdict_so_far(tmp_path, run_line, end):
    ratios = [(1, 0.9), (1, 0.9)]
    judged = verdict(record_of(tmp_path / "r.jsonl", run_line, ratios, end=end))
    assert not judged.finished and str(judged).startswith("so far improved: ")


def test_training_loss_and_share_of_steps_come_from_the_record(tmp_path, run_line):
    ratios, losses = [(1, 0.9), (1, 0.99)], [2.0] * 20 + [4.0] * 5
    judged = verdict(record_of(tmp_path / "r.jsonl", run_line, ratios, losses))
    assert judged.word == "diverged" and "2.0 times its start" in judged.run.reason
    judged = verdict(record_of(tmp_path / "r.jsonl", run_line, ratios, [2.0] * 25))
    assert judged.tasks["b"].word == "starved" and "in 4.0% of the steps" in str(judged.tasks["b"])


@pytest.mark.parametrize(("last", "word"), [("stopped", "diverged"), ("changed", "improved")])
def test_a_run_that_could_not_continue_has_diverged_until_it_continues(
    tmp_path, run_line, last, word
):
    path = tmp_path / "r.jsonl"
    record_of(path, run_line, [(1, 0.9), (1, 0.9)])
    with path.open("a") as file:
        for what in ("stopped", last):
            text = "step 12: the loss is not finite"
            file.write(json.dumps(schema.line(schema.EVENT, step=10, what=what, text=text)) + "\n")
    judged = verdict(read_record(path))
    assert judged.word == word and ("not finite" in str(judged)) == (word == "diverged")


def test_a_run_that_diverged_twice_in_the_same_way_has_diverged(tmp_path, run_line):
    path = tmp_path / "r.jsonl"
    record_of(path, run_line, [(1, 0.9), (1, 0.9)])
    run, text = path.read_text().splitlines()[0], "step 12: the loss is not finite"
    with path.open("a") as file:
        for what in ("stopped", "changed", "stopped"):
            event = schema.line(schema.EVENT, step=10, what=what, text=f"{text} ({what})")
            file.write(json.dumps(event) + "\n" + f"{run}\n" * (what == "changed"))
    record = read_record(path)
    assert [event.what for event in record.events] == ["changed", "stopped"]
    assert verdict(record).word == "diverged"


@pytest.mark.parametrize(
    ("passes", "word", "higher"),
    [
        (course(1.0, 0.8, 0.799, 0.798, 0.797), "stalled", True),
        (course(1.0, 0.8, 0.801, 0.8, 0.803), "stalled", False),  # risen
        (course(1.0, 0.8, 0.82, 0.83, 0.83, trend=1.1), "stalled", False),
        (course(1.0, 0.99, 0.99, 0.99, 0.99), "stalled", False),  # near the base
        (course(1.0, 1.0, 1.02), "no better than the base", False),
        (course(1.0, 0.999, 0.998), "no better than the base", False),
    ],
)
def test_no_higher_rate_is_advised_where_the_loss_has_risen_or_is_near_the_base(
    passes, word, higher
):
    judged = judge(passes)
    assert judged.word == word
    assert ("a higher optim.learning_rate" in judged.advice) == higher
    assert ("a lower optim.learning_rate" in judged.advice) != higher


def test_a_record_without_passes_is_unknown(tmp_path, run_line):
    judged = verdict(record_of(tmp_path / "r.jsonl", run_line, [(), ()]))
    assert judged.word == "unknown" and not judged.better_than_base


def test_a_checkpoint_that_is_no_better_is_not_handed_out_without_saying_so(tmp_path, run_line):
    record = record_of(tmp_path / "r.jsonl", run_line, [(1, 0.9, 1.1), (1, 0.9, 1.0)])
    assert no_better_note(record, 10) is None
    assert "step 20 is no better than the model before training" in no_better_note(record, 20)
    assert "ratio is 1.050" in no_better_note(record, 20)
    flat = record_of(tmp_path / "r.jsonl", run_line, [(1, 0.999), (1, 0.999)])
    assert "not known to be better" in no_better_note(flat, 15)  # not measured, nor any other


def test_advice_names_settings_that_exist():
    known = {setting.name for setting in settings(TrainConfig)}
    for text in (*ADVICE.values(), *WARY_ADVICE.values()):
        named = re.findall(r"\b(?:optim|data|loop|finetune)\.\w+", text)
        assert set(named) <= known, text


def test_the_rules_in_words_have_the_numbers_of_the_rules():
    text = re.sub(r"\s+", " ", rules.__doc__)
    for words in (
        f"trend > {rules.DIVERGED_TREND}",
        f"rise > {rules.DIVERGED_RISE:.0%}".replace("%", " %"),
        f"> {rules.OVERFITTING_RISE:.0%}".replace("%", " %"),
        f"best > {rules.NO_BETTER}",
        f"above {rules.NEAR_BASE}",
        f"within {rules.STALLED_MARGIN:.1%} of best".replace("%", " %"),
    ):
        assert words in text
    assert (rules.OVERFITTING_PASSES, rules.STALLED_PASSES, rules.TREND_SHARE) == (2, 3, 5)
    assert (rules.STALLED_SHARE, rules.STARVED_SHARE, rules.STARVED_GAIN) == (0.5, 0.1, 0.5)
