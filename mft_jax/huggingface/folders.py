"""Where a model lies: in the package, in a folder of the user, or on the hub."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

import mft_jax
from mft_jax.huggingface.tensors import INDEX_FILE, SINGLE_FILE
from mft_jax.types import MftError

BUILTIN_PREFIX = "builtin:"
DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"]


def model_folder(path: str) -> Path:
    """The folder behind `builtin:NAME`, a local path, or a name on the hub. It has a config.json;
    weights may be absent (training from scratch), but not in the pickle format alone."""
    if path.startswith(BUILTIN_PREFIX):
        shelf = Path(mft_jax.__file__).parent / "builtin"
        folder = shelf / path.removeprefix(BUILTIN_PREFIX)
        if not (folder / "config.json").is_file():
            names = sorted(p.parent.name for p in shelf.glob("*/config.json"))
            known = ", ".join(f"{BUILTIN_PREFIX}{name}" for name in names)
            raise MftError(f"no model is called {path!r}; the package holds {known}")
        return folder
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _downloaded(path)
    if not (folder / "config.json").is_file():
        raise MftError(f"{folder} has no config.json; expected a Hugging Face model folder")
    pickled = sorted(folder.glob("*.bin"))
    if pickled and not has_weights(folder):
        code = (
            f"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{folder}', "
            f"dtype='auto').save_pretrained('{folder}-safetensors')"
        )
        raise MftError(
            f"{folder} has its weights as {pickled[0].name}, a pickle, which is never read; "
            f'convert it once, where torch is installed (python -c "{code}"), copy the '
            "tokenizer's files beside the result, and give the new folder"
        )
    return folder


def _downloaded(name: str) -> Path:
    """A model of the hub, from its cache or over the network; never its code or pickles."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise MftError(
            f"model.path={name!r}: there is no such folder, and it is no name on the hub "
            "(organisation/model) either"
        )
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=DOWNLOADED, ignore_patterns=["consolidated*"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MftError(
            f"model.path={name!r}: there is no such folder, and the hub cannot be asked for it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); where there is a network, "
            f"fetch it (hf download {name} --local-dir FOLDER), and give that folder"
        ) from error


def has_weights(folder: Path) -> bool:
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()
