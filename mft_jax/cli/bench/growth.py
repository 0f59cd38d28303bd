"""How time and memory grow: with a row's length, tasks, an adapter's rank, and samples.

Of each, what is measured takes turns in every round, so that a noisy machine is noisy for all. The
model is made on the spot and small, so that what grows is not hidden behind its weights.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from mft_jax.balancers.coba import CobaConfig
from mft_jax.balancers.registry import BalancerConfig
from mft_jax.cli.bench.exponents import Measured, growth_table
from mft_jax.cli.bench.made_step import MadeStep, rows_of_samples, with_model, with_tasks
from mft_jax.cli.bench.peers import cpu_seconds
from mft_jax.config import TrainConfig
from mft_jax.data.loader import train_loader
from mft_jax.data.packed_rows import packed_rows
from mft_jax.data.rows import BatchRows
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.run import memory, parts
from mft_jax.run.console import quiet, sayer
from mft_jax.run.plan_step import described
from mft_jax.sharding import MeshConfig, make_mesh
from mft_jax.types import MftError, suggest

GROWN = ("length", "tasks", "rank", "samples")
SHORTEST = 512
TASKS, RANKS = (1, 16, 128), (4, 32, 256)
SAMPLES = (1_000, 10_000, 100_000, 1_000_000)
MODEL = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 2048,
}
RANK, SHORT_SAMPLE = 16, 128
TASKS_LENGTH, TASKS_SAMPLE = 2048, 16  # a row holds a sample of every task
LOADED_LENGTH, LOADED_ROWS, LOADED_BATCHES = 2048, 8, 32
SAMPLE_TOKENS = (16, 400)
SHARE_OF_MEMORY = 0.8  # that temporaries may take; the rest is for arguments and the process


class Point(NamedTuple):
    """What is measured at one value. `temporaries` in bytes and `flops`: 0 where there are none."""

    value: int
    seconds: Callable[[], float]
    temporaries: int = 0
    flops: float = 0.0


@dataclasses.dataclass(frozen=True)
class Extent:
    """The values at which each is measured; none: it is left out."""

    lengths: tuple[int, ...] = ()
    tasks: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()

    @classmethod
    def of(cls, grow: Sequence[str], longest: int) -> "Extent":
        """Raises `MftError` where nothing or something unknown is to be measured."""
        unknown = sorted(set(grow) - set(GROWN))
        if unknown or not grow:
            hint = suggest(unknown[0], GROWN) if unknown else ""
            hint = hint or f"expected some of {', '.join(GROWN)}"
            raise MftError(f"--grow={','.join(grow)}: nothing that grows; {hint}")
        if longest < SHORTEST:
            raise MftError(f"--longest={longest}: expected at least {SHORTEST}")
        doublings = (longest // SHORTEST).bit_length()
        return cls(
            tuple(SHORTEST * 2**i for i in range(doublings)) if "length" in grow else (),
            TASKS if "tasks" in grow else (),
            RANKS if "rank" in grow else (),
            SAMPLES if "samples" in grow else (),
        )


def run(config: TrainConfig, extent: Extent, repeats: int, console: Console) -> int:
    say = sayer(console)
    measured: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = small(config, Path(folder))
        device = make_mesh(config.mesh, jax.devices()[:1])
        say(f"attention: {parts.attention(config, described(config, quiet), device)}")
        for name, points in (
            *lengths(config, extent.lengths, say),
            ("tasks", [task_point(config, count, say) for count in extent.tasks]),
            ("rank of adapters", [rank_point(config, rank, say) for rank in extent.ranks]),
            *samples(extent.samples),
        ):
            if points:
                say(f"timing: {name}")
                measured[name] = in_turns(points, repeats)
    console.print(growth_table(measured, repeats))
    return 0


def small(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config with the small model, QLoRA, and one row of a step on one device."""
    config = dataclasses.replace(
        config,
        finetune=FinetuneConfig(rank=RANK),
        balancer=BalancerConfig(name="uniform"),
        mesh=MeshConfig(1, 1, 1),
        loop=dataclasses.replace(config.loop, rows_per_step=1, micro_batches=1, valid_rows=1),
    )
    return with_model(config, folder, MODEL)


def made(config: TrainConfig, length: int, num_tasks: int = 1) -> MadeStep:
    data_config = dataclasses.replace(config.data, row_length=length)
    config = with_tasks(dataclasses.replace(config, data=data_config), num_tasks)
    shape = MODEL | {"max_position_embeddings": length}
    config = with_model(config, Path(config.model.path), shape)
    return MadeStep.make(config, make_mesh(config.mesh, jax.devices()[:1]))


