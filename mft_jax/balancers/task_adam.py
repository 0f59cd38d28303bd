"""Adam (arXiv 1412.6980) on one number per task, where an absent task takes no step.

`optax.adam` decays the moments of every entry in every step and counts steps for all together, so
old moments would move a rare task in steps without it; here moments and steps are per task.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class TaskAdam(NamedTuple):
    """The numbers, their two moments, and the steps that each of them has taken."""

    value: Float[Array, " T"]
    mean: Float[Array, " T"]
    square: Float[Array, " T"]
    steps: Int[Array, " T"]


def start_adam(value: Float[Array, " T"]) -> TaskAdam:
    """The state at `value`, before any step."""
    zeros = jnp.zeros_like(value)
    return TaskAdam(value, zeros, zeros, jnp.zeros(value.shape, jnp.int32))


def step_adam(
    state: TaskAdam,
    gradient: Float[Array, " T"],
    present: Bool[Array, " T"],
    learning_rate: float,
) -> TaskAdam:
    """The state after one step down `gradient` for the tasks that are present."""
    steps = state.steps + present
    mean = BETA1 * state.mean + (1 - BETA1) * gradient
    square = BETA2 * state.square + (1 - BETA2) * gradient**2
    corrected = jnp.where(present, steps, 1).astype(gradient.dtype)
    change = (mean / (1 - BETA1**corrected)) / (jnp.sqrt(square / (1 - BETA2**corrected)) + EPSILON)
    value = state.value - learning_rate * change

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(present, new, old)

    return TaskAdam(
        keep(value, state.value), keep(mean, state.mean), keep(square, state.square), steps
    )
