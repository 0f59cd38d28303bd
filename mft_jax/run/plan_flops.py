"""Floating-point operations of a step, part by part, counted from shapes.

A product of [M, in] and [in, out] has 2 M in out. With P weights in the matrices that a token
meets, N tokens and a frozen base:

    frozen forward   2 P N          recomputation  what is computed again
    dX               2 P N          attention      4 x score and value products, with 2 backward
    adapters         6 R N, R their weights        head  2 V D N forward, the same again backward

Attention counts what a token may see in rows filled with samples of a stated length.
"""

import dataclasses
import math

from mft_jax.balancers.base import Balancer
from mft_jax.config import TrainConfig
from mft_jax.models.config import ModelConfig
from mft_jax.run.base_model import BaseModelInfo

RECOMPUTED = "recomputation"
BALANCER = "balancer's passes"
NOT_USEFUL = (RECOMPUTED, BALANCER)


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOPs of a step over all devices, by part."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def useful(self) -> float:
        """Without what is computed a second time, and what only the balancer asks for."""
        return sum(n for part, n in self.parts.items() if part not in NOT_USEFUL)


@dataclasses.dataclass(frozen=True)
class TokenWork:
    """Forward FLOPs of a token: of matrices (`wide`: those into the feed-forward's width, `last`:
    those out of it), of adapters, of attention (`scores`: without the values), and of the head."""

    matrices: float
    wide: float
    last: float
    adapters: float
    attention: float
    scores: float
    head: float

    @property
    def layers(self) -> float:
        return self.matrices + self.adapters + self.attention


def token_work(base: BaseModelInfo, row_length: int, tokens_per_sample: int) -> TokenWork:
    model_config, infos = base.model_config, base.infos
    experts = model_config.experts
    matrices = wide = last = adapters = 0.0
    for info in infos.values():
        share = 1.0
        if info.kind == "expert_matrix" and experts is not None:
            share = experts.per_token / experts.num
        weights = 2.0 * share * math.prod(info.shape)
        if info.quantizable:
            matrices += weights
            wide += weights * (info.axes[-1] == "mlp")
            last += weights * (info.axes[0] == "mlp")
        if info.path in base.adapted and base.tuning.method != "full":
            adapters += (
                2.0 * share * math.prod(info.stack) * base.tuning.rank * sum(info.product_widths)
            )
    length = min(tokens_per_sample, row_length)
    scores, values = _attention(model_config, length)
    head = 2.0 * model_config.vocab_size * model_config.width
    return TokenWork(matrices, wide, last, adapters, scores + values, scores, head)


def _attention(model_config: ModelConfig, length: int) -> tuple[float, float]:
    """Forward FLOPs of a token's scores, and of the values under them, in samples of a length."""
    latent, heads = model_config.latent, model_config.num_heads
    keys_width = values_width = model_config.head_width
    if latent is not None:
        keys_width, values_width = latent.plain_width + latent.rope_width, latent.v_width
    keys = sum(
        visible_keys(length, model_config.window if kind.local else 0)
        for kind in model_config.layer_kinds
    )
    return 2.0 * heads * keys_width * keys, 2.0 * heads * values_width * keys


def visible_keys(length: int, window: int = 0) -> float:
    """Keys that a token sees on average, itself among them.

    >>> visible_keys(4), visible_keys(4, window=2)
    (2.5, 1.75)
    """
    width = min(window or length, length)
    return (width * (width + 1) / 2 + (length - width) * width) / length


def step_work(
    config: TrainConfig, base: BaseModelInfo, balancer: Balancer, tokens_per_sample: int
) -> Work:
    """The FLOPs of a step by part."""
    length, full = config.data.row_length, base.tuning.method == "full"
    one = token_work(base, length, tokens_per_sample)
    tokens = float(config.loop.rows_per_step * length)
    parts = {
        "forward" if full else "frozen forward": one.matrices,
        "dX": one.matrices,
        "dW" if full else "adapters": one.matrices if full else 3 * one.adapters,
        "attention": 3 * one.attention,
        "head": (3 if full else 2) * one.head,
        RECOMPUTED: recomputed(one, config.model.remat),
    }
    parts = {name: flops * tokens for name, flops in parts.items()}
    parts[BALANCER] = _signals(config, balancer, one.layers + one.head)
    return Work(parts)


def recomputed(one: TokenWork, remat: object) -> float:
    """FLOPs of a token that the backward pass computes again. Of a word that is not known here, as
    much as of `block`, the most."""
    match remat:
        case "none":
            return 0.0
        case "dots":
            return one.scores + one.adapters
        case "inputs":
            return one.scores + one.adapters + one.wide
        case _:
            return one.layers - one.last  # the backward pass does not ask for a layer's output


def _signals(config: TrainConfig, balancer: Balancer, forward: float) -> float:
    """FLOPs of the passes that a balancer asks for, those of validation in as many steps as it
    measures in."""
    loop, needs = config.loop, balancer.needs
    valid = forward * loop.valid_rows * config.data.row_length
    train = forward * loop.rows_per_step * config.data.row_length
    often = 1 / max(balancer.every_steps, 1)
    passes = valid * often * len(needs & {"valid_losses", "post_step_valid_losses"})
    passes += 3 * valid * ("valid_gradients" in needs)
    return passes + train * ("post_step_train_losses" in needs)
