"""Fixed weights per task, as MFTCoder's `task_weights`."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals, State
from mft_jax.types import TaskSums


def static(*, weights: tuple[float, ...]) -> Balancer:
    """`weights` in the order of the tasks."""

    def init(num_tasks: int, valid_losses: TaskSums) -> State:
        return jnp.asarray(weights, float)

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        return state, state

    return Balancer(init, update, lambda state: {})
