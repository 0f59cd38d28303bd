"""`--config.key=value`: settings by their dotted names, read as the schema says what they are.

    --config.loop.steps=300                a number, a word, true or false, none
    --config.finetune.targets=q_proj,head  a list; also as Python or JSON writes it
    --config.data.rates.math=2             a value by name
    --config.data.tasks.math.path=m.jsonl  a setting of the task of that name

They change what the config file made, in their order.
"""

import ast
import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from mft_jax.config import TrainConfig
from mft_jax.settings import REPLACED, Setting, settings
from mft_jax.types import MftError, suggest

FLAG = re.compile(r"--?config\.(?P<key>[^=]+)(?:=(?P<text>.*))?", re.S)
FILE = re.compile(r"--?config")
NEGATED = re.compile(r"--?noconfig\.(?P<key>[^=]+)")
WORDS = {bool: "true or false", int: "a whole number", float: "a number"}
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
NOTHING = ("none", "null")


@dataclasses.dataclass(frozen=True)
class Override:
    """One change. `place` leads to the value: names of rooms, then of an entry or a setting.

    entries  the part of `place` that is a list, whose entry is called `place[entries]`; 0: none
    """

    flag: str
    place: tuple[str, ...]
    value: Any
    entries: int = 0


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    """(the other arguments, with the file as `--config=FILE`; the changes). Raises `MftError` for a
    setting that is not there, with the nearest name, and for a value of another kind."""
    rest: list[str] = []
    found: list[Override] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if negated := NEGATED.fullmatch(word):
            raise MftError(f"{word} is no flag; expected --config.{negated['key']}=false")
        flag = FLAG.fullmatch(word)
        if flag is None:
            rest.append(f"--config={words.pop(0)}" if FILE.fullmatch(word) and words else word)
            continue
        key, text = flag["key"], flag["text"]
        name, place, kind, entries = _target(key)
        if text is None and kind is bool:
            text = "true"
        elif text is None:
            if not words or words[0].startswith("-"):
                raise MftError(f"{word} has no value; expected {word}=...")
            text = words.pop(0)
        found.append(Override(name, place, _read(kind, text, f"{name}={text}"), entries))
    return rest, found


def apply(config: Any, changes: Iterable[Override]) -> None:
    """Change what the config file made, in place."""
    if not isinstance(config, ConfigDict):
        raise MftError(
            f"get_config() of --config returned {config!r}; expected the ConfigDict that "
            "`mft_jax.config.default()` makes"
        )
    with config.unlocked(), config.ignore_type():
        for change in changes:
            if change.entries:
                _set_entry(config, change)
            else:
                _set(config, change.place, change.value, change.flag)


def _target(key: str) -> tuple[str, tuple[str, ...], Any, int]:
    """(flag, place, kind, entries) of a key."""
    flag = f"--config.{key}"
    known = list(settings(TrainConfig))
    for setting in known:
        name, kind = setting.name, setting.kind
        if "[]" in name and (inside := _in_entry(key, setting)):
            return flag, *inside
        if name == key:
            return flag, tuple(key.split(".")), kind, 0
        if typing.get_origin(kind) is dict and key.startswith(f"{name}."):
            return flag, (*name.split("."), key[len(name) + 1 :]), typing.get_args(kind)[1], 0
    names = [setting.name for setting in known]
    lists = {name.partition("[]")[0] for name in names if "[]" in name}
    if key in lists:
        return flag, tuple(key.split(".")), tuple, 0
    for entries in lists:
        if key.startswith(f"{entries}."):
            inside = [n.partition("[].")[2] for n in names if n.startswith(f"{entries}[].")]
            entry, _, last = key[len(entries) + 1 :].rpartition(".")
            expected = f"expected {entries}.NAME.SETTING, with one of {', '.join(inside)}"
            hint = suggest(last, inside) if entry else ""
            raise MftError(f"unknown setting {key!r}; {hint or expected}")
    if rooms := [name for name in names if name.startswith(f"{key}.")]:
        raise MftError(f"{flag} is a group of settings; expected one of them, such as {rooms[0]}")
    hint = REPLACED.get(key) or suggest(key, names) or "see `mft config`"
    raise MftError(f"unknown setting {key!r}; {hint}")


