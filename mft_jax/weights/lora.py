"""`LoraArray`: a frozen base with a trainable low-rank update."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.weights.quantized import Int4Array, NF4Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["base", "a", "b"], meta_fields=["scale"]
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class LoraArray:
    """`x @ w = x @ base + scale * (x @ a) @ b` (LoRA, arXiv 2106.09685, Eq. 3).

    `base` is whatever knows `x @ base`: QLoRA is `LoraArray(NF4Array, a, b, scale)`.
    As a pytree it may hold shapes or shardings in place of arrays (`no_type_check`).
    """

    base: Array | NF4Array | Int4Array
    a: Float[Array, "*N in R"]
    b: Float[Array, "*N R out"]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def __rmatmul__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return x @ self.base + self.scale * ((x @ self.a) @ self.b)

    def delta(self) -> Float[Array, "in out"]:
        """The dense update, `scale * a @ b`, in the adapter's dtype."""
        return self.scale * jnp.einsum("...ir,...ro->...io", self.a, self.b)
