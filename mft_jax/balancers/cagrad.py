"""CAGrad, conflict-averse gradient descent (Liu et al., NeurIPS'21, arXiv 2110.14048, Eq. 3-4).

The update of largest least improvement within a ball of radius c ||g_0|| around the mean
gradient g_0: d = g_0 + c ||g_0|| g_w / ||g_w||, w = argmin over the simplex of
g_w . g_0 + c ||g_0|| ||g_w||, g_w = sum_i w_i g_i. As weights: 1/T + c ||g_0|| / ||g_w|| w_i, with
T the present tasks. c = 0 is the mean gradient; c -> infinity goes to MGDA.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import (
    equal_among,
    from_gramian,
    minimize,
    normalized,
    onto_simplex,
    present_tasks,
)
from mft_jax.types import at_least


@dataclasses.dataclass(frozen=True)
class CagradConfig:
    """Settings of CAGrad.

    c  radius of the ball around the mean gradient, in lengths of that gradient; 0: equal weights
    """

    c: float = 0.5

    def __post_init__(self) -> None:
        at_least("balancer.cagrad", self, c=0)


def cagrad_weights(gramian: Float[Array, "T T"], c: float) -> Float[Array, " T"]:
    present = present_tasks(gramian)
    g, _ = normalized(gramian)
    mean = equal_among(present, g.dtype)
    radius = c * _length(mean, g)

    def value(w: Float[Array, " T"]) -> Float[Array, ""]:
        return jnp.dot(w, g @ mean) + radius * _length(w, g)

    w = minimize(value, lambda w: onto_simplex(w, present), mean)
    length = _length(w, g)
    # Gradients that cancel to nothing leave no direction.
    return mean + safe_divide(radius, jnp.where(length > 1e-6, length, 0.0)) * w


def _length(w: Float[Array, " T"], gramian: Float[Array, "T T"]) -> Float[Array, ""]:
    """||sum_i w_i g_i||, smooth at 0."""
    return jnp.sqrt(jnp.maximum(jnp.dot(w, gramian @ w), 0.0) + 1e-16)


def cagrad(settings: CagradConfig, run: RunFacts) -> Balancer:
    """Weights of the best least improvement near the mean gradient.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = cagrad(CagradConfig(c=0.5), run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.7041, 0.5]
    """
    return from_gramian(lambda gramian: cagrad_weights(gramian, settings.c))
