"""Gradients of the loss over the micro-batches of a step.

Micro-batches are differentiated one by one, and their gradients added. `backward_known` is for a
gradient of the loss with respect to the batch's sums that is known before them (a linear objective
and weights that do not depend on this step's losses). Otherwise `backward_after_losses` runs all
micro-batches except the last forward once more; with one micro-batch nothing is run twice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.forward import Forward, forward_all, micro_batch_indices
from mft_jax.objective import Objective, ObjectiveSums
from mft_jax.types import Batch, Params


def loss_cotangents(
    objective: Objective,
    counts: Float[Array, "A T"],
    weight: Float[Array, " T"],
    sums: ObjectiveSums | None = None,
) -> ObjectiveSums:
    """The gradient of the loss with respect to the sums of every micro-batch, `[A, ...]`.

    For a linear objective it does not depend on the sums, which may be None.
    """
    if sums is None:
        zeros = jnp.zeros_like(counts)
        sums = ObjectiveSums(zeros, jnp.stack([zeros] * objective.num_numerators, axis=1))
    return jax.grad(objective.loss)(sums, counts, weight)


def backward_known(
    forward: Forward,
    trainable: Params,
    batch: Batch,
    cotangents: ObjectiveSums,
    *,
    by_task: bool = False,
) -> tuple[ObjectiveSums, Params]:
    """`(sums [A, ...], gradient)` of a batch [A, B, L] whose `cotangents` are known.

    `by_task`: a row of the gradient, [T, ...], for every task; T backward passes for one forward
    pass.
    """
    rows = cotangents.nll.shape[-1:] if by_task else ()
    zeros = jax.tree.map(lambda x: jnp.zeros((*rows, *x.shape), x.dtype), trainable)
    indices = micro_batch_indices(batch)
    return _scan_backward(forward, trainable, (batch, indices, cotangents), zeros, by_task)


def backward_after_losses(
    forward: Forward, trainable: Params, batch: Batch, *, by_task: bool = False
) -> tuple[ObjectiveSums, Callable[[ObjectiveSums], Params]]:
    """`(sums [A, ...], pull_back)` of a batch [A, B, L], as `jax.vjp` gives them.

    `pull_back(cotangents)` is the gradient; the cotangents may depend on the sums. `by_task` as in
    `backward_known`.
    """
    indices = micro_batch_indices(batch)
    rest, last = _without_last(batch), _last(batch)
    last_sums, pull_last = jax.vjp(lambda t: forward(t, last, indices[-1]), trainable)
    sums = jax.tree.map(lambda x: x[None], last_sums)
    several = rest.tokens.shape[0] > 0
    if several:
        before = forward_all(forward, trainable, rest)
        sums = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), before, sums)

    def pull_back(cotangents: ObjectiveSums) -> Params:
        grads = _gradient(pull_last, last_sums, _last(cotangents), by_task)
        if several:
            items = rest, indices[:-1], _without_last(cotangents)
            _, grads = _scan_backward(forward, trainable, items, grads, by_task)
        return grads

    return sums, pull_back


def _without_last(micro_batches: Any) -> Any:
    return jax.tree.map(lambda x: x[:-1], micro_batches)


def _last(micro_batches: Any) -> Any:
    return jax.tree.map(lambda x: x[-1], micro_batches)


def _scan_backward(
    forward: Forward,
    trainable: Params,
    items: tuple[Batch, Array, ObjectiveSums],
    start: Params,
    by_task: bool,
) -> tuple[ObjectiveSums, Params]:
    """`start` plus the gradients of micro-batches with their indices and cotangents."""

    def accumulate(
        carry: Params, item: tuple[Batch, Array, ObjectiveSums]
    ) -> tuple[Params, ObjectiveSums]:
        micro_batch, index, cotangent = item
        sums, pull = jax.vjp(lambda t: forward(t, micro_batch, index), trainable)
        return jax.tree.map(jnp.add, carry, _gradient(pull, sums, cotangent, by_task)), sums

    grads, sums = jax.lax.scan(accumulate, start, items)
    return sums, grads


def _gradient(
    pull: Callable[[ObjectiveSums], tuple[Params]],
    sums: ObjectiveSums,
    cotangent: ObjectiveSums,
    by_task: bool,
) -> Params:
    """The gradient of one micro-batch, or its rows, one for each task's numerators."""
    cotangent = jax.tree.map(lambda x, c: c.astype(x.dtype), sums, cotangent)
    if not by_task:
        return pull(cotangent)[0]
    one_task = jnp.eye(cotangent.nll.shape[0], dtype=cotangent.numerators.dtype)
    by_row = one_task[:, None, :] * cotangent.numerators[None]
    return jax.lax.map(lambda n: pull(cotangent._replace(numerators=n))[0], by_row)
