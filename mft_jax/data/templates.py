r"""Rendering of samples as pieces of text, each trained on or not, in the form of the tokenizer.

The form is that of its chat template; without a template it is MFTCoder's, where `EOS` is the end
token and | marks where training begins or ends:

    <s>system\nBe brief.\n<s>human\nHi\n<s>bot\n|Hello\nEOS|\n<s>human\nBye\n<s>bot\n|Ciao\nEOS|

The model is trained on what it must write: everything after the generation prompt, up to and with
the end token. The end token must be part of it, or the model would never stop.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NoReturn

import jinja2
from transformers import PreTrainedTokenizerBase

from mft_jax.data.samples import Conversation, Document, Message, Sample
from mft_jax.data.template_bounds import bounded, check_length, check_operators
from mft_jax.types import FOREIGN_CODE_ERRORS, MftError

# Noncharacters, which Unicode reserves for a program's internal use: text almost never has one.
GUARDS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
GUARD_PATTERN = re.compile(f"[{GUARDS[0]}-{GUARDS[-1]}]")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of text: one special token if `special`, else plain text, whatever it looks like."""

    text: str
    trained: bool
    special: bool = False


@dataclasses.dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with its special tokens; `special` matches them, the longest first.

    Tokens in `strip_left` (`strip_right`) remove the white space before (after) them.
    """

    tokenizer: PreTrainedTokenizerBase
    eos: str
    special_tokens: tuple[str, ...]
    special: re.Pattern[str]
    strip_left: frozenset[str]
    strip_right: frozenset[str]


@dataclasses.dataclass(frozen=True)
class _Guards:
    """Two characters that the sample does not contain: `token` encloses the number of a special
    token that a message spells out, `answer` takes the place of an answer."""

    token: str
    answer: str


def chat_tokenizer(tokenizer: PreTrainedTokenizerBase) -> ChatTokenizer:
    eos = tokenizer.eos_token
    if not isinstance(eos, str):
        raise MftError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token; expected `eos_token`, "
            "without which the model never learns to stop; set it in tokenizer_config.json"
        )
    check_operators(tokenizer.chat_template, tokenizer.name_or_path)
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = sorted({token.content for token in added} | {eos}, key=lambda text: (-len(text), text))
    return ChatTokenizer(
        tokenizer=tokenizer,
        eos=eos,
        special_tokens=tuple(texts),
        special=re.compile("|".join(map(re.escape, texts))),
        strip_left=frozenset(token.content for token in added if token.lstrip),
        strip_right=frozenset(token.content for token in added if token.rstrip),
    )


def render(sample: Sample, chat: ChatTokenizer) -> list[Piece]:
    """The pieces of a sample in order; joined, their texts are what the model reads.

    Special tokens come only from the template: one that a message spells out stays plain text. A
    piece ends wherever training begins or ends: no token crosses from a text that the model reads
    into one that it writes.
    """
    texts = [sample.text] if isinstance(sample, Document) else [m.content for m in sample.messages]
    guards = _guards(texts, sample.where)
    masked = [_mask(text, guards.token, chat) for text in texts]
    if isinstance(sample, Document):
        spans = [(masked[0] + chat.eos, True)]
    else:
        messages = [
            dataclasses.replace(message, content=text)
            for message, text in zip(sample.messages, masked, strict=True)
        ]
        if chat.tokenizer.chat_template:
            with bounded(sample.where, chat.tokenizer.name_or_path):
                spans = _template_spans(messages, guards.answer, sample.where, chat)
        else:
            spans = _mftcoder_spans(messages, chat)
    return [piece for text, trained in spans for piece in _cut(text, trained, guards.token, chat)]


def example(chat: ChatTokenizer) -> list[Piece]:
    """The pieces of a short chat, which show what the model is trained on and where it stops."""
    where = f"an example in the form of {chat.tokenizer.name_or_path!r}"
    return render(Conversation((Message("user", "Hi"), Message("assistant", "Hello")), where), chat)


def stop_token(chat: ChatTokenizer) -> str:
    """The special token that ends an answer, at which generation must stop."""
    return [piece.text for piece in example(chat) if piece.trained and piece.special][-1]


def _guards(texts: list[str], where: str) -> _Guards:
    used = {guard for text in texts for guard in GUARD_PATTERN.findall(text)}
    free = [guard for guard in GUARDS if guard not in used]
    if len(free) < 2:
        raise MftError(
            f"{where}: the sample holds {len(used)} of the 32 noncharacters U+FDD0 to U+FDEF; "
            "expected at most 30, since two are needed as marks; remove the record"
        )
    return _Guards(*free[:2])


def _mask(text: str, guard: str, chat: ChatTokenizer) -> str:
    return chat.special.sub(lambda m: f"{guard}{chat.special_tokens.index(m[0])}{guard}", text)


def _unmask(text: str, guard: str, chat: ChatTokenizer) -> str:
    if guard not in text:
        return text
    return re.sub(f"{guard}(\\d+){guard}", lambda m: chat.special_tokens[int(m[1])], text)


def _cut(text: str, trained: bool, guard: str, chat: ChatTokenizer) -> list[Piece]:
    """The pieces of a span, cut at its special tokens; masked tokens get their text back."""
    pieces: list[Piece] = []
    start, strip_right = 0, False
    for match in [*chat.special.finditer(text), None]:
        plain = text[start : match.start() if match else len(text)]
        plain = plain.lstrip() if strip_right else plain
        plain = plain.rstrip() if match and match[0] in chat.strip_left else plain
        if plain:
            pieces.append(Piece(_unmask(plain, guard, chat), trained))
        if match:
            pieces.append(Piece(match[0], trained, special=True))
            start, strip_right = match.end(), match[0] in chat.strip_right
    return pieces


def _mftcoder_spans(messages: list[Message], chat: ChatTokenizer) -> list[tuple[str, bool]]:
    spans: list[tuple[str, bool]] = []
    prompt = ""
    for message in messages:
        match message.role:
            case "system":
                prompt += f"<s>system\n{message.content}\n"
            case "user":
                prompt += f"<s>human\n{message.content}\n<s>bot\n"
            case "assistant":
                spans += [(prompt, False), (f"{message.content}\n{chat.eos}", True)]
                prompt = "\n"
    return spans


def _template_spans(
    messages: list[Message], guard: str, where: str, chat: ChatTokenizer
) -> list[tuple[str, bool]]:
    r"""Two spans for every answer: the text up to the end of the generation prompt, and the answer.

    The answer's frame, found with a guard in its place, is what the template puts around it:

        prompt  <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n
        whole   <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
        frame   (before is empty here)                                 .....<|im_end|>\n
        trained                                                        Hello<|im_end|>
    """
    spans: list[tuple[str, bool]] = []
    done = ""
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = _apply(messages[:place], True, where, chat)
        whole = _apply(messages[: place + 1], False, where, chat)
        if not (prompt.startswith(done) and whole.startswith(prompt)):
            _refuse(where, "renders a message differently once another one follows it", chat)
        framed = [*messages[:place], Message("assistant", guard)]
        before, found, after = _apply(framed, False, where, chat)[len(prompt) :].partition(guard)
        answer = whole[len(prompt) + len(before) : len(whole) - len(after)]
        framed_alike = found and before + answer + after == whole[len(prompt) :]
        if not framed_alike or answer.strip() != message.content.strip():
            _refuse(where, "drops or changes the answer", chat)
        end = chat.special.search(after)
        if end is None:
            _refuse(where, "puts no end token (a special token) after the answer", chat)
        # The answer as given: a template may trim what the model reads, but the model must learn
        # to write the indentation of code.
        spans += [
            (prompt[len(done) :], False),
            (before + message.content + after[: end.end()], True),
        ]
        done = whole[: len(whole) - len(after) + end.end()]
    return spans


def _apply(messages: list[Message], ask: bool, where: str, chat: ChatTokenizer) -> str:
    try:
        text = chat.tokenizer.apply_chat_template(
            [dataclasses.asdict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=ask,
        )
    except (jinja2.TemplateError, *FOREIGN_CODE_ERRORS) as error:  # a template is a program
        raise MftError(
            f"{where}: the chat template of {chat.tokenizer.name_or_path!r} refuses the record "
            f"({error}); expected one that takes the roles "
            f"{', '.join(message.role for message in messages)}; change the record or the template"
        ) from error
    assert isinstance(text, str)
    check_length(text, where, chat.tokenizer.name_or_path)
    return text


def _refuse(where: str, fault: str, chat: ChatTokenizer) -> NoReturn:
    raise MftError(
        f"{where}: the chat template of {chat.tokenizer.name_or_path!r} {fault}; expected one that "
        "keeps earlier text, keeps the answer and ends it with a special token; use another "
        "template, or remove it (`tokenizer.chat_template = None`) for the built-in form"
    )
