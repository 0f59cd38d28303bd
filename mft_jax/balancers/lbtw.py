"""LBTW, loss-balanced task weighting (Liu et al., AAAI'19): w_i = (L_i(t) / L_i(0))^b.

A task that has learnt less has more weight. L_i(0) is the first loss seen of the task, or with
`signal="valid"` (LBTW* of the CoBa paper) its validation loss before the first step. Weights are
scaled to sum K. An absent task keeps its last ratio; before its first loss the ratio is 1.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import (
    NEEDED_LOSSES,
    Balancer,
    LossSignal,
    Signals,
    first_losses,
    losses_of,
)
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class LbtwConfig:
    """`exponent`: b; 0 gives equal weights."""

    exponent: float = 0.5

    def __post_init__(self) -> None:
        at_least("balancer.lbtw", self, exponent=0)


class LbtwState(NamedTuple):
    initial_loss: Float[Array, " T"]  # NaN until seen
    ratio: Float[Array, " T"]


def lbtw(*, exponent: float = 0.5, signal: LossSignal = "train") -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> LbtwState:
        return LbtwState(first_losses(signal, valid_losses), jnp.ones((num_tasks,)))

    def update(state: LbtwState, signals: Signals) -> tuple[Float[Array, " T"], LbtwState]:
        losses = losses_of(signal, signals)
        loss, present = losses.mean(), losses.present()
        initial = jnp.where(jnp.isnan(state.initial_loss) & present, loss, state.initial_loss)
        ratio = jnp.where(present, loss / initial, state.ratio)
        weight = ratio**exponent
        return ratio.shape[0] * weight / weight.sum(), LbtwState(initial, ratio)

    return Balancer(
        init, update, lambda state: {"ratio": state.ratio}, frozenset({NEEDED_LOSSES[signal]})
    )
