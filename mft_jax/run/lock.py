"""The lock of a run's folder: one run at a time, and no folder that is something else."""

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mft_jax.run.aside import remove_drafts, time_of_day
from mft_jax.run.folder import check_is_run
from mft_jax.run.processes import on_first
from mft_jax.types import MftError

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.holder"
# What a file system says that has no locks, such as some network mounts.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold a run's folder.

    The first process takes the lock. The others wait, and end with it where it cannot.
    """
    with contextlib.ExitStack() as held:
        on_first(f"use {workdir}", lambda: held.enter_context(_locked(workdir)))
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    if any(sign in str(workdir.absolute()) for sign in "*?[]"):
        raise MftError(
            f"--workdir={workdir}: checkpoints in a folder with one of * ? [ ] in its path could "
            "not be read again; choose another name"
        )
    check_is_run(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MftError(
            f"--workdir={workdir} cannot be made a folder ({error.strerror}); choose another name"
        ) from error
    lock = _taken(workdir)
    holder = workdir / HOLDER_FILE
    try:
        who = {"process": os.getpid(), "machine": platform.node(), "since": time_of_day()}
        holder.write_text(json.dumps(who), "utf-8")
        remove_drafts(workdir)
        yield
    finally:
        holder.unlink(missing_ok=True)
        (workdir / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        if not any(workdir.iterdir()):
            workdir.rmdir()


def _taken(workdir: Path) -> BaseFileLock:
    """The lock, held. Where the file system has none, a file that exists while it is held."""
    lock: BaseFileLock = FileLock(workdir / LOCK_FILE)
    try:
        try:
            lock.acquire(blocking=False)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, Timeout) or getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
                raise
            lock = SoftFileLock(workdir / f"{LOCK_FILE}.soft")
            lock.acquire(blocking=False)
    except Timeout as error:
        raise MftError(
            f"another run is using {workdir} ({_holder(workdir)}); wait for it, stop it, or choose "
            "another --workdir"
        ) from error
    return lock


def _holder(workdir: Path) -> str:
    try:
        who = json.loads((workdir / HOLDER_FILE).read_bytes())
        return f"process {who['process']} on {who['machine']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which"
