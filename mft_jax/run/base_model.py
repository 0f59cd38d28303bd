"""A base model from its folder to its devices, with what is to be trained beside it."""

import contextlib
import dataclasses
import functools
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from mft_jax import sharding
from mft_jax.config import TrainConfig
from mft_jax.finetune.attach import (
    init_frozen,
    init_trainable,
    split_initial_adapters,
    store_weight,
)
from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.huggingface.adapter_export import not_for_peft
from mft_jax.huggingface.adapter_import import ImportedAdapter, read_adapter
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
from mft_jax.types import MftError, Params


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model of which no weight has been read: what the settings make of it is known to fit.

    `finetune`: the config's, with what an imported adapter says in place of it.
    """

    folder: Path
    family: Family
    config: ModelConfig
    finetune: FinetuneConfig
    imported: ImportedAdapter | None
    name: str  # what others can find the model by
    spans: Mapping[str, Span]  # where its tensors lie; empty for weights made at random

    @property
    def adapted(self) -> frozenset[str]:
        return frozenset(adapted_paths(self.finetune, param_infos(self.config)))


@dataclasses.dataclass(frozen=True)
class Model(Prepared):
    """A base model on the mesh, split into what is frozen and what is trained. `start`: what the
    adapters were that started from their weights."""

    frozen: Params
    trainable: Params
    start: Params


def prepare(config: TrainConfig, console: Console, begun: FinetuneConfig | None = None) -> Prepared:
    """`begun`: the settings of a run that goes on. Then an imported adapter is part of its
    checkpoints, and the folder that it came from is not read again."""
    folder = model_folder(config.model.path)
    family, model = read_model(folder)
    pretrained = config.model.weights == "pretrained"
    spans = checked_spans(folder, family, model) if pretrained else {}
    tuning, imported = begun or config.finetune, None
    if tuning.adapter and not begun:
        imported = read_adapter(Path(tuning.adapter).expanduser(), tuning, family, model)
        if pretrained:
            imported.check_base(spans)
        tuning = imported.tuning
        _say(
            console,
            f"going on from {imported.folder}: rank {tuning.rank}, alpha {tuning.alpha:g}, "
            f"trained on {imported.base_model}",
        )
    name = hub_name(config.model.path) or str(folder)
    prepared = Prepared(folder, family, model, tuning, imported, name, spans)
    check_model(config, model, prepared.adapted)
    if note := not_for_peft(prepared.adapted, family, model):
        _say(console, note)
    infos = param_infos(model)
    if model.tied_head and any(infos[path].kind == "embedding" for path in prepared.adapted):
        _say(
            console,
            "note: this model's embedding is its head as well, and the adapter changes only what "
            "is read in: it can be exported as an adapter, not merged",
        )
    return prepared


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def load_model(config: TrainConfig, prepared: Prepared, mesh: Mesh, console: Console) -> Model:
    folder, family, model, tuning = (
        prepared.folder,
        prepared.family,
        prepared.config,
        prepared.finetune,
    )
    infos, dtype = param_infos(model), config.model.compute_dtype
    store = functools.partial(_store, tuning, dtype, prepared.adapted)
    place = functools.partial(sharding.leaf_shardings, mesh)
    if config.model.weights == "random":
        params = random_params(model, config.seed, store_weight=store, shardings=place)
    else:
        with loading(console, folder.name) as progress:
            params = load_params(
                folder,
                family,
                model,
                store_weight=store,
                shardings=place,
                spans=prepared.spans,
                on_bytes=progress,
            )
    params, start = split_initial_adapters(params)
    if prepared.imported is not None:
        trainable = prepared.imported.load()
        trainable = jax.device_put(trainable, sharding.tree_shardings(mesh, infos, trainable))
    else:
        trainable = _attach(config, tuning, infos, params, start, mesh)
    frozen = init_frozen(tuning, params)
    return Model(**vars(prepared), frozen=frozen, trainable=trainable, start=start)


def _attach(
    config: TrainConfig,
    tuning: FinetuneConfig,
    infos: ParamInfos,
    params: Params,
    start: Params,
    mesh: Mesh,
) -> Params:
    if tuning.method == "full":
        return params
    read = params if tuning.dora else {}

    def adapters(read: Params, start: Params) -> Params:
        return init_trainable(tuning, read, infos, config.seed, start)

    where = sharding.tree_shardings(mesh, infos, jax.eval_shape(adapters, read, start))
    return jax.jit(adapters, out_shardings=where)(read, start)


def check_model(config: TrainConfig, model: ModelConfig, adapted: frozenset[str]) -> None:
    """What the settings ask of this model and it cannot give."""
    if model.bounded and config.data.row_length > model.max_positions:
        raise MftError(
            f"data.row_length={config.data.row_length}, but the model knows {model.max_positions} "
            "positions alone; lower it"
        )
    if config.objective.router_loss and model.experts is None:
        raise MftError(
            f"objective.router_loss={config.objective.router_loss:g}, but the model has no experts "
            "to use evenly; set it to 0"
        )
    infos = param_infos(model)
    if model.normalized_head and any(infos[path].kind == "head" for path in adapted):
        raise MftError(
            "finetune.targets: this model scales the rows of its head to length 1, so an adapter "
            "beside it could not be merged; leave 'head' out"
        )


@contextlib.contextmanager
def loading(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over bytes, with their rate and the time left; then what it took."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    seen, began = [0], time.monotonic()
    with RichProgress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"loading {name}", total=None)

        def progress(done: int, total: int) -> None:
            seen[0] = total
            bar.update(task, completed=done, total=total)

        yield progress
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    console.print(
        f"read {decimal(seen[0])} of {name} in {time.monotonic() - began:.1f} s; the process has "
        f"used {decimal(peak)} of host memory at most",
        highlight=False,
        soft_wrap=True,
    )


def _store(
    tuning: FinetuneConfig, dtype: str, adapted: frozenset[str], info: ParamInfo, weight: jax.Array
) -> Any:
    return store_weight(tuning, info, weight, dtype, adapted)
