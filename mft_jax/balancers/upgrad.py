"""UPGrad (Quinton and Rey, TorchJD, arXiv 2406.16232, Eq. 3): no task is made worse.

Every gradient is projected onto the dual cone of all of them, where it conflicts with none, and the
projections are averaged: row i of the solutions is argmin_v v^T G v over v >= e_i / K.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.gramian import (
    equal_among,
    from_gramian,
    least_norm_above,
    present_tasks,
)


def upgrad_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    each = jnp.diag(equal_among(present_tasks(gramian), gramian.dtype))
    return least_norm_above(gramian, each).sum(axis=0)


def upgrad() -> Balancer:
    return from_gramian(upgrad_weights)
