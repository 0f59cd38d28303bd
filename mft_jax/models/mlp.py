"""The feed-forward: gated (arXiv 2002.05202) or plain."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mft_jax.models.config import ModelConfig
from mft_jax.models.layers import ACTIVATIONS, Linear
from mft_jax.models.remat import PRODUCT, WIDE_PRODUCT


class Mlp(nnx.Module):
    """`down(act(gate(x)) * up(x))`, packed with gate and up in one matrix; or plain,
    `down(act(up(x)))`."""

    def __init__(
        self, model_config: ModelConfig, *, width: int = 0, stack: tuple[int, ...], rngs: nnx.Rngs
    ):
        d, f, kind = model_config.width, width or model_config.mlp_width, model_config.mlp

        def linear(d_in: int, d_out: int, name: str = WIDE_PRODUCT) -> Linear:
            bias = model_config.mlp_bias
            return Linear(d_in, d_out, bias=bias, stack=stack, rngs=rngs, name=name)

        self.gate = linear(d, f) if kind == "gated" else None
        self.gate_up = linear(d, 2 * f) if kind == "packed_gated" else None
        self.up = linear(d, f) if kind != "packed_gated" else None
        self.down = linear(f, d, PRODUCT)
        self.activation = model_config.activation

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        act = ACTIVATIONS[self.activation]
        if self.gate_up is not None:
            gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
            return self.down(act(gate) * up)
        assert self.up is not None
        up = self.up(x)
        return self.down(act(up) if self.gate is None else act(self.gate(x)) * up)
