"""Gemma, Gemma 2 and the text models of Gemma 3."""

from typing import Any

from mft_jax.models.families.base import ACTIVATIONS, ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated, read_layer_types
from mft_jax.models.families.rotary import read_rope

TANH = (None, *(name for name, meaning in ACTIVATIONS.items() if meaning == "gelu_tanh"))


def _read(reader: ConfigReader, theta: float = 10000.0) -> dict[str, Any]:
    reader = reader.with_defaults(
        max_position_embeddings=8192, num_key_value_heads=16, head_dim=256
    )
    biases = reader.flag("attention_bias", False)
    reader.allow_only("use_bidirectional_attention", (None, False), "attention must be causal")
    # In checkpoints of Gemma 1, "gelu" in `hidden_act` means the tanh approximation.
    reader.allow_only("hidden_act", (*TANH, "gelu"), "the feed-forward must be gated by tanh GELU")
    reader.allow_only("hidden_activation", TANH, "the feed-forward must be gated by tanh GELU")
    settings = read_gated(reader.replace(hidden_act="silu"), tied=True)
    return {
        **settings,
        "head_width": reader.size("head_dim"),
        "rope": read_rope(reader, theta=theta),
        "qkv_bias": biases,
        "out_bias": biases,
        "norm_offset": True,
        "activation": "gelu_tanh",
        "embedding_scale": settings["width"] ** 0.5,
    }


def _softcap(reader: ConfigReader, key: str, default: float) -> float:
    off = key in reader.hf and reader.hf[key] is None
    return 0.0 if off or not (default or key in reader.hf) else reader.number(key, default)


def _read2(
    reader: ConfigReader, softcaps: tuple[float, float] = (50.0, 30.0), theta: float = 10000.0
) -> dict[str, Any]:
    # Null is refused, as in transformers: some layers always use a window.
    reader = reader.with_defaults(num_key_value_heads=4, sliding_window=4096)
    settings = _read(reader, theta)
    every_other = [not layer % 2 for layer in range(settings["num_layers"])]
    return {
        **settings,
        "post_norms": True,
        "attention_scale": reader.number("query_pre_attn_scalar", 256.0) ** -0.5,
        "attention_softcap": _softcap(reader, "attn_logit_softcapping", softcaps[0]),
        "final_softcap": _softcap(reader, "final_logit_softcapping", softcaps[1]),
        "window": reader.size("sliding_window"),
        "window_layers": read_layer_types(reader, every_other),
    }


KINDS = ("full_attention", "sliding_attention")


def _by_kind(reader: ConfigReader) -> tuple[ConfigReader, ConfigReader]:
    """The config for full and for local layers. `rope_scaling` is for the full ones, and overrides
    their part of `rope_parameters`."""
    parts = reader.part("rope_parameters")
    if stray := sorted(parts.hf.keys() - KINDS):
        reader.problems.append(
            f"rope_parameters names {', '.join(stray)}; expected only {', '.join(KINDS)}: "
            "each kind of layer has its own rotation"
        )
    full, local = (parts.mapping(kind) for kind in KINDS)
    scaling = reader.part("rope_scaling")
    why = "transformers reads it only by `rope_type`"
    scaling.allow_only("type", (scaling.get("rope_type", None),), why)
    base = reader.get("rope_local_base_freq", None)
    return (
        reader.replace(rope_parameters={**full, **scaling.hf}, rope_scaling=None),
        reader.replace(rope_parameters=local, rope_scaling=None, rope_theta=base),
    )


def _read3(reader: ConfigReader) -> dict[str, Any]:
    reader, local = _by_kind(reader.with_defaults(max_position_embeddings=131072))
    reader.allow_only("attn_logit_softcapping", (None,), "scores are not capped in this family")
    settings = _read2(reader, softcaps=(0.0, 0.0), theta=1e6)
    every = reader.count("sliding_window_pattern", 6, least=1)
    five_of_six = [bool((layer + 1) % every) for layer in range(settings["num_layers"])]
    settings["window_layers"] = read_layer_types(reader, five_of_six)
    return {**settings, "qk_norm": True, "local_rope": read_rope(local)}


GEMMA_SIZES = {
    **SIZES,
    "head_dim": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
BIASED_UNTIED = {"attention_bias": True, "tie_word_embeddings": False}
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
    tiny={"": GEMMA_SIZES, "biases in attention, untied": {**GEMMA_SIZES, **BIASED_UNTIED}},
)

GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    read=_read2,
    names=POST_NORM_NAMES,
    models="Gemma 2 2B, 9B, 27B",
    notes="sliding window in every other layer",
    tiny={"": GEMMA2_SIZES, "biases in attention, untied": {**GEMMA2_SIZES, **BIASED_UNTIED}},
)

GEMMA3_SIZES = {
    **GEMMA2_SIZES,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
PERIOD = ["sliding_attention", "sliding_attention", "full_attention"]

GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    read=_read3,
    names=POST_NORM_NAMES,
    models="Gemma 3 1B and text-only exports of the larger ones",
    notes="sliding window and a rotation of its own in five of six layers",
    tiny={
        "": GEMMA3_SIZES,
        "two periods and a layer": {
            **GEMMA3_SIZES,
            "num_hidden_layers": 7,
            "layer_types": [*PERIOD, *PERIOD, "sliding_attention"],
        },
        "biases in attention, untied": {**GEMMA3_SIZES, **BIASED_UNTIED},
    },
)