def _in_entry(key: str, setting: Setting) -> tuple[tuple[str, ...], Any, int] | None:
    """(place, kind, entries) where the key is this setting of an entry. An entry's name may hold
    dots."""
    room, _, leaf = setting.name.partition("[].")
    pattern = rf"{re.escape(room)}\.(?P<entry>.+?)\.{re.escape(leaf)}"
    above, kind = tuple(room.split(".")), setting.kind
    if whole := re.fullmatch(pattern, key):
        return (*above, whole["entry"], leaf), kind, len(above)
    by_name = typing.get_origin(kind) is dict
    if by_name and (part := re.fullmatch(pattern + r"\.(?P<item>.+)", key)):
        place = (*above, part["entry"], leaf, part["item"])
        return place, typing.get_args(kind)[1], len(above)
    return None


def _read(kind: Any, text: str, flag: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if text.lower() in NOTHING else _read(inner, text, flag)
    if origin is Literal:
        return next((word for word in args if str(word) == text), text)
    if origin is tuple or kind is tuple or origin is dict:
        return _read_several(origin or kind, args, text, flag)
    if kind is str:
        return text
    try:
        return TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise MftError(f"{flag}: expected {WORDS[kind]}") from error


def _read_several(kind: Any, args: tuple[Any, ...], text: str, flag: str) -> Any:
    """A list or values by name, as Python (or JSON) writes them; a list of words also with
    commas."""
    if kind is tuple and args[:1] == (str,) and not text.lstrip().startswith(("(", "[")):
        return tuple(word.strip().strip("'\"") for word in text.split(",") if word.strip())
    try:
        value = json.loads(text)
    except ValueError:
        value = _literal(kind, text, flag)
    if isinstance(value, list | tuple) and kind is tuple:
        return tuple(value)
    return (value,) if kind is tuple and isinstance(value, str) else value


def _literal(kind: Any, text: str, flag: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        name = flag.partition("=")[0]
        expected = f"{name}.NAME=VALUE" if kind is dict else f"{name}=\"['...', '...']\""
        raise MftError(f"{flag}: cannot be read; expected {expected}") from error


def _set(room: Any, place: tuple[str, ...], value: Any, flag: str) -> None:
    for depth, name in enumerate(place[:-1], start=1):
        if name not in room:
            room[name] = ConfigDict()
        room = room[name]
        if not isinstance(room, ConfigDict):
            raise MftError(
                f"{flag}: {'.'.join(place[:depth])} is {room!r} in the config file; expected "
                "settings by name"
            )
    if "." in place[-1]:
        raise MftError(f"{flag}: a name with a dot cannot be set; rename {place[-1]!r}")
    room[place[-1]] = value


def _set_entry(config: ConfigDict, change: Override) -> None:
    """Replace the one entry of a list (of tasks) that has the name."""
    above, entry = change.place[: change.entries], change.place[change.entries]
    room: Any = config
    for name in above[:-1]:
        room = room.get(name, ConfigDict())
    known = room.get(above[-1], ())
    entries = list(known) if isinstance(known, list | tuple) else []
    names = [item.get("name") for item in entries if isinstance(item, Mapping | ConfigDict)]
    if len(names) != len(entries) or entry not in names:
        hint = suggest(entry, map(str, names)) or f"expected one of {', '.join(map(str, names))}"
        hint = hint if names else "the config file names no task"
        raise MftError(f"{change.flag}: {'.'.join(above)} has none called {entry!r}; {hint}")
    setting, *item = change.place[change.entries + 1 :]
    at = names.index(entry)
    changed = dict(entries[at])
    changed[setting] = {**changed.get(setting, {}), item[0]: change.value} if item else change.value
    room[above[-1]] = (*entries[:at], changed, *entries[at + 1 :])
