"""Gradients of a step: of the weighted loss, or of every task for the price of one backward pass.

Micro-batches are differentiated one by one and add up. Two things may need the statistics of the
whole batch before the first gradient: weights that follow from this step's losses, and an
objective that is not linear. Then all micro-batches but the last are run forward once more; with
one micro-batch nothing is run twice.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mft_jax.balancers.base import Subset
from mft_jax.finetune import combine
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.losses import (
    FORMS,
    Objective,
    Statistics,
    relative_shares,
    statistics,
    task_counts,
    total_loss,
    unit_counts,
)
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import UNSHARDED, ActivationSharding, bind
from mft_jax.models.nll import next_token_nll
from mft_jax.models.params import in_last_layer, param_infos
from mft_jax.types import Batch, Params, TaskSums

Measure = Callable[[Params, Batch], Statistics]
Chosen = TypeVar("Chosen")


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What is computed on a batch: the model, how it is fine-tuned, in which precision."""

    model: ModelConfig
    finetune: FinetuneConfig
    objective: Objective
    dtype: str
    remat: bool
    seed: int = 0  # of dropout
    placement: ActivationSharding = UNSHARDED


def measure(compute: StepSpec, params: Params, batch: Batch) -> Statistics:
    """Statistics of a batch [B, L] under the combined parameters."""
    model, dtype = bind(compute.model, params), jnp.dtype(compute.dtype)
    hidden, router = model(
        batch.tokens,
        batch.positions,
        batch.segment_ids,
        dtype=dtype,
        remat=compute.remat,
        placement=compute.placement,
    )
    chunk = compute.objective.vocab_chunk
    nll = next_token_nll(hidden, model.logit_head(), batch.targets, vocab_chunk=chunk)
    return statistics(compute.objective, nll, batch, router)


def measurer(compute: StepSpec, frozen: Params, key: Key[Array, ""] | None = None) -> Measure:
    """`(trainable, batch) -> Statistics`. With a `key` adapters drop out."""

    def run(trainable: Params, batch: Batch) -> Statistics:
        own, dtype = _own_key(key, batch), jnp.dtype(compute.dtype)
        params = combine.combine(
            compute.finetune, param_infos(compute.model), trainable, frozen, dtype, own
        )
        return measure(compute, params, batch)

    return run


def step_key(compute: StepSpec, step: Int[Array, ""]) -> Key[Array, ""] | None:
    """What adapters drop out by in a step; None where they do not."""
    if not compute.finetune.dropout:
        return None
    return jax.random.fold_in(jax.random.key(compute.seed), step)


def _own_key(key: Key[Array, ""] | None, batch: Batch) -> Key[Array, ""] | None:
    """Each micro-batch drops out for itself: told apart by what it holds."""
    if key is None:
        return None
    place = jnp.arange(1, batch.tokens.size + 1, dtype=jnp.uint32).reshape(batch.tokens.shape)
    return jax.random.fold_in(key, jnp.sum(batch.tokens.astype(jnp.uint32) * place))


def task_nll(compute: StepSpec, trainable: Params, frozen: Params, batch: Batch) -> TaskSums:
    """Nll sums and counts per task of a batch [B, L], under the combined parameters."""
    stats = measurer(compute, frozen)(trainable, batch)
    return TaskSums(stats.nll, task_counts(batch, compute.objective.num_tasks))


def batch_counts(objective: Objective, batch: Batch) -> Float[Array, "A T"]:
    """Units of every micro-batch of a batch [A, B, L]."""
    return jax.vmap(lambda micro: unit_counts(objective, micro))(batch)


def measure_all(run: Measure, trainable: Params, batch: Batch) -> Statistics:
    """Statistics of every micro-batch, `[A, ...]`; forward only."""
    return jax.lax.map(lambda micro: run(trainable, micro), batch)


def slopes(
    objective: Objective,
    stats: Statistics | None,
    counts: Float[Array, "A T"],
    weight: Float[Array, " T"],
) -> Statistics:
    """The gradient of the loss by the statistics: what every micro-batch is pulled back with.

    Where the objective is linear, it does not depend on them, and they may be None.
    """
    if stats is None:
        stats = Statistics(jnp.zeros_like(counts), jnp.zeros_like(counts)[:, None])
    return jax.grad(lambda s: total_loss(objective, s.features, counts, weight, s.router))(stats)


PullBack = Callable[[Callable[[Statistics], tuple[Params]], Statistics], Params]


def backward(
    run: Measure,
    trainable: Params,
    batch: Batch,
    choose: Callable[[Statistics | None], tuple[Statistics, Chosen]],
    *,
    ahead: bool,
    pull_back: PullBack = lambda pull, cotangent: pull(cotangent)[0],
) -> tuple[Statistics, Params, Chosen]:
    """Statistics `[A, ...]`, the gradient, and what `choose` returned beside the slopes.

    `choose(statistics)` gives the slopes of every micro-batch; called with None if `ahead`.
    """

    def cotangent(like: Statistics, slope: Statistics) -> Statistics:
        return jax.tree.map(lambda x, s: s.astype(x.dtype), like, slope)

    def one(item: tuple[Batch, Statistics]) -> tuple[Statistics, Params]:
        micro, slope = item
        stats, pull = jax.vjp(lambda t: run(t, micro), trainable)
        return stats, pull_back(pull, cotangent(stats, slope))

    def accumulate(carry: Params, item: tuple[Batch, Statistics]) -> tuple[Params, Statistics]:
        stats, grads = one(item)
        return jax.tree.map(jnp.add, carry, grads), stats

    if ahead:
        slope, chosen = choose(None)
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], (batch, slope)))[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        grads, stats = jax.lax.scan(accumulate, zeros, (batch, slope))
        return stats, grads, chosen
    rest, last = jax.tree.map(lambda x: x[:-1], batch), jax.tree.map(lambda x: x[-1], batch)
    last_stats, pull = jax.vjp(lambda t: run(t, last), trainable)
    stats = jax.tree.map(lambda x: x[None], last_stats)
    several = rest.tokens.shape[0] > 0
    if several:
        before = measure_all(run, trainable, rest)
        stats = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), before, stats)
    slope, chosen = choose(stats)
    grads = pull_back(pull, cotangent(last_stats, jax.tree.map(lambda x: x[-1], slope)))
    if several:
        before = jax.tree.map(lambda x: x[:-1], slope)
        grads, _ = jax.lax.scan(accumulate, grads, (rest, before))
    return stats, grads, chosen


