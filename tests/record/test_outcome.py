"""The rows that terminal, page and comparison share."""

import json
import math

import pytest

from mft_jax.record.outcome import final_ratios, mean_and_worst, task_outcomes
from mft_jax.record.reading import read_record


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


VALUES = [(0, 2.0, 4.0), (5, 1.0, None), (10, 1.5, None)]


@pytest.fixture
def record(tmp_path, run_line):
    """Two tasks; the second is absent from all passes after the first, and from the last step."""
    lines = [run_line("a", "b")]
    for step, a, b in VALUES:
        ratio = {"a": a / 2, "b": None if b is None else 1.0}
        lines.append(
            {"kind": "valid", "step": step, "loss": {"a": a, "b": b}, "ratio": ratio,
             "tokens": {"a": 5, "b": 5}}
        )  # fmt: skip
    for step, weight in ((0, 0.25), (1, None)):
        lines.append(
            {"kind": "train", "step": step, "loss": 1, "grad_norm": 1, "learning_rate": 1,
             "tokens_per_sec": 1, "padding": 0, "tokens": {"a": 1, "b": 1},
             "train_loss": {"a": 1, "b": 1}, "weight": {"a": 0.75, "b": weight}}
        )  # fmt: skip
    return read_record(write_lines(tmp_path / "metrics.jsonl", lines))


def test_a_task_has_its_first_last_and_best_known_values(record):
    a, b = task_outcomes(record)
    assert (a.before, a.last, a.best, a.best_step) == (2.0, 1.5, 1.0, 5)
    assert (a.ratio, a.weight) == (0.75, 0.75)
    assert (b.before, b.last, b.best_step, b.ratio, b.weight) == (4.0, 4.0, 0, 1.0, 0.25)
    assert final_ratios(record) == [0.75, 1.0]


def test_a_run_without_a_validation_pass_has_rows_too(tmp_path, run_line):
    record = read_record(write_lines(tmp_path / "metrics.jsonl", [run_line("a")]))
    (row,) = task_outcomes(record)
    assert row.best_step is None
    assert all(map(math.isnan, (row.before, row.last, row.best, row.ratio, row.weight)))


def test_mean_and_worst_are_over_the_known_ratios():
    assert mean_and_worst([0.5, math.nan, 1.0]) == (0.75, 1.0)
    assert all(map(math.isnan, mean_and_worst([math.nan])))
