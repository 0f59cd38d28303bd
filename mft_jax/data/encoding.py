"""Encoding of pieces of text as token ids, exactly as a tokenizer would encode the whole text.

Only two things differ. A special token that is spelt out inside a plain piece stays plain text. And
no token crosses the border between what the model reads and what it writes.

Plain pieces are encoded one by one, but not all in the same way: some tokenizers (Llama 2, Mistral)
put a space before a text, and which pieces get it depends on their position in the whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mft_jax.data.templates import ChatTokenizer, Piece
from mft_jax.types import MftError

PiecePosition = Literal["first", "after_special", "continuing"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder of pieces: `plain[position]` encodes a plain piece at that position."""

    special_ids: dict[str, int]
    plain: dict[PiecePosition, Tokenizer]


def build_encoder(tokenizer: PreTrainedTokenizerFast, chat: ChatTokenizer) -> Encoder:
    """The encoder of a tokenizer.

    Raises `MftError` where a special token's text, read as plain text, still becomes that token.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    never = json.dumps(_without_space_before(spec))
    plain: dict[PiecePosition, Tokenizer] = {
        "first": Tokenizer.from_str(json.dumps(spec)),
        "after_special": Tokenizer.from_str(never if _first_only(spec) else json.dumps(spec)),
        "continuing": Tokenizer.from_str(never),
    }
    special_ids: dict[str, int] = {}
    for backend in plain.values():
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
    for text in chat.special_tokens:
        token_id = tokenizer.convert_tokens_to_ids(text)
        assert isinstance(token_id, int)
        special_ids[text] = token_id
        if token_id in plain["continuing"].encode(text, add_special_tokens=False).ids:
            raise MftError(
                f"the tokenizer {tokenizer.name_or_path!r} reads {text!r} as a special token even "
                "in plain text, so data could end an answer by spelling it out; expected a token "
                "that is marked as special in tokenizer.json; mark it there"
            )
    return Encoder(special_ids, plain)


def encode(
    samples: Sequence[Sequence[Piece]], encoder: Encoder
) -> list[tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """The token ids of every sample, and the loss weight of each id as a target."""
    texts: dict[PiecePosition, list[str]] = {position: [] for position in encoder.plain}
    for pieces in samples:
        for position, piece in _positions(pieces):
            if not piece.special:
                texts[position].append(piece.text)
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
    """The same tokenizer (the JSON of tokenizer.json), but it never puts a space before a text."""
    normalizers = [part for part in _parts(spec["normalizer"]) if part["type"] != "Prepend"]
    pre_tokenizers = []
    for part in _parts(spec["pre_tokenizer"]):
        changes = {"prepend_scheme": "never", "add_prefix_space": False}
        pre_tokenizers.append({**part, **{k: v for k, v in changes.items() if k in part}})
    return {
        **spec,
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
