"""Findings: what a person should know about data and settings before trusting a run's numbers.

They are computed once, from what is known before the first step. `mft data`, the start of a run,
its record and its report show the same list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mft_jax.balancers.registry import make_balancer
from mft_jax.config import TrainConfig
from mft_jax.data.duplicates import Copies, count_copies
from mft_jax.data.hub import PREFIX
from mft_jax.data.settings import TaskConfig
from mft_jax.data.sources import find_files
from mft_jax.data.splits import PYTHON_SOURCES
from mft_jax.data.tasks import TokenizedData
from mft_jax.data.tokenization import TaskStats
from mft_jax.record.schema import Finding
from mft_jax.run.epochs import EpochPlan
from mft_jax.types import TaskTable

FEW_VALID = 10  # with fewer samples a validation loss is mostly noise
SMALL_SHARE = 0.01  # of copies, and of samples that are not used whole
MANY_EPOCHS = 10.0  # of one task
MOST_STEPS = 0.5  # a task that fewer steps hold is absent from most


def find(
    config: TrainConfig, data: TokenizedData, plan: EpochPlan, max_positions: int
) -> tuple[Finding, ...]:
    """All findings, those that make a number wrong first. `config` may be settled or not."""
    found: list[Finding] = []
    copies = count_copies(data.train, data.valid)
    per_task = list(zip(config.data.tasks, copies, strict=True))
    for task, copy in per_task:
        found += _shared(task, copy, len(data.valid[data.tasks.id(task.name)].offsets) - 1)
    found += _positions(config.data.row_length, data, max_positions)
    balanced = ", and the tasks are balanced by it" * _balanced_by_validation(
        config, plan, data.tasks
    )
    for task, stats in zip(config.data.tasks, data.valid_stats, strict=True):
        if stats.kept < FEW_VALID:
            found.append(
                Finding(
                    "few_valid",
                    task.name,
                    f"{_several(stats.kept, 'validation sample')}: a loss of so few is mostly "
                    f"noise{balanced}; raise valid_fraction, or give "
                    f"valid_path at least {FEW_VALID} samples",
                )
            )
    for task, train, valid in zip(
        config.data.tasks, data.train_stats, data.valid_stats, strict=True
    ):
        found += _not_whole(task.name, train, valid, config.data.row_length)
    for task, copy in per_task:
        index = data.tasks.id(task.name)
        found += _copies(task.name, "training", copy.train, data.train_sizes[index])
        found += _copies(task.name, "validation", copy.valid, data.valid_stats[index].kept)
    return (*found, *_epochs(data, plan), *_absent(data, plan))


def _balanced_by_validation(config: TrainConfig, plan: EpochPlan, tasks: TaskTable) -> bool:
    """Whether there are weights to find, and validation samples have a say in them."""
    balancer = make_balancer(
        config.balancer, tasks, total_steps=plan.steps, valid_micro_batches=1
    )  # built only to read its `needs`, which do not depend on the length of a pass
    return len(tasks) > 1 and bool(
        balancer.needs & {"valid_losses", "post_step_valid_losses", "valid_gradients"}
    )


def _shared(task: TaskConfig, copies: Copies, num_valid: int) -> Iterator[Finding]:
    common = shared_files(task)
    if common:
        yield Finding(
            "valid_is_train",
            task.name,
            f"valid_path names what path names ({_listed(common)}): its validation loss is that "
            "of training samples; name other files, or leave valid_path out, and a part of path "
            "is split off",
        )
        return
    shared = copies.shared + copies.shared_with_others
    if shared:
        others = f" ({copies.shared_with_others:,} of them of other tasks)"
        places = "path" if task.valid_path is None else "path or valid_path"
        yield Finding(
            "shared",
            task.name,
            f"{shared:,} of {_several(num_valid, 'validation sample')} "
            f"({_percent(shared / num_valid)}) {'is' if shared == 1 else 'are'} also among the "
            f"training samples{others * bool(copies.shared_with_others)}: its validation loss is "
            f"too low by what was learnt by heart; remove the copies from {places}",
        )


def shared_files(task: TaskConfig) -> list[str]:
    """The names of files, or of the data set, that are training and validation at once."""
    if task.valid_path is None or task.path.startswith(PYTHON_SOURCES):
        return []
    if task.path == task.valid_path:
        return [Path(task.path).name]
    if task.path.startswith(PREFIX) or task.valid_path.startswith(PREFIX):
        return []  # other splits, of which only the samples tell what they share
    train, valid = (
        {file.resolve() for file in _files(path)} for path in (task.path, task.valid_path)
    )
    return sorted(file.name for file in train & valid)


def _files(path: str) -> list[Path]:
    """The files of a path; of a saved data set its folder, which is read as a whole."""
    place = Path(path).expanduser()
    if any((place / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return [place]
    return find_files(path)


def _positions(row_length: int, data: TokenizedData, max_positions: int) -> Iterator[Finding]:
    if row_length <= max_positions:
        return
    lengths = np.concatenate([np.diff(task.offsets) for task in (*data.train, *data.valid)])
    longer = int((lengths > max_positions).sum())
    text = (
        f"data.row_length={row_length} is beyond the {max_positions:,} positions that the model "
        "was trained for: "
    )
    if longer:
        text += (
            f"{longer:,} of {_several(len(lengths), 'sample')} reach beyond them (the longest "
            f"has {int(lengths.max()):,} tokens); lower it to {max_positions}"
        )
    else:
        text += "no sample is that long, and each counts from 0, so nothing is wrong yet"
    yield Finding("positions", None, text)


def _not_whole(task: str, train: TaskStats, valid: TaskStats, row_length: int) -> Iterator[Finding]:
    total = train.samples + valid.samples
    counts = {
        key: getattr(train, key) + getattr(valid, key)
        for key in ("dropped", "truncated", "split", "untrainable")
    }
    share = sum(counts.values()) / total
    if share <= SMALL_SHARE:
        return
    parts = ", ".join(f"{count:,} {key}" for key, count in counts.items() if count)
    remedies = []
    if counts["dropped"] + counts["truncated"] + counts["split"]:
        remedies.append(f"raise data.row_length (now {row_length})")
    if counts["dropped"] + counts["truncated"]:
        remedies.append("set data.overlong=split")
    if counts["untrainable"]:
        remedies.append("look at the samples without a token to learn")
    yield Finding(
        "not_whole",
        task,
        f"{_percent(share)} of {_several(total, 'sample')} are dropped or cut ({parts}); "
        f"{' or '.join(remedies)}",
    )


def _copies(task: str, split: str, copies: int, total: int) -> Iterator[Finding]:
    if copies > SMALL_SHARE * total:
        yield Finding(
            "copies",
            task,
            f"{copies:,} of {_several(total, f'{split} sample')} ({_percent(copies / total)}) "
            f"{'is a copy' if copies == 1 else 'are copies'} of an earlier one and "
            f"{'weighs' if copies == 1 else 'weigh'} as much as the others; remove what is not "
            "meant to repeat",
        )


def _epochs(data: TokenizedData, plan: EpochPlan) -> Iterator[Finding]:
    for name, epochs, size in zip(
        data.tasks.names, plan.task_epochs, plan.mixture.sizes.tolist(), strict=True
    ):
        if epochs > MANY_EPOCHS:
            yield Finding(
                "epochs",
                name,
                f"{plan.steps:,} steps are {epochs:,.0f} epochs of its {_several(size, 'sample')}, "
                "which will be learnt by heart; lower loop.steps, set loop.epochs, or lower its "
                "share by data.sampling",
            )


def _absent(data: TokenizedData, plan: EpochPlan) -> Iterator[Finding]:
    for name, presence, rows in zip(
        data.tasks.names, plan.presence, plan.rows_with_task.tolist(), strict=True
    ):
        if presence < MOST_STEPS:
            yield Finding(
                "absent",
                name,
                f"absent from {_percent(1 - presence)} of the steps: {rows:,} of the "
                f"{plan.rows_per_epoch:,} rows of an epoch hold it, and a step takes "
                f"{plan.rows_per_step:,}; raise loop.rows_per_step, or its share by data.sampling",
            )


def _several(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _percent(share: float) -> str:
    """A share in percent; one below 10 % with one decimal.

    >>> _percent(0.034), _percent(0.5), _percent(0.9999)
    ('3.4 %', '50 %', '99.99 %')
    """
    percent = 100 * float(share)
    decimals = 0 if 10 <= percent <= 99 or percent == 100 else 1 if percent < 10 else 2
    return f"{percent:.{decimals}f} %"


def _listed(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + f" and {more} more" * (more > 0)
