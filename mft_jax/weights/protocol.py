"""The operations of a weight, whatever it is stored as. A plain array is a weight, too.

    x @ w                              the product, of every weight
    ragged_matmul(x, w, sizes)         the product by expert
    dense(w, dtype)                    one plain array
    shardings(w, axes, sharding_of)    where its parts lie on a mesh
    gathered(w, gather)                the same weight, whole on every device that multiplies by it
    split_adapter(w)                   what is stored, and the adapter around it

These functions treat plain arrays; everything else is a `Weight` and answers for itself. All
weights are pytrees: shapes or shardings may stand where their fields say arrays.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Axes = tuple[str | None, ...]  # logical axes, by the names that `sharding.RULES` knows
# `sharding_of(array, axes, exact=True)`: with `exact` an axis that the mesh does not divide is an
# error, else it stays whole. `array` may be a shape; axes of a stack, in front, stay whole.
ShardingOf = Callable[..., Any]


class Weight(abc.ABC):
    """A weight that is not one plain array."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """That of the dense weight, leading axes of a stack included."""

    @abc.abstractmethod
    def gathered(self, gather: Callable[[Any], Any]) -> Any:
        """The weight with `gather` applied to what must travel between devices."""

    def shardings(self, axes: Axes, sharding_of: ShardingOf) -> Any:
        """The same pytree of shardings, for a weight with these logical axes."""
        raise NotImplementedError(f"{type(self).__name__} is made inside a step, never placed")

    def dense(self, dtype: jax.typing.DTypeLike) -> Array:
        raise NotImplementedError(f"{type(self).__name__} has no dense form")

    def ragged(self, x: Float[Array, "M in"], sizes: Int[Array, " E"]) -> Float[Array, "M out"]:
        raise NotImplementedError(f"{type(self).__name__} is no weight of experts")

    def split(self) -> tuple[Any, "Weight | None"]:
        """(what is stored, the adapter around it or None)"""
        return self, None


def dense(w: Any, dtype: jax.typing.DTypeLike) -> Array:
    """The weight as one plain array.

    >>> import jax.numpy as jnp
    >>> dense(jnp.ones((2, 3)), jnp.bfloat16).dtype
    dtype(bfloat16)
    """
    return w.dense(dtype) if isinstance(w, Weight) else jnp.asarray(w, dtype)


def ragged_matmul(
    x: Float[Array, "M in"], w: Any, sizes: Int[Array, " E"]
) -> Float[Array, "M out"]:
    """Rows of expert e, `sizes[e]` of them in the order of the experts, times `w[e]` [in, out].

    >>> import jax.numpy as jnp
    >>> x, w = jnp.ones((3, 2)), jnp.stack([jnp.ones((2, 1)), 5 * jnp.ones((2, 1))])
    >>> ragged_matmul(x, w, jnp.array([1, 2])).ravel().tolist()
    [2.0, 10.0, 10.0]
    """
    if isinstance(w, Weight):
        return w.ragged(x, sizes)
    return jax.lax.ragged_dot(x, w.astype(x.dtype), sizes)


def shardings(w: Any, axes: Axes, sharding_of: ShardingOf) -> Any:
    return w.shardings(axes, sharding_of) if isinstance(w, Weight) else sharding_of(w, axes)


def gathered(w: Any, gather: Callable[[Any], Any]) -> Any:
    """Plain arrays are left to the compiler, which gathers them where it multiplies."""
    return w.gathered(gather) if isinstance(w, Weight) else w


def split_adapter(w: Any) -> tuple[Any, Any]:
    """(what is stored, the adapter around it or None)"""
    return w.split() if isinstance(w, Weight) else (w, None)
