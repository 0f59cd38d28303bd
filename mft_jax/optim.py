"""AdamW with linear warm-up and cosine decay to a minimum rate. Steps are optimiser steps."""

import dataclasses
import math
from typing import Any

import optax

from mft_jax.types import MftError, at_least


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """`warmup_steps` counts towards the run's steps; `min_rate_fraction` is of `learning_rate`.
    `lora_plus_ratio`: the rate of every adapter's B over that of its A (LoRA+, arXiv 2402.12354).
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 20
    min_rate_fraction: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    lora_plus_ratio: float = 1.0

    def __post_init__(self) -> None:
        zero = ("learning_rate", "min_rate_fraction", "weight_decay", "beta1", "beta2", "epsilon")
        at_least("optim", self, **dict.fromkeys(zero, 0.0), clip_norm=1e-12)
        at_least("optim", self, lora_plus_ratio=1e-12)
        for name in (*zero, "lora_plus_ratio"):
            if getattr(self, name) == math.inf:
                raise MftError(f"optim.{name}=inf; expected a finite number")


def learning_rate(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Rate of step t (0-based): peak (t + 1) / warmup, then cosine to the minimum at the end."""
    warmup, peak = config.warmup_steps, config.learning_rate
    if not 0 <= warmup < total_steps:
        raise MftError(
            f"optim.warmup_steps={warmup} must be at least 0 and below the run's {total_steps} "
            "steps (loop.steps); lower it or train longer"
        )
    decay = optax.cosine_decay_schedule(peak, total_steps - warmup, config.min_rate_fraction)
    if warmup == 0:
        return decay
    ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, decay], [warmup])


def optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, then decoupled AdamW. Weight decay spares vectors (norms, biases)."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, total_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=_decayed,
        ),
        optax.masked(optax.scale(config.lora_plus_ratio), _is_b),
    )


def _is_b(params: dict[str, Any]) -> dict[str, Any]:
    """True for the B of an adapter alone."""
    return {
        path: {part: part == "b" for part in leaf} if isinstance(leaf, dict) else False
        for path, leaf in params.items()
    }


def _decayed(params: dict[str, Any]) -> dict[str, Any]:
    """True for matrices, an adapter's A and B among them."""
    return {
        path: {part: part != "magnitude" for part in leaf}
        if isinstance(leaf, dict)
        else "kernel" in path or "table" in path
        for path, leaf in params.items()
    }
