"""Loading of base weights from a Hugging Face folder, sharded and stored tensor by tensor.

All faults of a checkpoint are found from the safetensors headers, before memory is used. Then each
tensor is copied from the mapped file directly to its devices:

    file [out, in] -> view [in, out] -> shards -> store_weight (jit) -> leaf[layer], leaf [N, ...]

So the host holds about one tensor, and the devices the stored leaves plus one dense layer.
"""

import functools
import json
import zlib
from collections.abc import Callable, Hashable, Mapping
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
Insert = Callable[[Any, jax.Array, tuple[int, ...]], Any]

SAMPLED_BYTES = 65536


def read_model(folder: Path) -> tuple[Family, ModelConfig]:
    """The family and the decoder that the folder's config.json describes."""
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
    """The tensors that the model needs, by HF name. One `MftError` lists all faults."""
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
    if damaged:  # tensors of an unreadable file are not listed as missing
        file_of = dict.fromkeys(expected, SINGLE_FILE)
        if SINGLE_FILE not in damaged:
            file_of = read_json(folder / INDEX_FILE)["weight_map"]
        readable = {n: shape for n, shape in expected.items() if file_of.get(n) not in damaged}
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
        if name.endswith(family.ignored):  # constants in old checkpoints
            continue
        if name == head and model_config.tied_head:
            table = found.get(embedding, span)
            if {span.dtype, table.dtype} <= DTYPES.keys() and not same_values(span, table):
                problems.append(
                    f"{head} differs from {embedding}, though config.json ties them; if the model "
                    'has a separate head, set "tie_word_embeddings": false'
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
    """The checkpoint as `{path: leaf}`, with layers stacked, stored and sharded.

    `store_weight(info, weight)` is the stored form of one layer's weight, traced under jit, once
    for all weights of one kind, shape, stored form and sharding: a path may change nothing else.
    `shardings(info, leaf)` gives the `NamedSharding`s of a leaf (of shapes): the stacked leaf, or
    one layer's dense weight. `spans` is the result of `checked_spans`, if it is known already.
    `on_bytes` is called with the bytes read and the total.
    """
    spans = checked_spans(folder, family, model_config) if spans is None else spans
    infos = param_infos(model_config)
    total = sum(span.nbytes for span in spans.values())
    entries = family.entries(model_config)
    # All leaves are planned before the first is read: a weight that cannot be quantised, or that
    # the mesh does not divide, is found before memory is used.
    plans = [_plan(infos[entry.path], store_weight, shardings) for entry in entries]
    leaves = _empty_leaves({e.path: plan for e, plan in zip(entries, plans, strict=True)})
    inserts: dict[Hashable, Insert] = {}  # entries that are stored alike share one compilation
    done = 0
    params: Params = {}
    for entry, plan in zip(entries, plans, strict=True):
        leaf = leaves.pop(entry.path)
        if plan.signature not in inserts:
            inserts[plan.signature] = _insert(plan, store_weight)
        insert = inserts[plan.signature]
        for name, index in entry.tensors():
            weight = _to_devices(entry, plan.info, shardings, read(spans[name]))
            leaf = insert(leaf, weight, index)
            # Without this the queue of dispatched tensors would hold many of them at once.
            jax.block_until_ready(leaf)
            done += spans[name].nbytes
            if on_bytes is not None:
                on_bytes(done, total)
        params[entry.path] = leaf
    return params


def _to_devices(
    entry: Entry, info: ParamInfo, shardings: Shardings, tensor: np.ndarray
) -> jax.Array:
    """The dense weight in our layout, on its devices; each process reads only its shards."""
    weight = tensor.T if entry.layout == "transposed" else tensor
    sharding = shardings(info, jax.ShapeDtypeStruct(weight.shape, weight.dtype))
    # A copy, since the CPU backend may keep the array that it gets, here a map of a file.
    return jax.make_array_from_callback(
        weight.shape, sharding, lambda index: np.array(weight[index], order="C")
    )


class _Plan(NamedTuple):
    """The plan of a leaf: its shapes and shardings, and whether storing it is only a `cast`."""

    info: ParamInfo
    cast: bool
    shapes: Any
    target: Any
    whole: NamedSharding

    @property
    def signature(self) -> Hashable:
        """Everything that `_insert` depends on: kind, stack, stored shapes and their shardings."""
        shapes, form = jax.tree.flatten(self.shapes)
        shardings = jax.tree.leaves(self.target)
        return self.info.kind, self.info.stack, self.info.struct, form, *shapes, *shardings


def _plan(info: ParamInfo, store_weight: StoreWeight, shardings: Shardings) -> _Plan:
    one = jax.ShapeDtypeStruct(info.shape[len(info.stack) :], info.dtype)
    frozen = jax.eval_shape(functools.partial(store_weight, info), one)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*info.stack, *x.shape), x.dtype), frozen)
    whole = NamedSharding(shardings(info, one).mesh, PartitionSpec())
    cast = jax.tree.structure(frozen) == jax.tree.structure(one)
    return _Plan(info, cast, shapes, shardings(info, shapes), whole)


def _empty_leaves(plans: Mapping[str, _Plan]) -> dict[str, Any]:
    """All leaves, empty. One program makes them: many small ones take longer to compile."""
    shapes = {path: plan.shapes for path, plan in plans.items()}
    target = {path: plan.target for path, plan in plans.items()}

    def make() -> dict[str, Any]:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.jit(make, out_shardings=target)()


def _insert(plan: _Plan, store_weight: StoreWeight) -> Insert:
    """The compiled `insert(leaf, weight, index) -> leaf`, which donates the leaf."""

    def store(weight: jax.Array) -> Any:
        if plan.cast:  # elementwise, shard by shard
            return store_weight(plan.info, weight)
        # Quantisation reduces over the weight. On the whole weight the codes are the same on
        # every mesh; on shards the order of the sums would change a scale by an ulp.
        weight = jax.lax.with_sharding_constraint(weight, plan.whole)
        return jax.lax.with_sharding_constraint(store_weight(plan.info, weight), plan.whole)

    def put(leaf: jax.Array, stored: jax.Array, index: tuple[Any, ...]) -> jax.Array:
        stored = stored.reshape((1,) * len(index) + stored.shape)
        start = (*index, *(0,) * (leaf.ndim - len(index)))
        return jax.lax.dynamic_update_slice(leaf, stored, start)

    def insert(leaf: Any, weight: jax.Array, index: tuple[Any, ...]) -> Any:
        stored = store(weight)
        return jax.tree.map(lambda x, y: put(x, y, index), leaf, stored) if index else stored

    return jax.jit(insert, donate_argnums=0, out_shardings=plan.target)


def random_params(
    model_config: ModelConfig,
    seed: int,
    *,
    store_weight: StoreWeight,
    shardings: Shardings,
) -> Params:
    """The parameters as from `load_params`, but from `init_params`, for training from scratch."""
    infos = param_infos(model_config)

    def make() -> Params:
        params = init_params(model_config, seed)
        return {path: store(infos[path], weight) for path, weight in params.items()}

    def store(info: ParamInfo, weight: jax.Array) -> Any:
        return over_stack(functools.partial(store_weight, info), len(info.stack))(weight)

    shapes = jax.eval_shape(make)
    target = {path: shardings(infos[path], leaf) for path, leaf in shapes.items()}
    return jax.jit(make, out_shardings=target)()
