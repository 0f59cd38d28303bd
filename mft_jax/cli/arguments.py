"""Flags of a command, read with absl and ml_collections; every mistake is an `MftError`."""

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mft_jax.cli.commands import COMMANDS
from mft_jax.cli.config_errors import check_loaded, located
from mft_jax.cli.flag_values import check_flags
from mft_jax.cli.overrides import apply, split_overrides
from mft_jax.config import TrainConfig, resolve, with_absolute_paths
from mft_jax.types import MftError, check_local


def parse(command: str, arguments: Sequence[str], values: flags.FlagValues) -> None:
    """Parse `arguments` into `values`; `--help` prints the flags and ends."""
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(_help(command, values))
        sys.exit(0)
    arguments, changes = split_overrides(arguments)
    check_flags(command, arguments, values)
    try:
        rest = _parsed(command, arguments, values)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # Errors come wrapped in one another, and a KeyError shows its message as a Python string.
        text: object = error
        while isinstance(text, Exception) and text.args:
            text = text.args[0]
        message = str(text).replace("\n", " ")
        raise MftError(f"{message}; see `mft {command} --help`") from error
    except (OSError, SyntaxError, ImportError) as error:
        raise MftError(f"--config cannot be read: {error}") from error
    if len(rest) > 1:
        raise MftError(
            f"unexpected argument {rest[1]!r}; flags are written --name=value; see "
            f"`mft {command} --help`"
        )
    if changes:
        apply(values["config"].value, changes)


def _parsed(command: str, arguments: Sequence[str], values: flags.FlagValues) -> Sequence[str]:
    """The arguments that are no flags. What the config file itself raises names its line."""
    given = [a.partition("=")[2].partition(":")[0] for a in arguments if a.startswith("--config=")]
    if not given:
        return values([f"mft {command}", *arguments])
    with located(given[-1]):
        rest = values([f"mft {command}", *arguments])
        check_loaded(values["config"].value, given[-1])
    return rest


def _help(command: str, values: flags.FlagValues) -> str:
    """The flags of a command, and what they mean, in 80 columns."""
    lines = [f"mft {command}: {COMMANDS[command]}", ""]
    for name in values:
        if name == values[name].name:
            default = values[name].default
            shown = "" if default in (None, "") else f" (default: {default})"
            lines += textwrap.wrap(
                f"{values[name].help}{shown}", 80, initial_indent=f"  --{name}=... ".ljust(20),
                subsequent_indent=" " * 20, break_on_hyphens=False,
            )  # fmt: skip
    if "config" in values:
        lines += ["", "`mft config` prints every setting that --config.key=value changes"]
    return "\n".join(lines)


def config_flag(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """The flag `--config`. The changes of its settings are read by `overrides`."""
    arguments, changes = split_overrides(arguments)
    if changes and not any(argument.startswith("--config=") for argument in arguments):
        raise MftError(
            f"{changes[0].flag} changes a setting, but no --config was given; expected a "
            "file such as configs/quickstart.py"
        )
    for argument in arguments:
        if argument.startswith("--config="):
            check_local("--config", argument.partition("=")[2])
        path = argument.partition("=")[2].partition(":")[0]
        if argument.startswith("--config=") and not Path(path).is_file():
            raise MftError(
                f"--config={path} is no file; expected one such as configs/quickstart.py, and "
                "after a colon what its get_config takes"
            )
    config_flags.DEFINE_config_file(
        "config",
        None,
        "a file such as configs/quickstart.py; --config.key=value changes a setting",
        lock_config=True,
        flag_values=values,
        sys_argv=["mft"],
    )


def resolved(values: flags.FlagValues) -> TrainConfig:
    """`--config` as frozen dataclasses, its folders by absolute paths."""
    settings = values["config"].value
    if settings is None:
        raise MftError("no --config was given; expected a file such as configs/quickstart.py")
    return with_absolute_paths(resolve(settings))


def required_flag(values: flags.FlagValues, name: str) -> str:
    value = values[name].value
    if not value:
        raise MftError(f"no --{name} was given; it is required")
    check_local(f"--{name}", value)
    return os.path.expanduser(value)
