import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mft_jax.finetune.attach import init_trainable
from mft_jax.finetune.merge import TrainedWeights
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.adapter_export import save_adapter
from mft_jax.huggingface.adapter_import import read_adapter
from mft_jax.huggingface.base_weights import checked_spans, read_model
from mft_jax.huggingface.tensors import read
from mft_jax.models.params import param_infos
from mft_jax.sharding import MeshConfig, make_mesh, tree_shardings
from mft_jax.types import MftError

A = "base_model.model.model.layers.{}.self_attn.k_proj.lora_A.weight"
B = "base_model.model.model.layers.{}.self_attn.k_proj.lora_B.weight"


@pytest.fixture
def adapter(write_checkpoint):
    folder, _ = write_checkpoint("qwen2")
    family, config = read_model(folder)
    settings = FinetuneConfig(rank=4, alpha=6.0, targets=("attention/k", "mlp/*"))
    trainable = init_trainable(settings, {}, param_infos(config), seed=0)
    key = jax.random.key(1)
    trainable = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), trainable)
    return {
        "trained": TrainedWeights(settings, trainable),
        "family": family,
        "model_config": config,
        "base_model": str(folder),
    }


def test_the_folder_is_in_pefts_format(adapter, tmp_path):
    save_adapter(tmp_path / "adapter", **adapter)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj", "gate_proj", "k_proj", "up_proj"]
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (4, 6, "LORA")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * 3
    ab = adapter["trained"].trainable["layers/attention/k/kernel"]
    for layer in range(3):
        assert tensors[A.format(layer)].shape == (4, 64)
        assert tensors[B.format(layer)].shape == (32, 4)
        np.testing.assert_array_equal(tensors[A.format(layer)], ab["a"][layer].T)
        np.testing.assert_array_equal(tensors[B.format(layer)], ab["b"][layer].T)


def test_a_sharded_adapter_is_saved_whole(adapter, tmp_path):
    save_adapter(tmp_path / "one", **adapter)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    trainable = adapter["trained"].trainable
    infos = param_infos(adapter["model_config"])
    placed = jax.device_put(trainable, tree_shardings(mesh, infos, trainable))
    trained = TrainedWeights(adapter["trained"].tuning, placed)
    save_adapter(tmp_path / "eight", **{**adapter, "trained": trained})
    name = "adapter_model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "eight" / name).read_bytes()


def test_an_existing_adapter_is_replaced_only_with_overwrite(adapter, tmp_path):
    save_adapter(tmp_path / "adapter", **adapter)
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    nothing = jax.tree.map(jnp.zeros_like, adapter["trained"].trainable)
    zeros = {**adapter, "trained": TrainedWeights(adapter["trained"].tuning, nothing)}
    with pytest.raises(MftError, match="nothing is overwritten"):
        save_adapter(tmp_path / "adapter", **zeros)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before
    save_adapter(tmp_path / "adapter", **zeros, overwrite=True)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not any(tensor.any() for tensor in tensors.values())


def test_a_full_fine_tune_has_no_adapter(adapter, tmp_path):
    with pytest.raises(MftError, match="no adapter to save"):
        full = TrainedWeights(FinetuneConfig("full"), adapter["trained"].trainable)
        save_adapter(tmp_path / "x", **{**adapter, "trained": full})
    assert not (tmp_path / "x").exists()


def test_base_weights_in_the_file_must_be_the_bases(adapter, tmp_path):
    folder, kept = Path(adapter["base_model"]), tmp_path / "adapter"
    save_adapter(kept, **adapter)
    family, config = adapter["family"], adapter["model_config"]
    spans = checked_spans(folder, family, config)
    table = np.array(read(spans["model.embed_tokens.weight"]))

    def read_with(table):
        tensors = load_file(kept / "adapter_model.safetensors")
        tensors["base_model.model.model.embed_tokens.base_layer.weight"] = table
        save_file(tensors, kept / "adapter_model.safetensors")
        read_adapter(kept, adapter["trained"].tuning, family, config).check_base(spans)

    read_with(table.astype(np.float16))  # equal in the coarser dtype
    with pytest.raises(MftError, match="base weights that are not .*model.embed_tokens.weight"):
        read_with(table + 1)
