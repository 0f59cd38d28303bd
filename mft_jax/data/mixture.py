"""How many samples of each task an epoch holds, and which ones.

    proportional  every sample once: p_i = n_i / N, the choice of the MFTCoder paper
    temperature   p_i proportional to n_i ** (1 / temperature)
    rates         p_i proportional to the rates given

An epoch always has N samples, the size of all tasks together. A task's samples come in an endless
sequence of random orders, each of all its samples, from which every epoch takes the next p_i N: a
task drawn often repeats, one drawn rarely goes on in the next epoch where it stopped.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mft_jax.types import MftError, TaskTable

Sampling = Literal["proportional", "temperature", "rates"]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """`counts` [T]: samples of each task in an epoch; `sizes` [T]: samples that there are."""

    sizes: Int[np.ndarray, " T"]
    counts: Int[np.ndarray, " T"]

    @property
    def is_proportional(self) -> bool:
        return bool(np.array_equal(self.sizes, self.counts))

    def places(self, task_id: int, epoch: int, seed: int) -> Int[np.ndarray, " c"]:
        """The samples of a task in an epoch, from (seed, task, epoch) alone."""
        size, count = int(self.sizes[task_id]), int(self.counts[task_id])
        first = epoch * count
        rounds = range(first // size, -(-(first + count) // size))
        orders = [np.random.default_rng([seed, task_id, r]).permutation(size) for r in rounds]
        skipped = first - rounds.start * size
        return np.concatenate([*orders, np.zeros(0, np.int64)])[skipped : skipped + count]


def make_mixture(
    sizes: Sequence[int],
    tasks: TaskTable,
    sampling: Sampling,
    temperature: float,
    rates: dict[str, float],
) -> Mixture:
    n = np.asarray(sizes, np.int64)
    if sampling == "proportional":
        return Mixture(n, n)
    if sampling == "temperature":
        shares = n.astype(np.float64) ** (1.0 / temperature)
    else:
        shares = np.asarray(tasks.values("data.rates", rates))
    counts = largest_remainders(shares / shares.sum(), int(n.sum()))
    for name, count, share in zip(tasks.names, counts, shares, strict=True):
        if not count:
            raise MftError(
                f"data.sampling={sampling!r} leaves {name!r} without a sample in an epoch: its "
                f"share is {share / shares.sum():.2g}; raise its rate, or remove the task"
            )
    return Mixture(n, counts)


def largest_remainders(shares: Float[np.ndarray, " T"], total: int) -> Int[np.ndarray, " T"]:
    """Integers of sum `total`, each within 1 of `shares * total`."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
