"""Frozen weights stored in four bits: `NF4Array` and `Int4Array`.

A layer's weight keeps its logical shape `[in, out]`; groups of 64 along `in` share a scale:

    codes  [in, out]   4 bits each
    scales [G,  out]   G = in / 64

Stacked layers put an axis N in front of every leaf; `lax.scan` takes it off again. Both classes
implement `x @ w` through `frozen_matmul`, whose residual is the codes, never the dense weight.
Both are pytrees, so shapes or shardings may stand where their fields say arrays (`no_type_check`).
"""

import dataclasses
import functools
import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt4

from mft_jax.types import MftError

GROUP_SIZE = 64
SCALE_GROUP_SIZE = 256

# The 16 levels of the 4-bit normal float (QLoRA, arXiv 2305.14314, appendix E).
NF4_LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)

QuantizedDtype = Literal["nf4", "int4"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale_codes", "scale_max", "scale_mean"],
    meta_fields=[],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class NF4Array:
    """NF4 codes with double-quantised scales (QLoRA, section 3): 4.127 bits per weight.

        scale = scale_mean + scale_max * scale_codes / 127
        w     = NF4_LEVELS[codes] * scale

    Deviation: bitsandbytes stores the scales in a dynamic 8-bit code over runs of 256 of the
    flattened tensor; here they are linear int8 over runs of 256 along `out`, which keeps scales
    sharded like the codes and reconstructs better, because centred scales are close to normal.
    """

    codes: UInt4[Array, "*N in out"]
    scale_codes: Int[Array, "*N G out"]
    scale_max: Float[Array, "*N G _"]
    scale_mean: Float[Array, "*N"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def scales(self) -> Float[Array, "G out"]:
        out = self.codes.shape[-1]
        scale_max = jnp.repeat(self.scale_max, SCALE_GROUP_SIZE, axis=-1)[..., :out]
        return self.scale_mean + scale_max * (self.scale_codes.astype(jnp.float32) / 127.0)

    def dequantize(self, dtype: jax.typing.DTypeLike) -> Float[Array, "in out"]:
        # A 2-D lookup: raveling first would make GSPMD gather the whole weight.
        levels = jnp.take(jnp.asarray(NF4_LEVELS), self.codes.astype(jnp.int32), axis=0)
        return _scale_groups(levels, self.scales()).astype(dtype)

    def __rmatmul__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return frozen_matmul(x, self)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["codes", "group_scales"], meta_fields=[]
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Int4Array:
    """Symmetric int4 codes, one bfloat16 scale per group: 4.25 bits per weight."""

    codes: Int[Array, "*N in out"]
    group_scales: Float[Array, "*N G out"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def scales(self) -> Float[Array, "G out"]:
        return self.group_scales.astype(jnp.float32)

    def dequantize(self, dtype: jax.typing.DTypeLike) -> Float[Array, "in out"]:
        return _scale_groups(self.codes.astype(jnp.float32), self.scales()).astype(dtype)

    def __rmatmul__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return frozen_matmul(x, self)


QuantizedArray = NF4Array | Int4Array


def quantize(w: Float[Array, "in out"], dtype: QuantizedDtype) -> QuantizedArray:
    """One layer's weight in four bits. Call it under `jit`: eager temporaries are many times `w`.

    Raises `MftError` when `in` is no multiple of 64.
    """
    if w.shape[-2] % GROUP_SIZE:
        raise MftError(
            f"a weight of shape {tuple(w.shape)} cannot be quantised: its input width must be a "
            f"multiple of {GROUP_SIZE}; leave it dense (method 'lora') or choose another model"
        )
    grouped = w.astype(jnp.float32).reshape(-1, GROUP_SIZE, w.shape[-1])
    absmax = jnp.max(jnp.abs(grouped), axis=1)
    return _quantize_nf4(grouped, absmax) if dtype == "nf4" else _quantize_int4(grouped, absmax)


def _quantize_nf4(grouped: Float[Array, "G 64 out"], absmax: Float[Array, "G out"]) -> NF4Array:
    inverse = jnp.where(absmax > 0, 1.0 / absmax, 0.0)
    normal = grouped * inverse[:, None, :]
    thresholds = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
    # Nearest level = number of midpoints below; a sum of comparisons vectorises, a search does not.
    codes = functools.reduce(
        jnp.add, [(normal > threshold).astype(jnp.uint8) for threshold in thresholds]
    )
    mean = jnp.mean(absmax)
    centred = absmax - mean
    groups, out = centred.shape
    padded = jnp.pad(centred, ((0, 0), (0, -out % SCALE_GROUP_SIZE)))
    scale_max = jnp.max(jnp.abs(padded.reshape(groups, -1, SCALE_GROUP_SIZE)), axis=-1)
    per_column = jnp.repeat(scale_max, SCALE_GROUP_SIZE, axis=-1)[:, :out]
    scale_codes = jnp.round(127.0 * centred / jnp.where(per_column > 0, per_column, 1.0))
    return NF4Array(
        codes.reshape(-1, out).astype(jnp.uint4), scale_codes.astype(jnp.int8), scale_max, mean
    )


def _quantize_int4(grouped: Float[Array, "G 64 out"], absmax: Float[Array, "G out"]) -> Int4Array:
    scales = (absmax / 7.0).astype(jnp.bfloat16)
    safe = jnp.where(scales > 0, scales, 1).astype(jnp.float32)
    codes = jnp.clip(jnp.round(grouped / safe[:, None, :]), -8, 7)
    return Int4Array(codes.reshape(-1, grouped.shape[-1]).astype(jnp.int4), scales)


def _scale_groups(levels: Float[Array, "in out"], scales: Float[Array, "G out"]) -> Array:
    groups, out = scales.shape
    return (levels.reshape(groups, -1, out) * scales[:, None, :]).reshape(-1, out)


@jax.custom_vjp
def frozen_matmul(x: Float[Array, "*B in"], w: QuantizedArray) -> Float[Array, "*B out"]:
    """`x @ w` for a quantised weight that is never trained: `w` has no cotangent.

    The dense weight lives only inside the product. Without the barriers XLA merges the two
    dequantisations (forward, backward) and keeps the dense weight alive between them.
    """
    return x @ jax.lax.optimization_barrier(w).dequantize(x.dtype)


def _frozen_matmul_fwd(x: Array, w: QuantizedArray) -> tuple[Array, QuantizedArray]:
    return frozen_matmul(x, w), w


def _frozen_matmul_bwd(w: QuantizedArray, g: Array) -> tuple[Array, None]:
    w, g = jax.lax.optimization_barrier((w, g))
    return jnp.einsum("...o,io->...i", g, w.dequantize(g.dtype)), None


frozen_matmul.defvjp(_frozen_matmul_fwd, _frozen_matmul_bwd)


def stored_bits(shape: tuple[int, ...], dtype: QuantizedDtype) -> int:
    """Bits that a weight of `shape` [..., in, out] occupies on an accelerator."""
    *stack, d_in, out = shape
    layers = int(np.prod(stack, dtype=np.int64))
    groups = d_in // GROUP_SIZE
    if dtype == "int4":
        return layers * (4 * d_in * out + 16 * groups * out)
    scale_groups = -(-out // SCALE_GROUP_SIZE)
    return layers * (4 * d_in * out + 8 * groups * out + 32 * groups * scale_groups + 32)
