r"""Samples become pieces of text, each trained on or not, in the form the tokenizer asks for.

With a chat template, the template's form; without one MFTCoder's, where `EOS` is the tokenizer's
end token and | stands where training begins or ends:

    <s>system\nBe brief.\n<s>human\nHi\n<s>bot\n|Hello\nEOS|\n<s>human\nBye\n<s>bot\n|Ciao\nEOS|

What is trained on is what the model has to say on its own: everything after the generation prompt
up to and with the end token. The end token must be among it, or the model would never stop.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NoReturn

import jinja2
from transformers import PreTrainedTokenizerBase

from mft_jax.data.samples import Conversation, Document, Message, Sample
from mft_jax.types import FOREIGN_CODE_ERRORS, MftError

# Noncharacters, which Unicode keeps for a program's internal use: text hardly ever holds one.
GUARDS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
GUARD_PATTERN = re.compile(f"[{GUARDS[0]}-{GUARDS[-1]}]")


@dataclasses.dataclass(frozen=True)
class Piece:
    """The text of a special piece is one special token; other text is plain, however it looks."""

    text: str
    trained: bool
    special: bool = False


@dataclasses.dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with its special tokens; `special` finds them, the longest first.

    Tokens in `strip_left` (`strip_right`) swallow the white space before (after) them.
    """

    tokenizer: PreTrainedTokenizerBase
    eos: str
    special_tokens: tuple[str, ...]
    special: re.Pattern[str]
    strip_left: frozenset[str]
    strip_right: frozenset[str]


@dataclasses.dataclass(frozen=True)
class _Guards:
    """Two characters that occur nowhere in the sample: one stands around the number of a special
    token that a message spells out, the other in the place of an answer."""

    token: str
    answer: str


def chat_tokenizer(tokenizer: PreTrainedTokenizerBase) -> ChatTokenizer:
    eos = tokenizer.eos_token
    if not isinstance(eos, str):
        raise MftError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token; expected `eos_token`, or "
            "the model would never learn to stop; set it in tokenizer_config.json"
        )
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


def render(sample: Sample, form: ChatTokenizer) -> list[Piece]:
    """The pieces of a sample in order; joined, their texts are what the model reads.

    Special tokens come from the template alone: one that a message spells out stays plain text. A
    piece ends wherever training begins or ends, since there the model reads one text and writes
    the next, and no token reaches from the one into the other.
    """
    texts = [sample.text] if isinstance(sample, Document) else [m.content for m in sample.messages]
    guards = _guards(texts, sample.where)
    masked = [_mask(text, guards.token, form) for text in texts]
    if isinstance(sample, Document):
        spans = [(masked[0] + form.eos, True)]
    else:
        messages = [
            dataclasses.replace(message, content=text)
            for message, text in zip(sample.messages, masked, strict=True)
        ]
        if form.tokenizer.chat_template:
            spans = _template_spans(messages, guards.answer, sample.where, form)
        else:
            spans = _mftcoder_spans(messages, form)
    return [piece for text, trained in spans for piece in _cut(text, trained, guards.token, form)]


def example(form: ChatTokenizer) -> list[Piece]:
    """A short exchange as the model would read it: what it is trained on, and where it stops."""
    where = f"an example in the form of {form.tokenizer.name_or_path!r}"
    return render(Conversation((Message("user", "Hi"), Message("assistant", "Hello")), where), form)


def stop_token(form: ChatTokenizer) -> str:
    """The special token that ends an answer: where generation must stop."""
    return [piece.text for piece in example(form) if piece.trained and piece.special][-1]


def _guards(texts: list[str], where: str) -> _Guards:
    used = {guard for text in texts for guard in GUARD_PATTERN.findall(text)}
    free = [guard for guard in GUARDS if guard not in used]
    if len(free) < 2:
        raise MftError(
            f"{where}: the sample holds {len(used)} of the 32 noncharacters U+FDD0 to U+FDEF; "
            "expected at most 30, two are needed as marks; remove the record, it is hardly text"
        )
    return _Guards(*free[:2])


