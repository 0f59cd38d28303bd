"""What is frozen and what is trained, put together; and how much of each there is.

`combine` makes the parameters that the decoder multiplies by. It runs inside the step: the
trainable tree is its only differentiable input.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mft_jax.finetune.tuning import TABLES, FinetuneConfig, Shapes, is_linear
from mft_jax.types import Params
from mft_jax.weights.lora import LoraArray, LoraTable, TaskLoraArray
from mft_jax.weights.quantized import QuantizedDtype, quantize, stored_bits


def combine(
    tuning: FinetuneConfig,
    trainable: Params,
    frozen: Params,
    dtype: jax.typing.DTypeLike,
    key: Key[Array, ""] | None = None,
) -> Params:
    """The parameters to compute with, trainable parts cast to the compute dtype.

    With a `key` adapters drop out: give none in evaluation.
    """
    if tuning.method == "full":
        return {path: _compute(tuning, path, w, dtype) for path, w in trainable.items()}
    adapters: Params = {}
    for path, adapter in trainable.items():
        rest = _dropout(tuning, path, adapter["a"], sorted(trainable).index(path), key)
        cast = {name: part.astype(dtype) for name, part in adapter.items() if name != "magnitude"}
        kind = LoraTable if path in TABLES.values() else LoraArray
        magnitude = {k: v for k, v in adapter.items() if k == "magnitude"}
        adapters[path] = kind(frozen[path], **cast, **magnitude, scale=tuning.scale, **rest)
    return {**frozen, **adapters}


def _compute(
    tuning: FinetuneConfig, path: str, weight: Array, dtype: jax.typing.DTypeLike
) -> Array:
    """A trained weight as it is multiplied; quantised ones take gradients as if they were not."""
    if is_linear(path) and tuning.stored:
        rounded: Callable = functools.partial(_round_trip, dtype=tuning.stored)
        for _ in weight.shape[:-2]:
            rounded = jax.vmap(rounded)
        weight = weight + jax.lax.stop_gradient(rounded(weight) - weight)
    return weight.astype(dtype) if path.endswith(("kernel", "table")) else weight


def _round_trip(weight: Array, dtype: QuantizedDtype) -> Array:
    return quantize(weight, dtype).dequantize(weight.dtype)


def _dropout(
    tuning: FinetuneConfig, path: str, a: Array, index: int, key: Key[Array, ""] | None
) -> dict[str, Any]:
    """Fields of an adapter that drops out: its own key, one for each of its layers."""
    if key is None or not tuning.dropout or path == TABLES["embedding"]:
        return {}
    own = jax.random.fold_in(key, index)
    keys = own if path in TABLES.values() else jax.random.split(own, a.shape[0])
    return {"key": keys, "rate": tuning.dropout}


def repeat_by_task(trainable: Params, num_tasks: int) -> Params:
    """Adapters [N, ...] with a task axis behind the layers', for `combine_by_task`."""
    return jax.tree.map(lambda x: jnp.repeat(x[:, None], num_tasks, axis=1), trainable)


def tasks_first(grads: Params) -> Params:
    """Gradients by the parts of `repeat_by_task`, [T, N, ...]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), grads)


def combine_by_task(
    tuning: FinetuneConfig,
    repeated: Params,
    frozen: Params,
    dtype: jax.typing.DTypeLike,
    task_ids: Int[Array, "B L"],
    key: Key[Array, ""] | None = None,
) -> Params:
    """`combine` for adapters of `repeat_by_task`: their gradients come out per task."""
    adapters: Params = {}
    for path, adapter in repeated.items():
        rest = _dropout(tuning, path, adapter["a"], sorted(repeated).index(path), key)
        a, b = adapter["a"].astype(dtype), adapter["b"].astype(dtype)
        ids = jnp.broadcast_to(task_ids, (len(a), *task_ids.shape))  # scanned with the layer
        magnitude = adapter.get("magnitude")
        adapters[path] = TaskLoraArray(frozen[path], a, b, ids, tuning.scale, magnitude, **rest)
    return {**frozen, **adapters}


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """`stored_bytes` is what frozen and trainable weights occupy on an accelerator."""

    total: int
    trainable: int
    stored_bytes: int
    bits_per_weight: float  # of the linear layers


def count_parameters(
    tuning: FinetuneConfig, shapes: Shapes, trainable: Params, dtype: jax.typing.DTypeLike
) -> ParameterCount:
    sizes = {path: math.prod(shape.shape) for path, shape in shapes.items()}
    full = tuning.method == "full"
    dense_bits = 32 if full else 8 * jnp.dtype(dtype).itemsize

    def bits(path: str) -> int:
        if tuning.stored and not full and is_linear(path):
            return stored_bits(shapes[path].shape, tuning.stored)
        return dense_bits * sizes[path]

    linear = [path for path in shapes if is_linear(path)]
    in_training = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    adapters = 0 if full else in_training
    return ParameterCount(
        total=sum(sizes.values()),
        trainable=in_training,
        stored_bytes=sum(map(bits, shapes)) // 8 + 4 * adapters,
        bits_per_weight=sum(map(bits, linear)) / sum(sizes[path] for path in linear),
    )
