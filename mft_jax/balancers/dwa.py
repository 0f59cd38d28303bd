"""DWA, dynamic weight average (Liu et al., CVPR'19, arXiv 1803.10704, Eq. 7).

w_i = T exp(r_i / temperature) / sum_j exp(r_j / temperature),
r_i = mean L_i of the last window / of the one before.

The paper's window is an epoch; fine-tuning often has one epoch only, so a window is `window_steps`
optimiser steps. Weights are 1 until two windows are complete, and change at the end of a window. A
task absent from a whole window keeps the mean and the ratio that it had before.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.balancers.base import LOSS_RATIO, Balancer, RunFacts, Signals, losses_of
from mft_jax.types import TaskSums, above, at_least


@dataclasses.dataclass(frozen=True)
class DwaConfig:
    """Settings of DWA.

    temperature   of the softmax over loss ratios; a large one gives nearly equal weights
    window_steps  optimiser steps whose losses are averaged before two windows are compared
    """

    temperature: float = 2.0
    window_steps: int = 10

    def __post_init__(self) -> None:
        at_least("balancer.dwa", self, window_steps=1)
        above("balancer.dwa", self, temperature=0)


class DwaState(NamedTuple):
    steps: Int[Array, ""]  # of the current window
    windows: Int[Array, " T"]  # complete ones in which the task was present
    sums: TaskSums  # losses seen in the current window, each step once
    before: Float[Array, " T"]
    last: Float[Array, " T"]
    ratio: Float[Array, " T"]


def dwa(settings: DwaConfig, run: RunFacts) -> Balancer:
    """Weights by the ratio of the last two windows' losses: a slow task gets more.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> ones = jnp.ones(2)
    >>> balancer = dwa(DwaConfig(window_steps=1), run)
    >>> state = balancer.init(2, TaskSums(ones, ones))
    >>> for step, losses in enumerate([[2.0, 1.0], [1.0, 0.9], [0.9, 0.9]]):
    ...     signals = Signals(jnp.int32(step), train_losses=TaskSums(jnp.array(losses), ones))
    ...     weight, state = balancer.update(state, signals)
    >>> [round(w, 4) for w in weight.tolist()]  # of the ratios 0.5 and 0.9
    [0.9003, 1.0997]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> DwaState:
        ones, zeros = jnp.ones((num_tasks,)), jnp.zeros((num_tasks,))
        counts = jnp.zeros((num_tasks,), jnp.int32)
        sums = TaskSums(zeros, zeros)
        return DwaState(jnp.zeros((), jnp.int32), counts, sums, ones, ones, ones)

    def update(state: DwaState, signals: Signals) -> tuple[Float[Array, " T"], DwaState]:
        weight = state.ratio.shape[0] * jax.nn.softmax(state.ratio / settings.temperature)
        losses = losses_of("train", signals)
        present = losses.present()
        loss = jnp.where(present, losses.mean(), 0.0)
        sums = TaskSums(state.sums.sum + loss, state.sums.count + present)
        state = state._replace(steps=state.steps + 1, sums=sums)
        full = state.steps == settings.window_steps
        closed = _close(state)
        return weight, jax.tree.map(lambda new, old: jnp.where(full, new, old), closed, state)

    return Balancer(
        init,
        update,
        lambda state: {"ratio": state.ratio},
        frozenset({"train_losses"}),
        titles=(LOSS_RATIO,),
    )


def _close(state: DwaState) -> DwaState:
    """The state at the end of a window, whose means become the last ones."""
    present = state.sums.present()
    mean = jnp.where(present, state.sums.mean(), state.last)
    windows = state.windows + present
    before = jnp.where(present, state.last, state.before)
    ratio = jnp.where(present & (windows >= 2), mean / before, state.ratio)
    zeros = jnp.zeros_like(mean)
    return DwaState(
        jnp.zeros_like(state.steps), windows, TaskSums(zeros, zeros), before, mean, ratio
    )
