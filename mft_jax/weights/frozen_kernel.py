"""The product with frozen codes on a TPU: a Pallas kernel that unpacks them block by block.

A block of codes and of scales is read into the chip's own memory, made dense there and handed to
the matrix unit; sums over the contraction stay there in float32. The dense weight never exists:

    x @ w      grid (rows, out, in)     x [rows, in]     codes, scales [in, out]
    y @ w.T    grid (rows, in, out)     y [rows, out]    the same blocks, multiplied transposed

Blocks that reach past an edge are allowed: scales are padded with zeros, which makes weights zero
whatever the codes, and `x` is masked along the contraction; rows and columns past the edge are
never written. A dense block has the values of `QuantizedArray.dequantize`, bit for bit: levels
times scales in float32, rounded once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Integer

# The most rows of a block, and a block of the weight along the kept axis and the contraction: sizes
# at which the bundles of v5e and v6e come nearest to what the matrix unit alone needs.
MOST_ROWS, KEPT_BLOCK, STEP = 2048, 1024, 512
SMALL_CHIPS = ("TPU v2", "TPU v3", "TPU v4")  # whose own memory of 16 MiB holds half as many rows
ROW_MULTIPLE = 16  # rows of a bfloat16 tile
VMEM_LIMIT_BYTES = 64 * 2**20

Levels = Callable[
    [Integer[Array, "in out"]], Float[Array, "in out"]
]  # float32, by arithmetic alone


def kernel_product(
    x: Float[Array, "*B _"],
    codes: Integer[Array, "in out"],
    scales: Float[Array, "G out"],
    levels: Levels,
    transposed: bool,
    interpret: bool = False,
) -> Float[Array, "*B _"]:
    """`x @ w`, or `x @ w.T` where `transposed`, in the dtype of `x`.

    `interpret` runs the kernel on any platform, slowly.

    >>> x, codes = jnp.ones((1, 64)), jnp.full((64, 128), 3, jnp.int8)
    >>> levels = lambda codes: codes.astype(jnp.float32)
    >>> kernel_product(x, codes, jnp.ones((1, 128)), levels, False, interpret=True)[0, :2].tolist()
    [192.0, 192.0]
    """
    d_in, out = codes.shape
    rows = x.reshape(-1, x.shape[-1])
    num_rows = rows.shape[0]
    rows = jnp.pad(rows, ((0, -num_rows % ROW_MULTIPLE), (0, 0)))
    y = _multiply(rows, codes, scales, levels, transposed, interpret)
    return y[:num_rows].reshape(*x.shape[:-1], d_in if transposed else out)


def _multiply(
    x: Array, codes: Array, scales: Array, levels: Levels, transposed: bool, interpret: bool
) -> Array:
    d_in, out = codes.shape
    row_block = _row_block(x.shape[0], _most_rows())
    kept, contracted = (d_in, out) if transposed else (out, d_in)
    kept_block, step = min(KEPT_BLOCK, kept), min(STEP, contracted)
    in_block, out_block = (kept_block, step) if transposed else (step, kept_block)

    def weight_block(i: Any, j: Any, k: Any) -> tuple[Any, Any]:
        return (j, k) if transposed else (k, j)

    blocked = _blocked_scales(scales, d_in, in_block, out_block)
    num_steps = pl.cdiv(contracted, step)
    kernel = functools.partial(
        _kernel,
        levels=levels,
        transposed=transposed,
        num_steps=num_steps,
        contracted=contracted if contracted % step else None,
    )
    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(x.shape[0], row_block), pl.cdiv(kept, kept_block), num_steps),
        in_specs=[
            pl.BlockSpec((row_block, step), lambda i, j, k: (i, k)),
            pl.BlockSpec((in_block, out_block), weight_block),
            pl.BlockSpec(
                (None, blocked.shape[1], out_block),
                lambda i, j, k: (weight_block(i, j, k)[0], 0, weight_block(i, j, k)[1]),
            ),
        ],
        out_specs=pl.BlockSpec((row_block, kept_block), lambda i, j, k: (i, j)),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], kept), x.dtype),
        scratch_shapes=[pltpu.VMEM((row_block, kept_block), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=VMEM_LIMIT_BYTES,
        ),
        cost_estimate=_cost(x, codes, scales, kept),
        interpret=interpret,
        name="frozen_product",
    )(x, codes, blocked)


def _kernel(
    x_ref: Any,
    codes_ref: Any,
    scales_ref: Any,
    y_ref: Any,
    total_ref: Any,
    *,
    levels: Levels,
    transposed: bool,
    num_steps: int,
    contracted: int | None,
) -> None:
    """One step of the grid. `contracted` is the contraction's length where it ends in a block."""
    k = pl.program_id(2)

    @pl.when(k == 0)
    def _() -> None:
        total_ref[...] = jnp.zeros_like(total_ref)

    x, scales = x_ref[...], scales_ref[...]
    if contracted is not None:
        column = k * x.shape[1] + jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
        x = jnp.where(column < contracted, x, jnp.zeros_like(x))
    level = levels(codes_ref[...])
    grouped = level.reshape(scales.shape[0], -1, scales.shape[1]) * scales[:, None, :]
    w = grouped.reshape(level.shape).astype(x.dtype)
    dimensions = (((1,), (1 if transposed else 0,)), ((), ()))
    total_ref[...] += jax.lax.dot_general(x, w, dimensions, preferred_element_type=jnp.float32)

    @pl.when(k == num_steps - 1)
    def _() -> None:
        y_ref[...] = total_ref[...].astype(y_ref.dtype)


def _most_rows() -> int:
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return MOST_ROWS // 2 if device.device_kind in SMALL_CHIPS else MOST_ROWS


def _row_block(num_rows: int, most_rows: int) -> int:
    """Rows of a block: all blocks of nearly equal size, a multiple of a tile.

    >>> [_row_block(rows, 2048) for rows in (16, 2048, 2064, 16384)]
    [16, 2048, 1040, 2048]
    """
    size = pl.cdiv(num_rows, pl.cdiv(num_rows, most_rows))
    return pl.cdiv(size, ROW_MULTIPLE) * ROW_MULTIPLE


def _blocked_scales(
    scales: Float[Array, "G out"], d_in: int, in_block: int, out_block: int
) -> Float[Array, "I g _"]:
    """The scales of every block along `in`, zero past the edges of the weight."""
    groups, out = scales.shape
    per_block = in_block * groups // d_in
    padded = jnp.pad(scales, ((0, -groups % per_block), (0, -out % out_block)))
    return padded.reshape(-1, per_block, padded.shape[1])


def _cost(x: Array, codes: Array, scales: Array, kept: int) -> pl.CostEstimate:
    """What the compiler takes the product to cost: arithmetic, and each array moved once."""
    moved = sum(array.size * jax.dtypes.itemsize_bits(array.dtype) for array in (x, codes, scales))
    moved += x.shape[0] * kept * jax.dtypes.itemsize_bits(x.dtype)
    return pl.CostEstimate(2 * x.shape[0] * codes.size, 0, moved // 8)
