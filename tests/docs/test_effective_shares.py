"""The example's claim: thirds at any micro-batch size, where MFTCoder's way gives frequencies."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).resolve().parents[2] / "docs" / "effective_shares.py"
SPEC = importlib.util.spec_from_file_location("effective_shares", PATH)
example = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(example)


@pytest.mark.parametrize("rows", [1, 2, 16, 128])
def test_dataset_normalization_gives_every_task_its_third_at_any_micro_batch_size(rows):
    # The rare task has 1.28 samples a step: its share has a standard error of 0.3 / sqrt(steps).
    share = example.effective_shares("dataset", rows, steps=4000)
    np.testing.assert_allclose(share, 1 / 3, atol=0.02)


def test_normalising_by_micro_batch_gives_the_frequencies_at_two_rows():
    share = example.effective_shares("microbatch", 2, steps=4000)
    np.testing.assert_allclose(share, example.FREQUENCIES, atol=0.01)


def test_dataset_normalization_needs_no_large_step_either():
    share = example.effective_shares("dataset", 2, steps=200_000, step_rows=2)
    np.testing.assert_allclose(share, 1 / 3, atol=0.02)


def test_the_figure_draws_every_mode_and_task():
    svg = example.draw({mode: [np.full(3, 1 / 3)] * 8 for mode in example.MODES})
    assert svg.count("<polyline") == 9 and all(mode in svg for mode in example.MODES)
