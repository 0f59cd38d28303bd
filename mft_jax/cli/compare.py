"""`mft compare`: one run for every variation of a config, and one page with all of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from mft_jax import door
from mft_jax.cli import arguments as args
from mft_jax.config import TrainConfig, to_dict
from mft_jax.report.comparison import final_ratios, write_comparison
from mft_jax.report.record import read_record
from mft_jax.run.console import open_console
from mft_jax.run.folder import read_config
from mft_jax.run.processes import is_first
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
    for place, variation in enumerate(variations, start=1):
        folder = workdir / variation.name
        console.print(f"run {place} of {len(variations)}: {variation.name}", highlight=False)
        if _is_finished(folder, variation.config):
            console.print(f"already finished in {folder}", highlight=False)
            continue
        if not _train(variation, folder, console):
            return 0
    if is_first():
        names = [variation.name for variation in variations]
        console.print(_table(workdir, names))
        console.print(f"comparison  {write_comparison(workdir, names)}", highlight=False)
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
    if not (folder / "metrics.jsonl").is_file() or not (folder / "config.json").is_file():
        return False
    end = read_record(folder / "metrics.jsonl").end
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


def _table(workdir: Path, names: Sequence[str]) -> Table:
    table = Table(title="validation loss ratio after training", title_justify="left")
    table.add_column("run", overflow="fold")
    records = {name: read_record(workdir / name / "metrics.jsonl") for name in names}
    for column in ("mean", "worst", *next(iter(records.values())).header.tasks):
        table.add_column(column, justify="right")
    for name, record in records.items():
        ratios = final_ratios(record)
        cells = [sum(ratios) / len(ratios), max(ratios), *ratios]
        table.add_row(name, *(f"{cell:.3f}" for cell in cells))
    return table
