"""Weights of losses whose logarithms are summed: the geometric mean, and scale-invariant losses.

geometric        (prod_i L_i)^(1/T)   (MultiNet++, Chennupati et al., CVPRW'19, Eq. 4)
scale_invariant  sum_i log L_i        (as the log transform in Lin et al., arXiv 2111.10603)

The gradient of the first is sum_i m / (T L_i) grad L_i with m the geometric mean itself, of the
second sum_i (1 / L_i) grad L_i. They differ by one factor for all tasks, so once weights are
brought to a sum of 1 both give the same update; both are kept under their usual names.
Products and sums are over present tasks; an absent task has weight 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Need, RunFacts, Signals, losses_of, memoryless
from mft_jax.types import TaskSums

TINY = 1e-12  # a loss of exactly 0 would have an infinite weight
NEEDS: frozenset[Need] = frozenset({"train_losses"})


def scale_invariant(settings: None, run: RunFacts) -> Balancer:
    """Weights w_i = 1 / L_i.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> losses = TaskSums(sum=jnp.array([6.0, 1.0]), count=jnp.array([3.0, 2.0]))
    >>> balancer = scale_invariant(None, run)
    >>> signals = Signals(jnp.int32(0), train_losses=losses)
    >>> weight, state = balancer.update(balancer.init(2, losses), signals)
    >>> weight.tolist()
    [0.5, 2.0]
    """
    return memoryless(lambda signals: _inverse(losses_of("train", signals)), NEEDS)


def geometric(settings: None, run: RunFacts) -> Balancer:
    """Weights w_i = m / (T L_i), with m the geometric mean of the losses.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> losses = TaskSums(sum=jnp.array([6.0, 1.0]), count=jnp.array([3.0, 2.0]))
    >>> balancer = geometric(None, run)
    >>> signals = Signals(jnp.int32(0), train_losses=losses)
    >>> weight, state = balancer.update(balancer.init(2, losses), signals)
    >>> [round(w, 3) for w in weight.tolist()]
    [0.25, 1.0]
    """

    def weights(signals: Signals) -> Float[Array, " T"]:
        losses = losses_of("train", signals)
        present, inverse = losses.present(), _inverse(losses)
        count = jnp.maximum(present.sum(), 1)
        mean = jnp.exp(
            -jnp.where(present, jnp.log(jnp.where(present, inverse, 1.0)), 0.0).sum() / count
        )
        return mean / count * inverse

    return memoryless(weights, NEEDS)


def _inverse(losses: TaskSums) -> Float[Array, " T"]:
    """1 / L_i, and 0 where the task is absent."""
    present = losses.present()
    loss = jnp.where(present, losses.mean(), 1.0)
    return jnp.where(present, 1.0 / jnp.maximum(loss, TINY), 0.0)
