"""The gradient of every task for the price of one backward pass, and the Gramian of the tasks."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mft_jax.arrays import safe_divide
from mft_jax.finetune import combine
from mft_jax.forward import Forward, StepSpec, forward_sums, make_forward, micro_batch_key
from mft_jax.gradients import backward_after_losses, backward_known, loss_cotangents
from mft_jax.losses import task_token_mean
from mft_jax.models.config import ModelConfig
from mft_jax.models.params import in_last_layer, param_infos
from mft_jax.objective import Normalization, Objective, ObjectiveSums
from mft_jax.types import Batch, Params


class TaskGradients(NamedTuple):
    """Row t of every leaf is the gradient of task t's term: `T share_t(equal weights) L_t`."""

    rows: Params  # leaves [T, ...]
    counts: Float[Array, "A T"]

    def combine(self, objective: Objective, weight: Float[Array, " T"]) -> Params:
        """The gradient of the objective under `weight`."""
        factor = relative_shares(objective, self.counts.sum(axis=0), weight)
        return jax.tree.map(
            lambda g: jnp.tensordot(factor.astype(g.dtype), g, axes=1, precision="highest"),
            self.rows,
        )


def relative_shares(
    objective: Objective, count: Float[Array, " T"], weight: Float[Array, " T"]
) -> Float[Array, " T"]:
    """The factor of each task's term `T share_i(equal weights) L_i` in the loss under `weight`."""
    num_tasks = weight.shape[0]
    equal = jnp.full_like(weight, 1.0 / num_tasks)
    return safe_divide(objective.shares(count, weight), num_tasks * objective.shares(count, equal))


def task_gradients(
    spec: StepSpec,
    trainable: Params,
    frozen: Params,
    batch: Batch,
    key: Key[Array, ""] | None = None,
) -> tuple[ObjectiveSums, TaskGradients]:
    """Gradients `[T, ...]` of all tasks over a batch [A, B, L].

    Adapters: one backward pass that keeps tasks apart (`TaskLoraArray`). Otherwise one forward
    pass and T backward passes. Not valid with a router loss, which belongs to no task.
    """
    objective = spec.objective
    counts = jax.vmap(objective.counts)(batch)
    equal = jnp.full((objective.num_tasks,), 1.0 / objective.num_tasks, counts.dtype)

    def cotangents(sums: ObjectiveSums | None = None) -> ObjectiveSums:
        under_equal = loss_cotangents(objective, counts, equal, sums)
        return jax.tree.map(lambda x: objective.num_tasks * x, under_equal)

    full = spec.tuning.method == "full"
    if full:
        forward = make_forward(spec, frozen, key)
    else:
        forward = _forward_by_task(spec, frozen, key)
        trainable = combine.repeat_by_task(trainable, objective.num_tasks)
    if objective.linear:
        sums, rows = backward_known(forward, trainable, batch, cotangents(), by_task=full)
    else:
        sums, pull_back = backward_after_losses(forward, trainable, batch, by_task=full)
        rows = pull_back(cotangents(sums))
    return sums, TaskGradients(rows if full else combine.tasks_first(rows), counts)


def _forward_by_task(spec: StepSpec, frozen: Params, key: Key[Array, ""] | None) -> Forward:
    """The forward pass with adapters of `repeat_by_task`."""

    def forward(repeated: Params, batch: Batch, index: Int[Array, ""]) -> ObjectiveSums:
        params = combine.combine_by_task(
            spec.tuning,
            param_infos(spec.model_config),
            repeated,
            frozen,
            jnp.dtype(spec.dtype),
            batch.task_ids,
            micro_batch_key(key, index),
        )
        return forward_sums(spec, params, frozen, batch)

    return forward


def valid_gradients(spec: StepSpec, trainable: Params, frozen: Params, batch: Batch) -> Params:
    """Rows [T, ...]: the gradient of each task's mean nll on a validation batch [B, L]."""
    mean_nll = task_token_mean(Normalization(spec.objective.num_tasks))
    spec = dataclasses.replace(spec, objective=mean_nll)
    one_micro_batch = jax.tree.map(lambda x: x[None], batch)
    return task_gradients(spec, trainable, frozen, one_micro_batch)[1].rows


def task_gramian(
    spec: StepSpec, trainable: Params, frozen: Params, batch: Batch
) -> Float[Array, "T T"]:
    """The Gramian of the task gradients: their norms, and which tasks conflict."""
    rows = task_gradients(spec, trainable, frozen, batch)[1].rows
    return gramian(rows, rows)


def last_block(model_config: ModelConfig) -> frozenset[str]:
    """Paths of the stacked parameters whose last row belongs to the layer that is computed last."""
    infos = param_infos(model_config)
    return frozenset(path for path in infos if in_last_layer(infos, path))


def gramian(
    left: Params, right: Params, last_block: frozenset[str] | None = None
) -> Float[Array, "T T"]:
    """Inner products of the rows of two trees of leaves [T, ...]: over all parameters, or
    only over the last layer of the leaves [T, N, ...] that `last_block` names.
    """

    def product(x: Array, y: Array) -> Array:
        if last_block is not None:
            x, y = x[:, -1], y[:, -1]
        x, y = (leaf.reshape(leaf.shape[0], -1) for leaf in (x, y))
        return jnp.matmul(x, y.T, precision="highest")

    chosen = [path for path in left if last_block is None or path in last_block]
    products = [
        product(x, y)
        for path in chosen
        for x, y in zip(jax.tree.leaves(left[path]), jax.tree.leaves(right[path]), strict=True)
    ]
    return jnp.stack(products).sum(axis=0)
