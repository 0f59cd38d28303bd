"""A plan: a config on a topology, compiled, with what a step costs and how long it may take."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mft_jax.balancers.registry import make_balancer
from mft_jax.config import TrainConfig
from mft_jax.kept import Kept
from mft_jax.run import plan_cache
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.plan_chips import TPUS, Chip, local_chip
from mft_jax.run.plan_compiled import GIB, Compiled
from mft_jax.run.plan_flops import Work, step_work
from mft_jax.run.plan_step import stated_tasks
from mft_jax.run.plan_times import Speed, Times, speed, step_times
from mft_jax.run.plan_topology import Topology
from mft_jax.sharding import MeshConfig
from mft_jax.types import MftError

Compile = Callable[[TrainConfig, Topology], Compiled]


@dataclasses.dataclass(frozen=True)
class Plan:
    """`kept`: whether what the compiler said was known from an earlier plan."""

    config: TrainConfig
    base: BaseModelInfo
    topology: Topology
    chip: Chip
    compiled: Compiled
    kept: bool
    work: Work
    times: Times
    speed: Speed
    tokens_per_sample: int

    @property
    def headroom(self) -> float:
        """Bytes of a device that are left; less than 0 where the step does not fit."""
        return self.compiled.limit - self.compiled.memory


def make_plan(
    config: TrainConfig,
    base: BaseModelInfo,
    topology: Topology,
    tokens_per_sample: int,
    compile_now: Compile,
    entries: Kept,
) -> Plan:
    """Compile the config's step, or find it among the `entries`, and count what it costs.
    `config.mesh` has its sizes (`with_mesh_sizes`). Raises `MftError`."""
    compiled, kept = plan_cache.cached(config, base, topology, compile_now, entries)
    chip = chip_of(topology, compiled)
    model = dataclasses.replace(config.model, remat=compiled.remat)
    config = dataclasses.replace(config, model=model)
    work = work_of(config, base, tokens_per_sample)
    times = step_times(config, base, work, compiled, chip)
    fast = speed(config, work, times, compiled.num_devices, chip)
    found = (chip, compiled, kept, work, times, fast, tokens_per_sample)
    return Plan(config, base, topology, *found)


def chip_of(topology: Topology, seen: Compiled | None) -> Chip:
    """What is known of the topology's devices; those of this machine must have been `seen`."""
    if topology.is_tpu or seen is None:
        return TPUS[topology.kind]
    return local_chip(seen.device_kind, seen.limit / GIB)


def work_of(config: TrainConfig, base: BaseModelInfo, tokens_per_sample: int) -> Work:
    tasks = stated_tasks(config)
    settings = config.balancer, tasks.table
    balancer = make_balancer(*settings, total_steps=config.loop.steps, valid_micro_batches=1)
    return step_work(config, base, balancer, tokens_per_sample)


def with_mesh_sizes(config: TrainConfig, num_devices: int, where: str) -> TrainConfig:
    """The config with all sizes of its mesh as numbers. Raises `MftError` where they do not fit the
    number of devices; `where` is the topology."""
    sizes = dataclasses.asdict(config.mesh)
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and fixed > 0 and num_devices % fixed == 0:
        sizes[free[0]] = num_devices // fixed
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != num_devices:
        shown = " x ".join(
            f"{axis}={size}" for axis, size in dataclasses.asdict(config.mesh).items()
        )
        raise MftError(
            f"mesh {shown} does not fit {where}, which has {num_devices} devices; expected sizes "
            f"whose product is {num_devices} (one of them may be -1), such as "
            f"--config.mesh.data=1 --config.mesh.fsdp={num_devices} --config.mesh.tensor=1"
        )
    return dataclasses.replace(config, mesh=MeshConfig(**sizes))


def absent_mesh(mesh_config: MeshConfig) -> Mesh:
    """A mesh of these sizes for shapes and shardings alone: all its devices are the same one."""
    sizes: dict[str, Any] = dataclasses.asdict(mesh_config)
    return Mesh(np.full(tuple(sizes.values()), jax.devices()[0]), tuple(sizes))
