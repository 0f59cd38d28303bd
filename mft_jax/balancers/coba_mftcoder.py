"""CoBa as MFTCoder v0.5 released it, for comparison with its runs. Deviations from the paper:

- weights of a step are made before its validation loss is seen, from the last
  min(t - 1, history) losses, and the very first measurement is not kept;
- DF's A_j is the slope of the curve max_i r_i, not the largest slope; no clamp;
- the blend of RCS and ACS is sharpened, w = softmax(T z), and where any weight is below
  m = 1/(10 T) all become (1 - m T) w + m.

Its released results are met to 1e-6, but not with absent tasks: it drops their zeros but not their
steps, so that time is compressed; here slopes are fitted over the true steps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, Signals, losses_of
from mft_jax.balancers.convergence import (
    TITLES,
    CobaState,
    UpdateCounts,
    convergence_slopes,
    logs,
    newest_share,
    observe,
    relative_convergence_scores,
    start,
)
from mft_jax.types import TaskSums


def coba_mftcoder(counts: UpdateCounts, tau: float) -> Balancer:
    """The balancer behind `coba` with `variant="mftcoder"`."""

    def init(num_tasks: int, valid_losses: TaskSums) -> CobaState:
        return start(jnp.asarray(valid_losses.mean(), float), counts)

    def update(state: CobaState, signals: Signals) -> tuple[Float[Array, " T"], CobaState]:
        due = signals.step % counts.every_steps == 0
        new = jax.lax.cond(due, weigh_and_observe, lambda state, _: state, state, signals)
        return new.weight, new

    def weigh_and_observe(state: CobaState, signals: Signals) -> CobaState:
        t = state.num_updates  # updates before this one
        warm = t >= counts.warmup
        weighted = jax.lax.cond(warm, weigh, lambda state: state, state)
        observed = observe(weighted, signals.step, losses_of("valid", signals))
        kept = observed._replace(slope=weighted.slope, slope_history=weighted.slope_history)
        first = weighted._replace(
            valid_loss=observed.valid_loss, ratio=observed.ratio, num_updates=t + 1
        )
        return jax.tree.map(lambda a, b: jnp.where(t == 0, a, b), first, kept)

    def weigh(state: CobaState) -> CobaState:
        t, index = state.num_updates, state.num_updates - counts.warmup
        slope = convergence_slopes(state.ratio_history, state.step_history, state.num_observed)
        slope_history = state.slope_history.at[:, index % counts.history].set(slope)
        highest = state.ratio_history.max(axis=0, keepdims=True)
        max_slope = convergence_slopes(
            highest, state.step_history[:1], state.num_observed.max(keepdims=True)
        )[0]
        max_slopes = state.max_slope_history.at[index].set(max_slope)
        count = jnp.clip(index - jnp.maximum(0, t - counts.history) + 1, 0, counts.history)
        rcs = relative_convergence_scores(slope)
        acs = _scores_of_newest(slope, slope_history, index, count)
        df = newest_share(max_slopes, index + 1, tau)
        weight = jax.nn.softmax(slope.shape[0] * (df * rcs + (1.0 - df) * acs))
        least = 0.1 / slope.shape[0]
        floored = (1.0 - least * slope.shape[0]) * weight + least
        return state._replace(
            slope=slope,
            slope_history=slope_history,
            max_slope_history=max_slopes,
            rcs=rcs,
            acs=acs,
            df=df,
            weight=jnp.where(weight.min() < least, floored, weight),
        )

    return Balancer(
        init, update, logs, frozenset({"valid_losses"}), counts.every_steps, titles=TITLES
    )


def _scores_of_newest(
    slope: Float[Array, " T"], history: Float[Array, "T history"], index: Array, count: Array
) -> Float[Array, " T"]:
    """Scores ACS (Eq. 5) over the `count` newest slopes of a ring whose newest is at `index`."""
    size = history.shape[1]
    age = (index - jnp.arange(size)) % size
    recent = jnp.where((age < count)[None], jnp.abs(history), 0.0).sum(axis=1)
    return jax.nn.softmax(safe_divide(-count * slope, recent))
