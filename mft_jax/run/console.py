"""Output of a run: one line at a time, and a bar while bytes are read.

Functions of a run take `say` and `progress`, not a console; their caller decides where it goes.
"""

import contextlib
import io
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment

from mft_jax.run.processes import is_first
from mft_jax.types import visible

Say = Callable[[str], None]
OnBytes = Callable[[int, int], None]  # bytes read, bytes in all
ReadProgress = Callable[[str], AbstractContextManager[OnBytes]]  # by the name of what is read


class VisibleConsole(Console):
    """A console that spells out what a terminal would obey: text may come from any file, and only
    the console's own control codes reach the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def open_console() -> Console:
    """A console that prints on the first process; on the others nothing is shown."""
    if is_first():
        return VisibleConsole(
            markup=False,
            highlight=False,
            force_jupyter=False,
            force_terminal=is_terminal(sys.stdout),
        )
    return Console(file=io.StringIO(), quiet=True)


def is_terminal(stream: Any) -> bool:
    """Whether `stream` can draw over what it has shown. A notebook's says so, but it adds lines."""
    return stream.isatty() and not type(stream).__module__.startswith("ipykernel")


def sayer(console: Console) -> Say:
    """`say(line)`: one line, as it is."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return say


def read_progress(console: Console) -> ReadProgress:
    """A bar over bytes, with their rate and the time left; then what the reading took."""

    @contextlib.contextmanager
    def reading(name: str) -> Iterator[OnBytes]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        read, began = [0], time.monotonic()
        hidden = not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task(f"loading {name}", total=None)

            def on_bytes(done: int, total: int) -> None:
                read[0] = total
                bar.update(task, completed=done, total=total)

            yield on_bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sayer(console)(
            f"read {decimal(read[0])} of {name} in {time.monotonic() - began:.1f} s; the process "
            f"has used {decimal(peak)} of host memory at most"
        )

    return reading


def quiet(line: str) -> None:
    """A `say` that shows nothing."""


@contextlib.contextmanager
def no_progress(name: str) -> Iterator[OnBytes]:
    """A `ReadProgress` that shows nothing."""
    yield lambda done, total: None
