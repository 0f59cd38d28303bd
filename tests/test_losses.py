"""The chunked nll against a float64 log-softmax, and objectives against their equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax import losses
from mft_jax.types import Batch, TaskSums

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
    nll = functools.partial(losses.next_token_nll, targets=targets, vocab_chunk=vocab_chunk)

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
            return losses.next_token_nll(hidden, head, targets, vocab_chunk=vocab_chunk).sum()

        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(hidden, head, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * rows * length * vocab
    assert temporaries(1024) < logits / 2
    assert temporaries(vocab) > logits, "this test would not see logits in memory"


def test_sums_by_task_leave_masked_positions_out_and_keep_fractional_weights():
    nll = np.array([[1.0, 2.0, 4.0], [8.0, np.nan, 16.0]], np.float32)
    task_ids = np.array([[0, 0, 2], [2, 0, 2]], np.int32)
    weights = np.array([[1.0, 0.5, 0.25], [1.0, 0.0, 0.0]], np.float32)
    integers = np.zeros((2, 3), np.int32)
    batch = Batch(integers, integers, integers, integers, task_ids, weights)
    batch = jax.tree.map(jnp.asarray, batch)
    sums = losses.task_nll(jnp.asarray(nll), batch, 4)
    np.testing.assert_array_equal(sums.sum, [2.0, 0.0, 9.0, 0.0])
    np.testing.assert_array_equal(sums.count, [1.5, 0.0, 1.25, 0.0])
    np.testing.assert_array_equal(losses.task_counts(batch, 4), sums.count)


def loss_of(objective: str, sums: TaskSums, weight) -> float:
    count, weight = jnp.asarray(sums.count), jnp.asarray(weight, jnp.float32)
    return float(jnp.dot(losses.OBJECTIVES[objective](count, weight), jnp.asarray(sums.sum)))


def task_mean_oracle(sums: TaskSums, weight) -> float:
    """KDD Eq. 1 as the table says: sum_i w_i S_i / C_i / sum w_i, over present tasks."""
    terms = [(w, s / c) for w, s, c in zip(weight, *sums, strict=True) if c > 0]
    return sum(w * mean for w, mean in terms) / sum(w for w, _ in terms)


CASES = {
    "all present": TaskSums(np.float32([3.0, 10.0, 0.5]), np.float32([6.0, 5.0, 2.0])),
    "one absent": TaskSums(np.float32([3.0, 0.0, 0.5]), np.float32([6.0, 0.0, 2.0])),
    "a single token": TaskSums(np.float32([0.0, 7.0, 0.0]), np.float32([0.0, 1.0, 0.0])),
    "fractional": TaskSums(np.float32([0.3, 0.25, 0.1]), np.float32([0.5, 0.25, 1.5])),
}


@pytest.mark.parametrize("name", CASES)
def test_objectives_are_their_equations(name):
    sums, equal, weight = CASES[name], np.full(3, 1 / 3), np.array([0.2, 0.5, 0.3])
    want = sums.sum.sum() / sums.count.sum()
    assert loss_of("token_mean", sums, equal) == pytest.approx(want, rel=1e-6)
    want = np.dot(weight, sums.sum) / np.dot(weight, sums.count)
    assert loss_of("token_mean", sums, weight) == pytest.approx(want, rel=1e-6)
    for w in (equal, weight):
        want = task_mean_oracle(sums, w)
        assert loss_of("task_token_mean", sums, w) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
def test_weights_are_shares_so_their_scale_does_not_matter(objective):
    sums, weight = CASES["all present"], np.array([0.2, 0.5, 0.3])
    assert loss_of(objective, sums, 7 * weight) == pytest.approx(loss_of(objective, sums, weight))


@pytest.mark.parametrize("objective", losses.OBJECTIVES)
@pytest.mark.parametrize(
    ("count", "weight"),
    [([0.0, 0.0], [0.5, 0.5]), ([4.0, 0.0], [0.0, 1.0])],
    ids=["no valid token", "all weight on an absent task"],
)
def test_without_anything_to_learn_loss_and_gradient_are_zero_not_nan(objective, count, weight):
    make = losses.OBJECTIVES[objective]
    coefficients = make(jnp.asarray(count), jnp.asarray(weight))
    np.testing.assert_array_equal(coefficients, [0.0, 0.0])
