"""Equal weights: only the objective decides how tasks are balanced."""

from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, State, equal_weights, no_logs
from mft_jax.types import TaskSums


def uniform(settings: None, run: RunFacts) -> Balancer:
    """Weights w_i = 1/T.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = uniform(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0)))
    >>> weight.tolist()
    [0.5, 0.5]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> Float[Array, " T"]:
        return equal_weights(num_tasks)

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        return state, state

    return Balancer(init, update, no_logs)
