"""Qwen3 and Qwen3-Coder: norms of queries and keys, dense or with experts."""

from typing import Any

from mft_jax.models.config import Experts
from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import (
    EXPERT_NAMES,
    EXPERT_SIZES,
    GATED_NAMES,
    SIZES,
    every_layer_sparse,
    read_gated,
    read_window,
)
from mft_jax.models.families.rotary import read_rope


def _read_dense(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(num_key_value_heads=32, head_dim=128)
    return {**_read(reader), "head_width": reader.size("head_dim")}


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=32768)
    biases = reader.flag("attention_bias", False)
    settings = {**read_gated(reader), "rope": read_rope(reader), "qk_norm": True}
    settings |= {"qkv_bias": biases, "out_bias": biases}
    return settings | read_window(reader, settings["num_layers"])


def _read_moe(reader: ConfigReader) -> dict[str, Any]:
    every_layer_sparse(reader)
    reader.allow_only(
        "use_sliding_window", (None, False), "windows are not computed in layers with experts"
    )
    # transformers 5 writes `num_local_experts`
    number = "num_local_experts" if "num_local_experts" in reader.hf else "num_experts"
    experts = Experts(
        num=reader.size(number),
        per_token=reader.size("num_experts_per_tok"),
        width=reader.size("moe_intermediate_size"),
        renormalize=reader.flag("norm_topk_prob", False),
    )
    return {**_read(reader.with_defaults(num_key_value_heads=4)), "experts": experts}


YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    read=_read_dense,
    names=GATED_NAMES,
    models="Qwen3 0.6B to 32B",
    notes="`yarn`; sliding window",
    tiny={
        "": {**SIZES, "head_dim": 32},
        "tied, yarn": {
            **SIZES,
            "head_dim": 16,
            "tie_word_embeddings": True,
            "rope_parameters": YARN,
        },
        "window": {
            **SIZES,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
        },
        "biases in attention": {**SIZES, "head_dim": 16, "attention_bias": True},
    },
)

QWEN3_MOE = Family(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    read=_read_moe,
    names=EXPERT_NAMES,
    models="Qwen3-30B-A3B, Qwen3-Coder",
    notes="experts in every layer",
    tiny={
        "": {**EXPERT_SIZES, "head_dim": 32, "norm_topk_prob": True},
        "yarn": {**EXPERT_SIZES, "head_dim": 16, "rope_parameters": YARN},
        "biases in attention, tied": {
            **EXPERT_SIZES,
            "head_dim": 16,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    },
)
