"""The forms of a record, and the two kinds of sample that they become.

{"chat_rounds": [{"role": "human", "content": "..."}, {"role": "bot", "content": "..."}]}
{"prompt": "...", "answer": "...", "system": "..."}          (other names: see the keys below)
{"text": "..."}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from mft_jax.data.sources import SourceRecord
from mft_jax.types import MftError

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "bot": "assistant",
    "assistant": "assistant",
    "gpt": "assistant",
}
PROMPT_KEYS = ("prompt", "input", "instruction", "question", "query")
ANSWER_KEYS = ("answer", "output", "response")


@dataclasses.dataclass(frozen=True)
class Message:
    role: Role
    content: str


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A chat: at most one system message, then user and assistant in turns; the last answers."""

    messages: tuple[Message, ...]
    where: str


@dataclasses.dataclass(frozen=True)
class Document:
    """Plain text, trained on from its second token to its end token."""

    text: str
    where: str


Sample = Conversation | Document


def to_sample(record: SourceRecord) -> Sample:
    """The sample of a record with `chat_rounds`, a prompt and an answer, or `text`.

    The record must have exactly one of the three forms: one that could be read in two ways is an
    error, not a guess. A field that is null counts as absent. `instruction` and `input` may occur
    together; they are joined by a newline. Other fields (`id`, `lang`, ...) are ignored.
    """
    fields = {key: value for key, value in record.data.items() if value is not None}
    prompts = [key for key in PROMPT_KEYS if key in fields]
    answers = [key for key in ANSWER_KEYS if key in fields]
    chat = [key for key in ("chat_rounds",) if key in fields]
    text = [key for key in ("text",) if key in fields]
    if sum(map(bool, (chat, prompts + answers, text))) > 1:
        raise MftError(
            f"{record.where}: the record can be read in more than one way, it has the fields "
            f"{_names(chat + prompts + answers + text)}; expected one form only: `chat_rounds`, a "
            "prompt with an answer, or `text`; remove the fields that are not meant"
        )
    if chat:
        return Conversation(_chat_messages(fields["chat_rounds"], record.where), record.where)
    if prompts or answers:
        return Conversation(_pair_messages(fields, prompts, answers, record.where), record.where)
    if text:
        document = _string(fields["text"], "text", record.where)
        if not document.strip():
            raise MftError(f"{record.where}: `text` is empty; expected text; remove the record")
        return Document(document, record.where)
    raise MftError(
        f"{record.where}: no known form, the record has the fields {_names(list(record.data))}; "
        f"expected `chat_rounds`, one of {_names(PROMPT_KEYS)} with one of {_names(ANSWER_KEYS)}, "
        "or `text`; rename the fields"
    )


def _pair_messages(
    fields: dict[str, Any], prompts: list[str], answers: list[str], where: str
) -> tuple[Message, ...]:
    if not answers:
        raise MftError(
            f"{where}: no answer, the record has only {_names(prompts)}; expected also one of "
            f"{_names(ANSWER_KEYS)}; add the answer or remove the record"
        )
    if not prompts:
        raise MftError(
            f"{where}: no prompt, the record has only {_names(answers)}; expected also one of "
            f"{_names(PROMPT_KEYS)}; add the prompt, or name the field `text` if it is plain text"
        )
    if len(answers) > 1 or (len(prompts) > 1 and set(prompts) != {"instruction", "input"}):
        raise MftError(
            f"{where}: the record can be read in more than one way, it has the fields "
            f"{_names(prompts + answers)}; expected one prompt (`instruction` and `input` may "
            "occur together) and one answer; remove the fields that are not meant"
        )
    names = ["instruction", "input"] if len(prompts) > 1 else prompts
    parts = [_string(fields[name], name, where) for name in names]
    prompt = "\n".join(part for part in parts if part)
    answer = _answer(fields[answers[0]], answers[0], where)
    messages = (Message("user", prompt), Message("assistant", answer))
    if "system" not in fields:
        return messages
    return (Message("system", _string(fields["system"], "system", where)), *messages)


def _chat_messages(rounds: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(rounds, list) or not rounds:
        raise MftError(
            f"{where}: `chat_rounds` is {_short(rounds)}; expected a list of "
            '{"role": ..., "content": ...} with at least a human and a bot round; correct it'
        )
    messages: list[Message] = []
    for number, entry in enumerate(rounds, start=1):
        place = f"{where}: round {number} of `chat_rounds`"
        if not isinstance(entry, dict) or not {"role", "content"} <= set(entry):
            raise MftError(
                f'{place} is {_short(entry)}; expected {{"role": ..., "content": ...}}; correct it'
            )
        role = ROLES.get(entry["role"]) if isinstance(entry["role"], str) else None
        if role is None:
            raise MftError(
                f"{place} has the unknown role {_short(entry['role'])}; expected one of "
                f"{_names(tuple(ROLES))}; rename the role"
            )
        _check_order(messages, role, entry["role"], place)
        read = _answer if role == "assistant" else _string
        messages.append(Message(role, read(entry["content"], "content", place)))
    if messages[-1].role != "assistant":
        raise MftError(
            f"{where}: no answer, `chat_rounds` ends with the role {rounds[-1]['role']!r}; "
            "expected a bot round at the end; add the answer or remove the last rounds"
        )
    return tuple(messages)


def _check_order(before: Sequence[Message], role: Role, name: str, place: str) -> None:
    last = before[-1].role if before else None
    allowed = {None: ("system", "user"), "system": ("user",), "user": ("assistant",)}
    expected = allowed.get(last, ("user",))
    if role not in expected:
        found = f"after {last!r}" if last else "at the beginning"
        raise MftError(
            f"{place} is out of order: role {name!r} {found}; expected {' or '.join(expected)} "
            "there (at most one system round, then human and bot in turns); reorder the rounds"
        )


def _answer(value: Any, name: str, place: str) -> str:
    answer = _string(value, name, place)
    if not answer.strip():
        raise MftError(
            f"{place}: the answer `{name}` is empty; expected text to train on; add the answer or "
            "remove the record"
        )
    return answer


def _string(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise MftError(
            f"{place}: `{name}` is {_short(value)}; expected a string; convert it to text"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MftError(
            f"{place}: `{name}` holds half a surrogate pair at character {error.start + 1}; "
            "expected Unicode text; repair the escape sequence \\ud... there"
        ) from error
    return value


def _names(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys) if keys else "(none)"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
