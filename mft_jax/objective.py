"""An objective as pure functions: sums over a batch, and the loss of sums and counts.

    outputs [B, L] -> sums(outputs, batch) [F, T] -> task_losses [T] -> loss = dot(shares_T, L_T)
                      they add up over               one mean each,    from counts and
                      micro-batches and devices      taken last        the balancer's weights

Counts depend only on the batch and are known before the forward pass; so an objective is the same
for any micro-batch size, device count and packing.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.task_sums import sum_by_task
from mft_jax.types import Batch, RouterSums, TaskSums


class Outputs(NamedTuple):
    """Results of the forward pass over a micro-batch, for the objective.

    nll:            -log p of every target; padding may hold anything.
    router:         sums of the expert layers; None in a model without experts.
    reference_nll:  nll under the frozen base without adapters, a constant of the gradient; None
                    unless the objective says `needs_reference`.
    """

    nll: Float[Array, "B L"]
    router: RouterSums | None = None
    reference_nll: Float[Array, "B L"] | None = None


class ObjectiveSums(NamedTuple):
    """Sums over a batch, `[...]`, or of every micro-batch, `[A, ...]`.

    nll:         weighted token nll per task, for the record.
    numerators:  sums over the units of each task; divided by its count they are the means that
                 its loss is made of.
    router:      None unless the objective has a router loss.
    """

    nll: Float[Array, "*A T"]
    numerators: Float[Array, "*A sums T"]
    router: RouterSums | None = None


class Objective(NamedTuple):
    """Pure functions, and the few facts that the gradients need.

    counts(batch [B, L]) -> [T]           the units of each task: tokens, samples or pairs.
    sums(outputs, batch [B, L])           the `ObjectiveSums` of a micro-batch.
    loss(sums [A], counts [A, T], weight [T]) -> scalar
                                          the loss of a step under a balancer's weights.
    task_losses(sums [A], counts [A, T])  L_i over the global batch, as balancers see it: a
                                          `TaskSums` over the units of each task.
    shares(count [T], weight [T]) -> [T]  the factor of each L_i in the loss.

    linear:           the loss is linear in the sums: its gradient with respect to them does not
                      depend on them.
    num_numerators:   F.
    needs_reference:  `sums` reads `Outputs.reference_nll`, which costs one more forward pass.
    """

    counts: Callable[[Batch], Float[Array, " T"]]
    sums: Callable[[Outputs, Batch], ObjectiveSums]
    loss: Callable[[ObjectiveSums, Array, Array], Float[Array, ""]]
    task_losses: Callable[[ObjectiveSums, Array], TaskSums]
    shares: Callable[[Array, Array], Float[Array, " T"]]
    num_tasks: int
    linear: bool = True
    num_numerators: int = 1
    needs_reference: bool = False


class Normalization(NamedTuple):
    """The divisor of the sums; see `losses.ObjectiveConfig`. `expected`, read by `dataset`: units
    of each task in an average global batch, [T] by the name of the unit.
    """

    num_tasks: int
    mode: Literal["batch", "dataset", "microbatch"] = "batch"
    expected: Mapping[str, Float[Any, " T"]] | None = None

    def expected_count(self, unit: str) -> Float[Any, " T"] | None:
        return self.expected[unit] if self.mode == "dataset" and self.expected else None


class Terms(NamedTuple):
    """The loss L_i of a task: the parts in which objectives differ.

    counts(batch) -> [T] and numerators(outputs, batch) -> [F, T] are sums over the units of each
    task; task_loss(means [F, T]) -> [T] is made of their quotients. Outputs are 0 where a token
    has no loss weight. `pooled`: the loss is one mean over the units of all tasks, not of each.
    """

    unit: str
    counts: Callable[[Batch], Float[Array, " T"]]
    numerators: Callable[[Outputs, Batch], Float[Array, "F T"]]
    task_loss: Callable[[Float[Array, "F T"]], Float[Array, " T"]]
    pooled: bool = False
    linear: bool = True
    num_numerators: int = 1
    needs_reference: bool = False


def weighted_objective(terms: Terms, normalization: Normalization) -> Objective:
    """The weighted mean of the tasks' losses."""
    expected = normalization.expected_count(terms.unit)
    shares = functools.partial(_shares, terms.pooled, expected)
    return Objective(
        counts=terms.counts,
        sums=functools.partial(_sums, terms, normalization.num_tasks),
        loss=functools.partial(_loss, terms, shares, normalization.mode == "microbatch"),
        task_losses=functools.partial(_sums_of_losses, terms),
        shares=shares,
        num_tasks=normalization.num_tasks,
        linear=terms.linear,
        num_numerators=terms.num_numerators,
        needs_reference=terms.needs_reference,
    )


def valid_nll(nll: Float[Array, "B L"], batch: Batch) -> Float[Array, "B L"]:
    """`nll`, and 0 at masked positions, which may hold anything: NaN times zero is NaN."""
    return jnp.where(batch.loss_weights > 0, nll, 0.0)


def _sums(terms: Terms, num_tasks: int, outputs: Outputs, batch: Batch) -> ObjectiveSums:
    reference = outputs.reference_nll
    outputs = outputs._replace(
        nll=valid_nll(outputs.nll, batch),
        reference_nll=None if reference is None else valid_nll(reference, batch),
    )
    nll_T = sum_by_task(batch.loss_weights * outputs.nll, batch.task_ids, num_tasks)
    return ObjectiveSums(nll_T, terms.numerators(outputs, batch))


def _task_losses(
    terms: Terms, numerators: Float[Array, "F T"], count: Float[Array, " T"]
) -> Float[Array, " T"]:
    """Losses L_i, 0 where a task is absent."""
    return terms.task_loss(safe_divide(numerators, count[None]))


def _sums_of_losses(terms: Terms, sums: ObjectiveSums, counts: Float[Array, "A T"]) -> TaskSums:
    count = counts.sum(axis=0)
    return TaskSums(_task_losses(terms, sums.numerators.sum(axis=0), count) * count, count)


def _shares(
    pooled: bool,
    expected: Float[Any, " T"] | None,
    count: Float[Array, " T"],
    weight: Float[Array, " T"],
) -> Float[Array, " T"]:
    """Shares: w_i over the sum of |w| of present tasks. Pooled: w_i C_i over the sum of |w| C, so
    that weights never change the step size. `dataset`: present are all tasks of the data set, and
    C_i / expected C_i turns the mean of the batch into an unbiased estimate.
    """
    basis = jnp.asarray(count if expected is None else expected, count.dtype)
    present = basis > 0
    mass = jnp.where(present, weight * (basis if pooled else 1.0), 0.0)
    share = safe_divide(mass, jnp.abs(mass).sum())
    return share if expected is None else share * safe_divide(count, basis)


def _loss(
    terms: Terms,
    shares: Callable[[Array, Array], Array],
    per_micro_batch: bool,
    sums: ObjectiveSums,
    counts: Float[Array, "A T"],
    weight: Float[Array, " T"],
) -> Float[Array, ""]:
    numerators = sums.numerators
    if not per_micro_batch:
        numerators = numerators.sum(axis=0, keepdims=True)
        counts = counts.sum(axis=0, keepdims=True)

    def loss(parts: Array, count_T: Array) -> Array:
        return jnp.dot(shares(count_T, weight), _task_losses(terms, parts, count_T))

    return jax.vmap(loss)(numerators, counts).mean()
