"""Tiny random checkpoints, written without torch, and by transformers."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mft_jax.huggingface.base_weights import hf_shape, read_model
from mft_jax.models.params import param_infos
from mft_jax.sharding import MeshConfig, make_mesh

HF_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}

Tensors = dict[str, np.ndarray]
WriteCheckpoint = Callable[..., tuple[Path, Tensors]]


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    """`write_checkpoint(family, dtype, edit=..., **config) -> (folder, tensors by HF name)`."""

    def write(
        family_name: str = "llama",
        dtype: Any = np.float32,
        edit: Callable[[Tensors], None] = lambda tensors: None,
        **overrides: Any,
    ) -> tuple[Path, Tensors]:
        folder = tmp_path / "base"
        folder.mkdir()
        hf_config = {**HF_CONFIG, "model_type": family_name, **overrides}
        (folder / "config.json").write_text(json.dumps(hf_config))
        (folder / "generation_config.json").write_text('{"do_sample": false}')
        family, config = read_model(folder)
        infos = param_infos(config)
        rng = np.random.default_rng(0)
        tensors = {
            name: rng.normal(0, 0.1, hf_shape(entry, infos)).astype(dtype)
            for entry in family.entries(config)
            for name, _ in entry.tensors()
        }
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder, tensors

    return write


@pytest.fixture
def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


@pytest.fixture(scope="module")
def base(
    transformers_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any]]:
    """`base(family) -> (folder, transformers' model)`; copy the model before changing it."""
    shelf = tmp_path_factory.mktemp("bases")

    @functools.cache
    def make(name: str) -> tuple[Path, Any]:
        model = transformers_model(name)
        model.save_pretrained(shelf / name)
        return shelf / name, model

    return make
