"""The decoder, and its parameters as a flat dict `{"layers/attention/q/kernel": weight}`.

Blocks are stacked: every parameter under `layers/` has a leading axis N, and the forward pass is
one `lax.scan` over it with rematerialisation, so compile time and activation memory do not grow
with depth. A weight is anything that knows `x @ w` (see `mft_jax.weights`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mft_jax.models.attention import Attention, segment_mask
from mft_jax.models.config import ModelConfig
from mft_jax.models.layers import Embedding, RMSNorm
from mft_jax.models.mlp import GatedMlp
from mft_jax.models.rope import rotation

Params = dict[str, Any]

# Logical axes of each parameter, without the leading layer axis of a stacked one.
LOGICAL_AXES: dict[str, tuple[str | None, ...]] = {
    "embedding/table": ("vocab", "embed"),
    "head/table": ("vocab", "embed"),
    "final_norm/scale": (None,),
    "layers/attention_norm/scale": (None,),
    "layers/mlp_norm/scale": (None,),
    "layers/attention/q/kernel": ("embed", "heads"),
    "layers/attention/k/kernel": ("embed", "heads"),
    "layers/attention/v/kernel": ("embed", "heads"),
    "layers/attention/o/kernel": ("heads", "embed"),
    "layers/attention/q/bias": ("heads",),
    "layers/attention/k/bias": ("heads",),
    "layers/attention/v/bias": ("heads",),
    "layers/mlp/gate/kernel": ("embed", "mlp"),
    "layers/mlp/up/kernel": ("embed", "mlp"),
    "layers/mlp/down/kernel": ("mlp", "embed"),
}


class Block(nnx.Module):
    def __init__(self, config: ModelConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, epsilon=config.norm_epsilon, stack=stack)
        self.attention = Attention(config, stack=stack, rngs=rngs)
        self.mlp_norm = RMSNorm(config.width, epsilon=config.norm_epsilon, stack=stack)
        self.mlp = GatedMlp(config, stack=stack, rngs=rngs)

    def __call__(self, x, rotation, mask):
        x = x + self.attention(self.attention_norm(x), rotation, mask)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nnx.Module):
    """Tokens to final hidden states; `head_table` turns those into logits (see `losses`)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.embedding = Embedding(config.vocab_size, config.width, rngs=rngs)
        self.layers = Block(config, stack=(config.num_layers,), rngs=rngs)
        self.final_norm = RMSNorm(config.width, epsilon=config.norm_epsilon)
        tied = config.tied_head
        self.head = None if tied else Embedding(config.vocab_size, config.width, rngs=rngs)
        self.config = config

    def __call__(
        self,
        tokens: Int[Array, "B L"],
        positions: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        remat: bool = True,
    ) -> Float[Array, "B L D"]:
        x = self.embedding(tokens, dtype)
        turns = rotation(positions, self.config.head_width, self.config.rope_theta)
        mask = segment_mask(segment_ids)
        graph, weights = nnx.split(self.layers)

        def block(x, layer_weights):
            return nnx.merge(graph, layer_weights)(x, turns, mask), None

        # prevent_cse=False: inside a scan nothing can be merged across iterations anyway.
        body = jax.checkpoint(block, prevent_cse=False) if remat else block
        x, _ = jax.lax.scan(body, x, weights)
        return self.final_norm(x)

    def head_table(self) -> Float[Array, "V D"]:
        return (self.embedding if self.head is None else self.head).table.get_value()


def init_params(config: ModelConfig, seed: int) -> Params:
    """Random parameters, normal(0, 0.02). Call under `jit` to place them as they are made."""
    return _flatten(nnx.split(Decoder(config, rngs=nnx.Rngs(seed)))[1])


def param_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter; nothing is allocated."""
    return jax.eval_shape(lambda: init_params(config, 0))


def bind(config: ModelConfig, params: Params) -> Decoder:
    """The decoder that computes with `params`; cheap, made anew inside every trace."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    flat = [(tuple(path.split("/")), nnx.Param(value)) for path, value in sorted(params.items())]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _flatten(state: nnx.State) -> Params:
    return {"/".join(map(str, path)): p.get_value() for path, p in nnx.to_flat_state(state)}
