"""The forms of a record, and the two kinds of sample that they become.

{"messages": [{"role": "user", "content": "..."}, ...]}      (other names: see `chats`)
{"prompt": "...", "answer": "...", "system": "..."}          (other names: see `readings`)
{"text": "..."}
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mft_jax.data.chats import (
    CHAT_KEYS,
    Message,
    answer_of,
    chat_messages,
    message_list,
    named,
    shortened,
    string_of,
    unread_keys,
)
from mft_jax.data.readings import KNOWN_KEYS, Reading, TakenAs, reading_of, taken_as
from mft_jax.data.sources import SourceRecord
from mft_jax.types import MftError, suggest

MOST_UNREAD, LONGEST_NAME = 8, 40  # names of fields that are not read, in one line


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A chat: at most one system message, then user and assistant in turns; the last answers.

    `tools` are the functions that a chat template tells the model of, as JSON Schemas.
    """

    messages: tuple[Message, ...]
    where: str
    tools: tuple[dict[str, Any], ...] = ()
    taken_as: TakenAs = dataclasses.field(default=TakenAs(), compare=False)


@dataclasses.dataclass(frozen=True)
class Document:
    """Plain text, trained on from its second token to its end token."""

    text: str
    where: str
    taken_as: TakenAs = dataclasses.field(default=TakenAs(), compare=False)


Sample = Conversation | Document


def to_sample(record: SourceRecord, columns: Mapping[str, str] | None = None) -> Sample:
    """The sample of a record: a chat, a prompt and an answer, or `text`.

    One that could be read in two ways is an error, not a guess. A field that is null counts as
    absent. With `columns` (our name -> the record's) only those fields are read; without, fields of
    other names (`id`, `lang`, ...) are not read. `taken_as` of the sample says both.
    """
    data, where = record.data, record.where
    if columns:
        data = {ours: data[theirs] for ours, theirs in columns.items() if theirs in data}
    fields = {key: value for key, value in data.items() if value is not None}
    if columns and not fields:
        raise MftError(
            f"{where}: the task's `columns` names {named(tuple(columns.values()))}, but the record "
            f"has the fields {named(tuple(record.data))}{record.names_note}; correct the names"
        )
    for key in CHAT_KEYS:
        if isinstance(fields.get(key), str):
            fields[key] = _decoded(fields[key])
    reading = reading_of(fields, tuple(record.data), where, record.names_note)
    taken = _taken_as(reading, fields, record.data, columns or {})
    if reading.form == "text":
        document = string_of(fields["text"], "text", where)
        if not document.strip():
            raise MftError(f"{where}: `text` is empty; expected text; remove the record")
        return Document(document, where, taken)
    if reading.form == "chat":
        messages = chat_messages(reading.keys[0], fields[reading.keys[0]], where)
    else:
        messages = _pair_messages(reading, fields, where)
    messages = _with_system(messages, fields.get("system"), reading, where)
    return Conversation(messages, where, _tools(fields.get("tools"), where), taken)


def read_as(samples: Iterable[Sample]) -> str:
    """What the records of a task were taken for, in one line.

    >>> from mft_jax.data.sources import SourceRecord
    >>> record = SourceRecord({"question": "1 + 1?", "answer": "2", "level": 3}, "a.jsonl:1")
    >>> read_as([to_sample(record)])
    '`question` -> `answer`; not read: `level`'
    """
    kinds = Counter(sample.taken_as for sample in samples)
    forms: Counter[str] = Counter()
    for taken, count in kinds.items():
        forms[taken.form] += count
    one = len(forms) == 1
    text = ", ".join(form if one else f"{form} ({n:,})" for form, n in forms.most_common())
    unread = sorted({_shown(name) for taken in kinds for name in taken.unread})
    if unread:
        more = len(unread) - MOST_UNREAD
        text += f"; not read: {named(unread[:MOST_UNREAD])}" + f" and {more} more" * (more > 0)
    return text


def _shown(name: str) -> str:
    """A field's name, which is foreign text: short, and without control characters."""
    name = name if name.isprintable() else repr(name)[1:-1]
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "..."


def check_columns(columns: Mapping[str, str], where: str) -> None:
    """Raise `MftError` where the task's `columns` names a field that no form has."""
    for name in columns:
        if name not in KNOWN_KEYS:
            hint = suggest(name, KNOWN_KEYS) or f"expected one of {', '.join(KNOWN_KEYS)}"
            raise MftError(
                f"{where}: `columns` says which column is {name!r}, but no form of a record has "
                f"that field; {hint} (our name first: {{'prompt': 'name in the file'}})"
            )


def _taken_as(
    reading: Reading,
    fields: Mapping[str, Any],
    record: Mapping[str, Any],
    columns: Mapping[str, str],
) -> TakenAs:
    beside = tuple(key for key in ("system", "tools") if key in fields and reading.form != "text")
    names = tuple(name for name, value in record.items() if value is not None)
    inside: frozenset[str] = frozenset()
    if reading.form == "chat" and isinstance(fields[reading.keys[0]], list):
        inside = unread_keys(reading.keys[0], fields[reading.keys[0]])
    return taken_as(reading, beside, names, inside, tuple(columns.items()))


def _pair_messages(reading: Reading, fields: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """One prompt and its answer, each a text or (of the same record) each a list of messages. Of
    the latter only the answer is trained on."""
    *prompts, answer = reading.keys
    if len(prompts) == 1 and isinstance(fields[answer], list):
        before = message_list(prompts[0], fields[prompts[0]], where)
        before = tuple(dataclasses.replace(message, trained=False) for message in before)
        after = message_list(answer, fields[answer], where, before)
        if after[-1].role != "assistant":
            raise MftError(
                f"{where}: no answer, `{answer}` ends with the role {after[-1].role!r}; expected "
                "an assistant's message at the end; add it or remove the last ones"
            )
        return (*before, *after)
    parts = [string_of(fields[name], name, where) for name in prompts]
    prompt = "\n".join(part for part in parts if part)
    text = answer_of(fields[answer], answer, where)
    return Message("user", prompt), Message("assistant", text)


def _with_system(
    messages: tuple[Message, ...], system: Any, reading: Reading, where: str
) -> tuple[Message, ...]:
    """The messages after the record's own `system`, unless they begin with it."""
    if system is None or (reading.form == "chat" and system == ""):
        return messages
    first = Message("system", string_of(system, "system", where))
    if messages[0].role != "system":
        return (first, *messages)
    if messages[0].content.strip() != first.content.strip():
        raise MftError(
            f"{where}: the record can be read in more than one way, its `system` is not the system "
            f"message of `{reading.keys[0]}`; expected one of them; remove the other, or leave it "
            f"out by the task's columns={reading.columns()}"
        )
    return messages


def _decoded(text: str) -> Any:
    """The value of JSON text, as which a table holds a list; other text as it is."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return text


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """The tools of a chat: a list of JSON Schemas, or that list as JSON."""
    tools = _decoded(value) if isinstance(value, str) else value
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise MftError(
            f"{where}: `tools` is {shortened(value)}; expected a list of functions as JSON "
            'Schemas, [{"type": "function", "function": {...}}]; correct it, or leave it out by '
            "the task's `columns`"
        )
    return tuple(tools)
