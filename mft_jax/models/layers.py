"""The small layers: `Linear`, `RMSNorm`, `Embedding`. `stack` puts a layer axis in front."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

INIT = nnx.initializers.normal(0.02)


class Linear(nnx.Module):
    def __init__(
        self, d_in: int, d_out: int, *, bias: bool, stack: tuple[int, ...], rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(INIT(rngs.params(), (*stack, d_in, d_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((*stack, d_out), jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        y = x @ self.kernel.get_value()
        return y if self.bias is None else y + _as_row(self.bias.get_value(), y).astype(y.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in at least float32."""

    def __init__(self, width: int, *, epsilon: float, stack: tuple[int, ...] = ()):
        self.scale = nnx.Param(jnp.ones((*stack, width), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        x32 = x.astype(dtype)
        variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normal = x32 * jax.lax.rsqrt(variance + self.epsilon)
        return (normal * _as_row(self.scale.get_value(), x).astype(dtype)).astype(x.dtype)


class Embedding(nnx.Module):
    def __init__(self, vocab_size: int, width: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(INIT(rngs.params(), (vocab_size, width), jnp.float32))

    def __call__(
        self, tokens: Int[Array, "B L"], dtype: jax.typing.DTypeLike
    ) -> Float[Array, "B L D"]:
        return jnp.take(self.table.get_value(), tokens, axis=0).astype(dtype)


def _as_row(vector: Float[Array, " D"], like: Array) -> Array:
    """`[D]` with leading axes of length 1: explicit, because rank promotion raises in the tests."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
