"""Homoscedastic uncertainty (Kendall et al., CVPR'18, arXiv 1705.07115, Eq. 10).

The loss is sum_i 0.5 exp(-s_i) L_i + 0.5 s_i with learnt log-variances s_i, so w_i = 0.5 exp(-s_i).
The step on s is gradient descent with Adam, separate from the model's optimiser and with another
learning rate. An absent task's log-variance and moments stay as they are.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, losses_of
from mft_jax.balancers.task_adam import TaskAdam, start_adam, step_adam
from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums, at_least

TITLES = (("log_variance", Quantity("Log variance", "s of the weight exp(-s) / 2")),)


@dataclasses.dataclass(frozen=True)
class UncertaintyConfig:
    """Settings of uncertainty weighting.

    learning_rate  of the log-variances, which start at 0
    """

    learning_rate: float = 0.025

    def __post_init__(self) -> None:
        at_least("balancer.uncertainty", self, learning_rate=0)


def uncertainty(settings: UncertaintyConfig, run: RunFacts) -> Balancer:
    """Weights by learnt variances of the losses: a noisy task gets less.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> losses = TaskSums(jnp.array([2.0, 0.5]), jnp.ones(2))
    >>> balancer = uncertainty(UncertaintyConfig(), run)
    >>> state = balancer.init(2, losses)
    >>> for step in range(2):
    ...     signals = Signals(jnp.int32(step), train_losses=losses)
    ...     weight, state = balancer.update(state, signals)
    >>> [round(w, 4) for w in weight.tolist()]
    [0.4877, 0.5127]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> TaskAdam:
        return start_adam(jnp.zeros((num_tasks,)))

    def update(state: TaskAdam, signals: Signals) -> tuple[Float[Array, " T"], TaskAdam]:
        losses = losses_of("train", signals)
        present = losses.present()
        loss = jnp.where(present, losses.mean(), 0.0)
        weight = 0.5 * jnp.exp(-state.value)
        gradient = 0.5 - weight * loss
        return weight, step_adam(state, gradient, present, settings.learning_rate)

    return Balancer(
        init,
        update,
        lambda state: {"log_variance": state.value},
        frozenset({"train_losses"}),
        titles=TITLES,
    )
