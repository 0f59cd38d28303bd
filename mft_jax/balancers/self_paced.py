"""Self-paced weights of MFTCoder v0.3 (its released code; the KDD paper describes them in words).

a_i = least-squares slope of the last `history_updates` raw validation losses of task i,
n = T a / sum_j |a_j|,  w = softmax(50 softmax(n) * (-n)).

Weights are equal until two losses have been seen. A task that is absent keeps its slope; flat
losses (all slopes 0) give equal weights.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, RunFacts, Signals, losses_of
from mft_jax.balancers.convergence import SLOPE, convergence_slopes
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class SelfPacedConfig:
    """Settings of self-paced weights.

    history_updates  validation losses in the fit of a slope
    sharpness        factor of the slopes before the softmax
    """

    history_updates: int = 100
    sharpness: float = 50.0

    def __post_init__(self) -> None:
        at_least("balancer.self_paced", self, history_updates=2, sharpness=0)


class SelfPacedState(NamedTuple):
    losses: Float[Array, "T history"]  # a ring
    steps: Int[Array, "T history"]
    num_observed: Int[Array, " T"]
    slope: Float[Array, " T"]


def self_paced(settings: SelfPacedConfig, run: RunFacts) -> Balancer:
    """Weights by the slopes of raw validation losses.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> ones = jnp.ones(2)
    >>> balancer = self_paced(SelfPacedConfig(sharpness=5.0), run)
    >>> state = balancer.init(2, TaskSums(ones, ones))
    >>> for step, losses in enumerate([[2.0, 1.0], [1.5, 0.8]]):
    ...     signals = Signals(jnp.int32(step), valid_losses=TaskSums(jnp.array(losses), ones))
    ...     weight, state = balancer.update(state, signals)
    >>> [round(w, 3) for w in weight.tolist()]  # of the slopes -0.5 and -0.2
    [0.531, 0.469]
    """
    history = settings.history_updates

    def init(num_tasks: int, valid_losses: TaskSums) -> SelfPacedState:
        ring = jnp.zeros((num_tasks, history))
        counts = jnp.zeros((num_tasks,), jnp.int32)
        return SelfPacedState(ring, ring.astype(jnp.int32), counts, jnp.zeros((num_tasks,)))

    def update(
        state: SelfPacedState, signals: Signals
    ) -> tuple[Float[Array, " T"], SelfPacedState]:
        observed = losses_of("valid", signals)
        present = observed.present()
        loss = jnp.where(present, observed.mean(), 0.0)
        slot = jax.nn.one_hot(state.num_observed % history, history, dtype=bool)
        here = slot & present[:, None]
        losses = jnp.where(here, loss[:, None], state.losses)
        steps = jnp.where(here, signals.step, state.steps)
        num_observed = state.num_observed + present
        slope = jnp.where(present, convergence_slopes(losses, steps, num_observed), state.slope)
        n = safe_divide(slope.shape[0] * slope, jnp.abs(slope).sum())
        weight = jax.nn.softmax(settings.sharpness * jax.nn.softmax(n) * -n)
        return weight, SelfPacedState(losses, steps, num_observed, slope)

    return Balancer(
        init,
        update,
        lambda state: {"slope": state.slope},
        frozenset({"valid_losses"}),
        titles=(SLOPE,),
    )
