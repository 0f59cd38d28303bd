"""`x @ LoraArray` is `x @ (base + scale a b)`, in value and in gradient, over any base."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.weights.lora import LoraArray
from mft_jax.weights.quantized import quantize

SCALE = 1.75


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def case(base: str):
    """(x, base, dense base, a, b, cotangent)"""
    dense = normal(1, 128, 96)
    stored = dense
    if base != "dense":
        stored = jax.jit(quantize, static_argnums=1)(dense, base)
        dense = stored.dequantize(jnp.float32)
    return normal(0, 3, 5, 128), stored, dense, normal(2, 128, 4), normal(3, 4, 96), normal(4, 96)


def dense_loss(a, b, x, dense, g):
    return jnp.vdot(jnp.tanh(x @ (dense + SCALE * a @ b)).sum((0, 1)), g)


def lora_loss(a, b, x, stored, g):
    return jnp.vdot(jnp.tanh(x @ LoraArray(stored, a, b, SCALE)).sum((0, 1)), g)


@pytest.mark.parametrize("base", ["dense", "nf4", "int4"])
def test_value_and_gradients_are_those_of_the_dense_sum(base):
    x, stored, dense, a, b, g = case(base)
    both = functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    value, grads = jax.jit(both(lora_loss))(a, b, x, stored, g)
    want, want_grads = jax.jit(both(dense_loss))(a, b, x, dense, g)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-4)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        atol = 1e-5 * float(jnp.abs(want_grad).max())
        np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=atol)


def test_a_zero_b_leaves_the_base_exactly():
    x, stored, _, a, b, _ = case("nf4")
    adapted = LoraArray(stored, a, jnp.zeros_like(b), SCALE)
    np.testing.assert_array_equal(x @ adapted, x @ stored)


def test_delta_is_the_dense_update_of_every_layer_of_a_stack():
    a, b = normal(5, 2, 128, 4), normal(6, 2, 4, 96)
    stack = LoraArray(normal(7, 2, 128, 96), a, b, SCALE)
    assert stack.shape == (2, 128, 96)
    want = SCALE * np.einsum("nir,nro->nio", a, b)
    np.testing.assert_allclose(stack.delta(), want, rtol=1e-5, atol=1e-5)
