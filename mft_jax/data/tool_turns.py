"""Turns of a chat that call tools: what the model must write, and what a template must not drop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mft_jax.data.chats import Message

Tools = tuple[dict[str, Any], ...]  # functions, as JSON Schemas


def uses_tools(messages: Sequence[Message], tools: Tools) -> bool:
    return bool(tools) or any(m.role == "tool" or m.tool_fields for m in messages)


def tool_texts(messages: Sequence[Message], tools: Tools) -> list[str]:
    """What a chat says of tools, as text."""
    said = [*(m.tool_fields for m in messages if m.tool_fields), *tools]
    return [json.dumps(value, ensure_ascii=False, default=str) for value in said]


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {with_texts(k, change): with_texts(part, change) for k, part in value.items()}
    return [with_texts(part, change) for part in value] if isinstance(value, list) else value


def dropped_from(prompt: str, messages: Sequence[Message], tools: Tools) -> str | None:
    """What a template's fault is, where its text tells less of tools than the chat; None: nothing.

    A result may stand there as it is or as a JSON string.
    """
    for message in messages:
        content = message.content.strip()
        forms = (content, json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1])
        if message.role == "tool" and not any(form in prompt for form in forms):
            return "drops the result of a tool"
    for tool in tools:
        name = str(tool.get("function", tool).get("name", ""))
        if name not in prompt:
            return f"does not tell of the tool {name!r}"
    return None


def call_length(message: Message, turn: str, special: re.Pattern[str]) -> int | str:
    """The length of a turn that calls tools, up to its last special token, at which the model must
    stop; or the template's fault."""
    names = [call["function"]["name"] for call in message.tool_fields["tool_calls"]]
    if message.content.strip() not in turn or not all(name in turn for name in names):
        return "drops the calls of tools"
    ends = [match.end() for match in special.finditer(turn)]
    return ends[-1] if ends else "puts no end token (a special token) after the calls of tools"