def _mask(text: str, guard: str, form: ChatTokenizer) -> str:
    return form.special.sub(lambda m: f"{guard}{form.special_tokens.index(m[0])}{guard}", text)


def _unmask(text: str, guard: str, form: ChatTokenizer) -> str:
    if guard not in text:
        return text
    return re.sub(f"{guard}(\\d+){guard}", lambda m: form.special_tokens[int(m[1])], text)


def _cut(text: str, trained: bool, guard: str, form: ChatTokenizer) -> list[Piece]:
    """Cuts a span at its special tokens and gives masked ones their text back."""
    pieces: list[Piece] = []
    start, strip_right = 0, False
    for match in [*form.special.finditer(text), None]:
        plain = text[start : match.start() if match else len(text)]
        plain = plain.lstrip() if strip_right else plain
        plain = plain.rstrip() if match and match[0] in form.strip_left else plain
        if plain:
            pieces.append(Piece(_unmask(plain, guard, form), trained))
        if match:
            pieces.append(Piece(match[0], trained, special=True))
            start, strip_right = match.end(), match[0] in form.strip_right
    return pieces


def _mftcoder_spans(messages: list[Message], form: ChatTokenizer) -> list[tuple[str, bool]]:
    spans: list[tuple[str, bool]] = []
    prompt = ""
    for message in messages:
        match message.role:
            case "system":
                prompt += f"<s>system\n{message.content}\n"
            case "user":
                prompt += f"<s>human\n{message.content}\n<s>bot\n"
            case "assistant":
                spans += [(prompt, False), (f"{message.content}\n{form.eos}", True)]
                prompt = "\n"
    return spans


def _template_spans(
    messages: list[Message], guard: str, where: str, form: ChatTokenizer
) -> list[tuple[str, bool]]:
    r"""For every answer: the text up to the generation prompt's end, then the answer's own.

    The answer's frame, found with a guard in its place, tells what the template puts around it:

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
        prompt = _apply(messages[:place], True, where, form)
        whole = _apply(messages[: place + 1], False, where, form)
        if not (prompt.startswith(done) and whole.startswith(prompt)):
            _refuse(where, "renders a message differently once another one follows it", form)
        framed = [*messages[:place], Message("assistant", guard)]
        before, found, after = _apply(framed, False, where, form)[len(prompt) :].partition(guard)
        answer = whole[len(prompt) + len(before) : len(whole) - len(after)]
        framed_alike = found and before + answer + after == whole[len(prompt) :]
        if not framed_alike or answer.strip() != message.content.strip():
            _refuse(where, "drops or changes the answer", form)
        end = form.special.search(after)
        if end is None:
            _refuse(where, "puts no end token (a special token) after the answer", form)
        # The answer as it was given: a template that trims it trims what it reads, not what the
        # model writes, and the indentation of code must be learnt.
        spans += [
            (prompt[len(done) :], False),
            (before + message.content + after[: end.end()], True),
        ]
        done = whole[: len(whole) - len(after) + end.end()]
    return spans


def _apply(messages: list[Message], ask: bool, where: str, form: ChatTokenizer) -> str:
    try:
        text = form.tokenizer.apply_chat_template(
            [dataclasses.asdict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=ask,
        )
    except (jinja2.TemplateError, *FOREIGN_CODE_ERRORS) as error:  # a template is a program
        raise MftError(
            f"{where}: the chat template of {form.tokenizer.name_or_path!r} refuses the record "
            f"({error}); expected one that takes the roles "
            f"{', '.join(message.role for message in messages)}; change the record or the template"
        ) from error
    assert isinstance(text, str)
    return text


def _refuse(where: str, fault: str, form: ChatTokenizer) -> NoReturn:
    raise MftError(
        f"{where}: the chat template of {form.tokenizer.name_or_path!r} {fault}; expected one that "
        "keeps earlier text, keeps the answer and ends it with a special token; use another "
        "template, or remove it (`tokenizer.chat_template = None`) for the built-in form"
    )
