"""The signals of a balancer, measured inside the step: only what its `needs` names."""

import functools

import jax
import optax

from mft_jax.balancers.base import Balancer
from mft_jax.forward import StepSpec, forward_all, make_forward, step_key, task_nll
from mft_jax.train_state import TrainState
from mft_jax.types import Batch, Params, TaskSums


def valid_losses(
    spec: StepSpec, balancer: Balancer, state: TrainState, frozen: Params, valid_batch: Batch
) -> TaskSums:
    """Nll per task of the validation micro-batch [B, L] before the update.

    It is measured in every `every_steps`-th step; in between the batch is not read, and every task
    is absent.
    """
    measured = functools.partial(task_nll, spec, state.trainable, frozen, valid_batch)

    def absent() -> TaskSums:
        return optax.tree.zeros_like(jax.eval_shape(measured))

    return jax.lax.cond(state.step % balancer.every_steps == 0, measured, absent)


def post_step_losses(
    spec: StepSpec,
    balancer: Balancer,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    valid_batch: Batch,
) -> TaskSums:
    """Losses under the parameters of `state`, updated but for its step number: of the same batch
    [A, B, L], where what dropped out drops out again, or of the validation micro-batch.
    """
    if "post_step_valid_losses" in balancer.needs:
        return task_nll(spec, state.trainable, frozen, valid_batch)
    forward = make_forward(spec, frozen, step_key(spec, state.step))
    sums = forward_all(forward, state.trainable, batch)
    return spec.objective.task_losses(sums, jax.vmap(spec.objective.counts)(batch))
