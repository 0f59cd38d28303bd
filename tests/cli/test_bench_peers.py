"""`mft bench --suite=peers`: both sides get the same samples, and compute the same loss."""

import importlib.util

import numpy as np
import pytest

from mft_jax.cli import main
from mft_jax.cli.bench.peer_batches import IGNORED, Samples, grouped_by_length, padded, samples_of
from mft_jax.cli.bench.peers import same_loss
from mft_jax.data.packing import fill_row
from mft_jax.data.rows import stack
from mft_jax.data.tasks import TokenizedData
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.types import MftError, TaskTable

pytestmark = pytest.mark.usefixtures("single_device")


def bench(capsys, *flags):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--suite=peers", *map(str, flags)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_the_samples_of_packed_rows_are_those_that_were_packed():
    tokens = [np.array([5, 6, 7]), np.array([8, 9])]
    weights = [np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0])]
    batch = stack([stack([fill_row(tokens, weights, [0, 1], 8)])])
    found = samples_of(batch)
    assert [sample.tokens.tolist() for sample in found] == [[5, 6, 7], [8, 9]]
    assert [sample.weights.tolist() for sample in found] == [[0, 0, 1], [0, 1]]
    got = padded(found)
    assert got.labels.tolist() == [[IGNORED, IGNORED, 7], [IGNORED, 9, IGNORED]]
    assert got.mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_batches_grouped_by_length_pad_less_and_lose_no_sample():
    lengths = np.random.default_rng(0).integers(2, 99, 120)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    task = TokenizedTask(np.zeros(offsets[-1], np.int32), np.ones(offsets[-1]), offsets)
    samples = Samples(TokenizedData(TaskTable(("a",)), (task,), (), (), ()), vocab_size=9)
    order = np.random.default_rng(1).permutation(120)
    grouped = grouped_by_length(samples, order, 8)
    assert sorted(grouped) == list(range(120))

    def positions(indices):
        return sum(8 * lengths[indices[i : i + 8]].max() for i in range(0, 120, 8))

    assert positions(grouped) < 0.8 * positions(order)


def test_sides_that_compute_another_loss_are_not_timed():
    same_loss(8.0, 8.00001)
    for theirs in (8.1, float("nan")):
        with pytest.raises(MftError, match="nothing was timed"):
            same_loss(8.0, theirs)


def test_without_torch_the_extra_is_named(config_file, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "peft" else found(n))
    code, _, err = bench(capsys, f"--config={config_file}")
    assert code == 2 and "peft is not installed" in err and "pip install -e '.[parity]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # those of torch, transformers and peft among themselves
def test_both_sides_are_timed_on_the_same_weights(config_file, capsys, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    pytest.importorskip("peft", reason="needs the extra `parity` (peft)")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = bench(capsys, f"--config={config_file}", "--sizes=tiny", "--repeats=1")
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("│")]
    assert len(lines) == 5 and sum(" x " in line.rsplit("│", 2)[1] for line in lines) == 2
    assert "full rows of 2 x 64: peft" in out and "grouped by length" in out
    code, _, err = bench(capsys, f"--config={config_file}", "--sizes=7mm")
    assert code == 2 and "did you mean '7m'?" in err
