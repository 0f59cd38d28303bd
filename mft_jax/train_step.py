"""One optimiser step: weigh the tasks, differentiate the trainable tree, update."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mft_jax import gradients
from mft_jax.balancers.base import Balancer, Signals
from mft_jax.gradients import StepSpec, task_nll
from mft_jax.losses import Statistics, mean_losses, sum_by_task, task_counts, total_loss
from mft_jax.train_state import TrainState
from mft_jax.types import Batch, Params, TaskSums

TrainStep = Callable[[TrainState, Params, Batch, Batch], tuple[TrainState, "StepMetrics"]]


class StepMetrics(NamedTuple):
    """`tokens` counts the non-padding positions of the global batch per task."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    train: TaskSums
    weight: Float[Array, " T"]
    tokens: Float[Array, " T"]
    balancer: dict[str, Array]


def make_train_step(
    compute: StepSpec,
    balancer: Balancer,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> TrainStep:
    """`step(state, frozen, batch [A, B, L], valid_batch [B, L]) -> (state, metrics)`, for `jit`."""
    objective = compute.objective

    def step(
        state: TrainState, frozen: Params, batch: Batch, valid_batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        result = weighted_gradients(compute, balancer, state, frozen, batch, valid_batch)
        updates, opt_state = optimizer.update(result.grads, state.opt_state, state.trainable)
        trainable = cast(Params, optax.apply_updates(state.trainable, updates))
        balancer_state = result.balancer
        if balancer.after_step is not None:
            moved = state._replace(trainable=trainable)
            losses = _losses_after(compute, balancer, moved, frozen, batch, valid_batch)
            balancer_state = balancer.after_step(balancer_state, losses)
        counts, stats = gradients.batch_counts(objective, batch), result.stats
        metrics = StepMetrics(
            loss=total_loss(objective, stats.features, counts, result.weight, stats.router),
            grad_norm=optax.tree.norm(result.grads),
            learning_rate=jnp.asarray(schedule(state.step), jnp.float32),
            train=TaskSums(stats.nll.sum(axis=0), task_counts(batch, objective.num_tasks)),
            weight=result.weight,
            tokens=sum_by_task(batch.segment_ids > 0, batch.task_ids, objective.num_tasks),
            balancer=balancer.logs(balancer_state),
        )
        return TrainState(state.step + 1, trainable, opt_state, balancer_state), metrics

    return step


class Weighted(NamedTuple):
    stats: Statistics
    grads: Params
    weight: Float[Array, " T"]
    balancer: Any


def weighted_gradients(
    compute: StepSpec,
    balancer: Balancer,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    valid_batch: Batch,
) -> Weighted:
    """Only what the balancer needs is computed; its weights are constants of the gradient."""
    objective, needs = compute.objective, balancer.needs
    counts = gradients.batch_counts(objective, batch)
    key, signals = gradients.step_key(compute, state.step), Signals(state.step)
    if "valid_losses" in needs:
        signals = signals._replace(
            valid_losses=_valid_losses(compute, balancer, state, frozen, valid_batch)
        )

    def weigh(stats: Statistics | None, signals: Signals) -> tuple[Array, Any]:
        if stats is not None:
            signals = signals._replace(train_losses=mean_losses(objective, stats.features, counts))
        weight, balancer_state = balancer.update(state.balancer, signals)
        return jax.lax.stop_gradient(weight), balancer_state

    if "task_gradients" in needs:
        stats, tasks = gradients.task_gradients(compute, state.trainable, frozen, batch, key)
        gramian = functools.partial(gradients.gramian, compute, balancer.subset, right=tasks.rows)
        signals = signals._replace(gramian=gramian(tasks.rows))
        if "valid_gradients" in needs:
            valid = gradients.valid_gradients(compute, state.trainable, frozen, valid_batch)
            signals = signals._replace(valid_gramian=gramian(valid))
        weight, balancer_state = weigh(stats, signals)
        return Weighted(stats, tasks.combine(objective, weight), weight, balancer_state)

    def choose(stats: Statistics | None) -> tuple[Statistics, tuple[Array, Any]]:
        chosen = weigh(stats, signals)
        return gradients.slopes(objective, stats, counts, chosen[0]), chosen

    stats, grads, (weight, balancer_state) = gradients.backward(
        gradients.measurer(compute, frozen, key),
        state.trainable,
        batch,
        choose,
        ahead=objective.linear and "train_losses" not in needs,
    )
    return Weighted(stats, grads, weight, balancer_state)


def _valid_losses(
    compute: StepSpec, balancer: Balancer, state: TrainState, frozen: Params, batch: Batch
) -> TaskSums:
    """Before the update; absent in the steps between two looks."""
    measured = functools.partial(task_nll, compute, state.trainable, frozen, batch)

    def absent() -> TaskSums:
        return optax.tree.zeros_like(jax.eval_shape(measured))

    return jax.lax.cond(state.step % balancer.every_steps == 0, measured, absent)


def _losses_after(
    compute: StepSpec,
    balancer: Balancer,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    valid_batch: Batch,
) -> TaskSums:
    """Of the same batch, under the new parameters; what dropped out drops out again."""
    if "post_step_valid_losses" in balancer.needs:
        return task_nll(compute, state.trainable, frozen, valid_batch)
    run = gradients.measurer(compute, frozen, gradients.step_key(compute, state.step))
    features = gradients.measure_all(run, state.trainable, batch).features
    counts = gradients.batch_counts(compute.objective, batch)
    return mean_losses(compute.objective, features, counts)
