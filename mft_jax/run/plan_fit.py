"""`mft plan --fit`: settings that fit, and the fastest of them.

1. Every combination of the choices is estimated in a moment: seconds from its operations and
   traffic, and the least memory that it can need.
2. Those whose least memory is more than there is are left out.
3. The others are compiled, the fastest first. One that does not fit leaves out all that need more,
   and raises the estimates of the rest by as much as it was wrong.
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence

from mft_jax.config import TrainConfig
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.model_source import ModelSource
from mft_jax.models.config import ModelConfig
from mft_jax.run.base_model import BaseModelInfo
from mft_jax.run.plan import Plan, absent_mesh, work_of
from mft_jax.run.plan_chips import Chip
from mft_jax.run.plan_compiled import GIB
from mft_jax.run.plan_step import FROZEN, bytes_on_a_device, frozen_shapes, placed
from mft_jax.run.plan_times import PASSES, least_traffic
from mft_jax.sharding import MeshConfig
from mft_jax.types import MftError, Params
from mft_jax.weights.storage import STORAGE

MOMENTS = 3  # what is trained, and two moments of it
Shapes = tuple[Params, Params] | None  # of the frozen and of the trained weights
ENOUGH = 3  # that fit
SAME_SPEED = 0.02


@dataclasses.dataclass(frozen=True)
class Choices:
    """The values to choose from; empty: those that follow from the config."""

    rows: tuple[int, ...] = ()
    row_lengths: tuple[int, ...] = ()
    quantizations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A config, and its estimates: `seconds` of a step, the least `memory` of a device, and what
    it is `likely` to need, in bytes."""

    config: TrainConfig
    base: BaseModelInfo
    seconds: float
    memory: float
    likely: float
    frozen: int = 0  # bytes of the base on a device

    @property
    def tokens_per_second(self) -> float:
        return self.config.loop.rows_per_step * self.config.data.row_length / self.seconds

    @property
    def rows_in_a_device(self) -> int:
        loop, mesh = self.config.loop, self.config.mesh
        return loop.rows_per_step // (loop.micro_batches * mesh.data * mesh.fsdp)


def remat_words() -> tuple[object, ...]:
    """The values of `model.remat`, from what is kept to what is computed again, without `auto`."""
    kind = typing.get_type_hints(ModelSource)["remat"]
    if kind is bool:
        return (False, True)
    return tuple(word for word in _words(kind) if word != "auto")


def _words(kind: object) -> Iterator[object]:
    for value in typing.get_args(kind):
        yield from _words(value) if typing.get_args(value) else (value,)


def quantizations(config: TrainConfig) -> tuple[str, ...]:
    """The stored forms of a base that adapters are trained on."""
    return ("none", *STORAGE) if config.finetune.method != "full" else ("none",)


