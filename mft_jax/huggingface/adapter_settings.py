"""The settings in `adapter_config.json` of an adapter in PEFT's format."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mft_jax.huggingface.adapter_export import CONFIG_FILE, WEIGHTS_FILE
from mft_jax.huggingface.folders import refuse_pickles
from mft_jax.huggingface.tensors import read_json
from mft_jax.models.families.base import is_positive
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


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
    """The rank and alpha, and those of single modules by regular expressions over their names."""

    rank: int  # 0 where the file has no valid one
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
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
    if isinstance(rank, int) and rank >= 1 and is_positive(alpha):
        return rank, float(alpha)
    problems.append(f"r={rank!r}, lora_alpha={alpha!r}; expected positive numbers")
    return 0, 1.0


def _flag(settings: Mapping[str, Any], key: str, problems: list[str]) -> bool:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        problems.append(f"{key}={value!r}; expected true or false")
    return value is True


def _pattern(settings: Mapping[str, Any], key: str, problems: list[str]) -> dict[str, float]:
    """The positive numbers by regular expression; empty where the key is absent or null."""
    pattern = settings.get(key) or {}
    try:
        if isinstance(pattern, dict) and all(
            re.compile(name) and is_positive(value) for name, value in pattern.items()
        ):
            return pattern
    except re.error:
        pass  # the same problem as a pattern of another kind
    problems.append(f"{key}={pattern!r}; expected positive numbers by regular expression")
    return {}


def _matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first key, a regular expression, that matches the name's end, as in PEFT."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
