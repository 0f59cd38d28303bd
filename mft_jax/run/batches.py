"""The data of a run on its mesh: what is read, and how batches reach the devices."""

import dataclasses

import jax
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from mft_jax import sharding
from mft_jax.balancers.base import Balancer
from mft_jax.config import TrainConfig
from mft_jax.data.loader import BatchStream, FullPass, train_loader
from mft_jax.data.mixture import expected_counts, make_mixture
from mft_jax.data.packed_rows import join_tasks, packed_rows
from mft_jax.data.rows import BatchRows
from mft_jax.data.tasks import Tasks, TokenizedData, load_tasks
from mft_jax.data.templates import chat_tokenizer, stop_token
from mft_jax.data.validation import ValidationDraws
from mft_jax.huggingface.tokenizers import load_tokenizer
from mft_jax.kept import NOTHING_KEPT, Kept
from mft_jax.record.schema import Finding
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.console import Say, TaskProgress, no_task_progress
from mft_jax.run.epochs import EpochPlan, epoch_plan, plan_line
from mft_jax.run.findings import find
from mft_jax.types import Batch

# Validation signals that the step reads in every `every_steps`-th step; others in every step.
READ_EVERY_SO_OFTEN = frozenset({"valid_losses", "post_step_valid_losses"})


@dataclasses.dataclass(frozen=True)
class Data:
    """Tasks of a run and what reads them. Batches are NumPy, the rows of this process only.

    train       batches of the steps; it keeps its place, which checkpoints save
    valid       the balancer's validation micro-batches, by step
    valid_pass  every validation sample once
    plan        how the steps go through the epochs
    findings    what was noticed before training
    """

    tasks: Tasks
    tokenized: TokenizedData
    train: BatchStream
    valid: ValidationDraws
    valid_pass: FullPass
    plan: EpochPlan
    findings: tuple[Finding, ...]


def build_data(
    config: TrainConfig,
    base: BaseModelInfo,
    mesh: Mesh,
    say: Say,
    progress: TaskProgress = no_task_progress,
    kept: Kept = NOTHING_KEPT,
) -> Data:
    """Read, tokenize and pack all tasks. Raises `MftError` where data cannot be trained on."""
    loop, row_length = config.loop, config.data.row_length
    tokenizer = load_tokenizer(base.folder, base.model_config.vocab_size)
    with progress() as on_work:
        tokenized = load_tasks(config.data, tokenizer, on_work, kept)
    say(_token_line(tokenizer))

    def batch_rows(rows_per_batch: int, micro_batches: int = 1) -> BatchRows:
        in_micro_batch = rows_per_batch // micro_batches
        local_rows = sharding.process_rows(mesh, jax.process_index(), in_micro_batch)
        return BatchRows(rows_per_batch, micro_batches, local_rows)

    mixture = make_mixture(tokenized.train_sizes, tokenized.tasks, config.data)
    rows = packed_rows(tokenized.train, row_length, config.seed, mixture)
    valid_rows = batch_rows(loop.valid_rows)
    valid_pass = FullPass(packed_rows(tokenized.valid, row_length, seed=0), valid_rows)
    per_epoch, plan = rows.rows_per_epoch, epoch_plan(loop, rows, mixture)
    say(plan_line(plan, loop))
    tasks = Tasks(
        table=tokenized.tasks,
        mixture=mixture,
        rows_per_epoch=per_epoch,
        expected_counts=expected_counts(tokenized.train, mixture, per_epoch, loop.rows_per_step),
        valid_micro_batches=len(valid_pass),
    )
    return Data(
        tasks=tasks,
        tokenized=tokenized,
        train=train_loader(rows, batch_rows(loop.rows_per_step, loop.micro_batches), plan.steps),
        valid=ValidationDraws(join_tasks(tokenized.valid), row_length, valid_rows, config.seed),
        valid_pass=valid_pass,
        plan=plan,
        findings=find(config, tokenized, plan, base.model_config.max_positions),
    )


def _token_line(tokenizer: PreTrainedTokenizerFast) -> str:
    tokens = {
        "stop": stop_token(chat_tokenizer(tokenizer)),
        "end of text": tokenizer.eos_token,
        "padding": tokenizer.pad_token,
    }
    named = (f"{what} {t!r} ({tokenizer.convert_tokens_to_ids(t)})" for what, t in tokens.items())
    return f"tokens: {', '.join(named)}"


class BalancerBatches:
    """Validation micro-batches on the mesh, one for each step.

    One is drawn and placed only for a step that reads it. Every other step gets the same rows of
    padding, placed once, because the compiled step takes an argument of one shape.
    """

    def __init__(self, draws: ValidationDraws, balancer: Balancer, mesh: Mesh):
        self.draws, self.balancer, self.mesh = draws, balancer, mesh
        self.padding: Batch | None = None

    def of_step(self, step: int) -> Batch:
        if reads_validation(self.balancer, step):
            return place_batch(self.draws.batch(step), self.mesh)
        if self.padding is None:
            self.padding = place_batch(self.draws.padding(), self.mesh)
        return self.padding


def reads_validation(balancer: Balancer, step: int) -> bool:
    """Whether the compiled step reads its validation micro-batch in step `step`."""
    if "valid_gradients" in balancer.needs:
        return True
    return bool(balancer.needs & READ_EVERY_SO_OFTEN) and step % balancer.every_steps == 0


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows as part of the global batch; a leading micro-batch axis stays whole."""
    spec = sharding.batch_sharding(mesh, batch.tokens.ndim - 2)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(spec, x), batch)
