"""The folder of a model: in the package, one of the user, or downloaded from the hub."""

import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
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
NAME_ON_HUB = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")  # codellama/CodeLlama-7b-hf, gpt2
PICKLES = "pytorch_model*.bin"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"]


def model_folder(path: str) -> Path:
    """The folder of `builtin:NAME`, of a local path, or of a name on the hub. It has a config.json;
    weights may be absent (training from scratch), but pickles are refused as the only weights."""
    if path.startswith(BUILTIN_PREFIX):
        builtin = Path(mft_jax.__file__).parent / "builtin"
        folder = builtin / path.removeprefix(BUILTIN_PREFIX)
        if not (folder / "config.json").is_file():
            names = sorted(p.parent.name for p in builtin.glob("*/config.json"))
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


def config_folder(path: str) -> Path:
    """`model_folder` for what needs config.json alone: nothing else is downloaded or asked for."""
    folder = Path(path).expanduser()
    if path.startswith(BUILTIN_PREFIX) or not (folder.is_dir() or HUB_NAME.fullmatch(path)):
        return model_folder(path)
    if not folder.is_dir():
        with _download(path):
            return Path(huggingface_hub.hf_hub_download(path, "config.json")).parent
    if not (folder / "config.json").is_file():
        raise MftError(f"{folder} has no config.json; expected a Hugging Face model folder")
    return folder


def refuse_pickles(folder: Path, pickles: str, index: str = "") -> None:
    """Raise `MftError` if `folder` has such files, with the command that converts them.

    The command runs no modelling code. It copies the tensors, which may share memory in pickles,
    but not in safetensors files. It writes `index` next to shards.
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
    raise MftError(  # inner strings have double quotes: the shell quotes the code with single ones
        f"{folder} has its weights as {pickled[0].name}, a pickle, which is never read; convert it "
        "once, where torch is installed; this writes safetensors files next to it:"
        f"\npython -c {shlex.quote(code)}"
    )


def _downloaded(name: str) -> Path:
    """The folder of a model from the hub's cache or the network, without its code and pickles."""
    if not HUB_NAME.fullmatch(name):
        raise MftError(
            f"model.path={name!r}: there is no such folder, and it is not a name on the hub; "
            "expected a folder, organisation/model or builtin:NAME; correct the path"
        )
    with _download(name):
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=DOWNLOADED, ignore_patterns=["consolidated*"]
            )
        )


@contextlib.contextmanager
def _download(name: str) -> Iterator[None]:
    """Errors of a download of `name` as an `MftError`."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MftError(
            f"model.path={name!r}: there is no such folder, and downloading it failed "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); where there is a network, "
            f"fetch it (hf download {name} --local-dir FOLDER), and name that folder"
        ) from error


def has_weights(folder: Path) -> bool:
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


def own_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files in the folder that the names or patterns mean, sorted; absent ones are left out.

    Raises `MftError` for a link that leads out of it: what lies there is not part of the model. The
    hub's cache, where a folder is made of links to its neighbour `blobs`, counts as inside.
    """
    found = {file for pattern in patterns for file in folder.glob(pattern)}
    files = sorted(file for file in found if file.is_file())
    root = folder.resolve()
    inside = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for file in files:
        target = file.resolve()
        if not any(target.is_relative_to(place) for place in inside):
            raise MftError(
                f"{file} is a link to {target}, outside of the model's folder, and is not copied; "
                "expected a file; if it belongs to the model, put a copy in the link's place"
            )
    return files


def hub_name(path: str) -> str:
    """The `path` if it names a model on the hub, else an empty string."""
    is_name = NAME_ON_HUB.fullmatch(path) is not None
    return path if is_name and not Path(path).expanduser().is_dir() else ""
