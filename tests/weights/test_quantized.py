"""NF4 agrees with bitsandbytes, storage is what it says, and `x @ w` is the dense product."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mft_jax.models.config import ModelConfig
from mft_jax.models.params import param_infos
from mft_jax.sharding import MeshConfig, leaf_shardings, make_mesh
from mft_jax.types import MftError
from mft_jax.weights.nf4 import NF4_LEVELS
from mft_jax.weights.storage import quantize, stored_bits

GOLDENS = np.load(Path(__file__).with_name("bitsandbytes_nf4.npz"))
RECIPES = {recipe["name"]: recipe for recipe in json.loads(str(GOLDENS["recipes"]))}
DTYPES = ["nf4", "int4"]
MODEL = ModelConfig(98, 64, 128, 2, 4, 2, 16, 64)
GATE = param_infos(MODEL)["layers/mlp/gate/kernel"]
quantized = jax.jit(quantize, static_argnums=1)
quantized_stack = jax.jit(jax.vmap(lambda w: quantize(w, "nf4")))


def golden_matrix(name: str) -> np.ndarray:
    recipe = RECIPES[name]
    random = np.random.RandomState(recipe["seed"])
    values = (random.randn(*recipe["shape"]) * recipe["scale"]).astype(np.float32)
    for first, end, column, value in recipe["set"]:
        values[first:end, column] = value
    return values


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def product_case(dtype: str):
    """(x, w, dense w, cotangent) of one layer; 320 columns are more than one run of scales."""
    w = quantized(normal(1, 128, 320), dtype)
    return normal(0, 4, 6, 128), w, w.dequantize(jnp.float32), normal(2, 4, 6, 320)


def test_levels_are_those_of_bitsandbytes():
    np.testing.assert_array_equal(NF4_LEVELS, GOLDENS["table"])


@pytest.mark.parametrize("name", RECIPES)
def test_nf4_codes_are_those_of_bitsandbytes_bit_for_bit(name):
    codes = quantized(golden_matrix(name), "nf4").codes.astype(jnp.uint8)
    np.testing.assert_array_equal(codes, GOLDENS[f"{name}.codes"])


@pytest.mark.parametrize("name", RECIPES)
def test_double_quantised_error_is_at_most_that_of_bitsandbytes(name):
    values = golden_matrix(name)
    restored = np.asarray(quantized(values, "nf4").dequantize(jnp.float32), np.float64)
    error = np.abs(restored - values)
    mean_squared, largest = GOLDENS[f"{name}.errors"][1]
    assert np.mean(error**2) <= mean_squared
    assert error.max() <= largest * 1.001


def test_an_outlier_leaves_neighbouring_scales_precise():
    values = np.asarray(normal(7, 64, 256)).copy()
    without = np.asarray(quantized(values, "nf4").dequantize(jnp.float32))[:, :-2]
    values[0, -1] = 300.0
    values[:, -2] *= 1e-9
    with_outlier = np.asarray(quantized(values, "nf4").dequantize(jnp.float32))[:, :-2]
    np.testing.assert_allclose(with_outlier, without, rtol=0.02)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_and_matrices_of_zeros_are_restored_without_nan(dtype):
    values = np.asarray(normal(3, 128, 8)).copy()
    values[64:, 2] = 0.0
    restored = quantized(values, dtype).dequantize(jnp.float32)
    np.testing.assert_array_equal(restored[64:, 2], 0.0)
    assert np.abs(restored - values).max() < 0.5
    np.testing.assert_array_equal(quantized(np.zeros((64, 8)), dtype).dequantize(jnp.float32), 0.0)


def test_int4_is_within_half_a_step_of_its_group():
    values = np.asarray(normal(4, 128, 8))
    w = quantized(values, "int4")
    error = np.abs(np.asarray(w.dequantize(jnp.float32)) - values).reshape(2, 64, 8)
    # A bfloat16 scale may be 2^-9 too small, an error that the largest code (7) multiplies.
    assert np.all(error <= (0.5 + 7 * 2.0**-8) * np.asarray(w.scales())[:, None, :])


def test_a_width_that_is_no_multiple_of_the_group_is_refused():
    with pytest.raises(MftError, match=r"\(96, 8\).*multiple of 64"):
        quantize(jnp.ones((96, 8)), "nf4")


@pytest.mark.parametrize(("dtype", "limit"), [("nf4", 4.13), ("int4", 4.25)])
def test_storage_is_what_stored_bits_says(dtype, limit):
    shape = (2048, 2048)
    w = jax.eval_shape(lambda w: quantize(w, dtype), jax.ShapeDtypeStruct(shape, jnp.float32))
    probe = jax.jit(lambda w: w.dequantize(jnp.float32)[0, 0], keep_unused=True)
    leaves = jax.tree.leaves(w)
    bits = sum(leaf.size * jax.dtypes.itemsize_bits(leaf.dtype) for leaf in leaves)
    assert bits == stored_bits(shape, dtype)
    assert bits / (shape[0] * shape[1]) <= limit
    # The size by the compiler, with two codes to a byte.
    arguments = probe.lower(w).compile().memory_analysis().argument_size_in_bytes
    assert arguments == bits // 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_bits_counts_every_layer_of_a_stack(dtype):
    assert stored_bits((3, 2, 128, 320), dtype) == 6 * stored_bits((128, 320), dtype)


def loss(product, x, w, g):
    return jnp.vdot(product(x, w), g)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_product_and_input_gradient_are_the_dense_ones(dtype, wrap):
    x, w, dense, g = product_case(dtype)
    np.testing.assert_allclose(jax.jit(jnp.matmul)(x, dense), x @ w, rtol=1e-5, atol=1e-4)
    both = jax.jit(jax.value_and_grad(functools.partial(loss, wrap(lambda x, w: x @ w))))
    value, grad = both(x, w, g)
    want, want_grad = jax.value_and_grad(functools.partial(loss, jnp.matmul))(x, dense, g)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-4)


def test_product_runs_in_the_dtype_of_its_input():
    x, w, dense, _ = product_case("nf4")
    y = jax.jit(lambda x, w: x @ w)(x.astype(jnp.bfloat16), w)
    assert y.dtype == jnp.bfloat16
    scale = float(jnp.abs(x @ dense).max())
    np.testing.assert_allclose(y.astype(jnp.float32), x @ dense, atol=2e-2 * scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_and_scales_have_no_gradient(dtype):
    x, w, _, g = product_case(dtype)
    grads = jax.grad(lambda w: loss(lambda x, w: x @ w, x, w, g), allow_int=True)(w)
    for leaf in jax.tree.leaves(grads):
        assert leaf.dtype == jax.dtypes.float0 or not np.any(leaf)


@functools.cache
def stack_case():
    """(x, three stacked square layers, the gradient function of a scan over them)."""
    w = quantized_stack(normal(5, 3, 128, 128) * 0.1)

    def forward(x, w):
        def body(x, layer):
            return jnp.tanh(x @ layer), None

        return jax.lax.scan(jax.checkpoint(body, prevent_cse=False), x, w)[0].sum()

    return normal(6, 4, 8, 128), w, jax.value_and_grad(forward)


def test_scan_over_stacked_layers_is_the_dense_one():
    x, w, both = stack_case()
    dense = jax.vmap(lambda w: w.dequantize(jnp.float32))(w)
    (value, grad), (want, want_grad) = jax.jit(both)(x, w), jax.jit(both)(x, dense)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-5)


def test_a_mesh_of_eight_devices_changes_nothing():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    x, w, both = stack_case()
    want, want_grad = jax.jit(both)(x, w)
    placed_w = jax.device_put(w, leaf_shardings(mesh, GATE, w))
    assert placed_w.codes.sharding.shard_shape(w.codes.shape) == (3, 64, 64)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    value, grad = jax.jit(both)(jax.device_put(x, rows), placed_w)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-5)
