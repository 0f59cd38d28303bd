"""The objectives by name, and their settings.

A sample is a segment of a packed row: every piece of a sample that was split counts as a sample.
S_i, C_i: sum of nll and number of valid tokens of task i in the global batch; w_i its weight. Every
example below has two tasks, the sums of one micro-batch, and equal weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.objective import (
    Normalization,
    Objective,
    ObjectiveSums,
    Outputs,
    Terms,
    weighted_objective,
)
from mft_jax.task_sums import at_tokens, sum_by_segment, sum_by_task
from mft_jax.types import Batch, MftError, RouterSums, TaskTable, at_least

ObjectiveName = Literal[
    "token_mean",
    "sample_mean",
    "task_token_mean",
    "task_sample_mean",
    "focal_sample",
    "focal_task",
]
FOCAL = ("focal_sample", "focal_task")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The loss of a step.

    name           what is averaged over what, see docs/balancing.md
    normalization  what sums are divided by. batch: the global batch's own counts; tasks that are
                   absent give their share away. dataset: the counts expected of a global batch,
                   unbiased for KDD Eq. 1 however rare a task is in a batch. microbatch: every
                   micro-batch's own counts, then the mean, as MFTCoder's code does, for comparison
    gamma          exponent of the focal factor, for focal_sample and focal_task
    alpha          factor of a task's loss by name, 1 where not named, for the focal objectives
    loss_chunk     positions whose logits a device holds at once; only those that carry loss are
                   computed
    router_loss    weight of the loss that keeps experts evenly used; 0 leaves it out
    """

    name: ObjectiveName = "task_token_mean"
    normalization: Literal["batch", "dataset", "microbatch"] = "batch"
    gamma: float = 2.0
    alpha: dict[str, float] = dataclasses.field(default_factory=dict)
    loss_chunk: int = 256
    router_loss: float = 0.0

    def __post_init__(self) -> None:
        at_least("objective", self, loss_chunk=1, gamma=0, router_loss=0)
        if self.alpha and self.name not in FOCAL:
            raise MftError(
                f"objective.alpha is read by focal_sample and focal_task, not by {self.name!r}; "
                "remove it, or give static weights with balancer.name=static"
            )

    def check(self, tasks: TaskTable) -> None:
        """Refuse an `alpha` of tasks that are not configured, or that is not positive anywhere."""
        tasks.values("objective.alpha", self.alpha, default=1.0)


def token_mean(normalization: Normalization) -> Objective:
    """The mean over all tokens, sum_i S_i / sum_i C_i.

    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), numerators=jnp.array([[[6.0, 4.0]]]))
    >>> objective = token_mean(Normalization(num_tasks=2))
    >>> float(objective.loss(sums, jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])))
    2.5
    """
    return _mean_nll("token", normalization, pooled=True)


def sample_mean(normalization: Normalization) -> Objective:
    """The mean over all samples of their mean nll.

    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), numerators=jnp.array([[[6.0, 4.0]]]))
    >>> objective = sample_mean(Normalization(num_tasks=2))
    >>> float(objective.loss(sums, jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])))
    2.5
    """
    return _mean_nll("sample", normalization, pooled=True)


def task_token_mean(normalization: Normalization) -> Objective:
    """The mean of present tasks' token means: sum_i w_i S_i / C_i over sum_i w_i (KDD Eq. 1).

    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), numerators=jnp.array([[[6.0, 4.0]]]))
    >>> objective = task_token_mean(Normalization(num_tasks=2))
    >>> float(objective.loss(sums, jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])))
    3.0
    """
    return _mean_nll("token", normalization, pooled=False)


def task_sample_mean(normalization: Normalization) -> Objective:
    """`task_token_mean` with the mean over a task's samples of their mean nll.

    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), numerators=jnp.array([[[6.0, 4.0]]]))
    >>> objective = task_sample_mean(Normalization(num_tasks=2))
    >>> float(objective.loss(sums, jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])))
    3.0
    """
    return _mean_nll("sample", normalization, pooled=False)


def focal_sample(
    normalization: Normalization, gamma: float, alpha: Float[Any, " T"] | None = None
) -> Objective:
    """The mean over samples of -alpha_i (1 - P_ij)^gamma Q_ij, with P_ij and Q_ij the mean
    probability and log-probability of the sample's valid tokens (KDD Eq. 2).

    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), numerators=jnp.array([[[6.0, 4.0]]]))
    >>> objective = focal_sample(Normalization(num_tasks=2), gamma=2.0)
    >>> float(objective.loss(sums, jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])))
    2.5
    """
    num_tasks = normalization.num_tasks

    def numerators(outputs: Outputs, batch: Batch) -> Float[Array, "1 T"]:
        weights = sample_weights(batch)
        p = sum_by_segment(weights * jnp.exp(-outputs.nll), batch)
        q = sum_by_segment(-weights * outputs.nll, batch)
        # A sample's loss is spread over its tokens by their weights, which sum to 1.
        losses = weights * at_tokens(focal(p, q, gamma), batch)
        return sum_by_task(losses, batch.task_ids, num_tasks)[None]

    def task_loss(means: Float[Array, "1 T"]) -> Float[Array, " T"]:
        return means[0] if alpha is None else jnp.asarray(alpha, means.dtype) * means[0]

    counts = functools.partial(_counts, sample_weights, num_tasks)
    terms = Terms("sample", counts, numerators, task_loss, pooled=True)
    return weighted_objective(terms, normalization)


