"""Compiled plans kept by what they follow from: settings, model, topology, source, versions.

A file is written whole or not at all, and holds a checksum of its content; one that is damaged is
compiled again.
"""

import functools
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import mft_jax
from mft_jax.config import TrainConfig, to_dict
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.compiled import cache_folder
from mft_jax.run.plan_compiled import Compiled, from_json
from mft_jax.run.plan_topology import Topology

COMPILERS = ("jax", "jaxlib", "libtpu")


def cached(
    config: TrainConfig,
    base: BaseModelInfo,
    topology: Topology,
    compile_now: Callable[[TrainConfig, Topology], Compiled],
) -> tuple[Compiled, bool]:
    """The plan of a config, and whether it was kept from an earlier call."""
    if not topology.is_tpu:  # what a machine has changes; a slice does not
        return compile_now(config, topology), False
    file = cache_folder().parent / "planned" / f"{key(config, base, topology)}.json"
    if (kept := read(file)) is not None:
        return kept, True
    found = compile_now(config, topology)
    write(file, found)
    return found, False


def key(config: TrainConfig, base: BaseModelInfo, topology: Topology) -> str:
    """A checksum of all that the compiled step follows from."""
    settings = to_dict(config)
    settings["model"].pop("path")  # the model is compared by what it is
    settings["data"]["tasks"] = [task.name for task in config.data.tasks]
    versions = {n: metadata.version(n) for n in COMPILERS if importlib.util.find_spec(n)}
    parts = (settings, repr(base.model_config), repr(base.tuning), topology.name, versions)
    return _checksum(json.dumps([*parts, source_checksum()], sort_keys=True, default=str))


@functools.cache
def source_checksum() -> str:
    """A checksum of this package's source."""
    root = Path(mft_jax.__file__).parent
    files = sorted(root.rglob("*.py"))
    return _checksum("".join(f"{f.relative_to(root)}\n{f.read_text('utf-8')}" for f in files))


def read(file: Path) -> Compiled | None:
    """What a file keeps; None where there is none that can be trusted."""
    try:
        found = json.loads(file.read_text("utf-8"))
        if found["checksum"] != _checksum(json.dumps(found["compiled"], sort_keys=True)):
            return None
        return from_json(found["compiled"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(file: Path, compiled: Compiled) -> None:
    """Keep it. A folder that cannot be written is no error."""
    values = compiled.to_json()
    whole = {"checksum": _checksum(json.dumps(values, sort_keys=True)), "compiled": values}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(whole, stream)
        os.replace(name, file)
    except (OSError, RuntimeError):
        return


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
