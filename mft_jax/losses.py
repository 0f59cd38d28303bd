"""Next-token nll without logits in memory, and objectives as weights per task.

Every objective here is linear in the sums: `loss = dot(coefficients_T, nll_sum_T)`. Its
coefficients depend on the global batch's counts and the balancer's weights alone, never on the
micro-batch, the device or the packing; so gradients of micro-batches add up to the gradient of
the whole, bit-reproducibly in the same order.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mft_jax.types import Batch, TaskSums, at_least

ObjectiveName = Literal["token_mean", "task_token_mean"]
Objective = Callable[[Float[Array, " T"], Float[Array, " T"]], Float[Array, " T"]]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """`vocab_chunk`: logits held at once, in columns of the vocabulary."""

    name: ObjectiveName = "task_token_mean"
    vocab_chunk: int = 8192

    def __post_init__(self) -> None:
        at_least("objective", self, vocab_chunk=1)


def next_token_nll(
    hidden: Float[Array, "B L D"],
    head: Float[Array, "V D"],
    targets: Int[Array, "B L"],
    *,
    vocab_chunk: int,
) -> Float[Array, "B L"]:
    """-log softmax(hidden @ head.T)[target], float32, `vocab_chunk` columns of logits at a time.

    Chunk c holds the tokens v with v % num_chunks == c, so a vocabulary sharded over the mesh
    stays sharded inside every chunk. Logits are recomputed in the backward pass.
    """
    vocab, width = head.shape
    num_chunks = -(-vocab // vocab_chunk)
    padded = jnp.pad(head, ((0, -vocab % num_chunks), (0, 0)))
    chunks = padded.reshape(-1, num_chunks, width).swapaxes(0, 1).astype(hidden.dtype)
    rows = jnp.arange(chunks.shape[1])

    def accumulate(carry, chunk):
        top, total, at_target = carry
        index, table = chunk
        logits = jnp.einsum("bld,vd->blv", hidden, table, preferred_element_type=jnp.float32)
        real = (rows * num_chunks + index < vocab)[None, None]
        logits = jnp.where(real, logits, -jnp.inf)
        new_top = jax.lax.stop_gradient(jnp.maximum(top, logits.max(axis=-1)))
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None]).sum(axis=-1)
        row = jnp.clip((targets - index) // num_chunks, 0, rows.shape[0] - 1)
        here = jnp.take_along_axis(logits, row[..., None], axis=-1)[..., 0]
        at_target = jnp.where(targets % num_chunks == index, here, at_target)
        return (new_top, total, at_target), None

    start = jnp.full(targets.shape, -jnp.inf, jnp.float32)
    carry = (start, jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, jnp.float32))
    (top, total, at_target), _ = jax.lax.scan(
        jax.checkpoint(accumulate, prevent_cse=False), carry, (jnp.arange(num_chunks), chunks)
    )
    return jnp.log(total) + top - at_target


def sum_by_task(
    values: Float[Array, "*A B L"] | Bool[Array, "*A B L"],
    task_ids: Int[Array, "*A B L"],
    num_tasks: int,
) -> Float[Array, " T"]:
    """Sum of `values` over all positions of each task, in float32."""
    tasks = jnp.arange(num_tasks).reshape((-1,) + (1,) * task_ids.ndim)
    mine = jnp.where(task_ids[None] == tasks, values[None].astype(jnp.float32), 0.0)
    return mine.sum(axis=tuple(range(1, mine.ndim)))


def task_counts(batch: Batch, num_tasks: int) -> Float[Array, " T"]:
    """Valid tokens (summed loss weights) per task; known before any forward pass."""
    return sum_by_task(batch.loss_weights, batch.task_ids, num_tasks)


def task_nll(nll: Float[Array, "B L"], batch: Batch, num_tasks: int) -> TaskSums:
    # A masked position may hold anything, so it is left out, not multiplied by zero.
    weighted = jnp.where(batch.loss_weights > 0, nll * batch.loss_weights, 0.0)
    return TaskSums(sum_by_task(weighted, batch.task_ids, num_tasks), task_counts(batch, num_tasks))


def token_mean(count: Float[Array, " T"], weight: Float[Array, " T"]) -> Float[Array, " T"]:
    """sum_i w_i S_i / sum_i w_i C_i; with equal weights the mean over all tokens.

    MFTCoder's code multiplies S_i by w_i and divides by sum_i C_i; normalising by the weighted
    count keeps the loss a convex combination, so the weights never change the step size.
    """
    total = jnp.sum(weight * count)
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0)


def task_token_mean(count: Float[Array, " T"], weight: Float[Array, " T"]) -> Float[Array, " T"]:
    """KDD Eq. 1 over the global batch: sum_i w_i (S_i / C_i) / sum_i w_i, over present tasks."""
    present = count > 0
    total = jnp.sum(jnp.where(present, weight, 0.0))
    share = jnp.where(present & (total > 0), weight / jnp.where(total > 0, total, 1.0), 0.0)
    return share / jnp.where(present, count, 1.0)


OBJECTIVES: dict[str, Objective] = {"token_mean": token_mean, "task_token_mean": task_token_mean}
