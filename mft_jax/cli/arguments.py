"""Flags of a command, read with absl and ml_collections; every mistake is an `MftError`."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mft_jax.cli.commands import COMMANDS
from mft_jax.cli.config_errors import check_loaded, located
from mft_jax.config import TrainConfig, resolve, with_absolute_paths
from mft_jax.run.words import fit_words
from mft_jax.settings import settings
from mft_jax.types import MftError, suggest


def parse(command: str, arguments: Sequence[str], values: flags.FlagValues) -> None:
    """Parse `arguments` into `values`; `--help` prints the flags and ends."""
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(f"mft {command}: {COMMANDS[command]}\n")
        for name in values:
            if name == values[name].name:
                default = values[name].default
                shown = "" if default is None else f" (default: {default})"
                line = f"  --{name}={'...':<6} {values[name].help}{shown}"
                print(fit_words(line, shutil.get_terminal_size().columns, indent=6))
        if "config" in values:
            print(
                "\n`mft config --config=...` prints every setting that --config.key=value changes"
            )
        sys.exit(0)
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


def _parsed(command: str, arguments: Sequence[str], values: flags.FlagValues) -> Sequence[str]:
    """The arguments that are no flags. What the config file itself raises names its line."""
    given = [a.partition("=")[2].partition(":")[0] for a in arguments if a.startswith("--config=")]
    if not given:
        return values([f"mft {command}", *arguments])
    with located(given[-1]):
        rest = values([f"mft {command}", *arguments])
        check_loaded(values["config"].value, given[-1])
    return rest


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse `--config.key=value` for a key that no setting has, with the nearest name; and any
    without a `--config` that it could change."""
    known = [setting.name for setting in settings(TrainConfig)]
    keys = [a[9:].partition("=")[0] for a in arguments if a.startswith("--config.")]
    for key in keys:
        parts = [name for name in known if name == key or name.startswith(f"{key}.")]
        room, _, last = key.rpartition(".")
        if room in known:
            raise MftError(
                f"--config.{key}: {room} holds values by name ({last!r}); set it in the config file"
            )
        if not parts and not key.startswith("data.tasks"):
            raise MftError(f"unknown setting {key!r}; {suggest(key, known) or 'see `mft config`'}")
    if keys and not any(argument.startswith("--config=") for argument in arguments):
        raise MftError(
            f"--config.{keys[0]} changes a setting, but no --config was given; expected a "
            "file such as configs/quickstart.py"
        )


def config_flag(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """The flag `--config`. It reads its overrides itself, so it gets the arguments beforehand."""
    check_overrides(arguments)
    for argument in arguments:
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
        sys_argv=["mft", *arguments],
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
    return os.path.expanduser(value)
