"""What a run says when it has ended: the verdict, time and memory, and what to do next."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from mft_jax.record.columns import RunRecord
from mft_jax.record.reading import read_record
from mft_jax.record.schema import METRICS_FILE
from mft_jax.record.verdict import no_better_note, verdict
from mft_jax.run.console import duration
from mft_jax.types import MftError


def ending(
    record: RunRecord,
    workdir: Path,
    files: Sequence[str],
    adapter_step: int | None,
    seconds: float,
) -> str:
    """The lines under the last table.

    files         lines that say where everything is
    adapter_step  the step whose adapter has been written, if one has
    seconds       what this session took from its start
    """
    judged = verdict(record)
    lines = [f"verdict     {judged}"]
    if judged.advice:
        lines.append(f"advice      {judged.advice}")
    lines += [*_costs(record, seconds), *files]
    note = None if adapter_step is None else no_better_note(record, adapter_step)
    if note:
        lines.append(f"note        the adapter is no improvement: {note}")
    elif judged.finished and judged.better_than_base:
        folder = _from_here(workdir)
        export = f"mft export --workdir={shlex.quote(str(folder))} --format=merged"
        output = f"--output={shlex.quote(str(folder / 'merged'))}"
        lines.append(f"next        {export} \\\n{' ' * 14}{output}")
    return "\n".join(lines)


def _from_here(folder: Path) -> Path:
    """The folder as it is called from the current one, where it lies in it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _costs(record: RunRecord, seconds: float) -> list[str]:
    if record.end is None:
        return [f"time        {duration(seconds)}"]
    sessions = f" in {record.resumes + 1} sessions" * bool(record.resumes)
    steps = f"{duration(record.end.seconds)} of steps and validation{sessions}"
    lines = [f"time        {duration(seconds)} since the start; {steps}"]
    peaks = {"host": record.end.peak_host_bytes, "device": record.end.peak_device_bytes}
    known = [f"{name} {decimal(round(n))}" for name, n in peaks.items() if not math.isnan(n)]
    if known:
        lines.append(f"memory      {', '.join(known)} at most")
    return lines


def what_is_handed_out(workdir: Path, step: int) -> str | None:
    """What must be said where the checkpoint of `step` is exported; None: nothing."""
    path = workdir / METRICS_FILE
    try:
        return no_better_note(read_record(path), step)
    except MftError as error:  # an export does not need the record
        return f"whether step {step} is better than the model before training is unknown: {error}"
