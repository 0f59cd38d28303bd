"""Where a model lies: in the package, in a folder of the user, or on the hub."""

import json
import re
import shlex
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
PICKLES = "pytorch_model*.bin"
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
    if not has_weights(folder):
        refuse_pickles(folder, PICKLES, INDEX_FILE)
    return folder


def refuse_pickles(folder: Path, pickles: str, index: str = "") -> None:
    """Raise `MftError` where `folder` has such files, with the command that converts them.

    It needs no modelling file. Tensors are copied, since pickles share memory between them, and
    safetensors files do not. `index` is written beside shards.
    """
    pickled = sorted(folder.glob(pickles))
    if not pickled:
        return
    code = f"""
import glob, json, os, safetensors.torch, torch
os.chdir({json.dumps(str(folder.absolute()), ensure_ascii=False)})
places = {{}}
for old in sorted(glob.glob("{pickles}")):
    new = old[:-3] + "safetensors"
    tensors = torch.load(old, map_location="cpu", weights_only=True)
    tensors = {{k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}}
    safetensors.torch.save_file(tensors, new, {{"format": "pt"}})
    places |= dict.fromkeys(tensors, new)
"""
    if index:
        code += f"""with open("{index}", "w") as file:
    json.dump({{"metadata": {{}}, "weight_map": places}}, file)
"""
    raise MftError(  # strings within have double quotes, for a shell's sake
        f"{folder} has its weights as {pickled[0].name}, a pickle, which is never read; convert it "
        "once, where torch is installed; this writes safetensors files beside it:"
        f"\npython -c {shlex.quote(code)}"
    )


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


def hub_name(path: str) -> str:
    """`path` if it names a model on the hub, else nothing."""
    local = path.startswith(BUILTIN_PREFIX) or Path(path).expanduser().is_dir()
    return "" if local else path
