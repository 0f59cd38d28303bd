"""Fixed weights per task, as MFTCoder's `task_weights`."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, State, no_logs
from mft_jax.types import TaskSums


@dataclasses.dataclass(frozen=True)
class StaticConfig:
    """Fixed weights.

    weights  by task name, on any scale; 1 where a task is not named
    """

    weights: dict[str, float] = dataclasses.field(default_factory=dict)


def static(settings: StaticConfig, run: RunFacts) -> Balancer:
    """Weights `settings.weights[name of task i]`. Raises `MftError` for a name that is not a task.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = static(StaticConfig({"tests": 3.0}), run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0)))
    >>> weight.tolist()
    [1.0, 3.0]
    """
    weights = run.tasks.values("balancer.static.weights", settings.weights, default=1.0)

    def init(num_tasks: int, valid_losses: TaskSums) -> Float[Array, " T"]:
        return jnp.asarray(weights, float)

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        return state, state

    return Balancer(init, update, no_logs)
