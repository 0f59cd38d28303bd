"""`mft bench --suite=growth`: exponents are those of the arrays, and every axis has its rows."""

import io

import numpy as np
import pytest
from rich.console import Console

from mft_jax.cli import main
from mft_jax.cli.bench import growth
from mft_jax.cli.bench.exponents import exponent, verdict
from mft_jax.cli.bench.made_step import rows_of_samples
from mft_jax.config import TrainConfig
from mft_jax.data.packed_rows import join_tasks
from mft_jax.types import MftError

pytestmark = pytest.mark.usefixtures("single_device")


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_an_exponent_is_not_hidden_by_what_does_not_grow(power):
    values = 512.0 * 2.0 ** np.arange(7)
    measured = values**power + values[0] ** power
    assert exponent(values.tolist(), measured.tolist()) == pytest.approx(power, abs=0.1)
    assert exponent([1.0, 2.0], [3.0, 3 * 2**power]) == pytest.approx(power)


def test_time_may_grow_as_the_arithmetic_and_memory_only_linearly():
    assert verdict(1.05, 1.05, 1.0) == "not faster than linear"
    assert verdict(1.5, 1.0, 1.6) == "time as its arithmetic"
    assert verdict(1.5, 1.0, 1.1) == "time faster than linear"
    assert verdict(1.9, 1.3, 2.0) == "memory faster than linear"


def test_rows_are_full_and_tasks_take_turns():
    batch = rows_of_samples(2, 48, tokens_per_sample=16, num_tasks=2, vocab_size=9)
    assert batch.tokens.shape == (1, 2, 48) and (batch.segment_ids > 0).all()
    assert batch.task_ids[0, 0, ::16].tolist() == [0, 1, 0]
    # A sample's first token is no target, and a row holds the weight of targets.
    assert batch.loss_weights.sum() == 2 * 3 * 15
    whole = rows_of_samples(1, 8, tokens_per_sample=8, num_tasks=1, vocab_size=9)
    assert whole.positions.tolist() == [[list(range(8))]]


def test_the_loader_is_measured_through_its_row_provider_on_so_many_samples():
    assert len(join_tasks((growth.synthetic(300),)).lengths) == 300
    (packing, packed), (loading, loaded) = growth.samples((200, 400))
    assert "packing" in packing and "a batch" in loading
    assert [one.value for one in packed] == [one.value for one in loaded] == [200, 400]
    found = growth.in_turns(loaded, repeats=1)
    assert all(one.seconds >= 0 for one in found) and found[0].temporaries == 0


def test_lengths_are_doubled_up_to_the_longest():
    assert growth.Extent.of(["length"], 5000).lengths == (512, 1024, 2048, 4096)
    assert growth.Extent.of(["rank", "samples"], 512).tasks == ()
    with pytest.raises(MftError, match="--longest=511: expected at least 512"):
        growth.Extent.of(["length"], 511)


def test_what_does_not_grow_is_refused_with_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--suite=growth", "--grow=lenght"])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and "did you mean 'length'?" in err and len(err.splitlines()) == 1


@pytest.mark.slow  # it compiles six steps
def test_one_table_of_eighty_columns_shows_every_axis_with_its_exponents(monkeypatch):
    monkeypatch.setattr(growth, "TASKS_LENGTH", 64)
    printed = io.StringIO()
    console = Console(file=printed, width=100)
    extent = growth.Extent(lengths=(64, 128), tasks=(1, 3), ranks=(2, 4), samples=(200, 400))
    config = TrainConfig()
    assert growth.run(config, extent, 1, console) == 0
    lines = printed.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert max(len(line) for line in lines if "│" in line) == 80
    assert sum(row[2].startswith("^") for row in rows) == 6
    assert sum(row[4].startswith("^") for row in rows) == 4  # no memory of a device in the loader
    first = " ".join(row[0] for row in rows)
    for name in ("row, one document", "tasks", "rank of adapters", "samples: packing an epoch"):
        assert name in first
    # A length whose temporaries the machine has no room for is said, and not computed.
    monkeypatch.setattr(growth, "there", lambda: 1.0)
    growth.run(config, growth.Extent(lengths=(64,)), 1, console)
    assert "a row of 64 and longer is not measured" in printed.getvalue()
