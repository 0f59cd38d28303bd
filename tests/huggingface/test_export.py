import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from mft_jax.finetune.attach import init_frozen, init_trainable, store_weight
from mft_jax.finetune.merge import TrainedWeights
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.base_weights import load_params, random_params, read_model
from mft_jax.huggingface.export import save_merged
from mft_jax.huggingface.logit_difference import logit_difference
from mft_jax.models.decoder import init_params
from mft_jax.models.params import param_infos
from mft_jax.sharding import leaf_shardings
from mft_jax.testing import add_noise
from mft_jax.types import Batch, MftError

pytestmark = pytest.mark.usefixtures("shared_programs")
V = "model.layers.{}.self_attn.v_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def loaded(folder, mesh, settings, dtype=jnp.float32):
    """The arguments of `save_merged`, with an adapter whose B is not zero."""
    family, config = read_model(folder)
    store = functools.partial(store_weight, settings, dtype=dtype)
    placed = functools.partial(leaf_shardings, mesh)
    params = load_params(folder, family, config, store_weight=store, shardings=placed)
    trainable = init_trainable(settings, params, param_infos(config), seed=0)
    if settings.method != "full":
        trainable = add_noise(trainable, 0.1)
    return {
        "base_folder": folder,
        "trained": TrainedWeights(settings, trainable, {}, init_frozen(settings, params)),
        "family": family,
        "model_config": config,
    }


def delta(model, layer):
    ab = jax.tree.map(lambda x: np.asarray(x[layer]), model["trained"].trainable)
    ab = ab["layers/attention/v/kernel"]
    return model["trained"].tuning.scale * (ab["a"] @ ab["b"]).T


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family, tied", [("llama", False), ("llama", True), ("qwen2", False)])
def test_export_of_an_import_is_value_equal(
    write_checkpoint, one_device, tmp_path, family, tied, dtype
):
    folder, tensors = write_checkpoint(family, dtype, tie_word_embeddings=tied)
    model = loaded(folder, one_device, FinetuneConfig("full"))
    # config.json names no dtype, so it is that of the base weights.
    save_merged(tmp_path / "out", **model, dequantized=False)
    hf_config = json.loads((folder / "config.json").read_text())
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert exported[name].dtype == dtype
        np.testing.assert_array_equal(exported[name], tensor)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        **hf_config,
        "architectures": [model["family"].architecture],
    }
    assert (tmp_path / "out" / "generation_config.json").is_file()
    assert not (tmp_path / ".out.partial").exists()


