"""Homoscedastic uncertainty (Kendall et al., CVPR'18, arXiv 1705.07115, Eq. 10).

The loss is sum_i 0.5 exp(-s_i) L_i + 0.5 s_i with learnt log-variances s_i, so w_i = 0.5 exp(-s_i).
The step on s is gradient descent with Adam, beside the model's own optimiser and with its own rate.
An absent task's log-variance and moments stay as they are.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals
from mft_jax.balancers.task_adam import TaskAdam, start_adam, step_adam
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class UncertaintyConfig:
    """`learning_rate` of the log-variances, which start at 0."""

    learning_rate: float = 0.025

    def __post_init__(self) -> None:
        at_least("balancer.uncertainty", self, learning_rate=0)


def uncertainty(*, learning_rate: float = 0.025) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> TaskAdam:
        return start_adam(jnp.zeros((num_tasks,)))

    def update(state: TaskAdam, signals: Signals) -> tuple[Float[Array, " T"], TaskAdam]:
        assert signals.train_losses is not None
        present = signals.train_losses.present()
        loss = jnp.where(present, signals.train_losses.mean(), 0.0)
        weight = 0.5 * jnp.exp(-state.value)
        gradient = 0.5 - weight * loss
        return weight, step_adam(state, gradient, present, learning_rate)

    return Balancer(
        init, update, lambda state: {"log_variance": state.value}, frozenset({"train_losses"})
    )
