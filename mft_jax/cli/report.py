"""`mft report`: the page of a run, finished or still running."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mft_jax.cli import arguments as args
from mft_jax.report.page import write_report


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    args.parse("report", arguments, values)
    print(write_report(Path(args.required_flag(values, "workdir"))))
    return 0
