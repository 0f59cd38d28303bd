"""Every setting of a configuration: its dotted name, type, default and documentation.

The documentation of a setting is a line of its dataclass's docstring, the only copy of it:

    name     what it means; a text that is longer
             continues in lines that are indented further

The first paragraph of the docstring says what the whole room is about.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Settings of earlier versions that are no more. None decided a number: saved runs go on without.
REPLACED = {
    "objective.vocab_chunk": "set objective.loss_chunk, which counts positions, not columns",
}
JSON_TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One leaf of a configuration; `kind` is its type annotation."""

    name: str  # dotted, as on the command line after `--config.`
    kind: Any
    default: Any
    documentation: str

    @property
    def type_name(self) -> str:
        """The type in words: `int`, `'drop' | 'split'`, `list of str`."""
        return _type_name(self.kind)


def settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """All leaves of a dataclass of dataclasses, in the order of their fields.

    `data.tasks[].path` is the setting `path` of every entry of the list `data.tasks`.
    """
    hints, documented = typing.get_type_hints(schema), documentation(schema)
    for field in dataclasses.fields(schema):
        kind, name = hints[field.name], f"{prefix}{field.name}"
        item = (typing.get_args(kind) or (None,))[0]
        if dataclasses.is_dataclass(kind):
            yield from settings(typing.cast(type, kind), f"{name}.")
        elif dataclasses.is_dataclass(item):
            yield from settings(typing.cast(type, item), f"{name}[].")
        else:
            yield Setting(name, kind, default_of(field), documented.get(field.name, ""))


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field; `dataclasses.MISSING` where it must be given."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def documentation(schema: type) -> dict[str, str]:
    """The documentation of a dataclass's fields, from its docstring."""
    names = {field.name for field in dataclasses.fields(schema)}
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    column = 0
    for line in inspect.cleandoc(schema.__doc__ or "").splitlines():
        start = re.match(r"(?P<indent> *)(?P<name>\w+)(?P<gap> {2,})(?P<text>\S.*)", line)
        if start and start["name"] in names:
            column = len(start["indent"])
            current = found.setdefault(start["name"], [])
            current.append(start["text"])
        elif current is not None and line.strip() and len(line) - len(line.lstrip()) > column:
            current.append(line.strip())
        else:
            current = None
    return {name: " ".join(lines) for name, lines in found.items()}


def summary(schema: type) -> str:
    """The first paragraph of a dataclass's docstring, on one line."""
    return " ".join(inspect.cleandoc(schema.__doc__ or "").split("\n\n")[0].split())


def json_schema(schema: type, title: str) -> dict[str, Any]:
    """A JSON Schema of the whole configuration, for editors and other tools."""
    return {"$schema": SCHEMA_DIALECT, "title": title, **_object(schema)}


def _object(schema: type) -> dict[str, Any]:
    hints, documented = typing.get_type_hints(schema), documentation(schema)
    properties, required = {}, []
    for field in dataclasses.fields(schema):
        kind, default = hints[field.name], default_of(field)
        if dataclasses.is_dataclass(kind):
            properties[field.name] = _object(typing.cast(type, kind))
            continue
        described = {"description": documented.get(field.name, "")} | _json_type(kind)
        if default is dataclasses.MISSING:
            required.append(field.name)
        else:
            described["default"] = plain(default)
        properties[field.name] = described
    found = {"type": "object", "description": summary(schema), "properties": properties}
    return found | {"additionalProperties": False} | ({"required": required} if required else {})


def _json_type(kind: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return {"enum": list(args)}
    if isinstance(kind, types.UnionType):
        return {"anyOf": [{"type": "null"} if a is type(None) else _json_type(a) for a in args]}
    if origin is tuple:
        item = args[0]
        is_room = dataclasses.is_dataclass(item)
        made = _object(typing.cast(type, item)) if is_room else _json_type(item)
        return {"type": "array", "items": made}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json_type(args[1])}
    return {"type": JSON_TYPES[kind]}


def _type_name(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, args))
    if isinstance(kind, types.UnionType):
        return " | ".join("none" if a is type(None) else _type_name(a) for a in args)
    if origin is tuple:
        return f"list of {_type_name(args[0])}"
    if origin is dict:
        return f"{_type_name(args[1])} by name"
    return kind.__name__


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(part) for name, part in vars(value).items()}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
