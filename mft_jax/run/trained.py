"""A run that has ended: what is left of it in memory. Nothing in it is open."""

import dataclasses
from pathlib import Path

import jax

from mft_jax.config import TrainConfig
from mft_jax.run.base_model import BaseModelInfo, BaseWeights
from mft_jax.run.checkpoints import EvalProgress, placed_shapes
from mft_jax.run.restore import TrainedModel
from mft_jax.train_state import TrainState
from mft_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run at its last step.

    checkpoints  the folder that holds a checkpoint per step
    state        after `step` steps
    reason       why the loop ended: "finished", "early_stop" or "interrupted"
    """

    config: TrainConfig
    workdir: Path
    checkpoints: Path
    base: BaseModelInfo
    weights: BaseWeights
    state: TrainState
    progress: EvalProgress
    step: int
    reason: str

    @property
    def trainable_shapes(self) -> Params:
        """Shapes, dtypes and shardings of what is trained."""
        trainable = self.state.trainable
        return placed_shapes(trainable, jax.tree.map(lambda leaf: leaf.sharding, trainable))

    def model(self, trainable: Params, step: int) -> TrainedModel:
        """The model with the trained parameters of `step`."""
        return TrainedModel(self.config, self.base, self.weights, trainable, step)
