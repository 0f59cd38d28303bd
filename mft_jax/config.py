"""`TrainConfig` composes the rooms' settings; `default` and `resolve` are its two views.

A file in `configs/` gets a mutable `ConfigDict` from `default()`, changes it, and hands it to the
command line, where `--config.key=value` may change it again. `resolve` turns it into frozen
dataclasses, once, and refuses what the schema does not know.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ml_collections
from ml_collections import config_dict

from mft_jax.balancers.registry import BY_GRADIENTS, BalancerConfig
from mft_jax.data.tasks import DataConfig
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.losses import ObjectiveConfig
from mft_jax.optim import OptimConfig
from mft_jax.sharding import MeshConfig
from mft_jax.types import MftError, TaskTable, at_least


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """`path`: a Hugging Face folder, or `builtin:tiny`. `weights='random'` reads config and
    tokenizer alone. `remat` recomputes activations in the backward pass.
    """

    path: str = "builtin:tiny"
    weights: Literal["pretrained", "random"] = "pretrained"
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: bool = True


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Rows are packed rows of `data.row_length` tokens, counted over all devices.

    `micro_batches` splits the rows of a step (gradient accumulation); `valid_rows` is the
    balancer's validation micro-batch; `patience_evals=0` never stops early. Every
    `diagnose_every_steps` (0: never) the angles between the tasks' gradients are recorded.
    """

    steps: int = 1000
    rows_per_step: int = 8
    micro_batches: int = 1
    valid_rows: int = 8
    eval_every_steps: int = 100
    save_every_steps: int = 100
    log_every_steps: int = 10
    diagnose_every_steps: int = 0
    patience_evals: int = 0

    def __post_init__(self) -> None:
        counts = dict.fromkeys((field.name for field in dataclasses.fields(self)), 1)
        at_least("loop", self, **counts | {"patience_evals": 0, "diagnose_every_steps": 0})


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    seed: int = 0
    model: ModelSource = ModelSource()
    data: DataConfig = DataConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    balancer: BalancerConfig = BalancerConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    loop: LoopConfig = LoopConfig()

    def __post_init__(self) -> None:
        at_least("config", self, seed=0)
        if self.finetune.method == "full" and self.optim.lora_plus_ratio != 1:
            raise MftError(
                f"optim.lora_plus_ratio={self.optim.lora_plus_ratio:g} is about the B of adapters, "
                "but finetune.method='full' has none; expected 1"
            )
        if self.data.tasks:
            self._check_tasks(TaskTable(tuple(task.name for task in self.data.tasks)))

    def _check_tasks(self, tasks: TaskTable) -> None:
        """What rooms say of tasks by name, and of one another."""
        tasks.values("objective.alpha", self.objective.alpha, default=1.0)
        self.balancer.check(tasks)
        if self.data.sampling == "rates":
            tasks.values("data.rates", self.data.rates)
        if self.objective.normalization == "microbatch" and self.balancer.name in BY_GRADIENTS:
            raise MftError(
                "objective.normalization='microbatch' has no loss of a task over the whole batch, "
                f"so balancer.name={self.balancer.name!r} has no gradients of tasks to go by; "
                "choose normalization 'batch' or 'dataset'"
            )


# A run may be resumed with other values of these; all else decides what the numbers mean.
RESUMABLE = ("mesh", "loop.eval_every_steps", "loop.save_every_steps", "loop.log_every_steps",
             "loop.diagnose_every_steps", "loop.patience_evals")  # fmt: skip
# Where base model, adapter and data lie is free: what is there is compared by its content (see
# `run.folder`).
PLACES = re.compile(r"model\.path|finetune\.adapter|data\.tasks\.\d+\.(valid_)?path")


def default() -> Any:
    """The schema with its defaults as a `ConfigDict`, to be changed by a config file.

    `Any`, because a type checker cannot follow its attributes; `resolve` checks them.
    """
    return ml_collections.ConfigDict(_mirror(TrainConfig))


def resolve(config: ml_collections.ConfigDict | Mapping[str, Any]) -> TrainConfig:
    """Frozen dataclasses. Raises `MftError` on an unknown key or a value of the wrong kind."""
    return _build(TrainConfig, config, "")


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Folders of model and adapter by absolute paths: a run's folder is used from other places."""
    model = dataclasses.replace(config.model, path=_from_anywhere(config.model.path))
    tuning = config.finetune
    tuning = dataclasses.replace(tuning, adapter=_from_anywhere(tuning.adapter))
    return dataclasses.replace(config, model=model, finetune=tuning)


def _from_anywhere(path: str) -> str:
    """A folder that exists by its absolute path; other names (`builtin:`, hub) as they are."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if path and folder.exists() else path


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain JSON-able form; `resolve(to_dict(config)) == config`."""
    return dataclasses.asdict(config)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines 'key: old -> new' of settings that may not change between a run and its resumption."""
    left, right = _flatten(old), _flatten(new)
    return [
        f"{key}: {left.get(key)!r} -> {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
        and not any(key == free or key.startswith(free + ".") for free in RESUMABLE)
        and not PLACES.fullmatch(key)
    ]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key. Lists and tuples (of tasks, of patterns) count by position."""
    if isinstance(tree, Mapping):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def _mirror(schema: type) -> dict[str, Any]:
    hints = typing.get_type_hints(schema)
    mirror: dict[str, Any] = {}
    for field in dataclasses.fields(schema):
        kind, value = hints[field.name], _default(field)
        if dataclasses.is_dataclass(kind):
            mirror[field.name] = _mirror(typing.cast(type, kind))
        elif isinstance(kind, types.UnionType):  # `T | None`
            inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
            mirror[field.name] = config_dict.placeholder(inner[0])
        else:
            mirror[field.name] = value
    return mirror


def _default(field: dataclasses.Field) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _build(schema: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping | ml_collections.ConfigDict):
        raise MftError(f"{where or 'config'} is {values!r}; expected settings by name")
    hints = typing.get_type_hints(schema)
    known = {field.name for field in dataclasses.fields(schema)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(sorted(known))}"
            raise MftError(f"unknown setting {_dotted(where, key)!r}; {hint}")
    missing = [
        field.name
        for field in dataclasses.fields(schema)
        if _default(field) is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise MftError(f"{where or 'config'} has no {missing[0]!r}; it must be set")
    return schema(**{k: _convert(hints[k], values[k], _dotted(where, k)) for k in values})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, config_dict.FieldReference):
        value = value.get()
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in args:
            near = difflib.get_close_matches(str(value), args, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise MftError(f"{where}={value!r}: {hint}expected {' | '.join(map(repr, args))}")
        return value
    if isinstance(kind, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)][0]
        return None if value is None else _convert(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise MftError(f"{where}={value!r}: expected a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping | ml_collections.ConfigDict):
            raise MftError(f"{where}={value!r}: expected values by name, such as {{'name': 1.0}}")
        return {key: _convert(args[1], value[key], _dotted(where, key)) for key in value}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise MftError(f"{where}={value!r}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
