"""`mft report`: the page of a run, finished or still running."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mft_jax.cli import arguments as args
from mft_jax.record.reading import passed_over_note, read_record
from mft_jax.record.schema import METRICS_FILE
from mft_jax.record.verdict import verdict
from mft_jax.report.page import write_report
from mft_jax.types import visible


def run(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    args.parse("report", arguments, values)
    workdir = Path(args.required_flag(values, "workdir"))
    record = read_record(workdir / METRICS_FILE)
    if note := passed_over_note(record):
        print(visible(note), file=sys.stderr)
    print(visible(f"verdict: {verdict(record)}"), file=sys.stderr)
    print(visible(str(write_report(workdir, record))))
    return 0
