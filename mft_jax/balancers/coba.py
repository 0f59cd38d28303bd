"""CoBa, the convergence balancer (EMNLP'24, arXiv 2410.06741, Algorithm 1, Eq. 2-7).

A task that converges slowly gets more weight (RCS), a task that begins to diverge gets less
(ACS), and the divergence factor DF hands over from the first to the second:

    valid loss ratio r_i -> slope alpha_i -> RCS_i ----\\
                                          \\-> ACS_i ----> w = DF RCS + (1 - DF) ACS
                                           \\-> DF -----/

Deviations: Algorithm 1 prints the branches of `t <= W` swapped; weights are uniform during
warm-up, as section 3.1 says. DF uses alpha_max(t) = max_i alpha_i(t). A zero denominator gives the
uniform vector for that score. `variant` says how the denominator of Eq. 7 is read:

    default   absolute values
    paper     signed, as printed: a slope rising to zero then raises DF, against section 3.4
    mftcoder  the released code, which differs in more: see `coba_mftcoder`
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.balancers.base import Balancer, Signals, State, equal_weights
from mft_jax.types import MftError, TaskSums, at_least

Ablate = Literal["none", "rcs", "acs", "df"]
Variant = Literal["default", "paper", "mftcoder"]


@dataclasses.dataclass(frozen=True)
class CobaConfig:
    """Counts are updates (looks at a validation micro-batch), `update_every_steps` apart.

    `warmup_updates` and `history_updates` left at None follow the paper's appendix B: M and 2 M,
    with M the number of validation micro-batches in a pass over the validation data.
    """

    tau: float = 5.0
    warmup_updates: int | None = None
    history_updates: int | None = None
    update_every_steps: int = 1
    ablate: Ablate = "none"
    variant: Variant = "default"

    def __post_init__(self) -> None:
        least = {"tau": 0, "warmup_updates": 0, "history_updates": 2, "update_every_steps": 1}
        at_least("balancer.coba", self, **least)
        if self.variant == "mftcoder" and self.ablate != "none":
            raise MftError(
                f"balancer.coba.ablate={self.ablate!r} is not defined for variant 'mftcoder'; "
                "choose variant 'default' or 'paper'"
            )


class CobaState(NamedTuple):
    """Histories are rings over N observations (`history_updates`); DF's covers the whole run."""

    initial_loss: Float[Array, " T"]  # L_i_val(0), a full pass before the first step
    num_updates: Int[Array, ""]
    num_observed: Int[Array, " T"]  # observations of each task so far
    ratio_history: Float[Array, "T N"]
    step_history: Int[Array, "T N"]
    slope_history: Float[Array, "T N"]
    max_slope_history: Float[Array, " U"]  # alpha_max of each update since warm-up
    valid_loss: Float[Array, " T"]  # of the last look; NaN where absent
    ratio: Float[Array, " T"]  # last seen
    slope: Float[Array, " T"]  # last seen; an absent task keeps its own
    rcs: Float[Array, " T"]
    acs: Float[Array, " T"]
    df: Float[Array, ""]
    weight: Float[Array, " T"]


def coba(
    *,
    history_updates: int,
    warmup_updates: int,
    max_updates: int,
    tau: float = 5.0,
    update_every_steps: int = 1,
    ablate: Ablate = "none",
    variant: Literal["default", "paper"] = "default",
) -> Balancer:
    """The balancer of the module's docstring.

    history_updates: N, observations in the slope fit and the ACS window.
    warmup_updates:  W, weights stay uniform until this many updates have been seen.
    max_updates:     updates of the whole run (the softmax of Eq. 7 runs over all of them).
    tau:             temperature of DF.
    ablate:          leave one part out: `rcs` -> ACS alone, `acs` -> RCS alone,
                     `df` -> the plain mean of both.
    variant:         the denominator of Eq. 7.
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> CobaState:
        initial_loss = jnp.asarray(valid_losses.mean(), float)
        return start(initial_loss, history_updates, max_updates)

    def update(state: CobaState, signals: Signals) -> tuple[Float[Array, " T"], CobaState]:
        new = jax.lax.cond(
            signals.step % update_every_steps == 0, look, lambda state, _: state, state, signals
        )
        return new.weight, new

    def look(state: CobaState, signals: Signals) -> CobaState:
        assert signals.valid_losses is not None
        state = observe(state, signals.step, signals.valid_losses)
        since_warmup = state.num_updates - warmup_updates
        slot = jnp.clip(since_warmup - 1, 0, max_updates - 1)
        highest = jnp.where(since_warmup > 0, state.slope.max(), state.max_slope_history[slot])
        max_slopes = state.max_slope_history.at[slot].set(highest)
        rcs = relative_convergence_scores(state.slope)
        acs = absolute_convergence_scores(state.slope, state.slope_history, state.num_observed)
        df = divergence_factor(max_slopes, since_warmup, tau, signed=variant == "paper")
        blend = {"none": df, "rcs": 0.0, "acs": 1.0, "df": 0.5}[ablate]
        mixed = blend * rcs + (1.0 - blend) * acs  # Eq. 6
        equal = jnp.full_like(mixed, 1.0 / mixed.shape[0])
        return state._replace(
            max_slope_history=max_slopes,
            rcs=rcs,
            acs=acs,
            df=df,
            weight=jnp.where(since_warmup > 0, mixed, equal),
        )

    return Balancer(init, update, coba_logs, frozenset({"valid_losses"}), update_every_steps)


def start(initial_loss: Float[Array, " T"], history_updates: int, max_updates: int) -> CobaState:
    """Equal weights, no observation yet."""
    num_tasks = initial_loss.shape[0]
    per_task = jnp.zeros((num_tasks,))
    history = jnp.zeros((num_tasks, history_updates))
    equal = equal_weights(num_tasks)
    return CobaState(
        initial_loss=initial_loss,
        num_updates=jnp.zeros((), jnp.int32),
        num_observed=jnp.zeros((num_tasks,), jnp.int32),
        ratio_history=history,
        step_history=jnp.zeros(history.shape, jnp.int32),
        slope_history=history,
        max_slope_history=jnp.zeros((max_updates,)),
        valid_loss=jnp.full_like(per_task, jnp.nan),
        ratio=jnp.ones_like(per_task),
        slope=per_task,
        rcs=equal,
        acs=equal,
        df=jnp.ones(()),
        weight=equal,
    )


def observe(state: CobaState, step: Int[Array, ""], valid_losses: TaskSums) -> CobaState:
    """Push this look's ratios and slopes for the tasks that are present."""
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


