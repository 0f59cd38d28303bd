"""The rules that all balancers share: warm-up, smoothing, a least weight, weights that sum to 1.

Smoothing is CR-MOGM's (Zhou et al., NeurIPS'22, Algorithm 1): an exponential moving average makes
the weights less sensitive to the noise of one batch, w_t = d w_{t-1} + (1 - d) w.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, Signals, State, equal_weights
from mft_jax.types import TaskSums


class RegulatedState(NamedTuple):
    """The state of the balancer inside, and the smoothed weights before their floor."""

    inner: State
    average: Float[Array, " T"]


def regulate(
    inner: Balancer, *, warmup_steps: int = 0, ema_decay: float = 0.0, min_weight: float = 0.0
) -> Balancer:
    """`inner`, its weights divided by the sum of their absolute values.

    warmup_steps:  optimiser steps with equal weights; `inner` is updated as always.
    ema_decay:     d; 0 leaves the weights as they are. The average starts at equal weights.
    min_weight:    m <= 1/T: w <- (1 - T m) w + m, which keeps the sum.

    Weights that are all zero (no task is present) become equal weights.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.balancers.static import StaticConfig, static
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = regulate(static(StaticConfig({"tests": 3.0}), run), ema_decay=0.5)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> for step in range(2):
    ...     weight, state = balancer.update(state, Signals(jnp.int32(step)))
    ...     print(weight.tolist())
    [0.375, 0.625]
    [0.3125, 0.6875]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> RegulatedState:
        return RegulatedState(inner.init(num_tasks, valid_losses), equal_weights(num_tasks))

    def update(state: RegulatedState, signals: Signals) -> tuple[Array, RegulatedState]:
        raw, inner_state = inner.update(state.inner, signals)
        equal = jnp.full_like(state.average, 1.0 / raw.shape[0])
        total = jnp.abs(raw).sum()
        weight = jnp.where(total > 0, safe_divide(raw, total), equal)
        weight = weight.astype(equal.dtype)
        warmed_up = signals.step >= warmup_steps
        weight = jnp.where(warmed_up, weight, equal)
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
