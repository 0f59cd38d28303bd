"""The cost of every balancer relative to `uniform`, and whether the loader is fast enough."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.registry import BALANCERS, BalancerConfig
from mft_jax.balancers.static import StaticConfig
from mft_jax.config import TrainConfig
from mft_jax.data.tasks import Tasks
from mft_jax.run import batches, out_of_memory, parts
from mft_jax.run.base_model import load_untrained, prepare
from mft_jax.run.console import read_progress, sayer, task_progress
from mft_jax.run.epochs import settled
from mft_jax.sharding import make_mesh
from mft_jax.types import Batch, MftError, Params, TaskSums, TaskTable, suggest

WARM_UP_ROUNDS = 2
LOADED_BESIDES = 2  # batches besides those that are timed: the loader's first, and the step's
CAPTION = (
    "F forward, B backward; v: on the validation micro-batch; *: kept apart by task\n"
    "the CoBa paper counts F + B for uniform and 2F + B for coba"
)


class Timed(NamedTuple):
    """A compiled step: `call` runs it once and waits, `memory` is its temporaries in bytes."""

    needs: str
    call: Callable[[], None]
    memory: int


def run(
    config: TrainConfig,
    named: Sequence[str] | None,
    repeats: int,
    num_tasks: int | None,
    console: Console,
) -> None:
    """Prints the tables of the balancers that are `named` (all: every one; none: the config's)."""
    names = named or [config.balancer.name]
    names = list(BALANCERS) if names == ["all"] else names
    unknown = sorted(set(names) - set(BALANCERS))
    if unknown:
        hint = suggest(unknown[0], BALANCERS) or f"expected all, or {', '.join(BALANCERS)}"
        raise MftError(f"--balancers: {unknown[0]!r} is no balancer; {hint}")
    if num_tasks is not None and num_tasks < 1:
        raise MftError(f"--num_tasks={num_tasks}: expected at least 1")
    config = _with_enough_steps(config, repeats)
    with out_of_memory.explained(lambda: out_of_memory.training_remedy(config)):
        tables = measure(config, names, repeats, num_tasks, console)
    for table in tables:
        console.print(table)


def _with_enough_steps(config: TrainConfig, repeats: int) -> TrainConfig:
    """The config with batches for all that is timed: the loader ends after `loop.steps` of them.
    The number of steps changes no step's cost."""
    steps = max(config.loop.steps, repeats + LOADED_BESIDES)
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=steps))


def measure(
    config: TrainConfig, names: Sequence[str], repeats: int, num_tasks: int | None, console: Console
) -> list[Table]:
    """Times are medians; the kinds of step take turns, so a noisy machine is noisy for all, and in
    another order in every round, since a step's memory is warm or cold by the one before it.
    """
    mesh = make_mesh(config.mesh)
    parts.check_rows(config, mesh)
    say = sayer(console)
    base = prepare(config, say)
    say(f"attention: {parts.attention(config, base, mesh)}")
    weights, trainable = load_untrained(config, base, mesh, read_progress(console))
    data = batches.build_data(config, base, mesh, say, task_progress(console))
    config = settled(config, data.plan)
    tasks, loader_rate = data.tasks, _loader_rate(data, repeats)
    batch, valid = next(data.train), data.valid.batch(0)
    if num_tasks is not None:
        tasks = _with_tasks(tasks, num_tasks)
        batch, valid = (_deal_out(rows, num_tasks) for rows in (batch, valid))
    batch, valid = (batches.place_batch(rows, mesh) for rows in (batch, valid))
    tokens = int((np.asarray(batch.segment_ids) > 0).sum())
    count = len(tasks.table)
    timed: dict[str, Timed] = {}
    for name in dict.fromkeys(["uniform", *names]):
        console.print(f"compiling {name}", highlight=False)
        balanced = dataclasses.replace(config, balancer=_costliest(config.balancer, name))
        parts.check_steps(balanced, base, tasks)
        functions = parts.build_step_functions(balanced, base, mesh, tasks)
        timed[name] = _stepper(functions, trainable, weights.frozen, batch, valid)
        if name == "uniform":
            evaluate = functools.partial(functions.evaluate, trainable, weights.frozen, valid)
            timed["validation forward"] = Timed("", lambda call=evaluate: _wait(call()), 0)
    order = np.random.default_rng(0)
    rounds = [
        {name: _seconds(timed[name].call) for name in order.permutation(list(timed)).tolist()}
        for _ in range(repeats + WARM_UP_ROUNDS)
    ][WARM_UP_ROUNDS:]
    return [
        _cost_table(config, timed, rounds, count),
        _loader_table(tokens / statistics.median(r["uniform"] for r in rounds), loader_rate),
    ]


