"""Rows cut into blocks, and which blocks of keys a block of queries has to visit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Blocks(NamedTuple):
    """Queries or keys of R rows in N blocks of n tokens.

    heads [N R K G n C]: of queries, G heads share each of the K key heads; of keys, G is 1.
    """

    heads: Array
    segments: Int[Array, "N R n"]
    positions: Int[Array, "N R n"]


Place = tuple[Int[Array, "*blocks R"], Int[Array, "*blocks R"]]  # segment, position


def visits(window: int, queries: Blocks, keys: Blocks) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The first key block that each block of queries visits, and the one after the last.

    A token's place is the pair (segment, position), ordered like words in a dictionary. A query
    sees the places from the start of its segment, or of its window, to its own; a pair of blocks
    has nothing to see where these places and those of the keys lie apart.
    """
    before = window - 1 if window else jnp.iinfo(jnp.int32).max
    starts = jnp.maximum(queries.positions - before, 0)
    first_seen, last_seen = (
        [x[:, None] for x in place] for place in (_lowest(queries, starts), _highest(queries))
    )
    lowest, highest = (
        [x[None] for x in place] for place in (_lowest(keys, keys.positions), _highest(keys))
    )
    met = _not_after(first_seen, highest) & _not_after(lowest, last_seen)
    met = met.any(axis=-1)
    first = jnp.argmax(met, axis=1)
    end = met.shape[1] - jnp.argmax(met[:, ::-1], axis=1)
    return first, jnp.where(met.any(axis=1), end, first)


def _lowest(blocks: Blocks, positions: Int[Array, "N R n"]) -> Place:
    """The lowest place in each block; after all others where it is padding only."""
    most = jnp.iinfo(jnp.int32).max
    segments = jnp.where(blocks.segments > 0, blocks.segments, most)
    lowest = segments.min(axis=-1)
    here = segments == lowest[..., None]
    return lowest, jnp.where(here, positions, most).min(axis=-1)


def _highest(blocks: Blocks) -> Place:
    """The highest place in each block; before all others where it is padding only."""
    highest = blocks.segments.max(axis=-1)
    here = blocks.segments == highest[..., None]
    return highest, jnp.where(here, blocks.positions, -1).max(axis=-1)


def _not_after(left: list[Array], right: list[Array]) -> Bool[Array, "N M R"]:
    """Whether the place `left` is not after `right`, for each block of queries (N) and keys (M)."""
    (segment, position), (other, other_position) = left, right
    return (segment < other) | ((segment == other) & (position <= other_position))


def in_blocks(x: Array, block: int) -> Array:
    """[R L ...] -> [N R n ...]: blocks of at most `block`; the last is filled up with zeros."""
    rows, length = x.shape[:2]
    block = min(block, length)
    x = jnp.pad(x, [(0, 0), (0, -length % block)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(rows, -1, block, *x.shape[2:]), 1, 0)


def heads_in_blocks(x: Array, block: int, key_heads: int) -> Array:
    """[R L H C] -> [N R K G n C]"""
    x = in_blocks(x, block)
    x = x.reshape(*x.shape[:3], key_heads, -1, x.shape[-1])
    return jnp.moveaxis(x, 2, 4)


def join(x: Array, length: int) -> Array:
    """[N R K G n C] -> [R L H C], without what filled the last block up."""
    x = jnp.moveaxis(x, (0, 4), (1, 2))  # [R N n K G C]
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1, x.shape[-1])[:, :length]


def take(blocks: Any, index: Int[Array, ""]) -> Any:
    """One block of every array."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), blocks)


def add_to(blocks: Array, index: Int[Array, ""], more: Array) -> Array:
    """The blocks, with `more` added to one of them in place."""
    total = jax.lax.dynamic_index_in_dim(blocks, index, keepdims=False) + more
    return jax.lax.dynamic_update_index_in_dim(blocks, total, index, 0)
