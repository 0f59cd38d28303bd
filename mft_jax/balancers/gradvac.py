"""GradVac, gradient vaccine (Wang et al., ICLR'21, arXiv 2010.05874, Algorithm 1 and Eq. 4-6).

PCGrad with a target similarity in place of 0: phi_ij is a moving average of the cosine between g_i
and g_j. Where the cosine c is below it, g_j is added to g_i so that the cosine becomes phi_ij, by
the law of sines with the factor
|g_i| (phi sqrt(1 - c^2) - c sqrt(1 - phi^2)) / (|g_j| sqrt(1 - phi^2)),  and then
phi_ij <- (1 - beta) phi_ij + beta c. With phi = 0, as at the start, it is PCGrad. The order of the
tasks j is random, and follows from the step number only. Averages of absent tasks stay as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, RunFacts, Signals, no_logs
from mft_jax.balancers.gramian import present_tasks
from mft_jax.types import MftError, TaskSums

LARGEST = 0.999  # of |phi|: at 1 the law of sines divides by zero


@dataclasses.dataclass(frozen=True)
class GradvacConfig:
    """Settings of GradVac.

    beta  how fast the target similarities follow those measured; 0.01 in the paper
    """

    beta: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise MftError(f"balancer.gradvac.beta={self.beta} is out of range; expected 0 to 1")


def gradvac_weights(
    gramian: Float[Array, "T T"], phi: Float[Array, "T T"], key: Array, beta: float
) -> tuple[Float[Array, " T"], Float[Array, "T T"]]:
    """`(weights, phi after this step)`."""
    size = gramian.shape[0]
    present = present_tasks(gramian)
    norms = jnp.sqrt(jnp.where(present, jnp.diagonal(gramian), 1.0))

    def vaccinate(i: Array, averages: Float[Array, " T"], key: Array):
        order = jax.random.permutation(key, size)

        def visit(position: Array, carry):
            row, averages = carry
            j = order[position]
            both = present[i] & present[j] & (j != i)
            norm = jnp.sqrt(jnp.maximum(jnp.dot(row, gramian @ row), 0.0))
            dot = jnp.dot(row, gramian[:, j])
            scale = norm * norms[j]
            cosine = jnp.clip(safe_divide(dot, scale), -1, 1)
            target = jnp.clip(averages[j], -LARGEST, LARGEST)
            sine = jnp.sqrt(1.0 - target**2)
            amount = norm * (target * jnp.sqrt(1.0 - cosine**2) - cosine * sine) / (norms[j] * sine)
            row = row.at[j].add(jnp.where(both & (cosine < target), amount, 0.0))
            averages = averages.at[j].add(jnp.where(both, beta * (cosine - averages[j]), 0.0))
            return row, averages

        start = (jnp.eye(size, dtype=gramian.dtype)[i], averages)
        return jax.lax.fori_loop(0, size, visit, start)

    rows, phi = jax.vmap(vaccinate)(jnp.arange(size), phi, jax.random.split(key, size))
    return jnp.where(present, jnp.where(present[:, None], rows, 0.0).sum(axis=0), 0.0), phi


def gradvac(settings: GradvacConfig, run: RunFacts) -> Balancer:
    """Weights of gradients that are as similar as they are on average.

    >>> import jax.numpy as jnp
    >>> from mft_jax.balancers.base import RunFacts, Signals
    >>> from mft_jax.types import TaskSums, TaskTable
    >>> run = RunFacts(TaskTable(("code", "tests")), total_steps=100, valid_micro_batches=4)
    >>> balancer = gradvac(GradvacConfig(beta=0.1), run)
    >>> state = balancer.init(2, TaskSums(jnp.ones(2), jnp.ones(2)))
    >>> gramian = jnp.array([[18.0, -22.0], [-22.0, 38.0]])  # two gradients that conflict
    >>> weight, state = balancer.update(state, Signals(jnp.int32(0), gramian=gramian))
    >>> [round(w, 4) for w in weight.tolist()]
    [2.2222, 1.5789]
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> Float[Array, "T T"]:
        return jnp.zeros((num_tasks, num_tasks))

    def update(
        state: Float[Array, "T T"], signals: Signals
    ) -> tuple[Float[Array, " T"], Float[Array, "T T"]]:
        assert signals.gramian is not None
        key = jax.random.fold_in(jax.random.key(0), signals.step)
        return gradvac_weights(signals.gramian, state, key, settings.beta)

    return Balancer(init, update, no_logs, frozenset({"task_gradients"}))
