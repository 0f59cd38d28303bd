"""Whether a checkpoint is as it was written: a checksum of every file, and what follows from it.

    <step>/checksums.json    {"format", "written_by", "files": {path: [bytes, xxh3]}, "xxh3"}

It is written last, when all other files are on the disk. Not covered are two notes that orbax adds
of its own when it gives the folder its name; nothing of a run is read from them.
"""

import dataclasses
import enum
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from mft_jax import __version__
from mft_jax.record.files import sync_folder
from mft_jax.types import MftError

ITEMS = ("trainable", "training", "cursor", "progress")
FILE, FORMAT = "checksums.json", 1
PROMISE = {"checksums": FORMAT}  # orbax's own note of a checkpoint says that it has a `FILE`
NOTES_FILE = "_CHECKPOINT_METADATA"
NOT_COVERED = {FILE, NOTES_FILE, "commit_success.txt"}
BUFFER_BYTES = 1 << 20  # stays in the processor's cache: read once from memory


class State(enum.Enum):
    WHOLE = "whole"
    UNPROVEN = "without checksums"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    NEWER = "of a newer version"
    OTHER = "of another configuration or version"
    UNREADABLE = "unreadable for now"


TEXTS = {
    State.WHOLE: "is as it was written: {}",
    State.UNPROVEN: "has no checksums, because an older version of mft_jax wrote it; it is used "
    "as it is",
    State.DAMAGED: "is damaged: {}",
    State.INCOMPLETE: "is incomplete: {}",
    State.NEWER: "was written by a newer version of mft_jax: {}; nothing was changed: use that "
    "version",
    State.OTHER: "is of another configuration, or of another version of mft_jax: {}; nothing was "
    "changed: resume with the settings and the version that wrote it, or use a new --workdir",
    State.UNREADABLE: "cannot be read: {}; nothing was changed, and it may be good: start again "
    "when the cause is mended, or choose another one with --checkpoint",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a look at a checkpoint's folder found; the state decides what is said and done."""

    folder: Path
    state: State
    detail: str = ""

    @property
    def text(self) -> str:
        return f"checkpoint {self.folder} {TEXTS[self.state].format(self.detail)}"

    @property
    def is_usable(self) -> bool:
        return self.state in (State.WHOLE, State.UNPROVEN)

    @property
    def is_lost(self) -> bool:
        """Whether waiting, another version or other settings cannot help."""
        return self.state in (State.DAMAGED, State.INCOMPLETE)


def write_proof(folder: Path) -> None:
    """Wait until every file of a checkpoint is on the disk, and write their checksums."""
    files = {}
    paths = sorted(folder.rglob("*"))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in NOT_COVERED:
            files[name] = list(_checksum(path, sync=True))
    body = {"format": FORMAT, "written_by": f"mft_jax {__version__}", "files": files}
    with (folder / FILE).open("w", encoding="utf-8") as file:
        json.dump({**body, "xxh3": _own_checksum(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for path in (*filter(Path.is_dir, paths), folder):
        sync_folder(path)


def examine(folder: Path, items: Sequence[str] = ITEMS) -> Verdict:
    """Read the files of `items` and compare them with their checksums."""
    try:
        return _examine(folder, items)
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        return Verdict(folder, State.UNREADABLE, what)


def _examine(folder: Path, items: Sequence[str]) -> Verdict:
    began = time.monotonic()
    missing = [item for item in items if not _is_there(folder / item)]
    if not _is_there(folder / FILE):
        if _is_promised(folder):
            missing = [FILE, *missing]
        detail = f"it has no {' and no '.join(missing)}"
        return Verdict(folder, State.INCOMPLETE if missing else State.UNPROVEN, detail)
    body, wrong = _read_proof(folder / FILE)
    if wrong:
        return Verdict(folder, State.DAMAGED, f"{FILE} {wrong}")
    if body["format"] > FORMAT:
        return Verdict(
            folder, State.NEWER, f"{body['written_by']}, checksums of format {body['format']}"
        )
    covered = {name: was for name, was in body["files"].items() if name.split("/")[0] in items}
    for name, (size, checksum) in covered.items():
        path = folder / name
        if not _is_there(path):
            return Verdict(folder, State.DAMAGED, f"{name} is missing")
        if (now := path.stat().st_size) != size:
            return Verdict(folder, State.DAMAGED, f"{name} has {now:,} bytes instead of {size:,}")
        if _checksum(path) != (size, checksum):
            return Verdict(folder, State.DAMAGED, f"the bytes of {name} are not those written")
    total, seconds = sum(size for size, _ in covered.values()), time.monotonic() - began
    return Verdict(
        folder,
        State.WHOLE,
        f"{len(covered)} files, {total / 1e6:,.1f} MB, verified in {seconds:.2f} s",
    )


def _is_there(path: Path) -> bool:
    """Raises `OSError` where that cannot be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_promised(folder: Path) -> bool:
    """Whether orbax's own note, where it can be read, says that there are checksums."""
    try:
        notes = json.loads((folder / NOTES_FILE).read_bytes())
        return notes["custom_metadata"].keys() >= PROMISE.keys()
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_proof(path: Path) -> tuple[dict[str, Any], str]:
    """What it says, and what is wrong with it."""
    try:
        body = json.loads(path.read_bytes())
        own = body.pop("xxh3")
        if own != _own_checksum(body):
            return {}, "is not as it was written"
        return body, ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, "cannot be read as what was written"


def _own_checksum(body: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(body, sort_keys=True).encode())


def _checksum(path: Path, sync: bool = False) -> tuple[int, str]:
    """(bytes, 64 bits of XXH3). With `sync` the file is on the disk afterwards."""
    size, check, buffer = 0, xxhash.xxh3_64(), memoryview(bytearray(BUFFER_BYTES))
    # Not every system syncs a file that is only read.
    with path.open("rb+" if sync else "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
            check.update(buffer[:count])
        if sync:
            os.fsync(file.fileno())
    return size, check.hexdigest()


def require(verdict: Verdict, others: Sequence[int] = ()) -> None:
    """Raise `MftError` unless the checkpoint can be used; `others` are those to choose from."""
    if verdict.is_usable:
        return
    text = verdict.text
    if verdict.is_lost:
        text += "; nothing was changed"
        if others:
            text += f": choose another one, --checkpoint={' or '.join(map(str, others))}"
    raise MftError(text)
