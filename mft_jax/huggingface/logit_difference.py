"""The difference between the logits of two sets of weights of one model, on real text."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind
from mft_jax.types import Batch, MftError, Params


@dataclasses.dataclass(frozen=True)
class LogitDifference:
    """The difference of two models on the same tokens, over positions that are not padding.

    max_abs, mean_abs   absolute difference of the logits
    kl                  mean KL(a || b) per position, in nats
    top1_agreement      share of positions where both have the same most likely token
    """

    max_abs: float
    mean_abs: float
    kl: float
    top1_agreement: float


def logit_difference(
    model_config: ModelConfig,
    params_a: Params,
    params_b: Params,
    batch: Batch,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> LogitDifference:
    """The difference, computed row by row: only `[1, L, V]` logits of both models are kept."""
    if not np.any(np.asarray(batch.segment_ids)):
        raise MftError("nothing to compare: the batch holds padding only")
    compare = jax.jit(functools.partial(_compare_row, model_config, dtype=dtype))
    rows = [
        compare(params_a, params_b, *(x[i : i + 1] for x in _inputs(batch)))
        for i in range(batch.tokens.shape[0])
    ]
    return _difference(jax.device_get(rows))


def compare_logits(a_LV: np.ndarray, b_LV: np.ndarray) -> LogitDifference:
    """The difference of two arrays of logits `[L, V]`, computed in float64."""
    with jax.enable_x64(True):
        a_BLV, b_BLV = (jnp.asarray(x, jnp.float64)[None] for x in (a_LV, b_LV))
        sums = _difference_sums(a_BLV, b_BLV, jnp.ones(a_BLV.shape[:2], jnp.float64))
        return _difference([jax.device_get(sums)])


def _difference(rows: Sequence[tuple[Any, Any]]) -> LogitDifference:
    """One difference from the maxima and sums of all rows."""
    maxima, sums = zip(*rows, strict=True)
    mean_abs, kl, agree, count = np.asarray(sums, np.float64).sum(axis=0).tolist()
    return LogitDifference(
        max_abs=float(max(maxima)),
        mean_abs=mean_abs / count,
        kl=max(kl / count, 0.0),  # rounding may leave it below zero
        top1_agreement=agree / count,
    )


def _inputs(batch: Batch) -> tuple[Any, Any, Any]:
    return batch.tokens, batch.positions, batch.segment_ids


def _compare_row(
    model_config: ModelConfig,
    params_a: Params,
    params_b: Params,
    tokens: Array,
    positions: Array,
    segment_ids: Array,
    *,
    dtype: jax.typing.DTypeLike,
) -> tuple[Float[Array, ""], Float[Array, " 4"]]:
    """The `_difference_sums` of one row."""

    def logits(params: Params) -> Float[Array, "1 L V"]:
        decoder = bind(model_config, params)
        hidden = decoder(tokens, positions, segment_ids, dtype=dtype, remat="none")
        return decoder.logit_head().logits(hidden.states)

    real_BL = (segment_ids > 0).astype(jnp.float32)
    return _difference_sums(logits(params_a), logits(params_b), real_BL)


def _difference_sums(
    a_BLV: Float[Array, "B L V"], b_BLV: Float[Array, "B L V"], real_BL: Float[Array, "B L"]
) -> tuple[Float[Array, ""], Float[Array, " 4"]]:
    """(max |a - b|, [sum of mean |a - b| over V, sum of KL, agreements, positions]), over the
    positions where `real_BL` is 1 and not 0."""
    gap_BLV = jnp.abs(a_BLV - b_BLV) * real_BL[..., None]
    log_a, log_b = jax.nn.log_softmax(a_BLV), jax.nn.log_softmax(b_BLV)
    kl_BL = jnp.sum(jnp.exp(log_a) * (log_a - log_b), axis=-1)
    agree_BL = jnp.argmax(a_BLV, axis=-1) == jnp.argmax(b_BLV, axis=-1)
    parts = (jnp.mean(gap_BLV, axis=-1), kl_BL, agree_BL, jnp.ones_like(real_BL))
    return jnp.max(gap_BLV), jnp.stack([jnp.sum(part * real_BL) for part in parts])
