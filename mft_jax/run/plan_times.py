"""How long a step takes: bounds from the speeds of a chip, and the compiler's own estimate."""

import dataclasses
import math

from mft_jax.config import TrainConfig
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.plan_chips import Chip
from mft_jax.run.plan_compiled import Compiled
from mft_jax.run.plan_flops import Work
from mft_jax.run.plan_step import FROZEN

PASSES = 3  # over the weights: forward, again in the backward pass, dX
TWICE = "all-reduce"  # every byte goes out and comes back


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step; NaN where a speed is not known.

    compute       all products at the chip's peak
    memory        the least traffic of weights and activations at its bandwidth
    links_most    all that is exchanged over one link in one direction
    links_least   the same over all links of a chip in both directions
    compiler      the cycles that the compiler estimates
    """

    compute: float
    memory: float
    links_most: float
    links_least: float
    compiler: float

    @property
    def least(self) -> float:
        """Everything overlaps."""
        return max(self.compute, self.memory, self.links_least)

    @property
    def most(self) -> float:
        """Nothing overlaps, or the compiler's estimate where that is more."""
        apart = self.compute + self.memory + self.links_most
        return max(apart, self.compiler) if math.isfinite(self.compiler) else apart


def step_times(
    config: TrainConfig, base: BaseModelInfo, work: Work, compiled: Compiled, chip: Chip
) -> Times:
    devices, moved = compiled.num_devices, exchanged(compiled)
    traffic = least_traffic(config, base, compiled.parts, compiled.num_devices)
    links = chip.link_gbs * chip.links
    return Times(
        compute=_seconds(work.total / devices, chip.tflops * 1e12),
        memory=_seconds(traffic, chip.memory_gbs * 1e9),
        links_most=_seconds(moved, chip.link_gbs * 1e9),
        links_least=_seconds(moved, links * 1e9),
        compiler=_seconds(compiled.cycles, chip.clock_ghz * 1e9) if compiled.cycles else math.nan,
    )


def _seconds(amount: float, speed: float) -> float:
    """0 of nothing, and NaN where the speed is not known."""
    return amount / speed if speed else (math.nan if amount else 0.0)


def exchanged(compiled: Compiled) -> float:
    """Bytes that a device sends in a step."""
    return sum(one.bytes * (2 if one.kind == TWICE else 1) for one in compiled.collectives)


def least_traffic(
    config: TrainConfig, base: BaseModelInfo, parts: dict[str, int], devices: int
) -> float:
    """Bytes that a device reads and writes at least: the weights of its layers whole in every pass
    and micro-batch, inputs and outputs of every product once in each, and what is trained."""
    tensor = config.mesh.tensor
    spread = devices // tensor
    loop, width = config.loop, 2 if config.model.compute_dtype == "bfloat16" else 4
    frozen = parts.get(FROZEN, 0) * config.mesh.fsdp
    tokens = loop.rows_per_step * config.data.row_length / spread
    features = sum(
        math.prod(info.stack) * sum(info.product_widths)
        for info in base.infos.values()
        if info.kind == "matrix"
    )
    trained = sum(size for name, size in parts.items() if name != FROZEN)
    activations = tokens * features * width / tensor
    return PASSES * (loop.micro_batches * frozen + activations) + 3 * trained


@dataclasses.dataclass(frozen=True)
class Speed:
    """Positions per second, and the share of the peak that useful products have: least, most."""

    tokens: tuple[float, float]
    mfu: tuple[float, float]


def speed(config: TrainConfig, work: Work, times: Times, devices: int, chip: Chip) -> Speed:
    positions = config.loop.rows_per_step * config.data.row_length
    peak = devices * chip.tflops * 1e12
    slow, fast = times.most, times.least
    return Speed(
        (_seconds(positions, slow), _seconds(positions, fast)),
        (_seconds(work.useful, peak * slow), _seconds(work.useful, peak * fast)),
    )
