"""The step beside `transformers` + `peft` on torch: tokens per CPU second of one process.

Both sides have the same weights, adapters of rank 16 on all linear layers, float32, AdamW with
clipping, gradients of the adapters only, and as many threads; activations are recomputed where the
config says so, by peft never. CPU seconds are those of the whole
process, threads included; the sides take turns, so a noisy machine is noisy for both.
"""

import dataclasses
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mft_jax.balancers.registry import BalancerConfig
from mft_jax.cli.bench.peer_batches import (
    Samples,
    full_rows,
    grouped_by_length,
    in_batches,
    join,
    packed,
    padded,
    samples_of,
)
from mft_jax.config import TrainConfig
from mft_jax.data.mixture import make_mixture
from mft_jax.data.tasks import Tasks, load_tasks
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.losses import ObjectiveConfig
from mft_jax.run import batches, parts
from mft_jax.run.base_model import BaseWeights, load_untrained, prepare
from mft_jax.run.console import no_progress, open_console, quiet, task_progress
from mft_jax.sharding import MeshConfig, make_mesh
from mft_jax.types import Batch, MftError, Params, TaskSums, suggest


class Size(NamedTuple):
    """A model made on the spot, by settings of transformers' config, and what a step is given."""

    model: dict[str, int]
    rows: int = 8
    length: int = 512
    packed_rows: int = 2
    packed_length: int = 2048
    samples: int = 8


def _model(width: int, mlp_width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
    }


SIZES = {
    "7m": Size(_model(256, 704, 6, 4)),
    "50m": Size(_model(512, 1408, 14, 8)),
    "tiny": Size(_model(64, 128, 2, 2), rows=2, length=64, packed_length=256),
}
RANK, ALPHA = 16, 32
# Steps that are timed at once where samples differ in length: about as many tokens on both sides.
PACKED_BATCHES, PADDED_BATCHES = 2, 5
EQUAL_LOSS = 1e-4
EXTRA = ("torch", "peft", "transformers")


class Side(NamedTuple):
    """One of those that take turns: `call` runs its steps and waits for them."""

    name: str
    tokens: int  # that are no padding
    call: Callable[[], None]


def run(config: TrainConfig, sizes: Sequence[str], repeats: int, arguments: Sequence[str]) -> int:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise MftError(
            f"--suite=peers compares with peft on torch, but {', '.join(missing)} is not installed;"
            " the extra has it (pip install -e '.[parity]')"
        )
    unknown = sorted(set(sizes) - set(SIZES))
    if unknown or not sizes:
        hint = suggest(unknown[0], SIZES) if unknown else ""
        hint = hint or f"expected {', '.join(SIZES)}"
        raise MftError(f"--sizes={','.join(sizes)}: no such size; {hint}")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        # Torch's threads spin while they wait, unless the process was started so.
        command = [sys.executable, "-m", "mft_jax", "bench", *arguments]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run(command, env=environment, check=False).returncode
    if jax.default_backend() != "cpu":
        raise MftError(
            f"--suite=peers compares CPU seconds, but JAX computes on {jax.default_backend()}; set "
            "JAX_PLATFORMS=cpu"
        )
    console = open_console()
    samples = read_samples(config, console)
    for name in sizes:
        with tempfile.TemporaryDirectory() as folder:
            console.print(measure(config, name, samples, repeats, Path(folder), console))
    return 0


def read_samples(config: TrainConfig, console: Console) -> Samples:
    """The tokens of the config's training samples."""
    base = prepare(config, quiet)
    tokenizer = load_tokenizer(base.folder, base.model_config.vocab_size)
    with task_progress(console)() as on_work:
        data = load_tasks(config.data, tokenizer, on_work)
    return Samples(data, base.model_config.vocab_size)


def measure(
    config: TrainConfig, name: str, samples: Samples, repeats: int, folder: Path, console: Console
) -> Table:
    """The table of one size. Losses before the first step are compared before anything is timed."""
    from mft_jax.cli.bench import peft_step

    size = SIZES[name]
    longest = max(size.length, size.packed_length)
    peft_step.make_model(folder, samples.vocab_size, size.model, longest)
    ours = OurSide.load(config, folder, samples)
    theirs = peft_step.PeftSide.load(folder, RANK, ALPHA)
    console.print(f"{name}: {theirs.num_parameters / 1e6:.1f} million parameters", highlight=False)
    # 1. full rows, the same for both
    rows = full_rows(size.rows, size.length, samples.vocab_size)
    as_padded = padded(samples_of(rows))
    same_loss(ours.loss(rows), theirs.loss([as_padded]))
    full = [
        Side("mft_jax", rows.tokens.size, ours.steps([rows])),
        Side("peft", rows.tokens.size, theirs.steps([as_padded])),
    ]
    # 2. samples of the config, as each side would be given them
    drawn = packed(samples, size.packed_rows, size.packed_length, PACKED_BATCHES)
    of_row_mates = in_batches(samples_of(drawn[0]), size.samples)
    same_loss(ours.loss(drawn[0]), theirs.loss([padded(part) for part in of_row_mates]))
    tokens = sum(int((batch.segment_ids > 0).sum()) for batch in drawn)
    shape = f"{size.packed_rows} x {size.packed_length}"
    real = [Side(f"mft_jax, packed {shape}", tokens, ours.steps(drawn))]
    order = np.random.default_rng(0).permutation(len(samples.lengths))
    grouped = grouped_by_length(samples, order, size.samples)
    for label, indices in (("random", order), ("grouped by length", grouped)):
        taken = [
            padded(join(samples, part))
            for part in in_batches(indices, size.samples)[:PADDED_BATCHES]
        ]
        tokens = sum(int(batch.mask.sum()) for batch in taken)
        real.append(Side(f"peft, {size.samples} padded, {label}", tokens, theirs.steps(taken)))
    sides = {f"full rows of {size.rows} x {size.length}": full, "samples of the config": real}
    title = f"{name}, LoRA of rank {RANK}, float32; model.remat={config.model.remat}, none in peft"
    return _table(title, sides, repeats)


