"""DualProj (Lopez-Paz and Ranzato, GEM, NeurIPS'17, arXiv 1706.08840, Eq. 8-11).

The mean gradient, projected onto the dual cone of all gradients, where it conflicts with none:
w = argmin_v v^T G v over v >= 1/T.
"""

from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import (
    Solved,
    equal_among,
    least_norm_above,
    present_tasks,
    solved_from_gramian,
)


def dualproj_weights(gramian: Float[Array, "T T"]) -> Solved:
    mean = equal_among(present_tasks(gramian), gramian.dtype)
    rows, residual = least_norm_above(gramian, mean[None])
    return Solved(rows[0], residual)


def dualproj(settings: None, run: RunFacts) -> Balancer:
    """Weights of the mean gradient's projection onto the dual cone.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = dualproj(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.6109, 0.5]
    """
    return solved_from_gramian(dualproj_weights)
