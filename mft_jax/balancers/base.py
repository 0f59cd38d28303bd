"""The shape of a balancer: optax's pair of pure functions, and what they may look at."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Float, Int

from mft_jax.types import TaskSums

Need = Literal["valid_losses"]
State = Any


class Signals(NamedTuple):
    """What a balancer may look at in step `step` (0-based optimiser steps).

    `valid_losses`: nll of this step's validation micro-batch under the parameters before the
    update; None unless the balancer needs it. It is measured when `step % every_steps == 0`
    and absent (all counts zero) in between.
    """

    step: Int[Array, ""]
    valid_losses: TaskSums | None


class Balancer(NamedTuple):
    """`update(state, signals) -> (weight_T, state)`; weights are non-negative and sum to 1.

    init:         from the number of tasks and, where `valid_losses` is needed, the full-pass
                  validation nll before the first step. The state is a pytree that lives in
                  `TrainState`, so it is checkpointed and restored with it.
    logs:         the state's readable numbers, `{name: [T] or scalar}`, for the record.
    needs:        the step computes only what is named here.
    every_steps:  optimiser steps between two looks at the signals.
    """

    init: Callable[[int, TaskSums | None], State]
    update: Callable[[State, Signals], tuple[Float[Array, " T"], State]]
    logs: Callable[[State], dict[str, Array]]
    needs: frozenset[Need] = frozenset()
    every_steps: int = 1
