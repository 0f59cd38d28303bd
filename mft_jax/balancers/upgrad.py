"""UPGrad (Quinton and Rey, TorchJD, arXiv 2406.16232, Eq. 3): no task is made worse.

Every gradient is projected onto the dual cone of all of them, where it conflicts with none, and the
projections are averaged: row i of the solutions is argmin_v v^T G v over v >= e_i / T.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import (
    Solved,
    equal_among,
    least_norm_above,
    present_tasks,
    solved_from_gramian,
)


def upgrad_weights(gramian: Float[Array, "T T"]) -> Solved:
    each = jnp.diag(equal_among(present_tasks(gramian), gramian.dtype))
    rows, residual = least_norm_above(gramian, each)
    return Solved(rows.sum(axis=0), residual)


def upgrad(settings: None, run: RunFacts) -> Balancer:
    """Weights of the mean of all gradients' projections onto the dual cone.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = upgrad(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [1.1109, 0.7894]
    """
    return solved_from_gramian(upgrad_weights)
