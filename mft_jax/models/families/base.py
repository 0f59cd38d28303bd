"""`Keys`, `Entry` and `Family`: what a family's file consists of."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import param_shapes
from mft_jax.types import MftError

Layout = Literal["same", "transposed"]


class Keys:
    """An HF config while it is read. Problems are collected, and raised together by `finish`."""

    def __init__(self, hf: Mapping[str, Any]):
        self.hf = hf
        self.problems: list[str] = []

    def size(self, key: str) -> int:
        """A positive number that must be there."""
        value = self.hf.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        found = f"{key}={value!r}" if key in self.hf else f"no {key!r}"
        self.problems.append(f"{found}; expected a positive whole number")
        return 2  # a stand-in that lets reading go on to the next problem

    def get(self, key: str, default: Any) -> Any:
        """`default` where the key is absent or null."""
        value = self.hf.get(key)
        return default if value is None else value

    def refuse(self, key: str, allowed: tuple[Any, ...], why: str) -> None:
        """A setting that would be computed wrongly is a problem, never ignored. Absent is fine."""
        if key in self.hf and self.hf[key] not in allowed:
            expected = " or ".join(map(repr, allowed))
            self.problems.append(f"{key}={self.hf[key]!r}; expected {expected}: {why}")

    def choose(self, key: str, meanings: Mapping[Any, str], default: str = "") -> Any:
        """What the value stands for with us."""
        value = self.hf.get(key, default or None)
        if value not in meanings:
            expected = ", ".join(map(repr, meanings))
            self.problems.append(f"{key}={value!r}; expected one of {expected}")
        return meanings.get(value, next(iter(meanings.values())))

    def but(self, **changes: Any) -> "Keys":
        """The same config with other values; problems come to the same list."""
        other = Keys({**self.hf, **changes})
        other.problems = self.problems
        return other

    def finish(self) -> None:
        if self.problems:
            raise MftError("config.json cannot be used:\n  " + "\n  ".join(self.problems))


@dataclasses.dataclass(frozen=True)
class Entry:
    """The tensors of one parameter. `{layer}` and `{expert}` in `hf` are numbers; our side stacks
    them in front. A tensor in layout "transposed" is [out, in] in HF, [in, out] here.
    """

    hf: str
    path: str
    layout: Layout
    layers: range | None  # HF's numbers of the stacked layers
    experts: int  # 0: none

    @property
    def stack(self) -> tuple[int, ...]:
        """Lengths of the leading axes of our parameter."""
        lengths = (0 if self.layers is None else len(self.layers), self.experts)
        return tuple(length for length in lengths if length)

    def tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """(HF name, its index in our leading axes), in order."""
        found = []
        for index in itertools.product(*map(range, self.stack)):
            name = self.hf
            if self.layers is not None:
                name = name.replace("{layer}", str(self.layers[index[0]]))
            found.append((name.replace("{expert}", str(index[-1] if self.experts else "")), index))
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """`name` is the HF `model_type`; `architecture` the HF class written on export.

    names      our module -> HF module; `.weight` or `.bias` is added
    ignored    endings of stored tensors that are no parameters
    reference  what the forward pass is compared with: "transformers", or "numpy" where transformers
               has no modelling file
    models     which checkpoints it covers, and `notes` what to know of them, for the support table
    tiny       small HF configs by variant, the first called ""
    experts_in_peft: whether peft loads adapters of experts, which transformers holds as one tensor
    """

    name: str
    architecture: str
    read: Callable[[Keys], dict[str, Any]]
    names: Mapping[str, str]
    models: str
    tiny: Mapping[str, Mapping[str, Any]]
    notes: str = ""
    reference: Literal["transformers", "numpy"] = "transformers"
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    experts_in_peft: bool = False

    def read_config(self, hf: Mapping[str, Any]) -> ModelConfig:
        keys = Keys(hf)
        settings = self.read(keys)
        keys.finish()
        return ModelConfig(**settings)

    def tiny_config(self, variant: str = "") -> dict[str, Any]:
        """A whole config.json of a few hundred thousand parameters."""
        return {"model_type": self.name, "dtype": "float32", **self.tiny[variant]}

    def entries(self, config: ModelConfig) -> tuple[Entry, ...]:
        """The tensors of a given model (biases and head only where it has them)."""
        return _entries(self, config)


@functools.lru_cache(maxsize=64)
def _entries(family: Family, config: ModelConfig) -> tuple[Entry, ...]:
    return tuple(_entry(family, config, *item) for item in param_shapes(config).items())


def _entry(family: Family, config: ModelConfig, path: str, shape: jax.ShapeDtypeStruct) -> Entry:
    stack, _, inner = path.partition("/")
    layers = config.stacks.get(stack)
    module, kind = path.rsplit("/", 1)
    if module not in family.names:  # layers without experts share the other names
        module = f"layers/{inner}".rsplit("/", 1)[0]
    hf = family.names[module] + (".bias" if kind == "bias" else ".weight")
    experts = config.experts.num if config.experts and "{expert}" in hf else 0
    return Entry(hf, path, "transposed" if kind == "kernel" else "same", layers, experts)


LAYER, SIZES = "model.layers.{layer}", {
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
}  # fmt: skip

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


def read_gated(keys: Keys) -> dict[str, Any]:
    """What the gated decoders with root-mean-square norms share."""
    keys.refuse("hidden_act", ("silu",), "the feed-forward is gated by silu")
    num_heads, width = keys.size("num_attention_heads"), keys.size("hidden_size")
    return {
        "vocab_size": keys.size("vocab_size"),
        "width": width,
        "mlp_width": keys.size("intermediate_size"),
        "num_layers": keys.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": keys.get("num_key_value_heads", num_heads),
        "head_width": keys.get("head_dim", max(width // num_heads, 1)),
        "max_positions": keys.size("max_position_embeddings"),
        "norm_epsilon": keys.get("rms_norm_eps", 1e-6),
        "tied_head": keys.get("tie_word_embeddings", False),
    }


def read_window(keys: Keys, num_layers: int) -> dict[str, Any]:
    """`use_sliding_window`: the layers from `max_window_layers` on, or those in `layer_types`."""
    if not keys.get("use_sliding_window", False):
        return {}
    types = keys.get("layer_types", None)
    if types is not None:
        local = tuple(kind == "sliding_attention" for kind in types)
    else:
        first = keys.get("max_window_layers", 28)
        local = tuple(layer >= first for layer in range(num_layers))
    return {"window": keys.size("sliding_window"), "window_layers": local} if any(local) else {}
