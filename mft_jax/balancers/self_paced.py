"""Self-paced weights of MFTCoder v0.3 (its released code; the KDD paper describes them in words).

a_i = least-squares slope of the last `history_updates` raw validation losses of task i,
n = K a / sum_j |a_j|,  w = softmax(50 softmax(n) * (-n)).

Weights are equal until two losses have been seen. A task that is absent keeps its slope; flat
losses (all slopes 0) give equal weights.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.balancers.base import Balancer, Signals
from mft_jax.balancers.coba import convergence_slopes
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class SelfPacedConfig:
    """`history_updates`: validation losses in the fit. `sharpness`: the factor of 50."""

    history_updates: int = 100
    sharpness: float = 50.0

    def __post_init__(self) -> None:
        at_least("balancer.self_paced", self, history_updates=2, sharpness=0)


class SelfPacedState(NamedTuple):
    losses: Float[Array, "T N"]  # a ring
    steps: Int[Array, "T N"]
    num_observed: Int[Array, " T"]
    slope: Float[Array, " T"]


def self_paced(*, history_updates: int = 100, sharpness: float = 50.0) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> SelfPacedState:
        ring = jnp.zeros((num_tasks, history_updates))
        counts = jnp.zeros((num_tasks,), jnp.int32)
        return SelfPacedState(ring, ring.astype(jnp.int32), counts, jnp.zeros((num_tasks,)))

    def update(
        state: SelfPacedState, signals: Signals
    ) -> tuple[Float[Array, " T"], SelfPacedState]:
        assert signals.valid_losses is not None
        present = signals.valid_losses.present()
        loss = jnp.where(present, signals.valid_losses.mean(), 0.0)
        slot = jax.nn.one_hot(state.num_observed % history_updates, history_updates, dtype=bool)
        here = slot & present[:, None]
        losses = jnp.where(here, loss[:, None], state.losses)
        steps = jnp.where(here, signals.step, state.steps)
        num_observed = state.num_observed + present
        slope = jnp.where(present, convergence_slopes(losses, steps, num_observed), state.slope)
        total = jnp.abs(slope).sum()
        n = slope.shape[0] * slope / jnp.where(total > 0, total, 1.0)
        weight = jax.nn.softmax(sharpness * jax.nn.softmax(n) * -n)
        return weight, SelfPacedState(losses, steps, num_observed, slope)

    return Balancer(init, update, lambda state: {"slope": state.slope}, frozenset({"valid_losses"}))
