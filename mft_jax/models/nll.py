"""Negative log-likelihood of the next token, without all logits in memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.models.head import Head


def next_token_nll(
    hidden: Float[Array, "B L D"],
    head: Head,
    targets: Int[Array, "B L"],
    *,
    vocab_chunk: int,
) -> Float[Array, "B L"]:
    """`-log softmax(logits)[target]`, with `vocab_chunk` columns of logits at a time.

    It is in float32, or in float64 where the model computes in it.

    Chunk c holds the tokens v with v % num_chunks == c, so a vocabulary sharded over the mesh
    stays sharded inside every chunk. Logits are recomputed in the backward pass.
    """
    vocab = head.table.shape[0]
    num_chunks = -(-vocab // vocab_chunk)
    rows = jnp.arange(-(-vocab // num_chunks))
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)

    def split(x: Array) -> Float[Array, "chunks rows ..."]:
        padded = jnp.pad(x, ((0, -vocab % num_chunks), *((0, 0),) * (x.ndim - 1)))
        return padded.reshape(-1, num_chunks, *x.shape[1:]).swapaxes(0, 1).astype(hidden.dtype)

    low = head.low(hidden)
    chunks = jax.tree.map(split, (head.table, head.bias, head.b))

    def accumulate(carry, chunk):
        top, total, at_target = carry
        index, (table, bias, b) = chunk
        logits = head._replace(table=table, bias=bias, b=b).logits(hidden, low)
        real = (rows * num_chunks + index < vocab)[None, None]
        logits = jnp.where(real, logits, -jnp.inf)
        new_top = jax.lax.stop_gradient(jnp.maximum(top, logits.max(axis=-1)))
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None]).sum(axis=-1)
        row = jnp.clip((targets - index) // num_chunks, 0, rows.shape[0] - 1)
        here = jnp.take_along_axis(logits, row[..., None], axis=-1)[..., 0]
        at_target = jnp.where(targets % num_chunks == index, here, at_target)
        return (new_top, total, at_target), None

    start = jnp.full(targets.shape, -jnp.inf, dtype)
    carry = (start, jnp.zeros(targets.shape, dtype), jnp.zeros(targets.shape, dtype))
    (top, total, at_target), _ = jax.lax.scan(
        jax.checkpoint(accumulate, prevent_cse=False), carry, (jnp.arange(num_chunks), chunks)
    )
    return jnp.log(total) + top - at_target
