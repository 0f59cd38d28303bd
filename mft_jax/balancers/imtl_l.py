"""IMTL-L, loss balance of impartial multi-task learning (Liu et al., ICLR'21, Section 3.2).

The loss is sum_i exp(s_i) L_i - s_i with learnt s_i, so w_i = exp(s_i): scaled losses settle at 1.
The step on s is gradient descent with Adam, separate from the model's optimiser and with another
learning rate. An absent task's s and moments stay as they are.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, losses_of
from mft_jax.balancers.task_adam import TaskAdam, start_adam, step_adam
from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums, at_least

TITLES = (("log_scale", Quantity("Log scale", "s of the weight exp(s)")),)


@dataclasses.dataclass(frozen=True)
class ImtlLConfig:
    """Settings of IMTL-L.

    learning_rate  of the log-scales, which start at 0
    """

    learning_rate: float = 0.025

    def __post_init__(self) -> None:
        at_least("balancer.imtl_l", self, learning_rate=0)


def imtl_l(settings: ImtlLConfig, run: RunFacts) -> Balancer:
    """Weights by learnt scales that bring every loss to 1.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> losses = TaskSums(jnp.array([2.0, 0.5]), jnp.ones(2))
    >>> balancer = imtl_l(ImtlLConfig(), run)
    >>> state = balancer.init(2, losses)
    >>> for step in range(2):
    ...     signals = Signals(jnp.int32(step), train_losses=losses)
    ...     weight, state = balancer.update(state, signals)
    >>> [round(w, 4) for w in weight.tolist()]
    [0.9753, 1.0253]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> TaskAdam:
        return start_adam(jnp.zeros((num_tasks,)))

    def update(state: TaskAdam, signals: Signals) -> tuple[Float[Array, " T"], TaskAdam]:
        losses = losses_of("train", signals)
        present = losses.present()
        loss = jnp.where(present, losses.mean(), 0.0)
        weight = jnp.exp(state.value)
        return weight, step_adam(state, weight * loss - 1.0, present, settings.learning_rate)

    return Balancer(
        init,
        update,
        lambda state: {"log_scale": state.value},
        frozenset({"train_losses"}),
        titles=TITLES,
    )
