"""Copies are counted as a comparison of all samples with all others counts them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mft_jax.data.duplicates import Copies, count_copies, sample_hashes
from mft_jax.data.tokenization import TokenizedTask

SAMPLES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=8)


def tokenized(samples):
    tokens = np.concatenate([np.array(sample, np.int32) for sample in samples])
    return TokenizedTask(
        tokens, np.ones(len(tokens), np.float32), np.cumsum([0, *map(len, samples)])
    )


@given(st.lists(st.tuples(SAMPLES, SAMPLES), min_size=1, max_size=3))
def test_copies_are_those_that_a_comparison_of_all_pairs_finds(tasks):
    expected = []
    for place, (train, valid) in enumerate(tasks):
        others = [s for i, (samples, _) in enumerate(tasks) for s in samples if i != place]
        expected.append(
            Copies(
                train=sum(sample in train[:i] for i, sample in enumerate(train)),
                valid=sum(sample in valid[:i] for i, sample in enumerate(valid)),
                shared=sum(sample in train for sample in valid),
                shared_with_others=sum(s not in train and s in others for s in valid),
            )
        )
    train, valid = ([tokenized(split) for split in splits] for splits in zip(*tasks, strict=True))
    assert count_copies(train, valid) == tuple(expected)


def test_samples_are_hashed_where_they_lie_whatever_the_kind_of_integer():
    task = tokenized([[1, 2], [3], [1, 2], [1, 2, 3]])
    first, second, third, fourth = sample_hashes(task).tolist()
    assert first == third and len({first, second, fourth}) == 3
