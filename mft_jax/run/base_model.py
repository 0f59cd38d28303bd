"""A base model: what it is, its frozen weights, and the adapters that training starts from."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mft_jax import sharding
from mft_jax.config import TrainConfig
from mft_jax.finetune.attach import (
    init_frozen,
    init_trainable,
    split_initial_adapters,
    store_weight,
    trainable_shapes,
)
from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.huggingface.adapter_export import not_for_peft
from mft_jax.huggingface.adapter_import import ImportedAdapter, read_adapter
from mft_jax.huggingface.adapter_targets import our_targets
from mft_jax.huggingface.base_weights import (
    checked_spans,
    load_params,
    random_params,
    read_model,
)
from mft_jax.huggingface.folders import hub_name, model_folder
from mft_jax.huggingface.tensors import Span
from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Family
from mft_jax.models.params import ParamInfo, ParamInfos, param_infos
from mft_jax.run.console import ReadProgress, Say
from mft_jax.types import MftError, Params


@dataclasses.dataclass(frozen=True)
class BaseModelInfo:
    """What a base model is and how it is tuned. No array: no weight has been read.

    folder        the folder of config.json, weights and tokenizer
    model_config  the decoder that config.json describes
    tuning        the config's, with what an imported adapter says in its place
    imported      the adapter that training starts from, if there is one
    name          what others can find the model by
    spans         the places of its tensors in files; empty for weights made at random
    """

    folder: Path
    family: Family
    model_config: ModelConfig
    tuning: FinetuneConfig
    imported: ImportedAdapter | None
    name: str
    spans: Mapping[str, Span]

    @property
    def infos(self) -> ParamInfos:
        return param_infos(self.model_config)

    @property
    def adapted(self) -> frozenset[str]:
        """Paths of the weights that get an adapter."""
        return frozenset(adapted_paths(self.tuning, self.infos))

    @property
    def trainable_shapes(self) -> Params:
        """Shapes of the trainable tree, in float32."""
        return trainable_shapes(self.tuning, self.infos)


class BaseWeights(NamedTuple):
    """Arrays of a base model on the mesh.

    frozen            {path: stored weight}; empty where all weights are trained
    initial_adapters  {path: {"a", "b"}} of adapters that started from their weight (PiSSA, LoftQ)
    """

    frozen: Params
    initial_adapters: Params


def prepare(config: TrainConfig, say: Say, tuning: FinetuneConfig | None = None) -> BaseModelInfo:
    """All that can be known of the base model without reading a weight. Raises `MftError`.

    `tuning`: that of a run that is resumed. Then an imported adapter is part of its
    checkpoints, and the folder that it came from is not read again.
    """
    folder = model_folder(config.model.path)
    family, model_config = read_model(folder)
    pretrained = config.model.weights == "pretrained"
    spans = checked_spans(folder, family, model_config) if pretrained else {}
    return describe(config, folder, family, model_config, spans, say, tuning)


def describe(
    config: TrainConfig,
    folder: Path,
    family: Family,
    model_config: ModelConfig,
    spans: Mapping[str, Span],
    say: Say,
    tuning: FinetuneConfig | None = None,
) -> BaseModelInfo:
    """`prepare` for a folder whose config.json and headers have been read."""
    resumed, imported = tuning is not None, None
    tuning = tuning or config.finetune
    if tuning.adapter and not resumed:
        imported = read_adapter(Path(tuning.adapter).expanduser(), tuning, family, model_config)
        if spans:
            imported.check_base(spans)
        tuning = imported.tuning
        say(
            f"training continues from {imported.folder}: rank {tuning.rank}, alpha "
            f"{tuning.alpha:g}, trained on {imported.base_model}"
        )
    elif tuning.method != "full" and not resumed:
        targets = our_targets(tuning.targets, family, model_config)
        tuning = dataclasses.replace(tuning, targets=targets)
    name = hub_name(config.model.path) or str(folder)
    base = BaseModelInfo(folder, family, model_config, tuning, imported, name, spans)
    check_model(config, model_config, base.adapted)
    if note := not_for_peft(base.adapted, family, model_config):
        say(note)
    if model_config.tied_head and any(base.infos[p].kind == "embedding" for p in base.adapted):
        say(
            "note: this model's embedding is its head as well, and the adapter changes only what "
            "is read in: it can be exported as an adapter, not merged"
        )
    return base


def load_stored(
    config: TrainConfig, base: BaseModelInfo, mesh: Mesh, progress: ReadProgress
) -> tuple[Params, Params]:
    """(weights as `store_weight` stores them, initial adapters), placed on the mesh."""
    store = functools.partial(_store, base.tuning, config.model.compute_dtype, base.adapted)
    place = functools.partial(sharding.leaf_shardings, mesh)
    if config.model.weights == "random":
        params = random_params(base.model_config, config.seed, store_weight=store, shardings=place)
    else:
        with progress(base.folder.name) as on_bytes:
            params = load_params(
                base.folder,
                base.family,
                base.model_config,
                store_weight=store,
                shardings=place,
                spans=base.spans,
                on_bytes=on_bytes,
            )
    return split_initial_adapters(params)


def load_base(
    config: TrainConfig, base: BaseModelInfo, mesh: Mesh, progress: ReadProgress
) -> tuple[BaseWeights, Params]:
    """(base weights, nothing): what is trained comes from a checkpoint. With method "full" this is
    the whole model, and nothing is read."""
    if base.tuning.method == "full":
        return BaseWeights({}, {}), {}
    return BaseWeights(*load_stored(config, base, mesh, progress)), {}


def load_untrained(
    config: TrainConfig, base: BaseModelInfo, mesh: Mesh, progress: ReadProgress
) -> tuple[BaseWeights, Params]:
    """(base weights, what is trained as it starts). The second is for `init_state`, which takes it
    over: keep no other reference, or it lives twice."""
    stored, initial = load_stored(config, base, mesh, progress)
    weights = BaseWeights(init_frozen(base.tuning, stored), initial)
    if base.imported is None:
        return weights, _attach(config, base, stored, initial, mesh)
    trainable = base.imported.load()
    return weights, jax.device_put(trainable, sharding.tree_shardings(mesh, base.infos, trainable))


def _attach(
    config: TrainConfig, base: BaseModelInfo, stored: Params, initial: Params, mesh: Mesh
) -> Params:
    tuning = base.tuning
    if tuning.method == "full":
        return stored

    def adapters(read: Params, initial: Params) -> Params:
        return init_trainable(tuning, read, base.infos, config.seed, initial)

    read = stored if tuning.dora else {}
    where = sharding.tree_shardings(mesh, base.infos, base.trainable_shapes)
    return jax.jit(adapters, out_shardings=where)(read, initial)


def check_model(config: TrainConfig, model_config: ModelConfig, adapted: frozenset[str]) -> None:
    """Raise `MftError` where the settings ask for what this model cannot give."""
    if model_config.bounded and config.data.row_length > model_config.max_positions:
        raise MftError(
            f"data.row_length={config.data.row_length}, but the model knows only "
            f"{model_config.max_positions} positions; lower it"
        )
    if config.objective.router_loss and model_config.experts is None:
        raise MftError(
            f"objective.router_loss={config.objective.router_loss:g}, but the model has no experts "
            "to use evenly; set it to 0"
        )
    infos = param_infos(model_config)
    if model_config.normalized_head and any(infos[path].kind == "head" for path in adapted):
        raise MftError(
            "finetune.targets: this model scales the rows of its head to length 1, so an adapter "
            "next to it could not be merged; leave 'head' out"
        )


def _store(
    tuning: FinetuneConfig, dtype: str, adapted: frozenset[str], info: ParamInfo, weight: jax.Array
) -> Any:
    return store_weight(tuning, info, weight, dtype, adapted)
