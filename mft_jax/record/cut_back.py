"""The record of a run that is resumed: what will be written again is taken out, gaps are named."""

import itertools
import json
from pathlib import Path
from typing import Any

from mft_jax.record import schema
from mft_jax.record.files import write_whole
from mft_jax.types import MftError


def cut_back(path: Path, resume_step: int) -> list[str]:
    """Remove from the record steps that will be repeated, the end of the interrupted session, and
    an incomplete last line or the NUL bytes that a power cut leaves.

    Returns what a reader of the record must know and does not find in it yet.
    """
    if not path.is_file():
        raise MftError(
            f"{path} is missing, but its run has checkpoints; put the file back, or start again in "
            "a new --workdir"
        )
    written = path.read_bytes()
    whole = written.rstrip(b"\0")
    notes = []
    if nul_bytes := len(written) - len(whole):
        notes.append(
            f"{path.name} ended with {nul_bytes:,} NUL bytes, as a power cut leaves them; they "
            "were cut off"
        )
    records = _records(path, whole)
    kept = [(line, record) for line, record in records if not _is_repeated(record, resume_step)]
    gap = _untold_gap([record for _, record in kept], resume_step)
    notes += [gap] if gap else []
    text = b"".join(line for line, _ in kept)
    if text != written:
        write_whole(path, text.decode("utf-8"))
    return notes


def untold_gap(path: Path, step: int) -> str | None:
    """A sentence about training steps before `step` that no line of the record tells of."""
    return _untold_gap([record for _, record in _records(path, path.read_bytes())], step)


def _untold_gap(records: list[dict[str, Any]], step: int) -> str | None:
    told = {record.get("text") for record in records if record["kind"] == schema.EVENT.name}
    gap = _gap(records, step)
    return None if gap in told else gap


def _records(path: Path, written: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Every complete line, and what it holds."""
    found = []
    for number, line in enumerate(written.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            if not isinstance(record["kind"], str) or record.get("step", 0) < 0:
                raise ValueError("kind and step are not those of a line")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MftError(
                f"{path}:{number} is no record of a run ({error}); put the file back as it was "
                "written, or start again in a new --workdir"
            ) from error
        found.append((line + b"\n", record))
    return found


def _is_repeated(record: dict[str, Any], resume_step: int) -> bool:
    kind, step = record["kind"], record.get("step", 0)
    in_step = kind in (schema.TRAIN.name, schema.CONFLICTS.name)
    return kind == schema.END.name or (in_step and step >= resume_step) or step > resume_step


def _gap(records: list[dict[str, Any]], resume_step: int) -> str | None:
    """A sentence about training steps before `resume_step` that no line tells of."""
    told = {record.get("step") for record in records if record["kind"] == schema.TRAIN.name}
    missing = [step for step in range(resume_step) if step not in told]
    if not missing:
        return None
    return (
        f"the record has no line for {_ranges(missing)} (counted from 0): they were taken and are "
        "in the checkpoint, but their lines were lost, as a power cut does"
    )


def _ranges(steps: list[int]) -> str:
    """
    >>> _ranges([3, 4, 5, 9])
    'training steps 3 to 5, 9'
    """
    parts = []
    for _, group in itertools.groupby(enumerate(steps), lambda pair: pair[1] - pair[0]):
        run = [step for _, step in group]
        parts.append(f"{run[0]:,} to {run[-1]:,}" if len(run) > 1 else f"{run[0]:,}")
    return f"training step{'s' * (len(steps) > 1)} {', '.join(parts)}"
