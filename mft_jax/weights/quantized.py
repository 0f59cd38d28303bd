"""Frozen weights stored in four or eight bits: `NF4Array` and `IntArray`.

A layer's weight keeps its logical shape `[in, out]`; groups of 64 along `in` share a scale:

    codes  [in, out]   4 (or 8) bits each
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
SCALE_RANGE = 2.0**-12  # smallest scale kept, as a fraction of the largest of its run

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

QuantizedDtype = Literal["nf4", "int4", "int8"]
INT_DTYPES = {"int4": jnp.int4, "int8": jnp.int8}


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale_codes", "scale_min", "scale_step"],
    meta_fields=[],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class NF4Array:
    """NF4 codes with double-quantised scales (QLoRA, section 3): 4.129 bits per weight.

        scale = scale_min * exp(scale_step * (scale_codes - 1)), or 0 where scale_codes is 0
        w     = NF4_LEVELS[codes] * scale

    Deviations: bitsandbytes keeps each block's absmax; here it is the scale that reconstructs the
    block best from its codes (least squares). It stores them minus their mean in a dynamic 8-bit
    code over runs of 256 of the flattened tensor; here their logarithms are spaced evenly between
    the least and the largest of 256 neighbours along `out`, which keeps scales sharded like the
    codes and every scale precise, however large an outlier beside it.
    """

    codes: UInt4[Array, "*N in out"]
    scale_codes: Int[Array, "*N G out"]
    scale_min: Float[Array, "*N G _"]
    scale_step: Float[Array, "*N G _"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def scales(self) -> Float[Array, "G out"]:
        out = self.codes.shape[-1]
        least = _per_column(self.scale_min, out)
        exponent = _per_column(self.scale_step, out) * (self.scale_codes.astype(jnp.float32) - 1.0)
        return jnp.where(self.scale_codes > 0, least * jnp.exp(exponent), 0.0)

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
class IntArray:
    """Symmetric int4 or int8 codes, one bfloat16 scale per group: 4.25 or 8.25 bits per weight."""

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


QuantizedArray = NF4Array | IntArray


def quantize(w: Float[Array, "in out"], dtype: QuantizedDtype) -> QuantizedArray:
    """One layer's weight in four bits. Call it under `jit`: eager temporaries are many times `w`.

    Raises `MftError` when `in` is no multiple of 64.
    """
    if w.shape[-2] % GROUP_SIZE:
        raise MftError(
            f"a weight of shape {tuple(w.shape)} cannot be quantised: its input width must be a "
            f"multiple of {GROUP_SIZE}; leave it dense (finetune.method=lora)"
        )
    grouped = w.astype(jnp.float32).reshape(-1, GROUP_SIZE, w.shape[-1])
    absmax = jnp.max(jnp.abs(grouped), axis=1)
    if dtype == "nf4":
        return _quantize_nf4(grouped, absmax)
    return _quantize_int(grouped, absmax, INT_DTYPES[dtype])


def _quantize_nf4(grouped: Float[Array, "G 64 out"], absmax: Float[Array, "G out"]) -> NF4Array:
    inverse = jnp.where(absmax > 0, 1.0 / absmax, 0.0)
    normal = grouped * inverse[:, None, :]
    thresholds = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
    # Nearest level = number of midpoints below; a sum of comparisons vectorises, a search does not.
    codes = functools.reduce(
        jnp.add, [(normal > threshold).astype(jnp.uint8) for threshold in thresholds]
    )
    levels = jnp.take(jnp.asarray(NF4_LEVELS), codes.astype(jnp.int32), axis=0)
    power = (levels * levels).sum(axis=1)
    best = (levels * grouped).sum(axis=1) / jnp.where(power > 0, power, 1.0)
    out = best.shape[1]
    return NF4Array(codes.reshape(-1, out).astype(jnp.uint4), *_quantize_scales(best))


def _quantize_scales(scales: Float[Array, "G out"]) -> tuple[Array, Array, Array]:
    """(scale_codes, scale_min, scale_step) of non-negative scales; code 0 stands for zero."""
    groups, out = scales.shape
    runs = jnp.pad(scales, ((0, 0), (0, -out % SCALE_GROUP_SIZE)))
    runs = runs.reshape(groups, -1, SCALE_GROUP_SIZE)
    largest = runs.max(axis=-1)
    # Scales far below the largest of their run are rounded to zero or to the least one kept, so
    # that a block of almost nothing cannot coarsen the steps of the others.
    least = jnp.where(runs > 0, runs, jnp.inf).min(axis=-1)
    least = jnp.where(largest > 0, jnp.maximum(least, largest * SCALE_RANGE), 1.0)
    step = jnp.where(largest > 0, jnp.log(jnp.maximum(largest, least) / least) / 254.0, 0.0)
    bottom, per_column = _per_column(least, out), _per_column(step, out)
    distance = jnp.log(jnp.maximum(scales, bottom) / bottom)
    code = 1.0 + jnp.round(distance / jnp.where(per_column > 0, per_column, 1.0))
    code = jnp.where(scales < bottom / 2, 0.0, jnp.minimum(code, 255.0))
    return code.astype(jnp.uint8), least, step


def _per_column(runs: Float[Array, "*N G _"], out: int) -> Float[Array, "*N G out"]:
    return jnp.repeat(runs, SCALE_GROUP_SIZE, axis=-1)[..., :out]


def _quantize_int(
    grouped: Float[Array, "G 64 out"], absmax: Float[Array, "G out"], dtype: jax.typing.DTypeLike
) -> IntArray:
    least, largest = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
    scales = (absmax / largest).astype(jnp.bfloat16)
    safe = jnp.where(scales > 0, scales, 1).astype(jnp.float32)
    codes = jnp.clip(jnp.round(grouped / safe[:, None, :]), least, largest)
    return IntArray(codes.reshape(-1, grouped.shape[-1]).astype(dtype), scales)


def dequantize_stack(w: QuantizedArray, dtype: jax.typing.DTypeLike) -> Float[Array, "*N in out"]:
    """The dense weights of a stack of layers or experts, or of one."""
    one = functools.partial(_dequantize_one, dtype=dtype)
    for _ in range(w.codes.ndim - 2):
        one = jax.vmap(one)
    return one(w)


def _dequantize_one(w: QuantizedArray, dtype: jax.typing.DTypeLike) -> Array:
    return w.dequantize(dtype)


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
    if dtype in INT_DTYPES:
        bits = jnp.iinfo(INT_DTYPES[dtype]).bits
        return layers * (bits * d_in * out + 16 * groups * out)
    scale_groups = -(-out // SCALE_GROUP_SIZE)
    return layers * (4 * d_in * out + 8 * groups * out + 64 * groups * scale_groups)
