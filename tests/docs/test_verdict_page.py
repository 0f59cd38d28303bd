"""The page about verdicts has a row for every word, with the numbers of the rules."""

import re
from pathlib import Path
from typing import get_args

from mft_jax.record import verdict as rules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verdict.md"


def test_every_word_has_its_rule_with_its_numbers():
    text = PAGE.read_text("utf-8")
    rows = dict(re.findall(r"^\| ([\w ]+?)(?: since step n| \(tasks\))? \| (.*?) \|", text, re.M))
    assert set(get_args(rules.Word)) == rows.keys() - {"word"}

    def numbers(word):
        return [float(number) for number in re.findall(r"(?<![\w-])\d+(?:\.\d+)?", rows[word])]

    percent = 100
    assert numbers("diverged") == [rules.DIVERGED_TREND, percent * rules.DIVERGED_RISE]
    little, gain = percent * rules.STARVED_SHARE, percent * rules.STARVED_GAIN
    assert numbers("starved") == [little, little, 1, gain]
    assert numbers("no better than the base") == [rules.NO_BETTER]
    assert numbers("overfitting") == [
        percent * rules.DIVERGED_RISE, percent * rules.OVERFITTING_RISE, rules.OVERFITTING_PASSES,
    ]  # fmt: skip
    assert numbers("stalled") == [
        percent * rules.STALLED_MARGIN, rules.STALLED_PASSES, percent * rules.STALLED_SHARE,
    ]  # fmt: skip
    assert f"known from {rules.TREND_STEPS} losses" in re.sub(r"\s+", " ", text)
