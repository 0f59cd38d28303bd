"""A trained run's model, read back from its folder, for all that comes after training."""

import contextlib
import dataclasses
from pathlib import Path

import jax
from jax.sharding import Mesh

from mft_jax import sharding
from mft_jax.config import TrainConfig
from mft_jax.finetune.combine import combine
from mft_jax.finetune.merge import TrainedWeights
from mft_jax.run.base_model import BaseModelInfo, BaseWeights, load_base, prepare
from mft_jax.run.checkpoints import Checkpoints, check_names, placed_shapes
from mft_jax.run.console import ReadProgress, Say, no_progress, quiet
from mft_jax.run.folder import check_base, read_config, saved_tuning
from mft_jax.types import Params


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model as a checkpoint of a run holds it, on a mesh of the caller's choice.

    config     the run's settings
    base       what the model is and how it was tuned
    weights    the frozen weights, and the adapters that started from them as they were then
    trainable  what was trained, in float32
    step       of the checkpoint
    """

    config: TrainConfig
    base: BaseModelInfo
    weights: BaseWeights
    trainable: Params
    step: int

    @property
    def trained(self) -> TrainedWeights:
        """What an export writes."""
        initial, frozen = self.weights.initial_adapters, self.weights.frozen
        return TrainedWeights(self.base.tuning, self.trainable, initial, frozen)

    def params(self, dtype: jax.typing.DTypeLike) -> Params:
        """The parameters to compute with: frozen and trained weights together."""
        base, frozen = self.base, self.weights.frozen
        return combine(base.tuning, base.infos, self.trainable, frozen, dtype)


def restore(
    workdir: Path,
    which: str | int,
    mesh: Mesh,
    say: Say = quiet,
    progress: ReadProgress = no_progress,
) -> TrainedModel:
    """The run's model at a checkpoint: "best" (lowest validation ratio), "last", or a step.

    `mesh` need not be the one of training. Raises `MftError` where `workdir` holds no run, the run
    no such checkpoint, or the base model's folder another model than the run was trained on.
    """
    config = read_config(workdir)
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        step = checkpoints.chosen_step(str(which))
        checkpoints.prove(step, ("trainable",))
        base = prepare(config, say, saved_tuning(workdir))
        check_base(workdir, base)
        check_names(checkpoints.folder / str(step), base.trainable_shapes)
        weights, _ = load_base(config, base, mesh, progress)
        shapes = base.trainable_shapes
        like = placed_shapes(shapes, sharding.tree_shardings(mesh, base.infos, shapes))
        trainable = checkpoints.restore_trainable(step, like)
    return TrainedModel(config, base, weights, trainable, step)
