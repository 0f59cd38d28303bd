"""Blockwise attention visits only blocks that it may see something of, in memory that grows with
the length of a row; and it is computed wherever a decoder computes it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from models.attention_cases import Case, compiled, packed, random_heads

from mft_jax.models.attention_blocks import Blocks, in_blocks, visits
from mft_jax.models.attention_rule import AttentionInputs, reference
from mft_jax.models.blockwise_attention import Tiles, in_tiles
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind, init_params


def test_in_float64_it_is_exact():
    with jax.enable_x64(True):
        case = Case(2, 1, 8, 8, window=5)
        given = [x.astype(jnp.float64) for x in random_heads(case, 1, 20)]
        inputs = packed([9, 8], length=20)
        want = compiled(reference, case)(*given, inputs)
        got = compiled(in_tiles(Tiles(8, 8, rows_together=False)), case)(*given, inputs)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def visited(lengths, window=0, block=16):
    """[(first, end)] of the key blocks that each block of queries visits, in a row of 64."""
    inputs = packed(*lengths, length=64)
    segments, positions = (in_blocks(x, block) for x in inputs[:2])
    blocks = Blocks(segments, segments, positions)
    return list(zip(*(x.tolist() for x in visits(window, blocks, blocks)), strict=True))


def test_a_block_visits_the_blocks_that_it_shares_a_segment_with():
    assert visited([[64]]) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert visited([[16, 32, 16]]) == [(0, 1), (1, 2), (1, 3), (3, 4)]
    assert visited([[2] * 32]) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert visited([[20, 44]]) == [(0, 1), (0, 2), (1, 3), (1, 4)]


def test_padding_visits_nothing_and_is_not_visited():
    assert visited([[20, 4]]) == [(0, 1), (0, 2), (0, 0), (0, 0)]
    assert visited([[]]) == [(0, 0)] * 4


def test_a_window_bounds_what_is_visited():
    assert visited([[64]], window=2) == [(0, 1), (0, 2), (1, 3), (2, 4)]
    assert visited([[64]], window=1) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_rows_together_visit_what_any_of_them_sees():
    assert visited([[16] * 4, [32, 32], []]) == [(0, 1), (0, 2), (2, 3), (2, 4)]


def temporaries(length):
    case = Case(2, 2, 16, 16)
    given = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in random_heads(case, 1, length)]
    rule = [jax.ShapeDtypeStruct((1, length), jnp.int32)] * 4
    run = compiled(in_tiles(Tiles(64, 64, rows_together=False)), case)
    memory = run.lower(*given, AttentionInputs(*rule)).compile().memory_analysis()
    return memory.temp_size_in_bytes


def test_memory_grows_with_the_length_of_a_row_not_with_its_square():
    assert temporaries(2048) < 4.5 * temporaries(512)


LOCAL = ModelConfig(97, 32, 64, 2, 4, 2, 8, 64, window=5)


def test_a_decoder_has_the_same_loss_and_gradients_with_blockwise():
    params = jax.jit(init_params, static_argnums=(0, 1))(LOCAL, 0)
    inputs = packed([9, 8], [20], length=24)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 97, (2, 24)))

    def loss(params, attend):
        rule = inputs.positions, inputs.segment_ids
        hidden = bind(LOCAL, params)(tokens, *rule, attend=attend)
        return jnp.where((inputs.segment_ids > 0)[..., None], hidden.states, 0).std()

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    got, want = (
        run(params, attend) for attend in (in_tiles(Tiles(8, 8, rows_together=False)), reference)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, want)


def test_it_may_be_mapped_over_a_further_axis():
    case, inputs = Case(2, 1, 8, 8), packed([9, 8], [20], length=24)
    rows = [jnp.stack([x, 2 * x]) for x in random_heads(case, 2, 24)]
    run = compiled(in_tiles(Tiles(8, 8, rows_together=False)), case)
    got = jax.vmap(run, in_axes=(0, 0, 0, 0, None))(*rows, inputs)
    for part, index in ((got, 0), (got, 1)):
        want = run(*(x[index] for x in rows), inputs)
        for ours, theirs in zip(part, want, strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-5, atol=1e-5)
