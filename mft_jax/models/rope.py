"""Rotary position embedding (arXiv 2104.09864), in the half-split order of the HF checkpoints."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotation(
    positions: Int[Array, "B L"], head_width: int, theta: float
) -> tuple[Float[Array, "B L half"], Float[Array, "B L half"]]:
    """cos and sin of `position * theta ** (-2 i / C)`, in float32."""
    exponent = jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width
    angle = positions[..., None].astype(jnp.float32) / jnp.power(theta, exponent)[None, None]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x: Float[Array, "B L H C"], cos: Float[Array, "B L half"], sin: Float[Array, "B L half"]
) -> Float[Array, "B L H C"]:
    """Turn each pair (x[i], x[i + C/2]) by its position's angle."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    first, second = jnp.split(x.astype(dtype), 2, axis=-1)
    cos, sin = (turn[:, :, None, :].astype(dtype) for turn in (cos, sin))
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
