"""Weights as four- or eight-bit integers: `IntArray`.

A layer's weight keeps its logical shape `[in, out]`; groups of 64 along `in` share a scale:

    codes         [in, out]   4 or 8 bits each
    group_scales  [G,  out]   bfloat16, G = in / 64
"""

import dataclasses
import functools
import math
import typing
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from mft_jax.arrays import safe_divide
from mft_jax.weights.frozen import GROUP_SIZE, GroupedArray, in_groups, scale_groups
from mft_jax.weights.protocol import Axes, ShardingOf


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["codes", "group_scales"], meta_fields=[]
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class IntArray(GroupedArray):
    """Symmetric int4 or int8 codes, one bfloat16 scale per group: 4.25 or 8.25 bits per weight.

    >>> import jax.numpy as jnp
    >>> w = IntArray(jnp.full((64, 1), 3, jnp.int8), jnp.full((1, 1), 0.5, jnp.bfloat16))
    >>> (jnp.ones((1, 64)) @ w).tolist()
    [[96.0]]
    """

    codes: Int[Array, "*N in out"]
    group_scales: Float[Array, "*N G out"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def scales(self) -> Float[Array, "G out"]:
        return self.group_scales.astype(jnp.float32)

    def levels(self, codes: Integer[Array, "in out"]) -> Float[Array, "in out"]:
        return codes.astype(jnp.int32).astype(jnp.float32)

    def dequantize(self, dtype: jax.typing.DTypeLike) -> Float[Array, "in out"]:
        return scale_groups(self.codes.astype(jnp.float32), self.scales()).astype(dtype)

    def shardings(self, axes: Axes, sharding_of: ShardingOf) -> Any:
        placed: dict[str, Any] = {
            "codes": sharding_of(self.codes, axes),
            "group_scales": sharding_of(self.group_scales, axes, exact=False),
        }
        return dataclasses.replace(self, **placed)


def quantize(w: Float[Array, "in out"], dtype: jax.typing.DTypeLike) -> IntArray:
    """The codes of one layer's matrix, whose `in` must be a multiple of 64.

    >>> import jax.numpy as jnp
    >>> w = jnp.tile(jnp.array([-1.0, 0.0, 0.5, 1.0]), 16)[:, None]
    >>> quantize(w, jnp.int4).codes[:4].ravel().tolist()
    [-7, 0, 4, 7]
    """
    grouped = in_groups(w)
    absmax = jnp.max(jnp.abs(grouped), axis=1)
    least, largest = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
    scales = (absmax / largest).astype(jnp.bfloat16)
    steps = safe_divide(grouped, scales.astype(jnp.float32)[:, None, :])
    codes = jnp.clip(jnp.round(steps), least, largest)
    return IntArray(codes.reshape(-1, grouped.shape[-1]).astype(dtype), scales)


def stored_bits(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> int:
    """Bits that a weight of `shape` [..., in, out] occupies on an accelerator.

    >>> import jax.numpy as jnp
    >>> stored_bits((4096, 4096), jnp.int4) / 4096**2
    4.25
    """
    *stack, d_in, out = shape
    one = jnp.iinfo(dtype).bits * d_in * out + 16 * (d_in // GROUP_SIZE) * out
    return math.prod(stack) * one