def _filled(num_observed: Int[Array, " T"], size: int) -> Float[Array, "T N"]:
    """1 where the ring holds an observation; slots fill from 0 upwards and stay filled."""
    return (jnp.arange(size)[None, :] < num_observed[:, None]).astype(float)


def convergence_slopes(
    ratios: Float[Array, "T N"], steps: Int[Array, "T N"], num_observed: Int[Array, " T"]
) -> Float[Array, " T"]:
    """Eq. 2-3: least-squares slope of each task's ratios against their own step numbers.

    Zero with fewer than two observations, and exactly zero for equal ratios. Steps are taken
    relative to the newest in int32, so float32 stays exact however long the run; ratios relative
    to one of their own, so that a flat curve has no rounding error for RCS and ACS to magnify.
    """
    filled = _filled(num_observed, ratios.shape[1])
    newest = jnp.max(jnp.where(filled > 0, steps, 0), axis=1, keepdims=True)
    x = (steps - newest).astype(ratios.dtype)
    count = jnp.maximum(filled.sum(axis=1, keepdims=True), 1.0)
    x = (x - (filled * x).sum(axis=1, keepdims=True) / count) * filled
    y = (ratios - ratios[:, :1]) * filled
    y = (y - y.sum(axis=1, keepdims=True) / count) * filled
    spread = (x * x).sum(axis=1)
    return jnp.where(spread > 0, (x * y).sum(axis=1) / jnp.where(spread > 0, spread, 1.0), 0.0)


def relative_convergence_scores(slope: Float[Array, " T"]) -> Float[Array, " T"]:
    """Eq. 4: softmax_i( K alpha_i / sum_j |alpha_j| )."""
    return jax.nn.softmax(_divide(slope.shape[0] * slope, jnp.abs(slope).sum()))


def absolute_convergence_scores(
    slope: Float[Array, " T"],
    slope_history: Float[Array, "T N"],
    num_observed: Int[Array, " T"],
) -> Float[Array, " T"]:
    """Eq. 5: softmax_i( -n alpha_i / sum over the last n slopes |alpha_i| ), n = min(N, seen)."""
    filled = _filled(num_observed, slope_history.shape[1])
    total = (filled * jnp.abs(slope_history)).sum(axis=1)
    return jax.nn.softmax(_divide(-filled.sum(axis=1) * slope, total))


def divergence_factor(
    max_slopes: Float[Array, " U"], num_updates: Int[Array, ""], tau: float, *, signed: bool = False
) -> Float[Array, ""]:
    """Eq. 7: min( T softmax_j( -tau T A_j / sum_l |A_l| )_T , 1 ) over the T updates since warm-up.

    A_j = max_i alpha_i of update j; `signed`: the sum of A_l itself. 1 before the first of them.
    """
    return jnp.minimum(newest_share(max_slopes, num_updates, tau, signed=signed), 1.0)


def newest_share(
    max_slopes: Float[Array, " U"], num_updates: Int[Array, ""], tau: float, *, signed: bool = False
) -> Float[Array, ""]:
    """T times the last entry of Eq. 7's softmax, not yet clamped."""
    seen = jnp.arange(max_slopes.shape[0]) < num_updates
    count = jnp.maximum(num_updates, 1).astype(max_slopes.dtype)
    total = jnp.where(seen, max_slopes if signed else jnp.abs(max_slopes), 0.0).sum()
    z = jnp.where(seen, _divide(-tau * count * max_slopes, total), -jnp.inf)
    last = jnp.clip(num_updates - 1, 0, max_slopes.shape[0] - 1)
    log_share = z[last] - jax.nn.logsumexp(jnp.where(num_updates > 0, z, 0.0))
    return jnp.where(num_updates > 0, count * jnp.exp(log_share), 1.0)


def _divide(numerator: Array, denominator: Array) -> Array:
    """Zero where the denominator is zero: equal scores, hence the uniform vector."""
    safe = jnp.where(denominator != 0, denominator, 1.0)
    return jnp.where(denominator != 0, numerator / safe, 0.0)


def coba_logs(state: State) -> dict[str, Array]:
    names = ("valid_loss", "ratio", "slope", "rcs", "acs", "df")
    return {name: getattr(state, name) for name in names}
