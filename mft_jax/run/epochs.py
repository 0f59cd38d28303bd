"""Steps against epochs: how often the steps of a run go through the data, and when they meet a
task."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from mft_jax.config import LoopConfig, TrainConfig
from mft_jax.data.mixture import Mixture
from mft_jax.data.rows import NumberedRows
from mft_jax.optim import warmup_steps


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The steps of a run over the rows of an epoch of its mixture.

    rows_with_task  rows of the first epoch that hold a sample of each task
    """

    steps: int
    rows_per_step: int
    rows_per_epoch: int
    mixture: Mixture
    rows_with_task: Int[np.ndarray, " T"]

    @property
    def epochs(self) -> float:
        return self.steps * self.rows_per_step / self.rows_per_epoch

    @property
    def task_epochs(self) -> Float[np.ndarray, " T"]:
        """How often a sample of each task comes."""
        return self.epochs * self.mixture.counts / self.mixture.sizes

    @property
    def presence(self) -> Float[np.ndarray, " T"]:
        """The share of steps that hold a sample of each task: a step's rows are drawn from those of
        an epoch, none twice."""
        total = self.rows_per_epoch
        absent = np.ones(len(self.rows_with_task))
        for drawn in range(min(self.rows_per_step, total)):
            left = np.clip(total - self.rows_with_task - drawn, 0, None)
            absent *= left / (total - drawn)
        return 1.0 - absent


def epoch_plan(loop_config: LoopConfig, rows: NumberedRows, mixture: Mixture) -> EpochPlan:
    """The plan of `loop.steps`, or of `loop.epochs` where they are set: then the steps follow."""
    assert rows.rows_with_task is not None  # packed rows know it
    steps, per_epoch = loop_config.steps, rows.rows_per_epoch
    if loop_config.epochs is not None:
        exact = loop_config.epochs * per_epoch / loop_config.rows_per_step
        steps = max(1, math.ceil(exact - 1e-9))  # 1e-9: what rounding adds to a whole number
    return EpochPlan(steps, loop_config.rows_per_step, per_epoch, mixture, rows.rows_with_task)


def plan_line(plan: EpochPlan, loop_config: LoopConfig) -> str:
    """How many steps the epochs are, or how many epochs the steps."""
    size = f"{plan.rows_per_step:,} row" + "s" * (plan.rows_per_step != 1)
    epoch = f"one epoch is {plan.rows_per_epoch:,} rows"
    if loop_config.epochs is None:
        return f"{plan.steps:,} steps of {size} are {plan.epochs:.3g} epochs ({epoch})"
    ignored = loop_config.steps not in (LoopConfig.steps, plan.steps)
    return (
        f"{loop_config.epochs:g} epochs (loop.epochs) are {plan.steps:,} steps of {size} ({epoch})"
        + f"; loop.steps={loop_config.steps} is not read" * ignored
    )


def settled(config: TrainConfig, plan: EpochPlan) -> TrainConfig:
    """The configuration with the numbers that follow from others: steps, and their warm-up."""
    loop = dataclasses.replace(config.loop, steps=plan.steps)
    warmup = warmup_steps(config.optim, plan.steps)
    optim = dataclasses.replace(config.optim, warmup_steps=warmup)
    return dataclasses.replace(config, loop=loop, optim=optim)