def focal_task(
    normalization: Normalization, gamma: float, alpha: Float[Any, " T"] | None = None
) -> Objective:
    """The mean over present tasks of -alpha_i (1 - P_i)^gamma Q_i, with P_i and Q_i the means over
    the task's samples of P_ij and Q_ij (KDD Eq. 3).

    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), jnp.array([[[1.5, 0.0], [-6.0, -4.0]]]))
    >>> objective = focal_task(Normalization(num_tasks=2), gamma=1.0)
    >>> float(objective.loss(sums, jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])))
    2.5
    """
    num_tasks = normalization.num_tasks

    def numerators(outputs: Outputs, batch: Batch) -> Float[Array, "2 T"]:
        weights = sample_weights(batch)
        values = weights * jnp.exp(-outputs.nll), -weights * outputs.nll
        return jnp.stack([sum_by_task(x, batch.task_ids, num_tasks) for x in values])

    def task_loss(means: Float[Array, "2 T"]) -> Float[Array, " T"]:
        loss = focal(means[0], means[1], gamma)
        return loss if alpha is None else jnp.asarray(alpha, loss.dtype) * loss

    counts = functools.partial(_counts, sample_weights, num_tasks)
    terms = Terms("sample", counts, numerators, task_loss, linear=False, num_numerators=2)
    return weighted_objective(terms, normalization)


OBJECTIVES: dict[ObjectiveName, Callable[..., Objective]] = {
    "token_mean": token_mean,
    "sample_mean": sample_mean,
    "task_token_mean": task_token_mean,
    "task_sample_mean": task_sample_mean,
    "focal_sample": focal_sample,
    "focal_task": focal_task,
}


def make_objective(
    objective_config: ObjectiveConfig,
    tasks: TaskTable,
    expected: Mapping[str, Float[np.ndarray, " T"]],
) -> Objective:
    """The objective of a checked config. `expected`: tokens ("token") and samples ("sample") per
    task of an average global batch; see `data.mixture.expected_counts`.
    """
    alpha = np.asarray([objective_config.alpha.get(name, 1.0) for name in tasks.names])
    focal_settings = {"gamma": objective_config.gamma, "alpha": alpha}
    objective = OBJECTIVES[objective_config.name](
        Normalization(len(tasks), objective_config.normalization, expected),
        **(focal_settings if objective_config.name in FOCAL else {}),
    )
    weight = objective_config.router_loss
    return with_router_loss(objective, weight) if weight else objective


def token_weights(batch: Batch) -> Float[Array, "B L"]:
    """The loss weight of every token."""
    return batch.loss_weights.astype(float)


def sample_weights(batch: Batch) -> Float[Array, "B L"]:
    """The loss weight of every token, divided by its sample's sum of them (T_ij), so that the
    weights of a sample with a valid token sum to 1.
    """
    weights = token_weights(batch)
    of_token = at_tokens(sum_by_segment(weights, batch), batch)
    return safe_divide(weights, of_token)


def focal(p: Array, q: Array, gamma: float) -> Array:
    """The focal loss -(1 - P)^gamma Q of mean probability P and mean log-probability Q, with the
    gradient of both. 1 - P is kept above 0, where a power below 1 has no derivative.
    """
    return -(jnp.maximum(1.0 - p, 1e-6) ** gamma) * q


def with_router_loss(objective: Objective, weight: float) -> Objective:
    """`objective` plus `weight` times the loss that keeps experts evenly used.

    >>> plain = token_mean(Normalization(num_tasks=2))
    >>> router = RouterSums(jnp.array([[2.0, 2.0]]), jnp.array([[2.0, 2.0]]), jnp.array([4.0]))
    >>> sums = ObjectiveSums(jnp.zeros((1, 2)), jnp.array([[[6.0, 4.0]]]), router)
    >>> counts, weights = jnp.array([[3.0, 1.0]]), jnp.array([0.5, 0.5])
    >>> float(with_router_loss(plain, 0.5).loss(sums, counts, weights))
    3.0
    """

    def sums(outputs: Outputs, batch: Batch) -> ObjectiveSums:
        return objective.sums(outputs, batch)._replace(router=outputs.router)

    def loss(
        sums: ObjectiveSums, counts: Float[Array, "A T"], task_weight: Float[Array, " T"]
    ) -> Float[Array, ""]:
        assert sums.router is not None, "a model with experts has sums of its routers"
        return objective.loss(sums, counts, task_weight) + weight * router_loss(sums.router)

    return objective._replace(sums=sums, loss=loss, linear=False)


def router_loss(sums: RouterSums) -> Float[Array, ""]:
    """The loss `E sum_e f_e p_e` over all micro-batches, with f_e the mean number of choices and
    p_e the mean probability of expert e (Switch, arXiv 2101.03961, Eq. 4). It is k for even use.
    """
    chosen, probability, count = (part.sum(axis=0) for part in sums)
    count = jnp.maximum(count, 1.0)
    return chosen.shape[0] * jnp.sum(chosen / count * (probability / count))


def _counts(weights: Callable[[Batch], Array], num_tasks: int, batch: Batch) -> Float[Array, " T"]:
    return sum_by_task(weights(batch), batch.task_ids, num_tasks)


def _mean_nll(
    unit: Literal["token", "sample"], normalization: Normalization, *, pooled: bool
) -> Objective:
    num_tasks = normalization.num_tasks
    weights = token_weights if unit == "token" else sample_weights

    def numerators(outputs: Outputs, batch: Batch) -> Float[Array, "1 T"]:
        return sum_by_task(weights(batch) * outputs.nll, batch.task_ids, num_tasks)[None]

    counts = functools.partial(_counts, weights, num_tasks)
    terms = Terms(unit, counts, numerators, lambda means: means[0], pooled)
    return weighted_objective(terms, normalization)
