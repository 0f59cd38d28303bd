"""The tokenizer of a model folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from mft_jax.huggingface.tensors import read_json
from mft_jax.types import MftError, foreign_code

FILE = "tokenizer.json"
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer, with an end token and a padding token.

    It is read from tokenizer.json: the classes that AutoTokenizer chooses by `tokenizer_class` and
    config.json replace the file's normaliser and pre-tokeniser, and even tokens, by other ones.

    `vocab_size` is the number of rows of the embedding. A tokenizer without a padding token pads
    with its end token (`pad_token_id == eos_token_id`): padding carries no loss either way.
    """
    settings = [folder / name for name in SETTINGS_FILES if (folder / name).is_file()]
    contents = {file.name: read_json(file) for file in settings}
    if not (folder / FILE).is_file():
        raise MftError(
            f"{folder} has no {FILE}: only fast tokenizers are read; {_remedy(contents)}"
        )
    read_json(folder / FILE)  # its error names the line
    with foreign_code(
        f"{folder}: the tokenizer cannot be loaded from {FILE}",
        "correct that file, or download the tokenizer again",
    ):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    if tokenizer.eos_token_id is None:
        raise MftError(
            f"{folder}: the tokenizer has no end token, so answers would never stop; set "
            "eos_token in tokenizer_config.json"
        )
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise MftError(
            f"{folder}: the tokenizer knows {len(tokenizer)} tokens, the last with id {largest}, "
            f"but the embedding has {vocab_size} rows; {FILE} belongs to another model"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _remedy(settings: Mapping[str, Mapping[str, Any]]) -> str:
    if "auto_map" in settings.get("tokenizer_config.json", {}):
        return (
            "this one is a program (auto_map in tokenizer_config.json), which is never run; put "
            f"the {FILE} of a published conversion of the same model into the folder, and replace "
            "tokenizer_config.json by that of the conversion"
        )
    return (
        "convert it once (AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of "
        "transformers, with sentencepiece and protobuf where there is a tokenizer.model)"
    )
