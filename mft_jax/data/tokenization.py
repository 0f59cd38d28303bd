"""Tokenization of samples: flat token ids and loss weights of a whole task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from transformers import PreTrainedTokenizerFast

from mft_jax.data.encoding import build_encoder, encode
from mft_jax.data.progress import OnCount, uncounted
from mft_jax.data.samples import Sample
from mft_jax.data.settings import Overlong
from mft_jax.data.templates import chat_tokenizer, render
from mft_jax.types import MftError

SAMPLES_PER_CALL = 1024


@dataclasses.dataclass(frozen=True)
class TokenizedTask:
    """The tokens of a task; those of sample i are `tokens[offsets[i]:offsets[i + 1]]`.

    `loss_weights` are those of tokens as targets: 1 where the model must write the token, 0 where
    it only reads it, and 0 for the first token of a sample, which follows no other.
    """

    tokens: Int[np.ndarray, " total"]
    loss_weights: Float[np.ndarray, " total"]
    offsets: Int[np.ndarray, " n_plus_1"]


@dataclasses.dataclass(frozen=True)
class TaskStats:
    """Counts of the samples of one task and split, by what was done with them.

    samples         all samples given
    kept            in the rows; a sample that was split counts once for every part
    dropped         left out: longer than a row (or without a trained token before its cut)
    truncated       kept up to the end of a row
    split           cut into parts
    untrainable     left out: no token of it is trained on
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


def tokenize(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerFast,
    row_length: int,
    overlong: Overlong,
    where: str,
    on_samples: OnCount = uncounted,
) -> tuple[TokenizedTask, TaskStats]:
    """The tokens of all samples, and their counts. `where` names the samples in an error text;
    `on_samples` is told how many are done.

    Raises `MftError` where nothing is left to train on, or a sample is too long for a row and
    `overlong` is "error".
    """
    chat = chat_tokenizer(tokenizer)
    encoder = build_encoder(tokenizer, chat)
    counts = dict.fromkeys(("dropped", "truncated", "split", "untrainable"), 0)
    tokens: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for first in range(0, len(samples), SAMPLES_PER_CALL):
        on_samples(first)
        group = samples[first : first + SAMPLES_PER_CALL]
        encoded = encode([render(sample, chat) for sample in group], encoder)
        for sample, (tokens_L, weights_L) in zip(group, encoded, strict=True):
            if overlong == "error" and len(tokens_L) > row_length:
                _raise_overlong(sample.where, len(tokens_L), row_length)
            outcome, parts = fit_to_row(tokens_L, weights_L, row_length, overlong)
            if outcome != "kept":
                counts[outcome] += 1
            tokens += [part for part, _ in parts]
            weights += [part for _, part in parts]
    if not tokens:
        raise MftError(
            f"the {where} has no token to train on: of {len(samples)} sample(s) "
            f"{counts['dropped']} were dropped as longer than a row of {row_length} tokens and "
            f"{counts['untrainable']} have no trained token; "
            + _remedy(counts["dropped"], counts["untrainable"])
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


def fit_to_row(
    tokens: np.ndarray, weights: np.ndarray, row_length: int, overlong: Overlong
) -> tuple[Outcome, list[Arrays]]:
    """The outcome and parts of a sample; no part is longer than a row or without a target.

    With `split` neighbouring parts share one token: the last target of a part is the context of
    the first target of the next, so every target is trained on exactly once.
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


def _remedy(dropped: int, untrainable: int) -> str:
    """What to do where a set has nothing to train on."""
    remedies = []
    if dropped:
        remedies.append("raise data.row_length or change data.overlong")
    if untrainable or not remedies:
        remedies.append(
            "correct the data: give each sample an answer whose `weight` is not 0, or a `text` "
            "of more than one token"
        )
    return ", and ".join(remedies)


def _raise_overlong(where: str, length: int, row_length: int) -> None:
    raise MftError(
        f"{where}: the sample has {length} tokens; expected at most data.row_length = "
        f"{row_length}; shorten it, raise data.row_length or set data.overlong to drop, "
        "truncate or split"
    )
