"""StarCoder and SantaCoder: learned positions, one key/value head, layer norms, GELU."""

from typing import Any

from mft_jax.models.families.base import ACTIVATIONS, ConfigReader, Family


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(n_positions=1024)
    reader.allow_only(
        "scale_attn_weights", (None, True), "scores must be divided by sqrt(head width)"
    )
    reader.allow_only(
        "add_cross_attention", (None, False), "only decoders without an encoder are computed"
    )
    width, num_heads = reader.size("n_embd"), reader.size("n_head")
    one_head = reader.flag("multi_query", True)
    return {
        "vocab_size": reader.size("vocab_size"),
        "width": width,
        "mlp_width": reader.count("n_inner", 4 * width, least=1),
        "num_layers": reader.size("n_layer"),
        "num_heads": num_heads,
        "num_kv_heads": 1 if one_head else num_heads,
        "head_width": max(width // num_heads, 1),
        "max_positions": reader.size("n_positions"),
        "norm": "layer",
        "norm_epsilon": reader.number("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "bounded": True,
        "qkv": "packed" if one_head else "packed_by_head",
        "qkv_bias": True,
        "out_bias": True,
        "mlp": "plain",
        "activation": reader.choose("activation_function", ACTIVATIONS, "gelu_pytorch_tanh"),
        "mlp_bias": True,
        "tied_head": reader.flag("tie_word_embeddings", True),
    }


H = "transformer.h.{layer}"
SIZES = {
    "vocab_size": 4096,
    "n_embd": 64,
    "n_inner": 128,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "activation_function": "gelu_pytorch_tanh",
    "layer_norm_epsilon": 1e-5,
    "multi_query": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}

GPT_BIGCODE = Family(
    name="gpt_bigcode",
    architecture="GPTBigCodeForCausalLM",
    read=_read,
    names={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
        "layers/attention_norm": f"{H}.ln_1",
        "layers/mlp_norm": f"{H}.ln_2",
        "layers/attention/qkv": f"{H}.attn.c_attn",
        "layers/attention/o": f"{H}.attn.c_proj",
        "layers/mlp/up": f"{H}.mlp.c_fc",
        "layers/mlp/down": f"{H}.mlp.c_proj",
    },
    models="StarCoder, StarCoderBase, SantaCoder",
    notes="samples of at most `n_positions` tokens (learned positions)",
    tiny={
        "": SIZES,
        "all heads": {**SIZES, "multi_query": False, "activation_function": "gelu"},
        "untied": {**SIZES, "tie_word_embeddings": False},
    },
    ignored=("attn.bias", "attn.masked_bias"),
)
