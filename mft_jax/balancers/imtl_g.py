"""IMTL-G, gradient balance of impartial multi-task learning (Liu et al., ICLR'21, Eq. 6).

The weights under which the update has the same projection onto every task's unit gradient:
w = G^+ d / sum(G^+ d), d_i = ||g_i||. They sum to 1, and may be negative. Where that sum is
not clearly positive (linearly dependent gradients), the weights are equal.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import equal_among, from_gramian, normalized, present_tasks


def imtl_g_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    present = present_tasks(gramian)
    g, _ = normalized(gramian)
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(g), 0.0))
    w = jnp.where(present, jnp.linalg.pinv(g, hermitian=True) @ lengths, 0.0)
    total = w.sum()
    usable = total > 1e-3 * jnp.abs(w).sum()
    return jnp.where(usable, safe_divide(w, total), equal_among(present, g.dtype))


def imtl_g(settings: None, run: RunFacts) -> Balancer:
    """Weights of equal projections; they may be negative.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = imtl_g(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.5923, 0.4077]
    """
    return from_gramian(imtl_g_weights)
