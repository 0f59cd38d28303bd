"""AdamW with linear warm-up and cosine decay to a minimum rate. Steps are optimiser steps."""

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any

import optax
from jaxtyping import Array

from mft_jax.types import MftError, Params, above, at_least


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Settings of AdamW, with linear warm-up and cosine decay.

    learning_rate      at the end of the warm-up
    warmup_steps       optimiser steps of the warm-up, part of loop.steps
    min_rate_fraction  the rate at the end, as a share of learning_rate
    weight_decay       of matrices; norms and biases have none
    beta1              decay of the first moment
    beta2              decay of the second moment
    epsilon            added to the root of the second moment
    clip_norm          largest norm of the whole gradient; inf: not clipped
    lora_plus_ratio    learning rate of every adapter's B over that of its A (LoRA+, arXiv
                       2402.12354)
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
        at_least("optim", self, **dict.fromkeys(zero, 0.0))
        above("optim", self, clip_norm=0.0, lora_plus_ratio=0.0)
        for name in (*zero, "lora_plus_ratio"):
            if getattr(self, name) == math.inf:
                raise MftError(f"optim.{name}=inf; expected a finite number")


def learning_rate(optim_config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Rate of step t (from 0): peak (t + 1) / warmup, then cosine to the minimum at the end.

    >>> schedule = learning_rate(OptimConfig(learning_rate=1.0, warmup_steps=2), total_steps=10)
    >>> [round(float(schedule(step)), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    warmup, peak = optim_config.warmup_steps, optim_config.learning_rate
    if not 0 <= warmup < total_steps:
        raise MftError(
            f"optim.warmup_steps={warmup} must be at least 0 and below the run's {total_steps} "
            "steps (loop.steps); lower it or train longer"
        )
    decay = optax.cosine_decay_schedule(peak, total_steps - warmup, optim_config.min_rate_fraction)
    if warmup == 0:
        return decay
    ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, decay], [warmup])


def optimizer(
    optim_config: OptimConfig, total_steps: int, vectors: Collection[str]
) -> optax.GradientTransformation:
    """Global-norm clipping, then decoupled AdamW (arXiv 1711.05101) of `{path: weight | adapter}`.

    `vectors` (the paths of norms and biases) and the magnitudes of adapters have no weight decay.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    >>> optim_config = OptimConfig(learning_rate=0.5, warmup_steps=0, weight_decay=0.1)
    >>> chain = optimizer(optim_config, total_steps=10, vectors={"bias"})
    >>> zeros = {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}
    >>> updates, _ = chain.update(zeros, chain.init(params), params)
    >>> {path: round(float(abs(update).max()), 3) for path, update in sorted(updates.items())}
    {'bias': 0.0, 'kernel': 0.05}
    """
    return optax.chain(
        optax.clip_by_global_norm(optim_config.clip_norm),
        optax.adamw(
            learning_rate(optim_config, total_steps),
            b1=optim_config.beta1,
            b2=optim_config.beta2,
            eps=optim_config.epsilon,
            weight_decay=optim_config.weight_decay,
            mask=functools.partial(_decayed, vectors),
        ),
        optax.masked(optax.scale(optim_config.lora_plus_ratio), _is_b),
    )


def updates_taken(opt_state: optax.OptState, steps: Array) -> Array:
    """The count that the schedule goes by: steps without those that were skipped. An optimiser
    without a schedule has none of its own: its count is `steps`."""
    counts = optax.tree.get_all_with_path(opt_state, "count", filtering=_is_of_schedule)
    return counts[0][1] if counts else steps


def _is_of_schedule(path: Any, leaf: Any) -> bool:
    name = path[-1]
    if not isinstance(name, optax.tree_utils.NamedTupleKey):
        return False
    return name.tuple_name == optax.ScaleByScheduleState.__name__


def _is_b(params: Params) -> Params:
    """Mask, True only for the B of an adapter."""
    return {
        path: {part: part == "b" for part in leaf} if isinstance(leaf, dict) else False
        for path, leaf in params.items()
    }


def _decayed(vectors: Collection[str], params: Params) -> Params:
    """Mask, True for matrices, including an adapter's A and B."""
    return {
        path: {part: part != "magnitude" for part in leaf}
        if isinstance(leaf, dict)
        else path not in vectors
        for path, leaf in params.items()
    }
