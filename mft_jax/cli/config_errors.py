"""Errors of a config file, which is a program of the user's, by file and line."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from mft_jax.config import EARLIER, TrainConfig
from mft_jax.settings import settings
from mft_jax.types import MftError

OTHER_KIND = re.compile(
    r"Could not override field '(\w+)' .*<class '[\w.]+'> and cannot be casted to type "
    r"<class '(\w+)'>",
    re.DOTALL,
)


@contextlib.contextmanager
def located(path: str) -> Iterator[None]:
    """What the config file at `path` raises inside, as an `MftError` with its line.

    Errors that did not come from that file pass unchanged.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MftError):
        raise
    except BaseException as error:
        found = _origin(error, path)
        if found is not None:
            line, origin = found
            raise MftError(f"{path}:{line}: {_words(origin)}; correct the config") from error
        raise


def check_loaded(config: object, path: str) -> None:
    """Raise what loading the file at `path` could not raise itself."""
    # ml_collections keeps an OSError until the first use, in an object of its own.
    kept = getattr(config, "_error", None)
    if isinstance(kept, OSError):
        raise kept
    if config is None:
        raise MftError(f"{path}: get_config() returns nothing; expected `return config` at its end")


def _origin(error: BaseException, path: str) -> tuple[int, BaseException] | None:
    """The line of the file that raised the error first, and that first error: libraries wrap it."""
    found, seen = None, set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        frames = traceback.extract_tb(step.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(path)]
        if lines and lines[-1] is not None:
            found = lines[-1], step
        step = step.__cause__ or step.__context__
    return found


def _words(error: BaseException) -> str:
    if match := OTHER_KIND.match(str(error)):
        name, kind = match.groups()
        if name == "tasks":
            return 'data.tasks must be a list, such as [{"name": ..., "path": ...}, ...]'
        known = [s for s in settings(TrainConfig) if s.name.rpartition(".")[2] == name]
        if len(known) != 1:
            return f"{name} must be of type {kind}"
        words = EARLIER.get(known[0].name, {})
        hint = "".join(f"; {old.title()} is now {new!r}" for old, new in words.items())
        return f"{known[0].name} must be of type {kind}{hint}"
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
