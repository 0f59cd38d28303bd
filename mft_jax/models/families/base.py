"""`Entry` and `Family`: what a family's file consists of."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from mft_jax.models.config import ModelConfig
from mft_jax.types import MftError

Layout = Literal["same", "transposed"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor. `{layer}` in `hf` is the layer's number; our side stacks the layers.

    layout: "transposed" for a linear layer: HF stores [out, in], we store [in, out].
    """

    hf: str
    path: str
    layout: Layout = "same"

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.hf


@dataclasses.dataclass(frozen=True)
class Family:
    """`name` is the HF `model_type`; `architecture` the HF class written on export.

    `entries` lists the tensors of a given model (biases and head only where it has them).
    """

    name: str
    architecture: str
    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    entries: Callable[[ModelConfig], tuple[Entry, ...]]


def required(config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise MftError(
            f"config.json has no {key!r}; the checkpoint is incomplete or of another family"
        )
    return config[key]


def refuse(config: Mapping[str, Any], key: str, allowed: tuple[Any, ...], why: str) -> None:
    """A setting this project would silently compute wrongly is an error, never ignored."""
    if config.get(key) not in allowed:
        raise MftError(
            f"config.json: {key}={config[key]!r} is not supported ({why}); expected one of "
            f"{', '.join(map(repr, allowed))}"
        )


def read_rope_theta(config: Mapping[str, Any], default: float = 10000.0) -> float:
    """`rope_theta`, from the top level (transformers 4) or `rope_parameters` (transformers 5)."""
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind != "default":
        raise MftError(
            f"config.json: rope scaling of type {kind!r} is not supported; expected none "
            "('default'): the positions would be turned by the wrong angles"
        )
    return float(config.get("rope_theta", nested.get("rope_theta", default)))


def decoder_entries(config: ModelConfig) -> tuple[Entry, ...]:
    """The tensor names that the pre-norm, gated decoders of the Llama line share."""
    attention, mlp = "model.layers.{layer}.self_attn", "model.layers.{layer}.mlp"
    linear = [(f"{attention}.{x}_proj", f"layers/attention/{x}") for x in "qkvo"]
    linear += [(f"{mlp}.{x}_proj", f"layers/mlp/{x}") for x in ("gate", "up", "down")]
    entries = [Entry(f"{hf}.weight", f"{path}/kernel", "transposed") for hf, path in linear]
    if config.qkv_bias:
        entries += [Entry(f"{hf}.bias", f"{path}/bias") for hf, path in linear[:3]]
    if not config.tied_head:
        entries.append(Entry("lm_head.weight", "head/table"))
    layer = "model.layers.{layer}"
    return (
        *entries,
        Entry("model.embed_tokens.weight", "embedding/table"),
        Entry("model.norm.weight", "final_norm/scale"),
        Entry(f"{layer}.input_layernorm.weight", "layers/attention_norm/scale"),
        Entry(f"{layer}.post_attention_layernorm.weight", "layers/mlp_norm/scale"),
    )


def read_decoder_config(hf: Mapping[str, Any], *, qkv_bias: bool, tied_head: bool) -> ModelConfig:
    """The keys that the Llama line shares."""
    refuse(hf, "hidden_act", ("silu",), "the feed-forward is SwiGLU")
    num_heads = required(hf, "num_attention_heads")
    width = required(hf, "hidden_size")
    return ModelConfig(
        vocab_size=required(hf, "vocab_size"),
        width=width,
        mlp_width=required(hf, "intermediate_size"),
        num_layers=required(hf, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=hf.get("num_key_value_heads") or num_heads,
        head_width=hf.get("head_dim") or width // num_heads,
        max_positions=required(hf, "max_position_embeddings"),
        rope_theta=read_rope_theta(hf),
        norm_epsilon=hf.get("rms_norm_eps", 1e-6),
        qkv_bias=qkv_bias,
        tied_head=tied_head,
    )
