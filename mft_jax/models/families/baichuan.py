"""Baichuan and Baichuan 2: packed attention; ALiBi in the 13B models; NormHead in Baichuan 2."""

from typing import Any

from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.gated import GATED_NAMES, LAYER, SIZES, read_gated

BAICHUAN2_VOCAB = 125696


def _read(reader: ConfigReader) -> dict[str, Any]:
    # The 13B models have no rotary embedding; and another key for their length.
    rotary = "max_position_embeddings" in reader.hf
    length = "max_position_embeddings" if rotary else "model_max_length"
    second = "z_loss_weight" in reader.hf or reader.hf.get("vocab_size") == BAICHUAN2_VOCAB
    reader.allow_only("rope_scaling", (None,), "the published model does not scale its positions")
    positions = reader.size(length)
    return {
        **read_gated(reader.replace(max_position_embeddings=positions)),
        "positions": "rotary" if rotary else "alibi",
        "qkv": "packed",
        "normalized_head": second,
    }


BAICHUAN_SIZES = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
ALIBI_SIZES = {k: v for k, v in BAICHUAN_SIZES.items() if k != "max_position_embeddings"}

BAICHUAN = Family(
    name="baichuan",
    architecture="BaichuanForCausalLM",
    read=_read,
    names={**GATED_NAMES, "layers/attention/qkv": f"{LAYER}.self_attn.W_pack"},
    models="Baichuan 7B, 13B; Baichuan 2 7B, 13B",
    notes="13B: ALiBi",
    reference="numpy",
    tiny={
        "": BAICHUAN_SIZES,
        "second, 7B": {**BAICHUAN_SIZES, "z_loss_weight": 0},
        "13B": {**ALIBI_SIZES, "model_max_length": 512},
        "second, 13B, 6 heads": {
            **ALIBI_SIZES,
            "model_max_length": 512,
            "z_loss_weight": 0,
            "hidden_size": 192,
            "num_attention_heads": 6,
        },
    },
)
