"""Weights in four bits by the levels of a normal distribution: `NF4Array`.

A layer's weight keeps its logical shape `[in, out]`; groups of 64 along `in` share a scale:

    codes  [in, out]   4 bits each
    scales [G,  out]   8 bits each, G = in / 64
"""

import dataclasses
import functools
import math
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt4

from mft_jax.arrays import safe_divide
from mft_jax.weights.frozen import GROUP_SIZE, GroupedArray, in_groups, scale_groups
from mft_jax.weights.protocol import Axes, ShardingOf

SCALE_GROUP_SIZE = 256
SUBLANES, LANES = 8, 128  # of a TPU's vector register
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


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale_codes", "scale_min", "scale_step"],
    meta_fields=[],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class NF4Array(GroupedArray):
    """NF4 codes with double-quantised scales (QLoRA, section 3): 4.129 bits per weight.

        scale = scale_min * exp(scale_step * (scale_codes - 1)), or 0 where scale_codes is 0
        w     = NF4_LEVELS[codes] * scale

    Deviations: bitsandbytes keeps each block's absmax; here it is the scale that reconstructs the
    block best from its codes (least squares). It stores them minus their mean in a dynamic 8-bit
    code over runs of 256 of the flattened tensor; here their logarithms are spaced evenly between
    the least and the largest of 256 neighbours along `out`, which keeps scales sharded like the
    codes and every scale precise, however large an outlier next to it.

    >>> import jax.numpy as jnp
    >>> w = quantize(jnp.ones((64, 2)))
    >>> (jnp.ones((1, 64)) @ w).tolist()
    [[64.0, 64.0]]
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

    def levels(self, codes: Integer[Array, "in out"]) -> Float[Array, "in out"]:
        code = codes.astype(jnp.int32)
        rows, columns = code.shape
        if columns % LANES:
            return _selected(code)
        # A register's lanes hold the table, and one instruction looks a register of codes up.
        table = _selected(jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 1) % 16)
        table = jnp.concatenate([table] * (rows // SUBLANES))
        parts = [
            jnp.take_along_axis(table, code[:, at : at + LANES], 1, mode="promise_in_bounds")
            for at in range(0, columns, LANES)
        ]
        return jnp.concatenate(parts, axis=1)

    def dequantize(self, dtype: jax.typing.DTypeLike) -> Float[Array, "in out"]:
        # A 2-D lookup: raveling first would make GSPMD gather the whole weight.
        levels = jnp.take(jnp.asarray(NF4_LEVELS), self.codes.astype(jnp.int32), axis=0)
        return scale_groups(levels, self.scales()).astype(dtype)

    def shardings(self, axes: Axes, sharding_of: ShardingOf) -> Any:
        runs = (axes[0], None)
        placed: dict[str, Any] = {
            "codes": sharding_of(self.codes, axes),
            "scale_codes": sharding_of(self.scale_codes, axes, exact=False),
            "scale_min": sharding_of(self.scale_min, runs, exact=False),
            "scale_step": sharding_of(self.scale_step, runs, exact=False),
        }
        return dataclasses.replace(self, **placed)


def _selected(code: Int[Array, "in out"]) -> Float[Array, "in out"]:
    """The levels by a tree of selections, one bit of the code after the other."""
    values: list[Any] = [jnp.float32(level) for level in NF4_LEVELS]
    for bit in range(4):
        high = (code & (1 << bit)) != 0
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [jnp.where(high, odd, even) for even, odd in pairs]
    return values[0]


def quantize(w: Float[Array, "in out"]) -> NF4Array:
    """The codes of one layer's matrix, whose `in` must be a multiple of 64.

    >>> import jax.numpy as jnp
    >>> w = jnp.tile(jnp.array([-1.0, 0.0, 0.5, 1.0]), 16)[:, None]
    >>> quantize(w).codes[:4].ravel().tolist()
    [0, 7, 12, 15]
    """
    grouped = in_groups(w)
    absmax = jnp.max(jnp.abs(grouped), axis=1)
    inverse = jnp.where(absmax > 0, 1.0 / absmax, 0.0)
    normal = grouped * inverse[:, None, :]
    thresholds = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
    # Nearest level = number of midpoints below; a sum of comparisons vectorises, a search does not.
    codes = functools.reduce(
        jnp.add, [(normal > threshold).astype(jnp.uint8) for threshold in thresholds]
    )
    levels = jnp.take(jnp.asarray(NF4_LEVELS), codes.astype(jnp.int32), axis=0)
    power = (levels * levels).sum(axis=1)
    best = safe_divide((levels * grouped).sum(axis=1), power)
    out = best.shape[1]
    return NF4Array(codes.reshape(-1, out).astype(jnp.uint4), *_quantize_scales(best))


def _quantize_scales(scales: Float[Array, "G out"]) -> tuple[Array, Array, Array]:
    """(scale_codes, scale_min, scale_step) of non-negative scales; code 0 means zero."""
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
    code = 1.0 + jnp.round(safe_divide(distance, per_column))
    code = jnp.where(scales < bottom / 2, 0.0, jnp.minimum(code, 255.0))
    return code.astype(jnp.uint8), least, step


def _per_column(runs: Float[Array, "*N G _"], out: int) -> Float[Array, "*N G out"]:
    return jnp.repeat(runs, SCALE_GROUP_SIZE, axis=-1)[..., :out]


def stored_bits(shape: tuple[int, ...]) -> int:
    """Bits that a weight of `shape` [..., in, out] occupies on an accelerator.

    >>> round(stored_bits((4096, 4096)) / 4096**2, 3)
    4.129
    """
    *stack, d_in, out = shape
    groups, runs = d_in // GROUP_SIZE, -(-out // SCALE_GROUP_SIZE)
    one = 4 * d_in * out + 8 * groups * out + 64 * groups * runs
    return math.prod(stack) * one
