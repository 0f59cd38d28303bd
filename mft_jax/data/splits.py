"""Splits: the training and the validation samples of a task, from its records."""

import zlib
from collections.abc import Iterable
from typing import Literal

import numpy as np

from mft_jax.data.progress import OnCount, counted, uncounted
from mft_jax.data.python_code import python_records
from mft_jax.data.samples import Sample, check_columns, to_sample
from mft_jax.data.settings import TaskConfig
from mft_jax.data.sources import SourceRecord, read_records
from mft_jax.types import MftError

PYTHON_SOURCES = ("stdlib:", "packages:")


def load_splits(
    task: TaskConfig, seed: int, on_records: OnCount = uncounted
) -> tuple[list[Sample], list[Sample]]:
    """The (train, valid) samples of a task, the same and in the same order for equal arguments.

    `on_records` is told the number of records read of each of its sources.
    """
    _check_numbers(task)
    if task.path.startswith(PYTHON_SOURCES):
        if task.valid_path is not None:
            raise MftError(
                f"task {task.name!r} has valid_path={task.valid_path!r}, but its source "
                f"{task.path!r} has its own validation split; remove valid_path"
            )
        train = _samples(_python_source(task.path, "train", seed), task, on_records)
        valid = _samples(_python_source(task.path, "valid", seed), task, on_records)
    elif task.valid_path is not None:
        train = _samples(read_records(task.path), task, on_records)
        valid = _samples(read_records(task.valid_path), task, on_records)
    else:
        train, valid = _split(_samples(read_records(task.path), task, on_records), task, seed)
    if not train:
        raise MftError(
            f"task {task.name!r} is empty: {task.path} holds no record; expected at least one; "
            "fill it, or remove the task from `data.tasks`"
        )
    if not valid:
        raise MftError(
            f"task {task.name!r} has no validation record in {task.valid_path or task.path}; "
            "expected at least one, since tasks are balanced by their validation loss; add "
            "records, or set `valid_path` to a file with records"
        )
    train = _subset(train, task.max_samples, _rng(seed, task.name, "train"))
    return train, _subset(valid, task.max_valid_samples, _rng(seed, task.name, "valid"))


def _check_numbers(task: TaskConfig) -> None:
    if not task.name.strip() or not task.name.isprintable():
        raise MftError(f"task name {task.name!r} is not one printable line; choose another name")
    if not task.path.strip():
        raise MftError(
            f"task {task.name!r} has an empty path; expected a file, folder or glob; set it"
        )
    if not 0 < task.valid_fraction < 1:
        raise MftError(
            f"task {task.name!r} has valid_fraction={task.valid_fraction}; expected a number "
            "between 0 and 1, both excluded; set it to one such as 0.05"
        )
    check_columns(task.columns, f"task {task.name!r}")
    for key in ("max_samples", "max_valid_samples"):
        value = getattr(task, key)
        if value is not None and value < 1:
            raise MftError(
                f"task {task.name!r} has {key}={value}; expected at least 1, or none for all"
            )


def _python_source(
    spec: str, split: Literal["train", "valid"], seed: int
) -> Iterable[SourceRecord]:
    for number, data in enumerate(python_records(spec, split, seed), start=1):
        yield SourceRecord(dict(data), f"{spec} ({split}) record {number}")


def _rng(seed: int, name: str, purpose: str) -> np.random.Generator:
    # crc32, because Python's hash of a string differs from process to process.
    return np.random.default_rng([seed, zlib.crc32(f"{name}/{purpose}".encode())])


def _split(samples: list[Sample], task: TaskConfig, seed: int) -> tuple[list[Sample], list[Sample]]:
    if len(samples) == 1:
        raise MftError(
            f"task {task.name!r} has one record in {task.path}, which cannot be split; expected "
            "at least two; add records or set `valid_path`"
        )
    num_valid = min(max(1, round(len(samples) * task.valid_fraction)), len(samples) - 1)
    order = _rng(seed, task.name, "split").permutation(len(samples))
    return (
        [samples[i] for i in sorted(order[num_valid:])],
        [samples[i] for i in sorted(order[:num_valid])],
    )


def _subset(samples: list[Sample], limit: int | None, rng: np.random.Generator) -> list[Sample]:
    if limit is None or limit >= len(samples):
        return samples
    return [samples[i] for i in sorted(rng.permutation(len(samples))[:limit])]


def _samples(
    records: Iterable[SourceRecord], task: TaskConfig, on_records: OnCount
) -> list[Sample]:
    return [to_sample(record, task.columns) for record in counted(records, on_records)]
