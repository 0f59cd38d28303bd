"""A Hugging Face folder -> sharded, already frozen parameters, tensor by tensor.

Everything that can be wrong with a checkpoint is found from the safetensors headers, before any
memory is spent. Then each tensor goes from the mapped file straight to its devices:

    file [out, in] -> view [in, out] -> shards -> store_weight (jit) -> leaf[layer], leaf [N, ...]

so the host holds about one tensor, and the devices the stored leaves plus one dense layer.
"""

import functools
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mft_jax.arrays import over_stack
from mft_jax.huggingface.folders import has_weights
from mft_jax.huggingface.tensors import (
    DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    Span,
    read,
    read_json,
    read_spans,
    same_values,
    weight_files,
)
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import init_params
from mft_jax.models.families import FAMILIES
from mft_jax.models.families.base import Entry, Family
from mft_jax.models.params import ParamInfo, ParamInfos, param_infos
from mft_jax.types import MftError, Params, suggest

StoreWeight = Callable[[ParamInfo, jax.Array], Any]
Shardings = Callable[[ParamInfo, Any], Any]
OnBytes = Callable[[int, int], None]

SAMPLED_BYTES = 65536


def read_model(folder: Path) -> tuple[Family, ModelConfig]:
    """Which family the folder's config.json names, and the decoder that it describes."""
    file = folder / "config.json"
    hf = read_json(file)
    name = hf.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        hint = suggest(str(name).lower(), FAMILIES, most=3)
        raise MftError(
            f"{file}: model_type={name!r} is not supported; expected one of "
            f"{', '.join(sorted(FAMILIES))}{hint and f'; {hint}'}"
        )
    family = FAMILIES[name]
    try:
        return family, family.read_config(hf)
    except MftError as error:
        raise MftError(f"{folder}: {error}") from error


def hf_shape(entry: Entry, infos: ParamInfos) -> tuple[int, ...]:
    """The shape of one HF tensor of an entry."""
    info = infos[entry.path]
    shape = info.shape[len(info.stack) :]
    return shape[::-1] if entry.layout == "transposed" else shape


def checked_spans(folder: Path, family: Family, model_config: ModelConfig) -> dict[str, Span]:
    """Every tensor the model needs, by HF name. One `MftError` lists all that is wrong."""
    found: dict[str, Span] = {}
    damaged: set[str] = set()
    problems: list[str] = []
    for file in weight_files(folder):
        try:
            spans = read_spans(file)
        except MftError as error:
            problems.append(str(error))
            damaged.add(file.name)
            continue
        twice = sorted(found.keys() & spans.keys())
        problems += [f"{n} is in {found[n].file.name} and in {file.name}" for n in twice]
        found |= spans
    infos = param_infos(model_config)
    expected = {
        name: hf_shape(entry, infos)
        for entry in family.entries(model_config)
        for name, _ in entry.tensors()
    }
    readable = expected
    if damaged:  # what lies in a file that cannot be read is not missing, too
        places = dict.fromkeys(expected, SINGLE_FILE)
        if SINGLE_FILE not in damaged:
            places = read_json(folder / INDEX_FILE)["weight_map"]
        readable = {n: shape for n, shape in expected.items() if places.get(n) not in damaged}
    problems += _differences(readable, found, family, model_config)
    if problems:
        shown = problems[:20] + [f"... and {len(problems) - 20} more"] * (len(problems) > 20)
        raise MftError(
            f"{folder} does not hold the model that its config.json describes:\n  "
            + "\n  ".join(shown)
        )
    return {name: found[name] for name in expected}


def _differences(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Span],
    family: Family,
    model_config: ModelConfig,
) -> list[str]:
    problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    head, embedding = (f"{family.names[name]}.weight" for name in ("head", "embedding"))
    for name, span in found.items():
        if name.endswith(family.ignored):  # constants that old checkpoints store
            continue
        if name == head and model_config.tied_head:
            table = found.get(embedding, span)
            if {span.dtype, table.dtype} <= DTYPES.keys() and not same_values(span, table):
                problems.append(
                    f"{head} is not {embedding}, though config.json ties them; if the model has a "
                    'head of its own, set "tie_word_embeddings": false'
                )
        elif name not in expected:
            problems.append(f"unexpected: {name} {span.shape}")
        elif span.shape != expected[name]:
            problems.append(f"{name}: shape {span.shape}, expected {expected[name]}")
        elif span.dtype not in DTYPES:
            problems.append(f"{name}: dtype {span.dtype}, expected one of {', '.join(DTYPES)}")
    return problems


def fingerprint(folder: Path) -> int:
    """A checksum of config.json and of the weights: the sizes and 16 blocks of every file."""
    check = zlib.crc32(json.dumps(read_json(folder / "config.json"), sort_keys=True).encode())
    for file in weight_files(folder) if has_weights(folder) else ():
        size = file.stat().st_size
        check = zlib.crc32(str(size).encode(), check)
        with file.open("rb") as stream:
            for start in np.linspace(0, max(size - SAMPLED_BYTES, 0), 16, dtype=np.int64):
                stream.seek(int(start))
                check = zlib.crc32(stream.read(SAMPLED_BYTES), check)
    return check


