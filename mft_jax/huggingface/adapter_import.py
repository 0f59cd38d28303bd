"""Adapters in PEFT's format, read: to go on training what peft or MFTCoder trained.

The folder says rank, alpha, targets, rslora and dora. Where layers or modules differ in rank
(`rank_pattern`), all get the largest: what is added is zero, and stays so. Where they differ in
alpha (`alpha_pattern`), b takes the difference: the same function, and from then on one alpha.
Modules that are not adapted in every layer get zeros in the others, which stay so as well.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mft_jax.finetune.tuning import (
    TABLES,
    FinetuneConfig,
    Shapes,
    adapted_paths,
    adapter_widths,
    is_linear,
    layer_name,
)
from mft_jax.huggingface.adapter_export import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    module_name,
    part_names,
)
from mft_jax.huggingface.folders import refuse_pickles
from mft_jax.huggingface.tensors import DTYPES, Span, read, read_json, read_spans, same_values
from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Family, is_positive
from mft_jax.types import MftError, Params

# Settings whose adapters compute something else; each with the values that mean "not used".
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
    # Others move the base weights: such an adapter does not fit the base that is named beside it.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}
PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


@dataclasses.dataclass(frozen=True)
class TensorSlot:
    """Where a tensor of the file belongs."""

    path: str
    part: str  # a, b or magnitude
    index: tuple[int, ...]
    module: str
    span: Span


@dataclasses.dataclass(frozen=True)
class ImportedAdapter:
    """An adapter whose headers were read and fit the model; `load` reads the rest.

    `finetune` are the run's settings with what the adapter says in slot of what they said.
    """

    folder: Path
    finetune: FinetuneConfig
    base_model: str
    scales: Mapping[str, float]  # by module
    slots: tuple[TensorSlot, ...]
    carried: Mapping[str, Span]  # base tensors in the adapter's file, by HF name

    def check_base(self, base: Mapping[str, Span]) -> None:
        """Raise `MftError` where base tensors that came along are not those of `base`."""
        changed = sorted(n for n, span in self.carried.items() if not same_values(span, base[n]))
        if changed:
            raise MftError(
                f"{self.folder} carries base weights that are not this model's: "
                f"{', '.join(changed)}; expected the adapter alone, of an unchanged base"
            )

    def load(self, shapes: Shapes) -> Params:
        """{path: {"a", "b"[, "magnitude"]}} in float32, on the host."""
        rank, scale = self.finetune.rank, self.finetune.scale
        trainable: Params = {}
        for path in sorted({slot.path for slot in self.slots}):
            shape = shapes[path].shape
            d_in, d_out = adapter_widths(path, shape)
            parts: dict[str, tuple[int, ...]] = {"a": (d_in, rank), "b": (rank, d_out)}
            if self.finetune.dora:
                parts["magnitude"] = (d_out,)
            trainable[path] = {
                part: np.zeros((*shape[:-2], *size), np.float32) for part, size in parts.items()
            }
        for slot in self.slots:
            value = np.asarray(read(slot.span), np.float32).T
            leaf = trainable[slot.path][slot.part]
            if slot.part == "b":
                value = value * np.float32(self.scales[slot.module] / scale)
            leaf[slot.index][tuple(map(slice, value.shape))] = value
        return trainable


def read_adapter(
    folder: Path, finetune: FinetuneConfig, family: Family, config: ModelConfig, shapes: Shapes
) -> ImportedAdapter:
    """One `MftError` lists all that does not fit; no tensor is read."""
    problems: list[str] = []
    settings = _read_settings(folder, problems)
    rank, alpha = _size(settings, problems)
    ranks, alphas = (_pattern(settings, k, problems) for k in ("rank_pattern", "alpha_pattern"))
    dora, rslora = (_flag(settings, key, problems) for key in ("use_dora", "use_rslora"))
    slots: list[TensorSlot] = []
    carried: dict[str, Span] = {}
    try:
        spans = read_spans(folder / WEIGHTS_FILE)
    except MftError as error:  # it stays an error, listed beside the others
        problems.append(str(error))
    else:
        slots, carried = _slots(spans, family, config, shapes, problems)
        problems += _incomplete(slots, dora) + (_gaps(slots, family, config) if dora else [])
        problems += [
            f"{p.module}: rank {p.span.shape[0]}, but {CONFIG_FILE} says {said}"
            for p in slots
            if p.part == "a" and rank
            if p.span.shape[0] != (said := _matching(ranks, p.module, rank))
        ]
    if problems:
        shown = problems[:20] + [f"... and {len(problems) - 20} more"] * (len(problems) > 20)
        raise MftError(
            f"{folder} is no adapter for this model ({family.name}, width {config.width}, "
            f"{config.num_layers} layers):\n  " + "\n  ".join(shown)
        )
    own = {p.module: p.span.shape[0] for p in slots if p.part == "a"}
    scales = {
        module: _matching(alphas, module, alpha) / (r**0.5 if rslora else r)
        for module, r in own.items()
    }
    usual, largest = alpha / (rank**0.5 if rslora else rank), max(own.values())
    adopted = dataclasses.replace(
        finetune,
        rank=largest,
        alpha=usual * (largest**0.5 if rslora else largest),
        rslora=rslora,
        dora=dora,
        targets=_targets({slot.path for slot in slots}, finetune, shapes),
    )
    base_model = str(settings.get("base_model_name_or_path") or "an unnamed model")
    return ImportedAdapter(folder, adopted, base_model, scales, tuple(slots), carried)


def _read_settings(folder: Path, problems: list[str]) -> dict[str, Any]:
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


def _slots(
    spans: Mapping[str, Span],
    family: Family,
    config: ModelConfig,
    shapes: Shapes,
    problems: list[str],
) -> tuple[list[TensorSlot], dict[str, Span]]:
    """Where tensors belong, and the base's among them: peft saves an adapted embedding or head."""
    known, base = {}, {}
    for entry in family.entries(config):
        for name, index in entry.tensors():
            module, _, kind = name.rpartition(".")
            for called in (module, module_name(module)):
                base[f"{called}.base_layer.{kind}"] = name
                if is_linear(entry.path) or entry.path in TABLES.values():
                    known[called] = (entry.path, index)
    found, carried = [], {}
    for name, span in spans.items():
        if (bare := name.removeprefix(PREFIX)) in base:
            carried[base[bare]] = span
            continue
        module, ending = _split(bare)
        path, index = known.get(module, ("", ()))
        part = {end: part for part, end in part_names(path).items()}.get(ending)
        if not path or part is None:
            problems.append(f"{name} {span.shape}: the model has no such module")
            continue
        d_in, d_out = adapter_widths(path, shapes[path].shape)
        expected = {"a": ("rank", d_in), "b": (d_out, "rank"), "magnitude": (d_out,)}[part]
        fits = len(expected) == len(span.shape) and all(
            want in ("rank", got) for want, got in zip(expected, span.shape, strict=True)
        )
        if not fits or span.dtype not in DTYPES:
            problems.append(f"{name}: {span.dtype}{span.shape}, expected {expected}")
        else:
            found.append(TensorSlot(path, part, index, module, span))
    return found, carried


