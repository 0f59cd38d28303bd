"""The devices of a plan: those of a TPU slice that need not be there, of this machine, or CPUs."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from mft_jax.run.plan_chips import TPUS, Chip, local_chip
from mft_jax.types import MftError, suggest

LOCAL, CPU = "local", "cpu"
EXAMPLES = "v5e:4x4, v6e:1x1, v5p:2x2x2, cpu:8 or local"
# libtpu compiles for a slice without a TPU, and without asking the cloud what this machine is.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`kind` v5e with `shape` (4, 4) is the slice v5e:4x4; cpu:8 are simulated devices; local is
    what this machine has."""

    kind: str
    shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}" if self.shape else self.kind

    @property
    def is_tpu(self) -> bool:
        return self.kind in TPUS

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment before it imports JAX."""
        if self.kind == LOCAL:
            return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if self.is_tpu:
            known = {key: value for key, value in LIBTPU.items() if value}
            return {"JAX_PLATFORMS": CPU, **known}
        # The last of equal flags decides.
        count = f"--xla_force_host_platform_device_count={self.shape[0]}"
        return {"JAX_PLATFORMS": CPU, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}"}

    @property
    def num_devices(self) -> int:
        """The number of devices; 0 where only the machine knows (`local`)."""
        chips = math.prod(self.shape) if self.shape else 0
        return chips * TPUS[self.kind].per_chip if self.is_tpu else chips

    def devices(self) -> list[Any]:
        """Its devices, in a process with its `environment`. Raises `MftError`."""
        if self.kind == LOCAL:
            return jax.devices()
        if self.kind == CPU:
            return jax.devices(CPU)[: self.shape[0]]
        return self._slice()

    def _slice(self) -> list[Any]:
        chip, options = TPUS[self.kind], {}
        if math.prod(self.shape) == 1:  # a part of a host
            options["chips_per_host_bounds"] = (1, 1, 1)
        if chip.cores_per_device > 1:
            options["chip_config_name"] = "megacore"
        try:
            return list(topologies.get_topology_desc(self.name, "tpu", **options).devices)
        except (RuntimeError, ValueError) as error:
            raise MftError(
                f"--topology={self.name}: the compiler knows no such slice "
                f"({str(error).splitlines()[0][:200]}); expected a shape such as "
                f"{', '.join(chip.shapes[:6])}"
            ) from error

    def chip(self, device: Any) -> Chip:
        """What is known of a device."""
        if self.is_tpu:
            return TPUS[self.kind]
        stats = (device.memory_stats() or {}) if self.kind == LOCAL else {}
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # Simulated devices share the memory of the host.
        share = host / (self.num_devices or 1) if device.platform == CPU else 0
        limit = stats.get("bytes_limit") or share
        return local_chip(device.device_kind, limit / 2**30)


def parse(name: str) -> Topology:
    """The topology of `--topology=name`. Raises `MftError`.

    >>> parse("v5e:4x4").num_devices, parse("cpu:8").num_devices, parse("tpu7x:2x2x1").num_devices
    (16, 8, 8)
    """
    if name == LOCAL:
        return Topology(LOCAL)
    kind, _, sizes = name.partition(":")
    if kind not in TPUS and kind != CPU:
        raise MftError(f"--topology={name}: unknown; {_nearest(name)}")
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", sizes):
        raise MftError(f"--topology={name}: no shape after the colon; {_nearest(name)}")
    shape = tuple(map(int, sizes.split("x")))
    axes = TPUS[kind].axes if kind in TPUS else 1
    if len(shape) != axes:
        raise MftError(f"--topology={name}: {kind} has {axes} axes; {_nearest(name)}")
    if kind in TPUS and importlib.util.find_spec("libtpu") is None:
        raise MftError(
            f"--topology={name} needs the TPU's compiler, libtpu, which is not installed; install "
            "the extra: pip install -e '.[tpu]' (no TPU is needed)"
        )
    return Topology(kind, shape)


def _nearest(name: str) -> str:
    """The topologies nearest to a mistyped one; those of `v5e-16` are those with as many chips.

    >>> _nearest("v5e-16")
    "did you mean 'v5e:4x4'?"
    """
    known = [f"{kind}:{shape}" for kind, chip in TPUS.items() for shape in chip.shapes]
    kind, _, count = name.replace("litepod", "e").partition("-")
    if kind in TPUS and count.isdigit():
        chips = {n: math.prod(map(int, n.partition(":")[2].split("x"))) for n in known}
        same = [n for n in known if n.startswith(f"{kind}:") and chips[n] == int(count)]
        if same:
            return suggest(same[0], same)
    return suggest(name, [*known, LOCAL, f"{CPU}:8"], most=3) or f"expected one such as {EXAMPLES}"
