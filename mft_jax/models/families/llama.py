"""Llama 1, 2 and 3.x, Code Llama, DeepSeek-Coder, Yi."""

import dataclasses
from typing import Any

from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, SIZES, read_gated
from mft_jax.models.families.rotary import read_rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=2048)
    biases, rope = reader.flag("attention_bias", False), read_rope(reader)
    if rope.scaling == "none":
        # transformers rotates whole heads whatever `partial_rotary_factor` is, and fails where it
        # comes with a scaling.
        rope = dataclasses.replace(rope, fraction=1.0)
    return {
        **read_gated(reader),
        "rope": rope,
        "qkv_bias": biases,
        "out_bias": biases,
        "mlp_bias": reader.flag("mlp_bias", False),
    }


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read=_read,
    names=GATED_NAMES,
    models="Llama 1, 2, 3.x; Code Llama; DeepSeek-Coder 1.3B to 33B; Yi",
    notes="rope scaling `linear`, `llama3`, `yarn`; whole heads are rotated whatever "
    "`partial_rotary_factor` is, as in transformers",
    tiny={
        "": SIZES,
        "all heads": {**SIZES, "num_key_value_heads": 4},
        "tied, wide heads": {
            **SIZES,
            "tie_word_embeddings": True,
            "head_dim": 32,
            "num_key_value_heads": 1,
        },
        "llama3 scaling": {**SIZES, "rope_theta": 500000.0, "rope_scaling": LLAMA3},
        "linear scaling": {
            **SIZES,
            "rope_theta": 100000.0,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
        "yarn scaling": {
            **SIZES,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        "yarn scaling, not truncated": {
            **SIZES,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "truncate": False,
            },
        },
        "biases": {**SIZES, "attention_bias": True, "mlp_bias": True},
        "biases in attention": {**SIZES, "attention_bias": True},
        "biases in the feed-forward": {**SIZES, "mlp_bias": True},
        "biases in attention, tied, llama3 scaling": {
            **SIZES,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_scaling": LLAMA3,
        },
        "biases in attention, partial_rotary_factor": {
            **SIZES,
            "attention_bias": True,
            "partial_rotary_factor": 0.5,
        },
    },
)
