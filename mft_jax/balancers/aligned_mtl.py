"""Aligned-MTL (Senushkin et al., CVPR'23, arXiv 2305.19000, Algorithm 1).

The gradients are replaced by the nearest ones that are orthogonal and of one length, that of the
smallest principal component: w = sqrt(lambda_min) V Lambda^(-1/2) V^T u, with the eigenvalues of G
that are above rounding and u = 1 / (number of present tasks).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.gramian import equal_among, from_gramian, normalized, present_tasks


def aligned_mtl_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    present = present_tasks(gramian)
    g, _ = normalized(gramian)
    values, vectors = jnp.linalg.eigh(g)
    kept = values > values.max() * g.shape[0] * jnp.finfo(g.dtype).eps
    kept = kept & (values > 0)
    inverse = safe_divide(1.0, jnp.sqrt(jnp.where(kept, values, 0.0)))
    smallest = jnp.min(jnp.where(kept, values, jnp.inf))
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 0.0)
    u = equal_among(present, g.dtype)
    w = jnp.sqrt(smallest) * (vectors @ (inverse * (vectors.T @ u)))
    return jnp.where(present, w, 0.0)


def aligned_mtl(settings: None, run: RunFacts) -> Balancer:
    """Weights of orthogonalised gradients.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = aligned_mtl(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [0.5591, 0.4083]
    """
    return from_gramian(aligned_mtl_weights)
