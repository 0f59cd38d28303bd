"""Array functions for every room: mapping over a stack of layers, and division that allows 0."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def over_stack(function: Callable[..., Any], depth: int) -> Callable[..., Any]:
    """The `function` of one layer's arrays, mapped over `depth` leading axes of all its arguments.

    >>> import jax.numpy as jnp
    >>> over_stack(jnp.trace, 2)(jnp.ones((3, 4, 5, 5))).shape
    (3, 4)
    """
    for _ in range(depth):
        function = jax.vmap(function)
    return function


def safe_divide(numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """`numerator / denominator`, and 0 (with derivatives 0) where the denominator is 0.

    >>> import jax.numpy as jnp
    >>> safe_divide(jnp.array([6.0, 6.0, 6.0]), jnp.array([2.0, 0.0, -2.0])).tolist()
    [3.0, 0.0, -3.0]
    """
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1.0), 0.0)
