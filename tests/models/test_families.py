"""Every family computes what transformers computes, on tiny random checkpoints in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.finetune import FinetuneConfig, combine, freeze, init_frozen, init_trainable
from mft_jax.huggingface.adapters import save_adapter
from mft_jax.huggingface.checkpoint import load_params, read_model
from mft_jax.huggingface.export import save_merged
from mft_jax.models.decoder import bind, param_shapes
from mft_jax.sharding import MeshConfig, leaf_shardings, make_mesh

torch = pytest.importorskip("torch", reason="parity needs the extra `parity` (torch)")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}
CASES = {
    "llama": ("LlamaConfig", {"num_attention_heads": 4, "num_key_value_heads": 4}),
    "llama-gqa-tied": (
        "LlamaConfig",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "llama-head-dim": (
        "LlamaConfig",
        {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32},
    ),
    "qwen2-gqa": ("Qwen2Config", {"num_attention_heads": 8, "num_key_value_heads": 2}),
    "qwen2-tied-theta": (
        "Qwen2Config",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
}
TOLERANCE = {"rtol": 0, "atol": 1e-4}


def write_reference(case, folder):
    """A transformers model with weights and biases of a size that matters, saved to `folder`."""
    name, options = CASES[case]
    hf_config = getattr(transformers, name)(**SIZES, **options)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def reference_logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens)).logits.numpy()


def load(folder, settings):
    """(family, config, trainable, frozen), the adapter's B not zero."""
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    family, config = read_model(folder)
    params = load_params(
        folder,
        family,
        config,
        freeze=functools.partial(freeze, settings, dtype=jnp.float32),
        shardings=functools.partial(leaf_shardings, mesh),
    )
    trainable = init_trainable(settings, params, param_shapes(config), seed=0)
    if settings.method != "full":
        key = jax.random.key(1)
        trainable = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(key, x.shape), trainable)
    return family, config, trainable, init_frozen(settings, params)


def logits(config, params, tokens, positions=None, segment_ids=None):
    if positions is None:
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    if segment_ids is None:
        segment_ids = np.ones_like(tokens)

    @jax.jit
    def forward(params, tokens, positions, segment_ids):
        decoder = bind(config, params)
        hidden = decoder(tokens, positions, segment_ids, dtype=jnp.float32)
        return jnp.einsum("bld,vd->blv", hidden, decoder.head_table())

    return np.asarray(forward(params, tokens, positions, segment_ids))


def random_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (rows, length))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case, tmp_path):
    reference = write_reference(case, tmp_path)
    _, config, params, _ = load(tmp_path, FinetuneConfig("full"))
    for length in (1, 7, 200):
        tokens = random_tokens(2, length, seed=length)
        expected = reference_logits(reference, tokens)
        assert expected.std() > 0.1
        np.testing.assert_allclose(logits(config, params, tokens), expected, **TOLERANCE)


@pytest.mark.parametrize("case", ["llama-gqa-tied", "qwen2-gqa"])
def test_a_packed_row_equals_its_documents_alone(case, tmp_path):
    reference = write_reference(case, tmp_path)
    _, config, params, _ = load(tmp_path, FinetuneConfig("full"))
    lengths = (9, 1, 14)
    documents = [random_tokens(1, length, seed=length) for length in lengths]
    padding = np.zeros((1, 4), int)
    tokens = np.concatenate([*documents, padding], axis=1)
    positions = np.concatenate([*map(np.arange, lengths), np.zeros(4, int)])[None]
    segment_ids = np.repeat([1, 2, 3, 0], [*lengths, 4])[None]
    packed = logits(config, params, tokens, positions, segment_ids)
    assert np.isfinite(packed).all()
    ends = np.cumsum(lengths)
    for document, end in zip(documents, ends, strict=True):
        part = packed[:, end - document.shape[1] : end]
        np.testing.assert_allclose(part, reference_logits(reference, document), **TOLERANCE)


# peft reads an attribute that the newest transformers deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("case", ["llama", "qwen2-tied-theta"])
def test_peft_computes_what_the_adapter_computed(case, tmp_path):
    peft = pytest.importorskip("peft", reason="parity needs the extra `parity` (peft)")
    reference = write_reference(case, tmp_path / "base")
    settings = FinetuneConfig("lora", rank=4, alpha=10.0, targets=("attention/*", "mlp/down"))
    family, config, trainable, frozen = load(tmp_path / "base", settings)
    save_adapter(
        tmp_path / "adapter",
        trainable=trainable,
        finetune_config=settings,
        family=family,
        config=config,
        base_model=str(tmp_path / "base"),
    )
    tokens = random_tokens(2, 20)
    ours = logits(config, combine(settings, trainable, frozen, jnp.float32), tokens)
    assert np.abs(ours - reference_logits(reference, tokens)).max() > 0.1
    adapted = peft.PeftModel.from_pretrained(reference, str(tmp_path / "adapter")).eval()
    np.testing.assert_allclose(reference_logits(adapted, tokens), ours, **TOLERANCE)


@pytest.mark.parametrize("case", ["llama-gqa-tied", "qwen2-gqa"])
@pytest.mark.parametrize("method, dequantized", [("lora", False), ("qlora", True), ("full", False)])
def test_transformers_computes_what_was_merged(case, method, dequantized, tmp_path):
    write_reference(case, tmp_path / "base")
    settings = FinetuneConfig(method, rank=4, alpha=8.0)
    family, config, trainable, frozen = load(tmp_path / "base", settings)
    save_merged(
        tmp_path / "merged",
        base_folder=tmp_path / "base",
        trainable=trainable,
        frozen=frozen,
        finetune_config=settings,
        family=family,
        config=config,
        dequantized=dequantized,
        max_shard_bytes=100_000,
    )
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokens = random_tokens(2, 20)
    ours = logits(config, combine(settings, trainable, frozen, jnp.float32), tokens)
    np.testing.assert_allclose(reference_logits(merged, tokens), ours, **TOLERANCE)
