"""The mixture of the tasks: how many samples of each an epoch holds, and which ones.

    proportional  every sample once: p_i = n_i / N, the choice of the MFTCoder paper
    temperature   p_i proportional to n_i ** (1 / temperature)
    rates         p_i proportional to the rates given

An epoch always has N samples, the size of all tasks together. A task's samples come in an endless
sequence of random orders, each of all its samples, from which every epoch takes the next p_i N: a
task drawn often repeats; one drawn rarely continues in the next epoch where the last one stopped.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mft_jax.data.settings import DataConfig
from mft_jax.data.tokenization import TokenizedTask
from mft_jax.types import MftError, TaskTable


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The samples of each task: `counts` [T] of them in an epoch, of the `sizes` [T] that exist."""

    sizes: Int[np.ndarray, " T"]
    counts: Int[np.ndarray, " T"]

    @property
    def is_proportional(self) -> bool:
        return bool(np.array_equal(self.sizes, self.counts))

    def epoch_samples(self, task_id: int, epoch: int, seed: int) -> Int[np.ndarray, " c"]:
        """The numbers of a task's samples in an epoch, which depend only on (seed, task, epoch)."""
        size, count = int(self.sizes[task_id]), int(self.counts[task_id])
        first = epoch * count
        rounds = range(first // size, -(-(first + count) // size))
        orders = [np.random.default_rng([seed, task_id, r]).permutation(size) for r in rounds]
        skipped = first - rounds.start * size
        return np.concatenate([*orders, np.zeros(0, np.int64)])[skipped : skipped + count]


def make_mixture(sizes: Sequence[int], tasks: TaskTable, data_config: DataConfig) -> Mixture:
    """The mixture of tasks with `sizes` samples each, under `data_config.sampling`.

    Raises `MftError` where a task would be left without a sample.
    """
    n = np.asarray(sizes, np.int64)
    sampling = data_config.sampling
    if sampling == "proportional":
        return Mixture(n, n)
    if sampling == "temperature":
        shares = n.astype(np.float64) ** (1.0 / data_config.temperature)
    else:
        shares = np.asarray([float(data_config.rates[name]) for name in tasks.names])
    counts = largest_remainders(shares / shares.sum(), int(n.sum()))
    for name, count, share in zip(tasks.names, counts, shares, strict=True):
        if not count:
            raise MftError(
                f"data.sampling={sampling!r} leaves {name!r} without a sample in an epoch: its "
                f"share is {share / shares.sum():.2g}; raise its rate or data.temperature, "
                "or remove the task"
            )
    return Mixture(n, counts)


def largest_remainders(shares: Float[np.ndarray, " T"], total: int) -> Int[np.ndarray, " T"]:
    """Integers of sum `total`, each within 1 of `shares * total`."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def expected_counts(
    tasks: Sequence[TokenizedTask], mixture: Mixture, rows_per_epoch: int, rows_per_batch: int
) -> dict[str, Float[np.ndarray, " T"]]:
    """Valid tokens ("token") and samples with one ("sample") of each task in an average batch.

    A sample's first token is never a target, so its weight does not count. Under a mixture all
    epochs are counted with the rows of the first.
    """
    per_epoch = {"token": np.zeros(len(tasks)), "sample": np.zeros(len(tasks))}
    for i, task in enumerate(tasks):
        weights = np.array(task.loss_weights, np.float64)
        weights[task.offsets[:-1]] = 0.0
        of_sample = np.add.reduceat(weights, task.offsets[:-1])
        repeats = mixture.counts[i] / mixture.sizes[i]
        per_epoch["token"][i] = of_sample.sum() * repeats
        per_epoch["sample"][i] = np.count_nonzero(of_sample) * repeats
    return {unit: total * rows_per_batch / rows_per_epoch for unit, total in per_epoch.items()}
