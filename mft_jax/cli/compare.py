"""`mft compare`: one run for every variation of a config, and one page with all of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from mft_jax import door
from mft_jax.cli import arguments as args
from mft_jax.config import TrainConfig, to_dict
from mft_jax.record.reading import passed_over_note, read_record
from mft_jax.record.schema import CONFIG_FILE, METRICS_FILE
from mft_jax.report.comparison import write_comparison
from mft_jax.run.console import open_console, sayer
from mft_jax.run.folder import read_config
from mft_jax.run.interruption import CAN_GO_ON
from mft_jax.run.processes import is_first
from mft_jax.run.task_tables import comparison_table
from mft_jax.types import MftError

EXAMPLE = "--vary=balancer.name=uniform,coba,famo"


@dataclasses.dataclass(frozen=True)
class Variation:
    name: str  # also the run's folder
    config: TrainConfig


def run(arguments: Sequence[str]) -> int:
    values = _flags(arguments)
    args.parse("compare", arguments, values)
    args.resolved(values)
    workdir = Path(args.required_flag(values, "workdir"))
    shared = [argument for argument in arguments if not argument.startswith("--vary")]
    variations = _variations(shared, values["vary"].value or [])
    console = open_console()
    say = sayer(console)
    for place, variation in enumerate(variations, start=1):
        folder = workdir / variation.name
        say(f"run {place} of {len(variations)}: {variation.name}")
        if _is_finished(folder, variation.config):
            say(f"already finished in {folder}")
            continue
        if not _train(variation, folder, console):
            return CAN_GO_ON
    if is_first():
        names = [variation.name for variation in variations]
        records = {name: read_record(workdir / name / METRICS_FILE) for name in names}
        console.print(comparison_table(records))
        for note in filter(None, map(passed_over_note, records.values())):
            say(note)
        say(f"comparison  {write_comparison(workdir, names)}")
    return 0


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    args.config_flag(values, arguments)
    flags.DEFINE_string("workdir", None, "a folder for the runs and the page", flag_values=values)
    flags.DEFINE_multi_string(
        "vary",
        None,
        f"a setting and its values, one run each, such as {EXAMPLE}; may be given again",
        flag_values=values,
    )
    return values


def _variations(shared: Sequence[str], vary: Sequence[str]) -> list[Variation]:
    """One change at a time on top of the config; all are resolved before the first run."""
    changes = []
    for text in vary:
        key, equals, several = text.partition("=")
        if not equals or not all(several.split(",")):
            raise MftError(f"--vary={text}: expected a setting and its values, such as {EXAMPLE}")
        changes += [f"{key}={value}" for value in several.split(",")]
    if not changes:
        raise MftError(f"no --vary was given; expected at least one, such as {EXAMPLE}")
    found: list[Variation] = []
    for change in changes:
        changed = [*shared, f"--config.{change}"]
        values = _flags(changed)
        args.parse("compare", changed, values)
        config = args.resolved(values)
        if "/" in change:
            raise MftError(f"--vary: {change!r} cannot name a folder; vary a setting without '/'")
        if config not in [variation.config for variation in found]:
            found.append(Variation(change, config))
    return found


def _is_finished(folder: Path, config: TrainConfig) -> bool:
    """Whether the folder holds this very run, to its end or to early stopping."""
    if not (folder / METRICS_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        return False
    end = read_record(folder / METRICS_FILE).end
    ended = end is not None and end.reason != "interrupted"
    return ended and to_dict(read_config(folder)) == to_dict(config)


def _train(variation: Variation, folder: Path, console: Console) -> bool:
    """False where the user stopped it."""
    try:
        finished = door.train(variation.config, folder, console)
    except MftError as error:
        raise MftError(f"{variation.name}: {error}") from error
    jax.clear_caches()  # the next run compiles its own step
    return finished.reason != "interrupted"
