"""Tokens of a task kept between starts, by what they follow from: the bytes of its files, the
tokenizer, the settings that matter, and the code that makes tokens of records.

Everything that is said or counted while records are read is kept beside their tokens, so a second
reading says the same. What raises an error is not kept, and raises it again.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from mft_jax.data import hub
from mft_jax.data.python_code import python_source_files
from mft_jax.data.settings import DataConfig, TaskConfig
from mft_jax.data.sources import dataset_files, find_files
from mft_jax.data.splits import PYTHON_SOURCES
from mft_jax.data.tokenization import TaskStats, TokenizedTask
from mft_jax.kept import Entry, Kept, checksum_of, checksum_of_files
from mft_jax.types import MftError

KIND = "tokens"
SPLITS = ("train", "valid")
PARTS = ("tokens", "loss_weights", "offsets")
PACKAGES = ("tokenizers", "transformers", "jinja2", "pyarrow", "datasets", "numpy")
# A template may ask for the date, by which tokens differ from day to day.
CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)|strftime_now is (?:not )?defined""")


@dataclasses.dataclass(frozen=True)
class ReadTask:
    """What the records of a task became, and what they were taken for."""

    train: tuple[TokenizedTask, TaskStats]
    valid: tuple[TokenizedTask, TaskStats]
    read_as: str


@dataclasses.dataclass(frozen=True)
class TaskSource:
    """The files of a task: their key, and the state that they were in when it was taken."""

    key: str
    files: tuple[tuple[str, Path], ...]
    state: tuple[tuple[int, int], ...]

    @property
    def is_as_it_was(self) -> bool:
        """Whether no file has changed since: what was read in between belongs to the key."""
        return _state(self.files) == self.state


def task_source(
    task: TaskConfig, data_config: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> TaskSource | None:
    """The key of a task's tokens; None where nothing tells in advance what they follow from."""
    made_by = tokenizer_text(tokenizer)
    paths = [task.path] if task.valid_path is None else [task.path, task.valid_path]
    if made_by is None or any(path.startswith(hub.PREFIX) for path in paths):
        return None
    try:
        of_paths = [tuple(_files(path)) for path in paths]
        files = tuple(file for found in of_paths for file in found)
        state = _state(files)
        content = _content(files) if _is_python(task.path) else checksum_of_files(files)
    except (MftError, OSError):  # the reading itself says what is wrong
        return None
    spec = task.path if _is_python(task.path) else ""
    told = dataclasses.asdict(task) | {"path": spec, "valid_path": [len(f) for f in of_paths]}
    settings = [told, data_config.seed, data_config.row_length, data_config.overlong]
    parts = content, made_by, json.dumps(settings, sort_keys=True), code_version()
    return TaskSource(checksum_of(*parts), files, state)


def tokenizer_text(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """All of a tokenizer that tokens follow from, with what its template would be told of the time;
    None where the template draws at random, or asks for the time in a way that is not known."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template)
    if re.search("strftime_now|random", CLOCK.sub("", text)):
        return None
    now = [datetime.datetime.now().strftime(m[2]) for m in CLOCK.finditer(text) if m[2] is not None]
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return json.dumps([tokenizer.backend_tokenizer.to_str(), text, special, now])


@functools.cache
def code_version() -> str:
    """The code that makes tokens of records: this package's, Python's, and the libraries'."""
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("*.py")), folder.parent / "types.py"]
    ours = checksum_of_files((file.name, file) for file in files)
    theirs = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    return checksum_of(ours, sys.version, *theirs)


def read_kept(kept: Kept, key: str) -> ReadTask | None:
    """The task as it was read before; None where it is not kept."""
    entry = kept.read(KIND, key)
    if entry is None:
        return None
    splits = []
    for split in SPLITS:
        tokenized = TokenizedTask(*(entry.arrays[f"{split}.{part}"] for part in PARTS))
        splits.append((tokenized, TaskStats(**entry.facts[split])))
    train, valid = splits
    return ReadTask(train, valid, entry.facts["read_as"])


def keep(kept: Kept, source: TaskSource, read: ReadTask) -> None:
    """Keep a task that was read, unless its files have changed in the meantime."""
    try:
        if not source.is_as_it_was:
            return
    except OSError:
        return
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"read_as": read.read_as}
    for split, (tokenized, stats) in zip(SPLITS, (read.train, read.valid), strict=True):
        arrays |= {f"{split}.{part}": getattr(tokenized, part) for part in PARTS}
        facts[split] = dataclasses.asdict(stats)
    kept.write(KIND, source.key, Entry(arrays, facts))


def _is_python(path: str) -> bool:
    return path.startswith(PYTHON_SOURCES)


def _files(path: str) -> Iterable[tuple[str, Path]]:
    """Names and places of the files that are read. Names decide on order and format."""
    if _is_python(path):
        return python_source_files(path)
    whole = dataset_files(Path(path))
    if whole:
        return [(file.relative_to(path).as_posix(), file) for file in whole]
    return [(file.name, file) for file in find_files(path)]


def _state(files: Iterable[tuple[str, Path]]) -> tuple[tuple[int, int], ...]:
    states = (path.stat() for _, path in files)
    return tuple((state.st_size, state.st_mtime_ns) for state in states)


# The tasks of the standard library read the same files.
_content = functools.lru_cache(maxsize=8)(checksum_of_files)
