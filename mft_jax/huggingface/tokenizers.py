"""The tokenizer of a model folder."""

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mft_jax.huggingface.tensors import read_json
from mft_jax.types import MftError


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer, with an end token and a padding token.

    `vocab_size` is the number of rows of the embedding. A tokenizer without padding token pads
    with its end token (`pad_token_id == eos_token_id`): padding carries no loss either way.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MftError(
            f"{folder} has no tokenizer.json: only fast tokenizers are read; convert it once "
            "(AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers)"
        )
    read_json(file)  # the tokenizers package reports damage with a bare Exception
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise MftError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise MftError(f"{folder}: {type(tokenizer).__name__} is not a fast tokenizer")
    if tokenizer.eos_token_id is None:
        raise MftError(
            f"{folder}: the tokenizer has no end token, so answers would never stop; set "
            "eos_token in tokenizer_config.json"
        )
    if len(tokenizer) > vocab_size:
        raise MftError(
            f"{folder}: the tokenizer knows {len(tokenizer)} tokens, but the embedding has "
            f"{vocab_size} rows; tokenizer.json belongs to another model"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
