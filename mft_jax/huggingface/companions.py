"""The files beside exported weights that say how to talk to the model: the tokenizer's with its
chat template, the tokens that end an answer, and a model card.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from mft_jax.huggingface.folders import own_files
from mft_jax.huggingface.tensors import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
GENERATION_FILE = "generation_config.json"
CARD_FILE = "README.md"
TOKEN_SETTINGS = ("bos_token_id", "pad_token_id")


@dataclasses.dataclass(frozen=True)
class Companions:
    """What an export needs to know to write them.

    base_folder    where the tokenizer comes from
    end_token      the tokenizer's
    chat_template  Jinja, for a tokenizer that has none; empty: it has one
    stop_ids       the tokens at which an answer ends, beside those that the base names
    card           the text of README.md
    """

    base_folder: Path
    end_token: str = ""
    chat_template: str = ""
    stop_ids: tuple[int, ...] = ()
    card: str = ""

    def check(self) -> None:
        """Raise `MftError` where a file of the tokenizer is a link that leads out of its folder."""
        own_files(self.base_folder, TOKENIZER_FILES)

    def write(self, folder: Path) -> None:
        for file in own_files(self.base_folder, TOKENIZER_FILES):
            shutil.copyfile(file, folder / file.name)
        if self.chat_template:
            self._add_template(folder / "tokenizer_config.json")
        _write_json(folder / GENERATION_FILE, self._generation())
        if self.card:
            (folder / CARD_FILE).write_text(self.card, "utf-8")

    def _add_template(self, file: Path) -> None:
        settings = read_json(file) if file.is_file() else {}
        # Without a class of its own transformers would choose one by the model, which may split
        # text in another way than tokenizer.json does; and it would make inputs that no decoder
        # takes (token_type_ids).
        defaults = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "eos_token": self.end_token,
        }
        # The older place of a template, which every reader knows.
        _write_json(file, {**defaults, **settings, "chat_template": self.chat_template})

    def _generation(self) -> dict[str, Any]:
        """The base's generation settings; a tuned model also stops where its template's answers
        end. Without a file of the base transformers takes these from config.json."""
        file, hf_config = self.base_folder / GENERATION_FILE, self.base_folder / "config.json"
        base = read_json(hf_config)
        settings = read_json(file) if file.is_file() else _tokens(base)
        known = settings.get("eos_token_id", base.get("eos_token_id"))
        known = known if isinstance(known, list) else [known] * (known is not None)
        if missing := [i for i in self.stop_ids if i not in known]:
            settings["eos_token_id"] = [*known, *missing]
        return settings


def _tokens(hf_config: dict[str, Any]) -> dict[str, Any]:
    names = (*TOKEN_SETTINGS, "eos_token_id")
    return {name: hf_config[name] for name in names if hf_config.get(name) is not None}


def _write_json(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
