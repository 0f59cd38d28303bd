"""The operations of a weight in any form of storage. A plain array is a weight, too.

    x @ w                              the product, of every weight
    ragged_matmul(x, w, sizes)         the product by expert
    dense(w, dtype)                    one plain array
    shardings(w, axes, sharding_of)    the shardings of its parts on a mesh
    gathered(w, gather)                the same weight, whole on every device that multiplies by it
    split_adapter(w)                   the stored weight, and the adapter around it

These functions handle plain arrays; every other weight is a `Weight`, whose methods they call. All
weights are pytrees: their fields may hold shapes or shardings in place of arrays.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Axes = tuple[str | None, ...]  # logical axes, by the names that `sharding.RULES` knows
# `sharding_of(array, axes, exact=True)`: with `exact` an axis that the mesh does not divide is an
# error, else it stays whole. `array` may be a shape; leading axes of a stack stay whole.
ShardingOf = Callable[..., Any]


class Weight(abc.ABC):
    """A weight that is not one plain array."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense weight, with the leading axes of a stack."""

    @abc.abstractmethod
    def gathered(self, gather: Callable[[Any], Any]) -> Any:
        """The weight with `gather` applied to the parts that must move between devices."""

    def shardings(self, axes: Axes, sharding_of: ShardingOf) -> Any:
        """The same pytree with shardings in place of arrays; `axes` are its logical axes."""
        raise NotImplementedError(f"{type(self).__name__} is made inside a step, never placed")

    def dense(self, dtype: jax.typing.DTypeLike) -> Array:
        raise NotImplementedError(f"{type(self).__name__} has no dense form")

    def ragged(self, x: Float[Array, "M in"], sizes: Int[Array, " E"]) -> Float[Array, "M out"]:
        raise NotImplementedError(f"{type(self).__name__} is no weight of experts")

    def split(self) -> tuple[Any, "Weight | None"]:
        """The stored weight, and the adapter around it or None."""
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
    """The product by expert: the rows of expert e, `sizes[e]` of them in the order of the experts,
    times `w[e]` [in, out].

    >>> import jax.numpy as jnp
    >>> x, w = jnp.ones((3, 2)), jnp.stack([jnp.ones((2, 1)), 5 * jnp.ones((2, 1))])
    >>> ragged_matmul(x, w, jnp.array([1, 2])).ravel().tolist()
    [2.0, 10.0, 10.0]
    """
    if isinstance(w, Weight):
        return w.ragged(x, sizes)
    return jax.lax.ragged_dot(x, w.astype(x.dtype), sizes)


def shardings(w: Any, axes: Axes, sharding_of: ShardingOf) -> Any:
    """The same pytree with shardings in place of arrays; `axes` are its logical axes.

    >>> import jax.numpy as jnp
    >>> shardings(jnp.ones((4, 8)), ("embed", "mlp"), lambda array, axes: axes)
    ('embed', 'mlp')
    """
    return w.shardings(axes, sharding_of) if isinstance(w, Weight) else sharding_of(w, axes)


def gathered(w: Any, gather: Callable[[Any], Any]) -> Any:
    """The same weight, whole on every device that multiplies by it.

    Plain arrays are returned unchanged: the compiler gathers them where they are multiplied.

    >>> import jax.numpy as jnp
    >>> from mft_jax.weights.lora import LoraArray
    >>> w = LoraArray(jnp.eye(2), a=jnp.ones((2, 1)), b=jnp.ones((1, 2)), scale=1.0)
    >>> gathered(w, lambda part: part).base is w.base
    True
    """
    return w.gathered(gather) if isinstance(w, Weight) else w


def split_adapter(w: Any) -> tuple[Any, Any]:
    """The stored weight, and the adapter around it or None.

    >>> import jax.numpy as jnp
    >>> split_adapter(jnp.eye(1))
    (Array([[1.]], dtype=float32), None)
    """
    return w.split() if isinstance(w, Weight) else (w, None)
