"""Nash-MTL, the bargaining of tasks (Navon et al., ICML'22, arXiv 2202.01017, Claim 3.1).

w > 0 with G w = 1 / w: the update whose product of improvements is largest. The paper solves a
sequence of convex approximations and reuses weights between steps; here the equation is solved in
every step. As its code does, the update is shortened to length 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import Solved, solve_product, solved_from_gramian


def nash_mtl_weights(gramian: Float[Array, "T T"]) -> Solved:
    w, residual = solve_product(gramian, 1.0)
    length = jnp.sqrt(jnp.maximum(jnp.dot(w, gramian @ w), 0.0))
    return Solved(w / jnp.maximum(length, 1.0), residual)


def nash_mtl(settings: None, run: RunFacts) -> Balancer:
    """Weights of the bargaining solution.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = nash_mtl(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.4182, 0.2878]
    """
    return solved_from_gramian(nash_mtl_weights)
