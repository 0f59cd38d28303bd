"""The small layers. `stack` adds a leading layer axis (or a layer and an expert axis)."""

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mft_jax.models.config import ModelConfig
from mft_jax.models.remat import PRODUCT, named
from mft_jax.weights.protocol import split_adapter

INIT = nnx.initializers.normal(0.02)

# `KINDS` of a layer is the kind of each of its parameters, by attribute (see `models.params`).
ParamKind = Literal[
    "matrix", "expert_matrix", "embedding", "head", "table", "norm", "norm_bias", "bias"
]
Kinds = ClassVar[Mapping[str, ParamKind]]

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Linear(nnx.Module):
    """`x @ kernel + bias`; `name` is that of its output (see `models.remat`)."""

    KINDS: Kinds = {"kernel": "matrix", "bias": "bias"}

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        bias: bool,
        stack: tuple[int, ...],
        rngs: nnx.Rngs,
        name: str = PRODUCT,
    ):
        self.kernel = nnx.Param(INIT(rngs.params(), (*stack, d_in, d_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((*stack, d_out), jnp.float32)) if bias else None
        self.name = name

    def __call__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        y = x @ self.kernel.get_value()
        if self.bias is not None:
            y += as_row(self.bias.get_value(), y).astype(y.dtype)
        return named(y, self.name)


class Norm(nnx.Module):
    """Root-mean-square norm (arXiv 1910.07467) or layer norm (arXiv 1607.06450), computed in at
    least float32."""

    KINDS: Kinds = {"scale": "norm", "bias": "norm_bias"}

    def __init__(
        self,
        model_config: ModelConfig,
        *,
        width: int = 0,
        epsilon: float | None = None,
        stack: tuple[int, ...] = (),
    ):
        shape = (*stack, width or model_config.width)
        offset = model_config.norm_offset
        self.scale = nnx.Param((jnp.zeros if offset else jnp.ones)(shape, jnp.float32))
        centred = model_config.norm == "layer"
        self.bias = nnx.Param(jnp.zeros(shape, jnp.float32)) if centred else None
        self.epsilon = model_config.norm_epsilon if epsilon is None else epsilon
        self.offset = offset

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        y = x.astype(dtype)
        if self.bias is not None:
            y -= jnp.mean(y, axis=-1, keepdims=True)
        y *= jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        scale = as_row(self.scale.get_value(), x).astype(dtype)
        y *= 1 + scale if self.offset else scale
        if self.bias is not None:
            y += as_row(self.bias.get_value(), x).astype(dtype)
        return y.astype(x.dtype)


class Embedding(nnx.Module):
    """A table with one row for each token."""

    KINDS: Kinds = {"table": "embedding"}

    def __init__(self, rows: int, width: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(INIT(rngs.params(), (rows, width), jnp.float32))

    def __call__(
        self, tokens: Int[Array, "B L"], dtype: jax.typing.DTypeLike
    ) -> Float[Array, "B L D"]:
        return self.table.get_value().take(tokens, axis=0).astype(dtype)

    def base_table(self) -> Float[Array, "V D"]:
        """The table without its adapter, which changes the input of the model, not a tied head."""
        return split_adapter(self.table.get_value())[0]


class PositionTable(Embedding):
    """A table of learned positions: small, never adapted."""

    KINDS = {"table": "table"}


def as_row(vector: Float[Array, " D"], like: Array) -> Array:
    """The vector with leading axes of length 1: implicit rank promotion is an error in tests."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
