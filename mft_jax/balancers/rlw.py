"""RLW, random loss weighting (Lin et al., TMLR'22, arXiv 2111.10603): the baseline to beat.

w = K softmax(z) with z ~ N(0, I) drawn afresh in every step (Section 3, the normal distribution).
The draw follows from the step alone, so a resumed run sees the same weights.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals, State
from mft_jax.types import TaskSums


def rlw(*, seed: int = 0) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> State:
        return jnp.ones((num_tasks,))

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        key = jax.random.fold_in(jax.random.key(seed), signals.step)
        z = jax.random.normal(key, state.shape, state.dtype)
        weight = state.shape[0] * jax.nn.softmax(z)
        return weight, weight

    return Balancer(init, update, lambda state: {})
