"""DualProj (Lopez-Paz and Ranzato, GEM, NeurIPS'17, arXiv 1706.08840, Eq. 8-11).

The mean gradient, projected onto the dual cone of all gradients, where it conflicts with none:
w = argmin_v v^T G v over v >= 1/K.
"""

from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.gramian import (
    equal_among,
    from_gramian,
    least_norm_above,
    present_tasks,
)


def dualproj_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    mean = equal_among(present_tasks(gramian), gramian.dtype)
    return least_norm_above(gramian, mean[None])[0]


def dualproj() -> Balancer:
    return from_gramian(dualproj_weights)
