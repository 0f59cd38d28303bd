"""Steps against epochs, and how often a step meets a task."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from mft_jax import door, testing
from mft_jax.config import LoopConfig, TrainConfig, resolve, to_dict
from mft_jax.data.mixture import Mixture
from mft_jax.data.rows import NumberedRows
from mft_jax.record.reading import read_record
from mft_jax.run.base_model import prepare
from mft_jax.run.batches import build_data
from mft_jax.run.console import quiet
from mft_jax.run.epochs import epoch_plan, plan_line, settled
from mft_jax.sharding import make_mesh


def plan(loop_config, rows=40, sizes=(20, 60), counts=(20, 60), with_task=(10, 40)):
    numbered = NumberedRows(rows, lambda number: pytest.fail("no row is read"), np.array(with_task))
    return epoch_plan(loop_config, numbered, Mixture(np.array(sizes), np.array(counts)))


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1.0, 14), (3.0, 40), (0.5, 7), (0.001, 1), (0.3, 4), (12.0, 160)]
)
def test_epochs_decide_the_steps_so_that_no_row_is_left_out(epochs, steps):
    made = plan(LoopConfig(epochs=epochs, rows_per_step=3))
    assert made.steps == steps
    assert made.epochs >= epochs - 1e-9 and (steps - 1) * 3 < epochs * 40


def test_without_epochs_the_steps_decide_and_both_are_said():
    loop_config = LoopConfig(steps=100, rows_per_step=2)
    made = plan(loop_config)
    assert (made.steps, made.epochs) == (100, 5.0)
    assert plan_line(made, loop_config) == (
        "100 steps of 2 rows are 5 epochs (one epoch is 40 rows)"
    )
    both = dataclasses.replace(loop_config, epochs=2.0)
    assert plan_line(plan(both), both) == (
        "2 epochs (loop.epochs) are 40 steps of 2 rows (one epoch is 40 rows); "
        "loop.steps=100 is not read"
    )


def test_the_settled_configuration_has_the_steps_and_the_warmup_that_follow():
    config = TrainConfig(loop=LoopConfig(epochs=2.0, rows_per_step=2))
    done = settled(config, plan(config.loop))
    assert (done.loop.steps, done.optim.warmup_steps) == (40, 4)
    assert settled(done, plan(done.loop)) == done


def test_a_task_repeats_as_often_as_the_mixture_draws_it():
    made = plan(LoopConfig(steps=100, rows_per_step=2), counts=(60, 20))
    np.testing.assert_allclose(made.task_epochs, [15.0, 5 / 3])


@pytest.mark.parametrize("rows_per_step", [1, 2, 3, 5, 9])
def test_presence_is_the_share_of_all_possible_steps_that_hold_the_task(rows_per_step):
    made = plan(LoopConfig(rows_per_step=rows_per_step), rows=5, with_task=(0, 1, 3, 5))
    steps = list(itertools.combinations(range(5), min(rows_per_step, 5)))
    expected = [np.mean([any(row < n for row in step) for step in steps]) for n in (0, 1, 3, 5)]
    np.testing.assert_allclose(made.presence, expected)


@pytest.mark.usefixtures("single_device")
def test_the_loader_of_a_run_of_epochs_has_the_batches_of_its_steps(tmp_path):
    raw = testing.toy_config(tmp_path, steps=4)
    raw.loop.steps, raw.loop.epochs = 1000, 0.33
    config, said = resolve(raw), []
    base = prepare(config, quiet)
    data = build_data(config, base, make_mesh(config.mesh), said.append)
    assert data.plan.steps == len(list(data.train)) == 4
    assert said[-1].startswith("0.33 epochs (loop.epochs) are 4 steps of 8 rows")


def test_a_record_says_what_was_read_and_noticed_and_how_many_epochs_were_planned(toy):
    config, workdir, _ = toy
    header = read_record(workdir / "metrics.jsonl").header
    assert header.epochs == pytest.approx(config.loop.steps * 8 / header.packing.rows)
    assert header.read_as == dict.fromkeys(("add", "echo", "rare"), "`prompt` -> `answer`")
    assert ("few_valid", "rare") in [(found.kind, found.task) for found in header.findings]


@pytest.mark.slow  # a run of its own, whose step is compiled
@pytest.mark.usefixtures("single_device")
def test_a_run_of_epochs_takes_their_steps_and_keeps_what_it_was_asked_for(tmp_path):
    config = testing.toy_config(tmp_path, steps=4)
    config.balancer.name = "uniform"
    config.loop.steps, config.loop.epochs = 1000, 0.33
    config.data.tasks[2]["valid_path"] = config.data.tasks[2]["path"]
    console = Console(file=io.StringIO(), width=80)
    run = door.train(config, tmp_path / "run", console)
    said = console.file.getvalue()
    record = read_record(tmp_path / "run" / "metrics.jsonl")
    assert run.reason == "finished" and record.train.step.tolist() == [0, 1, 2, 3]
    assert "0.33 epochs (loop.epochs) are 4 steps of 8 rows" in said
    assert to_dict(run.config) == to_dict(resolve(config)), "what a resumption is compared with"
    assert record.header.planned_steps == 4 and 0.33 <= record.header.epochs < 0.42
    assert set(record.header.read_as.values()) == {"`prompt` -> `answer`"}
    kinds = {finding.kind for finding in record.header.findings if finding.task == "rare"}
    assert "valid_is_train" in kinds
    assert "- rare: valid_path names what path names (rare.jsonl)" in said
    assert "Noticed before training" in (tmp_path / "run" / "report.html").read_text()
