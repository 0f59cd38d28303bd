"""Flags of a command, read with absl and ml_collections; every mistake is an `MftError`."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mft_jax.config import TrainConfig, resolve
from mft_jax.types import MftError


def parse(command: str, doc: str, arguments: Sequence[str], values: flags.FlagValues) -> None:
    """Parse `arguments` into `values`; `--help` prints the flags and ends."""
    if any(argument in ("-h", "--help", "-help") for argument in arguments):
        print(f"mft {command}: {doc}\n")
        for name in values:
            if name == values[name].name:
                default = values[name].default
                shown = "" if default is None else f" (default: {default})"
                print(f"  --{name}={'...':<6} {values[name].help}{shown}")
        if "config" in values:
            print(
                "\n`mft config --config=...` prints every setting that --config.key=value changes"
            )
        sys.exit(0)
    try:
        rest = values([f"mft {command}", *arguments])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # Errors come wrapped in one another, and a KeyError shows its message as a Python string.
        text: object = error
        while isinstance(text, Exception) and text.args:
            text = text.args[0]
        said = str(text).replace("\n", " ")
        raise MftError(f"{said}; see `mft {command} --help`") from error
    except (OSError, SyntaxError, ImportError) as error:
        raise MftError(f"--config cannot be read: {error}") from error
    if len(rest) > 1:
        raise MftError(
            f"unexpected argument {rest[1]!r}; flags are written --name=value; see "
            f"`mft {command} --help`"
        )


def config_flag(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """`--config`. It looks for its own overrides, so it is given the arguments beforehand."""
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
    config = values["config"].value
    if config is None:
        raise MftError("no --config was given; expected a file such as configs/quickstart.py")
    resolved = resolve(config)
    # The run's folder is used from other places, too.
    model = dataclasses.replace(resolved.model, path=_from_anywhere(resolved.model.path))
    tuning = resolved.finetune
    tuning = dataclasses.replace(tuning, adapter=_from_anywhere(tuning.adapter))
    return dataclasses.replace(resolved, model=model, finetune=tuning)


def _from_anywhere(path: str) -> str:
    """A folder that exists by its absolute path; other names (`builtin:`, hub) as they are."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if path and folder.exists() else path


def required_flag(values: flags.FlagValues, name: str) -> str:
    value = values[name].value
    if not value:
        raise MftError(f"no --{name} was given; it is required")
    return os.path.expanduser(value)
