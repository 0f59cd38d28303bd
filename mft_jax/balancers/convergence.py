"""The convergence of tasks: the histories of CoBa and the scores made of them (Eq. 2-5 and 7).

Equations are those of arXiv 2410.06741 with this folder's symbols: alpha_i is the slope of task i's
validation loss ratio, h the number of observations in a window, n the number of updates since the
warm-up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import State, equal_weights
from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums

SLOPE = (
    "slope",
    Quantity(
        "Convergence slope", "of the validation loss, per step; below 0 it improves", reference=0.0
    ),
)
TITLES = (
    ("valid_loss", Quantity("Validation loss", "of the balancer's micro-batch", shown=False)),
    (
        "ratio",
        Quantity(
            "Loss ratio", "of the losses that the balancer follows", reference=1.0, shown=False
        ),
    ),
    SLOPE,
    (
        "rcs",
        Quantity(
            "Relative convergence score (RCS)",
            "higher for tasks that converge slower than others",
            zero_based=True,
        ),
    ),
    (
        "acs",
        Quantity(
            "Absolute convergence score (ACS)",
            "lower for tasks that stop converging or diverge",
            zero_based=True,
        ),
    ),
    ("df", Quantity("Divergence factor (DF)", "the weights follow RCS at 1, ACS at 0")),
)


class UpdateCounts(NamedTuple):
    """Numbers of updates; an update measures the validation micro-batch.

    history:     observations in the slope fit and the ACS window.
    warmup:      updates with uniform weights at the start.
    total:       updates of the whole run (the softmax of Eq. 7 is over all since the warm-up).
    every_steps: optimiser steps between two updates.
    """

    history: int
    warmup: int
    total: int
    every_steps: int


class CobaState(NamedTuple):
    """Per-task histories are rings over the last observations; DF's covers the whole run."""

    initial_loss: Float[Array, " T"]  # L_i_val(0), a full pass before the first step
    num_updates: Int[Array, ""]
    num_observed: Int[Array, " T"]  # observations of each task so far
    ratio_history: Float[Array, "T history"]
    step_history: Int[Array, "T history"]
    slope_history: Float[Array, "T history"]
    max_slope_history: Float[Array, " updates"]  # alpha_max of each update since warm-up
    valid_loss: Float[Array, " T"]  # of the last update; NaN where absent
    ratio: Float[Array, " T"]  # last seen
    slope: Float[Array, " T"]  # of the last update in which the task was present
    rcs: Float[Array, " T"]
    acs: Float[Array, " T"]
    df: Float[Array, ""]
    weight: Float[Array, " T"]


def start(initial_loss: Float[Array, " T"], counts: UpdateCounts) -> CobaState:
    """The state with equal weights and no observation."""
    num_tasks = initial_loss.shape[0]
    per_task = jnp.zeros((num_tasks,))
    history = jnp.zeros((num_tasks, counts.history))
    equal = equal_weights(num_tasks)
    return CobaState(
        initial_loss=initial_loss,
        num_updates=jnp.zeros((), jnp.int32),
        num_observed=jnp.zeros((num_tasks,), jnp.int32),
        ratio_history=history,
        step_history=jnp.zeros(history.shape, jnp.int32),
        slope_history=history,
        max_slope_history=jnp.zeros((counts.total,)),
        valid_loss=jnp.full_like(per_task, jnp.nan),
        ratio=jnp.ones_like(per_task),
        slope=per_task,
        rcs=equal,
        acs=equal,
        df=jnp.ones(()),
        weight=equal,
    )


def observe(state: CobaState, step: Int[Array, ""], valid_losses: TaskSums) -> CobaState:
    """The state with the ratios and slopes of this update, for the tasks that are present."""
    loss = valid_losses.mean()
    present = valid_losses.present()
    ratio = jnp.where(present, loss / state.initial_loss, state.ratio)
    size = state.ratio_history.shape[1]
    here = jax.nn.one_hot(state.num_observed % size, size, dtype=bool) & present[:, None]
    ratios = jnp.where(here, ratio[:, None], state.ratio_history)
    steps = jnp.where(here, step, state.step_history)
    num_observed = state.num_observed + present
    slope = jnp.where(present, convergence_slopes(ratios, steps, num_observed), state.slope)
    return state._replace(
        num_updates=state.num_updates + 1,
        num_observed=num_observed,
        ratio_history=ratios,
        step_history=steps,
        slope_history=jnp.where(here, slope[:, None], state.slope_history),
        valid_loss=loss,
        ratio=ratio,
        slope=slope,
    )