@dataclasses.dataclass
class OurSide:
    """Our step with the state that it carries on."""

    functions: parts.StepFunctions
    weights: BaseWeights
    trainable: Params
    mesh: jax.sharding.Mesh

    @classmethod
    def load(cls, config: TrainConfig, folder: Path, samples: Samples) -> "OurSide":
        config = peer_config(config, folder)
        mesh = make_mesh(config.mesh, jax.devices()[:1])
        base = prepare(config, quiet)
        tasks = all_tasks(config, samples)
        functions = parts.build_step_functions(config, base, mesh, tasks)
        return cls(functions, *load_untrained(config, base, mesh, no_progress), mesh)

    def loss(self, batch: Batch) -> float:
        """Nats per trained token before the first step."""
        rows = batches.place_batch(Batch(*(leaf[0] for leaf in batch)), self.mesh)
        sums = self.functions.evaluate(self.trainable, self.weights.frozen, rows)
        return float(np.sum(sums.sum) / np.sum(sums.count))

    def steps(self, drawn: Sequence[Batch]) -> Callable[[], None]:
        one = np.ones(self.functions.spec.objective.num_tasks, np.float32)
        # The state takes its parameters over, and the other steps need them, too.
        start = jax.tree.map(jax.numpy.copy, self.trainable)
        state = self.functions.init_state(start, TaskSums(one, one))
        placed = [batches.place_batch(batch, self.mesh) for batch in drawn]
        valid = Batch(*(leaf[0] for leaf in placed[0]))  # `uniform` does not read it

        def call() -> None:
            nonlocal state
            for batch in placed:
                state, metrics = self.functions.step(state, self.weights.frozen, batch, valid)
                jax.block_until_ready((state, metrics))

        return call


def peer_config(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config with all that both sides must have in common. `model.remat` stays what it is."""
    source = dataclasses.replace(
        config.model, path=str(folder), weights="pretrained", compute_dtype="float32"
    )
    return dataclasses.replace(
        config,
        model=source,
        finetune=FinetuneConfig(method="lora", rank=RANK, alpha=float(ALPHA)),
        objective=ObjectiveConfig(name="token_mean"),
        balancer=BalancerConfig(name="uniform"),
        mesh=MeshConfig(1, 1, 1),
    )


def all_tasks(config: TrainConfig, samples: Samples) -> Tasks:
    """The config's tasks, for a step that divides by the batch's own counts."""
    data = samples.data
    mixture = make_mixture(data.train_sizes, data.tasks, config.data)
    ones = np.ones(len(data.tasks))
    return Tasks(data.tasks, mixture, 1, {"token": ones, "sample": ones}, 1)


def same_loss(ours: float, theirs: float) -> None:
    if not abs(ours - theirs) <= EQUAL_LOSS * max(abs(theirs), 1.0):
        raise MftError(
            f"the sides do not compute the same: a loss of {ours:.6f} against peft's {theirs:.6f} "
            "before the first step; nothing was timed"
        )


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of the process, threads and kernel included."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def _table(title: str, parts: dict[str, list[Side]], repeats: int) -> Table:
    """Ours is the first side of each part; its ratio is to the fastest of the others."""
    table = Table(title=title, title_justify="left")
    table.add_column("trained on")
    for column in ("tokens", "CPU s, median", "minimum", "tokens per CPU s", "over peft"):
        table.add_column(column, justify="right")
    for label, sides in parts.items():
        for side in sides:
            side.call()  # compiled, and warm
        rounds = [[cpu_seconds(side.call) for side in sides] for _ in range(repeats)]
        seconds = list(zip(*rounds, strict=True))
        rates = [
            side.tokens / statistics.median(own) for side, own in zip(sides, seconds, strict=True)
        ]
        for side, own, rate in zip(sides, seconds, rates, strict=True):
            over = f"{rate / max(rates[1:]):.2f} x" if side is sides[0] else ""
            cells = [f"{side.tokens:,}", f"{statistics.median(own):.2f}", f"{min(own):.2f}"]
            table.add_row(f"{label}: {side.name}", *cells, f"{rate:,.0f}", over)
    return table
