"""Text files that appear whole or not at all, and are on the disk once they count."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mft_jax.types import MftError

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space on the device; over the user's quota
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of folders on some network file systems


def write_whole(path: Path, text: str) -> Path:
    """Replace `path` by `text` (UTF-8) in one move; whoever reads it sees the old or the new text,
    also after a power cut.

    Where writing fails, the old file stays and no draft is left behind. Returns `path`.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with full_disk_named(path):
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return path


def sync_file(path: Path) -> None:
    """Wait until what a file holds is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    if os.name == "nt":  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Raise a full disk as an `MftError` that names the file and the space."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise MftError(full_disk(path)) from error


def full_disk(path: Path) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path} could not be written: the disk is full, or your quota is used up ({free:,} bytes "
        "are free there); make room and start again: what was saved before is whole"
    )
