"""Phi-3, Phi-3.5 and Phi-4: packed projections, longrope."""

from typing import Any

from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated
from mft_jax.models.families.rotary import read_rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,  # has priority over the one in `rope_scaling`
    )
    return {
        **read_gated(reader, epsilon=1e-5),
        "rope": read_rope(reader),
        "window": reader.optional_size("sliding_window", 0),
        "qkv": "packed",
        "mlp": "packed_gated",
    }


LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7],
    "long_factor": [1.1, 1.4, 2.0, 3.0, 5.0, 9.0, 15.0, 24.0],
}

PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    read=_read,
    names={
        **GATED_NAMES,
        "layers/attention/qkv": f"{LAYER}.self_attn.qkv_proj",
        "layers/mlp/gate_up": f"{LAYER}.mlp.gate_up_proj",
    },
    models="Phi-3 mini and medium, Phi-3.5-mini, Phi-4",
    notes="sliding window; `longrope`, long factors in samples longer than the original context",
    tiny={
        "": {**SIZES, "sliding_window": 8},
        "longrope": {
            **SIZES,
            "rope_scaling": LONGROPE,
            "original_max_position_embeddings": 64,
        },
        "partial": {**SIZES, "partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    },
)
