"""Copies among samples: within a split, and between what is trained on and what validates it.

Samples are equal where their tokens are. They are compared by 64-bit hashes, in one pass over the
tokens. Of a million samples two different ones are taken for equal once in 10^7 times.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt64

from mft_jax.data.tokenization import TokenizedTask


@dataclasses.dataclass(frozen=True)
class Copies:
    """Of one task: samples that occurred before in their own split, and validation samples that
    are training samples, too: of this task, or only of another one."""

    train: int
    valid: int
    shared: int
    shared_with_others: int


def count_copies(
    train: Sequence[TokenizedTask], valid: Sequence[TokenizedTask]
) -> tuple[Copies, ...]:
    """The copies of every task."""
    train_hashes, valid_hashes = (list(map(sample_hashes, split)) for split in (train, valid))
    every = np.unique(np.concatenate(train_hashes))
    found = []
    for of_train, of_valid in zip(train_hashes, valid_hashes, strict=True):
        own = np.isin(of_valid, of_train)
        found.append(
            Copies(
                train=len(of_train) - len(np.unique(of_train)),
                valid=len(of_valid) - len(np.unique(of_valid)),
                shared=int(own.sum()),
                shared_with_others=int((np.isin(of_valid, every) & ~own).sum()),
            )
        )
    return tuple(found)


def sample_hashes(task: TokenizedTask) -> UInt64[np.ndarray, " n"]:
    """A hash of the tokens of every sample."""
    tokens = np.ascontiguousarray(task.tokens).data.cast("B")
    width = task.tokens.itemsize
    ends = (task.offsets * width).tolist()
    digests = b"".join(
        hashlib.blake2b(tokens[start:end], digest_size=8).digest()
        for start, end in zip(ends[:-1], ends[1:], strict=True)
    )
    return np.frombuffer(digests, np.uint64)
