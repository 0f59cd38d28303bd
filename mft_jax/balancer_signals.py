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

    It is measured in every `every_steps`-th step; in the other steps the batch is not read, and
    every task is absent.
    """
    measure = functools.partial(task_nll, spec, state.trainable, frozen, valid_batch)

    def absent() -> TaskSums:
        return optax.tree.zeros_like(jax.eval_shape(measure))

    return jax.lax.cond(state.step % balancer.every_steps == 0, measure, absent)


def post_step_losses(
    spec: StepSpec,
    balancer: Balancer,
    state: TrainState,
    frozen: Params,
    batch: Batch,
    valid_batch: Batch,
) -> TaskSums:
    """Losses per task after the update: of the same batch [A, B, L], or of the validation
    micro-batch, in the steps of `valid_losses`. `state` has the new parameters and the old step
    number, so that dropout has the masks of the step.
    """
    if "post_step_valid_losses" in balancer.needs:
        return valid_losses(spec, balancer, state, frozen, valid_batch)
    forward = make_forward(spec, frozen, step_key(spec, state.step))
    sums = forward_all(forward, state.trainable, batch)
    return spec.objective.task_losses(sums, jax.vmap(spec.objective.counts)(batch))
