"""Weights of losses whose logarithms are summed: the geometric mean, and scale-invariant losses.

geometric        (prod_i L_i)^(1/K)   (MultiNet++, Chennupati et al., CVPRW'19, Eq. 4)
scale_invariant  sum_i log L_i        (as the log transform in Lin et al., arXiv 2111.10603)

The gradient of the first is sum_i G / (K L_i) grad L_i with G the mean itself, of the second
sum_i (1 / L_i) grad L_i. They differ by one factor for all tasks, so once weights are brought to a
sum of 1 both give the same update; both are here under the names they are known by. Products and
sums run over present tasks; an absent task has weight 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.balancers.base import Balancer, Signals, State
from mft_jax.types import TaskSums

TINY = 1e-12  # a loss of exactly 0 would have an infinite weight


def scale_invariant() -> Balancer:
    """w_i = 1 / L_i."""
    return _memoryless(_inverse)


def geometric() -> Balancer:
    """w_i = G / (K L_i)."""

    def weights(losses: TaskSums) -> Float[Array, " T"]:
        present, inverse = losses.present(), _inverse(losses)
        count = jnp.maximum(present.sum(), 1)
        mean = jnp.exp(
            -jnp.where(present, jnp.log(jnp.where(present, inverse, 1.0)), 0.0).sum() / count
        )
        return mean / count * inverse

    return _memoryless(weights)


def _inverse(losses: TaskSums) -> Float[Array, " T"]:
    present = losses.present()
    loss = jnp.where(present, losses.mean(), 1.0)
    return jnp.where(present, 1.0 / jnp.maximum(loss, TINY), 0.0)


def _memoryless(weights) -> Balancer:
    def init(num_tasks: int, valid_losses: TaskSums) -> State:
        return ()

    def update(state: State, signals: Signals) -> tuple[Float[Array, " T"], State]:
        assert signals.train_losses is not None
        return weights(signals.train_losses), state

    return Balancer(init, update, lambda state: {}, frozenset({"train_losses"}))
