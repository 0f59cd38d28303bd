"""The tokenizer that ships with `builtin:tiny`."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mft_jax

FOLDER = Path(mft_jax.__file__).parent / "builtin" / "tiny"
CODE = "def f(self):\n\tx = 1024 + b['é']\r\n\r\n    return  x  # ☃ 😀\n"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def ids_of(tokenizer, text, **options):
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]


def test_vocabulary_and_special_tokens_are_those_of_the_model(tokenizer):
    config = json.loads((FOLDER / "config.json").read_text())
    assert len(tokenizer) == config["vocab_size"] == 4096
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == config["eos_token_id"] == 0
    assert tokenizer.pad_token_id == config["pad_token_id"] == 1
    assert tokenizer.bos_token is None and tokenizer.chat_template is None


def test_every_loader_gives_the_same_tokens(tokenizer):
    plain = PreTrainedTokenizerFast.from_pretrained(FOLDER)
    raw = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    expected = ids_of(tokenizer, CODE + "<s>human\n")
    assert ids_of(plain, CODE + "<s>human\n") == expected
    assert raw.encode(CODE + "<s>human\n", add_special_tokens=False).ids == expected


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_survives_encoding_up_to_unicode_normal_form(tokenizer, text):
    ids = ids_of(tokenizer, text, split_special_tokens=True)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", [CODE, "a , b ' s .", "\t\t\n \n", " <s>  <|pad|> "])
def test_spaces_tabs_and_line_ends_survive(tokenizer, text):
    for split in (False, True):
        assert tokenizer.decode(ids_of(tokenizer, text, split_special_tokens=split)) == text


def test_the_chat_marker_is_one_token_unless_it_is_content(tokenizer):
    assert ids_of(tokenizer, "<s>human\n")[0] == tokenizer.convert_tokens_to_ids("<s>") == 2
    assert not {0, 1, 2} & set(ids_of(tokenizer, "<s><|endoftext|>", split_special_tokens=True))


def test_digits_stand_alone(tokenizer):
    assert len(ids_of(tokenizer, "1024")) == 4


def test_indentation_is_one_token(tokenizer):
    assert len(ids_of(tokenizer, "\n        return")) <= 3
