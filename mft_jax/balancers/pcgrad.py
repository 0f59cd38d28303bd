"""PCGrad, projecting conflicting gradients (Yu et al., NeurIPS'20, arXiv 2001.06782, Algorithm 1).

For every task i, and every other task j in random order: where g_i has a negative product with g_j,
take its component along g_j away. The update is the sum of what is left. In weight space g_i is its
row of coefficients over the gradients given, so w is the sum of the rows. The order follows from
the step alone, so a resumed run draws the same.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals, State
from mft_jax.balancers.gramian import present_tasks
from mft_jax.types import TaskSums


def pcgrad_weights(gramian: Float[Array, "T T"], key: Array) -> Float[Array, " T"]:
    size = gramian.shape[0]
    present = present_tasks(gramian)
    norms = jnp.where(present, jnp.diagonal(gramian), 1.0)

    def surgery(i: Array, key: Array) -> Float[Array, " T"]:
        order = jax.random.permutation(key, size)

        def project(place: Array, row: Float[Array, " T"]) -> Float[Array, " T"]:
            j = order[place]
            product = jnp.dot(row, gramian[:, j])
            conflicts = (product < 0) & (j != i)
            return row.at[j].add(jnp.where(conflicts, -product / norms[j], 0.0))

        return jax.lax.fori_loop(0, size, project, jnp.eye(size, dtype=gramian.dtype)[i])

    rows = jax.vmap(surgery)(jnp.arange(size), jax.random.split(key, size))
    return jnp.where(present, jnp.where(present[:, None], rows, 0.0).sum(axis=0), 0.0)


def pcgrad(*, seed: int = 0) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> State:
        return ()

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        assert signals.gramian is not None
        key = jax.random.fold_in(jax.random.key(seed), signals.step)
        return pcgrad_weights(signals.gramian, key), state

    return Balancer(init, update, lambda state: {}, frozenset({"task_gradients"}))
