"""Encoding of pieces of text as token ids, exactly as a tokenizer would encode the whole text.

Only two things differ. A special token that is spelt out inside a plain piece stays plain text. And
no token crosses the border between what the model reads and what it writes.

Plain pieces are encoded one by one, but not all in the same way: some tokenizers (Llama 2, Mistral)
put a space before a text, and which pieces get it depends on their position in the whole.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mft_jax.data.templates import ChatTokenizer, Piece
from mft_jax.types import MftError, foreign_code

TOKENIZER_FAILS = (
    "the tokenizer fails on plain text",
    "expected one that encodes any text; mend its tokenizer.json, or download it again",
)
PiecePosition = Literal["first", "after_special", "continuing"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder of pieces: `plain[position]` encodes a plain piece at that position."""

    special_ids: dict[str, int]
    plain: dict[PiecePosition, Tokenizer]


class Stages(NamedTuple):
    """What a tokenizer does to a text before its model reads it; None: nothing."""

    normalizer: Any
    pre_tokenizer: Any


def build_encoder(tokenizer: PreTrainedTokenizerFast, chat: ChatTokenizer) -> Encoder:
    """The encoder of a tokenizer. It shares the tokenizer's vocabulary: nothing is parsed again.

    Raises `MftError` where a special token's text, read as plain text, still becomes that token.
    """
    plain = _plain(tokenizer.backend_tokenizer)
    special_ids: dict[str, int] = {}
    for text in chat.special_tokens:
        token_id = tokenizer.convert_tokens_to_ids(text)
        assert isinstance(token_id, int)
        special_ids[text] = token_id
        with foreign_code(*TOKENIZER_FAILS):
            spelt_out = plain["continuing"].encode(text, add_special_tokens=False).ids
        if token_id in spelt_out:
            raise MftError(
                f"the tokenizer {tokenizer.name_or_path!r} reads {text!r} as a special token even "
                "in plain text, so data could end an answer by spelling it out; expected a token "
                "that is marked as special in tokenizer.json; mark it there"
            )
    return Encoder(special_ids, plain)


def _plain(backend: Tokenizer) -> dict[PiecePosition, Tokenizer]:
    as_given = Stages(backend.normalizer, backend.pre_tokenizer)
    spec = {"normalizer": _spec(as_given[0]), "pre_tokenizer": _spec(as_given[1])}
    never = _stages(_without_space_before(spec))
    stages: dict[PiecePosition, Stages] = {
        "first": as_given,
        "after_special": never if _first_only(spec) else as_given,
        "continuing": never,
    }
    return {position: _with_stages(backend, given) for position, given in stages.items()}


def _with_stages(backend: Tokenizer, stages: Stages) -> Tokenizer:
    """A tokenizer with the same model and added tokens, but with other stages before the model. It
    reads special tokens as plain text."""
    other = Tokenizer(backend.model)  # shares it
    if stages.normalizer is not None:
        other.normalizer = stages.normalizer
    if stages.pre_tokenizer is not None:
        other.pre_tokenizer = stages.pre_tokenizer
    # In the order of their ids, and after the normalizer, which some of them are matched through.
    given = sorted(backend.get_added_tokens_decoder().items())
    tokens = (token for _, token in given)
    for special, run in itertools.groupby(tokens, key=lambda token: token.special):
        (other.add_special_tokens if special else other.add_tokens)(list(run))
    numbered = {(number, token.content) for number, token in given}
    found = {(number, token.content) for number, token in other.get_added_tokens_decoder().items()}
    if found != numbered:
        changed = ", ".join(f"{text!r} ({number})" for number, text in sorted(numbered - found)[:5])
        raise MftError(
            f"the ids of added tokens in tokenizer.json do not follow one another: {changed}; "
            "expected ids that begin after the vocabulary, without a gap; correct them there"
        )
    other.encode_special_tokens = True
    return other


def _spec(stage: Any) -> dict[str, Any] | None:
    """The JSON of a stage, as tokenizer.json has it."""
    return None if stage is None else json.loads(stage.__getstate__())


def _stages(spec: dict[str, Any]) -> Stages:
    """The stages that such JSON describes."""
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    parsed = Tokenizer.from_str(json.dumps({**empty, **spec}))
    return Stages(parsed.normalizer, parsed.pre_tokenizer)


def encode(
    samples: Sequence[Sequence[Piece]], encoder: Encoder
) -> list[tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """The token ids of every sample, and the loss weight of each id as a target."""
    texts: dict[PiecePosition, list[str]] = {position: [] for position in encoder.plain}
    for pieces in samples:
        for position, piece in _positions(pieces):
            if not piece.special:
                texts[position].append(piece.text)
    with foreign_code(*TOKENIZER_FAILS):
        encoded = {
            position: iter(backend.encode_batch_fast(texts[position], add_special_tokens=False))
            for position, backend in encoder.plain.items()
        }
    results = []
    for pieces in samples:
        tokens: list[int] = []
        weights: list[float] = []
        for position, piece in _positions(pieces):
            if piece.special:
                ids = [encoder.special_ids[piece.text]]
            else:
                ids = next(encoded[position]).ids
            tokens += ids
            weights += [float(piece.trained)] * len(ids)
        weights[:1] = [0.0] * len(weights[:1])
        results.append((np.array(tokens, np.int32), np.array(weights, np.float32)))
    return results


def _positions(pieces: Sequence[Piece]) -> Iterable[tuple[PiecePosition, Piece]]:
    position: PiecePosition = "first"
    for piece in pieces:
        yield position, piece
        position = "after_special" if piece.special else "continuing"


def _first_only(spec: dict[str, Any]) -> bool:
    return any(part.get("prepend_scheme") == "first" for part in _parts(spec["pre_tokenizer"]))


def _without_space_before(spec: dict[str, Any]) -> dict[str, Any]:
    """The same stages (as JSON), but they never put a space before a text."""
    normalizers = [part for part in _parts(spec["normalizer"]) if part["type"] != "Prepend"]
    pre_tokenizers = []
    for part in _parts(spec["pre_tokenizer"]):
        changes = {"prepend_scheme": "never", "add_prefix_space": False}
        pre_tokenizers.append({**part, **{k: v for k, v in changes.items() if k in part}})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
    }


def _parts(stage: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be absent, one step or a sequence."""
    if stage is None:
        return []
    if stage["type"] != "Sequence":
        return [stage]
    steps = stage.get("normalizers", stage.get("pretokenizers", []))
    return [part for step in steps for part in _parts(step)]
