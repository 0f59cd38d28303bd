"""The real training step of a config, lowered from shapes: no weight and no record is read."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mft_jax import sharding
from mft_jax.arrays import over_stack
from mft_jax.config import TrainConfig
from mft_jax.data.mixture import Mixture
from mft_jax.data.tasks import Tasks
from mft_jax.finetune.attach import store_weight
from mft_jax.huggingface.base_weights import read_model
from mft_jax.huggingface.folders import config_folder
from mft_jax.run import parts
from mft_jax.run.base_model import BaseModelInfo, describe
from mft_jax.run.console import Say
from mft_jax.types import Batch, Params, TaskTable
from mft_jax.weights.protocol import split_adapter

ONE_TASK = ("task",)
FROZEN = "frozen weights"


def described(config: TrainConfig, say: Say) -> BaseModelInfo:
    """The base model by its config.json alone. Raises `MftError`."""
    folder = config_folder(config.model.path)
    family, model_config = read_model(folder)
    return describe(config, folder, family, model_config, {}, say)


def stated_tasks(config: TrainConfig) -> Tasks:
    """The tasks by their names alone; what is counted in their data is as of equal tasks, all of
    whose tokens are trained on."""
    names = tuple(task.name for task in config.data.tasks) or ONE_TASK
    ones, rows = np.ones(len(names), np.int64), config.loop.rows_per_step
    tokens = np.full(len(names), rows * config.data.row_length / len(names))
    return Tasks(
        table=TaskTable(names),
        mixture=Mixture(ones, ones),
        rows_per_epoch=max(rows * config.loop.steps, 1),
        expected_counts={"token": tokens, "sample": np.full(len(names), rows / len(names))},
        valid_micro_batches=1,
    )


def frozen_shapes(config: TrainConfig, base: BaseModelInfo) -> Params:
    """Shapes and dtypes of the frozen weights as they are stored."""
    tuning, frozen = base.tuning, {}
    if tuning.method == "full":
        return frozen
    how = {"dtype": config.model.compute_dtype, "adapted": base.adapted}
    for path, info in base.infos.items():
        one = functools.partial(store_weight, tuning, info, **how)
        stored = jax.eval_shape(over_stack(one, len(info.stack)), info.struct)
        frozen[path] = split_adapter(stored)[0]
    return frozen


def placed(base: BaseModelInfo, mesh: Mesh, tree: Params) -> Params:
    """Shapes of weights or adapters by path, with their shardings."""
    shardings = sharding.tree_shardings(mesh, base.infos, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def bytes_on_a_device(tree: Any) -> int:
    """Bytes of a tree of placed shapes that each device holds, without padding."""
    sizes = (
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * bits(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )
    return sum(-(-size // 8) for size in sizes)


def bits(dtype: Any) -> int:
    """
    >>> import jax.numpy as jnp
    >>> bits(jnp.uint4), bits(jnp.bfloat16)
    (4, 16)
    """
    return jax.dtypes.itemsize_bits(dtype)


def batch_shapes(config: TrainConfig, mesh: Mesh) -> Iterator[Batch]:
    """The step's batch [A, B, L], and its validation batch [B, L]."""
    loop, length = config.loop, config.data.row_length
    micro_batch = loop.micro_batches, loop.rows_per_step // loop.micro_batches
    for rows in (micro_batch, (loop.valid_rows,)):
        where = sharding.batch_sharding(mesh, len(rows) - 1)
        ids, weights = (
            jax.ShapeDtypeStruct((*rows, length), dtype, sharding=where)
            for dtype in (np.int32, np.float32)
        )
        yield Batch(ids, ids, ids, ids, ids, weights)


class Lowered(NamedTuple):
    """The lowered step, the bytes of its arguments on each device by what they are, and the form
    of `model.remat` that was chosen."""

    step: Any
    parts: dict[str, int]
    remat: str


def lowered(config: TrainConfig, base: BaseModelInfo, mesh: Mesh, limit: int | None) -> Lowered:
    """The step on devices of which each has `limit` bytes; None where that is not known."""
    tasks = stated_tasks(config)
    parts.check_rows(config, mesh)
    parts.check_steps(config, base, tasks)
    functions = parts.build_step_functions(config, base, mesh, tasks, limit)
    frozen, state = placed(base, mesh, frozen_shapes(config, base)), functions.state_shapes
    trained = "weights" if base.tuning.method == "full" else "adapters"
    arguments = {
        FROZEN: bytes_on_a_device(frozen),
        trained: bytes_on_a_device(state.trainable),
        "optimiser's moments": bytes_on_a_device(state.opt_state),
    }
    step = functions.step.lower(state, frozen, *batch_shapes(config, mesh))
    return Lowered(step, arguments, functions.remat.remat)
