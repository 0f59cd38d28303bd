"""Nash-MTL, the bargaining of tasks (Navon et al., ICML'22, arXiv 2202.01017, Claim 3.1).

w > 0 with G w = 1 / w: the update whose product of improvements is largest. The paper solves a
sequence of convex approximations and reuses weights between steps; here the equation is solved in
every step. As its code does, the update is shortened to length 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.gramian import from_gramian, solve_product


def nash_mtl_weights(gramian: Float[Array, "T T"]) -> Float[Array, " T"]:
    w = solve_product(gramian, 1.0)
    length = jnp.sqrt(jnp.maximum(jnp.dot(w, gramian @ w), 0.0))
    return w / jnp.maximum(length, 1.0)


def nash_mtl() -> Balancer:
    return from_gramian(nash_mtl_weights)
