"""The T x T Gramian of task gradients: functions that balancers of it share, and solvers.

Everything a combination of T gradients needs is in their inner products, so methods that papers
define on gradients of millions of entries run here on a T x T matrix, inside the jitted step.
An absent task has a zero row and column.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.base import Balancer, Signals, memoryless

MAX_ITERATIONS = 500
SHORTENINGS = 4  # of one step, by the line search

Solve = Callable[[Float[Array, "T T"]], Float[Array, " T"]]


def from_gramian(weights: Solve) -> Balancer:
    """A balancer without memory: the weights of a step follow from its Gramian."""

    def of_signals(signals: Signals) -> Float[Array, " T"]:
        assert signals.gramian is not None, "the step provides what `needs` names"
        return weights(signals.gramian)

    return memoryless(of_signals, frozenset({"task_gradients"}))


def present_tasks(gramian: Float[Array, "T T"]) -> Bool[Array, " T"]:
    """A mask, true where a task has a gradient."""
    return jnp.diagonal(gramian) > 0


def equal_among(present: Bool[Array, " T"], dtype: jax.typing.DTypeLike) -> Float[Array, " T"]:
    """Weights 1 / number of present tasks; 0 where absent."""
    return present.astype(dtype) / jnp.maximum(present.sum(), 1).astype(dtype)


def normalized(gramian: Float[Array, "T T"]) -> tuple[Float[Array, "T T"], Float[Array, ""]]:
    """(G / s, s) with s the mean squared norm of present tasks, or 1 where there is none."""
    total = jnp.trace(gramian)
    count = jnp.maximum(present_tasks(gramian).sum(), 1).astype(gramian.dtype)
    scale = jnp.where(total > 0, total / count, 1.0)
    return gramian / scale, scale


def onto_simplex(point: Float[Array, " T"], present: Bool[Array, " T"]) -> Float[Array, " T"]:
    """The nearest point with non-negative entries of sum 1, 0 where a task is absent.

    Sorting algorithm of Held, Wolfe and Crowder (1974), as `optax.projections.projection_simplex`,
    which has no mask: with -inf or a large negative number for absent tasks its cumulative sum is
    NaN or loses its digits.
    """
    lowest = jnp.where(present, point, -jnp.inf)
    falling = jnp.sort(lowest)[::-1]
    rank = jnp.arange(1, point.shape[0] + 1, dtype=point.dtype)
    finite = jnp.isfinite(falling)
    excess = (jnp.cumsum(jnp.where(finite, falling, 0.0)) - 1.0) / rank
    kept = finite & (falling > excess)
    last = jnp.maximum(kept.sum() - 1, 0)
    return jnp.where(present, jnp.maximum(point - excess[last], 0.0), 0.0)


def minimize(
    value: Callable[[Float[Array, " T"]], Float[Array, ""]],
    project: Callable[[Float[Array, " T"]], Float[Array, " T"]],
    start: Float[Array, " T"],
) -> Float[Array, " T"]:
    """The minimum of a convex function over a convex set, by spectral projected gradients.

    (Birgin, Martinez and Raydan, SIAM J. Optim. 2000.) The line search compares slopes, not values,
    which near a minimum agree in half of their digits. Functions here are of a normalised Gramian,
    so gradients are of order 1 and a first step length of 1 is right.
    """
    gradient = jax.grad(value)
    tolerance = 30 * jnp.finfo(start.dtype).eps

    def unfinished(carry) -> Array:
        _, _, _, moved, count = carry
        return (moved > tolerance) & (count < MAX_ITERATIONS)

    def step(carry):
        x, g, length, _, count = carry
        direction = project(x - length * g) - x
        change = _until_level(lambda t: jnp.dot(gradient(x + t * direction), direction)) * direction
        new = x + change
        new_g = gradient(new)
        curvature, squared = jnp.dot(change, new_g - g), jnp.dot(change, change)
        spectral = jnp.where(curvature > 0, safe_divide(squared, curvature), 1e3)
        return new, new_g, jnp.clip(spectral, 1e-6, 1e6), jnp.abs(change).max(), count + 1

    moved = jnp.asarray(jnp.inf, start.dtype)
    one = jnp.ones((), start.dtype)
    carry = (start, gradient(start), one, moved, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, step, carry)[0]


def _until_level(slope: Callable[[Float[Array, ""]], Float[Array, ""]]) -> Float[Array, ""]:
    """The t in [0, 1] where a rising slope that starts below 0 reaches 0, by false position.

    It is exact at once where the slope is a straight line.
    """
    at_0 = slope(jnp.zeros(()))

    def shorten(_, t: Float[Array, ""]) -> Float[Array, ""]:
        at_t = slope(t)
        falls = (at_0 < 0) & (at_t > 0)
        return jnp.where(falls, safe_divide(t * at_0, at_0 - at_t), t)

    return jax.lax.fori_loop(0, SHORTENINGS, shorten, jnp.ones_like(at_0))


def least_norm_above(
    gramian: Float[Array, "T T"], bounds: Float[Array, "rows T"]
) -> Float[Array, "rows T"]:
    """The weights v >= u of least v^T G v, for every row u of `bounds`.

    v^T J is the projection of u^T J onto the dual cone of the gradients (TorchJD, arXiv
    2406.16232, Prop. 1). A ridge of 1e-4 times the trace keeps the problem well posed, as there.
    """
    total = jnp.trace(gramian)
    size = gramian.shape[0]
    ridge = 1e-4 * jnp.eye(size, dtype=gramian.dtype)
    g = safe_divide(gramian, total) + ridge

    def solve(bound: Float[Array, " T"]) -> Float[Array, " T"]:
        return minimize(lambda v: jnp.dot(v, g @ v), lambda v: jnp.maximum(v, bound), bound)

    return jax.vmap(solve)(bounds)


def solve_product(gramian: Float[Array, "T T"], exponent: float) -> Float[Array, " T"]:
    """The w > 0 with G w = w^(-exponent), entry by entry; 0 where a task is absent.

    It is the minimum of the convex w^T G w / 2 - sum_i phi(w_i) with phi'(x) = x^(-exponent), found
    by damped Newton steps. Opposite gradients have no solution: a ridge of 1e-6 of every squared
    norm bounds it.
    """
    present = present_tasks(gramian)
    g, scale = normalized(gramian)
    # The equation of an absent task contains no other task.
    g = g + jnp.diag(jnp.where(present, 1e-6 * jnp.diagonal(g), 1.0))
    tolerance = 30 * jnp.finfo(g.dtype).eps

    def unfinished(carry) -> Array:
        _, decrement, count = carry
        return (decrement > tolerance) & (count < MAX_ITERATIONS)

    def step(carry):
        w, _, count = carry
        residual = g @ w - w**-exponent
        hessian = g + jnp.diag(exponent * w ** (-exponent - 1.0))
        newton = jnp.linalg.solve(hessian, residual)
        decrement = jnp.sqrt(jnp.maximum(jnp.dot(residual, newton), 0.0))
        # Never more than nine tenths of the way to the border of the positive orthant.
        room = 0.9 / jnp.maximum(jnp.max(newton / w), 1e-30)
        length = jnp.minimum(jnp.where(decrement < 0.25, 1.0, 1.0 / (1.0 + decrement)), room)
        return w - length * newton, decrement, count + 1

    start = jnp.ones(g.shape[0], g.dtype)
    carry = (start, jnp.asarray(jnp.inf, g.dtype), jnp.zeros((), jnp.int32))
    w = jax.lax.while_loop(unfinished, step, carry)[0]
    return jnp.where(present, w * scale ** (-1.0 / (1.0 + exponent)), 0.0)
