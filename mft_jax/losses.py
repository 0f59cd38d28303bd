"""Objectives over statistics per task.

    nll [B, L] -> statistics per task [F, T] -> loss per task [T] -> dot(shares_T, loss_T)
                  sums: they add up over       one mean each,        from counts and
                  micro-batches and devices    taken last            balancer weights

Counts depend on the batch alone and are known before the forward pass; so an objective is the same
for any micro-batch size, device count and packing. A sample is a segment of a packed row: of a
sample that was split, every piece counts as a sample of its own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mft_jax.types import Batch, MftError, RouterSums, TaskSums, TaskTable, at_least

ObjectiveName = Literal[
    "token_mean",
    "sample_mean",
    "task_token_mean",
    "task_sample_mean",
    "focal_sample",
    "focal_task",
]


class Form(NamedTuple):
    """What an objective is made of: means over `unit`s, of the whole batch (`pooled`) or of each
    task, and where the focal factor (1 - P)^gamma stands.
    """

    unit: Literal["token", "sample"]
    pooled: bool
    focal: Literal["sample", "task"] | None = None


FORMS: dict[str, Form] = {
    "token_mean": Form("token", pooled=True),  # sum_i S_i / sum_i C_i
    "sample_mean": Form("sample", pooled=True),
    "task_token_mean": Form("token", pooled=False),  # KDD Eq. 1
    "task_sample_mean": Form("sample", pooled=False),
    "focal_sample": Form("sample", pooled=True, focal="sample"),  # KDD Eq. 2
    "focal_task": Form("sample", pooled=False, focal="task"),  # KDD Eq. 3
}


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """`normalization`: what sums are divided by.

    batch        the global batch's own counts; tasks that are absent give their share away
    dataset      the counts expected of a global batch: unbiased for KDD Eq. 1 over the data set
                 however rare a task is in a batch
    microbatch   every micro-batch's own counts, then the mean: what MFTCoder's code does, for
                 comparison only (its micro-batch is one device's: set `loop.micro_batches` to that)

    `gamma` and `alpha` (by task name, 1 where not named) belong to the focal objectives.
    `vocab_chunk`: logits held at once, in columns of the vocabulary. `router_loss`: weight of the
    loss that keeps experts evenly used; 0 leaves it out.
    """

    name: ObjectiveName = "task_token_mean"
    normalization: Literal["batch", "dataset", "microbatch"] = "batch"
    gamma: float = 2.0
    alpha: dict[str, float] = dataclasses.field(default_factory=dict)
    vocab_chunk: int = 8192
    router_loss: float = 0.0

    def __post_init__(self) -> None:
        at_least("objective", self, vocab_chunk=1, gamma=0, router_loss=0)
        if self.alpha and FORMS[self.name].focal is None:
            raise MftError(
                f"objective.alpha is read by focal_sample and focal_task, not by {self.name!r}; "
                "remove it, or give static weights with balancer.name=static"
            )


class Objective(NamedTuple):
    """An `ObjectiveConfig` for the tasks of a run. `expected_count` [T] is None but for
    `normalization: dataset`; see `data.mixture.expected_counts`.
    """

    form: Form
    gamma: float
    alpha: Float[Any, " T"]
    expected_count: Float[Any, " T"] | None
    per_micro_batch: bool
    vocab_chunk: int
    router_loss: float = 0.0

    @property
    def num_tasks(self) -> int:
        return self.alpha.shape[0]

    @property
    def linear(self) -> bool:
        """Whether the loss is linear in the statistics, so that its gradient by them is known
        before they are.
        """
        return self.form.focal != "task" and not self.router_loss


def make_objective(
    config: ObjectiveConfig, tasks: TaskTable, expected: Mapping[str, Float[np.ndarray, " T"]]
) -> Objective:
    """`expected`: tokens ("token") and samples ("sample") per task of an average global batch."""
    form = FORMS[config.name]
    by_dataset = config.normalization == "dataset"
    return Objective(
        form=form,
        gamma=config.gamma,
        alpha=np.asarray(tasks.values("objective.alpha", config.alpha, default=1.0)),
        expected_count=expected[form.unit] if by_dataset else None,
        per_micro_batch=config.normalization == "microbatch",
        vocab_chunk=config.vocab_chunk,
        router_loss=config.router_loss,
    )


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
    """Valid tokens (summed loss weights) per task; known before any forward pass."""
    return sum_by_task(batch.loss_weights, batch.task_ids, num_tasks)


def sum_by_segment(values: Float[Array, "B L"], batch: Batch) -> Float[Array, "B S"]:
    """Sum of `values` over each segment of each row; S = L + 1, as segment ids count from 1."""
    size = batch.tokens.shape[1] + 1
    return jax.vmap(lambda v, s: jax.ops.segment_sum(v, s, size))(values, batch.segment_ids)


def unit_weights(batch: Batch, unit: Literal["token", "sample"]) -> Float[Array, "B L"]:
    """The weight of every token: its loss weight; for samples, divided by its sample's sum of them
    (T_ij), so that the weights of a sample with a valid token sum to 1.
    """
    weights = batch.loss_weights.astype(float)
    if unit == "token":
        return weights
    total = sum_by_segment(weights, batch)
    of_token = jnp.take_along_axis(total, batch.segment_ids, axis=1)
    return weights / jnp.where(of_token > 0, of_token, 1.0)


def unit_counts(objective: Objective, batch: Batch) -> Float[Array, " T"]:
    """C_i: valid tokens, or samples with one, of each task."""
    weights = unit_weights(batch, objective.form.unit)
    return sum_by_task(weights, batch.task_ids, objective.num_tasks)


class Statistics(NamedTuple):
    """Sums over a batch: they add up over micro-batches.

    nll:       weighted token nll, for the record.
    features:  what the objective's loss per task is made of, over `unit_counts`: the sum of nll,
               or of focal sample losses; of P and Q for `focal_task`.
    router:    None unless the objective has a router loss.
    """

    nll: Float[Array, "*A T"]
    features: Float[Array, "*A F T"]
    router: RouterSums | None = None


def statistics(
    objective: Objective,
    nll: Float[Array, "B L"],
    batch: Batch,
    router: RouterSums | None = None,
) -> Statistics:
    # A masked position may hold anything, so it is left out, not multiplied by zero.
    nll = jnp.where(batch.loss_weights > 0, nll, 0.0)
    weights = unit_weights(batch, objective.form.unit)
    num_tasks = objective.num_tasks

    def by_task(values: Float[Array, "B L"]) -> Float[Array, " T"]:
        return sum_by_task(values, batch.task_ids, num_tasks)

    probability = weights * jnp.exp(-nll)
    match objective.form.focal:
        case None:
            features = [by_task(weights * nll)]
        case "sample":
            p, q = (sum_by_segment(x, batch) for x in (probability, -weights * nll))
            losses = focal(p, q, objective.gamma)
            # A sample's loss stands on its tokens by their weights, which sum to 1.
            of_token = jnp.take_along_axis(losses, batch.segment_ids, axis=1)
            features = [by_task(weights * of_token)]
        case "task":
            features = [by_task(probability), by_task(-weights * nll)]
    router = router if objective.router_loss else None
    return Statistics(by_task(batch.loss_weights * nll), jnp.stack(features), router)


def focal(p: Array, q: Array, gamma: float) -> Array:
    """-(1 - P)^gamma Q, of mean probability P and mean log-probability Q; the gradient goes through
    both. 1 - P is kept from 0, where a power below 1 has no derivative.
    """
    return -(jnp.maximum(1.0 - p, 1e-6) ** gamma) * q


def task_losses(
    objective: Objective, features: Float[Array, "F T"], count: Float[Array, " T"]
) -> Float[Array, " T"]:
    """L_i: the mean over the task's units, or Eq. 3's term, times alpha_i. 0 where absent."""
    means = features / jnp.where(count > 0, count, 1.0)[None]
    is_task_focal = objective.form.focal == "task"
    loss = focal(means[0], means[1], objective.gamma) if is_task_focal else means[0]
    return jnp.asarray(objective.alpha, loss.dtype) * loss


def shares(
    objective: Objective, count: Float[Array, " T"], weight: Float[Array, " T"]
) -> Float[Array, " T"]:
    """The factor of each L_i in the loss.

    By task: w_i over the sum of |w| of present tasks. Pooled: w_i C_i over the sum of |w| C, so
    that weights never change the step size. `dataset`: present are all tasks of the data set, and
    C_i / expected C_i turns the mean of the batch into an unbiased estimate.
    """
    basis = count if objective.expected_count is None else objective.expected_count
    basis = jnp.asarray(basis, count.dtype)
    present = basis > 0
    mass = jnp.where(present, weight * (basis if objective.form.pooled else 1.0), 0.0)
    share = _divide(mass, jnp.abs(mass).sum())
    return share if objective.expected_count is None else share * _divide(count, basis)


def relative_shares(
    objective: Objective, count: Float[Array, " T"], weight: Float[Array, " T"]
) -> Float[Array, " T"]:
    """The factor of each task's term `K share_i(equal weights) L_i` in the loss under `weight`."""
    num_tasks = weight.shape[0]
    equal = jnp.full_like(weight, 1.0 / num_tasks)
    return _divide(shares(objective, count, weight), num_tasks * shares(objective, count, equal))


def total_loss(
    objective: Objective,
    features: Float[Array, "A F T"],
    counts: Float[Array, "A T"],
    weight: Float[Array, " T"],
    router: RouterSums | None = None,
) -> Float[Array, ""]:
    """The objective over the micro-batches of a step."""
    if not objective.per_micro_batch:
        features, counts = features.sum(axis=0, keepdims=True), counts.sum(axis=0, keepdims=True)

    def loss(features_FT: Array, count_T: Array) -> Array:
        losses = task_losses(objective, features_FT, count_T)
        return jnp.dot(shares(objective, count_T, weight), losses)

    total = jax.vmap(loss)(features, counts).mean()
    return total if router is None else total + objective.router_loss * router_loss(router)


def router_loss(sums: RouterSums) -> Float[Array, ""]:
    """`E sum_e f_e p_e` over all micro-batches, f the mean number of choices and p the mean
    probability of expert e (Switch, arXiv 2101.03961, Eq. 4). All experts used alike give k.
    """
    chosen, probability, count = (part.sum(axis=0) for part in sums)
    count = jnp.maximum(count, 1.0)
    return chosen.shape[0] * jnp.sum(chosen / count * (probability / count))


def mean_losses(
    objective: Objective, features: Float[Array, "A F T"], counts: Float[Array, "A T"]
) -> TaskSums:
    """L_i over the global batch with its count, as balancers see it."""
    count = counts.sum(axis=0)
    return TaskSums(task_losses(objective, features.sum(axis=0), count) * count, count)


def _divide(numerator: Array, denominator: Array) -> Array:
    """0 where the denominator is 0."""
    safe = jnp.where(denominator > 0, denominator, 1.0)
    return jnp.where(denominator > 0, numerator / safe, 0.0)
