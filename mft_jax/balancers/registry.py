"""Balancers by name, and their settings."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from mft_jax.balancers.aligned_mtl import aligned_mtl
from mft_jax.balancers.base import Balancer, LossSignal
from mft_jax.balancers.cagrad import CagradConfig, cagrad
from mft_jax.balancers.coba import CobaConfig, coba
from mft_jax.balancers.coba_mftcoder import coba_mftcoder
from mft_jax.balancers.dualproj import dualproj
from mft_jax.balancers.dwa import DwaConfig, dwa
from mft_jax.balancers.fairgrad import FairgradConfig, fairgrad
from mft_jax.balancers.famo import FamoConfig, famo
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
from mft_jax.balancers.static import static
from mft_jax.balancers.uncertainty import UncertaintyConfig, uncertainty
from mft_jax.balancers.uniform import uniform
from mft_jax.balancers.upgrad import upgrad
from mft_jax.types import MftError, TaskTable, at_least

STATE_VERSION = 1  # of the balancers' states; a checkpoint of another one is refused

BalancerName = Literal[
    "uniform", "static", "rlw",
    "coba", "self_paced", "lbtw", "dwa", "uncertainty", "imtl_l", "geometric", "scale_invariant",
    "famo", "famo_valid",
    "gradnorm", "mgda", "pcgrad", "gradvac", "imtl_g", "cagrad", "aligned_mtl", "upgrad",
    "dualproj", "fairgrad", "nash_mtl", "metaweighting",
]  # fmt: skip
WITH_SIGNAL = ("famo", "gradnorm", "lbtw")
BY_GRADIENTS = (
    "gradnorm", "mgda", "pcgrad", "gradvac", "imtl_g", "cagrad", "aligned_mtl", "upgrad",
    "dualproj", "fairgrad", "nash_mtl", "metaweighting",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StaticConfig:
    """`weights` by task name, on any scale; 1 where not named."""

    weights: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BalancerConfig:
    """`signal`: the losses that famo, gradnorm and lbtw go by. For `warmup_steps`, `ema_decay` and
    `min_weight` see `regulate`. Gradients of all tasks may take `max_task_gradients_gib`, over all
    devices, before a balancer that needs them is refused.
    """

    name: BalancerName = "coba"
    signal: LossSignal = "train"
    warmup_steps: int = 0
    ema_decay: float = 0.0
    min_weight: float = 0.0
    max_task_gradients_gib: float = 8.0
    static: StaticConfig = StaticConfig()
    coba: CobaConfig = CobaConfig()
    self_paced: SelfPacedConfig = SelfPacedConfig()
    lbtw: LbtwConfig = LbtwConfig()
    dwa: DwaConfig = DwaConfig()
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    imtl_l: ImtlLConfig = ImtlLConfig()
    famo: FamoConfig = FamoConfig()
    gradnorm: GradnormConfig = GradnormConfig()
    gradvac: GradvacConfig = GradvacConfig()
    cagrad: CagradConfig = CagradConfig()
    fairgrad: FairgradConfig = FairgradConfig()
    metaweighting: MetaweightingConfig = MetaweightingConfig()

    def __post_init__(self) -> None:
        at_least("balancer", self, warmup_steps=0, ema_decay=0, min_weight=0)
        if not self.ema_decay < 1:
            raise MftError(f"balancer.ema_decay={self.ema_decay}: expected 0 up to, not with, 1")
        if self.signal == "valid" and self.name not in WITH_SIGNAL:
            raise MftError(
                f"balancer.signal='valid' is read by {', '.join(WITH_SIGNAL)}, not by "
                f"{self.name!r}; remove it"
            )

    def check(self, tasks: TaskTable) -> None:
        """What depends on the tasks."""
        if self.min_weight * len(tasks) > 1:
            raise MftError(
                f"balancer.min_weight={self.min_weight} is too large for {len(tasks)} tasks: "
                f"weights sum to 1; expected at most {1 / len(tasks):.3g}"
            )
        if self.static.weights and self.name != "static":
            raise MftError(
                f"balancer.static.weights is read by 'static', not by {self.name!r}; remove it"
            )
        tasks.values("balancer.static.weights", self.static.weights, default=1.0)


class _Run(NamedTuple):
    """What a balancer may have to know of the run."""

    tasks: TaskTable
    total_steps: int
    valid_micro_batches: int


_Make = Callable[[BalancerConfig, _Run], Balancer]


def _coba(config: BalancerConfig, run: _Run) -> Balancer:
    settings = config.coba
    warmup, history = settings.warmup_updates, settings.history_updates
    shared = dict(
        history_updates=max(2 * run.valid_micro_batches, 2) if history is None else history,
        warmup_updates=run.valid_micro_batches if warmup is None else warmup,
        max_updates=-(-run.total_steps // settings.update_every_steps),
        update_every_steps=settings.update_every_steps,
    )
    if settings.variant == "mftcoder":
        return coba_mftcoder(tau=settings.tau, **shared)
    return coba(tau=settings.tau, ablate=settings.ablate, variant=settings.variant, **shared)


def _static(config: BalancerConfig, run: _Run) -> Balancer:
    given = config.static.weights
    return static(weights=run.tasks.values("balancer.static.weights", given, default=1.0))


def _plain(make: Callable[..., Balancer]) -> _Make:
    return lambda config, run: make()


def _configured(make: Callable[..., Balancer], room: str, *shared: str) -> _Make:
    """From the fields of `config.<room>`, and `shared` fields of the config itself."""

    def made(config: BalancerConfig, run: _Run) -> Balancer:
        fields = dataclasses.asdict(getattr(config, room))
        return make(**fields, **{name: getattr(config, name) for name in shared})

    return made


def _famo_valid(config: BalancerConfig, run: _Run) -> Balancer:
    return famo(**dataclasses.asdict(config.famo), signal="valid")


BALANCERS: dict[str, _Make] = {
    "uniform": _plain(uniform),
    "static": _static,
    "rlw": _plain(rlw),
    "coba": _coba,
    "self_paced": _configured(self_paced, "self_paced"),
    "lbtw": _configured(lbtw, "lbtw", "signal"),
    "dwa": _configured(dwa, "dwa"),
    "uncertainty": _configured(uncertainty, "uncertainty"),
    "imtl_l": _configured(imtl_l, "imtl_l"),
    "geometric": _plain(geometric),
    "scale_invariant": _plain(scale_invariant),
    "famo": _configured(famo, "famo", "signal"),
    "famo_valid": _famo_valid,
    "gradnorm": _configured(gradnorm, "gradnorm", "signal"),
    "mgda": _plain(mgda),
    "pcgrad": _plain(pcgrad),
    "gradvac": _configured(gradvac, "gradvac"),
    "imtl_g": _plain(imtl_g),
    "cagrad": _configured(cagrad, "cagrad"),
    "aligned_mtl": _plain(aligned_mtl),
    "upgrad": _plain(upgrad),
    "dualproj": _plain(dualproj),
    "fairgrad": _configured(fairgrad, "fairgrad"),
    "nash_mtl": _plain(nash_mtl),
    "metaweighting": _configured(metaweighting, "metaweighting"),
}
assert set(BALANCERS) == set(get_args(BalancerName))


def make_balancer(
    config: BalancerConfig, tasks: TaskTable, *, total_steps: int, valid_micro_batches: int
) -> Balancer:
    """`valid_micro_batches` is M, the length of a pass over the validation data."""
    config.check(tasks)
    made = BALANCERS[config.name](config, _Run(tasks, total_steps, valid_micro_batches))
    return regulate(
        made,
        warmup_steps=config.warmup_steps,
        ema_decay=config.ema_decay,
        min_weight=config.min_weight,
    )