class TaskGradients(NamedTuple):
    """Row t of every leaf is the gradient of task t's term: `K share_t(equal weights) L_t`."""

    rows: Params  # leaves [T, ...]
    counts: Float[Array, "A T"]

    def combine(self, objective: Objective, weight: Float[Array, " T"]) -> Params:
        """The gradient of the objective under `weight`."""
        factor = relative_shares(objective, self.counts.sum(axis=0), weight)
        return jax.tree.map(
            lambda g: jnp.tensordot(factor.astype(g.dtype), g, axes=1, precision="highest"),
            self.rows,
        )


def task_gradients(
    compute: StepSpec,
    trainable: Params,
    frozen: Params,
    batch: Batch,
    key: Key[Array, ""] | None = None,
) -> tuple[Statistics, TaskGradients]:
    """Gradients `[T, ...]` of all tasks over a batch [A, B, L].

    Adapters: one backward pass that keeps tasks apart (`TaskLoraArray`). Otherwise one forward
    pass and T backward passes.
    """
    objective = compute.objective
    num_tasks = objective.num_tasks
    counts = batch_counts(objective, batch)
    equal = jnp.full((num_tasks,), 1.0 / num_tasks, counts.dtype)

    def choose(stats: Statistics | None) -> tuple[Statistics, None]:
        equally = slopes(objective, stats, counts, equal)
        return jax.tree.map(lambda x: num_tasks * x, equally), None

    if compute.finetune.method == "full":
        stats, rows, _ = backward(
            measurer(compute, frozen, key),
            trainable,
            batch,
            choose,
            ahead=objective.linear,
            pull_back=_one_by_one,
        )
        return stats, TaskGradients(rows, counts)

    def run(repeated: Params, micro: Batch) -> Statistics:
        params = combine.combine_by_task(
            compute.finetune,
            param_infos(compute.model),
            repeated,
            frozen,
            jnp.dtype(compute.dtype),
            micro.task_ids,
            _own_key(key, micro),
        )
        return measure(compute, params, micro)

    repeated = combine.repeat_by_task(trainable, num_tasks)
    stats, grads, _ = backward(run, repeated, batch, choose, ahead=objective.linear)
    return stats, TaskGradients(combine.tasks_first(grads), counts)


def valid_gradients(compute: StepSpec, trainable: Params, frozen: Params, batch: Batch) -> Params:
    """Rows [T, ...]: the gradient of each task's mean nll on a validation batch [B, L]."""
    objective = compute.objective
    mean_nll = objective._replace(
        form=FORMS["task_token_mean"],
        alpha=jnp.ones_like(objective.alpha),
        expected_count=None,
        per_micro_batch=False,
    )
    compute = dataclasses.replace(compute, objective=mean_nll)
    alone = jax.tree.map(lambda x: x[None], batch)
    return task_gradients(compute, trainable, frozen, alone)[1].rows


def diagnose(
    compute: StepSpec, trainable: Params, frozen: Params, batch: Batch
) -> Float[Array, "T T"]:
    """The Gramian of the task gradients: their norms, and which tasks pull against each other."""
    rows = task_gradients(compute, trainable, frozen, batch)[1].rows
    return gramian(compute, "all", rows, rows)


def _one_by_one(pull: Callable[[Statistics], tuple[Params]], cotangent: Statistics) -> Params:
    only = jnp.eye(cotangent.nll.shape[0], dtype=cotangent.features.dtype)
    each = only[:, None, :] * cotangent.features[None]
    return jax.lax.map(lambda features: pull(cotangent._replace(features=features))[0], each)


def gramian(compute: StepSpec, subset: Subset, left: Params, right: Params) -> Float[Array, "T T"]:
    """Inner products of the rows of two trees of leaves [T, ...]. `last_block`: of the stacked
    layers' leaves [T, N, ...] only the last layer.
    """
    infos = param_infos(compute.model)

    def product(path: str, x: Array, y: Array) -> Array:
        if subset == "last_block":
            x, y = x[:, -1], y[:, -1]
        x, y = (leaf.reshape(leaf.shape[0], -1) for leaf in (x, y))
        return jnp.matmul(x, y.T, precision="highest")

    chosen = [p for p in left if subset == "all" or in_last_layer(infos, p)]
    products = [
        product(path, x, y)
        for path in chosen
        for x, y in zip(jax.tree.leaves(left[path]), jax.tree.leaves(right[path]), strict=True)
    ]
    return jnp.stack(products).sum(axis=0)
