"""Reading of adapters in PEFT's format, to continue a training by peft or MFTCoder.

The folder defines rank, alpha, targets, rslora and dora. Where layers or modules differ in rank
(`rank_pattern`), all get the largest: the added entries are zero, and stay zero. Where they differ
in alpha (`alpha_pattern`), b is scaled by the difference: the function is the same, with one alpha.
Modules that are not adapted in every layer get zeros in the others, which stay zero as well.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.huggingface.adapter_export import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    module_name,
    part_names,
)
from mft_jax.huggingface.adapter_settings import read_settings
from mft_jax.huggingface.tensors import DTYPES, Span, read, read_spans, same_values
from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Family
from mft_jax.models.params import ParamInfo, ParamInfos, param_infos
from mft_jax.types import MftError, Params

PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")


@dataclasses.dataclass(frozen=True)
class TensorSlot:
    """The place of a tensor of the file in our parameters."""

    info: ParamInfo
    part: str  # a, b or magnitude
    index: tuple[int, ...]
    module: str
    span: Span


@dataclasses.dataclass(frozen=True)
class ImportedAdapter:
    """An adapter whose headers were read and fit the model; `load` reads its values.

    `tuning` is the run's settings, with those of the adapter in place of theirs.
    """

    folder: Path
    tuning: FinetuneConfig
    base_model: str
    scales: Mapping[str, float]  # by module
    slots: tuple[TensorSlot, ...]
    carried: Mapping[str, Span]  # base tensors in the adapter's file, by HF name

    def check_base(self, base: Mapping[str, Span]) -> None:
        """Raise `MftError` if base tensors in the adapter's file differ from those of `base`."""
        changed = sorted(n for n, span in self.carried.items() if not same_values(span, base[n]))
        if changed:
            raise MftError(
                f"{self.folder} contains base weights that are not this model's: "
                f"{', '.join(changed)}; expected only the adapter, of an unchanged base; save it "
                "without them, or choose the base model that it was trained with"
            )

    def load(self) -> Params:
        """The adapters, {path: {"a", "b"[, "magnitude"]}}, in float32 on the host."""
        rank, scale = self.tuning.rank, self.tuning.scale
        trainable: Params = {}
        adapted = {slot.info.path: slot.info for slot in self.slots}
        for path, info in sorted(adapted.items()):
            d_in, d_out = info.product_widths
            parts: dict[str, tuple[int, ...]] = {"a": (d_in, rank), "b": (rank, d_out)}
            if self.tuning.dora:
                parts["magnitude"] = (d_out,)
            trainable[path] = {
                part: np.zeros((*info.stack, *size), np.float32) for part, size in parts.items()
            }
        for slot in self.slots:
            value = np.asarray(read(slot.span), np.float32).T
            leaf = trainable[slot.info.path][slot.part]
            if slot.part == "b":
                value = value * np.float32(self.scales[slot.module] / scale)
            leaf[slot.index][tuple(map(slice, value.shape))] = value
        return trainable


def read_adapter(
    folder: Path, tuning: FinetuneConfig, family: Family, model_config: ModelConfig
) -> ImportedAdapter:
    """The adapter of a folder, of which only headers are read. One `MftError` lists all faults."""
    problems: list[str] = []
    settings = read_settings(folder, problems)
    slots: list[TensorSlot] = []
    carried: dict[str, Span] = {}
    try:
        spans = read_spans(folder / WEIGHTS_FILE)
    except MftError as error:  # listed with the others
        problems.append(str(error))
    else:
        slots, carried = _slots(spans, family, model_config, problems)
        problems += _incomplete(slots, settings.dora)
        problems += _gaps(slots, family, model_config) if settings.dora else []
        problems += [
            f"{slot.module}: rank {slot.span.shape[0]}, but {CONFIG_FILE} says {expected}"
            for slot in slots
            if slot.part == "a" and settings.rank
            if slot.span.shape[0] != (expected := settings.expected_rank(slot.module))
        ]
    if problems:
        shown = problems[:20] + [f"... and {len(problems) - 20} more"] * (len(problems) > 20)
        raise MftError(
            f"{folder} is no adapter for this model ({family.name}, width {model_config.width}, "
            f"{model_config.num_layers} layers):\n  " + "\n  ".join(shown)
        )
    ranks = {slot.module: slot.span.shape[0] for slot in slots if slot.part == "a"}
    scales = {module: settings.scale(module, rank) for module, rank in ranks.items()}
    largest = max(ranks.values())
    scale = settings.alpha / settings.divisor(settings.rank)  # of modules without a pattern
    adopted = dataclasses.replace(
        tuning,
        rank=largest,
        alpha=scale * settings.divisor(largest),
        rslora=settings.rslora,
        dora=settings.dora,
        targets=_targets({slot.info.path for slot in slots}, tuning, param_infos(model_config)),
    )
    return ImportedAdapter(folder, adopted, settings.base_model, scales, tuple(slots), carried)


