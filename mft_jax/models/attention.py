"""Grouped-query attention over packed rows: a token sees only earlier tokens of its segment."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mft_jax.models.config import ModelConfig
from mft_jax.models.layers import Linear, Norm
from mft_jax.models.rope import rotate


class View(NamedTuple):
    """What the tokens of a layer see, and by which angles their queries and keys are turned."""

    mask: Bool[Array, "B L L"]
    cos: Float[Array, "B L half"]
    sin: Float[Array, "B L half"]


def segment_mask(segment_ids: Int[Array, "B L"], window: int = 0) -> Bool[Array, "B L L"]:
    """True where query (second axis) may see key (third axis).

    A row of two segments and padding, queries down, keys across; right with a window of 2:

        segment_ids  1 1 1 2 2 0      1 1 1 2 2 0
                 1   x . . . . .      x . . . . .
                 1   x x . . . .      x x . . . .
                 1   x x x . . .      . x x . . .
                 2   . . . x . .      . . . x . .
                 2   . . . x x .      . . . x x .
                 0   . . . . . x      . . . . . x     padding sees only padding; it has no loss
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    ones = jnp.ones(same.shape[1:], bool)
    seen = jnp.tril(ones)
    if window:
        seen &= jnp.triu(ones, 1 - window)
    return same & seen[None]


def alibi_slopes(num_heads: int) -> Float[np.ndarray, " H"]:
    """ALiBi (arXiv 2108.12409): 2 ** (-8 i / n) for n heads, a power of two; further heads take
    every other slope of twice as many."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * np.arange(1, 2 * (num_heads - power), 2) / power)
    return np.concatenate([slopes, between]).astype(np.float32)


def attend(
    q: Float[Array, "B L H C"],
    k: Float[Array, "B L K C"],
    v: Float[Array, "B L K E"],
    mask: Bool[Array, "B L L"],
    *,
    scale: float,
    softcap: float = 0.0,
    slopes: Float[np.ndarray, " H"] | None = None,
) -> Float[Array, "B L H E"]:
    """The readable reference: softmax(scale q k^T + bias) v; the softmax in at least float32.

    The bias of ALiBi is `-slope * distance`; segments are contiguous, so rows tell the distance.
    """
    batch, length, heads, head_width = q.shape
    grouped = q.reshape(batch, length, k.shape[2], -1, head_width)
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("blkgc,bmkc->bkglm", grouped, k, preferred_element_type=dtype) * scale
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    if slopes is not None:
        rows = jnp.arange(length)
        distance = (rows[None, :] - rows[:, None]).astype(dtype)[None, None, None]
        scores += jnp.asarray(slopes, dtype).reshape(1, k.shape[2], -1, 1, 1) * distance
    scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkglm,bmke->blkge", weights, v).reshape(batch, length, heads, -1)


class Attention(nnx.Module):
    def __init__(self, model_config: ModelConfig, *, stack: tuple[int, ...], rngs: nnx.Rngs):
        d, c = model_config.width, model_config.head_width
        q_width, kv_width = model_config.num_heads * c, model_config.num_kv_heads * c
        packed = model_config.qkv != "separate"

        def linear(width: int) -> Linear:
            return Linear(d, width, bias=model_config.qkv_bias, stack=stack, rngs=rngs)

        self.qkv = linear(q_width + 2 * kv_width) if packed else None
        self.q = None if packed else linear(q_width)
        self.k = None if packed else linear(kv_width)
        self.v = None if packed else linear(kv_width)
        self.o = Linear(q_width, d, bias=model_config.out_bias, stack=stack, rngs=rngs)
        normed = model_config.qk_norm
        self.q_norm = Norm(model_config, width=c, stack=stack) if normed else None
        self.k_norm = Norm(model_config, width=c, stack=stack) if normed else None
        self.config = model_config

    def __call__(self, x: Float[Array, "B L D"], view: View) -> Float[Array, "B L D"]:
        model_config = self.config
        q, k, v = self._heads(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if model_config.positions == "rotary":
            turns = {"cos": view.cos, "sin": view.sin, "interleaved": model_config.rope.interleaved}
            q, k = rotate(q, **turns), rotate(k, **turns)
        slopes = alibi_slopes(model_config.num_heads) if model_config.positions == "alibi" else None
        scale, softcap = model_config.score_scale, model_config.attention_softcap
        y = attend(q, k, v, view.mask, scale=scale, softcap=softcap, slopes=slopes)
        return self.o(y.reshape(*x.shape[:2], -1))

    def _heads(self, x: Float[Array, "B L D"]) -> list[Float[Array, "B L _ C"]]:
        model_config = self.config
        heads = (*x.shape[:2], -1, model_config.head_width)
        separate = [layer(x).reshape(heads) for layer in (self.q, self.k, self.v) if layer]
        if self.qkv is None:
            return separate
        qkv = self.qkv(x).reshape(heads)
        if model_config.qkv == "packed_by_head":
            return [qkv[:, :, i::3] for i in range(3)]
        keys = model_config.num_heads + model_config.num_kv_heads
        return jnp.split(qkv, [model_config.num_heads, keys], axis=2)
