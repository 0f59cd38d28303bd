"""IMTL-L, loss balance of impartial multi-task learning (Liu et al., ICLR'21, Section 3.2).

The loss is sum_i exp(s_i) L_i - s_i with learnt s_i, so w_i = exp(s_i): scaled losses settle at 1.
The step on s is gradient descent with Adam, beside the model's own optimiser and with its own rate.
An absent task's s and moments stay as they are.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals
from mft_jax.balancers.task_adam import TaskAdam, start_adam, step_adam
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class ImtlLConfig:
    """`learning_rate` of the log-scales, which start at 0."""

    learning_rate: float = 0.025

    def __post_init__(self) -> None:
        at_least("balancer.imtl_l", self, learning_rate=0)


def imtl_l(*, learning_rate: float = 0.025) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> TaskAdam:
        return start_adam(jnp.zeros((num_tasks,)))

    def update(state: TaskAdam, signals: Signals) -> tuple[Float[Array, " T"], TaskAdam]:
        assert signals.train_losses is not None
        present = signals.train_losses.present()
        loss = jnp.where(present, signals.train_losses.mean(), 0.0)
        weight = jnp.exp(state.value)
        return weight, step_adam(state, weight * loss - 1.0, present, learning_rate)

    return Balancer(
        init, update, lambda state: {"log_scale": state.value}, frozenset({"train_losses"})
    )
