"""What a run has saved, told by the names in its folder: without orbax, which would make them."""

import json
from pathlib import Path

from mft_jax.record.files import write_whole

FOLDER = "checkpoints"
NEWEST_FILE = "checkpoints.json"


def steps_in(workdir: Path) -> list[int]:
    """The steps with a checkpoint, rising."""
    names = (step.name for step in (workdir / FOLDER).glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


def has_checkpoint(workdir: Path) -> bool:
    return bool(steps_in(workdir))


def note_newest(workdir: Path, step: int | None) -> None:
    """Keep which checkpoint is the newest; None: nothing has been saved yet."""
    write_whole(workdir / NEWEST_FILE, json.dumps({"newest_step": step}) + "\n")


def newest_noted(workdir: Path) -> int | None:
    """The newest that was saved; 0: nothing was; None: not known, as in runs of version 0.1."""
    try:
        return json.loads((workdir / NEWEST_FILE).read_bytes())["newest_step"] or 0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
