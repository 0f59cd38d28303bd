"""The words every room shares.

Axis legend, used in jaxtyping signatures and as capital suffixes of local names:

    A  micro-batches of one optimiser step (gradient accumulation)
    B  rows of a batch              L  positions of a row
    E  experts                      S  keys, where they may be more than the queries
    T  tasks                        N  decoder layers (stacked)
    D  model width                  F  feed-forward width
    H  query heads                  K  key/value heads        C  head width
    V  vocabulary                   R  adapter rank           G  quantisation groups
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

Params = dict[str, Any]  # weights, or adapters {"a", "b"}, by path: "layers/attention/q/kernel"


class MftError(Exception):
    """A mistake the user can mend. The message says what, where, expected, remedy."""


# Errors that code of others (a chat template, a library that reads a user's file) may raise on what
# it did not expect, too deep a recursion included.
FOREIGN_CODE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
                       TypeError, ValueError)  # fmt: skip


def suggest(name: str, known: Iterable[str], most: int = 1) -> str:
    """The part of an error text that names the known words nearest to a mistyped one.

    Empty where none is near.

    >>> suggest("qlore", ["lora", "qlora", "full"])
    "did you mean 'qlora'?"
    """
    known = list(known)
    near = [word for word in known if name and word.startswith(name)]
    near += difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    nearest = list(dict.fromkeys(near))[:most]
    return f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def at_least(room: str, settings: object, **least: float) -> None:
    """Refuse settings below their least value, by their names on the command line."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= bound:
            raise MftError(f"{room}.{name}={value} is too small; expected at least {bound}")


def above(room: str, settings: object, **bounds: float) -> None:
    """Refuse settings that are not above their bound, by their names on the command line."""
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
    """A sum and a count per task; the mean is taken once, last. Zero count means absent."""

    sum: Float[Any, " T"]
    count: Float[Any, " T"]

    def merge(self, other: TaskSums) -> TaskSums:
        return TaskSums(self.sum + other.sum, self.count + other.count)

    def present(self) -> Bool[Any, " T"]:
        return self.count > 0

    def mean(self) -> Float[Any, " T"]:
        """sum / count. NaN where a task is absent: an absent task has no loss, not loss 0."""
        return self.sum / self.count


class RouterSums(NamedTuple):
    """Over real tokens (and layers): how often each expert was chosen, the sum of its
    probabilities, and the number of tokens."""

    chosen: Float[Any, "*A E"]
    probability: Float[Any, "*A E"]
    count: Float[Any, "*A"]


@dataclasses.dataclass(frozen=True)
class TaskTable:
    """Immutable name <-> id table. The id of a task is its place in `names`."""

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
        """A setting by task name as one value per task. Without a default every task is named."""
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
        """`{name: value}`, with None for a value that is not finite (an absent task)."""
        values = [float(value) for value in values_T]
        return {n: v if np.isfinite(v) else None for n, v in zip(self.names, values, strict=True)}
