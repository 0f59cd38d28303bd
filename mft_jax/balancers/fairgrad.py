"""FairGrad (Ban and Ji, ICML'24, arXiv 2402.15638, Eq. 6): alpha-fair utilities of the tasks.

w > 0 with G w = w^(-1/alpha). alpha -> 0 favours the largest sum of improvements, alpha = 1 is
proportional fairness (Nash-MTL), a large alpha favours the task that improves least. Weights are on
the scale of the equation, the inverse of that of the gradients.
"""

import dataclasses

from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import Solved, solve_product, solved_from_gramian
from mft_jax.types import above


@dataclasses.dataclass(frozen=True)
class FairgradConfig:
    """Settings of FairGrad.

    alpha  fairness: 1 is proportional fairness, larger values favour the worst task
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        above("balancer.fairgrad", self, alpha=0)


def fairgrad_weights(gramian: Float[Array, "T T"], alpha: float) -> Solved:
    return solve_product(gramian, 1.0 / alpha)


def fairgrad(settings: FairgradConfig, run: RunFacts) -> Balancer:
    """Weights of alpha-fair utilities.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = fairgrad(FairgradConfig(alpha=1.0), run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.5915, 0.4071]
    """
    return solved_from_gramian(lambda gramian: fairgrad_weights(gramian, settings.alpha))
