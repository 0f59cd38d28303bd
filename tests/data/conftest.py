"""Small tokenizers made by hand: one token per byte, or a few merges that matter."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
    """A space before the text: as Llama 2 writes it (`legacy`: before every plain part too)."""
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
