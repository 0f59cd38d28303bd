"""Attention block by block: memory grows with the length of a row, time with what is visible.

Queries and keys are cut into blocks. A block of queries visits only the range of key blocks that
it may see something of, found from segment ids and positions when the step runs, and no weights of
a pair of blocks are kept: the backward pass computes them again from the softmax's denominators
(arXiv 2205.14135). So rows packed with short samples cost the sum of the samples' squares, a
window costs its width, and padding costs nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.models.attention_blocks import (
    Blocks,
    add_to,
    heads_in_blocks,
    in_blocks,
    join,
    take,
    visits,
)
from mft_jax.models.attention_rule import AttentionInputs, Backend, Slopes
from mft_jax.models.remat import ATTENTION, named


class Tiles(NamedTuple):
    """Tokens of a block of queries and of a block of keys, and whether the rows of a batch are
    computed together, each visiting what any of them sees, or one after the other."""

    queries: int
    keys: int
    rows_together: bool


class _Form(NamedTuple):
    """What is known when the step is compiled."""

    tiles: Tiles
    window: int
    scale: float
    softcap: float


class _Softmax(NamedTuple):
    """A softmax over the keys seen so far, `[R K G q]`: their highest score, the sum of
    exp(score - highest), and the values weighed so."""

    highest: Array
    total: Array
    values: Array


def in_tiles(tiles: Tiles) -> Backend:
    """Attention in these blocks, with the signature of `reference`."""

    def blockwise(
        q: Float[Array, "B L H C"],
        k: Float[Array, "B S K C"],
        v: Float[Array, "B S K values"],
        inputs: AttentionInputs,
        *,
        window: int,
        scale: float,
        softcap: float = 0.0,
        alibi_slopes: Slopes | None = None,
    ) -> Float[Array, "B L H values"]:
        """The rule of `reference` in O(L) memory; 0 for padding and where no key is seen. Keys may
        stand in any order; they cost least in that of the queries."""
        form = _Form(tiles, window, scale, softcap)
        slopes = None if alibi_slopes is None else jnp.asarray(alibi_slopes)
        attend = functools.partial(_attend, form, slopes)
        if tiles.rows_together or q.shape[0] == 1:
            return attend(q, k, v, inputs)
        rows = jax.tree.map(lambda x: x[:, None], (q, k, v, inputs))
        return jax.lax.map(lambda row: attend(*row), rows)[:, 0]

    return blockwise


# Measured on CPU for rows of 512 and 2048, packed and of one document: 64 and 128 are within a
# third of each other, 256 costs up to 2.3 times as much, and so do rows together if packed.
blockwise = in_tiles(Tiles(128, 128, rows_together=False))
# Accelerators start a product in the time that a small one takes. Not measured.
blockwise_of_accelerators = in_tiles(Tiles(512, 512, rows_together=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    form: _Form, slopes: Array | None, q: Array, k: Array, v: Array, inputs: AttentionInputs
) -> Array:
    return _forward(form, slopes, q, k, v, inputs)[0]


def _forward(
    form: _Form, slopes: Array | None, q: Array, k: Array, v: Array, inputs: AttentionInputs
) -> tuple[Array, Any]:
    queries, keys, values = _cut(form, q, k, v, inputs)
    dtype = jnp.promote_types(q.dtype, jnp.float32)

    def of_block(item: tuple[Blocks, Array, Array]) -> tuple[Array, Array]:
        block, first, end = item

        def visit(j: Array, seen: _Softmax) -> _Softmax:
            key_block, value = take(keys, j), take(values, j)
            scores, _ = _scores(form, slopes, block, key_block)
            highest = jnp.maximum(seen.highest, scores.max(axis=-1))
            kept = jnp.exp(seen.highest - highest)
            weights = jnp.exp(scores - highest[..., None])
            more = _product("rkgqs,rkse->rkgqe", weights.astype(v.dtype), value[:, :, 0], dtype)
            return _Softmax(
                highest,
                seen.total * kept + weights.sum(axis=-1),
                seen.values * kept[..., None] + more,
            )

        shape = block.heads.shape[:-1]
        nothing = jnp.zeros(shape, dtype)
        # Finite, so that the difference of it and a hidden score, -inf, is -inf and not NaN.
        lowest = jnp.full(shape, jnp.finfo(dtype).min, dtype)
        seen = _Softmax(lowest, nothing, jnp.zeros((*shape, v.shape[-1]), dtype))
        seen = jax.lax.fori_loop(first, end, visit, seen)
        some = seen.total > 0
        total = jnp.where(some, seen.total, 1)
        # +inf where no key is seen: every weight, exp(score - inf), is then 0.
        log_total = jnp.where(some, seen.highest + jnp.log(total), jnp.inf)
        return (seen.values / total[..., None]).astype(v.dtype), log_total

    y, log_totals = jax.lax.map(of_block, (queries, *visits(form.window, queries, keys)))
    y, log_totals = named(join(y, q.shape[1]), ATTENTION), named(log_totals, ATTENTION)
    return y, (slopes, q, k, v, inputs, y, log_totals)


def _backward(form: _Form, kept: Any, dy: Array) -> tuple[Array | None, Array, Array, Array, None]:
    slopes, q, k, v, inputs, y, log_totals = kept
    queries, keys, values = _cut(form, q, k, v, inputs)
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    product = functools.partial(_product, dtype=dtype)
    dy_blocks = heads_in_blocks(dy, form.tiles.queries, k.shape[2])
    # The sum over keys of weight x its gradient is the product of the output and its gradient.
    means = (y.astype(dtype) * dy.astype(dtype)).sum(axis=-1, keepdims=True)
    means = heads_in_blocks(means, form.tiles.queries, k.shape[2])[..., 0]

    def of_block(sums: tuple[Array, Array], item: Any) -> tuple[tuple[Array, Array], Array]:
        block, first, end, dy, mean, log_total = item

        def visit(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq, dk, dv = carry
            key_block, value = take(keys, j), take(values, j)[:, :, 0]
            scores, slope = _scores(form, slopes, block, key_block)
            weights = jnp.exp(scores - log_total[..., None])
            change = product("rkgqe,rkse->rkgqs", dy, value) - mean[..., None]
            change = weights * change * slope
            change = change.astype(q.dtype)
            dq += product("rkgqs,rksc->rkgqc", change, key_block.heads[:, :, 0])
            dk = add_to(dk, j, product("rkgqs,rkgqc->rksc", change, block.heads))
            dv = add_to(dv, j, product("rkgqs,rkgqe->rkse", weights.astype(dy.dtype), dy))
            return dq, dk, dv

        start = jnp.zeros(block.heads.shape, dtype), *sums
        dq, dk, dv = jax.lax.fori_loop(first, end, visit, start)
        return (dk, dv), (dq * form.scale).astype(q.dtype)

    zeros = (
        jnp.zeros_like(keys.heads[:, :, :, 0], dtype),
        jnp.zeros_like(values[:, :, :, 0], dtype),
    )
    items = queries, *visits(form.window, queries, keys), dy_blocks, means, log_totals
    (dk, dv), dq = jax.lax.scan(of_block, zeros, items)
    dk, dv = dk[:, :, :, None] * form.scale, dv[:, :, :, None]
    dk, dv = join(dk, k.shape[1]).astype(k.dtype), join(dv, v.shape[1]).astype(v.dtype)
    no_slopes = None if slopes is None else jnp.zeros_like(slopes)
    return no_slopes, join(dq, q.shape[1]), dk, dv, None


_attend.defvjp(_forward, _backward)


def _scores(
    form: _Form, slopes: Array | None, block: Blocks, key_block: Blocks
) -> tuple[Float[Array, "R K G q s"], Array | float]:
    """Scores of a pair of blocks, -inf where a key is hidden, and the soft cap's slope there."""
    dtype = jnp.promote_types(block.heads.dtype, jnp.float32)
    scores = _product("rkgqc,rksc->rkgqs", block.heads, key_block.heads[:, :, 0], dtype)
    scores, slope = scores * form.scale, 1.0
    if form.softcap:
        capped = jnp.tanh(scores / form.softcap)
        scores, slope = form.softcap * capped, 1 - capped * capped
    distance = block.positions[:, :, None] - key_block.positions[:, None, :]
    seen = (block.segments[:, :, None] == key_block.segments[:, None, :]) & (distance >= 0)
    seen &= block.segments[:, :, None] > 0
    if form.window:
        seen &= distance < form.window
    if slopes is not None:
        heads = slopes.astype(dtype).reshape(1, *scores.shape[1:3], 1, 1)
        scores -= heads * distance.astype(dtype)[:, None, None]
    return jnp.where(seen[:, None, None], scores, -jnp.inf), slope


def _cut(
    form: _Form, q: Array, k: Array, v: Array, inputs: AttentionInputs
) -> tuple[Blocks, Blocks, Array]:
    """Blocks of queries and keys, and the values of the latter [N R K 1 n E]."""
    tiles, key_heads = form.tiles, k.shape[2]
    query_tokens = (in_blocks(x, tiles.queries) for x in inputs[:2])
    key_tokens = (in_blocks(x, tiles.keys) for x in inputs[2:])
    queries = Blocks(heads_in_blocks(q, tiles.queries, key_heads), *query_tokens)
    keys = Blocks(heads_in_blocks(k, tiles.keys, key_heads), *key_tokens)
    return queries, keys, heads_in_blocks(v, tiles.keys, key_heads)


def _product(subscripts: str, left: Array, right: Array, dtype: Any) -> Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=dtype)
