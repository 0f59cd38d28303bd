"""GPT-NeoX and CodeFuse-13B: parallel residual, partial rotary, packed queries, keys, values."""

from typing import Any

from mft_jax.models.families.base import ACTIVATIONS, ConfigReader, Family
from mft_jax.models.families.gated import SIZES
from mft_jax.models.families.rotary import read_rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=2048)
    width, num_heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    biases = reader.flag("attention_bias", True)
    head_width = max(width // num_heads, 1)
    # transformers reads the keys of other families only inside of `rope_parameters`.
    rope = read_rope(
        reader.replace(rope_theta=None, partial_rotary_factor=None),
        theta=reader.number("rotary_emb_base", 10000.0),
        fraction=reader.number("rotary_pct", 0.25),
    )
    reader.allow_only("rope_theta", (None, rope.theta), "the base is `rotary_emb_base`")
    reader.allow_only("partial_rotary_factor", (None, rope.fraction), "the share is `rotary_pct`")
    reader.allow_only(
        "head_dim", (None, head_width), "the width of a head must be its share of `hidden_size`"
    )
    return {
        "vocab_size": reader.size("vocab_size"),
        "width": width,
        "mlp_width": reader.size("intermediate_size"),
        "num_layers": reader.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_width": head_width,
        "max_positions": reader.size("max_position_embeddings"),
        "norm": "layer",
        "norm_epsilon": reader.number("layer_norm_eps", 1e-5),
        "rope": rope,
        "qkv": "packed_by_head",
        "qkv_bias": biases,
        "out_bias": biases,
        "mlp": "plain",
        "activation": reader.choose("hidden_act", ACTIVATIONS, "gelu"),
        "mlp_bias": True,
        "block": "parallel" if reader.flag("use_parallel_residual", True) else "sequential",
        "tied_head": reader.flag("tie_word_embeddings", False),
    }


LAYER = "gpt_neox.layers.{layer}"
NEOX_SIZES = {
    **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
    "hidden_act": "gelu",
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
}

GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    read=_read,
    names={
        "embedding": "gpt_neox.embed_in",
        "final_norm": "gpt_neox.final_layer_norm",
        "head": "embed_out",
        "layers/attention_norm": f"{LAYER}.input_layernorm",
        "layers/mlp_norm": f"{LAYER}.post_attention_layernorm",
        "layers/attention/qkv": f"{LAYER}.attention.query_key_value",
        "layers/attention/o": f"{LAYER}.attention.dense",
        "layers/mlp/up": f"{LAYER}.mlp.dense_h_to_4h",
        "layers/mlp/down": f"{LAYER}.mlp.dense_4h_to_h",
    },
    models="CodeFuse-13B, GPT-NeoX-20B, Pythia",
    tiny={
        "": NEOX_SIZES,
        "sequential": {
            **NEOX_SIZES,
            "use_parallel_residual": False,
            "hidden_act": "gelu_fast",
            "rotary_pct": 1.0,
        },
        "no biases in attention, tied": {
            **NEOX_SIZES,
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
    },
    ignored=("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"),
)
