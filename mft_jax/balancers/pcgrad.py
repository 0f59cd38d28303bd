"""PCGrad, projecting conflicting gradients (Yu et al., NeurIPS'20, arXiv 2001.06782, Algorithm 1).

For every task i, and every other task j in random order: where g_i has a negative product with g_j,
subtract its component along g_j. The update is the sum of the results. In weight space g_i is its
row of coefficients over the given gradients, so w is the sum of the rows. The order follows from
the step number only, so a resumed run draws the same.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, RunFacts, Signals, memoryless
from mft_jax.balancers.gramian import present_tasks


def pcgrad_weights(gramian: Float[Array, "T T"], key: Array) -> Float[Array, " T"]:
    size = gramian.shape[0]
    present = present_tasks(gramian)
    norms = jnp.where(present, jnp.diagonal(gramian), 1.0)

    def surgery(i: Array, key: Array) -> Float[Array, " T"]:
        order = jax.random.permutation(key, size)

        def project(position: Array, row: Float[Array, " T"]) -> Float[Array, " T"]:
            j = order[position]
            product = jnp.dot(row, gramian[:, j])
            conflicts = (product < 0) & (j != i)
            return row.at[j].add(jnp.where(conflicts, -product / norms[j], 0.0))

        return jax.lax.fori_loop(0, size, project, jnp.eye(size, dtype=gramian.dtype)[i])

    rows = jax.vmap(surgery)(jnp.arange(size), jax.random.split(key, size))
    return jnp.where(present, jnp.where(present[:, None], rows, 0.0).sum(axis=0), 0.0)


def pcgrad(settings: None, run: RunFacts) -> Balancer:
    """Weights of gradients without their conflicting components.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = pcgrad(None, run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [2.2222, 1.5789]
    """

    def weights(signals: Signals) -> Float[Array, " T"]:
        assert signals.gramian is not None, "the step provides what `needs` names"
        return pcgrad_weights(signals.gramian, jax.random.fold_in(jax.random.key(0), signals.step))

    return memoryless(weights, frozenset({"task_gradients"}))
