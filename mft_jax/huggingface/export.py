"""A fine-tuned model as an ordinary Hugging Face folder, written tensor by tensor.

    method full        the trained weights
    original base      W16 of the base folder + delta       (dequantized=False)
    dequantised base   dequantize(W4) + delta               (dequantized=True)

An adapter that started from its weight adds its change since then to the original.

A QLoRA adapter was trained on the dequantised weights, so only the third is the trained model; the
second starts from better weights that the adapter never saw.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mft_jax.finetune.tuning import TABLES, FinetuneConfig, is_linear
from mft_jax.huggingface.base_weights import checked_spans, hf_shape
from mft_jax.huggingface.folders import has_weights
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
from mft_jax.models.decoder import param_shapes
from mft_jax.models.families.base import Entry, Family
from mft_jax.types import MftError, Params
from mft_jax.weights.lora import LoraArray
from mft_jax.weights.quantized import IntArray, NF4Array, QuantizedDtype, quantize

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
    """Where one HF tensor comes from: `index` of our leaf of `entry`, stored as `kind`."""

    entry: Entry
    index: tuple[int, ...]
    kind: TensorType


def save_merged(
    output: Path,
    *,
    base_folder: Path,
    trainable: Params,
    start: Params,
    frozen: Params,
    tuning: FinetuneConfig,
    family: Family,
    config: ModelConfig,
    dequantized: bool,
    stop_ids: tuple[int, ...] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights in the base checkpoint's dtype, config.json and the tokenizer's files.

    `stop_ids` join the end tokens of generation_config.json, which is made if the base has none.

    `frozen` is needed for `dequantized` alone. A `full` export needs no weights in
    `base_folder`: then config.json names the dtype.
    One process must hold all shards of the parameters. Raises `MftError`, before anything is
    written, where `output` is not free or `base_folder` is incomplete.
    """
    full = tuning.method == "full"
    if config.tied_head and not full and TABLES["embedding"] in trainable:
        raise MftError(
            "the adapter of an embedding that is also the head cannot be merged: it changes what "
            "is read in, not what is put out; use --format=peft"
        )
    scratch = full and not has_weights(base_folder)
    spans = {} if scratch else checked_spans(base_folder, family, config)
    sources = _sources(base_folder, spans, family, config)
    merging = Merging(tuning, trainable, start, frozen, spans, dequantized)
    with new_folder(output) as partial:
        _write_shards(partial, sources, merging.weight, max_shard_bytes)
        hf_config = read_json(base_folder / "config.json")
        hf_config["architectures"] = [family.architecture]
        (partial / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", "utf-8")
        copied = [base_folder / name for name in COPIED_FILES]
        # Code that config.json's `auto_map` names: copied, never run.
        for file in [*copied, *base_folder.glob("*.py")]:
            if file.is_file():
                shutil.copyfile(file, partial / file.name)
        _stop_at(partial / "generation_config.json", hf_config, stop_ids)


def _stop_at(file: Path, hf_config: dict[str, Any], stop_ids: tuple[int, ...]) -> None:
    """A base model's generation ends at its end of text, a tuned one's at its template's end."""
    settings = read_json(file) if file.is_file() else {}
    known = settings.get("eos_token_id", hf_config.get("eos_token_id"))
    known = known if isinstance(known, list) else [known] * (known is not None)
    if missing := [i for i in stop_ids if i not in known]:
        settings["eos_token_id"] = [*known, *missing]
        file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _sources(
    base_folder: Path, spans: Mapping[str, Span], family: Family, config: ModelConfig
) -> dict[str, Source]:
    """Every tensor to write, by HF name."""
    hf_config = read_json(base_folder / "config.json")
    named = str(hf_config.get("dtype") or hf_config.get("torch_dtype") or "float32")
    if not spans and named not in CONFIG_DTYPES:
        raise MftError(
            f"{base_folder / 'config.json'}: dtype={named!r} cannot be written; expected one of "
            f"{', '.join(CONFIG_DTYPES)}"
        )
    shapes = param_shapes(config)
    sources = {}
    for entry in family.entries(config):
        shape = hf_shape(entry, shapes)
        for name, index in entry.tensors():
            dtype = spans[name].dtype if name in spans else CONFIG_DTYPES[named]
            sources[name] = Source(entry, index, TensorType(dtype, shape))
    return sources


@dataclasses.dataclass(frozen=True)
class Merging:
    """What `weight` puts together for every tensor."""

    finetune: FinetuneConfig
    trainable: Params
    start: Params
    frozen: Params
    spans: Mapping[str, Span]
    dequantized: bool

    def weight(self, name: str, source: Source) -> np.ndarray:
        """One merged HF tensor."""
        path, index = source.entry.path, source.index
        if self.finetune.method == "full":
            rounded = self.dequantized and is_linear(path)
            leaves = {"base": self.trainable[path][index]}
            return self._merge(source, leaves, rounded)
        adapter = {"adapter": {k: v[index] for k, v in self.trainable.get(path, {}).items()}}
        if self.dequantized:
            base = jax.tree.map(lambda x: x[index], self.frozen[path])
            return self._merge(source, {"base": base, **adapter})
        original = np.array(read(self.spans[name]))
        if not adapter["adapter"]:
            return original
        since = {"start": {k: v[index] for k, v in self.start.get(path, {}).items()}}
        if source.entry.layout == "transposed":
            original = original.T
        return self._merge(source, {"base": original, **adapter, **since})

    def _merge(self, source: Source, leaves: dict[str, Any], rounded: bool = False) -> np.ndarray:
        dense = _merge(
            leaves,
            scale=self.finetune.scale,
            stored=self.finetune.stored if rounded else None,
            head=source.entry.path == TABLES["head"],
        )
        dense = np.asarray(dense.astype(DTYPES[source.kind.dtype]))
        return dense.T if source.entry.layout == "transposed" else dense


@functools.partial(jax.jit, static_argnames=("scale", "stored", "head"))
def _merge(
    leaves: dict[str, Any], *, scale: float, stored: QuantizedDtype | None, head: bool
) -> Array:
    """`base + update` in our layout, in float32."""
    base, adapter, start = (leaves.get(name) for name in ("base", "adapter", "start"))
    if isinstance(base, (NF4Array, IntArray)):
        base = base.dequantize(jnp.float32)
    dense = jnp.asarray(base, jnp.float32)
    if stored is not None:
        dense = quantize(dense, stored).dequantize(jnp.float32)
    with jax.default_matmul_precision("highest"):
        if start:
            dense -= scale * start["a"] @ start["b"]
        if adapter and head:
            dense += scale * (adapter["a"] @ adapter["b"]).T
        elif adapter:
            dense = LoraArray(dense, **adapter, scale=scale).dense(dense)
    return dense


def _write_shards(
    folder: Path,
    sources: Mapping[str, Source],
    weight: Callable[[str, Source], np.ndarray],
    max_shard_bytes: int,
) -> None:
    """One file, or shards of at most `max_shard_bytes` (or of one tensor) with an index."""
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