def test_shards_carry_an_index(write_checkpoint, one_device, tmp_path):
    folder, tensors = write_checkpoint()
    model = loaded(folder, one_device, FinetuneConfig("full"))
    save_merged(tmp_path / "out", **model, dequantized=False, max_shard_bytes=100_000)
    files = sorted((tmp_path / "out").glob("model-*-of-*.safetensors"))
    assert len(files) > 2 and all(file.stat().st_size < 110_000 for file in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
    again = loaded(tmp_path / "out", one_device, FinetuneConfig("full"))["trained"].trainable
    jax.tree.map(np.testing.assert_array_equal, again, model["trained"].trainable)


def test_a_merge_onto_the_original_adds_the_delta(write_checkpoint, one_device, tmp_path):
    folder, tensors = write_checkpoint()
    settings = FinetuneConfig("qlora", rank=4, alpha=8.0, targets=("attention/v",))
    model = loaded(folder, one_device, settings, jnp.bfloat16)
    save_merged(tmp_path / "out", **model, dequantized=False)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    for layer in range(3):
        name = V.format(layer)
        expected = tensors.pop(name) + delta(model, layer)
        np.testing.assert_allclose(exported.pop(name), expected, rtol=0, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, exported, tensors)  # the rest bit for bit


def test_a_dequantised_merge_adds_it_to_the_codes(write_checkpoint, one_device, tmp_path):
    folder, tensors = write_checkpoint()
    settings = FinetuneConfig("qlora", rank=4, alpha=8.0, targets=("attention/v",))
    model = loaded(folder, one_device, settings)
    save_merged(tmp_path / "out", **model, dequantized=True)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    codes = model["trained"].frozen["layers/attention/v/kernel"]
    for layer in range(3):
        dense = jax.tree.map(lambda x: x[layer], codes).dequantize(jnp.float32)  # noqa: B023
        expected = np.asarray(dense).T + delta(model, layer)
        np.testing.assert_allclose(exported[V.format(layer)], expected, rtol=0, atol=1e-6)
        other = V.format(layer).replace("v_proj", "o_proj")  # without adapter, yet quantised
        assert 0 < np.abs(exported[other] - tensors[other]).max() < 0.1
    np.testing.assert_array_equal(exported[EMBEDDING], tensors[EMBEDDING])


def test_a_model_trained_from_scratch_is_exported(write_checkpoint, one_device, tmp_path):
    folder, _ = write_checkpoint("qwen2", torch_dtype="bfloat16")
    (folder / "model.safetensors").unlink()
    family, config = read_model(folder)
    settings = FinetuneConfig("full")
    store = functools.partial(store_weight, settings, dtype=jnp.float32)
    placed = functools.partial(leaf_shardings, one_device)
    params = random_params(config, 0, store_weight=store, shardings=placed)
    model = {
        "base_folder": folder,
        "trained": TrainedWeights(settings, params),
        "family": family,
        "model_config": config,
    }
    save_merged(tmp_path / "out", **model, dequantized=False)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {np.dtype(ml_dtypes.bfloat16)}
    again = loaded(tmp_path / "out", one_device, settings)["trained"].trainable
    for path, weight in params.items():
        np.testing.assert_array_equal(again[path], weight.astype(jnp.bfloat16).astype(jnp.float32))

    with pytest.raises(MftError, match="holds no weights"):
        lora = {**model, "trained": TrainedWeights(FinetuneConfig("lora"), params)}
        save_merged(tmp_path / "lora", **lora, dequantized=False)
    assert not (tmp_path / "lora").exists()


def test_an_existing_output_is_refused(write_checkpoint, one_device, tmp_path):
    folder, _ = write_checkpoint()
    model = loaded(folder, one_device, FinetuneConfig("full"))
    with pytest.raises(MftError, match="nothing is overwritten"):
        save_merged(folder, **model, dequantized=False)


@pytest.fixture
def batch():
    tokens = np.random.default_rng(0).integers(0, 96, (2, 8))
    segments = np.array([[1] * 5 + [2] * 3, [1] * 6 + [0] * 2])
    positions = np.array([[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 4, 5, 0, 0]])
    zeros = np.zeros_like(tokens)
    return Batch(tokens, zeros, positions, segments, zeros, zeros.astype(np.float32))


def test_logit_difference_is_zero_for_the_same_model(write_checkpoint, batch):
    _, config = read_model(write_checkpoint()[0])
    params = init_params(config, 0)
    difference = logit_difference(config, params, params, batch)
    assert dataclasses.astuple(difference) == (0.0, 0.0, 0.0, 1.0)


def test_logit_difference_measures_and_ignores_padding(write_checkpoint, batch):
    _, config = read_model(write_checkpoint()[0])
    params = init_params(config, 0)
    # A head of zeros gives equal logits: KL(uniform || p) and |0 - logits| are known by hand.
    flat = {**params, "head/table": jnp.zeros_like(params["head/table"])}
    difference = logit_difference(config, flat, params, batch)
    padded = batch._replace(tokens=np.where(batch.segment_ids > 0, batch.tokens, 5))
    assert difference == logit_difference(config, flat, params, padded)
    assert 0 < difference.mean_abs < difference.max_abs
    assert 0 < difference.kl < difference.max_abs
    assert 0 <= difference.top1_agreement < 1

    doubled = {**params, "head/table": 2 * params["head/table"]}  # |2 x - x| = |0 - x|
    twice = logit_difference(config, doubled, params, batch)
    assert twice.mean_abs == pytest.approx(difference.mean_abs, rel=1e-5)
    assert twice.top1_agreement == 1.0


def test_logit_difference_of_only_padding_is_refused(write_checkpoint, batch):
    _, config = read_model(write_checkpoint()[0])
    params = init_params(config, 0)
    with pytest.raises(MftError, match="padding only"):
        empty = batch._replace(segment_ids=np.zeros_like(batch.segment_ids))
        logit_difference(config, params, params, empty)
