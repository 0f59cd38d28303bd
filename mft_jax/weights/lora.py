"""`LoraArray`: a frozen base with a trainable low-rank update; `TaskLoraArray`: the same product,
with a gradient for every task.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.weights.quantized import Int4Array, NF4Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["base", "a", "b"], meta_fields=["scale"]
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class LoraArray:
    """`x @ w = x @ base + scale * (x @ a) @ b` (LoRA, arXiv 2106.09685, Eq. 3).

    `base` is whatever knows `x @ base`: QLoRA is `LoraArray(NF4Array, a, b, scale)`.
    As a pytree it may hold shapes or shardings in place of arrays (`no_type_check`).
    """

    base: Array | NF4Array | Int4Array
    a: Float[Array, "*N in R"]
    b: Float[Array, "*N R out"]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def __rmatmul__(self, x: Float[Array, "*B in"]) -> Float[Array, "*B out"]:
        return x @ self.base + self.scale * ((x @ self.a) @ self.b)

    def delta(self) -> Float[Array, "in out"]:
        """The dense update, `scale * a @ b`, in the adapter's dtype."""
        return self.scale * jnp.einsum("...ir,...ro->...io", self.a, self.b)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "a", "b", "task_ids"],
    meta_fields=["scale"],
)
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class TaskLoraArray:
    """`LoraArray` whose backward pass returns the gradient of `a` and `b` of every task.

    Segments are isolated by attention and every position belongs to one task, so the cotangent of
    an activation is its own task's already; only the sum over positions that makes a weight's
    gradient has to be kept apart by task. `a` and `b` are the adapter repeated T times (the forward
    pass reads the first), which gives their gradients room.
    """

    base: Array | NF4Array | Int4Array
    a: Float[Array, "*N T in R"]
    b: Float[Array, "*N T R out"]
    task_ids: Int[Array, "*N B L"]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def __rmatmul__(self, x: Float[Array, "B L in"]) -> Float[Array, "B L out"]:
        low = _matmul_by_task(x, self.a, self.task_ids)
        return x @ self.base + self.scale * _matmul_by_task(low, self.b, self.task_ids)


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
