"""Balancers by name, and their settings."""

import dataclasses
from typing import Literal

from mft_jax.balancers.base import Balancer
from mft_jax.balancers.coba import Ablate, coba
from mft_jax.balancers.uniform import uniform
from mft_jax.types import at_least


@dataclasses.dataclass(frozen=True)
class CobaConfig:
    """Counts are updates (looks at a validation micro-batch), `update_every_steps` apart.

    `warmup_updates` and `history_updates` left at None follow the paper's appendix B: M and 2 M,
    with M the number of validation micro-batches in a pass over the validation data.
    """

    tau: float = 5.0
    warmup_updates: int | None = None
    history_updates: int | None = None
    update_every_steps: int = 1
    ablate: Ablate = "none"

    def __post_init__(self) -> None:
        least = {"tau": 0, "warmup_updates": 0, "history_updates": 2, "update_every_steps": 1}
        at_least("balancer.coba", self, **least)


@dataclasses.dataclass(frozen=True)
class BalancerConfig:
    name: Literal["uniform", "coba"] = "coba"
    coba: CobaConfig = CobaConfig()


def make_balancer(
    config: BalancerConfig, *, total_steps: int, valid_micro_batches: int
) -> Balancer:
    """`valid_micro_batches` is M, the length of a pass over the validation data."""
    if config.name == "uniform":
        return uniform()
    settings = config.coba
    warmup = settings.warmup_updates
    history = settings.history_updates
    warmup = valid_micro_batches if warmup is None else warmup
    history = max(2 * valid_micro_batches, 2) if history is None else history
    return coba(
        history_updates=history,
        warmup_updates=warmup,
        max_updates=-(-total_steps // settings.update_every_steps),
        tau=settings.tau,
        update_every_steps=settings.update_every_steps,
        ablate=settings.ablate,
    )
