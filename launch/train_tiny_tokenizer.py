"""Trains the tokenizer of `builtin:tiny`: byte-level BPE for code, 4,096 tokens.

    python launch/train_tiny_tokenizer.py --output=mft_jax/builtin/tiny

Reads the training split of the packages' source (permissive licences, dependencies of this project;
never the standard library, which is the fine-tuning data) and writes `tokenizer.json` and
`tokenizer_config.json`. Takes about a minute. A changed tokenizer needs a newly trained model.

Text is normalised (Unicode NFC) and cut into pieces before merging as Qwen2's own tokenizer does:
loaders that see a Qwen2 `config.json` put that normalizer and those pieces in place whatever
`tokenizer.json` says, and a model must see the same tokens under each of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from mft_jax.data.python_code import python_records

PACKAGES = (
    "jax,jaxlib,flax,optax,orbax,grain,datasets,numpy,etils,ml_collections,absl,tokenizers,"
    "safetensors,huggingface_hub,pyarrow,transformers"
)
VOCABULARY_SIZE = 4096
END, PAD, START = "<|endoftext|>", "<|pad|>", "<s>"

_OUTPUT = flags.DEFINE_string("output", None, "folder to write to", required=True)
_PACKAGES = flags.DEFINE_string("packages", PACKAGES, "installed packages to read")
_CHARS = flags.DEFINE_integer("max_chars_per_package", 4_000_000, "evenly spread records")


def sampled_text(packages: str, max_chars: int) -> Iterator[str]:
    """At most about `max_chars` of each package, so that no single package sets the vocabulary."""
    for package in packages.split(","):
        records = python_records(f"packages:{package}:text", "train", seed=0)
        size = sum(len(record["text"]) for record in records)
        for record in records[:: -(-size // max_chars)]:
            yield record["text"]


def train(texts: Iterator[str]) -> Tokenizer:
    qwen2 = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = qwen2.normalizer
    tokenizer.pre_tokenizer = qwen2.pre_tokenizer
    tokenizer.decoder = qwen2.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END, PAD, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main(argv: list[str]) -> None:
    del argv
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train(sampled_text(_PACKAGES.value, _CHARS.value))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "bos_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [START],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{tokenizer.get_vocab_size()} tokens in {folder}")


if __name__ == "__main__":
    app.run(main)
