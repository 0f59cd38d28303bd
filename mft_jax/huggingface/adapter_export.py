"""Writing of adapters in PEFT's format, which `peft.PeftModel.from_pretrained` and vLLM load.

    ours  layers/attention/q/kernel  a [N, in, R]                b [N, R, out]
    PEFT  ...layers.3.self_attn.q_proj.lora_A.weight [R, in]     ...lora_B.weight [out, R]

Both scale the update by alpha / rank. An adapter trained with rslora is written with the alpha that
gives the same with plain scaling, since not every reader knows the flag (peft itself loses it where
it merges experts' matrices). An adapter that was initialised from its weight (PiSSA, LoftQ) is
written as its change since then, with twice the rank, so that it fits the original weights:

    a b - a0 b0 = [a, a0] [b, -b0]
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mft_jax.finetune.merge import TrainedWeights
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.companions import Companions
from mft_jax.huggingface.output import new_folder
from mft_jax.huggingface.tensors import TensorType, write_tensors
from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Entry, Family
from mft_jax.models.params import ParamInfos, ParamKind, param_infos
from mft_jax.types import MftError, Params

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."
RENAMED = {"embed_out": "lm_head"}
LOADED_EXPERTS = (set(), {"mlp/down"}, {"mlp/gate", "mlp/up", "mlp/down"})


def save_adapter(
    folder: Path,
    *,
    trained: TrainedWeights,
    family: Family,
    model_config: ModelConfig,
    base_model: str,
    companions: Companions | None = None,
    overwrite: bool = False,
) -> None:
    """Write the adapter in float32. `base_model` is where PEFT finds the base weights.

    All processes must call it; the first one writes. `overwrite` replaces an existing folder as a
    whole (for a folder that belongs to the run).
    """
    tuning, trainable, start = trained.tuning, trained.trainable, trained.start
    if tuning.method == "full":
        raise MftError(
            "a full fine-tune has no adapter to save; export it as a whole model (format 'merged')"
        )
    changes = {path: _since(adapter, start, path) for path, adapter in trainable.items()}
    entries, infos = family.entries(model_config), param_infos(model_config)
    tensors = dict(peft_tensors(changes, entries, infos))
    if jax.process_index():
        return
    with new_folder(folder, overwrite=overwrite) as partial:
        types = {name: TensorType("F32", tensor.shape) for name, tensor in tensors.items()}
        write_tensors(partial / WEIGHTS_FILE, types, tensors.items())
        rank_factor = 2 if start else 1
        settings = peft_config(tuning, rank_factor, target_modules(trainable, entries, infos))
        settings["base_model_name_or_path"] = base_model
        (partial / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        if companions is not None:
            companions.write(partial)


def not_for_peft(adapted: Collection[str], family: Family, model_config: ModelConfig) -> str:
    """A note on adapters that peft would silently ignore, with a remedy; empty if it loads all."""
    infos = param_infos(model_config)
    lost = {path for path in adapted if re.fullmatch(family.lost_in_peft, path)}
    experts = {path for path in adapted if infos[path].kind == "expert_matrix"}
    # peft keeps gate and up of the experts in one tensor, and loads it only together with down.
    if {infos[path].layer for path in experts} not in LOADED_EXPERTS:
        lost |= experts
    if not lost:
        return ""
    names = ", ".join(sorted({infos[path].layer for path in lost}))
    return (
        f"note: peft does not load the adapters of {names} of {family.name}; use a merged export "
        "for readers that use peft, or train with finetune.targets without them"
    )


def _since(adapter: Params, start: Params, path: str) -> dict[str, np.ndarray]:
    """The change of an adapter since its start, on the host. If any adapter has a start, all get
    twice the rank, since the folder names one rank."""
    parts = {name: _to_host(part) for name, part in adapter.items()}
    if not start:
        return parts
    nothing = {"a": np.zeros_like(parts["a"]), "b": np.zeros_like(parts["b"])}
    a0, b0 = (_to_host(start.get(path, nothing)[name]) for name in ("a", "b"))
    return {
        **parts,
        "a": np.concatenate([parts["a"], a0], axis=-1),
        "b": np.concatenate([parts["b"], -b0], axis=-2),
    }


def module_name(name: str) -> str:
    """The module of a tensor, by its name in a model of transformers 5."""
    module = name.removesuffix(".weight")
    return RENAMED.get(module, module)


def part_names(kind: ParamKind) -> dict[str, str]:
    """The ending in PEFT's names of each part of an adapter of such a parameter."""
    if kind == "embedding":
        return {"a": "lora_embedding_A", "b": "lora_embedding_B"}
    return {
        "a": "lora_A.weight",
        "b": "lora_B.weight",
        "magnitude": "lora_magnitude_vector",
    }


def peft_tensors(
    adapters: Mapping[str, Mapping[str, np.ndarray]],
    entries: tuple[Entry, ...],
    infos: ParamInfos,
) -> Iterator[tuple[str, np.ndarray]]:
    """The adapters' tensors by their PEFT names, on the host."""
    for entry in entries:
        for name, index in entry.tensors() if entry.path in adapters else ():
            module = PREFIX + module_name(name)
            for part, ending in part_names(infos[entry.path].kind).items():
                if part in adapters[entry.path]:
                    yield f"{module}.{ending}", adapters[entry.path][part][index].T


def target_modules(trainable: Params, entries: tuple[Entry, ...], infos: ParamInfos) -> list[str]:
    """The ends of the adapted modules' names, as short as they match no other module."""
    names = {True: set[str](), False: set[str]()}
    for entry in entries:
        if not infos[entry.path].is_vector:
            modules = {module_name(name) for name, _ in entry.tensors()}
            names[entry.path in trainable] |= modules
    found = set()
    for name in names[True]:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        clash = [f".{other}" for other in names[False]]
        found.add(next(e for e in ends if not any(o.endswith(f".{e}") for o in clash)))
    return sorted(found)


def peft_config(tuning: FinetuneConfig, rank_factor: int, targets: list[str]) -> dict[str, Any]:
    """The contents of adapter_config.json; ranks are `rank_factor` times those in training."""
    root = tuning.rank**0.5 if tuning.rslora else 1
    alpha = tuning.alpha * root * rank_factor
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": tuning.rank * rank_factor,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": tuning.dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": tuning.dora,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """The whole array in float32, also where other processes hold some of its shards."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array, np.float32)