def _with_tasks(tasks: Tasks, num_tasks: int) -> Tasks:
    table = TaskTable(tuple(f"task_{i}" for i in range(num_tasks)))
    expected = {unit: np.full(num_tasks, 1.0) for unit in tasks.expected_counts}
    return dataclasses.replace(tasks, table=table, expected_counts=expected)


def _deal_out(batch: Batch, num_tasks: int) -> Batch:
    """The n-th segment of the batch becomes one of task n % num_tasks."""
    rows = batch.segment_ids.reshape(-1, batch.segment_ids.shape[-1])
    before = np.cumsum(rows.max(axis=1)) - rows.max(axis=1)
    dealt = (rows + before[:, None]) % num_tasks
    return batch._replace(task_ids=dealt.reshape(batch.task_ids.shape).astype(np.int32))


def _costliest(balancer_config: BalancerConfig, name: str) -> BalancerConfig:
    """The settings of the balancer `name` for its costliest step, in which coba measures validation
    losses. What only the configured balancer reads is left out for the others."""
    coba = dataclasses.replace(balancer_config.coba, update_every_steps=1)
    if name != balancer_config.name:
        balancer_config = dataclasses.replace(
            balancer_config, name=name, signal="train", static=StaticConfig()
        )
    return dataclasses.replace(balancer_config, coba=coba)


def _stepper(
    functions: parts.StepFunctions, trainable: Params, frozen: Params, batch: Batch, valid: Batch
) -> Timed:
    num_tasks = functions.spec.objective.num_tasks
    ones = TaskSums(*(np.ones(num_tasks, np.float32) for _ in range(2)))
    # The state takes its parameters over, and the other balancers need them, too.
    state = functions.init_state(jax.tree.map(jax.numpy.copy, trainable), ones)
    analysis = functions.step.lower(state, frozen, batch, valid).compile().memory_analysis()

    def call() -> None:
        nonlocal state
        state, metrics = functions.step(state, frozen, batch, valid)
        _wait((state, metrics))

    memory = 0 if analysis is None else analysis.temp_size_in_bytes
    return Timed(_needs(functions.balancer), call, memory)


def _needs(balancer: Balancer) -> str:
    """Passes of a step, see the table's caption."""
    passes = ["F + B"]
    if "task_gradients" in balancer.needs:
        passes = ["F + B*"]
    if "valid_losses" in balancer.needs:
        passes.append("vF")
    if "valid_gradients" in balancer.needs:
        passes += ["vF", "vB*"]
    passes += ["F"] * ("post_step_train_losses" in balancer.needs)
    passes += ["vF"] * ("post_step_valid_losses" in balancer.needs)
    return " + ".join(passes)


def _wait(result: Any) -> None:
    jax.block_until_ready(result)


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _loader_rate(data: batches.Data, repeats: int) -> float:
    """Non-padding tokens per second of the loader without a step, after its first batch."""
    next(data.train)
    start, tokens = time.perf_counter(), 0
    for _ in range(repeats):
        tokens += int((next(data.train).segment_ids > 0).sum())
    return tokens / (time.perf_counter() - start)


def _cost_table(
    config: TrainConfig, timed: dict[str, Timed], rounds: list[dict[str, float]], num_tasks: int
) -> Table:
    table = Table(
        title=f"one step with K = {num_tasks} tasks, {config.finetune.method}",
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
    )
    table.add_column("balancer", no_wrap=True)
    for column in ("ms", "over uniform", "memory", "passes"):
        table.add_column(column, justify="right", no_wrap=True)
    uniform = statistics.median(row["uniform"] for row in rounds)
    for name, step in timed.items():
        median = statistics.median(row[name] for row in rounds)
        # Pair by pair, because the machine's speed drifts from round to round.
        over = statistics.median(row[name] - row["uniform"] for row in rounds)
        cells = [f"{median * 1e3:,.0f}"]
        if name == "validation forward":
            cells += [f"{median / uniform:.1%} of it", "", "vF"]
        else:
            memory = step.memory / max(timed["uniform"].memory, 1)
            cells += [f"{over / uniform:+.1%}", f"x {memory:.2f}", step.needs]
        table.add_row(name, *cells)
    return table


def _loader_table(step_rate: float, loader_rate: float) -> Table:
    table = Table(title="loader against step", title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_row("tokens/s of the uniform step", f"{step_rate:,.0f}")
    table.add_row("tokens/s of the loader", f"{loader_rate:,.0f}")
    table.add_row("loader over step", f"{loader_rate / step_rate:,.0f} x")
    return table
