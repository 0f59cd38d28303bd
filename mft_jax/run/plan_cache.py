"""Compiled plans kept by what they follow from: settings, model, topology, source, versions."""

import importlib.util
import json
from collections.abc import Callable
from importlib import metadata

from mft_jax.config import TrainConfig, to_dict
from mft_jax.kept import Entry, Kept, checksum_of, checksum_of_source
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.plan_compiled import Compiled, from_json
from mft_jax.run.plan_topology import Topology

KIND = "planned"
COMPILERS = ("jax", "jaxlib", "libtpu")


def cached(
    config: TrainConfig,
    base: BaseModelInfo,
    topology: Topology,
    compile_now: Callable[[TrainConfig, Topology], Compiled],
    kept: Kept,
) -> tuple[Compiled, bool]:
    """The plan of a config, and whether it was kept from an earlier call."""
    if not topology.is_tpu:  # what a machine has changes; a slice does not
        return compile_now(config, topology), False
    name = key(config, base, topology)
    if (entry := kept.read(KIND, name)) is not None:
        return from_json(entry.facts), True
    found = compile_now(config, topology)
    kept.write(KIND, name, Entry({}, found.to_json()))
    return found, False


def key(config: TrainConfig, base: BaseModelInfo, topology: Topology) -> str:
    """A checksum of all that the compiled step follows from."""
    settings = to_dict(config)
    settings["model"].pop("path")  # the model is compared by what it is
    settings["data"]["tasks"] = [task.name for task in config.data.tasks]
    versions = {n: metadata.version(n) for n in COMPILERS if importlib.util.find_spec(n)}
    parts = (settings, repr(base.model_config), repr(base.tuning), topology.name, versions)
    return checksum_of(json.dumps(parts, sort_keys=True, default=str), checksum_of_source())
