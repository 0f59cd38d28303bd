"""Segments are isolated: a token sees earlier tokens of its own segment and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.data.packing import fill_row
from mft_jax.models.attention import attend, segment_mask
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind, init_params
from mft_jax.types import Batch

CONFIG = ModelConfig(
    vocab_size=97,
    width=64,
    mlp_width=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    max_positions=64,
    qkv_bias=True,
)
LENGTH = 24


@pytest.fixture(scope="module")
def hidden():
    """`hidden(row) -> [L, D]` of a random model, compiled once."""
    params = jax.jit(init_params, static_argnums=(0, 1))(CONFIG, 0)
    # Larger weights than at the start of training, so that attention is far from uniform.
    params = {path: 5 * w if path.endswith("kernel") else w for path, w in params.items()}

    @jax.jit
    def run(tokens, positions, segment_ids):
        return bind(CONFIG, params)(tokens, positions, segment_ids).states

    return lambda row: np.asarray(
        run(row.tokens[None], row.positions[None], row.segment_ids[None])[0]
    )


def row_of(*documents: np.ndarray) -> Batch:
    weights = [np.ones(len(document), np.float32) for document in documents]
    return fill_row(documents, weights, range(len(documents)), LENGTH)


def document(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 97, length)


def test_changing_document_1_leaves_document_2_exactly_as_it_was(hidden):
    first, other, second = document(0, 9), document(1, 9), document(2, 11)
    before, after = hidden(row_of(first, second)), hidden(row_of(other, second))
    np.testing.assert_array_equal(before[9:], after[9:])
    assert np.all(np.abs(before[:9] - after[:9]).max(-1) > 1e-3)


def test_changing_document_2_leaves_document_1_exactly_as_it_was(hidden):
    first, second, other = document(0, 9), document(2, 11), document(3, 11)
    before, after = hidden(row_of(first, second)), hidden(row_of(first, other))
    np.testing.assert_array_equal(before[:9], after[:9])


def test_a_later_token_leaves_earlier_ones_exactly_as_they_were(hidden):
    changed = document(0, 20).copy()
    changed[12] = (changed[12] + 1) % 97
    before, after = hidden(row_of(document(0, 20))), hidden(row_of(changed))
    np.testing.assert_array_equal(before[:12], after[:12])
    assert np.all(np.abs(before[12:20] - after[12:20]).max(-1) > 1e-4)


def test_a_packed_row_is_its_documents_alone(hidden):
    documents = [document(4, 5), document(5, 8), document(6, 7)]
    packed = hidden(row_of(*documents))
    alone = np.concatenate([hidden(row_of(d))[: len(d)] for d in documents])
    np.testing.assert_allclose(packed[:20], alone, rtol=1e-5, atol=1e-5)


def test_padding_is_finite(hidden):
    assert np.all(np.isfinite(hidden(row_of())))


def test_segment_mask_is_the_picture_of_its_docstring():
    want = """
        x . . . .
        x x . . .
        . . x . .
        . . x x .
        . . . . x
    """
    want = np.array([[mark == "x" for mark in line.split()] for line in want.split("\n")[1:-1]])
    np.testing.assert_array_equal(segment_mask(jnp.array([[1, 1, 2, 2, 0]]))[0], want)


def test_attend_is_softmax_of_scaled_products_with_grouped_heads():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 6, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    mask = np.asarray(segment_mask(jnp.array([[1, 1, 1, 2, 2, 2]])))
    got = attend(*map(jnp.asarray, (q, k, v, mask)), scale=8**-0.5)
    for head in range(4):
        keys, values = k[0, :, head // 2].astype(float), v[0, :, head // 2].astype(float)
        scores = np.where(mask[0], q[0, :, head] @ keys.T / np.sqrt(8), -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        want = weights / weights.sum(1, keepdims=True) @ values
        np.testing.assert_allclose(got[0, :, head], want, rtol=1e-5, atol=1e-5)
