"""Chats as the world writes them, as messages: whose names of roles and fields, and in what order.

{"chat_rounds": [{"role": "human", "content": "..."}, {"role": "bot", "content": "..."}]}
{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mft_jax.types import MftError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "bot": "assistant",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
# The names of role and content in the entries of a field.
CHAT_KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "chat_rounds": (("role", "content"),),
    "messages": (("role", "content"),),
    "conversations": (("from", "value"), ("role", "content")),
}
# Of tools, an entry also has the calls that an answer makes, and whose result a message is.
TOOL_FIELDS = ("tool_calls", "tool_call_id", "name")
OTHER_FIELDS = ("function_call", "weight")
FOLLOWERS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


@dataclasses.dataclass(frozen=True)
class Message:
    """A message. Of an assistant's, `trained` says whether the model learns to write it.

    tool_fields  what a chat template reads of tools: `tool_calls`, `tool_call_id`, `name`
    """

    role: Role
    content: str
    trained: bool = True
    tool_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def chat_messages(key: str, entries: Any, where: str) -> tuple[Message, ...]:
    """The messages of the field `key`: at most one system message, then user and assistant in
    turns, between them the results of tools. The last one answers."""
    messages = message_list(key, entries, where)
    if messages[-1].role != "assistant":
        last = entries[-1]
        role = next(last[name] for name, _ in _names_of(key) if name in last)
        raise MftError(
            f"{where}: no answer, `{key}` ends with the role {role!r}; "
            "expected a bot round at the end; add the answer or remove the last rounds"
        )
    return messages


def message_list(
    key: str, entries: Any, where: str, before: Sequence[Message] = ()
) -> tuple[Message, ...]:
    """The messages of a list of entries that follows the messages `before`."""
    names = _names_of(key)
    if not isinstance(entries, list) or not entries:
        raise MftError(
            f"{where}: `{key}` is {shortened(entries)}; expected a list of {_shape(names[0])} with "
            "at least a human and a bot round; correct it"
        )
    messages = list(before)
    for number, entry in enumerate(entries, start=1):
        place = f"{where}: round {number} of `{key}`"
        message, role = _message(entry, names, place)
        _check_order(messages, message.role, role, place)
        messages.append(message)
    return tuple(messages[len(before) :])


READ_KEYS = {
    key: frozenset((*(name for pair in pairs for name in pair), *TOOL_FIELDS, *OTHER_FIELDS))
    for key, pairs in CHAT_KEYS.items()
}


def unread_keys(key: str, entries: Sequence[Any]) -> frozenset[str]:
    """The names in the entries of a chat that are not read, such as `messages[].reasoning`."""
    found: set[str] = set()
    for entry in entries:
        if isinstance(entry, dict) and entry.keys() - READ_KEYS[key]:
            found |= {name for name in entry.keys() - READ_KEYS[key] if entry[name] is not None}
    return frozenset(f"{key}[].{name}" for name in found)


def _names_of(key: str) -> tuple[tuple[str, str], ...]:
    return CHAT_KEYS.get(key, (("role", "content"),))


def _message(entry: Any, names: tuple[tuple[str, str], ...], place: str) -> tuple[Message, str]:
    """The message of an entry, and its role as it was written."""
    found = entry if isinstance(entry, dict) else {}
    if any(found.get(pair[0]) == "function_call" for pair in names):
        found = _as_call(found, names, place)
    calls = _tool_calls(found, place)
    pair = next((pair for pair in names if pair[0] in found and (calls or pair[1] in found)), None)
    if pair is None:
        raise MftError(f"{place} is {shortened(entry)}; expected {_shape(names[0])}; correct it")
    written, content = found[pair[0]], found.get(pair[1])
    role = ROLES.get(written) if isinstance(written, str) else None
    if role is None:
        raise MftError(
            f"{place} has the unknown role {shortened(written)}; expected one of "
            f"{named(tuple(ROLES))}; rename the role"
        )
    text = "" if content is None and calls else _text_of(content, pair[1], place)
    if role == "assistant" and not calls:
        answer_of(text, pair[1], place)
    tool_fields = {name: found[name] for name in TOOL_FIELDS[1:] if found.get(name) is not None}
    if role != "tool":
        tool_fields = {}
    if calls:
        tool_fields["tool_calls"] = calls
    return Message(role, text, _is_trained(found, place), tool_fields), written


def _as_call(
    entry: Mapping[str, Any], names: tuple[tuple[str, str], ...], place: str
) -> dict[str, Any]:
    """The entry of ShareGPT's role `function_call`, whose text is one call or a list of calls."""
    pair = next(pair for pair in names if entry.get(pair[0]) == "function_call")
    text = string_of(entry.get(pair[1]), pair[1], place)
    try:
        calls = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise MftError(
            f"{place}: the text of a function_call is no JSON ({error}); expected "
            '{"name": ..., "arguments": ...} or a list of them; correct it'
        ) from error
    calls = calls if isinstance(calls, list) else [calls]
    wrapped = [{"type": "function", "function": call} for call in calls]
    return {**entry, pair[1]: None, "tool_calls": wrapped}


