"""`x @ LoraArray` is `x @ (base + scale a b)`, in value and in gradient, over any base."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.weights.lora import LoraArray, LoraTable, column_norm, dropout
from mft_jax.weights.storage import quantize

SCALE = 1.75
BASES = ["dense", "nf4", "int4", "int8"]


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


@pytest.mark.parametrize("base", BASES)
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


def dense_dora_loss(parts, x, dense, g):
    """DoRA as in the paper (arXiv 2402.09353, Eq. 5 and section 4.3)."""
    whole = dense + SCALE * parts["a"] @ parts["b"]
    norm = jax.lax.stop_gradient(jnp.linalg.norm(whole, axis=0))
    columns = parts["magnitude"][None] * whole / norm[None]
    return jnp.vdot(jnp.tanh(x @ columns).sum((0, 1)), g)


def dora_loss(parts, x, stored, g):
    return jnp.vdot(jnp.tanh(x @ LoraArray(stored, **parts, scale=SCALE)).sum((0, 1)), g)


def dora_case(base: str):
    """A `case` with weights so small that tanh is not flat, and with magnitudes."""
    x, stored, dense, a, b, g = case(base)
    parts = {"a": a, "b": b, "magnitude": 0.3 + jnp.abs(normal(5, 96))}
    return 0.1 * x, stored, dense, parts, g


@pytest.mark.parametrize("base", BASES)
def test_dora_is_the_dense_formula_in_value_and_gradients(base):
    x, stored, dense, parts, g = dora_case(base)
    both = functools.partial(jax.value_and_grad, argnums=(0, 1))
    value, grads = jax.jit(both(dora_loss))(parts, x, stored, g)
    want, want_grads = jax.jit(both(dense_dora_loss))(parts, x, dense, g)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-4)
    for grad, want_grad in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        assert jnp.abs(want_grad).max() > 1e-3
        atol = 2e-5 * float(jnp.abs(want_grad).max())
        np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=atol)


def test_the_norm_of_dora_is_a_constant_in_the_backward_pass():
    x, _, dense, parts, g = dora_case("dense")

    def through_the_norm(parts):
        whole = dense + SCALE * parts["a"] @ parts["b"]
        columns = parts["magnitude"][None] * whole / jnp.linalg.norm(whole, axis=0)[None]
        return jnp.vdot(jnp.tanh(x @ columns).sum((0, 1)), g)

    other = jax.grad(through_the_norm)(parts)["b"]
    ours = jax.grad(dora_loss)(parts, x, dense, g)["b"]
    assert jnp.abs(ours - other).max() > 0.01 * jnp.abs(ours).max()


@pytest.mark.parametrize("base", BASES)
def test_column_norm_is_that_of_the_dense_sum(base):
    _, stored, dense, a, b, _ = case(base)
    want = np.linalg.norm(np.asarray(dense, np.float64) + SCALE * np.asarray(a @ b), axis=0)
    np.testing.assert_allclose(column_norm(stored, a, b, SCALE), want, rtol=1e-5)
    halved = column_norm(stored, a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), SCALE)
    assert halved.dtype == jnp.float32
    np.testing.assert_allclose(halved, want, rtol=0.02)


def test_dora_with_a_column_of_zeros_is_finite():
    x, _, dense, parts, g = dora_case("dense")
    dense = dense.at[:, 3].set(0.0)
    start = {**parts, "b": jnp.zeros_like(parts["b"])}
    start["magnitude"] = column_norm(dense, start["a"], start["b"], SCALE)
    np.testing.assert_allclose(x @ LoraArray(dense, **start, scale=SCALE), x @ dense, atol=1e-5)
    for case_ in (start, {**parts, "magnitude": start["magnitude"]}):
        grads = jax.grad(dora_loss)(case_, x, dense, g)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        assert np.isfinite(LoraArray(dense, **case_, scale=SCALE).dense(jnp.float32)).all()


@pytest.mark.parametrize("dora", [False, True])
def test_dense_is_what_is_multiplied(dora):
    x, _, dense, parts, _ = dora_case("dense")
    chosen = parts if dora else {name: parts[name] for name in "ab"}
    adapter = LoraArray(dense, **chosen, scale=SCALE)
    whole = adapter.dense(jnp.float32)
    want = x @ adapter
    np.testing.assert_allclose(x @ whole, want, rtol=1e-4, atol=1e-4)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), adapter)
    both = stack.dense(jnp.float32)
    np.testing.assert_allclose(both[0], whole, rtol=1e-5, atol=1e-5)
    assert both.shape == (2, *dense.shape) and not np.allclose(both[1], whole)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_what_it_keeps(rate):
    x = 1 + jnp.abs(normal(0, 200, 300))
    kept = dropout(x, jax.random.key(1), rate)
    survivors = np.asarray(kept) != 0
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(survivors.mean() - (1 - rate)) < 5 * deviation
    np.testing.assert_allclose(np.asarray(kept)[survivors], (x / (1 - rate))[survivors], rtol=1e-6)
    # Entries are dropped one by one, not by rows or columns.
    for axis in (0, 1):
        assert survivors.any(axis).all() and not survivors.all(axis).any()


def test_without_a_key_or_a_rate_nothing_drops_out():
    x, stored, _, a, b, _ = case("nf4")
    plain = x @ LoraArray(stored, a, b, SCALE)
    key = jax.random.key(1)
    np.testing.assert_array_equal(x @ LoraArray(stored, a, b, SCALE, rate=0.5), plain)
    np.testing.assert_array_equal(x @ LoraArray(stored, a, b, SCALE, key=key, rate=0.0), plain)


def dropped(base, key, *, dora=False, rate=0.4):
    x, stored, _, parts, _ = dora_case(base)
    chosen = parts if dora else {name: parts[name] for name in "ab"}
    return x @ LoraArray(stored, **chosen, scale=SCALE, key=key, rate=rate)


@pytest.mark.parametrize("dora", [False, True])
def test_the_mask_follows_the_key_and_spares_the_base(dora):
    first, again, other = (dropped("dense", jax.random.key(k), dora=dora) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    x, stored, _, a, b, _ = case("dense")
    silent = LoraArray(stored, a, jnp.zeros_like(b), SCALE, key=jax.random.key(1), rate=0.9)
    np.testing.assert_array_equal(x @ silent, x @ stored)


@pytest.mark.parametrize("dora", [False, True])
def test_the_mean_over_many_keys_is_what_does_not_drop_out(dora):
    keys = jax.random.split(jax.random.key(3), 800)
    draws = jax.jit(jax.vmap(functools.partial(dropped, "nf4", dora=dora)))(keys)
    want = dropped("nf4", None, dora=dora)
    error = np.asarray(draws.mean(axis=0) - want) / (np.asarray(draws.std(axis=0)) / 800**0.5)
    # 1440 normal deviates: their largest is about 3.4, their mean square 1.
    assert np.abs(error).max() < 5.5 and 0.8 < np.square(error).mean() < 1.25


def test_dora_with_dropout_is_the_formula_of_peft():
    """base(x) + (m/norm - 1) base(dropped) + m/norm scale B A dropped"""
    x, _, dense, parts, _ = dora_case("dense")
    key = jax.random.key(4)
    low = dropout(x, key, 0.4)
    whole = dense + SCALE * parts["a"] @ parts["b"]
    factor = (parts["magnitude"] / jnp.linalg.norm(whole, axis=0))[None, None]
    want = (
        x @ dense + (factor - 1) * (low @ dense) + factor * SCALE * (low @ parts["a"] @ parts["b"])
    )
    np.testing.assert_allclose(dropped("dense", key, dora=True), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_of_a_table_are_those_of_the_dense_sum(dtype):
    table, a, b = normal(1, 50, 32).astype(dtype), normal(2, 50, 4), normal(3, 4, 32)
    tokens = jnp.array([[0, 49, 7], [7, 7, 1]])
    rows = LoraTable(table, a, b, SCALE).take(tokens)
    want = (table.astype(jnp.float32) + SCALE * a @ b)[tokens]
    assert rows.shape == (2, 3, 32) and rows.dtype == dtype
    np.testing.assert_allclose(
        rows,
        want,
        **({"rtol": 0.03, "atol": 0.2} if dtype == jnp.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}),
    )
