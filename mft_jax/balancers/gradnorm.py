"""GradNorm (Chen et al., ICML'18, arXiv 1711.02257, Eq. 1-2 and Algorithm 1).

G_i = w_i ||grad L_i|| is pulled towards  mean(G) (r_i / mean r)^alpha,  r_i = L_i / L_i(0):  tasks
that train slowly get larger gradients. One descent step on sum_i |G_i - target_i| with the targets
held constant, whose gradient is sign(G_i - target_i) ||grad L_i||; then w is kept above 1e-6 and
scaled to sum T.

Norms are those of the last block's adapters by default, where the paper takes the last shared
layer. L_i(0) is the first loss seen of the task; with `signal="valid"` (GradNorm* of the CoBa
paper) r_i is the validation loss ratio. An absent task keeps its weight and is not in the means.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import (
    LOSS_RATIO,
    NEEDED_LOSSES,
    Balancer,
    Need,
    RunFacts,
    Signals,
    Subset,
    first_losses,
    losses_of,
)
from mft_jax.balancers.gramian import present_tasks
from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums, at_least

LEAST = 1e-6
NORM = ("gradient_norm", Quantity("Gradient norm per task", "before the task's weight"))


@dataclasses.dataclass(frozen=True)
class GradnormConfig:
    """Settings of GradNorm.

    alpha          how strongly training rates are evened out
    learning_rate  of the weights
    parameters     whose gradients' norms are compared: all, or the last block's
    """

    alpha: float = 1.5
    learning_rate: float = 0.025
    parameters: Subset = "last_block"

    def __post_init__(self) -> None:
        at_least("balancer.gradnorm", self, alpha=0, learning_rate=0)


class GradnormState(NamedTuple):
    weight: Float[Array, " T"]
    initial_loss: Float[Array, " T"]  # NaN until seen
    ratio: Float[Array, " T"]
    norm: Float[Array, " T"]  # of the last step in which the task was present


def gradnorm(settings: GradnormConfig, run: RunFacts) -> Balancer:
    """Weights that bring every task's gradient norm to a length that follows its loss ratio.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), 100, valid_micro_batches=4, signal="valid")
    >>> balancer = gradnorm(GradnormConfig(), run)
    >>> state = balancer.init(2, TaskSums(jnp.array([2.0, 1.0]), jnp.ones(2)))
    >>> losses = TaskSums(jnp.array([1.0, 0.9]), jnp.ones(2))  # ratios 0.5 and 0.9
    >>> gramian = jnp.array([[9.0, 0.0], [0.0, 1.0]])  # norms 3 and 1
    >>> signals = Signals(jnp.int32(0), valid_losses=losses, gramian=gramian)
    >>> weight, state = balancer.update(state, signals)
    >>> [round(w, 4) for w in weight.tolist()]
    [0.9487, 1.0513]
    """
    signal = run.signal

    def init(num_tasks: int, valid_losses: TaskSums) -> GradnormState:
        ones = jnp.ones((num_tasks,))
        return GradnormState(ones, first_losses(signal, valid_losses), ones, jnp.zeros_like(ones))

    def update(state: GradnormState, signals: Signals) -> tuple[Float[Array, " T"], GradnormState]:
        assert signals.gramian is not None
        losses = losses_of(signal, signals)
        seen, loss = losses.present(), losses.mean()
        initial = jnp.where(jnp.isnan(state.initial_loss) & seen, loss, state.initial_loss)
        ratio = jnp.where(seen, loss / initial, state.ratio)
        present = present_tasks(signals.gramian)
        norm = jnp.sqrt(jnp.where(present, jnp.diagonal(signals.gramian), 0.0))
        rate = (ratio / _mean(ratio, present)) ** settings.alpha
        target = _mean(state.weight * norm, present) * rate
        gradient = jnp.sign(state.weight * norm - target) * norm
        stepped = jnp.maximum(state.weight - settings.learning_rate * gradient, LEAST)
        weight = jnp.where(present, stepped, state.weight)
        weight = weight.shape[0] * weight / weight.sum()
        norm = jnp.where(present, norm, state.norm)
        return weight, GradnormState(weight, initial, ratio, norm)

    def logs(state: GradnormState) -> dict[str, Array]:
        return {"ratio": state.ratio, "gradient_norm": state.norm}

    needs: frozenset[Need] = frozenset({NEEDED_LOSSES[signal], "task_gradients"})
    return Balancer(
        init, update, logs, needs, subset=settings.parameters, titles=(LOSS_RATIO, NORM)
    )


def _mean(values: Array, present: Array) -> Float[Array, ""]:
    """Mean over present tasks; 1 where there is none."""
    count = present.sum()
    total = jnp.where(present, values, 0.0).sum()
    return jnp.where(count > 0, total / jnp.maximum(count, 1), 1.0)