def _split(name: str) -> tuple[str, str]:
    """(module, ending); adapters saved with their name in it ("default") are the same."""
    for end in PARTS:
        module, found, rest = name.partition(f".{end}")
        if found and rest in ("", ".weight", ".default", ".default.weight"):
            return module, end + (".weight" if end in ("lora_A", "lora_B") else "")
    return name, ""


def _incomplete(slots: list[TensorSlot], dora: bool) -> list[str]:
    """Modules that lack a part, or whose a and b differ in rank."""
    parts: dict[str, dict[str, Span]] = {}
    for slot in slots:
        parts.setdefault(slot.module, {})[slot.part] = slot.span
    expected = {"a", "b"} | ({"magnitude"} if dora else set())
    problems = [] if slots else ["the file holds no tensor of an adapter"]
    for module, spans in parts.items():
        if set(spans) != expected:
            problems.append(f"{module} has {', '.join(sorted(spans))}; expected {sorted(expected)}")
        elif spans["a"].shape[0] != spans["b"].shape[1]:
            problems.append(
                f"{module}: rank {spans['a'].shape[0]} of A, {spans['b'].shape[1]} of B"
            )
    return problems


def _gaps(slots: list[TensorSlot], family: Family, config: ModelConfig) -> list[str]:
    """Layers that other layers' magnitudes leave out: they have none that changes nothing."""
    adapted = {slot.module for slot in slots}
    paths = {slot.path for slot in slots}
    return [
        f"use_dora: {module} is not adapted, though other layers are; expected all or none"
        for entry in family.entries(config)
        for module in (module_name(name) for name, _ in entry.tensors())
        if entry.path in paths and module not in adapted
    ]


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
    """Positive numbers by regular expression; empty where the key is absent or null."""
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


def _targets(paths: set[str], finetune: FinetuneConfig, shapes: Shapes) -> tuple[str, ...]:
    """`finetune.targets` of these. All linear layers are called so, since a name like "mlp/down"
    means experts as well where layers without them come first."""
    usual = set(adapted_paths(dataclasses.replace(finetune, targets=("all_linear",)), shapes))
    whole = usual <= paths
    names = sorted({layer_name(path) for path in paths - (usual if whole else set())})
    return ("all_linear", *names) if whole else tuple(names)


def _matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: the first key that the module's name ends with, as a regular expression."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
