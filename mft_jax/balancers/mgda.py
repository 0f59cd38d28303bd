"""MGDA, multiple-gradient descent (Desideri 2012; Sener and Koltun, NeurIPS'18, arXiv 1810.04650).

w = argmin over the simplex of ||sum_i w_i g_i||^2 (Eq. 3 there): the shortest vector in the convex
hull of the gradients is a direction of descent for every task. Solved by an active set rather than
with the paper's Frank-Wolfe, exactly up to rounding. Weights sum to 1.
"""

from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.active_set import nonnegative_minimum
from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import Solved, normalized, present_tasks, solved_from_gramian


def mgda_weights(gramian: Float[Array, "T T"]) -> Solved:
    """With G w = lambda on the support and G w >= lambda elsewhere, w / lambda is the least
    x^T G x / 2 - sum_i x_i over x >= 0.
    """
    g, _ = normalized(gramian)
    x, residual = nonnegative_minimum(g, present_tasks(gramian).astype(g.dtype))
    return Solved(safe_divide(x, x.sum()), residual)


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
    return solved_from_gramian(mgda_weights)
