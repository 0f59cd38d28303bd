"""StarCoder and SantaCoder: learned positions, one key/value head, layer norms, GELU."""

from typing import Any

from mft_jax.models.families.base import ACTIVATIONS, ConfigReader, Family


def _read(keys: ConfigReader) -> dict[str, Any]:
    keys = keys.with_defaults(n_positions=1024)
    keys.refuse("scale_attn_weights", (None, True), "scores are divided by sqrt(head width)")
    keys.refuse("add_cross_attention", (None, False), "this is a decoder alone")
    width, num_heads = keys.size("n_embd"), keys.size("n_head")
    one_head = keys.flag("multi_query", True)
    return {
        "vocab_size": keys.size("vocab_size"),
        "width": width,
        "mlp_width": keys.count("n_inner", 4 * width, least=1),
        "num_layers": keys.size("n_layer"),
        "num_heads": num_heads,
        "num_kv_heads": 1 if one_head else num_heads,
        "head_width": max(width // num_heads, 1),
        "max_positions": keys.size("n_positions"),
        "norm": "layer",
        "norm_epsilon": keys.number("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "bounded": True,
        "qkv": "packed" if one_head else "packed_by_head",
        "qkv_bias": True,
        "out_bias": True,
        "mlp": "plain",
        "activation": keys.choose("activation_function", ACTIVATIONS, "gelu_pytorch_tanh"),
        "mlp_bias": True,
        "tied_head": keys.flag("tie_word_embeddings", True),
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
    },
    ignored=("attn.bias", "attn.masked_bias"),
)
