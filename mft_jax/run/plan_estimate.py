"""Estimates of a search: how long a step takes, and the memory that it needs, from shapes alone."""

import dataclasses
from collections.abc import Iterable
from typing import cast

from mft_jax.config import TrainConfig
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.models.remat import Remat
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.plan import absent_mesh, work_of
from mft_jax.run.plan_chips import Chip
from mft_jax.run.plan_step import FROZEN, bytes_on_a_device, frozen_shapes, placed
from mft_jax.run.plan_times import PASSES, least_traffic
from mft_jax.run.remat_choice import kept_values
from mft_jax.types import MftError, Params

MOMENTS = 3  # what is trained, and two moments of it
Shapes = tuple[Params, Params] | None  # of the frozen and of the trained weights


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A config, and its estimates: `seconds` of a step, the least `memory` of a device, and what
    it is `likely` to need, in bytes."""

    config: TrainConfig
    base: BaseModelInfo
    seconds: float
    memory: float
    likely: float
    frozen: int = 0  # bytes of the base on a device

    @property
    def tokens_per_second(self) -> float:
        return self.config.loop.rows_per_step * self.config.data.row_length / self.seconds

    @property
    def rows_in_a_device(self) -> int:
        loop, mesh = self.config.loop, self.config.mesh
        return loop.rows_per_step // (loop.micro_batches * mesh.data * mesh.fsdp)


def candidates(
    found: Iterable[TrainConfig],
    base: BaseModelInfo,
    chip: Chip,
    num_devices: int,
    tokens_per_sample: int,
) -> list[Candidate]:
    """The configs with their estimates, the fastest first; of equally fast ones that which needs
    the least memory."""
    shapes: dict[object, tuple[BaseModelInfo, Shapes]] = {}
    stored: dict[tuple[object, ...], dict[str, int]] = {}
    every = []
    for config in found:
        form = (config.finetune.method, config.finetune.quantization)
        if form not in shapes:
            own = dataclasses.replace(base, tuning=_as_imported(config, base))
            shapes[form] = (own, _shapes(config, own))
        own, trees = shapes[form]
        key = (form, config.mesh)
        if key not in stored:
            stored[key] = _stored_bytes(config, own, trees)
        if held := stored[key]:
            length = min(tokens_per_sample, config.data.row_length)
            seconds = _seconds(config, own, chip, num_devices, held, length)
            least = _least_memory(config, own, held)
            likely = least + _workspace(config, own, held)
            every.append(Candidate(config, own, seconds, least, likely, held[FROZEN]))
    return sorted(every, key=lambda one: (-one.tokens_per_second, one.memory))


def _as_imported(config: TrainConfig, base: BaseModelInfo) -> FinetuneConfig:
    """The config's tuning with what the checkpoint's names and an adapter to continue from say."""
    known = base.tuning
    told = {"targets": known.targets, "rank": known.rank, "alpha": known.alpha, "dora": known.dora}
    return dataclasses.replace(config.finetune, rslora=known.rslora, **told)


def _shapes(config: TrainConfig, base: BaseModelInfo) -> Shapes:
    try:
        return frozen_shapes(config, base), base.trainable_shapes
    except MftError:  # this form cannot hold a weight
        return None


def _stored_bytes(config: TrainConfig, base: BaseModelInfo, trees: Shapes) -> dict[str, int]:
    """Bytes on a device; empty where this form or this mesh cannot hold a weight."""
    if trees is None:
        return {}
    mesh = absent_mesh(config.mesh)
    try:
        frozen, trained = (bytes_on_a_device(placed(base, mesh, tree)) for tree in trees)
    except MftError:  # this mesh does not divide a weight
        return {}
    return {FROZEN: frozen, "trained": trained}


def _seconds(
    config: TrainConfig,
    base: BaseModelInfo,
    chip: Chip,
    num_devices: int,
    stored: dict[str, int],
    tokens_per_sample: int,
) -> float:
    """Products at the peak, traffic of weights and activations, shards over all links: one after
    the other, so that what has less of one of them comes first."""
    compute = work_of(config, base, tokens_per_sample).total / num_devices / (chip.tflops * 1e12)
    memory = least_traffic(config, base, stored, num_devices) / (chip.memory_gbs * 1e9)
    mesh, loop = config.mesh, config.loop
    tokens = loop.rows_per_step * config.data.row_length / (num_devices // mesh.tensor)
    layers, width = base.model_config.num_layers, base.model_config.width
    gathered = PASSES * loop.micro_batches * stored[FROZEN] * (mesh.fsdp - 1)
    # Two sums of activations in a layer, forward and backward, each out and back.
    summed = 2 * PASSES * 2 * layers * tokens * width * 2 * (mesh.tensor - 1) / mesh.tensor
    links = chip.link_gbs * chip.links * 1e9
    return compute + memory + ((gathered + summed) / links if links else 0.0)


def _least_memory(config: TrainConfig, base: BaseModelInfo, stored: dict[str, int]) -> float:
    """Weights, moments, one gradient, and what layers keep for their backward pass."""
    loop, mesh = config.loop, config.mesh
    rows = loop.rows_per_step // (loop.micro_batches * mesh.data * mesh.fsdp)
    width = 2 if config.model.compute_dtype == "bfloat16" else 4
    tokens = rows * config.data.row_length
    kept = kept_values(base.model_config, cast(Remat, config.model.remat), mesh.tensor)
    return stored[FROZEN] + (MOMENTS + 1) * stored["trained"] + tokens * width * kept


def _workspace(config: TrainConfig, base: BaseModelInfo, stored: dict[str, int]) -> float:
    """One layer's numbers in its backward pass, each with its cotangent, and the weights of two
    layers whole."""
    loop, mesh, model_config = config.loop, config.mesh, base.model_config
    rows = loop.rows_per_step // (loop.micro_batches * mesh.data * mesh.fsdp)
    layer = kept_values(model_config, "dots", mesh.tensor) / model_config.num_layers
    width = 2 if config.model.compute_dtype == "bfloat16" else 4
    gathered = stored[FROZEN] * mesh.fsdp / model_config.num_layers
    return 2 * (rows * config.data.row_length * width * layer + gathered)
