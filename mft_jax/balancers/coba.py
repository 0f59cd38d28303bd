"""CoBa, the convergence balancer (EMNLP'24, arXiv 2410.06741, Algorithm 1, Eq. 2-7).

A task that converges slowly gets more weight (RCS), a task that begins to diverge gets less
(ACS), and the divergence factor DF moves the weights from the first to the second:

    valid loss ratio r_i -> slope alpha_i -> RCS_i ----\\
                                          \\-> ACS_i ----> w = DF RCS + (1 - DF) ACS
                                           \\-> DF -----/

Deviations: Algorithm 1 prints the branches of its warm-up test swapped; weights are uniform during
warm-up, as section 3.1 says. DF uses alpha_max(t) = max_i alpha_i(t). A zero denominator gives the
uniform vector for that score. `variant` says how the denominator of Eq. 7 is read:

    default   absolute values
    paper     signed, as printed: a slope rising to zero then raises DF, against section 3.4
    mftcoder  the released code, which differs in more: see `coba_mftcoder`
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, losses_of
from mft_jax.balancers.coba_mftcoder import coba_mftcoder
from mft_jax.balancers.convergence import (
    TITLES,
    CobaState,
    UpdateCounts,
    absolute_convergence_scores,
    divergence_factor,
    logs,
    observe,
    relative_convergence_scores,
    start,
)
from mft_jax.types import MftError, TaskSums, at_least

Ablate = Literal["none", "rcs", "acs", "df"]
Variant = Literal["default", "paper", "mftcoder"]


@dataclasses.dataclass(frozen=True)
class CobaConfig:
    """Settings of CoBa. Counts are updates: measurements of a validation micro-batch.

    tau                 temperature of the divergence factor's softmax (Eq. 6)
    warmup_updates      updates with equal weights before the first scores; none: M, the validation
                        micro-batches in a pass over the validation data (appendix B)
    history_updates     validation losses in the fit of a slope; none: 2 M (appendix B)
    update_every_steps  optimiser steps between two updates
    ablate              leave a part out: the relative score, the absolute score, the factor
    variant             default: absolute denominators in Eq. 7; paper: signed, as printed;
                        mftcoder: the released code
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


def coba(settings: CobaConfig, run: RunFacts) -> Balancer:
    """The balancer of the module's docstring, or the released code's with `variant="mftcoder"`.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> ones = jnp.ones(2)
    >>> balancer = coba(CobaConfig(warmup_updates=1), run)
    >>> state = balancer.init(2, TaskSums(jnp.array([2.0, 1.0]), ones))
    >>> for step, losses in enumerate([[2.0, 1.0], [1.6, 0.95], [1.3, 0.91]]):
    ...     signals = Signals(jnp.int32(step), valid_losses=TaskSums(jnp.array(losses), ones))
    ...     weight, state = balancer.update(state, signals)
    >>> [round(slope, 3) for slope in state.slope.tolist()]
    [-0.175, -0.045]
    >>> [round(w, 2) for w in weight.tolist()]  # "tests" converges slower
    [0.3, 0.7]
    """
    counts = _update_counts(settings, run)
    if settings.variant == "mftcoder":
        return coba_mftcoder(counts, settings.tau)

    def init(num_tasks: int, valid_losses: TaskSums) -> CobaState:
        return start(jnp.asarray(valid_losses.mean(), float), counts)

    def update(state: CobaState, signals: Signals) -> tuple[Float[Array, " T"], CobaState]:
        due = signals.step % counts.every_steps == 0
        new = jax.lax.cond(due, weigh, lambda state, _: state, state, signals)
        return new.weight, new

    def weigh(state: CobaState, signals: Signals) -> CobaState:
        state = observe(state, signals.step, losses_of("valid", signals))
        since_warmup = state.num_updates - counts.warmup
        slot = jnp.clip(since_warmup - 1, 0, counts.total - 1)
        highest = jnp.where(since_warmup > 0, state.slope.max(), state.max_slope_history[slot])
        max_slopes = state.max_slope_history.at[slot].set(highest)
        rcs = relative_convergence_scores(state.slope)
        acs = absolute_convergence_scores(state.slope, state.slope_history, state.num_observed)
        signed = settings.variant == "paper"
        df = divergence_factor(max_slopes, since_warmup, settings.tau, signed=signed)
        blend = {"none": df, "rcs": 0.0, "acs": 1.0, "df": 0.5}[settings.ablate]
        mixed = blend * rcs + (1.0 - blend) * acs  # Eq. 6
        equal = jnp.full_like(mixed, 1.0 / mixed.shape[0])
        return state._replace(
            max_slope_history=max_slopes,
            rcs=rcs,
            acs=acs,
            df=df,
            weight=jnp.where(since_warmup > 0, mixed, equal),
        )

    return Balancer(
        init, update, logs, frozenset({"valid_losses"}), counts.every_steps, titles=TITLES
    )


def _update_counts(settings: CobaConfig, run: RunFacts) -> UpdateCounts:
    """The counts of a run, where None in the settings is the paper's appendix B."""
    warmup, history = settings.warmup_updates, settings.history_updates
    return UpdateCounts(
        history=max(2 * run.valid_micro_batches, 2) if history is None else history,
        warmup=run.valid_micro_batches if warmup is None else warmup,
        total=-(-run.total_steps // settings.update_every_steps),
        every_steps=settings.update_every_steps,
    )
