"""Stored weights and initial adapters.

    qlora    frozen  {path: NF4Array | dense}      trainable {path: {"a": ..., "b": ...}}
    lora     frozen  {path: dense}                 trainable the same
    full     frozen  {}                            trainable {path: dense float32}

Only the trainable tree is differentiated, optimised and checkpointed.
"""

import functools
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mft_jax.arrays import over_stack
from mft_jax.finetune import initialization
from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.models.params import ParamInfo, ParamInfos
from mft_jax.types import Params
from mft_jax.weights.lora import LoraArray, column_norm
from mft_jax.weights.protocol import split_adapter
from mft_jax.weights.storage import quantize


def store_weight(
    tuning: FinetuneConfig,
    info: ParamInfo,
    weight: Float[Array, "*shape"],
    dtype: jax.typing.DTypeLike,
    adapted: Collection[str] = (),
) -> Any:
    """The stored form of one layer's weight: for `full` a float32 master, otherwise frozen.

    With `init` pissa or loftq, a matrix in `adapted` becomes a `LoraArray`: the stored rest and the
    initial adapter. Traceable, so that the importer runs it under `jit`, tensor by tensor.
    """
    if tuning.method == "full":
        return weight.astype(jnp.float32)
    starts, scale = info.quantizable and info.path in adapted, tuning.scale
    if starts and tuning.init == "loftq" and tuning.stored:
        w = weight.astype(jnp.float32)
        iterations = tuning.loftq_iterations
        rest, a, b = initialization.loftq(w, tuning.rank, scale, tuning.stored, iterations)
        return LoraArray(rest, a, b, scale)
    if starts and tuning.init == "pissa":
        w, a, b = initialization.pissa(weight.astype(jnp.float32), tuning.rank, scale)
        rest = quantize(w, tuning.stored) if tuning.stored else w.astype(dtype)
        return LoraArray(rest, a, b, scale)
    if info.quantizable and tuning.stored:
        return quantize(weight, tuning.stored)
    return weight.astype(dtype)


def split_initial_adapters(params: Params) -> tuple[Params, Params]:
    """(stored weights, initial adapters) from weights of `store_weight`."""
    split = {path: split_adapter(weight) for path, weight in params.items()}
    stored = {path: base for path, (base, _) in split.items()}
    starts = {path: start for path, (_, start) in split.items() if start is not None}
    return stored, {path: {"a": start.a, "b": start.b} for path, start in starts.items()}


def init_trainable(
    tuning: FinetuneConfig,
    params: Params,
    infos: ParamInfos,
    seed: int,
    start: Params | None = None,
) -> Params:
    """Initial trainable tree: `params` for `full`, otherwise adapters.

    An adapter is that of `start`, if there is one, or A ~ Kaiming uniform (bound 1/sqrt(in), as
    PEFT) and B = 0 (of an embedding A = 0 and B normal). Of adapters only `dora` reads `params`.
    """
    if tuning.method == "full":
        return params
    trainable: Params = {}
    for index, path in enumerate(adapted_paths(tuning, infos)):
        key = jax.random.fold_in(jax.random.key(seed), index)
        adapter = (start or {}).get(path) or _random_adapter(tuning, infos[path], key)
        if tuning.dora:
            norm = functools.partial(column_norm, scale=tuning.scale)
            norms = over_stack(norm, len(infos[path].stack))
            magnitude = norms(params[path], adapter["a"], adapter["b"])
            adapter = {**adapter, "magnitude": magnitude}
        trainable[path] = adapter
    return trainable


def trainable_shapes(tuning: FinetuneConfig, infos: ParamInfos) -> Params:
    """Shapes of the trainable tree, in float32."""
    every = {path: info.struct for path, info in infos.items()}
    read = every if tuning.method == "full" or tuning.dora else {}
    return jax.eval_shape(lambda read: init_trainable(tuning, read, infos, 0), read)


def _random_adapter(tuning: FinetuneConfig, info: ParamInfo, key: Key[Array, ""]) -> Params:
    d_in, d_out = info.product_widths
    a_shape, b_shape = (*info.stack, d_in, tuning.rank), (*info.stack, tuning.rank, d_out)
    if info.kind == "embedding":
        return {"a": jnp.zeros(a_shape), "b": jax.random.normal(key, b_shape, jnp.float32)}
    bound = 1.0 / math.sqrt(d_in)
    a = jax.random.uniform(key, a_shape, jnp.float32, -bound, bound)
    return {"a": a, "b": jnp.zeros(b_shape, jnp.float32)}


def init_frozen(tuning: FinetuneConfig, params: Params) -> Params:
    """The frozen tree: empty for `full`, otherwise the stored weights."""
    return {} if tuning.method == "full" else params
