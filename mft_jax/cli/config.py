"""`mft config`: every setting with its value, type, default and documentation."""

import dataclasses
import json
import operator
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from mft_jax.cli import arguments as args
from mft_jax.config import TrainConfig
from mft_jax.settings import Setting, json_schema, plain, settings, summary
from mft_jax.types import MftError, visible

LARGEST_WIDTH = 100


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_bool("schema", False, "print a JSON Schema of the settings instead", values)
    flags.DEFINE_string("find", "", "only settings whose name or text holds this", values)
    args.parse("config", arguments, values)
    if values["schema"].value:
        print(json.dumps(json_schema(TrainConfig, "mft_jax configuration"), indent=2))
        return 0
    config = TrainConfig() if values["config"].value is None else args.resolved(values)
    width = min(shutil.get_terminal_size((80, 24)).columns, LARGEST_WIDTH)
    wanted = str(values["find"].value).lower()
    lines = list(listing(config, width, wanted))
    if not lines:
        raise MftError(f"--find={wanted}: no setting's name or text holds it; see `mft config`")
    print(visible("\n".join(lines[1:])))
    return 0


def listing(config: TrainConfig, width: int, wanted: str = "") -> Iterator[str]:
    """Lines of text: rooms with their summaries, settings with what is known of them.

    A value that is not the default is marked with `*`.
    """
    room = None
    for setting in settings(TrainConfig):
        if wanted not in f"{setting.name} {setting.documentation}".lower():
            continue
        name, _, _ = setting.name.rpartition(".")
        if name != room:
            room = name
            yield from _heading(name, width)
        yield from _lines(setting, value_of(config, setting.name), width)


def _heading(room: str, width: int) -> Iterator[str]:
    schema: Any = TrainConfig
    for part in filter(None, room.split(".")):
        kind = typing.get_type_hints(schema)[part.removesuffix("[]")]
        schema = typing.get_args(kind)[0] if part.endswith("[]") else kind
    yield ""
    yield room or "config"
    yield from textwrap.wrap(summary(schema), width, initial_indent="  ", subsequent_indent="  ")


def _lines(setting: Setting, value: Any, width: int) -> Iterator[str]:
    listed = "[]" in setting.name
    changed = any(v != setting.default for v in value) if listed else value != setting.default
    value = value[0] if listed and value and all(v == value[0] for v in value) else value
    nothing = listed and value == []
    shown = f"{'*' if changed else ' '} {setting.name}" + f" = {_shown(value)}" * (not nothing)
    required = setting.default is dataclasses.MISSING
    known = f"{setting.type_name}; " + (
        "required" if required else f"default {_shown(setting.default)}"
    )
    if len(shown) + 2 + len(known) <= width:
        yield shown + known.rjust(width - len(shown))
    else:
        yield from textwrap.wrap(shown, width, subsequent_indent="      ")
        yield from textwrap.wrap(known, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    text = setting.documentation
    yield from textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of a setting by its dotted name; of a setting of list entries, a value each."""
    value: Any = config
    listed = False
    for part in name.split("."):
        step = operator.attrgetter(part.removesuffix("[]"))
        value = [step(entry) for entry in value] if listed else step(value)
        listed = listed or part.endswith("[]")
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) and value else json.dumps(plain(value))
