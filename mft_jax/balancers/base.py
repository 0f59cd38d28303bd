"""The shape of a balancer: optax's pair of pure functions, and what they may look at."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.types import TaskSums

Need = Literal[
    "train_losses",
    "valid_losses",
    "post_step_train_losses",
    "post_step_valid_losses",
    "task_gradients",
    "valid_gradients",
]
Subset = Literal["all", "last_block"]
LossSignal = Literal["train", "valid"]
State = Any


class Signals(NamedTuple):
    """What a balancer may look at in step `step` (0-based optimiser steps), before the update.

    valid_losses:   nll of this step's validation micro-batch. It is measured when
                    `step % every_steps == 0` and absent (all counts zero) in between.
    train_losses:   per task the loss of the objective on the step's global batch.
    gramian:        G = J J^T, where row i of J is the gradient of task i's term in the objective
                    with equal weights. The row and column of an absent task are zero.
    valid_gramian:  [j, i]: inner product of the gradient of validation loss j with J_i.

    None where the balancer does not need it.
    """

    step: Int[Array, ""]
    valid_losses: TaskSums | None = None
    train_losses: TaskSums | None = None
    gramian: Float[Array, "T T"] | None = None
    valid_gramian: Float[Array, "T T"] | None = None


class Balancer(NamedTuple):
    """`update(state, signals) -> (weight_T, state)`.

    Weights say how much of each task is in the update, relative to one another: `regulate` brings
    them to a sum of 1. They are non-negative but where a method's paper lets them be negative.

    init:         from the number of tasks and the full-pass validation nll before the first step.
                  The state is a pytree that lives in `TrainState`, so it is checkpointed and
                  restored with it.
    logs:         the state's readable numbers, `{name: [T] or scalar}`, for the record.
    needs:        the step computes only what is named here.
    every_steps:  optimiser steps between two looks at validation losses.
    after_step:   `(state, losses) -> state`, the losses of the same batch under the new
                  parameters; called where `needs` names post-step losses.
    subset:       the parameters whose gradients are in `gramian`.
    """

    init: Callable[[int, TaskSums], State]
    update: Callable[[State, Signals], tuple[Float[Array, " T"], State]]
    logs: Callable[[State], dict[str, Array]]
    needs: frozenset[Need] = frozenset()
    every_steps: int = 1
    after_step: Callable[[State, TaskSums], State] | None = None
    subset: Subset = "all"


def equal_weights(num_tasks: int) -> Float[Array, " T"]:
    return jnp.full((num_tasks,), 1.0 / num_tasks)


NEEDED_LOSSES: dict[LossSignal, Need] = {"train": "train_losses", "valid": "valid_losses"}


def losses_of(signal: LossSignal, signals: Signals) -> TaskSums:
    losses = signals.train_losses if signal == "train" else signals.valid_losses
    assert losses is not None, "the step provides what `needs` names"
    return losses


def first_losses(signal: LossSignal, valid_losses: TaskSums) -> Float[Array, " T"]:
    """L_i(0): known of the validation set; of the training set NaN, until a task is seen."""
    mean = jnp.asarray(valid_losses.mean(), float)
    return mean if signal == "valid" else jnp.full_like(mean, jnp.nan)
