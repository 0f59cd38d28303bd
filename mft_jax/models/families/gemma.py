"""Gemma, Gemma 2 and the text models of Gemma 3."""

from typing import Any

from mft_jax.models.families.base import (
    GATED_NAMES,
    LAYER,
    SIZES,
    Family,
    Keys,
    read_gated,
    read_layer_types,
)
from mft_jax.models.families.gpt_bigcode import ACTIVATIONS
from mft_jax.models.families.rotary import read_rope
from mft_jax.models.rope import Rope


def _read(keys: Keys, kv_heads: int = 16, theta: float = 10000.0, part: str = "") -> dict[str, Any]:
    keys.refuse("attention_bias", (None, False), "biases in attention")
    keys.refuse("use_bidirectional_attention", (None, False), "attention is causal")
    # Checkpoints of Gemma 1 say "gelu" in `hidden_act` and mean the tanh form.
    named = keys.get("hidden_activation", None)
    activation = keys.choose("hidden_activation", ACTIVATIONS) if named else "gelu_tanh"
    settings = read_gated(keys.but(hidden_act="silu"), kv_heads=kv_heads, tied=True)
    return {
        **settings,
        "head_width": keys.count("head_dim", 256, least=1),
        "rope": read_rope(keys, theta=theta, part=part),
        "norm_offset": True,
        "activation": activation,
        "embedding_scale": settings["width"] ** 0.5,
    }


def _softcap(keys: Keys, key: str, default: float) -> float:
    off = key in keys.hf and keys.hf[key] is None
    return 0.0 if off or not (default or key in keys.hf) else keys.number(key, default)


def _read2(keys: Keys, softcaps: tuple[float, float] = (50.0, 30.0), **rope: Any) -> dict[str, Any]:
    settings = _read(keys, kv_heads=4, **rope)
    every_other = [not layer % 2 for layer in range(settings["num_layers"])]
    return {
        **settings,
        "post_norms": True,
        "attention_scale": keys.number("query_pre_attn_scalar", 256.0) ** -0.5,
        "attention_softcap": _softcap(keys, "attn_logit_softcapping", softcaps[0]),
        "final_softcap": _softcap(keys, "final_logit_softcapping", softcaps[1]),
        "window": keys.count("sliding_window", 4096, least=1),
        "window_layers": read_layer_types(keys, every_other),
    }


def _read3(keys: Keys) -> dict[str, Any]:
    settings = _read2(keys, softcaps=(0.0, 0.0), theta=1e6, part="full_attention")
    every = keys.count("sliding_window_pattern", keys.count("_sliding_window_pattern", 6), least=1)
    five_of_six = [bool((layer + 1) % every) for layer in range(settings["num_layers"])]
    settings["window_layers"] = read_layer_types(keys, five_of_six)
    local = Rope(theta=keys.number("rope_local_base_freq", 10000.0))
    if "rope_parameters" in keys.hf:
        local = read_rope(keys, part="sliding_attention")
    return {
        **settings,
        "qk_norm": True,
        "local_rope": local,
    }


GEMMA_SIZES = {
    **SIZES,
    "head_dim": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
POST_NORM_NAMES = {
    **GATED_NAMES,
    "layers/attention_post_norm": f"{LAYER}.post_attention_layernorm",
    "layers/mlp_norm": f"{LAYER}.pre_feedforward_layernorm",
    "layers/mlp_post_norm": f"{LAYER}.post_feedforward_layernorm",
}
GEMMA2_SIZES = {
    **GEMMA_SIZES,
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
    "sliding_window": 8,
}

GEMMA = Family(
    name="gemma",
    architecture="GemmaForCausalLM",
    read=_read,
    names=GATED_NAMES,
    models="Gemma 2B, 7B; CodeGemma",
    tiny={"": GEMMA_SIZES},
)

GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    read=_read2,
    names=POST_NORM_NAMES,
    models="Gemma 2 2B, 9B, 27B",
    notes="sliding window in every other layer",
    tiny={"": GEMMA2_SIZES},
)

GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    read=_read3,
    names=POST_NORM_NAMES,
    models="Gemma 3 1B and text-only exports of the larger ones",
    notes="sliding window and a rotation of its own in five of six layers",
    tiny={
        "": {
            **GEMMA2_SIZES,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        }
    },
)
