"""One matrix per expert, and rows sorted by expert: `ragged_matmul`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mft_jax.weights.lora import LoraArray
from mft_jax.weights.quantized import QuantizedArray, dequantize_stack

ExpertWeight = Array | QuantizedArray | LoraArray


def ragged_matmul(
    x: Float[Array, "M in"], w: ExpertWeight, sizes: Int[Array, " E"]
) -> Float[Array, "M out"]:
    """Rows of expert e, `sizes[e]` of them in the order of the experts, times `w[e]` [in, out]."""
    if isinstance(w, LoraArray):
        low = ragged_matmul(w.dropped(x), w.a, sizes)
        return ragged_matmul(x, w.base, sizes) + w.scale * ragged_matmul(low, w.b, sizes)
    if isinstance(w, jax.Array):
        return jax.lax.ragged_dot(x, w.astype(x.dtype), sizes)
    return _frozen_ragged_matmul(x, w, sizes)


@jax.custom_vjp
def _frozen_ragged_matmul(
    x: Float[Array, "M in"], w: QuantizedArray, sizes: Int[Array, " E"]
) -> Float[Array, "M out"]:
    """As `frozen_matmul`: the residual is the codes, never the dense weights."""
    return jax.lax.ragged_dot(x, dequantize_stack(jax.lax.optimization_barrier(w), x.dtype), sizes)


def _forward(x: Array, w: QuantizedArray, sizes: Array) -> tuple[Array, tuple]:
    return _frozen_ragged_matmul(x, w, sizes), (w, sizes)


def _backward(residuals: tuple, dy: Array) -> tuple[Array, None, None]:
    w, sizes = residuals
    w, dy = jax.lax.optimization_barrier((w, dy))
    dense = dequantize_stack(w, dy.dtype)
    return jax.lax.ragged_dot(dy, jnp.swapaxes(dense, -1, -2), sizes), None, None


_frozen_ragged_matmul.defvjp(_forward, _backward)
