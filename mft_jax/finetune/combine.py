"""The combination of frozen and trained weights, and the size of each.

`combine` makes the parameters that the decoder multiplies by. It runs inside the step: only
its trainable tree is differentiated.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mft_jax.arrays import over_stack
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.models.params import ParamInfo, ParamInfos
from mft_jax.types import Params
from mft_jax.weights.lora import LoraArray, LoraTable, TaskLoraArray
from mft_jax.weights.protocol import dense
from mft_jax.weights.storage import QuantizedDtype, quantize, stored_bits


def combine(
    tuning: FinetuneConfig,
    infos: ParamInfos,
    trainable: Params,
    frozen: Params,
    dtype: jax.typing.DTypeLike,
    key: Key[Array, ""] | None = None,
) -> Params:
    """The parameters of the forward pass, with trainable parts cast to the compute dtype.

    With a `key` adapters have dropout: give none in evaluation.
    """
    if tuning.method == "full":
        return {path: _compute(tuning, infos[path], w, dtype) for path, w in trainable.items()}
    adapters: Params = {}
    for path, adapter in trainable.items():
        index = sorted(trainable).index(path)
        rest = _dropout(tuning, infos[path], adapter["a"], index, key)
        cast = {name: part.astype(dtype) for name, part in adapter.items() if name != "magnitude"}
        kind = LoraTable if infos[path].is_table else LoraArray
        magnitude = {k: v for k, v in adapter.items() if k == "magnitude"}
        adapters[path] = kind(frozen[path], **cast, **magnitude, scale=tuning.scale, **rest)
    return {**frozen, **adapters}


def _compute(
    tuning: FinetuneConfig, info: ParamInfo, weight: Array, dtype: jax.typing.DTypeLike
) -> Array:
    """A trained weight in the forward pass; gradients ignore that it is quantised."""
    if info.quantizable and tuning.stored:
        one = functools.partial(_round_trip, dtype=tuning.stored)
        rounded = over_stack(one, len(info.stack))
        weight = weight + jax.lax.stop_gradient(rounded(weight) - weight)
    return weight if info.is_vector else weight.astype(dtype)


def _round_trip(weight: Array, dtype: QuantizedDtype) -> Array:
    return dense(quantize(weight, dtype), weight.dtype)


def _dropout(
    tuning: FinetuneConfig, info: ParamInfo, a: Array, index: int, key: Key[Array, ""] | None
) -> dict[str, Any]:
    """Fields of an adapter with dropout: its rate, and one key for each of its layers."""
    if key is None or not tuning.dropout or info.kind == "embedding":
        return {}
    key = jax.random.fold_in(key, index)
    keys = key if info.is_table else jax.random.split(key, a.shape[0])
    return {"key": keys, "rate": tuning.dropout}


def repeat_by_task(trainable: Params, num_tasks: int) -> Params:
    """Adapters with a task axis after the layer axis, [N, T, ...], for `combine_by_task`."""
    return jax.tree.map(lambda x: jnp.repeat(x[:, None], num_tasks, axis=1), trainable)


def tasks_first(grads: Params) -> Params:
    """Gradients by the adapters of `repeat_by_task`, with the task axis first, [T, N, ...]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), grads)


def combine_by_task(
    tuning: FinetuneConfig,
    infos: ParamInfos,
    repeated: Params,
    frozen: Params,
    dtype: jax.typing.DTypeLike,
    task_ids: Int[Array, "B L"],
    key: Key[Array, ""] | None = None,
) -> Params:
    """`combine` for adapters of `repeat_by_task`: their gradients are per task."""
    adapters: Params = {}
    for path, adapter in repeated.items():
        index = sorted(repeated).index(path)
        rest = _dropout(tuning, infos[path], adapter["a"], index, key)
        a, b = adapter["a"].astype(dtype), adapter["b"].astype(dtype)
        ids = jnp.broadcast_to(task_ids, (len(a), *task_ids.shape))  # scanned with the layer
        magnitude = adapter.get("magnitude")
        adapters[path] = TaskLoraArray(frozen[path], a, b, ids, tuning.scale, magnitude, **rest)
    return {**frozen, **adapters}


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters; `stored_bytes` of frozen and trainable weights on an accelerator."""

    total: int
    trainable: int
    stored_bytes: int
    bits_per_weight: float  # of the linear layers


def count_parameters(
    tuning: FinetuneConfig, infos: ParamInfos, trainable: Params, dtype: jax.typing.DTypeLike
) -> ParameterCount:
    """Numbers of parameters and stored bytes of a model with its adapters."""
    sizes = {path: math.prod(info.shape) for path, info in infos.items()}
    full = tuning.method == "full"
    dense_bits = 32 if full else 8 * jnp.dtype(dtype).itemsize

    def bits(path: str) -> int:
        if tuning.stored and not full and infos[path].quantizable:
            return stored_bits(infos[path].shape, tuning.stored)
        return dense_bits * sizes[path]

    linear = [path for path, info in infos.items() if info.quantizable]
    in_training = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    adapters = 0 if full else in_training
    return ParameterCount(
        total=sum(sizes.values()),
        trainable=in_training,
        stored_bytes=sum(map(bits, infos)) // 8 + 4 * adapters,
        bits_per_weight=sum(map(bits, linear)) / sum(sizes[path] for path in linear),
    )
