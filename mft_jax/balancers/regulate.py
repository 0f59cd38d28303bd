"""What every balancer has in common: warm-up, smoothing, a least weight, and weights that sum to 1.

Smoothing is CR-MOGM's (Zhou et al., NeurIPS'22, Algorithm 1): an exponential moving average of the
weights keeps a stochastic gradient from swaying them, w_t = d w_{t-1} + (1 - d) w.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals, State, equal_weights
from mft_jax.types import TaskSums


class RegulatedState(NamedTuple):
    inner: State
    average: Float[Array, " T"]


def regulate(
    inner: Balancer, *, warmup_steps: int = 0, ema_decay: float = 0.0, min_weight: float = 0.0
) -> Balancer:
    """`inner`, its weights divided by the sum of their absolute values.

    warmup_steps:  optimiser steps with equal weights; `inner` looks on.
    ema_decay:     d; 0 leaves the weights as they are. The average starts at equal weights.
    min_weight:    m <= 1/K: w <- (1 - K m) w + m, which keeps the sum.

    Weights that are all zero (no task is present) become equal weights.
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> RegulatedState:
        return RegulatedState(inner.init(num_tasks, valid_losses), equal_weights(num_tasks))

    def update(state: RegulatedState, signals: Signals) -> tuple[Array, RegulatedState]:
        raw, inner_state = inner.update(state.inner, signals)
        equal = jnp.full_like(state.average, 1.0 / raw.shape[0])
        total = jnp.abs(raw).sum()
        weight = jnp.where(total > 0, raw / jnp.where(total > 0, total, 1.0), equal)
        weight = weight.astype(equal.dtype)
        warm = signals.step >= warmup_steps
        weight = jnp.where(warm, weight, equal)
        weight = ema_decay * state.average + (1.0 - ema_decay) * weight
        floored = (1.0 - raw.shape[0] * min_weight) * weight + min_weight
        return floored, RegulatedState(inner_state, weight)

    def after_step(state: RegulatedState, losses: TaskSums) -> RegulatedState:
        assert inner.after_step is not None
        return state._replace(inner=inner.after_step(state.inner, losses))

    return inner._replace(
        init=init,
        update=update,
        logs=lambda state: inner.logs(state.inner),
        after_step=after_step if inner.after_step is not None else None,
    )
