"""IMTL-G, gradient balance of impartial multi-task learning (Liu et al., ICLR'21, Eq. 6).

The weights under which the update has the same projection onto every task's unit gradient:
w = G^+ d / sum(G^+ d), d_i = ||g_i||. They sum to 1, and may be negative. Where that sum is no
positive number (linearly dependent gradients), the weights are equal.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.gramian import equal_among, from_gramian, normalized, present_tasks


def imtl_g_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    present = present_tasks(gramian)
    g, _ = normalized(gramian)
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(g), 0.0))
    w = jnp.where(present, jnp.linalg.pinv(g, hermitian=True) @ lengths, 0.0)
    total = w.sum()
    usable = total > 1e-3 * jnp.abs(w).sum()
    return jnp.where(usable, w / jnp.where(usable, total, 1.0), equal_among(present, g.dtype))


def imtl_g() -> Balancer:
    return from_gramian(imtl_g_weights)
