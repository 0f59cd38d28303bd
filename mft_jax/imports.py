"""How long a door imported its modules, the first part of every start. It imports nothing."""

import contextlib
import time
from collections.abc import Iterator

_seconds = 0.0


@contextlib.contextmanager
def timed() -> Iterator[None]:
    global _seconds
    began = time.monotonic()
    try:
        yield
    finally:
        _seconds += time.monotonic() - began


def taken() -> float:
    """Seconds of imports since this was last asked: a second call in a notebook imports nothing."""
    global _seconds
    seconds, _seconds = _seconds, 0.0
    return seconds
