"""The shape of a balancer: optax's pair of pure functions, their signals and their logs.

Axes and symbols of this folder: T tasks, `history` kept observations, `updates` of a run. Index i
is a task. Equations have the numbers of their papers but these symbols.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums, TaskTable

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


class RunFacts(NamedTuple):
    """The facts of a run that a factory may use: `factory(settings, run) -> Balancer`.

    tasks:                the names of the tasks; a task's id is its place.
    total_steps:          optimiser steps of the whole run.
    valid_micro_batches:  M, the length of one pass over the validation data.
    signal:               the losses that famo, gradnorm and lbtw follow.
    """

    tasks: TaskTable
    total_steps: int
    valid_micro_batches: int
    signal: LossSignal = "train"


class Signals(NamedTuple):
    """The measurements of step `step` (0-based optimiser steps), taken before the update.

    valid_losses:   nll of this step's validation micro-batch. It is measured when
                    `step % every_steps == 0` and absent (all counts zero) in between.
    train_losses:   per task the loss of the objective on the step's global batch.
    gramian:        G = J J^T, where row i of J is the gradient of task i's term in the objective
                    with equal weights. The row and column of an absent task are zero.
    valid_gramian:  [j, i]: inner product of the gradient of validation loss j with J_i.

    A signal is None where the balancer does not need it.
    """

    step: Int[Array, ""]
    valid_losses: TaskSums | None = None
    train_losses: TaskSums | None = None
    gramian: Float[Array, "T T"] | None = None
    valid_gramian: Float[Array, "T T"] | None = None


class InitFn(Protocol):
    """The state before the first step."""

    def __call__(self, num_tasks: int, valid_losses: TaskSums, /) -> State:
        """The state of a new run. `update` keeps its structure, shapes and dtypes (no weak types).

        Args:
          num_tasks: T.
          valid_losses: nll of the whole validation set before the first step.
        """
        ...


class UpdateFn(Protocol):
    """The weights of one step."""

    def __call__(self, state: State, signals: Signals, /) -> tuple[Float[Array, " T"], State]:
        """`(weights, new state)`.

        Args:
          state: the state after the step before.
          signals: the signals that `needs` names, measured in this step.
        """
        ...


class AfterStepFn(Protocol):
    """The correction of a state by the losses after the step."""

    def __call__(self, state: State, losses: TaskSums, /) -> State:
        """The state with the result of the step.

        Args:
          state: the state of `update` in the same step.
          losses: those of the same batch (or validation micro-batch) under the new parameters.
        """
        ...


class LogsFn(Protocol):
    """The readable numbers of a state."""

    def __call__(self, state: State, /) -> dict[str, Array]:
        """`{name: [T] or scalar}`, for the record of the run.

        Args:
          state: the state after `update` and `after_step`.
        """
        ...


LOSS_RATIO = (
    "ratio",
    Quantity("Loss ratio", "of the losses that the balancer follows", reference=1.0),
)


class Balancer(NamedTuple):
    """`update(state, signals) -> (weight_T, state)`.

    Weights are the parts of the tasks in the update, relative to one another: `regulate` brings
    them to a sum of 1. They are not negative, except where a method's paper allows it.

    init:         the state, from the number of tasks and the validation nll before the first step:
                  a pytree in `TrainState`, saved and restored with it.
    logs:         the state's readable numbers, for the record; `titles` has one for each.
    needs:        the signals that the step computes for it.
    every_steps:  optimiser steps between two measurements of validation losses.
    after_step:   called where `needs` names post-step losses.
    subset:       the parameters whose gradients are in `gramian`.
    titles:       title and note of each of its numbers, by name; a tuple, so that a balancer can
                  be hashed.
    state_version: of what the state consists of; a checkpoint of another one is refused.
    """

    init: InitFn
    update: UpdateFn
    logs: LogsFn
    needs: frozenset[Need] = frozenset()
    every_steps: int = 1
    after_step: AfterStepFn | None = None
    subset: Subset = "all"
    titles: tuple[tuple[str, Quantity], ...] = ()
    state_version: int = 1


def memoryless(
    weights: Callable[[Signals], Float[Array, " T"]], needs: frozenset[Need]
) -> Balancer:
    """A balancer whose weights follow from the signals of the step; its state is empty."""

    def init(num_tasks: int, valid_losses: TaskSums) -> State:
        return ()

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        return weights(signals), state

    return Balancer(init, update, no_logs, needs)


def no_logs(state: State) -> dict[str, Array]:
    """No numbers: those of a balancer without a readable state."""
    return {}


def equal_weights(num_tasks: int) -> Float[Array, " T"]:
    """Weights 1/T. Their dtype is given: a weakly typed state would make the step compile twice."""
    return jnp.full((num_tasks,), 1.0 / num_tasks, float)


NEEDED_LOSSES: dict[LossSignal, Need] = {"train": "train_losses", "valid": "valid_losses"}


def losses_of(signal: LossSignal, signals: Signals) -> TaskSums:
    """The training or the validation losses of a step."""
    losses = signals.train_losses if signal == "train" else signals.valid_losses
    assert losses is not None, "the step provides what `needs` names"
    return losses


def first_losses(signal: LossSignal, valid_losses: TaskSums) -> Float[Array, " T"]:
    """Initial losses L_i(0) of the validation set, or NaN for training losses: not yet seen."""
    mean = jnp.asarray(valid_losses.mean(), float)
    return mean if signal == "valid" else jnp.full_like(mean, jnp.nan)
