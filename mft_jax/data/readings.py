"""Readings of a record: the forms that its fields could be, and the one that it has.

A record may say the same twice: the finished text beside instruction and answer, a first prompt
beside its chat. A field that only repeats a reading is no other reading; one that says anything
else is, and then no reading is taken.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from mft_jax.data.chats import CHAT_KEYS, named
from mft_jax.types import MftError

PROMPT_KEYS = ("prompt", "input", "instruction", "question", "query")
ANSWER_KEYS = ("answer", "output", "response", "completion")
JOINED_KEYS = ("instruction", "input", "context")  # one prompt, in this order
OTHER_KEYS = ("system", "tools", "context")  # read beside a form
# What a template writes around the texts of a record; the whole line where it begins Alpaca's.
FRAME = re.compile(
    r"^Below is an instruction.*$|^#+ *\w+(?: \w+)?:?|^\w+:|</?s>|<\|\w+\|>|\[/?INST\]",
    re.MULTILINE,
)
# More than this share of a text, its frame aside, are the texts that it repeats.
LEAST_SHARE = 0.5
KNOWN_KEYS = (*CHAT_KEYS, *PROMPT_KEYS, *ANSWER_KEYS, "text", *OTHER_KEYS)


@dataclasses.dataclass(frozen=True)
class Reading:
    """A form of a record: a chat, one prompt (of one or several fields) with its answer, or text.

    `keys` are the fields it is made of; of a pair the last one is the answer.
    """

    form: Literal["chat", "pair", "text"]
    keys: tuple[str, ...]

    def __str__(self) -> str:
        if self.form == "pair":
            return f"{' + '.join(f'`{key}`' for key in self.keys[:-1])} -> `{self.keys[-1]}`"
        return f"`{self.keys[0]}`"

    def columns(self) -> dict[str, str]:
        """The task's `columns` that choose this reading."""
        return {key: key for key in self.keys}

    def texts(self, fields: Mapping[str, Any]) -> Iterator[str]:
        """The texts in their order, without the white space around them."""
        for key in self.keys:
            value = fields[key]
            for text in _entry_texts(value) if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield text.strip()


def _entry_texts(entries: list[Any]) -> Iterator[Any]:
    """The contents of a chat's entries, also where a content is a list of parts."""
    for entry in (entry for entry in entries if isinstance(entry, Mapping)):
        content = entry.get("content", entry.get("value"))
        parts = content if isinstance(content, list) else [content]
        yield from (part.get("text") if isinstance(part, Mapping) else part for part in parts)


@dataclasses.dataclass(frozen=True)
class TakenAs:
    """What a record was taken for, and its fields that were not read."""

    form: str = ""
    unread: tuple[str, ...] = ()


@functools.lru_cache(maxsize=1024)
def taken_as(
    reading: Reading,
    beside: tuple[str, ...],
    names: tuple[str, ...],
    inside: frozenset[str],
    columns: tuple[tuple[str, str], ...],
) -> TakenAs:
    """What records with the fields `names` were taken for; one object for all of a kind.

    beside   fields that are read beside the form
    inside   what is not read in the entries of a chat
    columns  the task's: our name, the record's
    """
    theirs = dict(columns)
    form = str(dataclasses.replace(reading, keys=tuple(theirs.get(k, k) for k in reading.keys)))
    form += "".join(f", `{theirs.get(key, key)}`" for key in beside)
    read = {theirs.get(key, key) for key in (*reading.keys, *beside)}
    return TakenAs(form, tuple(sorted({*names, *inside} - read)))


def reading_of(
    fields: Mapping[str, Any], all_keys: Sequence[str], where: str, names_note: str = ""
) -> Reading:
    """The reading that every other field with a known name only repeats.

    Raises `MftError` where there is none, or more than one; `names_note` says in its text where the
    names come from.
    """
    every = possible_readings(tuple(key for key in fields if key != "context" or _joins(fields)))
    for reading, others in every:
        if not others or all(_repeats(fields[key], reading, fields) for key in others):
            return reading
    if every:
        raise _ambiguous(every, where)
    prompts = [key for key in PROMPT_KEYS if key in fields]
    answers = [key for key in ANSWER_KEYS if key in fields]
    if prompts:
        raise MftError(
            f"{where}: no answer, the record has only {named(prompts)}; expected also one of "
            f"{named(ANSWER_KEYS)}; add the answer or remove the record"
            + _preferred(fields, prompts[0])
        )
    if answers:
        raise MftError(
            f"{where}: no prompt, the record has only {named(answers)}; expected also one of "
            f"{named(PROMPT_KEYS)}; add the prompt, or name the field `text` if it is plain text"
        )
    raise MftError(
        f"{where}: no known form, the record has the fields {named(all_keys)}{names_note}; "
        f"expected one of {named(tuple(CHAT_KEYS))}, one of {named(PROMPT_KEYS)} with one of "
        f"{named(ANSWER_KEYS)}, or `text`; name its fields in the task's `columns`, such as "
        '{"prompt": "...", "answer": "..."} with the names that they have here'
    )


