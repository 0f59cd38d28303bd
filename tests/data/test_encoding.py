import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from mft_jax.data.encoding import build_encoder, encode
from mft_jax.data.templates import Piece, chat_tokenizer
from mft_jax.types import MftError


def encoded(pieces, tokenizer):
    [(tokens, weights)] = encode([pieces], build_encoder(tokenizer, chat_tokenizer(tokenizer)))
    return tokens.tolist(), weights.tolist()


def told(*texts):
    return [Piece(text, False, special=text.startswith("<")) for text in texts]


def test_weights_mark_trained_tokens_and_never_the_first(byte_tokenizer):
    end = byte_tokenizer.eos_token_id
    hi = byte_tokenizer("hi", add_special_tokens=False).input_ids
    pieces = [Piece("hi", False), Piece("hi", True), Piece("<|endoftext|>", True, True)]
    assert encoded(pieces, byte_tokenizer) == ([*hi, *hi, end], [0, 0, 1, 1, 1])
    assert encoded(pieces[1:], byte_tokenizer) == ([*hi, end], [0, 1, 1])
    assert encoded([], byte_tokenizer) == ([], [])


def test_a_special_token_in_a_plain_piece_is_spelt_out(byte_tokenizer):
    tokens, _ = encoded([Piece("a<|endoftext|><s>b", True)], byte_tokenizer)
    assert not set(tokens) & set(byte_tokenizer.all_special_ids)
    assert byte_tokenizer.decode(tokens) == "a<|endoftext|><s>b"


def test_no_token_crosses_from_the_prompt_into_the_answer(make_tokenizer):
    tokenizer = make_tokenizer(merges=[("Ċ", "Ġ")])  # a newline and a space are one token
    whole = tokenizer("bot\n  x", add_special_tokens=False).input_ids
    tokens, weights = encoded([Piece("bot\n", False), Piece("  x", True)], tokenizer)
    assert len(tokens) == len(whole) + 1
    assert weights == [0, 0, 0, 0, 1, 1, 1]
    assert tokens[:4] == tokenizer("bot\n", add_special_tokens=False).input_ids


@pytest.mark.parametrize("legacy", [True, False])
def test_spaces_before_a_text_are_where_the_tokenizer_puts_them(make_sentencepiece, legacy):
    tokenizer = make_sentencepiece(legacy=legacy)
    for parts in (["Hi a"], ["<s>", "Hi a", "<|im_end|>", "a"], ["a", "<s>", "\n", "<s>", "Hi"]):
        whole = tokenizer("".join(parts), add_special_tokens=False).input_ids
        assert encoded(told(*parts), tokenizer)[0] == whole


@pytest.mark.parametrize("legacy", [True, False])
def test_an_answer_continues_without_a_space(make_sentencepiece, legacy):
    tokenizer = make_sentencepiece(legacy=legacy)
    tokens, _ = encoded([Piece("bot\n", False), Piece("Hi", True)], tokenizer)
    assert tokenizer.convert_ids_to_tokens(tokens) == ["▁", "b", "o", "t", "\n", "H", "i"]


@given(st.lists(st.text(max_size=12).filter(lambda text: text.strip("<")), max_size=5))
def test_bytes_are_restored_for_any_text(byte_tokenizer, texts):
    tokens, weights = encoded([Piece(text, False) for text in texts], byte_tokenizer)
    assert byte_tokenizer.decode(tokens) == "".join(texts)
    assert weights == [0] * len(tokens)


def test_many_samples_at_once_are_the_same_as_one_by_one(byte_tokenizer):
    encoder = build_encoder(byte_tokenizer, chat_tokenizer(byte_tokenizer))
    samples = [told("<s>", "a", "b", "<s>"), told("c", "<s>", "d"), [], told("<s>", "e")]
    for sample, together in zip(samples, encode(samples, encoder), strict=True):
        for single, joined in zip(encode([sample], encoder)[0], together, strict=True):
            np.testing.assert_array_equal(single, joined)


def test_the_given_tokenizer_is_not_changed(byte_tokenizer):
    encoded(told("a"), byte_tokenizer)
    end = byte_tokenizer.eos_token_id
    assert byte_tokenizer("<|endoftext|>", add_special_tokens=False).input_ids == [end]


def test_an_end_token_that_plain_text_can_reach_is_refused(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "a"  # marked as special, but the vocabulary holds it as a letter too
    with pytest.raises(MftError, match="reads 'a' as a special token even in plain text"):
        encoded(told("b"), tokenizer)


def test_the_vocabulary_is_shared_and_not_parsed_again(make_tokenizer):
    letters = [chr(c) for c in range(ord("!"), ord("~"))]
    tokenizer = make_tokenizer(merges=[(a, b) for a in letters for b in letters])
    text = tokenizer.backend_tokenizer.to_str()
    start = time.process_time()
    parsed = Tokenizer.from_str(text)
    parse_secs = time.process_time() - start
    parsed.encode_special_tokens = True
    chat = chat_tokenizer(tokenizer)
    build_encoder(tokenizer, chat)
    start = time.process_time()
    encoder = build_encoder(tokenizer, chat)
    assert time.process_time() - start < parse_secs / 2
    for words in ("def f(x):", "a<s>b", " hi  there\n"):
        ids = parsed.encode(words, add_special_tokens=False).ids
        assert encoder.plain["first"].encode(words, add_special_tokens=False).ids == ids


def test_added_tokens_keep_their_ids(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<plain>", lstrip=True), "<other>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<late>"]})
    text = "a <plain>b<other>"
    assert encoded([Piece(text, False)], tokenizer)[0] == tokenizer.encode(text)
