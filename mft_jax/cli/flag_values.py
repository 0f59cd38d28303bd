"""The flags of a command line, checked before absl reads them: its messages are for programmers."""

import re
from collections.abc import Sequence

from absl import flags

from mft_jax.types import MftError, suggest

FLAG = re.compile(r"--?(?P<name>[^=]+)(?:=(?P<text>.*))?", re.S)
CHECKED = {"int": "a whole number", "bool": "true or false"}


def check_flags(command: str, arguments: Sequence[str], values: flags.FlagValues) -> None:
    """Raise `MftError` for a flag that the command does not have, with the nearest name, for one
    without its value, and for a value of another kind. A value may be the next argument."""
    help = f"see `mft {command} --help`"
    names, words = list(values), list(arguments)
    while words:
        found = FLAG.fullmatch(words.pop(0))
        if found is None:
            continue
        name, text = found["name"], found["text"]
        if name.startswith("no") and name[2:] in names and text is None:
            name = name[2:]  # absl's way to switch off
        if name not in names:
            hint = suggest(name, names).replace("'", "'--", 1)
            raise MftError(f"unknown flag --{name}; {hint} {help}".replace(";  ", "; "))
        flag = values[name]
        if text is None and not flag.boolean:
            if not words:
                raise MftError(f"--{name} has no value; expected --{name}=...; {help}")
            text = words.pop(0)
        if text is not None:
            _check_value(flag, text, help)


def _check_value(flag: flags.Flag, text: str, help: str) -> None:
    kind = flag.flag_type()
    expected = CHECKED.get(kind)
    if isinstance(flag.parser, flags.EnumParser):
        expected = "one of " + ", ".join(flag.parser.enum_values)
        hint = suggest(text, flag.parser.enum_values)
        expected = f"{expected}; {hint}" if hint else expected
    if expected is None:
        return
    try:
        flag.parser.parse(text)
    except (TypeError, ValueError) as error:
        raise MftError(f"--{flag.name}={text}: expected {expected}; {help}") from error
