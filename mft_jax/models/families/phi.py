"""Phi-1, Phi-1.5 and Phi-2: attention and feed-forward in parallel after one norm."""

from typing import Any

from mft_jax.models.families.base import ACTIVATIONS, ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated
from mft_jax.models.families.rotary import read_rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=2048)
    reader.allow_only(
        "qk_layernorm", (None, False), "norms of queries and keys are not computed in this family"
    )
    activation = reader.choose("hidden_act", ACTIVATIONS, "gelu_new")
    return {
        **read_gated(reader.replace(hidden_act="silu")),
        "norm": "layer",
        "norm_epsilon": reader.number("layer_norm_eps", 1e-5),
        "rope": read_rope(reader, fraction=0.5),
        "qkv_bias": True,
        "out_bias": True,
        "mlp": "plain",
        "mlp_bias": True,
        "activation": activation,
        "block": "parallel_one_norm",
        "head_bias": True,
    }


PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    read=_read,
    names={
        **GATED_NAMES,
        "final_norm": "model.final_layernorm",
        "layers/attention/o": f"{LAYER}.self_attn.dense",
        "layers/mlp/up": f"{LAYER}.mlp.fc1",
        "layers/mlp/down": f"{LAYER}.mlp.fc2",
    },
    models="Phi-1, Phi-1.5, Phi-2",
    tiny={
        "": {
            **SIZES,
            "num_key_value_heads": 4,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
        }
    },
)
