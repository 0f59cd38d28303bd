"""Names, sizes and settings that the gated decoders with root-mean-square norms share."""

from collections.abc import Mapping
from typing import Any

from mft_jax.models.families.base import ConfigReader

LAYER = "model.layers.{layer}"

SIZES: Mapping[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

GATED_NAMES: Mapping[str, str] = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "layers/attention_norm": f"{LAYER}.input_layernorm",
    "layers/mlp_norm": f"{LAYER}.post_attention_layernorm",
    **{f"layers/attention/{x}": f"{LAYER}.self_attn.{x}_proj" for x in "qkvo"},
    **{f"layers/attention/{x}_norm": f"{LAYER}.self_attn.{x}_norm" for x in "qk"},
    **{f"layers/mlp/{x}": f"{LAYER}.mlp.{x}_proj" for x in ("gate", "up", "down")},
}


# Names and sizes of the Qwen decoders with experts.
EXPERT = f"{LAYER}.mlp.experts.{{expert}}"
EXPERT_NAMES = {
    **GATED_NAMES,
    "layers/mlp/router": f"{LAYER}.mlp.gate",
    **{f"layers/mlp/{x}": f"{EXPERT}.{x}_proj" for x in ("gate", "up", "down")},
}
EXPERT_SIZES = {
    **SIZES,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def read_gated(
    reader: ConfigReader, *, epsilon: float = 1e-6, tied: bool = False
) -> dict[str, Any]:
    """The settings that these families share.

    The defaults are those of transformers' config class of the family for a key that is absent or
    null. For a key whose null has another meaning, `reader` must hold the default.
    """
    reader.allow_only("hidden_act", ("silu",), "the feed-forward must be gated by silu")
    num_heads, width = reader.size("num_attention_heads"), reader.size("hidden_size")
    return {
        "vocab_size": reader.size("vocab_size"),
        "width": width,
        "mlp_width": reader.size("intermediate_size"),
        "num_layers": reader.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": reader.count("num_key_value_heads", num_heads, least=1),
        "head_width": reader.count("head_dim", max(width // num_heads, 1), least=1),
        "max_positions": reader.size("max_position_embeddings"),
        "norm_epsilon": reader.number("rms_norm_eps", epsilon),
        "tied_head": reader.flag("tie_word_embeddings", tied),
    }


def read_window(reader: ConfigReader, num_layers: int) -> dict[str, Any]:
    """Window and its layers where `use_sliding_window` is set: the layers from `max_window_layers`
    on, or those in `layer_types`."""
    used = reader.flag("use_sliding_window", False)
    window = reader.optional_size("sliding_window", 4096) if used else 0
    first = reader.count("max_window_layers", 28)
    local = read_layer_types(reader, [window > 0 and layer >= first for layer in range(num_layers)])
    if any(local) and not window:
        reader.problems.append(
            "layer_types names 'sliding_attention', but there is no window; expected "
            "use_sliding_window=True and a sliding_window"
        )
    return {"window": window, "window_layers": local} if any(local) else {}


def read_layer_types(reader: ConfigReader, default: list[bool]) -> tuple[bool, ...]:
    """Whether each layer uses the window: by `layer_types`, or `default` where it is absent."""
    local, everywhere = kinds = ("sliding_attention", "full_attention")
    types = reader.get("layer_types", [local if window else everywhere for window in default])
    fits = isinstance(types, list) and len(types) == len(default)
    if not fits or any(kind not in kinds for kind in types):
        reader.problems.append(
            f"layer_types={types!r}; expected one of {', '.join(kinds)} for each layer"
        )
        return tuple(default)
    return tuple(kind == local for kind in types)


def every_layer_sparse(reader: ConfigReader) -> None:
    """Refuse a config whose layers differ in whether they have experts."""
    reader.allow_only("mlp_only_layers", (None, []), "every layer must have experts")
    reader.allow_only("decoder_sparse_step", (None, 1), "every layer must have experts")
