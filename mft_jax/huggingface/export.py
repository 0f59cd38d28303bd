"""Export of a fine-tuned model as an ordinary Hugging Face folder, written tensor by tensor.

`finetune.merge` defines which weights are merged.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mft_jax.finetune.merge import (
    TrainedWeights,
    merge_with_original,
    merge_with_stored,
    trained_weight,
)
from mft_jax.huggingface.base_weights import checked_spans, hf_shape
from mft_jax.huggingface.folders import has_weights, own_files
from mft_jax.huggingface.output import new_folder
from mft_jax.huggingface.tensors import (
    DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    Span,
    TensorType,
    read,
    read_json,
    write_tensors,
)
from mft_jax.models.config import ModelConfig
from mft_jax.models.families.base import Entry, Family
from mft_jax.models.params import ParamInfo, param_infos
from mft_jax.types import MftError

MAX_SHARD_BYTES = 5_000_000_000
COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
CONFIG_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of one HF tensor: `index` of our leaf of `entry`, written as `kind`."""

    entry: Entry
    info: ParamInfo
    index: tuple[int, ...]
    kind: TensorType


def save_merged(
    output: Path,
    *,
    base_folder: Path,
    trained: TrainedWeights,
    family: Family,
    model_config: ModelConfig,
    dequantized: bool,
    stop_ids: tuple[int, ...] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the weights in the base checkpoint's dtype, config.json and the tokenizer's files.

    `stop_ids` are added to the end tokens of generation_config.json, also if the base has none.
    With `dequantized` the base is the stored one (`trained.frozen`), else that of `base_folder`. A
    `full` export needs no weights in `base_folder`: then config.json names the dtype.
    One process must hold all shards of the parameters. Raises `MftError`, before anything is
    written, where `output` is not free or `base_folder` is incomplete.
    """
    full, infos = trained.tuning.method == "full", param_infos(model_config)
    adapted = {infos[path].kind for path in trained.trainable}
    if model_config.tied_head and not full and "embedding" in adapted:
        raise MftError(
            "the adapter of an embedding that is also the head cannot be merged: it changes the "
            "embedding, but not the head; use --format=peft"
        )
    scratch = full and not has_weights(base_folder)
    spans = {} if scratch else checked_spans(base_folder, family, model_config)
    sources = _sources(base_folder, spans, family, model_config)
    # Code that config.json's `auto_map` names is copied, never run.
    copied = own_files(base_folder, [*COPIED_FILES, "*.py"])
    merged = functools.partial(_merged, trained=trained, spans=spans, dequantized=dequantized)
    with new_folder(output) as partial:
        _write_shards(partial, sources, merged, max_shard_bytes)
        hf_config = read_json(base_folder / "config.json")
        hf_config["architectures"] = [family.architecture]
        (partial / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", "utf-8")
        for file in copied:
            shutil.copyfile(file, partial / file.name)
        _stop_at(partial / "generation_config.json", hf_config, stop_ids)


def _stop_at(file: Path, hf_config: dict[str, Any], stop_ids: tuple[int, ...]) -> None:
    """Add `stop_ids` to the end tokens, since a tuned model ends with its template's end token."""
    settings = read_json(file) if file.is_file() else {}
    known = settings.get("eos_token_id", hf_config.get("eos_token_id"))
    known = known if isinstance(known, list) else [known] * (known is not None)
    if missing := [i for i in stop_ids if i not in known]:
        settings["eos_token_id"] = [*known, *missing]
        file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _sources(
    base_folder: Path, spans: Mapping[str, Span], family: Family, model_config: ModelConfig
) -> dict[str, Source]:
    """The source of every tensor to write, by HF name."""
    hf_config = read_json(base_folder / "config.json")
    named = str(hf_config.get("dtype") or hf_config.get("torch_dtype") or "float32")
    if not spans and named not in CONFIG_DTYPES:
        raise MftError(
            f"{base_folder / 'config.json'}: dtype={named!r} cannot be written; expected one of "
            f"{', '.join(CONFIG_DTYPES)}"
        )
    infos, sources = param_infos(model_config), {}
    for entry in family.entries(model_config):
        info = infos[entry.path]
        shape = hf_shape(entry, infos)
        for name, index in entry.tensors():
            dtype = spans[name].dtype if name in spans else CONFIG_DTYPES[named]
            sources[name] = Source(entry, info, index, TensorType(dtype, shape))
    return sources


def _merged(
    name: str,
    source: Source,
    trained: TrainedWeights,
    spans: Mapping[str, Span],
    dequantized: bool,
) -> np.ndarray:
    """The merged weight in the layout and dtype of one HF tensor."""
    info, transposed = source.info, source.entry.layout == "transposed"
    if trained.tuning.method == "full":
        weight = trained_weight(trained, info, source.index, rounded=dequantized)
    elif dequantized:
        weight = merge_with_stored(trained, info, source.index)
    else:
        original = np.array(read(spans[name]))
        if not trained.is_changed(info.path):
            return original
        original = original.T if transposed else original
        weight = merge_with_original(trained, info, source.index, original)
    found = np.asarray(weight.astype(DTYPES[source.kind.dtype]))
    return found.T if transposed else found


def _write_shards(
    folder: Path,
    sources: Mapping[str, Source],
    weight: Callable[[str, Source], np.ndarray],
    max_shard_bytes: int,
) -> None:
    """Write one file, or shards of at most `max_shard_bytes` (or of one tensor) with an index."""
    shards: list[dict[str, Source]] = [{}]
    filled = 0
    for name, source in sources.items():
        if shards[-1] and filled + source.kind.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = source
        filled += source.kind.nbytes

    weight_map = {}
    for number, shard in enumerate(shards, 1):
        several = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = SINGLE_FILE if len(shards) == 1 else several
        weight_map |= dict.fromkeys(shard, file)
        types = {name: source.kind for name, source in shard.items()}
        tensors: Iterator[tuple[str, np.ndarray]] = (
            (name, weight(name, source)) for name, source in shard.items()
        )
        write_tensors(folder / file, types, tensors)
    if len(shards) > 1:
        total = sum(source.kind.nbytes for source in sources.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