@functools.lru_cache(maxsize=1024)
def possible_readings(keys: tuple[str, ...]) -> tuple[tuple[Reading, tuple[str, ...]], ...]:
    """All readings of a record with these fields, the fullest first, each with the fields of known
    names that it does not use.

    >>> every = possible_readings(("instruction", "input", "output", "text", "id"))
    >>> [(str(reading), others) for reading, others in every]  # doctest: +NORMALIZE_WHITESPACE
    [('`instruction` + `input` -> `output`', ('text',)),
     ('`text`', ('input', 'instruction', 'output'))]
    """
    joined = [key for key in JOINED_KEYS if key in keys] if "instruction" in keys else []
    prompts = [tuple(joined)] if joined else []
    beside = ("context",) if "context" in keys and not joined else ()
    prompts += [(key, *beside) for key in PROMPT_KEYS if key in keys and key not in joined]
    answers = [key for key in ANSWER_KEYS if key in keys]
    every = [Reading("chat", (key,)) for key in CHAT_KEYS if key in keys]
    every += [Reading("pair", (*prompt, answer)) for answer in answers for prompt in prompts]
    every += [Reading("text", ("text",))] * ("text" in keys)
    known = [key for key in KNOWN_KEYS if key in keys and key not in OTHER_KEYS]
    return tuple(
        (reading, tuple(key for key in known if key not in reading.keys)) for reading in every
    )


def _joins(fields: Mapping[str, Any]) -> bool:
    """Whether `context` is joined to the prompt: not to a list of messages, and not (beside
    another prompt than `instruction`) where a prompt already holds it."""
    context = fields["context"]
    if any(isinstance(fields.get(key), list) for key in (*PROMPT_KEYS, *ANSWER_KEYS)):
        return False
    if "instruction" in fields or not isinstance(context, str) or not context.strip():
        return True
    prompts = [fields[key] for key in PROMPT_KEYS if isinstance(fields.get(key), str)]
    return not any(context.strip() in prompt for prompt in prompts)


def _repeats(value: Any, reading: Reading, fields: Mapping[str, Any]) -> bool:
    """Whether a field is empty or one of the reading's texts, or is made of all of them.

    It is made of them where it holds a prompt that is not empty, and after it the answer, and where
    they are more than `LEAST_SHARE` of its characters beside white space and `FRAME`.
    """
    if not isinstance(value, str):
        return False
    texts = list(reading.texts(fields))
    if not value.strip() or value.strip() in texts:
        return True
    if reading.form == "text" or not any(texts[:-1]):
        return False
    *first, last = reading.keys
    for keys in itertools.permutations(first):  # a template may write the context first
        ordered = dataclasses.replace(reading, keys=(*keys, last))
        rest = _rest(value, ordered.texts(fields))
        if rest is not None:
            told = sum(map(_size, texts))
            return told > LEAST_SHARE * (told + _size(FRAME.sub("", rest)))
    return False


def _rest(value: str, texts: Iterator[str]) -> str | None:
    """What `value` holds beside the texts; None where it does not hold them in this order."""
    rest, place = [], 0
    for text in texts:
        found = value.find(text, place)
        if found < 0:
            return None
        rest.append(value[place:found])
        place = found + len(text)
    return "\n".join([*rest, value[place:]])


def _size(text: str) -> int:
    return len("".join(text.split()))


def _preferred(fields: Mapping[str, Any], prompt: str) -> str:
    """The advice for a record of preferences, whose answer is called `chosen`."""
    if "chosen" not in fields:
        return ""
    columns = {prompt: prompt, "answer": "chosen"}
    if isinstance(fields["chosen"], list) and not isinstance(fields[prompt], list):
        columns = {"messages": "chosen"}
    return f"; to learn the preferred answers, set the task's columns={json.dumps(columns)}"


def _ambiguous(every: Sequence[tuple[Reading, tuple[str, ...]]], where: str) -> MftError:
    (first, others), *more = every
    second = f"or as {more[0][0]}" if more else f"but {named(others)} says something else"
    choices = [f"columns={reading.columns()}" for reading, _ in every[:2]]
    return MftError(
        f"{where}: the record can be read in more than one way, as {first}, {second}; expected "
        f"one form, or fields that repeat it; say in the task's settings which one is meant, "
        f"{' or '.join(choices)}, or remove the fields that are not meant"
    )
