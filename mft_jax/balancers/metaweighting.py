"""MetaWeighting (Mao et al., Findings of ACL 2022): weights by their effect on validation losses.

A step under weights w changes validation loss j by -eta sum_i w_i <grad L_j^val, g_i>. Its
gradient by w is row j of -H, H[j, i] = <grad L_j^val, g_i>. The direction that improves all
validation losses is the shortest vector in the convex hull of these rows (MGDA on H H^T), and w
takes one step along it and is projected back onto the simplex.

Deviations: gradients of the validation losses are taken at the parameters before the step, not
after a virtual one, and H is divided by its largest entry, so that `learning_rate` is a step on the
simplex whatever the scale of the gradients. Cost: one forward and backward pass per step on the
validation micro-batch, next to the task gradients. The paper takes T of each.

Entries of tasks absent from the training batch or the validation micro-batch are zero, so they have
no effect; an absent task's weight changes only by the projection.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import (
    Balancer,
    Need,
    RunFacts,
    Signals,
    equal_weights,
    no_logs,
)
from mft_jax.balancers.gramian import onto_simplex
from mft_jax.balancers.mgda import mgda_weights
from mft_jax.types import TaskSums, at_least


@dataclasses.dataclass(frozen=True)
class MetaweightingConfig:
    """Settings of MetaWeighting.

    learning_rate  of the weights, along the gradient of the validation loss after a step
    """

    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        at_least("balancer.metaweighting", self, learning_rate=0)


def metaweighting(settings: MetaweightingConfig, run: RunFacts) -> Balancer:
    """Weights that move to the tasks whose gradients lower all validation losses.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = metaweighting(MetaweightingConfig(learning_rate=0.1), run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> helpful = jnp.array([[1.0, 0.1], [1.0, 0.2]])  # "code" helps both validation losses
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), valid_gramian=helpful))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.545, 0.455]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> Float[Array, " T"]:
        return equal_weights(num_tasks)

    def update(
        state: Float[Array, " T"], signals: Signals
    ) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
        assert signals.valid_gramian is not None
        effect = safe_divide(signals.valid_gramian, jnp.abs(signals.valid_gramian).max())
        with jax.default_matmul_precision("highest"):
            improvement = mgda_weights(effect @ effect.T).weight @ effect
        everywhere = jnp.ones(state.shape, bool)
        weight = onto_simplex(
            state + settings.learning_rate * improvement.astype(state.dtype), everywhere
        )
        return weight, weight

    needs: frozenset[Need] = frozenset({"task_gradients", "valid_gradients"})
    return Balancer(init, update, no_logs, needs)
