"""CAGrad, conflict-averse gradient descent (Liu et al., NeurIPS'21, arXiv 2110.14048, Eq. 3-4).

The update of largest least improvement within a ball of radius c ||g_0|| around the mean
gradient g_0: d = g_0 + c ||g_0|| g_w / ||g_w||, w = argmin over the simplex of
g_w . g_0 + c ||g_0|| ||g_w||, g_w = sum_i w_i g_i. As weights: 1/T + c ||g_0|| / ||g_w|| w_i, with
T the present tasks. c = 0 is the mean gradient; c -> infinity goes to MGDA.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.active_set import (
    ActiveSet,
    descend,
    kkt_residual,
    no_free_entry,
    scale_to_ones,
)
from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import (
    MAX_ITERATIONS,
    Solved,
    equal_among,
    normalized,
    present_tasks,
    solved_from_gramian,
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


def cagrad_weights(gramian: Float[Array, "T T"], c: float) -> Solved:
    """The update is d = g_0 + sum_i x_i g_i with x = c ||g_0|| / ||g_w|| w, and the least
    improvement t = min_i g_i . d is the largest. For a given t, x is the least x^T G x / 2 +
    sum_i x_i (g_i . g_0 - t) over x >= 0. ||sum_i x_i g_i|| is convex in t, so Newton's steps lead
    down to the t where it is the radius, from one where it is more.
    """
    present = present_tasks(gramian)
    g, _ = normalized(gramian)
    mean = equal_among(present, g.dtype)
    scaled = scale_to_ones(g)
    matrix = scaled.matrix
    along_mean = scaled.inverse_norm * (g @ mean)
    radius = c * jnp.sqrt(jnp.maximum(jnp.dot(mean, g @ mean), 0.0))
    longest = jnp.where(present, scaled.inverse_norm, 0.0).max()
    share = jnp.where(present, safe_divide(scaled.inverse_norm, longest), 0.0)
    rounding = 30 * jnp.finfo(g.dtype).eps

    def shorten(carry: tuple[ActiveSet, Array, Array, Array]):
        at, t, _, count = carry
        at = descend(scaled, t * share - along_mean, at)
        length = jnp.sqrt(jnp.maximum(jnp.dot(at.x, matrix @ at.x), 0.0))
        lower = t - safe_divide((length - radius) * length, jnp.dot(share, at.x))
        unfinished = (length > radius * (1.0 + rounding)) & (lower < t)
        return at, jnp.where(unfinished, lower, t), unfinished, count + 1

    start = jnp.min(jnp.where(present, safe_divide(along_mean + radius, share), jnp.inf))
    start = jnp.where(present.any(), start, 0.0)
    carry = no_free_entry(mean), start, jnp.ones((), bool), jnp.zeros((), jnp.int32)
    at, t, *_ = jax.lax.while_loop(lambda c: c[2] & (c[3] < MAX_ITERATIONS), shorten, carry)
    squared = jnp.dot(at.x, matrix @ at.x)
    # Gradients that cancel to nothing leave no direction.
    cancel = squared <= 4 * scaled.ridge * jnp.dot(at.x, at.x)
    x = jnp.where(cancel, 0.0, at.x) * scaled.inverse_norm
    beyond = jnp.abs(safe_divide(jnp.sqrt(jnp.maximum(squared, 0.0)), radius) - (radius > 0))
    return Solved(mean + x, jnp.maximum(kkt_residual(scaled, t * share - along_mean, at.x), beyond))


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
    return solved_from_gramian(lambda gramian: cagrad_weights(gramian, settings.c))
