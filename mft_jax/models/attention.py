"""Grouped-query attention over packed rows: a token sees only earlier tokens of its segment."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mft_jax.models.config import ModelConfig
from mft_jax.models.layers import Linear
from mft_jax.models.rope import rotate


def segment_mask(segment_ids: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """True where query (second axis) may see key (third axis).

    A row of two segments and padding, queries down, keys across:

        segment_ids  1 1 2 2 0
                 1   x . . . .
                 1   x x . . .
                 2   . . x . .
                 2   . . x x .
                 0   . . . . x     padding sees only padding; its outputs carry no loss
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    length = segment_ids.shape[-1]
    return same & jnp.tril(jnp.ones((length, length), bool))[None]


def attend(
    q: Float[Array, "B L H C"],
    k: Float[Array, "B L K C"],
    v: Float[Array, "B L K C"],
    mask: Bool[Array, "B L L"],
) -> Float[Array, "B L H C"]:
    """The readable reference: softmax(q k^T / sqrt(C)) v; the softmax in at least float32."""
    batch, length, heads, head_width = q.shape
    grouped = q.reshape(batch, length, k.shape[2], -1, head_width)
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("blkgc,bmkc->bkglm", grouped, k, preferred_element_type=dtype)
    scores = jnp.where(mask[:, None, None], scores * head_width**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkglm,bmkc->blkgc", weights, v).reshape(batch, length, heads, head_width)


class Attention(nnx.Module):
    def __init__(self, config: ModelConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        q_width = config.num_heads * config.head_width
        kv_width = config.num_kv_heads * config.head_width
        bias = config.qkv_bias
        self.q = Linear(config.width, q_width, bias=bias, stack=stack, rngs=rngs)
        self.k = Linear(config.width, kv_width, bias=bias, stack=stack, rngs=rngs)
        self.v = Linear(config.width, kv_width, bias=bias, stack=stack, rngs=rngs)
        self.o = Linear(q_width, config.width, bias=False, stack=stack, rngs=rngs)
        self.head_width = config.head_width

    def __call__(
        self,
        x: Float[Array, "B L D"],
        rotation: tuple[Float[Array, "B L half"], Float[Array, "B L half"]],
        mask: Bool[Array, "B L L"],
    ) -> Float[Array, "B L D"]:
        heads = (*x.shape[:2], -1, self.head_width)
        q = rotate(self.q(x).reshape(heads), *rotation)
        k = rotate(self.k(x).reshape(heads), *rotation)
        y = attend(q, k, self.v(x).reshape(heads), mask)
        return self.o(y.reshape(*x.shape[:2], -1))