def point(step: MadeStep, value: int, tokens_per_sample: int, num_tasks: int = 1) -> Point:
    length = step.config.data.row_length
    batch = rows_of_samples(1, length, tokens_per_sample, num_tasks, MODEL["vocab_size"])
    timed = functools.partial(step_seconds, step.steps_of(batch))
    return Point(value, timed, step.temporaries, step.work(tokens_per_sample).total)


def lengths(
    config: TrainConfig, values: Sequence[int], say: Callable[[str], None]
) -> list[tuple[str, list[Point]]]:
    """One compiled step of each length, for one long document and for short samples."""
    one, short = [], []
    for length in values:
        say(f"compiling: a row of {length:,}")
        step = made(config, length)
        room = SHARE_OF_MEMORY * there()
        if step.temporaries > room:
            say(
                f"a row of {length:,} and longer is not measured: {step.temporaries / 2**30:.1f} "
                f"GiB of temporaries, and {room / 2**30:.1f} GiB may be taken"
            )
            break
        one.append(point(step, length, length))
        short.append(point(step, length, SHORT_SAMPLE))
    return [("row, one document", one), (f"row, samples of {SHORT_SAMPLE}", short)]


def task_point(config: TrainConfig, num_tasks: int, say: Callable[[str], None]) -> Point:
    say(f"compiling: {num_tasks} task(s)")
    # What grows with tasks is the balancer: CoBa, looking at validation losses in every step.
    coba = CobaConfig(update_every_steps=1)
    config = dataclasses.replace(config, balancer=BalancerConfig(name="coba", coba=coba))
    step = made(config, TASKS_LENGTH, num_tasks)
    return point(step, num_tasks, TASKS_SAMPLE, num_tasks)


def rank_point(config: TrainConfig, rank: int, say: Callable[[str], None]) -> Point:
    say(f"compiling: rank {rank}")
    tuning = dataclasses.replace(config.finetune, rank=rank)
    step = made(dataclasses.replace(config, finetune=tuning), SHORTEST)
    return point(step, rank, SHORT_SAMPLE)


def samples(values: Sequence[int]) -> list[tuple[str, list[Point]]]:
    """The loader on synthetic counts of tokens: the first epoch's packing, and a batch of it."""
    packing, loading = [], []
    for number in values:
        task = synthetic(number)
        pack = functools.partial(packed_rows, (task,), LOADED_LENGTH, seed=0)
        rows = pack()
        count = max(min(LOADED_BATCHES, rows.rows_per_epoch // LOADED_ROWS), 1)

        def drain(rows=rows, count=count) -> None:
            for _ in train_loader(rows, BatchRows(LOADED_ROWS), count):
                pass

        def a_batch(drain=drain, count=count) -> float:
            return cpu_seconds(drain) / count

        packing.append(Point(number, functools.partial(cpu_seconds, pack)))
        loading.append(Point(number, a_batch))
    shape = f"{LOADED_ROWS} x {LOADED_LENGTH}"
    return [("samples: packing an epoch", packing), (f"samples: a batch {shape}", loading)]


def synthetic(number: int) -> TokenizedTask:
    """A task of so many samples whose lengths are drawn; their tokens are zeros, which take no
    memory before they are written."""
    drawn = np.random.default_rng(0).integers(*SAMPLE_TOKENS, number, endpoint=True)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(drawn)])
    total = int(offsets[-1])
    return TokenizedTask(np.zeros(total, np.int32), np.zeros(total, np.float32), offsets)


def there() -> float:
    """Bytes of a device's memory; of the host's where it is that."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or memory.host_bytes()


def step_seconds(call: Callable[[], None]) -> float:
    """CPU seconds where the device is the CPU, otherwise those until the device is done."""
    if jax.default_backend() == "cpu":
        return cpu_seconds(call)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(points: Sequence[Point], repeats: int) -> list[Measured]:
    for one in points:
        one.seconds()  # warm
    rounds = [[one.seconds() for one in points] for _ in range(repeats)]
    medians = [statistics.median(own) for own in zip(*rounds, strict=True)]
    return [
        Measured(one.value, seconds, one.temporaries, one.flops)
        for one, seconds in zip(points, medians, strict=True)
    ]
