"""StarCoder2: layer norms, plain feed-forward with biases, rotary, sliding window."""

from typing import Any

from mft_jax.models.families.base import ACTIVATIONS, ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated
from mft_jax.models.families.rotary import read_rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader = reader.with_defaults(max_position_embeddings=4096, num_key_value_heads=2)
    activation = reader.choose("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    biases = reader.flag("use_bias", True)
    return {
        **read_gated(reader.replace(hidden_act="silu"), tied=True),
        "norm": "layer",
        "norm_epsilon": reader.number("norm_epsilon", 1e-5),
        "rope": read_rope(reader),
        "window": reader.optional_size("sliding_window", 0),
        "qkv_bias": biases,
        "out_bias": biases,
        "mlp": "plain",
        "mlp_bias": biases,
        "activation": activation,
    }


PLAIN_SIZES = {
    **SIZES,
    "hidden_act": "gelu_pytorch_tanh",
    "norm_epsilon": 1e-5,
    "use_bias": True,
}

STARCODER2 = Family(
    name="starcoder2",
    architecture="Starcoder2ForCausalLM",
    read=_read,
    names={
        **GATED_NAMES,
        "layers/mlp/up": f"{LAYER}.mlp.c_fc",
        "layers/mlp/down": f"{LAYER}.mlp.c_proj",
    },
    models="StarCoder2 3B, 7B, 15B",
    notes="rope scaling `linear`, `yarn`; sliding window",
    tiny={
        "": {**PLAIN_SIZES, "sliding_window": 8, "tie_word_embeddings": True},
        "no biases, no window": {**PLAIN_SIZES, "use_bias": False, "sliding_window": None},
        "linear scaling": {**PLAIN_SIZES, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        "yarn scaling": {
            **PLAIN_SIZES,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    },
)
