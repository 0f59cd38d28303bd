"""What an export carries as Jinja is, through transformers, what training rendered."""

import pytest

from mft_jax.data.builtin_template import builtin_template
from mft_jax.data.encoding import build_encoder, encode
from mft_jax.data.samples import Conversation, Message
from mft_jax.data.templates import chat_tokenizer, render
from mft_jax.huggingface.folders import model_folder
from mft_jax.huggingface.tokenizers import load_tokenizer

ROLES = {"S": "system", "U": "user", "A": "assistant"}
CHATS = (
    (("U", "Hi"), ("A", "Hello")),
    (("S", "Be brief."), ("U", "Hi"), ("A", "Hello")),
    (("U", "a"), ("A", "b"), ("U", "c"), ("A", "d"), ("U", "e"), ("A", "f")),
    (("S", "\n s \n"), ("U", "  x\n\n"), ("A", "    return 1\n"), ("U", ""), ("A", "\ty ")),
    (("U", "{{ messages }} {% raw %} <&> \\n 'q' \"p\" é 😀"), ("A", "{# no #}{{ 1 }}")),
)


def chat(turns):
    return Conversation(tuple(Message(ROLES[role], text) for role, text in turns), "f.jsonl:1")


def asked(sample):
    """(messages before an answer, whole chat up to and with the answer), for every answer."""
    messages = [{"role": m.role, "content": m.content} for m in sample.messages]
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            yield messages[:place], messages[: place + 1]


@pytest.fixture(params=["bytes", "builtin", "odd end"])
def tokenizer(request, make_tokenizer):
    if request.param == "builtin":
        return load_tokenizer(model_folder("builtin:tiny"), 4096)
    tokenizer = make_tokenizer()
    if request.param == "odd end":
        tokenizer.add_special_tokens({"eos_token": "\\'\"}}END%}é\U0001f600"})
    return tokenizer


@pytest.mark.parametrize("turns", CHATS)
def test_the_template_asks_and_answers_as_training_does(tokenizer, turns):
    ours = chat_tokenizer(tokenizer)
    encoder = build_encoder(tokenizer, ours)
    template = builtin_template(ours.eos)
    for before, whole in asked(chat(turns)):
        sample = Conversation(tuple(Message(**message) for message in whole), "f.jsonl:1")
        pieces = render(sample, ours)
        last = len(pieces) - 1
        while pieces[last].trained:  # the last answer begins after this piece
            last -= 1
        prompt = pieces[: last + 1]
        options = {"chat_template": template, "tokenize": False}
        rendered = tokenizer.apply_chat_template(before, add_generation_prompt=True, **options)
        assert rendered == "".join(piece.text for piece in prompt)
        rendered = tokenizer.apply_chat_template(whole, **options)
        assert rendered == "".join(piece.text for piece in pieces)
        ids = tokenizer.apply_chat_template(
            before, add_generation_prompt=True, chat_template=template, return_dict=True
        )["input_ids"]
        assert ids == encode([prompt], encoder)[0][0].tolist()


@pytest.mark.parametrize("turns", CHATS)
def test_a_model_exported_with_it_is_trained_on_as_before(tokenizer, turns):
    before = render(chat(turns), chat_tokenizer(tokenizer))
    tokenizer.chat_template = builtin_template(tokenizer.eos_token)
    try:
        assert render(chat(turns), chat_tokenizer(tokenizer)) == before
    finally:
        tokenizer.chat_template = None


def test_a_role_that_training_does_not_know_is_refused(byte_tokenizer):
    template = builtin_template(byte_tokenizer.eos_token)
    with pytest.raises(Exception, match="roles are system, user and assistant"):
        byte_tokenizer.apply_chat_template(
            [{"role": "alien", "content": "?"}], chat_template=template, tokenize=False
        )
