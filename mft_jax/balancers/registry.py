"""Balancers by name: the one table of them, and the settings that follow from it.

A new balancer is a file with a factory (and a settings class, the only place of its defaults), and
one line in `BALANCERS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from mft_jax.balancers.aligned_mtl import aligned_mtl
from mft_jax.balancers.base import Balancer, LossSignal, RunFacts
from mft_jax.balancers.cagrad import CagradConfig, cagrad
from mft_jax.balancers.coba import CobaConfig, coba
from mft_jax.balancers.dualproj import dualproj
from mft_jax.balancers.dwa import DwaConfig, dwa
from mft_jax.balancers.fairgrad import FairgradConfig, fairgrad
from mft_jax.balancers.famo import FamoConfig, famo, famo_valid
from mft_jax.balancers.geometric import geometric, scale_invariant
from mft_jax.balancers.gradnorm import GradnormConfig, gradnorm
from mft_jax.balancers.gradvac import GradvacConfig, gradvac
from mft_jax.balancers.imtl_g import imtl_g
from mft_jax.balancers.imtl_l import ImtlLConfig, imtl_l
from mft_jax.balancers.lbtw import LbtwConfig, lbtw
from mft_jax.balancers.metaweighting import MetaweightingConfig, metaweighting
from mft_jax.balancers.mgda import mgda
from mft_jax.balancers.nash_mtl import nash_mtl
from mft_jax.balancers.pcgrad import pcgrad
from mft_jax.balancers.regulate import regulate
from mft_jax.balancers.rlw import rlw
from mft_jax.balancers.self_paced import SelfPacedConfig, self_paced
from mft_jax.balancers.static import StaticConfig, static
from mft_jax.balancers.uncertainty import UncertaintyConfig, uncertainty
from mft_jax.balancers.uniform import uniform
from mft_jax.balancers.upgrad import upgrad
from mft_jax.types import MftError, TaskTable, at_least


class Entry(NamedTuple):
    """One balancer: `factory(settings, run)`, with settings of class `config` (None: it has none).

    Balancers with one settings class share one section of the configuration, under the name of the
    first of them. `reads_signal`: whether the factory reads `run.signal`.
    """

    factory: Callable[[Any, RunFacts], Balancer]
    config: type | None = None
    reads_signal: bool = False


BALANCERS: dict[str, Entry] = {
    "uniform": Entry(uniform),
    "static": Entry(static, StaticConfig),
    "rlw": Entry(rlw),
    "coba": Entry(coba, CobaConfig),
    "self_paced": Entry(self_paced, SelfPacedConfig),
    "lbtw": Entry(lbtw, LbtwConfig, reads_signal=True),
    "dwa": Entry(dwa, DwaConfig),
    "uncertainty": Entry(uncertainty, UncertaintyConfig),
    "imtl_l": Entry(imtl_l, ImtlLConfig),
    "geometric": Entry(geometric),
    "scale_invariant": Entry(scale_invariant),
    "famo": Entry(famo, FamoConfig, reads_signal=True),
    "famo_valid": Entry(famo_valid, FamoConfig),
    "gradnorm": Entry(gradnorm, GradnormConfig, reads_signal=True),
    "mgda": Entry(mgda),
    "pcgrad": Entry(pcgrad),
    "gradvac": Entry(gradvac, GradvacConfig),
    "imtl_g": Entry(imtl_g),
    "cagrad": Entry(cagrad, CagradConfig),
    "aligned_mtl": Entry(aligned_mtl),
    "upgrad": Entry(upgrad),
    "dualproj": Entry(dualproj),
    "fairgrad": Entry(fairgrad, FairgradConfig),
    "nash_mtl": Entry(nash_mtl),
    "metaweighting": Entry(metaweighting, MetaweightingConfig),
}


def sections(table: Mapping[str, Entry]) -> dict[str, type]:
    """Settings classes by section: the name of the first balancer that reads the class."""
    first: dict[type, str] = {}
    for name, entry in table.items():
        if entry.config is not None:
            first.setdefault(entry.config, name)
    return {name: config for config, name in first.items()}


@dataclasses.dataclass(frozen=True)
class SharedSettings:
    """The settings that hold for every balancer; see `BalancerConfig`."""

    name: str = "coba"
    signal: LossSignal = "train"
    warmup_steps: int = 0
    ema_decay: float = 0.0
    min_weight: float = 0.0
    max_task_gradients_gib: float = 8.0

    def __post_init__(self) -> None:
        at_least("balancer", self, warmup_steps=0, ema_decay=0, min_weight=0)
        if not self.ema_decay < 1:
            raise MftError(
                f"balancer.ema_decay={self.ema_decay} is too large; expected a number below 1"
            )
        readers = sorted(name for name, entry in BALANCERS.items() if entry.reads_signal)
        if self.signal == "valid" and self.name not in readers:
            raise MftError(
                f"balancer.signal='valid' is read by {', '.join(readers)}, not by "
                f"{self.name!r}; remove it or choose one of them"
            )


# `name` is one of the table, and every settings class of the table has its section. (`Any`, because
# a type checker cannot follow a class that is made of a table.)
_Schema: Any = dataclasses.make_dataclass(
    "_Schema",
    [
        ("name", Literal[tuple(BALANCERS)], SharedSettings.name),  # pyright: ignore
        *((name, config, config()) for name, config in sections(BALANCERS).items()),
    ],
    bases=(SharedSettings,),
    frozen=True,
)


class BalancerConfig(_Schema):
    """The weights of the tasks.

    name                    the method, see docs/balancing.md
    signal                  losses that famo, gradnorm and lbtw follow: of the training batch or of
                            the validation micro-batch
    warmup_steps            optimiser steps with equal weights at the start
    ema_decay               share of the old weight in an exponential moving average; 0: none
    min_weight              least weight of a task; weights sum to 1
    max_task_gradients_gib  memory, over all devices, that gradients of all tasks may take before a
                            balancer that needs them is refused
    """


def make_balancer(
    balancer_config: BalancerConfig,
    tasks: TaskTable,
    *,
    total_steps: int,
    valid_micro_batches: int,
) -> Balancer:
    """The regulated balancer of `balancer_config.name`. No array is made, so it may be built only
    to read its `needs`.

    `valid_micro_batches` is M, the length of a pass over the validation data. Raises `MftError`
    for settings that do not fit the tasks.

    >>> tasks = TaskTable(("completion", "translation"))
    >>> config = BalancerConfig(name="famo")
    >>> balancer = make_balancer(config, tasks, total_steps=100, valid_micro_batches=4)
    >>> sorted(balancer.needs)
    ['post_step_train_losses', 'train_losses']
    """
    _check_tasks(balancer_config, tasks)
    entry = BALANCERS[balancer_config.name]
    by_class = {kind: section for section, kind in sections(BALANCERS).items()}
    settings = None if entry.config is None else getattr(balancer_config, by_class[entry.config])
    run = RunFacts(tasks, total_steps, valid_micro_batches, balancer_config.signal)
    return regulate(
        entry.factory(settings, run),
        warmup_steps=balancer_config.warmup_steps,
        ema_decay=balancer_config.ema_decay,
        min_weight=balancer_config.min_weight,
    )


def _check_tasks(balancer_config: BalancerConfig, tasks: TaskTable) -> None:
    """Refuse a least weight too large for the tasks, and static weights that are not read."""
    least = balancer_config.min_weight
    if least * len(tasks) > 1:
        raise MftError(
            f"balancer.min_weight={least} is too large for {len(tasks)} tasks: "
            f"weights sum to 1; expected at most {1 / len(tasks):.3g}"
        )
    name = balancer_config.name
    if balancer_config.static.weights and name != "static":
        raise MftError(
            f"balancer.static.weights is read by 'static', not by {name!r}; remove it or choose "
            "balancer.name=static"
        )
