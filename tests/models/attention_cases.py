"""The cases that every attention backend is tested with: rows of documents, heads, and what is
computed from them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mft_jax.models.attention import alibi_slopes
from mft_jax.models.attention_rule import AttentionInputs

LENGTH = 208
ROWS = {
    "one long document": [208],
    "200 short ones": [1] * 192 + [2] * 8,
    "padding at the end": [70, 30, 50],
    "padding only": [],
    "two": [90, 118],
}


class Case(NamedTuple):
    heads: int
    key_heads: int
    width: int
    value_width: int
    window: int = 0
    softcap: float = 0.0
    alibi: bool = False

    @property
    def settings(self):
        slopes = alibi_slopes(self.heads) if self.alibi else None
        scale = self.width**-0.5
        return {
            "window": self.window,
            "scale": scale,
            "softcap": self.softcap,
            "alibi_slopes": slopes,
        }


def packed(*rows, length=LENGTH):
    """The rule for rows of documents of these lengths."""
    segments, positions = np.zeros((2, len(rows), length), np.int32)
    for row, lengths in enumerate(rows):
        filled = sum(lengths)
        segments[row, :filled] = np.repeat(np.arange(len(lengths)) + 1, lengths)
        positions[row, :filled] = np.concatenate([np.arange(n) for n in lengths] or [[]])
    segments, positions = jnp.asarray(segments), jnp.asarray(positions)
    return AttentionInputs(segments, positions, segments, positions)


INPUTS = packed(*ROWS.values())


def random_heads(case, rows=5, length=LENGTH, seed=0):
    """Queries, keys, values, and the gradient of the output."""
    rng = np.random.default_rng(seed)
    shapes = [(case.heads, case.width), (case.key_heads, case.width)]
    shapes += [(case.key_heads, case.value_width), (case.heads, case.value_width)]
    return [jnp.asarray(rng.normal(size=(rows, length, *s)), jnp.float32) for s in shapes]


@functools.cache
def compiled(attend, case):
    """`f(q, k, v, dy, inputs) -> (y, dq, dk, dv)`; nothing is asked of padding."""

    def run(q, k, v, dy, inputs):
        real = (inputs.segment_ids > 0)[..., None, None]

        def output(q, k, v):
            return attend(q, k, v, inputs, **case.settings)

        y, pull = jax.vjp(output, q, k, v)
        return jnp.where(real, y, 0), *pull(jnp.where(real, dy, 0).astype(y.dtype))

    return jax.jit(run)
