"""How far the reading and tokenizing of all tasks has come, for whoever shows it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from mft_jax.data.settings import TaskConfig
from mft_jax.data.sources import find_files
from mft_jax.types import MftError

Item = TypeVar("Item")
OnCount = Callable[[int], None]  # records or samples that are done
RECORDS_PER_CALL = 1024


@dataclasses.dataclass(frozen=True)
class Work:
    """The work on the tasks up to now.

    name      of the task at `place` (from 1) among `tasks`
    total     samples to tokenize; None while records are read
    fraction  of all work, by the sizes of the tasks' files
    """

    name: str
    place: int
    tasks: int
    doing: Literal["reading", "tokenizing"]
    done: int
    total: int | None
    fraction: float


OnWork = Callable[[Work], None]


def unseen(work: Work) -> None:
    """An `OnWork` that shows nothing."""


def uncounted(done: int) -> None:
    """An `OnCount` that shows nothing."""


class TaskWork:
    """The work on one task: `read` and `tokenized` are told what has been done."""

    def __init__(self, tasks: Sequence[TaskConfig], place: int, sizes: Sequence[float], on: OnWork):
        self.name, self.place, self.tasks, self.on = tasks[place].name, place + 1, len(tasks), on
        whole = sum(sizes)
        self.before, self.share = sum(sizes[:place]) / whole, sizes[place] / whole

    def read(self, done: int) -> None:
        self._tell("reading", done, None, 0.0)

    def tokenized(self, total: int, before: int = 0) -> OnCount:
        """For a part of the task's `total` samples that comes after `before` others."""
        return functools.partial(self._tokenized, total, before)

    def _tokenized(self, total: int, before: int, done: int) -> None:
        self._tell("tokenizing", before + done, total, (before + done) / total)

    def _tell(
        self, doing: Literal["reading", "tokenizing"], done: int, total: int | None, part: float
    ) -> None:
        fraction = self.before + self.share * part
        self.on(Work(self.name, self.place, self.tasks, doing, done, total, fraction))


def task_sizes(tasks: Sequence[TaskConfig]) -> list[float]:
    """The bytes of every task's training files; of one without files, the mean of the others."""
    known = [_size(task.path) for task in tasks]
    sizes = [size for size in known if size]
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    return [size or mean for size in known]


def _size(path: str) -> float | None:
    try:
        return float(sum(file.stat().st_size for file in find_files(path)))
    except (MftError, OSError):  # the reading itself says what is wrong with it, if anything is
        return None


def counted(items: Iterable[Item], on_count: OnCount) -> Iterator[Item]:
    """The items; their number is told from time to time."""
    for number, item in enumerate(items):
        if number % RECORDS_PER_CALL == 0:
            on_count(number)
        yield item
