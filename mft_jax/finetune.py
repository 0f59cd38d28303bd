"""full | lora | qlora as a composition of three steps: freeze, attach, combine.

    qlora    frozen  {path: NF4Array | dense}      trainable {path: {"a": ..., "b": ...}}
    lora     frozen  {path: dense}                 trainable the same
    full     frozen  {}                            trainable {path: dense float32}

`combine` puts both together into the parameters that the decoder multiplies by. The trainable
tree is all that is differentiated, optimised and checkpointed.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.models.decoder import Params
from mft_jax.types import MftError, at_least
from mft_jax.weights.lora import LoraArray, TaskLoraArray
from mft_jax.weights.quantized import QuantizedDtype, quantize, stored_bits


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """`targets`: "all_linear", or patterns over layer names such as "attention/*" and "mlp/down".

    The adapter's update is scaled by `alpha / rank`. `quantization` is read by `qlora` alone.
    """

    method: Literal["full", "lora", "qlora"] = "qlora"
    quantization: QuantizedDtype = "nf4"
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("all_linear",)

    def __post_init__(self) -> None:
        at_least("finetune", self, rank=1)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


Shapes = Mapping[str, jax.ShapeDtypeStruct]


def is_linear(path: str) -> bool:
    """Whether `path` is a layer's matrix: what is quantised and may carry an adapter."""
    return path.startswith("layers/") and path.endswith("/kernel")


def layer_name(path: str) -> str:
    """`layers/attention/q/kernel` -> `attention/q`."""
    return path.removeprefix("layers/").removesuffix("/kernel")


def adapted_paths(config: FinetuneConfig, shapes: Shapes) -> list[str]:
    """The matrices that get an adapter, sorted. Every pattern must match at least one."""
    linear = {layer_name(path): path for path in shapes if is_linear(path)}
    chosen: set[str] = set()
    for pattern in config.targets:
        names = list(linear) if pattern == "all_linear" else fnmatch.filter(linear, pattern)
        if not names:
            raise MftError(
                f"finetune.targets: {pattern!r} matches no linear layer; expected 'all_linear' or "
                f"patterns over {', '.join(sorted(linear))}"
            )
        chosen.update(linear[name] for name in names)
    return sorted(chosen)


def freeze(
    config: FinetuneConfig, path: str, weight: Float[Array, "*shape"], dtype: jax.typing.DTypeLike
) -> Any:
    """One layer's weight as it is stored. `full` keeps float32 masters; else it is frozen.

    Pure and traceable, so the importer runs it under `jit`, tensor by tensor.
    """
    if config.method == "full":
        return weight.astype(jnp.float32)
    if config.method == "qlora" and is_linear(path):
        return quantize(weight, config.quantization)
    return weight.astype(dtype)


def init_trainable(config: FinetuneConfig, params: Params, shapes: Shapes, seed: int) -> Params:
    """Adapters with A ~ Kaiming uniform (bound 1/sqrt(in), as PEFT) and B = 0; `full`: all."""
    if config.method == "full":
        return params
    trainable = {}
    for index, path in enumerate(adapted_paths(config, shapes)):
        *stack, d_in, d_out = shapes[path].shape
        key = jax.random.fold_in(jax.random.key(seed), index)
        bound = 1.0 / math.sqrt(d_in)
        a = jax.random.uniform(key, (*stack, d_in, config.rank), jnp.float32, -bound, bound)
        trainable[path] = {"a": a, "b": jnp.zeros((*stack, config.rank, d_out), jnp.float32)}
    return trainable


def init_frozen(config: FinetuneConfig, params: Params) -> Params:
    return {} if config.method == "full" else params


def combine(
    config: FinetuneConfig, trainable: Params, frozen: Params, dtype: jax.typing.DTypeLike
) -> Params:
    """The parameters to compute with, trainable parts cast to the compute dtype."""
    if config.method == "full":
        return {
            path: weight.astype(dtype) if path.endswith(("kernel", "table")) else weight
            for path, weight in trainable.items()
        }
    adapters = {
        path: LoraArray(frozen[path], ab["a"].astype(dtype), ab["b"].astype(dtype), config.scale)
        for path, ab in trainable.items()
    }
    return {**frozen, **adapters}


def repeat_by_task(trainable: Params, num_tasks: int) -> Params:
    """Adapters with a task axis before their two matrix axes, for `combine_by_task`."""
    return jax.tree.map(lambda x: jnp.repeat(x[..., None, :, :], num_tasks, axis=-3), trainable)


def combine_by_task(
    config: FinetuneConfig,
    repeated: Params,
    frozen: Params,
    dtype: jax.typing.DTypeLike,
    task_ids: Int[Array, "B L"],
) -> Params:
    """`combine` for adapters of `repeat_by_task`: their gradients come out per task."""
    adapters = {}
    for path, ab in repeated.items():
        a, b = ab["a"].astype(dtype), ab["b"].astype(dtype)
        ids = jnp.broadcast_to(task_ids, (*a.shape[:-3], *task_ids.shape))  # scanned with the layer
        adapters[path] = TaskLoraArray(frozen[path], a, b, ids, config.scale)
    return {**frozen, **adapters}


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """`stored_bytes` is what frozen and trainable weights occupy on an accelerator."""

    total: int
    trainable: int
    stored_bytes: int
    bits_per_weight: float  # of the linear layers


def count_parameters(
    config: FinetuneConfig, shapes: Shapes, trainable: Params, dtype: jax.typing.DTypeLike
) -> ParameterCount:
    sizes = {path: math.prod(shape.shape) for path, shape in shapes.items()}
    dense_bits = 32 if config.method == "full" else 8 * jnp.dtype(dtype).itemsize

    def bits(path: str) -> int:
        if config.method == "qlora" and is_linear(path):
            return stored_bits(shapes[path].shape, config.quantization)
        return dense_bits * sizes[path]

    linear = [path for path in shapes if is_linear(path)]
    in_training = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    adapters = 0 if config.method == "full" else in_training
    return ParameterCount(
        total=sum(sizes.values()),
        trainable=in_training,
        stored_bytes=sum(map(bits, shapes)) // 8 + 4 * adapters,
        bits_per_weight=sum(map(bits, linear)) / sum(sizes[path] for path in linear),
    )
