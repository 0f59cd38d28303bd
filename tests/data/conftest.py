"""Small tokenizers made by hand, and tasks whose tokens say which sample they belong to."""

import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mft_jax.data.tokenization import TokenizedTask

SPECIALS = ("<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(merges=(), chat_template=None):
    """Byte-level BPE; without merges every byte is a token, so ids show the text."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in merges]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def sentencepiece(*, legacy):
    """A tokenizer that puts a space before the text (`legacy`: before every plain part)."""
    characters = ["▁", "\n", *map(chr, range(33, 127))]
    merges = [("▁", "H"), ("▁", "a")]
    tokens = characters + [a + b for a, b in merges]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    if legacy:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(steps)
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def byte_tokenizer():
    return byte_level()


@pytest.fixture(scope="session")
def chatml_tokenizer():
    return byte_level(chat_template=CHATML)


@pytest.fixture
def make_tokenizer():
    """`make_tokenizer(merges=..., chat_template=...)`"""
    return byte_level


@pytest.fixture
def make_sentencepiece():
    """`make_sentencepiece(legacy=...)`"""
    return sentencepiece


ROW = 32


def make_task(task_id, lengths):
    """Token `1000 * (task + 1) + sample` throughout a sample, so that a token identifies it."""
    tokens = np.repeat(1000 * (task_id + 1) + np.arange(len(lengths)), lengths).astype(np.int32)
    offsets = np.cumsum([0, *lengths])
    weights = np.ones(len(tokens), np.float32)
    weights[offsets[:-1]] = 0
    return TokenizedTask(tokens, weights, offsets)


def make_tasks(counts=(40, 13, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [make_task(t, rng.integers(2, ROW, n).tolist()) for t, n in enumerate(counts)]


def segments(batch):
    """Counter of (token of the sample, length) over the segments of a batch."""
    found = Counter()
    rows = zip(*(leaf.reshape(-1, leaf.shape[-1]) for leaf in batch), strict=True)
    for tokens, _, _, segment_ids, task_ids, _ in rows:
        for segment in set(segment_ids[segment_ids > 0].tolist()):
            [token], [task] = (
                set(tokens[segment_ids == segment]),
                set(task_ids[segment_ids == segment]),
            )
            assert token // 1000 - 1 == task
            found[int(token), int((segment_ids == segment).sum())] += 1
    return found


def all_samples(tasks):
    return Counter(
        (int(task.tokens[a]), int(b - a))
        for task in tasks
        for a, b in zip(task.offsets[:-1], task.offsets[1:], strict=True)
    )


def equal(a, b):
    return all(map(np.array_equal, a, b))


def digest(batches):
    """A checksum of all arrays of all batches."""
    check = 0
    for batch in batches:
        for leaf in batch:
            check = zlib.crc32(np.ascontiguousarray(leaf).data, check)
    return check


@pytest.fixture(scope="session")
def corpus():
    """Tasks of numbered samples, and functions that find them again in batches."""
    return SimpleNamespace(
        row_length=ROW, make_task=make_task, make_tasks=make_tasks, segments=segments,
        all_samples=all_samples, equal=equal, digest=digest,
    )  # fmt: skip
