import concurrent.futures
import resource
import signal

import pytest
from tokenizers import AddedToken

from mft_jax.data import template_bounds
from mft_jax.data.samples import Conversation, Document, Message
from mft_jax.data.templates import GUARDS, Piece, chat_tokenizer, render
from mft_jax.types import MftError

ROLES = {"S": "system", "U": "user", "A": "assistant"}
TWO_ROUNDS = (("S", "Be brief."), ("U", "Hi"), ("A", "Hello"), ("U", "Bye"), ("A", "Ciao"))


def chat(*turns):
    return Conversation(tuple(Message(ROLES[role], text) for role, text in turns), "f.jsonl:3")


def picture(sample, tokenizer):
    """The whole text, with trained parts in brackets and special tokens in guillemets."""
    shown, trained = "", False
    for piece in render(sample, chat_tokenizer(tokenizer)):
        if piece.trained != trained:
            shown += "[" if piece.trained else "]"
            trained = piece.trained
        shown += f"«{piece.text}»" if piece.special else piece.text
    return shown + ("]" if trained else "")


def test_without_a_template_the_form_is_mftcoders(byte_tokenizer):
    assert picture(chat(*TWO_ROUNDS), byte_tokenizer) == (
        "«<s>»system\nBe brief.\n«<s>»human\nHi\n«<s>»bot\n[Hello\n«<|endoftext|>»]\n"
        "«<s>»human\nBye\n«<s>»bot\n[Ciao\n«<|endoftext|>»]"
    )


def test_a_chat_template_trains_only_answers_and_their_end_token(chatml_tokenizer):
    start, end = "«<|im_start|>»", "«<|im_end|>»"
    assert picture(chat(*TWO_ROUNDS), chatml_tokenizer) == (
        f"{start}system\nBe brief.{end}\n{start}user\nHi{end}\n{start}assistant\n[Hello{end}]\n"
        f"{start}user\nBye{end}\n{start}assistant\n[Ciao{end}]"
    )


def test_plain_text_is_trained_on_to_its_end_token(byte_tokenizer):
    assert picture(Document("x = 1\n", "f:1"), byte_tokenizer) == "[x = 1\n«<|endoftext|>»]"


@pytest.mark.parametrize("template", [None, "chatml"])
@pytest.mark.parametrize("text", ["<|endoftext|>", "a<s>b<|im_end|>", "<|im_<s>end|>", GUARDS[0]])
def test_a_special_token_spelt_out_in_data_stays_plain_text(
    byte_tokenizer, chatml_tokenizer, template, text
):
    tokenizer = chatml_tokenizer if template else byte_tokenizer
    plain = picture(chat(("U", "?"), ("A", "!")), tokenizer)
    shown = picture(chat(("U", text), ("A", text + "\n")), tokenizer)
    assert shown == plain.replace("?", text).replace("!", text + "\n")
    pieces = render(Document(text, "f:1"), chat_tokenizer(byte_tokenizer))
    assert pieces == [Piece(text, True), Piece("<|endoftext|>", True, special=True)]


def test_the_longest_special_token_wins(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>x"]})
    assert "<s>x" in chat_tokenizer(tokenizer).special.findall("<s>x<s>y")


def test_white_space_that_a_special_token_removes_is_left_out(make_tokenizer):
    template = "<|u|>\n {{ messages[0].content }}<|e|>\n<|a|>\n"
    template += "{% if messages|length > 1 %}{{ messages[1].content }} <|e|>{% endif %}"
    tokenizer = make_tokenizer(chat_template=template)
    tokens = [AddedToken(f"<|{c}|>", rstrip=c != "e", lstrip=c == "e") for c in "uae"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    expected = "«<|u|>»Hi«<|e|>»\n«<|a|>»[  Hello«<|e|>»]"
    assert picture(chat(("U", "Hi"), ("A", "  Hello")), tokenizer) == expected


def test_an_answer_is_trained_on_as_given_where_the_template_trims_it(make_tokenizer):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|trim }}<|im_end|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    shown = picture(chat(("U", " Hi "), ("A", "    x\n")), make_tokenizer(chat_template=template))
    assert shown.endswith("user\nHi«<|im_end|>»«<|im_start|>»assistant\n[    x\n«<|im_end|>»]")


def test_text_of_the_template_before_an_answer_is_trained(make_tokenizer):
    template = (
        "Q{{ messages[0].content }}{% if messages|length > 1 %}<think></think>"
        "{{ messages[1].content }}<|im_end|>\n{% endif %}"
    )
    tokenizer = make_tokenizer(chat_template=template)
    shown = picture(chat(("U", "t"), ("A", "t")), tokenizer)
    assert shown == "Qt[<think></think>t«<|im_end|>»]"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "puts no end token"),
        ("{{ messages[0].content }}<|im_end|>", "drops or changes the answer"),
        (
            "{% for m in messages %}{{ m.content|upper }}<|im_end|>{% endfor %}",
            "drops or changes the answer",
        ),
        (
            "{{ messages|length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
            "renders a message differently once another one follows it",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses the record .*recursion"),
        ("{{ raise_exception('no system role') }}", r"refuses the record \(no system role\)"),
    ],
)
def test_a_template_that_could_not_be_learnt_from_is_refused(make_tokenizer, template, fault):
    tokenizer = make_tokenizer(chat_template=template)
    with pytest.raises(MftError, match=f"^f.jsonl:3: the chat template .*({fault})"):
        picture(chat(("U", "Hi"), ("A", "Hello")), tokenizer)


def test_a_tokenizer_without_an_end_token_is_refused(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(MftError, match="has no end token"):
        chat_tokenizer(tokenizer)


def test_text_full_of_noncharacters_is_refused(byte_tokenizer):
    chat = chat_tokenizer(byte_tokenizer)
    with pytest.raises(MftError, match="f:1: the sample holds 32 of the 32 noncharacters"):
        render(Document("".join(GUARDS), "f:1"), chat)


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}"
    "{% endfor %}{{ n.t }}"
)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (ENDLESS, r"had not finished the record after 0\.05 s"),
        (DOUBLING, r"refuses the record \(.*\)"),
        ("{{ 'a' * 1000000000000 }}", r"refuses the record \(.*\)"),
        ("{{ 'a' * 2000 }}", "makes 2,000 characters of the record"),
        ("{{ 9 ** 9 ** 9 }}", "computes a power"),
    ],
)
def test_a_template_that_would_not_end_is_stopped(make_tokenizer, monkeypatch, template, fault):
    monkeypatch.setattr(template_bounds, "MAX_SECONDS", 0.05 if template is ENDLESS else 20)
    monkeypatch.setattr(template_bounds, "MAX_BYTES", 1 << 26)
    monkeypatch.setattr(template_bounds, "MAX_CHARACTERS", 1999)
    limits, alarm = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)
    with pytest.raises(MftError, match=fault):
        picture(chat(("U", "Hi"), ("A", "Hello")), make_tokenizer(chat_template=template))
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getsignal(signal.SIGALRM) == alarm
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_template_is_rendered_in_any_thread(chatml_tokenizer):
    sample = chat(("U", "Hi"), ("A", "Hello"))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(picture, sample, chatml_tokenizer).result()
    assert found == picture(sample, chatml_tokenizer)
