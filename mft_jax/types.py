"""Types that every room shares: batches, sums by task, the table of tasks, the user's error.

Axis legend of jaxtyping signatures and of capital suffixes of local names. A capital letter has the
same meaning everywhere; other axes are spelt out (`in`, `out`, `steps`, `segments`):

    A  micro-batches of one optimiser step (gradient accumulation)
    B  rows of a batch         L  positions of a row (queries)  S  keys, which may outnumber queries
    T  tasks                   N  decoder layers (stacked)      E  experts
    D  model width             F  feed-forward width            M  tokens sorted by expert
    H  query heads             K  key/value heads               C  head width
    V  vocabulary              R  adapter rank                  G  quantisation groups
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

Params = dict[str, Any]  # weights, or adapters {"a", "b"}, by path: "layers/attention/q/kernel"


# Characters by which text from a file could steer a terminal or reverse what is read: control
# characters but line ends and tabs, line separators, changes of direction, halves of surrogates.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with such characters spelt out, so that a terminal shows them and does not obey.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


class MftError(Exception):
    """An error that the user can mend. Its message says what is wrong and where, what was expected,
    and what to do. It may quote any file: what a terminal would obey is spelt out."""

    def __str__(self) -> str:
        return visible(super().__str__())


# Errors that foreign code (a chat template, a library that reads a user's file) raises on input it
# does not expect. RuntimeError includes too deep a recursion.
FOREIGN_CODE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
                       RuntimeError, TypeError, ValueError)  # fmt: skip


@contextlib.contextmanager
def foreign_code(fault: str, remedy: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Foreign code that reads what a user gave: its errors become an `MftError`.

    Some packages written in Rust raise a plain `Exception`, or panic, which is a class of its own
    in each of them.
    """
    try:
        yield
    except BaseException as error:
        kinds = (OSError, EOFError, *FOREIGN_CODE_ERRORS, *also)
        plain = type(error) is Exception or type(error).__name__ == "PanicException"
        if plain or isinstance(error, kinds):
            raise MftError(f"{fault} ({type(error).__name__}: {error}); {remedy}") from error
        raise


# Two slashes become one where a `pathlib.Path` was made of it; one letter is a drive.
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+")
HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[\w.-]+/[\w.-]+)/?")


def suggest(name: str, known: Iterable[str], most: int = 1) -> str:
    """The part of an error text that names the known words nearest to a mistyped one.

    Empty where none is near. The last part of a dotted name may be right, or the first letters of
    its words, where the whole is far from it.

    >>> suggest("qlore", ["lora", "qlora", "full"])
    "did you mean 'qlora'?"
    >>> suggest("optim.lr", ["optim.eps", "optim.learning_rate"])
    "did you mean 'optim.learning_rate'?"
    """
    known = list(known)
    near = [word for word in known if name and word.startswith(name)]
    room, _, last = name.rpartition(".")
    same_last = [word for word in known if last in _short_forms(word)]
    near += sorted(same_last, key=lambda word: word.rpartition(".")[0] != room)
    near += difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    nearest = list(dict.fromkeys(near))[:most]
    return f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def _short_forms(name: str) -> set[str]:
    """The last part of a dotted name, and the first letters of its words where it has several.

    >>> sorted(_short_forms("optim.learning_rate"))
    ['learning_rate', 'lr']
    """
    last = name.rpartition(".")[2]
    words = [word for word in last.split("_") if word]
    return {last} | {"".join(word[0] for word in words) for _ in words[1:]}


def check_local(where: str, path: str) -> None:
    """Raise `MftError` where a path is a URL: none is read or written, and as the name of a folder
    it would be made here. `where` is the setting or flag."""
    url = URL.match(path)
    if url is None:
        return
    remedy = "mount the bucket as a folder (gcsfuse, mountpoint-s3), or copy the files to a folder"
    if url["scheme"] == "file":
        remedy = f"write {path[url.end() - 1 :]}"
    elif model := HUB_PAGE.fullmatch(path):
        remedy = f"a model on the hub is called by its name, {model['name']}"
    raise MftError(f"{where}={path} is a URL, which is not supported; expected a path; {remedy}")


