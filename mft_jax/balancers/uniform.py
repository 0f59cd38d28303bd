"""Equal weights: the objective alone decides how tasks are balanced."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals, State
from mft_jax.types import TaskSums


def uniform() -> Balancer:
    """w_i = 1 / K."""

    def init(num_tasks: int, valid_losses: TaskSums) -> State:
        return jnp.full((num_tasks,), 1.0 / num_tasks)

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        return state, state

    return Balancer(init, update, lambda state: {})