def _filled(num_observed: Int[Array, " T"], size: int) -> Float[Array, "T history"]:
    """A mask, 1 where the ring holds an observation; slots fill from 0 upwards and stay filled."""
    return (jnp.arange(size)[None, :] < num_observed[:, None]).astype(float)


def convergence_slopes(
    ratios: Float[Array, "T history"],
    steps: Int[Array, "T history"],
    num_observed: Int[Array, " T"],
) -> Float[Array, " T"]:
    """Least-squares slopes of each task's ratios over the steps of its observations (Eq. 2-3)."""
    return slopes_of(ratios, steps, _filled(num_observed, ratios.shape[1]) > 0)


def slopes_of(
    ratios: Float[Array, "T history"],
    steps: Int[Array, "T history"] | Int[Array, "1 history"],
    observed: Bool[Array, "T history"],
) -> Float[Array, " T"]:
    """Least-squares slopes over the steps of the entries that were observed.

    Zero with fewer than two observations, and exactly zero for equal ratios. Steps are taken
    relative to the newest in int32, so float32 stays exact however long the run; ratios are taken
    relative to one of them, so that a flat curve has no rounding error for RCS and ACS to magnify.
    """
    filled = observed.astype(float)
    newest = jnp.max(jnp.where(observed, steps, 0), axis=1, keepdims=True)
    x = (steps - newest).astype(ratios.dtype)
    count = jnp.maximum(filled.sum(axis=1, keepdims=True), 1.0)
    x = (x - (filled * x).sum(axis=1, keepdims=True) / count) * filled
    y = (ratios - ratios[:, :1]) * filled
    y = (y - y.sum(axis=1, keepdims=True) / count) * filled
    spread = (x * x).sum(axis=1)
    return safe_divide((x * y).sum(axis=1), spread)


def relative_convergence_scores(slope: Float[Array, " T"]) -> Float[Array, " T"]:
    """Scores RCS = softmax_i( T alpha_i / sum_j |alpha_j| ) (Eq. 4)."""
    return jax.nn.softmax(safe_divide(slope.shape[0] * slope, jnp.abs(slope).sum()))


def absolute_convergence_scores(
    slope: Float[Array, " T"],
    slope_history: Float[Array, "T history"],
    num_observed: Int[Array, " T"],
) -> Float[Array, " T"]:
    """Scores ACS = softmax_i( -h alpha_i / sum over the last h slopes |alpha_i| ) (Eq. 5).

    h is the number of slopes seen, at most `history`.
    """
    filled = _filled(num_observed, slope_history.shape[1])
    total = (filled * jnp.abs(slope_history)).sum(axis=1)
    return jax.nn.softmax(safe_divide(-filled.sum(axis=1) * slope, total))


def divergence_factor(
    max_slopes: Float[Array, " updates"],
    num_updates: Int[Array, ""],
    tau: float,
    *,
    signed: bool = False,
) -> Float[Array, ""]:
    """DF = min( n softmax_j( -tau n A_j / sum_l |A_l| )_n , 1 ) (Eq. 7).

    n is the number of updates since the warm-up, A_j = max_i alpha_i of update j; `signed`: the
    denominator is the sum of A_l itself. DF is 1 before the first of these updates.
    """
    return jnp.minimum(newest_share(max_slopes, num_updates, tau, signed=signed), 1.0)


def newest_share(
    max_slopes: Float[Array, " updates"],
    num_updates: Int[Array, ""],
    tau: float,
    *,
    signed: bool = False,
) -> Float[Array, ""]:
    """The last entry of Eq. 7's softmax times n, not yet clamped to 1."""
    seen = jnp.arange(max_slopes.shape[0]) < num_updates
    count = jnp.maximum(num_updates, 1).astype(max_slopes.dtype)
    total = jnp.where(seen, max_slopes if signed else jnp.abs(max_slopes), 0.0).sum()
    z = jnp.where(seen, safe_divide(-tau * count * max_slopes, total), -jnp.inf)
    last = jnp.clip(num_updates - 1, 0, max_slopes.shape[0] - 1)
    log_share = z[last] - jax.nn.logsumexp(jnp.where(num_updates > 0, z, 0.0))
    return jnp.where(num_updates > 0, count * jnp.exp(log_share), 1.0)


def logs(state: State) -> dict[str, Array]:
    """The numbers of `TITLES`."""
    return {name: getattr(state, name) for name, _ in TITLES}
