"""What the gated decoders with root-mean-square norms share: names, sizes, how they are read."""

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


# Of the Qwen decoders with experts.
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


def read_gated(keys: ConfigReader, *, epsilon: float = 1e-6, tied: bool = False) -> dict[str, Any]:
    """The settings that these families share. The defaults are those that transformers' config
    class of the family has for a key that is absent or null; `keys` brings those of keys whose null
    means something else."""
    keys.refuse("hidden_act", ("silu",), "the feed-forward is gated by silu")
    num_heads, width = keys.size("num_attention_heads"), keys.size("hidden_size")
    return {
        "vocab_size": keys.size("vocab_size"),
        "width": width,
        "mlp_width": keys.size("intermediate_size"),
        "num_layers": keys.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": keys.count("num_key_value_heads", num_heads, least=1),
        "head_width": keys.count("head_dim", max(width // num_heads, 1), least=1),
        "max_positions": keys.size("max_position_embeddings"),
        "norm_epsilon": keys.number("rms_norm_eps", epsilon),
        "tied_head": keys.flag("tie_word_embeddings", tied),
    }


def read_window(keys: ConfigReader, num_layers: int) -> dict[str, Any]:
    """`use_sliding_window`: the layers from `max_window_layers` on, or those in `layer_types`."""
    used = keys.flag("use_sliding_window", False)
    window = keys.unless_null("sliding_window", 4096) if used else 0
    first = keys.count("max_window_layers", 28)
    local = read_layer_types(keys, [window > 0 and layer >= first for layer in range(num_layers)])
    if any(local) and not window:
        keys.problems.append(
            "layer_types names 'sliding_attention', but there is no window; expected "
            "use_sliding_window=True and a sliding_window"
        )
    return {"window": window, "window_layers": local} if any(local) else {}


def read_layer_types(keys: ConfigReader, otherwise: list[bool]) -> tuple[bool, ...]:
    """Which layers look through the window: by `layer_types`, or else `otherwise`."""
    local, everywhere = kinds = ("sliding_attention", "full_attention")
    types = keys.get("layer_types", [local if window else everywhere for window in otherwise])
    fits = isinstance(types, list) and len(types) == len(otherwise)
    if not fits or any(kind not in kinds for kind in types):
        keys.problems.append(
            f"layer_types={types!r}; expected one of {', '.join(kinds)} for each layer"
        )
        return tuple(otherwise)
    return tuple(kind == local for kind in types)


def every_layer_sparse(keys: ConfigReader) -> None:
    """Refuse a config whose layers differ in whether they have experts."""
    keys.refuse("mlp_only_layers", (None, []), "every layer must have experts")
    keys.refuse("decoder_sparse_step", (None, 1), "every layer must have experts")
