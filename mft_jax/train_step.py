"""One optimiser step: weigh the tasks, differentiate the trainable tree, update."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mft_jax.balancer_signals import post_step_losses, valid_losses
from mft_jax.balancers.base import Balancer, Signals
from mft_jax.forward import StepSpec, make_forward, step_key
from mft_jax.gradients import backward_after_losses, backward_known, loss_cotangents
from mft_jax.objective import ObjectiveSums
from mft_jax.optim import updates_taken
from mft_jax.task_gradients import gramian, last_block, task_gradients, valid_gradients
from mft_jax.task_sums import sum_by_task, task_counts
from mft_jax.train_state import TrainState
from mft_jax.types import Batch, Params, TaskSums

TrainStep = Callable[[TrainState, Params, Batch, Batch], tuple[TrainState, "StepMetrics"]]


class StepMetrics(NamedTuple):
    """Measurements of a step. `tokens`: non-padding positions of the global batch per task."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    train: TaskSums
    weight: Float[Array, " T"]
    tokens: Float[Array, " T"]
    balancer: dict[str, Array]


def make_train_step(
    spec: StepSpec,
    balancer: Balancer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    skips: bool = False,
) -> TrainStep:
    """`step(state, frozen, batch [A, B, L], valid_batch [B, L]) -> (state, metrics)`, for `jit`.

    With `skips` a step whose loss or gradient is not finite keeps the state before it, but for its
    number: parameters, moments, balancer, and the place in the schedule, which counts updates.
    """
    objective, num_tasks = spec.objective, spec.objective.num_tasks

    def step(
        state: TrainState, frozen: Params, batch: Batch, valid_batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        result = weighted_gradients(spec, balancer, state, frozen, batch, valid_batch)
        updates, opt_state = optimizer.update(result.grads, state.opt_state, state.trainable)
        trainable = cast(Params, optax.apply_updates(state.trainable, updates))
        balancer_state = result.balancer_state
        if balancer.after_step is not None:
            updated = state._replace(trainable=trainable)
            after = post_step_losses(spec, balancer, updated, frozen, batch, valid_batch)
            balancer_state = balancer.after_step(balancer_state, after)
        counts = jax.vmap(objective.counts)(batch)
        loss = objective.loss(result.sums, counts, result.weight)
        grad_norm, scheduled = optax.tree.norm(result.grads), state.step
        after = TrainState(state.step + 1, trainable, opt_state, balancer_state)
        if skips:
            before = state._replace(step=after.step)
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            after = jax.tree.map(functools.partial(jnp.where, finite), after, before)
            scheduled = updates_taken(state.opt_state, state.step)
        metrics = StepMetrics(
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=jnp.asarray(schedule(scheduled), jnp.float32),
            train=TaskSums(result.sums.nll.sum(axis=0), task_counts(batch, num_tasks)),
            weight=result.weight,
            tokens=sum_by_task(batch.segment_ids > 0, batch.task_ids, num_tasks),
            balancer=balancer.logs(after.balancer),
        )
        return after, metrics

    return step


class WeightedGradients(NamedTuple):
    """The gradient of the loss under the balancer's weights, with sums, weights and new state."""

    sums: ObjectiveSums  # [A, ...]
    grads: Params
    weight: Float[Array, " T"]
    balancer_state: Any


def weighted_gradients(
    spec: StepSpec,
    balancer: Balancer,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    valid_batch: Batch,
) -> WeightedGradients:
    """Gradients under the balancer's weights, which are constants, from the signals it needs."""
    objective, needs = spec.objective, balancer.needs
    counts = jax.vmap(objective.counts)(batch)
    key, signals = step_key(spec, state.step), Signals(state.step)
    if "valid_losses" in needs:
        measured = valid_losses(spec, balancer, state, frozen, valid_batch)
        signals = signals._replace(valid_losses=measured)

    def update(signals: Signals, sums: ObjectiveSums | None = None) -> tuple[Array, Any]:
        if sums is not None and "train_losses" in needs:
            signals = signals._replace(train_losses=objective.task_losses(sums, counts))
        weight, balancer_state = balancer.update(state.balancer, signals)
        return jax.lax.stop_gradient(weight), balancer_state

    if "task_gradients" in needs:
        sums, tasks = task_gradients(spec, state.trainable, frozen, batch, key)
        block = last_block(spec.model_config) if balancer.subset == "last_block" else None
        products = functools.partial(gramian, right=tasks.rows, last_block=block)
        signals = signals._replace(gramian=products(tasks.rows))
        if "valid_gradients" in needs:
            valid_rows = valid_gradients(spec, state.trainable, frozen, valid_batch)
            signals = signals._replace(valid_gramian=products(valid_rows))
        weight, balancer_state = update(signals, sums)
        return WeightedGradients(sums, tasks.combine(objective, weight), weight, balancer_state)

    forward = make_forward(spec, frozen, key)
    if objective.linear and "train_losses" not in needs:
        weight, balancer_state = update(signals)
        cotangents = loss_cotangents(objective, counts, weight)
        sums, grads = backward_known(forward, state.trainable, batch, cotangents)
    else:
        sums, pull_back = backward_after_losses(forward, state.trainable, batch)
        weight, balancer_state = update(signals, sums)
        grads = pull_back(loss_cotangents(objective, counts, weight, sums))
    return WeightedGradients(sums, grads, weight, balancer_state)
