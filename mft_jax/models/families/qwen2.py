"""Qwen2, Qwen2.5, Qwen2.5-Coder, and Qwen1.5/2 with experts."""

from typing import Any

from mft_jax.models.config import Experts
from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import (
    EXPERT_NAMES,
    EXPERT_SIZES,
    GATED_NAMES,
    LAYER,
    SIZES,
    every_layer_sparse,
    read_gated,
    read_window,
)
from mft_jax.models.families.rotary import read_rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=32768, num_key_value_heads=32)
    settings = {**read_gated(reader), "rope": read_rope(reader), "qkv_bias": True}
    return settings | read_window(reader, settings["num_layers"])


def _read_moe(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=32768, num_key_value_heads=16)
    every_layer_sparse(reader)
    reader.allow_only(
        "use_sliding_window", (None, False), "windows are not computed in layers with experts"
    )
    experts = Experts(
        num=reader.size("num_experts"),
        per_token=reader.size("num_experts_per_tok"),
        width=reader.size("moe_intermediate_size"),
        renormalize=reader.flag("norm_topk_prob", False),
        shared_width=reader.size("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    biases = reader.flag("qkv_bias", True)
    settings = {**read_gated(reader), "rope": read_rope(reader), "experts": experts}
    return {**settings, "qkv_bias": biases} | read_window(reader, settings["num_layers"])


SHARED_NAMES = {
    "layers/mlp/shared_gate": f"{LAYER}.mlp.shared_expert_gate",
    **{f"layers/mlp/shared/{x}": f"{LAYER}.mlp.shared_expert.{x}_proj"
       for x in ("gate", "up", "down")},
}  # fmt: skip
QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    read=_read,
    names=GATED_NAMES,
    models="Qwen1.5, Qwen2, Qwen2.5, Qwen2.5-Coder",
    notes="`yarn` to 128k; sliding window",
    tiny={
        "": SIZES,
        "tied": {**SIZES, "tie_word_embeddings": True, "rope_theta": 1000000.0},
        "window": {
            **SIZES,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
        },
    },
)

QWEN2_MOE = Family(
    name="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    read=_read_moe,
    names={**EXPERT_NAMES, **SHARED_NAMES},
    lost_in_peft=r"layers/mlp/\w+/kernel",
    models="Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
    notes="experts in every layer",
    tiny={
        "": {**EXPERT_SIZES, "shared_expert_intermediate_size": 128, "qkv_bias": True},
        "renormalized": {
            **EXPERT_SIZES,
            "shared_expert_intermediate_size": 64,
            "norm_topk_prob": True,
        },
    },
)