def load_params(
    folder: Path,
    family: Family,
    model_config: ModelConfig,
    *,
    store_weight: StoreWeight,
    shardings: Shardings,
    spans: Mapping[str, Span] | None = None,
    on_bytes: OnBytes | None = None,
) -> Params:
    """The checkpoint as `{path: leaf}`, stacked, frozen and placed.

    `store_weight(info, weight)` is the stored form of one layer's weight, traced under jit.
    `shardings(info, leaf)` gives the `NamedSharding`s of a leaf (of shapes): it is asked for the
    stacked leaf and for one layer's dense weight. `spans` are those of `checked_spans`, where they
    are known already. `on_bytes` gets bytes read and bytes in all.
    """
    spans = checked_spans(folder, family, model_config) if spans is None else spans
    infos = param_infos(model_config)
    total = sum(span.nbytes for span in spans.values())
    entries = family.entries(model_config)
    # All leaves are described before the first is read: a weight that cannot be quantised, or that
    # the mesh does not divide, is found before memory is spent.
    plans = [_plan(infos[entry.path], store_weight, shardings) for entry in entries]
    done = 0
    params: Params = {}
    for entry, plan in zip(entries, plans, strict=True):
        leaf, insert = _leaf_builder(plan, store_weight)
        for name, index in entry.tensors():
            weight = _place(entry, plan.info, shardings, read(spans[name]))
            leaf = insert(leaf, weight, index)
            # Wait, or the queue of dispatched tensors would hold many of them at once.
            jax.block_until_ready(leaf)
            done += spans[name].nbytes
            if on_bytes is not None:
                on_bytes(done, total)
        params[entry.path] = leaf
    return params


def _place(entry: Entry, info: ParamInfo, shardings: Shardings, tensor: np.ndarray) -> jax.Array:
    """The dense weight in our layout, on its devices; each process reads only its shards."""
    weight = tensor.T if entry.layout == "transposed" else tensor
    sharding = shardings(info, jax.ShapeDtypeStruct(weight.shape, weight.dtype))
    # A copy: the CPU backend may keep the array it is given, and the map is of a file.
    return jax.make_array_from_callback(
        weight.shape, sharding, lambda index: np.array(weight[index], order="C")
    )


class _Plan(NamedTuple):
    """A leaf before it is made: whether a cast is all that stores it, its shapes, its placing."""

    info: ParamInfo
    cast: bool
    shapes: Any
    target: Any
    whole: NamedSharding


def _plan(info: ParamInfo, store_weight: StoreWeight, shardings: Shardings) -> _Plan:
    one = jax.ShapeDtypeStruct(info.shape[len(info.stack) :], info.dtype)
    frozen = jax.eval_shape(functools.partial(store_weight, info), one)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*info.stack, *x.shape), x.dtype), frozen)
    whole = NamedSharding(shardings(info, one).mesh, PartitionSpec())
    cast = jax.tree.structure(frozen) == jax.tree.structure(one)
    return _Plan(info, cast, shapes, shardings(info, shapes), whole)


def _leaf_builder(
    plan: _Plan, store_weight: StoreWeight
) -> tuple[Any, Callable[[Any, jax.Array, tuple[int, ...]], Any]]:
    """The empty leaf, and `insert(leaf, weight, index) -> leaf`, which donates the leaf."""

    def store(weight: jax.Array) -> Any:
        if plan.cast:  # elementwise, shard by shard
            return store_weight(plan.info, weight)
        # Quantisation reduces over the weight. On the whole of it, the codes are the same on
        # every mesh; on shards the order of the sums would move a scale by an ulp.
        weight = jax.lax.with_sharding_constraint(weight, plan.whole)
        return jax.lax.with_sharding_constraint(store_weight(plan.info, weight), plan.whole)

    def put(leaf: jax.Array, stored: jax.Array, index: tuple[Any, ...]) -> jax.Array:
        stored = stored.reshape((1,) * len(index) + stored.shape)
        start = (*index, *(0,) * (leaf.ndim - len(index)))
        return jax.lax.dynamic_update_slice(leaf, stored, start)

    def insert(leaf: Any, weight: jax.Array, index: tuple[Any, ...]) -> Any:
        stored = store(weight)
        return jax.tree.map(lambda x, y: put(x, y, index), leaf, stored) if index else stored

    empty = jax.tree.map(
        lambda x, s: jnp.zeros(x.shape, x.dtype, device=s), plan.shapes, plan.target
    )
    return empty, jax.jit(insert, donate_argnums=0, out_shardings=plan.target)


def random_params(
    model_config: ModelConfig,
    seed: int,
    *,
    store_weight: StoreWeight,
    shardings: Shardings,
) -> Params:
    """What `load_params` gives, from `init_params` instead of a file: training from scratch."""
    infos = param_infos(model_config)

    def make() -> Params:
        params = init_params(model_config, seed)
        return {path: store(infos[path], weight) for path, weight in params.items()}

    def store(info: ParamInfo, weight: jax.Array) -> Any:
        return over_stack(functools.partial(store_weight, info), len(info.stack))(weight)

    shapes = jax.eval_shape(make)
    target = {path: shardings(infos[path], leaf) for path, leaf in shapes.items()}
    return jax.jit(make, out_shardings=target)()
