"""One optimiser step: weigh the tasks, differentiate the trainable tree, update."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mft_jax import finetune
from mft_jax.balancers.base import Balancer, Signals
from mft_jax.finetune import FinetuneConfig
from mft_jax.losses import OBJECTIVES, ObjectiveConfig, next_token_nll, sum_by_task, task_counts
from mft_jax.losses import task_nll as reduce_nll
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import Params, bind
from mft_jax.train_state import TrainState
from mft_jax.types import Batch, TaskSums

TrainStep = Callable[[TrainState, Params, Batch, Batch], tuple[TrainState, "StepMetrics"]]


@dataclasses.dataclass(frozen=True)
class Computation:
    """What is computed on a batch: the model, how it is fine-tuned, in which precision."""

    model: ModelConfig
    finetune: FinetuneConfig
    objective: ObjectiveConfig
    num_tasks: int
    dtype: str
    remat: bool


class StepMetrics(NamedTuple):
    """`tokens` counts the non-padding positions of the global batch per task."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    train: TaskSums
    weight: Float[Array, " T"]
    tokens: Float[Array, " T"]
    balancer: dict[str, Array]


def task_nll(compute: Computation, trainable: Params, frozen: Params, batch: Batch) -> TaskSums:
    """Nll sums and counts per task of a batch [B, L], under the combined parameters."""
    dtype = jnp.dtype(compute.dtype)
    params = finetune.combine(compute.finetune, trainable, frozen, dtype)
    model = bind(compute.model, params)
    hidden = model(
        batch.tokens, batch.positions, batch.segment_ids, dtype=dtype, remat=compute.remat
    )
    chunk = compute.objective.vocab_chunk
    nll = next_token_nll(hidden, model.head_table(), batch.targets, vocab_chunk=chunk)
    return reduce_nll(nll, batch, compute.num_tasks)


def make_train_step(
    compute: Computation,
    balancer: Balancer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> TrainStep:
    """`step(state, frozen, batch [A, B, L], valid_batch [B, L]) -> (state, metrics)`, to be jitted.

    The counts of the whole global batch are known before the first forward pass, so every
    micro-batch is differentiated with the coefficients of the whole and gradients just add up.
    """
    objective = OBJECTIVES[compute.objective.name]

    def measure_valid(state: TrainState, frozen: Params, valid_batch: Batch) -> TaskSums | None:
        if "valid_losses" not in balancer.needs:
            return None
        absent = TaskSums(jnp.zeros(compute.num_tasks), jnp.zeros(compute.num_tasks))
        return jax.lax.cond(
            state.step % balancer.every_steps == 0,
            lambda: task_nll(compute, state.trainable, frozen, valid_batch),
            lambda: absent,
        )

    def step(
        state: TrainState, frozen: Params, batch: Batch, valid_batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        signals = Signals(state.step, measure_valid(state, frozen, valid_batch))
        weight, balancer_state = balancer.update(state.balancer, signals)
        weight = jax.lax.stop_gradient(weight)
        coefficients = objective(task_counts(batch, compute.num_tasks), weight)

        def loss_fn(trainable: Params, micro_batch: Batch) -> tuple[Array, TaskSums]:
            sums = task_nll(compute, trainable, frozen, micro_batch)
            return jnp.dot(coefficients, sums.sum), sums

        def accumulate(carry: Any, micro_batch: Batch) -> tuple[Any, None]:
            (loss, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                state.trainable, micro_batch
            )
            return jax.tree.map(jnp.add, carry, (loss, sums, grads)), None

        zeros = jnp.zeros(compute.num_tasks)
        no_grads = jax.tree.map(jnp.zeros_like, state.trainable)
        start = (jnp.zeros(()), TaskSums(zeros, zeros), no_grads)
        (loss, sums, grads), _ = jax.lax.scan(accumulate, start, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = cast(Params, optax.apply_updates(state.trainable, updates))
        filled = (batch.segment_ids > 0).astype(jnp.float32)
        metrics = StepMetrics(
            loss=loss,
            grad_norm=optax.tree.norm(grads),
            learning_rate=jnp.asarray(schedule(state.step), jnp.float32),
            train=sums,
            weight=weight,
            tokens=sum_by_task(filled, batch.task_ids, compute.num_tasks),
            balancer=balancer.logs(balancer_state),
        )
        return TrainState(state.step + 1, trainable, opt_state, balancer_state), metrics

    return step
