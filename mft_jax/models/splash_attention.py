"""Attention by the splash kernel that comes with JAX for TPUs.

Its mask is over places in the row, causal or a window, and over segment ids. As positions restart
and grow by one inside a segment, that is the rule of `attention_rule`; padding sees padding. It
visits all earlier blocks of a row, those of other segments too.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mft_jax.models.attention_rule import AttentionInputs, Backend, Slopes
from mft_jax.models.config import ModelConfig
from mft_jax.models.remat import ATTENTION

LANES = 128  # lengths are filled up to a multiple of it
BLOCKS = (512, 256, 128)


def refusal(model_config: ModelConfig) -> str:
    """Why the kernel cannot compute this model's attention; empty where it can."""
    return "its kernel has no ALiBi" if model_config.positions == "alibi" else ""


def splash_of(interpret: bool) -> Backend:
    """The kernel, with the signature of `reference`; `interpret`: run in Python, to be tested."""

    def splash(
        q: Float[Array, "B L H C"],
        k: Float[Array, "B S K C"],
        v: Float[Array, "B S K values"],
        inputs: AttentionInputs,
        *,
        window: int,
        scale: float,
        softcap: float = 0.0,
        alibi_slopes: Slopes | None = None,
    ) -> Float[Array, "B L H values"]:
        """The rule of `reference` for packed rows, whose keys are the tokens of the queries."""
        length = q.shape[1]
        if k.shape[1] != length or alibi_slopes is not None:
            raise ValueError(
                f"splash attention of {length} queries and {k.shape[1]} keys"
                f"{' with ALiBi' * (alibi_slopes is not None)}: expected as many keys as queries, "
                "and no ALiBi; use blockwise"
            )
        fill = -length % LANES

        def heads_first(x: Array) -> Array:
            return jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0))).swapaxes(1, 2)

        kernel = _kernel(length + fill, q.shape[2], window, softcap, interpret)
        segments = jnp.pad(inputs.segment_ids, ((0, 0), (0, fill)))
        # In float32: in bfloat16 the scale itself would be rounded.
        scaled = (q.astype(jnp.promote_types(q.dtype, jnp.float32)) * scale).astype(q.dtype)
        y = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, _segment_ids(ids)))(
            heads_first(scaled), heads_first(k), heads_first(v), segments
        )
        return y.swapaxes(1, 2)[:, :length]

    return splash


def _segment_ids(ids: Array) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention

    return splash_attention.SegmentIds(ids, ids)


@functools.lru_cache(maxsize=16)
def _kernel(length: int, num_heads: int, window: int, softcap: float, interpret: bool) -> Any:
    """The kernel for rows of `length`. Making it looks at every pair of blocks, so it is kept."""
    # Imported where a TPU is used: elsewhere it would only lengthen the start.
    from jax.experimental.pallas.ops.tpu import splash_attention

    shape = length, length
    mask = (
        splash_attention.LocalMask(shape, window_size=(window - 1, 0), offset=0)
        if window
        else splash_attention.CausalMask(shape)
    )
    block = next(size for size in BLOCKS if length % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv")
    names += ("block_kv_dkv_compute", "block_q_dq", "block_kv_dq")
    with jax.ensure_compile_time_eval():
        kernel = splash_attention.make_splash_mha(
            splash_attention.MultiHeadMask([mask] * num_heads),
            block_sizes=splash_attention.BlockSizes(**dict.fromkeys(names, block)),
            attn_logits_soft_cap=softcap or None,
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=ATTENTION,
            interpret=interpret,
        )
    return jax.tree.map(np.asarray, kernel)
