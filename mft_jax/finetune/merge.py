"""The merge of base and adapter into plain weights, one matrix at a time.

    method full        the trained weights
    original base      W16 of the checkpoint + update
    stored base        the dequantised W4 + update

An adapter that was initialised from its weight adds its change to the original. A QLoRA adapter
was trained on the dequantised weights, so only the stored base gives the trained model; the
original gives more exact weights, which the adapter was not trained on.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.models.params import ParamInfo
from mft_jax.types import Params
from mft_jax.weights.lora import LoraArray
from mft_jax.weights.protocol import dense
from mft_jax.weights.storage import QuantizedDtype, quantize


@dataclasses.dataclass(frozen=True)
class TrainedWeights:
    """Result of a training run.

    start    {path: {"a", "b"}}, initial adapters whose product is not 0
    frozen   the stored base; needed only to merge with it
    """

    tuning: FinetuneConfig
    trainable: Params
    start: Params = dataclasses.field(default_factory=dict)
    frozen: Params = dataclasses.field(default_factory=dict)

    def is_changed(self, path: str) -> bool:
        """Whether training changed this weight."""
        return path in self.trainable


def trained_weight(
    trained: TrainedWeights, info: ParamInfo, index: tuple[int, ...], *, rounded: bool
) -> Array:
    """The weight of layer (and expert) `index` after a `full` fine-tune, in float32.

    `rounded`: quantised and dequantised, as in the forward pass.
    """
    stored = trained.tuning.stored if rounded and info.quantizable else None
    return _merge({"base": trained.trainable[info.path][index]}, stored=stored)


def merge_with_stored(trained: TrainedWeights, info: ParamInfo, index: tuple[int, ...]) -> Array:
    """The weight that the adapter was trained on, plus its update, in float32."""
    leaves = {
        "base": jax.tree.map(lambda x: x[index], trained.frozen[info.path]),
        "adapter": _at(trained.trainable, info.path, index),
    }
    return _merge(leaves, scale=trained.tuning.scale, head=info.kind == "head")


def merge_with_original(
    trained: TrainedWeights, info: ParamInfo, index: tuple[int, ...], original: np.ndarray
) -> Array:
    """`original` (in our layout) plus the change of its adapter in training, in float32."""
    leaves = {
        "base": original,
        "adapter": _at(trained.trainable, info.path, index),
        "start": _at(trained.start, info.path, index),
    }
    return _merge(leaves, scale=trained.tuning.scale, head=info.kind == "head")


def _at(adapters: Params, path: str, index: tuple[int, ...]) -> Params:
    return {name: part[index] for name, part in adapters.get(path, {}).items()}


@functools.partial(jax.jit, static_argnames=("scale", "stored", "head"))
def _merge(
    leaves: dict[str, Any],
    *,
    scale: float = 1.0,
    stored: QuantizedDtype | None = None,
    head: bool = False,
) -> Array:
    """`base + update` in our layout, in float32."""
    adapter, start = leaves.get("adapter"), leaves.get("start")
    weight = dense(leaves["base"], jnp.float32)
    if stored is not None:
        weight = dense(quantize(weight, stored), jnp.float32)
    with jax.default_matmul_precision("highest"):
        if start:
            weight -= scale * start["a"] @ start["b"]
        if adapter and head:
            weight += scale * (adapter["a"] @ adapter["b"]).T
        elif adapter:
            weight = LoraArray(weight, **adapter, scale=scale).dense(jnp.float32)
    return weight
