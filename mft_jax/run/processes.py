"""The processes of a run: the first one writes, all make the same collective calls in one order.

Record, lock, console, report and configuration belong to the first process. Checkpoints, adapters
and everything that runs on the mesh are called by all. With one process nothing here waits.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mft_jax.types import MftError

Value = TypeVar("Value")


def is_first() -> bool:
    """Whether this process writes."""
    return jax.process_index() == 0


def on_first(what: str, call: Callable[[], Value]) -> Value | None:
    """The first process's `call()`; the others wait for it and get None.

    All must call it. An error of the first is raised there as it is, and on the others as an
    `MftError` that says `what` failed: no process waits for one that has ended.
    """
    value: Value | None = None
    done = False
    try:
        if is_first():
            value = call()
        done = True
    finally:
        agreed = _all_done(done)
    if not agreed:
        raise MftError(f"the first process could not {what}; its message says why")
    return value


def of_first(number: int) -> int:
    """The first process's `number`, on every process. All must call it."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number, np.int32)))


def _all_done(done: bool) -> bool:
    if jax.process_count() == 1:
        return done
    return bool(np.all(multihost_utils.process_allgather(np.asarray(done))))


def on_any(flag: bool) -> bool:
    """Whether `flag` is set on any process. All must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def check_equal(what: str, checksum: int) -> None:
    """Raise `MftError` on every process where one has another `checksum` (crc32) than the first."""
    if jax.process_count() == 1:
        return
    sums = multihost_utils.process_allgather(np.asarray(checksum, np.uint32)).tolist()
    others = [index for index, other in enumerate(sums) if other != sums[0]]
    if others:
        raise MftError(
            f"{what} differs between the processes of this run: {others} of {len(sums)} have "
            "another than process 0; start all with the same command, code and data"
        )