def at_least(room: str, settings: object, **least: float) -> None:
    """Raise `MftError` where a setting is below its least value; `room.name` is the setting."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= bound:
            raise MftError(f"{room}.{name}={value} is too small; expected at least {bound}")


def above(room: str, settings: object, **bounds: float) -> None:
    """Raise `MftError` where a setting is not above its bound; `room.name` is the setting."""
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and not value > bound:
            raise MftError(f"{room}.{name}={value} is too small; expected a number above {bound:g}")


class Batch(NamedTuple):
    """Packed rows. A row holds several samples (segments) of any tasks.

    One row of length 8 with a sample of task 2, a sample of task 0 and padding:

        tokens        a0 a1 a2 a3  b0 b1 b2  .
        targets       a1 a2 a3  .  b1 b2  .  .
        positions      0  1  2  3   0  1  2  0
        segment_ids    1  1  1  1   2  2  2  0
        task_ids       2  2  2  2   0  0  0  0
        loss_weights   0  1  1  0   0  1  0  0

    `targets[b, l]` is the token after `tokens[b, l]` in the same segment; where there is none (the
    last position of a segment, padding) the loss weight is 0. `segment_ids == 0` is padding.
    Leaves are NumPy arrays in the loader and JAX arrays in the step, hence `Any`; a leading axis A
    may precede B.
    """

    tokens: Int[Any, "*A B L"]
    targets: Int[Any, "*A B L"]
    positions: Int[Any, "*A B L"]
    segment_ids: Int[Any, "*A B L"]
    task_ids: Int[Any, "*A B L"]
    loss_weights: Float[Any, "*A B L"]


class TaskSums(NamedTuple):
    """The sum and the count of each task. The mean is taken once, at the end; a task whose count is
    0 is absent."""

    sum: Float[Any, " T"]
    count: Float[Any, " T"]

    def merge(self, other: TaskSums) -> TaskSums:
        return TaskSums(self.sum + other.sum, self.count + other.count)

    def present(self) -> Bool[Any, " T"]:
        return self.count > 0

    def mean(self) -> Float[Any, " T"]:
        """The mean, sum / count; NaN for an absent task, which has no loss rather than loss 0."""
        return self.sum / self.count


class RouterSums(NamedTuple):
    """Sums over real tokens (and layers): how often each expert was chosen, its probabilities, and
    the number of tokens."""

    chosen: Float[Any, "*A E"]
    probability: Float[Any, "*A E"]
    count: Float[Any, "*A"]


@dataclasses.dataclass(frozen=True)
class TaskTable:
    """The names and ids of the tasks. The id of a task is its place in `names`."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise MftError("no task is configured; expected at least one entry in `data.tasks`")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise MftError(
                f"task names must be unique, but {', '.join(map(repr, twice))} occurs more than "
                "once in `data.tasks`; rename one of them"
            )

    def __len__(self) -> int:
        return len(self.names)

    def id(self, name: str) -> int:
        return self.names.index(name)

    def values(
        self, where: str, by_name: Mapping[str, float], default: float | None = None
    ) -> tuple[float, ...]:
        """The values of a setting by task name, in the order of the ids. Without a `default` every
        task must have a value."""
        for name in by_name:
            if name not in self.names:
                hint = suggest(name, self.names) or f"expected {', '.join(self.names)}"
                raise MftError(f"{where} names a task {name!r} that is not configured; {hint}")
        missing = [name for name in self.names if name not in by_name]
        if missing and default is None:
            raise MftError(
                f"{where} has no value for {', '.join(map(repr, missing))}; expected one for every "
                "task of `data.tasks`"
            )
        values = tuple(float(by_name.get(name, default or 0.0)) for name in self.names)
        if min(values) < 0 or not 0 < sum(values) < float("inf"):
            raise MftError(
                f"{where}={dict(by_name)} must be finite, not negative, and not all zero"
            )
        return values

    def by_name(self, values_T: Sequence[float] | np.ndarray | Array) -> dict[str, float | None]:
        """The values by task name, with None for one that is not finite (an absent task)."""
        values = [float(value) for value in values_T]
        return {n: v if np.isfinite(v) else None for n, v in zip(self.names, values, strict=True)}
