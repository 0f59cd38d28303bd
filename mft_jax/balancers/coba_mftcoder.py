"""CoBa as MFTCoder v0.5 released it, for comparison with its runs. A look is a measurement of a
validation micro-batch; u is `update_every_steps`. The order of the released loop, step by step:

    s = 0, 1, 2, ...      weigh, if s is a multiple of u and s / u >= warm-up
                          backward pass and update
                          look, if s is a multiple of u and s >= 1

Deviations from the paper:

- the weights of a step are made before its look, from the looks after earlier updates;
- slopes are fitted to the last `history` looks where u = 1, and to all looks where u > 1: the
  released window, counted once in steps and once in looks, is then always longer than they are;
- the window of ACS is the looks since max(0, s / u - history) after the warm-up;
- DF's A_j is the slope of the curve max_i r_i, not the largest slope; no clamp;
- the blend of RCS and ACS is sharpened, w = softmax(T z), and where any weight is below
  m = 1/(10 T) all become (1 - m T) w + m.

The weights of a run, given its losses, are those of the released code: to 1e-12 in float64, to 1e-5
in float32. Three things differ:

- with absent tasks it drops their zeros but not their steps, so that time is compressed; here
  slopes are fitted over the true steps;
- where it stops with an error (fewer than three looks at the end of the warm-up) or divides zero by
  zero, the slopes are 0 and the scores equal;
- with gradient accumulation it uses new weights only from a step's last micro-batch on; here they
  are those of the whole step.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, Need, Signals, equal_weights
from mft_jax.balancers.convergence import (
    TITLES,
    UpdateCounts,
    logs,
    newest_share,
    relative_convergence_scores,
    slopes_of,
)
from mft_jax.types import TaskSums


class MftcoderState(NamedTuple):
    """Columns of the ratios are looks, one for all tasks, in a ring over the window of the fit."""

    initial_loss: Float[Array, " T"]
    step: Int[Array, ""]  # of the update under way
    ratio_history: Float[Array, "T window"]
    present_history: Bool[Array, "T window"]
    step_history: Int[Array, " window"]
    slope_history: Float[Array, "T window"]
    max_slope_history: Float[Array, " updates"]  # of the curve max_i r_i, since the warm-up
    valid_loss: Float[Array, " T"]  # of the last look; NaN where absent
    ratio: Float[Array, " T"]  # last seen
    slope: Float[Array, " T"]
    rcs: Float[Array, " T"]
    acs: Float[Array, " T"]
    df: Float[Array, ""]
    weight: Float[Array, " T"]


def coba_mftcoder(counts: UpdateCounts, tau: float) -> Balancer:
    """The balancer behind `coba` with `variant="mftcoder"`."""

    def init(num_tasks: int, valid_losses: TaskSums) -> MftcoderState:
        return _start(jnp.asarray(valid_losses.mean(), float), counts)

    def update(state: MftcoderState, signals: Signals) -> tuple[Float[Array, " T"], MftcoderState]:
        look = signals.step // counts.every_steps
        due = (signals.step % counts.every_steps == 0) & (look >= counts.warmup)
        state = state._replace(step=signals.step.astype(jnp.int32))
        weigh = functools.partial(_weigh, counts, tau)
        new = jax.lax.cond(due, weigh, lambda state, _: state, state, look)
        return new.weight, new

    def after_step(state: MftcoderState, losses: TaskSums) -> MftcoderState:
        due = (state.step % counts.every_steps == 0) & (state.step >= 1)
        observe = functools.partial(_observe, counts)
        return jax.lax.cond(due, observe, lambda state, _: state, state, losses)

    needs: frozenset[Need] = frozenset({"post_step_valid_losses"})
    return Balancer(
        init, update, logs, needs, counts.every_steps, after_step, titles=TITLES, state_version=2
    )


def _start(initial_loss: Float[Array, " T"], counts: UpdateCounts) -> MftcoderState:
    num_tasks = initial_loss.shape[0]
    window = counts.history if counts.every_steps == 1 else counts.total
    history, equal = jnp.zeros((num_tasks, window)), equal_weights(num_tasks)
    return MftcoderState(
        initial_loss=initial_loss,
        step=jnp.zeros((), jnp.int32),
        ratio_history=history,
        present_history=jnp.zeros(history.shape, bool),
        step_history=jnp.zeros((window,), jnp.int32),
        slope_history=history,
        max_slope_history=jnp.zeros((counts.total,)),
        valid_loss=jnp.full((num_tasks,), jnp.nan, float),
        ratio=jnp.ones((num_tasks,)),
        slope=jnp.zeros((num_tasks,)),
        rcs=equal,
        acs=equal,
        df=jnp.ones(()),
        weight=equal,
    )


def _weigh(
    counts: UpdateCounts, tau: float, state: MftcoderState, look: Int[Array, ""]
) -> MftcoderState:
    """The state with the weights that follow from the looks so far; `look` counts from the start
    of the run.
    """
    index, steps = look - counts.warmup, state.step_history[None]
    present = state.present_history
    any_present = present.any(axis=0, keepdims=True)
    highest = jnp.where(present, state.ratio_history, -jnp.inf).max(axis=0, keepdims=True)
    slope = slopes_of(state.ratio_history, steps, present)
    max_slope = slopes_of(jnp.where(any_present, highest, 0.0), steps, any_present)[0]
    size = state.slope_history.shape[1]
    slope_history = state.slope_history.at[:, index % size].set(slope)
    max_slopes = state.max_slope_history.at[index].set(max_slope)
    count = jnp.clip(index - jnp.maximum(0, look - counts.history) + 1, 0, counts.history)
    rcs = relative_convergence_scores(slope)
    acs = _scores_of_newest(slope, slope_history, index, count)
    df = newest_share(max_slopes, index + 1, tau)
    return state._replace(
        slope=slope,
        slope_history=slope_history,
        max_slope_history=max_slopes,
        rcs=rcs,
        acs=acs,
        df=df,
        weight=_sharpened(df * rcs + (1.0 - df) * acs),
    )


def _observe(counts: UpdateCounts, state: MftcoderState, losses: TaskSums) -> MftcoderState:
    """The state with one more look; that of step 0 is not kept."""
    loss, present = losses.mean(), losses.present()
    ratio = jnp.where(present, loss / state.initial_loss, state.ratio)
    column = (state.step // counts.every_steps - 1) % state.ratio_history.shape[1]
    return state._replace(
        ratio_history=state.ratio_history.at[:, column].set(ratio),
        present_history=state.present_history.at[:, column].set(present),
        step_history=state.step_history.at[column].set(state.step),
        valid_loss=loss.astype(state.valid_loss.dtype),
        ratio=ratio.astype(state.ratio.dtype),
    )


def _sharpened(blend: Float[Array, " T"]) -> Float[Array, " T"]:
    num_tasks = blend.shape[0]
    weight = jax.nn.softmax(num_tasks * blend)
    least = 0.1 / num_tasks
    return jnp.where(weight.min() < least, (1.0 - least * num_tasks) * weight + least, weight)


def _scores_of_newest(
    slope: Float[Array, " T"], history: Float[Array, "T history"], index: Array, count: Array
) -> Float[Array, " T"]:
    """Scores ACS (Eq. 5) over the `count` newest slopes of a ring whose newest is at `index`."""
    size = history.shape[1]
    age = (index - jnp.arange(size)) % size
    recent = jnp.where((age < count)[None], jnp.abs(history), 0.0).sum(axis=1)
    return jax.nn.softmax(safe_divide(-count * slope, recent))
