"""Samples become token ids and loss weights, flat for a whole task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerFast

from mft_jax.data.encoding import build_encoder, encode
from mft_jax.data.mixture import Mixture, make_mixture
from mft_jax.data.samples import Sample
from mft_jax.data.tasks import DataConfig, load_task
from mft_jax.data.templates import chat_tokenizer, render
from mft_jax.types import MftError, TaskTable

SAMPLES_PER_CALL = 1024
Overlong = Literal["drop", "truncate", "split", "error"]


@dataclasses.dataclass(frozen=True)
class TokenizedTask:
    """Sample i is `tokens[offsets[i]:offsets[i + 1]]`.

    `loss_weights` belong to a token as a target: 1 where the model has to say it, 0 where it is
    told, and 0 for the first token of a sample, which nothing precedes.
    """

    tokens: Int[np.ndarray, " total"]
    loss_weights: Float[np.ndarray, " total"]
    offsets: Int[np.ndarray, " n_plus_1"]


@dataclasses.dataclass(frozen=True)
class TaskStats:
    """What became of the samples of one task and split.

    samples         given
    kept            in the rows; a sample that was split counts once for every part
    dropped         left out, because longer than a row (or nothing to train on before its cut)
    truncated       kept up to the end of a row
    split           cut into parts
    untrainable     left out, because no token of it is trained on
    tokens          of all samples kept
    trained_tokens  of these, targets with a loss weight
    """

    samples: int
    kept: int
    dropped: int
    truncated: int
    split: int
    untrainable: int
    tokens: int
    trained_tokens: int


@dataclasses.dataclass(frozen=True)
class TokenizedData:
    """All tasks in the order of the configuration: the place in a tuple is the task's id."""

    tasks: TaskTable
    train: tuple[TokenizedTask, ...]
    valid: tuple[TokenizedTask, ...]
    train_stats: tuple[TaskStats, ...]
    valid_stats: tuple[TaskStats, ...]


def load_data(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> TokenizedData:
    """Reads and tokenizes every task; any bad record, empty task or empty split raises."""
    table = TaskTable(tuple(task.name for task in config.tasks))
    train, valid = [], []
    for task in config.tasks:
        samples = load_task(task, config.seed)
        for results, split, part in zip(
            (train, valid), ("training", "validation"), samples, strict=True
        ):
            place = f"{split} set of task {task.name!r}"
            results.append(tokenize(part, tokenizer, config.row_length, config.overlong, place))
    train_tasks, train_stats = zip(*train, strict=True)
    valid_tasks, valid_stats = zip(*valid, strict=True)
    return TokenizedData(table, train_tasks, valid_tasks, train_stats, valid_stats)


def tokenize(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerFast,
    row_length: int,
    overlong: Overlong,
    place: str,
) -> tuple[TokenizedTask, TaskStats]:
    """`place` names the samples in an error message. Raises where nothing is left to train on."""
    form = chat_tokenizer(tokenizer)
    encoder = build_encoder(tokenizer, form)
    counts = dict.fromkeys(("dropped", "truncated", "split", "untrainable"), 0)
    tokens: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for first in range(0, len(samples), SAMPLES_PER_CALL):
        group = samples[first : first + SAMPLES_PER_CALL]
        encoded = encode([render(sample, form) for sample in group], encoder)
        for sample, (tokens_L, weights_L) in zip(group, encoded, strict=True):
            if overlong == "error" and len(tokens_L) > row_length:
                _raise_overlong(sample.where, len(tokens_L), row_length)
            outcome, parts = _fit(tokens_L, weights_L, row_length, overlong)
            if outcome != "kept":
                counts[outcome] += 1
            tokens += [part for part, _ in parts]
            weights += [part for _, part in parts]
    if not tokens:
        raise MftError(
            f"the {place} has no token to train on: of {len(samples)} sample(s) "
            f"{counts['dropped']} were dropped as longer than a row of {row_length} tokens and "
            f"{counts['untrainable']} have no trained token; raise data.row_length, change "
            "data.overlong or mend the data"
        )
    offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    task = TokenizedTask(np.concatenate(tokens), np.concatenate(weights), offsets)
    stats = TaskStats(
        samples=len(samples),
        kept=len(tokens),
        tokens=int(offsets[-1]),
        trained_tokens=int(task.loss_weights.sum()),
        **counts,
    )
    return task, stats


Outcome = Literal["kept", "dropped", "truncated", "split", "untrainable"]
Arrays = tuple[np.ndarray, np.ndarray]


def _fit(
    tokens: np.ndarray, weights: np.ndarray, row_length: int, overlong: Overlong
) -> tuple[Outcome, list[Arrays]]:
    """The parts of a sample that go into rows, none longer than a row or without a target.

    `split` lets neighbouring parts share one token: the last target of the one is the context of
    the next one's first target, so every target is trained on exactly once.
    """
    if not weights.any():
        return "untrainable", []
    if len(tokens) <= row_length:
        return "kept", [(tokens, weights)]
    if overlong == "drop":
        return "dropped", []
    if overlong == "truncate":
        part = (tokens[:row_length], weights[:row_length])
        return ("truncated", [part]) if part[1].any() else ("dropped", [])
    parts = []
    for start in range(0, len(tokens) - 1, row_length - 1):
        part_tokens = tokens[start : start + row_length]
        part_weights = weights[start : start + row_length].copy()
        part_weights[0] = 0
        if part_weights.any():
            parts.append((part_tokens, part_weights))
    return "split", parts


def _raise_overlong(where: str, length: int, row_length: int) -> None:
    raise MftError(
        f"{where}: the sample has {length} tokens; expected at most data.row_length = "
        f"{row_length}; shorten it, raise data.row_length or set data.overlong to drop, "
        "truncate or split"
    )


def task_mixture(data: TokenizedData, settings: DataConfig) -> Mixture:
    """What an epoch of the training data holds under `settings.sampling`."""
    sizes = [len(task.offsets) - 1 for task in data.train]
    sampling, temperature = settings.sampling, settings.temperature
    return make_mixture(sizes, data.tasks, sampling, temperature, settings.rates)
