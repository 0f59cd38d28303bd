"""`ConfigReader`, `Entry` and `Family`: what a family's file consists of."""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeGuard

import jax

from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import param_shapes
from mft_jax.types import MftError

Layout = Literal["same", "transposed"]
LIMIT = 2**31  # places and sizes are counted in int32


def is_positive(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number above 0 (a JSON integer may be too large for a float)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= sys.float_info.max


class ConfigReader:
    """An HF config while it is read. Problems are collected, and raised together by `finish`."""

    def __init__(self, hf: Mapping[str, Any]):
        self.hf = hf
        self.problems: list[str] = []

    def size(self, key: str) -> int:
        """A positive whole number that must be there, and not as null."""
        if key not in self.hf:
            return self._wrong(f"no {key!r}; expected a positive whole number", 2)
        return self._whole(key, self.hf[key], least=1, stand_in=2)

    def count(self, key: str, default: int, *, least: int = 0) -> int:
        """A whole number; `default` where the key is absent or null."""
        return self._whole(key, self.get(key, default), least=least, stand_in=default)

    def unless_null(self, key: str, default: int) -> int:
        """A size where null means "none" (0), and only an absent key the default."""
        if key not in self.hf:
            return default
        return 0 if self.hf[key] is None else self.size(key)

    def _whole(self, key: str, value: Any, *, least: int, stand_in: int) -> int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and least <= value < LIMIT:
            return value
        return self._wrong(
            f"{key}={value!r}; expected a whole number of at least {least}, below 2**31", stand_in
        )

    def number(self, key: str, default: float) -> float:
        """A positive finite number; `default` where the key is absent or null."""
        value = self.get(key, default)
        if is_positive(value):
            return float(value)
        return self._wrong(f"{key}={value!r}; expected a finite number above 0", default)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if isinstance(value, bool):
            return value
        return self._wrong(f"{key}={value!r}; expected true or false", default)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A part of the config; empty where it is absent or null."""
        value = self.get(key, {})
        if isinstance(value, dict):
            return value
        return self._wrong(f"{key}={value!r}; expected settings by name", {})

    def part(self, key: str) -> "ConfigReader":
        """The same to be read; problems come to the same list."""
        return self._other(self.mapping(key))

    def get(self, key: str, default: Any) -> Any:
        """`default` where the key is absent or null."""
        value = self.hf.get(key)
        return default if value is None else value

    def _wrong(self, problem: str, stand_in: Any) -> Any:
        """Note the problem; the stand-in lets reading go on to the next one."""
        self.problems.append(problem)
        return stand_in

    def refuse(self, key: str, allowed: tuple[Any, ...], why: str) -> None:
        """A setting that would be computed wrongly is a problem, never ignored. Absent is fine."""
        if key in self.hf and self.hf[key] not in allowed:
            expected = " or ".join(map(repr, allowed))
            self.problems.append(f"{key}={self.hf[key]!r}; expected {expected}: {why}")

    def choose(self, key: str, meanings: Mapping[str, str], default: str = "") -> str:
        """What the value stands for with us."""
        value = self.hf.get(key, default or None)
        if isinstance(value, str) and value in meanings:
            return meanings[value]
        expected = ", ".join(map(repr, meanings))
        return self._wrong(f"{key}={value!r}; expected one of {expected}", [*meanings.values()][0])

    def replace(self, **changes: Any) -> "ConfigReader":
        """The same config with other values; problems come to the same list."""
        return self._other({**self.hf, **changes})

    def with_defaults(self, **defaults: Any) -> "ConfigReader":
        """The same config with values for keys that it lacks: transformers' own, of the family.
        A null stays, since it may mean something else or nothing."""
        return self._other({**defaults, **self.hf})

    def _other(self, hf: Mapping[str, Any]) -> "ConfigReader":
        other = ConfigReader(hf)
        other.problems = self.problems
        return other

    def finish(self) -> None:
        if self.problems:  # what is read twice is named once
            named = "\n  ".join(dict.fromkeys(self.problems))
            raise MftError(f"config.json cannot be used:\n  {named}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """The tensors of one parameter. `{layer}` and `{expert}` in `hf` are numbers; our side stacks
    them in front. A tensor in layout "transposed" is [out, in] in HF, [in, out] here.
    """

    hf: str
    path: str
    layout: Layout
    layers: tuple[int, ...] | None  # HF's numbers of the stacked layers
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
    lost_in_peft: paths whose adapters peft does not load, as a regular expression. transformers
               holds experts as one tensor, and peft looks for theirs by model type and name
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
        keys = ConfigReader(hf)
        settings = self.read(keys)
        try:
            config = ModelConfig(**settings)
        except MftError as error:  # listed beside the others, unless it follows from them
            keys.problems += [] if keys.problems else [str(error)]
            config = None
        keys.finish()
        assert config is not None
        return config

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
    if layers is not None:  # layers before those with experts have few names of their own
        inner = inner.rsplit("/", 1)[0]
        own = stack.startswith("first_") and f"first_layers/{inner}" in family.names
        module = f"{'first_' if own else ''}layers/{inner}"
    hf = family.names[module] + (".bias" if kind == "bias" else ".weight")
    experts = config.experts.num if config.experts and "{expert}" in hf else 0
    return Entry(hf, path, "transposed" if kind == "kernel" else "same", layers, experts)


ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}  # HF's names of the activations of a plain feed-forward, and ours
