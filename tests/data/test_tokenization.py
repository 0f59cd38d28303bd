import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mft_jax.data.chats import Message
from mft_jax.data.samples import Conversation, Document
from mft_jax.data.tokenization import tokenize
from mft_jax.types import MftError


def pair(prompt, answer, where="f.jsonl:1"):
    return Conversation((Message("user", prompt), Message("assistant", answer)), where)


def sample_tokens(task):
    return [task.tokens[a:b] for a, b in zip(task.offsets, task.offsets[1:], strict=False)]


FRAME = len("_human\n" + "\n_bot\n" + "\n_")  # _ for a special token
TAIL = len("\n") + 1  # newline and end token, trained


def test_samples_are_flat_one_after_the_other(byte_tokenizer):
    samples = [pair("ab", "xyz"), Document("hello", "f:2")]
    task, stats = tokenize(samples, byte_tokenizer, 64, "drop", "training set")
    first, second = sample_tokens(task)
    assert byte_tokenizer.decode(first) == "<s>human\nab\n<s>bot\nxyz\n<|endoftext|>"
    assert byte_tokenizer.decode(second) == "hello<|endoftext|>"
    trained = [task.tokens[i] for i in np.flatnonzero(task.loss_weights)]
    assert byte_tokenizer.decode(trained) == "xyz\n<|endoftext|>ello<|endoftext|>"
    assert (stats.samples, stats.kept, stats.tokens) == (2, 2, len(task.tokens))
    assert stats.trained_tokens == 3 + TAIL + 5
    assert (task.tokens.dtype, task.loss_weights.dtype) == (np.int32, np.float32)


def overlong(policy, row_length, samples, tokenizer):
    return tokenize(samples, tokenizer, row_length, policy, "training set")


SHORT, LONG = pair("a", "b"), pair("a" * 10, "b" * 50, "f.jsonl:2")


def test_drop_leaves_a_long_sample_out_and_counts_it(byte_tokenizer):
    task, stats = overlong("drop", 40, [SHORT, LONG], byte_tokenizer)
    assert (stats.samples, stats.kept, stats.dropped) == (2, 1, 1)
    assert len(task.offsets) == 2


def test_truncate_keeps_the_head_and_drops_what_has_no_target_left(byte_tokenizer):
    task, stats = overlong("truncate", 40, [SHORT, LONG], byte_tokenizer)
    assert (stats.kept, stats.truncated, stats.dropped) == (2, 1, 0)
    assert len(sample_tokens(task)[1]) == 40
    _, stats = overlong("truncate", 20, [SHORT, pair("a" * 30, "b")], byte_tokenizer)
    assert (stats.kept, stats.truncated, stats.dropped) == (1, 0, 1)


def test_error_names_the_sample(byte_tokenizer):
    with pytest.raises(MftError, match="f.jsonl:2: the sample has 75 tokens; .* = 40; shorten"):
        overlong("error", 40, [SHORT, LONG], byte_tokenizer)
    assert overlong("error", 80, [SHORT, LONG], byte_tokenizer)[1].kept == 2


@given(st.integers(0, 40), st.integers(1, 80), st.integers(2, 60))
def test_split_trains_every_target_exactly_once(byte_tokenizer, prompt, answer, row_length):
    text = "".join(chr(33 + i) for i in range(answer))
    task, stats = overlong("split", row_length, [pair("a" * prompt, text)], byte_tokenizer)
    trained = task.tokens[task.loss_weights > 0]
    assert byte_tokenizer.decode(trained) == text + "\n<|endoftext|>"
    lengths = np.diff(task.offsets)
    assert lengths.min() >= 2 and lengths.max() <= row_length
    assert not task.loss_weights[task.offsets[:-1]].any()
    assert stats.split == (prompt + answer + FRAME > row_length)
    assert stats.kept == len(lengths)


def test_samples_without_a_target_are_counted_unless_all_are(byte_tokenizer):
    empty = Document("", "f:1")  # its end token is its first token, so it is never a target
    _, stats = tokenize([SHORT, empty], byte_tokenizer, 64, "drop", "training set")
    assert (stats.kept, stats.untrainable) == (1, 1)
    with pytest.raises(MftError, match="set of 'x' has no token to train on.* 1 have") as refusal:
        tokenize([empty], byte_tokenizer, 64, "drop", "training set of 'x'")
    assert "correct the data" in str(refusal.value) and "raise" not in str(refusal.value)
    with pytest.raises(
        MftError, match=r"on: of 2 sample\(s\) 2 were dropped .* token; raise data.row_length"
    ):
        tokenize([SHORT, LONG], byte_tokenizer, 8, "drop", "training set")
