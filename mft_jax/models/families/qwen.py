"""Qwen, the first: packed attention with biases, gate and up under other names."""

from typing import Any

from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.rotary import rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader.allow_only("no_bias", (None, True), "only queries, keys and values may have biases")
    reader.allow_only("rotary_pct", (None, 1, 1.0), "all channels of a head must be rotated")
    num_heads = reader.size("num_attention_heads")
    return {
        "vocab_size": reader.size("vocab_size"),
        "width": reader.size("hidden_size"),
        "mlp_width": reader.size("intermediate_size") // 2,
        "num_layers": reader.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_width": reader.size("kv_channels"),
        "max_positions": reader.size("seq_length"),
        "norm_epsilon": reader.number("layer_norm_epsilon", 1e-6),
        "rope": rope(reader, theta=reader.number("rotary_emb_base", 10000.0)),
        "qkv": "packed",
        "bounded": True,
        "qkv_bias": True,
    }


H = "transformer.h.{layer}"

QWEN = Family(
    name="qwen",
    architecture="QWenLMHeadModel",
    read=_read,
    names={
        "embedding": "transformer.wte",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
        "layers/attention_norm": f"{H}.ln_1",
        "layers/mlp_norm": f"{H}.ln_2",
        "layers/attention/qkv": f"{H}.attn.c_attn",
        "layers/attention/o": f"{H}.attn.c_proj",
        "layers/mlp/up": f"{H}.mlp.w1",
        "layers/mlp/gate": f"{H}.mlp.w2",
        "layers/mlp/down": f"{H}.mlp.c_proj",
    },
    models="Qwen 1.8B, 7B, 14B, 72B",
    notes="samples of at most `seq_length` tokens: what it does beyond (dynamic NTK, log n) is "
    "not computed",
    reference="numpy",
    tiny={
        "": {
            "vocab_size": 4096,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "kv_channels": 16,
            "seq_length": 512,
            "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 10000,
            "rotary_pct": 1.0,
            "no_bias": True,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "tie_word_embeddings": False,
        }
    },
)
