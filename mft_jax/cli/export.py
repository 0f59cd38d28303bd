"""`mft export`: a trained run as a PEFT adapter or as a merged Hugging Face model."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from mft_jax import door
from mft_jax.cli import arguments as args
from mft_jax.run.console import open_console
from mft_jax.run.export import FORMATS


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    flags.DEFINE_enum(
        "format",
        None,
        FORMATS,
        "peft: the adapter; merged: the original weights plus the adapter; merged_dequantized: the "
        "quantised weights that it was trained on, made dense, plus the adapter",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "the folder to make", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", "best", "which step: best (lowest validation ratio), last, or a number",
        flag_values=values,
    )  # fmt: skip
    args.parse("export", arguments, values)
    workdir = Path(args.required_flag(values, "workdir"))
    output = Path(args.required_flag(values, "output"))
    kind = args.required_flag(values, "format")
    which = args.required_flag(values, "checkpoint")
    export(workdir, output, kind, which, open_console())
    return 0


def export(workdir: Path, output: Path, kind: str, which: str, console: Console) -> None:
    door.export(workdir, format=kind, output=output, checkpoint=which, console=console)
