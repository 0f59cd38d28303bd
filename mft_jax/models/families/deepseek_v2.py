"""DeepSeek-V2 and DeepSeek-Coder-V2: latent attention, shared and routed experts."""

from typing import Any

from mft_jax.models.config import Experts, Latent
from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated
from mft_jax.models.families.rotary import read_rope, rope_part, yarn_magnitude


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=2048)
    reader.allow_only("attention_bias", (None, False), "biases in attention are not computed")
    reader.allow_only("mlp_bias", (None, False), "biases in the feed-forward are not computed")
    reader.allow_only(
        "norm_topk_prob", (None, False), "renormalised weights of experts are not computed"
    )
    reader.allow_only("scoring_func", (None, "softmax"), "experts must be chosen by softmax")
    reader.allow_only(
        "moe_layer_freq", (None, 1), "every layer after the dense ones must have experts"
    )
    methods = {"greedy": "1", "group_limited_greedy": "n_group"}
    grouped = reader.choose("topk_method", methods, "greedy") == "n_group"
    latent = Latent(
        q_rank=reader.optional_size("q_lora_rank", 1536),
        kv_rank=reader.size("kv_lora_rank"),
        plain_width=reader.size("qk_nope_head_dim"),
        rope_width=reader.size("qk_rope_head_dim"),
        v_width=reader.size("v_head_dim"),
        norm_epsilon=1e-6,  # whatever `rms_norm_eps` is, in the original and in transformers
    )
    width = reader.size("moe_intermediate_size")
    experts = Experts(
        num=reader.size("n_routed_experts"),
        per_token=reader.size("num_experts_per_tok"),
        width=width,
        scale=reader.number("routed_scaling_factor", 1.0),
        groups=reader.size("n_group") if grouped else 1,
        groups_per_token=reader.size("topk_group") if grouped else 1,
        shared_width=width * reader.optional_size("n_shared_experts", 2),
        dense_layers=reader.count("first_k_dense_replace", 0),
    )
    head_width = latent.plain_width + latent.rope_width
    rope, nested = read_rope(reader, interleaved=True), rope_part(reader)
    weight = nested.number("mscale_all_dim", 1.0) if nested.get("mscale_all_dim", 0) else 0.0
    growth = yarn_magnitude(rope.factor, weight)
    settings = read_gated(reader.replace(head_dim=head_width))
    return {
        **settings,
        "num_kv_heads": settings["num_heads"],
        "rope": rope,
        "attention_scale": 0.0 if growth == 1 else head_width**-0.5 * growth**2,
        "latent": latent,
        "experts": experts,
    }


EXPERT, SHARED = f"{LAYER}.mlp.experts.{{expert}}", f"{LAYER}.mlp.shared_experts"
DEEPSEEK_SIZES = {
    **SIZES,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "topk_method": "greedy",
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
}
YARN = {
    "type": "yarn",
    "factor": 4.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.9,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
}

DEEPSEEK_V2 = Family(
    name="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    read=_read,
    names={
        **GATED_NAMES,
        "layers/attention/q_down": f"{LAYER}.self_attn.q_a_proj",
        "layers/attention/q_down_norm": f"{LAYER}.self_attn.q_a_layernorm",
        "layers/attention/q_up": f"{LAYER}.self_attn.q_b_proj",
        "layers/attention/kv_down": f"{LAYER}.self_attn.kv_a_proj_with_mqa",
        "layers/attention/kv_down_norm": f"{LAYER}.self_attn.kv_a_layernorm",
        "layers/attention/kv_up": f"{LAYER}.self_attn.kv_b_proj",
        "layers/mlp/router": f"{LAYER}.mlp.gate",
        **{f"layers/mlp/{x}": f"{EXPERT}.{x}_proj" for x in ("gate", "up", "down")},
        **{f"layers/mlp/shared/{x}": f"{SHARED}.{x}_proj" for x in ("gate", "up", "down")},
        **{f"first_layers/mlp/{x}": f"{LAYER}.mlp.{x}_proj" for x in ("gate", "up", "down")},
    },
    lost_in_peft=r"\w+/mlp/.+/kernel",
    models="DeepSeek-V2, V2-Lite, DeepSeek-Coder-V2",
    notes="`yarn`; balance losses per sequence or device of the original are not computed",
    tiny={
        "": DEEPSEEK_SIZES,
        "groups, yarn": {
            **DEEPSEEK_SIZES,
            "rms_norm_eps": 0.05,  # large enough to be seen, since some norms do not use it
            "num_hidden_layers": 3,
            "q_lora_rank": 64,
            "topk_method": "group_limited_greedy",
            "n_group": 2,
            "topk_group": 1,
            "routed_scaling_factor": 2.5,
            "rope_scaling": YARN,
        },
    },
)
