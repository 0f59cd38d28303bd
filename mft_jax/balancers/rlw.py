"""RLW, random loss weighting (Lin et al., TMLR'22, arXiv 2111.10603): the baseline to beat.

w = T softmax(z) with z ~ N(0, I) drawn anew in every step (Section 3, the normal distribution).
The draw follows from the step number only, so a resumed run sees the same weights.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, State, no_logs
from mft_jax.types import TaskSums


def rlw(settings: None, run: RunFacts) -> Balancer:
    """Random weights of sum T.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = rlw(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> weight, state = balancer.update(state, Signals(jnp.int32(7)))
    >>> round(weight.sum().item(), 3)
    2.0
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> Float[Array, " T"]:
        return jnp.ones((num_tasks,))

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        key = jax.random.fold_in(jax.random.key(0), signals.step)
        z = jax.random.normal(key, state.shape, state.dtype)
        weight = state.shape[0] * jax.nn.softmax(z)
        return weight, weight

    return Balancer(init, update, no_logs)
