"""The settings in `adapter_config.json` of an adapter in PEFT's format."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mft_jax.huggingface.adapter_export import CONFIG_FILE, WEIGHTS_FILE
from mft_jax.huggingface.folders import refuse_pickles
from mft_jax.huggingface.module_patterns import ModulePattern, parse_pattern
from mft_jax.huggingface.tensors import read_json
from mft_jax.models.families.base import LIMIT, is_positive
from mft_jax.types import MftError

# Settings with which an adapter computes something else; each with the values that mean "not used".
UNUSED: Mapping[str, tuple[Any, ...]] = {
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
    "lora_bias": (None, False),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "megatron_config": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    # Other values change the base weights, so that the adapter does not fit the base that it names.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}

NumberByPattern = tuple[tuple[ModulePattern, float], ...]


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
    """The rank and alpha, and those of single modules by patterns over their names."""

    rank: int  # 0 where the file has no valid one
    alpha: float
    rank_pattern: NumberByPattern
    alpha_pattern: NumberByPattern
    dora: bool
    rslora: bool
    base_model: str

    def expected_rank(self, module: str) -> float:
        return _matching(self.rank_pattern, module, self.rank)

    def scale(self, module: str, rank: int) -> float:
        """The factor of the update of a module of this rank."""
        return _matching(self.alpha_pattern, module, self.alpha) / self.divisor(rank)

    def divisor(self, rank: int) -> float:
        """The divisor of alpha."""
        return rank**0.5 if self.rslora else rank


def read_settings(folder: Path, problems: list[str]) -> AdapterSettings:
    """The settings of a folder; faults go to `problems`. Raises `MftError` for missing files."""
    settings = _read_file(folder, problems)
    rank, alpha = _size(settings, problems)
    return AdapterSettings(
        rank=rank,
        alpha=alpha,
        rank_pattern=_pattern(settings, "rank_pattern", problems),
        alpha_pattern=_pattern(settings, "alpha_pattern", problems),
        dora=_flag(settings, "use_dora", problems),
        rslora=_flag(settings, "use_rslora", problems),
        base_model=str(settings.get("base_model_name_or_path") or "an unnamed model"),
    )


def _read_file(folder: Path, problems: list[str]) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        raise MftError(f"{folder} has no {CONFIG_FILE}; expected a folder in PEFT's format")
    if not (folder / WEIGHTS_FILE).is_file():
        refuse_pickles(folder, "adapter_model*.bin")
        raise MftError(f"{folder} has no {WEIGHTS_FILE}; save the adapter again")
    settings = read_json(folder / CONFIG_FILE)
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type={settings.get('peft_type')!r}; expected 'LORA'")
    problems += [
        f"{key}={settings[key]!r}; expected {' or '.join(map(repr, allowed))}"
        for key, allowed in UNUSED.items()
        if settings.get(key) not in allowed
    ]
    return settings


def _size(settings: Mapping[str, Any], problems: list[str]) -> tuple[int, float]:
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if isinstance(rank, int) and 1 <= rank < LIMIT and is_positive(alpha):
        return rank, float(alpha)
    problems.append(f"r={rank!r}, lora_alpha={alpha!r}; expected positive numbers")
    return 0, 1.0


def _flag(settings: Mapping[str, Any], key: str, problems: list[str]) -> bool:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        problems.append(f"{key}={value!r}; expected true or false")
    return value is True


def _pattern(settings: Mapping[str, Any], key: str, problems: list[str]) -> NumberByPattern:
    """The positive numbers by pattern; empty where the key is absent or null."""
    given = settings.get(key) or {}
    if not isinstance(given, dict) or not all(map(is_positive, given.values())):
        problems.append(f"{key}={given!r}; expected positive numbers by the name of a module")
        return ()
    parsed = {name: parse_pattern(name) for name in given}
    problems += [
        f"{key}: {name[:200]!r} is more than the name of a module; of regular expressions only "
        r"`.`, `\.`, `\d`, `\w`, `[0-9]`, `*`, `+`, `|`, `^` and `$` are read; name each module"
        for name, pattern in parsed.items()
        if pattern is None
    ]
    return tuple((pattern, given[name]) for name, pattern in parsed.items() if pattern is not None)


def _matching(pattern: NumberByPattern, module: str, default: float) -> float:
    """The value of the first key that matches the name's end, as in PEFT."""
    return next((value for key, value in pattern if key.matches(module)), default)
