"""MGDA, multiple-gradient descent (Desideri 2012; Sener and Koltun, NeurIPS'18, arXiv 1810.04650).

w = argmin over the simplex of ||sum_i w_i g_i||^2 (Eq. 3 there): the shortest vector in the convex
hull of the gradients is a direction of descent for every task. Solved by projected gradients rather
than with the paper's Frank-Wolfe, to the same minimum. Weights sum to 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import (
    equal_among,
    from_gramian,
    minimize,
    normalized,
    onto_simplex,
    present_tasks,
)


def mgda_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    present = present_tasks(gramian)
    g, _ = normalized(gramian)
    start = equal_among(present, g.dtype)
    return minimize(lambda w: jnp.dot(w, g @ w) / 2, lambda w: onto_simplex(w, present), start)


def mgda(settings: None, run: RunFacts) -> Balancer:
    """Weights of the shortest vector in the convex hull of the gradients.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = mgda(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.6, 0.4]
    """
    return from_gramian(mgda_weights)
