"""ChatGLM2, ChatGLM3 and CodeGeeX2: rotation of the first half of a head in interleaved pairs."""

from typing import Any

from mft_jax.models.families.base import ConfigReader, Family
from mft_jax.models.families.rotary import rope


def _read(reader: ConfigReader) -> dict[str, Any]:
    reader.allow_only("rmsnorm", (None, True), "only root-mean-square norms are computed")
    reader.allow_only(
        "add_bias_linear", (None, False), "only queries, keys and values may have biases"
    )
    reader.allow_only("post_layer_norm", (None, True), "a norm must follow the last layer")
    reader.allow_only(
        "apply_residual_connection_post_layernorm",
        (None, False),
        "only pre-norm blocks are computed",
    )
    if reader.get("rope_ratio", 1) == 16:
        reader.problems.append(
            "rope_ratio=16: ChatGLM2-6B-32K divides positions by it, but all later models multiply "
            "the base; expected another checkpoint, ChatGLM2-6B-32K is not supported"
        )
    num_heads = reader.size("num_attention_heads")
    grouped = reader.flag("multi_query_attention", False)
    theta = 10000.0 * reader.number("rope_ratio", 1.0)
    return {
        "vocab_size": reader.size("padded_vocab_size"),
        "width": reader.size("hidden_size"),
        "mlp_width": reader.size("ffn_hidden_size"),
        "num_layers": reader.size("num_layers"),
        "num_heads": num_heads,
        "num_kv_heads": reader.size("multi_query_group_num") if grouped else num_heads,
        "head_width": reader.size("kv_channels"),
        "max_positions": reader.size("seq_length"),
        "norm_epsilon": reader.number("layernorm_epsilon", 1e-5),
        "rope": rope(reader, theta=theta, fraction=0.5, interleaved=True),
        "qkv": "packed" if grouped else "packed_by_head",
        "qkv_bias": reader.flag("add_qkv_bias", False),
        "mlp": "packed_gated",
    }


LAYER = "transformer.encoder.layers.{layer}"
SIZES = {
    "padded_vocab_size": 4096,
    "vocab_size": 4096,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 512,
    "layernorm_epsilon": 1e-5,
    "rmsnorm": True,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "post_layer_norm": True,
    "original_rope": True,
    "apply_residual_connection_post_layernorm": False,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

CHATGLM = Family(
    name="chatglm",
    architecture="ChatGLMForConditionalGeneration",
    read=_read,
    names={
        "embedding": "transformer.embedding.word_embeddings",
        "final_norm": "transformer.encoder.final_layernorm",
        "head": "transformer.output_layer",
        "layers/attention_norm": f"{LAYER}.input_layernorm",
        "layers/mlp_norm": f"{LAYER}.post_attention_layernorm",
        "layers/attention/qkv": f"{LAYER}.self_attention.query_key_value",
        "layers/attention/o": f"{LAYER}.self_attention.dense",
        "layers/mlp/gate_up": f"{LAYER}.mlp.dense_h_to_4h",
        "layers/mlp/down": f"{LAYER}.mlp.dense_4h_to_h",
    },
    models="ChatGLM2-6B, ChatGLM3-6B, CodeGeeX2-6B",
    reference="numpy",
    ignored=("rotary_pos_emb.inv_freq",),
    tiny={
        "": SIZES,
        "rope_ratio": {**SIZES, "rope_ratio": 50},
        "all heads": {**SIZES, "multi_query_attention": False},
    },
)
