"""Settings can be looked up: every one has a type, a default and a documentation."""

import dataclasses
import json
import re
from typing import Any, Literal

import pytest

from mft_jax.cli import config as config_command
from mft_jax.config import TrainConfig, default, resolve, to_dict
from mft_jax.settings import documentation, json_schema, plain, settings, summary

ALL = list(settings(TrainConfig))


@dataclasses.dataclass(frozen=True)
class Room:
    """A room of
    two lines.

    rank   of the adapter; a long text
           goes on here
    names  `rank` is not documented again by this line
    """

    rank: int = 4
    names: tuple[str, ...] = ("a",)
    kind: Literal["x", "y"] = "x"
    limit: int | None = None


def test_documentation_is_read_from_the_docstring():
    assert documentation(Room) == {
        "rank": "of the adapter; a long text goes on here",
        "names": "`rank` is not documented again by this line",
    }
    assert summary(Room) == "A room of two lines."


def test_types_are_said_in_words():
    names = {setting.name: setting.type_name for setting in settings(Room)}
    assert names == {"rank": "int", "names": "list of str", "kind": "x | y", "limit": "int | none"}


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting):
    assert re.search(r"\w{3}", setting.documentation), f"{setting.name} has no line in a docstring"


def test_names_are_those_of_the_command_line():
    flat = {name for name, _ in _leaves(default().to_dict())}
    listed = {setting.name for setting in ALL if "[]" not in setting.name}
    assert listed | {"data.tasks"} == flat


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        room = name.rpartition(".")[2] in {"rates", "alpha", "weights"} and value == {}
        nested = isinstance(value, dict) and not room
        found += _leaves(value, f"{name}.") if nested else [(name, value)]
    return found


def test_the_schema_says_what_resolve_accepts():
    schema = json_schema(TrainConfig, "title")
    json.dumps(schema)
    _check(schema, plain(to_dict(resolve(default()))), "config")
    with pytest.raises(AssertionError, match="balancer.coba.tua"):
        _check(schema, {"balancer": {"coba": {"tua": 1.0}}}, "config")
    with pytest.raises(AssertionError, match="overlong"):
        _check(schema, {"data": {"overlong": "explode"}}, "config")


def _check(schema: dict[str, Any], value: Any, where: str) -> None:
    """The part of JSON Schema that is used."""
    if "anyOf" in schema:
        null = {"type": "null"} in schema["anyOf"]
        rest = [part for part in schema["anyOf"] if part != {"type": "null"}]
        assert (value is None and null) or _check(rest[0], value, where) is None
    elif "enum" in schema:
        assert value in schema["enum"], f"{where}={value!r}"
    elif schema["type"] == "object":
        named = schema.get("properties", {})
        for key, part in value.items():
            extra = schema["additionalProperties"]
            assert key in named or extra, f"{where}.{key}"
            _check(named.get(key, extra), part, f"{where}.{key}")
    elif schema["type"] == "array":
        for index, part in enumerate(value):
            _check(schema["items"], part, f"{where}[{index}]")
    else:
        kinds = {"integer": int, "number": (int, float), "string": str, "boolean": bool}
        assert isinstance(value, kinds[schema["type"]]), f"{where}={value!r}"


def test_the_listing_fits_the_terminal_and_marks_what_is_changed():
    config = dataclasses.replace(TrainConfig(), seed=7)
    lines = list(config_command.listing(config, 80))
    assert max(map(len, lines)) <= 80
    changed = [line for line in lines if line.startswith("* ")]
    assert len(changed) == 1 and re.match(r"\* seed = 7 +int; default 0", changed[0])


def test_the_listing_can_be_searched():
    lines = list(config_command.listing(TrainConfig(), 80, "lora_plus"))
    assert [line for line in lines if " = " in line][0].startswith("  optim.lora_plus_ratio = 1.0")
