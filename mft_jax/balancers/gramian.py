"""The T x T Gramian of task gradients: functions that balancers of it share, and solvers.

Everything a combination of T gradients needs is in their inner products, so methods that papers
define on gradients of millions of entries run here on a T x T matrix, inside the jitted step.
An absent task has a zero row and column.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mft_jax.arrays import safe_divide
from mft_jax.balancers.active_set import nonnegative_minimum
from mft_jax.balancers.base import Balancer, Signals, memoryless
from mft_jax.record.schema import Quantity
from mft_jax.types import TaskSums

MAX_ITERATIONS = 500
TITLES = (
    (
        "kkt_residual",
        Quantity("KKT residual", "of the weights, relative; 0 at their optimum", shown=False),
    ),
)


class Solved(NamedTuple):
    """The weights that solve a method's equations, and how far they are from it.

    residual: the largest violation of the optimality conditions (Karush, Kuhn and Tucker),
              relative to the numbers in them: 0 at the optimum, about 1e-6 by rounding in float32.
    """

    weight: Float[Array, " T"]
    residual: Float[Array, ""]


def from_gramian(weights: Callable[[Float[Array, "T T"]], Float[Array, " T"]]) -> Balancer:
    """A balancer without memory: the weights of a step follow from its Gramian."""

    def of_signals(signals: Signals) -> Float[Array, " T"]:
        assert signals.gramian is not None, "the step provides what `needs` names"
        with jax.default_matmul_precision("highest"):
            return weights(signals.gramian)

    return memoryless(of_signals, frozenset({"task_gradients"}))


def solved_from_gramian(solve: Callable[[Float[Array, "T T"]], Solved]) -> Balancer:
    """As `from_gramian`, for weights that are searched for: the residual of the last step is its
    state and in the record.
    """

    def init(num_tasks: int, valid_losses: TaskSums) -> Float[Array, ""]:
        return jnp.zeros((), float)

    def update(state: Float[Array, ""], signals: Signals) -> tuple[Array, Float[Array, ""]]:
        assert signals.gramian is not None, "the step provides what `needs` names"
        with jax.default_matmul_precision("highest"):
            weight, residual = solve(signals.gramian)
        return weight, residual.astype(state.dtype)

    def logs(state: Float[Array, ""]) -> dict[str, Array]:
        return {"kkt_residual": state}

    return Balancer(
        init, update, logs, frozenset({"task_gradients"}), titles=TITLES, state_version=2
    )


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


def least_norm_above(
    gramian: Float[Array, "T T"], bounds: Float[Array, "rows T"]
) -> tuple[Float[Array, "rows T"], Float[Array, ""]]:
    """The weights v >= u of least v^T G v, for every row u of `bounds`, and the largest residual.

    v^T J is the projection of u^T J onto the dual cone of the gradients (TorchJD, arXiv
    2406.16232, Prop. 1). A ridge of 1e-4 times the trace keeps the problem well posed, as there.
    """
    total = jnp.trace(gramian)
    size = gramian.shape[0]
    ridge = 1e-4 * jnp.eye(size, dtype=gramian.dtype)
    g = safe_divide(gramian, total) + ridge
    above, residual = jax.vmap(nonnegative_minimum, in_axes=(None, 0))(g, -bounds @ g)
    return bounds + above, residual.max()


def solve_product(gramian: Float[Array, "T T"], exponent: float) -> Solved:
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
    off = jnp.where(present, (g @ w) * w**exponent - 1.0, 0.0)
    weight = jnp.where(present, w * scale ** (-1.0 / (1.0 + exponent)), 0.0)
    return Solved(weight, jnp.abs(off).max())
