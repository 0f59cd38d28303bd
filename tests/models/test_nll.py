"""The chunked nll against a float64 log-softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.models.head import Head
from mft_jax.models.nll import next_token_nll

VOCAB, WIDTH, ROWS, LENGTH = 53, 12, 2, 7


def oracle(hidden, head, targets, cotangent):
    """(nll, its gradients by hidden and head under `cotangent`), in float64."""
    hidden, head, cotangent = (np.asarray(x, np.float64) for x in (hidden, head, cotangent))
    logits = hidden @ head.T
    logits -= logits.max(-1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    at_target = np.take_along_axis(probability, np.asarray(targets)[..., None], -1)[..., 0]
    targets = np.asarray(targets)
    by_logits = (probability - np.eye(head.shape[0])[targets]) * cotangent[..., None]
    return -np.log(at_target), by_logits @ head, np.einsum("blv,bld->vd", by_logits, hidden)


def problem(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(ROWS, LENGTH, WIDTH)), dtype)
    head = jnp.asarray(rng.normal(size=(VOCAB, WIDTH)), jnp.float32)
    targets = rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    targets[0, :2] = 0, VOCAB - 1
    cotangent = rng.normal(size=(ROWS, LENGTH)).astype(np.float32)
    return hidden, head, jnp.asarray(targets), jnp.asarray(cotangent)


def nll_and_gradients(hidden, head, targets, cotangent, vocab_chunk):
    def nll(hidden, head):
        return next_token_nll(hidden, Head(head), targets, vocab_chunk=vocab_chunk)

    def run(hidden, head):
        values, pullback = jax.vjp(nll, hidden, head)
        return values, *pullback(cotangent)

    return jax.jit(run)(hidden, head)


@pytest.mark.parametrize("vocab_chunk", [1, 8, 52, 53, 8192])
def test_chunked_nll_and_its_gradients_are_those_of_the_log_softmax(vocab_chunk):
    hidden, head, targets, cotangent = problem()
    made = nll_and_gradients(hidden, head, targets, cotangent, vocab_chunk)
    for got, want in zip(made, oracle(hidden, head, targets, cotangent), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_bfloat16_products_are_summed_in_float32():
    hidden, head, targets, cotangent = problem(jnp.bfloat16)
    nll, by_hidden, by_head = nll_and_gradients(hidden, head, targets, cotangent, 16)
    rounded = head.astype(jnp.bfloat16).astype(jnp.float32)
    want, want_hidden, want_head = oracle(hidden.astype(jnp.float32), rounded, targets, cotangent)
    assert nll.dtype == jnp.float32 and by_hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(nll, want, rtol=1e-4, atol=1e-4)
    # A bfloat16 holds 8 bits; a gradient is the sum of four chunks, each rounded.
    np.testing.assert_allclose(by_hidden.astype(jnp.float32), want_hidden, atol=0.05)
    np.testing.assert_allclose(by_head.astype(jnp.float32), want_head, atol=0.05)


def test_large_logits_stay_finite():
    hidden, head, targets, cotangent = problem()
    made = nll_and_gradients(hidden * 1e3, head, targets, cotangent, 8)
    assert all(np.all(np.isfinite(part)) for part in made)


def test_logits_are_never_materialised():
    rows, length, vocab, width = 2, 128, 32768, 16
    shapes = [(rows, length, width), (vocab, width)]
    hidden, head = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def temporaries(vocab_chunk: int) -> int:
        def total(hidden, head, targets):
            return next_token_nll(hidden, Head(head), targets, vocab_chunk=vocab_chunk).sum()

        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(hidden, head, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * rows * length * vocab
    assert temporaries(1024) < logits / 2
    assert temporaries(vocab) > logits, "this test would not see logits in memory"
