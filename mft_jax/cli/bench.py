"""`mft bench`: what the loader delivers and what the balancer costs, in ratios of one run."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from mft_jax import assembly
from mft_jax.balancers.registry import BalancerConfig
from mft_jax.cli import arguments as args
from mft_jax.config import TrainConfig
from mft_jax.sharding import make_mesh
from mft_jax.types import Batch, TaskSums


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_integer("repeats", 8, "timed steps of each kind", flag_values=values)
    args.parse("bench", "measure the loader and the balancer's cost", arguments, values)
    console = Console(markup=False)
    console.print(measure(args.resolved(values), values.repeats, console))
    return 0


def measure(config: TrainConfig, repeats: int, console: Console) -> Table:
    """Times are medians; the kinds of step take turns, so a noisy machine is noisy for all."""
    mesh = make_mesh(config.mesh)
    assembly.check_rows(config, mesh)
    model = assembly.load_model(config, mesh, console)
    data = assembly.build_data(config, model, console)
    loader_rate = _loader_rate(data, repeats)
    batch = assembly.place_batch(next(data.train), mesh)
    valid = assembly.place_batch(next(data.valid), mesh)
    tokens = int((np.asarray(batch.segment_ids) > 0).sum())

    timed: dict[str, Callable[[], Any]] = {}
    for balancer in (BalancerConfig(name="uniform"), _every_step(config.balancer)):
        balanced = dataclasses.replace(config, balancer=balancer)
        machinery = assembly.build_machinery(balanced, model, mesh, data)
        timed[balancer.name] = _stepper(machinery, model, batch, valid, len(data.tokenized.tasks))
        timed["validation forward"] = functools.partial(
            machinery.evaluate, model.trainable, model.frozen, valid
        )
    console.print("compiling and warming up", highlight=False)
    rounds = [{name: _seconds(call) for name, call in timed.items()} for _ in range(repeats + 2)]
    median = {name: statistics.median(row[name] for row in rounds[2:]) for name in timed}
    # Pair by pair, because the machine's speed drifts from round to round.
    overhead = statistics.median(row[config.balancer.name] - row["uniform"] for row in rounds[2:])
    return _table(config, tokens, loader_rate, median, overhead)


def _every_step(config: BalancerConfig) -> BalancerConfig:
    """The balancer at its dearest: a look at the validation micro-batch in every step."""
    return dataclasses.replace(config, coba=dataclasses.replace(config.coba, update_every_steps=1))


def _stepper(
    machinery: assembly.Machinery, model: assembly.Model, batch: Batch, valid: Batch, num_tasks: int
) -> Callable[[], Any]:
    ones = TaskSums(*(np.ones(num_tasks, np.float32) for _ in range(2)))
    # The step donates its state, so it gets a copy and not the model's own parameters.
    trainable = jax.tree.map(jax.numpy.copy, model.trainable)
    state = machinery.init_state(trainable, ones)

    def call() -> Any:
        nonlocal state
        state, metrics = machinery.step(state, model.frozen, batch, valid)
        return metrics

    return call


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _loader_rate(data: assembly.Data, repeats: int) -> float:
    """Non-padding tokens per second of the loader alone, after its first batch."""
    next(data.train)
    start, tokens = time.perf_counter(), 0
    for _ in range(repeats):
        tokens += int((next(data.train).segment_ids > 0).sum())
    return tokens / (time.perf_counter() - start)


def _table(
    config: TrainConfig,
    tokens: int,
    loader_rate: float,
    median: dict[str, float],
    overhead: float,
) -> Table:
    name = config.balancer.name
    step_rate = tokens / median[name]
    forward = median["validation forward"]
    table = Table(title=f"{name} against uniform", title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    rows = {f"step, {key}": f"{secs * 1e3:,.0f} ms" for key, secs in median.items()}
    rows |= {
        f"{name} - uniform": f"{overhead * 1e3:,.0f} ms ({overhead / median['uniform']:+.1%})",
        f"{name} - uniform, in validation forwards": f"{overhead / forward:.2f}",
        "tokens/s of the step": f"{step_rate:,.0f}",
        "tokens/s of the loader alone": f"{loader_rate:,.0f}",
        "loader over step": f"{loader_rate / step_rate:,.0f} x",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table
