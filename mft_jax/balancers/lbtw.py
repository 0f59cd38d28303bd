"""LBTW, loss-balanced task weighting (Liu et al., AAAI'19): w_i = (L_i(t) / L_i(0))^b.

A task that has learnt less has more weight. L_i(0) is the first loss seen of the task, or with
`signal="valid"` (LBTW* of the CoBa paper) its validation loss before the first step. Weights are
scaled to sum T. An absent task keeps its last ratio; before its first loss the ratio is 1.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import (
    LOSS_RATIO,
    NEEDED_LOSSES,
    Balancer,
    RunFacts,
    Signals,
    first_losses,
    losses_of,
)
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class LbtwConfig:
    """Settings of LBTW.

    exponent  of the loss ratio that is the weight; 0 gives equal weights
    """

    exponent: float = 0.5

    def __post_init__(self) -> None:
        at_least("balancer.lbtw", self, exponent=0)


class LbtwState(NamedTuple):
    initial_loss: Float[Array, " T"]  # NaN until seen
    ratio: Float[Array, " T"]


def lbtw(settings: LbtwConfig, run: RunFacts) -> Balancer:
    """Weights by the power of the loss ratio.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), 100, valid_micro_batches=4, signal="valid")
    >>> balancer = lbtw(LbtwConfig(), run)
    >>> state = balancer.init(2, TaskSums(jnp.array([2.0, 1.0]), jnp.ones(2)))
    >>> losses = TaskSums(jnp.array([1.0, 0.9]), jnp.ones(2))  # ratios 0.5 and 0.9
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), valid_losses=losses))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.8541, 1.1459]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> LbtwState:
        return LbtwState(first_losses(run.signal, valid_losses), jnp.ones((num_tasks,)))

    def update(state: LbtwState, signals: Signals) -> tuple[Float[Array, " T"], LbtwState]:
        losses = losses_of(run.signal, signals)
        loss, present = losses.mean(), losses.present()
        initial = jnp.where(jnp.isnan(state.initial_loss) & present, loss, state.initial_loss)
        ratio = jnp.where(present, loss / initial, state.ratio)
        weight = ratio**settings.exponent
        return ratio.shape[0] * weight / weight.sum(), LbtwState(initial, ratio)

    return Balancer(
        init,
        update,
        lambda state: {"ratio": state.ratio},
        frozenset({NEEDED_LOSSES[run.signal]}),
        titles=(LOSS_RATIO,),
    )