def _tool_calls(entry: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """The calls of an answer, as chat templates take them: arguments as an object."""
    calls = entry.get("tool_calls") or []
    if entry.get("function_call"):  # how one call was written before there were several
        calls = [{"type": "function", "function": entry["function_call"]}]
    made = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise MftError(
                f"{place} has the tool call {shortened(call)}; expected "
                '{"type": "function", "function": {"name": ..., "arguments": ...}}; correct it'
            )
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (RecursionError, ValueError) as error:
                raise MftError(
                    f"{place} calls {function['name']!r} with arguments that are no JSON "
                    f"({error}); expected an object; correct them"
                ) from error
        known = {name: value for name, value in call.items() if value is not None}
        whole = {"name": function["name"], "arguments": arguments or {}}
        made.append({"type": "function"} | known | {"function": whole})
    return made


def _is_trained(entry: Mapping[str, Any], place: str) -> bool:
    weight = entry.get("weight")
    if weight not in (None, 0, 1):
        raise MftError(
            f"{place} has weight={shortened(weight)}; expected 1 (learn to write it) or 0 (only "
            "read it); correct it"
        )
    return weight != 0


def _text_of(content: Any, name: str, place: str) -> str:
    """A text, or the texts of its parts: [{"type": "text", "text": "..."}]."""
    if not isinstance(content, list):
        return string_of(content, name, place)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or "text" not in part:
            raise MftError(
                f"{place}: `{name}` has the part {shortened(part)}; expected parts of text only, "
                '{"type": "text", "text": "..."}; remove the part or the record'
            )
    return "".join(string_of(part["text"], "text", place) for part in content)


def _check_order(before: Sequence[Message], role: Role, name: str, place: str) -> None:
    last = before[-1].role if before else None
    if role not in FOLLOWERS[last]:
        found = f"after {last!r}" if last else "at the beginning"
        raise MftError(
            f"{place} is out of order: role {name!r} {found}; expected "
            f"{' or '.join(FOLLOWERS[last])} there (at most one system round, then human and bot "
            "in turns, after a bot also tools); reorder the rounds"
        )


def answer_of(value: Any, name: str, place: str) -> str:
    """A text to train on. Raises `MftError` where it is none, or empty."""
    answer = string_of(value, name, place)
    if not answer.strip():
        raise MftError(
            f"{place}: the answer `{name}` is empty; expected text to train on; add the answer or "
            "remove the record"
        )
    return answer


def string_of(value: Any, name: str, place: str) -> str:
    """A text. Raises `MftError` where it is none, or could not be encoded."""
    if not isinstance(value, str):
        raise MftError(
            f"{place}: `{name}` is {shortened(value)}; expected a string; convert it to text"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MftError(
            f"{place}: `{name}` holds half a surrogate pair at character {error.start + 1}; "
            "expected Unicode text; repair the escape sequence \\ud... there"
        ) from error
    return value


def named(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key}`" if key else "(unnamed)" for key in keys) if keys else "(none)"


def shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _shape(names: tuple[str, str]) -> str:
    return f'{{"{names[0]}": ..., "{names[1]}": ...}}'
