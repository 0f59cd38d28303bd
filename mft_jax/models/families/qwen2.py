"""Qwen2, Qwen2.5 and Qwen2.5-Coder: Llama with biases on q, k and v."""

from collections.abc import Mapping
from typing import Any

from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Family, decoder_entries, read_decoder_config, refuse


def _read_config(hf: Mapping[str, Any]) -> ModelConfig:
    refuse(hf, "use_sliding_window", (None, False), "sliding-window attention")
    tied = hf.get("tie_word_embeddings", False)
    return read_decoder_config(hf, qkv_bias=True, tied_head=tied)


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _read_config, decoder_entries)
