"""Weights as they are stored, and adapters as they start.

    qlora    frozen  {path: NF4Array | dense}      trainable {path: {"a": ..., "b": ...}}
    lora     frozen  {path: dense}                 trainable the same
    full     frozen  {}                            trainable {path: dense float32}

The trainable tree is all that is differentiated, optimised and checkpointed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mft_jax.finetune import initialization
from mft_jax.finetune.tuning import (
    TABLES,
    FinetuneConfig,
    Shapes,
    adapted_paths,
    adapter_widths,
    is_linear,
)
from mft_jax.types import Params
from mft_jax.weights.lora import LoraArray, column_norm
from mft_jax.weights.quantized import quantize


def store_weight(
    tuning: FinetuneConfig,
    path: str,
    weight: Float[Array, "*shape"],
    dtype: jax.typing.DTypeLike,
    adapted: Collection[str] = (),
) -> Any:
    """One layer's weight as it is stored. `full` keeps float32 masters; else it is frozen.

    With a start that follows from the weight, one of `adapted` becomes a `LoraArray`: the stored
    rest and the start. Pure and traceable, so the importer runs it under `jit`, tensor by tensor.
    """
    if tuning.method == "full":
        return weight.astype(jnp.float32)
    linear, scale = is_linear(path), tuning.scale
    if linear and path in adapted and tuning.init == "loftq" and tuning.stored:
        w = weight.astype(jnp.float32)
        turns = tuning.loftq_iterations
        rest, a, b = initialization.loftq(w, tuning.rank, scale, tuning.stored, turns)
        return LoraArray(rest, a, b, scale)
    if linear and path in adapted and tuning.init == "pissa":
        w, a, b = initialization.pissa(weight.astype(jnp.float32), tuning.rank, scale)
        rest = quantize(w, tuning.stored) if tuning.stored else w.astype(dtype)
        return LoraArray(rest, a, b, scale)
    if linear and tuning.stored:
        return quantize(weight, tuning.stored)
    return weight.astype(dtype)


def split_initial_adapters(params: Params) -> tuple[Params, Params]:
    """(stored weights, starts) of what `store_weight` made."""
    starts = {p: w for p, w in params.items() if isinstance(w, LoraArray)}
    stored = {**params, **{path: w.base for path, w in starts.items()}}
    return stored, {path: {"a": w.a, "b": w.b} for path, w in starts.items()}


def init_trainable(
    tuning: FinetuneConfig, params: Params, shapes: Shapes, seed: int, start: Params | None = None
) -> Params:
    """Adapters: from `start` where it has one, else A ~ Kaiming uniform (bound 1/sqrt(in), as PEFT)
    and B = 0 (of an embedding A = 0 and B normal). `full`: all of `params`, which else only
    `dora` reads."""
    if tuning.method == "full":
        return params
    trainable: Params = {}
    for index, path in enumerate(adapted_paths(tuning, shapes)):
        key = jax.random.fold_in(jax.random.key(seed), index)
        adapter = (start or {}).get(path) or _from_nothing(path, shapes[path].shape, tuning, key)
        if tuning.dora:
            norm: Callable = functools.partial(column_norm, scale=tuning.scale)
            for _ in shapes[path].shape[:-2]:
                norm = jax.vmap(norm)
            magnitude = norm(params[path], adapter["a"], adapter["b"])
            adapter = {**adapter, "magnitude": magnitude}
        trainable[path] = adapter
    return trainable


def trainable_shapes(tuning: FinetuneConfig, shapes: Shapes) -> Params:
    """What will be trained, in shapes (without the magnitudes of `dora`)."""
    if tuning.method == "full":
        return dict(shapes)
    plain = dataclasses.replace(tuning, dora=False)
    return jax.eval_shape(lambda: init_trainable(plain, {}, shapes, 0))


def _from_nothing(
    path: str, shape: tuple[int, ...], tuning: FinetuneConfig, key: Key[Array, ""]
) -> Params:
    stack = shape[:-2]
    d_in, d_out = adapter_widths(path, shape)
    a_shape, b_shape = (*stack, d_in, tuning.rank), (*stack, tuning.rank, d_out)
    if path == TABLES["embedding"]:
        return {"a": jnp.zeros(a_shape), "b": jax.random.normal(key, b_shape, jnp.float32)}
    bound = 1.0 / math.sqrt(d_in)
    a = jax.random.uniform(key, a_shape, jnp.float32, -bound, bound)
    return {"a": a, "b": jnp.zeros(b_shape, jnp.float32)}


def init_frozen(tuning: FinetuneConfig, params: Params) -> Params:
    return {} if tuning.method == "full" else params
