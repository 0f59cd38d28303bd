"""`ConfigReader`, `Entry` and `Family`: the parts of a family's file."""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from mft_jax.models.config import ModelConfig
from mft_jax.models.params import ParamInfo, param_infos
from mft_jax.models.schedule import LayerKind
from mft_jax.types import MftError

Layout = Literal["same", "transposed"]
LIMIT = 2**31  # positions and sizes are counted in int32
# Layers and experts are counted out one by one. The deepest models have about 130 layers, the
# widest 512 experts.
MOST: dict[str, int] = {
    "num_hidden_layers": 1_000,
    "num_layers": 1_000,
    "n_layer": 1_000,
    "num_experts": 10_000,
    "num_local_experts": 10_000,
    "n_routed_experts": 10_000,
}
MAX_TENSORS = 1_000_000


def is_positive(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number above 0 (a JSON integer may be too large for a float)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= sys.float_info.max


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


class ConfigReader:
    """Reader of an HF config. Problems are collected, and raised together by `finish`."""

    def __init__(self, hf: Mapping[str, Any]):
        self.hf = hf
        self.problems: list[str] = []

    def size(self, key: str) -> int:
        """A positive whole number that must be there and must not be null."""
        if key not in self.hf:
            return self._note_problem(f"no {key!r}; expected a positive whole number", 2)
        return self._whole(key, self.hf[key], least=1, stand_in=2)

    def count(self, key: str, default: int, *, least: int = 0) -> int:
        """A whole number; `default` where the key is absent or null."""
        return self._whole(key, self.get(key, default), least=least, stand_in=default)

    def optional_size(self, key: str, default: int) -> int:
        """A size; 0 where it is null ("none"); `default` only where the key is absent."""
        if key not in self.hf:
            return default
        return 0 if self.hf[key] is None else self.size(key)

    def _whole(self, key: str, value: Any, *, least: int, stand_in: int) -> int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        most = MOST.get(key, LIMIT - 1)
        if whole and least <= value <= most:
            return value
        bound = f"at most {most:,}" if key in MOST else "below 2**31"
        return self._note_problem(
            f"{key}={_short(value)}; expected a whole number of at least {least}, {bound}", stand_in
        )

    def number(self, key: str, default: float) -> float:
        """A positive finite number; `default` where the key is absent or null."""
        value = self.get(key, default)
        if is_positive(value):
            return float(value)
        return self._note_problem(f"{key}={value!r}; expected a finite number above 0", default)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; `default` where the key is absent or null."""
        value = self.get(key, default)
        if isinstance(value, bool):
            return value
        return self._note_problem(f"{key}={value!r}; expected true or false", default)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A nested part of the config; empty where it is absent or null."""
        value = self.get(key, {})
        if isinstance(value, dict):
            return value
        return self._note_problem(f"{key}={value!r}; expected settings by name", {})

    def part(self, key: str) -> "ConfigReader":
        """A reader of a nested part; its problems are collected in the same list."""
        return self._other(self.mapping(key))

    def get(self, key: str, default: Any) -> Any:
        """The value as it is; `default` where the key is absent or null."""
        value = self.hf.get(key)
        return default if value is None else value

    def _note_problem(self, problem: str, stand_in: Any) -> Any:
        """Collect a problem; with the stand-in the next settings can still be read."""
        self.problems.append(problem)
        return stand_in

    def allow_only(self, key: str, allowed: tuple[Any, ...], why: str) -> None:
        """Collect a problem if the key has another value, since the result would be wrong."""
        if key in self.hf and self.hf[key] not in allowed:
            expected = " or ".join(map(repr, allowed))
            self.problems.append(f"{key}={self.hf[key]!r}; expected {expected}: {why}")

    def choose(self, key: str, meanings: Mapping[str, str], default: str = "") -> str:
        """The value translated by `meanings`."""
        value = self.hf.get(key, default or None)
        if isinstance(value, str) and value in meanings:
            return meanings[value]
        expected = ", ".join(map(repr, meanings))
        return self._note_problem(
            f"{key}={value!r}; expected one of {expected}", [*meanings.values()][0]
        )

    def replace(self, **changes: Any) -> "ConfigReader":
        """The same config with other values; its problems are collected in the same list."""
        return self._other({**self.hf, **changes})

    def with_defaults(self, **defaults: Any) -> "ConfigReader":
        """The same config with transformers' values for absent keys of the family. A null stays
        null, since it may have a meaning of its own."""
        return self._other({**defaults, **self.hf})

    def _other(self, hf: Mapping[str, Any]) -> "ConfigReader":
        other = ConfigReader(hf)
        other.problems = self.problems
        return other

    def finish(self) -> None:
        """Raise `MftError` with every problem, each one once."""
        if self.problems:
            named = "\n  ".join(dict.fromkeys(self.problems))
            raise MftError(f"config.json cannot be used:\n  {named}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The HF tensors of one parameter, one for each index of its leading axes.

    hf       HF's name, with `{layer}` and `{expert}` in place of numbers
    layout   "transposed": a matrix that is [out, in] in HF and [in, out] here
    layers   HF's numbers of the stacked layers; None for a parameter outside of them
    experts  number of experts; 0: none
    """

    hf: str
    path: str
    layout: Layout
    layers: tuple[int, ...] | None
    experts: int

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
    """A model family. `name` is the HF `model_type`, `architecture` the HF class for export.

    read          arguments of `ModelConfig` from an HF config
    names         our module -> HF module; `.weight` or `.bias` is added
    models        checkpoints that it covers, and `notes` on them, for the support table
    tiny          small HF configs by variant, the first called ""
    reference     what the forward pass is compared with: "transformers", or "numpy" where
                  transformers has no modelling file
    ignored       endings of stored tensors that are not parameters
    lost_in_peft  paths whose adapters peft does not load, as a regular expression: transformers
                  holds experts as one tensor, and peft looks for them by model type and name
    """

    name: str
    architecture: str
    read: Callable[[ConfigReader], dict[str, Any]]
    names: Mapping[str, str]
    models: str
    tiny: Mapping[str, Mapping[str, Any]]
    notes: str = ""
    reference: Literal["transformers", "numpy"] = "transformers"
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    lost_in_peft: str = ""

    def read_config(self, hf: Mapping[str, Any]) -> ModelConfig:
        """The decoder that a config.json describes. One `MftError` lists all problems."""
        reader = ConfigReader(hf)
        settings = self.read(reader)
        try:
            model_config = ModelConfig(**settings)
        except MftError as error:
            if not reader.problems:  # it may follow from those that were found before
                reader.problems.append(str(error))
            model_config = None
        reader.finish()
        assert model_config is not None
        return model_config

    def tiny_config(self, variant: str = "") -> dict[str, Any]:
        """A complete config.json of a model of a few hundred thousand parameters."""
        return {"model_type": self.name, "dtype": "float32", **self.tiny[variant]}

    def entries(self, model_config: ModelConfig) -> tuple[Entry, ...]:
        """The tensors of a model (biases and head only where it has them)."""
        return _entries(self, model_config)


@functools.lru_cache(maxsize=64)
def _entries(family: Family, model_config: ModelConfig) -> tuple[Entry, ...]:
    infos = param_infos(model_config).values()
    if (total := sum(math.prod(info.stack) for info in infos)) > MAX_TENSORS:
        raise MftError(
            f"config.json describes {total:,} tensors; expected at most {MAX_TENSORS:,}: lower its "
            "number of layers or experts"
        )
    return tuple(_entry(family, model_config.layer_kinds, info) for info in infos)


def _entry(family: Family, kinds: Sequence[LayerKind], info: ParamInfo) -> Entry:
    module = f"layers/{info.layer}" if info.layers else info.layer
    # Layers without experts have names of their own for some modules.
    first = f"first_{module}"
    if info.layers and not kinds[info.layers[0]].sparse and first in family.names:
        module = first
    hf = family.names[module] + (".bias" if info.is_bias else ".weight")
    experts = info.stack[-1] if info.kind == "expert_matrix" else 0
    layout = "transposed" if info.quantizable else "same"
    return Entry(hf, info.path, layout, tuple(info.layers) or None, experts)


# HF's name of an activation of a plain feed-forward -> `ModelConfig.activation`.
ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
