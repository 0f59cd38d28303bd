"""Typed values out of one line of metrics.jsonl. `where` is "file:line" in every message."""

import math
import sys
from datetime import datetime
from typing import Any

import numpy as np
from jaxtyping import Float

from mft_jax.record.schema import METRICS_FILE
from mft_jax.types import MftError

Json = dict[str, Any]
LIMIT = 2**53  # up to here a float holds every whole number


def step(where: str, line: Json) -> int:
    return whole(where, line, "step")


def whole(where: str, line: Json, name: str) -> int:
    value = typed(where, line, name, int)
    if isinstance(value, bool) or not 0 <= value < LIMIT:
        raise malformed(where, f"{name} {value!r:.40}", "a whole number of 0 or more, below 2**53")
    return value


def per_task(where: str, line: Json, name: str, tasks: tuple[str, ...]) -> Float[np.ndarray, " T"]:
    values = typed(where, line, name, dict)
    if values.keys() != set(tasks):
        odd = ", ".join(sorted(map(repr, values.keys() ^ set(tasks))))
        raise malformed(where, f"{name!r} missing or unknown for {odd}", "a value for every task")
    return np.array([number(where, values, task) for task in tasks])


def number(where: str, line: Json, name: str) -> float:
    """The number under `name`; NaN for null, and for what is not finite."""
    if name not in line:
        raise malformed(where, f"no {name!r}", "a number or null under that name")
    value = line[name]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise malformed(where, f"{value!r:.80} under {name!r}", "a number or null there")
    if abs(value) > sys.float_info.max:  # infinite, or an integer that no float holds
        return math.nan
    return float(value)


def stamp(where: str, line: Json) -> datetime:
    """The time of a line."""
    text = typed(where, line, "time", str)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise malformed(where, f"time {text!r}", "an ISO 8601 time") from error


def optional_number(where: str, line: Json, name: str) -> float:
    """The number under `name`; NaN where there is none."""
    return number(where, line, name) if name in line else math.nan


def typed(where: str, line: Json, name: str, kind: type) -> Any:
    value = line.get(name)
    if not isinstance(value, kind):
        found = "nothing" if value is None else type(value).__name__
        raise malformed(where, f"{found} under {name!r}", f"a value of type {kind.__name__} there")
    return value


def malformed(where: str, found: str, expected: str) -> MftError:
    return MftError(
        f"{where}: found {found}; expected {expected}. Only `mft train` writes {METRICS_FILE}: "
        "restore the file, or delete this line"
    )