def meshes(base: BaseModelInfo, num_devices: int) -> Iterator[MeshConfig]:
    """Every split of the devices over the axes that divides the model."""
    model_config = base.model_config
    for tensor in _divisors(num_devices):
        split = (model_config.num_kv_heads, model_config.mlp_width, model_config.vocab_size)
        if any(size % tensor for size in split):
            continue
        for fsdp in _divisors(num_devices // tensor):
            if model_config.width % fsdp == 0:
                yield MeshConfig(num_devices // tensor // fsdp, fsdp, tensor)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def configs(
    config: TrainConfig, base: BaseModelInfo, num_devices: int, choices: Choices
) -> Iterator[TrainConfig]:
    """Every combination. The rows of a step are kept, and computed in more or fewer parts; only
    where they are fewer than the mesh divides them by, they become as many."""
    forms = choices.quantizations or quantizations(config)
    lengths = choices.row_lengths or (config.data.row_length,)
    totals = choices.rows or (config.loop.rows_per_step,)
    every = itertools.product(meshes(base, num_devices), totals, lengths, forms, remat_words())
    for mesh_config, total, length, form, remat in every:
        divisor = mesh_config.data * mesh_config.fsdp
        total = max(total, divisor)
        if total % divisor:
            continue
        valid = -(-config.loop.valid_rows // divisor) * divisor
        for micro_batches in _divisors(total // divisor):
            yield dataclasses.replace(
                config,
                mesh=mesh_config,
                model=dataclasses.replace(config.model, remat=remat),
                data=dataclasses.replace(config.data, row_length=length),
                finetune=_stored_as(config, form),
                loop=dataclasses.replace(
                    config.loop, rows_per_step=total, micro_batches=micro_batches, valid_rows=valid
                ),
            )


def _stored_as(config: TrainConfig, form: str) -> FinetuneConfig:
    tuning = config.finetune
    if tuning.method == "full" or (tuning.stored or "none") == form:
        return tuning
    method = "lora" if form == "none" else "qlora"
    return dataclasses.replace(tuning, method=method, quantization=form)


def candidates(
    found: Iterable[TrainConfig],
    base: BaseModelInfo,
    chip: Chip,
    num_devices: int,
    tokens_per_sample: int,
) -> list[Candidate]:
    """The configs with their estimates, the fastest first; of equally fast ones that which needs
    the least memory."""
    shapes: dict[object, tuple[BaseModelInfo, Shapes]] = {}
    stored: dict[tuple[object, ...], dict[str, int]] = {}
    every = []
    for config in found:
        form = (config.finetune.method, config.finetune.quantization)
        if form not in shapes:
            own = dataclasses.replace(base, tuning=_as_imported(config, base))
            shapes[form] = (own, _shapes(config, own))
        own, trees = shapes[form]
        key = (form, config.mesh)
        if key not in stored:
            stored[key] = _stored_bytes(config, own, trees)
        if held := stored[key]:
            length = min(tokens_per_sample, config.data.row_length)
            seconds = _seconds(config, own, chip, num_devices, held, length)
            least = _least_memory(config, own, held)
            likely = least + _workspace(config, own, held)
            every.append(Candidate(config, own, seconds, least, likely, held[FROZEN]))
    return sorted(every, key=lambda one: (-one.tokens_per_second, one.memory))


def _as_imported(config: TrainConfig, base: BaseModelInfo) -> FinetuneConfig:
    """The config's tuning with what the checkpoint's names and an adapter to continue from say."""
    known = base.tuning
    told = {"targets": known.targets, "rank": known.rank, "alpha": known.alpha, "dora": known.dora}
    return dataclasses.replace(config.finetune, rslora=known.rslora, **told)


def _shapes(config: TrainConfig, base: BaseModelInfo) -> Shapes:
    try:
        return frozen_shapes(config, base), base.trainable_shapes
    except MftError:  # this form cannot hold a weight
        return None


def _stored_bytes(config: TrainConfig, base: BaseModelInfo, trees: Shapes) -> dict[str, int]:
    """Bytes on a device; empty where this form or this mesh cannot hold a weight."""
    if trees is None:
        return {}
    mesh = absent_mesh(config.mesh)
    try:
        frozen, trained = (bytes_on_a_device(placed(base, mesh, tree)) for tree in trees)
    except MftError:  # this mesh does not divide a weight
        return {}
    return {FROZEN: frozen, "trained": trained}


def _seconds(
    config: TrainConfig,
    base: BaseModelInfo,
    chip: Chip,
    num_devices: int,
    stored: dict[str, int],
    tokens_per_sample: int,
) -> float:
    """Products at the peak, traffic of weights and activations, shards over all links: one after
    the other, so that what has less of one of them comes first."""
    compute = work_of(config, base, tokens_per_sample).total / num_devices / (chip.tflops * 1e12)
    memory = least_traffic(config, base, stored, num_devices) / (chip.memory_gbs * 1e9)
    mesh, loop = config.mesh, config.loop
    tokens = loop.rows_per_step * config.data.row_length / (num_devices // mesh.tensor)
    layers, width = base.model_config.num_layers, base.model_config.width
    gathered = PASSES * loop.micro_batches * stored[FROZEN] * (mesh.fsdp - 1)
    # Two sums of activations in a layer, forward and backward, each out and back.
    summed = 2 * PASSES * 2 * layers * tokens * width * 2 * (mesh.tensor - 1) / mesh.tensor
    links = chip.link_gbs * chip.links * 1e9
    return compute + memory + ((gathered + summed) / links if links else 0.0)


def _least_memory(config: TrainConfig, base: BaseModelInfo, stored: dict[str, int]) -> float:
    """Weights, moments, one gradient, and what layers keep for their backward pass."""
    loop, mesh = config.loop, config.mesh
    rows = loop.rows_per_step // (loop.micro_batches * mesh.data * mesh.fsdp)
    width = 2 if config.model.compute_dtype == "bfloat16" else 4
    tokens = rows * config.data.row_length
    kept = kept_features(base.model_config, config.model.remat, mesh.tensor)
    return stored[FROZEN] + (MOMENTS + 1) * stored["trained"] + tokens * width * kept


def _workspace(config: TrainConfig, base: BaseModelInfo, stored: dict[str, int]) -> float:
    """One layer's numbers in its backward pass, each with its cotangent, and the weights of two
    layers whole."""
    loop, mesh, model_config = config.loop, config.mesh, base.model_config
    rows = loop.rows_per_step // (loop.micro_batches * mesh.data * mesh.fsdp)
    layer = kept_features(model_config, "dots", mesh.tensor) / model_config.num_layers
    width = 2 if config.model.compute_dtype == "bfloat16" else 4
    gathered = stored[FROZEN] * mesh.fsdp / model_config.num_layers
    return 2 * (rows * config.data.row_length * width * layer + gathered)


def kept_features(model_config: ModelConfig, remat: object, tensor: int) -> float:
    """Numbers that all layers keep for a token, at least."""
    width, heads = model_config.width, model_config.num_heads * model_config.head_width
    keys = 2 * model_config.num_kv_heads * model_config.head_width
    attention = (2 * heads + keys) / tensor + width
    wide = 2 * model_config.mlp_width / tensor * (model_config.experts is None)
    match remat:
        case "none" | False:
            layer = 3 * width + attention + 1.5 * wide
        case "dots":
            layer = 2 * width + attention + wide
        case "inputs":
            layer = 2 * width + attention
        case "offload":
            layer = 0.0
        case _:
            layer = float(width)
    return model_config.num_layers * layer


@dataclasses.dataclass(frozen=True)
class Search:
    """What was compiled, in order. `left_out`: candidates whose estimate of memory is too much;
    `not_compiled`: the others."""

    plans: tuple[Plan, ...]
    left_out: int
    not_compiled: int
    smallest: Candidate

    @property
    def fitting(self) -> list[Plan]:
        """Those that fit, the fastest first: by the most that a step may take, then the least."""
        fits = [plan for plan in self.plans if plan.compiled.fits]
        return sorted(fits, key=lambda plan: tuple(-rate for rate in plan.speed.tokens))


def search(
    every: Sequence[Candidate],
    limit: float,
    most: int,
    compile_one: Callable[[Candidate, int, int], Plan],
) -> Search:
    """Compile at most `most` candidates, and stop at `ENOUGH` that fit. `compile_one(candidate,
    number, most)`."""
    possible = [one for one in every if one.memory <= limit]
    left, plans, factor = list(possible), [], 1.0
    while left and len(plans) < most and sum(plan.compiled.fits for plan in plans) < ENOUGH:
        likely = [one for one in left if one.likely * factor <= limit]
        # Nothing is likely any more: what needs the least may still do.
        chosen = likely[0] if likely else min(left, key=lambda one: one.likely)
        plan = compile_one(chosen, len(plans) + 1, most)
        plans.append(plan)
        left.remove(chosen)
        if plan.compiled.fits:
            left = [one for one in left if not _same_speed(one, chosen)]
        else:
            left = [one for one in left if not needs_more(one, chosen)]
            factor = max(factor, plan.compiled.memory / chosen.likely)
    smallest = min(every, key=lambda one: one.likely)
    return Search(tuple(plans), len(every) - len(possible), len(left), smallest)


def _same_speed(one: Candidate, other: Candidate) -> bool:
    """Whether they differ in what the estimate of speed cannot tell apart."""
    return math.isclose(one.tokens_per_second, other.tokens_per_second, rel_tol=SAME_SPEED)


def needs_more(one: Candidate, other: Candidate) -> bool:
    """Whether `one` differs from `other` only in what needs as much memory, or more."""
    words = remat_words()
    same = (
        one.config.mesh == other.config.mesh
        and one.frozen >= other.frozen
        and one.config.data.row_length >= other.config.data.row_length
    )
    keeps_more = words.index(one.config.model.remat) <= words.index(other.config.model.remat)
    return same and keeps_more and one.rows_in_a_device >= other.rows_in_a_device


SEARCHED = (
    "mesh.data", "mesh.fsdp", "mesh.tensor", "loop.rows_per_step", "loop.micro_batches",
    "loop.valid_rows", "data.row_length", "model.remat", "finetune.method",
    "finetune.quantization",
)  # fmt: skip


def changed_flags(config: TrainConfig, found: TrainConfig) -> list[str]:
    """What to type to get `found` from `config`."""
    flags = []
    for name in SEARCHED:
        room, _, setting = name.rpartition(".")
        old, new = (getattr(getattr(one, room), setting) for one in (config, found))
        if old != new:
            flags.append(f"--config.{name}={str(new).lower()}")
    return flags


def gib(nbytes: float) -> str:
    """
    >>> gib(3 * 2**29), gib(3 * 2**19)
    ('1.50', '0.0015')
    """
    size = nbytes / GIB
    return f"{size:,.2f}" if abs(size) >= 0.1 or not size else f"{size:.2g}"
