"""The decoder, and its parameters as a flat dict `{"layers/attention/q/kernel": weight}`.

Blocks of one form are stacked: every parameter under `layers/` has a leading axis N, and the
forward pass is one `lax.scan` over it with rematerialisation, so compile time and activation memory
do not grow with depth. A weight is anything that knows `x @ w` (see `mft_jax.weights`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mft_jax.models.attention import View, segment_mask
from mft_jax.models.block import Block
from mft_jax.models.config import ModelConfig
from mft_jax.models.head import Head, OutputTable
from mft_jax.models.layers import Embedding, Norm, PositionTable
from mft_jax.models.rope import rotation
from mft_jax.types import Params, RouterSums


class Hidden(NamedTuple):
    """Final hidden states; `router` is summed over layers, None where none has experts."""

    states: Float[Array, "B L D"]
    router: RouterSums | None


class ActivationSharding(NamedTuple):
    """Where things lie while a layer is computed; both functions return what they are given."""

    rows: Callable[[Array], Array]  # activations [B, L, D]
    weight: Callable[[str, Any], Any]  # what is stored at a path, without its layer axis


UNSHARDED = ActivationSharding(lambda x: x, lambda path, leaf: leaf)


class Decoder(nnx.Module):
    """Tokens to final hidden states; `logit_head` turns those into logits."""

    def __init__(self, model_config: ModelConfig, *, rngs: nnx.Rngs):
        v, d = model_config.vocab_size, model_config.width
        learned = model_config.positions == "learned"
        self.embedding = Embedding(v, d, rngs=rngs)
        positions = model_config.max_positions
        self.positions = PositionTable(positions, d, rngs=rngs) if learned else None
        for name, layers in model_config.stacks.items():
            block = Block(model_config, sparse=name == "layers", stack=(len(layers),), rngs=rngs)
            setattr(self, name, block)
        self.final_norm = Norm(model_config)
        tied = model_config.tied_head
        self.head = None if tied else OutputTable(v, d, bias=model_config.head_bias, rngs=rngs)
        self.config = model_config

    def __call__(
        self,
        tokens: Int[Array, "B L"],
        positions: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        remat: bool = True,
        placement: ActivationSharding = UNSHARDED,
    ) -> Hidden:
        model_config = self.config
        x = placement.rows(self.embedding(tokens, dtype))
        if model_config.embedding_scale != 1.0:
            x *= jnp.asarray(model_config.embedding_scale, x.dtype)
        if self.positions is not None:
            x += self.positions(positions, dtype)
        local = model_config.window_layers or (model_config.window > 0,) * model_config.num_layers
        views = [_view(model_config, kind, positions, segment_ids) for kind in sorted(set(local))]
        real = segment_ids > 0
        router = None
        for name, layers in model_config.stacks.items():
            graph, weights = nnx.split(getattr(self, name))

            def layer(x, item, graph=graph, name=name):
                weights, is_local = item
                weights = _placed(placement, name, weights)
                view = views[0]
                if len(views) > 1:
                    view = jax.tree.map(functools.partial(jnp.where, is_local), views[1], view)
                x, sums = nnx.merge(graph, weights)(x, view, real)
                return placement.rows(x), sums

            # prevent_cse=False: inside a scan nothing can be merged across iterations anyway.
            body = jax.checkpoint(layer, prevent_cse=False) if remat else layer
            x, sums = jax.lax.scan(
                body, x, (weights, jnp.asarray(local[layers.start : layers.stop]))
            )
            router = router if sums is None else jax.tree.map(lambda s: s.sum(axis=0), sums)
        return Hidden(self.final_norm(x), router)

    def logit_head(self) -> Head:
        if self.head is None:
            return Head(self.embedding.base_table(), softcap=self.config.final_softcap)
        return self.head.as_head(self.config)


def _placed(placement: ActivationSharding, name: str, weights: nnx.State) -> nnx.State:
    """One layer's weights, as they are multiplied."""

    def place(path: tuple[Any, ...], param: nnx.Variable) -> nnx.Variable:
        return param.replace(placement.weight("/".join((name, *path)), param.get_value()))

    return nnx.from_flat_state((path, place(path, p)) for path, p in nnx.to_flat_state(weights))


def _view(
    model_config: ModelConfig,
    is_local: bool,
    positions: Int[Array, "B L"],
    segment_ids: Int[Array, "B L"],
) -> View:
    """Of the layers that look through the window, or of the others."""
    rope = model_config.local_rope if is_local and model_config.local_rope else model_config.rope
    width = model_config.turned_width if model_config.positions == "rotary" else 0
    mask = segment_mask(segment_ids, model_config.window if is_local else 0)
    return View(mask, *rotation(positions, segment_ids, rope, width))


def init_params(model_config: ModelConfig, seed: int) -> Params:
    """Random parameters, normal(0, 0.02). Call under `jit` to place them as they are made."""
    return _flatten(nnx.split(Decoder(model_config, rngs=nnx.Rngs(seed)))[1])


def param_shapes(model_config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter; nothing is allocated."""
    return jax.eval_shape(lambda: init_params(model_config, 0))


def bind(model_config: ModelConfig, params: Params) -> Decoder:
    """The decoder that computes with `params`; cheap, made anew inside every trace."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(model_config, rngs=nnx.Rngs(0))))
    flat = [(tuple(path.split("/")), nnx.Param(value)) for path, value in sorted(params.items())]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _flatten(state: nnx.State) -> Params:
    return {"/".join(map(str, path)): p.get_value() for path, p in nnx.to_flat_state(state)}
