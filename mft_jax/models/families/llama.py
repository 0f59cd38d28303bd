"""Llama 1 and 2, Code Llama, Yi, DeepSeek-Coder without rope scaling."""

from collections.abc import Mapping
from typing import Any

from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Family, decoder_entries, read_decoder_config, refuse


def _read_config(hf: Mapping[str, Any]) -> ModelConfig:
    refuse(hf, "attention_bias", (None, False), "Llama with biases on all projections")
    refuse(hf, "mlp_bias", (None, False), "Llama with biases in the feed-forward")
    tied = hf.get("tie_word_embeddings", False)
    return read_decoder_config(hf, qkv_bias=False, tied_head=tied)


LLAMA = Family("llama", "LlamaForCausalLM", _read_config, decoder_entries)
