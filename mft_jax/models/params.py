"""A description of every parameter of a decoder, made from the layers that hold them.

No other module reads a path: code that treats embeddings, experts or norms differently asks the
parameter's `ParamInfo`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import jax
from flax import nnx

from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import Decoder, param_shapes
from mft_jax.models.layers import ParamKind
from mft_jax.weights.protocol import Axes

# Logical axes (in, out) of a layer's product, by the name of the layer.
LAYER_AXES: dict[str, tuple[str | None, str | None]] = {
    **dict.fromkeys(("q", "k", "v", "qkv"), ("embed", "heads")),
    **dict.fromkeys(("q_down", "kv_down"), ("embed", None)),
    **dict.fromkeys(("q_up", "kv_up"), (None, "heads")),
    "o": ("heads", "embed"),
    **dict.fromkeys(("gate", "up", "gate_up"), ("embed", "mlp")),
    "down": ("mlp", "embed"),
    "embedding": ("vocab", "embed"),
    "head": ("embed", "vocab"),
}


@dataclasses.dataclass(frozen=True)
class ParamInfo:
    """One parameter: `layers/attention/q/kernel` is the matrix of `attention/q` of every layer.

    kind     matrix [in, out], expert_matrix (one matrix per expert), embedding [V, D],
             head [V, D], table (positions, routers: small, neither quantised nor adapted),
             norm (its scale), norm_bias, bias
    layer    the name that `finetune.targets` match: "attention/q", "mlp/down", "embedding"
    axes     logical axes of one layer's parameter; `shape` has those of the stack in front
    layers   numbers of the stacked layers, in order; empty for parameters outside of them
    """

    path: str
    kind: ParamKind
    layer: str
    axes: Axes
    shape: tuple[int, ...]
    dtype: jax.typing.DTypeLike
    layers: Sequence[int] = ()

    @property
    def stack(self) -> tuple[int, ...]:
        """Lengths of the leading axes: layers, then experts."""
        return self.shape[: len(self.shape) - len(self.axes)]

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype, with the stack."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    @property
    def quantizable(self) -> bool:
        """Whether quantisation may store it as codes and scales."""
        return self.kind in ("matrix", "expert_matrix")

    @property
    def adaptable(self) -> bool:
        """Whether it may carry an adapter."""
        return self.quantizable or self.is_table

    @property
    def is_table(self) -> bool:
        """Whether it is the embedding's table or the head's, with one row for each token."""
        return self.kind in ("embedding", "head")

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias, of a product or of a norm."""
        return self.kind in ("norm_bias", "bias")

    @property
    def is_vector(self) -> bool:
        """Whether it is a norm or a bias: kept in float32, without weight decay."""
        return self.kind in ("norm", "norm_bias", "bias")

    @property
    def product_axes(self) -> Axes:
        """Logical axes (in, out) of an adapter: a head [V, D] is multiplied from the right."""
        return self.axes[::-1] if self.kind == "head" else self.axes

    @property
    def product_widths(self) -> tuple[int, int]:
        """Lengths of `product_axes`, (in, out)."""
        first, last = self.shape[-2:]
        return (last, first) if self.kind == "head" else (first, last)


ParamInfos = Mapping[str, ParamInfo]


@functools.lru_cache(maxsize=64)
def param_infos(model_config: ModelConfig) -> ParamInfos:
    """Description of every parameter by its path, in the order of `param_shapes`, without memory.

    >>> from mft_jax.models.config import ModelConfig
    >>> infos = param_infos(ModelConfig(98, 64, 128, 2, 4, 2, 16, 64))
    >>> infos["layers/mlp/down/kernel"].kind, infos["layers/mlp/down/kernel"].layer
    ('matrix', 'mlp/down')
    >>> infos["head/table"].axes, infos["head/table"].product_axes
    (('vocab', 'embed'), ('embed', 'vocab'))
    """
    shapes, found = param_shapes(model_config), {}
    decoder = nnx.eval_shape(lambda: Decoder(model_config, rngs=nnx.Rngs(0)))
    for keys, layer in nnx.iter_modules(decoder):
        for name, param in vars(layer).items():
            if isinstance(param, nnx.Param):
                path = "/".join((*map(str, keys), name))
                kind = cast(Any, layer).KINDS[name]
                found[path] = _info(model_config, tuple(map(str, keys)), path, kind, shapes[path])
    return MappingProxyType({path: found[path] for path in shapes})


def _info(
    model_config: ModelConfig,
    keys: tuple[str, ...],
    path: str,
    kind: ParamKind,
    shape: jax.ShapeDtypeStruct,
) -> ParamInfo:
    stack, axes = model_config.stacks.get(keys[0]), _axes(keys[-1], kind)
    layer = "/".join(keys if stack is None else keys[1:])
    return ParamInfo(path, kind, layer, axes, shape.shape, shape.dtype, stack or ())


def _axes(layer: str, kind: ParamKind) -> Axes:
    match kind:
        case "norm" | "norm_bias":
            return (None,)
        case "table":
            return (None, "embed")
        case "head":
            return LAYER_AXES[layer][::-1]
        case "bias":
            return LAYER_AXES[layer][1:]
        case "matrix" | "expert_matrix" | "embedding":
            return LAYER_AXES[layer]


def vectors(infos: ParamInfos) -> frozenset[str]:
    """Paths of norms and biases."""
    return frozenset(path for path, info in infos.items() if info.is_vector)


def in_last_layer(infos: ParamInfos, path: str) -> bool:
    """Whether the last element of this stack is the model's last layer."""
    numbers = [max(info.layers) for info in infos.values() if info.layers]
    return bool(infos[path].layers) and max(infos[path].layers) == max(numbers)
