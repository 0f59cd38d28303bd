"""Adapters in PEFT's format: what `peft.PeftModel.from_pretrained` and vLLM load.

    ours  layers/attention/q/kernel  a [N, in, R]                b [N, R, out]
    PEFT  ...layers.3.self_attn.q_proj.lora_A.weight [R, in]     ...lora_B.weight [out, R]

Both scale the update by alpha / rank.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mft_jax.finetune import FinetuneConfig
from mft_jax.huggingface.checkpoint import hf_names
from mft_jax.huggingface.output import new_folder
from mft_jax.huggingface.tensors import TensorType, write_tensors
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import Params
from mft_jax.models.families.base import Family
from mft_jax.types import MftError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def save_adapter(
    folder: Path,
    *,
    trainable: Params,
    finetune_config: FinetuneConfig,
    family: Family,
    config: ModelConfig,
    base_model: str,
    overwrite: bool = False,
) -> None:
    """Write the adapter in float32. `base_model` is where PEFT looks for the base weights.

    With several processes every one must call it; the first writes. `overwrite` replaces an
    existing folder as a whole (for a folder that belongs to the run).
    """
    if finetune_config.method == "full":
        raise MftError(
            "a full fine-tune has no adapter to save; export it as a whole model (format 'merged')"
        )
    tensors = peft_tensors(trainable, family, config)
    if jax.process_index():
        return
    with new_folder(folder, overwrite=overwrite) as partial:
        types = {name: TensorType("F32", tensor.shape) for name, tensor in tensors.items()}
        write_tensors(partial / WEIGHTS_FILE, types, tensors.items())
        settings = peft_config(finetune_config, list(tensors), base_model)
        (partial / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def peft_tensors(trainable: Params, family: Family, config: ModelConfig) -> dict[str, np.ndarray]:
    """The adapter's tensors by PEFT name, on the host."""
    tensors = {}
    for entry in family.entries(config):
        if entry.path not in trainable:
            continue
        a_NIR = _to_host(trainable[entry.path]["a"])
        b_NRO = _to_host(trainable[entry.path]["b"])
        for layer, name in enumerate(hf_names(entry, config)):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = a_NIR[layer].T
            tensors[f"{module}.lora_B.weight"] = b_NRO[layer].T
    return tensors


def peft_config(
    finetune_config: FinetuneConfig, names: list[str], base_model: str
) -> dict[str, Any]:
    """PEFT's adapter_config.json. A target module is the last part of a module's name."""
    alpha = finetune_config.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": finetune_config.rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.split(".lora_")[0].split(".")[-1] for name in names}),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _to_host(array: jax.Array) -> np.ndarray:
    """The whole array in float32, also where its shards lie on devices of other processes."""
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array, np.float32)
