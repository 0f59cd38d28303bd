"""Frozen weights with a trainable low-rank update: `LoraArray` for matrices, `LoraTable` for
embeddings and heads, `TaskLoraArray` for the gradient of every task.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mft_jax.types import Params
from mft_jax.weights.frozen import QuantizedArray
from mft_jax.weights.protocol import (
    Axes,
    ShardingOf,
    Weight,
    dense,
    gathered,
    ragged_matmul,
    shardings,
)

Frozen = Array | QuantizedArray


class Adapter(Weight):
    """A weight that puts an adapter around another weight, its `base`. Only the base is gathered:
    the adapter is plain arrays, which the compiler gathers."""

    base: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def gathered(self, gather: Callable[[Any], Any]) -> Any:
        return dataclasses.replace(cast(Any, self), base=gathered(self.base, gather))

    def split(self) -> tuple[Any, Any]:
        return self.base, self


def adapter_shardings(parts: Params, axes: Axes, sharding_of: ShardingOf) -> Params:
    """The shardings of `a`, `b` and the magnitude of an adapter around a matrix with the logical
    axes (in, out): each part along the axis that it shares with the matrix, over more devices than
    the matrix where `sharding_of(..., spread=True)` can.

    >>> import jax.numpy as jnp
    >>> parts = {"a": jnp.ones((4, 1)), "b": jnp.ones((1, 8))}
    >>> adapter_shardings(parts, ("embed", "mlp"), lambda array, axes, spread: axes)
    {'a': ('embed', None), 'b': (None, 'mlp')}
    """
    first, last = axes
    of_part: dict[str, Axes] = {"a": (first, None), "b": (None, last), "magnitude": (last,)}
    return {name: sharding_of(part, of_part[name], spread=True) for name, part in parts.items()}


def dropout(x: Float[Array, "*B in"], key: Key[Array, ""] | None, rate: float) -> Array:
    """Inverted dropout: kept entries are divided by the share that is kept. No key, no dropout.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> sorted(set(dropout(jnp.ones(100), jax.random.key(0), rate=0.75).tolist()))
    [0.0, 4.0]
    """
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "a", "b", "magnitude", "key"],
    meta_fields=["scale", "rate"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class LoraArray(Adapter):
    """`x @ w = x @ base + scale * (dropout(x) @ a) @ b` (LoRA, arXiv 2106.09685, Eq. 3).

    `base` is any weight with a product: QLoRA is `LoraArray(NF4Array, a, b, scale)`. With a
    `magnitude` the columns of `base + scale * a @ b` are scaled to it (DoRA, arXiv 2402.09353,
    Eq. 5), their norm taken as a constant in the backward pass (section 4.3).
    As a pytree it may hold shapes or shardings in place of arrays (`no_type_check`).

    >>> import jax.numpy as jnp
    >>> w = LoraArray(jnp.eye(2), a=jnp.ones((2, 1)), b=jnp.ones((1, 2)), scale=0.5)
    >>> (jnp.array([[1.0, 3.0]]) @ w).tolist()
    [[3.0, 5.0]]
    """

    base: Frozen
    a: Float[Array, "*N in R"]
    b: Float[Array, "*N R out"]
    scale: float
    magnitude: Float[Array, "*N out"] | None = None
    key: Key[Array, "*N"] | None = None
    rate: float = 0.0

    def dropped(self, x: Float[Array, "*B in"]) -> Float[Array, "*B in"]:
        return dropout(x, self.key, self.rate)

    def __rmatmul__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        plain, dropped = x @ self.base, self.dropped(x)
        update = self.scale * ((dropped @ self.a) @ self.b)
        if self.magnitude is None:
            return plain + update
        factor = self.magnitude / column_norm(self.base, self.a, self.b, self.scale)
        factor = factor.astype(x.dtype).reshape((1,) * (plain.ndim - 1) + (-1,))
        through = plain if dropped is x else dropped @ self.base
        return plain + (factor - 1) * through + factor * update

    def delta(self) -> Float[Array, "in out"]:
        """The dense update, `scale * a @ b`, in the adapter's dtype."""
        return self.scale * jnp.einsum("...ir,...ro->...io", self.a, self.b)

    def ragged(self, x: Float[Array, "M in"], sizes: Int[Array, " E"]) -> Float[Array, "M out"]:
        low = ragged_matmul(self.dropped(x), self.a, sizes)
        update = self.scale * ragged_matmul(low, self.b, sizes)
        return ragged_matmul(x, self.base, sizes) + update

    def shardings(self, axes: Axes, sharding_of: ShardingOf) -> Any:
        """The shardings of a stored rest and of the initial adapter that follows from it."""
        parts = adapter_shardings({"a": self.a, "b": self.b}, axes, sharding_of)
        base = shardings(self.base, axes, sharding_of)
        return LoraArray(base, **parts, scale=self.scale)

    def dense(self, dtype: jax.typing.DTypeLike) -> Float[Array, "*N in out"]:
        """The base plus the update, with its columns scaled to the magnitude if there is one."""
        merged = dense(self.base, dtype) + self.delta()
        if self.magnitude is None:
            return merged
        norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(merged), axis=-2), _least(merged.dtype)))
        return merged * (self.magnitude / norm)[..., None, :]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "a", "b", "key"],
    meta_fields=["scale", "rate"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class LoraTable(Adapter):
    """The table of an embedding, whose rows are looked up, or of a head, whose rows make logits.

    embedding   a [V, R], b [R, D]   table + scale * a @ b
    head        a [D, R], b [R, V]   table + scale * (a @ b).T, computed in `models.head`

    >>> import jax.numpy as jnp
    >>> table = LoraTable(jnp.zeros((3, 2)), a=jnp.eye(3, 1), b=jnp.ones((1, 2)), scale=2.0)
    >>> table.take(jnp.array([0, 2])).tolist()
    [[2.0, 2.0], [0.0, 0.0]]
    """

    base: Float[Array, "V D"]
    a: Float[Array, "_ R"]
    b: Float[Array, "R _"]
    scale: float
    key: Key[Array, ""] | None = None
    rate: float = 0.0

    def take(self, tokens: Int[Array, "*B"], axis: int = 0) -> Float[Array, "*B D"]:
        rows = self.base.take(tokens, axis=axis)
        return rows + self.scale * (self.a.take(tokens, axis=axis) @ self.b).astype(rows.dtype)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "a", "b", "task_ids", "magnitude", "key"],
    meta_fields=["scale", "rate"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class TaskLoraArray(Adapter):
    """`LoraArray` whose backward pass returns the gradient of its adapter for every task.

    Segments are isolated by attention and every position belongs to one task, so the cotangent of
    an activation already belongs to one task; only the sum over positions, a weight's gradient,
    must be taken per task. `a`, `b` and `magnitude` are repeated T times (the forward pass reads
    the first), so that their gradients have an axis T.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> x, task_ids = jnp.ones((1, 3, 1)), jnp.array([[0, 1, 1]])
    >>> a, b = jnp.ones((2, 1, 1)), jnp.ones((2, 1, 1))
    >>> loss = lambda a: (x @ TaskLoraArray(jnp.eye(1), a, b, task_ids, scale=1.0)).sum()
    >>> jax.grad(loss)(a).ravel().tolist()
    [1.0, 2.0]
    """

    base: Frozen
    a: Float[Array, "*N T in R"]
    b: Float[Array, "*N T R out"]
    task_ids: Int[Array, "*N B L"]
    scale: float
    magnitude: Float[Array, "*N T out"] | None = None
    key: Key[Array, "*N"] | None = None
    rate: float = 0.0

    def __rmatmul__(self, x: Float[Array, "B L in"]) -> Float[Array, "B L out"]:
        plain, dropped = x @ self.base, dropout(x, self.key, self.rate)
        low = _matmul_by_task(dropped, self.a, self.task_ids)
        update = self.scale * _matmul_by_task(low, self.b, self.task_ids)
        if self.magnitude is None:
            return plain + update
        norm = column_norm(self.base, self.a[0], self.b[0], self.scale)
        factor = (self.magnitude / norm[None]).astype(x.dtype)[self.task_ids]
        through = plain if dropped is x else dropped @ self.base
        return plain + (factor - 1) * through + factor * update


def column_norm(
    base: Frozen, a: Float[Array, "in R"], b: Float[Array, "R out"], scale: float
) -> Float[Array, " out"]:
    """The norm of every column of `base + scale * a @ b`, a constant for differentiation.

    |w + s a b|^2 = |w|^2 + 2 s (a.T w) . b + s^2 b . (a.T a) b needs no dense sum. The norm is
    never zero, since it is a divisor and a column of zeros is allowed.

    >>> import jax.numpy as jnp
    >>> w, a, b = jnp.diag(jnp.array([3.0, 4.0])), jnp.zeros((2, 1)), jnp.zeros((1, 2))
    >>> column_norm(w, a, b, scale=1.0).tolist()
    [3.0, 4.0]
    """
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    base, a, b = jax.lax.stop_gradient((base, a.astype(dtype), b.astype(dtype)))
    with jax.default_matmul_precision("highest"):
        cross = jnp.sum((a.T @ base) * b, axis=0)
        of_update = jnp.sum(b * ((a.T @ a) @ b), axis=0)
    square = jnp.sum(jnp.square(dense(base, dtype)), axis=-2)
    square = square + 2 * scale * cross + scale**2 * of_update
    return jnp.sqrt(jnp.maximum(square, _least(dtype)))


def _least(dtype: jax.typing.DTypeLike) -> float:
    return float(jnp.finfo(dtype).tiny)


@jax.custom_vjp
def _matmul_by_task(
    x: Float[Array, "B L in"], weight: Float[Array, "T in out"], task_ids: Int[Array, "B L"]
) -> Float[Array, "B L out"]:
    return x @ weight[0]


def _forward(x, weight, task_ids):
    return x @ weight[0], (x, weight, task_ids)


def _backward(residuals, dy):
    """One product for all tasks: the narrow side (the rank) is spread over T blocks of columns."""
    x, weight, task_ids = residuals
    mine = (task_ids[..., None] == jnp.arange(weight.shape[0])[None, None]).astype(dy.dtype)
    if x.shape[-1] < dy.shape[-1]:
        grad = jnp.einsum("blti,blo->tio", mine[..., None] * x[:, :, None], dy)
    else:
        grad = jnp.einsum("bli,blto->tio", x, mine[..., None] * dy[:, :, None])
    return dy @ weight[0].T, grad.astype(weight.dtype), None


_matmul_by_task.defvjp(_forward, _backward)
