"""Mistral, with a sliding window in every layer, and Mixtral, with experts."""

from typing import Any

from mft_jax.models.config import Experts
from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated
from mft_jax.models.families.rotary import read_rope

DEFAULTS = {"max_position_embeddings": 131072, "num_key_value_heads": 8}


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(**DEFAULTS)
    window = reader.optional_size("sliding_window", 4096)
    return {**read_gated(reader), "rope": read_rope(reader), "window": window}


def _read_experts(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(**DEFAULTS)
    settings = read_gated(reader, epsilon=1e-5)
    settings["rope"] = read_rope(reader, theta=1e6)
    settings["window"] = reader.optional_size("sliding_window", 0)
    experts = Experts(
        num=reader.size("num_local_experts"),
        per_token=reader.size("num_experts_per_tok"),
        width=settings["mlp_width"],
        renormalize=True,
    )
    return {**settings, "experts": experts}


SPARSE = f"{LAYER}.block_sparse_moe"
EXPERT_NAMES = {
    **GATED_NAMES,
    "layers/mlp/router": f"{SPARSE}.gate",
    "layers/mlp/gate": f"{SPARSE}.experts.{{expert}}.w1",
    "layers/mlp/down": f"{SPARSE}.experts.{{expert}}.w2",
    "layers/mlp/up": f"{SPARSE}.experts.{{expert}}.w3",
}
WITH_EXPERTS = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5}

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    read=_read,
    names=GATED_NAMES,
    models="Mistral 7B, Codestral",
    notes="sliding window",
    tiny={"": {**SIZES, "sliding_window": 8}, "no window": {**SIZES, "sliding_window": None}},
)

MIXTRAL = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    read=_read_experts,
    names=EXPERT_NAMES,
    models="Mixtral 8x7B, 8x22B",
    notes="sliding window",
    tiny={
        "": WITH_EXPERTS,
        "window": {**WITH_EXPERTS, "sliding_window": 8},
        "tied": {**WITH_EXPERTS, "tie_word_embeddings": True},
    },
)
