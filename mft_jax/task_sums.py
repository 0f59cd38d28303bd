"""Sums over the tokens of a batch, by task and by segment."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mft_jax.types import Batch


def sum_by_task(
    values: Float[Array, "*A B L"] | Bool[Array, "*A B L"],
    task_ids: Int[Array, "*A B L"],
    num_tasks: int,
) -> Float[Array, " T"]:
    """Sum of `values` over all positions of each task."""
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    tasks = jnp.arange(num_tasks).reshape((-1,) + (1,) * task_ids.ndim)
    mine = jnp.where(task_ids[None] == tasks, values[None], 0.0)
    return mine.sum(axis=tuple(range(1, mine.ndim)))


def task_counts(batch: Batch, num_tasks: int) -> Float[Array, " T"]:
    """Valid tokens (summed loss weights) per task, known before any forward pass."""
    return sum_by_task(batch.loss_weights, batch.task_ids, num_tasks)


def sum_by_segment(values: Float[Array, "B L"], batch: Batch) -> Float[Array, "B segments"]:
    """Sum of `values` over each of the L + 1 segment ids of each row; id 0 is padding."""
    size = batch.tokens.shape[1] + 1
    return jax.vmap(lambda v, s: jax.ops.segment_sum(v, s, size))(values, batch.segment_ids)


def at_tokens(of_segment: Float[Array, "B segments"], batch: Batch) -> Float[Array, "B L"]:
    """At every position, the value of the segment that it belongs to."""
    return jnp.take_along_axis(of_segment, batch.segment_ids, axis=1)
