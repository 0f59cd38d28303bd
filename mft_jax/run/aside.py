"""What a start replaces is kept: moved to `<workdir>/set_aside/<time>/`, never deleted."""

import datetime
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mft_jax.record.files import sync_folder, write_whole

FOLDER = "set_aside"
UNTOLD = "untold.json"
# Drafts of a process that was killed: of `write_whole`, of the report of version 0.1, and of
# `huggingface.output`, whose empty folder only tries whether one can be made.
DRAFT = re.compile(
    r"\.(?:config\.json|checkpoints\.json|untold\.json|metrics\.jsonl|report\.html)\.\d+\.part"
    r"|\.report\.\d+\.html|(?:config\.json|metrics\.jsonl)\.part"
)
TRIAL_FOLDER = re.compile(r"tmp\w{8}")


def time_of_day() -> str:
    """Now in UTC, as the name of a folder."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%SZ")


def set_aside(workdir: Path, time: str, names: Mapping[Path, str]) -> Path:
    """Move what is there of `names` (from -> name) into the folder of `time`, and return it.

    Nothing is overwritten: a second one of the same second gets a number.
    """
    folder = workdir / FOLDER / time
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in names.items():
        if source.exists():
            os.rename(source, _free(folder / name))
            sync_folder(source.parent)
    sync_folder(folder)
    return folder


class Untold(NamedTuple):
    """Notes about what a start moves to the folder of `time`, which the record does not have yet:
    the process may end in between."""

    time: str
    notes: tuple[str, ...]


def keep_untold(workdir: Path, untold: Untold) -> None:
    """Write the notes down until `forget_untold`."""
    if untold.notes:
        write_whole(workdir / UNTOLD, json.dumps(untold._asdict()))


def read_untold(workdir: Path) -> Untold:
    """The notes that an earlier start left, with its time; none, and now, where there are none."""
    path = workdir / UNTOLD
    if not path.exists():
        return Untold(time_of_day(), ())
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return Untold(str(read["time"]), tuple(map(str, read["notes"])))
    except (ValueError, KeyError, TypeError):
        note = f"{path} is damaged: what an earlier start noted about {FOLDER} is lost"
        return Untold(time_of_day(), (note,))


def forget_untold(workdir: Path) -> None:
    (workdir / UNTOLD).unlink(missing_ok=True)


def copy_aside(workdir: Path, time: str, source: Path) -> None:
    """As `set_aside`, where the file is also needed in its place."""
    if source.exists():
        folder = set_aside(workdir, time, {})
        shutil.copyfile(source, _free(folder / source.name))


def _free(path: Path) -> Path:
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}.{number}"), number + 1
    return free


def remove_drafts(workdir: Path) -> None:
    """Remove what a process that was killed had not finished. The caller holds the lock."""
    for path in workdir.iterdir():
        if DRAFT.fullmatch(path.name) and path.is_file():
            path.unlink()
        elif TRIAL_FOLDER.fullmatch(path.name) and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