def _slots(
    spans: Mapping[str, Span],
    family: Family,
    model_config: ModelConfig,
    problems: list[str],
) -> tuple[list[TensorSlot], dict[str, Span]]:
    """The places of the tensors, and the base tensors (peft saves adapted embeddings and heads)."""
    infos = param_infos(model_config)
    known, base = {}, {}
    for entry in family.entries(model_config):
        for name, index in entry.tensors():
            module, _, kind = name.rpartition(".")
            for known_name in (module, module_name(module)):
                base[f"{known_name}.base_layer.{kind}"] = name
                if infos[entry.path].adaptable:
                    known[known_name] = (infos[entry.path], index)
    found, carried = [], {}
    for name, span in spans.items():
        if (bare := name.removeprefix(PREFIX)) in base:
            carried[base[bare]] = span
            continue
        module, ending = _split(bare)
        info, index = known.get(module, (None, ()))
        endings = part_names(info.kind) if info else {}
        part = {end: part for part, end in endings.items()}.get(ending)
        if info is None or part is None:
            problems.append(f"{name} {span.shape}: the model has no such module")
            continue
        d_in, d_out = info.product_widths
        expected = {"a": ("rank", d_in), "b": (d_out, "rank"), "magnitude": (d_out,)}[part]
        fits = len(expected) == len(span.shape) and all(
            want in ("rank", got) for want, got in zip(expected, span.shape, strict=True)
        )
        if not fits or span.dtype not in DTYPES:
            problems.append(f"{name}: {span.dtype}{span.shape}, expected {expected}")
        else:
            found.append(TensorSlot(info, part, index, module, span))
    return found, carried


def _split(name: str) -> tuple[str, str]:
    """The module and the ending, without the adapter's name ("default") that some files contain."""
    for end in PARTS:
        module, found, rest = name.partition(f".{end}")
        if found and rest in ("", ".weight", ".default", ".default.weight"):
            return module, end + (".weight" if end in ("lora_A", "lora_B") else "")
    return name, ""


def _incomplete(slots: list[TensorSlot], dora: bool) -> list[str]:
    """The modules that lack a part, or whose a and b differ in rank."""
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


def _gaps(slots: list[TensorSlot], family: Family, model_config: ModelConfig) -> list[str]:
    """The layers that are not adapted though others are: a magnitude of 0 would switch them off."""
    adapted = {slot.module for slot in slots}
    paths = {slot.info.path for slot in slots}
    return [
        f"use_dora: {module} is not adapted, though other layers are; expected all or none"
        for entry in family.entries(model_config)
        for module in (module_name(name) for name, _ in entry.tensors())
        if entry.path in paths and module not in adapted
    ]


def _targets(paths: set[str], tuning: FinetuneConfig, infos: ParamInfos) -> tuple[str, ...]:
    """The `finetune.targets` of these paths. All linear layers get that name, since one like
    "mlp/down" also means experts in models whose first layers have none."""
    by_default = dataclasses.replace(tuning, targets=("all_linear",))
    all_linear = set(adapted_paths(by_default, infos))
    whole = all_linear <= paths
    names = sorted({infos[path].layer for path in paths - (all_linear if whole else set())})
    return ("all_linear", *names) if whole else tuple(names)
