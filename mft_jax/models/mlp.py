"""The gated feed-forward (SwiGLU, arXiv 2002.05202)."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from mft_jax.models.config import ModelConfig
from mft_jax.models.layers import Linear


class GatedMlp(nnx.Module):
    def __init__(self, config: ModelConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        d, f = config.width, config.mlp_width
        self.gate = Linear(d, f, bias=False, stack=stack, rngs=rngs)
        self.up = Linear(d, f, bias=False, stack=stack, rngs=rngs)
        self.down = Linear(f, d, bias=False, stack=stack, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
